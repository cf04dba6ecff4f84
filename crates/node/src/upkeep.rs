//! Work that keeps a store small and sound: garbage, packs, trash, logs, scrubbing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{DriveId, Instant, PieceId, SegmentId, VolumeId, Wall};
use client::{Fault, Finding, Metadata};
use futures_util::future::join_all;
use namespace::Command;
use namespace::catalog::{self, Severity};
use piecestore::{Condition, Cursor};
use serde::Serialize;

use crate::error::Result;
use crate::fleet::{Mounted, lock};
use crate::heal::Home;
use crate::node::{Inner, Node, PAGE};
use crate::orphans::{self, Orphans};
use crate::pass::Ask;

/// Each kind of work is done about this often.
const EVERY: Duration = Duration::from_secs(20);
/// Bytes of logs moved in one go, so that writes in between don't wait long.
const CLEAN_BYTES: u64 = 32 << 20;
/// Bytes of pieces read in one go.
const SCRUB_BYTES: u64 = 8 << 20;
/// Packs of which at most half is in use are emptied.
const PACK_SIXTEENTHS: u8 = 8;
/// … if they are no longer being filled.
const PACK_AGE_MIN: Duration = Duration::from_secs(300);
/// Packs that are emptied at a time.
const PACKS_MAX: usize = 16;
/// Scrubbing in the background rests at least this long between steps.
const SCRUB_REST: Duration = Duration::from_millis(250);
/// … and this long as long as there is nothing on the drive: each round is noted in the catalog.
const SCRUB_REST_EMPTY: Duration = Duration::from_secs(600);

/// The metadata is scrubbed so often, for the first time so long after a start.
const METADATA_EVERY: Duration = Duration::from_secs(24 * 3600);
const METADATA_FIRST: Duration = Duration::from_secs(600);

/// How far slow work has come.
pub(crate) struct Upkeep {
    done: Instant,
    /// Where the background scrub of each drive is.
    scrubs: BTreeMap<DriveId, Scrub>,
    /// Damaged pieces found since the start.
    pub damaged: u64,
}

#[derive(Clone, Copy, Default)]
struct Scrub {
    cursor: Option<Cursor>,
    /// The store's age when this round began.
    began: Option<Duration>,
    /// When the next step is due.
    due: Instant,
    /// There was nothing on the drive: the next step is due as soon as there is something.
    found_nothing: bool,
    orphans: Orphans,
}

impl Upkeep {
    pub fn new(now: Instant) -> Self {
        Self { done: now, scrubs: BTreeMap::new(), damaged: 0 }
    }
}

#[cfg(test)]
impl Upkeep {
    /// Whether so many drives were read through and searched for orphans, and nothing is due for an hour.
    pub(crate) fn rests(&self, drives: usize, now: Instant) -> bool {
        let rests = |one: &Scrub| one.orphans == Orphans::Done && one.due > now + Duration::from_secs(3600);
        self.scrubs.len() == drives && self.scrubs.values().all(rests)
    }
}

/// What a scrub read and found.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Scrubbed {
    /// Pieces read.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pieces that weren't as they were written; they are being rebuilt.
    pub damaged: u64,
    /// Pieces that weren't there; they are being rebuilt.
    pub missing: u64,
    /// Places of the metadata's copies that weren't as they were written; put right from the other copies.
    pub metadata: u64,
    /// Those of them that could not be put right.
    pub metadata_left: u64,
    /// Stores of the metadata that could not be read: they were just being closed or made anew.
    pub metadata_unread: u64,
}

/// Reads all copies of the metadata once a day: little beside the pieces, and all of them hang on it.
pub(crate) async fn keep_metadata(inner: Arc<Inner>) {
    let mut rest = METADATA_FIRST;
    while inner.pause(rest).await {
        inner.scrub_metadata(SCRUB_REST).await;
        rest = METADATA_EVERY;
    }
}

/// Does what is due until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    while inner.pause(SCRUB_REST).await {
        // Also to shards that this node leads since a moment ago.
        inner.keep_windows().await;
        inner.scrub_a_little().await;
        let now = inner.env.clock.now();
        if now.since(lock(&inner.upkeep).done) < EVERY {
            continue;
        }
        lock(&inner.upkeep).done = now;
        if let Err(error) = inner.client.sweep_uncommitted().await {
            tracing::warn!(%error, "failed to give back what was never committed: trying again");
        }
        if inner.leads_volumes()
            && let Err(error) = inner.keep_volumes().await
        {
            tracing::warn!(%error, "failed to collect garbage: trying again");
        }
        inner.keep_drives().await;
        inner.forget_done().await;
    }
}

impl Inner {
    pub(crate) async fn keep_volumes(self: &Arc<Self>) -> Result<()> {
        let now = self.env.clock.wall();
        let old = Wall(now.0.saturating_sub(self.settings.garbage_after.as_millis() as u64));
        let young = Wall(now.0.saturating_sub(PACK_AGE_MIN.as_millis() as u64));
        for volume in self.volumes()? {
            if self.is_closing() {
                return Ok(());
            }
            self.keep_deleted_of(volume).await?;
            self.collect(volume, old).await?;
            let packs = self
                .scan(volume, move |view| {
                    namespace::read::packs_by_live_share(view, volume, PACK_SIXTEENTHS, young, PACKS_MAX)
                })
                .await?;
            // Only their owner can seal the objects of a pack anew.
            let is_sealed = self.is_sealed(volume)?;
            for pack in packs.into_iter().filter(|_| !is_sealed) {
                if let Err(error) = self.client.compact_pack(volume, pack.segment).await {
                    tracing::info!(pack = %pack.segment, %error, "failed to empty a pack: trying again later");
                }
            }
        }
        self.empty_dead().await?;
        self.forget_dead().await
    }

    /// Deletes the pieces of segments that were freed before `old`.
    async fn collect(&self, volume: VolumeId, old: Wall) -> Result<()> {
        // Guests name the segments of such a volume themselves.
        let only_of = self.is_sealed(volume)?.then_some(volume);
        let mut after = None;
        loop {
            let page = self.scan(volume, move |view| namespace::read::garbage(view, volume, after, PAGE)).await?;
            after = page.last().map(|garbage| garbage.segment);
            let full = page.len() == PAGE;
            let mut collected: Vec<SegmentId> = Vec::new();
            for garbage in page.into_iter().filter(|garbage| garbage.row.freed <= old) {
                // Drives that aren't there are asked for orphans when they return.
                let place = (garbage.row.policy, garbage.row.group);
                match self.client.delete_pieces(garbage.segment, place, only_of).await {
                    Ok(_) => collected.push(garbage.segment),
                    Err(error) => {
                        tracing::info!(segment = %garbage.segment, %error, "failed to delete a freed segment")
                    }
                }
            }
            if !collected.is_empty() {
                let command = Command::CollectedGarbage { segments: collected };
                self.client.commit(&self.bucket_of(volume), command).await?;
            }
            if !full || self.is_closing() {
                return Ok(());
            }
        }
    }

    /// Forgets volumes of deleted buckets once they hold nothing any more.
    async fn forget_dead(&self) -> Result<()> {
        for dead in self.look(|view| catalog::dead_volumes(view, None, PAGE))? {
            let volume = dead.volume;
            let holds = self.scan(volume, move |view| {
                let garbage = namespace::read::garbage(view, volume, None, 1)?;
                let is_freed = garbage.is_empty() && namespace::read::segments(view, volume, None, 1)?.is_empty();
                Ok(!is_freed || !namespace::undo::is_empty(view, volume)?)
            });
            if !holds.await? {
                self.change(move |view| Ok((catalog::forget_volume(view, volume)?, ()))).await?;
            }
        }
        Ok(())
    }

    /// What was done a while ago needn't be remembered any more: nobody asks for it again.
    async fn forget_done(&self) {
        if self.cluster.get().is_none() {
            return;
        }
        for shard in self.shards.all().into_iter().filter(|shard| shard.is_led_here()) {
            let shard = client::Shard::new(self.env.clone(), shard);
            let now = self.env.clock.wall();
            if let Err(error) = shard.execute(|view| Ok((namespace::work::forget_done(view, now)?, ()))).await {
                tracing::debug!(%error, "what was done is remembered a little longer");
            }
        }
    }

    async fn keep_drives(self: &Arc<Self>) {
        join_all(self.fleet.up().into_iter().map(|drive| self.keep_drive(drive))).await;
    }

    async fn keep_drive(&self, drive: Arc<Mounted>) {
        let now = self.env.clock.wall();
        let kept = async {
            drive.store.empty_trash(now).await?;
            drive.store.expire(now).await?;
            while !self.is_closing() && !drive.store.clean_step(CLEAN_BYTES).await?.is_done {}
            Ok::<_, piecestore::Error>(())
        };
        if let Err(error) = kept.await {
            tracing::info!(drive = %drive.id, %error, "failed to give room back: trying again later");
        }
    }

    /// One step of the background scrub of each drive that is due, and of its search for orphans.
    async fn scrub_a_little(self: &Arc<Self>) {
        let now = self.env.clock.now();
        for drive in self.fleet.up() {
            let Scrub { cursor, due, orphans, found_nothing, .. } =
                *lock(&self.upkeep).scrubs.entry(drive.id).or_insert_with(|| Scrub { due: now, ..Scrub::default() });
            let next = self.look_for_orphans(&drive, orphans, orphans::STEP).await;
            if let Some(scrub) = lock(&self.upkeep).scrubs.get_mut(&drive.id) {
                scrub.orphans = next;
            }
            if now < due && (!found_nothing || drive.store.health().live_bytes == 0) {
                continue;
            }
            let Ok(began) = self.age() else { return };
            let step = drive.store.scrub_step(cursor, SCRUB_BYTES).await;
            let Ok(step) = step else { continue };
            let whole = drive.store.health().live_bytes.max(step.bytes);
            let rest = self.scrub_rest(whole, step.bytes);
            let damaged = step.findings.iter().filter(|found| found.condition == Condition::Damaged);
            for found in damaged {
                self.damaged(found.id, &drive).await;
            }
            let mut ended = None;
            if let Some(scrub) = lock(&self.upkeep).scrubs.get_mut(&drive.id) {
                if cursor.is_none() {
                    scrub.began = Some(began);
                }
                if step.next.is_none() {
                    if scrub.orphans == Orphans::Done {
                        scrub.orphans = Orphans::default();
                    }
                    ended = scrub.began.take();
                }
                (scrub.cursor, scrub.due, scrub.found_nothing) = (step.next, now + rest, whole == 0);
            }
            if let Some(began) = ended {
                self.was_scrubbed(drive.id, began).await;
            }
        }
    }

    /// How long to wait after so many bytes of so many for a round to take its time.
    fn scrub_rest(&self, whole: u64, bytes: u64) -> Duration {
        if whole == 0 {
            return self.settings.scrub_every.min(SCRUB_REST_EMPTY).max(SCRUB_REST);
        }
        let share = bytes.max(whole / 10_000) as f64 / whole as f64;
        self.settings.scrub_every.mul_f64(share.min(1.0)).max(SCRUB_REST)
    }

    /// A piece that a scrub found damaged is rebuilt, if it is of use. False if it is waste.
    async fn damaged(&self, piece: PieceId, drive: &Mounted) -> bool {
        // In this order: what is committed in between is seen in the rows.
        let is_fresh = self.is_fresh(piece.segment).await;
        let waste = async {
            drive.store.delete(vec![piece]).await?;
            Ok(false)
        };
        let found = async |(volume, policy, group)| {
            let row = self.group(policy, group)?;
            if row.is_some_and(|row| row.holders(usize::from(piece.index)).all(|holder| holder != drive.id)) {
                // It was moved: another drive has it.
                return Ok(None);
            }
            lock(&self.upkeep).damaged += 1;
            let drive = Some(drive.id);
            self.found(Finding { volume, policy, group, piece, drive, fault: Fault::Damaged }).await.map(Some)
        };
        let result = match self.home_of(piece.segment).await {
            Ok(Home::Group(volume, policy, group)) => match found((volume, policy, group)).await {
                Ok(Some(())) => Ok(true),
                Ok(None) => waste.await,
                Err(error) => Err(error),
            },
            Ok(Home::None) if !is_fresh => waste.await,
            Ok(Home::None | Home::Garbage) => Ok(false),
            Err(error) => Err(error),
        };
        result.unwrap_or_else(|error: crate::Error| {
            tracing::warn!(%piece, drive = %drive.id, %error, "failed to note a damaged piece: scrubbing finds it again");
            true
        })
    }
}

impl Inner {
    /// Reads all copies of the metadata that this node keeps, and puts right what rotted; and how many of them could not
    /// be read.
    async fn scrub_metadata(&self, rest: Duration) -> (metastore::Scrubbed, u64) {
        let (mut all, mut unread) = (metastore::Scrubbed::default(), 0);
        for shard in self.shards.all().into_iter().flat_map(|shard| shard.stores()) {
            tracing::debug!(shard = shard.shard(), "scrubbing metadata");
            match shard.scrub(rest).await {
                Ok(found) => all.add(found),
                // It was closed, or its copy here is being made anew.
                Err(error) => {
                    tracing::info!(shard = shard.shard(), %error, "failed to scrub a shard's metadata");
                    unread += 1;
                }
            }
        }
        if all.damaged > 0 {
            let text = format!(
                "{} places of the metadata's copies had rotted: {}",
                all.damaged,
                match all.left {
                    0 => "put right from the other copies".into(),
                    left => format!("{left} could not be put right: replace the drives that fail"),
                }
            );
            self.tell(Severity::Warning, "metadata", "", text);
        }
        (all, unread)
    }
}

impl Node {
    /// Reads all pieces on all drives now and checks them, and this node's copies of the metadata; asks the drives for
    /// what they should have.
    pub async fn scrub(&self) -> Result<Scrubbed> {
        let inner = &self.0;
        let each = inner.fleet.up().into_iter().map(|drive| async move {
            let (mut sum, mut cursor, began) = (Scrubbed::default(), None, inner.age()?);
            loop {
                let step = drive.store.scrub_step(cursor, SCRUB_BYTES).await?;
                sum.bytes += step.bytes;
                sum.pieces += step.findings.len() as u64;
                for found in step.findings.iter().filter(|found| found.condition == Condition::Damaged) {
                    sum.damaged += u64::from(inner.damaged(found.id, &drive).await);
                }
                cursor = step.next;
                if cursor.is_none() {
                    tracing::debug!(drive = %drive.id, pieces = sum.pieces, "all pieces are read");
                    inner.was_scrubbed(drive.id, began).await;
                }
                if cursor.is_none() || inner.is_closing() {
                    return Ok::<_, crate::Error>(sum);
                }
            }
        });
        let mut all = Scrubbed::default();
        for sum in join_all(each).await {
            let sum = sum?;
            all.pieces += sum.pieces;
            all.bytes += sum.bytes;
            all.damaged += sum.damaged;
        }
        tracing::debug!("the drives are scrubbed: the metadata is next");
        let (metadata, unread) = inner.scrub_metadata(Duration::ZERO).await;
        tracing::debug!("the metadata is scrubbed: drives are asked for what they should have");
        (all.metadata, all.metadata_left, all.metadata_unread) = (metadata.damaged, metadata.left, unread);
        let began = inner.age()?;
        all.missing = inner.walk(Ask::All).await?.iter().map(|walked| walked.lacking).sum();
        inner.was_checked(began).await?;
        inner.wake.notify_one();
        let text = format!("scrub: {} pieces read, {} damaged, {} missing", all.pieces, all.damaged, all.missing);
        let severity = if all.damaged + all.missing == 0 { Severity::Info } else { Severity::Warning };
        inner.tell(severity, "scrub", "", text);
        Ok(all)
    }
}
