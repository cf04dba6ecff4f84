//! Object lock: versions that nobody can remove before their time (retention), or while somebody
//! holds them (legal hold).
//!
//! Kept as attributes of a version. Whoever removes or unlocks one names in the command the lock on
//! which the decision was made: should it have changed in between, nothing happens.

use base::Wall;
use hyper::HeaderMap;
use namespace::Attrs;

use crate::attrs;
use crate::conditions::parse_iso_date;
use crate::error::{Code, Error, Result};
use crate::xml::{Node, Xml};

/// Attribute: `GOVERNANCE` or `COMPLIANCE`, and until when in milliseconds since 1970.
pub const RETENTION: &str = "lock.retention";
/// Attribute: `ON` or `OFF`.
pub const HOLD: &str = "lock.hold";

const MODE_HEADER: &str = "x-amz-object-lock-mode";
const UNTIL_HEADER: &str = "x-amz-object-lock-retain-until-date";
const HOLD_HEADER: &str = "x-amz-object-lock-legal-hold";
/// A century of days: S3's limit.
const DAYS_MAX: u64 = 36_500;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// How strictly a version is retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Who may bypass it can remove the version.
    Governance,
    /// Nobody can, nor can anybody shorten it.
    Compliance,
}

impl Mode {
    /// S3's word.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Governance => "GOVERNANCE",
            Mode::Compliance => "COMPLIANCE",
        }
    }

    /// The mode of this name.
    pub fn parse(name: &str) -> Option<Mode> {
        [Mode::Governance, Mode::Compliance].into_iter().find(|mode| mode.name() == name)
    }
}

/// A version's retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How strictly.
    pub mode: Mode,
    /// Until when.
    pub until: Wall,
}

impl Retention {
    /// To be stored.
    pub fn encode(self) -> Vec<u8> {
        format!("{} {}", self.mode.name(), self.until.0).into_bytes()
    }

    fn decode(text: &str) -> Option<Retention> {
        let (mode, until) = text.split_once(' ')?;
        Some(Retention { mode: Mode::parse(mode)?, until: Wall(until.parse().ok()?) })
    }

    /// From a `Retention` document.
    pub fn of_xml(root: &Node, now: Wall) -> Result<Retention> {
        let mode = Mode::parse(root.need("Mode")?).ok_or(Code::MalformedXML)?;
        let secs = parse_iso_date(root.need("RetainUntilDate")?).ok_or(Code::MalformedXML)?;
        Retention { mode, until: Wall(secs * 1000) }.in_future(now)
    }

    fn in_future(self, now: Wall) -> Result<Retention> {
        match self.until.0 > now.0 {
            true => Ok(self),
            false => Err(Error::new(Code::InvalidArgument, "The retain until date must be in the future!")),
        }
    }

    /// Whether `next` may take its place; `bypass` if governance doesn't count for the caller.
    pub fn yields_to(self, next: Retention, now: Wall, bypass: bool) -> bool {
        let over = self.until.0 <= now.0;
        let stricter = next.until.0 >= self.until.0 && next.mode == self.mode;
        over || stricter || (self.mode == Mode::Governance && bypass)
    }
}

/// What locks a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Until a time.
    pub retention: Option<Retention>,
    /// Until somebody lifts it; `None` if it never was set.
    pub hold: Option<bool>,
}

impl Lock {
    /// The lock among `attrs`. A retention that can't be read is refused: it may have locked.
    pub fn of(found: &Attrs) -> Result<Lock> {
        let retention = match found.get(RETENTION) {
            None => None,
            Some(_) => {
                let text = attrs::text(found, RETENTION).and_then(Retention::decode);
                Some(text.ok_or_else(|| Error::new(Code::InternalError, "a stored retention can't be read"))?)
            }
        };
        Ok(Lock { retention, hold: found.get(HOLD).map(|hold| hold != b"OFF") })
    }

    /// Whether the version must stay.
    pub fn forbids_removal(self, now: Wall, bypass: bool) -> bool {
        let retained = self
            .retention
            .is_some_and(|retention| retention.until.0 > now.0 && !(bypass && retention.mode == Mode::Governance));
        retained || self.hold == Some(true)
    }

    /// The lock that a write's headers ask for.
    pub fn of_headers(headers: &HeaderMap, now: Wall) -> Result<Lock> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
        let bad = |what: &'static str| Error::new(Code::InvalidArgument, what);
        let retention = match (text(MODE_HEADER), text(UNTIL_HEADER)) {
            (None, None) => None,
            (Some(mode), Some(until)) => {
                let mode = Mode::parse(mode).ok_or_else(|| bad("Unknown wormMode directive."))?;
                let secs = parse_iso_date(until).ok_or_else(|| bad("The retain until date can't be read"))?;
                Some(Retention { mode, until: Wall(secs * 1000) }.in_future(now)?)
            }
            _ => {
                return Err(bad(
                    "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
                ));
            }
        };
        let hold = match text(HOLD_HEADER) {
            None => None,
            Some("ON") => Some(true),
            Some("OFF") => Some(false),
            Some(_) => return Err(bad("Legal Hold must be either of 'ON' or 'OFF'")),
        };
        Ok(Lock { retention, hold })
    }

    /// Puts it among `attrs`.
    pub fn store(self, found: &mut Attrs) {
        if let Some(retention) = self.retention {
            found.insert(RETENTION.into(), retention.encode());
        }
        if let Some(hold) = self.hold {
            found.insert(HOLD.into(), word(hold).as_bytes().to_vec());
        }
    }

    /// Tells a reader of it.
    pub fn write(self, out: &mut HeaderMap) {
        if let Some(retention) = self.retention {
            crate::response::set(out, MODE_HEADER, retention.mode.name().as_bytes());
            crate::response::set(out, UNTIL_HEADER, retention.until.rfc3339().as_bytes());
        }
        if let Some(hold) = self.hold {
            crate::response::set(out, HOLD_HEADER, word(hold).as_bytes());
        }
    }
}

/// S3's word for whether a legal hold is on.
pub fn word(hold: bool) -> &'static str {
    if hold { "ON" } else { "OFF" }
}

/// A bucket's object lock: on, with or without a default for new versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule(pub Option<(Mode, Period)>);

/// A default's length, as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Days.
    Days(u64),
    /// Years of 365 days.
    Years(u64),
}

impl Period {
    fn parts(self) -> (&'static str, u64, u64) {
        match self {
            Period::Days(days) => ("Days", days, 1),
            Period::Years(years) => ("Years", years, 365),
        }
    }
}

impl Rule {
    /// To be stored: `on`, or `on GOVERNANCE Days 30`.
    pub fn encode(self) -> Vec<u8> {
        match self.0 {
            None => b"on".to_vec(),
            Some((mode, period)) => {
                let (unit, number, _) = period.parts();
                format!("on {} {unit} {number}", mode.name()).into_bytes()
            }
        }
    }

    /// From what was stored.
    pub fn decode(bytes: &[u8]) -> Result<Rule> {
        let bad = || Error::new(Code::InternalError, "a stored object lock can't be read");
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        let words: Vec<_> = text.split(' ').collect();
        match words[..] {
            ["on"] => Ok(Rule(None)),
            ["on", mode, unit, number] => {
                let number = number.parse().map_err(|_| bad())?;
                let period = if unit == "Years" { Period::Years(number) } else { Period::Days(number) };
                Ok(Rule(Some((Mode::parse(mode).ok_or_else(bad)?, period))))
            }
            _ => Err(bad()),
        }
    }

    /// From an `ObjectLockConfiguration`.
    pub fn of_xml(root: &Node) -> Result<Rule> {
        if root.need("ObjectLockEnabled")? != "Enabled" {
            return Err(Code::MalformedXML.into());
        }
        let Some(rule) = root.child("Rule") else { return Ok(Rule(None)) };
        let default = rule.child("DefaultRetention").ok_or(Code::MalformedXML)?;
        let mode = Mode::parse(default.need("Mode")?).ok_or(Code::MalformedXML)?;
        let number = |text: &str| text.trim().parse::<i64>().map_err(|_| Error::from(Code::MalformedXML));
        let (given, unit): (i64, fn(u64) -> Period) = match (default.get("Days"), default.get("Years")) {
            (Some(days), None) => (number(days)?, Period::Days),
            (None, Some(years)) => (number(years)?, Period::Years),
            _ => return Err(Code::MalformedXML.into()),
        };
        let period = unit(u64::try_from(given).unwrap_or(0));
        let (_, number, days) = period.parts();
        match number.checked_mul(days) {
            Some(1..=DAYS_MAX) => Ok(Rule(Some((mode, period)))),
            _ => Err(Error::new(
                Code::InvalidRetentionPeriod,
                "Default retention period must be a positive integer value of at most 100 years",
            )),
        }
    }

    /// The document.
    pub fn to_xml(self) -> String {
        let mut xml = Xml::new("ObjectLockConfiguration");
        xml.text("ObjectLockEnabled", "Enabled");
        if let Some((mode, period)) = self.0 {
            let (unit, number, _) = period.parts();
            xml.open("Rule").open("DefaultRetention").text("Mode", mode.name()).number(unit, number);
            xml.close("DefaultRetention").close("Rule");
        }
        xml.finish("ObjectLockConfiguration")
    }

    /// The retention of a version that is written now and asks for none.
    pub fn retention(self, now: Wall) -> Option<Retention> {
        let (mode, period) = self.0?;
        let (_, number, days) = period.parts();
        Some(Retention { mode, until: Wall(now.0 + number * days * DAY_MS) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retention(mode: Mode, until: u64) -> Retention {
        Retention { mode, until: Wall(until) }
    }

    #[test]
    fn a_lock_reads_back() {
        for lock in [
            Lock::default(),
            Lock { retention: Some(retention(Mode::Compliance, 5)), hold: Some(true) },
            Lock { retention: Some(retention(Mode::Governance, u64::MAX)), hold: Some(false) },
        ] {
            let mut found = Attrs::new();
            lock.store(&mut found);
            assert_eq!(Lock::of(&found).unwrap(), lock);
        }
        assert!(Lock::of(&Attrs::from([(RETENTION.to_owned(), b"nonsense".to_vec())])).is_err());
        for rule in [
            Rule(None),
            Rule(Some((Mode::Governance, Period::Days(3)))),
            Rule(Some((Mode::Compliance, Period::Years(1)))),
        ] {
            assert_eq!(Rule::decode(&rule.encode()).unwrap(), rule);
            assert_eq!(Rule::of_xml(&crate::xml::parse(rule.to_xml().as_bytes()).unwrap()).unwrap(), rule);
        }
        assert!(Rule::decode(b"off").is_err());
    }

    #[test]
    fn locks_hold_until_their_time_and_compliance_for_everybody() {
        let (governed, complied) = (retention(Mode::Governance, 10), retention(Mode::Compliance, 10));
        for (retention, hold, now, bypass, stays) in [
            (Some(governed), None, 9, false, true),
            (Some(governed), None, 9, true, false),
            (Some(governed), None, 10, false, false),
            (Some(complied), None, 9, true, true),
            (Some(complied), None, 10, false, false),
            (None, Some(true), 99, true, true),
            (None, Some(false), 0, false, false),
            (None, None, 0, false, false),
        ] {
            let lock = Lock { retention, hold };
            assert_eq!(lock.forbids_removal(Wall(now), bypass), stays, "{lock:?} at {now}, bypass {bypass}");
        }
    }

    #[test]
    fn a_retention_yields_to_longer_ones_alone() {
        use Mode::{Compliance, Governance};
        for (mode, next, until, bypass, yes) in [
            (Governance, Governance, 11, false, true),
            (Governance, Governance, 9, false, false),
            (Governance, Governance, 9, true, true),
            (Governance, Compliance, 11, false, false),
            (Governance, Compliance, 11, true, true),
            (Compliance, Compliance, 11, false, true),
            (Compliance, Compliance, 9, true, false),
            (Compliance, Governance, 11, true, false),
        ] {
            let yields = retention(mode, 10).yields_to(retention(next, until), Wall(5), bypass);
            assert_eq!(yields, yes, "{mode:?} to {next:?} until {until}, bypass {bypass}");
        }
        assert!(retention(Compliance, 10).yields_to(retention(Governance, 1), Wall(10), false));
    }
}
