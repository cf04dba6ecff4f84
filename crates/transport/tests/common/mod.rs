//! A cluster of endpoints, its services, and two worlds for it: loopback and turmoil.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{ClusterId, Epoch, NodeId};
use bytes::Bytes;
use crypt::{PublicKey, RootKey, SigningKey};
use env::{BoxFuture, Env};
use transport::{
    Addresses, Body, Call, Caller, Carrier, Class, Endpoint, Fault, Host, Identity, Joiner, Request, Response, Service,
    ServiceId, Services, Settings, TcpCarrier, TicketUse,
};
use wire::{Certificate, Claim, Member, MemberList, Trust, node_id};

pub mod world;

pub const ECHO: ServiceId = ServiceId(1);
pub const BYTES: ServiceId = ServiceId(2);
pub const HANG: ServiceId = ServiceId(3);
pub const FAIL: ServiceId = ServiceId(4);
pub const COUNT: ServiceId = ServiceId(5);
pub const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Answers head and body as they come.
pub struct Echo;

impl Service for Echo {
    fn handle(&self, _: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let len = request.body.len();
            let body = request
                .body
                .collect(64 << 20)
                .await
                .map_err(|error| Fault::new(base::Kind::Damaged, error.to_string()))?;
            assert!(len.is_none_or(|len| len == body.len() as u64));
            Ok(Response::new(request.head).with_body(body))
        })
    }
}

/// Answers as many bytes as the head says (u64), in parts of 64 KiB.
pub struct Many;

pub struct Zeros(pub u64, pub Bytes);

impl transport::BodySource for Zeros {
    fn next(&mut self) -> BoxFuture<'_, Option<transport::Result<Bytes>>> {
        let now = self.0.min(self.1.len() as u64);
        self.0 -= now;
        let part = self.1.slice(..now as usize);
        Box::pin(std::future::ready((now > 0).then_some(Ok(part))))
    }
}

pub fn zeros(len: u64) -> Body {
    Body::stream(Some(len), Zeros(len, Bytes::from(vec![0; 64 << 10])))
}

impl Service for Many {
    fn handle(&self, _: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let len = u64::from_le_bytes(request.head[..8].try_into().unwrap());
            Ok(Response::new("").with_body_stream(zeros(len)))
        })
    }
}

/// Counts the body's bytes.
pub struct Count;

impl Service for Count {
    fn handle(&self, _: Caller, mut request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            let mut len = 0u64;
            while let Some(part) = request.body.next().await {
                len += part.map_err(|error| Fault::new(base::Kind::Damaged, error.to_string()))?.len() as u64;
            }
            Ok(Response::new(len.to_le_bytes().to_vec()))
        })
    }
}

/// Never answers; counts who is inside, and how many have been.
#[derive(Default)]
pub struct Hang {
    pub inside: AtomicUsize,
    pub entered: AtomicUsize,
}

pub struct Inside<'a>(pub &'a Hang);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
    }
}

impl Service for Hang {
    fn handle(&self, _: Caller, _request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(async move {
            self.inside.fetch_add(1, SeqCst);
            self.entered.fetch_add(1, SeqCst);
            let _inside = Inside(self);
            std::future::pending().await
        })
    }
}

pub struct Failing;

impl Service for Failing {
    fn handle(&self, _: Caller, _request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(std::future::ready(Err(Fault::new(base::Kind::TooFewPieces { have: 3, need: 4 }, "read: too few"))))
    }
}

#[derive(Default)]
pub struct Book(pub Mutex<BTreeMap<NodeId, Vec<SocketAddr>>>);

impl Addresses for Book {
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.0.lock().unwrap().get(&node).cloned().unwrap_or_default()
    }
}

/// A cluster's keys and books.
pub struct Town {
    pub root: RootKey,
    pub book: Arc<Book>,
    pub hang: Arc<Hang>,
    pub desk: Arc<Desk>,
}

pub fn key(seed: u8) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed(&[seed; 32]))
}

pub fn node(seed: u8) -> NodeId {
    node_id(&key(seed).public())
}

impl Town {
    pub fn new() -> Town {
        let root = RootKey::new([9; 32]);
        let desk = Arc::new(Desk { root: root.clone(), used: Mutex::default() });
        Town { root, book: Arc::default(), hang: Arc::default(), desk }
    }

    pub fn list(&self, epoch: u64, seeds: &[u8], expunged: &[u8]) -> MemberList {
        let members =
            seeds.iter().map(|seed| Member { node: node(*seed), serial: 1, key: key(*seed).public(), previous: None });
        let expunged = expunged.iter().map(|seed| node(*seed)).collect();
        MemberList::sign(&self.root.signing_key(), CLUSTER, Epoch(epoch), members.collect(), expunged)
    }

    pub fn trust(&self, list: MemberList) -> Trust {
        Trust::new(self.root.signing_key().public(), CLUSTER, list).unwrap()
    }

    pub fn certificate(&self, seed: u8, epoch: u64) -> Certificate {
        Certificate::sign(&self.root.signing_key(), CLUSTER, node(seed), key(seed).public(), 1, Epoch(epoch))
    }

    pub fn services(&self) -> Services {
        let mut services = Services::new();
        services.insert(ECHO, Arc::new(Echo) as Arc<dyn Service>);
        services.insert(BYTES, Arc::new(Many));
        services.insert(HANG, self.hang.clone());
        services.insert(FAIL, Arc::new(Failing));
        services.insert(COUNT, Arc::new(Count));
        services
    }

    /// An endpoint of node `seed` that knows `list`.
    pub async fn start(
        &self,
        env: &Env,
        settings: Settings,
        seed: u8,
        list: MemberList,
        address: SocketAddr,
    ) -> Endpoint {
        let identity = Identity { node: node(seed), key: key(seed), certificate: Some(self.certificate(seed, 1)) };
        self.start_as(env, settings, identity, list, address).await
    }

    pub async fn start_as(
        &self,
        env: &Env,
        settings: Settings,
        identity: Identity,
        list: MemberList,
        address: SocketAddr,
    ) -> Endpoint {
        let carrier = Arc::new(TcpCarrier::new(env.clone(), identity.key.clone(), settings.connect).unwrap());
        let (node, trust) = (identity.node, self.trust(list));
        let endpoint = Endpoint::start(
            env.clone(),
            settings,
            carrier as Arc<dyn Carrier>,
            identity,
            trust,
            self.book.clone(),
            self.services(),
            Some(self.desk.clone()),
            Some(address),
        )
        .await
        .unwrap();
        self.book.0.lock().unwrap().entry(node).or_insert_with(|| vec![endpoint.address().unwrap()]);
        endpoint
    }
}

/// Signs machines in.
pub struct Desk {
    pub root: RootKey,
    pub used: Mutex<BTreeMap<wire::TicketId, PublicKey>>,
}

impl Host for Desk {
    fn secret(&self, claim: &Claim) -> Option<[u8; 16]> {
        Some(claim.secret(&self.root))
    }

    fn root(&self) -> PublicKey {
        self.root.signing_key().public()
    }

    fn ticket_use(&self, claim: &Claim, key: &PublicKey) -> BoxFuture<'_, Result<TicketUse, Fault>> {
        let used = match self.used.lock().unwrap().get(&claim.id) {
            None => TicketUse::Fresh,
            Some(by) if by == key => TicketUse::Same,
            Some(_) => TicketUse::Other,
        };
        Box::pin(std::future::ready(Ok(used)))
    }

    fn join(&self, joiner: Joiner, ask: Bytes) -> BoxFuture<'_, Result<Bytes, Fault>> {
        self.used.lock().unwrap().insert(joiner.claim.id, joiner.key);
        let certificate =
            Certificate::sign(&self.root.signing_key(), CLUSTER, node_id(&joiner.key), joiner.key, 1, Epoch(50));
        let mut answer = codec::Versioned::encode(&certificate);
        answer.extend_from_slice(&ask);
        Box::pin(std::future::ready(Ok(answer.into())))
    }
}

pub trait WithStream {
    fn with_body_stream(self, body: Body) -> Response;
}

impl WithStream for Response {
    fn with_body_stream(mut self, body: Body) -> Response {
        self.body = body;
        self
    }
}

pub fn echo(class: Class, head: &'static [u8], body: impl Into<Body>) -> Call {
    Call::new(ECHO, class, head).with_body(body)
}

/// Waits until `condition` holds; fails after ten seconds.
pub async fn until(env: &Env, what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        env.clock.sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
}

/// SplitMix64: chance from a seed.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
