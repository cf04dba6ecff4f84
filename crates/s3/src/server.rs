//! Connections and requests: limits, ids, headers that every answer has, and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use base::Instant;
use env::{BoxFuture, Env, Listener, Stream};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, DATE, EXPECT, HeaderName, HeaderValue, SERVER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};

use crate::backend::Backend;
use crate::call::Call;
use crate::digests::Hashers;
use crate::error::{Code, Error};
use crate::gate::{self, Gate};
use crate::metrics::Metrics;
use crate::ops;
use crate::payload::Payload;
use crate::response::{self, Response};
use crate::router::{Operation, route};
use crate::target::Target;

/// How the face behaves. Every limit has a reason; the defaults fit a machine of today.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The region that requests must be signed for.
    pub region: String,
    /// Domains under which buckets are hosts: `s3.example.org` serves `bucket.s3.example.org`.
    pub hosts: Vec<String>,
    /// Whether clients speak TLS: only for the links that answers hold.
    pub secure: bool,
    /// Connections at once; more are closed at once. An idle one costs about 20 KB.
    pub connections_max: u64,
    /// A connection that sends no whole head of a request for so long is closed: idle ones and
    /// those that dribble alike. Longer than clients' pools keep theirs (boto3, Go: 60 to 90 s).
    pub idle: Duration,
    /// A body of which nothing comes for so long is given up.
    pub stall: Duration,
    /// Bytes of a request's head: presigned URLs and 2 KB of metadata fit several times.
    pub head_bytes_max: usize,
    /// Bytes of an XML body: 10,000 parts with checksums are about 1.7 MB.
    pub xml_bytes_max: u64,
    /// Bytes of an unread body that are taken in order to keep a connection.
    pub drain_bytes_max: u64,
    /// How long requests under way may take after the stop.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            region: "us-east-1".into(),
            hosts: Vec::new(),
            secure: false,
            connections_max: 20_000,
            idle: Duration::from_secs(100),
            stall: Duration::from_secs(60),
            head_bytes_max: 48 << 10,
            xml_bytes_max: 2 << 20,
            drain_bytes_max: 256 << 10,
            grace: Duration::from_secs(30),
        }
    }
}

/// Answers what isn't S3 (`/health`, `/metrics`), asked before S3 is: `None` goes on to S3.
pub type Aside = Arc<dyn Fn(&Method, &str) -> Option<Response> + Send + Sync>;

/// The S3 face of one store.
pub struct Face {
    pub(crate) env: Env,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) settings: Settings,
    pub(crate) gate: Gate,
    pub(crate) hashers: Hashers,
    metrics: Metrics,
    aside: Option<Aside>,
    /// Random, so that request ids of two runs differ.
    seed: u64,
    requests: AtomicU64,
    host_id: HeaderValue,
    /// The header `Date`, and the second that it is of.
    date: Mutex<(u64, HeaderValue)>,
}

impl Face {
    /// A face over a store.
    pub fn new(env: Env, backend: Arc<dyn Backend>, settings: Settings) -> Self {
        let seed = u64::from_le_bytes(env.random());
        let host_id = base::ids::hex(&env.random::<16>());
        let host_id = HeaderValue::from_str(&host_id).unwrap_or(HeaderValue::from_static("abide"));
        let gate = Gate::new(&settings);
        let hashers = Hashers::new(env.clone());
        Face {
            env,
            backend,
            settings,
            gate,
            hashers,
            metrics: Metrics::default(),
            aside: None,
            seed,
            requests: AtomicU64::new(0),
            host_id,
            date: Mutex::new((0, HeaderValue::from_static(""))),
        }
    }

    /// Asks `aside` before S3.
    pub fn with_aside(mut self, aside: Aside) -> Self {
        self.aside = Some(aside);
        self
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn host_id(&self) -> &str {
        self.host_id.to_str().unwrap_or("")
    }

    /// The header `Date`, written once a second.
    fn date(&self) -> HeaderValue {
        let now = self.env.clock.wall();
        let mut date = self.date.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if date.0 != now.secs()
            && let Ok(text) = HeaderValue::from_str(&response::http_date(now))
        {
            *date = (now.secs(), text);
        }
        date.1.clone()
    }

    /// An id that nobody can guess the next of at a glance; no system call per request.
    fn request_id(&self) -> String {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let mut z = self.seed.wrapping_add(self.requests.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        base::ids::hex(&(z ^ (z >> 31)).to_be_bytes())
    }
}

/// Serves until `stop` is ready, then lets requests under way end within the grace.
pub async fn serve(listener: Box<dyn Listener>, face: Arc<Face>, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    // Every connection holds a sender: when the last one is gone, so are the connections.
    let (alive, mut gone) = mpsc::channel::<()>(1);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = futures_util::future::select(listener.accept(), stop.as_mut()).await;
        let (stream, peer) = match accepted {
            futures_util::future::Either::Right(_) => break,
            futures_util::future::Either::Left((Ok((stream, peer)), _)) => (stream, peer.ip()),
            futures_util::future::Either::Left((Err(error), _)) => {
                // Out of file descriptors, most likely: those in use will come back.
                tracing::info!(%error, "failed to accept a connection");
                face.env.clock.sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if face.metrics.connected() > face.settings.connections_max {
            face.metrics.refused_connection();
            face.metrics.disconnected();
            continue;
        }
        let (task_face, stopped, alive) = (face.clone(), stopped.clone(), alive.clone());
        face.env.spawn("s3 connection", async move {
            connection(&task_face, stream, peer, stopped).await;
            task_face.metrics.disconnected();
            drop(alive);
        });
    }
    drop(listener);
    drop(alive);
    // Nobody listens if no connection is open.
    let _ = stopping.send(true);
    if face.env.timeout(face.settings.grace, gone.recv()).await.is_none() {
        tracing::info!("requests under way were cut: they took longer than the grace");
    }
}

async fn connection(face: &Arc<Face>, stream: Box<dyn Stream>, peer: IpAddr, mut stopped: watch::Receiver<bool>) {
    let service_face = face.clone();
    let service = hyper::service::service_fn(move |request| handle(service_face.clone(), peer, request));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(EnvTimer(face.env.clone()))
        .header_read_timeout(face.settings.idle)
        .max_header_size(face.settings.head_bytes_max)
        .max_headers(200)
        .auto_date_header(false)
        .half_close(false);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = {
        let stop = std::pin::pin!(stopped.wait_for(|stopped| *stopped));
        match futures_util::future::select(connection.as_mut(), stop).await {
            futures_util::future::Either::Left((ended, _)) => Some(ended),
            futures_util::future::Either::Right(_) => None,
        }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn handle(face: Arc<Face>, peer: IpAddr, request: Request<Incoming>) -> Result<Response, Infallible> {
    let began = face.env.clock.now();
    if let Some(aside) = &face.aside
        && let Some(response) = aside(request.method(), request.uri().path())
    {
        return Ok(response);
    }
    let request_id = face.request_id();
    let uri = request.uri().clone();
    let head = request.method() == Method::HEAD;
    let done = answer(&face, peer, request).await;
    let mut response = match done.result {
        Ok(response) => response,
        Err(error) => response::refusal(&error, uri.path(), &request_id, face.host_id(), head),
    };
    if let Some(call) = &done.call {
        ops::cors::decorate(call, response.headers_mut()).await;
    }
    let bytes_in = match done.call {
        Some(call) => {
            let asks = call.headers.contains_key(EXPECT);
            settle(&face, call.payload, asks, &mut response).await
        }
        None => 0,
    };
    finish(&face, &mut response, &request_id);
    let bytes_out = if head { 0 } else { response.body().len() };
    let took = face.env.clock.now().since(began);
    face.metrics.record(done.operation, response.status().as_u16(), took, bytes_in, bytes_out);
    tracing::debug!(
        operation = done.operation.name(),
        status = response.status().as_u16(),
        request_id,
        took_us = took.as_micros() as u64,
        "answered"
    );
    Ok(response)
}

/// What became of a request.
struct Done {
    operation: Operation,
    /// Not there if the request couldn't even be read.
    call: Option<Call>,
    result: crate::error::Result<Response>,
}

async fn answer(face: &Arc<Face>, peer: IpAddr, request: Request<Incoming>) -> Done {
    let (parts, body) = request.into_parts();
    let host = parts.headers.get("host").and_then(|host| host.to_str().ok());
    let target = match Target::parse(&parts.uri, host, &face.settings.hosts) {
        Ok(target) => target,
        Err(error) => return Done { operation: Operation::Unknown, call: None, result: Err(error) },
    };
    let operation = route(&parts.method, &target, parts.headers.contains_key("x-amz-copy-source"));
    let admitted = gate::admit(face, operation, &parts, &target, body).await;
    let (who, payload, refused) = match admitted {
        Ok((who, payload)) => (who, payload, None),
        Err((error, payload)) => (None, payload, Some(error)),
    };
    let now = face.env.clock.wall();
    let hyper::http::request::Parts { method, headers, uri, .. } = parts;
    let mut call = Call { face: face.clone(), operation, method, headers, uri, target, who, payload, peer, now };
    let result = match refused {
        Some(error) => Err(error),
        None => ops::run(&mut call).await,
    };
    Done { operation, call: Some(call), result }
}

/// Takes what is left of a small body, so that the connection can be used again; closes after a
/// big one, or if the client waits to be told to send it: a refusal must not invite it. Gives the
/// payload bytes that were taken.
async fn settle(face: &Face, mut payload: Payload, asks: bool, response: &mut Response) -> u64 {
    let taken = payload.taken();
    let uninvited = asks && taken == 0 && !payload.is_empty();
    if uninvited || !payload.drain(face.settings.drain_bytes_max).await {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    taken
}

fn finish(face: &Face, response: &mut Response, request_id: &str) {
    let date = face.date();
    let headers = response.headers_mut();
    headers.reserve(4);
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(HeaderName::from_static("x-amz-request-id"), id);
    }
    headers.insert(HeaderName::from_static("x-amz-id-2"), face.host_id.clone());
    headers.insert(DATE, date);
    headers.insert(SERVER, HeaderValue::from_static("Abide"));
    if let Some(why) = face.backend.without_leaders().and_then(|why| HeaderValue::from_str(&why).ok()) {
        headers.insert(HeaderName::from_static("x-abide-read-by-kit"), why);
    }
}

/// hyper's timer on our clock.
#[derive(Clone)]
struct EnvTimer(Env);

impl EnvTimer {
    /// hyper counts in the system's instants; ours count from zero. Only differences matter.
    fn epoch() -> std::time::Instant {
        static EPOCH: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        // The one place where the system's clock is read, once: its value never decides anything.
        #[allow(clippy::disallowed_methods)]
        *EPOCH.get_or_init(std::time::Instant::now)
    }

    fn instant(at: Instant) -> std::time::Instant {
        Self::epoch() + Duration::from_nanos(at.0)
    }
}

struct EnvSleep(Mutex<BoxFuture<'static, ()>>);

impl Future for EnvSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.get_mut() {
            Ok(sleep) => sleep.as_mut().poll(cx),
            Err(poisoned) => poisoned.into_inner().as_mut().poll(cx),
        }
    }
}

impl hyper::rt::Sleep for EnvSleep {}

impl hyper::rt::Timer for EnvTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        // hyper wants the future to be Sync; a mutex that is never shared makes it so.
        Box::pin(EnvSleep(Mutex::new(self.0.clock.sleep(duration))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> std::time::Instant {
        Self::instant(self.0.clock.now())
    }
}

/// The error of a body that stalls.
pub(crate) fn stalled() -> Error {
    Code::RequestTimeout.into()
}

/// Whether a request has a body at all.
pub(crate) fn has_body(body: &Incoming) -> bool {
    !body.is_end_stream()
}

/// The error of a connection that breaks in the middle of a body.
pub(crate) fn broken(error: &dyn std::error::Error) -> Error {
    tracing::debug!(%error, "a request's body broke off");
    Code::IncompleteBody.into()
}
