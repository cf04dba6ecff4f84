//! The trail: every plan that was applied, for ever. Unlike events its rows are never dropped.

use base::Wall;
use base::kv::{Batch, View};
use codec::{Reader, Versioned, Writer};

use super::bucket::TEXT_BYTES_MAX;
use super::{keys, scan};
use crate::error::Error;
use crate::keys::tail;

/// A plan that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Counted from 1; set when it is added.
    pub number: u64,
    /// When.
    pub at: Wall,
    /// The name of the node on which it was asked for.
    pub node: String,
    /// What was done, as people say it.
    pub change: String,
    /// What it came to when it was judged: a line each.
    pub outcome: Vec<String>,
    /// The reasons against it that its code overrode; empty if it was permitted.
    pub overridden: Vec<String>,
}

/// Lines of an outcome, and reasons, at the most.
const LINES_MAX: usize = 64;

impl Versioned for Applied {
    const NAME: &'static str = "applied plan";
    const MARK: [u8; 4] = *b"caTr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.number).u64(self.at.0).str(&self.node).str(&self.change);
        for lines in [&self.outcome, &self.overridden] {
            to.u8(lines.len().min(LINES_MAX) as u8);
            lines.iter().take(LINES_MAX).for_each(|line| _ = to.str(line));
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let (number, at) = (from.u64("number")?, Wall(from.u64("time")?));
        let node = from.str("node", TEXT_BYTES_MAX)?.to_owned();
        let change = from.str("change", TEXT_BYTES_MAX)?.to_owned();
        let mut lines = || -> Result<Vec<String>, codec::Error> {
            let len = usize::from(from.u8("lines")?);
            if len > LINES_MAX {
                return Err(codec::Error::TooLong { what: "lines", len, max: LINES_MAX });
            }
            (0..len).map(|_| Ok(from.str("line", TEXT_BYTES_MAX)?.to_owned())).collect()
        };
        Ok(Self { number, at, node, change, outcome: lines()?, overridden: lines()? })
    }
}

/// Adds a plan at the end of the trail, under the next number. Texts are cut to what a row holds.
///
/// # Errors
/// If the last row can't be read.
pub fn add_applied(view: &dyn View, mut applied: Applied) -> Result<Batch, Error> {
    let end = crate::keys::end(keys::TRAIL);
    let last = view.range(keys::TRAIL..end.as_slice(), 1, true)?.pop();
    applied.number = 1 + last.map_or(Ok(0), |(key, _)| tail(&key, "trail key").map(u64::from_be_bytes))?;
    let texts = [&mut applied.node, &mut applied.change].into_iter();
    let lines = applied.outcome.iter_mut().chain(&mut applied.overridden);
    texts.chain(lines).for_each(super::event::cut);
    let mut batch = Batch::default();
    batch.put([keys::TRAIL, &applied.number.to_be_bytes()].concat(), applied.encode());
    Ok(batch)
}

/// Plans that were applied, in order, those after number `after`.
///
/// # Errors
/// If a row can't be read.
pub fn applied(view: &dyn View, after: u64, limit: usize) -> Result<Vec<Applied>, Error> {
    scan(view, keys::TRAIL, Some(&after.to_be_bytes()), limit)
}

/// The newest plans that were applied, the last one first.
///
/// # Errors
/// If a row can't be read.
pub fn last_applied(view: &dyn View, limit: usize) -> Result<Vec<Applied>, Error> {
    let end = crate::keys::end(keys::TRAIL);
    let rows = view.range(keys::TRAIL..end.as_slice(), limit, true)?;
    rows.into_iter().map(|(_, value)| Ok(Applied::decode(&value)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn plan(change: &str) -> Applied {
        let outcome = vec!["12 segments with 1 spare pieces".into(), "90 bytes to move".into()];
        let (node, change) = ("attic".into(), change.into());
        Applied { number: 7, at: Wall(5), node, change, outcome, overridden: vec!["site down".into()] }
    }

    /// docs/formats/namespace.md, "a".
    #[test]
    fn applied_plans_have_the_bytes_that_were_released() {
        let hex = include_str!("../../tests/applied-v1.hex").trim();
        let mut bytes = vec![0; hex.len() / 2];
        assert!(base::ids::unhex(hex, &mut bytes), "the fixture is not hex");
        assert_eq!(Applied::decode(&bytes).unwrap(), plan("drain node n3"), "the released bytes read back");
        assert_eq!(base::ids::hex(&plan("drain node n3").encode()), hex, "this release writes them");
        (0..bytes.len()).for_each(|cut| assert!(Applied::decode(&bytes[..cut]).is_err()));
    }

    #[test]
    fn the_trail_grows_at_its_end_and_nothing_of_it_goes() {
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for change in ["one", "two", "three"] {
            let batch = add_applied(&rows, plan(change)).unwrap();
            assert!(batch.dels.is_empty() && batch.range_dels.is_empty());
            rows.extend(batch.puts);
        }
        let all = applied(&rows, 0, 10).unwrap();
        let told: Vec<(u64, &str)> = all.iter().map(|one| (one.number, one.change.as_str())).collect();
        assert_eq!(told, [(1, "one"), (2, "two"), (3, "three")]);
        assert_eq!(applied(&rows, 2, 10).unwrap().len(), 1);
        let newest: Vec<u64> = last_applied(&rows, 2).unwrap().iter().map(|one| one.number).collect();
        assert_eq!(newest, [3, 2]);
        let long = Applied { change: "x".repeat(100_000), outcome: vec!["y".repeat(9000); 300], ..plan("") };
        rows.extend(add_applied(&rows, long).unwrap().puts);
        let last = applied(&rows, 3, 1).unwrap().pop().unwrap();
        assert_eq!((last.number, last.change.len(), last.outcome.len()), (4, TEXT_BYTES_MAX, LINES_MAX));
    }
}
