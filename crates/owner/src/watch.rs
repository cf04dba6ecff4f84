//! What changes in a volume, as it changes: the tail of its journal, with true paths.
//!
//! 1. Changes come in the order in which they were made, each once, whichever node answers and whoever leads.
//! 2. Each says from which position to go on: who keeps that, and begins again from there, misses nothing and is told at most the other
//!    changes of the same command again.
//! 3. To follow a whole folder: take [`Volume::position`], then list, then watch from that position. What is listed may be told again; nothing
//!    is missed.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use base::{Seq, Wall};
use client::guest::{Answer, WATCH_MS_MAX, Wish};
use namespace::journal::{Event, What as Told};
use namespace::wire::Tail;

use crate::volume::{Volume, invalid};
use crate::{Error, Result};

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Go on from here, once this one is dealt with.
    pub position: u64,
    /// When, by the clock of who led.
    pub at: Wall,
    /// Of which object: its true path, from the volume's top or from what the grant opens.
    pub path: String,
    /// What.
    pub what: What,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was written, or written anew.
    Put {
        /// Bytes.
        size: u64,
        /// As [`crate::Entry::tag`].
        tag: String,
    },
    /// It is no more.
    Deleted,
    /// What is said of it changed, its bytes did not.
    Attributes,
}

/// Changes at a path and below, from a position on.
pub struct Watch<'a> {
    volume: &'a Volume,
    prefix: String,
    /// If the prefix is all: below which true path.
    within: Option<String>,
    position: u64,
    ready: VecDeque<Change>,
    /// Where to go on once those that are ready were given out.
    next: u64,
}

impl Volume {
    /// Where the volume's journal ends now: what changes from now on is told by [`Volume::watch`] from there.
    ///
    /// # Errors
    /// If nobody leads the volume's metadata, or the grant doesn't allow to list.
    pub async fn position(&self) -> Result<u64> {
        match self.tail(None, self.sealed("")?, Duration::ZERO).await? {
            Tail::Events { next, .. } | Tail::Gone { newest: next, .. } => Ok(next.0),
        }
    }

    /// Watches an object, or a folder with all that is below (its path ends in `/`, or is empty), from a position on. Nothing is asked yet.
    ///
    /// # Errors
    /// If the path can't be.
    pub fn watch(&self, path: &str, position: u64) -> Result<Watch<'_>> {
        let sealed = self.sealed(path)?;
        // What was there before the volume had its keys was called otherwise: all is told then, and sorted out here.
        let (prefix, within) =
            if self.older.is_empty() { (sealed, None) } else { (String::new(), Some(path.to_owned())) };
        Ok(Watch { volume: self, prefix, within, position, ready: VecDeque::new(), next: position })
    }

    async fn tail(&self, after: Option<u64>, prefix: String, wait: Duration) -> Result<Tail> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).min(WATCH_MS_MAX);
        match self.directors.ask(Wish::Watch { after: after.map(Seq), prefix, wait_ms }).await? {
            Answer::Tail(tail) => Ok(tail),
            _ => Err(invalid("a node answers what wasn't asked")),
        }
    }
}

impl Watch<'_> {
    /// The next change; nothing if none came within `wait`. Whoever drops this call and calls again misses nothing.
    ///
    /// # Errors
    /// [`Error::Expired`] if the journal doesn't tell any more what came after the position: list anew. Else of a kind that is transient if nobody leads
    /// the volume's metadata now: call again. [`Error::Client`] of kind `Denied` if the grant ended.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<Change>> {
        let env = &self.volume.env;
        let began = env.clock.now();
        loop {
            if let Some(change) = self.ready.pop_front() {
                self.position = change.position;
                return Ok(Some(change));
            }
            self.position = self.next;
            let left = wait.saturating_sub(env.clock.now().since(began));
            match self.volume.tail(Some(self.position), self.prefix.clone(), left).await? {
                Tail::Events { events, next } => {
                    let mut changes = changes(events, |key| self.volume.true_path(key));
                    changes.retain(|change| self.within.as_ref().is_none_or(|path| grant::within(path, &change.path)));
                    self.ready = changes.into();
                    self.next = next.0.max(self.position);
                }
                Tail::Gone { oldest, newest } => {
                    let (position, oldest, newest) = (self.position, oldest.0, newest.0);
                    return Err(Error::Expired { position, oldest, newest });
                }
            }
            if self.ready.is_empty() && left.is_zero() {
                self.position = self.next;
                return Ok(None);
            }
        }
    }

    /// Where to go on: all changes up to here were given out.
    pub fn position(&self) -> u64 {
        self.position
    }
}

/// Changes of events, with the paths that `open` makes of keys.
fn changes(events: Vec<(Seq, Event)>, open: impl Fn(&str) -> Option<String>) -> Vec<Change> {
    // What is replaced, or given another name by other keys, is deleted in the same step: one change.
    let written = |event: &Event| match &event.what {
        Told::Put { key, .. } => open(key),
        _ => None,
    };
    let put: BTreeSet<(Seq, String)> = events.iter().filter_map(|(seq, event)| Some((*seq, written(event)?))).collect();
    let mut all = Vec::new();
    for (seq, Event { at, what, .. }) in events {
        let (key, what) = match what {
            Told::Put { key, size, etag, .. } => (key, What::Put { size, tag: etag }),
            Told::Delete { key, .. } | Told::Marker { key, .. } => (key, What::Deleted),
            Told::Attrs { key, .. } => (key, What::Attributes),
            _ => continue,
        };
        // Whoever may write may write a key that is no sealed path: nobody can list it either.
        let Some(path) = open(&key) else {
            tracing::warn!(at = %seq, "a name in the volume's journal doesn't open: left out");
            continue;
        };
        if what == What::Deleted && put.contains(&(seq, path.clone())) {
            continue;
        }
        all.push(Change { position: seq.0, at, path, what });
    }
    // Who goes on from one that isn't the last of its place is told the place again.
    for index in 1..all.len() {
        if all[index].position == all[index - 1].position {
            all[index - 1].position -= 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base::VolumeId;
    use codec::Versioned;
    use crypt::VolumeRoot;
    use namespace::{Attrs, Body, Command, Condition, NewVersion, VersionId};

    use super::*;

    fn event(seq: u64, what: Told) -> (Seq, Event) {
        (Seq(seq), Event { volume: VolumeId(1), at: Wall(seq * 1000), what })
    }

    fn put(key: &str) -> Told {
        Told::Put { key: key.into(), version: VersionId::NULL, size: 7, etag: "t".into(), upload: None }
    }

    fn delete(key: &str) -> Told {
        Told::Delete { key: key.into(), version: VersionId::NULL, marker: false }
    }

    fn told(events: Vec<(Seq, Event)>) -> Vec<String> {
        let open = |key: &str| (!key.starts_with('!')).then(|| key.to_uppercase());
        let word = |what: &What| match what {
            What::Put { size, tag } => format!("put {size} {tag}"),
            What::Deleted => "deleted".into(),
            What::Attributes => "attributes".into(),
        };
        let all = changes(events, open).into_iter();
        all.map(|change| format!("{} {} {}", change.position, change.path, word(&change.what))).collect()
    }

    #[test]
    fn what_is_replaced_is_one_change_and_what_is_removed_another() {
        let attrs = Told::Attrs { key: "a".into(), version: VersionId::NULL };
        let events = vec![
            event(1, put("a")),
            event(2, delete("a")),
            event(2, put("a")),
            event(3, attrs),
            event(4, delete("a")),
            event(5, Told::Config { name: "policy".into() }),
        ];
        assert_eq!(told(events), ["1 A put 7 t", "2 A put 7 t", "3 A attributes", "4 A deleted"]);
    }

    #[test]
    fn who_goes_on_from_within_a_step_is_told_the_step_again_and_misses_nothing() {
        let events = vec![event(4, put("a")), event(4, put("b")), event(4, put("c")), event(9, put("d"))];
        assert_eq!(told(events), ["3 A put 7 t", "3 B put 7 t", "4 C put 7 t", "9 D put 7 t"]);
    }

    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// What a listing would show: paths, each with a number of its content.
    type Listing = BTreeMap<String, u64>;

    /// A volume by the namespace's rules alone, with sealed paths: its journal, and what is in it after each place: sizes by true paths.
    fn history(steps: u64, state: &mut u64) -> (Vec<(Seq, Event)>, Vec<Listing>) {
        let top = VolumeRoot::new([1; 32]).top();
        let (mut rows, mut is) = (BTreeMap::new(), BTreeMap::new());
        let (mut events, mut was) = (Vec::new(), vec![BTreeMap::new()]);
        for step in 1..=steps {
            let path = ["a", "a/b", "a/b/c", "ü/x y", "d/e/f/g"][next(state) as usize % 5];
            let path = format!("{path}{}", next(state) % 4);
            let (key, condition) = (top.seal_path(&path).unwrap(), Condition::default());
            let command = match next(state) % 4 {
                0 => {
                    is.remove(&path);
                    Command::Delete { key, version: None, condition }
                }
                1 if is.contains_key(&path) => {
                    let set = vec![("sealed".to_owned(), Some(step.to_le_bytes().to_vec()))];
                    Command::SetAttrs { key, version: None, set, condition }
                }
                _ => {
                    is.insert(path, step);
                    let body = Body::Inline(vec![1; step as usize]);
                    let new = NewVersion { size: step, etag: format!("{step:032x}"), attrs: Attrs::new(), body };
                    Command::Put { key, new, condition }
                }
            };
            let (batch, _) = namespace::apply(&rows, VolumeId(1), &command, Wall(step)).unwrap();
            base::kv::apply(&mut rows, &batch);
            events.extend(batch.events.iter().map(|bytes| (Seq(step), Event::decode(bytes).unwrap())));
            was.push(is.clone());
        }
        (events, was)
    }

    /// The oracle keeps a map of its own and never looks at rows: changes that are played on what was there then must give what is there now.
    #[test]
    fn changes_from_any_position_on_lead_from_what_was_there_to_what_is_there() {
        let top = VolumeRoot::new([1; 32]).top();
        for seed in [3, 0x9e37_79b9_7f4a_7c15, 0x2545_f491_4f6c_dd1d] {
            eprintln!("seed {seed:#x}");
            let mut state: u64 = seed;
            let (events, was) = history(400, &mut state);
            for _ in 0..20 {
                let from = next(&mut state) % 400;
                let rest = events.iter().filter(|(seq, _)| seq.0 > from).cloned().collect();
                let told = changes(rest, |key| top.open_path(key).ok());
                assert!(told.is_sorted_by_key(|change| change.position), "seed {seed:#x}: in order");
                let mut is = was[from as usize].clone();
                let mut written: Vec<u64> = Vec::new();
                for change in told {
                    match change.what {
                        What::Put { size, tag } => {
                            assert_eq!(tag, format!("{size:032x}"));
                            written.push(size);
                            is.insert(change.path, size);
                        }
                        What::Deleted => assert!(is.remove(&change.path).is_some(), "seed {seed:#x}: it was there"),
                        What::Attributes => assert!(is.contains_key(&change.path), "seed {seed:#x}: it is there"),
                    }
                    assert_eq!(is, was[change.position as usize], "seed {seed:#x}, from {from}: step by step");
                }
                assert!(written.is_sorted() && written.windows(2).all(|two| two[0] < two[1]), "each once");
                assert_eq!(Some(&is), was.last(), "seed {seed:#x}, from {from}");
            }
        }
    }

    #[test]
    fn a_name_that_does_not_open_is_left_out_and_stops_nothing() {
        assert_eq!(told(vec![event(1, put("!x")), event(2, put("b"))]), ["2 B put 7 t"]);
    }
}
