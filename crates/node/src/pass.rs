//! A walk over all segments in use that asks each drive whether it has the pieces it should have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{DriveId, PieceId, PolicyId, SegmentId, VolumeId};
use namespace::catalog::PolicyRow;
use namespace::rows::SegmentRow;
use placement::GroupRow;
use steward::{Class, Need, Target};

use crate::error::Result;
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

    fn indices(self, row: &GroupRow) -> Vec<u8> {
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
}

/// The need of a segment for these pieces.
pub(crate) fn need(target: Target, row: &SegmentRow, missing: impl IntoIterator<Item = u8>) -> Need {
    let (k, len) = (u64::from(row.k.max(1)), row.len);
    Need { target, missing: missing.into_iter().collect(), parity: row.m, piece_bytes: len.div_ceil(k) }
}

impl Inner {
    /// Walks over all groups that have pieces to ask for; tells the steward what is missing.
    pub async fn walk(self: &Arc<Self>, ask: Ask) -> Result<Vec<Walked>> {
        let volumes = self.volumes()?;
        let policies: Vec<(PolicyRow, Vec<GroupRow>)> = self.look(groups::load)?;
        let mut walked = Vec::new();
        for (policy, rows) in policies {
            for row in rows {
                let indices = ask.indices(&row);
                if indices.is_empty() {
                    continue;
                }
                let mut lacking = 0;
                for volume in &volumes {
                    lacking += self.walk_group(*volume, policy.id, &row, &indices).await?;
                    if self.is_closing() {
                        return Ok(walked);
                    }
                }
                walked.push(Walked { policy: policy.id, row, lacking });
            }
        }
        Ok(walked)
    }

    pub async fn walk_group(
        self: &Arc<Self>,
        volume: VolumeId,
        policy: PolicyId,
        row: &GroupRow,
        indices: &[u8],
    ) -> Result<u64> {
        let group = row.group;
        let (mut after, mut lacking) = (None, 0);
        let leaving = self.leaving()?;
        loop {
            let read = move |view: &dyn base::kv::View| {
                namespace::read::segments_of_group(view, volume, policy, group, after, PAGE)
            };
            let page = self.scan(volume, read).await?;
            after = page.last().map(|(segment, _)| *segment);
            let mut missing: BTreeMap<SegmentId, BTreeSet<u8>> = BTreeMap::new();
            // All drives at once: each may be a round trip away.
            let asked = indices.iter().map(|index| async {
                let pieces: Vec<PieceId> =
                    page.iter().map(|(segment, _)| PieceId { segment: *segment, index: *index }).collect();
                let there = self.holds(row.members[usize::from(*index)], &pieces).await;
                pieces.into_iter().zip(there).filter(|(_, there)| !there).map(|(piece, _)| piece)
            });
            for piece in futures_util::future::join_all(asked).await.into_iter().flatten() {
                missing.entry(piece.segment).or_default().insert(piece.index);
            }
            for (segment, found) in &page {
                let Some(missing) = missing.remove(segment) else { continue };
                lacking += missing.len() as u64;
                let target = Target { volume, policy, group, segment: *segment };
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
            if page.len() < PAGE || self.is_closing() {
                return Ok(lacking);
            }
        }
    }

    /// Whether a piece goes elsewhere from a drive that answers.
    fn is_on_its_way(&self, row: &GroupRow, index: u8) -> bool {
        let at = usize::from(index);
        row.members.get(at) != row.from.get(at) && row.from.get(at).is_some_and(|drive| self.is_up(*drive))
    }

    /// Which of the pieces a drive has; none if it can't be asked.
    async fn holds(&self, drive: DriveId, pieces: &[PieceId]) -> Vec<bool> {
        let none = || vec![false; pieces.len()];
        if let Some(drive) = self.fleet.get(drive) {
            if !drive.is_up() {
                return none();
            }
            let asked = pieces.iter().map(|piece| async { drive.store.contains(*piece).await.unwrap_or(false) });
            return futures_util::future::join_all(asked).await;
        }
        let remote = self.cluster.get().and_then(|cluster| cluster.remotes.get(drive));
        let Some(remote) = remote.filter(|_| self.is_up(drive)) else { return none() };
        remote.contains(pieces).await.unwrap_or_else(|error| {
            tracing::debug!(%drive, %error, "a drive of another node can't be asked for its pieces");
            none()
        })
    }
}
