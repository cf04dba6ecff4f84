//! Writes down what clients do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use env::Clock;

use super::{Call, History, Listing, Moment, Op, Outcome};

/// An operation that was begun. Dropped without an end, its outcome stays unknown.
#[derive(Debug)]
#[must_use = "an operation without an end may have had any outcome"]
pub struct Ticket(usize);

/// A listing's page that was begun. Dropped without an end, it says nothing.
#[derive(Debug)]
#[must_use = "a listing without an end says nothing"]
pub struct ListTicket {
    client: u32,
    prefix: String,
    after: String,
    invoked: Moment,
}

#[derive(Default)]
struct Notes {
    events: u64,
    ops: Vec<(String, Op)>,
    listings: Vec<Listing>,
}

/// Takes down a history; its clones write into the same one.
#[derive(Clone)]
pub struct Recorder {
    clock: Arc<dyn Clock>,
    notes: Arc<Mutex<Notes>>,
}

impl Recorder {
    /// An empty history, timed by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, notes: Arc::default() }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, notes: &mut Notes) -> Moment {
        notes.events += 1;
        Moment { at: self.clock.now().0, order: notes.events }
    }

    /// To be called just before the request is sent.
    pub fn begin(&self, client: u32, key: &str, call: Call) -> Ticket {
        let mut notes = self.notes();
        let invoked = self.now(&mut notes);
        notes.ops.push((key.to_owned(), Op { client, call, outcome: Outcome::Unknown, invoked, returned: None }));
        Ticket(notes.ops.len() - 1)
    }

    /// To be called as soon as the answer is there.
    pub fn end(&self, ticket: Ticket, outcome: Outcome) {
        let mut notes = self.notes();
        let returned = self.now(&mut notes);
        if let Some((_, op)) = notes.ops.get_mut(ticket.0) {
            op.outcome = outcome;
            op.returned = (outcome != Outcome::Unknown).then_some(returned);
        }
    }

    /// The operation has no answer, or one that doesn't say what became of it.
    pub fn unknown(&self, ticket: Ticket) {
        self.end(ticket, Outcome::Unknown);
    }

    /// To be called just before a listing's page is asked for.
    pub fn begin_list(&self, client: u32, prefix: &str, after: &str) -> ListTicket {
        let mut notes = self.notes();
        let invoked = self.now(&mut notes);
        ListTicket { client, prefix: prefix.to_owned(), after: after.to_owned(), invoked }
    }

    /// What the page showed; `until` is its last key if it is not the last page.
    pub fn end_list(&self, ticket: ListTicket, seen: BTreeMap<String, u64>, until: Option<String>) {
        let mut notes = self.notes();
        let returned = self.now(&mut notes);
        let ListTicket { client, prefix, after, invoked } = ticket;
        notes.listings.push(Listing { client, prefix, after, until, seen, invoked, returned });
    }

    /// What was taken down so far; what has no end yet is unknown.
    pub fn history(&self) -> History {
        let notes = self.notes();
        let mut history = History { keys: BTreeMap::new(), listings: notes.listings.clone() };
        for (key, op) in &notes.ops {
            history.keys.entry(key.clone()).or_default().push(*op);
        }
        history
    }
}
