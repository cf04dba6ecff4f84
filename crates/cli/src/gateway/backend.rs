//! End-to-end volumes as the store behind S3's face: keys are sealed and opened in this process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::{Instant, Kind, Kinded, UserId};
use bytes::Bytes;
use env::Env;
use namespace::read::{Entry as Shown, Next};
use namespace::{
    Attrs, Body, Command, Condition, Error as Rule, NewVersion, Outcome, Part, Span, Upload, UploadId, Version,
    VersionId, Versioning,
};
use owner::{Attributes, Entry, Faced, Volume, WRITE_MAX};
use s3::backend::{
    AccessKey, Backend, Bucket, Content, Error, ListQuery, Listed, Object, Page, ReadStream, Result, User, Writer,
};

use s3::engine::stream_of;

use super::listing::{Folders, page};
use super::uploads::Uploads;

/// Header that a file's media type comes from, and goes to.
const CONTENT_TYPE: &str = "content-type";
/// Later pages of a listing are of when its first one was, for so long: a page would else read whole folders anew.
const LISTED_FOR: Duration = Duration::from_secs(60);
/// Folders that are kept for it.
const FOLDERS_MAX: usize = 64;
/// Who reads what is replaced meanwhile tries again after so long.
const AGAIN: Duration = Duration::from_secs(1);

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(kind: Kind, text: &str) -> Error {
    Error::Store { kind, text: text.to_owned() }
}

fn failed(error: owner::Error) -> Error {
    match error {
        owner::Error::Client(client::Error::Namespace(error)) => Error::Namespace(error),
        error => Error::Store { kind: error.kind(), text: error.to_string() },
    }
}

/// What was in a folder, and when.
type Seen = (Instant, Arc<Vec<Entry>>);

/// One volume that is open.
pub struct Opened {
    /// Opened anew now and then: nodes come and go.
    volume: Mutex<Arc<Volume>>,
    bucket: Bucket,
    uploads: Mutex<Uploads>,
    folders: Mutex<BTreeMap<String, Seen>>,
    /// Whether something was written that the kit doesn't have yet.
    pub is_new: AtomicBool,
}

/// The volumes, and the one user who may do everything with them.
pub struct Gateway {
    env: Env,
    pub volumes: BTreeMap<String, Opened>,
    key: AccessKey,
    user: User,
}

/// Where a version's bytes are, for this gateway: by its path, and what names the version. Of the face's other bodies none holds
/// inline spans.
fn place(path: &str, tag: &str, size: u64) -> Body {
    let span = |size, text: &str| Span { size, body: Body::Inline(text.as_bytes().to_vec()) };
    Body::Spans(vec![span(size, path), span(0, tag)])
}

fn placed(body: &Body) -> Option<(&str, &str)> {
    let Body::Spans(spans) = body else { return None };
    let [Span { body: Body::Inline(path), .. }, Span { body: Body::Inline(tag), size: 0 }] = spans.as_slice() else {
        return None;
    };
    Some((std::str::from_utf8(path).ok()?, std::str::from_utf8(tag).ok()?))
}

fn version(entry: &Entry, attrs: Attrs, body: Body) -> Version {
    let (id, modified, size, etag) = (VersionId::NULL, entry.written, entry.size, entry.etag.clone());
    Version { id, modified, marker: false, size, etag, attrs, body }
}

struct Folder<'a> {
    opened: &'a Opened,
    now: Instant,
    goes_on: bool,
}

#[async_trait]
impl Folders for Folder<'_> {
    async fn folder(&self, path: &str) -> owner::Result<Arc<Vec<Entry>>> {
        if self.goes_on {
            let known = lock(&self.opened.folders).get(path).cloned();
            if let Some((at, entries)) = known
                && self.now.since(at) < LISTED_FOR
            {
                return Ok(entries);
            }
        }
        let entries = Arc::new(self.opened.volume().list(path).await?);
        let mut folders = lock(&self.opened.folders);
        if folders.len() >= FOLDERS_MAX {
            folders.clear();
        }
        folders.insert(path.to_owned(), (self.now, entries.clone()));
        Ok(entries)
    }
}

impl Opened {
    pub fn new(volume: Volume, owner: &UserId) -> Self {
        let (name, number) = (volume.name().to_owned(), volume.about().number);
        let bucket =
            Bucket { name, volume: number, owner: owner.clone(), created: base::Wall(0), region: String::new() };
        let (uploads, folders, volume) = (Mutex::default(), Mutex::default(), Mutex::new(Arc::new(volume)));
        Self { volume, bucket, uploads, folders, is_new: AtomicBool::new(true) }
    }

    pub fn volume(&self) -> Arc<Volume> {
        lock(&self.volume).clone()
    }

    /// What is under way goes on with the one that is given back.
    pub fn set_volume(&self, volume: Volume) -> Arc<Volume> {
        std::mem::replace(&mut *lock(&self.volume), Arc::new(volume))
    }

    fn changed(&self) {
        lock(&self.folders).clear();
        self.is_new.store(true, Ordering::Relaxed);
    }

    /// What is at a path; nothing if nothing is.
    async fn at(&self, path: &str) -> Result<Option<(Entry, Option<Faced>)>> {
        match self.volume().head(path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == Kind::Missing => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// A condition in terms of what rows have. Etags are sealed, so they are compared here, and what was compared must then still be
    /// there.
    async fn condition(&self, path: &str, asked: Condition) -> Result<Condition> {
        let any = |list: &Option<Vec<String>>| list.as_ref().is_none_or(|list| list.iter().any(|etag| etag == "*"));
        if any(&asked.if_match) && any(&asked.if_none_match) && asked.if_attrs.is_empty() {
            return Ok(asked);
        }
        let found = self.at(path).await?;
        let names = |list: &Option<Vec<String>>, etag: &str| {
            list.as_ref().is_some_and(|list| list.iter().any(|one| one == "*" || one.trim_matches('"') == etag))
        };
        let Some((entry, faced)) = found else {
            return match asked.if_match.is_some() || !asked.if_attrs.is_empty() {
                true => Err(Rule::NoSuchKey.into()),
                false => Ok(Condition { if_none_match: Some(vec!["*".into()]), ..asked }),
            };
        };
        let attrs = faced.map(|faced| faced.attrs).unwrap_or_default();
        let differs = asked.if_attrs.iter().any(|(name, value)| attrs.get(name) != value.as_ref());
        for (fails, what) in [
            (asked.if_match.is_some() && !names(&asked.if_match, &entry.etag), "if-match"),
            (names(&asked.if_none_match, &entry.etag), "if-none-match"),
            (differs, "attributes"),
        ] {
            if fails {
                return Err(Rule::Precondition { what }.into());
            }
        }
        let if_match = Some(vec![entry.tag]);
        Ok(Condition { if_match, if_none_match: None, if_attrs: Vec::new(), ..asked })
    }

    /// Bytes that may be put under this path: what names another object is read and written anew, since each has keys of its own.
    async fn own(&self, path: &str, part: Option<(UploadId, u16)>, size: u64, body: Body) -> Result<(u64, Body)> {
        let Some((from, tag)) = placed(&body) else { return Ok((size, body)) };
        let mut stream = self.stream(from, tag, 0..size).await?;
        let mut writer = self.volume().writer(path, Some(size), part).map_err(failed)?;
        while let Some(bytes) = stream.next().await {
            writer.write(bytes?).await?;
        }
        let content = writer.finish().await?;
        Ok((content.size, content.body))
    }

    async fn stream(&self, path: &str, tag: &str, range: Range<u64>) -> Result<client::ReadStream> {
        let (entry, stream) = self.volume().read(path, range).await.map_err(failed)?;
        match entry.tag == tag {
            true => Ok(stream),
            false => {
                Err(refused(Kind::Busy { retry_after: AGAIN }, "the object was replaced while it was read: try again"))
            }
        }
    }

    async fn put(&self, path: &str, new: NewVersion, condition: Condition) -> Result<Outcome> {
        let condition = self.condition(path, condition).await?;
        let NewVersion { size, etag, attrs, body } = new;
        let (size, body) = self.own(path, None, size, body).await?;
        let content_type = attrs.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value).into_owned());
        let attributes = Attributes { changed: None, content_type: content_type.unwrap_or_default() };
        let faced = Faced { etag, attrs };
        let done = self.volume().put(path, (size, body), &attributes, Some(&faced), condition).await;
        self.changed();
        Ok(Outcome { etag: faced.etag, version: Some(VersionId::NULL), ..done.map_err(failed)? })
    }

    async fn delete(&self, path: &str, condition: Condition) -> Result<Outcome> {
        let condition = match condition == Condition::default() {
            true => condition,
            // What isn't there is deleted, whatever is asked.
            false if self.at(path).await?.is_none() => return Ok(Outcome::default()),
            false => self.condition(path, condition).await?,
        };
        let done = self.volume().delete_if(path, condition).await;
        self.changed();
        done.map_err(failed)?;
        Ok(Outcome::default())
    }

    async fn set_attrs(
        &self,
        path: &str,
        set: Vec<(String, Option<Vec<u8>>)>,
        condition: Condition,
    ) -> Result<Outcome> {
        self.condition(path, condition).await?;
        let (entry, faced) = self.at(path).await?.ok_or(Rule::NoSuchKey)?;
        let mut faced = faced.unwrap_or_else(|| faced_of(&entry));
        for (name, value) in set {
            match value {
                Some(value) => _ = faced.attrs.insert(name, value),
                None => _ = faced.attrs.remove(&name),
            }
        }
        let done = self.volume().set_faced(path, &faced, &entry.tag).await;
        self.changed();
        done.map_err(failed)?;
        let (version, modified, size) = (Some(VersionId::NULL), entry.written, entry.size);
        Ok(Outcome { version, modified, size, etag: entry.etag, marker: false })
    }
}

/// What a face would have kept of what `abide cp` wrote.
fn faced_of(entry: &Entry) -> Faced {
    let content_type = entry.attributes.content_type.clone().into_bytes();
    let known = (!content_type.is_empty()).then(|| (CONTENT_TYPE.to_owned(), content_type));
    Faced { etag: entry.etag.clone(), attrs: known.into_iter().collect() }
}

impl Gateway {
    pub fn new(env: Env, volumes: Vec<Volume>, key: AccessKey) -> Self {
        let user = User { id: key.user.clone(), display: "owner".into(), email: None };
        let open = |volume: Volume| (volume.name().to_owned(), Opened::new(volume, &user.id));
        let volumes = volumes.into_iter().map(open).collect();
        Self { env, volumes, key, user }
    }

    fn of(&self, bucket: &Bucket) -> Result<&Opened> {
        self.volumes.get(&bucket.name).ok_or_else(|| refused(Kind::Missing, "this gateway doesn't serve that volume"))
    }

    fn uploads_of<'a>(&self, opened: &'a Opened) -> MutexGuard<'a, Uploads> {
        let mut uploads = lock(&opened.uploads);
        uploads.expire(self.env.clock.now());
        uploads
    }

    async fn list_in(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<(String, Entry)>> {
        let opened = self.of(bucket)?;
        let folder = Folder { opened, now: self.env.clock.now(), goes_on: query.after.is_some() };
        page(&folder, query).await.map_err(failed)
    }
}

fn each<T>(page: Page<(String, Entry)>, make: impl Fn(String, Version) -> T) -> Page<T> {
    let entries = page.entries.into_iter().map(|shown| match shown {
        Shown::Item((key, entry)) => Shown::Item(make(key, version(&entry, Attrs::new(), Body::Unloaded))),
        Shown::Prefix(prefix) => Shown::Prefix(prefix),
    });
    Page { entries: entries.collect(), next: page.next }
}

struct Taking {
    writer: client::Writer,
    env: Env,
    began: Instant,
}

#[async_trait]
impl Writer for Taking {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.writer.write(bytes).await?)
    }

    async fn finish(self: Box<Self>) -> Result<Content> {
        let client::Content { size, body } = self.writer.finish().await?;
        match self.env.clock.now().since(self.began) < WRITE_MAX {
            true => Ok(Content { size, body }),
            false => Err(refused(
                Kind::Busy { retry_after: AGAIN },
                "writing took so long that the store may have collected its beginning: begin again",
            )),
        }
    }
}

#[async_trait]
impl Backend for Gateway {
    fn without_leaders(&self) -> Option<String> {
        let read = self
            .volumes
            .values()
            .filter_map(|opened| Some((opened.bucket.name.as_str(), opened.volume().read_by_kit()?)));
        let read: Vec<String> = read.map(|(name, at)| format!("{name} of {}", at.rfc3339())).collect();
        let what = "nobody leads the metadata: reads go on by the kit of";
        (!read.is_empty()).then(|| format!("{what} {}, writes wait for the nodes that are away", read.join(", ")))
    }

    async fn create_bucket(&self, _: &str, _: &UserId, _: &str) -> Result<Bucket> {
        Err(refused(Kind::Denied, "an end-to-end volume is made with `abide volume create NAME --e2e`"))
    }

    async fn delete_bucket(&self, _: &Bucket) -> Result<()> {
        Err(refused(Kind::Denied, "an end-to-end volume is deleted on a node of its store"))
    }

    async fn bucket(&self, name: &str) -> Result<Option<Bucket>> {
        Ok(self.volumes.get(name).map(|opened| opened.bucket.clone()))
    }

    async fn buckets(&self, owner: &UserId, prefix: &str, after: &str, limit: usize) -> Result<Vec<Bucket>> {
        let all = self.volumes.values().map(|opened| &opened.bucket);
        let wanted = all.filter(|one| one.owner == *owner && one.name.starts_with(prefix) && one.name.as_str() > after);
        Ok(wanted.take(limit).cloned().collect())
    }

    async fn access_key(&self, id: &str) -> Result<Option<AccessKey>> {
        Ok((id == self.key.id).then(|| self.key.clone()))
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>> {
        Ok((*id == self.user.id).then(|| self.user.clone()))
    }

    async fn user_by_email(&self, _: &str) -> Result<Option<User>> {
        Ok(None)
    }

    async fn config(&self, _: &Bucket, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    async fn versioning(&self, _: &Bucket) -> Result<Versioning> {
        Ok(Versioning::Off)
    }

    async fn commit(&self, bucket: &Bucket, command: Command) -> Result<Outcome> {
        let opened = self.of(bucket)?;
        match command {
            Command::Put { key, new, condition } => opened.put(&key, new, condition).await,
            Command::Delete { version: Some(id), .. } if id != VersionId::NULL => Ok(Outcome::default()),
            Command::Delete { key, condition, .. } => opened.delete(&key, condition).await,
            Command::SetAttrs { key, set, condition, .. } => opened.set_attrs(&key, set, condition).await,
            Command::BeginUpload { upload, key, attrs } => {
                self.uploads_of(opened).begin(upload, key, (self.env.clock.wall(), self.env.clock.now()), attrs)?;
                Ok(Outcome::default())
            }
            Command::PutPart { upload, key, part } => {
                let (size, body) = opened.own(&key, Some((upload, part.number)), part.size, part.body).await?;
                let outcome = Outcome { size, etag: part.etag.clone(), ..Outcome::default() };
                let modified = self.env.clock.wall();
                self.uploads_of(opened).put_part(upload, &key, Part { modified, size, body, ..part })?;
                Ok(outcome)
            }
            Command::CompleteUpload { upload, key, parts, etag, attrs, condition } => {
                let (size, body) = self.uploads_of(opened).join(upload, &key, &parts)?;
                let done = opened.put(&key, NewVersion { size, etag, attrs, body }, condition).await?;
                self.uploads_of(opened).end(upload, &key)?;
                Ok(done)
            }
            Command::AbortUpload { upload, key } => {
                self.uploads_of(opened).end(upload, &key)?;
                Ok(Outcome::default())
            }
            _ => Err(refused(
                Kind::Denied,
                "an end-to-end volume has no settings: not even its name is known to who would keep them",
            )),
        }
    }

    async fn head(&self, bucket: &Bucket, key: &str, id: Option<VersionId>, _: bool) -> Result<Version> {
        if id.is_some_and(|id| id != VersionId::NULL) {
            return Err(Rule::NoSuchVersion.into());
        }
        let (entry, faced) = self.of(bucket)?.at(key).await?.ok_or(Rule::NoSuchKey)?;
        let attrs = faced.unwrap_or_else(|| faced_of(&entry)).attrs;
        Ok(version(&entry, attrs, place(key, &entry.tag, entry.size)))
    }

    async fn list(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Object>> {
        Ok(each(self.list_in(bucket, query).await?, |key, version| Object { key, version }))
    }

    async fn list_versions(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Listed>> {
        Ok(each(self.list_in(bucket, query).await?, |key, version| Listed { key, version, latest: true }))
    }

    async fn uploads(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Upload>> {
        let after = (query.after.clone().unwrap_or_default(), query.after_upload);
        let is_later =
            |one: &Upload| one.key > after.0 || (one.key == after.0 && after.1.is_some_and(|upload| one.id > upload));
        let mut all = self.uploads_of(self.of(bucket)?).all(&query.prefix);
        all.retain(is_later);
        let has_more = all.len() > query.limit && query.limit > 0;
        all.truncate(query.limit);
        let last = all.last().filter(|_| has_more);
        let next = last.map(|one| Next { after: one.key.clone(), upload: Some(one.id), ..Next::default() });
        Ok(Page { entries: all.into_iter().map(Shown::Item).collect(), next })
    }

    async fn upload(&self, bucket: &Bucket, key: &str, id: UploadId) -> Result<Upload> {
        Ok(self.uploads_of(self.of(bucket)?).get(id, key)?)
    }

    async fn parts(&self, bucket: &Bucket, key: &str, id: UploadId, after: u16, limit: usize) -> Result<Vec<Part>> {
        Ok(self.uploads_of(self.of(bucket)?).parts(id, key, after, limit)?)
    }

    async fn writer(
        &self,
        bucket: &Bucket,
        key: &str,
        part: Option<(UploadId, u16)>,
        len: Option<u64>,
    ) -> Result<Box<dyn Writer>> {
        let volume = self.of(bucket)?.volume();
        if key.ends_with('/') {
            return Err(refused(
                Kind::Invalid,
                "folders are there as soon as something is in them: no key may end in /",
            ));
        }
        if volume.read_by_kit().is_some() {
            volume.check_led().await.map_err(failed)?;
        }
        let writer = volume.writer(key, len, part).map_err(failed)?;
        Ok(Box::new(Taking { writer, env: self.env.clone(), began: self.env.clock.now() }))
    }

    async fn read(&self, bucket: &Bucket, version: &Version, range: Range<u64>) -> Result<ReadStream> {
        let (path, tag) =
            placed(&version.body).ok_or_else(|| refused(Kind::Invalid, "nothing says what is to be read"))?;
        Ok(stream_of(self.of(bucket)?.stream(path, tag, range).await?))
    }
}
