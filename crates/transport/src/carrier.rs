//! Byte streams by node key: what any way to reach a node must give.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use base::NodeId;
use crypt::{PublicKey, SigningKey};
use env::{BoxFuture, Stream};
use wire::greet::Class;

use crate::error::Result;

/// Somebody to be dialled.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node; `None` while joining, when only addresses are known.
    pub node: Option<NodeId>,
    /// The keys of which it must show one. Empty: whoever answers; the caller checks.
    pub keys: Vec<PublicKey>,
    /// Where it listens, best first.
    pub addresses: Vec<SocketAddr>,
}

/// A stream whose other end has shown its key.
pub struct Secured {
    /// Both directions, encrypted.
    pub stream: Box<dyn Stream>,
    /// The other end's key.
    pub peer: PublicKey,
    /// A secret of this very connection that both ends have (RFC 9266).
    pub binding: [u8; 32],
    /// The other end, for messages.
    pub address: SocketAddr,
}

/// Gives mutually authenticated, encrypted byte streams.
pub trait Carrier: Send + Sync {
    /// A fresh stream. It holds that the other end has one of the target's keys.
    fn dial<'a>(&'a self, target: &'a Target, class: Class) -> BoxFuture<'a, Result<Secured>>;
    /// Shows another key from now on, on both sides.
    fn rekey(&self, key: Arc<SigningKey>) -> Result<()>;
    /// Begins to take streams at an address.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, Result<Box<dyn Door>>>;
}

/// Where others' streams come in.
pub trait Door: Send + Sync {
    /// The next one. Must not wait for what a stranger does.
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Knock>>>;
    /// Where it listens; the port is the real one even if 0 was asked for.
    fn address(&self) -> io::Result<SocketAddr>;
}

/// A stranger at the door.
pub trait Knock: Send {
    /// Where it comes from.
    fn from(&self) -> SocketAddr;
    /// Shakes hands. The caller limits the time.
    fn secure(self: Box<Self>) -> BoxFuture<'static, Result<Secured>>;
}
