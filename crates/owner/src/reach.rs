//! Nodes, as their guest: who answers at some addresses, whom they know besides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::NodeId;
use bytes::Bytes;
use codec::Versioned;
use crypt::{PublicKey, SigningKey};
use env::Env;
use futures_util::future::join_all;
use kit::Node;
use kit::ask::{Ask, Question, SERVICE, Told};
use transport::{Addresses, Call, Carrier, Class, Endpoint, ServiceId, Settings, TcpCarrier, meet};

use crate::{Error, Result};

/// A node may take so long for an answer: it may have to look at many pieces.
const LIMIT: Duration = Duration::from_secs(30);
/// What was made a moment ago may be known to some nodes only: who is told nothing by all asks once more after this.
const TOLD_NOTHING_REST: Duration = Duration::from_secs(1);
/// Bytes of an answer at the most.
const BODY_MAX: usize = 16 << 20;

/// Who listens at an address, and its key.
type Met = std::result::Result<(NodeId, PublicKey), transport::Error>;

#[derive(Default)]
struct Book(Mutex<BTreeMap<NodeId, Vec<SocketAddr>>>);

impl Addresses for Book {
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned().unwrap_or_default()
    }
}

/// The nodes that can be asked.
pub struct Reach {
    /// The world.
    pub env: Env,
    endpoint: Endpoint,
    nodes: BTreeMap<NodeId, Node>,
    /// Those that didn't answer, and why.
    pub silent: Vec<(String, String)>,
}

impl Reach {
    /// Greets whoever listens at these addresses, and all that they know. `key` is shown to them: the store's root key, or the volume's. Nodes
    /// that don't answer are told by [`Reach::silent`].
    ///
    /// # Errors
    /// [`Error::Nobody`] if none answers.
    pub async fn open(env: Env, key: SigningKey, addresses: &[SocketAddr]) -> Result<Self> {
        Self::open_with(env, key, Vec::new(), addresses).await
    }

    /// The same for who comes with a pass: a ticket, or a grant's claim.
    ///
    /// # Errors
    /// [`Error::Nobody`] if none answers.
    pub async fn open_with(env: Env, key: SigningKey, pass: Vec<u8>, addresses: &[SocketAddr]) -> Result<Self> {
        let (key, settings) = (Arc::new(key), Settings::default());
        let carrier: Arc<dyn Carrier> = Arc::new(TcpCarrier::new(env.clone(), key.clone(), settings.connect)?);
        let book: Arc<Book> = Arc::default();
        let endpoint =
            Endpoint::guest(env.clone(), settings.clone(), carrier.clone(), key, pass.clone(), book.clone()).await?;
        let mut reach = Self { env, endpoint, nodes: BTreeMap::new(), silent: Vec::new() };
        let env = reach.env.clone();
        let meet_all = || join_all(addresses.iter().map(|address| meet(&env, &settings, &carrier, &pass, *address)));
        let mut met = meet_all().await;
        let is_unknown = |met: &Met| matches!(met, Err(transport::Error::ToldNothing { .. }));
        if met.iter().all(Met::is_err) && met.iter().any(is_unknown) {
            env.clock.sleep(TOLD_NOTHING_REST).await;
            met = meet_all().await;
        }
        for (address, met) in addresses.iter().zip(met) {
            match met {
                Ok((node, key)) => {
                    let known = reach.nodes.entry(node).or_insert_with(|| Node { key, addresses: Vec::new() });
                    known.addresses.push(*address);
                }
                Err(error) => reach.silent.push((address.to_string(), error.to_string())),
            }
        }
        if reach.nodes.is_empty() {
            let why: Vec<String> = reach.silent.iter().map(|(address, why)| format!("{address}: {why}")).collect();
            return Err(Error::Nobody(why.join("; ")));
        }
        reach.know(&book)?;
        // Whom they know, as long as somebody new comes up.
        let mut asked = BTreeSet::new();
        loop {
            let ask: Vec<NodeId> = reach.nodes.keys().copied().filter(|node| !asked.contains(node)).collect();
            if ask.is_empty() {
                break;
            }
            let answers = join_all(ask.iter().map(|node| reach.told(*node, Ask::Nodes, Class::Small))).await;
            for (node, answer) in ask.into_iter().zip(answers) {
                asked.insert(node);
                match answer {
                    Ok((Told::Nodes(others), _)) => {
                        for (id, other) in others.into_iter().filter(|(id, _)| !asked.contains(id)) {
                            reach.nodes.entry(id).or_insert(other);
                        }
                    }
                    Ok(_) => reach.drop(node, "it answers what wasn't asked"),
                    Err(error) => reach.drop(node, &error.to_string()),
                }
            }
            reach.know(&book)?;
        }
        match reach.nodes.is_empty() {
            false => Ok(reach),
            true => {
                let why: BTreeSet<&str> = reach.silent.iter().map(|(_, why)| why.as_str()).collect();
                let why: Vec<&str> = why.into_iter().collect();
                Err(Error::Nobody(format!("those that greeted don't answer: {}", why.join("; "))))
            }
        }
    }

    fn drop(&mut self, node: NodeId, why: &str) {
        self.nodes.remove(&node);
        self.silent.push((node.to_string(), why.to_owned()));
    }

    fn know(&self, book: &Book) -> Result<()> {
        let keys: BTreeMap<NodeId, PublicKey> = self.nodes.iter().map(|(id, node)| (*id, node.key)).collect();
        let addresses = self.nodes.iter().map(|(id, node)| (*id, node.addresses.clone())).collect();
        *book.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        Ok(self.endpoint.know(&keys)?)
    }

    /// The nodes that answer.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// The way to nodes, for holders.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks a node.
    pub async fn told(&self, node: NodeId, ask: Ask, class: Class) -> Result<(Told, Bytes)> {
        told(&self.endpoint, node, ask, class).await
    }
}

/// Asks a node; the answer with its body.
pub(crate) async fn told(endpoint: &Endpoint, node: NodeId, ask: Ask, class: Class) -> Result<(Told, Bytes)> {
    told_with(endpoint, node, ask, class, Bytes::new()).await
}

/// The same with bytes that go along.
pub(crate) async fn told_with(
    endpoint: &Endpoint,
    node: NodeId,
    ask: Ask,
    class: Class,
    body: Bytes,
) -> Result<(Told, Bytes)> {
    let question = Question { ticket: None, ask };
    let call = Call::new(ServiceId(SERVICE), class, question.encode()).with_body(body).with_timeout(LIMIT);
    let reply = endpoint.call(node, call).await?;
    let told = reply.decode()?;
    Ok((told, reply.body.collect(BODY_MAX).await?))
}
