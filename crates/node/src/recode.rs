//! What was stored by a narrower or another code than new data is coded anew, so that older data survives what new
//! data does: when machines came, or a bucket got another policy.
//!
//! One node does it for all, whoever leads the first shard of volumes. A policy must have been the one of new data for a
//! while: machines that are away for an hour are no reason to write everything twice. Nothing is remembered: what isn't
//! coded by the policy of now is looked for again; ever less often where nothing came of it.

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
/// After so many objects that fail, with none that didn't, a walk ends: something larger is wrong.
const FAILED_MAX: u64 = 64;
/// How long to rest at the usual pace, in times of what writing took: users come first.
const REST_TIMES: u32 = 2;

/// A volume of which nothing could be coded anew isn't walked again before this, twice as long each time.
const BACK_OFF: Duration = Duration::from_secs(60);
/// But no longer than this.
const BACK_OFF_MAX: Duration = Duration::from_secs(4 * 3600);

/// What is known of each volume.
type Since = BTreeMap<VolumeId, Seen>;

/// What is known of a volume.
#[derive(Clone, Copy)]
struct Seen {
    /// How its new data is coded …
    policy: PolicyId,
    /// … and since when.
    since: Instant,
    /// Not walked before this.
    due: Instant,
    /// How long it was waited the last time.
    wait: Duration,
}

impl Seen {
    fn new(policy: PolicyId, now: Instant) -> Self {
        Self { policy, since: now, due: now, wait: Duration::ZERO }
    }

    /// After a walk at `now`.
    fn walked(&mut self, now: Instant, wrote: bool) {
        self.wait = if wrote { Duration::ZERO } else { (self.wait * 2).clamp(BACK_OFF, BACK_OFF_MAX) };
        self.due = now + self.wait;
    }
}

/// What a walk came to.
#[derive(Clone, Copy, Default)]
struct Walked {
    /// Bytes that were written anew.
    bytes: u64,
    /// Objects and packs that couldn't be.
    failed: u64,
}

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

impl Walked {
    /// One that couldn't be coded anew. Keys are not for logs.
    fn fail(&mut self, volume: VolumeId, what: &str, error: &crate::Error) {
        tracing::info!(volume = volume.0, what, %error, "older data can't be coded as new data is");
        self.failed += 1;
    }
}

impl Inner {
    async fn code_anew(&self, since: &mut Since) -> Result<()> {
        let now = self.env.clock.now();
        let volumes = self.volumes()?;
        since.retain(|volume, _| volumes.contains(volume));
        for volume in volumes {
            // What is missing comes first, and what is being moved: both may be gone by then. And both codes take room
            // until the older one's is given back: users' writes need it more.
            let is_busy = self.pace()? == Pace::STILL || self.lacking().await?.any() || !self.is_settled()?;
            if is_busy || !self.leads_volumes() || !self.all_have_room()? {
                return Ok(());
            }
            // Only their owner can seal anew what an end-to-end volume holds.
            if self.is_sealed(volume)? {
                continue;
            }
            let Ok(policy) = self.client.policy_of(volume).await else { continue };
            let seen = since.entry(volume).or_insert(Seen::new(policy, now));
            if seen.policy != policy {
                *seen = Seen::new(policy, now);
            }
            if now.since(seen.since) < self.settings.recode_after || now < seen.due {
                continue;
            }
            let old = self.coded_otherwise(volume, policy).await?;
            if old.packs.is_empty() && old.segments == 0 {
                continue;
            }
            let mut walked = Walked::default();
            for pack in &old.packs {
                match self.resting(self.client.compact_pack(volume, *pack)).await {
                    Ok(done) => walked.bytes += done.bytes,
                    Err(error) => walked.fail(volume, &pack.to_string(), &error),
                }
            }
            if old.segments > 0 {
                self.code_versions_anew(volume, &mut walked).await?;
            }
            seen.walked(self.env.clock.now(), walked.bytes > 0);
            self.tell_walked(volume, walked, seen.wait);
        }
        Ok(())
    }

    fn tell_walked(&self, volume: VolumeId, Walked { bytes, failed }: Walked, wait: Duration) {
        if bytes > 0 {
            let text = format!("{bytes} bytes of older data were coded as new data is");
            self.tell(Severity::Info, "recode", &volume.0.to_string(), text);
        }
        // Said once, not each time.
        if failed > 0 && wait <= BACK_OFF {
            let text =
                format!("{failed} objects or packs couldn't be coded as new data is: they stay as they are for now");
            self.tell(Severity::Warning, "recode", &volume.0.to_string(), text);
        }
    }

    /// Whether all drives that answer take new data.
    fn all_have_room(&self) -> Result<bool> {
        Ok(self.with_room() == self.up() && self.can_write()?)
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

    async fn code_versions_anew(&self, volume: VolumeId, walked: &mut Walked) -> Result<()> {
        let bucket = self.bucket_of(volume);
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
                // One object that can't be read must not keep all others from what new data survives.
                match self.resting(self.client.recode(volume, &listed.key, &found)).await {
                    Ok(bytes) => walked.bytes += bytes,
                    Err(error) => walked.fail(volume, &format!("{:x}", listed.version.id.0), &error),
                }
                let is_enough = walked.failed >= FAILED_MAX && walked.bytes == 0;
                if is_enough || !self.leads_volumes() || self.is_closing() || !self.all_have_room()? {
                    return Ok(());
                }
            }
            let Some(next) = page.next else { return Ok(()) };
            (query.after, query.after_version, query.after_upload) = (Some(next.after), next.version, next.upload);
        }
    }

    /// Does it, then rests as long as the pace says, also if it failed.
    async fn resting<T>(&self, work: impl Future<Output = std::result::Result<T, client::Error>>) -> Result<T> {
        let began = self.env.clock.now();
        let done = work.await;
        let took = self.env.clock.now().since(began);
        let pace = u32::from(self.pace()?.percent()).max(1);
        let rest = took * REST_TIMES * u32::from(Pace::NORMAL.percent()) / pace;
        if pace < u32::from(Pace::BUSY.percent()) {
            self.env.clock.sleep(rest).await;
        }
        Ok(done?)
    }
}
