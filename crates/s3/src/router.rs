//! From method, level and sub-resource to an operation: one table, first match wins.

use hyper::Method;

use crate::target::Target;

/// Which part of the name space a request speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `/`.
    Service,
    /// `/bucket`.
    Bucket,
    /// `/bucket/key`.
    Object,
}

/// Makes [`Operation`] and the table.
macro_rules! routes {
    ($($operation:ident $method:ident $level:ident $selector:literal;)*) => {
        /// What S3 can be asked, by Amazon's names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Operation { $($operation,)* Preflight, Unknown }

        impl Operation {
            /// Every operation, in the order of its number.
            pub const ALL: &'static [Operation] =
                &[$(Operation::$operation,)* Operation::Preflight, Operation::Unknown];

            /// What policies call it, unless [`crate::bucket_policy::action`] knows better.
            pub(crate) fn action(self) -> &'static str {
                match self {
                    $(Operation::$operation => concat!("s3:", stringify!($operation)),)*
                    Operation::Preflight | Operation::Unknown => "s3:Unknown",
                }
            }

            /// Amazon's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Operation::$operation => stringify!($operation),)*
                    Operation::Preflight => "Preflight",
                    Operation::Unknown => "Unknown",
                }
            }
        }

        /// The table: a selector is a query parameter that must be there, `@copy` the header
        /// `x-amz-copy-source`, and nothing matches always.
        pub const ROUTES: &[(Operation, Method, Level, &str)] =
            &[$((Operation::$operation, Method::$method, Level::$level, $selector),)*];
    };
}

routes! {
    ListBuckets GET Service "";

    GetObjectAcl GET Object "acl";
    GetObjectAttributes GET Object "attributes";
    GetObjectLegalHold GET Object "legal-hold";
    GetObjectRetention GET Object "retention";
    GetObjectTagging GET Object "tagging";
    GetObjectTorrent GET Object "torrent";
    ListParts GET Object "uploadId";
    GetObject GET Object "";
    HeadObject HEAD Object "";
    PutObjectAcl PUT Object "acl";
    PutObjectLegalHold PUT Object "legal-hold";
    PutObjectRetention PUT Object "retention";
    PutObjectTagging PUT Object "tagging";
    UploadPartCopy PUT Object "uploadId@copy";
    UploadPart PUT Object "uploadId";
    CopyObject PUT Object "@copy";
    PutObject PUT Object "";
    CreateMultipartUpload POST Object "uploads";
    CompleteMultipartUpload POST Object "uploadId";
    RestoreObject POST Object "restore";
    SelectObjectContent POST Object "select";
    AbortMultipartUpload DELETE Object "uploadId";
    DeleteObjectTagging DELETE Object "tagging";
    DeleteObject DELETE Object "";

    GetBucketAccelerateConfiguration GET Bucket "accelerate";
    GetBucketAcl GET Bucket "acl";
    GetBucketAnalyticsConfiguration GET Bucket "analytics";
    GetBucketCors GET Bucket "cors";
    GetBucketEncryption GET Bucket "encryption";
    GetBucketIntelligentTieringConfiguration GET Bucket "intelligent-tiering";
    GetBucketInventoryConfiguration GET Bucket "inventory";
    GetBucketLifecycleConfiguration GET Bucket "lifecycle";
    GetBucketLocation GET Bucket "location";
    GetBucketLogging GET Bucket "logging";
    GetBucketMetricsConfiguration GET Bucket "metrics";
    GetBucketNotificationConfiguration GET Bucket "notification";
    GetObjectLockConfiguration GET Bucket "object-lock";
    GetBucketOwnershipControls GET Bucket "ownershipControls";
    GetBucketPolicy GET Bucket "policy";
    GetBucketPolicyStatus GET Bucket "policyStatus";
    GetPublicAccessBlock GET Bucket "publicAccessBlock";
    GetBucketReplication GET Bucket "replication";
    GetBucketRequestPayment GET Bucket "requestPayment";
    GetBucketTagging GET Bucket "tagging";
    GetBucketVersioning GET Bucket "versioning";
    GetBucketWebsite GET Bucket "website";
    ListMultipartUploads GET Bucket "uploads";
    ListObjectVersions GET Bucket "versions";
    ListObjectsV2 GET Bucket "list-type";
    ListObjects GET Bucket "";
    HeadBucket HEAD Bucket "";

    PutBucketAccelerateConfiguration PUT Bucket "accelerate";
    PutBucketAcl PUT Bucket "acl";
    PutBucketAnalyticsConfiguration PUT Bucket "analytics";
    PutBucketCors PUT Bucket "cors";
    PutBucketEncryption PUT Bucket "encryption";
    PutBucketIntelligentTieringConfiguration PUT Bucket "intelligent-tiering";
    PutBucketInventoryConfiguration PUT Bucket "inventory";
    PutBucketLifecycleConfiguration PUT Bucket "lifecycle";
    PutBucketLogging PUT Bucket "logging";
    PutBucketMetricsConfiguration PUT Bucket "metrics";
    PutBucketNotificationConfiguration PUT Bucket "notification";
    PutObjectLockConfiguration PUT Bucket "object-lock";
    PutBucketOwnershipControls PUT Bucket "ownershipControls";
    PutBucketPolicy PUT Bucket "policy";
    PutPublicAccessBlock PUT Bucket "publicAccessBlock";
    PutBucketReplication PUT Bucket "replication";
    PutBucketRequestPayment PUT Bucket "requestPayment";
    PutBucketTagging PUT Bucket "tagging";
    PutBucketVersioning PUT Bucket "versioning";
    PutBucketWebsite PUT Bucket "website";
    CreateBucket PUT Bucket "";

    DeleteObjects POST Bucket "delete";
    PostObject POST Bucket "";

    DeleteBucketAnalyticsConfiguration DELETE Bucket "analytics";
    DeleteBucketCors DELETE Bucket "cors";
    DeleteBucketEncryption DELETE Bucket "encryption";
    DeleteBucketIntelligentTieringConfiguration DELETE Bucket "intelligent-tiering";
    DeleteBucketInventoryConfiguration DELETE Bucket "inventory";
    DeleteBucketLifecycle DELETE Bucket "lifecycle";
    DeleteBucketMetricsConfiguration DELETE Bucket "metrics";
    DeleteBucketOwnershipControls DELETE Bucket "ownershipControls";
    DeleteBucketPolicy DELETE Bucket "policy";
    DeletePublicAccessBlock DELETE Bucket "publicAccessBlock";
    DeleteBucketReplication DELETE Bucket "replication";
    DeleteBucketTagging DELETE Bucket "tagging";
    DeleteBucketWebsite DELETE Bucket "website";
    DeleteBucket DELETE Bucket "";
}

/// The operation that a request asks for. `copy` says whether it names a copy source.
pub fn route(method: &Method, target: &Target, copy: bool) -> Operation {
    if *method == Method::OPTIONS {
        return Operation::Preflight;
    }
    let level = target.level();
    ROUTES
        .iter()
        .find(|(_, wanted, at, selector)| *at == level && wanted == method && matches(selector, target, copy))
        .map_or(Operation::Unknown, |(operation, ..)| *operation)
}

fn matches(selector: &str, target: &Target, copy: bool) -> bool {
    match selector.split_once('@') {
        None if selector.is_empty() => true,
        None => target.has(selector),
        Some((query, _)) => copy && (query.is_empty() || target.has(query)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, uri: &str, copy: bool) -> &'static str {
        let target = Target::parse(&uri.parse().unwrap(), None, &[]).unwrap();
        route(&method.parse().unwrap(), &target, copy).name()
    }

    #[test]
    fn requests_find_their_operation() {
        for (method, uri, copy, name) in [
            ("GET", "/", false, "ListBuckets"),
            ("GET", "/b", false, "ListObjects"),
            ("GET", "/b/", false, "ListObjects"),
            ("GET", "/b?list-type=2&prefix=x", false, "ListObjectsV2"),
            ("GET", "/b?versions", false, "ListObjectVersions"),
            ("GET", "/b?policy", false, "GetBucketPolicy"),
            ("PUT", "/b", false, "CreateBucket"),
            ("PUT", "/b?acl", false, "PutBucketAcl"),
            ("POST", "/b?delete", false, "DeleteObjects"),
            ("POST", "/b", false, "PostObject"),
            ("PUT", "/b/k", false, "PutObject"),
            ("PUT", "/b/k", true, "CopyObject"),
            ("PUT", "/b/k?partNumber=1&uploadId=x", false, "UploadPart"),
            ("PUT", "/b/k?partNumber=1&uploadId=x", true, "UploadPartCopy"),
            ("GET", "/b/k?uploadId=x", false, "ListParts"),
            ("POST", "/b/k?uploads", false, "CreateMultipartUpload"),
            ("DELETE", "/b/k?uploadId=x", false, "AbortMultipartUpload"),
            ("HEAD", "/b/k?versionId=x", false, "HeadObject"),
            ("OPTIONS", "/b/k", false, "Preflight"),
            ("PATCH", "/b/k", false, "Unknown"),
            ("POST", "/", false, "Unknown"),
        ] {
            assert_eq!(asked(method, uri, copy), name, "{method} {uri}");
        }
    }

    #[test]
    fn every_operation_can_be_reached_and_none_twice() {
        let mut seen = std::collections::HashSet::new();
        for (operation, method, level, selector) in ROUTES {
            let query = selector.split('@').next().unwrap();
            let path = match level {
                Level::Service => "/",
                Level::Bucket => "/b",
                Level::Object => "/b/k",
            };
            let name = asked(method.as_str(), &format!("{path}?{query}"), selector.contains('@'));
            assert_eq!(name, operation.name());
            assert!(seen.insert(name));
        }
        assert_eq!(seen.len() + 2, Operation::ALL.len());
    }
}
