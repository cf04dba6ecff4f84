//! One volume is one namespace: S3 bucket and file tree at once. Rules only.
//!
//! Knows neither consensus nor disk nor S3: a [`Command`] is evaluated by [`apply()`] on a
//! [`base::kv::View`] of rows and gives a [`base::kv::Batch`]; [`read`] walks the same rows in S3's
//! byte order. [`catalog`] does the same for the system shard: buckets, users, keys, drives.
//!
//! **Order.** A file's dentry is (parent's inode, name), a folder's (parent's inode, name + `/`).
//! Walking folders in that order gives every key in S3's byte order: all keys below `x/` begin with
//! `x/`, so they compare with any other sibling's keys as `x/` itself does; only a sibling that is
//! a beginning of `x/`, namely the file `x`, could differ, and it sorts first in both. So a folder
//! can be listed, skipped or (later) renamed without looking below it.
//!
//! In reading order: [`types`] (what can be asked), `keys` and [`rows`] (what is stored where),
//! `tree` (folders), `change` (a command under way), `segments` (who uses which), `apply` and
//! `uploads` (the commands), [`undo`] (what was deleted can be had back), [`work`] (once, however often it arrives), `walk` and [`read`], [`wire`] (all
//! that between nodes), [`kept`] (what copies kept elsewhere say of a key), [`catalog`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalog;
pub mod encode;
pub mod error;
pub mod journal;
pub mod kept;
pub mod read;
pub mod rows;
pub mod types;
pub mod undo;
pub mod wire;
pub mod work;

mod apply;
mod change;
mod check;
mod keys;
mod segments;
mod store;
mod tree;
mod uploads;
mod walk;

pub use apply::apply;
pub use change::ATTR_HERE_BYTES_MAX;
pub use error::Error;
pub use types::*;
pub use uploads::joined;
