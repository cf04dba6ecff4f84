//! A storm: a whole store under concurrent clients while its drives fail and its process dies;
//! then everything is healed, and everything must be there.
//!
//! What holds during a storm, of the six drives under the default code (3+2):
//! 1. At most two drives, the victims, do anything wrong; the process may die at any time.
//! 2. What was acknowledged is read back as it was, always; a read finds an answer.
//! 3. After the storm all victims are healed (what was deleted comes back empty). The store must
//!    repair itself within ten minutes, survive the loss of two drives again, and scrub and verify
//!    without a finding. Then come the next two victims.
//! 4. What several clients see of keys that they share is linearizable, from the first request to
//!    the last read.
//! 5. At the end the power goes once more, and everything is read again.

mod chaos;
mod hot;
mod stage;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use node::{Node, Settings};

use crate::disk::{Faults, Lie, SimDisk};
use crate::http::Signer;
use crate::oracle::Truths;
use crate::world;
use stage::{ADMIN_PORT, BUCKET, Failed, HOST, Order, REGION, S3_PORT, Stage};

pub use stage::Counts;

const DRIVES: usize = 6;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Everything follows from it.
    pub seed: u64,
    /// Clients at once.
    pub clients: usize,
    /// A lie of the drives, to see whether it is found out.
    pub lie: Lie,
}

impl Storm {
    /// The storm of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, clients: 4, lie: Lie::None }
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
    let disk = SimDisk::new(storm.seed);
    let drives: Vec<PathBuf> = (1..=DRIVES).map(|number| PathBuf::from(format!("/d{number}"))).collect();
    for drive in &drives {
        disk.set_faults(drive, Faults::default());
    }
    disk.plant(storm.lie);
    let stage = Stage::new(storm.seed, disk.clone(), drives);
    let mut sim = turmoil::Builder::new()
        .rng_seed(storm.seed)
        .tick_duration(Duration::from_millis(2))
        .simulation_duration(Duration::from_secs(4 * 3600))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(4096)
        .build();
    let machine = stage.clone();
    sim.host(HOST, move || live(machine.clone()));
    let driver = stage.clone();
    sim.client("driver", async move { drive(driver, storm).await });
    let ended = loop {
        match sim.step() {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error.to_string()),
        }
        while let Some(order) = stage.take_order() {
            // Handles die first: what destructors still do changes nothing.
            match order {
                Order::Kill => disk.kill(),
                Order::PowerCut => disk.power_cut(),
            }
            sim.crash(HOST);
            sim.bounce(HOST);
        }
    };
    let trace = stage.trace();
    match ended {
        Ok(()) => Ok(Report { counts: stage.counts(), fingerprint: disk.fingerprint(), trace }),
        Err(error) => Err(format!("{}\nseed {}: {error}", tail(&trace).join("\n"), storm.seed)),
    }
}

/// The end of a trace, without what only repeats one of the lines shortly before it.
fn tail(trace: &[String]) -> Vec<&str> {
    const LINES: usize = 160;
    const NEAR: usize = 16;
    let said = |line: &String| line.split_once(" ms ").map_or(line.clone(), |(_, said)| said.to_owned());
    let mut kept: Vec<&str> = Vec::new();
    for (number, line) in trace.iter().enumerate() {
        let is_news = trace[number.saturating_sub(NEAR)..number].iter().all(|before| said(before) != said(line));
        if is_news {
            kept.push(line);
        }
    }
    kept.split_off(kept.len().saturating_sub(LINES))
}

/// Small files, so that a short run fills, seals, cleans and checkpoints many.
pub(crate) fn settings(drives: &[PathBuf]) -> Settings {
    let mut settings = Settings::new(drives.to_vec(), PathBuf::from("/home"));
    settings.repair_after = Duration::from_secs(20);
    // Copies may be a moment old: the judge of what clients saw would say so, and be right.
    settings.read_by_kit_after = None;
    settings.garbage_after = Duration::from_secs(5);
    // So short that a storm sees the end of it; some storms have it longer.
    settings.undo_for = Duration::from_secs(10);
    settings.pieces.log_bytes = 256 << 10;
    settings.pieces.extent_file_bytes = 4 << 20;
    settings.pieces.large_min = 64 << 10;
    settings.pieces.reserve_bytes = 64 << 10;
    settings.pieces.trash_min_age = Duration::from_secs(30);
    settings.metadata.file_bytes = 128 << 10;
    settings.metadata.checkpoint_bytes = 96 << 10;
    settings.metadata.layer_bytes = 64 << 10;
    settings.metadata.cache_bytes = 1 << 20;
    settings.metadata.reserve_bytes = 64 << 10;
    settings
}

/// When a process dies, tokio drops its tasks in an order that follows their numbers, and those count
/// on through all runs of one test: each life begins at a round one, or no seed would be played twice
/// the same.
pub(crate) fn number_tasks_anew() {
    const ROUND: u64 = 64;
    // Tasks that only take numbers: they are never run, or they would take turns of others.
    let idle = tokio::task::LocalSet::new();
    for _ in 0..ROUND {
        let number = idle.spawn_local(std::future::ready(())).id().to_string();
        if number.parse::<u64>().is_ok_and(|number| number % ROUND == 0) {
            return;
        }
    }
}

/// One incarnation of the process; like a service manager it tries again when it is refused.
async fn live(stage: Stage) -> Result<(), Failed> {
    number_tasks_anew();
    let life = stage.begin_life();
    let env = world::env(stage.seed ^ life << 40, &stage.disk);
    let mut settings = settings(&stage.drives);
    if stage.keeps_deleted() {
        settings.undo_for = Duration::from_secs(24 * 3600);
    }
    let node = loop {
        match Node::open(env.clone(), settings.clone()).await {
            Ok(started) => break started.node,
            Err(error) => stage.refused(error.to_string()),
        }
        env.clock.sleep(Duration::from_secs(1)).await;
    };
    let listener = env.net.bind(([0, 0, 0, 0], S3_PORT).into()).await?;
    let control = env.net.bind(([0, 0, 0, 0], ADMIN_PORT).into()).await?;
    let shown = admin::Shown { endpoint: format!("http://{HOST}:{S3_PORT}"), region: REGION.into() };
    env.spawn("control", admin::serve(env.clone(), control, node.clone(), shown));
    let face = s3::Settings { region: REGION.into(), ..s3::Settings::default() };
    let engine = Arc::new(s3::Engine::new(node.client().clone()));
    let face = Arc::new(s3::Face::new(env.clone(), engine, face));
    let key = node.access().await?;
    stage.serves(Signer { access_key: key.access_key, secret_key: key.secret_key, region: REGION.into() });
    s3::serve(listener, face, std::future::pending()).await;
    Ok(())
}

/// The clients' side of a storm.
async fn drive(stage: Stage, storm: Storm) -> Result<(), Failed> {
    stage.ready().await?;
    work::make_bucket(&stage).await?;
    let hot = hot::Hot::new(stage.clone());
    let mut all: Vec<Truths> = vec![Truths::new(); storm.clients];
    for half in 0..2 {
        stage.weather(true);
        let trouble = tokio::spawn(chaos::deal(stage.clone(), half));
        let crowd = tokio::spawn(hot.clone().run(half));
        let workers: Vec<_> = all
            .drain(..)
            .enumerate()
            .map(|(number, truths)| {
                let seed = storm.seed ^ ((number as u64 + 1) << 48) ^ (half << 44);
                tokio::spawn(work::Worker::new(stage.clone(), number, seed, truths).run())
            })
            .collect();
        for worker in workers {
            all.push(worker.await?.map_err(Failed::from)?);
        }
        crowd.await?;
        let victims = trouble.await??;
        chaos::heal(&stage, &victims).await?;
        check(&stage, &all, &hot).await?;
    }
    stage.order(Order::PowerCut).await;
    stage.ready().await?;
    check(&stage, &all, &hot).await
}

async fn check(stage: &Stage, all: &[Truths], hot: &hot::Hot) -> Result<(), Failed> {
    for truths in all {
        work::check_all(stage, truths).await?;
    }
    work::check_listing(stage, "w", all).await?;
    hot.check().await
}

/// The bucket's path.
fn bucket_path() -> String {
    format!("/{BUCKET}")
}
