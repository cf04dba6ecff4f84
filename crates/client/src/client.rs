//! The store as faces see it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base::kv::View;
use base::{SegmentId, UserId, VolumeId, Wall};
use crypt::StoreKeys;
use env::Env;
use namespace::catalog::{self, AccessKey, NewBucket, SealedVolume, User};
use namespace::read::{Found, ListQuery, Listed, Object, Page};
use namespace::wire::Query;
use namespace::{Body, Command, Outcome, Part, Upload, UploadId, Version, VersionId, Versioning};
use tokio::sync::mpsc;

use crate::Error;
use crate::access::{Access, FolderPlace, rewrap};
use crate::core::Core;
use crate::drives::Drives;
use crate::findings::{Finding, Teller};
use crate::pack::{self, Item};
use crate::read::{ReadStream, Reading};
use crate::registry::{Registry, segments};
use crate::run::Run;
use crate::shard::{Hint, Metadata, Shard, Volumes};
use crate::spare::{Read, Rows, Spares, read_only, unless_lost};
use crate::writer::{Content, Writer};

/// Buckets that are remembered by name.
const BUCKETS_KEPT_MAX: usize = 10_000;
/// Folders of end-to-end volumes, of which each has packs of its own, that are remembered.
const FOLDERS_MAX: usize = 64;

/// A bucket as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The volume behind it.
    pub volume: VolumeId,
    /// Who made it.
    pub owner: UserId,
    /// When.
    pub created: Wall,
    /// The region that its maker named; empty if none.
    pub region: String,
    /// Its keys are with its owner alone: an end-to-end volume.
    pub sealed: bool,
}

impl From<catalog::Bucket> for Bucket {
    fn from(row: catalog::Bucket) -> Self {
        let catalog::Bucket { name, volume, owner, created, region } = row;
        Self { name, volume, owner, created, region, sealed: false }
    }
}

impl Bucket {
    /// A volume without its name, for work on its segments: repair, compaction, garbage.
    pub fn of_volume(volume: VolumeId) -> Self {
        let (name, region) = (String::new(), String::new());
        Self { name, volume, owner: UserId(String::new()), created: Wall(0), region, sealed: false }
    }
}

/// Whose objects share packs: those of a volume that one folder's key seals.
type Sharing = (VolumeId, Option<FolderPlace>);

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    registry: Arc<Registry>,
    packs: Mutex<BTreeMap<Sharing, mpsc::Sender<Item>>>,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    /// Raised with every change of a bucket, so that a read that began before is not kept.
    buckets_epoch: AtomicU64,
    findings: Mutex<Option<mpsc::Receiver<Finding>>>,
}

impl Client {
    /// A client of the metadata shards and the drives. `drives` is kept up to date by the caller. Who uses end-to-end
    /// volumes alone has no `keys`.
    pub fn new(
        env: Env,
        system: Arc<dyn Metadata>,
        volumes: Arc<dyn Volumes>,
        drives: Arc<Drives>,
        keys: impl Into<Option<StoreKeys>>,
    ) -> Self {
        let (teller, findings) = Teller::new();
        let system = Shard::new(env.clone(), system);
        Self(Arc::new(Inner {
            core: Core::new(env, system, volumes, drives, keys.into(), teller),
            registry: Arc::default(),
            packs: Mutex::default(),
            buckets: RwLock::default(),
            buckets_epoch: AtomicU64::new(0),
            findings: Mutex::new(Some(findings)),
        }))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// Goes on to read by these rows when nobody leads. Said once.
    pub fn set_spares(&self, spares: Arc<dyn Spares>) {
        // The first word counts.
        let _ = self.core().spares.set(spares);
    }

    /// For people: what is read without whoever leads it, since when; nothing if all is well.
    pub fn without_leaders(&self) -> Option<String> {
        self.core().spares.get()?.said()
    }

    fn is_catalog_lost(&self) -> bool {
        self.core().spares.get().is_some_and(|spares| spares.is_catalog_lost())
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// The drives.
    pub fn drives(&self) -> &Arc<Drives> {
        &self.core().drives
    }

    /// What reads notice, to be repaired. Given once.
    pub fn findings(&self) -> Option<mpsc::Receiver<Finding>> {
        self.0.findings.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Policies, groups or the default policy changed: look at them anew.
    pub fn map_changed(&self) {
        self.core().forget_map();
    }

    /// The catalog was changed, perhaps by another node: nothing that is remembered of it counts any more.
    pub fn catalog_changed(&self) {
        self.map_changed();
        self.forget_buckets();
    }
}

/// The catalog.
impl Client {
    async fn system<T: Send + 'static>(
        &self,
        read: impl Fn(&dyn View) -> Result<T, namespace::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let system = &self.core().system;
        if self.is_catalog_lost()
            && let Some(done) = system.peek(|view| Ok::<_, Error>(read(view)?))?
        {
            return Ok(done);
        }
        system.scan(None, move |view| Ok(read(view)?)).await
    }

    /// One row of the catalog: as it is known here, or, if it isn't, asked for.
    async fn row<T>(
        &self,
        read: impl Fn(&dyn View) -> Result<Option<T>, namespace::Error> + Send + Sync,
    ) -> Result<Option<T>, Error> {
        let system = &self.core().system;
        match system.peek(|view| Ok::<_, Error>(read(view)?))? {
            Some(Some(row)) => Ok(Some(row)),
            // Nobody knows better.
            Some(None) if self.is_catalog_lost() => Ok(None),
            _ => system.read(None, |view| Ok(read(view)?)).await,
        }
    }

    /// Makes a bucket.
    pub async fn create_bucket(&self, name: &str, owner: &UserId, region: &str) -> Result<Arc<Bucket>, Error> {
        // Volume keys derive from the root key: nothing is wrapped.
        let new = NewBucket { name: name.into(), owner: owner.clone(), region: region.into(), wrapped_key: Vec::new() };
        let now = self.core().env.clock.wall();
        let made = self.core().system.execute(move |view| catalog::create_bucket(view, &new, now)).await;
        self.forget_buckets();
        Ok(Arc::new(made?.into()))
    }

    /// Makes a bucket whose keys are its owner's alone; `of` says what of the number that it gets.
    pub async fn create_sealed(
        &self,
        name: &str,
        owner: &UserId,
        of: impl Fn(VolumeId) -> SealedVolume + Send,
    ) -> Result<Arc<Bucket>, Error> {
        let new = NewBucket { name: name.into(), owner: owner.clone(), region: String::new(), wrapped_key: Vec::new() };
        let now = self.core().env.clock.wall();
        let rule = move |view: &dyn View| {
            let (mut batch, made) = catalog::create_bucket(view, &new, now)?;
            batch.puts.extend(catalog::put_sealed_volume(&of(made.volume)).puts);
            Ok((batch, made))
        };
        let made = self.core().system.execute(rule).await;
        self.forget_buckets();
        Ok(Arc::new(Bucket { sealed: true, ..Bucket::from(made?) }))
    }

    /// Removes an empty bucket: first its volume is closed, so that nothing can come any more.
    pub async fn delete_bucket(&self, name: &str) -> Result<(), Error> {
        self.remove_bucket(name, Command::Close).await
    }

    /// Removes a bucket with all that is in it; what becomes of that, and whether it can be had back, is the affair of
    /// whoever keeps the store.
    pub async fn delete_full_bucket(&self, name: &str) -> Result<(), Error> {
        self.remove_bucket(name, Command::Shut).await
    }

    /// Brings back a bucket that was deleted, under its name or another one.
    ///
    /// # Errors
    /// If it can't be had back any more, or the name was taken meanwhile.
    pub async fn restore_bucket(&self, volume: VolumeId, name: Option<&str>) -> Result<Arc<Bucket>, Error> {
        let name = name.map(str::to_owned);
        // Looked at first: nothing is reopened that can't have its name.
        self.core()
            .system
            .read(None, |view| catalog::restore_bucket(view, volume, name.as_deref()).map(drop).map_err(Error::from))
            .await?;
        // In this order: nobody gets its name to a volume that takes nothing.
        self.commit(&Bucket::of_volume(volume), Command::Reopen).await?;
        let back = self.core().system.execute(move |view| catalog::restore_bucket(view, volume, name.as_deref())).await;
        self.forget_buckets();
        Ok(Arc::new(back?.into()))
    }

    async fn remove_bucket(&self, name: &str, close: Command) -> Result<(), Error> {
        let bucket = self.bucket(name).await?.ok_or(namespace::Error::NoSuchBucket)?;
        self.commit(&bucket, close).await?;
        let now = self.core().env.clock.wall();
        let gone = name.to_owned();
        let done = self.core().system.execute(move |view| catalog::delete_bucket(view, &gone, now)).await;
        self.forget_buckets();
        self.0.packs.lock().unwrap_or_else(PoisonError::into_inner).retain(|(volume, _), _| *volume != bucket.volume);
        done.map(|_| ())
    }

    fn forget_buckets(&self) {
        self.0.buckets_epoch.fetch_add(1, Ordering::SeqCst);
        self.0.buckets.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The bucket of this name.
    pub async fn bucket(&self, name: &str) -> Result<Option<Arc<Bucket>>, Error> {
        if let Some(bucket) = self.0.buckets.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Some(bucket.clone()));
        }
        let epoch = self.0.buckets_epoch.load(Ordering::SeqCst);
        let both = |view: &dyn View| {
            let Some(row) = catalog::bucket(view, name)? else { return Ok(None) };
            let sealed = catalog::sealed_volume(view, row.volume)?.is_some();
            Ok(Some((row, sealed)))
        };
        let Some((row, sealed)) = self.row(both).await? else { return Ok(None) };
        let bucket = Arc::new(Bucket { sealed, ..Bucket::from(row) });
        let mut kept = self.0.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if self.0.buckets_epoch.load(Ordering::SeqCst) == epoch {
            if kept.len() >= BUCKETS_KEPT_MAX {
                kept.clear();
            }
            kept.insert(name.to_owned(), bucket.clone());
        }
        Ok(Some(bucket))
    }

    /// An owner's buckets by name, those that begin with `prefix` and sort after `after`.
    pub async fn buckets(&self, owner: &UserId, prefix: &str, after: &str, limit: usize) -> Result<Vec<Bucket>, Error> {
        let (owner, prefix, after) = (owner.clone(), prefix.to_owned(), after.to_owned());
        let rows = self.system(move |view| catalog::list_buckets(view, &owner, &prefix, &after, limit)).await?;
        Ok(rows.into_iter().map(Bucket::from).collect())
    }

    /// Everybody's buckets by name, those after `after`.
    pub async fn all_buckets(&self, after: &str, limit: usize) -> Result<Vec<Bucket>, Error> {
        let after = after.to_owned();
        let rows = self.system(move |view| catalog::list_all_buckets(view, &after, limit)).await?;
        Ok(rows.into_iter().map(Bucket::from).collect())
    }

    /// An access key, disabled or not.
    pub async fn access_key(&self, id: &str) -> Result<Option<AccessKey>, Error> {
        self.row(|view| catalog::access_key(view, id)).await
    }

    /// Access keys by id, those after `after`.
    pub async fn access_keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<AccessKey>, Error> {
        let after = after.map(str::to_owned);
        self.system(move |view| catalog::access_keys(view, after.as_deref(), limit)).await
    }

    /// Adds a key, or changes the one of this id.
    pub async fn put_access_key(&self, key: AccessKey) -> Result<(), Error> {
        self.core().system.execute(move |view| Ok((catalog::put_access_key(view, &key)?, ()))).await
    }

    /// Disables a key; `None` if there is none of this id.
    pub async fn revoke_access_key(&self, id: &str) -> Result<Option<AccessKey>, Error> {
        let id = id.to_owned();
        let rule = move |view: &dyn View| match catalog::revoke_access_key(view, &id)? {
            Some((batch, key)) => Ok((batch, Some(key))),
            None => Ok(Default::default()),
        };
        self.core().system.execute(rule).await
    }

    /// A user.
    pub async fn user(&self, id: &UserId) -> Result<Option<User>, Error> {
        self.row(|view| catalog::user(view, id)).await
    }

    /// The user with this e-mail address.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<User>, Error> {
        let email = email.to_owned();
        self.system(move |view| catalog::user_by_email(view, &email)).await
    }

    /// Users by id, those after `after`.
    pub async fn users(&self, after: Option<&UserId>, limit: usize) -> Result<Vec<User>, Error> {
        let after = after.cloned();
        self.system(move |view| catalog::users(view, after.as_ref(), limit)).await
    }

    /// Adds or changes a user.
    pub async fn put_user(&self, user: User) -> Result<(), Error> {
        self.core().system.execute(move |view| Ok((catalog::put_user(view, &user)?, ()))).await
    }
}

/// What the shard's leader, if it is another node, is told along with a question.
fn hint(shard: &Shard, volume: VolumeId, query: impl FnOnce() -> Query) -> Option<Hint> {
    (!shard.is_led_here()).then(|| (volume, query()))
}

/// A volume.
impl Client {
    /// Reads many rows.
    async fn scan<T: Send + 'static>(
        &self,
        bucket: &Bucket,
        query: Query,
        read: impl Fn(&dyn View, VolumeId) -> Result<T, namespace::Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let volume = bucket.volume;
        let shard = self.core().shard(volume);
        let read = Arc::new(read);
        let rule = read.clone();
        let led = shard.scan(hint(&shard, volume, || query), move |view| Ok(rule(view, volume)?));
        match unless_lost(self.core().spares.get(), volume, led).await {
            Read::Led(done) => done,
            Read::Lost => {
                let rows = self.spare_rows(volume).await?;
                let work = move || read(&rows.rows, volume);
                Ok(self.core().env.blocking(work).await??)
            }
        }
    }

    /// Copies have no uploads: nobody is told that there are none.
    fn refuse_if_lost(&self, bucket: &Bucket) -> Result<(), Error> {
        let is_lost = self.core().spares.get().is_some_and(|spares| spares.is_lost(bucket.volume));
        if is_lost { Err(read_only()) } else { Ok(()) }
    }

    /// Rows of a volume whose shard nobody leads.
    async fn spare_rows(&self, volume: VolumeId) -> Result<Arc<Rows>, Error> {
        let spares = self.core().spares.get().ok_or_else(read_only)?;
        spares.rows(volume).await
    }

    /// Reads a few rows.
    async fn look<T>(
        &self,
        bucket: &Bucket,
        query: impl FnOnce() -> Query,
        read: impl Fn(&dyn View, VolumeId) -> Result<T, namespace::Error> + Send + Sync,
    ) -> Result<T, Error> {
        let volume = bucket.volume;
        let shard = self.core().shard(volume);
        let led = shard.read(hint(&shard, volume, query), |view| Ok(read(view, volume)?));
        match unless_lost(self.core().spares.get(), volume, led).await {
            Read::Led(done) => done,
            Read::Lost => Ok(read(&self.spare_rows(volume).await?.rows, volume)?),
        }
    }

    /// Changes the bucket; durable when this returns. Content that the command names is given up if
    /// the rules say no.
    pub async fn commit(&self, bucket: &Bucket, command: Command) -> Result<Outcome, Error> {
        let body = match &command {
            Command::Put { new, .. } => Some(&new.body),
            Command::PutPart { part, .. } => Some(&part.body),
            Command::Rebody { to, .. } => Some(to),
            _ => None,
        };
        if let Err(error) = self.refuse_if_lost(bucket) {
            self.discard_all(body);
            return Err(error);
        }
        let committing = body.map(|body| self.0.registry.begin(body)).transpose();
        let mut committing = committing.map_err(|segment| namespace::Error::SegmentGone { segment })?;
        let fresh = committing.as_ref().map(|committing| committing.runs.clone()).unwrap_or_default();
        // A move that came too late changes nothing; and who moves keeps its own count of contents,
        // which it gives up at the end.
        let moves = matches!(command, Command::Rebody { .. });
        let notes: Vec<_> = fresh.iter().map(|run| run.note()).collect();
        let mut missing = Vec::new();
        for (run, lost) in fresh.iter().zip(&notes) {
            let mut all = lost.clone();
            all.extend(self.moved_away(run).await?);
            missing.extend(note(run, &all));
        }
        let is_setting = matches!(
            command,
            Command::SetConfig { .. }
                | Command::SetVersioning(_)
                | Command::Close
                | Command::Shut
                | Command::Reopen
                | Command::Empty
        );
        let work = self.core().new_work(bucket.volume, command, missing);
        let done = self.core().shard(bucket.volume).work(work).await;
        if is_setting {
            self.core().settings.forget(bucket.volume);
        }
        let segments: Vec<SegmentId> = fresh.iter().map(|run| run.segment).collect();
        let refused =
            |error: &Error| matches!(error, Error::Namespace(error) if !base::Kinded::kind(error).is_transient());
        if let Some(mut committing) = committing.take() {
            // Otherwise it is perhaps in use after all: the sweep looks.
            committing.known = done.as_ref().map_or_else(refused, |_| !moves);
        }
        match &done {
            Ok(_) => {
                if !moves {
                    self.0.registry.settle(segments, true);
                }
                for (run, missing) in fresh.iter().zip(notes) {
                    run.committed(missing).await;
                }
            }
            Err(error) if !moves && refused(error) => self.0.registry.settle(segments, false),
            Err(_) => {}
        }
        done
    }

    /// Pieces of a fresh segment that lie where its group's row no longer says: the group moved on
    /// while the segment waited for its commit.
    async fn moved_away(&self, run: &Run) -> Result<BTreeSet<u8>, Error> {
        let row = self.core().group(run.target.policy.id, run.target.group.group).await?;
        if row.version == run.target.group.version {
            return Ok(BTreeSet::new());
        }
        let moved = |index: &usize| !row.holders(*index).any(|drive| drive == run.drive(*index));
        Ok((0..run.target.n()).filter(moved).map(|index| index as u8).collect())
    }

    /// Content that won't be committed: its bytes are given back.
    pub fn discard(&self, content: &Content) {
        self.discard_all([&content.body]);
    }

    pub(crate) fn discard_all<'a>(&self, bodies: impl IntoIterator<Item = &'a Body>) {
        bodies.into_iter().for_each(|body| self.0.registry.settle(segments(body), false));
    }

    /// A version, or the current one; its body if `with_body`. A current delete marker is
    /// [`Found::Marker`].
    pub async fn head(
        &self,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionId>,
        with_body: bool,
    ) -> Result<Found, Error> {
        let query = || Query::Head { key: key.into(), version, with_body };
        self.look(bucket, query, |view, volume| namespace::read::head(view, volume, key, version, with_body)).await
    }

    /// As [`Client::head`], for who asks by the bucket's name.
    ///
    /// # Errors
    /// [`namespace::Error::Closed`] if there is nothing because the bucket is being deleted, or was.
    pub async fn find(
        &self,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionId>,
        with_body: bool,
    ) -> Result<Found, Error> {
        let query = || Query::Head { key: key.into(), version, with_body };
        self.look(bucket, query, |view, volume| namespace::read::find(view, volume, key, version, with_body)).await
    }

    /// Whether the bucket is being deleted, or was: what was looked up by name may be a moment old.
    pub async fn is_closed(&self, bucket: &Bucket) -> Result<bool, Error> {
        let closed = |view: &dyn View, volume| namespace::read::stats(view, volume).map(|head| head.closed);
        self.look(bucket, || Query::Versioning, closed).await
    }

    /// Current versions, without delete markers.
    pub async fn list(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Object>, Error> {
        let query = query.clone();
        let hint = Query::List(query.clone());
        self.scan(bucket, hint, move |view, volume| namespace::read::list(view, volume, &query)).await
    }

    /// All versions and delete markers, newest of a key first.
    pub async fn list_versions(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Listed>, Error> {
        let query = query.clone();
        let hint = Query::ListVersions(query.clone());
        self.scan(bucket, hint, move |view, volume| namespace::read::list_versions(view, volume, &query)).await
    }

    /// Uploads under way.
    pub async fn uploads(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Upload>, Error> {
        self.refuse_if_lost(bucket)?;
        let query = query.clone();
        let hint = Query::Uploads(query.clone());
        self.scan(bucket, hint, move |view, volume| namespace::read::uploads(view, volume, &query)).await
    }

    /// One upload.
    pub async fn upload(&self, bucket: &Bucket, key: &str, id: UploadId) -> Result<Upload, Error> {
        self.refuse_if_lost(bucket)?;
        let query = || Query::Upload { key: key.into(), id };
        self.look(bucket, query, |view, volume| namespace::read::upload(view, volume, key, id)).await
    }

    /// Parts of an upload by number, those after `after`.
    pub async fn parts(
        &self,
        bucket: &Bucket,
        key: &str,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<Part>, Error> {
        self.refuse_if_lost(bucket)?;
        let key = key.to_owned();
        let hint = Query::Parts { key: key.clone(), id, after, limit };
        self.scan(bucket, hint, move |view, volume| namespace::read::parts(view, volume, &key, id, after, limit)).await
    }

    /// A setting of the bucket.
    pub async fn config(&self, bucket: &Bucket, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.core().config(bucket.volume, name).await
    }

    /// Sets or removes a setting of the bucket.
    pub async fn set_config(&self, bucket: &Bucket, name: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        self.commit(bucket, Command::SetConfig { name: name.to_owned(), value }).await.map(|_| ())
    }

    /// Whether the bucket keeps old versions.
    pub async fn versioning(&self, bucket: &Bucket) -> Result<Versioning, Error> {
        self.look(bucket, || Query::Versioning, namespace::read::versioning).await
    }

    /// Takes an object's bytes; `len` if they are known.
    pub fn writer(&self, bucket: &Bucket, len: Option<u64>) -> Writer {
        self.writer_as(bucket, len, Access::Volume)
    }

    /// The same, by whose keys `access` says.
    pub fn writer_as(&self, bucket: &Bucket, len: Option<u64>, access: Access) -> Writer {
        let volume = bucket.volume;
        let packs = self.packs(volume, &access);
        Writer::new(self.core().clone(), self.0.registry.clone(), packs, volume, len, access)
    }

    pub(crate) fn packs(&self, volume: VolumeId, access: &Access) -> mpsc::Sender<Item> {
        let place = match access {
            Access::Volume => None,
            Access::File { folder, .. } => Some(folder.place()),
        };
        let sharing = (volume, place);
        let mut packs = self.0.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if sharing.1.is_some() && !packs.contains_key(&sharing) {
            let folders = packs.keys().filter(|(_, place)| place.is_some()).count();
            // A worker ends with the last writer that knows it.
            packs.retain(|(_, place), _| place.is_none() || folders < FOLDERS_MAX);
        }
        packs.entry(sharing).or_insert_with(|| pack::worker(self.core(), &self.0.registry, volume)).clone()
    }

    /// The bytes of a version, which was read with its body.
    pub fn read(&self, bucket: &Bucket, version: &Version, range: Range<u64>) -> Result<ReadStream, Error> {
        self.read_as(bucket, version, range, &Access::Volume)
    }

    /// The same, by whose keys `access` says.
    pub fn read_as(
        &self,
        bucket: &Bucket,
        version: &Version,
        range: Range<u64>,
        access: &Access,
    ) -> Result<ReadStream, Error> {
        let reading = Reading::new(self.core(), bucket.volume, access)?;
        ReadStream::new(reading, version.body.clone(), version.size, range)
    }
}

/// End-to-end volumes.
impl Client {
    /// The content of a version for a copy of it, or for its new name: no byte moves, only the keys are wrapped anew, by
    /// `to` instead of `from`.
    pub fn rewrapped(&self, bucket: &Bucket, version: &Version, from: &Access, to: &Access) -> Result<Content, Error> {
        let (core, volume, size) = (self.core(), bucket.volume, version.size);
        let (opener, other) = (from.opener(core, volume)?, to.opener(core, volume)?);
        Ok(Content { size, body: rewrap(core, &version.body, size, &opener, (to, &other))? })
    }
}

/// The command that notes what a fresh segment lacks.
fn note(run: &Run, missing: &BTreeSet<u8>) -> Option<Command> {
    (!missing.is_empty()).then(|| Command::NoteMissing {
        segment: run.segment,
        policy: run.target.policy.id,
        group: run.target.group.group,
        missing: missing.iter().copied().collect(),
    })
}
