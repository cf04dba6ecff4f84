//! Large pieces are streamed into an extent; a record names it once it is synced.

use std::sync::Arc;

use base::{PieceId, Wall};
use bytes::Bytes;
use env::File;
use tokio::sync::{mpsc, oneshot};

use crate::PieceStore;
use crate::commit::Piece;
use crate::core::Core;
use crate::error::Error;
use crate::extents::Reservation;
use crate::files::Name;
use crate::record::{BLOCK_BYTES, CellSums, Extent, put32, put64};
use crate::store::cut;

/// Bytes of an extent's fixed head.
pub(crate) const LEAD_BYTES: usize = 64;
/// Runs given back in one go while a writer waits for room: each takes about 0.1 ms.
const PUNCH_MAX: usize = 64;
const LEAD_MARK: [u8; 4] = *b"ABpx";

/// A large piece being written. Dropping it gives the room back.
pub struct PieceWriter {
    store: Arc<PieceStore>,
    id: PieceId,
    reservation: Arc<Reservation>,
    file: Arc<dyn File>,
    sums: CellSums,
    cell_bytes: u32,
    len: u64,
    len_max: u64,
    expiry: Option<Wall>,
    /// A write failed or was cut short: what is there now isn't known.
    broken: bool,
}

/// A request to sync an extent file.
pub(crate) struct SyncOp {
    pub extent_file: u32,
    pub file: Arc<dyn File>,
    pub reply: oneshot::Sender<Result<(), Error>>,
}

impl PieceWriter {
    pub(crate) async fn create(
        store: Arc<PieceStore>,
        id: PieceId,
        cell_bytes: u32,
        len_max: u64,
        expiry: Option<Wall>,
    ) -> Result<Self, Error> {
        crate::store::sizes_of(0, len_max, cell_bytes)?;
        let core = store.core.clone();
        let blocks = (BLOCK_BYTES + len_max).div_ceil(BLOCK_BYTES) as u32;
        let (reservation, file) = store.core.env.blocking(move || core.reserve(blocks)).await.map_err(cut)??;
        let sums = CellSums::new(cell_bytes);
        Ok(Self { store, id, reservation, file, sums, cell_bytes, len: 0, len_max, expiry, broken: false })
    }

    /// Appends to the body.
    pub async fn write(&mut self, parts: Vec<Bytes>) -> Result<(), Error> {
        let more: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if self.len + more > self.len_max {
            return Err(Error::TooLong { what: "piece body", len: self.len + more, max: self.len_max });
        }
        if self.broken {
            return Err(Error::Invalid { what: "write piece: an earlier write of it failed; begin again" });
        }
        let core = &self.store.core;
        core.check_open()?;
        for part in &parts {
            self.sums.update(part);
        }
        let at = self.reservation.extent().offset() + BLOCK_BYTES + self.len;
        self.broken = true;
        let (file, reservation) = (self.file.clone(), self.reservation.clone());
        let written = core.env.blocking(move || {
            // The room stays ours until this write is over, even if the writer is dropped.
            let _held = reservation;
            let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
            file.write_parts_at(&parts, at)
        });
        written.await.map_err(cut)?.map_err(|error| core.extent_failed("write", self.reservation.extent(), error))?;
        self.len += more;
        self.broken = false;
        Ok(())
    }

    /// Makes the piece durable and current, replacing an older one of the same id.
    pub async fn finish(self, header: Bytes) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Invalid { what: "finish piece: a write of it failed; begin again" });
        }
        crate::store::sizes_of(header.len(), self.len, self.cell_bytes)?;
        let core = self.store.core.clone();
        let table = Bytes::from(self.sums.finish());
        let blocks = (BLOCK_BYTES + self.len).div_ceil(BLOCK_BYTES) as u32;
        self.reservation.trim(blocks);
        let extent = self.reservation.extent();
        let lead = lead(self.id, self.cell_bytes, self.len as u32, &header, &table);
        let (file, reservation) = (self.file.clone(), self.reservation.clone());
        let written = core.env.blocking(move || {
            let _held = reservation;
            file.write_at(&lead, extent.offset())
        });
        written.await.map_err(cut)?.map_err(|error| core.extent_failed("write", extent, error))?;
        self.store.sync_extent(extent.file, self.file.clone()).await?;
        let piece = Piece {
            header,
            table,
            body: Vec::new(),
            body_len: self.len as u32,
            cell_bytes: self.cell_bytes,
            expiry: self.expiry,
            extent: Some(extent),
            reservation: Some(self.reservation.clone()),
        };
        self.store.put_piece(self.id, piece).await
    }
}

/// Stores a large piece whose bytes are all at hand: room, checksums and one write for all of it, in one turn off the
/// reactor.
pub(crate) async fn put_whole(
    store: &Arc<PieceStore>,
    id: PieceId,
    header: Bytes,
    body: Vec<Bytes>,
    cell_bytes: u32,
    expiry: Option<Wall>,
) -> Result<(), Error> {
    let len: u64 = body.iter().map(|part| part.len() as u64).sum();
    let (core, head) = (store.core.clone(), header.clone());
    let write = move || {
        let (reservation, file) = core.reserve((BLOCK_BYTES + len).div_ceil(BLOCK_BYTES) as u32)?;
        let mut sums = CellSums::new(cell_bytes);
        body.iter().for_each(|part| sums.update(part));
        let table = Bytes::from(sums.finish());
        let (extent, lead) = (reservation.extent(), lead(id, cell_bytes, len as u32, &head, &table));
        let parts: Vec<&[u8]> = std::iter::once(&lead[..]).chain(body.iter().map(|part| &part[..])).collect();
        let written = file.write_parts_at(&parts, extent.offset());
        written.map_err(|error| core.extent_failed("write", extent, error))?;
        Ok::<_, Error>((reservation, file, table))
    };
    let (reservation, file, table) = store.core.env.blocking(write).await.map_err(cut)??;
    let extent = reservation.extent();
    store.sync_extent(extent.file, file).await?;
    let (body, body_len, extent, reservation) = (Vec::new(), len as u32, Some(extent), Some(reservation));
    store.put_piece(id, Piece { header, table, body, body_len, cell_bytes, expiry, extent, reservation }).await
}

/// The first block of an extent: whose bytes these are, for readers without the logs.
pub(crate) fn lead(id: PieceId, cell_bytes: u32, body_len: u32, header: &[u8], table: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES as usize];
    block[..4].copy_from_slice(&LEAD_MARK);
    block[4] = 1;
    // Header and table are told here too, as far as they fit.
    let room = block.len() - LEAD_BYTES;
    let fits = header.len() + table.len() <= room;
    block[5] = u8::from(fits);
    block[7..24].copy_from_slice(&id.to_bytes());
    put32(&mut block, 24, cell_bytes);
    put32(&mut block, 28, body_len);
    put32(&mut block, 32, header.len() as u32);
    put32(&mut block, 36, table.len() as u32);
    if fits {
        let (head, rest) = block[LEAD_BYTES..].split_at_mut(header.len());
        head.copy_from_slice(header);
        rest[..table.len()].copy_from_slice(table);
    }
    let crc = codec::crc64(&block[LEAD_BYTES..]);
    put64(&mut block, 40, crc);
    let crc = codec::crc64(&block[..56]);
    put64(&mut block, 56, crc);
    block
}

impl Core {
    /// Room for a piece, in a new extent file if need be.
    fn reserve(&self, blocks: u32) -> Result<(Arc<Reservation>, Arc<dyn File>), Error> {
        self.check_open()?;
        let free = self.refresh_space()?.free;
        let promised = (self.extents.reserved_blocks() + u64::from(blocks)) * BLOCK_BYTES;
        let reserve = self.options.reserve_bytes;
        if free < reserve.saturating_add(promised) {
            return Err(Error::Full { free, reserve });
        }
        let mut reservation = self.extents.reserve(blocks);
        while reservation.is_none() && self.extents.has_dirty() {
            self.punch(PUNCH_MAX).inspect_err(|error| self.write_failed(error))?;
            reservation = self.extents.reserve(blocks);
        }
        let reservation = match reservation {
            Some(reservation) => reservation,
            None => self.reserve_in_new_file(blocks)?,
        };
        let file = self.files.get(Name::Extents(reservation.extent().file))?;
        Ok((reservation, file))
    }

    fn reserve_in_new_file(&self, blocks: u32) -> Result<Arc<Reservation>, Error> {
        let _one = crate::lock(&self.new_extents);
        // Another caller may have made a file in the meantime.
        if let Some(reservation) = self.extents.reserve(blocks) {
            return Ok(reservation);
        }
        let number = self.extents.next_file();
        self.files.create(Name::Extents(number)).map_err(|error| {
            self.write_failed(&error);
            self.full_or(error)
        })?;
        self.extents.add_file(number, self.options.extent_file_blocks().max(blocks), &[]);
        let again = self.extents.reserve(blocks);
        again.ok_or(Error::Full { free: 0, reserve: self.options.reserve_bytes })
    }

    pub(crate) fn extent_failed(&self, what: &'static str, extent: Extent, error: std::io::Error) -> Error {
        let error = Error::io(what, &self.files.path(Name::Extents(extent.file)), error);
        self.write_failed(&error);
        self.full_or(error)
    }

    /// Syncs each file once and answers all who asked.
    fn sync_files(&self, ops: Vec<SyncOp>) {
        let mut done: Vec<(u32, Result<(), Error>)> = Vec::new();
        for SyncOp { extent_file, file, reply } in ops {
            let known = done.iter().find(|(number, _)| *number == extent_file).map(|(_, result)| result.clone());
            let result = known.unwrap_or_else(|| {
                let result = self.check_open().and_then(|()| {
                    let path = self.files.path(Name::Extents(extent_file));
                    file.sync_data().map_err(|error| {
                        // A failed sync tells nothing of the pages: even want of room fences here.
                        let error = Error::io("sync", &path, error);
                        self.fence(crate::State::Failed(error.to_string()));
                        error
                    })
                });
                done.push((extent_file, result.clone()));
                result
            });
            let _ = reply.send(result);
        }
    }
}

/// One sync serves all writers that ended while the last one ran.
pub(crate) async fn sync_loop(core: Arc<Core>, mut queue: mpsc::Receiver<SyncOp>) {
    while let Some(first) = queue.recv().await {
        let mut ops = vec![first];
        while let Ok(op) = queue.try_recv() {
            ops.push(op);
        }
        let worker = core.clone();
        if core.env.blocking(move || worker.sync_files(ops)).await.is_err() {
            core.fence(crate::State::Failed("syncing was cut short".into()));
        }
    }
}
