//! One node's replica of a shard.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base::{Epoch, NodeId, Seq};
use crypt::MetaKey;
use env::Env;
use metastore::{Embedded, Entry, ShardStore};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Config, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::ledger::{Held, Ledger, SHARD_BIT};
use crate::parts::Identity;
use crate::peers::{Lane, Links, Peers, Wires};
use crate::polls::Polls;
use crate::runtime;
use crate::settings::{Places, Settings, log_options};
use crate::state::{Digested, Machine, Seen, State};
use crate::types::{Answer, Change, Group, LeaderId, LogId, Place, StoredMembership, membership};
use crate::watched;
use crate::wire::{Ask, Reply};

pub(crate) type Library = Raft<Group, Machine>;
type Metrics = openraft::RaftMetrics<Group>;

/// How often a replica looks after itself.
const LOOK: Duration = Duration::from_millis(250);
/// Places whose digests a leader collects at once.
const COLLECT_MAX: usize = 4;

/// How a replica begins its life, if its directories are empty. Later opens find out by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// As the first and only one of a new group. If the rows' directories hold a shard that was
    /// used alone until now, that is what the group begins with; nothing is copied.
    Found,
    /// As one of an existing group, with that token ([`Replica::token`]). A leader must add it, and
    /// fills it. A node that lost its directories is removed from the group before it joins again:
    /// it may have voted.
    Join {
        /// The group's.
        token: [u8; 16],
    },
    /// Not at all: the directories must hold a replica.
    Existing,
}

/// Which node's replica of which shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// This node.
    pub node: NodeId,
    /// The shard's number.
    pub shard: u32,
}

/// How a replica and its group are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads, as far as this one knows.
    pub leader: Option<NodeId>,
    /// Whether this one leads.
    pub is_leader: bool,
    /// The round.
    pub term: u64,
    /// Who votes. During a change of voters the old and the new ones.
    pub voters: Vec<NodeId>,
    /// How many there are; during a change of voters in the smaller one of the two sets, both of which must agree.
    pub fewest: usize,
    /// Who follows without a vote.
    pub learners: Vec<NodeId>,
    /// The last log entry here.
    pub last_index: u64,
    /// The last one whose effects are in the rows.
    pub applied_index: u64,
    /// On a leader: the last log entry that each other one has.
    pub matched: BTreeMap<NodeId, u64>,
    /// The last place at which the rows here were found to be those of the majority.
    pub compared: Seq,
    /// Why it stopped, if it did.
    pub stopped: Option<String>,
}

pub(crate) struct Shared {
    pub env: Env,
    pub who: Who,
    pub settings: Settings,
    pub library: Library,
    pub ledger: Ledger,
    pub state: Arc<State>,
    pub wires: Arc<Wires>,
    status: watch::Sender<Status>,
    /// Digests of the replicas, on a leader.
    collected: Mutex<BTreeMap<Seq, BTreeMap<NodeId, [u8; 32]>>>,
    is_closed: AtomicBool,
    /// The log index of the last checkpoint, and of the last comparison.
    checkpointed: AtomicU64,
    checked: AtomicU64,
    /// From whom the journal is being fetched.
    pub filling: Mutex<Option<NodeId>>,
    pub filled: tokio::sync::Notify,
    pub polls: Polls,
}

/// One node's replica of a shard. Dropping it stops it; nothing that was acknowledged is lost.
pub struct Replica {
    pub(crate) shared: Arc<Shared>,
    /// Whoever waits for its end stops the library.
    _alive: watch::Sender<()>,
}

/// The stores and what they hold.
pub(crate) struct Opened {
    pub rows: Arc<Embedded>,
    pub ledger: Ledger,
    pub held: Held,
}

pub(crate) async fn open_stores(
    env: &Env,
    shard: u32,
    key: &MetaKey,
    places: Places,
    settings: &Settings,
) -> Result<Opened, Error> {
    let log =
        Embedded::open(env, shard | SHARD_BIT, places.log, key, places.log_expected, log_options(settings.log.clone()))
            .await?;
    let rows = Embedded::open(env, shard, places.rows, key, places.rows_expected, settings.rows.clone()).await?;
    let (ledger, held) = Ledger::open(env, log).await?;
    Ok(Opened { rows, ledger, held })
}

/// The place with which a group begins on its first replica.
fn first_place(node: NodeId, rows: &Embedded) -> Place {
    let (epoch, head) = rows.position();
    let first = LogId { leader_id: LeaderId { term: 0, node_id: node }, index: 1 };
    let members = StoredMembership::new(Some(first), membership([node].into()));
    Place { applied: Some(first), head, epoch, membership: members, whole: Seq(0) }
}

/// Whose replica it is, from what the directories hold and what the caller wants.
async fn begin(who: Who, begin: Begin, env: &Env, opened: &mut Opened) -> Result<Identity, Error> {
    let foreign = |what: String| Err(Error::Foreign { what });
    let held = opened.held.identity;
    let identity = match (held, begin) {
        (Some(held), Begin::Join { token }) if held.token != token => {
            return foreign(format!(
                "the directories hold a replica of another group of shard {}: empty them",
                who.shard
            ));
        }
        (Some(held), _) if (held.node, held.shard) != (who.node, who.shard) => {
            return foreign(format!("the directories hold node {}'s replica of shard {}", held.node, held.shard));
        }
        (Some(held), _) => return Ok(held),
        (None, Begin::Existing) => return foreign(format!("no replica of shard {} is here", who.shard)),
        (None, Begin::Join { token }) => {
            let head = opened.rows.position().1;
            if head > Seq(0) {
                return foreign(format!("a shard with {head} batches lies where a replica is to begin: empty it"));
            }
            Identity { token, node: who.node, shard: who.shard }
        }
        (None, Begin::Found) => Identity { token: env.random(), node: who.node, shard: who.shard },
    };
    let place = matches!(begin, Begin::Found).then(|| first_place(who.node, &opened.rows));
    opened.ledger.found(identity, place.as_ref(), None).await?;
    opened.held = Held { identity: Some(identity), place, quarantine: None };
    Ok(identity)
}

fn config(settings: &Settings, who: Who) -> Result<Arc<Config>, Error> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: format!("shard {}", who.shard),
        heartbeat_interval: ms(settings.heartbeat),
        election_timeout_min: ms(settings.election_min),
        election_timeout_max: ms(settings.election_max),
        // We say when: by bytes as well.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: settings.keep_entries,
        replication_lag_threshold: u64::MAX,
        purge_batch_size: 64,
        enable_pre_vote: Some(true),
        // A restarted leader knows nothing of what happened meanwhile: it is elected like others.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        ..Config::default()
    };
    let config =
        config.validate().map_err(|error| Error::Foreign { what: format!("the settings make no sense: {error}") })?;
    Ok(Arc::new(config))
}

impl Replica {
    /// Opens a replica and lets it take part.
    ///
    /// # Errors
    /// Those of the stores; [`Error::Foreign`] if the directories hold something else.
    pub async fn open(
        env: &Env,
        who: Who,
        key: &MetaKey,
        places: Places,
        how: Begin,
        peers: Arc<dyn Peers>,
        settings: Settings,
    ) -> Result<Arc<Self>, Error> {
        runtime::seed(env);
        let config = config(&settings, who)?;
        let mut opened = open_stores(env, who.shard, key, places, &settings).await?;
        let identity = begin(who, how, env, &mut opened).await?;
        let Opened { rows, ledger, held } = opened;
        let place = held.place.unwrap_or_default();
        let checkpointed = place.applied.map_or(0, |id| id.index);
        let is_alone = place.membership.voter_ids().eq([who.node]);
        let (state, digests) = State::new(env, rows, ledger.clone(), place, held.quarantine);
        let wires = Arc::new(Wires {
            env: env.clone(),
            me: who.node,
            token: identity.token,
            shard: who.shard,
            peers,
            limit: settings.message_limit,
        });
        let machine = Machine(Arc::clone(&state));
        let library = Raft::build(who.node, config, Links(Arc::clone(&wires)), ledger.clone(), machine)
            .await
            .map_err(Error::stopped)?;
        if state.quarantine().borrow().is_none() {
            library.run();
        }
        let shared = Arc::new(Shared {
            env: env.clone(),
            who,
            settings,
            library,
            ledger,
            state,
            wires,
            status: watch::channel(Status::default()).0,
            collected: Mutex::default(),
            is_closed: AtomicBool::new(false),
            checkpointed: AtomicU64::new(checkpointed),
            checked: AtomicU64::new(checkpointed),
            filling: Mutex::new(None),
            filled: tokio::sync::Notify::new(),
            polls: Polls::new(),
        });
        let alive = watch::channel(()).0;
        shared.start(digests, alive.subscribe());
        if is_alone {
            // Nobody else could be asked: no reason to wait.
            let _ = shared.library.trigger().elect(false).await;
        }
        Ok(Arc::new(Self { shared, _alive: alive }))
    }

    /// What all replicas of the group know, and nobody else: whoever joins needs it.
    pub fn token(&self) -> [u8; 16] {
        self.shared.wires.token
    }

    /// How it is, and how it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Who votes, and who only follows, by the log as it is at this moment: [`Replica::status`] may say it a moment later.
    pub fn members(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let metrics = self.shared.library.metrics();
        let now = metrics.borrow_watched();
        let members = &now.membership_config;
        (members.voter_ids().collect(), members.membership().learner_ids().collect())
    }

    /// The store of the rows: for what concerns this node alone, such as its mirrors.
    pub fn rows(&self) -> &Arc<Embedded> {
        &self.shared.state.store
    }

    /// The store of the log: likewise.
    pub fn log(&self) -> &Arc<Embedded> {
        self.shared.ledger.store()
    }

    /// Where the journal ends here, and the epoch there.
    pub fn position(&self) -> (Epoch, Seq) {
        let seen = self.shared.state.now();
        (seen.epoch, seen.head)
    }

    /// Why this copy must not be used, if it contradicted the majority's.
    pub fn quarantine(&self) -> Option<String> {
        self.shared.state.quarantine().borrow().clone()
    }

    /// The rows as they are here. They may be older than what others have acknowledged: see
    /// [`Replica::read_barrier`].
    ///
    /// # Errors
    /// [`metastore::Error::Unfit`] if this copy is being filled or was put in quarantine.
    pub fn snapshot(&self) -> Result<Box<dyn metastore::Snapshot>, Error> {
        self.shared.state.check_fit()?;
        Ok(self.shared.state.store.snapshot()?)
    }

    /// The journal as far as it is here: as [`ShardStore::tail`].
    ///
    /// # Errors
    /// As [`ShardStore::tail`].
    pub fn tail(&self, from: &metastore::Cursor, limit: usize) -> Result<Vec<Entry>, Error> {
        self.shared.state.check_fit()?;
        Ok(self.shared.state.store.tail(from, limit)?)
    }

    /// Takes a message of another node, as [`Peers`] carries it, and gives the answer. `from` is who
    /// sent it, proven.
    pub async fn handle(&self, from: NodeId, message: &[u8]) -> bytes::Bytes {
        self.shared.handle(from, message).await
    }

    /// Makes the rows durable by themselves and forgets log entries that are not needed any more.
    ///
    /// # Errors
    /// If no mirror could be written.
    pub async fn checkpoint(&self) -> Result<Seq, Error> {
        let place = self.shared.state.checkpoint().await?;
        self.shared.library.trigger().snapshot().await.map_err(Error::stopped)?;
        Ok(place.head)
    }

    /// Stops it, durably. Others go on without it.
    ///
    /// # Errors
    /// If no mirror could be written; all that was acknowledged is in the log even so.
    pub async fn close(&self) -> Result<(), Error> {
        let shared = &self.shared;
        shared.is_closed.store(true, Ordering::SeqCst);
        shared.library.shutdown().await.map_err(Error::stopped)?;
        let saved = shared.state.checkpoint().await;
        let rows = shared.state.store.close().await;
        let log = shared.ledger.store().close().await;
        saved?;
        rows?;
        Ok(log?)
    }
}

impl Shared {
    fn start(self: &Arc<Self>, digests: mpsc::Receiver<Digested>, alive: watch::Receiver<()>) {
        let weak = Arc::downgrade(self);
        self.env.spawn("replica status", follow_status(weak.clone(), self.library.clone(), self.state.seen()));
        self.env.spawn("replica upkeep", look_after(weak.clone()));
        self.env.spawn("replica digests", report(weak.clone(), digests));
        self.env.spawn("replica end", stop(self.library.clone(), self.state.quarantine(), alive));
    }

    pub fn leader(&self) -> Option<NodeId> {
        leader_of(&self.library.metrics().borrow_watched())
    }

    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.who.node)
    }

    /// Has a change agreed on, and gives what it came to.
    pub async fn propose(&self, change: Change, limit: Duration) -> Result<Answer, Error> {
        self.state.check_quarantine()?;
        match self.env.timeout(limit, self.library.client_write(change)).await {
            None => Err(Error::NoMajority { waited: limit }),
            Some(Ok(response)) => Ok(response.data),
            Some(Err(error)) => Err(not_written(error, limit)),
        }
    }

    pub async fn read_barrier(self: &Arc<Self>, how: Read, limit: Duration) -> Result<Seen, Error> {
        #[cfg(feature = "lies")]
        if self.is_leader() && crate::lies::tells(crate::lies::Lie::StaleRead) {
            return Ok(self.state.now());
        }
        let wait = async {
            let index = if self.is_leader() {
                self.read_index(how).await?
            } else {
                let leader = self.leader().ok_or_else(|| Error::elsewhere(None))?;
                match self.wires.ask(leader, Lane::Control, Ask::ReadIndex, self.settings.message_limit).await {
                    Ok(Reply::ReadIndex(index)) => index,
                    Ok(Reply::Elsewhere(leader)) => return Err(Error::elsewhere(leader)),
                    Ok(_) => return Err(crate::peers::AskError::Other.at(leader)),
                    Err(error) => return Err(error.at(leader)),
                }
            };
            let reached = self.state.seen().until(|seen| seen.index >= index).await;
            reached.ok_or_else(|| Error::stopped("its rows are closed"))
        };
        let seen = self.env.timeout(limit, wait).await.unwrap_or(Err(Error::NoMajority { waited: limit }))?;
        self.state.check_fit()?;
        Ok(seen)
    }

    /// On a leader: up to where must be applied before a read. Without a lease a majority is asked.
    pub async fn read_index(self: &Arc<Self>, how: Read) -> Result<u64, Error> {
        if how == Read::Lease
            && let Ok(linearizer) = self.library.get_read_linearizer(ReadPolicy::LeaseRead).await
        {
            return Ok(linearizer.read_log_id().index());
        }
        self.asked_index().await
    }

    /// The same as the library finds it out.
    pub async fn library_index(&self) -> Result<u64, Error> {
        match self.library.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(Error::elsewhere(forward.leader_id))
            }
            Err(RaftError::APIError(error)) => {
                tracing::debug!(%error, "no majority for a read");
                Err(Error::NoMajority { waited: self.settings.message_limit })
            }
            Err(RaftError::Fatal(error)) => Err(Error::stopped(error)),
        }
    }

    fn collected(&self) -> MutexGuard<'_, BTreeMap<Seq, BTreeMap<NodeId, [u8; 32]>>> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica's digest, on a leader: once most voters agree it is everybody's.
    pub fn collect(self: &Arc<Self>, from: NodeId, at: Seq, digest: [u8; 32]) {
        let voters: Vec<NodeId> = {
            let metrics = self.library.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.voter_ids().collect()
        };
        let agreed = {
            let mut collected = self.collected();
            let of = collected.entry(at).or_default();
            of.insert(from, digest);
            let same = voters.iter().filter(|voter| of.get(voter) == Some(&digest)).count();
            while collected.len() > COLLECT_MAX {
                collected.pop_first();
            }
            same * 2 > voters.len()
        };
        if agreed && voters.contains(&from) {
            let shared = Arc::clone(self);
            self.env.spawn("replica verdict", async move {
                let verdict = Change::Verdict { seq: at, digest };
                if let Err(error) = shared.propose(verdict, shared.settings.commit_limit).await {
                    tracing::debug!(%error, "a verdict on the rows was not agreed on: the next one will be");
                }
            });
        }
    }

    /// Forgets the log's beginning and compares the rows when it is time.
    async fn look(&self) {
        let seen = self.state.now();
        let since = seen.index.saturating_sub(self.checkpointed.load(Ordering::Relaxed));
        let is_large = self.ledger.since(false) >= self.settings.checkpoint_bytes;
        if since > 0 && (is_large || since >= self.settings.checkpoint_entries) {
            self.checkpointed.store(seen.index, Ordering::Relaxed);
            self.ledger.since(true);
            if let Err(error) = self.library.trigger().snapshot().await {
                tracing::debug!(%error, "no checkpoint: the replica has stopped");
            }
        }
        let since = seen.index.saturating_sub(self.checked.load(Ordering::Relaxed));
        let every = self.settings.digest_entries;
        if every > 0 && since >= every {
            self.checked.store(seen.index, Ordering::Relaxed);
            if self.is_leader()
                && let Err(error) = self.propose(Change::Check, self.settings.commit_limit).await
            {
                tracing::debug!(%error, "the rows were not compared: the next time will do");
            }
        }
    }
}

/// How a read makes sure that nothing newer was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// By asking a majority: right whatever clocks do.
    Index,
    /// By the leader's lease, if it has one still: right as long as no clock runs much faster than
    /// another. Costs nothing. Followers ask the leader for its index.
    Lease,
}

/// The library's refusal, in our words.
fn not_written(error: RaftError<Group, ClientWriteError<Group>>, waited: Duration) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => Error::elsewhere(forward.leader_id),
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Error::NoMajority { waited },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            use openraft::errors::ChangeMembershipError as E;
            let is_transient = matches!(error, E::InProgress(_) | E::UncommittedLeaderLog(_));
            Error::Members { why: error.to_string(), is_transient }
        }
        RaftError::APIError(error @ ClientWriteError::PreconditionFailed(_)) => {
            Error::Members { why: error.to_string(), is_transient: true }
        }
        RaftError::Fatal(error) => Error::stopped(error),
    }
}

pub(crate) fn members_failed(error: RaftError<Group, ClientWriteError<Group>>, waited: Duration) -> Error {
    not_written(error, waited)
}

/// Who leads. A leader that left the group is called so by the library for ever, since nobody tells it of the next.
pub(crate) fn leader_of(now: &Metrics) -> Option<NodeId> {
    now.current_leader.filter(|leader| *leader != now.id || now.state == ServerState::Leader)
}

async fn follow_status(shared: Weak<Shared>, library: Library, mut seen: watched::Receiver<Seen>) {
    let mut metrics = library.metrics();
    drop(library);
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let status = {
            let now = metrics.borrow_watched();
            Status {
                leader: leader_of(&now),
                is_leader: leader_of(&now) == Some(now.id),
                term: now.current_term,
                voters: now.membership_config.voter_ids().collect(),
                fewest: now
                    .membership_config
                    .membership()
                    .get_joint_config()
                    .iter()
                    .map(|set| set.len())
                    .min()
                    .unwrap_or(0),
                learners: now.membership_config.membership().learner_ids().collect(),
                last_index: now.last_log_index.unwrap_or(0),
                applied_index: seen.look().index,
                matched: now
                    .replication
                    .iter()
                    .flatten()
                    .map(|(node, id)| (*node, id.map_or(0, |id| id.index)))
                    .collect(),
                compared: shared.state.compared(),
                stopped: now.running_state.as_ref().err().map(ToString::to_string),
            }
        };
        shared.status.send_if_modified(|old| {
            let is_new = *old != status;
            *old = status;
            is_new
        });
        drop(shared);
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { return },
            goes_on = seen.next() => if !goes_on { return },
        }
    }
}

async fn look_after(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade().filter(|shared| !shared.is_closed.load(Ordering::SeqCst)) else { return };
        shared.look().await;
        let sleep = shared.env.clock.sleep(LOOK);
        drop(shared);
        sleep.await;
    }
}

/// Tells the leader every digest.
async fn report(shared: Weak<Shared>, mut digests: mpsc::Receiver<Digested>) {
    while let Some((seq, digest)) = digests.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        let me = shared.who.node;
        match shared.leader() {
            Some(leader) if leader == me => shared.collect(me, seq, digest),
            Some(leader) => {
                let ask = Ask::Report { seq, digest };
                if let Err(error) = shared.wires.ask(leader, Lane::Control, ask, shared.settings.message_limit).await {
                    tracing::debug!(%error, %leader, "a digest was not reported: the next one will be");
                }
            }
            None => {}
        }
    }
}

/// Stops a replica that nobody holds any more, or whose copy contradicted the majority's.
async fn stop(library: Library, mut quarantine: watch::Receiver<Option<String>>, mut alive: watch::Receiver<()>) {
    tokio::select! {
        biased;
        _ = quarantine.wait_for(Option::is_some) => {}
        _ = alive.changed() => {}
    }
    // It may have stopped by itself.
    let _ = library.shutdown().await;
}
