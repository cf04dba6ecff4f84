//! A drive's identity file: which store the folder belongs to, which drive of it this is, and what
//! it remembers of where the metadata is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{ClusterId, DriveId, Kind, Wall};
use codec::{Reader, Versioned, Writer};
use env::{Disk, File, Open};
use metastore::MemberSet;

use crate::error::{Error, Result};

/// The identity file's name.
pub const FILE: &str = "abide-drive";
/// The lock file's name.
const LOCK: &str = "lock";
/// A file larger than this is none of ours.
const BYTES_MAX: u64 = 64 * 1024;

/// What the identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store.
    pub cluster: ClusterId,
    /// This drive of it.
    pub drive: DriveId,
    /// When it was made.
    pub created: Wall,
    /// The public check value of the store's root key.
    pub key_check: [u8; 16],
    /// Whether the store that it belongs to was made completely.
    pub ready: bool,
    /// What this drive knows of where each shard's metadata is.
    pub members: Vec<MemberSet>,
}

impl Versioned for Identity {
    const NAME: &'static str = "drive identity";
    const MARK: [u8; 4] = *b"AbDr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let mut body = Writer::new();
        body.raw(&self.cluster.0).raw(&self.drive.0).u64(self.created.0).raw(&self.key_check).u8(self.ready.into());
        body.u8(self.members.len() as u8);
        for set in &self.members {
            body.bytes(&set.encode());
        }
        let body = body.finish();
        to.bytes(&body).u64(codec::crc64(&body));
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        let body = from.bytes("drive identity", BYTES_MAX as usize)?;
        if from.u64("checksum")? != codec::crc64(body) {
            return Err(codec::Error::Checksum { what: "drive identity" });
        }
        let mut from = Reader::new(body);
        let cluster = ClusterId(from.array("cluster")?);
        let drive = DriveId(from.array("drive")?);
        let created = Wall(from.u64("created")?);
        let key_check = from.array("key check")?;
        let ready = from.u8("ready")? == 1;
        let mut members = Vec::new();
        for _ in 0..from.u8("member sets")? {
            members.push(MemberSet::decode(from.bytes("member set", 4096)?)?);
        }
        Ok(Self { cluster, drive, created, key_check, ready, members })
    }
}

/// What a folder is.
pub enum Folder {
    /// Missing or empty.
    Empty,
    /// A drive of some store.
    Drive(Box<Identity>),
    /// Something else is in it.
    Foreign(String),
    /// A drive whose identity can't be read.
    Damaged(String),
    /// Nothing but what drives of a store have beside their identity: one was removed under a process that wrote to it.
    Leftover(String),
}

/// Looks at a folder; changes nothing. Blocks.
pub fn look(disk: &dyn Disk, path: &Path) -> Result<Folder> {
    if !disk.exists(path) {
        return Ok(Folder::Empty);
    }
    let entries = disk.read_dir(path).map_err(Error::io(format!("read {}", path.display())))?;
    if entries.iter().any(|entry| entry.name == FILE) {
        return Ok(match read(disk, path) {
            Ok(identity) => Folder::Drive(Box::new(identity)),
            // The drive's trouble, which may pass.
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(error) => Folder::Damaged(error.to_string()),
        });
    }
    // `lost+found` is what a fresh file system has; a lock or a half-written identity alone are what
    // a first start leaves that was cut short.
    let ours = |name: &str| name == "lost+found" || name == LOCK || name == format!("{FILE}.new");
    let left = |name: &str| ["pieces", "meta", "kits"].contains(&name);
    match entries.iter().find(|entry| !ours(&entry.name)) {
        None => Ok(Folder::Empty),
        Some(entry) if entries.iter().all(|entry| ours(&entry.name) || left(&entry.name)) => {
            Ok(Folder::Leftover(entry.name.clone()))
        }
        Some(entry) => Ok(Folder::Foreign(entry.name.clone())),
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Identity> {
    let name = path.join(FILE);
    let io = |what: &str| Error::io(format!("{what} {}", name.display()));
    let file = disk.open(&name, Open::Read).map_err(io("open"))?;
    let len = file.len().map_err(io("read"))?;
    if len > BYTES_MAX {
        return Err(damaged(path, "it is too long"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).map_err(io("read"))?;
    Identity::decode(&bytes).map_err(|error| damaged(path, &error.to_string()))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Folder {
        path: path.to_path_buf(),
        why: format!(
            "its identity file {FILE} can't be read ({why}); leave this folder out, what it held is rebuilt from the others"
        ),
        kind: Kind::Damaged,
    }
}

/// Writes the identity durably, in the place of an older one. Blocks.
pub fn write(disk: &dyn Disk, path: &Path, identity: &Identity) -> Result<()> {
    let io = |what: &str| Error::io(format!("{what} in {}", path.display()));
    let new = path.join(format!("{FILE}.new"));
    let file = disk.open(&new, Open::Create).map_err(io("make the identity file"))?;
    let bytes = identity.encode();
    file.set_len(0).map_err(io("write the identity file"))?;
    file.write_at(&bytes, 0).map_err(io("write the identity file"))?;
    file.sync_data().map_err(io("sync the identity file"))?;
    disk.rename(&new, &path.join(FILE)).map_err(io("rename the identity file"))?;
    disk.sync_dir(path).map_err(io("sync the folder"))
}

/// The lock that says that a process has the drive open. Held as long as it lives.
pub struct Lock {
    file: Arc<dyn File>,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock; an error that names the folder if another process has it. Blocks.
    pub fn take(disk: &dyn Disk, path: &Path) -> Result<Lock> {
        let name = path.join(LOCK);
        let io = |what: &str| Error::io(format!("{what} {}", name.display()));
        let file = disk.open(&name, Open::Create).map_err(io("open"))?;
        disk.sync_dir(path).map_err(io("sync the folder of"))?;
        if !file.try_lock().map_err(io("lock"))? {
            return Err(Error::Folder {
                path: path.to_path_buf(),
                why: "another abide has it open; it is locked: stop that one first".into(),
                kind: Kind::Conflict,
            });
        }
        Ok(Lock { file, path: name })
    }

    /// Whether the folder was deleted, and not only moved or unmounted.
    pub fn is_deleted(&self) -> bool {
        self.file.is_deleted()
    }

    /// Whether the folder is still the one that was locked: false once it was removed or replaced.
    pub fn is_there(&self) -> bool {
        self.file.is_at(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_and_a_torn_one_is_noticed() {
        let set = MemberSet { shard: 1, generation: 2, epoch: base::Epoch(3), drives: vec![DriveId([4; 16])] };
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            drive: DriveId([2; 16]),
            created: Wall(5),
            key_check: [3; 16],
            ready: true,
            members: vec![set],
        };
        let bytes = identity.encode();
        assert_eq!(Identity::decode(&bytes).unwrap(), identity);
        for cut in 0..bytes.len() {
            assert!(Identity::decode(&bytes[..cut]).is_err());
        }
        for at in 5..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 4;
            assert!(Identity::decode(&wrong).is_err(), "byte {at}");
        }
    }
}
