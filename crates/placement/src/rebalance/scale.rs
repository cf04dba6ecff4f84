//! Loads of drives against their fair shares, and the search for moves that bring them closer.

use std::collections::BTreeSet;

use base::Domain;

use super::{Limits, Move, Spread, Table, Why};
use crate::spread::scatter;

/// Fractions of a step that fair shares are counted in.
const UNIT: i128 = 1 << 10;
/// Fractions of a fair share that drives are ordered by.
const RELATIVE: i128 = 1 << 32;
/// Pairs of a position and a drive that are looked at for one move: bounds the time that a blocked drive
/// costs. The whole of a thousand drives' rows.
const TRIES_MAX: usize = 100_000;

/// A number that no place has.
const NOWHERE: usize = usize::MAX;

/// Which drives take part in a move.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those that are off by half a position at least, so that none comes to be off the other way by more.
    Off,
    /// All that aren't off the other way, if both together come closer: where drives hold a few positions each, one that
    /// joins would otherwise stay empty, since nobody has half a position too many.
    Rounded,
    /// Those within the tolerance too: a detour.
    Tolerated,
}

/// A move in terms of rows and places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub row: usize,
    position: usize,
    from: usize,
    to: usize,
    pub why: Why,
}

impl Step {
    /// The same for others.
    pub fn told(&self, table: &Table<'_>, bytes: &[u64]) -> Move {
        let (row, places) = (&table.rows[self.row], table.places.list());
        Move {
            policy: table.policy,
            group: row.group,
            position: self.position,
            from: places[self.from].drive,
            to: places[self.to].drive,
            bytes: bytes[self.row],
            why: self.why,
        }
    }
}

/// A table with the loads that it puts on drives.
pub(super) struct Scale<'a> {
    table: &'a Table<'a>,
    tolerance: i128,
    spread: Spread,
    /// Members of each row as places.
    rows: Vec<Vec<usize>>,
    weights: Vec<i128>,
    may_move: Vec<bool>,
    /// By place, in units.
    loads: Vec<i128>,
    fair: Vec<i128>,
    /// All places, the emptiest first.
    order: BTreeSet<(i128, u64, usize)>,
    /// By place, rows and positions on it.
    held: Vec<Vec<(usize, usize)>>,
}

impl<'a> Scale<'a> {
    pub fn new(table: &'a Table<'a>, steps: &[u64], limits: Limits, may_move: impl Fn(usize) -> bool) -> Self {
        let places = table.places.list().len();
        let (mut loads, mut held) = (vec![0; places], vec![Vec::new(); places]);
        let weights: Vec<i128> = steps.iter().map(|steps| i128::from(*steps) * UNIT).collect();
        let is_down: Vec<bool> = table.places.list().iter().map(|place| table.down.contains(&place.drive)).collect();
        let mut rows = Vec::with_capacity(table.rows.len());
        let mut moves = Vec::with_capacity(table.rows.len());
        for (at, row) in table.rows.iter().enumerate() {
            let place = |drive| table.places.index(drive).unwrap_or(NOWHERE);
            let members: Vec<usize> = row.members.iter().map(|drive| place(*drive)).collect();
            let is_whole = members.iter().all(|index| *index != NOWHERE && !is_down[*index]);
            moves.push(is_whole && row.moving().next().is_none() && may_move(at));
            for (position, index) in members.iter().enumerate().filter(|(_, index)| **index != NOWHERE) {
                loads[*index] += weights[at];
                held[*index].push((at, position));
            }
            rows.push(members);
        }
        let salt = |at: usize| (scatter(&table.rows[at].group.0.to_le_bytes(), 1), at);
        held.iter_mut().for_each(|rows| rows.sort_by_key(|(row, _)| salt(*row)));
        let mut scale = Self {
            table,
            tolerance: i128::from(limits.tolerance_permille),
            spread: limits.spread,
            rows,
            weights,
            may_move: moves,
            fair: fair(table, loads.iter().sum()),
            loads,
            order: BTreeSet::new(),
            held,
        };
        scale.order = (0..places).map(|index| scale.key(index)).collect();
        scale
    }

    /// Keeps more rows where they are.
    pub fn bar(&mut self, which: impl Fn(usize) -> bool) {
        self.may_move.iter_mut().enumerate().for_each(|(at, may)| *may &= !which(at));
    }

    /// Counts a move that was decided elsewhere.
    pub fn follow(&mut self, step: &Step) {
        self.shift(step.from, -self.weights[step.row]);
        self.shift(step.to, self.weights[step.row]);
        self.rows[step.row][step.position] = step.to;
        self.may_move[step.row] = false;
    }

    fn key(&self, index: usize) -> (i128, u64, usize) {
        (self.relative(index), scatter(&self.table.places.list()[index].drive.0, 7), index)
    }

    fn shift(&mut self, index: usize, by: i128) {
        self.order.remove(&self.key(index));
        self.loads[index] += by;
        self.order.insert(self.key(index));
    }

    /// How far a place is above its fair share, in units.
    fn off(&self, index: usize) -> i128 {
        self.loads[index] - self.fair[index]
    }

    /// The same as a part of the share. What should hold nothing and does is the fullest of all.
    fn relative(&self, index: usize) -> i128 {
        match (self.fair[index], self.loads[index]) {
            (0, 0) => 0,
            (0, _) => i128::MAX,
            (fair, _) => self.off(index) * RELATIVE / fair,
        }
    }

    fn is_over(&self, index: usize) -> bool {
        self.off(index) * 1000 > self.tolerance * self.fair[index]
    }

    fn is_under(&self, index: usize) -> bool {
        self.takes(index) && self.off(index) * 1000 < -self.tolerance * self.fair[index]
    }

    fn takes(&self, index: usize) -> bool {
        self.fair[index] > 0 && self.table.places.list()[index].open
    }

    /// Thousandths of the fair share of the fullest and the emptiest, and the steps that must move at least.
    pub fn spans(&self) -> (u64, u64, u128) {
        let permille = |index: &usize| (self.loads[*index] * 1000 / self.fair[*index].max(1)) as u64;
        let open: Vec<usize> = (0..self.loads.len()).filter(|index| self.fair[*index] > 0).collect();
        let beyond = |index: &usize| {
            let tolerated = self.tolerance * self.fair[*index] / 1000;
            ((self.off(*index) - tolerated).max(0), (-self.off(*index) - tolerated).max(0))
        };
        let sums =
            (0..self.loads.len()).map(|index| beyond(&index)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let steps = sums.0.max(sums.1) / UNIT;
        let fullest = open.iter().map(permille).max().unwrap_or(0);
        (fullest, open.iter().map(permille).min().unwrap_or(0), steps as u128)
    }

    /// Moves positions whose domains hold more of the group than `rules` allow.
    pub fn respread(&mut self, rules: &[usize; Domain::COUNT], limit: usize, moves: &mut Vec<Step>) {
        for row in 0..self.rows.len() {
            if moves.len() >= limit {
                return;
            }
            if !self.may_move[row] {
                continue;
            }
            let mut beyond: Vec<usize> =
                (0..self.rows[row].len()).filter(|position| self.is_beyond(row, *position, rules)).collect();
            beyond.sort_by_key(|position| (std::cmp::Reverse(self.relative(self.rows[row][*position])), *position));
            let found = beyond.into_iter().find_map(|position| {
                let fits = |to: &usize| self.takes(*to) && self.fits(row, position, *to, Spread::Capped);
                let to = self.order.iter().map(|(.., to)| *to).find(fits)?;
                Some(Step { row, position, from: self.rows[row][position], to, why: Why::Spread })
            });
            if let Some(step) = found {
                self.follow(&step);
                moves.push(step);
            }
        }
    }

    fn is_beyond(&self, row: usize, position: usize, rules: &[usize; Domain::COUNT]) -> bool {
        let members = &self.rows[row];
        rules.iter().enumerate().any(|(kind, rule)| {
            *rule < members.len() && {
                let number = self.number(members[position], kind);
                members.iter().filter(|index| self.number(**index, kind) == number).count() > *rule
            }
        })
    }

    /// Moves positions until no drive is off by more than the tolerance, or nothing can be done about it.
    pub fn even(&mut self, limit: usize, moves: &mut Vec<Step>) {
        let all = [
            (Reach::Off, Spread::Kept),
            (Reach::Off, Spread::Capped),
            (Reach::Rounded, Spread::Kept),
            (Reach::Rounded, Spread::Capped),
            (Reach::Tolerated, Spread::Kept),
            (Reach::Tolerated, Spread::Capped),
        ];
        let widest = self.spread;
        for (reach, spread) in all.into_iter().filter(|(_, spread)| *spread <= widest) {
            self.rounds(limit, moves, |scale| scale.fullest(), |scale, from| scale.push(from, spread, reach));
            self.rounds(limit, moves, |scale| scale.emptiest(), |scale, to| scale.pull(to, spread, reach));
        }
    }

    /// One move for each of these drives, again and again as long as there are any.
    fn rounds(
        &mut self,
        limit: usize,
        moves: &mut Vec<Step>,
        whose: impl Fn(&Self) -> Vec<usize>,
        find: impl Fn(&Self, usize) -> Option<Step>,
    ) {
        let mut stuck = BTreeSet::new();
        loop {
            let before = moves.len();
            for index in whose(self) {
                if moves.len() >= limit {
                    return;
                }
                // Others' moves may have helped it meanwhile.
                if stuck.contains(&index) || !(self.is_over(index) || self.is_under(index)) {
                    continue;
                }
                match find(self, index) {
                    Some(step) => {
                        self.follow(&step);
                        moves.push(step);
                    }
                    None => _ = stuck.insert(index),
                }
            }
            if moves.len() == before {
                return;
            }
        }
    }

    fn fullest(&self) -> Vec<usize> {
        self.order.iter().rev().map(|(.., index)| *index).filter(|index| self.is_over(*index)).collect()
    }

    fn emptiest(&self) -> Vec<usize> {
        self.order.iter().map(|(.., index)| *index).filter(|index| self.is_under(*index)).collect()
    }

    /// A move from a drive that is too full, to the emptiest that it can go to.
    fn push(&self, from: usize, spread: Spread, reach: Reach) -> Option<Step> {
        let end = if reach == Reach::Tolerated { self.tolerance * RELATIVE / 1000 } else { 0 };
        let mut tries = 0;
        for (row, position) in self.held[from].iter().filter(|(row, _)| self.may_move[*row]) {
            for (.., to) in self.order.iter().take_while(|(relative, ..)| *relative <= end) {
                tries += 1;
                if self.is_good(*row, from, *to, reach) && self.fits(*row, *position, *to, spread) {
                    return Some(self.step(*row, *position, *to));
                }
                if tries >= TRIES_MAX {
                    return None;
                }
            }
        }
        None
    }

    /// A move to a drive that is too empty, from the fullest that it can come from.
    fn pull(&self, to: usize, spread: Spread, reach: Reach) -> Option<Step> {
        let end = if reach == Reach::Tolerated { -self.tolerance * RELATIVE / 1000 } else { 0 };
        let mut tries = 0;
        for (.., from) in self.order.iter().rev().take_while(|(relative, ..)| *relative >= end) {
            for (row, position) in self.held[*from].iter().filter(|(row, _)| self.may_move[*row]) {
                tries += 1;
                if self.is_good(*row, *from, to, reach) && self.fits(*row, *position, to, spread) {
                    return Some(self.step(*row, *position, to));
                }
                if tries >= TRIES_MAX {
                    return None;
                }
            }
        }
        None
    }

    fn step(&self, row: usize, position: usize, to: usize) -> Step {
        let from = self.rows[row][position];
        let why = if self.fair[from] == 0 { Why::Leave } else { Why::Load };
        Step { row, position, from, to, why }
    }

    /// Whether moving a row's weight brings both drives closer to fair, or both together.
    fn is_good(&self, row: usize, from: usize, to: usize, reach: Reach) -> bool {
        let weight = self.weights[row];
        let (above, below, share) = (self.off(from), self.off(to), self.fair[to]);
        if weight == 0 || from == to || !self.takes(to) {
            return false;
        }
        // From (load − fair)² / fair before and after, of both.
        let lowers = (2 * above - weight) * share > (2 * below + weight) * self.fair[from];
        let leaves = self.fair[from] == 0;
        let within = match reach {
            Reach::Off => (leaves || 2 * above >= weight) && 2 * below <= -weight,
            Reach::Rounded => above >= 0 && below <= 0,
            Reach::Tolerated => {
                let least = -self.tolerance * self.fair[from];
                (below + weight) * 1000 <= self.tolerance * share && (leaves || (above - weight) * 1000 >= least)
            }
        };
        (lowers || leaves) && within
    }

    /// Whether a group keeps to the caps, and to its spread, if one of its positions goes there.
    fn fits(&self, row: usize, position: usize, to: usize, spread: Spread) -> bool {
        let members = &self.rows[row];
        let caps = self.table.caps;
        (0..Domain::COUNT).all(|kind| {
            let number = self.number(to, kind);
            let others = members.iter().enumerate().filter(|(at, _)| *at != position);
            let count = 1 + others.filter(|(_, index)| self.number(**index, kind) == number).count();
            count <= caps.most[kind]
                && (spread == Spread::Capped || count <= caps.goal[kind] || count <= self.densest(row, kind))
        })
    }

    /// The most pieces that a group has in one domain of a kind.
    fn densest(&self, row: usize, kind: usize) -> usize {
        let numbers = || self.rows[row].iter().map(|index| self.number(*index, kind));
        numbers().map(|one| numbers().filter(|other| *other == one).count()).max().unwrap_or(0)
    }

    fn number(&self, index: usize, kind: usize) -> u32 {
        self.table.places.list()[index].at[kind]
    }
}

/// What each place should hold of so much in all; nothing where it is closed for good.
fn fair(table: &Table<'_>, all: i128) -> Vec<i128> {
    let weights = &table.caps.weights;
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    // Weights have 40 bits (`Caps`) and loads a few more than positions: the product fits.
    weights.iter().map(|weight| all * i128::from(*weight) / (sum.max(1) as i128)).collect()
}
