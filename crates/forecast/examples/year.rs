//! One year of 10,000 drives: `cargo run --release -p forecast --example year [independent|correlated] [SEED]`.
#![allow(clippy::print_stdout)]

use forecast::{Fleet, run};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let correlated = args.get(1).is_none_or(|kind| kind == "correlated");
    let seed = args.get(2).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let years = args.get(3).and_then(|years| years.parse().ok()).unwrap_or(1.0);
    let mut tally = run(&Fleet::ten_thousand(correlated), years, seed).expect("the preset is sound");
    tally.days.clear();
    println!("{tally:#?}");
}
