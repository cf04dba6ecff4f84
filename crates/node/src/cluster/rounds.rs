//! What nodes tell each other of the groups as such: how often they were recovered, and what they had.
//!
//! A group that was founded anew ([`crate::recover`]) has another token, so that no old member is listened to. One
//! that comes back can't know that by itself: it asks. Whoever hears of a later round than its own has been left out.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::{Kind, NodeId};
use codec::{Reader, Versioned, Writer};
use env::BoxFuture;
use futures_util::future::join_all;
use replicated::Checkpoint;
use transport::{Body, Call, Caller, Class, Endpoint, Fault, Request, Response, Service, ServiceId};

use super::Kept;
use super::checkpoints::Sealed;
use crate::members::TOKENS_MAX;
use crate::node::Inner;

/// The groups, on the wire: the body is an [`Ask`], the answer's body an [`Answer`].
pub const GROUPS: ServiceId = ServiceId(22);

/// Bytes of a question or an answer at the most.
const BYTES_MAX: usize = 256 << 10;
/// How long an answer may take; while a node starts it waits for it.
const LIMIT: Duration = Duration::from_secs(1);

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Nothing: only the answer is wanted.
    Groups,
    /// What a group had, signed by the root key: to be kept.
    Keep(Sealed),
    /// What the node's replica of a shard has, to be signed: the answer is a [`replicated::Checkpoint`], or empty if
    /// it is at this entry of the log still.
    Had {
        /// The shard.
        shard: u32,
        /// The entry; 0 for none.
        than: u64,
    },
    /// How many shards of volumes the node leads: the answer is a u32.
    Leads,
}

/// What a node knows of the groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// How often they were recovered.
    pub round: u64,
    /// Their tokens.
    pub tokens: crate::members::Tokens,
    /// The shards of which this node has a replica that takes part.
    pub open: BTreeSet<u32>,
}

impl Versioned for Ask {
    const NAME: &'static str = "question about groups";
    const MARK: [u8; 4] = *b"AbGq";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Ask::Groups => _ = to.u8(0),
            Ask::Keep(sealed) => _ = to.u8(1).bytes(&sealed.encode()),
            Ask::Had { shard, than } => _ = to.u8(2).u32(*shard).u64(*than),
            Ask::Leads => _ = to.u8(3),
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(match from.u8("question")? {
            0 => Ask::Groups,
            1 => Ask::Keep(Sealed::decode(from.bytes("checkpoint", BYTES_MAX)?)?),
            2 => Ask::Had { shard: from.u32("shard")?, than: from.u64("entry")? },
            3 => Ask::Leads,
            value => return Err(codec::Error::Value { what: "question", value: value.into() }),
        })
    }
}

impl Versioned for Answer {
    const NAME: &'static str = "answer about groups";
    const MARK: [u8; 4] = *b"AbGa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.round);
        crate::members::put_tokens(to, &self.tokens);
        let len = self.open.len().min(TOKENS_MAX);
        to.u16(len as u16);
        self.open.iter().take(len).for_each(|shard| _ = to.u32(*shard));
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let (round, tokens) = (from.u64("round")?, crate::members::take_tokens(from)?);
        let len = usize::from(from.u16("shards")?);
        if len > TOKENS_MAX {
            return Err(codec::Error::TooLong { what: "shards", len, max: TOKENS_MAX });
        }
        let open = (0..len).map(|_| from.u32("shard")).collect::<Result<_, _>>()?;
        Ok(Self { round, tokens, open })
    }
}

/// Answers for this node.
#[derive(Default)]
pub(crate) struct GroupService(Mutex<Weak<Inner>>);

impl GroupService {
    /// Who answers.
    pub fn set(&self, inner: &Arc<Inner>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }
}

impl Service for GroupService {
    fn handle(&self, _: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let body = request.body.collect(BYTES_MAX).await;
            let body = body.map_err(|error| Fault::new(Kind::Unreachable, error.to_string()))?;
            let ask = Ask::decode(&body).map_err(|error| Fault::new(Kind::Invalid, error.to_string()))?;
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            let inner = inner.ok_or_else(|| Fault::new(Kind::Unreachable, "this node is still starting"))?;
            let fault = |error: crate::Error| Fault::new(base::Kinded::kind(&error), error.to_string());
            let answer = match ask {
                Ask::Groups => inner.groups_answer().encode(),
                Ask::Keep(sealed) => {
                    inner.keep_checkpoint(sealed).await.map_err(fault)?;
                    inner.groups_answer().encode()
                }
                Ask::Had { shard, than } => {
                    let had = inner.had_here(shard, than).await.map_err(fault)?;
                    had.map(|checkpoint| checkpoint.encode()).unwrap_or_default()
                }
                Ask::Leads => (inner.leads() as u32).to_le_bytes().to_vec(),
            };
            Ok(Response::default().with_body(Body::of(vec![answer.into()])))
        })
    }
}

/// Asks a node for the groups that it knows, or tells it of a checkpoint.
pub(crate) async fn ask(endpoint: &Endpoint, node: NodeId, ask: &Ask, limit: Duration) -> Result<Answer, String> {
    let answer = send(endpoint, node, ask, limit).await?;
    Answer::decode(&answer).map_err(garbage)
}

/// Asks a node what its replica of a shard has; nothing if it is where it was.
pub(crate) async fn ask_had(
    endpoint: &Endpoint,
    node: NodeId,
    (shard, than): (u32, u64),
    limit: Duration,
) -> Result<Option<Checkpoint>, String> {
    let answer = send(endpoint, node, &Ask::Had { shard, than }, limit).await?;
    if answer.is_empty() { Ok(None) } else { Checkpoint::decode(&answer).map(Some).map_err(garbage) }
}

/// Asks a node how many shards of volumes it leads.
pub(crate) async fn ask_leads(endpoint: &Endpoint, node: NodeId, limit: Duration) -> Result<usize, String> {
    let answer = send(endpoint, node, &Ask::Leads, limit).await?;
    let count = <[u8; 4]>::try_from(&answer[..]).map_err(|_| format!("it answers {} bytes", answer.len()))?;
    Ok(u32::from_le_bytes(count) as usize)
}

fn garbage(error: codec::Error) -> String {
    format!("it answers garbage: {error}")
}

async fn send(endpoint: &Endpoint, node: NodeId, ask: &Ask, limit: Duration) -> Result<bytes::Bytes, String> {
    let body = Body::of(vec![ask.encode().into()]);
    let call = Call::new(GROUPS, Class::Control, bytes::Bytes::new()).with_body(body).with_timeout(limit);
    let answer = async { endpoint.call(node, call).await?.body.collect(BYTES_MAX).await };
    answer.await.map_err(|error: transport::Error| error.to_string())
}

impl Inner {
    fn groups_answer(&self) -> Answer {
        let kept = self.cluster.get().map(|cluster| cluster.kept()).unwrap_or_default();
        let mut open = self.shards.all();
        open.retain(|shard| shard.replica().is_some_and(|replica| replica.quarantine().is_none()));
        Answer { round: kept.round, tokens: kept.tokens, open: open.iter().map(|shard| shard.number).collect() }
    }

    /// The nodes that are there, as far as known.
    pub(crate) fn other_nodes(&self) -> Vec<NodeId> {
        let Some(cluster) = self.cluster.get() else { return Vec::new() };
        let rows = self.look(|view| namespace::catalog::nodes(view, None, usize::from(u16::MAX))).unwrap_or_default();
        let known = rows.iter().filter(|row| row.state != namespace::catalog::NodeState::Removed).map(|row| row.id);
        let mut all: BTreeSet<NodeId> = known.collect();
        if all.is_empty() {
            all.extend(cluster.directory.nodes());
        }
        all.remove(&cluster.me);
        all.into_iter().collect()
    }

    /// Whether others know of a later round: all of them are asked, or one.
    pub(crate) async fn newer_round(&self, all: bool) -> Option<Kept> {
        let cluster = self.cluster.get()?;
        let mut nodes = self.other_nodes();
        if !all && !nodes.is_empty() {
            let at = u64::from_le_bytes(self.env.random()) as usize % nodes.len();
            nodes = vec![nodes[at]];
        }
        let asked = nodes.into_iter().map(|node| async move {
            let endpoint = &cluster.endpoint;
            self.env.timeout(LIMIT, ask(endpoint, node, &Ask::Groups, LIMIT)).await.and_then(Result::ok)
        });
        let answers = join_all(asked).await.into_iter().flatten();
        let newest = answers.max_by_key(|answer| answer.round)?;
        let is_newer = newest.round > cluster.kept().round;
        is_newer.then(|| Kept { round: newest.round, tokens: newest.tokens, ..Kept::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_groups_reads_back_and_garbage_is_refused() {
        let sealed = Sealed { made: base::Wall(5), signed: vec![1, 2, 3] };
        let answer = Answer { round: 3, tokens: [(0, [7; 16]), (1, [8; 16])].into(), open: [0, 9].into() };
        let asks = [
            (Ask::Groups, "416247710100"),
            (Ask::Keep(sealed), "416247710101140000004162437001050000000000000003000000010203"),
            (Ask::Had { shard: 9, than: 258 }, "416247710102090000000201000000000000"),
            (Ask::Leads, "416247710103"),
        ];
        for (ask, hex) in asks {
            let bytes = ask.encode();
            assert_eq!(base::ids::hex(&bytes), hex, "version 1 never changes");
            assert_eq!(Ask::decode(&bytes), Ok(ask));
            (0..bytes.len()).for_each(|cut| assert!(Ask::decode(&bytes[..cut]).is_err()));
        }
        let bytes = answer.encode();
        let hex = "4162476101030000000000000002000000000007070707070707070707070707070707010000000808080808080808080808080808080802000000000009000000";
        assert_eq!(base::ids::hex(&bytes), hex, "version 1 never changes");
        assert_eq!(Answer::decode(&bytes), Ok(answer));
        (0..bytes.len()).for_each(|cut| assert!(Answer::decode(&bytes[..cut]).is_err()));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0xff;
            let _ = Answer::decode(&wrong);
        }
    }
}
