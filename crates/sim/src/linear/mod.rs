//! Is what concurrent clients saw of a bucket what one register per key could have shown them?
//!
//! A history is linearizable if every operation can be given one moment between its invocation
//! and its response, so that the operations, done one at a time in the order of those moments,
//! give the results that were seen (Herlihy and Wing 1990). Linearizability is local: a bucket is
//! linearizable if each of its keys is, so [`check`] looks at one key at a time.
//!
//! 1. An operation without a known result takes effect at any time after its invocation, or never.
//! 2. Every write of a key has a serial of its own (an entity tag); so a value, once overwritten,
//!    never comes back. [`check`] refuses histories in which two writes share a serial.
//! 3. A refused operation ([`Outcome::Refused`]) has no effect; if one had, its value would be one
//!    that nobody wrote.
//! 4. A listing is many reads: [`check`] wants each key of it explained by some state that the key
//!    had during the listing, for each key alone. A listing of several pages is several listings.
//!    That a listing is one cut through all keys is a stricter promise: [`check_strictly`] holds
//!    small histories to it, at the cost of looking at all keys at once.
//!
//! Ten thousand operations of forty clients on one key take a fraction of a second; a tenth of them
//! without an answer make it some seconds and some 200,000 states. What takes more than
//! [`Limits`] allow is [`Verdict::Undecided`], never held to be right.

use std::collections::{BTreeMap, BTreeSet};

mod explain;
mod record;
mod search;
mod strict;

pub use explain::Violation;
pub use record::{ListTicket, Recorder, Ticket};
pub use strict::{OPERATIONS_MAX, check_strictly};

use search::{Found, Problem};

/// A moment of simulated time, in nanoseconds; what happened in the same nanosecond is told apart
/// by its number in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Nanoseconds.
    pub at: u64,
    /// The number of the event in the run.
    pub order: u64,
}

/// What a client asks of a key. Values are named by their serials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// A write, in one piece or as the completion of an upload in parts.
    Put(u64),
    /// A read of the object.
    Get,
    /// A read of the object's head.
    Head,
    /// A removal.
    Delete,
    /// A write with `If-None-Match: *`.
    PutIfAbsent(u64),
    /// A write with `If-Match` and the entity tag of another value.
    PutIfMatch {
        /// What is written.
        value: u64,
        /// What must be there.
        expected: u64,
    },
}

impl Call {
    /// Whether it can't change anything.
    pub fn is_read(self) -> bool {
        matches!(self, Call::Get | Call::Head)
    }

    /// The serial that it writes.
    pub fn writes(self) -> Option<u64> {
        match self {
            Call::Put(value) | Call::PutIfAbsent(value) | Call::PutIfMatch { value, .. } => Some(value),
            Call::Get | Call::Head | Call::Delete => None,
        }
    }
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The change was made.
    Done,
    /// A read's answer: the value's serial, `None` if there is no object.
    Found(Option<u64>),
    /// The condition did not hold: nothing was changed.
    PreconditionFailed,
    /// Nothing was changed, for a reason that says nothing of the key (`409`, `403`).
    Refused,
    /// Nobody knows: no answer, or one that doesn't say (`5xx`).
    Unknown,
}

/// One operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    /// Who asked.
    pub client: u32,
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub outcome: Outcome,
    /// When it was asked.
    pub invoked: Moment,
    /// When it was answered; means nothing if the outcome is unknown.
    pub returned: Option<Moment>,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Who asked.
    pub client: u32,
    /// Only keys that begin so were asked for.
    pub prefix: String,
    /// Only keys behind this one were asked for.
    pub after: String,
    /// The page's last key, if more may come behind it.
    pub until: Option<String>,
    /// The keys seen, with the serials of their values.
    pub seen: BTreeMap<String, u64>,
    /// When it was asked.
    pub invoked: Moment,
    /// When it was answered.
    pub returned: Moment,
}

impl Listing {
    /// Whether the page says of the key that it is there or that it isn't.
    pub fn covers(&self, key: &str) -> bool {
        let is_before_end = self.until.as_deref().is_none_or(|until| key <= until);
        (key > self.after.as_str() || self.after.is_empty()) && is_before_end && key.starts_with(&self.prefix)
    }

    fn read_of(&self, key: &str) -> Op {
        Op {
            client: self.client,
            call: Call::Head,
            outcome: Outcome::Found(self.seen.get(key).copied()),
            invoked: self.invoked,
            returned: Some(self.returned),
        }
    }
}

/// All that clients did to one bucket, which was empty before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The operations of each key, in any order.
    pub keys: BTreeMap<String, Vec<Op>>,
    /// The listings' pages.
    pub listings: Vec<Listing>,
}

impl History {
    /// Operations and listings.
    pub fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum::<usize>() + self.listings.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operations of each key, and what the listings say of it.
    fn with_listings(&self) -> BTreeMap<&str, Vec<Op>> {
        let mut all: BTreeMap<&str, Vec<Op>> = self.keys.iter().map(|(key, ops)| (key.as_str(), ops.clone())).collect();
        for listing in &self.listings {
            for key in listing.seen.keys() {
                all.entry(key).or_default();
            }
        }
        for listing in &self.listings {
            for (key, ops) in &mut all {
                // A key that was listed although it wasn't asked for is no less wrong.
                if listing.covers(key) || listing.seen.contains_key(*key) {
                    ops.push(listing.read_of(key));
                }
            }
        }
        all
    }
}

/// How much is tried before the checker gives up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States that the search of one key may visit. A clean history of n operations needs about n.
    pub steps: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // About 100 MB of memory and a few seconds.
        Self { steps: 1_000_000 }
    }
}

/// What the checker found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some order explains everything.
    Linearizable,
    /// No order explains what was seen of this key.
    Violation(Box<Violation>),
    /// The search of this key was given up.
    Undecided {
        /// Which.
        key: String,
        /// States visited.
        steps: u64,
    },
    /// The history can't have been recorded rightly: nothing is said about the store.
    Malformed {
        /// Which.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Linearizable => write!(out, "linearizable"),
            Verdict::Violation(violation) => violation.fmt(out),
            Verdict::Undecided { key, steps } => write!(
                out,
                "undecided: the search of {key:?} was given up after {steps} states; raise the limit, or record fewer concurrent operations"
            ),
            Verdict::Malformed { key, what } => write!(out, "the history of {key:?} was not recorded rightly: {what}"),
        }
    }
}

/// Checks a history key by key, within the default limits.
pub fn check(history: &History) -> Verdict {
    check_within(history, Limits::default())
}

/// Checks a history key by key. A violation of one key counts more than another key's search that
/// was given up.
pub fn check_within(history: &History, limits: Limits) -> Verdict {
    let mut verdict = Verdict::Linearizable;
    for (key, ops) in history.with_listings() {
        if let Some(what) = fault_of(&ops) {
            return Verdict::Malformed { key: key.to_owned(), what };
        }
        match Problem::of(&ops).solve(limits.steps) {
            Found::Order(_) => {}
            Found::None => return Verdict::Violation(Box::new(explain::violation(key, &ops, limits))),
            Found::Undecided(steps) => verdict = Verdict::Undecided { key: key.to_owned(), steps },
        }
    }
    verdict
}

/// An order of one key's operations that explains all results, as their places in `ops`; operations
/// that need not have happened are left out. `None` if there is none or it was not found.
pub fn order_of(ops: &[Op], limits: Limits) -> Option<Vec<usize>> {
    if fault_of(ops).is_some() {
        return None;
    }
    match Problem::of(ops).solve(limits.steps) {
        Found::Order(order) => Some(order),
        Found::None | Found::Undecided(_) => None,
    }
}

/// Why these can't be the operations of one key.
fn fault_of(ops: &[Op]) -> Option<&'static str> {
    let mut written = BTreeSet::new();
    for op in ops {
        let fits = match (op.call, op.outcome) {
            (_, Outcome::Refused | Outcome::Unknown) => true,
            (Call::Get | Call::Head, outcome) => matches!(outcome, Outcome::Found(_)),
            (Call::Put(_) | Call::Delete, outcome) => outcome == Outcome::Done,
            (_, outcome) => matches!(outcome, Outcome::Done | Outcome::PreconditionFailed),
        };
        if !fits {
            return Some("a result that such a call can't have");
        }
        if op.outcome != Outcome::Unknown && op.returned.is_none_or(|returned| returned < op.invoked) {
            return Some("a result before the call, or without a time");
        }
        if op.call.writes().is_some_and(|value| !written.insert(value)) {
            return Some("two writes of one serial");
        }
        if matches!(op.call, Call::PutIfMatch { value, expected } if value == expected) {
            return Some("a conditional write of the value that it expects");
        }
    }
    None
}
