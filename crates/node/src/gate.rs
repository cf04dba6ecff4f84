//! Commands that can lower redundancy or capacity: what they come to is computed first, on the real tables, and what
//! would fall below policy is refused by the store itself, whoever asks ([`placement::gate`]).
//!
//! 1. A plan is judged on one map and carried out on the same: if the catalog changed in between nothing is done.
//! 2. What is refused can be done by repeating its code, which is bound to this change, this map and who is down.
//! 3. What was carried out is in the trail, with what it came to: in the batch that changes the rows of drives and nodes.
//!    Memberships end after that, one signed list each; a plan that is cut short in between is asked for again.

use std::collections::{BTreeMap, BTreeSet};

use base::kv::{Batch, View};
use base::{Domain, DriveId, GroupId, NodeId, PolicyId, Standing};
use crypt::RootKey;
use namespace::catalog::{self, Applied, DriveRow, DriveState, NodeRow, NodeState, Severity};
use placement::Map;
use placement::gate::{self, Change, Situation, Target};
use placement::outcome::{Faults, Held, Outcome};
use policy::{Coding, Rule};
use serde::Serialize;

use crate::cluster::{Cluster, change, no_root};
use crate::error::{Error, Result};
use crate::groups;
use crate::identity::FILE;
use crate::members;
use crate::node::{Inner, Node, PAGE, SYSTEM};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Empties drives or nodes; reads and writes go on.
    Drain,
    /// Uses again what was being emptied.
    Fill,
    /// Takes out for good what is empty.
    Remove,
    /// Declares drives or nodes lost: their data is rebuilt on the others.
    Expunge,
}

impl Verb {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "drain" => Some(Verb::Drain),
            "fill" => Some(Verb::Fill),
            "remove" => Some(Verb::Remove),
            "expunge" => Some(Verb::Expunge),
            _ => None,
        }
    }
}

/// What a change would come to, or came to.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What is asked for, in words.
    pub change: String,
    /// Whether it was done.
    pub applied: bool,
    /// Whether it is refused, unless its code is repeated.
    pub refused: bool,
    /// Why.
    pub reasons: Vec<String>,
    /// What would be permitted instead.
    pub allowed: Vec<String>,
    /// What to repeat to do it all the same; none if it is permitted.
    pub code: Option<String>,
    /// What it comes to, in words.
    pub outcome: Vec<String>,
    /// Segments that couldn't be read right after it.
    pub unreadable_segments: u64,
    /// Segments by the spare pieces that they would have right after it.
    pub segments_by_spare: Vec<u64>,
    /// Bytes to move or rebuild.
    pub move_bytes: u64,
    /// Expected days until something is lost, as it is now, if drives fail one by one; none if that is beyond counting.
    pub days_to_loss_now: Option<f64>,
    /// The same right after it.
    pub days_to_loss_after: Option<f64>,
}

/// A rule that ends a node's membership.
type Parting = fn(&dyn View, &RootKey, NodeId) -> members::Result<(Batch, wire::MemberList)>;

/// What was judged.
pub(crate) struct Judged {
    change: Change,
    outcome: Outcome,
    /// Of the map: nothing is done if it is another one by then.
    map: [u8; 32],
    /// Drives that didn't answer: likewise.
    down: BTreeSet<DriveId>,
}

/// A plan that may be carried out.
struct Permitted<'a> {
    judged: &'a Judged,
    entry: Applied,
}

impl Node {
    /// Shows what it comes to when these drives, nodes or `site=…` are drained, removed or expunged; with `apply` does
    /// it, if that is permitted or `code` is the outcome's.
    ///
    /// # Errors
    /// If something isn't there, it is refused, or it can't be done.
    pub async fn change(&self, verb: Verb, targets: &[String], apply: bool, code: Option<&str>) -> Result<Plan> {
        let inner = &self.0;
        let targets: Vec<Target> = targets.iter().map(|text| inner.target(text)).collect::<Result<_>>()?;
        if targets.is_empty() {
            return Err(Error::Invalid("name a drive, a node, or all of a label: site=office".into()));
        }
        let change = match verb {
            Verb::Fill => {
                let _one = inner.changing.lock().await;
                return inner.fill(&targets, apply).await;
            }
            Verb::Drain => Change::Drain(targets),
            Verb::Remove => Change::Remove(targets),
            Verb::Expunge => Change::Expunge(targets),
        };
        for left in (0..JUDGED_MAX).rev() {
            let judged = inner.judge(change.clone()).await?;
            let mut plan = judged.plan();
            if !(apply || code.is_some()) {
                return Ok(plan);
            }
            judged.permit(code)?;
            // Only from here on: judging a large store takes seconds, in which drives must be looked after.
            let _one = inner.changing.lock().await;
            if left > 0 && inner.check_unchanged(&judged).is_err() {
                // Pieces go on moving by themselves: it is judged again, and may be refused for it.
                continue;
            }
            inner.check_unchanged(&judged)?;
            inner.carry_out(&judged).await?;
            plan.applied = true;
            return Ok(plan);
        }
        Err(outdated())
    }

    /// Plans that were carried out, newest last.
    ///
    /// # Errors
    /// If the catalog can't be read.
    pub fn trail(&self, limit: usize) -> Result<Vec<Trailed>> {
        let newest = self.0.look(|view| catalog::last_applied(view, limit))?;
        Ok(newest.into_iter().rev().map(Trailed::from).collect())
    }
}

/// A plan that was carried out, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Trailed {
    /// Counted from 1.
    pub number: u64,
    /// When.
    pub at: String,
    /// On which node it was asked for.
    pub node: String,
    /// What was done.
    pub change: String,
    /// What it came to.
    pub outcome: Vec<String>,
    /// The reasons against it that were overridden.
    pub overridden: Vec<String>,
}

impl From<Applied> for Trailed {
    fn from(row: Applied) -> Self {
        let Applied { number, at, node, change, outcome, overridden } = row;
        Self { number, at: at.rfc3339(), node, change, outcome, overridden }
    }
}

impl Judged {
    /// Whether it may be done.
    ///
    /// # Errors
    /// If it is refused, and `code` isn't its outcome's.
    pub fn permit(&self, code: Option<&str>) -> Result<()> {
        self.outcome.permit(code.map(str::trim)).map_err(|refused| Error::Refused(refused.to_string()))
    }

    pub fn plan(&self) -> Plan {
        let (outcome, refused) = (&self.outcome, !self.outcome.reasons.is_empty());
        let days = |days: f64| days.is_finite().then_some(days);
        Plan {
            change: self.change.to_string(),
            applied: false,
            refused,
            reasons: outcome.reasons.clone(),
            allowed: outcome.allowed.clone(),
            code: refused.then(|| outcome.code.clone()),
            outcome: outcome.to_string().lines().map(str::to_owned).collect(),
            unreadable_segments: outcome.unreadable_segments,
            segments_by_spare: outcome.segments_by_spare.clone(),
            move_bytes: outcome.move_bytes,
            days_to_loss_now: days(outcome.risk_before.days_to_loss),
            days_to_loss_after: days(outcome.risk_after.days_to_loss),
        }
    }
}

impl Inner {
    /// What somebody names: `site=office`, a drive by its folder or id, a node by its name or id.
    fn target(&self, text: &str) -> Result<Target> {
        if let Some((label, value)) = text.split_once('=') {
            let domain = Domain::LABELS.into_iter().find(|domain| domain.name() == label);
            let domain = domain.ok_or_else(|| {
                let names: Vec<&str> = Domain::LABELS.iter().map(|domain| domain.name()).collect();
                let near = base::nearest::nearest(label, names.iter().copied());
                let hint = near.map_or(String::new(), |near| format!(": did you mean {near}={value}?"));
                Error::Invalid(format!(
                    "there is no label {label}, only {}{hint}; nothing was changed",
                    names.join(", ")
                ))
            })?;
            return Ok(Target::Domain(domain, value.into()));
        }
        match self.named(text) {
            Ok(row) => Ok(Target::Drive(row.id.to_string())),
            Err(error @ Error::Missing(_)) if text.contains('/') => Err(error),
            Err(Error::Missing(_)) => Ok(Target::Node(text.into())),
            Err(error) => Err(error),
        }
    }

    /// How much each placement group holds. Reads a row for each segment.
    pub(crate) async fn held(&self) -> Result<BTreeMap<(PolicyId, GroupId), Held>> {
        let mut all: BTreeMap<(PolicyId, GroupId), Held> = BTreeMap::new();
        for volume in self.volumes()? {
            let mut after = None;
            loop {
                let page = self.scan(volume, move |view| namespace::read::segments(view, volume, after, PAGE)).await?;
                for found in &page {
                    let held = all.entry((found.policy, found.group)).or_default();
                    held.segments += 1;
                    held.bytes += found.row.len;
                }
                match page.last() {
                    Some(last) if page.len() == PAGE => after = Some((last.policy, last.group, last.segment)),
                    _ => break,
                }
            }
        }
        Ok(all)
    }

    /// Segments that lack pieces though their drives are there.
    pub(crate) async fn lacking(&self) -> Result<Lacking> {
        let mut all = Lacking::default();
        for volume in self.volumes()? {
            let notes = self.scan(volume, move |view| namespace::read::missing(view, volume, None, PAGE)).await?;
            all.segments += notes.iter().filter(|note| note.row.is_some()).count();
            all.is_more |= notes.len() == PAGE;
        }
        Ok(all)
    }

    /// The voters of each shard, by its number.
    ///
    /// # Errors
    /// If this node hasn't heard yet who they are: nothing may follow from that.
    pub(crate) fn voters(&self, cluster: &Cluster) -> Result<Vec<BTreeSet<NodeId>>> {
        let in_use = self.look(catalog::volume_shards)?;
        let mut voters: Vec<BTreeSet<NodeId>> = Vec::new();
        for number in self.shards.all().iter().map(|shard| shard.number) {
            let holders: BTreeSet<NodeId> = cluster.holders_of(number).into_iter().collect();
            // One that is being made holds nothing yet.
            if holders.is_empty() && (number == SYSTEM || in_use.contains(&number)) {
                return Err(Error::Refused(format!(
                    "this node hasn't heard yet which nodes keep metadata shard {number}: try again in a moment"
                )));
            }
            voters.resize(number as usize, BTreeSet::new());
            voters.push(holders);
        }
        Ok(voters)
    }

    pub(crate) async fn judge(&self, change: Change) -> Result<Judged> {
        // When it was made is no part of what a code is bound to.
        let map = Map { made: base::Wall(0), ..self.map()? };
        let seen = placed(&map);
        let (held, lacking) = (self.held().await?, self.lacking().await?);
        let down = self.down(&map);
        let (mut away, mut voters) = (BTreeSet::new(), Vec::new());
        if let Some(cluster) = self.cluster.get() {
            away.extend(map.nodes.iter().map(|node| node.id).filter(|id| cluster.standing(*id) != Standing::Alive));
            voters = self.voters(cluster)?;
        }
        let fixed = self.look(groups::fixed_default)?;
        let map = Map {
            policies: map.policies.into_iter().filter(|one| counts(one, &held, &fixed, &change)).collect(),
            ..map
        };
        let held_by = |policy: PolicyId, group: GroupId| held.get(&(policy, group)).copied().unwrap_or_default();
        let situation =
            Situation { down: &down, away: &away, voters: &voters, held: &held_by, faults: Faults::default() };
        let mut outcome = gate::judge(&map, &change, &situation).map_err(|error| match base::Kinded::kind(&error) {
            base::Kind::Missing => Error::Missing(error.to_string()),
            _ => Error::Invalid(error.to_string()),
        })?;
        // Another code for new data touches nothing that is stored, and what is deleted needs no repair.
        let is_of_drives = matches!(change, Change::Drain(_) | Change::Remove(_) | Change::Expunge(_));
        if lacking.any() && is_of_drives {
            outcome.reasons.push(format!("{lacking} lack pieces and are being repaired: wait for that"));
        }
        let after = gate::apply(&map, &change).map_err(|error| Error::Invalid(error.to_string()))?;
        if is_of_drives && !after.drives.iter().any(|drive| after.drive_state(drive) == placement::map::State::Active) {
            outcome.reasons.push("no drive would be left that takes data".into());
        }
        Ok(Judged { change, outcome, map: seen, down })
    }

    /// Judges another policy for new data.
    ///
    /// # Errors
    /// If it is refused, and `code` isn't its outcome's.
    pub(crate) async fn permit_policy(
        &self,
        whose: &str,
        from: PolicyId,
        (coding, rule): &(Coding, Rule),
        code: Option<&str>,
    ) -> Result<Judged> {
        let change = Change::SetPolicy {
            whose: whose.into(),
            from,
            k: coding.k,
            m: coding.m,
            ack: coding.ack() as u8,
            demands: rule.demands.clone(),
            within: rule.within.clone(),
        };
        let judged = self.judge(change).await?;
        judged.permit(code)?;
        Ok(judged)
    }

    /// What was carried out is in the trail.
    pub(crate) async fn note_applied(&self, judged: &Judged) -> Result<()> {
        let entry = self.entry(judged);
        self.change(|view| Ok((catalog::add_applied(view, entry.clone())?, ()))).await
    }

    fn entry(&self, judged: &Judged) -> Applied {
        Applied {
            number: 0,
            at: self.env.clock.wall(),
            node: self.settings.name.clone(),
            change: judged.change.to_string(),
            outcome: judged.outcome.to_string().lines().map(str::to_owned).collect(),
            overridden: judged.outcome.reasons.clone(),
        }
    }

    /// Carries out what was permitted.
    async fn carry_out(&self, judged: &Judged) -> Result<()> {
        let permitted = Permitted { judged, entry: self.entry(judged) };
        let map = self.map()?;
        let (nodes, drives) = named(&map, &judged.change)?;
        match &judged.change {
            Change::Drain(_) => {
                let states =
                    NewStates { nodes: Some((&nodes, NodeState::Draining)), drives: (&drives, DriveState::Draining) };
                self.set_states(&permitted, states).await?
            }
            Change::Remove(_) => {
                let of_nodes = map.drives_of(&nodes);
                let all: BTreeSet<DriveId> = drives.union(&of_nodes).copied().collect();
                self.check_mirrors(&drives)?;
                let root = self.check_root(&nodes).await?;
                // Nodes themselves follow below, by a list that the root key signs.
                self.set_states(&permitted, NewStates { nodes: None, drives: (&all, DriveState::Removed) }).await?;
                self.take_out_removed().await?;
                self.part_with(root, &nodes, members::leave).await?;
            }
            Change::Expunge(_) => {
                let root = self.check_root(&nodes).await?;
                self.set_states(&permitted, NewStates { nodes: None, drives: (&drives, DriveState::Gone) }).await?;
                self.part_with(root, &nodes, members::expunge).await?;
            }
            change @ (Change::SetPolicy { .. }
            | Change::DeleteBucket { .. }
            | Change::PurgeTrash { .. }
            | Change::ChangeVoters { .. }
            | Change::Recover { .. }
            | Change::Downgrade { .. }) => {
                return Err(Error::Invalid(format!(
                    "to {change} is no matter of drives and nodes; nothing was changed"
                )));
            }
        }
        self.settle_groups_now().await?;
        self.retry_repairs();
        let forced =
            if judged.outcome.reasons.is_empty() { "" } else { ", although that was refused: its code was repeated" };
        self.tell(Severity::Warning, "plan", "", format!("{}{forced}", judged.change));
        Ok(())
    }

    /// Rows of nodes and drives change their state, and the trail says so: in one batch, or not at all.
    async fn set_states(&self, permitted: &Permitted<'_>, to: NewStates<'_>) -> Result<()> {
        let judged = permitted.judged;
        let done = self.change(|view| {
            if placed(&self.map_of(view)?) != judged.map {
                return Ok((Batch::default(), false));
            }
            let mut batch = catalog::add_applied(view, permitted.entry.clone())?;
            if let Some((nodes, state)) = to.nodes {
                for row in rows_of_nodes(view)?.into_iter().filter(|row| nodes.contains(&row.id)) {
                    batch.puts.extend(catalog::put_node(&NodeRow { state, ..row })?.puts);
                }
            }
            let (drives, state) = to.drives;
            for row in rows_of_drives(view)?.into_iter().filter(|row| drives.contains(&row.id)) {
                batch.puts.extend(catalog::put_drive(&DriveRow { state, ..row }).puts);
            }
            Ok((batch, true))
        });
        if done.await? { Ok(()) } else { Err(outdated()) }
    }

    /// What a plan was judged on is still so.
    fn check_unchanged(&self, judged: &Judged) -> Result<()> {
        let map = self.map()?;
        if placed(&map) == judged.map && self.down(&map) == judged.down { Ok(()) } else { Err(outdated()) }
    }

    /// Drives of the map that don't answer.
    pub(crate) fn down(&self, map: &Map) -> BTreeSet<DriveId> {
        let up = self.up();
        map.drives.iter().map(|drive| drive.id).filter(|id| !up.contains(id)).collect()
    }

    /// Copies of the metadata that leave with drives of this node are elsewhere by now.
    fn check_mirrors(&self, drives: &BTreeSet<DriveId>) -> Result<()> {
        let others = self.fleet.up().iter().filter(|drive| !drives.contains(&drive.id)).count();
        let wanted = self.mirrors().min(others);
        let stays = |drive: &&DriveId| !drives.contains(*drive);
        for store in self.shards.all().iter().flat_map(|shard| shard.stores()) {
            let have = store.members().drives;
            if have.iter().filter(stays).count() < wanted.min(have.len()) {
                return Err(Error::Refused(
                    "a copy of the metadata is still being made elsewhere: try again in a moment; nothing was changed"
                        .into(),
                ));
            }
        }
        Ok(())
    }

    /// The root key, if somebody's membership ends; this node can't end its own.
    async fn check_root(&self, nodes: &BTreeSet<NodeId>) -> Result<Option<RootKey>> {
        if nodes.is_empty() {
            return Ok(None);
        }
        if self.me().is_some_and(|me| nodes.contains(&me)) {
            return Err(Error::Refused(format!(
                "{} is this node: run this on another one; nothing was changed",
                self.settings.name
            )));
        }
        Ok(Some(self.root().await?.ok_or_else(|| no_root(self))?))
    }

    /// Ends the membership of nodes by this rule.
    async fn part_with(&self, root: Option<RootKey>, nodes: &BTreeSet<NodeId>, rule: Parting) -> Result<()> {
        let Some(root) = root else { return Ok(()) };
        for node in nodes {
            let list = change(&self.system, |view| rule(view, &root, *node)).await?;
            if let Some(cluster) = self.cluster.get() {
                cluster.endpoint.install(list).map_err(members::Error::Root)?;
            }
        }
        Ok(())
    }

    /// Lets go of the drives of this node that were removed from the store, here or elsewhere.
    pub(crate) async fn take_out_removed(&self) -> Result<()> {
        for row in self.drive_rows()?.into_iter().filter(|row| row.state == DriveState::Removed && self.is_mine(row)) {
            let Some(drive) = self.fleet.get(row.id) else { continue };
            for store in self.shards.all().iter().flat_map(|shard| shard.stores()) {
                if store.members().drives.contains(&row.id) {
                    store.remove_mirror(row.id).await?;
                }
            }
            drive.store.fence("the drive was removed from the store");
            let name = self.name_of(row.id);
            let (disk, path, held) = (self.env.disk.clone(), drive.path.clone(), drive.lock.clone());
            let gone = self.env.blocking(move || {
                if !held.is_there() {
                    return Ok(());
                }
                disk.remove_file(&path.join(FILE))?;
                disk.sync_dir(&path)
            });
            if let Ok(Err(error)) = gone.await {
                tracing::warn!(drive = %row.id, %error, "failed to remove the identity file of a removed drive: it is refused at the next start");
            }
            self.let_go(row.id);
            self.tell(
                Severity::Info,
                "drive",
                &row.id.to_string(),
                format!("drive {name} was removed; its folder can be deleted"),
            );
        }
        Ok(())
    }

    /// What was being emptied is used again.
    async fn fill(&self, targets: &[Target], apply: bool) -> Result<Plan> {
        let change = Change::Drain(targets.to_vec());
        let (nodes, drives) = named(&self.map()?, &change)?;
        let names: Vec<String> = targets.iter().map(Target::to_string).collect();
        let what = format!("use {} again", names.join(", "));
        let at = self.env.clock.wall();
        let drained = |view: &dyn View| {
            let mut batch = Batch::default();
            let is_node = |row: &NodeRow| nodes.contains(&row.id) && row.state == NodeState::Draining;
            for row in rows_of_nodes(view)?.into_iter().filter(is_node) {
                batch.puts.extend(catalog::put_node(&NodeRow { state: NodeState::Active, ..row })?.puts);
            }
            let is_drive = |row: &DriveRow| drives.contains(&row.id) && row.state == DriveState::Draining;
            for row in rows_of_drives(view)?.into_iter().filter(is_drive) {
                batch.puts.extend(catalog::put_drive(&DriveRow { state: DriveState::Active, ..row }).puts);
            }
            Ok(batch)
        };
        let count = self.look(drained)?.puts.len();
        if count == 0 {
            return Err(Error::Refused(format!(
                "{}: nothing of it is being emptied; nothing was changed",
                names.join(", ")
            )));
        }
        let node = self.settings.name.clone();
        let outcome = vec![format!("{count} that are being emptied take new data again")];
        if apply {
            let entry =
                Applied { number: 0, at, node, change: what.clone(), outcome: outcome.clone(), overridden: Vec::new() };
            self.change(|view| {
                let mut batch = drained(view)?;
                batch.puts.extend(catalog::add_applied(view, entry.clone())?.puts);
                Ok((batch, ()))
            })
            .await?;
            self.settle_groups_now().await?;
            self.retry_repairs();
        }
        Ok(Plan {
            change: what,
            applied: apply,
            refused: false,
            reasons: Vec::new(),
            allowed: Vec::new(),
            code: None,
            outcome,
            unreadable_segments: 0,
            segments_by_spare: Vec::new(),
            move_bytes: 0,
            days_to_loss_now: None,
            days_to_loss_after: None,
        })
    }
}

/// A change is judged so often if the store changes under it.
const JUDGED_MAX: usize = 5;

/// What becomes of nodes and drives.
struct NewStates<'a> {
    /// These nodes stand so from now on.
    nodes: Option<(&'a BTreeSet<NodeId>, NodeState)>,
    /// And these drives so.
    drives: (&'a BTreeSet<DriveId>, DriveState),
}

/// How many segments lack pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lacking {
    segments: usize,
    /// Not all were counted.
    is_more: bool,
}

impl Lacking {
    /// Whether one does.
    pub fn any(self) -> bool {
        self.segments > 0 || self.is_more
    }
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = if self.is_more { "at least " } else { "" };
        write!(f, "{least}{} segments", self.segments)
    }
}

fn outdated() -> Error {
    Error::Refused(
        "the store changed since this plan was made: look at what it comes to now, and decide again; nothing was changed"
            .into(),
    )
}

/// Whether a policy matters to a change: something is stored by it, or its owner asked for it. Another code that nothing is
/// stored by yet gives way to one that fits.
fn counts(
    policy: &placement::map::Policy,
    held: &BTreeMap<(PolicyId, GroupId), Held>,
    fixed: &Option<String>,
    change: &Change,
) -> bool {
    let is_from = matches!(change, Change::SetPolicy { from, .. } if *from == policy.id);
    let holds = policy.groups.iter().any(|row| held.contains_key(&(policy.id, row.group)));
    holds || is_from || fixed.as_ref() == Some(&policy.name)
}

/// What the gate's word is about: a map without the time that it was made at.
pub(crate) fn placed(map: &Map) -> [u8; 32] {
    Map { made: base::Wall(0), ..map.clone() }.hash()
}

/// The nodes that a change names, and the drives that it names by themselves.
fn named(map: &Map, change: &Change) -> Result<(BTreeSet<NodeId>, BTreeSet<DriveId>)> {
    gate::named_by(map, change).map_err(|error| Error::Invalid(error.to_string()))
}

type Rows<T> = std::result::Result<Vec<T>, namespace::Error>;

fn rows_of_nodes(view: &dyn View) -> Rows<NodeRow> {
    catalog::nodes(view, None, usize::from(u16::MAX))
}

fn rows_of_drives(view: &dyn View) -> Rows<DriveRow> {
    catalog::drives(view, None, usize::from(u16::MAX))
}
