//! Who sent a request: signatures verified, and the body wrapped so that it verifies itself.

use base::UserId;
use hyper::body::Incoming;
use hyper::http::request::Parts;

use crate::error::{Code, Error, Result};
use crate::payload::Payload;
use crate::router::Operation;
use crate::server::{Face, Settings};
use crate::target::Target;

/// What is kept between requests.
pub struct Gate;

impl Gate {
    /// A gate for these settings.
    pub fn new(_settings: &Settings) -> Gate {
        Gate
    }
}

/// Lets a request in, with its signer; anonymous ones too, for what ACLs open to everybody. A
/// refusal gives the body back, so that the connection can be kept.
pub async fn admit(
    face: &Face,
    _operation: Operation,
    parts: &Parts,
    _target: &Target,
    body: Incoming,
) -> std::result::Result<(Option<UserId>, Payload), (Error, Payload)> {
    let payload = wire(face, parts, body).map_err(|error| (error, Payload::default()))?;
    if parts.headers.contains_key("authorization") {
        return Err((Error::new(Code::NotImplemented, "signatures are not verified yet"), payload));
    }
    Ok((None, payload))
}

fn wire(face: &Face, parts: &Parts, body: Incoming) -> Result<Payload> {
    if !crate::server::has_body(&body) {
        return Ok(Payload::default());
    }
    let len = parts.headers.get("content-length").and_then(|len| len.to_str().ok()).and_then(|len| len.parse().ok());
    Payload::wire(face.env.clone(), face.settings.stall, body, len)
}

/// What a form's policy allows.
pub struct Allowed {
    /// Who signed the policy; nobody for forms without one.
    pub who: Option<UserId>,
    /// Bytes of the file: least and most.
    pub length: Option<(u64, u64)>,
}

/// Judges a form by its policy and signature.
pub async fn form(_face: &Face, _bucket: &str, form: &crate::form::Form) -> Result<Allowed> {
    if form.get("policy").is_some() || form.get("signature").is_some() {
        return Err(Error::new(Code::NotImplemented, "signatures are not verified yet"));
    }
    Ok(Allowed { who: None, length: None })
}
