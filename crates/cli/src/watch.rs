//! `abide watch`: a line for each change of an end-to-end volume, as it happens.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use base::Kinded;
use owner::watch::{Change, What};
use serde_json::json;

use crate::args::Watching;
use crate::show::bytes;
use crate::volumes::{kind_of, open, place, runtime, way};

/// How long a question may wait for a change; then it is asked again.
const WAIT: Duration = Duration::from_secs(60);
/// Between two attempts while nobody answers.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints changes until it is interrupted, or nobody reads them any more.
pub fn run(home: &Path, json: bool, what: &Watching) -> Result<(), String> {
    let (name, path) =
        place(what.place.as_deref().unwrap_or(":")).ok_or("a place is VOLUME:PATH, or :PATH with --grant FILE")?;
    let way = way(name, what.grant.as_deref())?;
    runtime()?.block_on(async {
        let volume = open(home, way, &what.from).await?;
        let path = kind_of(&volume, path)
            .await
            .map_err(|why| format!("{why}; a folder that isn't there yet is watched as {path}/"))?;
        let failed = |error: owner::Error| error.to_string();
        let since = match what.since {
            Some(position) => position,
            None => volume.position().await.map_err(failed)?,
        };
        eprintln!("watching {}:/{path} from position {since}; Ctrl-C ends it", volume.name());
        let mut watch = volume.watch(&path, since).map_err(failed)?;
        let mut is_silent = false;
        loop {
            match watch.next(WAIT).await {
                Ok(change) => {
                    if std::mem::take(&mut is_silent) {
                        eprintln!("the nodes answer again: nothing was missed");
                    }
                    if let Some(change) = change
                        && writeln!(std::io::stdout(), "{}", line(&change, json)).is_err()
                    {
                        return Ok(());
                    }
                }
                // Who leads next goes on from the same position.
                Err(error) if error.kind().is_transient() => {
                    if !std::mem::replace(&mut is_silent, true) {
                        eprintln!(
                            "nobody tells what changes now ({error}): asking on from position {}",
                            watch.position()
                        );
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    })
}

fn line(change: &Change, json: bool) -> String {
    let Change { position, at, path, what } = change;
    let word = match what {
        What::Put { .. } => "put",
        What::Deleted => "deleted",
        What::Attributes => "attributes",
    };
    if json {
        let mut line = json!({ "position": position, "at": at.rfc3339(), "change": word, "path": path });
        if let What::Put { size, tag } = what {
            (line["bytes"], line["tag"]) = (json!(size), json!(tag));
        }
        return line.to_string();
    }
    let size = match what {
        What::Put { size, .. } => bytes(*size),
        _ => String::new(),
    };
    // A name may hold anything: one line stays one line.
    format!("{position:>8}  {}  {word:<10}  {size:>9}  {}", at.rfc3339(), path.escape_debug())
}

#[cfg(test)]
mod tests {
    use base::Wall;

    use super::*;

    #[test]
    fn a_change_is_one_line_whatever_its_name_holds() {
        let what = What::Put { size: 1500, tag: "t".into() };
        let change = Change { position: 7, at: Wall(0), path: "a\nb \u{1b}[31m/ü".into(), what };
        let text = line(&change, false);
        assert!(
            !text.contains('\n') && !text.contains('\u{1b}') && text.contains("1.5 kB") && text.ends_with('ü'),
            "{text}"
        );
        let back: serde_json::Value = serde_json::from_str(&line(&change, true)).unwrap();
        assert_eq!((&back["path"], &back["bytes"], &back["position"]), (&json!(change.path), &json!(1500), &json!(7)));
        let gone = Change { what: What::Deleted, ..change };
        assert!(line(&gone, true).lines().count() == 1 && !line(&gone, true).contains("bytes"));
    }
}
