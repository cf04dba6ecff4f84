//! Real nodes in one process, for tests.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of the real world, which is waited for")]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use crate::{Node, Settings};

fn settings(dir: &Path, node: usize, port: SocketAddr) -> Settings {
    let mut settings = Settings::new(vec![dir.join(format!("drive{node}"))], dir.join(format!("home{node}")));
    settings.pieces.reserve_bytes = 1 << 20;
    (settings.cluster_listen, settings.addresses) = (port, vec![port]);
    settings.name = format!("n{node}");
    settings
}

/// So many nodes of one store, with a drive each; the first has the root key.
pub async fn nodes(dir: &Path, count: usize) -> Vec<Node> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<SocketAddr> = held.iter().map(|one| one.local_addr().unwrap()).collect();
    drop(held);
    let settings = |node: usize| settings(dir, node, ports[node]);
    let mut nodes = vec![Node::open(env::Env::real(), settings(0)).await.unwrap().node];
    for node in 1..count {
        let ticket = nodes[0].invite(Duration::from_secs(600)).await.unwrap();
        nodes.push(Node::join(env::Env::real(), settings(node), &ticket).await.unwrap().node);
    }
    nodes
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}
