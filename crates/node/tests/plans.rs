//! Plans over sockets: nodes are drained, removed and filled again while the store is in use; what would
//! lose data is refused, with what is allowed instead.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of the real world, which is waited for")]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::UserId;
use bytes::Bytes;
use client::Bucket;
use env::Env;
use namespace::{Command, Condition, NewVersion};
use node::{Node, Settings, Verb};

const NODES: usize = 6;

fn settings(dir: &Path, node: usize, port: SocketAddr) -> Settings {
    let drives = (0..2).map(|drive| dir.join(format!("drive{node}-{drive}"))).collect();
    let mut settings = Settings::new(drives, dir.join(format!("home{node}")));
    settings.look_every = Duration::from_millis(100);
    settings.even_every = Duration::from_millis(500);
    settings.pieces.reserve_bytes = 1 << 20;
    settings.cluster_listen = port;
    settings.addresses = vec![port];
    settings.name = format!("n{node}");
    settings.labels = vec![format!("site=s{}", node / 2), format!("rack=r{}", node / 2)];
    settings
}

/// Waits for a condition, two minutes at the most.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..2400 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain: {what}");
}

fn bytes_of(number: usize) -> Bytes {
    (0..1_500_000 + number).map(|at| (at * 7 + number * 131) as u8).collect::<Vec<_>>().into()
}

async fn put(node: &Node, bucket: &Bucket, number: usize) {
    let bytes = bytes_of(number);
    let mut writer = node.client().writer(bucket, Some(bytes.len() as u64));
    writer.write(bytes).await.unwrap();
    let content = writer.finish().await.unwrap();
    let new = NewVersion { size: content.size, etag: "x".into(), attrs: Default::default(), body: content.body };
    let command = Command::Put { key: format!("key/{number}"), new, condition: Condition::default() };
    node.client().commit(bucket, command).await.unwrap();
}

async fn check(node: &Node, bucket: &Bucket, count: usize) {
    for number in 0..count {
        let found = node.client().head(bucket, &format!("key/{number}"), None, true).await.unwrap().into_version();
        let mut stream = node.client().read(bucket, &found, 0..found.size).unwrap();
        let mut read = Vec::new();
        while let Some(part) = stream.next().await {
            read.extend_from_slice(&part.unwrap());
        }
        assert!(read == bytes_of(number), "key {number} has other bytes");
    }
}

fn names(targets: &[&str]) -> Vec<String> {
    targets.iter().map(|target| (*target).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_and_one_node_is_drained_removed_and_its_data_is_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let held: Vec<TcpListener> = (0..=NODES).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<SocketAddr> = held.iter().map(|one| one.local_addr().unwrap()).collect();
    drop(held);
    let settings = |node: usize| settings(dir.path(), node, ports[node]);
    let mut nodes = vec![Node::open(Env::real(), settings(0)).await.unwrap().node];
    let join = async |node: usize, host: &Node| {
        let ticket = host.invite(Duration::from_secs(600)).await.unwrap();
        Node::join(Env::real(), settings(node), &ticket).await.unwrap().node
    };
    for node in 1..NODES {
        let one = join(node, &nodes[0]).await;
        nodes.push(one);
    }
    // By then new data goes to all of them.
    for node in &nodes {
        until("all nodes count", || async { node.status().await.is_ok_and(|status| status.policy == "3+2") }).await;
    }
    let owner = UserId(nodes[0].access().await.unwrap().user);
    let bucket: Arc<Bucket> = nodes[0].client().create_bucket("bucket", &owner, "").await.unwrap();
    for number in 0..12 {
        put(&nodes[number % NODES], &bucket, number).await;
    }
    let shown = async |node: &Node, verb: Verb, targets: &[&str]| node.change(verb, &names(targets), false, None).await;
    // What was written while they came is evened out first.
    until("a node may be emptied", || async {
        shown(&nodes[2], Verb::Drain, &["n5"]).await.is_ok_and(|plan| !plan.refused)
    })
    .await;

    // Typos are named, and change nothing.
    for (targets, says) in [
        (&["n7"][..], "did you mean"),
        (&["site=s9"], "s9"),
        (&["siet=s1"], "did you mean site=s1"),
        (&["rack=r11"], "did you mean"),
        (&[], "name a drive"),
    ] {
        let error = shown(&nodes[1], Verb::Drain, targets).await.unwrap_err().to_string();
        assert!(error.contains(says), "{targets:?}: {error}");
    }
    // What would lose data is refused on any node, whoever asks, and says what is allowed.
    let all_but_one = ["n1", "n2", "n3", "n4", "n5"];
    let drive = nodes[0].status().await.unwrap().drives[0].id.clone();
    for (verb, targets) in [
        (Verb::Drain, &all_but_one[..]),
        (Verb::Remove, &all_but_one),
        (Verb::Expunge, &all_but_one),
        (Verb::Drain, &["site=s1", "site=s2"]),
        (Verb::Remove, &["site=s1"]),
        (Verb::Remove, &["rack=r1"]),
        (Verb::Drain, &["rack=r0", "rack=r2"]),
        (Verb::Expunge, &["rack=r2"]),
        (Verb::Remove, &["n3"]),
        (Verb::Remove, &[&drive]),
        // They answer, and hold something.
        (Verb::Expunge, &["site=s1"]),
        (Verb::Expunge, &["n3"]),
        (Verb::Expunge, &[&drive]),
    ] {
        let plan = shown(&nodes[0], verb, targets).await.unwrap();
        assert!(plan.refused && !plan.applied && !plan.reasons.is_empty() && !plan.allowed.is_empty(), "{plan:?}");
        let error = nodes[0].change(verb, &names(targets), true, Some("00000000")).await.unwrap_err().to_string();
        assert!(error.contains("nothing was changed"), "{error}");
    }
    let status = nodes[0].status().await.unwrap();
    assert!(status.nodes.iter().all(|node| node.state == "active"), "nothing was changed: {status:?}");
    assert!(nodes[0].trail(10).unwrap().is_empty());

    // One node is emptied while data comes.
    until("it is drained", || async {
        let plan = nodes[2].change(Verb::Drain, &names(&["n5"]), true, None).await;
        plan.is_ok_and(|plan| plan.applied)
    })
    .await;
    for number in 12..16 {
        put(&nodes[number % 5], &bucket, number).await;
    }
    until("the node is empty", || async {
        shown(&nodes[0], Verb::Remove, &["n5"]).await.is_ok_and(|plan| !plan.refused)
    })
    .await;
    until("it is removed", || async {
        let done = nodes[0].change(Verb::Remove, &names(&["n5"]), true, None).await;
        done.is_ok_and(|plan| plan.applied)
    })
    .await;
    nodes.pop().unwrap().close().await;
    check(&nodes[3], &bucket, 16).await;
    until("nothing lacks", || async { nodes[1].verify("bucket").await.is_ok_and(|all| all.findings.is_empty()) }).await;
    let status = nodes[1].status().await.unwrap();
    assert_eq!((status.nodes.len(), status.drives.len()), (5, 10));
    let read: Vec<u64> = nodes.iter().map(|node| node.gauges().repair_read_bytes).collect();
    assert!(read.iter().filter(|bytes| **bytes > 0).count() > 1, "pieces are moved by those who get them: {read:?}");

    // Two operators at two nodes at once: what the second one saw is outdated, and judged anew.
    until("either may be emptied", || async {
        let (one, other) = (shown(&nodes[1], Verb::Drain, &["n4"]).await, shown(&nodes[3], Verb::Drain, &["n2"]).await);
        [one, other].into_iter().all(|plan| plan.is_ok_and(|plan| !plan.refused))
    })
    .await;
    let code = shown(&nodes[3], Verb::Remove, &["n2"]).await.unwrap().code.unwrap();
    let (n4, n2) = (names(&["n4"]), names(&["n2"]));
    let (one, other) =
        tokio::join!(nodes[1].change(Verb::Drain, &n4, true, None), nodes[3].change(Verb::Drain, &n2, true, None));
    assert!(one.is_ok() != other.is_ok(), "one of them comes first: {one:?} {other:?}");
    let (done, refused) = if one.is_ok() { (&n4, other) } else { (&n2, one) };
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("nothing was changed"), "{error}");
    let error = nodes[3].change(Verb::Remove, &n2, true, Some(&code)).await.unwrap_err().to_string();
    assert!(error.contains("nothing was changed"), "a code is worth nothing after another change: {error}");
    assert!(nodes[0].change(Verb::Fill, done, true, None).await.unwrap().applied);
    let status = nodes[3].status().await.unwrap();
    assert!(status.nodes.iter().all(|node| node.state == "active"), "{status:?}");

    // A drain that was a slip is taken back.
    until("another may be emptied", || async {
        nodes[1].change(Verb::Drain, &names(&["n4"]), true, None).await.is_ok_and(|plan| plan.applied)
    })
    .await;
    assert!(nodes[1].change(Verb::Fill, &names(&["n4"]), true, None).await.unwrap().applied);
    let error = nodes[1].change(Verb::Fill, &names(&["n4"]), true, None).await.unwrap_err().to_string();
    assert!(error.contains("nothing of it is being emptied"), "{error}");
    let trail: Vec<String> = nodes[0].trail(10).unwrap().into_iter().map(|plan| plan.change).collect();
    let slip = ["drain node n4", "use node n4 again"].map(str::to_owned);
    let first = [format!("drain node {}", done[0]), format!("use node {} again", done[0])];
    let all = ["drain node n5", "remove node n5"].map(str::to_owned).into_iter().chain(first).chain(slip);
    assert_eq!(trail, all.collect::<Vec<_>>());

    for node in &nodes {
        node.close().await;
    }
}
