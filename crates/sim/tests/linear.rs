//! The linearizability checker against textbook histories, and against two others: one that tries
//! every order, and the published one of `todc-utils`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use sim::chance::Chance;
use sim::linear::Call::{Delete, Get, Head, Put, PutIfAbsent, PutIfMatch};
use sim::linear::Outcome::{Done, Found, PreconditionFailed, Refused, Unknown};
use sim::linear::{
    Call, History, Limits, Listing, Moment, Op, Outcome, Verdict, check, check_strictly, check_within, order_of,
};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::Specification;

fn moment(at: u64) -> Moment {
    Moment { at, order: at }
}

/// An operation of the time from `span.0` to `span.1`.
fn op(span: (u64, u64), client: u32, call: Call, outcome: Outcome) -> Op {
    let returned = (outcome != Unknown).then_some(moment(span.1));
    Op { client, call, outcome, invoked: moment(span.0), returned }
}

fn of_key(ops: &[Op]) -> History {
    History { keys: BTreeMap::from([("k".to_owned(), ops.to_vec())]), listings: Vec::new() }
}

fn fine(ops: &[Op]) {
    assert_eq!(check(&of_key(ops)), Verdict::Linearizable);
}

/// Broken, and by the answer of the operation at this place.
fn broken(ops: &[Op], culprit: usize) -> String {
    match check(&of_key(ops)) {
        Verdict::Violation(violation) => {
            assert_eq!(violation.culprit, ops[culprit], "{violation}");
            violation.to_string()
        }
        verdict => panic!("{verdict}: {ops:?}"),
    }
}

#[test]
fn a_read_after_a_write_was_acknowledged_must_see_it() {
    let put = op((1, 2), 1, Put(1), Done);
    fine(&[put, op((3, 4), 2, Get, Found(Some(1)))]);
    broken(&[put, op((3, 4), 2, Get, Found(None))], 1);
    broken(&[put, op((3, 4), 2, Put(2), Done), op((5, 6), 1, Head, Found(Some(1)))], 2);
}

#[test]
fn a_read_during_a_write_sees_either() {
    let put = op((1, 10), 1, Put(1), Done);
    fine(&[put, op((2, 3), 2, Get, Found(None)), op((4, 5), 2, Get, Found(Some(1)))]);
    broken(&[put, op((2, 3), 2, Get, Found(Some(1))), op((4, 5), 3, Get, Found(None))], 2);
}

#[test]
fn a_lost_update_is_seen() {
    // Both swaps of the same value can't have been made.
    let first = op((1, 2), 1, Put(1), Done);
    let swap = |span, client, value| op(span, client, PutIfMatch { value, expected: 1 }, Done);
    broken(&[first, swap((3, 6), 1, 2), swap((4, 7), 2, 3)], 2);
    let failed = op((4, 7), 2, PutIfMatch { value: 3, expected: 1 }, PreconditionFailed);
    fine(&[first, swap((3, 6), 1, 2), failed]);
    // Nor can both have made the object.
    let made = |span, client, value| op(span, client, PutIfAbsent(value), Done);
    broken(&[made((1, 4), 1, 1), made((2, 5), 2, 2)], 1);
}

#[test]
fn two_readers_see_two_writes_in_one_order() {
    let writes = [op((1, 20), 1, Put(1), Done), op((1, 20), 2, Put(2), Done)];
    let reads =
        |client, one, two| [op((2, 3), client, Get, Found(Some(one))), op((6, 7), client, Get, Found(Some(two)))];
    fine(&[writes.as_slice(), &reads(3, 1, 2), &reads(4, 1, 2)].concat());
    broken(&[writes.as_slice(), &reads(3, 1, 2), &[op((8, 9), 4, Get, Found(Some(1)))]].concat(), 4);
    let opposite = [writes.as_slice(), &reads(3, 1, 2), &reads(4, 2, 1)].concat();
    assert!(matches!(check(&of_key(&opposite)), Verdict::Violation(_)));
}

#[test]
fn a_write_without_an_answer_comes_at_any_time_or_never_but_does_not_go_again() {
    let (base, open) = (op((3, 4), 1, Put(1), Done), op((5, 0), 2, Put(2), Unknown));
    let get = |at, value| op((at, at + 1), 3, Get, Found(Some(value)));
    fine(&[base, open]);
    fine(&[base, open, get(50, 1)]);
    fine(&[base, open, get(50, 1), get(60, 2)]);
    broken(&[base, open, get(50, 2), get(60, 1)], 3);
    broken(&[base, open, op((1, 2), 4, Get, Found(Some(2)))], 2);
    // An open removal may follow once, not twice.
    let gone = op((5, 0), 2, Delete, Unknown);
    let nothing = |at| op((at, at + 1), 3, Get, Found(None));
    fine(&[base, gone, get(50, 1), nothing(60)]);
    broken(&[base, gone, nothing(60), op((62, 63), 1, Put(3), Done), nothing(70)], 4);
}

#[test]
fn conditions_tell_what_was_there() {
    let absent = |span, value, outcome| op(span, 1, PutIfAbsent(value), outcome);
    fine(&[absent((1, 2), 1, Done), absent((3, 4), 2, PreconditionFailed), op((5, 6), 1, Get, Found(Some(1)))]);
    broken(&[absent((1, 2), 1, PreconditionFailed)], 0);
    // The failed one was applied all the same.
    broken(&[absent((1, 2), 1, Done), absent((3, 4), 2, PreconditionFailed), op((5, 6), 1, Get, Found(Some(2)))], 2);
    // An open write that nobody saw explains why there was something.
    fine(&[op((1, 0), 2, Put(9), Unknown), absent((3, 4), 1, PreconditionFailed)]);
    // And one removal explains one absence.
    let (put, removed) = (op((1, 2), 1, Put(1), Done), op((3, 4), 1, Delete, Done));
    broken(&[put, removed, absent((5, 6), 2, Done), absent((7, 8), 3, Done)], 3);
    fine(&[put, removed, absent((5, 6), 2, Done), op((5, 0), 4, Delete, Unknown), absent((7, 8), 3, Done)]);
}

#[test]
fn refused_operations_have_no_effect() {
    let refused = op((3, 4), 2, Put(2), Refused);
    fine(&[op((1, 2), 1, Put(1), Done), refused, op((5, 6), 1, Get, Found(Some(1)))]);
    broken(&[op((1, 2), 1, Put(1), Done), refused, op((5, 6), 1, Get, Found(Some(2)))], 2);
}

#[test]
fn what_was_recorded_wrongly_is_said() {
    for ops in [
        vec![op((1, 2), 1, Get, Done)],
        vec![op((1, 2), 1, Put(1), Found(None))],
        vec![op((3, 2), 1, Put(1), Done)],
        vec![op((1, 2), 1, Put(1), Done), op((3, 4), 1, Put(1), Unknown)],
        vec![op((1, 2), 1, PutIfMatch { value: 1, expected: 1 }, Done)],
    ] {
        assert!(matches!(check(&of_key(&ops)), Verdict::Malformed { .. }), "{ops:?}");
    }
}

#[test]
fn a_violation_reads_as_a_table() {
    let mut ops: Vec<Op> = (0..30).map(|at| op((at * 2 + 1, at * 2 + 2), 1, Put(at), Done)).collect();
    ops.extend((0..30).map(|at| op((at * 2 + 2, at * 2 + 3), 2, Get, Found(Some(at)))));
    ops.push(op((1_000_000, 5_000_000), 3, Put(77), Done));
    ops.push(op((2_000_000, 4_000_000), 4, Get, Found(Some(28))));
    ops.push(op((6_000_000, 7_000_000), 4, Get, Found(Some(77))));
    let text = broken(&ops, 61);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("\"k\""), "{text}");
    assert_eq!(lines.iter().filter(|line| line.starts_with('*')).count(), 1, "{text}");
    let marked = lines.iter().find(|line| line.starts_with('*')).unwrap();
    assert!(marked.contains("2.000") && marked.contains("4.000") && marked.ends_with("get: found 28"), "{text}");
    // The stale value's write, the one that ended it and the one under way; nothing else.
    assert!(text.contains("put 28: done") && text.contains("put 29: done"), "{text}");
    assert!(text.contains("put 77: no answer yet") && text.contains("and 58 earlier"), "{text}");
    assert_eq!(lines.len(), 7, "{text}");
}

fn listing(span: (u64, u64), seen: &[(&str, u64)]) -> Listing {
    Listing {
        client: 9,
        prefix: String::new(),
        after: String::new(),
        until: None,
        seen: seen.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
        invoked: moment(span.0),
        returned: moment(span.1),
    }
}

#[test]
fn a_listing_shows_each_key_as_it_was_at_some_time_of_the_listing() {
    let keys = BTreeMap::from([
        ("a".to_owned(), vec![op((1, 2), 1, Put(1), Done), op((10, 11), 1, Delete, Done)]),
        ("b".to_owned(), vec![op((14, 15), 1, Put(2), Done)]),
    ]);
    let verdict = |listing| check(&History { keys: keys.clone(), listings: vec![listing] });
    assert_eq!(verdict(listing((3, 4), &[("a", 1)])), Verdict::Linearizable);
    assert_eq!(verdict(listing((12, 13), &[])), Verdict::Linearizable);
    for wrong in [
        listing((3, 4), &[]),
        listing((12, 13), &[("a", 1)]),
        listing((3, 4), &[("a", 1), ("b", 2)]),
        listing((3, 4), &[("a", 1), ("nobody's", 3)]),
    ] {
        assert!(matches!(verdict(wrong.clone()), Verdict::Violation(_)), "{wrong:?}");
    }
    // A page says nothing of what it wasn't asked for.
    let page = |after: &str, until: Option<&str>| Listing {
        after: after.to_owned(),
        until: until.map(str::to_owned),
        ..listing((3, 4), &[])
    };
    assert_eq!(verdict(page("a", None)), Verdict::Linearizable);
    assert!(matches!(verdict(page("", Some("a"))), Verdict::Violation(_)));
    assert_eq!(verdict(page("", Some("A"))), Verdict::Linearizable);
}

#[test]
fn a_listing_that_is_no_single_cut_is_found_by_the_strict_check_alone() {
    // There was never a moment at which only b was there: a was put before b.
    let keys = BTreeMap::from([
        ("a".to_owned(), vec![op((2, 3), 1, Put(1), Done)]),
        ("b".to_owned(), vec![op((4, 5), 1, Put(2), Done)]),
    ]);
    let torn = History { keys: keys.clone(), listings: vec![listing((1, 6), &[("b", 2)])] };
    assert_eq!(check(&torn), Verdict::Linearizable);
    assert!(matches!(check_strictly(&torn, Limits::default()), Verdict::Violation(_)));
    let whole = History { keys, listings: vec![listing((1, 6), &[("a", 1)])] };
    assert_eq!(check_strictly(&whole, Limits::default()), Verdict::Linearizable);
}

/// The key's value after the operation; `None` if it can't have had this result. The tests' own.
fn apply(op: &Op, now: Option<u64>) -> Option<Option<u64>> {
    match (op.call, op.outcome) {
        (Get | Head, Found(seen)) => (seen == now).then_some(now),
        (Put(value), Done | Unknown) => Some(Some(value)),
        (Delete, Done | Unknown) => Some(None),
        (PutIfAbsent(value), Done) => now.is_none().then_some(Some(value)),
        (PutIfAbsent(_), PreconditionFailed) => now.is_some().then_some(now),
        (PutIfAbsent(value), Unknown) => Some(now.or(Some(value))),
        (PutIfMatch { value, expected }, Done) => (now == Some(expected)).then_some(Some(value)),
        (PutIfMatch { expected, .. }, PreconditionFailed) => (now != Some(expected)).then_some(now),
        (PutIfMatch { value, expected }, Unknown) => Some(if now == Some(expected) { Some(value) } else { now }),
        _ => Some(now),
    }
}

/// Every order of the operations that real time allows, open ones left out or not.
fn brute(left: &[Op], now: Option<u64>) -> bool {
    if left.iter().all(|op| op.outcome == Unknown) {
        return true;
    }
    (0..left.len()).any(|at| {
        let next = left[at];
        let mut rest = left.to_vec();
        rest.remove(at);
        let is_late = rest.iter().any(|other| other.returned.is_some_and(|returned| returned < next.invoked));
        !is_late && apply(&next, now).is_some_and(|then| brute(&rest, then))
    })
}

struct Register;

impl Specification for Register {
    type State = Option<u64>;
    type Operation = Op;

    fn init() -> Self::State {
        None
    }

    fn apply(op: &Op, state: &Self::State) -> (bool, Self::State) {
        apply(op, *state).map_or((false, *state), |then| (true, then))
    }
}

/// The published checker's word. It knows no open operations: theirs end last, after all others,
/// where an effect harms nobody.
fn published(ops: &[Op]) -> bool {
    let mut events = Vec::new();
    for (process, op) in ops.iter().enumerate() {
        let end = op.returned.map_or(u64::MAX, |returned| returned.at);
        events.push(((op.invoked.at, 0), (process, Action::Call(*op))));
        events.push(((end, 1), (process, Action::Response(*op))));
    }
    events.sort_by_key(|(time, (process, _))| (*time, *process));
    events.is_empty()
        || WGLChecker::<Register>::is_linearizable(Actions::from_actions(
            events.into_iter().map(|(_, action)| action).collect(),
        ))
}

/// A history that a right register made: each operation at a moment within its time.
fn made(chance: &mut Chance, count: u64, clients: u64, span: u64, open_percent: u64) -> Vec<Op> {
    let mut free: Vec<u64> = (0..clients).map(|_| chance.below(span)).collect();
    let mut planned: Vec<(u64, u64, Op)> = Vec::new();
    for serial in 1..=count {
        let client = chance.below(clients) as usize;
        let from = free[client] + 1 + chance.below(span);
        let at = from + chance.below(span);
        let to = at + chance.below(span);
        free[client] = to;
        let call = match chance.below(10) {
            0..3 => Put(serial),
            3..6 => Get,
            6 => Delete,
            7 => PutIfAbsent(serial),
            _ => PutIfMatch { value: serial, expected: 0 },
        };
        planned.push((at, serial, op((from, to), client as u32, call, Done)));
    }
    planned.sort_by_key(|(at, serial, _)| (*at, *serial));
    let (mut now, mut last) = (None, 0);
    let mut ops = Vec::new();
    for (_, _, mut op) in planned {
        let is_open = chance.percent(open_percent);
        if let PutIfMatch { value, .. } = op.call {
            let expected = if chance.percent(70) { now.unwrap_or(last) } else { last };
            op.call = PutIfMatch { value, expected };
        }
        let takes_effect = !is_open || chance.percent(50);
        op.outcome = match op.call {
            Get | Head => Found(now),
            Put(_) | Delete => Done,
            PutIfAbsent(_) => {
                if now.is_none() {
                    Done
                } else {
                    PreconditionFailed
                }
            }
            PutIfMatch { expected, .. } => {
                if now == Some(expected) {
                    Done
                } else {
                    PreconditionFailed
                }
            }
        };
        if takes_effect {
            last = now.unwrap_or(last);
            now = apply(&op, now).unwrap();
        }
        if is_open {
            (op.outcome, op.returned) = (Unknown, None);
        }
        ops.push(op);
    }
    ops
}

/// One answer or one time is another.
fn mutate(chance: &mut Chance, ops: &mut [Op]) {
    let (at, count) = (chance.below(ops.len() as u64) as usize, ops.len() as u64);
    let op = &mut ops[at];
    match (op.call, op.outcome, chance.below(3)) {
        (_, _, 0) => {
            // Shorter, or elsewhere.
            let from = chance.below(op.invoked.at + 8);
            op.invoked = moment(from);
            op.returned = op.returned.map(|_| moment(from + chance.below(4)));
        }
        (_, Unknown, _) => {}
        (Get | Head, ..) => op.outcome = Found(Some(chance.below(count + 1)).filter(|value| *value > 0)),
        (PutIfAbsent(_) | PutIfMatch { .. }, Done, _) => op.outcome = PreconditionFailed,
        (PutIfAbsent(_) | PutIfMatch { .. }, ..) => op.outcome = Done,
        (Put(_) | Delete, ..) => op.outcome = Refused,
    }
}

/// Whether our order is one: every operation that must be in it, at its time, with its result.
fn is_order(ops: &[Op], order: &[usize]) -> bool {
    let mut now = None;
    for (nth, at) in order.iter().enumerate() {
        let Some(then) = apply(&ops[*at], now) else { return false };
        now = then;
        if order[nth + 1..].iter().any(|later| ops[*later].returned.is_some_and(|end| end < ops[*at].invoked)) {
            return false;
        }
    }
    let needed = |op: &Op| !matches!(op.outcome, Unknown | Refused);
    (0..ops.len()).all(|at| order.iter().filter(|other| **other == at).count() <= 1)
        && (0..ops.len()).all(|at| !needed(&ops[at]) || order.contains(&at))
}

#[test]
fn three_checkers_agree_on_forty_thousand_small_histories() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..40_000u64 {
        let mut chance = Chance::new(seed);
        let (count, clients, span) = (2 + chance.below(7), 2 + chance.below(5), 1 + chance.below(6));
        let open = [0, 10, 40][chance.below(3) as usize];
        let mut ops = made(&mut chance, count, clients, span, open);
        if seed % 2 == 1 {
            for _ in 0..1 + chance.below(2) {
                mutate(&mut chance, &mut ops);
            }
        }
        // What says nothing makes the others only slow.
        let told: Vec<Op> = ops
            .iter()
            .filter(|op| op.outcome != Refused && !(op.call.is_read() && op.outcome == Unknown))
            .copied()
            .collect();
        let truth = brute(&told, None);
        assert_eq!(published(&told), truth, "seed {seed}: the published checker differs on {ops:#?}");
        let verdict = check(&of_key(&ops));
        assert!(seed % 2 == 1 || truth, "seed {seed}: the generator is wrong: {ops:#?}");
        match (&verdict, truth) {
            (Verdict::Linearizable, true) => {
                good += 1;
                let order = order_of(&ops, Limits::default()).unwrap();
                assert!(is_order(&ops, &order), "seed {seed}: {order:?} of {ops:#?}");
            }
            (Verdict::Violation(violation), false) => {
                bad += 1;
                is_shortest(&told, violation.culprit, seed);
                assert!(violation.to_string().lines().any(|line| line.starts_with('*')), "seed {seed}: {violation}");
            }
            _ => panic!("seed {seed}: {verdict}, but every order was tried: {truth}; {ops:#?}"),
        }
    }
    assert!(good > 20_000 && bad > 8_000, "{good} good, {bad} bad");
}

/// With the culprit's answer there is no order, just before it there is.
fn is_shortest(ops: &[Op], culprit: Op, seed: u64) {
    let end = culprit.returned.unwrap();
    let known = |is_known: &dyn Fn(Moment) -> bool| -> Vec<Op> {
        let called = ops.iter().filter(|op| op.invoked <= end);
        let cut = called.map(|op| match op.returned {
            Some(returned) if is_known(returned) => *op,
            _ => Op { outcome: Unknown, returned: None, ..*op },
        });
        cut.filter(|op| !(op.call.is_read() && op.outcome == Unknown)).collect()
    };
    assert!(!brute(&known(&|returned| returned <= end), None), "seed {seed}: {culprit:?} breaks nothing");
    assert!(brute(&known(&|returned| returned < end), None), "seed {seed}: broken before {culprit:?}");
}

/// Long histories of many clients on one key, open operations among them.
#[test]
fn ten_thousand_operations_of_forty_clients_on_one_key_are_decided() {
    for (seed, clients, open) in [(1, 10, 0), (2, 40, 0), (3, 40, 2), (4, 20, 5)] {
        let mut chance = Chance::new(seed);
        let mut ops = made(&mut chance, 10_000, clients, 1_000, open);
        assert_eq!(check(&of_key(&ops)), Verdict::Linearizable, "seed {seed}");
        // A read of a value that was overwritten long before.
        let old = ops.iter().find_map(|op| match op.outcome {
            Found(Some(value)) => Some(value),
            _ => None,
        });
        let at = ops.iter().rposition(|op| op.call == Get && op.outcome != Unknown).unwrap();
        ops[at].outcome = Found(old);
        match check(&of_key(&ops)) {
            Verdict::Violation(violation) => assert_eq!(violation.culprit, ops[at], "seed {seed}"),
            verdict => panic!("seed {seed}: {verdict}"),
        }
    }
}

#[test]
fn the_search_gives_up_at_its_limit() {
    let ops = made(&mut Chance::new(1), 1_000, 10, 100, 0);
    let verdict = check_within(&of_key(&ops), Limits { steps: 10 });
    assert_eq!(verdict, Verdict::Undecided { key: "k".to_owned(), steps: 10 });
}
