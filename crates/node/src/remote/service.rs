//! Answers for the drives of this node.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use base::{DriveId, Kind, Kinded, PieceId};
use bytes::Bytes;
use codec::Versioned;
use env::{BoxFuture, Env};
use piecestore::{Cursor, PieceStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use transport::{Body, BodySource, Caller, Fault, Request, Response, Service};

use super::message::{self, Ask, DriveHealth, Info, Part, READ_STRETCH_BYTES, State, Told, WriteId};
use super::writes::{Writes, fault};

/// Sweeping is this often.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Answers up to this size go out in one frame at once; their room isn't counted while they do.
const QUICK_BYTES: usize = 256 << 10;
/// Room is counted in units of this many bytes.
const UNIT_BYTES: u64 = 4096;

/// What a node does for others at a time.
#[derive(Clone, Debug)]
pub struct ServiceLimits {
    /// Calls; more wait, then are told to come back.
    pub calls_max: usize,
    /// Bytes of pieces in memory that are being received, written, read or sent.
    pub memory_bytes: u64,
    /// A call waits so long for its turn before it is told to come back.
    pub wait: Duration,
    /// What it is told then.
    pub retry_after: Duration,
    /// Bytes that are announced must have come after so long.
    pub receive: Duration,
    /// Pieces being written, in all.
    pub writes_max: usize,
    /// Pieces that one node may be writing.
    pub writes_of_one_max: usize,
    /// A piece that nobody goes on writing for so long is given up: longer than a slow user takes
    /// for a megabyte.
    pub idle: Duration,
    /// A drive with less room than this counts as full.
    pub full_below: u64,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            calls_max: 256,
            memory_bytes: 128 << 20,
            wait: Duration::from_millis(300),
            retry_after: Duration::from_millis(100),
            receive: Duration::from_secs(30),
            writes_max: 4096,
            writes_of_one_max: 1024,
            idle: Duration::from_secs(15 * 60),
            full_below: 512 << 20,
        }
    }
}

/// Answers for the drives of this node. Drives come and go with [`PieceService::set`] and
/// [`PieceService::remove`].
pub struct PieceService {
    env: Env,
    limits: ServiceLimits,
    stores: RwLock<BTreeMap<DriveId, Arc<PieceStore>>>,
    writes: Arc<Writes>,
    calls: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

type Answer = Result<Response, Fault>;

/// Says whether a piece with this header may be kept.
pub(crate) type Check<'a> = dyn Fn(&Bytes) -> Result<(), Fault> + Send + Sync + 'a;

impl PieceService {
    /// For no drive yet.
    pub fn new(env: Env, limits: ServiceLimits) -> Arc<Self> {
        let units = (limits.memory_bytes / UNIT_BYTES).clamp(1, u64::from(u32::MAX)) as usize;
        let service = Arc::new(Self {
            stores: RwLock::default(),
            writes: Arc::new(Writes::new(env.clone(), limits.writes_max, limits.writes_of_one_max, limits.idle)),
            calls: Arc::new(Semaphore::new(limits.calls_max.max(1))),
            memory: Arc::new(Semaphore::new(units)),
            limits,
            env: env.clone(),
        });
        env.spawn("give up writes", sweep(env.clone(), Arc::downgrade(&service)));
        service
    }

    /// Answers for this drive from now on.
    pub fn set(&self, drive: DriveId, store: Arc<PieceStore>) {
        self.stores.write().unwrap_or_else(PoisonError::into_inner).insert(drive, store);
    }

    /// Doesn't any more.
    pub fn remove(&self, drive: DriveId) {
        self.stores.write().unwrap_or_else(PoisonError::into_inner).remove(&drive);
    }

    /// Pieces that others are writing here.
    pub fn writes(&self) -> usize {
        self.writes.open()
    }

    /// The header of a piece on a drive of this node.
    pub(crate) async fn header_of(&self, drive: DriveId, piece: PieceId) -> Result<Bytes, Fault> {
        self.store(drive)?.header(piece).await.map_err(|error| fault(&error))
    }

    /// Whether the piece is there, and not by this write.
    pub(crate) async fn is_foreign(&self, drive: DriveId, piece: PieceId, write: WriteId) -> Result<bool, Fault> {
        let is_there = self.store(drive)?.contains(piece).await.map_err(|error| fault(&error))?;
        Ok(is_there && !self.writes.is_done(write))
    }

    fn store(&self, drive: DriveId) -> Result<Arc<PieceStore>, Fault> {
        let store = self.stores.read().unwrap_or_else(PoisonError::into_inner).get(&drive).cloned();
        // Not `Missing`: that its drive is elsewhere doesn't say that a piece is lost.
        store.ok_or_else(|| Fault::new(Kind::Unreachable, format!("drive {drive} is not on this node now")))
    }

    fn busy(&self) -> Fault {
        Fault::new(Kind::Busy { retry_after: self.limits.retry_after }, "this node is asked for too much at once")
    }

    async fn permits(&self, of: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, Fault> {
        if let Ok(permit) = of.clone().try_acquire_many_owned(count) {
            return Ok(permit);
        }
        let permit = self.env.timeout(self.limits.wait, of.clone().acquire_many_owned(count)).await;
        permit.and_then(Result::ok).ok_or_else(|| self.busy())
    }

    /// Room in memory for so many bytes of pieces.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Fault> {
        // No call waits for more than there is, or it would wait for ever.
        let most = (self.limits.memory_bytes / UNIT_BYTES).max(1);
        self.permits(&self.memory, bytes.div_ceil(UNIT_BYTES).clamp(1, most) as u32).await
    }

    async fn answer(&self, caller: Caller, request: Request) -> Answer {
        // What a later release asks can be had from others: nothing is wrong with the piece.
        let unknown = |error| Fault::new(Kind::Unreachable, format!("this node doesn't know what is asked: {error}"));
        let ask = Ask::decode(&request.head).map_err(unknown)?;
        self.serve(caller, ask, request.body, &|_| Ok(())).await
    }

    /// Does what is asked; of a piece that is written, if its header passes the check.
    pub(crate) async fn serve(&self, caller: Caller, ask: Ask, body: Body, check: &Check<'_>) -> Answer {
        let _turn = self.permits(&self.calls, 1).await?;
        match ask {
            Ask::Put(drive, part) => self.put(caller, drive, part, body, check).await,
            Ask::Read(drive, piece, offset, len) => self.read(drive, piece, offset, len).await,
            Ask::Header(drive, piece) => {
                let header = self.store(drive)?.header(piece).await.map_err(|error| fault(&error))?;
                Ok(Response::new(Told::Header(codec::crc64(&header)).encode()).with_body(header))
            }
            Ask::Stat(drive, piece) => {
                let info = self.store(drive)?.stat(piece).await.map_err(|error| fault(&error))?;
                told(&Told::Stat(told_of(info)))
            }
            Ask::Contains(drive, pieces) => {
                let store = self.store(drive)?;
                let mut there = Vec::with_capacity(pieces.len());
                for piece in pieces {
                    there.push(store.contains(piece).await.map_err(|error| fault(&error))?);
                }
                told(&Told::Contains(there))
            }
            Ask::Delete(drive, writes, pieces) => {
                let store = self.store(drive)?;
                self.writes.revoke(caller.node, &writes).await;
                told(&Told::Delete(match pieces.is_empty() {
                    true => 0,
                    false => store.delete(pieces).await.map_err(|error| fault(&error))?,
                }))
            }
            Ask::List(drive, from, limit) => {
                let listed = self.store(drive)?.list(Some(Cursor::from_u64(from)), limit as usize).await;
                let (pieces, next) = listed.map_err(|error| fault(&error))?;
                let pieces = pieces.into_iter().map(|(piece, info)| (piece, told_of(info))).collect();
                told(&Told::List(pieces, next.map(Cursor::to_u64)))
            }
            Ask::Health(drives) => told(&Told::Health(self.health(drives))),
        }
    }

    async fn put(&self, caller: Caller, drive: DriveId, part: Part, mut body: Body, check: &Check<'_>) -> Answer {
        let store = self.store(drive)?;
        let header_len = part.header.map_or(0, |(len, _)| len);
        let len = u64::from(part.len) + u64::from(header_len);
        if body.len().is_some_and(|announced| announced != len) {
            return Err(Fault::new(
                Kind::Invalid,
                format!("the bytes of a piece are not the {len} that its head names"),
            ));
        }
        let _room = self.room(len).await?;
        let received = self.env.timeout(self.limits.receive, body.gather(len as usize)).await;
        let received = received.ok_or_else(|| Fault::new(Kind::Unreachable, "the bytes of a piece came too slowly"))?;
        let mut bytes = received.map_err(|error| Fault::new(error.kind(), error.to_string()))?;
        if bytes.iter().map(|part| part.len() as u64).sum::<u64>() != len {
            return Err(Fault::new(
                Kind::Invalid,
                format!("the bytes of a piece are not the {len} that its head names"),
            ));
        }
        let changed = || Fault::new(Kind::Damaged, "bytes of a piece changed on their way here");
        let header = match part.header {
            Some((len, sum)) => {
                let header = split_front(&mut bytes, len as usize);
                if codec::crc64(&header) != sum {
                    return Err(changed());
                }
                check(&header)?;
                Some(header)
            }
            None => None,
        };
        if message::sums(&bytes, message::stretch_bytes(part.cell_bytes)) != part.sums {
            return Err(changed());
        }
        let (have, durable) = self.writes.take(caller.node, drive, store, part, header, bytes).await?;
        told(&Told::Put(have, durable))
    }

    async fn read(&self, drive: DriveId, piece: PieceId, offset: u64, len: u32) -> Answer {
        let store = self.store(drive)?;
        let room = self.room(len.into()).await?;
        let bytes = store.read(piece, offset, len.into()).await.map_err(|error| fault(&error))?;
        let sums = message::sums(std::slice::from_ref(&bytes), READ_STRETCH_BYTES);
        let response = Response::new(Told::Read(sums).encode());
        if bytes.len() <= QUICK_BYTES {
            return Ok(response.with_body(bytes));
        }
        let len = bytes.len() as u64;
        Ok(response.with_body(Body::stream(Some(len), Sending { bytes, _room: room })))
    }

    fn health(&self, drives: Vec<DriveId>) -> Vec<DriveHealth> {
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        let drives =
            if drives.is_empty() { stores.keys().copied().take(message::DRIVES_MAX).collect() } else { drives };
        let health = |drive: DriveId| match stores.get(&drive) {
            Some(store) => self.health_of(drive, store),
            None => DriveHealth::away(drive),
        };
        drives.into_iter().map(health).collect()
    }

    fn health_of(&self, drive: DriveId, store: &PieceStore) -> DriveHealth {
        let health = store.health();
        DriveHealth {
            drive,
            state: match health.state {
                piecestore::State::Ok => State::Ok,
                piecestore::State::ReadOnly(why) => State::ReadOnly(why),
                piecestore::State::Failed(why) => State::Failed(why),
            },
            full: health.free < self.limits.full_below,
            free: health.free,
            total: health.total,
            pieces: health.pieces,
            live_bytes: health.live_bytes,
            trash_pieces: health.trash_pieces,
            trash_bytes: health.trash_bytes,
            read_errors: health.read_errors,
            lost_logs: health.lost_logs,
        }
    }
}

impl Service for PieceService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Answer> {
        Box::pin(self.answer(caller, request))
    }
}

fn told(told: &Told) -> Answer {
    Ok(Response::new(told.encode()))
}

/// The first `len` bytes, in one piece; fewer if there aren't so many.
fn split_front(parts: &mut Vec<Bytes>, len: usize) -> Bytes {
    if let Some(first) = parts.first_mut().filter(|first| first.len() >= len) {
        let front = first.split_to(len);
        parts.retain(|part| !part.is_empty());
        return front;
    }
    let mut front = Vec::new();
    for part in parts.iter_mut() {
        let take = part.len().min(len - front.len());
        front.extend_from_slice(&part.split_to(take));
    }
    parts.retain(|part| !part.is_empty());
    front.into()
}

/// Bytes on their way out, and the room that they take.
struct Sending {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl BodySource for Sending {
    fn next(&mut self) -> BoxFuture<'_, Option<transport::Result<Bytes>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Box::pin(std::future::ready((!bytes.is_empty()).then_some(Ok(bytes))))
    }
}

fn told_of(info: piecestore::PieceInfo) -> Info {
    Info { len: info.len, cell_bytes: info.cell_bytes, expiry: info.expiry }
}

/// Until the service is dropped.
async fn sweep(env: Env, service: Weak<PieceService>) {
    loop {
        env.clock.sleep(SWEEP_EVERY).await;
        let Some(service) = service.upgrade() else { return };
        service.writes.sweep();
    }
}
