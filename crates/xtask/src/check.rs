//! The gate: what must hold of every commit. Reads only.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::run::{cargo, root, step};

/// Licences that may ship (no copyleft but MPL's, which stays within its files).
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "OpenSSL",
    "CC0-1.0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "BSL-1.0",
];

/// Formatting, lints, licences, floors.
pub fn all() -> Result<(), String> {
    if has("fmt", "rustfmt") {
        step("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
    }
    licences()?;
    if has("clippy", "clippy") {
        step("lints", &mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    }
    step("floors", &mut cargo(&["test", "--quiet", "-p", "xtask"]))
}

/// Whether a part of the Rust toolchain is there; a minimal one lacks some.
fn has(command: &str, component: &str) -> bool {
    let found = cargo(&[command, "--version"]).output().is_ok_and(|output| output.status.success());
    if !found {
        println!("\n== {component} isn't installed, so it is not run: `rustup component add {component}`");
    }
    found
}

/// Whether an SPDX expression of `AND`, `OR` and parentheses can be met by the list above.
fn permitted(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let groups = expression.replace(['(', ')'], "");
    // "A AND B" needs both; "A OR B" one. Without nesting deeper than one level, which no crate
    // in the tree uses, every OR-group of the ANDs must hold a permitted name.
    groups.split(" AND ").all(|group| group.split(" OR ").any(|name| LICENCES.contains(&name.trim())))
}

fn licences() -> Result<(), String> {
    println!("\n== licences");
    let output = cargo(&["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let tree: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let mut bad = BTreeSet::new();
    for package in tree["packages"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let licence = package["license"].as_str().unwrap_or("none");
        if !permitted(licence) {
            bad.insert(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    if bad.is_empty() {
        Ok(())
    } else {
        Err(format!("these licences may not ship:\n  {}", bad.into_iter().collect::<Vec<_>>().join("\n  ")))
    }
}

#[cfg(test)]
mod tests {
    use super::permitted;

    #[test]
    fn copyleft_is_refused_and_a_choice_is_taken() {
        assert!(permitted("MIT OR Apache-2.0"));
        assert!(permitted("MIT/Apache-2.0"));
        assert!(permitted("ISC AND (Apache-2.0 OR ISC)"));
        assert!(permitted("GPL-3.0 OR MIT"));
        assert!(!permitted("GPL-3.0"));
        assert!(!permitted("MIT AND GPL-3.0"));
        assert!(!permitted("none"));
    }
}
