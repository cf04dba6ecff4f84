//! Messages to the byte: docs/formats/liveness.md.

use base::NodeId;
use bytes::{Buf, BufMut};
use codec::{Error, Reader, Writer};
use foca::{Codec, Header, Member, Message, State};

/// Bytes of a message at the most; they travel over streams, so this needs no care for packets.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4096;
/// The first byte of every message.
const VERSION: u8 = 1;
/// Bytes of an identity and of a member.
const IDENTITY_BYTES: usize = 32;
const MEMBER_BYTES: usize = IDENTITY_BYTES + 3;

/// One start of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub node: NodeId,
    pub incarnation: u64,
    /// Random: tells apart two processes with one key that come to the same incarnation.
    pub run: u64,
}

impl Identity {
    /// The later of two identities of a node wins.
    pub fn age(&self) -> (u64, u64) {
        (self.incarnation, self.run)
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { incarnation: self.incarnation.saturating_add(1), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.age() > adversary.age()
    }
}

/// Reads and writes messages.
#[derive(Debug)]
pub(crate) struct Wire;

/// What a message says by the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Who sent it, as it says.
    pub sender: Option<NodeId>,
    /// The latest identity of this node that it speaks of.
    pub mine: (u64, u64),
    /// Who was reached through the sender.
    pub vouched: Option<NodeId>,
    /// Whether it answers a question of this node directly.
    pub answered: bool,
}

/// Reads a whole message, before anything of it is believed.
pub(crate) fn look(me: NodeId, bytes: &[u8]) -> Result<Heard, Error> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Error::TooLong { what: "message", len: bytes.len(), max: MESSAGE_BYTES_MAX });
    }
    let mut reader = Reader::new(bytes);
    let header = header(&mut reader)?;
    let mut heard = Heard { sender: Some(header.src.node), ..Heard::default() };
    let mut about = vec![header.dst];
    match header.message {
        Message::Ack(_) => heard.answered = true,
        Message::ForwardedAck { origin, .. } => heard.vouched = Some(origin.node),
        _ => {}
    }
    if reader.left() > 0 {
        for _ in 0..u16::from_be_bytes(reader.array("member count")?) {
            about.push(*member(&mut reader)?.id());
        }
    }
    reader.end("message")?;
    let mine = about.iter().filter(|identity| identity.node == me).map(Identity::age);
    heard.mine = mine.max().unwrap_or_default();
    Ok(heard)
}

fn identity(from: &mut Reader<'_>) -> Result<Identity, Error> {
    Ok(Identity { node: NodeId(from.array("node")?), incarnation: from.u64("incarnation")?, run: from.u64("run")? })
}

fn message(from: &mut Reader<'_>) -> Result<Message<Identity>, Error> {
    Ok(match from.u8("message")? {
        0 => Message::Ping(from.u8("probe")?),
        1 => Message::Ack(from.u8("probe")?),
        2 => Message::PingReq { target: identity(from)?, probe_number: from.u8("probe")? },
        3 => Message::IndirectPing { origin: identity(from)?, probe_number: from.u8("probe")? },
        4 => Message::IndirectAck { target: identity(from)?, probe_number: from.u8("probe")? },
        5 => Message::ForwardedAck { origin: identity(from)?, probe_number: from.u8("probe")? },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        10 => Message::TurnUndead,
        value => return Err(Error::Value { what: "message", value: value.into() }),
    })
}

fn header(from: &mut Reader<'_>) -> Result<Header<Identity>, Error> {
    let found = from.u8("message version")?;
    if found != VERSION {
        return Err(Error::Version { what: "message", found, known: VERSION });
    }
    let (src, src_incarnation) = (identity(from)?, from.u16("refutations")?);
    Ok(Header { src, src_incarnation, dst: identity(from)?, message: message(from)? })
}

fn member(from: &mut Reader<'_>) -> Result<Member<Identity>, Error> {
    let (id, incarnation) = (identity(from)?, from.u16("refutations")?);
    let state = match from.u8("state")? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        value => return Err(Error::Value { what: "state", value: value.into() }),
    };
    Ok(Member::new(id, incarnation, state))
}

fn put_identity(to: &mut Writer, identity: &Identity) {
    to.raw(&identity.node.0).u64(identity.incarnation).u64(identity.run);
}

fn put_message(to: &mut Writer, message: &Message<Identity>) {
    let mut with = |number: u8, about: &Identity, probe: u8| {
        to.u8(number);
        put_identity(to, about);
        to.u8(probe);
    };
    match message {
        Message::PingReq { target, probe_number } => with(2, target, *probe_number),
        Message::IndirectPing { origin, probe_number } => with(3, origin, *probe_number),
        Message::IndirectAck { target, probe_number } => with(4, target, *probe_number),
        Message::ForwardedAck { origin, probe_number } => with(5, origin, *probe_number),
        Message::Ping(probe) => drop(to.u8(0).u8(*probe)),
        Message::Ack(probe) => drop(to.u8(1).u8(*probe)),
        Message::Announce => drop(to.u8(6)),
        Message::Feed => drop(to.u8(7)),
        Message::Gossip => drop(to.u8(8)),
        Message::Broadcast => drop(to.u8(9)),
        Message::TurnUndead => drop(to.u8(10)),
    }
}

/// Appends all or nothing: a message that is full must not end in half a member.
fn put(bytes: &[u8], mut to: impl BufMut) -> Result<(), Error> {
    if to.remaining_mut() < bytes.len() {
        return Err(Error::TooLong { what: "message", len: bytes.len(), max: to.remaining_mut() });
    }
    to.put_slice(bytes);
    Ok(())
}

/// Reads from the front of a buffer in one part, which foca's are.
fn take<T>(buf: &mut impl Buf, read: impl FnOnce(&mut Reader<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let mut reader = Reader::new(buf.chunk());
    let before = reader.left();
    let value = read(&mut reader)?;
    let used = before - reader.left();
    buf.advance(used);
    Ok(value)
}

impl Codec<Identity> for Wire {
    type Error = Error;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), Error> {
        let mut to = Writer::new();
        to.u8(VERSION);
        put_identity(&mut to, &header.src);
        to.u16(header.src_incarnation);
        put_identity(&mut to, &header.dst);
        put_message(&mut to, &header.message);
        put(&to.finish(), buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, Error> {
        take(&mut buf, header)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), Error> {
        let mut to = Writer::new();
        put_identity(&mut to, member.id());
        to.u16(member.incarnation()).u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        debug_assert_eq!(to.len(), MEMBER_BYTES);
        put(&to.finish(), buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, Error> {
        take(&mut buf, member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> Identity {
        Identity { node: NodeId([number; 16]), incarnation: u64::from(number) << 8, run: u64::from(number) << 4 }
    }

    #[test]
    fn messages_are_read_back_and_their_bytes_never_change() {
        let messages = [
            Message::Ping(7),
            Message::Ack(7),
            Message::PingReq { target: id(3), probe_number: 9 },
            Message::IndirectPing { origin: id(3), probe_number: 9 },
            Message::IndirectAck { target: id(3), probe_number: 9 },
            Message::ForwardedAck { origin: id(3), probe_number: 9 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::TurnUndead,
        ];
        let (mut wire, mut text) = (Wire, String::new());
        for message in messages {
            let header = Header { src: id(1), src_incarnation: 5, dst: id(2), message };
            let mut bytes = Vec::new();
            wire.encode_header(&header, &mut bytes).unwrap();
            assert_eq!(wire.decode_header(bytes.as_slice()).unwrap(), header);
            for cut in 0..bytes.len() {
                assert!(wire.decode_header(&bytes[..cut]).is_err());
            }
            // No state of members follows, or none fits: both are whole messages.
            assert_eq!(look(id(2).node, &bytes).unwrap().mine, id(2).age());
            text += &format!("{}\n", base::ids::hex(&bytes));
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(id(4), 6, state);
            let mut bytes = Vec::new();
            wire.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(wire.decode_member(bytes.as_slice()).unwrap(), member);
            assert!((0..bytes.len()).all(|cut| wire.decode_member(&bytes[..cut]).is_err()));
            text += &format!("{}\n", base::ids::hex(&bytes));
        }
        assert_eq!(text, include_str!("../tests/messages.txt"), "\n{text}");
    }
}
