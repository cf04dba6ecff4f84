//! Brings streams that are hashed at the same time together.
//!
//! A stream hands over its state with some bytes and gets the state back. There are no timers and
//! no threads of the pool's own: who can't wait starts a worker, off the reactor; a worker takes
//! whoever is there, hashes a slice of each, looks for others who came in the meantime, and ends
//! when it isn't worth its while. A lone stream can't wait: it starts at once and runs as fast as
//! one can. Where there are others, a stream waits for them until it needs its state back soon
//! ([`Stream::hurry`]), or until all lanes would be full.
//!
//! 1. A job that waits is seen: a worker will look, or the job's stream will hurry, or give up.
//! 2. `held` counts the jobs that workers have taken; `workers` those that were started and have
//!    not ended, also if they never ran or panicked ([`Worker`]'s drop).
//! 3. Whatever becomes of a worker, whoever waits for an answer gets one, or learns that there is none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: VecDeque<Job>,
    held: usize,
    workers: usize,
    streams: usize,
}

struct Job {
    work: Work,
    reply: oneshot::Sender<Md5>,
    /// The stream's: it can't wait for company.
    urgent: Arc<AtomicBool>,
}

impl Job {
    fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }
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

impl Shared {
    /// Whether these jobs together are worth a worker.
    fn is_worth(&self, jobs: &[Job]) -> bool {
        jobs.len() + self.waiting.len() >= lanes::MOST || jobs.iter().chain(&self.waiting).any(Job::is_urgent)
    }

    /// Whether one more worker must be started; it counts as started then.
    fn start(&mut self) -> bool {
        let all_full = self.waiting.len() + self.held > self.workers * lanes::MOST;
        let start = all_full && self.workers < WORKERS_MAX && self.is_worth(&[]);
        self.workers += usize::from(start);
        start
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more stream that wants to be hashed.
    pub fn stream(self: &Arc<Self>) -> Stream {
        self.lock().streams += 1;
        Stream { pool: self.clone(), urgent: Arc::default() }
    }

    fn worker(self: &Arc<Self>) -> Worker {
        Worker { pool: self.clone(), jobs: Vec::with_capacity(lanes::MOST), ended: false }
    }

    fn run_worker(self: &Arc<Self>, env: &Env) {
        let worker = self.worker();
        env.spawn.blocking(Box::new(move || worker.run()));
    }
}

/// A stream's way into the pool, with one job at a time.
pub struct Stream {
    pool: Arc<Pool>,
    urgent: Arc<AtomicBool>,
}

impl Stream {
    /// Hashes the parts as the stream's next bytes; its state comes back through the receiver, soon
    /// after [`Stream::hurry`] at the latest. Drop the receiver to give up.
    pub fn submit(&self, env: &Env, md5: Md5, parts: impl IntoIterator<Item = Bytes>) -> oneshot::Receiver<Md5> {
        let (reply, answer) = oneshot::channel();
        if self.enter(Work { md5, parts: parts.into_iter().collect() }, reply) {
            self.pool.run_worker(env);
        }
        answer
    }

    /// The state is needed soon.
    pub fn hurry(&self, env: &Env) {
        if self.press() {
            self.pool.run_worker(env);
        }
    }

    /// Whether a worker must be started for it.
    fn enter(&self, work: Work, reply: oneshot::Sender<Md5>) -> bool {
        let mut shared = self.pool.lock();
        self.urgent.store(shared.streams <= 1, Ordering::Relaxed);
        shared.waiting.push_back(Job { work, reply, urgent: self.urgent.clone() });
        shared.start()
    }

    /// Whether a worker must be started for it.
    fn press(&self) -> bool {
        // Under the lock, so that a worker sees it in its last look, or is seen to have ended.
        let mut shared = self.pool.lock();
        self.urgent.store(true, Ordering::Relaxed);
        shared.start()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut shared = self.pool.lock();
        shared.streams -= 1;
        shared.waiting.retain(|job| !job.reply.is_closed());
    }
}

/// Hashes up to [`lanes::MOST`] streams at a time.
struct Worker {
    pool: Arc<Pool>,
    jobs: Vec<Job>,
    ended: bool,
}

impl Worker {
    fn run(mut self) {
        while self.look() {
            self.slice();
        }
    }

    /// Takes those who wait; false at this worker's end, when it gives back what it has. The end is
    /// counted in the same moment, so that nobody relies on a worker that will not look again.
    fn look(&mut self) -> bool {
        let mut shared = self.pool.lock();
        // Full lanes are cheaper than many workers.
        let others_have_room = shared.waiting.len() + shared.held <= (shared.workers - 1) * lanes::MOST;
        if others_have_room || !shared.is_worth(&self.jobs) {
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
            let Job { work, reply, .. } = self.jobs.swap_remove(at);
            // Nobody waits any more if the request was given up.
            let _ = reply.send(work.md5);
        }
        let ended = before - self.jobs.len();
        if ended > 0 {
            self.pool.lock().held -= ended;
        }
        ended == 0 && before > 0
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut shared = self.pool.lock();
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
