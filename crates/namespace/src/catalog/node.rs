//! Nodes, the signed list of them, and the tickets with which they joined.

use std::net::SocketAddr;

use base::kv::{Batch, View};
use base::{Epoch, NodeId, Wall};
use codec::{Reader, Versioned, Writer};

use super::drive::one;
use super::{get, keys, scan};
use crate::error::Error;

/// Addresses of a node at the most: one for each network that it is on, with room.
pub const NODE_ADDRESSES_MAX: usize = 16;
/// Labels of a node at the most; there are five kinds.
const LABELS_MAX: usize = 16;
/// Bytes of a label's name, of its value, of an address and of a node's name at the most.
const NODE_TEXT_BYTES_MAX: usize = 255;

/// What a node is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NodeState {
    /// A member that holds data and takes more.
    Active = 0,
    /// Its drives are being emptied.
    Draining = 1,
    /// Lost: its drives don't count. It may come back.
    Gone = 2,
    /// No member any more: it left or was expunged.
    Removed = 3,
}

/// A node that is a member, or was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its id: stays when its key is replaced.
    pub id: NodeId,
    /// Its public key.
    pub key: [u8; 32],
    /// Which of its keys that is, counted from 1.
    pub serial: u32,
    /// The first member list that has it with this key.
    pub since: Epoch,
    /// What it is there for.
    pub state: NodeState,
    /// When it joined.
    pub joined: Wall,
    /// Its name, for people.
    pub name: String,
    /// Where it listens, the best first.
    pub addresses: Vec<SocketAddr>,
    /// Its labels: name and value.
    pub labels: Vec<(String, String)>,
}

impl NodeRow {
    /// The site that it is in; empty if it wasn't said.
    pub fn site(&self) -> &str {
        self.labels.iter().find(|(name, _)| name == "site").map_or("", |(_, site)| site)
    }
}

impl Versioned for NodeRow {
    const NAME: &'static str = "node";
    const MARK: [u8; 4] = *b"caNo";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.id.0).raw(&self.key).u32(self.serial).u64(self.since.0).u8(self.state as u8);
        to.u64(self.joined.0).str(&self.name).u8(self.addresses.len() as u8);
        for address in &self.addresses {
            to.str(&address.to_string());
        }
        to.u8(self.labels.len() as u8);
        for (name, value) in &self.labels {
            to.str(name).str(value);
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(NodeRow {
            id: NodeId(from.array("node")?),
            key: from.array("node key")?,
            serial: from.u32("serial")?,
            since: Epoch(from.u64("epoch")?),
            state: match from.u8("node state")? {
                0 => NodeState::Active,
                1 => NodeState::Draining,
                2 => NodeState::Gone,
                3 => NodeState::Removed,
                value => return Err(codec::Error::Value { what: "node state", value: value.into() }),
            },
            joined: Wall(from.u64("joined")?),
            name: text(from, "node name")?,
            addresses: list(from, "addresses", NODE_ADDRESSES_MAX, address)?,
            labels: list(from, "labels", LABELS_MAX, |from| Ok((text(from, "label")?, text(from, "label value")?)))?,
        })
    }
}

fn text(from: &mut Reader<'_>, what: &'static str) -> Result<String, codec::Error> {
    from.str(what, NODE_TEXT_BYTES_MAX).map(str::to_owned)
}

fn address(from: &mut Reader<'_>) -> Result<SocketAddr, codec::Error> {
    let text = from.str("address", NODE_TEXT_BYTES_MAX)?;
    text.parse().map_err(|_| codec::Error::Value { what: "address", value: text.len() as u64 })
}

fn list<T>(
    from: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, codec::Error>,
) -> Result<Vec<T>, codec::Error> {
    let len = usize::from(from.u8(what)?);
    if len > max {
        return Err(codec::Error::TooLong { what, len, max });
    }
    (0..len).map(|_| read(from)).collect()
}

/// A ticket with which somebody joined. Kept for a while after it expires, so that a join whose
/// answer was lost can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketRow {
    /// Which ticket.
    pub id: [u8; 8],
    /// The key that joined with it.
    pub key: [u8; 32],
    /// Until when it was good.
    pub expires: Wall,
}

impl Versioned for TicketRow {
    const NAME: &'static str = "used ticket";
    const MARK: [u8; 4] = *b"caTi";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.id).raw(&self.key).u64(self.expires.0);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(TicketRow { id: from.array("ticket")?, key: from.array("node key")?, expires: Wall(from.u64("expiry")?) })
    }
}

/// Adds or changes a node. What doesn't fit its row is refused.
pub fn put_node(row: &NodeRow) -> Result<Batch, Error> {
    let long = |text: &str| text.len() > NODE_TEXT_BYTES_MAX;
    if long(&row.name) || row.labels.iter().any(|(name, value)| long(name) || long(value)) {
        return Err(Error::InvalidValue { what: "node", why: "its name or a label is too long" });
    }
    if row.addresses.len() > NODE_ADDRESSES_MAX || row.labels.len() > LABELS_MAX {
        return Err(Error::InvalidValue { what: "node", why: "it has too many addresses or labels" });
    }
    Ok(one(keys::node(row.id), row.encode()))
}

/// A node, whatever its state.
pub fn node(view: &dyn View, id: NodeId) -> Result<Option<NodeRow>, Error> {
    get(view, &keys::node(id))
}

/// Nodes by id, those after `after`, whatever their state.
pub fn nodes(view: &dyn View, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeRow>, Error> {
    scan(view, keys::NODE, after.as_ref().map(|after| after.0.as_slice()), limit)
}

/// The signed member list; its bytes are opaque here.
pub fn member_list(view: &dyn View) -> Result<Option<Vec<u8>>, Error> {
    Ok(view.get(keys::MEMBER_LIST)?)
}

/// Replaces the signed member list.
pub fn put_member_list(bytes: &[u8]) -> Batch {
    one(keys::MEMBER_LIST.to_vec(), bytes.to_vec())
}

/// Who joined with a ticket.
pub fn ticket(view: &dyn View, id: [u8; 8]) -> Result<Option<TicketRow>, Error> {
    get(view, &keys::ticket(id))
}

/// Remembers that somebody joined with a ticket.
pub fn put_ticket(row: &TicketRow) -> Batch {
    one(keys::ticket(row.id), row.encode())
}

/// Used tickets by id, those after `after`.
pub fn tickets(view: &dyn View, after: Option<[u8; 8]>, limit: usize) -> Result<Vec<TicketRow>, Error> {
    scan(view, keys::TICKET, after.as_ref().map(<[u8; 8]>::as_slice), limit)
}

/// The horizon of tickets: whether those that expire by then were used is forgotten, so they are
/// good for nothing, whatever a clock says that was set right since.
pub fn tickets_forgotten(view: &dyn View) -> Result<Wall, Error> {
    let Some(row) = view.get(keys::TICKETS_FORGOTTEN)? else { return Ok(Wall(0)) };
    let mut reader = Reader::new(&row);
    let horizon = Wall(reader.u64("horizon of tickets")?);
    reader.end("horizon of tickets")?;
    Ok(horizon)
}

/// Forgets the used tickets that expired by `before`; an empty batch if there is none.
pub fn forget_tickets(view: &dyn View, before: Wall) -> Result<Batch, Error> {
    /// Tickets looked at in one step; whoever joins calls again.
    const STEP: usize = 10_000;
    let mut batch = Batch::default();
    // Not `before`: a clock that is years ahead for a moment must not void all tickets for years.
    let mut horizon = tickets_forgotten(view)?;
    for row in tickets(view, None, STEP)?.into_iter().filter(|row| row.expires <= before) {
        batch.del(keys::ticket(row.id));
        horizon = horizon.max(row.expires);
    }
    if !batch.is_empty() {
        batch.put(keys::TICKETS_FORGOTTEN, horizon.0.to_le_bytes());
    }
    Ok(batch)
}
