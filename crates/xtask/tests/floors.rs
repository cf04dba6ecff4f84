//! A crate imports only lower floors; its clippy fence stands where its floor says.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

struct Crate {
    name: String,
    floor: u8,
    dir: PathBuf,
    imports: Vec<String>,
}

fn crates() -> Vec<Crate> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir(home).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(toml) = fs::read_to_string(dir.join("Cargo.toml")) else { continue };
        let (mut section, mut floor, mut imports) = ("", None, Vec::new());
        for line in toml.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            } else if let Some(number) = line.strip_prefix("floor = ") {
                floor = number.parse().ok();
            } else if section == "[dependencies]" && line.contains("workspace") {
                imports.push(line.split(['.', ' ', '=']).next().unwrap().to_owned());
            }
        }
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let floor = floor.unwrap_or_else(|| panic!("{name} states no floor"));
        found.push(Crate { name, floor, dir, imports });
    }
    assert!(found.len() > 10, "the crates were not found");
    found
}

#[test]
fn imports_point_down() {
    let crates = crates();
    let floors: BTreeMap<&str, u8> = crates.iter().map(|one| (one.name.as_str(), one.floor)).collect();
    let mut up = Vec::new();
    for one in &crates {
        for import in &one.imports {
            if let Some(floor) = floors.get(import.as_str())
                && *floor >= one.floor
            {
                up.push(format!("{} (floor {}) imports {import} (floor {floor})", one.name, one.floor));
            }
        }
    }
    assert!(up.is_empty(), "imports that point up or sideways:\n  {}", up.join("\n  "));
}

#[test]
fn every_crate_below_the_top_has_a_fence() {
    for one in crates().iter().filter(|one| one.floor < 7) {
        let fence = fs::read_to_string(one.dir.join("clippy.toml"))
            .unwrap_or_else(|_| panic!("{} has no clippy.toml: copy the one of a crate on its floor", one.name));
        for banned in ["std::time::Instant::now", "std::thread::spawn", "std::fs::File::open"] {
            assert!(fence.contains(banned), "{}'s fence lets {banned} through", one.name);
        }
    }
}

#[test]
fn packages_are_named_as_their_folders() {
    for one in crates() {
        let toml = fs::read_to_string(one.dir.join("Cargo.toml")).unwrap();
        assert!(toml.contains(&format!("name = \"{}\"", one.name)), "{}", one.dir.display());
    }
}
