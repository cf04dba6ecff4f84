//! How a machine that has nothing but a ticket becomes a member.
//!
//! It dials the ticket's addresses, taking whatever key answers, and proves that it has the
//! ticket's secret without saying it. The node there, if satisfied, proves the same and shows its
//! own certificate with the root key whose hash the ticket holds. Only then anything is said.

use std::net::SocketAddr;
use std::sync::Arc;

use base::Epoch;
use bytes::Bytes;
use crypt::PublicKey;
use env::{BoxFuture, Env};
use wire::frame::{INLINE_BYTES_MAX, Kind, LEN_UNKNOWN, RequestHead, ResponseHead};
use wire::greet::{self, Class, Instance, Intent, Refused, Side};
use wire::{Certificate, Claim, Fault, Ticket};

use crate::carrier::{Carrier, Target};
use crate::error::{Error, Result};
use crate::framed::{FrameReader, Heard};
use crate::greet::{Greeted, Introduction, introduce};
use crate::settings::Settings;

/// Somebody with a good ticket.
#[derive(Clone, Copy, Debug)]
pub struct Joiner {
    /// The key to be signed in.
    pub key: PublicKey,
    /// The ticket's claim; it was checked.
    pub claim: Claim,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// What became of a ticket so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketUse {
    /// Nobody has joined with it.
    Fresh,
    /// This very key has: its answer may have been lost, so it may ask again, even after the ticket
    /// expired.
    Same,
    /// Another key has.
    Other,
}

/// What lets machines join: a node that has the root key at hand.
pub trait Host: Send + Sync + 'static {
    /// The secret that a ticket of this claim has ([`Claim::secret`]); `None` if this node can't
    /// know.
    fn secret(&self, claim: &Claim) -> Option<[u8; 16]>;
    /// The cluster's root key.
    fn root(&self) -> PublicKey;
    /// Who, if anybody, has joined with the ticket that `key` shows.
    fn ticket_use(&self, claim: &Claim, key: &PublicKey) -> BoxFuture<'_, std::result::Result<TicketUse, Fault>>;
    /// Signs the joiner in: marks the ticket as used durably, then answers whatever a new member
    /// needs (its certificate, the member list, …). The same key asking again with the same ticket
    /// should get the same answer: the first one may have been lost on its way.
    fn join(&self, joiner: Joiner, ask: Bytes) -> BoxFuture<'_, std::result::Result<Bytes, Fault>>;
}

/// What a new member was told.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The host's answer.
    pub answer: Bytes,
    /// The cluster's root key; it is the ticket's.
    pub root: PublicKey,
    /// The host's certificate.
    pub host: Certificate,
    /// Where the host was found.
    pub address: SocketAddr,
}

/// Joins with a ticket: `key` is what `carrier` shows, `ask` goes to [`Host::join`].
pub async fn join(
    env: &Env,
    settings: &Settings,
    carrier: &Arc<dyn Carrier>,
    key: PublicKey,
    ticket: &Ticket,
    ask: Bytes,
) -> Result<Joining> {
    let mut why = Vec::new();
    for address in &ticket.addresses {
        let attempt = join_at(env, settings, carrier, key, ticket, ask.clone(), *address);
        let limit = settings.greeting * 2 + settings.stall;
        match env.timeout(limit, attempt).await {
            Some(Ok(joining)) => return Ok(joining),
            // No other node will say anything else.
            Some(Err(Error::Refused { reason: Refused::Ticket(error), .. })) => return Err(error.into()),
            Some(Err(Error::Remote(fault))) if is_final(fault.kind) => return Err(fault.into()),
            Some(Err(error)) => why.push(format!("{address}: {error}")),
            None => why.push(format!("{address}: no answer in {} s", limit.as_secs())),
        }
    }
    match why.is_empty() {
        true => Err(Error::Join("the ticket has no address: make one on a node that others can reach".into())),
        false => Err(Error::Join(format!("none of the ticket's addresses let this machine in ({})", why.join("; ")))),
    }
}

/// Whether a host's reason is about the machine that joins, and not about the host.
fn is_final(kind: base::Kind) -> bool {
    use base::Kind::{Conflict, Denied, Exists, Invalid, Missing};
    matches!(kind, Denied | Invalid | Exists | Conflict | Missing)
}

async fn join_at(
    env: &Env,
    settings: &Settings,
    carrier: &Arc<dyn Carrier>,
    key: PublicKey,
    ticket: &Ticket,
    ask: Bytes,
    address: SocketAddr,
) -> Result<Joining> {
    let target = Target { node: None, keys: Vec::new(), addresses: vec![address] };
    let secured = carrier.dial(&target, Class::Control).await?;
    let (listener, binding) = (secured.peer, secured.binding);
    let ours = greet::proof(ticket.secret(), Side::Dialler, &binding, &key, &listener);
    let introduction = Introduction {
        versions: settings.versions.clone(),
        class: Class::Control,
        instance: Instance(env.random()),
        epoch: Epoch(0),
        intent: Intent::Join { claim: ticket.claim, proof: ours },
    };
    let greeted = introduce(secured, Heard::new(env), introduction, None).await?;
    let Some(host) = &greeted.welcome.host else {
        return Err(Error::Protocol("a node lets this machine in without showing itself".into()));
    };
    let theirs = greet::proof(ticket.secret(), Side::Listener, &binding, &key, &listener);
    if Ticket::root_hash_of(&host.root) != ticket.root_hash || !greet::same_proof(&host.proof, &theirs) {
        return Err(Error::Protocol("the node there isn't of the ticket's cluster".into()));
    }
    host.certificate.verify(&host.root, ticket.claim.cluster)?;
    if host.certificate.key != listener {
        return Err(Error::Protocol("the node there shows another node's certificate".into()));
    }
    let (root, certificate) = (host.root, host.certificate.clone());
    let answer = ask_once(greeted, ask).await?;
    Ok(Joining { answer, root, host: certificate, address })
}

async fn ask_once(greeted: Greeted, ask: Bytes) -> Result<Bytes> {
    let Greeted { mut reader, mut writer, .. } = greeted;
    if ask.len() > INLINE_BYTES_MAX {
        let (len, max) = (ask.len() as u64, INLINE_BYTES_MAX as u64);
        return Err(Error::TooLong { what: "the question of a new member", len, max });
    }
    let head = RequestHead { service: 0, deadline_ms: 0, body_len: ask.len() as u64, head: b"" }.encode();
    writer.push(Kind::Request, false, 1, [head.into(), ask]);
    writer.flush().await?;
    answer_of(&mut reader).await
}

async fn answer_of(reader: &mut FrameReader) -> Result<Bytes> {
    while let Some(frame) = reader.next().await? {
        match frame.header.kind {
            Kind::Response => {
                let (_, at) = ResponseHead::decode(&frame.payload)?;
                return Ok(frame.payload.slice(at..));
            }
            Kind::Error => return Err(Fault::decode(&frame.payload)?.into()),
            Kind::Unknown(_) | Kind::Ping => {}
            other => return Err(Error::Protocol(format!("{other:?} came instead of an answer"))),
        }
    }
    Err(Error::Cut { why: "the node closed before it answered".into() })
}

/// The bytes before an answer of unknown length to a joiner.
pub(crate) fn answer_head() -> Bytes {
    ResponseHead { body_len: LEN_UNKNOWN, head: b"" }.encode().into()
}
