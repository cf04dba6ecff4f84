//! What somebody can do who has nothing but words and the addresses of some nodes: find who is there, list what is stored,
//! read it: no director is asked, none needs to be alive. And what the owner of an end-to-end volume can do while all is well: [`Volume`].
//!
//! In reading order: [`reach`] (nodes, as their guest), [`holder`] (a node as a holder of pieces), [`survey`] (what there is and of how many
//! pieces), [`restore`] (files of it), [`names`] (paths that a file system takes);
//! [`volume`] over `directors` (metadata, as guests ask for it) and `drive` (a drive that guests write); [`watch`] (what changes, as it changes); [`kits`] (the kit of
//! such a volume, kept by its clients), [`copies`] (looked for and checked) and `spare` (reading by it when nobody leads); `drill` (does that work?); `replace` (other keys for a volume).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod copies;
pub mod holder;
pub mod kits;
pub mod names;
pub mod reach;
pub mod restore;
pub mod survey;
pub mod volume;
pub mod watch;

mod directors;
mod drill;
mod drive;
mod replace;
mod spare;

pub use client::guest::Drill;
pub use reach::Reach;
pub use restore::{Restored, restore};
pub use survey::{Keys, Survey, survey};
pub use volume::{Attributes, Entry, Faced, Key, Upload, Volume, WRITE_MAX};

use base::{Kind, Kinded};

/// Why it can't be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node can be asked.
    #[error("no node can be asked: {0}")]
    Nobody(String),
    /// The way to nodes.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// Reading.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A grant.
    #[error(transparent)]
    Grant(#[from] grant::Error),
    /// What a grant doesn't allow.
    #[error("the grant: {0}")]
    Refused(grant::Refusal),
    /// A kit.
    #[error(transparent)]
    Kit(#[from] kit::Error),
    /// The journal doesn't tell what came after this position.
    #[error(
        "position {position} can't be watched from: the journal tells what came after {oldest}, up to {newest}. List anew, and watch from the position of then"
    )]
    Expired {
        /// That was asked for.
        position: u64,
        /// The oldest that can be watched from.
        oldest: u64,
        /// Where the journal ends.
        newest: u64,
    },
    /// A file or a folder here.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// What failed, why, what to do.
        why: String,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Nobody(_) => Kind::Unreachable,
            Error::Transport(error) => error.kind(),
            Error::Client(error) => error.kind(),
            Error::Grant(error) => error.kind(),
            Error::Refused(error) => error.kind(),
            Error::Kit(error) => error.kind(),
            Error::Expired { .. } => Kind::Missing,
            Error::File { .. } => Kind::Invalid,
        }
    }
}

/// What came of something.
pub type Result<T> = std::result::Result<T, Error>;
