//! Whether a call may: bucket policy first, then ownership and ACLs.

use base::UserId;
use namespace::{Attrs, Version};

use crate::acl::{Acl, Permission};
use crate::attrs;
use crate::backend::Bucket;
use crate::bucket_policy::{self, Policy, Request, Verdict, action};
use crate::call::{Call, PublicAccess, config};
use crate::error::{Code, Result};
use crate::router::Operation;

/// The owner of what was written without a signature.
pub const ANONYMOUS: &str = "anonymous";

/// What is to be done, to what.
#[derive(Clone, Copy)]
pub struct Act<'a> {
    /// Such as `s3:GetObject`.
    pub action: &'a str,
    /// The key; empty for the bucket itself.
    pub key: &'a str,
    /// The permission that an ACL must grant.
    pub wanted: Permission,
}

fn denied<T>() -> Result<T> {
    Err(Code::AccessDenied.into())
}

impl Call {
    /// The policy's name for what is asked.
    pub fn action(&self) -> &'static str {
        action::of(self.operation, self.target.has("versionId"))
    }

    /// What is asked, if an ACL would have to grant `wanted`.
    pub fn act(&self, wanted: Permission) -> Act<'_> {
        Act { action: self.action(), key: self.key(), wanted }
    }

    fn is_owner(&self, bucket: &Bucket) -> bool {
        self.who.as_ref() == Some(&bucket.owner)
    }

    /// The bucket named in the request, if the signer owns it or its policy lets them: what
    /// settings demand.
    pub async fn own_bucket(&self) -> Result<Bucket> {
        let bucket = self.bucket().await?;
        match self.judge(&bucket, self.action(), "", None).await? {
            Verdict::Allow => Ok(bucket),
            Verdict::Silent if self.is_owner(&bucket) => Ok(bucket),
            _ => denied(),
        }
    }

    /// The bucket named in the request, if the signer owns it, whatever its policy says: an owner
    /// can't lock himself out of the policy.
    pub async fn owners_bucket(&self) -> Result<Bucket> {
        let bucket = self.bucket().await?;
        if self.is_owner(&bucket) { Ok(bucket) } else { denied() }
    }

    /// The bucket named in the request, if the signer may do to it or to the key what is asked.
    pub async fn bucket_for(&self, wanted: Permission) -> Result<Bucket> {
        let bucket = self.bucket().await?;
        if self.may(&bucket, self.act(wanted)).await? { Ok(bucket) } else { denied() }
    }

    /// Whether the signer may do this.
    pub async fn may(&self, bucket: &Bucket, act: Act<'_>) -> Result<bool> {
        match self.judge(bucket, act.action, act.key, None).await? {
            Verdict::Deny => Ok(false),
            Verdict::Allow => Ok(true),
            Verdict::Silent => self.granted(bucket, act.wanted).await,
        }
    }

    /// Whether owning the bucket or its ACL allows it.
    pub async fn granted(&self, bucket: &Bucket, wanted: Permission) -> Result<bool> {
        if self.is_owner(bucket) {
            return Ok(true);
        }
        if self.enforced(bucket).await? {
            return Ok(false);
        }
        let stored = self.backend().config(bucket, config::ACL).await?;
        let acl = Acl::decode(stored.as_deref(), &bucket.owner);
        let public = !self.public_access(bucket).await?.ignore_acls;
        Ok(acl.allows(self.who.as_ref(), wanted, public))
    }

    /// `AccessDenied` unless the signer may do this to the object's version.
    pub async fn may_object(&self, bucket: &Bucket, version: &Version, act: Act<'_>) -> Result<()> {
        let verdict = self.judge(bucket, act.action, act.key, Some(&version.attrs)).await?;
        if verdict == Verdict::Deny {
            return denied();
        }
        // What nobody signed is the bucket's owner's, too.
        let foreign = attrs::text(&version.attrs, attrs::OWNER).is_some_and(|owner| owner != ANONYMOUS);
        if self.is_owner(bucket) && !foreign {
            return Ok(());
        }
        let enforced = self.enforced(bucket).await?;
        // A bucket's policy can't open what belongs to somebody else.
        if verdict == Verdict::Allow && (!foreign || enforced) {
            return Ok(());
        }
        if enforced {
            return if self.is_owner(bucket) { Ok(()) } else { denied() };
        }
        let owner = attrs::owner(&version.attrs, &bucket.owner);
        if self.who.as_ref() == Some(&owner) {
            return Ok(());
        }
        let acl = Acl::decode(version.attrs.get(attrs::ACL).map(Vec::as_slice), &owner);
        let public = !self.public_access(bucket).await?.ignore_acls;
        if acl.allows(self.who.as_ref(), act.wanted, public) { Ok(()) } else { denied() }
    }

    /// Whether ACLs are off: object ownership is "bucket owner enforced".
    pub async fn enforced(&self, bucket: &Bucket) -> Result<bool> {
        let ownership = self.backend().config(bucket, config::OWNERSHIP).await?;
        Ok(ownership.as_deref() == Some(b"BucketOwnerEnforced"))
    }

    /// The bucket's public access block.
    pub async fn public_access(&self, bucket: &Bucket) -> Result<PublicAccess> {
        let stored = self.backend().config(bucket, config::PUBLIC_ACCESS).await?;
        Ok(stored.map_or_else(PublicAccess::default, |stored| PublicAccess::decode(&stored)))
    }

    /// The bucket's policy. One that can't be read any more closes the bucket: its denials count.
    pub async fn policy(&self, bucket: &Bucket) -> Result<Option<Policy>> {
        match self.backend().config(bucket, config::POLICY).await? {
            None => Ok(None),
            Some(text) => match bucket_policy::parse(&text, &bucket.name) {
                Ok(policy) => Ok(Some(policy)),
                Err(error) => {
                    tracing::error!(%error, bucket = bucket.name, "a stored bucket policy can't be read");
                    denied()
                }
            },
        }
    }

    /// What the bucket's policy says of an action on a key, of an object that has these attributes.
    pub async fn judge(&self, bucket: &Bucket, action: &str, key: &str, existing: Option<&Attrs>) -> Result<Verdict> {
        match self.policy(bucket).await? {
            None => Ok(Verdict::Silent),
            Some(policy) => self.judge_by(&policy, bucket, action, key, existing).await,
        }
    }

    /// As [`Call::judge`], by a policy that was read before.
    pub async fn judge_by(
        &self,
        policy: &Policy,
        bucket: &Bucket,
        action: &str,
        key: &str,
        existing: Option<&Attrs>,
    ) -> Result<Verdict> {
        // A part is written as its upload was begun: with that one's encryption and class.
        let begun = match self.operation {
            Operation::UploadPart | Operation::UploadPartCopy | Operation::CompleteMultipartUpload => {
                let upload = super::ops::multipart::upload_id(self)?;
                self.backend().upload(bucket, self.key(), upload).await.ok().map(|upload| upload.attrs)
            }
            _ => None,
        };
        // Whether a key is missing is a matter of listing the bucket.
        let whole = key.is_empty() || action == "s3:ListBucket";
        let resource = if whole { bucket.name.clone() } else { format!("{}/{key}", bucket.name) };
        let values = |name: &str| self.condition(name, key, action, existing, begun.as_ref());
        let ask =
            |action| policy.judge(&Request { who: self.who.as_ref(), action, resource: &resource, values: &values });
        let mut verdict = ask(action);
        // Tags and grants that come along with a write may be forbidden by their own names.
        if action == "s3:PutObject" {
            let grants = |name: &str| name == "x-amz-acl" || name.starts_with("x-amz-grant-");
            let tagged = self.headers.contains_key("x-amz-tagging") && ask("s3:PutObjectTagging") == Verdict::Deny;
            let retained =
                self.headers.contains_key("x-amz-object-lock-mode") && ask("s3:PutObjectRetention") == Verdict::Deny;
            let held = self.headers.contains_key("x-amz-object-lock-legal-hold")
                && ask("s3:PutObjectLegalHold") == Verdict::Deny;
            let opened =
                self.headers.keys().any(|name| grants(name.as_str())) && ask("s3:PutObjectAcl") == Verdict::Deny;
            if tagged || opened || retained || held {
                verdict = Verdict::Deny;
            }
        }
        let closed = verdict == Verdict::Allow
            && !self.is_owner(bucket)
            && policy.is_public()
            && self.public_access(bucket).await?.restrict;
        Ok(if closed { Verdict::Silent } else { verdict })
    }

    /// The values of a condition key.
    fn condition(
        &self,
        name: &str,
        key: &str,
        action: &str,
        existing: Option<&Attrs>,
        begun: Option<&Attrs>,
    ) -> Vec<String> {
        let owned = |text: Option<&str>| text.map(str::to_owned).into_iter().collect::<Vec<_>>();
        let header = |name: &str| owned(self.header(name));
        if let Some(tag) = name.strip_prefix("s3:existingobjecttag/") {
            return tags(existing.and_then(|attrs| attrs::text(attrs, attrs::TAGS)), Some(tag));
        }
        if let Some(tag) = name.strip_prefix("s3:requestobjecttag/") {
            return tags(self.header("x-amz-tagging"), Some(tag));
        }
        if let Some(tag) = name.strip_prefix("s3:x-amz-") {
            let name = format!("x-amz-{tag}");
            return match self.header(&name) {
                // Named with and without a leading slash; policies name it without.
                Some(source) if tag == "copy-source" => vec![source.trim_start_matches('/').to_owned()],
                Some(value) => vec![value.to_owned()],
                None => owned(begun.and_then(|attrs| attrs::text(attrs, &name))),
            };
        }
        let query = |name: &str| owned(self.target.get(name));
        match name {
            "s3:requestobjecttagkeys" => tags(self.header("x-amz-tagging"), None),
            // Asking for a missing key is asking for a list of that key.
            "s3:prefix" if action == "s3:ListBucket" && !key.is_empty() => vec![key.to_owned()],
            "s3:prefix" | "s3:delimiter" | "s3:max-keys" => query(&name[3..]),
            "s3:versionid" => query("versionId"),
            "s3:if-match" | "s3:if-none-match" => header(&name[3..]),
            "s3:signatureversion" => owned(self.who.is_some().then_some("AWS4-HMAC-SHA256")),
            "s3:authtype" => owned(match (&self.who, self.target.has("X-Amz-Signature")) {
                (None, _) => None,
                (Some(_), true) => Some("REST-QUERY-STRING"),
                (Some(_), false) if self.operation == Operation::PostObject => Some("POST"),
                (Some(_), false) => Some("REST-HEADER"),
            }),
            "aws:sourceip" => vec![self.peer.to_canonical().to_string()],
            "aws:securetransport" => vec![self.face.settings.secure.to_string()],
            "aws:referer" => header("referer"),
            "aws:useragent" => header("user-agent"),
            "aws:currenttime" => vec![self.now.rfc3339()],
            "aws:epochtime" => vec![self.now.secs().to_string()],
            "aws:userid" | "aws:username" | "aws:principalaccount" => {
                self.who.iter().map(|UserId(who)| who.clone()).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Values of one tag, or all tags' names, in tags written as a query.
fn tags(query: Option<&str>, named: Option<&str>) -> Vec<String> {
    let tags = query.and_then(|query| attrs::decode_tags(query).ok()).unwrap_or_default();
    match named {
        Some(named) => tags.into_iter().filter(|(name, _)| name == named).map(|(_, value)| value).collect(),
        None => tags.into_iter().map(|(name, _)| name).collect(),
    }
}
