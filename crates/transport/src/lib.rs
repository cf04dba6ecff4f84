//! Byte streams between nodes, and calls over them.
//!
//! An [`Endpoint`] is a node's one port and its way to all others. Below it a [`Carrier`] gives
//! mutually authenticated byte streams by node key; [`TcpCarrier`] is TCP with TLS 1.3, both
//! sides shown by raw public keys (RFC 7250), no certificates to manage. Another one (QUIC, hole
//! punching) fits behind the same trait. Above it nodes greet each other ([`wire::greet`]); who
//! isn't a member is told nothing. Calls of class [`Class::Control`] share connections, many at a
//! time; the others take a connection of a pool each, so that bodies flow at TCP's own pace and
//! several streams fill a long fat link.
//!
//! A [`Service`] answers calls. Dropping a call's future, or a body, cancels it at the peer.
//! Every wait has an end: connecting, greeting, answering, the next bytes of a body, and the
//! silence of a peer that hangs. docs/design/0003-transport.md says why it is so.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ahead;
mod body;
mod call;
mod carrier;
mod endpoint;
mod error;
mod framed;
mod greet;
mod guest;
mod join;
mod lease;
mod mux;
mod peer;
mod server;
mod service;
mod settings;
mod tcp;
mod tls;

pub use body::{Body, BodySource};
pub use call::{Call, Reply};
pub use carrier::{Carrier, Door, Knock, Secured, Target};
pub use endpoint::{Addresses, Endpoint, Identity, Stats};
pub use error::{Error, Result};
pub use guest::meet;
pub use join::{Host, Joiner, Joining, TicketUse, join};
pub use service::{Caller, Guests, Request, Response, Service, ServiceId, Services};
pub use settings::Settings;
pub use tcp::TcpCarrier;
pub use wire::Fault;
pub use wire::greet::Class;
