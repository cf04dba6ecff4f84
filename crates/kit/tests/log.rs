//! What a kit's log promises: a crash loses its end alone, and nothing else goes unnoticed.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use codec::Versioned;
use common::{Dice, MIB, VOLUME, everything, log_of, object, put, root, segment};
use crypt::VolumeRoot;
use kit::change::{decode, encode};
use kit::{Body, Change, Error, Log, Object, Seen, Span, State};
use proptest::prelude::*;

#[test]
fn a_log_cut_at_any_byte_is_what_was_whole_by_then() {
    let (bytes, _, ends) = log_of(1, 4);
    for cut in 0..=bytes.len() {
        let opened = Log::open(&root(), &bytes[..cut], None);
        match ends.iter().rev().find(|(end, _)| *end <= cut) {
            None => assert!(matches!(opened, Err(Error::Damaged { .. })), "no base yet, at {cut}"),
            Some((end, state)) => {
                let opened = opened.unwrap();
                assert_eq!((opened.log.state(), opened.cut), (state, cut - end), "cut at {cut}");
                assert_eq!(opened.log.len(), *end as u64, "goes on from there");
            }
        }
    }
}

#[test]
fn a_log_goes_on_after_a_crash() {
    let (bytes, _, ends) = log_of(2, 4);
    let (end, _) = ends[3];
    let mut opened = Log::open(&root(), &bytes[..end + 40], None).unwrap();
    assert_eq!(opened.cut, 40);
    let mut bytes = bytes[..opened.log.len() as usize].to_vec();
    let change = put("after", object(500, 5, 2, Body::Inline(b"ok".to_vec())));
    bytes.extend(opened.log.append(vec![change], || [77; 16]).unwrap());
    let again = Log::open(&root(), &bytes, Some(&opened.log.seen())).unwrap();
    assert_eq!(again.log.state(), opened.log.state());
    assert_eq!(again.log.state().get("after").unwrap().size, 2);
    assert!(again.log.state().get("new/1").is_some() && again.log.state().get("new/3").is_none());
}

#[test]
fn every_changed_byte_is_noticed_up_to_the_last_frame_seen_and_harmless_behind() {
    let (bytes, log, ends) = log_of(3, 3);
    let seen = log.seen();
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        let checked = Log::open(&root(), &wrong, Some(&seen));
        assert!(checked.is_err(), "changed at {at}");
        assert!(!matches!(checked, Err(Error::RolledBack { .. } | Error::Forked { .. })), "it is no rollback: {at}");
        if let Ok(opened) = Log::open(&root(), &wrong, None) {
            let (_, state) = ends.iter().rev().find(|(end, _)| *end <= at).unwrap();
            assert_eq!(opened.log.state(), state, "what comes before {at} and no more");
        }
    }
}

#[test]
fn a_whole_frame_that_is_not_the_owners_is_tampering() {
    let (bytes, _, ends) = log_of(4, 3);
    let (start, end) = (ends[1].0, ends[2].0);
    // Somebody who knows the format but no key: the checksum is right.
    for at in (start..end - 8).step_by(7) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        let crc = codec::crc64(&wrong[start..end - 8]);
        wrong[end - 8..end].copy_from_slice(&crc.to_le_bytes());
        if at - start < 4 {
            continue;
        }
        let tampered = Error::Tampered { number: 2, offset: start as u64 };
        assert_eq!(Log::open(&root(), &wrong, None).unwrap_err(), tampered, "at {at}");
    }
    // A frame left out, or one twice.
    let without = [&bytes[..start], &bytes[end..]].concat();
    assert!(matches!(Log::open(&root(), &without, None), Err(Error::Tampered { number: 2, .. })));
    let twice = [&bytes[..end], &bytes[start..end]].concat();
    assert!(matches!(Log::open(&root(), &twice, None), Err(Error::Tampered { number: 3, .. })));
}

#[test]
fn rollback_fork_and_another_log_are_told_apart() {
    let (bytes, log, ends) = log_of(5, 3);
    let seen = log.seen();
    assert_eq!(Seen::decode(&seen.encode()).unwrap(), seen);
    assert_eq!(Log::open(&root(), &bytes, Some(&seen)).unwrap().cut, 0);

    let rolled = Error::RolledBack { seen: 3, seen_generation: 1, found: 2, found_generation: 1 };
    assert_eq!(Log::open(&root(), &bytes[..ends[2].0], Some(&seen)).unwrap_err(), rolled);
    let cut_within = Log::open(&root(), &bytes[..ends[2].0 + 9], Some(&seen)).unwrap_err();
    assert_eq!(cut_within, Error::Damaged { number: 3, offset: ends[2].0 as u64 });

    let mut other = Log::open(&root(), &bytes[..ends[2].0], None).unwrap().log;
    let change = put("other", object(1, 1, 0, Body::Inline(Vec::new())));
    let fork = [&bytes[..ends[2].0], &other.append(vec![change], || [1; 16]).unwrap()].concat();
    assert_eq!(Log::open(&root(), &fork, Some(&seen)).unwrap_err(), Error::Forked { number: 3 });

    let (elsewhere, _) = Log::create(&root(), VOLUME, [8; 16], State::default(), || [1; 16]).unwrap();
    assert_eq!(Log::open(&root(), &elsewhere, Some(&seen)).unwrap_err(), Error::OtherLog);
    let stranger = VolumeRoot::new([9; 32]);
    let found = root().signing_key().public();
    assert_eq!(Log::open(&stranger, &bytes, None).unwrap_err(), Error::OtherVolume { found });
}

#[test]
fn generations_follow_each_other_and_an_older_one_is_a_rollback() {
    let (old, log, _) = log_of(6, 3);
    let seen = log.seen();
    let state = log.state().clone();
    let mut salts = Dice(9);
    let (new, next) = log.compact(|| salts.bytes()).unwrap();
    assert_eq!(next.state(), &state);
    let opened = Log::open(&root(), &new, Some(&seen)).unwrap();
    assert_eq!(opened.log.state(), &state, "what was seen before fits: a crash may come between file and note");
    let rolled = Error::RolledBack { seen: next.seen().number, seen_generation: 2, found: 0, found_generation: 1 };
    assert_eq!(Log::open(&root(), &old, Some(&next.seen())).unwrap_err(), rolled);
    let later = Seen { number: seen.number + 1, ..seen };
    assert!(matches!(Log::open(&root(), &new, Some(&later)), Err(Error::RolledBack { .. })), "compacted from less");
    let other = Seen { chain: [0; 32], ..seen };
    assert_eq!(Log::open(&root(), &new, Some(&other)).unwrap_err(), Error::Forked { number: 3 });
}

#[test]
fn a_log_stays_within_twice_its_base() {
    let mut dice = Dice(7);
    let mut salts = Dice(8);
    let (mut bytes, mut log) = Log::create(&root(), VOLUME, [9; 16], State::default(), || salts.bytes()).unwrap();
    let mut compactions = 0;
    for round in 0..3000u64 {
        let path = format!("folder/{}", dice.below(300));
        let len = 1 + dice.below(MIB);
        let body = Body::Segments(vec![segment(&mut dice, len)]);
        let mut fresh = object(round + 1, round, len, body);
        fresh.null = true;
        bytes.extend(log.append(vec![put(&path, fresh)], || salts.bytes()).unwrap());
        if log.wants_compaction() {
            (bytes, log) = log.compact(|| salts.bytes()).unwrap();
            compactions += 1;
        }
        assert_eq!(bytes.len() as u64, log.len());
    }
    let opened = Log::open(&root(), &bytes, Some(&log.seen())).unwrap();
    assert_eq!(opened.log.state(), log.state());
    let (least, _) = log.compact(|| salts.bytes()).unwrap();
    let bound = 2 * least.len() + 64 * 1024 + 1024;
    assert!(bytes.len() <= bound, "{} bytes, at least {} are needed", bytes.len(), least.len());
    assert!((3..100).contains(&compactions), "{compactions} compactions");
}

#[test]
fn who_keeps_an_outline_writes_the_same_log() {
    let mut dice = Dice(12);
    let (mut salts, mut other) = (Dice(13), Dice(13));
    let mut truth = State::default();
    let (mut bytes, mut log) = Log::create(&root(), VOLUME, [9; 16], State::default(), || salts.bytes()).unwrap();
    let none = |_: &str, _: &Object| Ok::<_, Error>(None);
    let (first, mut outline) =
        Log::create_outlined(&root(), VOLUME, ([9; 16], 1), State::outline(), || other.bytes(), none).unwrap();
    assert_eq!(first, bytes);
    let mut compactions = 0;
    for round in 0..600u64 {
        let path = format!("folder/{}", dice.below(100));
        let content = vec![dice.below(256) as u8; dice.below(4096) as usize];
        let long = Span { size: content.len() as u64, body: Body::Inline(content.clone()) };
        let short = Span { size: 2, body: Body::Inline(vec![1, 2]) };
        let body = match dice.below(4) {
            0 => Body::Segments(vec![segment(&mut dice, 1 << 20)]),
            1 => Body::Spans(vec![short, long]),
            _ => Body::Inline(content),
        };
        let size = match &body {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Spans(spans) => spans.iter().map(|span| span.size).sum(),
            _ => 1 << 20,
        };
        let mut fresh = object(round + 1, round, size, body);
        fresh.null = dice.below(2) == 0;
        let change = match dice.below(5) {
            0 => Change::Drop { path, version: round.saturating_sub(dice.below(9)) },
            _ => put(&path, fresh),
        };
        truth.apply(change.clone());
        let more = log.append(vec![change.clone()], || salts.bytes()).unwrap();
        assert_eq!(outline.append(vec![change], || other.bytes()).unwrap(), more);
        bytes.extend(more);
        if log.wants_compaction() {
            assert!(outline.wants_compaction());
            (bytes, log) = log.compact(|| salts.bytes()).unwrap();
            let whole = |path: &str, object: &Object| {
                Ok::<_, Error>(truth.versions(path).find(|one| one.version == object.version).cloned())
            };
            let (again, next) = outline.compact_outlined(|| other.bytes(), whole).unwrap();
            assert_eq!(again, bytes, "round {round}");
            (outline, compactions) = (next, compactions + 1);
        }
        let known: Vec<_> = outline.state().versions("folder/7").cloned().collect();
        let outlines: Vec<_> = truth.versions("folder/7").map(|object| object.clone().outline()).collect();
        assert_eq!(known, outlines, "round {round}");
        assert_eq!(outline.state().objects(), truth.list("").count(), "round {round}");
    }
    assert_eq!(Log::open(&root(), &bytes, Some(&outline.seen())).unwrap().log.state(), &truth);
    assert!(compactions > 2, "{compactions} compactions");
}

#[test]
fn what_is_no_more_when_an_outline_is_compacted_is_left_out() {
    let bytes = |byte| Body::Inline(vec![byte; 100]);
    let change = |path: &str, byte| put(path, object(u64::from(byte), 1, 100, bytes(byte)));
    let mut salts = Dice(14);
    let whole = |path: &str, _: &Object| Ok::<_, Error>((path == "left").then(|| object(2, 1, 100, bytes(2))));
    let mut state = State::outline();
    [change("gone", 1), change("left", 2)].into_iter().for_each(|change| state.apply(change));
    let (file, log) = Log::create_outlined(&root(), VOLUME, ([9; 16], 1), state, || salts.bytes(), whole).unwrap();
    let opened = Log::open(&root(), &file, Some(&log.seen())).unwrap().log;
    let listed: Vec<_> = opened.state().list("").map(|(path, object)| (path, object.body.clone())).collect();
    assert_eq!(listed, [("left", bytes(2))]);
}

#[test]
fn a_log_of_an_outline_is_not_written_without_the_bytes_that_it_lacks() {
    let mut salts = Dice(15);
    let mut state = State::outline();
    state.apply(put("small", object(1, 1, 3, Body::Inline(vec![1; 3]))));
    let refused = Log::create(&root(), VOLUME, [9; 16], state, || salts.bytes()).map(drop);
    assert_eq!(refused.unwrap_err(), Error::Outline);
    let mut state = State::outline();
    let len = 1 + Dice(16).below(MIB);
    state.apply(put("large", object(1, 1, len, Body::Segments(vec![segment(&mut Dice(17), len)]))));
    Log::create(&root(), VOLUME, [9; 16], state, || salts.bytes()).unwrap();
}

/// Bytes a segment beyond names, of a kit with `objects` objects of `each` segments, from its log's bytes.
fn bytes_a_segment(objects: u64, each: u64) -> f64 {
    let mut dice = Dice(10);
    let changes: Vec<Change> = (0..objects)
        .map(|at| {
            let size = (each - 1) * 64 * MIB + 1 + dice.below(64 * MIB);
            let last = size - (each - 1) * 64 * MIB;
            let segments = (0..each).map(|i| segment(&mut dice, if i + 1 == each { last } else { 64 * MIB })).collect();
            // A year of writes at any time of it, in any order of paths.
            let path = format!("folder {}/{:016x}.jpg", dice.below(100), dice.roll());
            let modified = 1_795_000_000_000 + at * (365 * 86_400_000 / objects) + dice.below(10_000);
            put(&path, object(at + 1, modified, size, Body::Segments(segments)))
        })
        .collect();
    let mut state = State::default();
    changes.iter().cloned().for_each(|change| state.apply(change));
    let mut salts = Dice(11);
    let (bytes, log) = Log::create(&root(), VOLUME, [9; 16], state, || salts.bytes()).unwrap();
    assert_eq!(Log::open(&root(), &bytes, None).unwrap().log.state(), log.state(), "a base of many frames");
    let names = encode(&changes).1;
    (bytes.len() - names) as f64 / (objects * each) as f64
}

#[test]
fn a_segment_takes_at_most_72_bytes_beyond_names() {
    for (objects, each, most) in [(20_000, 1, 72.0), (5_000, 4, 65.0), (500, 100, 61.0)] {
        let found = bytes_a_segment(objects, each);
        eprintln!("{objects} objects of {each} segments: {found:.1} B a segment beyond names");
        assert!(found <= most, "{found:.2} bytes a segment for objects of {each}");
    }
}

#[test]
fn keeping_the_kit_fresh_costs_at_most_a_twentieth_of_a_small_put() {
    let (_, mut log, _) = log_of(11, 1);
    let path = "folder/a small object";
    let change = put(path, object(900, 1_800_000_001_000, 4096, Body::Inline(vec![1; 4096])));
    let one = log.append(vec![change.clone()], || [3; 16]).unwrap().len() - 4096 - path.len();
    eprintln!("a commit of one inline object: {one} B beyond content and name");
    assert!(one <= 4096 / 20, "{one} bytes");
    let group: Vec<Change> = (0..16).map(|_| change.clone()).collect();
    let many = (log.append(group, || [4; 16]).unwrap().len() - 16 * 4096) / 16;
    eprintln!("a commit of 16: {many} B each");
    assert!(many <= one / 4);
}

#[test]
fn logs_never_change() {
    let (bytes, log, _) = log_of(12, 2);
    let text = format!("{}\n{}\n", base::ids::hex(&bytes), base::ids::hex(&log.seen().encode()));
    assert_eq!(text, include_str!("log-v1.txt"));
}

#[test]
fn a_kit_holds_neither_names_nor_contents_nor_keys_in_the_open() {
    let (bytes, _, _) = log_of(12, 2);
    let (signing, kit) = (root().top().to_bytes(), root().kit_key());
    for secret in [&b"photos"[..], b"small", b"etag", &signing[..], &kit[..]] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

fn any_change() -> impl Strategy<Value = Vec<Change>> {
    (any::<u64>(), 0usize..16, 0usize..16).prop_map(|(seed, from, len)| {
        let all = everything(&mut Dice(seed | 1));
        all.into_iter().cycle().skip(from).take(len).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn changes_are_read_back_in_any_order(changes in any_change()) {
        prop_assert_eq!(decode(&encode(&changes).0).unwrap(), changes);
    }

    #[test]
    fn whatever_comes_in_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), at: usize, put: u8, changes in any_change()) {
        let _ = decode(&bytes);
        let _ = Log::open(&root(), &bytes, None);
        let mut known = encode(&changes).0;
        let place = at % known.len();
        known[place] = put;
        let _ = decode(&known);
        known.truncate(place);
        let _ = decode(&known);
    }
}
