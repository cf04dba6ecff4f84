//! Kits of the volumes whose shards this node leads: made of the rows, followed by the journal, brought to their holders.
//!
//! 1. Who leads a shard keeps the kits of its volumes, and a kit of the buckets' names with the catalog. Each leader has logs of its
//!    own, and later leaders' count as newer: the first generation follows from the epoch under which the shard is led.
//! 2. What is appended is durable in this node's own copy before it is brought to others. Whatever fails on the way, the log is
//!    begun anew from the rows.
//! 3. A kit is behind its volume by [`EVERY`] and what bringing it takes: what only the metadata has (small objects) is
//!    as safe as its voters until then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::kv::View;
use base::{DriveId, Epoch, GroupId, Instant, NodeId, PolicyId, Seq, Standing, VolumeId, Wall};
use client::Metadata as _;
use client::changes::Attributes;
use codec::Versioned;
use crypt::VolumeRoot;
use futures_util::future::join_all;
use kit::ask::{Ask, Question, Told};
use kit::spread::{Label, PARCEL_BYTES_MAX, Parcel, Take, copies, holders};
use kit::{Body, Change, Group, Log, Node, Object, Position, State};
use metastore::{Embedded, ShardStore as _};
use namespace::catalog::{self, NodeState};
use namespace::journal::{Event, What};
use namespace::kept::{Kept, kept, kept_at};
use namespace::read::{Entry, ListQuery};
use transport::{Call, Class};

use super::{CATALOG, service::OWNERS};
use crate::cluster::shard::MetaShard;
use crate::error::{Error, Result};
use crate::fleet::lock;
use crate::node::{Inner, PAGE, SYSTEM};

/// How often kits follow their volumes.
const EVERY: Duration = Duration::from_secs(1);
/// A shard must have been led for so long before its kits are made: leaders come and go when nodes fail.
const STEADY: Duration = Duration::from_secs(2);
/// What failed begins anew after so long: it reads all rows.
const ANEW: Duration = Duration::from_secs(15);
/// Entries of the journal at a time.
const TAIL_MAX: usize = 4096;
/// A holder that didn't take a parcel is left alone for so long.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a holder may take for a parcel.
const LIMIT: Duration = Duration::from_secs(20);

/// How a volume's kit does, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Paths in it.
    pub objects: usize,
    /// Bytes of it.
    pub bytes: u64,
    /// When the last change that it has was made.
    pub at: Wall,
    /// The nodes that should have a copy, and whether theirs is the newest.
    pub holders: Vec<(NodeId, bool)>,
}

/// Where things are, as the catalog says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Town {
    nodes: BTreeMap<NodeId, Node>,
    sites: BTreeMap<NodeId, String>,
    drives: BTreeMap<DriveId, NodeId>,
    groups: BTreeMap<(PolicyId, GroupId), Group>,
    /// Pieces of a segment that may be lost, by the policy that allows most.
    survives: usize,
}

/// The kit of one volume.
struct Keeper {
    root: VolumeRoot,
    log: Log,
    town: Town,
    /// Groups that its objects name.
    groups: BTreeSet<(PolicyId, GroupId)>,
    /// Bytes of the log that each holder has; nothing of one that has something newer.
    has: BTreeMap<NodeId, Option<u64>>,
    failed: BTreeMap<NodeId, Instant>,
    /// Bytes that aren't in this node's own copy yet: from where, and them.
    new: Option<(u64, Vec<u8>)>,
}

/// The kits of one shard.
struct Following {
    epoch: Epoch,
    since: Instant,
    at: Option<Seq>,
    volumes: BTreeMap<VolumeId, Keeper>,
}

/// Keeps kits until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut drives: BTreeSet<PathBuf> = BTreeSet::new();
    let mut all: BTreeMap<u32, Following> = BTreeMap::new();
    let mut not_before: BTreeMap<u32, Instant> = BTreeMap::new();
    while inner.pause(EVERY).await {
        // One machine alone has all its metadata on its drives as it is, several times.
        if inner.cluster.get().is_none() {
            continue;
        }
        for drive in inner.fleet.up() {
            if drives.insert(drive.path.clone())
                && let Err(error) = inner.owners.shelves.add_drive(&drive.path).await
            {
                tracing::warn!(%error, "the copies of kits on a drive can't be listed");
            }
        }
        inner.learn_owners();
        inner.drop_replaced_kits().await;
        for shard in inner.shards.all() {
            let number = shard.number;
            let known = all.remove(&number);
            if !shard.is_led_here() {
                inner.forget_kits(known.as_ref());
                not_before.remove(&number);
                continue;
            }
            let now = inner.env.clock.now();
            if not_before.get(&number).is_some_and(|at| now < *at) {
                continue;
            }
            match inner.unless_closing(inner.keep_shard(&shard, known)).await {
                None => return,
                Some(Ok(following)) => _ = all.insert(number, following),
                Some(Err(error)) => {
                    tracing::info!(shard = number, %error, "the kits of a shard are begun anew");
                    not_before.insert(number, now + ANEW);
                }
            }
        }
    }
}

impl Inner {
    fn forget_kits(&self, of: Option<&Following>) {
        let mut kept = lock(&self.owners.kept);
        of.into_iter().flat_map(|following| following.volumes.keys()).for_each(|volume| _ = kept.remove(volume));
    }

    async fn keep_shard(&self, shard: &Arc<MetaShard>, known: Option<Following>) -> Result<Following> {
        let store = shard.stores().into_iter().next();
        let store = store.ok_or_else(|| Error::NotYet("the shard has no rows here".into()))?;
        let (epoch, now) = (store.position().0, self.env.clock.now());
        let fresh = Following { epoch, since: now, at: None, volumes: BTreeMap::new() };
        // Who led in between may have changed anything.
        let following = known.filter(|known| known.epoch == epoch).unwrap_or(fresh);
        if now.since(following.since) < STEADY {
            return Ok(following);
        }
        let town = self.town()?;
        let volumes = self.volumes_of(shard.number)?;
        let (env, keys, wall) = (self.env.clone(), self.keys.clone(), self.env.clock.wall());
        let is_catalog = shard.number == SYSTEM;
        let follow = move || {
            let mut follow = Follow { store: &store, following, town: &town, wall, random: &|| env.random() };
            match is_catalog {
                true => follow.catalog(&VolumeRoot::of(&keys.volume_key(CATALOG)))?,
                false => {
                    follow.volumes(&volumes, |volume| VolumeRoot::of(&keys.volume_key(volume)))?;
                }
            }
            Ok::<_, Error>(follow.following)
        };
        let mut following = self.env.blocking(follow).await.map_err(client::Error::from)??;
        for (volume, keeper) in &mut following.volumes {
            self.store_new(keeper).await?;
            let shown = self.bring_to_all(keeper).await;
            lock(&self.owners.kept).insert(*volume, shown);
        }
        Ok(following)
    }

    /// The volumes of a shard that have a bucket.
    fn volumes_of(&self, shard: u32) -> Result<BTreeSet<VolumeId>> {
        // The kit of an end-to-end volume is its clients' affair: it takes the volume's keys.
        let mut volumes = BTreeSet::new();
        for (volume, _) in self.volumes_of_buckets()? {
            if catalog::shard_of(volume) == shard && !self.is_sealed(volume)? {
                volumes.insert(volume);
            }
        }
        Ok(volumes)
    }

    fn town(&self) -> Result<Town> {
        let (nodes, drives) = self.look(|view| {
            let all = usize::from(u16::MAX);
            Ok((catalog::nodes(view, None, all)?, catalog::drives(view, None, all)?))
        })?;
        let nodes: Vec<_> = nodes.into_iter().filter(|row| row.state != NodeState::Removed).collect();
        let node = |row: catalog::NodeRow| {
            let addresses = row.addresses.into_iter().take(grant::address::ADDRESSES_MAX).collect();
            (row.id, Node { key: crypt::PublicKey(row.key), addresses })
        };
        let mut town = Town {
            sites: nodes.iter().map(|row| (row.id, row.site().to_owned())).collect(),
            nodes: nodes.into_iter().map(node).collect(),
            drives: drives
                .into_iter()
                .filter(|row| row.takes_data())
                .filter_map(|row| Some((row.id, row.node?)))
                .collect(),
            groups: BTreeMap::new(),
            survives: 0,
        };
        for (policy, rows) in self.look(crate::groups::load)? {
            town.survives = town.survives.max(usize::from(policy.coding.m));
            for row in rows {
                let (policy, group, version) = (policy.id, row.group, row.version);
                let group = Group { policy, group, version, members: row.members, from: row.from };
                town.groups.insert((policy, group.group), group);
            }
        }
        Ok(town)
    }

    /// Makes what is new durable in this node's own copy.
    async fn store_new(&self, keeper: &mut Keeper) -> Result<()> {
        let Some((from, bytes)) = keeper.new.take() else { return Ok(()) };
        let label = Label::of(&keeper.log);
        let dir = self.kit_drive(&label.volume);
        let dir = dir.ok_or_else(|| Error::NotYet("no drive of this node takes a kit now".into()))?;
        let mut at = from;
        for part in bytes.chunks(PARCEL_BYTES_MAX) {
            let parcel = Parcel::new(&keeper.root, label, at, part);
            match self.owners.shelves.take((&dir.path, dir.lock.clone()), parcel).await? {
                Take::Grow | Take::Begin | Take::Fill | Take::Known => at += part.len() as u64,
                // Its own copy is gone, or somebody else's is newer: both are settled by beginning anew.
                other => return Err(Error::NotYet(format!("this node's copy of a kit doesn't fit ({other:?})"))),
            }
        }
        Ok(())
    }

    /// Who may be given copies, and their sites. Not who keeps the metadata alone, since a kit is for when they are gone, and not who is
    /// gone for so long that others take its place.
    fn kit_takers(&self, town: &Town) -> BTreeMap<NodeId, String> {
        let with_data: BTreeSet<NodeId> = town.drives.values().copied().collect();
        let (me, cluster) = (self.me(), self.cluster.get());
        let is_gone = |node| cluster.is_some_and(|cluster| cluster.standing(node) == Standing::Gone);
        let may = |node: NodeId| Some(node) != me && with_data.contains(&node) && !is_gone(node);
        town.sites.iter().filter(|(node, _)| may(**node)).map(|(node, site)| (*node, site.clone())).collect()
    }

    /// Brings the log to those who should have a copy.
    async fn bring_to_all(&self, keeper: &mut Keeper) -> Shown {
        let mut shown = Shown {
            objects: keeper.log.state().objects(),
            bytes: keeper.log.len(),
            at: keeper.log.state().position().at,
            holders: Vec::new(),
        };
        let wanted = holders(&keeper.root, self.kit_takers(&keeper.town), copies(keeper.town.survives));
        keeper.has.retain(|node, _| wanted.contains(node));
        let now = self.env.clock.now();
        let this: &Keeper = keeper;
        let done = join_all(wanted.iter().map(|node| async move {
            let is_away = self.cluster.get().is_some_and(|cluster| cluster.standing(*node) != Standing::Alive);
            if is_away || this.failed.get(node).is_some_and(|at| now.since(*at) < AGAIN) {
                return (*node, None);
            }
            (*node, Some(self.bring(this, *node).await))
        }))
        .await;
        for (node, done) in done {
            match done {
                None => {}
                Some(Ok(has)) => {
                    keeper.failed.remove(&node);
                    keeper.has.insert(node, has);
                }
                Some(Err(error)) => {
                    tracing::debug!(%node, %error, "a node doesn't take a kit now");
                    keeper.failed.insert(node, now);
                }
            }
            let has = keeper.has.get(&node);
            shown.holders.push((node, has.is_some_and(|has| has.is_none_or(|has| has == keeper.log.len()))));
        }
        shown
    }

    /// Brings the log to a node; the bytes of it that the node has then, nothing if it has something as new.
    async fn bring(&self, keeper: &Keeper, node: NodeId) -> Result<Option<u64>> {
        let Some(cluster) = self.cluster.get() else { return Ok(None) };
        let label = Label::of(&keeper.log);
        // What counted as new as this one doesn't after the next change.
        let mut at = keeper.has.get(&node).copied().flatten().unwrap_or(0);
        let mut turns = 0;
        while at < label.len {
            let copy = self.owners.shelves.read(label.volume, at, PARCEL_BYTES_MAX).await?;
            let copy = copy.filter(|(found, bytes)| {
                (found.log, found.generation) == (label.log, label.generation) && !bytes.is_empty()
            });
            let (_, bytes) = copy.ok_or_else(|| Error::NotYet("this node's own copy of a kit is gone".into()))?;
            let parcel = Parcel::new(&keeper.root, label, at, &bytes);
            let question = Question { ticket: None, ask: Ask::Keep };
            let call = Call::new(OWNERS, Class::Bulk, question.encode());
            let call = call.with_body(parcel.encode()).with_timeout(LIMIT);
            match cluster.endpoint.call(node, call).await?.decode::<Told>()? {
                Told::Kept(Take::Grow | Take::Begin | Take::Fill | Take::Known) => at += bytes.len() as u64,
                Told::Kept(Take::Older) => return Ok(None),
                Told::Kept(Take::From(from)) if turns < 2 => (at, turns) = (from, turns + 1),
                other => return Err(Error::NotYet(format!("a node doesn't take a kit: {other:?}"))),
            }
        }
        Ok(Some(at))
    }
}

/// Following one shard, off the reactor.
struct Follow<'a> {
    store: &'a Embedded,
    following: Following,
    town: &'a Town,
    wall: Wall,
    random: &'a dyn Fn() -> [u8; 16],
}

impl Follow<'_> {
    fn volumes(&mut self, volumes: &BTreeSet<VolumeId>, root: impl Fn(VolumeId) -> VolumeRoot) -> Result<()> {
        self.following.volumes.retain(|volume, _| volumes.contains(volume));
        let mut touched: BTreeMap<VolumeId, (BTreeSet<String>, Wall)> = BTreeMap::new();
        // Before the journal: what is committed after it is read next time. The other way round it would never be.
        let snapshot = self.store.snapshot()?;
        let mut at = self.following.at;
        while let Some(after) = at.filter(|after| *after < snapshot.at()) {
            let entries = self.store.tail(&self.store.cursor(after), TAIL_MAX)?;
            let Some(last) = entries.last() else { break };
            at = Some(last.seq);
            let seen = entries.iter().filter(|entry| entry.seq <= snapshot.at());
            for bytes in seen.flat_map(|entry| &entry.batch.events) {
                let event = Event::decode(bytes)?;
                let (keys, when) = touched.entry(event.volume).or_default();
                *when = (*when).max(event.at);
                keys.extend(key_of(event.what));
            }
        }
        // What the journal doesn't tell yet is told next time.
        let through = at.map_or(snapshot.at(), |at| at.min(snapshot.at()));
        for volume in volumes {
            match self.following.volumes.remove(volume) {
                Some(mut keeper) => {
                    let mut objects = Vec::new();
                    if let Some((keys, when)) = touched.get(volume) {
                        for key in keys {
                            keeper.key_changes(&*snapshot, *volume, key, &mut objects)?;
                        }
                        let seq = through.0.max(keeper.log.state().position().seq);
                        objects.push(Change::Position(Position { seq, at: *when }));
                    }
                    // Groups before the objects that name them.
                    let mut changes = keeper.town_changes(self.town);
                    changes.extend(objects);
                    let mut keeper = keeper.append(changes, self.random)?;
                    if keeper.log.wants_compaction() {
                        keeper =
                            keeper.compact(|log| log.compact_outlined(self.random, contents(&*snapshot, *volume)))?;
                    }
                    self.following.volumes.insert(*volume, keeper);
                }
                None => {
                    let (root, position) = (root(*volume), Position { seq: snapshot.at().0, at: self.wall });
                    let state = outline(&*snapshot, *volume, position)?;
                    let keeper = self.begin(root, *volume, state, contents(&*snapshot, *volume))?;
                    self.following.volumes.insert(*volume, keeper);
                }
            }
        }
        self.following.at = Some(through);
        Ok(())
    }

    /// The buckets' names.
    fn catalog(&mut self, root: &VolumeRoot) -> Result<()> {
        let snapshot = self.store.snapshot()?;
        let mut buckets = BTreeMap::new();
        let mut after = String::new();
        loop {
            let page = catalog::list_all_buckets(&*snapshot, &after, PAGE)?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            buckets.extend(page.into_iter().map(|bucket| (bucket.name.clone(), bucket_object(&bucket))));
        }
        let position = Position { seq: snapshot.at().0, at: self.wall };
        let keeper = match self.following.volumes.remove(&CATALOG) {
            Some(mut keeper) => {
                let mut changes = keeper.town_changes(self.town);
                let known: Vec<(String, Object)> =
                    keeper.log.state().everything().map(|(path, object)| (path.to_owned(), object.clone())).collect();
                for (path, object) in &known {
                    if buckets.get(path) != Some(object) {
                        changes.push(Change::Drop { path: path.clone(), version: object.version });
                    }
                }
                let is_new = |(path, object): &(String, Object)| !known.contains(&(path.clone(), object.clone()));
                let new = buckets.into_iter().filter(is_new);
                changes.extend(new.map(|(path, object)| Change::Put { path, object }));
                if !changes.is_empty() {
                    changes.push(Change::Position(position));
                }
                let mut keeper = keeper.append(changes, self.random)?;
                if keeper.log.wants_compaction() {
                    keeper = keeper.compact(|log| Ok(log.compact(self.random)?))?;
                }
                keeper
            }
            None => {
                let mut state = State::default();
                buckets.into_iter().for_each(|(path, object)| state.apply(Change::Put { path, object }));
                state.apply(Change::Position(position));
                self.begin(root.clone(), CATALOG, (state, BTreeSet::new()), |_, _| Ok(None))?
            }
        };
        self.following.volumes.insert(CATALOG, keeper);
        self.following.at = Some(snapshot.at());
        Ok(())
    }

    fn begin(
        &self,
        root: VolumeRoot,
        volume: VolumeId,
        (mut state, groups): (State, BTreeSet<(PolicyId, GroupId)>),
        whole: impl FnMut(&str, &Object) -> Result<Option<Object>>,
    ) -> Result<Keeper> {
        let mut town = Town::default();
        town_changes(&mut town, self.town, &groups).into_iter().for_each(|change| state.apply(change));
        // Later leaders' logs are newer, whatever the generations that a leader made by compacting.
        let generation = (self.following.epoch.0 << 24) + 1;
        let at = ((self.random)(), generation);
        let (bytes, log) = Log::create_outlined(&root, volume, at, state, self.random, whole)?;
        let (has, failed) = Default::default();
        Ok(Keeper { root, log, town, groups, has, failed, new: Some((0, bytes)) })
    }
}

impl Keeper {
    fn town_changes(&mut self, town: &Town) -> Vec<Change> {
        town_changes(&mut self.town, town, &self.groups)
    }

    /// What makes the kit say of a key what the rows say.
    fn key_changes(&mut self, view: &dyn View, volume: VolumeId, key: &str, to: &mut Vec<Change>) -> Result<()> {
        let rows = kept(view, volume, key)?;
        let known: BTreeMap<u64, &Object> =
            self.log.state().versions(key).map(|object| (object.version, object)).collect();
        let now: BTreeSet<u64> = rows.iter().map(|row| row.ord).collect();
        for gone in known.keys().filter(|ord| !now.contains(ord)) {
            to.push(Change::Drop { path: key.to_owned(), version: *gone });
        }
        let mut wanted = BTreeSet::new();
        // Oldest first.
        for row in rows.into_iter().rev() {
            let object = object_of(row)?;
            if known.get(&object.version) != Some(&&object.clone().outline()) {
                wanted.extend(groups_of(&object.body));
                to.push(Change::Put { path: key.to_owned(), object });
            }
        }
        self.groups.extend(wanted);
        Ok(())
    }

    fn append(mut self, changes: Vec<Change>, random: &dyn Fn() -> [u8; 16]) -> Result<Keeper> {
        if changes.is_empty() {
            return Ok(self);
        }
        let from = self.log.len();
        let bytes = self.log.append(changes, random)?;
        self.new = Some((from, bytes));
        Ok(self)
    }

    fn compact(self, compact: impl FnOnce(Log) -> Result<(Vec<u8>, Log)>) -> Result<Keeper> {
        let (bytes, log) = compact(self.log)?;
        Ok(Keeper { log, new: Some((0, bytes)), has: BTreeMap::new(), ..self })
    }
}

/// What changed since `known`, which is `town` after; of groups only those that are wanted.
fn town_changes(known: &mut Town, town: &Town, wanted: &BTreeSet<(PolicyId, GroupId)>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (id, node) in &town.nodes {
        if known.nodes.get(id) != Some(node) {
            changes.push(Change::Node(*id, Some(node.clone())));
        }
    }
    changes.extend(known.nodes.keys().filter(|id| !town.nodes.contains_key(id)).map(|id| Change::Node(*id, None)));
    for (drive, node) in &town.drives {
        if known.drives.get(drive) != Some(node) {
            changes.push(Change::Drive(*drive, Some(*node)));
        }
    }
    let gone = known.drives.keys().filter(|drive| !town.drives.contains_key(drive));
    changes.extend(gone.map(|drive| Change::Drive(*drive, None)));
    for at in wanted {
        if let Some(group) = town.groups.get(at).filter(|group| known.groups.get(at) != Some(group)) {
            changes.push(Change::Group(group.clone()));
            known.groups.insert(*at, group.clone());
        }
    }
    known.nodes.clone_from(&town.nodes);
    known.sites.clone_from(&town.sites);
    known.drives.clone_from(&town.drives);
    known.survives = town.survives;
    changes
}

/// All of a volume in outline, and the groups that it names.
fn outline(view: &dyn View, volume: VolumeId, position: Position) -> Result<(State, BTreeSet<(PolicyId, GroupId)>)> {
    let (mut state, mut groups) = (State::outline(), BTreeSet::new());
    let mut query = ListQuery { limit: PAGE, ..ListQuery::default() };
    loop {
        let page = namespace::read::list_versions(view, volume, &query)?;
        let mut last: Option<String> = None;
        for entry in page.entries {
            let Entry::Item(listed) = entry else { continue };
            if last.as_ref() == Some(&listed.key) {
                continue;
            }
            for row in kept(view, volume, &listed.key)?.into_iter().rev() {
                let object = object_of(row)?;
                groups.extend(groups_of(&object.body));
                state.apply(Change::Put { path: listed.key.clone(), object });
            }
            last = Some(listed.key);
        }
        let Some(next) = page.next else { break };
        // All versions of the last key were taken.
        query.after = Some(next.after);
    }
    state.apply(Change::Position(position));
    Ok((state, groups))
}

/// What outlines of a volume's objects lack, by its rows. For one that was replaced since the journal was read there is what replaced
/// it, or the kit would have neither until it is told.
fn contents(view: &dyn View, volume: VolumeId) -> impl FnMut(&str, &Object) -> Result<Option<Object>> {
    move |path, object| {
        let row = match kept_at(view, volume, path, object.version)? {
            None => kept(view, volume, path)?.into_iter().next(),
            row => row,
        };
        row.map(object_of).transpose()
    }
}

fn object_of(row: Kept) -> Result<Object> {
    let Kept { ord, null, version } = row;
    let body =
        Body::of(&version.body).ok_or(namespace::Error::Broken { what: "a version was read without its body" })?;
    let is_bare = version.marker && version.attrs.is_empty();
    let attributes = Attributes { etag: version.etag, attrs: version.attrs };
    let attrs = if is_bare { Vec::new() } else { attributes.encode() };
    let (marker, modified, size) = (version.marker, version.modified, version.size);
    Ok(Object { version: ord, null, marker, modified, size, attrs, body })
}

fn bucket_object(bucket: &catalog::Bucket) -> Object {
    let number = bucket.volume.0.to_le_bytes().to_vec();
    let (size, body) = (number.len() as u64, Body::Inline(number));
    let version = u64::from(bucket.volume.0);
    Object { version, null: true, marker: false, modified: bucket.created, size, attrs: Vec::new(), body }
}

fn groups_of(body: &Body) -> impl Iterator<Item = (PolicyId, GroupId)> {
    body.segments().into_iter().map(|(segment, _)| (segment.code.policy, segment.group)).collect::<Vec<_>>().into_iter()
}

fn key_of(what: What) -> Option<String> {
    match what {
        What::Put { key, .. }
        | What::Marker { key, .. }
        | What::Delete { key, .. }
        | What::Attrs { key, .. }
        | What::Rebody { key, .. } => Some(key),
        What::UploadBegun { .. }
        | What::UploadAborted { .. }
        | What::Config { .. }
        | What::Versioning(_)
        | What::Closed => None,
    }
}

#[cfg(test)]
mod tests {
    use env::Env;
    use metastore::{Mirror, Options};
    use namespace::{Attrs, Command, Condition, NewVersion};

    use super::*;

    const VOLUME: VolumeId = VolumeId(5);
    const OBJECTS: u64 = 500;

    fn content(number: u64) -> Vec<u8> {
        number.to_le_bytes().repeat(50)
    }

    async fn write(store: Arc<Embedded>) {
        for number in 0..OBJECTS {
            write_one(&store, format!("{number:04}"), number).await;
        }
    }

    async fn write_one(store: &Embedded, key: String, number: u64) {
        let body = namespace::Body::Inline(content(number));
        let new = NewVersion { size: 400, etag: String::new(), attrs: Attrs::new(), body };
        let command = Command::Put { key, new, condition: Condition::default() };
        let snapshot = store.snapshot().unwrap();
        let (batch, _) = namespace::apply(&*snapshot, VOLUME, &command, Wall(1 + number)).unwrap();
        let (epoch, head) = store.position();
        store.commit(epoch, head, vec![batch]).await.unwrap();
    }

    async fn store_in(env: &Env, dir: &std::path::Path) -> Arc<Embedded> {
        let mirror = Mirror { drive: DriveId([1; 16]), dir: dir.join("meta") };
        let key = crypt::MetaKey::new([9; 32]);
        Embedded::open(env, 1, vec![mirror], &key, None, Options::default()).await.unwrap()
    }

    #[tokio::test]
    async fn for_what_was_replaced_since_a_kit_has_what_replaced_it() {
        let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
        let store = store_in(&env, dir.path()).await;
        write_one(&store, "a".into(), 1).await;
        let (before, _) = outline(&*store.snapshot().unwrap(), VOLUME, Position::default()).unwrap();
        let known = before.get("a").unwrap();
        let snapshot = store.snapshot().unwrap();
        let told = contents(&*snapshot, VOLUME)("a", known).unwrap().unwrap();
        assert_eq!((told.version, &told.body), (known.version, &Body::Inline(content(1))));

        write_one(&store, "a".into(), 2).await;
        let snapshot = store.snapshot().unwrap();
        let told = contents(&*snapshot, VOLUME)("a", known).unwrap().unwrap();
        assert!(told.version > known.version && told.body == Body::Inline(content(2)));
        assert_eq!(contents(&*snapshot, VOLUME)("b", known).unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_kit_misses_nothing_that_is_committed_while_it_is_made() {
        let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
        let store = store_in(&env, dir.path()).await;
        let (town, random) = (Town::default(), || env.random());
        let mut following =
            Following { epoch: store.position().0, since: env.clock.now(), at: None, volumes: BTreeMap::new() };
        #[allow(clippy::disallowed_methods, reason = "two real threads are the point")]
        let writer = tokio::spawn(write(store.clone()));
        let mut file = Vec::new();
        loop {
            let was_last = writer.is_finished();
            let mut follow = Follow { store: &store, following, town: &town, wall: Wall(1), random: &random };
            let done =
                tokio::task::block_in_place(|| follow.volumes(&BTreeSet::from([VOLUME]), |_| VolumeRoot::new([1; 32])));
            done.unwrap();
            following = follow.following;
            if let Some((from, bytes)) = following.volumes.get_mut(&VOLUME).and_then(|keeper| keeper.new.take()) {
                file.truncate(from as usize);
                file.extend(bytes);
            }
            if was_last {
                break;
            }
        }
        writer.await.unwrap();
        // The leader has outlines in memory, and a reader of the log everything.
        let log = Log::open(&VolumeRoot::new([1; 32]), &file, None).unwrap().log;
        assert_eq!(log.seen(), following.volumes[&VOLUME].log.seen());
        let is_there = |number: &u64| {
            let found = log.state().get(&format!("{number:04}"));
            found.is_some_and(|object| object.body == Body::Inline(content(*number)))
        };
        let lacks: Vec<u64> = (0..OBJECTS).filter(|number| !is_there(number)).collect();
        assert!(lacks.is_empty(), "the kit lacks {lacks:?}");
    }
}
