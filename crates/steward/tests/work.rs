//! What comes first, how much at once, who gives way: the engine against a world that is modelled here.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{GroupId, Instant, PolicyId, SegmentId, VolumeId};
use steward::{Class, Dial, Limits, Need, Pace, Steward, Target, UserLoad};

const MIB: u64 = 1 << 20;

fn target(segment: u32) -> Target {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&segment.to_be_bytes());
    Target { volume: VolumeId(1), policy: PolicyId(1), group: GroupId(1), segment: SegmentId(id) }
}

fn need(segment: u32, missing: &[u8], parity: u8) -> Need {
    Need { target: target(segment), missing: missing.iter().copied().collect(), parity, piece_bytes: MIB }
}

fn number(need: &Need) -> u32 {
    u32::from_be_bytes(need.target.segment.0[..4].try_into().unwrap())
}

fn at(seconds: f64) -> Instant {
    Instant(0) + Duration::from_secs_f64(seconds)
}

fn limits(in_flight: usize, mib_per_s: u64) -> Limits {
    Limits { in_flight, bytes_per_s: mib_per_s * MIB }
}

fn dial(in_flight: usize, mib_per_s: u64, pace: Pace) -> Dial {
    let mut dial = Dial::new(limits(in_flight, mib_per_s));
    dial.set_pace(pace);
    dial
}

/// Users that are slowed down by work: their latency rises with the share of the disks that work takes.
struct Users {
    requests: u64,
    mib_per_s: f64,
}

impl Users {
    fn load(&self, work_bytes: u64) -> UserLoad {
        let busy = (work_bytes as f64 / MIB as f64 / self.mib_per_s).min(0.95);
        let idle = Duration::from_millis(10);
        // A queue: latency grows as 1 / (1 − load).
        UserLoad { requests: self.requests, p99: idle.div_f64(1.0 - busy), p99_idle: idle }
    }
}

/// Runs for so many seconds; each piece takes 50 ms. Gives bytes by second.
fn run(steward: &mut Steward, seconds: u32, users: Option<&Users>, mut done: impl FnMut(Class, &Need)) -> Vec<u64> {
    let mut landing: Vec<(u64, Class, Need)> = Vec::new();
    let mut by_second = Vec::new();
    for second in 0..seconds {
        let mut bytes = 0;
        for tick in 0..20 {
            let now = at(f64::from(second) + f64::from(tick) / 20.0);
            let (over, rest) = landing.into_iter().partition(|(ends, ..)| *ends <= now.0);
            landing = rest;
            let over: Vec<(u64, Class, Need)> = over;
            for (_, class, need) in over {
                let pieces: Vec<u8> = need.missing.iter().copied().collect();
                let moved = need.piece_bytes * pieces.len() as u64;
                steward.done(need.target, &pieces, moved);
                bytes += moved;
                done(class, &need);
            }
            while let Some((class, need)) = steward.next_of(now) {
                landing.push(((now + Duration::from_millis(50)).0, class, need));
            }
        }
        if let Some(users) = users {
            steward.hear(users.load(bytes));
        }
        by_second.push(bytes);
    }
    by_second
}

#[test]
fn what_is_lost_comes_before_what_moves_and_users_data_before_upkeep() {
    let mut steward = Steward::new(100);
    for (segment, class) in [(1, Class::Upkeep), (2, Class::Recode), (3, Class::Rebalance), (4, Class::Drain)] {
        steward.need_for(class, need(segment, &[0], 2));
    }
    steward.need(need(5, &[1], 2));
    steward.need(need(6, &[1, 2], 2));
    let order: Vec<(Class, u32)> =
        std::iter::from_fn(|| steward.next_of(Instant(0))).map(|(class, need)| (class, number(&need))).collect();
    let wanted = [
        (Class::Repair, 6),
        (Class::Repair, 5),
        (Class::Drain, 4),
        (Class::Rebalance, 3),
        (Class::Recode, 2),
        (Class::Upkeep, 1),
    ];
    assert_eq!(order, wanted);
}

#[test]
fn a_piece_that_only_moves_is_not_missing_and_one_that_is_lost_meanwhile_goes_first() {
    let mut steward = Steward::new(10);
    steward.need_for(Class::Drain, need(1, &[0, 1, 2], 2));
    steward.need(need(2, &[5], 2));
    assert_eq!(steward.worst(), Some(1), "three pieces move and none is missing");
    // A source dies while its piece is on the way.
    steward.need(need(1, &[1, 3], 2));
    let (class, first) = steward.next_of(Instant(0)).unwrap();
    assert_eq!((class, number(&first), first.missing), (Class::Repair, 1, BTreeSet::from([1, 3])));
    steward.done(target(1), &[1, 3], 2 * MIB);
    let (class, second) = steward.next_of(Instant(0)).unwrap();
    assert_eq!((class, number(&second)), (Class::Repair, 2));
    let (class, third) = steward.next_of(Instant(0)).unwrap();
    assert_eq!((class, number(&third), third.missing), (Class::Drain, 1, BTreeSet::from([0, 2])));
}

#[test]
fn the_dial_bounds_bytes_a_second_and_what_is_in_flight() {
    for (pace, most, in_flight) in [(Pace::IDLE, 10, 1), (Pace::NORMAL, 50, 4), (Pace::BUSY, 100, 8)] {
        let mut steward = Steward::with_dial(dial(8, 100, pace));
        for segment in 0..20_000 {
            steward.need_for(Class::Rebalance, need(segment, &[0], 2));
        }
        let first = std::iter::from_fn(|| steward.next(at(0.0))).count();
        assert!(first <= in_flight, "{first} at once at {pace:?}");
        (0..first as u32).for_each(|segment| steward.forget(target(segment)));
        let bytes = run(&mut steward, 60, None, |_, _| {});
        let all: u64 = bytes.iter().sum::<u64>() / MIB;
        assert!(all <= most * 61, "{all} MiB in a minute at {pace:?}");
        assert!(all >= most * 50, "{all} MiB in a minute at {pace:?}: the dial is not a brake");
        assert!(*bytes.iter().max().unwrap() <= (2 * most + 2) * MIB, "{bytes:?}");
    }
}

#[test]
fn work_gives_way_to_users_and_takes_over_when_they_are_gone() {
    let mut steward = Steward::with_dial(dial(64, 200, Pace::NORMAL));
    for segment in 0..60_000 {
        steward.need_for(Class::Rebalance, need(segment, &[0], 2));
    }
    // Their disks could do 120 MiB/s: at 100 users would wait six times as long.
    let users = Users { requests: 100, mib_per_s: 120.0 };
    let with = run(&mut steward, 120, Some(&users), |_, _| {});
    let later: Vec<u64> = with[60..].iter().map(|bytes| bytes / MIB).collect();
    let mean = later.iter().sum::<u64>() / 60;
    // At the normal pace they may be twice as slow: that is at 60 MiB/s.
    println!("beside users: {mean} MiB/s");
    assert!((20..=60).contains(&mean), "{mean} MiB/s beside users: {later:?}");
    let none = Users { requests: 0, ..users };
    let mut rested = Steward::with_dial(steward.dial().clone());
    for segment in 0..60_000 {
        rested.need_for(Class::Rebalance, need(segment, &[0], 2));
    }
    let without = run(&mut rested, 150, Some(&none), |_, _| {});
    let mean = without[140..].iter().sum::<u64>() / 10 / MIB;
    println!("without users: {mean} MiB/s");
    assert!(mean >= 90, "{mean} MiB/s without users");
}

#[test]
fn the_last_spare_piece_waits_neither_for_users_nor_for_the_dial() {
    let mut steward = Steward::with_dial(dial(4, 1, Pace::STILL));
    let angry = UserLoad { requests: 9, p99: Duration::from_secs(9), p99_idle: Duration::from_millis(1) };
    (0..20).for_each(|_| steward.hear(angry));
    for segment in 0..10 {
        steward.need(need(segment, &[0, 1], 2));
        steward.need(need(100 + segment, &[0], 2));
        steward.need_for(Class::Drain, need(200 + segment, &[0], 2));
    }
    let mut seen = BTreeMap::new();
    let bytes = run(&mut steward, 2, Some(&Users { requests: 9, mib_per_s: 0.1 }), |_, need| {
        *seen.entry(number(need) / 100).or_insert(0) += 1;
    });
    assert_eq!((seen, bytes.iter().sum::<u64>()), (BTreeMap::from([(0, 10)]), 20 * MIB));
    assert_eq!(steward.deadline(), None, "nothing else moves at all");
    steward.set_pace(Pace::IDLE);
    assert!(steward.deadline().is_some());
    let done = run(&mut steward, 3000, None, |_, _| {}).iter().sum::<u64>() / MIB;
    assert_eq!(done, 20, "the rest is done at leisure");
}

#[test]
fn progress_tells_what_is_left_and_about_how_long_it_takes() {
    let mut steward = Steward::with_dial(dial(16, 40, Pace::NORMAL));
    for segment in 0..4000 {
        steward.need_for(Class::Drain, need(segment, &[0], 2));
    }
    // Rows tell of twice as much as was looked at so far.
    steward.expect(Class::Drain, 8000 * MIB);
    assert_eq!(steward.progress_of(Class::Drain, at(0.0)).eta, None);
    assert_eq!(steward.progress_of(Class::Repair, at(0.0)).eta, Some(Duration::ZERO));
    let done: u64 = run(&mut steward, 50, None, |_, _| {}).iter().sum();
    let told = steward.progress_of(Class::Drain, at(50.0));
    assert_eq!((told.sum.done_bytes, told.sum.bytes), (done, 8000 * MIB - done));
    let truth = told.sum.bytes as f64 / (20 * MIB) as f64;
    let eta = told.eta.unwrap().as_secs_f64();
    assert!((eta / truth - 1.0).abs() < 0.1, "told {eta} s, it takes {truth} s");
}

#[test]
fn a_new_engine_goes_on_from_the_rows_and_does_nothing_twice() {
    // What the rows say: which pieces aren't where they belong yet.
    let mut rows: BTreeSet<u32> = (0..500).collect();
    let mut made = BTreeMap::new();
    while !rows.is_empty() {
        // Each leader lives for two seconds only.
        let mut steward = Steward::with_dial(dial(8, 100, Pace::NORMAL));
        rows.iter().for_each(|segment| steward.need_for(Class::Rebalance, need(*segment, &[3], 2)));
        run(&mut steward, 2, None, |_, need| {
            rows.remove(&number(need));
            *made.entry(number(need)).or_insert(0) += 1;
        });
    }
    assert_eq!(made.len(), 500);
    assert!(made.values().all(|times| *times == 1));
}

#[test]
fn a_repair_is_never_forgotten_for_work_that_can_wait() {
    let mut steward = Steward::new(1);
    for segment in 0..100_000 {
        steward.need_for(Class::Upkeep, need(segment, &[0], 2));
    }
    steward.need_for(Class::Upkeep, need(100_000, &[0], 2));
    assert_eq!(steward.progress().pieces, 100_000, "no more than fit");
    steward.need(need(200_000, &[0], 2));
    let (class, first) = steward.next_of(Instant(0)).unwrap();
    assert_eq!((class, number(&first), steward.progress().pieces), (Class::Repair, 200_000, 100_000));
}

#[test]
fn a_pace_is_read_from_a_word_or_a_number() {
    for (text, percent) in [("still", 0), ("Idle", 10), (" normal ", 50), ("busy", 100), ("73", 73)] {
        assert_eq!(Pace::parse(text).unwrap().percent(), percent);
    }
    for text in ["", "fast", "101", "-1"] {
        assert_eq!(Pace::parse(text), None, "{text:?}");
    }
}
