//! Frames over a byte stream. Both ends may be dropped between any two polls and used again: what
//! was read or is still to be written stays in the struct, not in a future.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::Instant;
use bytes::{Buf, Bytes, BytesMut};
use env::{Env, Stream};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use wire::frame::{HEADER_BYTES, Header, Kind};

use crate::error::{Error, Result};

/// Room for the next bytes of a body.
const DATA_READ_BYTES: usize = 128 << 10;
/// Room for the next bytes of anything else, whatever length its header claims.
const FRAME_READ_BYTES: usize = 64 << 10;
/// Room while nothing is known of what comes: idle connections keep no more.
const IDLE_READ_BYTES: usize = 4 << 10;
/// Slices for one write.
const SLICES_MAX: usize = 64;

/// When something last came from a peer: over one connection, and over any.
#[derive(Clone)]
pub(crate) struct Heard {
    env: Env,
    at: Arc<AtomicU64>,
    of_any: Arc<AtomicU64>,
}

impl Heard {
    pub(crate) fn new(env: &Env) -> Heard {
        let now = || Arc::new(AtomicU64::new(env.clock.now().0));
        Heard { env: env.clone(), at: now(), of_any: now() }
    }

    /// For one more connection to the same peer.
    pub(crate) fn of_another(&self) -> Heard {
        Heard { of_any: self.of_any.clone(), ..Heard::new(&self.env) }
    }

    pub(crate) fn note(&self) {
        let now = self.env.clock.now().0;
        self.at.store(now, Relaxed);
        self.of_any.store(now, Relaxed);
    }

    /// Over this connection.
    pub(crate) fn last(&self) -> Instant {
        Instant(self.at.load(Relaxed))
    }

    /// Over any connection to the peer.
    pub(crate) fn last_of_any(&self) -> Instant {
        Instant(self.of_any.load(Relaxed))
    }
}

/// A frame; of data frames a part, as much as came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) payload: Bytes,
}

/// Takes frames from a stream.
pub(crate) struct FrameReader {
    io: ReadHalf<Box<dyn Stream>>,
    buffer: BytesMut,
    /// The data frame under way: its header, and bytes that are still to come.
    data: Option<Header>,
    heard: Heard,
}

/// Both directions of a greeted or fresh stream.
pub(crate) fn split(stream: Box<dyn Stream>, heard: Heard) -> (FrameReader, FrameWriter) {
    let (read, write) = tokio::io::split(stream);
    let reader = FrameReader { io: read, buffer: BytesMut::new(), data: None, heard };
    (reader, FrameWriter { io: write, queue: VecDeque::new() })
}

impl FrameReader {
    /// The next frame; `None` if the other end closed between two frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            let got = poll_fn(|cx| fill(&mut self.io, &mut self.buffer, self.data.is_some(), cx)).await;
            match got.map_err(|error| Error::cut(&error))? {
                0 if self.buffer.is_empty() && self.data.is_none() => return Ok(None),
                0 => return Err(Error::Cut { why: "the peer closed in the middle of a frame".into() }),
                _ => self.heard.note(),
            }
        }
    }

    /// A whole frame, or the part of a data frame that is at hand.
    fn take(&mut self) -> Result<Option<Frame>> {
        if self.data.is_none() {
            let Some(head) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let header = Header::decode(head)?;
            if header.kind != Kind::Data {
                return Ok(self.take_whole(header));
            }
            if header.len == 0 {
                return Err(Error::Protocol("a data frame without data".into()));
            }
            self.buffer.advance(HEADER_BYTES);
            self.data = Some(header);
        }
        let Some(data) = &mut self.data else { return Ok(None) };
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let len = self.buffer.len().min(data.len as usize);
        let payload = self.buffer.split_to(len).freeze();
        let header = Header { len: len as u32, ..*data };
        data.len -= len as u32;
        if data.len == 0 {
            self.data = None;
        }
        Ok(Some(Frame { header, payload }))
    }

    fn take_whole(&mut self, header: Header) -> Option<Frame> {
        let end = HEADER_BYTES + header.len as usize;
        if self.buffer.len() < end {
            return None;
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(header.len as usize).freeze();
        Some(Frame { header, payload })
    }

    /// When something last came over this connection.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Lets the room go that a body took: an idle connection keeps next to nothing.
    pub(crate) fn rest(&mut self) {
        if self.buffer.is_empty() && self.data.is_none() {
            self.buffer = BytesMut::new();
        }
    }
}

/// Reads what is there, up to one buffer full; waits only if nothing is.
fn fill(
    io: &mut ReadHalf<Box<dyn Stream>>,
    buffer: &mut BytesMut,
    data: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // As much as came is the measure of what may come, never what a header claims.
    let room = match data {
        true => DATA_READ_BYTES,
        false => buffer.len().clamp(IDLE_READ_BYTES, FRAME_READ_BYTES),
    };
    if buffer.capacity() - buffer.len() < room / 2 {
        buffer.reserve(room);
    }
    let mut got = 0;
    while buffer.capacity() > buffer.len() {
        let polled = std::pin::pin!(io.read_buf(buffer)).poll(cx);
        match polled {
            Poll::Ready(Ok(0)) => break,
            Poll::Ready(Ok(read)) => got += read,
            Poll::Ready(Err(error)) if got == 0 => return Poll::Ready(Err(error)),
            Poll::Pending if got == 0 => return Poll::Pending,
            // What came counts first; the error or the wait shows again.
            Poll::Ready(Err(_)) | Poll::Pending => break,
        }
    }
    Poll::Ready(Ok(got))
}

/// Puts frames into a stream.
pub(crate) struct FrameWriter {
    io: WriteHalf<Box<dyn Stream>>,
    queue: VecDeque<Bytes>,
}

impl FrameWriter {
    /// Queues a frame; [`FrameWriter::flush`] sends it. The payload's parts go out as they are.
    pub(crate) fn push(&mut self, kind: Kind, more: bool, call: u32, payload: impl IntoIterator<Item = Bytes>) {
        let at = self.queue.len();
        let mut len = 0;
        for part in payload {
            len += part.len();
            self.queue.push_back(part);
        }
        let header = Header { kind, more, call, len: len as u32 };
        self.queue.insert(at, Bytes::copy_from_slice(&header.encode()));
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum()
    }

    /// Sends all that was queued.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await.map_err(|error| Error::cut(&error))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for part in self.queue.iter().take(SLICES_MAX) {
                slices[count] = IoSlice::new(part);
                count += 1;
            }
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 && slices[..count].iter().any(|slice| !slice.is_empty()) {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent(written);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Sends all that was queued; an error if nothing moves for `stall`.
    pub(crate) async fn flush_within(&mut self, env: &Env, stall: Duration) -> Result<()> {
        // Most of what is sent fits the socket at once: no timer for that.
        if let Some(done) = self.flush().now_or_never() {
            return done;
        }
        loop {
            let before = self.queued();
            if let Some(done) = env.timeout(stall, self.flush()).await {
                return done;
            }
            if self.queued() == before {
                return Err(Error::Cut { why: format!("the peer took nothing for {} ms", stall.as_millis()) });
            }
        }
    }

    /// Says that nothing more comes.
    pub(crate) async fn close(&mut self) {
        // Whoever has gone needs no goodbye.
        let _ = self.io.shutdown().await;
    }

    fn sent(&mut self, mut written: usize) {
        while let Some(part) = self.queue.front_mut() {
            if part.len() > written {
                part.advance(written);
                return;
            }
            written -= part.len();
            self.queue.pop_front();
        }
    }
}
