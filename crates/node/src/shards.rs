//! The metadata shards of a store, as this process knows them.
//!
//! Shard 0 is the catalog; all others have volumes, and a volume's number says which one
//! ([`namespace::catalog::shard_of`]). One machine has one volume shard; more are made as nodes come
//! ([`crate::cluster`]), and none is ever taken away.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use async_trait::async_trait;
use base::kv::View;
use base::{Kind, VolumeId};
use client::Metadata;
use client::shard::{Cut, Hint, Rule, Volumes};
use metastore::Snapshot;
use metastore::remote::Wants;
use namespace::Outcome;
use namespace::catalog::{FIRST_SHARD, SHARDS_MAX, shard_of};
use namespace::work::Work;

use crate::cluster::shard::MetaShard;
use crate::error;
use crate::node::Inner;

/// The shards by number.
pub(crate) struct Shards {
    all: RwLock<BTreeMap<u32, Arc<MetaShard>>>,
    node: OnceLock<Weak<Inner>>,
}

impl Shards {
    /// Those that are known at the start.
    pub fn new(shards: impl IntoIterator<Item = Arc<MetaShard>>) -> Arc<Self> {
        let all = shards.into_iter().map(|shard| (shard.number, shard)).collect();
        Arc::new(Self { all: RwLock::new(all), node: OnceLock::new() })
    }

    /// Who has them.
    pub fn set_node(&self, node: &Arc<Inner>) {
        // Said once.
        let _ = self.node.set(Arc::downgrade(node));
    }

    /// All, by number.
    pub fn all(&self) -> Vec<Arc<MetaShard>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// That of this number, if it is known.
    pub fn get(&self, number: u32) -> Option<Arc<MetaShard>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// That of a volume. Another node may have made it a moment ago, and a bucket on it.
    pub fn of_volume(&self, volume: VolumeId) -> Option<Arc<MetaShard>> {
        let number = shard_of(volume);
        let learnt = || self.node.get().and_then(Weak::upgrade)?.learn_shard(number);
        self.get(number).or_else(learnt)
    }

    /// It is known from now on, unless another of its number is; that one, then.
    pub fn add(&self, shard: Arc<MetaShard>) -> Option<Arc<MetaShard>> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        match all.get(&shard.number) {
            Some(known) => Some(known.clone()),
            None => {
                all.insert(shard.number, shard);
                None
            }
        }
    }
}

impl Volumes for Shards {
    fn of(&self, volume: VolumeId) -> Arc<dyn Metadata> {
        match self.of_volume(volume) {
            Some(shard) => shard,
            None => Arc::new(Nowhere(shard_of(volume))),
        }
    }
}

/// A shard that this node's catalog doesn't know, or not yet.
struct Nowhere(u32);

impl Nowhere {
    fn error(&self) -> client::Error {
        if !can_be(self.0) {
            let text = format!("no metadata shard can have the number {}: the volume's number is damaged", self.0);
            return client::Error::Metadata { kind: Kind::Damaged, text };
        }
        // Who asks again may find that the catalog has come here meanwhile.
        let text = format!("metadata shard {} isn't known to this node yet: trying again", self.0);
        client::Error::Metadata { kind: Kind::Unreachable, text }
    }
}

#[async_trait]
impl Metadata for Nowhere {
    fn is_led_here(&self) -> bool {
        false
    }

    fn here(&self) -> Result<Option<Box<dyn Snapshot>>, client::Error> {
        Err(self.error())
    }

    async fn cut(&self, _: &Wants, _: Option<&Hint>) -> Result<Cut, client::Error> {
        Err(self.error())
    }

    async fn change(&self, _: &mut Rule<'_>) -> Result<(), client::Error> {
        Err(self.error())
    }

    async fn work(&self, _: Work) -> Result<Outcome, client::Error> {
        Err(self.error())
    }
}

/// Volumes by the shard that has them.
pub(crate) fn by_shard(volumes: impl IntoIterator<Item = VolumeId>) -> BTreeMap<u32, Vec<VolumeId>> {
    let mut all: BTreeMap<u32, Vec<VolumeId>> = BTreeMap::new();
    volumes.into_iter().for_each(|volume| all.entry(shard_of(volume)).or_default().push(volume));
    all
}

/// Whether a volume shard can have that number.
pub(crate) fn can_be(number: u32) -> bool {
    (FIRST_SHARD..FIRST_SHARD + SHARDS_MAX).contains(&number)
}

impl Inner {
    /// The metadata shard of a volume, for rules.
    pub fn shard(&self, volume: VolumeId) -> client::Shard {
        client::Shard::new(self.env.clone(), self.shards.of(volume))
    }

    /// Whether this node does what one node does for all volumes: it leads the first of their shards.
    pub fn leads_volumes(&self) -> bool {
        self.shards.get(FIRST_SHARD).is_some_and(|shard| shard.is_led_here())
    }

    /// Reads rows of a volume, off the reactor.
    pub async fn scan<T: Send + 'static>(
        &self,
        volume: VolumeId,
        read: impl Fn(&dyn View) -> std::result::Result<T, namespace::Error> + Send + 'static,
    ) -> error::Result<T> {
        self.shard(volume).scan(None, move |view| Ok(read(view)?)).await
    }

    /// Reads rows of volumes that one shard has each time; what came of it, shard by shard.
    pub async fn scan_all<T: Send + 'static>(
        &self,
        volumes: impl IntoIterator<Item = VolumeId>,
        read: impl Fn(&dyn View, &[VolumeId]) -> std::result::Result<T, namespace::Error> + Clone + Send + 'static,
    ) -> error::Result<Vec<T>> {
        let mut all = Vec::new();
        for volumes in by_shard(volumes).into_values() {
            let Some(volume) = volumes.first().copied() else { continue };
            let read = read.clone();
            all.push(self.scan(volume, move |view| read(view, &volumes)).await?);
        }
        Ok(all)
    }
}
