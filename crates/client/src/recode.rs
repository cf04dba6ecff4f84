//! What was coded by an older policy is written anew by the one of now: the code that follows the number of
//! machines rises as they come, and older data would survive fewer losses than new data for ever.
//!
//! A version keeps its tag, its time and its parts; only where its bytes lie changes, and only if it is still what was read.

use base::VolumeId;
use namespace::{Body, Command, Span, UploadId, Version};

use crate::access::Access;
use crate::client::Client;
use crate::read::{ReadStream, Reading};
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
/// What shares a pack is left alone: packs move as such. So is what a file's own key sealed: only its clients open it.
pub(crate) async fn recode(client: &Client, volume: VolumeId, key: &str, version: &Version) -> Result<u64, Error> {
    let policy = client.core().target(volume).await?.policy.id;
    if !Access::Volume.opener(client.core(), volume)?.fits(&version.body) {
        return Ok(0);
    }
    let is_old =
        |body: &Body| matches!(body, Body::Segments(segments) if segments.iter().any(|one| one.policy != policy));
    let mut anew = Anew { client, bodies: Vec::new(), bytes: 0 };
    let bucket = Bucket::of_volume(volume);
    let to = match &version.body {
        body if is_old(body) => anew.write(&bucket, key, None, body, version.size).await?,
        Body::Spans(spans) if spans.iter().any(|span| is_old(&span.body)) => {
            // All of them, as parts of one upload: so their headers alone give the object again.
            let upload = UploadId(client.core().env.random());
            let mut new = Vec::with_capacity(spans.len());
            for (span, number) in spans.iter().zip(1..) {
                let body = anew.write(&bucket, key, Some((upload, number)), &span.body, span.size).await?;
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
    async fn write(
        &mut self,
        bucket: &Bucket,
        key: &str,
        part: Option<(UploadId, u16)>,
        body: &Body,
        size: u64,
    ) -> Result<Body, Error> {
        let reading = Reading::new(self.client.core(), bucket.volume, &Access::Volume)?;
        let mut stream = ReadStream::new(reading, body.clone(), size, 0..size)?;
        let mut writer = self.client.writer(bucket, Some(size)).named(key);
        if let Some((upload, number)) = part {
            writer = writer.part(upload, number);
        }
        while let Some(bytes) = stream.next().await {
            writer.write(bytes?).await?;
        }
        let content = writer.finish().await?;
        self.bodies.push(content.body.clone());
        self.bytes += size;
        Ok(content.body)
    }
}
