//! One binary of all integration tests: each of its own would compile and link most of the store again.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod cluster;
mod join;
mod members;
mod pieces_wire;
mod plans;
mod recover;
mod remote;
mod shards;
mod store;
mod undo;
