//! An end-to-end volume, read and written with its keys: objects are sealed and coded here, and go straight to the nodes that keep
//! their pieces. Nobody else learns names, contents or keys.
//!
//! ```no_run
//! # async fn example(addresses: &[std::net::SocketAddr]) -> owner::Result<()> {
//! use owner::{Key, Volume};
//!
//! let root = crypt::VolumeRoot::new([7; 32]); // of the 24 words: VolumeRoot::from_words
//! let volume = Volume::open(env::Env::real(), Key::Owner(root), addresses).await?;
//! let mut upload = volume.write("photos/sea.jpg", None)?;
//! upload.write(bytes::Bytes::from_static(b"waves")).await?;
//! upload.finish(Default::default()).await?;
//! for entry in volume.list("photos/").await? {
//!     println!("{} {}", entry.name, entry.size);
//! }
//! let (_, mut stream) = volume.read("photos/sea.jpg", 1..3).await?;
//! while let Some(bytes) = stream.next().await {
//!     assert_eq!(&bytes?[..], b"av");
//! }
//! volume.delete("photos/sea.jpg").await
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{DriveId, Instant, UserId, Wall};
use bytes::Bytes;
use client::guest::{About, Right};
use client::pieces::State;
use client::{Access, Bucket, Client, DriveState, Drives, Folder, ReadStream, Writer};
use codec::{Reader, Versioned, Writer as Fields};
use crypt::{FolderKey, PublicKey, SigningKey, VolumeRoot};
use env::Env;
use futures_util::future::join_all;
use grant::{Caveat, Claim, Grant, Refusal, Verb};
use kit::Object;
use metastore::remote::Rows;
use namespace::catalog;
use namespace::read::{Entry as Listed, Found, ListQuery};
use namespace::{Attrs, Body, Command, Condition, NewVersion, Outcome, UploadId, Version};

use crate::directors::{Catalog, Directors, VolumeRows};
use crate::drive::{GuestDrive, Way};
use crate::reach::Reach;
use crate::replace::{Older, Settled};
use crate::spare::{AFTER, Shown, Spare, Spares, outer_in_kit};
use crate::{Error, Result};

/// The attribute that holds an object's [`Attributes`], sealed.
pub const SEALED: &str = "sealed";
/// The one that holds the entity tag that a face gave it, sealed: short, so that listings have it.
pub const SEALED_ETAG: &str = "sealed.etag";
/// The one that holds all that a face keeps of it ([`Faced`]), sealed.
pub const SEALED_FACE: &str = "sealed.face";
/// Associated data of sealed attributes.
const ATTRIBUTES: &[u8] = b"attributes";
const ETAG: &[u8] = b"etag";
const FACE: &[u8] = b"face";
/// All of them, and what they are sealed as.
pub(crate) const SEALED_ATTRS: [(&str, &[u8]); 3] = [(SEALED, ATTRIBUTES), (SEALED_ETAG, ETAG), (SEALED_FACE, FACE)];
/// Where pieces are is looked up anew after so long.
const MAP_AGE_MAX: Duration = Duration::from_secs(5);
/// The store keeps pieces for a day longer that no object names: who takes longer to write one begins again.
pub const WRITE_MAX: Duration = Duration::from_secs(6 * 24 * 3600);
/// Names of a listing at a time.
const PAGE: usize = 1000;
const TYPE_BYTES_MAX: usize = 128;

/// What opens a volume, or part of it.
pub enum Key {
    /// The volume's root: everything.
    Owner(VolumeRoot),
    /// A grant: what it says.
    Grant(Box<Grant>),
}

/// What an object says of itself beside its bytes; sealed with its file's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// When the file that it was made of was changed last.
    pub changed: Option<Wall>,
    /// What its bytes are, as a media type; empty if that isn't known.
    pub content_type: String,
}

impl Versioned for Attributes {
    const NAME: &'static str = "attributes of a file";
    const MARK: [u8; 4] = *b"AbFa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Fields) {
        to.option(self.changed, |to, at| _ = to.u64(at.0)).str(&self.content_type);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        let changed = from.option("changed", |from| from.u64("changed"))?.map(Wall);
        Ok(Self { changed, content_type: from.str("content type", TYPE_BYTES_MAX)?.to_owned() })
    }
}

/// An object, or a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its true name in its folder; of a folder it ends in `/`.
    pub name: String,
    /// Bytes; 0 for a folder.
    pub size: u64,
    /// When it was written.
    pub written: Wall,
    /// What it says of itself.
    pub attributes: Attributes,
    /// The entity tag that a face gave it; else `tag`.
    pub etag: String,
    /// Names what was written then: the same bytes written again have another one.
    pub tag: String,
}

/// What a face, as S3's, keeps of an object: its entity tag, headers, checksums and the like.
pub use client::changes::Attributes as Faced;

impl Entry {
    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.name.ends_with('/')
    }
}

/// A volume that is open. Paths are true ones, from the volume's top, or from what the grant opens; folders end in `/`.
pub struct Volume {
    pub(crate) env: Env,
    pub(crate) reach: Reach,
    pub(crate) client: Client,
    pub(crate) directors: Arc<Directors>,
    way: Arc<Way>,
    pub(crate) bucket: Bucket,
    about: About,
    pub(crate) folder: Arc<Folder>,
    /// What rows call the folder, or the file, that the key opens.
    pub(crate) prefix: String,
    pub(crate) root: Option<VolumeRoot>,
    /// What keys open that the root replaced.
    pub(crate) older: Vec<Older>,
    pub(crate) settled: Settled,
    pub(crate) claim: Option<Claim>,
    mapped: Mutex<Instant>,
    pub(crate) spares: Spares,
    /// Drives that are read and written.
    placed: BTreeSet<DriveId>,
}

pub(crate) fn invalid(what: &'static str) -> Error {
    Error::Client(client::Error::Invalid { what })
}

impl Volume {
    /// Greets the nodes at these addresses and all that they know, and asks what they know of the volume.
    ///
    /// # Errors
    /// [`Error::Nobody`] if no node answers, or none knows the key or the grant: it may have ended. [`Error::Client`] if the nodes refuse.
    pub async fn open(env: Env, key: Key, addresses: &[SocketAddr]) -> Result<Self> {
        let (public, shown, pass, claim) = match &key {
            Key::Owner(root) => {
                let key = root.signing_key();
                (key.public(), key, Vec::new(), None)
            }
            Key::Grant(grant) => {
                // A guest's own key means nothing: it only tells guests apart.
                let key = SigningKey::from_seed(&env.random());
                let pass = grant.claim.encode();
                if pass.len() > wire::greet::PASS_BYTES_MAX {
                    return Err(invalid("the grant was narrowed too often: ask the owner for a shorter one"));
                }
                (grant.claim.head.volume, key, pass, Some(grant.claim.clone()))
            }
        };
        let reach = Reach::open_with(env.clone(), shown, pass, addresses).await?;
        let right = Right { volume: public, claim: claim.clone() };
        let nodes = reach.nodes().keys().copied().collect();
        let directors = Directors::new(env.clone(), reach.endpoint().clone(), nodes, right.clone(), AFTER);
        let about = directors.about().await?;
        let mut older = Vec::new();
        let (folder, prefix, root) = match key {
            Key::Owner(root) => {
                root.prove(&about.check).map_err(client::Error::from)?;
                let sealed = about.older.iter().map(|older| older.sealed.as_slice());
                older.extend(root.open_all_older(sealed).into_iter().map(Older::new));
                (Folder::of_root(&root), String::new(), Some(root))
            }
            Key::Grant(grant) => {
                let subtree =
                    grant.subtree.ok_or_else(|| invalid("the grant has no keys: it is for another kind of volume"))?;
                (Folder::of_grant(public, subtree.anchor, subtree.key), grant.claim.prefix().to_owned(), None)
            }
        };
        let (catalog, rows) = (Arc::new(Catalog(directors.clone())), Arc::new(VolumeRows(directors.clone())));
        let drives = Drives::new(env.clock.clone());
        let client = Client::new(env.clone(), catalog, rows, drives, None);
        let bucket =
            Bucket { name: about.name.clone(), owner: UserId(String::new()), ..Bucket::of_volume(about.number) };
        let way = Way::new(env.clone(), reach.endpoint().clone(), right);
        let mapped = Mutex::new(env.clock.now());
        let folder = Arc::new(folder);
        let spares = Spares::default();
        let placed = BTreeSet::new();
        let settled = Settled::new(about.settled);
        let mut volume = Self {
            env,
            reach,
            client,
            directors,
            way,
            bucket,
            about,
            folder,
            prefix,
            root,
            older,
            settled,
            claim,
            mapped,
            spares,
            placed,
        };
        let rows = volume.directors.map().await?;
        volume.placed = volume.place(&rows).await?;
        Ok(volume)
    }

    /// The name of its bucket.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// What the cluster knows of it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        self.folder.owner()
    }

    /// The nodes that answer.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Has the drives of the catalog read and written, those of nodes that answer.
    async fn place(&self, rows: &Rows) -> Result<BTreeSet<DriveId>> {
        let all = usize::from(u16::MAX);
        let drives = rows.run(|view| catalog::drives(view, None, all));
        let drives = drives.map_err(|_| invalid("a node left out where drives are"))?.map_err(client::Error::from)?;
        let mut by_node: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for row in drives {
            if let Some(node) = row.node.filter(|node| self.reach.nodes().contains_key(node)) {
                by_node.entry(node).or_default().push(row.id);
            }
        }
        let asked = by_node.into_iter().map(async |(node, drives)| {
            (node, self.way.health(node, drives.into_iter().take(client::pieces::DRIVES_MAX).collect()).await)
        });
        let mut placed = BTreeSet::new();
        for (node, health) in join_all(asked).await {
            let health = match health {
                Ok(health) => health,
                Err(error) => {
                    tracing::debug!(%node, %error, "a node doesn't say how its drives do");
                    continue;
                }
            };
            for one in health.into_iter().filter(|one| one.state != State::Away) {
                if self.client.drives().state(one.drive) == DriveState::Gone {
                    let drive = GuestDrive::new(self.way.clone(), node, one.drive, one.full);
                    self.client.drives().set(one.drive, Arc::new(drive));
                }
                placed.insert(one.drive);
                let state = if one.state == State::Ok { DriveState::Up } else { DriveState::Suspect };
                self.client.drives().set_state(one.drive, state);
            }
        }
        Ok(placed)
    }

    /// Whether another opening of the volume reaches other nodes, or other drives of them, or was by other keys.
    pub fn sees_other_than(&self, other: &Volume) -> bool {
        self.public() != other.public() || self.placed != other.placed || self.reach.nodes() != other.reach.nodes()
    }

    /// Ends all connections: what is under way fails.
    pub fn close(&self) {
        self.reach.endpoint().close();
    }

    /// Placement groups may have moved since they were looked up.
    fn refresh(&self) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.env.clock.now();
        if now.since(*mapped) >= MAP_AGE_MAX {
            *mapped = now;
            self.client.map_changed();
        }
    }

    /// What rows call the object at a path.
    pub(crate) fn sealed(&self, path: &str) -> Result<String> {
        let is_file = !self.prefix.is_empty() && !self.prefix.ends_with('/');
        if is_file && !path.is_empty() {
            return Err(grant::Error::NotAFolder.into());
        }
        Ok(format!("{}{}", self.prefix, self.folder.key().seal_path(path).map_err(client::Error::from)?))
    }

    /// The true path of what rows call so, or called so under older keys, below what the key opens; nothing if it isn't a sealed path there.
    pub(crate) fn true_path(&self, key: &str) -> Option<String> {
        let by_older = || self.older.iter().find_map(|older| older.folder.key().open_path(key).ok());
        self.folder.key().open_path(key.strip_prefix(&self.prefix)?).ok().or_else(by_older)
    }

    pub(crate) fn access(&self, path: &str) -> Access {
        Access::File { folder: self.folder.clone(), path: path.to_owned() }
    }

    /// Nodes that take no pieces of a grant's holder may have a reason that stands in the grant.
    fn explained(&self, error: client::Error) -> Error {
        let lacks = |caveat: &Caveat| matches!(caveat, Caveat::Verbs(verbs) if !verbs.has(Verb::Write));
        let mut caveats = self.claim.iter().flat_map(Claim::caveats);
        match caveats.any(lacks) && matches!(error, client::Error::TooFewPieces { .. }) {
            true => Error::Refused(Refusal::Verb { verb: Verb::Write }),
            false => error.into(),
        }
    }

    /// Begins to write an object; `len` if its bytes are counted already. It is there once [`Upload::finish`] says so, in the place of what
    /// was there before.
    ///
    /// # Errors
    /// If the path can't be: a name is longer than 255 bytes, or all of it too long once it is sealed.
    pub fn write(&self, path: &str, len: Option<u64>) -> Result<Upload<'_>> {
        let is_folder =
            path.ends_with('/') || path.is_empty() && (self.prefix.is_empty() || self.prefix.ends_with('/'));
        if is_folder {
            return Err(invalid(
                "a path that ends in / names a folder: folders are there as soon as something is in them",
            ));
        }
        let writer = self.writer(path, len, None)?;
        Ok(Upload { volume: self, writer, path: path.to_owned(), began: self.env.clock.now() })
    }

    /// Takes bytes of an object, or of a part of an upload, whose names [`Volume::put`] then gets. What never gets there the
    /// store collects after seven days.
    ///
    /// # Errors
    /// If the path can't be.
    pub fn writer(&self, path: &str, len: Option<u64>, part: Option<(UploadId, u16)>) -> Result<Writer> {
        self.sealed(path)?;
        self.refresh();
        let writer = self.client.writer_as(&self.bucket, len, self.access(path)).never_inline();
        Ok(match part {
            Some((upload, number)) => writer.part(upload, number),
            None => writer,
        })
    }

    /// Puts an object where its bytes are already. Etags of the condition are [`Entry::tag`].
    ///
    /// # Errors
    /// If it isn't allowed, or the condition doesn't hold; nothing is changed then. If nobody answered, it may be there all the same.
    pub async fn put(
        &self,
        path: &str,
        (size, body): (u64, Body),
        attributes: &Attributes,
        faced: Option<&Faced>,
        condition: Condition,
    ) -> Result<Outcome> {
        let mut attrs = Attrs::from([(SEALED.to_owned(), self.seal(path, ATTRIBUTES, &attributes.encode()))]);
        if let Some(faced) = faced {
            attrs.insert(SEALED_ETAG.to_owned(), self.seal(path, ETAG, faced.etag.as_bytes()));
            attrs.insert(SEALED_FACE.to_owned(), self.seal(path, FACE, &faced.encode()));
        }
        // A tag of the content would tell who has the same.
        let etag = base::ids::hex(&self.env.random::<16>());
        let new = NewVersion { size, etag, attrs, body };
        self.refresh();
        self.be_settled().await?;
        Ok(self.client.commit(&self.bucket, Command::Put { key: self.sealed(path)?, new, condition }).await?)
    }

    /// Changes what a face keeps of an object, if it is still the one of this [`Entry::tag`].
    ///
    /// # Errors
    /// If there is none, it is another one by now, or it isn't allowed; nothing is changed then.
    pub async fn set_faced(&self, path: &str, faced: &Faced, tag: &str) -> Result<()> {
        // The short one is sealed anew, so that listings show that something changed.
        let seal = |what, bytes: &[u8]| Some(self.seal(path, what, bytes));
        let set = vec![
            (SEALED_FACE.to_owned(), seal(FACE, &faced.encode())),
            (SEALED_ETAG.to_owned(), seal(ETAG, faced.etag.as_bytes())),
        ];
        let condition = Condition { if_match: Some(vec![tag.to_owned()]), ..Condition::default() };
        let command = Command::SetAttrs { key: self.sealed(path)?, version: None, set, condition };
        self.be_settled().await?;
        self.client.commit(&self.bucket, command).await?;
        Ok(())
    }

    async fn version(&self, path: &str, with_body: bool) -> Result<Version> {
        self.be_settled().await?;
        let key = self.sealed(path)?;
        match self.client.head(&self.bucket, &key, None, with_body).await? {
            Found::Object(version) => Ok(version),
            Found::Marker(_) => Err(client::Error::Namespace(namespace::Error::NoSuchKey).into()),
        }
    }

    fn seal(&self, path: &str, what: &'static [u8], bytes: &[u8]) -> Vec<u8> {
        self.folder.key().at(path).seal_bytes(self.env.random(), what, bytes)
    }

    fn entry_of(&self, path: &str, name: String, version: &Version) -> Result<Entry> {
        entry(&self.folder, path, name, (version.size, version.modified), outer(version))
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// Of kind `Missing` if there is none.
    pub async fn stat(&self, path: &str) -> Result<Entry> {
        let (entry, ..) = self.outside(path).await?;
        Ok(entry)
    }

    /// The same, and what a face keeps of it.
    ///
    /// # Errors
    /// As [`Volume::stat`].
    pub async fn head(&self, path: &str) -> Result<(Entry, Option<Faced>)> {
        let (entry, outer, folder) = self.outside(path).await?;
        let faced = outer.attrs.get(SEALED_FACE).map(|sealed| open_sealed(&folder, path, FACE, sealed)).transpose()?;
        let faced = faced.map(|bytes| Faced::decode(&bytes)).transpose().map_err(client::Error::from)?;
        Ok((entry, faced))
    }

    /// What is known of it beside its bytes, and whose keys open that.
    async fn outside(&self, path: &str) -> Result<(Entry, Faced, Arc<Folder>)> {
        let name = || last(path).to_owned();
        let led = async {
            let version = self.version(path, false).await?;
            Ok((self.entry_of(path, name(), &version)?, outer(&version), self.folder.clone()))
        };
        let by_kit = |spare: &Spare| {
            let object = spare.object(path)?;
            Ok((entry_in_kit(spare, path, name(), object)?, outer_in_kit(object)?, spare.folder.clone()))
        };
        self.rows_or_kit(led, by_kit).await
    }

    /// Bytes of an object; a range that goes on beyond its end ends there. If nobody leads the volume's metadata it is read by the
    /// volume's kit ([`Volume::read_by_kit`]), and so is what else is asked for.
    ///
    /// # Errors
    /// Of kind `Missing` if there is none. That pieces are too few shows as it is read.
    pub async fn read(&self, path: &str, range: Range<u64>) -> Result<(Entry, ReadStream)> {
        self.refresh();
        let name = || last(path).to_owned();
        let within = |size: u64| {
            let end = range.end.min(size);
            range.start.min(end)..end
        };
        let led = async {
            let version = self.version(path, true).await?;
            let stream = self.client.read_as(&self.bucket, &version, within(version.size), &self.access(path))?;
            Ok((self.entry_of(path, name(), &version)?, stream))
        };
        let by_kit = |spare: &Spare| {
            let object = spare.object(path)?;
            Ok((entry_in_kit(spare, path, name(), object)?, spare.read(path, object, within(object.size))?))
        };
        self.rows_or_kit(led, by_kit).await
    }

    /// What is in a folder, by true names; `""` is the topmost one.
    ///
    /// # Errors
    /// If the path names no folder, or a name doesn't open.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        if !(folder.is_empty() || folder.ends_with('/')) {
            return Err(invalid("a folder's path ends in /"));
        }
        let prefix = self.sealed(folder)?;
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Ok(vec![self.stat("").await?]);
        }
        let names = self.folder.key().at(folder);
        let open = |names: &FolderKey, sealed: &str| names.open_name(sealed).map_err(client::Error::from);
        let folder_named = |names: &FolderKey, sealed: &str| {
            let name = open(names, sealed)? + "/";
            let (size, written, attributes, etag, tag) = Default::default();
            Ok::<_, Error>(Entry { name, size, written, attributes, etag, tag })
        };
        let led = async {
            self.be_settled().await?;
            let first =
                || ListQuery { prefix: prefix.clone(), delimiter: "/".into(), limit: PAGE, ..ListQuery::default() };
            let (mut query, mut all, mut is_second) = (first(), Vec::new(), false);
            loop {
                let page = self.client.list(&self.bucket, &query).await?;
                for entry in page.entries {
                    // Only topmost names can be of older keys.
                    let key = match &entry {
                        Listed::Item(object) => &object.key,
                        Listed::Prefix(path) => path,
                    };
                    if folder.is_empty() && self.unsettle_for(key) {
                        continue;
                    }
                    all.push(match entry {
                        Listed::Item(object) => {
                            let name = open(&names, object.key.strip_prefix(&prefix).unwrap_or_default())?;
                            self.entry_of(&format!("{folder}{name}"), name, &object.version)?
                        }
                        Listed::Prefix(path) => {
                            let name = path.strip_prefix(&prefix).and_then(|name| name.strip_suffix('/'));
                            folder_named(&names, name.unwrap_or_default())?
                        }
                    });
                }
                match page.next {
                    Some(next) => query.after = Some(next.after),
                    // A name that stays as it was was never one of ours.
                    None if self.is_settled() || is_second => return Ok(all),
                    None => {
                        self.be_settled().await?;
                        (query, all, is_second) = (first(), Vec::new(), true);
                    }
                }
            }
        };
        let by_kit = |spare: &Spare| {
            let names = spare.folder.key().at(folder);
            let shown = spare.list(folder)?.into_iter().map(|shown| match shown {
                Shown::Folder(sealed) => folder_named(&names, &sealed),
                Shown::File(sealed, object) => {
                    let name = open(&names, &sealed)?;
                    entry_in_kit(spare, &format!("{folder}{name}"), name, object)
                }
            });
            shown.collect::<Result<Vec<_>>>()
        };
        let mut all = self.rows_or_kit(led, by_kit).await?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// All objects in a folder and below, each with its path from there, by true paths.
    ///
    /// # Errors
    /// As [`Volume::list`].
    pub async fn walk(&self, folder: &str) -> Result<Vec<(String, Entry)>> {
        let mut all = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(below) = folders.pop() {
            for entry in self.list(&format!("{folder}{below}")).await? {
                let path = format!("{below}{}", entry.name);
                match entry.is_folder() {
                    true => folders.push(path),
                    false => all.push((path, entry)),
                }
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Deletes an object; one that isn't there is no error. The store collects its pieces.
    ///
    /// # Errors
    /// If it isn't allowed, or nobody leads the volume's metadata.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.delete_if(path, Condition::default()).await
    }

    /// The same, if this holds of it. Etags of the condition are [`Entry::tag`].
    ///
    /// # Errors
    /// As [`Volume::delete`], or if the condition doesn't hold.
    pub async fn delete_if(&self, path: &str, condition: Condition) -> Result<()> {
        let command = Command::Delete { key: self.sealed(path)?, version: None, condition };
        self.be_settled().await?;
        self.client.commit(&self.bucket, command).await?;
        Ok(())
    }
}

fn open_sealed(folder: &Folder, path: &str, what: &'static [u8], sealed: &[u8]) -> Result<Vec<u8>> {
    Ok(folder.key().at(path).open_bytes(what, sealed).map_err(client::Error::from)?)
}

fn entry(folder: &Folder, path: &str, name: String, (size, written): (u64, Wall), outer: Faced) -> Result<Entry> {
    let attributes = match outer.attrs.get(SEALED) {
        None => Attributes::default(),
        Some(sealed) => {
            Attributes::decode(&open_sealed(folder, path, ATTRIBUTES, sealed)?).map_err(client::Error::from)?
        }
    };
    let etag = match outer.attrs.get(SEALED_ETAG) {
        None => outer.etag.clone(),
        Some(sealed) => String::from_utf8_lossy(&open_sealed(folder, path, ETAG, sealed)?).into_owned(),
    };
    Ok(Entry { name, size, written, attributes, etag, tag: outer.etag })
}

fn entry_in_kit(spare: &Spare, path: &str, name: String, object: &Object) -> Result<Entry> {
    entry(&spare.folder, path, name, (object.size, object.modified), outer_in_kit(object)?)
}

/// What rows have of an object, beside its bytes.
fn outer(version: &Version) -> Faced {
    Faced { etag: version.etag.clone(), attrs: version.attrs.clone() }
}

/// The last name of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// An object that is being written. Dropping it leaves everything as it was.
pub struct Upload<'a> {
    volume: &'a Volume,
    writer: Writer,
    path: String,
    began: Instant,
}

impl Upload<'_> {
    /// Takes the next bytes; waits while too many are under way.
    ///
    /// # Errors
    /// If too few drives take them. Then the upload is of no use any more.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.writer.write(bytes).await.map_err(|error| self.volume.explained(error))
    }

    /// Everything is durable, and the object is there.
    ///
    /// # Errors
    /// If too few drives have it, or it isn't allowed; nothing is changed then. If nobody answered, it may be there all the same.
    pub async fn finish(self, attributes: Attributes) -> Result<()> {
        let Self { volume, writer, path, began } = self;
        let content = writer.finish().await.map_err(|error| volume.explained(error))?;
        if volume.env.clock.now().since(began) >= WRITE_MAX {
            volume.client.discard(&content);
            return Err(invalid("writing took longer than the store keeps what no object names: begin again"));
        }
        volume.put(&path, (content.size, content.body), &attributes, None, Condition::default()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stay_what_they_are() {
        let values = [
            Attributes::default(),
            Attributes { changed: Some(Wall(1_795_230_600_000)), content_type: "image/jpeg".into() },
        ];
        let lines: Vec<String> = values.iter().map(|value| base::ids::hex(&value.encode())).collect();
        assert_eq!(lines.join("\n"), include_str!("../tests/attributes-v1.hex").trim());
        for value in values {
            assert_eq!(Attributes::decode(&value.encode()).unwrap(), value);
        }
    }

    #[test]
    fn the_last_name_of_a_path_is_the_objects() {
        for (path, name) in [("a/b/c", "c"), ("c", "c"), ("", ""), ("a//", "")] {
            assert_eq!(last(path), name, "{path}");
        }
    }
}
