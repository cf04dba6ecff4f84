use base::Wall;
use base::kv::Batch;
use metastore::MemoryStore;
use namespace::VersionId;
use namespace::journal::What;

use super::*;

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn put(volume: u32, key: String, at: u64) -> Event {
    let what = What::Put { key, version: VersionId(at), size: at, etag: "e".into(), upload: None };
    Event { volume: VolumeId(volume), at: Wall(at), what }
}

/// A shard whose journal has so many entries of up to six events of three volumes: it, and all that volume 1 should be told.
async fn shard(entries: u64, state: &mut u64) -> (std::sync::Arc<MemoryStore>, Vec<(Seq, Event)>) {
    let store = MemoryStore::new(1);
    let mut wanted = Vec::new();
    let mut batches = Vec::new();
    for seq in 1..=entries {
        let mut batch = Batch::default();
        for at in 0..next(state) % 7 {
            let event = put((next(state) % 3) as u32, format!("key {seq} {at}"), seq);
            batch.events.push(event.encode());
            if event.volume == VolumeId(1) {
                wanted.push((Seq(seq), event));
            }
        }
        // A batch without any effect takes no place.
        batch.put(seq.to_be_bytes().to_vec(), vec![1]);
        batches.push(batch);
    }
    let (epoch, head) = store.position();
    store.commit(epoch, head, batches).await.unwrap();
    (store, wanted)
}

#[tokio::test]
async fn every_event_of_the_volume_is_told_once_and_in_order_from_any_place() {
    let seed = 0x9e37_79b9_7f4a_7c15;
    eprintln!("seed {seed:#x}");
    let mut state = seed;
    let (store, wanted) = shard(5000, &mut state).await;
    let (_, newest) = store.position();
    for _ in 0..20 {
        let from = Seq(next(&mut state) % (newest.0 + 1));
        let (mut told, mut at, mut pages) = (Vec::new(), from, 0);
        while at < newest {
            let Tail::Events { events, next } = part(&*store, VolumeId(1), Some(at)).unwrap() else { panic!("gone") };
            assert!(next > at, "it goes on");
            assert!(events.len() < EVENTS_MAX + 7, "a page is bounded");
            assert!(events.iter().all(|(seq, _)| *seq > at && *seq <= next));
            told.extend(events);
            (at, pages) = (next, pages + 1);
        }
        let rest: Vec<_> = wanted.iter().filter(|(seq, _)| *seq > from).cloned().collect();
        assert_eq!(told, rest, "seed {seed:#x}, from {from}");
        assert!(newest.0 - from.0 < 2000 || pages > 1, "in pages");
    }
    let end = Tail::Events { events: Vec::new(), next: newest };
    assert_eq!(part(&*store, VolumeId(1), Some(newest)).unwrap(), end, "nothing yet");
    assert_eq!(part(&*store, VolumeId(1), None).unwrap(), end, "where it ends");
}

#[tokio::test]
async fn a_place_that_the_journal_does_not_have_is_said_to_be_gone() {
    let (store, _) = shard(3, &mut 7).await;
    let ahead = part(&*store, VolumeId(1), Some(Seq(4))).unwrap();
    assert_eq!(ahead, Tail::Gone { oldest: Seq(3), newest: Seq(3) });
    let trimmed = part(&Trimmed, VolumeId(1), Some(Seq(4))).unwrap();
    assert_eq!(trimmed, Tail::Gone { oldest: Seq(7), newest: Seq(9) });
}

/// A shard whose journal begins after 7 and ends at 9.
struct Trimmed;

#[async_trait::async_trait]
impl ShardStore for Trimmed {
    fn position(&self) -> (base::Epoch, Seq) {
        (base::Epoch(1), Seq(9))
    }

    fn snapshot(&self) -> Result<Box<dyn metastore::Snapshot>, Error> {
        Err(Error::Broken { why: "it has no rows".into() })
    }

    async fn commit(&self, _: base::Epoch, _: Seq, _: Vec<Batch>) -> Result<Seq, Error> {
        Err(Error::Broken { why: "it takes nothing".into() })
    }

    fn tail(&self, _: &metastore::Cursor, _: usize) -> Result<Vec<metastore::Entry>, Error> {
        Err(Error::Trimmed { oldest: Seq(7) })
    }

    fn cursor(&self, _: Seq) -> metastore::Cursor {
        metastore::Cursor::start()
    }

    async fn checkpoint(&self) -> Result<metastore::Position, Error> {
        Ok(metastore::Position { seq: Seq(9) })
    }
}
