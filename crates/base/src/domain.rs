//! What fails together, what a policy demands of it, and how a node stands.

use std::fmt;

/// A kind of failure domain: things that fail together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Domain {
    /// One drive.
    Drive = 0,
    /// All drives of a node.
    Node = 1,
    /// All nodes of a rack (of one site).
    Rack = 2,
    /// All nodes at one place.
    Site = 3,
    /// All nodes in one country.
    Country = 4,
    /// All nodes of one owner.
    Owner = 5,
    /// All nodes of one make, which may share a fault.
    Model = 6,
}

impl Domain {
    /// How many kinds there are.
    pub const COUNT: usize = 7;
    /// All kinds, from small to large.
    pub const ALL: [Domain; Self::COUNT] =
        [Domain::Drive, Domain::Node, Domain::Rack, Domain::Site, Domain::Country, Domain::Owner, Domain::Model];
    /// Those that a node's labels name.
    pub const LABELS: [Domain; 5] = [Domain::Rack, Domain::Site, Domain::Country, Domain::Owner, Domain::Model];

    /// Its name, one of it.
    pub const fn name(self) -> &'static str {
        match self {
            Domain::Drive => "drive",
            Domain::Node => "node",
            Domain::Rack => "rack",
            Domain::Site => "site",
            Domain::Country => "country",
            Domain::Owner => "owner",
            Domain::Model => "model",
        }
    }

    /// `1 site`, `2 countries`.
    pub fn count(self, count: usize) -> String {
        match (count, self) {
            (1, _) => format!("1 {}", self.name()),
            (_, Domain::Country) => format!("{count} countries"),
            _ => format!("{count} {}s", self.name()),
        }
    }

    /// The kind of this name, one or many of it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        Self::ALL.into_iter().find(|domain| {
            text == domain.name()
                || text.strip_suffix('s') == Some(domain.name())
                || (*domain, text.as_str()) == (Domain::Country, "countries")
        })
    }

    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// That data be readable after the loss of any `count` domains of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand {
    /// How many may be lost, at least 1.
    pub count: u8,
    /// Of what.
    pub domain: Domain,
}

impl Demand {
    /// How many of a group's pieces one domain may hold, so that `parity` missing pieces are enough.
    /// Zero if no placement meets the demand.
    pub fn pieces_max(self, parity: u8) -> usize {
        usize::from(parity) / usize::from(self.count.max(1))
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.domain.count(self.count.into()))
    }
}

/// How a node stands with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It answers.
    Alive,
    /// It didn't answer lately; it counts as alive until more is known.
    Suspected,
    /// It doesn't answer. It may come back: nothing is rebuilt yet.
    Down,
    /// It is down for so long, or was told to be, that its pieces are rebuilt elsewhere.
    Gone,
}

impl Standing {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Alive => "alive",
            Standing::Suspected => "suspected",
            Standing::Down => "down",
            Standing::Gone => "gone",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_read_back_from_what_they_show() {
        for (number, domain) in Domain::ALL.into_iter().enumerate() {
            assert_eq!(Domain::from_number(number as u8), Some(domain));
            for count in [1, 2] {
                let shown = domain.count(count);
                assert_eq!(Domain::parse(shown.split_once(' ').unwrap().1), Some(domain), "{shown}");
            }
        }
        assert_eq!(Domain::from_number(7), None);
        assert_eq!(Domain::parse("planet"), None);
        assert_eq!(Demand { count: 2, domain: Domain::Node }.pieces_max(4), 2);
    }
}
