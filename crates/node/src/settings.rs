//! What a node is asked to be.

use std::path::PathBuf;
use std::time::Duration;

use crate::Node;

/// How a node is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The drives' folders, absolute.
    pub drives: Vec<PathBuf>,
    /// Where the key file goes if nobody says otherwise.
    pub home: PathBuf,
    /// The root key's file, if it isn't where it is by default.
    pub key_file: Option<PathBuf>,
    /// The 24 words, to restore a key file.
    pub words: Option<String>,
    /// How new data is coded, if not by the number of drives.
    pub policy: Option<String>,
    /// How long a drive may be away before its pieces are rebuilt elsewhere.
    pub repair_after: Duration,
    /// How long freed segments stay: reads that began before must end.
    pub garbage_after: Duration,
    /// Every piece is read and checked once in so long.
    pub scrub_every: Duration,
    /// How drives are looked at, at most so often.
    pub look_every: Duration,
    /// How each drive keeps its pieces.
    pub pieces: piecestore::Options,
    /// How the metadata is kept.
    pub metadata: metastore::Options,
}

impl Settings {
    /// The defaults for these folders.
    pub fn new(drives: Vec<PathBuf>, home: PathBuf) -> Self {
        Self {
            drives,
            home,
            key_file: None,
            words: None,
            policy: None,
            repair_after: Duration::from_secs(600),
            garbage_after: Duration::from_secs(900),
            scrub_every: Duration::from_secs(30 * 24 * 3600),
            look_every: Duration::from_millis(500),
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
