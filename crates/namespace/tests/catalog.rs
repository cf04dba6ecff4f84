//! The catalog: buckets, users, keys, drives, groups, events.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base::kv::Batch;
use base::{ClusterId, DriveId, Epoch, GroupId, NodeId, PolicyId, UserId, VolumeId, Wall};
use namespace::Error;
use namespace::catalog::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn commit(map: &mut Map, batch: Batch) {
    base::kv::apply(map, &batch);
}

fn user_id(id: &str) -> UserId {
    UserId(id.into())
}

fn create(map: &mut Map, name: &str, owner: &str) -> Result<Bucket, Error> {
    let wrapped_key = next_volume(map)?.0.to_be_bytes().to_vec();
    let new = NewBucket { name: name.into(), owner: user_id(owner), region: String::new(), wrapped_key };
    let (batch, bucket) = create_bucket(map, &new, Wall(5))?;
    commit(map, batch);
    Ok(bucket)
}

fn names(buckets: Vec<Bucket>) -> Vec<String> {
    buckets.into_iter().map(|bucket| bucket.name).collect()
}

#[test]
fn bucket_names_keep_to_s3s_rules() {
    let long = "l".repeat(63);
    for good in ["abc", "a-b", "a.b", "1ab", "my.bucket-1", "192.168.5.x", "1.2.3", "xn-a", &long] {
        assert_eq!(check_bucket_name(good), Ok(()), "{good}");
    }
    let longer = "l".repeat(64);
    for bad in [
        "",
        "ab",
        &longer,
        "Abc",
        "a_b",
        "a b",
        "-ab",
        "ab-",
        ".ab",
        "ab.",
        "a..b",
        "a.-b",
        "a-.b",
        "192.168.5.4",
        "äbc",
        "a/b",
        "abc\n",
        "ab\0",
    ] {
        let refused = check_bucket_name(bad);
        assert!(matches!(refused, Err(Error::InvalidName { what: "bucket name", .. })), "{bad:?}");
    }
}

#[test]
fn a_bucket_has_one_owner_and_a_volume_of_its_own_for_ever() {
    let mut map = Map::new();
    let first = create(&mut map, "photos", "ann").unwrap();
    let second = create(&mut map, "mails", "ann").unwrap();
    create(&mut map, "bobs", "bob").unwrap();
    // An owner's name that begins another's.
    create(&mut map, "anna-s", "anna").unwrap();
    assert_eq!((first.volume, second.volume), (VolumeId(1), VolumeId(2)));
    assert_eq!(volume_key(&map, second.volume).unwrap().unwrap().wrapped, [0, 0, 0, 2]);
    assert_eq!(create(&mut map, "photos", "ann"), Err(Error::BucketExists { yours: true }));
    assert_eq!(create(&mut map, "photos", "bob"), Err(Error::BucketExists { yours: false }));
    assert!(matches!(create(&mut map, "Photos", "ann"), Err(Error::InvalidName { .. })));
    assert_eq!(bucket(&map, "photos").unwrap(), Some(first.clone()));

    let ann = user_id("ann");
    let list = |map: &Map, prefix, after, limit| names(list_buckets(map, &ann, prefix, after, limit).unwrap());
    assert_eq!(list(&map, "", "", 10), ["mails", "photos"]);
    assert_eq!(list(&map, "p", "", 10), ["photos"]);
    assert_eq!(list(&map, "", "mails", 10), ["photos"]);
    assert_eq!(list(&map, "m", "mails", 10), [""; 0]);
    assert_eq!(list(&map, "", "", 1), ["mails"]);
    assert_eq!(names(list_all_buckets(&map, "anna-s", 2).unwrap()), ["bobs", "mails"]);

    let (batch, gone) = delete_bucket(&map, "photos", Wall(9)).unwrap();
    commit(&mut map, batch);
    assert_eq!(gone, first);
    assert_eq!(delete_bucket(&map, "photos", Wall(9)).unwrap_err(), Error::NoSuchBucket);
    assert_eq!(list(&map, "", "", 10), ["mails"]);
    let dead = DeadVolume { volume: first.volume, deleted: Wall(9) };
    assert_eq!(dead_volumes(&map, None, 10).unwrap(), [dead]);
    assert_eq!(dead_volumes(&map, Some(first.volume), 10).unwrap(), []);
    assert!(volume_key(&map, first.volume).unwrap().is_some(), "until its garbage is collected");
    let again = create(&mut map, "photos", "bob").unwrap();
    assert_eq!(again.volume, VolumeId(5), "volumes are never used again");
    for volume in [first.volume, second.volume] {
        let batch = forget_volume(&map, volume).unwrap();
        commit(&mut map, batch);
    }
    assert_eq!(dead_volumes(&map, None, 10).unwrap(), []);
    assert_eq!(volume_key(&map, first.volume).unwrap(), None);
    assert!(volume_key(&map, second.volume).unwrap().is_some(), "a living volume isn't forgotten");
}

#[test]
fn users_are_found_by_id_and_by_email() {
    let mut map = Map::new();
    let user_of = |id: &str, email: Option<&str>| User {
        id: user_id(id),
        display: id.to_uppercase(),
        email: email.map(str::to_owned),
    };
    for new in [user_of("ann", Some("Ann@example.org")), user_of("bob", None)] {
        let batch = put_user(&map, &new).unwrap();
        commit(&mut map, batch);
    }
    assert_eq!(user_by_email(&map, "ann@EXAMPLE.org").unwrap().unwrap().id, user_id("ann"));
    let taken = put_user(&map, &user_of("bob", Some("ANN@example.org")));
    assert!(matches!(taken, Err(Error::InvalidName { what: "email", .. })));
    for bad in ["", "a b", "ä", &"x".repeat(65)] {
        assert!(matches!(put_user(&map, &user_of(bad, None)), Err(Error::InvalidName { what: "user id", .. })));
    }
    // The same address in other letters stays his; a new one replaces it.
    for email in ["ann@example.org", "new@example.org"] {
        let batch = put_user(&map, &user_of("ann", Some(email))).unwrap();
        commit(&mut map, batch);
        assert_eq!(user_by_email(&map, email).unwrap().unwrap().id, user_id("ann"));
    }
    assert_eq!(user_by_email(&map, "ann@example.org").unwrap(), None);
    let ids: Vec<_> = users(&map, None, 10).unwrap().into_iter().map(|user| user.id.0).collect();
    assert_eq!(ids, ["ann", "bob"]);
    assert_eq!(users(&map, Some(&user_id("ann")), 10).unwrap().len(), 1);
}

#[test]
fn a_revoked_key_stays_known_and_says_so() {
    let mut map = Map::new();
    let key = AccessKey {
        id: "AKID".into(),
        secret: "very secret".replace(' ', "-"),
        user: user_id("ann"),
        created: Wall(1),
        disabled: false,
    };
    assert!(matches!(put_access_key(&map, &key), Err(Error::InvalidValue { .. })), "its user isn't known");
    let batch = put_user(&map, &User { id: user_id("ann"), display: String::new(), email: None }).unwrap();
    commit(&mut map, batch);
    let batch = put_access_key(&map, &key).unwrap();
    commit(&mut map, batch);
    assert_eq!(access_key(&map, "AKID").unwrap(), Some(key.clone()));
    assert!(!format!("{key:?}").contains("secret-"), "secrets aren't logged");
    let (batch, revoked) = revoke_access_key(&map, "AKID").unwrap().unwrap();
    commit(&mut map, batch);
    assert!(revoked.disabled);
    assert_eq!(access_keys(&map, None, 10).unwrap(), [revoked]);
    assert_eq!(access_keys(&map, Some("AKID"), 10).unwrap(), []);
    assert!(revoke_access_key(&map, "AKID").unwrap().unwrap().0.is_empty());
    assert!(revoke_access_key(&map, "other").unwrap().is_none());
}

#[test]
fn drives_policies_and_groups_are_listed_in_order() {
    let mut map = Map::new();
    assert_eq!(cluster(&map).unwrap(), None);
    commit(&mut map, put_cluster(ClusterId([7; 16])));
    assert_eq!(cluster(&map).unwrap(), Some(ClusterId([7; 16])));
    let row = |byte: u8, state| DriveRow {
        id: DriveId([byte; 16]),
        path: format!("d{byte}"),
        state,
        size: 1,
        added: Wall(1),
        node: None,
    };
    for drive in [row(2, DriveState::Active), row(1, DriveState::Active), row(2, DriveState::Draining)] {
        commit(&mut map, put_drive(&drive));
    }
    assert_eq!(drives(&map, None, 10).unwrap(), [row(1, DriveState::Active), row(2, DriveState::Draining)]);
    assert_eq!(drives(&map, Some(DriveId([1; 16])), 10).unwrap().len(), 1);
    assert_eq!(drive(&map, DriveId([9; 16])).unwrap(), None);
    let (one, two) = (PolicyId(1), PolicyId(2));
    let policy_row = PolicyRow { id: one, coding: Coding { k: 4, m: 2 }, ack: 5, name: "default".into() };
    commit(&mut map, put_policy(&policy_row));
    assert_eq!(policies(&map, None, 10).unwrap(), std::slice::from_ref(&policy_row));
    assert_eq!(policy(&map, one).unwrap(), Some(policy_row));
    for (policy, number) in [(one, 300), (one, 2), (two, 1)] {
        commit(&mut map, put_group(policy, GroupId(number), &number.to_be_bytes()));
    }
    let numbers = |policy, after| -> Vec<u32> {
        groups(&map, policy, after, 10).unwrap().into_iter().map(|(group, _)| group.0).collect()
    };
    assert_eq!(numbers(one, None), [2, 300]);
    assert_eq!(numbers(one, Some(GroupId(2))), [300]);
    assert_eq!(numbers(two, None), [1]);
    assert_eq!(group(&map, one, GroupId(2)).unwrap(), Some(vec![0, 0, 0, 2]));
    commit(&mut map, remove_group(one, GroupId(2)));
    assert_eq!(group(&map, one, GroupId(2)).unwrap(), None);
    commit(&mut map, put_setting("region", Some(b"eu")));
    assert_eq!(setting(&map, "region").unwrap(), Some(b"eu".to_vec()));
    commit(&mut map, put_setting("region", None));
    assert_eq!(setting(&map, "region").unwrap(), None);
}

#[test]
fn the_event_log_keeps_the_latest_and_no_more() {
    let mut map = Map::new();
    let event = |text: String| Event {
        number: 0,
        at: Wall(1),
        severity: Severity::Info,
        area: "drive".into(),
        subject: String::new(),
        text,
    };
    for chunk in 0..12 {
        let new = (0..1000).map(|n| event((chunk * 1000 + n).to_string())).collect();
        let batch = add_events(&map, new).unwrap();
        commit(&mut map, batch);
    }
    assert_eq!(events(&map, 0, usize::MAX).unwrap().len() as u64, EVENTS_MAX);
    let latest: Vec<_> = latest_events(&map, 2).unwrap().into_iter().map(|event| event.text).collect();
    assert_eq!(latest, ["11999", "11998"]);
    let next = events(&map, 11_998, 10).unwrap();
    assert_eq!(next.iter().map(|event| event.number).collect::<Vec<_>>(), [11_999, 12_000]);
    let batch = add_events(&map, vec![event("ö".repeat(5000))]).unwrap();
    commit(&mut map, batch);
    assert_eq!(latest_events(&map, 1).unwrap()[0].text, "ö".repeat(2048));
    assert!(add_events(&map, Vec::new()).unwrap().is_empty());
}

#[test]
fn nodes_are_listed_in_order_and_what_does_not_fit_a_row_is_refused() {
    let mut map = Map::new();
    let row = |byte: u8, state| NodeRow {
        id: NodeId([byte; 16]),
        key: [byte; 32],
        serial: 1,
        since: Epoch(1),
        state,
        joined: Wall(1),
        name: "n".into(),
        addresses: vec![],
        labels: vec![],
    };
    for node in [row(2, NodeState::Active), row(1, NodeState::Active), row(2, NodeState::Removed)] {
        commit(&mut map, put_node(&node).unwrap());
    }
    assert_eq!(nodes(&map, None, 10).unwrap(), [row(1, NodeState::Active), row(2, NodeState::Removed)]);
    assert_eq!(nodes(&map, Some(NodeId([1; 16])), 10).unwrap(), [row(2, NodeState::Removed)]);
    assert_eq!(node(&map, NodeId([9; 16])).unwrap(), None);
    assert!(put_node(&NodeRow { name: "x".repeat(256), ..row(3, NodeState::Active) }).is_err());
    let address = "127.0.0.1:1".parse().unwrap();
    assert!(put_node(&NodeRow { addresses: vec![address; 17], ..row(3, NodeState::Active) }).is_err());
    assert_eq!(member_list(&map).unwrap(), None);
    commit(&mut map, put_member_list(b"signed"));
    assert_eq!(member_list(&map).unwrap().unwrap(), b"signed");
}

#[test]
fn used_tickets_are_forgotten_once_they_expired_and_never_become_good_again() {
    let mut map = Map::new();
    for byte in [1u8, 2, 3] {
        commit(&mut map, put_ticket(&TicketRow { id: [byte; 8], key: [byte; 32], expires: Wall(byte.into()) }));
    }
    assert!(forget_tickets(&map, Wall(0)).unwrap().is_empty());
    let batch = forget_tickets(&map, Wall(2)).unwrap();
    commit(&mut map, batch);
    assert_eq!(ticket(&map, [2; 8]).unwrap(), None);
    assert_eq!(tickets(&map, None, 10).unwrap().len(), 1);
    assert_eq!(tickets_forgotten(&map).unwrap(), Wall(2));
    assert!(forget_tickets(&map, Wall(2)).unwrap().is_empty(), "there is none left");
    let batch = forget_tickets(&map, Wall(u64::MAX)).unwrap();
    commit(&mut map, batch);
    assert_eq!(tickets_forgotten(&map).unwrap(), Wall(3), "a clock that was ahead voids no new tickets");
}
