//! What is stored is evened out over the drives: after a machine joined, came back larger, or many objects went.
//!
//! One node does it for all, whoever leads the catalog. It asks [`placement::rebalance`] for the next wave, a function of
//! the map and of what groups hold, and makes it the groups' target in one batch; pieces then move as they do when a drive
//! is drained, and nothing has to be remembered. Repair comes first: no wave begins while segments lack pieces.

use std::sync::Arc;
use std::time::Duration;

use base::kv::Batch;
use codec::Versioned;
use namespace::catalog::{self, Severity};
use placement::rebalance::{self, Limits, Why};

use crate::error::Result;
use crate::gate::placed;
use crate::groups;
use crate::node::Inner;

/// Positions under way at a time: so many drives are busy that it gets on, and users hardly notice.
const IN_FLIGHT: usize = 48;
/// How soon after a wave it is looked whether it has arrived.
const NEXT: Duration = Duration::from_secs(5);
/// Of the time at most a part in so many goes into finding out what groups hold.
const LOOK_SHARE: u32 = 20;

/// Evens out until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut pause = inner.settings.even_every;
    while inner.pause(pause).await {
        pause = inner.settings.even_every;
        if !inner.system.is_led_here() {
            continue;
        }
        let began = inner.env.clock.now();
        match inner.unless_closing(inner.even_out()).await {
            // The next wave follows soon.
            Some(Ok(true)) => pause = pause.min(NEXT),
            Some(Ok(false)) | None => {}
            Some(Err(error)) => tracing::debug!(%error, "nothing can be evened out now: trying again"),
        }
        pause = pause.max(inner.env.clock.now().since(began) * LOOK_SHARE);
    }
}

impl Inner {
    /// Begins the next wave, if there is something to even out and nothing more urgent. Whether one is under way.
    async fn even_out(&self) -> Result<bool> {
        let map = self.map()?;
        let is_moving = map.policies.iter().flat_map(|policy| &policy.groups).any(|row| row.moving().next().is_some());
        if map.drives.len() < 2 || is_moving || self.lacking().await? > 0 {
            return Ok(is_moving);
        }
        let (held, up) = (self.held().await?, self.up());
        let down = map.drives.iter().map(|drive| drive.id).filter(|id| !up.contains(id)).collect();
        let held = |policy, group| held.get(&(policy, group)).copied().unwrap_or_default();
        let limits = Limits { in_flight: IN_FLIGHT, ..Limits::default() };
        let moves = rebalance::next(&map, &down, limits, &held);
        if moves.is_empty() {
            return Ok(false);
        }
        let seen = placed(&map);
        let begun = self.change(|view| {
            let mut batch = Batch::default();
            // Whatever else changed comes first.
            if placed(&self.map_of(view)?) != seen {
                return Ok((batch, false));
            }
            for (policy, rows) in groups::load(view)? {
                let mut next = rows.clone();
                rebalance::apply(policy.id, &mut next, &moves);
                for row in next.into_iter().filter(|row| !rows.contains(row)) {
                    batch.puts.extend(catalog::put_group(policy.id, row.group, &row.encode()).puts);
                }
            }
            Ok((batch, true))
        });
        if begun.await? {
            self.client.map_changed();
            self.wake.notify_one();
            let bytes: u64 = moves.iter().map(|one| one.bytes).sum();
            let count = moves.iter().filter(|one| one.why != Why::Free).count();
            if count > 0 {
                let text =
                    format!("{count} positions of placement groups with {bytes} bytes move, to even out the drives");
                self.tell(Severity::Info, "rebalance", "", text);
            }
        }
        Ok(true)
    }
}
