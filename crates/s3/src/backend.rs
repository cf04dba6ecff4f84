//! What this face needs from the store below, and nothing more. The store's client gives it; tests
//! and the example give it from memory.

use std::ops::Range;
use std::pin::Pin;

use async_trait::async_trait;
use base::{Kind, UserId, VolumeId, Wall};
use bytes::Bytes;
use futures_util::Stream;
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

/// A bucket as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The volume behind it.
    pub volume: VolumeId,
    /// Who made it.
    pub owner: UserId,
    /// When.
    pub created: Wall,
}

/// Who can own buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The canonical id.
    pub id: UserId,
    /// The name shown.
    pub display: String,
    /// Where grants by e-mail find them; may be empty.
    pub email: String,
}

/// What signs requests.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The public half.
    pub id: String,
    /// The secret half.
    pub secret: String,
    /// Whose it is.
    pub user: UserId,
}

/// A page of keys to list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only keys that begin so.
    pub prefix: String,
    /// Rolls up what follows the prefix up to here; empty: nothing is rolled up.
    pub delimiter: String,
    /// Only what sorts after; a rolled up prefix named here is skipped whole.
    pub after: String,
    /// With `after`: go on inside that key, after this version.
    pub after_version: Option<VersionId>,
    /// With `after`: go on inside that key, after this upload.
    pub after_upload: Option<UploadId>,
    /// Items and rolled up prefixes together, at least 1.
    pub limit: usize,
}

/// A page of what was found.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// In S3's order.
    pub items: Vec<T>,
    /// Rolled up prefixes, in order.
    pub prefixes: Vec<String>,
    /// There is more; the next page begins after the last of items and prefixes.
    pub truncated: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Page { items: Vec::new(), prefixes: Vec::new(), truncated: false }
    }
}

/// One version in a listing of versions.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// The version.
    pub version: Version,
    /// Whether it is the key's current one.
    pub latest: bool,
}

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
    /// Makes a bucket.
    async fn create_bucket(&self, name: &str, owner: &UserId) -> Result<Bucket>;
    /// Removes an empty bucket.
    async fn delete_bucket(&self, bucket: &Bucket) -> Result<()>;
    /// The bucket of this name.
    async fn bucket(&self, name: &str) -> Result<Option<Bucket>>;
    /// An owner's buckets by name, those that begin with `prefix` and sort after `after`.
    async fn buckets(&self, owner: &UserId, prefix: &str, after: &str, limit: usize) -> Result<Vec<Bucket>>;
    /// An access key that may be used now.
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

    /// A version, or the current one; may be a delete marker.
    async fn head(&self, bucket: &Bucket, key: &str, version: Option<VersionId>) -> Result<Version>;
    /// Current versions, without delete markers.
    async fn list(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<(String, Version)>>;
    /// All versions and delete markers, newest of a key first.
    async fn list_versions(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Listed>>;
    /// Uploads under way, by key and then by beginning.
    async fn uploads(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Upload>>;
    /// One upload.
    async fn upload(&self, bucket: &Bucket, key: &str, id: UploadId) -> Result<Upload>;
    /// Parts of an upload by number, those after `after`, at most `limit`.
    async fn parts(&self, bucket: &Bucket, key: &str, id: UploadId, after: u16, limit: usize) -> Result<Vec<Part>>;

    /// Takes an object's bytes; `len` if they are known.
    async fn writer(&self, bucket: &Bucket, len: Option<u64>) -> Result<Box<dyn Writer>>;
    /// Gives a version's bytes.
    async fn read(&self, bucket: &Bucket, version: &Version, range: Range<u64>) -> Result<ReadStream>;
}
