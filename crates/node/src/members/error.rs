//! Why a membership isn't changed, or a join fails.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use base::{Kind, Kinded, NodeId, Wall};
use wire::TicketError;

/// Why not. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ticket is no good.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// Whether it was used isn't known any more.
    #[error(
        "the ticket expires at {}, and which of those that expire by {} were used is forgotten (a clock of the cluster was \
         ahead): get one that lasts longer from `abide invite --valid-for`",
        .expires.rfc3339(), .horizon.rfc3339()
    )]
    Forgotten {
        /// When the ticket expires.
        expires: Wall,
        /// What is forgotten.
        horizon: Wall,
    },
    /// Of no use as a ticket.
    #[error("{0}")]
    Invite(String),
    /// The machine's key is a member's.
    #[error(
        "this machine's key is that of member {node} ({name}): if this is that machine, start it with `abide up`; if its files \
         were copied from there, remove the copied file {node_file} on it and join again"
    )]
    KeyTaken {
        /// Whose it is.
        node: NodeId,
        /// The name of that node.
        name: String,
        /// The file's name.
        node_file: String,
    },
    /// It was declared gone for ever.
    #[error(
        "node {node} was expunged: its key is never taken again; remove its file {node_file} and join as a new node"
    )]
    Expunged {
        /// The node.
        node: NodeId,
        /// The file's name.
        node_file: String,
    },
    /// It left after it had joined with this ticket.
    #[error("node {node} has left the cluster since it joined with this ticket: get a new one from `abide invite`")]
    Left {
        /// The node.
        node: NodeId,
    },
    /// It has another key by now.
    #[error("node {node} has another key since it joined with this ticket: start it with `abide up`")]
    OldKey {
        /// The node.
        node: NodeId,
    },
    /// Two releases that don't understand each other.
    #[error(
        "the machine speaks versions {} to {} of the protocol, this cluster {} to {}: update the older one",
        .theirs.start(), .theirs.end(), .ours.start(), .ours.end()
    )]
    Versions {
        /// The machine's.
        theirs: RangeInclusive<u16>,
        /// The cluster's.
        ours: RangeInclusive<u16>,
    },
    /// A label that can't be.
    #[error(transparent)]
    Label(#[from] placement::labels::Error),
    /// No member has this id.
    #[error("there is no node {node} in this cluster: `abide node list` shows all")]
    NoNode {
        /// As given.
        node: NodeId,
    },
    /// It can't leave as it is.
    #[error(
        "node {node} still has {drives} drives that hold data: `abide drive drain DRIVE --apply` empties each of them first"
    )]
    HasDrives {
        /// The node.
        node: NodeId,
        /// How many.
        drives: usize,
    },
    /// Nobody would be left.
    #[error("node {node} is the only member: without it there is no cluster")]
    Last {
        /// The node.
        node: NodeId,
    },
    /// One change of a key at a time.
    #[error("the key of node {node} is being replaced already: wait until its old key is retired")]
    Rotating {
        /// The node.
        node: NodeId,
    },
    /// The store has members, and this machine isn't one.
    #[error(
        "this store has {members} members, and this machine's key is none of theirs: put its file {node_file} back, join with a \
         ticket, or give the node's id to take its place"
    )]
    Founded {
        /// How many.
        members: usize,
        /// The file's name.
        node_file: String,
    },
    /// There is no list.
    #[error("this store has no member list yet: it is made when its first node starts")]
    NotFounded,
    /// More than a cluster can have.
    #[error("the cluster has {count} {what} already, more are not possible")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The root key, or what it signed, isn't this cluster's.
    #[error("the root key at hand doesn't fit the store's member list ({0}): name the right key file")]
    Root(wire::Error),
    /// The machine is a member already.
    #[error(
        "this machine is node {node} of that cluster already: start it with `abide up`; to make it another node, remove {path}"
    )]
    Member {
        /// The node.
        node: NodeId,
        /// Its file.
        path: PathBuf,
    },
    /// The node's file.
    #[error("node file {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// The cluster answered with what can't be.
    #[error("join: the cluster's answer makes no sense: {0}")]
    Answer(String),
    /// The connection, or the other side.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The shard's rules or rows.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The shard can't be changed, or asked.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The shard's store.
    #[error("metadata: {0}")]
    Meta(#[from] metastore::Error),
    /// Bytes that can't be read.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// Work was cut short.
    #[error(transparent)]
    Cut(#[from] env::Cut),
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Ticket(error) => error.kind(),
            Error::Forgotten { .. }
            | Error::Expunged { .. }
            | Error::Left { .. }
            | Error::OldKey { .. }
            | Error::Root(_) => Kind::Denied,
            Error::KeyTaken { .. } | Error::Founded { .. } | Error::Member { .. } => Kind::Exists,
            Error::Label(error) => error.kind(),
            Error::NoNode { .. } => Kind::Missing,
            Error::HasDrives { .. } | Error::Last { .. } | Error::Rotating { .. } | Error::NotFounded => Kind::Conflict,
            Error::Invite(_) | Error::Versions { .. } | Error::Full { .. } | Error::File { .. } => Kind::Invalid,
            Error::Answer(_) => Kind::Damaged,
            Error::Transport(error) => error.kind(),
            Error::Namespace(error) => error.kind(),
            Error::Client(error) => error.kind(),
            Error::Meta(error) => error.kind(),
            Error::Codec(error) => error.kind(),
            Error::Cut(_) => Kind::Unreachable,
        }
    }
}
