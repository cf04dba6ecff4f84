//! Who follows the journal while it grows.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;

use base::Seq;
use base::kv::Batch;
use env::Env;
use metastore::{Embedded, ShardStore};

use crate::common::{open_in, small};

const BATCHES: u64 = 3000;

async fn write(store: Arc<Embedded>) {
    for number in 0..BATCHES {
        let mut batch = Batch::default();
        batch.put(number.to_be_bytes().to_vec(), vec![number as u8; 40]);
        let (epoch, head) = store.position();
        store.commit(epoch, head, vec![batch]).await.unwrap();
    }
}

/// A batch is in the log a moment before it is in the rows. A reader that passed it in that moment remembered to go on behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_the_journal_while_it_grows_is_told_every_batch_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_in(&Env::real(), dir.path(), &[1], None, small()).await.unwrap();
    let (_, began) = store.position();
    let writer = tokio::spawn(write(store.clone()));
    let (mut told, mut at) = (Vec::new(), began);
    loop {
        // Asked before: what is told after the last commit is all.
        let was_last = writer.is_finished();
        let entries = tokio::task::block_in_place(|| store.tail(&store.cursor(at), 50)).unwrap();
        at = entries.last().map_or(at, |last| last.seq);
        told.extend(entries.iter().map(|entry| entry.seq));
        if was_last && entries.is_empty() {
            break;
        }
    }
    writer.await.unwrap();
    let (_, head) = store.position();
    let all: Vec<Seq> = (began.0 + 1..=head.0).map(Seq).collect();
    assert_eq!(all.len() as u64, BATCHES);
    let missing: Vec<&Seq> = all.iter().filter(|seq| !told.contains(seq)).collect();
    assert!(told == all, "{} were told of {}, these were not: {missing:?}", told.len(), all.len());
    store.close().await.unwrap();
}
