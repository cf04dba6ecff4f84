//! Nodes that lose their copy of the metadata, over sockets: a minority, and a majority.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of the real world, which is waited for")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::UserId;
use bytes::Bytes;
use client::Bucket;
use env::Env;
use namespace::{Command, Condition, NewVersion};
use node::members::NodeFile;
use node::{Node, Settings, Verb};

struct World {
    dir: tempfile::TempDir,
    ports: Vec<SocketAddr>,
}

impl World {
    fn new(nodes: usize) -> Self {
        if std::env::var_os("TEST_LOG").is_some() {
            let _ = tracing_subscriber::fmt()
                .with_test_writer()
                .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
                .try_init();
        }
        let held: Vec<TcpListener> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = held.iter().map(|one| one.local_addr().unwrap()).collect();
        Self { dir: tempfile::tempdir().unwrap(), ports }
    }

    fn home(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("home{node}"))
    }

    fn drive(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("drive{node}"))
    }

    fn settings(&self, node: usize) -> Settings {
        let mut settings = Settings::new(vec![self.drive(node)], self.home(node));
        settings.look_every = Duration::from_millis(100);
        settings.pieces.reserve_bytes = 1 << 20;
        settings.lost_after = Duration::from_millis(300);
        settings.checkpoint_every = Duration::from_millis(200);
        settings.cluster_listen = self.ports[node];
        settings.addresses = vec![self.ports[node]];
        settings.name = format!("n{node}");
        settings
    }

    /// Opens a node that was closed: its last tasks may hold its locks for a moment.
    async fn open(&self, node: usize) -> Node {
        for _ in 0..1200 {
            match Node::open(Env::real(), self.settings(node)).await {
                Ok(started) => return started.node,
                Err(error) if base::Kinded::kind(&error) == base::Kind::Conflict => {
                    tokio::time::sleep(Duration::from_millis(50)).await
                }
                Err(error) => panic!("node {node}: {error}"),
            }
        }
        panic!("the locks are not given back")
    }

    async fn join(&self, node: usize, host: &Node) -> Node {
        let ticket = host.invite(Duration::from_secs(600)).await.unwrap();
        Node::join(Env::real(), self.settings(node), &ticket).await.unwrap().node
    }

    /// A store, with a bucket, of three nodes that all keep the metadata.
    async fn three() -> (Self, Vec<Node>, Arc<Bucket>) {
        let world = World::new(4);
        let first = world.open(0).await;
        let owner = UserId(first.access().await.unwrap().user);
        let bucket = first.client().create_bucket("bucket", &owner, "").await.unwrap();
        let mut nodes = vec![first];
        for node in 1..3 {
            nodes.push(world.join(node, &nodes[0]).await);
        }
        until("all three keep the metadata", || async { keeps(&nodes[0], &["n0", "n1", "n2"]) }).await;
        (world, nodes, bucket)
    }

    /// The store's id, as a node's file is called.
    fn cluster(&self, node: usize) -> String {
        let names = std::fs::read_dir(self.home(node)).unwrap();
        let names = names.map(|one| one.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_suffix(".node").map(str::to_owned)).last().unwrap()
    }

    /// How often the node began its replicas anew.
    fn turns(&self, node: usize) -> Vec<u32> {
        let mut names = std::fs::read_dir(self.home(node)).unwrap().map(|name| name.unwrap().path());
        let path = names.find(|path| path.extension().is_some_and(|end| end == "node")).unwrap();
        let file = NodeFile::read(&*Env::real().disk, &path);
        file.map(|file| file.turns.into_values().collect()).unwrap_or_default()
    }

    /// What was put aside.
    fn aside(&self, node: usize) -> usize {
        let names = std::fs::read_dir(self.drive(node).join("meta")).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().contains("quarantine")).count()
    }
}

/// Whether exactly these nodes are voters of both shards, as this one knows.
fn keeps(node: &Node, names: &[&str]) -> bool {
    let shown = node.nodes().unwrap_or_default();
    let voters: Vec<&str> = shown.iter().filter(|one| one.voter == [0, 1]).map(|one| one.name.as_str()).collect();
    let others = shown.iter().filter(|one| !names.contains(&one.name.as_str())).all(|one| one.voter.is_empty());
    voters == names && others
}

/// Waits for a condition, a minute at the most.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..3000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}

fn bytes_of(number: usize) -> Bytes {
    (0..100 + number).map(|at| (at * 7 + number * 131) as u8).collect::<Vec<_>>().into()
}

/// Small objects: they lie in the metadata.
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
        let version = node.client().head(bucket, &format!("key/{number}"), None, true).await;
        let version = version.unwrap_or_else(|error| panic!("key {number}: {error}")).into_version();
        let mut stream = node.client().read(bucket, &version, 0..version.size).unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await {
            all.extend_from_slice(&bytes.unwrap());
        }
        assert!(all == bytes_of(number), "key {number} has other bytes");
    }
}

fn empty(dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_metadata_is_a_voter_again_by_itself() {
    let (world, mut nodes, bucket) = World::three().await;
    for number in 0..10 {
        put(&nodes[1], &bucket, number).await;
    }
    nodes.pop().unwrap().close().await;
    empty(&world.drive(2).join("meta"));
    for number in 10..20 {
        put(&nodes[0], &bucket, number).await;
    }
    nodes.push(world.open(2).await);
    // It begins anew only once the others have removed it.
    until("it was removed from both shards", || async { world.turns(2) == [1, 1] }).await;
    until("it is a voter again", || async { keeps(&nodes[0], &["n0", "n1", "n2"]) }).await;
    let told = nodes[0].events(100).await.unwrap();
    assert!(told.iter().any(|event| event.text.contains("is lost")), "{told:?}");
    // Its vote is needed now: two of three are there.
    nodes.remove(1).close().await;
    for number in 20..25 {
        put(&nodes[1], &bucket, number).await;
    }
    check(&nodes[1], &bucket, 25).await;
    for node in &nodes {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_majority_is_recovered_from_a_survivor_and_an_old_node_joins_anew() {
    let (world, mut nodes, bucket) = World::three().await;
    for number in 0..20 {
        put(&nodes[1], &bucket, number).await;
    }
    let acknowledged = std::time::SystemTime::now();
    let cluster = world.cluster(2);
    let path = |node: usize, shard: usize| world.home(node).join(format!("{cluster}.checkpoint-{shard}"));
    until("the survivor has a checkpoint of what was acknowledged", || async {
        let made = std::fs::metadata(path(2, 1)).and_then(|about| about.modified());
        made.is_ok_and(|made| made > acknowledged) && path(2, 0).exists()
    })
    .await;
    let recover = async |code: Option<&str>| {
        for _ in 0..200 {
            match node::recover(Env::real(), world.settings(2), code).await {
                // The last tasks of the node that was closed may hold its locks for a moment.
                Err(error) if error.to_string().contains("lock") => tokio::time::sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
        panic!("the locks are not given back")
    };

    nodes.pop().unwrap().close().await;
    let refused = recover(None).await.unwrap();
    assert!(refused.code.is_none() && refused.refused[0].contains("majority"), "{refused:?}");
    for node in &nodes {
        node.close().await;
    }
    nodes.clear();
    let aside = world.dir.path().join("aside");
    std::fs::rename(path(2, 1), &aside).unwrap();
    let refused = recover(None).await.unwrap();
    assert!(refused.refused[0].contains("no signed checkpoint"), "{refused:?}");
    std::fs::rename(&aside, path(2, 1)).unwrap();
    let shown = recover(None).await.unwrap();
    assert!(shown.refused.is_empty() && !shown.is_done, "{shown:?}");
    let code = shown.code.unwrap();
    let wrong = recover(Some("0123456789abcdef")).await.unwrap_err();
    assert!(wrong.to_string().contains("nothing was changed"), "{wrong}");
    assert!(recover(Some(&code)).await.unwrap().is_done);
    let again = recover(Some(&code)).await.unwrap();
    assert!(!again.is_done && again.refused[0].contains("nothing to recover"), "{again:?}");

    // The survivor serves alone, with the root key that its owner has.
    let key = format!("{cluster}.key");
    std::fs::copy(world.home(0).join(&key), world.home(2).join(&key)).unwrap();
    let survivor = world.open(2).await;
    check(&survivor, &bucket, 20).await;
    for number in 20..25 {
        put(&survivor, &bucket, number).await;
    }
    let new = world.join(3, &survivor).await;
    until("the new node keeps the metadata too", || async { keeps(&survivor, &["n2", "n3"]) }).await;
    check(&new, &bucket, 25).await;

    // One of the old ones comes back after all.
    let old = world.open(0).await;
    until("the old node is one of them", || async { keeps(&survivor, &["n0", "n2", "n3"]) }).await;
    assert!(world.aside(0) >= 2, "what it had was kept");
    check(&old, &bucket, 25).await;
    survivor.close().await;
    put(&old, &bucket, 25).await;
    check(&new, &bucket, 26).await;
    old.close().await;
    new.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_without_a_replica_where_the_root_key_is_has_checkpoints_too() {
    let world = World::new(4);
    let first = world.open(0).await;
    let owner = UserId(first.access().await.unwrap().user);
    let bucket = first.client().create_bucket("bucket", &owner, "").await.unwrap();
    let mut nodes = vec![first];
    for node in 1..4 {
        nodes.push(world.join(node, &nodes[0]).await);
    }
    // Who is to be emptied keeps no metadata but the catalog's copy, and its root key.
    until("it is drained", || async {
        let plan = nodes[0].change(Verb::Drain, &["n0".to_owned()], true, None).await;
        plan.is_ok_and(|plan| plan.applied)
    })
    .await;
    until("the others keep the metadata", || async { keeps(&nodes[1], &["n1", "n2", "n3"]) }).await;
    for number in 0..10 {
        put(&nodes[1], &bucket, number).await;
    }
    let (acknowledged, cluster) = (std::time::SystemTime::now(), world.cluster(0));
    for shard in [0, 1] {
        for node in 0..4 {
            let path = world.home(node).join(format!("{cluster}.checkpoint-{shard}"));
            until("each node has a checkpoint of what was acknowledged", || async {
                std::fs::metadata(&path).and_then(|about| about.modified()).is_ok_and(|made| made > acknowledged)
            })
            .await;
        }
    }
    for node in &nodes {
        node.close().await;
    }
}
