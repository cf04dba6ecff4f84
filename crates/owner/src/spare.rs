//! Reading a volume whose metadata nobody leads: by its kit, from nodes alone.
//!
//! Who asks for rows and gets no answer within [`AFTER`] turns to the newest kit that can be had, this machine's or a node's. Nothing is
//! written then. Now and then it is asked again whether somebody leads, and all is as ever once somebody does.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Instant, Kind, Kinded, NodeId, VolumeId, Wall};
use client::guest::Wish;
use client::offline::{Keys, Offline, node_drive};
use client::{Folder, ReadStream};
use codec::Versioned;
use crypt::VolumeRoot;
use kit::spread::{Label, newest_first};
use kit::{Object, State};
use namespace::wire::Query;

use crate::holder::AnyOf;
use crate::kits::Shelf;
use crate::volume::{Faced, Volume};
use crate::{Error, Result, holder, survey};

/// How long a question about rows may stay without an answer.
pub(crate) const AFTER: Duration = Duration::from_secs(10);
/// How soon it is asked again whether somebody leads, and how long that may take.
const AGAIN: Duration = Duration::from_secs(10);
const PROBE_MAX: Duration = Duration::from_secs(1);

/// What is read by.
pub(crate) struct Spare {
    number: VolumeId,
    state: State,
    offline: Offline,
    /// Whose keys seal what is in it: the volume's, or those that it had when the kit was made, or a grant's.
    pub folder: Arc<Folder>,
    /// What rows call that folder: empty but for a grant's.
    prefix: String,
}

/// What a volume's reader turns to.
#[derive(Default)]
pub(crate) struct Spares {
    /// Where this machine's kits are.
    kits: Mutex<Option<PathBuf>>,
    /// What is read by, and when it was asked last whether somebody leads: never, if it is to be read by this one.
    now: Mutex<Option<(Arc<Spare>, Option<Instant>)>>,
    /// Looked for by one for all that wait.
    turning: futures_util::lock::Mutex<()>,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file or a folder as the kit has it: its sealed name, and what is known of a file.
pub(crate) enum Shown<'a> {
    File(String, &'a Object),
    Folder(String),
}

impl Spare {
    /// What is in a folder of this true path.
    pub fn list(&self, folder: &str) -> Result<Vec<Shown<'_>>> {
        let prefix = self.sealed(folder)?;
        let (mut all, mut folders) = (Vec::new(), BTreeSet::new());
        for (path, object) in self.state.list(&prefix) {
            let name = &path[prefix.len()..];
            match name.split_once('/') {
                None => all.push(Shown::File(name.to_owned(), object)),
                Some((folder, _)) if folders.insert(folder) => all.push(Shown::Folder(folder.to_owned())),
                Some(_) => {}
            }
        }
        Ok(all)
    }

    fn sealed(&self, path: &str) -> Result<String> {
        Ok(format!("{}{}", self.prefix, self.folder.key().seal_path(path).map_err(client::Error::from)?))
    }

    /// An object of this true path.
    pub fn object(&self, path: &str) -> Result<&Object> {
        let key = self.sealed(path)?;
        Ok(self.state.get(&key).ok_or(client::Error::Namespace(namespace::Error::NoSuchKey))?)
    }

    /// Bytes of an object; `path` is its true one.
    pub fn read(&self, path: &str, object: &Object, range: Range<u64>) -> Result<ReadStream> {
        Ok(self.offline.object(self.number, &self.state, path, object, range)?)
    }
}

/// What the kit has of an object, beside its bytes.
pub(crate) fn outer_in_kit(object: &Object) -> Result<Faced> {
    match object.attrs.is_empty() {
        true => Ok(Faced::default()),
        false => Ok(Faced::decode(&object.attrs).map_err(client::Error::from)?),
    }
}

impl Volume {
    /// Kits in this folder of this machine are read by as well, if nobody leads the volume's metadata.
    pub fn set_kits(&self, folder: &Path) {
        *lock(&self.spares.kits) = Some(folder.to_path_buf());
    }

    /// From now on all is read by this kit, whoever leads: as of when it was made. What was deleted since may be gone. Only the owner can.
    pub fn read_by(&self, kit: &kit::Log) {
        let owner = kit.public();
        if let Some(root) = self.roots().find(|root| root.signing_key().public() == owner) {
            *lock(&self.spares.now) = Some((self.spare_of(Some(root), kit.state().clone()), None));
        }
    }

    /// Of when the kit is that is read by since nobody leads the volume's metadata; nothing while all is well.
    pub fn read_by_kit(&self) -> Option<Wall> {
        lock(&self.spares.now).as_ref().map(|(spare, _)| spare.state.position().at)
    }

    /// Succeeds if somebody leads the volume's metadata: what is written then may be acknowledged.
    ///
    /// # Errors
    /// Of kind `Busy` if nobody does.
    pub async fn check_led(&self) -> Result<()> {
        match self.directors.ask(Wish::Fetch(Query::Versioning)).await {
            Err(error) if error.kind().is_transient() => Err(Error::Client(client::Error::Metadata {
                kind: Kind::Busy { retry_after: AFTER },
                text: format!(
                    "nobody leads the volume's metadata now ({error}): it can be read by its kit, and writes wait until the nodes that are away are back; nothing was changed"
                ),
            })),
            other => Ok(other.map(drop)?),
        }
    }

    /// Asks for rows, or turns to the kit.
    pub(crate) async fn rows_or_kit<T>(
        &self,
        led: impl Future<Output = Result<T>>,
        by_kit: impl FnOnce(&Spare) -> Result<T>,
    ) -> Result<T> {
        if let Some(spare) = self.spare().await {
            return by_kit(&spare);
        }
        match led.await {
            Err(error) if error.kind().is_transient() => match self.turn().await {
                Some(spare) => by_kit(&spare),
                None => Err(error),
            },
            other => other,
        }
    }

    /// What is read by now.
    async fn spare(&self) -> Option<Arc<Spare>> {
        let is_due = {
            let mut now = lock(&self.spares.now);
            let at = self.env.clock.now();
            match &mut now.as_mut()?.1 {
                Some(asked) if at.since(*asked) >= AGAIN => {
                    *asked = at;
                    true
                }
                _ => false,
            }
        };
        if is_due {
            let asked = self.env.timeout(PROBE_MAX, self.directors.ask(Wish::Fetch(Query::Versioning))).await;
            if asked.is_some_and(|answer| answer.is_ok()) {
                *lock(&self.spares.now) = None;
            }
        }
        lock(&self.spares.now).as_ref().map(|(spare, _)| spare.clone())
    }

    /// Finds the newest kit; nothing if there is none. Who has a grant has but the one on this machine: nodes' copies only the root opens.
    async fn turn(&self) -> Option<Arc<Spare>> {
        let _one = self.spares.turning.lock().await;
        if let Some((spare, _)) = &*lock(&self.spares.now) {
            return Some(spare.clone());
        }
        let spare = match &self.root {
            Some(root) => {
                let (root, state) = self.newest(root).await?;
                self.spare_of(Some(root), state)
            }
            None => self.spare_of(None, self.own_kit(&self.folder.key().guest_root()).await?.state().clone()),
        };
        *lock(&self.spares.now) = Some((spare.clone(), Some(self.env.clock.now())));
        Some(spare)
    }

    /// `root`: of the owner.
    fn spare_of(&self, root: Option<&VolumeRoot>, state: State) -> Arc<Spare> {
        let folder = root.map_or_else(|| self.folder.clone(), |root| Arc::new(Folder::of_root(root)));
        let offline = Offline::new(self.env.clone(), Keys::Folder(folder.clone()));
        match root {
            Some(_) => holder::hold(&self.reach, offline.drives()),
            None => {
                for node in self.reach.nodes().keys() {
                    let drives = state.drives_of(*node).filter_map(|drive| self.client.drives().get(drive));
                    offline.drives().set(node_drive(*node), Arc::new(AnyOf(drives.collect())));
                }
            }
        }
        Arc::new(Spare { number: self.about().number, state, offline, folder, prefix: self.prefix.clone() })
    }

    /// The kit on this machine.
    async fn own_kit(&self, root: &VolumeRoot) -> Option<kit::Log> {
        let folder = lock(&self.spares.kits).clone()?;
        let shelf = Shelf::new(&self.env, &folder, &root.signing_key().public());
        shelf.open(root).await.ok().flatten().map(|(_, log)| log)
    }

    /// The newest kit by the volume's keys; if there is none yet, by those that they replaced.
    async fn newest<'a>(&'a self, root: &'a VolumeRoot) -> Option<(&'a VolumeRoot, State)> {
        let labels = survey::labels(&self.reach, &mut Vec::new()).await;
        for root in std::iter::once(root).chain(self.older.iter().map(|older| &older.root)) {
            if let Some(state) = self.newest_of(root, &labels).await {
                return Some((root, state));
            }
        }
        None
    }

    async fn newest_of(&self, root: &VolumeRoot, labels: &[(Label, NodeId)]) -> Option<State> {
        let own = self.own_kit(root).await;
        let (found, bad) = survey::newest_kit(&self.reach, root, labels).await;
        for (node, why) in bad {
            tracing::warn!(%node, why, "a node's copy of the kit can't be read by");
        }
        let newest = match (own, found) {
            (Some(own), Some(found)) => {
                let mut both = [Label::of(&own), Label::of(&found)];
                newest_first(&mut both);
                if both[0] == Label::of(&own) { own } else { found }
            }
            (own, found) => own.or(found)?,
        };
        Some(newest.state().clone())
    }
}
