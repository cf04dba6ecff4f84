//! Getting cells from drives: the data cells alone while all is well, any k of a stripe when a
//! drive is gone, slow or wrong.
//!
//! 1. First only the pieces that hold wanted bytes are asked, each for its own cells. Of copies the nearest one
//!    is; and when all data pieces are wanted anyway, a parity piece that is much nearer stands in for one.
//! 2. A piece that fails, or is slower than its drive usually is, is *lost* for this read; as many
//!    others are asked as are needed to decode the stripes in which it was wanted. A slow one may
//!    still win. Those others may be slow in their turn.
//! 3. What nobody waits for yet is not hurried, unless its drive is known to be slow by now: when a
//!    link is full everything is late, and asking for more makes it later. A drive that is slow is not
//!    waited for, but tried beside the reading now and then.
//! 4. Bytes that don't open are reported by the caller as `bad`, and never used again.

use std::ops::Range;
use std::sync::Arc;

use base::{DriveId, Instant};
use bytes::Bytes;
use env::BoxFuture;
use erasure::Code;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;

use crate::Error;
use crate::layout::Layout;
use crate::read::Place;
use crate::source::{Answer, Source};

/// Cells of one piece.
#[derive(Clone)]
pub(crate) struct Cells {
    pub piece: usize,
    /// Whose bytes they are: of copies any of them.
    pub from: usize,
    /// Who served them; nobody: they were decoded.
    pub by: Option<DriveId>,
    pub stripes: Range<u64>,
    pub bytes: Bytes,
}

/// A timer, and when it is over.
type Patience = (BoxFuture<'static, ()>, Instant);

/// Bytes of a piece in these stripes.
fn bytes_of(layout: &Layout, stripes: &Range<u64>) -> u64 {
    let range = layout.piece_range(stripes.clone());
    range.end - range.start
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

/// Bytes that came.
#[derive(Clone)]
struct Have {
    stripes: Range<u64>,
    bytes: Bytes,
    by: DriveId,
}

/// One piece in one read.
#[derive(Clone)]
struct Asked {
    wanted: Range<u64>,
    /// What it was asked for and hasn't answered.
    open: Option<Range<u64>>,
    /// When that is called slow.
    due: Instant,
    have: Vec<Have>,
    slow: bool,
    failed: bool,
}

impl Asked {
    fn new(wanted: Range<u64>, slow: bool, failed: bool) -> Self {
        Self { wanted, open: None, due: Instant(0), have: Vec::new(), slow, failed }
    }

    fn is_awaited(&self) -> bool {
        self.open.is_some() && !self.slow
    }

    fn has(&self, stripes: &Range<u64>) -> Option<&Have> {
        self.have.iter().find(|have| covers(&have.stripes, stripes))
    }

    fn satisfied(&self) -> bool {
        self.wanted.is_empty() || self.has(&self.wanted).is_some()
    }
}

struct Gather<'a> {
    source: Arc<Source>,
    place: &'a Place,
    pieces: Vec<Asked>,
    /// All pieces, the nearest first.
    order: Vec<usize>,
    flying: FuturesUnordered<BoxFuture<'static, Answer>>,
}

/// The wanted cells of each data piece, decoded where they must be.
pub(crate) async fn gather(source: &Arc<Source>, wanted: &[Range<u64>], place: &Place) -> Result<Vec<Cells>, Error> {
    let pieces = (0..source.n()).map(|index| {
        let wanted = wanted.get(index).cloned().unwrap_or_default();
        // Not asked at first: slow in advance.
        let slow = source.ask_last(index);
        if slow && place.is_first() {
            source.probe(index);
        }
        Asked::new(wanted, slow, source.is_bad(index))
    });
    let mut pieces: Vec<Asked> = pieces.collect();
    let mut order: Vec<(u32, usize)> = (0..source.n()).map(|index| (source.distance(index), index)).collect();
    order.sort_unstable();
    stand_in(&mut pieces, source.layout.k(), &order, place.turn());
    let order = order.into_iter().map(|(_, index)| index).collect();
    let mut gather = Gather { source: source.clone(), place, pieces, order, flying: FuturesUnordered::new() };
    gather.run().await?;
    gather.decode().await
}

/// Lets near pieces stand in for far ones. `order`: all pieces with their distance, the nearest first.
fn stand_in(pieces: &mut [Asked], k: usize, order: &[(u32, usize)], turn: u64) {
    let is_fit = |piece: &Asked| !piece.slow && !piece.failed;
    if k == 1 {
        // Each copy is the data. Those that are equally near take turns: so all drives work, and no far connection
        // rests for so long that its window shrinks.
        let mut fit = order.iter().filter(|(_, index)| is_fit(&pieces[*index])).peekable();
        let Some(nearest) = fit.peek().map(|(distance, _)| *distance) else { return };
        let alike: Vec<usize> = fit.take_while(|(distance, _)| *distance == nearest).map(|(_, index)| *index).collect();
        let chosen = alike[(turn % alike.len() as u64) as usize];
        let wanted = std::mem::replace(&mut pieces[0].wanted, 0..0);
        pieces[chosen].wanted = wanted;
        return;
    }
    if pieces[..k].iter().any(|piece| piece.wanted.is_empty()) {
        return;
    }
    let mut near = order.iter().filter(|(_, index)| *index >= k && is_fit(&pieces[*index]));
    let far = order.iter().rev().filter(|(_, index)| *index < k && is_fit(&pieces[*index]));
    let pairs = far.map_while(|far| near.next().filter(|near| near.0 < far.0).map(|_| far.1));
    // Not asked at first, so that others are.
    for far in pairs.collect::<Vec<_>>() {
        pieces[far].slow = true;
    }
}

impl Gather<'_> {
    fn k(&self) -> usize {
        self.source.layout.k()
    }

    async fn run(&mut self) -> Result<(), Error> {
        for index in 0..self.pieces.len() {
            let piece = &self.pieces[index];
            if !piece.wanted.is_empty() && !piece.failed && !piece.slow {
                self.ask(index, piece.wanted.clone());
            }
        }
        self.ask_others()?;
        let mut patience = None;
        while !self.complete() {
            patience = self.patience(patience);
            let answer = match patience.take() {
                Some((timer, due)) => match select(self.flying.next(), timer).await {
                    Either::Left((answer, timer)) => {
                        patience = Some((timer, due));
                        answer
                    }
                    Either::Right(_) => {
                        self.lose_patience();
                        self.ask_others()?;
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
                Ok((bytes, by)) => piece.have.push(Have { stripes, bytes, by }),
                Err(_) => piece.failed = true,
            }
            self.ask_others()?;
        }
        Ok(())
    }

    /// A timer for the next piece that will be called slow: the one there is, if it is right.
    fn patience(&self, timer: Option<Patience>) -> Option<Patience> {
        let due = self.pieces.iter().filter(|piece| piece.is_awaited()).map(|piece| piece.due).min()?;
        let clock = &self.source.core.env.clock;
        timer.filter(|(_, at)| *at == due).or_else(|| Some((clock.sleep(due.since(clock.now())), due)))
    }

    /// Whoever hasn't answered in time is slow.
    fn lose_patience(&mut self) {
        let (core, now) = (&self.source.core, self.source.core.env.clock.now());
        let is_first = self.place.is_first();
        for (index, piece) in self.pieces.iter_mut().enumerate() {
            let Some(open) = piece.open.as_ref().filter(|_| !piece.slow && piece.due <= now) else { continue };
            let Some(drive) = self.source.first(index) else { continue };
            let bytes = bytes_of(&self.source.layout, open);
            if is_first {
                core.drives.note_late(drive, bytes);
            } else if !core.drives.ask_last(drive) {
                piece.due = now + core.drives.hedge_after(drive, bytes);
                continue;
            }
            piece.slow = true;
        }
    }

    fn ask(&mut self, index: usize, stripes: Range<u64>) {
        let (source, core) = (&self.source, &self.source.core);
        let bytes = bytes_of(&source.layout, &stripes);
        let patience = source.first(index).map(|drive| core.drives.hedge_after(drive, bytes));
        self.pieces[index].due = core.env.clock.now() + patience.unwrap_or_default();
        self.pieces[index].open = Some(stripes.clone());
        self.flying.push(source.ask(index, stripes));
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
            for at in 0..self.order.len() {
                let index = self.order[at];
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
        if k == 1 {
            let wanted = self.pieces.iter().map(|piece| &piece.wanted).find(|wanted| !wanted.is_empty());
            let Some(stripes) = wanted.cloned() else { return Ok(Vec::new()) };
            let cells = self.pieces.iter().enumerate().find_map(|(from, piece)| {
                let have = piece.has(&stripes)?;
                let bytes = part(&layout, &have.stripes, &have.bytes, &stripes);
                Some(Cells { piece: 0, from, by: Some(have.by), stripes: stripes.clone(), bytes })
            });
            return Ok(cells.into_iter().collect());
        }
        let must_decode = self.pieces.iter().any(|asked| !asked.satisfied());
        let mut cells = Vec::with_capacity(k);
        // Wanted cells that are among those that decoding takes, or gives.
        let mut among: Vec<Among> = Vec::new();
        let mut given: Vec<Option<Bytes>> = vec![None; self.source.n()];
        let mut count = 0;
        for (piece, mut asked) in self.pieces.into_iter().enumerate() {
            let stripes = asked.wanted.clone();
            if must_decode
                && count < k
                && let Some(at) = asked.have.iter().position(|have| covers(&have.stripes, &lost))
            {
                // Moved, so that the bytes have one owner and needn't be copied.
                let Have { stripes: have, bytes, by } = asked.have.swap_remove(at);
                let by = Some(by);
                if !stripes.is_empty() && !covers(&lost, &stripes) {
                    let bytes = part(&layout, &have, &bytes, &stripes);
                    cells.push(Cells { piece, from: piece, by, stripes, bytes });
                } else if !stripes.is_empty() {
                    among.push((piece, stripes, by));
                }
                given[piece] = Some(part(&layout, &have, &bytes, &lost));
                count += 1;
            } else if let Some(have) = asked.has(&stripes).filter(|_| !stripes.is_empty()) {
                let (bytes, by) = (part(&layout, &have.stripes, &have.bytes, &stripes), Some(have.by));
                cells.push(Cells { piece, from: piece, by, stripes, bytes });
            } else if !stripes.is_empty() {
                among.push((piece, stripes, None));
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

/// A piece's wanted stripes among those that decoding takes or gives, and who gave them.
type Among = (usize, Range<u64>, Option<DriveId>);

/// Decodes the data pieces' cells of the stripes `lost` from those `given`, and cuts out those `among`
/// them that are wanted.
fn decode(
    code: &Code,
    layout: Layout,
    given: Vec<Option<Bytes>>,
    lost: Range<u64>,
    among: Vec<Among>,
) -> Result<Vec<Cells>, Error> {
    let mut given: Vec<Option<Vec<u8>>> = given.into_iter().map(|bytes| bytes.map(Vec::from)).collect();
    code.reconstruct(&mut given, true)?;
    let cut = |(piece, stripes, by): Among| {
        let bytes = Bytes::from(given[piece].take().unwrap_or_default());
        Cells { piece, from: piece, by, bytes: part(&layout, &lost, &bytes, &stripes), stripes }
    };
    Ok(among.into_iter().map(cut).collect())
}

/// The bytes of `stripes` out of those of `have`.
fn part(layout: &Layout, have: &Range<u64>, bytes: &Bytes, stripes: &Range<u64>) -> Bytes {
    let (outer, inner) = (layout.piece_range(have.clone()), layout.piece_range(stripes.clone()));
    bytes.slice((inner.start - outer.start) as usize..(inner.end - outer.start) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(wanted: &[bool]) -> Vec<Asked> {
        wanted.iter().map(|wanted| Asked::new(0..u64::from(*wanted), false, false)).collect()
    }

    /// Which pieces are asked first.
    fn asked(pieces: &[Asked]) -> Vec<usize> {
        let is_asked = |piece: &Asked| !piece.wanted.is_empty() && !piece.slow && !piece.failed;
        (0..pieces.len()).filter(|index| is_asked(&pieces[*index])).collect()
    }

    #[test]
    fn the_nearest_copies_take_turns_and_slow_or_bad_ones_none() {
        let order = [(0, 1), (0, 2), (11, 0)];
        for (turn, copy) in [(0, 1), (1, 2), (2, 1)] {
            let mut copies = pieces(&[true, false, false]);
            stand_in(&mut copies, 1, &order, turn);
            assert_eq!(asked(&copies), [copy]);
        }
        let mut copies = pieces(&[true, false, false]);
        (copies[1].slow, copies[2].failed) = (true, true);
        stand_in(&mut copies, 1, &order, 1);
        assert_eq!(asked(&copies), [0]);
    }

    #[test]
    fn near_parity_stands_in_for_far_data_only_where_all_of_it_is_wanted() {
        let order = [(0, 2), (11, 0), (11, 3), (17, 1)];
        let mut all = pieces(&[true, true, false, false]);
        stand_in(&mut all, 2, &order, 0);
        assert_eq!(asked(&all), [0]);
        let mut one = pieces(&[false, true, false, false]);
        stand_in(&mut one, 2, &order, 0);
        assert_eq!(asked(&one), [1]);
        let mut alike = pieces(&[true, true, false, false]);
        stand_in(&mut alike, 2, &[(11, 0), (11, 1), (11, 2), (11, 3)], 0);
        assert_eq!(asked(&alike), [0, 1]);
    }
}
