//! A store in memory: the namespace's own rules on a map of rows, bytes of objects beside them. So
//! what the S3 face does can be judged without drives.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base::kv::{self, Batch};
use base::{GroupId, PolicyId, SegmentId, UserId};
use bytes::Bytes;
use env::Env;
use namespace::catalog::{self, NewBucket};
use namespace::{
    Body, Command, Error as Refusal, Outcome, Part, SegmentRef, Upload, UploadId, Version, VersionId, Versioning, read,
};
use s3::backend::{
    AccessKey, Bucket, Content, Error, ListQuery, Listed, Object, Page, ReadStream, Result, User, Writer,
};

/// Objects up to here lie in the rows, as in the real store.
const INLINE_MAX: usize = 4096;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Blobs = Arc<Mutex<BTreeMap<SegmentId, Bytes>>>;

/// The store.
pub struct Memory {
    env: Env,
    /// The system shard and the volumes' shard.
    rows: Mutex<(Rows, Rows)>,
    blobs: Blobs,
}

/// A user with one access key.
pub struct Known {
    /// The canonical id.
    pub id: &'static str,
    /// The name shown.
    pub display: &'static str,
    /// The e-mail address.
    pub email: &'static str,
    /// The access key.
    pub key: &'static str,
    /// Its secret.
    pub secret: &'static str,
}

impl Memory {
    /// An empty store that knows these users.
    pub fn new(env: Env, users: &[Known]) -> Self {
        let memory = Memory { env, rows: Mutex::default(), blobs: Arc::default() };
        let now = memory.env.clock.wall();
        for known in users {
            let id = UserId(known.id.to_owned());
            let user = User { id: id.clone(), display: known.display.into(), email: Some(known.email.into()) };
            let key = AccessKey {
                id: known.key.into(),
                secret: known.secret.into(),
                user: id,
                created: now,
                disabled: false,
            };
            memory.system(|rows| Ok((catalog::put_user(rows, &user)?, ()))).unwrap();
            memory.system(|rows| Ok((catalog::put_access_key(rows, &key)?, ()))).unwrap();
        }
        memory
    }

    fn system<T>(&self, act: impl FnOnce(&Rows) -> std::result::Result<(Batch, T), Refusal>) -> Result<T> {
        let mut rows = self.rows.lock().unwrap();
        let (batch, value) = act(&rows.0)?;
        kv::apply(&mut rows.0, &batch);
        Ok(value)
    }

    fn ask<T>(&self, act: impl FnOnce(&Rows, &Rows) -> std::result::Result<T, Refusal>) -> Result<T> {
        let rows = self.rows.lock().unwrap();
        Ok(act(&rows.0, &rows.1)?)
    }

    fn bytes(&self, body: &Body) -> Result<Vec<u8>> {
        let blobs = self.blobs.lock().unwrap();
        let mut all = Vec::new();
        let one = |all: &mut Vec<u8>, body: &Body| match body {
            Body::Inline(bytes) => all.extend_from_slice(bytes),
            Body::Segments(segments) => segments.iter().for_each(|segment| all.extend_from_slice(&blobs[&segment.id])),
            other => panic!("a body that this store never makes: {other:?}"),
        };
        match body {
            Body::Spans(spans) => spans.iter().for_each(|span| one(&mut all, &span.body)),
            body => one(&mut all, body),
        }
        Ok(all)
    }
}

struct MemoryWriter {
    env: Env,
    blobs: Blobs,
    bytes: Vec<u8>,
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Content> {
        let size = self.bytes.len() as u64;
        if self.bytes.len() <= INLINE_MAX {
            return Ok(Content { size, body: Body::Inline(self.bytes) });
        }
        let id = SegmentId(self.env.random());
        self.blobs.lock().unwrap().insert(id, self.bytes.into());
        let segment = SegmentRef {
            id,
            policy: PolicyId(1),
            group: GroupId(0),
            k: 1,
            m: 0,
            len: size,
            root: [0; 32],
            wrapped_key: [0; 48],
        };
        Ok(Content { size, body: Body::Segments(vec![segment]) })
    }
}

#[async_trait]
impl s3::Backend for Memory {
    async fn create_bucket(&self, name: &str, owner: &UserId, region: &str) -> Result<Bucket> {
        let new =
            NewBucket { name: name.into(), owner: owner.clone(), region: region.into(), wrapped_key: vec![0; 48] };
        self.system(|rows| catalog::create_bucket(rows, &new, self.env.clock.wall()))
    }

    async fn delete_bucket(&self, bucket: &Bucket) -> Result<()> {
        self.commit(bucket, Command::Close).await?;
        self.system(|rows| catalog::delete_bucket(rows, &bucket.name, self.env.clock.wall()))?;
        Ok(())
    }

    async fn bucket(&self, name: &str) -> Result<Option<Bucket>> {
        self.ask(|system, _| catalog::bucket(system, name))
    }

    async fn buckets(&self, owner: &UserId, prefix: &str, after: &str, limit: usize) -> Result<Vec<Bucket>> {
        self.ask(|system, _| catalog::list_buckets(system, owner, prefix, after, limit))
    }

    async fn access_key(&self, id: &str) -> Result<Option<AccessKey>> {
        self.ask(|system, _| catalog::access_key(system, id))
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>> {
        self.ask(|system, _| catalog::user(system, id))
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<User>> {
        self.ask(|system, _| catalog::user_by_email(system, email))
    }

    async fn config(&self, bucket: &Bucket, name: &str) -> Result<Option<Vec<u8>>> {
        self.ask(|_, rows| read::config(rows, bucket.volume, name))
    }

    async fn versioning(&self, bucket: &Bucket) -> Result<Versioning> {
        self.ask(|_, rows| read::versioning(rows, bucket.volume))
    }

    async fn commit(&self, bucket: &Bucket, command: Command) -> Result<Outcome> {
        let now = self.env.clock.wall();
        let mut rows = self.rows.lock().unwrap();
        let (batch, outcome) = namespace::apply(&rows.1, bucket.volume, &command, now).map_err(Error::from)?;
        kv::apply(&mut rows.1, &batch);
        Ok(outcome)
    }

    async fn head(&self, bucket: &Bucket, key: &str, version: Option<VersionId>, body: bool) -> Result<Version> {
        self.ask(|_, rows| Ok(read::head(rows, bucket.volume, key, version, body)?.into_version()))
    }

    async fn list(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Object>> {
        self.ask(|_, rows| read::list(rows, bucket.volume, query))
    }

    async fn list_versions(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Listed>> {
        self.ask(|_, rows| read::list_versions(rows, bucket.volume, query))
    }

    async fn uploads(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Upload>> {
        self.ask(|_, rows| read::uploads(rows, bucket.volume, query))
    }

    async fn upload(&self, bucket: &Bucket, key: &str, id: UploadId) -> Result<Upload> {
        self.ask(|_, rows| read::upload(rows, bucket.volume, key, id))
    }

    async fn parts(&self, bucket: &Bucket, key: &str, id: UploadId, after: u16, limit: usize) -> Result<Vec<Part>> {
        self.ask(|_, rows| read::parts(rows, bucket.volume, key, id, after, limit))
    }

    async fn writer(
        &self,
        _bucket: &Bucket,
        _key: &str,
        _part: Option<(UploadId, u16)>,
        _len: Option<u64>,
    ) -> Result<Box<dyn Writer>> {
        Ok(Box::new(MemoryWriter { env: self.env.clone(), blobs: self.blobs.clone(), bytes: Vec::new() }))
    }

    async fn read(&self, _bucket: &Bucket, version: &Version, range: Range<u64>) -> Result<ReadStream> {
        let all = Bytes::from(self.bytes(&version.body)?);
        let cut = all.slice(range.start as usize..range.end as usize);
        // In pieces, as the real store gives them.
        let pieces: Vec<_> = (0..cut.len()).step_by(64 << 10).collect();
        let piece = move |from: usize| Ok(cut.slice(from..cut.len().min(from + (64 << 10))));
        Ok(Box::pin(futures_util::stream::iter(pieces.into_iter().map(piece))))
    }
}
