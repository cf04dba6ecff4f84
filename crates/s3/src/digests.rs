//! Digests of a body as it streams in, computed beside the reactor, and what they must come to.

use std::sync::Arc;

use aws_lc_rs::digest;
use base::ids::hex;
use bytes::Bytes;
use env::Env;
use hyper::HeaderMap;
use tokio::sync::oneshot;

use crate::attrs::Stored;
use crate::checks::{Check, is_algorithm, unbase64};
use crate::chunked::Chain;
use crate::error::{Code, Error, Result};
use crate::md5::Md5;
use crate::md5::pool::{Pool, Stream};
use crate::payload::Summary;

/// Bytes that are hashed in one go on another thread. Two such batches are held at the most.
const BATCH_BYTES: usize = 256 << 10;
/// Items of a batch at the most: chunks may be as small as a byte.
const ITEMS_MAX: usize = 4096;
/// Fewer bytes than these are hashed where they are: handing them over would cost more.
const INLINE_BYTES: usize = 32 << 10;

/// What hashing sees of a body.
pub enum Item {
    /// Payload.
    Data(Bytes),
    /// A chunk has ended, with its signature if it brought one.
    Chunk(Option<String>),
}

/// Computes all digests of one body.
pub struct Digester {
    /// MD5 and the checksum.
    pub check: Check,
    /// SHA-256 of the whole, if the signature covers it.
    pub sha256: Option<digest::Context>,
    /// Signatures of chunks.
    pub chain: Option<Chain>,
}

impl Digester {
    /// The MD5, and a checksum if one is wanted.
    pub fn of_check(check: Check) -> Digester {
        Digester { check, sha256: None, chain: None }
    }

    /// Whether there is anything to compute beside the MD5.
    fn has_more(&self) -> bool {
        self.check.has_checksum() || self.sha256.is_some() || self.chain.is_some()
    }

    /// Everything but the MD5.
    fn absorb(mut self, items: Vec<Item>) -> Result<Digester> {
        for item in items {
            match item {
                Item::Data(bytes) => {
                    self.check.update_checksum(&bytes);
                    if let Some(sha256) = &mut self.sha256 {
                        sha256.update(&bytes);
                    }
                    if let Some(chain) = &mut self.chain {
                        chain.update(&bytes);
                    }
                }
                Item::Chunk(signature) => {
                    if let Some(chain) = &mut self.chain {
                        chain.chunk(signature.as_deref().unwrap_or(""))?;
                    }
                }
            }
        }
        Ok(self)
    }
}

/// Where bodies are hashed: off the reactor, several at once.
#[derive(Clone)]
pub struct Hashers {
    env: Env,
    md5: Arc<Pool>,
}

impl Hashers {
    /// One for all requests of a face.
    pub fn new(env: Env) -> Hashers {
        Hashers { env, md5: Arc::default() }
    }
}

/// Something that is here or on its way back from another thread.
enum Turn<T> {
    Here(T),
    Away(oneshot::Receiver<T>),
    Lost,
}

impl<T> Turn<T> {
    async fn back(&mut self) -> Result<T> {
        match std::mem::replace(self, Turn::Lost) {
            Turn::Here(value) => Ok(value),
            Turn::Away(answer) => answer.await.map_err(|_| cut()),
            Turn::Lost => Err(cut()),
        }
    }
}

/// Hashes one batch on other threads while the next one comes in.
pub struct Lane {
    hashers: Hashers,
    md5: Turn<Md5>,
    /// All the rest.
    more: Turn<Result<Digester>>,
    has_more: bool,
    /// From the first batch on. After `md5`, so that the pool sees that it was given up.
    stream: Option<Stream>,
    /// The pool was told that `md5` is needed soon.
    hurried: bool,
    batch: Vec<Item>,
    bytes: usize,
}

fn cut() -> Error {
    Error::new(Code::InternalError, "hashing was cut short")
}

impl Lane {
    /// A lane for one body.
    pub fn new(hashers: Hashers, mut digester: Digester) -> Self {
        let md5 = Turn::Here(std::mem::take(&mut digester.check.md5));
        let has_more = digester.has_more();
        Lane {
            hashers,
            md5,
            more: Turn::Here(Ok(digester)),
            has_more,
            stream: None,
            hurried: true,
            batch: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes the next item; waits while the batch before the last is still being hashed.
    pub async fn push(&mut self, item: Item) -> Result<()> {
        match &item {
            Item::Data(bytes) => self.bytes += bytes.len(),
            Item::Chunk(_) if !self.has_more => return Ok(()),
            Item::Chunk(_) => {}
        }
        self.batch.push(item);
        if self.bytes >= BATCH_BYTES || self.batch.len() >= ITEMS_MAX {
            return self.send().await;
        }
        if self.bytes >= BATCH_BYTES / 2 {
            self.hurry();
        }
        Ok(())
    }

    /// The batch that is away will be waited for soon.
    fn hurry(&mut self) {
        if let (false, Some(stream)) = (std::mem::replace(&mut self.hurried, true), &self.stream) {
            stream.hurry(&self.hashers.env);
        }
    }

    /// Hands the batch over, as soon as the one before is done.
    async fn send(&mut self) -> Result<()> {
        self.hurry();
        let (md5, more) = (self.md5.back().await?, self.more.back().await??);
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let parts = batch.iter().filter_map(|item| match item {
            Item::Data(bytes) => Some(bytes.clone()),
            Item::Chunk(_) => None,
        });
        let stream = self.stream.get_or_insert_with(|| self.hashers.md5.stream());
        self.md5 = Turn::Away(stream.submit(&self.hashers.env, md5, parts));
        self.hurried = false;
        self.more = match self.has_more {
            false => Turn::Here(Ok(more)),
            true => {
                let (send, receive) = oneshot::channel();
                self.hashers.env.spawn.blocking(Box::new(move || {
                    // Nobody waits if the request was given up.
                    let _ = send.send(more.absorb(batch));
                }));
                Turn::Away(receive)
            }
        };
        Ok(())
    }

    /// All of it is hashed.
    pub async fn finish(mut self) -> Result<Digester> {
        if self.bytes > INLINE_BYTES {
            self.send().await?;
        }
        self.hurry();
        let (mut md5, more) = (self.md5.back().await?, self.more.back().await??);
        for item in &self.batch {
            if let Item::Data(bytes) = item {
                md5.update(bytes);
            }
        }
        let mut digester = more.absorb(self.batch)?;
        digester.check.md5 = md5;
        Ok(digester)
    }
}

/// What a request says of its body.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    md5: Option<Vec<u8>>,
    sha256: Option<String>,
    checksum: Option<Stored>,
    trailer: Option<String>,
}

impl Expected {
    /// Reads the headers. `sha256` is the payload's hash that the signature covers; checksums are
    /// not of the body but of the object if the request completes an upload (`of_object`).
    pub fn of_headers(headers: &HeaderMap, sha256: Option<String>, of_object: bool) -> Result<Self> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
        let md5 = match text("content-md5") {
            None => None,
            Some(value) => Some(unbase64(value.trim()).filter(|md5| md5.len() == 16).ok_or(Code::InvalidDigest)?),
        };
        let mut checksum = None;
        for (name, value) in headers.iter().filter(|_| !of_object) {
            let Some(algorithm) = algorithm(name.as_str()) else { continue };
            if checksum.is_some() {
                return Err(Error::new(
                    Code::InvalidRequest,
                    "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
                ));
            }
            checksum = Some(stated(algorithm, value.to_str().unwrap_or(""))?);
        }
        let trailer = match text("x-amz-trailer") {
            None => None,
            Some(name) => {
                let algorithm = algorithm(&name.trim().to_ascii_lowercase()).ok_or_else(|| {
                    Error::new(Code::InvalidRequest, "The value specified in the x-amz-trailer header is not supported")
                })?;
                if checksum.is_some() {
                    return Err(Error::new(
                        Code::InvalidRequest,
                        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
                    ));
                }
                Some(algorithm)
            }
        };
        Ok(Expected { md5, sha256, checksum, trailer })
    }

    /// Whether the request says nothing of its bytes that an empty body would not meet.
    pub fn is_nothing(&self) -> bool {
        let empty = self.sha256.as_deref().is_none_or(|hash| hash == crate::sign::EMPTY_SHA256);
        empty && self.md5.is_none() && self.checksum.is_none() && self.trailer.is_none()
    }

    /// The digester that computes what is expected.
    pub fn digester(&self, chain: Option<Chain>) -> Result<Digester> {
        let algorithm = self.checksum.as_ref().map(|stated| stated.algorithm.as_str()).or(self.trailer.as_deref());
        let sha256 = self.sha256.as_ref().map(|_| digest::Context::new(&digest::SHA256));
        Ok(Digester { check: Check::new(algorithm)?, sha256, chain })
    }

    /// Compares.
    pub fn verify(&self, digester: Digester, trailers: &[(String, String)]) -> Result<Summary> {
        let Digester { check, sha256, chain } = digester;
        if let Some(mut chain) = chain
            && self.trailer.is_some()
        {
            chain.trailers(trailers)?;
        }
        if let (Some(wanted), Some(sha256)) = (&self.sha256, sha256)
            && hex(sha256.finish().as_ref()) != *wanted
        {
            return Err(Code::XAmzContentSHA256Mismatch.into());
        }
        let (etag, checksum) = check.finish();
        if let Some(md5) = &self.md5
            && hex(md5) != etag
        {
            return Err(Error::new(Code::BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        let wanted = match &self.trailer {
            None => self.checksum.clone(),
            Some(algorithm) => {
                let name = format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase());
                let value = trailers.iter().find(|(have, _)| *have == name).map(|(_, value)| value);
                let value = value.ok_or_else(|| {
                    Error::new(Code::MalformedTrailerError, format!("The trailing header {name} is missing."))
                })?;
                Some(stated(algorithm.clone(), value)?)
            }
        };
        if let (Some(wanted), Some(have)) = (&wanted, &checksum)
            && wanted.value != have.value
        {
            let what = &wanted.algorithm;
            return Err(Error::new(
                Code::BadDigest,
                format!("The {what} you specified did not match the calculated checksum."),
            ));
        }
        Ok(Summary { etag, checksum })
    }
}

/// The algorithm that a checksum header (lower case) is of.
fn algorithm(header: &str) -> Option<String> {
    let name = header.strip_prefix("x-amz-checksum-")?.to_ascii_uppercase();
    is_algorithm(&name).then_some(name)
}

fn stated(algorithm: String, value: &str) -> Result<Stored> {
    let bytes = match algorithm.as_str() {
        "CRC32" | "CRC32C" => 4,
        "CRC64NVME" => 8,
        "SHA1" => 20,
        _ => 32,
    };
    if unbase64(value.trim()).is_none_or(|value| value.len() != bytes) {
        let header = algorithm.to_ascii_lowercase();
        return Err(Error::new(Code::BadDigest, format!("Value for x-amz-checksum-{header} header is invalid.")));
    }
    Ok(Stored { algorithm, composite: false, value: value.trim().to_owned() })
}
