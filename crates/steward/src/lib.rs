//! What to do next behind users' backs, and how much at once: a pure engine.
//!
//! It is told which segments lack pieces or have pieces to move, and what became of each attempt; it says what to do
//! next. Doesn't know how a piece moves.
//!
//! 1. Order: what lost a piece, the fewest spare pieces first; then what leaves a drive, what evens out, what is coded
//!    anew, what is compacted or scrubbed ([`Class`]).
//! 2. One dial ([`Pace`]) bounds what is in flight and the bytes a second; users' latency turns it down further by
//!    itself ([`UserLoad`]). A segment with no spare piece waits for neither.
//! 3. Nothing in here is durable: rows say what is moving or missing, and a new engine that is told the same
//!    goes on from there. What is done needs no telling.
//! 4. Everything is bounded. Where more is known than fits, the least urgent is forgotten: the next look finds it again.
//!
//! In reading order: [`pace`], [`progress`], [`engine`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::BTreeSet;

use base::{GroupId, PolicyId, SegmentId, VolumeId};

pub mod engine;
pub mod pace;
pub mod progress;

pub use engine::Steward;
pub use pace::{Dial, Limits, Pace, UserLoad};
pub use progress::{ClassProgress, Progress};

/// Kinds of work, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A piece is lost: rebuild it.
    Repair,
    /// A piece is on a drive that leaves.
    Drain,
    /// A piece is on a drive that holds more than its share.
    Rebalance,
    /// A segment is coded by less than its policy says now.
    Recode,
    /// A pack is mostly dead, or a segment is due to be read and checked.
    Upkeep,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// All, the most urgent first.
    pub const ALL: [Class; Self::COUNT] = [Class::Repair, Class::Drain, Class::Rebalance, Class::Recode, Class::Upkeep];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Repair => "repair",
            Class::Drain => "drain",
            Class::Rebalance => "rebalance",
            Class::Recode => "recode",
            Class::Upkeep => "upkeep",
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a segment to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The volume that it is in.
    pub volume: VolumeId,
    /// Its policy.
    pub policy: PolicyId,
    /// Its group.
    pub group: GroupId,
    /// The segment.
    pub segment: SegmentId,
}

/// A segment with pieces to rebuild or move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub target: Target,
    /// Indices of the pieces to rebuild or move.
    pub missing: BTreeSet<u8>,
    /// Pieces that may be lost in all: the code's m.
    pub parity: u8,
    /// Bytes of one piece, about.
    pub piece_bytes: u64,
}

impl Need {
    /// Pieces that may still be lost if all of these are missing; negative if data can't be had just now.
    pub fn spare(&self) -> i16 {
        i16::from(self.parity) - self.missing.len() as i16
    }
}
