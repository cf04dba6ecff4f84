//! The world outside, as traits: time, chance, drives, sockets, tasks.
//!
//! Everything from here up takes an [`Env`] and never asks the operating system itself, so that a
//! whole node runs in one thread from a seed. [`real`] is the operating system; the simulated
//! world lives in `sim`.
//!
//! [`Disk`] and [`File`] block: call them inside [`Env::blocking`], which is a thread of a pool in
//! the real world and runs in place in the simulated one.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base::{Instant, Wall};

pub mod real;

/// A future on the heap, as traits with async methods need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Time.
pub trait Clock: Send + Sync {
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// The calendar; may jump.
    fn wall(&self) -> Wall;
    /// Ready after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Chance, fit for keys.
pub trait Rng: Send + Sync {
    /// Fills all of `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must exist; only reads.
    Read,
    /// It must exist; reads and writes.
    Write,
    /// Made if missing; reads and writes.
    Create,
    /// Must not exist yet; reads and writes.
    CreateNew,
}

/// Bytes of the file system that a path lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All.
    pub total: u64,
    /// Still free to us.
    pub free: u64,
}

/// One directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name alone.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The machine's file systems. All calls block. A new name, a rename and a removal are durable
/// only after [`Disk::sync_dir`] of the directory.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Makes the directory and its parents; existing ones are fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The directory's entries in the order of their names.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Renames, replacing what `to` names.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the directory's entries durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether something has this name now.
    fn exists(&self, path: &Path) -> bool;
    /// The room on the path's file system.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Lets only the file's owner read and write it.
    fn make_private(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Whether only the file's owner may read it.
    fn is_private(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }
    /// The path without links and dots.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;
}

/// An open file. All calls block and may be made from several threads.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// The `len` bytes from `offset`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }
    /// Writes all of `bytes` at `offset`, growing the file where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes the parts one after the other from `offset`: one call where the system allows it.
    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in parts {
            self.write_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
    /// Bytes of the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or grows (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes all earlier writes durable, with what is needed to find them (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Gives the range's room back to the file system; it reads as zeros after. Does nothing
    /// where the file system can't.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Keeps other processes from locking the same file until this handle is dropped; false if
    /// another one holds it.
    fn try_lock(&self) -> io::Result<bool>;
    /// Bytes of storage that the file takes, holes not counted.
    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
    /// Whether the file has no name any more, anywhere: it was deleted, not only moved or unmounted.
    fn is_deleted(&self) -> bool {
        false
    }
    /// Whether this very file still lies at `path`: false once it was removed or replaced, even
    /// though the handle goes on working.
    fn is_at(&self, path: &Path) -> bool;
}

/// Both directions of a connection.
pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

/// Sockets.
pub trait Net: Send + Sync {
    /// Listens for TCP connections.
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    /// Connects TCP, TCP_NODELAY set. Takes as long as the system lets it: limit it from outside.
    fn connect(&self, _address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
}

/// A listening socket.
pub trait Listener: Send + Sync {
    /// The next connection, TCP_NODELAY set, with the other side's address.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
    /// Where it listens; the port is the real one even if 0 was asked for.
    fn address(&self) -> io::Result<SocketAddr>;
}

/// Tasks.
pub trait Spawn: Send + Sync {
    /// Runs a task beside the caller. `name` is for the log.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);
    /// Runs work that blocks (drives) or takes long (coding, hashing) off the reactor; in place in
    /// a simulation.
    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>);
}

/// The world, as one handle to pass around.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// File systems.
    pub disk: Arc<dyn Disk>,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Tasks.
    pub spawn: Arc<dyn Spawn>,
}

/// The work of [`Env::blocking`] panicked or the process is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("work was cut short: it panicked, or the process is ending")]
pub struct Cut;

impl From<Cut> for io::Error {
    fn from(cut: Cut) -> Self {
        io::Error::other(cut)
    }
}

impl Env {
    /// The operating system. Must be called inside a tokio runtime.
    pub fn real() -> Env {
        real::env()
    }

    /// Runs `work` off the reactor and gives its value. Work that was begun runs to its end even
    /// if this future is dropped.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Cut> {
        let (send, receive) = tokio::sync::oneshot::channel();
        self.spawn.blocking(Box::new(move || {
            // The receiver is gone if the caller was cancelled; the work is done all the same.
            let _ = send.send(work());
        }));
        receive.await.map_err(|_| Cut)
    }

    /// Runs a task beside the caller.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn.spawn(name, Box::pin(task));
    }

    /// The value of `work`, or `None` if it took longer than `limit`.
    pub async fn timeout<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let work = std::pin::pin!(work);
        match futures_util::future::select(work, self.clock.sleep(limit)).await {
            futures_util::future::Either::Left((value, _)) => Some(value),
            futures_util::future::Either::Right(_) => None,
        }
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes);
        bytes
    }
}
