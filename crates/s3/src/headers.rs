//! Request headers that become an object's attributes, and attributes that become headers again.

use hyper::HeaderMap;
use namespace::{Attrs, Version};

use crate::attrs::{self, META, META_MAX, OBJECT_TAGS_MAX, Stored};
use crate::call::Call;
use crate::error::{Code, Error, Result};
use crate::response::set;

const META_PREFIX: &str = "x-amz-meta-";

/// The attributes that a write's headers ask for: standard headers, user metadata, tags.
pub fn to_attrs(headers: &HeaderMap) -> Result<Attrs> {
    let mut found = Attrs::new();
    standard(headers, &mut found)?;
    metadata(headers, &mut found)?;
    if let Some(tags) = headers.get("x-amz-tagging") {
        store_tags(tags.to_str().map_err(|_| Code::InvalidArgument)?, &mut found)?;
    }
    Ok(found)
}

/// Tags from the header's form into the attributes.
pub fn store_tags(query: &str, found: &mut Attrs) -> Result<()> {
    let tags = attrs::decode_tags(query)?;
    if !tags.is_empty() {
        found.insert(attrs::TAGS.into(), attrs::encode_tags(&tags, OBJECT_TAGS_MAX)?);
    }
    Ok(())
}

/// Headers that are kept as they are.
fn standard(headers: &HeaderMap, found: &mut Attrs) -> Result<()> {
    refuse_unsupported(headers)?;
    for name in attrs::HEADERS {
        let Some(value) = headers.get(*name) else { continue };
        let value = match *name {
            "content-encoding" => match without_aws_chunked(value.as_bytes()) {
                Some(value) => value,
                None => continue,
            },
            "x-amz-storage-class" => {
                check_storage_class(value.as_bytes())?;
                value.as_bytes().to_vec()
            }
            _ => value.as_bytes().to_vec(),
        };
        if !value.is_empty() {
            found.insert((*name).to_owned(), value);
        }
    }
    if found.get("x-amz-storage-class").is_some_and(|class| class == b"STANDARD") {
        found.remove("x-amz-storage-class");
    }
    Ok(())
}

/// There is one storage class; the others' names are known and refused by name.
fn check_storage_class(value: &[u8]) -> Result<()> {
    match value {
        // Reduced redundancy is less than we give: taken, and kept safer than asked for.
        b"STANDARD" | b"REDUCED_REDUNDANCY" | b"" => Ok(()),
        _ => Err(Code::InvalidStorageClass.into()),
    }
}

/// `aws-chunked` says how the body came over the wire, not what it is.
fn without_aws_chunked(value: &[u8]) -> Option<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(value) else { return Some(value.to_vec()) };
    if !text.contains("aws-chunked") {
        return Some(value.to_vec());
    }
    let rest: Vec<_> = text.split(',').map(str::trim).filter(|one| *one != "aws-chunked" && !one.is_empty()).collect();
    (!rest.is_empty()).then(|| rest.join(",").into_bytes())
}

/// User metadata, names in lower case, bytes as they came.
fn metadata(headers: &HeaderMap, found: &mut Attrs) -> Result<()> {
    let mut size = 0;
    for name in headers.keys() {
        let Some(short) = name.as_str().strip_prefix(META_PREFIX) else { continue };
        let mut value = Vec::new();
        for one in headers.get_all(name) {
            if !value.is_empty() {
                value.push(b',');
            }
            value.extend_from_slice(one.as_bytes());
        }
        size += short.len() + value.len();
        if size > META_MAX {
            return Err(Code::MetadataTooLarge.into());
        }
        found.insert(format!("{META}{short}"), value);
    }
    Ok(())
}

/// What a client asks for and wouldn't get is refused, never ignored.
fn refuse_unsupported(headers: &HeaderMap) -> Result<()> {
    let customer = headers.keys().any(|name| name.as_str().starts_with("x-amz-server-side-encryption-customer"));
    if customer && headers.contains_key(attrs::ENCRYPTION) {
        return Err(Error::new(
            Code::InvalidArgument,
            "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
        ));
    }
    refuse_customer_keys(headers, "x-amz-server-side-encryption-customer")?;
    match headers.get("x-amz-server-side-encryption").map(|value| value.as_bytes()) {
        // Everything at rest is AES-256 under keys that the store manages: what SSE-S3 promises.
        None | Some(b"AES256") => {}
        Some(b"aws:kms" | b"aws:kms:dsse") => {
            return Err(Error::new(
                Code::NotImplemented,
                "Encryption with KMS keys is not implemented; objects are always encrypted with the store's own keys",
            ));
        }
        Some(_) => {
            return Err(Error::new(Code::InvalidArgument, "The encryption method specified is not supported"));
        }
    }
    if headers.contains_key("x-amz-server-side-encryption-aws-kms-key-id") {
        return Err(Error::new(Code::InvalidArgument, "A KMS key id needs x-amz-server-side-encryption: aws:kms"));
    }
    Ok(())
}

/// Keys that the customer sends along (SSE-C) are not implemented.
pub fn refuse_customer_keys(headers: &HeaderMap, prefix: &str) -> Result<()> {
    let asked = headers.keys().any(|name| name.as_str().starts_with(prefix));
    if asked {
        return Err(Error::new(Code::NotImplemented, "Encryption with customer keys (SSE-C) is not implemented"));
    }
    Ok(())
}

/// Headers of an answer that stem from an object: type, metadata, tags' number, encryption.
pub fn of_version(version: &Version, headers: &mut HeaderMap) {
    for name in attrs::HEADERS {
        if let Some(value) = version.attrs.get(*name) {
            set(headers, name, value);
        }
    }
    if !version.attrs.contains_key("content-type") {
        set(headers, "content-type", b"binary/octet-stream");
    }
    for (name, value) in version.attrs.range(META.to_owned()..) {
        let Some(short) = name.strip_prefix(META) else { break };
        let name = format!("{META_PREFIX}{short}");
        if let (Ok(name), Ok(value)) =
            (hyper::header::HeaderName::try_from(name), hyper::header::HeaderValue::from_bytes(value))
        {
            headers.insert(name, value);
        }
    }
    if let Some(tags) = attrs::text(&version.attrs, attrs::TAGS) {
        set(headers, "x-amz-tagging-count", tags.split('&').count().to_string().as_bytes());
    }
}

/// Sets `x-amz-checksum-…` and its type.
pub fn set_checksum(headers: &mut HeaderMap, stored: &Stored) {
    let name = format!("x-amz-checksum-{}", stored.algorithm.to_ascii_lowercase());
    if let (Ok(name), Ok(value)) =
        (hyper::header::HeaderName::try_from(name), hyper::header::HeaderValue::from_bytes(stored.value.as_bytes()))
    {
        headers.insert(name, value);
        set(headers, "x-amz-checksum-type", stored.kind().as_bytes());
    }
}

/// Query parameters that replace headers of the answer, for signed requests only.
pub fn overrides(call: &Call, headers: &mut HeaderMap) -> Result<()> {
    for (parameter, name) in [
        ("response-content-type", "content-type"),
        ("response-content-language", "content-language"),
        ("response-expires", "expires"),
        ("response-cache-control", "cache-control"),
        ("response-content-disposition", "content-disposition"),
        ("response-content-encoding", "content-encoding"),
    ] {
        let Some(value) = call.target.get(parameter) else { continue };
        if call.who.is_none() {
            return Err(Error::new(
                Code::InvalidRequest,
                "Request specific response headers cannot be used for anonymous GET requests.",
            ));
        }
        set(headers, name, value.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn aws_chunked_is_never_stored() {
        for (sent, kept) in [
            ("aws-chunked", None),
            ("gzip, aws-chunked", Some("gzip")),
            ("aws-chunked,gzip,br", Some("gzip,br")),
            ("gzip", Some("gzip")),
        ] {
            let found = to_attrs(&headers(&[("content-encoding", sent)])).unwrap();
            assert_eq!(attrs::text(&found, "content-encoding"), kept, "{sent}");
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (name, value, code) in [
            ("x-amz-server-side-encryption", "aws:kms", Code::NotImplemented),
            ("x-amz-server-side-encryption", "rot13", Code::InvalidArgument),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256", Code::NotImplemented),
            ("x-amz-storage-class", "GLACIER", Code::InvalidStorageClass),
            ("x-amz-tagging", "a=b&a=c", Code::InvalidTag),
        ] {
            assert_eq!(to_attrs(&headers(&[(name, value)])).unwrap_err().code, code, "{name}: {value}");
        }
        let big = "x".repeat(META_MAX);
        assert_eq!(to_attrs(&headers(&[("x-amz-meta-a", &big)])).unwrap_err().code, Code::MetadataTooLarge);
    }

    #[test]
    fn repeated_metadata_is_joined() {
        let found = to_attrs(&headers(&[("x-amz-meta-a", "1"), ("x-amz-meta-a", "2")])).unwrap();
        assert_eq!(attrs::text(&found, "meta:a"), Some("1,2"));
    }
}
