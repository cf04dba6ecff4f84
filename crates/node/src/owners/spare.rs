//! What this node reads by when nobody leads a shard: the newest kit that it finds, its own copy or another node's.
//!
//! Each shard is asked now and then for the rows of nothing, as a user would ask; only an answer counts. So a leader
//! without its majority, and a node that is cut off from everybody, are noticed alike.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use base::{Instant, Kind, NodeId, VolumeId};
use client::Metadata as _;
use client::changes::Attributes;
use client::offline::reference;
use client::spare::{Rows, Spares};
use codec::Versioned;
use crypt::PublicKey;
use env::BoxFuture;
use futures_util::future::join_all;
use kit::ask::{Ask, Question, Told};
use kit::spread::{Label, newest_first};
use kit::{Body, Log, Object, State};
use metastore::remote::Wants;
use namespace::catalog::shard_of;
use namespace::kept::{Copied, Kept};
use namespace::{Span, Version, VersionId, Versioning};
use tokio::sync::watch;
use transport::{Call, Class};

use super::service::OWNERS;
use crate::fleet::lock;
use crate::node::{Inner, SYSTEM};

/// How often it is looked whether a shard is led.
const EVERY: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long other nodes may take to say which kits they have, and to send one.
const LABELS_MAX: Duration = Duration::from_secs(2);
const KIT_MAX: Duration = Duration::from_secs(20);
/// Bytes of a kit at the most.
const KIT_BYTES_MAX: u64 = 4 << 30;

/// Which shards are lost, since when.
type Lost = BTreeMap<u32, Instant>;

/// The copies that are read by.
pub(crate) struct Spare {
    node: Weak<Inner>,
    lost: watch::Sender<Lost>,
    rows: tokio::sync::Mutex<BTreeMap<VolumeId, Arc<Rows>>>,
    /// Up to when the copies go that were read by.
    at: Mutex<BTreeMap<VolumeId, base::Wall>>,
}

/// Looks after the shards until the node is closed.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let Some(after) = inner.settings.read_by_kit_after else { return };
    let spare = Arc::new(Spare {
        node: Arc::downgrade(&inner),
        lost: watch::Sender::new(Lost::new()),
        rows: tokio::sync::Mutex::default(),
        at: Mutex::default(),
    });
    inner.client.set_spares(spare.clone());
    let mut heard: BTreeMap<u32, Instant> = BTreeMap::new();
    while inner.pause(EVERY).await {
        let shards = inner.shards.all();
        let asked = join_all(shards.iter().map(|shard| {
            let inner = &inner;
            async move {
                let wants = Wants::default();
                let answer = inner.env.timeout(ANSWER_MAX, shard.cut(&wants, None)).await;
                (shard.number, answer.is_some_and(|answer| answer.is_ok()))
            }
        }))
        .await;
        let now = inner.env.clock.now();
        let mut lost = spare.lost.borrow().clone();
        for (shard, is_led) in asked {
            let last = heard.entry(shard).or_insert(now);
            if is_led {
                *last = now;
                if lost.remove(&shard).is_some() {
                    tracing::info!(shard, "somebody leads the shard again: reads and writes are as ever");
                    spare.forget(shard).await;
                }
            } else if now.since(*last) >= after && !lost.contains_key(&shard) {
                tracing::warn!(shard, "nobody leads the shard: reads go on by kits, writes are refused");
                lost.insert(shard, *last);
            }
        }
        spare.lost.send_if_modified(|known| {
            *known != lost && {
                *known = lost;
                true
            }
        });
    }
}

impl Spare {
    async fn forget(&self, shard: u32) {
        self.rows.lock().await.retain(|volume, _| shard_of(*volume) != shard);
        lock(&self.at).retain(|volume, _| shard_of(*volume) != shard);
    }

    async fn make(&self, volume: VolumeId) -> Result<Rows, client::Error> {
        let unreachable = |text: String| client::Error::Metadata { kind: Kind::Unreachable, text };
        let inner = self.node.upgrade().ok_or_else(|| unreachable("the node is being closed".into()))?;
        let Some(log) = inner.newest_kit(volume, true).await else {
            return Err(unreachable(
                "nobody leads this bucket's metadata now, and no node that answers has a copy of it: bring nodes back (`abide status`), or see `abide rescue`".into(),
            ));
        };
        let key = inner.keys.volume_key(volume);
        let build = move || rows_of(log.state(), volume, &key);
        let (rows, at) = inner.env.blocking(build).await??;
        lock(&self.at).insert(volume, at);
        Ok(Rows { rows, at })
    }
}

impl Spares for Spare {
    fn is_lost(&self, volume: VolumeId) -> bool {
        self.lost.borrow().contains_key(&shard_of(volume))
    }

    fn lost(&self, volume: VolumeId) -> BoxFuture<'_, ()> {
        let (shard, mut lost) = (shard_of(volume), self.lost.subscribe());
        Box::pin(async move {
            if lost.wait_for(|lost| lost.contains_key(&shard)).await.is_err() {
                // Its sender lives as long as this.
                std::future::pending().await
            }
        })
    }

    fn rows(&self, volume: VolumeId) -> BoxFuture<'_, Result<Arc<Rows>, client::Error>> {
        Box::pin(async move {
            // Made by one for all that wait.
            let mut all = self.rows.lock().await;
            if let Some(rows) = all.get(&volume) {
                return Ok(rows.clone());
            }
            let rows = Arc::new(self.make(volume).await?);
            all.insert(volume, rows.clone());
            Ok(rows)
        })
    }

    fn is_catalog_lost(&self) -> bool {
        self.lost.borrow().contains_key(&SYSTEM)
    }

    fn said(&self) -> Option<String> {
        let lost = self.lost.borrow().clone();
        let node = self.node.upgrade().filter(|_| !lost.is_empty())?;
        let now = node.env.clock.now();
        let longest = lost.values().map(|since| now.since(*since).as_secs()).max().unwrap_or(0);
        let shards: Vec<String> = lost.keys().map(u32::to_string).collect();
        let oldest = lock(&self.at).values().min().map(|at| format!(" of {}", at.rfc3339())).unwrap_or_default();
        Some(format!(
            "nobody leads metadata shard {} for {longest} s: reads go on by copies{oldest}, writes wait for the nodes that are away",
            shards.join(", ")
        ))
    }
}

impl Inner {
    /// The newest kit of a volume that can be had and opens; of other nodes alone, unless `with_own`.
    pub(super) async fn newest_kit(&self, volume: VolumeId, with_own: bool) -> Option<Log> {
        let (root, public) = (self.volume_root(volume), self.owner_of(volume));
        let own = if with_own { self.owners.shelves.labels(Some(public)).await } else { Vec::new() };
        let mut found: Vec<(Label, Option<NodeId>)> = own.into_iter().map(|label| (label, None)).collect();
        if let Some(cluster) = self.cluster.get() {
            let others = cluster.directory.nodes();
            let asked = others.iter().map(|node| async {
                let told = self.env.timeout(LABELS_MAX, self.ask_owners(*node, Ask::Kits)).await;
                (*node, told.and_then(Result::ok))
            });
            for (node, told) in join_all(asked).await {
                if let Some((Told::Kits(labels), _)) = told {
                    found.extend(labels.into_iter().filter(|label| label.volume == public).map(|l| (l, Some(node))));
                }
            }
        }
        let mut labels: Vec<Label> = found.iter().map(|(label, _)| *label).collect();
        newest_first(&mut labels);
        labels.dedup();
        for label in labels {
            for (_, node) in found.iter().filter(|(one, _)| *one == label) {
                let bytes = self.kit_bytes(public, label, *node).await;
                match bytes.as_deref().map(|bytes| Log::open(&root, bytes, None)) {
                    Some(Ok(opened)) => return Some(opened.log),
                    Some(Err(error)) => tracing::warn!(?node, %error, "a copy of a kit can't be read by"),
                    None => {}
                }
            }
        }
        None
    }

    async fn kit_bytes(&self, volume: PublicKey, label: Label, node: Option<NodeId>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < label.len.min(KIT_BYTES_MAX) {
            let from = bytes.len() as u64;
            let (found, part) = match node {
                None => self.owners.shelves.read(volume, from, kit::ask::BYTES_MAX).await.ok()??,
                Some(node) => match self.ask_owners(node, Ask::Kit(volume, from)).await.ok()? {
                    (Told::Kit(found), part) => (found, part),
                    _ => return None,
                },
            };
            if (found.log, found.generation) != (label.log, label.generation) || part.is_empty() {
                return None;
            }
            bytes.extend(part);
        }
        bytes.truncate(label.len as usize);
        Some(bytes)
    }

    /// Asks another node what owners ask.
    async fn ask_owners(&self, node: NodeId, ask: Ask) -> crate::Result<(Told, Vec<u8>)> {
        let cluster = self.cluster.get().ok_or_else(|| crate::Error::NotYet("there are no other nodes".into()))?;
        let question = Question { ticket: None, ask };
        let call = Call::new(OWNERS, Class::Bulk, question.encode()).with_timeout(KIT_MAX);
        let reply = cluster.endpoint.call(node, call).await?;
        let told = reply.decode()?;
        Ok((told, reply.body.collect(kit::ask::BYTES_MAX * 2).await?.to_vec()))
    }
}

type Made = (BTreeMap<Vec<u8>, Vec<u8>>, base::Wall);

/// The rows that a kit stands for.
fn rows_of(state: &State, volume: VolumeId, key: &crypt::VolumeKey) -> Result<Made, client::Error> {
    let mut all: Vec<(&str, &Object)> = state.everything().collect();
    all.sort_by_key(|(path, object)| (object.version, *path));
    let has_versions = all.iter().any(|(_, object)| !object.null);
    let mut copied = Copied::default();
    for (path, object) in all {
        let is_bare = object.attrs.is_empty();
        let Attributes { etag, attrs } =
            if is_bare { Attributes::default() } else { Attributes::decode(&object.attrs)? };
        let id = if object.null { VersionId::NULL } else { VersionId(object.version) };
        let (modified, marker, size) = (object.modified, object.marker, object.size);
        let version = Version { id, modified, marker, size, etag, attrs, body: body_of(&object.body, key) };
        copied.add(volume, path, &Kept { ord: object.version, null: object.null, version })?;
    }
    let versioning = if has_versions { Versioning::Enabled } else { Versioning::Off };
    Ok((copied.finish(volume, versioning)?, state.position().at))
}

fn body_of(body: &Body, key: &crypt::VolumeKey) -> namespace::Body {
    match body {
        Body::Inline(bytes) => namespace::Body::Inline(bytes.clone()),
        Body::Packed(segment, slot) => namespace::Body::Packed(reference(segment, 1 + slot.index, key), *slot),
        Body::Segments(segments) => {
            namespace::Body::Segments(segments.iter().map(|segment| reference(segment, 0, key)).collect())
        }
        Body::Spans(spans) => {
            let span = |span: &kit::Span| Span { size: span.size, body: body_of(&span.body, key) };
            namespace::Body::Spans(spans.iter().map(span).collect())
        }
    }
}
