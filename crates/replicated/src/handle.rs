//! Answering other replicas.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use base::{NodeId, Seq};
use bytes::Bytes;
use metastore::ShardStore;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use crate::Error;
use crate::peers::Lane;
use crate::replica::{Read, Shared};
use crate::types::{Group, Manifest, Snapshot, SnapshotMeta, Vote};
use crate::wire::{Appended, Ask, Candidacy, Reply, Request, Transfer, seal, unseal};

/// How long an offer waits for the journal before it is answered that it is on its way.
const OFFER_WAIT: Duration = Duration::from_secs(1);
/// Entries of the journal in one answer at most.
const TAIL_COUNT_MAX: usize = 4096;
/// Bytes of the journal in one answer at most, unless it is a single entry.
const TAIL_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// How long a chunk of the journal may take.
const CHUNK_LIMIT: Duration = Duration::from_secs(10);

impl Shared {
    pub async fn handle(self: &Arc<Self>, from: NodeId, message: &[u8]) -> Bytes {
        let reply = match unseal::<Request>(message) {
            Ok(request) => self.answer(from, request).await,
            Err(error) => Reply::Refused(error.to_string()),
        };
        seal(&reply)
    }

    async fn answer(self: &Arc<Self>, from: NodeId, request: Request) -> Reply {
        let refused = |why: &str| Reply::Refused(why.into());
        if request.shard != self.who.shard || request.token != self.wires.token {
            return refused("it is a replica of another group");
        }
        if let Some(why) = &*self.state.quarantine().borrow() {
            return Reply::Refused(format!("it is in quarantine: {why}"));
        }
        if let Some(speaker) = speaker(&request.ask)
            && speaker != from
        {
            return refused("nodes speak for themselves only");
        }
        match self.act(from, request.ask).await {
            Ok(reply) => reply,
            Err(Error::Store(metastore::Error::Elsewhere { leader })) => Reply::Elsewhere(leader),
            Err(error) => Reply::Refused(error.to_string()),
        }
    }

    async fn act(self: &Arc<Self>, from: NodeId, ask: Ask) -> Result<Reply, Error> {
        let library = &self.library;
        Ok(match ask {
            Ask::Append { vote, previous, commit, entries } => {
                let rpc = AppendEntriesRequest { vote, prev_log_id: previous, entries, leader_commit: commit };
                Reply::Appended(match library.append_entries(rpc).await.map_err(Error::stopped)? {
                    AppendEntriesResponse::Success => Appended::All,
                    AppendEntriesResponse::PartialSuccess(last) => Appended::UpTo(last),
                    AppendEntriesResponse::Conflict => Appended::Conflict,
                    AppendEntriesResponse::HigherVote(vote) => Appended::Higher(vote),
                })
            }
            Ask::Vote(one) => voted(library.vote(vote_request(one)).await.map_err(Error::stopped)?),
            Ask::PreVote(one) => voted(library.pre_vote(vote_request(one)).await.map_err(Error::stopped)?),
            Ask::Transfer { vote, to, last } => {
                let taken = library.handle_transfer_leader(TransferLeaderRequest::new(vote, to, last)).await;
                Reply::Transfer(match taken.map_err(Error::stopped)? {
                    Ok(()) => Transfer::Taken,
                    Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                        Transfer::VoteChanged { expected, actual }
                    }
                    Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                        Transfer::Behind { expected, actual }
                    }
                })
            }
            Ask::Offer { vote, last, membership, manifest } => {
                let meta = SnapshotMeta { last_log_id: last, last_membership: membership };
                self.offered(from, vote, meta, manifest).await?
            }
            Ask::Tail { after, bytes } => self.tail(after, bytes).await?,
            Ask::ReadIndex => Reply::ReadIndex(self.read_index(Read::Index).await?),
            Ask::Led(vote) => Reply::Led(self.is_led_by(vote).await?),
            Ask::Report { seq, digest } => {
                self.collect(from, seq, digest);
                Reply::Noted
            }
        })
    }

    /// Part of the journal, for a replica that is far behind.
    async fn tail(&self, after: Seq, bytes: u32) -> Result<Reply, Error> {
        self.state.check_fit()?;
        let store = Arc::clone(&self.state.store);
        let bytes = bytes.clamp(1, TAIL_BYTES_MAX) as usize;
        let read = move || {
            // The end is taken after: values that are missing were replaced by then.
            let entries = store.tail_bytes(&store.cursor(after), TAIL_COUNT_MAX, bytes)?;
            Ok::<_, metastore::Error>((store.position().1, entries))
        };
        let (end, mut entries) = self.env.blocking(read).await.map_err(metastore::Error::from)??;
        // The last one may have gone far over.
        if entries.len() > 1 && entries.iter().map(|entry| metastore::weight(&entry.batch)).sum::<usize>() > 2 * bytes {
            entries.pop();
        }
        Ok(Reply::Tail { end, entries })
    }

    /// The log doesn't reach back to what is here: fetches the journal from who offers it.
    async fn offered(
        self: &Arc<Self>,
        from: NodeId,
        vote: Vote,
        meta: SnapshotMeta,
        manifest: Manifest,
    ) -> Result<Reply, Error> {
        let is_filled = || self.state.store.position().1 >= manifest.head && self.state.check_fit().is_ok();
        if !is_filled() {
            let filled = self.filled.notified();
            self.fetch(from);
            // Answered anyway after a while, so that the other side sees that it goes on.
            self.env.timeout(OFFER_WAIT, filled).await;
        }
        if !is_filled() {
            return Ok(Reply::Filling(self.state.store.position().1));
        }
        let snapshot = Snapshot { meta, snapshot: manifest };
        let done = self.library.install_full_snapshot(vote, snapshot).await.map_err(Error::stopped)?;
        Ok(Reply::Installed(done.vote))
    }

    /// Fetches the journal from that node, unless it is being fetched from there. A node that offers
    /// it leads: an older source may never answer again, and is given up.
    fn fetch(self: &Arc<Self>, from: NodeId) {
        {
            let mut filling = self.filling();
            if *filling == Some(from) {
                return;
            }
            *filling = Some(from);
        }
        let shared = Arc::clone(self);
        self.env.spawn("replica fill", async move {
            if let Err(error) = shared.fill(from).await {
                tracing::info!(%error, %from, "filling a replica was cut short: it goes on from there");
            }
            let mut filling = shared.filling();
            if *filling == Some(from) {
                *filling = None;
            }
            drop(filling);
            shared.filled.notify_waiters();
        });
    }

    fn filling(&self) -> MutexGuard<'_, Option<NodeId>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the journal up to its end, chunk after chunk; each is durable before the next, so that
    /// it goes on where it was after whatever happens.
    async fn fill(&self, from: NodeId) -> Result<(), Error> {
        while *self.filling() == Some(from) {
            let after = self.state.store.position().1;
            let ask = Ask::Tail { after, bytes: self.settings.chunk_bytes };
            let reply = self.wires.ask(from, Lane::Bulk, ask, CHUNK_LIMIT).await.map_err(|error| error.at(from))?;
            let Reply::Tail { end, entries } = reply else {
                return Err(crate::peers::AskError::Other.at(from));
            };
            if entries.is_empty() {
                return Ok(());
            }
            let head = self.state.fill(end, entries).await?;
            if head >= end {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The node whose right a message claims.
fn speaker(ask: &Ask) -> Option<NodeId> {
    let vote = match ask {
        Ask::Append { vote, .. } | Ask::Transfer { vote, .. } | Ask::Offer { vote, .. } | Ask::Led(vote) => vote,
        Ask::Vote(one) | Ask::PreVote(one) => &one.vote,
        Ask::Tail { .. } | Ask::ReadIndex | Ask::Report { .. } => return None,
    };
    Some(vote.leader_id.node_id)
}

fn vote_request(one: Candidacy) -> VoteRequest<Group> {
    VoteRequest { vote: one.vote, last_log_id: one.last, leadership_transfer: one.is_transfer }
}

fn voted(response: VoteResponse<Group>) -> Reply {
    Reply::Voted { vote: response.vote, is_granted: response.vote_granted, last: response.last_log_id }
}
