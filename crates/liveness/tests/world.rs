//! Nodes in simulated time, on a network that loses, delays and cuts.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Instant, NodeId, Standing};
use bytes::Bytes;
use liveness::{Effect, Engine, Error, Reach, Settings};

const SECOND: Duration = Duration::from_secs(1);

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

fn id(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 16])
}

fn seeds(name: &str, count: u64) -> Vec<u64> {
    let one = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = one.map_or_else(|| (1..=count).collect(), |seed| vec![seed]);
    eprintln!(
        "{name}: seeds {:?} to {:?}; replay one with SEED=n cargo nextest run -p liveness {name}",
        seeds.first(),
        seeds.last()
    );
    seeds
}

/// A change of standing: when, who saw it, of whom, to what.
type Seen = (Instant, usize, usize, Standing);

struct World {
    now: Instant,
    chance: Chance,
    settings: Settings,
    /// `None`: the process doesn't run.
    engines: Vec<Option<Engine>>,
    starts: Vec<u64>,
    members: BTreeMap<NodeId, bool>,
    mail: BTreeMap<(Instant, u64), (usize, usize, Bytes)>,
    mailed: u64,
    cut: BTreeSet<(usize, usize)>,
    slow: BTreeMap<usize, Duration>,
    /// Stopped processes; they neither read nor act, and their mail waits.
    hung: BTreeSet<usize>,
    loss_permille: u64,
    seen: Vec<Seen>,
    contested: usize,
    messages: u64,
}

impl World {
    fn new(seed: u64, nodes: usize) -> Self {
        let members = (0..nodes).map(|node| (id(node), false)).collect();
        let mut world = Self {
            now: Instant(1_000_000_000),
            chance: Chance(seed),
            settings: Settings { gone_after: Duration::from_secs(300), ..Settings::default() },
            engines: (0..nodes).map(|_| None).collect(),
            starts: vec![0; nodes],
            members,
            mail: BTreeMap::new(),
            mailed: 0,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            hung: BTreeSet::new(),
            loss_permille: 0,
            seen: Vec::new(),
            contested: 0,
            messages: 0,
        };
        (0..nodes).for_each(|node| world.start(node));
        world
    }

    /// A cluster whose nodes all know each other.
    fn settled(seed: u64, nodes: usize) -> Self {
        let mut world = Self::new(seed, nodes);
        world.run(20 * SECOND);
        assert!(world.all_alive(), "seed {seed}: they don't find each other");
        world.seen.clear();
        world
    }

    fn start(&mut self, node: usize) {
        self.starts[node] += 1;
        let seed = self.chance.next();
        let mut engine = Engine::new(id(node), self.starts[node], self.settings.clone(), seed, self.now);
        engine.set_nodes(self.now, &self.members);
        self.engines[node] = Some(engine);
        self.act(node);
    }

    fn act(&mut self, node: usize) {
        let Some(engine) = &mut self.engines[node] else { return };
        for effect in engine.effects() {
            match effect {
                Effect::Send { to, message } => self.post(node, to.0[0] as usize - 1, message),
                Effect::Changed { node: of, to, .. } => {
                    self.seen.push((self.now, node, of.0[0] as usize - 1, to));
                }
                Effect::Contested { .. } => self.contested += 1,
            }
        }
    }

    fn post(&mut self, from: usize, to: usize, message: Bytes) {
        self.messages += 1;
        let lost = self.chance.below(1000) < self.loss_permille;
        if to >= self.engines.len() || self.cut.contains(&(from, to)) || lost {
            return;
        }
        let slow = [from, to].iter().filter_map(|node| self.slow.get(node)).sum::<Duration>();
        let delay = Duration::from_micros(200 + self.chance.below(2000)) + slow;
        self.mailed += 1;
        self.mail.insert((self.now + delay, self.mailed), (from, to, message));
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let mail = self.mail.keys().next().map_or(end, |key| key.0);
            let runs = |(node, engine): (usize, &Option<Engine>)| {
                engine.as_ref().filter(|_| !self.hung.contains(&node)).map(Engine::deadline)
            };
            let timer = self.engines.iter().enumerate().filter_map(runs).min().unwrap_or(end);
            let next = mail.min(timer).max(self.now);
            if next >= end {
                self.now = end;
                return;
            }
            self.now = next;
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, message) = entry.remove();
            if self.hung.contains(&to) {
                // It waits in the socket until the process goes on.
                self.mailed += 1;
                self.mail.insert((self.now + SECOND / 4, self.mailed), (from, to, message));
            } else if let Some(engine) = &mut self.engines[to] {
                let done = engine.receive(self.now, id(from), &message);
                assert!(matches!(done, Ok(()) | Err(Error::Gone { .. })), "{done:?}");
                self.act(to);
            }
        }
        for node in 0..self.engines.len() {
            if !self.hung.contains(&node)
                && let Some(engine) = &mut self.engines[node]
                && engine.deadline() <= self.now
            {
                engine.tick(self.now);
                self.act(node);
            }
        }
    }

    fn standing(&self, of: usize, by: usize) -> Standing {
        self.engines[by].as_ref().unwrap().standing(id(of))
    }

    fn running(&self) -> Vec<usize> {
        (0..self.engines.len()).filter(|node| self.engines[*node].is_some()).collect()
    }

    fn all_say(&self, of: usize, wanted: Standing) -> bool {
        self.running()
            .into_iter()
            .filter(|by| *by != of && !self.hung.contains(by))
            .all(|by| self.standing(of, by) == wanted)
    }

    fn all_alive(&self) -> bool {
        self.running().into_iter().all(|of| self.all_say(of, Standing::Alive))
    }

    /// Runs until it is so, and says how long that took.
    fn until(&mut self, what: &str, limit: Duration, so: impl Fn(&Self) -> bool) -> Duration {
        let begun = self.now;
        while !so(self) {
            assert!(self.now.since(begun) < limit, "{what}: not within {limit:?}");
            self.run(SECOND / 10);
        }
        self.now.since(begun)
    }
}

#[test]
fn a_hung_node_is_suspected_then_down_then_gone_within_bounds() {
    let mut worst = [Duration::ZERO; 2];
    for seed in seeds("a_hung_node_is_suspected_then_down_then_gone_within_bounds", 12) {
        for nodes in [2, 3, 5, 30] {
            if nodes == 30 && seed > 3 {
                continue;
            }
            let mut world = World::settled(seed, nodes);
            world.hung.insert(1);
            let suspected = world.until("suspected", 10 * SECOND, |world| world.standing(1, 0) >= Standing::Suspected);
            let down = suspected + world.until("down", 12 * SECOND, |world| world.all_say(1, Standing::Down));
            worst = [worst[0].max(suspected), worst[1].max(down)];
            let order: Vec<Standing> = world.seen.iter().filter(|seen| seen.1 == 0).map(|seen| seen.3).collect();
            assert_eq!(order, [Standing::Suspected, Standing::Down], "seed {seed}, {nodes} nodes");
            assert!(world.seen.iter().all(|seen| seen.2 == 1), "seed {seed}: nobody else is accused");
            world.until("gone", 310 * SECOND, |world| world.all_say(1, Standing::Gone));
        }
    }
    eprintln!("suspected within {:?}, down within {:?}", worst[0], worst[1]);
    assert!(worst[0] <= 8 * SECOND && worst[1] <= 14 * SECOND, "{worst:?}");
}

#[test]
fn a_node_that_goes_on_is_alive_again_and_accuses_nobody() {
    for seed in seeds("a_node_that_goes_on_is_alive_again_and_accuses_nobody", 12) {
        let mut world = World::settled(seed, 5);
        world.hung.insert(1);
        world.until("down", 20 * SECOND, |world| world.all_say(1, Standing::Down));
        world.run(100 * SECOND);
        let before = world.engines[1].as_ref().unwrap().incarnation();
        world.hung.clear();
        world.seen.clear();
        world.until("alive again", 15 * SECOND, World::all_alive);
        let accused: Vec<&Seen> =
            world.seen.iter().filter(|seen| seen.1 == 1 && seen.3 > Standing::Suspected).collect();
        assert!(accused.is_empty(), "seed {seed}: {accused:?}");
        assert!(world.engines[1].as_ref().unwrap().incarnation() > before, "seed {seed}");
        world.seen.clear();
        world.run(60 * SECOND);
        assert!(world.seen.is_empty(), "seed {seed}: {:?}", world.seen);
    }
}

#[test]
fn a_slow_node_does_not_flap() {
    for seed in seeds("a_slow_node_does_not_flap", 12) {
        let mut world = World::settled(seed, 8);
        world.slow.insert(2, Duration::from_millis(300));
        world.run(300 * SECOND);
        assert!(world.seen.is_empty(), "seed {seed}: {:?}", world.seen);
        // So slow that it is suspected at times, but it always objects.
        world.slow.insert(2, Duration::from_millis(1200));
        world.run(300 * SECOND);
        assert!(world.seen.iter().all(|seen| seen.3 <= Standing::Suspected), "seed {seed}: {:?}", world.seen);
        world.slow.clear();
        world.until("alive", 15 * SECOND, World::all_alive);
    }
}

#[test]
fn a_lossy_network_takes_nobody_down() {
    for seed in seeds("a_lossy_network_takes_nobody_down", 12) {
        let mut world = World::settled(seed, 10);
        world.loss_permille = 50;
        world.run(300 * SECOND);
        assert!(world.seen.iter().all(|seen| seen.3 <= Standing::Suspected), "seed {seed}: {:?}", world.seen);
    }
}

#[test]
fn a_one_way_cut_is_noticed_and_the_node_stays_alive_through_others() {
    for seed in seeds("a_one_way_cut_is_noticed_and_the_node_stays_alive_through_others", 12) {
        let mut world = World::settled(seed, 6);
        world.cut.insert((0, 3));
        let reach = |world: &World| world.engines[0].as_ref().unwrap().peers()[&id(3)].reach;
        world.until("noticed", 60 * SECOND, |world| reach(world) == Reach::Indirect);
        world.run(120 * SECOND);
        assert!(world.seen.iter().all(|seen| seen.3 <= Standing::Suspected), "seed {seed}: {:?}", world.seen);
        assert_eq!(world.engines[1].as_ref().unwrap().peers()[&id(3)].reach, Reach::Direct);
        world.cut.clear();
        world.until("direct again", 60 * SECOND, |world| reach(world) == Reach::Direct && world.all_alive());
    }
}

#[test]
fn a_node_that_restarts_is_alive_with_a_new_incarnation() {
    for seed in seeds("a_node_that_restarts_is_alive_with_a_new_incarnation", 12) {
        let mut world = World::settled(seed, 5);
        let before = world.engines[4].as_ref().unwrap().incarnation();
        // Killed, and up again before anybody noticed.
        world.engines[4] = None;
        world.run(SECOND / 2);
        world.start(4);
        world.until("alive", 10 * SECOND, World::all_alive);
        assert!(world.engines[4].as_ref().unwrap().incarnation() > before);
        assert!(world.engines[0].as_ref().unwrap().peers()[&id(4)].incarnation > before);
        // Killed, down, gone; then back.
        world.engines[4] = None;
        world.until("gone", 330 * SECOND, |world| world.all_say(4, Standing::Gone));
        world.start(4);
        world.until("back", 15 * SECOND, World::all_alive);
        // Its counter was set back: it hears of its own past and goes beyond.
        world.engines[4] = None;
        world.run(SECOND);
        world.starts[4] = 0;
        world.start(4);
        world.until("back from the past", 15 * SECOND, World::all_alive);
        world.run(30 * SECOND);
        assert!(world.all_alive(), "seed {seed}");
        assert_eq!(world.contested, 0);
    }
}

#[test]
fn a_node_that_leaves_is_down_at_once() {
    for seed in seeds("a_node_that_leaves_is_down_at_once", 12) {
        let mut world = World::settled(seed, 8);
        let now = world.now;
        world.engines[5].as_mut().unwrap().leave(now);
        world.act(5);
        world.engines[5] = None;
        let took = world.until("down", 10 * SECOND, |world| world.all_say(5, Standing::Down));
        assert!(took <= 4 * SECOND, "seed {seed}: {took:?}");
        world.start(5);
        world.until("back", 10 * SECOND, World::all_alive);
    }
}

#[test]
fn both_halves_of_a_split_find_each_other_again() {
    for seed in seeds("both_halves_of_a_split_find_each_other_again", 6) {
        let mut world = World::settled(seed, 9);
        for a in 0..4 {
            for b in 4..9 {
                world.cut.extend([(a, b), (b, a)]);
            }
        }
        world.until("split", 60 * SECOND, |world| {
            world.standing(8, 0) == Standing::Down && world.standing(0, 8) == Standing::Down
        });
        world.run(60 * SECOND);
        assert!(
            (0..4).all(|a| world.standing(a, 0) == Standing::Alive)
                && (4..9).all(|b| world.standing(b, 8) == Standing::Alive)
        );
        world.cut.clear();
        world.until("healed", 60 * SECOND, World::all_alive);
        world.run(20 * SECOND);
        world.seen.clear();
        world.run(60 * SECOND);
        assert!(world.seen.is_empty(), "seed {seed}: {:?}", world.seen);
    }
}

#[test]
fn thirty_nodes_come_up_in_any_order_and_stay_quiet() {
    for seed in seeds("thirty_nodes_come_up_in_any_order_and_stay_quiet", 4) {
        let mut world = World::new(seed, 30);
        world.engines.iter_mut().for_each(|engine| *engine = None);
        let mut left: Vec<usize> = (0..30).collect();
        while !left.is_empty() {
            let at = world.chance.below(left.len() as u64) as usize;
            let node = left.swap_remove(at);
            world.start(node);
            world.run(Duration::from_millis(700));
        }
        world.until("all alive", 60 * SECOND, World::all_alive);
        world.run(20 * SECOND);
        (world.messages, _) = (0, world.seen.clear());
        world.run(60 * SECOND);
        assert!(world.seen.is_empty());
        let rate = world.messages as f64 / 60.0 / 30.0;
        assert!(rate < 4.0, "seed {seed}: {rate} messages a second and node, while nothing happens");
    }
}

#[test]
fn who_was_told_to_be_gone_is_gone_at_once_and_not_listened_to() {
    let mut world = World::settled(7, 4);
    world.members.insert(id(2), true);
    for node in [0, 1, 3] {
        let (now, members) = (world.now, world.members.clone());
        world.engines[node].as_mut().unwrap().set_nodes(now, &members);
        world.act(node);
        assert_eq!(world.standing(2, node), Standing::Gone);
    }
    world.run(60 * SECOND);
    assert!(world.all_say(2, Standing::Gone));
    let now = world.now;
    let refused = world.engines[0].as_mut().unwrap().receive(now, id(2), &message_of(2, 0));
    assert!(matches!(refused, Err(Error::Gone { .. })), "{refused:?}");
    world.members.remove(&id(2));
    let members = world.members.clone();
    let engine = world.engines[0].as_mut().unwrap();
    engine.set_nodes(now, &members);
    assert!(!engine.peers().contains_key(&id(2)));
}

#[test]
fn a_member_that_never_came_is_suspected_then_down() {
    let mut world = World::settled(3, 4);
    let begun = world.now;
    world.members.insert(id(40), false);
    let members = world.members.clone();
    let engine = world.engines[0].as_mut().unwrap();
    engine.set_nodes(begun, &members);
    assert_eq!(engine.standing(id(40)), Standing::Suspected);
    let took =
        world.until("down", 20 * SECOND, |world| world.engines[0].as_ref().unwrap().standing(id(40)) == Standing::Down);
    assert!(took >= 5 * SECOND, "{took:?}");
}

/// An announcement of one node to another.
fn message_of(from: usize, to: usize) -> Bytes {
    let mut engine = Engine::new(id(from), 1, Settings::default(), 1, Instant(0));
    engine.set_nodes(Instant(0), &[(id(to), false)].into());
    let send = engine.effects().into_iter().find_map(|effect| match effect {
        Effect::Send { message, .. } => Some(message),
        _ => None,
    });
    send.unwrap()
}

#[test]
fn two_processes_with_one_key_are_noticed() {
    let mut world = World::settled(5, 4);
    // The same node a second time, on slot 3, which stops being itself.
    let (now, members) = (world.now, world.members.clone());
    let mut twin = Engine::new(id(2), 9, world.settings.clone(), 77, now);
    twin.set_nodes(now, &members);
    let mut contested = false;
    for _ in 0..3000 {
        world.run(SECOND / 20);
        twin.tick(world.now);
        // It is heard by all; answers reach both.
        for effect in twin.effects() {
            match effect {
                Effect::Send { to, message } if to != id(2) => {
                    let to = to.0[0] as usize - 1;
                    let now = world.now;
                    let _ = world.engines[to].as_mut().unwrap().receive(now, id(2), &message);
                    let engine = world.engines[to].as_mut().unwrap();
                    for effect in engine.effects() {
                        if let Effect::Send { to: back, message } = effect {
                            if back == id(2) {
                                let _ = twin.receive(now, id(to), &message);
                            }
                            world.post(to, back.0[0] as usize - 1, message);
                        }
                    }
                }
                Effect::Contested { .. } => contested = true,
                _ => {}
            }
        }
    }
    assert!(contested || world.contested > 0);
}

#[test]
fn bytes_that_are_no_message_are_errors_and_never_a_panic() {
    let mut world = World::settled(1, 6);
    world.hung.insert(4);
    world.run(SECOND * 4);
    let mut messages: Vec<Bytes> = world.mail.values().map(|(_, _, message)| message.clone()).collect();
    messages.push(message_of(2, 0));
    assert!(messages.len() > 3);
    let (mut taken, mut refused) = (0, 0);
    for seed in seeds("bytes_that_are_no_message_are_errors_and_never_a_panic", 4000) {
        let mut chance = Chance(seed);
        let mut bytes = messages[chance.below(messages.len() as u64) as usize].to_vec();
        for _ in 0..chance.below(4) {
            let at = chance.below(bytes.len() as u64) as usize;
            match chance.below(4) {
                0 => bytes[at] = chance.next() as u8,
                1 => bytes[at] ^= 1 << chance.below(8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, chance.next() as u8),
            }
        }
        if chance.below(8) == 0 {
            bytes = (0..chance.below(6000)).map(|_| chance.next() as u8).collect();
        }
        let from = bytes.get(1).map_or(0, |byte| byte.wrapping_sub(1) as usize % 6);
        let now = world.now;
        match world.engines[0].as_mut().unwrap().receive(now, id(from), &bytes) {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
        world.engines[0].as_mut().unwrap().effects();
        if seed % 100 == 0 {
            let now = world.now + SECOND / 10;
            world.engines[0].as_mut().unwrap().tick(now);
            world.now = now;
        }
    }
    assert!((taken > 100 && refused > 500) || std::env::var("SEED").is_ok(), "{taken} taken, {refused} refused");
    let now = world.now;
    let engine = world.engines[0].as_mut().unwrap();
    let error = engine.receive(now, id(3), &message_of(2, 0)).unwrap_err();
    assert!(matches!(error, Error::Sender { .. }), "{error}");
}
