//! Rules that run where the rows are not decide as if they were.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base::kv::{Batch, Row, View, ViewError};
use base::{Kind, Seq, VolumeId, Wall};
use codec::Versioned;
use metastore::remote::{Proposal, Read, ReadSet, Recorded, Recorder, Rows, Wants, collect};
use namespace::read::{self, ListQuery};
use namespace::wire::Query;
use namespace::{Attrs, Body, Command, Condition, NewVersion, Versioning};
use proptest::prelude::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// One step of a random rule: what it reads depends on what it has read.
#[derive(Clone, Debug)]
enum Step {
    Get(Vec<u8>),
    Range {
        start: Vec<u8>,
        end: Vec<u8>,
        limit: usize,
        reverse: bool,
    },
    /// The row whose key is the last value that was seen, and a byte.
    Follow(u8),
    /// From the last key that was seen on.
    Further {
        limit: usize,
        reverse: bool,
    },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..4u8, 0..4)
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![0..6usize, Just(usize::MAX), Just(1000usize)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        key().prop_map(Step::Get),
        (key(), key(), limit(), any::<bool>()).prop_map(|(start, end, limit, reverse)| Step::Range {
            start,
            end,
            limit,
            reverse
        }),
        (0..4u8).prop_map(Step::Follow),
        (limit(), any::<bool>()).prop_map(|(limit, reverse)| Step::Further { limit, reverse }),
    ]
}

fn map() -> impl Strategy<Value = Map> {
    prop::collection::btree_map(key(), key(), 0..40)
}

fn rule() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..12)
}

/// All that the rule sees; so whatever it decides is a function of it.
fn run(steps: &[Step], view: &dyn View) -> Result<Vec<Vec<Row>>, ViewError> {
    let (mut seen, mut last): (Vec<Vec<Row>>, Row) = Default::default();
    for step in steps {
        let get = |key: Vec<u8>| Read::Get { key }.of(view);
        let rows: Vec<Row> = match step {
            Step::Get(key) => get(key.clone())?,
            Step::Follow(byte) => get([last.1.as_slice(), &[*byte]].concat())?,
            Step::Range { start, end, limit, reverse } => {
                view.range(start.as_slice()..end.as_slice(), *limit, *reverse)?
            }
            Step::Further { limit, reverse } if *reverse => view.range(&[]..&last.0, *limit, true)?,
            Step::Further { limit, .. } => view.range(&last.0..&[9], *limit, false)?,
        };
        last = rows.last().cloned().unwrap_or_default();
        seen.push(rows);
    }
    Ok(seen)
}

fn again<T: Versioned + PartialEq + std::fmt::Debug>(value: &T) -> T {
    let read = T::decode(&value.encode()).unwrap();
    assert_eq!(read, *value);
    read
}

/// Asks until nothing is wanted; the map may change between two requests. Gives the cut of the answer.
fn remotely<T>(maps: &[Map], rule: impl Fn(&dyn View) -> T) -> (usize, T) {
    let (mut wants, mut rows) = (Wants::new(), Rows::new(Seq(0)));
    for round in 0.. {
        match rows.run(&rule) {
            Ok(result) => return (rows.at().0 as usize, result),
            Err(more) => {
                assert!(!more.is_empty());
                wants.extend(more).unwrap();
                let at = round.min(maps.len() - 1);
                rows = again(&collect(&maps[at], Seq(at as u64), &again(&wants)).unwrap());
            }
        }
        assert!(round < 1000, "the rule never has all that it wants");
    }
    unreachable!()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_rule_run_remotely_sees_one_cut_of_the_map(maps in prop::collection::vec(map(), 1..4), steps in rule()) {
        let (at, seen) = remotely(&maps, |view| run(&steps, view));
        prop_assert_eq!(seen.unwrap(), run(&steps, &maps[at]).unwrap());
    }

    /// What a recorder recorded is all that the same rule needs; anything else is answered rightly or not at all.
    #[test]
    fn recorded_rows_answer_the_rule_and_never_wrongly(map in map(), steps in rule(), others in rule()) {
        let recorder = Recorder::new(&map, Seq(7));
        let direct = run(&steps, &recorder).unwrap();
        let rows = again(&recorder.rows());
        prop_assert_eq!(rows.at(), Seq(7));
        prop_assert_eq!(rows.run(|view| run(&steps, view)).unwrap().unwrap(), direct);
        for other in others {
            let steps = [other];
            let view = Recorded::new(&rows);
            let found = run(&steps, &view);
            // What it wants besides tells that what it found is worth nothing.
            if view.wants().is_empty() {
                prop_assert_eq!(found.unwrap(), run(&steps, &map).unwrap());
            }
        }
    }

    #[test]
    fn a_get_within_a_range_that_was_read_whole_is_answered(map in map(), start in key(), end in key(), at in key()) {
        let recorder = Recorder::new(&map, Seq(1));
        recorder.range(&start..&end, usize::MAX, false).unwrap();
        let rows = recorder.rows();
        let found = rows.run(|view| view.get(&at));
        if start <= at && at < end {
            prop_assert_eq!(found.unwrap().unwrap(), map.get(&at).cloned());
        } else {
            let wants: Vec<Read> = found.unwrap_err().iter().cloned().collect();
            prop_assert_eq!(wants, vec![Read::Get { key: at }]);
        }
    }

    #[test]
    fn a_stale_read_set_never_holds_if_the_rule_would_see_otherwise(
        map in map(), steps in rule(), puts in prop::collection::vec((key(), key()), 0..3), dels in prop::collection::vec(key(), 0..3),
    ) {
        let recorder = Recorder::new(&map, Seq(1));
        let seen = run(&steps, &recorder).unwrap();
        let reads = again(&recorder.read_set().unwrap());
        prop_assert!(reads.holds(&map).unwrap(), "nothing changed");
        let mut later = map.clone();
        base::kv::apply(&mut later, &Batch { puts, dels, ..Batch::default() });
        prop_assert_eq!(reads.holds(&later).unwrap(), each_read_is_the_same(&steps, &map, &later));
        if reads.holds(&later).unwrap() {
            prop_assert_eq!(run(&steps, &later).unwrap(), seen);
        }
    }

    #[test]
    fn damaged_messages_are_errors_and_never_panic(
        map in map(), steps in rule(), at in 0..600usize, with in any::<u8>(), cut in 0..1000usize, noise in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let recorder = Recorder::new(&map, Seq(1));
        run(&steps, &recorder).unwrap();
        let rows = recorder.rows();
        let recorder = Recorder::new(&map, Seq(1));
        run(&steps, &recorder).unwrap();
        let mut batch = Batch::default();
        batch.put("k", noise.clone()).del("d").event("e");
        let reads = recorder.read_set().unwrap();
        let proposal = again(&Proposal { reads: reads.clone(), batch });
        for mut bytes in [rows.encode(), proposal.encode(), reads.encode(), noise] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            bytes.truncate(cut);
            bytes.resize(bytes.len().max(5), 1);
            for mark in [Rows::MARK, Wants::MARK, ReadSet::MARK, Proposal::MARK] {
                bytes[..4].copy_from_slice(&mark);
                bytes[4] = 1;
                if let Ok(rows) = Rows::decode(&bytes) {
                    prop_assert_eq!(rows.encode(), bytes.clone());
                    let _ = rows.run(|view| run(&steps, view));
                }
                let _ = Wants::decode(&bytes).map(|wants| collect(&map, Seq(1), &wants));
                let _ = ReadSet::decode(&bytes).map(|reads| reads.holds(&map));
                let _ = Proposal::decode(&bytes);
            }
        }
    }
}

/// What a read set must say, asked of the maps themselves.
fn each_read_is_the_same(steps: &[Step], map: &Map, later: &Map) -> bool {
    struct Both<'a>(&'a Map, &'a Map, std::cell::Cell<bool>);
    impl View for Both<'_> {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
            let (one, other) = (View::get(self.0, key)?, View::get(self.1, key)?);
            self.2.set(self.2.get() && one == other);
            Ok(one)
        }

        fn range(&self, range: std::ops::Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
            let one = View::range(self.0, range.clone(), limit, reverse)?;
            self.2.set(self.2.get() && one == View::range(self.1, range, limit, reverse)?);
            Ok(one)
        }
    }
    let both = Both(map, later, std::cell::Cell::new(true));
    run(steps, &both).unwrap();
    both.2.get()
}

#[test]
fn what_was_not_fetched_is_told_apart_from_what_is_not_there() {
    let map = Map::from([(b"a".to_vec(), b"1".to_vec())]);
    let mut wants = Wants::new();
    wants.add(Read::Get { key: b"none".to_vec() }).unwrap();
    let rows = collect(&map, Seq(1), &wants).unwrap();
    assert_eq!(rows.run(|view| view.get(b"none")).unwrap().unwrap(), None);
    assert!(rows.run(|view| view.get(b"a")).is_err());
    let view = Recorded::new(&rows);
    assert_eq!(view.get(b"a").unwrap(), None, "a rule goes on, to want all that it needs at once");
    assert_eq!(view.wants().iter().collect::<Vec<_>>(), [&Read::Get { key: b"a".to_vec() }]);
}

#[test]
fn a_set_with_an_unlimited_range_is_checked_by_reading_little() {
    let few = Map::from([(b"a".to_vec(), vec![]), (b"b".to_vec(), vec![])]);
    let recorder = Recorder::new(&few, Seq(1));
    recorder.range(b"".as_slice()..b"z", usize::MAX, false).unwrap();
    let reads = recorder.read_set().unwrap();
    let many: Map = (0..1000u32).map(|number| (number.to_be_bytes().to_vec(), vec![])).collect();
    let recorder = Recorder::new(&many, Seq(2));
    assert!(!reads.holds(&recorder).unwrap());
    assert_eq!(recorder.rows().len(), 3, "one more than it had found");
}

#[test]
fn rows_that_no_message_holds_are_refused_while_they_are_read() {
    let large: Map = (0..40u32).map(|number| (number.to_be_bytes().to_vec(), vec![7; 1 << 20])).collect();
    let recorder = Recorder::new(&large, Seq(1));
    assert_eq!(recorder.range(&[]..&[9], 40, false).unwrap_err().kind, Kind::Invalid);
    let mut wants = Wants::new();
    wants.add(Read::range(&[]..&[9], usize::MAX, true)).unwrap();
    assert_eq!(collect(&large, Seq(1), &wants).unwrap_err().kind, Kind::Invalid);
    let mut wants = Wants::new();
    wants.add(Read::range(&[]..&[9], 15, true)).unwrap();
    let rows = collect(&large, Seq(1), &wants).unwrap();
    assert!(Rows::decode(&rows.encode()).unwrap() == rows);
    assert_eq!((rows.len(), rows.is_empty()), (15, false));
}

/// Bytes of every message as they were released.
#[test]
fn messages_have_the_bytes_that_were_released() {
    fn check<T: Versioned + PartialEq + std::fmt::Debug>(text: &str, value: &T) {
        assert_eq!(base::ids::hex(&value.encode()), text.trim());
        again(value);
        let mut bytes = value.encode();
        for cut in 0..bytes.len() {
            assert!(T::decode(&bytes[..cut]).is_err(), "{cut} of {} bytes are not enough", bytes.len());
        }
        bytes.push(0);
        assert!(T::decode(&bytes).is_err(), "a byte too many");
        bytes.pop();
        bytes[4] += 1;
        assert!(matches!(T::decode(&bytes), Err(codec::Error::Version { .. })), "a newer version");
    }
    let map = Map::from([(b"ab".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"22".to_vec()), (b"c".to_vec(), vec![])]);
    let mut wants = Wants::new();
    for read in [
        Read::Get { key: b"b".to_vec() },
        Read::Get { key: b"none".to_vec() },
        Read::range(b"a".as_slice()..b"b", 9, false),
        Read::range(b"bb".as_slice()..b"z", 1, true),
    ] {
        wants.add(read).unwrap();
    }
    let mut batch = Batch::default();
    batch.put("k", "v").del("d").event("e");
    batch.range_dels.push(b"r".to_vec()..b"s".to_vec());
    let reads = ReadSet::of(&map, &wants).unwrap();
    check(include_str!("fixtures/remote_wants_v1.hex"), &wants);
    check(include_str!("fixtures/remote_rows_v1.hex"), &collect(&map, Seq(5), &wants).unwrap());
    check(include_str!("fixtures/remote_reads_v1.hex"), &reads);
    check(include_str!("fixtures/remote_proposal_v1.hex"), &Proposal { reads, batch });
}

const VOLUME: VolumeId = VolumeId(3);

fn volume(keys: &[String]) -> Map {
    let mut map = Map::new();
    let mut run = |command| {
        let (batch, _) = namespace::apply(&map, VOLUME, &command, Wall(1)).unwrap();
        base::kv::apply(&mut map, &batch);
    };
    run(Command::SetVersioning(Versioning::Enabled));
    for key in keys {
        let size = key.len() as u64 * 50;
        let (etag, body) = ("e".to_owned(), Body::Inline(vec![1; size as usize]));
        let new = NewVersion { size, etag, attrs: Attrs::from([("a".to_owned(), vec![2; 300])]), body };
        run(Command::Put { key: key.clone(), new, condition: Condition::default() });
    }
    map
}

proptest! {
    /// The owner runs a query over a recorder; who asked runs the read itself on what came, and wants nothing more.
    #[test]
    fn a_query_brings_all_rows_that_its_read_needs(
        keys in prop::collection::vec("[ab/]{1,4}", 0..20), key in "[ab/]{1,4}", prefix in "[ab/]{0,2}", limit in 0..9usize,
    ) {
        let map = volume(&keys);
        let list = ListQuery { prefix, delimiter: "/".into(), attrs: Some(&["a"]), limit, ..ListQuery::default() };
        let ask = |query: Query| {
            let query = Query::decode(&query.encode()).unwrap();
            let recorder = Recorder::new(&map, Seq(1));
            let refused = query.run(&recorder, VOLUME).is_err();
            (refused, again(&recorder.rows()))
        };
        let head = |view: &dyn View| read::head(view, VOLUME, &key, None, true);
        let (refused, rows) = ask(Query::Head { key: key.clone(), version: None, with_body: true });
        prop_assert_eq!(rows.run(head).unwrap(), head(&map));
        prop_assert_eq!(refused, head(&map).is_err());
        let page = |view: &dyn View| read::list(view, VOLUME, &list);
        prop_assert_eq!(ask(Query::List(list.clone())).1.run(page).unwrap(), page(&map));
        let page = |view: &dyn View| read::list_versions(view, VOLUME, &list);
        prop_assert_eq!(ask(Query::ListVersions(list.clone())).1.run(page).unwrap(), page(&map));
        let state = |view: &dyn View| read::versioning(view, VOLUME);
        prop_assert_eq!(ask(Query::Versioning).1.run(state).unwrap(), state(&map));
    }

    /// A command that was evaluated on an old replica is committed only if it would still be the same.
    #[test]
    fn a_proposal_on_old_rows_is_committed_only_if_it_still_stands(
        keys in prop::collection::vec("[ab/]{1,4}", 0..10), more in prop::collection::vec("[ab/]{1,4}", 0..2), key in "[ab/]{1,4}",
    ) {
        let (old, new) = (volume(&keys), volume(&[keys.clone(), more].concat()));
        let command = Command::Delete { key, version: None, condition: Condition::default() };
        let recorder = Recorder::new(&old, Seq(1));
        let (batch, _) = namespace::apply(&recorder, VOLUME, &command, Wall(9)).unwrap();
        let proposal = again(&Proposal { reads: recorder.read_set().unwrap(), batch });
        prop_assert!(proposal.reads.holds(&old).unwrap());
        if proposal.reads.holds(&new).unwrap() {
            prop_assert_eq!(namespace::apply(&new, VOLUME, &command, Wall(9)).unwrap().0, proposal.batch);
        }
    }
}
