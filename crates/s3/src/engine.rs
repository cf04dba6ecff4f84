//! The store's own client as this face's [`Backend`].

use std::ops::Range;

use async_trait::async_trait;
use base::{Kind, Kinded, UserId};
use bytes::Bytes;
use client::Client;
use namespace::read::Found;
use namespace::{Command, Outcome, Part, Upload, UploadId, Version, VersionId, Versioning};

use crate::backend::{
    AccessKey, Backend, Bucket, Content, Error, ListQuery, Listed, Object, Page, ReadStream, Result, User, Writer,
};

/// The engine behind the face.
pub struct Engine(Client);

impl Engine {
    /// Over this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Nothing is listed of a bucket that was deleted a moment ago: whether it is there must be certain then.
    async fn unless_gone(&self, bucket: &Bucket, query: &ListQuery, is_empty: bool) -> Result<()> {
        let is_gone = is_empty && query.after.is_none() && self.0.is_closed(&volume(bucket)).await?;
        if is_gone { Err(Error::Namespace(namespace::Error::Closed)) } else { Ok(()) }
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Namespace(error) => Error::Namespace(error),
            // That a drive may not be written says nothing of what the caller may do.
            error if error.kind() == Kind::Denied => Error::Store { kind: Kind::Unreachable, text: error.to_string() },
            error => Error::Store { kind: error.kind(), text: error.to_string() },
        }
    }
}

fn shown(bucket: &client::Bucket) -> Bucket {
    let client::Bucket { name, volume, owner, created, region, .. } = bucket.clone();
    Bucket { name, volume, owner, created, region }
}

/// Work on rows needs the volume alone: nothing is copied.
fn volume(bucket: &Bucket) -> client::Bucket {
    client::Bucket::of_volume(bucket.volume)
}

struct EngineWriter(client::Writer);

#[async_trait]
impl Writer for EngineWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.0.write(bytes).await?)
    }

    async fn finish(self: Box<Self>) -> Result<Content> {
        let client::Content { size, body } = self.0.finish().await?;
        Ok(Content { size, body })
    }
}

#[async_trait]
impl Backend for Engine {
    fn without_leaders(&self) -> Option<String> {
        self.0.without_leaders()
    }

    async fn create_bucket(&self, name: &str, owner: &UserId, region: &str) -> Result<Bucket> {
        Ok(shown(&*self.0.create_bucket(name, owner, region).await?))
    }

    async fn delete_bucket(&self, bucket: &Bucket) -> Result<()> {
        Ok(self.0.delete_bucket(&bucket.name).await?)
    }

    async fn bucket(&self, name: &str) -> Result<Option<Bucket>> {
        Ok(self.0.bucket(name).await?.map(|bucket| shown(&bucket)))
    }

    async fn is_sealed(&self, bucket: &Bucket) -> Result<bool> {
        Ok(self.0.bucket(&bucket.name).await?.is_some_and(|bucket| bucket.sealed))
    }

    async fn buckets(&self, owner: &UserId, prefix: &str, after: &str, limit: usize) -> Result<Vec<Bucket>> {
        Ok(self.0.buckets(owner, prefix, after, limit).await?.iter().map(shown).collect())
    }

    async fn access_key(&self, id: &str) -> Result<Option<AccessKey>> {
        Ok(self.0.access_key(id).await?)
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>> {
        Ok(self.0.user(id).await?)
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<User>> {
        Ok(self.0.user_by_email(email).await?)
    }

    async fn config(&self, bucket: &Bucket, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.config(&volume(bucket), name).await?)
    }

    async fn versioning(&self, bucket: &Bucket) -> Result<Versioning> {
        Ok(self.0.versioning(&volume(bucket)).await?)
    }

    async fn commit(&self, bucket: &Bucket, command: Command) -> Result<Outcome> {
        Ok(self.0.commit(&volume(bucket), command).await?)
    }

    async fn head(&self, bucket: &Bucket, key: &str, version: Option<VersionId>, body: bool) -> Result<Version> {
        Ok(match self.0.find(&volume(bucket), key, version, body).await? {
            Found::Object(version) | Found::Marker(version) => version,
        })
    }

    async fn list(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Object>> {
        let page = self.0.list(&volume(bucket), query).await?;
        self.unless_gone(bucket, query, page.entries.is_empty()).await?;
        Ok(page)
    }

    async fn list_versions(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Listed>> {
        let page = self.0.list_versions(&volume(bucket), query).await?;
        self.unless_gone(bucket, query, page.entries.is_empty()).await?;
        Ok(page)
    }

    async fn uploads(&self, bucket: &Bucket, query: &ListQuery) -> Result<Page<Upload>> {
        Ok(self.0.uploads(&volume(bucket), query).await?)
    }

    async fn upload(&self, bucket: &Bucket, key: &str, id: UploadId) -> Result<Upload> {
        Ok(self.0.upload(&volume(bucket), key, id).await?)
    }

    async fn parts(&self, bucket: &Bucket, key: &str, id: UploadId, after: u16, limit: usize) -> Result<Vec<Part>> {
        Ok(self.0.parts(&volume(bucket), key, id, after, limit).await?)
    }

    async fn writer(
        &self,
        bucket: &Bucket,
        key: &str,
        part: Option<(UploadId, u16)>,
        len: Option<u64>,
    ) -> Result<Box<dyn Writer>> {
        let writer = self.0.writer(&volume(bucket), len).named(key);
        Ok(Box::new(EngineWriter(match part {
            Some((upload, number)) => writer.part(upload, number),
            None => writer,
        })))
    }

    async fn read(&self, bucket: &Bucket, version: &Version, range: Range<u64>) -> Result<ReadStream> {
        Ok(stream_of(self.0.read(&volume(bucket), version, range)?))
    }
}

/// The client's stream as this face takes it.
pub fn stream_of(stream: client::ReadStream) -> ReadStream {
    Box::pin(futures_util::stream::unfold(stream, |mut stream| async move {
        let next = stream.next().await?;
        Some((next.map_err(Error::from), stream))
    }))
}
