//! A command with all that belongs to it, sent to whoever leads the shard, and done once however
//! often it arrives.
//!
//! Invariants:
//! 1. The batch of a work has its *done row*: minute and id → outcome. Work that has one is answered
//!    with that outcome and changes nothing.
//! 2. The minute is part of the work, so the row's key is known: one lookup.
//! 3. Done rows of old minutes go, and the same batch says which minutes: work of such a minute is
//!    refused. So a work is never done twice, whatever clocks do and however late it arrives.

use base::kv::{Batch, View};
use base::{VolumeId, Wall};
use codec::{Reader, Versioned, Writer};

use crate::error::Error;
use crate::keys::{Keys, Table, end, tail};
use crate::read::missing_note;
use crate::types::{Command, Outcome};
use crate::wire::{bounded, nest, read_many, write_many};

/// Minutes for which it is remembered what was done: far longer than anybody repeats a request.
pub const DONE_KEPT_MINUTES: u64 = 15;
/// Minutes by which a work's clock may be ahead of the leader's. If it is more, the row of what was done
/// would be kept for as long.
pub const AHEAD_MINUTES_MAX: u64 = 15;

const MINUTE_MS: u64 = 60_000;
/// Done rows belong to no volume, so that those of all go in one deletion: 0 is never given out.
const SHARD: Keys = Keys(VolumeId(0));

/// One change to a volume, on its way to the shard's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Random; the same in every repetition.
    pub id: [u8; 16],
    /// When the id was made, by the clock of whoever made it; the same in every repetition.
    pub made: Wall,
    /// The volume.
    pub volume: VolumeId,
    /// What is to be done.
    pub command: Command,
    /// [`Command::NoteMissing`] for what the command's content lacks: merged with what is noted.
    pub notes: Vec<Command>,
}

impl Versioned for Work {
    const NAME: &'static str = "work";
    const MARK: [u8; 4] = *b"nsWk";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.id).u64(self.made.0).u32(self.volume.0);
        nest(to, &self.command);
        write_many(to, &self.notes, nest);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        bounded(from, Self::NAME)?;
        Ok(Work {
            id: from.array("work")?,
            made: Wall(from.u64("made")?),
            volume: VolumeId(from.u32("volume")?),
            command: Command::decode_from(from)?,
            notes: read_many(from, "notes", 6, Command::decode_from)?,
        })
    }
}

/// The command and the notes about what its content lacks, as one batch; `now` by the clock of
/// whoever evaluates.
pub fn evaluate(view: &dyn View, work: &Work, now: Wall) -> Result<(Batch, Outcome), Error> {
    let (mut batch, outcome) = crate::apply(view, work.volume, &work.command, now)?;
    for note in &work.notes {
        let mut note = note.clone();
        // Any other command would be evaluated without what the first one did.
        let Command::NoteMissing { segment, missing, .. } = &mut note else {
            return Err(Error::InvalidValue { what: "note", why: "it notes no missing pieces" });
        };
        if let Some(known) = missing_note(view, work.volume, *segment)? {
            missing.extend(known.missing);
        }
        let (more, _) = crate::apply(view, work.volume, &note, now)?;
        batch.puts.extend(more.puts);
        batch.dels.extend(more.dels);
    }
    Ok((batch, outcome))
}

/// [`evaluate`], unless the work was done before: then an empty batch and the outcome of that time.
/// Refusals are not remembered: a refused work that comes again is evaluated anew.
///
/// # Errors
/// [`Error::Stale`] if it can't be known whether the work was done (too old), or if its clock is too far
/// ahead. The one who made it makes a new one, at the time that the error says; unless the work was sent
/// before without an answer and may have been done: then its fate stays open.
pub fn evaluate_once(view: &dyn View, work: &Work, now: Wall) -> Result<(Batch, Outcome), Error> {
    once(view, (work.id, work.made), now, || evaluate(view, work, now))
}

/// What a change that is named by an id came to, if it was made before; else `change`, and the note that it
/// was made. `id` and the time it was made at are the same in every repetition.
///
/// # Errors
/// As [`evaluate_once`], and those of `change`.
pub fn once<E: From<Error>>(
    view: &dyn View,
    (id, made): ([u8; 16], Wall),
    now: Wall,
    change: impl FnOnce() -> Result<(Batch, Outcome), E>,
) -> Result<(Batch, Outcome), E> {
    let (minute, forgotten) = (minute(made), forgotten(view)?);
    let stale = Error::Stale { made: Wall(now.0.max(forgotten.saturating_mul(MINUTE_MS))) };
    if minute < forgotten {
        return Err(stale.into());
    }
    let key = SHARD.done(minute, id);
    if let Some(value) = view.get(&key).map_err(Error::from)? {
        return Ok((Batch::default(), Outcome::decode(&value).map_err(Error::from)?));
    }
    if minute > self::minute(now).max(forgotten).saturating_add(AHEAD_MINUTES_MAX) {
        return Err(stale.into());
    }
    let (mut batch, outcome) = change()?;
    // Also of a change without effects: made again later it might have some.
    batch.put(key, outcome.encode());
    Ok((batch, outcome))
}

/// Forgets what was done more than [`DONE_KEPT_MINUTES`] ago. Call it about once a minute.
pub fn forget_done(view: &dyn View, now: Wall) -> Result<Batch, Error> {
    let table = SHARD.table(Table::Done, 0);
    let edge = |newest: bool| -> Result<Option<u64>, Error> {
        let rows = view.range(table.as_slice()..end(&table).as_slice(), 1, newest)?;
        let Some((key, _)) = rows.first() else { return Ok(None) };
        let row: [u8; 24] = tail(key, "done key")?;
        Ok(Some(u64::from_be_bytes(std::array::from_fn(|at| row[at]))))
    };
    let mut batch = Batch::default();
    let (Some(oldest), Some(newest)) = (edge(false)?, edge(true)?) else { return Ok(batch) };
    // Never further than what is there: a clock that is years ahead would make all work stale.
    let until = minute(now).saturating_sub(DONE_KEPT_MINUTES).min(newest.saturating_add(1));
    if until > oldest.max(forgotten(view)?) {
        batch.range_dels.push(table..SHARD.done(until, [0; 16]));
        batch.put(SHARD.table(Table::Forgotten, 0), until.to_le_bytes());
    }
    Ok(batch)
}

/// Done rows of minutes before this one are gone.
fn forgotten(view: &dyn View) -> Result<u64, Error> {
    let value = view.get(&SHARD.table(Table::Forgotten, 0))?;
    value.map_or(Ok(0), |value| Ok(Reader::new(&value).u64("forgotten minutes")?))
}

fn minute(at: Wall) -> u64 {
    at.0 / MINUTE_MS
}
