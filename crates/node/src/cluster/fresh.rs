//! Which segments other nodes are writing right now: pieces of them are no orphans, though no row names
//! them yet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Kind, NodeId, SegmentId};
use bytes::Bytes;
use client::Client;
use env::BoxFuture;
use futures_util::future::join_all;
use transport::{Call, Caller, Class, Endpoint, Fault, Request, Response, Service, ServiceId};

/// The question, on the wire: the head is a segment's id, the answer's head one byte, 1 if it is being
/// written.
pub const FRESH: ServiceId = ServiceId(20);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Answers for what this process writes.
#[derive(Default)]
pub(crate) struct FreshService(Mutex<Option<Client>>);

impl FreshService {
    /// Whose writes count.
    pub fn set(self: &Arc<Self>, client: Client) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }
}

impl Service for FreshService {
    fn handle(&self, _: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let segment = SegmentId::from_slice(&request.head);
            let segment = segment.ok_or_else(|| Fault::new(Kind::Invalid, "a segment's id has 16 bytes"))?;
            let client = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Who hasn't begun can't say no.
            let is_fresh = client.is_none_or(|client| client.is_fresh(segment));
            Ok(Response::new(vec![u8::from(is_fresh)]))
        })
    }
}

/// Whether any of the nodes may be writing the segment: one that doesn't answer may be.
pub(crate) async fn any_writes(endpoint: &Endpoint, nodes: &[NodeId], segment: SegmentId) -> bool {
    let ask = |node: &NodeId| {
        let call = Call::new(FRESH, Class::Control, Bytes::copy_from_slice(&segment.0)).with_timeout(LIMIT);
        let (endpoint, node) = (endpoint.clone(), *node);
        async move { endpoint.call(node, call).await.map_or(true, |reply| reply.head.first() != Some(&0)) }
    };
    join_all(nodes.iter().map(ask)).await.into_iter().any(|writes| writes)
}
