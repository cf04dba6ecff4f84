//! A log file as `abide inspect log` shows it, and the bytes of the first version.
#![allow(clippy::unwrap_used)]

use crate::common;
use std::path::Path;

use base::Seq;
use base::kv::Batch;
use common::disk::Drives;
use common::{key, mirror, open_in, small};
use metastore::inspect::{self, Content};
use metastore::{Options, ShardStore};

/// A small history with one seed: the same bytes every time.
async fn logs() -> Vec<Vec<u8>> {
    let drives = Drives::default();
    let options = Options { file_bytes: 900, ..small() };
    let store = open_in(&drives.env(1), Path::new("/"), &[1], None, options).await.unwrap();
    let (epoch, mut head) = store.position();
    for round in 0..3_u8 {
        let mut batch = Batch::default();
        batch.put([b'k', round], [round; 4]).put("large", vec![round; 400]).del("gone").event([b'e', round]);
        batch.range_dels.push(b"x".to_vec()..b"y".to_vec());
        head = store.commit(epoch, head, vec![batch.clone(), Batch { puts: Vec::new(), ..batch }]).await.unwrap();
    }
    store.checkpoint().await.unwrap();
    while !store.clean_step(1000).await.unwrap().is_done {}
    store.close().await.unwrap();
    drives.list(&mirror(Path::new("/"), 1).dir, "log-").iter().map(|path| drives.bytes(path)).collect()
}

#[tokio::test]
async fn every_record_of_a_log_is_shown() {
    let logs = logs().await;
    let shown: Vec<_> = logs.iter().map(|bytes| inspect::log(bytes, &key()).unwrap()).collect();
    assert_eq!(
        shown.iter().map(|log| log.head.number).collect::<Vec<_>>(),
        (1..=logs.len() as u64).collect::<Vec<_>>()
    );
    assert!(shown.iter().all(|log| log.rest == 0 && !log.is_damaged));
    let records: Vec<_> = shown.iter().flat_map(|log| &log.records).collect();
    let batches: Vec<_> = records.iter().filter(|record| matches!(record.content, Content::Batch { .. })).collect();
    assert_eq!(batches.iter().map(|record| record.seq).collect::<Vec<_>>(), (1..=6).map(Seq).collect::<Vec<_>>());
    // The first file was shrunk: its large values are gone, the small ones are not.
    assert_eq!(shown[0].head.generation, 1);
    let Content::Batch { batch, dropped } = &shown[0].records[0].content else { panic!("{:?}", shown[0]) };
    assert_eq!((batch.puts[0].1.as_slice(), batch.puts[1].1.len(), dropped.as_slice()), (&[0; 4][..], 0, &[1][..]));
    assert_eq!(records.last().unwrap().content, Content::Closed);
}

#[tokio::test]
async fn a_torn_end_and_damage_are_told_apart() {
    let bytes = logs().await.pop().unwrap();
    let whole = inspect::log(&bytes, &key()).unwrap();
    let last = whole.records.last().unwrap();
    let torn = inspect::log(&bytes[..bytes.len() - 10], &key()).unwrap();
    assert_eq!((torn.records.len() + 1, torn.rest, torn.is_damaged), (whole.records.len(), last.size - 10, false));
    let mut damaged = bytes.clone();
    damaged[150] ^= 1;
    let damaged = inspect::log(&damaged, &key()).unwrap();
    assert_eq!((damaged.records.len(), damaged.is_damaged), (0, true));
    assert!(inspect::log(&bytes, &crypt::MetaKey::new([8; 32])).is_err());
    assert!(inspect::log(&bytes[..100], &key()).is_err());
    assert!(inspect::log(b"", &key()).is_err());
}

/// What version 1 wrote: later versions must read it.
const FIRST: [&str; 2] = [include_str!("fixtures/log-v1-shrunk.hex"), include_str!("fixtures/log-v1-last.hex")];

#[tokio::test]
async fn the_first_versions_bytes_are_still_read() {
    let fixtures: Vec<Vec<u8>> = FIRST.iter().map(|hex| from_hex(hex)).collect();
    let now = logs().await;
    assert!(now == fixtures, "version 1 is written in another way than it was: {}", to_hex(&now));
    for bytes in &fixtures {
        assert!(!inspect::log(bytes, &key()).unwrap().records.is_empty());
    }
}

fn to_hex(files: &[Vec<u8>]) -> String {
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    files.iter().map(hex).collect::<Vec<_>>().join("\n")
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
