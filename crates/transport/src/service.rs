//! Who answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::NodeId;
use bytes::Bytes;
use crypt::PublicKey;
use env::BoxFuture;
use wire::Fault;
use wire::greet::Class;

use crate::body::Body;

/// Names a service on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u16);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// A member, by its key.
    pub node: NodeId,
    /// The protocol version agreed on with it.
    pub version: u16,
    /// What kind of connection it asks on.
    pub class: Class,
    /// Nothing for a member. A guest's key; `node` only tells guests apart then.
    pub guest: Option<PublicKey>,
}

/// What is asked.
#[derive(Debug)]
pub struct Request {
    /// The service's own encoding.
    pub head: Bytes,
    /// Bytes that come with it.
    pub body: Body,
}

/// What is answered.
#[derive(Debug, Default)]
pub struct Response {
    /// The service's own encoding.
    pub head: Bytes,
    /// Bytes that come with it.
    pub body: Body,
}

impl Response {
    /// An answer without a body.
    pub fn new(head: impl Into<Bytes>) -> Response {
        Response { head: head.into(), body: Body::empty() }
    }

    /// With a body.
    pub fn with_body(self, body: impl Into<Body>) -> Response {
        Response { body: body.into(), ..self }
    }
}

/// Answers calls. When the caller goes away, hangs up or its time is over, the future and the
/// response's body are dropped: what must be finished all the same is spawned.
pub trait Service: Send + Sync + 'static {
    /// Answers one call. A body that isn't read to its end is skipped.
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>>;
}

/// Decides about those who are no members: owners of what is stored here, and whom they send.
pub trait Guests: Send + Sync + 'static {
    /// Whether the holder of `key`, who shows `pass`, may come in. Who may not is told nothing. Waits for nothing: anybody can ask.
    fn admits(&self, key: &PublicKey, pass: &[u8]) -> bool;
    /// What guests may ask: nothing else answers them.
    fn services(&self) -> &Services;
}

/// All services of a node.
pub type Services = BTreeMap<ServiceId, Arc<dyn Service>>;
