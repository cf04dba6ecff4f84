//! One segment on its way to the drives: which pieces are there, which are late, which are lost.
//!
//! 1. A piece is counted as durable only after its drive said so.
//! 2. After [`Run::abort`] every piece goes away again: those that still get bytes at once, those
//!    that are durable are deleted now, those becoming durable when their drive answers.
//! 3. Pieces that are late when the segment is acknowledged are noted as missing with the commit;
//!    one that arrives later takes itself off the note.
//! 4. Whoever begins a segment holds it ([`Held`]) until it is registered for its commit: a future
//!    that is dropped anywhere in between gives everything back.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{DriveId, PieceId, SegmentId, VolumeId};
use tokio::sync::watch;

use crate::Error;
use crate::core::{Core, WRITE_MAX};
use crate::drives::{DriveState, Holder};
use crate::map::Target;

/// Stragglers get as long again as the acknowledged pieces took, at least …
const GRACE_MIN: Duration = Duration::from_millis(20);
/// … and at most this long: the caller waits.
const GRACE_MAX: Duration = Duration::from_millis(250);
/// Pieces whose bytes are all sent may still become durable so long after the acknowledgement.
const LATE_MAX: Duration = Duration::from_secs(30);
/// How often those who wait look whether a drive has gone in the meantime.
pub(crate) const LOOK_EACH: Duration = Duration::from_secs(1);

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No drive takes it, or its drive failed, or it was cut.
    Lost,
    /// Its bytes are being sent.
    Sending,
    /// All was sent; the drive makes it durable.
    Settling,
    /// As before, but the segment was acknowledged without it.
    Late,
    /// Durable.
    Durable,
}

struct State {
    stages: Vec<Stage>,
    aborted: bool,
    /// What the commit noted as missing, once it did.
    noted: Option<BTreeSet<u8>>,
}

/// One segment on its way.
pub(crate) struct Run {
    core: Arc<Core>,
    pub volume: VolumeId,
    pub segment: SegmentId,
    pub target: Target,
    state: Mutex<State>,
    /// Batches that each piece's drive has taken.
    taken: Vec<AtomicU64>,
    changed: watch::Sender<u64>,
}

impl Run {
    /// All pieces whose drive takes new ones are `Sending`, the others lost. Suspect drives are spared
    /// as long as others can be enough.
    pub fn begin(core: Arc<Core>, volume: VolumeId, segment: SegmentId, target: Target) -> Held {
        let stages = |worst| -> Vec<Stage> {
            let live = core.drives.taking(worst);
            let takes = |drive: &DriveId| live.binary_search(drive).is_ok();
            let stage = |drive| if takes(drive) { Stage::Sending } else { Stage::Lost };
            target.group.members.iter().map(stage).collect()
        };
        let is_enough =
            |stages: &Vec<Stage>| stages.iter().filter(|stage| **stage == Stage::Sending).count() >= target.ack();
        let stages = Some(stages(DriveState::Up)).filter(is_enough).unwrap_or_else(|| stages(DriveState::Suspect));
        let taken = stages.iter().map(|_| AtomicU64::new(0)).collect();
        let state = Mutex::new(State { stages, aborted: false, noted: None });
        core.under_way().insert(segment);
        let run = Self { core, volume, segment, target, state, taken, changed: watch::channel(0).0 };
        Held(Some(Arc::new(run)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn piece(&self, index: usize) -> PieceId {
        PieceId { segment: self.segment, index: index as u8 }
    }

    /// The piece's drive.
    pub fn drive(&self, index: usize) -> DriveId {
        self.target.group.members[index]
    }

    /// Where the piece goes, unless it is lost.
    pub fn holder(&self, index: usize) -> Option<Arc<dyn Holder>> {
        let holder = self.core.drives.get(self.drive(index)).filter(|holder| holder.writable());
        holder.filter(|_| self.stage(index) != Stage::Lost)
    }

    pub fn stage(&self, index: usize) -> Stage {
        self.lock().stages[index]
    }

    fn count(&self, wanted: impl Fn(Stage) -> bool) -> usize {
        self.lock().stages.iter().filter(|stage| wanted(**stage)).count()
    }

    /// Pieces that aren't lost.
    pub fn alive(&self) -> usize {
        self.count(|stage| stage != Stage::Lost)
    }

    /// Fails if too few pieces are left for an acknowledgement.
    pub fn check(&self) -> Result<(), Error> {
        let (have, need) = (self.alive(), self.target.ack());
        if have < need { Err(Error::TooFewPieces { what: "write", have, need }) } else { Ok(()) }
    }

    /// Indices of pieces that aren't durable.
    pub fn missing(&self) -> BTreeSet<u8> {
        let state = self.lock();
        (0..state.stages.len()).filter(|at| state.stages[*at] != Stage::Durable).map(|at| at as u8).collect()
    }

    /// Moves a piece on if it is where `from` says; whether it was.
    fn step(&self, index: usize, from: impl FnOnce(Stage) -> bool, to: Stage) -> bool {
        {
            let stage = &mut self.lock().stages[index];
            if !from(*stage) {
                return false;
            }
            if std::mem::replace(stage, to) == Stage::Late {
                self.core.late_end(self.drive(index));
            }
        }
        self.changed.send_modify(|count| *count += 1);
        true
    }

    /// The piece has no drive after all.
    pub fn lose(&self, index: usize) {
        self.step(index, |stage| stage != Stage::Durable, Stage::Lost);
    }

    /// The drive took one more batch.
    pub fn took(&self, index: usize) {
        self.taken[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Cuts pieces that are behind, if enough others took everything that was `sent`.
    pub fn cut_laggards(&self, sent: u64) {
        let ahead = |index: usize| self.taken[index].load(Ordering::Relaxed) >= sent;
        let lagging: Vec<usize> = {
            let state = self.lock();
            let all = 0..state.stages.len();
            let done = all.clone().filter(|at| state.stages[*at] != Stage::Lost && ahead(*at)).count();
            if done < self.target.ack() {
                return;
            }
            all.filter(|at| state.stages[*at] == Stage::Sending && !ahead(*at)).collect()
        };
        lagging.into_iter().for_each(|at| _ = self.cut(at, Stage::Sending));
    }

    /// Cuts pieces whose drive has gone, or was fenced: a hung call of it may never return.
    pub fn cut_gone(&self) {
        for index in 0..self.target.n() {
            let gone = || !self.core.drives.get(self.drive(index)).is_some_and(|holder| holder.writable());
            if matches!(self.stage(index), Stage::Sending | Stage::Settling) && gone() {
                self.cut_any(index);
            }
        }
    }

    /// Cuts all that isn't durable.
    pub fn cut_all(&self) {
        (0..self.target.n()).for_each(|index| self.cut_any(index));
    }

    /// Whether the piece's work is to be dropped: it is lost, or all is given up while it still
    /// gets bytes. What its drive makes durable right now would become an orphan if it were dropped.
    fn is_cut(&self, index: usize) -> bool {
        let state = self.lock();
        match state.stages[index] {
            Stage::Lost => true,
            Stage::Sending => state.aborted,
            Stage::Settling | Stage::Late | Stage::Durable => false,
        }
    }

    /// Runs the work that brings a piece to its drive, until it is done, or cut.
    pub fn bring(self: &Arc<Self>, index: usize, work: impl Future<Output = Result<(), Error>> + Send + 'static) {
        let run = self.clone();
        self.core.clone().env.spawn("piece", async move {
            let mut changes = run.changed.subscribe();
            let cut = async {
                while !run.is_cut(index) {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            let cut = std::pin::pin!(cut);
            let work = Box::pin(work);
            match futures_util::future::select(work, cut).await {
                futures_util::future::Either::Left((Ok(()), _)) => run.arrived(index).await,
                futures_util::future::Either::Left((Err(error), _)) => run.failed(index, &error),
                // The work is dropped here: what was written is given back.
                futures_util::future::Either::Right(((), work)) => {
                    drop(work);
                    run.lose(index);
                    // Only what is given up is deleted: a piece that was cut may have become durable
                    // all the same, or a repair may be writing it anew.
                    if run.lock().aborted {
                        run.delete(vec![index]).await;
                    }
                }
            }
        });
    }

    /// The drive has all bytes and makes them durable.
    pub fn settling(&self, index: usize) {
        self.step(index, |stage| stage == Stage::Sending, Stage::Settling);
    }

    async fn arrived(self: &Arc<Self>, index: usize) {
        self.step(index, |_| true, Stage::Durable);
        let (aborted, late) = {
            let mut state = self.lock();
            let late = state.noted.as_mut().is_some_and(|noted| noted.remove(&(index as u8)));
            (state.aborted, late)
        };
        if aborted {
            self.delete(vec![index]).await;
        } else if late {
            self.core.forget_missing(self.volume, self.segment, index as u8).await;
        }
    }

    fn failed(&self, index: usize, error: &Error) {
        let drive = self.drive(index);
        tracing::info!(%drive, piece = %self.piece(index), %error, "a piece could not be written");
        self.core.drives.suspect(drive);
        self.lose(index);
    }

    /// Waits until enough pieces are durable and the others had their grace; fails as soon as they
    /// can't be enough, or after `limit`.
    pub async fn settle(self: &Arc<Self>, limit: Duration) -> Result<(), Error> {
        let clock = &self.core.env.clock;
        let began = clock.now();
        while !self.enough(LOOK_EACH).await? {
            self.cut_gone();
            if clock.now().since(began) >= limit {
                self.cut_all();
            }
        }
        let mut changes = self.changed.subscribe();
        let grace = clock.now().since(began).clamp(GRACE_MIN, GRACE_MAX);
        let all = async {
            while self.count(|stage| matches!(stage, Stage::Sending | Stage::Settling)) > 0 {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        if self.core.env.timeout(grace, all).await.is_none() {
            self.go_on_without();
        }
        Ok(())
    }

    /// Whether enough pieces became durable within `limit`; fails once they can't be enough.
    async fn enough(&self, limit: Duration) -> Result<bool, Error> {
        let mut changes = self.changed.subscribe();
        let enough = async {
            while self.count(|stage| stage == Stage::Durable) < self.target.ack() {
                self.check()?;
                if changes.changed().await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        self.core.env.timeout(limit, enough).await.transpose().map(|done| done.is_some())
    }

    /// Pieces that still wait for bytes are cut; those that wait for their drive may come late.
    fn go_on_without(self: &Arc<Self>) {
        for index in 0..self.target.n() {
            // Again if it moved on in between.
            while !self.go_on_without_one(index) {}
        }
        self.cut_late();
    }

    fn go_on_without_one(&self, index: usize) -> bool {
        let drive = self.drive(index);
        match self.stage(index) {
            Stage::Sending => self.cut(index, Stage::Sending),
            Stage::Settling if self.core.late_begin(drive) => {
                let late = self.step(index, |stage| stage == Stage::Settling, Stage::Late);
                if !late {
                    self.core.late_end(drive);
                }
                late
            }
            Stage::Settling => self.cut(index, Stage::Settling),
            Stage::Lost | Stage::Late | Stage::Durable => true,
        }
    }

    /// Cuts what becomes durable too late.
    fn cut_late(self: &Arc<Self>) {
        let unsettled = |stage| matches!(stage, Stage::Settling | Stage::Late);
        if self.count(unsettled) > 0 {
            let run = self.clone();
            self.core.env.spawn("late pieces", async move {
                run.core.env.clock.sleep(LATE_MAX).await;
                (0..run.target.n()).filter(|at| unsettled(run.stage(*at))).for_each(|at| run.cut_any(at));
            });
        }
    }

    fn cut_any(&self, index: usize) {
        loop {
            let stage = self.stage(index);
            if matches!(stage, Stage::Lost | Stage::Durable) || self.cut(index, stage) {
                return;
            }
        }
    }

    /// Cuts the piece if it still is where `from` says.
    fn cut(&self, index: usize, from: Stage) -> bool {
        let cut = self.step(index, |stage| stage == from, Stage::Lost);
        if cut {
            let (drive, piece) = (self.drive(index), self.piece(index));
            tracing::info!(%drive, %piece, "a drive lags behind: its piece is cut");
            self.core.drives.suspect(drive);
        }
        cut
    }

    /// What the commit is to note as missing. From now on late pieces take themselves off that note.
    pub fn note(&self) -> BTreeSet<u8> {
        let missing = self.missing();
        self.lock().noted = Some(missing.clone());
        missing
    }

    /// The commit is durable: pieces that arrived while it was under way are taken off the note.
    pub async fn committed(self: &Arc<Self>, noted: BTreeSet<u8>) {
        if noted.is_empty() {
            return;
        }
        let now = self.missing();
        for index in noted.difference(&now) {
            self.core.forget_missing(self.volume, self.segment, *index).await;
        }
    }

    /// Gives everything back.
    pub fn abort(self: &Arc<Self>) {
        let durable: Vec<usize> = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.aborted, true) {
                return;
            }
            (0..state.stages.len()).filter(|at| state.stages[*at] == Stage::Durable).collect()
        };
        self.core.under_way().remove(&self.segment);
        self.changed.send_modify(|count| *count += 1);
        self.cut_late();
        if !durable.is_empty() {
            let run = self.clone();
            self.core.env.spawn("give back", async move { run.delete(durable).await });
        }
    }

    /// Deletes pieces where they are; where that fails, the search for orphans finds them.
    async fn delete(&self, indices: Vec<usize>) {
        for index in indices {
            let piece = self.piece(index);
            let Some(holder) = self.core.drives.get(self.drive(index)) else { continue };
            if let Err(error) = self.core.within(WRITE_MAX, piece, holder.delete(vec![piece])).await {
                tracing::debug!(%piece, %error, "an abandoned piece was not deleted");
            }
        }
    }
}

/// Who holds a run gives it back by being dropped.
pub(crate) struct Held(Option<Arc<Run>>);

impl Held {
    /// The run.
    pub fn run(&self) -> &Arc<Run> {
        match &self.0 {
            Some(run) => run,
            None => unreachable!("only `keep` takes the run out, and it takes this too"),
        }
    }

    /// Somebody else cares for the run from now on: it is registered for its commit.
    pub fn keep(mut self) {
        if let Some(run) = self.0.take() {
            run.core.under_way().remove(&run.segment);
        }
    }
}

impl std::ops::Deref for Held {
    type Target = Arc<Run>;

    fn deref(&self) -> &Arc<Run> {
        self.run()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run.abort();
        }
    }
}
