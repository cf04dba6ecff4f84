//! How likely data is lost by itself, and the one domain whose loss would hurt most.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base::{Domain, DriveId, GroupId, PolicyId};
use durability::{Chain, YEAR_DAYS};

use super::{Held, Look};
use crate::map::{Map, Policy};
use crate::place::Places;

/// How drives fail and how soon what is missing is rebuilt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// Failures of a drive per day.
    pub fail_per_day: f64,
    /// Days from the loss of a piece until it is rebuilt.
    pub repair_days: f64,
}

impl Default for Faults {
    /// One drive in twenty a year, machines that are thrown away included, and a day to rebuild. The worse half of what
    /// the makers and large fleets report (1 to 2 %, aged drives up to 5 %): homes are no data centres.
    fn default() -> Self {
        Self { fail_per_day: 0.05 / YEAR_DAYS, repair_days: 1.0 }
    }
}

/// What the exact chain says of all groups together, if drives fail independently of each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Risk {
    /// Expected days until the first group is lost; 0 if one can't be read, infinite if nothing is stored.
    pub days_to_loss: f64,
    /// Probability that a group is lost within a year from now.
    pub loss_within_year: f64,
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.days_to_loss {
            0.0 => f.write_str("lost already"),
            days if days.is_infinite() => f.write_str("no loss to expect"),
            days => write!(f, "{days:.3e} days to loss, {:.3e} within a year", self.loss_within_year),
        }
    }
}

/// The single domain whose loss would leave the fewest spare pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worst {
    /// Its kind.
    pub domain: Domain,
    /// Its name: a node's name, a label's value.
    pub name: String,
    /// Spare pieces that some segment would have without it; negative if it couldn't be read.
    pub spare: i64,
    /// Segments that would have so few.
    pub segments: u64,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, name, spare, segments } = self;
        write!(f, "without {domain} {name} ")?;
        match spare {
            ..0 => write!(f, "{segments} segments couldn't be read"),
            0 => write!(f, "{segments} segments would have no spare piece"),
            spare => write!(f, "{segments} segments would have {spare} spare pieces"),
        }
    }
}

/// The risk of all groups that hold something; of all there are if none does.
pub(super) fn risk(map: &Map, look: &Look, faults: Faults, held: &dyn Fn(PolicyId, GroupId) -> Held) -> Risk {
    let mut alike: BTreeMap<(u8, u8, i64, bool), [u64; 2]> = BTreeMap::new();
    for policy in &map.policies {
        for row in &policy.groups {
            let missing = i64::from(policy.m) - look.spare(policy, row);
            let lost = row.from.iter().zip(&row.members).filter(|(from, _)| !look.holds.contains_key(from));
            let is_stuck = { lost }.any(|(_, to)| !look.holds.contains_key(to));
            let is_held = held(policy.id, row.group).segments > 0;
            alike.entry((policy.k, policy.m, missing, is_stuck)).or_default()[usize::from(is_held)] += 1;
        }
    }
    let which = usize::from(alike.values().any(|counts| counts[1] > 0));
    // Sums of rates and of logarithms: what is far below 1e-16 doesn't vanish.
    let (mut rate, mut log_kept) = (0.0, 0.0);
    for ((k, m, missing, is_stuck), counts) in alike {
        let count = if which == 1 { counts[1] } else { counts[0] } as f64;
        // Where no drive is free for a piece it is not rebuilt.
        let repair_days = if is_stuck { f64::INFINITY } else { faults.repair_days };
        let Ok(chain) = Chain::eager(k, m, faults.fail_per_day, repair_days) else { continue };
        let missing = u8::try_from(missing).unwrap_or(u8::MAX);
        if count > 0.0 {
            rate += count / chain.days_to_loss_from(missing);
            log_kept += count * (-chain.loss_within(missing, YEAR_DAYS)).ln_1p();
        }
    }
    Risk { days_to_loss: rate.recip(), loss_within_year: -f64::exp_m1(log_kept) }
}

/// Of all domains that are told apart, the one to fear most; none if nothing is stored.
pub(super) fn worst(map: &Map, look: &Look, held: &dyn Fn(PolicyId, GroupId) -> Held) -> Option<Worst> {
    let places = map.places(None);
    let kinds: Vec<Domain> = Domain::ALL.into_iter().filter(|domain| places.knows(*domain)).collect();
    let mut worst: BTreeMap<(Domain, u32), (i64, u64)> = BTreeMap::new();
    let rows = map.policies.iter().flat_map(|policy| policy.groups.iter().map(move |row| (policy, row)));
    for (policy, row) in rows {
        let segments = held(policy.id, row.group).segments;
        if segments == 0 {
            continue;
        }
        let spare = look.spare(policy, row);
        let here: Vec<_> = (row.from.iter())
            .filter(|drive| look.holds.contains_key(drive))
            .filter_map(|drive| places.get(*drive).map(|place| &place.at))
            .collect();
        for kind in &kinds {
            let number_at = |at: usize| here[at][*kind as usize];
            for (at, number) in (0..here.len()).map(|at| (at, number_at(at))) {
                if (0..at).any(|other| number_at(other) == number) {
                    continue;
                }
                let count = (at..here.len()).filter(|other| number_at(*other) == number).count() as i64;
                let entry = worst.entry((*kind, number)).or_insert((i64::MAX, 0));
                match entry.0.cmp(&(spare - count)) {
                    std::cmp::Ordering::Greater => *entry = (spare - count, segments),
                    std::cmp::Ordering::Equal => entry.1 += segments,
                    std::cmp::Ordering::Less => {}
                }
            }
        }
    }
    let worst = worst.into_iter().min_by_key(|((kind, number), (spare, segments))| {
        (*spare, std::cmp::Reverse(*segments), std::cmp::Reverse(*kind), *number)
    });
    worst.map(|((domain, number), (spare, segments))| Worst {
        domain,
        name: name(map, &places, domain, number),
        spare,
        segments,
    })
}

/// What people call a domain.
pub(crate) fn name(map: &Map, places: &Places, domain: Domain, number: u32) -> String {
    let name = places.name(domain, number);
    let node = (domain == Domain::Node).then(|| map.nodes.iter().find(|node| node.id.to_string() == name)).flatten();
    match node {
        Some(node) => node.name.clone(),
        None if name.is_empty() || name == "/" => format!("without a label of its {domain}"),
        None => name.to_owned(),
    }
}

/// What fresh groups of a policy survive, by the table that it would get now.
pub(crate) fn fresh(map: &Map, policy: &Policy) -> crate::Survival {
    let (places, spec) = (map.places(Some(policy)), policy.spec());
    let (caps, _) = crate::Caps::best(&places, &spec);
    let rows = crate::spread::build(&places, &spec, &caps);
    let none: BTreeSet<DriveId> = BTreeSet::new();
    crate::survive::survives([(policy.m, rows.as_slice())], &map.places(None), &none)
}
