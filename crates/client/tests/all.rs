//! One binary of all integration tests: each of its own would compile and link most of the store again.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod access;
mod common;
mod drives;
mod guest_wire;
mod histories;
mod objects;
mod offline;
mod writes;
