//! Nodes that join, and leave, by and by; and the waves of moves that make the rest even again.

use placement::gate::Change;
use placement::map::State;
use placement::rebalance::Limits;

use super::{DAY, Run, What};

/// Looks at a drain that goes on, at a gate that refused, and at what is uneven still: once an hour.
const LOOK: f64 = 3600e9;

impl Run<'_> {
    pub(super) fn plan_growth(&mut self) {
        if let Some(growth) = self.fleet.growth {
            self.apart = (growth.first as u32..self.fleet.machines.len() as u32).collect();
            self.after(DAY / growth.per_day, What::Grow);
        }
    }

    /// The next node joins, or the next one begins to leave.
    pub(super) fn grow(&mut self) {
        let Some(growth) = self.fleet.growth else { return };
        let nodes = self.fleet.machines.len();
        let (joined, begun) = (self.world.tally.joined as usize, self.leaving);
        let node = growth.first + joined;
        if node < nodes {
            self.join(node as u32);
            self.world.tally.joined += 1;
            self.settled_at = self.now.0;
        } else if begun < nodes - growth.left {
            let drain = Change::Drain(vec![self.node(begun)]);
            if !self.is_member(begun) {
                // The operator was faster.
                self.leaving += 1;
                self.leave(begun as u32);
            } else if self.ask("drain a node that leaves", false, &drain) {
                self.leaving += 1;
                // Nobody puts a new machine there.
                self.apart.insert(begun as u32);
                self.after(LOOK, What::Leave(begun as u32));
            } else {
                return self.after(LOOK, What::Grow);
            }
        } else {
            return;
        }
        self.after(DAY / growth.per_day, What::Grow);
    }

    /// A node that leaves does so once it is empty and the gate says so.
    pub(super) fn leave(&mut self, node: u32) {
        let drives = &self.drives_of[node as usize];
        let is_empty = drives.iter().all(|drive| self.world.is_empty(*drive));
        let remove = Change::Remove(vec![self.node(node as usize)]);
        if self.is_member(node as usize) && !(is_empty && self.ask("remove a node that left", false, &remove)) {
            return self.after(LOOK, What::Leave(node));
        }
        self.apart.insert(node);
        self.world.tally.left += 1;
        self.settled_at = self.now.0;
        self.even();
    }

    /// New drives for a node that has none, or whose were taken out.
    pub(super) fn join(&mut self, node: u32) {
        let is_out = |drive: &u32| self.world.state(*drive) >= State::Gone;
        let drives: Vec<u32> = self.drives_of[node as usize].iter().copied().filter(is_out).collect();
        self.apart.remove(&node);
        self.world.join(&drives);
        let found = self.world.rehome_rest();
        self.begin_all(found);
        self.steward.retry();
        self.even();
    }

    /// One wave now. Where nodes come and go there are more until nothing is left to do; elsewhere the next new drives bring
    /// the next one.
    pub(super) fn even(&mut self) {
        let moved = self.world.even(self.fleet, self.wave_positions());
        let is_even = moved.is_empty() && self.world.is_whole();
        if self.fleet.growth.is_some() && !self.is_evening && !is_even {
            self.is_evening = true;
            self.after(LOOK, What::Even);
        }
        moved.into_iter().for_each(|position| self.plan_move(position));
    }

    pub(super) fn even_again(&mut self) {
        self.is_evening = false;
        self.even();
    }

    /// As many positions as a node has, and no fewer than a store's waves have.
    fn wave_positions(&self) -> usize {
        let each = self.world.tally.position_bytes.max(1.0);
        let positions = (self.world.tally.stored_bytes / each) as usize / self.drives_of.len().max(1);
        positions.max(Limits::default().in_flight)
    }

    /// Whether nobody joins or leaves any more, and nothing is to fail.
    fn is_over(&self) -> bool {
        let has_grown = self.fleet.growth.is_none_or(|growth| {
            let (nodes, tally) = (self.fleet.machines.len(), &self.world.tally);
            tally.joined as usize == nodes - growth.first && tally.left as usize >= nodes - growth.left
        });
        let is_asked = self.fleet.growth.is_some() || self.fleet.calm_after_days.is_some();
        is_asked && has_grown && (self.fleet.calm_after_days.is_none() || self.is_calm())
    }

    /// Notes when all was whole again after the last that joined, left or failed.
    pub(super) fn note_whole(&mut self) {
        if self.world.tally.whole_hours.is_none() && self.is_over() && self.world.is_whole() {
            let calm = self.fleet.calm_after_days.unwrap_or_default() * DAY;
            let last = self.settled_at.max(calm as u64);
            self.world.tally.whole_hours = Some((self.now.0 - last) as f64 / LOOK);
        }
    }
}
