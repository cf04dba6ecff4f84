//! The log that a client keeps of one volume: a head, a base, deltas.
//!
//! 1. The bytes of a log are only ever appended to; a compacted log is a new file that takes the old
//!    one's place whole.
//! 2. Each frame is bound to the hash of everything before it (the chain) and signed by the volume's key.
//! 3. A client notes the last frame that it has seen durable. So whatever is unreadable behind that one is a
//!    crash and is cut off; up to it, it is damage. A whole frame that isn't the owner's is tampering, wherever it
//!    is; a log that ends before it and is unharmed was rolled back.

use base::VolumeId;
use codec::{Error as CodecError, Reader, Versioned, Writer};
use crypt::{PublicKey, VolumeRoot};

use crate::change::{Change, Encoder, decode};
use crate::frame::{self, Keys, Kind, SEALED_MAX};
use crate::{Error, Object, State};

/// A frame of the base has about so many bytes: few signatures, little memory.
const FRAME_BYTES: usize = 1 << 20;
/// Deltas may outweigh the base by this before the log is compacted: small kits needn't be, ever.
const SLACK_BYTES: u64 = 64 * 1024;
const HEAD_BYTES: usize = 5 + 4 + 32 + 16 + 8 + 8 + 32 + 8;

/// The head of a log's file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    volume: VolumeId,
    public: PublicKey,
    /// Whose log it is; random, the same in all generations.
    log: [u8; 16],
    generation: u64,
    /// Where the generation before ended.
    before: u64,
    before_chain: [u8; 32],
}

impl Versioned for Head {
    const NAME: &'static str = "kit";
    const MARK: [u8; 4] = *b"AbKt";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let mut body = Writer::new();
        body.u32(self.volume.0).raw(&self.public.0).raw(&self.log).u64(self.generation);
        body.u64(self.before).raw(&self.before_chain);
        let body = body.finish();
        to.raw(&body).u64(codec::crc64(&body));
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let body = from.raw("kit's head", HEAD_BYTES - 5 - 8)?;
        if from.u64("checksum")? != codec::crc64(body) {
            return Err(CodecError::Checksum { what: Self::NAME });
        }
        let mut from = Reader::new(body);
        Ok(Self {
            volume: VolumeId(from.u32("volume")?),
            public: PublicKey(from.array("volume's key")?),
            log: from.array("log")?,
            generation: from.u64("generation")?,
            before: from.u64("number")?,
            before_chain: from.array("chain")?,
        })
    }
}

/// The last frame that a client knows to be durable: kept beside the log, not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose log.
    pub log: [u8; 16],
    /// Of which generation.
    pub generation: u64,
    /// The frame.
    pub number: u64,
    /// The hash of everything up to it.
    pub chain: [u8; 32],
}

impl Versioned for Seen {
    const NAME: &'static str = "kit's last frame seen";
    const MARK: [u8; 4] = *b"AbKn";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.log).u64(self.generation).u64(self.number).raw(&self.chain);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (log, generation) = (from.array("log")?, from.u64("generation")?);
        Ok(Self { log, generation, number: from.u64("number")?, chain: from.array("chain")? })
    }
}

/// An open log: what it says, and how it goes on.
pub struct Log {
    keys: Keys,
    head: Head,
    state: State,
    number: u64,
    chain: [u8; 32],
    base_bytes: u64,
    delta_bytes: u64,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("head", &self.head).field("number", &self.number).finish_non_exhaustive()
    }
}

/// A log that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// Bytes at the end of an append that a crash cut short: cut the file to [`Log::len`] before the next one.
    pub cut: usize,
}

impl Log {
    /// A new log: its first bytes, and the log. `id` and salts are random.
    pub fn create(
        root: &VolumeRoot,
        volume: VolumeId,
        id: [u8; 16],
        state: State,
        salts: impl FnMut() -> [u8; 16],
    ) -> Result<(Vec<u8>, Self), Error> {
        Self::create_at(root, volume, id, 1, state, salts)
    }

    /// As [`Log::create`], beginning with this generation: of copies that are as new in all else the greater one counts.
    pub fn create_at(
        root: &VolumeRoot,
        volume: VolumeId,
        id: [u8; 16],
        generation: u64,
        state: State,
        salts: impl FnMut() -> [u8; 16],
    ) -> Result<(Vec<u8>, Self), Error> {
        Self::create_outlined(root, volume, (id, generation), state, salts, has_all)
    }

    /// As [`Log::create_at`], of an outline ([`State::outline`]): `whole` is asked for each object of which that lacks bytes, and says
    /// what took its place, if anything did, of one that is no more.
    pub fn create_outlined<E: From<Error>>(
        root: &VolumeRoot,
        volume: VolumeId,
        (id, generation): ([u8; 16], u64),
        state: State,
        salts: impl FnMut() -> [u8; 16],
        whole: impl FnMut(&str, &Object) -> Result<Option<Object>, E>,
    ) -> Result<(Vec<u8>, Self), E> {
        let keys = Keys::new(root);
        let public = keys.public();
        let head = Head { volume, public, log: id, generation, before: 0, before_chain: [0; 32] };
        Self::begin(keys, head, state, salts, whole)
    }

    fn begin<E: From<Error>>(
        keys: Keys,
        head: Head,
        state: State,
        mut salts: impl FnMut() -> [u8; 16],
        whole: impl FnMut(&str, &Object) -> Result<Option<Object>, E>,
    ) -> Result<(Vec<u8>, Self), E> {
        let mut bytes = head.encode();
        let (mut chain, mut number) = (crypt::hash(&bytes), 0);
        state.write(FRAME_BYTES, whole, |encoder, is_last| {
            let part = encoder.finish();
            fits(&part)?;
            let kind = if is_last { Kind::BaseEnd } else { Kind::Base };
            let (frame, after) = keys.frame(&chain, number, kind, salts(), &part);
            bytes.extend_from_slice(&frame);
            chain = after;
            number += u64::from(!is_last);
            Ok(())
        })?;
        let base_bytes = bytes.len() as u64;
        Ok((bytes, Self { keys, head, state, number, chain, base_bytes, delta_bytes: 0 }))
    }

    /// Opens a log. Without what was seen last, whatever is unreadable counts as a crash at the end, and a rollback isn't noticed.
    pub fn open(root: &VolumeRoot, bytes: &[u8], seen: Option<&Seen>) -> Result<Opened, Error> {
        let keys = Keys::new(root);
        let head = Head::decode(bytes.get(..HEAD_BYTES).ok_or(Error::Damaged { number: 0, offset: 0 })?)?;
        if head.public != keys.public() {
            return Err(Error::OtherVolume { found: head.public });
        }
        if let Some(seen) = seen {
            head.follows(seen)?;
        }
        let seen = seen.filter(|seen| seen.generation == head.generation);
        let chain = crypt::hash(&bytes[..HEAD_BYTES]);
        let log = Self { keys, head, state: State::default(), number: 0, chain, base_bytes: 0, delta_bytes: 0 };
        log.replay(bytes, seen)
    }

    fn replay(mut self, bytes: &[u8], seen: Option<&Seen>) -> Result<Opened, Error> {
        let (mut offset, mut number) = (HEAD_BYTES, 0);
        while let Some(frame) = frame::first(&bytes[offset..]) {
            let tampered = Error::Tampered { number, offset: offset as u64 };
            let (kind, body, chain) = self.keys.open(&self.chain, number, frame).ok_or(tampered.clone())?;
            // The base comes first and ends once.
            if (kind == Kind::Delta) != (self.base_bytes > 0) {
                return Err(tampered);
            }
            decode(&body)?.into_iter().for_each(|change| self.state.apply(change));
            if let Some(seen) = seen
                && seen.number == number
                && seen.chain != chain
            {
                return Err(Error::Forked { number });
            }
            offset += frame.len();
            (self.number, self.chain) = (number, chain);
            match kind {
                Kind::Base => {}
                Kind::BaseEnd => self.base_bytes = offset as u64,
                Kind::Delta => self.delta_bytes += frame.len() as u64,
            }
            number += 1;
        }
        let cut = bytes.len() - offset;
        let damaged = Error::Damaged { number, offset: offset as u64 };
        if self.base_bytes == 0 {
            return Err(damaged);
        }
        match seen {
            Some(seen) if seen.number >= number && cut > 0 => Err(damaged),
            Some(seen) if seen.number >= number => Err(self.head.rolled_back(seen, self.number)),
            _ => Ok(Opened { log: self, cut }),
        }
    }

    /// The bytes to append at [`Log::len`] for these changes, which the log then holds. If they could not be written and synced, open the
    /// log again. All of them are there after a crash, or a beginning of them.
    pub fn append(&mut self, changes: Vec<Change>, mut salts: impl FnMut() -> [u8; 16]) -> Result<Vec<u8>, Error> {
        let mut parts = Vec::new();
        let mut encoder = Encoder::default();
        for change in &changes {
            encoder.add(change);
            if encoder.len() >= FRAME_BYTES {
                parts.push(std::mem::take(&mut encoder).finish());
            }
        }
        if !encoder.is_empty() {
            parts.push(encoder.finish());
        }
        parts.iter().try_for_each(|part| fits(part))?;
        let mut bytes = Vec::new();
        for part in &parts {
            self.number += 1;
            let (frame, chain) = self.keys.frame(&self.chain, self.number, Kind::Delta, salts(), part);
            bytes.extend_from_slice(&frame);
            self.chain = chain;
        }
        self.delta_bytes += bytes.len() as u64;
        changes.into_iter().for_each(|change| self.state.apply(change));
        Ok(bytes)
    }

    /// Whether deltas outweigh the base.
    pub fn wants_compaction(&self) -> bool {
        self.delta_bytes > self.base_bytes + SLACK_BYTES
    }

    /// The next generation: the bytes that take the old ones' place, and the log.
    pub fn compact(self, salts: impl FnMut() -> [u8; 16]) -> Result<(Vec<u8>, Self), Error> {
        self.compact_outlined(salts, has_all)
    }

    /// As [`Log::compact`], of an outline; see [`Log::create_outlined`].
    pub fn compact_outlined<E: From<Error>>(
        self,
        salts: impl FnMut() -> [u8; 16],
        whole: impl FnMut(&str, &Object) -> Result<Option<Object>, E>,
    ) -> Result<(Vec<u8>, Self), E> {
        let head =
            Head { generation: self.head.generation + 1, before: self.number, before_chain: self.chain, ..self.head };
        Self::begin(self.keys, head, self.state, salts, whole)
    }

    /// What the log says.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The volume's number in its cluster.
    pub fn volume(&self) -> VolumeId {
        self.head.volume
    }

    /// The volume's public key.
    pub fn public(&self) -> PublicKey {
        self.head.public
    }

    /// The log's bytes.
    pub fn len(&self) -> u64 {
        self.base_bytes + self.delta_bytes
    }

    /// Never: a log has a base.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to keep, after what was appended is durable.
    pub fn seen(&self) -> Seen {
        Seen { log: self.head.log, generation: self.head.generation, number: self.number, chain: self.chain }
    }
}

impl Head {
    /// Succeeds unless this generation is older than that one's, or of another history.
    fn follows(&self, seen: &Seen) -> Result<(), Error> {
        if self.log != seen.log {
            return Err(Error::OtherLog);
        }
        if self.generation < seen.generation {
            return Err(self.rolled_back(seen, 0));
        }
        // Of the generation before we know where it ended; of those before that one, that it came after them.
        if self.generation == seen.generation + 1 {
            if self.before < seen.number {
                return Err(self.rolled_back(seen, self.before));
            }
            if self.before == seen.number && self.before_chain != seen.chain {
                return Err(Error::Forked { number: seen.number });
            }
        }
        Ok(())
    }

    fn rolled_back(&self, seen: &Seen, found: u64) -> Error {
        Error::RolledBack {
            seen: seen.number,
            seen_generation: seen.generation,
            found,
            found_generation: self.generation,
        }
    }
}

/// Asked for outlines alone: written as it is, one would put hashes where bytes belong.
fn has_all(_: &str, _: &Object) -> Result<Option<Object>, Error> {
    Err(Error::Outline)
}

fn fits(part: &[u8]) -> Result<(), Error> {
    let max = SEALED_MAX - 32;
    if part.len() > max { Err(Error::TooLong { what: "a change", len: part.len(), max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of frames of these kinds, each signed by the owner and in its place.
    fn log_of(kinds: &[Kind]) -> Result<Opened, Error> {
        let root = VolumeRoot::new([1; 32]);
        let keys = Keys::new(&root);
        let head = Head {
            volume: VolumeId(1),
            public: keys.public(),
            log: [2; 16],
            generation: 1,
            before: 0,
            before_chain: [0; 32],
        };
        let mut bytes = head.encode();
        let mut chain = crypt::hash(&bytes);
        for (at, kind) in kinds.iter().enumerate() {
            let (frame, after) = keys.frame(&chain, at as u64, *kind, [3; 16], &Encoder::default().finish());
            bytes.extend(frame);
            chain = after;
        }
        Log::open(&root, &bytes, None)
    }

    #[test]
    fn a_base_comes_first_and_ends_once() {
        log_of(&[Kind::Base, Kind::BaseEnd, Kind::Delta, Kind::Delta]).unwrap();
        for (kinds, number) in [
            (&[Kind::Delta][..], 0),
            (&[Kind::Base, Kind::Delta], 1),
            (&[Kind::BaseEnd, Kind::BaseEnd], 1),
            (&[Kind::BaseEnd, Kind::Delta, Kind::Base], 2),
        ] {
            let found = log_of(kinds).unwrap_err();
            assert!(matches!(found, Error::Tampered { number: at, .. } if at == number), "{kinds:?}: {found}");
        }
        assert!(matches!(log_of(&[Kind::Base]), Err(Error::Damaged { number: 1, .. })));
        assert!(matches!(log_of(&[]), Err(Error::Damaged { number: 0, .. })));
    }
}
