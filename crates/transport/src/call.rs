//! One call, as its caller sees it.

use std::time::Duration;

use bytes::Bytes;
use codec::Versioned;
use wire::frame::HEAD_BYTES_MAX;
use wire::greet::Class;

use crate::body::Body;
use crate::error::{Error, Result};
use crate::service::ServiceId;

/// Waited for an answer if the caller says nothing else.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to ask of whom.
#[derive(Debug)]
pub struct Call {
    /// Which service of the node.
    pub service: ServiceId,
    /// On what kind of connection.
    pub class: Class,
    /// At most [`HEAD_BYTES_MAX`] bytes.
    pub head: Bytes,
    /// On control connections at most [`wire::frame::INLINE_BYTES_MAX`] bytes, all at hand.
    pub body: Body,
    /// How long until the response's head; sending the body is part of it.
    pub timeout: Duration,
}

impl Call {
    /// A call without a body.
    pub fn new(service: ServiceId, class: Class, head: impl Into<Bytes>) -> Call {
        Call { service, class, head: head.into(), body: Body::empty(), timeout: TIMEOUT }
    }

    /// A call whose head is a versioned value.
    pub fn of<T: Versioned>(service: ServiceId, class: Class, head: &T) -> Call {
        Call::new(service, class, head.encode())
    }

    /// With a body.
    pub fn with_body(self, body: impl Into<Body>) -> Call {
        Call { body: body.into(), ..self }
    }

    /// With another limit of time.
    pub fn with_timeout(self, timeout: Duration) -> Call {
        Call { timeout, ..self }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.head.len() > HEAD_BYTES_MAX {
            false => Ok(()),
            true => {
                let (len, max) = (self.head.len() as u64, HEAD_BYTES_MAX as u64);
                Err(Error::TooLong { what: "the head of a request", len, max })
            }
        }
    }
}

/// The answer. Dropping it before its body has ended cancels the rest.
#[derive(Debug)]
pub struct Reply {
    /// The service's own encoding.
    pub head: Bytes,
    /// Bytes that come with it.
    pub body: Body,
}

impl Reply {
    /// The head as a versioned value.
    pub fn decode<T: Versioned>(&self) -> Result<T> {
        Ok(T::decode(&self.head)?)
    }
}
