//! The drives at hand, and what each of them remembers of where the metadata is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{DriveId, Instant};
use env::Env;
use metastore::MemberSet;
use piecestore::{PieceStore, State};

use crate::error::{Error, Result};
use crate::identity::{self, Identity, Lock};

/// A drive that doesn't answer is not waited for longer than this when identities are written.
const IDENTITY_WAIT: Duration = Duration::from_secs(2);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a drive isn't up.
#[derive(Clone, Debug)]
pub(crate) struct Down {
    pub since: Instant,
    pub why: String,
    /// What it held is gone for good: nobody needs to wait for it.
    pub is_deleted: bool,
}

/// A drive of this process.
pub(crate) struct Mounted {
    pub id: DriveId,
    pub path: PathBuf,
    pub lock: Arc<Lock>,
    pub store: Arc<PieceStore>,
    pub down: Mutex<Option<Down>>,
    /// Whether it has no room for new pieces.
    pub full: AtomicBool,
}

impl Mounted {
    /// Opens the pieces on a drive that is locked.
    pub async fn open(
        env: &Env,
        options: &piecestore::Options,
        path: PathBuf,
        id: DriveId,
        lock: Arc<Lock>,
    ) -> Result<Arc<Self>> {
        // What is opened makes its folder: not where the drive's was a moment ago.
        if !lock.is_there() {
            return Err(Error::io(format!("open drive {}", path.display()))(std::io::ErrorKind::NotFound.into()));
        }
        let store = PieceStore::open(env.clone(), path.join("pieces"), options.clone()).await?;
        // Room on the drive is known from the first moment on.
        store.check_path().await?;
        Ok(Arc::new(Self { id, path, lock, store, down: Mutex::default(), full: AtomicBool::new(false) }))
    }

    pub fn is_up(&self) -> bool {
        lock(&self.down).is_none() && self.store.health().state == State::Ok
    }
}

/// The drives at hand.
#[derive(Default)]
pub(crate) struct Fleet(Mutex<BTreeMap<DriveId, Arc<Mounted>>>);

impl Fleet {
    pub fn all(&self) -> Vec<Arc<Mounted>> {
        lock(&self.0).values().cloned().collect()
    }

    pub fn get(&self, id: DriveId) -> Option<Arc<Mounted>> {
        lock(&self.0).get(&id).cloned()
    }

    pub fn set(&self, drive: Arc<Mounted>) {
        lock(&self.0).insert(drive.id, drive);
    }

    pub fn remove(&self, id: DriveId) -> Option<Arc<Mounted>> {
        lock(&self.0).remove(&id)
    }

    /// Lets go of all.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The drives that work.
    pub fn up(&self) -> Vec<Arc<Mounted>> {
        self.all().into_iter().filter(|drive| drive.is_up()).collect()
    }
}

/// A drive whose identity file is kept up to date.
type Marked = (PathBuf, Arc<Lock>, Identity);

/// The identity files of the drives at hand: each remembers the newest member sets, so that a stale
/// copy of the metadata is never taken for the newest.
pub(crate) struct Marks {
    env: Env,
    drives: Mutex<BTreeMap<DriveId, Marked>>,
    sets: Mutex<BTreeMap<u32, MemberSet>>,
    /// Identity files are written by one at a time.
    writing: tokio::sync::Mutex<()>,
}

impl Marks {
    pub fn new(env: Env) -> Arc<Self> {
        let (drives, sets, writing) = Default::default();
        Arc::new(Self { env, drives, sets, writing })
    }

    /// A drive is at hand; what it remembers counts.
    pub fn add(&self, path: &Path, held: Arc<Lock>, identity: Identity) {
        identity.members.iter().for_each(|set| self.learn(set));
        lock(&self.drives).insert(identity.drive, (path.to_path_buf(), held, identity));
    }

    /// Gives the locks back; nothing is written any more.
    pub fn release(&self) {
        lock(&self.drives).clear();
    }

    pub fn remove(&self, id: DriveId) {
        lock(&self.drives).remove(&id);
    }

    /// Where the drives at hand are, even those whose pieces can't be opened.
    pub fn places(&self) -> Vec<(DriveId, PathBuf)> {
        lock(&self.drives).iter().map(|(id, (path, ..))| (*id, path.clone())).collect()
    }

    /// The lock on a drive's folder, if it is ours and the folder is still there.
    pub fn held(&self, id: DriveId) -> Option<Arc<Lock>> {
        lock(&self.drives).get(&id).map(|(_, held, _)| held.clone()).filter(|held| held.is_there())
    }

    fn learn(&self, set: &MemberSet) {
        let mut sets = lock(&self.sets);
        if sets.get(&set.shard).is_none_or(|known| known.epoch <= set.epoch) {
            sets.insert(set.shard, set.clone());
        }
    }

    /// The newest member set of a shard that any drive remembers.
    pub fn newest(&self, shard: u32) -> Option<MemberSet> {
        lock(&self.sets).get(&shard).cloned()
    }

    /// Remembers a new member set on all drives that answer in time.
    pub async fn remember(self: &Arc<Self>, set: MemberSet) {
        self.learn(&set);
        let marks = self.clone();
        let written = self.env.timeout(IDENTITY_WAIT, async move { marks.write_all(|_| {}).await }).await;
        if written.is_none() {
            tracing::warn!("a drive doesn't take its identity file in time");
        }
    }

    /// Changes and rewrites the identity file of every drive where it differs.
    pub async fn write_all(self: &Arc<Self>, change: impl Fn(&mut Identity)) {
        let _one = self.writing.lock().await;
        let sets: Vec<MemberSet> = lock(&self.sets).values().cloned().collect();
        let mut changed = Vec::new();
        for (path, held, identity) in lock(&self.drives).values_mut() {
            let mut new = identity.clone();
            new.members.clone_from(&sets);
            change(&mut new);
            if new != *identity {
                identity.clone_from(&new);
                changed.push((path.clone(), held.clone(), new));
            }
        }
        let disk = self.env.disk.clone();
        let all = changed.into_iter().map(|(path, held, identity)| {
            let disk = disk.clone();
            self.env.blocking(move || {
                // A folder that was deleted and made anew is not this drive any more.
                let wrote = if held.is_there() { identity::write(&*disk, &path, &identity) } else { Ok(()) };
                (identity.drive, wrote)
            })
        });
        for done in futures_util::future::join_all(all).await {
            match done {
                Ok((_, Ok(()))) => {}
                Ok((drive, Err(error))) => {
                    tracing::warn!(%drive, %error, "failed to write a drive's identity file");
                    // It is written again with the next change.
                    if let Some((_, _, identity)) = lock(&self.drives).get_mut(&drive) {
                        identity.members.clear();
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// What went wrong with a folder, as an error that names it.
pub(crate) fn folder(path: &Path, why: impl Into<String>, kind: base::Kind) -> Error {
    Error::Folder { path: path.to_path_buf(), why: why.into(), kind }
}
