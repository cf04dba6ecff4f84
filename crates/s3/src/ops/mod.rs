//! What each operation does. [`run`] is the one place that knows them all.

pub mod acl;
pub mod attributes;
pub mod bucket;
pub mod complete;
pub mod config;
pub mod copy;
pub mod cors;
pub mod delete;
pub mod list;
pub mod lock;
pub mod multipart;
pub mod object;
pub mod parts;
pub mod post;
pub mod tagging;
pub mod unset;
pub mod versions;

use crate::call::Call;
use crate::error::{Code, Result};
use crate::response::Response;
use crate::router::Operation as O;

/// Runs the operation that the call asks for.
pub async fn run(call: &mut Call) -> Result<Response> {
    match call.operation {
        O::ListBuckets => bucket::list(call).await,
        O::CreateBucket => bucket::create(call).await,
        O::HeadBucket => bucket::head(call).await,
        O::DeleteBucket => bucket::delete(call).await,
        O::GetBucketLocation => bucket::location(call).await,

        O::GetObject | O::HeadObject => object::get(call).await,
        O::PutObject => object::put(call).await,
        O::CopyObject => copy::object(call).await,
        O::DeleteObject => delete::one(call).await,
        O::DeleteObjects => delete::many(call).await,
        O::GetObjectAttributes => attributes::get(call).await,
        O::PostObject => post::object(call).await,

        O::ListObjects => list::v1(call).await,
        O::ListObjectsV2 => list::v2(call).await,
        O::ListObjectVersions => versions::list(call).await,

        O::CreateMultipartUpload => multipart::create(call).await,
        O::UploadPart => multipart::part(call).await,
        O::UploadPartCopy => copy::part(call).await,
        O::CompleteMultipartUpload => complete::complete(call).await,
        O::AbortMultipartUpload => multipart::abort(call).await,
        O::ListMultipartUploads => parts::uploads(call).await,
        O::ListParts => parts::list(call).await,

        O::GetBucketAcl => acl::get_bucket(call).await,
        O::PutBucketAcl => acl::put_bucket(call).await,
        O::GetObjectAcl => acl::get_object(call).await,
        O::PutObjectAcl => acl::put_object(call).await,

        O::GetObjectTagging => tagging::get_object(call).await,
        O::PutObjectTagging => tagging::put_object(call).await,
        O::DeleteObjectTagging => tagging::delete_object(call).await,
        O::GetBucketTagging => tagging::get_bucket(call).await,
        O::PutBucketTagging => tagging::put_bucket(call).await,
        O::DeleteBucketTagging => tagging::delete_bucket(call).await,

        O::GetObjectLockConfiguration => lock::get_rule(call).await,
        O::PutObjectLockConfiguration => lock::put_rule(call).await,
        O::GetObjectRetention => lock::get_retention(call).await,
        O::PutObjectRetention => lock::put_retention(call).await,
        O::GetObjectLegalHold => lock::get_hold(call).await,
        O::PutObjectLegalHold => lock::put_hold(call).await,

        O::GetBucketVersioning => config::get_versioning(call).await,
        O::PutBucketVersioning => config::put_versioning(call).await,
        O::GetBucketOwnershipControls => config::get_ownership(call).await,
        O::PutBucketOwnershipControls => config::put_ownership(call).await,
        O::DeleteBucketOwnershipControls => config::delete_ownership(call).await,
        O::GetPublicAccessBlock => config::get_public_access(call).await,
        O::PutPublicAccessBlock => config::put_public_access(call).await,
        O::DeletePublicAccessBlock => config::delete_public_access(call).await,
        O::GetBucketPolicy => config::get_policy(call).await,
        O::PutBucketPolicy => config::put_policy(call).await,
        O::DeleteBucketPolicy => config::delete_policy(call).await,
        O::GetBucketPolicyStatus => config::policy_status(call).await,

        O::GetBucketEncryption => config::get_encryption(call).await,
        O::PutBucketEncryption => config::put_encryption(call).await,
        O::DeleteBucketEncryption => config::delete_encryption(call).await,

        O::GetBucketCors => cors::get(call).await,
        O::PutBucketCors => cors::put(call).await,
        O::DeleteBucketCors => cors::delete(call).await,
        O::Preflight => cors::preflight(call).await,

        O::Unknown => Err(Code::MethodNotAllowed.into()),
        _ => unset::answer(call).await,
    }
}
