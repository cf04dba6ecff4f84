//! Pieces that are missing are rebuilt without being asked.
//!
//! What is missing is known from four sources: notes in the metadata (degraded writes, and what was
//! found before a restart), groups whose pieces are moving to other drives, what readers and
//! scrubbing find damaged, and walks over the drives. The steward says in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{DriveId, GroupId, Instant, NodeId, PolicyId, SegmentId, VolumeId};
use client::{Bucket, Fault, Finding, Rebuilt};
use namespace::Command;
use namespace::catalog::{self, DriveState, NodeState, Severity};
use steward::{Class, Dial, Limits, Need, Pace, Progress, Steward, Target};

use crate::error::Result;
use crate::fleet::lock;
use crate::groups;
use crate::node::{Inner, PAGE};
use crate::pass::{self, Ask, Wanted};

/// What all work may take of one node when the dial is at its end: usually it stands in the middle.
const LIMITS: Limits = Limits { in_flight: 8, bytes_per_s: 512 << 20 };
/// Segments at once for each node more.
const MORE_IN_FLIGHT: usize = 2;
/// Nodes that count.
const HANDS_MAX: usize = 32;
/// The setting of the store that says where the dial stands.
pub(crate) const PACE: &str = "pace";
/// Notes are looked through this often, if nothing says that there are new ones.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// A group is settled no sooner than this after it began to move: writes that began before may
/// still go to the old drives.
const SETTLE_AFTER: Duration = Duration::from_secs(10);
/// A group that was settled is asked once more after this long, for what was committed meanwhile by
/// those who had seen it before.
const RECHECK_AFTER: Duration = Duration::from_secs(10);
/// How long the healer rests when there is nothing to do.
const REST: Duration = Duration::from_secs(1);

/// What the healer knows.
pub(crate) struct Heal {
    pub steward: Steward,
    looked: Option<Instant>,
    /// When a group was first seen moving, by its row's version.
    moving_since: BTreeMap<(PolicyId, GroupId, u32), Instant>,
    /// Groups that were settled, what moved in them, and when to ask once more.
    settled: VecDeque<(Instant, PolicyId, GroupId, Vec<u8>)>,
    /// Pieces rebuilt since the last time that nothing was left: for the event at the end.
    told: u64,
    /// Bytes of pieces that were read to rebuild others, since the start.
    pub read_bytes: u64,
    /// What was done while this node decided before, and another one in between.
    before: Progress,
    /// Bytes rebuilt lately, for the time that is left.
    pub rate: Rate,
}

/// Bytes per second over the last minute or so.
#[derive(Default)]
pub(crate) struct Rate {
    began: Option<(Instant, u64)>,
    last: Option<(Instant, u64)>,
}

impl Rate {
    fn note(&mut self, now: Instant, done: u64) {
        if self.began.is_none_or(|(at, _)| now.since(at) > Duration::from_secs(60)) {
            self.began = self.last.or(Some((now, done)));
        }
        self.last = Some((now, done));
    }

    /// Seconds that so many bytes take; `None` if nobody knows yet.
    pub fn eta(&self, bytes: u64) -> Option<u64> {
        let ((began, from), (last, to)) = (self.began?, self.last?);
        let (millis, done) = (last.since(began).as_millis() as u64, to.saturating_sub(from));
        (done > 0 && millis > 0).then(|| (u128::from(bytes) * u128::from(millis) / u128::from(done) / 1000) as u64)
    }
}

impl Heal {
    pub fn new() -> Self {
        Self {
            steward: Steward::with_dial(Dial::new(LIMITS)),
            looked: None,
            moving_since: BTreeMap::new(),
            settled: VecDeque::new(),
            told: 0,
            read_bytes: 0,
            before: Progress::default(),
            rate: Rate::default(),
        }
    }

    /// Another node repairs from now on: what this one meant to do is that one's affair.
    fn rest(&mut self) {
        if self.looked.is_some() || self.steward.progress().pieces > 0 {
            let before = Progress { pieces: 0, bytes: 0, ..self.progress() };
            *self = Self { read_bytes: self.read_bytes, before, ..Self::new() };
        }
    }

    /// What is left, and what was done since the start.
    pub fn progress(&self) -> Progress {
        let (now, before) = (self.steward.progress(), &self.before);
        Progress {
            done_pieces: now.done_pieces + before.done_pieces,
            done_bytes: now.done_bytes + before.done_bytes,
            failures: now.failures + before.failures,
            ..now
        }
    }
}

/// Looks for what is missing, and repairs it.
pub(crate) async fn heal(inner: Arc<Inner>) {
    while !inner.is_closing() {
        // One node decides for all: who leads the first shard of volumes.
        if !inner.leads_volumes() {
            lock(&inner.heal).rest();
            inner.env.timeout(REST, inner.wake.notified()).await;
            continue;
        }
        if let Err(error) = inner.look_for_needs().await {
            tracing::warn!(%error, "failed to look for missing pieces: trying again");
        }
        let mut begun = false;
        loop {
            let now = inner.env.clock.now();
            let Some(need) = lock(&inner.heal).steward.next(now) else { break };
            begun = true;
            let healer = inner.clone();
            inner.run("repair", async move { healer.repair(need).await });
        }
        if !begun {
            inner.env.timeout(REST, inner.wake.notified()).await;
        }
    }
}

/// Takes what readers find.
pub(crate) async fn take_findings(inner: Arc<Inner>) {
    let Some(mut findings) = inner.client.findings() else { return };
    while !inner.is_closing() {
        let Some(found) = inner.env.timeout(REST, findings.recv()).await else { continue };
        let Some(finding) = found else { return };
        if let Err(error) = inner.found(finding).await {
            tracing::warn!(%error, "failed to note a damaged piece: scrubbing finds it again");
        }
    }
}

/// Whose a segment is.
pub(crate) enum Home {
    /// Data in use.
    Group(VolumeId, PolicyId, GroupId),
    /// Freed: its pieces go soon.
    Garbage,
    /// Nobody's.
    None,
}

impl Inner {
    /// Tells the steward.
    pub fn need(&self, need: Need) {
        lock(&self.heal).steward.need(need);
    }

    /// Tells the steward of pieces that aren't missing yet.
    pub fn need_for(&self, class: Class, need: Need) {
        lock(&self.heal).steward.need_for(class, need);
    }

    /// Where the dial between idle and busy stands.
    pub fn pace(&self) -> Result<Pace> {
        let text = self.look(|view| catalog::setting(view, PACE))?;
        let text = text.and_then(|text| String::from_utf8(text).ok());
        Ok(text.and_then(|text| Pace::parse(&text)).unwrap_or(Pace::NORMAL))
    }

    /// Drives whose pieces go elsewhere for good.
    pub fn leaving(&self) -> Result<BTreeSet<DriveId>> {
        let nodes = self.look(|view| catalog::nodes(view, None, usize::from(u16::MAX)))?;
        let stays = |id: NodeId| nodes.iter().any(|node| node.id == id && node.state == NodeState::Active);
        let leaves = |row: &catalog::DriveRow| row.state != DriveState::Active || !row.node.is_none_or(stays);
        Ok(self.drive_rows()?.into_iter().filter(leaves).map(|row| row.id).collect())
    }

    /// Something changed for the better: what failed is tried again.
    pub fn retry_repairs(&self) {
        let mut heal = lock(&self.heal);
        heal.steward.retry();
        heal.looked = None;
        drop(heal);
        self.wake.notify_one();
    }

    async fn look_for_needs(self: &Arc<Self>) -> Result<()> {
        let now = self.env.clock.now();
        let (pace, more) = (self.pace()?, self.hands().min(HANDS_MAX) - 1);
        {
            let mut heal = lock(&self.heal);
            heal.steward.set_pace(pace);
            heal.steward.set_limits(Limits {
                in_flight: LIMITS.in_flight + MORE_IN_FLIGHT * more,
                bytes_per_s: LIMITS.bytes_per_s * (more as u64 + 1),
            });
        }
        let is_moving = self
            .look(crate::groups::load)?
            .iter()
            .any(|(_, rows)| rows.iter().any(|row| row.moving().next().is_some()));
        let due = {
            let mut heal = lock(&self.heal);
            let idle = heal.steward.progress().pieces == 0;
            // While groups move their walks are what there is to do; they are made one after the
            // other, as soon as what the last one found is done.
            let due = heal.looked.is_none_or(|at| now.since(at) >= if is_moving && idle { REST } else { LOOK_EVERY });
            if due {
                heal.looked = Some(now);
            }
            due
        };
        if !due {
            return Ok(());
        }
        for volume in self.volumes()? {
            self.look_at_notes(volume).await?;
        }
        if is_moving {
            self.look_at_moving().await?;
        }
        self.recheck().await?;
        self.tell_end();
        Ok(())
    }

    /// Feeds the notes of a volume; drops those of segments that are gone.
    async fn look_at_notes(&self, volume: VolumeId) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.scan(volume, move |view| namespace::read::missing(view, volume, after, PAGE)).await?;
            after = page.last().map(|found| found.segment);
            let full = page.len() == PAGE;
            for found in page {
                let note = found.note;
                let target = Target { volume, policy: note.policy, group: note.group, segment: found.segment };
                match found.row {
                    Some(row) => self.need(pass::need(target, &row, note.missing)),
                    None if self.is_fresh(found.segment).await => {}
                    None => self.note(target, |_| BTreeSet::new()).await?,
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Changes the note about a segment's missing pieces.
    pub async fn note(
        &self,
        target: Target,
        change: impl Fn(BTreeSet<u8>) -> BTreeSet<u8> + Send + Sync,
    ) -> Result<()> {
        let now = self.env.clock.wall();
        let Target { volume, policy, group, segment } = target;
        let rule = |view: &dyn base::kv::View| {
            let before = u128::from_be_bytes(segment.0).checked_sub(1).map(|id| SegmentId(id.to_be_bytes()));
            let known = namespace::read::missing(view, volume, before, 1)?.pop();
            let known = known.filter(|known| known.segment == segment);
            let old: BTreeSet<u8> = known.iter().flat_map(|known| known.note.missing.iter().copied()).collect();
            let new = change(old.clone());
            // A note of a segment that was freed meanwhile would stay for ever.
            let gone = namespace::read::segment(view, volume, policy, group, segment)?.is_none();
            let new = if gone { BTreeSet::new() } else { new };
            if new == old {
                return Ok(Default::default());
            }
            let missing = new.into_iter().collect();
            let command = Command::NoteMissing { segment, policy, group, missing };
            Ok((namespace::apply(view, volume, &command, now)?.0, ()))
        };
        self.shard(volume).execute(rule).await?;
        Ok(())
    }

    /// Walks the groups that are moving; those whose pieces have all arrived are settled.
    async fn look_at_moving(self: &Arc<Self>) -> Result<()> {
        let began = self.env.clock.now();
        for walked in self.walk(Ask::Moving).await? {
            let key = (walked.policy, walked.row.group, walked.row.version);
            let since = *lock(&self.heal).moving_since.entry(key).or_insert(began);
            if walked.lacking == 0 && began.since(since) >= SETTLE_AFTER && !self.is_closing() {
                self.settle_group(walked.policy, &walked.row).await?;
                let moved = walked.row.moving().map(|index| index as u8).collect();
                let due = self.env.clock.now() + RECHECK_AFTER;
                let mut heal = lock(&self.heal);
                heal.moving_since.remove(&key);
                heal.settled.push_back((due, walked.policy, walked.row.group, moved));
            }
        }
        Ok(())
    }

    /// Asks groups that were settled a while ago once more.
    async fn recheck(self: &Arc<Self>) -> Result<()> {
        let now = self.env.clock.now();
        let due: Vec<_> = lock(&self.heal).settled.iter().take_while(|(at, ..)| *at <= now).cloned().collect();
        let mut wanted = Wanted::new();
        for (_, policy, group, moved) in &due {
            let Some(row) = self.group(*policy, *group)? else { continue };
            wanted.entry((*policy, *group)).or_insert_with(|| (row, BTreeSet::new())).1.extend(moved);
        }
        let mut walked = Vec::new();
        if !wanted.is_empty() {
            walked = self.walk_over(wanted).await?;
        }
        let unasked = walked.into_iter().filter(|walked| walked.unasked > 0);
        let again: BTreeSet<_> = unasked.map(|walked| (walked.policy, walked.row.group)).collect();
        // Only now: what couldn't be asked is asked again. Nobody else takes from the front.
        let mut heal = lock(&self.heal);
        let done = due.len().min(heal.settled.len());
        heal.settled.drain(..done);
        let due = due.into_iter().filter(|(_, policy, group, _)| again.contains(&(*policy, *group)));
        heal.settled.extend(due.map(|(_, policy, group, moved)| (now + RECHECK_AFTER, policy, group, moved)));
        Ok(())
    }

    /// Says so once everything that was missing is rebuilt.
    fn tell_end(&self) {
        let text = {
            let mut heal = lock(&self.heal);
            let progress = heal.steward.progress();
            if progress.pieces > 0 || progress.done_pieces == heal.told {
                return;
            }
            let pieces = progress.done_pieces - heal.told;
            heal.told = progress.done_pieces;
            format!("{pieces} pieces were rebuilt; nothing is left to repair")
        };
        self.tell(Severity::Info, "repair", "", text);
    }

    /// Something that a reader or a scrub found.
    pub async fn found(&self, finding: Finding) -> Result<()> {
        if finding.fault == Fault::Failed {
            // The drive's own trouble: it is looked at anyway.
            return Ok(());
        }
        let Finding { volume, policy, group, piece, .. } = finding;
        let target = Target { volume, policy, group, segment: piece.segment };
        let row =
            self.scan(volume, move |view| namespace::read::segment(view, volume, policy, group, piece.segment)).await?;
        let Some(row) = row else { return Ok(()) };
        if let (Some(drive), Fault::Damaged) = (finding.drive, finding.fault) {
            let text =
                format!("piece {piece} on drive {} is damaged: it is rebuilt from the others", self.name_of(drive));
            self.tell(Severity::Warning, "drive", &drive.to_string(), text);
        }
        // Noted first: a restart must not forget it.
        self.note(target, |mut missing| {
            missing.insert(piece.index);
            missing
        })
        .await?;
        self.need(pass::need(target, &row, [piece.index]));
        self.wake.notify_one();
        Ok(())
    }

    async fn repair(self: &Arc<Self>, need: Need) {
        let target = need.target;
        let done = self.rebuild(&need).await;
        let now = self.env.clock.now();
        {
            let mut heal = lock(&self.heal);
            match done {
                Ok(Some((pieces, bytes))) => {
                    if !pieces.is_empty() {
                        heal.steward.done(target, &pieces, bytes);
                    }
                    if pieces.len() < need.missing.len() {
                        // No drive to go to, or damage on the way: not before something changed.
                        heal.steward.failed(target, now);
                    }
                    let done = heal.steward.progress().done_bytes;
                    heal.rate.note(now, done);
                }
                Ok(None) => heal.steward.forget(target),
                Err(error) => {
                    tracing::info!(segment = %target.segment, %error, "a repair failed: it is tried again later");
                    heal.steward.failed(target, now);
                }
            }
        }
        self.wake.notify_one();
    }

    /// Counts what a rebuild read on this node.
    pub fn has_read(&self, rebuilt: &Rebuilt) {
        lock(&self.heal).read_bytes += rebuilt.read;
    }

    /// Rebuilds what has a drive to go to; `None` if the segment is gone.
    async fn rebuild(&self, need: &Need) -> Result<Option<(Vec<u8>, u64)>> {
        let Target { volume, policy, group, segment } = need.target;
        let found =
            self.scan(volume, move |view| namespace::read::segment(view, volume, policy, group, segment)).await?;
        let Some(row) = self.group(policy, group)?.filter(|_| found.is_some()) else { return Ok(None) };
        let has_home = |index: &&u8| row.members.get(usize::from(**index)).is_some_and(|drive| self.is_up(*drive));
        let missing: Vec<u8> = need.missing.iter().filter(has_home).copied().collect();
        if missing.is_empty() {
            return Ok(Some((Vec::new(), 0)));
        }
        let rebuilt = self.rebuild_somewhere(need.target, &row, &missing).await?;
        let done: BTreeSet<u8> = rebuilt.pieces.iter().copied().collect();
        self.note(need.target, |mut noted| {
            noted.extend(&rebuilt.damaged);
            noted.retain(|index| !done.contains(index));
            noted
        })
        .await?;
        if let (false, Some(found)) = (rebuilt.damaged.is_empty(), &found) {
            self.need(pass::need(need.target, found, rebuilt.damaged));
        }
        Ok(Some((rebuilt.pieces, rebuilt.bytes)))
    }

    /// Where the rows say that a segment is: for pieces that a scrub found damaged, whose own header
    /// may be what rotted. Looks into every group.
    pub async fn home_of(&self, segment: SegmentId) -> Result<Home> {
        let volumes = self.volumes()?;
        let groups: Vec<(PolicyId, GroupId)> = self
            .look(groups::load)?
            .into_iter()
            .flat_map(|(policy, rows)| rows.into_iter().map(move |row| (policy.id, row.group)))
            .collect();
        let homes = self.scan_all(volumes, move |view, volumes| {
            for volume in volumes.iter().copied() {
                for (policy, group) in &groups {
                    if namespace::read::segment(view, volume, *policy, *group, segment)?.is_some() {
                        return Ok(Home::Group(volume, *policy, *group));
                    }
                }
                if namespace::read::is_garbage(view, volume, segment)? {
                    return Ok(Home::Garbage);
                }
            }
            Ok(Home::None)
        });
        Ok(homes.await?.into_iter().find(|home| !matches!(home, Home::None)).unwrap_or(Home::None))
    }

    /// A bucket's handle for work on its volume.
    pub fn bucket_of(&self, volume: VolumeId) -> Bucket {
        Bucket::of_volume(volume)
    }
}

#[cfg(test)]
mod tests {
    use base::SegmentId;

    use super::*;

    #[test]
    fn what_was_done_stays_counted_when_another_node_decides() {
        let mut heal = Heal::new();
        let target =
            Target { volume: VolumeId(1), policy: PolicyId(1), group: GroupId(0), segment: SegmentId([1; 16]) };
        for turn in 1..4 {
            heal.steward.need(Need { target, missing: [0, 3].into(), parity: 2, piece_bytes: 10 });
            assert!(heal.steward.next(Instant(0)).is_some());
            heal.steward.done(target, &[0], 10);
            heal.steward.failed(target, Instant(0));
            heal.rest();
            let Progress { pieces, done_pieces, done_bytes, failures, .. } = heal.progress();
            assert_eq!((pieces, done_pieces, done_bytes, failures), (0, turn, 10 * turn, turn));
        }
    }
}
