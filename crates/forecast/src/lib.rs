//! What becomes of a fleet in the years to come: its machines, their failures, and what repair makes of them.
//!
//! A [`Fleet`] is read from a file ([`read`]) or made of a living cluster ([`live`]). [`run`] lets years
//! pass in seconds: an event loop of its own, in which drives die, nodes go away and return, sites burn, and the
//! *production* functions do what they do in a store: `placement` builds, replaces and rebalances the
//! groups, `steward` says what is repaired first, and an [`Operator`]'s commands, slips among them, pass
//! `placement::gate`. It knows groups of pieces, all as full as the next, not
//! single segments: so 10,000 drives are possible. [`report`] sets its figures beside those of the exact chain
//! ([`durability`]) and says what the loss of each domain would cost and what one more machine would change;
//! [`plot`] draws.
//!
//! Pure: a fleet and a seed in, figures out. docs/durability.md says what is and isn't simulated.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod chance;
pub mod fleet;
pub mod plot;
pub mod read;
pub mod report;
pub mod run;
pub mod tally;
mod world;

pub use fleet::{Error, Event, Fleet, Growth, Machine, Operator, Strikes};
pub use report::{Report, report};
pub use run::run;
pub use tally::{Asked, Orders, Tally};
