//! What a grant may say. The list is closed: who doesn't know a caveat refuses the grant.
//!
//! All caveats of a grant must hold, so one more never allows more.

use std::fmt;
use std::time::Duration;

use base::Wall;
use base::limits::KEY_BYTES_MAX;
use codec::{Error, Reader, Writer};

use crate::{Refusal, Request, Rules};

/// Caveats of one grant at the most.
pub const CAVEATS_MAX: usize = 16;
/// By how much the clock of who is asked may be behind that of who made the grant: one that was made a moment ago must work.
pub const SKEW: Duration = Duration::from_secs(120);

/// One thing that can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// Reads contents and attributes.
    Read = 1,
    /// Lists names.
    List = 2,
    /// Writes objects.
    Write = 4,
    /// Deletes objects.
    Delete = 8,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 4] = [Verb::Read, Verb::List, Verb::Write, Verb::Delete];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Read => "read",
            Verb::List => "list",
            Verb::Write => "write",
            Verb::Delete => "delete",
        })
    }
}

/// Several of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    /// All there are.
    pub const ALL: Verbs = Verbs(15);

    /// Those given.
    pub fn new(verbs: &[Verb]) -> Self {
        Self(verbs.iter().fold(0, |bits, verb| bits | *verb as u8))
    }

    /// Whether it is one of them.
    pub fn has(self, verb: Verb) -> bool {
        self.0 & verb as u8 != 0
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caveat {
    /// Only this key, or what is in this folder if it ends in `/`, or everything if it is empty. As the directors see paths: sealed
    /// in an end-to-end volume.
    Prefix(String),
    /// Only these.
    Verbs(Verbs),
    /// Only before then.
    Until(Wall),
    /// Only from then on.
    NotBefore(Wall),
    /// Only while this label isn't revoked: names whom it was given.
    Label([u8; 16]),
}

const PREFIX: u8 = 1;
const VERBS: u8 = 2;
const UNTIL: u8 = 3;
const NOT_BEFORE: u8 = 4;
const LABEL: u8 = 5;

/// Whether `path` is `prefix`, or in it if that is a folder.
pub fn within(prefix: &str, path: &str) -> bool {
    path == prefix || (prefix.is_empty() || prefix.ends_with('/')) && path.starts_with(prefix)
}

impl Caveat {
    /// Succeeds if the request keeps to it.
    pub fn check(&self, request: &Request<'_>, rules: &Rules<'_>) -> Result<(), Refusal> {
        let now = rules.now;
        match self {
            Caveat::Prefix(prefix) if !within(prefix, request.path) => Err(Refusal::Path),
            Caveat::Verbs(verbs) if !verbs.has(request.verb) => Err(Refusal::Verb { verb: request.verb }),
            Caveat::Until(at) if now >= *at => Err(Refusal::Ended { at: *at, now }),
            Caveat::NotBefore(at) if now + SKEW < *at => Err(Refusal::TooEarly { at: *at, now }),
            Caveat::Label(label) if rules.revoked.contains(label) => Err(Refusal::RevokedLabel),
            _ => Ok(()),
        }
    }

    /// The field: what the chain's tags are made of.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        match self {
            Caveat::Prefix(prefix) => to.u8(PREFIX).str(prefix),
            Caveat::Verbs(verbs) => to.u8(VERBS).u8(verbs.0),
            Caveat::Until(at) => to.u8(UNTIL).u64(at.0),
            Caveat::NotBefore(at) => to.u8(NOT_BEFORE).u64(at.0),
            Caveat::Label(label) => to.u8(LABEL).raw(label),
        };
        to.finish()
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match from.u8("caveat")? {
            PREFIX => Caveat::Prefix(from.str("prefix", KEY_BYTES_MAX)?.to_owned()),
            VERBS => match from.u8("verbs")? {
                bits if bits & !Verbs::ALL.0 == 0 => Caveat::Verbs(Verbs(bits)),
                value => return Err(Error::Value { what: "verbs", value: value.into() }),
            },
            UNTIL => Caveat::Until(Wall(from.u64("until")?)),
            NOT_BEFORE => Caveat::NotBefore(Wall(from.u64("not before")?)),
            LABEL => Caveat::Label(from.array("label")?),
            value => return Err(Error::Value { what: "caveat", value: value.into() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_its_folder_ends() {
        for (prefix, path, inside) in [
            ("", "anything", true),
            ("a/", "a/b", true),
            ("a/", "a/", true),
            ("a/", "a", false),
            ("a/", "ab", false),
            ("a", "a", true),
            ("a", "a/b", false),
            ("a", "ab", false),
            ("a/b/", "a/", false),
            ("a/b/", "a/../c", false),
        ] {
            assert_eq!(within(prefix, path), inside, "{path:?} in {prefix:?}");
        }
    }
}
