//! Brings streams that are hashed at the same time together.
//!
//! A stream hands over its state with some bytes and gets the state back. There are no timers and
//! no threads of the pool's own: who comes while no worker has room starts one, off the reactor; a
//! worker takes whoever waits, hashes a slice of each, looks for others who came in the meantime,
//! and ends with its last stream. So a lone stream starts at once and runs as fast as one can, and
//! the busier the machine is, the more streams share a worker.
//!
//! 1. A job in `waiting` is seen: while there is one, there is a worker that has not yet looked.
//! 2. `held` counts the jobs that workers have taken; `workers` those that were started and have
//!    not ended, also if they never ran or panicked ([`Worker`]'s drop).
//! 3. Whatever becomes of a worker, whoever waits for an answer gets one, or learns that there is none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use env::Env;
use tokio::sync::oneshot;

use super::{Md5, Work, advance, lanes};

/// Blocks of each stream (16 KiB) between two looks for others: about 25 µs.
const SLICE_BLOCKS: usize = 256;
/// Workers at the most. One hashes over 4 GB/s, so that this is no limit but for a mistake.
const WORKERS_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub struct Pool {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    waiting: VecDeque<Job>,
    held: usize,
    workers: usize,
}

struct Job {
    work: Work,
    reply: oneshot::Sender<Md5>,
}

impl AsRef<Work> for Job {
    fn as_ref(&self) -> &Work {
        &self.work
    }
}

impl AsMut<Work> for Job {
    fn as_mut(&mut self) -> &mut Work {
        &mut self.work
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Hashes the parts as the stream's next bytes; its state comes back through the receiver.
    /// Drop that to give up.
    pub fn submit(&self, env: &Env, md5: Md5, parts: impl IntoIterator<Item = Bytes>) -> oneshot::Receiver<Md5> {
        let (reply, answer) = oneshot::channel();
        let job = Job { work: Work { md5, parts: parts.into_iter().collect() }, reply };
        if self.enter(job) {
            let worker = self.worker();
            env.spawn.blocking(Box::new(move || worker.run()));
        }
        answer
    }

    fn worker(&self) -> Worker {
        Worker { shared: self.shared.clone(), jobs: Vec::with_capacity(lanes::MOST), ended: false }
    }

    /// Whether a worker must be started for it.
    fn enter(&self, job: Job) -> bool {
        let mut shared = lock(&self.shared);
        shared.waiting.push_back(job);
        let all_full = shared.waiting.len() + shared.held > shared.workers * lanes::MOST;
        let start = all_full && shared.workers < WORKERS_MAX;
        shared.workers += usize::from(start);
        start
    }
}

/// Hashes up to [`lanes::MOST`] streams at a time.
struct Worker {
    shared: Arc<Mutex<Shared>>,
    jobs: Vec<Job>,
    ended: bool,
}

impl Worker {
    fn run(mut self) {
        while self.look() {
            self.slice();
        }
    }

    /// Takes those who wait; false at this worker's end. That is counted in the same moment, so that
    /// nobody relies on a worker that will not look again.
    fn look(&mut self) -> bool {
        let mut shared = lock(&self.shared);
        let others = (shared.workers - 1) * lanes::MOST;
        if shared.waiting.len() + shared.held <= others {
            // Full lanes are cheaper than many workers: the others have room for all.
            shared.held -= self.jobs.len();
            shared.waiting.extend(self.jobs.drain(..));
            shared.workers -= 1;
            self.ended = true;
            return false;
        }
        while self.jobs.len() < lanes::MOST
            && let Some(job) = shared.waiting.pop_front()
        {
            shared.held += 1;
            self.jobs.push(job);
        }
        true
    }

    fn slice(&mut self) {
        let mut left = SLICE_BLOCKS;
        while left > 0 && self.end_some() {
            left -= advance(&mut self.jobs, left);
        }
    }

    /// Answers those whose bytes are all taken, and forgets those that nobody waits for; false if
    /// there were any, or none at all.
    fn end_some(&mut self) -> bool {
        let before = self.jobs.len();
        let mut at = 0;
        while at < self.jobs.len() {
            if self.jobs[at].work.prepare() && !self.jobs[at].reply.is_closed() {
                at += 1;
                continue;
            }
            let Job { work, reply } = self.jobs.swap_remove(at);
            // Nobody waits any more if the request was given up.
            let _ = reply.send(work.md5);
        }
        let ended = before - self.jobs.len();
        if ended > 0 {
            lock(&self.shared).held -= ended;
        }
        ended == 0 && before > 0
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut shared = lock(&self.shared);
        shared.held -= self.jobs.len();
        shared.workers -= 1;
        if shared.workers == 0 {
            // After a panic, or if this one never ran. Nobody else would look.
            shared.waiting.clear();
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
