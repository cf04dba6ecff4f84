//! All keys of a small history at once, each page of a listing one cut through them.

use std::collections::{BTreeMap, HashSet};

use super::{Call, History, Limits, Moment, Op, Outcome, Verdict, check_within, explain::Violation};

/// Operations and listings that can be checked so: their set is one word.
pub const OPERATIONS_MAX: usize = 128;

/// What all keys hold.
type Bucket = BTreeMap<String, u64>;

/// A step of the whole bucket.
enum Deed<'a> {
    Op(&'a str, &'a Op),
    List(&'a super::Listing),
}

struct Step<'a> {
    deed: Deed<'a>,
    invoked: Moment,
    /// Open ones have none.
    returned: Option<Moment>,
}

/// Checks a history with all its listings as single cuts: first key by key, then, if that is
/// well and there are few enough operations, all together.
pub fn check_strictly(history: &History, limits: Limits) -> Verdict {
    let verdict = check_within(history, limits);
    if verdict != Verdict::Linearizable || history.listings.is_empty() {
        return verdict;
    }
    let steps = steps_of(history);
    if steps.len() > OPERATIONS_MAX {
        return Verdict::Undecided { key: "(all keys)".to_owned(), steps: 0 };
    }
    match search(&steps, limits.steps) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Violation(Box::new(torn(history))),
        None => Verdict::Undecided { key: "(all keys)".to_owned(), steps: limits.steps },
    }
}

fn steps_of(history: &History) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for (key, ops) in &history.keys {
        for op in ops {
            let is_open = op.outcome == Outcome::Unknown;
            if op.outcome == Outcome::Refused || (is_open && op.call.is_read()) {
                continue;
            }
            let returned = op.returned.filter(|_| !is_open);
            steps.push(Step { deed: Deed::Op(key, op), invoked: op.invoked, returned });
        }
    }
    for listing in &history.listings {
        let (invoked, returned) = (listing.invoked, Some(listing.returned));
        steps.push(Step { deed: Deed::List(listing), invoked, returned });
    }
    steps
}

/// The bucket after the step; `None` if the step can't have seen this one.
fn after(step: &Step<'_>, bucket: &Bucket) -> Option<Bucket> {
    let (key, op) = match step.deed {
        Deed::List(listing) => {
            let covered = bucket.iter().filter(|(key, _)| listing.covers(key));
            return covered.eq(listing.seen.iter()).then(|| bucket.clone());
        }
        Deed::Op(key, op) => (key, op),
    };
    let now = bucket.get(key).copied();
    let failed = op.outcome == Outcome::PreconditionFailed;
    let (fits, then) = match op.call {
        Call::Get | Call::Head => (op.outcome == Outcome::Found(now), now),
        Call::Put(value) => (true, Some(value)),
        Call::Delete => (true, None),
        Call::PutIfAbsent(value) => (now.is_none() != failed, if failed { now } else { Some(value) }),
        Call::PutIfMatch { value, expected } => {
            ((now == Some(expected)) != failed, if failed { now } else { Some(value) })
        }
    };
    fits.then(|| {
        let mut bucket = bucket.clone();
        match then {
            Some(value) => bucket.insert(key.to_owned(), value),
            None => bucket.remove(key),
        };
        bucket
    })
}

/// Whether an order explains all steps; `None` if that is not known after so many states.
fn search(steps: &[Step<'_>], steps_max: u64) -> Option<bool> {
    let must: u128 = steps.iter().enumerate().filter(|(_, step)| step.returned.is_some()).map(|(at, _)| 1 << at).sum();
    let mut tried: HashSet<(u128, Bucket)> = HashSet::new();
    let mut ahead: Vec<(u128, Bucket)> = vec![(0, Bucket::new())];
    while let Some((done, bucket)) = ahead.pop() {
        if done & must == must {
            return Some(true);
        }
        if !tried.insert((done, bucket.clone())) {
            continue;
        }
        if tried.len() as u64 > steps_max {
            return None;
        }
        let waiting = || steps.iter().enumerate().filter(|(at, _)| done >> at & 1 == 0);
        let first_end = waiting().filter_map(|(_, step)| step.returned).min();
        for (at, step) in waiting() {
            if first_end.is_none_or(|end| step.invoked <= end)
                && let Some(then) = after(step, &bucket)
            {
                ahead.push((done | 1 << at, then));
            }
        }
    }
    Some(false)
}

/// Key by key all is well, so a listing is torn: the last one stands for it.
fn torn(history: &History) -> Violation {
    let mut shown: Vec<Op> = history.keys.values().flatten().copied().collect();
    shown.sort_by_key(|op| op.invoked);
    let last = history.listings.iter().max_by_key(|listing| listing.returned);
    let client = last.map_or(0, |listing| listing.client);
    let zero = Moment { at: 0, order: 0 };
    let culprit = Op {
        client,
        call: Call::Head,
        outcome: Outcome::Unknown,
        invoked: last.map_or(zero, |listing| listing.invoked),
        returned: last.map(|listing| listing.returned),
    };
    Violation { key: "(a listing is no single cut through all keys)".to_owned(), culprit, shown, hidden: 0 }
}
