//! The store against a model: random histories, and a crash at every change that they make.

mod world;

use world::model::{Play, Round, id, open, put, verify};
use world::{Chance, FATES, Fate, Image, Walk, World};

const IDS: u32 = 8;

/// Seeds to run: those of `PIECESTORE_SEED` alone, or `count` from 1.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("PIECESTORE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

/// Runs a test of one seed; says which one failed and how to run it again.
fn each_seed(count: u64, test: impl Fn(u64)) {
    for seed in seeds(count) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed)));
        if let Err(panic) = result {
            eprintln!("failed with seed {seed}; again with PIECESTORE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(work)
}

#[test]
fn a_random_history_ends_as_the_model_says() {
    each_seed(60, |seed| {
        run(async {
            let mut play = Play::begin(seed, IDS).await;
            for _ in 0..120 {
                play.round().await;
                if play.chance.below(15) == 0 {
                    let clean = play.chance.half();
                    play.reopen(clean).await;
                }
            }
            play.finish().await;
        });
    });
}

#[test]
fn every_crash_point_keeps_what_was_acknowledged() {
    each_seed(5, |seed| {
        run(async {
            let mut play = Play::begin(seed, IDS).await;
            for round in 0..36 {
                play.round().await;
                if round == 12 || round == 24 {
                    play.reopen(round == 24).await;
                }
            }
            let ops = play.world.ops();
            let mut first = Image::default();
            first.names.insert("/d".into(), None);
            let mut walk = Walk::from(first);
            let mut chance = Chance(seed);
            let empty = Round { begin: 0, now: 0, before: Default::default(), steps: Vec::new() };
            let mut images = 0;
            for at in 0..=ops.len() {
                let round = play.rounds.iter().rev().find(|round| round.begin <= at).unwrap_or(&empty);
                let fates = if walk.is_settled() { &FATES[..1] } else { &FATES[..] };
                for fate in fates {
                    crash(&walk, *fate, round, at, seed, &mut chance).await;
                    images += 1;
                }
                if let Some(op) = ops.get(at) {
                    walk.step(op);
                }
            }
            assert!(images > 500, "only {images} crashes");
        });
    });
}

async fn crash(walk: &Walk, fate: (Fate, Fate), round: &Round, at: usize, seed: u64, chance: &mut Chance) {
    let told = Told(format!("crash after {at} changes, {fate:?}"));
    let world = World::from(walk.crash(fate, chance), seed + 1, round.now + 1);
    let model = round.model_after(at);
    let store = open(&world).await.expect("open after a crash");
    if chance.below(4) == 0 {
        // What the first open tidied up must be as safe as what it found.
        drop(store);
        let store = open(&world).await.expect("open again");
        verify(&store, &model, IDS).await;
    } else {
        let mut play = Play {
            world: world.clone(),
            store,
            model: model.clone(),
            rounds: Vec::new(),
            chance: chance.clone(),
            serial: 1_000_000,
            ids: IDS,
            faulty: false,
        };
        if chance.below(4) == 0 {
            // New pieces don't land on old ones.
            for _ in 0..3 {
                play.round().await;
            }
            play.reopen(false).await;
        }
        play.finish().await;
    }
    drop(told);
}

/// Says where a test was if it panics.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

#[test]
fn two_changes_of_a_piece_at_once_leave_one_whatever_the_crash_tears() {
    run(async {
        let world = World::new(3);
        let store = open(&world).await.expect("open");
        let version = |serial, len| world::model::Version { serial, len, cell: 300, expiry: None };
        put(&store, 1, &version(1, 100)).await.expect("put");
        let begin = world.count();
        let (a, b) = (version(2, 1000), version(3, 1500));
        let both = tokio::join!(put(&store, 1, &a), put(&store, 1, &b));
        both.0.and(both.1).expect("put");
        let ops = world.ops();
        let mut first = Image::default();
        first.names.insert("/d".into(), None);
        let mut walk = Walk::from(first);
        for (at, op) in ops.iter().enumerate() {
            if at >= begin {
                for seed in 0..40 {
                    let image = walk.crash((Fate::Torn, Fate::Kept), &mut Chance(seed));
                    let store = open(&World::from(image, seed, 5)).await.expect("open");
                    assert_eq!(store.health().pieces, 1, "seed {seed}");
                    store.delete(vec![id(1)]).await.expect("delete");
                    assert!(!store.contains(id(1)).await.expect("contains"), "seed {seed}");
                }
            }
            walk.step(op);
        }
    });
}
