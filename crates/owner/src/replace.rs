//! Other keys for a volume: a device was lost that had them, or the words were seen.
//!
//! 1. From the moment that directors know the new public key nobody who has the old one is answered: no read, no write, no kit.
//! 2. Contents stay as they are. What rows call objects, and how they wrap keys of contents, is made anew: each object is given its new
//!    name in one step, with its time and tag ([`namespace::Command::Rename`]), so a crash leaves each under one name or the other. Whoever opens
//!    the volume next goes on, before anything else is done with it.
//! 3. The new root leads to those before it, sealed, in the catalog and in the kit: what pieces' headers say is sealed under the root of
//!    their time for ever, and a rescue needs it.
//! 4. Copies of the old keys' kit stay until the new one is with its holders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{Kinded, NodeId};
use client::guest::{Answer, Right, Wish};
use client::{Access, Folder};
use crypt::VolumeRoot;
use futures_util::StreamExt;
use futures_util::stream;
use kit::spread::Label;
use namespace::read::{Entry, Found, ListQuery};
use namespace::{Command, Condition};

use crate::directors::about_of;
use crate::reach::Reach;
use crate::volume::{SEALED_ATTRS, Volume};
use crate::{Result, survey};

/// Names of a listing at a time.
const PAGE: usize = 1000;
/// Objects that are given their names at a time.
const AT_ONCE: usize = 16;

/// A root that was replaced, and what it opens.
pub(crate) struct Older {
    pub root: VolumeRoot,
    pub folder: Arc<Folder>,
}

impl Older {
    pub fn new(root: VolumeRoot) -> Self {
        Self { folder: Arc::new(Folder::of_root(&root)), root }
    }
}

/// Whether rows may still be called by older keys.
pub(crate) struct Settled {
    is: AtomicBool,
    /// Whether directors were told.
    told: AtomicBool,
    /// Done by one for all that wait.
    doing: futures_util::lock::Mutex<()>,
}

impl Settled {
    pub fn new(is: bool) -> Self {
        Self { is: AtomicBool::new(is), told: AtomicBool::new(is), doing: Default::default() }
    }
}

impl Volume {
    /// Whether all objects are called by the keys that the volume has now, as far as is known.
    pub fn is_settled(&self) -> bool {
        self.settled.is.load(Ordering::Acquire)
    }

    /// Gives all objects that are still called by older keys their names by the new ones; `told` is told how many have theirs. Whatever is done with
    /// a volume does this first, so it need not be called; it tells how far it is. Gives how many there were.
    ///
    /// # Errors
    /// If nobody leads the volume's metadata. What has its new name keeps it.
    pub async fn settle(&self, mut told: impl FnMut(u64)) -> Result<u64> {
        let _one = self.settled.doing.lock().await;
        if self.is_settled() || self.root.is_none() {
            return Ok(0);
        }
        let mut renamed = 0;
        for older in &self.older {
            self.rename_all(older, &mut |_| {
                renamed += 1;
                told(renamed);
            })
            .await?;
        }
        self.settled.is.store(true, Ordering::Release);
        Ok(renamed)
    }

    /// Before rows are read or written.
    pub(crate) async fn be_settled(&self) -> Result<()> {
        match self.is_settled() {
            true => Ok(()),
            false => self.settle(|_| ()).await.map(drop),
        }
    }

    /// Somebody who hadn't heard of the new keys yet wrote something in the second in which they came. Whether it was so.
    pub(crate) fn unsettle_for(&self, key: &str) -> bool {
        let (top, _) = key.split_once('/').unwrap_or((key, ""));
        let is_new = self.folder.key().open_name(top).is_ok();
        let is_older = !is_new && self.older.iter().any(|older| older.folder.key().open_name(top).is_ok());
        if is_older {
            self.settled.is.store(false, Ordering::Release);
        }
        is_older
    }

    /// Says that no row is called by older keys any more and that the kit of the new ones is with all its holders.
    pub(crate) async fn tell_settled(&self) -> Result<()> {
        if !self.is_settled() || self.settled.told.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Answer::About(about) = self.directors.ask(Wish::Settled).await? {
            self.settled.told.store(about.settled, Ordering::Release);
        }
        Ok(())
    }

    async fn rename_all(&self, older: &Older, told: &mut impl FnMut(&str)) -> Result<()> {
        // Names of one folder are sealed by one key: a look at the topmost ones says which folders are done.
        let mut query = ListQuery { delimiter: "/".into(), limit: PAGE, ..ListQuery::default() };
        let mut tops = Vec::new();
        loop {
            let page = self.client.list(&self.bucket, &query).await?;
            for entry in page.entries {
                let key = match entry {
                    Entry::Item(object) => object.key,
                    Entry::Prefix(prefix) => prefix,
                };
                let is_older = older.folder.key().open_name(key.trim_end_matches('/')).is_ok();
                if is_older {
                    tops.push(key);
                }
            }
            match page.next {
                Some(next) => query.after = Some(next.after),
                None => break,
            }
        }
        for top in tops {
            if !top.ends_with('/') {
                self.rename(older, &top).await?;
                told(&top);
                continue;
            }
            let mut query = ListQuery { prefix: top, limit: PAGE, ..ListQuery::default() };
            loop {
                let page = self.client.list(&self.bucket, &query).await?;
                let keys = page.entries.into_iter().filter_map(|entry| match entry {
                    Entry::Item(object) => Some(object.key),
                    Entry::Prefix(_) => None,
                });
                let renamed = keys.map(async |key| self.rename(older, &key).await.map(|()| key));
                let mut renamed = stream::iter(renamed).buffer_unordered(AT_ONCE);
                while let Some(key) = renamed.next().await {
                    told(&key?);
                }
                match page.next {
                    Some(next) => query.after = Some(next.after),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// One object. That it is gone, or was named by another client, is as good.
    async fn rename(&self, older: &Older, key: &str) -> Result<()> {
        let Ok(path) = older.folder.key().open_path(key) else {
            tracing::warn!("a name that the volume's keys don't open stays as it is");
            return Ok(());
        };
        let version = match self.client.head(&self.bucket, key, None, true).await {
            Ok(Found::Object(version)) => version,
            Ok(Found::Marker(_)) => return Ok(()),
            Err(error) if error.kind() == base::Kind::Missing => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let before = Access::File { folder: older.folder.clone(), path: path.clone() };
        let body = match self.client.rewrapped(&self.bucket, &version, &before, &self.access(&path)) {
            Ok(content) => content.body,
            // Nobody could read it before either.
            Err(error) => {
                tracing::warn!(%error, "an object that its keys don't open is given its new name as it is");
                version.body.clone()
            }
        };
        let mut attrs = version.attrs.clone();
        let (old, new) = (older.folder.key().at(&path), self.folder.key().at(&path));
        for (name, what) in SEALED_ATTRS {
            if let Some(value) = attrs.get_mut(name)
                && let Ok(bytes) = old.open_bytes(what, value)
            {
                *value = new.seal_bytes(self.env.random(), what, &bytes);
            }
        }
        let (to, etag) = (self.sealed(&path)?, version.etag.clone());
        let command = Command::Rename { from: key.to_owned(), to, etag: etag.clone(), attrs, body };
        match self.client.commit(&self.bucket, command).await {
            Ok(_) => Ok(()),
            Err(client::Error::Namespace(namespace::Error::NoSuchKey)) => Ok(()),
            // What was written under the new name came later, by somebody who has the new keys.
            Err(client::Error::Namespace(namespace::Error::Precondition { what: "if-none-match" })) => {
                let condition = Condition { if_match: Some(vec![etag]), ..Condition::default() };
                let command = Command::Delete { key: key.to_owned(), version: None, condition };
                self.client.commit(&self.bucket, command).await.map(drop).or_else(|error| match error {
                    client::Error::Namespace(namespace::Error::Precondition { .. }) => Ok(()),
                    other => Err(other.into()),
                })
            }
            // Somebody wrote it anew meanwhile: it is found by the next look.
            Err(client::Error::Namespace(namespace::Error::Precondition { .. })) => {
                self.settled.is.store(false, Ordering::Release);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The volume's root, and those that it replaced; none of a grant's holder.
    pub fn roots(&self) -> impl Iterator<Item = &VolumeRoot> {
        self.root.iter().chain(self.older_roots())
    }

    /// The roots that were replaced, as far as its keys are here.
    pub fn older_roots(&self) -> impl Iterator<Item = &VolumeRoot> {
        self.older.iter().map(|older| &older.root)
    }

    /// Those of the volume's older roots as they are sealed.
    pub(crate) fn sealed_roots(&self) -> impl Iterator<Item = &[u8]> {
        self.about().older.iter().map(|older| older.sealed.as_slice())
    }
}

/// Roots that this one replaced, by what nodes say of the volume, and kits: for who has nothing but the words.
pub(crate) async fn older_roots(reach: &Reach, root: &VolumeRoot, labels: &[(Label, NodeId)]) -> Vec<VolumeRoot> {
    let mut sealed: Vec<Vec<u8>> = Vec::new();
    if let (Some(log), _) = survey::newest_kit(reach, root, labels).await {
        sealed.extend(log.state().older_roots().iter().cloned());
    }
    let right = Right { volume: root.signing_key().public(), claim: None };
    for node in reach.nodes().keys() {
        // Each node has a copy of the catalog: whoever answers knows.
        if let Ok(about) = about_of(reach, *node, &right).await {
            sealed.extend(about.older.into_iter().map(|older| older.sealed));
            break;
        }
    }
    sealed.sort();
    sealed.dedup();
    root.open_all_older(sealed.iter().map(Vec::as_slice))
}
