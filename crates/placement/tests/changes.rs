//! Every command that can lower redundancy or capacity passes the gate.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use base::{Demand, Domain, DriveId, GroupId, NodeId, PolicyId};
use common::{Chance, GIB, cluster, drive_id, empty, join, node_id, place, seeds};
use placement::gate::{Change, Contents, Error, Situation, Target, apply, judge};
use placement::map::{Map, State};
use placement::outcome::{Faults, Held, Outcome};
use placement::{GroupRow, Spec};

fn held(_: PolicyId, _: GroupId) -> Held {
    Held { segments: 10, bytes: 1 << 20 }
}

fn nothing(_: PolicyId, _: GroupId) -> Held {
    Held::default()
}

fn placed(nodes: usize, drives: usize, sites: usize, k: u8, m: u8) -> Map {
    let mut map = cluster(nodes, drives, sites);
    place(&mut map, &Spec::new(k, m));
    map
}

/// A cluster and who is down in it.
struct Case {
    map: Map,
    down: BTreeSet<DriveId>,
    away: BTreeSet<NodeId>,
    voters: Vec<BTreeSet<NodeId>>,
    held: fn(PolicyId, GroupId) -> Held,
}

impl Case {
    fn new(map: Map) -> Self {
        let voters = vec![(0..3).map(node_id).collect()];
        Self { map, down: BTreeSet::new(), away: BTreeSet::new(), voters, held }
    }

    fn without(mut self, nodes: &[usize]) -> Self {
        self.away = nodes.iter().map(|node| node_id(*node)).collect();
        self.down = self.map.drives_of(&self.away);
        self
    }

    fn judge(&self, change: &Change) -> Result<Outcome, Error> {
        let Self { map, down, away, voters, held } = self;
        judge(map, change, &Situation { down, away, voters, held, faults: Faults::default() })
    }

    /// Refused with this reason, and this instead; and made all the same by its code alone.
    fn refuses(&self, change: &Change, reason: &str, allowed: &str) -> Outcome {
        let out = self.judge(change).unwrap();
        assert!(out.reasons.iter().any(|one| one.contains(reason)), "{change}: {:?}, not {reason:?}", out.reasons);
        assert_eq!(out.allowed.join("; "), allowed, "{change}: {:?}", out.reasons);
        let text = out.permit(None).unwrap_err().to_string();
        assert!(text.contains(reason) && text.contains(allowed) && text.contains(&out.code), "{text}");
        assert!(out.permit(Some("00000000")).is_err());
        out.permit(Some(&out.code)).unwrap();
        out
    }

    fn permits(&self, change: &Change) -> Outcome {
        let out = self.judge(change).unwrap();
        assert_eq!(out.reasons, Vec::<String>::new(), "{change}");
        out.permit(None).unwrap();
        out
    }
}

fn node(number: usize) -> Target {
    Target::Node(format!("n{number}"))
}

fn site(number: usize) -> Target {
    Target::Domain(Domain::Site, format!("s{number}"))
}

fn drive(node: usize, drive: usize) -> Target {
    Target::Drive(drive_id(node, drive).to_string())
}

/// Which kind of change it is: a new kind doesn't compile here until it has its row below.
fn kind(change: &Change) -> usize {
    match change {
        Change::Drain(_) => 0,
        Change::Remove(_) => 1,
        Change::Expunge(_) => 2,
        Change::SetPolicy { .. } => 3,
        Change::DeleteBucket { .. } => 4,
        Change::PurgeTrash { .. } => 5,
        Change::ChangeVoters { .. } => 6,
        Change::Recover { .. } => 7,
        Change::Downgrade { .. } => 8,
    }
}

const KINDS: usize = 9;

fn store(k: u8, m: u8, demands: &[Demand]) -> Change {
    let (whose, from, ack) = ("bucket photos".into(), PolicyId(1), k + m.div_ceil(2));
    Change::SetPolicy { whose, from, k, m, ack, demands: demands.to_vec(), within: Vec::new() }
}

/// The policy that there is, with writes acknowledged as soon as they can be read.
fn hasty() -> Change {
    let Change::SetPolicy { whose, from, k, m, demands, within, .. } = store(4, 2, &[]) else { unreachable!() };
    Change::SetPolicy { whose, from, k, m, ack: 4, demands, within }
}

fn voters(nodes: &[usize]) -> Change {
    Change::ChangeVoters { shard: 0, next: nodes.iter().map(|node| node_id(*node)).collect() }
}

fn recover(keep: usize, copies: &[(usize, u64)]) -> Change {
    let copies: BTreeMap<NodeId, u64> = copies.iter().map(|(node, position)| (node_id(*node), *position)).collect();
    Change::Recover { shard: 0, copies, keep: node_id(keep) }
}

fn downgrade(to: u32, unreadable: &[&str]) -> Change {
    Change::Downgrade { from: 7, to, unreadable: unreadable.iter().map(|name| (*name).to_owned()).collect() }
}

fn bucket(segments: u64) -> Change {
    Change::DeleteBucket { bucket: "photos".into(), contents: Contents { objects: segments, bytes: segments << 20 } }
}

/// Each change with a situation in which it must be refused, with why and what instead.
fn refused() -> Vec<(Case, Change, &'static str, String)> {
    let nine = || Case::new(placed(9, 2, 3, 4, 2));
    let id = |node: usize| node_id(node).to_string();
    vec![
        (
            nine(),
            Change::Drain(vec![node(3), node(4)]),
            "one at a time",
            "drain node n3 alone; drain node n4 alone".into(),
        ),
        (
            nine().without(&[5]),
            Change::Drain(vec![node(3)]),
            "drives of n5 are down",
            "drain node n3 after n5 is back".into(),
        ),
        (
            Case::new(placed(6, 1, 0, 4, 2)),
            Change::Drain(vec![node(3)]),
            "no other drive could take the pieces",
            "drain node n3 once there are drives that can take the pieces".into(),
        ),
        (nine(), Change::Remove(vec![node(3)]), "still have pieces there", "drain node n3 first".into()),
        (nine(), Change::Remove(vec![drive(3, 1)]), "still have pieces there", format!("drain {} first", drive(3, 1))),
        (
            nine().without(&[5]),
            Change::Expunge(vec![node(3)]),
            "drives of n5 are down",
            "drain node n3 after n5 is back".into(),
        ),
        (nine(), Change::Expunge(vec![node(3)]), "n3 that hold pieces of", "drain node n3".into()),
        (nine(), Change::Expunge(vec![drive(3, 1)]), "answer: they can be drained", format!("drain {}", drive(3, 1))),
        (
            nine(),
            Change::Expunge(vec![node(0), node(1)]),
            "no majority",
            "drain node n0 alone; drain node n1 alone".into(),
        ),
        (
            Case::new(placed(9, 2, 3, 4, 2)).without(&[1]),
            Change::Expunge(vec![site(2)]),
            "no spare piece",
            "drain node n2, node n5, node n8 after n1 is back".into(),
        ),
        (nine(), store(4, 1, &[]), "1 drive rather than 2", "any policy that survives as much as 4+2".into()),
        (
            nine(),
            hasty(),
            "acknowledged with 0 spare pieces durable rather than 1",
            "any policy that survives as much as 4+2".into(),
        ),
        (
            nine(),
            bucket(3),
            "3 objects (3145728 bytes) are in bucket photos",
            "delete bucket photos once it is empty".into(),
        ),
        (
            nine(),
            Change::PurgeTrash { contents: Contents { objects: 4, bytes: 9 } },
            "4 objects (9 bytes) could still be had back",
            "wait until the trash's age has passed".into(),
        ),
        (nine(), voters(&[3, 4, 5]), "3 voters would leave and 3 join: one at a time", "let n3 join first".into()),
        (nine(), voters(&[0, 1]), "9 nodes should have 5", "metadata shard 0 keeps the voters that it has".into()),
        (
            nine().without(&[1, 2]),
            voters(&[0, 1, 2, 3]),
            "2 of 4 voters would answer",
            "metadata shard 0 keeps the voters that it has".into(),
        ),
        (
            nine(),
            recover(0, &[(0, 9)]),
            "what they agree on would be thrown away",
            "bring back more of the voters, or their drives".into(),
        ),
        (
            nine().without(&[1, 2]),
            recover(0, &[(0, 9), (1, 12)]),
            "ends at 9, and another has up to 12",
            format!("recover metadata shard 0 from node {}", id(1)),
        ),
        (
            nine().without(&[1, 2]),
            recover(0, &[(0, 9)]),
            "1 of 3 copies can be read",
            "bring back more of the voters, or their drives".into(),
        ),
        (nine(), downgrade(6, &["piece header 3"]), "version 6 can't read piece header 3", "stay at version 7".into()),
        (nine(), downgrade(4, &[]), "more than one before 7", "go back to version 6".into()),
    ]
}

/// Each change with a situation in which nothing speaks against it.
fn permitted() -> Vec<(Case, Change)> {
    let nine = || Case::new(placed(9, 2, 3, 4, 2));
    let emptied = || {
        let mut map = apply(&nine().map, &Change::Drain(vec![node(3)])).unwrap();
        map.policies[0].groups.iter_mut().for_each(GroupRow::settle);
        Case::new(map)
    };
    let none = Case { held: nothing, ..nine() };
    vec![
        (nine(), Change::Drain(vec![node(3)])),
        (nine(), Change::Drain(vec![drive(3, 1)])),
        (emptied(), Change::Remove(vec![node(3)])),
        (none, Change::Remove(vec![drive(3, 1)])),
        (nine().without(&[3]), Change::Expunge(vec![node(3)])),
        (nine(), store(3, 3, &[Demand { count: 1, domain: Domain::Site }])),
        (nine(), bucket(0)),
        (nine(), Change::PurgeTrash { contents: Contents::default() }),
        (nine(), voters(&[0, 1, 2, 3])),
        (nine(), voters(&[0, 1, 2])),
        (nine().without(&[1, 2]), recover(1, &[(0, 9), (1, 12)])),
        (nine(), downgrade(6, &[])),
    ]
}

#[test]
fn every_kind_of_change_is_refused_where_it_must_be_and_permitted_where_it_may_be() {
    let (mut seen_refused, mut seen_permitted) = (BTreeSet::new(), BTreeSet::new());
    for (case, change, reason, allowed) in refused() {
        seen_refused.insert(kind(&change));
        println!("{}", case.refuses(&change, reason, &allowed).permit(None).unwrap_err());
    }
    for (case, change) in permitted() {
        seen_permitted.insert(kind(&change));
        case.permits(&change);
    }
    assert_eq!(seen_refused, (0..KINDS).collect());
    assert_eq!(seen_permitted, (0..KINDS).collect());
}

#[test]
fn what_is_said_to_be_allowed_is_permitted() {
    let case = Case::new(placed(9, 2, 3, 4, 2));
    case.refuses(&Change::Drain(vec![node(3), node(4)]), "one at a time", "drain node n3 alone; drain node n4 alone");
    case.permits(&Change::Drain(vec![node(3)]));
    case.permits(&Change::Drain(vec![node(4)]));
    let site_down = Case::new(placed(9, 2, 3, 4, 2)).without(&[5]);
    site_down.refuses(&Change::Drain(vec![node(3)]), "n5", "drain node n3 after n5 is back");
    Case::new(site_down.map).permits(&Change::Drain(vec![node(3)]));
    // Two of one site may go together, the third one may not: that is what is offered.
    let case = Case::new(placed(9, 2, 3, 4, 2));
    let three = Change::Drain(vec![node(3), node(6), node(4)]);
    case.refuses(&three, "one at a time", "drain node n3, node n6");
    case.permits(&Change::Drain(vec![node(3), node(6)]));
}

#[test]
fn a_code_is_bound_to_the_change_its_epoch_and_who_is_down() {
    let case = Case::new(placed(9, 2, 3, 4, 2));
    let (three, four) = (case.judge(&bucket(3)).unwrap(), case.judge(&bucket(4)).unwrap());
    assert_eq!(three.code, case.judge(&bucket(3)).unwrap().code, "the same change has the same code");
    assert!(four.permit(Some(&three.code)).is_err(), "more was put into it meanwhile");
    let later = Case::new(case.map.next(case.map.made)).judge(&bucket(3)).unwrap();
    assert!(later.permit(Some(&three.code)).is_err());
    let down = Case::new(case.map.clone()).without(&[8]).judge(&bucket(3)).unwrap();
    assert!(down.permit(Some(&three.code)).is_err());
    // Removing and expunging lead to much the same map, and are not the same.
    let (remove, expunge) = (Change::Remove(vec![node(0), node(1)]), Change::Expunge(vec![node(0), node(1)]));
    assert_ne!(case.judge(&remove).unwrap().code, case.judge(&expunge).unwrap().code);
}

#[test]
fn the_outcome_says_what_becomes_likelier_and_which_domain_is_to_be_feared() {
    let map = placed(9, 2, 3, 4, 2);
    let out = Case::new(map.clone()).judge(&Change::Expunge(vec![node(3)])).unwrap();
    // By the chain itself: 96 · 18 / 6 groups of 4+2, those on n3 with a piece missing.
    let groups = map.policies[0].groups.len() as f64;
    let gone: BTreeSet<DriveId> = map.drives_of(&[node_id(3)].into());
    let hit =
        map.policies[0].groups.iter().filter(|row| row.members.iter().any(|one| gone.contains(one))).count() as f64;
    let chain = durability::Chain::eager(4, 2, 0.05 / 365.0, 1.0).unwrap();
    let wanted = 1.0 / (hit / chain.days_to_loss_from(1) + (groups - hit) / chain.days_to_loss());
    assert!((out.risk_before.days_to_loss / (chain.days_to_loss() / groups) - 1.0).abs() < 1e-9);
    assert!((out.risk_after.days_to_loss / wanted - 1.0).abs() < 1e-9);
    assert!(out.risk_after.loss_within_year > out.risk_before.loss_within_year);
    let worst = out.worst_before.clone().unwrap();
    assert_eq!((worst.domain, worst.spare), (Domain::Site, 0));
    let after = out.worst_after.clone().unwrap();
    assert_eq!((after.domain, after.spare), (Domain::Site, -1), "{after}");
    let text = out.to_string();
    assert!(text.contains("days to loss") && text.contains("couldn't be read"), "{text}");
    // With nobody to take the pieces they are not rebuilt, and loss is a matter of time.
    let stuck = Case::new(placed(6, 1, 0, 4, 2)).judge(&Change::Expunge(vec![node(3)])).unwrap();
    let never = durability::Chain::eager(4, 2, 0.05 / 365.0, f64::INFINITY).unwrap();
    let groups = placed(6, 1, 0, 4, 2).policies[0].groups.len() as f64;
    assert!((stuck.risk_after.days_to_loss / (never.days_to_loss_from(1) / groups) - 1.0).abs() < 1e-9);
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest_and_changes_nothing() {
    let mut map = placed(9, 2, 3, 4, 2);
    map.nodes[3].name = "office-2".into();
    map.nodes[4].name = "attic".into();
    map.nodes[5].name = "attic".into();
    let text = |change: Change| apply(&map, &change).unwrap_err().to_string();
    assert_eq!(
        text(Change::Drain(vec![Target::Node("offcie-2".into())])),
        "there is no node offcie-2: did you mean office-2?; nothing was changed"
    );
    assert!(text(Change::Expunge(vec![Target::Domain(Domain::Site, "s9".into())])).contains("did you mean \"s0\"?"));
    assert!(text(Change::Remove(vec![Target::Node("attic".into())])).starts_with("several are called node attic"));
    assert!(text(store(20, 10, &[])).contains("needs"));
    let unknown = Change::SetPolicy {
        whose: "all".into(),
        from: PolicyId(9),
        k: 1,
        m: 1,
        ack: 1,
        demands: Vec::new(),
        within: Vec::new(),
    };
    let error = Case::new(map.clone()).judge(&unknown).unwrap_err();
    assert_eq!(error, Error::Policy(PolicyId(9)));
    let after = apply(&map, &Change::Drain(vec![Target::Node(node_id(4).to_string())])).unwrap();
    assert_eq!((after.nodes[4].state, after.nodes[5].state), (State::Draining, State::Active));
    after.follows(&map).unwrap();
}

/// Spare pieces of each group if these drives hold nothing: counted from the rows.
fn spares(map: &Map, silent: &BTreeSet<DriveId>) -> Vec<i64> {
    let lost = |drive: &DriveId| {
        let row = map.drives.iter().find(|one| one.id == *drive).unwrap();
        let node = map.nodes.iter().find(|node| node.id == row.node).unwrap();
        silent.contains(drive) || row.state.max(node.state) >= State::Gone
    };
    let policy = &map.policies[0];
    let missing = |row: &GroupRow| row.from.iter().filter(|drive| lost(drive)).count() as i64;
    policy.groups.iter().map(|row| i64::from(policy.m) - missing(row)).collect()
}

#[test]
fn whatever_passes_the_gate_costs_no_segment_its_last_spare_piece() {
    let (mut passed, mut stopped) = (0, 0);
    for seed in seeds("whatever_passes_the_gate_costs_no_segment_its_last_spare_piece", 40) {
        let mut chance = Chance(seed);
        let mut map = empty();
        let nodes = 3 + chance.below(10) as usize;
        for number in 0..nodes {
            let sizes = vec![1000 * GIB; 1 + chance.below(3) as usize];
            join(&mut map, number, &sizes, &[&format!("site=s{}", chance.below(4))]);
        }
        let (k, m) = [(1, 1), (1, 2), (2, 2), (4, 2)][chance.below(4) as usize];
        place(&mut map, &Spec::new(k, m));
        if map.policies[0].groups.is_empty() {
            continue;
        }
        let mut case = Case::new(map);
        case.voters = vec![(0..3.min(nodes)).map(node_id).collect()];
        if chance.below(3) == 0 {
            case = case.without(&[chance.below(nodes as u64) as usize]);
        }
        for _ in 0..6 {
            let targets = (0..1 + chance.below(2)).map(|_| match chance.below(3) {
                0 => drive(chance.below(nodes as u64) as usize, 0),
                1 => node(chance.below(nodes as u64) as usize),
                _ => site(chance.below(4) as usize),
            });
            let targets: Vec<Target> = targets.collect();
            let change = match chance.below(3) {
                0 => Change::Drain(targets),
                1 => Change::Remove(targets),
                _ => Change::Expunge(targets),
            };
            let Ok(out) = case.judge(&change) else { continue };
            if !out.reasons.is_empty() {
                stopped += 1;
                assert!(!out.allowed.is_empty(), "seed {seed}: {change} is refused without saying what is allowed");
                continue;
            }
            passed += 1;
            let after = apply(&case.map, &change).unwrap();
            for (was, is) in spares(&case.map, &case.down).into_iter().zip(spares(&after, &case.down)) {
                assert!(is >= was.min(1), "seed {seed}: {change} leaves {is} spare pieces of {was}");
            }
            // One after the other is no way around it: while pieces are rebuilt nothing else goes.
            if matches!(change, Change::Expunge(_)) && out.move_bytes > 0 {
                let next = Case {
                    map: after,
                    down: case.down.clone(),
                    away: case.away.clone(),
                    voters: case.voters.clone(),
                    held,
                };
                for other in 0..nodes {
                    let Ok(out) = next.judge(&Change::Expunge(vec![node(other)])) else { continue };
                    let same = spares(&next.map, &next.down);
                    let then = spares(&apply(&next.map, &Change::Expunge(vec![node(other)])).unwrap(), &next.down);
                    assert!(!out.reasons.is_empty() || same == then, "seed {seed}: {change}, then n{other}");
                }
            }
        }
    }
    println!("{passed} passed, {stopped} stopped");
    assert!((passed > 20 && stopped > 20) || std::env::var("SEED").is_ok(), "{passed} passed, {stopped} stopped");
}
