//! Making and opening a store, and what is refused.
//!
//! Making one is a row of steps of which each can be done twice, so that one that was cut short goes
//! on at the next start: the key file; then a folder's identity, not yet `ready`; the metadata and
//! the catalog; then `ready` on every drive. Nothing can be stored before that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base::{ClusterId, DriveId, Kind};
use client::{Client, Drives};
use crypt::RootKey;
use env::{Disk, Env};
use futures_util::future::join_all;
use metastore::{Embedded, Mirror, Sequencer, ShardStore};
use namespace::catalog::{self, Severity};
use tokio::sync::{Notify, mpsc, watch};

use crate::error::{Error, Result};
use crate::fleet::{Fleet, Marks, Mounted, folder};
use crate::identity::{self, Folder, Identity, Lock};
use crate::node::{Inner, Node, SYSTEM, VOLUMES};
use crate::settings::{Settings, Started};
use crate::{event, groups, heal, key, supervise, upkeep};

/// Copies of the metadata.
pub(crate) const MIRRORS: usize = 3;

/// The folders, looked at and locked.
struct Found {
    cluster: ClusterId,
    key_check: Option<[u8; 16]>,
    /// Whether the store was made completely before.
    ready: bool,
    drives: Vec<(PathBuf, Arc<Lock>, Identity)>,
    /// Folders that become drives.
    empty: Vec<(PathBuf, Arc<Lock>)>,
    notes: Vec<String>,
}

impl Node {
    /// Opens the store that the folders hold, or makes one of them if all are empty.
    ///
    /// # Errors
    /// If a folder holds something else or belongs to another store, if another process has one
    /// open, if the key doesn't fit, or if the metadata can't be had: nothing is changed then.
    pub async fn open(env: Env, settings: Settings) -> Result<Started> {
        let policy = settings.policy.as_deref().map(|text| groups::parse(text, settings.drives.len())).transpose()?;
        let (disk, paths, new) = (env.disk.clone(), settings.drives.clone(), ClusterId(env.random()));
        let found = env.blocking(move || look(&*disk, &paths, new)).await.map_err(client::Error::from)??;
        let key_file = settings.key_file.clone().unwrap_or_else(|| key::default_path(&settings.home, found.cluster));
        let root = root_key(&env, &settings, &found, &key_file).await?;
        let fresh = !found.ready;
        let words = fresh.then(|| root.words());
        let (inner, notes) = assemble(env, settings, found, &root).await?;
        if let Some(policy) = policy {
            inner.fix_policy(policy).await?;
        }
        inner.settle_groups().await?;
        inner.ensure_access().await?;
        inner.marks.write_all(|identity| identity.ready = true).await;
        if fresh {
            inner.tell(Severity::Info, "store", "", "the store was made".into());
        }
        for note in &notes {
            inner.tell(Severity::Warning, "store", "", note.clone());
        }
        inner.run("events", event::write(inner.clone()));
        inner.run("supervise drives", supervise::watch(inner.clone()));
        inner.run("heal", heal::heal(inner.clone()));
        inner.run("findings", heal::take_findings(inner.clone()));
        inner.run("upkeep", upkeep::keep(inner.clone()));
        Ok(Started { node: Node(inner), words, key_file, notes })
    }
}

/// Looks at the folders and locks them. Nothing else is changed. A folder on a drive that fails just
/// now is left out, if others hold the store: it is taken up once it works. Blocks.
fn look(disk: &dyn Disk, paths: &[PathBuf], new: ClusterId) -> Result<Found> {
    check_paths(disk, paths)?;
    let looked: Vec<(PathBuf, Result<Folder>)> =
        paths.iter().map(|path| (path.clone(), identity::look(disk, path))).collect();
    let drives = || {
        looked.iter().filter_map(|(path, folder)| match folder {
            Ok(Folder::Drive(identity)) => Some((path, identity)),
            _ => None,
        })
    };
    let cluster = drives().next().map(|(path, identity)| (path.clone(), identity.cluster));
    let mut found = Found {
        cluster: cluster.as_ref().map_or(new, |(_, cluster)| *cluster),
        key_check: drives().next().map(|(_, identity)| identity.key_check),
        ready: drives().any(|(_, identity)| identity.ready),
        drives: Vec::new(),
        empty: Vec::new(),
        notes: Vec::new(),
    };
    // First everything that may be refused is looked at, then locks are taken.
    for (path, what) in &looked {
        what.as_ref().map_or(Ok(()), |what| refuse(path, what, cluster.as_ref()))?;
    }
    for (path, what) in looked {
        let taken = what.and_then(|what| take(disk, &path, what, &mut found));
        found.without(&path, taken)?;
    }
    if found.ready && found.drives.is_empty() {
        return Err(Error::Folders(format!("no folder of the store can be used: {}", found.notes.join("; "))));
    }
    Ok(found)
}

/// Locks a folder.
fn take(disk: &dyn Disk, path: &Path, what: Folder, found: &mut Found) -> Result<()> {
    match what {
        Folder::Foreign(_) | Folder::Damaged(_) => {}
        Folder::Empty => {
            disk.create_dir_all(path).map_err(Error::io(format!("make the folder {}", path.display())))?;
            found.empty.push((path.to_path_buf(), Arc::new(Lock::take(disk, path)?)));
        }
        Folder::Drive(identity) => {
            found.drives.push((path.to_path_buf(), Arc::new(Lock::take(disk, path)?), *identity));
        }
    }
    Ok(())
}

impl Found {
    /// Goes on without a folder whose drive fails, if there is a store without it.
    fn without(&mut self, path: &Path, result: Result<()>) -> Result<()> {
        match result {
            Err(error @ Error::Io { .. }) if self.ready => {
                self.notes.push(format!("{} can't be used now, the store goes on without it: {error}", path.display()));
                Ok(())
            }
            other => other,
        }
    }
}

/// Folders that are named twice or lie in each other make no separate drives.
fn check_paths(disk: &dyn Disk, paths: &[PathBuf]) -> Result<()> {
    if paths.is_empty() {
        return Err(Error::Folders("no folder was given: name at least one".into()));
    }
    let mut seen: Vec<PathBuf> = Vec::new();
    for path in paths {
        let real = if disk.exists(path) {
            disk.canonical(path).map_err(Error::io(format!("look at {}", path.display())))?
        } else {
            path.clone()
        };
        if let Some(other) = seen.iter().find(|other| real.starts_with(other) || other.starts_with(&real)) {
            let why = if *other == real { "is given twice" } else { "and another given folder lie in each other" };
            return Err(Error::Folders(format!("{} {why}: each folder must be a drive of its own", path.display())));
        }
        seen.push(real);
    }
    Ok(())
}

fn refuse(path: &Path, what: &Folder, cluster: Option<&(PathBuf, ClusterId)>) -> Result<()> {
    match what {
        Folder::Empty => Ok(()),
        Folder::Foreign(name) => Err(folder(
            path,
            format!(
                "it holds something else ({name}): name an empty folder, or one that holds this store; nothing was touched"
            ),
            Kind::Exists,
        )),
        Folder::Damaged(why) => Err(Error::Folders(why.clone())),
        Folder::Drive(identity) => match cluster {
            Some((first, cluster)) if *cluster != identity.cluster => Err(folder(
                path,
                format!(
                    "it belongs to another store ({}) than {} ({cluster}): open each store by its own folders; nothing was touched",
                    identity.cluster,
                    first.display()
                ),
                Kind::Conflict,
            )),
            _ => Ok(()),
        },
    }
}

/// The key of the store that was found, or a new one for a store that is being made.
async fn root_key(env: &Env, settings: &Settings, found: &Found, path: &Path) -> Result<RootKey> {
    let (disk, path, check) = (env.disk.clone(), path.to_path_buf(), found.key_check);
    let given = settings.words.as_deref().map(RootKey::from_words).transpose();
    let given = given.map_err(|error| Error::Key { path: path.clone(), why: format!("the words: {error}") })?;
    let random = env.random();
    let work = move || {
        let key = match (given, check) {
            (Some(key), _) => key,
            (None, Some(_)) => key::read(&*disk, &path)?,
            (None, None) if disk.exists(&path) => key::read(&*disk, &path)?,
            (None, None) => RootKey::new(random),
        };
        if check.is_some_and(|check| check != key.check()) {
            let why = "it is the key of another store than these folders': name the right one with --key-file, or restore it with --words";
            return Err(Error::Key { path, why: why.into() });
        }
        key::write(&*disk, &path, &key)?;
        Ok(key)
    };
    env.blocking(work).await.map_err(client::Error::from)?
}

/// Gives empty folders their identity, opens drives and metadata.
async fn assemble(env: Env, settings: Settings, found: Found, root: &RootKey) -> Result<(Arc<Inner>, Vec<String>)> {
    let Found { cluster, ready, drives: mut at_hand, empty, mut notes, .. } = found;
    for (path, lock) in empty {
        match join(&env, &path, cluster, root.check(), ready).await {
            Ok(identity) => {
                if ready {
                    notes.push(format!("{} was empty: it joined the store as a new drive", path.display()));
                }
                at_hand.push((path, lock, identity));
            }
            Err(error @ Error::Io { .. }) if ready => {
                notes.push(format!("{} can't become a drive now: {error}", path.display()));
            }
            Err(error) => return Err(error),
        }
    }
    let marks = Marks::new(env.clone());
    for (path, lock, identity) in &at_hand {
        marks.add(path, lock.clone(), identity.clone());
    }
    let shards = open_shards(&env, &settings, &at_hand, &marks, root).await?;
    let fleet = Fleet::default();
    let drives = Drives::new(env.clock.clone());
    let opened = at_hand.iter().map(|(path, lock, identity)| {
        Mounted::open(&env, &settings.pieces, path.clone(), identity.drive, lock.clone())
    });
    for ((path, ..), opened) in at_hand.iter().zip(join_all(opened).await) {
        match opened {
            Ok(drive) => {
                drives.set(drive.id, Arc::new(drive.store.clone()));
                fleet.set(drive);
            }
            Err(error) => notes.push(format!("the pieces on {} can't be opened: {error}", path.display())),
        }
    }
    let [system, volumes] = [SYSTEM, VOLUMES].map(|shard| {
        let store: Arc<dyn ShardStore> = shards[shard as usize].clone();
        Arc::new(Sequencer::new(&env, store))
    });
    let client = Client::new(env.clone(), system.clone(), volumes.clone(), drives.clone(), root.clone());
    let (alive, ended) = mpsc::channel(1);
    let inner = Arc::new(Inner {
        heal: heal::Heal::new().into(),
        upkeep: upkeep::Upkeep::new(env.clock.now()).into(),
        env,
        settings,
        cluster,
        key_check: root.check(),
        marks,
        fleet,
        drives,
        shards,
        system,
        volumes,
        client,
        events: event::Events::default(),
        wake: Notify::new(),
        changing: tokio::sync::Mutex::default(),
        writable: AtomicBool::new(true),
        closing: watch::channel(false).0,
        closed: AtomicBool::new(false),
        loops: Some(alive).into(),
        ended: ended.into(),
    });
    inner.ensure_catalog(&mut notes).await?;
    Ok((inner, notes))
}

/// Makes an empty, locked folder a drive of the store.
pub(crate) async fn join(
    env: &Env,
    path: &Path,
    cluster: ClusterId,
    key_check: [u8; 16],
    ready: bool,
) -> Result<Identity> {
    let (drive, created) = (DriveId(env.random()), env.clock.wall());
    let identity = Identity { cluster, drive, created, key_check, ready, members: Vec::new() };
    let (disk, path, written) = (env.disk.clone(), path.to_path_buf(), identity.clone());
    let wrote = env.blocking(move || {
        identity::write(&*disk, &path, &written)?;
        // The folder itself must be found after a power cut.
        path.parent().map_or(Ok(()), |parent| disk.sync_dir(parent)).map_err(Error::io("sync the folder above a drive"))
    });
    wrote.await.map_err(client::Error::from)??;
    Ok(identity)
}

/// Where a drive keeps its copy of a shard.
pub(crate) fn mirror(drive: DriveId, path: &Path, shard: u32) -> Mirror {
    Mirror { drive, dir: path.join("meta").join(shard.to_string()) }
}

async fn open_shards(
    env: &Env,
    settings: &Settings,
    at_hand: &[(PathBuf, Arc<Lock>, Identity)],
    marks: &Arc<Marks>,
    root: &RootKey,
) -> Result<Vec<Arc<Embedded>>> {
    let mut shards = Vec::new();
    for shard in [SYSTEM, VOLUMES] {
        let expected = marks.newest(shard);
        let mut order: Vec<_> = at_hand.iter().map(|(path, _, identity)| (identity.drive, path)).collect();
        match &expected {
            Some(set) => order.retain(|(drive, _)| set.drives.contains(drive)),
            // A store that is being made: the folders first named, if they don't hold any yet.
            None => {
                let has = |path: &Path| env.disk.exists(&mirror(DriveId([0; 16]), path, shard).dir);
                order.sort_by_key(|(_, path)| !has(path));
                order.truncate(MIRRORS);
            }
        }
        if order.is_empty() {
            let wanted: Vec<String> = expected.iter().flat_map(|set| &set.drives).map(DriveId::to_string).collect();
            return Err(Error::Folders(format!(
                "none of the drives that hold the newest metadata is here: name at least one of the folders of drive {}",
                wanted.join(", ")
            )));
        }
        let mirrors = order.into_iter().map(|(drive, path)| mirror(drive, path, shard)).collect();
        let told = marks.clone();
        let options = metastore::Options {
            on_members: Some(Arc::new(move |set| {
                let told = told.clone();
                Box::pin(async move { told.remember(set).await })
            })),
            ..settings.metadata.clone()
        };
        let opened = Embedded::open(env, shard, mirrors, &root.meta_key(), expected, options).await?;
        marks.remember(opened.members()).await;
        shards.push(opened);
    }
    Ok(shards)
}

impl Inner {
    /// The catalog says whose it is, and knows every drive at hand.
    async fn ensure_catalog(&self, notes: &mut Vec<String>) -> Result<()> {
        let cluster = self.cluster;
        let known = self.look(catalog::cluster)?;
        if known.is_some_and(|known| known != cluster) {
            return Err(Error::Folders(format!("the metadata is that of another store than {cluster}")));
        }
        let rows = self.drive_rows()?;
        for drive in self.fleet.all() {
            if rows.iter().any(|row| row.id == drive.id && row.state == catalog::DriveState::Removed) {
                notes.push(format!(
                    "{} was removed from this store and is left out: empty the folder to use it again",
                    drive.path.display()
                ));
                self.let_go(drive.id);
                continue;
            }
            self.know_drive(drive.id).await?;
        }
        for (id, path) in self.marks.places().into_iter().filter(|(id, _)| self.fleet.get(*id).is_none()) {
            self.expect_drive(id, &path).await?;
        }
        let here: BTreeSet<DriveId> = self.fleet.all().iter().map(|drive| drive.id).collect();
        let expected = rows.iter().filter(|row| row.state != catalog::DriveState::Removed);
        let places: BTreeSet<String> = self.fleet.all().iter().map(|drive| drive.path.display().to_string()).collect();
        for row in expected.filter(|row| !here.contains(&row.id)) {
            if row.state == catalog::DriveState::Gone {
                continue;
            }
            // Where another drive is now, it won't come back: its pieces needn't wait for it.
            let is_replaced = places.contains(&row.path);
            let then = if is_replaced { "another drive has taken its place" } else { "it was last there" };
            notes.push(format!("drive {} at {} is missing; {then}", row.id, row.path));
            if is_replaced {
                let gone = catalog::DriveRow { state: catalog::DriveState::Gone, ..row.clone() };
                self.change(move |_| Ok((catalog::put_drive(&gone), ()))).await?;
            }
        }
        self.change(move |view| match catalog::cluster(view)? {
            Some(_) => Ok(Default::default()),
            None => Ok((catalog::put_cluster(cluster), ())),
        })
        .await
    }

    /// Forgets a drive at hand.
    pub fn let_go(&self, id: DriveId) {
        self.fleet.remove(id);
        self.drives.remove(id);
        self.marks.remove(id);
    }

    /// A drive's folder is here, but its pieces can't be opened: it is known where to look for it.
    async fn expect_drive(&self, id: DriveId, path: &Path) -> Result<()> {
        let (path, now) = (path.display().to_string(), self.env.clock.wall());
        self.change(move |view| {
            let old = catalog::drive(view, id)?;
            if old.as_ref().is_some_and(|old| old.state == catalog::DriveState::Removed || old.path == path) {
                return Ok(Default::default());
            }
            // One that never worked holds nothing yet.
            let new =
                || catalog::DriveRow { id, path: path.clone(), state: catalog::DriveState::Gone, size: 0, added: now };
            let row = old.map_or_else(new, |old| catalog::DriveRow { path: path.clone(), ..old });
            Ok((catalog::put_drive(&row), ()))
        })
        .await
    }

    /// Writes the drive's row: new, moved to another folder, or back from the dead.
    pub async fn know_drive(&self, id: DriveId) -> Result<()> {
        let Some(drive) = self.fleet.get(id) else { return Ok(()) };
        let (path, size) = (drive.path.display().to_string(), drive.store.health().total);
        let now = self.env.clock.wall();
        self.change(move |view| {
            let old = catalog::drive(view, id)?;
            let mut row = old.clone().unwrap_or(catalog::DriveRow {
                id,
                path: path.clone(),
                state: catalog::DriveState::Active,
                size,
                added: now,
            });
            (row.path, row.size) = (path, size);
            if row.state == catalog::DriveState::Gone {
                row.state = catalog::DriveState::Active;
            }
            let batch = if old.as_ref() == Some(&row) { Default::default() } else { catalog::put_drive(&row) };
            Ok((batch, ()))
        })
        .await
    }
}
