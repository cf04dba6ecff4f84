//! How likely it is to lose data, by arithmetic: the exact chain of one group of pieces.
//!
//! [`Chain`] is a continuous-time Markov chain over the number of missing pieces. Drives fail
//! independently at a constant rate; what is missing is repaired eagerly, each piece by itself, or
//! lazily, all together once few are left. It gives the expected days to loss and the probability of a loss
//! within some time, from full strength or with pieces missing already, and stays exact to many digits where the
//! probability is 1e-20 or 1e-40: it never subtracts.
//!
//! What fails together (sites, owners, bad upgrades) is not in it: `forecast` simulates that. [`peers`]
//! has the formulas that other systems print, to compare. docs/durability.md tells it in full.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod chain;
mod matrix;
pub mod peers;

pub use chain::{Chain, Error, Repair, any_of};

/// Days in a year, as all rates here count them.
pub const YEAR_DAYS: f64 = 365.0;
