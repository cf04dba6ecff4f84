//! What this face needs from the store below, and nothing more. The store's client gives it; tests
//! and the example give it from memory.

use std::ops::Range;
use std::pin::Pin;

use async_trait::async_trait;
use base::{Kind, UserId};
use bytes::Bytes;
use futures_util::Stream;
pub use namespace::catalog::{AccessKey, Bucket, User};
pub use namespace::read::{Entry, ListQuery, Listed, Object, Page};
use namespace::{Body, Command, Outcome, Part, Upload, UploadId, Version, VersionId, Versioning};

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules of the volume say no.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The store below failed.
    #[error("{text}")]
    Store {
        /// What the caller can do about it.
        kind: Kind,
        /// What failed, why, what to do.
        text: String,
    },
}

impl base::Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Namespace(error) => error.kind(),
            Error::Store { kind, .. } => *kind,
        }
    }
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Namespace(error) => error.into(),
            Error::Store { kind, .. } => crate::error::of_store(kind, &error),
        }
    }
}

/// What every call gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes that were written and wait to be committed.
#[derive(Debug)]
pub struct Content {
    /// How many.
    pub size: u64,
    /// Where.
    pub body: Body,
}

/// Takes the bytes of one object. Dropping it gives everything back.
#[async_trait]
pub trait Writer: Send {
    /// Takes the next bytes; waits while too many are under way.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;
    /// Everything is durable.
    async fn finish(self: Box<Self>) -> Result<Content>;
}

/// An object's bytes on their way out.
pub type ReadStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The store, as this face sees it.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Makes a bucket; `region` is the one that its maker named, if any.
    async fn create_bucket(&self, name: &str, owner: &UserId, region: &str) -> Result<Bucket>;
    /// Removes an empty bucket.
    async fn delete_bucket(&self, bucket: &Bucket) -> Result<()>;
    /// The bucket of this name.
    async fn bucket(&self, name: &str) -> Result<Option<Bucket>>;
    /// Whether the bucket's keys are with its owner alone, so that nobody here can read or write it.
    async fn is_sealed(&self, _bucket: &Bucket) -> Result<bool> {
        Ok(false)
    }
    /// An owner's buckets by name, those that begin with `prefix` and sort after `after`.
    async fn buckets(&self, owner: &UserId, prefix: &str, after: &str, limit: usize) -> Result<Vec<Bucket>>;
    /// An access key, maybe a disabled one.
    async fn access_key(&self, id: &str) -> Result<Option<AccessKey>>;
    /// A user.
    async fn user(&self, id: &UserId) -> Result<Option<User>>;
    /// The user whose grants go by this e-mail address.
    async fn user_by_email(&self, email: &str) -> Result<Option<User>>;

    /// A setting of the bucket.
    async fn config(&self, bucket: &Bucket, name: &str) -> Result<Option<Vec<u8>>>;
    /// Whether the bucket keeps old versions.
    async fn versioning(&self, bucket: &Bucket) -> Result<Versioning>;
    /// Changes the bucket, durably.
    async fn commit(&self, bucket: &Bucket, command: Command) -> Result<Outcome>;

    /// A version, or the current one; may be a delete marker. Its body is needed only with `body`.
    async fn head(&self, bucket: &Bucket, key: &str, version: Option<VersionId>, body: bool) -> Result<Version>;
    /// Current versions, without delete markers.
    async fn list(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Object>>;
    /// All versions and delete markers, newest of a key first.
    async fn list_versions(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Listed>>;
    /// Uploads under way, by key and then by id.
    async fn uploads(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Upload>>;
    /// One upload.
    async fn upload(&self, bucket: &Bucket, key: &str, id: UploadId) -> Result<Upload>;
    /// Parts of an upload by number, those after `after`, at most `limit`; without bodies.
    async fn parts(&self, bucket: &Bucket, key: &str, id: UploadId, after: u16, limit: usize) -> Result<Vec<Part>>;

    /// Takes the bytes of an object under this key, or of this part of it; `len` if they are known.
    async fn writer(
        &self,
        bucket: &Bucket,
        key: &str,
        part: Option<(UploadId, u16)>,
        len: Option<u64>,
    ) -> Result<Box<dyn Writer>>;
    /// For people: what is read without whoever should lead it, since when; nothing if all is well.
    fn without_leaders(&self) -> Option<String> {
        None
    }
    /// Gives a version's bytes.
    async fn read(&self, bucket: &Bucket, version: &Version, range: Range<u64>) -> Result<ReadStream>;
}
