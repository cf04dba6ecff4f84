//! What goes wrong in a storm, and how it is made good again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::chance::Chance;
use crate::disk::Faults;
use crate::storm::stage::{BUCKET, Failed, Order, Stage};

/// Faults dealt in each half.
const FAULTS: u64 = 8;

/// How long repair may take once all is well again.
const REPAIR_SECS: u64 = 600;

/// A drive that does things wrong, and what was done to it.
pub struct Victim {
    path: PathBuf,
    away: bool,
    deleted: bool,
}

/// Deals faults to two drives and ends the process now and then.
///
/// # Errors
/// If a mistyped command was carried out.
pub async fn deal(stage: Stage, half: u64) -> Result<Vec<Victim>, String> {
    let mut chance = Chance::new(stage.seed ^ (half + 7) << 50);
    let mut victims: Vec<Victim> = Vec::new();
    let mut left: Vec<PathBuf> = stage.drives.to_vec();
    for _ in 0..2 {
        let path = left.remove(chance.below(left.len() as u64) as usize);
        victims.push(Victim { path, away: false, deleted: false });
    }
    for _ in 0..FAULTS {
        tokio::time::sleep(Duration::from_millis(5 + chance.below(1000))).await;
        if chance.percent(25) {
            let order = if chance.percent(50) { Order::PowerCut } else { Order::Kill };
            stage.order(order).await;
            continue;
        }
        if chance.percent(15) {
            mistype(&stage, &mut chance).await?;
            continue;
        }
        let which = chance.below(2) as usize;
        hurt(&stage, &mut chance, &mut victims[which]);
    }
    stage.weather(false);
    Ok(victims)
}

/// An operator types something terrible, with `--apply` and no code: it must be refused, whatever the weather.
async fn mistype(stage: &Stage, chance: &mut Chance) -> Result<(), String> {
    let all: Vec<String> = stage.drives.iter().map(|path| path.display().to_string()).collect();
    // Eleven of twelve instead of one, as it were.
    let most = &all[..all.len() - 1];
    let plan =
        |verb: &str, targets: &[String]| ("/v1/plan", json!({ "verb": verb, "targets": targets, "apply": true }));
    let (path, wish) = match chance.below(8) {
        0 => plan("remove", most),
        1 => plan("remove", &all),
        2 => plan("expunge", most),
        3 => plan("expunge", &all),
        4 => plan("drain", &all),
        5 => plan("drain", most),
        6 => ("/v1/policies/default", json!({ "code": "1 copy" })),
        _ => ("/v1/purge", json!({ "apply": true, "code": "00000000" })),
    };
    let done = stage.admin("POST", path, &wish).await.map_err(|error| error.to_string());
    stage.note(format!("mistyped: {path} {wish}: {done:?}"));
    match done {
        Ok(answer) => Err(format!("a mistyped command was carried out: {path} {wish}: {answer}")),
        Err(_) => Ok(()),
    }
}

/// One fault of one drive.
fn hurt(stage: &Stage, chance: &mut Chance, victim: &mut Victim) {
    let (disk, path) = (&stage.disk, victim.path.clone());
    stage.count(|counts| counts.faults += 1);
    let note = |what: &str| stage.note(format!("{what} {}", path.display()));
    if victim.away {
        note("back:");
        disk.attach(&path);
        victim.away = false;
        return;
    }
    let faults = match chance.below(9) {
        0 | 1 => {
            note("pulled out:");
            disk.detach(&path);
            victim.away = true;
            return;
        }
        2 => {
            note("rm -rf:");
            disk.remove_tree(&path);
            victim.deleted = true;
            return;
        }
        3 | 4 => {
            let part = if chance.percent(70) { "pieces" } else { "meta" };
            let count = disk.rot(&path.join(part), 1 + chance.below(20) as usize);
            note(&format!("{count} bits flip in {part} of"));
            return;
        }
        5 => Faults { read_errors: 500, write_errors: 100, ..Faults::default() },
        6 => Faults { read_only: true, ..Faults::default() },
        7 => Faults { capacity: Some(disk.used(&path) + chance.below(400_000)), ..Faults::default() },
        _ => Faults::default(),
    };
    note(&format!("{faults:?} of"));
    disk.set_faults(&path, faults);
}

/// Makes everything good that a person would, and waits until the store has done the rest.
pub async fn heal(stage: &Stage, victims: &[Victim]) -> Result<(), Failed> {
    for victim in victims {
        stage.note(format!("healed: {}", victim.path.display()));
        if victim.away {
            stage.disk.attach(&victim.path);
        }
        stage.disk.set_faults(&victim.path, Faults::default());
    }
    stage.ready().await?;
    for victim in victims.iter().filter(|victim| victim.deleted) {
        replace(stage, &victim.path).await?;
    }
    settle(stage, "after the storm").await?;
    // Bits that flipped are found by reading everything.
    let found = stage.admin("POST", "/v1/scrub", &Json::Null).await?;
    stage.note(format!("scrub: {found}"));
    settle(stage, "after a scrub").await?;
    let mut again = Json::Null;
    for _ in 0..REPAIR_SECS / 20 {
        again = stage.admin("POST", "/v1/scrub", &Json::Null).await?;
        if again["damaged"] == 0 && again["missing"] == 0 && again["metadata"] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    stage.note(format!("scrub: {again}"));
    if again["damaged"] != 0 || again["missing"] != 0 || again["metadata"] != 0 {
        return Err(format!("scrubs still find something: {again}, after {found}").into());
    }
    let verified = stage.admin("POST", "/v1/verify", &json!({ "what": BUCKET })).await?;
    stage.note(format!("verify: {verified}"));
    let bad = verified["findings"].as_array().is_none_or(|findings| !findings.is_empty());
    if bad { Err(format!("verify finds something: {verified}").into()) } else { Ok(()) }
}

/// A new, empty drive in the place of one that was deleted. A start in between may have made it.
async fn replace(stage: &Stage, path: &Path) -> Result<(), Failed> {
    let mut last = String::new();
    for _ in 0..120 {
        let status = stage.admin("GET", "/v1/status", &Json::Null).await?;
        let is_there = status["drives"]
            .as_array()
            .is_some_and(|drives| drives.iter().any(|drive| drive["path"] == json!(path) && drive["state"] == "up"));
        // What was deleted a moment ago may still count as up.
        if is_there && stage.disk.used(path) > 0 {
            return Ok(());
        }
        match stage.admin("POST", "/v1/drives/add", &json!({ "path": path })).await {
            Ok(_) => return Ok(()),
            // What a process that began meanwhile made anew in the old folder.
            Err(error) if error.to_string().contains("something else") => stage.disk.remove_tree(path),
            // The old folder's loss may not have been noticed yet.
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(format!("no new drive can be put in the place of {}: {last}", path.display()).into())
}

/// Waits until nothing is missing and any two drives may be lost again.
async fn settle(stage: &Stage, when: &str) -> Result<(), Failed> {
    let mut status = Json::Null;
    for _ in 0..REPAIR_SECS {
        status = stage.admin("GET", "/v1/status", &Json::Null).await?;
        if status["repair"]["pieces"] == 0 && status["spare_losses"].as_i64() >= Some(2) && status["health"] == "green"
        {
            stage.note(format!("settled {when}"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err(format!("{when} the store is not whole after {REPAIR_SECS} s: {status:#}").into())
}
