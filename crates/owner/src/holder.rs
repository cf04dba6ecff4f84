//! A node as a holder of pieces, for reading only.

use std::sync::Arc;

use base::{Kind, Kinded, NodeId, PieceId};
use bytes::{Bytes, BytesMut};
use client::drives::{Drives, Holder, HolderWriter};
use client::offline::node_drive;
use env::BoxFuture;
use kit::ask::{Ask, BYTES_MAX, Told};
use transport::{Class, Endpoint};

use crate::reach::{Reach, told};

/// Up to so many bytes go over small connections.
const SMALL_BYTES: u64 = 128 << 10;

struct Guest {
    endpoint: Endpoint,
    node: NodeId,
}

/// Has the nodes read from: which of its drives has a piece, a node finds out by itself.
pub fn hold(reach: &Reach, drives: &Drives) {
    hold_some(reach, drives, reach.nodes().keys());
}

/// The same of these nodes alone.
pub(crate) fn hold_some<'a>(reach: &Reach, drives: &Drives, nodes: impl IntoIterator<Item = &'a NodeId>) {
    for node in nodes {
        drives.set(node_drive(*node), Arc::new(Guest { endpoint: reach.endpoint().clone(), node: *node }));
    }
}

type Done<T> = Result<T, client::Error>;

/// A node's drives as one holder: whichever of them has a piece. For who has a grant, and so asks each drive by its claim.
pub(crate) struct AnyOf(pub Vec<Arc<dyn Holder>>);

impl AnyOf {
    async fn first<'a, T>(&'a self, piece: PieceId, ask: impl Fn(&'a dyn Holder) -> BoxFuture<'a, Done<T>>) -> Done<T> {
        let mut last = Err(client::Error::Drive { piece, kind: Kind::Missing, text: "the node has no drive".into() });
        for drive in &self.0 {
            last = ask(&**drive).await;
            if !matches!(&last, Err(error) if error.kind() == Kind::Missing) {
                break;
            }
        }
        last
    }
}

impl Holder for AnyOf {
    fn put(&self, piece: PieceId, _: Bytes, _: Vec<Bytes>, _: u32) -> BoxFuture<'_, Done<()>> {
        read_only(piece)
    }

    fn create(&self, piece: PieceId, _: u32, _: u64) -> BoxFuture<'_, Done<Box<dyn HolderWriter>>> {
        read_only(piece)
    }

    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(self.first(piece, move |drive| drive.read(piece, offset, len)))
    }

    fn header(&self, piece: PieceId) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(self.first(piece, move |drive| drive.header(piece)))
    }

    fn delete(&self, pieces: Vec<PieceId>) -> BoxFuture<'_, Done<()>> {
        pieces.first().map_or_else(|| Box::pin(std::future::ready(Ok(()))) as _, |piece| read_only(*piece))
    }

    fn writable(&self) -> bool {
        false
    }
}

fn read_only<T: Send + 'static>(piece: PieceId) -> BoxFuture<'static, Done<T>> {
    let text = "a guest reads, and writes nothing".to_owned();
    Box::pin(std::future::ready(Err(client::Error::Drive { piece, kind: Kind::Denied, text })))
}

fn failed(piece: PieceId) -> impl Fn(crate::Error) -> client::Error {
    move |error| client::Error::Drive { piece, kind: error.kind(), text: error.to_string() }
}

impl Guest {
    async fn part(&self, piece: PieceId, offset: u64, len: u32) -> Done<Bytes> {
        let class = if u64::from(len) <= SMALL_BYTES { Class::Small } else { Class::Bulk };
        let answer = told(&self.endpoint, self.node, Ask::Read(piece, offset, len), class).await;
        match answer.map_err(failed(piece))? {
            (Told::Read, bytes) if bytes.len() == len as usize => Ok(bytes),
            _ => Err(odd(piece)),
        }
    }
}

fn odd(piece: PieceId) -> client::Error {
    let text = "the node answers what wasn't asked".to_owned();
    client::Error::Drive { piece, kind: Kind::Damaged, text }
}

impl Holder for Guest {
    fn put(&self, piece: PieceId, _: Bytes, _: Vec<Bytes>, _: u32) -> BoxFuture<'_, Done<()>> {
        read_only(piece)
    }

    fn create(&self, piece: PieceId, _: u32, _: u64) -> BoxFuture<'_, Done<Box<dyn HolderWriter>>> {
        read_only(piece)
    }

    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(async move {
            let most = BYTES_MAX as u64;
            if len <= most {
                return self.part(piece, offset, len as u32).await;
            }
            let mut all = BytesMut::new();
            while (all.len() as u64) < len {
                let now = (len - all.len() as u64).min(most);
                all.extend_from_slice(&self.part(piece, offset + all.len() as u64, now as u32).await?);
            }
            Ok(all.freeze())
        })
    }

    fn header(&self, piece: PieceId) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(async move {
            let answer = told(&self.endpoint, self.node, Ask::Header(piece), Class::Small).await;
            match answer.map_err(failed(piece))? {
                (Told::Header, bytes) => Ok(bytes),
                _ => Err(odd(piece)),
            }
        })
    }

    fn delete(&self, pieces: Vec<PieceId>) -> BoxFuture<'_, Done<()>> {
        pieces.first().map_or_else(|| Box::pin(std::future::ready(Ok(()))) as _, |piece| read_only(*piece))
    }

    fn writable(&self) -> bool {
        false
    }
}
