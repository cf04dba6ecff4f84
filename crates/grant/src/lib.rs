//! Who may do what with a volume, without asking anybody: grants, and the owner's tickets.
//!
//! A [`Grant`] is a line of text that opens part of a volume: a chain of caveats that directors check ([`Claim`]),
//! and the keys that make what they give readable. Its holder can narrow it and pass it on, never widen it. A [`Ticket`] is signed by the
//! volume's owner; a node checks it with what stands in a piece's header and gives ciphertext, with no
//! director alive; a [`Meter`] counts what it gave. A [`Succession`] gives a volume other keys.
//!
//! Pure: no clock, disk or socket. Whatever comes from outside ends in an [`Error`] or a [`Refusal`], never in a panic. docs/formats/grant.md has every byte.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod address;
mod anchor;
mod caveat;
mod chain;
mod succession;
mod text;
mod ticket;

pub use anchor::{Anchor, STEPS_MAX};
pub use caveat::{CAVEATS_MAX, Caveat, SKEW, Verb, Verbs, within};
pub use chain::{Claim, Head, Request, Rules};
pub use succession::Succession;
pub use text::{Grant, Subtree};
pub use ticket::{Ask, METER_MAX, Meter, Ticket};

use base::{Kind, Kinded, Wall};

/// Why a grant can't be read, made or narrowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It doesn't begin as grants do.
    #[error("this is no grant: one begins with \"abide-grant1\"; get one from `abide grant`")]
    NoGrant,
    /// Its checksum is wrong.
    #[error("the grant is mistyped or not whole ({len} characters): copy it again, whole")]
    Mistyped {
        /// Its characters.
        len: usize,
    },
    /// Its bytes can't be read.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// A name can't be sealed, or something doesn't open.
    #[error(transparent)]
    Crypt(#[from] crypt::Error),
    /// No more fit.
    #[error("a grant has at most {max} {what}: make a new one from where it began")]
    TooMany {
        /// Caveats, or steps of its anchor.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A grant for one file has nothing below it.
    #[error("the grant is for one file, there is nothing below it")]
    NotAFolder,
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Codec(error) => error.kind(),
            Error::Crypt(error) => error.kind(),
            Error::NoGrant | Error::Mistyped { .. } | Error::TooMany { .. } | Error::NotAFolder => Kind::Invalid,
        }
    }
}

/// Why something isn't done for who shows a grant or a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is for something else.
    #[error("it is for another volume")]
    OtherVolume,
    /// Not made with the volume's keys, or changed.
    #[error("it wasn't made by the volume's owner, or it was changed on the way")]
    Forged,
    /// All grants of its time were revoked.
    #[error("it was revoked: it is of epoch {epoch}, the volume is at {now}; ask the owner for a new one")]
    Revoked {
        /// The grant's epoch.
        epoch: u64,
        /// The volume's.
        now: u64,
    },
    /// This one was revoked.
    #[error("it was revoked by its label; ask the owner for a new one")]
    RevokedLabel,
    /// Its time is over.
    #[error("it ended at {}, and it is {} by the clock of who was asked", .at.rfc3339(), .now.rfc3339())]
    Ended {
        /// When.
        at: Wall,
        /// What time it is for who says so.
        now: Wall,
    },
    /// Its time hasn't come.
    #[error("it begins at {}, and it is {} by the clock of who was asked", .at.rfc3339(), .now.rfc3339())]
    TooEarly {
        /// When.
        at: Wall,
        /// What time it is for who says so.
        now: Wall,
    },
    /// The path lies outside.
    #[error("it isn't for this path")]
    Path,
    /// Something else is allowed.
    #[error("it doesn't allow to {verb}")]
    Verb {
        /// What was asked for.
        verb: Verb,
    },
    /// A ticket for another node.
    #[error("it is for another node")]
    OtherNode,
    /// A ticket for other segments.
    #[error("it isn't for this segment")]
    Segment,
    /// A ticket that gave all it was for.
    #[error("it is for {max} bytes, {served} were served and {want} more are wanted")]
    Spent {
        /// Bytes that the ticket is for.
        max: u64,
        /// Bytes that this node served for it.
        served: u64,
        /// Bytes that are asked for.
        want: u64,
    },
    /// The node counts as many tickets as it can.
    #[error("too many tickets are in use on this node")]
    Crowded,
}

impl Kinded for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Refusal::Crowded => Kind::Busy { retry_after: std::time::Duration::from_secs(30) },
            Refusal::OtherVolume
            | Refusal::Forged
            | Refusal::Revoked { .. }
            | Refusal::RevokedLabel
            | Refusal::Ended { .. }
            | Refusal::TooEarly { .. }
            | Refusal::Path
            | Refusal::Verb { .. }
            | Refusal::OtherNode
            | Refusal::Segment
            | Refusal::Spent { .. } => Kind::Denied,
        }
    }
}
