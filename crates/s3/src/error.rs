//! What goes wrong at this face, and the one table from the store's errors to S3's codes.

use std::borrow::Cow;

use base::{Kind, Kinded};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

/// Makes [`Code`] with its HTTP status and default message.
macro_rules! codes {
    ($($name:ident $status:literal $message:literal;)*) => {
        /// S3's error codes, as far as this face gives them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Code { $($name,)* }

        impl Code {
            /// Every code, for tests and documentation.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The word in the answer's `<Code>`.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }

            /// What is said if nothing more exact is known.
            pub fn message(self) -> &'static str {
                match self { $(Code::$name => $message,)* }
            }

            /// The code with this name.
            pub fn parse(name: &str) -> Option<Code> {
                match name { $(stringify!($name) => Some(Code::$name),)* _ => None }
            }
        }
    };
}

codes! {
    AccessControlListNotSupported 400 "The bucket does not allow ACLs";
    AccessDenied 403 "Access Denied";
    AccessForbidden 403 "CORSResponse: This CORS request is not allowed.";
    AuthorizationHeaderMalformed 400 "The authorization header you provided is invalid.";
    AuthorizationQueryParametersError 400 "The authorization query parameters are invalid.";
    BadDigest 400 "The Content-MD5 or checksum you specified did not match what we received.";
    BucketAlreadyExists 409 "The requested bucket name is not available. Select a different name and try again.";
    BucketAlreadyOwnedByYou 409 "The bucket that you tried to create already exists, and you own it.";
    BucketNotEmpty 409 "The bucket you tried to delete is not empty. You must delete all versions and uploads in it.";
    ConditionalRequestConflict 409 "A conflicting operation is in progress; try again.";
    EntityTooLarge 400 "Your proposed upload exceeds the maximum allowed size";
    EntityTooSmall 400 "Your proposed upload is smaller than the minimum allowed size";
    ExpiredToken 400 "The provided token has expired.";
    IllegalVersioningConfigurationException 400 "The versioning configuration specified in the request is invalid.";
    IncompleteBody 400 "You did not provide the number of bytes specified by the Content-Length HTTP header.";
    InternalError 500 "We encountered an internal error. Please try again.";
    InvalidAccessKeyId 403 "The access key ID you provided does not exist in our records.";
    InvalidArgument 400 "Invalid Argument";
    InvalidBucketAclWithObjectOwnership 400 "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting";
    InvalidBucketState 409 "The request is not valid with the current state of the bucket.";
    InvalidBucketName 400 "The specified bucket is not valid.";
    InvalidDigest 400 "The Content-MD5 or checksum value that you specified is not valid.";
    InvalidEncryptionAlgorithmError 400 "The encryption request that you specified is not valid.";
    InvalidLocationConstraint 400 "The specified location constraint is not valid.";
    InvalidObjectState 403 "The operation is not valid for the object's state";
    InvalidPart 400 "One or more of the specified parts could not be found or its entity tag did not match.";
    InvalidPartNumber 416 "The requested partnumber is not satisfiable";
    InvalidPartOrder 400 "The list of parts was not in ascending order. Parts must be ordered by part number.";
    InvalidPolicyDocument 400 "The content of the form does not meet the conditions specified in the policy document.";
    InvalidRange 416 "The requested range is not satisfiable";
    InvalidRequest 400 "Invalid Request";
    InvalidRetentionPeriod 400 "The retention period specified in the request is not valid.";
    InvalidStorageClass 400 "The storage class you specified is not valid";
    InvalidTag 400 "The tag provided was not a valid tag.";
    InvalidURI 400 "Couldn't parse the specified URI.";
    KeyTooLongError 400 "Your key is too long";
    MalformedACLError 400 "The ACL that you provided was not well formed or did not validate against our schema";
    MalformedPolicy 400 "Policies must be valid JSON and the first byte must be '{'";
    MalformedPOSTRequest 400 "The body of your POST request is not well-formed multipart/form-data.";
    MalformedTrailerError 400 "The request contained trailing data that was not well-formed or did not conform to our published schema.";
    MalformedXML 400 "The XML you provided was not well-formed or did not validate against our published schema";
    MaxMessageLengthExceeded 400 "Your request was too big.";
    MetadataTooLarge 400 "Your metadata headers exceed the maximum allowed metadata size";
    MethodNotAllowed 405 "The specified method is not allowed against this resource.";
    MissingContentLength 411 "You must provide the Content-Length HTTP header.";
    MissingFields 400 "There are missing fields in the request";
    MissingSecurityHeader 400 "Your request was missing a required header";
    NoSuchBucket 404 "The specified bucket does not exist";
    NoSuchBucketPolicy 404 "The bucket policy does not exist";
    NoSuchConfiguration 404 "The specified configuration does not exist.";
    NoSuchCORSConfiguration 404 "The CORS configuration does not exist";
    NoSuchKey 404 "The specified key does not exist.";
    NoSuchLifecycleConfiguration 404 "The lifecycle configuration does not exist";
    NoSuchObjectLockConfiguration 404 "The specified object does not have an ObjectLock configuration";
    NoSuchPublicAccessBlockConfiguration 404 "The public access block configuration was not found";
    NoSuchTagSet 404 "The TagSet does not exist";
    NoSuchUpload 404 "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
    NoSuchVersion 404 "The specified version does not exist.";
    NoSuchWebsiteConfiguration 404 "The specified bucket does not have a website configuration";
    NotFound 404 "Not Found";
    NotImplemented 501 "A header or query you provided implies functionality that is not implemented";
    NotModified 304 "Not Modified";
    ObjectLockConfigurationNotFoundError 404 "Object Lock configuration does not exist for this bucket";
    OperationAborted 409 "A conflicting conditional operation is currently in progress against this resource. Try again.";
    OwnershipControlsNotFoundError 404 "The bucket ownership controls were not found";
    PreconditionFailed 412 "At least one of the pre-conditions you specified did not hold";
    ReplicationConfigurationNotFoundError 404 "The replication configuration was not found";
    RequestExpired 400 "Request has expired";
    RequestHeaderSectionTooLarge 400 "Your request header section exceeds the maximum allowed size.";
    RequestTimeTooSkewed 403 "The difference between the request time and the server's time is too large.";
    RequestTimeout 400 "Your socket connection to the server was not read from or written to within the timeout period.";
    ServerSideEncryptionConfigurationNotFoundError 404 "The server side encryption configuration was not found";
    ServiceUnavailable 503 "Service is unable to handle request.";
    SignatureDoesNotMatch 403 "The request signature we calculated does not match the signature you provided. Check your key and signing method.";
    SlowDown 503 "Please reduce your request rate.";
    TooManyBuckets 400 "You have attempted to create more buckets than allowed";
    UnexpectedContent 400 "This request does not support content";
    UnresolvableGrantByEmailAddress 400 "The email address you provided does not match any account on record";
    UnsupportedSignature 400 "The provided request is signed with an unsupported signature version.";
    XAmzContentChecksumMismatch 400 "The provided 'x-amz-checksum' header does not match what was computed.";
    XAmzContentSHA256Mismatch 400 "The provided 'x-amz-content-sha256' header does not match what was computed.";
}

/// An answer that says no. Kept small: it travels in every `Result` of this crate.
#[derive(Debug)]
pub struct Error {
    /// S3's code.
    pub code: Code,
    /// What happened, for a human.
    pub message: Cow<'static, str>,
    /// Headers that go with the answer, such as `x-amz-delete-marker`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What every operation gives.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The code with a message of its own.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Error { code, message: message.into(), headers: Vec::new() }
    }

    /// Adds a header to the answer.
    pub fn with(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Code> for Error {
    fn from(code: Code) -> Self {
        Error { code, message: Cow::Borrowed(code.message()), headers: Vec::new() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Error {}

/// **The** table, first half: an error's kind to S3's code. [`Kind::Missing`] and the like mean a
/// row of ours here: what a client names has an exact answer in [`of_namespace`].
pub fn of_kind(kind: Kind) -> Code {
    match kind {
        Kind::Missing => Code::NoSuchKey,
        Kind::Exists => Code::BucketAlreadyExists,
        Kind::Denied => Code::AccessDenied,
        Kind::Invalid => Code::InvalidRequest,
        Kind::Conflict => Code::OperationAborted,
        Kind::Busy { .. } => Code::SlowDown,
        Kind::Unreachable | Kind::TooFewPieces { .. } => Code::ServiceUnavailable,
        Kind::Damaged | Kind::Bug => Code::InternalError,
    }
}

/// **The** table, second half: a refusal of the namespace to S3's code.
pub fn of_namespace(error: &namespace::Error) -> Code {
    use namespace::Error as E;
    match error {
        E::NoSuchBucket | E::Closed => Code::NoSuchBucket,
        E::NoSuchKey => Code::NoSuchKey,
        E::NoSuchVersion => Code::NoSuchVersion,
        E::NoSuchUpload => Code::NoSuchUpload,
        E::InvalidPart { .. } => Code::InvalidPart,
        E::PartOrder => Code::InvalidPartOrder,
        E::Precondition { .. } => Code::PreconditionFailed,
        E::IsMarker => Code::MethodNotAllowed,
        E::BucketExists { yours: true } => Code::BucketAlreadyOwnedByYou,
        E::BucketExists { yours: false } => Code::BucketAlreadyExists,
        E::NotEmpty => Code::BucketNotEmpty,
        E::InvalidName { what: "bucket name", .. } => Code::InvalidBucketName,
        E::InvalidName { why: "too long", .. } => Code::KeyTooLongError,
        E::InvalidName { .. } => Code::InvalidArgument,
        E::InvalidValue { .. } => Code::InvalidRequest,
        E::SegmentGone { .. } | E::Stale { .. } | E::Broken { .. } | E::Row(_) | E::View(_) => of_kind(error.kind()),
    }
}

impl From<namespace::Error> for Error {
    fn from(error: namespace::Error) -> Self {
        let code = of_namespace(&error);
        match error {
            namespace::Error::Row(_)
            | namespace::Error::View(_)
            | namespace::Error::Broken { .. }
            | namespace::Error::SegmentGone { .. }
            | namespace::Error::Stale { .. } => of_store(error.kind(), &error),
            namespace::Error::InvalidName { .. } | namespace::Error::InvalidValue { .. } => {
                Error::new(code, error.to_string())
            }
            _ => Error::from(code),
        }
    }
}

/// A failure of the store below: logged here, once, and told to the client by its kind alone.
pub fn of_store(kind: Kind, error: &dyn std::error::Error) -> Error {
    let code = of_kind(kind);
    if code == Code::InternalError {
        tracing::error!(%error, "failed to serve a request: the store is damaged or broken");
    } else {
        tracing::info!(%error, %kind, "request refused by the store");
    }
    match kind {
        Kind::Busy { retry_after } => {
            let secs = retry_after.as_secs().max(1);
            Error::from(code).with("retry-after", HeaderValue::from(secs))
        }
        _ => Error::from(code),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_kind_and_every_refusal_has_its_code_and_status() {
        let kinds = [
            (Kind::Missing, 404, "NoSuchKey"),
            (Kind::Exists, 409, "BucketAlreadyExists"),
            (Kind::Denied, 403, "AccessDenied"),
            (Kind::Invalid, 400, "InvalidRequest"),
            (Kind::Conflict, 409, "OperationAborted"),
            (Kind::Busy { retry_after: Duration::from_secs(2) }, 503, "SlowDown"),
            (Kind::Unreachable, 503, "ServiceUnavailable"),
            (Kind::TooFewPieces { have: 1, need: 2 }, 503, "ServiceUnavailable"),
            (Kind::Damaged, 500, "InternalError"),
            (Kind::Bug, 500, "InternalError"),
        ];
        for (kind, status, name) in kinds {
            let code = of_kind(kind);
            assert_eq!((code.status(), code.name()), (status, name), "{kind}");
            // A transient kind must be one that clients retry.
            assert_eq!(kind.is_transient(), status == 503, "{kind}");
        }
        use namespace::Error as E;
        let refusals = [
            (E::NoSuchBucket, 404, "NoSuchBucket"),
            (E::NoSuchKey, 404, "NoSuchKey"),
            (E::NoSuchVersion, 404, "NoSuchVersion"),
            (E::NoSuchUpload, 404, "NoSuchUpload"),
            (E::InvalidPart { number: 3 }, 400, "InvalidPart"),
            (E::PartOrder, 400, "InvalidPartOrder"),
            (E::Precondition { what: "if-match" }, 412, "PreconditionFailed"),
            (E::IsMarker, 405, "MethodNotAllowed"),
            (E::BucketExists { yours: true }, 409, "BucketAlreadyOwnedByYou"),
            (E::BucketExists { yours: false }, 409, "BucketAlreadyExists"),
            (E::NotEmpty, 409, "BucketNotEmpty"),
            (E::Closed, 404, "NoSuchBucket"),
            (E::InvalidName { what: "bucket name", why: "empty" }, 400, "InvalidBucketName"),
            (E::InvalidName { what: "key", why: "empty" }, 400, "InvalidArgument"),
            (E::InvalidValue { what: "body", why: "too long" }, 400, "InvalidRequest"),
            (E::SegmentGone { segment: base::SegmentId([0; 16]) }, 503, "SlowDown"),
            (E::Stale { made: base::Wall(0) }, 503, "SlowDown"),
            (E::Broken { what: "row" }, 500, "InternalError"),
            (E::View(base::kv::ViewError { kind: Kind::Damaged, text: String::new() }), 500, "InternalError"),
        ];
        for (error, status, name) in refusals {
            let code = of_namespace(&error);
            assert_eq!((code.status(), code.name()), (status, name), "{error}");
        }
    }

    #[test]
    fn codes_are_found_by_their_names() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.name()), Some(*code));
            assert!((300..600).contains(&code.status()) && !code.message().is_empty());
        }
        assert_eq!(Code::parse("Nonsense"), None);
    }

    #[test]
    fn a_busy_store_says_when_to_come_back() {
        let kind = Kind::Busy { retry_after: Duration::from_secs(7) };
        let error = of_store(kind, &base::kv::ViewError { kind, text: "full".into() });
        assert_eq!(error.headers[0].1, "7");
    }
}
