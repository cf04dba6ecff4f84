//! Buckets, the volumes behind them, and their wrapped keys.

use base::kv::{Batch, View};
use base::{UserId, VolumeId, Wall};
use codec::{Reader, Versioned, Writer};

use super::shard::{next_volume, take_volume};
use super::user::printable;
use super::{get, keys, scan, start};
use crate::error::Error;

/// S3's limits on a bucket's name, in bytes.
pub const BUCKET_NAME_BYTES: std::ops::RangeInclusive<usize> = 3..=63;
/// Bytes of a user id at the most (see [`UserId`]).
pub(super) const USER_ID_BYTES_MAX: usize = 64;
/// Bytes of other short texts.
pub(super) const TEXT_BYTES_MAX: usize = 4096;

/// A name for a volume, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The volume behind it; never used again after the bucket is deleted.
    pub volume: VolumeId,
    /// Who made it.
    pub owner: UserId,
    /// When.
    pub created: Wall,
    /// The region that its maker named; empty if none.
    pub region: String,
}

impl Versioned for Bucket {
    const NAME: &'static str = "bucket";
    const MARK: [u8; 4] = *b"caBu";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.str(&self.name).u32(self.volume.0).str(&self.owner.0).u64(self.created.0).str(&self.region);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(Bucket {
            name: from.str("bucket name", *BUCKET_NAME_BYTES.end())?.to_owned(),
            volume: VolumeId(from.u32("volume")?),
            owner: UserId(from.str("owner", USER_ID_BYTES_MAX)?.to_owned()),
            created: Wall(from.u64("created")?),
            region: from.str("region", TEXT_BYTES_MAX)?.to_owned(),
        })
    }
}

/// A volume's key, wrapped by the root key; opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeKeyRow {
    /// The volume.
    pub volume: VolumeId,
    /// Its wrapped key.
    pub wrapped: Vec<u8>,
}

impl Versioned for VolumeKeyRow {
    const NAME: &'static str = "volume key";
    const MARK: [u8; 4] = *b"caVk";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.volume.0).bytes(&self.wrapped);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let volume = VolumeId(from.u32("volume")?);
        Ok(VolumeKeyRow { volume, wrapped: from.bytes("wrapped key", TEXT_BYTES_MAX)?.to_vec() })
    }
}

/// A volume without a bucket, whose garbage may still wait to be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadVolume {
    /// The volume.
    pub volume: VolumeId,
    /// When its bucket was deleted.
    pub deleted: Wall,
}

impl Versioned for DeadVolume {
    const NAME: &'static str = "dead volume";
    const MARK: [u8; 4] = *b"caDv";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.volume.0).u64(self.deleted.0);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        Ok(DeadVolume { volume: VolumeId(from.u32("volume")?), deleted: Wall(from.u64("deleted")?) })
    }
}

/// A bucket to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBucket {
    /// Its name.
    pub name: String,
    /// Who makes it.
    pub owner: UserId,
    /// The region that the maker named; empty if none.
    pub region: String,
    /// The key of the volume [`next_volume`], wrapped.
    pub wrapped_key: Vec<u8>,
}

/// Makes a bucket and its volume, with the volume's key.
///
/// Errors: [`Error::InvalidName`], [`Error::BucketExists`].
pub fn create_bucket(view: &dyn View, new: &NewBucket, now: Wall) -> Result<(Batch, Bucket), Error> {
    check_bucket_name(&new.name)?;
    printable("user id", &new.owner.0, USER_ID_BYTES_MAX)?;
    if let Some(other) = bucket(view, &new.name)? {
        return Err(Error::BucketExists { yours: other.owner == new.owner });
    }
    let volume = next_volume(view)?;
    let made =
        Bucket { name: new.name.clone(), volume, owner: new.owner.clone(), created: now, region: new.region.clone() };
    let mut batch = take_volume(volume);
    batch.put(keys::bucket(&made.name), made.encode());
    batch.put(owned(&made.owner, &made.name), []);
    batch.put(keys::volume_key(volume), VolumeKeyRow { volume, wrapped: new.wrapped_key.clone() }.encode());
    Ok((batch, made))
}

fn owned(owner: &UserId, name: &str) -> Vec<u8> {
    [keys::owned(owner).as_slice(), name.as_bytes()].concat()
}

/// Removes a bucket whose volume is closed ([`crate::Command::Close`] comes first, so that nothing
/// can be written any more). The volume and its key stay known until [`forget_volume`]; until [`let_bucket_go`] it can be
/// had back.
pub fn delete_bucket(view: &dyn View, name: &str, now: Wall) -> Result<(Batch, Bucket), Error> {
    let gone = bucket(view, name)?.ok_or(Error::NoSuchBucket)?;
    let dead = DeadVolume { volume: gone.volume, deleted: now };
    let mut batch = Batch::default();
    batch.del(keys::bucket(name)).del(owned(&gone.owner, name));
    batch.put(keys::dead_volume(gone.volume), dead.encode());
    batch.put(keys::deleted_bucket(gone.volume), gone.encode());
    Ok((batch, gone))
}

/// A bucket that was deleted and can be had back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedBucket {
    /// What it was.
    pub bucket: Bucket,
    /// When it was deleted.
    pub deleted: Wall,
}

/// Buckets that were deleted and can be had back, by volume.
///
/// # Errors
/// If a row can't be read.
pub fn deleted_buckets(view: &dyn View, limit: usize) -> Result<Vec<DeletedBucket>, Error> {
    let buckets: Vec<Bucket> = scan(view, keys::DELETED_BUCKET, None, limit)?;
    let mut all = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        let dead: Option<DeadVolume> = get(view, &keys::dead_volume(bucket.volume))?;
        let deleted = dead.ok_or(Error::Broken { what: "a deleted bucket's volume is not dead" })?.deleted;
        all.push(DeletedBucket { bucket, deleted });
    }
    Ok(all)
}

/// Brings back the bucket of a dead volume, under its name or another one. Its volume is reopened first
/// ([`crate::Command::Reopen`]).
///
/// # Errors
/// [`Error::NoSuchBucket`] if it can't be had back any more, [`Error::BucketExists`] if the name was taken meanwhile.
pub fn restore_bucket(view: &dyn View, volume: VolumeId, name: Option<&str>) -> Result<(Batch, Bucket), Error> {
    let gone: Bucket = get(view, &keys::deleted_bucket(volume))?.ok_or(Error::NoSuchBucket)?;
    let back = Bucket { name: name.map_or_else(|| gone.name.clone(), str::to_owned), ..gone };
    check_bucket_name(&back.name)?;
    if let Some(other) = bucket(view, &back.name)? {
        return Err(Error::BucketExists { yours: other.owner == back.owner });
    }
    let mut batch = Batch::default();
    batch.put(keys::bucket(&back.name), back.encode());
    batch.put(owned(&back.owner, &back.name), []);
    batch.del(keys::dead_volume(volume)).del(keys::deleted_bucket(volume));
    Ok((batch, back))
}

/// A deleted bucket can't be had back any more: its volume may be emptied. Nothing if that is so already.
///
/// # Errors
/// If the row can't be read.
pub fn let_bucket_go(view: &dyn View, volume: VolumeId) -> Result<Batch, Error> {
    let (mut batch, key) = (Batch::default(), keys::deleted_bucket(volume));
    if view.get(&key)?.is_some() {
        batch.del(key);
    }
    Ok(batch)
}

/// The bucket of this name.
pub fn bucket(view: &dyn View, name: &str) -> Result<Option<Bucket>, Error> {
    get(view, &keys::bucket(name))
}

/// An owner's buckets by name: those that begin with `prefix` and sort after `after`.
pub fn list_buckets(
    view: &dyn View,
    owner: &UserId,
    prefix: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<Bucket>, Error> {
    let table = keys::owned(owner);
    let within = [table.as_slice(), prefix.as_bytes()].concat();
    let after = (!after.is_empty()).then_some(after.as_bytes());
    let first = start(&table, after).max(within.clone());
    let rows = view.range(first.as_slice()..crate::keys::end(&within).as_slice(), limit, false)?;
    let bucket = |(key, _): (Vec<u8>, Vec<u8>)| {
        let name = std::str::from_utf8(&key[table.len()..]).map_err(|_| codec::Error::Utf8 { what: "bucket name" })?;
        bucket(view, name)?.ok_or(Error::Broken { what: "an owner's bucket is not there" })
    };
    rows.into_iter().map(bucket).collect()
}

/// Everybody's buckets by name, those after `after`.
pub fn list_all_buckets(view: &dyn View, after: &str, limit: usize) -> Result<Vec<Bucket>, Error> {
    scan(view, keys::BUCKET, (!after.is_empty()).then_some(after.as_bytes()), limit)
}

/// The wrapped key of a volume.
pub fn volume_key(view: &dyn View, volume: VolumeId) -> Result<Option<VolumeKeyRow>, Error> {
    get(view, &keys::volume_key(volume))
}

/// Replaces the wrapped key of a volume (another root key).
pub fn put_volume_key(row: &VolumeKeyRow) -> Batch {
    let mut batch = Batch::default();
    batch.put(keys::volume_key(row.volume), row.encode());
    batch
}

/// Volumes whose bucket is deleted, those after `after`.
pub fn dead_volumes(view: &dyn View, after: Option<VolumeId>, limit: usize) -> Result<Vec<DeadVolume>, Error> {
    let after = after.map(|volume| volume.0.to_be_bytes());
    scan(view, keys::DEAD_VOLUME, after.as_ref().map(<[u8; 4]>::as_slice), limit)
}

/// Forgets a dead volume and its key, once its garbage is collected.
pub fn forget_volume(view: &dyn View, volume: VolumeId) -> Result<Batch, Error> {
    let mut batch = Batch::default();
    if view.get(&keys::dead_volume(volume))?.is_some() {
        batch.del(keys::dead_volume(volume)).del(keys::volume_key(volume)).del(keys::sealed_volume(volume));
    }
    Ok(batch)
}

/// S3's rules for general purpose buckets: 3 to 63 lower-case letters, digits, dots and hyphens;
/// each label between dots begins and ends with a letter or digit; not like an IPv4 address.
pub fn check_bucket_name(name: &str) -> Result<(), Error> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let why = if !BUCKET_NAME_BYTES.contains(&name.len()) {
        "it must have 3 to 63 characters"
    } else if !name.bytes().all(|byte| edge(byte) || byte == b'.' || byte == b'-') {
        "only lower-case letters, digits, dots and hyphens are allowed"
    } else if !name
        .split('.')
        .all(|label| label.bytes().next().is_some_and(edge) && label.bytes().last().is_some_and(edge))
    {
        "it and each label between dots must begin and end with a letter or digit"
    } else if name.split('.').count() == 4
        && name.split('.').all(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
    {
        "it looks like an IP address"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { what: "bucket name", why })
}
