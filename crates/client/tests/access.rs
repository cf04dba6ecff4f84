//! Objects of an end-to-end volume: what their clients write only they read, and neither metadata nor drives have a
//! name, a byte or a key of them.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use client::header::PieceHeader;
use client::{Access, Client, Drives, Folder};
use codec::Versioned;
use common::{Handle, Rig, bytes, new_version};
use crypt::{RootKey, VolumeRoot};
use futures_util::future::join_all;
use grant::Anchor;
use kit::header::{End, Envelope, Origin, Part};
use namespace::{Body, Command, Condition, UploadId, Version};

const MIB: usize = 1 << 20;

fn root() -> VolumeRoot {
    VolumeRoot::new([9; 32])
}

fn owner() -> Arc<Folder> {
    Arc::new(Folder::of_root(&root()))
}

fn file(folder: &Arc<Folder>, path: &str) -> Access {
    Access::File { folder: folder.clone(), path: path.into() }
}

async fn put(rig: &Rig, key: &str, access: &Access, all: &[u8]) -> Version {
    let mut writer = rig.client.writer_as(&rig.bucket, None, access.clone()).named("a name that doesn't count");
    for part in all.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
    }
    let content = writer.finish().await.unwrap();
    let command = Command::Put { key: key.into(), new: new_version(content), condition: Condition::default() };
    rig.client.commit(&rig.bucket, command).await.unwrap();
    rig.version(key).await
}

async fn get(rig: &Rig, version: &Version, access: &Access) -> Result<Vec<u8>, client::Error> {
    let mut stream = rig.client.read_as(&rig.bucket, version, 0..version.size, access)?;
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

/// One header of each segment.
fn headers(rig: &Rig) -> Vec<PieceHeader> {
    let mut seen = BTreeSet::new();
    let mut headers = Vec::new();
    for (_, drive) in &rig.drives {
        for (piece, (header, _)) in drive.pieces.lock().unwrap().iter() {
            if seen.insert(piece.segment) {
                headers.push(PieceHeader::decode(header).unwrap());
            }
        }
    }
    headers.sort_by_key(|header| (header.written, header.segment));
    headers
}

fn origin(header: &PieceHeader, root: &VolumeRoot) -> Origin {
    Envelope::decode(&header.fragment).unwrap().open(root, &header.facts()).unwrap()
}

#[tokio::test]
async fn what_a_files_key_wrote_it_reads_and_no_other_key_does() {
    let rig = Rig::new(2, 1, 3).await;
    for size in [0, 1, 4096, 4097, 70_000, MIB, MIB + 1, 3 * MIB] {
        let (all, path) = (bytes(size as u64, size), format!("photos/{size}"));
        let access = file(&owner(), &path);
        let version = put(&rig, &format!("sealed {size}"), &access, &all).await;
        assert_eq!(version.size, size as u64);
        assert!(get(&rig, &version, &access).await.unwrap() == all, "{size}");
        let range = (size as u64 / 3)..(size as u64 / 2);
        let mut stream = rig.client.read_as(&rig.bucket, &version, range.clone(), &access).unwrap();
        let mut part = Vec::new();
        while let Some(bytes) = stream.next().await {
            part.extend_from_slice(&bytes.unwrap());
        }
        assert!(part == all[range.start as usize..range.end as usize]);
        // The file's key alone, as a grant for it has.
        let alone = Folder::of_grant(owner().owner(), Anchor::default(), root().top().at(&path));
        assert!(get(&rig, &version, &file(&Arc::new(alone), "")).await.unwrap() == all);
        // Under another name: only that one's key opens it.
        let (moved, key) = (file(&owner(), "moved"), format!("sealed copy {size}"));
        let content = rig.client.rewrapped(&rig.bucket, &version, &access, &moved).unwrap();
        let command = Command::Put { key: key.clone(), new: new_version(content), condition: Condition::default() };
        rig.client.commit(&rig.bucket, command).await.unwrap();
        let copy = rig.version(&key).await;
        assert!(get(&rig, &copy, &moved).await.unwrap() == all && get(&rig, &copy, &access).await.is_err());
        let other = Arc::new(Folder::of_root(&VolumeRoot::new([8; 32])));
        for wrong in [file(&owner(), "photos/other"), file(&other, &path), Access::Volume] {
            assert!(get(&rig, &version, &wrong).await.is_err(), "{size}: {wrong:?}");
        }
    }
}

#[tokio::test]
async fn objects_of_one_folder_share_packs_and_nothing_of_them_is_seen() {
    let rig = Rig::new(2, 1, 3).await;
    let folder = owner();
    let grant = Folder::of_grant(folder.owner(), Anchor::new(&root(), "shared/", [1; 16]), root().top().at("shared/"));
    let grant = Arc::new(grant);
    let files: Vec<_> = (0..20)
        .map(|at| match at % 3 {
            0 => (file(&grant, &format!("secret name {at}")), format!("shared/secret name {at}")),
            1 => (file(&folder, &format!("top/secret name {at}")), format!("top/secret name {at}")),
            _ => (Access::Volume, "a name that doesn't count".to_owned()),
        })
        .collect();
    let text = b"plaintext that nobody may see; ".repeat(300);
    let writes = files.iter().enumerate().map(|(at, (access, _))| {
        let (rig, text) = (&rig, &text);
        async move { put(rig, &format!("sealed {at}"), access, text).await }
    });
    let versions = join_all(writes).await;
    for ((access, _), version) in files.iter().zip(&versions) {
        assert!(get(&rig, version, access).await.unwrap() == text);
    }
    let volume = RootKey::new([7; 32]).store_keys().volume_key(rig.bucket.volume);
    let mut paths = Vec::new();
    for header in headers(&rig) {
        let ours = header.owner == Some(root().signing_key().public());
        let Origin::Pack(slots) = origin(&header, &if ours { root() } else { VolumeRoot::of(&volume) }) else {
            panic!("a pack")
        };
        let of = |slot: &kit::header::PackSlot| slot.path.split('/').next().unwrap().to_owned();
        let folders: BTreeSet<String> = slots.iter().map(of).collect();
        assert_eq!(folders.len(), 1, "one key seals a pack's header");
        paths.extend(slots.into_iter().map(|slot| slot.path));
    }
    paths.sort();
    let mut wanted: Vec<_> = files.iter().map(|(_, path)| path.clone()).collect();
    wanted.sort();
    assert_eq!(paths, wanted);
    assert!(headers(&rig).len() < files.len(), "some share");
    for (_, drive) in &rig.drives {
        for (header, body) in drive.pieces.lock().unwrap().values() {
            for seen in [&header[..], body] {
                for secret in [&b"plaintext"[..], b"secret name", b"shared"] {
                    assert!(!seen.windows(secret.len()).any(|part| part == secret));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_without_the_stores_keys_uses_files_keys_alone() {
    let rig = Rig::new(2, 1, 3).await;
    let drives = Drives::new(rig.env.clock.clone());
    rig.drives.iter().for_each(|(id, drive)| drives.set(*id, Arc::new(Handle(drive.clone()))));
    let volumes = Arc::new(client::shard::One(rig.volumes.clone()));
    let client = Client::new(rig.env.clone(), rig.system.clone(), volumes, drives, None);
    let all = bytes(1, 5000);
    for (access, works) in [(file(&owner(), "a"), true), (Access::Volume, false)] {
        let mut writer = client.writer_as(&rig.bucket, None, access.clone());
        writer.write(Bytes::copy_from_slice(&all)).await.unwrap();
        assert_eq!(writer.finish().await.is_ok(), works);
    }
    let access = file(&owner(), "b");
    let version = put(&rig, "b", &access, &all).await;
    let mut stream = client.read_as(&rig.bucket, &version, 0..5000, &access).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), all);
    assert!(client.read(&rig.bucket, &version, 0..5000).is_err());
}

#[tokio::test]
async fn headers_say_where_an_object_ends_and_which_part_of_an_upload_it_is() {
    let rig = Rig::new(1, 1, 2).await;
    let key = VolumeRoot::of(&RootKey::new([7; 32]).store_keys().volume_key(rig.bucket.volume));
    let part = Part { upload: [4; 16], number: 7 };
    // Told right, not at all, and wrong.
    for len in [Some(128 * MIB), None, Some(64 * MIB), Some(MIB)] {
        rig.drives.iter().for_each(|(_, drive)| drive.pieces.lock().unwrap().clear());
        let writer = rig.client.writer(&rig.bucket, len.map(|len| len as u64)).named("a");
        let mut writer = writer.part(UploadId(part.upload), part.number);
        for _ in 0..128 {
            writer.write(Bytes::from(vec![7; MIB])).await.unwrap();
        }
        writer.finish().await.unwrap();
        let mut found: Vec<_> = headers(&rig)
            .iter()
            .map(|header| {
                let Origin::Whole { offset, end, path, part, .. } = origin(header, &key) else { panic!("no pack") };
                (offset, header.len, end, path, part)
            })
            .collect();
        found.sort_by_key(|found| found.0);
        let last = found.len() - 1;
        let mut at = 0;
        for (number, (offset, len, end, path, of)) in found.into_iter().enumerate() {
            assert_eq!((offset, end), (at, if number == last { End::Here } else { End::Later }), "{number}");
            assert_eq!((path.as_str(), of), ("a", Some(part)));
            at += len;
        }
        assert_eq!(at, 128 * MIB as u64);
    }
    for size in [1, 5000] {
        rig.drives.iter().for_each(|(_, drive)| drive.pieces.lock().unwrap().clear());
        let mut writer = rig.client.writer(&rig.bucket, None).named("a").part(UploadId(part.upload), part.number);
        writer.write(Bytes::from(vec![7; size])).await.unwrap();
        let content = writer.finish().await.unwrap();
        assert!(matches!(content.body, Body::Packed(..)), "a part is never inline");
        let Origin::Pack(slots) = origin(&headers(&rig)[0], &key) else { panic!("a pack") };
        assert_eq!((slots[0].path.as_str(), slots[0].part), ("a", Some(part)));
    }
}

#[tokio::test]
async fn repair_keeps_owner_and_envelope_and_so_does_a_header_of_version_1() {
    let rig = Rig::new(2, 1, 3).await;
    let version = put(&rig, "a", &file(&owner(), "a"), &bytes(1, 2 * MIB)).await;
    let Body::Segments(segments) = &version.body else { panic!("{:?}", version.body) };
    let segment = &segments[0];
    let row = rig.client.group(segment.policy, segment.group).await.unwrap();
    let drive = |index: u8| {
        let at = rig.drives.iter().position(|(id, _)| *id == row.members[usize::from(index)]).unwrap();
        rig.drives[at].1.clone()
    };
    let piece = |index| base::PieceId { segment: segment.id, index };
    for old in [false, true] {
        for index in 0..3 {
            let drive = drive(index);
            let mut pieces = drive.pieces.lock().unwrap();
            let header = &mut pieces.get_mut(&piece(index)).unwrap().0;
            if old {
                let owned = PieceHeader::decode(header).unwrap();
                *header = PieceHeader { owner: None, fragment: b"as it was".to_vec(), ..owned }.encode().into();
                assert_eq!(header[4], 1);
            }
        }
        let before = drive(1).pieces.lock().unwrap().remove(&piece(1)).unwrap();
        let rebuilt = rig.client.rebuild(rig.bucket.volume, segment.id, (segment.policy, &row), &[1]).await.unwrap();
        assert_eq!(rebuilt.pieces, [1]);
        assert!(drive(1).pieces.lock().unwrap()[&piece(1)] == before, "as it was, to the byte");
    }
}

#[tokio::test]
async fn who_has_no_key_of_a_file_leaves_its_packs_and_segments_as_they_are() {
    let rig = Rig::new(2, 1, 6).await;
    let (small, large) = (bytes(1, 5000), bytes(2, 2 * MIB));
    let (one, two) = (file(&owner(), "a"), file(&owner(), "b"));
    let packed = put(&rig, "a", &one, &small).await;
    put(&rig, "b", &two, &large).await;
    let Body::Packed(pack, _) = &packed.body else { panic!("{:?}", packed.body) };
    let done = rig.client.compact_pack(rig.bucket.volume, pack.id).await.unwrap();
    assert_eq!((done.moved, done.left), (0, 1));
    let drives: Vec<_> = rig.drives.iter().map(|(id, _)| *id).collect();
    common::add_policy(&rig.system, 2, (4, 2), &drives).await;
    rig.client.set_config(&rig.bucket, client::POLICY_SETTING, Some(b"4+2".to_vec())).await.unwrap();
    rig.client.map_changed();
    for (key, access, wanted) in [("a", &one, &small), ("b", &two, &large)] {
        let version = rig.version(key).await;
        assert_eq!(rig.client.recode(rig.bucket.volume, key, &version).await.unwrap(), 0);
        assert!(get(&rig, &rig.version(key).await, access).await.unwrap() == *wanted);
    }
}

#[tokio::test]
async fn an_object_in_the_metadata_is_sealed_and_every_changed_byte_of_it_is_noticed() {
    let rig = Rig::new(1, 0, 1).await;
    let access = file(&owner(), "a");
    let mut version = put(&rig, "a", &access, b"plaintext").await;
    let Body::Inline(sealed) = version.body.clone() else { panic!("{:?}", version.body) };
    assert_eq!(sealed.len(), 9 + base::limits::SEALED_BYTES_MORE);
    assert!(!sealed.windows(5).any(|part| part == b"plain"));
    for at in 0..sealed.len() {
        let mut wrong = sealed.clone();
        wrong[at] ^= 1;
        version.body = Body::Inline(wrong);
        assert!(get(&rig, &version, &access).await.is_err(), "{at}");
        version.body = Body::Inline(sealed[..at].to_vec());
        assert!(get(&rig, &version, &access).await.is_err(), "{at}");
    }
    // Of another size than is told.
    version.body = Body::Inline(sealed);
    version.size += 1;
    assert!(get(&rig, &version, &access).await.is_err());
}
