//! The node as a whole: what its parts share, how they begin and end.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base::kv::{Batch, View};
use base::{ClusterId, DriveId, VolumeId};
use client::{Client, Drives, Shard};
use env::Env;
use namespace::catalog;
use tokio::sync::{Notify, mpsc, watch};

use crate::cluster::Cluster;
use crate::cluster::users::Users;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::fleet::{Fleet, Marks, lock};
use crate::heal::Heal;
use crate::lived::Lived;
use crate::owners::Owners;
use crate::proof::Safety;
use crate::settings::Settings;
use crate::shards::Shards;
use crate::upkeep::Upkeep;

/// The shard of the catalog.
pub(crate) const SYSTEM: u32 = 0;
/// The first shard that has volumes: who leads it does what one node does for all.
pub(crate) const VOLUMES: u32 = catalog::FIRST_SHARD;
/// Rows read at a time.
pub(crate) const PAGE: usize = 512;
/// How long a loop may take to end.
const END_WAIT: Duration = Duration::from_secs(15);

/// One process of the store. Cheap to clone.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub env: Env,
    pub settings: Settings,
    pub id: ClusterId,
    pub key_check: [u8; 16],
    pub marks: Arc<Marks>,
    pub fleet: Fleet,
    pub drives: Arc<Drives>,
    /// The metadata shards.
    pub shards: Arc<Shards>,
    /// The shard of the catalog, for rules.
    pub system: Shard,
    /// What opens the metadata and the data.
    pub keys: crypt::StoreKeys,
    /// The other nodes, once there may be some.
    pub cluster: OnceLock<Arc<Cluster>>,
    /// What is done for owners of volumes.
    pub owners: Owners,
    pub client: Client,
    pub events: Events,
    pub heal: Mutex<Heal>,
    pub upkeep: Mutex<Upkeep>,
    /// How users fare.
    pub users: Mutex<Users>,
    /// What each policy's data survives, as it was found out last.
    pub safeties: Mutex<Vec<Safety>>,
    /// How old the store is.
    pub lived: Mutex<Lived>,
    /// Something happened that may give the healer work.
    pub wake: Notify,
    /// The node's own file is changed by one at a time.
    pub filing: tokio::sync::Mutex<()>,
    /// Drives come and go one at a time.
    pub changing: tokio::sync::Mutex<()>,
    /// Whether new data finds enough drives.
    pub writable: AtomicBool,
    pub closing: watch::Sender<bool>,
    pub closed: AtomicBool,
    /// Every loop holds a sender; when all are gone all loops have ended.
    pub loops: Mutex<Option<mpsc::Sender<()>>>,
    pub ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Inner {
    /// Changes the catalog by a rule; durable when this returns.
    pub async fn change<T: Send>(
        &self,
        rule: impl FnMut(&dyn View) -> std::result::Result<(Batch, T), namespace::Error> + Send,
    ) -> Result<T> {
        Ok(self.system.execute(rule).await?)
    }

    /// Reads the catalog as it is here: with other nodes it may be a moment old.
    pub fn look<T>(&self, read: impl FnOnce(&dyn View) -> std::result::Result<T, namespace::Error>) -> Result<T> {
        let read = |view: &dyn View| -> Result<T> { Ok(read(view)?) };
        self.system.peek(read)?.ok_or_else(|| Error::NotYet("the catalog is still being copied to this node".into()))
    }

    /// All drives of the catalog.
    pub fn drive_rows(&self) -> Result<Vec<catalog::DriveRow>> {
        self.look(|view| catalog::drives(view, None, usize::from(u16::MAX)))
    }

    /// Every volume that may hold segments: of buckets, and of deleted ones.
    pub fn volumes(&self) -> Result<Vec<VolumeId>> {
        self.look(|view| {
            let mut volumes = Vec::new();
            let mut after = String::new();
            loop {
                let page = catalog::list_all_buckets(view, &after, PAGE)?;
                volumes.extend(page.iter().map(|bucket| bucket.volume));
                match page.last() {
                    Some(last) if page.len() == PAGE => after.clone_from(&last.name),
                    _ => break,
                }
            }
            volumes.extend(catalog::dead_volumes(view, None, usize::from(u16::MAX))?.iter().map(|dead| dead.volume));
            Ok(volumes)
        })
    }

    /// Waits, or until the node is closed: then false.
    pub async fn pause(&self, span: Duration) -> bool {
        let mut closing = self.closing.subscribe();
        let closed = async {
            // An error means that the node is gone: that is the same.
            let _ = closing.wait_for(|closing| *closing).await;
        };
        self.env.timeout(span, closed).await.is_none()
    }

    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Runs a loop of the node: it must end soon after [`Inner::pause`] gives false.
    pub fn run(self: &Arc<Self>, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let Some(alive) = lock(&self.loops).clone() else { return };
        self.env.spawn(name, async move {
            work.await;
            drop(alive);
        });
    }

    /// A drive's folder and the beginning of its id, for people.
    pub fn name_of(&self, id: DriveId) -> String {
        let short: String = id.to_string().chars().take(8).collect();
        match self.fleet.get(id) {
            Some(drive) => format!("{short} ({})", drive.path.display()),
            None => short,
        }
    }
}

impl Node {
    /// The data engine, for faces.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Ends everything in order, so that the next start has nothing to replay. Not calling it loses
    /// nothing.
    pub async fn close(&self) {
        let inner = &self.0;
        if inner.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        inner.closing.send_replace(true);
        lock(&inner.loops).take();
        let all_ended = async { while inner.ended.lock().await.recv().await.is_some() {} };
        if inner.env.timeout(END_WAIT, all_ended).await.is_none() {
            tracing::warn!("some background work didn't end in time: it is cut short");
        }
        inner.flush_events().await;
        if let Some(cluster) = inner.cluster.get() {
            cluster.leave().await;
        }
        for shard in inner.shards.all() {
            if let Err(error) = shard.close().await {
                tracing::warn!(shard = shard.number, %error, "failed to write the metadata's last checkpoint: the next start replays its log");
            }
        }
        let stores = inner.fleet.all().into_iter().map(|drive| async move {
            if let Err(error) = drive.store.close().await {
                tracing::debug!(drive = %drive.id, %error, "failed to close a piece store: the next start reads its last log");
            }
        });
        futures_util::future::join_all(stores).await;
        if let Some(cluster) = inner.cluster.get() {
            cluster.endpoint.close();
        }
        // Whoever opens the folders next needn't wait until the last handle of this node is dropped.
        inner.fleet.clear();
        inner.marks.release();
    }
}
