//! Answers: small ones whole, so that head and body leave in one write; objects as streams.

use std::fmt::Write;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use base::Wall;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use crate::backend::ReadStream;
use crate::error::{Error, Result};

/// What this face answers.
pub type Response = hyper::Response<Body>;

/// A body on its way out.
pub enum Body {
    /// Known whole.
    Full(Bytes),
    /// Exactly this many bytes from the store; the first were read before the head was written,
    /// so that a store that can't serve them is an honest error, not a cut connection.
    Stream {
        /// Read already.
        first: Option<Bytes>,
        /// The rest.
        stream: ReadStream,
        /// Bytes still to send, `first` included.
        left: u64,
    },
    /// XML that is late: white space keeps the connection alive until it is there.
    Late(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::Full(Bytes::new())
    }

    /// `len` bytes from the store. Reads the first ones; few bytes are read whole.
    pub async fn read(mut stream: ReadStream, len: u64) -> Result<Body> {
        const WHOLE_MAX: u64 = 256 << 10;
        let first = stream.next().await.transpose()?.unwrap_or_default();
        if first.len() as u64 == len {
            return Ok(Body::Full(first));
        }
        if len > WHOLE_MAX {
            return Ok(Body::Stream { first: Some(first), stream, left: len });
        }
        let mut all = Vec::with_capacity(len as usize);
        all.extend_from_slice(&first);
        while let Some(more) = stream.next().await {
            all.extend_from_slice(&more?);
        }
        if all.len() as u64 != len {
            return Err(short(len));
        }
        Ok(Body::Full(all.into()))
    }

    /// Bytes that will be sent, if known.
    pub fn len(&self) -> u64 {
        match self {
            Body::Full(bytes) => bytes.len() as u64,
            Body::Stream { left, .. } => *left,
            Body::Late(_) => 0,
        }
    }

    /// Whether nothing will be sent.
    pub fn is_empty(&self) -> bool {
        matches!(self, Body::Full(bytes) if bytes.is_empty())
    }
}

fn short(len: u64) -> Error {
    tracing::error!(len, "failed to read an object: the store gave fewer bytes than it said");
    crate::error::Code::InternalError.into()
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let item = match &mut *self {
            Body::Full(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Body::Full(bytes) => Some(Ok(std::mem::take(bytes))),
            Body::Stream { left: 0, .. } => return Poll::Ready(None),
            Body::Stream { first, stream, left } => {
                let next = match first.take() {
                    Some(first) => Some(Ok(first)),
                    None => std::task::ready!(stream.as_mut().poll_next(cx)),
                };
                Some(take(next, left))
            }
            Body::Late(stream) => std::task::ready!(stream.as_mut().poll_next(cx)).map(Ok),
        };
        Poll::Ready(item.map(|item| item.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) => bytes.is_empty(),
            Body::Stream { left, .. } => *left == 0,
            Body::Late(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Late(_) => SizeHint::default(),
            _ => SizeHint::with_exact(self.len()),
        }
    }
}

/// Counts the bytes of a stream down. An error cuts the connection: the head is out already, and a
/// client that counts sees that bytes are missing.
fn take(next: Option<crate::backend::Result<Bytes>>, left: &mut u64) -> io::Result<Bytes> {
    match next {
        Some(Ok(bytes)) if bytes.len() as u64 <= *left => {
            *left -= bytes.len() as u64;
            Ok(bytes)
        }
        Some(Ok(_)) | None => Err(io::Error::other(short(*left))),
        Some(Err(error)) => Err(io::Error::other(Error::from(error))),
    }
}

/// An answer without body.
pub fn empty(status: StatusCode) -> Response {
    with_body(status, Body::empty())
}

/// `200 OK` without body.
pub fn ok() -> Response {
    empty(StatusCode::OK)
}

/// `204 No Content`.
pub fn no_content() -> Response {
    empty(StatusCode::NO_CONTENT)
}

/// An answer with a body.
pub fn with_body(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// `200 OK` with an XML document.
pub fn xml(text: String) -> Response {
    let mut response = with_body(StatusCode::OK, Body::Full(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// The answer that says no, with S3's document. A `HEAD` gets no body, nor does `304`.
pub fn refusal(error: &Error, resource: &str, request_id: &str, host_id: &str, head: bool) -> Response {
    let status = error.status();
    let mut response = empty(status);
    if !head && status != StatusCode::NOT_MODIFIED {
        let mut xml = crate::xml::Xml::bare("Error");
        xml.text("Code", error.code.name()).text("Message", &error.message);
        xml.text("Resource", resource).text("RequestId", request_id).text("HostId", host_id);
        response = crate::response::xml(xml.finish("Error"));
        *response.status_mut() = status;
    }
    for (name, value) in &error.headers {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}

/// Sets a header; bytes that can't be in one are left out rather than failing the answer.
pub fn set(headers: &mut HeaderMap, name: &'static str, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Sets `ETag` with its quotes.
pub fn set_etag(headers: &mut HeaderMap, etag: &str) {
    let mut quoted = String::with_capacity(etag.len() + 2);
    let _ = write!(quoted, "\"{etag}\"");
    set(headers, "etag", quoted.as_bytes());
}

/// Sets `Last-Modified`.
pub fn set_modified(headers: &mut HeaderMap, modified: Wall) {
    set(headers, "last-modified", http_date(modified).as_bytes());
}

/// A moment as HTTP writes it (RFC 9110, section 5.6.7), in whole seconds.
pub fn http_date(at: Wall) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at.secs()))
}

/// Whole seconds since 1970 of an HTTP date.
pub fn parse_http_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}
