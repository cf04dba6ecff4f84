//! What the consensus library runs on: tokio, whose time a simulation controls, and chance that
//! comes from [`env::Env`], so that a whole group runs from a seed.
#![allow(
    clippy::disallowed_methods,
    reason = "the library's own tasks and timers run on tokio; so do the simulated ones"
)]

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;

use crate::watched::Watched;

/// Threads that no store was opened on begin from here.
static SEED: AtomicU64 = AtomicU64::new(0);
/// Nothing that another replica is asked is given up sooner. The library would wait for the answer to a heartbeat for no longer than
/// until the next one is due: then none from further away would ever count. Shorter than any time after which somebody else wants to lead.
const ANSWER_MIN: Duration = Duration::from_millis(250);
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Takes chance from the world; in a simulation everything runs in this thread.
pub(crate) fn seed(env: &env::Env) {
    let seed = u64::from_le_bytes(env.random());
    SEED.store(seed, Ordering::Relaxed);
    STATE.set(Some(seed));
}

/// SplitMix64 (Steele, Lea, Flood 2014): spreads election timeouts, decides nothing else.
#[derive(Debug)]
pub(crate) struct Dice;

impl Dice {
    fn word() -> u64 {
        let state = STATE.get().unwrap_or_else(|| SEED.fetch_add(GOLDEN.rotate_left(17), Ordering::Relaxed));
        let state = state.wrapping_add(GOLDEN);
        STATE.set(Some(state));
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl rand::TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((Dice::word() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(Dice::word())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&Dice::word().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

/// Tokio with [`Dice`].
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Dice;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = Watched;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration.max(ANSWER_MIN), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Dice {
        Dice
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
