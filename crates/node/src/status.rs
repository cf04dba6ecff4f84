//! How the store is: one sentence, the reasons, the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{DriveId, GroupId, PolicyId, VolumeId};
use namespace::catalog::{self, DriveRow, DriveState, PolicyRow};
use namespace::undo::UndoHead;
use placement::GroupRow;
use policy::Rule;
use serde::Serialize;

use crate::access::shown;
use crate::cluster::plan::plan;
use crate::cluster::shard::MetaShard;
use crate::cluster::{NodeShown, Summary};
use crate::error::Result;
use crate::fleet::lock;
use crate::groups;
use crate::node::{Inner, Node, SYSTEM};
use crate::open::MIRRORS;
use crate::owners::drill::{Drilled, OwnersDrill};
use crate::proof::{Proof, Safety};
use crate::remote::message::{DriveHealth, State};

/// Volumes up to which groups are looked at one by one for data in them.
const VOLUMES_EXACT_MAX: usize = 64;
/// Notes about missing pieces that are looked at.
const NOTES_MAX: usize = 10_000;

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is as it should be.
    Green,
    /// Everything can be read; something is less safe than it should be.
    Yellow,
    /// Something can't be read or written, or the next loss loses data.
    Red,
}

/// What is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Buckets.
    pub buckets: u64,
    /// Objects: current versions.
    pub objects: u64,
    /// Bytes of all versions and parts.
    pub bytes: u64,
    /// Versions that were deleted or overwritten and can be had back.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
}

/// What is being repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// Pieces left.
    pub pieces: u64,
    /// Their bytes, about.
    pub bytes: u64,
    /// Seconds left; `None` if nobody knows yet.
    pub eta_secs: Option<u64>,
    /// Pieces rebuilt since the start.
    pub done_pieces: u64,
    /// Attempts that failed since the start.
    pub failures: u64,
}

/// One drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub path: String,
    /// `up`, `full`, `draining`, `read-only`, `down`, `lost`.
    pub state: &'static str,
    /// Bytes of pieces and trash.
    pub used: u64,
    /// Bytes free on its file system.
    pub free: u64,
    /// Pieces that can be read.
    pub pieces: u64,
    /// Reads that it refused.
    pub errors: u64,
    /// The node that it is on, if there may be several.
    pub node: Option<String>,
    /// Whether it takes data; if not it keeps metadata alone.
    pub data: bool,
    /// What else there is to say.
    pub note: String,
}

/// How the store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// How good it is.
    pub health: Health,
    /// In one sentence.
    pub sentence: String,
    /// Why it isn't green.
    pub reasons: Vec<String>,
    /// How many more drives may be lost, whichever they are, and all data can still be read; negative
    /// if some can't be read now.
    pub spare_losses: i64,
    /// What is stored.
    pub totals: Totals,
    /// What is being repaired.
    pub repair: Repair,
    /// The code of new data.
    pub policy: String,
    /// Drives that hold a copy of all metadata.
    pub metadata_copies: usize,
    /// The store.
    pub cluster: String,
    /// The drives.
    pub drives: Vec<Drive>,
    /// The nodes, if there may be several.
    pub nodes: Vec<NodeShown>,
    /// What data survives, by kinds of loss, if there are several nodes.
    pub survives: Option<String>,
    /// What the data of each policy survives, by its worst segment.
    pub safeties: Vec<Safety>,
    /// How old the proofs of it are.
    pub proof: Proof,
    /// What came of the last restore drill, if there may be other nodes.
    pub drill: Option<Drilled>,
    /// What came of the last ones of end-to-end volumes, which their owners hold.
    pub owners_drills: Vec<OwnersDrill>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Counted from 1.
    pub number: u64,
    /// When.
    pub at: String,
    /// `info`, `warning`, `error`.
    pub severity: &'static str,
    /// What it is about: `drive`, `repair`, …
    pub area: String,
    /// Which one of those.
    pub subject: String,
    /// What happened.
    pub text: String,
}

/// Figures of one drive, for monitoring.
#[derive(Clone, Debug)]
pub struct DriveGauges {
    /// Its id.
    pub id: String,
    /// Whether it works.
    pub up: bool,
    /// Bytes free on its file system.
    pub free: u64,
    /// Bytes of pieces and trash.
    pub used: u64,
    /// Pieces that can be read.
    pub pieces: u64,
    /// Reads that it refused.
    pub errors: u64,
}

/// Figures that cost nothing to have, for monitoring.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// The drives at hand.
    pub drives: Vec<DriveGauges>,
    /// Pieces left to rebuild.
    pub repair_pieces: u64,
    /// Pieces rebuilt since the start.
    pub repaired_pieces: u64,
    /// Repairs that failed since the start.
    pub repair_failures: u64,
    /// Bytes of pieces that were rebuilt or moved since the start.
    pub repaired_bytes: u64,
    /// Bytes of pieces that were read for it.
    pub repair_read_bytes: u64,
    /// What users leave to it, in thousandths of what the dial says.
    pub repair_share_permille: u32,
    /// What each policy's data survives, as it was found out last; on the node that repairs.
    pub safeties: Vec<Safety>,
    /// How old the proofs of it are.
    pub proof: Proof,
}

impl Node {
    /// Figures for monitoring: nothing is read for them.
    pub fn gauges(&self) -> Gauges {
        let repair = self.0.repair_left();
        let (repaired_bytes, repair_read_bytes) = {
            let heal = lock(&self.0.heal);
            (heal.progress().done_bytes, heal.read_bytes)
        };
        let drives = self.0.fleet.all().into_iter().map(|drive| {
            let health = drive.store.health();
            DriveGauges {
                id: drive.id.to_string(),
                up: drive.is_up(),
                free: health.free,
                used: health.live_bytes + health.trash_bytes,
                pieces: health.pieces,
                errors: health.read_errors + health.lost_logs,
            }
        });
        Gauges {
            drives: drives.collect(),
            repair_pieces: repair.pieces,
            repaired_pieces: repair.done_pieces,
            repair_failures: repair.failures,
            repaired_bytes,
            repair_read_bytes,
            repair_share_permille: lock(&self.0.heal).steward.dial().share_permille(),
            safeties: if self.0.leads_volumes() { self.0.known_safeties() } else { Vec::new() },
            proof: self.0.drive_rows().and_then(|rows| self.0.proof(&rows)).map(|(proof, _)| proof).unwrap_or_default(),
        }
    }

    /// Quick, from what is known anyway: red if writes aren't possible, yellow if drives are missing.
    pub fn health(&self) -> Health {
        let all = self.0.fleet.all();
        let up = all.iter().filter(|drive| drive.is_up()).count();
        // With other nodes, without somebody to lead the metadata nothing is served.
        let is_led = |shard: &Arc<MetaShard>| shard.member().is_none_or(|member| member.is_led());
        let is_led = self.0.shards.all().iter().all(is_led);
        if up == 0 || !is_led || !self.0.writable.load(std::sync::atomic::Ordering::Relaxed) {
            Health::Red
        } else if up < all.len() {
            Health::Yellow
        } else {
            Health::Green
        }
    }

    /// How the store is.
    pub async fn status(&self) -> Result<Status> {
        let inner = &self.0;
        let rows = inner.drive_rows()?;
        // While nobody leads the volumes nothing is known of them, and nothing can be read or written.
        let (summary, why) = match inner.summary_anywhere().await {
            Ok(summary) => (summary, None),
            Err(error) if inner.cluster.get().is_some() => {
                (Summary { spare: -1, ..Summary::default() }, Some(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        let Summary { spare: safety, totals, repair, survives, needed, voters, safeties } = summary;
        let (proof, stale) = inner.proof(&rows)?;
        let (drill, drill_verdict) = inner.drilled()?;
        let (owners_drills, owners_verdicts) = inner.owners_drilled()?;
        let policy = inner.look(default_policy)?;
        let metadata_copies = inner.metadata_copies(voters.into());
        // Metadata that is gone takes all data with it.
        let safety = safety.min(metadata_copies as i64 - 1);
        let mut status = Status {
            health: Health::Green,
            sentence: String::new(),
            reasons: Vec::new(),
            spare_losses: safety,
            totals,
            repair,
            policy,
            metadata_copies,
            cluster: inner.id.to_string(),
            drives: inner.drives_shown(&rows),
            nodes: inner.nodes_shown()?,
            survives,
            safeties,
            proof,
            drill,
            owners_drills,
        };
        let needed = needed.iter().map(DriveId::to_string).collect();
        let more = inner
            .look(|view| groups::unmet(view, &inner.up()))?
            .into_iter()
            .chain(stale)
            .chain(inner.kept_nameless(&rows)?);
        judge(&mut status, &rows, &needed, more);
        if let Some(why) = why {
            status.sentence = "no node leads the metadata just now: most of its voters must be up".to_owned();
            status.reasons.push(why);
        }
        for (health, why) in owners_verdicts.into_iter().chain([drill_verdict]).flatten() {
            status.health = status.health.max(health);
            status.reasons.push(why);
        }
        if let Some(without) = inner.client.without_leaders() {
            status.health = Health::Red;
            status.reasons.push(without);
        }
        Ok(status)
    }

    /// What happened, oldest first: the last `limit` events.
    pub async fn events(&self, limit: usize) -> Result<Vec<Event>> {
        self.0.flush_events().await;
        let mut events = self.0.look(|view| catalog::latest_events(view, limit))?;
        events.reverse();
        let shown = |event: catalog::Event| Event {
            number: event.number,
            at: shown(event.at),
            severity: match event.severity {
                catalog::Severity::Info => "info",
                catalog::Severity::Warning => "warning",
                catalog::Severity::Error => "error",
            },
            area: event.area,
            subject: event.subject,
            text: event.text,
        };
        Ok(events.into_iter().map(shown).collect())
    }
}

pub(crate) fn default_policy(view: &dyn base::kv::View) -> std::result::Result<String, namespace::Error> {
    let name = catalog::setting(view, client::POLICY_SETTING)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

fn count(number: i64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Says in words what the figures mean.
fn judge(status: &mut Status, rows: &[DriveRow], needed: &BTreeSet<String>, more: impl Iterator<Item = String>) {
    // A lost drive whose pieces are all rebuilt elsewhere is no reason any more.
    let is_down = |drive: &&Drive| {
        matches!(drive.state, "down" | "read-only") || (drive.state == "lost" && needed.contains(&drive.id))
    };
    let mut reasons: Vec<String> = status
        .drives
        .iter()
        .filter(is_down)
        .map(|drive| format!("drive {} is {}: {}", drive.path, drive.state, drive.note))
        .collect();
    reasons.extend(
        status.drives.iter().filter(|drive| drive.state == "full").map(|drive| format!("drive {} is full", drive.path)),
    );
    let drives = rows.iter().filter(|row| row.state == DriveState::Active).count();
    let nodes = status.nodes.iter().filter(|node| node.state == "active").count();
    let dataless = crate::cluster::voters::dataless(rows).len();
    let copies = if nodes == 0 { MIRRORS.min(drives) } else { placement::voters::wanted_with(nodes, dataless) };
    if status.metadata_copies < copies {
        reasons.push(format!(
            "the metadata has {} only",
            count(status.metadata_copies as i64, "copy").replace("copys", "copies")
        ));
    }
    reasons.extend(more);
    if status.repair.pieces > 0 {
        let verb = if status.repair.pieces == 1 { "is missing and is" } else { "are missing and are" };
        reasons.push(format!("{} {verb} being rebuilt", count(status.repair.pieces as i64, "piece")));
    }
    let coding = Rule::parse(&status.policy).ok().and_then(|rule| rule.coding);
    let most = coding.map_or(0, |coding| i64::from(coding.m));
    let most = most.min(MIRRORS as i64 - 1);
    status.health = match status.spare_losses {
        spare if spare < 0 => Health::Red,
        0 if most > 0 => Health::Red,
        spare if spare < most || !reasons.is_empty() => Health::Yellow,
        _ => Health::Green,
    };
    status.sentence = match status.spare_losses {
        spare if spare < 0 => "some data can't be read now: bring back drives".to_owned(),
        0 if most == 0 => "all data is readable; there is one copy only: the loss of a drive loses data".to_owned(),
        0 => "all data is readable, but the next loss of a drive may lose some".to_owned(),
        spare => format!("all data is safe: it survives the loss of any {}", count(spare, "drive")),
    };
    if status.spare_losses < most && status.spare_losses >= 0 && reasons.is_empty() {
        reasons.push(format!("older data survives fewer losses than new data ({})", status.policy));
    }
    status.reasons = reasons;
}

/// What is said of a drive that works.
fn role(row: &DriveRow) -> &'static str {
    if row.takes_data() { "" } else { "it keeps metadata, and takes no data" }
}

impl Inner {
    /// How the store is, as who leads the volumes sees it.
    pub async fn summary(&self) -> Result<Summary> {
        Ok(Summary {
            spare: self.safety(&BTreeSet::new()).await?,
            totals: self.totals().await?,
            repair: self.repair_left(),
            survives: self.survives().await?,
            needed: self.needed(&self.drive_rows()?).await?,
            voters: self.voters_of_volumes()? as u16,
            safeties: self.safeties().await?,
        })
    }

    /// The lost drives that some group with data still names.
    async fn needed(&self, rows: &[DriveRow]) -> Result<BTreeSet<DriveId>> {
        let lost: BTreeSet<DriveId> =
            rows.iter().filter(|row| row.state == DriveState::Gone).map(|row| row.id).collect();
        let mut needed = BTreeSet::new();
        if lost.is_empty() {
            return Ok(needed);
        }
        let mut here: BTreeMap<(PolicyId, GroupId), Vec<DriveId>> = BTreeMap::new();
        for (policy, groups) in self.look(groups::load)? {
            for group in groups {
                let named: Vec<DriveId> =
                    group.members.iter().chain(&group.from).copied().filter(|drive| lost.contains(drive)).collect();
                if !named.is_empty() {
                    here.insert((policy.id, group.group), named);
                }
            }
        }
        for group in self.with_data(&self.volumes()?, here.keys().copied().collect()).await? {
            needed.extend(&here[&group]);
        }
        Ok(needed)
    }

    fn repair_left(&self) -> Repair {
        let heal = lock(&self.heal);
        let progress = heal.progress();
        Repair {
            pieces: progress.pieces,
            bytes: progress.bytes,
            eta_secs: heal.rate.eta(progress.bytes),
            done_pieces: progress.done_pieces,
            failures: progress.failures,
        }
    }

    async fn totals(&self) -> Result<Totals> {
        let mut totals = Totals::default();
        let buckets = self.look(|view| catalog::list_all_buckets(view, "", usize::MAX >> 1))?;
        totals.buckets = buckets.len() as u64;
        let stats = self.scan_all(buckets.iter().map(|bucket| bucket.volume), stats_of);
        for (head, kept) in stats.await?.into_iter().flatten() {
            totals.objects += head.objects;
            totals.bytes += head.version_bytes + head.part_bytes;
            totals.deleted += kept.versions;
            totals.deleted_bytes += kept.bytes;
        }
        // Whole buckets that were deleted.
        let dead = self.look(|view| catalog::dead_volumes(view, None, usize::from(u16::MAX)))?;
        let stats = self.scan_all(dead.iter().map(|dead| dead.volume), stats_of);
        for (head, kept) in stats.await?.into_iter().flatten() {
            totals.deleted += head.versions + kept.versions;
            totals.deleted_bytes += head.version_bytes + kept.bytes;
        }
        Ok(totals)
    }

    /// The drives, by folder; those that were removed are not shown.
    fn drives_shown(&self, rows: &[DriveRow]) -> Vec<Drive> {
        let mut shown: Vec<Drive> =
            rows.iter().filter(|row| row.state != DriveState::Removed).map(|row| self.drive_shown(row)).collect();
        shown.sort_by(|a, b| (a.path.len(), &a.path).cmp(&(b.path.len(), &b.path)));
        shown
    }

    pub fn drive_shown(&self, row: &DriveRow) -> Drive {
        if !self.is_mine(row) {
            return self.remote_shown(row);
        }
        let mounted = self.fleet.get(row.id);
        let health = mounted.as_ref().map(|drive| drive.store.health());
        let down = mounted.as_ref().and_then(|drive| lock(&drive.down).clone());
        let state = match (row.state, &mounted, &health) {
            (DriveState::Gone, ..) => "lost",
            (_, None, _) => "down",
            (_, Some(_), Some(health)) if matches!(health.state, piecestore::State::ReadOnly(_)) => "read-only",
            (_, Some(drive), _) if !drive.is_up() => "down",
            (DriveState::Draining, ..) => "draining",
            (_, Some(drive), _) if drive.full.load(std::sync::atomic::Ordering::Relaxed) => "full",
            _ => "up",
        };
        let health = health.as_ref();
        Drive {
            id: row.id.to_string(),
            path: row.path.clone(),
            state,
            used: health.map_or(0, |health| health.live_bytes + health.trash_bytes),
            free: health.map_or(0, |health| health.free),
            pieces: health.map_or(0, |health| health.pieces),
            errors: health.map_or(0, |health| health.read_errors + health.lost_logs),
            node: row.node.map(|node| node.to_string()),
            data: row.takes_data(),
            note: match (&down, &mounted) {
                _ if row.state == DriveState::Gone && down.is_none() => "it counts as lost".into(),
                (Some(down), _) => down.why.clone(),
                (None, None) => "its folder isn't there".into(),
                _ => role(row).into(),
            },
        }
    }

    /// A drive of another node, as that one last told.
    fn remote_shown(&self, row: &DriveRow) -> Drive {
        let remote = self.cluster.get().and_then(|cluster| cluster.remotes.get(row.id));
        let health = remote.and_then(|remote| remote.health());
        let is_up = self.is_up(row.id);
        let (state, note) = match (row.state, &health) {
            (DriveState::Gone, _) => ("lost", "it counts as lost".to_owned()),
            _ if !is_up => ("down", "its node doesn't answer for it".to_owned()),
            (_, Some(DriveHealth { state: State::ReadOnly(why), .. })) => ("read-only", why.clone()),
            (_, Some(DriveHealth { state: State::Failed(why), .. })) => ("down", why.clone()),
            (DriveState::Draining, _) => ("draining", String::new()),
            (_, Some(DriveHealth { full: true, .. })) => ("full", String::new()),
            _ => ("up", role(row).into()),
        };
        let health = health.as_ref();
        Drive {
            id: row.id.to_string(),
            path: row.path.clone(),
            state,
            used: health.map_or(0, |health| health.live_bytes + health.trash_bytes),
            free: health.map_or(0, |health| health.free),
            pieces: health.map_or(0, |health| health.pieces),
            errors: health.map_or(0, |health| health.read_errors + health.lost_logs),
            node: row.node.map(|node| node.to_string()),
            data: row.takes_data(),
            note,
        }
    }

    /// Where a copy of all metadata is: drives of one machine, or nodes that vote.
    fn metadata_copies(&self, of_volumes: usize) -> usize {
        let copies = |shard: &Arc<MetaShard>| shard.stores().first().map_or(0, |store| store.members().drives.len());
        match self.cluster.get() {
            Some(_) => of_volumes.min(self.voters_here(SYSTEM)),
            None => self.shards.all().iter().map(copies).min().unwrap_or(0),
        }
    }

    /// How many nodes vote on a shard, by the replica here.
    fn voters_here(&self, shard: u32) -> usize {
        let replica = self.shards.get(shard).and_then(|shard| shard.replica());
        replica.map_or(0, |replica| replica.status().borrow().fewest)
    }

    /// How many nodes vote on the volumes' metadata where they are fewest: of shards that have no replica here, by the
    /// plan.
    fn voters_of_volumes(&self) -> Result<usize> {
        let shards = self.look(|view| {
            let shards = catalog::volume_shards(view)?.into_iter();
            shards.map(|shard| Ok((shard, plan(view, shard)?))).collect::<std::result::Result<Vec<_>, _>>()
        })?;
        let voters = shards.into_iter().map(|(shard, plan)| match self.voters_here(shard) {
            0 => plan.map_or(0, |plan| plan.nodes.len()),
            here => here,
        });
        Ok(voters.min().unwrap_or(0))
    }

    /// How many more drives may be lost, whichever they are, with all data still readable, if `less`
    /// were gone as well.
    pub async fn safety(&self, less: &BTreeSet<DriveId>) -> Result<i64> {
        let mut up = self.up();
        up.retain(|drive| !less.contains(drive));
        let policies = Arc::new(self.look(groups::load)?);
        let default = self.look(default_policy)?;
        let volumes = self.volumes()?;
        let bad: BTreeMap<(PolicyId, GroupId), BTreeSet<u8>> = policies
            .iter()
            .flat_map(|(policy, rows)| rows.iter().map(|row| ((policy.id, row.group), bad(row, &up))))
            .collect();
        let parity: BTreeMap<PolicyId, i64> =
            policies.iter().map(|(policy, _)| (policy.id, i64::from(policy.coding.m))).collect();
        // Without data the default's parity is what counts.
        let mut spare = policies
            .iter()
            .find(|(policy, _)| policy.name == default)
            .map_or(0, |(policy, _)| i64::from(policy.coding.m));
        for (policy, rows) in policies.iter() {
            spare = spare.min(self.worst_group(policy, rows, &bad, &volumes, spare).await?);
        }
        for volume in volumes {
            let notes = self.scan(volume, move |view| namespace::read::missing(view, volume, None, NOTES_MAX)).await?;
            for found in notes.into_iter().filter(|found| found.row.is_some()) {
                let place = (found.note.policy, found.note.group);
                let mut lost = bad.get(&place).cloned().unwrap_or_default();
                lost.extend(found.note.missing);
                spare = spare.min(parity.get(&place.0).copied().unwrap_or(0) - lost.len() as i64);
            }
        }
        Ok(spare)
    }

    /// Spare pieces of the policy's worst group that holds data, if it is worse than `floor`.
    async fn worst_group(
        &self,
        policy: &PolicyRow,
        rows: &[GroupRow],
        bad: &BTreeMap<(PolicyId, GroupId), BTreeSet<u8>>,
        volumes: &[VolumeId],
        floor: i64,
    ) -> Result<i64> {
        let spare = |row: &GroupRow| {
            i64::from(policy.coding.m) - bad.get(&(policy.id, row.group)).map_or(0, |bad| bad.len() as i64)
        };
        let mut order: Vec<&GroupRow> = rows.iter().filter(|row| spare(row) < floor).collect();
        order.sort_by_key(|row| spare(row));
        if volumes.len() > VOLUMES_EXACT_MAX {
            return Ok(order.first().map_or(floor, |row| spare(row)));
        }
        let groups = order.iter().map(|row| (policy.id, row.group)).collect();
        let with_data = self.with_data(volumes, groups).await?;
        let worst = order.into_iter().find(|row| with_data.contains(&(policy.id, row.group)));
        Ok(worst.map_or(floor, spare))
    }

    /// Those of the groups in which any volume has a segment.
    pub async fn with_data(
        &self,
        volumes: &[VolumeId],
        groups: Vec<(PolicyId, GroupId)>,
    ) -> Result<BTreeSet<(PolicyId, GroupId)>> {
        let found = self.scan_all(volumes.to_vec(), move |view, volumes| {
            let mut found = BTreeSet::new();
            for (policy, group) in groups.iter().copied() {
                for volume in volumes.iter().copied() {
                    if !namespace::read::segments_of_group(view, volume, policy, group, None, 1)?.is_empty() {
                        found.insert((policy, group));
                        break;
                    }
                }
            }
            Ok(found)
        });
        Ok(found.await?.into_iter().flatten().collect())
    }
}

/// What volumes hold, and what of it was deleted and is kept besides.
fn stats_of(
    view: &dyn base::kv::View,
    volumes: &[VolumeId],
) -> std::result::Result<Vec<(namespace::rows::Head, UndoHead)>, namespace::Error> {
    let both = |volume: &VolumeId| Ok((namespace::read::stats(view, *volume)?, namespace::undo::stats(view, *volume)?));
    volumes.iter().map(both).collect()
}

/// Pieces of the group that can't be read now: neither where they belong nor where they come from.
fn bad(row: &GroupRow, up: &BTreeSet<DriveId>) -> BTreeSet<u8> {
    let lost = |index: &usize| {
        // A piece that is moving is where it comes from, until all of the group have arrived.
        !up.contains(&row.from[*index])
    };
    (0..row.members.len()).filter(lost).map(|index| index as u8).collect()
}
