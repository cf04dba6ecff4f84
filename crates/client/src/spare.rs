//! Going on to read when nobody leads a volume's metadata shard: by rows that somebody else knows, of a while ago.
//!
//! What is read so may be older than what was acknowledged, where those who know better can't be reached. So it is done only after
//! nobody was found for a while, it is said to whoever reads, and nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Kind, VolumeId, Wall};
use env::BoxFuture;
use futures_util::future::{Either, select};

use crate::Error;

/// What a writer is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A volume's rows, and of when.
#[derive(Debug)]
pub struct Rows {
    /// Them.
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// When the last change that they have was made.
    pub at: Wall,
}

/// Knows when shards are lost, and rows then.
pub trait Spares: Send + Sync {
    /// Whether nobody has led the volume's shard for so long that reads don't wait any more.
    fn is_lost(&self, volume: VolumeId) -> bool;
    /// Ready once it is.
    fn lost(&self, volume: VolumeId) -> BoxFuture<'_, ()>;
    /// The rows that are known.
    fn rows(&self, volume: VolumeId) -> BoxFuture<'_, Result<Arc<Rows>, Error>>;
    /// Whether nobody leads the catalog: then it is read as it is here.
    fn is_catalog_lost(&self) -> bool;
    /// For people: what is read without whoever leads it, since when; nothing if all is well.
    fn said(&self) -> Option<String>;
}

/// What came of reading.
pub(crate) enum Read<T> {
    /// Whoever leads answered.
    Led(T),
    /// Nobody leads.
    Lost,
}

/// Waits for `led`, unless the volume's shard is lost before.
pub(crate) async fn unless_lost<T>(
    spares: Option<&Arc<dyn Spares>>,
    volume: VolumeId,
    led: impl Future<Output = T>,
) -> Read<T> {
    let Some(spares) = spares else { return Read::Led(led.await) };
    match select(spares.lost(volume), std::pin::pin!(led)).await {
        Either::Left(_) => Read::Lost,
        Either::Right((done, _)) => Read::Led(done),
    }
}

/// Why nothing is written.
pub(crate) fn read_only() -> Error {
    let text = "nobody leads this bucket's metadata now, most of the nodes that keep it don't answer: reads go on by copies of it, writes wait until they are back (`abide status`)";
    Error::Metadata { kind: Kind::Busy { retry_after: RETRY_AFTER }, text: text.into() }
}
