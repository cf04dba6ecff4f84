//! Who heals has pieces rebuilt where they will lie: by the node that the most of them go to. So repair is spread over
//! nodes as the pieces are, and what is rebuilt doesn't travel.
//!
//! Nothing hangs on it: who heals decides what, and in which order, notes what was done, and does itself what others
//! can't.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::{GroupId, Kind, Kinded, NodeId, PolicyId, SegmentId, VolumeId};
use bytes::Bytes;
use client::Rebuilt;
use codec::{Reader, Versioned, Writer};
use env::BoxFuture;
use placement::GroupRow;
use steward::Target;
use tokio::sync::Semaphore;
use transport::{Call, Caller, Class, Fault, Request, Response, Service, ServiceId};

use crate::node::Inner;

/// The request, on the wire: its head is a [`Job`], the head of the answer a [`Done`].
pub const HANDS: ServiceId = ServiceId(28);

/// Segments that a node rebuilds at a time for others.
const JOBS_MAX: usize = 8;
/// How long one may take before who asked does it itself.
const LIMIT: Duration = Duration::from_secs(60);
/// What a node that has its hands full says.
const RETRY: Duration = Duration::from_secs(1);
/// Pieces of a segment.
const PIECES_MAX: usize = u8::MAX as usize;

/// Pieces of a segment that are to be rebuilt onto the drives of their group's row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Job {
    target: Target,
    /// The group's row that is meant: who knows another one does nothing.
    version: u32,
    missing: Vec<u8>,
}

impl Versioned for Job {
    const NAME: &'static str = "job of a repair";
    const MARK: [u8; 4] = *b"AbRj";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let Target { volume, policy, group, segment } = self.target;
        to.u32(volume.0).u16(policy.0).u32(group.0).raw(&segment.0).u32(self.version).bytes(&self.missing);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let (volume, policy) = (VolumeId(from.u32("volume")?), PolicyId(from.u16("policy")?));
        let (group, segment) = (GroupId(from.u32("group")?), SegmentId(from.array("segment")?));
        let version = from.u32("version of the group's row")?;
        let missing = from.bytes("missing pieces", PIECES_MAX)?.to_vec();
        Ok(Self { target: Target { volume, policy, group, segment }, version, missing })
    }
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Done(Rebuilt);

impl Versioned for Done {
    const NAME: &'static str = "outcome of a repair";
    const MARK: [u8; 4] = *b"AbRd";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let Rebuilt { pieces, homeless, damaged, bytes, read } = &self.0;
        to.bytes(pieces).bytes(homeless).bytes(damaged).u64(*bytes).u64(*read);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let mut indices = |what| Ok::<_, codec::Error>(from.bytes(what, PIECES_MAX)?.to_vec());
        let (pieces, homeless, damaged) = (indices("pieces")?, indices("homeless pieces")?, indices("damaged pieces")?);
        Ok(Self(Rebuilt { pieces, homeless, damaged, bytes: from.u64("bytes")?, read: from.u64("bytes read")? }))
    }
}

/// Rebuilds for who heals.
pub(crate) struct HandsService {
    node: Mutex<Weak<Inner>>,
    jobs: Semaphore,
}

impl Default for HandsService {
    fn default() -> Self {
        Self { node: Mutex::default(), jobs: Semaphore::new(JOBS_MAX) }
    }
}

impl HandsService {
    /// Whose hands they are.
    pub fn set(&self, inner: &Arc<Inner>) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }

    async fn answer(&self, request: Request) -> Result<Response, Fault> {
        let inner = self.node.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let inner = inner.ok_or_else(|| Fault::new(Kind::Unreachable, "this node is still starting"))?;
        let job = Job::decode(&request.head).map_err(|error| Fault::new(Kind::Invalid, error.to_string()))?;
        let full = |_| Fault::new(Kind::Busy { retry_after: RETRY }, "this node rebuilds as much as it can");
        let _turn = self.jobs.try_acquire().map_err(full)?;
        let fault = |error: crate::Error| Fault::new(error.kind(), error.to_string());
        let Target { volume, policy, group, segment } = job.target;
        let row = inner.group(policy, group).map_err(fault)?.filter(|row| row.version == job.version);
        let row = row.ok_or_else(|| Fault::new(Kind::Conflict, "this node knows another row of the group"))?;
        let rebuilt = inner.client.rebuild(volume, segment, (policy, &row), &job.missing).await;
        let rebuilt = rebuilt.map_err(|error| fault(error.into()))?;
        inner.has_read(&rebuilt);
        Ok(Response::new(Done(rebuilt).encode()))
    }
}

impl Service for HandsService {
    fn handle(&self, _: Caller, request: Request) -> BoxFuture<'_, Result<Response, Fault>> {
        Box::pin(self.answer(request))
    }
}

impl Inner {
    /// Has pieces rebuilt, by the node that most of them go to if that can do it.
    pub async fn rebuild_somewhere(
        &self,
        target: Target,
        row: &GroupRow,
        missing: &[u8],
    ) -> Result<Rebuilt, client::Error> {
        if let Some(node) = self.hands_for(row, missing) {
            match self.ask_to_rebuild(node, target, row, missing).await {
                Ok(rebuilt) => return Ok(rebuilt),
                Err(why) => tracing::debug!(%node, segment = %target.segment, why, "rebuilt here instead"),
            }
        }
        let rebuilt = self.client.rebuild(target.volume, target.segment, (target.policy, row), missing).await?;
        self.has_read(&rebuilt);
        Ok(rebuilt)
    }

    /// Nodes that drives answer on, this one counted.
    pub fn hands(&self) -> usize {
        let Some(cluster) = self.cluster.get() else { return 1 };
        let drives = cluster.remotes.all().into_iter().filter(|(drive, _)| cluster.remotes.is_up(*drive));
        1 + drives.map(|(_, node)| node).collect::<BTreeSet<NodeId>>().len()
    }

    /// The node that most of the pieces go to; `None` if it is this one, or nobody knows.
    fn hands_for(&self, row: &GroupRow, missing: &[u8]) -> Option<NodeId> {
        let cluster = self.cluster.get()?;
        let mut homes: BTreeMap<NodeId, usize> = BTreeMap::new();
        for drive in missing.iter().filter_map(|index| row.members.get(usize::from(*index))) {
            let elsewhere = || cluster.remotes.get(*drive).map(|remote| remote.node());
            let node = if self.fleet.get(*drive).is_some() { cluster.me } else { elsewhere()? };
            *homes.entry(node).or_default() += 1;
        }
        // Of as many the one that is here: it needn't be asked.
        let most = homes.into_iter().max_by_key(|(node, count)| (*count, *node == cluster.me))?;
        Some(most.0).filter(|node| *node != cluster.me)
    }

    async fn ask_to_rebuild(
        &self,
        node: NodeId,
        target: Target,
        row: &GroupRow,
        missing: &[u8],
    ) -> Result<Rebuilt, String> {
        let cluster = self.cluster.get().ok_or("this node is alone")?;
        let job = Job { target, version: row.version, missing: missing.to_vec() };
        let call = Call::new(HANDS, Class::Control, Bytes::from(job.encode())).with_timeout(LIMIT);
        let answer = cluster.endpoint.call(node, call).await.map_err(|error| error.to_string())?;
        let Done(rebuilt) = Done::decode(&answer.head).map_err(|error| format!("it answers garbage: {error}"))?;
        let is_asked = |index: &u8| missing.contains(index);
        if rebuilt.pieces.iter().all(is_asked) { Ok(rebuilt) } else { Err("it rebuilt what nobody asked for".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/formats/metadata-wire.md, "Jobs of a repair".
    #[test]
    fn a_job_and_its_outcome_have_the_bytes_that_were_released_and_garbage_is_refused() {
        let target =
            Target { volume: VolumeId(1), policy: PolicyId(2), group: GroupId(3), segment: SegmentId([4; 16]) };
        let job = Job { target, version: 5, missing: vec![0, 7] };
        let hex = "4162526a01".to_owned()
            + "01000000"
            + "0200"
            + "03000000"
            + &"04".repeat(16)
            + "05000000"
            + "02000000"
            + "0007";
        assert_eq!(base::ids::hex(&job.encode()), hex);
        assert_eq!(Job::decode(&job.encode()).as_ref(), Ok(&job));
        let done = Done(Rebuilt { pieces: vec![7], homeless: vec![0], damaged: vec![], bytes: 8, read: 9 });
        let hex = "4162526401".to_owned()
            + "0100000007"
            + "0100000000"
            + "00000000"
            + "0800000000000000"
            + "0900000000000000";
        assert_eq!(base::ids::hex(&done.encode()), hex);
        assert_eq!(Done::decode(&done.encode()).as_ref(), Ok(&done));
        for bytes in [job.encode(), done.encode()] {
            (0..bytes.len()).for_each(|cut| {
                assert!(Job::decode(&bytes[..cut]).is_err());
                assert!(Done::decode(&bytes[..cut]).is_err());
            });
        }
    }
}
