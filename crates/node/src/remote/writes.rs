//! Pieces that others are writing here.
//!
//! 1. Each step of a write (a part, the end, the revocation) happens alone, under its stage's lock.
//! 2. A step that was begun is done to its end, whether or not its caller still waits.
//! 3. A revoked write is remembered for longer than any frame of it can be under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{DriveId, Instant, Kind, Kinded, NodeId, PieceId};
use bytes::Bytes;
use env::Env;
use piecestore::{PieceStore, PieceWriter};
use transport::Fault;

use super::message::{Part, WriteId};

/// What ended is remembered for so long: frames live shorter than any deadline.
const REMEMBERED: Duration = Duration::from_secs(300);
/// … but no more than so many of a kind, 16 bytes each.
const REMEMBERED_MAX: usize = 65_536;
/// A write that nobody went on with for so long gives way when others want to begin.
const QUIET: Duration = Duration::from_secs(60);

/// Where a write is.
enum Stage {
    Fresh,
    Open { writer: Box<PieceWriter>, at: u64 },
    Done { len: u64 },
    Dead,
}

/// One write.
pub(super) struct Write {
    id: WriteId,
    node: NodeId,
    drive: DriveId,
    piece: PieceId,
    touched: Mutex<Instant>,
    stage: tokio::sync::Mutex<Stage>,
}

/// Ids that are remembered for a while, in the order in which they came.
#[derive(Default)]
struct Memory {
    order: VecDeque<(Instant, WriteId)>,
    ids: BTreeSet<WriteId>,
}

impl Memory {
    /// Adds one; gives those that are forgotten for it.
    fn add(&mut self, now: Instant, id: WriteId) -> Vec<WriteId> {
        if self.ids.insert(id) {
            self.order.push_back((now, id));
        }
        let mut forgotten = Vec::new();
        while self.order.len() > REMEMBERED_MAX
            || self.order.front().is_some_and(|(since, _)| now.since(*since) > REMEMBERED)
        {
            let Some((_, old)) = self.order.pop_front() else { break };
            self.ids.remove(&old);
            forgotten.push(old);
        }
        forgotten
    }
}

#[derive(Default)]
struct Table {
    open: BTreeMap<WriteId, Arc<Write>>,
    revoked: Memory,
    /// Durable, and their lengths: an end that is sent again is answered again.
    done: BTreeMap<WriteId, u64>,
    done_order: Memory,
}

/// All of them.
pub(super) struct Writes {
    env: Env,
    table: Mutex<Table>,
    max: usize,
    of_one_max: usize,
    idle: Duration,
}

/// A broken-off or unknown write: the caller begins again, with another id.
fn conflict(what: &str) -> Fault {
    Fault::new(Kind::Conflict, format!("{what}: write the piece again from its beginning"))
}

pub(super) fn fault(error: &piecestore::Error) -> Fault {
    Fault::new(error.kind(), error.to_string())
}

/// What a step gave: bytes so far, and whether the piece is durable.
pub(super) type Took = (u64, bool);

impl Writes {
    pub fn new(env: Env, max: usize, of_one_max: usize, idle: Duration) -> Self {
        Self { env, table: Mutex::default(), max, of_one_max, idle }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes that are under way.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    /// Whether the write ended a moment ago, and its piece is durable.
    pub fn is_done(&self, id: WriteId) -> bool {
        self.lock().done.contains_key(&id)
    }

    /// Takes one part; returns when it is with the drive, the last one when all is durable.
    pub async fn take(
        self: &Arc<Self>,
        node: NodeId,
        drive: DriveId,
        store: Arc<PieceStore>,
        part: Part,
        header: Option<Bytes>,
        body: Vec<Bytes>,
    ) -> Result<Took, Fault> {
        let end = part.offset + u64::from(part.len);
        let write = match self.find(node, drive, &part)? {
            Found::Open(write) => write,
            Found::Done(len) if header.is_some() && len == end => return Ok((len, true)),
            Found::Done(_) => return Err(conflict("the write has ended")),
        };
        let (send, receive) = tokio::sync::oneshot::channel();
        let this = self.clone();
        self.env.spawn("take a part of a piece", async move {
            let mut stage = write.stage.lock().await;
            let took = step(&mut stage, &store, &part, header, body).await;
            this.ended(&write, &stage);
            drop(stage);
            let _ = send.send(took);
        });
        receive.await.map_err(|_| Fault::new(Kind::Unreachable, "this node is ending"))?
    }

    fn find(&self, node: NodeId, drive: DriveId, part: &Part) -> Result<Found, Fault> {
        let now = self.env.clock.now();
        let mut table = self.lock();
        if table.revoked.ids.contains(&part.write) {
            return Err(conflict("the write was revoked"));
        }
        if let Some(len) = table.done.get(&part.write) {
            return Ok(Found::Done(*len));
        }
        if let Some(write) = table.open.get(&part.write) {
            if (write.node, write.drive, write.piece) != (node, drive, part.piece) {
                return Err(Fault::new(Kind::Invalid, "this write is of another piece"));
            }
            *write.touched.lock().unwrap_or_else(PoisonError::into_inner) = now;
            return Ok(Found::Open(write.clone()));
        }
        if part.offset > 0 {
            return Err(conflict("this node knows nothing of the write"));
        }
        self.make_room(&mut table, node, now)?;
        let write = Arc::new(Write {
            id: part.write,
            node,
            drive,
            piece: part.piece,
            touched: Mutex::new(now),
            stage: tokio::sync::Mutex::new(Stage::Fresh),
        });
        table.open.insert(part.write, write.clone());
        Ok(Found::Open(write))
    }

    /// Makes room for one more: the write that was left alone for longest gives way.
    fn make_room(&self, table: &mut Table, node: NodeId, now: Instant) -> Result<(), Fault> {
        let of_one = table.open.values().filter(|write| write.node == node).count();
        if table.open.len() < self.max && of_one < self.of_one_max {
            return Ok(());
        }
        let counts = |write: &&Arc<Write>| of_one < self.of_one_max || write.node == node;
        let oldest = table.open.values().filter(counts).min_by_key(|write| (write.touched(), write.id)).cloned();
        match oldest.filter(|write| now.since(write.touched()) > QUIET) {
            Some(write) => {
                table.forget(&write, now);
                Ok(())
            }
            None => {
                let retry_after = Duration::from_millis(500);
                Err(Fault::new(Kind::Busy { retry_after }, "too many pieces are being written here at once"))
            }
        }
    }

    /// Nothing of these writes becomes durable from now on; waits for those that are at it.
    pub async fn revoke(&self, node: NodeId, ids: &[WriteId]) {
        let now = self.env.clock.now();
        let open: Vec<Arc<Write>> = {
            let mut table = self.lock();
            let others = |table: &Table, id: &WriteId| table.open.get(id).is_some_and(|write| write.node != node);
            let ids: Vec<WriteId> = ids.iter().copied().filter(|id| !others(&table, id)).collect();
            ids.iter().for_each(|id| _ = table.revoked.add(now, *id));
            ids.iter().filter_map(|id| table.open.remove(id)).collect()
        };
        for write in open {
            *write.stage.lock().await = Stage::Dead;
        }
    }

    /// Gives up what nobody went on with.
    pub fn sweep(&self) {
        let now = self.env.clock.now();
        let mut table = self.lock();
        let idle: Vec<_> =
            table.open.values().filter(|write| now.since(write.touched()) > self.idle).cloned().collect();
        for write in idle {
            tracing::info!(node = %write.node, piece = %write.piece, "nobody went on writing a piece: given up");
            table.forget(&write, now);
        }
    }

    /// Takes a write that has ended out of the table.
    fn ended(&self, write: &Write, stage: &Stage) {
        let now = self.env.clock.now();
        let mut table = self.lock();
        match stage {
            Stage::Fresh | Stage::Open { .. } => {}
            Stage::Dead => table.forget(write, now),
            Stage::Done { len } => {
                table.open.remove(&write.id);
                table.done.insert(write.id, *len);
                for old in table.done_order.add(now, write.id) {
                    table.done.remove(&old);
                }
            }
        }
    }
}

enum Found {
    Open(Arc<Write>),
    Done(u64),
}

impl Table {
    /// What it had is dropped as soon as nobody is at it; no part of it is taken any more.
    fn forget(&mut self, write: &Write, now: Instant) {
        self.open.remove(&write.id);
        self.revoked.add(now, write.id);
    }
}

impl Write {
    fn touched(&self) -> Instant {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One step; a failure ends the write.
async fn step(
    stage: &mut Stage,
    store: &Arc<PieceStore>,
    part: &Part,
    header: Option<Bytes>,
    body: Vec<Bytes>,
) -> Result<Took, Fault> {
    let end = part.offset + u64::from(part.len);
    match std::mem::replace(stage, Stage::Dead) {
        Stage::Dead => Err(conflict("the write failed, or was revoked")),
        Stage::Done { len } => {
            *stage = Stage::Done { len };
            if header.is_some() && len == end { Ok((len, true)) } else { Err(conflict("the write has ended")) }
        }
        Stage::Fresh => match header {
            Some(header) if part.offset == 0 => {
                store.put(part.piece, header, body, part.cell_bytes, None).await.map_err(|error| fault(&error))?;
                *stage = Stage::Done { len: end };
                Ok((end, true))
            }
            _ if part.offset > 0 => Err(conflict("the write's beginning is missing")),
            header => {
                let writer = store.create(part.piece, part.cell_bytes, part.len_max, None).await;
                let writer = writer.map_err(|error| fault(&error))?;
                append(stage, Box::new(writer), 0, part, header, body).await
            }
        },
        // The same part again: the answer to the first one was lost.
        Stage::Open { writer, at } if header.is_none() && end <= at => {
            *stage = Stage::Open { writer, at };
            Ok((at, false))
        }
        Stage::Open { writer, at } => append(stage, writer, at, part, header, body).await,
    }
}

async fn append(
    stage: &mut Stage,
    mut writer: Box<PieceWriter>,
    at: u64,
    part: &Part,
    header: Option<Bytes>,
    body: Vec<Bytes>,
) -> Result<Took, Fault> {
    if part.offset != at {
        return Err(conflict("a part of the piece is missing"));
    }
    if !body.is_empty() {
        writer.write(body).await.map_err(|error| fault(&error))?;
    }
    let at = at + u64::from(part.len);
    if let Some(header) = header {
        writer.finish(header).await.map_err(|error| fault(&error))?;
        *stage = Stage::Done { len: at };
        return Ok((at, true));
    }
    *stage = Stage::Open { writer, at };
    Ok((at, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames live for minutes at the most; memory is bounded whatever comes.
    #[test]
    fn what_ended_is_remembered_for_a_while_and_not_for_ever() {
        let mut memory = Memory::default();
        let id = |number: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_le_bytes());
            WriteId(id)
        };
        let later = |by: Duration| Instant(0) + by;
        assert!(memory.add(later(Duration::ZERO), id(1)).is_empty());
        assert!(memory.add(later(REMEMBERED), id(2)).is_empty());
        assert!(memory.add(later(REMEMBERED), id(2)).is_empty());
        assert_eq!(memory.add(later(REMEMBERED + Duration::from_secs(1)), id(3)), [id(1)]);
        assert!(!memory.ids.contains(&id(1)) && memory.ids.contains(&id(2)));
        let mut forgotten = 0;
        for number in 10..REMEMBERED_MAX as u32 + 20 {
            forgotten += memory.add(later(REMEMBERED + Duration::from_secs(1)), id(number)).len();
        }
        assert_eq!((forgotten, memory.ids.len(), memory.order.len()), (12, REMEMBERED_MAX, REMEMBERED_MAX));
    }
}
