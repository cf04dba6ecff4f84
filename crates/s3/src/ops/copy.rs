//! Server-side copies: within a bucket no byte of data moves.

use bytes::Bytes;
use futures_util::StreamExt;
use namespace::{Attrs, Command, NewVersion, Part, UploadId, Version};

use crate::access::Act;
use crate::acl::Permission;
use crate::attrs::{self, META, Stored};
use crate::backend::{Bucket, Content};
use crate::call::{Call, parse_version, show_version};
use crate::checks::Check;
use crate::conditions;
use crate::digests::{Digester, Item, Lane};
use crate::error::{Code, Error, Result};
use crate::headers;
use crate::response::{self, Response, set};
use crate::xml::Xml;

use super::object::{OBJECT_BYTES_MAX, inherit, set_encryption, set_version};

/// What is copied: a version and the bucket that it lies in.
struct Source {
    bucket: Bucket,
    key: String,
    version: Version,
    named: bool,
}

/// Reads `x-amz-copy-source`: `[/]bucket/key[?versionId=id]`, URL-encoded.
fn parse_source(header: &str) -> Result<(String, String, Option<namespace::VersionId>)> {
    let bad = || {
        Error::new(Code::InvalidArgument, "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    };
    let (path, version) = match header.split_once("?versionId=") {
        Some((path, id)) => (path, Some(parse_version(id)?)),
        None => (header, None),
    };
    let path = percent_encoding::percent_decode_str(path).decode_utf8().map_err(|_| bad())?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    match path.split_once('/') {
        Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => Ok((bucket.into(), key.into(), version)),
        _ => Err(bad()),
    }
}

async fn source(call: &Call) -> Result<Source> {
    headers::refuse_customer_keys(&call.headers, "x-amz-copy-source-server-side-encryption-customer")?;
    let (name, key, id) = parse_source(call.header("x-amz-copy-source").ok_or(Code::InvalidArgument)?)?;
    let bucket = call.bucket_named(&name, "x-amz-source-expected-bucket-owner").await?;
    let version = call.version(&bucket, &key, id, true).await.map_err(|error| match error.code {
        // A copy can't have a delete marker as its source, by whatever name.
        Code::MethodNotAllowed => Error::new(
            Code::InvalidRequest,
            "The source of a copy request may not specifically refer to a delete marker by version id.",
        ),
        _ => Error::from(error.code),
    })?;
    let action = if id.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
    call.may_object(&bucket, &version, Act { action, key: &key, wanted: Permission::Read }).await?;
    conditions::check_source(&call.headers, &version)?;
    Ok(Source { bucket, key, version, named: id.is_some() })
}

/// `PUT` with a copy source.
pub async fn object(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Write).await?;
    super::object::check_key(call.key())?;
    let source = source(call).await?;
    let replace = directive(call, "x-amz-metadata-directive")?;
    let mut found = new_attrs(call, &source, replace)?;
    let itself = source.bucket.volume == bucket.volume && source.key == call.key() && !source.named;
    if itself && !replace && !changes_something(call) {
        return Err(Error::new(
            Code::InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    if source.version.size > OBJECT_BYTES_MAX {
        return Err(Error::new(
            Code::InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
        ));
    }
    inherit(call, &bucket, call.header("x-amz-acl"), &mut found).await?;
    if let Some(checksum) = checksum(call, &source).await? {
        checksum.store(&mut found);
    }
    let stored = Stored::of(&found);
    let mut headers = hyper::HeaderMap::new();
    set_encryption(&found, &mut headers);
    let content = take(call, &bucket, &source, 0..source.version.size, None).await?;
    let condition = conditions::of_write(&call.headers)?;
    let new = NewVersion { size: content.size, etag: source.version.etag.clone(), attrs: found, body: content.body };
    let command = Command::Put { key: call.key().to_owned(), new, condition };
    let outcome = call.backend().commit(&bucket, command).await?;

    let mut xml = Xml::new("CopyObjectResult");
    xml.text("LastModified", &outcome.modified.rfc3339()).etag("ETag", &outcome.etag);
    if let Some(stored) = &stored {
        xml.text(&format!("Checksum{}", stored.algorithm), &stored.value).text("ChecksumType", stored.kind());
    }
    let mut response = response::xml(xml.finish("CopyObjectResult"));
    response.headers_mut().extend(headers);
    set_version(outcome.version, response.headers_mut());
    name_source(&source, &mut response);
    Ok(response)
}

/// `PUT` of a part with a copy source.
pub async fn part(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Write).await?;
    let (upload, number) = super::multipart::upload_and_part(call)?;
    let stored = call.backend().upload(&bucket, call.key(), upload).await?;
    let source = source(call).await?;
    let range = match call.header("x-amz-copy-source-range") {
        Some(range) => exact_range(range, source.version.size)?,
        None => 0..source.version.size,
    };
    let whole = range == (0..source.version.size) && !source.version.etag.contains('-');
    let algorithm = super::multipart::algorithm(&stored.attrs).map(|(algorithm, _)| algorithm);
    let known = Stored::of(&source.version.attrs).filter(|known| whole && !known.composite);
    let known = known.filter(|known| algorithm.as_ref().is_none_or(|wanted| *wanted == known.algorithm));
    // The part's etag is the MD5 of its bytes: known for a whole object, else the bytes are read.
    let (content, etag, checksum) = match whole && (known.is_some() || algorithm.is_none()) {
        true => {
            let content = take(call, &bucket, &source, range, Some((upload, number))).await?;
            (content, source.version.etag.clone(), known)
        }
        false => {
            let mut lane = lane(call, algorithm.as_deref())?;
            let content = pour(call, &bucket, &source, range, Some((upload, number)), Some(&mut lane)).await?;
            let (etag, checksum) = lane.finish().await?.check.finish();
            (content, etag, checksum)
        }
    };
    let mut found = Attrs::new();
    if let Some(checksum) = &checksum {
        checksum.store(&mut found);
    }
    let part = Part { number, modified: call.now, size: content.size, etag, attrs: found, body: content.body };
    let command = Command::PutPart { upload, key: call.key().to_owned(), part };
    let outcome = call.backend().commit(&bucket, command).await?;

    let mut xml = Xml::new("CopyPartResult");
    xml.text("LastModified", &outcome.modified.rfc3339()).etag("ETag", &outcome.etag);
    if let Some(checksum) = &checksum {
        xml.text(&format!("Checksum{}", checksum.algorithm), &checksum.value);
    }
    let mut response = response::xml(xml.finish("CopyPartResult"));
    set_encryption(&stored.attrs, response.headers_mut());
    name_source(&source, &mut response);
    Ok(response)
}

/// Whether a directive says `REPLACE`.
fn directive(call: &Call, name: &str) -> Result<bool> {
    match call.header(name) {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(Error::new(Code::InvalidArgument, format!("Unknown {name}"))),
    }
}

fn changes_something(call: &Call) -> bool {
    ["x-amz-storage-class", "x-amz-website-redirect-location", "x-amz-server-side-encryption"]
        .iter()
        .any(|name| call.headers.contains_key(*name))
}

/// The copy's attributes: the source's or the request's, as the directives say. Owner and ACL are
/// never copied.
fn new_attrs(call: &Call, source: &Source, replace: bool) -> Result<Attrs> {
    let asked = headers::to_attrs(&call.headers)?;
    let replace_tags = directive(call, "x-amz-tagging-directive")?;
    let mut found = Attrs::new();
    let of_headers = |name: &str| attrs::HEADERS.contains(&name) || name.starts_with(META);
    for (name, value) in &source.version.attrs {
        let per_write =
            matches!(name.as_str(), "x-amz-storage-class" | "x-amz-website-redirect-location" | attrs::ENCRYPTION);
        let keep = match name.as_str() {
            attrs::TAGS => !replace_tags,
            attrs::CHECKSUM | attrs::PARTS => true,
            name => of_headers(name) && !replace && !per_write,
        };
        if keep {
            found.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in asked {
        let per_write =
            matches!(name.as_str(), "x-amz-storage-class" | "x-amz-website-redirect-location" | attrs::ENCRYPTION);
        let take = if name == attrs::TAGS { replace_tags } else { replace || per_write };
        if take {
            found.insert(name, value);
        }
    }
    Ok(found)
}

/// The checksum that the copy will have, if it isn't just the source's.
async fn checksum(call: &Call, source: &Source) -> Result<Option<Stored>> {
    let Some(wanted) = call.header("x-amz-checksum-algorithm") else { return Ok(None) };
    if Stored::of(&source.version.attrs).is_some_and(|stored| stored.algorithm == wanted) {
        return Ok(None);
    }
    let mut lane = lane(call, Some(wanted))?;
    let mut stream = call.backend().read(&source.bucket, &source.version, 0..source.version.size).await?;
    while let Some(bytes) = stream.next().await {
        lane.push(Item::Data(bytes?)).await?;
    }
    Ok(lane.finish().await?.check.finish().1)
}

fn lane(call: &Call, algorithm: Option<&str>) -> Result<Lane> {
    Ok(Lane::new(call.face.hashers.clone(), Digester::of_check(Check::new(algorithm)?)))
}

/// The bytes of a copy. A whole object of the same volume, or one that lies in the metadata, is
/// shared; anything else is read and written again, since each volume has keys of its own.
async fn take(
    call: &Call,
    bucket: &Bucket,
    source: &Source,
    range: std::ops::Range<u64>,
    part: Option<(UploadId, u16)>,
) -> Result<Content> {
    let inline = matches!(source.version.body, namespace::Body::Inline(_));
    let whole = range == (0..source.version.size);
    if whole && (inline || source.bucket.volume == bucket.volume) {
        return Ok(Content { size: source.version.size, body: source.version.body.clone() });
    }
    pour(call, bucket, source, range, part, None).await
}

async fn pour(
    call: &Call,
    bucket: &Bucket,
    source: &Source,
    range: std::ops::Range<u64>,
    part: Option<(UploadId, u16)>,
    mut lane: Option<&mut Lane>,
) -> Result<Content> {
    let mut writer = call.backend().writer(bucket, call.key(), part, Some(range.end - range.start)).await?;
    let mut write: Vec<Bytes> = Vec::new();
    if let namespace::Body::Inline(bytes) = &source.version.body {
        let cut = bytes.get(range.start as usize..range.end as usize).ok_or(Code::InternalError)?;
        write.push(Bytes::copy_from_slice(cut));
    }
    if write.is_empty() {
        let mut stream = call.backend().read(&source.bucket, &source.version, range).await?;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            if let Some(lane) = lane.as_deref_mut() {
                lane.push(Item::Data(bytes.clone())).await?;
            }
            writer.write(bytes).await?;
        }
    } else {
        for bytes in write {
            if let Some(lane) = lane.as_deref_mut() {
                lane.push(Item::Data(bytes.clone())).await?;
            }
            writer.write(bytes).await?;
        }
    }
    Ok(writer.finish().await?)
}

/// The range of a part copy must lie inside of the source, unlike a read's.
fn exact_range(text: &str, size: u64) -> Result<std::ops::Range<u64>> {
    let bad = || {
        Error::new(
            Code::InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy",
        )
    };
    let (first, last) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(bad)?;
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last),
        _ => return Err(bad()),
    };
    if last >= size {
        return Err(Error::new(
            Code::InvalidRange,
            format!("Range specified is not valid for source object of size: {size}"),
        ));
    }
    Ok(first..last + 1)
}

fn name_source(source: &Source, response: &mut Response) {
    if source.named || source.version.id != namespace::VersionId::NULL {
        let id = show_version(source.version.id);
        set(response.headers_mut(), "x-amz-copy-source-version-id", id.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_sources_are_read() {
        for (header, bucket, key, version) in [
            ("/b/k", "b", "k", None),
            ("b/k%2Fl%20m", "b", "k/l m", None),
            ("b%2Fk", "b", "k", None),
            ("b/k%3FversionId=x", "b", "k?versionId=x", None),
            ("b/k?versionId=null", "b", "k", Some(namespace::VersionId::NULL)),
            ("b//k", "b", "/k", None),
        ] {
            assert_eq!(parse_source(header).unwrap(), (bucket.into(), key.into(), version), "{header}");
        }
        for bad in ["", "/", "b", "b/", "/b/", "b/k?versionId=nonsense", "b/%ff"] {
            assert_eq!(parse_source(bad).unwrap_err().code, Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn the_range_of_a_part_copy_must_lie_inside_of_the_source() {
        assert_eq!(exact_range("bytes=0-9", 10).unwrap(), 0..10);
        assert_eq!(exact_range("bytes=0-10", 10).unwrap_err().code, Code::InvalidRange);
        for bad in ["bytes=0-", "bytes=-1", "0-2", "bytes=hello-world", "bytes=2-1", "bytes=0-1,3-4"] {
            assert_eq!(exact_range(bad, 10).unwrap_err().code, Code::InvalidArgument, "{bad}");
        }
    }
}
