//! Getting cells from drives: the data cells alone while all is well, any k of a stripe when a
//! drive is gone, slow or wrong.
//!
//! 1. First only the pieces that hold wanted bytes are asked, each for its own cells.
//! 2. A piece that fails, or is slower than its drive usually is, is *lost* for this read; as many
//!    others are asked as are needed to decode the stripes in which it was wanted. A slow one may
//!    still win. Those others may be slow in their turn.
//! 3. Bytes that don't open are reported by the caller as `bad`, and never used again.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use base::{Kind, Kinded, PieceId, VolumeId};
use bytes::Bytes;
use env::BoxFuture;
use erasure::Code;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use namespace::SegmentRef;
use placement::GroupRow;

use crate::Error;
use crate::core::{Core, READ_MAX};
use crate::findings::{Fault, Finding};
use crate::layout::Layout;

/// One segment to be read.
pub(crate) struct Source {
    pub core: Arc<Core>,
    pub volume: VolumeId,
    pub segment: SegmentRef,
    pub layout: Layout,
    pub group: Arc<GroupRow>,
    /// Pieces whose bytes proved wrong.
    bad: Mutex<BTreeSet<usize>>,
}

/// Cells of one piece.
#[derive(Clone)]
pub(crate) struct Cells {
    pub piece: usize,
    pub stripes: Range<u64>,
    pub bytes: Bytes,
    /// Computed from others.
    pub decoded: bool,
}

type Answer = (usize, Range<u64>, Result<Bytes, Fault>);

impl Source {
    pub async fn open(core: &Arc<Core>, volume: VolumeId, segment: SegmentRef, pack: bool) -> Result<Arc<Self>, Error> {
        let layout = if pack { Layout::pack(segment.k, segment.len) } else { Layout::sealed(segment.k, segment.len) };
        let group = core.group(segment.policy, segment.group).await?;
        if group.members.len() < usize::from(segment.k) + usize::from(segment.m) {
            return Err(Error::Namespace(namespace::Error::Broken { what: "a group has fewer drives than pieces" }));
        }
        Ok(Arc::new(Self { core: core.clone(), volume, segment, layout, group, bad: Mutex::default() }))
    }

    /// The same segment where its group is by now, if that moved on since: else the error stands.
    pub async fn elsewhere(&self, error: Error) -> Result<Arc<Self>, Error> {
        if !matches!(error, Error::TooFewPieces { .. }) {
            return Err(error);
        }
        self.core.forget_map();
        let group = self.core.group(self.segment.policy, self.segment.group).await?;
        if group == self.group {
            return Err(error);
        }
        let (core, volume, segment) = (self.core.clone(), self.volume, self.segment.clone());
        let (layout, bad) = (self.layout, Mutex::default());
        Ok(Arc::new(Self { core, volume, segment, layout, group, bad }))
    }

    pub fn n(&self) -> usize {
        usize::from(self.segment.k) + usize::from(self.segment.m)
    }

    pub fn piece(&self, index: usize) -> PieceId {
        PieceId { segment: self.segment.id, index: index as u8 }
    }

    /// The piece's bytes are wrong: they are never used again, and somebody is told.
    pub fn mark_bad(&self, index: usize) {
        if self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert(index) {
            self.tell(index, Fault::Damaged);
        }
    }

    pub fn bad(&self) -> BTreeSet<usize> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn tell(&self, index: usize, fault: Fault) {
        let (policy, group) = (self.segment.policy, self.segment.group);
        let drive = self.group.holders(index).next();
        self.core.teller.tell(Finding { volume: self.volume, policy, group, piece: self.piece(index), drive, fault });
    }

    /// Whether others should be asked before this piece.
    fn ask_last(&self, index: usize) -> bool {
        self.group.holders(index).all(|drive| self.core.drives.ask_last(drive))
    }

    /// Bytes of a piece's body from whichever of its drives has them.
    pub async fn read(&self, index: usize, range: Range<u64>) -> Result<Bytes, Fault> {
        let (mut fault, mut asked) = (Fault::Missing, false);
        for drive in self.group.holders(index) {
            let Some(holder) = self.core.drives.get(drive) else { continue };
            asked = true;
            let began = self.core.env.clock.now();
            let piece = self.piece(index);
            let read = holder.read(piece, range.start, range.end - range.start);
            match self.core.within(READ_MAX, piece, read).await {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => {
                    self.core.drives.note_read(drive, self.core.env.clock.now().since(began));
                    return Ok(bytes);
                }
                Ok(_) => fault = fault.max(Fault::Damaged),
                Err(error) => {
                    tracing::debug!(%drive, %piece, %error, "a piece could not be read");
                    fault = fault.max(match error.kind() {
                        Kind::Missing => Fault::Missing,
                        Kind::Damaged | Kind::Invalid => Fault::Damaged,
                        _ => Fault::Failed,
                    });
                }
            }
        }
        // That a whole drive is gone, the node knows.
        if asked {
            self.tell(index, fault);
        }
        Err(fault)
    }

    fn ask(self: &Arc<Self>, index: usize, stripes: Range<u64>) -> BoxFuture<'static, Answer> {
        let this = self.clone();
        Box::pin(async move {
            let bytes = this.read(index, this.layout.piece_range(stripes.clone())).await;
            (index, stripes, bytes)
        })
    }
}

fn covers(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn hull(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

/// One piece in one read.
#[derive(Clone, Default)]
struct Asked {
    wanted: Range<u64>,
    /// What it was asked for and hasn't answered.
    open: Option<Range<u64>>,
    have: Vec<(Range<u64>, Bytes)>,
    slow: bool,
    failed: bool,
}

impl Asked {
    fn has(&self, stripes: &Range<u64>) -> Option<&(Range<u64>, Bytes)> {
        self.have.iter().find(|(have, _)| covers(have, stripes))
    }

    fn satisfied(&self) -> bool {
        self.wanted.is_empty() || self.has(&self.wanted).is_some()
    }
}

struct Gather {
    source: Arc<Source>,
    pieces: Vec<Asked>,
    /// How many times a drive was asked.
    asked: usize,
    flying: FuturesUnordered<BoxFuture<'static, Answer>>,
}

/// The wanted cells of each data piece, decoded where they must be.
pub(crate) async fn gather(source: &Arc<Source>, wanted: &[Range<u64>]) -> Result<Vec<Cells>, Error> {
    let mut pieces = vec![Asked::default(); source.n()];
    let bad = source.bad();
    for (index, piece) in pieces.iter_mut().enumerate() {
        piece.wanted = wanted.get(index).cloned().unwrap_or_default();
        piece.failed = bad.contains(&index);
        // Not asked at first: slow in advance.
        piece.slow = source.ask_last(index);
    }
    let mut gather = Gather { source: source.clone(), pieces, asked: 0, flying: FuturesUnordered::new() };
    gather.run().await?;
    gather.decode().await
}

impl Gather {
    fn k(&self) -> usize {
        self.source.layout.k()
    }

    async fn run(&mut self) -> Result<(), Error> {
        for index in 0..self.k() {
            let piece = &self.pieces[index];
            if !piece.wanted.is_empty() && !piece.failed && !piece.slow {
                self.ask(index, piece.wanted.clone());
            }
        }
        self.ask_others()?;
        let mut patience = self.patience();
        while !self.complete() {
            let answer = match patience.take() {
                Some((timer, asked)) => match select(self.flying.next(), timer).await {
                    Either::Left((answer, timer)) => {
                        patience = Some((timer, asked));
                        answer
                    }
                    Either::Right(_) => {
                        self.lose_patience();
                        self.ask_others()?;
                        patience = self.patience();
                        continue;
                    }
                },
                None => self.flying.next().await,
            };
            let Some((index, stripes, bytes)) = answer else {
                // Nobody is asked any more, and still it isn't enough.
                return Err(Error::TooFewPieces { what: "read", have: self.holding(&self.lost()), need: self.k() });
            };
            let piece = &mut self.pieces[index];
            if piece.open.as_ref() == Some(&stripes) {
                piece.open = None;
            }
            match bytes {
                Ok(bytes) => piece.have.push((stripes, bytes)),
                Err(_) => piece.failed = true,
            }
            self.ask_others()?;
            if patience.as_ref().is_none_or(|(_, asked)| *asked != self.asked) {
                patience = self.patience();
            }
        }
        Ok(())
    }

    /// Ready when the drives that are asked have had their usual time; with it, how many were asked.
    fn patience(&self) -> Option<(BoxFuture<'static, ()>, usize)> {
        let core = &self.source.core;
        let waits = |piece: &Asked| piece.open.is_some() && !piece.slow;
        let asked = (0..self.pieces.len()).filter(|at| waits(&self.pieces[*at]));
        let drives = asked.filter_map(|at| self.source.group.holders(at).next());
        let longest = drives.map(|drive| core.drives.hedge_after(drive)).max()?;
        Some((core.env.clock.sleep(longest), self.asked))
    }

    /// Whoever hasn't answered yet is slow.
    fn lose_patience(&mut self) {
        for (index, piece) in self.pieces.iter_mut().enumerate() {
            if piece.open.is_some() && !piece.slow {
                piece.slow = true;
                if let Some(drive) = self.source.group.holders(index).next() {
                    let drives = &self.source.core.drives;
                    drives.note_read(drive, drives.hedge_after(drive));
                }
            }
        }
    }

    fn ask(&mut self, index: usize, stripes: Range<u64>) {
        self.asked += 1;
        self.pieces[index].open = Some(stripes.clone());
        self.flying.push(self.source.ask(index, stripes));
    }

    /// The stripes that must be decoded: those wanted of pieces that failed, or are slow.
    fn lost(&self) -> Range<u64> {
        let lost = |piece: &&Asked| (piece.failed || piece.slow) && !piece.satisfied();
        self.pieces.iter().filter(lost).fold(0..0, |all, piece| hull(&all, &piece.wanted))
    }

    fn holding(&self, stripes: &Range<u64>) -> usize {
        self.pieces.iter().filter(|piece| piece.has(stripes).is_some()).count()
    }

    fn complete(&self) -> bool {
        let lost = self.lost();
        let rest = self.pieces.iter().all(|piece| piece.satisfied() || piece.failed || piece.slow);
        rest && (lost.is_empty() || self.holding(&lost) >= self.k())
    }

    /// Asks as many more pieces as decoding needs: quick ones first, slow ones if it must be.
    fn ask_others(&mut self) -> Result<(), Error> {
        let lost = self.lost();
        if lost.is_empty() {
            return Ok(());
        }
        let coming = |piece: &Asked, slow: bool| {
            let open = piece.open.as_ref().is_some_and(|open| covers(open, &lost));
            piece.has(&lost).is_some() || (open && piece.slow == slow)
        };
        let mut count = self.pieces.iter().filter(|piece| coming(piece, false)).count();
        for slow in [false, true] {
            if slow {
                let also = |piece: &&Asked| piece.has(&lost).is_none() && coming(piece, true);
                count += self.pieces.iter().filter(also).count();
            }
            for index in 0..self.pieces.len() {
                let piece = &self.pieces[index];
                if count >= self.k() {
                    return Ok(());
                }
                let asked = coming(piece, false) || coming(piece, true);
                if piece.slow == slow && !piece.failed && !asked {
                    let stripes = hull(&lost, &piece.wanted);
                    self.ask(index, stripes);
                    count += 1;
                }
            }
        }
        if count >= self.k() {
            return Ok(());
        }
        Err(Error::TooFewPieces { what: "read", have: count, need: self.k() })
    }

    /// What was wanted, by piece.
    async fn decode(self) -> Result<Vec<Cells>, Error> {
        let (lost, k, layout) = (self.lost(), self.k(), self.source.layout);
        let must_decode = self.pieces.iter().any(|asked| !asked.satisfied());
        let mut cells = Vec::with_capacity(k);
        // Wanted cells that are among those that decoding takes, or gives.
        let mut among = Vec::new();
        let mut given: Vec<Option<Bytes>> = vec![None; self.source.n()];
        let mut count = 0;
        for (piece, mut asked) in self.pieces.into_iter().enumerate() {
            let stripes = asked.wanted.clone();
            if must_decode
                && count < k
                && let Some(at) = asked.have.iter().position(|(have, _)| covers(have, &lost))
            {
                // Moved, so that the bytes have one owner and needn't be copied.
                let (have, bytes) = asked.have.swap_remove(at);
                if !stripes.is_empty() && !covers(&lost, &stripes) {
                    let bytes = part(&layout, &have, &bytes, &stripes);
                    cells.push(Cells { piece, stripes, bytes, decoded: false });
                } else if !stripes.is_empty() {
                    among.push((piece, stripes, false));
                }
                given[piece] = Some(part(&layout, &have, &bytes, &lost));
                count += 1;
            } else if let Some((have, bytes)) = asked.has(&stripes).filter(|_| !stripes.is_empty()) {
                let bytes = part(&layout, have, bytes, &stripes);
                cells.push(Cells { piece, stripes, bytes, decoded: false });
            } else if !stripes.is_empty() {
                among.push((piece, stripes, true));
            }
        }
        if must_decode {
            let (k, m) = (usize::from(self.source.segment.k), usize::from(self.source.segment.m));
            let code = Code::new(k, m)?;
            let decoded = self.source.core.env.blocking(move || decode(&code, layout, given, lost, among));
            cells.extend(decoded.await??);
            cells.sort_by_key(|cells| cells.piece);
        }
        Ok(cells)
    }
}

/// Decodes the data pieces' cells of the stripes `lost` from those `given`, and cuts out those `among`
/// them that are wanted: piece, stripes, and whether the piece was not given.
fn decode(
    code: &Code,
    layout: Layout,
    given: Vec<Option<Bytes>>,
    lost: Range<u64>,
    among: Vec<(usize, Range<u64>, bool)>,
) -> Result<Vec<Cells>, Error> {
    let mut given: Vec<Option<Vec<u8>>> = given.into_iter().map(|bytes| bytes.map(Vec::from)).collect();
    code.reconstruct(&mut given, true)?;
    let cut = |(piece, stripes, decoded): (usize, Range<u64>, bool)| {
        let bytes = Bytes::from(given[piece].take().unwrap_or_default());
        Cells { piece, bytes: part(&layout, &lost, &bytes, &stripes), stripes, decoded }
    };
    Ok(among.into_iter().map(cut).collect())
}

/// The bytes of `stripes` out of those of `have`.
fn part(layout: &Layout, have: &Range<u64>, bytes: &Bytes, stripes: &Range<u64>) -> Bytes {
    let (outer, inner) = (layout.piece_range(have.clone()), layout.piece_range(stripes.clone()));
    bytes.slice((inner.start - outer.start) as usize..(inner.end - outer.start) as usize)
}
