//! What a browser's form may do: its policy document, and the signature under it.
//!
//! Sources: AWS, "Creating a POST Policy" and "Calculating a Signature" (Signature Version 4), and for the
//! older form of signature "Browser-Based Uploads Using POST", Amazon S3 API Reference.

use aws_lc_rs::{constant_time, hmac};
use base::Wall;
use base::ids::hex;
use serde_json::Value;

use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::sign::{Keys, scope_of};

/// Fields that a policy needs not name.
const FREE: &[&str] = &["awsaccesskeyid", "signature", "x-amz-signature", "file", "policy"];

/// Who signed, by the access key's id; `None` for forms without a policy.
pub fn access_key(form: &Form) -> Result<Option<String>> {
    if form.get("policy").is_none() {
        let signed = ["signature", "x-amz-signature", "awsaccesskeyid", "x-amz-credential"];
        return match signed.iter().any(|name| form.get(name).is_some()) {
            true => Err(missing("policy")),
            false => Ok(None),
        };
    }
    if let Some(id) = form.get("awsaccesskeyid") {
        return Ok(Some(id.to_owned()));
    }
    let credential = form.get("x-amz-credential").ok_or_else(|| missing("AWSAccessKeyId"))?;
    let (id, ..) = scope_of(credential)
        .ok_or_else(|| Error::new(Code::InvalidArgument, "The x-amz-credential field is malformed."))?;
    Ok(Some(id))
}

fn missing(field: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("Bucket POST must contain a field named '{field}'."))
}

fn denied(why: impl std::fmt::Display) -> Error {
    Error::new(Code::AccessDenied, format!("Invalid according to Policy: {why}"))
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::new(Code::InvalidPolicyDocument, format!("Invalid Policy: {why}"))
}

/// Verifies the signature under the policy with the secret of its access key.
pub fn verify(form: &Form, secret: &str, region: &str, keys: &Keys) -> Result<()> {
    let policy = form.get("policy").ok_or_else(|| missing("policy"))?;
    let (ours, theirs) = match form.get("x-amz-signature") {
        Some(theirs) => {
            let credential = form.get("x-amz-credential").ok_or_else(|| missing("x-amz-credential"))?;
            let (id, date, signed_region) = scope_of(credential).ok_or(Code::InvalidArgument)?;
            if signed_region != region {
                return Err(Error::new(Code::AuthorizationHeaderMalformed, format!("the region is '{region}'")));
            }
            if form.get("x-amz-algorithm") != Some("AWS4-HMAC-SHA256") {
                return Err(Error::new(Code::InvalidArgument, "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
            }
            let key = keys.signing(&id, secret, &date, region);
            (hex(hmac::sign(&key, policy.as_bytes()).as_ref()), theirs.to_owned())
        }
        None => {
            let theirs = form.get("signature").ok_or_else(|| missing("signature"))?;
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
            (crate::checks::base64(hmac::sign(&key, policy.as_bytes()).as_ref()), theirs.trim().to_owned())
        }
    };
    match constant_time::verify_slices_are_equal(ours.as_bytes(), theirs.as_bytes()) {
        Ok(()) => Ok(()),
        Err(_) => Err(Code::SignatureDoesNotMatch.into()),
    }
}

/// Judges the form by its policy; gives the least and the most bytes that the file may have.
pub fn judge(form: &Form, bucket: &str, now: Wall) -> Result<Option<(u64, u64)>> {
    let text = form.get("policy").and_then(|policy| crate::checks::unbase64(policy.trim()));
    let text = text.ok_or_else(|| invalid("it is not Base64."))?;
    let policy: Value = serde_json::from_slice(&text).map_err(|_| invalid("it is not JSON."))?;
    let part = |name: &str| policy.get(name);
    let expiration = part("expiration").and_then(Value::as_str).ok_or_else(|| invalid("expiration is missing."))?;
    let expires = moment(expiration).ok_or_else(|| invalid("expiration is no time."))?;
    let conditions = part("conditions").and_then(Value::as_array).ok_or_else(|| invalid("conditions are missing."))?;
    if now.0 >= expires.0 {
        return Err(denied("Policy expired."));
    }
    let mut named = Vec::new();
    let mut length = None;
    for condition in conditions {
        let judged = judge_one(form, bucket, condition)?;
        named.extend(judged.field);
        length = judged.length.or(length);
    }
    for (name, _) in &form.fields {
        // A checksum only narrows what the file may be.
        let open = ["x-ignore-", "x-amz-checksum-"].iter().any(|prefix| name.starts_with(prefix));
        let free = FREE.contains(&name.as_str()) || open || named.contains(name);
        if !free {
            return Err(denied(format!("Extra input fields: {name}")));
        }
    }
    Ok(length)
}

#[derive(Default)]
struct Judged {
    field: Option<String>,
    length: Option<(u64, u64)>,
}

fn judge_one(form: &Form, bucket: &str, condition: &Value) -> Result<Judged> {
    if let Some(pairs) = condition.as_object() {
        let mut last = Judged::default();
        if pairs.len() != 1 {
            return Err(invalid("a simple condition has one field."));
        }
        for (name, value) in pairs {
            let value = value.as_str().ok_or_else(|| invalid("a condition's value is no text."))?;
            last = equals(form, bucket, name, value)?;
        }
        return Ok(last);
    }
    let parts = condition.as_array().ok_or_else(|| invalid("a condition is neither object nor list."))?;
    let text = |at: usize| parts.get(at).and_then(Value::as_str);
    let operator = text(0).unwrap_or("").to_ascii_lowercase();
    if parts.len() != 3 {
        return Err(invalid("a condition has three elements."));
    }
    match operator.as_str() {
        "eq" | "starts-with" => {
            let name = text(1).and_then(|name| name.strip_prefix('$'));
            let name = name.ok_or_else(|| invalid("a condition names no field."))?;
            let value = text(2).ok_or_else(|| invalid("a condition's value is no text."))?;
            if operator == "eq" {
                return equals(form, bucket, name, value);
            }
            let name = name.to_ascii_lowercase();
            // A field that isn't there is empty here: it begins with nothing.
            if !field(form, bucket, &name).unwrap_or_default().starts_with(value) {
                return Err(denied(format!("Policy Condition failed: [\"starts-with\", \"${name}\", \"{value}\"]")));
            }
            Ok(Judged { field: Some(name), length: None })
        }
        "content-length-range" => {
            let number = |at: usize| match parts.get(at) {
                Some(Value::Number(number)) => number.as_u64(),
                Some(Value::String(text)) => text.parse().ok(),
                _ => None,
            };
            match (number(1), number(2)) {
                (Some(least), Some(most)) => Ok(Judged { field: None, length: Some((least, most)) }),
                _ => Err(invalid("content-length-range wants two numbers.")),
            }
        }
        _ => Err(invalid("a condition's operator is unknown.")),
    }
}

fn equals(form: &Form, bucket: &str, name: &str, value: &str) -> Result<Judged> {
    let name = name.to_ascii_lowercase();
    if field(form, bucket, &name).as_deref() != Some(value) {
        return Err(denied(format!("Policy Condition failed: [\"eq\", \"${name}\", \"{value}\"]")));
    }
    Ok(Judged { field: Some(name), length: None })
}

fn field(form: &Form, bucket: &str, name: &str) -> Option<String> {
    if name == "bucket" { Some(bucket.to_owned()) } else { form.get(name).map(str::to_owned) }
}

/// A time as policies write it (`2026-11-21T12:00:00.000Z`, ISO 8601 in UTC).
fn moment(text: &str) -> Option<Wall> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let time = time.split('.').next()?;
    let compact = format!("{}T{}Z", date.replace('-', ""), time.replace(':', ""));
    crate::sign::wall_of(&compact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;

    async fn form(fields: &[(&str, &str)]) -> Form {
        let mut text = String::new();
        for (name, value) in fields {
            text += &format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        text += "--xx\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nbytes\r\n--xx--\r\n";
        let mut payload = Payload::of_pieces([bytes::Bytes::from(text)].into());
        Form::begin("multipart/form-data; boundary=xx", &mut payload).await.unwrap()
    }

    async fn judged(policy: &str, fields: &[(&str, &str)]) -> std::result::Result<Option<(u64, u64)>, Code> {
        let policy = crate::checks::base64(policy.as_bytes());
        let fields: Vec<_> = [("policy", policy.as_str())].into_iter().chain(fields.iter().copied()).collect();
        judge(&form(&fields).await, "b", Wall(1_795_230_600_000)).map_err(|error| error.code)
    }

    #[tokio::test]
    async fn every_field_must_be_named_and_every_condition_hold() {
        let open = "{\"expiration\": \"2030-01-01T00:00:00Z\", \"conditions\": [{\"bucket\": \"b\"}, \
                    [\"starts-with\", \"$key\", \"foo\"], [\"content-length-range\", 1, 10], {\"acl\": \"private\"}]}";
        assert_eq!(judged(open, &[("key", "foo.txt"), ("acl", "private")]).await, Ok(Some((1, 10))));
        for (fields, code) in [
            (&[("key", "bar"), ("acl", "private")][..], Code::AccessDenied),
            (&[("key", "foo"), ("acl", "public-read")], Code::AccessDenied),
            (&[("key", "foo"), ("acl", "private"), ("x-amz-meta-a", "1")], Code::AccessDenied),
            (&[("key", "foo")], Code::AccessDenied),
        ] {
            assert_eq!(judged(open, fields).await, Err(code), "{fields:?}");
        }
        let ignored = judged(open, &[("key", "foo"), ("acl", "private"), ("x-ignore-a", "1")]).await;
        assert_eq!(ignored, Ok(Some((1, 10))));
        for (policy, code) in [
            ("{\"expiration\": \"2020-01-01T00:00:00Z\", \"conditions\": []}", Code::AccessDenied),
            ("{\"conditions\": []}", Code::InvalidPolicyDocument),
            ("{\"expiration\": \"2030-01-01T00:00:00Z\"}", Code::InvalidPolicyDocument),
            ("{\"expiration\": \"soon\", \"conditions\": []}", Code::InvalidPolicyDocument),
            (
                "{\"expiration\": \"2030-01-01T00:00:00Z\", \"conditions\": [[\"content-length-range\", -1, 0]]}",
                Code::InvalidPolicyDocument,
            ),
            (
                "{\"expiration\": \"2030-01-01T00:00:00Z\", \"conditions\": [[\"like\", \"$key\", \"x\"]]}",
                Code::InvalidPolicyDocument,
            ),
            ("nonsense", Code::InvalidPolicyDocument),
        ] {
            assert_eq!(judged(policy, &[]).await, Err(code), "{policy}");
        }
    }

    #[tokio::test]
    async fn both_signatures_are_verified() {
        // The example of "Example: Browser-Based Upload using HTTP POST", S3 API Reference, signs
        // with SHA-256; here the policy is short and the signatures are made by the same rule.
        let keys = Keys::default();
        let key = keys.signing("AKID", "secret", "20261121", "us-east-1");
        let four = hex(hmac::sign(&key, b"cG9saWN5").as_ref());
        let fields = [
            ("policy", "cG9saWN5"),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", "AKID/20261121/us-east-1/s3/aws4_request"),
            ("x-amz-signature", four.as_str()),
        ];
        let good = form(&fields).await;
        assert_eq!(access_key(&good).unwrap().as_deref(), Some("AKID"));
        verify(&good, "secret", "us-east-1", &keys).unwrap();
        assert!(verify(&good, "wrong", "us-east-1", &keys).is_err());
        let legacy = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"secret");
        let two = crate::checks::base64(hmac::sign(&legacy, b"cG9saWN5").as_ref());
        let good = form(&[("policy", "cG9saWN5"), ("AWSAccessKeyId", "AKID"), ("signature", &two)]).await;
        assert_eq!(access_key(&good).unwrap().as_deref(), Some("AKID"));
        verify(&good, "secret", "us-east-1", &keys).unwrap();
        assert!(verify(&good, "wrong", "us-east-1", &keys).is_err());
        assert!(access_key(&form(&[("AWSAccessKeyId", "AKID")]).await).is_err());
        assert_eq!(access_key(&form(&[("key", "k")]).await).unwrap(), None);
    }
}
