//! What is shown of a history that no order explains.

use std::collections::BTreeSet;
use std::fmt;

use super::search::{Found, Problem};
use super::{Call, Limits, Moment, Op, Outcome};

/// Reads are left out one by one only up to so many operations: each costs a search.
const REDUCED_MAX: usize = 400;
/// Rows shown at the most.
const ROWS_MAX: usize = 40;
/// Characters of the drawing.
const BAR_CHARS: usize = 48;

/// Operations of a key that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which key.
    pub key: String,
    /// Up to its response the history can't be explained, up to just before it can.
    pub culprit: Op,
    /// The operations that matter, by the time of their calls: those concurrent with the culprit,
    /// the reads without which all could be explained, the writes that they name. What was not
    /// answered by then is shown as open.
    pub shown: Vec<Op>,
    /// Operations up to the culprit's response that are not shown.
    pub hidden: usize,
}

/// The history as it was known at `end`.
fn until(ops: &[Op], end: Moment) -> Vec<Op> {
    let known = ops.iter().filter(|op| op.invoked <= end);
    let cut = known.map(|op| match op.returned {
        Some(returned) if returned <= end => *op,
        _ => Op { outcome: Outcome::Unknown, returned: None, ..*op },
    });
    cut.collect()
}

fn is_impossible(ops: &[Op], limits: Limits) -> bool {
    matches!(Problem::of(ops).solve(limits.steps), Found::None)
}

/// The explanation of a history that is known to have no order. A history that can't be explained
/// can't be with more at its end either; so the shortest such beginning is found by halving.
pub fn violation(key: &str, ops: &[Op], limits: Limits) -> Violation {
    // Refused ones did nothing, from the beginning on.
    let ops: Vec<Op> = ops.iter().filter(|op| op.outcome != Outcome::Refused).copied().collect();
    let ops = ops.as_slice();
    let mut ends: Vec<(Moment, Op)> = Vec::new();
    for op in ops.iter().filter(|op| op.outcome != Outcome::Unknown) {
        ends.extend(op.returned.map(|returned| (returned, *op)));
    }
    ends.sort_by_key(|(returned, op)| (*returned, op.invoked));
    let (mut low, mut high) = (0, ends.len().saturating_sub(1));
    while low < high {
        let middle = (low + high) / 2;
        if is_impossible(&until(ops, ends[middle].0), limits) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let Some((end, culprit)) = ends.get(high).copied() else {
        // Without any answer everything can be explained: never asked for.
        let culprit = ops.first().copied().unwrap_or(Op {
            client: 0,
            call: Call::Get,
            outcome: Outcome::Unknown,
            invoked: Moment { at: 0, order: 0 },
            returned: None,
        });
        return Violation { key: key.to_owned(), culprit, shown: ops.to_vec(), hidden: 0 };
    };
    let beginning = until(ops, end);
    let all = beginning.len();
    let mut shown = matter(&reduced(beginning, culprit, limits), culprit);
    shown.sort_by_key(|op| op.invoked);
    Violation { key: key.to_owned(), culprit, hidden: all - shown.len(), shown }
}

/// Without the operations that change nothing and are not needed for the contradiction: what
/// can't be explained without a read can't be with it.
fn reduced(mut ops: Vec<Op>, culprit: Op, limits: Limits) -> Vec<Op> {
    let changes_nothing = |op: &Op| op.call.is_read() || op.outcome == Outcome::PreconditionFailed;
    ops.retain(|op| !(op.call.is_read() && op.outcome == Outcome::Unknown));
    if ops.len() > REDUCED_MAX {
        return ops;
    }
    let mut at = 0;
    while at < ops.len() {
        if changes_nothing(&ops[at]) && ops[at] != culprit {
            let op = ops.remove(at);
            if is_impossible(&ops, limits) {
                continue;
            }
            ops.insert(at, op);
        }
        at += 1;
    }
    ops
}

/// What belongs on the table.
fn matter(ops: &[Op], culprit: Op) -> Vec<Op> {
    let meets = |op: &Op| op.returned.is_none_or(|returned| returned >= culprit.invoked);
    let is_few = ops.len() <= REDUCED_MAX;
    let mut named: BTreeSet<Option<u64>> = BTreeSet::new();
    for op in ops.iter().filter(|op| is_few || meets(op)) {
        if let Outcome::Found(value) = op.outcome {
            named.insert(value);
        }
        if let Call::PutIfMatch { expected, .. } = op.call {
            named.insert(Some(expected));
        }
    }
    let last_write = ops
        .iter()
        .filter(|op| op.outcome == Outcome::Done && op.returned.is_some_and(|returned| returned < culprit.invoked))
        .max_by_key(|op| op.returned);
    let is_shown = |op: &&Op| {
        let is_named = op
            .call
            .writes()
            .map_or(op.call == Call::Delete && named.contains(&None), |value| named.contains(&Some(value)));
        let is_kept = is_few && (op.call.is_read() || op.outcome == Outcome::PreconditionFailed);
        meets(op) || is_kept || is_named || Some(*op) == last_write
    };
    ops.iter().filter(is_shown).copied().collect()
}

/// `put 7: done`.
fn text(op: &Op) -> String {
    let call = match op.call {
        Call::Put(value) => format!("put {value}"),
        Call::Get => "get".to_owned(),
        Call::Head => "head".to_owned(),
        Call::Delete => "delete".to_owned(),
        Call::PutIfAbsent(value) => format!("put {value} if absent"),
        Call::PutIfMatch { value, expected } => format!("put {value} if {expected}"),
    };
    match op.outcome {
        Outcome::Done => format!("{call}: done"),
        Outcome::Found(Some(value)) => format!("{call}: found {value}"),
        Outcome::Found(None) => format!("{call}: found nothing"),
        Outcome::PreconditionFailed => format!("{call}: precondition failed"),
        Outcome::Refused => format!("{call}: refused"),
        Outcome::Unknown => format!("{call}: no answer yet"),
    }
}

fn millis(moment: Moment) -> String {
    format!("{}.{:03}", moment.at / 1_000_000, moment.at / 1_000 % 1_000)
}

/// Where on the drawing each operation lies: moments by their rank, not by their distance.
fn bar(op: &Op, moments: &[Moment]) -> String {
    let column = |moment: Moment| {
        let rank = moments.partition_point(|other| *other < moment);
        rank * (BAR_CHARS - 1) / moments.len().max(2).saturating_sub(1)
    };
    let from = column(op.invoked).min(BAR_CHARS - 1);
    let to = op.returned.map_or(BAR_CHARS - 1, column).clamp(from, BAR_CHARS - 1);
    let end = if op.returned.is_some() { '|' } else { '>' };
    let mut bar: Vec<char> = vec![' '; BAR_CHARS];
    bar[from..=to].fill('-');
    bar[from] = '|';
    if to > from {
        bar[to] = end;
    }
    bar.into_iter().collect()
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "not linearizable: no order explains what was seen of {:?}; it breaks at the line with *",
            self.key
        )?;
        let mut moments: Vec<Moment> =
            self.shown.iter().flat_map(|op| [Some(op.invoked), op.returned]).flatten().collect();
        moments.sort_unstable();
        moments.dedup();
        writeln!(out, "  {:>12} {:>12}  client  {:BAR_CHARS$}  operation", "from ms", "to ms", "")?;
        // The end is where it breaks.
        let skipped = self.shown.len().saturating_sub(ROWS_MAX);
        for op in &self.shown[skipped..] {
            let mark = if *op == self.culprit { '*' } else { ' ' };
            let to = op.returned.map_or_else(|| "open".to_owned(), millis);
            let (from, bar, text) = (millis(op.invoked), bar(op, &moments), text(op));
            writeln!(out, "{mark} {from:>12} {to:>12}  {:>6}  {bar}  {text}", op.client)?;
        }
        match self.hidden + skipped {
            0 => Ok(()),
            hidden => writeln!(out, "  and {hidden} earlier operations that are not shown"),
        }
    }
}
