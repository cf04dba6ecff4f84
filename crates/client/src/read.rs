//! An object's bytes on their way out.
//!
//! The range is cut into units of a few stripes; some are fetched ahead while the caller takes the
//! one before: more from far away (see `ahead`), across the ends of segments. Every cell is opened with its key before a byte of it is given: bytes that a drive
//! made up don't open, and are decoded from other pieces.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::limits::{CELL_BYTES, SEAL_BYTES};
use base::{DriveId, SegmentId, VolumeId};
use bytes::Bytes;
use crypt::SegmentKey;
use env::{BoxFuture, Env};
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use namespace::{Body, SegmentRef, Slot};
use tokio::sync::oneshot;

use crate::Error;
use crate::access::{Access, Opener};
use crate::ahead::{Room, START_BYTES, Turns, UNITS_MIN, Window};
use crate::core::Core;
use crate::gather::{Cells, gather};
use crate::layout::CellAt;
use crate::source::{Known, Source};
use crate::verify::find_bad;

/// Plaintext bytes of a unit, about; a drive is asked for at most half a unit or 1 MiB at a time.
const UNIT_BYTES: usize = 2 * 1024 * 1024;
/// Opening up to this many bytes isn't worth a hop to another thread.
const OPEN_HERE_BYTES_MAX: u64 = 2 * CELL_BYTES as u64;

type Unit = BoxFuture<'static, Result<Fetched, Error>>;

/// A unit's bytes, and what it had of the budget.
type Fetched = (Vec<Bytes>, usize, Option<Room>);

/// A unit's place in the row: whether somebody waits for it is what makes it urgent.
#[derive(Clone, Default)]
pub(crate) struct Place {
    at: u64,
    front: Arc<AtomicU64>,
}

impl Place {
    /// Its number: whose turn it is.
    pub fn turn(&self) -> u64 {
        self.at
    }

    /// Whether the caller waits for it.
    pub fn is_first(&self) -> bool {
        self.front.load(Ordering::Relaxed) >= self.at
    }
}

/// An object's bytes on their way out. Dropping it stops the reading.
pub struct ReadStream {
    waiting: VecDeque<Todo>,
    flying: FuturesOrdered<Unit>,
    /// Bytes of the units that fly.
    under_way: usize,
    /// Bytes of the segments that were opened.
    begun: u64,
    window: Window,
    /// In the order of the units; as much may be on the wire as `wired`.
    turns: Arc<Turns>,
    wired: usize,
    /// The next unit's place.
    next: Place,
    ready: VecDeque<Bytes>,
    of: Arc<Reading>,
    failed: bool,
}

/// What is read, and by whose keys.
pub(crate) struct Reading {
    pub core: Arc<Core>,
    pub volume: VolumeId,
    pub opener: Opener,
    /// Who has which piece of which segment; nothing: the metadata says it.
    pub known: Option<BTreeMap<SegmentId, Arc<Known>>>,
}

impl Reading {
    pub fn new(core: &Arc<Core>, volume: VolumeId, access: &Access) -> Result<Self, Error> {
        Ok(Self { core: core.clone(), volume, opener: access.opener(core, volume)?, known: None })
    }

    async fn source(&self, segment: SegmentRef, pack: bool) -> Result<Arc<Source>, Error> {
        let Some(known) = &self.known else { return Source::open(&self.core, self.volume, segment, pack).await };
        let what = "nobody knows who has a segment's pieces";
        let known = known.get(&segment.id).ok_or(Error::Invalid { what })?.clone();
        Ok(Source::known(&self.core, self.volume, segment, pack, known))
    }
}

/// What is still to be fetched, in order.
pub(crate) enum Todo {
    Inline(Bytes),
    Packed(SegmentRef, Slot, Range<u64>),
    Segment(SegmentRef, Range<u64>),
    Unit(Arc<Open>, Range<u64>),
}

impl ReadStream {
    pub(crate) fn new(of: Reading, body: Body, size: u64, range: Range<u64>) -> Result<Self, Error> {
        if range.start > range.end || range.end > size {
            return Err(Error::Invalid { what: "the range does not lie within the object" });
        }
        let mut waiting = VecDeque::new();
        plan(&of.opener, body, size, range, &mut waiting)?;
        Ok(Self::of(of, waiting))
    }

    /// Reads these, one after the other.
    pub(crate) fn of(of: Reading, waiting: VecDeque<Todo>) -> Self {
        let (flying, ready, window) = (FuturesOrdered::new(), VecDeque::new(), Window::new(of.core.env.clock.now()));
        let (next, turns, of) = (Place::default(), Arc::new(Turns::new()), Arc::new(of));
        let (under_way, begun, wired, failed) = (0, 0, 0, false);
        Self { waiting, flying, under_way, begun, window, turns, wired, next, ready, of, failed }
    }

    /// The next bytes; `None` at the end. After an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(Ok(bytes));
            }
            if self.failed {
                return None;
            }
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failed = true;
                    self.flying.clear();
                    return Some(Err(error));
                }
            }
        }
    }

    /// Keeps units under way and waits for the first of them; false at the end.
    async fn step(&mut self) -> Result<bool, Error> {
        while let Some(todo) = self.waiting.pop_front() {
            let Some(room) = self.room(&todo) else {
                self.waiting.push_front(todo);
                break;
            };
            match todo {
                Todo::Inline(bytes) => self.fly(0, room, async move { Ok(vec![bytes]) }.boxed()),
                Todo::Packed(segment, slot, range) => {
                    self.fly(0, room, packed(self.of.clone(), segment, slot, range).boxed());
                }
                Todo::Unit(open, range) => {
                    let bytes = (range.end - range.start) as usize;
                    let unit = fetch(open, range, self.next.clone());
                    // The near share needs no turns.
                    let turns = self.window.is_far().then(|| self.turns.clone());
                    self.fly(bytes, room, in_turn(self.of.core.env.clone(), turns, bytes, unit).boxed());
                }
                Todo::Segment(segment, range) => self.open(segment, range).await?,
            }
        }
        let (first, waited) = match self.flying.next().now_or_never() {
            Some(first) => (first, false),
            None => (self.flying.next().await, true),
        };
        let Some(first) = first else { return Ok(false) };
        let (bytes, len, _room) = first?;
        self.under_way -= len;
        self.next.front.fetch_add(1, Ordering::Relaxed);
        self.window.took(waited, self.turns.arrived(), self.of.core.env.clock.now());
        self.set_wire();
        self.ready.extend(bytes.into_iter().filter(|bytes| !bytes.is_empty()));
        Ok(true)
    }

    /// Lets as much be on the wire as the window says; what isn't free now is taken away later.
    fn set_wire(&mut self) {
        let wanted = self.window.wire() >> 10;
        if wanted > self.wired {
            self.turns.wire.add_permits(wanted - self.wired);
            self.wired = wanted;
        } else {
            self.wired -= self.turns.wire.forget_permits(self.wired - wanted);
        }
        self.turns.set_pace(self.window.rate());
    }

    /// Whether this may begin now; with it, what it takes of the budget that all streams share.
    fn room(&self, todo: &Todo) -> Option<Option<Room>> {
        if self.flying.len() < UNITS_MIN {
            return Some(None);
        }
        match todo {
            Todo::Unit(_, range) => {
                let bytes = (range.end - range.start) as usize;
                let fits = self.under_way + bytes <= self.window.bytes();
                // A near stream has its units and no more.
                if !fits || !self.window.is_far() { None } else { Some(Some(self.of.core.ahead.take(bytes)?)) }
            }
            // Costs nothing yet.
            Todo::Segment(..) if self.window.is_far() => Some(None),
            _ => None,
        }
    }

    fn fly(&mut self, len: usize, room: Option<Room>, unit: BoxFuture<'static, Result<Vec<Bytes>, Error>>) {
        // What is ahead goes on while the caller is busy with what it has: no reading is called
        // slow, or takes up a connection, because somebody else is.
        let alone = self.waiting.is_empty() && self.flying.is_empty();
        let unit = if alone { unit } else { beside(&self.of.core, unit) };
        self.flying.push_back(unit.map(move |bytes| Ok((bytes?, len, room))).boxed());
        self.under_way += len;
        self.next.at += 1;
    }

    async fn open(&mut self, segment: SegmentRef, range: Range<u64>) -> Result<(), Error> {
        let open = Open::new(&self.of, segment).await?;
        let k = open.source.layout.k();
        self.window.far(open.source.round_trip());
        self.set_wire();
        let bytes = if k == 1 { UNIT_BYTES / 2 } else { UNIT_BYTES };
        let units = |range, bytes: usize| open.source.layout.units(range, (bytes / (k * CELL_BYTES)).max(1) as u64);
        let start = if self.window.is_far() { START_BYTES.saturating_sub(self.begun) } else { 0 };
        let start = range.start + start.min(range.end - range.start);
        self.begun += range.end - range.start;
        let mut all = units(range.start..start, bytes / 4);
        all.extend(units(start..range.end, bytes));
        for unit in all.into_iter().rev() {
            self.waiting.push_front(Todo::Unit(open.clone(), unit));
        }
        Ok(())
    }
}

/// Begins when those before it leave room on the wire, and at the link's pace.
async fn in_turn<T>(env: Env, turns: Option<Arc<Turns>>, bytes: usize, unit: impl Future<Output = T>) -> T {
    let Some(turns) = turns else { return unit.await };
    // It is never closed; and a unit is smaller than the least window.
    let _turn = turns.wire.acquire_many((bytes >> 10) as u32).await.ok();
    let wait = turns.wait(bytes, env.clock.now());
    if !wait.is_zero() {
        env.clock.sleep(wait).await;
    }
    let done = unit.await;
    turns.came(bytes);
    done
}

/// Runs as a task; ends if nobody waits for it any more.
fn beside(
    core: &Core,
    unit: BoxFuture<'static, Result<Vec<Bytes>, Error>>,
) -> BoxFuture<'static, Result<Vec<Bytes>, Error>> {
    let (mut send, receive) = oneshot::channel();
    core.env.spawn("read a unit", async move {
        let done = tokio::select! {
            biased;
            done = unit => done,
            () = send.closed() => return,
        };
        // Whoever has gone needs nothing.
        let _ = send.send(done);
    });
    async move { receive.await.unwrap_or(Err(Error::Cut(env::Cut))) }.boxed()
}

/// Lists what holds the bytes of `range` of a body of `size` bytes.
fn plan(opener: &Opener, body: Body, size: u64, range: Range<u64>, to: &mut VecDeque<Todo>) -> Result<(), Error> {
    // What lies in the metadata is opened even for nothing of it: then it is known that nothing is all.
    if range.is_empty() && !matches!(body, Body::Inline(_)) {
        return Ok(());
    }
    let short = Error::Namespace(namespace::Error::Broken { what: "a body is shorter than its size" });
    match body {
        Body::Inline(bytes) => {
            let bytes = Bytes::from(opener.open_inline(bytes, size)?);
            to.push_back(Todo::Inline(bytes.slice(range.start as usize..range.end as usize)));
        }
        Body::Packed(segment, slot) => to.push_back(Todo::Packed(segment, slot, range)),
        Body::Segments(segments) => {
            let each = segments.into_iter().map(|segment| (segment.len, segment));
            let end = parts(each, &range, |segment, part| {
                to.push_back(Todo::Segment(segment, part));
                Ok(())
            })?;
            if end < range.end {
                return Err(short);
            }
        }
        Body::Spans(spans) => {
            let each = spans.into_iter().map(|span| (span.size, span));
            let end = parts(each, &range, |span, part| plan(opener, span.body, span.size, part, to))?;
            if end < range.end {
                return Err(short);
            }
        }
        Body::Unloaded => return Err(Error::Invalid { what: "the version was read without its body" }),
    }
    Ok(())
}

/// Calls `each` with those things, one after the other of some size, that meet the range, and with
/// the part of each that does. Gives the size of all.
fn parts<T>(
    things: impl Iterator<Item = (u64, T)>,
    range: &Range<u64>,
    mut each: impl FnMut(T, Range<u64>) -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut at = 0;
    for (size, thing) in things {
        let (start, end) = (range.start.max(at), range.end.min(at + size));
        if start < end {
            each(thing, start - at..end - at)?;
        }
        at += size;
    }
    Ok(at)
}

/// A segment with its key.
pub(crate) struct Open {
    pub source: Arc<Source>,
    key: Arc<SegmentKey>,
}

impl Open {
    async fn new(of: &Reading, segment: SegmentRef) -> Result<Arc<Self>, Error> {
        let key = Arc::new(of.opener.wrap.unwrap(&segment.wrapped_key, segment.id, 0)?);
        Ok(Arc::new(Self { source: of.source(segment, false).await?, key }))
    }
}

/// The bytes of a range of a segment.
pub(crate) async fn fetch(open: Arc<Open>, range: Range<u64>, place: Place) -> Result<Vec<Bytes>, Error> {
    let mut open = open;
    let wanted = open.source.layout.wanted(&range);
    loop {
        let (source, known) = (open.source.clone(), open.source.bad());
        let cells = match gather(&source, &wanted, &place).await {
            Ok(cells) => cells,
            Err(error) => {
                let source = source.elsewhere(error).await?;
                open = Arc::new(Open { source, key: open.key.clone() });
                continue;
            }
        };
        let (this, part) = (open.clone(), range.clone());
        let opened = if range.end - range.start <= OPEN_HERE_BYTES_MAX {
            this.open_cells(cells, part)
        } else {
            source.core.env.blocking(move || this.open_cells(cells, part)).await?
        };
        match opened {
            Ok(bytes) => return Ok(bytes),
            Err(Wrong { piece, by: Some(by) }) => source.mark_bad(piece, by),
            // Decoded from bytes of which some are wrong: the pieces' roots say which.
            Err(Wrong { by: None, .. }) => {
                if !find_bad(&source, &known).await? {
                    return Err(Error::Damaged { what: "a cell" });
                }
            }
        }
    }
}

/// A cell that doesn't open.
struct Wrong {
    piece: usize,
    /// Who served it; nobody: it was decoded.
    by: Option<DriveId>,
}

impl Open {
    /// Opens all cells and gives the bytes of the range, in order.
    fn open_cells(&self, cells: Vec<Cells>, range: Range<u64>) -> Result<Vec<Bytes>, Wrong> {
        let layout = &self.source.layout;
        let mut opened = Vec::new();
        for Cells { piece, from, by, stripes, bytes } in cells {
            // The caller's own copy, if nobody else holds the bytes; else one is made here.
            let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| shared[..].into());
            let base = layout.piece_range(stripes.clone()).start;
            let mut plain = Vec::new();
            for stripe in stripes {
                let stored = layout.piece_range(stripe..stripe + 1);
                let (start, end) = ((stored.start - base) as usize, (stored.end - base) as usize);
                let at = CellAt { stripe, piece };
                let (volume, segment) = (self.source.volume, self.source.segment.id);
                let cell = &mut bytes[start..end];
                if self.key.open_cell(volume, segment, layout.cell_index(at), cell).is_err() {
                    return Err(Wrong { piece: from, by });
                }
                let held = layout.bytes_of(at);
                let (from, to) = (held.start.max(range.start), held.end.min(range.end));
                if from < to {
                    let from_cell = start + (from - held.start) as usize;
                    plain.push((from, from_cell..from_cell + (to - from) as usize));
                }
            }
            let bytes = bytes.freeze();
            opened.extend(plain.into_iter().map(|(from, place)| (from, bytes.slice(place))));
        }
        opened.sort_unstable_by_key(|(from, _)| *from);
        Ok(opened.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

/// The bytes of a range of an object in a pack.
async fn packed(of: Arc<Reading>, segment: SegmentRef, slot: Slot, range: Range<u64>) -> Result<Vec<Bytes>, Error> {
    let (volume, id) = (of.volume, segment.id);
    let key = Arc::new(of.opener.wrap.unwrap(&segment.wrapped_key, id, 1 + slot.index)?);
    let mut source = of.source(segment, true).await?;
    let (cell, stored) = (CELL_BYTES as u64, (CELL_BYTES + SEAL_BYTES) as u64);
    // Cells of the object, within its slot.
    let first = range.start / cell;
    let sealed = first * stored..(range.end.div_ceil(cell) * stored).min(slot.len.into());
    let place = u64::from(slot.offset) + sealed.start..u64::from(slot.offset) + sealed.end;
    if place.is_empty() || place.end > source.layout.len() {
        return Err(Error::Namespace(namespace::Error::Broken { what: "a slot does not lie within its pack" }));
    }
    let wanted = source.layout.wanted(&place);
    let inside = (range.start - first * cell) as usize..(range.end - first * cell) as usize;
    loop {
        let known = source.bad();
        let cells = match gather(&source, &wanted, &Place::default()).await {
            Ok(cells) => cells,
            Err(error) => {
                source = source.elsewhere(error).await?;
                continue;
            }
        };
        let bytes = join(&source, &cells, &place);
        let opened = if place.end - place.start <= OPEN_HERE_BYTES_MAX {
            open_slot(&key, volume, id, first, bytes, &inside)
        } else {
            let (key, inside) = (key.clone(), inside.clone());
            of.core.env.blocking(move || open_slot(&key, volume, id, first, bytes, &inside)).await?
        };
        match opened {
            Some(bytes) => return Ok(vec![bytes]),
            // The tags cover objects, not pieces: the pieces' roots say which is wrong.
            None if !find_bad(&source, &known).await? => return Err(Error::Damaged { what: "an object in a pack" }),
            None => {}
        }
    }
}

/// Bytes of a pack from its cells.
fn join(source: &Source, cells: &[Cells], place: &Range<u64>) -> Vec<u8> {
    let layout = &source.layout;
    let mut parts = Vec::new();
    for cells in cells {
        let base = layout.piece_range(cells.stripes.clone()).start;
        for stripe in cells.stripes.clone() {
            let held = layout.bytes_of(CellAt { stripe, piece: cells.piece });
            let (from, to) = (held.start.max(place.start), held.end.min(place.end));
            if from < to {
                let start = (layout.piece_range(stripe..stripe + 1).start - base + (from - held.start)) as usize;
                parts.push((from, &cells.bytes[start..start + (to - from) as usize]));
            }
        }
    }
    parts.sort_unstable_by_key(|(from, _)| *from);
    let mut bytes = Vec::with_capacity((place.end - place.start) as usize);
    parts.into_iter().for_each(|(_, part)| bytes.extend_from_slice(part));
    bytes
}

/// Opens an object's cells, from its cell `first` on, and gives the bytes `inside`.
fn open_slot(
    key: &SegmentKey,
    volume: VolumeId,
    segment: SegmentId,
    first: u64,
    mut bytes: Vec<u8>,
    inside: &Range<usize>,
) -> Option<Bytes> {
    let stored = CELL_BYTES + SEAL_BYTES;
    let mut plain = 0;
    for at in 0..bytes.len().div_ceil(stored) {
        let (start, end) = (at * stored, ((at + 1) * stored).min(bytes.len()));
        let len = key.open_cell(volume, segment, first + at as u64, &mut bytes[start..end]).ok()?.len();
        bytes.copy_within(start..start + len, plain);
        plain += len;
    }
    bytes.truncate(plain);
    let bytes = Bytes::from(bytes);
    (inside.end <= plain).then(|| bytes.slice(inside.clone()))
}
