//! Reading whole pieces and comparing them with their roots.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::Versioned;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use placement::GroupRow;

use crate::Error;
use crate::core::READ_MAX;
use crate::findings::{Fault, Finding};
use crate::gather::Source;
use crate::header::PieceHeader;

/// Bytes of a piece that are read at a time.
pub(crate) const CHUNK_BYTES: u64 = 1024 * 1024;

/// The piece's header, from whichever of its drives has it.
pub(crate) async fn header(source: &Source, index: usize) -> Option<PieceHeader> {
    for drive in source.group.holders(index) {
        let Some(holder) = source.core.drives.get(drive) else { continue };
        let piece = source.piece(index);
        if let Ok(bytes) = source.core.within(READ_MAX, piece, holder.header(piece)).await
            && let Ok(header) = PieceHeader::decode(&bytes)
            && header.segment == source.segment.id
            && usize::from(header.index) == index
            && (header.k, header.m, header.len) == (source.segment.k, source.segment.m, source.segment.len)
        {
            return Some(header);
        }
    }
    None
}

/// A header whose roots are those that the manifest names.
async fn trusted(source: &Source) -> Option<PieceHeader> {
    for index in 0..source.n() {
        if let Some(header) = header(source, index).await
            && header.root() == source.segment.root
        {
            return Some(header);
        }
    }
    None
}

/// BLAKE3 of a piece's body.
async fn root_of(source: &Arc<Source>, index: usize) -> Result<[u8; 32], Fault> {
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    let len = source.layout.piece_bytes();
    while at < len {
        let end = (at + CHUNK_BYTES).min(len);
        let bytes = source.read(index, at..end).await?;
        let hashed = source.core.env.blocking(move || {
            hasher.update(&bytes);
            hasher
        });
        hasher = hashed.await.map_err(|_| Fault::Failed)?;
        at = end;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Reads every piece and says which of them are not as they were written; header included.
pub(crate) async fn check(source: &Arc<Source>) -> BTreeMap<usize, Fault> {
    let Some(trusted) = trusted(source).await else {
        // Without roots nothing can be said of the bodies but whether they are there.
        let mut faults = BTreeMap::new();
        for index in 0..source.n() {
            let there = header(source, index).await.is_some();
            faults.insert(index, if there { Fault::Damaged } else { Fault::Missing });
        }
        return faults;
    };
    let trusted = &trusted;
    let each = (0..source.n()).map(|index| async move {
        let fault = match root_of(source, index).await {
            Ok(root) if root != trusted.roots[index] => Some(Fault::Damaged),
            Ok(_) => match header(source, index).await {
                Some(header) if header.roots == trusted.roots => None,
                _ => Some(Fault::Damaged),
            },
            Err(fault) => Some(fault),
        };
        (index, fault)
    });
    let mut faults = BTreeMap::new();
    let mut all: FuturesUnordered<_> = each.collect();
    while let Some((index, fault)) = all.next().await {
        if let Some(fault) = fault {
            faults.insert(index, fault);
        }
    }
    faults
}

/// Marks the pieces whose bytes are wrong; says how many were not known as such before.
pub(crate) async fn find_bad(source: &Arc<Source>) -> Result<usize, Error> {
    let before = source.bad();
    if trusted(source).await.is_none() {
        return Err(Error::Damaged { what: "a segment without a piece that fits its manifest" });
    }
    for (index, fault) in check(source).await {
        if fault == Fault::Damaged {
            source.mark_bad(index);
        }
    }
    Ok(source.bad().difference(&before).count())
}

/// The faults of a segment's pieces as findings.
pub(crate) fn findings(source: &Source, faults: BTreeMap<usize, Fault>) -> Vec<Finding> {
    let group: &GroupRow = &source.group;
    let finding = |(index, fault): (usize, Fault)| Finding {
        volume: source.volume,
        policy: source.segment.policy,
        group: source.segment.group,
        piece: source.piece(index),
        drive: group.members.get(index).copied(),
        fault,
    };
    faults.into_iter().map(finding).collect()
}
