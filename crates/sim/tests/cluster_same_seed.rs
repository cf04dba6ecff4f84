//! A seed is a storm over a cluster: played again it is the same to the byte. Alone in its process, since
//! tokio numbers the tasks of all runtimes of a process in one row.
#![allow(clippy::unwrap_used)]

use sim::cluster::{Kind, Storm, run};

#[test]
fn the_same_seed_is_the_same_storm() {
    for seed in 1..=3 {
        let storm = Storm { kind: Kind::Anything, nodes: 3, phases: 1, ..Storm::new(seed) };
        let (one, two) = (run(storm).unwrap(), run(storm).unwrap());
        if let Some(at) = one.trace.iter().zip(&two.trace).position(|(one, two)| one != two) {
            panic!("seed {seed}: the traces part at line {at}:\n{}\n{}", one.trace[at], two.trace[at]);
        }
        assert_eq!((one.trace.len(), one.counts), (two.trace.len(), two.counts), "seed {seed}");
        assert_eq!(one.fingerprint, two.fingerprint, "seed {seed}: the drives differ");
    }
}
