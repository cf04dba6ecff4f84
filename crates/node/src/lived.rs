//! How old the store is, in time that was lived: what proofs are dated by.
//!
//! Calendars of machines are off, by years now and then, and are set. A proof dated by one of them would be too old, or
//! good for ever, for another. So time is counted, by the monotonic clock of whoever leads the volumes, and kept in the
//! catalog; every node goes on counting from what it saw there last. Time in which no node ran isn't counted, other than
//! by a store of one machine, whose calendar has nobody to differ from.

use std::time::Duration;

use base::{Instant, Wall};
use namespace::catalog;

use crate::error::Result;
use crate::fleet::lock;
use crate::node::Inner;

/// The row that has the count.
const ROW: &str = "lived";
/// It is written so often.
const EVERY: Duration = Duration::from_secs(600);
/// A machine isn't believed to have been off for longer than that.
const OFF_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The count as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    secs: u64,
    /// When that was written, by the calendar of who wrote it.
    at: Wall,
}

impl Row {
    fn text(self) -> String {
        format!("{} {}", self.secs, self.at.0)
    }

    fn read(row: &[u8]) -> Option<Self> {
        let (secs, at) = std::str::from_utf8(row).ok()?.split_once(' ')?;
        Some(Self { secs: secs.parse().ok()?, at: Wall(at.parse().ok()?) })
    }
}

/// What this process knows of it.
#[derive(Debug)]
pub(crate) struct Lived {
    /// When the process began.
    began: Instant,
    /// The row as it was seen last.
    row: Option<Row>,
    /// The store's age when that was first seen, and when it was.
    age: Duration,
    seen: Instant,
}

impl Lived {
    pub fn new(now: Instant) -> Self {
        Self { began: now, row: None, age: Duration::ZERO, seen: now }
    }

    /// The age now, if the row says this now. `off` is for how long nobody ran before this process.
    fn age(&mut self, row: Option<Row>, now: Instant, off: impl FnOnce(Row) -> Duration) -> Duration {
        if let Some(row) = row.filter(|row| self.row != Some(*row)) {
            let off = if self.row.is_none() { off(row) } else { Duration::ZERO };
            (self.age, self.seen, self.row) = (Duration::from_secs(row.secs) + off, now, Some(row));
        }
        self.age + now.since(self.seen)
    }
}

impl Inner {
    /// The store's age.
    pub(crate) fn age(&self) -> Result<Duration> {
        Ok(self.aged()?.0)
    }

    /// For how long this process has run.
    pub(crate) fn runs_for(&self) -> Duration {
        self.env.clock.now().since(lock(&self.lived).began)
    }

    fn aged(&self) -> Result<(Duration, Option<Row>)> {
        let row = self.look(|view| catalog::setting(view, ROW))?.and_then(|row| Row::read(&row));
        let (now, wall, is_alone) = (self.env.clock.now(), self.env.clock.wall(), self.cluster.get().is_none());
        let off = |row: Row| match is_alone {
            true => Duration::from_millis(wall.0.saturating_sub(row.at.0)).min(OFF_MAX),
            false => Duration::ZERO,
        };
        Ok((lock(&self.lived).age(row, now, off), row))
    }

    /// Keeps the count, if it is time. Who leads the volumes does it for all.
    pub(crate) async fn count_age(&self) -> Result<()> {
        let (age, row) = self.aged()?;
        if row.is_some_and(|row| age < Duration::from_secs(row.secs) + EVERY) {
            return Ok(());
        }
        let text = Row { secs: age.as_secs(), at: self.env.clock.wall() }.text();
        self.change(move |_| Ok((catalog::put_setting(ROW, Some(text.as_bytes())), ()))).await
    }
}

#[cfg(test)]
impl Inner {
    /// Makes the store so old, as if that time had been lived.
    pub(crate) async fn lives_until(&self, age: Duration) {
        let text = Row { secs: age.as_secs(), at: self.env.clock.wall() }.text();
        self.change(move |_| Ok((catalog::put_setting(ROW, Some(text.as_bytes())), ()))).await.expect("a row");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: u64 = 1_000_000_000;

    #[test]
    fn the_count_is_read_back() {
        let row = Row { secs: 7, at: Wall(1_795_230_600_123) };
        assert_eq!(Row::read(row.text().as_bytes()), Some(row));
        assert_eq!(Row::read(b"7"), None);
        assert_eq!(Row::read(b"7 x"), None);
    }

    #[test]
    fn time_goes_on_by_the_monotonic_clock_whatever_calendars_say() {
        let mut lived = Lived::new(Instant(0));
        let day = Duration::from_secs(86_400);
        let never = |_| unreachable!("it was off only before it began");
        assert_eq!(lived.age(None, Instant(5 * SEC), never), Duration::from_secs(5));
        let row = |secs, at| Some(Row { secs, at: Wall(at) });
        // It was off for a day before.
        assert_eq!(lived.age(row(1000, 0), Instant(10 * SEC), |_| day), Duration::from_secs(1000) + day);
        assert_eq!(lived.age(row(1000, 0), Instant(70 * SEC), never), Duration::from_secs(1060) + day);
        // Somebody whose calendar is years ahead wrote it.
        assert_eq!(lived.age(row(90_000, u64::MAX), Instant(80 * SEC), never), Duration::from_secs(90_000));
        assert_eq!(lived.age(row(90_000, u64::MAX), Instant(81 * SEC), never), Duration::from_secs(90_001));
    }
}
