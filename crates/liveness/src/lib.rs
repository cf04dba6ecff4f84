//! Who is alive: suspected, down and gone are different things.
//!
//! Nodes ask each other in turn, directly and through others (SWIM, Das et al. 2002; with the
//! suspicion of its section 4.2), and pass on what they heard. [`Engine`] is all of it without a clock,
//! a socket or a task: it is told what arrived and what time it is, and says what to send. Inside
//! works `foca`, whose types stay here. [`Service`] runs an engine on an [`env::Env`]; messages leave
//! through a [`Courier`] that somebody else makes.
//!
//! 1. A node is *suspected* once it failed to answer, directly and through three others. Suspected counts as
//!    alive; it has some seconds to object.
//! 2. It is *down* if it didn't object, or said that it stops. Its data is read elsewhere; nothing is
//!    rebuilt.
//! 3. It is *gone* if it is down for longer than [`Settings::gone_after`], or if the owner said so.
//! 4. Each start has a higher incarnation than any before: what was said of an earlier one is void. A node
//!    that hears it was declared down takes the next incarnation and is alive again.
//! 5. A process that stood still accuses nobody: what it was waiting for waits on by as much.
//! 6. What others say is believed only about membership, and only if it came from whom it claims:
//!    the courier authenticates.
//!
//! The crate doesn't know where nodes are, nor what follows from their standing.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod engine;
mod service;
mod wire;

pub use engine::{Effect, Engine, Error, Peer, Reach, Settings};
pub use service::{Courier, Service};
