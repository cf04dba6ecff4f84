//! One process of the store: its drives, its keys, who heals them.
//!
//! Composes what the lower floors give and decides when; knows neither S3 nor the command line. In
//! reading order: [`settings`] (what is asked for), [`identity`] and [`key`] (what a folder and a
//! key file say), `open` (making and opening a store, and what is refused), `fleet` (the drives at
//! hand), `supervise` (drives that vanish, return, join), `groups` (who holds what), `gate` (what may be taken away), `even` (drives that are fuller than others), `recode` (older codes), `heal` (pieces
//! that are missing), `upkeep` (garbage, packs, trash, scrubbing), `owners` (those who have nothing but a volume's key), [`members`] (who belongs),
//! [`remote`] (drives of other nodes),
//! `cluster` (this node among others), [`recover`] (when most of them are lost for good), [`members`] (who they are), [`status`] and [`command`] (what people ask).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod command;
pub mod error;
pub mod identity;
pub mod key;
mod lived;
pub mod members;
pub mod recover;
pub mod remote;
pub mod settings;
mod shards;
pub mod status;

mod access;
mod cluster;
mod even;
mod event;
mod fleet;
mod gate;
mod groups;
mod heal;
mod node;
mod open;
mod orphans;
mod owners;
mod pass;
mod private;
mod proof;
mod recode;
mod supervise;
mod undo;
mod upkeep;

pub use access::{KeyRow, KeyWish, NewKey};
pub use cluster::NodeShown;
pub use command::{Added, BucketPolicy, Manifest, Verified};
pub use error::{Error, Result};
pub use gate::{Plan, Trailed, Verb};
pub use node::Node;
pub use owners::drill::Drilled;
pub use owners::{HolderShown, KitShown, VolumeShown, VolumeWish};
pub use proof::{Proof, Safety};
pub use recover::{Recovery, recover};
pub use settings::{Settings, Started};
pub use status::{DriveGauges, Event, Gauges, Health, Status};
pub use undo::{UndoItem, UndoList, Undone};
pub use upkeep::Scrubbed;
