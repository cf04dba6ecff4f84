//! Segments that are durable on drives but not yet named by any committed version.
//!
//! Who writes content gets it committed or gives it up; until then it stands here. What is neither
//! after [`UNCOMMITTED_MAX`] (its writer was cut off) is given back, and can't be committed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Instant, SegmentId};
use namespace::Body;

use crate::run::Run;

/// How long content may wait for its commit: far longer than any client does.
pub const UNCOMMITTED_MAX: Duration = Duration::from_secs(3600);
/// How long given up segments are remembered, so that a commit that comes even later is refused.
const GONE_KEPT: Duration = Duration::from_secs(24 * 3600);

enum Waiting {
    /// Contents that name it and are neither committed nor given up; whether one was committed.
    Fresh { run: Arc<Run>, contents: u32, used: bool },
    /// Given back.
    Gone,
}

struct Entry {
    since: Instant,
    waiting: Waiting,
}

#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<BTreeMap<SegmentId, Entry>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment that so many contents name.
    pub fn add(&self, run: Arc<Run>, contents: u32, now: Instant) {
        let waiting = Waiting::Fresh { run: run.clone(), contents, used: false };
        self.lock().insert(run.segment, Entry { since: now, waiting });
    }

    /// Whether the segment waits for a commit: then it is no orphan.
    pub fn is_fresh(&self, segment: SegmentId) -> bool {
        matches!(self.lock().get(&segment), Some(Entry { waiting: Waiting::Fresh { .. }, .. }))
    }

    /// The runs of a body's fresh segments; the segment that was given up, if one was.
    pub fn of(&self, body: &Body) -> Result<Vec<Arc<Run>>, SegmentId> {
        let entries = self.lock();
        let mut runs = Vec::new();
        for segment in segments(body) {
            match entries.get(&segment).map(|entry| &entry.waiting) {
                Some(Waiting::Fresh { run, .. }) => runs.push(run.clone()),
                Some(Waiting::Gone) => return Err(segment),
                None => {}
            }
        }
        Ok(runs)
    }

    /// A content that names these segments was committed, or was given up.
    pub fn settle(&self, segments: impl IntoIterator<Item = SegmentId>, committed: bool) {
        let mut give_back = Vec::new();
        {
            let mut entries = self.lock();
            for segment in segments {
                let Some(Entry { waiting: Waiting::Fresh { run, contents, used }, .. }) = entries.get_mut(&segment)
                else {
                    continue;
                };
                *contents = contents.saturating_sub(1);
                *used |= committed;
                if *contents == 0 {
                    if !*used {
                        give_back.push(run.clone());
                    }
                    entries.remove(&segment);
                }
            }
        }
        give_back.iter().for_each(Run::abort);
    }

    /// Gives back what waits for too long, unless `in_use` says that a version names it after all
    /// (the answer to its commit was lost).
    pub fn sweep(&self, now: Instant, in_use: &BTreeSet<SegmentId>) {
        let mut give_back = Vec::new();
        self.lock().retain(|segment, entry| {
            let age = now.since(entry.since);
            match &entry.waiting {
                Waiting::Gone => age < GONE_KEPT,
                Waiting::Fresh { .. } if age < UNCOMMITTED_MAX => true,
                Waiting::Fresh { .. } if in_use.contains(segment) => false,
                Waiting::Fresh { run, used, .. } => {
                    if *used {
                        return false;
                    }
                    give_back.push(run.clone());
                    *entry = Entry { since: now, waiting: Waiting::Gone };
                    true
                }
            }
        });
        give_back.iter().for_each(Run::abort);
    }

    /// What waits for too long: look up whether it is in use, then [`Registry::sweep`].
    pub fn overdue(&self, now: Instant) -> Vec<Arc<Run>> {
        let entries = self.lock();
        let fresh = entries.values().filter(|entry| now.since(entry.since) >= UNCOMMITTED_MAX);
        fresh
            .filter_map(|entry| match &entry.waiting {
                Waiting::Fresh { run, .. } => Some(run.clone()),
                Waiting::Gone => None,
            })
            .collect()
    }
}

/// The segments that a body names, each once.
pub(crate) fn segments(body: &Body) -> BTreeSet<SegmentId> {
    match body {
        Body::Inline(_) | Body::Unloaded => BTreeSet::new(),
        Body::Packed(segment, _) => [segment.id].into(),
        Body::Segments(segments) => segments.iter().map(|segment| segment.id).collect(),
        Body::Spans(spans) => spans.iter().flat_map(|span| segments(&span.body)).collect(),
    }
}
