//! What nodes say to each other about volumes: every form reads back, whatever is in it, and no bytes do harm.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use base::kv::ViewError;
use base::{GroupId, Kind, Kinded, PolicyId, SegmentId, Seq, VolumeId, Wall};
use codec::Versioned;
use namespace::journal::{Event, What};
use namespace::read::ListQuery;
use namespace::wire::{Query, Tail};
use namespace::work::Work;
use namespace::*;
use proptest::prelude::*;

fn reference(byte: u8) -> SegmentRef {
    SegmentRef {
        id: SegmentId([byte; 16]),
        policy: PolicyId(0x0102),
        group: GroupId(0x0304_0506),
        k: 4,
        m: 2,
        len: 0x0400_0000,
        root: [byte ^ 1; 32],
        wrapped_key: [byte ^ 2; 48],
    }
}

fn condition() -> Condition {
    Condition {
        if_match: Some(vec!["\"e\"".into(), "*".into()]),
        if_none_match: Some(vec![]),
        if_modified: Some(Wall(7)),
        if_size: Some(8),
        if_attrs: vec![("tags".into(), Some(vec![1])), ("acl".into(), None)],
    }
}

fn attrs() -> Attrs {
    Attrs::from([("a".into(), vec![1, 2]), ("b".into(), vec![])])
}

fn packed() -> Body {
    Body::Packed(reference(0x10), Slot { index: 3, offset: 4096, len: 70_016 })
}

fn part() -> Part {
    let (modified, etag) = (Wall(6), "p".into());
    Part { number: 10_000, modified, size: 3, etag, attrs: attrs(), body: Body::Inline(b"abc".to_vec()) }
}

fn note() -> Command {
    let (segment, policy, group) = (SegmentId([9; 16]), PolicyId(1), GroupId(2));
    Command::NoteMissing { segment, policy, group, missing: vec![0, 5] }
}

/// One of each, every part in use.
fn commands() -> Vec<Command> {
    let (key, upload) = ("ä/b".to_owned(), UploadId([0x55; 16]));
    let new = NewVersion { size: 70_000, etag: "e".into(), attrs: attrs(), body: packed() };
    let spans = Body::Spans(vec![
        Span { size: 3, body: Body::Inline(b"abc".to_vec()) },
        Span { size: 9, body: Body::Segments(vec![reference(0x20), reference(0x30)]) },
    ]);
    vec![
        Command::Put { key: key.clone(), new, condition: condition() },
        Command::Delete { key: key.clone(), version: Some(VersionId(5)), condition: Condition::default() },
        Command::SetAttrs {
            key: key.clone(),
            version: None,
            set: vec![("a".into(), None), ("b".into(), Some(vec![3]))],
            condition: condition(),
        },
        Command::BeginUpload { upload, key: key.clone(), attrs: attrs() },
        Command::PutPart { upload, key: key.clone(), part: part() },
        Command::CompleteUpload {
            upload,
            key: key.clone(),
            parts: vec![(1, "p1".into()), (2, "p2".into())],
            etag: "whole-2".into(),
            attrs: attrs(),
            condition: condition(),
        },
        Command::AbortUpload { upload, key: key.clone() },
        Command::SetConfig { name: "cors".into(), value: Some(vec![4]) },
        Command::SetVersioning(Versioning::Suspended),
        Command::Rebody { key, version: VersionId::NULL, from: packed(), to: spans },
        Command::CollectedGarbage { segments: vec![SegmentId([1; 16]), SegmentId([2; 16])] },
        note(),
        Command::Close,
        Command::Undelete { key: "a/b".into(), ord: 9 },
        Command::Expire { by: Some(Wall(1_795_230_600_123)), key: Some("a/b".into()) },
        Command::Expire { by: None, key: None },
        Command::Shut,
        Command::Reopen,
        Command::Empty,
        Command::Rename { from: "a/b".into(), to: "c".into(), etag: "e".into(), attrs: attrs(), body: packed() },
    ]
}

fn work(command: Command) -> Work {
    let (id, made, volume) = ([0xab; 16], Wall(1_795_230_600_123), VolumeId(7));
    Work { id, made, volume, command, notes: vec![note()] }
}

fn list() -> ListQuery {
    ListQuery {
        prefix: "p/".into(),
        delimiter: "/".into(),
        after: Some("p/a".into()),
        after_version: Some(VersionId(3)),
        after_upload: Some(UploadId([4; 16])),
        attrs: None,
        limit: 1000,
    }
}

fn queries() -> Vec<Query> {
    let (key, id) = ("k".to_owned(), UploadId([6; 16]));
    vec![
        Query::Head { key: key.clone(), version: Some(VersionId(2)), with_body: true },
        Query::List(list()),
        Query::ListVersions(list()),
        Query::Uploads(list()),
        Query::Upload { key: key.clone(), id },
        Query::Parts { key, id, after: 7, limit: 1000 },
        Query::Config { name: "cors".into() },
        Query::Versioning,
        Query::Segment { policy: PolicyId(1), group: GroupId(2), segment: SegmentId([3; 16]) },
        Query::Missing { segment: SegmentId([3; 16]) },
    ]
}

fn refusals() -> Vec<Error> {
    let view = |kind, text: &str| Error::View(ViewError { kind, text: text.into() });
    vec![
        Error::NoSuchBucket,
        Error::NoSuchKey,
        Error::NoSuchVersion,
        Error::NoSuchUpload,
        Error::InvalidPart { number: 3 },
        Error::PartOrder,
        Error::Precondition { what: "if-none-match" },
        Error::IsMarker,
        Error::BucketExists { yours: true },
        Error::NotEmpty,
        Error::Closed,
        Error::InvalidName { what: "key", why: "too long" },
        Error::InvalidValue { what: "body", why: "it was not loaded" },
        Error::SegmentGone { segment: SegmentId([3; 16]) },
        Error::Broken { what: "a counter would overflow" },
        Error::Stale { made: Wall(5) },
        view(Kind::Missing, "m"),
        view(Kind::Exists, ""),
        view(Kind::Denied, ""),
        view(Kind::Invalid, ""),
        view(Kind::Conflict, ""),
        view(Kind::Busy { retry_after: Duration::from_millis(1500) }, "later"),
        view(Kind::Unreachable, "ü"),
        view(Kind::TooFewPieces { have: 3, need: 4 }, ""),
        view(Kind::Damaged, ""),
        view(Kind::Bug, ""),
    ]
}

fn outcome() -> Outcome {
    Outcome { version: Some(VersionId(2)), marker: true, modified: Wall(3), size: 4, etag: "e".into() }
}

fn tails() -> Vec<Tail> {
    let (key, version) = ("a/b".to_owned(), VersionId::NULL);
    let event = |at, what| Event { volume: VolumeId(7), at: Wall(at), what };
    let put = What::Put { key: key.clone(), version, size: 5, etag: "e".into(), upload: None };
    let events = vec![(Seq(8), event(1000, put)), (Seq(9), event(2000, What::Delete { key, version, marker: false }))];
    vec![Tail::Events { events, next: Seq(9) }, Tail::Gone { oldest: Seq(4), newest: Seq(9) }]
}

/// A line of hex for each, in the fixture's order.
fn check<T: Versioned + PartialEq + std::fmt::Debug>(text: &str, values: &[T]) {
    assert_eq!(text.lines().count(), values.len());
    for (line, value) in text.lines().zip(values) {
        let mut bytes = vec![0; line.len() / 2];
        assert!(base::ids::unhex(line, &mut bytes), "the fixture is not hex");
        assert_eq!(T::decode(&bytes).unwrap(), *value, "the released bytes read back");
        assert_eq!(base::ids::hex(&value.encode()), line, "this release writes them");
        for cut in 0..bytes.len() {
            assert!(T::decode(&bytes[..cut]).is_err(), "{cut} of {} bytes are not enough", bytes.len());
        }
        assert!(T::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "a byte too many");
        bytes[4] += 1;
        assert!(matches!(T::decode(&bytes), Err(codec::Error::Version { .. })), "a newer version");
    }
}

#[test]
fn commands_have_the_bytes_that_were_released() {
    check(include_str!("fixtures/wire_commands_v1.hex"), &commands());
}

#[test]
fn works_have_the_bytes_that_were_released() {
    check(include_str!("fixtures/wire_work_v1.hex"), &[work(Command::Close)]);
}

#[test]
fn queries_have_the_bytes_that_were_released() {
    check(include_str!("fixtures/wire_queries_v1.hex"), &queries());
}

#[test]
fn refusals_have_the_bytes_that_were_released() {
    check(include_str!("fixtures/wire_refusals_v1.hex"), &refusals());
}

#[test]
fn outcomes_have_the_bytes_that_were_released() {
    check(include_str!("fixtures/wire_outcome_v1.hex"), &[outcome()]);
}

#[test]
fn parts_of_a_journal_have_the_bytes_that_were_released() {
    check(include_str!("fixtures/wire_tail_v1.hex"), &tails());
}

#[test]
fn a_part_of_a_journal_that_would_tell_things_twice_or_never_is_refused() {
    let Tail::Events { events, .. } = tails().remove(0) else { panic!("no events") };
    for (events, next) in [(events.iter().rev().cloned().collect(), Seq(9)), (events, Seq(8))] {
        assert!(Tail::decode(&Tail::Events { events, next }.encode()).is_err());
    }
}

#[test]
fn what_goes_wrong_below_the_rules_keeps_its_kind_and_text() {
    let row = codec::Error::Checksum { what: "row" };
    let back = Error::decode(&Error::Row(row.clone()).encode()).unwrap();
    assert_eq!(back, Error::View(ViewError { kind: row.kind(), text: row.to_string() }));
    let long = Error::View(ViewError { kind: Kind::Bug, text: "ü".repeat(100_000) });
    let Error::View(back) = Error::decode(&long.encode()).unwrap() else { panic!("another kind of error") };
    assert_eq!(back.text, "ü".repeat(2048), "cut at a character");
}

#[test]
fn commands_beyond_the_rules_arrive_and_are_refused_there() {
    let long = "k".repeat(2000);
    let etag = "e".repeat(300);
    let new = NewVersion { size: 0, etag, attrs: Attrs::new(), body: Body::Unloaded };
    for command in [
        Command::Put { key: long.clone(), new: new.clone(), condition: Condition::default() },
        Command::Put { key: "k".into(), new, condition: Condition::default() },
        Command::PutPart { upload: UploadId([1; 16]), key: long, part: Part { number: 0, ..part() } },
        Command::SetConfig { name: "n".repeat(300), value: None },
    ] {
        let back = Command::decode(&command.encode()).unwrap();
        assert_eq!(back, command);
        let map = std::collections::BTreeMap::new();
        let refused = apply(&map, VolumeId(1), &back, Wall(1)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid);
        assert_eq!(Error::decode(&refused.encode()).unwrap(), refused);
    }
}

#[test]
fn counts_that_the_bytes_cannot_hold_are_refused_at_once() {
    let mut bytes = Command::CollectedGarbage { segments: vec![] }.encode();
    let at = bytes.len() - 4;
    bytes[at..].fill(0xff);
    assert!(matches!(Command::decode(&bytes), Err(codec::Error::Short { .. })));
}

fn text() -> impl Strategy<Value = String> {
    "[a-c/ü*]{0,5}"
}

fn option_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..9))
}

fn any_attrs() -> impl Strategy<Value = Attrs> {
    prop::collection::btree_map(text(), prop::collection::vec(any::<u8>(), 0..9), 0..4)
}

fn any_body() -> impl Strategy<Value = Body> {
    let simple = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Body::Inline),
        (any::<u8>(), any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(byte, index, offset, len)| Body::Packed(reference(byte), Slot { index, offset, len })),
        prop::collection::vec(any::<u8>().prop_map(reference), 0..4).prop_map(Body::Segments),
    ];
    let spans = prop::collection::vec((any::<u64>(), simple.clone()), 0..4)
        .prop_map(|spans| Body::Spans(spans.into_iter().map(|(size, body)| Span { size, body }).collect()));
    prop_oneof![4 => simple, 1 => spans, 1 => Just(Body::Unloaded)]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let etags = || prop::option::of(prop::collection::vec(text(), 0..3));
    let rest = (prop::option::of(any::<u64>()), prop::collection::vec((text(), option_bytes()), 0..3));
    (etags(), etags(), prop::option::of(any::<u64>()), rest).prop_map(
        |(if_match, if_none_match, modified, (if_size, if_attrs))| Condition {
            if_match,
            if_none_match,
            if_modified: modified.map(Wall),
            if_size,
            if_attrs,
        },
    )
}

fn any_command() -> impl Strategy<Value = Command> {
    let upload = || any::<[u8; 16]>().prop_map(UploadId);
    let version = || prop::option::of(any::<u64>().prop_map(VersionId));
    let content = || (any::<u64>(), text(), any_attrs(), any_body());
    prop_oneof![
        (text(), content(), any_condition()).prop_map(|(key, (size, etag, attrs, body), condition)| Command::Put {
            key,
            new: NewVersion { size, etag, attrs, body },
            condition
        }),
        (text(), version(), any_condition()).prop_map(|(key, version, condition)| Command::Delete {
            key,
            version,
            condition
        }),
        (text(), version(), prop::collection::vec((text(), option_bytes()), 0..3), any_condition())
            .prop_map(|(key, version, set, condition)| Command::SetAttrs { key, version, set, condition }),
        (upload(), text(), any_attrs()).prop_map(|(upload, key, attrs)| Command::BeginUpload { upload, key, attrs }),
        (upload(), text(), any::<u16>(), any::<u64>(), content()).prop_map(
            |(upload, key, number, at, (size, etag, attrs, body))| Command::PutPart {
                upload,
                key,
                part: Part { number, modified: Wall(at), size, etag, attrs, body }
            }
        ),
        (upload(), text(), prop::collection::vec((any::<u16>(), text()), 0..4), text(), any_attrs(), any_condition())
            .prop_map(|(upload, key, parts, etag, attrs, condition)| Command::CompleteUpload {
                upload,
                key,
                parts,
                etag,
                attrs,
                condition
            }),
        (text(), option_bytes()).prop_map(|(name, value)| Command::SetConfig { name, value }),
        (text(), any::<u64>(), any_body(), any_body()).prop_map(|(key, version, from, to)| Command::Rebody {
            key,
            version: VersionId(version),
            from,
            to
        }),
        prop::sample::select(commands()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_command_reads_back(command in any_command(), id in any::<[u8; 16]>(), made in any::<u64>()) {
        let work = Work { id, made: Wall(made), notes: vec![note(); usize::from(id[0] % 3)], ..work(command) };
        prop_assert_eq!(Work::decode(&work.encode()).unwrap(), work);
    }

    #[test]
    fn damaged_messages_are_errors_and_never_panic(
        command in any_command(), pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), with in any::<u8>(),
        cut in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (query, refusal) = (pick.get(&queries()).encode(), pick.get(&refusals()).encode());
        let noise = [command.encode()[..6.min(command.encode().len())].to_vec(), noise].concat();
        let tail = tails().remove(0).encode();
        for mut bytes in [work(command.clone()).encode(), command.encode(), query, refusal, outcome().encode(), tail, noise] {
            let at = at.index(bytes.len());
            bytes[at] = with;
            for end in [bytes.len(), cut.index(bytes.len()).max(5)] {
                bytes.truncate(end);
                for mark in [Work::MARK, Command::MARK, Query::MARK, Error::MARK, Outcome::MARK, Tail::MARK] {
                    bytes[..4].copy_from_slice(&mark);
                    bytes[4] = 1;
                    if let Ok(work) = Work::decode(&bytes) {
                        let _ = namespace::work::evaluate_once(&std::collections::BTreeMap::new(), &work, Wall(1));
                    }
                    if let Ok(query) = Query::decode(&bytes) {
                        let _ = query.run(&std::collections::BTreeMap::new(), VolumeId(1));
                    }
                    let _ = (Command::decode(&bytes), Error::decode(&bytes), Outcome::decode(&bytes), Tail::decode(&bytes));
                }
            }
        }
    }
}
