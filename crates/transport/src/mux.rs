//! The dialling side of a control connection: many calls share it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Instant, NodeId};
use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::sync::{mpsc, oneshot, watch};
use wire::Fault;
use wire::frame::{INLINE_BYTES_MAX, Kind, LEN_UNKNOWN, RequestHead, ResponseHead, millis};

use crate::body::Body;
use crate::call::{Call, Reply};
use crate::endpoint::{Core, lock};
use crate::error::{Error, Result};
use crate::framed::{Frame, FrameReader, FrameWriter, Heard};
use crate::server::control::{OUT_MAX, Out, send_all};

/// How long calls may go on over a control connection that new ones don't take any more …
const RETIRE_MAX: Duration = Duration::from_secs(10);
/// … and how often it is looked whether there are any.
const RETIRE_LOOK: Duration = Duration::from_millis(500);

type Answer = oneshot::Sender<Result<Reply>>;

/// One connection.
pub(crate) struct Mux {
    node: NodeId,
    /// With which of both sides' keys it was made; see [`crate::peer::Made`].
    pub(crate) generation: u64,
    out: mpsc::Sender<Out>,
    /// `None` once the connection has ended.
    pending: Mutex<Option<BTreeMap<u32, Answer>>>,
    next: AtomicU32,
    ended: watch::Sender<bool>,
    heard: Heard,
    /// The first ping that nothing was heard after.
    pinged: Mutex<Option<Instant>>,
}

impl Mux {
    /// Begins to serve a greeted connection.
    pub(crate) fn start(
        core: &Arc<Core>,
        node: NodeId,
        generation: u64,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> Arc<Mux> {
        let (out, outbox) = mpsc::channel(OUT_MAX);
        let mux = Arc::new(Mux {
            node,
            generation,
            out,
            pending: Mutex::new(Some(BTreeMap::new())),
            next: AtomicU32::new(1),
            ended: watch::Sender::new(false),
            heard: reader.heard(),
            pinged: Mutex::default(),
        });
        core.env.spawn("control connection", run(core.clone(), mux.clone(), reader, writer, outbox));
        mux
    }

    /// Whether calls can still go out.
    pub(crate) fn is_open(&self) -> bool {
        !*self.ended.borrow()
    }

    /// Ends it: calls under way fail.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
        *lock(&self.pending) = None;
    }

    /// Ends it once no call is under way, at the latest after [`RETIRE_MAX`]. Nobody may find it any
    /// more for new ones.
    pub(crate) fn retire(self: Arc<Self>, core: &Core) {
        let clock = core.env.clock.clone();
        core.env.spawn("retire a control connection", async move {
            let from = clock.now();
            // Not at once: somebody may just have found it, and be about to call.
            while self.is_open() && clock.now().since(from) < RETIRE_MAX {
                clock.sleep(RETIRE_LOOK).await;
                if self.load() == 0 {
                    break;
                }
            }
            self.end();
        });
    }

    /// Calls under way.
    pub(crate) fn load(&self) -> usize {
        lock(&self.pending).as_ref().map_or(usize::MAX, BTreeMap::len)
    }

    /// Asks whether the peer is there; the answer shows as something heard. Gives how long nothing was heard
    /// on this connection since it was asked so.
    pub(crate) fn ping(&self, now: Instant) -> Duration {
        let heard = self.heard.last();
        let mut pinged = lock(&self.pinged);
        let first = *pinged.get_or_insert(now);
        *pinged = Some(if heard > first { now } else { first });
        let silent = pinged.map_or(Duration::ZERO, |first| now.since(first));
        drop(pinged);
        // A full queue is being sent: that is as good as a ping.
        let _ = self.out.try_send(Out::frame(Kind::Ping, 0, Bytes::new()));
        silent
    }

    /// One call; the caller limits the time. Dropping it cancels it at the peer.
    pub(crate) async fn call(&self, call: Call) -> Result<Reply> {
        let Call { service, head, mut body, timeout, .. } = call;
        let len = body.len().unwrap_or(LEN_UNKNOWN);
        let Some(parts) = body.take_inline(INLINE_BYTES_MAX) else {
            let what = "a body on a control connection, which must be at hand,";
            return Err(Error::TooLong { what, len, max: INLINE_BYTES_MAX as u64 });
        };
        let request = RequestHead { service: service.0, deadline_ms: millis(timeout), body_len: len, head: &head };
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(Bytes::from(request.encode()));
        all.extend(parts);
        let gone = || Error::Unreachable { node: self.node, why: "the connection ended".into() };
        let (answer, answered) = oneshot::channel();
        let id = self.next.fetch_add(1, Relaxed);
        match lock(&self.pending).as_mut() {
            Some(pending) => _ = pending.insert(id, answer),
            None => return Err(gone()),
        }
        let mut hangup = Hangup { mux: self, id, sent: false };
        self.out.send(Out::parts(Kind::Request, id, all)).await.map_err(|_| gone())?;
        hangup.sent = true;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    fn take(&self, id: u32) -> Option<Answer> {
        lock(&self.pending).as_mut().and_then(|pending| pending.remove(&id))
    }

    fn answered(&self, frame: &Frame) -> Result<()> {
        let reply = match frame.header.kind {
            Kind::Response if frame.header.more => {
                return Err(Error::Protocol("a body that isn't whole on a control connection".into()));
            }
            kind => reply(self.node, kind, &frame.payload)?,
        };
        // Nobody waits any more if it was cancelled.
        if let Some(answer) = self.take(frame.header.call) {
            let _ = answer.send(reply);
        }
        Ok(())
    }
}

/// What a frame says to a caller; the outer error is one of the protocol.
pub(crate) fn reply(node: NodeId, kind: Kind, payload: &Bytes) -> Result<Result<Reply>> {
    Ok(match kind {
        Kind::Response => {
            let (head, at) = ResponseHead::decode(payload)?;
            let head = payload.slice(at - head.head.len()..at);
            Ok(Reply { head, body: Body::from(payload.slice(at..)) })
        }
        Kind::Error => Err(Fault::decode(payload)?.into()),
        Kind::Busy => {
            let wait = payload.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            Err(Error::Busy { node, retry_after_ms: wait })
        }
        other => return Err(Error::Protocol(format!("{other:?} came instead of an answer"))),
    })
}

/// Tells the peer that nobody waits any more, if nobody does.
struct Hangup<'a> {
    mux: &'a Mux,
    id: u32,
    sent: bool,
}

impl Drop for Hangup<'_> {
    fn drop(&mut self) {
        if self.mux.take(self.id).is_some() && self.sent {
            // Lost if the queue is full: the answer is then thrown away when it comes.
            let _ = self.mux.out.try_send(Out::frame(Kind::Cancel, self.id, Bytes::new()));
        }
    }
}

async fn run(
    core: Arc<Core>,
    mux: Arc<Mux>,
    reader: FrameReader,
    writer: FrameWriter,
    mut outbox: mpsc::Receiver<Out>,
) {
    let mut ended = mux.ended.subscribe();
    {
        let ended = std::pin::pin!(ended.wait_for(|ended| *ended));
        let take = std::pin::pin!(take_all(&mux, reader));
        let send = std::pin::pin!(send_all(&core, writer, &mut outbox));
        if let Either::Right((Either::Left((Err(error), _)) | Either::Right((Err(error), _)), _)) =
            select(ended, select(take, send)).await
        {
            tracing::debug!(node = %mux.node, %error, "a control connection ended");
        }
    }
    mux.end();
}

async fn take_all(mux: &Mux, mut reader: FrameReader) -> Result<()> {
    loop {
        reader.rest();
        // Silence is noticed by the pings.
        let Some(frame) = reader.next().await? else { return Ok(()) };
        match frame.header.kind {
            Kind::Response | Kind::Error | Kind::Busy => mux.answered(&frame)?,
            Kind::Ping => _ = mux.out.send(Out::frame(Kind::Pong, 0, frame.payload)).await,
            Kind::Pong | Kind::Unknown(_) => {}
            other => return Err(Error::Protocol(format!("{other:?} came from who was asked"))),
        }
    }
}
