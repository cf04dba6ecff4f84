//! Which drives are on which other nodes, and how they do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::{DriveId, Kind, Kinded, NodeId};
use client::{DriveState, Drives};
use codec::Versioned;
use env::Env;
use tokio::sync::{Notify, watch};
use transport::{Call, Class, Endpoint};

use super::PIECES;
use super::drive::{Limits, RemoteDrive, Shared};
use super::message::{Ask, DRIVES_MAX, DriveHealth, State, Told};

/// A node that failed so many looks in a row is gone, even if it can still be connected to.
const LOOKS_FAILED_MAX: u32 = 3;

#[derive(Default)]
struct Table {
    drives: BTreeMap<DriveId, RemoteDrive>,
    /// Wakes the task that watches the node.
    nodes: BTreeMap<NodeId, Arc<Notify>>,
}

/// The drives of other nodes, as the client engine's [`Drives`] know them: each is up, suspect or
/// gone as its node says, or fails to say. One for a process.
pub struct Remotes {
    shared: Arc<Shared>,
    drives: Arc<Drives>,
    table: Mutex<Table>,
    closed: watch::Sender<bool>,
    changes: watch::Sender<u64>,
}

impl Remotes {
    /// None yet.
    pub fn new(env: Env, endpoint: Endpoint, drives: Arc<Drives>, limits: Limits) -> Arc<Self> {
        let shared = Arc::new(Shared::new(env, endpoint, limits));
        let (closed, changes) = (watch::Sender::new(false), watch::Sender::new(0));
        Arc::new(Self { shared, drives, table: Mutex::default(), closed, changes })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The drive is on that node. It gets no new pieces before the node has answered.
    pub fn set(self: &Arc<Self>, drive: DriveId, node: NodeId) {
        let mut table = self.lock();
        if table.drives.get(&drive).is_some_and(|known| known.node() == node) {
            return;
        }
        let (wake, is_new) = match table.nodes.get(&node) {
            Some(wake) => (wake.clone(), false),
            None => (Arc::new(Notify::new()), true),
        };
        let remote = RemoteDrive::new(self.shared.clone(), node, drive, wake.clone());
        self.drives.set(drive, Arc::new(remote.clone()));
        self.drives.set_state(drive, DriveState::Suspect);
        table.drives.insert(drive, remote);
        wake.notify_one();
        if is_new {
            table.nodes.insert(node, wake.clone());
            self.shared.env.spawn("watch a node's drives", watch_node(self.clone(), node, wake));
        }
    }

    /// The drive is on no other node any more. What it was registered as is forgotten.
    pub fn remove(&self, drive: DriveId) {
        let mut table = self.lock();
        if let Some(remote) = table.drives.remove(&drive) {
            self.drives.remove(drive);
            remote.0.wake.notify_one();
        }
    }

    /// The drive, if it is on another node.
    pub fn get(&self, drive: DriveId) -> Option<RemoteDrive> {
        self.lock().drives.get(&drive).cloned()
    }

    /// Whether the drive answers: it can be read, if perhaps not written.
    pub fn is_up(&self, drive: DriveId) -> bool {
        let away = |health: &DriveHealth| health.state == State::Away;
        let table = self.lock();
        let Some(remote) = table.drives.get(&drive) else { return false };
        self.drives.get(drive).is_some() && remote.health().is_some_and(|health| !away(&health))
    }

    /// Those that take new pieces.
    pub fn with_room(&self) -> Vec<DriveId> {
        let table = self.lock();
        let takes = |(drive, remote): &(&DriveId, &RemoteDrive)| {
            self.drives.state(**drive) == DriveState::Up && client::Holder::writable(*remote)
        };
        table.drives.iter().filter(takes).map(|(drive, _)| *drive).collect()
    }

    /// All of them, and where they are.
    pub fn all(&self) -> Vec<(DriveId, NodeId)> {
        self.lock().drives.iter().map(|(drive, remote)| (*drive, remote.node())).collect()
    }

    /// Counts each change of a drive's state: whoever repairs looks again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Nobody is watched any more.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// The drives on a node; none if it need not be watched any more.
    fn on(&self, node: NodeId) -> Vec<RemoteDrive> {
        let mut table = self.lock();
        let drives: Vec<_> = table.drives.values().filter(|drive| drive.node() == node).cloned().collect();
        if drives.is_empty() {
            table.nodes.remove(&node);
        }
        drives
    }

    fn set_state(&self, drive: &RemoteDrive, state: DriveState) {
        let id = drive.0.drive;
        let table = self.lock();
        // It may have been taken away, or be on another node, since it was asked.
        let is_there = table.drives.get(&id).is_some_and(|known| Arc::ptr_eq(&known.0, &drive.0));
        if is_there && drive.is_news(state) {
            tracing::info!(drive = %id, ?state, "a drive of another node");
            self.drives.set_state(id, state);
            drop(table);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    async fn ask(&self, node: NodeId, drives: &[RemoteDrive]) -> Result<Vec<DriveHealth>, transport::Error> {
        let mut all = Vec::with_capacity(drives.len());
        for some in drives.chunks(DRIVES_MAX) {
            let ask = Ask::Health(some.iter().map(|drive| drive.0.drive).collect());
            let call = Call::new(PIECES, Class::Control, ask.encode()).with_timeout(self.shared.limits.control);
            match self.shared.endpoint.call(node, call).await?.decode()? {
                Told::Health(health) => all.extend(health),
                _ => return Err(transport::Error::Protocol("a node answers what wasn't asked".into())),
            }
        }
        Ok(all)
    }
}

/// What one task remembers of its node: looks that failed in a row.
#[derive(Default)]
struct Look {
    failed: u32,
}

/// Asks a node how its drives do until none is left.
async fn watch_node(remotes: Arc<Remotes>, node: NodeId, wake: Arc<Notify>) {
    let mut look = Look::default();
    let mut closed = remotes.closed.subscribe();
    loop {
        let drives = remotes.on(node);
        if drives.is_empty() || *closed.borrow() {
            return;
        }
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            () = look.round(&remotes, node, &drives) => {}
        }
        let pause = remotes.shared.env.timeout(remotes.shared.limits.look_every, wake.notified());
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            _ = pause => {}
        }
    }
}

impl Look {
    async fn round(&mut self, remotes: &Remotes, node: NodeId, drives: &[RemoteDrive]) {
        let clock = &remotes.shared.env.clock;
        let began = clock.now();
        match remotes.ask(node, drives).await {
            Ok(health) => {
                self.failed = 0;
                let took = clock.now().since(began);
                for drive in drives {
                    let id = drive.0.drive;
                    let health = health.iter().find(|health| health.drive == id).cloned();
                    let health = health.unwrap_or_else(|| DriveHealth::away(id));
                    let state = match health.state {
                        State::Ok => DriveState::Up,
                        State::ReadOnly(_) | State::Failed(_) => DriveState::Suspect,
                        State::Away => DriveState::Gone,
                    };
                    drive.learn(health, took);
                    remotes.set_state(drive, state);
                }
                // What fails, or takes too long for the next look, is tried again with that.
                let revoke = futures_util::future::join_all(drives.iter().map(RemoteDrive::revoke_loose));
                let _ = remotes.shared.env.timeout(remotes.shared.limits.control, revoke).await;
            }
            // It lives, and has much to do.
            Err(error) if matches!(error.kind(), Kind::Busy { .. }) => {}
            Err(error) => {
                self.failed += 1;
                let is_down = remotes.shared.endpoint.is_up(node) == Some(false) || error.kind() == Kind::Denied;
                let gone = is_down || self.failed >= LOOKS_FAILED_MAX;
                let state = if gone { DriveState::Gone } else { DriveState::Suspect };
                drives.iter().for_each(|drive| remotes.set_state(drive, state));
            }
        }
    }
}
