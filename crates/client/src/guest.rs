//! What guests ask who use an end-to-end volume with its keys: metadata of that volume, and pieces of it.
//! docs/formats/guests-wire.md has every byte.
//!
//! A guest is known by its connection's key if that is the volume's, or else by the [`Claim`] of a grant. Neither metadata nor nodes ever
//! get a key of contents.

use base::{Seq, VolumeId, Wall};
use codec::{Error, Reader, Versioned, Writer};
use crypt::{PublicKey, SIGNATURE_BYTES, SigningKey};
use grant::Claim;
use metastore::remote::Rows;
use namespace::Outcome;
use namespace::catalog::OlderKey;
use namespace::wire::{Query, Tail};
use namespace::work::Work;

use crate::pieces;

/// Metadata for guests, on the wire.
pub const METADATA_SERVICE: u16 = 25;
/// Pieces for guests, on the wire.
pub const PIECES_SERVICE: u16 = 26;
/// Bytes of a question about metadata, or of its answer, at the most.
pub const BYTES_MAX: usize = 48 << 20;
/// Bytes of a claim at the most: all its caveats at their longest.
const CLAIM_BYTES_MAX: usize = 24 << 10;
/// Bytes of a question about pieces, without those of pieces.
const ASK_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 255;
const DRILL_BYTES_MAX: usize = 512;
/// What a drill's signature is bound to.
const DRILL_CONTEXT: &str = "abide 2026 owner drill v1";
/// A node lets who watches wait so long at the most, in milliseconds.
pub const WATCH_MS_MAX: u32 = 15_000;

/// By what right it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The volume.
    pub volume: PublicKey,
    /// Of a grant; nothing if the connection shows the volume's own key.
    pub claim: Option<Claim>,
}

impl Right {
    fn write(&self, to: &mut Writer) {
        to.raw(&self.volume.0);
        to.option(self.claim.as_ref(), |to, claim| _ = to.bytes(&claim.encode()));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            volume: PublicKey(from.array("volume's key")?),
            claim: from.option("claim", |from| Claim::decode(from.bytes("claim", CLAIM_BYTES_MAX)?))?,
        })
    }
}

/// What is asked about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What the cluster knows of the volume.
    About,
    /// Policies, groups, drives and nodes: where new segments go, and where pieces are.
    Map,
    /// The rows that this read of the volume looks at.
    Fetch(Query),
    /// A change to the volume, to be made once.
    Work(Box<Work>),
    /// No row is called by older keys of the volume any more; only the volume's key may say so.
    Settled,
    /// What came of a restore drill, as [`Drill::sign`] says it.
    Drilled(String),
    /// What the volume's journal tells of a path and of what is below it.
    Watch {
        /// Behind this place; nothing: where the journal ends now, without waiting.
        after: Option<Seq>,
        /// The key of an object, or a folder's, as rows have it; empty: all.
        prefix: String,
        /// If there is nothing yet, wait so long for it, at most [`WATCH_MS_MAX`].
        wait_ms: u32,
    },
}

/// A question about metadata: the body of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// By what right.
    pub right: Right,
    /// What.
    pub wish: Wish,
}

/// What the cluster knows of an end-to-end volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its bucket's name.
    pub name: String,
    /// Its number.
    pub number: VolumeId,
    /// Says which words open it.
    pub check: [u8; 16],
    /// Grants of earlier epochs are revoked.
    pub epoch: u64,
    /// Keys that the volume's replaced, for who shows the volume's key; grants' holders are told of none.
    pub older: Vec<OlderKey>,
    /// Whether no row is called by older keys any more.
    pub settled: bool,
}

/// What came of a restore drill that an end-to-end volume's owner held: nobody else can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drill {
    /// When it was.
    pub at: Wall,
    /// Objects that were read by another's kit and few nodes alone.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Objects that could not be.
    pub failed: u64,
}

impl Drill {
    fn text(&self) -> String {
        format!("{} {} {} {}", self.at.0, self.objects, self.bytes, self.failed)
    }

    fn signed(&self, volume: VolumeId) -> String {
        format!("{} {}", volume.0, self.text())
    }

    /// As it is sent and kept.
    pub fn sign(&self, volume: VolumeId, key: &SigningKey) -> String {
        let signature = key.sign_as(DRILL_CONTEXT, self.signed(volume).as_bytes());
        format!("{} {}", self.text(), base::ids::hex(&signature))
    }

    /// The reverse; nothing if somebody without the volume's key wrote it.
    pub fn read(text: &str, volume: VolumeId, key: &PublicKey) -> Option<Self> {
        let (text, signature) = text.rsplit_once(' ')?;
        let mut fields = text.split(' ').map(|field| field.parse::<u64>().ok());
        let mut next = || fields.next().flatten();
        let drill = Self { at: Wall(next()?), objects: next()?, bytes: next()?, failed: next()? };
        let mut bytes = [0; SIGNATURE_BYTES];
        let is_whole = drill.text() == text && base::ids::unhex(signature, &mut bytes);
        (is_whole && key.verify_as(DRILL_CONTEXT, drill.signed(volume).as_bytes(), &bytes)).then_some(drill)
    }
}

/// The answer: the body of the reply.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What is known.
    About(About),
    /// Rows of one cut.
    Rows(Rows),
    /// The change is made, and came to this.
    Done(Outcome),
    /// The rules say no; nothing was changed.
    Refused(namespace::Error),
    /// Part of the journal.
    Tail(Tail),
}

impl Versioned for Question {
    const NAME: &'static str = "guest's question";
    const MARK: [u8; 4] = *b"AbGq";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.right.write(to);
        match &self.wish {
            Wish::About => _ = to.u8(0),
            Wish::Map => _ = to.u8(1),
            Wish::Fetch(query) => _ = to.u8(2).bytes(&query.encode()),
            Wish::Work(work) => _ = to.u8(3).bytes(&work.encode()),
            Wish::Settled => _ = to.u8(5),
            Wish::Drilled(report) => _ = to.u8(6).str(report),
            Wish::Watch { after, prefix, wait_ms } => {
                to.u8(4).option(*after, |to, after| _ = to.u64(after.0)).str(prefix).u32(*wait_ms);
            }
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let right = Right::read(from)?;
        let wish = match from.u8("question")? {
            0 => Wish::About,
            1 => Wish::Map,
            2 => Wish::Fetch(Query::decode(from.bytes("query", BYTES_MAX)?)?),
            3 => Wish::Work(Box::new(Work::decode(from.bytes("work", BYTES_MAX)?)?)),
            4 => Wish::Watch {
                after: from.option("after", |from| from.u64("after"))?.map(Seq),
                prefix: from.str("prefix", base::limits::KEY_BYTES_MAX)?.to_owned(),
                wait_ms: from.u32("wait")?,
            },
            5 => Wish::Settled,
            6 => Wish::Drilled(from.str("drill", DRILL_BYTES_MAX)?.to_owned()),
            value => return Err(Error::Value { what: "question", value: value.into() }),
        };
        Ok(Self { right, wish })
    }
}

impl Versioned for Answer {
    const NAME: &'static str = "answer to a guest";
    const MARK: [u8; 4] = *b"AbGa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            // A volume that always had its keys is told as it was before there was a way to replace them.
            Answer::About(about) => {
                let is_first = about.older.is_empty() && about.settled;
                to.u8(if is_first { 0 } else { 5 });
                to.str(&about.name).u32(about.number.0).raw(&about.check).u64(about.epoch);
                if !is_first {
                    OlderKey::write_all(&about.older, to);
                    to.u8(about.settled.into());
                }
            }
            Answer::Rows(rows) => _ = to.u8(1).bytes(&rows.encode()),
            Answer::Done(outcome) => _ = to.u8(2).bytes(&outcome.encode()),
            Answer::Refused(error) => _ = to.u8(3).bytes(&error.encode()),
            Answer::Tail(tail) => _ = to.u8(4).bytes(&tail.encode()),
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match from.u8("answer")? {
            which @ (0 | 5) => {
                let mut about = About {
                    name: from.str("name", NAME_BYTES_MAX)?.to_owned(),
                    number: VolumeId(from.u32("volume")?),
                    check: from.array("check value")?,
                    epoch: from.u64("epoch")?,
                    older: Vec::new(),
                    settled: true,
                };
                if which == 5 {
                    about.older = OlderKey::read_all(from)?;
                    about.settled = from.u8("settled")? != 0;
                }
                Answer::About(about)
            }
            1 => Answer::Rows(Rows::decode(from.bytes("rows", BYTES_MAX)?)?),
            2 => Answer::Done(Outcome::decode(from.bytes("outcome", BYTES_MAX)?)?),
            3 => Answer::Refused(namespace::Error::decode(from.bytes("refusal", BYTES_MAX)?)?),
            4 => Answer::Tail(Tail::decode(from.bytes("part of a journal", BYTES_MAX)?)?),
            value => return Err(Error::Value { what: "answer", value: value.into() }),
        })
    }
}

/// A question about pieces: the head of a call. It is answered as a member's is ([`pieces::Told`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceQuestion {
    /// By what right.
    pub right: Right,
    /// What.
    pub ask: pieces::Ask,
}

impl Versioned for PieceQuestion {
    const NAME: &'static str = "guest's question about pieces";
    const MARK: [u8; 4] = *b"AbGp";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.right.write(to);
        to.bytes(&self.ask.encode());
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let right = Right::read(from)?;
        Ok(Self { right, ask: pieces::Ask::decode(from.bytes("request", ASK_BYTES_MAX)?)? })
    }
}
