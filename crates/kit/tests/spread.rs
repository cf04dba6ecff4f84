//! Copies of kits on nodes: who has them, and what they take.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use base::NodeId;
use codec::Versioned;
use common::{Dice, VOLUME, log_of, object, put, root};
use crypt::VolumeRoot;
use kit::spread::{Label, PARCEL_BYTES_MAX, Parcel, Shelf, Take, copies, holders, newest_first};
use kit::{Body, Change, Log};
use proptest::prelude::*;

fn node(at: u8) -> NodeId {
    NodeId([at; 16])
}

/// Nodes of which nobody said where they are.
fn nodes(count: u8) -> Vec<(NodeId, String)> {
    (0..count).map(|at| (node(at), String::new())).collect()
}

/// Nodes at a few sites of different sizes: 0 at the first, 1 and 2 at the second, 3 to 5 at the third, …
fn town(sites: u8) -> Vec<(NodeId, String)> {
    let mut all = Vec::new();
    for site in 0..sites {
        for _ in 0..=site {
            all.push((node(all.len() as u8), format!("site-{site}")));
        }
    }
    all
}

fn sites_of(nodes: &[(NodeId, String)], held: &[NodeId]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, site) in nodes.iter().filter(|(node, _)| held.contains(node)) {
        *counts.entry(site.clone()).or_default() += 1;
    }
    counts
}

#[test]
fn a_kit_has_more_copies_than_its_data_may_lose_pieces() {
    for survives in 0..8 {
        assert!(copies(survives) > survives && copies(survives) >= 3);
    }
    assert_eq!(copies(40), 8, "whole copies cost their bytes");
}

#[test]
fn one_node_more_or_less_moves_one_copy_at_most() {
    for (seed, nodes) in (0..50u8).flat_map(|seed| [(seed, nodes(20)), (seed, town(6)), (seed, town(3))]) {
        let root = VolumeRoot::new([seed; 32]);
        let all: BTreeSet<NodeId> = holders(&root, nodes.clone(), 5).into_iter().collect();
        assert_eq!(all.len(), 5);
        for (gone, _) in &nodes {
            let left = nodes.iter().filter(|(node, _)| node != gone).cloned();
            let left: BTreeSet<NodeId> = holders(&root, left, 5).into_iter().collect();
            assert_eq!(all.difference(&left).count(), usize::from(all.contains(gone)));
        }
    }
    assert_eq!(holders(&root(), nodes(3), 5).len(), 3, "all there are");
    let twice = nodes(3).into_iter().chain(nodes(3));
    assert_eq!(holders(&root(), twice, 5).len(), 3);
}

#[test]
fn no_site_has_a_second_copy_before_every_site_has_one() {
    for seed in 0..50u8 {
        let root = VolumeRoot::new([seed; 32]);
        for (count, each) in [(3, 1), (4, 1), (8, 3)] {
            let held = sites_of(&town(4), &holders(&root, town(4), count));
            assert_eq!(held.values().sum::<usize>(), count, "seed {seed}");
            assert!(held.len() == count.min(4) && held.values().all(|at| *at <= each), "seed {seed}: {held:?}");
        }
        // Nodes of which it isn't known may all be at one place.
        let some: Vec<_> = nodes(9).into_iter().chain([(node(20), "office".to_owned())]).collect();
        assert!(holders(&root, some, 3).contains(&node(20)), "seed {seed}");
    }
}

#[test]
fn copies_are_spread_evenly_over_nodes() {
    let mut held: BTreeMap<NodeId, u32> = BTreeMap::new();
    for volume in 0..2000u32 {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&volume.to_le_bytes());
        for node in holders(&VolumeRoot::new(seed), nodes(20), 5) {
            *held.entry(node).or_default() += 1;
        }
    }
    // 500 each on average, standard deviation 19.
    assert!(held.len() == 20 && held.values().all(|count| (400..600).contains(count)), "{held:?}");
}

/// A holder with files, as a node would be.
#[derive(Default)]
struct Holder {
    shelf: Shelf,
    whole: Vec<u8>,
    filling: Vec<u8>,
}

impl Holder {
    fn take(&mut self, parcel: &Parcel) -> Take {
        let took = self.shelf.take(&Parcel::decode(&parcel.encode()).unwrap());
        match took {
            Take::Grow => self.whole.extend(&parcel.bytes),
            Take::Begin => self.filling = parcel.bytes.clone(),
            Take::Fill => self.filling.extend(&parcel.bytes),
            _ => {}
        }
        if matches!(took, Take::Begin | Take::Fill) && self.shelf.filling.is_none() {
            self.whole = std::mem::take(&mut self.filling);
        }
        took
    }

    /// Brings the holder up to date, as a client does.
    fn push(&mut self, log: &Log, bytes: &[u8]) {
        let mut from = 0;
        for _ in 0..10 {
            for parcel in Parcel::all(&root(), Label::of(log), bytes, from) {
                if let Take::From(other) = self.take(&parcel) {
                    from = other;
                    break;
                }
            }
            if self.whole == bytes {
                return;
            }
        }
        panic!("the holder never gets there");
    }
}

#[test]
fn a_holder_follows_a_log_through_deltas_and_compaction_and_never_back() {
    let mut salts = Dice(3);
    let (mut bytes, mut log, _) = log_of(1, 3);
    let mut holder = Holder::default();
    let early: Vec<Parcel> = Parcel::all(&root(), Label::of(&log), &bytes, 0).collect();
    holder.push(&log, &bytes);
    let start = log.len();
    let big = put("big", object(700, 5, 6 << 20, Body::Inline(vec![7; 6 << 20])));
    let position = kit::Position { seq: 20, at: base::Wall(9) };
    bytes.extend(log.append(vec![big, Change::Position(position)], || salts.bytes()).unwrap());
    assert!(bytes.len() > start as usize + PARCEL_BYTES_MAX, "more than one parcel");
    holder.push(&log, &bytes);
    assert_eq!(early.iter().map(|old| holder.take(old)).collect::<Vec<_>>(), [Take::Known]);

    let (next_bytes, next) = log.compact(|| salts.bytes()).unwrap();
    let parcels: Vec<Parcel> = Parcel::all(&root(), Label::of(&next), &next_bytes, 0).collect();
    assert!(parcels.len() > 1);
    assert_eq!(holder.take(&parcels[0]), Take::Begin);
    assert_eq!(holder.whole, bytes, "what it had stays until the new one is whole");
    assert_eq!(holder.take(&parcels[0]), Take::Begin, "a repeated beginning begins again");
    holder.push(&next, &next_bytes);
    assert_eq!(early.iter().map(|old| holder.take(old)).collect::<Vec<_>>(), [Take::Older]);
    assert_eq!(Log::open(&root(), &holder.whole, None).unwrap().log.state(), next.state());
}

#[test]
fn a_holder_takes_nothing_that_the_owner_did_not_sign() {
    let (bytes, log, _) = log_of(1, 1);
    let parcel = Parcel::all(&root(), Label::of(&log), &bytes, 0).next().unwrap();
    let encoded = parcel.encode();
    for at in 0..encoded.len() {
        let mut wrong = encoded.clone();
        wrong[at] ^= 1;
        if let Ok(wrong) = Parcel::decode(&wrong) {
            assert_eq!(Shelf::default().take(&wrong), Take::Forged, "changed at {at}");
        }
    }
    let stranger = Parcel::new(&VolumeRoot::new([9; 32]), parcel.label, 0, &bytes);
    assert_eq!(Shelf::default().take(&stranger), Take::Forged);
    let beyond = Parcel::new(&root(), Label { len: 10, ..parcel.label }, 0, &bytes);
    assert_eq!(Shelf::default().take(&beyond), Take::Forged, "longer than it says");
}

#[test]
fn the_newest_copy_is_tried_first() {
    let (_, log, _) = log_of(1, 1);
    let old = Label { position: 1, ..Label::of(&log) };
    let newer = Label { position: 2, log: [1; 16], generation: 1, ..old };
    let longer = Label { len: old.len + 1, ..old };
    let mut labels = [old, longer, newer];
    newest_first(&mut labels);
    assert_eq!(labels, [newer, longer, old]);
    assert_eq!(log.volume(), VOLUME);
}

#[test]
fn parcels_never_change() {
    let (bytes, log, _) = log_of(1, 1);
    let parcel = Parcel::new(&root(), Label::of(&log), 3, &bytes[3..40]);
    assert!(parcel.is_genuine());
    assert_eq!(base::ids::hex(&parcel.encode()), include_str!("parcel-v1.txt").trim());
}

proptest! {
    #[test]
    fn whatever_comes_in_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Parcel::decode(&bytes);
    }
}
