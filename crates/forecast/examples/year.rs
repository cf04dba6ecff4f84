//! One year of 10,000 drives:
//! `cargo run --release -p forecast --example year -- [independent|correlated] [SEED] [SVG|-] [COMMANDS]`.
//! With so many commands a year, a quarter of them slips, each judged by the gate: some seconds each.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use forecast::{Fleet, Operator, plot, report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let correlated = args.get(1).is_none_or(|kind| kind == "correlated");
    let seed = args.get(2).map_or(Ok(1), |seed| seed.parse())?;
    let commands = args.get(4).map_or(Ok(0.0), |commands| commands.parse())?;
    let operator = Operator { commands, typos: 0.25, ..Operator::default() };
    let report = report(&Fleet { operator, ..Fleet::ten_thousand(correlated) }, 1.0, seed)?;
    println!("{}", report.text());
    if let Some(file) = args.get(3).filter(|file| *file != "-") {
        std::fs::write(file, plot::svg(&report))?;
    }
    for (kind, asked) in &report.tally.orders.kinds {
        println!("{kind:<34}{} asked, {} done, {} refused", asked.asked, asked.done, asked.refused);
    }
    Ok(())
}
