//! The map's bytes: docs/formats/map.md.

use std::collections::{BTreeMap, BTreeSet};

use base::limits::CODE_PIECES_MAX;
use base::{ClusterId, Demand, Domain, DriveId, Epoch, GroupId, NodeId, PolicyId, Wall};
use codec::{Error, Reader, Versioned, Writer};
use crypt::{PublicKey, SIGNATURE_BYTES};

use super::{Drive, Map, Node, Policy, SignedMap, State};
use crate::group::GroupRow;
use crate::labels::{Labels, VALUE_BYTES_MAX};
use crate::table::GROUPS_MAX;

/// Bytes of an encoded map at the most: 10,000 drives with full tables take a tenth.
pub const MAP_BYTES_MAX: usize = 64 << 20;
/// Nodes of a cluster at the most.
pub const NODES_MAX: usize = 1 << 16;
/// Drives of a cluster at the most.
pub const DRIVES_MAX: usize = 1 << 18;
/// Policies of a cluster at the most.
pub const POLICIES_MAX: usize = 1 << 12;
/// Addresses of a node at the most.
pub const ADDRESSES_MAX: usize = 16;
/// Bytes of an address, and of a name, at the most.
const TEXT_BYTES_MAX: usize = 255;
/// Demands, and label values, of a policy at the most.
const RULES_MAX: usize = 64;

impl State {
    fn decode(from: &mut Reader<'_>, what: &'static str) -> Result<Self, Error> {
        Ok(match from.u8(what)? {
            0 => State::Active,
            1 => State::Draining,
            2 => State::Gone,
            3 => State::Removed,
            value => return Err(Error::Value { what, value: value.into() }),
        })
    }
}

/// Reads a u32 count of at most `max`, then so many values. Nothing is reserved by what bytes claim.
fn many<T>(
    from: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    mut one: impl FnMut(&mut Reader<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let len = from.u32(what)? as usize;
    if len > max {
        return Err(Error::TooLong { what, len, max });
    }
    (0..len).map(|_| one(from)).collect()
}

fn domain(from: &mut Reader<'_>, what: &'static str) -> Result<Domain, Error> {
    let number = from.u8(what)?;
    Domain::from_number(number).ok_or(Error::Value { what, value: number.into() })
}

fn encode_labels(labels: &Labels, to: &mut Writer) {
    let set: Vec<Domain> = Domain::LABELS.into_iter().filter(|label| !labels.get(*label).is_empty()).collect();
    to.u8(set.len() as u8);
    for label in set {
        to.u8(label as u8).str(labels.get(label));
    }
}

fn decode_labels(from: &mut Reader<'_>) -> Result<Labels, Error> {
    let mut labels = Labels::default();
    let mut last = 0;
    for _ in 0..from.u8("label count")? {
        let label = domain(from, "label")?;
        let value = from.str("label value", VALUE_BYTES_MAX)?;
        // Ascending, none twice, none empty: one set of labels has one encoding.
        if label as u8 <= last || value.is_empty() || labels.set(label, value).is_err() {
            return Err(Error::Value { what: "label", value: label as u64 });
        }
        last = label as u8;
    }
    Ok(labels)
}

impl Node {
    fn encode(&self, to: &mut Writer) {
        to.raw(&self.id.0).raw(&self.key.0).u8(self.state as u8).str(&self.name);
        to.u32(self.addresses.len() as u32);
        for address in &self.addresses {
            to.str(address);
        }
        encode_labels(&self.labels, to);
        to.u64(self.joined.0);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            id: NodeId(from.array("node")?),
            key: PublicKey(from.array("node's key")?),
            state: State::decode(from, "node state")?,
            name: from.str("node name", TEXT_BYTES_MAX)?.to_owned(),
            addresses: many(from, "addresses", ADDRESSES_MAX, |from| {
                Ok(from.str("address", TEXT_BYTES_MAX)?.to_owned())
            })?,
            labels: decode_labels(from)?,
            joined: Wall(from.u64("joined")?),
        })
    }
}

impl Policy {
    fn encode(&self, drives: &BTreeMap<DriveId, u32>, to: &mut Writer) {
        to.u16(self.id.0).str(&self.name).u8(self.k).u8(self.m).u8(self.ack);
        to.u32(self.demands.len() as u32);
        for demand in &self.demands {
            to.u8(demand.count).u8(demand.domain as u8);
        }
        to.u32(self.within.len() as u32);
        for (label, value) in &self.within {
            to.u8(*label as u8).str(value);
        }
        to.u32(self.groups.len() as u32);
        for row in &self.groups {
            encode_row(row, drives, to);
        }
    }

    fn decode(drives: &[DriveId], from: &mut Reader<'_>) -> Result<Self, Error> {
        let id = PolicyId(from.u16("policy")?);
        let name = from.str("policy name", TEXT_BYTES_MAX)?.to_owned();
        let (k, m, ack) = (from.u8("k")?, from.u8("m")?, from.u8("ack margin")?);
        let demands = many(from, "demands", RULES_MAX, |from| {
            let count = from.u8("demand")?;
            if count == 0 {
                return Err(Error::Value { what: "demand", value: 0 });
            }
            Ok(Demand { count, domain: domain(from, "demand's domain")? })
        })?;
        let within = many(from, "labels of a policy", RULES_MAX, |from| {
            Ok((domain(from, "label")?, from.str("label value", VALUE_BYTES_MAX)?.to_owned()))
        })?;
        let n = usize::from(k) + usize::from(m);
        if k == 0 || n > CODE_PIECES_MAX {
            return Err(Error::Value { what: "pieces of a policy", value: n as u64 });
        }
        let groups = many(from, "groups", GROUPS_MAX, |from| decode_row(n, drives, from))?;
        Ok(Self { id, name, k, m, ack, demands, within, groups })
    }
}

/// The row's own form is 16 bytes a drive and position; here drives are numbers.
fn encode_row(row: &GroupRow, drives: &BTreeMap<DriveId, u32>, to: &mut Writer) {
    let is_settled = row.members == row.from;
    to.u32(row.group.0).u32(row.version).u8(u8::from(!is_settled));
    let from = if is_settled { &[][..] } else { &row.from };
    for drive in row.members.iter().chain(from) {
        // Every drive of every row was numbered: see `numbered`.
        to.u32(drives.get(drive).copied().unwrap_or(u32::MAX));
    }
}

fn decode_row(n: usize, drives: &[DriveId], from: &mut Reader<'_>) -> Result<GroupRow, Error> {
    let (group, version) = (GroupId(from.u32("group")?), from.u32("group version")?);
    let is_moving = match from.u8("group state")? {
        0 => false,
        1 => true,
        value => return Err(Error::Value { what: "group state", value: value.into() }),
    };
    let mut positions = || {
        let one = |_| {
            let number = from.u32("group member")?;
            drives.get(number as usize).copied().ok_or(Error::Value { what: "group member", value: number.into() })
        };
        (0..n).map(one).collect::<Result<Vec<_>, _>>()
    };
    let members = positions()?;
    let before = if is_moving { positions()? } else { members.clone() };
    if is_moving && before == members {
        return Err(Error::Value { what: "group state", value: 1 });
    }
    Ok(GroupRow { group, version, members, from: before })
}

/// There was no version 0: one map, one encoding.
fn first_version(version: u8) -> Result<(), Error> {
    if version == 0 { Err(Error::Value { what: "version of a cluster map", value: 0 }) } else { Ok(()) }
}

/// All drives that rows name, in order: groups may name drives that are in the map no more.
fn numbered(policies: &[Policy]) -> BTreeSet<DriveId> {
    let rows = policies.iter().flat_map(|policy| &policy.groups);
    rows.flat_map(|row| row.members.iter().chain(&row.from).copied()).collect()
}

impl Versioned for Map {
    const NAME: &'static str = "cluster map";
    const MARK: [u8; 4] = *b"AbMp";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.cluster.0).u64(self.epoch.0).raw(&self.previous).u64(self.made.0);
        to.u32(self.nodes.len() as u32);
        for node in &self.nodes {
            node.encode(to);
        }
        to.u32(self.drives.len() as u32);
        for drive in &self.drives {
            to.raw(&drive.id.0).raw(&drive.node.0).u8(drive.state as u8).u64(drive.size);
        }
        let named = numbered(&self.policies);
        to.u32(named.len() as u32);
        for drive in &named {
            to.raw(&drive.0);
        }
        let drives = named.into_iter().zip(0..).collect();
        to.u32(self.policies.len() as u32);
        for policy in &self.policies {
            policy.encode(&drives, to);
        }
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        first_version(version)?;
        let (cluster, epoch) = (ClusterId(from.array("cluster")?), Epoch(from.u64("epoch")?));
        let (previous, made) = (from.array("hash of the map before")?, Wall(from.u64("made")?));
        let nodes = many(from, "nodes", NODES_MAX, Node::decode)?;
        let drives = many(from, "drives", DRIVES_MAX, |from| {
            Ok(Drive {
                id: DriveId(from.array("drive")?),
                node: NodeId(from.array("drive's node")?),
                state: State::decode(from, "drive state")?,
                size: from.u64("drive size")?,
            })
        })?;
        let named = many(from, "drives of groups", DRIVES_MAX, |from| Ok(DriveId(from.array("drive")?)))?;
        if !named.is_sorted_by(|a, b| a < b) {
            return Err(Error::Value { what: "order of the drives of groups", value: named.len() as u64 });
        }
        let policies = many(from, "policies", POLICIES_MAX, |from| Policy::decode(&named, from))?;
        // One map, one encoding: no drive is numbered that no group names.
        let used = numbered(&policies).len();
        if used != named.len() {
            return Err(Error::Value { what: "number of drives of groups", value: named.len() as u64 });
        }
        Ok(Map { cluster, epoch, previous, made, nodes, drives, policies })
    }
}

impl Versioned for SignedMap {
    const NAME: &'static str = "signed cluster map";
    const MARK: [u8; 4] = *b"AbMs";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.signer.0).raw(&self.signature).bytes(&self.bytes);
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        first_version(version)?;
        let signer = PublicKey(from.array("signer")?);
        let signature = from.array::<SIGNATURE_BYTES>("signature")?;
        Ok(Self { signer, signature, bytes: from.bytes("cluster map", MAP_BYTES_MAX)?.to_vec() })
    }
}
