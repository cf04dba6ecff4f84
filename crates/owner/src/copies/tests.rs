use std::sync::atomic::{AtomicU64, Ordering};

use base::VolumeId;
use kit::{Body, Change, Object};

use super::*;

fn root() -> VolumeRoot {
    VolumeRoot::new([1; 32])
}

fn salts() -> impl FnMut() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    || u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
}

fn put(path: &str, version: u64) -> Change {
    let (size, modified) = (2, Wall(1_000 * version));
    let object = Object {
        version,
        null: false,
        marker: false,
        modified,
        size,
        attrs: Vec::new(),
        body: Body::Inline(b"ok".to_vec()),
    };
    Change::Put { path: path.into(), object }
}

fn position(seq: u64) -> Change {
    Change::Position(Position { seq, at: Wall(1_000_000 * seq) })
}

/// A log of so many deltas, each with a file: its bytes, it, and where its frames end.
fn log_of(root: &VolumeRoot, id: u8, deltas: u64) -> (Vec<u8>, Log, Vec<usize>) {
    let mut state = State::default();
    state.apply(position(1));
    let (mut bytes, mut log) = Log::create(root, VolumeId(5), [id; 16], state, salts()).unwrap();
    let mut ends = vec![bytes.len()];
    for at in 0..deltas {
        let more = log.append(vec![put(&format!("file {at}"), at + 1), position(at + 2)], salts()).unwrap();
        bytes.extend(more);
        ends.push(bytes.len());
    }
    (bytes, log, ends)
}

fn a_file() -> At {
    At::File("/stick/family.kit".into())
}

fn node(id: u8) -> At {
    At::Node(NodeId([id; 16]))
}

/// What copies are worth to a machine that has seen this of these logs.
async fn judged(seen: &[(Seen, Position)], copies: &[(At, &[u8])]) -> Found {
    let root = root();
    let mut search = Search::new(Env::real(), &root);
    search.seen = seen.iter().map(|(seen, _)| *seen).collect();
    search.known = seen.iter().map(|(_, position)| *position).max();
    for (at, bytes) in copies {
        search.look(at.clone(), bytes.to_vec(), false);
    }
    search.finish()
}

fn seen_of(log: &Log) -> (Seen, Position) {
    (log.seen(), log.state().position())
}

async fn standing(seen: &[(Seen, Position)], bytes: &[u8]) -> Standing {
    judged(seen, &[(a_file(), bytes)]).await.copies.remove(0).standing
}

fn says(standing: &Standing, words: &[&str]) {
    let (Standing::Damaged(why) | Standing::RolledBack(why)) = standing else { panic!("it is {standing:?}") };
    for word in words {
        assert!(why.contains(word), "{word:?} isn't said, but {why}");
    }
}

#[tokio::test]
async fn a_sound_kit_says_how_far_it_goes() {
    let (bytes, log, _) = log_of(&root(), 2, 3);
    let found = judged(&[], &[(a_file(), &bytes)]).await;
    let facts =
        Facts { generation: 1, frame: 3, position: log.state().position(), files: 3, bytes: bytes.len() as u64 };
    assert_eq!(found.copies, [Copy { at: a_file(), facts: Some(facts), standing: Standing::Sound }]);
    assert_eq!(found.newest.unwrap().bytes, bytes);
    assert_eq!(standing(&[seen_of(&log)], &bytes).await, Standing::Sound);
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_found_and_said_where() {
    let (bytes, log, ends) = log_of(&root(), 2, 3);
    for seen in [&[][..], &[seen_of(&log)]] {
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            let standing = standing(seen, &wrong).await;
            says(&standing, &["take another copy"]);
            // The frame it is in begins where the one before ends.
            if let Some(frame) = ends.iter().position(|end| at < *end).filter(|frame| *frame > 0) {
                says(&standing, &[&format!("frame {frame} (byte {})", ends[frame - 1])]);
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_damaged_or_an_older_state_and_never_more() {
    let (bytes, log, ends) = log_of(&root(), 2, 3);
    for cut in 0..bytes.len() {
        let alone = standing(&[], &bytes[..cut]).await;
        let known = standing(&[seen_of(&log)], &bytes[..cut]).await;
        match ends.contains(&cut) {
            // Whole by then: only who has seen more can tell.
            true => {
                assert_eq!(alone, Standing::Sound, "cut at {cut}");
                says(&known, &["older state", "this machine has seen frame 3", "export a new one"]);
            }
            false => [alone, known].iter().for_each(|standing| says(standing, &["cut short", "take another copy"])),
        }
    }
}

#[tokio::test]
async fn what_is_no_kit_of_the_volume_is_said_to_be_that() {
    let (other, ..) = log_of(&VolumeRoot::new([9; 32]), 2, 1);
    let public = VolumeRoot::new([9; 32]).signing_key().public().to_string();
    says(&standing(&[], &other).await, &["another volume", &public]);
    says(&standing(&[], &[b'x'; 400]).await, &["it is no kit"]);
    says(&standing(&[], b"").await, &["cut short"]);
    let (mut later, ..) = log_of(&root(), 2, 1);
    later[4] = 9;
    says(&standing(&[], &later).await, &["version 9", "update"]);
    let root = root();
    let folder = tempfile::tempdir().unwrap();
    let mut search = Search::new(Env::real(), &root);
    assert!(search.file(&folder.path().join("none")).await.is_err());
    assert!(search.file(folder.path()).await.is_err(), "a folder");
}

#[tokio::test]
async fn an_older_kit_is_told_from_what_this_machine_has_seen() {
    let (bytes, log, ends) = log_of(&root(), 2, 3);
    let (other, ..) = log_of(&root(), 3, 1);
    let seen = [seen_of(&log)];
    says(&standing(&seen, &bytes[..ends[1]]).await, &["frame 1 of generation 1", "frame 3 of generation 1"]);
    // Of another client's log: by how far it follows the journal.
    says(&standing(&seen, &other).await, &["position 2", "position 4", "export a new one"]);
    let (fork, ..) = log_of(&root(), 2, 3);
    says(&standing(&seen, &fork).await, &["another history"]);
}

#[tokio::test]
async fn a_node_that_is_behind_is_older_and_all_of_them_behind_is_a_rollback() {
    let (bytes, log, ends) = log_of(&root(), 2, 3);
    let (old, _) = bytes.split_at(ends[1]);
    let seen = [seen_of(&log)];
    let of = |found: &Found| found.copies.iter().map(|copy| copy.standing.clone()).collect::<Vec<_>>();
    let found = judged(&seen, &[(node(1), old), (node(2), &bytes)]).await;
    assert_eq!(of(&found), [Standing::Older, Standing::Sound]);
    assert_eq!(found.newest.unwrap().at, node(2));
    let found = judged(&[], &[(node(1), old), (node(2), &bytes)]).await;
    assert_eq!(of(&found), [Standing::Older, Standing::Sound], "who has seen nothing compares copies");
    let found = judged(&seen, &[(node(1), old), (node(2), old)]).await;
    assert!(of(&found).iter().all(Standing::is_bad), "{:?}", found.copies);
    let mut wrong = bytes.clone();
    wrong[ends[1] + 20] ^= 1;
    let found = judged(&seen, &[(node(1), &wrong), (node(2), &bytes)]).await;
    assert!(found.copies[0].standing.is_bad() && !found.copies[1].standing.is_bad(), "{:?}", found.copies);
}

#[tokio::test]
async fn this_machines_own_log_is_judged_by_what_was_seen_of_it() {
    let root = root();
    let (bytes, log, ends) = log_of(&root, 2, 3);
    let folder = tempfile::tempdir().unwrap();
    let public = root.signing_key().public();
    let at = |kind: &str| folder.path().join(format!("{public}.{kind}"));
    let look = async || {
        let mut search = Search::new(Env::real(), &root);
        search.here(folder.path(), true).await.unwrap();
        search.finish()
    };
    let put = |kind: &str, bytes: &[u8]| {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(at(kind)).unwrap();
        file.write_all(bytes).unwrap();
    };
    assert!(look().await.copies.is_empty(), "there is none yet");
    put("seen", &log.seen().encode());
    says(&look().await.copies[0].standing, &["it is gone"]);
    put("kit", &bytes);
    assert_eq!(look().await.copies[0].standing, Standing::Sound);
    // A crash cut the next append short.
    put("kit", &[&bytes[..], &bytes[ends[2]..ends[2] + 30]].concat());
    let found = look().await;
    assert_eq!((&found.copies[0].standing, found.newest.unwrap().bytes), (&Standing::Sound, bytes.clone()));
    put("kit", &bytes[..ends[1]]);
    says(&look().await.copies[0].standing, &["frame 3"]);
    put("kit", &bytes[..bytes.len() - 9]);
    says(&look().await.copies[0].standing, &["frame 3", "cut short"]);
    put("seen", b"nonsense");
    says(&look().await.copies[0].standing, &["can't be read"]);
}
