//! A store in memory whose drives fail as told.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

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
    /// Bytes written and not yet finished or dropped.
    pub begun: AtomicI64,
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
            let body = body.concat();
            self.0.spend(piece, body.len())?;
            self.0.pieces.lock().unwrap().insert(piece, (header, body));
            Ok(())
        })
    }

    fn create(&self, piece: PieceId, _: u32, max: u64) -> BoxFuture<'_, Result<Box<dyn HolderWriter>, Error>> {
        Box::pin(async move {
            self.0.check(piece).await?;
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

    fn finish(self: Box<Self>, header: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            self.drive.check(self.piece).await?;
            self.drive.spend(self.piece, 1)?;
            self.drive.pieces.lock().unwrap().insert(self.piece, (header, self.body));
            Ok(())
        })
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
}

pub async fn shards(env: &Env) -> (Arc<Sequencer>, Arc<Sequencer>) {
    let shard = |number| Arc::new(Sequencer::new(env, MemoryStore::new(number)));
    (shard(0), shard(1))
}

pub async fn policy(system: &Sequencer, k: u8, m: u8, drives: &[DriveId]) {
    let ack = policy::Coding { k, m }.ack() as u8;
    let row = PolicyRow { id: PolicyId(1), coding: Coding { k, m }, ack, name: format!("{k}+{m}") };
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
        let env = Env::real();
        let (system, volumes) = shards(&env).await;
        let drives: Vec<_> = (0..drives).map(|at| (DriveId([at as u8 + 1; 16]), Memory::new())).collect();
        policy(&system, k, m, &drives.iter().map(|(id, _)| *id).collect::<Vec<_>>()).await;
        let registry = Drives::new(env.clock.clone());
        drives.iter().for_each(|(id, drive)| registry.set(*id, Arc::new(Handle(drive.clone()))));
        let client = Client::new(env.clone(), system.clone(), volumes.clone(), registry, RootKey::new([7; 32]));
        let bucket = client.create_bucket("photos", &UserId("me".into()), "").await.unwrap();
        Self { env, client, drives, bucket, system, volumes }
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
    let content = write(client, bucket, bytes, bytes.len() % 2 == 0).await.unwrap();
    assert_eq!(content.size, bytes.len() as u64);
    let command =
        Command::Put { key: key.into(), new: new_version(content), condition: Condition::default() };
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
