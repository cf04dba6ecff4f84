//! Settings of volumes whose shard is led elsewhere, for a moment: every request asks for some.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Instant, VolumeId};

/// How old they may be.
const AGE_MAX: Duration = Duration::from_secs(1);
/// How many are kept.
const KEPT_MAX: usize = 10_000;

type Kept = BTreeMap<(VolumeId, String), (Instant, Option<Vec<u8>>)>;

/// Settings that were read a moment ago.
#[derive(Default)]
pub(crate) struct Settings(Mutex<Kept>);

impl Settings {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The setting, if it was read a moment ago.
    pub fn get(&self, volume: VolumeId, name: &str, now: Instant) -> Option<Option<Vec<u8>>> {
        let kept = self.lock();
        let (read, value) = kept.get(&(volume, name.to_owned()))?;
        (now.since(*read) < AGE_MAX).then(|| value.clone())
    }

    /// It was asked for at `asked`, and is this.
    pub fn set(&self, volume: VolumeId, name: &str, value: Option<Vec<u8>>, asked: Instant) {
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert((volume, name.to_owned()), (asked, value));
    }

    /// Some setting of the volume changed.
    pub fn forget(&self, volume: VolumeId) {
        self.lock().retain(|(of, _), _| *of != volume);
    }
}
