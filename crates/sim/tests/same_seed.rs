//! A seed is a storm: played again it is the same to the byte. Alone in its process, since tokio
//! numbers the tasks of all runtimes of a process in one row.
#![allow(clippy::unwrap_used)]

use sim::storm::{Storm, run};

#[test]
fn the_same_seed_is_the_same_storm() {
    for seed in 1..=4 {
        let (one, two) = (run(Storm::new(seed)).unwrap(), run(Storm::new(seed)).unwrap());
        let differs = one.trace.iter().zip(&two.trace).position(|(one, two)| one != two);
        if let Some(at) = differs {
            panic!("seed {seed}: the traces part at line {at}:\n{}\n{}", one.trace[at], two.trace[at]);
        }
        assert_eq!((one.trace.len(), one.counts), (two.trace.len(), two.counts), "seed {seed}");
        assert_eq!(one.fingerprint, two.fingerprint, "seed {seed}: the drives differ");
    }
}
