//! AWS Signature Version 4: requests signed in their header or in their URL.
//!
//! Source: AWS, "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::{constant_time, digest, hmac};
use base::Wall;
use base::ids::hex;
use hyper::http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{Code, Error, Result};

/// How far a request's clock may be off.
const SKEW_MS: u64 = 15 * 60 * 1000;
/// Presigned URLs live a week at the most.
const EXPIRES_SECS_MAX: u64 = 7 * 24 * 3600;
/// Signing keys that are kept.
const KEYS_MAX: usize = 1024;
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// SHA-256 of nothing.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What escapes in a canonical query: all but letters, digits and `-._~`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// In a canonical path slashes stay too.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// What a request says of its signature; nothing is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The access key's id.
    pub access_key: String,
    /// `YYYYMMDD`.
    pub date: String,
    /// The region that was signed for.
    pub region: String,
    /// `YYYYMMDDTHHMMSSZ`.
    pub stamp: String,
    /// Names of the signed headers, in order.
    pub signed: Vec<String>,
    /// 64 hex digits.
    pub signature: String,
    /// Seconds that a presigned URL lives; `None` for signatures in the header.
    pub expires: Option<u64>,
}

/// A signing key, and where the signatures of chunks begin.
#[derive(Clone)]
pub struct Signing {
    /// Signs chunks and trailers.
    pub key: Arc<hmac::Key>,
    /// `YYYYMMDDTHHMMSSZ`.
    pub stamp: String,
    /// `date/region/s3/aws4_request`.
    pub scope: String,
    /// The request's own signature: the first chunk's predecessor.
    pub seed: String,
}

fn malformed(why: &'static str) -> Error {
    Error::new(Code::AuthorizationHeaderMalformed, format!("The authorization header is malformed; {why}"))
}

/// A URL that never was or never ends being valid is refused as one whose time is over.
fn out_of_range(why: &'static str) -> Error {
    Error::new(Code::AccessDenied, why)
}

fn bad_query(why: &'static str) -> Error {
    Error::new(Code::AuthorizationQueryParametersError, why)
}

/// The claim that a request makes; `None` if it is anonymous. `query` is the decoded query.
pub fn claim(parts: &Parts, query: &[(String, String)]) -> Result<Option<Claim>> {
    if let Some(header) = parts.headers.get("authorization") {
        let header = header.to_str().map_err(|_| malformed("it is not ASCII."))?;
        return of_header(parts, header).map(Some);
    }
    let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if get("X-Amz-Algorithm").is_some() || get("X-Amz-Signature").is_some() || get("X-Amz-Credential").is_some() {
        return of_query(get).map(Some);
    }
    if get("Signature").is_some() && get("AWSAccessKeyId").is_some() {
        return Err(Error::new(
            Code::InvalidRequest,
            "Please use AWS4-HMAC-SHA256: older signatures are not accepted.",
        ));
    }
    Ok(None)
}

fn of_header(parts: &Parts, header: &str) -> Result<Claim> {
    if header.trim().is_empty() {
        return Err(Code::AccessDenied.into());
    }
    let Some(rest) = header.strip_prefix(ALGORITHM) else {
        return Err(if header.starts_with("AWS ") {
            Error::new(Code::InvalidRequest, "Please use AWS4-HMAC-SHA256: older signatures are not accepted.")
        } else {
            Error::new(Code::InvalidArgument, "Unsupported Authorization Type")
        });
    };
    let field = |name: &str| {
        let pairs = rest.split(',').filter_map(|field| field.trim().split_once('='));
        pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let credential = field("Credential").ok_or_else(|| malformed("the Credential is missing."))?;
    let signed = field("SignedHeaders").ok_or_else(|| malformed("the SignedHeaders are missing."))?;
    let signature = field("Signature").ok_or_else(|| malformed("the Signature is missing."))?;
    let stamp = match parts.headers.get("x-amz-date") {
        Some(date) => stamp_of(date.to_str().unwrap_or("")),
        None => parts
            .headers
            .get("date")
            .and_then(|date| date.to_str().ok())
            .and_then(|date| stamp_of(date).or_else(|| httpdate::parse_http_date(date).ok().map(wall).map(stamp))),
    };
    let stamp = stamp.ok_or_else(|| {
        Error::new(Code::AccessDenied, "AWS authentication requires a valid Date or x-amz-date header")
    })?;
    let (access_key, date, region) = scope_of(credential).ok_or_else(|| {
        malformed("the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".")
    })?;
    if !stamp.starts_with(&date) {
        return Err(malformed("the Credential's date is not the request's."));
    }
    let signed = signed.split(';').map(str::to_ascii_lowercase).collect();
    Ok(Claim { access_key, date, region, stamp, signed, signature: signature.to_owned(), expires: None })
}

fn of_query<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Claim> {
    let need = |name: &'static str, why: &'static str| {
        get(name).filter(|value| !value.is_empty()).ok_or_else(|| bad_query(why))
    };
    if need("X-Amz-Algorithm", "X-Amz-Algorithm is missing.")? != ALGORITHM {
        return Err(bad_query("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let credential = need("X-Amz-Credential", "X-Amz-Credential is missing.")?;
    let stamp = stamp_of(need("X-Amz-Date", "X-Amz-Date is missing.")?)
        .ok_or_else(|| bad_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""))?;
    let signed = need("X-Amz-SignedHeaders", "X-Amz-SignedHeaders is missing.")?;
    let signature = need("X-Amz-Signature", "X-Amz-Signature is missing.")?;
    let expires = need("X-Amz-Expires", "X-Amz-Expires is missing.")?;
    let expires = match expires.parse::<i64>() {
        Ok(secs) if secs < 0 => return Err(out_of_range("X-Amz-Expires must be non-negative")),
        Ok(secs) if secs as u64 > EXPIRES_SECS_MAX => {
            return Err(out_of_range(
                "X-Amz-Expires must be less than a week (in seconds); the given X-Amz-Expires is too large",
            ));
        }
        Ok(secs) => secs as u64,
        Err(_) => return Err(bad_query("X-Amz-Expires should be a number")),
    };
    let (access_key, date, region) = scope_of(credential).ok_or_else(|| {
        bad_query("Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".")
    })?;
    if !stamp.starts_with(&date) {
        return Err(bad_query("The Credential's date is not that of X-Amz-Date."));
    }
    let signed = signed.split(';').map(str::to_ascii_lowercase).collect();
    Ok(Claim { access_key, date, region, stamp, signed, signature: signature.to_owned(), expires: Some(expires) })
}

/// Access key, date and region of `AKID/YYYYMMDD/REGION/s3/aws4_request`. Access keys may hold slashes.
pub fn scope_of(credential: &str) -> Option<(String, String, String)> {
    let mut fields = credential.rsplitn(5, '/');
    let (end, service, region, date) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let access_key = fields.next().filter(|key| !key.is_empty())?;
    let whole = end == "aws4_request" && service == "s3" && date.len() == 8 && date.bytes().all(|d| d.is_ascii_digit());
    whole.then(|| (access_key.to_owned(), date.to_owned(), region.to_owned()))
}

/// The text itself, if it is a time in the form `YYYYMMDDTHHMMSSZ`.
fn stamp_of(text: &str) -> Option<String> {
    wall_of(text).map(|_| text.to_owned())
}

/// The time of a stamp.
pub fn wall_of(stamp: &str) -> Option<Wall> {
    let bytes = stamp.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' || !stamp.is_ascii() {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let part = &stamp[range];
        part.bytes().all(|digit| digit.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten()
    };
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    Some(Wall((base::time::days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second) * 1000))
}

fn wall(time: std::time::SystemTime) -> Wall {
    Wall(time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
}

/// The stamp of a time.
pub fn stamp(now: Wall) -> String {
    let text = now.rfc3339();
    format!("{}{}{}T{}{}{}Z", &text[..4], &text[5..7], &text[8..10], &text[11..13], &text[14..16], &text[17..19])
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// Hex of the SHA-256 of bytes.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The signing key that each access key used last: four HMACs saved per request.
#[derive(Default)]
pub struct Keys(Mutex<BTreeMap<String, Derived>>);

struct Derived {
    secret: String,
    date: String,
    region: String,
    key: Arc<hmac::Key>,
}

impl Keys {
    /// The key that signs on `date` in `region`.
    pub fn signing(&self, access_key: &str, secret: &str, date: &str, region: &str) -> Arc<hmac::Key> {
        let mut keys = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = keys.get(access_key)
            && (known.secret.as_str(), known.date.as_str(), known.region.as_str()) == (secret, date, region)
        {
            return known.key.clone();
        }
        let mut key = mac(format!("AWS4{secret}").as_bytes(), date);
        for part in [region, "s3", "aws4_request"] {
            key = mac(key.as_ref(), part);
        }
        let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()));
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        let derived = Derived { secret: secret.into(), date: date.into(), region: region.into(), key: key.clone() };
        keys.insert(access_key.to_owned(), derived);
        key
    }
}

/// Verifies a claim with the secret of its access key. `payload` is what stands for the body in the
/// canonical request: the header `x-amz-content-sha256`, or `UNSIGNED-PAYLOAD`.
pub fn verify(
    parts: &Parts,
    claim: &Claim,
    secret: &str,
    payload: &str,
    region: &str,
    now: Wall,
    keys: &Keys,
) -> Result<Signing> {
    check_time(claim, now)?;
    if claim.region != region {
        return Err(Error::new(
            Code::AuthorizationHeaderMalformed,
            format!(
                "The authorization header is malformed; the region '{}' is wrong; expecting '{region}'",
                claim.region
            ),
        ));
    }
    check_signed_headers(parts, claim)?;
    let scope = format!("{}/{}/s3/aws4_request", claim.date, claim.region);
    let key = keys.signing(&claim.access_key, secret, &claim.date, &claim.region);
    let raw = parts.uri.path();
    let encoded = utf8_percent_encode(&percent_decode_str(raw).decode_utf8_lossy(), PATH).to_string();
    // Nearly every client signs the path encoded by the rules; a few sign what they sent.
    for path in [encoded.as_str(), raw] {
        let canonical = canonical(parts, claim, path, payload);
        let text = format!("{ALGORITHM}\n{}\n{scope}\n{}", claim.stamp, sha256_hex(canonical.as_bytes()));
        let signature = hex(hmac::sign(&key, text.as_bytes()).as_ref());
        if constant_time::verify_slices_are_equal(signature.as_bytes(), claim.signature.as_bytes()).is_ok() {
            return Ok(Signing { key, stamp: claim.stamp.clone(), scope, seed: signature });
        }
    }
    Err(Code::SignatureDoesNotMatch.into())
}

fn check_time(claim: &Claim, now: Wall) -> Result<()> {
    let at = wall_of(&claim.stamp).ok_or(Code::AccessDenied)?;
    match claim.expires {
        Some(secs) => {
            if at.0 > now.0 + SKEW_MS {
                return Err(Error::new(Code::AccessDenied, "Request is not valid yet"));
            }
            if now.0 > at.0 + secs * 1000 {
                return Err(Error::new(Code::AccessDenied, "Request has expired"));
            }
        }
        None if at.0.abs_diff(now.0) > SKEW_MS => return Err(Code::RequestTimeTooSkewed.into()),
        None => {}
    }
    Ok(())
}

/// `host` and every `x-amz-` header must be signed, else they could be changed on the way.
fn check_signed_headers(parts: &Parts, claim: &Claim) -> Result<()> {
    let signed = |name: &str| claim.signed.iter().any(|have| have == name);
    if !signed("host") && !signed(":authority") {
        return Err(Error::new(
            Code::AccessDenied,
            "There were headers present in the request which were not signed: host",
        ));
    }
    let loose = parts
        .headers
        .keys()
        .map(|name| name.as_str())
        .find(|name| name.starts_with("x-amz-") && *name != "x-amz-content-sha256" && !signed(name));
    match loose {
        Some(name) if claim.expires.is_none() || name != "x-amz-date" => Err(Error::new(
            Code::AccessDenied,
            format!("There were headers present in the request which were not signed: {name}"),
        )),
        _ => Ok(()),
    }
}

fn canonical(parts: &Parts, claim: &Claim, path: &str, payload: &str) -> String {
    let mut text = String::with_capacity(512);
    text.push_str(parts.method.as_str());
    text.push('\n');
    text.push_str(if path.is_empty() { "/" } else { path });
    text.push('\n');
    text.push_str(&canonical_query(parts.uri.query().unwrap_or(""), claim.expires.is_some()));
    text.push('\n');
    for name in &claim.signed {
        text.push_str(name);
        text.push(':');
        let mut first = true;
        for value in parts.headers.get_all(name.as_str()) {
            if !first {
                text.push(',');
            }
            first = false;
            push_folded(&mut text, &String::from_utf8_lossy(value.as_bytes()));
        }
        if first && name == "host" {
            text.push_str(parts.uri.authority().map_or("", |authority| authority.as_str()));
        }
        text.push('\n');
    }
    text.push('\n');
    for (at, name) in claim.signed.iter().enumerate() {
        text.push_str(if at == 0 { "" } else { ";" });
        text.push_str(name);
    }
    text.push('\n');
    text.push_str(payload);
    text
}

/// A header's value, trimmed, runs of spaces as one.
fn push_folded(text: &mut String, value: &str) {
    let mut words = value.split(' ').filter(|word| !word.is_empty());
    if let Some(word) = words.next() {
        text.push_str(word.trim_start_matches('\t'));
    }
    for word in words {
        text.push(' ');
        text.push_str(word);
    }
}

fn canonical_query(query: &str, presigned: bool) -> String {
    if query.is_empty() {
        return String::new();
    }
    let encode = |part: &str| {
        // A raw "+" is a plus to some signers and a space to others; AWS takes it as a space.
        let plain = percent_decode_str(&part.replace('+', "%20")).collect::<Vec<u8>>();
        percent_encoding::percent_encode(&plain, QUERY).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name), encode(value)))
        .filter(|(name, _)| !(presigned && name == "X-Amz-Signature"))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    fn now() -> Wall {
        wall_of("20130524T000000Z").unwrap()
    }

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = hyper::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn check(parts: &Parts, payload: &str) -> Result<Signing> {
        let query = crate::target::Target::parse(&parts.uri, None, &[]).unwrap().query;
        let claim = claim(parts, &query)?.expect("it is signed");
        verify(parts, &claim, SECRET, payload, "us-east-1", now(), &Keys::default())
    }

    // The examples of "Signature Calculations for the Authorization Header", S3 API Reference.
    fn get_object(signature: &str) -> Parts {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature={signature}"
        );
        request(
            "GET",
            "/test.txt",
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("authorization", &authorization),
                ("range", "bytes=0-9"),
                ("x-amz-content-sha256", EMPTY_SHA256),
                ("x-amz-date", "20130524T000000Z"),
            ],
        )
    }

    #[test]
    fn the_published_examples_verify() {
        let good = get_object("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        check(&good, EMPTY_SHA256).unwrap();
        let put = request(
            "PUT",
            "/test$file.text",
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                     SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,\
                     Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
                ),
                ("x-amz-date", "20130524T000000Z"),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
            ],
        );
        check(&put, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072").unwrap();
        let list = request(
            "GET",
            "/?max-keys=2&prefix=J",
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                     SignedHeaders=host;x-amz-content-sha256;x-amz-date,\
                     Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
                ),
                ("x-amz-date", "20130524T000000Z"),
                ("x-amz-content-sha256", EMPTY_SHA256),
            ],
        );
        check(&list, EMPTY_SHA256).unwrap();
    }

    #[test]
    fn the_published_presigned_url_verifies_until_it_expires() {
        let uri = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2F\
                   us-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=\
                   host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        let parts = request("GET", uri, &[("host", "examplebucket.s3.amazonaws.com")]);
        check(&parts, "UNSIGNED-PAYLOAD").unwrap();
        let query = crate::target::Target::parse(&parts.uri, None, &[]).unwrap().query;
        let claim = claim(&parts, &query).unwrap().unwrap();
        let at = |secs: u64| Wall(now().0 + secs * 1000);
        let verify = |when| verify(&parts, &claim, SECRET, "UNSIGNED-PAYLOAD", "us-east-1", when, &Keys::default());
        assert!(verify(at(86_400)).is_ok());
        assert_eq!(verify(at(86_402)).err().unwrap().code, Code::AccessDenied);
    }

    #[test]
    fn what_is_wrong_with_a_signature_is_said() {
        let wrong = get_object("00e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        assert_eq!(check(&wrong, EMPTY_SHA256).err().unwrap().code, Code::SignatureDoesNotMatch);
        let good = get_object("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let claimed = claim(&good, &[]).unwrap().unwrap();
        let late = Wall(now().0 + 16 * 60 * 1000);
        let skewed = verify(&good, &claimed, SECRET, EMPTY_SHA256, "us-east-1", late, &Keys::default());
        assert_eq!(skewed.err().unwrap().code, Code::RequestTimeTooSkewed);
        let region = verify(&good, &claimed, SECRET, EMPTY_SHA256, "mars", now(), &Keys::default());
        assert_eq!(region.err().unwrap().code, Code::AuthorizationHeaderMalformed);
        let mut more = get_object("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        more.headers.insert("x-amz-acl", "public-read".parse().unwrap());
        assert_eq!(check(&more, EMPTY_SHA256).err().unwrap().code, Code::AccessDenied);
        for (header, code) in [
            ("", Code::AccessDenied),
            ("Basic abc", Code::InvalidArgument),
            ("AWS AKID:sig", Code::InvalidRequest),
            ("AWS4-HMAC-SHA256 Credential=a/b", Code::AuthorizationHeaderMalformed),
            ("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x", Code::AccessDenied),
        ] {
            let parts = request("GET", "/", &[("authorization", header), ("host", "h")]);
            assert_eq!(claim(&parts, &[]).unwrap_err().code, code, "{header}");
        }
        assert!(claim(&request("GET", "/", &[("host", "h")]), &[]).unwrap().is_none());
    }

    #[test]
    fn stamps_are_times() {
        assert_eq!(wall_of("19700101T000001Z"), Some(Wall(1000)));
        assert_eq!(stamp(now()), "20130524T000000Z");
        for bad in
            ["", "20130524T000000", "20130524X000000Z", "20131324T000000Z", "2013052\u{e9}T00000Z", "+0130524T000000Z"]
        {
            assert_eq!(wall_of(bad), None, "{bad}");
        }
    }
}
