//! More metadata shards than one, over sockets: buckets are spread over them, and every node serves all.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of the real world, which is waited for")]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::UserId;
use bytes::Bytes;
use client::Bucket;
use env::Env;
use namespace::catalog::shard_of;
use namespace::{Command, Condition, NewVersion};
use node::{Node, Settings};

const NODES: usize = 4;

fn settings(dir: &Path, node: usize, port: SocketAddr) -> Settings {
    let mut settings = Settings::new(vec![dir.join(format!("drive{node}"))], dir.join(format!("home{node}")));
    settings.look_every = Duration::from_millis(100);
    settings.pieces.reserve_bytes = 1 << 20;
    settings.cluster_listen = port;
    settings.addresses = vec![port];
    settings.name = format!("n{node}");
    settings.nodes_per_shard = 1;
    settings.even_every = Duration::from_secs(1);
    settings
}

/// Waits for a condition, two minutes at the most.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..6000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}

async fn open(settings: Settings) -> Node {
    for _ in 0..1200 {
        match Node::open(Env::real(), settings.clone()).await {
            Ok(started) => return started.node,
            // The last tasks of the node that was closed may hold its locks for a moment.
            Err(error) if base::Kinded::kind(&error) == base::Kind::Conflict => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the locks are not given back")
}

/// One that lies in the metadata, and one in pieces.
fn bytes_of(bucket: usize) -> [Bytes; 2] {
    [300 + bucket, 3_000_000 + bucket]
        .map(|len| (0..len).map(|at| (at * 7 + bucket * 131) as u8).collect::<Vec<_>>().into())
}

async fn put(node: &Node, bucket: &Bucket, number: usize) {
    for (at, bytes) in bytes_of(number).into_iter().enumerate() {
        let mut writer = node.client().writer(bucket, Some(bytes.len() as u64));
        writer.write(bytes).await.unwrap();
        let content = writer.finish().await.unwrap();
        let new = NewVersion { size: content.size, etag: "x".into(), attrs: Default::default(), body: content.body };
        let command = Command::Put { key: format!("key/{at}"), new, condition: Condition::default() };
        node.client().commit(bucket, command).await.unwrap();
    }
}

async fn check(node: &Node, number: usize) {
    let name = format!("bucket-{number}");
    let bucket = node.client().bucket(&name).await.unwrap().unwrap();
    for (at, bytes) in bytes_of(number).into_iter().enumerate() {
        let found = node.client().head(&bucket, &format!("key/{at}"), None, true).await.unwrap().into_version();
        let mut stream = node.client().read(&bucket, &found, 0..found.size).unwrap();
        let mut read = Vec::new();
        while let Some(part) = stream.next().await {
            read.extend_from_slice(&part.unwrap());
        }
        assert_eq!(read, bytes, "{name} key/{at}");
    }
}

/// How many nodes keep the shard, as this one knows.
fn voters(node: &Node, shard: u32) -> usize {
    node.nodes().unwrap_or_default().iter().filter(|one| one.voter.contains(&shard)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_spread_over_shards_as_nodes_come_and_any_node_serves_them_while_one_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let held: Vec<TcpListener> = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<SocketAddr> = held.iter().map(|one| one.local_addr().unwrap()).collect();
    drop(held);
    let settings = |node: usize| settings(dir.path(), node, ports[node]);
    let mut nodes = vec![open(settings(0)).await];
    let owner = UserId(nodes[0].access().await.unwrap().user);
    // One that was there before there were others stays where it was.
    let old = nodes[0].client().create_bucket("bucket-0", &owner, "").await.unwrap();
    put(&nodes[0], &old, 0).await;
    for node in 1..NODES {
        let ticket = nodes[0].invite(Duration::from_secs(600)).await.unwrap();
        nodes.push(Node::join(Env::real(), settings(node), &ticket).await.unwrap().node);
    }
    let told = async |node: &Node, text: &str| {
        let events = node.events(200).await.unwrap();
        events.iter().any(|event| event.text.contains(text))
    };
    for shard in 2..=NODES as u32 {
        let text = format!("shard {shard} takes new buckets");
        until("it has its voters", || told(&nodes[0], &text)).await;
        assert!(voters(&nodes[0], shard) >= 3);
    }
    assert!(!told(&nodes[0], "shard 5").await, "there are no more than wanted");
    let mut buckets: Vec<Arc<Bucket>> = vec![old];
    for number in 1..9 {
        let by = &nodes[number % NODES];
        let bucket = by.client().create_bucket(&format!("bucket-{number}"), &owner, "").await.unwrap();
        put(by, &bucket, number).await;
        buckets.push(bucket);
    }
    let used: BTreeSet<u32> = buckets.iter().map(|bucket| shard_of(bucket.volume)).collect();
    assert_eq!(used, (1..=NODES as u32).collect(), "all shards have some");
    for node in &nodes {
        for number in 0..buckets.len() {
            check(node, number).await;
        }
    }
    // Four nodes, four shards: each comes to lead one.
    let leads = |(number, node): (usize, &Node)| {
        let shown = node.nodes().unwrap_or_default();
        let mine = shown.iter().find(|one| one.name == format!("n{number}"));
        mine.map_or(0, |one| one.leader.iter().filter(|shard| **shard > 0).count())
    };
    until("nobody leads more than others", || async { nodes.iter().enumerate().all(|one| leads(one) == 1) }).await;
    // Who repairs, and who counts, sees all of them.
    let status = nodes[1].status().await.unwrap();
    assert_eq!((status.totals.buckets, status.totals.objects), (9, 18));
    let verified = nodes[2].verify("bucket-5").await.unwrap();
    assert!(verified.findings.is_empty() && verified.segments >= 1, "{verified:?}");

    let away = nodes.pop().unwrap();
    away.close().await;
    drop(away);
    for (number, bucket) in buckets.iter().enumerate() {
        put(&nodes[number % 3], bucket, number).await;
        check(&nodes[(number + 1) % 3], number).await;
    }
    nodes[1].client().create_bucket("bucket-9", &owner, "").await.unwrap();
    let back = open(settings(NODES - 1)).await;
    for number in 0..buckets.len() {
        check(&back, number).await;
    }
    for node in nodes.iter().chain([&back]) {
        node.close().await;
    }
}
