//! Control connections: many small calls at a time, each whole in one frame both ways.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Kind as Blame;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::{mpsc, oneshot};
use wire::Fault;
use wire::frame::{INLINE_BYTES_MAX, Kind, RequestHead, ResponseHead};

use super::{busy_frame, fault_frame, no_service, overdue};
use crate::body::Body;
use crate::endpoint::{Core, lock};
use crate::error::Result;
use crate::framed::{Frame, FrameReader, FrameWriter};
use crate::service::{Caller, Request, Response, ServiceId};

/// Frames that wait to be sent; beyond them whoever wants to send waits.
pub(crate) const OUT_MAX: usize = 256;
/// Bytes that are gathered for one flush.
const GATHER_BYTES_MAX: usize = 256 << 10;

/// A frame to be sent.
pub(crate) struct Out {
    kind: Kind,
    call: u32,
    parts: Vec<Bytes>,
}

impl Out {
    pub(crate) fn frame(kind: Kind, call: u32, payload: Bytes) -> Out {
        Out { kind, call, parts: vec![payload] }
    }

    pub(crate) fn parts(kind: Kind, call: u32, parts: Vec<Bytes>) -> Out {
        Out { kind, call, parts }
    }
}

/// Sends what comes, as much at once as is there. Ends when nobody can send any more, or with the
/// connection.
pub(crate) async fn send_all(core: &Core, mut writer: FrameWriter, outbox: &mut mpsc::Receiver<Out>) -> Result<()> {
    while let Some(out) = outbox.recv().await {
        writer.push(out.kind, false, out.call, out.parts);
        while writer.queued() < GATHER_BYTES_MAX
            && let Ok(out) = outbox.try_recv()
        {
            writer.push(out.kind, false, out.call, out.parts);
        }
        writer.flush_within(&core.env, core.settings.stall).await?;
    }
    Ok(())
}

/// Calls under way; dropping an entry ends the call.
type Calls = Arc<Mutex<BTreeMap<u32, oneshot::Sender<()>>>>;

/// Serves until either side closes.
pub(super) async fn serve(
    core: Arc<Core>,
    caller: Caller,
    reader: FrameReader,
    writer: FrameWriter,
    sender: mpsc::Sender<Out>,
    mut outbox: mpsc::Receiver<Out>,
) {
    let calls = Hangup(Calls::default());
    let ended = {
        let take = std::pin::pin!(take_all(&core, caller, reader, sender, &calls.0));
        let send = std::pin::pin!(send_all(&core, writer, &mut outbox));
        match select(take, send).await {
            Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(node = %caller.node, %error, "a control connection ended");
    }
}

/// Ends all calls of a connection with it.
struct Hangup(Calls);

impl Drop for Hangup {
    fn drop(&mut self) {
        lock(&self.0).clear();
    }
}

async fn take_all(
    core: &Arc<Core>,
    caller: Caller,
    mut reader: FrameReader,
    sender: mpsc::Sender<Out>,
    calls: &Calls,
) -> Result<()> {
    loop {
        reader.rest();
        // Who dialled pings an idle connection far more often than this.
        let Some(frame) = core.env.timeout(core.settings.idle, reader.next()).await else { return Ok(()) };
        let Some(frame) = frame? else { return Ok(()) };
        match frame.header.kind {
            Kind::Request => {
                if let Some(out) = begin(core, caller, frame, &sender, calls)? {
                    send(&sender, out).await;
                }
            }
            Kind::Cancel => _ = lock(calls).remove(&frame.header.call),
            Kind::Ping => send(&sender, Out::frame(Kind::Pong, 0, frame.payload)).await,
            // What was heard is noted by the reader; that is all a pong is for.
            Kind::Pong | Kind::Unknown(_) => {}
            other => return Err(crate::error::Error::Protocol(format!("{other:?} on a control connection"))),
        }
    }
}

async fn send(sender: &mpsc::Sender<Out>, out: Out) {
    // Fails only when the connection has ended, which its other half says better.
    let _ = sender.send(out).await;
}

/// Begins a call; gives what is to be said at once.
fn begin(
    core: &Arc<Core>,
    caller: Caller,
    frame: Frame,
    sender: &mpsc::Sender<Out>,
    calls: &Calls,
) -> Result<Option<Out>> {
    let call = frame.header.call;
    if frame.header.more {
        return Err(crate::error::Error::Protocol("a body that isn't whole on a control connection".into()));
    }
    let (head, at) = RequestHead::decode(&frame.payload)?;
    let service = ServiceId(head.service);
    let deadline = (head.deadline_ms > 0).then(|| Duration::from_millis(head.deadline_ms.into()));
    let head_at = at - head.head.len();
    let request = Request { head: frame.payload.slice(head_at..at), body: Body::from(frame.payload.slice(at..)) };
    let permit = {
        let mut calls = lock(calls);
        match core.control_calls.clone().try_acquire_owned() {
            Ok(permit) if calls.len() < core.settings.control_calls_of_one_max => {
                let (hold, held) = oneshot::channel();
                if calls.insert(call, hold).is_some() {
                    return Err(crate::error::Error::Protocol("two calls with one number".into()));
                }
                Some((permit, held))
            }
            _ => None,
        }
    };
    let Some((permit, mut held)) = permit else {
        let (kind, payload) = busy_frame(core);
        return Ok(Some(Out::frame(kind, call, payload)));
    };
    let (task_core, task_calls, task_sender) = (core.clone(), calls.clone(), sender.clone());
    let mut work = Box::pin(async move {
        let answer = answer(&task_core, caller, service, deadline, request).await;
        drop(permit);
        answer.into_out(call)
    });
    // Most answers are at hand: a task for each would cost more than the answer.
    if let Some(out) = work.as_mut().now_or_never() {
        lock(calls).remove(&call);
        return Ok(Some(out));
    }
    core.env.spawn("call", async move {
        if let Either::Right((out, _)) = select(&mut held, work).await {
            // Not there any more: cancelled, or the connection has ended.
            if lock(&task_calls).remove(&call).is_some() {
                send(&task_sender, out).await;
            }
        }
    });
    Ok(None)
}

/// What a call came to.
enum Answer {
    Done(Vec<Bytes>),
    Failed(Fault),
}

impl Answer {
    fn into_out(self, call: u32) -> Out {
        match self {
            Answer::Done(parts) => Out::parts(Kind::Response, call, parts),
            Answer::Failed(fault) => {
                let (kind, payload) = fault_frame(&fault);
                Out::frame(kind, call, payload)
            }
        }
    }
}

async fn answer(
    core: &Core,
    caller: Caller,
    service: ServiceId,
    deadline: Option<Duration>,
    request: Request,
) -> Answer {
    let Some(endpoint) = core.services_for(&caller).get(&service) else { return Answer::Failed(no_service(service)) };
    let work = async {
        let Response { head, mut body } = endpoint.handle(caller, request).await?;
        let parts = body.gather(INLINE_BYTES_MAX).await;
        let parts =
            parts.map_err(|error| Fault::new(Blame::Bug, format!("answer on a control connection: {error}")))?;
        Ok((head, parts))
    };
    let done: std::result::Result<_, Fault> = match deadline {
        Some(limit) => core.env.timeout(limit, work).await.unwrap_or_else(|| Err(overdue())),
        None => work.await,
    };
    match done {
        Ok((head, mut parts)) if head.len() <= wire::frame::HEAD_BYTES_MAX => {
            let body_len = parts.iter().map(|part| part.len() as u64).sum();
            parts.insert(0, ResponseHead { body_len, head: &head }.encode().into());
            Answer::Done(parts)
        }
        Ok(_) => Answer::Failed(Fault::new(Blame::Bug, "the answer's head is too long")),
        Err(fault) => Answer::Failed(fault),
    }
}
