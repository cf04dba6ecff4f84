//! Reading whole pieces and comparing them with their roots.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::DriveId;
use codec::Versioned;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::Error;
use crate::core::READ_MAX;
use crate::findings::{Fault, Finding};
use crate::header::PieceHeader;
use crate::source::{Bad, Source};

/// Bytes of a piece that are read at a time.
pub(crate) const CHUNK_BYTES: u64 = 1024 * 1024;

/// The header of a drive's piece, if it has one that fits the manifest.
async fn header(source: &Source, index: usize, drive: DriveId) -> Option<PieceHeader> {
    let holder = source.core.drives.get(drive)?;
    let piece = source.piece(index);
    let bytes = source.core.within(READ_MAX, piece, holder.header(piece)).await.ok()?;
    let header = PieceHeader::decode(&bytes).ok()?;
    let fits = header.segment == source.segment.id
        && usize::from(header.index) == index
        && (header.k, header.m, header.len) == (source.segment.k, source.segment.m, source.segment.len);
    fits.then_some(header)
}

/// A header whose roots are those that the manifest names.
pub(crate) async fn trusted(source: &Source) -> Option<PieceHeader> {
    for index in 0..source.n() {
        for drive in source.everyone(index) {
            if let Some(header) = header(source, index, drive).await
                && source.has_root(&header.root())
            {
                return Some(header);
            }
        }
    }
    None
}

/// BLAKE3 of the body of a drive's piece; no fault: the drive isn't there.
async fn root_of(source: &Source, index: usize, drive: DriveId) -> Result<[u8; 32], Option<Fault>> {
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    let len = source.layout.piece_bytes();
    while at < len {
        let end = (at + CHUNK_BYTES).min(len);
        let bytes = source.read_from(index, drive, at..end).await?;
        let hashed = source.core.env.blocking(move || {
            hasher.update(&bytes);
            hasher
        });
        hasher = hashed.await.map_err(|_| Some(Fault::Failed))?;
        at = end;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Whether the bytes of a drive's piece are those that were written.
async fn is_whole(source: &Source, trusted: &PieceHeader, index: usize, drive: DriveId) -> Result<bool, Option<Fault>> {
    root_of(source, index, drive).await.map(|root| root == trusted.roots[index])
}

/// What is wrong with a piece, header included: what the first drive that has it says.
async fn judge(source: &Source, trusted: &PieceHeader, index: usize) -> Option<Fault> {
    let mut fault = Fault::Missing;
    for drive in source.everyone(index) {
        match is_whole(source, trusted, index, drive).await {
            Ok(true) => {
                let header = header(source, index, drive).await;
                let good = header.is_some_and(|header| header.roots == trusted.roots);
                return (!good).then_some(Fault::Damaged);
            }
            Ok(false) => return Some(Fault::Damaged),
            Err(found) => fault = fault.max(found.unwrap_or(Fault::Missing)),
        }
    }
    Some(fault)
}

/// Reads every piece and says which of them are not as they were written; header included.
pub(crate) async fn check(source: &Arc<Source>) -> BTreeMap<usize, Fault> {
    let Some(trusted) = trusted(source).await else {
        // Without roots nothing can be said of the bodies but whether they are there.
        let mut faults = BTreeMap::new();
        for index in 0..source.n() {
            let mut there = false;
            for drive in source.everyone(index) {
                there |= header(source, index, drive).await.is_some();
            }
            faults.insert(index, if there { Fault::Damaged } else { Fault::Missing });
        }
        return faults;
    };
    let trusted = &trusted;
    let each = (0..source.n()).map(|index| async move { (index, judge(source, trusted, index).await) });
    let mut faults = BTreeMap::new();
    let mut all: FuturesUnordered<_> = each.collect();
    while let Some((index, fault)) = all.next().await {
        if let Some(fault) = fault {
            faults.insert(index, fault);
        }
    }
    faults
}

/// Marks the pieces whose bytes are wrong, each with who served them; says whether there are more than were `known`.
pub(crate) async fn find_bad(source: &Arc<Source>, known: &Bad) -> Result<bool, Error> {
    // Another read of the segment may have found them meanwhile.
    if source.bad() != *known {
        return Ok(true);
    }
    let Some(trusted) = trusted(source).await else {
        return Err(Error::Damaged { what: "a segment without a piece that fits its manifest" });
    };
    let trusted = &trusted;
    let all = (0..source.n()).flat_map(|index| source.holders(index).into_iter().map(move |drive| (index, drive)));
    let each = all.map(|(index, drive)| async move { (index, drive, is_whole(source, trusted, index, drive).await) });
    let mut each: FuturesUnordered<_> = each.collect();
    while let Some((index, drive, whole)) = each.next().await {
        if matches!(whole, Ok(false) | Err(Some(Fault::Damaged))) {
            source.mark_bad(index, drive);
        }
    }
    Ok(source.bad() != *known)
}

/// The faults of a segment's pieces as findings.
pub(crate) fn findings(source: &Source, faults: BTreeMap<usize, Fault>) -> Vec<Finding> {
    let finding = |(index, fault): (usize, Fault)| Finding {
        volume: source.volume,
        policy: source.segment.policy,
        group: source.segment.group,
        piece: source.piece(index),
        drive: source.everyone(index).first().copied(),
        fault,
    };
    faults.into_iter().map(finding).collect()
}
