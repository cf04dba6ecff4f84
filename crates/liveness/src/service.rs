//! An engine on an [`Env`]: one task, a bounded inbox, a watched outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{NodeId, Standing};
use bytes::Bytes;
use env::Env;
use futures_util::future::{self, Either};
use tokio::sync::{mpsc, watch};

use crate::engine::{Effect, Engine, Peer, Settings};

/// Messages that wait to be read at the most. What doesn't fit is lost, as on any network.
const INBOX_MAX: usize = 1024;

/// Takes messages to other nodes.
pub trait Courier: Send + Sync {
    /// Sends `message` to a node over an authenticated way, if it can be had soon; else it is lost.
    /// Must not wait.
    fn send(&self, to: NodeId, message: Bytes);
}

enum Event {
    Message { from: NodeId, message: Bytes },
    Nodes(BTreeMap<NodeId, bool>),
    Leave,
}

/// Liveness at work. Clones are the same one; with the last the task ends.
#[derive(Clone)]
pub struct Service {
    inbox: mpsc::Sender<Event>,
    peers: watch::Receiver<Arc<BTreeMap<NodeId, Peer>>>,
    me: NodeId,
}

impl Service {
    /// Begins for node `me`; `start` must be greater than at every earlier start of it.
    pub fn start(env: &Env, me: NodeId, start: u64, settings: Settings, courier: Arc<dyn Courier>) -> Self {
        let (inbox, events) = mpsc::channel(INBOX_MAX);
        let (shown, peers) = watch::channel(Arc::default());
        let seed = u64::from_le_bytes(env.random());
        let engine = Engine::new(me, start, settings, seed, env.clock.now());
        env.spawn("liveness", run(env.clone(), engine, events, shown, courier));
        Self { inbox, peers, me }
    }

    /// A message came from `from`, which the transport has authenticated. Lost if too many wait.
    pub fn receive(&self, from: NodeId, message: Bytes) {
        if self.inbox.try_send(Event::Message { from, message }).is_err() {
            tracing::debug!(%from, "liveness message lost: too many wait");
        }
    }

    /// The members by the map, and which of them are gone by it.
    pub async fn set_nodes(&self, nodes: BTreeMap<NodeId, bool>) {
        // Nobody listens only once the process ends.
        let _ = self.inbox.send(Event::Nodes(nodes)).await;
    }

    /// Tells the others that this node stops.
    pub async fn leave(&self) {
        let _ = self.inbox.send(Event::Leave).await;
    }

    /// How a node stands; strangers are gone.
    pub fn standing(&self, node: NodeId) -> Standing {
        if node == self.me {
            return Standing::Alive;
        }
        self.peers.borrow().get(&node).map_or(Standing::Gone, |peer| peer.standing)
    }

    /// All others, as of now.
    pub fn peers(&self) -> Arc<BTreeMap<NodeId, Peer>> {
        self.peers.borrow().clone()
    }

    /// Is told whenever a standing changes.
    pub fn watch(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, Peer>>> {
        self.peers.clone()
    }
}

async fn run(
    env: Env,
    mut engine: Engine,
    mut events: mpsc::Receiver<Event>,
    shown: watch::Sender<Arc<BTreeMap<NodeId, Peer>>>,
    courier: Arc<dyn Courier>,
) {
    loop {
        let wait = engine.deadline().since(env.clock.now());
        let event = std::pin::pin!(events.recv());
        match future::select(event, env.clock.sleep(wait)).await {
            Either::Left((None, _)) => return,
            Either::Left((Some(event), _)) => handle(&mut engine, &env, event),
            Either::Right(_) => {}
        }
        // Also after messages: a flood of them must not keep timers from running.
        engine.tick(env.clock.now());
        act(&mut engine, &shown, &*courier);
    }
}

fn handle(engine: &mut Engine, env: &Env, event: Event) {
    let now = env.clock.now();
    match event {
        Event::Message { from, message } => {
            if let Err(error) = engine.receive(now, from, &message) {
                tracing::info!(%error, "liveness message refused");
            }
        }
        Event::Nodes(nodes) => engine.set_nodes(now, &nodes),
        Event::Leave => engine.leave(now),
    }
}

fn act(engine: &mut Engine, shown: &watch::Sender<Arc<BTreeMap<NodeId, Peer>>>, courier: &dyn Courier) {
    for effect in engine.effects() {
        match effect {
            Effect::Send { to, message } => courier.send(to, message),
            Effect::Changed { node, from, to } => tracing::info!(%node, %from, %to, "node stands differently"),
            Effect::Contested { incarnation } => {
                tracing::warn!(incarnation, "another process seems to run with this node's key: stop one of them");
            }
        }
    }
    shown.send_if_modified(|peers| {
        let differs = **peers != *engine.peers();
        if differs {
            *peers = Arc::new(engine.peers().clone());
        }
        differs
    });
}
