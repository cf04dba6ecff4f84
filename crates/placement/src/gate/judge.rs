//! What a change comes to, in the situation that there is.

use std::collections::{BTreeMap, BTreeSet};

use base::{Domain, DriveId, GroupId, NodeId, PolicyId};

use super::{Change, Contents, Error, Named, Target, apply, find};
use crate::map::{Map, Policy, State};
use crate::outcome::{Faults, Held, Outcome, code, compare, fresh, name};
use crate::place::Places;

/// Parts of a refused change that are tried by themselves to say what is allowed.
const TRIES_MAX: usize = 12;
/// Rows that may be gone over in all for it: each try judges a whole map.
const TRIES_ROWS_MAX: usize = 200_000;

/// What a change meets.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// Drives that don't answer.
    pub down: &'a BTreeSet<DriveId>,
    /// Nodes that don't answer.
    pub away: &'a BTreeSet<NodeId>,
    /// The voters of each shard of the metadata, by its number.
    pub voters: &'a [BTreeSet<NodeId>],
    /// What a group holds.
    pub held: &'a dyn Fn(PolicyId, GroupId) -> Held,
    /// How drives fail.
    pub faults: Faults,
}

/// What the change comes to: permitted if it has no reasons against it.
///
/// # Errors
/// If something that it names isn't there, or a policy can't be met at all.
pub fn judge(map: &Map, change: &Change, situation: &Situation<'_>) -> Result<Outcome, Error> {
    let (mut outcome, after) = weigh(map, change, situation)?;
    // The new map names the hash of the one before.
    outcome.code = code(after.previous, &after, situation.down, &format!("{change:?}"));
    if !outcome.reasons.is_empty() {
        outcome.allowed = allowed(map, change, situation)?;
        if outcome.allowed.is_empty() {
            outcome.allowed.push(at_least(change));
        }
    }
    Ok(outcome)
}

fn passes(map: &Map, change: &Change, situation: &Situation<'_>) -> Result<bool, Error> {
    Ok(weigh(map, change, situation)?.0.reasons.is_empty())
}

/// The outcome without a code and what is allowed instead, and the map that there would be.
fn weigh(map: &Map, change: &Change, situation: &Situation<'_>) -> Result<(Outcome, Map), Error> {
    let after = apply(map, change)?;
    let mut out = compare(map, &after, situation.down, situation.faults, situation.held);
    let more = match change {
        Change::Drain(targets) => {
            let named = all(map, targets)?;
            let mut reasons = at_once(map, &named, situation);
            reasons.extend(nowhere_to_go(&after, &named, situation));
            reasons
        }
        Change::Remove(targets) => {
            let named = all(map, targets)?;
            let mut reasons: Vec<String> = still_there(map, &named, situation).into_iter().collect();
            reasons.extend(at_once(map, &named, situation));
            reasons.extend(majorities(&named, situation));
            reasons
        }
        Change::Expunge(targets) => {
            let named = all(map, targets)?;
            let mut reasons = at_once(map, &named, situation);
            reasons.extend(majorities(&named, situation));
            reasons.extend(still_answers(map, &named, situation));
            reasons
        }
        Change::SetPolicy { whose, from, k, m, ack, demands, within } => {
            let is_new = |policy: &&Policy| {
                (policy.k, policy.m, policy.ack) == (*k, *m, *ack)
                    && (&policy.demands, &policy.within) == (demands, within)
            };
            let old = map.policy(*from).ok_or(Error::Policy(*from))?;
            after.policies.iter().find(is_new).map_or_else(Vec::new, |new| weaker(map, whose, old, new))
        }
        Change::DeleteBucket { bucket, contents } if *contents != Contents::default() => {
            vec![format!("{contents} are in bucket {bucket}, and would be deleted with it")]
        }
        Change::DeleteBucket { .. } => Vec::new(),
        Change::PurgeTrash { contents } if *contents != Contents::default() => {
            vec![format!("{contents} could still be had back, and would be gone for ever")]
        }
        Change::PurgeTrash { .. } => Vec::new(),
        Change::ChangeVoters { shard, next } => voters(map, *shard, next, situation),
        Change::Recover { shard, copies, keep } => recovery(*shard, copies, *keep, situation),
        Change::Downgrade { from, to, unreadable } => downgrade(*from, *to, unreadable),
    };
    for reason in more {
        if !out.reasons.contains(&reason) {
            out.reasons.push(reason);
        }
    }
    Ok((out, after))
}

fn all(map: &Map, targets: &[Target]) -> Result<Named, Error> {
    let mut all = Named::default();
    for target in targets {
        let named = find(map, target)?;
        all.nodes.extend(named.nodes);
        all.drives.extend(named.drives);
    }
    Ok(all)
}

/// Drives that are down, being emptied or rebuilt from now.
fn in_flight(map: &Map, down: &BTreeSet<DriveId>) -> BTreeSet<DriveId> {
    let lost = map.lost();
    let mut busy: BTreeSet<DriveId> = down.difference(&lost).copied().collect();
    for row in map.policies.iter().flat_map(|policy| &policy.groups) {
        // What only moves for evenness counts where it is: that is no domain in flight.
        let leaves = |at: &usize| map.drive(row.from[*at]).is_some_and(|drive| map.drive_state(drive) != State::Active);
        busy.extend(row.moving().filter(leaves).map(|at| row.from[at]));
    }
    busy
}

/// One failure domain at a time: all that the change touches, with all that is in flight, must lie in one domain
/// of a kind one of which may be lost.
fn at_once(map: &Map, named: &Named, situation: &Situation<'_>) -> Vec<String> {
    let places = map.places(None);
    let now = map.survives(&BTreeSet::new());
    let mut touched = in_flight(map, situation.down);
    touched.extend(&named.drives);
    if touched.len() <= 1 || one_domain(&places, &touched, |kind| now.of(kind) > 0) {
        return Vec::new();
    }
    let busy: BTreeSet<DriveId> = touched.difference(&named.drives).copied().collect();
    if busy.is_empty() {
        let names = owners(map, &named.drives).join(", ");
        return vec![format!(
            "the drives that are named, of {names}, are not of one failure domain that may be lost: one at a time"
        )];
    }
    let names = owners(map, &busy).join(", ");
    vec![format!("drives of {names} are down, being emptied or rebuilt: one failure domain at a time")]
}

fn one_domain(places: &Places, drives: &BTreeSet<DriveId>, may: impl Fn(Domain) -> bool) -> bool {
    let kinds = Domain::ALL.into_iter().filter(|kind| places.knows(*kind) && may(*kind));
    kinds.into_iter().any(|kind| {
        let numbers = drives.iter().filter_map(|drive| places.get(*drive)).map(|place| place.at[kind as usize]);
        let numbers: BTreeSet<u32> = numbers.collect();
        numbers.iter().all(|number| !name_of(places, kind, *number).is_empty()) && numbers.len() <= 1
    })
}

/// A label that nobody gave isn't one place.
fn name_of(places: &Places, kind: Domain, number: u32) -> &str {
    places.name(kind, number).trim_matches('/')
}

/// Names of the nodes that drives are on.
fn owners(map: &Map, drives: &BTreeSet<DriveId>) -> Vec<String> {
    let places = map.places(None);
    let there = drives.iter().filter_map(|drive| places.get(*drive)).map(|place| place.at[Domain::Node as usize]);
    let there: BTreeSet<u32> = there.collect();
    there.into_iter().map(|number| name(map, &places, Domain::Node, number)).collect()
}

fn segments(map: &Map, situation: &Situation<'_>, which: impl Fn(&crate::GroupRow) -> bool) -> u64 {
    let of = |policy: &Policy| -> u64 {
        let rows = policy.groups.iter().filter(|row| which(row));
        rows.map(|row| (situation.held)(policy.id, row.group).segments).sum()
    };
    map.policies.iter().map(of).sum()
}

/// Pieces that would stay on what is to be emptied.
fn nowhere_to_go(after: &Map, named: &Named, situation: &Situation<'_>) -> Option<String> {
    let count = segments(after, situation, |row| row.members.iter().any(|drive| named.drives.contains(drive)));
    (count > 0).then(|| format!("no other drive could take the pieces of {count} segments: add drives first"))
}

/// Pieces that are still on what is to be taken out.
fn still_there(map: &Map, named: &Named, situation: &Situation<'_>) -> Option<String> {
    let here = |row: &crate::GroupRow| row.members.iter().chain(&row.from).any(|drive| named.drives.contains(drive));
    let count = segments(map, situation, here);
    (count > 0).then(|| format!("{count} segments still have pieces there"))
}

/// What isn't lost and is to be declared so. Its pieces could be moved; rebuilding reads k times as much, and spares are
/// missing meanwhile.
fn still_answers(map: &Map, named: &Named, situation: &Situation<'_>) -> Option<String> {
    let lost = map.lost();
    let answers = |drive: &&DriveId| !lost.contains(*drive) && !situation.down.contains(*drive);
    let there: BTreeSet<DriveId> = named.drives.iter().filter(answers).copied().collect();
    let count = segments(map, situation, |row| row.members.iter().any(|drive| there.contains(drive)));
    let who = || owners(map, &there).join(", ");
    (count > 0).then(|| format!("drives of {} that hold pieces of {count} segments answer: they can be drained", who()))
}

fn majorities(named: &Named, situation: &Situation<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    for (shard, voters) in situation.voters.iter().enumerate() {
        let left = voters.difference(&named.nodes).filter(|node| !situation.away.contains(node)).count();
        if voters.intersection(&named.nodes).next().is_some() && left * 2 <= voters.len() {
            reasons.push(format!("metadata shard {shard} would have {left} of {} voters: no majority", voters.len()));
        }
    }
    reasons
}

/// What new data would survive less than so far.
fn weaker(map: &Map, whose: &str, old: &Policy, new: &Policy) -> Vec<String> {
    let mut reasons = Vec::new();
    let (was, is) = (fresh(map, old), fresh(map, new));
    let say = |domain: Domain| format!("{} rather than {}", domain.count(is.of(domain)), was.of(domain));
    let said: Vec<String> = is.worse_than(&was).into_iter().map(say).collect();
    if !said.is_empty() {
        reasons.push(format!("new data of {whose} would survive the loss of {}", said.join(", ")));
    }
    let spare = |policy: &Policy| policy.ack.saturating_sub(policy.k);
    if spare(new) < spare(old) {
        reasons.push(format!(
            "writes of {whose} would be acknowledged with {} spare pieces durable rather than {}",
            spare(new),
            spare(old)
        ));
    }
    reasons
}

fn voters(map: &Map, shard: u32, next: &BTreeSet<NodeId>, situation: &Situation<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    let none = BTreeSet::new();
    let now = situation.voters.get(shard as usize).unwrap_or(&none);
    let active = |node: &NodeId| map.node(*node).is_some_and(|node| node.state == State::Active);
    for node in next.iter().filter(|node| !active(node)) {
        reasons.push(format!("node {node} is no member that holds data"));
    }
    let answering = next.iter().filter(|node| !situation.away.contains(node)).count();
    if answering * 2 <= next.len() {
        reasons.push(format!("{answering} of {} voters would answer: no majority", next.len()));
    }
    let (gone, come) = (now.difference(next).count(), next.difference(now).count());
    if gone.max(come) > 1 {
        reasons.push(format!("{gone} voters would leave and {come} join: one at a time"));
    }
    let active: Vec<NodeId> = map.nodes.iter().filter(|node| node.state == State::Active).map(|node| node.id).collect();
    let (nodes, dataless) = (active.len(), active.iter().filter(|node| map.is_dataless(**node)).count());
    let wanted = crate::voters::wanted_with(nodes, dataless);
    if next.len() < now.len() && next.len() < wanted {
        reasons.push(format!("{} voters would be left, and {nodes} nodes should have {wanted}", next.len()));
    }
    reasons
}

/// A copy that goes on alone has all that was ever acknowledged if it is the newest of so many that every majority
/// had one of them.
fn recovery(shard: u32, copies: &BTreeMap<NodeId, u64>, keep: NodeId, situation: &Situation<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    let none = BTreeSet::new();
    let voters = situation.voters.get(shard as usize).unwrap_or(&none);
    let answering = voters.iter().filter(|node| !situation.away.contains(node)).count();
    if answering * 2 > voters.len() {
        reasons.push(format!("{answering} of {} voters answer: what they agree on would be thrown away", voters.len()));
    }
    let seen = voters.iter().filter(|node| copies.contains_key(node)).count();
    let needed = voters.len() - voters.len() / 2;
    if seen < needed {
        reasons.push(format!(
            "{seen} of {} copies can be read, and {needed} must be to know that nothing acknowledged is missing",
            voters.len()
        ));
    }
    let newest = copies.values().max();
    match (copies.get(&keep), newest) {
        (None, _) => reasons.push(format!("node {keep} has no copy that can be read")),
        (Some(position), Some(newest)) if position < newest => {
            reasons.push(format!("the copy of node {keep} ends at {position}, and another has up to {newest}"));
        }
        _ => {}
    }
    reasons
}

fn downgrade(from: u32, to: u32, unreadable: &[String]) -> Vec<String> {
    let mut reasons = Vec::new();
    if !unreadable.is_empty() {
        reasons.push(format!("version {to} can't read {}", unreadable.join(", ")));
    }
    if to.saturating_add(1) < from {
        reasons.push(format!("version {to} is more than one before {from}: go back one at a time"));
    }
    reasons
}

/// What would be permitted instead, the simplest first.
fn allowed(map: &Map, change: &Change, situation: &Situation<'_>) -> Result<Vec<String>, Error> {
    let parts = |targets: &[Target]| split(map, targets);
    match change {
        Change::Drain(targets) => of_parts(map, parts(targets)?, Change::Drain, situation),
        Change::Expunge(targets) => {
            let said = of_parts(map, parts(targets)?, Change::Expunge, situation)?;
            let drain = Change::Drain(targets.clone());
            match said.is_empty() {
                false => Ok(said),
                true if passes(map, &drain, situation)? => Ok(vec![drain.to_string()]),
                true => of_parts(map, parts(targets)?, Change::Drain, situation),
            }
        }
        Change::Remove(targets) => {
            let mut said = of_parts(map, parts(targets)?, Change::Remove, situation)?;
            if said.is_empty() {
                let drain = Change::Drain(targets.clone());
                let drains = match passes(map, &drain, situation)? {
                    true => vec![drain.to_string()],
                    false => of_parts(map, parts(targets)?, Change::Drain, situation)?,
                };
                said.extend(drains.into_iter().map(|drain| format!("{drain} first")));
            }
            Ok(said)
        }
        Change::SetPolicy { from, .. } => {
            let old = map.policy(*from).map(|policy| policy.spec().text()).unwrap_or_default();
            Ok(vec![format!("any policy that survives as much as {old}")])
        }
        Change::DeleteBucket { bucket, .. } => Ok(vec![format!("delete bucket {bucket} once it is empty")]),
        Change::PurgeTrash { .. } => Ok(vec!["wait until the trash's age has passed".into()]),
        Change::ChangeVoters { shard, next } => one_voter(map, *shard, next, situation),
        Change::Recover { shard, copies, .. } => Ok(best_copy(*shard, copies, situation)),
        Change::Downgrade { from, to, unreadable } => {
            let before = from.saturating_sub(1);
            let one = (unreadable.is_empty() && *to < before).then(|| format!("go back to version {before}"));
            Ok(one.into_iter().collect())
        }
    }
}

/// Where no part of a change is permitted now: what would have to be different.
fn at_least(change: &Change) -> String {
    match change {
        Change::Drain(_) | Change::Remove(_) => format!("{change} once there are drives that can take the pieces"),
        Change::Expunge(_) => {
            "nothing of it: bring back what is down, or add drives and wait until all is rebuilt".into()
        }
        Change::ChangeVoters { shard, .. } => format!("metadata shard {shard} keeps the voters that it has"),
        Change::Downgrade { from, .. } => format!("stay at version {from}"),
        change => format!("{change} once that is no longer so"),
    }
}

/// The nodes and drives that targets consist of, each by itself.
fn split(map: &Map, targets: &[Target]) -> Result<Vec<Target>, Error> {
    let mut parts = Vec::new();
    for target in targets {
        let named = find(map, target)?;
        match target {
            Target::Domain(..) => {
                let nodes = map.nodes.iter().filter(|node| named.nodes.contains(&node.id));
                // A name may be there twice; the id isn't.
                parts.extend(
                    nodes
                        .map(|node| if is_unique(map, &node.name) { node.name.clone() } else { node.id.to_string() })
                        .map(Target::Node),
                );
                if targets.len() > 1 {
                    parts.push(target.clone());
                }
            }
            one => parts.push(one.clone()),
        }
    }
    parts.dedup();
    Ok(parts)
}

fn is_unique(map: &Map, name: &str) -> bool {
    map.nodes.iter().filter(|node| node.state != State::Removed && node.name == name).count() == 1
}

fn of_parts(
    map: &Map,
    parts: Vec<Target>,
    make: impl Fn(Vec<Target>) -> Change,
    situation: &Situation<'_>,
) -> Result<Vec<String>, Error> {
    let passes =
        |map: &Map, targets: &[Target], situation: &Situation<'_>| passes(map, &make(targets.to_vec()), situation);
    let rows: usize = map.policies.iter().map(|policy| policy.groups.len()).sum();
    let tries = (TRIES_ROWS_MAX / rows.max(1)).clamp(2, TRIES_MAX);
    let tried = &parts[..parts.len().min(tries)];
    let mut alone = Vec::new();
    let mut together = Vec::new();
    for part in tried {
        if parts.len() > 1 && passes(map, std::slice::from_ref(part), situation)? {
            alone.push(part.clone());
            let mut more = together.clone();
            more.push(part.clone());
            if more.len() == 1 || (more.len() < parts.len() && passes(map, &more, situation)?) {
                together = more;
            }
        }
    }
    if !alone.is_empty() {
        return Ok(said(&make, alone, together));
    }
    let calm = settled(map);
    let none = (BTreeSet::new(), BTreeSet::new());
    let later = Situation { down: &none.0, away: &none.1, ..*situation };
    let Some(until) = until(map, situation) else { return Ok(Vec::new()) };
    if passes(&calm, &parts, &later)? {
        return Ok(vec![format!("{} {until}", make(parts))]);
    }
    for part in tried {
        if parts.len() > 1 && passes(&calm, std::slice::from_ref(part), &later)? {
            return Ok(vec![format!("{} {until}, then the next", make(vec![part.clone()]))]);
        }
    }
    Ok(Vec::new())
}

fn said(make: &impl Fn(Vec<Target>) -> Change, alone: Vec<Target>, together: Vec<Target>) -> Vec<String> {
    if together.len() > 1 {
        return vec![make(together).to_string()];
    }
    alone.into_iter().map(|one| format!("{} alone", make(vec![one]))).collect()
}

/// The map once everything that moves has arrived.
fn settled(map: &Map) -> Map {
    let mut calm = map.clone();
    for row in calm.policies.iter_mut().flat_map(|policy| &mut policy.groups) {
        if row.moving().next().is_some() {
            row.settle();
        }
    }
    calm
}

/// What must come first, if anything is in flight.
fn until(map: &Map, situation: &Situation<'_>) -> Option<String> {
    let lost = map.lost();
    let down: BTreeSet<DriveId> = situation.down.difference(&lost).copied().collect();
    let mut back: BTreeSet<String> = owners(map, &down).into_iter().collect();
    let away = situation.away.iter().filter_map(|node| map.node(*node));
    back.extend(away.map(|node| node.name.clone()));
    let rows = || map.policies.iter().flat_map(|policy| &policy.groups);
    let is_moving = rows().any(|row| row.moving().next().is_some());
    let back: Vec<String> = back.into_iter().collect();
    let are = if back.len() == 1 { "is" } else { "are" };
    match (back.is_empty(), is_moving) {
        (true, false) => None,
        (true, true) => Some("after what is being moved or rebuilt has settled".into()),
        (false, false) => Some(format!("after {} {are} back", back.join(", "))),
        (false, true) => Some(format!("after {} {are} back and what is being moved has settled", back.join(", "))),
    }
}

/// A step of one voter towards what was asked for.
fn one_voter(map: &Map, shard: u32, next: &BTreeSet<NodeId>, situation: &Situation<'_>) -> Result<Vec<String>, Error> {
    let none = BTreeSet::new();
    let now = situation.voters.get(shard as usize).unwrap_or(&none);
    let joins = next.difference(now).map(|node| (true, *node));
    for (joins, node) in joins.chain(now.difference(next).map(|node| (false, *node))).take(TRIES_MAX) {
        let mut step = now.clone();
        if joins {
            _ = step.insert(node)
        } else {
            _ = step.remove(&node)
        }
        let change = Change::ChangeVoters { shard, next: step };
        if passes(map, &change, situation)? {
            let name = map.node(node).map_or(node.to_string(), |node| node.name.clone());
            return Ok(vec![format!("let {name} {} first", if joins { "join" } else { "leave" })]);
        }
    }
    Ok(Vec::new())
}

/// The copy that could go on, if it is known to have everything.
fn best_copy(shard: u32, copies: &BTreeMap<NodeId, u64>, situation: &Situation<'_>) -> Vec<String> {
    let best = copies.iter().max_by_key(|(node, position)| (**position, std::cmp::Reverse(**node)));
    match best {
        Some((node, _)) if recovery(shard, copies, *node, situation).is_empty() => {
            vec![format!("recover metadata shard {shard} from node {node}")]
        }
        _ => vec!["bring back more of the voters, or their drives".into()],
    }
}
