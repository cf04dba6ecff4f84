//! The map's bytes, its signature, and bytes that are none.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base::{Demand, Domain, Epoch, Wall};
use codec::Versioned;
use common::{Chance, GIB, cluster, drive_id, empty, join, node_id, place, policy, seeds};
use crypt::SigningKey;
use placement::map::{Error, Map, SignedMap, State};
use placement::{GroupRow, Spec};

/// One of everything, small enough to be written out.
fn sample() -> Map {
    let mut map = empty();
    map.epoch = Epoch(7);
    map.previous = [0xaa; 32];
    map.made = Wall(1_795_230_600_123);
    join(&mut map, 1, &[1000 * GIB], &["site=office", "country=de", "owner=anna"]);
    join(&mut map, 2, &[2000 * GIB, 3000 * GIB], &["site=cellar", "rack=r1", "model=nuc"]);
    map.nodes[0].addresses = vec!["192.0.2.7:7480".into(), "office.example:7480".into()];
    map.nodes[1].state = State::Draining;
    map.drives[2].state = State::Gone;
    let spec = Spec { k: 1, m: 1, demands: vec![Demand { count: 1, domain: Domain::Site }] };
    let mut two = policy(3, &spec);
    two.within = vec![(Domain::Country, "de".into())];
    let (a, b, c) = (drive_id(1, 0), drive_id(2, 0), drive_id(2, 1));
    let row = |group, members: [base::DriveId; 2], from: [base::DriveId; 2]| GroupRow {
        group: base::GroupId(group),
        version: 1 + group,
        members: members.to_vec(),
        from: from.to_vec(),
    };
    two.groups = vec![row(0, [a, b], [a, b]), row(5, [b, a], [c, a])];
    map.policies = vec![two];
    map
}

fn key() -> SigningKey {
    crypt::RootKey::new(std::array::from_fn(|i| i as u8)).signing_key()
}

#[test]
fn a_map_is_read_back_and_its_bytes_never_change() {
    let map = sample();
    map.check().unwrap();
    let bytes = map.encode();
    assert_eq!(base::ids::hex(&bytes), include_str!("map.txt").trim());
    assert_eq!(Map::decode(&bytes).unwrap(), map);
    assert_eq!(base::ids::hex(&map.hash()), include_str!("map-hash.txt").trim());
    let signed = map.sign(&key()).unwrap().encode();
    assert_eq!(base::ids::hex(&signed), include_str!("map-signed.txt").trim());
    let read = SignedMap::decode(&signed).unwrap();
    assert_eq!(read.open(key().public()).unwrap(), map);
}

#[test]
fn a_map_of_another_key_or_with_a_changed_byte_is_refused() {
    let (map, trusted) = (sample(), key().public());
    let signed = map.sign(&key()).unwrap();
    let other = SigningKey::from_seed(&[1; 32]);
    let error = map.sign(&other).unwrap().open(trusted).unwrap_err();
    assert!(matches!(error, Error::Signer { .. }) && error.to_string().contains("another cluster"), "{error}");
    let pretended = SignedMap { signer: trusted, ..map.sign(&other).unwrap() };
    assert!(matches!(pretended.open(trusted), Err(Error::Signature)));
    for at in 0..signed.bytes.len() {
        let mut changed = signed.clone();
        changed.bytes[at] ^= 1;
        assert!(matches!(changed.open(trusted), Err(Error::Signature)), "byte {at}");
    }
}

#[test]
fn only_what_follows_replaces_a_map() {
    let old = sample();
    let new = old.next(Wall(old.made.0 + 1));
    new.follows(&old).unwrap();
    old.follows(&old).unwrap();
    assert!(matches!(old.follows(&new), Err(Error::Stale { .. })));
    let mut twin = old.clone();
    twin.made = Wall(5);
    assert!(matches!(twin.follows(&old), Err(Error::Forked { .. })));
    assert!(matches!(twin.next(Wall(6)).follows(&old), Err(Error::Forked { .. })));
    new.next(Wall(7)).follows(&old).unwrap();
    let mut foreign = new.clone();
    foreign.cluster = base::ClusterId([1; 16]);
    assert!(matches!(foreign.follows(&old), Err(Error::Cluster { .. })));
}

#[test]
fn a_map_that_contradicts_itself_is_refused() {
    let break_it: [fn(&mut Map); 8] = [
        |map| map.nodes[1].key = map.nodes[0].key,
        |map| map.nodes.swap(0, 1),
        |map| map.drives[0] = map.drives[1].clone(),
        |map| map.drives[0].node = node_id(99),
        |map| map.policies.push(map.policies[0].clone()),
        |map| map.policies[0].ack = 3,
        |map| map.policies[0].groups.swap(0, 1),
        |map| map.policies[0].groups[0].members = vec![drive_id(1, 0), drive_id(1, 0)],
    ];
    for (number, breaks) in break_it.iter().enumerate() {
        let mut map = sample();
        breaks(&mut map);
        let error = map.check().unwrap_err();
        assert!(matches!(error, Error::Inconsistent(_)), "{number}");
        assert!(map.sign(&key()).is_err(), "{number}");
        let bytes = map.encode();
        let signature = key().sign_as(placement::map::CONTEXT, &crypt::hash(&bytes));
        let signed = SignedMap { signer: key().public(), signature, bytes };
        assert!(signed.open(key().public()).is_err(), "{number}: a signature makes it no better");
    }
}

#[test]
fn a_map_that_others_could_not_read_is_not_signed() {
    let break_it: [fn(&mut Map); 4] = [
        |map| map.nodes[0].name = "x".repeat(256),
        |map| map.nodes[0].addresses = vec!["a:1".into(); 17],
        |map| map.policies[0].demands[0].count = 0,
        |map| map.policies[0].within = vec![(Domain::Site, "x".repeat(65))],
    ];
    for breaks in break_it {
        let mut map = sample();
        breaks(&mut map);
        assert!(matches!(map.sign(&key()), Err(Error::Codec(_))));
    }
}

#[test]
fn a_store_of_one_machine_is_the_first_node_of_a_cluster_as_it_is() {
    // Rows as the one-machine store writes them, taken over byte by byte.
    let drives: Vec<_> = (0..5).map(|at| placement::Candidate { drive: drive_id(0, at), weight: 1 }).collect();
    let rows = placement::build(&drives, 4, 0, placement::group_count(5, 4), &[]);
    let mut map = cluster(1, 5, 0);
    let spec = Spec::new(2, 2);
    let mut two = policy(1, &spec);
    two.groups = rows.iter().map(|row| GroupRow::decode(&row.encode()).unwrap()).collect();
    map.policies = vec![two];
    map.check().unwrap();
    assert_eq!(Map::decode(&map.encode()).unwrap().policies[0].groups, rows);
    assert_eq!(map.survives(&Default::default()).to_string(), "survives the loss of: any 2 drives");
    // Others join: its groups stay, new ones spread.
    (1..5).for_each(|node| join(&mut map, node, &[1000 * GIB], &[]));
    let (changed, unmet) = placement::spread::follow(&map.places(None), &spec, &rows, &Default::default());
    assert_eq!(unmet, None);
    assert!(!changed.is_empty() && changed.iter().all(|row| row.group.0 as usize >= rows.len()));
}

#[test]
fn bytes_that_are_no_map_are_errors_and_never_a_panic() {
    let mut big = cluster(6, 2, 3);
    place(&mut big, &Spec::new(3, 2));
    big.policies[0].groups.truncate(20);
    let (mut read, mut refused) = (0, 0);
    for whole in [sample().encode(), big.encode(), sample().sign(&key()).unwrap().encode()] {
        for cut in 0..whole.len() {
            assert!(Map::decode(&whole[..cut]).is_err() && SignedMap::decode(&whole[..cut]).is_err());
        }
        for seed in seeds("bytes_that_are_no_map_are_errors_and_never_a_panic", 4000) {
            let mut chance = Chance(seed);
            let mut bytes = whole.clone();
            for _ in 0..1 + chance.below(4) {
                let at = chance.below(bytes.len() as u64) as usize;
                match chance.below(4) {
                    0 => bytes[at] = chance.next() as u8,
                    1 => bytes[at] ^= 1 << chance.below(8),
                    2 => bytes.truncate(at),
                    _ => bytes.insert(at, [0, 0xff][chance.below(2) as usize]),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            match Map::decode(&bytes) {
                Err(_) => refused += 1,
                Ok(map) => {
                    read += 1;
                    // One map, one encoding; and whatever was read can be asked anything.
                    let again = map.encode();
                    let differs = again.iter().zip(&bytes).position(|(a, b)| a != b);
                    assert!(again == bytes, "seed {seed}: byte {differs:?} of {}", bytes.len());
                    if map.check().is_ok() {
                        map.survives(&Default::default());
                        for policy in &map.policies {
                            let _ = map.check_policy(policy, &[(1, 1)]);
                        }
                    }
                }
            }
            let _ = SignedMap::decode(&bytes).map(|map| map.open(key().public()));
            let noise: Vec<u8> = (0..chance.below(200)).map(|_| chance.next() as u8).collect();
            assert!(Map::decode(&noise).is_err() && SignedMap::decode(&noise).is_err());
            let marked = [b"AbMp\x01", noise.as_slice()].concat();
            assert!(Map::decode(&marked).is_err(), "seed {seed}");
        }
    }
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}

#[test]
fn a_policy_for_labels_that_nobody_has_names_the_nearest() {
    let map = sample();
    let mut two = map.policies[0].clone();
    two.within = vec![(Domain::Country, "ed".into())];
    let error = map.check_policy(&two, &[]).unwrap_err().to_string();
    assert!(error.contains("did you mean \"de\"?"), "{error}");
}
