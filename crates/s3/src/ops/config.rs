//! Settings of a bucket that change how it behaves: versioning, ownership, public access.

use hyper::header::HeaderValue;
use namespace::{Command, Versioning};

use crate::acl::{Acl, Permission};
use crate::backend::Bucket;
use crate::bucket_policy::{self, POLICY_BYTES_MAX};
use crate::call::{Call, PublicAccess, config};
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};
use crate::xml::Xml;

/// Sets or removes a setting.
pub async fn set(call: &Call, bucket: &Bucket, name: &str, value: Option<Vec<u8>>) -> Result<()> {
    let command = Command::SetConfig { name: name.to_owned(), value };
    call.backend().commit(bucket, command).await?;
    Ok(())
}

/// `GET ?versioning`: an empty document while it never was on.
pub async fn get_versioning(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let mut xml = Xml::new("VersioningConfiguration");
    match call.backend().versioning(&bucket).await? {
        Versioning::Off => {}
        Versioning::Enabled => _ = xml.text("Status", "Enabled"),
        Versioning::Suspended => _ = xml.text("Status", "Suspended"),
    }
    Ok(response::xml(xml.finish("VersioningConfiguration")))
}

/// `PUT ?versioning`.
pub async fn put_versioning(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let root = call.xml().await?;
    if root.get("MfaDelete").is_some_and(|mfa| mfa == "Enabled") {
        return Err(Error::new(Code::NotImplemented, "MFA delete is not implemented"));
    }
    let versioning = match root.get("Status") {
        Some("Enabled") => Versioning::Enabled,
        Some("Suspended") => Versioning::Suspended,
        Some(_) => return Err(Code::MalformedXML.into()),
        None => return Err(Code::IllegalVersioningConfigurationException.into()),
    };
    if versioning == Versioning::Suspended && super::lock::rule(call, &bucket).await?.is_some() {
        return Err(Error::new(
            Code::InvalidBucketState,
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
        ));
    }
    call.backend().commit(&bucket, Command::SetVersioning(versioning)).await?;
    Ok(response::ok())
}

/// One of S3's three words for object ownership.
pub fn parse_ownership(word: &str) -> Result<&'static str> {
    ["BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"]
        .into_iter()
        .find(|known| *known == word)
        .ok_or_else(|| Error::new(Code::InvalidArgument, format!("Invalid x-amz-object-ownership: {word}")))
}

/// `GET ?ownershipControls`.
pub async fn get_ownership(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let stored = call.backend().config(&bucket, config::OWNERSHIP).await?;
    let stored = stored.ok_or(Code::OwnershipControlsNotFoundError)?;
    let mut xml = Xml::new("OwnershipControls");
    xml.open("Rule").text("ObjectOwnership", &String::from_utf8_lossy(&stored)).close("Rule");
    Ok(response::xml(xml.finish("OwnershipControls")))
}

/// `PUT ?ownershipControls`. ACLs can't be switched off while they open the bucket to others.
pub async fn put_ownership(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let root = call.xml().await?;
    let word = root.child("Rule").and_then(|rule| rule.get("ObjectOwnership")).ok_or(Code::MalformedXML)?;
    let word = parse_ownership(word).map_err(|_| Code::MalformedXML)?;
    if word == "BucketOwnerEnforced" && call.backend().config(&bucket, config::ACL).await?.is_some() {
        return Err(Code::InvalidBucketAclWithObjectOwnership.into());
    }
    set(call, &bucket, config::OWNERSHIP, Some(word.as_bytes().to_vec())).await?;
    Ok(response::ok())
}

/// `DELETE ?ownershipControls`.
pub async fn delete_ownership(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    set(call, &bucket, config::OWNERSHIP, None).await?;
    Ok(response::no_content())
}

const SWITCHES: [&str; 4] = ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"];

/// `GET ?publicAccessBlock`.
pub async fn get_public_access(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let stored = call.backend().config(&bucket, config::PUBLIC_ACCESS).await?;
    let access = PublicAccess::decode(&stored.ok_or(Code::NoSuchPublicAccessBlockConfiguration)?);
    let mut xml = Xml::new("PublicAccessBlockConfiguration");
    let on = [access.block_acls, access.ignore_acls, access.block_policy, access.restrict];
    for (name, on) in SWITCHES.into_iter().zip(on) {
        xml.flag(name, on);
    }
    Ok(response::xml(xml.finish("PublicAccessBlockConfiguration")))
}

/// `PUT ?publicAccessBlock`.
pub async fn put_public_access(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let root = call.xml().await?;
    let on = |name: &str| match root.get(name).map(str::trim) {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Error::from(Code::MalformedXML)),
    };
    let [block_acls, ignore_acls, block_policy, restrict] = SWITCHES.map(on);
    let access = PublicAccess {
        block_acls: block_acls?,
        ignore_acls: ignore_acls?,
        block_policy: block_policy?,
        restrict: restrict?,
    };
    set(call, &bucket, config::PUBLIC_ACCESS, Some(access.encode())).await?;
    Ok(response::ok())
}

/// `DELETE ?publicAccessBlock`.
pub async fn delete_public_access(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    set(call, &bucket, config::PUBLIC_ACCESS, None).await?;
    Ok(response::no_content())
}

/// `GET ?policy`.
pub async fn get_policy(call: &mut Call) -> Result<Response> {
    let bucket = call.owners_bucket().await?;
    let text = call.backend().config(&bucket, config::POLICY).await?.ok_or(Code::NoSuchBucketPolicy)?;
    let mut response = response::with_body(hyper::StatusCode::OK, response::Body::Full(text.into()));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `PUT ?policy`.
pub async fn put_policy(call: &mut Call) -> Result<Response> {
    let bucket = call.owners_bucket().await?;
    let text = call.payload.whole(POLICY_BYTES_MAX).await?;
    let policy = bucket_policy::parse(&text, &bucket.name)?;
    if policy.is_public() && call.public_access(&bucket).await?.block_policy {
        return Err(Error::new(Code::AccessDenied, "The public access block of the bucket forbids public policies"));
    }
    set(call, &bucket, config::POLICY, Some(text.to_vec())).await?;
    Ok(response::no_content())
}

/// `DELETE ?policy`.
pub async fn delete_policy(call: &mut Call) -> Result<Response> {
    let bucket = call.owners_bucket().await?;
    set(call, &bucket, config::POLICY, None).await?;
    Ok(response::no_content())
}

/// `GET ?policyStatus`: what the policy or the ACL opens to everybody is public.
pub async fn policy_status(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let stored = call.backend().config(&bucket, config::ACL).await?;
    let acl = Acl::decode(stored.as_deref(), &bucket.owner);
    let wanted = [Permission::Read, Permission::Write, Permission::ReadAcp, Permission::WriteAcp];
    let ignored = call.public_access(&bucket).await?.ignore_acls || call.enforced(&bucket).await?;
    let somebody = base::UserId(String::new());
    let public = !ignored && wanted.into_iter().any(|wanted| acl.allows(Some(&somebody), wanted, true));
    let opened = call.policy(&bucket).await?.is_some_and(|policy| policy.is_public());
    let mut xml = Xml::new("PolicyStatus");
    xml.flag("IsPublic", public || opened);
    Ok(response::xml(xml.finish("PolicyStatus")))
}

/// `GET ?encryption`.
pub async fn get_encryption(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let stored = call.backend().config(&bucket, config::ENCRYPTION).await?;
    let stored = stored.ok_or(Code::ServerSideEncryptionConfigurationNotFoundError)?;
    let mut xml = Xml::new("ServerSideEncryptionConfiguration");
    xml.open("Rule").open("ApplyServerSideEncryptionByDefault");
    xml.text("SSEAlgorithm", &String::from_utf8_lossy(&stored));
    xml.close("ApplyServerSideEncryptionByDefault").flag("BucketKeyEnabled", false).close("Rule");
    Ok(response::xml(xml.finish("ServerSideEncryptionConfiguration")))
}

/// `PUT ?encryption`: AES-256 under the store's own keys, which every object has anyway; what
/// changes is that answers say so.
pub async fn put_encryption(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let root = call.xml().await?;
    let rule = root.child("Rule").and_then(|rule| rule.child("ApplyServerSideEncryptionByDefault"));
    match rule.ok_or(Code::MalformedXML)?.need("SSEAlgorithm")? {
        "AES256" => set(call, &bucket, config::ENCRYPTION, Some(b"AES256".to_vec())).await?,
        "aws:kms" | "aws:kms:dsse" => {
            return Err(Error::new(Code::NotImplemented, "Encryption with KMS keys is not implemented"));
        }
        _ => return Err(Code::MalformedXML.into()),
    }
    Ok(response::ok())
}

/// `DELETE ?encryption`.
pub async fn delete_encryption(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    set(call, &bucket, config::ENCRYPTION, None).await?;
    Ok(response::no_content())
}
