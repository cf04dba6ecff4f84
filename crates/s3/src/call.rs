//! One request on its way through an operation: what was asked, by whom, and what they may.

use std::net::IpAddr;
use std::sync::Arc;

use base::{UserId, Wall};
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Method, Uri};
use namespace::{Version, VersionId};

use crate::access::Act;
use crate::acl::Permission;
use crate::backend::{Backend, Bucket};
use crate::error::{Code, Error, Result};
use crate::payload::Payload;
use crate::router::Operation;
use crate::server::Face;
use crate::target::Target;
use crate::xml::Node;

/// Names of the bucket's settings in the store.
pub mod config {
    /// Grants, see [`crate::acl`].
    pub const ACL: &str = "s3.acl";
    /// The CORS document as it was sent.
    pub const CORS: &str = "s3.cors";
    /// Default encryption of new objects: `AES256`.
    pub const ENCRYPTION: &str = "s3.encryption";
    /// The bucket policy as it was sent.
    pub const POLICY: &str = "s3.policy";
    /// Object lock, see [`crate::lock::Rule`]; never removed.
    pub const OBJECT_LOCK: &str = "s3.object-lock";
    /// Object ownership: one of S3's three words.
    pub const OWNERSHIP: &str = "s3.ownership";
    /// The public access block: four letters `t` or `f`.
    pub const PUBLIC_ACCESS: &str = "s3.public-access";
    /// Tags, as a URL-encoded query.
    pub const TAGS: &str = "s3.tags";
}

/// What is said of an end-to-end volume.
const SEALED: &str = "this is an end-to-end volume: its keys are with its owner alone, so S3 can't serve it; use `abide ls` and `abide cp` on a machine that has its words or a grant";

/// One request.
pub struct Call {
    /// The face that serves it.
    pub face: Arc<Face>,
    /// What is asked.
    pub operation: Operation,
    /// The method.
    pub method: Method,
    /// The headers.
    pub headers: HeaderMap,
    /// The URI as it was sent.
    pub uri: Uri,
    /// Bucket, key and query.
    pub target: Target,
    /// Who signed; nobody for anonymous requests.
    pub who: Option<UserId>,
    /// The body.
    pub payload: Payload,
    /// The other side's address.
    pub peer: IpAddr,
    /// When it came.
    pub now: Wall,
}

impl Call {
    /// The store.
    pub fn backend(&self) -> &dyn Backend {
        &*self.face.backend
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.target.key
    }

    /// The signer, or `AccessDenied`.
    pub fn signer(&self) -> Result<&UserId> {
        self.who.as_ref().ok_or_else(|| Code::AccessDenied.into())
    }

    /// The bucket named in the request.
    pub async fn bucket(&self) -> Result<Bucket> {
        self.bucket_named(&self.target.bucket, "x-amz-expected-bucket-owner").await
    }

    /// A bucket by name; `expected` is the header that may name its owner.
    pub async fn bucket_named(&self, name: &str, expected: &str) -> Result<Bucket> {
        let bucket = self.backend().bucket(name).await?.ok_or(Code::NoSuchBucket)?;
        match self.header(expected) {
            Some(owner) if owner != bucket.owner.0 => return Err(Code::AccessDenied.into()),
            _ => {}
        }
        // An empty one can be removed: that takes no key.
        if self.operation != Operation::DeleteBucket && self.backend().is_sealed(&bucket).await? {
            return Err(Error::new(Code::AccessDenied, SEALED));
        }
        Ok(bucket)
    }

    /// Looks a version up for a reader. A delete marker is 404 with S3's headers if it is the
    /// current version and 405 if it was asked for; who can't list the bucket doesn't learn
    /// whether a key is missing.
    pub async fn version(&self, bucket: &Bucket, key: &str, id: Option<VersionId>, body: bool) -> Result<Version> {
        match self.backend().head(bucket, key, id, body).await {
            Ok(version) if version.marker => Err(marker(&version, id.is_some())),
            Ok(version) => Ok(version),
            Err(error) => {
                let error = Error::from(error);
                let missing = matches!(error.code, Code::NoSuchKey | Code::NoSuchVersion);
                let listing = Act { action: "s3:ListBucket", key, wanted: Permission::Read };
                if missing && !self.may(bucket, listing).await? {
                    return Err(Code::AccessDenied.into());
                }
                // Clients tell a removed key from a marked one by this.
                let told = error.code == Code::NoSuchKey;
                Err(if told { error.with("x-amz-delete-marker", HeaderValue::from_static("false")) } else { error })
            }
        }
    }

    /// The version that the query names.
    pub fn version_id(&self) -> Result<Option<VersionId>> {
        self.target.get("versionId").map(parse_version).transpose()
    }

    /// The request's XML document, its digests verified.
    pub async fn xml(&mut self) -> Result<Node> {
        let limit = self.face.settings.xml_bytes_max;
        let bytes = self.payload.whole(limit).await?;
        crate::xml::parse(&bytes)
    }

    /// As [`Call::xml`] for operations where an empty body means the default.
    pub async fn xml_or_nothing(&mut self) -> Result<Option<Node>> {
        let limit = self.face.settings.xml_bytes_max;
        let bytes = self.payload.whole(limit).await?;
        if bytes.is_empty() { Ok(None) } else { crate::xml::parse(&bytes).map(Some) }
    }
}

/// The answer to a read that hits a delete marker.
fn marker(version: &Version, asked_for: bool) -> Error {
    let error = match asked_for {
        true => Error::from(Code::MethodNotAllowed).with("allow", HeaderValue::from_static("DELETE")),
        false => Error::from(Code::NoSuchKey),
    };
    let id = HeaderValue::try_from(show_version(version.id));
    let error = error.with("x-amz-delete-marker", HeaderValue::from_static("true"));
    match id {
        Ok(id) => error.with("x-amz-version-id", id),
        Err(_) => error,
    }
}

/// A version's name on the wire.
pub fn show_version(id: VersionId) -> String {
    if id == VersionId::NULL { "null".to_owned() } else { format!("{:016x}", id.0) }
}

/// The reverse of [`show_version`].
pub fn parse_version(text: &str) -> Result<VersionId> {
    let bad = || Error::new(Code::InvalidArgument, "Invalid version id specified");
    match text {
        "null" => Ok(VersionId::NULL),
        _ if text.len() == 16 => match u64::from_str_radix(text, 16) {
            Ok(id) if id != 0 => Ok(VersionId(id)),
            _ => Err(bad()),
        },
        _ => Err(bad()),
    }
}

/// Four switches that close public access; all off unless set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicAccess {
    /// Refuse requests that would set a public ACL.
    pub block_acls: bool,
    /// Grants to groups don't count.
    pub ignore_acls: bool,
    /// Refuse to set a public policy.
    pub block_policy: bool,
    /// A public policy allows nobody but the bucket's owner anything.
    pub restrict: bool,
}

impl PublicAccess {
    /// From what was stored; what can't be read counts as closed.
    pub fn decode(bytes: &[u8]) -> Self {
        let on = |at: usize| bytes.get(at) != Some(&b'f');
        PublicAccess { block_acls: on(0), ignore_acls: on(1), block_policy: on(2), restrict: on(3) }
    }

    /// To be stored.
    pub fn encode(self) -> Vec<u8> {
        let letter = |on: bool| if on { b't' } else { b'f' };
        [self.block_acls, self.ignore_acls, self.block_policy, self.restrict].map(letter).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_ids_read_back_and_nonsense_is_refused() {
        for id in [VersionId::NULL, VersionId(1), VersionId(u64::MAX)] {
            assert_eq!(parse_version(&show_version(id)).unwrap(), id);
        }
        for bad in ["", "0000000000000000", "xyz", "NULL", "00000000000000001"] {
            assert_eq!(parse_version(bad).unwrap_err().code, Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn a_public_access_block_reads_back() {
        let some = PublicAccess { block_acls: true, ignore_acls: false, block_policy: true, restrict: false };
        assert_eq!(PublicAccess::decode(&some.encode()), some);
        assert!(PublicAccess::decode(b"").ignore_acls);
    }
}
