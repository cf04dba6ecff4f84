//! Tickets: the volume's owner lets somebody read pieces from nodes, with no director alive.

use std::collections::BTreeMap;

use base::{NodeId, SegmentId, Wall};
use codec::{Error, Reader, Versioned, Writer};
use crypt::{PublicKey, SIGNATURE_BYTES, VolumeRoot};

use crate::Refusal;

const CONTEXT: &str = "abide 2026 owner ticket v1";
/// Tickets that a node counts at a time: a few MB.
pub const METER_MAX: usize = 65_536;

/// A signed leave to read sealed bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The volume's public key, which signed it.
    pub volume: PublicKey,
    /// Segments whose id begins so: 16 bytes are one of them, none are all of the volume's.
    pub segments: Vec<u8>,
    /// The node that it is for; any if not given.
    pub node: Option<NodeId>,
    /// Bytes that each node serves for it at the most.
    pub bytes_max: u64,
    /// When it ends.
    pub until: Wall,
    /// Tells it from others; random.
    pub nonce: [u8; 16],
    signature: [u8; SIGNATURE_BYTES],
}

/// What a reader asks a node for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The public key in the header of the piece.
    pub volume: PublicKey,
    /// Its segment.
    pub segment: SegmentId,
    /// The node that was asked.
    pub node: NodeId,
    /// What time it is there.
    pub now: Wall,
}

impl Ticket {
    /// A ticket, by who has the volume's root. Of `segments` the first 16 bytes count. `nonce` is random.
    pub fn issue(
        root: &VolumeRoot,
        segments: &[u8],
        node: Option<NodeId>,
        bytes_max: u64,
        until: Wall,
        nonce: [u8; 16],
    ) -> Self {
        let key = root.signing_key();
        let segments = segments[..segments.len().min(16)].to_vec();
        let mut ticket =
            Self { volume: key.public(), segments, node, bytes_max, until, nonce, signature: [0; SIGNATURE_BYTES] };
        ticket.signature = key.sign_as(CONTEXT, &ticket.signed());
        ticket
    }

    /// Whether its volume's owner made it, and its time isn't over.
    pub fn is_genuine(&self, now: Wall) -> bool {
        now < self.until && self.volume.verify_as(CONTEXT, &self.signed(), &self.signature)
    }

    fn signed(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.raw(&self.volume.0).bytes(&self.segments).option(self.node, |to, node| {
            to.raw(&node.0);
        });
        to.u64(self.bytes_max).u64(self.until.0).raw(&self.nonce);
        to.finish()
    }

    /// Succeeds if the ticket is for this. The signature is checked last: it costs most.
    pub fn check(&self, ask: &Ask) -> Result<(), Refusal> {
        if self.volume != ask.volume {
            return Err(Refusal::OtherVolume);
        }
        if self.node.is_some_and(|node| node != ask.node) {
            return Err(Refusal::OtherNode);
        }
        if !ask.segment.0.starts_with(&self.segments) {
            return Err(Refusal::Segment);
        }
        if ask.now >= self.until {
            return Err(Refusal::Ended { at: self.until, now: ask.now });
        }
        if !self.volume.verify_as(CONTEXT, &self.signed(), &self.signature) {
            return Err(Refusal::Forged);
        }
        Ok(())
    }
}

impl Versioned for Ticket {
    const NAME: &'static str = "owner ticket";
    const MARK: [u8; 4] = *b"AbOt";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.signed()).raw(&self.signature);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            volume: PublicKey(from.array("volume's key")?),
            segments: from.bytes("segments", 16)?.to_vec(),
            node: from.option("node", |from| from.array("node").map(NodeId))?,
            bytes_max: from.u64("bytes")?,
            until: Wall(from.u64("until")?),
            nonce: from.array("nonce")?,
            signature: from.array("signature")?,
        })
    }
}

/// What one node served for which ticket. Lost with the process: then a ticket's bytes begin anew.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    served: BTreeMap<([u8; 32], [u8; 16]), (u64, Wall)>,
}

impl Meter {
    /// Counts `want` bytes to a ticket that was checked. Nothing is counted if it is refused.
    pub fn charge(&mut self, ticket: &Ticket, want: u64, now: Wall) -> Result<(), Refusal> {
        let place = (ticket.volume.0, ticket.nonce);
        if !self.served.contains_key(&place) && self.served.len() >= METER_MAX {
            self.served.retain(|_, (_, until)| *until > now);
            if self.served.len() >= METER_MAX {
                return Err(Refusal::Crowded);
            }
        }
        let (served, _) = self.served.entry(place).or_insert((0, ticket.until));
        match served.checked_add(want).filter(|sum| *sum <= ticket.bytes_max) {
            Some(sum) => {
                *served = sum;
                Ok(())
            }
            None => Err(Refusal::Spent { max: ticket.bytes_max, served: *served, want }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentId = SegmentId([0xab; 16]);

    fn root() -> VolumeRoot {
        VolumeRoot::new(std::array::from_fn(|i| i as u8))
    }

    fn ask() -> Ask {
        Ask { volume: root().signing_key().public(), segment: SEGMENT, node: NodeId([1; 16]), now: Wall(1000) }
    }

    fn ticket(segments: &[u8], node: Option<NodeId>) -> Ticket {
        Ticket::issue(&root(), segments, node, 100, Wall(2000), [5; 16])
    }

    #[test]
    fn a_node_serves_what_the_ticket_is_for_and_nothing_else() {
        for (segments, node) in [(&[][..], None), (&[0xab; 3], None), (&SEGMENT.0, Some(NodeId([1; 16])))] {
            ticket(segments, node).check(&ask()).unwrap();
        }
        let whole = ticket(&[], Some(NodeId([1; 16])));
        let other = VolumeRoot::new([9; 32]).signing_key().public();
        let late = Refusal::Ended { at: Wall(2000), now: Wall(2000) };
        for (ticket, ask, refusal) in [
            (&whole, Ask { volume: other, ..ask() }, Refusal::OtherVolume),
            (&whole, Ask { node: NodeId([2; 16]), ..ask() }, Refusal::OtherNode),
            (&whole, Ask { now: Wall(2000), ..ask() }, late),
            (&ticket(&[0xab, 0xac], None), ask(), Refusal::Segment),
        ] {
            assert_eq!(ticket.check(&ask), Err(refusal));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_ticket_is_refused() {
        for ticket in [ticket(&[0xab], None), ticket(&[], Some(NodeId([1; 16])))] {
            let bytes = ticket.encode();
            assert_eq!(Ticket::decode(&bytes).as_ref(), Ok(&ticket));
            for bit in 0..bytes.len() * 8 {
                let mut wrong = bytes.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(Ticket::decode(&wrong).map_or(true, |wrong| wrong.check(&ask()).is_err()), "bit {bit}");
            }
            for cut in 0..bytes.len() {
                assert!(Ticket::decode(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn a_tickets_bytes_are_counted_and_end() {
        let mut meter = Meter::default();
        let ticket = ticket(&[], None);
        meter.charge(&ticket, 60, Wall(1)).unwrap();
        assert_eq!(meter.charge(&ticket, 41, Wall(1)), Err(Refusal::Spent { max: 100, served: 60, want: 41 }));
        assert!(meter.charge(&ticket, u64::MAX, Wall(1)).is_err());
        meter.charge(&ticket, 40, Wall(1)).unwrap();
        let mut other = ticket.clone();
        other.nonce = [6; 16];
        meter.charge(&other, 100, Wall(1)).unwrap();
    }

    #[test]
    fn a_meter_is_bounded_and_forgets_what_ended() {
        let mut meter = Meter::default();
        let mut one = ticket(&[], None);
        for number in 0..METER_MAX as u64 {
            one.nonce[..8].copy_from_slice(&number.to_le_bytes());
            meter.charge(&one, 1, Wall(1)).unwrap();
        }
        one.nonce = [0xff; 16];
        assert_eq!(meter.charge(&one, 1, Wall(1)), Err(Refusal::Crowded));
        meter.charge(&one, 1, Wall(2000)).unwrap();
        assert_eq!(meter.served.len(), 1);
    }

    #[test]
    fn tickets_never_change() {
        let hex = base::ids::hex(&ticket(&[0xab, 0xcd], Some(NodeId([1; 16]))).encode());
        assert_eq!(hex, include_str!("../tests/ticket-v1.txt").trim());
    }
}
