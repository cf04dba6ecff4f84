//! Metadata shards: one totally ordered journal each, whose state is an ordered map of rows.
//!
//! Knows what a row is (bytes to bytes) and nothing of what rows mean. In reading order:
//! [`store`] is the narrow contract, [`suite`] what every implementation of it must pass;
//! [`sequencer`] evaluates changes one after the other on committed and pending rows and commits
//! them in groups; [`memory`] keeps a shard in memory, for tests; [`embedded`] keeps it on up to
//! three drives of one machine: a mirrored, encrypted log that holds every batch once, an ordered
//! map per mirror that is brought up to date at checkpoints, and in between the rows in memory.
//! [`remote`] lets rules run where the rows are not: on what was read elsewhere, at one cut.
//! docs/formats/metastore.md has every byte; [`inspect`] shows them.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod embedded;
pub mod error;
pub mod inspect;
pub mod memory;
pub mod remote;
pub mod sequencer;
pub mod store;
pub mod suite;

mod layer;
mod merge;
mod overlay;
mod record;

pub use embedded::{Embedded, MemberSet, Mirror, Options, Scrubbed};
pub use error::Error;
pub use memory::{MemoryStore, check_commit, weight};
pub use record::{read_entry, write_entry};
pub use sequencer::Sequencer;
pub use store::{BATCH_BYTES_MAX, Cursor, CursorPart, Entry, Position, ShardStore, Snapshot};
