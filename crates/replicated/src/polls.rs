//! Does this replica lead still? Asked of the others before a read (read index: Ongaro, *Consensus*, 2014, 6.4).
//!
//! The library would ask by heartbeats: one after the other to each replica, given up when the next one is due. So a read waited
//! for up to two ways there and back, and a replica that is further away than the time between two heartbeats never counted. Here a
//! *poll* goes to all voters at once. Reads that come within [`EACH`] of each other share one.
//!
//! It is right because votes only rise. The poll begins after its reads, with what was agreed on by then; that counts if this
//! leader had an entry of its own agreed on. If anybody had been elected after it and acknowledged something before the poll began, most voters would have
//! had that one's vote by then, and at least one of them would be among those that, asked later, have this leader's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Instant, NodeId};
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::Error;
use crate::peers::{AskError, Lane};
use crate::replica::Shared;
use crate::types::{Group, Vote};
use crate::watched::{self, Receiver, Sender};
use crate::wire::{Ask, Reply};

/// While a poll is on its way the next one begins no sooner than this after it: many reads share it.
const EACH: Duration = Duration::from_millis(10);

/// How a poll ended: up to where must be applied before its reads.
type Outcome = Result<u64, Error>;

/// The polls of one replica.
pub(crate) struct Polls {
    plan: Mutex<Plan>,
    /// How many have ended.
    ended: Sender<u64>,
}

struct Plan {
    /// The poll that has not begun.
    next: Option<Receiver<Option<Outcome>>>,
    under_way: usize,
    /// When the last one began.
    begun: Instant,
}

impl Polls {
    pub fn new() -> Self {
        let plan = Plan { next: None, under_way: 0, begun: Instant(0) };
        Self { plan: Mutex::new(plan), ended: watched::channel(0).0 }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A leader as it stands.
struct Leader {
    vote: Vote,
    /// The last log entry that is agreed on, if it is one of this leader's own.
    index: Option<u64>,
    /// Sets of voters, of each of which most must agree.
    voters: Vec<BTreeSet<NodeId>>,
}

fn standing(state: &openraft::RaftState<Group>, me: NodeId) -> Option<Leader> {
    let vote = *state.vote_ref();
    let leads = vote.committed && vote.leader_id.node_id == me;
    leads.then(|| Leader {
        vote,
        index: state.local_committed().filter(|id| id.leader_id == vote.leader_id).map(|id| id.index),
        voters: state.membership_state.effective().membership().get_joint_config().clone(),
    })
}

impl Shared {
    /// Up to where must be applied before a read that is asked for now, if this replica leads.
    pub async fn asked_index(self: &Arc<Self>) -> Outcome {
        let ended = self.join_poll().until(Option::is_some).await.flatten();
        ended.unwrap_or_else(|| Err(Error::stopped("a poll was cut short")))
    }

    /// Whether a replica that says it leads is the one that this one last voted for, or followed.
    pub async fn is_led_by(&self, vote: Vote) -> Result<bool, Error> {
        let same = self.library.with_raft_state(move |state| state.vote_ref().leader_id == vote.leader_id);
        same.await.map_err(Error::stopped)
    }

    fn join_poll(self: &Arc<Self>) -> Receiver<Option<Outcome>> {
        let mut plan = self.polls.plan();
        if let Some(next) = &plan.next {
            return next.clone();
        }
        let (tell, outcome) = watched::channel(None);
        plan.next = Some(outcome.clone());
        let shared = Arc::clone(self);
        self.env.spawn("read poll", async move {
            shared.wait_turn().await;
            {
                // Who comes from now on joins the next one.
                let mut plan = shared.polls.plan();
                plan.next = None;
                plan.under_way += 1;
                plan.begun = shared.env.clock.now();
            }
            let done = shared.poll().await;
            {
                let mut plan = shared.polls.plan();
                plan.under_way -= 1;
                let ended = *shared.polls.ended.look() + 1;
                shared.polls.ended.set(ended);
            }
            tell.set(Some(done));
        });
        outcome
    }

    async fn wait_turn(&self) {
        let mut ended = self.polls.ended.follow();
        let wait = {
            let plan = self.polls.plan();
            let since = self.env.clock.now().since(plan.begun);
            if plan.under_way > 0 { EACH.saturating_sub(since) } else { Duration::ZERO }
        };
        if !wait.is_zero() {
            self.env.timeout(wait, ended.next()).await;
        }
    }

    async fn poll(&self) -> Outcome {
        let me = self.who.node;
        let leader = self.library.with_raft_state(move |state| standing(state, me)).await.map_err(Error::stopped)?;
        // Who just began to lead waits for its first entry; who doesn't is told who does.
        let Some(Leader { vote, index: Some(index), voters }) = leader else { return self.library_index().await };
        let mut led = BTreeSet::from([me]);
        let is_enough = |led: &BTreeSet<NodeId>| voters.iter().all(|set| 2 * set.intersection(led).count() > set.len());
        if is_enough(&led) {
            return Ok(index);
        }
        let others: BTreeSet<NodeId> = voters.iter().flatten().copied().filter(|node| *node != me).collect();
        let limit = self.settings.election_max;
        let ask = |node| async move { (node, self.wires.ask(node, Lane::Control, Ask::Led(vote), limit).await) };
        let mut answers: FuturesUnordered<_> = others.into_iter().map(ask).collect();
        let mut is_unknown = false;
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(Reply::Led(true)) => _ = led.insert(node),
                Ok(Reply::Led(false)) | Err(AskError::Send(_)) => {}
                // A release before this question was.
                Ok(_) | Err(_) => is_unknown = true,
            }
            if is_enough(&led) {
                return Ok(index);
            }
        }
        if is_unknown { self.library_index().await } else { Err(Error::NoMajority { waited: limit }) }
    }
}
