//! The root key's file: readable by its owner alone.

use std::path::{Path, PathBuf};

use base::ClusterId;
use crypt::RootKey;
use env::Disk;

use crate::error::{Error, Result};
use crate::private;

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
    let bytes = private::read(disk, path, BYTES_MAX).map_err(|why| error(path, why))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| error(path, "it is not text"))?;
    RootKey::from_file_text(text).map_err(|failed| error(path, failed.to_string()))
}

/// Writes the key durably, for its owner alone; refuses to replace another key. Blocks.
pub fn write(disk: &dyn Disk, path: &Path, key: &RootKey) -> Result<()> {
    if disk.exists(path) {
        return match read(disk, path)?.check() == key.check() {
            true => Ok(()),
            false => Err(error(path, "it holds the key of another store: choose another name with --key-file")),
        };
    }
    private::write(disk, path, key.file_text().as_bytes()).map_err(|why| error(path, why))
}
