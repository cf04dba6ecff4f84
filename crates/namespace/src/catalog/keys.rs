//! Where the rows of the system shard lie. Numbers are big-endian.

use base::{DriveId, GroupId, NodeId, PolicyId, UserId, VolumeId};

pub(super) const TRAIL: &[u8] = b"a";
pub(super) const BUCKET: &[u8] = b"b";
pub(super) const CLUSTER: &[u8] = b"c";
pub(super) const DRIVE: &[u8] = b"d";
pub(super) const TICKETS_FORGOTTEN: &[u8] = b"h";
pub(super) const EVENT: &[u8] = b"j";
pub(super) const ACCESS_KEY: &[u8] = b"k";
pub(super) const MEMBER_LIST: &[u8] = b"l";
pub(super) const NODE: &[u8] = b"n";
pub(super) const POLICY: &[u8] = b"p";
pub(super) const TICKET: &[u8] = b"t";
pub(super) const USER: &[u8] = b"u";
pub(super) const NEXT_VOLUME: &[u8] = b"v";
pub(super) const DEAD_VOLUME: &[u8] = b"x";
pub(super) const DELETED_BUCKET: &[u8] = b"y";
pub(super) const SEALED_VOLUME: &[u8] = b"z";

/// A bucket: its name.
pub(super) fn bucket(name: &str) -> Vec<u8> {
    [BUCKET, name.as_bytes()].concat()
}

/// What an owner's buckets begin with: the owner, NUL; then the name follows.
pub(super) fn owned(owner: &UserId) -> Vec<u8> {
    [b"o", owner.0.as_bytes(), &[0]].concat()
}

/// An e-mail address, in lower case.
pub(super) fn email(email: &str) -> Vec<u8> {
    [b"e", email.to_lowercase().as_bytes()].concat()
}

pub(super) fn drive(id: DriveId) -> Vec<u8> {
    [DRIVE, &id.0].concat()
}

pub(super) fn node(id: NodeId) -> Vec<u8> {
    [NODE, &id.0].concat()
}

pub(super) fn ticket(id: [u8; 8]) -> Vec<u8> {
    [TICKET, &id].concat()
}

pub(super) fn event(number: u64) -> Vec<u8> {
    [EVENT, &number.to_be_bytes()].concat()
}

/// What the groups of a policy begin with.
pub(super) fn groups(policy: PolicyId) -> Vec<u8> {
    [b"g".as_slice(), &policy.0.to_be_bytes()].concat()
}

pub(super) fn group(policy: PolicyId, group: GroupId) -> Vec<u8> {
    [groups(policy).as_slice(), &group.0.to_be_bytes()].concat()
}

pub(super) fn access_key(id: &str) -> Vec<u8> {
    [ACCESS_KEY, id.as_bytes()].concat()
}

pub(super) fn policy(id: PolicyId) -> Vec<u8> {
    [POLICY, &id.0.to_be_bytes()].concat()
}

/// The bucket of a dead volume that can be had back.
pub(super) fn deleted_bucket(volume: VolumeId) -> Vec<u8> {
    [DELETED_BUCKET, &volume.0.to_be_bytes()].concat()
}

pub(super) fn setting(name: &str) -> Vec<u8> {
    [b"s", name.as_bytes()].concat()
}

pub(super) fn user(id: &UserId) -> Vec<u8> {
    [USER, id.0.as_bytes()].concat()
}

pub(super) fn volume_key(volume: VolumeId) -> Vec<u8> {
    [b"w".as_slice(), &volume.0.to_be_bytes()].concat()
}

pub(super) fn sealed_volume(volume: VolumeId) -> Vec<u8> {
    [SEALED_VOLUME, &volume.0.to_be_bytes()].concat()
}

pub(super) fn dead_volume(volume: VolumeId) -> Vec<u8> {
    [DEAD_VOLUME, &volume.0.to_be_bytes()].concat()
}
