//! The data engine between faces and drives: takes objects apart into sealed, coded pieces, and
//! puts them together again whichever drives are left.
//!
//! Knows neither S3 nor files, and a drive only as a [`Holder`] of pieces. In reading order:
//! [`client`] (what faces use), [`writer`] with `pack` and `segment` (bytes coming in, over `batch`
//! to `run`: which pieces are durable), [`read`] over `gather` and `source` (bytes going
//! out, hedged and decoded), [`offline`] (the same with no metadata), [`access`] (by whose keys), [`header`] and
//! [`layout`] (what lies on drives), [`drives`] and `map` (where), [`shard`] (the metadata, wherever it
//! is led), `registry` (what is written but not yet committed), `keep` ([`repair`], `verify`, [`compact`]),
//! [`changes`] (what is committed, for a kit), [`pieces`] and [`guest`] (what is asked over the network).
//! docs/formats/segments.md has every byte.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod changes;
pub mod client;
pub mod compact;
pub mod drives;
pub mod error;
pub mod findings;
pub mod guest;
pub mod header;
pub mod layout;
pub mod offline;
pub mod pieces;
pub mod read;
mod recode;
pub mod repair;
pub mod shard;
pub mod spare;
pub mod writer;

mod ahead;
mod batch;
mod core;
mod gather;
mod holder;
mod keep;
mod map;
mod pack;
mod registry;
mod run;
mod segment;
mod settings;
mod source;
mod verify;

pub use access::{Access, Folder};
pub use client::{Bucket, Client};
pub use compact::Compacted;
pub use drives::{DriveState, Drives, Holder, HolderWriter};
pub use error::Error;
pub use findings::{Fault, Finding};
pub use map::{POLICY_SETTING, touch_map};
pub use offline::Offline;
pub use read::ReadStream;
pub use registry::UNCOMMITTED_MAX;
pub use repair::Rebuilt;
pub use shard::{Metadata, Shard};
pub use writer::{Content, Writer};
