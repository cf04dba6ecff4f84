//! How a replica is kept and how fast it reacts.

use std::time::Duration;

use metastore::{MemberSet, Mirror, Options};

/// How a replica is kept and how fast it reacts. All replicas of a group should agree on the times.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often a leader is heard of.
    pub heartbeat: Duration,
    /// Who hears of no leader for the longer of these, and then for a random time between them,
    /// wants to lead.
    pub election_min: Duration,
    /// See [`Settings::election_min`].
    pub election_max: Duration,
    /// How long a small message may take: more than twice the way to the farthest replica.
    pub message_limit: Duration,
    /// How long a commit waits for a majority before its fate is called unknown.
    pub commit_limit: Duration,
    /// Bytes of entries after which a checkpoint is made and older entries are forgotten.
    pub checkpoint_bytes: usize,
    /// Log entries after which one is made.
    pub checkpoint_entries: u64,
    /// Entries that are kept beyond a checkpoint, for replicas that are a little behind.
    pub keep_entries: u64,
    /// Log entries after which the replicas compare digests of all their rows; 0 for never.
    pub digest_entries: u64,
    /// Bytes of the journal in one answer to a replica that is far behind.
    pub chunk_bytes: u32,
    /// How the rows are kept.
    pub rows: Options,
    /// How the log is kept.
    pub log: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            message_limit: Duration::from_secs(1),
            commit_limit: Duration::from_secs(10),
            checkpoint_bytes: 64 * 1024 * 1024,
            checkpoint_entries: 20_000,
            keep_entries: 2_000,
            digest_entries: 200_000,
            chunk_bytes: 1024 * 1024,
            rows: Options::default(),
            log: log_options(Options::default()),
        }
    }
}

/// Options of a ledger: everything lies in the log alone, and what was forgotten goes altogether.
pub(crate) fn log_options(options: Options) -> Options {
    Options {
        value_bytes_min: 1,
        retain_entries: Some(0),
        file_bytes: options.file_bytes.min(16 * 1024 * 1024),
        checkpoint_bytes: options.checkpoint_bytes.min(32 * 1024 * 1024),
        layer_bytes: options.layer_bytes.min(16 * 1024 * 1024),
        cache_bytes: options.cache_bytes.min(4 * 1024 * 1024),
        ..options
    }
}

/// Where a replica lies.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The rows: the directories of an embedded shard, also of one that was used alone before.
    pub rows: Vec<Mirror>,
    /// The newest member set of the rows' mirrors that any drive remembers.
    pub rows_expected: Option<MemberSet>,
    /// The log: other directories, on the same drives or not.
    pub log: Vec<Mirror>,
    /// The newest member set of the log's mirrors that any drive remembers.
    pub log_expected: Option<MemberSet>,
}
