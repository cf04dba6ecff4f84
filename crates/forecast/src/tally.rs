//! What was counted while years passed.

use std::collections::BTreeMap;

use base::Instant;

/// Longest table of spare pieces: a code's pieces, none missing to all.
pub const SPARE_MAX: usize = base::limits::CODE_PIECES_MAX + 1;

/// What stood on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Day {
    /// The day, from 1.
    pub day: u32,
    /// Bytes to rebuild.
    pub backlog_bytes: f64,
    /// Groups that lack pieces.
    pub lacking_groups: u64,
}

/// How often something was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Times.
    pub asked: u64,
    /// Times that the gate refused it.
    pub refused: u64,
    /// Times that it was done.
    pub done: u64,
    /// Whether it is a slip.
    pub is_slip: bool,
}

/// What an operator asked for, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// By what it was.
    pub kinds: BTreeMap<&'static str, Asked>,
    /// Pieces that were on what was declared lost or taken out.
    pub given_up_positions: u64,
    /// Groups that were lost while a piece was missing that a command had given up.
    pub lost_groups: u64,
    /// Commands after which the drives themselves showed what the gate promises not to happen.
    pub broken: u64,
    /// What it was, of the first of them.
    pub complaints: Vec<String>,
}

impl Orders {
    /// Commands in all, slips among them.
    pub fn sum(&self) -> Asked {
        Self::add(self.kinds.values())
    }

    /// The slips.
    pub fn slips(&self) -> Asked {
        Self::add(self.kinds.values().filter(|kind| kind.is_slip))
    }

    fn add<'a>(kinds: impl Iterator<Item = &'a Asked>) -> Asked {
        kinds.fold(Asked::default(), |sum, one| Asked {
            asked: sum.asked + one.asked,
            refused: sum.refused + one.refused,
            done: sum.done + one.done,
            is_slip: one.is_slip,
        })
    }
}

/// The figures of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Years that passed.
    pub years: f64,
    /// Drives.
    pub drives: usize,
    /// Placement groups.
    pub groups: usize,
    /// Bytes of all pieces together.
    pub stored_bytes: f64,
    /// Bytes that one position of a group stands for: its pieces of all the group's segments.
    pub position_bytes: f64,
    /// Drives that died.
    pub deaths: u64,
    /// Times that a node or a domain was away for a while.
    pub outages: u64,
    /// When which group was lost.
    pub losses: Vec<(Instant, u32)>,
    /// Group-minutes in which data couldn't be read, though it wasn't lost.
    pub unreadable_minutes: f64,
    /// Positions whose pieces died with their drive.
    pub lost_positions: u64,
    /// Positions rebuilt.
    pub rebuilt_positions: u64,
    /// Those of them that were rebuilt although the drive came back in the end.
    pub rebuilt_in_vain: u64,
    /// Positions read for that.
    pub read_positions: f64,
    /// Positions moved: to new drives, and off drives that leave.
    pub moved_positions: u64,
    /// Pieces that went missing while another of their group was: repair during repair.
    pub lost_meanwhile: u64,
    /// Times that a row was changed so that it has more of its pieces in one domain than the policy allows, and hadn't before.
    pub broken_rules: u64,
    /// Groups that have more pieces in one domain than that in the end, wherever rows want them.
    pub crowded_groups: u64,
    /// What an operator asked for.
    pub orders: Orders,
    /// Nodes that joined, and those that left.
    pub joined: u64,
    /// Nodes that were emptied and taken out because the fleet became smaller.
    pub left: u64,
    /// Positions that waves for evenness moved.
    pub evened_positions: u64,
    /// The least that these could be: what drives held beyond their share whenever more of that was found.
    pub evened_least: f64,
    /// Hours from the last that joined, left or failed until all pieces of all groups were there and where they belong.
    pub whole_hours: Option<f64>,
    /// The most bytes to rebuild at any time.
    pub backlog_bytes_max: f64,
    /// The longest that a dead or gone piece waited until it was rebuilt, in hours.
    pub oldest_hours: f64,
    /// The sum of those waits, in hours, over all rebuilt positions whose pieces had died.
    pub wait_hours: f64,
    /// How many that are.
    pub waits: u64,
    /// Group-days by spare pieces that exist.
    pub by_spare: Vec<f64>,
    /// Group-days by the spare pieces that would be left if the group's worst domain vanished; below zero at 0 of
    /// `after_worst_lost`.
    pub after_worst: Vec<f64>,
    /// Group-days on which the worst domain's loss would have been the group's.
    pub after_worst_lost: f64,
    /// Of the worst domains: their kind's name.
    pub worst_domain: &'static str,
    /// Day by day.
    pub days: Vec<Day>,
}

impl Tally {
    /// Reads for each piece that was rebuilt.
    pub fn reads_per_rebuilt(&self) -> f64 {
        self.read_positions / (self.rebuilt_positions.max(1)) as f64
    }

    /// Reads for each piece that died: what came back after it was rebuilt makes it more.
    pub fn reads_per_lost(&self) -> f64 {
        self.read_positions / (self.lost_positions.max(1)) as f64
    }

    /// Mean days from a piece's death to its rebuilding.
    pub fn repair_days(&self) -> f64 {
        if self.waits == 0 { 0.0 } else { self.wait_hours / self.waits as f64 / 24.0 }
    }

    /// Lost groups per group and year.
    pub fn loss_rate(&self) -> f64 {
        self.losses.len() as f64 / self.exposure()
    }

    /// The 95 % interval of that.
    pub fn loss_interval(&self) -> (f64, f64) {
        let (low, high) = poisson_interval(self.losses.len() as u64);
        (low / self.exposure(), high / self.exposure())
    }

    /// Minutes a year in which an object, whichever, couldn't be read.
    pub fn unreadable_minutes_per_year(&self) -> f64 {
        self.unreadable_minutes / self.exposure()
    }

    fn exposure(&self) -> f64 {
        (self.groups.max(1) as f64) * self.years.max(f64::MIN_POSITIVE)
    }
}

/// The exact 95 % interval of the mean of a Poisson count (Garwood 1936): of 0 it is 0 to 3.69.
///
/// Losses come in bunches (groups share drives), so for few bunches the truth is wider.
pub fn poisson_interval(count: u64) -> (f64, f64) {
    // P(at most c | mean) falls with the mean.
    let at_most = |count: u64, mean: f64| {
        let mut log = -mean;
        let mut sum = log.exp();
        for i in 1..=count {
            log += (mean / i as f64).ln();
            sum += log.exp();
        }
        sum
    };
    let solve = |wanted: f64, count: u64| {
        let (mut low, mut high) = (0.0, (count as f64 + 10.0) * 3.0);
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            if at_most(count, middle) > wanted { low = middle } else { high = middle }
        }
        (low + high) / 2.0
    };
    if count > 10_000 {
        let (mean, spread) = (count as f64, 1.96 * (count as f64).sqrt());
        return (mean - spread, mean + spread);
    }
    let low = if count == 0 { 0.0 } else { solve(0.975, count - 1) };
    (low, solve(0.025, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_count_is_the_printed_one() {
        // Garwood's table.
        for (count, low, high) in [(0, 0.0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39), (100, 81.36, 121.63)] {
            let (found_low, found_high) = poisson_interval(count);
            assert!(
                (found_low - low).abs() < 0.01 && (found_high - high).abs() < 0.01,
                "{count}: {found_low} {found_high}"
            );
        }
    }
}
