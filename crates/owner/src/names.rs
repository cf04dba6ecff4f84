//! Files' paths for objects' keys: what a key says must never lead out of the folder, nor hide another file.
//!
//! A key's parts become folders and a file. A part that no file system takes as it is (empty, `.`, `..`, with a zero, longer than 255 bytes) is
//! written with `%`, as in RFC 3986: `..` is `%2E%2E`. A part that has a `%` of its own keeps it.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Bytes of a file's name at the most, on all usual file systems.
const NAME_MAX: usize = 255;

fn part(name: &str) -> String {
    let escape = |name: &str| name.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    match name {
        "" => "%".into(),
        "." | ".." => escape(name),
        _ => {
            let name = name.replace('\0', "%00");
            match name.len() > NAME_MAX {
                false => name,
                true => {
                    let hash = base::ids::hex(&crypt::hash(name.as_bytes())[..8]);
                    let cut = (0..=NAME_MAX - 17).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
                    format!("{}%{hash}", &name[..cut])
                }
            }
        }
    }
}

/// Gives each key a path of its own.
#[derive(Debug, Default)]
pub struct Names {
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

impl Names {
    /// Where the object of this key goes, below the folder of its volume. A key that ends in `/` names a folder; its bytes, if it has
    /// some, go into a file `%` in there. Of two keys that would be one file the later gets `%` at its end.
    pub fn path(&mut self, key: &str) -> PathBuf {
        let mut path: PathBuf = key.split('/').map(part).collect();
        let is_taken = |path: &PathBuf, this: &Self| {
            this.files.contains(path)
                || this.folders.contains(path)
                || path.ancestors().skip(1).any(|above| this.files.contains(above))
        };
        while is_taken(&path, self) {
            // A file where this one needs a folder: the whole way beside it.
            let blocked = path.ancestors().skip(1).find(|above| self.files.contains(*above)).map(PathBuf::from);
            path = match blocked {
                Some(above) => {
                    let rest = path.strip_prefix(&above).map(PathBuf::from).unwrap_or_default();
                    with_mark(above).join(rest)
                }
                None => with_mark(path),
            };
        }
        self.folders.extend(path.ancestors().skip(1).map(PathBuf::from).filter(|above| !above.as_os_str().is_empty()));
        self.files.insert(path.clone());
        path
    }
}

fn with_mark(path: PathBuf) -> PathBuf {
    let mut name = path.into_os_string();
    name.push("%");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use super::*;

    #[test]
    fn no_key_leads_out_of_its_folder_or_over_another_file() {
        let mut names = Names::default();
        let long = "x".repeat(1000);
        let keys = [
            "a",
            "a/b",
            "a/b/c",
            "/etc/passwd",
            "../../up",
            "a/../b",
            "./x",
            "a//b",
            "a/",
            "z\0z",
            "%2E%2E",
            "..",
            "b/c",
            "b",
            "é/ü",
            &long,
        ];
        let mut seen = BTreeSet::new();
        for key in keys {
            let path = names.path(key);
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{key}: {path:?}");
            assert!(path.iter().all(|part| part.len() <= NAME_MAX + 1), "{path:?}");
            assert!(seen.insert(path.clone()), "{key} goes where another one is: {path:?}");
            let hidden = |other: &PathBuf| other != &path && (other.starts_with(&path) || path.starts_with(other));
            assert!(!seen.iter().any(hidden), "{key}: {path:?} among {seen:?}");
        }
        let mut names = Names::default();
        assert_eq!(names.path("photos/2026/a.jpg"), Path::new("photos/2026/a.jpg"), "usual keys stay as they are");
    }
}
