//! Listings of many keys, deep keys and odd keys against plain sorting.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base::kv::{Row, View, ViewError};
use base::{VolumeId, Wall};
use namespace::read::{self, Entry, ListQuery};
use namespace::*;

const VOLUME: VolumeId = VolumeId(1);
type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn run(map: &mut Map, command: Command) -> Outcome {
    let (batch, outcome) = apply(map, VOLUME, &command, Wall(1_000)).unwrap();
    base::kv::apply(map, &batch);
    outcome
}

fn put(map: &mut Map, key: &str) {
    let new = NewVersion { size: 0, etag: "e".into(), attrs: Attrs::new(), body: Body::Inline(Vec::new()) };
    run(map, Command::Put { key: key.into(), new, condition: Condition::default() });
}

fn delete(map: &mut Map, key: &str) {
    run(map, Command::Delete { key: key.into(), version: None, condition: Condition::default() });
}

/// All entries, page by page.
fn list(view: &dyn View, prefix: &str, delimiter: &str, limit: usize) -> Vec<String> {
    let mut query = ListQuery { prefix: prefix.into(), delimiter: delimiter.into(), limit, ..ListQuery::default() };
    let mut lines = Vec::new();
    loop {
        let page = read::list(view, VOLUME, &query).unwrap();
        assert!(page.entries.len() <= limit);
        lines.extend(page.entries.into_iter().map(|entry| match entry {
            Entry::Item(object) => object.key,
            Entry::Prefix(prefix) => format!("prefix {prefix}"),
        }));
        match page.next {
            Some(next) => query.after = Some(next.after),
            None => return lines,
        }
    }
}

/// Counts what is asked of the store.
struct Counted {
    map: Map,
    rows: std::cell::Cell<usize>,
}

impl View for Counted {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.rows.set(self.rows.get() + 1);
        View::get(&self.map, key)
    }

    fn range(&self, range: std::ops::Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        let rows = View::range(&self.map, range, limit, reverse)?;
        self.rows.set(self.rows.get() + 1 + rows.len());
        Ok(rows)
    }
}

/// Keys of every shape: many in one folder, many small folders, bytes around `/` in the order.
fn many() -> Vec<String> {
    let mut keys: Vec<String> = (0..3000).map(|n| format!("flat/{n:05}")).collect();
    keys.extend((0..1500).map(|n| format!("nest/{}/{}/x{n}", n % 40, n % 7)));
    keys.extend((0..200).flat_map(|n| [format!("o/{n}"), format!("o/{n}/"), format!("o/{n}/x"), format!("o/{n}.x")]));
    keys.extend((0..50).map(|n| format!("top{n}")));
    keys.sort();
    keys
}

#[test]
fn pages_of_many_keys_are_the_sorted_keys() {
    let (mut map, keys) = (Map::new(), many());
    keys.iter().for_each(|key| put(&mut map, key));
    for limit in [1, 7, 16, 17, 1000, 100_000] {
        let few = if limit == 1 { "o/1" } else { "" };
        let wanted: Vec<_> = keys.iter().filter(|key| key.starts_with(few)).cloned().collect();
        assert_eq!(list(&map, few, "", limit), wanted, "limit {limit}");
    }
    for (prefix, delimiter) in [("", "/"), ("nest/", "/"), ("nest/1", "/"), ("", "1"), ("o/", ".x"), ("flat/0", "9")] {
        let mut wanted: Vec<String> = Vec::new();
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            let line = match key[prefix.len()..].find(delimiter) {
                None => key.clone(),
                Some(at) => format!("prefix {}", &key[..prefix.len() + at + delimiter.len()]),
            };
            if wanted.last() != Some(&line) {
                wanted.push(line);
            }
        }
        for limit in [3, 1000] {
            assert_eq!(list(&map, prefix, delimiter, limit), wanted, "{prefix:?} {delimiter:?} {limit}");
        }
    }
}

#[test]
fn a_page_with_delimiter_reads_what_it_shows_whatever_lies_below() {
    let mut map = Map::new();
    run(&mut map, Command::SetVersioning(Versioning::Enabled));
    for folder in 0..30 {
        for key in 0..200 {
            put(&mut map, &format!("{folder:02}/{}/{key}", key % 3));
            if folder % 2 == 1 {
                delete(&mut map, &format!("{folder:02}/{}/{key}", key % 3));
            }
        }
    }
    let view = Counted { map, rows: 0.into() };
    let lines = list(&view, "", "/", 1000);
    let wanted: Vec<_> = (0..30).step_by(2).map(|folder| format!("prefix {folder:02}/")).collect();
    assert_eq!(lines, wanted, "folders with nothing but delete markers don't show");
    assert!(view.rows.get() < 40, "{} rows read", view.rows.get());
    let query = ListQuery { delimiter: "/".into(), limit: 1000, ..ListQuery::default() };
    assert_eq!(read::list_versions(&view, VOLUME, &query).unwrap().entries.len(), 30);
}

#[test]
fn the_next_page_costs_what_it_shows_wherever_it_begins() {
    let mut map = Map::new();
    let deep = "d/".repeat(100);
    for n in 0..2000 {
        put(&mut map, &format!("{deep}{n:04}"));
        put(&mut map, &format!("wide{:04}/{n}", n / 2));
    }
    let view = Counted { map, rows: 0.into() };
    let query = ListQuery { limit: 10, after: Some(format!("{deep}1000")), ..ListQuery::default() };
    let page = read::list(&view, VOLUME, &query).unwrap();
    assert_eq!(page.next.unwrap().after, format!("{deep}1010"));
    assert!(view.rows.get() < 200, "{} rows read", view.rows.get());
    view.rows.set(0);
    let query = ListQuery { limit: 100, after: Some("wide0500".into()), ..ListQuery::default() };
    assert_eq!(read::list(&view, VOLUME, &query).unwrap().entries.len(), 100);
    assert!(view.rows.get() < 600, "{} rows read", view.rows.get());
}

#[test]
fn keys_of_a_thousand_folders_are_put_listed_and_leave_nothing() {
    let mut map = Map::new();
    let keys = ["/".repeat(1024), "a/".repeat(511) + "b", "a/".repeat(512), "a/".repeat(400), "/".repeat(1000) + "x"];
    keys.iter().for_each(|key| put(&mut map, key));
    let mut sorted = keys.to_vec();
    sorted.sort();
    assert_eq!(list(&map, "", "", 2), sorted);
    assert_eq!(list(&map, &"a/".repeat(400), "/", 2), [keys[3].clone(), format!("prefix {}", "a/".repeat(401))]);
    assert_eq!(list(&map, "", "/", 2), ["prefix /", "prefix a/"]);
    keys.iter().for_each(|key| delete(&mut map, key));
    assert_eq!(map.keys().map(|key| key[4]).collect::<Vec<_>>(), b"H", "only the counters are left");
}

#[test]
fn keys_that_cannot_be_are_refused() {
    let mut map = Map::new();
    for (key, why) in [("", "it is empty"), ("a\0b", "it contains NUL"), (&"k".repeat(1025), "too long")] {
        let new = NewVersion { size: 0, etag: "e".into(), attrs: Attrs::new(), body: Body::Inline(Vec::new()) };
        let command = Command::Put { key: key.into(), new, condition: Condition::default() };
        assert_eq!(apply(&map, VOLUME, &command, Wall(0)).err(), Some(Error::InvalidName { what: "key", why }));
        assert_eq!(read::head(&map, VOLUME, key, None, true).err(), Some(Error::NoSuchKey));
    }
    put(&mut map, &"k".repeat(1024));
    put(&mut map, ".");
    put(&mut map, "../..");
    assert_eq!(list(&map, "", "", 10), [".".to_owned(), "../..".to_owned(), "k".repeat(1024)]);
}

#[test]
fn volumes_do_not_see_each_other() {
    let mut map = Map::new();
    put(&mut map, "a/b");
    let command = Command::Put {
        key: "c".into(),
        new: NewVersion { size: 0, etag: "e".into(), attrs: Attrs::new(), body: Body::Inline(Vec::new()) },
        condition: Condition::default(),
    };
    for volume in [0, 2, u32::MAX] {
        let (batch, _) = apply(&map, VolumeId(volume), &command, Wall(0)).unwrap();
        base::kv::apply(&mut map, &batch);
    }
    assert_eq!(list(&map, "", "", 10), ["a/b"]);
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    assert_eq!(read::list(&map, VolumeId(u32::MAX), &query).unwrap().entries.len(), 1);
}
