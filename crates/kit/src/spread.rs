//! Copies of a kit on nodes: which ones, and what they take.
//!
//! A copy travels in *parcels*: stretches of the log's bytes as they are, sealed already, signed by the
//! volume's key. A holder can't read them. It keeps the newest copy of each volume, and what it had until a newer one is whole.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use base::NodeId;
use codec::{Error as CodecError, Reader, Versioned, Writer};
use crypt::{PublicKey, SIGNATURE_BYTES, VolumeRoot};

use crate::log::Log;

/// Bytes of the log in one parcel at the most.
pub const PARCEL_BYTES_MAX: usize = 4 << 20;
const SIGNED_AS: &str = "abide 2026 kit parcel v1";

/// The nodes that keep copies of a volume's kit, of nodes and the sites that they are in (those of which that isn't known are in one
/// together): at each site those with the highest numbers (rendezvous hashing; Thaler and Ravishankar, 1998), one at every site
/// before there is a second one anywhere. So no site takes all copies with it, and when a node comes or goes, at most one copy moves.
pub fn holders(root: &VolumeRoot, nodes: impl IntoIterator<Item = (NodeId, String)>, count: usize) -> Vec<NodeId> {
    let key = root.holders_key();
    let number = |node: &NodeId| *blake3::keyed_hash(&key, &node.0).as_bytes();
    let mut all: Vec<_> = nodes.into_iter().map(|(node, site)| (Reverse(number(&node)), node, site)).collect();
    all.sort();
    all.dedup_by_key(|(_, node, _)| *node);
    let mut at_site: BTreeMap<String, usize> = BTreeMap::new();
    let place = |(_, node, site)| {
        let before = at_site.entry(site).or_default();
        *before += 1;
        (*before, node)
    };
    let mut places: Vec<(usize, NodeId)> = all.into_iter().map(place).collect();
    // Stable: within a turn by their numbers.
    places.sort_by_key(|(turn, _)| *turn);
    places.into_iter().take(count).map(|(_, node)| node).collect()
}

/// On how many nodes a kit goes whose data survives the loss of so many: one more, three to eight. Fewer would be lost before
/// the data is, and the small objects that only the kit has with it.
pub fn copies(survives: usize) -> usize {
    (survives + 1).clamp(3, 8)
}

/// Which copy of which log, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The volume's public key.
    pub volume: PublicKey,
    /// Whose log.
    pub log: [u8; 16],
    /// Its generation.
    pub generation: u64,
    /// How far the log follows the volume's journal: greater is newer.
    pub position: u64,
    /// Bytes of the log.
    pub len: u64,
}

impl Label {
    /// Of a log as it is.
    pub fn of(log: &Log) -> Self {
        let seen = log.seen();
        let position = log.state().position().seq;
        Self { volume: log.public(), log: seen.log, generation: seen.generation, position, len: log.len() }
    }

    /// What is compared to tell which copy is newer.
    fn age(&self) -> (u64, u64, u64) {
        (self.position, self.generation, self.len)
    }

    /// Its fields.
    pub fn write(&self, to: &mut Writer) {
        to.raw(&self.volume.0).raw(&self.log).u64(self.generation).u64(self.position).u64(self.len);
    }

    /// The reverse of [`Label::write`].
    pub fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            volume: PublicKey(from.array("volume's key")?),
            log: from.array("log")?,
            generation: from.u64("generation")?,
            position: from.u64("position")?,
            len: from.u64("length")?,
        })
    }

    fn same_file(&self, other: &Label) -> bool {
        (self.volume, self.log, self.generation) == (other.volume, other.log, other.generation)
    }
}

/// A stretch of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Of which copy.
    pub label: Label,
    /// Where it begins in the log.
    pub offset: u64,
    /// The log's bytes from there.
    pub bytes: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
}

impl Parcel {
    /// A parcel of at most [`PARCEL_BYTES_MAX`] bytes, by who has the volume's root.
    pub fn new(root: &VolumeRoot, label: Label, offset: u64, bytes: &[u8]) -> Self {
        let bytes = bytes[..bytes.len().min(PARCEL_BYTES_MAX)].to_vec();
        let mut parcel = Self { label, offset, bytes, signature: [0; SIGNATURE_BYTES] };
        parcel.signature = root.signing_key().sign_as(SIGNED_AS, &parcel.signed());
        parcel
    }

    /// The parcels that take a holder from `from` bytes on to all of `log`.
    pub fn all<'a>(root: &'a VolumeRoot, label: Label, log: &'a [u8], from: u64) -> impl Iterator<Item = Parcel> + 'a {
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(log.len());
        let place = move |at: usize| (from + at * PARCEL_BYTES_MAX) as u64;
        log[from..]
            .chunks(PARCEL_BYTES_MAX)
            .enumerate()
            .map(move |(at, part)| Parcel::new(root, label, place(at), part))
    }

    /// The bytes by their hash, so that it is known who signed how much without another copy of it.
    fn signed(&self) -> Vec<u8> {
        let mut to = Writer::new();
        self.label.write(&mut to);
        to.u64(self.offset).raw(&crypt::hash(&self.bytes));
        to.finish()
    }

    /// Whether the volume's owner made it, and it lies within its log.
    pub fn is_genuine(&self) -> bool {
        self.offset.checked_add(self.bytes.len() as u64).is_some_and(|end| end <= self.label.len)
            && self.label.volume.verify_as(SIGNED_AS, &self.signed(), &self.signature)
    }
}

impl Versioned for Parcel {
    const NAME: &'static str = "kit parcel";
    const MARK: [u8; 4] = *b"AbKp";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.label.write(to);
        to.u64(self.offset).bytes(&self.bytes).raw(&self.signature);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let label = Label::read(from)?;
        let offset = from.u64("offset")?;
        let bytes = from.bytes("bytes", PARCEL_BYTES_MAX)?.to_vec();
        Ok(Self { label, offset, bytes, signature: from.array("signature")? })
    }
}

/// What a holder has of one volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// The newest whole copy.
    pub whole: Option<Label>,
    /// A newer one that is being filled, and its bytes so far.
    pub filling: Option<(Label, u64)>,
}

/// What a holder does with a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Appends the bytes to the whole copy, in place.
    Grow,
    /// Begins a copy beside the whole one.
    Begin,
    /// Appends the bytes to the copy that is being filled.
    Fill,
    /// It has them.
    Known,
    /// Nothing: it wants bytes from here on.
    From(u64),
    /// Nothing: it has a newer copy.
    Older,
    /// Nothing: it isn't signed by its volume's owner.
    Forged,
}

impl Shelf {
    /// What becomes of a parcel. The shelf counts the bytes as taken; durable before the next one. When a filled copy is whole
    /// ([`Shelf::filling`] is nothing again), it takes the old one's place.
    pub fn take(&mut self, parcel: &Parcel) -> Take {
        if !parcel.is_genuine() {
            return Take::Forged;
        }
        let (label, end) = (parcel.label, parcel.offset + parcel.bytes.len() as u64);
        if let Some(whole) = &mut self.whole {
            if label.same_file(whole) {
                return match (parcel.offset == whole.len, end <= whole.len) {
                    (_, true) => Take::Known,
                    (true, false) => {
                        *whole = Label { len: end, ..label };
                        Take::Grow
                    }
                    (false, false) => Take::From(whole.len),
                };
            }
            if label.age() <= whole.age() {
                return Take::Older;
            }
        }
        match &mut self.filling {
            Some((known, filled)) if label.same_file(known) && parcel.offset > 0 => {
                if end <= *filled {
                    return Take::Known;
                }
                if parcel.offset != *filled {
                    return Take::From(*filled);
                }
                (*known, *filled) = (label, end);
                self.settle();
                Take::Fill
            }
            Some((known, _)) if label.age() < known.age() => Take::Older,
            _ if parcel.offset > 0 => Take::From(0),
            filling => {
                *filling = Some((label, end));
                self.settle();
                Take::Begin
            }
        }
    }

    fn settle(&mut self) {
        if let Some((label, filled)) = self.filling
            && filled >= label.len
        {
            (self.whole, self.filling) = (Some(label), None);
        }
    }
}

/// Of what nodes offer, the newest first: open these in turn until one is whole and the owner's.
pub fn newest_first(labels: &mut [Label]) {
    labels.sort_by_key(|label| (std::cmp::Reverse(label.age()), label.log));
}
