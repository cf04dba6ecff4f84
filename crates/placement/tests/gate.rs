//! The outcome of changes, and the order of restarts.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use base::{Domain, NodeId, Standing};
use common::{cluster, drive_id, node_id, node_key, place};
use placement::map::{Map, State};
use placement::outcome::{Held, outcome};
use placement::restart::{Wave, restart_plan};
use placement::{Spec, spread};

fn placed(nodes: usize, drives: usize, sites: usize, k: u8, m: u8) -> Map {
    let mut map = cluster(nodes, drives, sites);
    place(&mut map, &Spec::new(k, m));
    map
}

fn held(_: base::PolicyId, _: base::GroupId) -> Held {
    Held { segments: 10, bytes: 1 << 20 }
}

/// The map with nodes in another state, and the table following.
fn with(map: &Map, nodes: &[usize], state: State) -> Map {
    let mut after = map.next(map.made);
    for node in nodes {
        after.nodes[*node].state = state;
    }
    let ids = nodes.iter().map(|node| node_id(*node)).collect();
    let leaving = after.drives_of(&ids);
    let policy = &after.policies[0];
    let (changed, _) = spread::follow(&after.places(Some(policy)), &policy.spec(), &policy.groups, &leaving);
    for row in changed {
        match after.policies[0].groups.binary_search_by_key(&row.group, |old| old.group) {
            Ok(at) => after.policies[0].groups[at] = row,
            Err(at) => after.policies[0].groups.insert(at, row),
        }
    }
    after
}

#[test]
fn draining_a_node_of_many_is_permitted_and_says_what_moves() {
    let map = placed(8, 2, 0, 4, 2);
    let out = outcome(&map, &with(&map, &[3], State::Draining), &BTreeSet::new(), held);
    assert_eq!(out.reasons, Vec::<String>::new());
    out.permit(None).unwrap();
    assert!(out.move_bytes > 0 && out.unreadable_segments == 0);
    assert_eq!(out.after.of(Domain::Node), 2, "until it is empty, its pieces count");
    let text = out.to_string();
    assert!(text.contains("now:   survives the loss of: any 2 drives, any 2 nodes"), "{text}");
}

#[test]
fn replacing_a_nodes_key_moves_nothing_and_needs_no_confirmation() {
    let map = placed(6, 2, 3, 4, 2);
    let mut after = map.next(map.made);
    after.nodes[2].key = node_key(1000);
    after.check().unwrap();
    after.follows(&map).unwrap();
    let out = outcome(&map, &after, &BTreeSet::new(), held);
    out.permit(None).unwrap();
    assert_eq!((out.move_bytes, out.unreadable_segments, &out.after), (0, 0, &out.before));
    assert_eq!(after.drives_of(&[node_id(2)].into()).len(), 2, "its drives are its drives still");
    assert_ne!(after.hash(), map.hash());
}

#[test]
fn giving_up_what_still_holds_the_last_pieces_is_refused_unless_confirmed() {
    let map = placed(6, 1, 0, 4, 2);
    let one = outcome(&map, &with(&map, &[0], State::Gone), &BTreeSet::new(), held);
    // One of six: a spare piece is left, but the code no longer fits the drives that are left.
    assert_eq!(one.after.of(Domain::Drive), 1);
    assert!(one.reasons.iter().any(|reason| reason.contains("4+2 needs 6 drives")), "{:?}", one.reasons);
    let two = outcome(&map, &with(&map, &[0, 1], State::Gone), &BTreeSet::new(), held);
    assert!(two.reasons.iter().any(|reason| reason.contains("no spare piece")), "{:?}", two.reasons);
    let three = outcome(&map, &with(&map, &[0, 1, 2], State::Gone), &BTreeSet::new(), held);
    assert!(three.reasons.iter().any(|reason| reason.contains("couldn't be read")), "{:?}", three.reasons);
    assert!(three.unreadable_segments > 0 && !three.after.is_readable());
    let refused = three.permit(None).unwrap_err();
    assert!(refused.to_string().contains("nothing was changed") && refused.to_string().contains(&three.code));
    assert!(three.permit(Some(&two.code)).is_err(), "another outcome's code");
    three.permit(Some(&three.code)).unwrap();
    // The same change of a later map has another code.
    let later =
        outcome(&map.next(map.made), &with(&map.next(map.made), &[0, 1, 2], State::Gone), &BTreeSet::new(), held);
    assert_ne!(later.code, three.code);
}

#[test]
fn only_one_failure_domain_is_in_flight() {
    let map = placed(9, 1, 0, 4, 2);
    let down = BTreeSet::from([drive_id(5, 0)]);
    let out = outcome(&map, &with(&map, &[0], State::Gone), &down, held);
    assert!(out.reasons.iter().any(|reason| reason.contains("down already")), "{:?}", out.reasons);
    // Giving up what is down anyway makes nothing worse.
    let out = outcome(&map, &with(&map, &[5], State::Gone), &down, held);
    assert_eq!(out.reasons, Vec::<String>::new());
    // While its pieces are rebuilt, no other goes.
    let moving = with(&map, &[5], State::Gone);
    let out = outcome(&moving, &with(&moving, &[0], State::Gone), &BTreeSet::new(), held);
    assert!(out.reasons.iter().any(|reason| reason.contains("still being moved")), "{:?}", out.reasons);
}

#[test]
fn groups_with_data_are_not_forgotten_and_room_must_be_left() {
    let map = placed(6, 1, 0, 1, 2);
    let mut after = map.next(map.made);
    after.policies[0].groups.pop();
    let out = outcome(&map, &after, &BTreeSet::new(), held);
    assert!(out.reasons.iter().any(|reason| reason.contains("doesn't have")), "{:?}", out.reasons);
    let groups = map.policies[0].groups.len() as u64;
    let full = |_, _| Held { segments: 1, bytes: (6000u64 << 30) * 3 / 10 / groups };
    let out = outcome(&map, &with(&map, &[0], State::Draining), &BTreeSet::new(), full);
    assert!(out.reasons.iter().any(|reason| reason.contains("add drives first")), "{:?}", out.reasons);
}

fn alive(_: NodeId) -> Standing {
    Standing::Alive
}

fn voters(nodes: &[usize]) -> Vec<BTreeSet<NodeId>> {
    vec![nodes.iter().map(|node| node_id(*node)).collect()]
}

/// Every node once, each wave in one domain, and nothing unreadable or without a majority meanwhile.
fn check(map: &Map, voters: &[BTreeSet<NodeId>], waves: &[Wave]) {
    let order: Vec<NodeId> = waves.iter().flat_map(|wave| wave.nodes.clone()).collect();
    let all: BTreeSet<NodeId> = order.iter().copied().collect();
    assert_eq!(order.len(), all.len());
    assert_eq!(all, map.nodes.iter().map(|node| node.id).collect());
    for wave in waves {
        let away: BTreeSet<NodeId> = wave.nodes.iter().copied().collect();
        let label = |node: &NodeId| map.node(*node).unwrap().labels.get(Domain::Site);
        assert!(wave.domain == Domain::Node || away.iter().all(|node| label(node) == wave.name));
        assert!(wave.domain != Domain::Node || away.len() == 1);
        assert!(map.survives(&map.drives_of(&away)).is_readable(), "{wave:?}");
        for voters in voters {
            assert!(voters.difference(&away).count() * 2 > voters.len(), "{wave:?}");
        }
    }
}

#[test]
fn all_nodes_are_restarted_in_waves_of_one_domain_and_voters_last() {
    let map = placed(15, 2, 3, 8, 4);
    let voters = voters(&[0, 1, 2]);
    let waves = restart_plan(&map, &voters, alive).unwrap();
    check(&map, &voters, &waves);
    assert!(waves.len() < 15, "nodes of one site go together: {}", waves.len());
    let votes = |wave: &Wave| wave.nodes.iter().any(|node| voters[0].contains(node));
    assert!(waves[waves.len() - 3..].iter().all(votes) && !waves[..waves.len() - 3].iter().any(votes));
    assert_eq!(waves, restart_plan(&map, &voters, alive).unwrap(), "deterministic");
    let plain = placed(5, 1, 0, 2, 2);
    let waves = restart_plan(&plain, &self::voters(&[0, 1, 2, 3, 4]), alive).unwrap();
    check(&plain, &self::voters(&[0, 1, 2, 3, 4]), &waves);
    assert_eq!(waves.len(), 5);
}

#[test]
fn nothing_is_restarted_while_something_is_missing() {
    let map = placed(6, 1, 0, 3, 2);
    for standing in [Standing::Suspected, Standing::Down, Standing::Gone] {
        let one = |node| if node == node_id(2) { standing } else { Standing::Alive };
        let error = restart_plan(&map, &voters(&[0, 1, 2]), one).unwrap_err();
        assert_eq!(error.reasons, [format!("node n2 is {standing}")]);
    }
    let moving = with(&map, &[0], State::Gone);
    let error = restart_plan(&moving, &voters(&[1, 2, 3]), alive).unwrap_err().to_string();
    assert!(error.contains("being moved or rebuilt"), "{error}");
    let error = restart_plan(&map, &voters(&[0, 1, 77]), alive).unwrap_err().to_string();
    assert!(error.contains("no member"), "{error}");
}

#[test]
fn a_restart_that_can_not_go_unnoticed_is_refused_with_the_reason() {
    let one = placed(1, 4, 0, 1, 2);
    let error = restart_plan(&one, &voters(&[0]), alive).unwrap_err().to_string();
    assert!(error.contains("no majority"), "{error}");
    let error = restart_plan(&one, &[], alive).unwrap_err().to_string();
    assert!(error.contains("holds 3 of 3 pieces") && error.contains("add nodes"), "{error}");
    let two = placed(2, 2, 0, 1, 1);
    let error = restart_plan(&two, &[], alive).unwrap_err().to_string();
    assert!(error.contains("takes writes"), "{error}");
}
