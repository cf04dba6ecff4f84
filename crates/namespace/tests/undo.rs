//! What was deleted can be had back, against a model that keeps everything: every history, every row.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use namespace::read::{self, ListQuery};
use namespace::undo::{self, Deleted, FREED_MAX, KEPT_PER_KEY_MAX};
use namespace::*;
use proptest::prelude::*;

const VOLUME: VolumeId = VolumeId(3);
const KEYS: [&str; 4] = ["a", "a/b", "a/b/", "ä"];

fn segment(number: u64, len: u64) -> SegmentRef {
    let id = SegmentId(u128::from(number).to_be_bytes());
    SegmentRef { id, policy: PolicyId(1), group: GroupId(2), k: 4, m: 2, len, root: [0; 32], wrapped_key: [0; 48] }
}

/// A body that nobody else has, of one of four kinds.
fn body(number: u64) -> (u64, Body) {
    let pack = |number: u64| segment(1_000_000 + number / 4, 400);
    let slot = |number: u64| Slot { index: (number % 4) as u32, offset: 0, len: 116 };
    match number % 4 {
        0 => (200, Body::Inline(vec![number as u8; 200])),
        1 => (100, Body::Packed(pack(number), slot(number))),
        2 => (700, Body::Segments((0..7).map(|part| segment(number * 10 + part, 100)).collect())),
        _ => {
            let packed = Span { size: 100, body: Body::Packed(pack(number), slot(number)) };
            let inline = Span { size: 1, body: Body::Inline(vec![1]) };
            let own = Span { size: 100, body: Body::Segments(vec![segment(number * 10, 100)]) };
            (201, Body::Spans(vec![packed, inline, own]))
        }
    }
}

fn segments(body: &Body, to: &mut BTreeMap<SegmentId, u64>) {
    match body {
        Body::Packed(segment, _) => *to.entry(segment.id).or_default() += 1,
        Body::Segments(all) => all.iter().for_each(|segment| *to.entry(segment.id).or_default() += 1),
        Body::Spans(spans) => spans.iter().for_each(|span| segments(&span.body, to)),
        Body::Inline(_) | Body::Unloaded => {}
    }
}

/// A version as the model knows it; `written` counts all that were ever written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    written: u64,
    etag: String,
}

struct World {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    now: u64,
    written: u64,
    bodies: BTreeMap<String, (u64, Body)>,
    /// When each was written, by tag.
    order: BTreeMap<String, u64>,
    /// Of each key what can be had back, and since when.
    kept: BTreeMap<String, Vec<(Made, u64)>>,
    known: BTreeSet<SegmentId>,
}

impl World {
    fn new() -> Self {
        let mut map = BTreeMap::new();
        let window = undo::set_window(&map, 1000).unwrap();
        base::kv::apply(&mut map, &window);
        let (bodies, order, kept, known) = Default::default();
        Self { map, now: 1_000_000, written: 0, bodies, order, kept, known }
    }

    fn try_run(&mut self, command: &Command) -> Result<Outcome, Error> {
        let (batch, outcome) = apply(&self.map, VOLUME, command, Wall(self.now))?;
        base::kv::apply(&mut self.map, &batch);
        Ok(outcome)
    }

    /// Runs a command about a key; what of its versions is gone after it can be had back.
    fn run(&mut self, key: &str, command: &Command) -> Outcome {
        self.now += 10;
        let before = self.versions(key);
        let outcome = self.try_run(command).unwrap();
        let after = self.versions(key);
        let kept = self.kept.entry(key.to_owned()).or_default();
        kept.extend(before.into_iter().filter(|one| !after.contains(one)).map(|one| (one, self.now)));
        kept.sort();
        while kept.len() > KEPT_PER_KEY_MAX {
            kept.remove(0);
        }
        outcome
    }

    /// The versions of a key that S3 sees, without markers.
    fn versions(&self, key: &str) -> Vec<Made> {
        let query = ListQuery { limit: 1000, prefix: key.into(), ..ListQuery::default() };
        let page = read::list_versions(&self.map, VOLUME, &query).unwrap();
        let items = page.entries.into_iter().filter_map(|entry| match entry {
            read::Entry::Item(item) if item.key == key && !item.version.marker => Some(item.version.etag),
            _ => None,
        });
        items.map(|etag| Made { written: self.order[&etag], etag }).collect()
    }

    fn put(&mut self, key: &str) {
        self.written += 1;
        let (size, body) = body(self.written);
        let mut named = BTreeMap::new();
        segments(&body, &mut named);
        // A pack whose last object expired takes no more.
        let garbage = read::garbage(&self.map, VOLUME, None, 100_000).unwrap();
        if garbage.iter().any(|gone| named.contains_key(&gone.segment)) {
            return;
        }
        self.known.extend(named.into_keys());
        let etag = format!("e{}", self.written);
        self.order.insert(etag.clone(), self.written);
        self.bodies.insert(etag.clone(), (size, body.clone()));
        let new = NewVersion { size, etag, attrs: Attrs::new(), body };
        let put = Command::Put { key: key.into(), new, condition: Condition::default() };
        self.run(key, &put);
    }

    fn delete(&mut self, key: &str, version: Option<VersionId>) {
        self.run(key, &Command::Delete { key: key.into(), version, condition: Condition::default() });
    }

    fn all(&self) -> Vec<Deleted> {
        undo::list(&self.map, VOLUME, None, 10_000).unwrap()
    }

    /// Brings back one of those that can be had back.
    fn undelete(&mut self, pick: usize) {
        let all = self.all();
        let Some(one) = all.get(pick % all.len().max(1)).cloned() else { return };
        let kept = self.kept.get_mut(&one.key).unwrap();
        kept.retain(|(made, _)| made.etag != one.version.etag);
        // It counts as written now.
        self.written += 1;
        self.order.insert(one.version.etag.clone(), self.written);
        let outcome = self.run(&one.key, &Command::Undelete { key: one.key.clone(), ord: one.ord });
        assert_eq!(outcome.etag, one.version.etag);
        let found = read::head(&self.map, VOLUME, &one.key, None, true).unwrap().into_version();
        assert_eq!((found.etag.as_str(), &found.body), (one.version.etag.as_str(), &self.bodies[&one.version.etag].1));
    }

    fn expire(&mut self, by: u64) {
        let mut freed = 0;
        loop {
            let done = self.try_run(&Command::Expire { by: Some(Wall(by)), key: None }).unwrap().size;
            freed += done;
            if done < u64::from(FREED_MAX) {
                break;
            }
        }
        let before: usize = self.kept.values().map(Vec::len).sum();
        self.kept.values_mut().for_each(|kept| kept.retain(|(_, deleted)| *deleted > by));
        let after: usize = self.kept.values().map(Vec::len).sum();
        assert_eq!(freed as usize, before - after);
        assert!(!undo::is_due(&self.map, VOLUME, Wall(by)).unwrap());
    }

    fn check(&self) {
        let mut wanted: Vec<(String, String, u64)> = Vec::new();
        for (key, kept) in &self.kept {
            wanted.extend(kept.iter().map(|(made, deleted)| (key.clone(), made.etag.clone(), *deleted)));
            let by_key = undo::list_key(&self.map, VOLUME, key).unwrap();
            let tags: Vec<&str> = by_key.iter().map(|one| one.version.etag.as_str()).collect();
            assert_eq!(tags, kept.iter().map(|(made, _)| made.etag.as_str()).collect::<Vec<_>>());
        }
        let all = self.all();
        assert!(all.windows(2).all(|pair| (pair[0].deleted, pair[0].ord) > (pair[1].deleted, pair[1].ord)));
        let mut found: Vec<_> =
            all.iter().map(|one| (one.key.clone(), one.version.etag.clone(), one.deleted.0)).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
        let stats = undo::stats(&self.map, VOLUME).unwrap();
        let bytes: u64 = all.iter().map(|one| one.version.size).sum();
        assert_eq!((stats.versions, stats.bytes), (all.len() as u64, bytes));
        // Segments: each is counted as often as it is named, and nothing that can be had back is garbage.
        let mut named = BTreeMap::new();
        for one in &all {
            let version = undo::deleted(&self.map, VOLUME, &one.key, one.ord).unwrap().unwrap();
            assert_eq!(version.body, self.bodies[&one.version.etag].1);
            segments(&version.body, &mut named);
        }
        for made in KEYS.iter().flat_map(|key| self.versions(key)) {
            segments(&self.bodies[&made.etag].1, &mut named);
        }
        let rows = read::segments(&self.map, VOLUME, None, 100_000).unwrap();
        let counted: BTreeMap<SegmentId, u64> = rows.iter().map(|found| (found.segment, found.row.refs)).collect();
        assert_eq!(counted, named);
        let garbage = read::garbage(&self.map, VOLUME, None, 100_000).unwrap();
        assert_eq!(garbage.len() + counted.len(), self.known.len(), "each is used or freed");
    }
}

#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    key: usize,
    pick: usize,
}

fn step() -> impl Strategy<Value = Step> {
    (0..100_u8, 0..KEYS.len(), 0..1000_usize).prop_map(|(kind, key, pick)| Step { kind, key, pick })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_can_be_had_back_until_it_expires_and_nothing_of_it_is_garbage(
        steps in prop::collection::vec(step(), 1..120), versioning in 0..3_u8
    ) {
        let mut world = World::new();
        if versioning > 0 {
            world.try_run(&Command::SetVersioning(Versioning::Enabled)).unwrap();
        }
        for step in &steps {
            let key = KEYS[step.key];
            match step.kind {
                0..55 => world.put(key),
                55..72 => world.delete(key, None),
                72..78 if versioning == 2 => {
                    let state = if step.pick % 2 == 0 { Versioning::Suspended } else { Versioning::Enabled };
                    world.try_run(&Command::SetVersioning(state)).unwrap();
                }
                72..80 => {
                    let query = ListQuery { limit: 1000, prefix: key.into(), ..ListQuery::default() };
                    let page = read::list_versions(&world.map, VOLUME, &query).unwrap();
                    let ids: Vec<VersionId> = page.entries.into_iter().filter_map(|entry| match entry {
                        read::Entry::Item(item) if item.key == key => Some(item.version.id),
                        _ => None,
                    }).collect();
                    if !ids.is_empty() {
                        world.delete(key, Some(ids[step.pick % ids.len()]));
                    }
                }
                80..92 => world.undelete(step.pick),
                _ => world.expire(world.now - (step.pick as u64 % 400)),
            }
            world.check();
        }
        // Once the window has passed it is gone for good.
        world.expire(world.now);
        world.check();
        assert_eq!(world.all(), []);
        // And a volume that is shut with what is left is reopened as it was, or emptied to the last row.
        world.try_run(&Command::Shut).unwrap();
        let put = Command::Delete { key: "a".into(), version: None, condition: Condition::default() };
        assert_eq!(world.try_run(&put), Err(Error::Closed));
        world.try_run(&Command::Reopen).unwrap();
        world.check();
        world.delete("a", None);
        assert_eq!(world.try_run(&Command::Empty), Err(Error::NotEmpty), "only what was shut is emptied");
        world.try_run(&Command::Shut).unwrap();
        while world.try_run(&Command::Empty).unwrap().size > 0 {}
        assert!(undo::is_empty(&world.map, VOLUME).unwrap());
        let left: BTreeSet<u8> = world.map.keys().filter(|key| key[..4] == VOLUME.0.to_be_bytes()).map(|key| key[4]).collect();
        assert!(left.iter().all(|table| b"GHT".contains(table)), "{:?}", left);
        let garbage = read::garbage(&world.map, VOLUME, None, 100_000).unwrap();
        assert_eq!(garbage.len(), world.known.len(), "all is freed");
        let stats = read::stats(&world.map, VOLUME).unwrap();
        assert_eq!((stats.objects, stats.bytes, stats.versions, stats.version_bytes), (0, 0, 0, 0));
    }
}

#[test]
fn without_a_window_nothing_is_kept_and_no_row_is_written() {
    let mut world = World::new();
    let none = undo::set_window(&world.map, 0).unwrap();
    base::kv::apply(&mut world.map, &none);
    world.put("a");
    world.try_run(&Command::Delete { key: "a".into(), version: None, condition: Condition::default() }).unwrap();
    assert_eq!(world.all(), []);
    assert!(world.map.keys().all(|key| !b"WXYZ".contains(&key[4])));
}

#[test]
fn a_pack_that_holds_what_was_deleted_can_be_emptied() {
    let mut world = World::new();
    world.put("a");
    let [one] = &world.versions("a")[..] else { panic!() };
    let (size, from) = world.bodies[&one.etag].clone();
    assert!(matches!(from, Body::Packed(..)));
    world.delete("a", None);
    world.put("a");
    let slot = Slot { index: 0, offset: 0, len: 116 };
    let to = Body::Packed(segment(5_000_000, 400), slot);
    let (key, version) = ("a".to_owned(), VersionId::NULL);
    world.try_run(&Command::Rebody { key, version, from, to: to.clone() }).unwrap();
    let all = world.all();
    let moved = undo::deleted(&world.map, VOLUME, "a", all[0].ord).unwrap().unwrap();
    assert_eq!((moved.size, moved.body), (size, to));
    assert_eq!(read::garbage(&world.map, VOLUME, None, 10).unwrap().len(), 1, "the old pack is free");
}

#[test]
fn what_the_window_has_passed_for_goes_by_the_shards_own_clock() {
    let mut world = World::new();
    world.put("a");
    world.delete("a", None);
    world.now += 500;
    world.put("a");
    world.delete("a", None);
    world.now += 500;
    let expire = Command::Expire { by: None, key: None };
    assert_eq!(world.try_run(&expire).unwrap().size, 1, "the window is a second");
    assert_eq!(world.all().len(), 1);
    // Whoever shortened it to nothing wants nothing kept.
    let none = undo::set_window(&world.map, 0).unwrap();
    base::kv::apply(&mut world.map, &none);
    assert_eq!(world.try_run(&expire).unwrap().size, 1);
    assert_eq!(world.all(), []);
}
