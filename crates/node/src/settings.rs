//! What a node is asked to be.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::Node;

/// Where nodes listen for each other if nobody says otherwise.
pub const CLUSTER_PORT: u16 = 9400;

/// How a node is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster that empty folders join: the one of which this machine just became a node.
    pub joined: Option<base::ClusterId>,
    /// The drives' folders, absolute.
    pub drives: Vec<PathBuf>,
    /// Where the key file goes if nobody says otherwise.
    pub home: PathBuf,
    /// The root key's file, if it isn't where it is by default.
    pub key_file: Option<PathBuf>,
    /// The 24 words, to restore a key file.
    pub words: Option<String>,
    /// Drives that join take no data: this node keeps metadata alone.
    pub no_data: bool,
    /// How new data is coded, if not by the number of drives.
    pub policy: Option<String>,
    /// How long a drive may be away before its pieces are rebuilt elsewhere.
    pub repair_after: Duration,
    /// How long freed segments stay: reads that began before must end.
    pub garbage_after: Duration,
    /// How long what is deleted or overwritten can be had back, unless the store's setting says otherwise.
    pub undo_for: Duration,
    /// Every piece is read and checked once in so long.
    pub scrub_every: Duration,
    /// How often what the metadata has is signed and spread, for a recovery.
    pub checkpoint_every: Duration,
    /// How long this node's copy of the metadata may be impossible to open before it counts as lost, and a new one is
    /// made.
    pub lost_after: Duration,
    /// How often it is looked whether some drives are fuller than others, and whether some nodes lead more shards.
    pub even_every: Duration,
    /// How long new data must have been coded by a policy before older data is coded anew by it.
    pub recode_after: Duration,
    /// How often a sample is read by kits and pieces alone.
    pub drill_every: Duration,
    /// How long nobody may lead a metadata shard before reads go on by kits; nothing: never.
    pub read_by_kit_after: Option<Duration>,
    /// For so many nodes there is one metadata shard for volumes.
    pub nodes_per_shard: usize,
    /// How drives are looked at, at most so often.
    pub look_every: Duration,
    /// Where this node listens for others, once there may be some.
    pub cluster_listen: SocketAddr,
    /// Where others reach it; port 0 stands for the one that it listens on.
    pub addresses: Vec<SocketAddr>,
    /// What its owner says of it, as `name=value`.
    pub labels: Vec<String>,
    /// Its name, for people.
    pub name: String,
    /// How nodes speak to each other.
    pub transport: transport::Settings,
    /// How soon one that doesn't answer is noticed.
    pub liveness: liveness::Settings,
    /// How replicas of the metadata are kept.
    pub replicas: replicated::Settings,
    /// How each drive keeps its pieces.
    pub pieces: piecestore::Options,
    /// How the metadata is kept.
    pub metadata: metastore::Options,
}

impl Settings {
    /// The defaults for these folders.
    pub fn new(drives: Vec<PathBuf>, home: PathBuf) -> Self {
        Self {
            joined: None,
            drives,
            home,
            key_file: None,
            words: None,
            no_data: false,
            policy: None,
            repair_after: Duration::from_secs(600),
            garbage_after: Duration::from_secs(900),
            undo_for: Duration::from_secs(24 * 3600),
            scrub_every: Duration::from_secs(30 * 24 * 3600),
            checkpoint_every: Duration::from_secs(300),
            lost_after: Duration::from_secs(10),
            drill_every: Duration::from_secs(24 * 3600),
            read_by_kit_after: Some(Duration::from_secs(10)),
            nodes_per_shard: 4,
            even_every: Duration::from_secs(60),
            recode_after: Duration::from_secs(3600),
            look_every: Duration::from_millis(500),
            cluster_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLUSTER_PORT)),
            addresses: Vec::new(),
            labels: Vec::new(),
            name: String::new(),
            transport: transport::Settings::default(),
            liveness: liveness::Settings::default(),
            replicas: replicated::Settings::default(),
            pieces: piecestore::Options::default(),
            metadata: metastore::Options::default(),
        }
    }
}

/// A node that was opened.
pub struct Started {
    /// It.
    pub node: Node,
    /// The root key as 24 words, if the store was just made: to be shown once.
    pub words: Option<String>,
    /// Where the key file is.
    pub key_file: PathBuf,
    /// What its owner should know: folders that joined, drives that aren't there.
    pub notes: Vec<String>,
}
