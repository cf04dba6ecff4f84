//! Uploads in parts: beginning, storing a part, dropping.

use base::UserId;
use hyper::HeaderMap;
use namespace::{Attrs, Command, Part, UploadId};

use crate::acl::Permission;
use crate::attrs;
use crate::call::Call;
use crate::checks::is_algorithm;
use crate::error::{Code, Error, Result};
use crate::headers;
use crate::response::{self, Response, set, set_etag};
use crate::xml::Xml;

use super::object::{self, OBJECT_BYTES_MAX, parse_part_number};

/// Attribute of an upload: its checksum's algorithm and type, `CRC32 FULL_OBJECT`.
pub const ALGORITHM: &str = "upload.checksum";
/// Attribute of an upload: who began it.
pub const INITIATOR: &str = "upload.initiator";

/// `POST ?uploads`.
pub async fn create(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Write).await?;
    object::check_key(call.key())?;
    let mut found = headers::to_attrs(&call.headers)?;
    object::inherit(call, &bucket, call.header("x-amz-acl"), &mut found).await?;
    let checksum = wanted_checksum(&call.headers)?;
    if let Some((algorithm, composite)) = &checksum {
        found.insert(ALGORITHM.into(), format!("{algorithm} {}", kind(*composite)).into_bytes());
    }
    if let Some(who) = call.who.as_ref().filter(|who| **who != bucket.owner) {
        found.insert(INITIATOR.into(), who.0.clone().into_bytes());
    }
    let mut headers = HeaderMap::new();
    object::set_encryption(&found, &mut headers);
    let upload = UploadId(call.face.env.random());
    let command = Command::BeginUpload { upload, key: call.key().to_owned(), attrs: found };
    call.backend().commit(&bucket, command).await?;

    let mut xml = Xml::new("InitiateMultipartUploadResult");
    xml.text("Bucket", &bucket.name).text("Key", call.key()).text("UploadId", &show_upload(upload));
    let mut response = response::xml(xml.finish("InitiateMultipartUploadResult"));
    if let Some((algorithm, composite)) = checksum {
        set(response.headers_mut(), "x-amz-checksum-algorithm", algorithm.as_bytes());
        set(response.headers_mut(), "x-amz-checksum-type", kind(composite).as_bytes());
    }
    response.headers_mut().extend(headers);
    Ok(response)
}

/// `PUT` of a part.
pub async fn part(call: &mut Call) -> Result<Response> {
    headers::refuse_customer_keys(&call.headers, "x-amz-server-side-encryption-customer")?;
    let bucket = call.bucket_for(Permission::Write).await?;
    let (upload, number) = upload_and_part(call)?;
    // A part of an upload that isn't there would be stored for nothing: ask first.
    let begun = call.backend().upload(&bucket, call.key(), upload).await?;
    let (content, summary) = object::store(call, &bucket, Some((upload, number)), OBJECT_BYTES_MAX).await?;
    let mut found = Attrs::new();
    if let Some(checksum) = &summary.checksum {
        if let Some((wanted, _)) = algorithm(&begun.attrs)
            && wanted != checksum.algorithm
        {
            let text = format!(
                "Checksum Type mismatch occurred, expected checksum Type: {wanted}, actual checksum Type: {}",
                checksum.algorithm
            );
            return Err(Error::new(Code::InvalidRequest, text.to_lowercase()));
        }
        checksum.store(&mut found);
    }
    let part =
        Part { number, modified: call.now, size: content.size, etag: summary.etag, attrs: found, body: content.body };
    let etag = part.etag.clone();
    call.backend().commit(&bucket, Command::PutPart { upload, key: call.key().to_owned(), part }).await?;

    let mut response = response::ok();
    set_etag(response.headers_mut(), &etag);
    if let Some(checksum) = &summary.checksum {
        headers::set_checksum(response.headers_mut(), checksum);
        response.headers_mut().remove("x-amz-checksum-type");
    }
    object::set_encryption(&begun.attrs, response.headers_mut());
    Ok(response)
}

/// `DELETE` of an upload.
pub async fn abort(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Write).await?;
    let upload = upload_id(call)?;
    call.backend().commit(&bucket, Command::AbortUpload { upload, key: call.key().to_owned() }).await?;
    Ok(response::no_content())
}

/// The upload and the part that the query names.
pub fn upload_and_part(call: &Call) -> Result<(UploadId, u16)> {
    let number = parse_part_number(call.target.get("partNumber").unwrap_or(""))?;
    Ok((upload_id(call)?, number))
}

/// The upload that the query names. What can't be an upload's id is one that isn't there.
pub fn upload_id(call: &Call) -> Result<UploadId> {
    let mut id = [0; 16];
    match base::ids::unhex(call.target.get("uploadId").unwrap_or(""), &mut id) {
        true => Ok(UploadId(id)),
        false => Err(Code::NoSuchUpload.into()),
    }
}

/// An upload's name on the wire.
pub fn show_upload(id: UploadId) -> String {
    base::ids::hex(&id.0)
}

/// Algorithm of an upload's checksum, and whether it is composed of the parts' checksums.
pub fn algorithm(found: &Attrs) -> Option<(String, bool)> {
    let (algorithm, kind) = attrs::text(found, ALGORITHM)?.split_once(' ')?;
    Some((algorithm.to_owned(), kind == "COMPOSITE"))
}

/// Who began the upload.
pub fn initiator(found: &Attrs, bucket_owner: &UserId) -> UserId {
    attrs::text(found, INITIATOR).map_or_else(|| bucket_owner.clone(), |id| UserId(id.to_owned()))
}

fn kind(composite: bool) -> &'static str {
    if composite { "COMPOSITE" } else { "FULL_OBJECT" }
}

/// The checksum that a new upload's headers ask for. SHA can't be combined from parts, CRC64NVME
/// is never composed: as S3 has it.
fn wanted_checksum(headers: &HeaderMap) -> Result<Option<(String, bool)>> {
    let text = |name| headers.get(name).and_then(|value: &hyper::header::HeaderValue| value.to_str().ok());
    let Some(algorithm) = text("x-amz-checksum-algorithm") else {
        return match text("x-amz-checksum-type") {
            Some(_) => Err(Error::new(
                Code::InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
            None => Ok(None),
        };
    };
    let algorithm = algorithm.to_ascii_uppercase();
    if !is_algorithm(&algorithm) {
        return Err(Error::new(
            Code::InvalidRequest,
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        ));
    }
    let composite = match text("x-amz-checksum-type") {
        None => algorithm != "CRC64NVME",
        Some("COMPOSITE") => true,
        Some("FULL_OBJECT") => false,
        Some(_) => return Err(Error::new(Code::InvalidRequest, "Value for x-amz-checksum-type header is invalid.")),
    };
    let possible = match algorithm.as_str() {
        "CRC64NVME" => !composite,
        "SHA1" | "SHA256" => composite,
        _ => true,
    };
    match possible {
        true => Ok(Some((algorithm, composite))),
        false => Err(Error::new(
            Code::InvalidRequest,
            format!("The {} checksum type cannot be used with the {algorithm} checksum algorithm.", kind(composite)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_a_checksum_that_its_parts_can_give() {
        let ask = |algorithm: Option<&str>, kind: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(algorithm) = algorithm {
                headers.insert("x-amz-checksum-algorithm", algorithm.parse().unwrap());
            }
            if let Some(kind) = kind {
                headers.insert("x-amz-checksum-type", kind.parse().unwrap());
            }
            wanted_checksum(&headers).map_err(|error| error.code)
        };
        let some = |name: &str, composite| Ok(Some((name.to_owned(), composite)));
        assert_eq!(ask(None, None), Ok(None));
        assert_eq!(ask(Some("crc32"), None), some("CRC32", true));
        assert_eq!(ask(Some("CRC32C"), Some("FULL_OBJECT")), some("CRC32C", false));
        assert_eq!(ask(Some("CRC64NVME"), None), some("CRC64NVME", false));
        assert_eq!(ask(Some("SHA256"), Some("COMPOSITE")), some("SHA256", true));
        for (algorithm, kind) in [
            (None, Some("COMPOSITE")),
            (Some("CRC64NVME"), Some("COMPOSITE")),
            (Some("SHA1"), Some("FULL_OBJECT")),
            (Some("MD4"), None),
            (Some("CRC32"), Some("HALF")),
        ] {
            assert_eq!(ask(algorithm, kind), Err(Code::InvalidRequest), "{algorithm:?} {kind:?}");
        }
    }
}
