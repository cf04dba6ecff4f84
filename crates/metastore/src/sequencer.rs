//! One total order of changes: each is evaluated on everything before it, committed or not, and
//! answered once it is durable.
//!
//! Invariants:
//! 1. Changes are evaluated one at a time, in the order of their places in the journal, each on
//!    the committed rows and the effects of all pending changes before it.
//! 2. Nobody is answered with something that depends on a change that is not durable: not who made
//!    it, and not who merely saw it.
//! 3. If a group fails, everything evaluated on top of it fails with it. Unless the store says
//!    that nothing was written, the shard stays shut until it is reopened.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::kv::{Batch, View};
use base::{Epoch, Seq};
use env::Env;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::Error;
use crate::memory::weight;
use crate::overlay::{Overlay, PendingView};
use crate::store::{BATCH_BYTES_MAX, ShardStore, Snapshot};

/// Changes that wait for their commit at most; more callers wait before they are evaluated.
const QUEUE_COUNT_MAX: usize = 4096;
/// KiB of effects that wait for their commit at most.
const QUEUE_KIB_MAX: usize = 64 * 1024;
/// KiB of one change at most.
const BATCH_KIB_MAX: u32 = (BATCH_BYTES_MAX / 1024) as u32;
/// Changes in one group at most.
const GROUP_COUNT_MAX: usize = 1024;
/// Bytes in one group at most: a group is one write, and its callers wait for all of it.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Evaluates changes of one shard one after the other and commits them in groups.
pub struct Sequencer {
    shared: Arc<Shared>,
    /// Whose turn it is to evaluate: fair, so that nobody starves.
    turn: tokio::sync::Mutex<Turn>,
    count_room: Arc<Semaphore>,
    bytes_room: Arc<Semaphore>,
    head: watch::Receiver<Seq>,
}

#[derive(Default)]
struct Turn {
    overlay: Overlay,
    /// The last place that was given away.
    assigned: Seq,
    /// Which line of changes the overlay belongs to.
    line: u64,
}

struct Shared {
    store: Arc<dyn ShardStore>,
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Raised when pending changes were thrown away.
    line: u64,
    /// Why the last line was thrown away.
    reason: Option<Error>,
    /// Why the shard is shut.
    shut: Option<Error>,
    closed: bool,
}

/// Something that waits for its turn to be durable.
struct Item {
    /// What to commit; none for who only saw pending changes.
    batch: Option<Batch>,
    done: oneshot::Sender<Result<(), Error>>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// What an evaluation came to.
struct Evaluated<T, E> {
    result: Result<T, E>,
    seq: Seq,
    wait: Option<Option<Batch>>,
}

impl Sequencer {
    /// The sequencer of an opened shard. It is the only one who may commit from now on.
    pub fn new(env: &Env, store: Arc<dyn ShardStore>) -> Self {
        let (epoch, head) = store.position();
        let (send, receive) = watch::channel(head);
        let shared = Arc::new(Shared { store, queue: Mutex::default(), filled: Notify::new() });
        env.spawn("metastore commits", commit_loop(Arc::clone(&shared), epoch, head, send));
        Self {
            shared,
            turn: tokio::sync::Mutex::new(Turn { assigned: head, ..Turn::default() }),
            count_room: Arc::new(Semaphore::new(QUEUE_COUNT_MAX)),
            bytes_room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
            head: receive,
        }
    }

    /// Evaluates `change` on all rows as every change before it leaves them, and commits the batch
    /// that it gives. Answers once that is durable, with its place; for an empty batch, and for a
    /// refusal, once everything is durable that `change` had seen. If this future is dropped the
    /// batch may be committed all the same.
    ///
    /// `change` runs at once while no other does: it should read little.
    ///
    /// # Errors
    /// Those of `change`; and an [`Error`] of the store, after which the batch may or may not have
    /// been committed unless [`Error::is_clean`].
    pub async fn execute<T, E>(
        &self,
        change: impl FnOnce(&dyn View) -> Result<(Batch, T), E> + Send,
    ) -> Result<(Seq, T), E>
    where
        E: From<Error>,
    {
        let Ok(count) = Arc::clone(&self.count_room).acquire_owned().await else {
            return Err(Error::bug("the sequencer's queue was closed").into());
        };
        let mut turn = self.turn.lock().await;
        // Room for the largest batch is taken before: nothing may wait, and so be cancelled, between
        // the evaluation and the queue.
        let Ok(mut bytes) = Arc::clone(&self.bytes_room).acquire_many_owned(BATCH_KIB_MAX).await else {
            return Err(Error::bug("the sequencer's queue was closed").into());
        };
        let evaluated = self.evaluate(&mut turn, change)?;
        let Some(batch) = evaluated.wait else {
            return evaluated.result.map(|value| (evaluated.seq, value));
        };
        let kib = batch.as_ref().map_or(0, |batch| weight(batch).div_ceil(1024));
        drop(bytes.split((BATCH_KIB_MAX as usize).saturating_sub(kib)));
        let (done, wait) = oneshot::channel();
        self.push(turn.line, Item { batch, done, _room: (count, bytes) })?;
        drop(turn);
        match wait.await {
            Ok(Ok(())) => evaluated.result.map(|value| (evaluated.seq, value)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Broken { why: "the task that commits has ended".into() }.into()),
        }
    }

    /// The committed rows as they are now.
    ///
    /// # Errors
    /// If the store is broken.
    pub fn read(&self) -> Result<Box<dyn Snapshot>, Error> {
        self.shared.store.snapshot()
    }

    /// The journal's end; changes with every group.
    pub fn head(&self) -> watch::Receiver<Seq> {
        self.head.clone()
    }

    /// Whether a commit failed in a way after which the shard must be opened, or claimed, again.
    pub fn is_shut(&self) -> bool {
        self.shared.queue().shut.is_some()
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn ShardStore> {
        &self.shared.store
    }

    /// Runs `change` and adds its effects to the overlay. Not async: nothing else happens meanwhile.
    fn evaluate<T, E: From<Error>>(
        &self,
        turn: &mut Turn,
        change: impl FnOnce(&dyn View) -> Result<(Batch, T), E>,
    ) -> Result<Evaluated<T, E>, E> {
        self.take_line(turn)?;
        let snapshot = self.shared.store.snapshot()?;
        turn.overlay.prune(snapshot.at());
        let view = PendingView::new(&turn.overlay, &*snapshot);
        let result = change(&view);
        let seen = view.seen();
        let (batch, result) = match result {
            Ok((batch, value)) => (batch, Ok(value)),
            Err(error) => (Batch::default(), Err(error)),
        };
        if batch.is_empty() {
            let seq = seen.max(snapshot.at());
            return Ok(Evaluated { result, seq, wait: (seen > snapshot.at()).then_some(None) });
        }
        let size = weight(&batch);
        if size > BATCH_BYTES_MAX {
            return Err(Error::TooLarge { size, max: BATCH_BYTES_MAX }.into());
        }
        let seq = Seq(turn.assigned.0 + 1);
        let applied = turn.overlay.apply(seq, &batch, &*snapshot);
        applied.map_err(|error| Error::Io { what: "read rows".into(), kind: error.kind, text: error.text })?;
        turn.assigned = seq;
        Ok(Evaluated { result, seq, wait: Some(Some(batch)) })
    }

    /// Begins anew if what was pending has been thrown away.
    fn take_line(&self, turn: &mut Turn) -> Result<(), Error> {
        let queue = self.shared.queue();
        if let Some(error) = &queue.shut {
            return Err(error.clone());
        }
        if queue.line != turn.line {
            turn.overlay.clear();
            turn.line = queue.line;
            turn.assigned = self.shared.store.position().1;
        }
        Ok(())
    }

    /// Queues what was evaluated, unless what it was evaluated on is gone by now.
    fn push(&self, line: u64, item: Item) -> Result<(), Error> {
        let mut queue = self.shared.queue();
        if let Some(error) = &queue.shut {
            return Err(error.clone());
        }
        if queue.line != line {
            return Err(queue.reason.clone().unwrap_or_else(|| Error::bug("a line of changes ended without reason")));
        }
        queue.items.push_back(item);
        drop(queue);
        self.shared.filled.notify_one();
        Ok(())
    }
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group, once there is one; `None` when the sequencer is gone.
    async fn group(&self) -> Option<Vec<Item>> {
        loop {
            {
                let mut queue = self.queue();
                if !queue.items.is_empty() {
                    return Some(take_group(&mut queue.items));
                }
                if queue.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Throws away everything that is pending.
    fn fail(&self, error: &Error) -> VecDeque<Item> {
        let mut queue = self.queue();
        if error.is_clean() {
            queue.line += 1;
            queue.reason = Some(error.clone());
        } else {
            queue.shut = Some(error.clone());
        }
        std::mem::take(&mut queue.items)
    }
}

fn take_group(items: &mut VecDeque<Item>) -> Vec<Item> {
    let mut bytes = 0;
    let mut group = Vec::new();
    while let Some(item) = items.front() {
        bytes += item.batch.as_ref().map_or(0, weight);
        if !group.is_empty() && (bytes > GROUP_BYTES_MAX || group.len() >= GROUP_COUNT_MAX) {
            break;
        }
        group.extend(items.pop_front());
    }
    group
}

/// Commits group after group until the sequencer is gone.
async fn commit_loop(shared: Arc<Shared>, epoch: Epoch, mut head: Seq, heads: watch::Sender<Seq>) {
    while let Some(mut group) = shared.group().await {
        let batches: Vec<Batch> = group.iter_mut().filter_map(|item| item.batch.take()).collect();
        let result = if batches.is_empty() { Ok(head) } else { shared.store.commit(epoch, head, batches).await };
        match result {
            Ok(seq) => {
                head = seq;
                heads.send_replace(head);
                for item in group {
                    // Who asked may have gone.
                    let _ = item.done.send(Ok(()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to commit a group of changes");
                for item in group.into_iter().chain(shared.fail(&error)) {
                    let _ = item.done.send(Err(error.clone()));
                }
            }
        }
    }
}
