//! What the parts of one run share, and how they talk to the store.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value as Json;

use crate::disk::SimDisk;
use crate::http::{self, Answer, Request, Signer};
use crate::world;

/// The simulated machine's name.
pub const HOST: &str = "abide";
pub const S3_PORT: u16 = 9000;
pub const ADMIN_PORT: u16 = 9001;
pub const REGION: &str = "sim-1";
pub const BUCKET: &str = "storm";

/// A client gives up after so long.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a run may not do; its text says what was seen.
pub type Failed = Box<dyn std::error::Error>;

/// What only the simulation's owner can do: the driver asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `kill -9`, and the store starts again.
    Kill,
    /// The power goes and comes back.
    PowerCut,
}

#[derive(Default)]
struct State {
    signer: Option<Signer>,
    /// The process's incarnation; each has its own chance.
    life: u64,
    /// Whether this incarnation serves.
    serving: bool,
    stormy: bool,
    refused: String,
    orders: VecDeque<Order>,
    serial: u64,
    trace: Vec<String>,
    counts: Counts,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests sent.
    pub requests: u64,
    /// Changes acknowledged.
    pub acknowledged: u64,
    /// Changes of which nobody knows what became.
    pub unknown: u64,
    /// Faults dealt.
    pub faults: u64,
    /// Times that the process ended without a word.
    pub crashes: u64,
}

/// Shared by all parts of one run.
#[derive(Clone)]
pub struct Stage {
    pub seed: u64,
    pub disk: SimDisk,
    pub drives: Arc<Vec<PathBuf>>,
    state: Arc<Mutex<State>>,
}

impl Stage {
    pub fn new(seed: u64, disk: SimDisk, drives: Vec<PathBuf>) -> Self {
        Self { seed, disk, drives: Arc::new(drives), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new incarnation begins.
    pub fn begin_life(&self) -> u64 {
        let mut state = self.state();
        state.life += 1;
        state.serving = false;
        state.life
    }

    /// Whether faults are being dealt.
    pub fn is_stormy(&self) -> bool {
        self.state().stormy
    }

    pub fn weather(&self, stormy: bool) {
        self.state().stormy = stormy;
    }

    pub fn refused(&self, why: String) {
        self.note(format!("up refuses: {why}"));
        self.state().refused = why;
    }

    pub fn serves(&self, signer: Signer) {
        let mut state = self.state();
        state.signer = Some(signer);
        state.serving = true;
    }

    /// Asks for what only the simulation's owner can do; it is done before anything else happens.
    pub async fn order(&self, order: Order) {
        self.note(format!("{order:?}"));
        {
            let mut state = self.state();
            state.orders.push_back(order);
            state.counts.crashes += 1;
        }
        while !self.state().orders.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The next order; the store doesn't serve while it is carried out.
    pub fn take_order(&self) -> Option<Order> {
        let mut state = self.state();
        let order = state.orders.pop_front();
        state.serving &= order.is_none();
        order
    }

    pub fn next_serial(&self) -> u64 {
        let mut state = self.state();
        state.serial += 1;
        self.seed << 32 | state.serial
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state().counts);
    }

    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Adds a line to the run's trace.
    pub fn note(&self, line: String) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_millis();
        self.state().trace.push(format!("{at:>8} ms  {line}"));
    }

    /// Everything that happened, in order.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// Waits until the store serves.
    ///
    /// # Errors
    /// If it doesn't within a minute.
    pub async fn ready(&self) -> Result<(), Failed> {
        for _ in 0..1200 {
            if self.state().serving {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("the store did not start within a minute: {}", self.state().refused).into())
    }

    async fn exchange(&self, port: u16, signer: Option<Signer>, request: Request<'_>) -> io::Result<Answer> {
        let work = async {
            let mut stream = turmoil::net::TcpStream::connect((HOST, port)).await?;
            http::request(&mut stream, signer.as_ref(), world::wall(), request).await
        };
        tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// One S3 request, as it is.
    pub async fn s3(&self, request: Request<'_>) -> io::Result<Answer> {
        self.count(|counts| counts.requests += 1);
        let signer = self.state().signer.clone();
        let answer = self.exchange(S3_PORT, signer, request).await;
        let Request { method, path, query, .. } = request;
        let shown = match &answer {
            Ok(answer) if answer.status >= 500 => {
                format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
            }
            Ok(answer) => format!("{} {} bytes", answer.status, answer.body.len()),
            Err(error) => error.to_string(),
        };
        self.note(format!("{method} {path}?{query} {} bytes: {shown}", request.body.len()));
        answer
    }

    /// A request that changes nothing, tried again for two minutes while the store can't answer.
    pub async fn read(&self, request: Request<'_>) -> Result<Answer, Failed> {
        let mut last = String::new();
        let began = turmoil::sim_elapsed().unwrap_or_default();
        while turmoil::sim_elapsed().unwrap_or_default() - began < Duration::from_secs(120) {
            match self.s3(request).await {
                Ok(answer) if answer.status < 500 => return Ok(answer),
                Ok(answer) => last = format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(format!("{} {} finds no answer for two minutes: {last}", request.method, request.path).into())
    }

    /// Whether what is deleted is kept for longer than the storm lasts.
    pub fn keeps_deleted(&self) -> bool {
        self.seed.is_multiple_of(2)
    }

    /// One call of the control interface.
    pub async fn admin(&self, method: &str, path: &str, wish: &Json) -> Result<Json, Failed> {
        let body = if wish.is_null() { String::new() } else { wish.to_string() };
        let request = Request { method, path, body: body.as_bytes(), ..Request::default() };
        let answer = self.exchange(ADMIN_PORT, None, request).await;
        let answer = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        let told: Json = serde_json::from_slice(&answer.body)?;
        if answer.status == 200 { Ok(told) } else { Err(format!("{method} {path}: {told}").into()) }
    }
}
