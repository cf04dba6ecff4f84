//! The pieces of one drive: durable before they are acknowledged, checked whenever they are read.
//!
//! A [`PieceStore`] owns a directory. Small pieces are records of append-only logs, and a log is
//! its own write-ahead log: one write, one sync, acknowledged after ([`commit`] has the rules).
//! Large pieces are streamed into extent files and named by a record. An index in memory, at most
//! 24 bytes a piece, tells where each record lies; footers of sealed logs rebuild it in seconds.
//! Deleted pieces lie in the trash for a while; logs are cleaned by live share, extents are
//! punched, logs of pieces that expire together are dropped whole.
//!
//! The store knows neither what a header means nor what a cell is, only that each `cell_bytes` of
//! a body have a checksum of their own. It doesn't know of volumes, segments or other drives. That
//! only one process opens a directory is the caller's care.
//!
//! Formats: docs/formats/piecestore.md; [`inspect`] lists what a log holds.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{PieceId, Wall};

mod clean;
mod commit;
mod core;
mod error;
mod extents;
mod files;
mod footer;
mod index;
pub mod inspect;
mod open;
mod read;
mod record;
mod scan;
mod scrub;
mod store;
mod write;

pub use clean::Cleaned;
pub use error::Error;
pub use record::{BODY_BYTES_MAX, HEADER_BYTES_MAX};
pub use scrub::{Condition, Cursor, ScrubFinding, Scrubbed};
pub use store::PieceStore;
pub use write::PieceWriter;

/// A lock that a panic elsewhere doesn't take with it: what it guards is changed in whole steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a store behaves. The defaults fit a drive of any size.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a log before it is sealed. Cleaning needs this much room.
    pub log_bytes: u64,
    /// Bytes of an extent file.
    pub extent_file_bytes: u64,
    /// Bodies from this size on go to extents: punching a hole costs less than moving neighbours. Smaller ones
    /// wait for one sync instead of two; so do the pieces of a megabyte in four.
    pub large_min: usize,
    /// Bytes of the file system that writes leave free.
    pub reserve_bytes: u64,
    /// How long a deleted piece can be taken back.
    pub trash_min_age: Duration,
    /// Pieces that expire within the same such span share logs; they go when all have expired.
    pub expiry_bucket: Duration,
    /// Logs with less of their bytes live than this are cleaned.
    pub clean_below_percent: u8,
    /// Bytes of puts that may wait for the committer; more callers wait for room.
    pub queue_bytes: u64,
    /// Files kept open at the most.
    pub open_files_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_bytes: 64 * 1024 * 1024,
            extent_file_bytes: 1024 * 1024 * 1024,
            large_min: 384 * 1024,
            reserve_bytes: 256 * 1024 * 1024,
            trash_min_age: Duration::from_secs(24 * 3600),
            expiry_bucket: Duration::from_secs(24 * 3600),
            clean_below_percent: 60,
            queue_bytes: 32 * 1024 * 1024,
            open_files_max: 128,
        }
    }
}

/// What is known of a piece without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceInfo {
    /// Bytes of the body.
    pub len: u64,
    /// Bytes that each checksum covers.
    pub cell_bytes: u32,
    /// When it may be dropped.
    pub expiry: Option<Wall>,
}

/// Whether a store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Ok,
    /// The file system is read-only.
    ReadOnly(String),
    /// A write or a sync failed, or the directory vanished.
    Failed(String),
}

/// How a store is, as far as it knows without asking the drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it takes writes.
    pub state: State,
    /// Bytes free on the file system when it was last asked.
    pub free: u64,
    /// Bytes of the file system.
    pub total: u64,
    /// Pieces that can be read.
    pub pieces: u64,
    /// What they take on the drive.
    pub live_bytes: u64,
    /// Pieces in the trash.
    pub trash_pieces: u64,
    /// What they take.
    pub trash_bytes: u64,
    /// Memory of the index.
    pub index_bytes: u64,
    /// Reads that the drive refused since open.
    pub read_errors: u64,
    /// Logs that were found damaged or unreadable at open: pieces may be missing.
    pub lost_logs: u64,
}

/// One line of a listing.
pub type Listed = (PieceId, PieceInfo);
