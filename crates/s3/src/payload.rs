//! A request's body as operations see it: plain bytes, whatever the wire's framing, with every
//! digest and signature that came along verified before its end is told.
//!
//! Bytes are handed on before they are verified: nothing may be committed until [`Payload::next`]
//! gave `None`.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use env::Env;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::attrs::Stored;
use crate::checks::Check;
use crate::chunked::{Chain, Decoder, Step};
use crate::digests::{Expected, Hashers, Item, Lane};
use crate::error::{Code, Error, Result};

/// What is known of a body once it was taken whole.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// MD5 of its bytes as hex: S3's entity tag.
    pub etag: String,
    /// The checksum that the client sent or asked for.
    pub checksum: Option<Stored>,
}

/// A body on its way in.
#[derive(Default)]
pub struct Payload {
    source: Source,
    taken: u64,
    ended: bool,
}

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Pieces(VecDeque<Bytes>),
    Wire(Box<Wire>),
}

/// How a body comes over the wire.
pub struct Framing {
    /// Bytes of the payload, if the request says.
    pub len: Option<u64>,
    /// Takes the chunks of an `aws-chunked` body apart.
    pub decoder: Option<Decoder>,
    /// What the request says of its bytes.
    pub expected: Expected,
    /// Signatures of chunks.
    pub chain: Option<Chain>,
}

struct Wire {
    env: Env,
    stall: std::time::Duration,
    body: Incoming,
    raw: Bytes,
    len: Option<u64>,
    taken: u64,
    decoder: Option<Decoder>,
    expected: Expected,
    /// Until the body's end.
    lane: Option<Lane>,
    summary: Option<Summary>,
}

impl Payload {
    /// A body from the wire.
    pub fn wire(
        env: Env,
        hashers: Hashers,
        stall: std::time::Duration,
        body: Incoming,
        framing: Framing,
    ) -> Result<Payload> {
        let Framing { len, decoder, expected, chain } = framing;
        let lane = Some(Lane::new(hashers, expected.digester(chain)?));
        let wire = Wire { env, stall, body, raw: Bytes::new(), len, taken: 0, decoder, expected, lane, summary: None };
        Ok(Payload { source: Source::Wire(Box::new(wire)), taken: 0, ended: false })
    }

    /// A body in pieces that are there already, for tests.
    pub fn of_pieces(pieces: VecDeque<Bytes>) -> Payload {
        Payload { source: Source::Pieces(pieces), taken: 0, ended: false }
    }

    /// Bytes of the whole, if they are known before.
    pub fn len(&self) -> Option<u64> {
        match &self.source {
            Source::Empty => Some(0),
            Source::Pieces(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Source::Wire(wire) => wire.len,
        }
    }

    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        matches!(self.source, Source::Empty)
    }

    /// Bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The next bytes; `None` once, after everything that came along was verified.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let next = match &mut self.source {
            Source::Empty => None,
            Source::Pieces(pieces) => pieces.pop_front(),
            Source::Wire(wire) => wire.next().await?,
        };
        match &next {
            Some(bytes) => self.taken += bytes.len() as u64,
            None => self.ended = true,
        }
        Ok(next)
    }
}

impl Payload {
    /// All of it, if it has no more than `limit` bytes.
    pub async fn whole(&mut self, limit: u64) -> Result<Bytes> {
        let too_big = || Error::from(Code::MaxMessageLengthExceeded);
        if self.len().is_some_and(|len| len > limit) {
            return Err(too_big());
        }
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if (all.len() + bytes.len()) as u64 > limit {
                return Err(too_big());
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Takes what is left; false if that is more than `limit` bytes, or can't be had.
    pub async fn drain(&mut self, limit: u64) -> bool {
        if matches!(self.source, Source::Empty) {
            return true;
        }
        if !self.ended && self.len().is_none_or(|len| len.saturating_sub(self.taken) > limit) {
            return false;
        }
        while !self.ended {
            if self.next().await.is_err() {
                return false;
            }
        }
        true
    }

    /// What is known now that it was taken whole.
    pub fn summary(&self) -> Result<Summary> {
        match &self.source {
            Source::Wire(wire) => wire.summary.clone().ok_or_else(|| Code::IncompleteBody.into()),
            Source::Empty | Source::Pieces(_) => Ok(Summary { etag: Check::new(None)?.finish().0, checksum: None }),
        }
    }
}

async fn hash(lane: &mut Option<Lane>, item: Item) -> Result<()> {
    match lane {
        Some(lane) => lane.push(item).await,
        None => Err(Code::IncompleteBody.into()),
    }
}

impl Wire {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.summary.is_some() {
            return Ok(None);
        }
        loop {
            if let Some(bytes) = self.decoded().await? {
                self.taken += bytes.len() as u64;
                if self.len.is_some_and(|len| self.taken > len) {
                    return Err(Code::IncompleteBody.into());
                }
                return Ok(Some(bytes));
            }
            match self.frame().await? {
                Some(bytes) => self.raw = bytes,
                None => return self.end().await.map(|()| None),
            }
        }
    }

    /// The next payload bytes of what came in already.
    async fn decoded(&mut self) -> Result<Option<Bytes>> {
        let Some(decoder) = &mut self.decoder else {
            let bytes = std::mem::take(&mut self.raw);
            if bytes.is_empty() {
                return Ok(None);
            }
            hash(&mut self.lane, Item::Data(bytes.clone())).await?;
            return Ok(Some(bytes));
        };
        while let Some(step) = decoder.step(&mut self.raw)? {
            match step {
                Step::Data(bytes) => {
                    hash(&mut self.lane, Item::Data(bytes.clone())).await?;
                    return Ok(Some(bytes));
                }
                Step::Chunk(signature) => hash(&mut self.lane, Item::Chunk(signature)).await?,
                Step::End => {}
            }
        }
        Ok(None)
    }

    /// The next bytes of the wire.
    async fn frame(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = match self.body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    let frame = self.env.timeout(self.stall, self.body.frame()).await;
                    frame.ok_or_else(crate::server::stalled)?
                }
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(crate::server::broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Everything came: verifies it.
    async fn end(&mut self) -> Result<()> {
        let whole = self.decoder.as_ref().is_none_or(Decoder::ended);
        if !whole || self.len.is_some_and(|len| len != self.taken) {
            return Err(Code::IncompleteBody.into());
        }
        let trailers = self.decoder.as_mut().map(|decoder| std::mem::take(&mut decoder.trailers)).unwrap_or_default();
        let lane = self.lane.take().ok_or(Code::IncompleteBody)?;
        let digester = lane.finish().await?;
        self.summary = Some(self.expected.verify(digester, &trailers)?);
        Ok(())
    }
}
