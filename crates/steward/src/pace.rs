//! How much at once: one dial, and users first.

use std::time::Duration;

use base::Instant;

/// Of the dial's rate, in thousandths, what work keeps however busy users are: it ends some day.
const SHARE_MIN: u32 = 20;
/// The same while pieces are missing.
const SHARE_MIN_REPAIR: u32 = 250;
/// All of it.
const SHARE_MAX: u32 = 1000;
/// What is regained with each word of calm.
const SHARE_STEP: u32 = 100;
/// Users' latency against that of an idle time, in hundredths, up to which they don't notice.
const CALM_PERCENT: u128 = 125;

/// From idle to busy, 0 to 100. At 0 only what has no spare piece is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pace(u8);

impl Pace {
    /// Nothing but what is about to be lost.
    pub const STILL: Pace = Pace(0);
    /// Hardly to be noticed.
    pub const IDLE: Pace = Pace(10);
    /// The usual.
    pub const NORMAL: Pace = Pace(50);
    /// As fast as can be; users are still heard, later.
    pub const BUSY: Pace = Pace(100);

    /// From a number; more than 100 is 100.
    pub fn new(percent: u8) -> Self {
        Pace(percent.min(100))
    }

    /// `still`, `idle`, `normal`, `busy`, or a number from 0 to 100.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "still" => Some(Pace::STILL),
            "idle" => Some(Pace::IDLE),
            "normal" => Some(Pace::NORMAL),
            "busy" => Some(Pace::BUSY),
            number => number.parse().ok().filter(|percent| *percent <= 100).map(Pace),
        }
    }

    /// In percent.
    pub fn percent(self) -> u8 {
        self.0
    }

    /// How much slower users may be served than in idle times, in hundredths, before work gives way: half as slow
    /// again at 0, twice at the normal pace, three times at 100.
    fn tolerated_percent(self) -> u128 {
        150 + u128::from(self.0) + u128::from(self.0.saturating_sub(50))
    }
}

/// What all work may take at the most, at [`Pace::BUSY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Segments worked on at once.
    pub in_flight: usize,
    /// Bytes of pieces written a second.
    pub bytes_per_s: u64,
}

/// How users are served, now and when nothing else is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserLoad {
    /// Requests since the last word.
    pub requests: u64,
    /// Their 99th percentile.
    pub p99: Duration,
    /// The same while no work is done; zero if not known yet.
    pub p99_idle: Duration,
}

/// How pressing a piece of work is for the dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Press {
    /// The next loss loses data: waits for nothing.
    Now,
    /// Something is missing.
    Soon,
    /// Nothing is.
    Sometime,
}

/// Decides how much may be done: a pace, limits, what users feel, and a bucket of bytes.
#[derive(Clone, Debug)]
pub struct Dial {
    pace: Pace,
    limits: Limits,
    /// Thousandths of the pace that users leave: halved when they are slowed down, regained in steps (as
    /// Chiu and Jain 1989 show of congestion, this ends in a fair share).
    share: u32,
    /// Bytes that may be written now; below zero when the last work was larger.
    bytes: f64,
    filled: Instant,
}

impl Dial {
    /// A dial that stands at [`Pace::NORMAL`].
    pub fn new(limits: Limits) -> Self {
        Self { pace: Pace::NORMAL, limits, share: SHARE_MAX, bytes: 1.0, filled: Instant(0) }
    }

    /// A dial that bounds only how much is in flight.
    pub fn unbound(in_flight: usize) -> Self {
        Self { pace: Pace::BUSY, ..Self::new(Limits { in_flight, bytes_per_s: u64::MAX }) }
    }

    /// Where it stands.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Turns it.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Changes what all work may take at the most.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What users leave of the pace now, in thousandths.
    pub fn share_permille(&self) -> u32 {
        self.share
    }

    /// How users fare: to be told once a second or so.
    pub fn hear(&mut self, load: UserLoad) {
        let (now, idle) = (load.p99.as_nanos() * 100, load.p99_idle.as_nanos());
        if load.requests == 0 || idle == 0 || now <= idle * CALM_PERCENT {
            self.share = (self.share + SHARE_STEP).min(SHARE_MAX);
        } else if now > idle * self.pace.tolerated_percent() {
            self.share = (self.share / 2).max(SHARE_MIN);
        }
    }

    fn share_of(&self, press: Press) -> u64 {
        let least = if press == Press::Soon { SHARE_MIN_REPAIR } else { SHARE_MIN };
        u64::from(self.pace.0) * u64::from(self.share.max(least))
    }

    /// Segments that may be in flight for such work to begin.
    pub(crate) fn slots(&self, press: Press) -> usize {
        match press {
            Press::Now => self.limits.in_flight,
            _ if self.pace == Pace::STILL => 0,
            press => (self.limits.in_flight * self.share_of(press) as usize).div_ceil(100_000),
        }
    }

    /// Bytes a second that such work may take together.
    pub(crate) fn bytes_per_s(&self, press: Press) -> f64 {
        self.limits.bytes_per_s as f64 * self.share_of(press) as f64 / 100_000.0
    }

    /// Fills up: never beyond what a second brings, so that a pause is followed by no burst.
    pub(crate) fn fill(&mut self, now: Instant, press: Press) {
        let rate = self.bytes_per_s(press);
        let gained = rate * now.since(self.filled).as_secs_f64();
        self.bytes = (self.bytes + gained).min(rate.max(1.0));
        self.filled = self.filled.max(now);
    }

    /// When such work may begin, as far as bytes go; never at [`Pace::STILL`].
    pub(crate) fn opens(&self, press: Press) -> Option<Instant> {
        let is_open = self.pace != Pace::STILL && (self.bytes > 0.0 || self.limits.bytes_per_s == u64::MAX);
        if press == Press::Now || is_open {
            return Some(Instant(0));
        }
        let rate = self.bytes_per_s(press);
        let wait = Duration::try_from_secs_f64((1.0 - self.bytes) / rate).ok()?;
        Some(self.filled + wait)
    }

    /// Counts what begins. What presses most is on nobody's account: others needn't wait for having let it pass.
    pub(crate) fn spend(&mut self, press: Press, bytes: u64) {
        if press != Press::Now {
            self.bytes -= bytes as f64;
        }
    }
}
