//! The search for an order of one key's operations.
//!
//! Wing and Gong's search ("Testing and verifying concurrent objects", 1993) with Lowe's
//! memory of what was tried ("Testing for linearizability", 2017): all calls and responses in one
//! linked list by time; whatever is called before the list's first response may come next; what
//! came next leaves the list; a pair (set of operations done, state) is tried once.
//!
//! A register whose writes are all different allows much less to be tried:
//! 1. A read that fits the state comes next, without an alternative: it changes nothing.
//! 2. A value is left only when nobody must see it any more, since it never comes back. The state
//!    "no object" is left so only while a removal is still to come.
//! 3. Values that nobody's result names are one and the same.
//! 4. Of operations with the same effect (3 makes many) only the one that ends first is tried: in
//!    any order that explains the history, one that takes another of them can be had by
//!    exchanging the two. Open operations end never, so k of them are k + 1 cases, not 2^k.
//! 5. An open operation is tried only if something that may come next fits the state after it and
//!    not the state before it. Else it can be done later or never: all between fits both states, or
//!    overwrites it.
//!
//! The set of operations done is remembered as 128 bits, the exclusive or of a random word per
//! operation: of a million sets two are taken for one with a probability below 2^-88.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Call, Moment, Op, Outcome};
use crate::chance::Chance;

/// No object.
const ABSENT: u32 = 0;
/// An object whose value nobody's result names.
const NAMELESS: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    Nothing,
    Is(u32),
    Not(u32),
}

impl Needs {
    fn allow(self, state: u32) -> bool {
        match self {
            Needs::Nothing => true,
            Needs::Is(wanted) => state == wanted,
            Needs::Not(other) => state != other,
        }
    }
}

/// One operation that has to be, or may be, put in order.
#[derive(Clone, Copy, Debug)]
struct Item {
    needs: Needs,
    /// The state after it; reads have none.
    sets: Option<u32>,
    /// Whether it may be left out.
    open: bool,
    /// Operations with the same class do the same.
    class: u32,
    /// Its place in the history.
    place: usize,
}

impl Item {
    fn fits(&self, state: u32) -> bool {
        self.needs.allow(state)
    }
}

/// What the search found.
pub enum Found {
    /// Places in the history, in an order that explains it.
    Order(Vec<usize>),
    /// There is no such order.
    None,
    /// Given up after so many states.
    Undecided(u64),
}

/// One key's operations, made ready.
pub struct Problem {
    items: Vec<Item>,
    /// Calls (even: twice the item) and responses (odd), by time.
    events: Vec<u32>,
    states: usize,
    classes: usize,
}

/// The results that name a value.
fn named(ops: &[Op]) -> BTreeSet<u64> {
    let mut named = BTreeSet::new();
    for op in ops {
        if let Outcome::Found(Some(value)) = op.outcome {
            named.insert(value);
        }
        // Even one that failed tells this value from others.
        if let Call::PutIfMatch { expected, .. } = op.call {
            named.insert(expected);
        }
    }
    named
}

impl Problem {
    pub fn of(ops: &[Op]) -> Self {
        let numbers: BTreeMap<u64, u32> = named(ops).into_iter().zip(NAMELESS + 1..).collect();
        let number = |value: u64| numbers.get(&value).copied().unwrap_or(NAMELESS);
        let mut items: Vec<Item> = Vec::new();
        for (place, op) in ops.iter().enumerate() {
            let item = |needs, sets| Item { needs, sets, open: op.outcome == Outcome::Unknown, class: 0, place };
            let item = match (op.call, op.outcome) {
                (_, Outcome::Refused) | (Call::Get | Call::Head, Outcome::Unknown) => continue,
                (_, Outcome::Found(seen)) => item(Needs::Is(seen.map_or(ABSENT, number)), None),
                (Call::PutIfMatch { expected, .. }, Outcome::PreconditionFailed) => {
                    item(Needs::Not(number(expected)), None)
                }
                (_, Outcome::PreconditionFailed) => item(Needs::Not(ABSENT), None),
                (Call::Put(value), _) => item(Needs::Nothing, Some(number(value))),
                (Call::PutIfAbsent(value), _) => item(Needs::Is(ABSENT), Some(number(value))),
                (Call::PutIfMatch { value, expected }, _) => item(Needs::Is(number(expected)), Some(number(value))),
                (Call::Delete, _) => item(Needs::Nothing, Some(ABSENT)),
                (Call::Get | Call::Head, Outcome::Done) => continue,
            };
            items.push(item);
        }
        // Only those who know what they did not find can be helped by a value that nobody names.
        if !items.iter().any(|item| matches!(item.needs, Needs::Not(_))) {
            items.retain(|item| !(item.open && item.sets == Some(NAMELESS)));
        }
        let mut classes = BTreeMap::new();
        for item in &mut items {
            let next = classes.len() as u32;
            item.class = *classes.entry((item.needs, item.sets)).or_insert(next);
        }
        let mut events: Vec<(Moment, u32)> = Vec::with_capacity(items.len() * 2);
        for (index, item) in (0u32..).zip(&items) {
            let op = &ops[item.place];
            events.push((op.invoked, index * 2));
            if let Some(returned) = op.returned.filter(|_| !item.open) {
                events.push((returned, index * 2 + 1));
            }
        }
        // Of the same moment, calls come first: they count as concurrent.
        events.sort_by_key(|(moment, event)| (*moment, event % 2, *event));
        let events = events.into_iter().map(|(_, event)| event).collect();
        Self { items, events, states: numbers.len() + 2, classes: classes.len() }
    }

    pub fn solve(&self, steps_max: u64) -> Found {
        Search::new(self).run(steps_max)
    }
}

/// A state of the search that has further ways to go.
struct Fork {
    /// Not tried yet; the last is next.
    ways: Vec<u32>,
    state: u32,
    done: usize,
}

struct Search<'a> {
    items: &'a [Item],
    /// The list's links by event, the last place its head.
    next: Vec<u32>,
    prev: Vec<u32>,
    head: u32,
    /// An item's place among all responses; open ones come after all.
    ends: Vec<u32>,
    words: Vec<u128>,
    /// What is done, in order.
    done: Vec<u32>,
    hash: u128,
    state: u32,
    /// Items that must still be done.
    left: usize,
    /// Of those, the ones that need a state, by state.
    waiting: Vec<u32>,
    /// Removals still to come, open ones too.
    removals: u32,
    /// Per class the way chosen in the current pass.
    choice: Vec<Option<u32>>,
    tried: HashSet<(u128, u32)>,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem) -> Self {
        let items = problem.items.as_slice();
        let head = items.len() as u32 * 2;
        let mut this = Self {
            items,
            next: vec![head; items.len() * 2 + 1],
            prev: vec![head; items.len() * 2 + 1],
            head,
            ends: vec![u32::MAX; items.len()],
            words: Vec::with_capacity(items.len()),
            done: Vec::with_capacity(items.len()),
            hash: 0,
            state: ABSENT,
            left: items.iter().filter(|item| !item.open).count(),
            waiting: vec![0; problem.states],
            removals: items.iter().filter(|item| item.sets == Some(ABSENT)).count() as u32,
            choice: vec![None; problem.classes],
            tried: HashSet::new(),
        };
        let mut last = head;
        for (at, event) in (0u32..).zip(&problem.events) {
            this.next[last as usize] = *event;
            this.prev[*event as usize] = last;
            last = *event;
            if event % 2 == 1 {
                this.ends[*event as usize / 2] = at;
            }
        }
        this.next[last as usize] = head;
        this.prev[head as usize] = last;
        let mut chance = Chance::new(0x77_676c);
        for item in items {
            this.words.push(u128::from(chance.word()) << 64 | u128::from(chance.word()));
            if let (Needs::Is(state), false) = (item.needs, item.open) {
                this.waiting[state as usize] += 1;
            }
        }
        this
    }

    fn run(mut self, steps_max: u64) -> Found {
        let mut forks: Vec<Fork> = Vec::new();
        let mut steps = 0;
        loop {
            self.take_reads();
            if self.left == 0 {
                return Found::Order(self.done.iter().map(|item| self.items[*item as usize].place).collect());
            }
            if self.tried.insert((self.hash, self.state)) {
                steps += 1;
                if steps > steps_max {
                    return Found::Undecided(steps_max);
                }
                forks.push(Fork { ways: self.ways(), state: self.state, done: self.done.len() });
            }
            // Back to the last fork with a way not tried yet.
            let way = loop {
                let Some(fork) = forks.last_mut() else { return Found::None };
                while self.done.len() > fork.done {
                    self.undo();
                }
                self.state = fork.state;
                match fork.ways.pop() {
                    Some(way) => break way,
                    None => forks.pop(),
                };
            };
            self.take(way);
            self.state = self.items[way as usize].sets.unwrap_or(self.state);
        }
    }

    /// Takes all reads that may come next and fit (rule 1).
    fn take_reads(&mut self) {
        let mut event = self.next[self.head as usize];
        while self.is_call(event) {
            let item = &self.items[event as usize / 2];
            let next = self.next[event as usize];
            if item.sets.is_none() && item.fits(self.state) {
                self.take(event / 2);
                // Its own response may have been the next event.
                event = if next == event + 1 { self.next[self.prev_of_removed(event)] } else { next };
            } else {
                event = next;
            }
        }
    }

    fn is_call(&self, event: u32) -> bool {
        event != self.head && event & 1 == 0
    }

    /// The event before one that was just taken out.
    fn prev_of_removed(&self, event: u32) -> usize {
        self.prev[event as usize] as usize
    }

    /// The writes that may come next, the most promising last.
    fn ways(&mut self) -> Vec<u32> {
        self.choice.fill(None);
        let mut classes: Vec<u32> = Vec::new();
        let needed = self.needed();
        let mut event = self.next[self.head as usize];
        while self.is_call(event) {
            let item = event / 2;
            let class = self.items[item as usize].class;
            if self.may_follow(item, &needed) {
                match self.choice[class as usize] {
                    None => {
                        classes.push(class);
                        self.choice[class as usize] = Some(item);
                    }
                    // The one that ends first stands for all (rule 4).
                    Some(other) if self.ends[item as usize] < self.ends[other as usize] => {
                        self.choice[class as usize] = Some(item);
                    }
                    Some(_) => {}
                }
            }
            event = self.next[event as usize];
        }
        // `event` is now the first response: what it waits for is the most promising.
        let wanted = match self.items.get(event as usize / 2) {
            Some(Item { sets: None, needs: Needs::Is(state), .. }) => Some(*state),
            _ => None,
        };
        let mut ways: Vec<u32> = classes.iter().filter_map(|class| self.choice[*class as usize]).collect();
        ways.sort_by_key(|way| {
            let brings = wanted.is_some() && self.items[*way as usize].sets == wanted;
            (brings, std::cmp::Reverse((self.ends[*way as usize], *way)))
        });
        ways
    }

    /// What those that may come next, but don't fit the state, need instead.
    fn needed(&self) -> Vec<Needs> {
        let mut needed: Vec<Needs> = Vec::new();
        let mut event = self.next[self.head as usize];
        while self.is_call(event) {
            let item = &self.items[event as usize / 2];
            if !item.fits(self.state) && !needed.contains(&item.needs) {
                needed.push(item.needs);
            }
            event = self.next[event as usize];
        }
        needed
    }

    fn may_follow(&self, item: u32, needed: &[Needs]) -> bool {
        let item = &self.items[item as usize];
        let Some(sets) = item.sets else { return false };
        if !item.fits(self.state) {
            return false;
        }
        if item.open && !needed.iter().any(|needs| needs.allow(sets)) {
            return false;
        }
        if sets == self.state {
            return true;
        }
        let itself = u32::from(!item.open && item.needs == Needs::Is(self.state));
        let is_left_for_good = self.state != ABSENT || self.removals == 0;
        !is_left_for_good || self.waiting[self.state as usize] == itself
    }

    /// The item is done: both its events leave the list.
    fn take(&mut self, index: u32) {
        let item = &self.items[index as usize];
        self.unlink(index * 2);
        if !item.open {
            self.unlink(index * 2 + 1);
            self.left -= 1;
            if let Needs::Is(state) = item.needs {
                self.waiting[state as usize] -= 1;
            }
        }
        self.removals -= u32::from(item.sets == Some(ABSENT));
        self.hash ^= self.words[index as usize];
        self.done.push(index);
    }

    /// The last item done is not done.
    fn undo(&mut self) {
        let Some(index) = self.done.pop() else { return };
        let item = &self.items[index as usize];
        if !item.open {
            self.relink(index * 2 + 1);
            self.left += 1;
            if let Needs::Is(state) = item.needs {
                self.waiting[state as usize] += 1;
            }
        }
        self.relink(index * 2);
        self.removals += u32::from(item.sets == Some(ABSENT));
        self.hash ^= self.words[index as usize];
    }

    fn unlink(&mut self, event: u32) {
        let (prev, next) = (self.prev[event as usize], self.next[event as usize]);
        self.next[prev as usize] = next;
        self.prev[next as usize] = prev;
    }

    fn relink(&mut self, event: u32) {
        let (prev, next) = (self.prev[event as usize], self.next[event as usize]);
        self.next[prev as usize] = event;
        self.prev[next as usize] = event;
    }
}
