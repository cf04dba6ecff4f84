//! Segments that are durable on drives but not yet named by any committed version.
//!
//! Who writes content gets it committed or gives it up; until then it stands here. What is neither
//! after [`UNCOMMITTED_MAX`] (its writer was cut off) is given back, and can't be committed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Instant, SegmentId};
use namespace::Body;

use crate::run::{Held, Run};

/// How long content may wait for its commit: far longer than any client does.
pub const UNCOMMITTED_MAX: Duration = Duration::from_secs(3600);
/// How long given up segments are remembered, so that a commit that comes even later is refused.
const GONE_KEPT: Duration = Duration::from_secs(24 * 3600);

enum Waiting {
    /// Somebody may still commit it.
    Fresh(Fresh),
    /// Given back.
    Gone,
}

struct Fresh {
    run: Arc<Run>,
    /// Contents that name it and are neither committed nor given up.
    contents: u32,
    /// Whether one was committed.
    used: bool,
    /// Commits that name it and are under way.
    committing: u32,
    /// A commit of it ended without a word: perhaps a version names it, only the sweep finds out.
    unsure: bool,
    /// It is being given back: no new commit may name it.
    closing: bool,
}

struct Entry {
    since: Instant,
    waiting: Waiting,
}

#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<BTreeMap<SegmentId, Entry>>,
}

/// A commit under way: its segments aren't swept until it is over, or was dropped.
pub(crate) struct Committing {
    registry: Arc<Registry>,
    /// The runs of the fresh segments that it names.
    pub runs: Vec<Arc<Run>>,
    /// Whether its outcome is known.
    pub known: bool,
}

impl Drop for Committing {
    fn drop(&mut self) {
        let mut entries = self.registry.lock();
        for run in &self.runs {
            if let Some(Entry { waiting: Waiting::Fresh(fresh), .. }) = entries.get_mut(&run.segment) {
                fresh.committing = fresh.committing.saturating_sub(1);
                fresh.unsure |= !self.known;
            }
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment that so many contents name.
    pub fn add(&self, held: Held, contents: u32, now: Instant) {
        let run = held.run().clone();
        let fresh = Fresh { run, contents, used: false, committing: 0, unsure: false, closing: false };
        let waiting = Waiting::Fresh(fresh);
        self.lock().insert(held.run().segment, Entry { since: now, waiting });
        // Only now: in between it must never look like an orphan.
        held.keep();
    }

    /// Whether the segment waits for a commit: then it is no orphan.
    pub fn is_fresh(&self, segment: SegmentId) -> bool {
        matches!(self.lock().get(&segment), Some(Entry { waiting: Waiting::Fresh(_), .. }))
    }

    /// Begins to commit a body; the segment that was given up, if one was.
    pub fn begin(self: &Arc<Self>, body: &Body) -> Result<Committing, SegmentId> {
        let mut entries = self.lock();
        let segments = segments(body);
        let gone = |segment: &SegmentId| match entries.get(segment).map(|entry| &entry.waiting) {
            Some(Waiting::Fresh(fresh)) => fresh.closing,
            Some(Waiting::Gone) => true,
            None => false,
        };
        if let Some(segment) = segments.iter().find(|segment| gone(segment)) {
            return Err(*segment);
        }
        let mut runs = Vec::new();
        for segment in segments {
            if let Some(Entry { waiting: Waiting::Fresh(fresh), .. }) = entries.get_mut(&segment) {
                fresh.committing += 1;
                runs.push(fresh.run.clone());
            }
        }
        Ok(Committing { registry: self.clone(), runs, known: false })
    }

    /// A content that names these segments was committed, or was given up.
    pub fn settle(&self, segments: impl IntoIterator<Item = SegmentId>, committed: bool) {
        let mut give_back = Vec::new();
        {
            let mut entries = self.lock();
            for segment in segments {
                let Some(Entry { waiting: Waiting::Fresh(fresh), .. }) = entries.get_mut(&segment) else { continue };
                fresh.contents = fresh.contents.saturating_sub(1);
                fresh.used |= committed;
                if fresh.contents == 0 && (fresh.used || !fresh.unsure && fresh.committing == 0) {
                    if !fresh.used {
                        give_back.push(fresh.run.clone());
                    }
                    entries.remove(&segment);
                }
            }
        }
        give_back.iter().for_each(Run::abort);
    }

    /// What waits for too long and is not being committed: from now on nobody may commit it. Look
    /// up whether it is in use (the answer to its commit was lost), then [`Registry::sweep`].
    pub fn overdue(&self, now: Instant) -> Vec<Arc<Run>> {
        let mut entries = self.lock();
        entries.retain(|_, entry| !matches!(entry.waiting, Waiting::Gone) || now.since(entry.since) < GONE_KEPT);
        let mut overdue = Vec::new();
        for entry in entries.values_mut().filter(|entry| now.since(entry.since) >= UNCOMMITTED_MAX) {
            if let Waiting::Fresh(fresh) = &mut entry.waiting
                && fresh.committing == 0
            {
                fresh.closing = true;
                overdue.push(fresh.run.clone());
            }
        }
        overdue
    }

    /// Gives an overdue segment back, unless a version names it; `None` if that isn't known.
    pub fn sweep(&self, now: Instant, segment: SegmentId, in_use: Option<bool>) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&segment) else { return };
        let Waiting::Fresh(fresh) = &mut entry.waiting else { return };
        match in_use {
            None => fresh.closing = false,
            Some(true) => _ = entries.remove(&segment),
            Some(false) => {
                let run = fresh.run.clone();
                *entry = Entry { since: now, waiting: Waiting::Gone };
                drop(entries);
                run.abort();
            }
        }
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
