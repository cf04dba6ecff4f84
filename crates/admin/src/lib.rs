//! The control interface: JSON over HTTP on a socket that only the owner can open.
//!
//! The command line and every later console are equal clients of it. It translates and decides
//! nothing: what is allowed is said by [`node`]. It knows no tables and no colours.

mod api;
mod http;

pub use http::{Shown, serve};
