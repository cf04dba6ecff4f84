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

/// Positions under way at a time: a piece or two for each of a few dozen drives.
const IN_FLIGHT: usize = 48;
/// How soon after a wave it is looked whether it has arrived.
const NEXT: Duration = Duration::from_secs(5);
/// A drive that holds so much more than its share, in thousandths, is a reason to move data. Waves go on to the tolerance
/// of [`Limits`], which is lower: what users write and delete all the time doesn't begin one after the other.
const UNEVEN_PERMILLE: u64 = 60;
/// The same for one that holds less.
const EMPTY_PERMILLE: u64 = 100;
/// A wave that moves less than one part in so many of all that is stored could have waited: the next one does, twice as
/// long each time.
const WORTHWHILE: u64 = 50;
/// But no longer than this.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Of the time at most a part in so many goes into finding out what groups hold.
const LOOK_SHARE: u32 = 20;

/// Evens out until the node is closed.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let every = inner.settings.even_every;
    let (mut pause, mut wait, mut small_from) = (every, every, inner.env.clock.now());
    while inner.pause(pause).await {
        pause = every;
        if !inner.system.is_led_here() {
            continue;
        }
        let began = inner.env.clock.now();
        match inner.unless_closing(inner.even_out(began >= small_from)).await {
            // The next wave follows soon.
            Some(Ok(Wave::UnderWay)) => pause = every.min(NEXT),
            Some(Ok(Wave::Large)) => (pause, wait, small_from) = (every.min(NEXT), every, began),
            Some(Ok(Wave::Small)) => (wait, small_from) = ((wait * 2).min(WAIT_MAX), began + wait),
            Some(Ok(Wave::None)) | None => {}
            Some(Err(error)) => tracing::debug!(%error, "nothing can be evened out now: trying again"),
        }
        pause = pause.max(inner.env.clock.now().since(began) * LOOK_SHARE);
    }
}

impl Inner {
    /// Begins the next wave, if there is something to even out and nothing more urgent; a small one only if it may be.
    async fn even_out(&self, may_be_small: bool) -> Result<Wave> {
        let map = self.map()?;
        let is_moving = map.policies.iter().flat_map(|policy| &policy.groups).any(|row| row.moving().next().is_some());
        if map.drives.len() < 2 || is_moving || self.lacking().await?.any() {
            return Ok(if is_moving { Wave::UnderWay } else { Wave::None });
        }
        let (held, up) = (self.held().await?, self.up());
        let down = map.drives.iter().map(|drive| drive.id).filter(|id| !up.contains(id)).collect();
        let stored: u64 = held.values().map(|held| held.bytes).sum();
        let held = |policy, group| held.get(&(policy, group)).copied().unwrap_or_default();
        let limits = Limits { in_flight: IN_FLIGHT, ..Limits::default() };
        let is_uneven = rebalance::evenness(&map, &down, limits, &held).iter().any(|(_, even)| {
            even.fullest_permille > 1000 + UNEVEN_PERMILLE || even.emptiest_permille < 1000 - EMPTY_PERMILLE
        });
        let mut moves = rebalance::next(&map, &down, limits, &held);
        moves.retain(|one| is_uneven || matches!(one.why, Why::Spread | Why::Leave));
        let bytes: u64 = moves.iter().map(|one| one.bytes).sum();
        let is_large = bytes >= stored / WORTHWHILE;
        if moves.is_empty() || !(is_large || may_be_small) {
            return Ok(Wave::None);
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
            let count = moves.iter().filter(|one| one.why != Why::Free).count();
            if count > 0 {
                let text =
                    format!("{count} positions of placement groups with {bytes} bytes move, to even out the drives");
                self.tell(Severity::Info, "rebalance", "", text);
            }
        }
        Ok(if is_large { Wave::Large } else { Wave::Small })
    }
}

/// What a look came to.
enum Wave {
    /// Nothing is to be done.
    None,
    /// What was begun before hasn't arrived.
    UnderWay,
    /// One was begun that moves next to nothing.
    Small,
    /// One was begun.
    Large,
}
