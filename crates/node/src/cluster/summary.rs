//! What only the leader of the volumes can say of the store without reading a lot over the network: how much is
//! stored, how safe it is, what is being repaired.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::{DriveId, Kind};
use bytes::Bytes;
use codec::{Reader, Versioned, Writer};
use env::BoxFuture;
use transport::{Call, Caller, Class, Fault, Request, Response, Service, ServiceId};

use crate::error::{Error, Result};
use crate::node::{Inner, VOLUMES};
use crate::proof::Safety;
use crate::status::{Repair, Totals};

/// The question, on the wire: nothing is said; the answer's head is a [`Summary`].
pub const SUMMARY: ServiceId = ServiceId(21);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Drives named at the most.
const DRIVES_MAX: usize = 3000;
/// Policies told of at the most.
const POLICIES_MAX: usize = 100;
/// Bytes of a text at the most.
const TEXT_BYTES_MAX: usize = 4096;

/// How the store is, as who repairs it sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// How many more drives may be lost; negative if some data can't be read now.
    pub spare: i64,
    pub totals: Totals,
    pub repair: Repair,
    /// What all data survives, by kinds of loss.
    pub survives: Option<String>,
    /// Lost drives that some data still names.
    pub needed: BTreeSet<DriveId>,
    /// Nodes that vote on the volumes' metadata, so that each has all of it; 0 if the store is that of one machine.
    pub voters: u16,
    /// What the data of each policy survives.
    pub safeties: Vec<Safety>,
}

impl Versioned for Summary {
    const NAME: &'static str = "summary";
    const MARK: [u8; 4] = *b"AbSm";
    const VERSION: u8 = 2;

    fn encode_body(&self, to: &mut Writer) {
        let Summary { spare, totals, repair, survives, needed, voters, safeties } = self;
        to.u64(spare.cast_unsigned()).u64(totals.buckets).u64(totals.objects).u64(totals.bytes);
        to.u64(repair.pieces).u64(repair.bytes).u64(repair.done_pieces).u64(repair.failures);
        to.option(repair.eta_secs, |to, eta| _ = to.u64(eta));
        to.option(survives.as_ref(), |to, text| _ = to.str(text));
        let needed: Vec<&DriveId> = needed.iter().take(DRIVES_MAX).collect();
        to.u16(needed.len() as u16);
        needed.into_iter().for_each(|drive| _ = to.raw(&drive.0));
        to.u16(*voters).u64(totals.deleted).u64(totals.deleted_bytes);
        to.u16(safeties.len().min(POLICIES_MAX) as u16);
        for Safety { policy, spare, survives } in safeties.iter().take(POLICIES_MAX) {
            to.str(policy).u64(spare.cast_unsigned()).u8(survives.len() as u8);
            survives.iter().for_each(|(domain, count)| _ = to.str(domain).u64(*count));
        }
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        let spare = from.u64("spare")?.cast_signed();
        let mut totals = Totals {
            buckets: from.u64("buckets")?,
            objects: from.u64("objects")?,
            bytes: from.u64("bytes")?,
            ..Totals::default()
        };
        let mut repair = Repair {
            pieces: from.u64("pieces")?,
            bytes: from.u64("bytes left")?,
            eta_secs: None,
            done_pieces: from.u64("pieces rebuilt")?,
            failures: from.u64("failures")?,
        };
        repair.eta_secs = from.option("seconds left", |from| from.u64("seconds left"))?;
        let survives = from.option("losses", |from| Ok(from.str("losses", TEXT_BYTES_MAX)?.to_owned()))?;
        let len = usize::from(from.u16("drives")?);
        if len > DRIVES_MAX {
            return Err(codec::Error::TooLong { what: "drives", len, max: DRIVES_MAX });
        }
        let needed = (0..len).map(|_| Ok(DriveId(from.array("drive")?))).collect::<std::result::Result<_, _>>()?;
        let mut summary =
            Self { spare, totals, repair, survives, needed, voters: from.u16("voters")?, safeties: Vec::new() };
        if version >= 2 {
            (totals.deleted, totals.deleted_bytes) = (from.u64("deleted")?, from.u64("deleted bytes")?);
            summary.totals = totals;
            let len = usize::from(from.u16("policies")?);
            if len > POLICIES_MAX {
                return Err(codec::Error::TooLong { what: "policies", len, max: POLICIES_MAX });
            }
            summary.safeties = (0..len).map(|_| safety(from)).collect::<std::result::Result<_, _>>()?;
        }
        Ok(summary)
    }
}

fn safety(from: &mut Reader<'_>) -> std::result::Result<Safety, codec::Error> {
    let policy = from.str("policy", TEXT_BYTES_MAX)?.to_owned();
    let (spare, len) = (from.u64("spare")?.cast_signed(), from.u8("domains")?);
    let domain = |from: &mut Reader<'_>| Ok((from.str("domain", TEXT_BYTES_MAX)?.to_owned(), from.u64("losses")?));
    let survives = (0..len).map(|_| domain(from)).collect::<std::result::Result<_, _>>()?;
    Ok(Safety { policy, spare, survives })
}

/// Answers while this node leads the volumes.
#[derive(Default)]
pub(crate) struct SummaryService(Mutex<Weak<Inner>>);

impl SummaryService {
    /// Whose store it is.
    pub fn set(&self, inner: &Arc<Inner>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }
}

impl Service for SummaryService {
    fn handle(&self, _: Caller, _: Request) -> BoxFuture<'_, std::result::Result<Response, Fault>> {
        Box::pin(async move {
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            let inner = inner.filter(|inner| inner.leads_volumes());
            let inner = inner.ok_or_else(|| Fault::new(Kind::Unreachable, "this node doesn't lead the volumes"))?;
            let summary = inner.summary().await.map_err(|error| Fault::new(Kind::Unreachable, error.to_string()))?;
            Ok(Response::new(summary.encode()))
        })
    }
}

impl Inner {
    /// As the leader of the volumes says it.
    pub async fn summary_anywhere(&self) -> Result<Summary> {
        let Some(cluster) = self.cluster.get().filter(|_| !self.leads_volumes()) else {
            return self.summary().await;
        };
        // Who leads, if anybody here knows; else one of those who may.
        let member = self.shards.get(VOLUMES).and_then(|shard| shard.member());
        let leader = member.as_ref().and_then(|member| member.leads());
        let holders = cluster.holders_of(VOLUMES).into_iter().filter(|holder| Some(*holder) != leader);
        let mut last = Error::NotYet("no node leads the volumes just now".into());
        for node in leader.into_iter().chain(holders).filter(|node| *node != cluster.me) {
            let call = Call::new(SUMMARY, Class::Control, Bytes::new()).with_timeout(LIMIT);
            match cluster.endpoint.call(node, call).await.and_then(|reply| reply.decode()) {
                Ok(summary) => {
                    if let Some(member) = member {
                        member.heard(node);
                    }
                    return Ok(summary);
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_back_and_a_torn_one_is_refused() {
        let summary = Summary {
            spare: -1,
            totals: Totals { buckets: 1, objects: 2, bytes: 3, deleted: 11, deleted_bytes: 12 },
            repair: Repair { pieces: 4, bytes: 5, eta_secs: Some(6), done_pieces: 7, failures: 8 },
            survives: Some("survives the loss of: any 1 node".into()),
            needed: [DriveId([9; 16])].into(),
            voters: 10,
            safeties: vec![Safety { policy: "4+2".into(), spare: 2, survives: [("drive".into(), 2)].into() }],
        };
        let bytes = summary.encode();
        assert_eq!(base::ids::hex(&bytes), include_str!("../../tests/cluster/summary-v2.hex").trim());
        assert_eq!(Summary::decode(&bytes).unwrap(), summary);
        let old = include_str!("../../tests/cluster/summary-v1.hex").trim();
        let mut first = vec![0; old.len() / 2];
        assert!(base::ids::unhex(old, &mut first));
        let totals = Totals { deleted: 0, deleted_bytes: 0, ..summary.totals };
        assert_eq!(Summary::decode(&first).unwrap(), Summary { totals, safeties: Vec::new(), ..summary });
        for cut in 0..bytes.len() {
            assert!(Summary::decode(&bytes[..cut]).is_err());
        }
    }
}
