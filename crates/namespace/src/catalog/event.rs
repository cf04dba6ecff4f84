//! The event log: what happened to the store, for people. Bounded: the oldest go.

use base::Wall;
use base::kv::{Batch, View};
use codec::{Reader, Versioned, Writer};

use super::bucket::TEXT_BYTES_MAX;
use super::{keys, scan};
use crate::error::Error;
use crate::keys::tail;

/// Events that are kept: weeks of an eventful life, in a few megabytes.
pub const EVENTS_MAX: u64 = 10_000;

/// Whether somebody should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Severity {
    /// Good to know.
    Info = 0,
    /// Something is less safe or slower than it should be; it is being dealt with.
    Warning = 1,
    /// Somebody must do something.
    Error = 2,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counted from 1; set when it is added.
    pub number: u64,
    /// When.
    pub at: Wall,
    /// Whether somebody should care.
    pub severity: Severity,
    /// What it is about, for programs: `drive`, `repair`, `bucket`, …
    pub area: String,
    /// Which one of those: a drive's id, a bucket's name; may be empty.
    pub subject: String,
    /// What happened, in words.
    pub text: String,
}

impl Versioned for Event {
    const NAME: &'static str = "event";
    const MARK: [u8; 4] = *b"caEv";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.number).u64(self.at.0).u8(self.severity as u8);
        to.str(&self.area).str(&self.subject).str(&self.text);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(Event {
            number: from.u64("event number")?,
            at: Wall(from.u64("time")?),
            severity: match from.u8("severity")? {
                0 => Severity::Info,
                1 => Severity::Warning,
                2 => Severity::Error,
                value => return Err(codec::Error::Value { what: "severity", value: value.into() }),
            },
            area: from.str("area", TEXT_BYTES_MAX)?.to_owned(),
            subject: from.str("subject", TEXT_BYTES_MAX)?.to_owned(),
            text: from.str("text", TEXT_BYTES_MAX)?.to_owned(),
        })
    }
}

/// Adds events in order, gives them their numbers, and drops the oldest beyond [`EVENTS_MAX`].
/// Texts are cut to what their rows can hold.
pub fn add_events(view: &dyn View, events: Vec<Event>) -> Result<Batch, Error> {
    let end = crate::keys::end(keys::EVENT);
    let last = view.range(keys::EVENT..end.as_slice(), 1, true)?.pop();
    let mut number = match last {
        Some((key, _)) => u64::from_be_bytes(tail(&key, "event key")?),
        None => 0,
    };
    let mut batch = Batch::default();
    for mut event in events {
        number += 1;
        event.number = number;
        cut(&mut event.area);
        cut(&mut event.subject);
        cut(&mut event.text);
        batch.put(keys::event(number), event.encode());
    }
    if !batch.is_empty() && number > EVENTS_MAX {
        batch.range_dels.push(keys::event(0)..keys::event(number - EVENTS_MAX + 1));
    }
    Ok(batch)
}

pub(super) fn cut(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

/// Events in order, those after number `after`.
pub fn events(view: &dyn View, after: u64, limit: usize) -> Result<Vec<Event>, Error> {
    scan(view, keys::EVENT, Some(&after.to_be_bytes()), limit)
}

/// The latest events, newest first.
pub fn latest_events(view: &dyn View, limit: usize) -> Result<Vec<Event>, Error> {
    let end = crate::keys::end(keys::EVENT);
    let rows = view.range(keys::EVENT..end.as_slice(), limit, true)?;
    rows.into_iter().map(|(_, value)| Ok(Event::decode(&value)?)).collect()
}
