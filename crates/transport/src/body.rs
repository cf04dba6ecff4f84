//! Bodies: bytes at hand, or bytes that come.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use env::BoxFuture;

use crate::error::{Error, Result};

/// Room that is made for a body on its sender's word.
const COLLECT_ROOM_BYTES: u64 = 1 << 20;

/// Compares a body's length with what was said of it, as it comes.
pub(crate) struct Count {
    taken: u64,
    said: Option<u64>,
}

impl Count {
    /// `first` bytes have come already.
    pub(crate) fn new(said: Option<u64>, first: usize) -> Count {
        Count { taken: first as u64, said }
    }

    /// More came; an error if that is too much.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<()> {
        self.taken += bytes as u64;
        match self.said {
            Some(said) if self.taken > said => Err(Error::Protocol("a body is longer than was said".into())),
            _ => Ok(()),
        }
    }

    /// It has ended; an error if that is too early.
    pub(crate) fn end(&self) -> Result<()> {
        match self.said {
            Some(said) if self.taken != said => Err(Error::Protocol("a body is shorter than was said".into())),
            _ => Ok(()),
        }
    }
}

/// Where the bytes of a body come from. Dropping it says that no more are wanted.
pub trait BodySource: Send {
    /// The next bytes, never none; `None` at the end. A failure is the last thing.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes>>>;
}

/// The bytes after the head of a request or a response.
pub struct Body {
    len: Option<u64>,
    parts: VecDeque<Bytes>,
    source: Option<Box<dyn BodySource>>,
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("len", &self.len).field("streamed", &self.source.is_some()).finish()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::of(vec![bytes])
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::of(vec![bytes.into()])
    }
}

fn too_long(len: usize, max: usize) -> Result<()> {
    if len <= max { Ok(()) } else { Err(Error::TooLong { what: "the body", len: len as u64, max: max as u64 }) }
}

fn within(bytes: Bytes, max: usize) -> Result<Bytes> {
    too_long(bytes.len(), max).map(|()| bytes)
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body { len: Some(0), parts: VecDeque::new(), source: None }
    }

    /// Bytes at hand, in order.
    pub fn of(parts: Vec<Bytes>) -> Body {
        let parts: VecDeque<Bytes> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Body { len: Some(parts.iter().map(|part| part.len() as u64).sum()), parts, source: None }
    }

    /// Bytes that come; `len` if it is known how many.
    pub fn stream(len: Option<u64>, source: impl BodySource + 'static) -> Body {
        Body { len, parts: VecDeque::new(), source: Some(Box::new(source)) }
    }

    /// `first`, then bytes that come.
    pub(crate) fn stream_after(len: Option<u64>, first: Bytes, source: impl BodySource + 'static) -> Body {
        let parts = if first.is_empty() { VecDeque::new() } else { VecDeque::from([first]) };
        Body { len, parts, source: Some(Box::new(source)) }
    }

    /// Bytes of the whole body, if known when it was made.
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// Whether it is known to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == Some(0)
    }

    /// The next bytes.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        if let Some(part) = self.parts.pop_front() {
            return Some(Ok(part));
        }
        match self.source.as_mut()?.next().await {
            Some(Ok(bytes)) => Some(Ok(bytes)),
            end => {
                self.source = None;
                end
            }
        }
    }

    /// All that is left, in one piece; an error if it is more than `max` bytes.
    pub async fn collect(mut self, max: usize) -> Result<Bytes> {
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        let Some(second) = self.next().await.transpose()? else { return within(first, max) };
        // Copied as they come, while they are in the processor's cache. A claimed length is not believed in advance.
        let room = self.len.map_or(0, |len| len.min(max as u64).min(COLLECT_ROOM_BYTES)) as usize;
        let mut all = BytesMut::with_capacity(room.max(first.len() + second.len()));
        let mut next = Some(second);
        all.extend_from_slice(&first);
        while let Some(part) = next {
            too_long(all.len() + part.len(), max)?;
            all.extend_from_slice(&part);
            next = self.next().await.transpose()?;
        }
        Ok(all.freeze())
    }

    /// All that is left, in the parts in which it comes; an error if it is more than `max` bytes.
    pub async fn gather(&mut self, max: usize) -> Result<Vec<Bytes>> {
        let (mut parts, mut len) = (Vec::new(), 0);
        while let Some(part) = self.next().await {
            let part = part?;
            len += part.len();
            too_long(len, max)?;
            parts.push(part);
        }
        Ok(parts)
    }

    /// Takes the parts at hand if the whole body is, and has at most `max` bytes.
    pub(crate) fn take_inline(&mut self, max: usize) -> Option<Vec<Bytes>> {
        let small = self.source.is_none() && self.len.is_some_and(|len| len <= max as u64);
        small.then(|| std::mem::take(&mut self.parts).into())
    }
}
