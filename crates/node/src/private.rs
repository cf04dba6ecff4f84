//! Files that only their owner reads, written durably.

use std::path::{Path, PathBuf};

use env::{Disk, Open};
use zeroize::Zeroizing;

/// What went wrong, without the path: the caller knows what file it is.
type Why = String;

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Why {
    move |failed| format!("{what}: {failed}")
}

/// The file's bytes; refuses one that others may read, or of more than `max` bytes. Blocks.
pub(crate) fn read(disk: &dyn Disk, path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, Why> {
    if !disk.is_private(path).map_err(io("look at it"))? {
        return Err(format!("others may read it (its mode is too open): chmod 600 {}", path.display()));
    }
    let file = disk.open(path, Open::Read).map_err(io("open it"))?;
    let len = file.len().map_err(io("read it"))?;
    if len > max {
        return Err(format!("it has {len} bytes, more than such a file can have ({max})"));
    }
    let mut bytes = Zeroizing::new(vec![0; len as usize]);
    file.read_at(&mut bytes, 0).map_err(io("read it"))?;
    Ok(bytes)
}

/// Puts a file in its place, or in that of an older one: whole or not at all, even if the power
/// fails. Makes its folder. Blocks.
pub(crate) fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Why> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    disk.create_dir_all(dir).map_err(io("make its folder"))?;
    let new = half_written(path);
    if disk.exists(&new) {
        disk.remove_file(&new).map_err(io("remove a half-written one"))?;
    }
    let file = disk.open(&new, Open::CreateNew).map_err(io("make it"))?;
    disk.make_private(&new).map_err(io("make it private"))?;
    file.write_at(bytes, 0).map_err(io("write it"))?;
    file.sync_data().map_err(io("sync it"))?;
    disk.rename(&new, path).map_err(io("rename it"))?;
    disk.sync_dir(dir).map_err(io("sync its folder"))
}

/// Removes a file durably; one that isn't there is fine. Blocks.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Why> {
    if disk.exists(path) {
        disk.remove_file(path).map_err(io("remove it"))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(dir).map_err(io("sync its folder"))?;
    }
    Ok(())
}

/// Where a file is until it is whole.
fn half_written(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}
