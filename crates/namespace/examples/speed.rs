//! What commands and pages cost here, without any store: `cargo run --release -p namespace --example speed`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::Instant;

use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use namespace::read::{self, ListQuery};
use namespace::*;

const VOLUME: VolumeId = VolumeId(1);

fn timed<T>(what: &str, count: u32, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{what:<44} {:>9.2} µs each", start.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    result
}

fn new(n: u32) -> NewVersion {
    let attrs = Attrs::from([
        ("content-type".to_owned(), b"application/octet-stream".to_vec()),
        ("checksum".to_owned(), b"CRC64NVME FULL_OBJECT AAAAAAAAAAA=".to_vec()),
        ("owner".to_owned(), vec![b'o'; 64]),
    ]);
    let pack = n / 64;
    let mut id = [0; 16];
    id[..4].copy_from_slice(&pack.wrapping_mul(0x9e37_79b9).to_be_bytes());
    let segment = SegmentRef {
        id: SegmentId(id),
        policy: PolicyId(1),
        group: GroupId(pack % 200),
        k: 4,
        m: 2,
        len: 64 * 5000,
        root: [1; 32],
        wrapped_key: [2; 48],
    };
    let slot = Slot { index: n % 64, offset: 0, len: 5000 };
    NewVersion { size: 4984, etag: format!("{n:032x}"), attrs, body: Body::Packed(segment, slot) }
}

fn main() {
    let mut map: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut rules = std::time::Duration::ZERO;
    let count = 200_000;
    for n in 0..count {
        let key = format!("photos/{:03}/{n:08}.jpg", n % 200);
        let command = Command::Put { key, new: new(n), condition: Condition::default() };
        let start = Instant::now();
        let (batch, _) = apply(&map, VOLUME, &command, Wall(1)).unwrap();
        rules += start.elapsed();
        base::kv::apply(&mut map, &batch);
    }
    let each = rules.as_secs_f64() * 1e6 / f64::from(count);
    println!("{:<44} {each:>9.2} µs each", "put, packed (rules only)");
    let page = |prefix: &str, delimiter: &str, after: Option<String>| {
        let (prefix, delimiter) = (prefix.into(), delimiter.into());
        let query = ListQuery {
            prefix,
            delimiter,
            after,
            attrs: Some(&["owner", "checksum"]),
            limit: 1000,
            ..ListQuery::default()
        };
        read::list(&map, VOLUME, &query).unwrap().entries.len()
    };
    let all = timed("page of 1,000 keys", 100, || (0..100).map(|_| page("", "", None)).sum::<usize>());
    let after = || Some("photos/100/00000100.jpg".to_owned());
    let mid = timed("page of 1,000 keys, from the middle", 100, || {
        (0..100).map(|_| page("photos/", "", after())).sum::<usize>()
    });
    let folders =
        timed("page of 200 folders, delimiter /", 100, || (0..100).map(|_| page("photos/", "/", None)).sum::<usize>());
    let other =
        timed("page of 1,000 prefixes, delimiter .", 10, || (0..10).map(|_| page("photos/", ".", None)).sum::<usize>());
    timed("rows of such a page, only read from the map", 100, || {
        for _ in 0..100 {
            let start = map.keys().find(|key| key[4] == b'D' && key.len() > 20).unwrap().clone();
            let rows = base::kv::View::range(&map, start.as_slice()..&[0, 0, 0, 1, b'E'], 1001, false).unwrap();
            assert_eq!(rows.len(), 1001);
        }
    });
    assert_eq!((all, mid, folders, other), (100_000, 100_000, 20_000, 10_000));
    timed("head", 100_000, || {
        for n in 0..100_000u32 {
            let key = format!("photos/{:03}/{n:08}.jpg", n % 200);
            read::head(&map, VOLUME, &key, None, false).unwrap();
        }
    });
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    println!("{:<44} {:>9} bytes an object", "rows", size / count as usize);
}
