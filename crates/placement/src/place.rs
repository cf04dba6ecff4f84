//! Drives, each with the failure domains it is in.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use base::{Domain, DriveId, NodeId};

use crate::labels::Labels;

/// Something of drives that is looked up a million times in a large cluster, and never gone over: its order is nobody's.
/// The hash has no random key: nothing here depends on chance.
pub(crate) type ByDrive<T> = HashMap<DriveId, T, BuildHasherDefault<DefaultHasher>>;

/// A drive as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The drive.
    pub drive: DriveId,
    /// Its capacity, in the unit of all others.
    pub weight: u64,
    /// Whether it takes new pieces. One that doesn't still counts where it holds some.
    pub open: bool,
    /// The number of its domain of each kind, in the order of [`Domain::ALL`].
    pub at: [u32; Domain::COUNT],
}

/// Drives and their domains.
#[derive(Clone, Debug, Default)]
pub struct Places {
    list: Vec<Place>,
    by_drive: ByDrive<usize>,
    /// Of each kind, the names of the domains by number.
    names: [Vec<String>; Domain::COUNT],
    /// Kinds that say something: those that any node has a label of.
    known: [bool; Domain::COUNT],
}

/// A drive to make a place of.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The drive.
    pub drive: DriveId,
    /// Its capacity.
    pub weight: u64,
    /// Whether it takes new pieces.
    pub open: bool,
    /// The node it is on.
    pub node: NodeId,
    /// The labels of that node.
    pub labels: &'a Labels,
}

impl Places {
    /// Drives of a cluster. A drive that is given twice counts once.
    ///
    /// Nodes without a label of some kind share one nameless domain of it: assuming that they fail
    /// together promises too little rather than too much. Racks are told apart by site.
    pub fn new<'a>(given: impl IntoIterator<Item = Given<'a>>) -> Self {
        let mut places = Self::default();
        let mut numbers: [BTreeMap<String, u32>; Domain::COUNT] = Default::default();
        for one in given {
            let keys = Domain::ALL.map(|domain| match domain {
                Domain::Drive => one.drive.to_string(),
                Domain::Node => one.node.to_string(),
                Domain::Rack => format!("{}/{}", one.labels.get(Domain::Site), one.labels.get(Domain::Rack)),
                label => one.labels.get(label).to_owned(),
            });
            let mut at = [0; Domain::COUNT];
            for (kind, key) in keys.into_iter().enumerate() {
                let next = numbers[kind].len() as u32;
                at[kind] = *numbers[kind].entry(key.clone()).or_insert(next);
                if at[kind] == next {
                    places.names[kind].push(key);
                }
            }
            for label in Domain::LABELS {
                places.known[label as usize] |= !one.labels.get(label).is_empty();
            }
            places.push(Place { drive: one.drive, weight: one.weight, open: one.open, at });
        }
        places.known[Domain::Drive as usize] = true;
        places.known[Domain::Node as usize] = true;
        places
    }

    /// Drives of which nothing else is known: of one machine.
    pub fn plain(drives: impl IntoIterator<Item = (DriveId, u64)>) -> Self {
        let mut places = Self::default();
        for (number, (drive, weight)) in drives.into_iter().enumerate() {
            let mut at = [0; Domain::COUNT];
            at[Domain::Drive as usize] = number as u32;
            places.names[Domain::Drive as usize].push(drive.to_string());
            places.push(Place { drive, weight, open: true, at });
        }
        places.known[Domain::Drive as usize] = true;
        places
    }

    fn push(&mut self, place: Place) {
        let at = self.list.len();
        if let Entry::Vacant(entry) = self.by_drive.entry(place.drive) {
            entry.insert(at);
            self.list.push(place);
        }
    }

    /// All of them.
    pub fn list(&self) -> &[Place] {
        &self.list
    }

    /// Where in [`Places::list`] a drive is.
    pub fn index(&self, drive: DriveId) -> Option<usize> {
        self.by_drive.get(&drive).copied()
    }

    /// A drive's place.
    pub fn get(&self, drive: DriveId) -> Option<&Place> {
        self.index(drive).map(|at| &self.list[at])
    }

    /// Whether domains of this kind are told apart.
    pub fn knows(&self, domain: Domain) -> bool {
        self.known[domain as usize]
    }

    /// How many domains of the kind there are.
    pub fn count(&self, domain: Domain) -> usize {
        self.names[domain as usize].len()
    }

    /// The name of a domain; empty if nobody labelled it.
    pub fn name(&self, domain: Domain, number: u32) -> &str {
        self.names[domain as usize].get(number as usize).map_or("", String::as_str)
    }

    /// Drives that take new pieces.
    pub fn open(&self) -> impl Iterator<Item = (usize, &Place)> {
        self.list.iter().enumerate().filter(|(_, place)| place.open)
    }

    /// Lets the drive at this index of [`Places::list`] take new pieces, or not.
    pub fn set_open(&mut self, index: usize, open: bool) {
        if let Some(place) = self.list.get_mut(index) {
            place.open = open;
        }
    }

    /// Lets only some drives take new pieces.
    pub fn close_unless(&mut self, takes: impl Fn(&Place) -> bool) {
        for place in &mut self.list {
            place.open = place.open && takes(place);
        }
    }
}
