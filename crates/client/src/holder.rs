//! A piece store of this process as a [`Holder`].

use std::sync::Arc;

use base::{Kinded, PieceId};
use bytes::Bytes;
use env::BoxFuture;
use piecestore::{PieceStore, PieceWriter};

use crate::Error;
use crate::drives::{Holder, HolderWriter};

fn of(piece: PieceId) -> impl Fn(piecestore::Error) -> Error {
    move |error| Error::Drive { piece, kind: error.kind(), text: error.to_string() }
}

impl Holder for Arc<PieceStore> {
    fn put(
        &self,
        piece: PieceId,
        header: Bytes,
        body: Vec<Bytes>,
        cell_bytes: u32,
    ) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { PieceStore::put(self, piece, header, body, cell_bytes, None).await.map_err(of(piece)) })
    }

    fn create(
        &self,
        piece: PieceId,
        cell_bytes: u32,
        len_max: u64,
    ) -> BoxFuture<'_, Result<Box<dyn HolderWriter>, Error>> {
        Box::pin(async move {
            let writer = PieceStore::create(self, piece, cell_bytes, len_max, None).await.map_err(of(piece))?;
            Ok(Box::new(StoreWriter { piece, writer }) as Box<dyn HolderWriter>)
        })
    }

    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(async move { PieceStore::read(self, piece, offset, len).await.map_err(of(piece)) })
    }

    fn header(&self, piece: PieceId) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(async move { PieceStore::header(self, piece).await.map_err(of(piece)) })
    }

    fn delete(&self, pieces: Vec<PieceId>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let Some(first) = pieces.first().copied() else { return Ok(()) };
            PieceStore::delete(self, pieces).await.map_err(of(first)).map(|_| ())
        })
    }

    fn writable(&self) -> bool {
        self.is_writable()
    }
}

struct StoreWriter {
    piece: PieceId,
    writer: PieceWriter,
}

impl HolderWriter for StoreWriter {
    fn write(&mut self, bytes: Vec<Bytes>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.writer.write(bytes).await.map_err(of(self.piece)) })
    }

    fn finish(self: Box<Self>, header: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move { self.writer.finish(header).await.map_err(of(self.piece)) })
    }
}
