//! What every part of the client shares.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use base::{DriveId, GroupId, Kind, PieceId, PolicyId, SegmentId, VolumeId};
use crypt::{StoreKeys, VolumeKey, VolumeRoot};
use env::Env;
use namespace::Command;
use namespace::read::missing_note;
use namespace::wire::Query;
use namespace::work::Work;
use placement::GroupRow;

use crate::Error;
use crate::access::Folder;
use crate::ahead::Budget;
use crate::drives::Drives;
use crate::findings::Teller;
use crate::map::{Map, POLICY_SETTING, Target};
use crate::settings::Settings;
use crate::shard::{Shard, Volumes};
use crate::spare::{Read, Spares, unless_lost};

/// A drive that doesn't answer a read for so long has failed at it.
pub(crate) const READ_MAX: Duration = Duration::from_secs(30);
/// The same of a write, which may have to wait for a whole drive's cache.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(60);
/// Late pieces that a drive may have before it gets no new ones for a while: they hold memory.
const LATE_PIECES_MAX: u32 = 8;
/// Volumes whose public keys are remembered.
const FOLDERS_KEPT_MAX: usize = 10_000;

pub(crate) struct Core {
    pub env: Env,
    pub system: Shard,
    volumes: Arc<dyn Volumes>,
    pub drives: Arc<Drives>,
    /// The store's; who has volumes' keys from elsewhere has none.
    keys: Option<StoreKeys>,
    /// What seals headers of volumes whose keys the store has.
    folders: Mutex<BTreeMap<VolumeId, Arc<Folder>>>,
    pub teller: Teller,
    pub settings: Settings,
    /// What is read when nobody leads.
    pub spares: OnceLock<Arc<dyn Spares>>,
    /// What streams read ahead.
    pub ahead: Arc<Budget>,
    map: RwLock<Option<Arc<Map>>>,
    /// Raised with every invalidation, so that a load that began before is not kept.
    map_epoch: AtomicU64,
    late: Mutex<BTreeMap<DriveId, u32>>,
    /// Segments that are being written: no row names them yet, and their pieces are no orphans.
    under_way: Mutex<BTreeSet<SegmentId>>,
}

impl Core {
    pub fn new(
        env: Env,
        system: Shard,
        volumes: Arc<dyn Volumes>,
        drives: Arc<Drives>,
        keys: Option<StoreKeys>,
        teller: Teller,
    ) -> Arc<Self> {
        Arc::new(Self {
            env,
            system,
            volumes,
            drives,
            keys,
            folders: Mutex::default(),
            teller,
            settings: Settings::default(),
            spares: OnceLock::new(),
            ahead: Arc::default(),
            map: RwLock::new(None),
            map_epoch: AtomicU64::new(0),
            late: Mutex::default(),
            under_way: Mutex::default(),
        })
    }

    /// The metadata shard that has the volume's rows.
    pub fn shard(&self, volume: VolumeId) -> Shard {
        Shard::new(self.env.clone(), self.volumes.of(volume))
    }

    /// The key of a volume of which the store has it.
    pub fn volume_key(&self, volume: VolumeId) -> Result<VolumeKey, Error> {
        let what = "there are no keys of the store's volumes here: only a file's own key opens anything";
        self.keys.as_ref().map(|keys| keys.volume_key(volume)).ok_or(Error::Invalid { what })
    }

    /// What seals headers of the volume's pieces. Kept: its public key takes longer than all else that a header does.
    pub fn folder(&self, volume: VolumeId) -> Result<Arc<Folder>, Error> {
        let kept = |folders: &BTreeMap<VolumeId, Arc<Folder>>| folders.get(&volume).cloned();
        if let Some(folder) = kept(&self.folders.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(folder);
        }
        let folder = Arc::new(Folder::of_root(&VolumeRoot::of(&self.volume_key(volume)?)));
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.len() >= FOLDERS_KEPT_MAX {
            folders.clear();
        }
        folders.insert(volume, folder.clone());
        Ok(folder)
    }

    /// Policies and groups changed: load them anew when next needed.
    pub fn forget_map(&self) {
        self.map_epoch.fetch_add(1, Ordering::SeqCst);
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub async fn map(&self) -> Result<Arc<Map>, Error> {
        if let Some(map) = self.map.read().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(map);
        }
        let epoch = self.map_epoch.load(Ordering::SeqCst);
        // As it is known here: a table that is a little old is as good, and pieces that lie where it says
        // are found.
        let map = match self.system.peek(Map::load)? {
            Some(map) => map,
            None => self.system.scan(None, Map::load).await?,
        };
        let map = Arc::new(map);
        let mut kept = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if self.map_epoch.load(Ordering::SeqCst) == epoch {
            *kept = Some(map.clone());
        }
        Ok(map)
    }

    /// The group's row; asked for anew if it isn't known.
    pub async fn group(&self, policy: PolicyId, group: GroupId) -> Result<Arc<GroupRow>, Error> {
        if let Some(row) = self.map().await?.group(policy, group) {
            return Ok(row);
        }
        self.forget_map();
        let row = self.map().await?.group(policy, group);
        row.ok_or(Error::Namespace(namespace::Error::Broken { what: "a segment's placement group is not there" }))
    }

    /// Where a new segment of the volume goes.
    pub async fn target(&self, volume: VolumeId) -> Result<Target, Error> {
        let name = self.config(volume, POLICY_SETTING).await?;
        let name = name.and_then(|name| String::from_utf8(name).ok());
        let chance = u64::from_le_bytes(self.env.random());
        match self.map().await?.choose(name.as_deref(), &self.drives, chance) {
            Err(Error::TooFewPieces { .. } | Error::NoPolicy { .. }) => {
                // The node may have changed the table a moment ago.
                self.forget_map();
                let map = self.map().await?;
                match map.choose(name.as_deref(), &self.drives, chance) {
                    // Too few drives are left for the bucket's own code: writes go on with the
                    // store's, which follows the drives.
                    Err(Error::TooFewPieces { .. }) if name.is_some() => map.choose(None, &self.drives, chance),
                    other => other,
                }
            }
            other => other,
        }
    }

    /// A setting of a volume. It may be a moment old, if its shard is led elsewhere by now.
    pub async fn config(&self, volume: VolumeId, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match unless_lost(self.spares.get(), volume, self.config_led(volume, name)).await {
            Read::Led(done) => done,
            // Copies don't have it. Without it a bucket is its owner's alone.
            Read::Lost => Ok(None),
        }
    }

    async fn config_led(&self, volume: VolumeId, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let rule = |view: &dyn base::kv::View| Ok::<_, Error>(namespace::read::config(view, volume, name)?);
        let shard = self.shard(volume);
        let now = self.env.clock.now();
        if shard.is_led_here() {
            if self.settings.led(volume, now)
                && let Some(value) = shard.peek(rule)?
            {
                return Ok(value);
            }
            let value = shard.read(None, rule).await?;
            self.settings.set_led(volume, now);
            return Ok(value);
        }
        if let Some(value) = self.settings.get(volume, name, now) {
            return Ok(value);
        }
        let hint = (volume, Query::Config { name: name.into() });
        let value = shard.read(Some(hint), rule).await?;
        self.settings.set(volume, name, value.clone(), now);
        Ok(value)
    }

    /// A command with what its content lacks, to be done once.
    pub fn new_work(&self, volume: VolumeId, command: Command, notes: Vec<Command>) -> Work {
        Work { id: self.env.random(), made: self.env.clock.wall(), volume, command, notes }
    }

    pub fn new_segment(&self) -> SegmentId {
        SegmentId(self.env.random())
    }

    /// The segments that are being written.
    pub fn under_way(&self) -> MutexGuard<'_, BTreeSet<SegmentId>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a drive answers about a piece, if it does within `limit`: a hung drive has failed.
    pub async fn within<T>(
        &self,
        limit: Duration,
        piece: PieceId,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let text = || format!("its drive did not answer for {} s", limit.as_secs());
        let answer = self.env.timeout(limit, work).await;
        answer.unwrap_or_else(|| Err(Error::Drive { piece, kind: Kind::Unreachable, text: text() }))
    }

    /// Takes a piece off the note of what is missing, if there is one.
    pub async fn forget_missing(&self, volume: VolumeId, segment: SegmentId, index: u8) {
        let now = self.env.clock.wall();
        let shard = self.shard(volume);
        let done = shard.execute(move |view| {
            let Some(note) = missing_note(view, volume, segment)? else { return Ok(Default::default()) };
            let missing = note.missing.into_iter().filter(|at| *at != index).collect();
            let command = Command::NoteMissing { segment, policy: note.policy, group: note.group, missing };
            Ok((namespace::apply(view, volume, &command, now)?.0, ()))
        });
        if let Err(error) = done.await {
            tracing::debug!(%segment, index, %error, "a late piece stays noted as missing: repair will find it there");
        }
    }

    /// One more late piece of the drive; false if there are too many.
    pub fn late_begin(&self, drive: DriveId) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let count = late.entry(drive).or_insert(0);
        if *count >= LATE_PIECES_MAX {
            return false;
        }
        *count += 1;
        true
    }

    pub fn late_end(&self, drive: DriveId) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = late.get_mut(&drive) {
            *count = count.saturating_sub(1);
        }
    }
}
