//! Where things belong in a cluster: pieces on drives, voters on nodes, and what survives which loss.
//!
//! Per policy there is an explicit table of groups ([`GroupRow`]), each an ordered tuple of distinct
//! drives; a manifest names (policy, group) and never changes when the table does. The [`map`] holds
//! all of it: nodes with their labels, drives, policies, tables; with an epoch, a hash and a signature.
//! Everything here is a pure function of its arguments: same map, same answer, on any node. The crate
//! doesn't know why it is asked, nor what a piece or a shard holds.
//!
//! In reading order: [`group`]; [`place`]: drives and the failure domains they are in; [`caps`]: how
//! many pieces one domain may hold; [`spread`]: tables that keep to it; [`rebalance`]: evening them out;
//! [`table`]: the same for one machine; [`survive`]: what may be lost; [`labels`], [`map`]; [`outcome`]:
//! what a change would come to; [`gate`]: the commands that must ask; [`voters`]; [`restart`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod caps;
pub mod gate;
pub mod group;
pub mod labels;
pub mod map;
pub mod outcome;
pub mod place;
pub mod rebalance;
pub mod restart;
pub mod spread;
pub mod survive;
pub mod table;
pub mod voters;

pub use caps::{Caps, Spec, Unmet};
pub use group::GroupRow;
pub use labels::Labels;
pub use map::{Map, SignedMap};
pub use place::{Place, Places};
pub use survive::Survival;
pub use table::{Candidate, GROUPS_MAX, build, group_count, replace};
