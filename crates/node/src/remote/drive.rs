//! A drive of another node, as the client engine's holder of pieces.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{DriveId, Kind, Kinded, NodeId, PieceId};
use bytes::Bytes;
use client::{DriveState, Error, Holder, HolderWriter};
use env::{BoxFuture, Env};
use tokio::sync::Notify;
use transport::{Body, Call, Class, Endpoint};

use super::PIECES;
use super::message::{
    self, Ask, DriveHealth, Info, MANY_MAX, PART_BYTES_MAX, READ_STRETCH_BYTES, State, Told, WriteId,
};
use super::outgoing::Outgoing;

/// Bodies up to this size go over connections for small ones.
const SMALL_BYTES: u64 = 128 << 10;
/// A node that is asked too much is asked again, for so long in all: shorter than the patience of
/// whoever writes to several drives at once.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// Who wants to be left alone for longer isn't asked again here: it is full.
const BUSY_ONE_MAX: Duration = Duration::from_secs(1);
/// A call that failed this fast is tried once more: its connection was stale.
const STALE: Duration = Duration::from_millis(300);
/// The quickest of so many looks at a drive tells how far away it is.
const LOOKS: usize = 8;
/// Writes that were broken off and of which the drive doesn't know yet.
const LOOSE_MAX: usize = 4096;

/// How long a node may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// To begin an answer with bytes of a piece, or a header.
    pub read: Duration,
    /// To send all of them.
    pub receive: Duration,
    /// To take a part of a piece.
    pub write: Duration,
    /// To make a piece durable.
    pub settle: Duration,
    /// To answer anything else.
    pub control: Duration,
    /// How often drives are asked how they do.
    pub look_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(5),
            receive: Duration::from_secs(20),
            write: Duration::from_secs(20),
            settle: Duration::from_secs(40),
            control: Duration::from_secs(5),
            look_every: Duration::from_secs(1),
        }
    }
}

/// What all remote drives share.
pub(super) struct Shared {
    pub env: Env,
    pub endpoint: Endpoint,
    pub limits: Limits,
    run: [u8; 8],
    count: AtomicU64,
}

impl Shared {
    pub fn new(env: Env, endpoint: Endpoint, limits: Limits) -> Self {
        Self { run: env.random(), count: AtomicU64::new(0), env, endpoint, limits }
    }

    /// Chance for the run, a count within it: never the same twice.
    fn write_id(&self) -> WriteId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.run);
        id[8..].copy_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        WriteId(id)
    }
}

/// What is known of the drive.
#[derive(Default)]
struct Seen {
    health: Option<DriveHealth>,
    /// What was last told of it.
    state: Option<DriveState>,
    /// It said that it is full since it was last asked how it does.
    full: bool,
    /// What the last looks at it took.
    looks: VecDeque<Duration>,
    /// Broken-off writes.
    loose: BTreeMap<WriteId, PieceId>,
}

pub(super) struct Inner {
    pub shared: Arc<Shared>,
    pub node: NodeId,
    pub drive: DriveId,
    seen: Mutex<Seen>,
    /// Wakes whoever watches its node.
    pub wake: Arc<Notify>,
}

/// A drive of another node. Clones are the same one.
#[derive(Clone)]
pub struct RemoteDrive(pub(super) Arc<Inner>);

/// What a call brought.
type Answered = (Told, Body);

impl RemoteDrive {
    pub(super) fn new(shared: Arc<Shared>, node: NodeId, drive: DriveId, wake: Arc<Notify>) -> Self {
        Self(Arc::new(Inner { shared, node, drive, seen: Mutex::default(), wake }))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node that it is on.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// How it said it does when it was last asked.
    pub fn health(&self) -> Option<DriveHealth> {
        self.seen().health.clone()
    }

    /// Remembers its state; whether that is news.
    pub(super) fn is_news(&self, state: DriveState) -> bool {
        self.seen().state.replace(state) != Some(state)
    }

    pub(super) fn learn(&self, health: DriveHealth, took: Duration) {
        let mut seen = self.seen();
        seen.looks.truncate(LOOKS - 1);
        seen.looks.push_front(took);
        seen.full = health.full;
        seen.health = Some(health);
    }

    /// What is known of a piece.
    pub async fn stat(&self, piece: PieceId) -> Result<Info, Error> {
        match self.control(piece, Ask::Stat(self.0.drive, piece)).await? {
            Told::Stat(info) => Ok(info),
            _ => Err(self.nonsense(piece)),
        }
    }

    /// Which of these pieces are there, in their order.
    pub async fn contains(&self, pieces: &[PieceId]) -> Result<Vec<bool>, Error> {
        let mut all = Vec::with_capacity(pieces.len());
        for part in pieces.chunks(MANY_MAX) {
            match self.control(part[0], Ask::Contains(self.0.drive, part.to_vec())).await? {
                Told::Contains(there) if there.len() == part.len() => all.extend(there),
                _ => return Err(self.nonsense(part[0])),
            }
        }
        Ok(all)
    }

    /// At most `limit` pieces from a place on, and where to go on; begin at 0.
    pub async fn list(&self, from: u64, limit: u32) -> Result<(Vec<(PieceId, Info)>, Option<u64>), Error> {
        let none = PieceId { segment: base::SegmentId([0; 16]), index: 0 };
        match self.control(none, Ask::List(self.0.drive, from, limit.min(MANY_MAX as u32))).await? {
            Told::List(pieces, next) => Ok((pieces, next)),
            _ => Err(self.nonsense(none)),
        }
    }

    pub(super) fn error(&self, piece: PieceId, kind: Kind, text: impl Into<String>) -> Error {
        Error::Drive { piece, kind, text: text.into() }
    }

    /// Its node doesn't keep to the protocol: as good as not there, and no judgement on the piece.
    pub(super) fn nonsense(&self, piece: PieceId) -> Error {
        let text = format!("node {} answers what wasn't asked: its release may be another one", self.0.node);
        self.error(piece, Kind::Unreachable, text)
    }

    async fn control(&self, piece: PieceId, ask: Ask) -> Result<Told, Error> {
        let limit = self.0.shared.limits.control;
        Ok(self.call(piece, Class::Control, ask, Vec::new(), limit).await?.0)
    }

    /// Asks; asks again if the node has too much to do, or a connection was stale. Everything that
    /// is asked can be asked twice.
    pub(super) async fn call(
        &self,
        piece: PieceId,
        class: Class,
        ask: Ask,
        body: Vec<Bytes>,
        limit: Duration,
    ) -> Result<Answered, Error> {
        let Inner { shared, node, .. } = &*self.0;
        let clock = &shared.env.clock;
        let (began, mut stale) = (clock.now(), false);
        loop {
            let call = Call::of(PIECES, class, &ask).with_body(Body::of(body.clone())).with_timeout(limit);
            let error = match shared.endpoint.call(*node, call).await {
                Ok(reply) => {
                    let told = reply.decode::<Told>().map_err(|_| self.nonsense(piece))?;
                    return Ok((told, reply.body));
                }
                Err(error) => error,
            };
            let spent = clock.now().since(began);
            match error.kind() {
                Kind::Busy { retry_after } if retry_after <= BUSY_ONE_MAX && spent < BUSY_MAX => {
                    let jitter = u64::from_le_bytes(shared.env.random()) % 50;
                    clock.sleep(retry_after + Duration::from_millis(jitter)).await;
                }
                Kind::Unreachable
                    if !stale
                        && spent < STALE
                        && !matches!(error, transport::Error::Remote(_))
                        && shared.endpoint.is_up(*node) != Some(false) =>
                {
                    stale = true;
                }
                _ => return Err(self.failed(piece, &error)),
            }
        }
    }

    /// A call's error as the client knows them.
    fn failed(&self, piece: PieceId, error: &transport::Error) -> Error {
        let kind = match error {
            // What is wrong with the way there says nothing of the piece.
            transport::Error::Protocol(_) | transport::Error::TooLong { .. } => Kind::Unreachable,
            _ => error.kind(),
        };
        match kind {
            Kind::Unreachable => self.0.wake.notify_one(),
            Kind::Busy { retry_after } if retry_after > BUSY_ONE_MAX => self.seen().full = true,
            _ => {}
        }
        self.error(piece, kind, format!("drive {}: {error}", self.0.drive))
    }

    /// A connection for so many bytes.
    pub(super) fn class(bytes: u64) -> Class {
        if bytes <= SMALL_BYTES { Class::Small } else { Class::Bulk }
    }

    async fn read_some(&self, piece: PieceId, offset: u64, len: u32) -> Result<Bytes, Error> {
        let shared = &self.0.shared;
        let ask = Ask::Read(self.0.drive, piece, offset, len);
        let (told, body) = self.call(piece, Self::class(len.into()), ask, Vec::new(), shared.limits.read).await?;
        let Told::Read(sums) = told else { return Err(self.nonsense(piece)) };
        let bytes = self.receive(piece, body, len as usize).await?;
        if bytes.len() != len as usize {
            let text = format!("drive {}: {} bytes came, {len} were asked for", self.0.drive, bytes.len());
            return Err(self.error(piece, Kind::Damaged, text));
        }
        if message::sums(std::slice::from_ref(&bytes), READ_STRETCH_BYTES) != sums {
            return Err(self.changed(piece));
        }
        Ok(bytes)
    }

    async fn receive(&self, piece: PieceId, body: Body, max: usize) -> Result<Bytes, Error> {
        let Inner { shared, drive, .. } = &*self.0;
        match shared.env.timeout(shared.limits.receive, body.collect(max)).await {
            Some(received) => received.map_err(|error| self.failed(piece, &error)),
            None => {
                let ms = shared.limits.receive.as_millis();
                Err(self.error(piece, Kind::Unreachable, format!("drive {drive}: its bytes did not come in {ms} ms")))
            }
        }
    }

    fn changed(&self, piece: PieceId) -> Error {
        self.error(piece, Kind::Damaged, format!("drive {}: bytes changed on their way here", self.0.drive))
    }

    async fn read_all(&self, piece: PieceId, offset: u64, len: u64) -> Result<Bytes, Error> {
        if len <= PART_BYTES_MAX.into() {
            return self.read_some(piece, offset, len as u32).await;
        }
        let mut all = Vec::new();
        let mut at = 0;
        while at < len {
            let now = (len - at).min(PART_BYTES_MAX.into());
            all.extend_from_slice(&self.read_some(piece, offset + at, now as u32).await?);
            at += now;
        }
        Ok(all.into())
    }

    async fn read_header(&self, piece: PieceId) -> Result<Bytes, Error> {
        let ask = Ask::Header(self.0.drive, piece);
        let (told, body) = self.call(piece, Class::Small, ask, Vec::new(), self.0.shared.limits.read).await?;
        let Told::Header(sum) = told else { return Err(self.nonsense(piece)) };
        let header = self.receive(piece, body, message::HEADER_BYTES_MAX as usize).await?;
        if codec::crc64(&header) != sum { Err(self.changed(piece)) } else { Ok(header) }
    }

    /// Deletes; what was broken off of these pieces is revoked with it, so that nothing of it that
    /// is still under way arrives later.
    async fn delete_all(&self, pieces: Vec<PieceId>) -> Result<(), Error> {
        for part in pieces.chunks(MANY_MAX) {
            let mut writes = self.loose(|piece| part.contains(&piece));
            writes.truncate(MANY_MAX);
            let ask = Ask::Delete(self.0.drive, writes.clone(), part.to_vec());
            match self.delete_some(part[0], ask).await? {
                Told::Delete(_) => self.settled(&writes),
                _ => return Err(self.nonsense(part[0])),
            }
        }
        Ok(())
    }

    /// The drive syncs before it answers.
    async fn delete_some(&self, piece: PieceId, ask: Ask) -> Result<Told, Error> {
        let limit = self.0.shared.limits.write;
        Ok(self.call(piece, Class::Control, ask, Vec::new(), limit).await?.0)
    }

    fn loose(&self, of: impl Fn(PieceId) -> bool) -> Vec<WriteId> {
        self.seen().loose.iter().filter(|(_, piece)| of(**piece)).map(|(write, _)| *write).collect()
    }

    fn settled(&self, writes: &[WriteId]) {
        let mut seen = self.seen();
        writes.iter().for_each(|write| _ = seen.loose.remove(write));
    }

    /// A write was broken off: its drive is told soon.
    pub(super) fn broken_off(&self, piece: PieceId, write: WriteId) {
        let mut seen = self.seen();
        if seen.loose.len() >= LOOSE_MAX {
            // The drive gives it up by itself after a while.
            seen.loose.pop_first();
        }
        seen.loose.insert(write, piece);
        drop(seen);
        self.0.wake.notify_one();
    }

    /// Tells the drive of writes that were broken off.
    pub(super) async fn revoke_loose(&self) -> Result<(), Error> {
        loop {
            let mut writes = self.loose(|_| true);
            writes.truncate(MANY_MAX);
            if writes.is_empty() {
                return Ok(());
            }
            let none = PieceId { segment: base::SegmentId([0; 16]), index: 0 };
            match self.delete_some(none, Ask::Delete(self.0.drive, writes.clone(), Vec::new())).await? {
                Told::Delete(_) => self.settled(&writes),
                _ => return Err(self.nonsense(none)),
            }
        }
    }

    fn begin(&self, piece: PieceId, cell_bytes: u32, len_max: u64) -> Outgoing {
        Outgoing::new(self.clone(), self.0.shared.write_id(), piece, cell_bytes, len_max)
    }
}

impl Holder for RemoteDrive {
    fn put(
        &self,
        piece: PieceId,
        header: Bytes,
        body: Vec<Bytes>,
        cell_bytes: u32,
    ) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut write = self.begin(piece, cell_bytes, body.iter().map(|part| part.len() as u64).sum());
            write.write(body).await?;
            Box::new(write).finish(header).await
        })
    }

    fn create(
        &self,
        piece: PieceId,
        cell_bytes: u32,
        len_max: u64,
    ) -> BoxFuture<'_, Result<Box<dyn HolderWriter>, Error>> {
        // The drive hears of it with the first bytes: that saves a round trip.
        let write = Box::new(self.begin(piece, cell_bytes, len_max)) as Box<dyn HolderWriter>;
        Box::pin(std::future::ready(Ok(write)))
    }

    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(self.read_all(piece, offset, len))
    }

    fn header(&self, piece: PieceId) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(self.read_header(piece))
    }

    fn delete(&self, pieces: Vec<PieceId>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.delete_all(pieces))
    }

    fn writable(&self) -> bool {
        let seen = self.seen();
        !seen.full && seen.health.as_ref().is_none_or(|health| health.state == State::Ok)
    }

    fn round_trip(&self) -> Duration {
        self.seen().looks.iter().min().copied().unwrap_or_default()
    }
}
