#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of the real world, which is waited for")]

use std::path::Path;

use base::{PieceId, UserId};

use super::*;
use crate::status::Health;
use crate::{Node, Settings};

const DAY: Duration = Duration::from_secs(86_400);

/// Three drives and an object of 1.5 MB, in three copies.
async fn store(dir: &Path) -> Node {
    let node = open(dir).await;
    let owner = UserId(node.access().await.unwrap().user);
    let bucket = node.client().create_bucket("bucket", &owner, "").await.unwrap();
    let bytes = vec![7; 1_500_000];
    let mut writer = node.client().writer(&bucket, Some(bytes.len() as u64));
    writer.write(bytes.into()).await.unwrap();
    let client::Content { size, body } = writer.finish().await.unwrap();
    let new = namespace::NewVersion { size, etag: "e".into(), attrs: Default::default(), body };
    let put = namespace::Command::Put { key: "key".into(), new, condition: Default::default() };
    node.client().commit(&bucket, put).await.unwrap();
    node
}

async fn open(dir: &Path) -> Node {
    let drives = (0..3).map(|drive| dir.join(format!("d{drive}"))).collect();
    let mut settings = Settings::new(drives, dir.join("home"));
    settings.pieces.reserve_bytes = 1 << 20;
    for _ in 0..1200 {
        match Node::open(env::Env::real(), settings.clone()).await {
            Ok(started) => return started.node,
            // The last tasks of who was closed hold its locks for a moment.
            Err(error) if base::Kinded::kind(&error) == base::Kind::Conflict => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the locks are not given back");
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}

async fn health(node: &Node) -> (Health, Vec<String>) {
    let status = node.status().await.unwrap();
    (status.health, status.reasons)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_green_only_while_its_proofs_are_young() {
    let dir = tempfile::tempdir().unwrap();
    let node = store(dir.path()).await;
    let inner = &node.0;
    inner.prove_new_drives().await.unwrap();
    inner.check_if_due().await.unwrap();
    until("it is green", || async { health(&node).await == (Health::Green, Vec::new()) }).await;

    // Nobody read anything for long.
    let (old, every) = (inner.age().unwrap(), inner.settings.scrub_every);
    inner.lives_until(old + every * SCRUBS_MAX + DAY).await;
    let (found, reasons) = health(&node).await;
    assert_eq!(found, Health::Yellow, "{reasons:?}");
    for row in inner.drive_rows().unwrap() {
        let says = format!("drive {} was last read through 61 days ago", row.path);
        assert!(reasons.iter().any(|why| why.starts_with(&says)), "{says}: {reasons:?}");
    }
    let asked = "drives were last asked for what they should have 61 days ago";
    assert!(reasons.iter().any(|why| why == asked), "{reasons:?}");
    let proof = node.status().await.unwrap().proof;
    assert!(proof.scrubbed_secs >= (every * SCRUBS_MAX).as_secs() && proof.checked_secs >= CHECKED_MAX.as_secs());

    // One that was read through isn't named, and doesn't speak for the others.
    let drives = inner.drive_rows().unwrap();
    inner.was_scrubbed(drives[0].id, inner.age().unwrap()).await;
    let (found, reasons) = health(&node).await;
    assert_eq!(found, Health::Yellow);
    assert!(!reasons.iter().any(|why| why.contains(&drives[0].path)), "{reasons:?}");
    assert!(reasons.iter().any(|why| why.contains(&drives[1].path)), "{reasons:?}");

    let scrubbed = node.scrub().await.unwrap();
    assert_eq!((scrubbed.damaged, scrubbed.missing), (0, 0));
    until("it is green again", || async { health(&node).await == (Health::Green, Vec::new()) }).await;
    let proof = node.status().await.unwrap().proof;
    assert!(proof.scrubbed_secs < 600 && proof.checked_secs < 600, "{proof:?}");

    // A restart neither forgets what was proven nor proves anything.
    inner.lives_until(inner.age().unwrap() + 2 * DAY).await;
    node.close().await;
    let node = open(dir.path()).await;
    let proof = node.status().await.unwrap().proof;
    assert!(proof.scrubbed_secs >= 2 * DAY.as_secs() && proof.scrubbed_secs < 3 * DAY.as_secs(), "{proof:?}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_vanished_is_missed_within_a_day_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = store(dir.path()).await;
    let inner = &node.0;
    inner.check_if_due().await.unwrap();
    let drive = inner.fleet.up().swap_remove(0);
    let piece: PieceId = drive.store.list(None, 1).await.unwrap().0[0].0;
    drive.store.delete(vec![piece]).await.unwrap();

    // Not yet: it was asked a moment ago.
    inner.check_if_due().await.unwrap();
    assert!(!drive.store.contains(piece).await.unwrap());
    inner.lives_until(inner.age().unwrap() + CHECK_EVERY).await;
    inner.check_if_due().await.unwrap();
    until("it is rebuilt", || async { drive.store.contains(piece).await.unwrap() }).await;
    let events = node.events(50).await.unwrap();
    let told = events.iter().find(|event| event.text.contains("1 pieces weren't where they should be"));
    assert!(told.is_some_and(|event| event.severity == "warning"), "{events:?}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_cant_be_asked_for_a_moment_has_nothing_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let node = store(dir.path()).await;
    let inner = &node.0;
    for drive in inner.fleet.up() {
        *lock(&drive.down) =
            Some(crate::fleet::Down { since: inner.env.clock.now(), why: "a test".into(), is_deleted: false });
    }
    let walked = inner.walk(Ask::All).await.unwrap();
    let (lacking, unasked): (u64, u64) =
        walked.iter().fold((0, 0), |sum, walked| (sum.0 + walked.lacking, sum.1 + walked.unasked));
    assert!(unasked >= 3 && lacking == unasked, "{walked:?}");
    let away: BTreeSet<DriveId> = walked.into_iter().flat_map(|walked| walked.away).collect();
    assert_eq!(away.len(), 3, "each is to be asked again");
    let left = lock(&inner.heal).steward.progress();
    assert_eq!((left.pieces, left.done_pieces), (0, 0), "whole segments would be missing, and could never be rebuilt");
    node.close().await;
}
