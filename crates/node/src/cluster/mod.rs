//! The other nodes of the store, and this one's part among them.
//!
//! A store of one machine has none of this. It becomes the first node of a cluster in place when its
//! owner invites another ([`found`]); whoever joins begins as a member. In reading order: [`shard`] (a
//! metadata shard that may be led elsewhere) over [`meta`] (what its leader is asked), [`tail`] (its journal) and
//! [`replicas`] (messages between replicas); [`follow`] (what this node does when the catalog changes),
//! [`voters`] (who holds the shards), [`leads`] (who leads how many), [`grow`] (more of them), [`care`] (the replicas here, and those that are lost), [`rounds`] and
//! [`checkpoints`] (what is needed when most nodes are lost for good), [`rotate`] (new keys), [`courier`] (liveness), [`fresh`] (what other nodes are writing),
//! [`hands`] (pieces are rebuilt where they will lie).

pub(crate) mod shard;

pub(crate) mod checkpoints;
pub(crate) mod rounds;

mod care;
mod courier;
mod follow;
mod found;
mod fresh;
mod grow;
mod hands;
mod leads;
mod meta;
pub(crate) mod plan;
mod replicas;
mod rotate;
mod show;
mod summary;
mod tail;
#[cfg(test)]
mod town;
pub(crate) mod users;
pub(crate) mod voters;

pub(crate) use found::{change, introduction, no_root, places};
pub use show::NodeShown;
pub(crate) use summary::Summary;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base::{DriveId, NodeId, SegmentId, Standing};
use client::Drives;
use env::Env;
use replicated::Replica;
use tokio::sync::watch;
use transport::{Addresses, Endpoint, Host, Identity, Services, TcpCarrier};
use wire::Trust;

use crate::error::Result;
use crate::members::{Tokens, Turns};
use crate::node::Inner;
use crate::owners::guests::GuestService;
use crate::owners::service::{OWNERS, OwnerDoor, OwnerService};
use crate::remote::{Limits, PIECES, PieceService, Remotes, ServiceLimits};
use courier::{LIVENESS, LivenessService, Post};
use fresh::{FRESH, FreshService};
use hands::{HANDS, HandsService};
use meta::{Asker, METADATA, MetaService};
use replicas::{REPLICAS, ReplicaService, Ways};
use rotate::{KEYS, KeyService};
use rounds::{GROUPS, GroupService};
use summary::{SUMMARY, SummaryService};
use users::{USERS, UsersService};

/// Where nodes listen, as far as known.
#[derive(Default)]
pub(crate) struct Directory(RwLock<BTreeMap<NodeId, Vec<SocketAddr>>>);

impl Directory {
    /// A node listens there.
    pub fn set(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(node, addresses);
    }

    /// All that are known.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

impl Addresses for Directory {
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned().unwrap_or_default()
    }
}

/// Who this node is among others, and how it begins.
pub(crate) struct Start {
    /// Who it is.
    pub identity: Identity,
    /// Whom it believes.
    pub trust: Trust,
    /// Where others were heard of last.
    pub contacts: Vec<(NodeId, Vec<SocketAddr>)>,
    /// Lets machines join, if this node has the root key.
    pub host: Option<Arc<dyn Host>>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How often it was started before.
    pub starts: u64,
    /// What its file says of the groups.
    pub kept: Kept,
}

/// What this node's file says of the metadata's groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Their tokens.
    pub tokens: Tokens,
    /// The turns of this node's replicas.
    pub turns: Turns,
    /// How often they were recovered.
    pub round: u64,
}

/// This node among others. One for a process.
pub(crate) struct Cluster {
    pub me: NodeId,
    pub endpoint: Endpoint,
    pub remotes: Arc<Remotes>,
    pub pieces: Arc<PieceService>,
    pub liveness: liveness::Service,
    pub directory: Arc<Directory>,
    replicas: Arc<ReplicaService>,
    metadata: Arc<MetaService>,
    fresh: Arc<FreshService>,
    groups: Arc<GroupService>,
    keys: Arc<KeyService>,
    kept: Mutex<Kept>,
    summary: Arc<SummaryService>,
    owners: Arc<OwnerService>,
    users: Arc<UsersService>,
    hands: Arc<HandsService>,
    /// Who keeps each shard.
    holders: watch::Sender<BTreeMap<u32, Vec<NodeId>>>,
}

impl Cluster {
    /// Begins to listen and to ask; with no replica and no remote drive yet.
    pub async fn start(env: &Env, settings: &crate::Settings, drives: Arc<Drives>, start: Start) -> Result<Arc<Self>> {
        let me = start.identity.node;
        let directory = Arc::new(Directory::default());
        start.contacts.into_iter().for_each(|(node, addresses)| directory.set(node, addresses));
        let pieces = PieceService::new(env.clone(), ServiceLimits::default());
        let (replicas, metadata): (Arc<ReplicaService>, Arc<MetaService>) = Default::default();
        let (alive, fresh): (Arc<LivenessService>, Arc<FreshService>) = Default::default();
        let (groups, keys): (Arc<GroupService>, Arc<KeyService>) = Default::default();
        let mut services = Services::new();
        services.insert(PIECES, pieces.clone());
        services.insert(REPLICAS, replicas.clone());
        services.insert(METADATA, metadata.clone());
        services.insert(LIVENESS, alive.clone());
        services.insert(FRESH, fresh.clone());
        services.insert(GROUPS, groups.clone());
        services.insert(KEYS, keys.clone());
        let summary: Arc<SummaryService> = Arc::default();
        services.insert(SUMMARY, summary.clone());
        let owners: Arc<OwnerService> = Arc::default();
        services.insert(OWNERS, owners.clone());
        let users: Arc<UsersService> = Arc::default();
        services.insert(USERS, users.clone());
        let hands: Arc<HandsService> = Arc::default();
        services.insert(HANDS, hands.clone());
        let carrier = TcpCarrier::new(env.clone(), start.identity.key.clone(), settings.transport.connect)?;
        let endpoint = Endpoint::start(
            env.clone(),
            settings.transport.clone(),
            Arc::new(carrier),
            start.identity,
            start.trust,
            directory.clone(),
            services,
            start.host,
            Some(start.listen),
        )
        .await?;
        let post = Post::new(env.clone(), endpoint.clone());
        let liveness = liveness::Service::start(env, me, start.starts, settings.liveness.clone(), post);
        alive.set(Some(liveness.clone()));
        let remotes = Remotes::new(env.clone(), endpoint.clone(), drives, Limits::default());
        let holders = watch::Sender::new(BTreeMap::new());
        let kept = Mutex::new(start.kept);
        Ok(Arc::new(Self {
            me,
            endpoint,
            remotes,
            pieces,
            liveness,
            directory,
            replicas,
            metadata,
            fresh,
            groups,
            keys,
            kept,
            summary,
            owners,
            users,
            hands,
            holders,
        }))
    }

    /// What the node's file says of the groups.
    pub fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers for the node from now on.
    pub fn serve(&self, inner: &Arc<Inner>) {
        inner.shards.all().iter().for_each(|shard| self.metadata.set(shard));
        self.fresh.set(inner.client.clone());
        self.summary.set(inner);
        self.owners.set(inner);
        let guests: Arc<GuestService> = Arc::default();
        guests.set(inner);
        self.endpoint.welcome(Arc::new(OwnerDoor::new(self.owners.clone(), guests)));
        self.users.set(inner);
        self.hands.set(inner);
        self.groups.set(inner);
        self.keys.set(inner);
    }

    /// A shard answers others from now on.
    pub fn answer_as(&self, shard: &Arc<shard::MetaShard>) {
        self.metadata.set(shard);
    }

    /// A replica here answers others of its shard.
    pub fn answer_for(&self, shard: u32, replica: &Arc<Replica>) {
        self.replicas.set(shard, replica);
    }

    /// The way to a shard's leader.
    pub fn asker(&self, shard: u32) -> Asker {
        Asker::new(self.endpoint.clone(), shard, self.holders.subscribe())
    }

    /// The way between a shard's replicas.
    pub fn ways(&self, shard: u32) -> Arc<Ways> {
        Arc::new(Ways { endpoint: self.endpoint.clone(), shard })
    }

    /// Who keeps the shards, as the catalog says.
    pub fn set_holders(&self, shard: u32, nodes: Vec<NodeId>) {
        self.holders.send_if_modified(|holders| holders.insert(shard, nodes.clone()).is_none_or(|old| old != nodes));
    }

    /// Who keeps a shard.
    pub fn holders_of(&self, shard: u32) -> Vec<NodeId> {
        self.holders.borrow().get(&shard).cloned().unwrap_or_default()
    }

    /// Whether a node keeps a shard.
    pub fn holds(&self, shard: u32, node: NodeId) -> bool {
        self.holders_of(shard).contains(&node)
    }

    /// How a node stands, as this one sees it.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.liveness.standing(node)
    }

    /// Tells the others, and stops to listen.
    pub async fn leave(&self) {
        self.liveness.leave().await;
        self.remotes.close();
    }
}

impl Inner {
    /// Changes what the node's file says of the groups, durably.
    pub(crate) async fn keep(&self, change: impl Fn(&mut Kept)) -> Result<()> {
        let Some(cluster) = self.cluster.get() else { return Ok(()) };
        let mut kept = cluster.kept();
        change(&mut kept);
        let new = kept.clone();
        self.change_file(move |file| (file.tokens, file.turns, file.round) = (new.tokens, new.turns, new.round))
            .await?;
        *cluster.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(())
    }

    /// This node, once there may be others.
    pub fn me(&self) -> Option<NodeId> {
        self.cluster.get().map(|cluster| cluster.me)
    }

    /// Whether a drive is this node's to look after.
    pub fn is_mine(&self, row: &namespace::catalog::DriveRow) -> bool {
        row.node.is_none() || row.node == self.me()
    }

    /// Whether a drive works, here or elsewhere.
    pub fn is_up(&self, drive: DriveId) -> bool {
        match self.fleet.get(drive) {
            Some(drive) => drive.is_up(),
            None => self.cluster.get().is_some_and(|cluster| cluster.remotes.is_up(drive)),
        }
    }

    /// The drives that work, here and elsewhere.
    pub fn up(&self) -> BTreeSet<DriveId> {
        let mut up: BTreeSet<DriveId> = self.fleet.up().iter().map(|drive| drive.id).collect();
        if let Some(cluster) = self.cluster.get() {
            up.extend(cluster.remotes.all().into_iter().map(|(drive, _)| drive).filter(|drive| self.is_up(*drive)));
        }
        up
    }

    /// Whether anybody may still be writing the segment. Who can't be asked may be.
    pub async fn is_fresh(&self, segment: SegmentId) -> bool {
        if self.client.is_fresh(segment) {
            return true;
        }
        let Some(cluster) = self.cluster.get() else { return false };
        let Ok(rows) = self.look(|view| namespace::catalog::nodes(view, None, usize::from(u16::MAX))) else {
            return true;
        };
        let others: Vec<NodeId> = rows
            .into_iter()
            .filter(|row| row.id != cluster.me && row.state != namespace::catalog::NodeState::Removed)
            .map(|row| row.id)
            .collect();
        fresh::any_writes(&cluster.endpoint, &others, segment).await
    }

    /// Copies of the metadata on the drives of this node.
    pub fn mirrors(&self) -> usize {
        // With other nodes each keeps its own: a second one spares a copy over the network when a drive fails.
        if self.cluster.get().is_some() { 2 } else { crate::open::MIRRORS }
    }
}
