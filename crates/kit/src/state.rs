//! What a kit knows after all its changes.

use std::collections::{BTreeMap, BTreeSet};

use base::{DriveId, GroupId, NodeId, PolicyId};

use crate::change::{Change, Encoder};
use crate::types::{Group, Node, Object, Position, Segment};

/// One volume, as far as its reader needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    objects: BTreeMap<String, Versions>,
    /// Paths of which the current version is no marker: who keeps kits tells it every second.
    shown: usize,
    groups: BTreeMap<(PolicyId, GroupId), Group>,
    drives: BTreeMap<DriveId, NodeId>,
    nodes: BTreeMap<NodeId, Node>,
    older: Vec<Vec<u8>>,
    position: Position,
    is_outline: bool,
}

/// The versions of a path, oldest first. Most paths have one, and there may be millions of them: no room is kept for more.
type Versions = Vec<Object>;

/// Who holds a piece, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// Which piece.
    pub index: u8,
    /// The drive.
    pub drive: DriveId,
    /// Its node, and how to reach it.
    pub node: Option<(NodeId, &'a Node)>,
}

impl State {
    /// A state that keeps of each version an [`Object::outline`] alone, for who has the bytes elsewhere.
    pub fn outline() -> Self {
        Self { is_outline: true, ..Self::default() }
    }

    /// Takes a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Put { path, mut object } => {
                if self.is_outline {
                    object = object.outline();
                }
                let versions = self.objects.entry(path).or_default();
                let before = current(versions).is_some();
                versions.retain(|other| other.version != object.version && !(object.null && other.null));
                let at = versions.partition_point(|other| other.version < object.version);
                versions.reserve_exact(1);
                versions.insert(at, object);
                self.shown = self.shown + usize::from(current(versions).is_some()) - usize::from(before);
            }
            Change::Drop { path, version } => {
                if let Some(versions) = self.objects.get_mut(&path) {
                    let before = current(versions).is_some();
                    versions.retain(|other| other.version != version);
                    self.shown = self.shown + usize::from(current(versions).is_some()) - usize::from(before);
                    if versions.is_empty() {
                        self.objects.remove(&path);
                    }
                }
            }
            Change::Group(group) => {
                let known = self.groups.get(&(group.policy, group.group));
                if known.is_none_or(|known| known.version <= group.version) {
                    self.groups.insert((group.policy, group.group), group);
                }
            }
            Change::Drive(drive, Some(node)) => drop(self.drives.insert(drive, node)),
            Change::Drive(drive, None) => drop(self.drives.remove(&drive)),
            Change::Node(id, Some(node)) => drop(self.nodes.insert(id, node)),
            Change::Node(id, None) => drop(self.nodes.remove(&id)),
            Change::Position(position) => self.position = self.position.max(position),
            Change::OlderRoot(sealed) => {
                if !self.older.contains(&sealed) {
                    self.older.push(sealed);
                }
            }
        }
    }

    /// The current version of a path, unless it was deleted.
    pub fn get(&self, path: &str) -> Option<&Object> {
        current(self.objects.get(path)?)
    }

    /// All versions of a path, latest first, markers too.
    pub fn versions(&self, path: &str) -> impl Iterator<Item = &Object> {
        self.objects.get(path).into_iter().flat_map(|versions| versions.iter().rev())
    }

    /// All paths that begin so and weren't deleted, in order, with their current versions.
    pub fn list<'a>(&'a self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a Object)> {
        let from = self.objects.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(move |(path, _)| path.starts_with(prefix))
            .filter_map(|(path, versions)| Some((path.as_str(), current(versions)?)))
    }

    /// All there is, markers and older versions too.
    pub fn everything(&self) -> impl Iterator<Item = (&str, &Object)> {
        self.objects.iter().flat_map(|(path, versions)| versions.iter().map(move |object| (path.as_str(), object)))
    }

    /// Where a segment's pieces are by the group's row, and where they may be besides.
    pub fn holders(&self, segment: &Segment) -> Vec<Holder<'_>> {
        let Some(group) = self.groups.get(&(segment.code.policy, segment.group)) else { return Vec::new() };
        let both = group.members.iter().enumerate().chain(group.from.iter().enumerate());
        let mut holders: Vec<Holder<'_>> = Vec::new();
        for (index, drive) in both {
            let node = self.drives.get(drive).and_then(|id| Some((*id, self.nodes.get(id)?)));
            let holder = Holder { index: index as u8, drive: *drive, node };
            if !holders.contains(&holder) {
                holders.push(holder);
            }
        }
        holders
    }

    /// Nodes that suffice to read all of these segments, of which none can be spared: of `nodes` each goes, in their order, unless it is needed.
    /// `is_up` says which drives count.
    pub fn few(&self, segments: &[&Segment], nodes: &[NodeId], is_up: impl Fn(DriveId) -> bool) -> BTreeSet<NodeId> {
        let mut few: BTreeSet<NodeId> = nodes.iter().copied().collect();
        for node in nodes {
            few.remove(node);
            let enough = |segment: &&Segment| {
                let holders = self.holders(segment);
                let there = holders.iter().filter(|holder| holder.node.is_some_and(|(id, _)| few.contains(&id)));
                let pieces: BTreeSet<u8> =
                    there.filter(|holder| is_up(holder.drive)).map(|holder| holder.index).collect();
                pieces.len() >= usize::from(segment.code.k)
            };
            if !segments.iter().all(enough) {
                few.insert(*node);
            }
        }
        few
    }

    /// Nodes, by id.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// Nodes with drives that take data.
    pub fn with_data(&self) -> BTreeSet<NodeId> {
        self.drives.values().copied().collect()
    }

    /// A node's drives that take data.
    pub fn drives_of(&self, node: NodeId) -> impl Iterator<Item = DriveId> {
        self.drives.iter().filter(move |(_, on)| **on == node).map(|(drive, _)| *drive)
    }

    /// Older roots of the volume, sealed.
    pub fn older_roots(&self) -> &[Vec<u8>] {
        &self.older
    }

    /// Up to where it follows the volume's journal.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Paths that a listing shows.
    pub fn objects(&self) -> usize {
        self.shown
    }

    /// Gives all that is known to `frame`, in parts of about `frame_bytes`, and whether that is the last one: oldest first, so that
    /// versions and times of neighbours are near each other. Asks `whole` for what an outline lacks; what is none any more is left out.
    pub(crate) fn write<E>(
        &self,
        frame_bytes: usize,
        mut whole: impl FnMut(&str, &Object) -> Result<Option<Object>, E>,
        mut frame: impl FnMut(Encoder, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut encoder = Encoder::default();
        let mut full = |encoder: &mut Encoder| match encoder.len() >= frame_bytes {
            true => frame(std::mem::take(encoder), false),
            false => Ok(()),
        };
        for change in self.small() {
            encoder.add(&change);
            full(&mut encoder)?;
        }
        let mut all: Vec<(&str, &Object)> = self.everything().collect();
        all.sort_by_key(|(path, object)| (object.modified, object.version, *path));
        for (path, object) in all {
            if !(self.is_outline && object.body.lacks_bytes()) {
                encoder.put(path, object);
            } else if let Some(object) = whole(path, object)? {
                encoder.put(path, &object);
            }
            full(&mut encoder)?;
        }
        frame(encoder, true)
    }

    /// All but objects, as changes.
    fn small(&self) -> impl Iterator<Item = Change> {
        let older = self.older.iter().cloned().map(Change::OlderRoot);
        let nodes = self.nodes.iter().map(|(id, node)| Change::Node(*id, Some(node.clone())));
        let drives = self.drives.iter().map(|(drive, node)| Change::Drive(*drive, Some(*node)));
        let groups = self.groups.values().cloned().map(Change::Group);
        older.chain(nodes).chain(drives).chain(groups).chain([Change::Position(self.position)])
    }
}

fn current(versions: &Versions) -> Option<&Object> {
    versions.last().filter(|object| !object.marker)
}
