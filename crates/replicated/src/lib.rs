//! A metadata shard on several nodes: one journal that a majority agrees on, and on each node the
//! rows that it makes.
//!
//! Consensus is the `openraft` library's; none of its types leaves this crate, and every byte on
//! disk and on the wire is ours (docs/formats/replicated.md). In reading order: [`replica`] is one
//! node's part in a group; [`lead`] is the [`metastore::ShardStore`] of the node that leads, and how
//! members change; [`peers`] is what the transport must do; `handle` answers other replicas;
//! `ledger` keeps votes and entries, `state` makes rows of them, both on [`metastore::Embedded`]
//! stores; `polls` asks the voters before a read whether this one leads still; `digest` lets replicas compare their rows;
//! [`recover`] is for groups whose majority is lost. docs/design/0004-replicated-metadata.md says
//! why.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod lead;
#[cfg(feature = "lies")]
pub mod lies;
pub mod peers;
pub mod recover;
pub mod replica;
pub mod settings;
pub mod wire;

mod digest;
#[cfg(test)]
mod fixtures;
mod handle;
mod ledger;
mod parts;
mod polls;
mod runtime;
mod state;
mod types;
mod watched;

pub use error::Error;
pub use lead::Leading;
pub use peers::{Lane, Peers, SendError};
pub use recover::{Checkpoint, Examined, Recovered, Standing, examine, read_checkpoint, recover, survey};
pub use replica::{Begin, Read, Replica, Status, Who};
pub use settings::{Places, Settings};
