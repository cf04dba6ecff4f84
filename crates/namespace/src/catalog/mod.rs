//! Rows of the system shard: buckets, users, access keys, nodes, drives, policies, groups, wrapped
//! volume keys, the event log, settings of the cluster.
//!
//! Pure functions in the shape of [`crate::apply()`]: rows in, a batch out. Two batches made from
//! one view may be joined if they touch different things (a bucket and an event); what one function
//! gives needs no other's result. Keys: one table byte, then what [`keys`] says.

mod bucket;
mod drive;
mod event;
mod keys;
mod node;
mod sealed;
mod shard;
mod trail;
mod user;

pub use bucket::{
    Bucket, DeadVolume, DeletedBucket, NewBucket, VolumeKeyRow, bucket, check_bucket_name, create_bucket, dead_volumes,
    delete_bucket, deleted_buckets, forget_volume, let_bucket_go, list_all_buckets, list_buckets, put_volume_key,
    restore_bucket, volume_key,
};
pub use drive::{
    Coding, DriveRow, DriveState, PolicyRow, cluster, drive, drives, group, groups, policies, policy, put_cluster,
    put_drive, put_group, put_policy, put_setting, remove_group, setting,
};
pub use event::{EVENTS_MAX, Event, Severity, add_events, events, latest_events};
pub use node::{
    NODE_ADDRESSES_MAX, NodeRow, NodeState, TicketRow, forget_tickets, member_list, node, nodes, put_member_list,
    put_node, put_ticket, ticket, tickets, tickets_forgotten,
};
pub use sealed::{
    OLDER_KEYS_MAX, OlderKey, SEALED_ROOT_BYTES_MAX, SealedVolume, put_sealed_volume, sealed_volume, sealed_volumes,
};
pub use shard::{FIRST_SHARD, SHARDS_MAX, add_volume_shard, next_volume, shard_of, volume_shards};
pub use trail::{Applied, add_applied, applied, last_applied};
pub use user::{
    AccessKey, User, access_key, access_keys, put_access_key, put_user, revoke_access_key, user, user_by_email, users,
};

use base::kv::View;
use codec::Versioned;

use crate::error::Error;

fn get<T: Versioned>(view: &dyn View, key: &[u8]) -> Result<Option<T>, Error> {
    Ok(match view.get(key)? {
        Some(value) => Some(T::decode(&value)?),
        None => None,
    })
}

/// At most `limit` values of the keys that begin with `prefix` and sort after `prefix` + `after`.
fn scan<T: Versioned>(view: &dyn View, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<T>, Error> {
    let rows = view.range(start(prefix, after).as_slice()..crate::keys::end(prefix).as_slice(), limit, false)?;
    rows.into_iter().map(|(_, value)| Ok(T::decode(&value)?)).collect()
}

fn start(prefix: &[u8], after: Option<&[u8]>) -> Vec<u8> {
    match after {
        Some(after) => [prefix, after, &[0]].concat(),
        None => prefix.to_vec(),
    }
}
