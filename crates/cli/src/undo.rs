//! `abide undo`, `abide purge`, `abide bucket`.

use std::path::Path;

use serde_json::{Value, json};

use crate::args::{Bucket, Command};
use crate::ask::{Done, list, number, planned};
use crate::control::{Error, ask};
use crate::show::{Paint, bytes, duration, paint, table, text};

/// Runs one of these commands.
pub fn run(home: &Path, command: &Command) -> Result<Done, Error> {
    let post = |path: &str, body: Value| ask(home, "POST", path, &body);
    match command {
        Command::Undo { keep: Some(keep), go, .. } => {
            let wish = json!({ "secs": keep.as_secs(), "apply": go.apply, "code": go.code });
            Ok(planned(post("/v1/undo/keep", wish)?, "done"))
        }
        Command::Undo { what: Some(what), name, .. } => post("/v1/undo", json!({ "what": what, "as": name }))
            .map(|answer| Done::good(answer.clone(), undone(&answer))),
        Command::Undo { limit, .. } => {
            let answer = ask(home, "GET", &format!("/v1/undo?limit={limit}"), &Value::Null)?;
            Ok(Done::good(answer.clone(), deleted(&answer)))
        }
        Command::Purge { what, go } => {
            let wish = json!({ "what": what, "apply": go.apply, "code": go.code });
            Ok(planned(post("/v1/purge", wish)?, "done: it can't be had back any more"))
        }
        Command::Bucket(Bucket::Delete { bucket, with_contents, go }) => {
            let wish = json!({ "bucket": bucket, "with_contents": with_contents, "apply": go.apply, "code": go.code });
            Ok(planned(post("/v1/buckets/delete", wish)?, "done"))
        }
        _ => unreachable!("only these come here"),
    }
}

fn undone(answer: &Value) -> String {
    let (bucket, objects, left) = (text(&answer["bucket"]), number(&answer["objects"]), number(&answer["left"]));
    let mut lines = vec![match answer["was_bucket"] == true {
        true => format!("bucket {bucket} is back, with {objects} objects"),
        false => format!("{objects} objects are back in {bucket}"),
    }];
    if left > 0 {
        let more = format!("{left} more versions that were deleted from it can be had back: `abide undo` lists them");
        lines.push(paint(Paint::Dim, &more));
    }
    lines.join("\n")
}

fn deleted(answer: &Value) -> String {
    let kept = duration(number(&answer["keep_secs"]));
    let sum = format!(
        "{} objects, {} were deleted or overwritten and can be had back; what is deleted is kept for {kept}",
        number(&answer["versions"]),
        bytes(number(&answer["bytes"]))
    );
    let items = list(&answer["items"]);
    if items.is_empty() {
        return sum;
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let what = match item["key"].as_str() {
                Some(key) => format!("{}/{key}", text(&item["bucket"])),
                None => format!("{} (bucket, {} objects)", text(&item["bucket"]), number(&item["objects"])),
            };
            vec![text(&item["id"]), what, bytes(number(&item["bytes"])), text(&item["deleted"]), text(&item["until"])]
        })
        .collect();
    format!("{sum}\n{}", table(&["id", "what", "size", "deleted", "can be had back until"], &rows))
}
