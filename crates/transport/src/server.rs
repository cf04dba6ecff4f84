//! The listening side: who may come in, and what becomes of them.
//!
//! Invariants:
//! 1. Nothing is said to a stranger: before a key is known for a member's or a guest's (or its holder for a
//!    ticket's) the only bytes that go out are TLS's own.
//! 2. Strangers are bounded in count and time. If there are too many, the one who has waited longest
//!    of those from the address that sent most gives way: a flood from a few addresses keeps
//!    nobody else out.
//! 3. A connection lives no longer than its key's membership.

pub(crate) mod control;
pub(crate) mod stream;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base::{Kind as Blame, NodeId, Wall};
use bytes::Bytes;
use crypt::PublicKey;
use futures_util::future::{Either, select};
use tokio::sync::{oneshot, watch};
use wire::frame::{Kind, millis};
use wire::greet::{self, Class, Hello, Instance, Intent, PROOF_BYTES, Refused, Side, Welcome};
use wire::{Certificate, Claim, Fault};

use crate::carrier::{Door, Knock};
use crate::endpoint::{Core, lock};
use crate::framed::{FrameReader, FrameWriter, Heard, split};
use crate::join::{Host, Joiner, TicketUse, answer_head};
use crate::service::{Caller, ServiceId};

/// Between two attempts to accept when the system has no more file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks whether a suspected twin answers.
const TWIN_LOOK: Duration = Duration::from_millis(50);

/// A connection that somebody else opened.
pub(crate) struct Inbound {
    pub(crate) node: NodeId,
    pub(crate) key: PublicKey,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) cut: watch::Sender<bool>,
    pub(crate) is_guest: bool,
    instance: Instance,
    heard: Heard,
    /// Asks a control connection's other end whether it lives.
    probe: Option<tokio::sync::mpsc::Sender<control::Out>>,
}

/// Takes connections until the endpoint is closed.
pub(crate) async fn accept(core: Arc<Core>, door: Box<dyn Door>) {
    let mut closed = core.closed.subscribe();
    let mut serial = 0;
    loop {
        let accepted = {
            let closed = std::pin::pin!(closed.wait_for(|closed| *closed));
            match select(closed, door.accept()).await {
                Either::Left(_) => return,
                Either::Right((accepted, _)) => accepted,
            }
        };
        match accepted {
            Ok(knock) => {
                serial += 1;
                let cancelled = take_place(&core, serial, knock.from().ip());
                core.env.spawn("node connection", meet(core.clone(), serial, knock, cancelled));
            }
            Err(error) => {
                // Out of file handles, most likely: those in use will come back.
                tracing::info!(%error, "failed to accept a node's connection");
                core.env.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A place among those that haven't greeted; one gives way if there is none.
fn take_place(core: &Core, serial: u64, from: IpAddr) -> oneshot::Receiver<()> {
    let (send, receive) = oneshot::channel();
    let mut greeting = lock(&core.greeting);
    if greeting.len() >= core.settings.greeting_max {
        // The newcomer counts too: at a tie it is the one who sends more that gives way.
        let mut counts = BTreeMap::from([(from, 1usize)]);
        for (address, _) in greeting.values() {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address);
        let first = greeting.iter().find(|(_, (address, _))| Some(*address) == most).map(|(serial, _)| *serial);
        match first {
            Some(first) => _ = greeting.remove(&first),
            None => _ = greeting.pop_first(),
        }
    }
    greeting.insert(serial, (from, send));
    receive
}

async fn meet(core: Arc<Core>, serial: u64, knock: Box<dyn Knock>, cancelled: oneshot::Receiver<()>) {
    let from = knock.from();
    let greeted = {
        let greeting = std::pin::pin!(core.env.timeout(core.settings.greeting, greet_in(&core, serial, knock)));
        match select(cancelled, greeting).await {
            Either::Left(_) => None,
            Either::Right((greeted, _)) => greeted.flatten(),
        }
    };
    lock(&core.greeting).remove(&serial);
    let Some(greeted) = greeted else {
        core.refused.fetch_add(1, Relaxed);
        tracing::debug!(%from, "a connection didn't greet as a member");
        return;
    };
    match greeted {
        Came::Joiner(joiner) => {
            let (joiner, reader, writer) = *joiner;
            let limit = core.settings.greeting + core.settings.stall;
            if core.env.timeout(limit, let_join(&core, joiner, reader, writer)).await.is_none() {
                tracing::info!(%from, "a machine that joins took too long");
            }
        }
        Came::Caller(member) => serve(&core, *member).await,
    }
}

/// Somebody who greeted well.
enum Came {
    /// A member, or a guest.
    Caller(Box<Member>),
    Joiner(Box<(Joiner, FrameReader, FrameWriter)>),
}

struct Member {
    caller: Caller,
    reader: FrameReader,
    writer: FrameWriter,
    cut: watch::Receiver<bool>,
    outbox: Option<tokio::sync::mpsc::Receiver<control::Out>>,
    sender: Option<tokio::sync::mpsc::Sender<control::Out>>,
    gone: Gone,
}

async fn serve(core: &Arc<Core>, member: Member) {
    let Member { caller, reader, writer, mut cut, outbox, sender, gone: _gone } = member;
    let cut = std::pin::pin!(cut.wait_for(|cut| *cut));
    match (outbox, sender) {
        (Some(outbox), Some(sender)) => {
            let work = std::pin::pin!(control::serve(core.clone(), caller, reader, writer, sender, outbox));
            select(cut, work).await;
        }
        _ => {
            let work = std::pin::pin!(stream::serve(core.clone(), caller, reader, writer));
            select(cut, work).await;
        }
    }
}

/// However a connection ends, even by a panic, it leaves the books.
struct Gone {
    core: Arc<Core>,
    serial: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        lock(&self.core.inbound).remove(&self.serial);
    }
}

/// Handshake and greeting. `None`: whoever it is was told nothing, or why not.
async fn greet_in(core: &Arc<Core>, serial: u64, knock: Box<dyn Knock>) -> Option<Came> {
    let from = knock.from();
    let secured = match knock.secure().await {
        Ok(secured) => secured,
        Err(error) => {
            tracing::debug!(%from, %error, "a handshake failed");
            return None;
        }
    };
    let heard = Heard::new(&core.env);
    let (mut reader, mut writer) = split(secured.stream, heard.clone());
    let hello = crate::greet::listen(&mut reader).await?;
    if let Intent::Join { claim, proof } = &hello.intent {
        let shown = Shown { claim, proof, binding: &secured.binding, key: secured.peer };
        admit_joiner(core, &hello, shown, &mut writer).await?;
        let joiner = Joiner { key: secured.peer, claim: *claim, address: from };
        return Some(Came::Joiner(Box::new((joiner, reader, writer))));
    }
    if let Intent::Guest(pass) = &hello.intent {
        let guest = admit_guest(core, serial, &hello, secured.peer, pass, heard, &mut writer).await;
        let (caller, gone, (cut, outbox, sender)) = guest?;
        return Some(Came::Caller(Box::new(Member { caller, reader, writer, cut, outbox, sender, gone })));
    }
    let Intent::Member(certificate) = &hello.intent else { return None };
    let node = match core.admit(&secured.peer, certificate.as_ref()) {
        Ok(node) => node,
        Err(refusal) => {
            tracing::info!(%from, key = %secured.peer, %refusal, "a node was told nothing");
            return None;
        }
    };
    core.heard_of(hello.epoch);
    let admitted = match greet::agree(&core.settings.versions, &hello.versions) {
        None => Err(Refused::Versions(core.settings.versions.clone())),
        Some(version) => match find_twin(core, node, hello.instance).await {
            true => Err(Refused::Twin),
            false => register(core, serial, node, secured.peer, &hello, heard).map(|registered| (version, registered)),
        },
    };
    let (version, (cut, outbox, sender)) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            tracing::info!(%from, %node, %refused, "a node was refused");
            refuse(&mut writer, &refused).await;
            return None;
        }
    };
    // From here on the books have it: whatever ends this future takes it out again.
    let gone = Gone { core: core.clone(), serial };
    // The list may have changed between the look at it and the entry.
    if core.admit(&secured.peer, certificate.as_ref()).is_err() {
        return None;
    }
    say_welcome(core, &mut writer, version, None).await?;
    let caller = Caller { node, version, class: hello.class, guest: None };
    Some(Came::Caller(Box::new(Member { caller, reader, writer, cut, outbox, sender, gone })))
}

/// Lets a guest in, if somebody here knows it: a stranger is told nothing.
async fn admit_guest(
    core: &Arc<Core>,
    serial: u64,
    hello: &Hello,
    key: PublicKey,
    pass: &[u8],
    heard: Heard,
    writer: &mut FrameWriter,
) -> Option<(Caller, Gone, Registered)> {
    if !core.guests.get()?.admits(&key, pass) {
        return None;
    }
    // Tells guests apart, no more: none is asked for anything by it.
    let node = wire::node_id(&key);
    let versions = &core.settings.versions;
    let admitted = match greet::agree(versions, &hello.versions) {
        None => Err(Refused::Versions(versions.clone())),
        Some(version) => register(core, serial, node, key, hello, heard).map(|registered| (version, registered)),
    };
    let (version, registered) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            refuse(writer, &refused).await;
            return None;
        }
    };
    let gone = Gone { core: core.clone(), serial };
    say_welcome(core, writer, version, None).await?;
    Some((Caller { node, version, class: hello.class, guest: Some(key) }, gone, registered))
}

async fn say_welcome(core: &Core, writer: &mut FrameWriter, version: u16, host: Option<greet::Host>) -> Option<()> {
    let welcome = Welcome { version, node: core.me(), instance: core.instance, epoch: core.epoch(), host };
    writer.push(Kind::Welcome, false, 0, [Bytes::from(welcome.encode())]);
    writer.flush().await.ok()
}

async fn refuse(writer: &mut FrameWriter, refused: &Refused) {
    writer.push(Kind::Refused, false, 0, [Bytes::from(refused.encode())]);
    // If it can't be sent, the peer has gone and needs no reason.
    let _ = writer.flush().await;
    writer.close().await;
}

type Registered = (
    watch::Receiver<bool>,
    Option<tokio::sync::mpsc::Receiver<control::Out>>,
    Option<tokio::sync::mpsc::Sender<control::Out>>,
);

/// Writes the connection into the books, if there is room.
fn register(
    core: &Core,
    serial: u64,
    node: NodeId,
    key: PublicKey,
    hello: &Hello,
    heard: Heard,
) -> Result<Registered, Refused> {
    let mut inbound = lock(&core.inbound);
    let is_guest = matches!(hello.intent, Intent::Guest(_));
    let of_one = inbound.values().filter(|other| other.node == node && other.is_guest == is_guest).count();
    let guests = inbound.values().filter(|other| other.is_guest).count();
    let is_full = inbound.len() >= core.settings.inbound_max || is_guest && guests >= core.settings.inbound_guests_max;
    if is_full || of_one >= core.settings.inbound_of_one_max {
        return Err(Refused::Busy(millis(core.settings.retry_after)));
    }
    let (cut, cut_seen) = watch::channel(*core.closed.borrow());
    let (sender, outbox) = match hello.class {
        Class::Control => {
            let (sender, outbox) = tokio::sync::mpsc::channel(control::OUT_MAX);
            (Some(sender), Some(outbox))
        }
        Class::Small | Class::Bulk => (None, None),
    };
    let certificate = match &hello.intent {
        Intent::Member(certificate) => certificate.clone(),
        Intent::Join { .. } | Intent::Guest(_) => None,
    };
    let (instance, probe) = (hello.instance, sender.clone());
    inbound.insert(serial, Inbound { node, key, certificate, cut, is_guest, instance, heard, probe });
    Ok((cut_seen, outbox, sender))
}

/// Whether another process with this node's identity is connected and alive. If it isn't alive
/// its connections are cut: it was this node before it started anew.
async fn find_twin(core: &Core, node: NodeId, instance: Instance) -> bool {
    let asked = core.env.clock.now();
    let mut probed = false;
    let is_twin = |other: &&Inbound| other.node == node && other.instance != instance && !other.is_guest;
    for other in lock(&core.inbound).values().filter(is_twin) {
        match &other.probe {
            // A full queue is no sign of death; the other side answers what is in it.
            Some(probe) => {
                let _ = probe.try_send(control::Out::frame(Kind::Ping, 0, Bytes::new()));
                probed = true;
            }
            None => _ = other.cut.send_replace(true),
        }
    }
    while probed {
        core.env.clock.sleep(TWIN_LOOK).await;
        let over = core.env.clock.now().since(asked) >= core.settings.silence;
        let inbound = lock(&core.inbound);
        let mut others = inbound.values().filter(is_twin).peekable();
        if others.peek().is_none() {
            return false;
        }
        for other in others {
            if other.heard.last() > asked {
                tracing::error!(%node, "two processes use one node's key: stop one, or join one with a new ticket");
                return true;
            }
            if over {
                other.cut.send_replace(true);
            }
        }
        probed = !over;
    }
    false
}

/// What a joiner shows.
struct Shown<'a> {
    claim: &'a Claim,
    proof: &'a [u8; PROOF_BYTES],
    binding: &'a [u8; 32],
    key: PublicKey,
}

async fn admit_joiner(core: &Core, hello: &Hello, shown: Shown<'_>, writer: &mut FrameWriter) -> Option<()> {
    let host = core.host.as_ref()?;
    let secret = host.secret(shown.claim)?;
    let (ours, certificate) = {
        let identity = lock(&core.identity);
        (identity.key.public(), identity.certificate.clone())
    };
    let wanted = greet::proof(&secret, Side::Dialler, shown.binding, &shown.key, &ours);
    if !greet::same_proof(&wanted, shown.proof) {
        tracing::info!("a machine with a wrong ticket was told nothing");
        return None;
    }
    // It has a ticket of ours: from here on it may hear what is wrong.
    let checked = check_ticket(core, host.as_ref(), hello, &shown, certificate).await;
    let (version, certificate) = match checked {
        Ok(checked) => checked,
        Err(refused) => {
            tracing::info!(%refused, "a machine can't join");
            refuse(writer, &refused).await;
            return None;
        }
    };
    let proof = greet::proof(&secret, Side::Listener, shown.binding, &shown.key, &ours);
    say_welcome(core, writer, version, Some(greet::Host { root: host.root(), certificate, proof })).await
}

async fn check_ticket(
    core: &Core,
    host: &dyn Host,
    hello: &Hello,
    shown: &Shown<'_>,
    certificate: Option<Certificate>,
) -> Result<(u16, Certificate), Refused> {
    let versions = &core.settings.versions;
    let version = greet::agree(versions, &hello.versions).ok_or_else(|| Refused::Versions(versions.clone()))?;
    let cluster = core.trust.borrow().cluster();
    let used = host.ticket_use(shown.claim, &shown.key).await.map_err(|_| Refused::NoHost)?;
    // Who joined with it in time may ask again later.
    let now = if used == TicketUse::Same { Wall(0) } else { core.env.clock.wall() };
    shown.claim.check(cluster, now, used == TicketUse::Other).map_err(Refused::Ticket)?;
    Ok((version, certificate.ok_or(Refused::NoHost)?))
}

/// One question, one answer.
async fn let_join(core: &Core, joiner: Joiner, mut reader: FrameReader, mut writer: FrameWriter) {
    let Some(host) = &core.host else { return };
    let Ok(Some(frame)) = reader.next().await else { return };
    if frame.header.kind != Kind::Request || frame.header.more {
        return;
    }
    let Ok((_, at)) = wire::frame::RequestHead::decode(&frame.payload) else { return };
    match host.join(joiner, frame.payload.slice(at..)).await {
        Ok(answer) if answer.len() <= wire::frame::INLINE_BYTES_MAX => {
            tracing::info!(key = %joiner.key, from = %joiner.address, "a machine joined");
            writer.push(Kind::Response, false, frame.header.call, [answer_head(), answer]);
        }
        Ok(_) => push_fault(&mut writer, frame.header.call, &Fault::new(Blame::Bug, "the answer is too long")),
        Err(fault) => push_fault(&mut writer, frame.header.call, &fault),
    }
    if writer.flush().await.is_ok() {
        writer.close().await;
    }
}

fn push_fault(writer: &mut FrameWriter, call: u32, fault: &Fault) {
    let (kind, payload) = fault_frame(fault);
    writer.push(kind, false, call, [payload]);
}

/// The frame of a failed call.
fn fault_frame(fault: &Fault) -> (Kind, Bytes) {
    (Kind::Error, Bytes::from(fault.encode()))
}

/// The frame of a call that comes at a bad time.
fn busy_frame(core: &Core) -> (Kind, Bytes) {
    core.busy.fetch_add(1, Relaxed);
    (Kind::Busy, Bytes::copy_from_slice(&millis(core.settings.retry_after).to_le_bytes()))
}

/// What is said of a service that isn't there.
pub(crate) fn no_service(service: ServiceId) -> Fault {
    Fault::new(Blame::Missing, format!("this node has no service {}: its release may be another one", service.0))
}

/// What is said when a call's time is over.
fn overdue() -> Fault {
    Fault::new(Blame::Unreachable, "the call took longer than its caller waits")
}
