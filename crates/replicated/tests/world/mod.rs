//! A few machines in one thread: drives whose power goes, a network that is slow, cut, one-way or
//! deaf, and time that passes only when nobody has anything to do. Everything from a seed.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use base::{DriveId, Instant, NodeId, Wall};
use bytes::Bytes;
use crypt::MetaKey;
use env::{BoxFuture, Clock, Disk, Env, File, Open, Space, Spawn};
use metastore::{Mirror, Options};
use replicated::{Begin, Error, Lane, Leading, Peers, Places, Replica, SendError, Settings, Who};

#[path = "../../../metastore/tests/common/mod.rs"]
pub mod common;

pub mod story;

pub use common::disk::Drives;
#[allow(unused_imports)]
pub use common::{Chance, Rows, SHARD, apply, journal, random_batch, rows};

pub const SECOND: Duration = Duration::from_secs(1);
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

pub fn number(node: NodeId) -> u8 {
    node.0[0]
}

/// The time of tokio, which is paused and jumps.
struct Ticks(tokio::time::Instant);

impl Clock for Ticks {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> Wall {
        Wall(0)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct InPlace;

impl Spawn for InPlace {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        work();
    }
}

/// Drives that say that they synced and did not.
struct Liar(Arc<dyn Disk>);

impl Disk for Liar {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(LyingFile(self.0.open(path, how)?)))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<env::Entry>> {
        self.0.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.canonical(path)
    }
}

struct LyingFile(Arc<dyn File>);

impl File for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch_hole(offset, len)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
    fn is_at(&self, path: &Path) -> bool {
        self.0.is_at(path)
    }
}

/// What the network does.
pub struct Wire {
    chance: Chance,
    /// Directions that carry nothing.
    pub cut: BTreeSet<(u8, u8)>,
    /// The shortest way, and by how much it may be longer.
    pub delay: Duration,
    pub jitter: Duration,
    /// One message in so many gets lost; 0 for none.
    pub loss: u64,
    /// Each node's replica, and which of its lives that is.
    at: BTreeMap<u8, (u64, Weak<Replica>)>,
    lives: u64,
    pub sent: u64,
    pub bulk_bytes: u64,
    /// What a faulty network answers by itself.
    pub forger: Option<Forger>,
}

/// Sees a message and may answer it in the name of who should.
pub type Forger = Arc<dyn Fn(u8, u8, &Bytes) -> Option<Bytes> + Send + Sync>;

/// The network. Clones are the same.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Wire>>);

impl Network {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Wire {
            chance: Chance(seed),
            cut: BTreeSet::new(),
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(3),
            loss: 0,
            at: BTreeMap::new(),
            lives: 0,
            sent: 0,
            bulk_bytes: 0,
            forger: None,
        })))
    }

    pub fn wire(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap()
    }

    /// Nothing passes between the two sides, in either direction.
    pub fn split(&self, one: &[u8], other: &[u8]) {
        let mut wire = self.wire();
        for a in one {
            for b in other {
                wire.cut.insert((*a, *b));
                wire.cut.insert((*b, *a));
            }
        }
    }

    /// Nothing passes from there to here.
    pub fn cut(&self, from: u8, to: u8) {
        self.wire().cut.insert((from, to));
    }

    pub fn heal(&self) {
        let mut wire = self.wire();
        wire.cut.clear();
        wire.loss = 0;
    }

    /// One way: gives the time it takes, or nothing if it never arrives.
    fn way(&self, from: u8, to: u8) -> Option<Duration> {
        let mut wire = self.wire();
        let jitter = wire.jitter.as_micros() as u64;
        let late = Duration::from_micros(wire.chance.below(jitter + 1));
        let is_lost = wire.loss > 0 && {
            let loss = wire.loss;
            wire.chance.below(loss) == 0
        };
        wire.sent += 1;
        (!is_lost && !wire.cut.contains(&(from, to))).then_some(wire.delay + late)
    }

    fn replica(&self, number: u8, life: Option<u64>) -> Option<(u64, Arc<Replica>)> {
        let wire = self.wire();
        let (now, replica) = wire.at.get(&number)?;
        if life.is_some_and(|life| life != *now) {
            return None;
        }
        Some((*now, replica.upgrade()?))
    }
}

/// One node's end of the network, in one of its lives.
struct End {
    network: Network,
    me: u8,
    life: u64,
}

impl Peers for End {
    fn send(&self, to: NodeId, lane: Lane, message: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes, SendError>> {
        Box::pin(async move {
            let (network, to) = (&self.network, number(to));
            let never = || std::future::pending::<Result<Bytes, SendError>>();
            // Who was killed says nothing any more.
            if network.wire().at.get(&self.me).is_some_and(|(life, _)| *life != self.life) {
                return never().await;
            }
            let forger = network.wire().forger.clone();
            if let Some(forged) = forger.and_then(|forger| forger(self.me, to, &message)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Ok(forged);
            }
            let Some(way) = network.way(self.me, to) else { return never().await };
            tokio::time::sleep(way).await;
            let Some((life, replica)) = network.replica(to, None) else {
                return Err(SendError::Unreachable("nobody listens".into()));
            };
            let reply = replica.handle(node(self.me), &message).await;
            drop(replica);
            if lane == Lane::Bulk {
                network.wire().bulk_bytes += (message.len() + reply.len()) as u64;
            }
            let Some(way) = network.way(to, self.me) else { return never().await };
            tokio::time::sleep(way).await;
            // The one who answered may have been killed meanwhile: nothing left its machine late.
            if network.wire().at.get(&to).is_none_or(|(now, _)| *now != life) {
                return never().await;
            }
            Ok(reply)
        })
    }
}

pub struct Machine {
    pub drives: Drives,
    pub replica: Option<Arc<Replica>>,
    /// Whether the replica's machine has power still.
    pub is_on: Arc<AtomicBool>,
}

pub struct World {
    pub seed: u64,
    pub chance: Chance,
    pub network: Network,
    pub machines: BTreeMap<u8, Machine>,
    pub settings: Settings,
    pub token: [u8; 16],
    /// Drives say that they synced and did not.
    pub lies: bool,
    began: tokio::time::Instant,
}

/// Under these a little data makes files roll, checkpoints come and entries go.
pub fn small() -> Settings {
    let rows = Options {
        value_bytes_min: 256,
        file_bytes: 32 * 1024,
        checkpoint_bytes: 256 * 1024,
        cache_bytes: 1024 * 1024,
        reserve_bytes: 0,
        ..Options::default()
    };
    Settings {
        checkpoint_entries: 40,
        keep_entries: 10,
        digest_entries: 25,
        chunk_bytes: 8 * 1024,
        commit_limit: Duration::from_secs(3),
        log: rows.clone(),
        rows,
        ..Settings::default()
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let network = Network::new(chance.word());
        Self {
            seed,
            chance,
            network,
            machines: BTreeMap::new(),
            settings: small(),
            token: [0; 16],
            lies: false,
            began: tokio::time::Instant::now(),
        }
    }

    /// A world with a group of these nodes, the first of them founded it.
    pub async fn with_group(seed: u64, numbers: &[u8]) -> Self {
        let mut world = Self::new(seed);
        world.grow(numbers).await;
        world
    }

    pub async fn grow(&mut self, numbers: &[u8]) {
        let first = numbers[0];
        self.boot(first, Begin::Found).await.unwrap();
        self.token = self.replica(first).token();
        for number in &numbers[1..] {
            self.boot(*number, Begin::Join { token: self.token }).await.unwrap();
        }
        self.leader().await;
        let voters = numbers.iter().map(|number| node(*number)).collect();
        self.replica(first).set_voters(voters, PATIENCE).await.unwrap();
    }

    pub fn env(&mut self, number: u8) -> Env {
        let drives = self.machines.entry(number).or_insert_with(|| Machine {
            drives: Drives::default(),
            replica: None,
            is_on: Arc::default(),
        });
        let mut env = drives.drives.env(self.chance.word());
        env.clock = Arc::new(Ticks(self.began));
        env.spawn = Arc::new(InPlace);
        if self.lies {
            env.disk = Arc::new(Liar(env.disk));
        }
        env
    }

    pub fn places() -> Places {
        let mirror = |name: &str| Mirror { drive: DriveId([1; 16]), dir: PathBuf::from(format!("/d1/meta/{name}")) };
        Places { rows: vec![mirror("7")], log: vec![mirror("7-log")], ..Places::default() }
    }

    pub async fn boot(&mut self, number: u8, begin: Begin) -> Result<Arc<Replica>, Error> {
        let env = self.env(number);
        self.boot_with(number, env, begin).await
    }

    pub async fn boot_with(&mut self, number: u8, env: Env, begin: Begin) -> Result<Arc<Replica>, Error> {
        let life = {
            let mut wire = self.network.wire();
            wire.lives += 1;
            let life = wire.lives;
            wire.at.insert(number, (life, Weak::new()));
            life
        };
        let peers = Arc::new(End { network: self.network.clone(), me: number, life });
        let who = Who { node: node(number), shard: SHARD };
        let key = MetaKey::new([9; 32]);
        let replica = Replica::open(&env, who, &key, Self::places(), begin, peers, self.settings.clone()).await?;
        self.network.wire().at.insert(number, (life, Arc::downgrade(&replica)));
        let machine = self.machines.get_mut(&number).unwrap();
        machine.replica = Some(Arc::clone(&replica));
        machine.is_on = Arc::new(AtomicBool::new(true));
        Ok(replica)
    }

    pub fn replica(&self, number: u8) -> &Arc<Replica> {
        self.machines[&number].replica.as_ref().unwrap()
    }

    /// Messages that were sent, and when it is: the same for the same seed.
    pub fn trace(&self) -> (u64, Duration) {
        (self.network.wire().sent, self.began.elapsed())
    }

    pub fn up(&self) -> Vec<u8> {
        self.machines.iter().filter(|(_, machine)| machine.replica.is_some()).map(|(number, _)| *number).collect()
    }

    /// The power goes: nothing that the machine still does reaches a drive or the network.
    pub fn kill(&mut self, number: u8) {
        let machine = self.machines.get_mut(&number).unwrap();
        machine.drives.end_power_at(0);
        machine.is_on.store(false, Ordering::Relaxed);
        let mut wire = self.network.wire();
        wire.lives += 1;
        let life = wire.lives;
        wire.at.insert(number, (life, Weak::new()));
        machine.replica = None;
    }

    /// The machine is switched on again; what was not synced is kept, lost or torn.
    pub async fn restart(&mut self, number: u8) {
        self.machines[&number].drives.restart(&mut self.chance);
        self.boot(number, Begin::Existing).await.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
    }

    /// A node that leads and whom a majority follows.
    pub async fn leader(&self) -> u8 {
        let find = async {
            loop {
                for number in self.up() {
                    let replica = self.replica(number);
                    if replica.status().borrow().is_leader
                        && replica.read_barrier(replicated::Read::Index, SECOND).await.is_ok()
                    {
                        return number;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, find).await;
        found.unwrap_or_else(|_| panic!("seed {}: nobody leads: {:#?}", self.seed, self.statuses()))
    }

    pub fn statuses(&self) -> Vec<(u8, replicated::Status)> {
        self.up().into_iter().map(|number| (number, self.replica(number).status().borrow().clone())).collect()
    }

    /// The shard in the hands of whoever leads.
    pub async fn lead(&self) -> Arc<Leading> {
        let began = tokio::time::Instant::now();
        loop {
            let leader = self.leader().await;
            match self.replica(leader).lead().await {
                Ok(leading) => return leading,
                Err(error) => assert!(began.elapsed() < PATIENCE, "seed {}: {error}", self.seed),
            }
        }
    }

    /// Waits until it is so.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut(&World) -> bool) {
        let began = tokio::time::Instant::now();
        while !is_so(self) {
            assert!(
                began.elapsed() < PATIENCE,
                "seed {}: waited for {what} in vain: {:#?}",
                self.seed,
                self.statuses()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs a story in simulated time.
pub fn run<T>(story: impl Future<Output = T>) -> T {
    if let Ok(filter) = std::env::var("STORM_LOG") {
        // It may have been set up before.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).try_init();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(story)
}
