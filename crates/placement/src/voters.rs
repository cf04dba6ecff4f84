//! Which nodes hold the voters of each metadata shard.
//!
//! 1. One voter changes at a time, and only while a majority of the voters answers; so every step is
//!    safe by itself, and whoever computes the next one may be another node.
//! 2. Three voters, five from five nodes on: more make every commit slower. Two nodes have two: a commit
//!    must be on both, since no acknowledged write may hang on one machine.
//! 3. Voters sit in as many different sites, racks, countries, owners and models as there are; then on
//!    the nodes that hold the fewest voters.
//! 4. Where at least three nodes take no data they are there for this: voters are chosen among them alone.
//! 5. A voter that is down stays: it may come back sooner than another has copied the shard. One
//!    that is gone, or leaving, is replaced. A living one is moved only if that spreads them better over
//!    domains, or evens out nodes that differ by two or more: so steps come to an end.

use std::collections::{BTreeMap, BTreeSet};

use base::{Domain, NodeId, Standing};

use crate::labels::Labels;
use crate::map::{Map, State};
use crate::spread::scatter;

/// The order in which domains count.
const WEIGH: [Domain; 5] = [Domain::Site, Domain::Rack, Domain::Country, Domain::Owner, Domain::Model];

/// A node as this choice sees it.
#[derive(Clone, Debug)]
pub struct Seat<'a> {
    /// The node.
    pub node: NodeId,
    /// What it is there for.
    pub state: State,
    /// Whether it answers.
    pub standing: Standing,
    /// Where it is.
    pub labels: &'a Labels,
    /// Whether it takes no data: it keeps metadata alone.
    pub is_dataless: bool,
}

impl Seat<'_> {
    fn can_join(&self) -> bool {
        self.state == State::Active && self.standing == Standing::Alive
    }

    fn must_leave(&self) -> bool {
        self.state != State::Active || self.standing == Standing::Gone
    }

    fn answers(&self) -> bool {
        matches!(self.standing, Standing::Alive | Standing::Suspected)
    }
}

/// The map's members as seats.
pub fn seats<'a>(map: &'a Map, standing: impl Fn(NodeId) -> Standing) -> Vec<Seat<'a>> {
    let seat = |node: &'a crate::map::Node| Seat {
        node: node.id,
        state: node.state,
        standing: standing(node.id),
        labels: &node.labels,
        is_dataless: map.is_dataless(node.id),
    };
    map.nodes.iter().map(seat).collect()
}

/// One change of a shard's voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A node joins them.
    Add {
        /// It.
        node: NodeId,
    },
    /// A voter leaves.
    Remove {
        /// It.
        node: NodeId,
    },
    /// A node takes the place of a voter.
    Replace {
        /// Who leaves.
        out: NodeId,
        /// Who comes.
        into: NodeId,
    },
}

impl Step {
    /// The voters after this step.
    pub fn apply(self, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut after = voters.clone();
        let (out, into) = match self {
            Step::Add { node } => (None, Some(node)),
            Step::Remove { node } => (Some(node), None),
            Step::Replace { out, into } => (Some(out), Some(into)),
        };
        if let Some(out) = out {
            after.remove(&out);
        }
        after.extend(into);
        after
    }
}

/// Why nothing can be done although something should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard}: only {answering} of {voters} voters answer, and {need} must: bring nodes back")]
pub struct NoMajority {
    /// The shard.
    pub shard: u32,
    /// Voters that answer.
    pub answering: usize,
    /// All voters.
    pub voters: usize,
    /// How many it takes.
    pub need: usize,
}

/// So many nodes that take no data keep the metadata among them.
const DATALESS_MIN: usize = 3;

/// How many voters a shard should have with so many nodes, of which so many take no data.
pub fn wanted_with(nodes: usize, dataless: usize) -> usize {
    wanted(if dataless >= DATALESS_MIN { dataless } else { nodes })
}

/// How many voters a shard should have with so many nodes that could be one.
pub fn wanted(nodes: usize) -> usize {
    match nodes {
        0..=2 => nodes,
        3..=4 => 3,
        _ => 5,
    }
}

/// The next change of a shard's voters, if any. `others`: how many voters of other shards each node has.
pub fn next<'a>(
    shard: u32,
    voters: &BTreeSet<NodeId>,
    seats: &[Seat<'a>],
    others: &BTreeMap<NodeId, usize>,
) -> Result<Option<Step>, NoMajority> {
    let is_there = |seat: &&Seat<'_>| seat.can_join() || (voters.contains(&seat.node) && !seat.must_leave());
    let are_many = seats.iter().filter(is_there).filter(|seat| seat.is_dataless).count() >= DATALESS_MIN;
    // Whoever isn't there for it leaves, as one that is being emptied does: it answers until then.
    let seat = |seat: &Seat<'a>| match are_many && !seat.is_dataless && seat.state == State::Active {
        true => Seat { state: State::Draining, ..seat.clone() },
        false => seat.clone(),
    };
    let by_id: BTreeMap<NodeId, Seat<'_>> = seats.iter().map(|one| (one.node, seat(one))).collect();
    let choice = Choice { shard, voters, by_id, others };
    let Some(step) = choice.step() else { return Ok(None) };
    let answering = voters.iter().filter(|voter| choice.by_id.get(voter).is_some_and(|seat| seat.answers())).count();
    let need = voters.len() / 2 + 1;
    // The first voters of a shard that has none yet need nobody's consent.
    if !voters.is_empty() && answering < need {
        return Err(NoMajority { shard, answering, voters: voters.len(), need });
    }
    Ok(Some(step).filter(|step| choice.is_safe(*step)))
}

struct Choice<'a> {
    shard: u32,
    voters: &'a BTreeSet<NodeId>,
    by_id: BTreeMap<NodeId, Seat<'a>>,
    others: &'a BTreeMap<NodeId, usize>,
}

/// Smaller is better: voters in one domain, at the most, of each kind; then load; then chance.
type Score = ([usize; WEIGH.len()], usize, u64);

impl Choice<'_> {
    fn step(&self) -> Option<Step> {
        let must_leave = |voter: &&NodeId| self.by_id.get(voter).is_none_or(|seat| seat.must_leave());
        // Who leaves: those without a chance to come back before those that are still there.
        let leaving = self.voters.iter().filter(must_leave).min_by_key(|voter| self.answers(voter));
        let staying = self.voters.len() - self.voters.iter().filter(must_leave).count();
        let able = self.by_id.values().filter(|seat| seat.can_join() || self.stays(seat.node)).count();
        // Voters that are down count: their number isn't lowered because they are away.
        let wanted = wanted(able).max(1);
        if let Some(out) = leaving.copied() {
            return Some(match self.best_joining(Some(out)) {
                Some(into) if staying < wanted => Step::Replace { out, into },
                _ if self.voters.len() > 1 => Step::Remove { node: out },
                _ => return None,
            });
        }
        if self.voters.len() < wanted {
            return self.best_joining(None).map(|node| Step::Add { node });
        }
        if self.voters.len() > wanted {
            return self.best_leaving().map(|node| Step::Remove { node });
        }
        self.better()
    }

    /// Whether a node is a voter that need not leave.
    fn stays(&self, node: NodeId) -> bool {
        self.voters.contains(&node) && self.by_id.get(&node).is_some_and(|seat| !seat.must_leave())
    }

    fn answers(&self, voter: &NodeId) -> bool {
        self.by_id.get(voter).is_some_and(|seat| seat.answers())
    }

    /// Whether a majority of the voters after the step answers.
    fn is_safe(&self, step: Step) -> bool {
        let after = step.apply(self.voters);
        after.iter().filter(|voter| self.answers(voter)).count() > after.len() / 2
    }

    fn joining(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.by_id.values().filter(|seat| seat.can_join() && !self.voters.contains(&seat.node)).map(|seat| seat.node)
    }

    fn best_joining(&self, without: Option<NodeId>) -> Option<NodeId> {
        let score = |node: &NodeId| {
            let rest = self.voters.iter().copied().filter(|voter| Some(*voter) != without);
            (self.score(rest.chain([*node]), *node), *node)
        };
        self.joining().min_by_key(score)
    }

    /// The one without whom the others are spread best; those that don't answer first.
    fn best_leaving(&self) -> Option<NodeId> {
        let score = |node: &NodeId| {
            let rest = self.voters.iter().copied().filter(|voter| voter != node);
            let (domains, load, chance) = self.score(rest, *node);
            (self.answers(node), domains, std::cmp::Reverse(load), std::cmp::Reverse(chance), *node)
        };
        self.voters.iter().copied().min_by_key(score)
    }

    /// A swap that spreads voters better, or takes one from a node with two more than another.
    fn better(&self) -> Option<Step> {
        let now = self.domains(self.voters.iter().copied());
        let mut best: Option<((Score, NodeId), Step)> = None;
        for out in self.voters.iter().copied() {
            let Some(into) = self.best_joining(Some(out)) else { continue };
            let rest = || self.voters.iter().copied().filter(|voter| *voter != out).chain([into]);
            let after = self.score(rest(), into);
            let evens = after.0 == now && self.load(out) >= self.load(into) + 2;
            if (after.0 < now || evens) && best.as_ref().is_none_or(|(other, _)| (after, out) < *other) {
                best = Some(((after, out), Step::Replace { out, into }));
            }
        }
        best.map(|(_, step)| step)
    }

    fn load(&self, node: NodeId) -> usize {
        self.others.get(&node).copied().unwrap_or(0)
    }

    fn score(&self, voters: impl Iterator<Item = NodeId>, node: NodeId) -> Score {
        (self.domains(voters), self.load(node), scatter(&node.0, u64::from(self.shard)))
    }

    /// Of each kind, the voters in the domain that has most; unlabelled ones are in one.
    fn domains(&self, voters: impl Iterator<Item = NodeId>) -> [usize; WEIGH.len()] {
        let labels: Vec<&Labels> = voters.filter_map(|voter| self.by_id.get(&voter).map(|seat| seat.labels)).collect();
        WEIGH.map(|domain| {
            let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for one in &labels {
                let site = if domain == Domain::Rack { one.get(Domain::Site) } else { "" };
                *counts.entry((site, one.get(domain))).or_insert(0) += 1;
            }
            counts.into_values().max().unwrap_or(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn site(number: u8, sites: u8) -> Labels {
        let mut labels = Labels::default();
        labels.set(Domain::Site, &format!("s{}", number % sites)).unwrap();
        labels
    }

    struct World {
        nodes: Vec<(NodeId, State, Standing, Labels)>,
        dataless: BTreeSet<NodeId>,
        shards: Vec<BTreeSet<NodeId>>,
    }

    impl World {
        fn new(nodes: u8, sites: u8, shards: usize) -> Self {
            let mut world =
                Self { nodes: Vec::new(), dataless: BTreeSet::new(), shards: vec![BTreeSet::new(); shards] };
            (0..nodes).for_each(|node| world.join(node, sites));
            world
        }

        fn join(&mut self, node: u8, sites: u8) {
            self.nodes.push((id(node), State::Active, Standing::Alive, site(node, sites)));
        }

        fn next(&self, shard: usize) -> Result<Option<Step>, NoMajority> {
            let seat = |(node, state, standing, labels): &'_ (NodeId, State, Standing, Labels)| {
                (*node, *state, *standing, labels.clone())
            };
            let held: Vec<_> = self.nodes.iter().map(seat).collect();
            let seats: Vec<Seat<'_>> = held
                .iter()
                .map(|(node, state, standing, labels)| Seat {
                    node: *node,
                    state: *state,
                    standing: *standing,
                    labels,
                    is_dataless: self.dataless.contains(node),
                })
                .collect();
            let mut others = BTreeMap::new();
            for (_, voters) in self.shards.iter().enumerate().filter(|(at, _)| *at != shard) {
                voters.iter().for_each(|voter| *others.entry(*voter).or_insert(0) += 1);
            }
            next(shard as u32, &self.shards[shard], &seats, &others)
        }

        /// Steps until nothing changes any more; each moves one voter and keeps a majority.
        fn settle(&mut self) -> usize {
            let mut steps = 0;
            loop {
                let mut changed = false;
                for shard in 0..self.shards.len() {
                    if let Some(step) = self.next(shard).unwrap() {
                        let after = step.apply(&self.shards[shard]);
                        assert!(after.symmetric_difference(&self.shards[shard]).count() <= 2, "{step:?}");
                        assert!(!after.is_empty());
                        self.shards[shard] = after;
                        (changed, steps) = (true, steps + 1);
                    }
                }
                if !changed {
                    return steps;
                }
                assert!(steps < 1000, "it never comes to rest");
            }
        }

        fn in_fullest_site(&self, shard: usize) -> usize {
            let mut sites: BTreeMap<String, usize> = BTreeMap::new();
            for (_, _, _, labels) in self.nodes.iter().filter(|one| self.shards[shard].contains(&one.0)) {
                *sites.entry(labels.get(Domain::Site).to_owned()).or_insert(0) += 1;
            }
            sites.into_values().max().unwrap_or(0)
        }
    }

    #[test]
    fn voters_follow_a_cluster_that_grows_from_one_node_to_thirty() {
        let mut world = World::new(1, 3, 6);
        world.settle();
        for node in 1..30 {
            world.join(node, 3);
            world.settle();
            let count = world.nodes.len();
            for shard in 0..6 {
                assert_eq!(world.shards[shard].len(), wanted(count), "{count} nodes");
                let fewest = wanted(count).div_ceil(count.min(3));
                assert_eq!(world.in_fullest_site(shard), fewest, "{count} nodes, {:?}", world.shards[shard]);
            }
            assert_eq!(world.settle(), 0, "at rest");
        }
        let load = |node: &NodeId| world.shards.iter().filter(|voters| voters.contains(node)).count();
        let loads: Vec<usize> = world.nodes.iter().map(|(node, ..)| load(node)).collect();
        assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 2, "{loads:?}");
    }

    #[test]
    fn a_voter_that_is_down_stays_and_one_that_is_gone_or_draining_is_replaced() {
        let mut world = World::new(6, 3, 1);
        world.settle();
        let voter = *world.shards[0].first().unwrap();
        let at = world.nodes.iter().position(|one| one.0 == voter).unwrap();
        for (state, standing) in [(State::Active, Standing::Suspected), (State::Active, Standing::Down)] {
            (world.nodes[at].1, world.nodes[at].2) = (state, standing);
            assert_eq!(world.next(0).unwrap(), None, "{standing}");
        }
        for (state, standing) in [
            (State::Active, Standing::Gone),
            (State::Draining, Standing::Alive),
            (State::Gone, Standing::Down),
            (State::Removed, Standing::Alive),
        ] {
            (world.nodes[at].1, world.nodes[at].2) = (state, standing);
            let step = world.next(0).unwrap().unwrap();
            assert!(matches!(step, Step::Replace { out, .. } if out == voter), "{state:?} {standing}: {step:?}");
        }
    }

    #[test]
    fn voters_shrink_with_the_cluster_and_the_last_one_stays() {
        let mut world = World::new(7, 7, 3);
        world.settle();
        while world.nodes.len() > 1 {
            let last = world.nodes.len() - 1;
            world.nodes[last].1 = State::Draining;
            world.settle();
            world.nodes.pop();
            for voters in &world.shards {
                assert_eq!(voters.len(), wanted(world.nodes.len()));
                assert!(voters.iter().all(|voter| world.nodes.iter().any(|one| one.0 == *voter)));
            }
        }
        world.nodes[0].1 = State::Draining;
        assert_eq!(world.next(0), Ok(None), "somebody must hold it");
    }

    #[test]
    fn three_that_take_no_data_are_the_voters_and_the_others_return_if_one_of_them_is_gone() {
        let mut world = World::new(6, 3, 2);
        world.settle();
        (6..8).for_each(|node| world.join(node, 3));
        world.dataless = [id(6), id(7)].into();
        world.settle();
        assert!(world.shards.iter().all(|voters| voters.len() == 5), "two bear no loss: {:?}", world.shards);
        world.join(8, 3);
        world.dataless.insert(id(8));
        world.settle();
        let dataless = world.dataless.clone();
        assert!(world.shards.iter().all(|voters| *voters == dataless), "{:?}", world.shards);
        // Away, it may come back.
        world.nodes[7].2 = Standing::Down;
        world.settle();
        assert!(world.shards.iter().all(|voters| *voters == dataless));
        world.nodes[7].2 = Standing::Gone;
        world.settle();
        assert!(world.shards.iter().all(|voters| voters.len() == 5 && !voters.contains(&id(7))), "{:?}", world.shards);
        assert_eq!((wanted_with(9, 3), wanted_with(9, 2), wanted_with(9, 6), wanted_with(4, 0)), (3, 5, 5, 3));
    }

    #[test]
    fn nothing_changes_without_a_majority() {
        let mut world = World::new(5, 5, 1);
        world.settle();
        for at in 0..3 {
            world.nodes[at].2 = Standing::Gone;
        }
        let error = world.next(0).unwrap_err();
        assert_eq!((error.answering, error.voters, error.need), (2, 5, 3));
        // Three left of five: the dead ones are replaced by nobody, and leave one by one.
        world.nodes[2].2 = Standing::Alive;
        let voters = world.shards[0].clone();
        let step = world.next(0).unwrap().unwrap();
        assert!(matches!(step, Step::Remove { .. }), "{step:?}");
        assert_eq!(step.apply(&voters).len(), 4);
    }
}
