//! Appending a group to every mirror, and going on without one that fails.

use std::sync::Arc;
use std::time::Duration;

use base::kv::Batch;
use base::{DriveId, Seq};
use tokio::sync::oneshot;

use crate::Error;
use crate::embedded::apply::batch_cells;
use crate::embedded::map::MapView;
use crate::embedded::side::{Due, Side};
use crate::embedded::{Layers, LogInfo, MemberSet, Shared, Writer, members};
use crate::layer::CellRow;
use crate::record::{FILE_HEAD, FileHead, RecordKind, append, write_batch};

/// For how long an answer about free room is good, and for how many bytes written since.
const ROOM_TTL: Duration = Duration::from_secs(1);
/// Groups from this size on are sealed off the reactor.
const INLINE_SEAL_BYTES: usize = 128 * 1024;

/// Groups below this size are worth zeros written ahead: syncing a file that needn't grow takes half as long. Larger
/// groups would only be written twice.
const SMALL_GROUP_BYTES: u64 = 64 * 1024;
/// How far zeros are written ahead: the longer the file, the further.
const AHEAD_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=1024 * 1024;

/// How long a drive may take over one write and sync.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// A batch on its way into the rows.
struct Pending {
    range_dels: Vec<std::ops::Range<Vec<u8>>>,
    cells: Vec<CellRow>,
    /// Bytes of its large values.
    large: u64,
}

/// Lets the batches after `before` take effect, unseen yet. Gives the last one's place.
fn apply(layers: &Layers, before: Seq, pending: Vec<Pending>) -> Result<Seq, Error> {
    let mut head = before;
    for batch in pending {
        let mut cells = Vec::new();
        for range in &batch.range_dels {
            cells.extend(layers.removed(head, &range.start..&range.end)?);
        }
        cells.extend(batch.cells);
        head = Seq(head.0 + 1);
        layers.active.apply(head, cells);
    }
    Ok(head)
}

impl Shared {
    /// Runs `work` for every mirror side by side, off the reactor; gives the mirrors that failed. A
    /// drive that doesn't answer within the limit has failed: it must not hold up the others. What
    /// it still does later hurts nobody, since it is no member any more.
    pub(super) async fn on_all(
        &self,
        sides: &[Arc<Side>],
        limit: Duration,
        work: impl Fn(&Side) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Vec<(DriveId, Error)> {
        let work = Arc::new(work);
        let mut waits = Vec::with_capacity(sides.len());
        for side in sides {
            let (send, receive) = oneshot::channel();
            let (task_side, work) = (Arc::clone(side), Arc::clone(&work));
            self.env.spawn.blocking(Box::new(move || {
                let result = work(&task_side);
                // Let go of before it is told: who waits may want to open the shard again.
                drop((task_side, work));
                // Who waits may have been cancelled; the work is done all the same.
                let _ = send.send(result);
            }));
            waits.push((side, receive));
        }
        let mut failed = Vec::new();
        for (side, wait) in waits {
            let result = match self.env.timeout(limit, wait).await {
                Some(result) => result.unwrap_or_else(|_| Err(env::Cut.into())),
                None => Err(Error::Io {
                    what: format!("use the metadata in {}", side.dir.display()),
                    kind: base::Kind::Unreachable,
                    text: format!("the drive did not answer for {} s", limit.as_secs()),
                }),
            };
            if let Err(error) = result {
                failed.push((side.drive, error));
            }
        }
        failed
    }

    /// Goes on without the mirrors that failed: see invariant 2. Fails if none is left.
    pub(super) async fn drop_sides(&self, mut failed: Vec<(DriveId, Error)>) -> Result<(), Error> {
        while !failed.is_empty() {
            for (drive, error) in &failed {
                tracing::warn!(shard = self.shard, %drive, %error, "failed to write the metadata's mirror: going on without it");
            }
            let sides = self.sides();
            let left: Vec<_> =
                sides.iter().filter(|side| failed.iter().all(|(drive, _)| *drive != side.drive)).cloned().collect();
            if left.is_empty() {
                let (_, error) = failed.swap_remove(0);
                return Err(error);
            }
            failed = self.set_members(left).await;
        }
        Ok(())
    }

    /// Makes `sides` the member set, durably on all of them; gives those that failed.
    pub(super) async fn set_members(&self, sides: Vec<Arc<Side>>) -> Vec<(DriveId, Error)> {
        let old = self.members.borrow().clone();
        let mut drives: Vec<DriveId> = sides.iter().map(|side| side.drive).collect();
        drives.sort();
        let set = MemberSet { epoch: base::Epoch(old.epoch.0 + 1), drives, ..old };
        let written = set.clone();
        let failed = self
            .on_all(&sides, WRITE_LIMIT, move |side| {
                members::write(&*side.disk, &side.dir, &written)
                    .map_err(|error| Error::io(format!("write {}", side.dir.join("members").display()), &error))
            })
            .await;
        self.replace_sides(sides);
        self.members.send_replace(set.clone());
        if failed.is_empty()
            && let Some(tell) = &self.options.on_members
        {
            tell(set).await;
        }
        failed
    }

    /// Fails, with nothing written, if every mirror's drive is nearly full.
    pub(super) async fn check_space(&self, writer: &mut Writer) -> Result<(), Error> {
        let now = self.env.clock.now();
        let reserve = self.options.reserve_bytes;
        if let Some((at, free)) = writer.room
            && now.since(at) < ROOM_TTL
            && free > reserve
        {
            return Ok(());
        }
        let sides = self.sides();
        let ask = move || {
            let free = sides.iter().map(|side| side.disk.space(&side.dir).map_or(u64::MAX, |space| space.free));
            free.max().unwrap_or(0)
        };
        let free = self.env.blocking(ask).await?;
        writer.room = Some((now, free));
        if free <= reserve { Err(Error::Full { free, reserve }) } else { Ok(()) }
    }

    /// Begins a new log file if there is none or the last is full.
    pub(super) async fn roll(&self, writer: &mut Writer) -> Result<(), Error> {
        if writer.current.is_some() && writer.end < self.options.file_bytes {
            return Ok(());
        }
        self.cut(writer).await?;
        let head = FileHead {
            shard: self.shard,
            generation: 0,
            number: writer.file + 1,
            after: writer.head,
            epoch: self.epoch,
            salt: self.env.random(),
            previous: writer.file,
            previous_end: writer.end,
            end: 0,
        };
        let sealer = Arc::new(self.key.log_key(head.salt));
        let (number, after) = (head.number, head.after);
        let failed = self
            .on_all(&self.sides(), WRITE_LIMIT, move |side| {
                side.create_log(&head)
                    .map_err(|error| Error::io(format!("create {}", side.path(head.number).display()), &error))
            })
            .await;
        self.drop_sides(failed).await?;
        writer.file = number;
        (writer.end, writer.durable, writer.ahead) = (FILE_HEAD, FILE_HEAD, FILE_HEAD);
        writer.current = Some((number, sealer));
        self.note_log(number, LogInfo { after, generation: 0, end: FILE_HEAD, values: Some(0) });
        Ok(())
    }

    /// Writes `bytes` at the writer's end on every mirror.
    pub(super) async fn append(&self, writer: &mut Writer, mut bytes: Vec<u8>, due: Due) -> Result<(), Error> {
        let (file, offset, len) = (writer.file, writer.end, bytes.len() as u64);
        let end = offset + len;
        let mut ahead = writer.ahead.max(end);
        if due == Due::Now && len < SMALL_GROUP_BYTES && end > writer.ahead {
            let step = end.next_power_of_two().clamp(*AHEAD_BYTES.start(), *AHEAD_BYTES.end());
            ahead = end.next_multiple_of(step).min(self.options.file_bytes.max(end));
            bytes.resize((ahead - offset) as usize, 0);
        }
        let now = self.env.clock.now();
        let append = move |side: &Side| side.append(file, offset, &bytes, due, now);
        let failed = self.on_all(&self.sides(), WRITE_LIMIT, append).await;
        self.drop_sides(failed).await?;
        (writer.end, writer.ahead) = (end, ahead);
        if due == Due::Now {
            writer.durable = end;
        }
        writer.since += len;
        if let Some((_, free)) = &mut writer.room {
            *free = free.saturating_sub(len);
        }
        Ok(())
    }

    /// Makes everything durable that isn't yet.
    pub(super) async fn sync(&self, writer: &mut Writer) -> Result<(), Error> {
        if writer.durable == writer.end {
            return Ok(());
        }
        let (file, end) = (writer.file, writer.end);
        let failed = self.on_all(&self.sides(), WRITE_LIMIT, move |side| side.sync(file)).await;
        if let Err(error) = self.drop_sides(failed).await {
            writer.broken = Some(Error::Broken { why: error.to_string() });
            return Err(error);
        }
        writer.durable = end;
        Ok(())
    }

    /// Makes everything durable, and the file as long as what is in it: it is written no more.
    pub(super) async fn cut(&self, writer: &mut Writer) -> Result<(), Error> {
        if writer.ahead == writer.end {
            return self.sync(writer).await;
        }
        let (file, end) = (writer.file, writer.end);
        let failed = self.on_all(&self.sides(), WRITE_LIMIT, move |side| side.rewrite_from(file, end, &[])).await;
        self.drop_sides(failed).await?;
        (writer.durable, writer.ahead) = (end, end);
        Ok(())
    }

    /// Appends a group and lets readers see it.
    pub(super) async fn commit_group(
        &self,
        writer: &mut Writer,
        batches: Vec<Batch>,
        dropped: Vec<Vec<u32>>,
        due: Due,
    ) -> Result<Seq, Error> {
        self.roll(writer).await?;
        let (bytes, pending) = self.encode_group(writer, batches, dropped).await?;
        let reads = pending.iter().any(|batch| !batch.range_dels.is_empty());
        self.append(writer, bytes, due).await?;
        let (_, layers) = self.layers();
        let values = pending.iter().map(|batch| batch.large).sum();
        let (before, first) = (writer.head, Arc::clone(&layers));
        let apply = move || apply(&first, before, pending);
        // Removing a range reads the map: that may wait for the drive.
        let head = if reads { self.env.blocking(apply).await?? } else { apply()? };
        writer.head = head;
        self.note_end(writer.file, writer.end, values);
        self.see(|seen| seen.head = head);
        if writer.since >= self.options.checkpoint_bytes || layers.active.bytes() >= self.options.layer_bytes {
            self.due.notify_one();
        }
        Ok(head)
    }

    async fn encode_group(
        &self,
        writer: &Writer,
        batches: Vec<Batch>,
        dropped: Vec<Vec<u32>>,
    ) -> Result<(Vec<u8>, Vec<Pending>), Error> {
        let Some((file, sealer)) = writer.current.clone() else {
            return Err(Error::bug("a group without a log file"));
        };
        let (end, durable, head) = (writer.end, writer.durable, writer.head);
        let min = self.options.value_bytes_min;
        let size: usize = batches.iter().map(Batch::size).sum();
        let encode = move || {
            let mut bytes = Vec::with_capacity(size + size / 8 + 256);
            let mut pending = Vec::with_capacity(batches.len());
            for (index, mut batch) in batches.into_iter().enumerate() {
                let seq = Seq(head.0 + 1 + index as u64);
                let mut places = Vec::new();
                let gone = dropped.get(index).map_or(&[][..], Vec::as_slice);
                let is_kept = |put: usize| !gone.contains(&(put as u32));
                let placed = append(&mut bytes, end, &sealer, (RecordKind::Batch, seq, durable), |to| {
                    places = write_batch(to, &batch, is_kept);
                });
                let range_dels = std::mem::take(&mut batch.range_dels);
                let large = batch.puts.iter().map(|(_, value)| value.len()).filter(|len| *len >= min);
                let large = large.sum::<usize>() as u64;
                pending.push(Pending {
                    range_dels,
                    large,
                    cells: batch_cells(batch, &places, is_kept, min, seq, file, placed),
                });
            }
            (bytes, pending)
        };
        if size < INLINE_SEAL_BYTES { Ok(encode()) } else { Ok(self.env.blocking(encode).await?) }
    }

    pub(super) fn note_log(&self, number: u64, info: LogInfo) {
        self.logs.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(number, info);
    }

    /// The file was appended to, large values among it.
    pub(super) fn note_end(&self, number: u64, end: u64, values: u64) {
        if let Some(info) = self.logs.write().unwrap_or_else(std::sync::PoisonError::into_inner).get_mut(&number) {
            info.end = end;
            info.values = info.values.map(|before| before + values);
        }
    }

    /// The mirrors from now on. Readers leave the maps of the others, which close when their last
    /// user is gone.
    pub(super) fn replace_sides(&self, sides: Vec<Arc<Side>>) {
        *self.sides.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(sides);
        self.see(|seen| {
            let layers = Layers::clone(&seen.layers);
            let maps = self.still_mirrors(layers.maps);
            seen.layers = Arc::new(Layers { maps, ..layers });
        });
    }

    /// The views of maps that are mirrors still; all, if none is.
    pub(super) fn still_mirrors(&self, views: Vec<Arc<MapView>>) -> Vec<Arc<MapView>> {
        let sides = self.sides();
        let left: Vec<_> =
            views.iter().filter(|view| sides.iter().any(|side| view.is_in(&side.dir))).cloned().collect();
        if left.is_empty() { views } else { left }
    }
}
