//! What was coded by an older policy is written anew by the one of now: the code that follows the number of
//! machines rises as they come, and older data would survive fewer losses than new data for ever.
//!
//! A version keeps its tag, its time and its parts; only where its bytes lie changes, and only if it is still what was read.

use base::VolumeId;
use namespace::{Body, Command, Span, Version};

use crate::client::Client;
use crate::read::ReadStream;
use crate::{Bucket, Error};

/// The parts of a body that were written anew. What no version names by the end is given back.
struct Anew<'a> {
    client: &'a Client,
    bodies: Vec<Body>,
    bytes: u64,
}

impl Drop for Anew<'_> {
    fn drop(&mut self) {
        self.client.discard_all(&self.bodies);
    }
}

/// Writes those segments of a version anew that aren't coded by the volume's policy of now. Bytes that were written.
/// What shares a pack is left alone: packs move as such.
pub(crate) async fn recode(client: &Client, volume: VolumeId, key: &str, version: &Version) -> Result<u64, Error> {
    let policy = client.core().target(volume).await?.policy.id;
    let is_old =
        |body: &Body| matches!(body, Body::Segments(segments) if segments.iter().any(|one| one.policy != policy));
    let mut anew = Anew { client, bodies: Vec::new(), bytes: 0 };
    let bucket = Bucket::of_volume(volume);
    let to = match &version.body {
        body if is_old(body) => anew.write(&bucket, body, version.size).await?,
        Body::Spans(spans) if spans.iter().any(|span| is_old(&span.body)) => {
            let mut new = Vec::with_capacity(spans.len());
            for span in spans {
                let body = if is_old(&span.body) {
                    anew.write(&bucket, &span.body, span.size).await?
                } else {
                    span.body.clone()
                };
                new.push(Span { size: span.size, body });
            }
            Body::Spans(new)
        }
        _ => return Ok(0),
    };
    let rebody = Command::Rebody { key: key.to_owned(), version: version.id, from: version.body.clone(), to };
    match client.commit(&bucket, rebody).await {
        // Replaced or deleted meanwhile: what was written for it is nobody's.
        Ok(_) | Err(Error::Namespace(namespace::Error::NoSuchKey | namespace::Error::NoSuchVersion)) => Ok(anew.bytes),
        Err(error) => Err(error),
    }
}

impl Anew<'_> {
    async fn write(&mut self, bucket: &Bucket, body: &Body, size: u64) -> Result<Body, Error> {
        let mut stream = ReadStream::new(self.client.core().clone(), bucket.volume, body.clone(), size, 0..size)?;
        let mut writer = self.client.writer(bucket, Some(size));
        while let Some(bytes) = stream.next().await {
            writer.write(bytes?).await?;
        }
        let content = writer.finish().await?;
        self.bodies.push(content.body.clone());
        self.bytes += size;
        Ok(content.body)
    }
}
