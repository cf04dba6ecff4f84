//! Restore drills of an end-to-end volume: only who has its keys can hold one.
//!
//! A sample is read as after the loss of all directors: by a kit from a node, not this machine's, and from nodes chosen by chance, so few that none can be
//! spared. What came of it is signed by the volume's key and told to the store, whose status shows it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base::{Kinded, NodeId};
use client::Folder;
use client::guest::{Drill, Wish};
use client::offline::{Keys, Offline};
use kit::{Object, Segment, State};

use crate::volume::{Volume, invalid};
use crate::{Result, holder, survey};

/// Objects of one drill at the most, and bytes that are read of each.
const OBJECTS: usize = 4;
const BYTES_MAX: u64 = 1 << 20;
/// An object that isn't read after so long can't be.
const LIMIT: Duration = Duration::from_secs(60);

impl Volume {
    /// Holds a drill, and tells the store what came of it; nothing if there is nothing to be held with: no node has a kit yet, nothing is in the volume, this is
    /// a grant's holder, or nobody leads now.
    ///
    /// # Errors
    /// If it can't be told. That something can't be read is [`Drill::failed`].
    pub async fn drill(&self) -> Result<Option<Drill>> {
        let Some(root) = self.root.as_ref().filter(|_| self.read_by_kit().is_none()) else { return Ok(None) };
        let labels = survey::labels(&self.reach, &mut Vec::new()).await;
        let (Some(log), _) = survey::newest_kit(&self.reach, root, &labels).await else { return Ok(None) };
        let state = log.state();
        let mut all: Vec<(&str, &Object)> = state.list("").collect();
        let mut drill = Drill { at: self.env.clock.wall(), ..Drill::default() };
        for _ in 0..OBJECTS.min(all.len()) {
            let (key, object) = all.swap_remove(self.any(all.len() as u64) as usize);
            let Some(path) = self.true_path(key) else { continue };
            match self.drill_object(state, &path, object).await {
                Ok(bytes) => (drill.objects, drill.bytes) = (drill.objects + 1, drill.bytes + bytes),
                Err(error) => {
                    // It may have been deleted or replaced, and its pieces with it, since the kit was made.
                    let is_it = self.stat(&path).await.is_ok_and(|now| now.written == object.modified);
                    if is_it {
                        tracing::error!(path, %error, "a restore drill can't read an object");
                        drill.failed += 1;
                    }
                }
            }
        }
        if drill.objects + drill.failed == 0 {
            return Ok(None);
        }
        let report = drill.sign(self.about().number, &root.signing_key());
        self.directors.ask(Wish::Drilled(report)).await?;
        Ok(Some(drill))
    }

    /// A number below another one, by chance.
    fn any(&self, below: u64) -> u64 {
        u64::from_le_bytes(self.env.random()) % below.max(1)
    }

    async fn drill_object(&self, state: &State, path: &str, object: &Object) -> Result<u64> {
        let segments: Vec<&Segment> = object.body.segments().into_iter().map(|(segment, _)| segment).collect();
        let mut order: Vec<(u64, NodeId)> = self.reach.nodes().keys().map(|node| (self.any(u64::MAX), *node)).collect();
        order.sort_unstable();
        let everybody: Vec<NodeId> = order.into_iter().map(|(_, node)| node).collect();
        let few = state.few(&segments, &everybody, |_| true);
        let start = self.any(object.size.saturating_sub(BYTES_MAX));
        let range = start..object.size.min(start + BYTES_MAX);
        match self.read_from(&few, state, path, object, range.clone()).await {
            // One of the few may be away.
            Err(error) if error.kind().is_transient() || error.kind() == base::Kind::Missing => {
                self.read_from(&everybody.into_iter().collect(), state, path, object, range).await
            }
            other => other,
        }
    }

    async fn read_from(
        &self,
        nodes: &BTreeSet<NodeId>,
        state: &State,
        path: &str,
        object: &Object,
        range: Range<u64>,
    ) -> Result<u64> {
        let Some(root) = &self.root else { return Err(invalid("only the owner reads by a kit")) };
        let offline = Offline::new(self.env.clone(), Keys::Folder(Arc::new(Folder::of_root(root))));
        holder::hold_some(&self.reach, offline.drives(), nodes);
        let len = range.end - range.start;
        let read = async {
            let mut stream = offline.object(self.about().number, state, path, object, range)?;
            let mut bytes = 0;
            while let Some(part) = stream.next().await {
                bytes += part?.len() as u64;
            }
            Ok(bytes)
        };
        let late = client::Error::Metadata { kind: base::Kind::Unreachable, text: "it took too long".into() };
        match self.env.timeout(LIMIT, read).await {
            Some(Ok(bytes)) if bytes != len => {
                Err(client::Error::Damaged { what: "an object, which is too short" }.into())
            }
            Some(done) => done,
            None => Err(late.into()),
        }
    }
}
