//! Reading through layers: what is newer hides what is older.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use base::Seq;

use crate::Error;
use crate::layer::{Cell, CellRow, Layer, bounds};

/// The bounds of a walk.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);
/// A row as a source knows it; no value: it was removed there.
pub(crate) type Known<V> = (Vec<u8>, Option<V>);

/// Rows in order, possibly with removals.
pub(crate) trait Source<V, E> {
    /// Up to `count` rows in the order of the walk; fewer only if there are no more.
    fn chunk(&self, range: Bounds<'_>, count: usize, reverse: bool) -> Result<Vec<Known<V>>, E>;
}

/// How many rows more than wanted a source is asked for: removals are among them.
const SPARE: usize = 8;
/// Rows per look at most: bounds memory and the time that a layer is locked.
const LOOK_MAX: usize = 1024;

/// Up to `limit` rows of the range. Sources come oldest first.
pub(crate) fn range<V, E>(
    sources: &[&dyn Source<V, E>],
    range: Range<&[u8]>,
    limit: usize,
    reverse: bool,
) -> Result<Vec<(Vec<u8>, V)>, E> {
    let mut rows = Vec::new();
    let Some((from, to)) = bounds(&range) else { return Ok(rows) };
    let (mut from, mut to) = (from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec));
    while rows.len() < limit {
        let view = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let (look, horizon) = look(sources, view, (limit - rows.len()).min(LOOK_MAX), reverse)?;
        let live = look.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let room = limit - rows.len();
        if reverse {
            rows.extend(live.rev().take(room));
        } else {
            rows.extend(live.take(room));
        }
        match horizon {
            None => break,
            Some(key) if reverse => to = Bound::Excluded(key),
            Some(key) => from = Bound::Excluded(key),
        }
        if from_reaches(&from, &to) {
            break;
        }
    }
    Ok(rows)
}

/// Whether nothing lies between; `BTreeMap::range` panics on such bounds.
fn from_reaches(from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    match (from, to) {
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}

/// The merged rows from the walk's beginning up to the horizon: the nearest last key of a source
/// that may have more. No horizon: that was all.
#[allow(clippy::type_complexity)]
fn look<V, E>(
    sources: &[&dyn Source<V, E>],
    range: Bounds<'_>,
    want: usize,
    reverse: bool,
) -> Result<(BTreeMap<Vec<u8>, Option<V>>, Option<Vec<u8>>), E> {
    let ask = if sources.len() > 1 { want + SPARE } else { want };
    let mut merged = BTreeMap::new();
    let mut horizon: Option<Vec<u8>> = None;
    for source in sources {
        let rows = source.chunk(range, ask, reverse)?;
        if let Some((end, _)) = rows.last().filter(|_| rows.len() >= ask) {
            let nearer = horizon.as_ref().is_none_or(|old| if reverse { end > old } else { end < old });
            if nearer {
                horizon = Some(end.clone());
            }
        }
        merged.extend(rows);
    }
    if let Some(horizon) = &horizon {
        merged.retain(|key, _| if reverse { key >= horizon } else { key <= horizon });
    }
    Ok((merged, horizon))
}

/// A layer as it was at some point.
pub(crate) struct At<'a>(pub &'a Layer, pub Seq);

impl<E> Source<Cell, E> for At<'_> {
    fn chunk(&self, range: Bounds<'_>, count: usize, reverse: bool) -> Result<Vec<Known<Cell>>, E> {
        let live = |(key, cell)| (key, (cell != Cell::Gone).then_some(cell));
        Ok(self.0.chunk(range, self.1, count, reverse).into_iter().map(live).collect())
    }
}

/// What lies under all layers.
pub(crate) trait Ground: Source<Cell, Error> {
    fn get(&self, key: &[u8]) -> Result<Option<Cell>, Error>;
}

/// The row as of `at`. Layers come oldest first.
pub(crate) fn get(ground: Option<&dyn Ground>, layers: &[&Layer], at: Seq, key: &[u8]) -> Result<Option<Cell>, Error> {
    for layer in layers.iter().rev() {
        if let Some(cell) = layer.get(key, at) {
            return Ok((cell != Cell::Gone).then_some(cell));
        }
    }
    ground.map_or(Ok(None), |ground| ground.get(key))
}

/// Up to `limit` rows of the range as of `at`. Layers come oldest first.
pub(crate) fn cells(
    ground: Option<&dyn Ground>,
    layers: &[&Layer],
    at: Seq,
    keys: Range<&[u8]>,
    limit: usize,
    reverse: bool,
) -> Result<Vec<CellRow>, Error> {
    let views: Vec<At<'_>> = layers.iter().map(|layer| At(layer, at)).collect();
    let mut sources: Vec<&dyn Source<Cell, Error>> = Vec::with_capacity(views.len() + 1);
    if let Some(ground) = ground {
        sources.push(ground);
    }
    sources.extend(views.iter().map(|view| view as &dyn Source<Cell, Error>));
    range(&sources, keys, limit, reverse)
}

/// What a removal of the range makes: one cell for each row that is there as of `at`.
pub(crate) fn removed(
    ground: Option<&dyn Ground>,
    layers: &[&Layer],
    at: Seq,
    keys: Range<&[u8]>,
) -> Result<Vec<CellRow>, Error> {
    let rows = cells(ground, layers, at, keys, usize::MAX, false)?;
    Ok(rows.into_iter().map(|(key, _)| (key, Cell::Gone)).collect())
}
