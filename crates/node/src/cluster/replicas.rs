//! Messages between the replicas of a metadata shard, over the node's one port.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use base::{Kind, NodeId};
use bytes::Bytes;
use codec::{Reader, Writer};
use env::BoxFuture;
use replicated::wire::MESSAGE_BYTES_MAX;
use replicated::{Lane, Peers, Replica, SendError};
use transport::{Call, Caller, Class, Endpoint, Error, Fault, Request, Response, Service, ServiceId};

/// Replicas of shards, on the wire. The head is the shard's number, the body the replica's message.
pub const REPLICAS: ServiceId = ServiceId(18);

/// Messages up to this size share the control connections: others wait behind them.
const CONTROL_BYTES_MAX: usize = 128 << 10;

/// Gives messages of other nodes to the replicas here.
#[derive(Default)]
pub(crate) struct ReplicaService(RwLock<BTreeMap<u32, Weak<Replica>>>);

impl ReplicaService {
    /// The shard's replica answers from now on, as long as somebody holds it.
    pub fn set(&self, shard: u32, replica: &Arc<Replica>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shard, Arc::downgrade(replica));
    }

    fn get(&self, shard: u32) -> Option<Arc<Replica>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&shard)?.upgrade()
    }
}

impl Service for ReplicaService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let shard = Reader::new(&request.head).u32("shard");
            let shard = shard.map_err(|error| Fault::new(Kind::Invalid, error.to_string()))?;
            let message = request.body.collect(MESSAGE_BYTES_MAX).await;
            let message = message.map_err(|error| Fault::new(Kind::Unreachable, error.to_string()))?;
            let replica = self.get(shard);
            let replica = replica
                .ok_or_else(|| Fault::new(Kind::Unreachable, format!("no replica of shard {shard} is open here")))?;
            let answer = replica.handle(caller.node, &message).await;
            Ok(Response::default().with_body(transport::Body::of(vec![answer])))
        })
    }
}

/// The way to the other replicas of one shard.
pub(crate) struct Ways {
    pub endpoint: Endpoint,
    pub shard: u32,
}

impl Peers for Ways {
    fn send(&self, to: NodeId, lane: Lane, message: Bytes, limit: Duration) -> BoxFuture<'_, Result<Bytes, SendError>> {
        let class = match lane {
            Lane::Control if message.len() <= CONTROL_BYTES_MAX => Class::Control,
            Lane::Control => Class::Small,
            Lane::Bulk => Class::Bulk,
        };
        let mut head = Writer::new();
        head.u32(self.shard);
        let call = Call::new(REPLICAS, class, head.finish());
        let call = call.with_body(transport::Body::of(vec![message])).with_timeout(limit);
        Box::pin(async move {
            let answer = async { self.endpoint.call(to, call).await?.body.collect(MESSAGE_BYTES_MAX).await };
            answer.await.map_err(|error| match error {
                Error::Deadline { .. } => SendError::TimedOut,
                other => SendError::Unreachable(other.to_string()),
            })
        })
    }
}
