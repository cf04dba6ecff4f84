//! Rebuilding lost pieces of a segment from any k others: needs no key. A piece that only moves is
//! brought over from where it was, which takes one read of it instead of k.
//!
//! The pieces that are read are hashed on the way and compared with their roots before anything that
//! was computed from them is kept; so is what was computed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use base::{DriveId, GroupId, PieceId, PolicyId, SegmentId, VolumeId};
use bytes::Bytes;
use codec::Versioned;
use erasure::Code;
use futures_util::future::join_all;
use placement::GroupRow;

use crate::Error;
use crate::core::{Core, READ_MAX, WRITE_MAX};
use crate::drives::{Holder, HolderWriter};
use crate::findings::{Fault, Finding};
use crate::header::PieceHeader;
use crate::layout::Layout;
use crate::verify::CHUNK_BYTES;

/// What a rebuild did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Pieces that are durable on their drives now.
    pub pieces: Vec<u8>,
    /// Pieces that were asked for and have no drive to go to now.
    pub homeless: Vec<u8>,
    /// Pieces that proved damaged while they were read; rebuild them too.
    pub damaged: Vec<u8>,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of other pieces that were read for it.
    pub read: u64,
}

/// A segment whose pieces are to be rebuilt.
pub(crate) struct Job {
    pub core: Arc<Core>,
    pub volume: VolumeId,
    pub policy: PolicyId,
    pub group_id: GroupId,
    pub segment: SegmentId,
    pub group: GroupRow,
    pub missing: BTreeSet<u8>,
}

impl Job {
    fn piece(&self, index: u8) -> PieceId {
        PieceId { segment: self.segment, index }
    }

    /// Where the piece may be read: the homes of pieces that are to be rebuilt don't count.
    fn holders(&self, index: u8) -> impl Iterator<Item = (DriveId, Arc<dyn Holder>)> + '_ {
        let row = &self.group;
        let home = row.members.get(usize::from(index)).copied().filter(|_| self.missing.contains(&index));
        let holders = row.holders(usize::from(index)).filter(move |drive| Some(*drive) != home);
        holders.filter_map(|drive| Some((drive, self.core.drives.get(drive)?)))
    }

    /// Headers of the pieces at hand, those whose roots most of them agree on.
    async fn headers(&self) -> Vec<PieceHeader> {
        let mut headers: Vec<PieceHeader> = Vec::new();
        for index in 0..self.group.members.len() as u8 {
            for (_, holder) in self.holders(index) {
                let header = holder.header(self.piece(index));
                if let Ok(bytes) = self.core.within(READ_MAX, self.piece(index), header).await
                    && let Ok(header) = PieceHeader::decode(&bytes)
                    && (header.segment, header.index, header.volume) == (self.segment, index, self.volume)
                {
                    headers.push(header);
                    break;
                }
            }
        }
        let alike = |header: &PieceHeader| headers.iter().filter(|other| other.at(0) == header.at(0)).count();
        let Some(best) = headers.iter().max_by_key(|header| (alike(header), std::cmp::Reverse(header.index))).cloned()
        else {
            return headers;
        };
        headers.retain(|header| header.at(0) == best.at(0));
        headers
    }

    /// Rebuilds what is missing onto the group's members.
    pub async fn run(&self) -> Result<Rebuilt, Error> {
        let headers = self.headers().await;
        let Some(header) = headers.first().cloned() else {
            return Err(Error::TooFewPieces { what: "repair", have: 0, need: 1 });
        };
        let mut rebuilt = Rebuilt::default();
        let mut sources: BTreeSet<u8> = headers.iter().map(|header| header.index).collect();
        let missing = self.carry(&header, &mut sources, &mut rebuilt).await?;
        if missing.is_empty() {
            return Ok(rebuilt);
        }
        loop {
            let k = usize::from(header.k);
            if sources.len() < k {
                return Err(Error::TooFewPieces { what: "repair", have: sources.len(), need: k });
            }
            let chosen: Vec<u8> = sources.iter().copied().take(k).collect();
            match self.attempt(&header, &missing, &chosen, &mut rebuilt).await? {
                Wrong::Nothing => return Ok(rebuilt),
                Wrong::Pieces(wrong) => {
                    for (index, fault) in wrong {
                        sources.remove(&index);
                        if fault == Fault::Damaged {
                            rebuilt.damaged.push(index);
                        }
                        self.tell(index, fault);
                    }
                }
            }
        }
    }

    fn tell(&self, index: u8, fault: Fault) {
        let drive = self.group.members.get(usize::from(index)).copied();
        let (volume, policy, group, piece) = (self.volume, self.policy, self.group_id, self.piece(index));
        self.core.teller.tell(Finding { volume, policy, group, piece, drive, fault });
    }

    /// Brings over the pieces that are whole where they come from. Those that are still to be rebuilt.
    async fn carry(
        &self,
        header: &PieceHeader,
        sources: &mut BTreeSet<u8>,
        rebuilt: &mut Rebuilt,
    ) -> Result<BTreeSet<u8>, Error> {
        let (mut left, layout) = (self.missing.clone(), header.layout());
        for index in self.missing.iter().copied().filter(|index| sources.contains(index)).collect::<Vec<_>>() {
            let Some(target) = self.target(index, &layout).await? else { continue };
            if self.carry_one(header, target).await? {
                rebuilt.read += layout.piece_bytes();
                left.remove(&index);
                rebuilt.pieces.push(index);
                rebuilt.bytes += layout.piece_bytes();
            } else {
                sources.remove(&index);
            }
        }
        Ok(left)
    }

    /// Whether the piece was whole; if not, nothing is kept of it.
    async fn carry_one(&self, header: &PieceHeader, mut target: Target) -> Result<bool, Error> {
        let (index, len) = (target.index, header.layout().piece_bytes());
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < len {
            let range = at..(at + CHUNK_BYTES).min(len);
            at = range.end;
            let Ok(bytes) = self.read(index, range).await else { return Ok(false) };
            let cells = bytes.clone();
            let hash = move || {
                hasher.update(&cells);
                hasher
            };
            hasher = self.core.env.blocking(hash).await?;
            self.core.within(WRITE_MAX, self.piece(index), target.writer.write(vec![bytes])).await?;
        }
        if !fits(header, index, &hasher) {
            return Ok(false);
        }
        let finish = target.writer.finish(Bytes::from(header.at(index).encode()));
        self.core.within(WRITE_MAX, self.piece(index), finish).await?;
        Ok(true)
    }

    /// Reads the chosen pieces once from end to end. Nothing is kept if one of them proves wrong.
    async fn attempt(
        &self,
        header: &PieceHeader,
        missing: &BTreeSet<u8>,
        chosen: &[u8],
        rebuilt: &mut Rebuilt,
    ) -> Result<Wrong, Error> {
        let layout = header.layout();
        let mut targets = self.targets(missing, &layout, rebuilt).await?;
        let mut work = Work::new(header, chosen, targets.iter().map(|target| target.index).collect())?;
        let len = layout.piece_bytes();
        let mut at = 0;
        while at < len {
            let range = at..(at + CHUNK_BYTES).min(len);
            at = range.end;
            let read = join_all(chosen.iter().map(|index| self.read(*index, range.clone()))).await;
            let wrong: Vec<_> =
                chosen.iter().zip(&read).filter_map(|(index, read)| Some((*index, *read.as_ref().err()?))).collect();
            if !wrong.is_empty() {
                return Ok(Wrong::Pieces(wrong));
            }
            let cells: Vec<Bytes> = read.into_iter().flatten().collect();
            rebuilt.read += cells.iter().map(|cells| cells.len() as u64).sum::<u64>();
            let done = self.core.env.blocking(move || {
                let made = work.chunk(&cells);
                (work, made)
            });
            let made;
            (work, made) = done.await?;
            let writes = targets.iter_mut().zip(made?).map(|(target, cells)| {
                let piece = self.piece(target.index);
                self.core.within(WRITE_MAX, piece, target.writer.write(vec![cells]))
            });
            join_all(writes).await.into_iter().collect::<Result<(), Error>>()?;
        }
        let wrong = work.wrong(header);
        if !wrong.is_empty() {
            return Ok(Wrong::Pieces(wrong));
        }
        if !work.right(header) {
            // All inputs fit their roots: then the header's other roots are of other bytes.
            return Err(Error::Damaged { what: "a rebuilt piece does not fit its root: it" });
        }
        for target in targets {
            let finish = target.writer.finish(Bytes::from(header.at(target.index).encode()));
            self.core.within(WRITE_MAX, self.piece(target.index), finish).await?;
            rebuilt.pieces.push(target.index);
            rebuilt.bytes += len;
        }
        Ok(Wrong::Nothing)
    }

    async fn targets(
        &self,
        missing: &BTreeSet<u8>,
        layout: &Layout,
        rebuilt: &mut Rebuilt,
    ) -> Result<Vec<Target>, Error> {
        let mut targets = Vec::new();
        rebuilt.homeless.clear();
        for index in missing.iter().copied() {
            match self.target(index, layout).await? {
                Some(target) => targets.push(target),
                None => rebuilt.homeless.push(index),
            }
        }
        Ok(targets)
    }

    /// A new piece where it belongs, if that drive takes any.
    async fn target(&self, index: u8, layout: &Layout) -> Result<Option<Target>, Error> {
        let home = self.group.members.get(usize::from(index)).and_then(|drive| self.core.drives.writable(*drive));
        let Some(home) = home else { return Ok(None) };
        let writer = home.create(self.piece(index), layout.stored_bytes_max(), layout.piece_bytes());
        Ok(Some(Target { index, writer: self.core.within(WRITE_MAX, self.piece(index), writer).await? }))
    }

    async fn read(&self, index: u8, range: Range<u64>) -> Result<Bytes, Fault> {
        let mut fault = Fault::Missing;
        for (_, holder) in self.holders(index) {
            let read = holder.read(self.piece(index), range.start, range.end - range.start);
            match self.core.within(READ_MAX, self.piece(index), read).await {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => return Ok(bytes),
                Ok(_) => fault = Fault::Damaged,
                Err(error) => {
                    fault = fault.max(match base::Kinded::kind(&error) {
                        base::Kind::Missing => Fault::Missing,
                        base::Kind::Damaged | base::Kind::Invalid => Fault::Damaged,
                        _ => Fault::Failed,
                    });
                }
            }
        }
        Err(fault)
    }
}

enum Wrong {
    Nothing,
    Pieces(Vec<(u8, Fault)>),
}

struct Target {
    index: u8,
    writer: Box<dyn HolderWriter>,
}

/// Hashing and decoding, off the reactor.
struct Work {
    code: Code,
    inputs: Vec<(u8, blake3::Hasher)>,
    outputs: Vec<(u8, blake3::Hasher)>,
}

impl Work {
    fn new(header: &PieceHeader, chosen: &[u8], missing: Vec<u8>) -> Result<Self, Error> {
        let with = |index: u8| (index, blake3::Hasher::new());
        Ok(Self {
            code: Code::new(header.k.into(), header.m.into())?,
            inputs: chosen.iter().copied().map(with).collect(),
            outputs: missing.into_iter().map(with).collect(),
        })
    }

    /// The missing pieces' bytes from those of the inputs.
    fn chunk(&mut self, cells: &[Bytes]) -> Result<Vec<Bytes>, Error> {
        let mut given = vec![None; self.code.k() + self.code.m()];
        for ((index, hasher), cells) in self.inputs.iter_mut().zip(cells) {
            hasher.update(cells);
            given[usize::from(*index)] = Some(cells.to_vec());
        }
        if !self.outputs.is_empty() {
            self.code.reconstruct(&mut given, false)?;
        }
        let output = |(index, hasher): &mut (u8, blake3::Hasher)| {
            let cells = given[usize::from(*index)].take().unwrap_or_default();
            hasher.update(&cells);
            Bytes::from(cells)
        };
        Ok(self.outputs.iter_mut().map(output).collect())
    }

    fn wrong(&self, header: &PieceHeader) -> Vec<(u8, Fault)> {
        let differs = |(index, hasher): &&(u8, blake3::Hasher)| !fits(header, *index, hasher);
        self.inputs.iter().filter(differs).map(|(index, _)| (*index, Fault::Damaged)).collect()
    }

    fn right(&self, header: &PieceHeader) -> bool {
        self.outputs.iter().all(|(index, hasher)| fits(header, *index, hasher))
    }
}

fn fits(header: &PieceHeader, index: u8, hasher: &blake3::Hasher) -> bool {
    header.roots.get(usize::from(index)) == Some(hasher.finalize().as_bytes())
}
