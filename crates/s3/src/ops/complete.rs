//! Completing an upload in parts: the parts become an object, and no byte of data moves.

use std::collections::BTreeMap;

use namespace::{Attrs, Command, Outcome, Part, Upload, UploadId};

use crate::acl::Permission;
use crate::attrs::{self, PartRow, PartTable, Stored};
use crate::backend::Bucket;
use crate::call::Call;
use crate::checks;
use crate::conditions;
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};
use crate::xml::{Node, Xml};

use super::multipart::{ALGORITHM, INITIATOR, algorithm, upload_id};
use super::object::{set_encryption, set_version};

/// Parts of one object: S3's limit.
const PARTS_MAX: usize = 10_000;
/// Every part but the last: S3's limit.
const PART_BYTES_MIN: u64 = 5 << 20;
/// Parts asked of the store at once.
const PARTS_PAGE: usize = 1000;

/// One part as the client names it.
struct Wanted {
    number: u16,
    etag: String,
    checksum: Option<(String, String)>,
}

/// `POST` of an upload.
pub async fn complete(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Write).await?;
    let id = upload_id(call)?;
    let wanted = wanted(&call.xml().await?)?;
    let condition = conditions::of_write(&call.headers)?;
    let upload = match call.backend().upload(&bucket, call.key(), id).await {
        Ok(upload) => upload,
        Err(crate::backend::Error::Namespace(namespace::Error::NoSuchUpload)) => {
            return repeated(call, &bucket, id).await;
        }
        Err(error) => return Err(error.into()),
    };
    let stored = stored_parts(call, &bucket, id).await?;
    let parts = pick(&wanted, &stored)?;
    let made = made(call, &upload, &wanted, &parts)?;
    let checksum = Stored::of(&made.attrs);
    let command = Command::CompleteUpload {
        upload: id,
        key: call.key().to_owned(),
        parts: parts.iter().map(|part| (part.number, part.etag.clone())).collect(),
        etag: made.etag,
        attrs: made.attrs,
        condition,
    };
    let outcome = call.backend().commit(&bucket, command).await?;
    let mut response = answer(call, &bucket, &outcome, checksum);
    set_encryption(&upload.attrs, response.headers_mut());
    Ok(response)
}

/// A completion that was answered but whose answer was lost may be sent again.
async fn repeated(call: &Call, bucket: &Bucket, id: UploadId) -> Result<Response> {
    let current = call.backend().head(bucket, call.key(), None, false).await;
    match current {
        Ok(version) if version.attrs.get(attrs::UPLOAD).is_some_and(|made| *made == id.0) => {
            let outcome = Outcome {
                version: Some(version.id),
                modified: version.modified,
                size: version.size,
                etag: version.etag.clone(),
                ..Outcome::default()
            };
            Ok(answer(call, bucket, &outcome, Stored::of(&version.attrs)))
        }
        _ => Err(Code::NoSuchUpload.into()),
    }
}

fn answer(call: &Call, bucket: &Bucket, outcome: &Outcome, checksum: Option<Stored>) -> Response {
    let mut xml = Xml::new("CompleteMultipartUploadResult");
    let scheme = if call.face.settings.secure { "https" } else { "http" };
    let host = call.header("host").unwrap_or("localhost");
    let location = format!("{scheme}://{host}/{}/{}", bucket.name, crate::target::url_encode(call.key()));
    xml.text("Location", &location).text("Bucket", &bucket.name).text("Key", call.key()).etag("ETag", &outcome.etag);
    if let Some(checksum) = &checksum {
        xml.text(&format!("Checksum{}", checksum.algorithm), &checksum.value).text("ChecksumType", checksum.kind());
    }
    let mut response = response::xml(xml.finish("CompleteMultipartUploadResult"));
    set_version(outcome.version, response.headers_mut());
    response
}

fn wanted(root: &Node) -> Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for part in root.all("Part") {
        if wanted.len() == PARTS_MAX {
            return Err(Error::new(Code::MalformedXML, "More than 10000 parts were named"));
        }
        let number: u32 = part.need("PartNumber")?.trim().parse().map_err(|_| Code::MalformedXML)?;
        let number = u16::try_from(number).ok().filter(|number| (1..=10_000).contains(number));
        let number = number.ok_or_else(|| {
            Error::new(Code::InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
        })?;
        match wanted.last() {
            Some(last) if last.number > number => return Err(Code::InvalidPartOrder.into()),
            // A part that was sent twice is named twice by some clients: the later one counts.
            Some(last) if last.number == number => _ = wanted.pop(),
            _ => {}
        }
        let checksum = part.children.iter().find_map(|child| {
            let algorithm = child.name.strip_prefix("Checksum")?;
            Some((algorithm.to_owned(), child.text.clone()))
        });
        let etag = part.need("ETag")?.trim().trim_matches('"').to_owned();
        wanted.push(Wanted { number, etag, checksum });
    }
    if wanted.is_empty() { Err(Code::MalformedXML.into()) } else { Ok(wanted) }
}

async fn stored_parts(call: &Call, bucket: &Bucket, id: UploadId) -> Result<BTreeMap<u16, Part>> {
    let mut stored = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = call.backend().parts(bucket, call.key(), id, after, PARTS_PAGE).await?;
        let full = page.len() == PARTS_PAGE;
        for part in page {
            after = part.number;
            stored.insert(part.number, part);
        }
        if !full {
            return Ok(stored);
        }
    }
}

/// The stored parts that the client names, checked.
fn pick<'a>(wanted: &[Wanted], stored: &'a BTreeMap<u16, Part>) -> Result<Vec<&'a Part>> {
    let mut parts = Vec::with_capacity(wanted.len());
    for (at, want) in wanted.iter().enumerate() {
        let part = stored.get(&want.number).filter(|part| part.etag.eq_ignore_ascii_case(&want.etag));
        let part = part.ok_or(Code::InvalidPart)?;
        if let (Some((algorithm, value)), Some(known)) = (&want.checksum, Stored::of(&part.attrs))
            && *algorithm == known.algorithm
            && *value != known.value
        {
            return Err(Code::InvalidPart.into());
        }
        if part.size < PART_BYTES_MIN && at + 1 < wanted.len() {
            return Err(Code::EntityTooSmall.into());
        }
        parts.push(part);
    }
    Ok(parts)
}

struct Made {
    etag: String,
    attrs: Attrs,
}

/// Etag and attributes of the object.
fn made(call: &Call, upload: &Upload, wanted: &[Wanted], parts: &[&Part]) -> Result<Made> {
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if let Some(said) = call.header("x-amz-mp-object-size")
        && said.parse() != Ok(size)
    {
        return Err(Error::new(
            Code::InvalidRequest,
            format!("The provided 'x-amz-mp-object-size' header value {said} does not match what was computed: {size}"),
        ));
    }
    let mut made = upload.attrs.clone();
    made.remove(ALGORITHM);
    made.remove(INITIATOR);
    made.insert(attrs::UPLOAD.into(), upload.id.0.to_vec());
    let checksum = checksum(upload, parts)?;
    if let Some(checksum) = &checksum {
        agree(call, checksum)?;
        checksum.store(&mut made);
    }
    let row = |part: &&Part| PartRow {
        number: part.number,
        size: part.size,
        checksum: match (&checksum, Stored::of(&part.attrs)) {
            (Some(_), Some(stored)) => stored.value,
            _ => String::new(),
        },
    };
    PartTable(parts.iter().map(row).collect()).store(&mut made);
    debug_assert_eq!(wanted.len(), parts.len());
    Ok(Made { etag: checks::etag_of_parts(parts.iter().map(|part| part.etag.as_str())), attrs: made })
}

/// The object's checksum from those of its parts; none if the upload asked for none, or a part
/// came without.
fn checksum(upload: &Upload, parts: &[&Part]) -> Result<Option<Stored>> {
    let Some((algorithm, composite)) = algorithm(&upload.attrs) else { return Ok(None) };
    let mut values = Vec::with_capacity(parts.len());
    for part in parts {
        match Stored::of(&part.attrs).filter(|stored| stored.algorithm == algorithm) {
            Some(stored) => values.push((stored.value, part.size)),
            None => return Ok(None),
        }
    }
    checks::of_parts(&algorithm, composite, &values).map(Some)
}

/// A checksum that the client sends along must be the one that the parts give.
fn agree(call: &Call, checksum: &Stored) -> Result<()> {
    let name = format!("x-amz-checksum-{}", checksum.algorithm.to_ascii_lowercase());
    let bare = checksum.value.split('-').next().unwrap_or_default();
    match call.header(&name) {
        Some(said) if said != checksum.value && said != bare => Err(Error::new(
            Code::BadDigest,
            format!("The {} you specified did not match the calculated checksum.", checksum.algorithm),
        )),
        _ => Ok(()),
    }
}
