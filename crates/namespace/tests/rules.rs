//! S3's rules by example, and what the keepers of segments are told.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use namespace::read::{self, Entry, Found, ListQuery};
use namespace::rows::{FolderRow, Owner};
use namespace::*;

const VOLUME: VolumeId = VolumeId(1);
const DAY_MS: u64 = 24 * 3600 * 1000;

struct Volume {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    now: u64,
}

fn inline(bytes: &[u8]) -> (u64, Body) {
    (bytes.len() as u64, Body::Inline(bytes.to_vec()))
}

fn segment(number: u8) -> SegmentRef {
    let (policy, group) = (PolicyId(1), GroupId(2));
    SegmentRef { id: SegmentId([number; 16]), policy, group, k: 4, m: 2, len: 100, root: [0; 32], wrapped_key: [0; 48] }
}

fn own(number: u8) -> (u64, Body) {
    (100, Body::Segments(vec![segment(number)]))
}

fn packed(pack: u8, index: u32, len: u32) -> (u64, Body) {
    (u64::from(len) - 16, Body::Packed(segment(pack), Slot { index, offset: 0, len }))
}

fn new((size, body): (u64, Body), etag: &str) -> NewVersion {
    NewVersion { size, etag: etag.into(), attrs: Attrs::new(), body }
}

impl Volume {
    fn new() -> Self {
        Volume { map: BTreeMap::new(), now: 1_000_000 }
    }

    fn try_run(&mut self, command: Command) -> Result<Outcome, Error> {
        self.now += 1000;
        let (batch, outcome) = apply(&self.map, VOLUME, &command, Wall(self.now))?;
        base::kv::apply(&mut self.map, &batch);
        Ok(outcome)
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.try_run(command).unwrap()
    }

    fn put(&mut self, key: &str, content: (u64, Body), etag: &str) -> VersionId {
        let condition = Condition::default();
        self.run(Command::Put { key: key.into(), new: new(content, etag), condition }).version.unwrap()
    }

    fn delete(&mut self, key: &str, version: Option<VersionId>) -> Outcome {
        self.run(Command::Delete { key: key.into(), version, condition: Condition::default() })
    }

    fn head(&self, key: &str) -> Result<Found, Error> {
        read::head(&self.map, VOLUME, key, None, true)
    }

    fn etag(&self, key: &str) -> String {
        self.head(key).unwrap().object(None).unwrap().etag
    }

    /// `key:etag`, markers as `key:-`, the current one with `*`.
    fn versions(&self) -> Vec<String> {
        let query = ListQuery { limit: 1000, ..ListQuery::default() };
        let page = read::list_versions(&self.map, VOLUME, &query).unwrap();
        page.entries
            .into_iter()
            .map(|entry| match entry {
                Entry::Item(item) => {
                    let etag = if item.version.marker { "-".to_owned() } else { item.version.etag };
                    format!("{}:{etag}{}", item.key, if item.latest { "*" } else { "" })
                }
                Entry::Prefix(prefix) => prefix,
            })
            .collect()
    }

    fn garbage(&self) -> Vec<u8> {
        let garbage = read::garbage(&self.map, VOLUME, None, 100).unwrap();
        garbage.iter().map(|garbage| garbage.segment.0[0]).collect()
    }

    fn begin(&mut self, key: &str, id: u8) -> UploadId {
        let upload = UploadId([id; 16]);
        self.run(Command::BeginUpload { upload, key: key.into(), attrs: Attrs::new() });
        upload
    }

    fn part(&mut self, key: &str, upload: UploadId, number: u16, (size, body): (u64, Body)) -> Result<Outcome, Error> {
        let (modified, etag, attrs) = (Wall(0), format!("p{number}"), Attrs::new());
        let part = Part { number, modified, size, etag, attrs, body };
        self.try_run(Command::PutPart { upload, key: key.into(), part })
    }

    fn complete(&mut self, key: &str, upload: UploadId, numbers: &[u16]) -> Result<Outcome, Error> {
        self.try_run(Command::CompleteUpload {
            upload,
            key: key.into(),
            parts: numbers.iter().map(|number| (*number, format!("\"p{number}\""))).collect(),
            etag: "whole".into(),
            attrs: Attrs::new(),
            condition: Condition::default(),
        })
    }
}

#[test]
fn deleting_the_marker_brings_the_object_back() {
    let mut volume = Volume::new();
    volume.run(Command::SetVersioning(Versioning::Enabled));
    let first = volume.put("a/k", inline(b"1"), "1");
    let second = volume.put("a/k", inline(b"2"), "2");
    assert!(second > first);
    let marker = volume.delete("a/k", None);
    assert!(marker.marker && marker.version.unwrap() > second);
    assert_eq!(volume.versions(), ["a/k:-*", "a/k:2", "a/k:1"]);
    let Found::Marker(found) = volume.head("a/k").unwrap() else { panic!("the marker is what is found") };
    assert_eq!((Some(found.id), found.modified), (marker.version, marker.modified));
    let named = read::head(&volume.map, VOLUME, "a/k", marker.version, true).unwrap();
    assert_eq!(named.object(marker.version), Err(Error::IsMarker));

    let gone = volume.delete("a/k", marker.version);
    assert_eq!((gone.version, gone.marker), (marker.version, true));
    assert_eq!(volume.etag("a/k"), "2");
    let gone = volume.delete("a/k", Some(second));
    assert_eq!((gone.version, gone.marker), (Some(second), false));
    assert_eq!(volume.etag("a/k"), "1");
    volume.delete("a/k", Some(first));
    assert_eq!(volume.head("a/k"), Err(Error::NoSuchKey));
    assert_eq!(volume.versions(), [""; 0]);
}

#[test]
fn suspended_writes_replace_the_null_version_only() {
    let mut volume = Volume::new();
    assert_eq!(volume.put("k", inline(b"0"), "off"), VersionId::NULL);
    volume.run(Command::SetVersioning(Versioning::Enabled));
    let kept = volume.put("k", inline(b"1"), "kept");
    volume.run(Command::SetVersioning(Versioning::Suspended));
    assert_eq!(volume.put("k", inline(b"2"), "null2"), VersionId::NULL);
    assert_eq!(volume.versions(), ["k:null2*", "k:kept"]);
    volume.run(Command::SetVersioning(Versioning::Enabled));
    volume.put("k", inline(b"3"), "newer");
    volume.run(Command::SetVersioning(Versioning::Suspended));
    let marker = volume.delete("k", None);
    assert_eq!((marker.version, marker.marker), (Some(VersionId::NULL), true));
    assert_eq!(volume.versions(), ["k:-*", "k:newer", "k:kept"]);
    volume.delete("k", Some(VersionId::NULL));
    assert_eq!(volume.etag("k"), "newer");
    volume.delete("k", Some(kept));
    assert_eq!(volume.versions(), ["k:newer*"]);
    let off = volume.try_run(Command::SetVersioning(Versioning::Off));
    assert!(matches!(off, Err(Error::InvalidValue { what: "versioning", .. })));
}

#[test]
fn conditions_answer_as_the_suite_wants() {
    let mut volume = Volume::new();
    let etags = |etag: &str| Some(vec![etag.to_owned()]);
    let put = |volume: &mut Volume, condition: Condition| {
        let new = new(inline(b"x"), "e");
        volume.try_run(Command::Put { key: "k".into(), new, condition }).map(|_| ())
    };
    let if_match = |etag: &str| Condition { if_match: etags(etag), ..Condition::default() };
    let if_none = |etag: &str| Condition { if_none_match: etags(etag), ..Condition::default() };
    let failed = |what| Err(Error::Precondition { what });
    let kept = |what| Err::<bool, _>(Error::Precondition { what });
    assert_eq!(put(&mut volume, if_match("*")), Err(Error::NoSuchKey));
    assert_eq!(put(&mut volume, if_match("bad")), Err(Error::NoSuchKey));
    assert_eq!(put(&mut volume, if_none("*")), Ok(()));
    assert_eq!(put(&mut volume, if_none("*")), failed("if-none-match"));
    assert_eq!(put(&mut volume, if_none("\"e\"")), failed("if-none-match"));
    assert_eq!(put(&mut volume, if_none("bad")), Ok(()));
    assert_eq!(put(&mut volume, if_match("\"e\"")), Ok(()));
    assert_eq!(put(&mut volume, if_match("bad")), failed("if-match"));

    let delete = |volume: &mut Volume, version, condition: Condition| {
        volume.try_run(Command::Delete { key: "k".into(), version, condition }).map(|outcome| outcome.marker)
    };
    assert_eq!(delete(&mut volume, None, if_match("bad")), kept("if-match"));
    assert_eq!(delete(&mut volume, None, if_match("e")), Ok(false));
    assert_eq!(delete(&mut volume, None, if_match("bad")), Ok(false), "what isn't there is deleted");

    volume.run(Command::SetVersioning(Versioning::Enabled));
    assert_eq!(delete(&mut volume, None, if_match("*")), Ok(false));
    assert_eq!(volume.versions(), [""; 0], "no marker where nothing was");
    put(&mut volume, Condition::default()).unwrap();
    assert_eq!(delete(&mut volume, None, if_match("e")), Ok(true));
    assert_eq!(delete(&mut volume, None, if_match("bad")), kept("if-match"), "a marker is there");
    assert_eq!(put(&mut volume, if_match("*")), Err(Error::NoSuchKey), "for writes it is not");
    assert_eq!(put(&mut volume, if_none("*")), Ok(()));
    let time = |at| Condition { if_modified: Some(Wall(at)), ..Condition::default() };
    let size = |size| Condition { if_size: Some(size), ..Condition::default() };
    assert_eq!(delete(&mut volume, None, time(1_420_070_400_000)), kept("if-match-last-modified-time"));
    assert_eq!(delete(&mut volume, None, size(9999)), kept("if-match-size"));
    let written = volume.now / 1000 * 1000 - 2000;
    assert_eq!(delete(&mut volume, None, Condition { if_modified: Some(Wall(written)), ..size(1) }), Ok(true));
}

#[test]
fn a_change_by_what_was_seen_of_attributes_is_refused_once_they_differ() {
    let mut volume = Volume::new();
    volume.run(Command::SetVersioning(Versioning::Enabled));
    let new = NewVersion { attrs: Attrs::from([("long".into(), vec![1; 4000])]), ..new(inline(b"x"), "e") };
    let put = Command::Put { key: "k".into(), new, condition: Condition::default() };
    let version = volume.run(put).version;
    let seen = |lock: Option<&[u8]>, long: &[u8]| Condition {
        if_attrs: vec![("lock".into(), lock.map(<[u8]>::to_vec)), ("long".into(), Some(long.to_vec()))],
        ..Condition::default()
    };
    let set = |volume: &mut Volume, value: &[u8], condition| {
        let set = vec![("lock".into(), Some(value.to_vec()))];
        volume.try_run(Command::SetAttrs { key: "k".into(), version, set, condition }).map(|_| ())
    };
    let changed = Err(Error::Precondition { what: "attributes" });
    assert_eq!(set(&mut volume, b"a", seen(None, &[2; 4000])), changed);
    assert_eq!(set(&mut volume, b"a", seen(None, &[1; 4000])), Ok(()));
    assert_eq!(set(&mut volume, b"b", seen(None, &[1; 4000])), changed);
    let delete = |volume: &mut Volume, condition| {
        volume.try_run(Command::Delete { key: "k".into(), version, condition }).map(|_| ())
    };
    assert_eq!(delete(&mut volume, seen(None, &[1; 4000])), changed);
    assert_eq!(delete(&mut volume, seen(Some(b"a"), &[1; 4000])), Ok(()));
}

#[test]
fn an_upload_moves_no_byte_and_is_completed_once() {
    let mut volume = Volume::new();
    let upload = volume.begin("big", 1);
    volume.part("big", upload, 1, own(1)).unwrap();
    volume.part("big", upload, 3, own(3)).unwrap();
    volume.part("big", upload, 2, own(2)).unwrap();
    volume.part("big", upload, 2, own(4)).unwrap();
    volume.part("big", upload, 9, own(9)).unwrap();
    volume.part("big", upload, 10, inline(b"tail")).unwrap();
    assert_eq!(volume.garbage(), [2], "a replaced part's bytes are given back");
    assert_eq!(volume.complete("big", upload, &[2, 1]), Err(Error::PartOrder));
    assert_eq!(volume.complete("big", upload, &[1, 1]), Err(Error::PartOrder));
    assert_eq!(volume.complete("big", upload, &[1, 4]), Err(Error::InvalidPart { number: 4 }));
    let done = volume.complete("big", upload, &[1, 2, 3, 10]).unwrap();
    assert_eq!(done.size, 304);
    assert_eq!(volume.garbage(), [2, 9], "a part left out is given back");
    let version = volume.head("big").unwrap().object(None).unwrap();
    let segments = Span { size: 300, body: Body::Segments(vec![segment(1), segment(4), segment(3)]) };
    let tail = Span { size: 4, body: Body::Inline(b"tail".to_vec()) };
    assert_eq!(version.body, Body::Spans(vec![segments, tail]));
    // The answer was lost and the client asks once more.
    assert_eq!(volume.complete("big", upload, &[1, 2, 3, 10]).unwrap(), done);
    assert_eq!(volume.part("big", upload, 1, own(7)).unwrap_err(), Error::NoSuchUpload);
    volume.put("big", inline(b"other"), "other");
    assert_eq!(volume.complete("big", upload, &[1, 2, 3, 10]), Err(Error::NoSuchUpload));
    assert_eq!(volume.garbage(), [1, 2, 3, 4, 9]);
}

#[test]
fn a_segment_lives_as_long_as_one_copy_of_it() {
    let mut volume = Volume::new();
    volume.put("a", own(1), "a");
    let body = volume.head("a").unwrap().object(None).unwrap().body;
    volume.put("copy", (100, body.clone()), "a");
    volume.put("copy", (100, body.clone()), "again, onto itself");
    volume.delete("a", None);
    assert_eq!(volume.garbage(), []);
    volume.delete("copy", None);
    assert_eq!(volume.garbage(), [1]);
    // Somebody copies what he read before: whoever collects may be at it already.
    let late = Command::Put { key: "b".into(), new: new((100, body), "b"), condition: Condition::default() };
    let gone = Err(Error::SegmentGone { segment: SegmentId([1; 16]) });
    assert_eq!(volume.try_run(late.clone()), gone);
    volume.run(Command::CollectedGarbage { segments: vec![SegmentId([1; 16]), SegmentId([77; 16])] });
    assert_eq!(volume.garbage(), []);
    assert_eq!(volume.try_run(late.clone()), gone);
    assert_eq!(volume.head("b"), Err(Error::NoSuchKey));
    // The memory of it is bounded: after a day, the next collection forgets.
    volume.now += DAY_MS + 1;
    volume.put("c", own(2), "c");
    volume.delete("c", None);
    volume.run(Command::CollectedGarbage { segments: vec![SegmentId([2; 16])] });
    let tombs = volume.map.keys().filter(|key| key[4] == b'T').count();
    assert_eq!(tombs, 1, "only the one of today");
}

#[test]
fn thousands_of_collected_segments_are_forgotten_over_time() {
    let mut volume = Volume::new();
    let id = |day: u64, n: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ day).to_be_bytes());
        SegmentId(id)
    };
    for day in 0..6 {
        for chunk in 0..20 {
            let segments: Vec<_> = (0..20).map(|n| id(day, chunk * 20 + n)).collect();
            let body = segments.iter().map(|id| SegmentRef { id: *id, ..segment(0) }).collect();
            volume.put("k", (2000, Body::Segments(body)), "k");
            volume.delete("k", None);
            volume.run(Command::CollectedGarbage { segments });
        }
        volume.now += DAY_MS;
    }
    let tombs = volume.map.keys().filter(|key| key[4] == b'T').count();
    assert!(tombs <= 1200, "{tombs} of 2400 are remembered");
}

#[test]
fn packs_are_found_by_what_is_left_in_them() {
    let mut volume = Volume::new();
    for slot in 0..4 {
        volume.put(&format!("p{slot}"), packed(1, slot, 25), "e");
        volume.put(&format!("q{slot}"), packed(2, slot, 25), "e");
    }
    let body = volume.head("p3").unwrap().object(None).unwrap().body;
    volume.put("copy of p3", (9, body.clone()), "e");
    volume.delete("p3", None);
    volume.delete("p1", None);
    let before = Wall(volume.now + 1);
    let packs = |volume: &Volume, share, before| -> Vec<(u8, u32, u64)> {
        let packs = read::packs_by_live_share(&volume.map, VOLUME, share, before, 10).unwrap();
        let state = |pack: &read::InUse| pack.row.pack.unwrap();
        packs.iter().map(|pack| (pack.segment.0[0], state(pack).live_slots, state(pack).live_bytes)).collect()
    };
    assert_eq!(packs(&volume, 16, before), [(1, 3, 75), (2, 4, 100)], "the copy keeps its slot");
    assert_eq!(packs(&volume, 12, before), [(1, 3, 75)]);
    assert_eq!(packs(&volume, 16, Wall(0)), [], "young ones may still be filling");
    let owners = read::pack_slots(&volume.map, VOLUME, SegmentId([1; 16]), None, 10).unwrap();
    let names: Vec<_> = owners
        .iter()
        .map(|owner| match &owner.owner {
            Owner::Version { key, version } => (owner.slot, key.as_str(), *version),
            Owner::Part { .. } => panic!("no part"),
        })
        .collect();
    assert_eq!(names, [(0, "p0", VersionId::NULL), (2, "p2", VersionId::NULL), (3, "copy of p3", VersionId::NULL)]);

    // Compaction: each owner moves; nobody who changed meanwhile is touched; the pack is garbage.
    for (slot, key, version) in names {
        let from = volume.head(key).unwrap().object(None).unwrap();
        let to = packed(3, slot, 25).1;
        let rebody = Command::Rebody { key: key.into(), version, from: from.body.clone(), to: to.clone() };
        volume.run(rebody.clone());
        let now = volume.head(key).unwrap().object(None).unwrap();
        assert_eq!(now, Version { body: to, ..from });
        assert!(apply(&volume.map, VOLUME, &rebody, Wall(0)).unwrap().0.is_empty());
    }
    assert_eq!(volume.garbage(), [1]);
    assert_eq!(packs(&volume, 16, Wall(volume.now + 1)), [(3, 3, 75), (2, 4, 100)]);
}

#[test]
fn a_part_in_a_pack_hands_its_slot_to_the_object() {
    let mut volume = Volume::new();
    let upload = volume.begin("k", 1);
    volume.part("k", upload, 1, packed(1, 0, 25)).unwrap();
    volume.part("k", upload, 2, packed(1, 1, 25)).unwrap();
    let owners = || vec![(0, Owner::Part { upload, number: 1 }), (1, Owner::Part { upload, number: 2 })];
    let found = |volume: &Volume| -> Vec<(u32, Owner)> {
        let owners = read::pack_slots(&volume.map, VOLUME, SegmentId([1; 16]), None, 10).unwrap();
        owners.into_iter().map(|owner| (owner.slot, owner.owner)).collect()
    };
    assert_eq!(found(&volume), owners());
    volume.complete("k", upload, &[2]).unwrap();
    let version = VersionId::NULL;
    assert_eq!(found(&volume), [(1, Owner::Version { key: "k".into(), version })]);
    assert_eq!(volume.garbage(), []);
}

#[test]
fn missing_pieces_are_noted_found_and_forgotten() {
    let mut volume = Volume::new();
    let (segment, policy, group) = (SegmentId([1; 16]), PolicyId(1), GroupId(2));
    let note = |missing: &[u8]| Command::NoteMissing { segment, policy, group, missing: missing.to_vec() };
    // A degraded write is noted before its object is committed.
    volume.run(note(&[5, 0, 5]));
    let missing = |volume: &Volume| read::missing(&volume.map, VOLUME, None, 10).unwrap();
    assert_eq!(missing(&volume)[0].note.missing, [0, 5]);
    assert_eq!(missing(&volume)[0].row, None);
    volume.put("k", own(1), "e");
    assert_eq!(missing(&volume)[0].row.as_ref().unwrap().refs, 1);
    volume.run(note(&[5]));
    assert_eq!(missing(&volume)[0].note.missing, [5]);
    volume.run(note(&[]));
    assert_eq!(missing(&volume), []);
    volume.run(note(&[1]));
    volume.delete("k", None);
    assert_eq!(missing(&volume), [], "garbage isn't repaired");
    let group = read::segments_of_group(&volume.map, VOLUME, policy, group, None, 10).unwrap();
    assert_eq!(group, []);
}

#[test]
fn only_an_empty_volume_closes_and_then_takes_no_more() {
    let mut volume = Volume::new();
    volume.run(Command::SetConfig { name: "cors".into(), value: Some(b"x".to_vec()) });
    assert_eq!(read::config(&volume.map, VOLUME, "cors").unwrap(), Some(b"x".to_vec()));
    volume.run(Command::SetVersioning(Versioning::Enabled));
    let version = volume.put("a/k", own(1), "e");
    let marker = volume.delete("a/k", None).version;
    assert_eq!(volume.try_run(Command::Close), Err(Error::NotEmpty));
    volume.delete("a/k", Some(version));
    assert_eq!(volume.try_run(Command::Close), Err(Error::NotEmpty), "a marker is a version");
    volume.delete("a/k", marker);
    let upload = volume.begin("u", 1);
    volume.part("u", upload, 1, own(2)).unwrap();
    volume.run(Command::Close);
    volume.run(Command::Close);
    assert_eq!(volume.garbage(), [1, 2], "an upload under way is dropped");
    assert_eq!(read::config(&volume.map, VOLUME, "cors").unwrap(), None);
    let put = Command::Put { key: "k".into(), new: new(inline(b""), "e"), condition: Condition::default() };
    assert_eq!(volume.try_run(put), Err(Error::Closed));
    volume.run(Command::CollectedGarbage { segments: vec![SegmentId([1; 16]), SegmentId([2; 16])] });
    assert_eq!(volume.garbage(), []);
}

#[test]
fn what_a_body_says_must_fit() {
    let mut volume = Volume::new();
    let bad = [
        (5, Body::Inline(b"four".to_vec())),
        (99, Body::Segments(vec![segment(1)])),
        (0, Body::Unloaded),
        (100, Body::Segments(vec![SegmentRef { k: 0, ..segment(1) }])),
        (100, Body::Segments(vec![SegmentRef { k: 200, m: 200, ..segment(1) }])),
        (1, Body::Spans(vec![Span { size: 1, body: Body::Spans(vec![]) }])),
        (7, Body::Spans(vec![Span { size: 100, body: Body::Segments(vec![segment(1)]) }])),
    ];
    for content in bad {
        let put = Command::Put { key: "k".into(), new: new(content, "e"), condition: Condition::default() };
        assert!(matches!(volume.try_run(put), Err(Error::InvalidValue { what: "body", .. })));
    }
    volume.put("k", own(1), "e");
    // The same segment can't have two shapes.
    for other in [SegmentRef { m: 3, ..segment(1) }, SegmentRef { len: 50, ..segment(1) }] {
        let body = (other.len, Body::Segments(vec![other]));
        let put = Command::Put { key: "x".into(), new: new(body, "e"), condition: Condition::default() };
        assert!(matches!(volume.try_run(put), Err(Error::InvalidValue { what: "body", .. })));
    }
    assert_eq!(volume.versions(), ["k:e*"]);
}

#[test]
fn nothing_to_do_writes_nothing() {
    let mut volume = Volume::new();
    volume.put("k", inline(b"1"), "e");
    let delete = |key: &str, version| Command::Delete { key: key.into(), version, condition: Condition::default() };
    for command in [
        delete("nothing/here", None),
        delete("k", Some(VersionId(99))),
        Command::SetVersioning(Versioning::Off),
        Command::SetAttrs {
            key: "k".into(),
            version: None,
            set: vec![("x".into(), None)],
            condition: Condition::default(),
        },
        Command::SetConfig { name: "cors".into(), value: None },
        Command::CollectedGarbage { segments: vec![SegmentId([9; 16])] },
    ] {
        let (batch, _) = apply(&volume.map, VOLUME, &command, Wall(1)).unwrap();
        assert!(batch.is_empty(), "{command:?}");
    }
}

#[test]
fn damaged_rows_are_errors_not_answers() {
    use codec::Versioned;
    let mut volume = Volume::new();
    volume.put("a/k", own(1), "e");
    let delete = Command::Delete { key: "a/k".into(), version: None, condition: Condition::default() };
    // Each row lost or torn in turn: an error, or an answer that needed no such row; never a panic.
    for (key, value) in volume.map.clone() {
        let mut map = volume.map.clone();
        map.insert(key.clone(), value[..value.len() / 2].to_vec());
        let torn = apply(&map, VOLUME, &delete, Wall(1));
        assert!(matches!(torn, Err(Error::Row(_))) || torn.is_ok_and(|_| value.is_empty()), "{key:?}");
        map.remove(&key);
        let _ = apply(&map, VOLUME, &delete, Wall(1));
        let _ = read::list(&map, VOLUME, &ListQuery { limit: 10, ..ListQuery::default() });
    }
    // A folder that counts nothing.
    let folder = volume.map.iter().find(|(key, _)| key.ends_with(b"a/")).map(|(key, _)| key.clone()).unwrap();
    let row = FolderRow::decode(&volume.map[&folder]).unwrap();
    volume.map.insert(folder, FolderRow { children: 0, live: 0, ..row }.encode());
    assert!(matches!(volume.try_run(delete), Err(Error::Broken { .. })));
}
