//! What every part of the client shares.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use base::{DriveId, GroupId, Kind, PieceId, PolicyId, SegmentId, VolumeId};
use crypt::{RootKey, VolumeKey};
use env::Env;
use namespace::{Command, rows::MissingRow};
use placement::GroupRow;

use crate::Error;
use crate::drives::Drives;
use crate::findings::Teller;
use crate::map::{Map, POLICY_SETTING, Target};
use crate::shard::Shard;

/// A drive that doesn't answer a read for so long has failed at it.
pub(crate) const READ_MAX: Duration = Duration::from_secs(30);
/// The same of a write, which may have to wait for a whole drive's cache.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(60);
/// Late pieces that a drive may have before it gets no new ones for a while: they hold memory.
const LATE_PIECES_MAX: u32 = 8;

pub(crate) struct Core {
    pub env: Env,
    pub system: Shard,
    pub volumes: Shard,
    pub drives: Arc<Drives>,
    pub root: RootKey,
    pub teller: Teller,
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
        volumes: Shard,
        drives: Arc<Drives>,
        root: RootKey,
        teller: Teller,
    ) -> Arc<Self> {
        Arc::new(Self {
            env,
            system,
            volumes,
            drives,
            root,
            teller,
            map: RwLock::new(None),
            map_epoch: AtomicU64::new(0),
            late: Mutex::default(),
            under_way: Mutex::default(),
        })
    }

    pub fn volume_key(&self, volume: VolumeId) -> VolumeKey {
        self.root.volume_key(volume)
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
        let map = Arc::new(self.system.scan(Map::load).await?);
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
        let name = self.volumes.read(|view| Ok(namespace::read::config(view, volume, POLICY_SETTING)?))?;
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
        let done = self.volumes.execute(move |view| {
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

/// The note about one segment's missing pieces.
pub(crate) fn missing_note(
    view: &dyn base::kv::View,
    volume: VolumeId,
    segment: SegmentId,
) -> Result<Option<MissingRow>, namespace::Error> {
    // Reads begin after an id: so from the one before.
    let before = u128::from_be_bytes(segment.0).checked_sub(1).map(|id| SegmentId(id.to_be_bytes()));
    let found = namespace::read::missing(view, volume, before, 1)?.pop();
    Ok(found.filter(|found| found.segment == segment).map(|found| found.note))
}
