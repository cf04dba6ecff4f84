//! How a node comes to be among others: the first one in place, all others by a ticket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::DriveId;
use base::kv::{Batch, View};
use client::Shard;
use crypt::RootKey;
use metastore::Mirror;
use namespace::catalog::Severity;
use replicated::{Begin, Places, Replica, Who};
use transport::Host;

use super::care::Care;
use super::plan::{self, Plan};
use super::shard::{Member, MetaShard, Role};
use super::{Cluster, Start};
use crate::error::{Error, Result};
use crate::fleet::Marks;
use crate::key;
use crate::members::{self, HostRules, JoinAsk, Ledger, NodeFile, Tokens, node_file};
use crate::node::{Inner, Node, SYSTEM, VOLUMES};
use crate::open::mirror;

/// Set in the number of a shard's log, as a store.
const LOG_BIT: u32 = 1 << 31;
/// Member sets of a turn are counted from its number with so many zero bits on: those of an earlier turn never count.
const TURN_BITS: u32 = 32;
/// How long requests under way may hold up the change to a group.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Between two looks whether they have ended.
const DRAIN_EACH: Duration = Duration::from_millis(5);

/// The catalog, for who lets machines join.
struct Catalog(Shard);

/// Runs a rule of membership as one of the catalog; its own refusal is kept beside.
fn kept<T>(
    result: members::Result<T>,
    refused: &mut Option<members::Error>,
    none: impl FnOnce() -> T,
) -> std::result::Result<T, namespace::Error> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => {
            *refused = Some(error);
            Ok(none())
        }
    }
}

/// Changes the catalog by a rule of membership.
pub(crate) async fn change<T: Send>(
    system: &Shard,
    rule: impl Fn(&dyn View) -> members::Result<(Batch, T)> + Send + Sync,
) -> members::Result<T> {
    let mut refused = None;
    let came_to = system
        .execute(|view| {
            refused = None;
            let done = rule(view).map(|(batch, value)| (batch, Some(value)));
            kept(done, &mut refused, || (Batch::default(), None))
        })
        .await?;
    match (came_to, refused) {
        (Some(value), _) => Ok(value),
        (None, Some(error)) => Err(error),
        (None, None) => Err(members::Error::from(client::Error::Invalid { what: "a rule came to nothing" })),
    }
}

impl Ledger for Catalog {
    async fn look<T: Send + 'static>(
        &self,
        read: impl Fn(&dyn View) -> members::Result<T> + Send + 'static,
    ) -> members::Result<T> {
        self.0.scan(None, move |view| Ok::<_, client::Error>(read(view))).await?
    }

    async fn execute<T: Send + 'static>(
        &self,
        rule: impl Fn(&dyn View) -> members::Result<(Batch, T)> + Send + Sync + 'static,
    ) -> members::Result<T> {
        change(&self.0, rule).await
    }
}

impl Inner {
    /// The root key, if its owner keeps it here.
    pub(crate) async fn root(&self) -> Result<Option<RootKey>> {
        let path = self.key_file();
        let disk = self.env.disk.clone();
        let read = move || if disk.exists(&path) { key::read(&*disk, &path).map(Some) } else { Ok(None) };
        let key = self.env.blocking(read).await.map_err(client::Error::from)??;
        Ok(key.filter(|key| key.check() == self.key_check))
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.settings.key_file.clone().unwrap_or_else(|| key::default_path(&self.settings.home, self.id))
    }

    pub(crate) fn node_file(&self) -> PathBuf {
        self.settings.home.join(node_file(self.id))
    }

    /// The node's file is changed by one at a time.
    pub(crate) async fn change_file(&self, change: impl FnOnce(&mut NodeFile) + Send + 'static) -> Result<()> {
        let _one = self.filing.lock().await;
        let (disk, path) = (self.env.disk.clone(), self.node_file());
        let work = move || {
            let mut file = NodeFile::read(&*disk, &path)?;
            let before = file.clone();
            change(&mut file);
            if file == before { Ok(()) } else { file.write(&*disk, &path) }
        };
        Ok(self.env.blocking(work).await.map_err(client::Error::from)??)
    }

    /// What this node says of itself.
    pub(crate) fn introduction(&self, addresses: Vec<SocketAddr>) -> JoinAsk {
        introduction(&self.settings, addresses)
    }

    /// Begins to be a node among others, as its file says; its shards have no replica yet.
    pub(crate) async fn start_cluster(self: &Arc<Self>, file: &NodeFile) -> Result<Arc<Cluster>> {
        let host: Option<Arc<dyn Host>> = match self.root().await? {
            Some(root) => {
                let (catalog, tokens) = (Catalog(self.system.clone()), self.clone());
                Some(HostRules::new(self.env.clone(), root, catalog, move || tokens.tokens()))
            }
            None => None,
        };
        let start = Start {
            identity: file.identity(),
            trust: file.trust()?,
            contacts: file.contacts.iter().map(|contact| (contact.node, contact.addresses.clone())).collect(),
            host,
            listen: self.settings.cluster_listen,
            starts: file.starts,
            kept: super::Kept { tokens: file.tokens.clone(), turns: file.turns.clone(), round: file.round },
        };
        let cluster = Cluster::start(&self.env, &self.settings, self.drives.clone(), start).await?;
        cluster.set_holders(SYSTEM, file.contacts.iter().map(|contact| contact.node).collect());
        cluster.serve(self);
        for drive in self.fleet.all() {
            cluster.pieces.set(drive.id, drive.store.clone());
        }
        if self.cluster.set(cluster.clone()).is_err() {
            return Err(Error::Refused("this node is among others already".into()));
        }
        Ok(cluster)
    }

    /// The tokens of the shards, for who joins.
    fn tokens(&self) -> Tokens {
        let token = |shard: &Arc<MetaShard>| Some((shard.number, shard.replica()?.token()));
        self.shards.all().iter().filter_map(token).collect()
    }

    /// Where this node keeps, or is to keep, its replica of a shard.
    fn places(&self, shard: u32, turn: u32) -> Places {
        places(&self.marks, shard, turn, || self.roomiest(self.mirrors()))
    }

    /// So many drives of this node, those with the most room first.
    fn roomiest(&self, count: usize) -> Vec<(DriveId, PathBuf)> {
        let mut up = self.fleet.up();
        up.sort_by_key(|drive| (std::cmp::Reverse(drive.store.health().free >> 30), drive.path.clone()));
        up.truncate(count);
        up.into_iter().map(|drive| (drive.id, drive.path.clone())).collect()
    }

    /// Whether a drive here remembers that this node has a replica of the shard, begun in that turn.
    pub(crate) fn remembers_replica(&self, shard: u32, turn: u32) -> bool {
        self.remembers(shard | LOG_BIT, turn)
    }

    /// Whether a drive here remembers the store as one that was begun in that turn.
    pub(crate) fn remembers(&self, store: u32, turn: u32) -> bool {
        remembered(&self.marks, store, turn).is_some()
    }

    /// Opens this node's replica of a shard.
    pub(crate) async fn open_replica(self: &Arc<Self>, shard: u32, how: Begin) -> Result<Arc<Replica>> {
        let cluster = self.cluster.get().ok_or_else(|| Error::Refused("this node is alone".into()))?;
        let turn = cluster.kept().turns.get(&shard).copied().unwrap_or(0);
        let places = self.places(shard, turn);
        if places.rows.is_empty() || places.log.is_empty() {
            return Err(Error::Folders(format!(
                "no drive is here that could hold this node's replica of metadata shard {shard}: bring one of its folders back"
            )));
        }
        let options = |settings: &metastore::Options| {
            let told = self.marks.clone();
            metastore::Options {
                on_members: Some(Arc::new(move |set| {
                    let told = told.clone();
                    Box::pin(async move { told.remember(set).await })
                })),
                members_after: u64::from(turn) << TURN_BITS,
                ..settings.clone()
            }
        };
        let settings = replicated::Settings {
            rows: options(&self.settings.metadata),
            log: options(&self.settings.replicas.log),
            ..self.settings.replicas.clone()
        };
        let (who, key) = (Who { node: cluster.me, shard }, self.keys.meta_key());
        let replica = Replica::open(&self.env, who, &key, places, how, cluster.ways(shard), settings).await?;
        self.marks.remember(replica.rows().members()).await;
        self.marks.remember(replica.log().members()).await;
        cluster.answer_for(shard, &replica);
        Ok(replica)
    }

    /// A shard's replica is looked after: who leads it, who keeps it.
    pub(crate) fn run_member(self: &Arc<Self>, shard: &Arc<MetaShard>, member: &Arc<Member>) {
        let (closing, member, number) = (self.clone(), member.clone(), shard.number);
        let work = member.clone().follow_lead(self.env.clone(), number, move || closing.is_closing());
        self.run("lead a shard", work);
        self.run("keep a shard's voters", super::voters::keep(self.clone(), number, member));
    }

    /// A store of one machine becomes the first node of a cluster, in place.
    async fn become_first(self: &Arc<Self>) -> Result<Arc<Cluster>> {
        let _one = self.changing.lock().await;
        if let Some(cluster) = self.cluster.get() {
            return Ok(cluster.clone());
        }
        let root = self.root().await?.ok_or_else(|| no_root(self))?;
        let file = self.first_file(&root).await?;
        let (id, key, now) = (self.id, file.signing_key().public(), self.env.clock.wall());
        let ask = self.introduction(self.settings.addresses.clone());
        change(&self.system, |view| members::found(view, &root, id, key, &ask, now)).await?;
        let cluster = self.start_cluster(&file).await?;
        let listens = self.listens(&cluster);
        let (me, name) = (cluster.me, self.settings.name.clone());
        change(&self.system, |view| Ok((members::moved(view, me, &listens, &name)?, ()))).await?;
        for shard in self.shards.all() {
            self.make_group(&shard, &cluster).await?;
        }
        self.run_group(Care::new(self.clone()));
        self.tell(Severity::Info, "node", &me.to_string(), "this machine is the first node of a cluster now".into());
        Ok(cluster)
    }

    /// The file of the first node: made, or what a first attempt left.
    async fn first_file(&self, root: &RootKey) -> Result<NodeFile> {
        let (disk, path, random) = (self.env.disk.clone(), self.node_file(), self.env.random::<32>());
        let known = {
            let (disk, path) = (disk.clone(), path.clone());
            move || if disk.exists(&path) { NodeFile::start(&*disk, &path).map(Some) } else { Ok(None) }
        };
        if let Some(file) = self.env.blocking(known).await.map_err(client::Error::from)?? {
            return Ok(file);
        }
        let (id, now) = (self.id, self.env.clock.wall());
        let ask = self.introduction(self.settings.addresses.clone());
        let key = crypt::SigningKey::from_seed(&random).public();
        let rule = |view: &dyn View| members::found(view, root, id, key, &ask, now);
        // What it will come to is written first: a cluster whose key nobody has could let nobody in.
        let membership = self.system.read(None, |view| Ok::<_, client::Error>(rule(view))).await??.1;
        let mut file = NodeFile::new(random, root.signing_key().public(), self.keys.clone(), membership);
        file.starts = 1;
        let (disk, written) = (self.env.disk.clone(), file.clone());
        self.env.blocking(move || written.write(&*disk, &path)).await.map_err(client::Error::from)??;
        Ok(file)
    }

    /// Where others reach this node.
    pub(crate) fn listens(&self, cluster: &Cluster) -> Vec<SocketAddr> {
        let port = cluster.endpoint.address().map_or(0, |address| address.port());
        let own = cluster.endpoint.address().filter(|address| !address.ip().is_unspecified());
        let mut all: Vec<SocketAddr> = self.settings.addresses.clone();
        all.iter_mut().filter(|address| address.port() == 0).for_each(|address| address.set_port(port));
        if all.is_empty() {
            all.extend(own);
        }
        all
    }

    /// A shard that this machine kept alone becomes a group, with the same rows.
    async fn make_group(self: &Arc<Self>, shard: &Arc<MetaShard>, cluster: &Arc<Cluster>) -> Result<()> {
        let Role::Alone(store, sequencer) = shard.role() else { return Ok(()) };
        shard.set_role(Role::Changing);
        let began = self.env.clock.now();
        // Requests that began before hold the sequencer; with the last of them it commits what it has, and ends.
        while Arc::strong_count(&sequencer) > 1 && self.env.clock.now().since(began) < DRAIN_MAX {
            self.env.clock.sleep(DRAIN_EACH).await;
        }
        drop(sequencer);
        while Arc::strong_count(&store) > 1 && self.env.clock.now().since(began) < DRAIN_MAX {
            self.env.clock.sleep(DRAIN_EACH).await;
        }
        store.close().await?;
        drop(store);
        let number = shard.number;
        self.keep(|kept| _ = kept.turns.entry(number).or_default()).await?;
        let replica = self.open_replica(shard.number, Begin::Found).await?;
        let token = replica.token();
        let member = Member::new(cluster.asker(shard.number), Some(replica));
        shard.set_role(Role::Member(member.clone()));
        self.run_member(shard, &member);
        let me = cluster.me;
        self.keep(|kept| _ = kept.tokens.insert(number, token)).await?;
        self.change(|view| {
            let plan = plan::plan(view, number)?.filter(|plan| plan.token == token);
            Ok(match plan {
                Some(_) => Default::default(),
                None => (plan::put_plan(number, &Plan { token, nodes: vec![me] }), ()),
            })
        })
        .await?;
        cluster.set_holders(number, vec![me]);
        Ok(())
    }

    /// Goes on as the node that the file says.
    pub(crate) async fn go_on(self: &Arc<Self>, file: &NodeFile) -> Result<()> {
        let cluster = self.start_cluster(file).await?;
        let mut care = Care::new(self.clone());
        // Before a replica is opened: it could win votes of others that were left out as well.
        if let Some(known) = self.newer_round(true).await {
            care.adopt(known).await?;
        }
        for shard in self.shards.all() {
            let number = shard.number;
            let kept = cluster.kept();
            let turn = kept.turns.get(&number).copied().unwrap_or(0);
            // Founding was cut short: it goes on.
            let is_first = number <= VOLUMES && file.ticket.is_none() && !kept.tokens.contains_key(&number);
            let replica = match is_first {
                true => {
                    let how = if self.remembers_replica(number, turn) { Begin::Existing } else { Begin::Found };
                    self.keep(|kept| _ = kept.turns.entry(number).or_default()).await?;
                    let replica = self.open_replica(number, how).await?;
                    let token = replica.token();
                    self.keep(|kept| _ = kept.tokens.insert(number, token)).await?;
                    Some(replica)
                }
                false => None,
            };
            let member = Member::new(cluster.asker(number), replica);
            shard.set_role(Role::Member(member.clone()));
            self.run_member(&shard, &member);
        }
        for shard in self.shards.all() {
            if let Err(error) = care.open(&shard).await {
                tracing::warn!(shard = shard.number, %error, "this node's replica can't be opened: trying again");
            }
        }
        self.run_group(care);
        if file.list.get(cluster.me).is_some_and(|member| member.previous.is_some()) {
            self.run("retire a key", self.clone().retire_key());
        }
        Ok(())
    }

    /// What goes on as long as there are other nodes.
    fn run_group(self: &Arc<Self>, care: Care) {
        self.run("follow the catalog", super::follow::follow(self.clone()));
        self.run("make shards", super::grow::keep(self.clone()));
        self.run("look after replicas", super::care::care(care));
        self.run("keep checkpoints", super::checkpoints::keep(self.clone()));
        self.run("keep leads even", super::leads::keep(self.clone()));
    }
}

/// What the drives remember of a store that was begun in that turn.
fn remembered(marks: &Marks, store: u32, turn: u32) -> Option<metastore::MemberSet> {
    marks.newest(store).filter(|set| set.epoch.0 >> TURN_BITS == u64::from(turn))
}

/// The stores of a replica.
pub(crate) fn stores(shard: u32) -> [u32; 2] {
    [shard, shard | LOG_BIT]
}

/// Where a replica that was begun in that turn lies; `new`: where one that is to begin goes.
pub(crate) fn places(marks: &Marks, shard: u32, turn: u32, new: impl Fn() -> Vec<(DriveId, PathBuf)>) -> Places {
    let here = marks.places();
    let dirs = |store: u32| -> (Vec<Mirror>, Option<metastore::MemberSet>) {
        let known = remembered(marks, store, turn);
        let chosen: Vec<(DriveId, PathBuf)> = match &known {
            Some(set) => here.iter().filter(|(drive, _)| set.drives.contains(drive)).cloned().collect(),
            None => new(),
        };
        (chosen.iter().map(|(drive, path)| mirror(*drive, path, store)).collect(), known)
    };
    let ((rows, rows_expected), (log, log_expected)) = (dirs(shard), dirs(shard | LOG_BIT));
    Places { rows, rows_expected, log, log_expected }
}

pub(crate) fn no_root(inner: &Inner) -> Error {
    Error::Refused(format!(
        "the root key isn't on this node, so it can let nobody in: run this on the node that has {}, or restore the key here with `abide up --words`",
        inner.key_file().display()
    ))
}

/// What a node says of itself.
pub(crate) fn introduction(settings: &crate::Settings, addresses: Vec<SocketAddr>) -> JoinAsk {
    JoinAsk {
        versions: settings.transport.versions.clone(),
        addresses,
        labels: settings.labels.clone(),
        name: settings.name.clone(),
    }
}

/// Who may come, and who has to go.
impl Node {
    /// A ticket with which one machine can join within `valid`. The first one makes this machine the first
    /// node of a cluster.
    pub async fn invite(&self, valid: Duration) -> Result<wire::Ticket> {
        let inner = &self.0;
        let root = inner.root().await?.ok_or_else(|| no_root(inner))?;
        let cluster = inner.become_first().await?;
        let addresses = inner.listens(&cluster);
        let (now, random) = (inner.env.clock.wall(), inner.env.random());
        let ticket = members::invite(&root, inner.id, &addresses, valid, now, random)?;
        inner.tell(
            Severity::Info,
            "node",
            "",
            format!("a ticket was made; it is good until {}", (now + valid).rfc3339()),
        );
        Ok(ticket)
    }
}
