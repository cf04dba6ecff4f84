//! Every stored type keeps the bytes of every released version: they are read for ever.
#![allow(clippy::unwrap_used)]

use base::{DriveId, Epoch, GroupId, NodeId, PolicyId, SegmentId, UserId, VolumeId, Wall};
use codec::Versioned;
use namespace::catalog::{
    AccessKey, Bucket, Coding, DeadVolume, DriveRow, DriveState, NodeRow, NodeState, PolicyRow, Severity, TicketRow,
    User, VolumeKeyRow,
};
use namespace::journal::{Event, What};
use namespace::rows::*;
use namespace::undo::{UndoHead, UndoRow};
use namespace::*;
use proptest::prelude::*;

fn segment(byte: u8) -> SegmentRef {
    SegmentRef {
        id: SegmentId([byte; 16]),
        policy: PolicyId(0x0102),
        group: GroupId(0x0304_0506),
        k: 4,
        m: 2,
        len: 0x0400_0000,
        root: [byte + 1; 32],
        wrapped_key: [byte + 2; 48],
    }
}

fn version() -> VersionRow {
    VersionRow {
        ord: 0x0102_0304_0506_0708,
        null: true,
        marker: false,
        modified: Wall(1_795_230_600_123),
        size: 70_000,
        etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
        upload: Some(UploadId([0x55; 16])),
        attrs: Attrs::from([("content-type".to_owned(), b"text/plain".to_vec()), ("meta:k".to_owned(), vec![0, 255])]),
        long_attrs: true,
        place: Place::Here(Body::Packed(segment(0x10), Slot { index: 3, offset: 4096, len: 70_016 })),
    }
}

fn manifest() -> ManifestRow {
    ManifestRow(Body::Spans(vec![
        Span { size: 0x0800_0000, body: Body::Segments(vec![segment(0x20), segment(0x30)]) },
        Span { size: 3, body: Body::Inline(b"abc".to_vec()) },
        Span { size: 70_000, body: Body::Packed(segment(0x40), Slot { index: 0, offset: 0, len: 70_016 }) },
    ]))
}

/// Every stored type with a value that uses all of its fields, and each event.
macro_rules! fixtures {
    ($($name:ident: $value:expr;)*) => {
        $(#[test]
        fn $name() {
            let text = include_str!(concat!("fixtures/", stringify!($name), ".hex"));
            check(text.trim(), $value);
        })*
    };
}

fn check<T: Versioned + PartialEq + std::fmt::Debug>(text: &str, value: T) {
    let mut bytes = vec![0; text.len() / 2];
    assert!(base::ids::unhex(text, &mut bytes), "the fixture is not hex");
    assert_eq!(T::decode(&bytes).unwrap(), value, "the released bytes read back");
    assert_eq!(base::ids::hex(&value.encode()), text, "this release writes them");
    for cut in 0..bytes.len() {
        assert!(T::decode(&bytes[..cut]).is_err(), "{cut} of {} bytes are not enough", bytes.len());
    }
    assert!(T::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "a byte too many");
    bytes[4] += 1;
    assert!(matches!(T::decode(&bytes), Err(codec::Error::Version { .. })), "a newer version");
}

fixtures! {
    undo_v1: UndoRow { deleted: Wall(1_795_230_600_124), version: version() };
    undo_head_v1: UndoHead { versions: 3, bytes: 0x0102_0304 };
    head_v1: Head {
        versioning: Versioning::Suspended, closed: true, inode: 2, ord: 3, objects: 4, bytes: 5, versions: 6,
        version_bytes: 7, uploads: 8, part_bytes: 9, tomb_cursor: [10; 16],
    };
    version_v1: version();
    file_v1: FileRow { older: 2, older_null: 7, current: VersionRow { place: Place::Bytes, ..version() } };
    folder_v1: FolderRow { inode: 9, children: 3, live: 2 };
    attrs_v1: AttrsRow(Attrs::from([("parts".to_owned(), vec![7; 300])]));
    manifest_v1: manifest();
    upload_v1: UploadRow { begun: Wall(5), attrs: Attrs::from([("a".to_owned(), vec![1])]) };
    segment_v1: SegmentRow {
        k: 4, m: 2, len: 6, refs: 7,
        pack: Some(PackState { created: Wall(8), live_slots: 9, live_bytes: 10 }),
    };
    slot_version_v1: SlotRow {
        len: 5, refs: 1, owner: Owner::Version { key: "ä/b".into(), version: VersionId(6) },
    };
    slot_part_v1: SlotRow { len: 5, refs: 2, owner: Owner::Part { upload: UploadId([3; 16]), number: 10_000 } };
    garbage_v1: GarbageRow { policy: PolicyId(1), group: GroupId(2), k: 3, m: 4, len: 5, freed: Wall(6) };
    tomb_v1: TombRow { collected: Wall(7) };
    missing_v1: MissingRow { policy: PolicyId(1), group: GroupId(2), noted: Wall(3), missing: vec![0, 5] };
    event_put_v1: event(What::Put {
        key: "k".into(), version: VersionId(2), size: 3, etag: "e".into(), upload: Some(UploadId([4; 16])),
    });
    event_marker_v1: event(What::Marker { key: "k".into(), version: VersionId(2) });
    event_delete_v1: event(What::Delete { key: "k".into(), version: VersionId(2), marker: true });
    event_attrs_v1: event(What::Attrs { key: "k".into(), version: VersionId(2) });
    event_rebody_v1: event(What::Rebody { key: "k".into(), version: VersionId(2) });
    event_upload_begun_v1: event(What::UploadBegun { key: "k".into(), upload: UploadId([4; 16]) });
    event_upload_aborted_v1: event(What::UploadAborted { key: "k".into(), upload: UploadId([4; 16]) });
    event_config_v1: event(What::Config { name: "cors".into() });
    event_versioning_v1: event(What::Versioning(Versioning::Enabled));
    event_closed_v1: event(What::Closed);
    catalog_bucket_v1: Bucket {
        name: "photos".into(), volume: VolumeId(5), owner: UserId("owner".into()), created: Wall(6),
        region: "eu".into(),
    };
    catalog_volume_key_v1: VolumeKeyRow { volume: VolumeId(5), wrapped: vec![9; 48] };
    catalog_sealed_volume_v2: catalog::SealedVolume {
        older: vec![catalog::OlderKey { public: [6; 32], sealed: vec![7; 64], replaced: Wall(1_795_230_600_123) }],
        settled: false,
        ..sealed_volume()
    };
    catalog_dead_volume_v1: DeadVolume { volume: VolumeId(5), deleted: Wall(6) };
    catalog_user_v1: User { id: UserId("u".into()), display: "Ü".into(), email: Some("u@example.org".into()) };
    catalog_access_key_v1: AccessKey {
        id: "AK".into(), secret: "S".into(), user: UserId("u".into()), created: Wall(7), disabled: true,
    };
    catalog_drive_v2: DriveRow { node: Some(NodeId([0x1d; 16])), ..drive() };
    catalog_node_v1: node();
    catalog_ticket_v1: TicketRow { id: [1; 8], key: [2; 32], expires: Wall(1_795_230_600_000) };
    catalog_policy_v1: PolicyRow { id: PolicyId(1), coding: Coding { k: 4, m: 2 }, ack: 5, name: "default".into() };
    catalog_event_v1: catalog::Event {
        number: 1, at: Wall(2), severity: Severity::Warning, area: "drive".into(), subject: "d1".into(),
        text: "gone".into(),
    };
}

fn drive() -> DriveRow {
    let (id, path) = (DriveId([1; 16]), "/data/d1".into());
    DriveRow { id, path, state: DriveState::Gone, size: 8, added: Wall(9), node: None }
}

fn node() -> NodeRow {
    NodeRow {
        id: NodeId([1; 16]),
        key: [2; 32],
        serial: 3,
        since: Epoch(4),
        state: NodeState::Draining,
        joined: Wall(5),
        name: "höst".into(),
        addresses: vec!["10.1.2.3:7400".parse().unwrap(), "[2001:db8::1]:7400".parse().unwrap()],
        labels: vec![("site".into(), "office".into()), ("owner".into(), "anna".into())],
    }
}

fn sealed_volume() -> catalog::SealedVolume {
    let (older, settled) = (Vec::new(), true);
    let (public, check, grant_key) = ([1; 32], [2; 16], [3; 32]);
    catalog::SealedVolume { volume: VolumeId(5), public, check, grant_key, epoch: 4, older, settled }
}

fn read_old<T: Versioned>(text: &str) -> T {
    let text = text.trim();
    let mut bytes = vec![0; text.len() / 2];
    assert!(base::ids::unhex(text, &mut bytes));
    T::decode(&bytes).unwrap()
}

#[test]
fn drives_of_the_first_release_are_on_no_node_that_is_known() {
    assert_eq!(read_old::<DriveRow>(include_str!("fixtures/catalog_drive_v1.hex")), drive());
}

#[test]
fn volumes_of_the_first_release_never_had_other_keys() {
    let old = include_str!("fixtures/catalog_sealed_volume_v1.hex");
    assert_eq!(read_old::<catalog::SealedVolume>(old), sealed_volume());
}

fn event(what: What) -> Event {
    Event { volume: VolumeId(7), at: Wall(1_795_230_600_123), what }
}

#[test]
fn bodies_of_every_kind_read_back() {
    for body in [Body::Inline(vec![]), Body::Segments(vec![]), Body::Segments(vec![segment(1)]), manifest().0] {
        let row = VersionRow { place: Place::Here(body), long_attrs: false, upload: None, ..version() };
        assert_eq!(VersionRow::decode(&row.encode()).unwrap(), row);
    }
    assert!(ManifestRow::decode(&ManifestRow(Body::Unloaded).encode()).is_err());
}

proptest! {
    #[test]
    fn damaged_rows_are_errors_and_never_panics(at in 5..400usize, with in any::<u8>(), cut in 0..500usize) {
        for mut bytes in [version().encode(), manifest().encode()] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            bytes.truncate(cut.max(5));
            let _ = VersionRow::decode(&bytes);
            let _ = ManifestRow::decode(&bytes);
            bytes[..4].copy_from_slice(&AttrsRow::MARK);
            let _ = AttrsRow::decode(&bytes);
            bytes[..4].copy_from_slice(&Event::MARK);
            let _ = Event::decode(&bytes);
            bytes[..4].copy_from_slice(&SlotRow::MARK);
            let _ = SlotRow::decode(&bytes);
        }
        for mut bytes in [node().encode(), drive().encode(), TicketRow { id: [1; 8], key: [2; 32], expires: Wall(3) }.encode()] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            bytes.truncate(cut.max(5));
            let _ = NodeRow::decode(&bytes).map(|row| assert_eq!(NodeRow::decode(&row.encode()), Ok(row)));
            let _ = DriveRow::decode(&bytes);
            let _ = TicketRow::decode(&bytes);
        }
    }
}
