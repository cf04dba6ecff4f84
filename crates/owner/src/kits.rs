//! The kit of an end-to-end volume: its clients make it, since it takes the volume's keys.
//!
//! 1. What the kit says is made of the volume's rows, compared with what the log said before: only what changed is fetched and appended.
//! 2. The log is durable here before what was seen of it last, and both before any other node gets it.
//! 3. A log that doesn't open, or not as it was seen last, is begun anew from the rows: they say what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base::{GroupId, Kinded, NodeId, PolicyId};
use client::changes::put;
use client::guest::{Answer, Wish};
use codec::Versioned;
use crypt::{PublicKey, VolumeRoot};
use env::{Env, Open};
use futures_util::future::join_all;
use grant::{Caveat, Verb};
use kit::ask::{Ask, Told};
use kit::log::Seen;
use kit::spread::{Label, PARCEL_BYTES_MAX, Parcel, Take, copies, holders};
use kit::{Change, Group, Log, Position, State};
use metastore::remote::Rows;
use namespace::catalog::{self, DriveRow};
use namespace::read::{Entry, ListQuery, Listed, head_and_ord, list_versions};
use namespace::wire::Query;
use namespace::{ATTR_HERE_BYTES_MAX, VersionId};
use placement::GroupRow;
use transport::Class;

use crate::copies::{Behind, difference};
use crate::reach::told_with;
use crate::volume::{Faced, Volume};
use crate::{Error, Result};

/// Names of a listing, and groups of a policy, at a time.
const PAGE: usize = 1000;
const GROUPS: usize = 1024;
/// Objects whose bodies are fetched at a time.
const AT_ONCE: usize = 16;

/// How the kit does.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Objects in it.
    pub objects: usize,
    /// Bytes of the log.
    pub bytes: u64,
    /// Nodes that should have a copy, and why one hasn't the newest.
    pub holders: Vec<(NodeId, Option<String>)>,
}

fn damaged(what: &'static str) -> Error {
    Error::Client(client::Error::Damaged { what })
}

/// Nodes, and the site that each is in; empty if that isn't known.
pub(crate) type Sites = BTreeMap<NodeId, String>;

/// A listing, compared with a kit.
#[derive(Default)]
struct Compared {
    /// What both have: paths, and what the kit calls the version.
    there: BTreeSet<(String, u64)>,
    /// What the kit lacks, or has otherwise.
    wanted: Vec<(String, VersionId)>,
    /// Up to where the journal is in the listing at least.
    position: u64,
}

/// The log on this machine's disk.
pub(crate) struct Shelf {
    env: Env,
    log: PathBuf,
    seen: PathBuf,
}

impl Shelf {
    /// Of the volume of this key, in a folder.
    pub fn new(env: &Env, folder: &Path, volume: &PublicKey) -> Self {
        let (log, seen) = (folder.join(format!("{volume}.kit")), folder.join(format!("{volume}.seen")));
        Self { env: env.clone(), log, seen }
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> Error {
        let path = self.log.clone();
        move |error| Error::File { path: path.clone(), why: error.to_string() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.env.blocking(work).await.map_err(client::Error::from)?.map_err(self.failed())
    }

    /// The log's file.
    pub fn path(&self) -> &Path {
        &self.log
    }

    /// What is in the log's file, and in the one that says what was seen of it last.
    pub async fn raw(&self) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>)> {
        let (disk, log, seen) = (self.env.disk.clone(), self.log.clone(), self.seen.clone());
        let read = move || {
            let one = |path: &Path| {
                if !disk.exists(path) {
                    return Ok(None);
                }
                let file = disk.open(path, Open::Read)?;
                file.read_vec_at(file.len()? as usize, 0).map(Some)
            };
            // Another process may append meanwhile: a log that goes on beyond what was seen is as it should be, the reverse is a rollback.
            let seen = one(&seen)?;
            Ok((one(&log)?, seen))
        };
        self.blocking(read).await
    }

    /// The log's bytes, if it is there and is what was seen last.
    pub async fn open(&self, root: &VolumeRoot) -> Result<Option<(Vec<u8>, Log)>> {
        let (Some(mut bytes), Some(seen)) = self.raw().await? else { return Ok(None) };
        let opened =
            Seen::decode(&seen).map_err(kit::Error::from).and_then(|seen| Log::open(root, &bytes, Some(&seen)));
        match opened {
            Ok(opened) => {
                bytes.truncate(bytes.len() - opened.cut);
                Ok(Some((bytes, opened.log)))
            }
            Err(error) => {
                tracing::warn!(%error, "the kit on this machine is begun anew");
                Ok(None)
            }
        }
    }

    /// Makes bytes of the log from `from` on durable, then what was seen of it. A log that begins takes the old one's place whole.
    async fn store(&self, from: u64, bytes: Vec<u8>, seen: Seen) -> Result<()> {
        let (disk, log, beside) = (self.env.disk.clone(), self.log.clone(), self.seen.clone());
        self.blocking(move || {
            let folder = log.parent().unwrap_or(Path::new(".")).to_path_buf();
            disk.create_dir_all(&folder)?;
            let whole = |path: &Path, bytes: &[u8]| {
                let part = path.with_extension("part");
                let file = disk.open(&part, Open::Create)?;
                file.set_len(0)?;
                file.write_at(bytes, 0)?;
                file.sync_data()?;
                disk.rename(&part, path)
            };
            if from == 0 {
                whole(&log, &bytes)?;
            } else {
                let file = disk.open(&log, Open::Write)?;
                file.set_len(from)?;
                file.write_at(&bytes, from)?;
                file.sync_data()?;
            }
            whole(&beside, &seen.encode())?;
            disk.sync_dir(&folder)
        })
        .await
    }
}

impl Volume {
    /// What opens the kit that this client keeps; nothing if the grant doesn't allow to list and read what it opens.
    fn kit_root(&self) -> Option<VolumeRoot> {
        let lacks = |caveat: &Caveat| matches!(caveat, Caveat::Verbs(verbs) if !verbs.has(Verb::List) || !verbs.has(Verb::Read));
        match (&self.root, &self.claim) {
            (Some(root), _) => Some(root.clone()),
            (None, Some(claim)) if claim.caveats().iter().any(lacks) => None,
            (None, _) => Some(self.folder.key().guest_root()),
        }
    }

    /// Whether there is a kit of the volume, or of what the grant opens, in a folder of this machine.
    pub async fn has_kit(&self, folder: &Path) -> bool {
        let Some(root) = self.kit_root() else { return false };
        let shelf = Shelf::new(&self.env, folder, &root.signing_key().public());
        matches!(shelf.raw().await, Ok((Some(_), Some(_))))
    }

    /// Brings the volume's kit in a folder of this machine up to date, and copies of it to nodes. With a grant it is a kit of what that opens, and
    /// stays on this machine; a grant that doesn't allow to list and read has none: `None`.
    ///
    /// # Errors
    /// If the rows can't be read, or the folder not written. That a node takes no copy is told by [`Kept::holders`].
    pub async fn keep_kit(&self, folder: &Path) -> Result<Option<Kept>> {
        let Some(root) = &self.kit_root() else { return Ok(None) };
        let shelf = Shelf::new(&self.env, folder, &root.signing_key().public());
        let random = || self.env.random();
        let known = shelf.open(root).await?;
        self.be_settled().await?;
        let (mut changes, mut sites) = self.changes(known.as_ref().map(|(_, log)| log.state())).await?;
        if !self.is_settled() {
            self.be_settled().await?;
            (changes, sites) = self.changes(known.as_ref().map(|(_, log)| log.state())).await?;
        }
        let (mut bytes, log) = match known {
            Some((mut bytes, mut log)) if !log.wants_compaction() => {
                let from = log.len();
                let more = log.append(changes, random)?;
                bytes.extend_from_slice(&more);
                shelf.store(from, more, log.seen()).await?;
                (bytes, log)
            }
            Some((_, mut log)) => {
                log.append(changes, random)?;
                let (bytes, log) = log.compact(random)?;
                shelf.store(0, bytes.clone(), log.seen()).await?;
                (bytes, log)
            }
            None => {
                let mut state = State::default();
                changes.drain(..).for_each(|change| state.apply(change));
                let (bytes, log) = Log::create(root, self.about().number, random(), state, random)?;
                shelf.store(0, bytes.clone(), log.seen()).await?;
                (bytes, log)
            }
        };
        if self.root.is_none() {
            return Ok(Some(Kept { objects: log.state().objects(), bytes: log.len(), holders: Vec::new() }));
        }
        bytes.truncate(log.len() as usize);
        let (label, wanted) = (Label::of(&log), copies_of(log.state()));
        sites.retain(|node, _| self.reach.nodes().contains_key(node));
        let mut nodes = holders(root, takers(log.state(), sites), usize::MAX).into_iter();
        let (mut brought, mut lacking) = (Vec::new(), wanted);
        // For each that doesn't take it now, the next one may.
        for _ in 0..2 {
            let some = join_all(nodes.by_ref().take(lacking).map(async |node| {
                let done = self.bring(root, label, &bytes, node).await;
                (node, done.err().map(|error| error.to_string()))
            }));
            brought.extend(some.await);
            lacking = wanted - brought.iter().filter(|(_, why)| why.is_none()).count();
        }
        if lacking == 0 || brought.iter().all(|(_, why)| why.is_none()) {
            self.tell_settled().await?;
        }
        Ok(Some(Kept { objects: log.state().objects(), bytes: log.len(), holders: brought }))
    }

    /// Brings the log to a node.
    async fn bring(&self, root: &VolumeRoot, label: Label, bytes: &[u8], node: NodeId) -> Result<()> {
        let (mut at, mut turns) = (bytes.len() as u64, 0);
        // The last bytes first: if the node has all before them, that is all it takes.
        at = at.saturating_sub(1);
        while at < label.len {
            let end = (at as usize + PARCEL_BYTES_MAX).min(bytes.len());
            let parcel = Parcel::new(root, label, at, &bytes[at as usize..end]);
            let (told, _) =
                told_with(self.reach.endpoint(), node, Ask::Keep, Class::Bulk, parcel.encode().into()).await?;
            match told {
                Told::Kept(Take::Grow | Take::Begin | Take::Fill | Take::Known) => at = end as u64,
                Told::Kept(Take::Older) => return Ok(()),
                Told::Kept(Take::From(from)) if turns < 3 => (at, turns) = (from, turns + 1),
                other => return Err(Error::Nobody(format!("node {node} doesn't take a kit: {other:?}"))),
            }
        }
        Ok(())
    }

    async fn rows(&self, query: Query) -> Result<Rows> {
        match self.directors.ask(Wish::Fetch(query)).await? {
            Answer::Rows(rows) => Ok(rows),
            _ => Err(damaged("what a node answers")),
        }
    }

    /// How a kit differs from what the rows say now.
    ///
    /// # Errors
    /// If the rows can't be read: nobody may lead the volume's metadata.
    pub async fn compare(&self, kit: &State) -> Result<Behind> {
        let listed = self.listed(Some(kit)).await?;
        Ok(difference(kit, listed.there.len(), listed.there.len() + listed.wanted.len()))
    }

    /// All versions by the rows, and which of them the kit has.
    async fn listed(&self, state: Option<&State>) -> Result<Compared> {
        let number = self.about().number;
        let mut query = ListQuery { prefix: self.prefix.clone(), limit: PAGE, ..ListQuery::default() };
        let mut compared = Compared::default();
        let mut position = None;
        loop {
            let rows = self.rows(Query::ListVersions(query.clone())).await?;
            // Rows of later pages are newer: the first page says up to where all is in.
            compared.position = *position.get_or_insert(rows.at().0);
            let page = rows.run(|view| list_versions(view, number, &query));
            let page = page.map_err(|_| damaged("a listing"))?.map_err(client::Error::from)?;
            for entry in page.entries {
                let Entry::Item(listed) = entry else { continue };
                // A grant for one file opens none whose name only begins like it.
                if !grant::within(&self.prefix, &listed.key) || self.unsettle_for(&listed.key) {
                    continue;
                }
                let same = state.and_then(|state| known(state, &listed));
                match same {
                    Some(version) => _ = compared.there.insert((listed.key, version)),
                    None => compared.wanted.push((listed.key, listed.version.id)),
                }
            }
            let Some(next) = page.next else { return Ok(compared) };
            (query.after, query.after_version, query.after_upload) = (Some(next.after), next.version, next.upload);
        }
    }

    /// What makes the kit say what the rows say, and the sites of nodes.
    async fn changes(&self, state: Option<&State>) -> Result<(Vec<Change>, Sites)> {
        let at = self.env.clock.wall();
        let Compared { mut there, wanted, position } = self.listed(state).await?;
        let (mut puts, mut groups) = (Vec::new(), BTreeSet::new());
        for some in wanted.chunks(AT_ONCE) {
            for change in join_all(some.iter().map(|(key, id)| self.change(key, *id))).await {
                let Some(change) = change? else { continue };
                if let Change::Put { path, object } = &change {
                    there.insert((path.clone(), object.version));
                    groups.extend(
                        object.body.segments().into_iter().map(|(segment, _)| (segment.code.policy, segment.group)),
                    );
                }
                puts.push(change);
            }
        }
        let gone = state.into_iter().flat_map(State::everything);
        let gone = gone.filter(|(path, object)| !there.contains(&((*path).to_owned(), object.version)));
        let gone = gone.map(|(path, object)| Change::Drop { path: path.to_owned(), version: object.version });
        // Groups before the objects that name them.
        let known = state.map(State::older_roots).unwrap_or_default();
        let older = self.sealed_roots().filter(|sealed| !known.iter().any(|one| one == sealed));
        let mut all: Vec<Change> = older.map(|sealed| Change::OlderRoot(sealed.to_vec())).collect();
        let (town, sites) = self.town(state, &groups).await?;
        all.extend(town);
        all.extend(gone);
        all.extend(puts);
        all.push(Change::Position(Position { seq: position, at }));
        Ok((all, sites))
    }

    /// A version as the rows have it; nothing if it is no more.
    async fn change(&self, key: &str, id: VersionId) -> Result<Option<Change>> {
        let number = self.about().number;
        let rows = self.rows(Query::Head { key: key.to_owned(), version: Some(id), with_body: true }).await?;
        let found = rows.run(|view| head_and_ord(view, number, key, id)).map_err(|_| damaged("a version's rows"))?;
        match found {
            Ok((found, ord)) => Ok(put(key, ord, &found.into_version())),
            Err(error) if error.kind() == base::Kind::Missing => Ok(None),
            Err(error) => Err(client::Error::from(error).into()),
        }
    }

    /// Where things are, as far as the kit says otherwise: all nodes and drives, and the groups that are named. The sites of nodes too, which
    /// kits don't say.
    async fn town(&self, state: Option<&State>, new: &BTreeSet<(PolicyId, GroupId)>) -> Result<(Vec<Change>, Sites)> {
        let mut wanted = new.clone();
        for (_, object) in state.into_iter().flat_map(State::everything) {
            wanted.extend(object.body.segments().into_iter().map(|(segment, _)| (segment.code.policy, segment.group)));
        }
        let rows = self.directors.map().await?;
        let read = |view: &dyn base::kv::View| {
            let all = usize::from(u16::MAX);
            let mut groups = BTreeMap::new();
            for policy in catalog::policies(view, None, all)? {
                let mut after = None;
                loop {
                    let page = catalog::groups(view, policy.id, after, GROUPS)?;
                    after = page.last().map(|(group, _)| *group);
                    let is_full = page.len() == GROUPS;
                    groups.extend(page.into_iter().map(|(group, row)| ((policy.id, group), row)));
                    if !is_full {
                        break;
                    }
                }
            }
            let sites = catalog::nodes(view, None, all)?.into_iter().map(|row| (row.id, row.site().to_owned()));
            Ok::<_, namespace::Error>((catalog::drives(view, None, all)?, groups, sites.collect()))
        };
        let (drives, groups, sites) =
            rows.run(read).map_err(|_| damaged("the catalog's rows"))?.map_err(client::Error::from)?;
        let mut all = Vec::new();
        for (id, node) in self.reach.nodes() {
            if state.is_none_or(|state| state.nodes().get(id) != Some(node)) {
                all.push(Change::Node(*id, Some(node.clone())));
            }
        }
        let drives = drives.into_iter().filter(DriveRow::takes_data);
        all.extend(drives.filter_map(|row| Some(Change::Drive(row.id, Some(row.node?)))));
        for at in wanted {
            let Some(bytes) = groups.get(&at) else { continue };
            let GroupRow { group, version, members, from } = GroupRow::decode(bytes).map_err(client::Error::from)?;
            all.push(Change::Group(Group { policy: at.0, group, version, members, from }));
        }
        Ok((all, sites))
    }
}

/// Those of some nodes that take copies of a kit: not those that keep the metadata alone, since a kit is for when they are gone.
pub(crate) fn takers(state: &State, mut nodes: Sites) -> Sites {
    let with_data = state.with_data();
    nodes.retain(|node, _| with_data.contains(node));
    nodes
}

/// On how many nodes the kit goes.
pub(crate) fn copies_of(state: &State) -> usize {
    let segments = state.everything().flat_map(|(_, object)| object.body.segments());
    // Pieces of a segment that may be lost, at the most.
    copies(segments.map(|(segment, _)| usize::from(segment.code.m)).max().unwrap_or(0))
}

/// What the kit calls a version that it has as the rows have it.
fn known(state: &State, listed: &Listed) -> Option<u64> {
    let version = &listed.version;
    let outer = Faced { etag: version.etag.clone(), attrs: version.attrs.clone() };
    let is_it = |object: &&kit::Object| {
        let same = (object.marker, object.modified, object.size) == (version.marker, version.modified, version.size);
        same && object.null == (version.id == VersionId::NULL) && in_listing(object).is_some_and(|seen| seen == outer)
    };
    state.versions(&listed.key).find(is_it).map(|object| object.version)
}

/// What a listing has of an object in the kit: no long attributes. One that changes does so along with a short one.
fn in_listing(object: &kit::Object) -> Option<Faced> {
    if object.attrs.is_empty() {
        return Some(Faced::default());
    }
    let mut outer = Faced::decode(&object.attrs).ok()?;
    outer.attrs.retain(|_, value| value.len() <= ATTR_HERE_BYTES_MAX);
    Some(outer)
}
