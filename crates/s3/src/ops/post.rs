//! `POST` of an object from a browser's form.

use crate::call::Call;
use crate::error::{Code, Result};
use crate::response::Response;

/// `POST` of a form.
pub async fn object(_call: &mut Call) -> Result<Response> {
    Err(Code::NotImplemented.into())
}
