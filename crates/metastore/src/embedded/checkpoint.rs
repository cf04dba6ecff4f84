//! Bringing the maps up to date, without stalling commits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use base::{Epoch, Seq};

use crate::Error;
use crate::embedded::commit::WRITE_LIMIT;
use crate::embedded::map::Applied;
use crate::embedded::side::{Due, Side, TRUST_MS};
use crate::embedded::{Embedded, Layers, Shared, Writer};
use crate::layer::Layer;
use crate::record::{RecordKind, append};
use crate::store::Position;

/// Layers of rows that may be in memory while a mirror joins: checkpoints wait for that, commits
/// should not.
const JOINING_LAYERS: usize = 16;

/// How long a drive may take over one checkpoint.
const APPLY_LIMIT: Duration = Duration::from_secs(300);

impl Embedded {
    /// Makes a last checkpoint and refuses everything from then on.
    ///
    /// # Errors
    /// If no mirror could be written; all that was acknowledged is in the log even so.
    pub async fn close(&self) -> Result<(), Error> {
        self.shared.detached(|shared| async move { shared.close().await }).await
    }
}

impl Embedded {
    /// Looks at once whether every mirror is where it was and what it was; the store does so by
    /// itself twice a second. Mirrors that aren't leave the member set.
    ///
    /// # Errors
    /// If none is left: reopen the shard.
    pub async fn check_mirrors(&self) -> Result<(), Error> {
        self.shared
            .detached(|shared| async move {
                shared.look().await;
                shared.writer.lock().await.broken.clone().map_or(Ok(()), Err)
            })
            .await
    }
}

impl Shared {
    async fn close(&self) -> Result<(), Error> {
        let made = self.checkpoint().await;
        let _upkeep = self.upkeep.lock().await;
        let mut writer = self.writer.lock().await;
        let marked = if writer.broken.is_none() && writer.current.is_some() {
            self.mark_closed(&mut writer).await
        } else {
            Ok(())
        };
        let next = Epoch(self.epoch.0 + 1);
        writer.broken = Some(Error::Fenced { asked: self.epoch, current: next });
        let sides = self.sides();
        let released = self.env.blocking(move || sides.iter().for_each(|side| side.release())).await;
        made.and(marked).and(released.map_err(Error::from))
    }

    /// A record that says: all before it is acknowledged. Without it the last group, if damaged,
    /// would look like a torn write.
    async fn mark_closed(&self, writer: &mut Writer) -> Result<(), Error> {
        let Some((_, sealer)) = writer.current.clone() else { return Ok(()) };
        self.sync(writer).await?;
        let mut bytes = Vec::new();
        append(&mut bytes, writer.end, &sealer, (RecordKind::Closed, writer.head, writer.end), |_| {});
        self.append(writer, bytes, Due::Now).await?;
        self.cut(writer).await?;
        self.note_end(writer.file, writer.end, 0);
        Ok(())
    }

    /// Waits until the rows in memory are few enough: a layer that is being written and one that
    /// fills.
    pub(super) async fn wait_for_room_in_memory(&self) {
        loop {
            let made = self.made.notified();
            let layers = self.layers().1;
            let bytes: usize = layers.stack().iter().map(|layer| layer.bytes()).sum();
            let most = if self.joining.load(Ordering::Relaxed) { JOINING_LAYERS } else { 2 };
            // A checkpoint that failed everywhere leaves its layer behind: the commit will say so.
            if bytes < self.options.layer_bytes.saturating_mul(most) || self.writer.lock().await.broken.is_some() {
                return;
            }
            self.due.notify_one();
            made.await;
        }
    }

    async fn is_checkpoint_due(&self) -> bool {
        let full = self.layers().1.active.bytes() >= self.options.layer_bytes;
        full || self.writer.lock().await.since >= self.options.checkpoint_bytes
    }

    /// Writes all rows that changed since the last checkpoint into every mirror's map.
    pub(super) async fn checkpoint(&self) -> Result<Position, Error> {
        let _upkeep = self.upkeep.lock().await;
        let result = self.checkpoint_alone().await;
        self.made.notify_waiters();
        result
    }

    /// As [`Shared::checkpoint`], for who holds `upkeep`.
    pub(super) async fn checkpoint_alone(&self) -> Result<Position, Error> {
        let Some((layer, applied)) = self.freeze().await? else {
            return Ok(Position {
                seq: self.layers().1.maps.first().map_or_else(Default::default, |map| map.applied.seq),
            });
        };
        let sides = self.sides();
        let failed = self.on_all(&sides, APPLY_LIMIT, move |side| side.map()?.apply(&layer, applied)).await;
        let mut views = Vec::new();
        let mut bad = failed;
        for side in sides.iter() {
            if bad.iter().any(|(drive, _)| *drive == side.drive) {
                continue;
            }
            match side.map().and_then(|map| map.view()) {
                Ok(view) => views.push(Arc::new(view)),
                Err(error) => bad.push((side.drive, error)),
            }
        }
        if !bad.is_empty() {
            let mut writer = self.writer.lock().await;
            if let Err(error) = self.drop_sides(bad).await {
                writer.broken.get_or_insert(Error::Broken { why: error.to_string() });
                return Err(error);
            }
        }
        self.see(|seen| {
            let active = Arc::clone(&seen.layers.active);
            // A commit may have gone on without a mirror meanwhile.
            seen.layers = Arc::new(Layers { active, frozen: None, maps: self.still_mirrors(views) });
        });
        Ok(Position { seq: applied.seq })
    }

    /// Begins a new layer; gives the old one and the place in the log where it ends.
    async fn freeze(&self) -> Result<Option<(Arc<Layer>, Applied)>, Error> {
        let mut writer = self.writer.lock().await;
        let layers = self.layers().1;
        if layers.frozen.is_some() {
            // The last checkpoint failed everywhere.
            return Err(writer.broken.clone().unwrap_or_else(|| Error::bug("a frozen layer without a checkpoint")));
        }
        // The maps must not be ahead of the log.
        self.sync(&mut writer).await?;
        let applied = Applied { seq: writer.head, file: writer.file, offset: writer.end };
        if layers.active.is_empty() && layers.maps.iter().all(|map| map.applied == applied) {
            return Ok(None);
        }
        writer.since = 0;
        let old = Arc::clone(&layers.active);
        self.see(|seen| {
            let frozen = Some(Arc::clone(&old));
            seen.layers = Arc::new(Layers { active: Arc::default(), frozen, maps: layers.maps.clone() });
        });
        Ok(Some((old, applied)))
    }

    /// Leaves out mirrors whose files are gone; what wasn't durable is.
    async fn look(&self) {
        let mut writer = self.writer.lock().await;
        if writer.broken.is_some() {
            return;
        }
        if let Err(error) = self.sync(&mut writer).await {
            tracing::error!(shard = self.shard, %error, "failed to write any mirror of the metadata");
            return;
        }
        let (file, now) = (writer.current.as_ref().map(|(file, _)| *file), self.env.clock.now());
        // A journal that reaches back to its beginning makes any map anew.
        let is_whole = {
            let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner);
            logs.values().next().is_some_and(|info| info.after == Seq(0))
        };
        let look = move |side: &Side| {
            let found = side.look(file, now);
            if is_whole && matches!(found, Err(Error::Io { kind: base::Kind::Damaged, .. })) {
                side.give_up_map()
                    .map_err(|error| Error::io(format!("rename the map in {}", side.dir.display()), &error))?;
            }
            found
        };
        let failed = self.on_all(&self.sides(), WRITE_LIMIT, look).await;
        if let Err(error) = self.drop_sides(failed).await {
            tracing::error!(shard = self.shard, %error, "failed to find any mirror of the metadata");
            writer.broken = Some(Error::Broken { why: error.to_string() });
        }
    }
}

/// Makes checkpoints when they are due.
pub(super) async fn checkpoints(shared: Weak<Shared>, due: Arc<Notify>) {
    loop {
        // Waits without the store in hand: it is given up the moment its owner drops it.
        due.notified().await;
        let Some(shared) = shared.upgrade().filter(|shared| !shared.gone.load(Ordering::Relaxed)) else { return };
        if shared.is_checkpoint_due().await
            && let Err(error) = shared.checkpoint().await
        {
            tracing::error!(shard = shared.shard, %error, "failed to make a checkpoint of the metadata");
            return;
        }
        if let Err(error) = shared.clean().await {
            tracing::warn!(shard = shared.shard, %error, "failed to give back room of the metadata's log");
        }
    }
}

/// Looks after the mirrors, also when nobody writes.
pub(super) async fn watch(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if shared.gone.load(Ordering::Relaxed) {
            return;
        }
        shared.look().await;
        let sleep = shared.env.clock.sleep(Duration::from_millis(TRUST_MS));
        drop(shared);
        sleep.await;
    }
}
