//! What keepers of segments need of the client: which pieces are in use, rebuilding, verifying, compacting.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::kv::View;
use base::{GroupId, Kind, Kinded, PieceId, PolicyId, SegmentId, VolumeId};
use codec::Versioned;
use namespace::{Body, Version};
use placement::GroupRow;

use crate::compact::{self, Compacted};
use crate::core::{READ_MAX, WRITE_MAX};
use crate::drives::Holder;
use crate::findings::Finding;
use crate::header::PieceHeader;
use crate::repair::{Job, Rebuilt};
use crate::source::Source;
use crate::{Bucket, Client, Error, recode, verify};

impl Client {
    /// Whether the segment is being written, or waits for its commit: then a piece of it is no orphan though no row names
    /// it. Ask this first and look at the rows after.
    pub fn is_fresh(&self, segment: SegmentId) -> bool {
        // In this order: what is no longer written is registered.
        let under_way = self.core().under_way().contains(&segment);
        under_way || self.registry().is_fresh(segment)
    }

    /// A placement group's row, as this client knows it.
    pub async fn group(&self, policy: PolicyId, group: GroupId) -> Result<Arc<GroupRow>, Error> {
        self.core().group(policy, group).await
    }

    /// Gives back content that was never committed. Call it now and then.
    pub async fn sweep_uncommitted(&self) -> Result<(), Error> {
        let now = self.core().env.clock.now();
        let mut failed = None;
        for run in self.registry().overdue(now) {
            let (volume, segment) = (run.volume, run.segment);
            let (policy, group) = (run.target.policy.id, run.target.group.group);
            // In the shard's order, so behind every commit that was ever begun for it.
            let look = move |view: &dyn View| {
                let row = namespace::read::segment(view, volume, policy, group, segment)?;
                Ok((base::kv::Batch::default(), row.is_some()))
            };
            let in_use = self.core().shard(volume).execute(look).await;
            self.registry().sweep(now, segment, in_use.as_ref().ok().copied());
            failed = failed.or(in_use.err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Rebuilds pieces of a segment onto the members of its group's row, from any k others.
    pub async fn rebuild(
        &self,
        volume: VolumeId,
        segment: SegmentId,
        (policy, row): (PolicyId, &GroupRow),
        missing: &[u8],
    ) -> Result<Rebuilt, Error> {
        let missing = missing.iter().copied().collect();
        let (core, group) = (self.core().clone(), row.clone());
        Job { core, volume, policy, group_id: row.group, segment, group, missing }.run().await
    }

    /// Deletes every piece of a segment wherever its group may have it; the drives that couldn't be
    /// asked are given: their pieces are orphans when they return.
    ///
    /// With `only_of` a piece goes only if its own header names that volume: rows that somebody else than the store
    /// wrote may name anything.
    pub async fn delete_pieces(
        &self,
        segment: SegmentId,
        (policy, group): (PolicyId, GroupId),
        only_of: Option<VolumeId>,
    ) -> Result<Vec<base::DriveId>, Error> {
        let row = self.core().group(policy, group).await?;
        let mut by_drive: BTreeMap<base::DriveId, Vec<PieceId>> = BTreeMap::new();
        for index in 0..row.members.len() {
            for drive in row.holders(index) {
                by_drive.entry(drive).or_default().push(PieceId { segment, index: index as u8 });
            }
        }
        let mut left = Vec::new();
        for (drive, pieces) in by_drive {
            match self.drives().get(drive) {
                Some(holder) => {
                    let mut pieces = pieces;
                    if let Some(volume) = only_of {
                        pieces = self.pieces_of(&*holder, pieces, volume).await?;
                    }
                    let piece = PieceId { segment, index: 0 };
                    self.core().within(WRITE_MAX, piece, holder.delete(pieces)).await?;
                }
                None => left.push(drive),
            }
        }
        Ok(left)
    }

    /// Those of the pieces whose headers say that they are the volume's.
    async fn pieces_of(
        &self,
        holder: &dyn Holder,
        pieces: Vec<PieceId>,
        volume: VolumeId,
    ) -> Result<Vec<PieceId>, Error> {
        let mut own = Vec::new();
        for piece in pieces {
            match self.core().within(READ_MAX, piece, holder.header(piece)).await {
                Ok(header) if PieceHeader::decode(&header).is_ok_and(|header| header.volume == volume) => {
                    own.push(piece)
                }
                // Another's; or damaged, which a scrub rebuilds or throws away.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), Kind::Missing | Kind::Damaged) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(own)
    }

    /// Reads every piece of every segment of a version and compares it with its root.
    pub async fn verify(&self, bucket: &Bucket, version: &Version) -> Result<Vec<Finding>, Error> {
        let mut all = Vec::new();
        let mut stack = vec![version.body.clone()];
        while let Some(body) = stack.pop() {
            let (segments, pack) = match body {
                Body::Inline(_) => continue,
                Body::Unloaded => return Err(Error::Invalid { what: "the version was read without its body" }),
                Body::Spans(spans) => {
                    stack.extend(spans.into_iter().map(|span| span.body));
                    continue;
                }
                Body::Packed(segment, _) => (vec![segment], true),
                Body::Segments(segments) => (segments, false),
            };
            for segment in segments {
                let source = Source::open(self.core(), bucket.volume, segment, pack).await?;
                let faults = verify::check(&source).await;
                all.extend(verify::findings(&source, faults));
            }
        }
        Ok(all)
    }

    /// Writes the segments of a version anew that aren't coded by the volume's policy of now. Bytes that were written;
    /// none if all are.
    pub async fn recode(&self, volume: VolumeId, key: &str, version: &Version) -> Result<u64, Error> {
        recode::recode(self, volume, key, version).await
    }

    /// The policy by which the volume's new data is coded.
    pub async fn policy_of(&self, volume: VolumeId) -> Result<PolicyId, Error> {
        Ok(self.core().target(volume).await?.policy.id)
    }

    /// Moves what lives in a pack to a new one; the old one becomes garbage.
    pub async fn compact_pack(&self, volume: VolumeId, pack: SegmentId) -> Result<Compacted, Error> {
        compact::compact(self, volume, pack).await
    }
}
