//! The rules of membership over rows, and the node's file.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use base::kv::{Batch, apply};
use base::{ClusterId, Domain, DriveId, Epoch, Kind, Kinded, NodeId, Wall};
use codec::Versioned;
use crypt::{PublicKey, RootKey, SigningKey};
use env::Env;
use namespace::catalog::{self, DriveRow, DriveState, NodeState};
use node::members::{
    Contact, Error, JoinAnswer, JoinAsk, Membership, NodeFile, Tokens, admit, expunge, found, invite, labels_of, leave,
    member_list, moved, node_file, relabel, replace_key, retire_key, rotate_key,
};
use wire::{Certificate, Claim, Member, MemberList, Refusal, TicketError, TicketId, Trust, node_id};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const NOW: Wall = Wall(1_795_230_600_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn root() -> RootKey {
    RootKey::new([9; 32])
}

fn key(seed: u8) -> PublicKey {
    SigningKey::from_seed(&[seed; 32]).public()
}

fn id(seed: u8) -> NodeId {
    node_id(&key(seed))
}

fn ask(name: &str, labels: &[&str]) -> JoinAsk {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    JoinAsk { versions: 1..=1, addresses: vec!["10.0.0.1:7400".parse().unwrap()], labels, name: name.to_owned() }
}

fn claim(id: u8) -> Claim {
    Claim { cluster: CLUSTER, id: TicketId([id; 8]), expires: NOW + DAY }
}

#[derive(Default)]
struct Store(BTreeMap<Vec<u8>, Vec<u8>>);

impl Store {
    /// Node 1 has founded the cluster.
    fn founded() -> Store {
        let mut store = Store::default();
        store.take(found(&store.0, &root(), CLUSTER, key(1), &ask("one", &["site=office"]), NOW)).unwrap();
        store
    }

    fn take<T>(&mut self, result: Result<(Batch, T), Error>) -> Result<T, Error> {
        let (batch, value) = result?;
        apply(&mut self.0, &batch);
        Ok(value)
    }

    fn admit(&mut self, seed: u8, ticket: u8) -> Result<JoinAnswer, Error> {
        self.admit_as(seed, &claim(ticket), &ask(&format!("node {seed}"), &[]), NOW)
    }

    fn admit_as(&mut self, seed: u8, claim: &Claim, ask: &JoinAsk, now: Wall) -> Result<JoinAnswer, Error> {
        let result = admit(&self.0, &root(), key(seed), claim, ask, now);
        self.take(result)
    }

    fn list(&self) -> MemberList {
        member_list(&self.0, &root().signing_key().public()).unwrap().unwrap()
    }

    fn members(&self) -> Vec<NodeId> {
        self.list().members().iter().map(|member| member.node).collect()
    }

    fn trust(&self) -> Trust {
        Trust::new(root().signing_key().public(), CLUSTER, self.list()).unwrap()
    }

    fn drive(&mut self, number: u8, node: Option<NodeId>, state: DriveState) {
        let (id, path) = (DriveId([number; 16]), format!("/d{number}"));
        apply(&mut self.0, &catalog::put_drive(&DriveRow { id, path, state, size: 1, added: NOW, node }));
    }

    fn drive_row(&self, number: u8) -> DriveRow {
        catalog::drive(&self.0, DriveId([number; 16])).unwrap().unwrap()
    }
}

fn sorted(seeds: &[u8]) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = seeds.iter().map(|seed| id(*seed)).collect();
    ids.sort();
    ids
}

#[test]
fn the_first_node_founds_the_cluster_in_place_and_takes_the_drives_that_are_on_none() {
    let mut store = Store::default();
    store.drive(1, None, DriveState::Active);
    store.drive(2, Some(NodeId([5; 16])), DriveState::Active);
    assert!(matches!(store.admit(2, 1), Err(Error::NotFounded)));
    let first = found(&store.0, &root(), CLUSTER, key(1), &ask("one", &["site=office"]), NOW);
    let Membership { certificate, list } = store.take(first).unwrap();
    assert_eq!((list.epoch, store.members()), (Epoch(1), vec![id(1)]));
    assert_eq!((certificate.node, certificate.key, certificate.serial), (id(1), key(1), 1));
    let node = catalog::node(&store.0, id(1)).unwrap().unwrap();
    assert_eq!(
        (node.name.as_str(), labels_of(&node).get(Domain::Site), node.state),
        ("one", "office", NodeState::Active)
    );
    assert_eq!(store.drive_row(1).node, Some(id(1)));
    assert_eq!(store.drive_row(2).node, Some(NodeId([5; 16])));
    // Once more: nothing changes, the certificate is the same.
    let (batch, again) = found(&store.0, &root(), CLUSTER, key(1), &ask("x", &[]), NOW).unwrap();
    assert!(batch.is_empty());
    assert_eq!(again.certificate, certificate);
    let other = found(&store.0, &root(), CLUSTER, key(2), &ask("two", &[]), NOW).unwrap_err();
    assert!(matches!(other, Error::Founded { members: 1, .. }), "{other}");
}

#[test]
fn a_machine_with_a_ticket_becomes_a_member_and_is_told_all_it_needs_but_the_root_key() {
    let mut store = Store::founded();
    let answer = store.admit_as(2, &claim(1), &ask("two", &["site=cellar", "owner=anna"]), NOW).unwrap();
    assert_eq!((answer.list.epoch, store.members()), (Epoch(2), sorted(&[1, 2])));
    assert_eq!(answer.list, store.list());
    answer.certificate.verify(&root().signing_key().public(), CLUSTER).unwrap();
    assert_eq!(answer.keys, root().store_keys());
    let contact = Contact { node: id(1), addresses: vec!["10.0.0.1:7400".parse().unwrap()] };
    assert_eq!(answer.contacts, [contact]);
    // Who has an older list believes the certificate, who has the new one doesn't need it.
    let old = Trust::new(root().signing_key().public(), CLUSTER, Store::founded().list()).unwrap();
    assert_eq!(old.admit(&key(2), Some(&answer.certificate)), Ok(id(2)));
    assert_eq!(store.trust().admit(&key(2), None), Ok(id(2)));
    let row = catalog::node(&store.0, id(2)).unwrap().unwrap();
    assert_eq!(labels_of(&row).to_string(), "site=cellar owner=anna");
}

#[test]
fn a_ticket_lets_one_key_in_and_that_one_as_often_as_it_asks() {
    let mut store = Store::founded();
    let first = store.admit(2, 1).unwrap();
    assert!(matches!(store.admit(3, 1), Err(Error::Ticket(TicketError::Used))));
    store.admit(4, 2).unwrap();
    // Its answer was lost; it asks again long after, when the ticket has expired.
    let (batch, again) =
        admit(&store.0, &root(), key(2), &claim(1), &ask("x", &["color=red"]), NOW + DAY * 20).unwrap();
    assert!(batch.is_empty());
    assert_eq!((again.certificate, again.list.epoch), (first.certificate, Epoch(3)));
    // Forged claims don't come here; one of another cluster may, with the same root key.
    let other = Claim { cluster: ClusterId([8; 16]), ..claim(3) };
    assert_eq!(store.admit_as(5, &other, &ask("x", &[]), NOW).unwrap_err().kind(), Kind::Denied);
    assert_eq!(store.list().epoch, Epoch(3));
}

#[test]
fn an_expired_ticket_is_refused_with_both_times_and_used_ones_never_come_back() {
    let mut store = Store::founded();
    let late = Wall(NOW.0 + 40 * 365 * 24 * 3_600_000);
    let refused = store.admit_as(2, &claim(1), &ask("x", &[]), late).unwrap_err().to_string();
    assert!(refused.contains("expired at 2026-11-22") && refused.contains("says 2066-"), "{refused}");
    // Used, expired, and forgotten by a clock that is forty years ahead for a moment.
    store.admit(2, 1).unwrap();
    let long = Claim { expires: late + DAY, ..claim(2) };
    store.admit_as(3, &long, &ask("x", &[]), late).unwrap();
    assert_eq!(catalog::ticket(&store.0, [1; 8]).unwrap(), None);
    let refused = store.admit(4, 1).unwrap_err();
    assert!(matches!(refused, Error::Forgotten { .. }), "{refused}");
    assert!(refused.to_string().contains("abide invite"), "{refused}");
    // Tickets that last longer than those forgotten go on working once the clock is right again.
    let newer = Claim { expires: NOW + DAY * 2, ..claim(3) };
    store.admit_as(4, &newer, &ask("x", &[]), NOW + DAY).unwrap();
}

#[test]
fn two_nodes_never_have_one_key() {
    let mut store = Store::founded();
    store.admit(2, 1).unwrap();
    // A copied file and a new ticket.
    let refused = store.admit(2, 2).unwrap_err();
    assert!(matches!(&refused, Error::KeyTaken { node, .. } if *node == id(2)), "{refused}");
    assert!(refused.to_string().contains("node 2") && refused.to_string().contains(&node_file(CLUSTER)), "{refused}");
    assert!(matches!(store.admit(1, 2), Err(Error::KeyTaken { .. })), "the first node's");
    // Keys before and after a change are taken too, also for changes.
    let rotated = rotate_key(&store.0, &root(), id(2), key(12));
    store.take(rotated).unwrap();
    for seed in [2, 12] {
        assert!(matches!(store.admit(seed, 2), Err(Error::KeyTaken { .. })), "{seed}");
        assert!(matches!(rotate_key(&store.0, &root(), id(1), key(seed)), Err(Error::KeyTaken { .. })), "{seed}");
    }
    let retired = retire_key(&store.0, &root(), id(2));
    store.take(retired).unwrap();
    assert!(matches!(store.admit(2, 2), Err(Error::KeyTaken { .. })), "its id comes from this key");
    assert!(matches!(store.admit(2, 1), Err(Error::OldKey { .. })));
}

#[test]
fn slips_in_labels_and_other_protocols_are_refused_and_the_ticket_stays_good() {
    let mut store = Store::founded();
    for (labels, hint) in
        [(["site=ofice"], "did you mean that"), (["siet=office"], "did you mean \"site\"?"), (["office"], "name=value")]
    {
        let refused = store.admit_as(2, &claim(1), &ask("x", &labels), NOW).unwrap_err().to_string();
        assert!(refused.contains(hint), "{refused}");
    }
    let newer = JoinAsk { versions: 900..=901, ..ask("x", &[]) };
    let refused = store.admit_as(2, &claim(1), &newer, NOW).unwrap_err().to_string();
    assert!(refused.contains("900 to 901"), "{refused}");
    store.admit_as(2, &claim(1), &ask("x", &["site=ofice!"]), NOW).unwrap();
    let slip = relabel(&store.0, id(2), &["site=offise".to_owned()]).unwrap_err();
    assert!(matches!(slip, Error::Label(_)), "{slip}");
    let batch = relabel(&store.0, id(2), &["site=office".to_owned()]).unwrap();
    apply(&mut store.0, &batch);
    let row = catalog::node(&store.0, id(2)).unwrap().unwrap();
    assert_eq!(labels_of(&row).to_string(), "site=office");
    assert!(moved(&store.0, id(2), &row.addresses, &row.name).unwrap().is_empty());
    let address: SocketAddr = "[::1]:9".parse().unwrap();
    let batch = moved(&store.0, id(2), &[address], "new").unwrap();
    apply(&mut store.0, &batch);
    assert_eq!(catalog::node(&store.0, id(2)).unwrap().unwrap().addresses, [address]);
}

#[test]
fn machines_that_are_called_alike_get_numbers_and_keep_them() {
    let mut store = Store::founded();
    for node in 2..=3 {
        store.admit_as(node, &claim(node), &ask("one", &[]), NOW).unwrap();
    }
    let row = |store: &Store, node: u8| catalog::node(&store.0, id(node)).unwrap().unwrap();
    let names = |store: &Store| [1, 2, 3].map(|node| row(store, node).name);
    assert_eq!(names(&store), ["one", "one-2", "one-3"]);
    // They say their host's name at each start.
    for node in [3, 2, 1] {
        assert!(moved(&store.0, id(node), &row(&store, node).addresses, "one").unwrap().is_empty());
    }
    let batch = moved(&store.0, id(3), &[], "one-2").unwrap();
    apply(&mut store.0, &batch);
    assert_eq!(names(&store), ["one", "one-2", "one-2-2"]);
}

#[test]
fn an_expunged_node_is_out_for_ever_and_its_drives_are_given_up() {
    let mut store = Store::founded();
    store.admit(2, 1).unwrap();
    store.admit(3, 2).unwrap();
    store.drive(1, Some(id(2)), DriveState::Active);
    store.drive(2, Some(id(2)), DriveState::Removed);
    store.drive(3, Some(id(3)), DriveState::Active);
    let out = expunge(&store.0, &root(), id(2));
    let list = store.take(out).unwrap();
    assert_eq!((list.epoch, store.members()), (Epoch(4), sorted(&[1, 3])));
    assert_eq!(catalog::node(&store.0, id(2)).unwrap().unwrap().state, NodeState::Removed);
    let states: Vec<DriveState> = (1..=3).map(|number| store.drive_row(number).state).collect();
    assert_eq!(states, [DriveState::Gone, DriveState::Removed, DriveState::Active]);
    let shown = Certificate::sign(&root().signing_key(), CLUSTER, id(2), key(2), 9, Epoch(99));
    assert_eq!(store.trust().admit(&key(2), Some(&shown)), Err(Refusal::Expunged));
    // Neither with the ticket it had nor with another one, nor by another of its keys.
    for ticket in [1, 3] {
        let refused = store.admit(2, ticket).unwrap_err();
        assert!(matches!(refused, Error::Expunged { .. }), "{refused}");
        assert!(refused.to_string().contains("was expunged"), "{refused}");
    }
    assert!(matches!(rotate_key(&store.0, &root(), id(2), key(5)), Err(Error::NoNode { .. })));
    assert!(matches!(rotate_key(&store.0, &root(), id(3), key(2)), Err(Error::Expunged { .. })));
    assert!(expunge(&store.0, &root(), id(2)).unwrap().0.is_empty(), "twice is once");
    assert!(matches!(expunge(&store.0, &root(), id(9)), Err(Error::NoNode { .. })));
    let out = expunge(&store.0, &root(), id(3));
    store.take(out).unwrap();
    assert!(matches!(expunge(&store.0, &root(), id(1)), Err(Error::Last { .. })));
}

#[test]
fn a_stolen_node_whose_key_was_changed_does_not_come_back_by_its_newest_key() {
    let mut store = Store::founded();
    store.admit(2, 1).unwrap();
    let rotated = rotate_key(&store.0, &root(), id(2), key(12));
    store.take(rotated).unwrap();
    let out = expunge(&store.0, &root(), id(2));
    store.take(out).unwrap();
    assert!(matches!(store.admit(12, 3), Err(Error::Expunged { node, .. }) if node == id(2)));
}

#[test]
fn a_node_leaves_when_its_drives_are_empty_and_may_come_back() {
    let mut store = Store::founded();
    store.admit(2, 1).unwrap();
    store.drive(1, Some(id(2)), DriveState::Draining);
    let refused = leave(&store.0, &root(), id(2)).unwrap_err();
    assert!(matches!(refused, Error::HasDrives { drives: 1, .. }), "{refused}");
    store.drive(1, Some(id(2)), DriveState::Removed);
    let left = leave(&store.0, &root(), id(2));
    let list = store.take(left).unwrap();
    assert_eq!((store.members(), list.is_expunged(id(2))), (vec![id(1)], false));
    assert!(leave(&store.0, &root(), id(2)).unwrap().0.is_empty());
    assert!(matches!(store.admit(2, 1), Err(Error::Left { .. })), "its ticket is used");
    let back = store.admit(2, 2).unwrap();
    assert_eq!((back.certificate.node, store.members()), (id(2), sorted(&[1, 2])));
    assert_eq!(catalog::node(&store.0, id(2)).unwrap().unwrap().state, NodeState::Active);
    assert!(matches!(leave(&Store::founded().0, &root(), id(1)), Err(Error::Last { .. })));
}

#[test]
fn a_key_is_changed_in_two_steps_that_can_be_repeated_or_at_once_if_it_is_lost() {
    let mut store = Store::founded();
    store.admit(2, 1).unwrap();
    let rotated = rotate_key(&store.0, &root(), id(2), key(12));
    let both = store.take(rotated).unwrap();
    assert_eq!((both.certificate.serial, both.certificate.key, both.list.epoch), (2, key(12), Epoch(3)));
    assert_eq!(store.trust().keys(id(2)), [key(12), key(2)]);
    let (batch, again) = rotate_key(&store.0, &root(), id(2), key(12)).unwrap();
    assert_eq!((batch.is_empty(), again), (true, both));
    assert!(matches!(rotate_key(&store.0, &root(), id(2), key(13)), Err(Error::Rotating { .. })));
    let retired = retire_key(&store.0, &root(), id(2));
    store.take(retired).unwrap();
    assert_eq!(store.trust().keys(id(2)), [key(12)]);
    assert!(retire_key(&store.0, &root(), id(2)).unwrap().0.is_empty());
    let replaced = replace_key(&store.0, &root(), id(2), key(14));
    store.take(replaced).unwrap();
    assert_eq!((store.trust().keys(id(2)), store.list().epoch), (vec![key(14)], Epoch(5)));
    assert!(replace_key(&store.0, &root(), id(2), key(14)).unwrap().0.is_empty());
}

#[test]
fn another_root_key_signs_nothing() {
    let mut store = Store::founded();
    store.admit(2, 1).unwrap();
    let other = RootKey::new([1; 32]);
    let refusals = [
        admit(&store.0, &other, key(3), &claim(5), &ask("x", &[]), NOW).err(),
        expunge(&store.0, &other, id(2)).err(),
        leave(&store.0, &other, id(2)).err(),
        rotate_key(&store.0, &other, id(2), key(5)).err(),
        retire_key(&store.0, &other, id(2)).err(),
        found(&store.0, &other, CLUSTER, key(1), &ask("x", &[]), NOW).err(),
    ];
    for refused in refusals {
        assert!(matches!(refused, Some(Error::Root(_))), "{refused:?}");
    }
}

#[test]
fn every_change_has_an_epoch_of_its_own_and_lists_never_contradict_each_other() {
    let mut store = Store::founded();
    let (mut state, mut epoch, mut trust) = (3u64, Epoch(1), store.trust());
    for step in 0..300u32 {
        let seed = 1 + (next(&mut state) % 9) as u8;
        let spare = 100 + (step % 100) as u8;
        let change = match next(&mut state) % 6 {
            0 | 1 => store
                .admit_as(
                    seed,
                    &Claim { id: TicketId([step as u8, (step >> 8) as u8, 0, 0, 0, 0, 0, 0]), ..claim(0) },
                    &ask("x", &[]),
                    NOW,
                )
                .map(drop),
            2 => {
                let r = rotate_key(&store.0, &root(), id(seed), key(spare));
                store.take(r).map(drop)
            }
            3 => {
                let r = retire_key(&store.0, &root(), id(seed));
                store.take(r).map(drop)
            }
            4 => {
                let r = leave(&store.0, &root(), id(seed));
                store.take(r).map(drop)
            }
            _ if step % 40 == 0 => {
                let r = expunge(&store.0, &root(), id(seed));
                store.take(r).map(drop)
            }
            _ => Ok(()),
        };
        let list = store.list();
        match list == *trust.list() {
            true => assert_eq!(list.epoch, epoch),
            false => assert_eq!((list.epoch, change.is_ok()), (Epoch(epoch.0 + 1), true)),
        }
        epoch = list.epoch;
        trust.install(list.clone()).unwrap();
        for row in node::members::all_nodes(&store.0).unwrap() {
            assert_eq!(row.state != NodeState::Removed, list.get(row.id).is_some(), "rows and list agree");
            let member = list.get(row.id);
            assert!(member.is_none_or(|member| member.key.0 == row.key && member.serial == row.serial));
        }
        for gone in list.expunged() {
            assert!(list.get(*gone).is_none() && trust.keys(*gone).is_empty());
        }
    }
    assert!(epoch.0 > 50, "the story was too quiet: {epoch}");
}

#[test]
fn a_ticket_needs_a_way_to_the_cluster_and_an_end() {
    let good: SocketAddr = "10.0.0.1:7400".parse().unwrap();
    let anywhere: SocketAddr = "0.0.0.0:7400".parse().unwrap();
    let ticket = invite(&root(), CLUSTER, &[anywhere, good], DAY, NOW, [3; 8]).unwrap();
    assert_eq!((ticket.addresses.as_slice(), ticket.claim), (&[good][..], Claim { id: TicketId([3; 8]), ..claim(3) }));
    assert_eq!(*ticket.secret(), ticket.claim.secret(&root()));
    for (addresses, valid) in [(&[anywhere][..], DAY), (&[][..], DAY), (&[good], Duration::ZERO), (&[good], DAY * 400)]
    {
        assert_eq!(invite(&root(), CLUSTER, addresses, valid, NOW, [3; 8]).unwrap_err().kind(), Kind::Invalid);
    }
}

#[test]
fn an_unspecified_address_becomes_the_one_that_is_seen() {
    let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let mut ask = ask("x", &[]);
    ask.addresses = vec![address("0.0.0.0:7400"), address("10.0.0.9:7400"), address("[::]:7400")];
    ask.seen_from("::ffff:10.0.0.9".parse().unwrap());
    assert_eq!(ask.addresses, [address("10.0.0.9:7400")]);
}

// ---- bytes ----

fn sample_membership() -> Membership {
    let signing = root().signing_key();
    let certificate = Certificate::sign(&signing, CLUSTER, id(1), key(1), 1, Epoch(3));
    let member = |seed: u8, previous| Member { node: id(seed), serial: seed.into(), key: key(seed), previous };
    let members = vec![member(1, None), member(2, Some(PublicKey([5; 32])))];
    let list = MemberList::sign(&signing, CLUSTER, Epoch(3), members, vec![NodeId([4; 16])]);
    Membership { certificate, list }
}

fn sample_contacts() -> Vec<Contact> {
    let addresses = vec!["10.1.2.3:7400".parse().unwrap(), "[2001:db8::1]:7400".parse().unwrap()];
    vec![Contact { node: NodeId([6; 16]), addresses }]
}

fn sample_tokens() -> Tokens {
    Tokens::from([(0, [10; 16]), (300, [11; 16])])
}

fn sample_ask() -> JoinAsk {
    let addresses = vec!["10.1.2.3:7400".parse().unwrap()];
    JoinAsk { versions: 1..=2, addresses, labels: vec!["site=office".into()], name: "höst".into() }
}

fn sample_answer() -> JoinAnswer {
    let Membership { certificate, list } = sample_membership();
    let (contacts, tokens) = (sample_contacts(), sample_tokens());
    JoinAnswer { certificate, list, keys: root().store_keys(), contacts, tokens }
}

fn sample_file() -> NodeFile {
    let mut file = NodeFile::new([1; 32], root().signing_key().public(), root().store_keys(), sample_membership());
    file.begin_rotation([2; 32]);
    (file.starts, file.ticket) = (12, Some(TicketId([3; 8])));
    (file.contacts, file.tokens) = (sample_contacts(), sample_tokens());
    (file.turns, file.round) = ([(0, 0), (1, 2)].into(), 3);
    file
}

#[test]
fn the_bytes_of_version_1_never_change() {
    let samples = [
        ("join-ask", sample_ask().encode()),
        ("join-answer", sample_answer().encode()),
        ("node-file", sample_file().encode()),
    ];
    let text: String = samples.iter().map(|(name, bytes)| format!("{name} {}\n", base::ids::hex(bytes))).collect();
    assert_eq!(text, include_str!("members-v1.txt"));
    assert_eq!(JoinAsk::decode(&samples[0].1), Ok(sample_ask()));
    assert_eq!(JoinAnswer::decode(&samples[1].1), Ok(sample_answer()));
    assert_eq!(NodeFile::decode(&samples[2].1), Ok(sample_file()));
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn read_all(bytes: &[u8]) -> bool {
    let ask = JoinAsk::decode(bytes).map(|ask| assert_eq!(JoinAsk::decode(&ask.encode()), Ok(ask)));
    let answer = JoinAnswer::decode(bytes).map(|answer| assert_eq!(JoinAnswer::decode(&answer.encode()), Ok(answer)));
    let file = NodeFile::decode(bytes).map(|file| assert_eq!(NodeFile::decode(&file.encode()), Ok(file)));
    ask.is_ok() || answer.is_ok() || file.is_ok()
}

#[test]
fn cut_changed_and_random_bytes_are_errors_and_never_panics() {
    let mut state = 1;
    for bytes in [sample_ask().encode(), sample_answer().encode(), sample_file().encode()] {
        for cut in 0..bytes.len() {
            assert!(!read_all(&bytes[..cut]), "cut at {cut}");
        }
        assert!(!read_all(&[&bytes[..], &[0]].concat()), "a byte too many");
        for _ in 0..3000 {
            let mut wrong = bytes.clone();
            for _ in 0..1 + next(&mut state) % 3 {
                let at = next(&mut state) as usize % wrong.len();
                wrong[at] = next(&mut state) as u8;
            }
            read_all(&wrong);
            let garbage: Vec<u8> = (0..next(&mut state) % 300).map(|_| next(&mut state) as u8).collect();
            read_all(&[&bytes[..5], &garbage[..]].concat());
        }
    }
    let file = sample_file().encode();
    for at in 5..file.len() {
        let mut wrong = file.clone();
        wrong[at] ^= 4;
        assert!(NodeFile::decode(&wrong).is_err(), "byte {at} of a node's file");
    }
}

#[test]
fn what_is_too_much_for_its_bytes_is_not_said() {
    let long = JoinAsk { labels: vec!["site=x".into(); 300], ..sample_ask() };
    assert!(long.check().is_err());
    assert!(JoinAsk { name: "x".repeat(256), ..sample_ask() }.check().is_err());
    sample_ask().check().unwrap();
    // A node's file always reads back.
    let mut file = sample_file();
    file.contacts = vec![sample_contacts().remove(0); 300];
    assert_eq!(NodeFile::decode(&file.encode()).unwrap().contacts.len(), node::members::CONTACTS_MAX);
}

// ---- the file ----

fn a_file() -> NodeFile {
    NodeFile::new([1; 32], root().signing_key().public(), root().store_keys(), sample_membership())
}

#[tokio::test]
async fn a_nodes_file_is_private_counts_its_starts_and_is_never_another_nodes() {
    let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
    let (disk, path) = (env.disk.clone(), dir.path().join("home").join(node_file(CLUSTER)));
    let missing = NodeFile::start(&*disk, &path).unwrap_err();
    assert!(missing.to_string().contains("join with a ticket"), "{missing}");
    a_file().write(&*disk, &path).unwrap();
    assert!(disk.is_private(&path).unwrap());
    for starts in 1..=3 {
        assert_eq!(NodeFile::start(&*disk, &path).unwrap().starts, starts);
        assert_eq!(NodeFile::read(&*disk, &path).unwrap().starts, starts);
    }
    let file = NodeFile::read(&*disk, &path).unwrap();
    assert_eq!((file.node(), file.cluster(), file.signing_key().public()), (id(1), CLUSTER, key(1)));
    assert_eq!(file.trust().unwrap().admit(&key(2), None), Ok(id(2)));
    assert!(!format!("{file:?}").contains("0101"), "{file:?}");
    // Half-written ones are no matter.
    disk.open(&path.with_extension("node.new"), env::Open::CreateNew).unwrap().write_at(b"half", 0).unwrap();
    assert_eq!(NodeFile::start(&*disk, &path).unwrap().starts, 4);
    let Membership { list, .. } = sample_membership();
    let certificate = Certificate::sign(&root().signing_key(), CLUSTER, id(2), key(2), 2, Epoch(3));
    let other = NodeFile::new([2; 32], file.root, file.keys.clone(), Membership { certificate, list });
    assert!(matches!(other.write(&*disk, &path), Err(Error::Member { .. })));
    open_to_all(&path);
    let refused = NodeFile::read(&*disk, &path).unwrap_err().to_string();
    assert!(refused.contains("chmod 600"), "{refused}");
}

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

#[tokio::test]
async fn a_file_whose_parts_do_not_belong_together_is_refused() {
    let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
    let (disk, path) = (env.disk.clone(), dir.path().join("a.node"));
    let wrong_key = NodeFile::new([3; 32], a_file().root, root().store_keys(), sample_membership());
    let mut wrong_root = a_file();
    wrong_root.root = key(3);
    for file in [wrong_key, wrong_root] {
        file.write(&*disk, &path).unwrap();
        assert_eq!(NodeFile::read(&*disk, &path).unwrap_err().kind(), Kind::Invalid);
    }
}

#[tokio::test]
async fn a_change_of_the_key_that_was_cut_short_goes_on_with_the_same_new_key() {
    let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
    let (disk, path) = (env.disk.clone(), dir.path().join("a.node"));
    let mut store = Store::founded();
    let first = found(&store.0, &root(), CLUSTER, key(1), &ask("x", &[]), NOW).unwrap().1;
    let mut file = NodeFile::new([1; 32], root().signing_key().public(), root().store_keys(), first);
    let new = file.begin_rotation([77; 32]);
    file.write(&*disk, &path).unwrap();
    let rotated = rotate_key(&store.0, &root(), id(1), new);
    store.take(rotated).unwrap();
    // The answer is lost with the process.
    let mut file = NodeFile::read(&*disk, &path).unwrap();
    assert_eq!((file.next_key(), file.begin_rotation([78; 32])), (Some(new), new));
    assert_eq!(file.signing_key().public(), key(1));
    let (_, again) = rotate_key(&store.0, &root(), id(1), new).unwrap();
    let foreign = Membership { certificate: sample_membership().certificate, list: again.list.clone() };
    assert!(file.finish_rotation(foreign).is_err());
    file.finish_rotation(again).unwrap();
    file.write(&*disk, &path).unwrap();
    let file = NodeFile::read(&*disk, &path).unwrap();
    assert_eq!((file.signing_key().public(), file.node(), file.next_key()), (new, id(1), None));
}
