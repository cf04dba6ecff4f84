//! Where every piece is: drives that answer or don't, groups that can be read or not.
//!
//! 1. A piece lies on one drive, its *holder*, or nowhere. The group's row names the drive where it should be.
//! 2. `alive` counts a group's pieces that lie somewhere, `here` those whose drive answers: `here` ≤ `alive`.
//! 3. A position *lacks* from its piece's death, or from the moment its drive is given up, until it is rebuilt or
//!    the drive returns.
//! 4. A group whose `alive` falls below k is lost for good: it is counted, and left alone from then on.
//! 5. A drive that was taken out, or hasn't joined yet, is dead and stays so: nothing happens to it.

use std::collections::BTreeSet;

use base::{Domain, Instant, PolicyId};
use placement::map::State;
use placement::outcome::Held;
use placement::{Caps, GroupRow, Places, Spec, rebalance, spread};

use crate::fleet::{Error, Fleet};
use crate::tally::Tally;

mod mapped;
mod members;

pub(crate) use mapped::POLICY;

/// No drive.
const NOWHERE: u32 = u32::MAX;
/// The share of a drive that pieces may take: full ones get no more.
const FULL: f64 = 0.95;

/// A drive.
#[derive(Clone, Debug)]
struct Drive {
    /// What operators made of it; whether it works is another matter.
    state: State,
    /// Reasons for which it is away; any is enough.
    away: u16,
    dead: bool,
    /// Given up: its pieces are being rebuilt elsewhere.
    gone: bool,
    /// Raised whenever it answers again: old notices are void.
    life: u32,
    /// Positions whose piece lies here.
    held: Vec<u32>,
    /// Positions whose piece died here and wasn't noticed yet.
    buried: Vec<u32>,
    /// Positions that rows want here.
    named: Vec<u32>,
    size: f64,
}

impl Drive {
    fn new(size: u64, is_member: bool) -> Self {
        let state = if is_member { State::Active } else { State::Removed };
        let (held, buried, named) = Default::default();
        Self { state, away: 0, dead: !is_member, gone: false, life: 0, held, buried, named, size: size as f64 }
    }
}

/// All of it.
pub(crate) struct World {
    places: Places,
    caps: Caps,
    /// Drives on which the policy allows pieces, whoever is a member.
    admitted: Vec<bool>,
    /// Pieces of a group that one domain of each kind may hold.
    rules: [usize; Domain::COUNT],
    spec: Spec,
    n: usize,
    k: u8,
    rows: Vec<GroupRow>,
    loads: Vec<u64>,
    drives: Vec<Drive>,
    holder: Vec<u32>,
    /// When a position began to lack, plus one; 0 if it doesn't.
    since: Vec<u64>,
    alive: Vec<u8>,
    here: Vec<u8>,
    lost: Vec<bool>,
    /// When a group couldn't be read any more, plus one.
    unreadable: Vec<u64>,
    lacking: u64,
    /// Positions that lack and for which there was no drive.
    homeless: BTreeSet<u32>,
    /// Positions that lack because a command gave their piece up.
    given_up: BTreeSet<u32>,
    /// Positions beyond drives' shares that the last wave left where they are.
    uneven: f64,
    /// What is counted.
    pub tally: Tally,
}

impl World {
    /// A fleet on its first day: the groups as placement builds them, everything in its place.
    pub fn new(fleet: &Fleet) -> Result<Self, Error> {
        let mut caps = fleet.check()?;
        let (mut places, spec) = (fleet.places(), fleet.spec());
        let admitted: Vec<bool> = places.list().iter().map(|place| place.open).collect();
        let first = fleet.growth.map_or(fleet.machines.len(), |growth| growth.first);
        let sizes = fleet.machines.iter().enumerate();
        let sizes = sizes.flat_map(|(node, machine)| machine.drives.iter().map(move |size| (*size, node < first)));
        let drives: Vec<Drive> = sizes.map(|(size, is_member)| Drive::new(size, is_member)).collect();
        if fleet.growth.is_some() {
            (0..drives.len()).for_each(|at| places.set_open(at, admitted[at] && drives[at].state == State::Active));
            caps = Caps::check(&places, &spec, &[])?;
        }
        let rows = spread::build(&places, &spec, &caps);
        let n = spec.n();
        let loads = spread::loads(&places, &rows);
        let all: f64 = drives.iter().filter(|drive| drive.state == State::Active).map(|drive| drive.size).sum();
        let usable = all * f64::from(caps.usable_permille) / 1000.0 * fleet.used;
        let mut world = Self {
            n,
            k: spec.k,
            holder: vec![NOWHERE; rows.len() * n],
            since: vec![0; rows.len() * n],
            alive: vec![n as u8; rows.len()],
            here: vec![n as u8; rows.len()],
            lost: vec![false; rows.len()],
            unreadable: vec![0; rows.len()],
            lacking: 0,
            homeless: BTreeSet::new(),
            given_up: BTreeSet::new(),
            uneven: 0.0,
            rules: members::rules(&spec, &caps),
            tally: Tally {
                drives: drives.len(),
                groups: rows.len(),
                stored_bytes: usable,
                position_bytes: usable / (rows.len() * n).max(1) as f64,
                by_spare: vec![0.0; usize::from(spec.m) + 1],
                after_worst: vec![0.0; usize::from(spec.m) + 1],
                ..Tally::default()
            },
            places,
            caps,
            admitted,
            spec,
            rows,
            loads,
            drives,
        };
        world.tally.worst_domain = world.worst_kind().name();
        for group in 0..world.rows.len() {
            for at in 0..n {
                let (position, drive) = (world.position(group as u32, at), world.member(group as u32, at));
                world.holder[position as usize] = drive;
                world.drives[drive as usize].held.push(position);
                world.drives[drive as usize].named.push(position);
            }
        }
        Ok(world)
    }

    fn position(&self, group: u32, at: usize) -> u32 {
        (group as usize * self.n + at) as u32
    }

    /// The group of a position, and which of its pieces it is.
    pub fn group(&self, position: u32) -> (u32, u8) {
        ((position as usize / self.n) as u32, (position as usize % self.n) as u8)
    }

    /// The drive that a row wants a piece on.
    pub fn member(&self, group: u32, at: usize) -> u32 {
        self.places.index(self.rows[group as usize].members[at]).map_or(NOWHERE, |index| index as u32)
    }

    /// The drive that a position's row names.
    pub fn home(&self, position: u32) -> u32 {
        let (group, at) = self.group(position);
        self.member(group, at.into())
    }

    /// Whether a drive answers.
    pub fn answers(&self, drive: u32) -> bool {
        self.drives.get(drive as usize).is_some_and(|drive| drive.away == 0 && !drive.dead)
    }

    /// Which of its lives a drive is in.
    pub fn life(&self, drive: u32) -> u32 {
        self.drives[drive as usize].life
    }

    /// Whether a position waits to be rebuilt, onto a drive that is neither given up nor about to be.
    pub fn is_wanted(&self, position: u32) -> bool {
        let (group, at) = self.group(position);
        if self.since[position as usize] == 0 || self.lost[group as usize] {
            return false;
        }
        let member = &self.drives[self.member(group, at.into()) as usize];
        !member.gone && !member.dead
    }

    /// Positions of a group that lack.
    pub fn wanted(&self, group: u32) -> Vec<u32> {
        (0..self.n).map(|at| self.position(group, at)).filter(|position| self.is_wanted(*position)).collect()
    }

    /// All positions that lack, anywhere.
    pub fn all_wanted(&self) -> Vec<u32> {
        (0..self.since.len() as u32).filter(|position| self.is_wanted(*position)).collect()
    }

    /// Drives that a group's pieces can be read from now.
    pub fn sources(&self, group: u32) -> Vec<u32> {
        let first = group as usize * self.n;
        self.holder[first..first + self.n].iter().copied().filter(|drive| self.answers(*drive)).collect()
    }

    /// Whether the drive that a piece lies on answers.
    pub fn holder_answers(&self, position: u32) -> bool {
        self.answers(self.holder[position as usize])
    }

    /// A drive stops answering for one more reason. True if it answered before.
    pub fn leave(&mut self, drive: u32, now: Instant) -> bool {
        let answered = self.answers(drive);
        self.drives[drive as usize].away += 1;
        if answered {
            self.hide(drive, now);
        }
        answered
    }

    /// A drive dies. True if it answered before.
    pub fn die(&mut self, drive: u32, now: Instant) -> bool {
        if self.drives[drive as usize].dead {
            return false;
        }
        self.tally.deaths += 1;
        self.perish(drive, now)
    }

    /// What is on it is gone. True if it answered before.
    fn perish(&mut self, drive: u32, now: Instant) -> bool {
        let answered = self.answers(drive);
        if answered {
            self.hide(drive, now);
        }
        self.drives[drive as usize].dead = true;
        for position in std::mem::take(&mut self.drives[drive as usize].held) {
            let (group, _) = self.group(position);
            self.holder[position as usize] = NOWHERE;
            self.alive[group as usize] -= 1;
            self.tally.lost_positions += 1;
            self.drives[drive as usize].buried.push(position);
            self.lacks(position, now);
            if self.alive[group as usize] < self.k && !self.lost[group as usize] {
                self.lose(group, now);
            }
        }
        answered
    }

    fn hide(&mut self, drive: u32, now: Instant) {
        for at in 0..self.drives[drive as usize].held.len() {
            let (group, _) = self.group(self.drives[drive as usize].held[at]);
            self.here[group as usize] -= 1;
            if self.here[group as usize] + 1 == self.k && !self.lost[group as usize] {
                self.unreadable[group as usize] = now.0 + 1;
            }
        }
    }

    fn gains(&mut self, group: u32, now: Instant) {
        self.here[group as usize] += 1;
        if self.here[group as usize] == self.k {
            self.readable_again(group, now);
        }
    }

    fn readable_again(&mut self, group: u32, now: Instant) {
        let since = std::mem::take(&mut self.unreadable[group as usize]);
        if since > 0 {
            self.tally.unreadable_minutes += (now.0 + 1 - since) as f64 / 60e9;
        }
    }

    fn lose(&mut self, group: u32, now: Instant) {
        self.readable_again(group, now);
        self.lost[group as usize] = true;
        self.tally.losses.push((now, group));
        let first = group * self.n as u32;
        let is_by_command = self.given_up.range(first..first + self.n as u32).next().is_some();
        self.tally.orders.lost_groups += u64::from(is_by_command);
        for at in 0..self.n {
            let position = self.position(group, at);
            self.settled(position);
        }
    }

    fn lacks(&mut self, position: u32, now: Instant) {
        let (group, _) = self.group(position);
        if self.since[position as usize] == 0 && !self.lost[group as usize] {
            let first = group as usize * self.n;
            let is_second = self.since[first..first + self.n].iter().any(|since| *since > 0);
            self.tally.lost_meanwhile += u64::from(is_second);
            self.since[position as usize] = now.0 + 1;
            self.lacking += 1;
        }
    }

    /// It lacks no more. Returns since when it had, plus one.
    fn settled(&mut self, position: u32) -> u64 {
        let since = std::mem::take(&mut self.since[position as usize]);
        self.lacking -= u64::from(since > 0);
        since
    }

    /// One reason less for which a drive is away. What it brings back is wanted no more: those groups are returned
    /// if it had been given up.
    pub fn come(&mut self, drive: u32, now: Instant) -> BTreeSet<u32> {
        self.drives[drive as usize].away -= 1;
        if !self.answers(drive) {
            return BTreeSet::new();
        }
        self.drives[drive as usize].life += 1;
        let was_gone = std::mem::take(&mut self.drives[drive as usize].gone);
        let mut back = BTreeSet::new();
        for position in self.drives[drive as usize].held.clone() {
            let (group, at) = self.group(position);
            self.gains(group, now);
            if was_gone && self.settled(position) > 0 {
                // One that is being emptied gets nothing back: it stays on its way to where the row says.
                if self.drives[drive as usize].state == State::Active {
                    self.name(position, drive);
                }
                self.rows[group as usize].from[usize::from(at)] = self.places.list()[drive as usize].drive;
                back.insert(group);
            }
        }
        back
    }

    /// Has a row want a piece on another drive.
    fn name(&mut self, position: u32, to: u32) {
        let (group, at) = self.group(position);
        let from = self.member(group, at.into());
        if from == to {
            return;
        }
        self.drives[from as usize].named.retain(|other| *other != position);
        self.drives[to as usize].named.push(position);
        self.loads[from as usize] -= 1;
        self.loads[to as usize] += 1;
        self.rows[group as usize].members[usize::from(at)] = self.places.list()[to as usize].drive;
    }

    /// These drives are given up: production's rule says where their positions go. Returns the positions to
    /// rebuild, and those on the move to one of them, which go elsewhere.
    pub fn give_up(&mut self, drives: &[u32], now: Instant) -> (Vec<u32>, Vec<u32>) {
        let mut touched = BTreeSet::new();
        for drive in drives {
            self.drives[*drive as usize].gone = true;
            touched.extend(self.drives[*drive as usize].named.iter().copied());
            // Pieces that were about to leave this drive are wanted elsewhere, by no row here.
            touched.extend(std::mem::take(&mut self.drives[*drive as usize].buried));
            for position in self.drives[*drive as usize].held.clone() {
                self.lacks(position, now);
                touched.insert(position);
            }
        }
        self.rehome(touched)
    }

    /// Finds drives for positions whose drive is given up. As [`World::give_up`].
    pub fn rehome(&mut self, positions: BTreeSet<u32>) -> (Vec<u32>, Vec<u32>) {
        let (groups, gone): (BTreeSet<u32>, BTreeSet<u32>) = positions
            .iter()
            .map(|position| (self.group(*position), *position))
            .filter(|((group, _), _)| !self.lost[*group as usize])
            .map(|((group, at), _)| (group, self.member(group, at.into())))
            .unzip();
        let gone = gone.into_iter().filter(|drive| self.drives[*drive as usize].gone);
        let gone = gone.map(|drive| self.places.list()[drive as usize].drive).collect();
        self.open();
        let rows = groups.iter().map(|group| &self.rows[*group as usize]);
        let changed = spread::replace_among(&self.places, &self.caps, self.loads.clone(), rows, &gone);
        self.take(&changed);
        let live = positions.into_iter().filter(|position| !self.lost[self.group(*position).0 as usize]);
        let (lacking, moving): (Vec<u32>, Vec<u32>) = live.partition(|position| self.since[*position as usize] > 0);
        let without = |position: &u32| self.drives[self.home(*position) as usize].gone;
        let homeless: Vec<u32> = lacking.iter().copied().filter(without).collect();
        self.homeless.extend(homeless);
        let wanted = lacking.into_iter().filter(|position| self.is_wanted(*position)).collect();
        (wanted, moving.into_iter().filter(|position| self.target_of_move(*position).is_some()).collect())
    }

    /// Tries again to find drives for positions for which there was none. As [`World::give_up`].
    pub fn rehome_rest(&mut self) -> (Vec<u32>, Vec<u32>) {
        match std::mem::take(&mut self.homeless) {
            none if none.is_empty() => Default::default(),
            homeless => self.rehome(homeless),
        }
    }

    /// Rows as placement changed them.
    fn take(&mut self, changed: &[GroupRow]) -> Vec<u32> {
        let mut positions = Vec::new();
        for row in changed {
            let mut was_broken = None;
            for at in 0..self.n {
                let position = self.position(row.group.0, at);
                let to = self.places.index(row.members[at]).map_or(NOWHERE, |index| index as u32);
                if to != self.member(row.group.0, at) {
                    was_broken.get_or_insert_with(|| self.breaks_rules(row.group.0));
                    self.name(position, to);
                    positions.push(position);
                }
            }
            self.rows[row.group.0 as usize].version = row.version;
            let is_broken = was_broken == Some(false) && self.breaks_rules(row.group.0);
            self.tally.broken_rules += u64::from(is_broken);
        }
        positions
    }

    /// Lets those drives take pieces that answer and have room.
    fn open(&mut self) {
        for (index, drive) in self.drives.iter().enumerate() {
            let room = (self.loads[index] + 1) as f64 * self.tally.position_bytes <= drive.size * FULL;
            let fair = self.caps.weights[index] > 0;
            self.places.set_open(index, fair && room && drive.away == 0 && !drive.dead && !drive.gone);
        }
    }

    /// New drives in place of the dead. Returns positions to rebuild now, and moves to even out what there is.
    pub fn restock(&mut self) -> (Vec<u32>, Vec<u32>) {
        // A drive whose death wasn't noticed yet is replaced the next time.
        let known = |drive: &usize| {
            let drive = &self.drives[*drive];
            drive.dead && drive.gone && drive.state == State::Active
        };
        let dead: Vec<usize> = (0..self.drives.len()).filter(known).collect();
        for drive in &dead {
            let drive = &mut self.drives[*drive];
            (drive.dead, drive.gone) = (false, false);
            drive.buried.clear();
            drive.life += 1;
        }
        self.rehome_rest();
        let wanted = self.all_wanted();
        let positions = self.rows.len() * self.n / self.drives.len().max(1);
        if dead.is_empty() {
            return (wanted, Vec::new());
        }
        self.open();
        let moved = self.evened((positions + 1) * dead.len());
        let moved = self.take(&moved);
        (wanted, moved.into_iter().filter(|position| self.target_of_move(*position).is_some()).collect())
    }

    /// The rows of which a position moves to a drive that holds less than its share, so many at the most.
    fn evened(&self, moves: usize) -> Vec<GroupRow> {
        let (policy, down) = (PolicyId(0), BTreeSet::new());
        let (spec, places, caps, rows) = (&self.spec, &self.places, &self.caps, &self.rows);
        let table = rebalance::Table { policy, spec, places, caps, rows, down: &down };
        let limits = rebalance::Limits { in_flight: moves, ..rebalance::Limits::default() };
        let wave = rebalance::wave(&table, limits, &|_, _| Held::default());
        let mut next = self.rows.clone();
        rebalance::apply(policy, &mut next, &wave);
        next.into_iter().zip(&self.rows).filter(|(next, row)| next != *row).map(|(next, _)| next).collect()
    }

    /// Where a piece that lies somewhere should be moved to, if it isn't there.
    pub fn target_of_move(&self, position: u32) -> Option<u32> {
        let (group, at) = self.group(position);
        let (holder, member) = (self.holder[position as usize], self.member(group, at.into()));
        let moves = holder != NOWHERE && holder != member && self.since[position as usize] == 0;
        (moves && !self.lost[group as usize]).then_some(member)
    }

    /// A piece arrives where its row wants it: rebuilt or moved. False if that drive doesn't answer.
    pub fn land(&mut self, position: u32, now: Instant) -> bool {
        let (group, at) = self.group(position);
        let to = self.member(group, at.into());
        if !self.answers(to) || self.lost[group as usize] {
            return false;
        }
        let from = std::mem::replace(&mut self.holder[position as usize], to);
        self.drives[to as usize].held.push(position);
        self.given_up.remove(&position);
        self.rows[group as usize].from[usize::from(at)] = self.places.list()[to as usize].drive;
        let since = self.settled(position);
        if from == NOWHERE {
            self.alive[group as usize] += 1;
            let hours = (now.0 + 1 - since) as f64 / 3600e9;
            self.tally.oldest_hours = self.tally.oldest_hours.max(hours);
            self.tally.wait_hours += hours;
            self.tally.waits += 1;
        } else {
            self.drives[from as usize].held.retain(|other| *other != position);
        }
        match since {
            0 => self.tally.moved_positions += 1,
            _ => {
                self.tally.rebuilt_positions += 1;
                self.tally.rebuilt_in_vain += u64::from(from != NOWHERE);
            }
        }
        if !self.answers(from) {
            self.gains(group, now);
        }
        true
    }

    /// Bytes to rebuild.
    pub fn backlog_bytes(&self) -> f64 {
        self.lacking as f64 * self.tally.position_bytes
    }

    /// Groups that lack pieces, after adding each to its heap by spare pieces, for so many days.
    pub fn count_spare(&mut self, days: f64) -> u64 {
        let mut lacking = 0;
        for (alive, _) in self.alive.iter().zip(&self.lost).filter(|(_, lost)| !**lost) {
            self.tally.by_spare[usize::from(alive - self.k)] += days;
            lacking += u64::from(usize::from(*alive) < self.n);
        }
        lacking
    }

    /// The same for what would be left if the group's worst domain vanished.
    pub fn count_after_worst(&mut self, days: f64) {
        let kind = self.worst_kind() as usize;
        let mut numbers = Vec::with_capacity(self.n);
        for group in (0..self.rows.len()).filter(|group| !self.lost[*group]) {
            let holders = self.holder[group * self.n..(group + 1) * self.n].iter().filter(|drive| **drive != NOWHERE);
            numbers.clear();
            numbers.extend(holders.map(|drive| self.places.list()[*drive as usize].at[kind]));
            numbers.sort_unstable();
            let worst = numbers.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
            match (numbers.len() - worst).checked_sub(self.k.into()) {
                Some(spare) => self.tally.after_worst[spare] += days,
                None => self.tally.after_worst_lost += days,
            }
        }
    }

    fn worst_kind(&self) -> Domain {
        let told_apart = |domain: &Domain| self.places.knows(*domain) && self.places.count(*domain) > 1;
        [Domain::Site, Domain::Rack, Domain::Node].into_iter().find(told_apart).unwrap_or(Domain::Drive)
    }

    /// At the end: what is still unreadable or waiting counts up to now.
    pub fn finish(&mut self, now: Instant) {
        for group in 0..self.rows.len() as u32 {
            self.readable_again(group, now);
        }
        let oldest = self.since.iter().filter(|since| **since > 0).min();
        let waited = oldest.map_or(0.0, |since| (now.0 + 1 - since) as f64 / 3600e9);
        self.tally.oldest_hours = self.tally.oldest_hours.max(waited);
        self.tally.crowded_groups = self.crowded() as u64;
    }

    /// Drives of each domain of a kind.
    pub fn domains(&self, domain: Domain) -> Vec<Vec<u32>> {
        let mut domains = vec![Vec::new(); self.places.count(domain)];
        for (index, place) in self.places.list().iter().enumerate() {
            domains[place.at[domain as usize] as usize].push(index as u32);
        }
        domains
    }

    /// The code: k and m.
    pub fn code(&self) -> (u8, u8) {
        (self.spec.k, self.spec.m)
    }
}
