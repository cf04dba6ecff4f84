//! Drives that come, are emptied and go; and evenness between those that are there.

use base::{Domain, DriveId, Instant};
use placement::map::State;
use placement::rebalance::{self, Limits};
use placement::{Caps, GroupRow, Spec};

use super::{NOWHERE, World};
use crate::fleet::Fleet;

/// Pieces of a group that one domain of each kind may hold: what the policy demands; of a node so few that its loss
/// leaves one to spare, if there are nodes enough for that.
pub(super) fn rules(spec: &Spec, caps: &Caps) -> [usize; Domain::COUNT] {
    let mut rules = [spec.n(); Domain::COUNT];
    rules[Domain::Drive as usize] = 1;
    rules[Domain::Node as usize] = usize::from(spec.m).saturating_sub(1).max(1).max(caps.of(Domain::Node));
    for demand in &spec.demands {
        rules[demand.domain as usize] = usize::from(spec.m) / usize::from(demand.count.max(1));
    }
    rules
}

impl World {
    /// Whether a group's row has more of its pieces in one domain than it may.
    pub(super) fn breaks_rules(&self, group: u32) -> bool {
        let members: Vec<u32> = (0..self.n).map(|at| self.member(group, at)).collect();
        self.is_crowded(&members)
    }

    fn is_crowded(&self, drives: &[u32]) -> bool {
        let places = self.places.list();
        let number = |drive: &u32, kind: usize| places[*drive as usize].at[kind];
        (0..Domain::COUNT).filter(|kind| self.rules[*kind] < self.n).any(|kind| {
            let many = |one| drives.iter().filter(|other| number(other, kind) == number(one, kind)).count();
            drives.iter().any(|one| many(one) > self.rules[kind])
        })
    }

    /// Groups whose pieces lie, by no row but by where they are, closer together than they may.
    pub fn crowded(&self) -> usize {
        let is_crowded = |group: &usize| {
            let holders = &self.holder[group * self.n..(group + 1) * self.n];
            let holders: Vec<u32> = holders.iter().copied().filter(|drive| *drive != NOWHERE).collect();
            !self.lost[*group] && self.is_crowded(&holders)
        };
        (0..self.rows.len()).filter(is_crowded).count()
    }

    /// What operators made of a drive.
    pub fn state(&self, drive: u32) -> State {
        self.drives[drive as usize].state
    }

    /// Whether a drive is new or taken out, as far as it has nothing, and no row wants anything on it.
    pub fn is_empty(&self, drive: u32) -> bool {
        let drive = &self.drives[drive as usize];
        drive.held.is_empty() && drive.named.is_empty() && drive.buried.is_empty()
    }

    /// Whether it died, and that is known.
    pub fn is_known_dead(&self, drive: u32) -> bool {
        self.drives[drive as usize].dead && self.drives[drive as usize].gone
    }

    /// New drives take the place of those that were taken out, or never were there.
    pub fn join(&mut self, drives: &[u32]) {
        for drive in drives {
            let drive = &mut self.drives[*drive as usize];
            (drive.state, drive.dead, drive.gone) = (State::Active, false, false);
            drive.life += 1;
        }
        self.recap();
    }

    /// Drives that were being emptied are used again.
    pub fn keep(&mut self, drives: &[u32]) {
        for drive in drives {
            let drive = &mut self.drives[*drive as usize];
            if drive.state == State::Draining {
                drive.state = State::Active;
            }
        }
        self.recap();
    }

    /// These drives are in that state from now on, and rows are as placement changed them. What is on drives that are gone
    /// or removed is gone. Returns positions to rebuild, and to move.
    pub fn order(&mut self, drives: &[u32], state: State, rows: &[GroupRow], now: Instant) -> (Vec<u32>, Vec<u32>) {
        for drive in drives {
            let drive = &mut self.drives[*drive as usize];
            drive.state = drive.state.max(state);
        }
        self.recap();
        let known: Vec<GroupRow> =
            rows.iter().filter(|row| (row.group.0 as usize) < self.rows.len()).cloned().collect();
        let changed = self.take(&known);
        let (mut wanted, mut moves): (Vec<u32>, Vec<u32>) =
            changed.into_iter().partition(|position| self.since[*position as usize] > 0);
        if state >= State::Gone {
            let working = |drive: &u32| !self.drives[*drive as usize].dead;
            let working: Vec<u32> = drives.iter().copied().filter(working).collect();
            for drive in working {
                let held = &self.drives[drive as usize].held;
                self.tally.orders.given_up_positions += held.len() as u64;
                self.given_up.extend(held);
                self.perish(drive, now);
            }
            let (more, moving) = self.give_up(drives, now);
            wanted.extend(more);
            moves.extend(moving);
        }
        wanted.retain(|position| self.is_wanted(*position));
        moves.retain(|position| self.target_of_move(*position).is_some());
        (wanted, moves)
    }

    /// What drives are worth, by who is a member.
    fn recap(&mut self) {
        for (at, drive) in self.drives.iter().enumerate() {
            self.places.set_open(at, self.admitted[at] && drive.state == State::Active);
        }
        self.caps = Caps::best(&self.places, &self.spec).0;
    }

    /// Positions on the way off a drive that is being emptied.
    pub fn leaving(&self, drive: u32) -> Vec<u32> {
        let drive = &self.drives[drive as usize];
        if drive.state != State::Draining {
            return Vec::new();
        }
        drive.held.iter().copied().filter(|position| self.target_of_move(*position).is_some()).collect()
    }

    /// The next wave for evenness, as a store would have it. Returns the positions that move.
    pub fn even(&mut self, fleet: &Fleet, in_flight: usize) -> Vec<u32> {
        let found = self.beyond_shares();
        self.tally.evened_least += (found - self.uneven).max(0.0);
        let limits = Limits { in_flight, ..Limits::default() };
        let wave = rebalance::next(&self.map(fleet, 1), &self.down(), limits, &self.held());
        let mut rows: Vec<GroupRow> = self.rows.clone();
        rebalance::apply(super::POLICY, &mut rows, &wave);
        let changed: Vec<GroupRow> =
            rows.into_iter().zip(&self.rows).filter(|(now, row)| now != *row).map(|(now, _)| now).collect();
        let moved = self.take(&changed);
        self.tally.evened_positions += moved.len() as u64;
        self.uneven = self.beyond_shares();
        moved.into_iter().filter(|position| self.target_of_move(*position).is_some()).collect()
    }

    /// Positions beyond drives' shares by size: so many must move, whatever moves them.
    fn beyond_shares(&self) -> f64 {
        let is_open = |at: usize| self.admitted[at] && self.drives[at].state == State::Active && !self.drives[at].gone;
        let room: f64 = (0..self.drives.len()).filter(|at| is_open(*at)).map(|at| self.drives[at].size).sum();
        let all = self.loads.iter().sum::<u64>() as f64;
        let share = |at: usize| if is_open(at) { all * self.drives[at].size / room } else { f64::INFINITY };
        (0..self.drives.len()).map(|at| (self.loads[at] as f64 - share(at)).max(0.0)).sum()
    }

    /// Whether all pieces are there, and where they belong, and every drive answers that wasn't given up.
    pub fn is_whole(&self) -> bool {
        self.lacking == 0
            && self.down().is_empty()
            && (0..self.holder.len() as u32).all(|position| self.target_of_move(position).is_none())
    }

    /// Pieces of each group that can be read now, counted from where each lies and what its drive is: by no row, no map
    /// and none of the sums that are kept here. Of a group that is lost already none.
    pub fn readable_pieces(&self) -> Vec<u8> {
        let is_there = |drive: &&u32| {
            let drive = self.drives.get(**drive as usize);
            drive.is_some_and(|drive| drive.away == 0 && !drive.dead && drive.state < State::Gone)
        };
        let groups = self.holder.chunks(self.n.max(1)).zip(&self.lost);
        groups.map(|(at, lost)| if *lost { 0 } else { at.iter().filter(is_there).count() as u8 }).collect()
    }

    /// The name of a drive in the map.
    pub fn drive_id(&self, drive: u32) -> DriveId {
        self.places.list()[drive as usize].drive
    }

    /// The number of a drive of the map.
    pub fn drive_number(&self, drive: DriveId) -> Option<u32> {
        self.places.index(drive).map(|at| at as u32)
    }
}
