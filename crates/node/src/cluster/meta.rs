//! What nodes ask the leader of a metadata shard, and how they find it.
//! docs/formats/metadata-wire.md has every byte.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use base::{Kind, NodeId, Seq, VolumeId, Wall};
use client::shard::Hint;
use codec::{Reader, Versioned, Writer};
use env::BoxFuture;
use metastore::remote::{Proposal, Rows, Wants};
use namespace::Outcome;
use namespace::wire::{Query, Tail};
use namespace::work::Work;
use replicated::Status;
use tokio::sync::watch;
use transport::{Body, Call, Caller, Class, Endpoint, Fault, Request, Response, Service, ServiceId};

use super::shard::MetaShard;

/// Metadata, on the wire. The head is the shard's number, the body an [`Ask`]; the answer's body an
/// [`Answer`].
pub const METADATA: ServiceId = ServiceId(17);

/// Bytes of a question or an answer at the most.
const BYTES_MAX: usize = 20 << 20;
/// What is larger goes over connections of its own, so that the small ones needn't wait for it.
const CONTROL_BYTES_MAX: usize = 128 << 10;
/// How long a leader may take to answer, and to take a question of so many bytes: a commit waits for a majority. What
/// is asked again later was perhaps done, and is done once even so.
const LIMIT: Duration = Duration::from_millis(2500);
/// The same for rows, which may be many: twice as long each time that none came, up to so many times.
const ROWS_DOUBLED_MAX: u32 = 2;
const BYTES_PER_MS: usize = 512;

/// What is asked of a shard's leader.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Rows of one consistent cut.
    Fetch {
        /// These.
        wants: Wants,
        /// And those that this query looks at.
        hint: Option<Hint>,
    },
    /// Work on a volume, to be done once.
    Work(Work),
    /// A batch, to be committed once if the rows are still those that it was made from.
    Propose {
        /// Names it.
        id: [u8; 16],
        /// When it was made.
        at: Wall,
        /// It.
        proposal: Proposal,
    },
    /// What the journal has of a volume.
    Tail {
        /// The volume.
        volume: VolumeId,
        /// Behind this place; nothing: where the journal ends.
        after: Option<Seq>,
    },
}

/// The rules' refusal of some work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal(pub namespace::Error);

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The rows.
    Rows(Rows),
    /// What the work came to.
    Done(Outcome),
    /// The rules say no.
    Refused(Refusal),
    /// The batch is durable.
    Changed,
    /// The rows have changed: look again.
    Stale,
    /// Another node leads, or nobody knows which; nothing was done here.
    Elsewhere(Option<NodeId>),
    /// It failed half-way: whether it was done will be found out by asking again.
    Open,
    /// Part of the journal.
    Tail(Tail),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Elsewhere(Some(node)) => write!(f, "node {node} leads"),
            Answer::Elsewhere(None) => f.write_str("nobody knows who leads"),
            Answer::Open => f.write_str("the leader lost its majority"),
            _ => f.write_str("a node answers what wasn't asked"),
        }
    }
}

impl Versioned for Ask {
    const NAME: &'static str = "metadata question";
    const MARK: [u8; 4] = *b"AbMq";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Ask::Fetch { wants, hint } => {
                to.u8(0).bytes(&wants.encode());
                to.option(hint.as_ref(), |to, (volume, query)| {
                    to.u32(volume.0).bytes(&query.encode());
                });
            }
            Ask::Work(work) => _ = to.u8(1).bytes(&work.encode()),
            Ask::Propose { id, at, proposal } => _ = to.u8(2).raw(id).u64(at.0).bytes(&proposal.encode()),
            Ask::Tail { volume, after } => {
                to.u8(3).u32(volume.0).option(*after, |to, after| _ = to.u64(after.0));
            }
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(match from.u8("question")? {
            0 => Ask::Fetch {
                wants: Wants::decode(from.bytes("wants", BYTES_MAX)?)?,
                hint: from.option("hint", |from| {
                    Ok((VolumeId(from.u32("volume")?), Query::decode(from.bytes("query", BYTES_MAX)?)?))
                })?,
            },
            1 => Ask::Work(Work::decode(from.bytes("work", BYTES_MAX)?)?),
            2 => Ask::Propose {
                id: from.array("id")?,
                at: Wall(from.u64("made at")?),
                proposal: Proposal::decode(from.bytes("proposal", BYTES_MAX)?)?,
            },
            3 => Ask::Tail {
                volume: VolumeId(from.u32("volume")?),
                after: from.option("after", |from| from.u64("after"))?.map(Seq),
            },
            value => return Err(codec::Error::Value { what: "question", value: value.into() }),
        })
    }
}

impl Versioned for Answer {
    const NAME: &'static str = "metadata answer";
    const MARK: [u8; 4] = *b"AbMa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Answer::Rows(rows) => _ = to.u8(0).bytes(&rows.encode()),
            Answer::Done(outcome) => _ = to.u8(1).bytes(&outcome.encode()),
            Answer::Refused(Refusal(error)) => _ = to.u8(2).bytes(&error.encode()),
            Answer::Changed => _ = to.u8(3),
            Answer::Stale => _ = to.u8(4),
            Answer::Elsewhere(leader) => {
                to.u8(5).option(*leader, |to, leader| _ = to.raw(&leader.0));
            }
            Answer::Open => _ = to.u8(6),
            Answer::Tail(tail) => _ = to.u8(7).bytes(&tail.encode()),
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(match from.u8("answer")? {
            0 => Answer::Rows(Rows::decode(from.bytes("rows", BYTES_MAX)?)?),
            1 => Answer::Done(Outcome::decode(from.bytes("outcome", BYTES_MAX)?)?),
            2 => Answer::Refused(Refusal(namespace::Error::decode(from.bytes("refusal", BYTES_MAX)?)?)),
            3 => Answer::Changed,
            4 => Answer::Stale,
            5 => Answer::Elsewhere(from.option("leader", |from| Ok(NodeId(from.array("leader")?)))?),
            6 => Answer::Open,
            7 => Answer::Tail(Tail::decode(from.bytes("part of a journal", BYTES_MAX)?)?),
            value => return Err(codec::Error::Value { what: "answer", value: value.into() }),
        })
    }
}

/// Answers for the shards of this node.
#[derive(Default)]
pub(crate) struct MetaService(RwLock<BTreeMap<u32, Weak<MetaShard>>>);

impl MetaService {
    /// The shard answers from now on.
    pub fn set(&self, shard: &Arc<MetaShard>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shard.number, Arc::downgrade(shard));
    }

    fn get(&self, shard: u32) -> Option<Arc<MetaShard>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&shard)?.upgrade()
    }
}

impl Service for MetaService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let invalid = |error: codec::Error| Fault::new(Kind::Invalid, error.to_string());
            let shard = Reader::new(&request.head).u32("shard").map_err(invalid)?;
            let body = request.body.collect(BYTES_MAX).await;
            let body = body.map_err(|error| Fault::new(Kind::Unreachable, error.to_string()))?;
            let ask = Ask::decode(&body).map_err(invalid)?;
            let answer = match self.get(shard) {
                Some(shard) => shard.answer(ask).await,
                None => Answer::Elsewhere(None),
            };
            let answer = answer.encode();
            if caller.class == Class::Control && answer.len() > wire_limit() {
                return Err(Fault::new(Kind::Invalid, TOO_LARGE));
            }
            Ok(Response::default().with_body(Body::of(vec![answer.into()])))
        })
    }
}

/// What an answer must not exceed on a control connection.
fn wire_limit() -> usize {
    1 << 20
}

/// Said by who has more to answer than a control connection takes.
const TOO_LARGE: &str = "the answer needs a connection of its own";

/// The way to whoever leads a shard.
pub(crate) struct Asker {
    endpoint: Endpoint,
    shard: u32,
    /// Who has replicas of it, as far as known.
    holders: watch::Receiver<BTreeMap<u32, Vec<NodeId>>>,
    /// Who answered last, or was named by who didn't lead.
    last: Mutex<Option<NodeId>>,
    /// Whom the replica here names in that term, though it was asked and didn't lead: a replica that left the group names
    /// the same one for ever.
    denied: Mutex<Option<(NodeId, u64)>>,
    turn: Mutex<usize>,
    /// Fetches in a row that no rows came for.
    late: AtomicU32,
}

impl Asker {
    pub fn new(endpoint: Endpoint, shard: u32, holders: watch::Receiver<BTreeMap<u32, Vec<NodeId>>>) -> Self {
        let (last, denied, turn) = Default::default();
        Self { endpoint, shard, holders, last, denied, turn, late: AtomicU32::new(0) }
    }

    pub fn me(&self) -> NodeId {
        self.endpoint.node()
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<NodeId>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self) -> std::sync::MutexGuard<'_, Option<(NodeId, u64)>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That node leads.
    pub fn heard(&self, leader: NodeId) {
        *self.last() = Some(leader);
    }

    /// Who led when it was last asked.
    pub fn leader(&self) -> Option<NodeId> {
        *self.last()
    }

    /// Who is asked next: who leads, as far as anybody said; or one holder after the other.
    fn next(&self, leader: Option<NodeId>) -> Option<NodeId> {
        let me = self.me();
        if let Some(node) = leader.or(*self.last()).filter(|node| *node != me) {
            return Some(node);
        }
        let holders = self.holders.borrow();
        let others: Vec<NodeId> = holders.get(&self.shard)?.iter().copied().filter(|node| *node != me).collect();
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = turn.wrapping_add(1);
        others.get(*turn % others.len().max(1)).copied()
    }

    /// Asks the leader; why it didn't answer, if it didn't. What was asked may have been done even so. `here` is what
    /// the replica of this node knows: once it names another leader the one that was asked isn't waited for.
    pub async fn ask(&self, ask: &Ask, here: Option<watch::Receiver<Status>>) -> Result<Answer, String> {
        let denied = *self.denied();
        let named = here.as_ref().and_then(|here| named(&here.borrow())).filter(|named| Some(*named) != denied);
        let to = self.next(named.map(|(leader, _)| leader)).ok_or("no other node is known to keep it")?;
        let question = ask.encode();
        let mut class = if question.len() > CONTROL_BYTES_MAX { Class::Small } else { Class::Control };
        let is_fetch = matches!(ask, Ask::Fetch { .. });
        let late = if is_fetch { self.late.load(Relaxed) } else { 0 };
        let limit = LIMIT * (1 << late.min(ROWS_DOUBLED_MAX));
        let asked = async {
            let answer = self.ask_one(to, &question, class, limit).await;
            if class == Class::Control && matches!(&answer, Err(why) if why.contains(TOO_LARGE)) {
                class = Class::Small;
                return self.ask_one(to, &question, class, limit).await;
            }
            answer
        };
        let (answer, has_moved) = tokio::select! {
            biased;
            answer = asked => (answer, false),
            () = moved(here, to, denied) => (Err("another node leads it now".into()), true),
        };
        if is_fetch && !has_moved {
            self.late.store(if answer.is_ok() { 0 } else { late + 1 }, Relaxed);
        }
        let leads = matches!(&answer, Ok(answer) if !matches!(answer, Answer::Elsewhere(_)));
        let mut denied = self.denied();
        match (*denied, named) {
            (Some((whom, _)), _) if leads && whom == to => *denied = None,
            (_, Some((whom, term))) if !leads && whom == to => *denied = Some((whom, term)),
            _ => {}
        }
        drop(denied);
        let mut last = self.last();
        *last = match &answer {
            Ok(Answer::Elsewhere(leader)) => leader.filter(|leader| *leader != to),
            Ok(_) => Some(to),
            Err(_) => last.filter(|last| *last != to),
        };
        answer
    }

    async fn ask_one(&self, to: NodeId, question: &[u8], class: Class, limit: Duration) -> Result<Answer, String> {
        let mut head = Writer::new();
        head.u32(self.shard);
        let body = Body::of(vec![bytes::Bytes::copy_from_slice(question)]);
        let limit = limit + Duration::from_millis((question.len() / BYTES_PER_MS) as u64);
        let call = Call::new(METADATA, class, head.finish()).with_body(body).with_timeout(limit);
        let answer = async { self.endpoint.call(to, call).await?.body.collect(BYTES_MAX).await };
        let answer = answer.await.map_err(|error| error.to_string())?;
        Answer::decode(&answer).map_err(|error| format!("node {to} answers garbage: {error}"))
    }
}

/// Who leads and in which term, as far as a replica knows.
fn named(here: &Status) -> Option<(NodeId, u64)> {
    here.leader.map(|leader| (leader, here.term))
}

/// Until the replica here names another leader than `from`, unless that was denied.
async fn moved(here: Option<watch::Receiver<Status>>, from: NodeId, denied: Option<(NodeId, u64)>) {
    let names_another = |here: &Status| named(here).is_some_and(|now| now.0 != from && Some(now) != denied);
    if let Some(mut here) = here
        && here.wait_for(names_another).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;
