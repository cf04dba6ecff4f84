//! Evening out: which positions of which groups go to another drive, a bounded number at a time.
//!
//! 1. A wave is a function of the tables, the drives and what groups hold: any node that sees the same map
//!    computes the same wave. Nothing is remembered; whoever takes over goes on from the rows.
//! 2. At most one position of a group is under way, and none of a group that lacks a piece: repair comes first.
//! 3. No move breaks a cap. None makes a group's spread worse either, unless the caller says that evenness is worth
//!    it ([`Spread::Capped`]): then only where a drive would stay outside of the tolerance otherwise.
//! 4. A move goes from a drive above its fair share to one below, by no more than either is off, positions being whole. So
//!    what is moved in all is what is off, and no drive is passed through. Where caps leave no such move a
//!    drive within the tolerance takes over meanwhile: that is the only detour.
//! 5. It ends. A move for the spread lowers the number of pieces beyond the rules, and no other raises it; a move
//!    for the load lowers Σ (load − fair)² / fair; a free move holds nothing and lowers the same sum of positions.
//!
//! Load is what groups hold, in steps of a 64th of their mean; while nothing is stored it is the number of
//! positions. Groups that are empty, as those a new drive gets, weigh nothing: they are evened out by number
//! after the others, so that new data comes evenly, and moving them moves no data. So are whole tables of them, as a
//! policy leaves behind that nothing was stored by: no wave is filled with these while something that holds data waits.

mod scale;

use std::collections::BTreeSet;

use base::{Domain, DriveId, GroupId, PolicyId};

use crate::caps::{Caps, Spec};
use crate::group::GroupRow;
use crate::map::Map;
use crate::outcome::Held;
use crate::place::Places;
use scale::Scale;

/// Parts of the mean group that loads are counted in: what is lighter than half of one weighs nothing.
const STEPS: u128 = 64;

/// Why a position moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its group has more pieces in one domain than the policy's rules allow.
    Spread,
    /// Its drive takes none of this policy's pieces any more.
    Leave,
    /// Its drive holds more than its share, or the other less.
    Load,
    /// The same by number: the group holds next to nothing, so nothing is moved.
    Free,
}

/// A position that goes from one drive to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The policy whose table it is in.
    pub policy: PolicyId,
    /// The group.
    pub group: GroupId,
    /// Which of its pieces.
    pub position: usize,
    /// Who holds it.
    pub from: DriveId,
    /// Who is to hold it.
    pub to: DriveId,
    /// Bytes of that piece in all of the group's segments.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// How much at once, and how even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Positions under way at the most, those that are already included.
    pub in_flight: usize,
    /// By how much of its fair share a drive may be off, in thousandths.
    pub tolerance_permille: u16,
    /// What groups may lose for it.
    pub spread: Spread,
}

/// How far a group may be spread less than it is, for the sake of evenness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// Not at all: what survived the loss of a site before does so after, though drives stay uneven.
    Kept,
    /// As far as the caps, which go by capacity. What is survived may become less: ask the outcome gate first.
    Capped,
}

impl Default for Limits {
    /// 256 positions: a few thousand segments on a usual cluster. 3 %: less is lost in how data happens to fall.
    fn default() -> Self {
        Self { in_flight: 256, tolerance_permille: 30, spread: Spread::Kept }
    }
}

/// A policy's table and the drives that it is on.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The policy.
    pub policy: PolicyId,
    /// What it asks for.
    pub spec: &'a Spec,
    /// Drives; open are those that take pieces now.
    pub places: &'a Places,
    /// What they are worth, by the same places.
    pub caps: &'a Caps,
    /// Its groups.
    pub rows: &'a [GroupRow],
    /// Drives that don't answer, or whose pieces are lost: groups with one of them don't move.
    pub down: &'a BTreeSet<DriveId>,
}

/// How even a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evenness {
    /// Load of the fullest drive against its fair share, in thousandths.
    pub fullest_permille: u64,
    /// Load of the emptiest open drive against its fair share, in thousandths.
    pub emptiest_permille: u64,
    /// Bytes that must move at least until all drives are within the tolerance.
    pub bytes_left: u64,
    /// Positions moving now.
    pub moving: usize,
}

/// The next wave for all tables of a map, within what `limits` leave beside what is moving already.
/// `held` says what a group holds. Empty if there is nothing to do, or nothing now.
pub fn next(
    map: &Map,
    down: &BTreeSet<DriveId>,
    limits: Limits,
    held: &dyn Fn(PolicyId, GroupId) -> Held,
) -> Vec<Move> {
    let moving: usize = map.policies.iter().map(|policy| moving(&policy.groups)).sum();
    let limits = Limits { in_flight: limits.in_flight.saturating_sub(moving), ..limits };
    let mut moves = Vec::new();
    for_each(map, down, |table| moves.extend(wave(table, limits, held)));
    // Within a table these come last as it is: what remains is the beginning of its wave.
    moves.sort_by_key(|one| one.why == Why::Free);
    moves.truncate(limits.in_flight);
    moves
}

/// How even each policy's table is.
pub fn evenness(
    map: &Map,
    down: &BTreeSet<DriveId>,
    limits: Limits,
    held: &dyn Fn(PolicyId, GroupId) -> Held,
) -> Vec<(PolicyId, Evenness)> {
    let mut all = Vec::new();
    for_each(map, down, |table| all.push((table.policy, even(table, limits, held))));
    all
}

fn for_each(map: &Map, down: &BTreeSet<DriveId>, mut act: impl FnMut(&Table<'_>)) {
    let mut gone = map.lost();
    gone.extend(down);
    for policy in &map.policies {
        let (places, spec) = (map.places(Some(policy)), policy.spec());
        let (caps, _) = Caps::best(&places, &spec);
        // A drive that is down keeps its share: it is no reason to fill others beyond theirs.
        let mut working = places;
        working.close_unless(|place| !gone.contains(&place.drive));
        let (spec, places, caps) = (&spec, &working, &caps);
        act(&Table { policy: policy.id, spec, places, caps, rows: &policy.groups, down: &gone });
    }
}

fn moving(rows: &[GroupRow]) -> usize {
    rows.iter().map(|row| row.moving().count()).sum()
}

/// The next wave of one table: at most `limits.in_flight` positions, each of another group.
pub fn wave(table: &Table<'_>, limits: Limits, held: &dyn Fn(PolicyId, GroupId) -> Held) -> Vec<Move> {
    if limits.in_flight == 0 {
        return Vec::new();
    }
    let weights = weights(table, held);
    let heavy = |at: usize| weights.steps[at] > 0;
    let mut moves = Vec::new();
    let mut scale = Scale::new(table, &weights.steps, limits, |_| true);
    scale.respread(&rules(table), limits.in_flight, &mut moves);
    scale.bar(|at| !heavy(at));
    scale.even(limits.in_flight, &mut moves);
    let done = moves.len();
    if weights.are_held {
        // What moves already is left alone, and counts where it goes.
        let taken: BTreeSet<usize> = moves.iter().map(|one| one.row).collect();
        let ones = vec![1; table.rows.len()];
        let mut by_number = Scale::new(table, &ones, limits, |at| !heavy(at) && !taken.contains(&at));
        moves.iter().for_each(|one| by_number.follow(one));
        by_number.even(limits.in_flight, &mut moves);
    }
    let free = if weights.are_held { done } else { 0 };
    moves[free..].iter_mut().filter(|one| one.why == Why::Load).for_each(|one| one.why = Why::Free);
    moves.iter().map(|one| one.told(table, &weights.bytes)).collect()
}

/// How even one table is.
pub fn even(table: &Table<'_>, limits: Limits, held: &dyn Fn(PolicyId, GroupId) -> Held) -> Evenness {
    let weights = weights(table, held);
    let scale = Scale::new(table, &weights.steps, limits, |_| true);
    let (fullest_permille, emptiest_permille, steps) = scale.spans();
    let bytes: u128 = weights.bytes.iter().map(|bytes| u128::from(*bytes)).sum();
    let all: u128 = weights.steps.iter().map(|steps| u128::from(*steps)).sum();
    let bytes_left = u64::try_from(bytes * steps / all.max(1)).unwrap_or(u64::MAX);
    Evenness { fullest_permille, emptiest_permille, bytes_left, moving: moving(table.rows) }
}

/// Makes the moves the rows' new target. Rows must be sorted by group; a move that no longer fits is left out.
pub fn apply(policy: PolicyId, rows: &mut [GroupRow], moves: &[Move]) {
    for one in moves.iter().filter(|one| one.policy == policy) {
        let Ok(at) = rows.binary_search_by_key(&one.group, |row| row.group) else { continue };
        let row = &mut rows[at];
        if row.members.get(one.position) == Some(&one.from) && !row.members.contains(&one.to) {
            row.members[one.position] = one.to;
            row.version = row.version.saturating_add(1);
        }
    }
}

/// What rows weigh.
struct Weights {
    /// Bytes of one of its pieces.
    bytes: Vec<u64>,
    /// Their load in steps.
    steps: Vec<u64>,
    /// Whether that comes from what is held.
    are_held: bool,
}

fn weights(table: &Table<'_>, held: &dyn Fn(PolicyId, GroupId) -> Held) -> Weights {
    let k = u64::from(table.spec.k.max(1));
    let bytes: Vec<u64> = table.rows.iter().map(|row| held(table.policy, row.group).bytes.div_ceil(k)).collect();
    let all: u128 = bytes.iter().map(|bytes| u128::from(*bytes)).sum();
    if all == 0 {
        return Weights { steps: vec![1; bytes.len()], bytes, are_held: false };
    }
    let count = bytes.len() as u128;
    let step = |bytes: &u64| ((2 * u128::from(*bytes) * STEPS * count + all) / (2 * all)) as u64;
    Weights { steps: bytes.iter().map(step).collect(), bytes, are_held: true }
}

/// Pieces that one domain of each kind may hold, beyond which they are moved though loads are even: what the
/// policy demands, and that a node's loss leaves a spare piece. Caps that only use capacity well
/// are no reason to move data: they change with every drive.
fn rules(table: &Table<'_>) -> [usize; Domain::COUNT] {
    let m = table.spec.m;
    let mut rules = [table.spec.n(); Domain::COUNT];
    rules[Domain::Node as usize] = usize::from(m).saturating_sub(1).max(1);
    for demand in &table.spec.demands {
        let rule = &mut rules[demand.domain as usize];
        *rule = (*rule).min(demand.pieces_max(m).max(1));
    }
    for (rule, most) in rules.iter_mut().zip(&table.caps.most) {
        *rule = (*rule).max(*most);
    }
    rules
}
