//! Rules where the rows are not. Pure: no socket, no clock.
//!
//! **Reads.** A [`Recorder`] notes which rows a rule reads; [`Rows`] are those rows at one [`Seq`], with what
//! is known of the keys between them; the rule runs on them elsewhere as on the map itself
//! ([`Rows::run`]). What it wants and isn't there comes out as [`Wants`]; the owner answers those
//! ([`collect`]), all of them anew at one newer cut, and the rule runs again.
//!
//! **Changes.** A rule that ran on rows that may be old gives a [`Proposal`]: its batch, and what it had read.
//! The owner commits the batch only if a read of the same finds the same ([`ReadSet::holds`]).
//!
//! Invariants:
//! 1. All of one [`Rows`] is of one cut: never is one answer added to another.
//! 2. Known is a set of key intervals: within one, every row that exists is here. A read is answered if
//!    it touches known keys only, so an answer is exactly that of the map at that cut.
//! 3. A rule sees nothing but what it reads. So if all its reads come out the same, it decides the same.
//!
//! In reading order: `wants`, `rows`, `recorder`, `proposal`. Layouts: docs/formats/metadata-wire.md.

mod proposal;
mod recorder;
mod rows;
mod wants;

use base::Kind;
use base::kv::ViewError;

pub use proposal::{Proposal, READ_ROWS_MAX, ReadSet};
pub use recorder::Recorder;
pub use rows::{ROWS_BYTES_MAX, ROWS_MAX, Recorded, Rows, collect};
pub use wants::{Read, WANTS_BYTES_MAX, WANTS_MAX, Wants};

/// Bytes of a row's key at the most: more than any name that a request brings.
const KEY_BYTES_MAX: usize = 256 * 1024;

fn refuse(text: &str) -> ViewError {
    ViewError { kind: Kind::Invalid, text: text.to_owned() }
}
