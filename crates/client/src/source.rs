//! One segment to be read: who may have which piece of it, and who proved wrong.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{DriveId, Kind, Kinded, PieceId, VolumeId};
use bytes::Bytes;
use env::BoxFuture;
use namespace::SegmentRef;
use placement::GroupRow;

use crate::Error;
use crate::core::{Core, READ_MAX};
use crate::findings::{Fault, Finding};
use crate::layout::Layout;

/// A drive that is tried has so long.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// What is nearer than that is as near as the next machine.
const LAN: Duration = Duration::from_millis(2);

/// One segment to be read.
pub(crate) struct Source {
    pub core: Arc<Core>,
    pub volume: VolumeId,
    pub segment: SegmentRef,
    pub layout: Layout,
    places: Places,
    /// Pieces whose bytes proved wrong, and whose they were.
    bad: Mutex<Bad>,
}

/// Wrong bytes of pieces, by the drive that served them.
pub(crate) type Bad = BTreeSet<(usize, DriveId)>;

/// Who may have a segment's pieces.
enum Places {
    /// As its group's row says.
    Group(Arc<GroupRow>),
    /// As a kit or a rescue says.
    Known(Arc<Known>),
}

/// Who has which piece of a segment, as somebody knows without any metadata.
pub(crate) struct Known {
    /// By piece; any number of them.
    pub holders: Vec<Vec<DriveId>>,
}

/// What a piece was asked for, and what came.
pub(crate) type Answer = (usize, Range<u64>, Result<(Bytes, DriveId), Fault>);

impl Source {
    pub async fn open(core: &Arc<Core>, volume: VolumeId, segment: SegmentRef, pack: bool) -> Result<Arc<Self>, Error> {
        let layout = if pack { Layout::pack(segment.k, segment.len) } else { Layout::sealed(segment.k, segment.len) };
        let group = core.group(segment.policy, segment.group).await?;
        if group.members.len() < usize::from(segment.k) + usize::from(segment.m) {
            return Err(Error::Namespace(namespace::Error::Broken { what: "a group has fewer drives than pieces" }));
        }
        let (core, places, bad) = (core.clone(), Places::Group(group), Mutex::default());
        Ok(Arc::new(Self { core, volume, segment, layout, places, bad }))
    }

    /// A segment of which it is known who has its pieces.
    pub fn known(core: &Arc<Core>, volume: VolumeId, segment: SegmentRef, pack: bool, known: Arc<Known>) -> Arc<Self> {
        let layout = if pack { Layout::pack(segment.k, segment.len) } else { Layout::sealed(segment.k, segment.len) };
        let (core, places, bad) = (core.clone(), Places::Known(known), Mutex::default());
        Arc::new(Self { core, volume, segment, layout, places, bad })
    }

    /// The same segment where its group is by now, if that moved on since: else the error stands.
    pub async fn elsewhere(&self, error: Error) -> Result<Arc<Self>, Error> {
        let (Error::TooFewPieces { .. }, Places::Group(before)) = (&error, &self.places) else { return Err(error) };
        self.core.forget_map();
        let group = self.core.group(self.segment.policy, self.segment.group).await?;
        if group == *before {
            return Err(error);
        }
        let (core, volume, segment) = (self.core.clone(), self.volume, self.segment.clone());
        let (layout, places, bad) = (self.layout, Places::Group(group), Mutex::default());
        Ok(Arc::new(Self { core, volume, segment, layout, places, bad }))
    }

    /// All drives that may have the piece, the likeliest first.
    pub fn everyone(&self, index: usize) -> Vec<DriveId> {
        match &self.places {
            Places::Group(row) => row.holders(index).collect(),
            Places::Known(known) => known.holders.get(index).cloned().unwrap_or_default(),
        }
    }

    /// The drives to ask for the piece: those whose bytes of it proved wrong don't count.
    pub fn holders(&self, index: usize) -> Vec<DriveId> {
        let mut drives = self.everyone(index);
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        drives.retain(|drive| !bad.contains(&(index, *drive)));
        drop(bad);
        // A group's row knows better than what was noticed of a drive.
        if matches!(self.places, Places::Known(_)) && drives.len() > 1 {
            drives.sort_by_key(|drive| self.core.drives.ask_last(*drive));
        }
        drives
    }

    pub fn first(&self, index: usize) -> Option<DriveId> {
        self.holders(index).first().copied()
    }

    /// Whether all who have the piece proved wrong.
    pub fn is_bad(&self, index: usize) -> bool {
        !self.bad().is_empty() && self.holders(index).is_empty() && !self.everyone(index).is_empty()
    }

    /// Whether a header is of this segment, by its root. Kits know the beginning of it.
    pub fn has_root(&self, root: &[u8; 32]) -> bool {
        match self.places {
            // A manifest that came from a kit has the beginning alone.
            Places::Group(_) if self.segment.root[8..] == [0; 24] => root[..8] == self.segment.root[..8],
            Places::Group(_) => *root == self.segment.root,
            Places::Known(_) => root[..8] == self.segment.root[..8],
        }
    }

    pub fn n(&self) -> usize {
        usize::from(self.segment.k) + usize::from(self.segment.m)
    }

    pub fn piece(&self, index: usize) -> PieceId {
        PieceId { segment: self.segment.id, index: index as u8 }
    }

    /// The bytes of the piece that a drive served are wrong: they are never used again, and somebody is told.
    pub fn mark_bad(&self, index: usize, by: DriveId) {
        if self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert((index, by)) {
            self.tell(index, Some(by), Fault::Damaged);
            // What serves wrong bytes of one segment may do so of others.
            if matches!(self.places, Places::Known(_)) {
                self.core.drives.suspect(by);
            }
        }
    }

    pub fn bad(&self) -> Bad {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, index: usize, drive: Option<DriveId>, fault: Fault) {
        let (policy, group) = (self.segment.policy, self.segment.group);
        self.core.teller.tell(Finding { volume: self.volume, policy, group, piece: self.piece(index), drive, fault });
    }

    /// Whether others should be asked before this piece.
    pub fn ask_last(&self, index: usize) -> bool {
        self.holders(index).into_iter().all(|drive| self.core.drives.ask_last(drive))
    }

    /// To the farthest of as many holders as must be asked.
    pub fn round_trip(&self) -> Duration {
        let drives = (0..self.n()).filter_map(|index| self.first(index));
        let drives = drives.filter(|drive| self.core.drives.get(*drive).is_some());
        let mut trips: Vec<_> = drives.map(|drive| self.core.drives.round_trip(drive)).collect();
        trips.sort_unstable();
        trips.get(self.layout.k() - 1).copied().unwrap_or_default()
    }

    /// How far away the piece is, in steps of a factor of two; all of a local network count as one.
    pub fn distance(&self, index: usize) -> u32 {
        let here = self.holders(index).into_iter().filter_map(|drive| self.core.drives.get(drive));
        match here.map(|holder| holder.round_trip()).min() {
            Some(Duration::ZERO) => 0,
            Some(trip) => trip.max(LAN).as_micros().ilog2(),
            None => u32::MAX,
        }
    }

    /// Tries the piece's drive if it is slow and that is due, so that its recovery is noticed. Nobody
    /// waits for it.
    pub fn probe(self: &Arc<Self>, index: usize) {
        let Some(drive) = self.first(index).filter(|drive| self.core.drives.probe(*drive)) else { return };
        let this = self.clone();
        self.core.env.spawn("try a slow drive", async move {
            let range = this.layout.piece_range(0..1);
            let _ = this.core.env.timeout(PROBE_MAX, this.read(index, range)).await;
            this.core.drives.probed(drive);
        });
    }

    /// Bytes of a piece's body from whichever of its drives has them, and which that was.
    pub async fn read(&self, index: usize, range: Range<u64>) -> Result<(Bytes, DriveId), Fault> {
        let (mut fault, mut asked) = (Fault::Missing, None);
        for drive in self.holders(index) {
            match self.read_from(index, drive, range.clone()).await {
                Ok(bytes) => return Ok((bytes, drive)),
                Err(None) => {}
                Err(Some(found)) => {
                    fault = fault.max(found);
                    asked = asked.or(Some(drive));
                }
            }
        }
        // That a whole drive is gone, the node knows.
        if asked.is_some() {
            self.tell(index, asked, fault);
        }
        Err(fault)
    }

    /// The same from one drive; no fault: it isn't there.
    pub async fn read_from(&self, index: usize, drive: DriveId, range: Range<u64>) -> Result<Bytes, Option<Fault>> {
        let holder = self.core.drives.get(drive).ok_or(None)?;
        let (piece, began) = (self.piece(index), self.core.env.clock.now());
        let read = holder.read(piece, range.start, range.end - range.start);
        match self.core.within(READ_MAX, piece, read).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => {
                let took = self.core.env.clock.now().since(began);
                self.core.drives.note_read(drive, bytes.len() as u64, took);
                Ok(bytes)
            }
            Ok(_) => Err(Some(Fault::Damaged)),
            Err(error) => {
                tracing::debug!(%drive, %piece, %error, "a piece could not be read");
                Err(Some(match error.kind() {
                    Kind::Missing => Fault::Missing,
                    Kind::Damaged | Kind::Invalid => Fault::Damaged,
                    _ => Fault::Failed,
                }))
            }
        }
    }

    pub fn ask(self: &Arc<Self>, index: usize, stripes: Range<u64>) -> BoxFuture<'static, Answer> {
        let this = self.clone();
        Box::pin(async move {
            let bytes = this.read(index, this.layout.piece_range(stripes.clone())).await;
            (index, stripes, bytes)
        })
    }
}
