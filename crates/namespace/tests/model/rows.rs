//! Reads the rows themselves, by docs/formats/namespace.md alone, and demands that they are exactly
//! those that the oracle's bucket needs: nothing missing, nothing left behind.

use std::collections::{BTreeMap, BTreeSet};

use base::SegmentId;
use codec::Versioned;
use namespace::rows::*;
use namespace::{Body, VersionId};

use crate::oracle::{Oracle, uses};

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn table(map: &Map, volume: u32, table: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut prefix = volume.to_be_bytes().to_vec();
    prefix.push(table);
    let rows = map.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    rows.map(|(key, value)| (key[5..].to_vec(), value.clone())).collect()
}

fn id(bytes: &[u8]) -> SegmentId {
    SegmentId::from_slice(&bytes[bytes.len() - 16..]).unwrap()
}

/// Checks every table of the volume against the oracle.
pub fn check(map: &Map, volume: u32, oracle: &Oracle) {
    dentries(map, volume, oracle);
    bodies(map, volume, oracle);
    segments(map, volume, oracle);
    packs(map, volume, oracle);
    counters(map, volume, oracle);
    let uploads: Vec<_> = table(map, volume, b'U').into_iter().map(|(key, _)| key).collect();
    let wanted: Vec<_> =
        oracle.uploads.keys().map(|(key, upload)| [key.as_bytes(), &[0], &upload.0].concat()).collect();
    let sorted: BTreeSet<_> = wanted.into_iter().collect();
    assert_eq!(uploads, sorted.into_iter().collect::<Vec<_>>(), "uploads");
    assert!(map.keys().all(|key| b"ABCDGHKLMNPRTUV".contains(&key[4])), "a row of no table");
}

/// The tree has exactly the folders that keys imply, with the right counts.
fn dentries(map: &Map, volume: u32, oracle: &Oracle) {
    let mut folders: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for (key, versions) in &oracle.keys {
        let live = !versions.last().unwrap().version.marker;
        let mut parent = String::new();
        for part in key.split_inclusive('/') {
            let counts = folders.entry(parent.clone()).or_default();
            counts.0.insert(part.to_owned());
            if live {
                counts.1.insert(part.to_owned());
            }
            parent.push_str(part);
        }
        if key.ends_with('/') {
            let counts = folders.entry(key.clone()).or_default();
            counts.0.insert(String::new());
            if live {
                counts.1.insert(String::new());
            }
        }
    }
    folders.entry(String::new()).or_default();
    let mut seen = BTreeMap::from([(1u64, String::new())]);
    let rows = table(map, volume, b'D');
    let mut files = BTreeMap::new();
    let mut queue = vec![(1u64, String::new())];
    while let Some((inode, path)) = queue.pop() {
        for (key, value) in rows.iter().filter(|(key, _)| key[..8] == inode.to_be_bytes()) {
            let name = std::str::from_utf8(&key[8..]).unwrap();
            if name.ends_with('/') {
                let row = FolderRow::decode(value).unwrap();
                let path = format!("{path}{name}");
                let (children, live) = folders.get(&path).unwrap_or_else(|| panic!("folder {path:?} is empty"));
                assert_eq!((row.children, row.live), (children.len() as u64, live.len() as u64), "counts of {path:?}");
                assert!(seen.insert(row.inode, path.clone()).is_none(), "inode {} twice", row.inode);
                queue.push((row.inode, path));
            } else {
                files.insert(format!("{path}{name}"), FileRow::decode(value).unwrap());
            }
        }
    }
    assert_eq!(seen.len(), folders.len(), "folders");
    assert_eq!(rows.len(), files.len() + seen.len() - 1, "a dentry without a parent");
    assert_eq!(files.keys().collect::<Vec<_>>(), oracle.keys.keys().collect::<Vec<_>>());
    let mut older = 0;
    for (key, file) in &files {
        let versions = &oracle.keys[key];
        assert_eq!(file.older as usize + 1, versions.len(), "{key:?}");
        older += file.older as usize;
        let null = versions[..versions.len() - 1].iter().any(|made| made.version.id == VersionId::NULL);
        assert_eq!(file.older_null != 0, null, "noncurrent null version of {key:?}");
    }
    assert_eq!(table(map, volume, b'V').len(), older, "noncurrent versions");
}

/// Long bodies and attributes are there exactly for those who need them.
fn bodies(map: &Map, volume: u32, oracle: &Oracle) {
    let ords = |which| -> BTreeSet<u64> {
        table(map, volume, which).iter().map(|(key, _)| u64::from_be_bytes(key[..].try_into().unwrap())).collect()
    };
    let (mut bytes, mut manifests, mut attrs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let files = table(map, volume, b'D').into_iter().filter(|(key, _)| !key.ends_with(b"/") || key.len() == 8);
    let files = files.filter_map(|(_, value)| FileRow::decode(&value).ok()).map(|file| file.current);
    let more = [table(map, volume, b'V'), table(map, volume, b'P')].concat();
    let rows: Vec<_> = files.chain(more.iter().map(|(_, value)| VersionRow::decode(value).unwrap())).collect();
    for row in &rows {
        match row.place {
            Place::Here(_) => {}
            Place::Bytes => assert!(bytes.insert(row.ord)),
            Place::Manifest => assert!(manifests.insert(row.ord)),
        }
        if row.long_attrs {
            assert!(attrs.insert(row.ord));
        }
    }
    assert_eq!((ords(b'B'), ords(b'M'), ords(b'A')), (bytes, manifests, attrs));
    let parts: usize = oracle.uploads.values().map(|pending| pending.parts.len()).sum();
    assert_eq!(table(map, volume, b'P').len(), parts, "parts");
    let long = oracle.bodies().iter().filter(|body| matches!(body, Body::Inline(bytes) if bytes.len() > 64)).count();
    assert_eq!(table(map, volume, b'B').len(), long, "inline bytes");
}

/// Every segment ever named is in use with the right count, or garbage once, or collected.
fn segments(map: &Map, volume: u32, oracle: &Oracle) {
    let mut found = BTreeMap::new();
    for (key, value) in table(map, volume, b'R') {
        let row = SegmentRow::decode(&value).unwrap();
        let policy = u16::from_be_bytes(key[..2].try_into().unwrap());
        let group = u32::from_be_bytes(key[2..6].try_into().unwrap());
        assert!(found.insert(id(&key), (policy, group, row.k, row.m, row.len, row.refs)).is_none());
    }
    let wanted: BTreeMap<_, _> = oracle
        .segments()
        .into_iter()
        .map(|(id, (segment, refs))| (id, (segment.policy.0, segment.group.0, segment.k, segment.m, segment.len, refs)))
        .collect();
    assert_eq!(found, wanted, "segments in use");
    let garbage: BTreeSet<_> = table(map, volume, b'G').iter().map(|(key, _)| id(key)).collect();
    assert_eq!(garbage, oracle.garbage(), "garbage");
    let tombs: BTreeSet<_> = table(map, volume, b'T').iter().map(|(key, _)| id(key)).collect();
    assert_eq!(tombs, oracle.collected, "collected");
}

/// Every slot has its owners, every pack its live share.
fn packs(map: &Map, volume: u32, oracle: &Oracle) {
    let mut wanted: BTreeMap<(SegmentId, u32), (u32, u32)> = BTreeMap::new();
    for body in oracle.bodies() {
        for (segment, slot) in uses(&body) {
            if let Some(slot) = slot {
                wanted.entry((segment.id, slot.index)).or_insert((slot.len, 0)).1 += 1;
            }
        }
    }
    let mut found: BTreeMap<(SegmentId, u32), (u32, u32)> = BTreeMap::new();
    for (key, value) in table(map, volume, b'K') {
        let row = SlotRow::decode(&value).unwrap();
        let slot = u32::from_be_bytes(key[16..20].try_into().unwrap());
        found.entry((id(&key[..16]), slot)).or_insert((row.len, 0)).1 += row.refs;
        match row.owner {
            Owner::Version { key, version } => {
                let versions = &oracle.keys[&key];
                assert!(versions.iter().any(|made| made.version.id == version), "owner of slot {slot}");
            }
            Owner::Part { upload, number } => {
                let mut uploads = oracle.uploads.iter().filter(|((_, id), _)| *id == upload);
                assert!(uploads.any(|(_, pending)| pending.parts.contains_key(&number)), "owner of slot {slot}");
            }
        }
    }
    assert_eq!(found, wanted, "pack slots");
    let mut shares = BTreeSet::new();
    for (key, value) in table(map, volume, b'R') {
        let row = SegmentRow::decode(&value).unwrap();
        let Some(pack) = row.pack else { continue };
        let slots = found.iter().filter(|((segment, _), _)| *segment == id(&key));
        let (count, bytes) = slots.fold((0, 0), |(count, bytes), (_, (len, _))| (count + 1, bytes + u64::from(*len)));
        assert_eq!((pack.live_slots, pack.live_bytes), (count, bytes), "live share");
        shares.insert([&[(bytes * 16 / row.len).min(16) as u8], &id(&key).0[..]].concat());
    }
    let found: BTreeSet<_> = table(map, volume, b'L').into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, shares, "packs by share");
}

fn counters(map: &Map, volume: u32, oracle: &Oracle) {
    let head = table(map, volume, b'H').pop().map(|(_, value)| Head::decode(&value).unwrap()).unwrap_or_default();
    let all: Vec<_> = oracle.keys.values().flatten().collect();
    let live: Vec<_> =
        oracle.keys.values().filter_map(|made| made.last()).filter(|made| !made.version.marker).collect();
    let parts = oracle.uploads.values().flat_map(|pending| pending.parts.values());
    assert_eq!(head.objects, live.len() as u64);
    assert_eq!(head.bytes, live.iter().map(|made| made.version.size).sum::<u64>());
    assert_eq!(head.versions, all.len() as u64);
    assert_eq!(head.version_bytes, all.iter().map(|made| made.version.size).sum::<u64>());
    assert_eq!(head.uploads, oracle.uploads.len() as u64);
    assert_eq!(head.part_bytes, parts.map(|part| part.size).sum::<u64>());
    assert_eq!(head.versioning, oracle.versioning);
}
