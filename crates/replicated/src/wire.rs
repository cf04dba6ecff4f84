//! What replicas say to each other. docs/formats/replicated.md has every byte.
//!
//! A message is a [`Versioned`] form and the CRC-64 of it. Whoever can't read one says so: it never
//! panics, and never believes lengths.

use base::{NodeId, Seq};
use codec::{Error, Reader, Versioned, Writer};
use metastore::Entry;

use crate::parts::{self, BATCH_BYTES_MAX};
use crate::types::{LogEntry, LogId, Manifest, StoredMembership, Vote};

/// Bytes of one message at the most: a batch of the largest size and what frames it. Transports
/// must carry that.
pub const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ask {
    /// Take these entries; none: I am still your leader.
    Append { vote: Vote, previous: Option<LogId>, commit: Option<LogId>, entries: Vec<LogEntry> },
    /// Vote for me.
    Vote(Candidacy),
    /// Would you?
    PreVote(Candidacy),
    /// Lead at once, if you have everything.
    Transfer { vote: Vote, to: NodeId, last: Option<LogId> },
    /// The log doesn't reach back to what you have: take the journal from me, then go on here.
    Offer { vote: Vote, last: Option<LogId>, membership: StoredMembership, manifest: Manifest },
    /// Entries of the journal after this place, about so many bytes.
    Tail { after: Seq, bytes: u32 },
    /// Up to where must be applied before a read that is asked for now?
    ReadIndex,
    /// The digest of my rows at that place.
    Report { seq: Seq, digest: [u8; 32] },
    /// Do you follow me still?
    Led(Vote),
}

/// Who wants to lead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidacy {
    pub vote: Vote,
    pub last: Option<LogId>,
    /// The leader asked for it.
    pub is_transfer: bool,
}

/// A question with what it is about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub token: [u8; 16],
    pub shard: u32,
    pub ask: Ask,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// No, and why.
    Refused(String),
    /// Ask that one.
    Elsewhere(Option<NodeId>),
    /// To an append.
    Appended(Appended),
    /// To a vote.
    Voted { vote: Vote, is_granted: bool, last: Option<LogId> },
    /// To a transfer.
    Transfer(Transfer),
    /// To an offer: it is in place.
    Installed(Vote),
    /// To an offer: the journal is being fetched, and ends here by now.
    Filling(Seq),
    /// To a tail: where the journal ends, and entries.
    Tail { end: Seq, entries: Vec<Entry> },
    /// To a read index.
    ReadIndex(u64),
    /// To a report.
    Noted,
    /// To the question whether it follows still.
    Led(bool),
}

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Appended {
    /// All of it is durable.
    All,
    /// As far as that.
    UpTo(Option<LogId>),
    /// What goes before isn't there.
    Conflict,
    /// Somebody else leads.
    Higher(Vote),
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Transfer {
    /// It leads, or tries.
    Taken,
    /// Another leader is known.
    VoteChanged { expected: Vote, actual: Vote },
    /// Entries are missing.
    Behind { expected: Option<LogId>, actual: Option<LogId> },
}

fn put_candidacy(to: &mut Writer, one: &Candidacy) {
    parts::put_vote(to, &one.vote);
    parts::put_maybe(to, one.last.as_ref());
    to.u8(one.is_transfer.into());
}

fn candidacy(from: &mut Reader<'_>) -> Result<Candidacy, Error> {
    Ok(Candidacy {
        vote: parts::vote(from)?,
        last: parts::maybe_log_id(from)?,
        is_transfer: parts::flag(from, "transfer")?,
    })
}

impl Versioned for Request {
    const NAME: &'static str = "replica request";
    const MARK: [u8; 4] = *b"ARrq";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.token).u32(self.shard);
        match &self.ask {
            Ask::Append { vote, previous, commit, entries } => {
                to.u8(1);
                parts::put_vote(to, vote);
                parts::put_maybe(to, previous.as_ref());
                parts::put_maybe(to, commit.as_ref());
                to.u32(entries.len() as u32);
                entries.iter().for_each(|entry| parts::put_entry(to, entry));
            }
            Ask::Vote(one) => {
                to.u8(2);
                put_candidacy(to, one);
            }
            Ask::PreVote(one) => {
                to.u8(3);
                put_candidacy(to, one);
            }
            Ask::Transfer { vote, to: target, last } => {
                to.u8(4);
                parts::put_vote(to, vote);
                to.raw(&target.0);
                parts::put_maybe(to, last.as_ref());
            }
            Ask::Offer { vote, last, membership, manifest } => {
                to.u8(5);
                parts::put_vote(to, vote);
                parts::put_maybe(to, last.as_ref());
                parts::put_stored_membership(to, membership);
                parts::put_manifest(to, manifest);
            }
            Ask::Tail { after, bytes } => _ = to.u8(6).u64(after.0).u32(*bytes),
            Ask::ReadIndex => _ = to.u8(7),
            Ask::Report { seq, digest } => _ = to.u8(8).u64(seq.0).raw(digest),
            Ask::Led(vote) => parts::put_vote(to.u8(9), vote),
        }
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let (token, shard) = (from.array("token")?, from.u32("shard")?);
        Ok(Self { token, shard, ask: ask(from)? })
    }
}

fn ask(from: &mut Reader<'_>) -> Result<Ask, Error> {
    Ok(match from.u8("question")? {
        1 => {
            let vote = parts::vote(from)?;
            let (previous, commit) = (parts::maybe_log_id(from)?, parts::maybe_log_id(from)?);
            let mut entries = Vec::new();
            for _ in 0..from.u32("entries")? {
                entries.push(parts::entry(from)?);
            }
            check_order(previous.as_ref(), &entries)?;
            Ask::Append { vote, previous, commit, entries }
        }
        2 => Ask::Vote(candidacy(from)?),
        3 => Ask::PreVote(candidacy(from)?),
        4 => Ask::Transfer {
            vote: parts::vote(from)?,
            to: NodeId(from.array("next leader")?),
            last: parts::maybe_log_id(from)?,
        },
        5 => Ask::Offer {
            vote: parts::vote(from)?,
            last: parts::maybe_log_id(from)?,
            membership: parts::stored_membership(from)?,
            manifest: parts::manifest(from)?,
        },
        6 => Ask::Tail { after: Seq(from.u64("after")?), bytes: from.u32("bytes")? },
        7 => Ask::ReadIndex,
        8 => Ask::Report { seq: Seq(from.u64("report's seq")?), digest: from.array("digest")? },
        9 => Ask::Led(parts::vote(from)?),
        value => return Err(Error::Value { what: "question", value: value.into() }),
    })
}

/// Entries follow each other; the consensus library takes that for granted.
fn check_order(previous: Option<&LogId>, entries: &[LogEntry]) -> Result<(), Error> {
    let mut last = previous.copied();
    for entry in entries {
        let next = last.map_or(0, |last| last.index.wrapping_add(1));
        let is_next = entry.log_id.index == next && last.is_none_or(|last| last < entry.log_id);
        if !is_next {
            return Err(Error::Value { what: "entry's index", value: entry.log_id.index });
        }
        last = Some(entry.log_id);
    }
    Ok(())
}

impl Versioned for Reply {
    const NAME: &'static str = "replica reply";
    const MARK: [u8; 4] = *b"ARrp";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Reply::Refused(why) => _ = to.u8(0).str(why),
            Reply::Elsewhere(leader) => _ = to.u8(1).option(leader.as_ref(), |to, leader| _ = to.raw(&leader.0)),
            Reply::Appended(one) => put_appended(to.u8(2), one),
            Reply::Voted { vote, is_granted, last } => {
                to.u8(3);
                parts::put_vote(to, vote);
                to.u8((*is_granted).into());
                parts::put_maybe(to, last.as_ref());
            }
            Reply::Transfer(one) => put_transfer(to.u8(4), one),
            Reply::Installed(vote) => parts::put_vote(to.u8(5), vote),
            Reply::Filling(head) => _ = to.u8(6).u64(head.0),
            Reply::Tail { end, entries } => {
                to.u8(7).u64(end.0).u32(entries.len() as u32);
                for entry in entries {
                    let mut bytes = Vec::with_capacity(metastore::weight(&entry.batch) + 16);
                    metastore::write_entry(&mut bytes, &entry.batch, &entry.dropped);
                    to.u64(entry.seq.0).bytes(&bytes);
                }
            }
            Reply::ReadIndex(index) => _ = to.u8(8).u64(*index),
            Reply::Noted => _ = to.u8(9),
            Reply::Led(is_so) => _ = to.u8(10).u8((*is_so).into()),
        }
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match from.u8("answer")? {
            0 => Reply::Refused(from.str("refusal", 4096)?.to_owned()),
            1 => Reply::Elsewhere(from.option("leader", |from| Ok(NodeId(from.array("leader")?)))?),
            2 => Reply::Appended(appended(from)?),
            3 => Reply::Voted {
                vote: parts::vote(from)?,
                is_granted: parts::flag(from, "granted")?,
                last: parts::maybe_log_id(from)?,
            },
            4 => Reply::Transfer(transfer(from)?),
            5 => Reply::Installed(parts::vote(from)?),
            6 => Reply::Filling(Seq(from.u64("head")?)),
            7 => {
                let end = Seq(from.u64("end")?);
                let mut entries = Vec::new();
                for _ in 0..from.u32("entries")? {
                    let seq = Seq(from.u64("entry's seq")?);
                    entries.push(metastore::read_entry(seq, from.bytes("entry", BATCH_BYTES_MAX)?)?);
                }
                Reply::Tail { end, entries }
            }
            8 => Reply::ReadIndex(from.u64("read index")?),
            9 => Reply::Noted,
            10 => Reply::Led(parts::flag(from, "following")?),
            value => return Err(Error::Value { what: "answer", value: value.into() }),
        })
    }
}

fn put_appended(to: &mut Writer, one: &Appended) {
    match one {
        Appended::All => _ = to.u8(0),
        Appended::UpTo(last) => parts::put_maybe(to.u8(1), last.as_ref()),
        Appended::Conflict => _ = to.u8(2),
        Appended::Higher(vote) => parts::put_vote(to.u8(3), vote),
    }
}

fn appended(from: &mut Reader<'_>) -> Result<Appended, Error> {
    Ok(match from.u8("append's end")? {
        0 => Appended::All,
        1 => Appended::UpTo(parts::maybe_log_id(from)?),
        2 => Appended::Conflict,
        3 => Appended::Higher(parts::vote(from)?),
        value => return Err(Error::Value { what: "append's end", value: value.into() }),
    })
}

fn put_transfer(to: &mut Writer, one: &Transfer) {
    match one {
        Transfer::Taken => _ = to.u8(0),
        Transfer::VoteChanged { expected, actual } => {
            parts::put_vote(to.u8(1), expected);
            parts::put_vote(to, actual);
        }
        Transfer::Behind { expected, actual } => {
            parts::put_maybe(to.u8(2), expected.as_ref());
            parts::put_maybe(to, actual.as_ref());
        }
    }
}

fn transfer(from: &mut Reader<'_>) -> Result<Transfer, Error> {
    Ok(match from.u8("transfer's end")? {
        0 => Transfer::Taken,
        1 => Transfer::VoteChanged { expected: parts::vote(from)?, actual: parts::vote(from)? },
        2 => Transfer::Behind { expected: parts::maybe_log_id(from)?, actual: parts::maybe_log_id(from)? },
        value => return Err(Error::Value { what: "transfer's end", value: value.into() }),
    })
}

/// The message's bytes.
pub(crate) fn seal(message: &impl Versioned) -> bytes::Bytes {
    let mut bytes = message.encode();
    let sum = codec::crc64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.into()
}

/// The message in the bytes.
pub(crate) fn unseal<M: Versioned>(bytes: &[u8]) -> Result<M, Error> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Error::TooLong { what: M::NAME, len: bytes.len(), max: MESSAGE_BYTES_MAX });
    }
    let Some((message, sum)) = bytes.split_last_chunk::<8>() else {
        return Err(Error::Short { what: M::NAME, need: 8, have: bytes.len() });
    };
    if u64::from_le_bytes(*sum) != codec::crc64(message) {
        return Err(Error::Checksum { what: M::NAME });
    }
    M::decode(message)
}
