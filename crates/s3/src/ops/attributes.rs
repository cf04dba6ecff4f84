//! `GetObjectAttributes`: what is known of an object without its bytes.

use crate::acl::Permission;
use crate::attrs::{self, PartTable, Stored};
use crate::call::{Call, show_version};
use crate::conditions;
use crate::error::{Code, Error, Result};
use crate::headers;
use crate::response::{self, Response, set, set_modified};
use crate::xml::Xml;

const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
/// Parts of one page: S3's limit.
const PARTS_MAX: usize = 1000;

/// `GET ?attributes`.
pub async fn get(call: &mut Call) -> Result<Response> {
    headers::refuse_customer_keys(&call.headers, "x-amz-server-side-encryption-customer")?;
    let bucket = call.bucket().await?;
    let id = call.version_id()?;
    let wanted = wanted(call)?;
    let version = call.version(&bucket, call.key(), id, false).await?;
    call.may_object(&bucket, &version, call.act(Permission::Read)).await?;
    conditions::check_read(&call.headers, &version)?;

    let mut xml = Xml::new("GetObjectAttributesResponse");
    for name in wanted {
        match name {
            "ETag" => _ = xml.text("ETag", &version.etag),
            "ObjectSize" => _ = xml.number("ObjectSize", version.size),
            "StorageClass" => _ = xml.text("StorageClass", attrs::storage_class(&version.attrs)),
            "Checksum" => {
                if let Some(stored) = Stored::of(&version.attrs) {
                    xml.open("Checksum").text(&format!("Checksum{}", stored.algorithm), bare(&stored));
                    xml.text("ChecksumType", stored.kind()).close("Checksum");
                }
            }
            _ => parts(call, &version, &mut xml)?,
        }
    }
    let mut response = response::xml(xml.finish("GetObjectAttributesResponse"));
    set_modified(response.headers_mut(), version.modified);
    if version.id != namespace::VersionId::NULL {
        set(response.headers_mut(), "x-amz-version-id", show_version(version.id).as_bytes());
    }
    Ok(response)
}

/// The value as clients compare it with other answers'.
fn bare(stored: &Stored) -> &str {
    &stored.value
}

fn wanted(call: &Call) -> Result<Vec<&'static str>> {
    let mut wanted = Vec::new();
    for value in call.headers.get_all("x-amz-object-attributes") {
        for name in value.to_str().map_err(|_| Code::InvalidArgument)?.split(',').map(str::trim) {
            let known = KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(name));
            wanted.push(known.ok_or_else(|| Error::new(Code::InvalidArgument, "Invalid attribute name specified."))?);
        }
    }
    match wanted.is_empty() {
        true => Err(Error::new(
            Code::InvalidRequest,
            "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty",
        )),
        false => Ok(wanted),
    }
}

fn parts(call: &Call, version: &namespace::Version, xml: &mut Xml) -> Result<()> {
    let Some(table) = PartTable::of(&version.attrs) else { return Ok(()) };
    let number = |name, default: usize| match call.header(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| Error::new(Code::InvalidArgument, format!("{name} is not a number"))),
    };
    let max = number("x-amz-max-parts", PARTS_MAX)?.min(PARTS_MAX);
    let marker = number("x-amz-part-number-marker", 0)?;
    let checksum = Stored::of(&version.attrs);
    let mut rows = table.0.iter().filter(|row| usize::from(row.number) > marker);
    let page: Vec<_> = rows.by_ref().take(max).collect();
    let truncated = rows.next().is_some();
    xml.open("ObjectParts").number("PartsCount", table.0.len() as u64).number("TotalPartsCount", table.0.len() as u64);
    xml.number("PartNumberMarker", marker as u64);
    if let Some(last) = page.last() {
        xml.number("NextPartNumberMarker", last.number.into());
    }
    xml.number("MaxParts", max as u64).flag("IsTruncated", truncated);
    for row in page {
        xml.open("Part").number("PartNumber", row.number.into()).number("Size", row.size);
        if let Some(checksum) = checksum.as_ref().filter(|_| !row.checksum.is_empty()) {
            xml.text(&format!("Checksum{}", checksum.algorithm), &row.checksum);
        }
        xml.close("Part");
    }
    xml.close("ObjectParts");
    Ok(())
}
