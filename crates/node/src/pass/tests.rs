#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, reason = "tests of the real world")]

use std::time::Duration;

use base::UserId;
use namespace::{Command, NewVersion};

use super::*;
use crate::{Node, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_of_several_pages_counts_what_each_group_lacks_and_skips_what_nobody_asks_for() {
    const SEED: usize = 7;
    eprintln!("seed {SEED}");
    let dir = tempfile::tempdir().unwrap();
    let drives = (0..6).map(|drive| dir.path().join(format!("d{drive}"))).collect();
    let mut settings = Settings::new(drives, dir.path().join("home"));
    settings.pieces.reserve_bytes = 1 << 20;
    // Nothing is repaired while this is counted.
    settings.repair_after = Duration::from_secs(3600);
    let node = Node::open(env::Env::real(), settings).await.unwrap().node;
    let inner = &node.0;
    let owner = UserId(node.access().await.unwrap().user);
    let bucket = node.client().create_bucket("bucket", &owner, "").await.unwrap();
    for number in 0..2 * PAGE {
        let mut writer = node.client().writer(&bucket, Some(5_000));
        writer.write(vec![number as u8; 5_000].into()).await.unwrap();
        let client::Content { size, body } = writer.finish().await.unwrap();
        let new = NewVersion { size, etag: "e".into(), attrs: Default::default(), body };
        let put = Command::Put { key: format!("{number}"), new, condition: Default::default() };
        node.client().commit(&bucket, put).await.unwrap();
    }
    let volume = bucket.volume;
    let all = inner.scan(volume, move |view| namespace::read::segments(view, volume, None, usize::MAX)).await.unwrap();
    assert!(all.len() > PAGE + PAGE / 2, "{} rows take several pages", all.len());

    let mut wanted = Wanted::new();
    for (policy, rows) in inner.look(groups::load).unwrap() {
        for row in rows {
            let indices = Ask::All.indices(&row);
            wanted.insert((policy.id, row.group), (row, indices));
        }
    }
    // Every third segment lacks a piece, wherever it is.
    let mut lacks: BTreeMap<Place, u64> = BTreeMap::new();
    for (number, one) in all.iter().enumerate().filter(|(number, _)| number % 3 == 0) {
        let (row, _) = &wanted[&(one.policy, one.group)];
        let index = (number * SEED % row.members.len()) as u8;
        let drive = inner.fleet.get(row.members[usize::from(index)]).unwrap();
        drive.store.delete(vec![PieceId { segment: one.segment, index }]).await.unwrap();
        *lacks.entry((one.policy, one.group)).or_default() += 1;
    }
    assert!(lacks.len() > 3, "they are in several groups: {lacks:?}");
    // Each second group; only the last one; none.
    let places: Vec<Place> = wanted.keys().copied().collect();
    for asked in [places.iter().copied().step_by(2).collect::<Vec<_>>(), places[places.len() - 1..].to_vec(), vec![]] {
        let some: Wanted = asked.iter().map(|place| (*place, wanted[place].clone())).collect();
        let walked = inner.walk_over(some).await.unwrap();
        let found: BTreeMap<Place, u64> = walked.iter().map(|one| ((one.policy, one.row.group), one.lacking)).collect();
        let expected: BTreeMap<Place, u64> =
            asked.iter().map(|place| (*place, lacks.get(place).copied().unwrap_or(0))).collect();
        assert_eq!(found, expected);
    }
    node.close().await;
}
