//! What guests and nodes say to each other stays what it is, to the byte, and bad bytes end in errors.
#![allow(clippy::unwrap_used)]

use base::{DriveId, PieceId, SegmentId, Seq, VolumeId, Wall};
use client::guest::{About, Answer, Drill, PieceQuestion, Question, Right, Wish};
use client::pieces::Ask;
use codec::Versioned;
use crypt::{PublicKey, SigningKey};
use grant::{Caveat, Claim, Head, Verb, Verbs};
use metastore::remote::Rows;
use namespace::catalog::OlderKey;
use namespace::wire::{Query, Tail};
use namespace::work::Work;
use namespace::{Command, Condition, Outcome};

const VOLUME: PublicKey = PublicKey([1; 32]);

fn owner() -> Right {
    Right { volume: VOLUME, claim: None }
}

fn guest() -> Right {
    let head = Head { number: VolumeId(5), volume: VOLUME, epoch: 2, id: [3; 16] };
    let claim = Claim::issue(&[4; 32], head).narrow(Caveat::Prefix("a/".into())).unwrap();
    Right { volume: VOLUME, claim: Some(claim.narrow(Caveat::Verbs(Verbs::new(&[Verb::Read]))).unwrap()) }
}

/// Each line of the fixture is one value; every shorter one is refused, and so is a longer one.
fn check<T: Versioned>(text: &str, values: &[T]) {
    let lines: Vec<String> = values.iter().map(|value| base::ids::hex(&value.encode())).collect();
    assert_eq!(lines.join("\n"), text.trim());
    for line in text.lines() {
        let mut bytes = vec![0; line.len() / 2];
        assert!(base::ids::unhex(line, &mut bytes));
        assert_eq!(base::ids::hex(&T::decode(&bytes).unwrap().encode()), line, "it reads back");
        for cut in 0..bytes.len() {
            assert!(T::decode(&bytes[..cut]).is_err(), "{cut} of {} bytes", bytes.len());
        }
        assert!(T::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "a byte too many");
    }
}

#[test]
fn questions_about_metadata_stay_what_they_are() {
    let command = Command::Delete { key: "a/b".into(), version: None, condition: Condition::default() };
    let work = Work { id: [6; 16], made: Wall(7), volume: VolumeId(5), command, notes: Vec::new() };
    let values = [
        Question { right: owner(), wish: Wish::About },
        Question { right: guest(), wish: Wish::Map },
        Question { right: owner(), wish: Wish::Fetch(Query::Config { name: "policy".into() }) },
        Question { right: owner(), wish: Wish::Work(Box::new(work)) },
        Question { right: owner(), wish: Wish::Settled },
        Question { right: owner(), wish: Wish::Drilled("1 2".into()) },
        Question { right: owner(), wish: Wish::Watch { after: Some(Seq(9)), prefix: "a/".into(), wait_ms: 15_000 } },
    ];
    check(include_str!("guest-question-v1.hex"), &values);
}

#[test]
fn answers_about_metadata_stay_what_they_are() {
    let (older, settled) = (Vec::new(), true);
    let about = About { name: "family".into(), number: VolumeId(5), check: [8; 16], epoch: 2, older, settled };
    let older = OlderKey { public: [6; 32], sealed: vec![7; 64], replaced: Wall(8) };
    let values = [
        Answer::About(about.clone()),
        Answer::About(About { older: vec![older], settled: false, ..about }),
        Answer::Rows(Rows::new(Seq(9))),
        Answer::Done(Outcome::default()),
        Answer::Refused(namespace::Error::NoSuchKey),
        Answer::Tail(Tail::Gone { oldest: Seq(4), newest: Seq(9) }),
    ];
    check(include_str!("guest-answer-v1.hex"), &values);
}

#[test]
fn questions_about_pieces_stay_what_they_are() {
    let piece = PieceId { segment: SegmentId([7; 16]), index: 3 };
    let values = [
        PieceQuestion { right: guest(), ask: Ask::Read(DriveId([8; 16]), piece, 9, 10) },
        PieceQuestion { right: owner(), ask: Ask::Health(Vec::new()) },
    ];
    check(include_str!("guest-pieces-v1.hex"), &values);
}

#[test]
fn what_came_of_an_owners_drill_is_read_back_and_nobody_else_writes_it() {
    let key = SigningKey::from_seed(&[1; 32]);
    let drill = Drill { at: Wall(1_795_230_600_123), objects: 16, bytes: 5, failed: 1 };
    let (text, volume) = (drill.sign(VolumeId(7), &key), VolumeId(7));
    assert_eq!(Drill::read(&text, volume, &key.public()), Some(drill));
    assert_eq!(Drill::read(&text, VolumeId(8), &key.public()), None, "of another volume");
    assert_eq!(Drill::read(&text, volume, &SigningKey::from_seed(&[2; 32]).public()), None);
    for wrong in [
        text.replacen("16", "17", 1),
        text.replacen("16", "016", 1),
        text.replacen("16", "16 0", 1),
        text[..text.len() - 1].to_owned(),
        String::new(),
        "1 2 3 4 zz".into(),
    ] {
        assert_eq!(Drill::read(&wrong, volume, &key.public()), None, "{wrong}");
    }
}
