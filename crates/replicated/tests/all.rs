//! One binary of all integration tests: each of its own would compile and link most of the store again.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod faults;
mod group;
mod storms;
mod suite;
mod world;
