//! `aws-chunked` bodies: payload in chunks, each with its signature if the stream is signed, and
//! trailing headers. Incremental: a chunk may have gigabytes and is never held.
//!
//! Source: AWS, "Signature Calculations for the Authorization Header: Transferring Payload in Multiple
//! Chunks", and "… Including Trailing Headers", Amazon S3 API Reference.

use aws_lc_rs::{constant_time, digest, hmac};
use base::ids::hex;
use bytes::{Buf, Bytes};

use crate::error::{Code, Error, Result};
use crate::sign::{EMPTY_SHA256, Signing, sha256_hex};

/// Bytes of a chunk's size line, or of a trailer's line.
const LINE_BYTES_MAX: usize = 4 << 10;
/// Trailing headers.
const TRAILERS_MAX: usize = 16;

/// What a step of decoding found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Payload.
    Data(Bytes),
    /// A chunk has ended; its signature, if it brought one.
    Chunk(Option<String>),
    /// The stream has ended.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk's size line.
    Size,
    /// In a chunk's bytes.
    Data(u64),
    /// In the line end after a chunk's bytes.
    AfterData,
    /// In the trailing headers.
    Trailer,
    Ended,
}

/// Takes the stream apart. Verifies nothing but its form: see [`Chain`].
#[derive(Debug)]
pub struct Decoder {
    state: State,
    line: Vec<u8>,
    signature: Option<String>,
    signed: bool,
    /// Names in lower case.
    pub trailers: Vec<(String, String)>,
}

fn malformed(why: &'static str) -> Error {
    Error::new(Code::InvalidRequest, format!("The aws-chunked body is malformed: {why}"))
}

impl Decoder {
    /// `signed`: every chunk must bring a signature.
    pub fn new(signed: bool) -> Self {
        Decoder { state: State::Size, line: Vec::new(), signature: None, signed, trailers: Vec::new() }
    }

    /// Whether the stream came to its end.
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes the next step on `input`, consuming it; `None` if more is needed.
    pub fn step(&mut self, input: &mut Bytes) -> Result<Option<Step>> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = self.line(input)? else { return Ok(None) };
                    let (size, signature) = self.size(&line)?;
                    self.signature = signature;
                    if size > 0 {
                        self.state = State::Data(size);
                    } else {
                        self.state = State::Trailer;
                        return Ok(Some(Step::Chunk(self.signature.take())));
                    }
                }
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let take = left.min(input.len() as u64);
                    let data = input.split_to(take as usize);
                    self.state = if take == left { State::AfterData } else { State::Data(left - take) };
                    return Ok(Some(Step::Data(data)));
                }
                State::AfterData => {
                    let Some(line) = self.line(input)? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(malformed("a chunk is longer than its size says"));
                    }
                    self.state = State::Size;
                    return Ok(Some(Step::Chunk(self.signature.take())));
                }
                State::Trailer => {
                    let Some(line) = self.line(input)? else { return Ok(None) };
                    if line.is_empty() {
                        self.state = State::Ended;
                        return Ok(Some(Step::End));
                    }
                    self.trailer(&line)?;
                }
                State::Ended => {
                    // Some clients send one more line end; anything else is not theirs to send.
                    if input.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
                        return Err(malformed("bytes follow its end"));
                    }
                    input.advance(input.len());
                    return Ok(None);
                }
            }
        }
    }

    /// The next line without its end (`\r\n`, or `\n` as some clients end trailers).
    fn line(&mut self, input: &mut Bytes) -> Result<Option<Vec<u8>>> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let take = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + take > LINE_BYTES_MAX {
            return Err(malformed("a line is too long"));
        }
        self.line.extend_from_slice(&input.split_to(take));
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.line);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    fn size(&self, line: &[u8]) -> Result<(u64, Option<String>)> {
        let line = std::str::from_utf8(line).map_err(|_| malformed("a chunk's size is no text"))?;
        let (size, extensions) = line.split_once(';').unwrap_or((line, ""));
        let size = size.trim();
        if size.is_empty() || size.len() > 16 || !size.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(malformed("a chunk's size is no hexadecimal number"));
        }
        let size = u64::from_str_radix(size, 16).map_err(|_| malformed("a chunk's size is too large"))?;
        let signature = extensions.split(';').find_map(|part| part.trim().strip_prefix("chunk-signature="));
        match (signature, self.signed) {
            (None, true) => Err(malformed("a chunk has no signature")),
            (signature, _) => Ok((size, signature.map(str::to_owned))),
        }
    }

    fn trailer(&mut self, line: &[u8]) -> Result<()> {
        let bad = |why: &'static str| Error::new(Code::MalformedTrailerError, why);
        let line = std::str::from_utf8(line).map_err(|_| bad("A trailing header is no text."))?;
        let (name, value) = line.split_once(':').ok_or_else(|| bad("A trailing header has no colon."))?;
        if self.trailers.len() == TRAILERS_MAX {
            return Err(bad("There are too many trailing headers."));
        }
        self.trailers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        Ok(())
    }
}

/// The chain of signatures over chunks: each signs the one before it and its own chunk's hash.
pub struct Chain {
    signing: Signing,
    previous: String,
    hash: digest::Context,
}

impl Chain {
    /// Begins with the request's own signature.
    pub fn new(signing: Signing) -> Self {
        let previous = signing.seed.clone();
        Chain { signing, previous, hash: digest::Context::new(&digest::SHA256) }
    }

    /// Takes bytes of the chunk.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    /// Verifies the chunk that has ended.
    pub fn chunk(&mut self, signature: &str) -> Result<()> {
        let hash = std::mem::replace(&mut self.hash, digest::Context::new(&digest::SHA256)).finish();
        let Signing { stamp, scope, .. } = &self.signing;
        let previous = &self.previous;
        let text =
            format!("AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{previous}\n{EMPTY_SHA256}\n{}", hex(hash.as_ref()));
        self.link(&text, signature)
    }

    /// Verifies the trailing headers, `x-amz-trailer-signature` among them.
    pub fn trailers(&mut self, trailers: &[(String, String)]) -> Result<()> {
        let Some((_, signature)) = trailers.iter().find(|(name, _)| name == "x-amz-trailer-signature") else {
            return Err(Error::new(Code::MalformedTrailerError, "The trailing headers have no signature."));
        };
        let lines: String = trailers
            .iter()
            .filter(|(name, _)| name != "x-amz-trailer-signature")
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let Signing { stamp, scope, .. } = &self.signing;
        let previous = &self.previous;
        let hash = sha256_hex(lines.as_bytes());
        let text = format!("AWS4-HMAC-SHA256-TRAILER\n{stamp}\n{scope}\n{previous}\n{hash}");
        self.link(&text, signature)
    }

    fn link(&mut self, text: &str, signature: &str) -> Result<()> {
        let ours = hex(hmac::sign(&self.signing.key, text.as_bytes()).as_ref());
        if constant_time::verify_slices_are_equal(ours.as_bytes(), signature.as_bytes()).is_err() {
            return Err(Code::SignatureDoesNotMatch.into());
        }
        self.previous = ours;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::Keys;

    /// Decodes a stream that comes in pieces of `step` bytes.
    fn decode(text: &[u8], step: usize, signed: bool) -> Result<(Vec<u8>, Vec<Option<String>>, Decoder)> {
        let mut decoder = Decoder::new(signed);
        let (mut data, mut chunks) = (Vec::new(), Vec::new());
        for piece in text.chunks(step.max(1)) {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(found) = decoder.step(&mut input)? {
                match found {
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::Chunk(signature) => chunks.push(signature),
                    Step::End => {}
                }
            }
            assert!(input.is_empty());
        }
        Ok((data, chunks, decoder))
    }

    #[test]
    fn a_stream_is_the_same_whatever_pieces_it_comes_in() {
        let text = b"5\r\nhello\r\n1;chunk-signature=ab\r\n,\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n";
        for step in 1..text.len() {
            let (data, chunks, decoder) = decode(text, step, false).unwrap();
            assert_eq!(data, b"hello, world");
            assert_eq!(chunks, [None, Some("ab".into()), None, None]);
            assert!(decoder.ended());
            assert_eq!(decoder.trailers, [("x-amz-checksum-crc32".into(), "AAAA".into())]);
        }
    }

    #[test]
    fn hostile_streams_are_refused_and_bounded() {
        let long = [b"5;".as_slice(), &[b'x'; LINE_BYTES_MAX]].concat();
        let many: Vec<u8> = [b"0\r\n".to_vec(), b"a:b\r\n".repeat(TRAILERS_MAX + 1)].concat();
        for text in [
            b"zz\r\n".as_slice(),
            b"-1\r\n",
            b"\r\n",
            b"11112222333344445\r\n",
            b"2\r\nabc\r\n",
            b"0\r\n\r\nmore",
            b"0\r\nno colon\r\n\r\n",
            &long,
            &many,
        ] {
            assert!(decode(text, 7, false).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
        assert!(decode(b"5\r\nhello\r\n", 9, true).is_err(), "a signed stream without signatures");
        assert!(!decode(b"ffffffffffffffff\r\nabc", 5, false).unwrap().2.ended());
        assert!(!decode(b"5\r\nhel", 5, false).unwrap().2.ended());
    }

    #[test]
    fn the_published_chunk_signatures_verify() {
        // "Example: PUT Object in multiple chunks", S3 API Reference: 65 KiB of 'a' in 64 KiB chunks.
        let key = Keys::default().signing(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "20130524",
            "us-east-1",
        );
        let signing = Signing {
            key,
            stamp: "20130524T000000Z".into(),
            scope: "20130524/us-east-1/s3/aws4_request".into(),
            seed: "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9".into(),
        };
        let mut chain = Chain::new(signing.clone());
        chain.update(&[b'a'; 65_536]);
        chain.chunk("ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648").unwrap();
        chain.update(&[b'a'; 1024]);
        chain.chunk("0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497").unwrap();
        chain.chunk("b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9").unwrap();
        let mut wrong = Chain::new(signing);
        wrong.update(&[b'b'; 65_536]);
        assert!(wrong.chunk("ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648").is_err());
    }
}
