//! Drives, policies, placement groups, the cluster's id and settings.

use base::kv::{Batch, View};
use base::{ClusterId, DriveId, GroupId, NodeId, PolicyId, Wall};
use codec::{Reader, Versioned, Writer};

use super::bucket::TEXT_BYTES_MAX;
use super::{get, keys, scan, start};
use crate::error::Error;

/// What a drive is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DriveState {
    /// Holds pieces and takes new ones.
    Active = 0,
    /// Is being emptied.
    Draining = 1,
    /// Lost: its pieces don't count, and are rebuilt elsewhere. It may come back.
    Gone = 2,
    /// Taken out for good.
    Removed = 3,
}

/// One drive of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveRow {
    /// Its id, as in its identity file.
    pub id: DriveId,
    /// Where it was last seen.
    pub path: String,
    /// What it is there for.
    pub state: DriveState,
    /// Bytes it can hold; 0 if it takes no data, and keeps metadata alone.
    pub size: u64,
    /// When it joined.
    pub added: Wall,
    /// The node that it is on; not known before the store knows nodes.
    pub node: Option<NodeId>,
}

impl DriveRow {
    /// Whether it takes data, unless something is in the way.
    pub fn takes_data(&self) -> bool {
        self.size > 0
    }
}

impl Versioned for DriveRow {
    const NAME: &'static str = "drive";
    const MARK: [u8; 4] = *b"caDr";
    const VERSION: u8 = 2;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.id.0).str(&self.path).u8(self.state as u8).u64(self.size).u64(self.added.0);
        to.option(self.node, |to, node| {
            to.raw(&node.0);
        });
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(DriveRow {
            id: DriveId(from.array("drive")?),
            path: from.str("path", TEXT_BYTES_MAX)?.to_owned(),
            state: match from.u8("drive state")? {
                0 => DriveState::Active,
                1 => DriveState::Draining,
                2 => DriveState::Gone,
                3 => DriveState::Removed,
                value => return Err(codec::Error::Value { what: "drive state", value: value.into() }),
            },
            size: from.u64("drive size")?,
            added: Wall(from.u64("added")?),
            node: match version {
                1 => None,
                _ => from.option("node", |from| from.array("node").map(NodeId))?,
            },
        })
    }
}

/// How segments are coded: any k of k + m pieces suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// Data pieces.
    pub k: u8,
    /// Parity pieces.
    pub m: u8,
}

/// A durability policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// Its number, by which manifests name it.
    pub id: PolicyId,
    /// Its coding.
    pub coding: Coding,
    /// Pieces that must be durable before a write is acknowledged.
    pub ack: u8,
    /// Its name.
    pub name: String,
}

impl Versioned for PolicyRow {
    const NAME: &'static str = "policy";
    const MARK: [u8; 4] = *b"caPo";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u16(self.id.0).u8(self.coding.k).u8(self.coding.m).u8(self.ack).str(&self.name);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(PolicyRow {
            id: PolicyId(from.u16("policy")?),
            coding: Coding { k: from.u8("k")?, m: from.u8("m")? },
            ack: from.u8("ack margin")?,
            name: from.str("policy name", TEXT_BYTES_MAX)?.to_owned(),
        })
    }
}

pub(super) fn one(key: Vec<u8>, value: Vec<u8>) -> Batch {
    let mut batch = Batch::default();
    batch.put(key, value);
    batch
}

/// Adds or changes a drive.
pub fn put_drive(row: &DriveRow) -> Batch {
    one(keys::drive(row.id), row.encode())
}

/// A drive.
pub fn drive(view: &dyn View, id: DriveId) -> Result<Option<DriveRow>, Error> {
    get(view, &keys::drive(id))
}

/// Drives by id, those after `after`, whatever their state.
pub fn drives(view: &dyn View, after: Option<DriveId>, limit: usize) -> Result<Vec<DriveRow>, Error> {
    scan(view, keys::DRIVE, after.as_ref().map(|after| after.0.as_slice()), limit)
}

/// Adds or changes a policy.
pub fn put_policy(row: &PolicyRow) -> Batch {
    one(keys::policy(row.id), row.encode())
}

/// A policy.
pub fn policy(view: &dyn View, id: PolicyId) -> Result<Option<PolicyRow>, Error> {
    get(view, &keys::policy(id))
}

/// Policies by number, those after `after`.
pub fn policies(view: &dyn View, after: Option<PolicyId>, limit: usize) -> Result<Vec<PolicyRow>, Error> {
    let after = after.map(|after| after.0.to_be_bytes());
    scan(view, keys::POLICY, after.as_ref().map(<[u8; 2]>::as_slice), limit)
}

/// Adds or changes a placement group; its bytes are the placement's own.
pub fn put_group(policy: PolicyId, group: GroupId, bytes: &[u8]) -> Batch {
    one(keys::group(policy, group), bytes.to_vec())
}

/// Removes a placement group that no segment names any more.
pub fn remove_group(policy: PolicyId, group: GroupId) -> Batch {
    let mut batch = Batch::default();
    batch.del(keys::group(policy, group));
    batch
}

/// A placement group's bytes.
pub fn group(view: &dyn View, policy: PolicyId, group: GroupId) -> Result<Option<Vec<u8>>, Error> {
    Ok(view.get(&keys::group(policy, group))?)
}

/// Groups of a policy by number, those after `after`.
pub fn groups(
    view: &dyn View,
    policy: PolicyId,
    after: Option<GroupId>,
    limit: usize,
) -> Result<Vec<(GroupId, Vec<u8>)>, Error> {
    let prefix = keys::groups(policy);
    let after = after.map(|after| after.0.to_be_bytes());
    let first = start(&prefix, after.as_ref().map(<[u8; 4]>::as_slice));
    let rows = view.range(first.as_slice()..crate::keys::end(&prefix).as_slice(), limit, false)?;
    let group = |(key, value): (Vec<u8>, Vec<u8>)| {
        Ok((GroupId(u32::from_be_bytes(crate::keys::tail(&key, "group key")?)), value))
    };
    rows.into_iter().map(group).collect()
}

/// The cluster's id, once it was set.
pub fn cluster(view: &dyn View) -> Result<Option<ClusterId>, Error> {
    let Some(row) = view.get(keys::CLUSTER)? else { return Ok(None) };
    let mut reader = Reader::new(&row);
    let id = ClusterId(reader.array("cluster id")?);
    reader.end("cluster id")?;
    Ok(Some(id))
}

/// Sets the cluster's id, when a store is made.
pub fn put_cluster(id: ClusterId) -> Batch {
    one(keys::CLUSTER.to_vec(), id.0.to_vec())
}

/// A setting of the cluster; opaque here.
pub fn setting(view: &dyn View, name: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(view.get(&keys::setting(name))?)
}

/// Sets or removes a setting of the cluster.
pub fn put_setting(name: &str, value: Option<&[u8]>) -> Batch {
    match value {
        Some(value) => one(keys::setting(name), value.to_vec()),
        None => {
            let mut batch = Batch::default();
            batch.del(keys::setting(name));
            batch
        }
    }
}
