//! One year of 10,000 drives: `cargo run --release -p forecast --example year -- [independent|correlated] [SEED] [SVG]`.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use forecast::{Fleet, plot, report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let correlated = args.get(1).is_none_or(|kind| kind == "correlated");
    let seed = args.get(2).map_or(Ok(1), |seed| seed.parse())?;
    let report = report(&Fleet::ten_thousand(correlated), 1.0, seed)?;
    println!("{}", report.text());
    if let Some(file) = args.get(3) {
        std::fs::write(file, plot::svg(&report))?;
    }
    Ok(())
}
