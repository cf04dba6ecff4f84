//! `abide simulate`: what the years would do to these machines.

use std::path::Path;

use forecast::{Fleet, plot, read, report};
use serde_json::Value;

use crate::args::Simulate;
use crate::ask::Done;
use crate::control::ask;

/// Simulates the fleet of a file, a preset, or the running store.
pub fn run(home: &Path, what: &Simulate) -> Result<Done, String> {
    let report = report(&fleet(home, what)?, what.years, what.seed).map_err(|error| error.to_string())?;
    let mut shown = report.text();
    if let Some(file) = &what.plot {
        std::fs::write(file, plot::svg(&report)).map_err(|error| format!("write {}: {error}", file.display()))?;
        shown += &format!("\n\ndrawn in {}", file.display());
    }
    Ok(Done { answer: report.json(), shown, good: true })
}

fn fleet(home: &Path, what: &Simulate) -> Result<Fleet, String> {
    if let Some(preset) = &what.preset {
        return Ok(Fleet::ten_thousand(preset.ends_with("correlated")));
    }
    let Some(file) = &what.fleet else {
        let status = ask(home, "GET", "/v1/status", &Value::Null).map_err(|error| error.to_string())?;
        return read::live(&status).map_err(|error| error.to_string());
    };
    let text = std::fs::read_to_string(file).map_err(|error| format!("read {}: {error}", file.display()))?;
    read::parse(&text).map_err(|error| format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_of_a_file_is_simulated_and_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let (file, drawn) = (folder.path().join("fleet.toml"), folder.path().join("plot.svg"));
        std::fs::write(&file, "[[node]]\nname = \"n\"\ncount = 4\ndrives = [\"1 TB\"]\n").unwrap();
        let what = |fleet: &Path| Simulate {
            fleet: Some(fleet.to_owned()),
            preset: None,
            years: 0.1,
            seed: 1,
            plot: Some(drawn.clone()),
        };
        let done = run(folder.path(), &what(&file)).unwrap();
        assert!(done.shown.contains("4 nodes, 4 drives") && done.answer["drives"] == 4, "{}", done.shown);
        assert!(std::fs::read_to_string(&drawn).unwrap().starts_with("<svg"));
        let missing = folder.path().join("no.toml");
        assert!(run(folder.path(), &what(&missing)).map(|_| ()).unwrap_err().contains("no.toml"));
    }
}
