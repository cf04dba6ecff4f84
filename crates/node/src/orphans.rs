//! Pieces that no row names: a walk over each drive finds them, and they go to its trash for a day.
//!
//! 1. There is no list of what is to be kept. Each piece that a drive has is asked for in the rows as they are then, so what is
//!    copied, renamed or completed while a walk goes on can't slip through between two pages of a snapshot.
//! 2. Nobody may be writing it: that is asked first, the rows after it, so what is committed in between is seen in them.
//! 3. A piece that belongs on another drive by now goes once that drive has it.
//! 4. A walk counts first, and deletes in a second round, no more than it counted. If more than a quarter of a drive is
//!    named by nothing, it is rather rows that are missing (metadata from an old copy, a fault of ours): nothing goes,
//!    the store says so, and only a week later is it believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{DriveId, Instant, PieceId, SegmentId, VolumeId};
use client::header::PieceHeader;
use codec::Versioned;
use namespace::catalog::{self, DriveRow, DriveState, Severity};
use piecestore::Cursor;

use crate::error::Result;
use crate::fleet::Mounted;
use crate::node::Inner;
use crate::owners::guests::UNCOMMITTED_MAX;

/// Pieces that are looked at before others get their turn.
pub(crate) const STEP: usize = 256;
/// More than one of so many is more than garbage ever is.
const SHARE: u64 = 4;
/// So few may be any share: nothing follows from small numbers.
const FEW: u64 = 64;
/// So long they are kept then, in time that the store lived.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// What was kept is looked at again after so long.
const AGAIN: Duration = Duration::from_secs(3600);
/// If rows can't be asked for, as long as nobody leads, a round begins again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How far the search on a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orphans {
    /// It goes on.
    Walk(Walk),
    /// Something was kept: it begins again then.
    Rest(Instant),
    /// Nothing is left to find before the next scrub's end.
    Done,
}

impl Default for Orphans {
    fn default() -> Self {
        Orphans::Walk(Walk::default())
    }
}

/// A round over a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    after: Option<Cursor>,
    /// Pieces seen so far.
    seen: u64,
    /// Those of them that nothing names.
    nameless: u64,
    /// Pieces that belong on a drive that doesn't have them yet.
    early: u64,
    /// How many may go in this round; nothing: they are only counted.
    may_go: Option<u64>,
}

/// What a step found.
#[derive(Debug, Default)]
struct Found {
    /// Pieces that another drive has by now.
    elsewhere: Vec<PieceId>,
    /// Pieces that another drive is to have, but lacks.
    early: u64,
    /// Pieces that no row names.
    nameless: Vec<PieceId>,
}

/// That a drive's nameless pieces are kept, as the catalog has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// The store's age when that began.
    since: Duration,
    nameless: u64,
    seen: u64,
}

impl Kept {
    fn text(self) -> String {
        format!("{} {} {}", self.since.as_secs(), self.nameless, self.seen)
    }

    fn read(row: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(row).ok()?.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self { since: Duration::from_secs(next()?), nameless: next()?, seen: next()? })
    }
}

fn row_of(drive: DriveId) -> String {
    format!("nameless {drive}")
}

/// Whether it is rather rows that are missing than names.
fn is_too_much(nameless: u64, seen: u64) -> bool {
    nameless > FEW && nameless > seen / SHARE
}

impl Inner {
    /// Looks at some pieces of a drive; what comes next.
    pub(crate) async fn look_for_orphans(&self, drive: &Arc<Mounted>, at: Orphans, step: usize) -> Orphans {
        let mut walk = match at {
            Orphans::Walk(walk) => walk,
            Orphans::Rest(until) if self.env.clock.now() >= until => Walk::default(),
            Orphans::Rest(_) | Orphans::Done => return at,
        };
        let Ok((pieces, next)) = drive.store.list(walk.after, step).await else { return at };
        let pieces: Vec<PieceId> = pieces.into_iter().map(|(piece, _)| piece).collect();
        walk.seen += pieces.len() as u64;
        let found = match self.orphans(drive, pieces).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(drive = %drive.id, %error, "failed to look for orphans: trying again later");
                return Orphans::Rest(self.env.clock.now() + ASK_AGAIN);
            }
        };
        walk.nameless += found.nameless.len() as u64;
        walk.early += found.early;
        let mut waste = found.elsewhere;
        if let Some(left) = &mut walk.may_go {
            let go = (found.nameless.len() as u64).min(*left);
            *left -= go;
            waste.extend(&found.nameless[..go as usize]);
        }
        if !waste.is_empty() {
            tracing::info!(drive = %drive.id, pieces = waste.len(), "pieces that nothing names go to the trash");
            if let Err(error) = drive.store.delete(waste).await {
                tracing::info!(drive = %drive.id, %error, "failed to delete orphans: the next round will");
            }
        }
        walk.after = next;
        if next.is_some() {
            return Orphans::Walk(walk);
        }
        self.walked(drive, walk).await.unwrap_or_else(|error| {
            tracing::debug!(drive = %drive.id, %error, "what nothing names is kept for now");
            Orphans::Rest(self.env.clock.now() + AGAIN)
        })
    }

    /// A round has come to its end.
    async fn walked(&self, drive: &Mounted, walk: Walk) -> Result<Orphans> {
        let again = Orphans::Rest(self.env.clock.now() + AGAIN);
        let after = if walk.early > 0 { again } else { Orphans::Done };
        if walk.may_go.is_some() {
            return Ok(after);
        }
        let row = row_of(drive.id);
        let kept = self.look(|view| catalog::setting(view, &row))?.as_deref().and_then(Kept::read);
        let go = Orphans::Walk(Walk { may_go: Some(walk.nameless), ..Walk::default() });
        if !is_too_much(walk.nameless, walk.seen) {
            if kept.is_some() {
                self.change(|_| Ok((catalog::put_setting(&row, None), ()))).await?;
            }
            return Ok(if walk.nameless > 0 { go } else { after });
        }
        let age = self.age()?;
        let since = kept.map_or(age, |kept| kept.since);
        if age.saturating_sub(since) >= KEPT_FOR {
            self.change(|_| Ok((catalog::put_setting(&row, None), ()))).await?;
            let text = format!(
                "{} of {} pieces on drive {} are named by nothing for a week: they go to the trash",
                walk.nameless,
                walk.seen,
                self.name_of(drive.id)
            );
            self.tell(Severity::Warning, "garbage", &drive.id.to_string(), text);
            return Ok(go);
        }
        let now = Kept { since, nameless: walk.nameless, seen: walk.seen };
        if kept != Some(now) {
            let text = now.text();
            self.change(|_| Ok((catalog::put_setting(&row, Some(text.as_bytes())), ()))).await?;
        }
        if kept.is_none() {
            let text = refusal(&self.name_of(drive.id), now, Duration::ZERO);
            self.tell(Severity::Warning, "garbage", &drive.id.to_string(), text);
        }
        Ok(again)
    }

    /// What is kept although nothing names it, for people.
    pub(crate) fn kept_nameless(&self, rows: &[DriveRow]) -> Result<Vec<String>> {
        let age = self.age()?;
        let mut told = Vec::new();
        // Of what was taken out or is lost nothing is said any more.
        for drive in rows.iter().filter(|row| matches!(row.state, DriveState::Active | DriveState::Draining)) {
            let kept = self.look(|view| catalog::setting(view, &row_of(drive.id)))?.as_deref().and_then(Kept::read);
            told.extend(kept.map(|kept| refusal(&drive.path, kept, age.saturating_sub(kept.since))));
        }
        Ok(told)
    }

    async fn orphans(&self, drive: &Mounted, pieces: Vec<PieceId>) -> Result<Found> {
        let mut known: Vec<(PieceId, PieceHeader)> = Vec::new();
        for piece in pieces {
            // What can't be read is the scrub's affair.
            let Ok(bytes) = drive.store.header(piece).await else { continue };
            known.extend(PieceHeader::decode(&bytes).ok().map(|header| (piece, header)));
        }
        let mut nameless = Vec::new();
        let mut others: BTreeMap<DriveId, Vec<PieceId>> = BTreeMap::new();
        let mut moved = BTreeSet::new();
        for ((piece, header), named) in known.iter().zip(self.in_use(&known).await?) {
            if !named {
                nameless.push((*piece, header.clone()));
                continue;
            }
            // Not as it was here a moment ago: a piece that was just brought here is no orphan.
            let Some(row) = self.newest_group(header.policy, header.group).await? else { continue };
            let holders: Vec<DriveId> = row.holders(usize::from(piece.index)).collect();
            if !holders.contains(&drive.id) {
                moved.insert(*piece);
                holders.into_iter().for_each(|holder| others.entry(holder).or_default().push(*piece));
            }
        }
        let mut elsewhere = BTreeSet::new();
        for (holder, pieces) in others {
            let Some(there) = self.holds(holder, &pieces).await else { continue };
            elsewhere.extend(pieces.into_iter().zip(there).filter(|(_, there)| *there).map(|(piece, _)| piece));
        }
        // Nobody may be writing them; asked in this order, what is committed in between is seen in the rows.
        let mut stale = Vec::new();
        for (piece, header) in nameless {
            if !self.may_be_a_guests(&header)? && !self.is_fresh(piece.segment).await {
                stale.push((piece, header));
            }
        }
        let named = self.in_use(&stale).await?;
        let nameless = stale.into_iter().zip(named).filter(|(_, named)| !named).map(|((piece, _), _)| piece).collect();
        let early = moved.difference(&elsewhere).count() as u64;
        Ok(Found { elsewhere: elsewhere.into_iter().collect(), early, nameless })
    }

    /// Whether a guest may be writing the segment still: who can't be asked gets time.
    fn may_be_a_guests(&self, header: &PieceHeader) -> Result<bool> {
        let age = self.env.clock.wall().0.saturating_sub(header.written.0);
        Ok(self.is_sealed(header.volume)? && age < UNCOMMITTED_MAX.as_millis() as u64)
    }

    /// Whether rows name the segments of these pieces.
    async fn in_use(&self, pieces: &[(PieceId, PieceHeader)]) -> Result<Vec<bool>> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<_> = pieces.iter().map(|(_, one)| (one.volume, one.policy, one.group, one.segment)).collect();
        let volumes: BTreeSet<VolumeId> = wanted.iter().map(|(volume, ..)| *volume).collect();
        let asked = wanted.clone();
        let found = self.scan_all(volumes, move |view, volumes| {
            let mut named = BTreeSet::new();
            for (volume, policy, group, segment) in asked.iter().filter(|(volume, ..)| volumes.contains(volume)) {
                let in_use = namespace::read::segment(view, *volume, *policy, *group, *segment)?.is_some();
                if in_use || namespace::read::is_garbage(view, *volume, *segment)? {
                    named.insert((*volume, *segment));
                }
            }
            Ok(named)
        });
        let named: BTreeSet<(VolumeId, SegmentId)> = found.await?.into_iter().flatten().collect();
        Ok(wanted.iter().map(|(volume, _, _, segment)| named.contains(&(*volume, *segment))).collect())
    }
}

fn refusal(drive: &str, kept: Kept, so_far: Duration) -> String {
    let days = KEPT_FOR.saturating_sub(so_far).as_secs().div_ceil(86_400);
    format!(
        "{} of {} pieces on drive {drive} are named by nothing, which is more than garbage: they are kept for {days} more days; if the metadata is from an old copy, recover it from a newer one before",
        kept.nameless, kept.seen
    )
}

#[cfg(test)]
mod tests;
