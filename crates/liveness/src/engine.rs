//! The rules: what to send, whom to believe, who stands how. No clock, no socket, no task.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use base::{Instant, Kind, Kinded, NodeId, Standing};
use bytes::Bytes;
use foca::{Foca, Member, NoCustomBroadcast, Notification, PeriodicParams, Runtime, State, Timer};

use rand::Rng;

use crate::wire::{self, Heard, Identity, MESSAGE_BYTES_MAX, Wire};

/// Others that are asked to look after a node that doesn't answer.
const INDIRECT: NonZeroUsize = NonZeroUsize::new(3).expect("3 is not 0");
/// How often news are passed on: enough for hundreds of nodes (log n times a few).
const TRANSMISSIONS: NonZeroU8 = NonZeroU8::new(12).expect("12 is not 0");
/// How often, and to how many, news are passed on beside questions and answers.
const GOSSIP: Duration = Duration::from_millis(500);
/// How often another node is asked for all it knows: news alone may miss somebody after a split.
const ASK: Duration = Duration::from_secs(5);
/// How often nodes that don't answer are spoken to, and how many of them at a time.
const CALL: Duration = Duration::from_secs(5);
const CALLED: usize = 3;
/// How soon again at the earliest.
const CALL_AGAIN: Duration = Duration::from_secs(1);
/// A new incarnation in so many spans of [`CONTEST_STEP`] within [`CONTEST`] means that another process
/// has this node's key; a node that only comes back needs one or two.
const CONTESTED: usize = 6;
const CONTEST_STEP: Duration = Duration::from_secs(3);
const CONTEST: Duration = Duration::from_secs(60);
/// Timers that wait at the most: foca keeps a few, and one for each suspicion.
const TIMERS_MAX: usize = 1 << 16;

/// How patient a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Every so often each node asks another one; who didn't answer until the next is suspected.
    pub probe_period: Duration,
    /// How long an answer is waited for before others are asked to look; less than a third of the period.
    pub probe_timeout: Duration,
    /// How long a suspected node may object.
    pub suspicion: Duration,
    /// How long a node is down until it is gone.
    pub gone_after: Duration,
}

impl Default for Settings {
    /// Slower answers than a second and a half are rare even between continents; a node that hangs is
    /// suspected within about two periods, and down after the suspicion.
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(1500),
            probe_timeout: Duration::from_millis(500),
            suspicion: Duration::from_secs(4),
            gone_after: Duration::from_secs(3600),
        }
    }
}

impl Settings {
    fn foca(&self) -> foca::Config {
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_timeout,
            num_indirect_probes: INDIRECT,
            max_transmissions: TRANSMISSIONS,
            suspect_to_down_after: self.suspicion,
            // An older incarnation never counts again, however long ago it was.
            remove_down_after: None,
            max_packet_size: NonZeroUsize::MIN.saturating_add(MESSAGE_BYTES_MAX - 1),
            notify_down_members: true,
            periodic_announce: Some(PeriodicParams { frequency: ASK, num_members: NonZeroUsize::MIN }),
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(PeriodicParams { frequency: GOSSIP, num_members: INDIRECT }),
        }
    }

    /// How long a node that was never heard of is waited for.
    fn grace(&self) -> Duration {
        self.suspicion + self.probe_period * 2
    }
}

/// Whether a node is reached by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answers this node.
    Direct,
    /// Only others vouched for it lately: the way from here to there, or back, is cut.
    Indirect,
}

/// What this node knows of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// How it stands.
    pub standing: Standing,
    /// Since when.
    pub since: Instant,
    /// The incarnation heard of last; 0 if none.
    pub incarnation: u64,
    /// Whether it was reached directly.
    pub reach: Reach,
    /// Since when it is down or gone.
    down_since: Option<Instant>,
    /// When it was named as a member.
    named: Instant,
    told_gone: bool,
    /// As foca has it; `None` if it never heard of the node.
    state: Option<State>,
    /// Since when foca suspects it without a break.
    suspected: Option<Instant>,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this to that node. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// The message.
        message: Bytes,
    },
    /// A node stands differently.
    Changed {
        /// Which.
        node: NodeId,
        /// How it stood.
        from: Standing,
        /// How it stands now.
        to: Standing,
    },
    /// Another process seems to run with this node's key: both declare each other void without end.
    Contested {
        /// The incarnation that this node has come to.
        incarnation: u64,
    },
}

/// A message that isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It isn't from whom it says.
    #[error("liveness message from {from} is not taken: it says that it is from {claims}")]
    Sender {
        /// Who sent it.
        from: NodeId,
        /// Who it says did.
        claims: NodeId,
    },
    /// The sender was told to be gone.
    #[error("liveness message from {from} is not taken: the owner said that this node is gone; let it join anew")]
    Gone {
        /// Who sent it.
        from: NodeId,
    },
    /// It can't be read.
    #[error("liveness message from {from} can't be read: {why}")]
    Message {
        /// Who sent it.
        from: NodeId,
        /// What is wrong with it.
        why: String,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Sender { .. } | Error::Gone { .. } => Kind::Denied,
            Error::Message { .. } => Kind::Damaged,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): whom to ask next needs no better chance.
struct Chance(u64);

impl rand::TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|word| (word >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for part in to.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
        Ok(())
    }
}

/// What foca wants done, kept until the call into it returns.
#[derive(Default)]
struct Wishes {
    sends: Vec<(Identity, Vec<u8>)>,
    timers: Vec<(Timer<Identity>, Duration)>,
    renewed: usize,
    /// Whether foca took up, or gave up, asking others.
    active: Option<bool>,
}

impl Runtime<Identity> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        // Standings are read from the member list, which has them all.
        match notification {
            Notification::Rejoin(_) => self.renewed += 1,
            Notification::Active => self.active = Some(true),
            Notification::Idle | Notification::Defunct => self.active = Some(false),
            Notification::MemberUp(_) | Notification::MemberDown(_) | Notification::Rename(..) => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((event, after));
    }
}

/// Who is alive, as one node sees it.
pub struct Engine {
    me: NodeId,
    settings: Settings,
    foca: Foca<Identity, Wire, Chance, NoCustomBroadcast>,
    /// By moment, then in foca's own order of kinds, then in the order they were asked for.
    timers: BTreeMap<(Instant, u8, u64), Timer<Identity>>,
    timer_count: u64,
    peers: BTreeMap<NodeId, Peer>,
    effects: Vec<Effect>,
    last: Instant,
    next_call: Instant,
    last_call: Option<Instant>,
    called: Option<NodeId>,
    /// Whether anybody alive has answered this incarnation; until then others must be called.
    connected: bool,
    renewals: Vec<Instant>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("me", &self.me).field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl Engine {
    /// For node `me`, whose `start` must be greater than that of every earlier start of it (a counter on
    /// its drive). `seed` decides whom it asks when.
    pub fn new(me: NodeId, start: u64, settings: Settings, seed: u64, now: Instant) -> Self {
        // Room below each start for incarnations that are taken while running.
        let identity =
            Identity { node: me, incarnation: start.saturating_mul(1 << 16), run: Chance(seed ^ 1).next_u64() };
        let foca = Foca::new(identity, settings.foca(), Chance(seed), Wire);
        let (timers, peers, effects, renewals) = Default::default();
        Self {
            me,
            settings,
            foca,
            timers,
            timer_count: 0,
            peers,
            effects,
            last: now,
            next_call: now,
            last_call: None,
            called: None,
            connected: false,
            renewals,
        }
    }

    /// This node's incarnation.
    pub fn incarnation(&self) -> u64 {
        self.foca.identity().incarnation
    }

    /// The members, and which of them the owner said are gone. Others are forgotten.
    pub fn set_nodes(&mut self, now: Instant, nodes: &BTreeMap<NodeId, bool>) {
        self.wake(now);
        let dropped: BTreeSet<NodeId> = self.peers.keys().copied().filter(|node| !nodes.contains_key(node)).collect();
        self.peers.retain(|node, _| nodes.contains_key(node));
        for (node, told_gone) in nodes.iter().filter(|(node, _)| **node != self.me) {
            let new = Peer {
                standing: Standing::Suspected,
                since: now,
                incarnation: 0,
                reach: Reach::Direct,
                down_since: None,
                named: now,
                told_gone: *told_gone,
                state: None,
                suspected: None,
            };
            self.peers.entry(*node).or_insert(new).told_gone = *told_gone;
        }
        let is_out = |node: &NodeId| dropped.contains(node) || nodes.get(node) == Some(&true);
        let out: Vec<Identity> =
            self.foca.iter_members().map(|member| *member.id()).filter(|one| is_out(&one.node)).collect();
        let mut wishes = Wishes::default();
        let done = self.foca.apply_many(out.into_iter().map(Member::down), true, &mut wishes);
        self.settle(now, wishes, done.err());
        self.next_call = now;
        self.call(now);
        self.judge(now);
    }

    /// A message came from `from`.
    pub fn receive(&mut self, now: Instant, from: NodeId, message: &[u8]) -> Result<(), Error> {
        self.wake(now);
        let refused = |why: String| Error::Message { from, why };
        let heard = wire::look(self.me, message).map_err(|error| refused(error.to_string()))?;
        match heard.sender {
            Some(claims) if claims != from => return Err(Error::Sender { from, claims }),
            _ if self.peers.get(&from).is_some_and(|peer| peer.told_gone) => return Err(Error::Gone { from }),
            _ => {}
        }
        let mut wishes = Wishes::default();
        let done = self.foca.handle_data(message, &mut wishes);
        let failed = done.as_ref().err().map(|error| refused(error.to_string()));
        self.settle(now, wishes, done.err());
        self.hear(now, from, &heard);
        self.call(now);
        self.judge(now);
        failed.map_or(Ok(()), Err)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        self.wake(now);
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let timer = entry.remove();
            let mut wishes = Wishes::default();
            let done = self.foca.handle_timer(timer, &mut wishes);
            self.settle(now, wishes, done.err());
        }
        self.end_suspicions(now);
        self.call(now);
        self.judge(now);
    }

    /// Comes to an end with nodes that are suspected for too long. Whoever suspects first keeps the time; if that one
    /// took a new incarnation meanwhile, or the objection was lost in a split, nobody does. Who is called down and
    /// hears of it takes its next incarnation.
    fn end_suspicions(&mut self, now: Instant) {
        let limit = self.settings.suspicion * 2 + self.settings.probe_period;
        let is_late = |node: &NodeId| {
            self.peers.get(node).and_then(|peer| peer.suspected).is_some_and(|since| now.since(since) > limit)
        };
        let late: Vec<Identity> = self
            .foca
            .iter_members()
            .filter(|member| member.state() == State::Suspect && is_late(&member.id().node))
            .map(|member| *member.id())
            .collect();
        if !late.is_empty() {
            let mut wishes = Wishes::default();
            let done = self.foca.apply_many(late.into_iter().map(Member::down), true, &mut wishes);
            self.settle(now, wishes, done.err());
            // They should hear of it soon.
            self.next_call = now;
        }
    }

    /// This node stops: the others need not find out.
    pub fn leave(&mut self, now: Instant) {
        let mut wishes = Wishes::default();
        let done = self.foca.leave_cluster(&mut wishes);
        self.settle(now, wishes, done.err());
    }

    /// When [`Engine::tick`] wants to be called at the latest.
    pub fn deadline(&self) -> Instant {
        let timer = self.timers.first_key_value().map(|((at, ..), _)| *at);
        // Often enough to notice that the process stood still.
        let watch = self.last + self.settings.probe_period / 2;
        timer.map_or(watch, |at| at.min(watch))
    }

    /// What is to be done since the last time this was asked.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// All other members.
    pub fn peers(&self) -> &BTreeMap<NodeId, Peer> {
        &self.peers
    }

    /// How a node stands; itself is alive, and strangers are gone.
    pub fn standing(&self, node: NodeId) -> Standing {
        if node == self.me {
            return Standing::Alive;
        }
        self.peers.get(&node).map_or(Standing::Gone, |peer| peer.standing)
    }

    /// Keeps a process that stood still (stopped, or its machine asleep) from taking the silence for
    /// the others': everything that was to happen waits on by as much.
    fn wake(&mut self, now: Instant) {
        let gap = now.since(self.last);
        self.last = now.max(self.last);
        if gap <= self.settings.probe_period {
            return;
        }
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers.into_iter().map(|((at, kind, count), timer)| ((at + gap, kind, count), timer)).collect();
        for peer in self.peers.values_mut() {
            peer.named = peer.named + gap;
            peer.down_since = peer.down_since.map(|since| since + gap);
            peer.suspected = peer.suspected.map(|since| since + gap);
        }
    }

    fn settle(&mut self, now: Instant, wishes: Wishes, failed: Option<foca::Error>) {
        for (to, message) in wishes.sends {
            self.effects.push(Effect::Send { to: to.node, message: message.into() });
        }
        for (timer, after) in wishes.timers {
            if self.timers.len() < TIMERS_MAX {
                self.timer_count += 1;
                self.timers.insert((now + after, kind(&timer), self.timer_count), timer);
            }
        }
        if wishes.renewed > 0 {
            self.connected = false;
            self.renewed(now);
        }
        // After the renewal: an answer may be in the same message.
        self.connected = wishes.active.unwrap_or(self.connected);
        match failed {
            // It goes on by itself: a probe was cut short, as after a pause.
            None | Some(foca::Error::IncompleteProbeCycle | foca::Error::NotConnected) => {}
            Some(error) => tracing::debug!(%error, "liveness: foca refused"),
        }
    }

    fn renewed(&mut self, now: Instant) {
        // The others should hear of it soon; but two processes with one key must not make a storm.
        self.next_call = self.last_call.map_or(now, |last| (last + CALL_AGAIN).max(now));
        self.renewals.retain(|at| now.since(*at) < CONTEST);
        if self.renewals.last().is_some_and(|at| now.since(*at) < CONTEST_STEP) {
            return;
        }
        self.renewals.push(now);
        if self.renewals.len() == CONTESTED {
            self.effects.push(Effect::Contested { incarnation: self.incarnation() });
            self.renewals.clear();
        }
    }

    /// What a message that was taken says by the way.
    fn hear(&mut self, now: Instant, from: NodeId, heard: &Heard) {
        if let Some(peer) = heard.vouched.and_then(|node| self.peers.get_mut(&node)) {
            peer.reach = Reach::Indirect;
        }
        if heard.answered
            && let Some(peer) = self.peers.get_mut(&from)
        {
            peer.reach = Reach::Direct;
        }
        // Somebody knows a later incarnation of this node: its drive was set back, or its clock.
        if heard.mine > self.foca.identity().age() {
            let mut wishes = Wishes::default();
            let next = Identity { incarnation: heard.mine.0.saturating_add(1), ..*self.foca.identity() };
            let done = self.foca.change_identity(next, &mut wishes);
            wishes.renewed += 1;
            self.settle(now, wishes, done.err());
        }
    }

    /// Speaks to members that don't answer, some at a time: they may be back, or may not know of this node.
    fn call(&mut self, now: Instant) {
        if now < self.next_call {
            return;
        }
        (self.next_call, self.last_call) = (now + CALL, Some(now));
        let alive: BTreeSet<NodeId> = self.foca.iter_members().map(|member| member.id().node).collect();
        let silent: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(node, peer)| !(peer.told_gone || self.connected && alive.contains(node)))
            .map(|(node, _)| *node)
            .collect();
        // Each in turn, so that one that is gone for good doesn't keep others from being called.
        let first = silent.iter().position(|node| Some(*node) > self.called).unwrap_or(0);
        for node in silent.iter().cycle().skip(first).take(CALLED.min(silent.len())) {
            self.called = Some(*node);
            let mut wishes = Wishes::default();
            let done = self.foca.announce(Identity { node: *node, incarnation: 0, run: 0 }, &mut wishes);
            self.settle(now, wishes, done.err());
        }
    }

    /// Compares what is known with how peers stand.
    fn judge(&mut self, now: Instant) {
        self.peers.values_mut().for_each(|peer| peer.state = None);
        for member in self.foca.iter_membership_state() {
            if let Some(peer) = self.peers.get_mut(&member.id().node) {
                peer.state = Some(member.state());
                peer.incarnation = peer.incarnation.max(member.id().incarnation);
            }
        }
        for (node, peer) in &mut self.peers {
            let is_suspect = peer.state == Some(State::Suspect);
            peer.suspected = if is_suspect { peer.suspected.or(Some(now)) } else { None };
            let was = peer.standing;
            peer.standing = judged(peer, now, &self.settings);
            if peer.standing != was {
                peer.since = now;
                self.effects.push(Effect::Changed { node: *node, from: was, to: peer.standing });
            }
        }
    }
}

fn judged(peer: &mut Peer, now: Instant, settings: &Settings) -> Standing {
    let standing = match peer.state {
        Some(State::Alive) => Standing::Alive,
        Some(State::Suspect) => Standing::Suspected,
        None if now.since(peer.named) < settings.grace() => Standing::Suspected,
        None | Some(State::Down) => Standing::Down,
    };
    if standing < Standing::Down && !peer.told_gone {
        peer.down_since = None;
        return standing;
    }
    let since = *peer.down_since.get_or_insert(now);
    if peer.told_gone || now.since(since) >= settings.gone_after { Standing::Gone } else { Standing::Down }
}

/// Foca's order of timers that are due at once.
fn kind(timer: &Timer<Identity>) -> u8 {
    match timer {
        Timer::SendIndirectProbe { .. } => 0,
        Timer::ProbeRandomMember(_) => 1,
        Timer::ChangeSuspectToDown { .. } => 2,
        Timer::PeriodicAnnounce(_) => 3,
        Timer::PeriodicGossip(_) => 4,
        Timer::RemoveDown(_) => 5,
        Timer::PeriodicAnnounceDown(_) => 6,
    }
}
