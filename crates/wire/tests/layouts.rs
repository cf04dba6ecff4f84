//! The bytes of version 1, for ever; and what hostile bytes do.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use base::{ClusterId, Epoch, Kind as Blame, NodeId, Wall};
use codec::Versioned;
use crypt::{PublicKey, RootKey, SigningKey};
use wire::frame::{Header, Kind, RequestHead, ResponseHead};
use wire::greet::{Class, Hello, Host, Instance, Intent, Refused, Welcome, agree};
use wire::{Certificate, Claim, Fault, Member, MemberList, Ticket, TicketError, TicketId};

fn certificate() -> Certificate {
    let root = RootKey::new([9; 32]).signing_key();
    let key = SigningKey::from_seed(&[1; 32]).public();
    Certificate::sign(&root, ClusterId([7; 16]), wire::node_id(&key), key, 1, Epoch(3))
}

fn list() -> MemberList {
    let root = RootKey::new([9; 32]).signing_key();
    let member = |seed: u8, previous| {
        let key = SigningKey::from_seed(&[seed; 32]).public();
        Member { node: wire::node_id(&key), serial: seed.into(), key, previous }
    };
    let members = vec![member(1, None), member(2, Some(PublicKey([5; 32])))];
    MemberList::sign(&root, ClusterId([7; 16]), Epoch(3), members, vec![NodeId([4; 16])])
}

fn claim() -> Claim {
    Claim { cluster: ClusterId([7; 16]), id: TicketId([2; 8]), expires: Wall(1_800_000_000_000) }
}

fn hello(intent: Intent) -> Hello {
    Hello { versions: 1..=1, class: Class::Bulk, instance: Instance([6; 16]), epoch: Epoch(3), intent }
}

fn welcome(host: bool) -> Welcome {
    let host = host.then(|| Host { root: PublicKey([8; 32]), certificate: certificate(), proof: [9; 32] });
    Welcome { version: 1, node: NodeId([5; 16]), instance: Instance([6; 16]), epoch: Epoch(3), host }
}

fn refusals() -> Vec<Refused> {
    vec![
        Refused::Versions(3..=4),
        Refused::Ticket(TicketError::Used),
        Refused::Ticket(TicketError::Expired { at: Wall(1_800_000_000_000), now: Wall(1_800_000_000_001) }),
        Refused::Ticket(TicketError::OtherCluster { cluster: ClusterId([7; 16]) }),
        Refused::Twin,
        Refused::NoHost,
        Refused::Busy(250),
    ]
}

fn faults() -> Vec<Fault> {
    let kinds = [
        Blame::Missing,
        Blame::Exists,
        Blame::Denied,
        Blame::Invalid,
        Blame::Conflict,
        Blame::Busy { retry_after: Duration::from_millis(70) },
        Blame::Unreachable,
        Blame::TooFewPieces { have: 3, need: 4 },
        Blame::Damaged,
        Blame::Bug,
    ];
    kinds.into_iter().map(|kind| Fault::new(kind, "why")).collect()
}

const REQUEST: RequestHead<'static> = RequestHead { service: 2, deadline_ms: 3000, body_len: 4, head: b"head" };
const RESPONSE: ResponseHead<'static> = ResponseHead { body_len: wire::frame::LEN_UNKNOWN, head: b"head" };
const HEADER: Header = Header { kind: Kind::Request, more: true, call: 258, len: 1000 };

/// Everything that has a layout, by name.
fn samples() -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("certificate".to_owned(), certificate().encode()),
        ("list".to_owned(), list().encode()),
        ("hello-member".to_owned(), hello(Intent::Member(Some(certificate()))).encode()),
        ("hello-known".to_owned(), hello(Intent::Member(None)).encode()),
        ("hello-join".to_owned(), hello(Intent::Join { claim: claim(), proof: [3; 32] }).encode()),
        ("welcome".to_owned(), welcome(false).encode()),
        ("welcome-join".to_owned(), welcome(true).encode()),
        ("header".to_owned(), HEADER.encode().to_vec()),
        ("request".to_owned(), REQUEST.encode()),
        ("response".to_owned(), RESPONSE.encode()),
    ];
    all.extend(refusals().iter().enumerate().map(|(at, one)| (format!("refused-{at}"), one.encode())));
    all.extend(faults().iter().enumerate().map(|(at, one)| (format!("fault-{at}"), one.encode())));
    all.push(("hello-guest".to_owned(), hello(Intent::Guest(b"pass".to_vec())).encode()));
    all
}

#[test]
fn the_bytes_of_version_1_never_change() {
    let text: String = samples().iter().map(|(name, bytes)| format!("{name} {}\n", base::ids::hex(bytes))).collect();
    assert_eq!(text, include_str!("v1.txt"));
}

#[test]
fn everything_is_read_back_as_written() {
    assert_eq!(Certificate::decode(&certificate().encode()), Ok(certificate()));
    assert_eq!(MemberList::decode(&list().encode()), Ok(list()));
    for intent in [
        Intent::Member(None),
        Intent::Member(Some(certificate())),
        Intent::Join { claim: claim(), proof: [3; 32] },
        Intent::Guest(vec![5; wire::greet::PASS_BYTES_MAX]),
    ] {
        assert_eq!(Hello::decode(&hello(intent.clone()).encode()), Ok(hello(intent)));
    }
    for host in [false, true] {
        assert_eq!(Welcome::decode(&welcome(host).encode()), Ok(welcome(host)));
    }
    for refused in refusals() {
        assert_eq!(Refused::decode(&refused.encode()), Ok(refused));
    }
    for fault in faults() {
        assert_eq!(Fault::decode(&fault.encode()), Ok(fault));
    }
    assert_eq!(Header::decode(&HEADER.encode()), Ok(HEADER));
    let mut bytes = REQUEST.encode();
    let at = bytes.len();
    bytes.extend_from_slice(b"body");
    assert_eq!(RequestHead::decode(&bytes), Ok((REQUEST, at)));
    assert_eq!(ResponseHead::decode(&RESPONSE.encode()), Ok((RESPONSE, RESPONSE.encode().len())));
}

#[test]
fn a_later_release_may_append_to_greetings_and_send_unknown_frames() {
    for (name, mut bytes) in samples() {
        bytes.extend_from_slice(b"something new");
        match name.split('-').next().unwrap() {
            "hello" => assert!(Hello::decode(&bytes).is_ok()),
            "welcome" => assert!(Welcome::decode(&bytes).is_ok()),
            "refused" => assert!(Refused::decode(&bytes).is_ok()),
            _ => {}
        }
    }
    assert_eq!(Refused::decode(b"AbNo\xc8"), Ok(Refused::Unknown(200)));
    let header = Header { kind: Kind::Unknown(200), more: false, call: 0, len: 9 };
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    let unknown = Header { kind: Kind::Unknown(99), more: false, call: 0, len: 9 };
    assert_eq!(Header::decode(&unknown.encode()), Err(wire::Error::UnknownFrame { kind: 99 }));
}

#[test]
fn versions_are_agreed_on_or_not_at_all() {
    assert_eq!(agree(&(1..=1), &(1..=2)), Some(1));
    assert_eq!(agree(&(2..=5), &(1..=3)), Some(3));
    assert_eq!(agree(&(3..=4), &(1..=2)), None);
    assert_eq!(agree(&(1..=2), &(3..=4)), None);
}

#[test]
fn no_frame_may_claim_more_than_its_kind() {
    for code in 0..=255 {
        let header = Header { kind: Kind::Unknown(code), more: false, call: 0, len: u32::MAX };
        assert!(Header::decode(&header.encode()).is_err(), "{code}");
    }
}

/// SplitMix64: chance from a seed.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn decode_all(bytes: &[u8]) {
    // None may panic, and what is read must have one form.
    if let Ok(value) = Certificate::decode(bytes) {
        assert_eq!(value.encode(), bytes);
    }
    if let Ok(value) = MemberList::decode(bytes) {
        assert_eq!(value.encode(), bytes);
    }
    if let Ok(value) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&value.encode()), Ok(value));
    }
    if let Ok(value) = Welcome::decode(bytes) {
        assert_eq!(Welcome::decode(&value.encode()), Ok(value));
    }
    if let Ok(value) = Refused::decode(bytes) {
        assert_eq!(Refused::decode(&value.encode()), Ok(value));
    }
    if let Ok(value) = Fault::decode(bytes) {
        assert!(Fault::decode(&value.encode()).is_ok());
    }
    if let Ok((value, at)) = RequestHead::decode(bytes) {
        assert_eq!(value.encode().len(), at);
    }
    if let Ok((value, at)) = ResponseHead::decode(bytes) {
        assert_eq!(value.encode(), bytes[..at]);
    }
    if let Some(bytes) = bytes.first_chunk() {
        let _ = Header::decode(bytes);
    }
    let _ = Ticket::parse(&String::from_utf8_lossy(bytes));
}

#[test]
fn hostile_bytes_are_errors_and_nothing_else() {
    let mut samples: Vec<Vec<u8>> = samples().into_iter().map(|(_, bytes)| bytes).collect();
    let ticket = Ticket::issue(&RootKey::new([9; 32]), ClusterId([7; 16]), TicketId([2; 8]), Wall(0), &[]);
    samples.push(ticket.text().into_bytes());
    let mut state = 1;
    for round in 0..20_000 {
        let mut bytes = if round % 4 == 0 {
            (0..next(&mut state) % 300).map(|_| next(&mut state) as u8).collect()
        } else {
            samples[(next(&mut state) % samples.len() as u64) as usize].clone()
        };
        for _ in 0..next(&mut state) % 4 {
            let at = (next(&mut state) % bytes.len().max(1) as u64) as usize;
            match next(&mut state) % 4 {
                0 => bytes.truncate(at),
                1 if !bytes.is_empty() => bytes[at] = next(&mut state) as u8,
                2 if !bytes.is_empty() => bytes[at] ^= 1 << (next(&mut state) % 8),
                _ => bytes.insert(at.min(bytes.len()), 0xff),
            }
        }
        decode_all(&bytes);
    }
}

#[test]
fn a_forged_certificate_or_list_is_refused() {
    let root = RootKey::new([9; 32]).signing_key().public();
    let cluster = ClusterId([7; 16]);
    let bytes = certificate().encode();
    for at in 5..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert!(Certificate::decode(&wrong).unwrap().verify(&root, cluster).is_err(), "{at}");
    }
    assert_eq!(certificate().verify(&root, cluster), Ok(()));
    let bytes = list().encode();
    for at in 5..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        let refused = MemberList::decode(&wrong).map_or(true, |list| list.verify(&root, cluster).is_err());
        assert!(refused, "{at}");
    }
    assert_eq!(list().verify(&root, cluster), Ok(()));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let fault = Fault::new(Blame::Bug, "ä".repeat(600) + "x");
    assert_eq!(fault.message.len(), 1024);
    assert_eq!(Fault::decode(&fault.encode()), Ok(fault));
}
