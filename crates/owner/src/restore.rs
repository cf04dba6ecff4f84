//! Files of what was found: written beside their place, put there when they are whole, so that a restore that was cut short goes
//! on where it was.

use std::path::{Path, PathBuf};

use base::NodeId;
use client::offline::Offline;
use client::{Fault, ReadStream};
use env::{Env, Open};
use kit::rescue::Recovered;

use crate::names::Names;
use crate::reach::Reach;
use crate::survey::{Keys, Survey, Surveyed};
use crate::{Error, Result, holder};

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Objects that are files now.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, those that were there already.
    pub known: u64,
    /// Objects whose file has another name than their key.
    pub renamed: Vec<(String, PathBuf)>,
    /// Objects that could not be read to their end, and why. What could be read is in a file that ends in `.part`.
    pub failed: Vec<(String, String)>,
    /// Nodes that served bytes that aren't what was stored.
    pub liars: Vec<String>,
}

/// What is restored.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only this bucket.
    pub bucket: Option<String>,
    /// Only keys that begin so.
    pub prefix: String,
    /// What was replaced or deleted as well, into the folder `leftovers`.
    pub leftovers: bool,
}

/// The folder of a volume.
pub fn folder_of(volume: &Surveyed) -> String {
    volume.name.clone().unwrap_or_else(|| format!("volume-{}", volume.id.0))
}

/// Writes what was found to files below `out`: a folder for each volume.
///
/// # Errors
/// If a file can't be written here. What can't be read is in [`Restored::failed`].
pub async fn restore(
    reach: &Reach,
    survey: &Survey,
    out: &Path,
    wanted: &Wanted,
    mut told: impl FnMut(&Restored),
) -> Result<Restored> {
    let mut done = Restored::default();
    let keys = match &survey.keys {
        Keys::Store(root) => client::offline::Keys::from(root.store_keys()),
        Keys::Volume(root) => client::offline::Keys::from(root),
    };
    let offline = Offline::new(reach.env.clone(), keys);
    let mut findings = offline.findings();
    holder::hold(reach, offline.drives());
    for volume in &survey.volumes {
        let name = folder_of(volume);
        if wanted.bucket.as_ref().is_some_and(|bucket| *bucket != name) {
            continue;
        }
        let kinds =
            [(&volume.report.objects, out.join(&name)), (&volume.report.leftovers, out.join("leftovers").join(&name))];
        for (objects, folder) in kinds.into_iter().take(1 + usize::from(wanted.leftovers)) {
            let mut names = Names::default();
            for object in objects.iter().filter(|object| object.path.starts_with(&wanted.prefix)) {
                let path = names.path(&object.path);
                let shown = format!("{name}/{}", object.path);
                if path != Path::new(&object.path) {
                    done.renamed.push((shown.clone(), path.clone()));
                }
                match one(reach, &offline, object, &folder.join(&path)).await {
                    Ok(One { bytes, was_there }) => {
                        (done.objects, done.bytes) = (done.objects + 1, done.bytes + bytes);
                        done.known += u64::from(was_there);
                    }
                    Err(error @ Error::File { .. }) => return Err(error),
                    Err(error) => done.failed.push((shown, error.to_string())),
                }
                told(&done);
            }
        }
    }
    let mut liars = std::collections::BTreeSet::new();
    while let Some(Ok(finding)) = findings.as_mut().map(|findings| findings.try_recv()) {
        if finding.fault == Fault::Damaged {
            liars.extend(finding.drive.map(|drive| NodeId(drive.0).to_string()));
        }
    }
    done.liars = liars.into_iter().collect();
    Ok(done)
}

struct One {
    bytes: u64,
    was_there: bool,
}

async fn one(reach: &Reach, offline: &Offline, object: &Recovered, path: &Path) -> Result<One> {
    let lacks = object.missing.iter().map(|missing| format!("{missing:?}")).collect::<Vec<_>>().join("; ");
    let size = object
        .size
        .unwrap_or_else(|| object.extents.iter().map(|extent| extent.offset + extent.len).max().unwrap_or(0));
    if object.missing.is_empty() && is_there(&reach.env, path, size).await? {
        return Ok(One { bytes: size, was_there: true });
    }
    let file = File::begin(&reach.env, path).await?;
    let end = object.missing.first().map_or(size, first_byte);
    let mut at = 0;
    if end > 0 {
        let mut stream: ReadStream = offline.recovered(object, 0..end)?;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            let len = bytes.len() as u64;
            file.write(bytes, at).await?;
            at += len;
        }
    }
    if !object.missing.is_empty() {
        return Err(Error::Nobody(format!("too little is left of it: {lacks}")));
    }
    file.end().await?;
    Ok(One { bytes: at, was_there: false })
}

/// Where what is whole ends.
fn first_byte(missing: &kit::rescue::Missing) -> u64 {
    use kit::rescue::Missing;
    match missing {
        Missing::Pieces { offset, .. } | Missing::Bytes { offset, .. } | Missing::Tail { offset } => *offset,
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::File { path: path.to_path_buf(), why: error.to_string() }
}

async fn is_there(env: &Env, path: &Path, size: u64) -> Result<bool> {
    let (disk, place) = (env.disk.clone(), path.to_path_buf());
    let look = move || {
        disk.exists(&place) && disk.open(&place, Open::Read).and_then(|file| file.len()).is_ok_and(|len| len == size)
    };
    Ok(env.blocking(look).await.map_err(client::Error::from)?)
}

/// A file that isn't whole yet.
struct File {
    env: Env,
    file: std::sync::Arc<dyn env::File>,
    part: PathBuf,
    path: PathBuf,
}

impl File {
    async fn begin(env: &Env, path: &Path) -> Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let (disk, place, folder) = (env.disk.clone(), part.clone(), path.parent().map(PathBuf::from));
        let make = move || {
            folder.map_or(Ok(()), |folder| disk.create_dir_all(&folder))?;
            let file = disk.open(&place, Open::Create)?;
            file.set_len(0).map(|()| file)
        };
        let file = env.blocking(make).await.map_err(client::Error::from)?.map_err(failed(path))?;
        Ok(Self { env: env.clone(), file, part, path: path.to_path_buf() })
    }

    async fn write(&self, bytes: bytes::Bytes, at: u64) -> Result<()> {
        let file = self.file.clone();
        let wrote = self.env.blocking(move || file.write_at(&bytes, at)).await.map_err(client::Error::from)?;
        wrote.map_err(failed(&self.path))
    }

    async fn end(self) -> Result<()> {
        let disk = self.env.disk.clone();
        let (file, part, path) = (self.file, self.part, self.path.clone());
        let put = move || {
            file.sync_data()?;
            disk.rename(&part, &path)?;
            path.parent().map_or(Ok(()), |folder| disk.sync_dir(folder))
        };
        self.env.blocking(put).await.map_err(client::Error::from)?.map_err(failed(&self.path))
    }
}
