//! A metadata shard of this node: alone, or with other nodes; led here, or elsewhere.
//!
//! A store of one machine keeps its shards by itself ([`Role::Alone`]). Once there are other nodes each
//! shard is a group of replicas, and whichever of them leads evaluates all changes; who doesn't lead
//! sends changes there and fetches rows from there ([`super::meta`]). A change that got no answer is
//! sent again under the same id, to whoever leads by then, so that it is made once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use base::kv::{Batch, View};
use base::{Instant, Kind, NodeId, Seq, VolumeId, Wall};
use client::shard::{Cut, Hint, Metadata, Rule};
use env::Env;
use metastore::remote::{Proposal, Recorder, Rows, Wants};
use metastore::{Embedded, Sequencer, ShardStore as _, Snapshot};
use namespace::Outcome;
use namespace::wire::Tail;
use namespace::work::{self, Work};
use replicated::{Leading, Read, Replica};
use tokio::sync::watch;

use super::meta::{Answer, Ask, Asker, Refusal};
use super::tail;
use crate::node::SYSTEM;

/// How long a request waits for somebody to lead the shard.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts, if nothing says that something changed.
const PAUSE: Duration = Duration::from_millis(50);
/// A change that takes longer is slow; after so many in a row another node is to lead, if one can.
const SLOW: Duration = Duration::from_millis(700);
const SLOW_MAX: u32 = 3;
/// A node that gave the lead away for that reason does so again no sooner: perhaps all are slow.
const ASIDE: Duration = Duration::from_secs(30);
/// Who waits for the journal to go on looks so often if it is led elsewhere, and that often if it may be by then.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_HERE: Duration = Duration::from_secs(1);
/// How long another one may take to take the lead.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);
/// How long a majority may take to say that this node leads still.
const BARRIER_MAX: Duration = Duration::from_secs(2);

/// The shard in the hands of this node.
pub(crate) struct Lead {
    leading: Arc<Leading>,
    sequencer: Sequencer,
    /// Changes in a row that took long.
    slow: AtomicU32,
}

impl Lead {
    /// Waits until it is certain that nobody else led the shard when this was called.
    async fn barrier(&self) -> Result<(), replicated::Error> {
        self.leading.read_barrier(Read::Index, BARRIER_MAX).await.map(|_| ())
    }
}

/// This node's part in the group of a shard.
pub(crate) struct Member {
    /// Its replica, if it has one.
    pub replica: RwLock<Option<Arc<Replica>>>,
    /// The way to those who have one.
    pub asker: Asker,
    /// What it leads by.
    lead: watch::Sender<Option<Arc<Lead>>>,
}

/// How the shard is kept.
#[derive(Clone)]
pub(crate) enum Role {
    /// By this machine alone.
    Alone(Arc<Embedded>, Arc<Sequencer>),
    /// It is becoming a group right now.
    Changing,
    /// Together with other nodes.
    Member(Arc<Member>),
}

/// A shard. One for a process.
pub(crate) struct MetaShard {
    env: Env,
    /// Its number.
    pub number: u32,
    role: watch::Sender<Role>,
}

/// What an attempt came to.
enum Tried<T> {
    Done(T),
    /// Somebody else leads, or nobody knows: try again.
    Again(String),
}

impl MetaShard {
    pub fn new(env: &Env, number: u32, role: Role) -> Arc<Self> {
        Arc::new(Self { env: env.clone(), number, role: watch::Sender::new(role) })
    }

    /// How it is kept from now on.
    pub fn set_role(&self, role: Role) {
        self.role.send_replace(role);
    }

    pub fn role(&self) -> Role {
        self.role.borrow().clone()
    }

    /// This node's part in its group.
    pub fn member(&self) -> Option<Arc<Member>> {
        match self.role() {
            Role::Member(member) => Some(member),
            _ => None,
        }
    }

    /// The replica here.
    pub fn replica(&self) -> Option<Arc<Replica>> {
        self.member()?.replica()
    }

    /// The stores of it in this process, for what concerns their mirrors.
    pub fn stores(&self) -> Vec<Arc<Embedded>> {
        match self.role() {
            Role::Alone(store, _) => vec![store],
            Role::Changing => Vec::new(),
            Role::Member(member) => {
                member.replica().map(|replica| vec![replica.rows().clone(), replica.log().clone()]).unwrap_or_default()
            }
        }
    }

    /// Ends it in order, so that the next start has nothing to replay.
    pub async fn close(&self) -> crate::Result<()> {
        match self.role() {
            Role::Alone(store, _) => Ok(store.close().await?),
            Role::Changing => Ok(()),
            Role::Member(member) => match member.replica() {
                Some(replica) => Ok(replica.close().await?),
                None => Ok(()),
            },
        }
    }

    async fn settled(&self) -> Role {
        let mut role = self.role.subscribe();
        // The sender lives as long as this.
        match role.wait_for(|role| !matches!(role, Role::Changing)).await {
            Ok(role) => role.clone(),
            Err(_) => Role::Changing,
        }
    }

    fn patience(&self, member: &Member) -> Patience<'_> {
        Patience { shard: self, lead: member.lead.subscribe(), began: self.env.clock.now() }
    }

    /// One attempt at a cut.
    async fn cut_once(&self, member: &Member, wants: &Wants, hint: Option<&Hint>) -> Tried<Cut> {
        if let Some(lead) = member.lead() {
            return match lead.cut().await {
                Ok(snapshot) => Tried::Done(Cut::Whole(snapshot)),
                Err(error) => Tried::Again(error.to_string()),
            };
        }
        // The catalog is with every node; of volumes the rows come from who leads.
        if let Some(replica) = member.replica().filter(|_| self.number == SYSTEM) {
            let here = async {
                replica.read_barrier(Read::Index, BARRIER_MAX).await?;
                replica.snapshot()
            };
            return match here.await {
                Ok(snapshot) => Tried::Done(Cut::Whole(snapshot)),
                Err(error) => Tried::Again(error.to_string()),
            };
        }
        let ask = Ask::Fetch { wants: wants.clone(), hint: hint.cloned() };
        match member.ask(&ask).await {
            Ok(Answer::Rows(rows)) => Tried::Done(Cut::Part(rows)),
            Ok(other) => Tried::Again(other.to_string()),
            Err(why) => Tried::Again(why),
        }
    }

    /// What a rule would change, and the rows that it looked at.
    async fn propose(&self, member: &Member, rule: &mut Rule<'_>) -> Result<Tried<Proposal>, client::Error> {
        let mut wants = Wants::default();
        loop {
            let cut = match self.cut_once(member, &wants, None).await {
                Tried::Done(cut) => cut,
                Tried::Again(why) => return Ok(Tried::Again(why)),
            };
            let ran = cut.run(|view| {
                let recorder = Recorder::new(view, cut.at());
                let done = rule(&recorder);
                done.map(|batch| (batch, recorder.read_set()))
            });
            match ran {
                Err(more) => wants.extend(more)?,
                Ok(done) => {
                    let (batch, reads) = done?;
                    return Ok(Tried::Done(Proposal { reads: reads?, batch }));
                }
            }
        }
    }

    /// One attempt to have a proposal committed.
    async fn propose_once(
        &self,
        member: &Member,
        (id, at): ([u8; 16], Wall),
        proposal: &Proposal,
    ) -> Result<Answer, String> {
        let Some(lead) = member.lead() else {
            return member.ask(&Ask::Propose { id, at, proposal: proposal.clone() }).await;
        };
        let done = lead.propose((id, at), self.env.clock.wall(), proposal).await;
        done.map(proposed).map_err(|error| error.to_string())
    }

    /// What the journal has of a volume behind a place, as who leads has it; without a place where it ends.
    ///
    /// # Errors
    /// If who leads the shard can't be asked in time.
    pub async fn tail(&self, volume: VolumeId, after: Option<Seq>) -> Result<Tail, client::Error> {
        let member = match self.settled().await {
            Role::Alone(store, _) => {
                let read = move || tail::part(&*store, volume, after);
                return Ok(self.env.blocking(read).await.map_err(client::Error::from)??);
            }
            Role::Changing => return Err(closing()),
            Role::Member(member) => member,
        };
        let mut patience = self.patience(&member);
        loop {
            let why = match member.lead() {
                Some(lead) => match lead.tail(&self.env, volume, after).await {
                    Ok(tail) => return Ok(tail),
                    Err(error) => error.to_string(),
                },
                None => match member.ask(&Ask::Tail { volume, after }).await {
                    Ok(Answer::Tail(tail)) => return Ok(tail),
                    Ok(other) => other.to_string(),
                    Err(why) => why,
                },
            };
            patience.wait(why).await?;
        }
    }

    /// Until the journal may have gone on behind a place, or for so long.
    pub async fn grown(&self, after: Seq, at_most: Duration) {
        let head = match self.role() {
            Role::Alone(_, sequencer) => Some(sequencer.head()),
            Role::Changing => None,
            Role::Member(member) => member.lead().map(|lead| lead.sequencer.head()),
        };
        match head {
            // Another node may come to lead meanwhile.
            Some(mut head) => _ = self.env.timeout(at_most.min(LOOK_HERE), head.wait_for(|head| *head > after)).await,
            None => self.env.clock.sleep(at_most.min(LOOK)).await,
        }
    }

    /// Answers another node, if this one leads.
    pub async fn answer(&self, ask: Ask) -> Answer {
        let Some(member) = self.member() else { return Answer::Elsewhere(None) };
        let Some(lead) = member.lead() else { return Answer::Elsewhere(member.leader()) };
        let now = self.env.clock.wall();
        let done = match ask {
            Ask::Fetch { wants, hint } => lead.fetch(&self.env, wants, hint).await.map(Answer::Rows),
            Ask::Work(work) => {
                lead.work(&self.env, &work).await.map(|done| done.map_or_else(Answer::Refused, Answer::Done))
            }
            Ask::Propose { id, at, proposal } => lead.propose((id, at), now, &proposal).await.map(proposed),
            Ask::Tail { volume, after } => lead.tail(&self.env, volume, after).await.map(Answer::Tail),
        };
        done.unwrap_or_else(|error| {
            tracing::debug!(shard = self.number, %error, "another node's request is not answered");
            Answer::Open
        })
    }
}

/// Waiting for somebody to lead a shard.
struct Patience<'a> {
    shard: &'a MetaShard,
    lead: watch::Receiver<Option<Arc<Lead>>>,
    began: Instant,
}

impl Patience<'_> {
    /// Waits until this node leads, or it is time to ask again; fails once that takes too long.
    async fn wait(&mut self, why: String) -> Result<(), client::Error> {
        let MetaShard { env, number, .. } = self.shard;
        if env.clock.now().since(self.began) >= PATIENCE {
            let secs = PATIENCE.as_secs();
            let text = format!(
                "shard {number}: no node leads it after {secs} s ({why}); see `abide status`: most of its voters must be up"
            );
            return Err(client::Error::Metadata { kind: Kind::Unreachable, text });
        }
        // Its sender lives as long as the member.
        let changed = async { self.lead.changed().await.is_ok() };
        env.timeout(PAUSE, changed).await;
        Ok(())
    }
}

impl Member {
    pub fn new(asker: Asker, replica: Option<Arc<Replica>>) -> Arc<Self> {
        Arc::new(Self { replica: RwLock::new(replica), asker, lead: watch::Sender::new(None) })
    }

    pub fn replica(&self) -> Option<Arc<Replica>> {
        self.replica.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_replica(&self, replica: Option<Arc<Replica>>) {
        *self.replica.write().unwrap_or_else(PoisonError::into_inner) = replica;
    }

    pub fn lead(&self) -> Option<Arc<Lead>> {
        self.lead.borrow().clone()
    }

    /// Whether somebody leads the shard, as far as this node can know without asking: who isn't of the group isn't told.
    pub fn is_led(&self) -> bool {
        self.replica().is_none_or(|replica| !self.takes_part(&replica)) || self.leader().is_some()
    }

    /// Whether the group still has this node's replica, as far as it was told.
    pub fn takes_part(&self, replica: &Replica) -> bool {
        let (status, me) = (replica.status(), self.asker.me());
        let status = status.borrow();
        status.voters.contains(&me) || status.learners.contains(&me)
    }

    /// Asks whoever leads.
    async fn ask(&self, ask: &Ask) -> Result<Answer, String> {
        self.asker.ask(ask, self.replica().map(|replica| replica.status())).await
    }

    /// Who leads, as far as the replica here knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.replica()?.status().borrow().leader
    }

    /// A node answered as only who leads does.
    pub fn heard(&self, leader: NodeId) {
        self.asker.heard(leader);
    }

    /// Who leads, as far as anybody here knows.
    pub fn leads(&self) -> Option<NodeId> {
        self.leader().or(self.asker.leader())
    }

    /// Claims the shard when this node's replica comes to lead, and lets go when it doesn't any more, until
    /// `is_over`.
    pub async fn follow_lead(self: Arc<Self>, env: Env, shard: u32, is_over: impl Fn() -> bool + Send) {
        let mut aside: Option<Instant> = None;
        while !is_over() {
            let Some(replica) = self.replica() else {
                self.lead.send_replace(None);
                env.clock.sleep(PAUSE).await;
                continue;
            };
            let mut status = replica.status();
            let leads = status.borrow_and_update().is_leader;
            // Another may have led in between.
            let is_fenced = |lead: &Lead| lead.leading.position().0 < replica.position().0;
            let is_broken = self.lead().is_some_and(|lead| lead.sequencer.is_shut() || is_fenced(&lead));
            if !leads || is_broken {
                self.lead.send_if_modified(|lead| lead.take().is_some());
            }
            if leads && self.lead().is_none() {
                match replica.lead().await {
                    Ok(leading) => {
                        tracing::info!(shard, "this node leads the shard");
                        let sequencer = Sequencer::new(&env, leading.clone());
                        let lead = Lead { leading, sequencer, slow: AtomicU32::new(0) };
                        self.lead.send_replace(Some(Arc::new(lead)));
                    }
                    Err(error) => tracing::debug!(shard, %error, "the shard can't be claimed yet"),
                }
            }
            let is_slow = self.lead().is_some_and(|lead| lead.slow.load(Ordering::Relaxed) >= SLOW_MAX);
            let now = env.clock.now();
            if is_slow && aside.is_none_or(|at| now.since(at) >= ASIDE) {
                aside = Some(now);
                hand_over(&replica, shard, "it is slow").await;
            }
            // Looked at now and then as well: a sequencer may break.
            env.timeout(PAUSE, status.changed()).await;
        }
        self.lead.send_replace(None);
    }
}

/// Gives the lead to the voter that has most.
pub(super) async fn hand_over(replica: &Replica, shard: u32, why: &str) {
    let status = replica.status().borrow().clone();
    let others = status.matched.iter().filter(|(node, _)| status.voters.contains(node));
    if let Some((to, _)) = others.max_by_key(|(_, matched)| **matched) {
        hand_over_to(replica, shard, *to, why).await;
    }
}

/// Gives the lead to this voter.
pub(super) async fn hand_over_to(replica: &Replica, shard: u32, to: NodeId, why: &str) {
    tracing::info!(shard, %to, why, "this node gives the lead to another one");
    if let Err(error) = replica.transfer(to, HAND_OVER_MAX).await {
        tracing::info!(shard, %error, "the lead was not taken");
    }
}

/// Why a batch isn't committed.
enum Unheld {
    /// The rows have changed.
    Stale,
    /// The rules say no.
    Rules(namespace::Error),
}

impl From<namespace::Error> for Unheld {
    fn from(error: namespace::Error) -> Self {
        Unheld::Rules(error)
    }
}

/// The rules' word, or that the shard must be asked elsewhere.
enum Failed {
    Rules(namespace::Error),
    Store(metastore::Error),
}

impl From<metastore::Error> for Failed {
    fn from(error: metastore::Error) -> Self {
        Failed::Store(error)
    }
}

type Led<T> = Result<T, replicated::Error>;

impl Lead {
    /// Evaluates a rule; a refusal counts only if this node led when it was made.
    async fn execute<T>(
        &self,
        rule: impl FnOnce(&dyn View) -> Result<(Batch, T), namespace::Error> + Send,
    ) -> Led<Result<T, namespace::Error>> {
        let mut changes = false;
        let evaluated = |view: &dyn View| {
            let done = rule(view).map_err(Failed::Rules);
            changes = done.as_ref().is_ok_and(|(batch, _)| !batch.is_empty());
            done
        };
        match self.sequencer.execute(evaluated).await {
            // It was committed, so this node led.
            Ok((_, done)) if changes => Ok(Ok(done)),
            Ok((_, done)) => self.barrier().await.map(|()| Ok(done)),
            Err(Failed::Rules(error)) => self.barrier().await.map(|()| Err(error)),
            Err(Failed::Store(error)) => Err(error.into()),
        }
    }

    async fn work(&self, env: &Env, work: &Work) -> Led<Result<Outcome, Refusal>> {
        let (began, now) = (env.clock.now(), env.clock.wall());
        let done = self.execute(|view| work::evaluate_once(view, work, now)).await?;
        if env.clock.now().since(began) > SLOW {
            self.slow.fetch_add(1, Ordering::Relaxed);
        } else {
            self.slow.store(0, Ordering::Relaxed);
        }
        Ok(done.map_err(Refusal))
    }

    /// Commits a batch, once, if the rows that it was made from are as they were; whether they were.
    async fn propose(&self, name: ([u8; 16], Wall), now: Wall, proposal: &Proposal) -> Led<Result<bool, Refusal>> {
        let change = |view: &dyn View| match proposal.reads.holds(view).map_err(namespace::Error::from)? {
            true => Ok((proposal.batch.clone(), Outcome::default())),
            false => Err(Unheld::Stale),
        };
        let rule = |view: &dyn View| match work::once(view, name, now, || change(view)) {
            Ok((batch, _)) => Ok((batch, true)),
            Err(Unheld::Stale) => Ok((Batch::default(), false)),
            Err(Unheld::Rules(error)) => Err(error),
        };
        Ok(self.execute(rule).await?.map_err(Refusal))
    }

    async fn cut(&self) -> Led<Box<dyn Snapshot>> {
        self.barrier().await?;
        Ok(self.sequencer.read()?)
    }

    /// What the journal has of a volume behind a place.
    async fn tail(&self, env: &Env, volume: VolumeId, after: Option<Seq>) -> Led<Tail> {
        // What is in the journal was agreed on, whoever leads. That something isn't, only who leads can say.
        if after.is_some_and(|after| after > self.leading.position().1) {
            self.barrier().await?;
        }
        let leading = self.leading.clone();
        let broken = |why: String| replicated::Error::from(metastore::Error::Broken { why });
        let read = env.blocking(move || tail::part(&*leading, volume, after)).await;
        Ok(read.map_err(|error| broken(error.to_string()))??)
    }

    /// The rows that a reader elsewhere wants.
    async fn fetch(&self, env: &Env, wants: Wants, hint: Option<Hint>) -> Led<Rows> {
        let snapshot = self.cut().await?;
        let read = move || {
            let recorder = Recorder::new(&*snapshot, snapshot.at());
            if let Some((volume, query)) = hint {
                // What it comes to is found out by who asks, from the same rows.
                let _ = query.run(&recorder, volume);
            }
            wants.iter().try_for_each(|read| read.of(&recorder).map(|_| ()))?;
            Ok(recorder.rows())
        };
        let broken = |why: String| replicated::Error::from(metastore::Error::Broken { why });
        let rows = env.blocking(read).await.map_err(|error| broken(error.to_string()))?;
        rows.map_err(|error: base::kv::ViewError| broken(error.to_string()))
    }
}

fn proposed(done: Result<bool, Refusal>) -> Answer {
    match done {
        Ok(true) => Answer::Changed,
        Ok(false) => Answer::Stale,
        Err(refusal) => Answer::Refused(refusal),
    }
}

fn closing() -> client::Error {
    client::Error::Metadata { kind: Kind::Unreachable, text: "the node is being closed".into() }
}

#[async_trait]
impl Metadata for MetaShard {
    fn is_led_here(&self) -> bool {
        match &*self.role.borrow() {
            Role::Alone(..) => true,
            Role::Changing => false,
            Role::Member(member) => member.lead.borrow().is_some(),
        }
    }

    fn here(&self) -> Result<Option<Box<dyn Snapshot>>, client::Error> {
        match self.role() {
            Role::Alone(_, sequencer) => Ok(Some(sequencer.read()?)),
            Role::Changing => Ok(None),
            Role::Member(member) => match member.replica() {
                // A replica that is being filled is as good as none, and so is one that left the group.
                Some(replica) if member.takes_part(&replica) => Ok(replica.snapshot().ok()),
                _ => Ok(None),
            },
        }
    }

    async fn cut(&self, wants: &Wants, hint: Option<&Hint>) -> Result<Cut, client::Error> {
        let member = match self.settled().await {
            Role::Alone(_, sequencer) => return Ok(Cut::Whole(sequencer.read()?)),
            Role::Changing => return Err(closing()),
            Role::Member(member) => member,
        };
        let mut patience = self.patience(&member);
        loop {
            match self.cut_once(&member, wants, hint).await {
                Tried::Done(cut) => return Ok(cut),
                Tried::Again(why) => patience.wait(why).await?,
            }
        }
    }

    async fn change(&self, rule: &mut Rule<'_>) -> Result<(), client::Error> {
        let member = match self.settled().await {
            Role::Alone(_, sequencer) => return Metadata::change(&*sequencer, rule).await,
            Role::Changing => return Err(closing()),
            Role::Member(member) => member,
        };
        let mut name = (self.env.random(), self.env.clock.wall());
        let mut patience = self.patience(&member);
        // A change whose answer was lost is settled before the rule runs again: it would see its own effects.
        let mut open: Option<Proposal> = None;
        loop {
            let was_open = open.is_some();
            let proposal = match open.take() {
                Some(proposal) => proposal,
                None => match self.propose(&member, rule).await? {
                    // It changes nothing: what it saw was so.
                    Tried::Done(proposal) if proposal.batch.is_empty() => return Ok(()),
                    Tried::Done(proposal) => proposal,
                    Tried::Again(why) => {
                        patience.wait(why).await?;
                        continue;
                    }
                },
            };
            match self.propose_once(&member, name, &proposal).await {
                Ok(Answer::Changed) => return Ok(()),
                // Others changed what it was made from.
                Ok(Answer::Stale) => {}
                // This machine's clock is far off: the leader's counts. It was never tried under this name.
                Ok(Answer::Refused(Refusal(namespace::Error::Stale { made }))) if !was_open => {
                    name = (self.env.random(), made);
                    patience.wait("this node's clock is far off".into()).await?;
                }
                Ok(Answer::Refused(Refusal(error))) => return Err(error.into()),
                other => {
                    open = Some(proposal);
                    patience.wait(other.map_or_else(|why| why, |answer| answer.to_string())).await?;
                }
            }
        }
    }

    async fn work(&self, work: Work) -> Result<Outcome, client::Error> {
        let member = match self.settled().await {
            Role::Alone(_, sequencer) => return Metadata::work(&*sequencer, work).await,
            Role::Changing => return Err(closing()),
            Role::Member(member) => member,
        };
        let mut work = work;
        let mut patience = self.patience(&member);
        // Whether an attempt had no answer, so that the work may have been done.
        let mut is_open = false;
        loop {
            let answer = match member.lead() {
                Some(lead) => match lead.work(&self.env, &work).await {
                    Ok(done) => Ok(done.map_or_else(Answer::Refused, Answer::Done)),
                    Err(error) => Err(error.to_string()),
                },
                None => member.ask(&Ask::Work(work.clone())).await,
            };
            let why = match answer {
                Ok(Answer::Done(outcome)) => return Ok(outcome),
                // This machine's clock is far off: the leader's counts.
                Ok(Answer::Refused(Refusal(namespace::Error::Stale { made }))) if !is_open => {
                    (work.id, work.made) = (self.env.random(), made);
                    "this node's clock is far off".into()
                }
                Ok(Answer::Refused(Refusal(error))) => return Err(error.into()),
                Ok(other) => {
                    is_open |= !matches!(other, Answer::Elsewhere(_));
                    other.to_string()
                }
                Err(why) => {
                    is_open = true;
                    why
                }
            };
            patience.wait(why).await?;
        }
    }
}
