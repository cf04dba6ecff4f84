//! One binary of all integration tests: each of its own would compile and link most of the store again.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod clean;
mod common;
mod crashes;
mod histories;
mod inspect;
mod mirrors;
mod remote;
mod sequencer;
mod suite;
mod tail;
