//! This node's replicas: how they come to be, and what becomes of one whose directories are lost.
//!
//! A node that lost a replica may have voted by it, so it must not come back under its old membership with less
//! than it had: another leader could be elected who lacks what was acknowledged. So:
//!
//! 1. That a replica was begun is in the node's file before it is first opened ([`crate::members::Turns`]).
//! 2. A replica that is in that file is opened as it is or not at all.
//! 3. One that can't be had any more is given up in this order: a row of the catalog says so ([`lost_row`]);
//!    whoever leads the shard removes this node from its members and clears the row; then what is left of the
//!    directories is put aside, the turn is raised, and the node begins anew, empty, as any other that joins.
//!
//! So a majority of the others agrees before anything is forgotten, and drives of an earlier turn that come back
//! count for nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::kv::Batch;
use base::{Instant, Kind, Kinded, NodeId};
use namespace::catalog::{self, Severity};
use replicated::{Begin, Replica};

use super::Kept;
use super::plan::plan;
use super::shard::{Member, MetaShard};
use crate::error::{Error, Result};
use crate::members;
use crate::node::{Inner, SYSTEM, VOLUMES};

/// How often replicas are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// How long closing a replica may take whose drives fail.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// The row that says that a node lost its replica of a shard, and is to be removed from its members.
pub(super) fn lost_row(shard: u32, node: NodeId) -> String {
    format!("lost {shard} {node}")
}

/// What is known of a replica that isn't open.
#[derive(Default)]
struct Trouble {
    /// Since when it can't be opened.
    since: Option<Instant>,
    /// It must not be opened: why.
    bad: Option<String>,
    /// The others were told that it is lost.
    is_told: bool,
    /// It was begun, empty, by this process: it has never taken part.
    is_begun: bool,
}

/// Looks after the replicas of this node.
pub(crate) struct Care {
    inner: Arc<Inner>,
    troubles: BTreeMap<u32, Trouble>,
}

/// Looks after the replicas until the node is closed.
pub(crate) async fn care(mut care: Care) {
    let inner = care.inner.clone();
    let mut rounds = 0_u64;
    while inner.pause(EVERY).await {
        rounds += 1;
        if rounds.is_multiple_of(8)
            && let Some(known) = inner.newer_round(false).await
        {
            inner.log_trouble(care.adopt(known).await);
        }
        for shard in inner.shards.all() {
            // A question that nobody answers must not hold up the node's end.
            let step = inner.unless_closing(care.step(&shard)).await;
            if let Some(done) = step {
                inner.log_trouble(done);
            }
        }
    }
}

impl Care {
    pub fn new(inner: Arc<Inner>) -> Self {
        Self { inner, troubles: BTreeMap::new() }
    }

    fn kept(&self) -> Kept {
        self.inner.cluster.get().map(|cluster| cluster.kept()).unwrap_or_default()
    }

    fn trouble(&mut self, shard: u32) -> &mut Trouble {
        self.troubles.entry(shard).or_default()
    }

    /// One look at a shard's replica: opens, closes or gives it up.
    pub async fn step(&mut self, shard: &Arc<MetaShard>) -> Result<()> {
        let Some(member) = shard.member() else { return Ok(()) };
        if let Some(replica) = member.replica() {
            return self.look_at(shard.number, &member, replica).await;
        }
        if self.inner.is_to_found(shard.number) {
            return self.inner.found_shard(shard.number, &member).await;
        }
        let is_begun = self.trouble(shard.number).is_begun;
        match self.kept().turns.get(&shard.number) {
            Some(turn) if !is_begun => self.reopen(shard.number, *turn, &member).await,
            turn => self.begin(shard.number, turn.is_some(), &member).await,
        }
    }

    /// Opens a shard's replica at the node's start, or begins it.
    pub async fn open(&mut self, shard: &Arc<MetaShard>) -> Result<()> {
        if shard.member().is_none_or(|member| member.replica().is_some()) {
            return Ok(());
        }
        let is_begun = self.trouble(shard.number).is_begun;
        match self.kept().turns.get(&shard.number).copied() {
            // Whether it was founded to the end is in the catalog, which others may have.
            Some(_) if shard.number > VOLUMES && self.inner.look(|_| Ok(())).is_err() => Ok(()),
            // What takes other nodes is for later: they may be starting too.
            Some(turn) if !is_begun && !self.inner.remembers_replica(shard.number, turn) => Ok(()),
            _ => self.step(shard).await,
        }
    }

    /// A replica that is open: one that stopped, or contradicts the others, is closed.
    async fn look_at(&mut self, shard: u32, member: &Arc<Member>, replica: Arc<Replica>) -> Result<()> {
        let quarantine = replica.quarantine();
        let stopped = replica.status().borrow().stopped.clone();
        let Some(why) = quarantine.clone().or(stopped) else { return Ok(()) };
        close(&self.inner, shard, member, replica).await;
        let text = match &quarantine {
            Some(_) => {
                format!("this node's replica of metadata shard {shard} is in quarantine ({why}): a new one is made")
            }
            None => format!("this node's replica of metadata shard {shard} stopped ({why}): it is opened again"),
        };
        self.inner.tell(Severity::Error, "metadata", &shard.to_string(), text);
        *self.trouble(shard) = Trouble { bad: quarantine, ..Trouble::default() };
        Ok(())
    }

    /// Opens the replica that was made here; gives it up if that can't be.
    async fn reopen(&mut self, shard: u32, turn: u32, member: &Arc<Member>) -> Result<()> {
        let inner = self.inner.clone();
        let why = match self.trouble(shard).bad.clone() {
            Some(why) => why,
            None if !inner.remembers_replica(shard, turn) => "none of its drives is here".into(),
            None => match inner.open_replica(shard, Begin::Existing).await {
                Ok(replica) => {
                    member.set_replica(Some(replica));
                    let trouble = std::mem::take(self.trouble(shard));
                    return if trouble.is_told { inner.say_lost(shard, false).await } else { Ok(()) };
                }
                // Still locked by the one that was closed, or no room: that passes.
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Busy { .. }) => return Err(error),
                Err(error) => {
                    let now = inner.env.clock.now();
                    let since = *self.trouble(shard).since.get_or_insert(now);
                    // A new copy is had sooner than a drive is mended.
                    if now.since(since) < inner.settings.lost_after {
                        return Err(error);
                    }
                    error.to_string()
                }
            },
        };
        self.give_up(shard, why).await
    }

    /// Has this node removed from the shard's members; then forgets the replica and begins anew.
    async fn give_up(&mut self, shard: u32, why: String) -> Result<()> {
        let inner = self.inner.clone();
        let Some(cluster) = inner.cluster.get() else { return Ok(()) };
        if !self.trouble(shard).is_told {
            let text = format!(
                "this node's replica of metadata shard {shard} is lost ({why}): once the others have removed it a new one is made"
            );
            tracing::warn!("{text}");
            inner.say_lost(shard, true).await?;
            inner.tell(Severity::Warning, "metadata", &shard.to_string(), text);
            self.trouble(shard).is_told = true;
        }
        let row = lost_row(shard, cluster.me);
        let waits =
            inner.system.read(None, move |view| Ok::<_, Error>(catalog::setting(view, &row)?.is_some())).await?;
        if waits {
            return Ok(());
        }
        inner.put_aside(shard, |_| true).await?;
        inner.keep(|kept| *kept.turns.entry(shard).or_default() += 1).await?;
        *self.trouble(shard) = Trouble { is_begun: true, ..Trouble::default() };
        tracing::info!(shard, "this node was removed from the shard's members: a new replica is made");
        Ok(())
    }

    /// Begins a replica, empty, if there should be one here.
    async fn begin(&mut self, shard: u32, is_kept: bool, member: &Arc<Member>) -> Result<()> {
        let inner = self.inner.clone();
        let Some(cluster) = inner.cluster.get() else { return Ok(()) };
        let token = match shard {
            // Every node has the catalog.
            SYSTEM => cluster.kept().tokens.get(&shard).copied(),
            _ => match inner.look(|view| plan(view, shard)) {
                Ok(plan) => plan.filter(|plan| plan.nodes.contains(&cluster.me)).map(|plan| plan.token),
                Err(_) => None,
            },
        };
        let Some(token) = token else { return Ok(()) };
        if !is_kept {
            inner
                .keep(|kept| {
                    kept.turns.entry(shard).or_default();
                    kept.tokens.entry(shard).or_insert(token);
                })
                .await?;
        }
        self.trouble(shard).is_begun = true;
        // A drive that was away when the last turn was put aside may be back with what it has of it.
        let turn = cluster.kept().turns.get(&shard).copied().unwrap_or(0);
        inner.put_aside(shard, |store| !inner.remembers(store, turn)).await?;
        let replica = inner.open_replica(shard, Begin::Join { token }).await?;
        member.set_replica(Some(replica));
        *self.trouble(shard) = Trouble::default();
        Ok(())
    }

    /// The metadata was recovered without this node: what it has of the groups that there were is put aside.
    pub async fn adopt(&mut self, known: Kept) -> Result<()> {
        let inner = self.inner.clone();
        let text =
            "the metadata was recovered while this node was away: its old copies are put aside, and it joins anew";
        // Groups that kept their majority went on as they were.
        let kept = self.kept();
        let is_anew = |shard: &u32| {
            let (now, before) = (known.tokens.get(shard), kept.tokens.get(shard));
            now.zip(before).is_some_and(|(now, before)| now != before)
        };
        let begun: Vec<u32> = kept.turns.keys().copied().filter(is_anew).collect();
        for number in &begun {
            if let Some(member) = inner.shards.get(*number).and_then(|shard| shard.member())
                && let Some(replica) = member.replica()
            {
                close(&inner, *number, &member, replica).await;
            }
            inner.put_aside(*number, |_| true).await?;
        }
        inner
            .keep(|kept| {
                kept.turns.iter_mut().filter(|(shard, _)| begun.contains(shard)).for_each(|(_, turn)| *turn += 1);
                kept.round = known.round;
                kept.tokens.extend(known.tokens.clone());
            })
            .await?;
        // The groups of now never had this node's votes.
        for shard in begun {
            *self.trouble(shard) = Trouble { is_begun: true, ..Trouble::default() };
        }
        inner.tell(Severity::Warning, "metadata", "", text.into());
        Ok(())
    }
}

/// Closes a replica; one whose drives hang is left to itself.
async fn close(inner: &Inner, shard: u32, member: &Member, replica: Arc<Replica>) {
    member.set_replica(None);
    match inner.env.timeout(CLOSE_MAX, replica.close()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::info!(shard, %error, "a replica can't be closed in order"),
        None => tracing::info!(shard, "a replica can't be closed in time"),
    }
}

impl Inner {
    /// Says that this node's replica is lost, or that it isn't after all; and where this node is, since who leads must
    /// reach it.
    async fn say_lost(&self, shard: u32, is_lost: bool) -> Result<()> {
        let Some(cluster) = self.cluster.get() else { return Ok(()) };
        let (me, name, listens) = (cluster.me, self.settings.name.clone(), self.listens(cluster));
        let row = lost_row(shard, me);
        super::change(&self.system, |view| {
            let mut batch: Batch = members::moved(view, me, &listens, &name)?;
            let more = catalog::put_setting(&row, is_lost.then_some(&[1]));
            batch.puts.extend(more.puts);
            batch.dels.extend(more.dels);
            Ok((batch, ()))
        })
        .await?;
        Ok(())
    }

    /// Moves what is here of such stores of a shard's replica aside: kept, for whoever wants to look at it.
    pub(crate) async fn put_aside(&self, shard: u32, which: impl Fn(u32) -> bool) -> Result<()> {
        let date: String = self.env.clock.wall().rfc3339().chars().filter(char::is_ascii_alphanumeric).collect();
        for (drive, path) in self.marks.places() {
            for store in super::found::stores(shard).into_iter().filter(|store| which(*store)) {
                let (disk, from) = (self.env.disk.clone(), crate::open::mirror(drive, &path, store).dir);
                let to = path.join("meta").join(format!("{store}.quarantine-{date}"));
                let work = move || {
                    if !disk.exists(&from) {
                        return Ok(());
                    }
                    let what = format!("move {} aside", from.display());
                    disk.rename(&from, &to).map_err(Error::io(what.clone()))?;
                    from.parent().map_or(Ok(()), |dir| disk.sync_dir(dir)).map_err(Error::io(what))
                };
                let done = self.env.blocking(work).await.map_err(client::Error::from)?;
                match done {
                    // No replica is begun on a drive that doesn't work.
                    Err(error) if !self.is_up(drive) => {
                        tracing::info!(%drive, %error, "a drive that is down keeps what it has")
                    }
                    done => done?,
                }
            }
        }
        Ok(())
    }

    /// The work, unless the node is closed meanwhile.
    pub(crate) async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut closing = self.closing.subscribe();
        let closed = std::pin::pin!(closing.wait_for(|closing| *closing));
        match futures_util::future::select(std::pin::pin!(work), closed).await {
            futures_util::future::Either::Left((done, _)) => Some(done),
            futures_util::future::Either::Right(_) => None,
        }
    }

    fn log_trouble(&self, done: Result<()>) {
        if let Err(error) = done {
            tracing::info!(%error, "a replica of the metadata can't be had yet: trying again");
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test of the real world, which is waited for")]
mod tests {
    use std::path::PathBuf;

    use metastore::ShardStore;

    use super::*;
    use crate::Node;
    use crate::cluster::town::{self, until};

    fn voters(node: &Node) -> Vec<usize> {
        let voters =
            |shard: &Arc<MetaShard>| shard.replica().map_or(0, |replica| replica.status().borrow().voters.len());
        node.0.shards.all().iter().map(voters).collect()
    }

    fn replica(node: &Node) -> Option<Arc<Replica>> {
        node.0.shards.get(VOLUMES)?.replica()
    }

    /// Who leads writes batches that the last one's journal doesn't have at that place.
    async fn contradict(nodes: &[Node], bad: &Node) {
        let copy = replica(bad).unwrap();
        let (epoch, head) = copy.rows().position();
        let mut batch = Batch::default();
        batch.put(b"nobody agreed on this", b"1".to_vec());
        copy.rows().commit(epoch, head, vec![batch]).await.unwrap();
        let owner = base::UserId(nodes[0].access().await.unwrap().user);
        let client = nodes[0].client();
        let bucket = client.create_bucket("bucket", &owner, "").await.unwrap();
        let new = namespace::NewVersion {
            size: 3,
            etag: "x".into(),
            attrs: Default::default(),
            body: namespace::Body::Inline(b"abc".to_vec()),
        };
        let put = namespace::Command::Put { key: "key".into(), new, condition: Default::default() };
        client.commit(&bucket, put).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_contradicts_the_others_is_put_aside_and_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = town::nodes(dir.path(), 3).await;
        until("three keep the metadata", || nodes.iter().all(|node| voters(node) == [3, 3])).await;
        // One that doesn't lead: the leader's rows are what others are made from.
        let leader = replica(&nodes[0]).unwrap().status().borrow().leader;
        let bad = nodes.iter().find(|node| node.0.me() != leader).unwrap();
        contradict(&nodes, bad).await;
        let turn = || bad.0.cluster.get().unwrap().kept().turns[&VOLUMES];
        until("it was removed", || turn() == 1).await;
        until("it is made anew", || replica(bad).is_some_and(|replica| replica.quarantine().is_none())).await;
        until("three keep the metadata again", || nodes.iter().all(|node| voters(node) == [3, 3])).await;
        let rows = || replica(bad).and_then(|replica| replica.snapshot().ok());
        let has = |key: &[u8]| rows().is_some_and(|rows| base::kv::View::get(&*rows, key).unwrap().is_some());
        assert!(!has(b"nobody agreed on this"));
        let drives: Vec<PathBuf> = bad.0.marks.places().into_iter().map(|(_, path)| path).collect();
        let names = std::fs::read_dir(drives[0].join("meta")).unwrap().map(|name| name.unwrap().file_name());
        let aside: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        assert!(aside.iter().any(|name| name.starts_with("1.quarantine-")), "{aside:?}");
        let told = bad.events(100).await.unwrap();
        assert!(told.iter().any(|event| event.text.contains("quarantine")), "{told:?}");
        for node in &nodes {
            node.close().await;
        }
    }
}
