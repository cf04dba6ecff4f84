//! Who sent a request: signatures verified, and the body wrapped so that it verifies itself.

use base::UserId;
use hyper::body::Incoming;
use hyper::http::request::Parts;

use crate::backend::AccessKey;
use crate::chunked::{Chain, Decoder};
use crate::digests::Expected;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::payload::{Framing, Payload};
use crate::router::Operation;
use crate::server::{Face, Settings};
use crate::sign::{self, Claim, Keys, Signing};
use crate::target::Target;

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// What is kept between requests.
pub struct Gate {
    keys: Keys,
}

impl Gate {
    /// A gate for these settings.
    pub fn new(_settings: &Settings) -> Gate {
        Gate { keys: Keys::default() }
    }
}

/// What stands for the body in a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Payment {
    Unsigned,
    Sha256(String),
    Chunks { signed: bool },
}

/// Lets a request in, with its signer; anonymous ones too, for what ACLs open to everybody. A
/// refusal gives the body back, so that the connection can be kept.
pub async fn admit(
    face: &Face,
    operation: Operation,
    parts: &Parts,
    target: &Target,
    body: Incoming,
) -> std::result::Result<(Option<UserId>, Payload), (Error, Payload)> {
    match judge(face, operation, parts, target).await {
        Ok((who, framing)) => match wrap(face, body, framing) {
            Ok(payload) => Ok((who, payload)),
            Err(error) => Err((error, Payload::default())),
        },
        Err(error) => {
            let len = content_length(parts).ok().flatten();
            let plain = Framing { len, decoder: None, expected: Expected::default(), chain: None };
            Err((error, wrap(face, body, plain).unwrap_or_default()))
        }
    }
}

fn wrap(face: &Face, body: Incoming, framing: Framing) -> Result<Payload> {
    // A framed body may have no payload and still a signature or a checksum to verify.
    if framing.decoder.is_none() && framing.expected.is_nothing() && !crate::server::has_body(&body) {
        return Ok(Payload::default());
    }
    Payload::wire(face.env.clone(), face.hashers.clone(), face.settings.stall, body, framing)
}

async fn judge(face: &Face, operation: Operation, parts: &Parts, target: &Target) -> Result<(Option<UserId>, Framing)> {
    // Browsers ask before they send, and don't sign the question, though its URL may be presigned.
    let claim = match operation {
        Operation::Preflight => None,
        _ => sign::claim(parts, &target.query)?,
    };
    let (name, payment) = payment(parts, target, claim.as_ref())?;
    let (who, signing) = match claim {
        None => (None, None),
        Some(claim) => {
            let key = known(face, &claim.access_key).await?;
            let now = face.env.clock.wall();
            let region = &face.settings.region;
            let signing = sign::verify(parts, &claim, &key.secret, &name, region, now, &face.gate.keys)?;
            (Some(key.user), Some(signing))
        }
    };
    Ok((who, framing(operation, parts, payment, signing)?))
}

async fn known(face: &Face, id: &str) -> Result<AccessKey> {
    let key = face.backend.access_key(id).await?.filter(|key| !key.disabled);
    key.ok_or_else(|| Code::InvalidAccessKeyId.into())
}

/// What the request says of its body, as text for the signature and as what it means.
fn payment(parts: &Parts, target: &Target, claim: Option<&Claim>) -> Result<(String, Payment)> {
    let header = parts.headers.get("x-amz-content-sha256").map(|value| value.to_str().unwrap_or(""));
    let presigned = claim.is_some_and(|claim| claim.expires.is_some());
    let text = match (header, target.get("X-Amz-Content-Sha256")) {
        (_, Some(query)) if presigned => query,
        (Some(header), _) => header,
        (None, _) if presigned || claim.is_none() => UNSIGNED,
        (None, _) => {
            return Err(Error::new(
                Code::InvalidRequest,
                "Missing required header for this request: x-amz-content-sha256",
            ));
        }
    };
    let meaning = match text {
        UNSIGNED => Payment::Unsigned,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Payment::Chunks { signed: false },
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
            Payment::Chunks { signed: true }
        }
        hash if hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            Payment::Sha256(hash.to_ascii_lowercase())
        }
        _ => {
            return Err(Error::new(
                Code::InvalidArgument,
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                 STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
            ));
        }
    };
    // A presigned URL is often sent with the hash of an empty body that its signing client put in.
    Ok((text.to_owned(), meaning))
}

fn content_length(parts: &Parts) -> Result<Option<u64>> {
    number(parts, "content-length")
}

fn number(parts: &Parts, name: &'static str) -> Result<Option<u64>> {
    match parts.headers.get(name) {
        None => Ok(None),
        Some(value) => match value.to_str().ok().and_then(|value| value.trim().parse().ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::new(Code::InvalidArgument, format!("The header {name} is no number."))),
        },
    }
}

fn framing(operation: Operation, parts: &Parts, payment: Payment, signing: Option<Signing>) -> Result<Framing> {
    let len = content_length(parts)?;
    let takes_bytes = matches!(operation, Operation::PutObject | Operation::UploadPart);
    if takes_bytes && len.is_none() && !parts.headers.contains_key("transfer-encoding") {
        return Err(Code::MissingContentLength.into());
    }
    let sha256 = match &payment {
        Payment::Sha256(hash) => Some(hash.clone()),
        _ => None,
    };
    let expected = Expected::of_headers(&parts.headers, sha256, operation == Operation::CompleteMultipartUpload)?;
    let Payment::Chunks { signed } = payment else {
        return Ok(Framing { len, decoder: None, expected, chain: None });
    };
    let len = number(parts, "x-amz-decoded-content-length")?;
    if len.is_none() && takes_bytes {
        return Err(Error::new(
            Code::MissingContentLength,
            "You must provide the x-amz-decoded-content-length header.",
        ));
    }
    let chain = signing.filter(|_| signed).map(Chain::new);
    Ok(Framing { len, decoder: Some(Decoder::new(signed)), expected, chain })
}

/// What a form's policy allows.
pub struct Allowed {
    /// Who signed the policy; nobody for forms without one.
    pub who: Option<UserId>,
    /// Bytes of the file: least and most.
    pub length: Option<(u64, u64)>,
}

/// Judges a form by its policy and signature.
pub async fn form(face: &Face, bucket: &str, form: &Form) -> Result<Allowed> {
    let Some(id) = crate::policy::access_key(form)? else {
        return Ok(Allowed { who: None, length: None });
    };
    let key = known(face, &id).await?;
    crate::policy::verify(form, &key.secret, &face.settings.region, &face.gate.keys)?;
    let length = crate::policy::judge(form, bucket, face.env.clock.wall())?;
    Ok(Allowed { who: Some(key.user), length })
}
