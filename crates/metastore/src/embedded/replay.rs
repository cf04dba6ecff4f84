//! From the log files to the rows: what the maps don't hold yet.

use std::sync::Arc;

use base::Seq;

use crate::Error;
use crate::embedded::Layers;
use crate::embedded::apply::body_cells;
use crate::embedded::map::Applied;
use crate::embedded::side::{LogFile, Side};
use crate::layer::Layer;
use crate::merge;
use crate::record::{BatchBody, Placed, Raw, RecordKind, acknowledged_beyond, read_moves};

/// What is being put together.
pub(super) struct Replay<'a> {
    pub sides: &'a [Arc<Side>],
    pub layers: Layers,
    pub head: Seq,
    /// Batches up to this are in every map.
    pub applied: Seq,
    pub value_bytes_min: usize,
    /// Memory of rows after which they are written to the maps at once.
    pub layer_bytes: usize,
}

/// One mirror's bytes of a file.
enum Copy {
    Own(Vec<u8>),
    /// The same as the first mirror's.
    AsFirst,
}

/// How many of the bytes are whole records, one after the other.
fn whole(log: &LogFile, offset: u64, bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(raw) = Raw::parse(&bytes[at..], offset + at as u64).filter(|raw| raw.open(&log.sealer).is_ok()) {
        at += raw.size;
    }
    at
}

impl Replay<'_> {
    /// Takes in a log file from `offset` on; `end` is where it ends if that is known. Mirrors that
    /// have less, or other bytes, are put right. Gives the end.
    pub fn file(&mut self, number: u64, offset: u64, end: Option<u64>) -> Result<u64, Error> {
        let log = self.any_log(number)?;
        let mut copies: Vec<Copy> = Vec::with_capacity(self.sides.len());
        let (mut is_told, mut untold) = (false, None);
        for side in self.sides {
            // Files can be large, and as a rule all are the same: one in memory is enough then.
            let same = copies.first().is_some_and(|first| match first {
                Copy::Own(bytes) => side.holds(number, offset, bytes).unwrap_or(false),
                Copy::AsFirst => false,
            });
            if same {
                is_told = true;
                copies.push(Copy::AsFirst);
                continue;
            }
            let read = side.read_from(number, offset);
            match &read {
                Ok(_) => is_told = true,
                Err(error) if error.is_untold() => untold = Some(error.clone()),
                // Damage, or no file: another one's word is needed as well.
                Err(_) => {}
            }
            // A mirror that can't be read now has nothing to offer; writing to it will tell.
            copies.push(Copy::Own(read.unwrap_or_default()));
        }
        // What nobody could read is not what nobody has.
        if let (false, Some(error)) = (is_told, untold) {
            return Err(error);
        }
        let good = self.agree(&log, number, offset, end, &mut copies)?;
        for (side, copy) in self.sides.iter().zip(&copies) {
            let copy = match (copy, copies.first()) {
                (Copy::Own(copy), _) | (Copy::AsFirst, Some(Copy::Own(copy))) => copy,
                // All are the same, and good.
                _ => &good,
            };
            let same = copy.iter().zip(&good).take_while(|(a, b)| a == b).count();
            // Also those that agree are synced: what another process left unsynced must not be
            // shown and lost later.
            if same < good.len() || copy.len() != good.len() {
                side.rewrite_from(number, offset + same as u64, &good[same..])?;
            } else if end.is_none() {
                side.rewrite_from(number, offset + good.len() as u64, &[])?;
            }
        }
        self.records(&log, number, offset, &good)?;
        Ok(offset + good.len() as u64)
    }

    fn any_log(&self, number: u64) -> Result<Arc<LogFile>, Error> {
        let mut last = Error::bug("a shard without a single mirror");
        for side in self.sides {
            match side.log(number) {
                Ok(log) => return Ok(log),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The file's bytes from `offset`, each record from the first mirror that has it whole.
    fn agree(
        &self,
        log: &LogFile,
        number: u64,
        offset: u64,
        end: Option<u64>,
        copies: &mut [Copy],
    ) -> Result<Vec<u8>, Error> {
        if let Some(Copy::Own(first)) = copies.first()
            && copies[1..].iter().all(|copy| matches!(copy, Copy::AsFirst))
            && whole(log, offset, first) == first.len()
            && end.is_none_or(|end| offset + first.len() as u64 == end)
            && let Copy::Own(first) = std::mem::replace(&mut copies[0], Copy::AsFirst)
        {
            return Ok(first);
        }
        let copies: Vec<&[u8]> = copies
            .iter()
            .filter_map(|copy| match copy {
                Copy::Own(bytes) => Some(bytes.as_slice()),
                Copy::AsFirst => None,
            })
            .collect();
        let mut good = Vec::with_capacity(copies.iter().map(|copy| copy.len()).max().unwrap_or(0));
        loop {
            let at = offset + good.len() as u64;
            if end.is_some_and(|end| at >= end) {
                return Ok(good);
            }
            let rest = copies.iter().filter_map(|copy| copy.get(good.len()..));
            let whole = rest.clone().find_map(|bytes| {
                let raw = Raw::parse(bytes, at)?;
                raw.open(&log.sealer).ok()?;
                Some(&bytes[..raw.size])
            });
            match whole {
                Some(bytes) => good.extend_from_slice(bytes),
                None if end.is_none() && !rest.clone().any(|bytes| acknowledged_beyond(bytes, at, at)) => {
                    return Ok(good);
                }
                None => return Err(Error::damaged(format!("the record at {at} of log file {number:x}"))),
            }
        }
    }

    fn records(&mut self, log: &LogFile, number: u64, offset: u64, good: &[u8]) -> Result<(), Error> {
        let damaged =
            |at: u64, why: String| Error::damaged(format!("the record at {at} of log file {number:x}: {why}"));
        let mut at = 0;
        while let Some(raw) = Raw::parse(&good[at..], offset + at as u64) {
            let plain = raw.open(&log.sealer).map_err(|error| damaged(raw.offset, error.to_string()))?;
            let placed = Placed { record: raw.offset, sealed: raw.body_len() as u32 };
            match raw.kind {
                RecordKind::Batch if raw.seq <= self.applied => {}
                RecordKind::Batch => {
                    if raw.seq.0 != self.head.0 + 1 {
                        return Err(damaged(raw.offset, format!("batch {} follows batch {}", raw.seq, self.head)));
                    }
                    let body = BatchBody::decode(&plain).map_err(|error| damaged(raw.offset, error.to_string()))?;
                    self.batch(&body, raw.seq, number, placed)?;
                }
                RecordKind::Moved => {
                    let moves =
                        read_moves(&plain, number, placed).map_err(|error| damaged(raw.offset, error.to_string()))?;
                    self.layers.apply_moves(self.head, moves)?;
                }
                RecordKind::Closed => {}
            }
            at += raw.size;
            if self.layers.active.bytes() >= self.layer_bytes {
                self.flush(Applied { seq: self.head, file: number, offset: offset + at as u64 })?;
            }
        }
        Ok(())
    }

    fn batch(&mut self, body: &BatchBody<'_>, seq: Seq, number: u64, placed: Placed) -> Result<(), Error> {
        let mut cells = Vec::new();
        for (from, end) in &body.range_dels {
            // Maps that were brought up to different points hold different rows: what any has goes.
            for map in &self.layers.maps {
                cells.extend(merge::removed(Some(&**map), &self.layers.stack(), self.head, *from..*end)?);
            }
        }
        cells.extend(body_cells(body, self.value_bytes_min, seq, number, placed));
        self.head = seq;
        self.layers.active.apply(seq, cells);
        Ok(())
    }

    /// Writes what was replayed so far into the maps: memory stays bounded whatever the log holds.
    fn flush(&mut self, applied: Applied) -> Result<(), Error> {
        let mut maps = Vec::new();
        for side in self.sides {
            side.map()?.apply(&self.layers.active, applied)?;
            maps.push(Arc::new(side.map()?.view()?));
        }
        self.layers = Layers { active: Arc::new(Layer::default()), frozen: None, maps };
        Ok(())
    }
}
