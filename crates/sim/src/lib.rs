//! A whole store in one thread, from one seed.
//!
//! [`disk`] are drives that lose, tear, rot, fill and vanish; [`world`] is an [`env::Env`] made of
//! them, of turmoil's network and of virtual time; [`storm`] is what a run does to a store, with
//! an oracle that keeps its own truth; [`cluster`] is the same for many machines; [`crowd`] are clients that share keys, [`linear`] judges what
//! they saw.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod chance;
pub mod cluster;
pub mod crowd;
pub mod disk;
pub mod http;
pub mod linear;
mod oracle;
pub mod storm;
pub mod world;
