//! Who is who, and what nodes say to each other, to the byte.
//!
//! Pure: no clock, disk or socket. A node is known by an Ed25519 key. The cluster's root key says
//! which keys are members: one at a time by a [`Certificate`], all together by the
//! [`MemberList`]; [`Trust`] is what a node believes from both. A [`Ticket`] lets a new machine
//! ask to become one. [`greet`] is what two nodes say first, [`frame`] everything after.
//!
//! Whatever comes from outside ends in an [`Error`], never in a panic, and never makes a decoder
//! reserve more than the bytes at hand. docs/formats/wire.md has the layouts.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod frame;
pub mod greet;
mod member;
mod ticket;
mod trust;

pub use frame::Fault;
pub use member::{Certificate, MEMBERS_MAX, Member, MemberList};
pub use ticket::{ADDRESSES_MAX, Claim, Ticket, TicketError, TicketId};
pub use trust::{Refusal, Trust};

use base::{Kind, Kinded, NodeId};
use crypt::PublicKey;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They can't be read.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// They aren't signed by who they should be.
    #[error("{what} isn't signed by this cluster's root key: it was changed, or it is of another cluster")]
    Signature {
        /// What was looked at.
        what: &'static str,
    },
    /// It is well signed, for another cluster.
    #[error("{what} is of another cluster")]
    OtherCluster {
        /// What was looked at.
        what: &'static str,
    },
    /// Longer than anything that belongs there.
    #[error("a frame of kind {kind} claims {len} bytes, the limit is {max}")]
    Oversized {
        /// The frame's kind, as it came.
        kind: u8,
        /// Bytes claimed.
        len: u32,
        /// The limit.
        max: u32,
    },
    /// A frame that this program doesn't know and may not skip.
    #[error("a frame of unknown kind {kind} came: the peer doesn't speak this protocol")]
    UnknownFrame {
        /// The kind, as it came.
        kind: u8,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Codec(error) => error.kind(),
            Error::Signature { .. } | Error::OtherCluster { .. } => Kind::Denied,
            Error::Oversized { .. } | Error::UnknownFrame { .. } => Kind::Invalid,
        }
    }
}

/// The id of the node whose first key is `key`. It stays when the key is changed later.
pub fn node_id(key: &PublicKey) -> NodeId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::derive_key("abide 2026 node id v1", &key.0)[..16]);
    NodeId(id)
}
