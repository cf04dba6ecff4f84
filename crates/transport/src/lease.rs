//! The dialling side of a small or bulk connection: one call has it, then it goes back.

use std::sync::Arc;
use std::time::Duration;

use base::Instant;
use bytes::Bytes;
use crypt::PublicKey;
use env::BoxFuture;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use wire::Fault;
use wire::frame::{Kind, LEN_UNKNOWN, RequestHead, ResponseHead, millis};
use wire::greet::Class;

use crate::body::{Body, BodySource, Count};
use crate::call::{Call, Reply};
use crate::error::{Error, Result};
use crate::framed::{Frame, FrameReader, FrameWriter};
use crate::mux::reply;
use crate::peer::{InFlight, Made, Peer};
use crate::server::stream::{INLINE_STREAM_MAX, send_body};

/// A cancelled call's connection is kept if its end comes within this time …
const DRAIN: Duration = Duration::from_secs(1);
/// … and this many bytes.
const DRAIN_BYTES_MAX: u64 = 4 << 20;

/// Calls of one peer that are being cancelled, and as many more that wait for it.
pub(crate) const CANCELLED_MAX: usize = 32;

/// A connection that can be used.
pub(crate) struct Conn {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    pub(crate) key: PublicKey,
    /// The peer's count of failures when it was made: older ones are thrown away.
    pub(crate) failures: u64,
    /// With which of both sides' keys it was made; see [`Peer::renew`].
    pub(crate) generation: u64,
    pub(crate) idle_since: Instant,
    last_call: u32,
}

impl Conn {
    pub(crate) fn new(reader: FrameReader, writer: FrameWriter, key: PublicKey, made: Made, now: Instant) -> Conn {
        let Made { failures, generation } = made;
        Conn { reader, writer, key, failures, generation, idle_since: now, last_call: 0 }
    }

    /// Whether it is still open and silent, as an idle one is.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.reader.next().now_or_never().is_none()
    }

    /// Waits for the end of a cancelled call; false if the connection can't be used again.
    async fn drain(&mut self) -> bool {
        if self.writer.flush().await.is_err() {
            return false;
        }
        let mut taken = 0;
        while let Ok(Some(frame)) = self.reader.next().await {
            taken += u64::from(frame.header.len);
            match frame.header.kind {
                Kind::Response if !frame.header.more => return true,
                Kind::End | Kind::Error | Kind::Busy => return true,
                _ if taken > DRAIN_BYTES_MAX => return false,
                _ => {}
            }
        }
        false
    }
}

/// Brings cancelled calls to their end and their connections back to the pool. Ends with the peer.
pub(crate) async fn drain_all(peer: Arc<Peer>, mut cancelled: mpsc::Receiver<(Class, Conn)>) {
    let mut ended = peer.ended();
    let mut draining = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            Some((class, mut conn)) = cancelled.recv(), if draining.len() < CANCELLED_MAX => {
                let env = &peer.core.env;
                draining.push(async move { (env.timeout(DRAIN, conn.drain()).await, class, conn) });
            }
            Some((done, class, conn)) = draining.next() => {
                if done == Some(true) {
                    peer.put_back(class, conn);
                }
            }
            else => return,
        }
    }
}

/// A connection in use by one call.
pub(crate) struct Lease {
    peer: Arc<Peer>,
    class: Class,
    conn: Option<Conn>,
    /// Whether the peer still owes the end of an answer.
    owed: bool,
    _permit: OwnedSemaphorePermit,
    _in_flight: InFlight,
}

impl Lease {
    pub(crate) fn new(
        peer: Arc<Peer>,
        class: Class,
        conn: Conn,
        permit: OwnedSemaphorePermit,
        in_flight: InFlight,
    ) -> Lease {
        Lease { peer, class, conn: Some(conn), owed: false, _permit: permit, _in_flight: in_flight }
    }

    fn conn(&mut self) -> Result<&mut Conn> {
        let node = self.peer.node;
        self.conn.as_mut().ok_or(Error::Unreachable { node, why: "the connection ended".into() })
    }

    /// The answer has ended: the connection can serve another call.
    fn settle(&mut self) {
        self.owed = false;
        if let Some(conn) = self.conn.take() {
            self.peer.put_back(self.class, conn);
        }
    }

    /// One call up to the response's head; the caller limits the time.
    pub(crate) async fn exchange(mut self, call: Call) -> Result<Reply> {
        let answered = self.send_and_wait(call).await;
        let frame = match answered {
            Ok(frame) => frame,
            Err(error) => {
                // Whatever state it is in, it isn't a good one.
                self.conn = None;
                return Err(error);
            }
        };
        if frame.header.kind == Kind::Response && frame.header.more {
            let (head, at) = ResponseHead::decode(&frame.payload)?;
            let len = (head.body_len != LEN_UNKNOWN).then_some(head.body_len);
            let head = frame.payload.slice(at - head.head.len()..at);
            let first = frame.payload.slice(at..);
            let rest = Outgoing { count: Count::new(len, first.len()), lease: self };
            return Ok(Reply { head, body: Body::stream_after(len, first, rest) });
        }
        let reply = reply(self.peer.node, frame.header.kind, &frame.payload)?;
        self.settle();
        reply
    }

    /// Sends the call; gives the first frame of its answer.
    async fn send_and_wait(&mut self, call: Call) -> Result<Frame> {
        let (peer, stall) = (self.peer.clone(), self.peer.core.settings.stall);
        let Call { service, head, mut body, timeout, .. } = call;
        self.owed = true;
        let conn = self.conn()?;
        conn.last_call = conn.last_call.wrapping_add(1);
        let id = conn.last_call;
        let body_len = body.len().unwrap_or(LEN_UNKNOWN);
        let request = RequestHead { service: service.0, deadline_ms: millis(timeout), body_len, head: &head };
        let request = Bytes::from(request.encode());
        if let Some(mut parts) = body.take_inline(INLINE_STREAM_MAX) {
            parts.insert(0, request);
            conn.writer.push(Kind::Request, false, id, parts);
            conn.writer.flush_within(&peer.core.env, stall).await?;
            return first_frame(&mut conn.reader, id).await;
        }
        conn.writer.push(Kind::Request, true, id, [request]);
        let Conn { reader, writer, .. } = conn;
        let early = {
            let sending = std::pin::pin!(send_body(&peer.core, writer, id, &mut body));
            let answer = std::pin::pin!(first_frame(reader, id));
            match select(answer, sending).await {
                Either::Left((answer, _)) => Some(answer?),
                Either::Right((sent, _)) => {
                    sent?.inspect_err(|error| tracing::debug!(%error, "a request's body failed")).map(|()| None)?
                }
            }
        };
        // An answer before the body's end: what is left isn't wanted.
        let kind = if early.is_some() { Kind::Error } else { Kind::End };
        let payload = early.is_some().then(|| Fault::new(base::Kind::Invalid, "not wanted").encode().into());
        writer.push(kind, false, id, payload);
        writer.flush_within(&peer.core.env, stall).await?;
        match early {
            Some(frame) => Ok(frame),
            None => first_frame(reader, id).await,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        if !self.owed {
            self.peer.put_back(self.class, conn);
            return;
        }
        // Not a task from here: a destructor may run where none can be begun. If too many are being
        // cancelled the connection is closed, which cancels too.
        conn.writer.push(Kind::Cancel, false, conn.last_call, []);
        self.peer.cancel(self.class, conn);
    }
}

/// The first frame of an answer to call `id`.
async fn first_frame(reader: &mut FrameReader, id: u32) -> Result<Frame> {
    while let Some(frame) = reader.next().await? {
        match frame.header.kind {
            Kind::Pong | Kind::Ping | Kind::Unknown(_) => {}
            _ if frame.header.call != id => {
                return Err(Error::Protocol("an answer to another call came".into()));
            }
            _ => return Ok(frame),
        }
    }
    Err(Error::Cut { why: "the peer closed the connection".into() })
}

/// A response's body as it comes.
struct Outgoing {
    lease: Lease,
    count: Count,
}

impl Outgoing {
    async fn read(&mut self) -> Option<Result<Bytes>> {
        loop {
            self.lease.conn.as_ref()?;
            let peer = self.lease.peer.clone();
            let (node, stall) = (peer.node, peer.core.settings.stall);
            let conn = self.lease.conn.as_mut()?;
            // What is at hand needs no timer.
            let next = match conn.reader.next().now_or_never() {
                Some(next) => Ok(next),
                None => peer.guard(stall, conn.reader.next()).await,
            };
            let frame = match next {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => return self.fail(Error::Cut { why: format!("{node} closed the connection") }),
                Ok(Err(error)) | Err(error) => return self.fail(Error::Cut { why: error.to_string() }),
            };
            match frame.header.kind {
                Kind::Data => {
                    return match self.count.add(frame.payload.len()) {
                        Ok(()) => Some(Ok(frame.payload)),
                        Err(error) => self.fail(error),
                    };
                }
                Kind::End => {
                    self.lease.settle();
                    return self.count.end().err().map(Err);
                }
                Kind::Error => {
                    self.lease.settle();
                    return Some(Err(match Fault::decode(&frame.payload) {
                        Ok(fault) => fault.into(),
                        Err(error) => error.into(),
                    }));
                }
                Kind::Ping | Kind::Pong | Kind::Unknown(_) => {}
                other => return self.fail(Error::Protocol(format!("{other:?} within a body"))),
            }
        }
    }

    fn fail(&mut self, error: Error) -> Option<Result<Bytes>> {
        self.lease.conn = None;
        Some(Err(error))
    }
}

impl BodySource for Outgoing {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes>>> {
        Box::pin(self.read())
    }
}
