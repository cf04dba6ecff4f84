//! Commands that can lower redundancy or capacity, and the gate that each of them passes.
//!
//! 1. There is one list, [`Change`], and one path: [`apply`] says what the map would be, [`judge`] what that comes to.
//!    A new kind of change that isn't judged doesn't compile.
//! 2. What is refused says why, what is allowed instead, and a code. The code is bound to the change, to the map of
//!    this epoch and the one that would follow, and to who is down: once any of it is different it is worth nothing.
//! 3. One failure domain at a time: while a domain is down, being emptied or rebuilt, no other is touched.
//! 4. What can't be named isn't guessed: an unknown name is an error that names the nearest.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base::nearest::nearest;
use base::{Demand, Domain, DriveId, Kind, Kinded, NodeId, PolicyId};

use crate::caps::Unmet;
use crate::group::GroupRow;
use crate::labels;
use crate::map::{Map, Policy, PolicyError, State};
use crate::spread;

pub use judge::{Situation, judge};

/// Letters of an id that are enough to name it by.
const ID_LETTERS_MIN: usize = 4;

/// A drive, a node or all nodes of a domain, as people name them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A drive by the beginning of its id.
    Drive(String),
    /// A node by its name, or the beginning of its id.
    Node(String),
    /// All nodes with this label: a rack, a site …
    Domain(Domain, String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Drive(name) => write!(f, "drive {name}"),
            Target::Node(name) => write!(f, "node {name}"),
            Target::Domain(domain, value) => write!(f, "{domain} {value}"),
        }
    }
}

/// How much a deletion is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Versions of objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects ({} bytes)", self.objects, self.bytes)
    }
}

/// A command that can lower redundancy or capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Empties them; their pieces count until they are elsewhere.
    Drain(Vec<Target>),
    /// Takes out for good what was emptied before.
    Remove(Vec<Target>),
    /// Declares them lost: their pieces don't count any more and are rebuilt.
    Expunge(Vec<Target>),
    /// What a bucket, or all data without a policy of its own, is stored by from now on.
    SetPolicy {
        /// For whom, as people say it.
        whose: String,
        /// The policy so far.
        from: PolicyId,
        /// Pieces that suffice.
        k: u8,
        /// Pieces that may be lost.
        m: u8,
        /// Pieces that must be durable before a write is acknowledged.
        ack: u8,
        /// Losses to survive.
        demands: Vec<Demand>,
        /// Labels that its drives' nodes must have.
        within: Vec<(Domain, String)>,
    },
    /// Deletes a bucket, or a volume, with what is in it.
    DeleteBucket {
        /// Its name.
        bucket: String,
        /// What is in it.
        contents: Contents,
    },
    /// Gives up what was deleted before its time.
    PurgeTrash {
        /// What could still be had back.
        contents: Contents,
    },
    /// Another set of voters for a shard of the metadata.
    ChangeVoters {
        /// The shard.
        shard: u32,
        /// The voters that there would be.
        next: BTreeSet<NodeId>,
    },
    /// Begins a shard of the metadata anew from one copy, without a majority.
    Recover {
        /// The shard.
        shard: u32,
        /// The copies that can be read, each with its last position in the journal.
        copies: BTreeMap<NodeId, u64>,
        /// The copy to go on from.
        keep: NodeId,
    },
    /// Runs an older version.
    Downgrade {
        /// The version now.
        from: u32,
        /// The version to go back to.
        to: u32,
        /// Stored forms in use that the older version can't read.
        unreadable: Vec<String>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |targets: &[Target]| targets.iter().map(Target::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Change::Drain(targets) => write!(f, "drain {}", list(targets)),
            Change::Remove(targets) => write!(f, "remove {}", list(targets)),
            Change::Expunge(targets) => write!(f, "expunge {}", list(targets)),
            Change::SetPolicy { whose, k, m, .. } => write!(f, "store {whose} as {k}+{m}"),
            Change::DeleteBucket { bucket, contents } => write!(f, "delete bucket {bucket} with {contents}"),
            Change::PurgeTrash { contents } => write!(f, "purge {contents} that could be had back"),
            Change::ChangeVoters { shard, next } => write!(f, "give metadata shard {shard} {} voters", next.len()),
            Change::Recover { shard, keep, .. } => write!(f, "recover metadata shard {shard} from node {keep} alone"),
            Change::Downgrade { from, to, .. } => write!(f, "go back from version {from} to {to}"),
        }
    }
}

/// Why a change can't even be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing of that name is there.
    #[error("there is no {target}{hint}; nothing was changed")]
    Unknown {
        /// As given.
        target: Target,
        /// A hint that begins with its punctuation, or nothing.
        hint: String,
    },
    /// Several have that name.
    #[error("several are called {0}: write more of the id; nothing was changed")]
    Ambiguous(Target),
    /// A label of a policy that nobody has.
    #[error("{0}; nothing was changed")]
    Label(String),
    /// A policy that this cluster can't meet.
    #[error("{0}; nothing was changed")]
    Unmet(#[from] Unmet),
    /// The policy so far isn't in the map.
    #[error("policy {0} isn't in the map: ask again with the map of now; nothing was changed")]
    Policy(PolicyId),
    /// What it would be is no code, or makes a map that contradicts itself.
    #[error("{0}; nothing was changed")]
    Map(#[from] crate::map::Error),
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Unknown { .. } | Error::Policy(_) => Kind::Missing,
            Error::Ambiguous(_) | Error::Label(_) | Error::Unmet(_) => Kind::Invalid,
            Error::Map(error) => error.kind(),
        }
    }
}

/// The drives and nodes that a target names: of a drive its own id, of a node all of its.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub nodes: BTreeSet<NodeId>,
    pub drives: BTreeSet<DriveId>,
}

/// The map as it would be after the change, of the next epoch, with the tables following. Changes that
/// aren't about the map leave all but the epoch as it is.
pub fn apply(map: &Map, change: &Change) -> Result<Map, Error> {
    let mut next = map.next(map.made);
    match change {
        Change::Drain(targets) => set_state(&mut next, targets, State::Draining)?,
        Change::Remove(targets) => set_state(&mut next, targets, State::Removed)?,
        Change::Expunge(targets) => set_state(&mut next, targets, State::Gone)?,
        Change::SetPolicy { from, k, m, ack, demands, within, .. } => {
            map.policy(*from).ok_or(Error::Policy(*from))?;
            let id = PolicyId(map.policies.iter().map(|policy| policy.id.0).max().unwrap_or(0).saturating_add(1));
            let (name, groups) = (crate::Spec { k: *k, m: *m, demands: demands.clone() }.text(), Vec::new());
            let (demands, within) = (demands.clone(), within.clone());
            set_policy(&mut next, Policy { id, name, k: *k, m: *m, ack: *ack, demands, within, groups })?;
        }
        Change::DeleteBucket { .. }
        | Change::PurgeTrash { .. }
        | Change::ChangeVoters { .. }
        | Change::Recover { .. }
        | Change::Downgrade { .. } => {}
    }
    next.check()?;
    Ok(next)
}

fn set_state(map: &mut Map, targets: &[Target], state: State) -> Result<(), Error> {
    for target in targets {
        let named = find(map, target)?;
        for node in map.nodes.iter_mut().filter(|node| named.nodes.contains(&node.id)) {
            node.state = node.state.max(state);
        }
        // The drives of a node follow it by themselves.
        if named.nodes.is_empty() {
            for drive in map.drives.iter_mut().filter(|drive| named.drives.contains(&drive.id)) {
                drive.state = drive.state.max(state);
            }
        }
    }
    follow(map);
    Ok(())
}

/// Gives the positions of drives that take nothing any more to others.
fn follow(map: &mut Map) {
    let stays = |drive: &&crate::map::Drive| map.drive_state(drive) == State::Active;
    let leaving: BTreeSet<DriveId> = map.drives.iter().filter(|drive| !stays(drive)).map(|drive| drive.id).collect();
    let change =
        |policy: &Policy| spread::follow(&map.places(Some(policy)), &policy.spec(), &policy.groups, &leaving).0;
    let changed: Vec<Vec<GroupRow>> = map.policies.iter().map(change).collect();
    for (policy, rows) in map.policies.iter_mut().zip(changed) {
        for row in rows {
            match policy.groups.binary_search_by_key(&row.group, |old| old.group) {
                Ok(at) => policy.groups[at] = row,
                Err(at) => policy.groups.insert(at, row),
            }
        }
    }
}

fn set_policy(map: &mut Map, mut policy: Policy) -> Result<(), Error> {
    let same = |other: &Policy| {
        (other.k, other.m, other.ack) == (policy.k, policy.m, policy.ack)
            && (&other.demands, &other.within) == (&policy.demands, &policy.within)
    };
    if map.policies.iter().any(same) {
        return Ok(());
    }
    let caps = map.check_policy(&policy, &[]).map_err(|error| match error {
        PolicyError::Label(text) => Error::Label(text),
        PolicyError::Unmet(unmet) => Error::Unmet(unmet),
    })?;
    policy.groups = spread::build(&map.places(Some(&policy)), &policy.spec(), &caps);
    map.policies.push(policy);
    Ok(())
}

/// What a target names. Nodes and drives that were removed before can't be named.
pub(crate) fn find(map: &Map, target: &Target) -> Result<Named, Error> {
    let nodes = || map.nodes.iter().filter(|node| node.state != State::Removed);
    let begins = |id: &str, name: &str| name.len() >= ID_LETTERS_MIN && id.starts_with(&name.to_lowercase());
    let found: Vec<Named> = match target {
        Target::Node(name) => nodes()
            .filter(|node| node.name == *name || begins(&node.id.to_string(), name))
            .map(|node| named(map, [node.id].into()))
            .collect(),
        Target::Drive(name) => map
            .drives
            .iter()
            .filter(|drive| map.drive_state(drive) != State::Removed && begins(&drive.id.to_string(), name))
            .map(|drive| Named { nodes: BTreeSet::new(), drives: [drive.id].into() })
            .collect(),
        Target::Domain(Domain::Node, name) => return find(map, &Target::Node(name.clone())),
        Target::Domain(Domain::Drive, name) => return find(map, &Target::Drive(name.clone())),
        Target::Domain(label, value) => {
            if let Err(why) = labels::known_value(*label, value, nodes().map(|node| &node.labels)) {
                return Err(Error::Unknown { target: target.clone(), hint: format!(": {why}") });
            }
            let there = nodes().filter(|node| node.labels.get(*label) == value).map(|node| node.id);
            vec![named(map, there.collect())]
        }
    };
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Error::Ambiguous(target.clone())),
        (None, _) => {
            let known: Vec<String> = match target {
                Target::Drive(_) => map.drives.iter().map(|drive| drive.id.to_string()).collect(),
                _ => nodes().map(|node| node.name.clone()).collect(),
            };
            let (Target::Drive(name) | Target::Node(name) | Target::Domain(_, name)) = target;
            let near = nearest(name, known.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!(": did you mean {near}?"));
            Err(Error::Unknown { target: target.clone(), hint })
        }
    }
}

fn named(map: &Map, nodes: BTreeSet<NodeId>) -> Named {
    let drives = map.drives_of(&nodes);
    Named { nodes, drives }
}

/// The nodes that draining, removing or expunging names, and the drives that it names by themselves.
///
/// # Errors
/// If something of it isn't there.
pub fn named_by(map: &Map, change: &Change) -> Result<(BTreeSet<NodeId>, BTreeSet<DriveId>), Error> {
    let (mut nodes, mut drives) = (BTreeSet::new(), BTreeSet::new());
    if let Change::Drain(targets) | Change::Remove(targets) | Change::Expunge(targets) = change {
        for target in targets {
            let named = find(map, target)?;
            if named.nodes.is_empty() {
                drives.extend(named.drives);
            }
            nodes.extend(named.nodes);
        }
    }
    Ok((nodes, drives))
}
