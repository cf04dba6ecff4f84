//! Storms over a cluster: whole nodes in simulated time, on simulated machines with drives, clocks and
//! links of their own, under clients that try again as an SDK does.
//!
//! Two kinds of weather:
//! 1. [`Kind::Promised`]: at any time only so many machines are in trouble as the store promises to
//!    bear. Then no request fails for a client that tries again.
//! 2. [`Kind::Anything`]: any machine, at any time. Requests may fail; nothing that was acknowledged
//!    may be lost, and nothing be read that was never there.
//!
//! After both, all trouble ends, and within a bound of simulated time the nodes agree on who leads,
//! nothing is left to repair, every byte is read back through every node, and what clients saw of the
//! hot keys is linearizable.

mod chaos;
mod live;
pub mod loss;
mod operator;
mod settle;
mod stage;
mod work;

use std::fmt::Debug;
use std::time::Duration;

use crate::chance::Chance;
use crate::disk::Lie;
use crate::linear::{self, Recorder, Verdict};
use crate::oracle::Truths;
use crate::world;
use stage::{Failed, Order, Stage, name};

pub use stage::Counts;

/// The longest that a small request may take, at machines that are well.
const STALL_MS_MAX: u64 = 3000;
/// How far simulated time goes at once.
const TICK: Duration = Duration::from_millis(2);
/// Drives of each machine.
const DRIVES: usize = 2;

/// What may go wrong at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Calm,
    /// As much as the store promises to bear.
    Promised,
    /// Anything.
    Anything,
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Everything follows from it.
    pub seed: u64,
    /// What may go wrong.
    pub kind: Kind,
    /// Machines from the beginning.
    pub nodes: usize,
    /// Sites that they are at in turn, as their labels say; 0: no labels.
    pub sites: usize,
    /// Machines in trouble at once, of the kind that the store promises to bear.
    pub victims: usize,
    /// One more joins in the middle.
    pub joins: bool,
    /// In each phase one joins and one leaves.
    pub turnover: bool,
    /// Somebody mistypes commands all the time.
    pub typos: bool,
    /// And repeats the codes of what is refused, to see whether that is found out.
    pub careless: bool,
    /// Two or three metadata shards for volumes instead of one.
    pub shards: bool,
    /// Clients at once.
    pub clients: usize,
    /// Times that trouble begins and ends.
    pub phases: u64,
    /// Clocks differ.
    pub skew: bool,
    /// In each phase the power of all machines goes at once, or the first machine is cut off; for planted faults.
    pub always: Option<Always>,
    /// A lie of the drives, to see whether it is found out.
    pub lie: Lie,
    /// A lie of the replicas, for the same.
    pub replicas: replicated::lies::Lie,
}

/// What happens in each phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Always {
    /// The power of all machines goes at once.
    Blackout,
    /// The first machine, which leads at first, is cut off from the others, but not from clients.
    Cut,
}

impl Storm {
    /// The storm of a seed.
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x5707);
        let nodes = match chance.below(100) {
            0..72 => 3,
            72..84 => 4,
            84..96 => 5,
            _ => 7,
        };
        let kind = if chance.percent(25) { Kind::Anything } else { Kind::Promised };
        let joins = chance.percent(15);
        let skew = chance.percent(50);
        Self {
            seed,
            kind,
            nodes,
            sites: 0,
            victims: 1,
            joins,
            turnover: false,
            careless: false,
            clients: 3,
            phases: 2,
            skew,
            shards: chance.percent(5),
            typos: chance.percent(40),
            always: None,
            lie: Lie::None,
            replicas: replicated::lies::Lie::None,
        }
    }
}

/// A storm that the store weathered.
#[derive(Clone, Debug)]
pub struct Report {
    /// What happened.
    pub counts: Counts,
    /// The same for two runs only if they did the same to the drives.
    pub fingerprint: u64,
    /// Everything that happened, in order.
    pub trace: Vec<String>,
}

/// Runs a storm.
///
/// # Errors
/// What the store did wrong, after the end of the trace.
pub fn run(storm: Storm) -> Result<Report, String> {
    replicated::lies::plant(storm.replicas);
    let machines = storm.nodes + if storm.turnover { storm.phases as usize } else { usize::from(storm.joins) };
    let mut stage = Stage::new(storm.seed, machines, DRIVES, |number| (storm.sites > 0).then(|| number % storm.sites));
    stage.nodes_per_shard = storm.shards.then_some((storm.nodes / 2).max(1));
    stage.places.iter().for_each(|place| place.disk.plant(storm.lie));
    play(&stage, TICK, &storm, drive(stage.clone(), storm))
}

/// Runs the machines of a stage until its driver is done.
fn play(
    stage: &Stage,
    tick: Duration,
    what: &dyn Debug,
    driver: impl Future<Output = Result<(), Failed>> + 'static,
) -> Result<Report, String> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(stage.seed)
        .tick_duration(tick)
        .simulation_duration(Duration::from_secs(4 * 3600))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(1 << 16)
        .build();
    for number in 0..stage.places.len() {
        let stage = stage.clone();
        sim.host(name(number), move || live::live(stage.clone(), number));
    }
    sim.client("driver", driver);
    let ended = loop {
        match sim.step() {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error.to_string()),
        }
        while let Some(order) = stage.take_order() {
            obey(stage, &mut sim, order);
        }
    };
    let trace = stage.trace();
    let fingerprint = stage.places.iter().fold(0u64, |all, place| all.rotate_left(7) ^ place.disk.fingerprint());
    stage.places.iter().for_each(|place| place.disk.wipe());
    match ended {
        Ok(()) => Ok(Report { counts: stage.counts(), fingerprint, trace }),
        Err(error) => {
            let is_all_asked_for = std::env::var_os("ABIDE_SIM_TRACE").is_some();
            let from = if is_all_asked_for { 0 } else { trace.len().saturating_sub(120) };
            Err(format!("{}\nseed {}: {what:?}: {error}", trace[from..].join("\n"), stage.seed))
        }
    }
}

fn obey(stage: &Stage, sim: &mut turmoil::Sim<'_>, order: Order) {
    match order {
        Order::Kill(number) | Order::PowerCut(number) => {
            let place = &stage.places[number];
            // Handles die first: what destructors still do changes nothing.
            match order {
                Order::Kill(_) => place.disk.kill(),
                _ => place.disk.power_cut(),
            }
            sim.crash(name(number));
            place.machine.thaw();
        }
        Order::Start(number) => sim.bounce(name(number)),
        Order::Latency(number, ms) => {
            for other in (0..stage.places.len()).filter(|other| *other != number) {
                sim.set_link_max_message_latency(name(number), name(other), Duration::from_millis(ms));
            }
        }
    }
}

/// The clients' side of a storm.
async fn drive(stage: Stage, storm: Storm) -> Result<(), Failed> {
    let mut chance = Chance::new(storm.seed ^ 0xc10c);
    if storm.skew {
        for place in stage.places.iter() {
            chaos::skew(place, &mut chance);
        }
    }
    settle::found(&stage, storm.nodes).await?;
    work::make_buckets(&stage).await?;
    if storm.typos {
        operator::prepare(&stage).await?;
    }
    let world = world::env(storm.seed, &stage.places[0].disk);
    let recorder = Recorder::new(world.clock.clone());
    let mut all: Vec<Truths> = vec![Truths::new(); storm.clients];
    for phase in 0..storm.phases {
        stage.weather(true);
        stage.note(format!("phase {phase}"));
        let trouble = tokio::spawn(chaos::deal(stage.clone(), storm, phase));
        let typist = storm.typos.then(|| tokio::spawn(operator::mistype(stage.clone(), phase, storm.careless)));
        let workers: Vec<_> = all
            .drain(..)
            .enumerate()
            .map(|(number, truths)| {
                let seed = storm.seed ^ ((number as u64 + 1) << 48) ^ (phase << 44);
                let worker = work::Worker::new(stage.clone(), storm.kind, number, seed, truths, recorder.clone());
                tokio::spawn(worker.run())
            })
            .collect();
        for worker in workers {
            all.push(worker.await?.map_err(Failed::from)?);
        }
        trouble.await?.map_err(Failed::from)?;
        if let Some(typist) = typist {
            typist.await?.map_err(Failed::from)?;
        }
        settle::settle(&stage).await?;
    }
    operator::check(&stage, storm).await?;
    settle::check(&stage, &all).await?;
    let history = recorder.history();
    let seconds = turmoil::sim_elapsed().unwrap_or_default().as_secs();
    stage.count(|counts| (counts.history, counts.seconds) = (history.len() as u64, seconds));
    let stall = stage.counts().stall_ms;
    if storm.kind == Kind::Promised && stall > STALL_MS_MAX {
        return Err(format!("a small request took {stall} ms at machines that were well").into());
    }
    match linear::check(&history) {
        Verdict::Linearizable => Ok(()),
        verdict => Err(verdict.to_string().into()),
    }
}
