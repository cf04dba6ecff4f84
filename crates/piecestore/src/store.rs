//! What callers see: each call does its disk work off the reactor.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{PieceId, Wall};
use bytes::Bytes;
use env::{Env, File, Space};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::commit::{Done, Item, Op, Piece, What, Work};
use crate::core::Core;
use crate::error::Error;
use crate::files::Files;
use crate::index::Index;
use crate::record::{CELLS_MAX, CellSums, HEADER_BYTES_MAX};
use crate::write::{PieceWriter, SyncOp, sync_loop};
use crate::{Health, Options, PieceInfo, State, lock};

/// Calls that may wait for the committer; more callers wait for room.
const QUEUE_OPS: usize = 1024;
/// Pieces of one delete that are looked up, and committed, together.
const MARKS_MAX: usize = 1024;
/// How often a change may find that others changed the same piece first.
const TRIES_MAX: usize = 64;
/// Permits of the queue are counted in units of this many bytes.
const PERMIT_BYTES: u64 = 1024;

pub(crate) fn cut(_: env::Cut) -> Error {
    Error::Fenced { reason: "disk work was cut short".into() }
}

/// The limits on a piece's sizes, as the caller's error.
pub(crate) fn sizes_of(header_len: usize, body_len: u64, cell_bytes: u32) -> Result<(), Error> {
    if header_len > HEADER_BYTES_MAX {
        return Err(Error::TooLong { what: "piece header", len: header_len as u64, max: HEADER_BYTES_MAX as u64 });
    }
    if body_len > crate::BODY_BYTES_MAX {
        return Err(Error::TooLong { what: "piece body", len: body_len, max: crate::BODY_BYTES_MAX });
    }
    if cell_bytes == 0 {
        return Err(Error::Invalid { what: "a piece's cells need at least one byte" });
    }
    match crate::record::cells(body_len, cell_bytes) {
        cells if cells > CELLS_MAX => Err(Error::TooLong { what: "cell table", len: cells * 8, max: CELLS_MAX * 8 }),
        _ => Ok(()),
    }
}

/// The pieces of one drive.
pub struct PieceStore {
    pub(crate) core: Arc<Core>,
    queue: mpsc::Sender<Op>,
    syncs: mpsc::Sender<SyncOp>,
    room: Arc<Semaphore>,
    /// Held by whoever moves or removes logs: cleaning, expiry, emptying the trash.
    pub(crate) upkeep: tokio::sync::Mutex<crate::clean::Upkeep>,
}

impl PieceStore {
    /// Opens the store in `dir`, making it if it isn't there.
    pub async fn open(env: Env, dir: PathBuf, options: Options) -> Result<Arc<Self>, Error> {
        let world = env.clone();
        let queue_bytes = options.queue_bytes;
        let core = env.blocking(move || open_core(world, dir, options)).await.map_err(cut)??;
        let (queue, ops) = mpsc::channel(QUEUE_OPS);
        let (syncs, sync_ops) = mpsc::channel(QUEUE_OPS);
        env.spawn("piece committer", commit_loop(core.clone(), ops));
        env.spawn("extent syncer", sync_loop(core.clone(), sync_ops));
        let permits = (queue_bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS as u64) as usize;
        let room = Arc::new(Semaphore::new(permits));
        Ok(Arc::new(Self { core, queue, syncs, room, upkeep: tokio::sync::Mutex::default() }))
    }

    /// Stores a piece, replacing an older one of the same id. It is durable on return. Each
    /// `cell_bytes` of the body get a checksum of their own.
    pub async fn put(
        self: &Arc<Self>,
        id: PieceId,
        header: Bytes,
        body: Vec<Bytes>,
        cell_bytes: u32,
        expiry: Option<Wall>,
    ) -> Result<(), Error> {
        let len: u64 = body.iter().map(|part| part.len() as u64).sum();
        sizes_of(header.len(), len, cell_bytes)?;
        if len >= self.core.options.large_min as u64 {
            return crate::write::put_whole(self, id, header, body, cell_bytes, expiry).await;
        }
        let mut sums = CellSums::new(cell_bytes);
        body.iter().for_each(|part| sums.update(part));
        let table = Bytes::from(sums.finish());
        let body_len = len as u32;
        let piece = Piece { header, table, body, body_len, cell_bytes, expiry, extent: None, reservation: None };
        self.put_piece(id, piece).await
    }

    /// Begins a piece of at most `len_max` bytes that comes in parts. Its room is reserved now.
    pub async fn create(
        self: &Arc<Self>,
        id: PieceId,
        cell_bytes: u32,
        len_max: u64,
        expiry: Option<Wall>,
    ) -> Result<PieceWriter, Error> {
        PieceWriter::create(self.clone(), id, cell_bytes, len_max, expiry).await
    }

    /// `len` bytes of the body from `offset`. All cells that they touch are checked.
    pub async fn read(&self, id: PieceId, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.on_disk(move |core| core.read_range(id, offset, len)).await
    }

    /// The piece's header.
    pub async fn header(&self, id: PieceId) -> Result<Bytes, Error> {
        self.on_disk(move |core| core.load_live(id).map(|loaded| loaded.header())).await
    }

    /// Length, cell size, expiry.
    pub async fn stat(&self, id: PieceId) -> Result<PieceInfo, Error> {
        self.on_disk(move |core| core.load_live(id).map(|loaded| loaded.info())).await
    }

    /// Whether the store holds the piece, not counting the trash. A damaged one counts.
    pub async fn contains(&self, id: PieceId) -> Result<bool, Error> {
        self.on_disk(move |core| Ok(core.resolve(id)?.found.is_some_and(|(_, trashed)| !trashed))).await
    }

    /// Puts pieces into the trash; says how many were there. Durable on return.
    pub async fn delete(&self, ids: Vec<PieceId>) -> Result<u64, Error> {
        self.mark_all(ids, What::Delete).await
    }

    /// Takes pieces back out of the trash; says how many were there. Durable on return.
    pub async fn undelete(&self, ids: Vec<PieceId>) -> Result<u64, Error> {
        self.mark_all(ids, What::Undelete).await
    }

    /// Stops all writes, for instance because the drive is being removed.
    pub fn fence(&self, reason: &str) {
        self.core.fence(State::Failed(reason.to_string()));
    }

    /// Whether it takes new pieces: [`State::Ok`]. Asked for every piece, so it looks at nothing else.
    pub fn is_writable(&self) -> bool {
        *lock(&self.core.state) == State::Ok
    }

    /// How the store is. Doesn't touch the drive; [`PieceStore::check_path`] asks for the free room.
    pub fn health(&self) -> Health {
        let core = &self.core;
        let Space { total, free } = *lock(&core.space);
        let tally = *lock(&core.tally);
        Health {
            state: lock(&core.state).clone(),
            free,
            total,
            pieces: tally.pieces,
            live_bytes: tally.live_bytes,
            trash_pieces: tally.trash_pieces,
            trash_bytes: tally.trash_bytes,
            index_bytes: core.index.bytes(),
            read_errors: core.read_errors.load(Ordering::Acquire),
            lost_logs: core.lost_logs.load(Ordering::Acquire),
        }
    }

    /// Looks whether the directory is still the one that was opened; if not, fences the store.
    /// Open files of a removed directory still take writes: nothing else would notice.
    pub async fn check_path(&self) -> Result<(), Error> {
        self.on_disk(|core| {
            let marker = core.files.dir().join(crate::files::MARKER);
            let gone = if core.marker.is_at(&marker) {
                core.files.opened().into_iter().find(|(path, file)| !file.is_at(path)).map(|(path, _)| path)
            } else {
                Some(marker)
            };
            // A log that cleaning removes just now is no loss: it has left the list of logs.
            if let Some(path) = gone.filter(|path| !core.was_removed(path)) {
                core.fence(State::Failed(format!("{} vanished or was replaced", path.display())));
            }
            core.refresh_space()?;
            core.check_open()
        })
        .await
    }

    /// Writes footers, so that the next open reads no log. Writes fail afterwards.
    pub async fn close(&self) -> Result<(), Error> {
        self.submit(Work::Close).await.map(|_| ())
    }

    /// Runs disk work off the reactor.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Core) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let core = self.core.clone();
        self.core.env.blocking(move || work(&core)).await.map_err(cut)?
    }

    /// Queues work for the committer and waits until it is durable.
    pub(crate) async fn submit(&self, work: Work) -> Result<Vec<Done>, Error> {
        let (reply, answer) = oneshot::channel();
        let mut op = Op { work, reply, permit: None };
        // A huge piece takes the whole queue, never more, or it would wait for ever.
        let most = (self.core.options.queue_bytes / PERMIT_BYTES).max(1);
        let permits = (op.bytes() / PERMIT_BYTES).clamp(1, most.min(u64::from(u32::MAX))) as u32;
        let permit = self.room.clone().acquire_many_owned(permits).await.map_err(|_| Error::Closed)?;
        op.permit = Some(permit);
        self.queue.send(op).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    pub(crate) async fn put_piece(&self, id: PieceId, piece: Piece) -> Result<(), Error> {
        for _ in 0..TRIES_MAX {
            self.core.check_open()?;
            let item = self.item(id, What::Put(piece.clone())).await?;
            if self.submit(Work::Items(vec![item])).await?.first() != Some(&Done::Retry) {
                return Ok(());
            }
        }
        Err(Error::Contended { id })
    }

    /// Looks the piece up for a change of it.
    async fn item(&self, id: PieceId, what: What) -> Result<Item, Error> {
        // As good as every new piece is unknown: no need to leave the reactor.
        if self.core.index.candidates(self.core.index.hash(&id)).is_empty() {
            return Ok(Item { id, what, found: None, strangers: Vec::new() });
        }
        self.on_disk(move |core| core.item(id, what)).await
    }

    async fn mark_all(&self, ids: Vec<PieceId>, what: What) -> Result<u64, Error> {
        let mut count = 0;
        for part in ids.chunks(MARKS_MAX) {
            let mut left = part.to_vec();
            let mut tries = 0;
            while let Some(first) = left.first().copied() {
                if tries == TRIES_MAX {
                    return Err(Error::Contended { id: first });
                }
                tries += 1;
                let (written, retry) = self.mark_some(left, what.clone()).await?;
                count += written;
                left = retry;
            }
        }
        Ok(count)
    }

    /// How many were written, and which to look up again.
    async fn mark_some(&self, ids: Vec<PieceId>, what: What) -> Result<(u64, Vec<PieceId>), Error> {
        let find = move |core: &Core| -> Result<Vec<Item>, Error> {
            ids.into_iter()
                .map(|id| core.item(id, what.clone()))
                .filter(|item| item.as_ref().map_or(true, |item| item.found.is_some()))
                .collect()
        };
        let items = self.on_disk(find).await?;
        if items.is_empty() {
            // After a failed write nobody knows what the drive holds: "it isn't there" could be
            // undone by the next open.
            self.core.check_open()?;
            return Ok((0, Vec::new()));
        }
        let ids: Vec<PieceId> = items.iter().map(|item| item.id).collect();
        let done = self.submit(Work::Items(items)).await?;
        let written = done.iter().filter(|done| **done == Done::Written).count() as u64;
        let retry = ids.into_iter().zip(done).filter(|(_, done)| *done == Done::Retry).map(|(id, _)| id).collect();
        Ok((written, retry))
    }

    pub(crate) async fn sync_extent(&self, extent_file: u32, file: Arc<dyn File>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.syncs.send(SyncOp { extent_file, file, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl Core {
    pub(crate) fn item(&self, id: PieceId, what: What) -> Result<Item, Error> {
        let resolved = self.resolve(id)?;
        Ok(Item { id, what, found: resolved.found.map(|(found, _)| found), strangers: resolved.strangers })
    }

    /// Whether we removed the file at this path ourselves.
    fn was_removed(&self, path: &std::path::Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(crate::files::Name::parse);
        name.is_some_and(|name| !self.files.is_kept(name))
    }
}

fn open_core(env: Env, dir: PathBuf, options: Options) -> Result<Arc<Core>, Error> {
    let (marker, state) = crate::open::open_dir(&env, &dir)?;
    let files = Files::new(env.disk.clone(), dir, options.open_files_max);
    let core = Core {
        index: Index::new(env.random()),
        env,
        options,
        files,
        marker,
        state: state.into(),
        space: Space { total: 0, free: 0 }.into(),
        logs: Default::default(),
        extents: Default::default(),
        tally: Default::default(),
        trash: Default::default(),
        read_errors: Default::default(),
        lost_logs: Default::default(),
        commit: Default::default(),
        new_extents: Default::default(),
        footers: Default::default(),
    };
    core.refresh_space()?;
    core.read_all()?;
    Ok(Arc::new(core))
}

/// Takes what has queued up and commits it as one group, until the store is dropped or closed.
async fn commit_loop(core: Arc<Core>, mut queue: mpsc::Receiver<Op>) {
    let mut next = queue.recv().await;
    while let Some(first) = next.take() {
        let mut bytes = first.bytes();
        let mut is_last = matches!(first.work, Work::Close);
        let mut ops = vec![first];
        while !is_last && ops.len() < QUEUE_OPS {
            let Ok(op) = queue.try_recv() else { break };
            is_last = matches!(op.work, Work::Close);
            if !crate::commit::fits(bytes, op.bytes()) {
                next = Some(op);
                break;
            }
            bytes += op.bytes();
            ops.push(op);
        }
        let worker = core.clone();
        if core.env.blocking(move || worker.commit(ops)).await.is_err() {
            core.fence(State::Failed("the committer was cut short".into()));
        }
        if is_last && next.is_none() {
            return;
        }
        if next.is_none() {
            next = queue.recv().await;
        }
    }
}
