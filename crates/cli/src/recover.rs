//! `abide recover`: founds the metadata anew on a survivor, with no store running.

use std::path::Path;

use env::Env;
use node::{Recovery, Settings};

use crate::absolute;
use crate::args::Recover;
use crate::ask::Done;
use crate::show::{Paint, paint};

/// Shows what it would come to; with the code does it.
pub fn run(home: &Path, what: &Recover) -> Result<Done, String> {
    let drives = what.drives.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start threads: {error}"))?;
    let settings = Settings::new(drives, home.to_path_buf());
    let done = runtime.block_on(async { node::recover(Env::real(), settings, what.code.as_deref()).await });
    let recovery = done.map_err(|error| error.to_string())?;
    let answer = serde_json::to_value(&recovery).map_err(|error| error.to_string())?;
    Ok(Done { answer, shown: shown(&recovery), good: recovery.refused.is_empty() })
}

fn shown(recovery: &Recovery) -> String {
    let mut lines = recovery.found.clone();
    lines.push(String::new());
    lines.extend(recovery.refused.iter().map(|why| paint(Paint::Red, &format!("refused: {why}"))));
    if !recovery.refused.is_empty() {
        lines.push(paint(Paint::Dim, "nothing was changed"));
    }
    if let Some(code) = &recovery.code {
        lines.push(paint(
            Paint::Yellow,
            "This can't be taken back. Do it only if the nodes above that don't answer are lost for good: one that comes back",
        ));
        lines.push(paint(Paint::Yellow, "keeps nothing of what only it has, and joins anew."));
        lines.push(paint(Paint::Dim, &format!("nothing was changed; add --code {code} to do it")));
    }
    if recovery.is_done {
        lines.push(paint(Paint::Green, "done: this node alone keeps the metadata now"));
        lines.push(
            "next: `abide up` here as before, then `abide status`; shut the lost nodes out with `abide node expunge NAME`, and let new ones join (`abide invite`; without the root key here: `abide up --words` first)"
                .into(),
        );
    }
    lines.join("\n")
}
