//! The S3 face: the wire in, the store's words out.
//!
//! A request comes in through [`server`], finds its operation in [`router`]'s one table, passes
//! the gate ([`gate`]: who signed, and a body that verifies itself), and is served by one
//! of [`ops`], which speak to the store through [`backend`] alone. Errors of every origin become
//! S3's codes in [`error`]'s one table. What an object keeps beside its bytes (headers, metadata,
//! tags, grants, checksums, its parts) is laid down in [`attrs`]; the store never looks inside.
//!
//! This crate knows no pieces, no drives and no nodes.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bucket_policy;
pub mod call;
pub mod chunked;
pub mod digests;
pub mod gate;
pub mod ops;
pub mod payload;
pub mod policy;
pub mod router;
pub mod server;
pub mod sign;
pub mod target;

pub mod access;
pub mod acl;
pub mod attrs;
pub mod checks;
pub mod conditions;
pub mod form;
pub mod headers;
pub mod lock;
pub mod md5;

pub mod backend;
pub mod engine;
pub mod error;
pub mod metrics;
pub mod response;
pub mod xml;

pub use backend::Backend;
pub use engine::Engine;
pub use server::{Aside, Face, Settings, serve};
