//! The root key's file: readable by its owner alone.

use std::path::{Path, PathBuf};

use base::ClusterId;
use crypt::RootKey;
use env::{Disk, Open};

use crate::error::{Error, Result};

/// Bytes of a key file at the most.
const BYTES_MAX: u64 = 4096;

/// Where the key of a store is kept if nobody says otherwise.
pub fn default_path(home: &Path, cluster: ClusterId) -> PathBuf {
    home.join(format!("{cluster}.key"))
}

fn error(path: &Path, why: impl Into<String>) -> Error {
    Error::Key { path: path.to_path_buf(), why: why.into() }
}

/// Reads the key. Blocks.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<RootKey> {
    if !disk.exists(path) {
        return Err(error(
            path,
            "it isn't there: name it with --key-file, or restore it from the 24 words with --words",
        ));
    }
    let io = |what: &'static str| move |failed: std::io::Error| error(path, format!("{what}: {failed}"));
    if !disk.is_private(path).map_err(io("look at it"))? {
        return Err(error(path, format!("others may read it (its mode is too open): chmod 600 {}", path.display())));
    }
    let file = disk.open(path, Open::Read).map_err(io("open it"))?;
    let len = file.len().map_err(io("read it"))?;
    if len > BYTES_MAX {
        return Err(error(path, "it is too long to be a key file"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).map_err(io("read it"))?;
    let text = String::from_utf8(bytes).map_err(|_| error(path, "it is not text"))?;
    RootKey::from_file_text(&text).map_err(|failed| error(path, failed.to_string()))
}

/// Writes the key durably, for its owner alone; refuses to replace another key. Blocks.
pub fn write(disk: &dyn Disk, path: &Path, key: &RootKey) -> Result<()> {
    let io = |what: &'static str| move |failed: std::io::Error| error(path, format!("{what}: {failed}"));
    if disk.exists(path) {
        return match read(disk, path)?.check() == key.check() {
            true => Ok(()),
            false => Err(error(path, "it holds the key of another store: choose another name with --key-file")),
        };
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.create_dir_all(dir).map_err(io("make its folder"))?;
    let new = path.with_extension("key.new");
    if disk.exists(&new) {
        disk.remove_file(&new).map_err(io("remove a half-written one"))?;
    }
    let file = disk.open(&new, Open::CreateNew).map_err(io("make it"))?;
    disk.make_private(&new).map_err(io("make it private"))?;
    file.write_at(key.file_text().as_bytes(), 0).map_err(io("write it"))?;
    file.sync_data().map_err(io("sync it"))?;
    disk.rename(&new, path).map_err(io("rename it"))?;
    disk.sync_dir(dir).map_err(io("sync its folder"))
}
