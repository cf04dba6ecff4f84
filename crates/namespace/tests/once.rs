//! A work is done once, however often it arrives, whatever comes between, whatever clocks do.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base::kv::Batch;
use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use namespace::read::{self, ListQuery};
use namespace::work::{self, DONE_KEPT_MINUTES, Work};
use namespace::*;
use proptest::prelude::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const MINUTE: u64 = 60_000;
const START: u64 = 1_000_000 * MINUTE;

fn put(key: &str, number: u8, condition: Condition) -> Command {
    let body = Body::Inline(vec![number; 70]);
    let new = NewVersion { size: 70, etag: format!("e{number}"), attrs: Attrs::new(), body };
    Command::Put { key: key.into(), new, condition }
}

fn absent() -> Condition {
    Condition { if_none_match: Some(vec!["*".into()]), ..Condition::default() }
}

fn new_work(number: u8, made: u64, command: Command) -> Work {
    Work { id: [number; 16], made: Wall(made), volume: VolumeId(1 + u32::from(number % 2)), command, notes: vec![] }
}

fn commit(map: &mut Map, result: Result<(Batch, Outcome), Error>) -> Result<Outcome, Error> {
    let (batch, outcome) = result?;
    base::kv::apply(map, &batch);
    Ok(outcome)
}

fn once(map: &mut Map, work: &Work, now: u64) -> Result<Outcome, Error> {
    let result = work::evaluate_once(map, work, Wall(now));
    commit(map, result)
}

fn forget(map: &mut Map, now: u64) -> Batch {
    let batch = work::forget_done(map, Wall(now)).unwrap();
    base::kv::apply(map, &batch);
    batch
}

/// The rows of volumes; those of volume 0 say what was done.
fn volumes(map: &Map) -> Map {
    map.iter().filter(|(key, _)| key[..4] != [0; 4]).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn done_rows(map: &Map) -> usize {
    map.keys().filter(|key| key[..5] == *b"\0\0\0\0O").count()
}

#[test]
fn a_put_that_was_done_is_answered_with_its_outcome_though_its_condition_no_longer_holds() {
    let mut map = Map::new();
    let work = new_work(2, START, put("k", 1, absent()));
    let first = once(&mut map, &work, START).unwrap();
    let after = map.clone();
    assert_eq!(once(&mut map, &work, START + 5 * MINUTE), Ok(first));
    assert_eq!(map, after, "nothing was written");
    let other = Work { id: [99; 16], ..work };
    assert_eq!(once(&mut map, &other, START), Err(Error::Precondition { what: "if-none-match" }));
    assert_eq!(map, after, "a refusal is not remembered");
}

#[test]
fn a_delete_of_nothing_that_comes_again_deletes_nothing_that_came_later() {
    let mut map = Map::new();
    let delete = Command::Delete { key: "k".into(), version: None, condition: Condition::default() };
    let work = new_work(2, START, delete);
    once(&mut map, &work, START).unwrap();
    once(&mut map, &new_work(4, START, put("k", 1, Condition::default())), START).unwrap();
    once(&mut map, &work, START).unwrap();
    assert!(read::head(&map, VolumeId(1), "k", None, false).is_ok());
}

#[test]
fn a_refused_work_that_comes_again_is_evaluated_anew() {
    let mut map = Map::new();
    let matching = Condition { if_match: Some(vec!["*".into()]), ..Condition::default() };
    let work = new_work(2, START, put("k", 2, matching));
    assert_eq!(once(&mut map, &work, START), Err(Error::NoSuchKey));
    once(&mut map, &new_work(4, START, put("k", 1, Condition::default())), START).unwrap();
    assert_eq!(once(&mut map, &work, START).unwrap().etag, "e2");
}

#[test]
fn what_was_done_is_forgotten_after_a_while_and_then_refused() {
    let mut map = Map::new();
    let work = new_work(2, START, put("k", 1, Condition::default()));
    let first = once(&mut map, &work, START).unwrap();
    assert!(forget(&mut map, START + DONE_KEPT_MINUTES * MINUTE).is_empty(), "not yet");
    assert_eq!(once(&mut map, &work, START + DONE_KEPT_MINUTES * MINUTE), Ok(first));
    let later = START + (DONE_KEPT_MINUTES + 1) * MINUTE;
    let batch = forget(&mut map, later);
    assert_eq!(
        (batch.range_dels.len(), batch.puts.len(), batch.dels.len()),
        (1, 1, 0),
        "one deletion, whatever there is"
    );
    assert_eq!(done_rows(&map), 0);
    assert!(forget(&mut map, later).is_empty(), "nothing is left to forget");
    let before = map.clone();
    let Err(Error::Stale { made }) = once(&mut map, &work, later) else { panic!("old work was taken") };
    assert_eq!(map, before);
    once(&mut map, &Work { made, id: [3; 16], ..work }, later).unwrap();
}

#[test]
fn work_of_a_clock_that_is_wrong_is_told_the_time_to_take() {
    let mut map = Map::new();
    for made in [START + 16 * MINUTE, u64::MAX] {
        let work = new_work(2, made, put("k", 1, Condition::default()));
        let Err(Error::Stale { made }) = once(&mut map, &work, START) else { panic!("{made} was taken") };
        assert_eq!(made, Wall(START));
        assert!(work::evaluate_once(&map, &Work { made, ..work }, Wall(START)).is_ok());
    }
    // A clock that is behind does no harm as long as nothing was forgotten.
    once(&mut map, &new_work(4, 0, put("k", 1, Condition::default())), START).unwrap();
}

#[test]
fn a_leader_whose_clock_is_years_ahead_stops_nobody() {
    let mut map = Map::new();
    once(&mut map, &new_work(2, START, put("k", 1, Condition::default())), START).unwrap();
    forget(&mut map, START * 2);
    forget(&mut map, u64::MAX);
    // The next leader's clock is right.
    let work = new_work(4, START, put("k", 2, Condition::default()));
    let Err(Error::Stale { made }) = once(&mut map, &work, START) else { panic!("it may have been done") };
    assert!(made.0 <= START + MINUTE, "work goes on within a minute");
    once(&mut map, &Work { made, id: [5; 16], ..work }, START).unwrap();
}

#[test]
fn notes_are_merged_with_what_is_noted_and_are_nothing_else() {
    let mut map = Map::new();
    let (segment, policy, group) = (SegmentId([7; 16]), PolicyId(1), GroupId(2));
    let note = |missing: &[u8]| Command::NoteMissing { segment, policy, group, missing: missing.to_vec() };
    let (k, m, root, wrapped_key) = (4, 2, [0; 32], [0; 48]);
    let body = Body::Segments(vec![SegmentRef { id: segment, policy, group, k, m, len: 9, root, wrapped_key }]);
    let new = NewVersion { size: 9, etag: "e".into(), attrs: Attrs::new(), body };
    let command = Command::Put { key: "k".into(), new, condition: Condition::default() };
    let work = Work { notes: vec![note(&[5])], ..new_work(2, START, command) };
    let noted = apply(&map, work.volume, &note(&[1]), Wall(START));
    commit(&mut map, noted).unwrap();
    once(&mut map, &work, START).unwrap();
    assert_eq!(read::missing_note(&map, work.volume, segment).unwrap().unwrap().missing, [1, 5]);
    assert_eq!(read::missing_note(&map, work.volume, SegmentId([8; 16])), Ok(None));
    let bad = Work { notes: vec![Command::Close], id: [3; 16], ..work };
    assert!(matches!(once(&mut map, &bad, START), Err(Error::InvalidValue { what: "note", .. })));
}

#[derive(Clone, Debug)]
enum Step {
    /// The work of this number arrives, for the first time or again.
    Arrives(u8),
    Forget,
    /// So many seconds pass, by a clock that may go back.
    Clock(i32),
}

fn command(number: u8) -> Command {
    let key = ["a", "a/b", "c"][usize::from(number / 2 % 3)];
    let exists = Condition { if_match: Some(vec!["*".into()]), ..Condition::default() };
    match number / 6 % 6 {
        0 => put(key, number, Condition::default()),
        1 => put(key, number, absent()),
        2 => put(key, number, exists),
        3 => Command::Delete { key: key.into(), version: None, condition: Condition::default() },
        4 if number.is_multiple_of(3) => Command::SetVersioning(Versioning::Enabled),
        4 => Command::SetAttrs {
            key: key.into(),
            version: None,
            set: vec![("t".into(), Some(vec![number]))],
            condition: Condition::default(),
        },
        _ => Command::SetConfig { name: "c".into(), value: Some(vec![number]) },
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..40u8).prop_map(Step::Arrives),
        1 => Just(Step::Forget),
        2 => (-300..900i32).prop_map(Step::Clock),
        1 => (-100_000..100_000i32).prop_map(Step::Clock),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn repeated_works_give_the_state_and_the_outcomes_of_once(steps in steps()) {
        let (mut map, mut model) = (Map::new(), Map::new());
        let (mut made, mut done): (BTreeMap<u8, u64>, BTreeMap<u8, Outcome>) = Default::default();
        let mut now = START;
        for step in steps {
            match step {
                Step::Clock(secs) => now = now.saturating_add_signed(i64::from(secs) * 1000),
                Step::Forget => {
                    forget(&mut map, now);
                }
                Step::Arrives(number) => {
                    let work = new_work(number, *made.entry(number).or_insert(now), command(number));
                    let result = once(&mut map, &work, now);
                    match (&result, done.get(&number)) {
                        // Never done now, never done later under this id and time.
                        (Err(Error::Stale { .. }), _) => continue,
                        (_, Some(first)) => prop_assert_eq!(&result, &Ok(first.clone())),
                        (_, None) => {
                            let evaluated = work::evaluate(&model, &work, Wall(now));
                            let wanted = commit(&mut model, evaluated);
                            prop_assert_eq!(&result, &wanted);
                            done.extend(result.ok().map(|outcome| (number, outcome)));
                        }
                    }
                }
            }
            prop_assert_eq!(volumes(&map), model.clone());
            prop_assert!(done_rows(&map) <= done.len());
        }
        let query = ListQuery { limit: 100, ..ListQuery::default() };
        for volume in [VolumeId(1), VolumeId(2)] {
            prop_assert_eq!(read::list_versions(&map, volume, &query), read::list_versions(&model, volume, &query));
        }
    }
}
