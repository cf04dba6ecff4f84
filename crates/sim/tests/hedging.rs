//! Six nodes with one drive each and objects in 4+2: one of them becomes slow, or hangs, and who reads
//! hardly notices. In simulated time, so that the figures are exact.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../node/tests/cluster/mod.rs"]
mod cluster;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{Gateway, HolderNode, Holding, Town, bytes, drives};
use env::{BoxFuture, Env};
use futures_util::StreamExt;
use namespace::Version;
use node::remote::PieceService;
use sim::disk::{Faults, SimDisk};
use sim::world;
use transport::{Caller, Fault, Request, Response, Service};

const PORT: u16 = 7400;
const HOLDERS: [u8; 6] = [2, 3, 4, 5, 6, 7];
const ALL: [u8; 7] = [1, 2, 3, 4, 5, 6, 7];
const SLOW: u8 = 4;
const READS: usize = 1000;
const NEVER: u64 = u64::MAX;

/// Answers late, or never.
struct Late {
    service: Arc<PieceService>,
    env: Env,
    ms: Arc<AtomicU64>,
}

impl Service for Late {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            match self.ms.load(SeqCst) {
                0 => {}
                NEVER => std::future::pending().await,
                ms => self.env.clock.sleep(Duration::from_millis(ms)).await,
            }
            self.service.handle(caller, request).await
        })
    }
}

fn name(node: u8) -> String {
    format!("n{node}")
}

fn here() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], PORT))
}

fn env(seed: u64, node: u8) -> (Env, PathBuf) {
    let (disk, folder) = (SimDisk::new(seed << 8 | u64::from(node)), PathBuf::from("/d"));
    disk.set_faults(&folder, Faults::default());
    (world::env(seed << 16 | u64::from(node), &disk), folder)
}

async fn hold(town: Arc<Town>, seed: u64, node: u8, late: Arc<AtomicU64>) -> turmoil::Result {
    let (env, folder) = env(seed, node);
    let mut holding = Holding::default();
    (holding.options.log_bytes, holding.options.extent_file_bytes) = (1 << 20, 8 << 20);
    let ms = if node == SLOW { late } else { Arc::default() };
    let late_env = env.clone();
    holding.wrap = Some(Box::new(move |service| Arc::new(Late { service, env: late_env, ms })));
    let _holder = HolderNode::start(&env, &town, node, here(), &[folder], holding).await;
    std::future::pending().await
}

/// What the reads took, shortest first.
struct Took(Vec<Duration>);

impl Took {
    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:?}, p90 {:?}, p99 {:?}, longest {:?}", self.at(50), self.at(90), self.at(99), self.at(100))
    }
}

struct Reads {
    gateway: Gateway,
    objects: Vec<(Version, Vec<u8>)>,
    many: usize,
}

impl Reads {
    async fn all(&self) -> Took {
        let clock = &self.gateway.env.clock;
        let took = Mutex::new(Vec::new());
        let all = &took;
        let reads = (0..READS).map(|at| async move {
            let (version, data) = &self.objects[at % self.objects.len()];
            let began = clock.now();
            self.gateway.check(version, data, "a read").await;
            all.lock().unwrap().push(clock.now().since(began));
        });
        futures_util::stream::iter(reads).buffer_unordered(self.many).for_each(|()| async {}).await;
        let mut took = took.into_inner().unwrap();
        took.sort_unstable();
        Took(took)
    }
}

/// Objects of `size` bytes, `many` reads at a time; `at_length`: while it lasts and after it, too, not only
/// when it begins.
fn one_slow_node(seed: u64, size: usize, many: usize, at_length: bool) {
    let (town, late) = (Town::new(&ALL), Arc::<AtomicU64>::default());
    let mut world = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(4 * 3600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(4))
        .tcp_capacity(4096)
        .build();
    for node in HOLDERS {
        let (town, late) = (town.clone(), late.clone());
        world.host(name(node), move || hold(town.clone(), seed, node, late.clone()));
    }
    world.client(name(1), async move {
        let (env, _) = env(seed, 1);
        ALL.iter().for_each(|node| town.know(*node, SocketAddr::new(turmoil::lookup(name(*node)), PORT)));
        let gateway = Gateway::start(&env, &town, 1, here(), &drives(&HOLDERS, 1), (4, 2, 6)).await;
        gateway.live(6).await;
        let mut objects = Vec::new();
        for at in 0..40 {
            let data = bytes(at, size);
            objects.push((gateway.put(&format!("o{at}"), &data).await, data));
        }
        let reads = Reads { gateway, objects, many };
        // All connections are there, and how long reads usually take is known.
        for (version, data) in reads.objects.iter().chain(&reads.objects) {
            reads.gateway.check(version, data, "a first read").await;
        }
        let healthy = reads.all().await;
        let what = format!("{size} bytes, {many} at a time: healthy {healthy}");
        for (trouble, ms) in [("answers after a second", 1000), ("hangs", NEVER)] {
            late.store(ms, SeqCst);
            // From the very first read on.
            let first = reads.all().await;
            assert!(first.at(99) <= healthy.at(99) * 2, "{what}; one {trouble}: {first}");
            assert!(first.at(100) <= Duration::from_millis(500), "{what}; one {trouble}: {first}");
            println!("{what}; one {trouble}: {first}");
            if !at_length {
                return Ok(());
            }
            let later = reads.all().await;
            assert!(later.at(99) <= healthy.at(99) * 2, "{what}; one {trouble} for long: {later}");
            // When it is over all is as before.
            late.store(0, SeqCst);
            cluster::until(&env, "the node is back", || reads.gateway.client.drives().live().len() == 6).await;
            for _ in 0..20 {
                reads.gateway.check(&reads.objects[0].0, &reads.objects[0].1, "a read").await;
                env.clock.sleep(Duration::from_secs(1)).await;
            }
            let after = reads.all().await;
            assert!(after.at(99) <= healthy.at(99) * 2, "{what}; after one {trouble}: {after}");
        }
        Ok(())
    });
    world.run().unwrap();
}

#[test]
fn one_slow_node_is_hardly_felt_by_one_reader() {
    one_slow_node(1, 300_000, 1, true);
}

#[test]
fn one_slow_node_is_hardly_felt_by_many_readers() {
    one_slow_node(2, 300_000, 8, true);
}

#[test]
fn one_slow_node_is_hardly_felt_by_readers_of_small_objects() {
    one_slow_node(3, 20_000, 16, true);
}

#[test]
fn one_slow_node_is_hardly_felt_by_readers_of_large_objects() {
    one_slow_node(4, 2_200_000, 2, false);
}
