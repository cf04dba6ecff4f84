//! Many clients on few keys, through any of several nodes, everything written down.
//!
//! A [`Face`] is how requests reach the nodes: a storm implements it over simulated sockets, a test
//! over a few lines of memory. [`Crowd::run`] drives it and records what it was told, for
//! [`crate::linear::check`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use env::Clock;

use crate::chance::Chance;
use crate::linear::{Call, Outcome, Recorder};

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys and the serials of their values.
    pub seen: BTreeMap<String, u64>,
    /// The last key, if more may come behind it.
    pub until: Option<String>,
}

/// How requests reach a bucket through one of its nodes, each tried once.
///
/// What is not known to have been done or not is [`Outcome::Unknown`]. A read that shows a value
/// which nobody can have written gives a serial that nobody uses, such as `u64::MAX`.
pub trait Face: Send + Sync {
    /// Writes the value with this serial.
    fn put(&self, node: usize, key: &str, value: u64) -> impl Future<Output = Outcome> + Send;
    /// Reads.
    fn get(&self, node: usize, key: &str) -> impl Future<Output = Outcome> + Send;
    /// Removes.
    fn delete(&self, node: usize, key: &str) -> impl Future<Output = Outcome> + Send;
    /// Writes if there is nothing (`If-None-Match: *`).
    fn put_if_absent(&self, node: usize, key: &str, value: u64) -> impl Future<Output = Outcome> + Send;
    /// Writes if the value with the serial `expected` is there (`If-Match`); that there is nothing
    /// is a failed precondition.
    fn put_if_match(&self, node: usize, key: &str, value: u64, expected: u64) -> impl Future<Output = Outcome> + Send;
    /// One page of the keys behind `after`; `None` if there is no answer.
    fn list(&self, node: usize, prefix: &str, after: &str) -> impl Future<Output = Option<Page>> + Send;
}

/// Who does what.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// Everything that is chosen follows from it.
    pub seed: u64,
    /// Clients at once.
    pub clients: u32,
    /// Nodes to choose from for each request.
    pub nodes: usize,
    /// What all keys begin with.
    pub prefix: String,
    /// Keys, all of them hot.
    pub keys: u64,
    /// Requests of each client at the most.
    pub requests: u64,
    /// Between two requests of a client at the most.
    pub pause: Duration,
    /// Serials are this one and those that follow: no other crowd on the same keys uses them.
    pub first_value: u64,
}

/// A client of the crowd.
struct Member<'a, F> {
    crowd: &'a Crowd,
    face: &'a F,
    recorder: &'a Recorder,
    values: &'a AtomicU64,
    number: u32,
    chance: Chance,
    /// What it last saw of each key.
    saw: BTreeMap<String, u64>,
}

impl Crowd {
    /// The key of a number.
    pub fn key(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Sends requests until each client has sent its own or `goes_on` says no.
    pub async fn run<F: Face>(
        &self,
        face: &F,
        recorder: &Recorder,
        clock: &Arc<dyn Clock>,
        goes_on: impl Fn() -> bool,
    ) {
        let values = AtomicU64::new(self.first_value);
        let members = (0..self.clients).map(|number| {
            let chance = Chance::new(self.seed ^ (u64::from(number) + 1) << 40);
            let mut member =
                Member { crowd: self, face, recorder, values: &values, number, chance, saw: BTreeMap::new() };
            let goes_on = &goes_on;
            async move {
                for _ in 0..self.requests {
                    let pause = self.pause.as_micros() as u64;
                    clock.sleep(Duration::from_micros(member.chance.below(pause + 1))).await;
                    if !goes_on() {
                        break;
                    }
                    member.step().await;
                }
            }
        });
        futures_util::future::join_all(members).await;
    }
}

impl<F: Face> Member<'_, F> {
    async fn step(&mut self) {
        let node = self.chance.below(self.crowd.nodes as u64) as usize;
        let key = self.crowd.key(self.chance.below(self.crowd.keys));
        let what = self.chance.below(100);
        if what >= 92 {
            return self.list(node).await;
        }
        let expected = self.saw.get(&key).copied();
        let value = || self.values.fetch_add(1, Ordering::Relaxed);
        let call = match (what, expected) {
            (0..25, _) => Call::Put(value()),
            (25..60, _) => Call::Get,
            (60..70, _) => Call::Delete,
            (70..80, _) => Call::PutIfAbsent(value()),
            (_, Some(expected)) => Call::PutIfMatch { value: value(), expected },
            (_, None) => Call::Get,
        };
        let ticket = self.recorder.begin(self.number, &key, call);
        let outcome = match call {
            Call::Put(value) => self.face.put(node, &key, value).await,
            Call::Get | Call::Head => self.face.get(node, &key).await,
            Call::Delete => self.face.delete(node, &key).await,
            Call::PutIfAbsent(value) => self.face.put_if_absent(node, &key, value).await,
            Call::PutIfMatch { value, expected } => self.face.put_if_match(node, &key, value, expected).await,
        };
        self.recorder.end(ticket, outcome);
        match (outcome, call.writes()) {
            (Outcome::Found(Some(value)), _) | (Outcome::Done, Some(value)) => {
                self.saw.insert(key, value);
            }
            _ => {}
        }
    }

    /// Page by page; each is a listing of its own.
    async fn list(&self, node: usize) {
        let mut after = String::new();
        loop {
            let ticket = self.recorder.begin_list(self.number, &self.crowd.prefix, &after);
            let Some(page) = self.face.list(node, &self.crowd.prefix, &after).await else { return };
            self.recorder.end_list(ticket, page.seen, page.until.clone());
            match page.until {
                // A page that doesn't go on ends the walk, whatever it says.
                Some(until) if until > after => after = until,
                _ => return,
            }
        }
    }
}
