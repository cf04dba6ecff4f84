//! Which metadata shard has a volume's rows: its number says so.
//!
//! The upper byte of a volume's number counts the volume shards, the other three the volumes of one. So
//! whoever has a volume's number knows where to ask, a volume stays where it was made, and the volumes of
//! a store that began with one shard are where they always were.

use base::VolumeId;
use base::kv::{Batch, View};
use codec::{Reader, Writer};

use super::drive::{put_setting, setting};
use super::keys;
use crate::error::Error;

/// The first shard that has volumes; shard 0 is the catalog.
pub const FIRST_SHARD: u32 = 1;
/// Volume shards at the most.
pub const SHARDS_MAX: u32 = 64;
/// Bits of a volume's number within its shard.
const WITHIN_BITS: u32 = 24;
/// The first volume of a shard, within it. (Volume 0 is the shard's own: work that was done.)
const FIRST_VOLUME: u32 = 1;
/// The setting that names the shards which take new volumes.
const IN_USE: &str = "volume shards";

/// The metadata shard that has the volume's rows.
pub fn shard_of(volume: VolumeId) -> u32 {
    FIRST_SHARD + (volume.0 >> WITHIN_BITS)
}

/// The shards that take new volumes, in order.
///
/// # Errors
/// If the row can't be read.
pub fn volume_shards(view: &dyn View) -> Result<Vec<u32>, Error> {
    let mut shards = vec![FIRST_SHARD];
    if let Some(row) = setting(view, IN_USE)? {
        let mut reader = Reader::new(&row);
        let len = reader.u8("volume shards")?;
        for _ in 0..len {
            let shard = reader.u32("volume shard")?;
            if !can_have_volumes(shard) {
                return Err(Error::Broken { what: "a volume shard's number is none that it can have" });
            }
            shards.push(shard);
        }
        reader.end("volume shards")?;
    }
    Ok(shards)
}

/// One more shard takes new volumes.
///
/// # Errors
/// [`Error::InvalidValue`] if its number is none that a volume shard can have.
pub fn add_volume_shard(view: &dyn View, shard: u32) -> Result<Batch, Error> {
    if !can_have_volumes(shard) {
        return Err(Error::InvalidValue { what: "shard", why: "its number is too high" });
    }
    let mut more: Vec<u32> = volume_shards(view)?.split_off(1);
    if shard == FIRST_SHARD || more.contains(&shard) {
        return Ok(Batch::default());
    }
    more.push(shard);
    more.sort_unstable();
    let mut row = Writer::new();
    row.u8(more.len() as u8);
    more.into_iter().for_each(|shard| _ = row.u32(shard));
    Ok(put_setting(IN_USE, Some(&row.finish())))
}

fn can_have_volumes(shard: u32) -> bool {
    (FIRST_SHARD..FIRST_SHARD + SHARDS_MAX).contains(&shard)
}

/// The next volume of a shard, by the row that counts them.
fn next_of(view: &dyn View, shard: u32) -> Result<VolumeId, Error> {
    let first = ((shard - FIRST_SHARD) << WITHIN_BITS) + FIRST_VOLUME;
    Ok(VolumeId(match view.get(&counter(shard))? {
        None => first,
        Some(row) => {
            let mut reader = Reader::new(&row);
            let next = reader.u32("next volume")?;
            reader.end("next volume")?;
            if shard_of(VolumeId(next)) != shard {
                return Err(Error::Broken { what: "the next volume's number is of another shard" });
            }
            next
        }
    }))
}

fn counter(shard: u32) -> Vec<u8> {
    match shard {
        FIRST_SHARD => keys::NEXT_VOLUME.to_vec(),
        _ => keys::setting(&format!("next volume of shard {shard}")),
    }
}

/// The volume that the next bucket gets: of the shards that take some, the one that ever got fewest.
///
/// # Errors
/// [`Error::InvalidValue`] if no number is left.
pub fn next_volume(view: &dyn View) -> Result<VolumeId, Error> {
    let mut next: Option<VolumeId> = None;
    for shard in volume_shards(view)? {
        let volume = next_of(view, shard)?;
        // Its successor must be of this shard too: the last number is never given out.
        let has_room = volume.0.checked_add(1).is_some_and(|after| shard_of(VolumeId(after)) == shard);
        if has_room && next.is_none_or(|next| within(volume) < within(next)) {
            next = Some(volume);
        }
    }
    next.ok_or(Error::InvalidValue { what: "bucket", why: "no volume number is left" })
}

fn within(volume: VolumeId) -> u32 {
    volume.0 & ((1 << WITHIN_BITS) - 1)
}

/// The volume is given out.
pub(super) fn take_volume(volume: VolumeId) -> Batch {
    let mut batch = Batch::default();
    batch.put(counter(shard_of(volume)), (volume.0 + 1).to_le_bytes());
    batch
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn apply(rows: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: Batch) {
        rows.extend(batch.puts);
    }

    fn take(rows: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> VolumeId {
        let next = next_volume(rows).unwrap();
        apply(rows, take_volume(next));
        next
    }

    #[test]
    fn a_volumes_number_says_which_shard_has_it() {
        assert_eq!(shard_of(VolumeId(1)), FIRST_SHARD);
        assert_eq!(shard_of(VolumeId(0x00ff_ffff)), FIRST_SHARD);
        assert_eq!(shard_of(VolumeId(0x0100_0001)), 2);
        assert_eq!(shard_of(VolumeId(0x3f00_0001)), SHARDS_MAX);
    }

    #[test]
    fn new_volumes_go_where_fewest_are_and_no_number_is_given_out_twice() {
        let mut rows = BTreeMap::new();
        assert_eq!([take(&mut rows), take(&mut rows), take(&mut rows)], [1, 2, 3].map(VolumeId));
        let batch = add_volume_shard(&rows, 3).unwrap();
        apply(&mut rows, batch);
        assert!(add_volume_shard(&rows, 3).unwrap().is_empty(), "it is there already");
        assert_eq!(volume_shards(&rows).unwrap(), [1, 3]);
        let batch = add_volume_shard(&rows, 2).unwrap();
        apply(&mut rows, batch);
        assert_eq!(volume_shards(&rows).unwrap(), [1, 2, 3]);
        let next: Vec<u32> = (0..9).map(|_| take(&mut rows).0).collect();
        let (two, three) = (1 << 24, 2 << 24);
        assert_eq!(next, [two + 1, three + 1, two + 2, three + 2, two + 3, three + 3, 4, two + 4, three + 4]);
        for (at, volume) in next.iter().enumerate() {
            assert!(!next[..at].contains(volume));
        }
    }

    #[test]
    fn damaged_rows_of_shards_are_errors_and_no_numbers() {
        for bad in [0, SHARDS_MAX + 1, u32::MAX] {
            let mut row = Writer::new();
            row.u8(1).u32(bad);
            let mut rows = BTreeMap::new();
            apply(&mut rows, put_setting(IN_USE, Some(&row.finish())));
            assert!(volume_shards(&rows).is_err() && next_volume(&rows).is_err(), "shard {bad}");
        }
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        rows.insert(counter(FIRST_SHARD), u32::MAX.to_le_bytes().to_vec());
        assert!(next_volume(&rows).is_err(), "a number of another shard");
    }

    #[test]
    fn a_full_shard_gets_no_more_volumes_and_none_beyond_the_last_is_made() {
        let mut rows = BTreeMap::new();
        apply(&mut rows, take_volume(VolumeId(0x00ff_fffd)));
        assert_eq!(take(&mut rows), VolumeId(0x00ff_fffe));
        assert!(next_volume(&rows).is_err());
        let batch = add_volume_shard(&rows, 2).unwrap();
        apply(&mut rows, batch);
        assert_eq!(take(&mut rows), VolumeId(0x0100_0001));
        assert!(add_volume_shard(&rows, 0).is_err());
        assert!(add_volume_shard(&rows, SHARDS_MAX + 1).is_err());
        assert!(add_volume_shard(&rows, SHARDS_MAX).is_ok());
    }
}
