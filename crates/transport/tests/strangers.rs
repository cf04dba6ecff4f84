//! Who isn't let in, who isn't told why, and what bad bytes do.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use base::{ClusterId, Epoch, Kind, Kinded, Wall};
use bytes::Bytes;
use codec::Versioned;
use common::{BYTES, CLUSTER, COUNT, HANG, Town, echo, key, next, node, until, zeros};
use crypt::RootKey;
use env::Env;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{Body, Call, Carrier, Class, Endpoint, Error, Identity, Secured, Settings, Target, TcpCarrier, join};
use wire::frame::{Header, Kind as Frame};
use wire::greet::{Hello, Instance, Intent};
use wire::{Certificate, Member, MemberList, Ticket, TicketError, TicketId, node_id};

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Short limits, so that tests of limits are short.
fn hasty() -> Settings {
    Settings { greeting: Duration::from_millis(400), stall: Duration::from_millis(400), ..Settings::default() }
}

/// Node 2 of a cluster of 1, 2 and 3, of which 3 only has keys.
async fn server(settings: Settings) -> (Env, Town, Endpoint) {
    let (env, town) = (Env::real(), Town::new());
    let two = town.start(&env, settings, 2, town.list(1, &[1, 2, 3], &[]), anywhere()).await;
    (env, town, two)
}

fn carrier(env: &Env, seed: u8) -> Arc<dyn Carrier> {
    Arc::new(TcpCarrier::new(env.clone(), key(seed), Duration::from_secs(1)).unwrap())
}

/// A stream of somebody with key `seed`, after the handshake.
async fn dial(env: &Env, seed: u8, to: &Endpoint) -> Secured {
    let target = Target { node: None, keys: vec![key(2).public()], addresses: vec![to.address().unwrap()] };
    carrier(env, seed).dial(&target, Class::Control).await.unwrap()
}

fn hello(class: Class, certificate: Option<Certificate>) -> Hello {
    let intent = Intent::Member(certificate);
    Hello { versions: 1..=1, class, instance: Instance([6; 16]), epoch: Epoch(1), intent }
}

fn frame(kind: Frame, call: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, more: false, call, len: payload.len() as u32 };
    [&header.encode()[..], payload].concat()
}

/// Everything that the other side says until it closes.
async fn all_said(stream: &mut Secured) -> Vec<u8> {
    let mut said = Vec::new();
    // A connection that is closed without a goodbye reads as an error: also an end.
    let _ = stream.stream.read_to_end(&mut said).await;
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_member_is_told_nothing() {
    let (env, town, two) = server(hasty()).await;
    two.install(town.list(2, &[1, 2, 3], &[4])).unwrap();
    let other = RootKey::new([1; 32]).signing_key();
    let forged = |cluster| Certificate::sign(&other, cluster, node(5), key(5).public(), 1, Epoch(99));
    let cases = [
        ("no certificate", 5, None),
        ("signed by another root", 5, Some(forged(CLUSTER))),
        ("of another cluster", 5, Some(forged(ClusterId([8; 16])))),
        ("another node's certificate", 5, Some(town.certificate(3, 99))),
        ("expunged", 4, Some(town.certificate(4, 99))),
        ("left", 6, Some(town.certificate(6, 1))),
    ];
    for (count, (what, seed, certificate)) in cases.into_iter().enumerate() {
        let mut stream = dial(&env, seed, &two).await;
        let hello = frame(Frame::Hello, 0, &hello(Class::Control, certificate).encode());
        stream.stream.write_all(&hello).await.unwrap();
        assert_eq!(all_said(&mut stream).await, b"", "{what}");
        until(&env, "it is counted", || two.stats().refused == count as u64 + 1).await;
    }
    assert_eq!(two.stats().inbound, 0);
    // From a whole endpoint's side: the reason that it can know.
    let stranger = town.start(&env, hasty(), 5, town.list(1, &[2, 5], &[]), anywhere()).await;
    let error = stranger.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap_err();
    assert!(error.to_string().contains("closed the connection without a word"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialler_speaks_to_nobody_but_whom_it_looked_for() {
    let (env, town, _two) = server(hasty()).await;
    let one = town.start(&env, hasty(), 1, town.list(1, &[1, 2, 3], &[]), anywhere()).await;
    // Node 3's address is said to be node 2's.
    let wrong = town.book.0.lock().unwrap()[&node(2)].clone();
    town.book.0.lock().unwrap().insert(node(3), wrong);
    let error = one.call(node(3), echo(Class::Small, b"x", Body::empty())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("another node answers there"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_is_known_by_its_certificate_and_can_be_called() {
    let (env, town, two) = server(hasty()).await;
    let list = town.list(2, &[1, 2, 3, 5], &[]);
    let identity = Identity { node: node(5), key: key(5), certificate: Some(town.certificate(5, 2)) };
    let five = town.start_as(&env, hasty(), identity, list, anywhere()).await;
    assert!(matches!(two.call(node(5), echo(Class::Small, b"x", Body::empty())).await, Err(Error::NoMember { .. })));
    five.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap();
    two.call(node(5), echo(Class::Small, b"x", Body::empty())).await.unwrap();
    assert_eq!(two.stats().epoch_heard, 2, "it knows that its list is old");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expunged_node_is_cut_at_once_in_both_directions() {
    let (env, town, two) = server(Settings::default()).await;
    let one = town.start(&env, Settings::default(), 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    let asker = one.clone();
    let call = tokio::spawn(async move { asker.call(node(2), Call::new(HANG, Class::Control, "")).await });
    until(&env, "the call is under way", || town.hang.inside.load(SeqCst) == 1).await;
    two.call(node(1), echo(Class::Small, b"x", Body::empty())).await.unwrap();
    assert_eq!(two.install(town.list(2, &[2, 3], &[1])), Ok(true));
    assert_eq!(call.await.unwrap().unwrap_err().kind(), Kind::Unreachable);
    until(&env, "its call has ended", || town.hang.inside.load(SeqCst) == 0).await;
    until(&env, "its connections are gone", || two.stats().inbound == 0).await;
    assert!(matches!(two.call(node(1), echo(Class::Small, b"x", Body::empty())).await, Err(Error::NoMember { .. })));
    assert!(one.call(node(2), echo(Class::Bulk, b"x", Body::empty())).await.is_err());
    assert_eq!(two.stats().inbound, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_key_is_replaced_while_it_serves() {
    let (env, town, two) = server(Settings::default()).await;
    let one = town.start(&env, Settings::default(), 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    one.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap();
    let root = town.root.signing_key();
    let list = |epoch, previous| {
        let one = Member { node: node(1), serial: 1, key: key(1).public(), previous: None };
        let two = Member { node: node(2), serial: 2, key: key(102).public(), previous };
        MemberList::sign(&root, CLUSTER, Epoch(epoch), vec![one, two], vec![])
    };
    // First all hear of the new key, then the node shows it, then the old one is forgotten.
    let both = list(2, Some(key(2).public()));
    assert_eq!((one.install(both.clone()), two.install(both)), (Ok(true), Ok(true)));
    one.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap();
    let certificate = Certificate::sign(&root, CLUSTER, node(2), key(102).public(), 2, Epoch(2));
    two.replace_identity(Identity { node: node(2), key: key(102), certificate: Some(certificate) }).unwrap();
    let new = list(3, None);
    assert_eq!((one.install(new.clone()), two.install(new)), (Ok(true), Ok(true)));
    for class in Class::ALL {
        one.call(node(2), echo(class, b"x", Body::empty())).await.unwrap();
        two.call(node(1), echo(class, b"x", Body::empty())).await.unwrap();
    }
    let mut old = dial_any(&env, 2, &two).await;
    let said = frame(Frame::Hello, 0, &hello(Class::Control, Some(town.certificate(2, 1))).encode());
    old.stream.write_all(&said).await.unwrap();
    assert_eq!(all_said(&mut old).await, b"", "the old key opens nothing");
}

async fn dial_any(env: &Env, seed: u8, to: &Endpoint) -> Secured {
    let target = Target { node: None, keys: vec![], addresses: vec![to.address().unwrap()] };
    carrier(env, seed).dial(&target, Class::Control).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_key_are_noticed_and_the_second_refused() {
    let (env, town, two) = server(Settings::default()).await;
    let list = town.list(1, &[1, 2], &[]);
    let first = town.start(&env, Settings::default(), 1, list.clone(), anywhere()).await;
    first.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap();
    let second = town.start(&env, Settings::default(), 1, list.clone(), anywhere()).await;
    let error = second.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap_err();
    assert!(error.to_string().contains("another process is connected with this node's key"), "{error}");
    first.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap();
    // Once the first has ended the second is simply the node after a restart.
    first.close();
    until(&env, "the first is gone", || two.stats().inbound == 0).await;
    until(&env, "the second has found it", || second.is_up(node(2)) == Some(true)).await;
    second.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap();
}

fn ticket(town: &Town, id: u8, expires: Wall, to: &Endpoint) -> Ticket {
    Ticket::issue(&town.root, CLUSTER, TicketId([id; 8]), expires, &[to.address().unwrap()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_lets_one_machine_join_and_says_what_is_wrong_otherwise() {
    let (env, town, two) = server(Settings::default()).await;
    let later = Wall(env.clock.wall().0 + 60_000);
    let attempt = |seed: u8, ticket: Ticket| {
        let (env, carrier) = (env.clone(), carrier(&env, seed));
        async move { join(&env, &Settings::default(), &carrier, key(seed).public(), &ticket, Bytes::from("me")).await }
    };
    // As people do: by its text.
    let good = Ticket::parse(&ticket(&town, 1, later, &two).text()).unwrap();
    let joined = attempt(5, good.clone()).await.unwrap();
    assert_eq!(joined.root, town.root.signing_key().public());
    assert_eq!(joined.host.node, node(2));
    let (certificate, ask) = joined.answer.split_at(joined.answer.len() - 2);
    let certificate = Certificate::decode(certificate).unwrap();
    assert_eq!((certificate.node, certificate.key, ask), (node_id(&key(5).public()), key(5).public(), &b"me"[..]));
    // With it the machine is a member.
    let identity = Identity { node: node(5), key: key(5), certificate: Some(certificate) };
    let five = town.start_as(&env, Settings::default(), identity, town.list(1, &[1, 2, 3], &[]), anywhere()).await;
    five.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap();

    assert_eq!(attempt(6, good).await.unwrap_err(), Error::Ticket(TicketError::Used));
    let old = Wall(env.clock.wall().0 - 60_000);
    let expired = attempt(6, ticket(&town, 2, old, &two)).await.unwrap_err();
    assert!(matches!(expired, Error::Ticket(TicketError::Expired { .. })), "{expired}");
    let other = Town { root: RootKey::new([1; 32]), ..Town::new() };
    let wrong = attempt(6, ticket(&other, 3, later, &two)).await.unwrap_err();
    assert!(wrong.to_string().contains("ticket isn't one of its cluster"), "{wrong}");
    assert_eq!(town.desk.used.lock().unwrap().len(), 1);
    // A joiner asks one thing and is no member.
    let nowhere = Ticket::issue(&town.root, CLUSTER, TicketId([4; 8]), later, &["127.0.0.1:1".parse().unwrap()]);
    assert!(attempt(6, nowhere).await.unwrap_err().to_string().contains("127.0.0.1:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_learns_nothing_of_a_ticket_and_gets_nobody_to_join() {
    // It has a root key of its own, and listens where the ticket points to.
    let (env, town) = (Env::real(), Town::new());
    let other = Town { root: RootKey::new([1; 32]), ..Town::new() };
    let impostor = other.start(&env, hasty(), 2, other.list(1, &[2], &[]), anywhere()).await;
    let later = Wall(env.clock.wall().0 + 60_000);
    let honest = ticket(&town, 1, later, &impostor);
    let carrier = carrier(&env, 5);
    let result = join(&env, &hasty(), &carrier, key(5).public(), &honest, Bytes::from("secret")).await;
    assert!(matches!(result, Err(Error::Join(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_half_open_and_dribbling_connections_are_bounded_in_count_and_time() {
    let settings = Settings { greeting_max: 8, ..hasty() };
    let (env, town, two) = server(settings).await;
    let address = two.address().unwrap();
    let mut state = 1;
    let mut open = Vec::new();
    for round in 0..60u64 {
        let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut garbage: Vec<u8> = (0..next(&mut state) % 2000).map(|_| next(&mut state) as u8).collect();
        if round % 3 == 0 {
            // The beginning of a handshake, and then nothing.
            garbage = [&[0x16, 3, 1, 2, 0][..], &[1; 30]].concat();
        }
        let _ = raw.write_all(&garbage).await;
        open.push(raw);
        assert!(two.stats().greeting <= 8);
    }
    // A member gets in all the same, while they still hang there.
    let one = town.start(&env, Settings::default(), 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    one.call(node(2), echo(Class::Control, b"x", Body::empty())).await.unwrap();
    // Somebody who says a byte now and then is cut as well.
    let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
    let began = env.clock.now();
    while slow.write_all(&[0x16]).await.is_ok() {
        env.clock.sleep(Duration::from_millis(20)).await;
        assert!(env.clock.now().since(began) < Duration::from_secs(5), "it is never cut");
    }
    until(&env, "all of them are cut", || two.stats().greeting == 0).await;
    for raw in &mut open {
        let mut rest = Vec::new();
        let _ = raw.read_to_end(&mut rest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bytes_of_strangers_and_members_end_their_connection_only() {
    let (env, town, two) = server(hasty()).await;
    let one = town.start(&env, Settings::default(), 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    let oversized = Header { kind: Frame::Hello, more: false, call: 0, len: u32::MAX }.encode();
    let greeting = frame(Frame::Hello, 0, &hello(Class::Control, None).encode());
    for (what, bytes) in [
        ("oversized hello", oversized.to_vec()),
        ("another frame first", frame(Frame::Request, 1, b"")),
        ("no hello", frame(Frame::Hello, 0, b"AbHi")),
    ] {
        let mut stream = dial(&env, 3, &two).await;
        stream.stream.write_all(&bytes).await.unwrap();
        assert_eq!(all_said(&mut stream).await, b"", "{what}");
    }
    let oversized = Header { kind: Frame::Data, more: false, call: 0, len: 2 << 20 }.encode();
    let mut state = 2;
    for round in 0..200 {
        let class = [Class::Control, Class::Small, Class::Bulk][round % 3];
        let mut stream = dial(&env, 3, &two).await;
        stream.stream.write_all(&frame(Frame::Hello, 0, &hello(class, None).encode())).await.unwrap();
        let bytes = match round % 5 {
            0 => oversized.to_vec(),
            1 => greeting.clone(),
            2 => frame(Frame::Request, 1, &[0xff; 40]),
            3 => (0..next(&mut state) % 100).map(|_| next(&mut state) as u8).collect(),
            _ => {
                let head = wire::frame::RequestHead { service: 1, deadline_ms: 50, body_len: 3, head: b"x" };
                let mut bytes = frame(Frame::Request, 1, &head.encode());
                let at = (next(&mut state) % bytes.len() as u64) as usize;
                bytes[at] ^= 1 << (next(&mut state) % 8);
                bytes
            }
        };
        let _ = stream.stream.write_all(&bytes).await;
        let _ = stream.stream.shutdown().await;
        let said = all_said(&mut stream).await;
        assert_eq!(said[0], Frame::Welcome.code());
        one.call(node(2), echo(class, b"x", Body::empty())).await.unwrap();
    }
    until(&env, "they are gone", || two.stats().inbound <= 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_cut_or_stalls_ends_as_an_error_on_either_side() {
    let (env, town, two) = server(hasty()).await;
    let one = town.start(&env, hasty(), 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    // The caller's side breaks off, says less than promised, more than promised, or nothing more.
    let head = wire::frame::RequestHead { service: COUNT.0, deadline_ms: 0, body_len: 100, head: b"" }.encode();
    let request =
        [&Header { kind: Frame::Request, more: true, call: 1, len: head.len() as u32 }.encode()[..], &head].concat();
    for (what, rest, close) in [
        ("cut", frame(Frame::Data, 1, &[0; 50]), true),
        ("stalled", frame(Frame::Data, 1, &[0; 50]), false),
        ("short", [frame(Frame::Data, 1, &[0; 50]), frame(Frame::End, 1, b"")].concat(), false),
        ("long", frame(Frame::Data, 1, &[0; 101]), false),
    ] {
        let mut stream = dial(&env, 3, &two).await;
        let hello = frame(Frame::Hello, 0, &hello(Class::Bulk, None).encode());
        stream.stream.write_all(&[hello, request.clone(), rest].concat()).await.unwrap();
        let welcome = read_frame(&mut stream).await.unwrap();
        assert_eq!(welcome.0, Frame::Welcome, "{what}");
        if close {
            stream.stream.shutdown().await.unwrap();
        }
        if let Some((kind, _)) = read_frame(&mut stream).await {
            assert_eq!(kind, Frame::Error, "{what}");
        } else {
            assert!(close, "{what}");
        }
    }
    // The answer's side goes away in the middle.
    let ask = Call::new(BYTES, Class::Bulk, (1u64 << 40).to_le_bytes().to_vec());
    let mut reply = one.call(node(2), ask).await.unwrap();
    reply.body.next().await.unwrap().unwrap();
    two.close();
    let error = loop {
        match reply.body.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a cut body must not look whole"),
        }
    };
    assert_eq!(error.kind(), Kind::Unreachable);
    // A body that fails on its own way.
    let short = Body::stream(Some(10), common::Zeros(5, Bytes::from_static(&[0; 5])));
    assert!(one.call(node(2), Call::new(COUNT, Class::Bulk, "").with_body(short)).await.is_err());
}

async fn read_frame(stream: &mut Secured) -> Option<(Frame, Vec<u8>)> {
    let mut header = [0; 12];
    stream.stream.read_exact(&mut header).await.ok()?;
    let header = Header::decode(&header).unwrap();
    let mut payload = vec![0; header.len as usize];
    stream.stream.read_exact(&mut payload).await.ok()?;
    Some((header.kind, payload))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_cost_little_and_are_let_go() {
    let settings =
        Settings { inbound_of_one_max: 1000, greeting_max: 1000, idle: Duration::from_secs(3), ..Settings::default() };
    let (env, town, two) = server(settings).await;
    let one = town.start(&env, Settings::default(), 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    let hello = frame(Frame::Hello, 0, &hello(Class::Small, None).encode());
    let mut open = Vec::new();
    for _ in 0..1000 {
        let mut stream = dial(&env, 3, &two).await;
        stream.stream.write_all(&hello).await.unwrap();
        open.push(stream);
    }
    until(&env, "all are in", || two.stats().inbound == 1000).await;
    let mut extra = dial(&env, 3, &two).await;
    extra.stream.write_all(&hello).await.unwrap();
    assert_eq!(read_frame(&mut extra).await.unwrap().0, Frame::Refused, "one node's connections have a limit");
    one.call(node(2), Call::new(COUNT, Class::Bulk, "").with_body(zeros(1 << 20))).await.unwrap();
    until(&env, "the idle ones are let go", || two.stats().inbound < 10).await;
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_a_common_version_are_told_so() {
    let (env, town, _two) = server(hasty()).await;
    let newer = Settings { versions: 3..=4, ..hasty() };
    let one = town.start(&env, newer, 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    let error = one.call(node(2), echo(Class::Small, b"x", Body::empty())).await.unwrap_err();
    assert!(error.to_string().contains("speaks versions 1 to 1"), "{error}");
}

/// What a node of version 1 says, recorded.
const OLDER: &str = include_str!("v1.txt");

fn recorded(name: &str) -> Vec<u8> {
    let line = OLDER.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    let mut bytes = vec![0; line.len() / 2];
    assert!(base::ids::unhex(line, &mut bytes));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_peer_one_version_behind_is_served() {
    let newer = Settings { versions: 1..=2, ..Settings::default() };
    let (env, _town, two) = server(newer).await;
    for class in ["control", "bulk"] {
        let mut stream = dial(&env, 3, &two).await;
        stream.stream.write_all(&recorded(&format!("{class}-asks"))).await.unwrap();
        let (kind, welcome) = read_frame(&mut stream).await.unwrap();
        assert_eq!((kind, &welcome[..6]), (Frame::Welcome, &b"AbWe\x01\0"[..]), "version 1 is spoken");
        let wanted = recorded(&format!("{class}-hears"));
        let mut heard = vec![0; wanted.len()];
        stream.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(base::ids::hex(&heard), base::ids::hex(&wanted), "{class}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_peer_one_version_behind_is_asked() {
    let (env, town) = (Env::real(), Town::new());
    let newer = Settings { versions: 1..=2, ..Settings::default() };
    let one = town.start(&env, newer, 1, town.list(1, &[1, 2], &[]), anywhere()).await;
    let door = carrier(&env, 2).listen(anywhere()).await.unwrap();
    town.book.0.lock().unwrap().insert(node(2), vec![door.address().unwrap()]);
    tokio::spawn(async move {
        loop {
            let mut stream = door.accept().await.unwrap().secure().await.unwrap();
            tokio::spawn(async move {
                let (_, hello) = read_frame(&mut stream).await.unwrap();
                stream.stream.write_all(&recorded("welcomes")).await.unwrap();
                let class = Hello::decode(&hello).unwrap().class;
                while let Some((kind, _)) = read_frame(&mut stream).await {
                    let said = match (kind, class) {
                        (Frame::Ping, _) => frame(Frame::Pong, 0, b""),
                        (Frame::Request, Class::Control) => recorded("control-answers"),
                        (Frame::Request, _) => recorded("bulk-answers"),
                        _ => continue,
                    };
                    stream.stream.write_all(&said).await.unwrap();
                }
            });
        }
    });
    for class in [Class::Control, Class::Bulk] {
        let reply = one.call(node(2), echo(class, b"head", Body::empty())).await.unwrap();
        assert_eq!(reply.head, &b"head"[..]);
        assert_eq!(reply.body.collect(10).await.unwrap(), &b"body"[..], "{class:?}");
    }
}
