//! Making and opening a store, and what is refused.
//!
//! Making one is a row of steps of which each can be done twice, so that one that was cut short goes
//! on at the next start: the key file; then a folder's identity, not yet `ready`; the metadata and
//! the catalog; then `ready` on every drive. Nothing can be stored before that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::{ClusterId, DriveId, Kind};
use client::{Client, Drives, Shard};
use crypt::{RootKey, StoreKeys};
use env::{Disk, Env};
use futures_util::future::join_all;
use metastore::{Embedded, Mirror, Sequencer};
use namespace::catalog::{self, DriveState, Severity};
use tokio::sync::{Notify, mpsc, watch};

use crate::cluster::shard::{MetaShard, Role};
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Marks, Mounted, folder};
use crate::identity::{self, Folder, Identity, Lock};
use crate::members::{self, NodeFile};
use crate::node::{Inner, Node, SYSTEM, VOLUMES};
use crate::settings::{Settings, Started};
use crate::shards::Shards;
use crate::{event, groups, heal, key, supervise, upkeep};

/// Copies of the metadata.
pub(crate) const MIRRORS: usize = 3;
/// How long a node that joins waits for its copy of the catalog.
const ARRIVE_MAX: Duration = Duration::from_secs(60);
/// Between two looks for it.
const ARRIVE_EACH: Duration = Duration::from_millis(50);

/// The folders, looked at and locked.
pub(crate) struct Found {
    pub cluster: ClusterId,
    key_check: Option<[u8; 16]>,
    /// Whether the store was made completely before.
    pub ready: bool,
    pub drives: Vec<(PathBuf, Arc<Lock>, Identity)>,
    /// Folders that become drives.
    pub empty: Vec<(PathBuf, Arc<Lock>)>,
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
        let new = settings.joined.unwrap_or(ClusterId(env.random()));
        let (disk, paths, reserve) = (env.disk.clone(), settings.drives.clone(), settings.pieces.reserve_bytes);
        let found = env.blocking(move || look(&*disk, &paths, new, reserve)).await.map_err(client::Error::from)??;
        if settings.no_data && !found.ready && settings.joined.is_none() {
            return Err(Error::Invalid(
                "the first machine of a store takes data: make it without --no-data, and join others with it; nothing was changed"
                    .into(),
            ));
        }
        let key_file = settings.key_file.clone().unwrap_or_else(|| key::default_path(&settings.home, found.cluster));
        let file = node_file(&env, &settings, &found).await?;
        let (keys, words) = store_keys(&env, &settings, &found, &key_file, file.as_ref()).await?;
        let fresh = !found.ready;
        let words = words.filter(|_| fresh);
        let is_alone = file.is_none();
        let (inner, mut notes) = assemble(env, settings, found, keys, file).await?;
        if is_alone {
            inner.ensure_catalog(&mut notes).await?;
            if let Some(policy) = policy {
                inner.fix_policy(&policy).await?;
            }
            inner.settle_groups().await?;
            inner.ensure_access().await?;
        } else {
            inner.arrive(&mut notes).await?;
        }
        inner.marks.write_all(|identity| identity.ready = true).await;
        if fresh && is_alone {
            inner.tell(Severity::Info, "store", "", "the store was made".into());
        }
        for note in &notes {
            inner.tell(Severity::Warning, "store", "", note.clone());
        }
        inner.run("events", event::write(inner.clone()));
        inner.run("supervise drives", supervise::watch(inner.clone()));
        inner.run("heal", heal::heal(inner.clone()));
        // Before anything is deleted.
        inner.keep_windows().await;
        inner.run("even out", crate::even::keep(inner.clone()));
        inner.run("code anew", crate::recode::keep(inner.clone()));
        inner.run("keep proofs", crate::proof::keep(inner.clone()));
        inner.run("findings", heal::take_findings(inner.clone()));
        inner.run("upkeep", upkeep::keep(inner.clone()));
        inner.run("scrub metadata", upkeep::keep_metadata(inner.clone()));
        inner.run("watch leaders", crate::owners::spare::watch(inner.clone()));
        inner.run("restore drills", crate::owners::drill::keep(inner.clone()));
        inner.run("keep kits", crate::owners::keeper::keep(inner.clone()));
        Ok(Started { node: Node(inner), words, key_file, notes })
    }

    /// Joins a cluster with a ticket, with these folders, and goes on as [`Node::open`]. One that was cut short goes on
    /// when it is called again.
    ///
    /// # Errors
    /// The cluster's reasons, which say what would work; and those of [`Node::open`].
    pub async fn join(env: Env, settings: Settings, ticket: &wire::Ticket) -> Result<Started> {
        let (disk, paths, cluster) = (env.disk.clone(), settings.drives.clone(), ticket.claim.cluster);
        let reserve = settings.pieces.reserve_bytes;
        // Looked at before anything is said: a folder of another store is no folder of this one.
        let found =
            env.blocking(move || look(&*disk, &paths, cluster, reserve)).await.map_err(client::Error::from)??;
        if found.cluster != cluster {
            return Err(Error::Folders(format!(
                "the folders hold a store already ({}), and the ticket is of another one ({cluster}): join with empty folders; nothing was touched",
                found.cluster
            )));
        }
        drop(found);
        let ask = crate::cluster::introduction(&settings, settings.addresses.clone());
        let key = Arc::new(crypt::SigningKey::from_seed(&env.random()));
        let carrier = transport::TcpCarrier::new(env.clone(), key, settings.transport.connect)?;
        let carrier: Arc<dyn transport::Carrier> = Arc::new(carrier);
        let file = members::sign_in(&env, &settings.transport, &carrier, ticket, &ask, &settings.home).await?;
        drop(carrier);
        Node::open(env, Settings { joined: Some(file.cluster()), ..settings }).await
    }
}

/// What this machine is among others, if it is a node of a cluster: each start counts.
async fn node_file(env: &Env, settings: &Settings, found: &Found) -> Result<Option<NodeFile>> {
    let path = settings.home.join(members::node_file(found.cluster));
    let disk = env.disk.clone();
    let read = move || {
        if !disk.exists(&path) {
            return Ok(None);
        }
        let file = NodeFile::read(&*disk, &path)?;
        // Founding was cut short before anything was changed: it begins anew with the next invitation.
        if file.ticket.is_none() && file.tokens.is_empty() {
            return Ok(None);
        }
        NodeFile::start(&*disk, &path).map(Some)
    };
    let file: Option<NodeFile> = env.blocking(read).await.map_err(client::Error::from)??;
    let is_replica = found.drives.iter().any(|(.., identity)| identity.members.iter().any(|set| set.shard > VOLUMES));
    match file {
        None if is_replica => Err(Error::Folders(format!(
            "these folders are a node's of a cluster, and its file {} is not in {}: put it back, or remove the folders and join again with a ticket",
            members::node_file(found.cluster),
            settings.home.display()
        ))),
        file => Ok(file),
    }
}

/// Looks at the folders and locks them. Nothing else is changed. A folder on a drive that fails just
/// now is left out, if others hold the store: it is taken up once it works. Blocks.
pub(crate) fn look(disk: &dyn Disk, paths: &[PathBuf], new: ClusterId, reserve: u64) -> Result<Found> {
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
        if matches!(what, Ok(Folder::Empty)) && !found.ready {
            check_room(disk, path, reserve)?;
        }
    }
    for (path, what) in looked {
        // The rest of a store goes on: this may be where a drive was mounted.
        if let (Ok(Folder::Empty), Err(error)) = (&what, check_room(disk, &path, reserve)) {
            found.notes.push(error.to_string());
            continue;
        }
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
        Folder::Leftover(name) => found.notes.push(format!(
            "{} has no identity any more, only {name}: the store goes on without it; once it is empty `abide drive add` makes it a new drive",
            path.display()
        )),
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

/// A new drive that takes nothing would weigh nothing.
pub(crate) fn check_room(disk: &dyn Disk, path: &Path, reserve: u64) -> Result<()> {
    let Some(there) = path.ancestors().find(|above| disk.exists(above)) else { return Ok(()) };
    let free = disk.space(there).map_err(Error::io(format!("look for room in {}", path.display())))?.free;
    if free > reserve {
        return Ok(());
    }
    let why = format!(
        "it has no room for data: {free} bytes are free, and {reserve} of each drive are kept in reserve: make room there, or name another folder"
    );
    Err(folder(path, why, Kind::Invalid))
}

fn refuse(path: &Path, what: &Folder, cluster: Option<&(PathBuf, ClusterId)>) -> Result<()> {
    match what {
        Folder::Empty => Ok(()),
        Folder::Leftover(_) if cluster.is_some() => Ok(()),
        Folder::Foreign(name) | Folder::Leftover(name) => Err(folder(
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

/// The keys of the store that was found, or new ones for a store that is being made, with their words. A node that
/// joined has no root key.
async fn store_keys(
    env: &Env,
    settings: &Settings,
    found: &Found,
    path: &Path,
    file: Option<&NodeFile>,
) -> Result<(StoreKeys, Option<String>)> {
    let (disk, path) = (env.disk.clone(), path.to_path_buf());
    let check = found.key_check.or(file.map(|file| file.keys.check()));
    let given = settings.words.as_deref().map(RootKey::from_words).transpose();
    let given = given.map_err(|error| Error::Key { path: path.clone(), why: format!("the words: {error}") })?;
    let (random, joined) = (env.random(), file.map(|file| file.keys.clone()));
    let work = move || {
        let key = match (given, check) {
            (Some(key), _) => key,
            (None, Some(_)) if disk.exists(&path) || joined.is_none() => key::read(&*disk, &path)?,
            (None, None) if disk.exists(&path) => key::read(&*disk, &path)?,
            (None, None) => RootKey::new(random),
            (None, Some(check)) => {
                let keys = joined.filter(|keys| keys.check() == check);
                let why = "the node's file is of another store than these folders";
                return Ok((keys.ok_or_else(|| Error::Folders(why.into()))?, None));
            }
        };
        if check.is_some_and(|check| check != key.check()) {
            let why = "it is the key of another store than these folders': name the right one with --key-file, or restore it with --words";
            return Err(Error::Key { path, why: why.into() });
        }
        key::write(&*disk, &path, &key)?;
        Ok((key.store_keys(), Some(key.words())))
    };
    env.blocking(work).await.map_err(client::Error::from)?
}

/// Gives empty folders their identity, opens drives and metadata.
async fn assemble(
    env: Env,
    settings: Settings,
    found: Found,
    keys: StoreKeys,
    file: Option<NodeFile>,
) -> Result<(Arc<Inner>, Vec<String>)> {
    let Found { cluster, ready, drives: mut at_hand, empty, mut notes, .. } = found;
    for (path, lock) in empty {
        match join(&env, &path, cluster, keys.check(), ready).await {
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
    let shards = match &file {
        None => open_shards(&env, &settings, &at_hand, &marks, &keys).await?,
        // Those of which a replica was made here are opened before the catalog is there to name them.
        Some(file) => {
            let numbers: BTreeSet<u32> = file.turns.keys().copied().chain([SYSTEM, VOLUMES]).collect();
            Shards::new(numbers.into_iter().map(|shard| MetaShard::new(&env, shard, Role::Changing)))
        }
    };
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
    let catalog = shards.get(SYSTEM).ok_or_else(|| Error::Folders("the store has no catalog".into()))?;
    let system = Shard::new(env.clone(), catalog.clone());
    let client = Client::new(env.clone(), catalog, shards.clone(), drives.clone(), keys.clone());
    let (alive, ended) = mpsc::channel(1);
    let inner = Arc::new(Inner {
        owners: crate::owners::Owners::new(env.clone()),
        heal: heal::Heal::new().into(),
        users: Default::default(),
        safeties: Default::default(),
        upkeep: upkeep::Upkeep::new(env.clock.now()).into(),
        lived: crate::lived::Lived::new(env.clock.now()).into(),
        env,
        settings,
        id: cluster,
        key_check: keys.check(),
        keys,
        marks,
        fleet,
        drives,
        shards,
        system,
        client,
        cluster: OnceLock::new(),
        events: event::Events::default(),
        wake: Notify::new(),
        filing: tokio::sync::Mutex::default(),
        changing: tokio::sync::Mutex::default(),
        writable: AtomicBool::new(true),
        closing: watch::channel(false).0,
        closed: AtomicBool::new(false),
        loops: Some(alive).into(),
        ended: ended.into(),
    });
    inner.shards.set_node(&inner);
    if let Some(file) = file {
        inner.go_on(&file).await?;
    }
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
    keys: &StoreKeys,
) -> Result<Arc<Shards>> {
    let [system, volumes] = [SYSTEM, VOLUMES].map(|shard| open_shard(env, settings, at_hand, marks, keys, shard));
    Ok(Shards::new([system.await?, volumes.await?]))
}

/// Opens a shard that this machine keeps alone.
async fn open_shard(
    env: &Env,
    settings: &Settings,
    at_hand: &[(PathBuf, Arc<Lock>, Identity)],
    marks: &Arc<Marks>,
    keys: &StoreKeys,
    shard: u32,
) -> Result<Arc<MetaShard>> {
    {
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
        let opened = Embedded::open(env, shard, mirrors, &keys.meta_key(), expected, options).await?;
        marks.remember(opened.members()).await;
        let sequencer = Arc::new(Sequencer::new(env, opened.clone()));
        Ok(MetaShard::new(env, shard, Role::Alone(opened, sequencer)))
    }
}

impl Inner {
    /// The catalog says whose it is, and knows every drive at hand.
    async fn ensure_catalog(&self, notes: &mut Vec<String>) -> Result<()> {
        let cluster = self.id;
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
        let expected = rows.iter().filter(|row| !matches!(row.state, DriveState::Removed | DriveState::Gone));
        for row in expected.filter(|row| self.is_mine(row) && !here.contains(&row.id)) {
            notes.push(format!("drive {} at {} is missing; it was last there", row.id, row.path));
        }
        self.change(move |view| match catalog::cluster(view)? {
            Some(_) => Ok(Default::default()),
            None => Ok((catalog::put_cluster(cluster), ())),
        })
        .await
    }

    /// A node that comes, or comes back, tells the others what it has.
    async fn arrive(self: &Arc<Self>, notes: &mut Vec<String>) -> Result<()> {
        // A node that joins begins with nothing: the catalog comes from who leads it.
        let began = self.env.clock.now();
        while self.look(catalog::cluster).map_or(true, |cluster| cluster.is_none()) {
            if self.env.clock.now().since(began) > ARRIVE_MAX {
                return Err(Error::NotYet(format!(
                    "the other nodes don't answer, and this one has no copy of the catalog yet (waited for {} s): see that they run and that their addresses can be reached from here",
                    ARRIVE_MAX.as_secs()
                )));
            }
            self.env.clock.sleep(ARRIVE_EACH).await;
        }
        if let Err(error) = self.tell_of_itself(notes).await {
            notes
                .push(format!("most nodes that keep the metadata don't answer yet ({error}): this one waits for them"));
            let later = self.clone();
            self.run("tell of itself", async move {
                while later.pause(ARRIVE_EACH * 20).await {
                    if later.tell_of_itself(&mut Vec::new()).await.is_ok() {
                        return;
                    }
                }
            });
        }
        Ok(())
    }

    async fn tell_of_itself(&self, notes: &mut Vec<String>) -> Result<()> {
        if let Some(cluster) = self.cluster.get() {
            let (me, listens, name) = (cluster.me, self.listens(cluster), self.settings.name.clone());
            crate::cluster::change(&self.system, |view| Ok((members::moved(view, me, &listens, &name)?, ()))).await?;
            let labels = &self.settings.labels;
            if !labels.is_empty() {
                let relabel = |view: &dyn base::kv::View| Ok((members::relabel(view, me, labels)?, ()));
                if let Err(error) = crate::cluster::change(&self.system, relabel).await {
                    notes.push(format!("the labels stay as they were: {error}"));
                }
            }
        }
        self.ensure_catalog(notes).await
    }

    /// A drive is at hand: for this node's client, and for others.
    pub fn hold(&self, drive: Arc<Mounted>) {
        self.drives.set(drive.id, Arc::new(drive.store.clone()));
        if let Some(cluster) = self.cluster.get() {
            cluster.pieces.set(drive.id, drive.store.clone());
        }
        self.fleet.set(drive);
    }

    /// Forgets a drive at hand.
    pub fn let_go(&self, id: DriveId) {
        if let Some(cluster) = self.cluster.get() {
            cluster.pieces.remove(id);
        }
        self.fleet.remove(id);
        self.drives.remove(id);
        self.marks.remove(id);
    }

    /// A drive's folder is here, but its pieces can't be opened: it is known where to look for it.
    async fn expect_drive(&self, id: DriveId, path: &Path) -> Result<()> {
        let (path, now) = (path.display().to_string(), self.env.clock.wall());
        let node = self.me();
        self.change(|view| {
            let old = catalog::drive(view, id)?;
            if old.as_ref().is_some_and(|old| old.state == catalog::DriveState::Removed || old.path == path) {
                return Ok(Default::default());
            }
            // One that never worked holds nothing yet.
            let new = || catalog::DriveRow {
                id,
                path: path.clone(),
                state: catalog::DriveState::Gone,
                size: 0,
                added: now,
                node,
            };
            let row = old.map_or_else(new, |old| catalog::DriveRow { path: path.clone(), node, ..old });
            Ok((catalog::put_drive(&row), ()))
        })
        .await
    }

    /// Writes the drive's row: new, moved to another folder, or back from the dead.
    pub async fn know_drive(&self, id: DriveId) -> Result<()> {
        let Some(drive) = self.fleet.get(id) else { return Ok(()) };
        let (path, total) = (drive.path.display().to_string(), drive.store.health().total.max(1));
        let no_data = self.settings.no_data;
        let (now, node) = (self.env.clock.wall(), self.me());
        self.change(|view| {
            let old = catalog::drive(view, id)?;
            // What it is there for is said when it joins, and stays so.
            let size = match old.as_ref().filter(|old| old.state != catalog::DriveState::Gone || old.takes_data()) {
                Some(old) if !old.takes_data() => 0,
                None if no_data => 0,
                _ => total,
            };
            let mut row = old.clone().unwrap_or(catalog::DriveRow {
                id,
                path: path.clone(),
                state: catalog::DriveState::Active,
                size,
                added: now,
                node,
            });
            (row.path, row.size, row.node) = (path.clone(), size, node);
            if row.state == catalog::DriveState::Gone {
                row.state = catalog::DriveState::Active;
            }
            let batch = if old.as_ref() == Some(&row) { Default::default() } else { catalog::put_drive(&row) };
            Ok((batch, ()))
        })
        .await
    }
}
