//! One volume is one namespace: S3 bucket and file tree at once. Rules only.
//!
//! Knows neither consensus nor disk nor S3: a [`Command`] is evaluated on a [`base::kv::View`] of
//! rows and gives a [`base::kv::Batch`]; reads walk the same rows in S3's byte order.

pub mod catalog;
pub mod error;
pub mod types;

pub use error::Error;
pub use types::*;
