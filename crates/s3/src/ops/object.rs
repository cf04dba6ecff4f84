//! Putting, getting and heading one object.

use base::UserId;
use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode};
use namespace::{Attrs, Command, Condition, NewVersion, UploadId, Version};

use crate::acl::{self, Acl, Permission};
use crate::attrs::{self, PartTable, Stored};
use crate::backend::{Bucket, Content};
use crate::call::{Call, show_version};
use crate::conditions;
use crate::error::{Code, Error, Result};
use crate::headers;
use crate::lock::Lock;
use crate::payload::{Payload, Summary};
use crate::response::{self, Body, Response, set, set_etag, set_modified};

/// One PUT: S3's limit.
pub const OBJECT_BYTES_MAX: u64 = 5 << 30;

/// `GET` and `HEAD` of an object.
pub async fn get(call: &mut Call) -> Result<Response> {
    headers::refuse_customer_keys(&call.headers, "x-amz-server-side-encryption-customer")?;
    if call.headers.contains_key(attrs::ENCRYPTION) {
        return Err(Error::new(
            Code::InvalidArgument,
            "x-amz-server-side-encryption header is not supported for this operation.",
        ));
    }
    let bucket = call.bucket().await?;
    let id = call.version_id()?;
    let version = call.version(&bucket, call.key(), id, call.method != hyper::Method::HEAD).await?;
    call.may_object(&bucket, &version, call.act(Permission::Read)).await?;
    conditions::check_read(&call.headers, &version)?;

    let view = View::of(call, &version)?;
    let body = match call.method == hyper::Method::HEAD || view.len() == 0 {
        true => Body::empty(),
        false => read(call, &bucket, &version, view.from, view.to).await?,
    };
    let mut response = response::with_body(view.status(), body);
    let out = response.headers_mut();
    headers::of_version(&version, out);
    Lock::of(&version.attrs)?.write(out);
    set_etag(out, &version.etag);
    set_modified(out, version.modified);
    out.insert("accept-ranges", HeaderValue::from_static("bytes"));
    out.insert("content-length", HeaderValue::from(view.len()));
    view.write(&version, out);
    if version.id != namespace::VersionId::NULL || id.is_some() {
        set(out, "x-amz-version-id", show_version(version.id).as_bytes());
    }
    if call.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled")) {
        view.write_checksum(&version, out);
    }
    headers::overrides(call, out)?;
    Ok(response)
}

/// Bytes of a version. Those in the metadata need no store.
pub async fn read(call: &Call, bucket: &Bucket, version: &Version, from: u64, to: u64) -> Result<Body> {
    if let namespace::Body::Inline(bytes) = &version.body {
        let cut = bytes.get(from as usize..to as usize).ok_or(Code::InternalError)?;
        return Ok(Body::Full(Bytes::copy_from_slice(cut)));
    }
    let stream = call.backend().read(bucket, version, from..to).await?;
    Body::read(stream, to - from).await
}

/// Which bytes of a version are asked for: all, a range, or a part.
struct View {
    from: u64,
    to: u64,
    partial: bool,
    /// The part's checksum, and how many parts there are.
    part: Option<(String, usize)>,
}

impl View {
    fn of(call: &Call, version: &Version) -> Result<View> {
        let range = call.header("range");
        let Some(number) = call.target.get("partNumber") else {
            let cut = conditions::range(range, version.size)?;
            let (from, to) = cut.unwrap_or((0, version.size));
            return Ok(View { from, to, partial: cut.is_some(), part: None });
        };
        if range.is_some() {
            return Err(Error::new(
                Code::InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter",
            ));
        }
        let number = parse_part_number(number)?;
        match PartTable::of(&version.attrs) {
            None if number == 1 => Ok(View { from: 0, to: version.size, partial: true, part: None }),
            None => Err(Code::InvalidPart.into()),
            Some(table) => {
                let (from, size) = table.find(number).ok_or(Code::InvalidPart)?;
                let row = table.0.iter().find(|row| row.number == number);
                let checksum = row.map(|row| row.checksum.clone()).unwrap_or_default();
                Ok(View { from, to: from + size, partial: true, part: Some((checksum, table.0.len())) })
            }
        }
    }

    fn len(&self) -> u64 {
        self.to - self.from
    }

    fn status(&self) -> StatusCode {
        if self.partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK }
    }

    fn write(&self, version: &Version, out: &mut HeaderMap) {
        if self.partial && self.len() > 0 {
            let text = format!("bytes {}-{}/{}", self.from, self.to - 1, version.size);
            set(out, "content-range", text.as_bytes());
        }
        if let Some((_, count)) = self.part {
            out.insert("x-amz-mp-parts-count", HeaderValue::from(count));
        }
    }

    /// A checksum is of the whole object, or of the part if one was asked for; a range has none.
    fn write_checksum(&self, version: &Version, out: &mut HeaderMap) {
        let Some(stored) = Stored::of(&version.attrs) else { return };
        match &self.part {
            None if !self.partial || self.len() == version.size => headers::set_checksum(out, &stored),
            Some((checksum, _)) if !checksum.is_empty() => {
                headers::set_checksum(out, &Stored { value: checksum.clone(), ..stored });
            }
            _ => {}
        }
    }
}

/// A part's number, 1 to 10,000.
pub fn parse_part_number(text: &str) -> Result<u16> {
    match text.parse::<u16>() {
        Ok(number @ 1..=10_000) => Ok(number),
        _ => Err(Error::new(Code::InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")),
    }
}

/// `PUT` of an object.
pub async fn put(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Write).await?;
    check_key(call.key())?;
    let mut found = headers::to_attrs(&call.headers)?;
    let condition = conditions::of_write(&call.headers)?;
    inherit(call, &bucket, call.header("x-amz-acl"), &mut found).await?;
    refuse_early(call, &bucket, &condition).await?;
    let (content, summary) = store(call, &bucket, None, OBJECT_BYTES_MAX).await?;
    if let Some(checksum) = &summary.checksum {
        checksum.store(&mut found);
    }
    let new = NewVersion { size: content.size, etag: summary.etag, attrs: found, body: content.body };
    let mut response = response::ok();
    set_encryption(&new.attrs, response.headers_mut());
    let key = call.key().to_owned();
    let outcome = call.backend().commit(&bucket, Command::Put { key, new, condition }).await?;

    let out = response.headers_mut();
    set_etag(out, &outcome.etag);
    if let Some(checksum) = &summary.checksum {
        headers::set_checksum(out, checksum);
    }
    set_version(outcome.version, out);
    Ok(response)
}

/// Keys of 1 to 1,024 bytes.
pub fn check_key(key: &str) -> Result<()> {
    if key.len() > 1024 { Err(Code::KeyTooLongError.into()) } else { Ok(()) }
}

/// A conditional write that can't succeed is refused before its body is taken: what the condition
/// says now may change until the commit, which has the last word.
async fn refuse_early(call: &Call, bucket: &Bucket, condition: &Condition) -> Result<()> {
    if *condition == Condition::default() {
        return Ok(());
    }
    let current = match call.backend().head(bucket, call.key(), None, false).await {
        Ok(version) if !version.marker => Some(version),
        _ => None,
    };
    let names = |list: &Vec<String>, version: &Version| list.iter().any(|etag| etag == "*" || *etag == version.etag);
    match (&condition.if_match, &condition.if_none_match, current) {
        (Some(_), _, None) => Err(Code::NoSuchKey.into()),
        (Some(list), _, Some(version)) if !names(list, &version) => Err(Code::PreconditionFailed.into()),
        (_, Some(list), Some(version)) if names(list, &version) => Err(Code::PreconditionFailed.into()),
        _ => Ok(()),
    }
}

/// Puts what the bucket decides of a new object among its attributes: encryption, owner and ACL.
pub async fn inherit(call: &Call, bucket: &Bucket, canned: Option<&str>, found: &mut Attrs) -> Result<()> {
    if !found.contains_key(attrs::ENCRYPTION)
        && let Some(default) = call.backend().config(bucket, crate::call::config::ENCRYPTION).await?
    {
        found.insert(attrs::ENCRYPTION.into(), default);
    }
    super::lock::inherit(call, bucket, found).await?;
    own(call, bucket, canned, found).await
}

/// Puts owner and ACL of a new object among its attributes, as headers and object ownership say.
async fn own(call: &Call, bucket: &Bucket, canned: Option<&str>, found: &mut Attrs) -> Result<()> {
    let asks = canned.is_some() || call.headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-"));
    let foreign = call.who.as_ref() != Some(&bucket.owner);
    if !asks && !foreign {
        return Ok(());
    }
    let ownership = call.backend().config(bucket, crate::call::config::OWNERSHIP).await?;
    match ownership.as_deref() {
        Some(b"BucketOwnerEnforced") => match canned {
            None if !asks => return Ok(()),
            Some("bucket-owner-full-control") => return Ok(()),
            _ => return Err(Code::AccessControlListNotSupported.into()),
        },
        Some(b"BucketOwnerPreferred") if canned == Some("bucket-owner-full-control") => return Ok(()),
        _ => {}
    }
    let anonymous = UserId(crate::access::ANONYMOUS.into());
    let owner = call.who.as_ref().unwrap_or(&anonymous);
    if foreign {
        found.insert(attrs::OWNER.into(), owner.0.clone().into_bytes());
    }
    let Some(acl) = acl::of_headers(call.backend(), &call.headers, canned, owner, &bucket.owner).await? else {
        return Ok(());
    };
    refuse_public(call, bucket, &acl).await?;
    if let Some(encoded) = acl.encode(owner) {
        found.insert(attrs::ACL.into(), encoded);
    }
    Ok(())
}

/// A public access block may forbid ACLs that open to everybody.
pub async fn refuse_public(call: &Call, bucket: &Bucket, acl: &Acl) -> Result<()> {
    match acl.is_public() && call.public_access(bucket).await?.block_acls {
        true => Err(Code::AccessDenied.into()),
        false => Ok(()),
    }
}

/// Takes the call's body, or that of a part, into the store: nothing of it can be seen before the commit.
pub async fn store(
    call: &mut Call,
    bucket: &Bucket,
    part: Option<(UploadId, u16)>,
    bytes_max: u64,
) -> Result<(Content, Summary)> {
    let len = call.payload.len();
    if len.is_some_and(|len| len > bytes_max) {
        return Err(Code::EntityTooLarge.into());
    }
    let mut payload = std::mem::take(&mut call.payload);
    let content = fill(call, bucket, &mut payload, part, len, bytes_max).await;
    let taken = payload.taken();
    call.payload = payload;
    let content = content?;
    debug_assert_eq!(content.size, taken);
    Ok((content, call.payload.summary()?))
}

async fn fill(
    call: &Call,
    bucket: &Bucket,
    payload: &mut Payload,
    part: Option<(UploadId, u16)>,
    len: Option<u64>,
    bytes_max: u64,
) -> Result<Content> {
    let mut writer = call.backend().writer(bucket, call.key(), part, len).await?;
    while let Some(bytes) = payload.next().await? {
        writer.write(bytes).await?;
        if payload.taken() > bytes_max {
            return Err(Code::EntityTooLarge.into());
        }
    }
    Ok(writer.finish().await?)
}

/// Sets `x-amz-version-id`, which S3 does only where versions are kept: a write of the null version
/// goes without.
pub fn set_version(id: Option<namespace::VersionId>, out: &mut HeaderMap) {
    if let Some(id) = id.filter(|id| *id != namespace::VersionId::NULL) {
        set(out, "x-amz-version-id", show_version(id).as_bytes());
    }
}

/// Says that a new object is encrypted as its writer or its bucket asked.
pub fn set_encryption(found: &Attrs, out: &mut HeaderMap) {
    if let Some(value) = found.get(attrs::ENCRYPTION) {
        set(out, attrs::ENCRYPTION, value);
    }
}
