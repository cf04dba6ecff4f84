//! Another node, as this one sees it: its connections, and whether it is there.
//!
//! Invariants:
//! 1. While calls are under way the peer is pinged on its control connections; whatever comes from
//!    it, on any connection, shows that it lives. Silence ends all its calls at once. A connection that stays
//!    silent by itself, for twice as long, is given up with all that are as old: somebody on the way forgot them.
//! 2. While it is down calls fail at once; somebody looks for it all the same.
//! 3. No connection outlives the membership of the node. One that was made with a key that was replaced since,
//!    the peer's or this node's own, takes no new calls; those under way on it may end.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::NodeId;
use crypt::PublicKey;
use futures_util::future::{Either, select};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use wire::frame::millis;
use wire::greet::{Class, Refused};

use crate::call::{Call, Reply};
use crate::endpoint::{Core, lock};
use crate::error::{Error, Result};
use crate::framed::Heard;
use crate::greet::{Greeted, Introduction, introduce};
use crate::lease::{CANCELLED_MAX, Conn, Lease, drain_all};
use crate::mux::Mux;

/// A peer that is down is looked for this often at first …
const LOOK_MIN: Duration = Duration::from_millis(100);
/// … and at the longest this seldom.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Keys are replaced seldom: dialling is repeated for that reason this often.
const DIALS_MAX: usize = 3;
/// A peer that nobody has asked for so long isn't looked for.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// A pool of connections of one class.
struct Pool {
    idle: Mutex<Vec<Conn>>,
    permits: Arc<Semaphore>,
    max: usize,
    waiting: AtomicUsize,
}

impl Pool {
    fn new(max: usize) -> Pool {
        let permits = Arc::new(Semaphore::new(max));
        Pool { idle: Mutex::default(), permits, max, waiting: AtomicUsize::new(0) }
    }
}

/// Whether it is there, and how often it was found not to be.
#[derive(Clone, Debug, Default)]
struct State {
    failures: u64,
    /// Why it is down.
    down: Option<String>,
    /// It was reached since the last failure.
    reached: bool,
}

/// When a connection was begun: what happened since tells whether it is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) failures: u64,
    pub(crate) generation: u64,
}

pub(crate) struct Peer {
    pub(crate) core: Arc<Core>,
    pub(crate) node: NodeId,
    heard: Heard,
    state: watch::Sender<State>,
    ended: watch::Sender<bool>,
    muxes: Vec<tokio::sync::Mutex<Option<Arc<Mux>>>>,
    small: Pool,
    bulk: Pool,
    in_flight: Arc<AtomicUsize>,
    wake: Notify,
    asked: Mutex<base::Instant>,
    keys: Mutex<BTreeSet<PublicKey>>,
    /// Raised when a key of this node or of the peer is replaced.
    generation: AtomicU64,
    cancelled: mpsc::Sender<(Class, Conn)>,
}

/// One call under way.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Peer {
    /// A peer, and its tasks.
    pub(crate) fn start(core: Arc<Core>, node: NodeId) -> Arc<Peer> {
        let (cancelled, to_drain) = mpsc::channel(CANCELLED_MAX);
        let peer = Arc::new(Peer::new(core, node, cancelled));
        peer.core.env.spawn("watch a peer", peer.clone().watch());
        peer.core.env.spawn("cancel calls", drain_all(peer.clone(), to_drain));
        peer
    }

    fn new(core: Arc<Core>, node: NodeId, cancelled: mpsc::Sender<(Class, Conn)>) -> Peer {
        let settings = &core.settings;
        Peer {
            cancelled,
            node,
            heard: Heard::new(&core.env),
            state: watch::Sender::default(),
            ended: watch::Sender::new(false),
            muxes: (0..settings.control_connections.max(1)).map(|_| tokio::sync::Mutex::default()).collect(),
            small: Pool::new(settings.small_connections),
            bulk: Pool::new(settings.bulk_connections),
            in_flight: Arc::default(),
            wake: Notify::new(),
            asked: Mutex::new(core.env.clock.now()),
            keys: Mutex::default(),
            generation: AtomicU64::new(0),
            core,
        }
    }

    /// Becomes true when the peer is done with for good.
    pub(crate) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Has a cancelled call's connection brought to a state in which it can be used again.
    pub(crate) fn cancel(&self, class: Class, conn: Conn) {
        if !self.is_worn(&conn) {
            let _ = self.cancelled.try_send((class, conn));
        }
    }

    pub(crate) fn is_up(&self) -> Option<bool> {
        let state = self.state.borrow();
        match &state.down {
            Some(_) => Some(false),
            None => state.reached.then_some(true),
        }
    }

    fn pool(&self, class: Class) -> &Pool {
        if class == Class::Bulk { &self.bulk } else { &self.small }
    }

    fn unreachable(&self, why: impl Into<String>) -> Error {
        Error::Unreachable { node: self.node, why: why.into() }
    }

    /// Asks. Every part of it ends when the peer is found down, or the time is over.
    pub(crate) async fn call(self: Arc<Self>, call: Call) -> Result<Reply> {
        *lock(&self.asked) = self.core.env.clock.now();
        if let Some(why) = &self.state.borrow().down {
            return Err(self.unreachable(format!("it is down ({why})")));
        }
        let limit = call.timeout;
        let in_flight = self.begin();
        let done = match call.class {
            Class::Control => self.guard(limit, self.call_control(call)).await,
            class @ (Class::Small | Class::Bulk) => {
                let work = async {
                    let lease = self.lease(class, in_flight).await?;
                    lease.exchange(call).await
                };
                let done = self.guard(limit, work).await;
                if matches!(done, Err(Error::Deadline { .. })) {
                    // If somebody on the way forgot that connection, then the idle ones as well.
                    lock(&self.pool(class).idle).clear();
                }
                done
            }
        };
        done.and_then(|done| done).map_err(|error| error.of(self.node))
    }

    fn begin(&self) -> InFlight {
        if self.in_flight.fetch_add(1, Relaxed) == 0 {
            self.wake.notify_one();
        }
        InFlight(self.in_flight.clone())
    }

    async fn call_control(&self, call: Call) -> Result<Reply> {
        self.mux().await?.call(call).await
    }

    /// `work`, unless the peer is found down before, or `limit` is over.
    pub(crate) async fn guard<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T> {
        let mut state = self.state.subscribe();
        let failures = state.borrow().failures;
        let work = std::pin::pin!(work);
        let failed = std::pin::pin!(state.wait_for(|state| state.failures != failures));
        match self.core.env.timeout(limit, select(work, failed)).await {
            None => Err(Error::Deadline { node: self.node, ms: limit.as_millis() as u64 }),
            Some(Either::Left((done, _))) => Ok(done),
            Some(Either::Right((state, _))) => {
                let why = state.ok().and_then(|state| state.down.clone()).unwrap_or_else(|| "it went down".into());
                Err(self.unreachable(why))
            }
        }
    }

    /// The control connection with the fewest calls.
    async fn mux(&self) -> Result<Arc<Mux>> {
        let mut best: Option<(usize, Arc<Mux>)> = None;
        let mut free = None;
        for slot in &self.muxes {
            // A slot that is locked is being dialled.
            let Ok(slot_now) = slot.try_lock() else { continue };
            match slot_now.as_ref().filter(|mux| self.is_good(mux)) {
                Some(mux) if best.as_ref().is_none_or(|(load, _)| mux.load() < *load) => {
                    best = Some((mux.load(), mux.clone()));
                }
                Some(_) => {}
                None => free = free.or(Some(slot)),
            }
        }
        match (best, free) {
            (Some((0, mux)), _) | (Some((_, mux)), None) => Ok(mux),
            // Another one costs a handshake: worth it as soon as calls would queue behind others.
            (Some((load, mux)), Some(_)) if load < 4 => Ok(mux),
            (_, Some(slot)) => self.dial_mux(slot).await,
            (None, None) => self.dial_mux(&self.muxes[0]).await,
        }
    }

    async fn dial_mux(&self, slot: &tokio::sync::Mutex<Option<Arc<Mux>>>) -> Result<Arc<Mux>> {
        let mut slot = slot.lock().await;
        if let Some(mux) = slot.as_ref().filter(|mux| self.is_good(mux)) {
            return Ok(mux.clone());
        }
        // Keys may be replaced while it is dialled: then once more, with the new ones.
        for _ in 0..DIALS_MAX {
            let made = self.now();
            let (greeted, key) = self.dial(Class::Control).await?;
            let mux = Mux::start(&self.core, self.node, made.generation, greeted.reader, greeted.writer);
            if self.state.borrow().failures != made.failures {
                mux.end();
                break;
            }
            if self.is_stale(made.failures, &key) || self.now() != made {
                mux.end();
                continue;
            }
            if let Some(old) = slot.replace(mux.clone()) {
                old.retire(&self.core);
            }
            return Ok(mux);
        }
        Err(self.unreachable("it went down while it was connected to"))
    }

    fn now(&self) -> Made {
        Made { failures: self.state.borrow().failures, generation: self.generation.load(Relaxed) }
    }

    /// Whether a control connection takes new calls.
    fn is_good(&self, mux: &Mux) -> bool {
        mux.is_open() && mux.generation == self.generation.load(Relaxed)
    }

    /// Whether a connection may not serve another call.
    fn is_worn(&self, conn: &Conn) -> bool {
        conn.generation != self.generation.load(Relaxed) || self.is_stale(conn.failures, &conn.key)
    }

    fn is_stale(&self, failures: u64, key: &PublicKey) -> bool {
        self.state.borrow().failures != failures || !self.core.trust.borrow().keys(self.node).contains(key)
    }

    /// A connection for one call.
    async fn lease(self: &Arc<Self>, class: Class, in_flight: InFlight) -> Result<Lease> {
        let pool = self.pool(class);
        let permit = match pool.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = self.queue(pool)?;
                let permit = pool.permits.clone().acquire_owned().await;
                permit.map_err(|_| self.unreachable("its pool is closed"))?
            }
        };
        let conn = match self.take_idle(pool) {
            Some(conn) => conn,
            None => {
                let made = self.now();
                let (greeted, key) = self.dial(class).await?;
                Conn::new(greeted.reader, greeted.writer, key, made, self.core.env.clock.now())
            }
        };
        Ok(Lease::new(self.clone(), class, conn, permit, in_flight))
    }

    /// A place among those that wait for a connection.
    fn queue<'a>(&self, pool: &'a Pool) -> Result<Waiting<'a>> {
        if pool.waiting.fetch_add(1, Relaxed) >= self.core.settings.waiting_max {
            pool.waiting.fetch_sub(1, Relaxed);
            let retry_after_ms = millis(self.core.settings.retry_after);
            return Err(Error::Busy { node: self.node, retry_after_ms });
        }
        Ok(Waiting(pool))
    }

    fn take_idle(&self, pool: &Pool) -> Option<Conn> {
        let now = self.core.env.clock.now();
        let mut idle = lock(&pool.idle);
        while let Some(mut conn) = idle.pop() {
            let young = now.since(conn.idle_since) < self.core.settings.pooled;
            if young && !self.is_worn(&conn) && conn.is_quiet() {
                return Some(conn);
            }
        }
        None
    }

    /// The connection can serve another call.
    pub(crate) fn put_back(&self, class: Class, mut conn: Conn) {
        let pool = self.pool(class);
        if self.is_worn(&conn) || *self.ended.borrow() {
            return;
        }
        conn.reader.rest();
        conn.idle_since = self.core.env.clock.now();
        let mut idle = lock(&pool.idle);
        if idle.len() < pool.max {
            idle.push(conn);
        }
    }

    async fn dial(&self, class: Class) -> Result<(Greeted, PublicKey)> {
        let dialled = self.core.env.timeout(self.core.settings.greeting, self.dial_and_greet(class)).await;
        let error = match dialled {
            Some(Ok(greeted)) => {
                self.state.send_modify(|state| state.reached = true);
                return Ok(greeted);
            }
            Some(Err(error)) => error,
            None => self.unreachable("it doesn't greet"),
        };
        match error {
            // It is there, and says what it wants.
            Error::Refused { reason: Refused::Busy(retry_after_ms), .. } => {
                return Err(Error::Busy { node: self.node, retry_after_ms });
            }
            Error::NoMember { .. } | Error::NoAddress { .. } => return Err(error),
            _ => {}
        }
        let error = error.of(self.node);
        let why = match &error {
            Error::Unreachable { why, .. } => why.clone(),
            other => other.to_string(),
        };
        self.fail(&why);
        Err(error)
    }

    async fn dial_and_greet(&self, class: Class) -> Result<(Greeted, PublicKey)> {
        let target = self.core.target(self.node)?;
        let secured = self.core.carrier.dial(&target, class).await?;
        let key = secured.peer;
        lock(&self.keys).insert(key);
        let introduction = Introduction {
            versions: self.core.settings.versions.clone(),
            class,
            instance: self.core.instance,
            epoch: self.core.epoch(),
            intent: self.core.intent(),
        };
        let greeted = introduce(secured, self.heard.of_another(), introduction, Some(self.node)).await?;
        self.core.heard_of(greeted.welcome.epoch);
        Ok((greeted, key))
    }

    /// It isn't there: ends all calls, throws all connections away.
    fn fail(&self, why: &str) {
        self.state.send_modify(|state| {
            if state.down.is_none() {
                tracing::info!(node = %self.node, why, "a node is down");
            }
            state.failures += 1;
            state.down = Some(why.to_owned());
            state.reached = false;
        });
        self.drop_connections();
        self.wake.notify_one();
    }

    fn drop_connections(&self) {
        lock(&self.small.idle).clear();
        lock(&self.bulk.idle).clear();
        for slot in &self.muxes {
            // A slot that is locked is being dialled, and will be found stale.
            if let Ok(mut slot) = slot.try_lock()
                && let Some(mux) = slot.take()
            {
                mux.end();
            }
        }
    }

    /// For good: no member any more, or the endpoint is closed.
    pub(crate) fn end(&self, why: &str) {
        self.ended.send_replace(true);
        self.fail(why);
    }

    /// Takes connections out of use if one was made with a key that isn't the node's any more. Calls
    /// under way go on: it is the same node, and they would fail for no reason.
    pub(crate) fn keep_keys(&self, now: &[PublicKey]) {
        let stale = {
            let mut keys = lock(&self.keys);
            let stale = keys.iter().any(|key| !now.contains(key));
            keys.retain(|key| now.contains(key));
            stale
        };
        if stale {
            self.renew();
        }
    }

    /// Takes all connections out of use: a key was replaced, the peer's or this node's own. Calls under
    /// way go on over them.
    pub(crate) fn renew(&self) {
        self.generation.fetch_add(1, Relaxed);
        lock(&self.small.idle).clear();
        lock(&self.bulk.idle).clear();
        for slot in &self.muxes {
            // One that is locked just now is found to be of an older generation.
            if let Ok(mut slot) = slot.try_lock()
                && let Some(mux) = slot.take()
            {
                mux.retire(&self.core);
            }
        }
    }

    /// Pings while calls are under way, looks for it while it is down. Ends with the peer.
    async fn watch(self: Arc<Self>) {
        let mut ended = self.ended.subscribe();
        let ended = std::pin::pin!(ended.wait_for(|ended| *ended));
        let work = std::pin::pin!(async {
            loop {
                if self.state.borrow().down.is_some() {
                    self.look_for().await;
                }
                if self.in_flight.load(Relaxed) == 0 {
                    let idle = self.core.settings.ping_idle;
                    let woken = self.core.env.timeout(idle, self.wake.notified()).await;
                    if woken.is_none() {
                        self.ping_all();
                        self.look_at_idle();
                    }
                    continue;
                }
                if let Err(why) = self.probe().await {
                    self.fail(&why);
                }
                self.core.env.clock.sleep(self.core.settings.ping_every).await;
            }
        });
        select(ended, work).await;
    }

    /// Keeps control connections open; gives all up if one is silent by itself.
    fn ping_all(&self) {
        let now = self.core.env.clock.now();
        let mut is_silent = false;
        for slot in &self.muxes {
            if let Ok(slot) = slot.try_lock()
                && let Some(mux) = slot.as_ref()
                && mux.ping(now) >= self.core.settings.silence * 2
            {
                tracing::info!(node = %self.node, "a connection is silent: new ones are made");
                is_silent = true;
                mux.end();
            }
        }
        if is_silent {
            self.renew();
        }
    }

    fn look_at_idle(&self) {
        let now = self.core.env.clock.now();
        for pool in [&self.small, &self.bulk] {
            let keep = |conn: &mut Conn| now.since(conn.idle_since) < self.core.settings.pooled && conn.is_quiet();
            lock(&pool.idle).retain_mut(keep);
        }
    }

    /// Succeeds if anything was heard in time.
    async fn probe(&self) -> std::result::Result<(), String> {
        let asked = self.core.env.clock.now();
        let silence = self.core.settings.silence;
        let down = self.state.subscribe();
        let failures = down.borrow().failures;
        // Dialling has limits of its own, and fails the peer itself.
        let mux = match self.mux().await {
            Ok(mux) => mux,
            Err(_) => return Ok(()),
        };
        self.ping_all();
        let asked = asked.max(self.heard.last_of_any());
        let look = (silence / 8).min(self.core.settings.ping_every);
        loop {
            self.core.env.clock.sleep(look).await;
            let over = self.core.env.clock.now().since(asked) >= silence;
            if self.heard.last_of_any() > asked || down.borrow().failures != failures {
                return Ok(());
            }
            if !mux.is_open() {
                // Closed, not silent: the next dial tells.
                return Ok(());
            }
            if over {
                return Err(format!("it said nothing for {} ms", silence.as_millis()));
            }
        }
    }

    /// Dials until it is there again, or nobody asks for it any more.
    async fn look_for(&self) {
        let mut pause = LOOK_MIN;
        loop {
            self.core.env.clock.sleep(pause).await;
            let asked = *lock(&self.asked);
            let forgotten = self.core.env.clock.now().since(asked) > FORGOTTEN;
            let found = !forgotten && self.dial_mux(&self.muxes[0]).await.is_ok();
            if found || forgotten {
                self.state.send_modify(|state| state.down = None);
                if found {
                    tracing::info!(node = %self.node, "a node is back");
                }
                return;
            }
            pause = (pause * 3 / 2).min(LOOK_MAX);
        }
    }
}

/// A place among those that wait for a connection.
struct Waiting<'a>(&'a Pool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
