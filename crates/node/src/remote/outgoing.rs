//! A piece on its way to a drive of another node.

use base::{Kind, PieceId};
use bytes::Bytes;
use client::{Error, HolderWriter};
use env::BoxFuture;

use super::drive::RemoteDrive;
use super::message::{self, Ask, HEADER_BYTES_MAX, PART_BYTES_MAX, Part, Told, WriteId};

/// Bytes are gathered up to here before they are sent: each call costs a round trip.
const GATHER_BYTES: usize = 512 << 10;
/// A piece that can't become longer than this is sent in one call.
const WHOLE_BYTES: u64 = (1 << 20) + (64 << 10);

/// A piece on its way.
pub(super) struct Outgoing {
    drive: RemoteDrive,
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
    pub fn new(drive: RemoteDrive, write: WriteId, piece: PieceId, cell_bytes: u32, len_max: u64) -> Self {
        let (sent, held, held_bytes, begun, durable) = Default::default();
        Self { drive, write, piece, cell_bytes, len_max, sent, held, held_bytes, begun, durable }
    }

    fn invalid(&self, text: &str) -> Error {
        self.drive.error(self.piece, Kind::Invalid, text)
    }

    pub async fn write(&mut self, bytes: Vec<Bytes>) -> Result<(), Error> {
        let more: usize = bytes.iter().map(Bytes::len).sum();
        if self.sent + (self.held_bytes + more) as u64 > self.len_max {
            return Err(self.invalid("more bytes were written than the piece was announced to have"));
        }
        self.held.extend(bytes.into_iter().filter(|part| !part.is_empty()));
        self.held_bytes += more;
        if self.len_max <= WHOLE_BYTES || self.held_bytes < GATHER_BYTES {
            return Ok(());
        }
        while self.held_bytes >= GATHER_BYTES {
            self.send(None).await?;
        }
        Ok(())
    }

    /// The next bytes to go out: all that are held, if one call can carry them.
    fn take(&mut self) -> Vec<Bytes> {
        let most = PART_BYTES_MAX as usize;
        if self.held_bytes <= most {
            self.held_bytes = 0;
            return std::mem::take(&mut self.held);
        }
        // Whole stretches, so that the next part's checksums begin where a cell does.
        let stretch = message::stretch_bytes(self.cell_bytes) as usize;
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
    async fn send(&mut self, header: Option<Bytes>) -> Result<(), Error> {
        let mut bytes = self.take();
        let len: usize = bytes.iter().map(Bytes::len).sum();
        let part = Part {
            write: self.write,
            piece: self.piece,
            cell_bytes: self.cell_bytes,
            len_max: self.len_max,
            offset: self.sent,
            len: len as u32,
            sums: message::sums(&bytes, message::stretch_bytes(self.cell_bytes)),
            header: header.as_ref().map(|header| (header.len() as u32, codec::crc64(header))),
        };
        let limits = &self.drive.0.shared.limits;
        let (limit, last) = if header.is_some() { (limits.settle, true) } else { (limits.write, false) };
        let total = len + header.as_ref().map_or(0, Bytes::len);
        bytes.splice(0..0, header);
        self.begun = true;
        let ask = Ask::Put(self.drive.0.drive, part);
        let call = self.drive.call(self.piece, RemoteDrive::class(total as u64), ask, bytes, limit);
        match call.await?.0 {
            Told::Put(have, durable) if have == self.sent + len as u64 && durable == last => {
                (self.sent, self.durable) = (have, durable);
                Ok(())
            }
            _ => Err(self.drive.nonsense(self.piece)),
        }
    }

    async fn end(mut self: Box<Self>, header: Bytes) -> Result<(), Error> {
        if header.len() > HEADER_BYTES_MAX as usize {
            return Err(self.invalid("the piece's header is too long"));
        }
        if self.cell_bytes == 0 {
            return Err(self.invalid("a piece's cells need at least one byte"));
        }
        while self.held_bytes > PART_BYTES_MAX as usize {
            self.send(None).await?;
        }
        self.send(Some(header)).await
    }
}

impl HolderWriter for Outgoing {
    fn write(&mut self, bytes: Vec<Bytes>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(Outgoing::write(self, bytes))
    }

    fn finish(self: Box<Self>, header: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(self.end(header))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.begun && !self.durable {
            self.drive.broken_off(self.piece, self.write);
        }
    }
}
