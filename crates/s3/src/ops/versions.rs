//! Listing a bucket's versions and delete markers.

use crate::acl::Permission;
use crate::attrs;
use crate::call::{Call, parse_version, show_version};
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};
use crate::xml::Xml;

use super::list::{Asked, Owners, describe, items};

/// `GET ?versions`.
pub async fn list(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Read).await?;
    let asked = Asked::of(call, "max-keys")?;
    let marker = call.target.get("key-marker").unwrap_or("").to_owned();
    let version_marker = call.target.get("version-id-marker").filter(|id| !id.is_empty()).map(str::to_owned);
    let mut query = asked.query(&marker);
    query.after_version = version_marker.as_deref().map(parse_version).transpose()?;
    if query.after_version.is_some() && marker.is_empty() {
        return Err(Error::new(Code::InvalidArgument, "A version-id marker cannot be specified without a key marker."));
    }
    let page = call.backend().list_versions(&bucket, &query).await?;

    let mut xml = Xml::with_capacity("ListVersionsResult", 1024 + page.entries.len() * 350);
    xml.text("Name", &bucket.name);
    asked.echo(&mut xml);
    asked.key(&mut xml, "KeyMarker", &marker);
    xml.text("VersionIdMarker", version_marker.as_deref().unwrap_or(""));
    if let Some(next) = &page.next {
        asked.key(&mut xml, "NextKeyMarker", &next.after);
        // After a rolled up prefix there is no version to go on from.
        xml.maybe("NextVersionIdMarker", next.version.map(show_version).as_deref());
    }
    xml.number("MaxKeys", asked.max as u64).flag("IsTruncated", page.truncated());
    let mut owners = Owners::default();
    for listed in items(&page) {
        let tag = if listed.version.marker { "DeleteMarker" } else { "Version" };
        xml.open(tag);
        asked.key(&mut xml, "Key", &listed.key);
        xml.text("VersionId", &show_version(listed.version.id)).flag("IsLatest", listed.latest);
        if listed.version.marker {
            xml.text("LastModified", &listed.version.modified.rfc3339());
        } else {
            describe(&mut xml, &listed.version);
        }
        owners.write(call, &mut xml, "Owner", &attrs::owner(&listed.version.attrs, &bucket.owner)).await?;
        xml.close(tag);
    }
    asked.prefixes(&mut xml, &page);
    Ok(response::xml(xml.finish("ListVersionsResult")))
}
