//! A node's one port, and its way to all others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base::{ClusterId, Epoch, NodeId};
use codec::Versioned;
use crypt::{PublicKey, SigningKey};
use env::Env;
use tokio::sync::{Semaphore, oneshot, watch};
use wire::greet::{Class, Instance, Intent};
use wire::{Certificate, Member, MemberList, Trust};

use crate::call::{Call, Reply};
use crate::carrier::{Carrier, Target};
use crate::error::{Error, Result};
use crate::join::Host;
use crate::peer::Peer;
use crate::server::{self, Inbound};
use crate::service::{Caller, Guests, Request, ServiceId, Services};
use crate::settings::Settings;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Its key.
    pub key: Arc<SigningKey>,
    /// Shown to members whose list doesn't have this node, or this key, yet.
    pub certificate: Option<Certificate>,
}

/// Where nodes listen, as far as known.
pub trait Addresses: Send + Sync + 'static {
    /// A node's addresses, best first.
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr>;
}

/// Counts of the moment, and since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that others opened and that greeted.
    pub inbound: usize,
    /// Connections that haven't greeted yet.
    pub greeting: usize,
    /// Connections that were cut before they greeted, since the start.
    pub refused: u64,
    /// Calls that were told to come back, since the start.
    pub busy: u64,
    /// The highest epoch of a member list that any peer has named.
    pub epoch_heard: u64,
}

/// What strangers may ask.
static NOTHING: Services = Services::new();

/// What all parts of an endpoint share.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) settings: Settings,
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) identity: Mutex<Identity>,
    pub(crate) instance: Instance,
    pub(crate) trust: watch::Sender<Trust>,
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) services: Services,
    pub(crate) host: Option<Arc<dyn Host>>,
    /// Who may come in that is no member.
    pub(crate) guests: OnceLock<Arc<dyn Guests>>,
    /// What this endpoint shows where it comes as a guest.
    pub(crate) pass: Option<Vec<u8>>,
    pub(crate) inbound: Mutex<BTreeMap<u64, Inbound>>,
    /// Those that haven't greeted: where from, and how to cut them.
    pub(crate) greeting: Mutex<BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>>,
    pub(crate) control_calls: Arc<Semaphore>,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) refused: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) epoch_heard: AtomicU64,
    addresses: Arc<dyn Addresses>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
}

/// Locks what is never held across an await and never left half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(crate) fn me(&self) -> NodeId {
        lock(&self.identity).node
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.trust.borrow().epoch()
    }

    /// What a caller may ask.
    pub(crate) fn services_for(&self, caller: &Caller) -> &Services {
        match (caller.guest, self.guests.get()) {
            (Some(_), Some(guests)) => guests.services(),
            // Nobody lets guests in who has nothing for them.
            (Some(_), None) => &NOTHING,
            (None, _) => &self.services,
        }
    }

    /// As what this endpoint comes to others.
    pub(crate) fn intent(&self) -> Intent {
        match &self.pass {
            Some(pass) => Intent::Guest(pass.clone()),
            None => Intent::Member(lock(&self.identity).certificate.clone()),
        }
    }

    pub(crate) fn heard_of(&self, epoch: Epoch) {
        self.epoch_heard.fetch_max(epoch.0, Relaxed);
    }

    /// Whose key this is; remembers a certificate that is news.
    pub(crate) fn admit(
        &self,
        key: &PublicKey,
        certificate: Option<&Certificate>,
    ) -> std::result::Result<NodeId, wire::Refusal> {
        let (admitted, news) = {
            let trust = self.trust.borrow();
            (trust.admit(key, certificate), certificate.is_some_and(|shown| trust.is_news(shown)))
        };
        if let Some(certificate) = certificate.filter(|_| news && admitted.is_ok()) {
            self.trust.send_modify(|trust| _ = trust.learn(certificate));
        }
        admitted
    }

    pub(crate) fn target(&self, node: NodeId) -> Result<Target> {
        let keys = self.trust.borrow().keys(node);
        if keys.is_empty() {
            return Err(Error::NoMember { node });
        }
        let addresses = self.addresses.addresses(node);
        if addresses.is_empty() {
            return Err(Error::NoAddress { node });
        }
        Ok(Target { node: Some(node), keys, addresses })
    }

    /// Ends what the new member list doesn't allow any more.
    fn enforce(&self) {
        let trust = self.trust.borrow().clone();
        for inbound in lock(&self.inbound).values().filter(|inbound| !inbound.is_guest) {
            if let Err(refusal) = trust.admit(&inbound.key, inbound.certificate.as_ref()) {
                tracing::info!(node = %inbound.node, %refusal, "cut a connection");
                inbound.cut.send_replace(true);
            }
        }
        lock(&self.peers).retain(|node, peer| {
            let keys = trust.keys(*node);
            if keys.is_empty() {
                peer.end("it is no member any more");
            } else {
                peer.keep_keys(&keys);
            }
            !keys.is_empty()
        });
    }
}

/// A running endpoint. Clones are the same one; it runs until [`Endpoint::close`].
#[derive(Clone)]
pub struct Endpoint {
    core: Arc<Core>,
    address: Option<SocketAddr>,
}

impl Endpoint {
    /// Begins to listen (if there is an `address`) and to answer with `services`; `host` lets
    /// machines join.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the world; called once")]
    pub async fn start(
        env: Env,
        settings: Settings,
        carrier: Arc<dyn Carrier>,
        identity: Identity,
        trust: Trust,
        addresses: Arc<dyn Addresses>,
        services: Services,
        host: Option<Arc<dyn Host>>,
        address: Option<SocketAddr>,
    ) -> Result<Endpoint> {
        Self::begin(env, settings, carrier, identity, trust, addresses, services, host, address, None).await
    }

    /// Asks only, and is no member: a guest of nodes whose keys are known (see [`crate::meet`]). `key` is what `carrier` shows; of
    /// an owner its own. `pass` is what an owner gave to somebody else.
    pub async fn guest(
        env: Env,
        settings: Settings,
        carrier: Arc<dyn Carrier>,
        key: Arc<SigningKey>,
        pass: Vec<u8>,
        addresses: Arc<dyn Addresses>,
    ) -> Result<Endpoint> {
        // Whom it knows is this guest's own affair: it signs its list itself.
        let cluster = ClusterId(env.random());
        let list = MemberList::sign(&key, cluster, Epoch(1), Vec::new(), Vec::new());
        let trust = Trust::new(key.public(), cluster, list)?;
        let identity = Identity { node: wire::node_id(&key.public()), key, certificate: None };
        let services = Services::new();
        Self::begin(env, settings, carrier, identity, trust, addresses, services, None, None, Some(pass)).await
    }

    /// A guest knows these nodes from now on, by their keys, and no others.
    pub fn know(&self, nodes: &BTreeMap<NodeId, PublicKey>) -> Result<()> {
        let member = |(node, key): (&NodeId, &PublicKey)| Member { node: *node, serial: 1, key: *key, previous: None };
        let (cluster, epoch) = (self.core.trust.borrow().cluster(), Epoch(self.core.epoch().0 + 1));
        let key = lock(&self.core.identity).key.clone();
        let list = MemberList::sign(&key, cluster, epoch, nodes.iter().map(member).collect(), Vec::new());
        self.install(list)?;
        Ok(())
    }

    /// Lets guests in from now on.
    pub fn welcome(&self, guests: Arc<dyn Guests>) {
        // The first word counts: a node has one mind about it.
        let _ = self.core.guests.set(guests);
    }

    #[expect(clippy::too_many_arguments, reason = "each is another part of the world; called twice")]
    async fn begin(
        env: Env,
        settings: Settings,
        carrier: Arc<dyn Carrier>,
        identity: Identity,
        trust: Trust,
        addresses: Arc<dyn Addresses>,
        services: Services,
        host: Option<Arc<dyn Host>>,
        address: Option<SocketAddr>,
        pass: Option<Vec<u8>>,
    ) -> Result<Endpoint> {
        let door = match address {
            Some(address) => Some(carrier.listen(address).await?),
            None => None,
        };
        let bound = door.as_ref().and_then(|door| door.address().ok());
        let core = Arc::new(Core {
            instance: Instance(env.random()),
            carrier,
            identity: Mutex::new(identity),
            trust: watch::Sender::new(trust),
            closed: watch::Sender::new(false),
            services,
            host,
            guests: OnceLock::new(),
            pass,
            inbound: Mutex::default(),
            greeting: Mutex::default(),
            control_calls: Arc::new(Semaphore::new(settings.control_calls_max)),
            calls: Arc::new(Semaphore::new(settings.calls_max)),
            refused: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            epoch_heard: AtomicU64::new(0),
            addresses,
            peers: Mutex::default(),
            settings,
            env,
        });
        if let Some(door) = door {
            core.env.spawn("accept nodes", server::accept(core.clone(), door));
        }
        core.env.spawn("enforce membership", enforce(core.clone()));
        Ok(Endpoint { core, address: bound })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.core.me()
    }

    /// Asks a node. Dropping the future cancels the call at the peer.
    pub async fn call(&self, node: NodeId, call: Call) -> Result<Reply> {
        call.check()?;
        if *self.core.closed.borrow() {
            return Err(Error::Closed);
        }
        if node == self.core.me() {
            return self.call_self(call).await;
        }
        self.peer(node)?.call(call).await
    }

    /// Asks for one versioned value with another, on a control connection.
    pub async fn ask<Q: Versioned, A: Versioned>(&self, node: NodeId, service: ServiceId, question: &Q) -> Result<A> {
        self.call(node, Call::of(service, Class::Control, question)).await?.decode()
    }

    /// Whether the last calls to a node found it there; `None` if nobody asked it lately.
    pub fn is_up(&self, node: NodeId) -> Option<bool> {
        lock(&self.core.peers).get(&node).and_then(|peer| peer.is_up())
    }

    /// What this node believes of the membership, as it changes.
    pub fn trust(&self) -> watch::Receiver<Trust> {
        self.core.trust.subscribe()
    }

    /// Takes a newer member list; cuts whoever isn't in it. Says whether it was newer.
    pub fn install(&self, list: MemberList) -> std::result::Result<bool, wire::Error> {
        let mut taken = Ok(false);
        self.core.trust.send_if_modified(|trust| {
            taken = trust.install(list);
            matches!(taken, Ok(true))
        });
        if matches!(taken, Ok(true)) {
            // Here too, not only in the task: when this returns the expunged are cut.
            self.core.enforce();
        }
        taken
    }

    /// Shows another key (or a newer certificate) from now on. New calls take new connections; those
    /// under way go on over the old ones, until the peers' lists are without the old key.
    pub fn replace_identity(&self, identity: Identity) -> Result<()> {
        self.core.carrier.rekey(identity.key.clone())?;
        *lock(&self.core.identity) = identity;
        for peer in lock(&self.core.peers).values() {
            peer.renew();
        }
        Ok(())
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        Stats {
            inbound: lock(&self.core.inbound).len(),
            greeting: lock(&self.core.greeting).len(),
            refused: self.core.refused.load(Relaxed),
            busy: self.core.busy.load(Relaxed),
            epoch_heard: self.core.epoch_heard.load(Relaxed),
        }
    }

    /// Stops listening and cuts every connection.
    pub fn close(&self) {
        self.core.closed.send_replace(true);
        for inbound in lock(&self.core.inbound).values() {
            inbound.cut.send_replace(true);
        }
        let peers = std::mem::take(&mut *lock(&self.core.peers));
        peers.values().for_each(|peer| peer.end("this node's endpoint is closed"));
    }

    fn peer(&self, node: NodeId) -> Result<Arc<Peer>> {
        let mut peers = lock(&self.core.peers);
        if let Some(peer) = peers.get(&node) {
            return Ok(peer.clone());
        }
        if self.core.trust.borrow().keys(node).is_empty() {
            return Err(Error::NoMember { node });
        }
        let peer = Peer::start(self.core.clone(), node);
        peers.insert(node, peer.clone());
        Ok(peer)
    }

    /// Without sockets, with the same limits of time.
    async fn call_self(&self, call: Call) -> Result<Reply> {
        let node = self.core.me();
        let service = self.core.services.get(&call.service).ok_or_else(|| server::no_service(call.service))?;
        let caller = Caller { node, version: *self.core.settings.versions.end(), class: call.class, guest: None };
        let request = Request { head: call.head, body: call.body };
        match self.core.env.timeout(call.timeout, service.handle(caller, request)).await {
            None => Err(Error::Deadline { node, ms: call.timeout.as_millis() as u64 }),
            Some(answer) => {
                answer.map(|response| Reply { head: response.head, body: response.body }).map_err(Error::from)
            }
        }
    }
}

/// Looks at every connection whenever the membership changes.
async fn enforce(core: Arc<Core>) {
    let mut trust = core.trust.subscribe();
    let mut closed = core.closed.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return,
            changed = trust.changed() => match changed {
                Ok(()) => core.enforce(),
                Err(_) => return,
            },
        }
    }
}
