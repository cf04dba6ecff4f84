//! Listing and scrubbing: both walk the logs in the order of their numbers.

use base::PieceId;

use crate::core::{Core, Log};
use crate::error::Error;
use crate::footer::Entry;
use crate::record::{Loc, UNIT_BYTES};
use crate::{Listed, PieceInfo, PieceStore};

/// A place in the walk over all logs. New and moved records always come after it, so that a piece
/// that stays is met at least once; one that is moved meanwhile may be met twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    log: u32,
    unit: u32,
}

impl Cursor {
    /// The place as a number, for whoever asks from afar.
    pub fn to_u64(self) -> u64 {
        u64::from(self.log) << 32 | u64::from(self.unit)
    }

    /// The reverse of [`Cursor::to_u64`]. Any number is a place.
    pub fn from_u64(place: u64) -> Self {
        Self { log: (place >> 32) as u32, unit: place as u32 }
    }
}

/// What scrubbing found of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every byte is as it was written.
    Ok,
    /// It must be rebuilt from the other pieces of its segment.
    Damaged,
}

/// A scrubbed piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubFinding {
    /// Which.
    pub id: PieceId,
    /// How it is.
    pub condition: Condition,
}

/// What a step of scrubbing did.
#[derive(Clone, Debug, Default)]
pub struct Scrubbed {
    /// Where to go on; `None` at the end of the round.
    pub next: Option<Cursor>,
    /// Each piece that was read.
    pub findings: Vec<ScrubFinding>,
    /// Bytes read.
    pub bytes: u64,
}

/// Entries looked at by one step at the most, however few of them are live.
const ENTRIES_MAX: usize = 1024;
/// Bytes of a body read at a time.
const READ_BYTES: u64 = 1024 * 1024;

impl PieceStore {
    /// At most `limit` pieces after the cursor, in an order of the store's own, and where to go on
    /// (`None` at the end). The trash isn't listed.
    pub async fn list(&self, after: Option<Cursor>, limit: usize) -> Result<(Vec<Listed>, Option<Cursor>), Error> {
        self.on_disk(move |core| core.list(after.unwrap_or_default(), limit)).await
    }

    /// Reads and checks about `bytes` of pieces from the cursor on, the trash included.
    pub async fn scrub_step(&self, cursor: Option<Cursor>, bytes: u64) -> Result<Scrubbed, Error> {
        self.on_disk(move |core| core.scrub_step(cursor.unwrap_or_default(), bytes)).await
    }
}

impl Core {
    /// The log that the cursor is in or, if that is gone, the next one.
    fn log_from(&self, cursor: &mut Cursor) -> Option<std::sync::Arc<Log>> {
        if let Some(log) = self.log(cursor.log) {
            return Some(log);
        }
        let log = self.log_after(cursor.log)?;
        *cursor = Cursor { log: log.number, unit: 0 };
        Some(log)
    }

    fn list(&self, mut cursor: Cursor, limit: usize) -> Result<(Vec<Listed>, Option<Cursor>), Error> {
        let mut listed = Vec::new();
        while listed.len() < limit {
            let Some(log) = self.log_from(&mut cursor) else { return Ok((listed, None)) };
            let entries = self.entries_from(&log, cursor.unit, ENTRIES_MAX)?;
            if entries.is_empty() {
                let Some(next) = self.log_after(log.number) else { return Ok((listed, None)) };
                cursor = Cursor { log: next.number, unit: 0 };
            }
            for entry in entries {
                if listed.len() == limit {
                    break;
                }
                cursor.unit = entry.unit + 1;
                let is_live = entry.kind.is_piece()
                    && self.is_current(&entry.id, Loc { log: log.number, unit: entry.unit }) == Some(false);
                if is_live {
                    let info =
                        PieceInfo { len: entry.body_len.into(), cell_bytes: entry.cell_bytes, expiry: entry.expiry };
                    listed.push((entry.id, info));
                }
            }
        }
        Ok((listed, Some(cursor)))
    }

    fn scrub_step(&self, mut cursor: Cursor, bytes: u64) -> Result<Scrubbed, Error> {
        let mut done = Scrubbed::default();
        let Some(log) = self.log_from(&mut cursor) else { return Ok(done) };
        let entries = match self.entries_from(&log, cursor.unit, ENTRIES_MAX) {
            Ok(entries) => entries,
            Err(error) => {
                // One unreadable log must not keep the others from being looked at.
                self.read_errors.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
                tracing::error!(log = %log.name(), %error, "scrubbing can't read a log");
                Vec::new()
            }
        };
        if entries.is_empty() {
            done.next = self.log_after(log.number).map(|next| Cursor { log: next.number, unit: 0 });
            return Ok(done);
        }
        for entry in entries {
            if done.bytes >= bytes.max(1) {
                break;
            }
            cursor.unit = entry.unit + 1;
            if let Some(condition) = self.scrub(&log, &entry) {
                done.bytes += u64::from(entry.units) * UNIT_BYTES;
                done.bytes += entry.extent.map_or(0, |_| u64::from(entry.body_len));
                done.findings.push(ScrubFinding { id: entry.id, condition });
            }
        }
        done.next = Some(cursor);
        Ok(done)
    }

    /// `None` for records that are no piece's current one.
    fn scrub(&self, log: &Log, entry: &Entry) -> Option<Condition> {
        let at = Loc { log: log.number, unit: entry.unit };
        entry.kind.is_piece().then(|| self.is_current(&entry.id, at)).flatten()?;
        match self.check_piece(entry.id, at) {
            Ok(true) => Some(Condition::Ok),
            Ok(false) => None,
            // Moved or purged meanwhile: whatever was read there is of no account.
            Err(_) if self.is_current(&entry.id, at).is_none() => None,
            Err(error) => {
                tracing::warn!(id = %entry.id, %error, "scrubbing found a damaged piece");
                Some(Condition::Damaged)
            }
        }
    }

    /// False if the record isn't the current one any more.
    fn check_piece(&self, id: PieceId, at: Loc) -> Result<bool, Error> {
        let loaded = match self.load(id) {
            Err(Error::Missing { .. }) => return Ok(false),
            other => other?,
        };
        if loaded.loc != at {
            return Ok(false);
        }
        let len = u64::from(loaded.record.body_len);
        let cell = u64::from(loaded.record.cell_bytes.max(1));
        let step = (READ_BYTES / cell).max(1) * cell;
        let mut offset = 0;
        while offset < len {
            let now = step.min(len - offset);
            self.read_body_of(&loaded, offset, now)?;
            offset += now;
        }
        Ok(true)
    }
}
