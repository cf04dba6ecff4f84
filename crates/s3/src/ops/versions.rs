//! Listing a bucket's versions and delete markers.

use crate::acl::Permission;
use crate::attrs;
use crate::backend::Page;
use crate::call::{Call, parse_version, show_version};
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};
use crate::xml::Xml;

use super::list::{Asked, Owners, describe, last};

/// `GET ?versions`.
pub async fn list(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Read).await?;
    let asked = Asked::of(call, "max-keys")?;
    let marker = call.target.get("key-marker").unwrap_or("").to_owned();
    let version_marker = call.target.get("version-id-marker").filter(|id| !id.is_empty()).map(str::to_owned);
    let mut query = asked.query(marker.clone());
    query.after_version = version_marker.as_deref().map(parse_version).transpose()?;
    if query.after_version.is_some() && marker.is_empty() {
        return Err(Error::new(Code::InvalidArgument, "A version-id marker cannot be specified without a key marker."));
    }
    let page = match query.limit {
        0 => Page::default(),
        _ => call.backend().list_versions(&bucket, &query).await?,
    };

    let mut xml = Xml::with_capacity("ListVersionsResult", 1024 + page.items.len() * 350);
    xml.text("Name", &bucket.name);
    asked.echo(&mut xml);
    asked.key(&mut xml, "KeyMarker", &marker);
    xml.text("VersionIdMarker", version_marker.as_deref().unwrap_or(""));
    if page.truncated {
        let next = last(&page, |listed| &listed.key);
        asked.key(&mut xml, "NextKeyMarker", &next);
        // After a rolled up prefix there is no version to go on from.
        if let Some(listed) = page.items.last().filter(|listed| listed.key == next) {
            xml.text("NextVersionIdMarker", &show_version(listed.version.id));
        }
    }
    xml.number("MaxKeys", asked.max as u64).flag("IsTruncated", page.truncated);
    let mut owners = Owners::default();
    for listed in &page.items {
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
    asked.prefixes(&mut xml, &page.prefixes);
    Ok(response::xml(xml.finish("ListVersionsResult")))
}
