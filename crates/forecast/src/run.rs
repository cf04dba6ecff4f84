//! The event loop: what happens, in the order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use base::{Domain, GroupId, Instant, PolicyId, SegmentId, VolumeId};
use placement::map::State;
use steward::{Need, Steward, Target};

use crate::chance::Chance;
use crate::fleet::{Error, Event, Fleet, Strikes};
use crate::tally::{Day, Tally};
use crate::world::World;

mod growth;
mod operator;

/// Years in one run at the most; moments are 64-bit nanoseconds.
pub const YEARS_MAX: f64 = 500.0;
const DAY: f64 = 86_400e9;
const YEAR: f64 = 365.0 * DAY;
/// Days between looks at what the loss of a domain would leave.
const WORST_EVERY: u32 = 7;
/// Repairs in flight for each node that rebuilds: as many as `node` has.
const IN_FLIGHT_EACH: usize = 4;
/// Repairs in flight at the most.
const IN_FLIGHT_MAX: usize = 512;
/// After this time repairs that couldn't be made are tried again, and moves that couldn't.
const AGAIN: f64 = 300e9;

/// What happens at a moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A drive dies, any.
    Death,
    /// A node goes away for a while, any.
    Outage,
    /// An event of the fleet's list strikes.
    Strike(usize),
    /// Drives come back.
    Come(Vec<u32>),
    /// Drives were silent for long: those still in that life are given up.
    GiveUp(Vec<(u32, u32)>),
    /// A group's repair of that number is through.
    Rebuilt(u32, u64),
    /// A piece was moved.
    Moved(u32),
    /// New drives arrive.
    Restock,
    /// A day ends.
    Day(u32),
    /// Repairs may be possible that weren't.
    Wake,
    /// The operator types something.
    Command,
    /// The next node joins, or begins to leave.
    Grow,
    /// A node that is being emptied may be empty.
    Leave(u32),
    /// Evening out may have more to do.
    Even,
}

/// Lets `years` pass over a fleet. The same seed gives the same years.
pub fn run(fleet: &Fleet, years: f64, seed: u64) -> Result<Tally, Error> {
    if !(years > 0.0 && years <= YEARS_MAX) {
        return Err(Error::value("years", format!("{years} is not above 0 and up to {YEARS_MAX}")));
    }
    let mut run = Run::new(fleet, seed)?;
    run.pass(Instant((years * YEAR) as u64));
    run.world.tally.years = years;
    Ok(run.world.tally)
}

/// A repair in flight.
#[derive(Debug)]
struct Job {
    number: u64,
    /// Positions, and the drives that they are rebuilt onto.
    onto: Vec<(u32, u32)>,
    /// Drives read.
    sources: usize,
    begun: u64,
    end: u64,
}

struct Run<'a> {
    fleet: &'a Fleet,
    world: World,
    chance: Chance,
    steward: Steward,
    events: BinaryHeap<Reverse<(u64, u64, What)>>,
    count: u64,
    now: Instant,
    node_of: Vec<u32>,
    drives_of: Vec<Vec<u32>>,
    domains: BTreeMap<Domain, Vec<Vec<u32>>>,
    /// What is in flight, by group.
    jobs: BTreeMap<u32, Job>,
    /// Until when drives and nodes are taken by repairs, and drives by moves.
    drive_busy: Vec<u64>,
    node_busy: Vec<u64>,
    move_busy: Vec<u64>,
    /// Nodes that rebuild, the least busy first.
    workers: BTreeSet<(u64, u32)>,
    awake: bool,
    /// The operator's own chance.
    whim: Chance,
    /// Drives that are drained by a slip.
    slipped: Vec<u32>,
    /// Nodes that haven't joined yet, or left because the fleet became smaller.
    apart: BTreeSet<u32>,
    /// Nodes that were told to leave.
    leaving: usize,
    /// When the last one joined or left.
    settled_at: u64,
    /// Whether another wave is due.
    is_evening: bool,
}

impl<'a> Run<'a> {
    fn new(fleet: &'a Fleet, seed: u64) -> Result<Self, Error> {
        let world = World::new(fleet)?;
        let nodes = fleet.machines.len();
        let workers = if fleet.workers == 0 { nodes } else { fleet.workers.min(nodes) };
        let node_of = fleet.node_of_drives();
        let mut drives_of = vec![Vec::new(); nodes];
        for (drive, node) in node_of.iter().enumerate() {
            drives_of[*node as usize].push(drive as u32);
        }
        let domains = Domain::ALL.into_iter().map(|domain| (domain, world.domains(domain))).collect();
        let drives = node_of.len();
        let mut run = Self {
            fleet,
            world,
            chance: Chance::new(seed),
            steward: Steward::new((workers * IN_FLIGHT_EACH).min(IN_FLIGHT_MAX)),
            events: BinaryHeap::new(),
            count: 0,
            now: Instant(0),
            node_of,
            drives_of,
            domains,
            jobs: BTreeMap::new(),
            drive_busy: vec![0; drives],
            node_busy: vec![0; nodes],
            move_busy: vec![0; drives],
            workers: (0..workers as u32).map(|worker| (0, worker)).collect(),
            awake: false,
            whim: Chance::new(operator::seed(seed)),
            slipped: Vec::new(),
            apart: BTreeSet::new(),
            leaving: 0,
            settled_at: 0,
            is_evening: false,
        };
        run.begin();
        Ok(run)
    }

    fn begin(&mut self) {
        self.plan_death();
        self.plan_outage();
        (0..self.fleet.events.len()).for_each(|event| self.plan_strike(event));
        self.after(self.fleet.replace_days * DAY, What::Restock);
        self.after(DAY, What::Day(1));
        self.plan_command();
        self.plan_growth();
    }

    fn pass(&mut self, end: Instant) {
        while let Some(Reverse((at, _, what))) = self.events.pop() {
            if at > end.0 {
                break;
            }
            self.now = Instant(at);
            self.happen(what);
            self.repair();
            self.note_whole();
            let backlog = self.world.backlog_bytes();
            self.world.tally.backlog_bytes_max = self.world.tally.backlog_bytes_max.max(backlog);
        }
        self.world.finish(end);
    }

    /// In so many nanoseconds; never, if that is beyond all time.
    fn after(&mut self, span: f64, what: What) {
        if span < YEARS_MAX * YEAR {
            self.count += 1;
            self.events.push(Reverse((self.now.0 + span as u64, self.count, what)));
        }
    }

    fn plan_death(&mut self) {
        let wait = self.chance.wait(self.fleet.drive_fails * self.node_of.len() as f64);
        self.after(wait * YEAR, What::Death);
    }

    fn plan_outage(&mut self) {
        let wait = self.chance.wait(self.fleet.outages * self.drives_of.len() as f64);
        self.after(wait * YEAR, What::Outage);
    }

    fn plan_strike(&mut self, number: usize) {
        let event = &self.fleet.events[number];
        let many = match event.strikes {
            Strikes::One(domain) => self.domains[&domain].len(),
            Strikes::Share(_) | Strikes::All => 1,
        };
        let wait = self.chance.wait(event.per_year * many as f64);
        self.after(wait * YEAR, What::Strike(number));
    }

    /// Whether what fails, and who types, has come to rest.
    fn is_calm(&self) -> bool {
        self.fleet.calm_after_days.is_some_and(|days| self.now.0 as f64 >= days * DAY)
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Death | What::Outage | What::Strike(_) | What::Command if self.is_calm() => {}
            What::Death => {
                // A dead one that is drawn can't die again: so the rate falls with those that are left.
                let drive = self.chance.below(self.node_of.len()) as u32;
                self.kill(&[drive]);
                self.plan_death();
            }
            What::Outage => {
                let node = self.chance.below(self.drives_of.len());
                let minutes = self.chance.lognormal(self.fleet.outage_minutes, self.fleet.outage_spread);
                self.away(self.drives_of[node].clone(), minutes * 60e9);
                self.plan_outage();
            }
            What::Strike(number) => {
                self.strike(&self.fleet.events[number]);
                self.plan_strike(number);
            }
            What::Come(drives) => self.come(&drives),
            What::GiveUp(drives) => self.give_up(&drives),
            What::Rebuilt(group, number) => self.rebuilt(group, number),
            What::Moved(position) => self.moved(position),
            What::Restock => {
                let found = self.world.restock();
                self.begin_all(found);
                self.steward.retry();
                self.after(self.fleet.replace_days * DAY, What::Restock);
            }
            What::Day(day) => self.day(day),
            What::Wake => self.awake = false,
            What::Command => self.command(),
            What::Grow => self.grow(),
            What::Leave(node) => self.leave(node),
            What::Even => self.even_again(),
        }
    }

    fn strike(&mut self, event: &Event) {
        let struck: Vec<u32> = match event.strikes {
            Strikes::All => (0..self.node_of.len() as u32).collect(),
            Strikes::One(domain) => {
                let number = self.chance.below(self.domains[&domain].len());
                self.domains[&domain][number].clone()
            }
            Strikes::Share(share) => {
                let nodes = 0..self.drives_of.len();
                let hit: Vec<usize> = nodes.filter(|_| self.chance.happens(share)).collect();
                hit.into_iter().flat_map(|node| self.drives_of[node].clone()).collect()
            }
        };
        let (dead, rest): (Vec<u32>, Vec<u32>) = struck.into_iter().partition(|_| self.chance.happens(event.dead));
        self.kill(&dead);
        if event.hours > 0.0 {
            self.away(rest, event.hours * 3600e9);
        }
    }

    fn kill(&mut self, drives: &[u32]) {
        let silent = drives.iter().copied().filter(|drive| self.world.die(*drive, self.now)).collect();
        self.notice(silent);
    }

    fn away(&mut self, mut drives: Vec<u32>, span: f64) {
        drives.retain(|drive| self.world.state(*drive) < State::Gone);
        if drives.is_empty() {
            return;
        }
        self.world.tally.outages += 1;
        let silent = drives.iter().copied().filter(|drive| self.world.leave(*drive, self.now)).collect();
        self.notice(silent);
        self.after(span, What::Come(drives));
    }

    /// Drives that just fell silent are given up after a while.
    fn notice(&mut self, drives: Vec<u32>) {
        if !drives.is_empty() {
            let lives = drives.into_iter().map(|drive| (drive, self.world.life(drive))).collect();
            self.after(self.fleet.after_minutes * 60e9, What::GiveUp(lives));
        }
    }

    fn give_up(&mut self, drives: &[(u32, u32)]) {
        let silent = |(drive, life): &&(u32, u32)| self.world.life(*drive) == *life && !self.world.answers(*drive);
        let silent: Vec<u32> = drives.iter().filter(silent).map(|(drive, _)| *drive).collect();
        if !silent.is_empty() {
            let found = self.world.give_up(&silent, self.now);
            self.begin_all(found);
        }
    }

    /// Positions to rebuild, and positions to move.
    fn begin_all(&mut self, (wanted, moves): (Vec<u32>, Vec<u32>)) {
        wanted.into_iter().for_each(|position| self.need(position));
        moves.into_iter().for_each(|position| self.plan_move(position));
    }

    fn come(&mut self, drives: &[u32]) {
        for drive in drives {
            for group in self.world.come(*drive, self.now) {
                // What is in flight for other pieces goes on, and looks for itself when it lands.
                if self.jobs.get(&group).is_none_or(|job| !job.onto.iter().any(|(at, _)| self.world.is_wanted(*at))) {
                    self.cancel(group);
                    self.ask_anew(group);
                }
            }
            // What was on its way off it goes on.
            self.world.leaving(*drive).into_iter().for_each(|position| self.plan_move(position));
        }
        // Drives may have been given up while there was none to take their place: in the dark.
        let found = self.world.rehome_rest();
        self.begin_all(found);
    }

    /// Stops a repair that nobody wants any more; what was read until now was read.
    fn cancel(&mut self, group: u32) {
        if let Some(job) = self.jobs.remove(&group) {
            let done = (self.now.0 - job.begun) as f64 / (job.end - job.begun).max(1) as f64;
            self.world.tally.read_positions += job.sources as f64 * done;
        }
    }

    fn ask_anew(&mut self, group: u32) {
        self.steward.forget(target(group));
        self.world.wanted(group).into_iter().for_each(|position| self.need(position));
    }

    fn need(&mut self, position: u32) {
        let (group, at) = self.world.group(position);
        self.steward.need(Need {
            target: target(group),
            missing: BTreeSet::from([at]),
            parity: self.world.code().1,
            piece_bytes: self.world.tally.position_bytes as u64,
        });
    }

    /// Begins what the steward says.
    fn repair(&mut self) {
        while let Some(need) = self.steward.next(self.now) {
            let group = need.target.group.0;
            let wanted = self.world.wanted(group);
            if wanted.is_empty() {
                self.steward.forget(need.target);
                continue;
            }
            let onto = wanted.into_iter().map(|position| (position, self.world.home(position)));
            let onto: Vec<(u32, u32)> = onto.filter(|(_, drive)| self.world.answers(*drive)).collect();
            let sources = self.sources(group);
            if onto.is_empty() || sources.len() < usize::from(self.world.code().0) {
                self.steward.failed(need.target, self.now);
                if !std::mem::replace(&mut self.awake, true) {
                    self.after(AGAIN, What::Wake);
                }
                continue;
            }
            let end = self.transfer(&sources, &onto);
            let (number, begun) = (self.count, self.now.0);
            self.jobs.insert(group, Job { number, onto, sources: sources.len(), begun, end });
            self.after((end - begun) as f64, What::Rebuilt(group, number));
        }
    }

    /// The k least busy drives that a group can be read from; fewer if there aren't as many.
    fn sources(&self, group: u32) -> Vec<u32> {
        let mut sources = self.world.sources(group);
        sources.sort_by_key(|drive| (self.drive_busy[*drive as usize], *drive));
        sources.truncate(self.world.code().0.into());
        sources
    }

    /// Takes drives, their nodes and a node that rebuilds; returns when all are through.
    fn transfer(&mut self, sources: &[u32], onto: &[(u32, u32)]) -> u64 {
        let bytes = self.world.tally.position_bytes;
        let (by_drive, by_node) = (bytes / self.fleet.drive_mb_s * 1e3, bytes / self.fleet.node_mb_s * 1e3);
        let mut end = self.now.0;
        let mut take = |busy: &mut u64, span: f64| {
            *busy = (*busy).max(self.now.0) + span as u64;
            end = end.max(*busy);
        };
        for drive in sources.iter().copied().chain(onto.iter().map(|(_, drive)| *drive)) {
            take(&mut self.drive_busy[drive as usize], by_drive);
            take(&mut self.node_busy[self.node_of[drive as usize] as usize], by_node);
        }
        if let Some((mut busy, worker)) = self.workers.pop_first() {
            take(&mut busy, by_node * (sources.len() + onto.len()) as f64);
            self.workers.insert((busy, worker));
        }
        end
    }

    fn rebuilt(&mut self, group: u32, number: u64) {
        if self.jobs.get(&group).is_none_or(|job| job.number != number) {
            return;
        }
        let Some(job) = self.jobs.remove(&group) else { return };
        self.world.tally.read_positions += job.sources as f64;
        for (position, drive) in &job.onto {
            // The drive may have come back meanwhile, or the row may name another.
            if self.world.is_wanted(*position) && self.world.home(*position) == *drive {
                self.world.land(*position, self.now);
            }
        }
        self.ask_anew(group);
    }

    fn plan_move(&mut self, position: u32) {
        if let Some(to) = self.world.target_of_move(position) {
            let span = self.world.tally.position_bytes / self.fleet.drive_mb_s * 1e3;
            let busy = &mut self.move_busy[to as usize];
            *busy = (*busy).max(self.now.0) + span as u64;
            let wait = (*busy - self.now.0) as f64;
            self.after(wait, What::Moved(position));
        }
    }

    fn moved(&mut self, position: u32) {
        let readable = self.world.holder_answers(position);
        if self.world.target_of_move(position).is_some() && !(readable && self.world.land(position, self.now)) {
            self.after(AGAIN * 12.0, What::Moved(position));
        }
    }

    fn day(&mut self, day: u32) {
        let lacking_groups = self.world.count_spare(1.0);
        if day.is_multiple_of(WORST_EVERY) {
            self.world.count_after_worst(f64::from(WORST_EVERY));
        }
        let backlog_bytes = self.world.backlog_bytes();
        self.world.tally.days.push(Day { day, backlog_bytes, lacking_groups });
        self.after(DAY, What::Day(day + 1));
    }
}

/// A group as the steward knows it: as if it had one segment.
fn target(group: u32) -> Target {
    Target { volume: VolumeId(1), policy: PolicyId(1), group: GroupId(group), segment: SegmentId([0; 16]) }
}
