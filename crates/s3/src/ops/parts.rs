//! Listing uploads under way and the parts of one.

use namespace::UploadId;

use crate::acl::Permission;
use crate::attrs::{self, Stored};
use crate::call::Call;
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};
use crate::xml::Xml;

use super::list::{Asked, Owners, items, limit};
use super::multipart::{algorithm, initiator, show_upload, upload_id};

/// `GET ?uploads`.
pub async fn uploads(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Read).await?;
    let asked = Asked::of(call, "max-uploads")?;
    let marker = call.target.get("key-marker").unwrap_or("").to_owned();
    let id_marker = call.target.get("upload-id-marker").filter(|id| !id.is_empty()).map(str::to_owned);
    let mut query = asked.query(&marker);
    if let Some(id) = id_marker.as_deref().filter(|_| !marker.is_empty()) {
        let mut bytes = [0; 16];
        if !base::ids::unhex(id, &mut bytes) {
            return Err(Error::new(Code::InvalidArgument, "Invalid uploadId marker"));
        }
        query.after_upload = Some(UploadId(bytes));
    }
    let page = call.backend().uploads(&bucket, &query).await?;

    let mut xml = Xml::new("ListMultipartUploadsResult");
    xml.text("Bucket", &bucket.name);
    asked.key(&mut xml, "KeyMarker", &marker);
    xml.text("UploadIdMarker", id_marker.as_deref().unwrap_or(""));
    if let Some(next) = &page.next {
        asked.key(&mut xml, "NextKeyMarker", &next.after);
        xml.maybe("NextUploadIdMarker", next.upload.map(show_upload).as_deref());
    }
    asked.echo(&mut xml);
    xml.number("MaxUploads", asked.max as u64).flag("IsTruncated", page.truncated());
    let mut owners = Owners::default();
    for upload in items(&page) {
        xml.open("Upload");
        asked.key(&mut xml, "Key", &upload.key);
        xml.text("UploadId", &show_upload(upload.id));
        let who = initiator(&upload.attrs, &bucket.owner);
        owners.write(call, &mut xml, "Initiator", &who).await?;
        owners.write(call, &mut xml, "Owner", &attrs::owner(&upload.attrs, &bucket.owner)).await?;
        xml.text("StorageClass", attrs::storage_class(&upload.attrs));
        xml.text("Initiated", &upload.begun.rfc3339());
        if let Some((algorithm, composite)) = algorithm(&upload.attrs) {
            xml.text("ChecksumAlgorithm", &algorithm);
            xml.text("ChecksumType", if composite { "COMPOSITE" } else { "FULL_OBJECT" });
        }
        xml.close("Upload");
    }
    asked.prefixes(&mut xml, &page);
    Ok(response::xml(xml.finish("ListMultipartUploadsResult")))
}

/// `GET` of an upload.
pub async fn list(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Read).await?;
    let id = upload_id(call)?;
    let max = limit(call, "max-parts")?;
    let marker = match call.target.get("part-number-marker") {
        None | Some("") => 0,
        Some(text) => text.parse::<u16>().map_err(|_| {
            Error::new(Code::InvalidArgument, "Provided part-number-marker not an integer or within integer range")
        })?,
    };
    let upload = call.backend().upload(&bucket, call.key(), id).await?;
    // One more than asked for tells whether there is more.
    let mut parts = call.backend().parts(&bucket, call.key(), id, marker, max + 1).await?;
    let truncated = parts.len() > max;
    parts.truncate(max);

    let mut xml = Xml::with_capacity("ListPartsResult", 1024 + parts.len() * 250);
    xml.text("Bucket", &bucket.name).text("Key", call.key()).text("UploadId", &show_upload(id));
    let mut owners = Owners::default();
    let who = initiator(&upload.attrs, &bucket.owner);
    owners.write(call, &mut xml, "Initiator", &who).await?;
    owners.write(call, &mut xml, "Owner", &attrs::owner(&upload.attrs, &bucket.owner)).await?;
    xml.text("StorageClass", attrs::storage_class(&upload.attrs)).number("PartNumberMarker", marker.into());
    if let Some(part) = parts.last() {
        xml.number("NextPartNumberMarker", part.number.into());
    }
    xml.number("MaxParts", max as u64).flag("IsTruncated", truncated);
    if let Some((algorithm, composite)) = algorithm(&upload.attrs) {
        xml.text("ChecksumAlgorithm", &algorithm);
        xml.text("ChecksumType", if composite { "COMPOSITE" } else { "FULL_OBJECT" });
    }
    for part in &parts {
        xml.open("Part").number("PartNumber", part.number.into());
        xml.text("LastModified", &part.modified.rfc3339()).etag("ETag", &part.etag).number("Size", part.size);
        if let Some(checksum) = Stored::of(&part.attrs) {
            xml.text(&format!("Checksum{}", checksum.algorithm), &checksum.value);
        }
        xml.close("Part");
    }
    Ok(response::xml(xml.finish("ListPartsResult")))
}
