//! Nodes that hold drives, and one whose client engine writes to them: over whatever world it is given.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base::{ClusterId, DriveId, Epoch, NodeId, PieceId, PolicyId, UserId};
use bytes::Bytes;
use client::{Bucket, Client, Content, Drives, Error};
use crypt::{RootKey, SigningKey};
use env::Env;
use metastore::{MemoryStore, Sequencer};
use namespace::catalog::{self, Coding, PolicyRow};
use namespace::{Body, Command, Condition, NewVersion, SegmentRef, Version};
use node::remote::{Limits, PIECES, PieceService, Remotes, ServiceLimits};
use piecestore::{Options, PieceStore};
use placement::{Candidate, GroupRow};
use transport::{Addresses, Carrier, Endpoint, Identity, Service, Services, Settings, TcpCarrier};
use wire::{Member, MemberList, Trust, node_id};

const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const MIB: usize = 1 << 20;

pub fn key(seed: u8) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed(&[seed; 32]))
}

pub fn node(seed: u8) -> NodeId {
    node_id(&key(seed).public())
}

/// Drive number `at` of a node.
pub fn drive(seed: u8, at: u8) -> DriveId {
    DriveId([seed * 16 + at; 16])
}

/// Drives `0..count` of each of these nodes.
pub fn drives(nodes: &[u8], count: u8) -> Vec<(DriveId, NodeId)> {
    nodes.iter().flat_map(|seed| (0..count).map(|at| (drive(*seed, at), node(*seed)))).collect()
}

#[derive(Default)]
pub struct Book(pub Mutex<BTreeMap<NodeId, Vec<SocketAddr>>>);

impl Addresses for Book {
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.0.lock().unwrap().get(&node).cloned().unwrap_or_default()
    }
}

/// Who belongs, and where they are.
pub struct Town {
    pub members: Vec<u8>,
    pub book: Arc<Book>,
}

impl Town {
    pub fn new(members: &[u8]) -> Arc<Self> {
        Arc::new(Self { members: members.to_vec(), book: Arc::default() })
    }

    pub fn know(&self, seed: u8, address: SocketAddr) {
        self.book.0.lock().unwrap().insert(node(seed), vec![address]);
    }

    pub async fn start(&self, env: &Env, seed: u8, services: Services, address: SocketAddr) -> Endpoint {
        let root = RootKey::new([9; 32]).signing_key();
        let member = |seed: &u8| Member { node: node(*seed), serial: 1, key: key(*seed).public(), previous: None };
        let members = self.members.iter().map(member).collect();
        let list = MemberList::sign(&root, CLUSTER, Epoch(1), members, Vec::new());
        let trust = Trust::new(root.public(), CLUSTER, list).unwrap();
        let settings = Settings::default();
        let carrier = Arc::new(TcpCarrier::new(env.clone(), key(seed), settings.connect).unwrap());
        let identity = Identity { node: node(seed), key: key(seed), certificate: None };
        let (carrier, book) = (carrier as Arc<dyn Carrier>, self.book.clone());
        let started =
            Endpoint::start(env.clone(), settings, carrier, identity, trust, book, services, None, Some(address));
        started.await.unwrap()
    }
}

/// A node that holds drives.
pub struct HolderNode {
    pub endpoint: Endpoint,
    pub service: Arc<PieceService>,
    pub stores: Vec<(DriveId, Arc<PieceStore>)>,
}

pub type Wrap = Box<dyn FnOnce(Arc<PieceService>) -> Arc<dyn Service> + Send>;

/// How holders are started.
pub struct Holding {
    pub options: Options,
    pub limits: ServiceLimits,
    /// Answers in the service's place.
    pub wrap: Option<Wrap>,
}

impl Default for Holding {
    fn default() -> Self {
        let options =
            Options { reserve_bytes: 0, log_bytes: 4 << 20, extent_file_bytes: 64 << 20, ..Options::default() };
        Self { options, limits: ServiceLimits { full_below: 0, ..ServiceLimits::default() }, wrap: None }
    }
}

impl HolderNode {
    pub async fn start(
        env: &Env,
        town: &Town,
        seed: u8,
        address: SocketAddr,
        folders: &[PathBuf],
        holding: Holding,
    ) -> Self {
        let service = PieceService::new(env.clone(), holding.limits);
        let mut stores = Vec::new();
        for (at, folder) in folders.iter().enumerate() {
            let store = PieceStore::open(env.clone(), folder.clone(), holding.options.clone()).await.unwrap();
            store.check_path().await.unwrap();
            service.set(drive(seed, at as u8), store.clone());
            stores.push((drive(seed, at as u8), store));
        }
        let answers = match holding.wrap {
            Some(wrap) => wrap(service.clone()),
            None => service.clone(),
        };
        let endpoint = town.start(env, seed, Services::from([(PIECES, answers)]), address).await;
        Self { endpoint, service, stores }
    }

    /// Pieces on all drives.
    pub async fn pieces(&self) -> Vec<(DriveId, PieceId)> {
        let mut all = Vec::new();
        for (drive, store) in &self.stores {
            let mut after = None;
            loop {
                let (pieces, next) = store.list(after, 1000).await.unwrap();
                all.extend(pieces.into_iter().map(|(piece, _)| (*drive, piece)));
                after = next;
                if next.is_none() {
                    break;
                }
            }
        }
        all
    }
}

/// A node whose client engine writes to the drives of others.
pub struct Gateway {
    pub env: Env,
    pub endpoint: Endpoint,
    pub client: Client,
    pub bucket: Arc<Bucket>,
    pub remotes: Arc<Remotes>,
    pub system: Arc<Sequencer>,
    pub volumes: Arc<Sequencer>,
}

/// k, m, and how many pieces must be durable.
pub type Code = (u8, u8, u8);

impl Gateway {
    pub async fn start(
        env: &Env,
        town: &Town,
        seed: u8,
        address: SocketAddr,
        drives: &[(DriveId, NodeId)],
        code: Code,
    ) -> Self {
        let endpoint = town.start(env, seed, Services::new(), address).await;
        let shard = |number| Arc::new(Sequencer::new(env, MemoryStore::new(number)));
        let (system, volumes) = (shard(0), shard(1));
        policy(&system, code, &drives.iter().map(|(drive, _)| *drive).collect::<Vec<_>>()).await;
        let registry = Drives::new(env.clock.clone());
        let remotes = Remotes::new(env.clone(), endpoint.clone(), registry.clone(), Limits::default());
        drives.iter().for_each(|(drive, node)| remotes.set(*drive, *node));
        let client = Client::new(
            env.clone(),
            system.clone(),
            Arc::new(client::shard::One(volumes.clone())),
            registry,
            RootKey::new([7; 32]).store_keys(),
        );
        let bucket = client.create_bucket("photos", &UserId("me".into()), "").await.unwrap();
        Self { env: env.clone(), endpoint, client, bucket, remotes, system, volumes }
    }

    /// Waits until so many drives take new pieces.
    pub async fn live(&self, count: usize) {
        let live = || self.client.drives().live().len();
        until(&self.env, &format!("{count} drives are live"), || live() == count).await;
    }

    pub async fn write(&self, bytes: &[u8]) -> Result<Content, Error> {
        let mut writer = self.client.writer(&self.bucket, Some(bytes.len() as u64)).named("a key");
        let whole = Bytes::copy_from_slice(bytes);
        for at in (0..bytes.len()).step_by(100_000) {
            writer.write(whole.slice(at..(at + 100_000).min(bytes.len()))).await?;
        }
        writer.finish().await
    }

    pub async fn try_put(&self, key: &str, bytes: &[u8]) -> Result<Version, Error> {
        let content = self.write(bytes).await?;
        let new = NewVersion { size: content.size, etag: "e".into(), attrs: BTreeMap::new(), body: content.body };
        let put = Command::Put { key: key.into(), new, condition: Condition::default() };
        self.client.commit(&self.bucket, put).await?;
        Ok(self.client.head(&self.bucket, key, None, true).await?.into_version())
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) -> Version {
        self.try_put(key, bytes).await.unwrap()
    }

    pub async fn get(&self, version: &Version) -> Result<Vec<u8>, Error> {
        let mut stream = self.client.read(&self.bucket, version, 0..version.size)?;
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    pub async fn check(&self, version: &Version, bytes: &[u8], what: &str) {
        let got = self.get(version).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(got == bytes, "{what}: other bytes came back");
    }

    /// Rebuilds what the rows note as missing, where it belongs.
    pub async fn repair_noted(&self) -> Result<usize, Error> {
        let noted = namespace::read::missing(&*self.volumes.read()?, self.bucket.volume, None, 1000)?;
        let count = noted.len();
        for found in noted {
            let row = self.client.group(found.note.policy, found.note.group).await?;
            let missing: Vec<u8> = found.note.missing.to_vec();
            let place = (found.note.policy, &*row);
            let done = self.client.rebuild(self.bucket.volume, found.segment, place, &missing).await?;
            let missing = missing.into_iter().filter(|at| !done.pieces.contains(at)).collect();
            let (policy, group) = (found.note.policy, found.note.group);
            let note = Command::NoteMissing { segment: found.segment, policy, group, missing };
            self.client.commit(&self.bucket, note).await?;
        }
        Ok(count)
    }

    /// Changes a group's row.
    pub async fn put_group(&self, policy: PolicyId, row: &GroupRow) {
        let batch = catalog::put_group(policy, row.group, &codec::Versioned::encode(row));
        self.system.execute::<(), Error>(move |_| Ok((batch, ()))).await.unwrap();
        self.client.map_changed();
    }
}

async fn policy(system: &Sequencer, (k, m, ack): Code, drives: &[DriveId]) {
    let row = PolicyRow { id: PolicyId(1), coding: Coding { k, m }, ack, name: format!("{k}+{m}") };
    let candidates: Vec<_> = drives.iter().map(|drive| Candidate { drive: *drive, weight: 1 }).collect();
    let n = usize::from(k + m);
    let mut batch = catalog::put_policy(&row);
    for group in placement::build(&candidates, n, 0, placement::group_count(drives.len(), n), &[]) {
        batch.puts.extend(catalog::put_group(row.id, group.group, &codec::Versioned::encode(&group)).puts);
    }
    system.execute::<(), Error>(move |_| Ok((batch, ()))).await.unwrap();
}

pub fn segments(version: &Version) -> Vec<SegmentRef> {
    match &version.body {
        Body::Segments(segments) => segments.clone(),
        Body::Packed(segment, _) => vec![segment.clone()],
        _ => Vec::new(),
    }
}

/// Waits until a condition holds; fails after 20 seconds.
pub async fn until(env: &Env, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        env.clock.sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
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
