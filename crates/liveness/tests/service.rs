//! The service in simulated time: tasks, inbox and watch around the engine.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base::{Instant, NodeId, Standing, Wall};
use bytes::Bytes;
use env::{BoxFuture, Clock, Env, Rng};
use liveness::{Courier, Service, Settings};

/// Tokio's clock, which a test pauses.
struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> Wall {
        Wall(0)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct Counting(Mutex<u8>);

impl Rng for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let mut next = self.0.lock().unwrap();
        bytes.iter_mut().for_each(|byte| {
            *next = next.wrapping_mul(29).wrapping_add(7);
            *byte = *next;
        });
    }
}

/// Takes messages straight to the other service, unless one of both is cut off.
struct Post {
    services: OnceLock<BTreeMap<NodeId, Service>>,
    cut: Mutex<BTreeSet<NodeId>>,
}

struct Bag {
    from: NodeId,
    post: Arc<Post>,
}

impl Courier for Bag {
    fn send(&self, to: NodeId, message: Bytes) {
        let cut = self.post.cut.lock().unwrap();
        if let Some(services) = self.post.services.get()
            && !cut.contains(&self.from)
            && !cut.contains(&to)
            && let Some(service) = services.get(&to)
        {
            service.receive(self.from, message);
        }
    }
}

fn id(number: u8) -> NodeId {
    NodeId([number; 16])
}

async fn until(service: &Service, node: NodeId, wanted: Standing) {
    let mut watch = service.watch();
    let so = watch.wait_for(|peers| peers.get(&node).is_some_and(|peer| peer.standing == wanted));
    tokio::time::timeout(Duration::from_secs(60), so).await.expect("in time").unwrap();
}

#[tokio::test(start_paused = true)]
async fn services_find_each_other_and_notice_who_is_cut_off_and_who_leaves() {
    let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
    let env = Env { clock, rng: Arc::new(Counting(Mutex::new(1))), ..Env::real() };
    let post = Arc::new(Post { services: OnceLock::new(), cut: Mutex::default() });
    let nodes: BTreeMap<NodeId, bool> = (1..=4).map(|node| (id(node), false)).collect();
    let start = |node: u8| {
        let bag = Bag { from: id(node), post: Arc::clone(&post) };
        (id(node), Service::start(&env, id(node), 1, Settings::default(), Arc::new(bag)))
    };
    let services: BTreeMap<NodeId, Service> = (1..=4).map(start).collect();
    assert!(post.services.set(services.clone()).is_ok());
    for service in services.values() {
        service.set_nodes(nodes.clone()).await;
    }
    for (service, node) in services.values().zip([2, 3, 4, 1]) {
        until(service, id(node), Standing::Alive).await;
    }
    let (one, two) = (&services[&id(1)], &services[&id(2)]);
    assert_eq!(one.standing(id(1)), Standing::Alive);
    assert_eq!(one.standing(id(9)), Standing::Gone);
    post.cut.lock().unwrap().insert(id(3));
    until(one, id(3), Standing::Suspected).await;
    until(two, id(3), Standing::Down).await;
    assert_eq!(two.standing(id(1)), Standing::Alive);
    post.cut.lock().unwrap().clear();
    until(two, id(3), Standing::Alive).await;
    services[&id(4)].leave().await;
    until(one, id(4), Standing::Down).await;
    // Garbage, and more than the inbox takes, change nothing.
    for _ in 0..5000 {
        one.receive(id(2), Bytes::from_static(b"\x01garbage"));
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(one.standing(id(2)), Standing::Alive);
    assert_eq!(one.peers().len(), 3);
}
