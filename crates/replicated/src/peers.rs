//! How replicas reach each other, and the library's view of it.

use std::sync::Arc;
use std::time::Duration;

use base::NodeId;
use bytes::Bytes;
use env::{BoxFuture, Env};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::Error;
use crate::parts::entry_bytes;
use crate::types::{Group, Manifest, Snapshot, Vote};
use crate::wire::{Appended, Ask, Candidacy, Reply, Request, Transfer, seal, unseal};

/// What a link is taken to carry at least: the limit of a large message grows with it.
const BYTES_PER_MS: u64 = 1024;
/// How long an offered snapshot may go without an answer.
const OFFER_LIMIT: Duration = Duration::from_secs(10);

/// Which bytes may wait for which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small and urgent: votes, heartbeats, entries of the log.
    Control,
    /// Many: the journal for a replica that is far behind. Must not hold up the other lane.
    Bulk,
}

/// Why a message got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no way to the node; trying again at once is of no use.
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// No answer within the limit; the message may have been taken.
    #[error("it did not answer in time")]
    TimedOut,
}

/// Carries messages between the replicas of a shard. Both ends are authenticated: whoever gives a
/// message to [`crate::Replica::handle`] knows which node sent it.
pub trait Peers: Send + Sync {
    /// Sends a message of at most [`crate::wire::MESSAGE_BYTES_MAX`] to the node's replica of the
    /// shard and gives its answer. Dropping the future gives it up.
    fn send(&self, to: NodeId, lane: Lane, message: Bytes, limit: Duration) -> BoxFuture<'_, Result<Bytes, SendError>>;
}

/// What every link of a replica shares.
pub(crate) struct Wires {
    pub env: Env,
    pub me: NodeId,
    pub token: [u8; 16],
    pub shard: u32,
    pub peers: Arc<dyn Peers>,
    /// How long a small message may take.
    pub limit: Duration,
}

impl Wires {
    /// Asks another replica.
    pub async fn ask(&self, to: NodeId, lane: Lane, ask: Ask, limit: Duration) -> Result<Reply, AskError> {
        let message = seal(&Request { token: self.token, shard: self.shard, ask });
        // The transport has the limit too, but ours is the one that must hold.
        let sent = self.env.timeout(limit, self.peers.send(to, lane, message, limit)).await;
        let bytes = sent.unwrap_or(Err(SendError::TimedOut))?;
        match unseal(&bytes) {
            Ok(Reply::Refused(why)) => Err(AskError::Refused(why)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(AskError::Garbage(error.to_string())),
        }
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("it refused: {0}")]
    Refused(String),
    #[error("its answer makes no sense: {0}")]
    Garbage(String),
    #[error("it answered something else")]
    Other,
}

impl AskError {
    pub fn at(self, node: NodeId) -> Error {
        match self {
            AskError::Garbage(why) => Error::Garbage { from: node, why },
            other => Error::Peer { node, why: other.to_string() },
        }
    }
}

/// Makes links.
#[derive(Clone)]
pub(crate) struct Links(pub Arc<Wires>);

/// The library's way to one replica.
pub(crate) struct Link {
    wires: Arc<Wires>,
    to: NodeId,
}

impl RaftNetworkFactory<Group> for Links {
    type Network = Link;

    async fn new_client(&mut self, to: NodeId, _node: &openraft::EmptyNode) -> Link {
        Link { wires: Arc::clone(&self.0), to }
    }
}

fn failed(wires: &Wires, to: NodeId, limit: Duration, action: RPCTypes, error: AskError) -> RPCError<Group> {
    match error {
        AskError::Send(SendError::TimedOut) => {
            RPCError::Timeout(Timeout { action, id: wires.me, target: to, timeout: limit })
        }
        AskError::Send(SendError::Unreachable(_)) | AskError::Refused(_) => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        AskError::Garbage(_) | AskError::Other => RPCError::Network(NetworkError::new(&error)),
    }
}

/// The question, its answer taken apart by `read`.
async fn call<T>(
    wires: &Wires,
    to: NodeId,
    ask: Ask,
    limit: Duration,
    action: RPCTypes,
    read: impl FnOnce(Reply) -> Option<T>,
) -> Result<T, RPCError<Group>> {
    let answer = wires.ask(to, Lane::Control, ask, limit).await;
    let value = answer.and_then(|reply| read(reply).ok_or(AskError::Other));
    value.map_err(|error| failed(wires, to, limit, action, error))
}

async fn append(
    wires: &Wires,
    to: NodeId,
    rpc: AppendEntriesRequest<Group>,
) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
    let bytes: usize = rpc.entries.iter().map(entry_bytes).sum();
    let limit = wires.limit + Duration::from_millis(bytes as u64 / BYTES_PER_MS);
    let ask =
        Ask::Append { vote: rpc.vote, previous: rpc.prev_log_id, commit: rpc.leader_commit, entries: rpc.entries };
    let done = call(wires, to, ask, limit, RPCTypes::AppendEntries, |reply| match reply {
        Reply::Appended(Appended::All) => Some(AppendEntriesResponse::Success),
        Reply::Appended(Appended::UpTo(last)) => Some(AppendEntriesResponse::PartialSuccess(last)),
        Reply::Appended(Appended::Conflict) => Some(AppendEntriesResponse::Conflict),
        Reply::Appended(Appended::Higher(vote)) => Some(AppendEntriesResponse::HigherVote(vote)),
        _ => None,
    })
    .await;
    #[cfg(feature = "lies")]
    if done.is_err() && crate::lies::tells(crate::lies::Lie::Acknowledged) {
        return Ok(AppendEntriesResponse::Success);
    }
    done
}

impl Link {
    async fn candidacy(
        &self,
        rpc: VoteRequest<Group>,
        ask: fn(Candidacy) -> Ask,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        let one = Candidacy { vote: rpc.vote, last: rpc.last_log_id, is_transfer: rpc.leadership_transfer };
        call(&self.wires, self.to, ask(one), self.wires.limit, RPCTypes::Vote, |reply| match reply {
            Reply::Voted { vote, is_granted, last } => Some(VoteResponse::new(vote, last, is_granted)),
            _ => None,
        })
        .await
    }
}

/// One append at a time is on its way to each replica, with everything that came since the last: the
/// library takes an answer out of order for a log that went backward.
impl RaftNetworkV2<Group> for Link {
    type SnapshotData = Manifest;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        append(&self.wires, self.to, rpc).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Group>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.candidacy(rpc, Ask::Vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Group>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.candidacy(rpc, Ask::PreVote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let (wires, to) = (Arc::clone(&self.wires), self.to);
        let offer = async move {
            // Offered again until it is in place: the other side fetches the journal meanwhile.
            loop {
                let ask = Ask::Offer {
                    vote,
                    last: snapshot.meta.last_log_id,
                    membership: snapshot.meta.last_membership.clone(),
                    manifest: snapshot.snapshot,
                };
                match wires.ask(to, Lane::Bulk, ask, OFFER_LIMIT).await {
                    Ok(Reply::Installed(vote)) => return Ok(SnapshotResponse::new(vote)),
                    Ok(Reply::Filling(head)) => {
                        tracing::debug!(shard = wires.shard, %to, %head, "a replica is being filled");
                    }
                    Ok(_) => return Err(StreamingError::Unreachable(Unreachable::new(&AskError::Other))),
                    Err(error) => return Err(StreamingError::Unreachable(Unreachable::new(&error))),
                }
            }
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            done = offer => done,
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Group>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Group>, RPCError<Group>> {
        let ask = Ask::Transfer { vote: *rpc.from_leader(), to: *rpc.to_node_id(), last: rpc.last_log_id().copied() };
        call(&self.wires, self.to, ask, self.wires.limit, RPCTypes::TransferLeader, |reply| match reply {
            Reply::Transfer(Transfer::Taken) => Some(Ok(())),
            Reply::Transfer(Transfer::VoteChanged { expected, actual }) => {
                Some(Err(TransferLeaderError::VoteChanged { expected, actual }))
            }
            Reply::Transfer(Transfer::Behind { expected, actual }) => {
                Some(Err(TransferLeaderError::LogNotFlushed { expected, actual }))
            }
            _ => None,
        })
        .await
    }
}
