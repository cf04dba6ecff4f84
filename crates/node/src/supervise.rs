//! Drives that vanish, fail, return or fill up; copies of the metadata that follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{DriveId, Instant};
use client::DriveState as Seen;
use metastore::Embedded;
use namespace::catalog::{self, DriveRow, DriveState, Severity};
use piecestore::State;

use crate::error::Result;
use crate::fleet::{Down, Mounted, lock};
use crate::identity::{self, Folder, Lock};
use crate::node::Inner;
use crate::open::{MIRRORS, mirror};

/// A drive that hasn't answered a look for this long counts as down.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// A drive that failed is tried again after this long, doubled with each failure up to an hour.
const AGAIN_MIN: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(3600);
/// A drive that worked for so long after it failed is as good as any.
const STEADY: Duration = Duration::from_secs(600);
/// Folders of drives that aren't there are looked at this often.
const RETURN_EVERY: Duration = Duration::from_secs(1);
/// A drive that is there and couldn't be asked what it has is asked again so soon.
const CENSUS_AGAIN: Duration = Duration::from_secs(10);
/// A drive with less room than this above its reserve counts as full: writes under way need it.
const ROOM_BYTES: u64 = 256 << 20;
/// Copies of the metadata are looked after this often.
const MIRROR_EVERY: Duration = Duration::from_secs(2);

/// What the loop remembers.
struct Watch {
    inner: Arc<Inner>,
    returned: Instant,
    mirrored: Instant,
    /// When a drive that failed may be tried again, and how long to wait after that.
    again: BTreeMap<DriveId, (Instant, Duration)>,
    /// Since when a drive that isn't at hand is missed.
    missed: BTreeMap<DriveId, Instant>,
    /// Drives of other nodes that answered when they were last looked at, and whether this node repaired then.
    up: BTreeSet<DriveId>,
    led: bool,
}

/// Looks after the drives until the node is closed.
pub(crate) async fn watch(inner: Arc<Inner>) {
    let now = inner.env.clock.now();
    let (again, missed, up) = Default::default();
    let mut watch = Watch { inner: inner.clone(), returned: now, mirrored: now, again, missed, up, led: false };
    while inner.pause(inner.settings.look_every).await {
        let _one = inner.changing.lock().await;
        if let Err(error) = watch.round().await {
            tracing::warn!(%error, "failed to look after the drives: trying again");
        }
    }
}

impl Watch {
    async fn round(&mut self) -> Result<()> {
        let inner = self.inner.clone();
        let looks = inner.fleet.all().into_iter().map(|drive| look(&inner, drive));
        futures_util::future::join_all(looks).await;
        let now = inner.env.clock.now();
        if now.since(self.returned) >= RETURN_EVERY {
            self.returned = now;
            self.look_for_returns().await?;
            self.give_up().await?;
            inner.settle_groups().await?;
            inner.writable.store(inner.can_write()?, Ordering::Relaxed);
            self.ask_returned();
        }
        if now.since(self.mirrored) >= MIRROR_EVERY {
            self.mirrored = now;
            inner.recruit_mirrors().await;
        }
        Ok(())
    }

    /// Drives that should be there and aren't: perhaps they are back.
    async fn look_for_returns(&mut self) -> Result<()> {
        let inner = self.inner.clone();
        let now = inner.env.clock.now();
        inner.take_out_removed().await?;
        for row in inner.drive_rows()? {
            if !inner.is_mine(&row) {
                if row.state == DriveState::Removed || inner.is_up(row.id) {
                    self.missed.remove(&row.id);
                } else {
                    self.missed.entry(row.id).or_insert(now);
                }
                continue;
            }
            // It counted as lost while this node was away.
            if row.state == DriveState::Gone && inner.fleet.get(row.id).is_some_and(|drive| drive.is_up()) {
                inner.know_drive(row.id).await?;
                inner.retry_repairs();
            }
            if row.state == DriveState::Removed || inner.fleet.get(row.id).is_some_and(|drive| drive.is_up()) {
                self.missed.remove(&row.id);
                if self.again.get(&row.id).is_some_and(|(at, _)| now.since(*at) > STEADY) {
                    self.again.remove(&row.id);
                }
                continue;
            }
            self.missed.entry(row.id).or_insert(now);
            let wait = self.again.get(&row.id).copied();
            if wait.is_some_and(|(at, _)| now < at) {
                continue;
            }
            match inner.try_return(&row).await {
                // Its folder isn't there: it costs nothing to look for it often.
                Ok(false) => {}
                // One that fails again and again is tried later and later.
                done => {
                    let wait = wait.map_or(AGAIN_MIN, |(_, wait)| (wait * 2).min(AGAIN_MAX));
                    self.again.insert(row.id, (now + wait, wait));
                    if let Err(error) = done {
                        tracing::info!(drive = %row.id, path = row.path, %error, "a drive can't be opened yet");
                    }
                }
            }
        }
        Ok(())
    }

    /// Drives of other nodes that answer again are asked for what they should have, by who repairs.
    fn ask_returned(&mut self) {
        let inner = &self.inner;
        let Some(cluster) = inner.cluster.get() else { return };
        let up: BTreeSet<DriveId> = cluster.remotes.all().into_iter().map(|(drive, _)| drive).collect();
        let up: BTreeSet<DriveId> = up.into_iter().filter(|drive| inner.is_up(*drive)).collect();
        let leads = inner.leads_volumes();
        if up != self.up {
            inner.retry_repairs();
        }
        if leads && self.led {
            up.difference(&self.up).for_each(|drive| start_census(inner, *drive));
        }
        (self.up, self.led) = (up, leads);
    }

    /// Drives that have been away for too long: their pieces are rebuilt elsewhere.
    async fn give_up(&mut self) -> Result<()> {
        let inner = self.inner.clone();
        let now = inner.env.clock.now();
        let leads = inner.system.is_led_here();
        for row in inner.drive_rows()?.into_iter().filter(|row| row.state == DriveState::Active) {
            // Those of other nodes are given up by one for all.
            if !inner.is_mine(&row) && !leads {
                continue;
            }
            let since = self.missed.get(&row.id).copied();
            let deleted = inner
                .fleet
                .get(row.id)
                .is_some_and(|drive| lock(&drive.down).as_ref().is_some_and(|down| down.is_deleted));
            let is_long = since.is_some_and(|since| now.since(since) >= inner.settings.repair_after);
            if deleted || is_long {
                inner.declare_gone(&row).await?;
            }
        }
        Ok(())
    }
}

/// Why a drive isn't as it should be.
enum Wrong {
    /// Nothing on it can be had.
    Away { why: String, is_deleted: bool },
    /// It takes no writes; perhaps it can be read.
    Fenced { why: String },
}

/// Looks at a drive at hand: whether it answers, is still the one that was opened, takes writes.
async fn look(inner: &Arc<Inner>, drive: Arc<Mounted>) {
    let (held, env) = (drive.lock.clone(), &inner.env);
    let asked = async {
        let gone = env.blocking(move || (!held.is_there()).then(|| held.is_deleted())).await.unwrap_or(None);
        if let Some(is_deleted) = gone {
            drive.store.fence("its folder was removed or replaced");
            let why = if is_deleted { "its folder was deleted" } else { "its folder was removed or replaced" };
            return Some(Wrong::Away { why: why.into(), is_deleted });
        }
        match drive.store.check_path().await {
            Ok(()) => None,
            // What it says of itself is asked below.
            Err(_) if drive.store.health().state != State::Ok => None,
            Err(error) => Some(Wrong::Away { why: error.to_string(), is_deleted: false }),
        }
    };
    let silent = || Some(Wrong::Away { why: "it doesn't answer".into(), is_deleted: false });
    let wrong = env.timeout(LOOK_MAX, asked).await.unwrap_or_else(silent);
    let wrong = wrong.or_else(|| match drive.store.health().state {
        State::Ok => None,
        State::ReadOnly(why) | State::Failed(why) => Some(Wrong::Fenced { why }),
    });
    match wrong {
        Some(wrong) => inner.drive_down(&drive, wrong),
        None => {
            inner.drive_answers(&drive);
            inner.look_for_room(&drive);
        }
    }
}

impl Inner {
    fn drive_down(&self, drive: &Mounted, wrong: Wrong) {
        let (seen, why, is_deleted) = match wrong {
            Wrong::Away { why, is_deleted } => (Seen::Gone, why, is_deleted),
            Wrong::Fenced { why } => (Seen::Suspect, why, false),
        };
        self.drives.set_state(drive.id, seen);
        let mut down = lock(&drive.down);
        if let Some(down) = down.as_mut() {
            down.is_deleted |= is_deleted;
            return;
        }
        *down = Some(Down { since: self.env.clock.now(), why: why.clone(), is_deleted });
        drop(down);
        let text = format!("drive {} is down: {why}", self.name_of(drive.id));
        self.tell(Severity::Warning, "drive", &drive.id.to_string(), text);
    }

    fn drive_answers(&self, drive: &Mounted) {
        if drive.store.health().state != State::Ok {
            return;
        }
        let Some(down) = lock(&drive.down).take() else { return };
        self.drives.set_state(drive.id, Seen::Up);
        // Whether it is full is looked at anew.
        drive.full.store(false, Ordering::Relaxed);
        let away = self.env.clock.now().since(down.since).as_secs();
        let text = format!("drive {} answers again after {away} s ({})", self.name_of(drive.id), down.why);
        self.tell(Severity::Info, "drive", &drive.id.to_string(), text);
        self.retry_repairs();
    }

    /// A drive without room gets no new pieces, so that they go where there is some.
    fn look_for_room(&self, drive: &Mounted) {
        let health = drive.store.health();
        // Between the two bounds it stays as it is: no flapping.
        let spare = ROOM_BYTES.min(health.total / 50);
        let reserve = self.settings.pieces.reserve_bytes;
        let was_full = drive.full.load(Ordering::Relaxed);
        let is_full = health.free <= reserve + if was_full { 2 * spare } else { spare };
        if is_full == was_full {
            return;
        }
        drive.full.store(is_full, Ordering::Relaxed);
        self.drives.set_state(drive.id, if is_full { Seen::Suspect } else { Seen::Up });
        let name = self.name_of(drive.id);
        let (severity, text) = if is_full {
            (Severity::Warning, format!("drive {name} is full: it takes no new data; reads and deletes go on"))
        } else {
            (Severity::Info, format!("drive {name} has room again"))
        };
        self.tell(severity, "drive", &drive.id.to_string(), text);
        self.retry_repairs();
    }

    /// Opens a drive that is down or not at hand, if its folder holds it.
    async fn try_return(self: &Arc<Self>, row: &DriveRow) -> Result<bool> {
        let (disk, path) = (self.env.disk.clone(), PathBuf::from(&row.path));
        let looked = self.env.blocking({
            let (disk, path) = (disk.clone(), path.clone());
            move || identity::look(&*disk, &path)
        });
        let Folder::Drive(found) = looked.await.map_err(client::Error::from)?? else { return Ok(false) };
        if found.drive != row.id || found.cluster != self.id || found.key_check != self.key_check {
            return Ok(false);
        }
        let before = self.fleet.get(row.id);
        if before.as_ref().is_some_and(|drive| drive.store.health().state == State::Ok && drive.lock.is_there()) {
            // It only doesn't answer: that is seen by looking at it.
            return Ok(false);
        }
        // The same folder as before is still locked by us, even if its pieces could not be opened.
        let lock = match self.marks.held(row.id) {
            Some(lock) => lock,
            None => {
                let path = path.clone();
                let taken = self.env.blocking(move || Lock::take(&*disk, &path));
                Arc::new(taken.await.map_err(client::Error::from)??)
            }
        };
        // What was open before stays open for reads if this fails.
        let drive = Mounted::open(&self.env, &self.settings.pieces, path.clone(), row.id, lock.clone()).await?;
        self.marks.add(&path, lock, *found);
        self.hold(drive);
        self.know_drive(row.id).await?;
        self.marks.write_all(|_| {}).await;
        let text = format!("drive {} is back", self.name_of(row.id));
        self.tell(Severity::Info, "drive", &row.id.to_string(), text);
        start_census(self, row.id);
        self.retry_repairs();
        Ok(true)
    }

    /// A drive counts as lost: others take its place.
    pub async fn declare_gone(self: &Arc<Self>, row: &DriveRow) -> Result<()> {
        let gone = DriveRow { state: DriveState::Gone, ..row.clone() };
        self.change(|_| Ok((catalog::put_drive(&gone), ()))).await?;
        let text = format!("drive {} counts as lost: its pieces are rebuilt on others", self.name_of(row.id));
        self.tell(Severity::Warning, "drive", &row.id.to_string(), text);
        self.settle_groups().await
    }

    /// Keeps the metadata on as many drives as there should be copies.
    async fn recruit_mirrors(self: &Arc<Self>) {
        let leaving: BTreeSet<DriveId> = match self.drive_rows() {
            Ok(rows) => rows.iter().filter(|row| row.state != DriveState::Active).map(|row| row.id).collect(),
            Err(_) => return,
        };
        for shard in self.shards.all().into_iter().flat_map(|shard| shard.stores()) {
            if let Err(error) = self.recruit(&shard, &leaving).await {
                tracing::warn!(shard = shard.shard(), %error, "failed to give the metadata another copy: trying again");
            }
        }
    }

    async fn recruit(self: &Arc<Self>, shard: &Arc<Embedded>, leaving: &BTreeSet<DriveId>) -> Result<()> {
        let have = shard.members().drives;
        let staying = have.iter().filter(|drive| !leaving.contains(drive)).count();
        if staying >= MIRRORS {
            for drive in have.iter().filter(|drive| leaving.contains(drive)) {
                shard.remove_mirror(*drive).await?;
            }
            return Ok(());
        }
        let mut free: Vec<Arc<Mounted>> = self.fleet.up();
        free.retain(|drive| !have.contains(&drive.id) && !leaving.contains(&drive.id));
        // The one with the most room, by path where they are alike.
        free.sort_by_key(|drive| (std::cmp::Reverse(drive.store.health().free >> 30), drive.path.clone()));
        let Some(drive) = free.first() else { return Ok(()) };
        shard.add_mirror(mirror(drive.id, &drive.path, shard.shard())).await?;
        let text = format!("drive {} keeps a copy of the metadata from now on", self.name_of(drive.id));
        self.tell(Severity::Info, "metadata", &drive.id.to_string(), text);
        Ok(())
    }
}

/// Asks a drive that was away whether it still has what it should: again, as long as it is there and doesn't answer. One that goes away is
/// asked when it comes back.
pub(crate) fn start_census(inner: &Arc<Inner>, drive: DriveId) {
    let walker = inner.clone();
    inner.run("census", async move {
        loop {
            match walker.walk(crate::pass::Ask::Drive(drive)).await {
                Ok(walked) => {
                    let lacking: u64 = walked.iter().map(|walked| walked.lacking - walked.unasked).sum();
                    if lacking > 0 {
                        let text = format!("drive {} lacks {lacking} pieces: they are rebuilt", walker.name_of(drive));
                        walker.tell(Severity::Warning, "drive", &drive.to_string(), text);
                        walker.wake.notify_one();
                    }
                    if walked.iter().all(|walked| walked.unasked == 0) {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%drive, %error, "failed to ask a drive for its pieces: trying again"),
            }
            if !walker.pause(CENSUS_AGAIN).await || !walker.is_up(drive) {
                return;
            }
        }
    });
}
