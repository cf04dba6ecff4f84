//! How data is coded, as data: k + m, how many pieces must be durable before an answer, the
//! ladder of defaults by number of drives and nodes, and what a policy demands besides ([`rule`]). Doesn't
//! know which drives there are.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod rule;

pub use rule::Rule;

use std::fmt;

use base::limits::CODE_PIECES_MAX;
use base::{Kind, Kinded};

/// A text that names no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no code: {why}; write for example \"4+2\", \"3 copies\" or \"default\"")]
pub struct Error {
    /// As given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// k data and m parity pieces; k = 1 means 1 + m copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coding {
    /// Pieces that suffice.
    pub k: u8,
    /// Pieces that may be lost.
    pub m: u8,
}

impl Coding {
    /// A code, if it has a data piece and not too many in all.
    pub fn new(k: u8, m: u8) -> Option<Self> {
        (k >= 1 && usize::from(k) + usize::from(m) <= CODE_PIECES_MAX).then_some(Self { k, m })
    }

    /// `copies` copies.
    pub const fn copies(copies: u8) -> Self {
        Self { k: 1, m: copies - 1 }
    }

    /// All pieces.
    pub fn n(self) -> usize {
        usize::from(self.k) + usize::from(self.m)
    }

    /// How many pieces must be durable before a write is acknowledged: all where there is no
    /// parity, else k and half of the parity, rounded up. So an acknowledged write has a spare
    /// piece, and the loss of half of a code's spare drives stops no write.
    pub fn ack(self) -> usize {
        usize::from(self.k) + usize::from(self.m).div_ceil(2)
    }

    /// The default for so many drives: one to spare where possible (design: ladder of defaults).
    pub fn ladder(drives: usize) -> Self {
        let (k, m) = match drives {
            0..=1 => (1, 0),
            2 => (1, 1),
            3..=4 => (1, 2),
            5 => (2, 2),
            6 => (3, 2),
            7..=8 => (4, 2),
            9 => (5, 3),
            10..=12 => (6, 3),
            _ => (8, 4),
        };
        Self { k, m }
    }

    /// The codes of the ladder, the widest first.
    pub const LADDER: [Self; 8] = [
        Self { k: 8, m: 4 },
        Self { k: 6, m: 3 },
        Self { k: 5, m: 3 },
        Self { k: 4, m: 2 },
        Self { k: 3, m: 2 },
        Self { k: 2, m: 2 },
        Self { k: 1, m: 2 },
        Self { k: 1, m: 1 },
    ];

    /// The default for a cluster: the ladder by nodes, so that each piece is on a node of its own. Two
    /// nodes keep three copies where they have three drives: the loss of a node, or of any two drives.
    pub fn for_cluster(nodes: usize, drives: usize) -> Self {
        match nodes {
            0..=1 => Self::ladder(drives),
            2 => Self::ladder(drives.min(3)),
            _ => Self::ladder(nodes.min(drives)),
        }
    }

    /// Reads "4+2", "3 copies", "1 copy", "2x"; `None` for "default".
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let error = |why| Error { text: text.to_owned(), why };
        let plain = text.trim().to_ascii_lowercase();
        if plain == "default" {
            return Ok(None);
        }
        let number = |part: &str| part.trim().parse::<u8>().ok();
        let (k, m) = if let Some((k, m)) = plain.split_once('+') {
            (number(k), number(m))
        } else {
            let copies = ["copies", "copy", "x"].iter().find_map(|unit| plain.strip_suffix(unit));
            let copies = copies.and_then(number).ok_or_else(|| error("it is neither k+m nor a number of copies"))?;
            (Some(1), copies.checked_sub(1))
        };
        match (k, m) {
            (Some(k), Some(m)) => match Self::new(k, m) {
                Some(coding) => Ok(Some(coding)),
                None => Err(error("k must be at least 1 and k + m at most 64")),
            },
            _ => Err(error("k and m must be small numbers, copies at least 1")),
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.k, self.m) {
            (1, 0) => f.write_str("1 copy"),
            (1, m) => write!(f, "{} copies", m + 1),
            (k, m) => write!(f, "{k}+{m}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_keeps_a_drive_to_spare() {
        let shown: Vec<String> = (1..=13).map(|drives| Coding::ladder(drives).to_string()).collect();
        let wanted = "1 copy,2 copies,3 copies,3 copies,2+2,3+2,4+2,4+2,5+3,6+3,6+3,6+3,8+4";
        assert_eq!(shown.join(","), wanted);
        for drives in 5..40 {
            assert!(Coding::ladder(drives).n() < drives);
        }
    }

    #[test]
    fn the_ladder_follows_the_nodes_of_a_cluster() {
        let shown = |nodes, drives| Coding::for_cluster(nodes, drives).to_string();
        assert_eq!([shown(1, 4), shown(2, 2), shown(2, 8)], ["3 copies", "2 copies", "3 copies"]);
        assert_eq!([shown(3, 12), shown(5, 5), shown(8, 40), shown(30, 30)], ["3 copies", "2+2", "4+2", "8+4"]);
        for nodes in 1..40 {
            let coding = Coding::for_cluster(nodes, nodes * 2);
            assert!(coding == Coding::copies(2) || Coding::LADDER.contains(&coding));
        }
    }

    #[test]
    fn texts_are_read_and_shown() {
        for (text, k, m) in [("4+2", 4, 2), (" 3 Copies", 1, 2), ("1 copy", 1, 0), ("2x", 1, 1), ("8 + 4", 8, 4)] {
            assert_eq!(Coding::parse(text).unwrap(), Some(Coding { k, m }), "{text}");
        }
        assert_eq!(Coding::parse("default").unwrap(), None);
        for text in ["", "0 copies", "0+2", "63+2", "4-2", "x", "4+", "300+1"] {
            assert!(Coding::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_acknowledged_write_has_a_spare_piece_where_the_code_has_one() {
        let acks: Vec<usize> = [(1, 0), (1, 1), (1, 2), (2, 2), (3, 2), (4, 2), (5, 3), (8, 4)]
            .iter()
            .map(|(k, m)| Coding { k: *k, m: *m }.ack())
            .collect();
        assert_eq!(acks, [1, 2, 2, 3, 4, 5, 7, 10]);
    }
}
