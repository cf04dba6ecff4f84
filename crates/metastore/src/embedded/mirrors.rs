//! Mirrors that join and leave while the shard is in use.
//!
//! A mirror joins in this order: it gets every sealed log file and a map while commits go on; then,
//! with commits waiting, what was written meanwhile; then it is named in the member set.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::DriveId;

use crate::Error;
use crate::embedded::map::Map;
use crate::embedded::side::Side;
use crate::embedded::tail::Walk;
use crate::embedded::{Embedded, Layers, Mirror, Shared};
use crate::record::FILE_HEAD;

impl Embedded {
    /// Makes a directory a mirror; whatever an earlier life of it left there is replaced. Returns
    /// once it holds everything and the member set names it.
    ///
    /// # Errors
    /// If the directory can't be written or is in use; the member set is as it was then.
    pub async fn add_mirror(&self, mirror: Mirror) -> Result<(), Error> {
        let join = |shared: Arc<Shared>| async move {
            let _upkeep = shared.upkeep.lock().await;
            shared.joining.store(true, Ordering::Relaxed);
            let result = shared.add_mirror(mirror).await;
            shared.joining.store(false, Ordering::Relaxed);
            result
        };
        self.shared.detached(join).await
    }

    /// Goes on without a mirror.
    ///
    /// # Errors
    /// [`Error::Io`] if it is the last one; it stays then.
    pub async fn remove_mirror(&self, drive: DriveId) -> Result<(), Error> {
        self.shared.detached(move |shared| async move { shared.remove_mirror(drive).await }).await
    }
}

impl Shared {
    async fn add_mirror(self: &Arc<Self>, mirror: Mirror) -> Result<(), Error> {
        let shared = self;
        if shared.members.borrow().drives.contains(&mirror.drive) {
            return Ok(());
        }
        let side = shared.attach_empty(mirror).await?;
        shared.copy_logs(&side, u64::MAX).await?;
        shared.copy_map(&side).await?;
        let mut writer = shared.writer.lock().await;
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        shared.copy_logs(&side, writer.end).await?;
        let mut sides = shared.sides().to_vec();
        sides.push(Arc::clone(&side));
        let failed = shared.set_members(sides).await;
        if let Err(error) = shared.drop_sides(failed).await {
            writer.broken.get_or_insert(Error::Broken { why: error.to_string() });
            return Err(error);
        }
        if !shared.members.borrow().drives.contains(&side.drive) {
            let what = format!("make {} a mirror of the metadata", side.dir.display());
            return Err(Error::Io { what, kind: base::Kind::Unreachable, text: "its drive failed".into() });
        }
        let view = Arc::new(side.map()?.view()?);
        shared.see(|seen| {
            let mut layers = Layers::clone(&seen.layers);
            layers.maps.push(view);
            seen.layers = Arc::new(layers);
        });
        Ok(())
    }

    async fn remove_mirror(self: &Arc<Self>, drive: DriveId) -> Result<(), Error> {
        let shared = self;
        let _upkeep = shared.upkeep.lock().await;
        let mut writer = shared.writer.lock().await;
        let left: Vec<_> = shared.sides().iter().filter(|side| side.drive != drive).cloned().collect();
        if left.len() == shared.sides().len() {
            return Ok(());
        }
        if left.is_empty() {
            return Err(Error::Io {
                what: format!("remove the mirror on drive {drive}"),
                kind: base::Kind::Conflict,
                text: "it is the last one: add another one first".into(),
            });
        }
        let mut views = Vec::new();
        for side in &left {
            views.push(Arc::new(side.map()?.view()?));
        }
        let failed = shared.set_members(left).await;
        if let Err(error) = shared.drop_sides(failed).await {
            writer.broken.get_or_insert(Error::Broken { why: error.to_string() });
            return Err(error);
        }
        shared.see(|seen| {
            let mut layers = Layers::clone(&seen.layers);
            layers.maps = views;
            seen.layers = Arc::new(layers);
        });
        Ok(())
    }

    /// Takes the directory and empties it.
    async fn attach_empty(&self, mirror: Mirror) -> Result<Arc<Side>, Error> {
        let (disk, key, shard) = (Arc::clone(&self.env.disk), self.key.clone(), self.shard);
        let work = move || {
            let side = Side::attach(&disk, mirror.drive, &mirror.dir, shard, &key)?;
            let what = |error: std::io::Error| Error::io(format!("empty {}", mirror.dir.display()), &error);
            for entry in disk.read_dir(&mirror.dir).map_err(what)? {
                if entry.name != "lock" && !entry.is_dir {
                    disk.remove_file(&mirror.dir.join(&entry.name)).map_err(what)?;
                }
            }
            disk.sync_dir(&mirror.dir).map_err(what)?;
            Ok(side)
        };
        self.env.blocking(work).await?
    }

    /// Copies the log files that the mirror lacks. The last one is copied up to `end`, or not at all
    /// if that is `u64::MAX`: it is being written.
    async fn copy_logs(self: &Arc<Self>, side: &Arc<Side>, end: u64) -> Result<(), Error> {
        let mut logs: Vec<(u64, u64)> = {
            let known = self.logs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            known.iter().map(|(number, info)| (*number, info.end)).collect()
        };
        match logs.last_mut() {
            Some(_) if end == u64::MAX => _ = logs.pop(),
            Some((_, last)) => *last = end.max(FILE_HEAD),
            None => {}
        }
        let (shared, to) = (Arc::clone(self), Arc::clone(side));
        let work = move || {
            for (number, end) in logs {
                let there = to.disk.exists(&to.path(number));
                if there && to.log(number)?.file.len().is_ok_and(|len| len >= end) {
                    continue;
                }
                shared.copy_checked(&to, number)?;
            }
            Ok(())
        };
        self.env.blocking(work).await?
    }

    /// Copies a log file record by record, each from a mirror that has it whole: what rotted on one
    /// must not spread.
    fn copy_checked(&self, to: &Side, number: u64) -> Result<(), Error> {
        let head = self.any_log(number)?.head.encode(&self.key);
        to.replace(number, |new| {
            new.write(&head, 0)?;
            let mut walk = Walk::to_copy(number, FILE_HEAD);
            while let Some(record) = walk.next(self)? {
                new.write(&record.stored, record.offset)?;
            }
            Ok(())
        })
    }

    /// Gives the mirror a map of its own.
    pub(super) async fn copy_map(&self, side: &Arc<Side>) -> Result<(), Error> {
        let mut maps = self.layers().1.maps.clone();
        // Its own last, if it has one: that is damaged.
        maps.sort_by_key(|map| map.is_in(&side.dir));
        let (to, key, shard) = (Arc::clone(side), self.key.clone(), self.shard);
        let (cache, salt) = (self.options.cache_bytes, self.env.random());
        let work = move || {
            let mut last = Error::bug("no mirror has an ordered map");
            for from in maps {
                let map = Map::open(&*to.disk, &to.dir, shard, &key, cache, Some(salt))?;
                match map.copy(&from) {
                    Ok(()) => {
                        to.set_map(map.install(&*to.disk, &to.dir)?);
                        return Ok(());
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        self.env.blocking(work).await?
    }
}
