//! Health that is earned: what is said to survive a loss was looked at not long ago.
//!
//! 1. A drive is proven by a scrub that read everything on it, from when that began; a new one from when it joined, since
//!    what is on it was synced before it was acknowledged.
//! 2. That each drive has the pieces that rows say it has is asked of all of them once a day.
//! 3. Proofs are rows of the catalog, dated by the store's own age: a restart forgets none, and no wrong calendar makes
//!    one old. Where one is too old the store isn't green.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{Domain, DriveId, PolicyId};
use namespace::catalog::{self, DriveRow, DriveState, Severity};
use serde::Serialize;

use crate::error::Result;
use crate::fleet::lock;
use crate::node::{Inner, PAGE};
use crate::pass::Ask;
use crate::supervise::start_census;

/// The row that says when all drives were last asked for what they should have.
const CHECKED: &str = "checked";
/// They are asked once in so long.
const CHECK_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Older than this it is no proof.
const CHECKED_MAX: Duration = Duration::from_secs(3 * 24 * 3600);
/// A scrub is no proof any more after so many times what one takes.
const SCRUBS_MAX: u32 = 2;

/// How often it is looked whether proofs are old, and what they say.
const EVERY: Duration = Duration::from_secs(20);

/// Keeps proofs young until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    while inner.pause(EVERY).await {
        if !inner.leads_volumes() {
            continue;
        }
        let done = async {
            inner.count_age().await?;
            inner.prove_new_drives().await?;
            inner.check_if_due().await?;
            inner.learn_safeties().await
        };
        if let Some(Err(error)) = inner.unless_closing(done).await {
            tracing::info!(%error, "what data survives couldn't be found out: trying again");
        }
    }
}

/// What the data of one policy survives, by its worst segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Safety {
    /// The policy.
    pub policy: String,
    /// Spare pieces of the worst segment; negative if one can't be read.
    pub spare: i64,
    /// By kind of domain that is told apart, how many of them may be lost, whichever they are.
    pub survives: BTreeMap<String, u64>,
}

/// How old the proofs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Seconds since all drives were asked for what they should have.
    pub checked_secs: u64,
    /// Seconds since the drive was read through that was so the longest ago.
    pub scrubbed_secs: u64,
}

fn scrubbed(drive: DriveId) -> String {
    format!("scrubbed {drive}")
}

fn age(row: Option<Vec<u8>>) -> Option<Duration> {
    Some(Duration::from_secs(std::str::from_utf8(&row?).ok()?.parse().ok()?))
}

impl Inner {
    /// The store's age when that was proven.
    fn proven(&self, row: &str) -> Result<Option<Duration>> {
        Ok(age(self.look(|view| catalog::setting(view, row))?))
    }

    async fn prove(&self, row: String, at: Duration) -> Result<()> {
        let text = at.as_secs().to_string();
        self.change(move |_| Ok((catalog::put_setting(&row, Some(text.as_bytes())), ()))).await
    }

    /// A scrub of the drive that began at this age of the store has read all of it.
    pub(crate) async fn was_scrubbed(&self, drive: DriveId, began: Duration) {
        if let Err(error) = self.prove(scrubbed(drive), began).await {
            tracing::info!(%drive, %error, "that a drive was read through couldn't be noted: the next round will");
        }
    }

    /// All drives were asked for what they should have, from this age of the store on.
    pub(crate) async fn was_checked(&self, began: Duration) -> Result<()> {
        self.prove(CHECKED.into(), began).await
    }

    /// What is on a drive that joins was synced a moment ago. Of what was taken out nothing is said any more.
    async fn prove_new_drives(&self) -> Result<()> {
        for drive in self.drive_rows()? {
            let (row, is_out) = (scrubbed(drive.id), drive.state == DriveState::Removed);
            match self.proven(&row)? {
                None if !is_out => self.prove(row, self.age()?).await?,
                Some(_) if is_out => self.change(|_| Ok((catalog::put_setting(&row, None), ()))).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks all drives for what they should have, if it is time. Who leads the volumes does it for all.
    pub(crate) async fn check_if_due(self: &Arc<Self>) -> Result<()> {
        let now = self.age()?;
        if self.proven(CHECKED)?.is_some_and(|at| now.saturating_sub(at) < CHECK_EVERY) {
            return Ok(());
        }
        let walked = self.walk(Ask::All).await?;
        let lacking: u64 = walked.iter().map(|walked| walked.lacking - walked.unasked).sum();
        if self.is_closing() {
            return Ok(());
        }
        self.was_checked(now).await?;
        // Those that are away are asked when they come back; those that only didn't answer, now.
        let away: BTreeSet<DriveId> = walked.into_iter().flat_map(|walked| walked.away).collect();
        away.into_iter().filter(|drive| self.is_up(*drive)).for_each(|drive| start_census(self, drive));
        if lacking > 0 {
            let text = format!("{lacking} pieces weren't where they should be: they are rebuilt");
            self.tell(Severity::Warning, "check", "", text);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// How old the proofs are, and what of it is too old.
    pub(crate) fn proof(&self, rows: &[DriveRow]) -> Result<(Proof, Vec<String>)> {
        let now = self.age()?;
        let here: Vec<&DriveRow> =
            rows.iter().filter(|row| matches!(row.state, DriveState::Active | DriveState::Draining)).collect();
        let (mut proof, mut stale) = (Proof::default(), Vec::new());
        for row in &here {
            // One that joined a moment ago isn't noted yet.
            let old = self.proven(&scrubbed(row.id))?.map_or(Duration::ZERO, |at| now.saturating_sub(at));
            proof.scrubbed_secs = proof.scrubbed_secs.max(old.as_secs());
            if old > self.settings.scrub_every * SCRUBS_MAX {
                let days = old.as_secs() / 86_400;
                stale.push(format!(
                    "drive {} was last read through {days} days ago: `abide scrub` does it now",
                    row.path
                ));
            }
        }
        // If they were never asked, they are about to be.
        let checked = self.proven(CHECKED)?.map_or(self.runs_for(), |at| now.saturating_sub(at));
        proof.checked_secs = checked.as_secs();
        if checked > CHECKED_MAX {
            let days = checked.as_secs() / 86_400;
            stale.push(format!("drives were last asked for what they should have {days} days ago"));
        }
        Ok((proof, stale))
    }

    /// What the data of each policy survives that holds some, or takes new data.
    pub(crate) async fn safeties(&self) -> Result<Vec<Safety>> {
        let mut map = self.map_of_data().await?;
        map.policies.retain(|policy| !policy.groups.is_empty());
        let down = self.down(&map);
        let noted = self.worst_noted().await?;
        let mut all = Vec::new();
        for policy in std::mem::take(&mut map.policies) {
            let (id, name, parity) = (policy.id, policy.name.clone(), i64::from(policy.m));
            map.policies = vec![policy];
            let survival = map.survives(&down);
            // Pieces that are missing though their drive is there: of the losses that are survived they are some.
            let lost = noted.get(&id).copied().unwrap_or(0);
            let spare = survival.spare().min(parity - lost as i64);
            let told = Domain::ALL.into_iter().filter(|domain| survival.losses[*domain as usize].is_some());
            let survives = told.map(|domain| {
                (domain.name().to_owned(), survival.of(domain).min(usize::try_from(spare).unwrap_or(0)) as u64)
            });
            all.push(Safety { policy: name, spare, survives: survives.collect() });
        }
        Ok(all)
    }

    /// By policy the most pieces that a segment lacks as noted.
    async fn worst_noted(&self) -> Result<BTreeMap<PolicyId, usize>> {
        let mut worst: BTreeMap<PolicyId, usize> = BTreeMap::new();
        for volume in self.volumes()? {
            let notes = self.scan(volume, move |view| namespace::read::missing(view, volume, None, PAGE)).await?;
            for found in notes.iter().filter(|found| found.row.is_some()) {
                let most = worst.entry(found.note.policy).or_default();
                *most = (*most).max(found.note.missing.len());
            }
        }
        Ok(worst)
    }

    /// What was found out last of what each policy's data survives: for monitoring.
    pub(crate) fn known_safeties(&self) -> Vec<Safety> {
        lock(&self.safeties).clone()
    }

    /// Finds it out again.
    pub(crate) async fn learn_safeties(&self) -> Result<()> {
        let all = self.safeties().await?;
        *lock(&self.safeties) = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
