//! Requests in, JSON out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base::{Kind, Kinded};
use bytes::Bytes;
use env::{Env, Listener};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use node::Node;
use serde_json::{Value, json};

/// A request larger than this is none of ours.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What S3 clients are told.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The URL of the S3 face.
    pub endpoint: String,
    /// The region to sign for.
    pub region: String,
}

/// Answers requests on `listener` until the process ends.
pub async fn serve(env: Env, listener: Box<dyn Listener>, node: Node, shown: Shown) {
    let served = Arc::new((node, shown));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = served.clone();
                env.spawn("control connection", async move {
                    let service = service_fn(move |request| respond(served.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "control connection");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept on the control socket");
                env.clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn respond(served: Arc<(Node, Shown)>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (node, shown) = &*served;
    let (parts, body) = request.into_parts();
    let (status, answer) = match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": format!("read the request: {error}") })),
        Ok(body) => {
            let bytes = body.to_bytes();
            let wish = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
            match wish {
                Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": format!("the request is no JSON: {error}") })),
                Ok(wish) => {
                    let path = parts.uri.path();
                    let query = parts.uri.query().unwrap_or("");
                    match crate::api::run(node, shown, parts.method.as_str(), path, query, &wish).await {
                        Ok(answer) => (StatusCode::OK, answer),
                        Err(refusal) => (refusal.status, refusal.answer),
                    }
                }
            }
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Why a request got no good answer.
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub answer: Value,
}

impl Refusal {
    /// What the caller asked makes no sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, answer: json!({ "error": text.into() }) }
    }
}

impl<E: Kinded> From<E> for Refusal {
    fn from(error: E) -> Self {
        let kind = error.kind();
        Self { status: status(kind), answer: json!({ "error": error.to_string(), "kind": kind.to_string() }) }
    }
}

/// The one table from kinds to HTTP status of this face.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Missing => StatusCode::NOT_FOUND,
        Kind::Exists | Kind::Conflict => StatusCode::CONFLICT,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Busy { .. } | Kind::Unreachable | Kind::TooFewPieces { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Damaged | Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status() {
        let table = [
            (Kind::Missing, 404),
            (Kind::Exists, 409),
            (Kind::Denied, 403),
            (Kind::Invalid, 400),
            (Kind::Conflict, 409),
            (Kind::Busy { retry_after: Duration::ZERO }, 503),
            (Kind::Unreachable, 503),
            (Kind::TooFewPieces { have: 3, need: 4 }, 503),
            (Kind::Damaged, 500),
            (Kind::Bug, 500),
        ];
        for (kind, expected) in table {
            assert_eq!(status(kind).as_u16(), expected, "{kind}");
            // What may pass later says so, and nothing else does.
            assert_eq!(kind.is_transient(), expected == 503, "{kind}");
        }
    }
}
