//! What is not implemented: reads answer as a bucket of Amazon's that was never configured (so
//! that tools which read everything, such as Terraform, work), removals succeed because nothing is
//! there, writes are refused by name.

use crate::call::Call;
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};
use crate::router::Operation as O;
use crate::xml::Xml;

/// The answer of a read of what was never configured: an error, or an empty document.
enum Unset {
    Error(Code),
    Empty(&'static str),
    Pair(&'static str, &'static str, &'static str),
}

fn unset(operation: O) -> Option<Unset> {
    use Unset::{Empty, Error as E, Pair};
    Some(match operation {
        O::GetBucketLifecycleConfiguration => E(Code::NoSuchLifecycleConfiguration),
        O::GetBucketReplication => E(Code::ReplicationConfigurationNotFoundError),
        O::GetBucketWebsite => E(Code::NoSuchWebsiteConfiguration),
        O::GetBucketLogging => Empty("BucketLoggingStatus"),
        O::GetBucketNotificationConfiguration => Empty("NotificationConfiguration"),
        O::GetBucketAccelerateConfiguration => Empty("AccelerateConfiguration"),
        O::GetBucketRequestPayment => Pair("RequestPaymentConfiguration", "Payer", "BucketOwner"),
        _ => return None,
    })
}

/// Configurations that a bucket has many of, by id: root of the list, and whether one was named.
fn listed(operation: O) -> Option<&'static str> {
    Some(match operation {
        O::GetBucketInventoryConfiguration => "ListInventoryConfigurationsResult",
        O::GetBucketMetricsConfiguration => "ListMetricsConfigurationsResult",
        O::GetBucketAnalyticsConfiguration => "ListBucketAnalyticsConfigurationsResult",
        O::GetBucketIntelligentTieringConfiguration => "ListBucketIntelligentTieringConfigurationsResult",
        _ => return None,
    })
}

/// Answers an operation that isn't implemented.
pub async fn answer(call: &mut Call) -> Result<Response> {
    let operation = call.operation;
    if operation == O::GetObjectTorrent {
        call.bucket_for(crate::acl::Permission::Read).await?;
        return Err(Error::new(Code::NoSuchKey, "There are no torrents here"));
    }
    let name = operation.name();
    if !call.target.key.is_empty() {
        return Err(not_implemented(name));
    }
    call.own_bucket().await?;
    if let Some(unset) = unset(operation) {
        return match unset {
            Unset::Error(code) => Err(code.into()),
            Unset::Empty(root) => Ok(response::xml(Xml::new(root).finish(root))),
            Unset::Pair(root, tag, value) => {
                let mut xml = Xml::new(root);
                xml.text(tag, value);
                Ok(response::xml(xml.finish(root)))
            }
        };
    }
    if let Some(root) = listed(operation) {
        if call.target.has("id") {
            return Err(Code::NoSuchConfiguration.into());
        }
        let mut xml = Xml::new(root);
        xml.flag("IsTruncated", false);
        return Ok(response::xml(xml.finish(root)));
    }
    match name.starts_with("Delete") {
        true => Ok(response::no_content()),
        false => Err(not_implemented(name)),
    }
}

fn not_implemented(name: &str) -> Error {
    Error::new(Code::NotImplemented, format!("{name} is not implemented; nothing was changed"))
}
