//! Giving back the room of values that no row points at any more.
//!
//! A log file goes through this, each step durable before the next:
//! 1. Values of the file that rows still point at are written again, as `Moved` records at the
//!    log's end. Every value of the file is looked up by its key, so that none is forgotten.
//! 2. Everybody who took a snapshot before that lets go of it.
//! 3. The file is written anew without its large values, and takes the old one's place: what is
//!    left is the journal.
//! 4. When [`crate::Options::retain_entries`] says that nobody needs them, the oldest of such files
//!    go altogether.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use base::Seq;
use base::kv::Batch;

use crate::Error;
use crate::embedded::side::{Due, Side};
use crate::embedded::tail::{Record, Walk};
use crate::embedded::{Embedded, LogInfo, Shared, lock, read};
use crate::layer::Cell;
use crate::record::{BatchBody, FILE_HEAD, FileHead, Move, RecordKind, append, read_moves, write_batch, write_moves};

/// Bytes that a step of the background cleaning moves.
const STEP_BYTES: u64 = 4 * 1024 * 1024;

/// What a step of cleaning did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Bytes of values that were written again.
    pub moved_bytes: u64,
    /// Bytes of log that were given back, on each mirror.
    pub freed_bytes: u64,
    /// Nothing is left to do now; what snapshots hold back is done when they are dropped.
    pub is_done: bool,
}

/// A log file on its way to being given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    file: u64,
    /// Values before this have been looked at.
    offset: u64,
    /// Snapshots from before this cleaning must go first; 0 while values are being moved.
    wait: u64,
}

/// A value of the file, alive.
type Live = Move<Vec<u8>>;

impl Embedded {
    /// One bounded step of giving back room: moves about `bytes` of values, or rewrites one log
    /// file. The store takes such steps by itself after each checkpoint.
    ///
    /// # Errors
    /// As [`crate::ShardStore::commit`].
    pub async fn clean_step(&self, bytes: u64) -> Result<Cleaned, Error> {
        self.shared.detached(move |shared| async move { shared.clean_step(bytes).await }).await
    }
}

impl Shared {
    /// Cleans until nothing is left to do.
    pub(super) async fn clean(self: &Arc<Self>) -> Result<(), Error> {
        while !self.clean_step(STEP_BYTES).await?.is_done {}
        Ok(())
    }

    async fn clean_step(self: &Arc<Self>, bytes: u64) -> Result<Cleaned, Error> {
        let mut upkeep = self.upkeep.lock().await;
        if upkeep.victim.is_none() {
            let shared = Arc::clone(self);
            upkeep.victim = self.env.blocking(move || shared.choose()).await??;
        }
        let Some(victim) = &mut upkeep.victim else { return self.trim().await };
        if victim.wait == 0 {
            return self.move_values(victim, bytes).await;
        }
        if self.is_held_before(victim.wait) {
            return Ok(Cleaned { is_done: true, ..Cleaned::default() });
        }
        let file = victim.file;
        let freed_bytes = self.shrink(file).await?;
        upkeep.victim = None;
        self.waits.store(0, Ordering::SeqCst);
        Ok(Cleaned { freed_bytes, ..Cleaned::default() })
    }

    /// The file with the most bytes of dead values, if they are at least half of its values.
    fn choose(self: &Arc<Self>) -> Result<Option<Victim>, Error> {
        let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner).clone();
        let applied = self.layers().1.maps.iter().map(|map| map.applied.file).min().unwrap_or(0);
        let live = self.live()?;
        let mut best: Option<(u64, u64)> = None;
        let mut may_scan = true;
        for (file, info) in logs.range(..applied).filter(|(_, info)| info.generation == 0) {
            let live = live.get(file).copied().unwrap_or(0);
            let values = match info.values {
                Some(values) => values,
                None if may_scan && live.saturating_mul(2) <= info.end => {
                    // One at a time: files from before this process was begun can be many.
                    may_scan = false;
                    self.count_values(*file)?
                }
                None => continue,
            };
            let dead = values.saturating_sub(live);
            let worthwhile = dead > 0 && dead.saturating_mul(2) >= values && dead.saturating_mul(8) >= info.end;
            if worthwhile && best.is_none_or(|(most, _)| dead > most) {
                best = Some((dead, *file));
            }
        }
        Ok(best.map(|(_, file)| Victim { file, offset: FILE_HEAD, wait: 0 }))
    }

    fn live(&self) -> Result<std::collections::BTreeMap<u64, u64>, Error> {
        let mut last = Error::bug("a shard without a single mirror");
        for side in self.sides().iter() {
            match side.map().and_then(|map| map.live()) {
                Ok(live) => return Ok(live),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Bytes of large values in a file.
    fn count_values(&self, file: u64) -> Result<u64, Error> {
        let mut walk = Walk::within(file, FILE_HEAD);
        let mut values = 0;
        while let Some(record) = walk.next(self)? {
            values +=
                large(&record, file, self.options.value_bytes_min)?.iter().map(|one| u64::from(one.len)).sum::<u64>();
        }
        if let Some(info) = self.logs.write().unwrap_or_else(PoisonError::into_inner).get_mut(&file) {
            info.values = Some(values);
        }
        Ok(values)
    }

    /// Step 1, some of it.
    async fn move_values(self: &Arc<Self>, victim: &mut Victim, bytes: u64) -> Result<Cleaned, Error> {
        let (shared, from) = (Arc::clone(self), *victim);
        let (moves, offset) = self.env.blocking(move || shared.alive(from, bytes)).await??;
        let moved_bytes = moves.iter().flatten().map(|one| one.value.len() as u64).sum();
        if !moves.is_empty() {
            self.append_moves(moves).await?;
        }
        match offset {
            Some(offset) => victim.offset = offset,
            None => {
                victim.wait = self.cleanings.fetch_add(1, Ordering::SeqCst) + 1;
                self.waits.store(victim.wait, Ordering::SeqCst);
            }
        }
        Ok(Cleaned { moved_bytes, ..Cleaned::default() })
    }

    /// The values that rows point at, about `bytes` of them, by record; and where to go on.
    #[allow(clippy::type_complexity)]
    fn alive(self: &Arc<Self>, victim: Victim, bytes: u64) -> Result<(Vec<Vec<Live>>, Option<u64>), Error> {
        let snapshot = read::snapshot(self);
        let mut walk = Walk::within(victim.file, victim.offset);
        let mut moves = Vec::new();
        let mut found = 0;
        while found < bytes {
            let offset = walk.offset;
            let Some(record) = walk.next(self)? else { return Ok((moves, None)) };
            let mut live = Vec::new();
            for one in large(&record, victim.file, 0)? {
                let Some(Cell::Ref(place)) = snapshot.cell(&one.key)? else { continue };
                if place.file != victim.file || place.record != offset || place.at != one.at {
                    continue;
                }
                let from = place.at as usize;
                let value = record.plain.get(from..from + place.len as usize);
                let value = value.ok_or_else(|| Error::bug("a row points beyond its record"))?.to_vec();
                found += value.len() as u64;
                live.push(Move { key: one.key, seq: place.seq, value });
            }
            if !live.is_empty() {
                moves.push(live);
            }
        }
        Ok((moves, Some(walk.offset)))
    }

    /// Writes values at the log's end, durably, and lets their rows point there.
    async fn append_moves(&self, moves: Vec<Vec<Live>>) -> Result<(), Error> {
        let mut writer = self.writer.lock().await;
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        self.check_space(&mut writer).await?;
        writer.broken = Some(Error::Broken { why: "it was cut short".into() });
        let result = async {
            self.roll(&mut writer).await?;
            let Some((file, sealer)) = writer.current.clone() else {
                return Err(Error::bug("values to move without a log file"));
            };
            let (end, durable, head) = (writer.end, writer.durable, writer.head);
            let encode = move || {
                let mut bytes = Vec::new();
                let mut placed = Vec::with_capacity(moves.len());
                for group in moves {
                    let mut places = Vec::new();
                    let at = append(&mut bytes, end, &sealer, (RecordKind::Moved, head, durable), |to| {
                        places = write_moves(to, &group);
                    });
                    let refs = group.into_iter().zip(places).map(|(one, place)| at.moved(one, place, file));
                    placed.extend(refs);
                }
                (bytes, placed)
            };
            let (bytes, placed) = self.env.blocking(encode).await?;
            let values = placed.iter().map(|one| u64::from(one.value.len)).sum();
            self.append(&mut writer, bytes, Due::Now).await?;
            self.note_end(writer.file, writer.end, values);
            let layers = self.layers().1;
            self.env.blocking(move || layers.apply_moves(head, placed)).await?
        }
        .await;
        writer.broken = result.as_ref().err().map(|error| Error::Broken { why: error.to_string() });
        result
    }

    /// Step 3: the file without its large values. Gives the bytes that it lost.
    async fn shrink(self: &Arc<Self>, file: u64) -> Result<u64, Error> {
        let sides = self.sides();
        let (shared, salt) = (Arc::clone(self), self.env.random());
        let head = self.env.blocking(move || shared.write_shrunk(&sides, file, salt)).await??;
        let mut writer = self.writer.lock().await;
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        // What took the place of the values must not be lost after them.
        self.sync(&mut writer).await?;
        let (shared, sides) = (Arc::clone(self), self.sides());
        let end = head.end;
        let (failed, freed) = self.env.blocking(move || shared.swap(&sides, &head)).await?;
        if let Err(error) = self.drop_sides(failed).await {
            writer.broken = Some(Error::Broken { why: error.to_string() });
            return Err(error);
        }
        tracing::debug!(shard = self.shard, file, end, freed, "gave back a log file's large values");
        Ok(freed)
    }

    /// Writes the new file beside the old one on every mirror, durably.
    fn write_shrunk(self: &Arc<Self>, sides: &[Arc<Side>], file: u64, salt: [u8; 16]) -> Result<FileHead, Error> {
        let old = self.any_log(file)?.head.clone();
        let snapshot = read::snapshot(self);
        let mut head = FileHead { generation: old.generation + 1, salt, ..old };
        let sealer = self.key.log_key(salt);
        let mut outs = Vec::with_capacity(sides.len());
        for side in sides {
            outs.push(side.begin_new(file)?);
        }
        let mut walk = Walk::within(file, FILE_HEAD);
        let mut end = FILE_HEAD;
        let mut bytes = Vec::new();
        loop {
            let record = walk.next(self)?;
            if let Some(Record { kind: RecordKind::Batch, seq, plain, .. }) = &record {
                let (batch, keep) = self.without_large(&snapshot, plain, *seq, file)?;
                append(&mut bytes, end, &sealer, (RecordKind::Batch, *seq, end), |to| {
                    write_batch(to, &batch, |index| keep[index]);
                });
            }
            if record.is_none() || bytes.len() as u64 >= STEP_BYTES {
                for out in &outs {
                    out.write(&bytes, end)?;
                }
                end += bytes.len() as u64;
                bytes.clear();
            }
            if record.is_none() {
                break;
            }
        }
        head.end = end;
        let first = head.encode(&self.key);
        for out in &outs {
            out.write(&first, 0)?;
            out.sync()?;
        }
        Ok(head)
    }

    /// The batch, and which of its values stay.
    fn without_large(
        &self,
        snapshot: &read::ShardSnapshot,
        plain: &[u8],
        seq: Seq,
        file: u64,
    ) -> Result<(Batch, Vec<bool>), Error> {
        let body =
            BatchBody::decode(plain).map_err(|error| Error::damaged(format!("batch {seq} in the log: {error}")))?;
        let mut keep = Vec::with_capacity(body.puts.len());
        for put in &body.puts {
            let stays = if (put.len as usize) < self.options.value_bytes_min {
                true
            } else {
                match snapshot.cell(put.key)? {
                    Some(Cell::Ref(place)) if place.file == file => {
                        return Err(Error::bug(format!("a value of log file {file:x} was not moved")));
                    }
                    // Was it written when only larger values stayed in the log? Then the log's copy
                    // is what a lost map is made from.
                    Some(Cell::Inline(_)) => true,
                    _ => false,
                }
            };
            keep.push(stays);
        }
        Ok((body.to_batch(), keep))
    }

    /// Puts the new file in the old one's place; readers of the journal wait. Gives the mirrors that
    /// failed, and the bytes that the file lost.
    #[allow(clippy::type_complexity)]
    fn swap(&self, sides: &[Arc<Side>], head: &FileHead) -> (Vec<(base::DriveId, Error)>, u64) {
        let _alone = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let number = head.number;
        let swap = |side: &Arc<Side>| side.install_new(number).err().map(|error| (side.drive, error));
        let failed = sides.iter().filter_map(swap).collect();
        lock(&self.hints).retain(|_, (file, _)| *file != number);
        let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
        let old = logs.get(&number).map_or(0, |info| info.end);
        logs.insert(number, LogInfo { after: head.after, generation: head.generation, end: head.end, values: Some(0) });
        (failed, old.saturating_sub(head.end))
    }

    /// Step 4: removes the oldest file if it was shrunk and nobody needs its entries.
    async fn trim(self: &Arc<Self>) -> Result<Cleaned, Error> {
        let nothing = Ok(Cleaned { is_done: true, ..Cleaned::default() });
        let Some(retain) = self.options.retain_entries else { return nothing };
        let mut writer = self.writer.lock().await;
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        let applied = self.layers().1.maps.iter().map(|map| map.applied.file).min().unwrap_or(0);
        let oldest = {
            let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner);
            let mut oldest = logs.iter();
            match (oldest.next(), oldest.next()) {
                (Some((number, info)), Some((_, next))) => Some((*number, *info, next.after)),
                _ => None,
            }
        };
        let Some((number, info, last)) = oldest else { return nothing };
        let needed = last.0.saturating_add(retain) > writer.head.0;
        if needed || number >= applied || info.values != Some(0) {
            return nothing;
        }
        let (shared, sides) = (Arc::clone(self), self.sides());
        let work = move || {
            let _alone = shared.files.write().unwrap_or_else(PoisonError::into_inner);
            lock(&shared.hints).retain(|_, (file, _)| *file != number);
            shared.logs.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
            sides.iter().filter_map(|side| Some((side.drive, side.remove(number).err()?))).collect::<Vec<_>>()
        };
        let failed = self.env.blocking(work).await?;
        if let Err(error) = self.drop_sides(failed).await {
            writer.broken = Some(Error::Broken { why: error.to_string() });
            return Err(error);
        }
        Ok(Cleaned { freed_bytes: info.end, ..Cleaned::default() })
    }
}

/// A large value in a record.
struct Large {
    key: Vec<u8>,
    at: u32,
    len: u32,
}

/// The values of a record from `min` bytes on.
fn large(record: &Record, file: u64, min: usize) -> Result<Vec<Large>, Error> {
    let bad = |error| Error::damaged(format!("the record of batch {} in log file {file:x}: {error}", record.seq));
    let all = match record.kind {
        RecordKind::Batch => {
            let puts = BatchBody::decode(&record.plain).map_err(bad)?.puts.into_iter();
            let kept = puts.filter(|put| put.value.is_some());
            kept.map(|put| Large { key: put.key.to_vec(), at: put.at, len: put.len }).collect()
        }
        RecordKind::Moved => {
            let placed = crate::record::Placed { record: record.offset, sealed: record.plain.len() as u32 };
            let moves = read_moves(&record.plain, file, placed).map_err(bad)?.into_iter();
            moves.map(|one| Large { key: one.key, at: one.value.at, len: one.value.len }).collect()
        }
        RecordKind::Closed => Vec::new(),
    };
    Ok(all.into_iter().filter(|one: &Large| one.len as usize >= min).collect())
}
