use base::{DriveId, GroupId, PolicyId};
use grant::{Caveat, Head, Verbs};
use namespace::read::ListQuery;
use namespace::{Condition, NewVersion, SegmentRef};

use super::*;

const KEY: [u8; 32] = [4; 32];
const PUBLIC: [u8; 32] = [1; 32];
const OLDER: [u8; 32] = [9; 32];
const NOW: Wall = Wall(1_000_000);

fn row() -> SealedVolume {
    let older = vec![catalog::OlderKey { public: OLDER, sealed: vec![7; 64], replaced: Wall(8) }];
    let (volume, check) = (VolumeId(5), [2; 16]);
    SealedVolume { volume, public: PUBLIC, check, grant_key: KEY, epoch: 3, older, settled: true }
}

fn claim(epoch: u64, caveats: &[Caveat]) -> Claim {
    let head = Head { number: VolumeId(5), volume: PublicKey(PUBLIC), epoch, id: [3; 16] };
    caveats.iter().fold(Claim::issue(&KEY, head), |claim, caveat| claim.narrow(caveat.clone()).unwrap())
}

fn guest(epoch: u64, caveats: &[Caveat]) -> Guest {
    Guest { row: row(), claim: Some(claim(epoch, caveats)), now: NOW }
}

fn folder(verbs: &[Verb]) -> Guest {
    guest(3, &[Caveat::Prefix("a/".into()), Caveat::Verbs(Verbs::new(verbs))])
}

fn put(key: &str, segment: Option<SegmentId>) -> Work {
    let one = |id| SegmentRef {
        id,
        policy: PolicyId(1),
        group: GroupId(2),
        k: 2,
        m: 1,
        len: 3,
        root: [0; 32],
        wrapped_key: [0; 48],
    };
    let body = Content::Segments(segment.into_iter().map(one).collect());
    let new = NewVersion { size: 3, etag: "e".into(), attrs: Default::default(), body };
    work(Command::Put { key: key.into(), new, condition: Condition::default() })
}

fn work(command: Command) -> Work {
    Work { id: [6; 16], made: NOW, volume: VolumeId(5), command, notes: Vec::new() }
}

fn delete(key: &str) -> Work {
    work(Command::Delete { key: key.into(), version: None, condition: Condition::default() })
}

fn head(key: &str, with_body: bool) -> Query {
    Query::Head { key: key.into(), version: None, with_body }
}

fn list(prefix: &str) -> Query {
    Query::List(ListQuery { prefix: prefix.into(), ..ListQuery::default() })
}

#[test]
fn a_grant_for_a_folder_reads_that_folder_and_nothing_beside() {
    let reader = folder(&[Verb::Read, Verb::List]);
    for inside in [head("a/b", true), head("a/b/c", false), list("a/"), list("a/b/")] {
        assert!(reader.may_fetch(&inside).is_ok(), "{inside:?}");
    }
    for outside in [head("b", true), head("a", true), head("ab/c", true), list(""), list("a"), list("b/")] {
        assert!(reader.may_fetch(&outside).is_err(), "{outside:?}");
    }
    let config = |name: &str| Query::Config { name: name.into() };
    assert!(reader.may_fetch(&config(POLICY_SETTING)).is_ok() && reader.may_fetch(&config("s3.policy")).is_err());
    assert!(reader.may_fetch(&Query::Missing { segment: SegmentId([7; 16]) }).is_err());
    assert!(reader.may_work(&put("a/b", None)).is_err() && reader.may_work(&delete("a/b")).is_err());
    assert!(reader.may_somewhere(&[Verb::Write]).is_err(), "no piece of its own comes in");
}

#[test]
fn who_watches_with_a_grant_sees_nothing_beyond_its_prefix() {
    let key = |key: &str| key.to_owned();
    let version = namespace::VersionId::NULL;
    let event = |volume, what| (Seq(1), Event { volume: VolumeId(volume), at: NOW, what });
    let put = |path: &str| What::Put { key: key(path), version, size: 1, etag: "e".into(), upload: None };
    let mut all: Vec<_> =
        ["a/b", "a/c/d", "a", "ab", "b/a/b", ""].into_iter().map(|path| event(5, put(path))).collect();
    all.push(event(5, What::Delete { key: key("a/x"), version, marker: false }));
    all.push(event(5, What::Delete { key: key("x"), version, marker: false }));
    all.push(event(5, What::Attrs { key: key("a/y"), version }));
    all.push(event(6, put("a/b")));
    all.push(event(5, What::Config { name: key("a/policy") }));
    all.push(event(5, What::UploadBegun { key: key("a/b"), upload: namespace::UploadId([1; 16]) }));
    let seen = |guest: &Guest, prefix: &str| {
        let keys = guest.may_watch(all.clone(), prefix).into_iter().map(|(_, event)| match event.what {
            What::Put { key, .. } | What::Delete { key, .. } | What::Attrs { key, .. } => key,
            other => panic!("{other:?} is shown"),
        });
        keys.collect::<Vec<_>>()
    };
    let reader = folder(&[Verb::Read, Verb::List]);
    let inside = ["a/b", "a/c/d", "a/x", "a/y"];
    assert_eq!(seen(&reader, "a/"), inside);
    assert_eq!(seen(&reader, "a/c/"), ["a/c/d"]);
    // Whatever prefix is asked for: each key is checked by itself.
    assert_eq!(seen(&reader, ""), inside);
    assert!(seen(&reader, "b/").is_empty() && seen(&folder(&[Verb::Write]), "a/").is_empty());
    assert!(
        reader.may(Verb::List, "").is_err() && reader.may(Verb::List, "a/").is_ok(),
        "which refuses the question before"
    );
    let file = guest(3, &[Caveat::Prefix("a/b".into())]);
    assert_eq!(seen(&file, "a/b"), ["a/b"]);
    let owner = Guest { row: row(), claim: None, now: NOW };
    assert_eq!(seen(&owner, "").len(), 9, "all of its own volume, and of no other");
    assert!(seen(&guest(3, &[Caveat::Until(NOW)]), "").is_empty(), "it ended");
}

#[test]
fn who_may_write_a_folder_writes_objects_there_and_changes_nothing_else() {
    let writer = folder(&[Verb::Write]);
    assert!(writer.may_work(&put("a/b", None)).is_ok() && writer.may_somewhere(&[Verb::Write]).is_ok());
    for other in [
        put("b", None),
        delete("a/b"),
        work(Command::Close),
        work(Command::SetConfig { name: POLICY_SETTING.into(), value: None }),
        Work { volume: VolumeId(6), ..put("a/b", None) },
    ] {
        assert!(writer.may_work(&other).is_err(), "{other:?}");
    }
    assert!(writer.may_fetch(&head("a/b", true)).is_err() && writer.may_fetch(&list("a/")).is_err());
    let (own, foreign) = (SegmentId([7; 16]), SegmentId([8; 16]));
    let note = |segment| Command::NoteMissing { segment, policy: PolicyId(1), group: GroupId(2), missing: vec![1] };
    let with = |segment| Work { notes: vec![note(segment)], ..put("a/b", Some(own)) };
    assert!(writer.may_work(&with(own)).is_ok());
    assert!(writer.may_work(&with(foreign)).is_err(), "a note about a segment of somebody else");
    assert!(folder(&[Verb::Delete]).may_work(&delete("a/b")).is_ok());
}

#[test]
fn a_grant_that_ended_or_was_revoked_or_forged_opens_nothing() {
    let prefix = Caveat::Prefix("a/".into());
    let late = guest(3, &[prefix.clone(), Caveat::Until(NOW)]);
    assert!(late.may_fetch(&head("a/b", true)).unwrap_err().to_string().contains("ended"));
    let revoked = guest(2, std::slice::from_ref(&prefix));
    assert!(revoked.may_fetch(&head("a/b", true)).unwrap_err().to_string().contains("revoked"));
    let forged = Guest { row: SealedVolume { grant_key: [5; 32], ..row() }, ..guest(3, &[prefix]) };
    assert!(forged.may_fetch(&head("a/b", true)).is_err() && forged.may_somewhere(&Verb::ALL).is_err());
    let owner = Guest { row: row(), claim: None, now: NOW };
    assert!(owner.may_fetch(&head("anything", true)).is_ok() && owner.may_work(&delete("anything")).is_ok());
}

#[test]
fn a_node_keeps_only_pieces_that_say_whose_they_are_and_when_they_were_written() {
    let piece = PieceId { segment: SegmentId([7; 16]), index: 1 };
    let good = PieceHeader {
        volume: VolumeId(5),
        segment: piece.segment,
        index: 1,
        k: 2,
        m: 1,
        pack: false,
        len: 3,
        written: NOW,
        policy: PolicyId(1),
        group: GroupId(2),
        wrapped_key: [0; 48],
        roots: vec![[0; 32]; 3],
        fragment: Vec::new(),
        owner: Some(PublicKey(PUBLIC)),
    };
    let owner = Guest { row: row(), claim: None, now: NOW };
    assert!(owner.may_keep(&good.encode(), piece).is_ok());
    for bad in [
        PieceHeader { owner: None, ..good.clone() },
        PieceHeader { owner: Some(PublicKey(OLDER)), ..good.clone() },
        PieceHeader { owner: Some(PublicKey([8; 32])), ..good.clone() },
        PieceHeader { volume: VolumeId(6), ..good.clone() },
        PieceHeader { index: 2, ..good.clone() },
        PieceHeader { segment: SegmentId([8; 16]), ..good.clone() },
        PieceHeader { written: NOW + CLOCK_MAX + Duration::from_secs(1), ..good.clone() },
    ] {
        assert!(owner.may_keep(&bad.encode(), piece).is_err(), "{bad:?}");
    }
    assert!(owner.may_keep(b"no header", piece).is_err());
    // What was written with a key that was replaced is read on.
    for key in [PUBLIC, OLDER] {
        assert!(owner.owns(&PieceHeader { owner: Some(PublicKey(key)), ..good.clone() }.encode()).is_ok());
    }
    assert!(owner.owns(&PieceHeader { owner: Some(PublicKey([8; 32])), ..good }.encode()).is_err());
}

#[test]
fn only_who_has_the_volumes_key_gives_objects_other_names() {
    let (from, to) = ("a/b".to_owned(), "a/c".to_owned());
    let body = Content::Inline(Vec::new());
    let rename = work(Command::Rename { from, to, etag: "e".into(), attrs: Default::default(), body });
    assert!(guest(3, &[]).may_work(&rename).is_err() && folder(&Verb::ALL).may_work(&rename).is_err());
    assert!(Guest { row: row(), claim: None, now: NOW }.may_work(&rename).is_ok());
}

#[test]
fn guests_see_where_drives_are_and_not_what_machines_are_called() {
    let drive = DriveRow {
        id: DriveId([1; 16]),
        path: "/home/anna/disk".into(),
        state: catalog::DriveState::Active,
        size: 1,
        added: NOW,
        node: Some(base::NodeId([2; 16])),
    };
    let mut map = std::collections::BTreeMap::new();
    map.extend(catalog::put_drive(&drive).puts);
    let recorder = Recorder::new(&map, Seq(0));
    assert_eq!(catalog::drives(&recorder, None, 10).unwrap().first(), Some(&drive));
    let bare = Bare(&map);
    let recorder = Recorder::new(&bare, Seq(0));
    client::touch_map(&recorder).unwrap();
    let rows = recorder.rows();
    let shown = rows.run(|view| catalog::drives(view, None, usize::from(u16::MAX))).unwrap().unwrap();
    assert_eq!(shown, [DriveRow { path: String::new(), ..drive }]);
    assert!(!String::from_utf8_lossy(&rows.encode()).contains("anna"));
    assert!(rows.run(|view| catalog::users(view, None, 1)).is_err(), "nothing is said of users");
}
