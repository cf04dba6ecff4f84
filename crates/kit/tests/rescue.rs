//! What rescue promises: from words and pieces alone everything is found of which k pieces are left, and what isn't
//! is said exactly. Truth is kept by the test itself.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, NodeId, PolicyId, SegmentId, VolumeId, Wall};
use codec::{Reader, Versioned, Writer};
use common::{Dice, MIB, VOLUME, object, put, root};
use crypt::{FolderKey, SegmentKey, VolumeRoot};
use grant::Anchor;
use kit::header::{End, Envelope, Facts, OWNED, Origin, PackSlot, Part, read_owner, write_owner};
use kit::rescue::{Found, From, Key, Missing, Recovered, Rescue, Source, Told};
use kit::{Body, Change, Code, Position, Segment, State};
use proptest::prelude::*;

const K: u8 = 4;
const M: u8 = 2;
const NODES: u64 = 8;

fn facts(dice: &mut Dice, len: u64, written: u64, pack: bool) -> Facts {
    Facts {
        volume: VOLUME,
        segment: SegmentId(dice.bytes()),
        k: K,
        m: M,
        pack,
        len,
        written: Wall(written),
        policy: PolicyId(1),
        group: GroupId(3),
        wrapped_key: [0; 48],
        roots: (0..K + M).map(|_| dice.bytes()).collect(),
        owner: Some(root().signing_key().public()),
    }
}

/// Opens keys of contents as who has this root does.
fn opens(root: &VolumeRoot, one: &Recovered) -> bool {
    let wrap = root.top().at(&one.path).contents(VOLUME);
    one.extents.iter().all(|extent| match &extent.from {
        From::Segment { segment, slot, key: Key::Wrapped(key), .. } => {
            wrap.unwrap(key, *segment, slot.map_or(0, |slot| 1 + slot.index)).is_ok()
        }
        From::Segment { .. } => false,
        From::Inline(bytes) => root.top().at(&one.path).open_bytes(b"contents", bytes).is_ok(),
    })
}

/// Somebody who writes: the owner, or who has a grant.
struct Writing {
    key: FolderKey,
    anchor: Anchor,
    /// The path of the anchor.
    base: &'static str,
}

fn owner() -> Writing {
    Writing { key: root().top(), anchor: Anchor::default(), base: "" }
}

fn granted() -> Writing {
    let anchor = Anchor::new(&root(), "shared/", [1; 16]);
    let anchor = anchor.below(&root().top().at("shared/"), "with us/", [2; 16]).unwrap();
    Writing { key: root().top().at("shared/with us/"), anchor, base: "shared/with us/" }
}

/// A cluster that holds pieces, and what was really written.
struct World {
    dice: Dice,
    clock: u64,
    pieces: BTreeMap<SegmentId, (Facts, Vec<u8>, Vec<NodeId>)>,
    /// Path → the segments of its last write, with their places.
    truth: BTreeMap<String, Vec<(u64, u64, SegmentId)>>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { dice: Dice(seed | 1), clock: 1_000, pieces: BTreeMap::new(), truth: BTreeMap::new() }
    }

    fn store(&mut self, by: &Writing, mut facts: Facts, origin: &Origin, wrapped: Option<[u8; 48]>) -> SegmentId {
        facts.wrapped_key = wrapped.unwrap_or([0; 48]);
        let envelope = Envelope::seal(&by.key, by.anchor.clone(), &facts, self.dice.bytes(), origin);
        let first = self.dice.below(NODES);
        let nodes = (0..u64::from(K + M)).map(|at| NodeId([((first + at) % NODES) as u8; 16])).collect();
        let segment = facts.segment;
        self.pieces.insert(segment, (facts, envelope.encode(), nodes));
        segment
    }

    /// Writes an object in segments of its own; gives their places.
    fn write(&mut self, by: &Writing, path: &str, lens: &[u64], part: Option<Part>) -> Vec<(u64, u64, SegmentId)> {
        self.clock += 10;
        let (write, mut offset, mut places) = (self.dice.bytes(), 0, Vec::new());
        for (at, len) in lens.iter().enumerate() {
            let facts = facts(&mut self.dice, *len, self.clock, false);
            let end = if at + 1 == lens.len() { End::Here } else { End::Later };
            let origin = Origin::Whole { write, path: path.into(), offset, end, part };
            let key = SegmentKey::new(self.dice.bytes());
            let wrapped = by.key.at(path).contents(VOLUME).wrap(&key, facts.segment, 0);
            places.push((offset, *len, self.store(by, facts, &origin, Some(wrapped))));
            offset += len;
        }
        self.truth.insert(format!("{}{path}", by.base), places.clone());
        places
    }

    fn pack(&mut self, by: &Writing, paths: &[String]) {
        self.clock += 10;
        let facts = facts(&mut self.dice, 5016 * paths.len() as u64, self.clock, true);
        let slot = |(at, path): (usize, &String)| {
            let key = SegmentKey::new([at as u8; 32]);
            let wrapped_key = by.key.at(path).contents(VOLUME).wrap(&key, facts.segment, 1 + at as u32);
            PackSlot { offset: 5016 * at as u32, len: 5016, wrapped_key, path: path.clone(), part: None }
        };
        let origin = Origin::Pack(paths.iter().enumerate().map(slot).collect());
        let segment = self.store(by, facts, &origin, None);
        for path in paths {
            self.truth.insert(format!("{}{path}", by.base), vec![(0, 5000, segment)]);
        }
    }

    /// All headers on nodes that are left.
    fn found(&self, gone: &BTreeSet<NodeId>) -> Vec<Found> {
        let pieces = self.pieces.values();
        pieces
            .flat_map(|(facts, told, nodes)| {
                nodes.iter().enumerate().filter(|(_, at)| !gone.contains(at)).map(|(index, at)| Found {
                    facts: facts.clone(),
                    index: index as u8,
                    told: Told::Sealed(told.clone()),
                    at: *at,
                })
            })
            .collect()
    }

    /// What must be said to lack, by counting.
    fn lacking(&self, path: &str, gone: &BTreeSet<NodeId>) -> Vec<Missing> {
        let missing = |(offset, len, segment): &(u64, u64, SegmentId)| {
            let (_, _, nodes) = &self.pieces[segment];
            let lost: Vec<u8> = (0..K + M).filter(|at| gone.contains(&nodes[usize::from(*at)])).collect();
            let have = K + M - lost.len() as u8;
            let (offset, len, segment) = (*offset, *len, *segment);
            (have < K).then_some(Missing::Pieces { offset, len, segment, have, need: K, lacking: lost })
        };
        self.truth[path].iter().filter_map(missing).collect()
    }
}

fn rescue(world: &World, gone: &BTreeSet<NodeId>) -> Rescue {
    let mut rescue = Rescue::new(root(), Vec::new());
    for found in world.found(gone) {
        assert!(rescue.add(found));
    }
    rescue
}

fn filled(seed: u64) -> World {
    let mut world = World::new(seed);
    for (at, by) in [owner(), granted(), owner()].iter().enumerate() {
        for number in 0..6 {
            let lens: Vec<u64> = (0..world.dice.below(4)).map(|_| 64 * MIB).chain([5 + number]).collect();
            world.write(by, &format!("folder {at}/whole {number}"), &lens, None);
        }
        let names: Vec<String> = (0..5).map(|number| format!("small/{at} {number}")).collect();
        world.pack(by, &names);
    }
    world
}

#[test]
fn whatever_nodes_are_lost_what_is_left_is_listed_and_the_rest_named() {
    for seed in 1..=200u64 {
        let mut world = filled(seed);
        let lost = world.dice.below(5);
        let gone: BTreeSet<NodeId> = (0..lost).map(|_| NodeId([world.dice.below(NODES) as u8; 16])).collect();
        let report = rescue(&world, &gone).finish(None, None);
        assert!(report.refused.is_empty() && report.leftovers.is_empty());
        let found: BTreeMap<&str, &Recovered> = report.objects.iter().map(|one| (one.path.as_str(), one)).collect();
        for (path, places) in &world.truth {
            let one = found.get(path.as_str()).unwrap_or_else(|| panic!("seed {seed}: {path} isn't listed"));
            assert_eq!(one.missing, world.lacking(path, &gone), "seed {seed}: {path}");
            let extents: Vec<(u64, u64)> = one.extents.iter().map(|one| (one.offset, one.len)).collect();
            assert_eq!(extents, places.iter().map(|(at, len, _)| (*at, *len)).collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(one.size, places.last().map(|(at, len, _)| at + len));
        }
        assert_eq!(found.len(), world.truth.len(), "seed {seed}: nothing is made up");
        let whole = report.objects.len() - report.incomplete().count();
        assert!(gone.len() > usize::from(M) || whole == world.truth.len(), "seed {seed}: m nodes may always go");
    }
}

#[test]
fn the_keys_that_are_found_open_what_was_written() {
    let report = rescue(&filled(3), &BTreeSet::new()).finish(None, None);
    for object in &report.objects {
        let key = root().top().at(&object.path).contents(VOLUME);
        for extent in &object.extents {
            let From::Segment { segment, slot, key: Key::Wrapped(wrapped), volume, .. } = &extent.from else {
                panic!("from a header")
            };
            assert_eq!(*volume, VolumeId(7));
            key.unwrap(wrapped, *segment, slot.map_or(0, |slot| 1 + slot.index)).unwrap();
        }
    }
}

#[test]
fn a_segment_of_which_no_piece_is_left_is_a_hole_or_a_missing_end() {
    let mut world = World::new(5);
    let places = world.write(&owner(), "film", &[64 * MIB, 64 * MIB, 7], None);
    for (lost, missing, size) in [
        (0, Missing::Bytes { offset: 0, len: 64 * MIB }, Some(128 * MIB + 7)),
        (1, Missing::Bytes { offset: 64 * MIB, len: 64 * MIB }, Some(128 * MIB + 7)),
        (2, Missing::Tail { offset: 128 * MIB }, None),
    ] {
        let mut rescue = Rescue::new(root(), Vec::new());
        let segment = places[lost].2;
        for found in world.found(&BTreeSet::new()).into_iter().filter(|one| one.facts.segment != segment) {
            rescue.add(found);
        }
        assert_eq!(rescue.progress(), (2, 2));
        let report = rescue.finish(None, None);
        assert_eq!((&report.objects[0].missing[..], report.objects[0].size), (&[missing][..], size));
    }
}

#[test]
fn an_upload_is_its_parts_in_order_and_the_last_of_each() {
    let mut world = World::new(6);
    let upload = [7; 16];
    for (number, len) in [(2, 20), (1, 64 * MIB), (5, 9), (2, 30)] {
        world.write(&owner(), "upload", &[len], Some(Part { upload, number }));
    }
    let report = rescue(&world, &BTreeSet::new()).finish(None, None);
    let [one] = &report.objects[..] else { panic!("one object") };
    assert_eq!((&one.parts[..], one.size), (&[1, 2, 5][..], Some(64 * MIB + 39)));
    let places: Vec<(u64, u64)> = one.extents.iter().map(|one| (one.offset, one.len)).collect();
    assert_eq!(places, [(0, 64 * MIB), (64 * MIB, 30), (64 * MIB + 30, 9)]);
}

#[test]
fn a_header_that_a_node_changed_is_refused_and_the_node_named() {
    let mut world = World::new(8);
    let segment = world.write(&owner(), "a", &[100], None)[0].2;
    let mut rescue = rescue(&world, &BTreeSet::from([NodeId([0; 16])]));
    let liar = NodeId([99; 16]);
    let honest = world.found(&BTreeSet::new()).remove(0);
    type Lie = fn(&mut Facts);
    let lies: [Lie; 9] = [
        |facts| facts.roots[0][0] ^= 1,
        |facts| facts.len += 1,
        |facts| facts.k -= 1,
        |facts| facts.pack = true,
        |facts| facts.written = Wall(9_999_999),
        |facts| facts.wrapped_key[3] ^= 1,
        |facts| facts.volume = VolumeId(8),
        |facts| facts.group = GroupId(4),
        |facts| facts.owner = Some(VolumeRoot::new([9; 32]).signing_key().public()),
    ];
    for lie in lies {
        let mut facts = honest.facts.clone();
        lie(&mut facts);
        assert!(!rescue.add(Found { facts, at: liar, ..honest.clone() }));
    }
    let Told::Sealed(bytes) = &honest.told else { panic!("sealed") };
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert!(!rescue.add(Found { told: Told::Sealed(wrong), at: liar, ..honest.clone() }), "changed at {at}");
    }
    let report = rescue.finish(None, None);
    assert_eq!(report.refused, [(segment, liar)]);
    assert_eq!(report.objects.len(), 1);
    assert!(report.objects[0].missing.is_empty(), "the honest ones suffice");
}

#[test]
fn who_has_a_grant_writes_nothing_beside_it() {
    let mut dice = Dice(14);
    let by = Anchor::new(&root(), "a", [1; 16]);
    for (path, written) in [("", Some("a")), ("b", None), ("/b", None)] {
        let facts = facts(&mut dice, 10, 5, false);
        let whole = Origin::Whole { write: [1; 16], path: path.into(), offset: 0, end: End::Here, part: None };
        let told = Envelope::seal(&root().top().at("a"), by.clone(), &facts, [1; 16], &whole).encode();
        let mut rescue = Rescue::new(root(), Vec::new());
        let taken = rescue.add(Found { facts, index: 0, told: Told::Sealed(told), at: NodeId([1; 16]) });
        let report = rescue.finish(None, None);
        assert_eq!((taken, report.objects.first().map(|one| one.path.as_str())), (written.is_some(), written));
    }
    // Nor with a key that isn't the anchor's.
    let facts = facts(&mut dice, 10, 5, false);
    let whole = Origin::Whole { write: [1; 16], path: "x".into(), offset: 0, end: End::Here, part: None };
    let told = Envelope::seal(&root().top().at("shared/"), Anchor::default(), &facts, [1; 16], &whole).encode();
    let mut rescue = Rescue::new(root(), Vec::new());
    assert!(!rescue.add(Found { facts, index: 0, told: Told::Sealed(told), at: NodeId([1; 16]) }));
}

fn segment_of(facts: &Facts) -> Segment {
    let mut root = [0; 8];
    root.copy_from_slice(&facts.root()[..8]);
    let mut bare_key = [0; 32];
    bare_key.copy_from_slice(&facts.wrapped_key[..32]);
    let code = Code { policy: facts.policy, k: facts.k, m: facts.m };
    Segment { id: facts.segment, code, group: facts.group, len: facts.len, bare_key, root }
}

#[test]
fn a_kit_knows_what_was_deleted_and_headers_what_came_after() {
    let mut world = World::new(9);
    let top = root().top();
    let mut state = State::default();
    let put_in = |state: &mut State, world: &World, path: &str, version, places: &[(u64, u64, SegmentId)]| {
        let segments: Vec<Segment> = places.iter().map(|(_, _, id)| segment_of(&world.pieces[id].0)).collect();
        let size = places.iter().map(|(_, len, _)| len).sum();
        let one = object(version, world.clock, size, Body::Segments(segments));
        state.apply(put(&top.seal_path(path).unwrap(), one));
    };
    for (version, path) in [(1, "kept"), (2, "deleted"), (3, "replaced")] {
        let places = world.write(&owner(), path, &[64 * MIB, 8], None);
        if path == "kept" {
            put_in(&mut state, &world, path, version, &places);
        }
    }
    let places = world.write(&owner(), "replaced", &[9], None);
    put_in(&mut state, &world, "replaced", 4, &places);
    let inline = object(5, world.clock, 5, Body::Inline(b"small".to_vec()));
    state.apply(put(&top.seal_path("inline").unwrap(), inline));
    state.apply(put("not sealed", object(6, world.clock, 0, Body::Inline(Vec::new()))));
    world.write(&owner(), "deleted at once", &[64 * MIB, 8], None);
    state.apply(Change::Position(Position { seq: 6, at: Wall(world.clock) }));
    world.write(&owner(), "later", &[11], None);
    world.write(&owner(), "kept", &[12], None);

    let report = rescue(&world, &BTreeSet::new()).finish(Some(&state), Some(&root()));
    let listed = |all: &[Recovered]| -> Vec<(String, Option<u64>, Source)> {
        all.iter().map(|one| (one.path.clone(), one.size, one.source)).collect()
    };
    let expected = [
        ("inline", 5, Source::Kit),
        ("kept", 12, Source::Headers),
        ("later", 11, Source::Headers),
        ("replaced", 9, Source::Kit),
    ];
    assert_eq!(listed(&report.objects), expected.map(|(path, size, from)| (path.into(), Some(size), from)));
    let headers = Source::Headers;
    let left = [("deleted", headers), ("deleted at once", headers), ("kept", Source::Kit), ("replaced", headers)];
    assert_eq!(listed(&report.leftovers), left.map(|(path, from)| (path.into(), Some(64 * MIB + 8), from)));
    assert_eq!(report.unnamed, ["not sealed"]);
    assert!(report.incomplete().next().is_none());

    // The kit alone says what there was, although no node is left.
    let lost = Rescue::new(root(), Vec::new()).finish(Some(&state), Some(&root()));
    let incomplete: Vec<&str> = lost.incomplete().map(|one| one.path.as_str()).collect();
    assert_eq!(incomplete, ["kept", "replaced"], "the inline one is in the kit");
    let all = Missing::Pieces { offset: 0, len: 9, segment: places[0].2, have: 0, need: K, lacking: (0..6).collect() };
    assert_eq!(lost.objects[2].missing, [all]);
}

#[test]
fn after_keys_were_rotated_older_headers_open_by_the_older_root() {
    let world = filled(4);
    let new = VolumeRoot::new([42; 32]);
    let mut without = Rescue::new(new.clone(), Vec::new());
    let mut with = Rescue::new(new, vec![root()]);
    for found in world.found(&BTreeSet::new()) {
        assert!(!without.add(found.clone()));
        assert!(with.add(found));
    }
    assert_eq!(with.finish(None, None).objects.len(), world.truth.len());
}

#[test]
fn a_header_of_version_1_counts_if_its_fragment_was_opened() {
    let mut dice = Dice(11);
    let facts = Facts { owner: None, ..facts(&mut dice, 10, 5, false) };
    let origin = Origin::Whole { write: [1; 16], path: "old".into(), offset: 0, end: End::Unknown, part: None };
    let mut rescue = Rescue::new(root(), Vec::new());
    for index in 0..K {
        let at = NodeId([index; 16]);
        assert!(rescue.add(Found { facts: facts.clone(), index, told: Told::Opened(origin.clone()), at }));
    }
    let report = rescue.finish(None, None);
    assert_eq!((report.objects[0].size, report.objects[0].missing.len()), (None, 0), "it may go on");
}

#[test]
fn what_headers_say_never_changes() {
    let mut dice = Dice(12);
    let by = granted();
    let facts = facts(&mut dice, 100, 1_795_230_600_123, false);
    let part = Some(Part { upload: [8; 16], number: 3 });
    let whole = Origin::Whole { write: [4; 16], path: "a/ä".into(), offset: 5, end: End::Later, part };
    let slot = PackSlot { offset: 1, len: 5016, wrapped_key: [9; 48], path: "b".into(), part };
    let envelope = Envelope::seal(&by.key, by.anchor.clone(), &facts, [6; 16], &whole);
    let opened = Envelope::decode(&envelope.encode()).unwrap().open(&root(), &facts).unwrap();
    assert!(matches!(opened, Origin::Whole { path, .. } if path == "shared/with us/a/ä"));
    let mut owner = Writer::new();
    write_owner(&mut owner, &facts.owner.unwrap());
    let owner = owner.finish();
    assert_eq!(read_owner(OWNED, &mut Reader::new(&owner)).unwrap(), facts.owner);
    assert_eq!(read_owner(1, &mut Reader::new(&owner)).unwrap(), None);
    let lines = [whole.encode(), Origin::Pack(vec![slot]).encode(), facts.binding().to_vec(), envelope.encode(), owner];
    let text: Vec<String> = lines.iter().map(|line| base::ids::hex(line)).collect();
    assert_eq!(text.join("\n"), include_str!("header-v2.txt").trim());
}

proptest! {
    #[test]
    fn whatever_comes_in_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), k: u8, m: u8, index: u8, roots in 0usize..70) {
        let _ = (Origin::decode(&bytes), Envelope::decode(&bytes));
        let mut dice = Dice(13);
        let facts = Facts { k, m, roots: vec![[0; 32]; roots], ..facts(&mut dice, 10, 5, false) };
        let mut rescue = Rescue::new(root(), Vec::new());
        rescue.add(Found { facts: facts.clone(), index, told: Told::Sealed(bytes), at: NodeId([1; 16]) });
        let origin = Origin::Whole { write: [1; 16], path: "a".into(), offset: u64::MAX, end: End::Later, part: None };
        rescue.add(Found { facts, index, told: Told::Opened(origin), at: NodeId([1; 16]) });
        let _ = rescue.finish(None, None);
    }
}

/// Everything was written under a root that was replaced twice since.
#[test]
fn what_was_written_with_older_keys_is_found_and_opens_with_the_newest() {
    let newest = VolumeRoot::new([77; 32]);
    let between = VolumeRoot::new([78; 32]);
    let world = filled(21);
    let begin = || {
        let mut rescue = Rescue::new(newest.clone(), vec![between.clone(), root()]);
        world.found(&BTreeSet::new()).into_iter().for_each(|found| assert!(rescue.add(found)));
        rescue
    };
    let report = begin().finish(None, None);
    let plain = rescue(&world, &BTreeSet::new()).finish(None, None);
    let paths = |report: &kit::rescue::Report| report.objects.iter().map(|one| one.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&report), paths(&plain));
    assert!(report.objects.iter().all(|one| opens(&newest, one) && !opens(&root(), one)));
    assert!(report.refused.is_empty());

    // By a kit of the older keys, if no other is left; what is in it needs the newest keys alone as well.
    let (top, salt) = (root().top(), [5; 16]);
    let mut state = State::default();
    let mut expected = BTreeSet::new();
    for (version, (path, places)) in (1..).zip(world.truth.iter().filter(|(path, _)| path.contains("whole"))) {
        let segments: Vec<Segment> = places.iter().map(|(_, _, id)| segment_of(&world.pieces[id].0)).collect();
        let size = places.iter().map(|(_, len, _)| len).sum();
        state.apply(put(&top.seal_path(path).unwrap(), object(version, world.clock, size, Body::Segments(segments))));
        expected.insert(path.clone());
    }
    let empty = Body::Inline(top.at("empty").seal_bytes(salt, b"contents", b""));
    state.apply(put(&top.seal_path("empty").unwrap(), object(99, world.clock, 0, empty)));
    expected.insert("empty".to_owned());
    state.apply(Change::Position(Position { seq: 100, at: Wall(world.clock) }));
    let report = begin().finish(Some(&state), Some(&root()));
    assert_eq!(paths(&report).into_iter().collect::<BTreeSet<_>>(), expected);
    assert!(report.objects.iter().all(|one| one.source == Source::Kit && opens(&newest, one)));
}
