//! Deleting one object, or up to a thousand.

use futures_util::{StreamExt, stream};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use namespace::{Condition, Outcome, VersionId};

use crate::acl::Permission;
use crate::backend::Bucket;
use crate::bucket_policy::{Policy, Verdict, action};
use crate::call::{Call, parse_version, show_version};
use crate::conditions;
use crate::error::{Code, Error, Result};
use crate::response::{self, Response, set};
use crate::xml::{Node, Xml};

/// Keys of one request: S3's limit.
const KEYS_MAX: usize = 1000;
/// Deletes under way at once for one request: enough to share the store's group commits.
const PARALLEL: usize = 32;

/// `DELETE` of an object or of one version.
pub async fn one(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Write).await?;
    let version = call.version_id()?;
    let condition = conditions::of_write(&call.headers)?;
    let mut response = response::no_content();
    let outcome = match super::lock::remove(call, &bucket, call.key(), version, condition).await {
        Ok(outcome) => outcome,
        // A version that isn't there is as gone as it can be.
        Err(error) if error.code == Code::NoSuchVersion => {
            set(response.headers_mut(), "x-amz-version-id", version.map(show_version).unwrap_or_default().as_bytes());
            return Ok(response);
        }
        Err(error) => return Err(error),
    };
    if outcome.marker {
        response.headers_mut().insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    }
    if let Some(id) = outcome.version.or(version).filter(|id| outcome.marker || *id != VersionId::NULL) {
        set(response.headers_mut(), "x-amz-version-id", show_version(id).as_bytes());
    }
    Ok(response)
}

/// What decides of each line: the policy if there is one, else what ownership and ACL say of all.
struct Rights {
    policy: Option<Policy>,
    granted: bool,
}

impl Rights {
    async fn allow(&self, call: &Call, bucket: &Bucket, key: &str, versioned: bool) -> Result<bool> {
        let Some(policy) = &self.policy else { return Ok(self.granted) };
        let action = action::of(call.operation, versioned);
        Ok(match call.judge_by(policy, bucket, action, key, None).await? {
            Verdict::Deny => false,
            Verdict::Allow => true,
            Verdict::Silent => self.granted,
        })
    }
}

/// One line of a request to delete many.
struct Line {
    key: String,
    version: Result<Option<VersionId>>,
    condition: Condition,
}

/// `POST ?delete`.
pub async fn many(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket().await?;
    let rights =
        Rights { policy: call.policy(&bucket).await?, granted: call.granted(&bucket, Permission::Write).await? };
    if rights.policy.is_none() && !rights.granted {
        return Err(Code::AccessDenied.into());
    }
    if !is_verified(&call.headers) {
        return Err(Error::new(Code::InvalidRequest, "Missing required header for this request: Content-MD5"));
    }
    let root = call.xml().await?;
    let quiet = root.get("Quiet").is_some_and(|quiet| quiet.eq_ignore_ascii_case("true"));
    let lines: Vec<Line> = root.all("Object").map(line).collect::<Result<_>>()?;
    if lines.is_empty() || lines.len() > KEYS_MAX {
        return Err(Code::MalformedXML.into());
    }
    let call = &*call;
    let bucket = &bucket;
    let mut done = stream::iter(lines).map(|line| delete(call, bucket, &rights, line)).buffered(PARALLEL);
    let mut xml = Xml::with_capacity("DeleteResult", 4096);
    while let Some(answer) = done.next().await {
        match answer {
            Answer { result: Ok(_), .. } if quiet => {}
            Answer { key, version, result: Ok(outcome) } => write_deleted(&mut xml, &key, version, &outcome),
            Answer { key, version, result: Err(error) } => {
                xml.open("Error").text("Key", &key);
                xml.maybe("VersionId", version.map(show_version).as_deref());
                xml.text("Code", error.code.name()).text("Message", &error.message).close("Error");
            }
        }
    }
    Ok(response::xml(xml.finish("DeleteResult")))
}

/// Whether the body's bytes are proven by some digest: a flipped bit must not delete another key.
fn is_verified(headers: &HeaderMap) -> bool {
    let hashed = headers.get("x-amz-content-sha256").is_some_and(|hash| hash.len() == 64);
    let named = |name: &HeaderName| matches!(name.as_str(), "content-md5" | "x-amz-trailer" | "content-digest");
    hashed || headers.keys().any(|name| named(name) || name.as_str().starts_with("x-amz-checksum-"))
}

fn line(object: &Node) -> Result<Line> {
    let condition = Condition {
        if_match: object.get("ETag").map(|etag| conditions::etags(etag).map(str::to_owned).collect()),
        if_none_match: None,
        if_modified: object
            .get("LastModifiedTime")
            .and_then(|time| crate::response::parse_http_date(time).or_else(|| conditions::parse_iso_date(time)))
            .map(|secs| base::Wall(secs * 1000)),
        if_size: object.get("Size").and_then(|size| size.parse().ok()),
        if_attrs: Vec::new(),
    };
    let version = object.get("VersionId").filter(|id| !id.is_empty()).map(parse_version).transpose();
    Ok(Line { key: object.need("Key")?.to_owned(), version, condition })
}

struct Answer {
    key: String,
    version: Option<VersionId>,
    result: Result<Outcome>,
}

async fn delete(call: &Call, bucket: &Bucket, rights: &Rights, line: Line) -> Answer {
    let Line { key, version, condition } = line;
    let version = match version {
        Ok(version) => version,
        Err(error) => return Answer { key, version: None, result: Err(error) },
    };
    match rights.allow(call, bucket, &key, version.is_some()).await {
        Ok(true) => {}
        Ok(false) => return Answer { key, version, result: Err(Code::AccessDenied.into()) },
        Err(error) => return Answer { key, version, result: Err(error) },
    }
    let result = match super::lock::remove(call, bucket, &key, version, condition).await {
        Err(error) if error.code == Code::NoSuchVersion => Ok(Outcome::default()),
        other => other,
    };
    Answer { key, version, result }
}

fn write_deleted(xml: &mut Xml, key: &str, asked: Option<VersionId>, outcome: &Outcome) {
    xml.open("Deleted").text("Key", key);
    xml.maybe("VersionId", asked.map(show_version).as_deref());
    if outcome.marker {
        xml.flag("DeleteMarker", true);
        xml.maybe("DeleteMarkerVersionId", outcome.version.or(asked).map(show_version).as_deref());
    }
    xml.close("Deleted");
}
