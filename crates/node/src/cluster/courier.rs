//! What [`liveness`] says travels as calls without an answer worth waiting for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::NodeId;
use bytes::Bytes;
use env::{BoxFuture, Env};
use liveness::Courier;
use tokio::sync::Semaphore;
use transport::{Call, Caller, Class, Endpoint, Fault, Request, Response, Service, ServiceId};

/// Liveness, on the wire: the body is a message of it (docs/formats/liveness.md).
pub const LIVENESS: ServiceId = ServiceId(19);

/// Messages on their way at the most; one more is lost, as on any network.
const UNDER_WAY_MAX: usize = 256;
/// A message that takes longer is worth nothing any more.
const LIMIT: Duration = Duration::from_secs(1);
/// Bytes of one at the most.
const BYTES_MAX: usize = 64 << 10;

/// Takes messages to other nodes.
pub(crate) struct Post {
    env: Env,
    endpoint: Endpoint,
    room: Arc<Semaphore>,
}

impl Post {
    pub fn new(env: Env, endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self { env, endpoint, room: Arc::new(Semaphore::new(UNDER_WAY_MAX)) })
    }
}

impl Courier for Post {
    fn send(&self, to: NodeId, message: Bytes) {
        let Ok(room) = self.room.clone().try_acquire_owned() else { return };
        let endpoint = self.endpoint.clone();
        self.env.spawn("liveness message", async move {
            let call = Call::new(LIVENESS, Class::Control, Bytes::new());
            // Whether it came is what the messages themselves are about.
            let _ = endpoint.call(to, call.with_body(transport::Body::of(vec![message])).with_timeout(LIMIT)).await;
            drop(room);
        });
    }
}

/// Hands messages of other nodes on.
#[derive(Default)]
pub(crate) struct LivenessService(Mutex<Option<liveness::Service>>);

impl LivenessService {
    /// Who takes them from now on.
    pub fn set(&self, service: Option<liveness::Service>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = service;
    }
}

impl Service for LivenessService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let message = request.body.collect(BYTES_MAX).await;
            let message = message.map_err(|error| Fault::new(base::Kind::Invalid, error.to_string()))?;
            let service = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(service) = service {
                service.receive(caller.node, message);
            }
            Ok(Response::default())
        })
    }
}
