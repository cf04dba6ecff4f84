//! What reading, writing and verifying noticed: the node repairs it.

use base::{DriveId, GroupId, PieceId, PolicyId, VolumeId};
use tokio::sync::mpsc;

/// Findings that wait to be taken; more are dropped, scrub finds them again.
const WAITING_MAX: usize = 1024;

/// What is wrong with a piece, or with a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No drive of its group has it.
    Missing,
    /// Its bytes aren't what was written.
    Damaged,
    /// The drive failed to answer.
    Failed,
}

/// Something to be repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The volume.
    pub volume: VolumeId,
    /// The segment's policy.
    pub policy: PolicyId,
    /// The segment's group.
    pub group: GroupId,
    /// The piece.
    pub piece: PieceId,
    /// The drive that was asked, if one was.
    pub drive: Option<DriveId>,
    /// What is wrong.
    pub fault: Fault,
}

/// Where findings are told.
#[derive(Clone)]
pub(crate) struct Teller(mpsc::Sender<Finding>);

impl Teller {
    pub fn new() -> (Self, mpsc::Receiver<Finding>) {
        let (send, receive) = mpsc::channel(WAITING_MAX);
        (Self(send), receive)
    }

    pub fn tell(&self, finding: Finding) {
        // Full, or nobody listens: what isn't repaired is found again.
        let _ = self.0.try_send(finding);
    }
}
