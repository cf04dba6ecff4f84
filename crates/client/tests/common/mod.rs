//! A store in memory whose drives fail as told.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{DriveId, Kind, PieceId, PolicyId, UserId, Wall};
use bytes::Bytes;
use client::{Bucket, Client, Content, Drives, Error, Holder, HolderWriter};
use crypt::RootKey;
use env::{BoxFuture, Env};
use metastore::{MemoryStore, Sequencer};
use namespace::catalog::{self, Coding, PolicyRow};
use namespace::{Command, Condition, NewVersion, Version};
use placement::Candidate;

/// A drive in memory.
#[derive(Default)]
pub struct Memory {
    pub pieces: Mutex<BTreeMap<PieceId, (Bytes, Vec<u8>)>>,
    /// Every call fails.
    pub dead: AtomicBool,
    /// Calls never return.
    pub hung: AtomicBool,
    /// Writes fail after so many more bytes; negative: never.
    pub fail_after: AtomicI64,
    /// Bytes that were read.
    pub read_bytes: AtomicU64,
    /// Pieces begun and not yet finished or dropped.
    pub begun: AtomicI64,
    /// Pieces can't become durable until this is raised.
    pub closed: tokio::sync::watch::Sender<bool>,
    /// Every call lets others run so many times before it does anything.
    pub yields: AtomicU64,
}

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { fail_after: AtomicI64::new(-1), ..Self::default() })
    }

    fn error(&self, piece: PieceId, kind: Kind) -> Error {
        Error::Drive { piece, kind, text: "as the test says".into() }
    }

    async fn check(&self, piece: PieceId) -> Result<(), Error> {
        if self.hung.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        for _ in 0..self.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        if self.dead.load(Ordering::SeqCst) { Err(self.error(piece, Kind::Unreachable)) } else { Ok(()) }
    }

    fn spend(&self, piece: PieceId, bytes: usize) -> Result<(), Error> {
        let left = self.fail_after.load(Ordering::SeqCst);
        if left < 0 {
            return Ok(());
        }
        if left < bytes as i64 {
            self.fail_after.store(0, Ordering::SeqCst);
            return Err(self.error(piece, Kind::Unreachable));
        }
        self.fail_after.fetch_sub(bytes as i64, Ordering::SeqCst);
        Ok(())
    }

    async fn opened(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| !closed).await;
    }

    pub fn count(&self) -> usize {
        self.pieces.lock().unwrap().len()
    }

    /// Flips a bit of every piece's body, at a place that differs.
    pub fn flip(&self) {
        for (at, (_, body)) in self.pieces.lock().unwrap().values_mut().enumerate() {
            if !body.is_empty() {
                let place = (at * 7919 + body.len() / 2) % body.len();
                body[place] ^= 1 << (at % 8);
            }
        }
    }
}

/// A handle of it.
pub struct Handle(pub Arc<Memory>);

impl Holder for Handle {
    fn put(&self, piece: PieceId, header: Bytes, body: Vec<Bytes>, _: u32) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.0.check(piece).await?;
            self.0.opened().await;
            let body = body.concat();
            self.0.spend(piece, body.len())?;
            self.0.pieces.lock().unwrap().insert(piece, (header, body));
            Ok(())
        })
    }

    fn create(&self, piece: PieceId, _: u32, max: u64) -> BoxFuture<'_, Result<Box<dyn HolderWriter>, Error>> {
        Box::pin(async move {
            self.0.check(piece).await?;
            self.0.begun.fetch_add(1, Ordering::SeqCst);
            let writer = MemoryWriter { drive: self.0.clone(), piece, body: Vec::new(), max };
            Ok(Box::new(writer) as Box<dyn HolderWriter>)
        })
    }

    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(async move {
            self.0.check(piece).await?;
            let pieces = self.0.pieces.lock().unwrap();
            let (_, body) = pieces.get(&piece).ok_or_else(|| self.0.error(piece, Kind::Missing))?;
            let range = offset as usize..(offset + len) as usize;
            self.0.read_bytes.fetch_add(len, Ordering::SeqCst);
            body.get(range).map(Bytes::copy_from_slice).ok_or_else(|| self.0.error(piece, Kind::Invalid))
        })
    }

    fn header(&self, piece: PieceId) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(async move {
            self.0.check(piece).await?;
            let pieces = self.0.pieces.lock().unwrap();
            pieces.get(&piece).map(|(header, _)| header.clone()).ok_or_else(|| self.0.error(piece, Kind::Missing))
        })
    }

    fn delete(&self, pieces: Vec<PieceId>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            for piece in pieces {
                self.0.pieces.lock().unwrap().remove(&piece);
            }
            Ok(())
        })
    }

    fn writable(&self) -> bool {
        !self.0.dead.load(Ordering::SeqCst)
    }
}

struct MemoryWriter {
    drive: Arc<Memory>,
    piece: PieceId,
    body: Vec<u8>,
    max: u64,
}

impl HolderWriter for MemoryWriter {
    fn write(&mut self, bytes: Vec<Bytes>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.drive.check(self.piece).await?;
            for part in bytes {
                self.drive.spend(self.piece, part.len())?;
                self.body.extend_from_slice(&part);
            }
            assert!(self.body.len() as u64 <= self.max, "more was written than announced");
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>, header: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            self.drive.check(self.piece).await?;
            self.drive.opened().await;
            self.drive.spend(self.piece, 1)?;
            let body = std::mem::take(&mut self.body);
            self.drive.pieces.lock().unwrap().insert(self.piece, (header, body));
            Ok(())
        })
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        self.drive.begun.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A clock that runs faster than the world's, and jumps.
pub struct FastClock {
    world: Arc<dyn env::Clock>,
    times: u32,
    jumped: AtomicU64,
}

impl FastClock {
    pub fn jump(&self, by: Duration) {
        self.jumped.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl env::Clock for FastClock {
    fn now(&self) -> base::Instant {
        base::Instant(self.world.now().0 * u64::from(self.times) + self.jumped.load(Ordering::SeqCst))
    }
    fn wall(&self) -> Wall {
        self.world.wall()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.world.sleep(duration / self.times)
    }
}

/// A store with one bucket, of one policy.
pub struct Rig {
    pub env: Env,
    pub client: Client,
    pub drives: Vec<(DriveId, Arc<Memory>)>,
    pub bucket: Arc<Bucket>,
    pub system: Arc<Sequencer>,
    pub volumes: Arc<Sequencer>,
    pub clock: Arc<FastClock>,
}

pub async fn shards(env: &Env) -> (Arc<Sequencer>, Arc<Sequencer>) {
    let shard = |number| Arc::new(Sequencer::new(env, MemoryStore::new(number)));
    (shard(0), shard(1))
}

pub async fn policy(system: &Sequencer, k: u8, m: u8, drives: &[DriveId]) {
    add_policy(system, 1, (k, m), drives).await;
}

pub async fn add_policy(system: &Sequencer, id: u16, (k, m): (u8, u8), drives: &[DriveId]) {
    let ack = policy::Coding { k, m }.ack() as u8;
    let row = PolicyRow { id: PolicyId(id), coding: Coding { k, m }, ack, name: format!("{k}+{m}") };
    let candidates: Vec<_> = drives.iter().map(|drive| Candidate { drive: *drive, weight: 1 }).collect();
    let n = usize::from(k + m);
    let groups = placement::build(&candidates, n, 0, placement::group_count(drives.len(), n), &[]);
    assert!(!groups.is_empty());
    let mut batch = catalog::put_policy(&row);
    for group in groups {
        batch.puts.extend(catalog::put_group(row.id, group.group, &codec::Versioned::encode(&group)).puts);
    }
    system.execute::<(), Error>(move |_| Ok((batch, ()))).await.unwrap();
}

impl Rig {
    pub async fn new(k: u8, m: u8, drives: usize) -> Self {
        Self::fast(k, m, drives, 1).await
    }

    /// One whose time runs so many times faster.
    pub async fn fast(k: u8, m: u8, drives: usize, times: u32) -> Self {
        let mut env = Env::real();
        let clock = Arc::new(FastClock { world: env.clock.clone(), times, jumped: AtomicU64::new(0) });
        env.clock = clock.clone();
        let (system, volumes) = shards(&env).await;
        let drives: Vec<_> = (0..drives).map(|at| (DriveId([at as u8 + 1; 16]), Memory::new())).collect();
        policy(&system, k, m, &drives.iter().map(|(id, _)| *id).collect::<Vec<_>>()).await;
        let registry = Drives::new(env.clock.clone());
        drives.iter().for_each(|(id, drive)| registry.set(*id, Arc::new(Handle(drive.clone()))));
        let client = Client::new(
            env.clone(),
            system.clone(),
            Arc::new(client::shard::One(volumes.clone())),
            registry,
            RootKey::new([7; 32]).store_keys(),
        );
        let bucket = client.create_bucket("photos", &UserId("me".into()), "").await.unwrap();
        Self { env, client, drives, bucket, system, volumes, clock }
    }

    /// The drive of this number vanishes, with all that it holds.
    pub fn lose(&self, at: usize) {
        let (id, drive) = &self.drives[at];
        drive.dead.store(true, Ordering::SeqCst);
        drive.pieces.lock().unwrap().clear();
        self.client.drives().remove(*id);
    }

    pub fn pieces(&self) -> usize {
        self.drives.iter().map(|(_, drive)| drive.count()).sum()
    }

    pub async fn write(&self, bytes: &[u8], known: bool) -> Result<Content, Error> {
        write(&self.client, &self.bucket, bytes, known).await
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) -> Version {
        put(&self.client, &self.bucket, key, bytes).await
    }

    pub async fn version(&self, key: &str) -> Version {
        self.client.head(&self.bucket, key, None, true).await.unwrap().into_version()
    }

    pub async fn get(&self, version: &Version, range: std::ops::Range<u64>) -> Result<Vec<u8>, Error> {
        get(&self.client, &self.bucket, version, range).await
    }

    pub async fn check(&self, version: &Version, bytes: &[u8], what: &str) {
        let got = self.get(version, 0..version.size).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(got == bytes, "{what}: other bytes came back");
    }
}

pub async fn write(client: &Client, bucket: &Bucket, bytes: &[u8], known: bool) -> Result<Content, Error> {
    let mut writer = client.writer(bucket, known.then_some(bytes.len() as u64)).named("a key");
    let whole = Bytes::copy_from_slice(bytes);
    for at in (0..bytes.len()).step_by(50_000) {
        writer.write(whole.slice(at..(at + 50_000).min(bytes.len()))).await?;
    }
    writer.finish().await
}

pub fn new_version(content: Content) -> NewVersion {
    NewVersion { size: content.size, etag: "e".into(), attrs: BTreeMap::new(), body: content.body }
}

pub async fn put(client: &Client, bucket: &Bucket, key: &str, bytes: &[u8]) -> Version {
    let content = write(client, bucket, bytes, bytes.len().is_multiple_of(2)).await.unwrap();
    assert_eq!(content.size, bytes.len() as u64);
    let command = Command::Put { key: key.into(), new: new_version(content), condition: Condition::default() };
    client.commit(bucket, command).await.unwrap();
    client.head(bucket, key, None, true).await.unwrap().into_version()
}

pub async fn get(
    client: &Client,
    bucket: &Bucket,
    version: &Version,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, Error> {
    let mut stream = client.read(bucket, version, range)?;
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

/// Bytes that look random, from a seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut all = Vec::with_capacity(len + 8);
    while all.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(len);
    all
}

/// All sets of at most `m` of `n` numbers.
pub fn losses(n: usize, m: usize) -> Vec<Vec<usize>> {
    (0u32..1 << n)
        .filter(|mask| mask.count_ones() as usize <= m)
        .map(|mask| (0..n).filter(|at| mask >> at & 1 == 1).collect())
        .collect()
}

pub fn wall() -> Wall {
    Wall(0)
}

impl Rig {
    pub async fn delete(&self, key: &str) {
        let delete = Command::Delete { key: key.into(), version: None, condition: Condition::default() };
        self.client.commit(&self.bucket, delete).await.unwrap();
    }

    pub async fn copy(&self, from: &Version, key: &str) -> Result<Version, Error> {
        let new = new_version(Content { size: from.size, body: from.body.clone() });
        let copy = Command::Put { key: key.into(), new, condition: Condition::default() };
        self.client.commit(&self.bucket, copy).await?;
        Ok(self.version(key).await)
    }

    /// Deletes the pieces of what was freed.
    pub async fn collect(&self) {
        let volume = self.bucket.volume;
        let garbage = namespace::read::garbage(&*self.volumes.read().unwrap(), volume, None, 1000).unwrap();
        for garbage in &garbage {
            let (policy, group) = (garbage.row.policy, garbage.row.group);
            self.client.delete_pieces(garbage.segment, (policy, group), None).await.unwrap();
        }
        let segments = garbage.into_iter().map(|garbage| garbage.segment).collect();
        self.client.commit(&self.bucket, Command::CollectedGarbage { segments }).await.unwrap();
    }

    pub fn noted(&self) -> Vec<u8> {
        let noted = namespace::read::missing(&*self.volumes.read().unwrap(), self.bucket.volume, None, 10).unwrap();
        noted.into_iter().flat_map(|found| found.note.missing).collect()
    }

    /// Waits until a condition holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = std::time::Duration::from_secs(5);
        let world = Env::real();
        let wait = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        assert!(world.timeout(end, wait).await.is_some(), "{what}: not so after {end:?}");
    }

    /// Waits until no piece is left, nor any that was begun.
    pub async fn gone(&self) {
        let left = || self.drives.iter().any(|(_, drive)| drive.count() > 0 || drive.begun.load(Ordering::SeqCst) > 0);
        self.until("no piece is left", || !left()).await;
    }
}
