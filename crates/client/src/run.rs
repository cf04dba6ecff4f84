//! One segment on its way to the drives: which pieces are there, which are late, which are lost.
//!
//! 1. A piece is counted as durable only after its drive said so.
//! 2. After [`Run::abort`] every piece goes away again: those that are durable are deleted now,
//!    those under way when their drive answers.
//! 3. Pieces that are late when the segment is acknowledged are noted as missing with the commit;
//!    one that arrives later takes itself off the note.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{DriveId, PieceId, SegmentId, VolumeId};
use tokio::sync::watch;

use crate::Error;
use crate::core::Core;
use crate::drives::Holder;
use crate::map::Target;

/// Stragglers get as long again as the acknowledged pieces took, at least …
const GRACE_MIN: Duration = Duration::from_millis(10);
/// … and at most this long: the caller waits.
const GRACE_MAX: Duration = Duration::from_millis(100);
/// Pieces whose bytes are all sent may still become durable so long after the acknowledgement.
const LATE_MAX: Duration = Duration::from_secs(30);

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
    /// All pieces whose drive takes new ones are `Sending`, the others lost.
    pub fn new(core: Arc<Core>, volume: VolumeId, segment: SegmentId, target: Target) -> Arc<Self> {
        let takes = |drive: &DriveId| core.drives.writable(*drive).is_some();
        let stages: Vec<Stage> =
            target.group.members.iter().map(|drive| if takes(drive) { Stage::Sending } else { Stage::Lost }).collect();
        let taken = stages.iter().map(|_| AtomicU64::new(0)).collect();
        let state = Mutex::new(State { stages, aborted: false, noted: None });
        Arc::new(Self { core, volume, segment, target, state, taken, changed: watch::channel(0).0 })
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

    pub fn holder(&self, index: usize) -> Option<Arc<dyn Holder>> {
        self.core.drives.writable(self.drive(index))
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

    /// Moves a piece on; a lost one stays lost, unless it turns out durable.
    fn step(&self, index: usize, stage: Stage) {
        let before = std::mem::replace(&mut self.lock().stages[index], stage);
        if before == Stage::Late {
            self.core.late_end(self.drive(index));
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// The piece has no drive after all.
    pub fn lose(&self, index: usize) {
        self.step(index, Stage::Lost);
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
        lagging.into_iter().for_each(|at| self.cut(at));
    }

    /// Runs the work that brings a piece to its drive, until it is done, or cut.
    pub fn bring(self: &Arc<Self>, index: usize, work: impl Future<Output = Result<(), Error>> + Send + 'static) {
        let run = self.clone();
        self.core.clone().env.spawn("piece", async move {
            let mut changes = run.changed.subscribe();
            let cut = async {
                while run.stage(index) != Stage::Lost && !run.lock().aborted {
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
                    run.step(index, Stage::Lost);
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
        let mut state = self.lock();
        if state.stages[index] == Stage::Sending {
            state.stages[index] = Stage::Settling;
        }
    }

    async fn arrived(self: &Arc<Self>, index: usize) {
        self.step(index, Stage::Durable);
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
        self.step(index, Stage::Lost);
    }

    /// Waits until enough pieces are durable and the others had their grace; fails as soon as they
    /// can't be enough.
    pub async fn settle(&self) -> Result<(), Error> {
        let mut changes = self.changed.subscribe();
        let began = self.core.env.clock.now();
        while self.count(|stage| stage == Stage::Durable) < self.target.ack() {
            self.check()?;
            if changes.changed().await.is_err() {
                break;
            }
        }
        let grace = self.core.env.clock.now().since(began).clamp(GRACE_MIN, GRACE_MAX);
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

    /// Pieces that still wait for bytes are cut; those that wait for their drive may come late.
    fn go_on_without(&self) {
        for index in 0..self.target.n() {
            match self.stage(index) {
                Stage::Sending => self.cut(index),
                Stage::Settling if self.core.late_begin(self.drive(index)) => self.step(index, Stage::Late),
                Stage::Settling => self.cut(index),
                Stage::Lost | Stage::Late | Stage::Durable => {}
            }
        }
    }

    fn cut(&self, index: usize) {
        tracing::info!(drive = %self.drive(index), piece = %self.piece(index), "a drive lags behind: its piece is cut");
        self.core.drives.suspect(self.drive(index));
        self.step(index, Stage::Lost);
    }

    /// What the commit is to note as missing. From now on late pieces take themselves off that note.
    pub fn note(&self) -> BTreeSet<u8> {
        let missing = self.missing();
        self.lock().noted = Some(missing.clone());
        missing
    }

    /// The commit is durable: pieces that arrived while it was under way are taken off the note,
    /// and what is late for too long is cut.
    pub async fn committed(self: &Arc<Self>, noted: BTreeSet<u8>) {
        if noted.is_empty() {
            return;
        }
        let now = self.missing();
        for index in noted.difference(&now) {
            self.core.forget_missing(self.volume, self.segment, *index).await;
        }
        if self.count(|stage| stage == Stage::Late) > 0 {
            let run = self.clone();
            self.core.env.spawn("late pieces", async move {
                run.core.env.clock.sleep(LATE_MAX).await;
                (0..run.target.n()).filter(|at| run.stage(*at) == Stage::Late).for_each(|at| run.cut(at));
            });
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
        self.changed.send_modify(|count| *count += 1);
        if !durable.is_empty() {
            let run = self.clone();
            self.core.env.spawn("give back", async move { run.delete(durable).await });
        }
    }

    /// Deletes pieces where they are; where that fails, the search for orphans finds them.
    async fn delete(&self, indices: Vec<usize>) {
        for index in indices {
            if let Some(holder) = self.core.drives.get(self.drive(index))
                && let Err(error) = holder.delete(vec![self.piece(index)]).await
            {
                tracing::debug!(piece = %self.piece(index), %error, "an abandoned piece was not deleted");
            }
        }
    }
}
