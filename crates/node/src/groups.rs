//! Which drives hold the pieces of which segments: the table of placement groups follows the drives.
//!
//! One rule, [`table`], is evaluated on the catalog whenever drives come or go: the default code
//! follows the number of drives; a policy without groups gets some; positions of drives that are
//! lost, or being emptied, go to others; new drives get groups of their own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::kv::{Batch, View};
use base::{DriveId, GroupId, PolicyId};
use client::POLICY_SETTING;
use codec::Versioned;
use namespace::catalog::{self, DriveState, PolicyRow};
use placement::{Candidate, GROUPS_MAX, GroupRow};
use policy::Coding;

use crate::error::{Error, Result};
use crate::fleet::Mounted;
use crate::node::Inner;

/// The setting that fixes the code of new data, if it isn't to follow the number of drives.
const FIXED: &str = "fixed policy";

/// A code that so many drives can hold.
pub(crate) fn parse(text: &str, drives: usize) -> Result<Option<Coding>> {
    let coding = Coding::parse(text).map_err(|error| Error::Invalid(error.to_string()))?;
    if let Some(coding) = coding
        && coding.n() > drives
    {
        return Err(Error::Invalid(format!(
            "{coding} needs {} drives, and there are {drives}: name more folders, or a code for fewer; by default it would be {}",
            coding.n(),
            Coding::ladder(drives)
        )));
    }
    Ok(coding)
}

fn row_coding(row: &PolicyRow) -> Coding {
    Coding { k: row.coding.k, m: row.coding.m }
}

/// All policies with their groups.
pub(crate) fn load(view: &dyn View) -> std::result::Result<Vec<(PolicyRow, Vec<GroupRow>)>, namespace::Error> {
    let mut all = Vec::new();
    for policy in catalog::policies(view, None, usize::from(u16::MAX))? {
        let rows = catalog::groups(view, policy.id, None, GROUPS_MAX)?;
        let rows =
            rows.into_iter().map(|(_, bytes)| GroupRow::decode(&bytes)).collect::<std::result::Result<_, _>>()?;
        all.push((policy, rows));
    }
    Ok(all)
}

/// Adds the policy of this code if there is none; gives its name.
pub(crate) fn ensure_policy(
    view: &dyn View,
    coding: Coding,
    batch: &mut Batch,
) -> std::result::Result<PolicyRow, namespace::Error> {
    let rows = catalog::policies(view, None, usize::from(u16::MAX))?;
    if let Some(row) = rows.iter().find(|row| row_coding(row) == coding) {
        return Ok(row.clone());
    }
    let id = PolicyId(rows.iter().map(|row| row.id.0).max().unwrap_or(0) + 1);
    let row = PolicyRow {
        id,
        coding: catalog::Coding { k: coding.k, m: coding.m },
        ack: coding.ack() as u8,
        name: coding.to_string(),
    };
    batch.puts.extend(catalog::put_policy(&row).puts);
    Ok(row)
}

/// The default code as it should be now.
pub(crate) fn default_coding(view: &dyn View, active: usize) -> std::result::Result<Coding, namespace::Error> {
    let fixed = catalog::setting(view, FIXED)?.and_then(|text| String::from_utf8(text).ok());
    let fixed = fixed.and_then(|text| Coding::parse(&text).ok().flatten());
    // With too few drives left for it writes go on, with the code that fits.
    Ok(fixed.filter(|fixed| fixed.n() <= active).unwrap_or_else(|| Coding::ladder(active)))
}

/// What must change in the table, given which drives work just now.
fn table(view: &dyn View, up: &BTreeSet<DriveId>) -> std::result::Result<(Batch, bool), namespace::Error> {
    let drives = catalog::drives(view, None, usize::from(u16::MAX))?;
    let candidate = |row: &catalog::DriveRow| Candidate { drive: row.id, weight: (row.size >> 20).max(1) };
    let active: Vec<_> = drives.iter().filter(|row| row.state == DriveState::Active).collect();
    let all: Vec<Candidate> = active.iter().map(|row| candidate(row)).collect();
    let working: Vec<Candidate> = all.iter().filter(|one| up.contains(&one.drive)).copied().collect();
    let leaving: BTreeSet<DriveId> =
        drives.iter().filter(|row| row.state != DriveState::Active).map(|row| row.id).collect();
    let mut batch = Batch::default();
    let default = ensure_policy(view, default_coding(view, all.len())?, &mut batch)?;
    if catalog::setting(view, POLICY_SETTING)?.as_deref() != Some(default.name.as_bytes()) {
        batch.puts.extend(catalog::put_setting(POLICY_SETTING, Some(default.name.as_bytes())).puts);
    }
    let mut policies = load(view)?;
    if !policies.iter().any(|(row, _)| row.id == default.id) {
        policies.push((default, Vec::new()));
    }
    for (policy, rows) in policies {
        for row in changed(&policy, &rows, &leaving, (&all, &working)) {
            batch.puts.extend(catalog::put_group(policy.id, row.group, &row.encode()).puts);
        }
    }
    let changed = !batch.is_empty();
    Ok((batch, changed))
}

/// Rows of a policy that are new or change.
fn changed(
    policy: &PolicyRow,
    rows: &[GroupRow],
    leaving: &BTreeSet<DriveId>,
    (all, working): (&[Candidate], &[Candidate]),
) -> Vec<GroupRow> {
    let n = row_coding(policy).n();
    let mut now = rows.to_vec();
    for gone in leaving {
        for row in placement::replace(&now, *gone, working) {
            if let Some(old) = now.iter_mut().find(|old| old.group == row.group) {
                *old = row;
            }
        }
    }
    let named: BTreeSet<DriveId> = now.iter().flat_map(|row| row.members.iter().copied()).collect();
    let is_new = all.iter().any(|one| !named.contains(&one.drive));
    if (now.is_empty() || is_new) && all.len() >= n {
        let whole = placement::group_count(all.len(), n);
        // Room for drives to come is kept; a new drive gets its share from new groups.
        let more =
            whole.saturating_sub(now.len()).max(whole.div_ceil(all.len())).min(GROUPS_MAX - now.len().min(GROUPS_MAX));
        let first = now.iter().map(|row| row.group.0 + 1).max().unwrap_or(0);
        let added = placement::build(all, n, first, if now.is_empty() { whole } else { more }, &now);
        now.extend(added);
    }
    now.into_iter().filter(|row| !rows.contains(row)).collect()
}

impl Inner {
    /// Drives that take new pieces.
    fn with_room(&self) -> BTreeSet<DriveId> {
        let has_room = |drive: &&Arc<Mounted>| !drive.full.load(Ordering::Relaxed);
        self.fleet.up().iter().filter(has_room).map(|drive| drive.id).collect()
    }

    /// Makes the table follow the drives.
    pub async fn settle_groups(&self) -> Result<()> {
        let up = self.with_room();
        // Looked at first without taking a place in the journal's order: mostly nothing changes.
        if self.look(|view| table(view, &up))?.1 {
            self.change(move |view| table(view, &up)).await?;
            self.client.map_changed();
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Whether some group of the default policy has enough drives for a write.
    pub fn can_write(&self) -> Result<bool> {
        let up = self.with_room();
        self.look(|view| {
            let name = catalog::setting(view, POLICY_SETTING)?.unwrap_or_default();
            let policies = load(view)?;
            let default = policies.iter().find(|(policy, _)| policy.name.as_bytes() == name);
            Ok(default.is_some_and(|(policy, rows)| {
                let taking = |row: &GroupRow| row.members.iter().filter(|drive| up.contains(drive)).count();
                rows.iter().any(|row| taking(row) >= usize::from(policy.ack))
            }))
        })
    }

    /// Fixes how new data is coded; `None` lets it follow the number of drives again.
    pub async fn fix_policy(&self, coding: Option<Coding>) -> Result<()> {
        self.change(move |view| {
            let text = coding.map(|coding| coding.to_string());
            let same = catalog::setting(view, FIXED)? == text.as_ref().map(|text| text.as_bytes().to_vec());
            let batch =
                if same { Batch::default() } else { catalog::put_setting(FIXED, text.as_ref().map(String::as_bytes)) };
            Ok((batch, ()))
        })
        .await
    }

    /// Says that all pieces of a group are where its row says, if the row is still that one.
    pub async fn settle_group(&self, policy: PolicyId, row: &GroupRow) -> Result<()> {
        let seen = row.clone();
        self.change(move |view| {
            let now = catalog::group(view, policy, seen.group)?.map(|bytes| GroupRow::decode(&bytes)).transpose()?;
            let batch = match now {
                Some(mut now) if now == seen => {
                    now.settle();
                    catalog::put_group(policy, now.group, &now.encode())
                }
                _ => Batch::default(),
            };
            Ok((batch, ()))
        })
        .await?;
        self.client.map_changed();
        Ok(())
    }

    /// A group's row as the catalog has it.
    pub fn group(&self, policy: PolicyId, group: GroupId) -> Result<Option<GroupRow>> {
        let bytes = self.look(|view| catalog::group(view, policy, group))?;
        Ok(bytes.map(|bytes| GroupRow::decode(&bytes)).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(k: u8, m: u8) -> PolicyRow {
        PolicyRow { id: PolicyId(1), coding: catalog::Coding { k, m }, ack: k, name: String::new() }
    }

    fn drives(ids: std::ops::RangeInclusive<u8>) -> Vec<Candidate> {
        ids.map(|id| Candidate { drive: DriveId([id; 16]), weight: 1 }).collect()
    }

    #[test]
    fn a_lost_drive_leaves_every_group_that_another_drive_can_join() {
        let (six, five) = (drives(1..=6), drives(1..=5));
        let rows = changed(&policy(3, 2), &[], &BTreeSet::new(), (&six, &six));
        assert!(rows.len() >= 12);
        let gone = BTreeSet::from([DriveId([6; 16])]);
        let moved = changed(&policy(3, 2), &rows, &gone, (&five, &five));
        assert!(!moved.is_empty());
        for row in &moved {
            assert!(!row.members.contains(&DriveId([6; 16])) && row.moving().count() == 1);
        }
        let again = changed(&policy(3, 2), &moved, &gone, (&five, &five));
        assert!(again.is_empty(), "a settled table changes nothing");
    }

    #[test]
    fn a_new_drive_gets_groups_and_old_ones_stay() {
        let (six, seven) = (drives(1..=6), drives(1..=7));
        let rows = changed(&policy(3, 2), &[], &BTreeSet::new(), (&six, &six));
        let more = changed(&policy(3, 2), &rows, &BTreeSet::new(), (&seven, &seven));
        assert!(more.iter().any(|row| row.members.contains(&DriveId([7; 16]))));
        assert!(more.iter().all(|row| row.group.0 as usize >= rows.len()));
    }

    #[test]
    fn a_code_for_more_drives_than_there_are_is_refused_with_what_would_work() {
        let text = parse("4+2", 5).unwrap_err().to_string();
        assert!(text.contains("6 drives") && text.contains("2+2"), "{text}");
        assert_eq!(parse("default", 1).unwrap(), None);
    }
}
