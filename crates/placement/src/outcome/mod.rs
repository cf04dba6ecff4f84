//! What a change of the map would come to, before it is made: the gate that every command which can
//! lower redundancy or capacity has to pass.
//!
//! One pure function compares the map as it is with the map as it would be, on the real tables. What
//! would fall below policy is refused, with the reasons; whoever knows better repeats the code of the
//! outcome. The code is bound to both maps and to the drives that are down: once anything else
//! changed, it is worth nothing.

use std::collections::BTreeSet;
use std::fmt;

use base::{DriveId, GroupId, Kind, Kinded, PolicyId};
use codec::Writer;

use crate::caps::Caps;
use crate::group::GroupRow;
use crate::map::{Map, Policy, State};
use crate::place::ByDrive;
use crate::survive::Survival;

mod risk;

pub use risk::{Faults, Risk, Worst};
pub(crate) use risk::{fresh, name};

/// Of the open capacity, what pieces may take; the rest is room to clean and to repair.
const FILL_PERMILLE: u128 = 900;
/// What a code is derived by.
const CONTEXT: &[u8] = b"abide outcome code v1";

/// What a group holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Segments.
    pub segments: u64,
    /// Their bytes, without parity.
    pub bytes: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} segments ({} bytes)", self.segments, self.bytes)
    }
}

/// What a change comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Segments that couldn't be read right after the change.
    pub unreadable_segments: u64,
    /// Segments by the spare pieces that they would have right after the change.
    pub segments_by_spare: Vec<u64>,
    /// Policies none of whose groups would take writes.
    pub unwritable: Vec<String>,
    /// Bytes to move or rebuild until all is where it belongs.
    pub move_bytes: u64,
    /// What is survived now.
    pub before: Survival,
    /// What would be survived right after the change.
    pub after: Survival,
    /// How likely a loss is now.
    pub risk_before: Risk,
    /// How likely a loss is right after the change.
    pub risk_after: Risk,
    /// The domain to fear most now, if anything is stored.
    pub worst_before: Option<Worst>,
    /// The same right after the change.
    pub worst_after: Option<Worst>,
    /// Why it is refused; empty if it may be made.
    pub reasons: Vec<String>,
    /// What would be permitted instead, if it is refused.
    pub allowed: Vec<String>,
    /// What to repeat to make it all the same.
    pub code: String,
}

/// A change that may not be made just so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused: {}{}; nothing was changed{}", .reasons.join("; "), allowed_text(.allowed), if .code.is_empty() { String::new() } else { format!("; to do it all the same, confirm with {}", .code) })]
pub struct Refused {
    /// Why.
    pub reasons: Vec<String>,
    /// What would be permitted.
    pub allowed: Vec<String>,
    /// The code to repeat.
    pub code: String,
}

fn allowed_text(allowed: &[String]) -> String {
    if allowed.is_empty() { String::new() } else { format!("; allowed: {}", allowed.join("; ")) }
}

impl Kinded for Refused {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }
}

impl Outcome {
    /// Whether the change may be made, by itself or because `confirmed` is its code.
    pub fn permit(&self, confirmed: Option<&str>) -> Result<(), Refused> {
        if self.reasons.is_empty() || confirmed == Some(self.code.as_str()) {
            return Ok(());
        }
        Err(Refused { reasons: self.reasons.clone(), allowed: self.allowed.clone(), code: self.code.clone() })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "now:   {}", self.before)?;
        writeln!(f, "after: {}", self.after)?;
        if self.unreadable_segments > 0 {
            writeln!(f, "{} segments can't be read", self.unreadable_segments)?;
        }
        for (spare, segments) in self.segments_by_spare.iter().enumerate().filter(|(_, segments)| **segments > 0) {
            writeln!(f, "{segments} segments with {spare} spare pieces")?;
        }
        writeln!(f, "{} bytes to move", self.move_bytes)?;
        for name in &self.unwritable {
            writeln!(f, "writes coded {name} are refused")?;
        }
        for (when, worst) in [("now", &self.worst_before), ("after", &self.worst_after)] {
            if let Some(worst) = worst {
                writeln!(f, "{when}: {worst}")?;
            }
        }
        write!(f, "risk, if drives fail one by one: {} now; {} after", self.risk_before, self.risk_after)
    }
}

/// What becomes of the cluster if the map `before` is replaced by `after`, while the drives in `down`
/// don't answer. `held` says what a group holds.
pub fn outcome(
    before: &Map,
    after: &Map,
    down: &BTreeSet<DriveId>,
    held: impl Fn(PolicyId, GroupId) -> Held,
) -> Outcome {
    outcome_with(before, after, down, Faults::default(), &held)
}

/// The same for drives that fail and are rebuilt in a known way.
pub fn outcome_with(
    before: &Map,
    after: &Map,
    down: &BTreeSet<DriveId>,
    faults: Faults,
    held: &dyn Fn(PolicyId, GroupId) -> Held,
) -> Outcome {
    Outcome { code: code(before.hash(), after, down, ""), ..compare(before, after, down, faults, held) }
}

/// The outcome without its code.
pub(crate) fn compare(
    before: &Map,
    after: &Map,
    down: &BTreeSet<DriveId>,
    faults: Faults,
    held: &dyn Fn(PolicyId, GroupId) -> Held,
) -> Outcome {
    let (was, is) = (Look::new(before, down), Look::new(after, down));
    let mut out = Outcome {
        unreadable_segments: 0,
        segments_by_spare: Vec::new(),
        unwritable: Vec::new(),
        move_bytes: 0,
        before: before.survives(down),
        after: after.survives(down),
        risk_before: risk::risk(before, &was, faults, held),
        risk_after: risk::risk(after, &is, faults, held),
        worst_before: risk::worst(before, &was, held),
        worst_after: risk::worst(after, &is, held),
        reasons: Vec::new(),
        allowed: Vec::new(),
        code: String::new(),
    };
    let mut weakened = Weakened::default();
    for policy in &after.policies {
        for row in &policy.groups {
            let here = held(policy.id, row.group);
            out.count(policy, row, &is, here);
            let old = before.policy(policy.id).and_then(|policy| find(policy, row.group));
            let spare_before = old.map_or(i64::from(policy.m), |row| was.spare(policy, row));
            weakened.add(spare_before, is.spare(policy, row), policy.m, here);
        }
        let writes = |row: &GroupRow| is.writers(row) >= usize::from(policy.ack);
        if !policy.groups.is_empty() && !policy.groups.iter().any(writes) {
            out.unwritable.push(policy.name.clone());
        }
    }
    for policy in &before.policies {
        let kept = |row: &&GroupRow| after.policy(policy.id).is_some_and(|policy| find(policy, row.group).is_some());
        for row in policy.groups.iter().filter(|row| !kept(row)) {
            weakened.forgotten += held(policy.id, row.group).segments;
        }
    }
    out.reasons = reasons(before, after, down, &out, &weakened, held);
    out
}

fn find(policy: &Policy, group: GroupId) -> Option<&GroupRow> {
    policy.groups.binary_search_by_key(&group, |row| row.group).ok().map(|at| &policy.groups[at])
}

/// Which drives hold something that counts, and which take more.
struct Look {
    holds: ByDrive<()>,
    takes: ByDrive<()>,
}

impl Look {
    fn new(map: &Map, down: &BTreeSet<DriveId>) -> Self {
        let (mut holds, mut takes) = (ByDrive::default(), ByDrive::default());
        for drive in map.drives.iter().filter(|drive| !down.contains(&drive.id)) {
            let state = map.drive_state(drive);
            if state <= State::Draining {
                holds.insert(drive.id, ());
            }
            if state == State::Active {
                takes.insert(drive.id, ());
            }
        }
        Self { holds, takes }
    }

    pub(super) fn spare(&self, policy: &Policy, row: &GroupRow) -> i64 {
        // A piece on the move is where it comes from.
        let missing = row.from.iter().filter(|drive| !self.holds.contains_key(drive)).count();
        i64::from(policy.m) - missing as i64
    }

    fn writers(&self, row: &GroupRow) -> usize {
        row.members.iter().filter(|drive| self.takes.contains_key(drive)).count()
    }
}

impl Outcome {
    fn count(&mut self, policy: &Policy, row: &GroupRow, look: &Look, held: Held) {
        match usize::try_from(look.spare(policy, row)) {
            Err(_) => self.unreadable_segments += held.segments,
            Ok(spare) => {
                if self.segments_by_spare.len() <= spare {
                    self.segments_by_spare.resize(spare + 1, 0);
                }
                self.segments_by_spare[spare] += held.segments;
            }
        }
        let piece = held.bytes / u64::from(policy.k.max(1));
        self.move_bytes = self.move_bytes.saturating_add(piece.saturating_mul(row.moving().count() as u64));
    }
}

/// Segments by what the change does to them.
#[derive(Default)]
struct Weakened {
    lost: u64,
    bare: u64,
    weaker: u64,
    forgotten: u64,
}

impl Weakened {
    fn add(&mut self, before: i64, after: i64, parity: u8, held: Held) {
        if after >= before {
            return;
        }
        match after {
            ..0 => self.lost += held.segments,
            0 if parity > 0 => self.bare += held.segments,
            _ => self.weaker += held.segments,
        }
    }
}

fn reasons(
    before: &Map,
    after: &Map,
    down: &BTreeSet<DriveId>,
    out: &Outcome,
    weakened: &Weakened,
    held: &dyn Fn(PolicyId, GroupId) -> Held,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut when = |is: bool, text: String| {
        if is {
            reasons.push(text)
        }
    };
    when(
        weakened.forgotten > 0,
        format!("{} segments are in groups that the new map doesn't have", weakened.forgotten),
    );
    when(weakened.lost > 0, format!("{} segments couldn't be read any more", weakened.lost));
    when(
        weakened.bare > 0,
        format!("{} segments would have no spare piece: the next loss of a drive would lose them", weakened.bare),
    );
    let weaker = weakened.lost + weakened.bare + weakened.weaker > 0;
    let was_lost = before.lost();
    let here =
        |drive: &&DriveId| before.drive(**drive).is_some_and(|drive| before.drive_state(drive) <= State::Draining);
    let away = down.iter().filter(here).filter(|drive| !was_lost.contains(drive)).count();
    when(weaker && away > 0, format!("{away} drives are down already: one failure domain at a time"));
    let moving: usize =
        before.policies.iter().flat_map(|policy| &policy.groups).filter(|row| row.moving().next().is_some()).count();
    when(
        weaker && moving > 0,
        format!("{moving} groups are still being moved or rebuilt: wait until they are settled"),
    );
    for name in &out.unwritable {
        when(true, format!("no group coded {name} would take writes"));
    }
    for policy in &after.policies {
        // What was not met before is no fault of this change.
        let met = |map: &Map| Caps::check(&map.places(Some(policy)), &policy.spec(), &[]);
        if let (Ok(_), Err(unmet)) = (met(before), met(after)) {
            when(true, unmet.to_string());
        }
    }
    let stored: u128 = after.policies.iter().map(|policy| stored(policy, held)).sum();
    let open = |map: &Map| -> u128 {
        map.drives
            .iter()
            .filter(|drive| map.drive_state(drive) == State::Active)
            .map(|drive| u128::from(drive.size))
            .sum()
    };
    let room = open(after) * FILL_PERMILLE / 1000;
    when(
        open(after) < open(before) && stored > room,
        format!("{stored} bytes are stored, and the drives left have room for {room}: add drives first"),
    );
    reasons
}

fn stored(policy: &Policy, held: &dyn Fn(PolicyId, GroupId) -> Held) -> u128 {
    let n = u128::from(policy.k) + u128::from(policy.m);
    let bytes: u128 = policy.groups.iter().map(|row| u128::from(held(policy.id, row.group).bytes)).sum();
    bytes * n / u128::from(policy.k.max(1))
}

/// Eight hex digits that stand for this change, in this state of the cluster: the hash of the map as it is, the map
/// as it would be, who is down, and what of the `change` the maps don't tell.
pub(crate) fn code(before: [u8; 32], after: &Map, down: &BTreeSet<DriveId>, change: &str) -> String {
    let mut bytes = Writer::new();
    // When the new map was made doesn't matter: the same change asked for again has the same code.
    let after = Map { made: base::Wall(0), ..after.clone() };
    bytes.raw(CONTEXT).raw(&before).raw(&after.hash());
    for drive in down {
        bytes.raw(&drive.0);
    }
    bytes.raw(change.as_bytes());
    base::ids::hex(&crypt::hash(&bytes.finish())[..4])
}
