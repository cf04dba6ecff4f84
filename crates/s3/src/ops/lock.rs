//! Setting and reading object locks, and removing versions that may be locked.

use namespace::{Attrs, Command, Condition, Outcome, Version, VersionId, Versioning};

use crate::access::Act;
use crate::acl::Permission;
use crate::backend::{self, Bucket};
use crate::call::{Call, config};
use crate::error::{Code, Error, Result};
use crate::lock::{HOLD, Lock, RETENTION, Retention, Rule, word};
use crate::response::{self, Response};
use crate::xml::Xml;

/// How often a decision is made again because the lock changed meanwhile.
const TRIES: usize = 8;
fn missing() -> Error {
    Error::new(Code::InvalidRequest, "Bucket is missing Object Lock Configuration")
}

/// The bucket's object lock, if it has one.
pub async fn rule(call: &Call, bucket: &Bucket) -> Result<Option<Rule>> {
    let stored = call.backend().config(bucket, config::OBJECT_LOCK).await?;
    stored.map(|stored| Rule::decode(&stored)).transpose()
}

/// Puts the lock of a new version among its attributes: the request's, or the bucket's default.
pub async fn inherit(call: &Call, bucket: &Bucket, found: &mut Attrs) -> Result<()> {
    let mut lock = Lock::of_headers(&call.headers, call.now)?;
    match rule(call, bucket).await? {
        None if lock != Lock::default() => return Err(missing()),
        None => {}
        Some(rule) => lock.retention = lock.retention.or(rule.retention(call.now)),
    }
    lock.store(found);
    Ok(())
}

/// `GET ?object-lock`.
pub async fn get_rule(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let rule = rule(call, &bucket).await?.ok_or(Code::ObjectLockConfigurationNotFoundError)?;
    Ok(response::xml(rule.to_xml()))
}

/// `PUT ?object-lock`: for good, and only where every version is kept.
pub async fn put_rule(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let rule = Rule::of_xml(&call.xml().await?)?;
    if call.backend().versioning(&bucket).await? != Versioning::Enabled {
        return Err(Error::new(
            Code::InvalidBucketState,
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration",
        ));
    }
    super::config::set(call, &bucket, config::OBJECT_LOCK, Some(rule.encode())).await?;
    Ok(response::ok())
}

/// The version that the request names, in a bucket with object lock.
async fn version(call: &Call) -> Result<(Bucket, Version)> {
    let bucket = call.bucket().await?;
    let version = call.version(&bucket, call.key(), call.version_id()?, false).await?;
    call.may_object(&bucket, &version, call.act(Permission::FullControl)).await?;
    match rule(call, &bucket).await? {
        Some(_) => Ok((bucket, version)),
        None => Err(missing()),
    }
}

/// `GET ?retention`.
pub async fn get_retention(call: &mut Call) -> Result<Response> {
    let (_, version) = version(call).await?;
    let retention = Lock::of(&version.attrs)?.retention.ok_or(Code::NoSuchObjectLockConfiguration)?;
    let mut xml = Xml::new("Retention");
    xml.text("Mode", retention.mode.name()).text("RetainUntilDate", &retention.until.rfc3339());
    Ok(response::xml(xml.finish("Retention")))
}

/// `PUT ?retention`.
pub async fn put_retention(call: &mut Call) -> Result<Response> {
    let (bucket, mut seen) = version(call).await?;
    let wanted = Retention::of_xml(&call.xml().await?, call.now)?;
    let bypass = may_bypass(call, &bucket, call.key()).await?;
    for _ in 0..TRIES {
        let old = Lock::of(&seen.attrs)?.retention;
        if old.is_some_and(|old| !old.yields_to(wanted, call.now, bypass)) {
            return Err(locked());
        }
        let command = Command::SetAttrs {
            key: call.key().to_owned(),
            version: Some(seen.id),
            set: vec![(RETENTION.into(), Some(wanted.encode()))],
            condition: as_seen(Condition::default(), &seen, &[RETENTION]),
        };
        match call.backend().commit(&bucket, command).await {
            Err(error) if is_changed(&error) => seen = call.version(&bucket, call.key(), Some(seen.id), false).await?,
            done => {
                done?;
                return Ok(response::ok());
            }
        }
    }
    Err(Code::OperationAborted.into())
}

/// `GET ?legal-hold`.
pub async fn get_hold(call: &mut Call) -> Result<Response> {
    let (_, version) = version(call).await?;
    let hold = Lock::of(&version.attrs)?.hold.ok_or(Code::NoSuchObjectLockConfiguration)?;
    let mut xml = Xml::new("LegalHold");
    xml.text("Status", word(hold));
    Ok(response::xml(xml.finish("LegalHold")))
}

/// `PUT ?legal-hold`.
pub async fn put_hold(call: &mut Call) -> Result<Response> {
    let (bucket, version) = version(call).await?;
    let root = call.xml().await?;
    let hold = match root.need("Status")? {
        "ON" => true,
        "OFF" => false,
        _ => return Err(Code::MalformedXML.into()),
    };
    let command = Command::SetAttrs {
        key: call.key().to_owned(),
        version: Some(version.id),
        set: vec![(HOLD.into(), Some(word(hold).as_bytes().to_vec()))],
        condition: Condition::default(),
    };
    call.backend().commit(&bucket, command).await?;
    Ok(response::ok())
}

/// Whether the caller asks to bypass governance, and may.
async fn may_bypass(call: &Call, bucket: &Bucket, key: &str) -> Result<bool> {
    let asks = call.header("x-amz-bypass-governance-retention").is_some_and(|yes| yes.eq_ignore_ascii_case("true"));
    let act = Act { action: "s3:BypassGovernanceRetention", key, wanted: Permission::FullControl };
    Ok(asks && call.may(bucket, act).await?)
}

fn locked() -> Error {
    Error::new(Code::AccessDenied, "Access Denied because object protected by object lock.")
}

/// Whether attributes are no longer as the decision saw them.
fn is_changed(error: &backend::Error) -> bool {
    matches!(error, backend::Error::Namespace(namespace::Error::Precondition { what: "attributes" }))
}

/// The condition that these attributes still are as they were seen.
fn as_seen(condition: Condition, seen: &Version, names: &[&str]) -> Condition {
    let if_attrs = names.iter().map(|name| ((*name).to_owned(), seen.attrs.get(*name).cloned())).collect();
    Condition { if_attrs, ..condition }
}

/// Removes an object or a version for a caller who may, unless it is locked.
pub async fn remove(
    call: &Call,
    bucket: &Bucket,
    key: &str,
    version: Option<VersionId>,
    condition: Condition,
) -> Result<Outcome> {
    let command = |condition| Command::Delete { key: key.to_owned(), version, condition };
    // Without a version's name nothing that is kept is removed.
    let (Some(id), Some(_)) = (version, rule(call, bucket).await?) else {
        return Ok(call.backend().commit(bucket, command(condition)).await?);
    };
    let bypass = may_bypass(call, bucket, key).await?;
    for _ in 0..TRIES {
        let condition = match call.backend().head(bucket, key, Some(id), false).await {
            Ok(seen) if !seen.marker => {
                if Lock::of(&seen.attrs)?.forbids_removal(call.now, bypass) {
                    return Err(locked());
                }
                as_seen(condition.clone(), &seen, &[RETENTION, HOLD])
            }
            Ok(_) => condition.clone(),
            Err(backend::Error::Namespace(namespace::Error::NoSuchKey | namespace::Error::NoSuchVersion)) => {
                condition.clone()
            }
            Err(error) => return Err(error.into()),
        };
        match call.backend().commit(bucket, command(condition)).await {
            Err(error) if is_changed(&error) => {}
            done => return Ok(done?),
        }
    }
    Err(Code::OperationAborted.into())
}
