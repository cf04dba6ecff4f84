//! A client engine on one node, all its drives on three others: storms over the network, the nodes
//! and their drives, in simulated time, each from its seed.
//!
//! In each phase one holder has trouble: it is cut off, in one direction or both, hangs, dies, loses
//! power, or one of its drives fails or fills up. Meanwhile objects are written, read and broken off.
//! 1. A write finds a way, with the retries that any client has. What was whole before the phase
//!    is read without one error.
//! 2. When the trouble is over all drives are up again by themselves, what is noted as missing can be
//!    rebuilt, and every object verifies without a finding.
//! 3. Nothing is left of what was broken off, but on the holder in trouble.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../node/tests/cluster/mod.rs"]
mod cluster;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{DriveId, Kind, Kinded, PieceId};
use client::{Error, Holder};
use cluster::{Gateway, HolderNode, Holding, Town, bytes, drive, drives, segments, until};
use namespace::Version;
use sim::chance::Chance;
use sim::disk::{Faults, SimDisk};
use sim::world;

const PORT: u16 = 7400;
const HOLDERS: [u8; 3] = [2, 3, 4];
const ALL: [u8; 4] = [1, 2, 3, 4];

fn name(seed: u8) -> String {
    format!("n{seed}")
}

fn here() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], PORT))
}

fn folder(at: u8) -> PathBuf {
    PathBuf::from(format!("/d{at}"))
}

/// What only the simulation's owner can do.
#[derive(Clone, Copy, Debug)]
enum Order {
    Crash(u8),
    Power(u8),
    Bounce(u8),
}

/// Shared by all nodes of a run.
struct Stage {
    seed: u64,
    town: Arc<Town>,
    disks: Vec<SimDisk>,
    lives: AtomicU64,
    /// Holders give up what nobody went on with for so long.
    idle: Duration,
    holders: Mutex<Vec<Option<Arc<HolderNode>>>>,
    orders: Mutex<VecDeque<Order>>,
}

impl Stage {
    fn new(seed: u64) -> Arc<Self> {
        Self::idle(seed, Duration::from_secs(900))
    }

    fn idle(seed: u64, idle: Duration) -> Arc<Self> {
        let disks: Vec<_> = ALL.iter().map(|node| SimDisk::new(seed << 8 | u64::from(*node))).collect();
        for disk in &disks {
            (0..2).for_each(|at| disk.set_faults(&folder(at), Faults::default()));
        }
        let (lives, orders) = Default::default();
        let holders = Mutex::new(vec![None, None, None, None, None]);
        Arc::new(Self { seed, town: Town::new(&ALL), disks, lives, idle, holders, orders })
    }

    fn disk(&self, node: u8) -> &SimDisk {
        &self.disks[usize::from(node) - 1]
    }

    fn env(&self, node: u8) -> env::Env {
        world::env(self.seed << 16 | self.lives.fetch_add(1, SeqCst) << 4 | u64::from(node), self.disk(node))
    }

    fn order(&self, order: Order) {
        self.orders.lock().unwrap().push_back(order);
    }

    fn holder(&self, node: u8) -> Option<Arc<HolderNode>> {
        self.holders.lock().unwrap()[usize::from(node)].clone()
    }
}

async fn hold(stage: Arc<Stage>, node: u8) -> turmoil::Result {
    let env = stage.env(node);
    let mut holding = Holding::default();
    (holding.options.log_bytes, holding.options.extent_file_bytes) = (1 << 20, 8 << 20);
    holding.limits.idle = stage.idle;
    let holder = HolderNode::start(&env, &stage.town, node, here(), &[folder(0), folder(1)], holding).await;
    let holder = Arc::new(holder);
    stage.holders.lock().unwrap()[usize::from(node)] = Some(holder.clone());
    loop {
        // As its supervision does.
        env.clock.sleep(Duration::from_secs(1)).await;
        for (_, store) in &holder.stores {
            let _ = store.check_path().await;
        }
    }
}

fn run<F: Future<Output = turmoil::Result> + 'static>(stage: Arc<Stage>, work: impl FnOnce(Arc<Stage>) -> F) {
    let seed = stage.seed;
    let mut world = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(Duration::from_millis(2))
        .simulation_duration(Duration::from_secs(4 * 3600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(4096)
        .build();
    for node in HOLDERS {
        let stage = stage.clone();
        world.host(name(node), move || hold(stage.clone(), node));
    }
    world.client(name(1), work(stage.clone()));
    loop {
        match world.step() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
        loop {
            let order = stage.orders.lock().unwrap().pop_front();
            match order {
                None => break,
                Some(Order::Bounce(node)) => world.bounce(name(node)),
                Some(Order::Crash(node) | Order::Power(node)) => {
                    // Handles die first: what destructors still do changes nothing.
                    match order {
                        Some(Order::Power(_)) => stage.disk(node).power_cut(),
                        _ => stage.disk(node).kill(),
                    }
                    world.crash(name(node));
                    stage.holders.lock().unwrap()[usize::from(node)] = None;
                }
            }
        }
    }
}

async fn gateway(stage: &Stage, code: cluster::Code) -> Arc<Gateway> {
    let env = stage.env(1);
    ALL.iter().for_each(|node| stage.town.know(*node, SocketAddr::new(turmoil::lookup(name(*node)), PORT)));
    let gateway = Gateway::start(&env, &stage.town, 1, here(), &drives(&HOLDERS, 2), code).await;
    gateway.live(6).await;
    Arc::new(gateway)
}

/// What can go wrong with a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    CutOff,
    Deaf,
    Mute,
    Hangs,
    Dies,
    LosesPower,
    DriveGone,
    DriveErrs,
    DriveFull,
}

const TROUBLES: [Trouble; 9] = [
    Trouble::CutOff,
    Trouble::Deaf,
    Trouble::Mute,
    Trouble::Hangs,
    Trouble::Dies,
    Trouble::LosesPower,
    Trouble::DriveGone,
    Trouble::DriveErrs,
    Trouble::DriveFull,
];

impl Trouble {
    fn begin(self, stage: &Stage, node: u8) {
        let (me, other) = (name(1), name(node));
        let faults = |faults| stage.disk(node).set_faults(&folder(0), faults);
        match self {
            Trouble::CutOff => turmoil::partition(me, other),
            Trouble::Deaf => turmoil::partition_oneway(me, other),
            Trouble::Mute => turmoil::partition_oneway(other, me),
            Trouble::Hangs => turmoil::hold(me, other),
            Trouble::Dies => stage.order(Order::Crash(node)),
            Trouble::LosesPower => stage.order(Order::Power(node)),
            Trouble::DriveGone => faults(Faults { gone: true, ..Faults::default() }),
            Trouble::DriveErrs => faults(Faults { read_errors: 2000, write_errors: 2000, ..Faults::default() }),
            Trouble::DriveFull => {
                let capacity = Some(stage.disk(node).used(&folder(0)) + 4096);
                faults(Faults { capacity, ..Faults::default() });
            }
        }
    }

    fn end(self, stage: &Stage, node: u8) {
        let (me, other) = (name(1), name(node));
        match self {
            Trouble::CutOff => turmoil::repair(me, other),
            Trouble::Deaf => turmoil::repair_oneway(me, other),
            Trouble::Mute => turmoil::repair_oneway(other, me),
            Trouble::Hangs => turmoil::release(me, other),
            Trouble::Dies | Trouble::LosesPower => stage.order(Order::Bounce(node)),
            Trouble::DriveGone | Trouble::DriveErrs | Trouble::DriveFull => {
                // A drive that was fenced is opened anew.
                stage.disk(node).set_faults(&folder(0), Faults::default());
                stage.order(Order::Crash(node));
                stage.order(Order::Bounce(node));
            }
        }
    }
}

type Object = (Version, Vec<u8>);

struct Storm {
    stage: Arc<Stage>,
    gateway: Arc<Gateway>,
    chance: Mutex<Chance>,
    /// Whole when the phase began.
    old: Mutex<Vec<Arc<Object>>>,
    new: Mutex<Vec<Arc<Object>>>,
    count: AtomicU64,
}

impl Storm {
    fn below(&self, bound: u64) -> u64 {
        self.chance.lock().unwrap().below(bound)
    }

    fn body(&self) -> Vec<u8> {
        let len = [5_000, 100_000, 700_000, 3_000_000][self.below(4) as usize] + self.below(4000);
        bytes(self.stage.seed << 20 | self.count.fetch_add(1, SeqCst), len as usize)
    }

    /// One thing after the other, until it is enough.
    async fn work(self: Arc<Self>) {
        for _ in 0..4 {
            match self.below(5) {
                0 => self.break_off().await,
                1 | 2 => self.read().await,
                _ => self.write().await,
            }
            self.gateway.env.clock.sleep(Duration::from_millis(self.below(400))).await;
        }
    }

    async fn write(&self) {
        let body = self.body();
        let key = format!("o{}", self.count.fetch_add(1, SeqCst));
        let mut last = String::new();
        for _ in 0..8 {
            match self.gateway.try_put(&key, &body).await {
                Ok(version) => {
                    self.new.lock().unwrap().push(Arc::new((version, body)));
                    return;
                }
                Err(error) => {
                    assert!(error.kind().is_transient(), "seed {}: write: {error}", self.stage.seed);
                    last = error.to_string();
                }
            }
            self.gateway.env.clock.sleep(Duration::from_millis(200 + self.below(300))).await;
        }
        panic!("seed {}: a write finds no way: {last}", self.stage.seed);
    }

    async fn read(&self) {
        let pick = |all: &Mutex<Vec<Arc<Object>>>| {
            let all = all.lock().unwrap();
            (!all.is_empty()).then(|| all[self.below(all.len() as u64) as usize].clone())
        };
        if let Some(object) = pick(&self.old) {
            let began = self.gateway.env.clock.now();
            self.gateway.check(&object.0, &object.1, &format!("seed {}: during trouble", self.stage.seed)).await;
            let took = self.gateway.env.clock.now().since(began);
            assert!(took < Duration::from_secs(5), "seed {}: a read took {took:?}", self.stage.seed);
        }
        if let Some(object) = pick(&self.new) {
            match self.gateway.get(&object.0).await {
                Ok(got) => assert!(got == object.1, "seed {}: other bytes came back", self.stage.seed),
                // It may have been acknowledged without the one piece that is needed now.
                Err(error) => assert!(matches!(error, Error::TooFewPieces { .. }), "seed {}: {error}", self.stage.seed),
            }
        }
    }

    /// A write that ends before its time.
    async fn break_off(&self) {
        let body = self.body();
        let limit = Duration::from_millis(self.below(150));
        if let Some(Ok(content)) = self.gateway.env.timeout(limit, self.gateway.write(&body)).await {
            self.gateway.client.discard(&content);
        }
    }

    async fn phase(self: &Arc<Self>, trouble: Trouble, victim: u8) {
        let workers: Vec<_> = (0..3).map(|_| tokio::spawn(self.clone().work())).collect();
        let env = &self.gateway.env;
        env.clock.sleep(Duration::from_millis(self.below(300))).await;
        trouble.begin(&self.stage, victim);
        for worker in workers {
            worker.await.unwrap();
        }
        trouble.end(&self.stage, victim);
        // First what was ordered happens: until then all may still seem well.
        until(env, "the holder is there", || {
            self.stage.orders.lock().unwrap().is_empty() && self.stage.holder(victim).is_some()
        })
        .await;
        env.clock.sleep(Duration::from_secs(3)).await;
        let what = format!("seed {}: all drives are up after {trouble:?} of {victim}", self.stage.seed);
        until(env, &what, || self.gateway.client.drives().live().len() == 6).await;
        self.heal().await;
        self.old.lock().unwrap().append(&mut self.new.lock().unwrap());
        let objects = self.old.lock().unwrap().clone();
        for object in &objects {
            self.gateway.check(&object.0, &object.1, &format!("seed {}: healed", self.stage.seed)).await;
            let found = self.gateway.client.verify(&self.gateway.bucket, &object.0).await.unwrap();
            assert!(found.is_empty(), "seed {}: after {trouble:?} of {victim}: {found:?}", self.stage.seed);
        }
        self.only_orphans_of(victim, &objects, trouble).await;
    }

    async fn heal(&self) {
        let mut rounds = 0;
        loop {
            match self.gateway.repair_noted().await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => assert!(error.kind().is_transient(), "seed {}: repair: {error}", self.stage.seed),
            }
            rounds += 1;
            assert!(rounds < 60, "seed {}: what is missing can't be rebuilt", self.stage.seed);
            self.gateway.env.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    /// Every piece that no object has is of the one that had trouble; those are cleaned up, as the
    /// node's search for orphans does.
    async fn only_orphans_of(&self, victim: u8, objects: &[Arc<Object>], trouble: Trouble) {
        let mut wanted = BTreeSet::new();
        for segment in objects.iter().flat_map(|object| segments(&object.0)) {
            let row = self.gateway.client.group(segment.policy, segment.group).await.unwrap();
            let piece =
                |(index, drive): (usize, &DriveId)| (*drive, PieceId { segment: segment.id, index: index as u8 });
            wanted.extend(row.members.iter().enumerate().map(piece));
        }
        let is_victims = |id: DriveId| id == drive(victim, 0) || id == drive(victim, 1);
        let mut orphans = Vec::new();
        // Late pieces have half a minute.
        for _ in 0..50 {
            orphans.clear();
            let mut open = 0;
            for node in HOLDERS {
                let holder = self.stage.holder(node).unwrap();
                orphans.extend(holder.pieces().await.into_iter().filter(|piece| !wanted.contains(piece)));
                open += holder.service.writes();
            }
            if open == 0 && orphans.iter().all(|(drive, _)| is_victims(*drive)) {
                break;
            }
            self.gateway.env.clock.sleep(Duration::from_secs(1)).await;
        }
        let strange: Vec<_> = orphans.iter().filter(|(drive, _)| !is_victims(*drive)).collect();
        assert!(strange.is_empty(), "seed {}: {trouble:?} of {victim} leaves {strange:?}", self.stage.seed);
        for node in HOLDERS {
            let open = self.stage.holder(node).unwrap().service.writes();
            assert_eq!(open, 0, "seed {}: writes are left on {node} after {trouble:?} of {victim}", self.stage.seed);
        }
        for (drive, piece) in orphans {
            self.gateway.remotes.get(drive).unwrap().delete(vec![piece]).await.unwrap();
        }
    }
}

fn storm(seed: u64) {
    run(Stage::new(seed), |stage| async move {
        let gateway = gateway(&stage, (3, 2, 4)).await;
        let chance = Mutex::new(Chance::new(seed));
        let (old, new, count) = Default::default();
        let storm = Arc::new(Storm { stage, gateway, chance, old, new, count });
        storm.write().await;
        storm.write().await;
        storm.old.lock().unwrap().append(&mut storm.new.lock().unwrap());
        for phase in 0..2 {
            // Every trouble has its turn, whatever the seeds.
            let trouble = TROUBLES[((seed * 2 + phase) % TROUBLES.len() as u64) as usize];
            let victim = HOLDERS[storm.below(3) as usize];
            storm.phase(trouble, victim).await;
        }
        Ok(())
    });
}

/// What the nodes themselves say, if somebody asks with `ABIDE_LOG=debug`.
fn listen() {
    if let Ok(filter) = std::env::var("ABIDE_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let log = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr);
        // Another test of this process may have done so.
        let _ = log.try_init();
    }
}

/// `REMOTE_SEED=n cargo nextest run -p sim --test remote storms` runs one again.
fn lane(lane: u64) {
    listen();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("REMOTE_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("REMOTE_SEEDS").unwrap_or(36)),
    };
    (first..first + count).filter(|seed| seed % 2 == lane).for_each(storm);
}

#[test]
fn what_other_nodes_hold_survives_storms_0() {
    lane(0);
}

#[test]
fn what_other_nodes_hold_survives_storms_1() {
    lane(1);
}

/// The node hangs in the middle of a write: the write goes on without it, or is tried again, and a
/// read of before needs no longer than it takes to notice.
#[test]
fn a_node_that_hangs_in_the_middle_holds_nobody_up() {
    run(Stage::new(77), |stage| async move {
        let gateway = gateway(&stage, (3, 2, 3)).await;
        let env = gateway.env.clone();
        let before = bytes(1, 4_000_000);
        let version = gateway.put("before", &before).await;
        // In the middle of a write, whose other pieces are enough.
        let body = bytes(2, 12_000_000);
        let began = env.clock.now();
        let writer = tokio::spawn({
            let (gateway, body) = (gateway.clone(), body.clone());
            async move { gateway.try_put("during", &body).await }
        });
        let holder = stage.holder(3).unwrap();
        until(&env, "a piece is being written", || holder.service.writes() > 0).await;
        turmoil::hold(name(1), name(3));
        let read_from = env.clock.now();
        gateway.check(&version, &before, "read while it hangs").await;
        let read = env.clock.now().since(read_from);
        let during = writer.await.unwrap();
        let wrote = env.clock.now().since(began);
        assert!(read < Duration::from_secs(2), "the read took {read:?}");
        assert!(wrote < Duration::from_secs(8), "the write took {wrote:?}");
        gateway.check(&during.unwrap(), &body, "what was written meanwhile").await;
        // In the middle of a read.
        turmoil::release(name(1), name(3));
        until(&env, "it is back", || gateway.client.drives().live().len() == 6).await;
        let mut stream = gateway.client.read(&gateway.bucket, &version, 0..version.size).unwrap();
        let mut got = stream.next().await.unwrap().unwrap().to_vec();
        turmoil::hold(name(1), name(3));
        let began = env.clock.now();
        while let Some(bytes) = stream.next().await {
            got.extend_from_slice(&bytes.unwrap());
        }
        let took = env.clock.now().since(began);
        assert!(got == before && took < Duration::from_secs(3), "the rest of a read took {took:?}");
        turmoil::release(name(1), name(3));
        Ok(())
    });
}

/// Who writes dies without a word: the holder gives the room back by itself.
#[test]
fn a_write_nobody_goes_on_with_is_given_up() {
    run(Stage::idle(78, Duration::from_secs(60)), |stage| async move {
        let gateway = gateway(&stage, (3, 2, 4)).await;
        let env = gateway.env.clone();
        let mut writer = gateway.client.writer(&gateway.bucket, Some(20_000_000)).named("a key");
        let part = bytes::Bytes::from(bytes(1, 8_000_000));
        writer.write(part).await.unwrap();
        let holders: Vec<_> = HOLDERS.iter().map(|node| stage.holder(*node).unwrap()).collect();
        let open = || holders.iter().map(|holder| holder.service.writes()).sum::<usize>();
        until(&env, "pieces are being written", || open() >= 5).await;
        // Slow, but there: nobody takes its room away.
        env.clock.sleep(Duration::from_secs(40)).await;
        assert_eq!(open(), 5);
        HOLDERS.iter().for_each(|node| turmoil::partition(name(1), name(*node)));
        drop(writer);
        env.clock.sleep(Duration::from_secs(120)).await;
        assert_eq!(open(), 0);
        HOLDERS.iter().for_each(|node| turmoil::repair(name(1), name(*node)));
        until(&env, "all are back", || gateway.client.drives().live().len() == 6).await;
        Ok(())
    });
}

/// What a holder has said is durable, is, when its power goes the next moment.
#[test]
fn what_a_holder_acknowledged_survives_its_power() {
    for seed in 100..110 {
        run(Stage::new(seed), move |stage| async move {
            let gateway = gateway(&stage, (3, 2, 4)).await;
            let remote = gateway.remotes.get(drive(2, 0)).unwrap();
            let piece = |index| PieceId { segment: base::SegmentId([seed as u8; 16]), index };
            let mut all = Vec::new();
            for (index, len) in [100, 70_000, 400_000, 1_500_000].into_iter().enumerate() {
                let body = bytes::Bytes::from(bytes(seed + index as u64, len));
                let header = bytes::Bytes::from_static(b"head");
                remote.put(piece(index as u8), header, vec![body.clone()], 65_552).await.unwrap();
                all.push((piece(index as u8), body));
            }
            stage.order(Order::Power(2));
            stage.order(Order::Bounce(2));
            until(&gateway.env, "it is away", || stage.holder(2).is_none()).await;
            until(&gateway.env, "it is back", || stage.holder(2).is_some()).await;
            until(&gateway.env, "its drives are up", || gateway.client.drives().live().len() == 6).await;
            let mut tries = 0;
            while remote.stat(piece(0)).await.is_err_and(|error| error.kind() == Kind::Unreachable) {
                tries += 1;
                assert!(tries < 100, "seed {seed}: it never answers");
                gateway.env.clock.sleep(Duration::from_millis(100)).await;
            }
            for (piece, body) in all {
                assert_eq!(remote.read(piece, 0, body.len() as u64).await.unwrap(), body, "seed {seed}");
                assert_eq!(remote.header(piece).await.unwrap(), &b"head"[..]);
            }
            let none = remote.read(piece(9), 0, 1).await.unwrap_err();
            assert_eq!(none.kind(), Kind::Missing);
            Ok(())
        });
    }
}
