//! Leading a shard: the [`ShardStore`] of a group, and what only a leader can do.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::kv::Batch;
use base::{Epoch, NodeId, Seq};
use metastore::{Cursor, Entry, Position, ShardStore, Snapshot, check_commit, weight};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use crate::Error;
use crate::replica::{Read, Replica, Shared, leader_of, members_failed};
use crate::types::{Answer, Change};

/// Bytes of batches in one log entry, unless it is a single batch.
const ENTRY_BYTES: usize = 4 * 1024 * 1024;
/// Entries that a learner may be behind when it gets a vote.
const BEHIND_MAX: u64 = 64;
/// Voters of a group at most.
const VOTERS_MAX: usize = 5;

/// The shard in the hands of this node. Whoever claimed it last owns it; as long as nobody else
/// claims it the same handle is good again after the leadership went and came back.
///
/// Its snapshots are of the rows as they are here. A commit finds out by itself whether they were
/// the newest; whoever answers a question from them, or refuses something because of them, calls
/// [`Leading::read_barrier`] first.
pub struct Leading {
    shared: Arc<Shared>,
    epoch: Epoch,
    broken: Mutex<Option<metastore::Error>>,
}

impl Replica {
    /// Takes the shard for this node, which must lead: earlier owners are fenced.
    ///
    /// # Errors
    /// [`metastore::Error::Elsewhere`] if another node leads, with its name.
    pub async fn lead(&self) -> Result<Arc<Leading>, Error> {
        let shared = Arc::clone(&self.shared);
        match shared.propose(Change::Claim, shared.settings.commit_limit).await? {
            Answer::Claimed(epoch, _) => Ok(Arc::new(Leading { shared, epoch, broken: Mutex::default() })),
            other => Err(unexpected(other)),
        }
    }

    /// Waits until the rows here have everything that was acknowledged anywhere before this call.
    ///
    /// # Errors
    /// [`Error::NoMajority`]; [`metastore::Error::Elsewhere`] if no leader is known;
    /// [`metastore::Error::Unfit`] if this copy must not be read.
    pub async fn read_barrier(&self, how: Read, limit: Duration) -> Result<Seq, Error> {
        Ok(self.shared.read_barrier(how, limit).await?.head)
    }

    /// Lets a node follow. It is filled from then on, without a vote. On the leader only, as are
    /// all changes of members.
    ///
    /// # Errors
    /// [`Error::Members`]; [`metastore::Error::Elsewhere`]; [`Error::NoMajority`].
    pub async fn add_learner(&self, node: NodeId, limit: Duration) -> Result<(), Error> {
        let shared = &self.shared;
        shared.state.check_quarantine()?;
        let added = shared.env.timeout(limit, shared.library.add_learner(node, openraft::EmptyNode {}, false)).await;
        let added = added.ok_or(Error::NoMajority { waited: limit })?;
        added.map(|_| ()).map_err(|error| members_failed(error, limit))
    }

    /// Makes these nodes the voters: five at the most. New ones follow as learners first, until
    /// they have nearly everything; who isn't among them leaves the group. Learners stay.
    ///
    /// # Errors
    /// As [`Replica::add_learner`]. What was done stays: the call can be repeated.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>, limit: Duration) -> Result<(), Error> {
        if voters.is_empty() || voters.len() > VOTERS_MAX {
            let why = format!("{} voters were asked for, a group has 1 to {VOTERS_MAX}", voters.len());
            return Err(Error::Members { why, is_transient: false });
        }
        let shared = &self.shared;
        let began = shared.env.clock.now();
        let status = self.status().borrow().clone();
        for voter in &voters {
            if !status.voters.contains(voter) && !status.learners.contains(voter) {
                self.add_learner(*voter, limit).await?;
            }
        }
        self.wait_until_close(&voters, limit).await?;
        let left = limit.saturating_sub(shared.env.clock.now().since(began));
        let changed = shared.env.timeout(left, shared.library.change_membership(voters, false)).await;
        let changed = changed.ok_or(Error::NoMajority { waited: limit })?;
        changed.map(|_| ()).map_err(|error| members_failed(error, limit))
    }

    /// Waits until each of the nodes has nearly everything that this leader has.
    async fn wait_until_close(&self, nodes: &BTreeSet<NodeId>, limit: Duration) -> Result<(), Error> {
        let me = self.shared.who.node;
        let mut metrics = self.shared.library.metrics();
        let close = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    if leader_of(&now) != Some(me) {
                        return Err(Error::elsewhere(leader_of(&now)));
                    }
                    let last = now.last_log_index.unwrap_or(0);
                    let has = |node: &NodeId| {
                        let matched = now.replication.as_ref().and_then(|all| all.get(node).copied().flatten());
                        *node == me || matched.is_some_and(|id| id.index + BEHIND_MAX >= last)
                    };
                    if nodes.iter().all(has) {
                        return Ok(());
                    }
                }
                metrics.changed().await.map_err(Error::stopped)?;
            }
        };
        let late = Error::Members { why: "new voters are still being filled".into(), is_transient: true };
        self.shared.env.timeout(limit, close).await.unwrap_or(Err(late))
    }

    /// Lets a node that only follows go.
    ///
    /// # Errors
    /// As [`Replica::add_learner`].
    pub async fn remove_learner(&self, node: NodeId, limit: Duration) -> Result<(), Error> {
        let shared = &self.shared;
        let change = ChangeMembers::RemoveNodes([node].into());
        let changed = shared.env.timeout(limit, shared.library.change_membership(change, false)).await;
        let changed = changed.ok_or(Error::NoMajority { waited: limit })?;
        changed.map(|_| ()).map_err(|error| members_failed(error, limit))
    }

    /// Hands the leadership to another voter and waits until this one sees it there.
    ///
    /// # Errors
    /// [`metastore::Error::Elsewhere`] if this one doesn't lead; [`Error::Peer`] if the other one
    /// didn't take it in time.
    pub async fn transfer(&self, to: NodeId, limit: Duration) -> Result<(), Error> {
        let shared = &self.shared;
        if !shared.is_leader() {
            return Err(Error::elsewhere(shared.leader()));
        }
        let mut status = self.status();
        if !status.borrow().voters.contains(&to) {
            return Err(Error::Members { why: format!("{to} has no vote"), is_transient: false });
        }
        shared.library.trigger().transfer_leader(to).await.map_err(Error::stopped)?;
        let moved = status.wait_for(|status| status.leader == Some(to));
        match shared.env.timeout(limit, moved).await {
            Some(moved) => moved.map(|_| ()).map_err(Error::stopped),
            None => Err(Error::Peer { node: to, why: "it did not take the lead in time".into() }),
        }
    }
}

fn unexpected(answer: Answer) -> Error {
    Error::Store(metastore::Error::Bug { what: format!("a change came to {answer}") })
}

impl Leading {
    /// As [`Replica::read_barrier`].
    ///
    /// # Errors
    /// As [`Replica::read_barrier`].
    pub async fn read_barrier(&self, how: Read, limit: Duration) -> Result<Seq, Error> {
        Ok(self.shared.read_barrier(how, limit).await?.head)
    }

    fn set_broken(&self, error: Option<metastore::Error>) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// One log entry's worth of batches.
    async fn commit_entry(&self, after: Seq, batches: Vec<Batch>, is_first: bool) -> Result<Seq, metastore::Error> {
        let change = Change::Commit { epoch: self.epoch, after, batches: Arc::new(batches) };
        let done = self.shared.propose(change, self.shared.settings.commit_limit).await;
        let error = match done {
            Ok(Answer::Committed(seq)) => return Ok(seq),
            Ok(Answer::Fenced(current)) => metastore::Error::Fenced { asked: self.epoch, current },
            Ok(Answer::Head(head)) => metastore::Error::Head { expected: after, head },
            Ok(other) => unexpected(other).into(),
            Err(error) => error.into(),
        };
        // What went before is there: this is not a call that changed nothing.
        if is_first || !error.is_clean() {
            Err(error)
        } else {
            Err(metastore::Error::Broken { why: error.to_string() })
        }
    }
}

/// Groups of batches, each for one log entry.
fn entries(batches: Vec<Batch>) -> Vec<Vec<Batch>> {
    let mut entries: Vec<Vec<Batch>> = Vec::new();
    let mut bytes = 0;
    for batch in batches {
        let size = weight(&batch);
        match entries.last_mut().filter(|_| bytes + size <= ENTRY_BYTES) {
            Some(last) => last.push(batch),
            None => {
                entries.push(vec![batch]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    entries
}

#[async_trait]
impl ShardStore for Leading {
    fn position(&self) -> (Epoch, Seq) {
        (self.epoch, self.shared.state.now().head)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, metastore::Error> {
        self.shared.state.check_fit()?;
        self.shared.state.store.snapshot()
    }

    async fn commit(&self, epoch: Epoch, expected: Seq, batches: Vec<Batch>) -> Result<Seq, metastore::Error> {
        if let Some(error) = &*self.broken.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.clone());
        }
        let seen = self.shared.state.now();
        check_commit(epoch, self.epoch.max(seen.epoch), expected, seen.head, &batches)?;
        if batches.is_empty() {
            return Ok(expected);
        }
        if let Some(error) = self.shared.ledger.full() {
            return Err(error);
        }
        // If this future is dropped half-way nobody knows what was agreed on.
        self.set_broken(Some(metastore::Error::Broken { why: "it was cut short".into() }));
        let mut head = expected;
        for (at, batches) in entries(batches).into_iter().enumerate() {
            match self.commit_entry(head, batches, at == 0).await {
                Ok(seq) => head = seq,
                Err(error) => {
                    let is_over = !error.is_clean() && !matches!(error, metastore::Error::Fenced { .. });
                    self.set_broken(is_over.then(|| metastore::Error::Broken { why: error.to_string() }));
                    return Err(error);
                }
            }
        }
        self.set_broken(None);
        Ok(head)
    }

    fn tail(&self, from: &Cursor, limit: usize) -> Result<Vec<Entry>, metastore::Error> {
        self.shared.state.check_fit()?;
        self.shared.state.store.tail(from, limit)
    }

    fn cursor(&self, seq: Seq) -> Cursor {
        self.shared.state.store.cursor(seq)
    }

    async fn checkpoint(&self) -> Result<Position, metastore::Error> {
        let place = self.shared.state.checkpoint().await?;
        self.shared.library.trigger().snapshot().await.map_err(Error::stopped)?;
        Ok(Position { seq: place.head })
    }
}
