//! What a kit answers after its changes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base::{DriveId, GroupId, NodeId, PolicyId, Wall};
use common::{Dice, VOLUME, object, put, root, segment};
use crypt::{PublicKey, SegmentKey};
use kit::{Body, Change, Group, Node, Object, Position, Segment, State};

fn small(version: u64) -> Object {
    object(version, version, 0, Body::Inline(Vec::new()))
}

fn after(changes: Vec<Change>) -> State {
    let mut state = State::default();
    changes.into_iter().for_each(|change| state.apply(change));
    state
}

#[test]
fn a_null_version_takes_the_place_of_the_null_one_and_of_no_other() {
    let null = |version| Object { null: true, ..small(version) };
    let state = after(vec![put("a", null(1)), put("a", small(2)), put("a", null(3)), put("b", null(4))]);
    let versions = |path| state.versions(path).map(|object| object.version).collect::<Vec<_>>();
    assert_eq!((versions("a"), versions("b")), (vec![3, 2], vec![4]));
    assert_eq!(state.get("a").unwrap().version, 3);
}

#[test]
fn a_listing_shows_what_was_not_deleted_in_order() {
    let marker = Object { marker: true, ..small(9) };
    let drop = |path: &str, version| Change::Drop { path: path.into(), version };
    let mut changes: Vec<Change> = ["b/2", "b/1", "b", "c", "a", "b/3", "b0"].map(|path| put(path, small(1))).into();
    changes.extend([put("b/2", marker), drop("b/3", 1), drop("b/3", 1), drop("none", 1), put("b/1", small(2))]);
    let mut state = after(changes);
    let listed = |state: &State, prefix: &'static str| -> Vec<(String, u64)> {
        state.list(prefix).map(|(path, object)| (path.to_owned(), object.version)).collect()
    };
    assert_eq!(listed(&state, "b/"), [("b/1".into(), 2)]);
    assert_eq!(listed(&state, "").len(), 5);
    assert_eq!((state.objects(), state.get("b/2"), state.get("b/3")), (5, None, None));
    state.apply(drop("b/2", 9));
    assert!(state.get("b/2").is_some(), "the marker was removed");
}

#[test]
fn holders_follow_the_newest_row_of_a_group() {
    let [a, b, c] = [1, 2, 3].map(|at| DriveId([at; 16]));
    let [near, far] = [NodeId([8; 16]), NodeId([9; 16])];
    let row = |version, members: &[DriveId], from: &[DriveId]| {
        let (members, from) = (members.to_vec(), from.to_vec());
        Change::Group(Group { policy: PolicyId(1), group: GroupId(5), version, members, from })
    };
    let node = Node { key: PublicKey([1; 32]), addresses: vec!["10.0.0.1:9400".parse().unwrap()] };
    let drives = [Change::Drive(a, Some(near)), Change::Drive(b, Some(far)), Change::Node(near, Some(node.clone()))];
    let mut state = after(drives.into());
    let one = Segment { group: GroupId(5), ..segment(&mut Dice(1), 10) };
    assert!(state.holders(&one).is_empty());
    state.apply(row(3, &[a, c], &[a, b]));
    state.apply(row(2, &[b, b], &[b, b]));
    let held = |state: &State| -> Vec<(u8, DriveId, Option<NodeId>)> {
        let holders = state.holders(&one);
        holders.iter().map(|one| (one.index, one.drive, one.node.map(|(id, _)| id))).collect()
    };
    assert_eq!(held(&state), [(0, a, Some(near)), (1, c, None), (1, b, None)], "an older row changes nothing");
    state.apply(Change::Node(far, Some(node)));
    state.apply(Change::Drive(a, None));
    assert_eq!(held(&state), [(0, a, None), (1, c, None), (1, b, Some(far))]);
    state.apply(Change::Node(far, None));
    assert_eq!(held(&state)[2], (1, b, None));
    assert_eq!(state.nodes().len(), 1);
}

#[test]
fn the_position_never_goes_back() {
    let at = |seq| Change::Position(Position { seq, at: Wall(seq) });
    assert_eq!(after(vec![at(2), at(5), at(4)]).position(), Position { seq: 5, at: Wall(5) });
}

#[test]
fn a_manifests_reference_comes_back_whole_with_the_root_of_a_header() {
    let key = root().top().at("a").contents(VOLUME);
    let bare = segment(&mut Dice(2), 10);
    let wrapped_key = key.wrap(&SegmentKey::new([7; 32]), bare.id, 4);
    let reference = namespace::SegmentRef {
        id: bare.id,
        policy: bare.code.policy,
        group: bare.group,
        k: 4,
        m: 2,
        len: 10,
        root: [6; 32],
        wrapped_key,
    };
    let kept = Segment::of(&reference);
    assert_eq!(kept.reference(&key, 4, [6; 32]), Some(reference.clone()));
    assert_eq!(kept.reference(&key, 4, [5; 32]), None, "another root");
    let slot = namespace::Slot { index: 3, offset: 1, len: 26 };
    let packed = namespace::Body::Packed(reference, slot);
    assert_eq!(Body::of(&packed), Some(Body::Packed(kept, slot)));
    assert_eq!(Body::of(&namespace::Body::Unloaded), None);
}
