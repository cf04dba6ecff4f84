//! A client engine whose drives are all on other nodes, over real sockets and folders.
#![allow(missing_docs, clippy::unwrap_used)]

use crate::cluster;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use base::{Kind, Kinded, PieceId, SegmentId};
use bytes::Bytes;
use client::{DriveState, Holder};
use cluster::{Code, Gateway, HolderNode, Holding, MIB, Town, bytes, drive, drives, node, segments, until};
use codec::Versioned;
use env::{BoxFuture, Env};
use node::remote::message::{self, Ask, State, Told};
use node::remote::{PIECES, PieceService, ServiceLimits};
use transport::{Body, Call, Caller, Class, Fault, Request, Response, Service};

struct Rig {
    town: Arc<Town>,
    gateway: Gateway,
    holders: Vec<HolderNode>,
    folder: tempfile::TempDir,
}

fn anywhere() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

impl Rig {
    /// Node 1 writes; nodes 2, 3, 4 hold two drives each.
    async fn new(code: Code) -> Self {
        Self::with(code, |_| Holding::default()).await
    }

    async fn with(code: Code, mut holding: impl FnMut(u8) -> Holding) -> Self {
        let (env, town) = (Env::real(), Town::new(&[1, 2, 3, 4, 5]));
        let folder = tempfile::tempdir().unwrap();
        let mut holders = Vec::new();
        for seed in [2, 3, 4] {
            holders.push(holder(&env, &town, folder.path().into(), seed, holding(seed)).await);
        }
        let gateway = Gateway::start(&env, &town, 1, anywhere(), &drives(&[2, 3, 4], 2), code).await;
        Self { town, gateway, holders, folder }
    }

    async fn live(code: Code) -> Self {
        let rig = Self::new(code).await;
        rig.gateway.live(6).await;
        rig
    }

    async fn pieces(&self) -> usize {
        let mut count = 0;
        for holder in &self.holders {
            count += holder.pieces().await.len();
        }
        count
    }

    /// Waits until no piece is left, nor any that was begun.
    async fn gone(&self) {
        let env = &self.gateway.env;
        until(env, "no piece is being written", || self.holders.iter().all(|holder| holder.service.writes() == 0))
            .await;
        for _ in 0..1000 {
            if self.pieces().await == 0 {
                return;
            }
            env.clock.sleep(Duration::from_millis(10)).await;
        }
        panic!("{} pieces are left", self.pieces().await);
    }
}

async fn holder(env: &Env, town: &Town, folder: PathBuf, seed: u8, holding: Holding) -> HolderNode {
    let folders: Vec<_> = (0..2).map(|at| folder.join(format!("n{seed}d{at}"))).collect();
    folders.iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
    let holder = HolderNode::start(env, town, seed, anywhere(), &folders, holding).await;
    town.know(seed, holder.endpoint.address().unwrap());
    holder
}

fn some_piece(index: u8) -> PieceId {
    PieceId { segment: SegmentId([9; 16]), index }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_to_other_nodes_is_read_back_even_with_one_gone() {
    for code in [(4, 2, 5), (3, 2, 4), (1, 2, 2)] {
        let rig = Rig::live(code).await;
        let sizes = [5000, 100_000, MIB, 3 * MIB + 17, 20 * MIB + 1];
        let mut all = Vec::new();
        for (at, size) in sizes.into_iter().enumerate() {
            let bytes = bytes(at as u64, size);
            all.push((rig.gateway.put(&format!("o{at}"), &bytes).await, bytes));
        }
        for (version, bytes) in &all {
            rig.gateway.check(version, bytes, &format!("{code:?}, {} bytes", bytes.len())).await;
        }
        rig.holders[1].endpoint.close();
        for (version, bytes) in &all {
            rig.gateway.check(version, bytes, &format!("{code:?}, {} bytes, one node gone", bytes.len())).await;
        }
        // Those two drives are known to be gone.
        let registry = rig.gateway.client.drives();
        let gone = || (0..2).all(|at| registry.state(drive(3, at)) == DriveState::Gone);
        until(&rig.gateway.env, "the node's drives are gone", gone).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_of_a_lost_node_are_rebuilt_onto_another() {
    let rig = Rig::live((4, 2, 5)).await;
    let body = bytes(1, 9 * MIB);
    let version = rig.gateway.put("o", &body).await;
    rig.holders[0].endpoint.close();
    // A new node takes the lost one's place in the group.
    let new = holder(&rig.gateway.env, &rig.town, rig.folder.path().into(), 5, Holding::default()).await;
    (0..2).for_each(|at| rig.gateway.remotes.set(drive(5, at), node(5)));
    let registry = rig.gateway.client.drives();
    let up = || registry.state(drive(5, 0)) == DriveState::Up && registry.state(drive(5, 1)) == DriveState::Up;
    until(&rig.gateway.env, "the new node's drives are up", up).await;
    for segment in segments(&version) {
        let mut row = (*rig.gateway.client.group(segment.policy, segment.group).await.unwrap()).clone();
        let mut missing = Vec::new();
        for (index, member) in row.members.iter_mut().enumerate() {
            if let Some(at) = (0..2).find(|at| *member == drive(2, *at)) {
                *member = drive(5, at);
                missing.push(index as u8);
            }
        }
        assert_eq!(missing.len(), 2);
        row.from = row.members.clone();
        row.version += 1;
        let place = (segment.policy, &row);
        let done = rig.gateway.client.rebuild(rig.gateway.bucket.volume, segment.id, place, &missing).await.unwrap();
        assert_eq!(done.pieces, missing);
        rig.gateway.put_group(segment.policy, &row).await;
    }
    assert_eq!(new.pieces().await.len(), 2 * segments(&version).len());
    // Now another one may go.
    rig.holders[1].endpoint.close();
    rig.gateway.check(&version, &body, "after the repair, another node gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_at_a_time_all_finish_with_all_their_pieces() {
    let rig = Rig::live((4, 2, 5)).await;
    // More than there are connections to a node, and large enough for pieces in several parts.
    let puts = (0..24u64).map(|at| {
        let gateway = &rig.gateway;
        async move {
            let bytes = bytes(at, 6 * MIB + at as usize * 1000);
            (gateway.put(&format!("o{at}"), &bytes).await, bytes)
        }
    });
    let all = futures_util::future::join_all(puts).await;
    assert_eq!(rig.pieces().await, 24 * 6);
    for (version, bytes) in &all {
        rig.gateway.check(version, bytes, "one of many").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_off_write_leaves_nothing_behind() {
    let rig = Rig::live((4, 2, 5)).await;
    let part = Bytes::from(bytes(1, MIB));
    for parts in [0, 1, 7, 20] {
        let mut writer = rig.gateway.client.writer(&rig.gateway.bucket, Some(20 * MIB as u64)).named("a key");
        for _ in 0..parts {
            writer.write(part.clone()).await.unwrap();
        }
        if parts == 20 {
            // All is durable, and never committed.
            let content = writer.finish().await.unwrap();
            rig.gateway.client.discard(&content);
        } else {
            drop(writer);
        }
        rig.gone().await;
    }
    // Cut at any moment of its end.
    for ms in 0..12 {
        let whole = bytes(ms, 3 * MIB);
        let write = rig.gateway.write(&whole);
        if let Some(content) = rig.gateway.env.timeout(Duration::from_millis(ms * 4), write).await {
            rig.gateway.client.discard(&content.unwrap());
        }
        rig.gone().await;
    }
}

/// Answers, but with a bit of each piece's bytes changed; `silent` also fixes the checksums.
struct Liar {
    truth: Arc<PieceService>,
    lies: Arc<AtomicBool>,
    silent: bool,
}

impl Service for Liar {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let response = self.truth.handle(caller, request).await?;
            if !self.lies.load(SeqCst) || response.body.is_empty() {
                return Ok(response);
            }
            let body =
                response.body.collect(8 * MIB).await.map_err(|error| Fault::new(Kind::Bug, error.to_string()))?;
            let mut body = body.to_vec();
            let at = body.len() / 2;
            body[at] ^= 1;
            let body = Bytes::from(body);
            let head = match Told::decode(&response.head).map_err(|error| Fault::new(Kind::Bug, error.to_string()))? {
                Told::Read(_) if self.silent => {
                    let sums = message::sums(std::slice::from_ref(&body), message::READ_STRETCH_BYTES);
                    Told::Read(sums).encode().into()
                }
                _ => response.head,
            };
            Ok(Response::new(head).with_body(body))
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_a_lying_node_are_noticed_and_had_from_others() {
    for silent in [false, true] {
        let lies = Arc::new(AtomicBool::new(false));
        let rig = Rig::with((4, 2, 5), |seed| {
            let lies = lies.clone();
            let wrap = move |truth| Arc::new(Liar { truth, lies, silent }) as Arc<dyn Service>;
            Holding { wrap: (seed == 3).then(|| Box::new(wrap) as cluster::Wrap), ..Holding::default() }
        })
        .await;
        rig.gateway.live(6).await;
        let mut found = rig.gateway.client.findings().unwrap();
        let body = bytes(1, 6 * MIB);
        // A node that was slow a moment ago is asked last, and one that was slow at the write may have no piece at all: not each
        // read meets the liar, and on a busy machine few do.
        let mut told = None;
        'all: for number in 0..100 {
            lies.store(false, SeqCst);
            let version = rig.gateway.put(&format!("o{number}"), &body).await;
            lies.store(true, SeqCst);
            for _ in 0..50 {
                rig.gateway.check(&version, &body, "a node lies").await;
                // What a degraded write left out is missing, and no lie.
                told = found.try_recv().ok().filter(|finding| finding.fault == client::Fault::Damaged);
                if told.is_some() {
                    break 'all;
                }
            }
        }
        let finding = told.expect("somebody was told");
        assert!((0..2).any(|at| finding.drive == Some(drive(3, at))), "{finding:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_drive_says_comes_through() {
    let rig = Rig::live((4, 2, 5)).await;
    let remote = rig.gateway.remotes.get(drive(2, 0)).unwrap();
    let body = bytes(1, 300_001);
    let parts = vec![Bytes::copy_from_slice(&body[..70_000]), Bytes::copy_from_slice(&body[70_000..])];
    let piece = some_piece(0);
    let missing = remote.read(piece, 0, 10).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::Missing, "{missing}");
    remote.put(piece, Bytes::from_static(b"header"), parts, 65_552).await.unwrap();
    // It is there at once, on that drive, as the store has it.
    let (_, store) = &rig.holders[0].stores[0];
    assert_eq!(store.read(piece, 0, 300_001).await.unwrap(), body);
    assert_eq!(remote.header(piece).await.unwrap(), &b"header"[..]);
    for (offset, len) in [(0, 0), (0, 1), (65_550, 10), (0, 300_001), (300_000, 1)] {
        let (from, to) = (offset as usize, (offset + len) as usize);
        assert_eq!(remote.read(piece, offset, len).await.unwrap(), body[from..to]);
    }
    let over = remote.read(piece, 300_000, 2).await.unwrap_err();
    assert_eq!(over.kind(), Kind::Invalid, "{over}");
    let info = remote.stat(piece).await.unwrap();
    assert_eq!((info.len, info.cell_bytes), (300_001, 65_552));
    assert_eq!(remote.contains(&[some_piece(1), piece]).await.unwrap(), [false, true]);
    remote.put(some_piece(7), Bytes::new(), Vec::new(), 1).await.unwrap();
    let (first, next) = remote.list(0, 1).await.unwrap();
    let (second, _) = remote.list(next.unwrap(), 10).await.unwrap();
    assert_eq!(first.len() + second.len(), 2);
    remote.delete(vec![piece, some_piece(7), some_piece(8)]).await.unwrap();
    assert_eq!(remote.contains(&[piece]).await.unwrap(), [false]);
    assert_eq!(store.health().trash_pieces, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_pieces_and_long_reads_take_several_calls() {
    let rig = Rig::live((4, 2, 5)).await;
    let remote = rig.gateway.remotes.get(drive(2, 1)).unwrap();
    let body = Bytes::from(bytes(1, 11 * MIB + 5));
    remote.put(some_piece(0), Bytes::from(bytes(2, MIB)), vec![body.clone()], 65_552).await.unwrap();
    assert_eq!(remote.read(some_piece(0), 3, body.len() as u64 - 3).await.unwrap(), body.slice(3..));
    assert_eq!(remote.header(some_piece(0)).await.unwrap(), bytes(2, MIB));
    // Announced as long, and short.
    let mut writer = remote.create(some_piece(1), 1000, 64 << 20).await.unwrap();
    for at in 0..3 {
        writer.write(vec![body.slice(at * MIB..(at + 1) * MIB)]).await.unwrap();
    }
    writer.finish(Bytes::new()).await.unwrap();
    assert_eq!(remote.read(some_piece(1), 0, 3 << 20).await.unwrap(), body.slice(..3 * MIB));
    assert_eq!(rig.holders[0].service.writes(), 0);
    // More than announced.
    let mut writer = remote.create(some_piece(2), 1000, 10).await.unwrap();
    let error = writer.write(vec![body.slice(..11)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_is_not_there_is_no_missing_piece() {
    let rig = Rig::live((4, 2, 5)).await;
    let remote = rig.gateway.remotes.get(drive(2, 0)).unwrap();
    remote.put(some_piece(0), Bytes::new(), vec![Bytes::from_static(b"x")], 1).await.unwrap();
    rig.holders[0].service.remove(drive(2, 0));
    let error = remote.read(some_piece(0), 0, 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    let registry = rig.gateway.client.drives();
    until(&rig.gateway.env, "it is gone", || registry.state(drive(2, 0)) == DriveState::Gone).await;
    assert_eq!(registry.state(drive(2, 1)), DriveState::Up);
    rig.holders[0].service.set(drive(2, 0), rig.holders[0].stores[0].1.clone());
    until(&rig.gateway.env, "it is back", || registry.state(drive(2, 0)) == DriveState::Up).await;
    // A drive that takes no writes is read last, and gets no new pieces.
    rig.holders[0].stores[0].1.fence("the test says so");
    let error = remote.put(some_piece(1), Bytes::new(), vec![Bytes::from_static(b"x")], 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    until(&rig.gateway.env, "it is suspect", || registry.state(drive(2, 0)) == DriveState::Suspect).await;
    assert!(matches!(remote.health().unwrap().state, State::Failed(_)) && !remote.writable());
    assert_eq!(remote.read(some_piece(0), 0, 1).await.unwrap(), &b"x"[..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_drive_says_busy_and_gets_no_more() {
    let rig = Rig::with((3, 2, 4), |seed| {
        let mut holding = Holding::default();
        // Node 3 keeps more in reserve than any disk has.
        holding.options.reserve_bytes = if seed == 3 { 1 << 60 } else { 0 };
        holding
    })
    .await;
    let remote = rig.gateway.remotes.get(drive(3, 0)).unwrap();
    let mut tries = 0;
    // A look at the drive's health that was under way sees a disk with room.
    while tries == 0 || (remote.writable() && tries < 20) {
        let put = remote.put(some_piece(0), Bytes::new(), vec![Bytes::from(vec![1; MIB])], 65_536).await;
        let error = put.unwrap_err();
        assert_eq!(error.kind(), Kind::Busy { retry_after: Duration::from_secs(30) }, "{error}");
        tries += 1;
    }
    assert!(!remote.writable());
    // The store goes on with four drives; the fifth piece is noted.
    let body = bytes(3, 2 * MIB);
    let mut put = Err(client::Error::Invalid { what: "never tried" });
    for _ in 0..20 {
        put = rig.gateway.try_put("o", &body).await;
        if put.is_ok() {
            break;
        }
    }
    rig.gateway.check(&put.unwrap(), &body, "with a full node").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_asked_too_much_says_busy_and_takes_it_later() {
    let limits = ServiceLimits {
        calls_max: 1,
        wait: Duration::ZERO,
        retry_after: Duration::from_millis(5),
        memory_bytes: 2 << 20,
        full_below: 0,
        ..ServiceLimits::default()
    };
    let rig = Rig::with((4, 2, 5), |_| Holding { limits: limits.clone(), ..Holding::default() }).await;
    let remote = &rig.gateway.remotes.get(drive(2, 0)).unwrap();
    let puts = (0..12).map(|at| async move {
        let body = vec![Bytes::from(vec![at; 200_000])];
        remote.put(some_piece(at), Bytes::new(), body, 65_536).await
    });
    for done in futures_util::future::join_all(puts).await {
        done.unwrap();
    }
    assert_eq!(rig.holders[0].pieces().await.len(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_answered_with_a_reason() {
    let rig = Rig::live((4, 2, 5)).await;
    let part = |offset, len: u32, sums| message::Part {
        write: message::WriteId([1; 16]),
        piece: some_piece(0),
        cell_bytes: 65_536,
        len_max: 1 << 20,
        offset,
        len,
        sums,
        header: Some((0, codec::crc64(b""))),
    };
    let put = |part| Ask::Put(drive(2, 0), part).encode();
    let sum = codec::crc64(b"abc");
    let cases = [
        (Vec::new(), Bytes::new(), Kind::Unreachable),
        (vec![7; 300], Bytes::new(), Kind::Unreachable),
        (put(part(0, 3, vec![sum + 1])), Bytes::from_static(b"abc"), Kind::Damaged),
        (put(part(0, 3, vec![sum])), Bytes::from_static(b"ab"), Kind::Invalid),
        (put(part(0, 3, vec![sum])), Bytes::from_static(b"abcd"), Kind::Invalid),
        (put(part(5, 3, vec![sum])), Bytes::from_static(b"abc"), Kind::Conflict),
        (put(part(1 << 20, 3, vec![sum])), Bytes::from_static(b"abc"), Kind::Unreachable),
        (Ask::Read(drive(9, 9), some_piece(0), 0, 1).encode(), Bytes::new(), Kind::Unreachable),
        (Ask::Read(drive(2, 0), some_piece(0), u64::MAX, 1).encode(), Bytes::new(), Kind::Missing),
    ];
    for (at, (head, body, kind)) in cases.into_iter().enumerate() {
        let call = Call::new(PIECES, Class::Small, head).with_body(Body::from(body));
        let error = rig.gateway.endpoint.call(node(2), call).await.unwrap_err();
        assert_eq!(error.kind(), kind, "case {at}: {error}");
    }
    assert_eq!((rig.pieces().await, rig.holders[0].service.writes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_changes_nothing_and_what_is_revoked_stays_away() {
    let rig = Rig::live((4, 2, 5)).await;
    let body = Bytes::from(bytes(1, 100_000));
    let part = |write, range: std::ops::Range<usize>, last: bool| {
        let bytes = body.slice(range.clone());
        let part = message::Part {
            write: message::WriteId([write; 16]),
            piece: some_piece(write),
            cell_bytes: 50_000,
            len_max: 100_000,
            offset: range.start as u64,
            len: bytes.len() as u32,
            sums: message::sums(std::slice::from_ref(&bytes), 50_000),
            header: last.then(|| (0, codec::crc64(b""))),
        };
        let ask = Ask::Put(drive(2, 0), part);
        Call::of(PIECES, Class::Small, &ask).with_body(Body::from(bytes))
    };
    let send = |call| async {
        let reply = rig.gateway.endpoint.call(node(2), call).await;
        reply.map(|reply| reply.decode::<Told>().unwrap()).map_err(|error| error.kind())
    };
    for _ in 0..2 {
        assert_eq!(send(part(1, 0..50_000, false)).await, Ok(Told::Put(50_000, false)));
    }
    for _ in 0..2 {
        assert_eq!(send(part(1, 50_000..100_000, true)).await, Ok(Told::Put(100_000, true)));
    }
    assert_eq!(send(part(1, 0..50_000, false)).await, Err(Kind::Conflict));
    // Revoked before it began, and in the middle.
    assert_eq!(send(part(3, 0..50_000, false)).await, Ok(Told::Put(50_000, false)));
    let writes = [2, 3].map(|write| message::WriteId([write; 16]));
    let revoke = Ask::Delete(drive(2, 0), writes.to_vec(), Vec::new());
    assert_eq!(send(Call::of(PIECES, Class::Control, &revoke)).await, Ok(Told::Delete(0)));
    assert_eq!(send(part(2, 0..100_000, true)).await, Err(Kind::Conflict));
    assert_eq!(send(part(3, 50_000..100_000, true)).await, Err(Kind::Conflict));
    // A failed part ends the write.
    assert_eq!(send(part(4, 0..40_000, false)).await, Ok(Told::Put(40_000, false)));
    assert_eq!(send(part(4, 50_000..100_000, true)).await, Err(Kind::Conflict));
    assert_eq!(send(part(4, 40_000..100_000, true)).await, Err(Kind::Conflict));
    let pieces: Vec<_> = rig.holders[0].pieces().await.into_iter().map(|(_, piece)| piece).collect();
    assert_eq!((pieces, rig.holders[0].service.writes()), (vec![some_piece(1)], 0));
}
