//! The ground floor: what every other crate may use and nothing that could surprise it.
//!
//! Typed ids, the one [`Kind`] of error that tells a caller what to do, points in time, the rows of
//! an ordered map ([`kv`]) in which rules speak to stores, and the names of what fails together
//! ([`domain`]). No clock, no disk, no async.

pub mod base64;
pub mod domain;
pub mod ids;
pub mod kind;
pub mod kv;
pub mod limits;
pub mod nearest;
pub mod time;

pub use domain::{Demand, Domain, Standing};
pub use ids::{ClusterId, DriveId, Epoch, GroupId, NodeId, PieceId, PolicyId, SegmentId, Seq, UserId, VolumeId};
pub use kind::{Kind, Kinded};
pub use time::{Instant, Wall};
