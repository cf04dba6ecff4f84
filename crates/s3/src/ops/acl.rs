//! Reading and setting ACLs of buckets and objects.

use base::UserId;
use namespace::{Command, Condition};

use crate::acl::{self, Acl, Permission};
use crate::attrs;
use crate::backend::Bucket;
use crate::call::{Call, config};
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};

use super::object::refuse_public;

/// `GET ?acl` of a bucket.
pub async fn get_bucket(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::ReadAcp).await?;
    let stored = call.backend().config(&bucket, config::ACL).await?;
    let acl = Acl::decode(stored.as_deref(), &bucket.owner);
    Ok(response::xml(acl::to_xml(call.backend(), &acl, &bucket.owner).await?))
}

/// `PUT ?acl` of a bucket.
pub async fn put_bucket(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::WriteAcp).await?;
    let asked = asked(call, &bucket, &bucket.owner).await?;
    let encoded = asked.encode(&bucket.owner);
    if call.enforced(&bucket).await? {
        return Err(Code::AccessControlListNotSupported.into());
    }
    super::config::set(call, &bucket, config::ACL, encoded).await?;
    Ok(response::ok())
}

/// `GET ?acl` of an object.
pub async fn get_object(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket().await?;
    let version = call.version(&bucket, call.key(), call.version_id()?, false).await?;
    call.may_object(&bucket, &version, call.act(Permission::ReadAcp)).await?;
    let (owner, stored) = match call.enforced(&bucket).await? {
        true => (bucket.owner.clone(), None),
        false => (attrs::owner(&version.attrs, &bucket.owner), version.attrs.get(attrs::ACL)),
    };
    let acl = Acl::decode(stored.map(Vec::as_slice), &owner);
    Ok(response::xml(acl::to_xml(call.backend(), &acl, &owner).await?))
}

/// `PUT ?acl` of an object.
pub async fn put_object(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket().await?;
    let version = call.version(&bucket, call.key(), call.version_id()?, false).await?;
    call.may_object(&bucket, &version, call.act(Permission::WriteAcp)).await?;
    let owner = attrs::owner(&version.attrs, &bucket.owner);
    let encoded = asked(call, &bucket, &owner).await?.encode(&owner);
    if call.enforced(&bucket).await? {
        return Err(Code::AccessControlListNotSupported.into());
    }
    let set = vec![(attrs::ACL.to_owned(), encoded)];
    let command = Command::SetAttrs {
        key: call.key().to_owned(),
        version: Some(version.id),
        set,
        condition: Condition::default(),
    };
    call.backend().commit(&bucket, command).await?;
    Ok(response::ok())
}

/// The ACL that the request's headers or its document ask for.
async fn asked(call: &mut Call, bucket: &Bucket, owner: &UserId) -> Result<Acl> {
    let root = call.xml_or_nothing().await?;
    let canned = call.header("x-amz-acl");
    let headers = acl::of_headers(call.backend(), &call.headers, canned, owner, &bucket.owner).await?;
    let acl = match (headers, root) {
        (Some(_), Some(_)) => {
            return Err(Error::new(Code::UnexpectedContent, "This request does not support content"));
        }
        (Some(acl), None) => acl,
        (None, Some(root)) => acl::of_xml(call.backend(), &root, owner).await?,
        (None, None) => {
            return Err(Error::new(
                Code::MissingSecurityHeader,
                "Your request was missing a required header: x-amz-acl",
            ));
        }
    };
    refuse_public(call, bucket, &acl).await?;
    Ok(acl)
}
