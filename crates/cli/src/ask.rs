//! The commands that ask the running store, and how their answers look.

use std::path::Path;

use serde_json::{Value, json};

use crate::absolute;
use crate::args::{Command, Drive, Go, Inspect, Key, Kit, Nodes, Policy};
use crate::control::{Error, ask};
use crate::show::{Paint, bytes, duration, paint, table, text};
use crate::undo;

/// What a command came to: shown, and good or not.
pub struct Done {
    /// The answer, for `--json`.
    pub answer: Value,
    /// The answer, for people.
    pub shown: String,
    /// Whether the exit code says success.
    pub good: bool,
}

impl Done {
    pub fn good(answer: Value, shown: String) -> Self {
        Self { answer, shown, good: true }
    }
}

/// Runs a command that asks the store at `home`.
pub fn run(home: &Path, command: &Command) -> Result<Done, Error> {
    let get = |path: &str| ask(home, "GET", path, &Value::Null);
    let post = |path: &str, body: Value| ask(home, "POST", path, &body);
    match command {
        Command::Env => get("/v1/env").map(|answer| Done::good(answer.clone(), env(&answer))),
        Command::Status => get("/v1/status").map(|answer| Done::good(answer.clone(), status(&answer))),
        Command::Invite { valid_for } => {
            let answer = post("/v1/nodes/invite", json!({ "valid_secs": valid_for.as_secs() }))?;
            let shown = format!(
                "{}\n{}",
                text(&answer["ticket"]),
                paint(
                    Paint::Dim,
                    &format!("good for one machine until {}: abide join TICKET FOLDER…", text(&answer["expires"]))
                )
            );
            Ok(Done::good(answer, shown))
        }
        Command::Node(Nodes::List) => get("/v1/nodes").map(|answer| Done::good(answer.clone(), nodes(&answer))),
        Command::Node(Nodes::RestartPlan) => get("/v1/nodes/restart-plan").map(|answer| {
            let waves = list(&answer).iter().enumerate().map(|(at, wave)| {
                let names: Vec<String> = list(wave).iter().map(text).collect();
                format!("{}. {}", at + 1, names.join(", "))
            });
            let shown = waves.collect::<Vec<_>>().join("\n");
            Done::good(
                answer.clone(),
                format!("restart in this order, each when `abide status` is green again:\n{shown}"),
            )
        }),
        Command::Node(Nodes::Expunge { node, go }) => plan(home, "expunge", std::slice::from_ref(node), go),
        Command::Drain { plan: asked, stop } => {
            plan(home, if *stop { "fill" } else { "drain" }, &asked.targets, &asked.go)
        }
        Command::Remove(asked) => plan(home, "remove", &asked.targets, &asked.go),
        Command::Expunge(asked) => plan(home, "expunge", &asked.targets, &asked.go),
        Command::Pace { pace } => {
            let answer = match pace {
                Some(pace) => post("/v1/pace", json!({ "pace": pace }))?,
                None => get("/v1/pace")?,
            };
            let shown = format!("repair and moving of data go at {} %", text(&answer["percent"]));
            Ok(Done::good(answer, shown))
        }
        Command::Trail { limit } => {
            get(&format!("/v1/trail?limit={limit}")).map(|answer| Done::good(answer.clone(), trail(&answer)))
        }
        Command::Kit(Kit::Status) => get("/v1/kits").map(|answer| Done::good(answer.clone(), kits(&answer))),
        Command::Undo { .. } | Command::Purge { .. } | Command::Bucket(_) => undo::run(home, command),
        Command::Node(Nodes::RotateKey) => {
            let answer = post("/v1/nodes/rotate-key", json!({}))?;
            Ok(Done::good(answer, "this node has a new key; in a minute the old one opens nothing any more".into()))
        }
        Command::Events { limit } => {
            get(&format!("/v1/events?limit={limit}")).map(|answer| Done::good(answer.clone(), events(&answer)))
        }
        Command::Drive(Drive::List) => {
            get("/v1/status").map(|answer| Done::good(answer["drives"].clone(), drives(&answer["drives"])))
        }
        Command::Drive(Drive::Add { folder }) => {
            // The server's working folder is another one.
            let folder = absolute(folder).map_err(Error::Usage)?;
            let answer = post("/v1/drives/add", json!({ "path": folder }))?;
            let shown = format!("added {} as drive {}", folder.display(), text(&answer["id"]));
            Ok(Done::good(answer, shown))
        }
        Command::Drive(Drive::Drain { drive, go }) => plan(home, "drain", &[meant(drive)?], go),
        Command::Drive(Drive::Remove { drive, go }) => plan(home, "remove", &[meant(drive)?], go),
        Command::Key(key) => keys(home, key),
        Command::Policy(Policy::List) => {
            get("/v1/policies").map(|answer| Done::good(answer.clone(), policies(&answer)))
        }
        Command::Policy(Policy::Set { bucket, code, confirm }) => {
            let wish = json!({ "bucket": bucket, "code": code, "confirm": confirm });
            let answer = post("/v1/policies/set", wish)?;
            let shown = format!("new data of {bucket} is coded {}", text(&answer["code"]));
            Ok(Done::good(answer, shown))
        }
        Command::Policy(Policy::Default { code, confirm }) => {
            let answer = post("/v1/policies/default", json!({ "code": code, "confirm": confirm }))?;
            let shown = format!("new data is coded {}", text(&answer["code"]));
            Ok(Done::good(answer, shown))
        }
        Command::Scrub => post("/v1/scrub", json!({})).map(|answer| {
            let [damaged, metadata, left, unread] = ["damaged", "metadata", "metadata_left", "metadata_unread"]
                .map(|what| answer[what].as_u64().unwrap_or(0));
            let mut shown = format!("{} pieces read, {damaged} damaged{}", text(&answer["pieces"]), repaired(damaged));
            if metadata > 0 {
                let mended = metadata - left;
                shown += &format!(
                    "\n{metadata} places of the metadata's copies had rotted, {mended} are put right from other copies"
                );
            }
            if unread > 0 {
                shown += &format!(
                    "\n{unread} copies of the metadata could not be read, they may just be made anew: `abide scrub` again"
                );
            }
            Done { good: damaged + metadata + unread == 0, answer, shown }
        }),
        Command::Verify { what } => post("/v1/verify", json!({ "what": what })).map(verified),
        Command::Inspect(Inspect::Manifest { what }) => {
            let answer = post("/v1/manifest", json!({ "what": what }))?;
            let shown = serde_json::to_string_pretty(&answer).unwrap_or_default();
            Ok(Done::good(answer, shown))
        }
        Command::Up(_)
        | Command::Join(_)
        | Command::Recover(_)
        | Command::Rescue(_)
        | Command::Gateway(_)
        | Command::Volume(_)
        | Command::Cp(_)
        | Command::Ls(_)
        | Command::Rm(_)
        | Command::Watch(_)
        | Command::Grant(_)
        | Command::Kit(_)
        | Command::Simulate(_)
        | Command::Inspect(_) => {
            unreachable!("these don't ask the store")
        }
    }
}

fn repaired(damaged: u64) -> &'static str {
    if damaged == 0 { "" } else { "; they are rebuilt from the others: see `abide status`" }
}

fn env(answer: &Value) -> String {
    let pairs = answer.as_object().into_iter().flatten();
    let lines = pairs.map(|(name, value)| format!("export {name}='{}'", text(value).replace('\'', r"'\''")));
    lines.collect::<Vec<_>>().join("\n")
}

fn health(answer: &Value) -> Paint {
    match answer["health"].as_str() {
        Some("green") => Paint::Green,
        Some("yellow") => Paint::Yellow,
        _ => Paint::Red,
    }
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn status(answer: &Value) -> String {
    let mut lines = vec![paint(health(answer), &text(&answer["sentence"]))];
    lines.extend(list(&answer["reasons"]).iter().map(|reason| format!("  {}", text(reason))));
    let totals = &answer["totals"];
    lines.push(format!(
        "{} buckets, {} objects, {}",
        number(&totals["buckets"]),
        number(&totals["objects"]),
        bytes(number(&totals["bytes"]))
    ));
    if number(&totals["deleted"]) > 0 {
        lines.push(format!(
            "deleted, can be had back by `abide undo`: {} objects, {}",
            number(&totals["deleted"]),
            bytes(number(&totals["deleted_bytes"]))
        ));
    }
    let repair = &answer["repair"];
    if number(&repair["pieces"]) > 0 {
        let eta = repair["eta_secs"].as_u64().map_or("not known yet".to_owned(), duration);
        lines.push(paint(
            Paint::Yellow,
            &format!(
                "repairing: {} pieces, {} left, time left {eta}",
                number(&repair["pieces"]),
                bytes(number(&repair["bytes"]))
            ),
        ));
    }
    if let Some(survives) = answer["survives"].as_str() {
        lines.push(survives.to_owned());
    }
    for safety in list(&answer["safeties"]) {
        let survives = safety["survives"].as_object().into_iter().flatten();
        let told: Vec<String> = survives.map(|(domain, count)| format!("{domain} {}", number(count))).collect();
        lines.push(format!("  {}: worst segment survives {}", text(&safety["policy"]), told.join(", ")));
    }
    let proof = &answer["proof"];
    lines.push(paint(
        Paint::Dim,
        &format!(
            "  proven: pieces asked for {} ago, every drive read through or new within {}",
            duration(number(&proof["checked_secs"])),
            duration(number(&proof["scrubbed_secs"]))
        ),
    ));
    let own = Some((&answer["drill"], String::new())).filter(|(drill, _)| drill.is_object());
    let owners = list(&answer["owners_drills"]).iter().map(|drill| (drill, format!(" of {}", text(&drill["bucket"]))));
    for (drill, of) in own.into_iter().chain(owners) {
        let (age, objects) = (duration(number(&drill["age_secs"])), number(&drill["objects"]));
        let read = format!(
            "  restore drill{of} {age} ago: {objects} objects, {}, by kit and pieces alone",
            bytes(number(&drill["bytes"]))
        );
        let failed = number(&drill["failed"]);
        lines.push(match failed {
            0 => paint(Paint::Dim, &read),
            _ => paint(Paint::Red, &format!("{read}; {failed} could not be read")),
        });
    }
    if !list(&answer["nodes"]).is_empty() {
        lines.push(String::new());
        lines.push(nodes(&answer["nodes"]));
    }
    lines.push(String::new());
    lines.push(drives(&answer["drives"]));
    lines.join("\n")
}

fn nodes(answer: &Value) -> String {
    let joined = |value: &Value| list(value).iter().map(text).collect::<Vec<_>>().join(" ");
    let rows: Vec<Vec<String>> = list(answer)
        .iter()
        .map(|node| {
            let standing = text(&node["standing"]);
            let colour = match standing.as_str() {
                "alive" => Paint::Green,
                "suspected" => Paint::Yellow,
                _ => Paint::Red,
            };
            let here = if node["here"].as_bool() == Some(true) { " (here)" } else { "" };
            vec![
                text(&node["id"]).chars().take(8).collect(),
                format!("{}{here}", text(&node["name"])),
                paint(colour, &standing),
                text(&node["state"]),
                joined(&node["addresses"]),
                joined(&node["labels"]),
                number(&node["drives"]).to_string(),
                joined(&node["voter"]),
                joined(&node["leader"]),
            ]
        })
        .collect();
    table(&["node", "name", "standing", "state", "address", "labels", "drives", "keeps", "leads"], &rows)
}

fn drives(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(answer)
        .iter()
        .map(|drive| {
            vec![
                text(&drive["id"]).chars().take(8).collect(),
                text(&drive["path"]),
                state(&text(&drive["state"])),
                bytes(number(&drive["used"])),
                bytes(number(&drive["free"])),
                number(&drive["pieces"]).to_string(),
                number(&drive["errors"]).to_string(),
                text(&drive["note"]),
            ]
        })
        .collect();
    table(&["drive", "folder", "state", "used", "free", "pieces", "errors", "note"], &rows)
}

fn state(state: &str) -> String {
    let colour = match state {
        "up" => Paint::Green,
        "full" | "draining" => Paint::Yellow,
        _ => Paint::Red,
    };
    paint(colour, state)
}

fn events(answer: &Value) -> String {
    let lines = list(answer).iter().map(|event| {
        format!("{}  {}  {}", paint(Paint::Dim, &text(&event["at"])), text(&event["severity"]), text(&event["text"]))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Shows what would come of it; does it if that was asked for. The store refuses what lowers safety.
fn plan(home: &Path, verb: &str, targets: &[String], go: &Go) -> Result<Done, Error> {
    // A folder is named as its user sees it; the server's working folder is another one.
    let meant = |target: &String| {
        if target.contains('/') && !target.contains('=') { meant(target) } else { Ok(target.clone()) }
    };
    let targets: Vec<String> = targets.iter().map(meant).collect::<Result<_, _>>()?;
    let wish = json!({ "verb": verb, "targets": targets, "apply": go.apply, "code": go.code });
    let answer = ask(home, "POST", "/v1/plan", &wish)?;
    Ok(planned(answer, "done; `abide status` shows what is still being moved or rebuilt"))
}

/// A plan as people see it.
pub fn planned(answer: Value, done: &str) -> Done {
    let (refused, applied) = (answer["refused"] == true, answer["applied"] == true);
    let mut lines = vec![text(&answer["change"])];
    lines.extend(list(&answer["outcome"]).iter().map(|line| format!("  {}", text(line))));
    if refused && !applied {
        lines.extend(list(&answer["reasons"]).iter().map(|why| paint(Paint::Red, &format!("refused: {}", text(why)))));
        lines.extend(list(&answer["allowed"]).iter().map(|what| format!("allowed: {}", text(what))));
        let code = text(&answer["code"]);
        lines.push(paint(Paint::Dim, &format!("nothing was changed; to do it all the same: --code {code}")));
    } else if applied {
        lines.push(paint(Paint::Green, done));
    } else {
        lines.push(paint(Paint::Dim, "nothing was changed; add --apply to do it"));
    }
    Done { answer, shown: lines.join("\n"), good: applied || !refused }
}

fn kits(answer: &Value) -> String {
    let row = |kit: &Value| {
        let holders = list(&kit["holders"]);
        let fresh = holders.iter().filter(|holder| holder["fresh"] == true).count();
        let behind: Vec<String> =
            holders.iter().filter(|holder| holder["fresh"] != true).map(|holder| text(&holder["node"])).collect();
        vec![
            text(&kit["bucket"]),
            text(&kit["objects"]),
            bytes(kit["bytes"].as_u64().unwrap_or(0)),
            text(&kit["up_to"]),
            format!("{} of {}", fresh + 1, holders.len() + 1),
            if behind.is_empty() { "-".into() } else { behind.join(", ") },
        ]
    };
    let rows: Vec<Vec<String>> = list(answer).iter().map(row).collect();
    let note = "kits of the buckets whose metadata this node leads; the others are kept by the nodes that lead those";
    format!("{}\n{}", table(&["bucket", "objects", "kit", "up to", "copies", "behind"], &rows), paint(Paint::Dim, note))
}

fn trail(answer: &Value) -> String {
    let mut lines = Vec::new();
    for plan in list(answer) {
        let at = paint(Paint::Dim, &text(&plan["at"]));
        lines.push(format!("{at}  {}  (on {})", text(&plan["change"]), text(&plan["node"])));
        lines.extend(list(&plan["outcome"]).iter().map(|line| format!("    {}", text(line))));
        lines.extend(
            list(&plan["overridden"]).iter().map(|why| paint(Paint::Yellow, &format!("    overridden: {}", text(why)))),
        );
    }
    lines.join("\n")
}

/// The drive as the store knows it: a folder, there or gone, is named as its user sees it, and the
/// server's working folder is another one; what else could be the beginning of an id stays.
fn meant(drive: &str) -> Result<String, Error> {
    let path = absolute(Path::new(drive)).map_err(Error::Usage)?;
    let id = drive.len() >= 4 && drive.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(if id && !path.exists() { drive.to_owned() } else { path.display().to_string() })
}

fn keys(home: &Path, key: &Key) -> Result<Done, Error> {
    match key {
        Key::Create { user, display, email, access_key, secret_key } => {
            let wish = json!({ "user": user, "display": display, "email": email, "access_key": access_key,
                "secret_key": secret_key });
            let answer = ask(home, "POST", "/v1/keys/create", &wish)?;
            let shown = format!(
                "access key  {}\nsecret key  {}\nuser        {}\n{}",
                text(&answer["access_key"]),
                text(&answer["secret_key"]),
                text(&answer["user"]),
                paint(Paint::Dim, "the secret is shown only now")
            );
            Ok(Done::good(answer, shown))
        }
        Key::List => {
            let answer = ask(home, "GET", "/v1/keys", &Value::Null)?;
            let rows: Vec<Vec<String>> = list(&answer)
                .iter()
                .map(|key| ["access_key", "user", "display", "created", "state"].map(|name| text(&key[name])).to_vec())
                .collect();
            Ok(Done::good(answer, table(&["access key", "user", "name", "created", "state"], &rows)))
        }
        Key::Test { .. } => unreachable!("this doesn't ask the store"),
        Key::Revoke { access_key } => {
            let answer = ask(home, "POST", "/v1/keys/revoke", &json!({ "access_key": access_key }))?;
            Ok(Done::good(answer, format!("{access_key} is worth nothing now")))
        }
    }
}

fn policies(answer: &Value) -> String {
    let rows: Vec<Vec<String>> =
        list(answer).iter().map(|row| vec![text(&row["bucket"]), text(&row["code"]), text(&row["from"])]).collect();
    table(&["bucket", "code", "set by"], &rows)
}

fn verified(answer: Value) -> Done {
    let findings = list(&answer["findings"]);
    let mut lines: Vec<String> = findings.iter().map(|finding| paint(Paint::Red, &text(finding))).collect();
    lines.push(format!(
        "{} objects, {} segments, {} pieces, {} read: {}",
        number(&answer["objects"]),
        number(&answer["segments"]),
        number(&answer["pieces"]),
        bytes(number(&answer["bytes"])),
        if findings.is_empty() { paint(Paint::Green, "all good") } else { format!("{} findings", findings.len()) }
    ));
    Done { good: findings.is_empty(), shown: lines.join("\n"), answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_meant_by_folder_or_id() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(meant("3f9a").unwrap(), "3f9a");
        for gone in ["data/d1", "data/d1/"] {
            assert_eq!(meant(gone).unwrap(), here.join("data/d1").display().to_string());
        }
        assert_eq!(meant("src").unwrap(), here.join("src").display().to_string());
    }

    #[test]
    fn env_is_quoted_for_the_shell() {
        assert_eq!(env(&json!({ "A": "it's", "B": "plain" })), "export A='it'\\''s'\nexport B='plain'");
    }

    #[test]
    fn findings_of_a_verify_are_a_failure() {
        let clean = json!({ "objects": 2, "segments": 3, "pieces": 18, "bytes": 5, "findings": [] });
        assert!(verified(clean).good);
        let done = verified(json!({ "objects": 2, "findings": ["photos/a: piece 1 on d1 is missing"] }));
        assert!(!done.good && done.shown.contains("photos/a: piece 1"), "{}", done.shown);
    }
}
