//! What a request's URI and host name: bucket, key and query.

use hyper::Uri;
use percent_encoding::percent_decode_str;

use crate::error::{Code, Error, Result};
use crate::router::Level;

/// Query parameters of one request: AWS's longest presigned URLs have about 20.
const PARAMETERS_MAX: usize = 64;

/// Bucket, key and query of a request, decoded.
#[derive(Debug, Default)]
pub struct Target {
    /// The bucket's name; empty at the service's level.
    pub bucket: String,
    /// The key; empty at the bucket's level.
    pub key: String,
    /// The query, decoded, in order.
    pub query: Vec<(String, String)>,
}

impl Target {
    /// Reads a URI; `host` is the `Host` header and `suffixes` the domains under which buckets are
    /// hosts (`bucket.s3.example.org`).
    pub fn parse(uri: &Uri, host: Option<&str>, suffixes: &[String]) -> Result<Self> {
        let path = uri.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = match virtual_bucket(host.or(uri.host()), suffixes) {
            Some(bucket) => (bucket.to_owned(), decode(path)?),
            None => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                (decode(bucket)?, decode(key)?)
            }
        };
        Ok(Target { bucket, key, query: parse_query(uri.query().unwrap_or(""))? })
    }

    /// The level of the name space.
    pub fn level(&self) -> Level {
        match (self.bucket.is_empty(), self.key.is_empty()) {
            (true, _) => Level::Service,
            (false, true) => Level::Bucket,
            (false, false) => Level::Object,
        }
    }

    /// The value of a query parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a query parameter is there, with or without value.
    pub fn has(&self, name: &str) -> bool {
        self.query.iter().any(|(key, _)| key == name)
    }
}

/// The bucket that a host names, if it lies under one of our domains.
fn virtual_bucket<'a>(host: Option<&'a str>, suffixes: &[String]) -> Option<&'a str> {
    if suffixes.is_empty() {
        return None;
    }
    let host = host?;
    // A port follows the last colon; brackets end an IPv6 address, which names no bucket.
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    suffixes.iter().find_map(|suffix| {
        let at = host.len().checked_sub(suffix.len() + 1)?;
        let (bucket, rest) = (host.get(..at)?, host.get(at..)?);
        let under = rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(suffix) && !bucket.is_empty();
        under.then_some(bucket)
    })
}

fn decode(text: &str) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| Error::new(Code::InvalidURI, "Couldn't parse the specified URI: it is not UTF-8."))
}

/// Decodes a query; `+` is a space there, as in forms.
fn parse_query(query: &str) -> Result<Vec<(String, String)>> {
    if query.is_empty() {
        return Ok(Vec::new());
    }
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if pairs.len() == PARAMETERS_MAX {
            return Err(Error::new(Code::InvalidURI, "Couldn't parse the specified URI: too many parameters."));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain = |text: &str| if text.contains('+') { decode(&text.replace('+', " ")) } else { decode(text) };
        pairs.push((plain(name)?, plain(value)?));
    }
    Ok(pairs)
}

/// A header or query value as bytes of the wire's percent encoding, as `encoding-type=url` lists
/// keys: everything but letters, digits and `-._~/*` is escaped.
pub fn url_encode(text: &str) -> String {
    const SET: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'/')
        .remove(b'*');
    percent_encoding::utf8_percent_encode(text, SET).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str, host: &str) -> (String, String) {
        let suffixes = ["s3.local".to_owned(), "localhost".to_owned()];
        let target = Target::parse(&uri.parse().unwrap(), Some(host), &suffixes).unwrap();
        (target.bucket, target.key)
    }

    #[test]
    fn bucket_and_key_are_read_from_path_or_host() {
        for (uri, host, bucket, key) in [
            ("/", "h", "", ""),
            ("/b", "h", "b", ""),
            ("/b/", "h", "b", ""),
            ("/b//k", "h", "b", "/k"),
            ("/b/a/../k", "h", "b", "a/../k"),
            ("/b/%2e%2e/%00", "h", "b", "../\0"),
            ("/b/a+b%20c", "h", "b", "a+b c"),
            ("/k/x", "b.s3.local:9000", "b", "k/x"),
            ("/", "b.c.S3.Local", "b.c", ""),
            ("/k", ".localhost", "k", ""),
            ("/b/k", "s3.local", "b", "k"),
            ("/b/k", "[::1]:9000", "b", "k"),
        ] {
            assert_eq!(parse(uri, host), (bucket.into(), key.into()), "{uri} at {host}");
        }
        assert!(Target::parse(&"/b/%ff".parse().unwrap(), None, &[]).is_err());
    }

    #[test]
    fn queries_are_decoded_in_order() {
        let target = Target::parse(&"/b?prefix=a+b%2Bc&acl&x=".parse().unwrap(), None, &[]).unwrap();
        assert_eq!(target.get("prefix"), Some("a b+c"));
        assert!(target.has("acl") && target.has("x") && !target.has("y"));
        let many = format!("/b?{}", "a=b&".repeat(PARAMETERS_MAX + 1));
        assert!(Target::parse(&many.parse().unwrap(), None, &[]).is_err());
    }
}
