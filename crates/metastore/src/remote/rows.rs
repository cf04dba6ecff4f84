//! Rows of one cut, and a view of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use base::Seq;
use base::kv::{Row, View, ViewError};
use codec::{Error, Reader, Versioned, Writer};

use super::wants::counted;
use super::{KEY_BYTES_MAX, Read, WANTS_MAX, Wants, refuse};

/// Bytes of encoded rows at the most.
pub const ROWS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Rows in one answer at the most.
pub const ROWS_MAX: usize = 262_144;
/// Bytes of the encoding without intervals and rows.
const HEAD_BYTES: usize = 5 + 8 + 4 + 4;
/// Rows that are read at a time.
const CHUNK: usize = 256;

/// What was read of a map at one cut: intervals of keys of which every row is known, and those rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    at: Seq,
    /// Start → end, exclusive: neither overlapping nor touching, none empty.
    known: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Each within a known interval.
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Rows that are being read, within what a message holds.
pub(super) struct Gather {
    rows: Rows,
    /// No less than the encoding's bytes.
    size: usize,
}

/// The least key behind `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl Rows {
    /// Nothing is known of the cut at `at`.
    pub fn new(at: Seq) -> Self {
        Self { at, ..Self::default() }
    }

    /// The cut: everything up to this is in it, nothing after.
    pub fn at(&self) -> Seq {
        self.at
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none; it may be known all the same that there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Runs a rule on these rows.
    ///
    /// # Errors
    /// What it wanted besides, so far: then its result is worth nothing. The rule may want still more
    /// when it has that.
    pub fn run<T>(&self, rule: impl FnOnce(&dyn View) -> T) -> Result<T, Wants> {
        let view = Recorded::new(self);
        let result = rule(&view);
        let wants = view.wants();
        if wants.is_empty() { Ok(result) } else { Err(wants) }
    }

    /// Adds an interval, and makes one of all that it overlaps or touches.
    fn know(&mut self, Range { mut start, mut end }: Range<Vec<u8>>) {
        if let Some((before, until)) = self.known.range(..=start.clone()).next_back()
            && *until >= start
        {
            start = before.clone();
        }
        while let Some((next, until)) = self.known.range(start.clone()..=end.clone()).next() {
            let next = next.clone();
            end = end.max(until.clone());
            self.known.remove(&next);
        }
        self.known.insert(start, end);
    }

    /// The end of the known interval that `key` lies in.
    fn known_end(&self, key: &[u8]) -> Option<&Vec<u8>> {
        let (_, end) =
            self.known.range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key))).next_back()?;
        (end.as_slice() > key).then_some(end)
    }

    /// The start of the known interval that the keys right before `key` lie in.
    fn known_start(&self, key: &[u8]) -> Option<&Vec<u8>> {
        let (start, end) =
            self.known.range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Excluded(key))).next_back()?;
        (end.as_slice() >= key).then_some(start)
    }

    fn get(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.known_end(key)?;
        Some(self.rows.get(key).cloned())
    }

    fn range(&self, range: &Range<&[u8]>, limit: usize, reverse: bool) -> Option<Vec<Row>> {
        if range.start >= range.end || limit == 0 {
            return Some(Vec::new());
        }
        let (from, to) = if reverse {
            (self.known_start(range.end)?.as_slice().max(range.start), range.end)
        } else {
            (range.start, self.known_end(range.start)?.as_slice().min(range.end))
        };
        let rows = View::range(&self.rows, from..to, limit, reverse).unwrap_or_default();
        let whole = from == range.start && to == range.end;
        (whole || rows.len() >= limit).then_some(rows)
    }
}

impl Gather {
    pub fn new(at: Seq) -> Self {
        Self { rows: Rows::new(at), size: HEAD_BYTES }
    }

    pub fn rows(self) -> Rows {
        self.rows
    }

    /// Notes that these are all rows of the interval.
    pub fn learn(&mut self, interval: Range<Vec<u8>>, rows: &[Row]) -> Result<(), ViewError> {
        if interval.start >= interval.end
            || self.rows.known_end(&interval.start).is_some_and(|end| *end >= interval.end)
        {
            return Ok(());
        }
        let fresh = rows.iter().filter(|(key, _)| !self.rows.rows.contains_key(key));
        let bytes: usize = fresh.map(|(key, value)| 8 + key.len() + value.len()).sum();
        self.size += 9 + interval.start.len() + interval.end.len() + bytes;
        if self.size > ROWS_BYTES_MAX || self.rows.rows.len() + rows.len() > ROWS_MAX {
            return Err(refuse("the rows of one answer are too many or exceed 16 MiB: ask for less at a time"));
        }
        self.rows.rows.extend(rows.iter().cloned());
        self.rows.know(interval);
        Ok(())
    }
}

/// What a read that found these rows tells: of which interval they are all.
pub(super) fn learned(read: &Read, rows: &[Row]) -> Range<Vec<u8>> {
    match read {
        Read::Get { key } => key.clone()..after(key),
        Read::Range { start, end, limit, reverse } => match rows.last() {
            _ if *limit == 0 => start.clone()..start.clone(),
            Some((last, _)) if rows.len() as u64 >= *limit && *reverse => last.clone()..end.clone(),
            Some((last, _)) if rows.len() as u64 >= *limit => start.clone()..after(last),
            _ => start.clone()..end.clone(),
        },
    }
}

/// Reads what is wanted of a cut.
///
/// # Errors
/// Those of the view; and if it is more than [`ROWS_BYTES_MAX`].
pub fn collect(view: &dyn View, at: Seq, wants: &Wants) -> Result<Rows, ViewError> {
    let mut rows = Gather::new(at);
    for read in wants.iter() {
        match read {
            Read::Get { .. } => rows.learn(learned(read, &[]), &read.of(view)?)?,
            Read::Range { start, end, limit, reverse } => walk(view, &mut rows, start..end, *limit, *reverse)?,
        }
    }
    Ok(rows.rows())
}

/// Reads a range a few rows at a time, so that one that is too large fails before it is read whole.
fn walk(
    view: &dyn View,
    rows: &mut Gather,
    range: Range<&Vec<u8>>,
    limit: u64,
    reverse: bool,
) -> Result<(), ViewError> {
    let (mut start, mut end) = (range.start.clone(), range.end.clone());
    let mut left = limit;
    while left > 0 && start < end {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        let read = Read::range(start.as_slice()..end.as_slice(), count, reverse);
        let found = read.of(view)?;
        let interval = learned(&read, &found);
        let whole = found.len() < count;
        left -= found.len() as u64;
        if reverse {
            end.clone_from(&interval.start);
        } else {
            start.clone_from(&interval.end);
        }
        rows.learn(interval, &found)?;
        if whole {
            break;
        }
    }
    Ok(())
}

impl Versioned for Rows {
    const NAME: &'static str = "rows";
    const MARK: [u8; 4] = *b"msRo";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.at.0).u32(self.known.len() as u32);
        for (start, end) in &self.known {
            // A key alone, as gets make them, is written once.
            if *end == after(start) {
                to.u8(0).bytes(start);
            } else {
                to.u8(1).bytes(start).bytes(end);
            }
        }
        to.u32(self.rows.len() as u32);
        for (key, value) in &self.rows {
            to.bytes(key).bytes(value);
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let all = from.left();
        if all > ROWS_BYTES_MAX {
            return Err(Error::TooLong { what: "rows", len: all, max: ROWS_BYTES_MAX });
        }
        let mut rows = Rows::new(Seq(from.u64("cut")?));
        let order = |what, at: usize| Err(Error::Value { what, value: at as u64 });
        for at in 0..counted(from, "known keys", WANTS_MAX, ROWS_BYTES_MAX)? {
            let form = from.u8("known keys")?;
            let start = from.bytes("key", KEY_BYTES_MAX)?.to_vec();
            let end = match form {
                0 => after(&start),
                1 => from.bytes("key", KEY_BYTES_MAX)?.to_vec(),
                value => return Err(Error::Value { what: "known keys", value: value.into() }),
            };
            let behind = rows.known.last_key_value().is_none_or(|(_, last)| *last < start);
            if start >= end || !behind || (form == 1 && end == after(&start)) {
                return order("order of known keys", at);
            }
            rows.known.insert(start, end);
        }
        for at in 0..counted(from, "rows", ROWS_MAX, ROWS_BYTES_MAX)? {
            let key = from.bytes("key", KEY_BYTES_MAX)?;
            let behind = rows.rows.last_key_value().is_none_or(|(last, _)| last.as_slice() < key);
            if !behind || rows.known_end(key).is_none() {
                return order("order of rows", at);
            }
            let value = from.bytes("value", ROWS_BYTES_MAX)?;
            rows.rows.insert(key.to_vec(), value.to_vec());
        }
        Ok(rows)
    }
}

/// A [`View`] of [`Rows`]: answers what they tell, notes everything else. What isn't told looks empty, so that a rule
/// that reads many rows independently of each other wants all of them at once.
#[derive(Debug)]
pub struct Recorded<'a> {
    rows: &'a Rows,
    wants: RefCell<Wants>,
}

impl<'a> Recorded<'a> {
    /// A view of these rows.
    pub fn new(rows: &'a Rows) -> Self {
        Self { rows, wants: RefCell::default() }
    }

    /// What was read and isn't there. Look at this before the rule's result, which is worth nothing then.
    pub fn wants(self) -> Wants {
        self.wants.into_inner()
    }

    fn want<T: Default>(&self, read: Read) -> Result<T, ViewError> {
        self.wants.borrow_mut().add(read).map(|()| T::default())
    }
}

impl View for Recorded<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.rows.get(key).map_or_else(|| self.want(Read::Get { key: key.to_vec() }), Ok)
    }

    fn range(&self, range: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        let found = self.rows.range(&range, limit, reverse);
        found.map_or_else(|| self.want(Read::range(range, limit, reverse)), Ok)
    }
}
