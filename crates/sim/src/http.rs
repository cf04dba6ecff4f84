//! A small S3 client over any byte stream: HTTP/1.1, Signature Version 4, one request at a time.
//!
//! Its own code, so that the storms don't ask the server's code whether the server is right.

use std::io;

use aws_lc_rs::{digest, hmac};
use base::Wall;
use base::ids::hex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// An answer's body at the most.
const BODY_BYTES_MAX: usize = 256 << 20;
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Who signs.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The access key's id.
    pub access_key: String,
    /// The access key's secret.
    pub secret_key: String,
    /// The region.
    pub region: String,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// `GET`, `PUT`…
    pub method: &'a str,
    /// Encoded already.
    pub path: &'a str,
    /// Sorted, encoded pairs.
    pub query: &'a str,
    /// Further headers: names in lower case, sorted. All are signed.
    pub headers: &'a [(&'a str, &'a str)],
    /// All of it.
    pub body: &'a [u8],
}

/// Sends one request on `stream` and reads its answer; signed, if by somebody.
pub async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    signer: Option<&Signer>,
    now: Wall,
    request: Request<'_>,
) -> io::Result<Answer> {
    let Request { method, path, query, headers, body } = request;
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: store\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(signer) = signer {
        let stamp = stamp(now);
        let authorization = authorization(signer, &stamp, &request);
        head.push_str(&format!("x-amz-date: {stamp}\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n"));
        head.push_str(&format!("authorization: {authorization}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await?;
    answer(stream, method == "HEAD").await
}

/// `20260101T000000Z`.
fn stamp(now: Wall) -> String {
    let text = now.rfc3339();
    format!("{}{}{}T{}{}{}Z", &text[..4], &text[5..7], &text[8..10], &text[11..13], &text[14..16], &text[17..19])
}

fn authorization(signer: &Signer, stamp: &str, request: &Request<'_>) -> String {
    let Request { method, path, query, headers, .. } = *request;
    let own = [("host", "store"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), ("x-amz-date", stamp)];
    let mut all: Vec<(&str, &str)> = headers.iter().copied().chain(own).collect();
    all.sort_unstable();
    let signed = all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{signed}\nUNSIGNED-PAYLOAD");
    let scope = format!("{}/{}/s3/aws4_request", &stamp[..8], signer.region);
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
    let mac =
        |key: &[u8], part: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), part.as_bytes()).as_ref().to_vec();
    let mut key = format!("AWS4{}", signer.secret_key).into_bytes();
    for part in [&stamp[..8], &signer.region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &text));
    format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", signer.access_key)
}

fn garbled(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn answer<S: AsyncRead + Unpin>(stream: &mut S, head_only: bool) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(garbled("the answer's head has no end"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| garbled("the answer's head is no text"))?.to_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status: u16 = status.ok_or_else(|| garbled("the answer has no status"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = bytes.split_off(end + 4);
    let mut answer = Answer { status, headers, body: Vec::new() };
    if status == 100 {
        return Box::pin(self::answer(stream, head_only)).await;
    }
    if !head_only && status != 204 && status != 304 {
        if answer.header("transfer-encoding") == Some("chunked") {
            body = chunked(stream, body).await?;
        } else {
            let len = answer.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0usize);
            while body.len() < len.min(BODY_BYTES_MAX) {
                if stream.read_buf(&mut body).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            body.truncate(len);
        }
        answer.body = body;
    }
    Ok(answer)
}

/// A body in HTTP's own chunks (RFC 9112, 7.1).
async fn chunked<S: AsyncRead + Unpin>(stream: &mut S, mut raw: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(end) = raw.windows(2).position(|two| two == b"\r\n") {
                break raw.drain(..end + 2).collect::<Vec<u8>>();
            }
            if stream.read_buf(&mut raw).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let text = std::str::from_utf8(&line).map_err(|_| garbled("chunk size"))?;
        let size = usize::from_str_radix(text.trim().split(';').next().unwrap_or(""), 16);
        let size = size.map_err(|_| garbled("chunk size"))?;
        if size > BODY_BYTES_MAX {
            return Err(garbled("chunk size"));
        }
        while raw.len() < size + 2 {
            if stream.read_buf(&mut raw).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        body.extend(raw.drain(..size));
        raw.drain(..2);
        if size == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_as_signatures_want_them() {
        assert_eq!(stamp(Wall(1_795_230_600_123)), "20261121T031000Z");
    }

    #[tokio::test]
    async fn answers_are_read_in_both_framings() {
        let mut plain: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\nhello";
        let got = answer(&mut plain, false).await.unwrap();
        assert_eq!((got.status, got.body.as_slice(), got.header("etag")), (200, &b"hello"[..], Some("\"x\"")));
        let mut chunks: &[u8] =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(answer(&mut chunks, false).await.unwrap().body, b"hello");
        let mut cut: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel";
        assert!(answer(&mut cut, false).await.is_err());
    }
}
