//! Settings of volumes, for a moment: every request asks for some, and each question costs a round trip.
//!
//! Of a shard that is led elsewhere the values are kept. Who leads has the rows at hand, and whatever is changed meanwhile
//! is in them: only that it led is remembered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Instant, VolumeId};

/// How old they may be.
const AGE_MAX: Duration = Duration::from_secs(1);
/// How many are kept.
const KEPT_MAX: usize = 10_000;

type Kept = BTreeMap<(VolumeId, String), (Instant, Option<Vec<u8>>)>;
type Led = BTreeMap<VolumeId, Instant>;

/// Settings that were read a moment ago.
#[derive(Default)]
pub(crate) struct Settings {
    kept: Mutex<Kept>,
    led: Mutex<Led>,
}

impl Settings {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_led(&self) -> MutexGuard<'_, Led> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process certainly led the volume's shard a moment ago: if it does still, as far as it knows, its rows are
    /// no older.
    pub fn led(&self, volume: VolumeId, now: Instant) -> bool {
        self.lock_led().get(&volume).is_some_and(|asked| now.since(*asked) < AGE_MAX)
    }

    /// It was asked at `asked` whether this process led the volume's shard, and it did.
    pub fn set_led(&self, volume: VolumeId, asked: Instant) {
        let mut led = self.lock_led();
        if led.len() >= KEPT_MAX {
            led.clear();
        }
        led.insert(volume, asked);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_it_led_is_believed_for_a_second_and_of_that_volume_only() {
        let settings = Settings::default();
        let (volume, other) = (VolumeId(7), VolumeId(8));
        let at = |ms| Instant(0) + Duration::from_millis(ms);
        assert!(!settings.led(volume, at(0)));
        settings.set_led(volume, at(100));
        assert!(settings.led(volume, at(100)) && settings.led(volume, at(1099)));
        assert!(!settings.led(volume, at(1100)) && !settings.led(other, at(100)));
    }
}
