//! What owners ask of nodes with no director alive, and what nodes answer, to the byte (docs/formats/kit.md).
//!
//! The head of a call is a [`Question`], that of the answer a [`Told`]; headers, bytes of pieces and copies of kits are the bodies.

use base::{DriveId, NodeId, PieceId};
use codec::{Error as CodecError, Reader, Versioned, Writer};
use crypt::PublicKey;
use grant::{Ticket, address};

use crate::spread::{Label, Take};
use crate::types::Node;

/// The service's number on the wire.
pub const SERVICE: u16 = 24;
/// Bytes that one answer carries at the most.
pub const BYTES_MAX: usize = 4 << 20;
/// Headers in one answer at the most.
pub const HEADERS_MAX: u32 = 1024;
/// Nodes, or copies, in one answer at the most.
const MANY_MAX: usize = 10_000;

/// Where to go on among a node's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The drive.
    pub drive: DriveId,
    /// Its own word for the place there.
    pub at: u64,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Which other nodes are there?
    Nodes,
    /// Headers of pieces that the asker may read: so many pieces at the most are looked at, from a place on.
    Headers(Option<Place>, u32),
    /// The header of this piece.
    Header(PieceId),
    /// Bytes of the piece's body: first one, and how many (at most [`BYTES_MAX`]).
    Read(PieceId, u64, u32),
    /// Which copies of kits are there?
    Kits,
    /// The copy of this volume's kit, from a byte on.
    Kit(PublicKey, u64),
    /// Keep the parcel that is the body.
    Keep,
}

/// What is asked, and what allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of who isn't the owner: the owner's ticket.
    pub ticket: Option<Ticket>,
    /// What is asked.
    pub ask: Ask,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nodes that are known here.
    Nodes(Vec<(NodeId, Node)>),
    /// The lengths of the headers in the body, how many pieces were looked at, and where to go on.
    Headers(Vec<u32>, u32, Option<Place>),
    /// The body is the header.
    Header,
    /// The body are the bytes.
    Read,
    /// Whole copies of kits.
    Kits(Vec<Label>),
    /// The body are bytes of this copy.
    Kit(Label),
    /// What became of the parcel.
    Kept(Take),
}

impl Versioned for Question {
    const NAME: &'static str = "owner's question";
    const MARK: [u8; 4] = *b"AbOq";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.option(self.ticket.as_ref(), |to, ticket| _ = to.bytes(&ticket.encode()));
        match &self.ask {
            Ask::Nodes => _ = to.u8(0),
            Ask::Headers(from, limit) => _ = to.u8(1).option(*from, write_place).u32(*limit),
            Ask::Header(piece) => _ = to.u8(2).raw(&piece.to_bytes()),
            Ask::Read(piece, offset, len) => _ = to.u8(3).raw(&piece.to_bytes()).u64(*offset).u32(*len),
            Ask::Kits => _ = to.u8(4),
            Ask::Kit(volume, from) => _ = to.u8(5).raw(&volume.0).u64(*from),
            Ask::Keep => _ = to.u8(6),
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let ticket = from.option("ticket", |from| Ticket::decode(from.bytes("ticket", 512)?))?;
        let piece = |from: &mut Reader<'_>| from.array("piece").map(PieceId::from_bytes);
        let ask = match from.u8("question")? {
            0 => Ask::Nodes,
            1 => Ask::Headers(from.option("place", read_place)?, from.u32("limit")?.min(HEADERS_MAX)),
            2 => Ask::Header(piece(from)?),
            3 => {
                let (piece, offset, len) = (piece(from)?, from.u64("offset")?, from.u32("length")?);
                if len as usize > BYTES_MAX {
                    return Err(CodecError::TooLong { what: "bytes", len: len as usize, max: BYTES_MAX });
                }
                Ask::Read(piece, offset, len)
            }
            4 => Ask::Kits,
            5 => Ask::Kit(PublicKey(from.array("volume's key")?), from.u64("offset")?),
            6 => Ask::Keep,
            value => return Err(CodecError::Value { what: "question", value: value.into() }),
        };
        Ok(Self { ticket, ask })
    }
}

impl Versioned for Told {
    const NAME: &'static str = "answer to an owner";
    const MARK: [u8; 4] = *b"AbOa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Told::Nodes(nodes) => {
                to.u8(0).u32(nodes.len() as u32);
                for (id, node) in nodes {
                    address::write(to.raw(&id.0).raw(&node.key.0), &node.addresses);
                }
            }
            Told::Headers(lens, looked, next) => {
                to.u8(1).u32(lens.len() as u32);
                lens.iter().for_each(|len| _ = to.u32(*len));
                to.u32(*looked).option(*next, write_place);
            }
            Told::Header => _ = to.u8(2),
            Told::Read => _ = to.u8(3),
            Told::Kits(labels) => {
                to.u8(4).u32(labels.len() as u32);
                labels.iter().for_each(|label| label.write(to));
            }
            Told::Kit(label) => label.write(to.u8(5)),
            Told::Kept(take) => {
                let (code, from) = match take {
                    Take::Grow => (0, 0),
                    Take::Begin => (1, 0),
                    Take::Fill => (2, 0),
                    Take::Known => (3, 0),
                    Take::From(from) => (4, *from),
                    Take::Older => (5, 0),
                    Take::Forged => (6, 0),
                };
                to.u8(6).u8(code).u64(from);
            }
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match from.u8("answer")? {
            0 => {
                let node = |from: &mut Reader<'_>| {
                    let id = NodeId(from.array("node")?);
                    Ok((id, Node { key: PublicKey(from.array("key")?), addresses: address::read(from)? }))
                };
                Told::Nodes(many(from, MANY_MAX, node)?)
            }
            1 => {
                let lens = many(from, HEADERS_MAX as usize, |from| from.u32("length"))?;
                Told::Headers(lens, from.u32("looked at")?, from.option("place", read_place)?)
            }
            2 => Told::Header,
            3 => Told::Read,
            4 => Told::Kits(many(from, MANY_MAX, Label::read)?),
            5 => Told::Kit(Label::read(from)?),
            6 => {
                let (code, at) = (from.u8("what became of it")?, from.u64("offset")?);
                Told::Kept(match code {
                    0 => Take::Grow,
                    1 => Take::Begin,
                    2 => Take::Fill,
                    3 => Take::Known,
                    4 => Take::From(at),
                    5 => Take::Older,
                    6 => Take::Forged,
                    value => return Err(CodecError::Value { what: "what became of it", value: value.into() }),
                })
            }
            value => return Err(CodecError::Value { what: "answer", value: value.into() }),
        })
    }
}

fn write_place(to: &mut Writer, place: Place) {
    to.raw(&place.drive.0).u64(place.at);
}

fn read_place(from: &mut Reader<'_>) -> Result<Place, CodecError> {
    Ok(Place { drive: DriveId(from.array("drive")?), at: from.u64("place")? })
}

/// A count, then so many. Nothing is reserved on a peer's word.
fn many<T>(
    from: &mut Reader<'_>,
    max: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    let len = from.u32("count")? as usize;
    if len > max {
        return Err(CodecError::TooLong { what: "a list", len, max });
    }
    let mut all = Vec::with_capacity(len.min(from.left()));
    for _ in 0..len {
        all.push(read(from)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use base::{SegmentId, Wall};
    use crypt::VolumeRoot;

    use super::*;

    fn questions() -> Vec<Question> {
        let root = VolumeRoot::new([1; 32]);
        let piece = PieceId { segment: SegmentId([2; 16]), index: 3 };
        let place = Place { drive: DriveId([4; 16]), at: 5 };
        let ticket = Ticket::issue(&root, &[2], None, 6, Wall(7), [8; 16]);
        let asks = [
            Ask::Nodes,
            Ask::Headers(None, 9),
            Ask::Headers(Some(place), 9),
            Ask::Header(piece),
            Ask::Read(piece, 10, 11),
            Ask::Kits,
            Ask::Kit(root.signing_key().public(), 12),
            Ask::Keep,
        ];
        let mut all: Vec<Question> = asks.map(|ask| Question { ticket: None, ask }).into();
        all.push(Question { ticket: Some(ticket), ask: Ask::Header(piece) });
        all
    }

    fn answers() -> Vec<Told> {
        let key = PublicKey([1; 32]);
        let node = Node { key, addresses: vec!["10.0.0.1:4400".parse().unwrap(), "[::1]:4400".parse().unwrap()] };
        let label = Label { volume: key, log: [2; 16], generation: 3, position: 4, len: 5 };
        let mut all = vec![
            Told::Nodes(vec![(NodeId([6; 16]), node)]),
            Told::Headers(vec![7, 8], 9, Some(Place { drive: DriveId([4; 16]), at: 5 })),
            Told::Header,
            Told::Read,
            Told::Kits(vec![label]),
            Told::Kit(label),
        ];
        let takes = [Take::Grow, Take::Begin, Take::Fill, Take::Known, Take::From(u64::MAX), Take::Older, Take::Forged];
        all.extend(takes.map(Told::Kept));
        all
    }

    #[test]
    fn what_owners_and_nodes_say_never_changes_and_bad_bytes_are_refused() {
        let questions = questions().into_iter().map(|one| {
            let bytes = one.encode();
            assert_eq!(Question::decode(&bytes), Ok(one));
            (0..bytes.len()).for_each(|cut| assert!(Question::decode(&bytes[..cut]).is_err()));
            bytes
        });
        let answers = answers().into_iter().map(|one| {
            let bytes = one.encode();
            assert_eq!(Told::decode(&bytes), Ok(one));
            (0..bytes.len()).for_each(|cut| assert!(Told::decode(&bytes[..cut]).is_err()));
            bytes
        });
        let all: String = questions.chain(answers).map(|bytes| base::ids::hex(&bytes) + "\n").collect();
        assert_eq!(all, include_str!("../tests/ask-v1.txt"));
    }

    #[test]
    fn no_answer_makes_its_reader_reserve_what_it_did_not_send() {
        let mut bytes = Told::Kits(Vec::new()).encode();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&9_999u32.to_le_bytes());
        assert!(Told::decode(&bytes).is_err());
        bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Told::decode(&bytes), Err(CodecError::TooLong { .. })));
        let mut long = Question { ticket: None, ask: Ask::Read(PieceId::from_bytes([0; 17]), 0, 1) }.encode();
        let at = long.len() - 4;
        long[at..].copy_from_slice(&(BYTES_MAX as u32 + 1).to_le_bytes());
        assert!(matches!(Question::decode(&long), Err(CodecError::TooLong { .. })));
    }
}
