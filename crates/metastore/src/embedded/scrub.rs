//! Reading everything that mirrors hold, and putting right from the others what rotted on one.
//!
//! Reads alone would not do: most of a log is never read again, and what rots unseen on one mirror today and on the
//! others in a year is lost. The member set goes first, it is one sector: [`Embedded::open`] asks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::DriveId;

use crate::Error;
use crate::embedded::commit::WRITE_LIMIT;
use crate::embedded::map::Map;
use crate::embedded::side::Side;
use crate::embedded::tail::Walk;
use crate::embedded::{Embedded, Layers, Shared, members, sector};
use crate::record::FILE_HEAD;

/// Bytes of a log that are compared at once.
const BLOCK: usize = 1024 * 1024;

/// What a scrub of a shard's mirrors read and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that were read.
    pub bytes: u64,
    /// Places that weren't as they were written: blocks of a log, maps, member sets.
    pub damaged: u64,
    /// Those of them that could not be put right.
    pub left: u64,
}

impl Embedded {
    /// Reads all that the mirrors hold and puts right what isn't as it was written; rests between steps of a few MiB,
    /// each of which holds back checkpoints.
    ///
    /// # Errors
    /// If the shard is broken or closed. What can't be put right is none: it is counted.
    pub async fn scrub(&self, rest: Duration) -> Result<Scrubbed, Error> {
        let mut found = Scrubbed::default();
        found.add(self.step(|shared| async move { shared.scrub_members().await }).await?);
        let mut log = Some(0);
        while let Some(from) = log {
            let (next, step) = self.step(move |shared| async move { shared.scrub_log(from).await }).await?;
            found.add(step);
            log = next;
            self.shared.env.clock.sleep(rest).await;
        }
        for drive in self.members().drives {
            let mut group = Some(0);
            while let Some(from) = group {
                let (next, step) = self.step(move |shared| async move { shared.scrub_map(drive, from).await }).await?;
                found.add(step);
                group = next;
                self.shared.env.clock.sleep(rest).await;
            }
        }
        Ok(found)
    }

    /// A step that nothing interrupts, with no checkpoint and no cleaning beside it.
    async fn step<T: Send + 'static, F>(&self, act: impl FnOnce(Arc<Shared>) -> F + Send + 'static) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let step = |shared: Arc<Shared>| async move {
            let _upkeep = shared.upkeep.lock().await;
            if let Some(error) = &shared.writer.lock().await.broken {
                return Err(error.clone());
            }
            act(Arc::clone(&shared)).await
        };
        self.shared.detached(step).await
    }
}

impl Scrubbed {
    /// Adds what another scrub read and found.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.damaged += other.damaged;
        self.left += other.left;
    }

    /// Something wasn't as it was written, and this came of putting it right.
    fn note(&mut self, shared: &Shared, drive: DriveId, what: &str, mended: Result<(), Error>) {
        self.damaged += 1;
        let shard = shared.shard;
        match mended {
            Ok(()) => tracing::warn!(shard, %drive, what, "a mirror's bytes had rotted: put right"),
            Err(error) => {
                self.left += 1;
                tracing::warn!(shard, %drive, what, %error, "failed to put a mirror's rotten bytes right");
            }
        }
    }
}

impl Shared {
    async fn scrub_members(&self) -> Result<Scrubbed, Error> {
        // Nobody changes the set meanwhile.
        let mut writer = self.writer.lock().await;
        let set = self.members.borrow().clone();
        let rotten = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&rotten);
        let look = move |side: &Side| {
            if members::read(&*side.disk, &side.dir).is_ok_and(|found| found.as_ref() == Some(&set)) {
                return Ok(());
            }
            count.fetch_add(1, Ordering::Relaxed);
            members::write(&*side.disk, &side.dir, &set)
                .map_err(|error| Error::io(format!("write {}", side.dir.join("members").display()), &error))
        };
        let failed = self.on_all(&self.sides(), WRITE_LIMIT, look).await;
        // A mirror whose set can't be written must not stay one.
        if let Err(error) = self.drop_sides(failed).await {
            writer.broken.get_or_insert(Error::Broken { why: error.to_string() });
            return Err(error);
        }
        Ok(Scrubbed { damaged: rotten.load(Ordering::Relaxed), ..Scrubbed::default() })
    }

    /// The first log file from `from` on; and from where to go on.
    async fn scrub_log(self: &Arc<Self>, from: u64) -> Result<(Option<u64>, Scrubbed), Error> {
        let number = {
            let logs = self.logs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            logs.range(from..).next().map(|(number, _)| *number)
        };
        let Some(number) = number else { return Ok((None, Scrubbed::default())) };
        tracing::debug!(shard = self.shard, number, "scrubbing a log file");
        let shared = Arc::clone(self);
        let found = self.env.blocking(move || shared.scrub_file(number)).await?;
        Ok((Some(number + 1), found))
    }

    /// Compares a log file of all mirrors with its records, each from a mirror that has it whole.
    fn scrub_file(&self, number: u64) -> Scrubbed {
        let mut found = Scrubbed::default();
        let head = match self.any_log(number) {
            Ok(log) => log.head.encode(&self.key),
            Err(error) => {
                // Every mirror's: what is read of it later will say the same.
                self.sides().iter().for_each(|side| found.note(self, side.drive, "log", Err(error.clone())));
                return found;
            }
        };
        let mut block = head;
        let mut at = 0;
        let mut walk = Walk::to_copy(number, FILE_HEAD);
        loop {
            let next = walk.next(self);
            let is_end = !matches!(next, Ok(Some(_)));
            if is_end || block.len() >= BLOCK {
                for side in self.sides().iter() {
                    found.bytes += block.len() as u64;
                    if !side.has(number, at, &block) {
                        let mended = side.put_right(number, at, &block);
                        found.note(self, side.drive, "log", mended);
                    }
                }
                at += block.len() as u64;
                block.clear();
            }
            match next {
                Ok(Some(record)) => block.extend_from_slice(&record.stored),
                Ok(None) => return found,
                Err(error) => {
                    // No mirror has this record whole, so that nobody knows either where the next one begins.
                    self.sides().iter().for_each(|side| found.note(self, side.drive, "log", Err(error.clone())));
                    return found;
                }
            }
        }
    }

    /// A group of pages of a drive's map; and which comes next.
    async fn scrub_map(self: &Arc<Self>, drive: DriveId, group: u64) -> Result<(Option<u64>, Scrubbed), Error> {
        let done = |found| Ok((None, found));
        let Some(side) = self.sides().iter().find(|side| side.drive == drive).cloned() else {
            return done(Scrubbed::default());
        };
        let (asked, shard) = (Arc::clone(&side), self.shard);
        tracing::debug!(shard, %drive, group, "scrubbing a map");
        let check = move || {
            let map: Arc<Map> = asked.map()?;
            sector::check(&*map.file(), shard, group)
                .map_err(|error| Error::io(format!("read the ordered map in {}", asked.dir.display()), &error))
        };
        let checked = self.env.blocking(check).await?;
        let mut found = Scrubbed { bytes: sector::GROUP_BYTES, ..Scrubbed::default() };
        match checked {
            Ok(Some(has_more)) => return Ok((has_more.then_some(group + 1), found)),
            Ok(None) => {}
            Err(error) if error.is_untold() => {
                tracing::warn!(shard = self.shard, %drive, %error, "failed to scrub a map: its drive is looked after");
                return done(found);
            }
            Err(error) => tracing::warn!(shard = self.shard, %drive, %error, "a map can't be read"),
        }
        // Commits go on beside it in memory.
        self.joining.store(true, Ordering::Relaxed);
        let copied = self.copy_map(&side).await;
        self.joining.store(false, Ordering::Relaxed);
        let mended = copied.and_then(|()| {
            let view = Arc::new(side.map()?.view()?);
            self.see(|seen| {
                let mut layers = Layers::clone(&seen.layers);
                layers.maps.retain(|map| !map.is_in(&side.dir));
                layers.maps.push(view);
                seen.layers = Arc::new(layers);
            });
            Ok(())
        });
        found.note(self, drive, "map", mended);
        done(found)
    }
}
