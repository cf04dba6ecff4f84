//! With no metadata at all everything is read that has k pieces left, and nothing else comes out: by what pieces say of
//! themselves, and by a kit.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{DriveId, Kind, Kinded, NodeId};
use bytes::Bytes;
use client::header::PieceHeader;
use client::offline::{Keys, node_drive};
use client::{Access, Content, Error, Fault, Folder, Offline, ReadStream};
use codec::Versioned;
use common::{Handle, Rig, bytes, new_version};
use crypt::{RootKey, StoreKeys, VolumeKey, VolumeRoot};
use grant::Anchor;
use kit::rescue::{Recovered, Rescue};
use kit::{Change, State};
use namespace::{Command, Condition, Span, UploadId, Version, VersionId};

const MIB: usize = 1 << 20;

fn store_keys() -> StoreKeys {
    RootKey::new([7; 32]).store_keys()
}

/// Numbers that differ, by a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Cluster,
    Owner,
    Grant,
}

/// The folder for which the grant is.
const SHARED: &str = "shared/with us/";

fn root() -> VolumeRoot {
    VolumeRoot::new([9; 32])
}

impl Mode {
    /// The root with which a rescue opens what was written.
    fn root(self, volume: &VolumeKey) -> VolumeRoot {
        if self == Mode::Cluster { VolumeRoot::of(volume) } else { root() }
    }

    /// How an object of this true path is written.
    fn access(self, path: &str) -> Access {
        let owner = Folder::of_root(&root());
        match self {
            Mode::Cluster => Access::Volume,
            Mode::Owner => Access::File { folder: Arc::new(owner), path: path.into() },
            Mode::Grant => {
                let anchor = Anchor::new(&root(), "shared/", [1; 16]);
                let anchor = anchor.below(&root().top().at("shared/"), "with us/", [2; 16]).unwrap();
                let folder = Folder::of_grant(owner.owner(), anchor, root().top().at(SHARED));
                let path = path.strip_prefix(SHARED).unwrap().into();
                Access::File { folder: Arc::new(folder), path }
            }
        }
    }

    fn keys(self) -> Keys {
        if self == Mode::Cluster { store_keys().into() } else { (&root()).into() }
    }
}

/// What was written, and where it is.
struct World {
    rig: Rig,
    mode: Mode,
    truth: BTreeMap<String, (Vec<u8>, Version)>,
}

impl World {
    async fn new(mode: Mode, (k, m): (u8, u8), drives: usize) -> Self {
        Self { rig: Rig::new(k, m, drives).await, mode, truth: BTreeMap::new() }
    }

    async fn content(&self, path: &str, bytes: &[u8], known: bool, part: Option<(UploadId, u16)>) -> Content {
        let len = known.then_some(bytes.len() as u64);
        let mut writer = self.rig.client.writer_as(&self.rig.bucket, len, self.mode.access(path)).named(path);
        if let Some((upload, number)) = part {
            writer = writer.part(upload, number);
        }
        let whole = Bytes::copy_from_slice(bytes);
        for at in (0..bytes.len()).step_by(200_000) {
            writer.write(whole.slice(at..(at + 200_000).min(bytes.len()))).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    async fn commit(&mut self, path: &str, bytes: Vec<u8>, content: Content) {
        let command = Command::Put { key: path.into(), new: new_version(content), condition: Condition::default() };
        self.rig.client.commit(&self.rig.bucket, command).await.unwrap();
        self.truth.insert(path.into(), (bytes, self.rig.version(path).await));
    }

    async fn put(&mut self, path: &str, size: usize) {
        let bytes = bytes(size as u64 + path.len() as u64, size);
        let content = self.content(path, &bytes, size.is_multiple_of(2), None).await;
        self.commit(path, bytes, content).await;
    }

    /// Small ones at the same time, so that they share packs.
    async fn put_together(&mut self, sizes: &[(String, usize)]) {
        let all = sizes.iter().map(|(path, size)| async {
            let bytes = bytes(*size as u64, *size);
            (path.clone(), self.content(path, &bytes, true, None).await, bytes)
        });
        for (path, content, bytes) in futures_util::future::join_all(all).await {
            self.commit(&path, bytes, content).await;
        }
    }

    /// As a completed upload is: its parts one after the other.
    async fn upload(&mut self, path: &str, sizes: &[usize]) {
        let id = UploadId([sizes.len() as u8; 16]);
        let (mut spans, mut all) = (Vec::new(), Vec::new());
        for (number, size) in (1..).zip(sizes) {
            let part = bytes(*size as u64 + 7, *size);
            let Content { size, body } = self.content(path, &part, true, Some((id, number))).await;
            spans.push(Span { size, body });
            all.extend(part);
        }
        let content = Content { size: all.len() as u64, body: namespace::Body::Spans(spans) };
        self.commit(path, all, content).await;
    }

    async fn fill(&mut self, dice: &mut Dice, large: bool) {
        let base = if self.mode == Mode::Grant { SHARED } else { "ä/" };
        for size in [0, 1, 4096] {
            self.put(&format!("{base}inline {size}"), size).await;
        }
        let packed: Vec<_> = [4097, 65_536, 65_537, 5000, MIB, 200_000]
            .into_iter()
            .map(|size| (format!("{base}packed {size}"), size))
            .collect();
        self.put_together(&packed).await;
        for size in [MIB + 1, 2 * MIB + dice.below(MIB), 5 * MIB + 17] {
            self.put(&format!("{base}segment {size}"), size).await;
        }
        self.upload(&format!("{base}upload"), &[2 * MIB, MIB + 9, 70_000, 300]).await;
        self.upload(&format!("{base}small upload"), &[300]).await;
        if large {
            self.put(&format!("{base}large"), 64 * MIB + 1 + dice.below(MIB)).await;
        }
    }

    /// Some pieces lie on a second node besides.
    fn duplicate(&self, dice: &mut Dice) {
        let drives = &self.rig.drives;
        for (at, (_, drive)) in drives.iter().enumerate() {
            let pieces = drive.pieces.lock().unwrap().clone();
            for (piece, stored) in pieces {
                let other = (at + 1 + dice.below(drives.len() - 1)) % drives.len();
                if dice.below(4) == 0 {
                    drives[other].1.pieces.lock().unwrap().entry(piece).or_insert(stored);
                }
            }
        }
    }

    /// A reader that reaches all nodes but those that are gone.
    fn offline(&self, gone: &[usize]) -> Offline {
        let offline = Offline::new(self.rig.env.clone(), self.mode.keys());
        for (at, (id, drive)) in self.rig.drives.iter().enumerate() {
            if !gone.contains(&at) {
                offline.drives().set(node_drive(NodeId(id.0)), Arc::new(Handle(drive.clone())));
            }
        }
        offline
    }

    /// What a rescue finds on those that are left. A node that lies about bytes does so about headers too: `liar` changes
    /// the roots in half of its own.
    fn recovered(&self, gone: &[usize], liar: Option<usize>) -> Vec<Recovered> {
        let volume = store_keys().volume_key(self.rig.bucket.volume);
        let mut rescue = Rescue::new(self.mode.root(&volume), Vec::new());
        for (at, (id, drive)) in self.rig.drives.iter().enumerate().filter(|(at, _)| !gone.contains(at)) {
            for (number, (header, _)) in drive.pieces.lock().unwrap().values().enumerate() {
                let mut header = PieceHeader::decode(header).unwrap();
                let lies = liar == Some(at) && number % 2 == 0;
                if lies {
                    header.roots[0][0] ^= 1;
                }
                assert_eq!(rescue.add(header.found(NodeId(id.0), None).unwrap()), !lies);
            }
        }
        let report = rescue.finish(None, None);
        assert!(report.leftovers.is_empty(), "{:?}", report.leftovers);
        report.objects
    }

    /// A kit as a client keeps it; every node has one drive.
    fn kit(&self) -> State {
        let mut state = State::default();
        for (id, _) in &self.rig.drives {
            let node = kit::Node { key: Folder::of_root(&root()).owner(), addresses: Vec::new() };
            state.apply(Change::Node(NodeId(id.0), Some(node)));
            state.apply(Change::Drive(DriveId(id.0), Some(NodeId(id.0))));
        }
        let view = self.rig.system.read().unwrap();
        for policy in namespace::catalog::policies(&*view, None, 10).unwrap() {
            for (_, row) in namespace::catalog::groups(&*view, policy.id, None, 10_000).unwrap() {
                let row = placement::GroupRow::decode(&row).unwrap();
                let placement::GroupRow { group, version, members, from } = row;
                state.apply(Change::Group(kit::Group { policy: policy.id, group, version, members, from }));
            }
        }
        for (ord, (path, (_, version))) in (1..).zip(&self.truth) {
            state.apply(client::changes::put(path, ord, version).unwrap());
        }
        state
    }
}

async fn all(stream: Result<ReadStream, Error>) -> Result<Vec<u8>, Error> {
    let (mut stream, mut all) = (stream?, Vec::new());
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

/// So many different numbers below `n`.
fn some(dice: &mut Dice, count: usize, n: usize) -> Vec<usize> {
    let mut chosen = BTreeSet::new();
    while chosen.len() < count {
        chosen.insert(dice.below(n));
    }
    chosen.into_iter().collect()
}

fn is_inline(version: &Version) -> bool {
    matches!(version.body, namespace::Body::Inline(_))
}

fn seeds() -> Vec<u64> {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=12).collect(),
    }
}

/// A filled world of a seed, and which nodes are gone and which one lies: no more than m of any group.
async fn world(seed: u64) -> (World, Dice, Vec<usize>, Option<usize>) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let code = [(1, 2), (2, 2), (4, 2), (3, 1)][dice.below(4)];
    let mode = [Mode::Cluster, Mode::Owner, Mode::Grant][seed as usize % 3];
    let drives = usize::from(code.0 + code.1) + dice.below(3);
    let mut world = World::new(mode, code, drives).await;
    world.fill(&mut dice, seed.is_multiple_of(4)).await;
    let mut wrong = some(&mut dice, code.1.into(), drives);
    let liar = (dice.below(3) > 0).then(|| wrong.pop().unwrap());
    eprintln!("SEED={seed}: {mode:?}, {}+{}, {drives} nodes, {wrong:?} gone, {liar:?} lies", code.0, code.1);
    if let Some(liar) = liar {
        world.rig.drives[liar].1.flip();
    }
    (world, dice, wrong, liar)
}

#[tokio::test]
async fn what_pieces_say_gives_every_byte_back_with_m_nodes_gone_or_lying() {
    for seed in seeds() {
        let (world, mut dice, gone, liar) = world(seed).await;
        let offline = world.offline(&gone);
        let mut findings = offline.findings().unwrap();
        let found = world.recovered(&gone, liar);
        let found: BTreeMap<&str, &Recovered> = found.iter().map(|one| (one.path.as_str(), one)).collect();
        for (path, (bytes, version)) in &world.truth {
            let Some(one) = found.get(path.as_str()) else {
                assert!(is_inline(version), "SEED={seed}: {path} is not found");
                continue;
            };
            let what = format!("SEED={seed}: {path}");
            assert_eq!((one.size, &one.missing), (Some(version.size), &Vec::new()), "{what}");
            let got = all(offline.recovered(one, 0..version.size)).await;
            assert!(got.unwrap_or_else(|error| panic!("{what}: {error}")) == *bytes, "{what}: other bytes");
            let start = dice.below(bytes.len());
            let end = start + 1 + dice.below(bytes.len() - start);
            let got = all(offline.recovered(one, start as u64..end as u64)).await;
            assert!(got.unwrap() == bytes[start..end], "{what}: {start}..{end}");
        }
        assert!(found.len() >= 11, "SEED={seed}: nothing but what is inline may lack");
        while let Ok(found) = findings.try_recv() {
            let liar = liar.map(|at| world.rig.drives[at].0);
            assert!(found.fault != Fault::Damaged || found.drive == liar, "SEED={seed}: {found:?} was blamed");
        }
    }
}

#[tokio::test]
async fn a_kit_gives_every_byte_back_with_m_nodes_gone_or_lying() {
    for seed in seeds() {
        let (world, mut dice, gone, _) = world(seed).await;
        let (offline, kit) = (world.offline(&gone), world.kit());
        let volume = world.rig.bucket.volume;
        for (path, (bytes, _)) in &world.truth {
            let (what, object) = (format!("SEED={seed}: {path}"), kit.get(path).unwrap());
            let read = |range| all(offline.object(volume, &kit, path, object, range));
            let got = read(0..object.size).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(got == *bytes, "{what}: other bytes");
            let start = dice.below(bytes.len() + 1);
            let end = start + dice.below(bytes.len() + 1 - start);
            assert!(read(start as u64..end as u64).await.unwrap() == bytes[start..end], "{what}: {start}..{end}");
            assert_eq!(read(0..object.size + 1).await.unwrap_err().kind(), Kind::Invalid);
        }
        assert_eq!(kit.objects(), world.truth.len());
    }
}

#[tokio::test]
async fn a_piece_that_lies_on_two_nodes_is_read_from_the_other_if_one_fails_or_lies() {
    for seed in seeds() {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (k, m) = [(1, 0), (2, 0), (3, 1)][dice.below(3)];
        let mut world = World::new(Mode::Owner, (k, m), usize::from(k + m) + 1).await;
        world.fill(&mut dice, false).await;
        world.duplicate(&mut dice);
        // Each piece is on two nodes that way, at least, on its own and the spare one.
        let (spare, others) = world.rig.drives.split_last().unwrap();
        for (_, drive) in others {
            let pieces = drive.pieces.lock().unwrap().clone();
            spare.1.pieces.lock().unwrap().extend(pieces);
        }
        let found = world.recovered(&[], None);
        let wrong = dice.below(others.len());
        match dice.below(3) {
            0 => others[wrong].1.flip(),
            1 => others[wrong].1.dead.store(true, Ordering::SeqCst),
            _ => others[wrong].1.pieces.lock().unwrap().clear(),
        }
        let offline = world.offline(&[]);
        for one in &found {
            let (bytes, version) = &world.truth[&one.path];
            let got = all(offline.recovered(one, 0..version.size)).await;
            let got = got.unwrap_or_else(|error| panic!("SEED={seed}: {}: {error}", one.path));
            assert!(got == *bytes, "SEED={seed}: {}", one.path);
        }
    }
}

#[tokio::test]
async fn too_few_pieces_are_said_and_what_is_there_is_read() {
    let mut world = World::new(Mode::Owner, (2, 1), 3).await;
    world.put("large", 64 * MIB + 5).await;
    let version = &world.truth["large"].1;
    let namespace::Body::Segments(segments) = &version.body else { panic!("{:?}", version.body) };
    // Of the second segment one piece is left.
    for (_, drive) in &world.rig.drives {
        drive.pieces.lock().unwrap().retain(|piece, _| piece.segment == segments[0].id || piece.index == 1);
    }
    let found = world.recovered(&[], None);
    let offline = world.offline(&[]);
    let error = all(offline.recovered(&found[0], 0..version.size)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::TooFewPieces { have: 1, need: 2 }), "{error}");
    let end = 64 << 20;
    assert!(all(offline.recovered(&found[0], 5..end)).await.unwrap() == world.truth["large"].0[5..end as usize]);
    let beyond = all(offline.recovered(&found[0], 0..version.size + 1)).await.unwrap_err();
    assert_eq!(beyond.kind(), Kind::Invalid);
}

#[tokio::test]
async fn what_was_written_before_keys_were_replaced_is_read_by_the_new_root_that_leads_to_the_old() {
    let mut world = World::new(Mode::Owner, (2, 1), 3).await;
    world.put("packed", 5000).await;
    world.put("segment", 2 * MIB).await;
    let new = VolumeRoot::new([3; 32]);
    let mut rescue = Rescue::new(new.clone(), vec![root()]);
    for (id, drive) in &world.rig.drives {
        for (header, _) in drive.pieces.lock().unwrap().values() {
            assert!(rescue.add(PieceHeader::decode(header).unwrap().found(NodeId(id.0), None).unwrap()));
        }
    }
    let found = rescue.finish(None, None).objects;
    assert_eq!(found.len(), 2);
    let by = |root: &VolumeRoot| {
        let offline = Offline::new(world.rig.env.clone(), root);
        world.rig.drives.iter().for_each(|(id, drive)| offline.drives().set(*id, Arc::new(Handle(drive.clone()))));
        offline
    };
    let (by_new, by_old) = (by(&new), by(&root()));
    for one in &found {
        let range = || 0..one.size.unwrap();
        assert!(all(by_new.recovered(one, range())).await.unwrap() == world.truth[&one.path].0);
        assert!(all(by_old.recovered(one, range())).await.is_err(), "found for the new root");
    }
}

#[tokio::test]
async fn other_keys_open_nothing() {
    let mut world = World::new(Mode::Owner, (2, 1), 3).await;
    world.put("packed", 5000).await;
    world.put("inline", 50).await;
    world.put("segment", 2 * MIB).await;
    let (found, kit, volume) = (world.recovered(&[], None), world.kit(), world.rig.bucket.volume);
    for keys in [Keys::from(&VolumeRoot::new([1; 32])), store_keys().into()] {
        let offline = Offline::new(world.rig.env.clone(), keys);
        for (id, drive) in &world.rig.drives {
            offline.drives().set(*id, Arc::new(Handle(drive.clone())));
        }
        for one in &found {
            assert!(all(offline.recovered(one, 0..one.size.unwrap())).await.is_err());
        }
        for (path, object) in kit.list("") {
            let got = all(offline.object(volume, &kit, path, object, 0..object.size)).await;
            assert!(got.is_err() || got.unwrap() != world.truth[path].0, "{path}");
        }
    }
    // The right root, and another path: each file has a key of its own.
    let offline = world.offline(&[]);
    for (path, object) in kit.list("") {
        assert!(all(offline.object(volume, &kit, &format!("{path}x"), object, 0..object.size)).await.is_err());
    }
}

/// What headers say of pieces that the volume still has.
impl World {
    fn parts(&self) -> BTreeMap<String, (Vec<u16>, Option<u64>)> {
        let found = self.recovered(&[], None).into_iter();
        found.map(|one| (one.path, (one.parts, one.size))).collect()
    }
}

#[tokio::test]
async fn an_upload_stays_one_after_its_packs_are_compacted_and_its_segments_recoded() {
    let mut world = World::new(Mode::Cluster, (2, 1), 6).await;
    let sizes = [2 * MIB, 70_000, 300];
    world.upload("upload", &sizes).await;
    let whole = (vec![1, 2, 3], Some(sizes.iter().sum::<usize>() as u64));
    assert_eq!(world.parts(), BTreeMap::from([("upload".into(), whole.clone())]));
    let volume = world.rig.bucket.volume;
    let namespace::Body::Spans(spans) = &world.truth["upload"].1.body else { panic!("parts") };
    let packs: BTreeSet<_> = spans
        .iter()
        .filter_map(|span| match &span.body {
            namespace::Body::Packed(pack, _) => Some(pack.id),
            _ => None,
        })
        .collect();
    for pack in packs {
        assert_eq!(world.rig.client.compact_pack(volume, pack).await.unwrap().moved, 1);
        world.rig.collect().await;
    }
    assert_eq!(world.parts(), BTreeMap::from([("upload".into(), whole.clone())]), "compacted");
    world.put("single", 2 * MIB).await;
    let drives: Vec<_> = world.rig.drives.iter().map(|(id, _)| *id).collect();
    common::add_policy(&world.rig.system, 2, (4, 2), &drives).await;
    let set = Some(b"4+2".to_vec());
    world.rig.client.set_config(&world.rig.bucket, client::POLICY_SETTING, set).await.unwrap();
    world.rig.client.map_changed();
    for key in ["upload", "single"] {
        let version = world.rig.version(key).await;
        assert_eq!(world.rig.client.recode(volume, key, &version).await.unwrap(), version.size);
        let recoded = world.rig.version(key).await;
        world.rig.check(&recoded, &world.truth[key].0, key).await;
    }
    world.rig.collect().await;
    let single = (Vec::new(), Some(2 * MIB as u64));
    assert_eq!(world.parts(), BTreeMap::from([("upload".into(), whole), ("single".into(), single)]), "recoded");
}

#[tokio::test]
async fn what_is_committed_becomes_a_kit_version_by_version() {
    let mut world = World::new(Mode::Cluster, (2, 1), 3).await;
    let (bucket, volume) = (world.rig.bucket.clone(), world.rig.bucket.volume);
    let mut kit = State::default();
    let mut ords = BTreeMap::new();
    let mut follow = |rig: &Rig, kit: &mut State, key: &str, id| {
        let view = rig.volumes.read().unwrap();
        let known = ords.get(key).copied().unwrap_or(0);
        let change = client::changes::change_of(&*view, volume, key, id, known).unwrap();
        if let Change::Put { object, .. } = &change
            && object.null
        {
            ords.insert(key.to_owned(), object.version);
        }
        kit.apply(change);
    };
    // The null version, replaced by another one, then versions and a marker above it.
    for size in [100, 5000] {
        world.put("a", size).await;
        follow(&world.rig, &mut kit, "a", VersionId::NULL);
        assert_eq!((kit.get("a").unwrap().size, kit.versions("a").count()), (size as u64, 1));
    }
    let enabled = Command::SetVersioning(namespace::Versioning::Enabled);
    world.rig.client.commit(&bucket, enabled).await.unwrap();
    world.put("a", 2 * MIB).await;
    let second = world.truth["a"].1.clone();
    follow(&world.rig, &mut kit, "a", second.id);
    assert_eq!((kit.get("a").unwrap().size, kit.versions("a").count()), (2 << 20, 2));
    let delete = |version| Command::Delete { key: "a".into(), version, condition: Condition::default() };
    let marker = world.rig.client.commit(&bucket, delete(None)).await.unwrap().version.unwrap();
    follow(&world.rig, &mut kit, "a", marker);
    assert!(kit.get("a").is_none() && kit.versions("a").count() == 3, "{kit:?}");
    for (id, left) in [(marker, 2), (VersionId::NULL, 1), (second.id, 0)] {
        world.rig.client.commit(&bucket, delete(Some(id))).await.unwrap();
        follow(&world.rig, &mut kit, "a", id);
        assert_eq!(kit.versions("a").count(), left);
        assert_eq!(kit.get("a").is_some(), left > 0);
    }
    let change = client::changes::put("a", 7, &second).unwrap();
    let Change::Put { object, .. } = change else { panic!("a put") };
    let attributes = client::changes::Attributes::decode(&object.attrs).unwrap();
    assert_eq!((attributes.etag.as_str(), object.modified), ("e", second.modified));
    let kit::Body::Segments(segments) = &object.body else { panic!("segments") };
    let namespace::Body::Segments(written) = &second.body else { panic!("segments") };
    assert_eq!(segments[0].bare_key, written[0].wrapped_key[..32]);
    assert_eq!(segments[0].root, written[0].root[..8]);
}

/// What reading by a kit alone costs: run it alone, with `--run-ignored all --no-capture`.
#[tokio::test]
#[ignore = "measures"]
async fn by_a_kit_alone_reads_are_as_fast() {
    for mode in [Mode::Cluster, Mode::Owner] {
        let mut world = World::new(mode, (4, 2), 6).await;
        world.put("large", 256 * MIB).await;
        let (kit, volume, offline) = (world.kit(), world.rig.bucket.volume, world.offline(&[]));
        let (object, version) = (kit.get("large").unwrap(), &world.truth["large"].1);
        let clock = &world.rig.env.clock;
        let mut took = [u128::MAX; 2];
        for _ in 0..7 {
            for (way, took) in took.iter_mut().enumerate() {
                let began = clock.now();
                let access = mode.access("large");
                let mut stream = match way {
                    0 => world.rig.client.read_as(&world.rig.bucket, version, 0..version.size, &access),
                    _ => offline.object(volume, &kit, "large", object, 0..object.size),
                }
                .unwrap();
                let mut bytes = 0;
                while let Some(part) = stream.next().await {
                    bytes += part.unwrap().len() as u64;
                }
                assert_eq!(bytes, version.size);
                *took = clock.now().since(began).as_micros().min(*took);
            }
        }
        let rate = |took: u128| u128::from(version.size) / took;
        eprintln!("{mode:?}: {} MB/s by the metadata, {} MB/s by the kit", rate(took[0]), rate(took[1]));
        assert!(took[1] * 8 < took[0] * 10, "{took:?}");
    }
}
