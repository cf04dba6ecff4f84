//! A listing of what pieces and, if one was found, a kit say: what can be read, and what exactly can't.
//!
//! 1. A header counts if its envelope opens with the volume's root: then nobody else wrote it. What doesn't open is told by its holder.
//! 2. A segment is readable if k different pieces of it were found.
//! 3. Where there is a kit, it is right about everything up to its time: what was replaced or deleted by then is left
//!    out (and told as left over). What was written later comes from headers.
//! 4. Headers tell what was written, not what was deleted since. Small objects that lie in the metadata are in kits only.

use std::collections::{BTreeMap, BTreeSet};

use base::{NodeId, SegmentId, VolumeId, Wall};
use codec::Versioned;
use crypt::{FolderKey, VolumeKey, VolumeRoot};

use crate::State;
use crate::assemble::{Assembler, Written};
use crate::header::{Envelope, Facts, Origin};
use crate::types::{Body, Object, Slot};

/// Associated data of an inline object's sealed bytes.
const CONTENTS: &[u8] = b"contents";

/// One piece as a node has it.
#[derive(Clone, Debug)]
pub struct Found {
    /// What its header says.
    pub facts: Facts,
    /// Which piece.
    pub index: u8,
    /// What it is part of.
    pub told: Told,
    /// Who has it.
    pub at: NodeId,
}

/// What a header says of where its segment belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The bytes of an [`Envelope`]: version 2.
    Sealed(Vec<u8>),
    /// From a header of version 1, opened by the caller: nothing proves that the rest of the header is true.
    Opened(Origin),
}

/// Of which pieces a segment can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Pieces it takes.
    pub k: u8,
    /// Pieces beyond these that were made.
    pub m: u8,
    /// Who has which.
    pub found: BTreeMap<u8, BTreeSet<NodeId>>,
}

impl Pieces {
    /// Whether they suffice.
    pub fn suffice(&self) -> bool {
        self.found.len() >= usize::from(self.k)
    }

    /// Pieces that nobody has.
    pub fn lacking(&self) -> Vec<u8> {
        (0..self.k + self.m).filter(|index| !self.found.contains_key(index)).collect()
    }
}

/// What unwraps to the key of an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Whole, from a header.
    Wrapped([u8; 48]),
    /// Without its tag, from a kit.
    Bare([u8; 32]),
}

/// Where some bytes of an object are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Here.
    Inline(Vec<u8>),
    /// In a segment.
    Segment {
        /// The volume's number, as it was sealed.
        volume: VolumeId,
        /// The segment.
        segment: SegmentId,
        /// Bytes of the segment.
        segment_len: u64,
        /// Where in a pack; nothing: the whole segment.
        slot: Option<Slot>,
        /// The key.
        key: Key,
        /// The first bytes of its root: tell a header that was changed.
        root: [u8; 8],
        /// Its pieces.
        pieces: Pieces,
    },
}

/// Some bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where they begin in the object.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// Where they are.
    pub from: From,
}

/// What an object lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A segment with too few pieces.
    Pieces {
        /// Its first byte in the object.
        offset: u64,
        /// Its bytes.
        len: u64,
        /// The segment.
        segment: SegmentId,
        /// Pieces found.
        have: u8,
        /// Pieces needed.
        need: u8,
        /// Those that nobody has.
        lacking: Vec<u8>,
    },
    /// Bytes of which no piece was found.
    Bytes {
        /// The first.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Everything from here on: it is known that more was written.
    Tail {
        /// The first byte that lacks.
        offset: u64,
    },
}

/// How an object was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the kit.
    Kit,
    /// In headers.
    Headers,
}

/// An object that can be read, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Its true path.
    pub path: String,
    /// When it was written.
    pub written: Wall,
    /// Its bytes; not known if headers don't say where it ends.
    pub size: Option<u64>,
    /// What only its reader understands; empty if headers are all there is.
    pub attrs: Vec<u8>,
    /// Where it was found.
    pub source: Source,
    /// For an upload found in headers: its parts, of which there may have been more.
    pub parts: Vec<u16>,
    /// Where its bytes are, in order.
    pub extents: Vec<Extent>,
    /// What lacks; nothing: it is whole, as far as `size` and `parts` go.
    pub missing: Vec<Missing>,
}

/// What a rescue found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The newest of each path.
    pub objects: Vec<Recovered>,
    /// Older ones of these paths, and what the kit says was replaced or deleted.
    pub leftovers: Vec<Recovered>,
    /// Headers that don't open: not this volume's, or changed by who has them.
    pub refused: Vec<(SegmentId, NodeId)>,
    /// Paths in the kit that don't open.
    pub unnamed: Vec<String>,
}

impl Report {
    /// Objects that lack something.
    pub fn incomplete(&self) -> impl Iterator<Item = &Recovered> {
        self.objects.iter().filter(|object| !object.missing.is_empty())
    }
}

/// What the headers of one segment say: those that agree in everything, by what they say.
type Candidates = BTreeMap<([u8; 32], [u8; 32]), Candidate>;

/// Headers of a segment that agree.
struct Candidate {
    facts: Facts,
    origin: Option<Origin>,
    found: BTreeMap<u8, BTreeSet<NodeId>>,
}

/// Collects what nodes have.
pub struct Rescue {
    roots: Vec<VolumeRoot>,
    segments: BTreeMap<SegmentId, Candidates>,
}

impl Rescue {
    /// A rescue by the volume's root, and older ones of it if keys were rotated.
    pub fn new(root: VolumeRoot, older: Vec<VolumeRoot>) -> Self {
        Self { roots: [vec![root], older].concat(), segments: BTreeMap::new() }
    }

    /// Takes a piece's header. The same one twice is one. Gives whether it says something of this volume.
    pub fn add(&mut self, found: Found) -> bool {
        let Found { facts, index, told, at } = found;
        let told_hash = match &told {
            Told::Sealed(bytes) => crypt::hash(bytes),
            Told::Opened(origin) => crypt::hash(&origin.encode()),
        };
        let candidates = self.segments.entry(facts.segment).or_default();
        let candidate = candidates.entry((facts.binding(), told_hash)).or_insert_with(|| {
            let (mut facts, mut origin) = (facts, None);
            if facts.is_sound() {
                origin = open(&self.roots, &mut facts, told);
            }
            Candidate { facts, origin, found: BTreeMap::new() }
        });
        if index < candidate.facts.k.saturating_add(candidate.facts.m) {
            candidate.found.entry(index).or_default().insert(at);
        }
        candidate.origin.is_some()
    }

    /// Segments of which something was found, and of how many there are enough pieces: for progress.
    pub fn progress(&self) -> (usize, usize) {
        let best = self.segments.values().filter_map(best);
        let suffices = |one: &Candidate| one.found.len() >= usize::from(one.facts.k);
        best.fold((0, 0), |(all, enough), one| (all + 1, enough + usize::from(suffices(one))))
    }

    /// The listing. `by` is the root, of those that were given, by whose keys the paths of an end-to-end volume's kit are sealed; nothing: they
    /// are plain. Keys of contents are those of the first root, whichever wrapped them.
    pub fn finish(self, kit: Option<&State>, by: Option<&VolumeRoot>) -> Report {
        let mut report = Report::default();
        for (segment, candidates) in &self.segments {
            for candidate in candidates.values().filter(|candidate| candidate.origin.is_none()) {
                let holders: BTreeSet<NodeId> = candidate.found.values().flatten().copied().collect();
                report.refused.extend(holders.into_iter().map(|at| (*segment, at)));
            }
        }
        report.refused.sort();
        report.refused.dedup();
        let mut named = BTreeSet::new();
        if let Some(kit) = kit {
            self.read_kit(kit, by, &mut report, &mut named);
        }
        let until = kit.map(|kit| kit.position().at);
        self.read_headers(until, &named, &mut report);
        report.settle();
        report
    }

    fn read_kit(&self, kit: &State, by: Option<&VolumeRoot>, report: &mut Report, named: &mut BTreeSet<SegmentId>) {
        let names = by.map(VolumeRoot::top);
        for (stored, object) in kit.everything() {
            named.extend(object.body.segments().iter().map(|(segment, _)| segment.id));
            let path = match &names {
                None => stored.to_owned(),
                Some(key) => match key.open_path(stored) {
                    Ok(path) => path,
                    Err(_) => {
                        report.unnamed.push(stored.to_owned());
                        continue;
                    }
                },
            };
            let current = kit.versions(stored).next().is_some_and(|latest| latest.version == object.version);
            if object.marker {
                continue;
            }
            let mut recovered = self.of_object(path, object);
            if let Some(by) = by.filter(|by| **by != self.roots[0]) {
                let renewal = Renewal::new(by, &self.roots[0], &recovered.path);
                recovered.extents.iter_mut().for_each(|extent| renewal.extent(extent));
            }
            if current { report.objects.push(recovered) } else { report.leftovers.push(recovered) }
        }
    }

    fn of_object(&self, path: String, object: &Object) -> Recovered {
        let mut extents = Vec::new();
        self.extents(&object.body, object.size, &mut 0, &mut extents);
        let missing = extents.iter().filter_map(Extent::missing).collect();
        Recovered {
            path,
            written: object.modified,
            size: Some(object.size),
            attrs: object.attrs.clone(),
            source: Source::Kit,
            parts: Vec::new(),
            extents,
            missing,
        }
    }

    fn extents(&self, body: &Body, size: u64, offset: &mut u64, extents: &mut Vec<Extent>) {
        let mut add = |offset: &mut u64, len: u64, from: From| {
            extents.push(Extent { offset: *offset, len, from });
            *offset += len;
        };
        match body {
            Body::Inline(bytes) => add(offset, size, From::Inline(bytes.clone())),
            Body::Packed(segment, slot) => add(offset, size, self.of_segment(segment, Some(*slot))),
            Body::Segments(segments) => {
                for segment in segments {
                    add(offset, segment.len, self.of_segment(segment, None));
                }
            }
            Body::Spans(spans) => {
                for span in spans {
                    self.extents(&span.body, span.size, offset, extents);
                }
            }
        }
    }

    fn of_segment(&self, segment: &crate::Segment, slot: Option<Slot>) -> From {
        let candidates = self.segments.get(&segment.id);
        let ours = |one: &&Candidate| one.facts.root().starts_with(&segment.root);
        // Rather those that the volume's owner wrote than what somebody made of them.
        let found = candidates
            .and_then(|all| all.values().filter(ours).max_by_key(|one| (one.origin.is_some(), one.found.len())));
        // A kit knows neither the number that the volume had nor needs to: headers say it, and without one there is nothing to open.
        let volume = found.map_or(VolumeId(0), |one| one.facts.volume);
        From::Segment {
            volume,
            segment: segment.id,
            segment_len: segment.len,
            slot,
            key: Key::Bare(segment.bare_key),
            root: segment.root,
            pieces: Pieces {
                k: segment.code.k,
                m: segment.code.m,
                found: found.map(|one| one.found.clone()).unwrap_or_default(),
            },
        }
    }

    fn read_headers(&self, until: Option<Wall>, named: &BTreeSet<SegmentId>, report: &mut Report) {
        let mut assembler = Assembler::default();
        for (segment, candidates) in self.segments.iter().filter(|(segment, _)| !named.contains(segment)) {
            let Some(Candidate { facts, origin: Some(origin), found }) = best(candidates) else { continue };
            let pieces = Pieces { k: facts.k, m: facts.m, found: found.clone() };
            let written = Written { segment: *segment, facts, pieces };
            match origin {
                Origin::Whole { write, path, offset, end, part } => {
                    assembler.whole(path, *write, *offset, *end, *part, written);
                }
                Origin::Pack(slots) => assembler.pack(slots, &written),
            }
        }
        for object in assembler.finish() {
            match until {
                Some(until) if object.written <= until => report.leftovers.push(object),
                _ => report.objects.push(object),
            }
        }
    }
}

/// What a header says, with keys of contents wrapped by those of the first root.
fn open(roots: &[VolumeRoot], facts: &mut Facts, told: Told) -> Option<Origin> {
    match told {
        Told::Opened(origin) => Some(origin),
        Told::Sealed(bytes) => {
            let envelope = Envelope::decode(&bytes).ok()?;
            let ours = |root: &&VolumeRoot| facts.owner == Some(root.signing_key().public());
            let root = roots.iter().find(ours)?;
            let mut origin = envelope.open(root, facts).ok()?;
            if *root != roots[0] {
                let segment = facts.segment;
                match &mut origin {
                    Origin::Whole { path, .. } => {
                        Renewal::new(root, &roots[0], path).wrapped(&mut facts.wrapped_key, segment, 0);
                    }
                    Origin::Pack(slots) => {
                        for (index, slot) in slots.iter_mut().enumerate() {
                            let renewal = Renewal::new(root, &roots[0], &slot.path);
                            renewal.wrapped(&mut slot.wrapped_key, segment, 1 + index as u32);
                        }
                    }
                }
            }
            Some(origin)
        }
    }
}

/// Keys of one file's contents, from an older root to the newest. What doesn't open stays as it is, and doesn't open later either.
struct Renewal {
    files: [FolderKey; 2],
    wraps: [VolumeKey; 2],
}

impl Renewal {
    fn new(from: &VolumeRoot, to: &VolumeRoot, path: &str) -> Self {
        let files = [from, to].map(|root| root.top().at(path));
        // What wraps keys is the same whatever number the volume has.
        let wraps = [0, 1].map(|at| files[at].contents(VolumeId(0)));
        Self { files, wraps }
    }

    fn wrapped(&self, key: &mut [u8; 48], segment: SegmentId, slot: u32) {
        if let Ok(opened) = self.wraps[0].unwrap(key, segment, slot) {
            *key = self.wraps[1].wrap(&opened, segment, slot);
        }
    }

    fn extent(&self, extent: &mut Extent) {
        match &mut extent.from {
            From::Segment { segment, slot, key, .. } => {
                let slot = slot.map_or(0, |slot| 1 + slot.index);
                let mut wrapped = match key {
                    Key::Wrapped(wrapped) => *wrapped,
                    Key::Bare(bare) => self.wraps[0].with_tag(bare, *segment, slot),
                };
                self.wrapped(&mut wrapped, *segment, slot);
                *key = Key::Wrapped(wrapped);
            }
            From::Inline(bytes) => {
                let Some(salt) = bytes.first_chunk::<16>().copied() else { return };
                if let Ok(opened) = self.files[0].open_bytes(CONTENTS, bytes) {
                    *bytes = self.files[1].seal_bytes(salt, CONTENTS, &opened);
                }
            }
        }
    }
}

/// Of what opens, that with most pieces: of headers of version 1 there may be several.
fn best(candidates: &Candidates) -> Option<&Candidate> {
    candidates.values().filter(|one| one.origin.is_some()).max_by_key(|one| one.found.len())
}

impl Extent {
    pub(crate) fn missing(&self) -> Option<Missing> {
        match &self.from {
            From::Segment { segment, pieces, .. } if !pieces.suffice() => Some(Missing::Pieces {
                offset: self.offset,
                len: self.len,
                segment: *segment,
                have: pieces.found.len() as u8,
                need: pieces.k,
                lacking: pieces.lacking(),
            }),
            _ => None,
        }
    }
}

impl Report {
    /// Of each path the newest stays; a later one that lacks something doesn't hide that.
    fn settle(&mut self) {
        let order = |one: &Recovered| (one.path.clone(), std::cmp::Reverse(one.written), one.source == Source::Headers);
        self.objects.sort_by_key(order);
        let mut newest: Vec<Recovered> = Vec::new();
        for object in std::mem::take(&mut self.objects) {
            match newest.last() {
                Some(last) if last.path == object.path => self.leftovers.push(object),
                _ => newest.push(object),
            }
        }
        self.objects = newest;
        self.leftovers.sort_by_key(order);
        self.unnamed.sort();
    }
}
