//! Restore drills: what somebody would do who has keys, a kit and some nodes, and nobody to ask; done with a sample, once a day.
//!
//! 1. The kit comes from another node, as it would have to.
//! 2. Of the nodes only so many are read from that each segment just has enough pieces; who they are is chance.
//! 3. What comes of it is signed and kept in the catalog. One that is missing, or failed, is no secret: the store isn't green.
//! 4. Of an end-to-end volume only its owner can hold one; its client does, and says what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{DriveId, Kind, Kinded, NodeId, PieceId, VolumeId, Wall};
use bytes::Bytes;
use client::drives::{Holder, HolderWriter};
use client::guest::Drill;
use client::offline::{Offline, node_drive};
use crypt::PublicKey;
use env::BoxFuture;
use kit::{Object, Segment, State};
use namespace::catalog::{self, Severity};
use serde::Serialize;

use super::CATALOG;
use crate::error::Result;
use crate::node::Inner;
use crate::status::Health;

/// How often it is looked whether one is due.
const EVERY: Duration = Duration::from_secs(30);
/// Buckets of one drill, and objects of each, at the most.
const BUCKETS: usize = 4;
const OBJECTS: usize = 4;
/// Bytes that are read of one object at the most.
const BYTES_MAX: u64 = 8 << 20;
/// An object that isn't read after so long can't be.
const LIMIT: Duration = Duration::from_secs(120);
/// A drill that failed is repeated after so long.
const AGAIN: Duration = Duration::from_secs(600);
/// Without a drill for so many times what lies between two the store is yellow, and red after more.
const YELLOW: u32 = 3;
const RED: u32 = 14;
/// The row of the catalog.
const ROW: &str = "drill";
/// What its signature is bound to.
const CONTEXT: &str = "abide 2026 drill v1";

/// What came of the last drill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drilled {
    /// When it was.
    pub at: String,
    /// Seconds since.
    pub age_secs: u64,
    /// Objects that were read.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Objects, or buckets without a kit, that could not be.
    pub failed: u64,
}

/// What came of the last drill of an end-to-end volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnersDrill {
    /// Its bucket.
    pub bucket: String,
    /// What came of it.
    #[serde(flatten)]
    pub drill: Drilled,
}

/// The row of the catalog about an end-to-end volume.
fn owners_row(volume: VolumeId) -> String {
    format!("{ROW} {}", volume.0)
}

/// What a drill means for the store's health.
type Verdict = Option<(Health, String)>;

/// As it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    at: Wall,
    /// The store's age then, in seconds: what it is judged by.
    age: u64,
    objects: u64,
    bytes: u64,
    failed: u64,
}

impl Record {
    fn text(&self) -> String {
        format!("{} {} {} {} {}", self.at.0, self.age, self.objects, self.bytes, self.failed)
    }

    fn sign(&self, key: &crypt::SigningKey) -> String {
        format!("{} {}", self.text(), base::ids::hex(&key.sign_as(CONTEXT, self.text().as_bytes())))
    }

    /// Nothing if somebody without the store's keys wrote it.
    fn read(row: &[u8], key: &crypt::PublicKey) -> Option<Self> {
        let (text, signature) = std::str::from_utf8(row).ok()?.rsplit_once(' ')?;
        let signature: Vec<u8> = (0..signature.len() / 2)
            .map(|at| u8::from_str_radix(signature.get(at * 2..at * 2 + 2)?, 16).ok())
            .collect::<Option<_>>()?;
        let signature: [u8; crypt::SIGNATURE_BYTES] = signature.try_into().ok()?;
        if !key.verify_as(CONTEXT, text.as_bytes(), &signature) {
            return None;
        }
        let mut fields = text.split(' ').map(|field| field.parse::<u64>().ok());
        let mut next = || fields.next().flatten();
        Some(Self { at: Wall(next()?), age: next()?, objects: next()?, bytes: next()?, failed: next()? })
    }
}

/// Holds drills until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    while inner.pause(EVERY).await {
        if !inner.leads_volumes() || inner.cluster.get().is_none() {
            continue;
        }
        let done = async {
            if !inner.drill_is_due()? {
                return Ok(());
            }
            inner.drill().await
        };
        if let Some(Err(error)) = inner.unless_closing(done).await {
            tracing::info!(%error, "no restore drill can be held now: trying again");
        }
    }
}

impl Inner {
    fn last_drill(&self) -> Result<Option<Record>> {
        let key = self.owner_of(CATALOG);
        let row = self.look(|view| catalog::setting(view, ROW))?;
        Ok(row.and_then(|row| Record::read(&row, &key)))
    }

    fn drill_is_due(&self) -> Result<bool> {
        let now = self.age()?;
        let after = |last: &Record| {
            if last.failed > 0 { AGAIN.min(self.settings.drill_every) } else { self.settings.drill_every }
        };
        Ok(self.last_drill()?.is_none_or(|last| now.saturating_sub(Duration::from_secs(last.age)) >= after(&last)))
    }

    /// How the last drill went, and what it means for the store's health: nothing as long as there are no other nodes.
    pub(crate) fn drilled(&self) -> Result<(Option<Drilled>, Verdict)> {
        if self.cluster.get().is_none() {
            return Ok((None, None));
        }
        let (now, last) = (self.age()?, self.last_drill()?);
        // If none was ever held, one is about to be.
        let age = last.map_or(self.runs_for(), |last| now.saturating_sub(Duration::from_secs(last.age)));
        let days = age.as_secs() / 86_400;
        let every = self.settings.drill_every;
        let verdict = match last {
            Some(last) if last.failed > 0 => Some((
                Health::Red,
                format!("the last restore drill could not read {} of what it tried: see `abide events`", last.failed),
            )),
            _ if age > every * RED => Some((Health::Red, format!("no restore drill was held for {days} days"))),
            _ if age > every * YELLOW => Some((Health::Yellow, format!("no restore drill was held for {days} days"))),
            _ => None,
        };
        let shown = last.map(|last| Drilled {
            at: last.at.rfc3339(),
            age_secs: age.as_secs(),
            objects: last.objects,
            bytes: last.bytes,
            failed: last.failed,
        });
        Ok((shown, verdict))
    }

    /// What an end-to-end volume's owner says of a drill: nobody else can hold one.
    pub(crate) async fn note_owners_drill(&self, volume: VolumeId, report: &str) -> Result<()> {
        let row = format!("{} {report}", self.age()?.as_secs());
        let name = owners_row(volume);
        self.change(move |_| Ok((catalog::put_setting(&name, Some(row.as_bytes())), ()))).await
    }

    /// How the last drills of end-to-end volumes went, and what that means for the store's health. That an owner didn't come for long makes it yellow,
    /// not red: nothing failed.
    pub(crate) fn owners_drilled(&self) -> Result<(Vec<OwnersDrill>, Vec<Verdict>)> {
        let (now, mut shown, mut verdicts) = (self.age()?, Vec::new(), Vec::new());
        for (volume, bucket) in self.volumes_of_buckets()? {
            let Some(sealed) = self.look(|view| catalog::sealed_volume(view, volume))? else { continue };
            let Some(row) = self.look(|view| catalog::setting(view, &owners_row(volume)))? else { continue };
            let row = String::from_utf8_lossy(&row).into_owned();
            let Some((age, report)) = row.split_once(' ') else { continue };
            let keys = sealed.older.iter().map(|older| older.public).chain([sealed.public]);
            let mut read = keys.filter_map(|key| Drill::read(report, volume, &PublicKey(key)));
            let (Some(drill), Ok(age)) = (read.next(), age.parse()) else { continue };
            let age = now.saturating_sub(Duration::from_secs(age));
            if drill.failed > 0 {
                let why =
                    format!("the last restore drill of {bucket} by its owner could not read {} objects", drill.failed);
                verdicts.push(Some((Health::Red, why)));
            } else if age > self.settings.drill_every * YELLOW {
                let days = age.as_secs() / 86_400;
                let why = format!(
                    "no restore drill of {bucket} was held for {days} days: whoever has its keys holds one with any `abide ls {bucket}:/`"
                );
                verdicts.push(Some((Health::Yellow, why)));
            }
            let (at, age_secs) = (drill.at.rfc3339(), age.as_secs());
            let drill = Drilled { at, age_secs, objects: drill.objects, bytes: drill.bytes, failed: drill.failed };
            shown.push(OwnersDrill { bucket, drill });
        }
        Ok((shown, verdicts))
    }

    /// Holds a drill and keeps what came of it.
    async fn drill(&self) -> Result<()> {
        let mut record = Record { at: self.env.clock.wall(), age: self.age()?.as_secs(), ..Record::default() };
        let mut volumes = self.volumes_of_buckets()?;
        let mut names = Vec::new();
        for _ in 0..BUCKETS.min(volumes.len()) {
            let at = (u64::from_le_bytes(self.env.random()) % volumes.len() as u64) as usize;
            let (volume, name) = volumes.swap_remove(at);
            self.drill_volume(volume, &name, &mut record, &mut names).await;
        }
        for name in &names {
            self.tell(
                Severity::Error,
                "drill",
                name,
                "a restore drill could not read it by kit and pieces alone".into(),
            );
        }
        let signed = record.sign(&self.volume_root(CATALOG).signing_key());
        self.change(move |_| Ok((catalog::put_setting(ROW, Some(signed.as_bytes())), ()))).await
    }

    /// The volumes that have a bucket, with its name.
    pub(super) fn volumes_of_buckets(&self) -> Result<Vec<(VolumeId, String)>> {
        let buckets = self.look(|view| catalog::list_all_buckets(view, "", usize::from(u16::MAX)))?;
        Ok(buckets.into_iter().map(|bucket| (bucket.volume, bucket.name)).collect())
    }

    async fn drill_volume(&self, volume: VolumeId, name: &str, record: &mut Record, failed: &mut Vec<String>) {
        let Some(log) = self.newest_kit(volume, false).await else {
            // Nothing was written yet, or a moment ago.
            if self.newest_kit(volume, true).await.is_some() {
                record.failed += 1;
                failed.push(format!("{name} (no other node has its kit)"));
            }
            return;
        };
        let state = log.state();
        let all: Vec<(&str, &Object)> = state.list("").collect();
        for _ in 0..OBJECTS.min(all.len()) {
            let (path, object) = all[(u64::from_le_bytes(self.env.random()) % all.len() as u64) as usize];
            match self.drill_object(volume, state, path, object).await {
                Ok(bytes) => (record.objects, record.bytes) = (record.objects + 1, record.bytes + bytes),
                Err(why) => {
                    // It may have been deleted, and its pieces with it, since the kit was made.
                    if self.client.head(&self.bucket_of(volume), path, None, false).await.is_err() {
                        continue;
                    }
                    tracing::error!(bucket = name, path, why, "a restore drill can't read an object");
                    record.failed += 1;
                    failed.push(format!("{name}/{path}"));
                }
            }
        }
    }

    /// Bytes of the object that were read by chosen nodes alone.
    async fn drill_object(
        &self,
        volume: VolumeId,
        state: &State,
        path: &str,
        object: &Object,
    ) -> std::result::Result<u64, String> {
        let segments: Vec<&Segment> = object.body.segments().into_iter().map(|(segment, _)| segment).collect();
        let everybody: BTreeSet<NodeId> = state.nodes().keys().copied().collect();
        let few = self.few(state, &segments, &everybody);
        let start = if object.size <= BYTES_MAX {
            0
        } else {
            u64::from_le_bytes(self.env.random()) % (object.size - BYTES_MAX)
        };
        let range = start..object.size.min(start + BYTES_MAX);
        let mut last = String::new();
        // One of the few may have gone since it was chosen.
        for nodes in [few, everybody] {
            let offline = Offline::new(self.env.clone(), self.keys.clone());
            for (node, holder) in self.node_holders(&nodes) {
                offline.drives().set(node_drive(node), Arc::new(holder));
            }
            let read = async {
                let mut stream = offline.object(volume, state, path, object, range.clone())?;
                let mut bytes = 0;
                while let Some(part) = stream.next().await {
                    bytes += part?.len() as u64;
                }
                Ok::<_, client::Error>(bytes)
            };
            match self.env.timeout(LIMIT, read).await {
                Some(Ok(bytes)) if bytes == range.end - range.start => return Ok(bytes),
                Some(Ok(bytes)) => last = format!("{bytes} bytes came of {}", range.end - range.start),
                Some(Err(error)) => last = error.to_string(),
                None => last = "it took too long".into(),
            }
        }
        Err(last)
    }

    /// Nodes that suffice for the segments, chosen by chance.
    fn few(&self, state: &State, segments: &[&Segment], everybody: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut order: Vec<(u64, NodeId)> =
            everybody.iter().map(|node| (u64::from_le_bytes(self.env.random()), *node)).collect();
        order.sort_unstable();
        let order: Vec<NodeId> = order.into_iter().map(|(_, node)| node).collect();
        state.few(segments, &order, |drive| self.is_up(drive))
    }

    fn node_holders(&self, nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, OfNode> {
        let mut all: BTreeMap<NodeId, OfNode> = BTreeMap::new();
        for row in self.drive_rows().unwrap_or_default() {
            if let (Some(node), Some(holder)) = (row.node, self.drives.get(row.id))
                && nodes.contains(&node)
            {
                all.entry(node).or_default().0.push((row.id, holder));
            }
        }
        all
    }
}

/// A node as one holder: whichever of its drives has the piece.
#[derive(Default)]
struct OfNode(Vec<(DriveId, Arc<dyn Holder>)>);

type Done<T> = std::result::Result<T, client::Error>;

fn no<T: Send + 'static>(piece: PieceId, kind: Kind, text: &str) -> BoxFuture<'static, Done<T>> {
    let error = client::Error::Drive { piece, kind, text: text.to_owned() };
    Box::pin(std::future::ready(Err(error)))
}

const READ_ONLY: &str = "a drill writes nothing";

impl Holder for OfNode {
    fn put(&self, piece: PieceId, _: Bytes, _: Vec<Bytes>, _: u32) -> BoxFuture<'_, Done<()>> {
        no(piece, Kind::Denied, READ_ONLY)
    }

    fn create(&self, piece: PieceId, _: u32, _: u64) -> BoxFuture<'_, Done<Box<dyn HolderWriter>>> {
        no(piece, Kind::Denied, READ_ONLY)
    }

    fn read(&self, piece: PieceId, offset: u64, len: u64) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(async move {
            let mut last = no(piece, Kind::Missing, "the node has no drive").await;
            for (_, drive) in &self.0 {
                match drive.read(piece, offset, len).await {
                    Ok(bytes) => return Ok(bytes),
                    // What another drive says of a piece that isn't there is worth less than that it can't be read.
                    Err(error) if error.kind() == Kind::Missing => {}
                    Err(error) => last = Err(error),
                }
            }
            last
        })
    }

    fn header(&self, piece: PieceId) -> BoxFuture<'_, Done<Bytes>> {
        Box::pin(async move {
            let mut last = no(piece, Kind::Missing, "the node has no drive").await;
            for (_, drive) in &self.0 {
                match drive.header(piece).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => last = Err(error),
                }
            }
            last
        })
    }

    fn delete(&self, pieces: Vec<PieceId>) -> BoxFuture<'_, Done<()>> {
        pieces
            .first()
            .map_or_else(|| Box::pin(std::future::ready(Ok(()))) as _, |piece| no(*piece, Kind::Denied, READ_ONLY))
    }

    fn writable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use crypt::SigningKey;

    use super::*;

    #[test]
    fn what_came_of_a_drill_is_read_back_and_nobody_else_writes_it() {
        let key = SigningKey::from_seed(&[1; 32]);
        let record = Record { at: Wall(1_795_230_600_123), age: 86_400, objects: 16, bytes: 5, failed: 1 };
        let row = record.sign(&key);
        assert_eq!(Record::read(row.as_bytes(), &key.public()), Some(record));
        assert_eq!(Record::read(row.as_bytes(), &SigningKey::from_seed(&[2; 32]).public()), None);
        for wrong in
            [row.replacen("16", "17", 1), row[..row.len() - 1].to_owned(), String::new(), "1 2 3 4 5 zz".into()]
        {
            assert_eq!(Record::read(wrong.as_bytes(), &key.public()), None, "{wrong}");
        }
    }
}
