//! Machines that join over sockets, and what becomes of those that may not.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::kv::{Batch, View};
use base::{ClusterId, Kind, Kinded, NodeId, Wall};
use bytes::Bytes;
use crypt::{PublicKey, RootKey, SigningKey};
use env::{BoxFuture, Env};
use metastore::{MemoryStore, Sequencer};
use namespace::catalog;
use node::members::{
    Error, HostRules, JoinAsk, Ledger, NodeFile, Tokens, expunge, found, invite, member_list, node_file, retire_key,
    rotate_key, sign_in,
};
use transport::{
    Addresses, Call, Caller, Carrier, Class, Endpoint, Fault, Host, Joiner, Request, Response, Service, ServiceId,
    Services, Settings, TcpCarrier, TicketUse,
};
use wire::{Claim, MemberList, Ticket, TicketError};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const ECHO: ServiceId = ServiceId(900);
const HOUR: Duration = Duration::from_secs(3600);

struct Echo;

impl Service for Echo {
    fn handle(&self, _: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(std::future::ready(Ok(Response::new(request.head))))
    }
}

#[derive(Default)]
struct Book(Mutex<BTreeMap<NodeId, Vec<SocketAddr>>>);

impl Addresses for Book {
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.0.lock().unwrap().get(&node).cloned().unwrap_or_default()
    }
}

/// A host whose answers are lost while `lose` is set: what it did stays done.
struct Lossy {
    rules: Arc<dyn Host>,
    lose: AtomicBool,
}

impl Host for Lossy {
    fn secret(&self, claim: &Claim) -> Option<[u8; 16]> {
        self.rules.secret(claim)
    }

    fn root(&self) -> PublicKey {
        self.rules.root()
    }

    fn ticket_use(&self, claim: &Claim, key: &PublicKey) -> BoxFuture<'_, Result<TicketUse, Fault>> {
        self.rules.ticket_use(claim, key)
    }

    fn join(&self, joiner: Joiner, ask: Bytes) -> BoxFuture<'_, Result<Bytes, Fault>> {
        Box::pin(async move {
            let answer = self.rules.join(joiner, ask).await;
            match self.lose.load(SeqCst) {
                true => std::future::pending().await,
                false => answer,
            }
        })
    }
}

/// The first node, its rows, and the machines' homes.
struct World {
    env: Env,
    root: RootKey,
    ledger: Arc<Sequencer>,
    book: Arc<Book>,
    host: Arc<Lossy>,
    first: Endpoint,
    homes: tempfile::TempDir,
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn ask(name: &str) -> JoinAsk {
    let addresses = vec!["0.0.0.0:7400".parse().unwrap()];
    JoinAsk { versions: 1..=1, addresses, labels: vec!["site=office".into()], name: name.into() }
}

/// Short limits: a lost answer is given up after a second and a half.
fn hasty() -> Settings {
    Settings { greeting: Duration::from_millis(500), stall: Duration::from_millis(500), ..Settings::default() }
}

fn carrier(env: &Env) -> Arc<dyn Carrier> {
    let any = Arc::new(SigningKey::from_seed(&env.random()));
    Arc::new(TcpCarrier::new(env.clone(), any, Duration::from_secs(1)).unwrap())
}

async fn start(env: &Env, book: &Arc<Book>, file: &NodeFile, host: Option<Arc<dyn Host>>) -> Endpoint {
    let carrier = TcpCarrier::new(env.clone(), file.signing_key(), Duration::from_secs(1)).unwrap();
    let services = Services::from([(ECHO, Arc::new(Echo) as Arc<dyn Service>)]);
    let started = Endpoint::start(
        env.clone(),
        Settings::default(),
        Arc::new(carrier),
        file.identity(),
        file.trust().unwrap(),
        book.clone(),
        services,
        host,
        Some(anywhere()),
    );
    let endpoint = started.await.unwrap();
    book.0.lock().unwrap().insert(file.node(), vec![endpoint.address().unwrap()]);
    endpoint
}

impl World {
    async fn new() -> World {
        World::of(Env::real(), RootKey::new([9; 32]), CLUSTER).await
    }

    async fn of(env: Env, root: RootKey, cluster: ClusterId) -> World {
        let ledger = Arc::new(Sequencer::new(&env, MemoryStore::new(0)));
        let (seed, owner, now) = (env.random(), root.clone(), env.clock.wall());
        let key = SigningKey::from_seed(&seed).public();
        let rule = move |view: &dyn View| {
            let mut ask = ask("first");
            ask.seen_from("127.0.0.1".parse().unwrap());
            found(view, &owner, cluster, key, &ask, now)
        };
        let membership = Ledger::execute(&ledger, rule).await.unwrap();
        let homes = tempfile::tempdir().unwrap();
        let path = homes.path().join("first").join(node_file(cluster));
        let public = root.signing_key().public();
        NodeFile::new(seed, public, root.store_keys(), membership).write(&*env.disk, &path).unwrap();
        let file = NodeFile::start(&*env.disk, &path).unwrap();
        let tokens = || Tokens::from([(0, [1; 16]), (1, [2; 16])]);
        let rules = HostRules::new(env.clone(), root.clone(), ledger.clone(), tokens);
        let host = Arc::new(Lossy { rules, lose: AtomicBool::new(false) });
        let book = Arc::new(Book::default());
        let first = start(&env, &book, &file, Some(host.clone())).await;
        World { env, root, ledger, book, host, first, homes }
    }

    fn ticket(&self, number: u8, valid: Duration) -> Ticket {
        self.ticket_at(number, valid, self.env.clock.wall())
    }

    fn ticket_at(&self, number: u8, valid: Duration, now: Wall) -> Ticket {
        let address = self.first.address().unwrap();
        let cluster = self.first.trust().borrow().cluster();
        let ticket = invite(&self.root, cluster, &[address], valid, now, [number; 8]).unwrap();
        Ticket::parse(&ticket.text()).unwrap()
    }

    fn home(&self, name: &str) -> PathBuf {
        self.homes.path().join(name)
    }

    /// As a new process of the machine `name` does it.
    async fn join(&self, name: &str, ticket: &Ticket) -> Result<NodeFile, Error> {
        sign_in(&self.env, &hasty(), &carrier(&self.env), ticket, &ask(name), &self.home(name)).await
    }

    async fn rule<T: Send + 'static>(
        &self,
        rule: impl Fn(&dyn View, &RootKey) -> Result<(Batch, T), Error> + Send + Sync + 'static,
    ) -> T {
        let root = self.root.clone();
        Ledger::execute(&self.ledger, move |view| rule(view, &root)).await.unwrap()
    }

    async fn list(&self) -> MemberList {
        let public = self.root.signing_key().public();
        self.ledger.look(move |view| member_list(view, &public)).await.unwrap().unwrap()
    }

    /// Joins, starts, and tells the first node of it.
    async fn member(&self, name: &str, number: u8) -> (NodeFile, Endpoint) {
        let file = self.join(name, &self.ticket(number, HOUR)).await.unwrap();
        let endpoint = start(&self.env, &self.book, &file, None).await;
        self.first.install(self.list().await).unwrap();
        (file, endpoint)
    }
}

async fn call(from: &Endpoint, to: NodeId) -> transport::Result<()> {
    let reply = from.call(to, Call::new(ECHO, Class::Control, "hello")).await?;
    assert_eq!(&reply.head[..], b"hello");
    Ok(())
}

fn files(home: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        home.read_dir().unwrap().map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn invited_joined_and_both_call_each_other() {
    let world = World::new().await;
    let ticket = world.ticket(1, HOUR);
    let file = world.join("second", &ticket).await.unwrap();
    assert_eq!(file.keys, world.root.store_keys());
    assert_eq!(file.tokens, Tokens::from([(0, [1; 16]), (1, [2; 16])]));
    assert_eq!(file.contacts[0].node, world.first.node());
    assert_eq!(file.contacts[0].addresses[0], world.first.address().unwrap());
    assert_eq!(files(&world.home("second")), [node_file(CLUSTER)]);
    let row = world
        .ledger
        .look({
            let node = file.node();
            move |view| Ok(catalog::node(view, node)?)
        })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.addresses, ["127.0.0.1:7400".parse().unwrap()], "as it was seen");
    // As after a restart: from the file alone.
    let path = world.home("second").join(node_file(CLUSTER));
    let file = NodeFile::start(&*world.env.disk, &path).unwrap();
    let second = start(&world.env, &world.book, &file, None).await;
    // The first node's list is still without it: the certificate says who it is.
    call(&second, world.first.node()).await.unwrap();
    call(&world.first, second.node()).await.unwrap();
    assert_eq!(world.first.install(world.list().await), Ok(true));
    call(&second, world.first.node()).await.unwrap();
    call(&world.first, second.node()).await.unwrap();
    // The whole of it once more, as a script does that is run twice.
    let again = world.join("second", &ticket).await.unwrap();
    assert_eq!((again.node(), again.starts), (file.node(), 1));
    let refused = world.join("second", &world.ticket(2, HOUR)).await.unwrap_err();
    assert!(matches!(refused, Error::Member { .. }), "{refused}");
    assert_eq!(world.list().await.members().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_answer_was_lost_goes_on_with_the_same_key() {
    let world = World::new().await;
    let ticket = world.ticket(1, HOUR);
    world.host.lose.store(true, SeqCst);
    assert!(world.join("second", &ticket).await.is_err());
    assert_eq!(world.list().await.members().len(), 2, "the cluster has it, and it doesn't know");
    assert_eq!(files(&world.home("second")), [format!("{CLUSTER}.joining")]);
    world.host.lose.store(false, SeqCst);
    // Another machine can't have the ticket any more.
    let refused = world.join("third", &ticket).await.unwrap_err();
    assert!(matches!(&refused, Error::Transport(transport::Error::Ticket(TicketError::Used))), "{refused}");
    // Its owner was impatient and made another ticket.
    let file = world.join("second", &world.ticket(2, HOUR)).await.unwrap();
    assert_eq!(file.ticket, Some(ticket.claim.id));
    let list = world.list().await;
    assert_eq!((list.members().len(), list.epoch.0), (2, 2));
    let second = start(&world.env, &world.book, &file, None).await;
    call(&second, world.first.node()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_can_be_repeated_after_its_ticket_expired() {
    let world = World::new().await;
    let ticket = world.ticket(1, Duration::from_secs(2));
    world.host.lose.store(true, SeqCst);
    assert!(world.join("second", &ticket).await.is_err());
    world.host.lose.store(false, SeqCst);
    for _ in 0..500 {
        if world.env.clock.wall() > ticket.claim.expires {
            break;
        }
        world.env.clock.sleep(Duration::from_millis(10)).await;
    }
    assert!(world.join("second", &ticket).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tickets_are_refused_with_the_reason_where_there_is_one() {
    let world = World::new().await;
    let now = world.env.clock.wall();
    // Expired, with both times.
    let old = world.ticket_at(1, HOUR, Wall(now.0 - 10 * 365 * 24 * 3_600_000));
    let refused = world.join("a", &old).await.unwrap_err();
    let Error::Transport(transport::Error::Ticket(TicketError::Expired { at, now: there })) = &refused else {
        panic!("{refused}");
    };
    assert!(*at == old.claim.expires && there.0 >= now.0, "{refused}");
    assert_eq!(refused.kind(), Kind::Denied);
    // Forged: longer than it was made for, or by another root key.
    let good = world.ticket(2, HOUR);
    let longer = Ticket::issue(&RootKey::new([1; 32]), CLUSTER, good.claim.id, now + HOUR * 9, &good.addresses);
    let refused = world.join("b", &longer).await.unwrap_err();
    assert!(refused.to_string().contains("ticket isn't one of its cluster"), "{refused}");
    // Of another cluster, whose root key is the same or isn't.
    let same_root = invite(&world.root, ClusterId([8; 16]), &good.addresses, HOUR, now, [3; 8]).unwrap();
    let refused = world.join("c", &same_root).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Transport(transport::Error::Ticket(TicketError::OtherCluster { .. }))),
        "{refused}"
    );
    let other = World::of(world.env.clone(), RootKey::new([1; 32]), ClusterId([8; 16])).await;
    let mut lost = other.ticket(4, HOUR);
    lost.addresses = good.addresses.clone();
    let refused = world.join("d", &lost).await.unwrap_err();
    assert!(refused.to_string().contains("ticket isn't one of its cluster"), "{refused}");
    // A node there that isn't of the ticket's cluster gets nobody to join.
    let mut misled = good.clone();
    misled.addresses = vec![other.first.address().unwrap()];
    assert!(world.join("e", &misled).await.is_err());
    // A slip, and then the same ticket without it.
    let slip = JoinAsk { labels: vec!["site=ofice".into()], ..ask("f") };
    let refused =
        sign_in(&world.env, &hasty(), &carrier(&world.env), &good, &slip, &world.home("f")).await.unwrap_err();
    assert!(refused.to_string().contains("did you mean that"), "{refused}");
    assert_eq!(refused.kind(), Kind::Conflict);
    assert_eq!(world.list().await.members().len(), 1, "nobody has joined so far");
    world.join("f", &good).await.unwrap();
    let refused = world.join("g", &good).await.unwrap_err();
    assert!(matches!(&refused, Error::Transport(transport::Error::Ticket(TicketError::Used))), "{refused}");
    for name in ["a", "b", "c", "d", "e", "g"] {
        assert!(!world.home(name).join(node_file(CLUSTER)).exists(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_file_makes_no_second_node() {
    let world = World::new().await;
    world.join("second", &world.ticket(1, HOUR)).await.unwrap();
    // The key as it was before it joined, on a machine of its own.
    let (from, to) = (world.home("third"), world.home("copy"));
    world.host.lose.store(true, SeqCst);
    assert!(world.join("third", &world.ticket(2, HOUR)).await.is_err());
    world.host.lose.store(false, SeqCst);
    world.env.disk.create_dir_all(&to).unwrap();
    let name = format!("{CLUSTER}.joining");
    std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    let one = world.join("third", &world.ticket(2, HOUR)).await.unwrap();
    // It is the same node then: the transport refuses the second process with one key.
    let other = world.join("copy", &world.ticket(2, HOUR)).await.unwrap();
    assert_eq!(one.node(), other.node());
    assert_eq!(world.list().await.members().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_node_is_cut_and_learns_nothing_more() {
    let world = World::new().await;
    let (file, stolen) = world.member("stolen", 1).await;
    let (_, third) = world.member("third", 2).await;
    call(&stolen, world.first.node()).await.unwrap();
    call(&third, stolen.node()).await.unwrap();
    let node = file.node();
    let list = world.rule(move |view, root| expunge(view, root, node)).await;
    for endpoint in [&world.first, &third] {
        assert_eq!(endpoint.install(list.clone()), Ok(true));
        assert!(call(endpoint, stolen.node()).await.is_err());
        assert!(call(&stolen, endpoint.node()).await.is_err());
    }
    assert_eq!(stolen.trust().borrow().epoch().0, 2, "nobody told it of any newer list");
    call(&third, world.first.node()).await.unwrap();
    // After a restart, and with tickets old and new, neither.
    let again = start(&world.env, &world.book, &file, None).await;
    assert!(call(&again, world.first.node()).await.is_err());
    std::fs::remove_file(world.home("stolen").join(node_file(CLUSTER))).unwrap();
    let carrier = carrier(&world.env);
    carrier.rekey(file.signing_key()).unwrap();
    for number in [1, 3] {
        let ticket = world.ticket(number, HOUR);
        let asked = codec::Versioned::encode(&ask("stolen")).into();
        let key = file.signing_key().public();
        let refused = transport::join(&world.env, &hasty(), &carrier, key, &ticket, asked).await.unwrap_err();
        assert!(refused.to_string().contains("was expunged"), "{refused}");
    }
    assert_eq!(world.list().await, list);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_without_a_failed_call() {
    let world = World::new().await;
    let (mut file, second) = world.member("second", 1).await;
    let path = world.home("second").join(node_file(CLUSTER));
    let done = Arc::new(AtomicBool::new(false));
    let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let pairs = [(world.first.clone(), second.node()), (second.clone(), world.first.node())];
    let callers: Vec<_> = pairs
        .into_iter()
        .zip(counts.clone())
        .map(|((from, to), count)| {
            let done = done.clone();
            tokio::spawn(async move {
                while !done.load(SeqCst) {
                    for class in Class::ALL {
                        from.call(to, Call::new(ECHO, class, "hello")).await.unwrap();
                        count.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    // Until each has made calls that began after this: all that were under way have ended then.
    let some_calls = async || {
        for (count, caller) in counts.iter().zip(&callers) {
            let before = count.load(SeqCst);
            while count.load(SeqCst) < before + 6 && !caller.is_finished() {
                world.env.clock.sleep(Duration::from_millis(1)).await;
            }
        }
    };
    for round in 0..5u64 {
        some_calls().await;
        let key = file.begin_rotation(world.env.random());
        file.write(&*world.env.disk, &path).unwrap();
        let node = file.node();
        let membership = world.rule(move |view, root| rotate_key(view, root, node, key)).await;
        for endpoint in [&world.first, &second] {
            assert_eq!(endpoint.install(membership.list.clone()), Ok(true), "round {round}");
        }
        file.finish_rotation(membership).unwrap();
        file.write(&*world.env.disk, &path).unwrap();
        second.replace_identity(file.identity()).unwrap();
        some_calls().await;
        let list = world.rule(move |view, root| retire_key(view, root, node)).await;
        for endpoint in [&world.first, &second] {
            assert_eq!(endpoint.install(list.clone()), Ok(true), "round {round}");
        }
    }
    some_calls().await;
    done.store(true, SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    let restarted = NodeFile::start(&*world.env.disk, &path).unwrap();
    assert_eq!((restarted.certificate.serial, restarted.node()), (6, second.node()));
}
