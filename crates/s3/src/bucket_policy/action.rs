//! What policies call the operations.

use crate::router::Operation as O;

/// The action that a policy must allow for an operation; `versioned` if the request names a version.
pub fn of(operation: O, versioned: bool) -> &'static str {
    if versioned && let Some(action) = of_version(operation) {
        return action;
    }
    match operation {
        O::ListObjects | O::ListObjectsV2 | O::HeadBucket => "s3:ListBucket",
        O::ListObjectVersions => "s3:ListBucketVersions",
        O::ListMultipartUploads => "s3:ListBucketMultipartUploads",
        O::ListParts => "s3:ListMultipartUploadParts",
        O::HeadObject => "s3:GetObject",
        O::CopyObject
        | O::PostObject
        | O::CreateMultipartUpload
        | O::UploadPart
        | O::UploadPartCopy
        | O::CompleteMultipartUpload => "s3:PutObject",
        O::DeleteObjects => "s3:DeleteObject",
        O::GetBucketEncryption => "s3:GetEncryptionConfiguration",
        O::PutBucketEncryption | O::DeleteBucketEncryption => "s3:PutEncryptionConfiguration",
        O::GetBucketLifecycleConfiguration => "s3:GetLifecycleConfiguration",
        O::PutBucketLifecycleConfiguration | O::DeleteBucketLifecycle => "s3:PutLifecycleConfiguration",
        O::GetBucketCors => "s3:GetBucketCORS",
        O::PutBucketCors | O::DeleteBucketCors => "s3:PutBucketCORS",
        O::DeleteBucketTagging => "s3:PutBucketTagging",
        O::GetPublicAccessBlock => "s3:GetBucketPublicAccessBlock",
        O::PutPublicAccessBlock | O::DeletePublicAccessBlock => "s3:PutBucketPublicAccessBlock",
        O::DeleteBucketOwnershipControls => "s3:PutBucketOwnershipControls",
        O::GetBucketReplication => "s3:GetReplicationConfiguration",
        O::PutBucketReplication | O::DeleteBucketReplication => "s3:PutReplicationConfiguration",
        O::GetBucketNotificationConfiguration => "s3:GetBucketNotification",
        O::PutBucketNotificationConfiguration => "s3:PutBucketNotification",
        O::GetBucketAccelerateConfiguration => "s3:GetAccelerateConfiguration",
        O::PutBucketAccelerateConfiguration => "s3:PutAccelerateConfiguration",
        O::GetBucketInventoryConfiguration => "s3:GetInventoryConfiguration",
        O::PutBucketInventoryConfiguration | O::DeleteBucketInventoryConfiguration => "s3:PutInventoryConfiguration",
        O::GetBucketMetricsConfiguration => "s3:GetMetricsConfiguration",
        O::PutBucketMetricsConfiguration | O::DeleteBucketMetricsConfiguration => "s3:PutMetricsConfiguration",
        O::GetBucketAnalyticsConfiguration => "s3:GetAnalyticsConfiguration",
        O::PutBucketAnalyticsConfiguration | O::DeleteBucketAnalyticsConfiguration => "s3:PutAnalyticsConfiguration",
        O::GetBucketIntelligentTieringConfiguration => "s3:GetIntelligentTieringConfiguration",
        O::PutBucketIntelligentTieringConfiguration | O::DeleteBucketIntelligentTieringConfiguration => {
            "s3:PutIntelligentTieringConfiguration"
        }
        O::GetObjectLockConfiguration => "s3:GetBucketObjectLockConfiguration",
        O::PutObjectLockConfiguration => "s3:PutBucketObjectLockConfiguration",
        other => other.action(),
    }
}

fn of_version(operation: O) -> Option<&'static str> {
    Some(match operation {
        O::GetObject | O::HeadObject => "s3:GetObjectVersion",
        O::GetObjectAttributes => "s3:GetObjectVersionAttributes",
        O::GetObjectAcl => "s3:GetObjectVersionAcl",
        O::PutObjectAcl => "s3:PutObjectVersionAcl",
        O::GetObjectTagging => "s3:GetObjectVersionTagging",
        O::PutObjectTagging => "s3:PutObjectVersionTagging",
        O::DeleteObjectTagging => "s3:DeleteObjectVersionTagging",
        O::DeleteObject | O::DeleteObjects => "s3:DeleteObjectVersion",
        _ => return None,
    })
}

/// Actions of Amazon's that no operation here asks for, but policies name.
const MORE: &[&str] = &[
    "s3:BypassGovernanceRetention",
    "s3:DeleteBucketWebsite",
    "s3:GetObjectVersionForReplication",
    "s3:GetObjectVersionTorrent",
    "s3:InitiateReplication",
    "s3:ListAllMyBuckets",
    "s3:ListBucketVersions",
    "s3:ObjectOwnerOverrideToBucketOwner",
    "s3:PutBucketLogging",
    "s3:ReplicateDelete",
    "s3:ReplicateObject",
    "s3:ReplicateTags",
];

/// Whether a pattern means at least one action of S3's: a misspelt denial must not pass.
pub fn is_known(pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let means = |action: &str| super::like(&pattern, &action.to_ascii_lowercase());
    O::ALL.iter().any(|operation| means(of(*operation, false)) || of_version(*operation).is_some_and(means))
        || MORE.iter().any(|action| means(action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_go_by_amazons_names() {
        for (operation, versioned, action) in [
            (O::GetObject, false, "s3:GetObject"),
            (O::HeadObject, true, "s3:GetObjectVersion"),
            (O::PutObject, true, "s3:PutObject"),
            (O::ListObjectsV2, false, "s3:ListBucket"),
            (O::CompleteMultipartUpload, false, "s3:PutObject"),
            (O::DeleteBucketPolicy, false, "s3:DeleteBucketPolicy"),
            (O::AbortMultipartUpload, false, "s3:AbortMultipartUpload"),
        ] {
            assert_eq!(of(operation, versioned), action);
        }
        for known in ["*", "s3:*", "s3:Get*", "s3:getobjectVERSION", "s3:PutBucketLogging"] {
            assert!(is_known(known), "{known}");
        }
        for unknown in ["s3:", "s3:Fly", "iam:*", ""] {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}
