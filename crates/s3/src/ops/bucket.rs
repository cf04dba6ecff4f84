//! Buckets: listing, making, heading, removing.

use hyper::header::HeaderValue;
use namespace::{Command, Versioning};

use crate::acl::{self, Permission, write_owner};
use crate::backend::Bucket;
use crate::call::{Call, config};
use crate::error::{Code, Error, Result};
use crate::lock::Rule;
use crate::response::{self, Response, set};
use crate::xml::Xml;

use super::list::read_token;

/// Buckets of one page: S3's limit.
const BUCKETS_MAX: usize = 10_000;

/// `GET /`.
pub async fn list(call: &mut Call) -> Result<Response> {
    let who = call.signer()?.clone();
    let max = match call.target.get("max-buckets") {
        None => BUCKETS_MAX,
        Some(text) => match text.parse::<usize>() {
            Ok(max @ 1..=BUCKETS_MAX) => max,
            _ => {
                return Err(Error::new(
                    Code::InvalidArgument,
                    "Argument max-buckets must be an integer between 1 and 10000.",
                ));
            }
        },
    };
    let prefix = call.target.get("prefix").unwrap_or("");
    let after = match call.target.get("continuation-token") {
        None | Some("") => String::new(),
        Some(token) => read_token(token)?,
    };
    // One more than asked for tells whether there is more.
    let mut buckets = call.backend().buckets(&who, prefix, &after, max + 1).await?;
    let more = buckets.len() > max;
    buckets.truncate(max);

    let mut xml = Xml::with_capacity("ListAllMyBucketsResult", 512 + buckets.len() * 150);
    write_owner(&mut xml, "Owner", &who, call.backend().user(&who).await?.as_ref());
    xml.open("Buckets");
    for bucket in &buckets {
        xml.open("Bucket").text("Name", &bucket.name).text("CreationDate", &bucket.created.rfc3339());
        xml.text("BucketRegion", &call.face.settings.region).close("Bucket");
    }
    xml.close("Buckets");
    if let Some(last) = buckets.last().filter(|_| more) {
        xml.text("ContinuationToken", &base::ids::hex(last.name.as_bytes()));
    }
    if !prefix.is_empty() {
        xml.text("Prefix", prefix);
    }
    Ok(response::xml(xml.finish("ListAllMyBucketsResult")))
}

/// `PUT /bucket`.
pub async fn create(call: &mut Call) -> Result<Response> {
    let who = call.signer()?.clone();
    let name = call.target.bucket.clone();
    check_name(&name)?;
    let locks = call.header("x-amz-bucket-object-lock-enabled").is_some_and(|on| on.eq_ignore_ascii_case("true"));
    let ownership = call.header("x-amz-object-ownership").map(super::config::parse_ownership).transpose()?;
    let canned = call.header("x-amz-acl");
    let acl = acl::of_headers(call.backend(), &call.headers, canned, &who, &who).await?;
    if ownership == Some("BucketOwnerEnforced") && acl.as_ref().is_some_and(|acl| acl.encode(&who).is_some()) {
        return Err(Code::InvalidBucketAclWithObjectOwnership.into());
    }
    let root = call.xml_or_nothing().await?;
    let region = root.as_ref().and_then(|root| root.get("LocationConstraint")).unwrap_or("");
    if !region.is_empty() && region != call.face.settings.region {
        return Err(Code::InvalidLocationConstraint.into());
    }
    let bucket = match call.backend().create_bucket(&name, &who, region).await {
        Ok(bucket) => bucket,
        Err(crate::backend::Error::Namespace(namespace::Error::BucketExists { yours: true })) => {
            return again(call, &name, acl.and_then(|acl| acl.encode(&who))).await;
        }
        Err(error) => return Err(error.into()),
    };
    if locks {
        call.backend().commit(&bucket, Command::SetVersioning(Versioning::Enabled)).await?;
        set_config(call, &bucket, config::OBJECT_LOCK, Some(Rule::default().encode())).await?;
    }
    set_config(call, &bucket, config::ACL, acl.and_then(|acl| acl.encode(&who))).await?;
    set_config(call, &bucket, config::OWNERSHIP, ownership.map(|word| word.as_bytes().to_vec())).await?;
    Ok(located(&name))
}

/// In us-east-1 S3 answers `200 OK` to an owner who makes a bucket again; asking for other grants
/// than it has must not pass silently.
async fn again(call: &Call, name: &str, acl: Option<Vec<u8>>) -> Result<Response> {
    let bucket = call.backend().bucket(name).await?.ok_or(Code::OperationAborted)?;
    if call.backend().config(&bucket, config::ACL).await? != acl {
        return Err(Code::BucketAlreadyExists.into());
    }
    match call.face.settings.region.as_str() {
        "us-east-1" => Ok(located(name)),
        _ => Err(Code::BucketAlreadyOwnedByYou.into()),
    }
}

fn located(name: &str) -> Response {
    let mut response = response::ok();
    set(response.headers_mut(), "location", format!("/{name}").as_bytes());
    response
}

/// Sets a setting that a new bucket doesn't have yet; nothing to do for `None`.
async fn set_config(call: &Call, bucket: &Bucket, name: &str, value: Option<Vec<u8>>) -> Result<()> {
    if value.is_some() {
        let command = Command::SetConfig { name: name.to_owned(), value };
        call.backend().commit(bucket, command).await?;
    }
    Ok(())
}

/// Amazon's rules for bucket names.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let sane = (3..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && !name.contains("..")
        && !name.contains(".-")
        && !name.contains("-.")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !name.starts_with("xn--")
        && !name.ends_with("-s3alias");
    if sane { Ok(()) } else { Err(Code::InvalidBucketName.into()) }
}

/// `HEAD /bucket`.
pub async fn head(call: &mut Call) -> Result<Response> {
    call.bucket_for(Permission::Read).await?;
    let mut response = response::ok();
    set(response.headers_mut(), "x-amz-bucket-region", call.face.settings.region.as_bytes());
    response.headers_mut().insert("x-amz-access-point-alias", HeaderValue::from_static("false"));
    Ok(response)
}

/// `DELETE /bucket`.
pub async fn delete(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    call.backend().delete_bucket(&bucket).await?;
    Ok(response::no_content())
}

/// `GET ?location`: always by name; clients take the name and S3's empty answer alike.
pub async fn location(call: &mut Call) -> Result<Response> {
    call.own_bucket().await?;
    let mut xml = Xml::new("LocationConstraint");
    let mut region = String::new();
    crate::xml::write::escape(&mut region, &call.face.settings.region);
    xml.raw(&region);
    Ok(response::xml(xml.finish("LocationConstraint")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_amazons_rules() {
        let long = "a".repeat(63);
        for good in ["abc", "a.b-c", "1ab", "a1b2.c3", "foo.bar", long.as_str()] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "a",
            "ab",
            "Abc",
            "a_b",
            "-ab",
            "ab-",
            ".ab",
            "a..b",
            "a.-b",
            "a-.b",
            "192.168.0.1",
            "xn--abc",
            "a b",
            "aé-",
            "abc-s3alias",
            too_long.as_str(),
        ] {
            assert_eq!(check_name(bad).unwrap_err().code, Code::InvalidBucketName, "{bad}");
        }
    }
}
