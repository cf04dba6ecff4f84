//! Tags of objects and buckets.

use namespace::{Command, Condition, VersionId};

use crate::acl::Permission;
use crate::attrs::{self, BUCKET_TAGS_MAX, OBJECT_TAGS_MAX, decode_tags, encode_tags};
use crate::backend::Bucket;
use crate::call::{Call, config};
use crate::error::{Code, Result};
use crate::response::{self, Response};
use crate::xml::{Node, Xml};

use super::object::set_version;

fn to_xml(stored: &str) -> Result<String> {
    let mut xml = Xml::new("Tagging");
    xml.open("TagSet");
    for (key, value) in decode_tags(stored)? {
        xml.open("Tag").text("Key", &key).text("Value", &value).close("Tag");
    }
    xml.close("TagSet");
    Ok(xml.finish("Tagging"))
}

/// The tags of a `Tagging` document.
pub fn of_xml(root: &Node) -> Result<Vec<(String, String)>> {
    let set = root.child("TagSet").ok_or(Code::MalformedXML)?;
    let tag = |tag: &Node| Ok((tag.need("Key")?.to_owned(), tag.need("Value")?.to_owned()));
    set.all("Tag").map(tag).collect()
}

/// `GET ?tagging` of an object.
pub async fn get_object(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket().await?;
    let version = call.version(&bucket, call.key(), call.version_id()?, false).await?;
    call.may_object(&bucket, &version, call.act(Permission::FullControl)).await?;
    let mut response = response::xml(to_xml(attrs::text(&version.attrs, attrs::TAGS).unwrap_or(""))?);
    set_version(Some(version.id), response.headers_mut());
    Ok(response)
}

/// `PUT ?tagging` of an object.
pub async fn put_object(call: &mut Call) -> Result<Response> {
    let (bucket, version) = allowed(call).await?;
    let tags = encode_tags(&of_xml(&call.xml().await?)?, OBJECT_TAGS_MAX)?;
    set_tags(call, &bucket, version, Some(tags).filter(|tags| !tags.is_empty()), response::ok()).await
}

/// `DELETE ?tagging` of an object.
pub async fn delete_object(call: &mut Call) -> Result<Response> {
    let (bucket, version) = allowed(call).await?;
    set_tags(call, &bucket, version, None, response::no_content()).await
}

/// The bucket and the version, if the signer may change its tags.
async fn allowed(call: &Call) -> Result<(Bucket, VersionId)> {
    let bucket = call.bucket().await?;
    let version = call.version(&bucket, call.key(), call.version_id()?, false).await?;
    call.may_object(&bucket, &version, call.act(Permission::FullControl)).await?;
    Ok((bucket, version.id))
}

async fn set_tags(
    call: &Call,
    bucket: &Bucket,
    version: VersionId,
    tags: Option<Vec<u8>>,
    mut response: Response,
) -> Result<Response> {
    let set = vec![(attrs::TAGS.to_owned(), tags)];
    let command =
        Command::SetAttrs { key: call.key().to_owned(), version: Some(version), set, condition: Condition::default() };
    call.backend().commit(bucket, command).await?;
    set_version(Some(version), response.headers_mut());
    Ok(response)
}

/// `GET ?tagging` of a bucket.
pub async fn get_bucket(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let stored = call.backend().config(&bucket, config::TAGS).await?.ok_or(Code::NoSuchTagSet)?;
    Ok(response::xml(to_xml(&String::from_utf8_lossy(&stored))?))
}

/// `PUT ?tagging` of a bucket.
pub async fn put_bucket(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let tags = encode_tags(&of_xml(&call.xml().await?)?, BUCKET_TAGS_MAX)?;
    super::config::set(call, &bucket, config::TAGS, Some(tags).filter(|tags| !tags.is_empty())).await?;
    Ok(response::no_content())
}

/// `DELETE ?tagging` of a bucket.
pub async fn delete_bucket(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    super::config::set(call, &bucket, config::TAGS, None).await?;
    Ok(response::no_content())
}
