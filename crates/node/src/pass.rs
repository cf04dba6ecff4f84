//! A walk over all segments in use that asks each drive whether it has the pieces it should have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{DriveId, GroupId, PieceId, PolicyId, SegmentId, VolumeId};
use namespace::catalog::PolicyRow;
use namespace::read::InUse;
use namespace::rows::SegmentRow;
use placement::GroupRow;
use steward::{Class, Need, Target};

use crate::error::{Error, Result};
use crate::groups;
use crate::node::{Inner, PAGE};

/// Which pieces a walk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Those that a group's row says are still moving.
    Moving,
    /// Those that this drive should have.
    Drive(DriveId),
    /// All.
    All,
}

impl Ask {
    fn wants(self, row: &GroupRow, index: usize) -> bool {
        match self {
            Ask::Moving => row.members[index] != row.from[index],
            Ask::Drive(drive) => row.members[index] == drive,
            Ask::All => true,
        }
    }

    fn indices(self, row: &GroupRow) -> BTreeSet<u8> {
        (0..row.members.len()).filter(|index| self.wants(row, *index)).map(|index| index as u8).collect()
    }
}

/// What a walk saw of one group.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    pub policy: PolicyId,
    pub row: GroupRow,
    /// Pieces that aren't where they should be, or whose drive isn't there to ask.
    pub lacking: u64,
    /// Those of them whose drive isn't there to ask.
    pub unasked: u64,
    /// The drives of those.
    pub away: BTreeSet<DriveId>,
}

/// The need of a segment for these pieces.
pub(crate) fn need(target: Target, row: &SegmentRow, missing: impl IntoIterator<Item = u8>) -> Need {
    let (k, len) = (u64::from(row.k.max(1)), row.len);
    Need { target, missing: missing.into_iter().collect(), parity: row.m, piece_bytes: len.div_ceil(k) }
}

/// What drives lack, in pieces.
#[derive(Clone, Debug, Default)]
struct Count {
    missing: u64,
    /// Those of drives that can't be asked.
    unasked: u64,
    away: BTreeSet<DriveId>,
}

/// Where rows of segments lie: by policy and group.
type Place = (PolicyId, GroupId);

/// The groups of a walk, with the indices of the pieces that are asked for.
pub(crate) type Wanted = BTreeMap<Place, (GroupRow, BTreeSet<u8>)>;

/// A walk over the rows of a volume begins behind this, to come to a group's first.
fn before((policy, group): Place) -> Option<(PolicyId, GroupId, SegmentId)> {
    const LAST: SegmentId = SegmentId([0xff; 16]);
    match (policy.0.checked_sub(1), group.0.checked_sub(1)) {
        (_, Some(group)) => Some((policy, GroupId(group), LAST)),
        (Some(policy), None) => Some((PolicyId(policy), GroupId(u32::MAX), LAST)),
        (None, None) => None,
    }
}

impl Inner {
    /// Walks over all groups that have pieces to ask for; tells the steward what is missing. Of a drive that can't be
    /// asked nothing is: it is walked over when it answers again, and what it has needn't be rebuilt.
    pub async fn walk(self: &Arc<Self>, ask: Ask) -> Result<Vec<Walked>> {
        let policies: Vec<(PolicyRow, Vec<GroupRow>)> = self.look(groups::load)?;
        let mut wanted = Wanted::new();
        for (policy, rows) in policies {
            for row in rows {
                let indices = ask.indices(&row);
                if !indices.is_empty() {
                    wanted.insert((policy.id, row.group), (row, indices));
                }
            }
        }
        self.walk_over(wanted).await
    }

    /// Walks over these groups. Each volume's rows are read once, in their order, and each drive is asked once for all that
    /// a page names: the number of groups costs nothing.
    ///
    /// # Errors
    /// If rows can't be read, or the node is being closed: what was not walked lacks nothing by nobody's word.
    pub async fn walk_over(self: &Arc<Self>, wanted: Wanted) -> Result<Vec<Walked>> {
        let mut lacking: BTreeMap<Place, Count> = BTreeMap::new();
        let first = wanted.keys().next().copied();
        for volume in self.volumes()? {
            let mut next = first;
            let mut after = None;
            while let Some(place) = next {
                after = after.or_else(|| before(place));
                let page = self.scan(volume, move |view| namespace::read::segments(view, volume, after, PAGE)).await?;
                for (place, mut found) in self.walk_page(volume, &wanted, &page).await? {
                    let all = lacking.entry(place).or_default();
                    (all.missing, all.unasked) = (all.missing + found.missing, all.unasked + found.unasked);
                    all.away.append(&mut found.away);
                }
                if self.is_closing() {
                    return Err(Error::NotYet("this node is being closed".into()));
                }
                let Some(last) = page.last().filter(|_| page.len() == PAGE) else { break };
                let reached = (last.policy, last.group);
                // What nobody asks for is skipped.
                after = wanted.contains_key(&reached).then_some((last.policy, last.group, last.segment));
                next = wanted.range(reached..).next().map(|(place, _)| *place);
            }
        }
        let walked = |(place, (row, _)): (Place, (GroupRow, _))| {
            let Count { missing, unasked, away } = lacking.remove(&place).unwrap_or_default();
            Walked { policy: place.0, lacking: missing + unasked, unasked, away, row }
        };
        Ok(wanted.into_iter().map(walked).collect())
    }

    /// How many pieces of these segments their drives lack, by group.
    async fn walk_page(&self, volume: VolumeId, wanted: &Wanted, page: &[InUse]) -> Result<BTreeMap<Place, Count>> {
        let mut asked: BTreeMap<DriveId, Vec<(Place, PieceId)>> = BTreeMap::new();
        for InUse { policy, group, segment, .. } in page {
            let place = (*policy, *group);
            let Some((row, indices)) = wanted.get(&place) else { continue };
            for index in indices {
                let drive = row.members[usize::from(*index)];
                asked.entry(drive).or_default().push((place, PieceId { segment: *segment, index: *index }));
            }
        }
        // All drives at once: each may be a round trip away.
        let asked = asked.into_iter().map(|(drive, pieces)| async move {
            let ids: Vec<PieceId> = pieces.iter().map(|(_, piece)| *piece).collect();
            (drive, self.holds(drive, &ids).await, pieces)
        });
        let mut lacking: BTreeMap<Place, Count> = BTreeMap::new();
        let mut missing: BTreeMap<(Place, SegmentId), BTreeSet<u8>> = BTreeMap::new();
        for (drive, there, pieces) in futures_util::future::join_all(asked).await {
            let Some(there) = there else {
                for (place, _) in &pieces {
                    let count = lacking.entry(*place).or_default();
                    count.unasked += 1;
                    count.away.insert(drive);
                }
                continue;
            };
            for ((place, piece), _) in pieces.into_iter().zip(there).filter(|(_, there)| !there) {
                missing.entry((place, piece.segment)).or_default().insert(piece.index);
            }
        }
        let leaving = self.leaving()?;
        for InUse { policy, group, segment, row: found } in page {
            let place = (*policy, *group);
            let Some((row, _)) = wanted.get(&place) else { continue };
            let Some(missing) = missing.remove(&(place, *segment)) else { continue };
            lacking.entry(place).or_default().missing += missing.len() as u64;
            let target = Target { volume, policy: *policy, group: *group, segment: *segment };
            // Nothing lacks of what is still where it comes from: that can wait for what does.
            let (moves, lost): (BTreeSet<u8>, BTreeSet<u8>) =
                missing.into_iter().partition(|index| self.is_on_its_way(row, *index));
            self.need(need(target, found, lost));
            let (leave, even) = moves.into_iter().partition::<Vec<u8>, _>(|index| {
                row.from.get(usize::from(*index)).is_some_and(|drive| leaving.contains(drive))
            });
            self.need_for(Class::Drain, need(target, found, leave));
            self.need_for(Class::Rebalance, need(target, found, even));
        }
        Ok(lacking)
    }

    /// Whether a piece goes elsewhere from a drive that answers.
    fn is_on_its_way(&self, row: &GroupRow, index: u8) -> bool {
        let at = usize::from(index);
        row.members.get(at) != row.from.get(at) && row.from.get(at).is_some_and(|drive| self.is_up(*drive))
    }

    /// Which of the pieces a drive has; `None` if it can't be asked.
    pub(crate) async fn holds(&self, drive: DriveId, pieces: &[PieceId]) -> Option<Vec<bool>> {
        if let Some(drive) = self.fleet.get(drive) {
            if !drive.is_up() {
                return None;
            }
            let asked = pieces.iter().map(|piece| async { drive.store.contains(*piece).await.unwrap_or(false) });
            return Some(futures_util::future::join_all(asked).await);
        }
        let remote = self.cluster.get().and_then(|cluster| cluster.remotes.get(drive));
        let remote = remote.filter(|_| self.is_up(drive))?;
        let asked = remote.contains(pieces).await;
        asked.inspect_err(|error| tracing::debug!(%drive, %error, "a drive can't be asked for its pieces")).ok()
    }
}

#[cfg(test)]
mod tests;
