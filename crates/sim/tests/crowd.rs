//! Faults planted under a crowd of clients: the checker finds each of them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use env::Clock;
use sim::chance::Chance;
use sim::crowd::{Crowd, Face, Page};
use sim::linear::{History, Limits, Outcome, Recorder, Verdict, check, check_strictly};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Some reads come from a node that is three changes behind.
    StaleRead,
    /// Some acknowledged writes are not kept.
    LostWrite,
    /// Some conditional writes are made although they are refused.
    AppliedAnyway,
    /// Listings are read in two halves.
    TornListing,
}

#[derive(Default)]
struct Store {
    now: BTreeMap<String, u64>,
    /// What each key held, the newest last.
    past: BTreeMap<String, Vec<Option<u64>>>,
}

/// A store in memory; requests take their time on the way there and back, and some answers are lost.
struct Memory {
    fault: Fault,
    clock: Arc<dyn Clock>,
    chance: Mutex<Chance>,
    store: Mutex<Store>,
}

impl Memory {
    async fn way(&self) {
        let micros = self.chance.lock().unwrap().below(5_000);
        self.clock.sleep(Duration::from_micros(micros)).await;
    }

    fn is_hit(&self, fault: Fault) -> bool {
        self.fault == fault && self.chance.lock().unwrap().percent(10)
    }

    /// A change if `fits`, there and back.
    async fn change(&self, key: &str, value: Option<u64>, fits: impl Fn(Option<u64>) -> bool) -> Outcome {
        self.way().await;
        if self.chance.lock().unwrap().percent(2) {
            return Outcome::Unknown;
        }
        let mut outcome = Outcome::Done;
        {
            let (lost, anyway) = (self.is_hit(Fault::LostWrite), self.is_hit(Fault::AppliedAnyway));
            let mut store = self.store.lock().unwrap();
            if !fits(store.now.get(key).copied()) {
                outcome = Outcome::PreconditionFailed;
            }
            if (outcome == Outcome::Done && !lost) || (outcome != Outcome::Done && anyway) {
                let before = store.now.get(key).copied();
                store.past.entry(key.to_owned()).or_default().push(before);
                match value {
                    Some(value) => store.now.insert(key.to_owned(), value),
                    None => store.now.remove(key),
                };
            }
        }
        self.way().await;
        if self.chance.lock().unwrap().percent(2) { Outcome::Unknown } else { outcome }
    }
}

impl Face for Memory {
    async fn put(&self, _node: usize, key: &str, value: u64) -> Outcome {
        self.change(key, Some(value), |_| true).await
    }

    async fn get(&self, _node: usize, key: &str) -> Outcome {
        self.way().await;
        let found = {
            let is_stale = self.is_hit(Fault::StaleRead);
            let store = self.store.lock().unwrap();
            let past = store.past.get(key).map(Vec::as_slice).unwrap_or_default();
            match past.iter().rev().nth(2) {
                Some(before) if is_stale => *before,
                _ => store.now.get(key).copied(),
            }
        };
        self.way().await;
        Outcome::Found(found)
    }

    async fn delete(&self, _node: usize, key: &str) -> Outcome {
        self.change(key, None, |_| true).await
    }

    async fn put_if_absent(&self, _node: usize, key: &str, value: u64) -> Outcome {
        self.change(key, Some(value), |now| now.is_none()).await
    }

    async fn put_if_match(&self, _node: usize, key: &str, value: u64, expected: u64) -> Outcome {
        self.change(key, Some(value), |now| now == Some(expected)).await
    }

    async fn list(&self, _node: usize, prefix: &str, after: &str) -> Option<Page> {
        self.way().await;
        let page = |from: &str| -> BTreeMap<String, u64> {
            let store = self.store.lock().unwrap();
            let found = store.now.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() >= from);
            found.map(|(key, value)| (key.clone(), *value)).collect()
        };
        let mut seen = page("");
        if self.fault == Fault::TornListing {
            let middle = format!("{prefix}1");
            seen.retain(|key, _| *key < middle);
            self.clock.sleep(Duration::from_millis(60)).await;
            seen.extend(page(&middle));
        }
        seen.retain(|key, _| key.as_str() > after);
        self.way().await;
        Some(Page { seen, until: None })
    }
}

/// What a crowd saw of such a store, in simulated time.
fn seen_of(fault: Fault, seed: u64, clients: u32, requests: u64) -> History {
    let mut sim = turmoil::Builder::new().rng_seed(seed).tick_duration(Duration::from_millis(1)).build();
    let kept = Arc::new(Mutex::new(History::default()));
    let keep = kept.clone();
    sim.client("clients", async move {
        let clock = sim::world::clock();
        let recorder = Recorder::new(clock.clone());
        let chance = Mutex::new(Chance::new(seed ^ 77));
        let face = Memory { fault, clock: clock.clone(), chance, store: Mutex::default() };
        let crowd = Crowd {
            seed,
            clients,
            nodes: 3,
            prefix: "hot/".to_owned(),
            keys: 2,
            requests,
            pause: Duration::from_millis(10),
            first_value: 1,
        };
        crowd.run(&face, &recorder, &clock, || true).await;
        *keep.lock().unwrap() = recorder.history();
        Ok(())
    });
    sim.run().unwrap();
    let history = kept.lock().unwrap().clone();
    assert!(history.len() as u64 >= u64::from(clients) * requests);
    history
}

#[test]
fn a_right_store_is_found_right_and_the_same_seed_sees_the_same() {
    for seed in 1..=10 {
        let history = seen_of(Fault::None, seed, 8, 60);
        assert_eq!(check(&history), Verdict::Linearizable, "seed {seed}");
        assert_eq!(history, seen_of(Fault::None, seed, 8, 60), "seed {seed}");
    }
}

fn is_caught(fault: Fault) {
    for seed in 1..=10 {
        match check(&seen_of(fault, seed, 8, 60)) {
            Verdict::Violation(violation) => assert!(violation.key.starts_with("hot/"), "{violation}"),
            verdict => panic!("{fault:?} goes unseen with seed {seed}: {verdict}"),
        }
    }
}

#[test]
fn stale_reads_are_caught() {
    is_caught(Fault::StaleRead);
}

#[test]
fn a_lost_acknowledged_write_is_caught() {
    is_caught(Fault::LostWrite);
}

#[test]
fn a_failed_conditional_write_that_is_applied_is_caught() {
    is_caught(Fault::AppliedAnyway);
}

#[test]
fn a_listing_that_is_no_single_cut_is_caught_by_the_strict_check() {
    let strictly = |fault, seed| check_strictly(&seen_of(fault, seed, 4, 15), Limits::default());
    let mut caught = 0;
    for seed in 1..=40 {
        assert_eq!(strictly(Fault::None, seed), Verdict::Linearizable, "seed {seed}");
        let verdict = strictly(Fault::TornListing, seed);
        assert!(!matches!(verdict, Verdict::Undecided { .. }), "seed {seed}");
        caught += usize::from(matches!(verdict, Verdict::Violation(_)));
    }
    assert!(caught >= 10, "{caught} of 40");
}
