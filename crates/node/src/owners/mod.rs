//! What this node does for owners of volumes, who may be all that is left: nobody leads, no director is there.
//!
//! [`shelves`] keeps copies of kits on the drives; [`keeper`] makes them of what the shards say that this node leads,
//! and brings them to their holders; [`spare`] reads by them when nobody leads; [`drill`] proves now and then that this would do; [`guests`] answers
//! those who use an end-to-end volume, [`volumes`] makes one; [`service`] answers owners: by the key that their connection shows, or by their ticket.
//! design/0012 and 0014 say why.

pub(crate) mod drill;
pub(crate) mod guests;
pub(crate) mod keeper;
pub(crate) mod service;
pub(crate) mod shelves;
pub(crate) mod spare;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use base::{NodeId, VolumeId};
use crypt::{PublicKey, VolumeRoot};
use grant::Meter;
use namespace::catalog;

use crate::error::Result;
use crate::fleet::lock;
use crate::node::{Inner, Node};
use shelves::Shelves;
pub use volumes::{VolumeShown, VolumeWish};

/// The buckets' names and numbers are kept as a volume of this number, which no bucket has: one inline object each, which is the
/// volume's number.
pub const CATALOG: VolumeId = VolumeId(0);
/// Owners that are remembered; more are derived again when they are asked for.
const OWNERS_MAX: usize = 100_000;

/// What the parts share.
pub(crate) struct Owners {
    pub shelves: Shelves,
    /// Public keys of the volumes that this node has the keys of.
    known: Mutex<BTreeMap<VolumeId, PublicKey>>,
    /// End-to-end volumes.
    pub sealed: guests::Sealed,
    pub meter: Mutex<Meter>,
    /// Bytes of pieces that were served to owners and their guests.
    pub served: AtomicU64,
    /// How the kits of this node's shards do.
    pub kept: Mutex<BTreeMap<VolumeId, keeper::Shown>>,
}

impl Owners {
    pub fn new(env: env::Env) -> Self {
        let (known, sealed, meter, served, kept) = Default::default();
        Self { shelves: Shelves::new(env), known, sealed, meter, served, kept }
    }
}

impl Inner {
    /// The root of a volume that the cluster has the key of.
    pub fn volume_root(&self, volume: VolumeId) -> VolumeRoot {
        VolumeRoot::of(&self.keys.volume_key(volume))
    }

    /// Its public key.
    pub fn owner_of(&self, volume: VolumeId) -> PublicKey {
        let mut known = lock(&self.owners.known);
        if let Some(key) = known.get(&volume) {
            return *key;
        }
        let key = self.volume_root(volume).signing_key().public();
        if known.len() < OWNERS_MAX {
            known.insert(volume, key);
        }
        key
    }

    /// Whether something of this owner may be here.
    pub fn knows_owner(&self, key: &PublicKey) -> bool {
        let is_known = lock(&self.owners.known).values().any(|known| known == key);
        is_known || self.owners.shelves.has(key) || self.sealed_with_now(key).is_some()
    }

    /// Knows the owners of all volumes of the catalog.
    pub fn learn_owners(&self) {
        // What isn't there yet is read when it is asked for.
        let _ = self.learn_sealed();
        for volume in self.volumes().unwrap_or_default() {
            if !self.is_sealed(volume).unwrap_or(false) {
                self.owner_of(volume);
            }
        }
        self.owner_of(CATALOG);
    }
}

/// How the kit of a bucket does.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KitShown {
    /// The bucket; nothing for the kit of the buckets' names.
    pub bucket: Option<String>,
    /// Its volume.
    pub volume: u32,
    /// Paths in it.
    pub objects: usize,
    /// Bytes of it.
    pub bytes: u64,
    /// When the last change that it has was made.
    pub up_to: String,
    /// The nodes that should have a copy, besides this one.
    pub holders: Vec<HolderShown>,
}

/// A node that should have a copy of a kit.
#[derive(Clone, Debug, serde::Serialize)]
pub struct HolderShown {
    /// Its name, or its id.
    pub node: String,
    /// Whether its copy is as new as can be.
    pub fresh: bool,
}

impl Node {
    /// How the kits do of the buckets whose metadata this node leads.
    ///
    /// # Errors
    /// If the catalog can't be read.
    pub fn kits(&self) -> Result<Vec<KitShown>> {
        let inner = &self.0;
        let names = inner.look(|view| catalog::list_all_buckets(view, "", usize::from(u16::MAX)))?;
        let nodes = inner.look(|view| catalog::nodes(view, None, usize::from(u16::MAX)))?;
        let node = |id: NodeId| {
            let row = nodes.iter().find(|row| row.id == id).filter(|row| !row.name.is_empty());
            row.map_or_else(|| id.to_string(), |row| row.name.clone())
        };
        let kept = lock(&inner.owners.kept).clone();
        let shown = |(volume, shown): (VolumeId, keeper::Shown)| KitShown {
            bucket: names.iter().find(|bucket| bucket.volume == volume).map(|bucket| bucket.name.clone()),
            volume: volume.0,
            objects: shown.objects,
            bytes: shown.bytes,
            up_to: shown.at.rfc3339(),
            holders: shown.holders.into_iter().map(|(id, fresh)| HolderShown { node: node(id), fresh }).collect(),
        };
        Ok(kept.into_iter().map(shown).collect())
    }
}
