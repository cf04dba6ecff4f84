//! A drive of a node, for guests who have a right to its volume's pieces: reads and writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base::{DriveId, Kind, Kinded, NodeId, PieceId, SegmentId};
use bytes::Bytes;
use client::drives::{Holder, HolderWriter};
use client::guest::{PIECES_SERVICE, PieceQuestion, Right};
use client::pieces::{
    Ask, DriveHealth, HEADER_BYTES_MAX, PART_BYTES_MAX, Part, READ_STRETCH_BYTES, Told, WriteId, stretch_bytes, sums,
};
use env::{BoxFuture, Env};
use transport::{Body, Call, Class, Endpoint, ServiceId};

type Done<T> = std::result::Result<T, client::Error>;

/// Up to so many bytes go over small connections.
const SMALL_BYTES: usize = 128 << 10;
/// Bytes are gathered up to here before they are sent: each call costs a round trip.
const GATHER_BYTES: usize = 1 << 20;
/// How long a node may take to read, to take a part, to make a piece durable.
const READ: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_secs(20);
const SETTLE: Duration = Duration::from_secs(40);
/// A node that has too much to do is asked again for so long …
const BUSY_MAX: Duration = Duration::from_secs(5);
/// … unless it wants to be left alone for longer than this: then its drive is full.
const BUSY_ONE_MAX: Duration = Duration::from_secs(1);
/// A call that failed this fast is tried once more: its connection was stale.
const STALE: Duration = Duration::from_millis(300);

/// The way to drives, and by what right.
pub(crate) struct Way {
    pub env: Env,
    pub endpoint: Endpoint,
    pub right: Right,
    run: [u8; 8],
    count: AtomicU64,
}

impl Way {
    pub fn new(env: Env, endpoint: Endpoint, right: Right) -> Arc<Self> {
        Arc::new(Self { run: env.random(), count: AtomicU64::new(0), env, endpoint, right })
    }

    /// Chance for the run, a count within it: never the same twice.
    fn write_id(&self) -> WriteId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.run);
        id[8..].copy_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        WriteId(id)
    }

    async fn call(&self, node: NodeId, ask: &Ask, body: &[Bytes], limit: Duration) -> transport::Result<(Told, Bytes)> {
        let bytes: usize = body.iter().map(Bytes::len).sum();
        let wanted = match ask {
            Ask::Read(.., len) => *len as usize,
            _ => 0,
        };
        let class = if bytes.max(wanted) <= SMALL_BYTES { Class::Small } else { Class::Bulk };
        let question = PieceQuestion { right: self.right.clone(), ask: ask.clone() };
        let call = Call::of(ServiceId(PIECES_SERVICE), class, &question);
        let call = call.with_body(Body::of(body.to_vec())).with_timeout(limit);
        let reply = self.endpoint.call(node, call).await?;
        let told = reply.decode()?;
        Ok((told, reply.body.collect(PART_BYTES_MAX.max(HEADER_BYTES_MAX) as usize).await?))
    }

    /// How the drives of a node do.
    pub async fn health(&self, node: NodeId, drives: Vec<DriveId>) -> transport::Result<Vec<DriveHealth>> {
        match self.call(node, &Ask::Health(drives), &[], READ).await?.0 {
            Told::Health(health) => Ok(health),
            _ => Err(transport::Error::Protocol("a node answers what wasn't asked".into())),
        }
    }
}

/// One drive. Clones are the same one.
#[derive(Clone)]
pub(crate) struct GuestDrive {
    way: Arc<Way>,
    node: NodeId,
    drive: DriveId,
    full: Arc<AtomicBool>,
}

impl GuestDrive {
    pub fn new(way: Arc<Way>, node: NodeId, drive: DriveId, full: bool) -> Self {
        Self { way, node, drive, full: Arc::new(AtomicBool::new(full)) }
    }

    fn error(&self, piece: PieceId, kind: Kind, text: impl std::fmt::Display) -> client::Error {
        client::Error::Drive { piece, kind, text: format!("drive {}: {text}", self.drive) }
    }

    /// Its node doesn't keep to the protocol: as good as not there, and no judgement on the piece.
    fn nonsense(&self, piece: PieceId) -> client::Error {
        self.error(piece, Kind::Unreachable, format!("node {} answers what wasn't asked", self.node))
    }

    fn changed(&self, piece: PieceId) -> client::Error {
        self.error(piece, Kind::Damaged, "bytes changed on their way here")
    }

    /// Asks; asks again if the node has too much to do, or a connection was stale: all can be asked twice.
    async fn ask(&self, piece: PieceId, ask: Ask, body: Vec<Bytes>, limit: Duration) -> Done<(Told, Bytes)> {
        let clock = &self.way.env.clock;
        let (began, mut stale) = (clock.now(), false);
        loop {
            let error = match self.way.call(self.node, &ask, &body, limit).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let spent = clock.now().since(began);
            match error.kind() {
                Kind::Busy { retry_after } if retry_after <= BUSY_ONE_MAX && spent < BUSY_MAX => {
                    let jitter = u64::from_le_bytes(self.way.env.random()) % 50;
                    clock.sleep(retry_after + Duration::from_millis(jitter)).await;
                }
                Kind::Unreachable if !stale && spent < STALE && !matches!(error, transport::Error::Remote(_)) => {
                    stale = true;
                }
                kind => {
                    if matches!(kind, Kind::Busy { .. }) {
                        self.full.store(true, Ordering::Relaxed);
                    }
                    let kind = match error {
                        // What is wrong with the way there says nothing of the piece.
                        transport::Error::Protocol(_) | transport::Error::TooLong { .. } => Kind::Unreachable,
                        _ => kind,
                    };
                    return Err(self.error(piece, kind, error));
                }
            }
        }
    }

    async fn part(&self, piece: PieceId, offset: u64, len: u32) -> Done<Bytes> {
        let (told, bytes) = self.ask(piece, Ask::Read(self.drive, piece, offset, len), Vec::new(), READ).await?;
        let Told::Read(told) = told else { return Err(self.nonsense(piece)) };
        let is_so = bytes.len() == len as usize && sums(std::slice::from_ref(&bytes), READ_STRETCH_BYTES) == told;
        if is_so { Ok(bytes) } else { Err(self.changed(piece)) }
    }

    fn begin(&self, piece: PieceId, cell_bytes: u32, len_max: u64) -> Outgoing {
        let (drive, write) = (self.clone(), self.way.write_id());
        let (sent, held, held_bytes, begun, durable) = Default::default();
        Outgoing { drive, write, piece, cell_bytes, len_max, sent, held, held_bytes, begun, durable }
    }
}

impl Holder for GuestDrive {
    fn put(&self, piece: PieceId, header: Bytes, body: Vec<Bytes>, cell_bytes: u32) -> BoxFuture<'_, Done<()>> {
        Box::pin(async move {
            let mut write = self.begin(piece, cell_bytes, body.iter().map(|part| part.len() as u64).sum());
            write.take(body).await?;
            Box::new(write).end(header).await
        })
    }

    fn create(&self, piece: PieceId, cell_bytes: u32, len_max: u64) -> BoxFuture<'_, Done<Box<dyn HolderWriter>>> {
        let write = Box::new(self.begin(piece, cell_bytes, len_max)) as Box<dyn HolderWriter>;
        Box::pin(std::future::ready(Ok(write)))
    }

    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(async move {
            if len <= PART_BYTES_MAX.into() {
                return self.part(piece, offset, len as u32).await;
            }
            let mut all = Vec::new();
            while (all.len() as u64) < len {
                let now = (len - all.len() as u64).min(PART_BYTES_MAX.into());
                all.extend_from_slice(&self.part(piece, offset + all.len() as u64, now as u32).await?);
            }
            Ok(all.into())
        })
    }

    fn header(&self, piece: PieceId) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(async move {
            let (told, bytes) = self.ask(piece, Ask::Header(self.drive, piece), Vec::new(), READ).await?;
            match told {
                Told::Header(sum) if codec::crc64(&bytes) == sum => Ok(bytes),
                Told::Header(_) => Err(self.changed(piece)),
                _ => Err(self.nonsense(piece)),
            }
        })
    }

    /// Nothing: a guest deletes no pieces. What no row names, the store collects.
    fn delete(&self, _: Vec<PieceId>) -> BoxFuture<'_, Done<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn writable(&self) -> bool {
        !self.full.load(Ordering::Relaxed)
    }
}

/// A piece on its way.
struct Outgoing {
    drive: GuestDrive,
    write: WriteId,
    piece: PieceId,
    cell_bytes: u32,
    len_max: u64,
    /// Bytes that the drive has.
    sent: u64,
    held: Vec<Bytes>,
    held_bytes: usize,
    /// The drive may know of it.
    begun: bool,
    durable: bool,
}

impl Outgoing {
    async fn take(&mut self, bytes: Vec<Bytes>) -> Done<()> {
        for part in bytes.into_iter().filter(|part| !part.is_empty()) {
            self.held_bytes += part.len();
            self.held.push(part);
        }
        if self.sent + self.held_bytes as u64 > self.len_max {
            let text = "more bytes were written than the piece was announced to have";
            return Err(self.drive.error(self.piece, Kind::Invalid, text));
        }
        // The last bytes wait for the header, which goes with them.
        while self.held_bytes >= GATHER_BYTES && self.len_max > GATHER_BYTES as u64 {
            self.send(None).await?;
        }
        Ok(())
    }

    /// The next bytes to go out: all that are held, if one call can carry them; else whole stretches, so that the next checksums
    /// begin where a cell does.
    fn next(&mut self) -> Vec<Bytes> {
        let most = PART_BYTES_MAX as usize;
        if self.held_bytes <= most {
            self.held_bytes = 0;
            return std::mem::take(&mut self.held);
        }
        let stretch = stretch_bytes(self.cell_bytes) as usize;
        let mut left = (most / stretch * stretch).max(most.min(stretch));
        self.held_bytes -= left;
        let mut taken = Vec::new();
        while left > 0 && !self.held.is_empty() {
            let now = self.held[0].len().min(left);
            taken.push(self.held[0].split_to(now));
            left -= now;
            if self.held[0].is_empty() {
                self.held.remove(0);
            }
        }
        taken
    }

    /// Sends bytes; the header with the last ones.
    async fn send(&mut self, header: Option<Bytes>) -> Done<()> {
        let mut bytes = self.next();
        let len: usize = bytes.iter().map(Bytes::len).sum();
        let part = Part {
            write: self.write,
            piece: self.piece,
            cell_bytes: self.cell_bytes,
            len_max: self.len_max,
            offset: self.sent,
            len: len as u32,
            sums: sums(&bytes, stretch_bytes(self.cell_bytes)),
            header: header.as_ref().map(|header| (header.len() as u32, codec::crc64(header))),
        };
        let (limit, last) = if header.is_some() { (SETTLE, true) } else { (WRITE, false) };
        bytes.splice(0..0, header);
        self.begun = true;
        let ask = Ask::Put(self.drive.drive, part);
        match self.drive.ask(self.piece, ask, bytes, limit).await?.0 {
            Told::Put(have, durable) if have == self.sent + len as u64 && durable == last => {
                (self.sent, self.durable) = (have, durable);
                Ok(())
            }
            _ => Err(self.drive.nonsense(self.piece)),
        }
    }

    async fn end(mut self: Box<Self>, header: Bytes) -> Done<()> {
        if header.len() > HEADER_BYTES_MAX as usize {
            return Err(self.drive.error(self.piece, Kind::Invalid, "the piece's header is too long"));
        }
        while self.held_bytes > PART_BYTES_MAX as usize {
            self.send(None).await?;
        }
        self.send(Some(header)).await
    }
}

impl HolderWriter for Outgoing {
    fn write(&mut self, bytes: Vec<Bytes>) -> BoxFuture<'_, Done<()>> {
        Box::pin(self.take(bytes))
    }

    fn finish(self: Box<Self>, header: Bytes) -> BoxFuture<'static, Done<()>> {
        Box::pin(self.end(header))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.begun && !self.durable {
            let (drive, write, piece) = (self.drive.clone(), self.write, self.piece);
            // If it isn't told, the node gives the write up by itself after a while.
            self.drive.way.env.spawn("break off a write", async move {
                let none = PieceId { segment: SegmentId([0; 16]), index: 0 };
                let ask = Ask::Delete(drive.drive, vec![write], Vec::new());
                if let Err(error) = drive.ask(none, ask, Vec::new(), WRITE).await {
                    tracing::debug!(%piece, %error, "a write that was broken off is told to nobody");
                }
            });
        }
    }
}
