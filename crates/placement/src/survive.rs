//! What may be lost: computed from the tables as they are, not from what was meant.

use std::collections::BTreeSet;
use std::fmt;

use base::{Domain, DriveId};

use crate::group::GroupRow;
use crate::place::Places;

/// What data survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survival {
    /// Of each kind in the order of [`Domain::ALL`]: how many domains may be lost, whichever they are, so
    /// that every group can still be read. `None` where the kind isn't told apart.
    pub losses: [Option<usize>; Domain::COUNT],
    /// Groups by spare pieces: at 0 those that can be read and have none to spare.
    pub by_spare: Vec<usize>,
    /// Groups that can't be read now.
    pub unreadable: usize,
}

impl Survival {
    /// Nothing is stored yet: as good as it gets.
    fn of_nothing(places: &Places) -> Self {
        let losses = Domain::ALL.map(|domain| places.knows(domain).then_some(usize::MAX));
        Self { losses, by_spare: Vec::new(), unreadable: 0 }
    }

    /// How many domains of this kind may be lost, whichever they are.
    pub fn of(&self, domain: Domain) -> usize {
        self.losses[domain as usize].unwrap_or(0)
    }

    /// Whether everything can be read now.
    pub fn is_readable(&self) -> bool {
        self.unreadable == 0
    }

    /// The fewest spare pieces of any group; negative if one can't be read.
    pub fn spare(&self) -> i64 {
        if self.unreadable > 0 {
            return -1;
        }
        self.by_spare.iter().position(|groups| *groups > 0).unwrap_or(0) as i64
    }

    /// Those kinds of loss that are survived less than in `before`.
    pub fn worse_than(&self, before: &Survival) -> Vec<Domain> {
        Domain::ALL.into_iter().filter(|domain| self.of(*domain) < before.of(*domain)).collect()
    }
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unreadable > 0 {
            return write!(f, "{} placement groups can't be read now", self.unreadable);
        }
        if self.by_spare.is_empty() {
            return f.write_str("nothing is placed yet");
        }
        let any = |domain: &Domain| match self.losses[*domain as usize] {
            None | Some(0) => None,
            Some(count) => Some(format!("any {}", domain.count(count))),
        };
        let shown: Vec<String> = Domain::ALL.iter().filter_map(any).collect();
        if shown.is_empty() {
            f.write_str("survives no loss at all")
        } else {
            write!(f, "survives the loss of: {}", shown.join(", "))
        }
    }
}

/// What data in these tables survives, each with its policy's m, if the drives in `lost`, and those that
/// `places` doesn't know, hold nothing.
///
/// A piece on the move counts where it comes from: it is there until all of its group have arrived.
/// Losses of one kind are independent of those of others: "any 2 drives, any 1 site" is either.
pub fn survives<'a>(
    tables: impl IntoIterator<Item = (u8, &'a [GroupRow])>,
    places: &Places,
    lost: &BTreeSet<DriveId>,
) -> Survival {
    let mut all = Survival::of_nothing(places);
    let known: Vec<Domain> = Domain::ALL.into_iter().filter(|domain| places.knows(*domain)).collect();
    let mut numbers: Vec<u32> = Vec::new();
    for (parity, rows) in tables {
        for row in rows {
            let here: Vec<&[u32; Domain::COUNT]> = (row.from.iter())
                .filter(|drive| !lost.contains(drive))
                .filter_map(|drive| places.get(*drive).map(|place| &place.at))
                .collect();
            let Some(spare) = (usize::from(parity) + here.len()).checked_sub(row.from.len()) else {
                all.unreadable += 1;
                continue;
            };
            if all.by_spare.len() <= spare {
                all.by_spare.resize(spare + 1, 0);
            }
            all.by_spare[spare] += 1;
            for domain in &known {
                numbers.clear();
                numbers.extend(here.iter().map(|at| at[*domain as usize]));
                let losses = losses(&mut numbers, spare);
                let least = &mut all.losses[*domain as usize];
                *least = least.map(|least| least.min(losses));
            }
        }
    }
    if all.unreadable > 0 || all.by_spare.is_empty() {
        all.losses = all.losses.map(|losses| losses.map(|_| 0));
    }
    all
}

/// How many of the domains that these pieces are in may be lost, if `spare` pieces may: the largest
/// domains go first.
fn losses(numbers: &mut [u32], spare: usize) -> usize {
    numbers.sort_unstable();
    let mut sizes: Vec<usize> = numbers.chunk_by(|a, b| a == b).map(<[u32]>::len).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut left = spare;
    sizes.into_iter().take_while(|size| left.checked_sub(*size).map(|rest| left = rest).is_some()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_domains_go_first() {
        assert_eq!(losses(&mut [1, 2, 1, 3, 4, 1], 2), 0);
        assert_eq!(losses(&mut [1, 2, 1, 3, 4, 1], 3), 1);
        assert_eq!(losses(&mut [1, 2, 1, 3, 4, 1], 4), 2);
        assert_eq!(losses(&mut [5, 6, 7], 2), 2);
        assert_eq!(losses(&mut [], 2), 0);
    }
}
