//! How users fare, told to whoever repairs: its work gives way to them.
//!
//! Each node measures its own users, and knows what is usual for them while no work is done. Once a second it tells the node
//! that repairs for all, which says whether it is at work. That one takes the word of those who fare worst.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::{Instant, Kind, NodeId};
use bytes::Bytes;
use codec::{Reader, Versioned, Writer};
use env::BoxFuture;
use steward::UserLoad;
use transport::{Call, Caller, Class, Fault, Request, Response, Service, ServiceId};

use crate::fleet::lock;
use crate::node::{Inner, Node, VOLUMES};

/// The word, on the wire: the head of the call is a [`Word`], the head of the answer one byte, 1 if work is being done.
pub const USERS: ServiceId = ServiceId(27);

/// How long an answer may take: the next word comes in a second.
const LIMIT: Duration = Duration::from_secs(1);
/// A word is worth nothing after this.
const WORD_MAX: Duration = Duration::from_secs(3);
/// Idle seconds of which the usual one is taken.
const IDLE_KEPT: usize = 120;
/// With fewer requests in a second their slowest says little.
const REQUESTS_MIN: u64 = 5;

/// How users of a node fared in the last second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(UserLoad);

impl Versioned for Word {
    const NAME: &'static str = "word of users";
    const MARK: [u8; 4] = *b"AbUs";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let UserLoad { requests, p99, p99_idle } = self.0;
        to.u64(requests).u64(p99.as_micros() as u64).u64(p99_idle.as_micros() as u64);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let requests = from.u64("requests")?;
        let p99 = Duration::from_micros(from.u64("p99")?);
        Ok(Self(UserLoad { requests, p99, p99_idle: Duration::from_micros(from.u64("idle p99")?) }))
    }
}

/// What is known of users.
#[derive(Default)]
pub(crate) struct Users {
    /// The 99th percentiles of this node's users in seconds in which no work was done.
    idle: VecDeque<Duration>,
    /// Whether work is being done, as who does it said last.
    is_working: bool,
    /// What nodes said, if this one does the work.
    words: BTreeMap<NodeId, (Instant, UserLoad)>,
}

impl Users {
    /// The usual 99th percentile of idle seconds; zero if there were none.
    fn usual(&self) -> Duration {
        let mut idle: Vec<Duration> = self.idle.iter().copied().collect();
        idle.sort_unstable();
        idle.get(idle.len() / 2).copied().unwrap_or_default()
    }

    /// Takes a second of this node's users.
    fn measure(&mut self, requests: u64, p99: Duration) -> UserLoad {
        let is_told = requests >= REQUESTS_MIN;
        if is_told && !self.is_working {
            self.idle.push_back(p99);
            if self.idle.len() > IDLE_KEPT {
                self.idle.pop_front();
            }
        }
        UserLoad { requests: if is_told { requests } else { 0 }, p99, p99_idle: self.usual() }
    }

    /// Of all that is heard, those who fare worst beside what is usual for them.
    fn worst(&mut self, now: Instant, own: UserLoad) -> UserLoad {
        self.words.retain(|_, (at, _)| now.since(*at) < WORD_MAX);
        let slowed = |load: &UserLoad| match (load.requests, load.p99_idle.as_micros()) {
            (0, _) | (_, 0) => 0,
            (_, idle) => load.p99.as_micros() * 1000 / idle,
        };
        let all = self.words.values().map(|(_, load)| *load).chain([own]);
        all.max_by_key(|load| slowed(load)).unwrap_or(own)
    }
}

/// Takes the words of other nodes' users.
#[derive(Default)]
pub(crate) struct UsersService(Mutex<Weak<Inner>>);

impl UsersService {
    /// Whose store it is.
    pub fn set(&self, inner: &Arc<Inner>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }
}

impl Service for UsersService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            let inner = inner.filter(|inner| inner.leads_volumes());
            let inner = inner.ok_or_else(|| Fault::new(Kind::Unreachable, "this node doesn't repair"))?;
            let Word(load) =
                Word::decode(&request.head).map_err(|error| Fault::new(Kind::Invalid, error.to_string()))?;
            let (now, is_working) = (inner.env.clock.now(), inner.is_working());
            lock(&inner.users).words.insert(caller.node, (now, load));
            Ok(Response::new(vec![u8::from(is_working)]))
        })
    }
}

impl Inner {
    fn is_working(&self) -> bool {
        lock(&self.heal).steward.progress().pieces > 0
    }
}

impl Node {
    /// How users of this node fared in the last second: to be told once a second. Repair and moving of data give way.
    pub async fn hear_users(&self, requests: u64, p99: Duration) {
        let inner = &self.0;
        if inner.leads_volumes() {
            let load = {
                let is_working = inner.is_working();
                let mut users = lock(&inner.users);
                users.is_working = is_working;
                let own = users.measure(requests, p99);
                users.worst(inner.env.clock.now(), own)
            };
            lock(&inner.heal).steward.hear(load);
            inner.wake.notify_one();
            return;
        }
        let load = lock(&inner.users).measure(requests, p99);
        let leader = inner.shards.get(VOLUMES).and_then(|shard| shard.member()?.leads());
        let Some((cluster, leader)) = inner.cluster.get().zip(leader) else { return };
        let call = Call::new(USERS, Class::Control, Bytes::from(Word(load).encode())).with_timeout(LIMIT);
        if let Ok(answer) = cluster.endpoint.call(leader, call).await {
            lock(&inner.users).is_working = answer.head.first() == Some(&1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_is_usual_is_learnt_in_idle_seconds_only() {
        let mut users = Users::default();
        assert_eq!(users.measure(2, ms(900)).requests, 0, "two requests say nothing");
        for _ in 0..10 {
            users.measure(50, ms(10));
        }
        users.is_working = true;
        for _ in 0..200 {
            users.measure(50, ms(500));
        }
        assert_eq!(users.measure(50, ms(30)), UserLoad { requests: 50, p99: ms(30), p99_idle: ms(10) });
    }

    #[test]
    fn those_who_fare_worst_are_heard_and_old_words_are_not() {
        let mut users = Users::default();
        let load = |p99: u64, idle: u64| UserLoad { requests: 50, p99: ms(p99), p99_idle: ms(idle) };
        users.words.insert(NodeId([1; 16]), (Instant(0), load(100, 10)));
        users.words.insert(NodeId([2; 16]), (Instant(2_500_000_000), load(400, 100)));
        let own = load(30, 20);
        assert_eq!(users.worst(Instant(2_900_000_000), own), load(100, 10));
        assert_eq!(users.worst(Instant(3_100_000_000), own), load(400, 100));
        assert_eq!(users.worst(Instant(9_000_000_000), own), own);
    }

    /// docs/formats/metadata-wire.md, "Word of users".
    #[test]
    fn a_word_has_the_bytes_that_were_released() {
        let word = Word(UserLoad { requests: 3, p99: ms(2), p99_idle: ms(1) });
        let hex = "4162557301".to_owned() + "0300000000000000" + "d007000000000000" + "e803000000000000";
        assert_eq!(base::ids::hex(&word.encode()), hex);
        assert_eq!(Word::decode(&word.encode()).unwrap(), word);
    }
}
