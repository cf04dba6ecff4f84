//! What two nodes say first. These layouts are older than any version that they agree on, so they
//! never change; a later release appends fields, which this one skips.
//!
//! The dialling side speaks first and shows itself; the other one answers only if it is satisfied:
//! [`Welcome`], or [`Refused`] where the peer is known to belong here.

use std::ops::RangeInclusive;

use base::{Epoch, NodeId};
use codec::{Error, Reader, Versioned, Writer};
use crypt::PublicKey;

use crate::{Certificate, Claim};

/// Versions of the protocol that this release speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;
/// Bytes of any greeting at the most; unknown fields of later releases fit too.
pub const GREETING_BYTES_MAX: u32 = 4096;
const CERTIFICATE_BYTES_MAX: usize = 512;
/// Bytes of what a guest shows at the most.
pub const PASS_BYTES_MAX: usize = 3072;
/// Bytes of a [`proof`].
pub const PROOF_BYTES: usize = 32;

/// One run of one process: tells a restarted node from a second one with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance(pub [u8; 16]);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Many small calls at once, each in one frame: metadata, consensus, liveness.
    Control,
    /// One call at a time, bodies of up to about a cell.
    Small,
    /// One call at a time, long bodies.
    Bulk,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 3] = [Class::Control, Class::Small, Class::Bulk];

    fn code(self) -> u8 {
        match self {
            Class::Control => 0,
            Class::Small => 1,
            Class::Bulk => 2,
        }
    }
}

/// As what the dialling side comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// As a member; the certificate for those who haven't heard of it yet.
    Member(Option<Certificate>),
    /// To join with a ticket.
    Join {
        /// What the ticket says.
        claim: Claim,
        /// That the ticket's secret is at hand; see [`proof`].
        proof: [u8; PROOF_BYTES],
    },
    /// As a guest: no member, but the owner of something that may be here, by the key that the connection
    /// shows, or somebody whom an owner sent with this pass.
    Guest(Vec<u8>),
}

/// The dialling side's first words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol versions it speaks.
    pub versions: RangeInclusive<u16>,
    /// What the connection is for.
    pub class: Class,
    /// This run of it.
    pub instance: Instance,
    /// The epoch of its member list.
    pub epoch: Epoch,
    /// As what it comes.
    pub intent: Intent,
}

fn mark(from: &mut Reader<'_>, what: &'static str, wanted: [u8; 4]) -> Result<(), Error> {
    match from.array(what)? {
        found if found == wanted => Ok(()),
        found => Err(Error::Mark { what, found, wanted }),
    }
}

fn versions(from: &mut Reader<'_>) -> Result<RangeInclusive<u16>, Error> {
    let (min, max) = (from.u16("oldest version")?, from.u16("newest version")?);
    match min <= max {
        true => Ok(min..=max),
        false => Err(Error::Value { what: "newest version", value: max.into() }),
    }
}

fn certificate(from: &mut Reader<'_>) -> Result<Option<Certificate>, Error> {
    from.option("certificate", |from| Certificate::decode(from.bytes("certificate", CERTIFICATE_BYTES_MAX)?))
}

fn write_certificate(to: &mut Writer, certificate: Option<&Certificate>) {
    to.option(certificate, |to, certificate| {
        to.bytes(&certificate.encode());
    });
}

impl Hello {
    const MARK: [u8; 4] = *b"AbHi";

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.raw(&Self::MARK).u16(*self.versions.start()).u16(*self.versions.end()).u8(self.class.code());
        to.raw(&self.instance.0).u64(self.epoch.0);
        match &self.intent {
            Intent::Member(certificate) => write_certificate(to.u8(0), certificate.as_ref()),
            Intent::Join { claim, proof } => _ = to.u8(1).raw(&claim.to_bytes()).raw(proof),
            Intent::Guest(pass) => _ = to.u8(2).bytes(pass),
        }
        to.finish()
    }

    /// Reads them; what a later release appended is skipped.
    pub fn decode(bytes: &[u8]) -> Result<Hello, Error> {
        let mut from = Reader::new(bytes);
        mark(&mut from, "hello", Self::MARK)?;
        let versions = versions(&mut from)?;
        let class = from.u8("class")?;
        let class = Class::ALL.into_iter().find(|one| one.code() == class);
        let class = class.ok_or(Error::Value { what: "class", value: bytes[8].into() })?;
        let instance = Instance(from.array("instance")?);
        let epoch = Epoch(from.u64("epoch")?);
        let intent = match from.u8("intent")? {
            0 => Intent::Member(certificate(&mut from)?),
            1 => Intent::Join { claim: Claim::decode(&mut from)?, proof: from.array("proof")? },
            2 => Intent::Guest(from.bytes("pass", PASS_BYTES_MAX)?.to_vec()),
            value => return Err(Error::Value { what: "intent", value: value.into() }),
        };
        Ok(Hello { versions, class, instance, epoch, intent })
    }
}

/// The newest version that both speak.
pub fn agree(ours: &RangeInclusive<u16>, theirs: &RangeInclusive<u16>) -> Option<u16> {
    let newest = *ours.end().min(theirs.end());
    (newest >= *ours.start().max(theirs.start())).then_some(newest)
}

/// The listening side's answer to somebody who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that is spoken from here on.
    pub version: u16,
    /// Who answers.
    pub node: NodeId,
    /// This run of it.
    pub instance: Instance,
    /// The epoch of its member list.
    pub epoch: Epoch,
    /// Only for one who joins: that this is the ticket's cluster.
    pub host: Option<Host>,
}

/// How a node shows one who joins that it belongs to the ticket's cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The cluster's root key.
    pub root: PublicKey,
    /// The node's own certificate.
    pub certificate: Certificate,
    /// That it knows the ticket's secret; see [`proof`].
    pub proof: [u8; PROOF_BYTES],
}

impl Welcome {
    const MARK: [u8; 4] = *b"AbWe";

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.raw(&Self::MARK).u16(self.version).raw(&self.node.0).raw(&self.instance.0).u64(self.epoch.0);
        to.option(self.host.as_ref(), |to, host| {
            to.raw(&host.root.0).raw(&host.proof).bytes(&host.certificate.encode());
        });
        to.finish()
    }

    /// Reads them; what a later release appended is skipped.
    pub fn decode(bytes: &[u8]) -> Result<Welcome, Error> {
        let mut from = Reader::new(bytes);
        mark(&mut from, "welcome", Self::MARK)?;
        Ok(Welcome {
            version: from.u16("version")?,
            node: NodeId(from.array("node")?),
            instance: Instance(from.array("instance")?),
            epoch: Epoch(from.u64("epoch")?),
            host: from.option("host", |from| {
                Ok(Host {
                    root: PublicKey(from.array("root")?),
                    proof: from.array("proof")?,
                    certificate: Certificate::decode(from.bytes("certificate", CERTIFICATE_BYTES_MAX)?)?,
                })
            })?,
        })
    }
}

/// The listening side's answer to a member, or a ticket's holder, who can't come in now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No version in common.
    #[error("it speaks versions {} to {} of the protocol and this node none of them: update the older one", .0.start(), .0.end())]
    Versions(RangeInclusive<u16>),
    /// The ticket was used.
    #[error(transparent)]
    Ticket(crate::TicketError),
    /// Another process with the same key is connected and alive.
    #[error(
        "another process is connected with this node's key: two machines must not share one, stop the other or join this one with a new ticket"
    )]
    Twin,
    /// It can't let anybody join: another node can.
    #[error("it can't let machines join now: try another node's address")]
    NoHost,
    /// Too many connections.
    #[error("it has too many connections: try again in {0} ms")]
    Busy(u32),
    /// A reason of a later release.
    #[error("it gives a reason that this release doesn't know (code {0}): update abide here")]
    Unknown(u8),
}

impl Refused {
    const MARK: [u8; 4] = *b"AbNo";

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.raw(&Self::MARK);
        match self {
            Refused::Versions(versions) => to.u8(1).u16(*versions.start()).u16(*versions.end()),
            Refused::Ticket(crate::TicketError::Used) => to.u8(2),
            Refused::Ticket(crate::TicketError::Expired { at, now }) => to.u8(3).u64(at.0).u64(now.0),
            Refused::Ticket(crate::TicketError::OtherCluster { cluster }) => to.u8(4).raw(&cluster.0),
            // Whoever shows any other wrong ticket is told nothing; this is never sent.
            Refused::Ticket(_) => to.u8(0),
            Refused::Twin => to.u8(5),
            Refused::NoHost => to.u8(6),
            Refused::Busy(retry_after_ms) => to.u8(7).u32(*retry_after_ms),
            Refused::Unknown(code) => to.u8(*code),
        };
        to.finish()
    }

    /// Reads them; what a later release appended is skipped.
    pub fn decode(bytes: &[u8]) -> Result<Refused, Error> {
        let mut from = Reader::new(bytes);
        mark(&mut from, "refusal", Self::MARK)?;
        Ok(match from.u8("reason")? {
            1 => Refused::Versions(versions(&mut from)?),
            2 => Refused::Ticket(crate::TicketError::Used),
            3 => Refused::Ticket(crate::TicketError::Expired {
                at: base::Wall(from.u64("expiry")?),
                now: base::Wall(from.u64("time")?),
            }),
            4 => Refused::Ticket(crate::TicketError::OtherCluster { cluster: base::ClusterId(from.array("cluster")?) }),
            5 => Refused::Twin,
            6 => Refused::NoHost,
            7 => Refused::Busy(from.u32("retry after")?),
            code => Refused::Unknown(code),
        })
    }
}

/// Which side a [`proof`] is of, so that none can be sent back as one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who dialled.
    Dialler,
    /// Who listens.
    Listener,
}

/// That its sender knows a ticket's secret, on this very connection: `binding` comes out of the
/// TLS handshake (RFC 8446, 7.5), so nobody in between can pass a proof on.
pub fn proof(
    secret: &[u8; 16],
    side: Side,
    binding: &[u8; 32],
    dialler: &PublicKey,
    listener: &PublicKey,
) -> [u8; PROOF_BYTES] {
    let key = blake3::derive_key("abide 2026 join proof v1", secret);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(&[side as u8]).update(binding).update(&dialler.0).update(&listener.0);
    *hasher.finalize().as_bytes()
}

/// Whether two proofs are the same; takes the same time wherever they differ.
pub fn same_proof(one: &[u8; PROOF_BYTES], other: &[u8; PROOF_BYTES]) -> bool {
    blake3::Hash::from_bytes(*one) == blake3::Hash::from_bytes(*other)
}
