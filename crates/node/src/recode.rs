//! What was stored by a narrower or another code than new data is coded anew, so that older data survives what new
//! data does: when machines came, or a bucket got another policy.
//!
//! One node does it for all, whoever leads the first shard of volumes. A policy must have been the one of new data for a
//! while: machines that are away for an hour are no reason to write everything twice. Nothing is remembered: what isn't
//! coded by the policy of now is looked for again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{GroupId, Instant, PolicyId, SegmentId, VolumeId};
use namespace::catalog::Severity;
use namespace::read::{Entry, ListQuery};
use steward::Pace;

use crate::error::Result;
use crate::node::{Inner, PAGE};

/// How often it is looked whether something is coded by an older policy.
const EVERY: Duration = Duration::from_secs(30);
/// How long to rest at the usual pace, in times of what writing took: users come first.
const REST_TIMES: u32 = 2;

/// Since when each volume's new data is coded by which policy.
type Since = BTreeMap<VolumeId, (PolicyId, Instant)>;

/// Codes anew until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut since = Since::new();
    while inner.pause(EVERY.min(inner.settings.recode_after)).await {
        if !inner.leads_volumes() {
            since.clear();
            continue;
        }
        match inner.unless_closing(inner.code_anew(&mut since)).await {
            Some(Ok(())) | None => {}
            Some(Err(error)) => tracing::info!(%error, "older data can't be coded anew now: trying again"),
        }
    }
}

/// What a volume has of other policies.
#[derive(Default)]
struct Old {
    /// Packs to empty.
    packs: Vec<SegmentId>,
    /// Segments of objects.
    segments: usize,
}

impl Inner {
    async fn code_anew(&self, since: &mut Since) -> Result<()> {
        let now = self.env.clock.now();
        let volumes = self.volumes()?;
        since.retain(|volume, _| volumes.contains(volume));
        for volume in volumes {
            // What is missing comes first, and what is being moved: both may be gone by then.
            if self.pace()? == Pace::STILL || self.lacking().await? > 0 || !self.is_settled()? || !self.leads_volumes()
            {
                return Ok(());
            }
            // Only their owner can seal anew what an end-to-end volume holds.
            if self.is_sealed(volume)? {
                continue;
            }
            let Ok(policy) = self.client.policy_of(volume).await else { continue };
            let (known, at) = *since.entry(volume).or_insert((policy, now));
            if known != policy {
                since.insert(volume, (policy, now));
            }
            if known != policy || now.since(at) < self.settings.recode_after {
                continue;
            }
            let old = self.coded_otherwise(volume, policy).await?;
            let mut bytes = 0;
            for pack in &old.packs {
                bytes += self.resting(self.client.compact_pack(volume, *pack)).await?.bytes;
            }
            if old.segments > 0 {
                bytes += self.code_versions_anew(volume).await?;
            }
            if bytes > 0 {
                let text = format!("{bytes} bytes of older data were coded as new data is");
                self.tell(Severity::Info, "recode", &volume.0.to_string(), text);
            }
        }
        Ok(())
    }

    /// Whether nothing is on its way to another drive.
    fn is_settled(&self) -> Result<bool> {
        let tables = self.look(crate::groups::load)?;
        Ok(tables.iter().all(|(_, rows)| rows.iter().all(|row| row.moving().next().is_none())))
    }

    async fn coded_otherwise(&self, volume: VolumeId, policy: PolicyId) -> Result<Old> {
        let (mut old, mut after) = (Old::default(), None);
        loop {
            let page = self.scan(volume, move |view| namespace::read::segments(view, volume, after, PAGE)).await?;
            for found in page.iter().filter(|found| found.policy != policy) {
                if found.row.pack.is_some() {
                    old.packs.push(found.segment);
                } else {
                    old.segments += 1;
                }
            }
            match page.last() {
                // Rows are by policy: its own are passed over at once.
                Some(last) if last.policy == policy => {
                    after = Some((policy, GroupId(u32::MAX), SegmentId([0xff; 16])));
                }
                Some(last) if page.len() == PAGE => after = Some((last.policy, last.group, last.segment)),
                _ => return Ok(old),
            }
        }
    }

    async fn code_versions_anew(&self, volume: VolumeId) -> Result<u64> {
        let (bucket, mut bytes) = (self.bucket_of(volume), 0);
        let mut query = ListQuery { limit: PAGE, ..ListQuery::default() };
        loop {
            let page = self.client.list_versions(&bucket, &query).await?;
            for entry in page.entries {
                let Entry::Item(listed) = entry else { continue };
                if listed.version.marker {
                    continue;
                }
                let found = match self.client.head(&bucket, &listed.key, Some(listed.version.id), true).await {
                    Ok(found) => found.into_version(),
                    Err(error) if base::Kinded::kind(&error) == base::Kind::Missing => continue,
                    Err(error) => return Err(error.into()),
                };
                bytes += self.resting(self.client.recode(volume, &listed.key, &found)).await?;
                if !self.leads_volumes() {
                    return Ok(bytes);
                }
            }
            let Some(next) = page.next else { return Ok(bytes) };
            (query.after, query.after_version, query.after_upload) = (Some(next.after), next.version, next.upload);
        }
    }

    /// Does it, then rests as long as the pace says.
    async fn resting<T>(&self, work: impl Future<Output = std::result::Result<T, client::Error>>) -> Result<T> {
        let began = self.env.clock.now();
        let done = work.await?;
        let took = self.env.clock.now().since(began);
        let pace = u32::from(self.pace()?.percent()).max(1);
        let rest = took * REST_TIMES * u32::from(Pace::NORMAL.percent()) / pace;
        if pace < u32::from(Pace::BUSY.percent()) {
            self.env.clock.sleep(rest).await;
        }
        Ok(done)
    }
}
