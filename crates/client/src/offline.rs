//! Reading with no service alive: no shard, no director, only keys, nodes that have pieces, and what a kit or a
//! rescue says of where they are.
//!
//! Here a *drive* is a whole node: the caller puts into [`Offline::drives`] a holder for each node that it can reach, as
//! [`node_drive`] of the node's id. The bytes go the same way as ever: hedged, decoded, opened cell by cell. A node that
//! serves wrong bytes is told by [`Offline::findings`], asked last from then on, and never believed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base::{DriveId, GroupId, Kind, NodeId, PolicyId, SegmentId, VolumeId};
use bytes::Bytes;
use crypt::{StoreKeys, VolumeKey, VolumeRoot};
use env::Env;
use kit::rescue::{Extent, From as Place, Key, Recovered};
use kit::{Body, Object, Segment, State};
use metastore::Snapshot;
use metastore::remote::Wants;
use namespace::work::Work;
use namespace::{Outcome, SegmentRef};
use tokio::sync::mpsc;

use crate::Error;
use crate::access::{Access, Folder, Opener};
use crate::core::Core;
use crate::drives::Drives;
use crate::findings::{Finding, Teller};
use crate::read::{ReadStream, Reading, Todo};
use crate::shard::{Cut, Hint, Metadata, One, Rule, Shard};
use crate::source::Known;

/// What opens the objects of a store, or of a volume.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Of a store whose cluster has the keys of its volumes.
    Store(StoreKeys),
    /// Of an end-to-end volume: its owner's topmost folder, or what a grant opens. Paths go on from there.
    Folder(Arc<Folder>),
}

impl From<StoreKeys> for Keys {
    fn from(keys: StoreKeys) -> Self {
        Keys::Store(keys)
    }
}

impl From<&VolumeRoot> for Keys {
    fn from(root: &VolumeRoot) -> Self {
        Keys::Folder(Arc::new(Folder::of_root(root)))
    }
}

/// What a node is called where the client speaks of drives.
pub fn node_drive(node: NodeId) -> DriveId {
    DriveId(node.0)
}

/// A reader without metadata. It never writes.
pub struct Offline {
    core: Arc<Core>,
    keys: Keys,
    findings: Mutex<Option<mpsc::Receiver<Finding>>>,
}

impl Offline {
    /// A reader that reaches no node yet: see [`Offline::drives`].
    pub fn new(env: Env, keys: impl Into<Keys>) -> Self {
        let (teller, findings) = Teller::new();
        let nowhere: Arc<dyn Metadata> = Arc::new(Nowhere);
        let (system, volumes) = (Shard::new(env.clone(), nowhere.clone()), Arc::new(One(nowhere)));
        let (drives, keys) = (Drives::new(env.clock.clone()), keys.into());
        let store = match &keys {
            Keys::Store(keys) => Some(keys.clone()),
            Keys::Folder(_) => None,
        };
        let core = Core::new(env, system, volumes, drives, store, teller);
        Self { core, keys, findings: Mutex::new(Some(findings)) }
    }

    /// The nodes that can be reached, each as a holder of all pieces that it has.
    pub fn drives(&self) -> &Arc<Drives> {
        &self.core.drives
    }

    /// Which nodes failed, or served wrong bytes, while something was read: `drive` is the node ([`node_drive`]); policy
    /// and group are 0 where they aren't known. Given once.
    pub fn findings(&self) -> Option<mpsc::Receiver<Finding>> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Bytes of an object that a rescue found.
    ///
    /// # Errors
    /// If some of the range isn't there, or the keys don't fit. That pieces are too few shows as it is read.
    pub fn recovered(&self, object: &Recovered, range: Range<u64>) -> Result<ReadStream, Error> {
        let volume = volume_of(&object.extents)?;
        let mut plan = self.plan(volume, &object.path)?;
        let mut at = range.start;
        for extent in &object.extents {
            let end = extent.offset.saturating_add(extent.len).min(range.end);
            if extent.offset > at || end <= at {
                continue;
            }
            let part = at - extent.offset..end - extent.offset;
            at = end;
            plan.extent(extent, part)?;
        }
        if range.start > range.end || at < range.end {
            return Err(Error::Invalid { what: "not all bytes of the range were found" });
        }
        Ok(plan.read(self.core.clone()))
    }

    /// Bytes of an object in a kit; `path` is its true one, `volume` the kit's.
    ///
    /// # Errors
    /// If the range doesn't lie within the object, or the keys don't fit. That pieces are too few shows as it is read.
    pub fn object(
        &self,
        volume: VolumeId,
        kit: &State,
        path: &str,
        object: &Object,
        range: Range<u64>,
    ) -> Result<ReadStream, Error> {
        if object.marker || range.start > range.end || range.end > object.size {
            return Err(Error::Invalid { what: "the range does not lie within the object" });
        }
        let mut plan = self.plan(volume, path)?;
        plan.body(kit, &object.body, object.size, range)?;
        Ok(plan.read(self.core.clone()))
    }

    fn plan(&self, volume: VolumeId, path: &str) -> Result<Plan, Error> {
        let access = match &self.keys {
            Keys::Store(_) => Access::Volume,
            Keys::Folder(folder) => Access::file(folder, path),
        };
        let opener = access.opener(&self.core, volume)?;
        Ok(Plan { volume, opener, known: BTreeMap::new(), todo: VecDeque::new() })
    }
}

/// The number of the volume in which these bytes were sealed.
fn volume_of(extents: &[Extent]) -> Result<VolumeId, Error> {
    let mut volumes = extents.iter().filter_map(|extent| match &extent.from {
        // Nothing was found of it, so nothing is known.
        Place::Segment { pieces, .. } if pieces.found.is_empty() => None,
        Place::Segment { volume, .. } => Some(*volume),
        Place::Inline(_) => None,
    });
    // Bytes of the metadata alone need no number.
    let first = volumes.next().unwrap_or(VolumeId(0));
    if volumes.any(|other| other != first) {
        return Err(Error::Invalid { what: "the object's bytes are of several volumes" });
    }
    Ok(first)
}

/// What is to be read, in order.
struct Plan {
    volume: VolumeId,
    opener: Opener,
    known: BTreeMap<SegmentId, Arc<Known>>,
    todo: VecDeque<Todo>,
}

impl Plan {
    fn read(self, core: Arc<Core>) -> ReadStream {
        let Self { volume, opener, known, todo } = self;
        ReadStream::of(Reading { core, volume, opener, known: Some(known) }, todo)
    }

    fn inline(&mut self, bytes: &[u8], size: u64, part: Range<u64>) -> Result<(), Error> {
        let bytes = Bytes::from(self.opener.open_inline(bytes.to_vec(), size)?);
        self.todo.push_back(Todo::Inline(bytes.slice(part.start as usize..part.end as usize)));
        Ok(())
    }

    fn extent(&mut self, extent: &Extent, part: Range<u64>) -> Result<(), Error> {
        let (segment, segment_len, slot, key, root, pieces) = match &extent.from {
            Place::Inline(bytes) => return self.inline(bytes, extent.len, part),
            Place::Segment { segment, segment_len, slot, key, root, pieces, .. } => {
                (*segment, *segment_len, *slot, key, root, pieces)
            }
        };
        let number = slot.map_or(0, |slot| slot.index.saturating_add(1));
        let wrapped_key = match key {
            Key::Wrapped(key) => *key,
            Key::Bare(bare) => self.opener.wrap.with_tag(bare, segment, number),
        };
        let at = |index: u8| pieces.found.get(&index).into_iter().flatten().map(|node| node_drive(*node)).collect();
        let holders = (0..pieces.k.saturating_add(pieces.m)).map(at).collect();
        self.known.insert(segment, Arc::new(Known { holders }));
        let mut full = [0; 32];
        full[..8].copy_from_slice(root);
        let reference = SegmentRef {
            id: segment,
            policy: PolicyId(0),
            group: GroupId(0),
            k: pieces.k,
            m: pieces.m,
            len: segment_len,
            root: full,
            wrapped_key,
        };
        self.todo.push_back(match slot {
            Some(slot) => Todo::Packed(reference, slot, part),
            None => Todo::Segment(reference, part),
        });
        Ok(())
    }

    fn body(&mut self, kit: &State, body: &Body, size: u64, range: Range<u64>) -> Result<(), Error> {
        if range.is_empty() && !matches!(body, Body::Inline(_)) {
            return Ok(());
        }
        let (mut at, mut add) = (0u64, Vec::new());
        let mut part = |len: u64| {
            let (start, end) = (range.start.max(at), range.end.min(at.saturating_add(len)));
            let part = (start < end).then(|| start - at..end - at);
            at = at.saturating_add(len);
            part
        };
        match body {
            Body::Inline(bytes) => return self.inline(bytes, size, range),
            Body::Packed(segment, slot) => {
                let reference = self.segment(kit, segment, 1 + slot.index);
                self.todo.push_back(Todo::Packed(reference, *slot, range));
                return Ok(());
            }
            Body::Segments(segments) => {
                for segment in segments {
                    if let Some(part) = part(segment.len) {
                        let reference = self.segment(kit, segment, 0);
                        self.todo.push_back(Todo::Segment(reference, part));
                    }
                }
            }
            Body::Spans(spans) => {
                add.extend(spans.iter().filter_map(|span| Some((span, part(span.size)?))));
            }
        }
        for (span, part) in add {
            self.body(kit, &span.body, span.size, part)?;
        }
        let short = namespace::Error::Broken { what: "a body is shorter than its size" };
        if at < range.end { Err(short.into()) } else { Ok(()) }
    }

    /// The segment as a manifest would name it; where its pieces are is kept.
    fn segment(&mut self, kit: &State, segment: &Segment, slot: u32) -> SegmentRef {
        let n = usize::from(segment.code.k) + usize::from(segment.code.m);
        let mut holders = vec![Vec::new(); n];
        for holder in kit.holders(segment) {
            if let (Some((node, _)), Some(of)) = (holder.node, holders.get_mut(usize::from(holder.index)))
                && !of.contains(&node_drive(node))
            {
                of.push(node_drive(node));
            }
        }
        self.known.insert(segment.id, Arc::new(Known { holders }));
        reference(segment, slot, &self.opener.wrap)
    }
}

/// A kit's segment as a manifest names it; `slot` is 0 for the whole segment, and one more than a packed object's.
pub fn reference(segment: &Segment, slot: u32, key: &VolumeKey) -> SegmentRef {
    let mut root = [0; 32];
    root[..8].copy_from_slice(&segment.root);
    SegmentRef {
        id: segment.id,
        policy: segment.code.policy,
        group: segment.group,
        k: segment.code.k,
        m: segment.code.m,
        len: segment.len,
        root,
        wrapped_key: segment.wrapped_key(key, slot),
    }
}

/// The metadata of who has none.
struct Nowhere;

fn nowhere() -> Error {
    Error::Metadata { kind: Kind::Unreachable, text: "this reader works without metadata: there is none to ask".into() }
}

#[async_trait]
impl Metadata for Nowhere {
    fn is_led_here(&self) -> bool {
        false
    }

    fn here(&self) -> Result<Option<Box<dyn Snapshot>>, Error> {
        Ok(None)
    }

    async fn cut(&self, _: &Wants, _: Option<&Hint>) -> Result<Cut, Error> {
        Err(nowhere())
    }

    async fn change(&self, _: &mut Rule<'_>) -> Result<(), Error> {
        Err(nowhere())
    }

    async fn work(&self, _: Work) -> Result<Outcome, Error> {
        Err(nowhere())
    }
}
