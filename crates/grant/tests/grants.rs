//! What grants promise: narrowing never widens, whatever is changed is refused, whatever comes in never panics.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;

use base::{VolumeId, Wall};
use codec::Versioned;
use crypt::VolumeRoot;
use grant::{Claim, Error, Grant, Head, Refusal, Request, Rules, Ticket, Verb, Verbs};
use proptest::prelude::*;

fn root() -> VolumeRoot {
    VolumeRoot::new(std::array::from_fn(|i| i as u8))
}

fn head() -> Head {
    Head { number: VolumeId(7), volume: root().signing_key().public(), epoch: 3, id: [4; 16] }
}

fn full() -> Grant {
    let addresses = ["10.1.2.3:9400".parse().unwrap(), "[2001:db8::1]:9400".parse().unwrap()];
    let ticket = Ticket::issue(&root(), &[], None, 1 << 40, Wall(9000), [6; 16]);
    let grant = Grant::sealed(&root(), head(), "photos/", [5; 16]).unwrap();
    let grant = grant.only(Verbs::new(&[Verb::Read, Verb::List])).unwrap().until(Wall(9000)).unwrap();
    grant.with_addresses(&addresses).with_ticket(Some(ticket))
}

fn allows(claim: &Claim, verb: Verb, path: &str, now: u64) -> Result<(), Refusal> {
    allows_when(claim, verb, path, now, &BTreeSet::new())
}

fn allows_when(claim: &Claim, verb: Verb, path: &str, now: u64, revoked: &BTreeSet<[u8; 16]>) -> Result<(), Refusal> {
    let rules = Rules { now: Wall(now), epoch: 3, revoked };
    claim.check(&root().grant_key(), &Request { volume: head().volume, verb, path }, &rules)
}

fn sealed(path: &str) -> String {
    root().top().seal_path(path).unwrap()
}

#[test]
fn a_grant_gives_its_folder_until_it_ends_and_no_more() {
    let grant = full();
    let claim = Claim::decode(&grant.claim.encode()).unwrap();
    allows(&claim, Verb::Read, &sealed("photos/2026/a.jpg"), 10).unwrap();
    allows(&claim, Verb::List, &sealed("photos/"), 10).unwrap();
    assert_eq!(allows(&claim, Verb::Read, &sealed("videos/a"), 10), Err(Refusal::Path));
    assert_eq!(allows(&claim, Verb::List, "", 10), Err(Refusal::Path));
    assert_eq!(allows(&claim, Verb::Write, &sealed("photos/a"), 10), Err(Refusal::Verb { verb: Verb::Write }));
    let ended = Refusal::Ended { at: Wall(9000), now: Wall(9000) };
    assert_eq!(allows(&claim, Verb::Read, &sealed("photos/a"), 9000), Err(ended));
    let key = &grant.subtree.unwrap().key;
    assert_eq!(*key, root().top().at("photos/"), "and the key of this folder alone");
}

#[test]
fn grants_are_revoked_by_epoch_by_id_and_by_label() {
    let claim = full().labelled([8; 16]).unwrap().claim;
    let path = sealed("photos/a");
    let request = Request { volume: head().volume, verb: Verb::Read, path: &path };
    let key = root().grant_key();
    let check =
        |epoch, revoked: &BTreeSet<[u8; 16]>| claim.check(&key, &request, &Rules { now: Wall(1), epoch, revoked });
    let none = BTreeSet::new();
    assert_eq!(check(3, &none), Ok(()));
    assert_eq!(check(4, &none), Err(Refusal::Revoked { epoch: 3, now: 4 }));
    for revoked in [[8; 16], [4; 16]] {
        assert_eq!(check(3, &BTreeSet::from([revoked])), Err(Refusal::RevokedLabel));
    }
    let other = VolumeRoot::new([9; 32]);
    let elsewhere = Request { volume: other.signing_key().public(), ..request };
    let rules = Rules { now: Wall(1), epoch: 3, revoked: &none };
    assert_eq!(claim.check(&other.grant_key(), &elsewhere, &rules), Err(Refusal::OtherVolume));
    assert_eq!(claim.check(&other.grant_key(), &request, &rules), Err(Refusal::Forged));
}

#[test]
fn a_clock_that_is_a_little_behind_takes_a_new_grant() {
    let claim = Grant::plain(&root(), head(), "").unwrap().not_before(Wall(1_000_000)).unwrap().claim;
    let early = Refusal::TooEarly { at: Wall(1_000_000), now: Wall(879_999) };
    assert_eq!(allows(&claim, Verb::Read, "a", 879_999), Err(early));
    assert_eq!(allows(&claim, Verb::Read, "a", 880_000), Ok(()));
}

#[test]
fn a_narrowed_grant_has_keys_for_less_and_its_owner_finds_the_folder() {
    let may = full().narrow_to("2026/may/", [7; 16]).unwrap();
    allows(&may.claim, Verb::Read, &sealed("photos/2026/may/a.jpg"), 1).unwrap();
    assert_eq!(allows(&may.claim, Verb::Read, &sealed("photos/2026/june/a.jpg"), 1), Err(Refusal::Path));
    let subtree = may.subtree.clone().unwrap();
    assert_eq!(subtree.key, root().top().at("photos/2026/may/"));
    assert_eq!(subtree.anchor.open(&root()).unwrap(), ("photos/2026/may/".into(), subtree.key));
    let one = may.narrow_to("a.jpg", [7; 16]).unwrap();
    allows(&one.claim, Verb::Read, &sealed("photos/2026/may/a.jpg"), 1).unwrap();
    assert_eq!(allows(&one.claim, Verb::Read, &sealed("photos/2026/may/b.jpg"), 1), Err(Refusal::Path));
    assert_eq!(one.subtree.as_ref().unwrap().key, root().top().at("photos/2026/may/a.jpg"));
    assert_eq!(one.narrow_to("b", [7; 16]), Err(Error::NotAFolder));
    let plain = Grant::plain(&root(), head(), "logs/").unwrap().narrow_to("2026/", [0; 16]).unwrap();
    assert_eq!((plain.claim.prefix(), plain.subtree), ("logs/2026/", None));
}

#[test]
fn what_directors_are_shown_holds_no_key() {
    let grant = full();
    let shown = grant.claim.encode();
    let key = grant.subtree.unwrap().key.to_bytes();
    let grant_key = root().grant_key();
    for secret in [&key[..], &grant_key[..], b"photos"] {
        assert!(!shown.windows(secret.len()).any(|window| window == secret));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let grant = full().narrow_to("2026/", [7; 16]).unwrap();
    let shown = grant.claim.encode();
    let path = sealed("photos/2026/a");
    allows(&grant.claim, Verb::Read, &path, 1).unwrap();
    for bit in 0..shown.len() * 8 {
        let mut wrong = shown.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let refused = Claim::decode(&wrong).map_or(true, |wrong| allows(&wrong, Verb::Read, &path, 1).is_err());
        assert!(refused, "bit {bit}");
    }
    let text = grant.text();
    assert_eq!(Grant::parse(&format!(" {}\n", *text)), Ok(grant));
    for at in 12..text.len() {
        let mut wrong = text.as_bytes().to_vec();
        wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
        assert!(matches!(Grant::parse(std::str::from_utf8(&wrong).unwrap()), Err(Error::Mistyped { .. })), "{at}");
        assert!(Grant::parse(&text[..at]).is_err(), "cut at {at}");
    }
    assert_eq!(Grant::parse("abide-join-abc"), Err(Error::NoGrant));
    assert_eq!(Grant::parse(""), Err(Error::NoGrant));
}

#[test]
fn grants_never_change() {
    assert_eq!(*full().text(), include_str!("grant-v1.txt").trim());
}

const NAMES: [&str; 4] = ["a", "ab", "b/", ""];

/// A random narrowing.
#[derive(Clone, Debug)]
enum Step {
    Only(u8),
    Until(u64),
    NotBefore(u64),
    Label(u8),
    To(Vec<u8>, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..16).prop_map(Step::Only),
        (0u64..300_000).prop_map(Step::Until),
        (0u64..300_000).prop_map(Step::NotBefore),
        (0u8..3).prop_map(Step::Label),
        (proptest::collection::vec(0u8..3, 0..3), 0u8..4).prop_map(|(folders, last)| Step::To(folders, last)),
    ]
}

fn path(folders: &[u8], last: u8) -> String {
    let folders: String = folders.iter().map(|at| ["a/", "ab/", "b/"][usize::from(*at)]).collect();
    folders + NAMES[usize::from(last)]
}

fn narrow(grant: Grant, step: &Step) -> Result<Grant, Error> {
    match step {
        Step::Only(bits) => {
            grant.only(Verbs::new(&Verb::ALL.into_iter().filter(|verb| bits & *verb as u8 != 0).collect::<Vec<_>>()))
        }
        Step::Until(at) => grant.until(Wall(*at)),
        Step::NotBefore(at) => grant.not_before(Wall(*at)),
        Step::Label(label) => grant.labelled([*label; 16]),
        Step::To(folders, last) => grant.narrow_to(&path(folders, *last), [1; 16]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_narrowing_ever_widens(
        end_to_end: bool,
        steps in proptest::collection::vec(step(), 1..5),
        asks in proptest::collection::vec(
            (0usize..4, proptest::collection::vec(0u8..3, 0..4), 0u8..4, 0u64..300_000, 0u8..4),
            30,
        ),
    ) {
        let mut wide = if end_to_end {
            Grant::sealed(&root(), head(), "a/", [1; 16]).unwrap()
        } else {
            Grant::plain(&root(), head(), "a/").unwrap()
        };
        for step in &steps {
            let Ok(narrowed) = narrow(wide.clone(), step) else { continue };
            for (verb, folders, last, now, revoked) in &asks {
                let true_path = path(folders, *last);
                let seen = if end_to_end { sealed(&true_path) } else { true_path.clone() };
                let revoked = BTreeSet::from([[*revoked; 16]]);
                let may = |grant: &Grant| allows_when(&grant.claim, Verb::ALL[*verb], &seen, *now, &revoked).is_ok();
                prop_assert!(!may(&narrowed) || may(&wide), "{step:?} lets {true_path:?} through");
            }
            prop_assert_eq!(&Grant::parse(&narrowed.text()).unwrap(), &narrowed);
            if let Some(subtree) = &narrowed.subtree {
                let (found, key) = subtree.anchor.open(&root()).unwrap();
                prop_assert_eq!(sealed(&found), narrowed.claim.prefix(), "keys and prefix are of one place");
                prop_assert_eq!(&key, &subtree.key);
            }
            wide = narrowed;
        }
    }

    #[test]
    fn whatever_comes_in_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..400, put: u8) {
        let _ = (Claim::decode(&bytes), Grant::decode(&bytes), Ticket::decode(&bytes));
        let _ = Grant::parse(&String::from_utf8_lossy(&bytes));
        let mut known = full().encode();
        let place = at % known.len();
        known[place] = put;
        let _ = Grant::decode(&known).map(|grant| (grant.text(), grant.subtree.map(|tree| tree.anchor.open(&root()))));
        known.truncate(place);
        prop_assert!(Grant::decode(&known).is_err());
    }
}
