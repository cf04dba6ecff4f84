//! What every piece says of itself, so that pieces alone can be understood: by a repairer without a
//! key, by a rescuer with the root key and nothing else. docs/formats/segments.md has every byte.

use base::limits::{CELL_BYTES, CODE_PIECES_MAX, SEGMENT_BYTES_MAX};
use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use codec::{Error, Reader, Versioned, Writer};
use crypt::{VolumeKey, WRAPPED_BYTES};

use crate::layout::Layout;

/// Bytes of a sealed fragment at the most: the slot table of a full pack.
pub const FRAGMENT_BYTES_MAX: usize = 512 * 1024;
/// Slots of a pack at the most.
pub const SLOTS_MAX: usize = 256;

/// The header of one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceHeader {
    /// The volume, part of the cells' associated data.
    pub volume: VolumeId,
    /// The segment.
    pub segment: SegmentId,
    /// Which piece of it this is.
    pub index: u8,
    /// Data pieces.
    pub k: u8,
    /// Parity pieces.
    pub m: u8,
    /// A pack: its cells aren't sealed, its objects are.
    pub pack: bool,
    /// Bytes of the segment.
    pub len: u64,
    /// When it was written.
    pub written: Wall,
    /// The policy whose group table named the drives.
    pub policy: PolicyId,
    /// The placement group.
    pub group: GroupId,
    /// The segment's key, wrapped for slot 0; zeros in a pack.
    pub wrapped_key: [u8; WRAPPED_BYTES],
    /// BLAKE3 of each of the k + m pieces' bodies.
    pub roots: Vec<[u8; 32]>,
    /// A [`Fragment`], sealed under the volume's key; associated data is the segment id.
    pub fragment: Vec<u8>,
}

impl PieceHeader {
    /// BLAKE3 of the pieces' roots, in order: what the manifest holds.
    pub fn root(&self) -> [u8; 32] {
        segment_root(&self.roots)
    }

    /// Where bytes lie in the segment.
    pub fn layout(&self) -> Layout {
        if self.pack { Layout::pack(self.k, self.len) } else { Layout::sealed(self.k, self.len) }
    }

    /// The same header for another piece of the segment.
    pub fn at(&self, index: u8) -> Self {
        Self { index, ..self.clone() }
    }
}

/// BLAKE3 of the pieces' roots, in order.
pub fn segment_root(roots: &[[u8; 32]]) -> [u8; 32] {
    crypt::hash(roots.as_flattened())
}

impl Versioned for PieceHeader {
    const NAME: &'static str = "piece header";
    const MARK: [u8; 4] = *b"AbPH";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let mut body = Writer::new();
        body.u32(self.volume.0)
            .raw(&self.segment.0)
            .u8(self.index)
            .u8(self.k)
            .u8(self.m)
            .u8(u8::from(self.pack))
            .u32(CELL_BYTES as u32)
            .u64(self.len)
            .u64(self.written.0)
            .u16(self.policy.0)
            .u32(self.group.0)
            .raw(&self.wrapped_key)
            .raw(self.roots.as_flattened())
            .bytes(&self.fragment);
        let body = body.finish();
        to.u64(codec::crc64(&body)).raw(&body);
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let crc = from.u64("header checksum")?;
        let body = from.raw("header", from.left())?;
        if codec::crc64(body) != crc {
            return Err(Error::Checksum { what: Self::NAME });
        }
        let mut from = Reader::new(body);
        let volume = VolumeId(from.u32("volume")?);
        let segment = SegmentId(from.array("segment")?);
        let (index, k, m) = (from.u8("index")?, from.u8("k")?, from.u8("m")?);
        let n = usize::from(k) + usize::from(m);
        if k == 0 || n > CODE_PIECES_MAX || usize::from(index) >= n {
            return Err(Error::Value { what: "piece index or code", value: n as u64 });
        }
        let pack = match from.u8("pack")? {
            0 => false,
            1 => true,
            value => return Err(Error::Value { what: "pack", value: value.into() }),
        };
        let cell = from.u32("cell size")?;
        if cell as usize != CELL_BYTES {
            return Err(Error::Value { what: "cell size", value: cell.into() });
        }
        let len = from.u64("segment length")?;
        if len == 0 || len > SEGMENT_BYTES_MAX {
            return Err(Error::Value { what: "segment length", value: len });
        }
        let written = Wall(from.u64("time")?);
        let policy = PolicyId(from.u16("policy")?);
        let group = GroupId(from.u32("group")?);
        let wrapped_key = from.array("wrapped key")?;
        let roots = (0..n).map(|_| from.array("piece root")).collect::<Result<_, _>>()?;
        let fragment = from.bytes("fragment", FRAGMENT_BYTES_MAX)?.to_vec();
        from.end(Self::NAME)?;
        Ok(Self { volume, segment, index, k, m, pack, len, written, policy, group, wrapped_key, roots, fragment })
    }
}

/// What a segment is part of, for a rescue without metadata. Only holders of the volume's key read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// A segment of one object.
    Whole {
        /// The same random number in all segments that were written in one go.
        write: [u8; 16],
        /// The key that it was written for; empty if that wasn't told.
        name: String,
        /// Where the segment begins in the written bytes.
        offset: u64,
    },
    /// A pack.
    Pack(Vec<PackSlot>),
}

/// One object in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackSlot {
    /// First byte in the pack.
    pub offset: u32,
    /// Bytes there, sealed.
    pub len: u32,
    /// The object's key, wrapped for slot 1 + its place in this table.
    pub wrapped_key: [u8; WRAPPED_BYTES],
    /// The key that it was written for; empty if that wasn't told.
    pub name: String,
}

impl Versioned for Fragment {
    const NAME: &'static str = "manifest fragment";
    const MARK: [u8; 4] = *b"AbFr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Fragment::Whole { write, name, offset } => {
                to.u8(0).raw(write).u64(*offset).str(name);
            }
            Fragment::Pack(slots) => {
                to.u8(1).u32(slots.len() as u32);
                for slot in slots {
                    to.u32(slot.offset).u32(slot.len).raw(&slot.wrapped_key).str(&slot.name);
                }
            }
        }
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let name = |from: &mut Reader<'_>| Ok(from.str("name", base::limits::KEY_BYTES_MAX)?.to_owned());
        match from.u8("fragment kind")? {
            0 => {
                let write = from.array("write")?;
                let offset = from.u64("offset")?;
                Ok(Fragment::Whole { write, offset, name: name(from)? })
            }
            1 => {
                let count = from.u32("slots")? as usize;
                if count > SLOTS_MAX {
                    return Err(Error::TooLong { what: "slots", len: count, max: SLOTS_MAX });
                }
                let mut slots = Vec::with_capacity(count);
                for _ in 0..count {
                    let (offset, len) = (from.u32("slot offset")?, from.u32("slot length")?);
                    let wrapped_key = from.array("slot key")?;
                    slots.push(PackSlot { offset, len, wrapped_key, name: name(from)? });
                }
                Ok(Fragment::Pack(slots))
            }
            value => Err(Error::Value { what: "fragment kind", value: value.into() }),
        }
    }
}

impl Fragment {
    /// Seals it for the header of a segment's pieces.
    pub fn seal(&self, key: &VolumeKey, segment: SegmentId, nonce: [u8; 12]) -> Vec<u8> {
        key.seal_blob(nonce, &segment.0, &self.encode())
    }

    /// The reverse of [`Fragment::seal`].
    pub fn open(key: &VolumeKey, segment: SegmentId, sealed: &[u8]) -> Result<Self, crate::Error> {
        Ok(Self::decode(&key.open_blob(&segment.0, sealed)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PieceHeader {
        PieceHeader {
            volume: VolumeId(7),
            segment: SegmentId([3; 16]),
            index: 1,
            k: 2,
            m: 1,
            pack: false,
            len: 100_000,
            written: Wall(1_795_230_600_123),
            policy: PolicyId(1),
            group: GroupId(5),
            wrapped_key: std::array::from_fn(|i| i as u8),
            roots: vec![[1; 32], [2; 32], [3; 32]],
            fragment: b"sealed".to_vec(),
        }
    }

    fn fragments() -> [Fragment; 2] {
        let slot = PackSlot { offset: 10, len: 5000, wrapped_key: [9; 48], name: "a/b".into() };
        [Fragment::Whole { write: [4; 16], name: "photos/ä.jpg".into(), offset: 1 << 26 }, Fragment::Pack(vec![slot])]
    }

    #[test]
    fn released_headers_and_fragments_never_change() {
        let mut all = base::ids::hex(&header().encode());
        for fragment in fragments() {
            all = format!("{all}\n{}", base::ids::hex(&fragment.encode()));
        }
        assert_eq!(all, include_str!("../tests/header-v1.txt").trim());
        assert_eq!(PieceHeader::decode(&header().encode()).unwrap(), header());
        for fragment in fragments() {
            assert_eq!(Fragment::decode(&fragment.encode()).unwrap(), fragment);
        }
    }

    #[test]
    fn a_changed_or_cut_header_is_refused() {
        let bytes = header().encode();
        for cut in 0..bytes.len() {
            assert!(PieceHeader::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x40;
            assert!(PieceHeader::decode(&wrong).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn a_fragment_opens_for_its_own_segment_only() {
        let key = crypt::RootKey::new([1; 32]).store_keys().volume_key(VolumeId(1));
        for fragment in fragments() {
            let sealed = fragment.seal(&key, SegmentId([1; 16]), [5; 12]);
            assert_eq!(Fragment::open(&key, SegmentId([1; 16]), &sealed).unwrap(), fragment);
            assert!(Fragment::open(&key, SegmentId([2; 16]), &sealed).is_err());
        }
    }
}
