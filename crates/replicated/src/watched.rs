//! A value that tasks wait for, woken in the order in which they began to wait. Tokio's own wakes in
//! an order drawn from chance that can't be seeded, and would make every simulation another one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use tokio::sync::Notify;

struct Inner<T> {
    value: RwLock<(u64, T)>,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    is_closed: AtomicBool,
}

/// Sets the value.
pub(crate) struct Sender<T>(Arc<Inner<T>>);

/// Sees the value, and waits for the next.
pub(crate) struct Receiver<T> {
    inner: Arc<Inner<T>>,
    /// The version that was seen last.
    seen: u64,
}

/// The value while it is looked at.
pub(crate) struct Look<'a, T>(RwLockReadGuard<'a, (u64, T)>);

impl<T> std::ops::Deref for Look<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let inner = Arc::new(Inner {
        value: RwLock::new((0, value)),
        changed: Notify::new(),
        senders: AtomicUsize::new(1),
        receivers: AtomicUsize::new(1),
        is_closed: AtomicBool::new(false),
    });
    (Sender(Arc::clone(&inner)), Receiver { inner, seen: 0 })
}

impl<T> Inner<T> {
    fn look(&self) -> Look<'_, T> {
        Look(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Sender<T> {
    /// Sees the value.
    pub fn look(&self) -> Look<'_, T> {
        self.0.look()
    }

    /// Sets the value and wakes who waits.
    pub fn set(&self, value: T) {
        self.change(|old| {
            *old = value;
            true
        });
    }

    fn change(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            if !modify(&mut value.1) {
                return false;
            }
            value.0 += 1;
        }
        self.0.changed.notify_waiters();
        true
    }

    /// One more who sees the value; what is there now is not news.
    pub fn follow(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::SeqCst);
        let seen = self.look().0.0;
        Receiver { inner: Arc::clone(&self.0), seen }
    }
}

impl<T> Receiver<T> {
    /// Sees the value.
    pub fn look(&self) -> Look<'_, T> {
        self.inner.look()
    }

    /// Waits for a value that wasn't seen yet; false if there will be none.
    pub async fn next(&mut self) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            // Waits from here on, whatever happens between the look and the wait.
            changed.as_mut().enable();
            // Asked before: the last value is seen even if nobody is left to set another.
            let is_closed = self.inner.is_closed.load(Ordering::SeqCst);
            let version = self.inner.look().0.0;
            if version != self.seen {
                self.seen = version;
                return true;
            }
            if is_closed {
                return false;
            }
            changed.await;
        }
    }

    /// Waits until the value is so; nothing if it never will be.
    pub async fn until(&mut self, is_so: impl Fn(&T) -> bool) -> Option<T>
    where
        T: Clone,
    {
        loop {
            {
                let value = self.look();
                if is_so(&value) {
                    return Some(value.clone());
                }
            }
            if !self.next().await {
                return None;
            }
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.is_closed.store(true, Ordering::SeqCst);
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.inner.receivers.fetch_add(1, Ordering::SeqCst);
        Self { inner: Arc::clone(&self.inner), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.inner.receivers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The library's watch.
pub(crate) struct Watched;

impl Watch for Watched {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = Look<'a, T>;

    fn channel<T: Send + Sync>(init: T) -> (Sender<T>, Receiver<T>) {
        channel(init)
    }
}

impl<T: Send + Sync> WatchSender<Watched, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::SeqCst) == 0 {
            return Err(SendError(value));
        }
        self.set(value);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.change(modify)
    }

    fn borrow_watched(&self) -> Look<'_, T> {
        self.look()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.follow()
    }
}

impl<T: Send + Sync> WatchReceiver<Watched, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        if self.next().await { Ok(()) } else { Err(RecvError(())) }
    }

    fn borrow_watched(&self) -> Look<'_, T> {
        self.look()
    }

    fn borrow_and_update(&mut self) -> Look<'_, T> {
        let value = self.inner.look();
        self.seen = value.0.0;
        value
    }
}
