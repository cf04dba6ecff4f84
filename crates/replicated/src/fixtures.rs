//! Every form as it was released, and what garbage comes to.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base::kv::Batch;
use base::{Epoch, NodeId, Seq};
use codec::Versioned;
use metastore::Entry;

use crate::parts::{EntryRow, Identity, PlaceRow, PurgedRow, VoteRow};
use crate::recover::Checkpoint;
use crate::types::{
    Change, LeaderId, LogEntry, LogId, Manifest, Membership, Payload, Place, StoredMembership, Vote, membership,
};
use crate::wire::{Appended, Ask, Candidacy, Reply, Request, Transfer, seal, unseal};

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn id(term: u64, of: u8, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: node(of) }, index }
}

fn vote(term: u64, of: u8, committed: bool) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: node(of) }, committed }
}

fn joint() -> Membership {
    let nodes: std::collections::BTreeMap<_, _> = [1, 2, 3].map(|number| (node(number), openraft::EmptyNode {})).into();
    Membership::new(vec![[node(1)].into(), [node(1), node(2)].into()], nodes).unwrap()
}

fn batch() -> Batch {
    let mut batch = Batch::default();
    batch.put("k", "v").del("d").event("e");
    batch.range_dels.push(b"a".to_vec()..b"b".to_vec());
    batch
}

fn entry(index: u64, payload: Payload) -> LogEntry {
    LogEntry { log_id: id(3, 1, index), payload }
}

fn entries() -> Vec<LogEntry> {
    let commit = Change::Commit { epoch: Epoch(4), after: Seq(9), batches: Arc::new(vec![batch(), Batch::default()]) };
    vec![
        entry(5, Payload::Blank),
        entry(6, Payload::Normal(Change::Claim)),
        entry(7, Payload::Normal(commit)),
        entry(8, Payload::Normal(Change::Check)),
        entry(9, Payload::Normal(Change::Verdict { seq: Seq(9), digest: [7; 32] })),
        entry(10, Payload::Membership(joint())),
    ]
}

fn asks() -> Vec<Ask> {
    let candidacy = Candidacy { vote: vote(4, 2, false), last: Some(id(3, 1, 10)), is_transfer: true };
    let manifest = Manifest { head: Seq(11), epoch: Epoch(4) };
    let members = StoredMembership::new(Some(id(3, 1, 10)), joint());
    vec![
        Ask::Append { vote: vote(3, 1, true), previous: Some(id(3, 1, 4)), commit: None, entries: entries() },
        Ask::Vote(candidacy),
        Ask::PreVote(Candidacy { last: None, is_transfer: false, ..candidacy }),
        Ask::Transfer { vote: vote(3, 1, true), to: node(2), last: None },
        Ask::Offer { vote: vote(3, 1, true), last: Some(id(3, 1, 10)), membership: members, manifest },
        Ask::Tail { after: Seq(5), bytes: 4096 },
        Ask::ReadIndex,
        Ask::Report { seq: Seq(9), digest: [7; 32] },
        Ask::Led(vote(3, 1, true)),
    ]
}

fn replies() -> Vec<Reply> {
    let dropped = Entry {
        seq: Seq(6),
        batch: {
            let mut batch = batch();
            batch.puts[0].1.clear();
            batch
        },
        dropped: vec![0],
    };
    let (one, other) = (vote(3, 1, true), vote(4, 2, false));
    vec![
        Reply::Refused("no".into()),
        Reply::Elsewhere(Some(node(1))),
        Reply::Elsewhere(None),
        Reply::Appended(Appended::All),
        Reply::Appended(Appended::UpTo(Some(id(3, 1, 4)))),
        Reply::Appended(Appended::Conflict),
        Reply::Appended(Appended::Higher(other)),
        Reply::Voted { vote: other, is_granted: true, last: None },
        Reply::Transfer(Transfer::Taken),
        Reply::Transfer(Transfer::VoteChanged { expected: one, actual: other }),
        Reply::Transfer(Transfer::Behind { expected: Some(id(3, 1, 4)), actual: None }),
        Reply::Installed(one),
        Reply::Filling(Seq(3)),
        Reply::Tail { end: Seq(7), entries: vec![dropped, Entry { seq: Seq(7), batch: batch(), dropped: vec![] }] },
        Reply::ReadIndex(12),
        Reply::Noted,
        Reply::Led(true),
    ]
}

fn request(ask: Ask) -> Request {
    Request { token: [8; 16], shard: 7, ask }
}

fn place() -> Place {
    let members = StoredMembership::new(Some(id(0, 1, 1)), membership([node(1)].into()));
    Place { applied: Some(id(3, 1, 10)), head: Seq(11), epoch: Epoch(4), membership: members, whole: Seq(2) }
}

/// All forms, as text: a name and hex digits each line.
fn written() -> String {
    let mut text = String::new();
    let mut line = |name: &str, bytes: &[u8]| text.push_str(&format!("{name} {}\n", base::ids::hex(bytes)));
    line("vote", &VoteRow(vote(3, 1, true)).encode());
    line("purged", &PurgedRow(id(3, 1, 4)).encode());
    line("place", &PlaceRow(place()).encode());
    line("place-empty", &PlaceRow(Place::default()).encode());
    line("identity", &Identity { token: [8; 16], node: node(1), shard: 7 }.encode());
    entries().into_iter().for_each(|entry| line("entry", &EntryRow(entry).encode()));
    asks().into_iter().for_each(|ask| line("request", &seal(&request(ask))));
    replies().iter().for_each(|reply| line("reply", &seal(reply)));
    line("checkpoint", &checkpoint().encode());
    text
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        token: [8; 16],
        shard: 7,
        node: node(1),
        seq: Seq(11),
        epoch: Epoch(4),
        index: 10,
        digest: [7; 32],
        voters: vec![node(1), node(2)],
    }
}

const RELEASED: &str = include_str!("../tests/fixtures/forms-v1.txt");

#[test]
fn forms_are_as_they_were_released() {
    for (now, then) in written().lines().zip(RELEASED.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(written().lines().count(), RELEASED.lines().count());
}

#[test]
fn every_form_is_read_back() {
    assert_eq!(VoteRow::decode(&VoteRow(vote(3, 1, true)).encode()).unwrap().0, vote(3, 1, true));
    assert_eq!(PurgedRow::decode(&PurgedRow(id(3, 1, 4)).encode()).unwrap().0, id(3, 1, 4));
    for place in [place(), Place::default()] {
        assert_eq!(PlaceRow::decode(&PlaceRow(place.clone()).encode()).unwrap().0, place);
    }
    for entry in entries() {
        assert_eq!(EntryRow::decode(&EntryRow(entry.clone()).encode()).unwrap().0, entry);
    }
    for ask in asks() {
        assert_eq!(unseal::<Request>(&seal(&request(ask.clone()))).unwrap().ask, ask);
    }
    for reply in replies() {
        assert_eq!(unseal::<Reply>(&seal(&reply)).unwrap(), reply);
    }
    assert_eq!(Checkpoint::decode(&checkpoint().encode()).unwrap(), checkpoint());
}

#[test]
fn entries_out_of_order_are_refused() {
    let mut wrong = entries();
    wrong.swap(1, 2);
    let ask = Ask::Append { vote: vote(3, 1, true), previous: Some(id(3, 1, 4)), commit: None, entries: wrong };
    assert!(unseal::<Request>(&seal(&request(ask))).is_err());
    let gap = Ask::Append { vote: vote(3, 1, true), previous: None, commit: None, entries: entries() };
    assert!(unseal::<Request>(&seal(&request(gap))).is_err());
}

/// SplitMix64.
fn word(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Decodes without the checksum, as if it were right.
fn decode_all(bytes: &[u8]) {
    let _ = Request::decode(bytes);
    let _ = Reply::decode(bytes);
    let _ = EntryRow::decode(bytes);
    let _ = VoteRow::decode(bytes);
    let _ = PurgedRow::decode(bytes);
    let _ = PlaceRow::decode(bytes);
    let _ = Identity::decode(bytes);
    let _ = Checkpoint::decode(bytes);
    let _ = unseal::<Request>(bytes);
}

#[test]
fn garbage_is_an_error_never_a_panic() {
    let mut state = 1;
    let good: Vec<Vec<u8>> = RELEASED
        .lines()
        .map(|line| {
            let digits = line.split(' ').nth(1).unwrap();
            let mut bytes = vec![0; digits.len() / 2];
            assert!(base::ids::unhex(digits, &mut bytes));
            bytes
        })
        .collect();
    for form in &good {
        for len in 0..form.len() {
            decode_all(&form[..len]);
        }
        for _ in 0..2000 {
            let mut bytes = form.clone();
            for _ in 0..=word(&mut state) % 3 {
                let at = word(&mut state) as usize % bytes.len();
                bytes[at] = [word(&mut state) as u8, 0, 0xff, bytes[at] ^ 1][word(&mut state) as usize % 4];
            }
            // Without the checksum behind messages: what a checksum lets through.
            decode_all(&bytes);
            decode_all(&bytes[..bytes.len().saturating_sub(8)]);
        }
    }
    for _ in 0..2000 {
        let len = word(&mut state) as usize % 200;
        let mut bytes: Vec<u8> = (0..len).map(|_| word(&mut state) as u8).collect();
        decode_all(&bytes);
        if bytes.len() > 5 {
            bytes[..5].copy_from_slice(b"ARrq\x01");
            decode_all(&bytes);
        }
    }
}
