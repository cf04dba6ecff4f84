//! What the parts of one run share: the machines, the orders, the trace.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value as Json;

use crate::cluster::STALL_MS_MAX;
use crate::disk::{Faults, SimDisk};
use crate::http::{self, Answer, Request, Signer};
use crate::world::Machine;

pub const S3_PORT: u16 = 9000;
pub const ADMIN_PORT: u16 = 9001;
pub const REGION: &str = "sim-1";
pub const BUCKET: &str = "storm";

/// What a run may not do; its text says what was seen.
pub type Failed = Box<dyn std::error::Error>;

/// What only the simulation's owner can do: others ask for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// The process of a machine ends without a word.
    Kill(usize),
    /// The power of a machine goes: what was not synced is lost or torn.
    PowerCut(usize),
    /// The machine's process is started again.
    Start(usize),
    /// Messages to and from the machine take up to so many milliseconds.
    Latency(usize, u64),
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts at requests.
    pub attempts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Changes acknowledged.
    pub acknowledged: u64,
    /// Changes of which nobody knows what became.
    pub unknown: u64,
    /// Requests that failed for good.
    pub given_up: u64,
    /// Troubles made.
    pub troubles: u64,
    /// The longest that a small request took at machines that were not in trouble, in milliseconds.
    pub stall_ms: u64,
    /// Operations in the histories of hot keys.
    pub history: u64,
    /// Commands that were mistyped.
    pub typos: u64,
    /// Simulated seconds.
    pub seconds: u64,
}

/// One machine.
pub struct Place {
    /// Its drives.
    pub disk: SimDisk,
    /// Its clock and its pace.
    pub machine: Machine,
    /// What its owner says of it, as `name=value`.
    pub labels: Vec<String>,
    state: Mutex<Here>,
}

#[derive(Default)]
struct Here {
    ticket: Option<String>,
    /// It became a node once.
    joined: bool,
    /// It was taken out.
    left: bool,
    life: u64,
    serving: bool,
    running: bool,
    /// In trouble of some kind: what clients see of it is not measured.
    troubled: bool,
    /// How often it was.
    troubles: u64,
    signer: Option<Signer>,
    refused: String,
}

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    stormy: bool,
    serial: u64,
    trace: Vec<String>,
    counts: Counts,
    tags: BTreeMap<String, u64>,
    words: String,
}

/// Shared by all parts of one run.
#[derive(Clone)]
pub struct Stage {
    pub seed: u64,
    pub places: Arc<Vec<Place>>,
    pub drives: Arc<Vec<PathBuf>>,
    /// How many machines there are for each metadata shard, if not as ever.
    pub nodes_per_shard: Option<usize>,
    /// Whether reads go on by kits when nobody leads. Copies may be a moment old: a judge of what clients saw would say so, and be right.
    pub reads_by_kit: bool,
    state: Arc<Mutex<State>>,
}

/// The name of a machine.
pub fn name(number: usize) -> String {
    format!("n{number}")
}

fn is_skewed(answer: &Answer) -> bool {
    const CODE: &[u8] = b"<Code>RequestTimeTooSkewed</Code>";
    answer.status == 403 && answer.body.windows(CODE.len()).any(|part| part == CODE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// `site` says where each machine is, if anywhere.
    pub fn new(seed: u64, machines: usize, drives: usize, site: impl Fn(usize) -> Option<usize>) -> Self {
        let drives: Vec<PathBuf> = (1..=drives).map(|number| PathBuf::from(format!("/d{number}"))).collect();
        let place = |number: usize| {
            let disk = SimDisk::new(seed << 8 | number as u64);
            drives.iter().for_each(|drive| disk.set_faults(drive, Faults::default()));
            let labels = site(number).map(|site| format!("site=s{site}")).into_iter().collect();
            Place { disk, machine: Machine::default(), labels, state: Mutex::default() }
        };
        Self {
            seed,
            places: Arc::new((0..machines).map(place).collect()),
            drives: Arc::new(drives),
            nodes_per_shard: None,
            reads_by_kit: false,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn here(&self, number: usize) -> MutexGuard<'_, Here> {
        lock(&self.places[number].state)
    }

    /// The machines' addresses.
    pub fn ip(number: usize) -> IpAddr {
        turmoil::lookup(name(number))
    }

    /// A new incarnation of a machine's process begins.
    pub fn begin_life(&self, number: usize) -> u64 {
        let mut here = self.here(number);
        here.life += 1;
        (here.serving, here.running) = (false, true);
        here.life
    }

    pub fn ticket(&self, number: usize) -> Option<String> {
        self.here(number).ticket.clone()
    }

    pub fn give_ticket(&self, number: usize, ticket: String) {
        self.here(number).ticket = Some(ticket);
    }

    /// The 24 words, once the store was made.
    pub fn words(&self) -> String {
        self.state().words.clone()
    }

    pub fn know_words(&self, words: String) {
        self.state().words = words;
    }

    pub fn has_joined(&self, number: usize) -> bool {
        self.here(number).joined
    }

    pub fn refused(&self, number: usize, why: String) {
        self.note(format!("{} refuses to start: {why}", name(number)));
        self.here(number).refused = why;
    }

    pub fn serves(&self, number: usize, signer: Signer) {
        self.note(format!("{} serves", name(number)));
        let mut here = self.here(number);
        (here.signer, here.serving, here.joined) = (Some(signer), true, true);
    }

    pub fn is_serving(&self, number: usize) -> bool {
        self.here(number).serving
    }

    pub fn set_troubled(&self, number: usize, troubled: bool) {
        let mut here = self.here(number);
        here.troubled = troubled;
        here.troubles += u64::from(troubled);
    }

    /// How often a machine was in trouble, if it isn't now: as long as this is the same it was well throughout.
    pub fn well(&self, number: usize) -> Option<u64> {
        let here = self.here(number);
        (!here.troubled).then_some(here.troubles)
    }

    /// The machines that became nodes, and are.
    pub fn members(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|number| self.has_joined(*number) && !self.here(*number).left).collect()
    }

    /// It is no node any more.
    pub fn leaves(&self, number: usize) {
        self.here(number).left = true;
    }

    pub fn is_stormy(&self) -> bool {
        self.state().stormy
    }

    pub fn weather(&self, stormy: bool) {
        self.state().stormy = stormy;
    }

    /// Asks for what only the simulation's owner can do; it is done before anything else happens.
    pub async fn order(&self, order: Order) {
        self.note(format!("{order:?}"));
        self.state().orders.push_back(order);
        while !self.state().orders.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The next order that makes sense.
    pub fn take_order(&self) -> Option<Order> {
        loop {
            let order = self.state().orders.pop_front()?;
            match order {
                Order::Kill(number) | Order::PowerCut(number) => {
                    let mut here = self.here(number);
                    here.serving = false;
                    if std::mem::take(&mut here.running) {
                        return Some(order);
                    }
                }
                Order::Start(number) if self.here(number).running => {}
                _ => return Some(order),
            }
        }
    }

    pub fn next_serial(&self) -> u64 {
        let mut state = self.state();
        state.serial += 1;
        self.seed << 32 | state.serial
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state().counts);
    }

    /// A small request took so long, at machines that were well.
    pub fn stalled(&self, request: &str, ms: u64) {
        if ms > STALL_MS_MAX {
            self.note(format!("{request} stalled for {ms} ms"));
        }
        self.count(|counts| counts.stall_ms = counts.stall_ms.max(ms));
    }

    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// The value of this serial has this entity tag.
    pub fn learn_tag(&self, tag: &str, serial: u64) {
        self.state().tags.insert(tag.trim_matches('"').to_owned(), serial);
    }

    /// The serial of the value with this entity tag, if anybody saw both.
    pub fn serial_of(&self, tag: &str) -> Option<u64> {
        self.state().tags.get(tag.trim_matches('"')).copied()
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

    /// Waits until the machine serves.
    ///
    /// # Errors
    /// If it doesn't within so many seconds.
    pub async fn ready(&self, number: usize, seconds: u64) -> Result<(), Failed> {
        for _ in 0..seconds * 50 {
            if self.is_serving(number) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let why = self.here(number).refused.clone();
        Err(format!("{} did not start within {seconds} s: {why}", name(number)).into())
    }

    async fn exchange(
        &self,
        (number, port): (usize, u16),
        signer: Option<Signer>,
        limit: Duration,
        request: Request<'_>,
    ) -> io::Result<Answer> {
        let now = self.places[number].machine.wall();
        let work = async {
            let address = SocketAddr::new(Self::ip(number), port);
            let mut stream = turmoil::net::TcpStream::connect(address).await?;
            http::request(&mut stream, signer.as_ref(), now, request).await
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// One S3 request at one machine, as it is.
    pub async fn s3(&self, number: usize, limit: Duration, request: Request<'_>) -> io::Result<Answer> {
        let signer = self.here(number).signer.clone();
        let well = self.well(number);
        let mut answer = self.exchange((number, S3_PORT), signer, limit, request).await;
        // The calendar jumped while the request was on its way: who signed by the old one signs anew.
        let jumped = well.is_none() || well != self.well(number);
        if jumped && answer.as_ref().is_ok_and(is_skewed) {
            answer = Err(io::Error::other("signed by another calendar"));
        }
        let Request { method, path, query, .. } = request;
        let shown = match &answer {
            Ok(answer) if answer.status >= 500 => {
                format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
            }
            Ok(answer) => format!("{} {} bytes", answer.status, answer.body.len()),
            Err(error) => error.to_string(),
        };
        let failed = !answer.as_ref().is_ok_and(|answer| answer.status < 500);
        self.count(|counts| {
            counts.attempts += 1;
            counts.failures += u64::from(failed);
        });
        self.note(format!("{} {method} {path}?{query} {} bytes: {shown}", name(number), request.body.len()));
        answer
    }

    /// One call of a machine's control interface.
    pub async fn admin(&self, number: usize, method: &str, path: &str, wish: &Json) -> Result<Json, Failed> {
        let body = if wish.is_null() { String::new() } else { wish.to_string() };
        let request = Request { method, path, body: body.as_bytes(), ..Request::default() };
        let answer = self.exchange((number, ADMIN_PORT), None, Duration::from_secs(60), request).await;
        let answer = answer.map_err(|error| format!("{} {method} {path}: {error}", name(number)))?;
        let told: Json = serde_json::from_slice(&answer.body)?;
        if answer.status == 200 { Ok(told) } else { Err(format!("{} {method} {path}: {told}", name(number)).into()) }
    }
}
