//! Small and bulk connections: one call at a time, bodies of any length both ways.
//!
//! While a call is answered somebody must listen to its caller, who may hang up: the reading half
//! is with the request's body until that has ended (or was dropped), then with the watch.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Kind as Blame;
use bytes::Bytes;
use env::BoxFuture;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::Notify;
use wire::Fault;
use wire::frame::{DATA_BYTES_MAX, HEAD_BYTES_MAX, Kind, LEN_UNKNOWN, RequestHead, ResponseHead};

use super::{busy_frame, fault_frame, no_service, overdue};
use crate::body::{Body, BodySource, Count};
use crate::endpoint::{Core, lock};
use crate::error::{Error, Result};
use crate::framed::{Frame, FrameReader, FrameWriter};
use crate::service::{Caller, Request, Response, ServiceId};

/// Bytes of a body that go out with its head.
pub(crate) const INLINE_STREAM_MAX: usize = 256 << 10;
/// Bytes of a body that nobody wants which are skipped in order to keep the connection.
const SKIP_BYTES_MAX: u64 = 8 << 20;

/// Serves one call after the other until either side closes.
pub(super) async fn serve(core: Arc<Core>, caller: Caller, reader: FrameReader, mut writer: FrameWriter) {
    let mut reader = Some(reader);
    while let Some(mut listening) = reader.take() {
        listening.rest();
        let frame = match core.env.timeout(core.settings.idle, listening.next()).await {
            Some(Ok(Some(frame))) => frame,
            Some(Err(error)) => {
                tracing::debug!(node = %caller.node, %error, "a connection ended");
                return;
            }
            Some(Ok(None)) | None => return,
        };
        reader = match frame.header.kind {
            Kind::Request => match answer_one(&core, caller, frame, listening, &mut writer).await {
                Ok(reader) => reader,
                Err(error) => {
                    tracing::debug!(node = %caller.node, %error, "a call ended its connection");
                    return;
                }
            },
            // A cancellation that crossed the end of its call.
            Kind::Cancel | Kind::Pong | Kind::Unknown(_) => Some(listening),
            _ => return,
        };
    }
}

/// The reading half, with whom it is.
#[derive(Default)]
struct Turn {
    /// Back from the body, and whether the body had ended.
    reader: Mutex<Option<(FrameReader, bool)>>,
    back: Notify,
}

impl Turn {
    fn give(&self, reader: FrameReader, ended: bool) {
        *lock(&self.reader) = Some((reader, ended));
        self.back.notify_one();
    }

    async fn take(&self) -> (FrameReader, bool) {
        loop {
            if let Some(back) = lock(&self.reader).take() {
                return back;
            }
            self.back.notified().await;
        }
    }
}

/// How a call's listening ended.
enum Heard {
    Cancelled,
    Gone,
}

/// Answers one call; gives the reading half back if the connection can go on.
async fn answer_one(
    core: &Arc<Core>,
    caller: Caller,
    frame: Frame,
    reader: FrameReader,
    writer: &mut FrameWriter,
) -> Result<Option<FrameReader>> {
    let call = frame.header.call;
    let turn = Arc::new(Turn::default());
    let (service, deadline, request) = take_request(core, frame, reader, &turn)?;
    let mut held: Option<(FrameReader, bool)> = None;
    let heard = {
        let answer = std::pin::pin!(answer(core, caller, service, deadline, request, call, writer));
        let listen = std::pin::pin!(listen(&turn, &mut held, call));
        match select(answer, listen).await {
            Either::Left((sent, _)) => {
                sent?;
                None
            }
            Either::Right((heard, _)) => Some(heard),
        }
    };
    match heard {
        Some(Heard::Gone) => return Ok(None),
        Some(Heard::Cancelled) => {
            let fault = Fault::new(Blame::Unreachable, "the call was cancelled");
            let (kind, payload) = fault_frame(&fault);
            writer.push(kind, false, call, [payload]);
            writer.flush_within(&core.env, core.settings.stall).await?;
        }
        None => {}
    }
    // A service that keeps the body beyond its answer keeps the connection with it.
    let Some((mut reader, ended)) = held.or_else(|| lock(&turn.reader).take()) else { return Ok(None) };
    if !ended && !matches!(heard, Some(Heard::Cancelled)) {
        let skipped = core.env.timeout(core.settings.stall, skip(&mut reader)).await;
        return Ok(skipped.is_some_and(|whole| whole).then_some(reader));
    }
    Ok(Some(reader))
}

fn take_request(
    core: &Arc<Core>,
    frame: Frame,
    reader: FrameReader,
    turn: &Arc<Turn>,
) -> Result<(ServiceId, Option<Duration>, Request)> {
    let (head, at) = RequestHead::decode(&frame.payload)?;
    let service = ServiceId(head.service);
    let deadline = (head.deadline_ms > 0).then(|| Duration::from_millis(head.deadline_ms.into()));
    let head_at = at - head.head.len();
    let len = (head.body_len != LEN_UNKNOWN).then_some(head.body_len);
    let first = frame.payload.slice(at..);
    let body = if frame.header.more {
        let incoming = Incoming {
            core: core.clone(),
            reader: Some(reader),
            turn: turn.clone(),
            count: Count::new(len, first.len()),
        };
        Body::stream_after(len, first, incoming)
    } else {
        turn.give(reader, true);
        Body::from(first)
    };
    Ok((service, deadline, Request { head: frame.payload.slice(head_at..at), body }))
}

/// Listens to the caller once the body is done with.
async fn listen(turn: &Turn, held: &mut Option<(FrameReader, bool)>, call: u32) -> Heard {
    let (reader, ended) = held.insert(turn.take().await);
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => return Heard::Gone,
        };
        match frame.header.kind {
            Kind::Cancel if frame.header.call == call => {
                *ended = true;
                return Heard::Cancelled;
            }
            Kind::Data if !*ended => {}
            Kind::End | Kind::Error if !*ended => *ended = true,
            Kind::Cancel | Kind::Pong | Kind::Unknown(_) => {}
            // One call at a time.
            _ => return Heard::Gone,
        }
    }
}

/// Skips the rest of a body that nobody read; false if it is too long or the peer has gone.
async fn skip(reader: &mut FrameReader) -> bool {
    let mut skipped = 0;
    while let Ok(Some(frame)) = reader.next().await {
        match frame.header.kind {
            Kind::Data => skipped += u64::from(frame.header.len),
            Kind::End | Kind::Error | Kind::Cancel => return true,
            Kind::Pong | Kind::Unknown(_) => {}
            _ => return false,
        }
        if skipped > SKIP_BYTES_MAX {
            return false;
        }
    }
    false
}

/// A request's body as it comes.
struct Incoming {
    core: Arc<Core>,
    reader: Option<FrameReader>,
    turn: Arc<Turn>,
    count: Count,
}

impl Incoming {
    fn end(&mut self, ended: bool) {
        if let Some(reader) = self.reader.take() {
            self.turn.give(reader, ended);
        }
    }

    async fn read(&mut self) -> Option<Result<Bytes>> {
        loop {
            let reader = self.reader.as_mut()?;
            let stall = self.core.settings.stall;
            // What is at hand needs no timer.
            let next = match reader.next().now_or_never() {
                Some(next) => Some(next),
                None => self.core.env.timeout(stall, reader.next()).await,
            };
            let frame = match next {
                Some(Ok(Some(frame))) => frame,
                Some(Ok(None)) => return self.fail(Error::Cut { why: "the caller went away".into() }),
                Some(Err(error)) => return self.fail(error),
                None => {
                    return self.fail(Error::Cut { why: format!("nothing came for {} ms", stall.as_millis()) });
                }
            };
            match frame.header.kind {
                Kind::Data => {
                    return match self.count.add(frame.payload.len()) {
                        Ok(()) => Some(Ok(frame.payload)),
                        Err(error) => self.fail(error),
                    };
                }
                Kind::End => {
                    self.end(true);
                    return self.count.end().err().map(Err);
                }
                Kind::Error | Kind::Cancel => {
                    self.end(true);
                    return Some(Err(Error::Cut { why: "the caller gave up".into() }));
                }
                Kind::Pong | Kind::Unknown(_) => {}
                other => return self.fail(Error::Protocol(format!("{other:?} within a body"))),
            }
        }
    }

    /// The stream makes no sense from here on: it is dropped, and the connection with it.
    fn fail(&mut self, error: Error) -> Option<Result<Bytes>> {
        self.reader = None;
        Some(Err(error))
    }
}

impl BodySource for Incoming {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes>>> {
        Box::pin(self.read())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.end(false);
    }
}

async fn answer(
    core: &Core,
    caller: Caller,
    service: ServiceId,
    deadline: Option<Duration>,
    request: Request,
    call: u32,
    writer: &mut FrameWriter,
) -> Result<()> {
    let Ok(_permit) = core.calls.try_acquire() else {
        drop(request);
        let (kind, payload) = busy_frame(core);
        writer.push(kind, false, call, [payload]);
        return writer.flush_within(&core.env, core.settings.stall).await;
    };
    let Some(endpoint) = core.services_for(&caller).get(&service) else {
        drop(request);
        return fail(core, writer, call, &no_service(service)).await;
    };
    let work = endpoint.handle(caller, request);
    let done = match deadline {
        Some(limit) => core.env.timeout(limit, work).await.unwrap_or_else(|| Err(overdue())),
        None => work.await,
    };
    match done {
        Ok(response) if response.head.len() <= HEAD_BYTES_MAX => respond(core, writer, call, response).await,
        Ok(_) => fail(core, writer, call, &Fault::new(Blame::Bug, "the answer's head is too long")).await,
        Err(fault) => fail(core, writer, call, &fault).await,
    }
}

async fn fail(core: &Core, writer: &mut FrameWriter, call: u32, fault: &Fault) -> Result<()> {
    let (kind, payload) = fault_frame(fault);
    writer.push(kind, false, call, [payload]);
    writer.flush_within(&core.env, core.settings.stall).await
}

async fn respond(core: &Core, writer: &mut FrameWriter, call: u32, response: Response) -> Result<()> {
    let Response { head, mut body } = response;
    let body_len = body.len().unwrap_or(LEN_UNKNOWN);
    let head = Bytes::from(ResponseHead { body_len, head: &head }.encode());
    if let Some(mut parts) = body.take_inline(INLINE_STREAM_MAX) {
        parts.insert(0, head);
        writer.push(Kind::Response, false, call, parts);
        return writer.flush_within(&core.env, core.settings.stall).await;
    }
    writer.push(Kind::Response, true, call, [head]);
    match send_body(core, writer, call, &mut body).await? {
        Ok(()) => writer.push(Kind::End, false, call, []),
        Err(error) => {
            let kind = base::Kinded::kind(&error);
            let (kind, payload) = fault_frame(&Fault::new(kind, error.to_string()));
            writer.push(kind, false, call, [payload]);
        }
    }
    writer.flush_within(&core.env, core.settings.stall).await
}

/// Sends a body's data; the inner error is the body's own.
pub(crate) async fn send_body(core: &Core, writer: &mut FrameWriter, call: u32, body: &mut Body) -> Result<Result<()>> {
    let (len, mut sent) = (body.len(), 0);
    while let Some(part) = body.next().await {
        let mut part = match part {
            Ok(part) => part,
            Err(error) => return Ok(Err(error)),
        };
        sent += part.len() as u64;
        while !part.is_empty() {
            let now = part.split_to(part.len().min(DATA_BYTES_MAX));
            writer.push(Kind::Data, false, call, [now]);
            writer.flush_within(&core.env, core.settings.stall).await?;
        }
    }
    match len {
        Some(len) if len != sent => Ok(Err(Error::Protocol(format!("a body of {len} bytes ended after {sent}")))),
        _ => Ok(Ok(())),
    }
}
