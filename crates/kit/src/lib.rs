//! What a client keeps so that it can read with no service alive, and what is done when even that is lost.
//!
//! A [`Log`] holds one volume's [`State`]: objects with their manifests, groups, drives, nodes. It is a base and
//! deltas, sealed, chained by hash and signed; opening it against what was [`Seen`] last tells a crash, damage, tampering, rollback and a
//! fork apart. [`spread`] says which nodes keep copies, and what they take. [`header`] is what pieces say of themselves
//! to the volume's owner alone; [`rescue`] makes a listing of that. [`ask`] is what owners ask of nodes.
//!
//! Pure: bytes come in as slices and go out as bytes to append. docs/formats/kit.md has every byte.
//!
//! In reading order: [`types`], [`change`], [`state`], [`log`], [`spread`], [`header`], [`rescue`], [`ask`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod ask;
mod assemble;
pub mod change;
mod decode;
mod frame;
pub mod header;
pub mod log;
pub mod rescue;
pub mod spread;
pub mod state;
pub mod types;
mod varint;

pub use change::Change;
pub use log::{Log, Opened, Seen};
pub use state::State;
pub use types::{Body, Code, Group, Node, Object, Position, Segment, Slot, Span};

use base::{Kind, Kinded};

/// Why a kit can't be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes can't be read.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// Something doesn't open.
    #[error(transparent)]
    Crypt(#[from] crypt::Error),
    /// An anchor leads nowhere.
    #[error(transparent)]
    Grant(#[from] grant::Error),
    /// The kit of another volume.
    #[error("this kit is of another volume: its public key is {found}")]
    OtherVolume {
        /// The key in it.
        found: crypt::PublicKey,
    },
    /// What was durable is unreadable now.
    #[error("the kit is damaged at frame {number} (byte {offset}), which was whole before: fetch a copy from a node")]
    Damaged {
        /// The frame.
        number: u64,
        /// Where it begins.
        offset: u64,
    },
    /// Whole, and not written by who holds the volume's keys.
    #[error("the kit was tampered with at frame {number} (byte {offset}): fetch a copy from a node")]
    Tampered {
        /// The frame.
        number: u64,
        /// Where it begins.
        offset: u64,
    },
    /// An older state than the one that was seen last.
    #[error(
        "the kit was rolled back: frame {seen} of generation {seen_generation} was seen, it ends at {found} of {found_generation}"
    )]
    RolledBack {
        /// The last frame that was seen.
        seen: u64,
        /// In which generation.
        seen_generation: u64,
        /// The last frame there is.
        found: u64,
        /// In which generation.
        found_generation: u64,
    },
    /// Another history than the one that was seen.
    #[error("the kit is another one than was seen: they differ at frame {number} or before")]
    Forked {
        /// The last frame that was seen.
        number: u64,
    },
    /// Another log's was seen last.
    #[error(
        "the kit isn't the one that was seen last, but another client's: open it as a new one, or fetch the right one"
    )]
    OtherLog,
    /// Only an outline is at hand.
    #[error("of the kit's objects only an outline is at hand: a log is written of the whole ones")]
    Outline,
    /// More than fits.
    #[error("{what} is too long for a kit: {len} bytes, the limit is {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Codec(error) => error.kind(),
            Error::Crypt(error) => error.kind(),
            Error::Grant(error) => error.kind(),
            Error::OtherVolume { .. } | Error::OtherLog | Error::Outline | Error::TooLong { .. } => Kind::Invalid,
            Error::Damaged { .. } | Error::Tampered { .. } => Kind::Damaged,
            Error::RolledBack { .. } | Error::Forked { .. } => Kind::Conflict,
        }
    }
}
