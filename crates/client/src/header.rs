//! What every piece says of itself, so that pieces alone can be understood: by a repairer without a
//! key, by a rescuer with the volume's root and nothing else. docs/formats/segments.md has every byte.
//!
//! Version 2 names the volume's public key, and its fragment is a [`kit::header::Envelope`], bound to all that the
//! header says. Version 1 has neither: it is still read, and never written anew but by who copies a piece.

use base::limits::{CELL_BYTES, CODE_PIECES_MAX, SEGMENT_BYTES_MAX};
use base::{GroupId, NodeId, PolicyId, SegmentId, VolumeId, Wall};
use codec::{Error, Reader, Versioned, Writer};
use crypt::{PublicKey, VolumeKey, VolumeRoot, WRAPPED_BYTES};
use kit::header::{End, Envelope, Facts, OWNED, Origin, PackSlot, read_owner, write_owner};
use kit::rescue::{Found, Told};

use crate::access::Folder;
use crate::layout::Layout;

/// Bytes of a sealed fragment at the most: the slot table of a full pack.
pub const FRAGMENT_BYTES_MAX: usize = 512 * 1024;
/// Slots of a pack at the most.
pub const SLOTS_MAX: usize = kit::header::SLOTS_MAX;

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
    /// What the segment is part of, sealed: an [`Envelope`] of an [`Origin`]. Of a header without owner it is
    /// the fragment of version 1, sealed under the volume's key; associated data is the segment id.
    pub fragment: Vec<u8>,
    /// The volume's public key: whose tickets open the piece. Headers of version 1 have none.
    pub owner: Option<PublicKey>,
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

    /// What the headers of all pieces of the segment say alike, but the fragment.
    pub fn facts(&self) -> Facts {
        Facts {
            volume: self.volume,
            segment: self.segment,
            k: self.k,
            m: self.m,
            pack: self.pack,
            len: self.len,
            written: self.written,
            policy: self.policy,
            group: self.group,
            wrapped_key: self.wrapped_key,
            roots: self.roots.clone(),
            owner: self.owner,
        }
    }

    /// Everything else in the header is known: seals the origin for it. `salt` is random.
    pub(crate) fn seal(&mut self, folder: &Folder, salt: [u8; 16], origin: &Origin) {
        self.owner = Some(folder.owner());
        let envelope = Envelope::seal(folder.key(), folder.anchor().clone(), &self.facts(), salt, origin);
        self.fragment = envelope.encode();
    }

    /// What it says of where its segment belongs. `key`, the volume's, opens headers of version 1; `None` if one is
    /// needed and doesn't open it.
    pub fn told(&self, key: Option<&VolumeKey>) -> Option<Told> {
        match self.owner {
            Some(_) => Some(Told::Sealed(self.fragment.clone())),
            None => fragment_v1(key?, self.segment, &self.fragment).ok().map(Told::Opened),
        }
    }

    /// What it was written for, by who has the key of a volume that the store has keys of.
    pub(crate) fn origin(&self, key: &VolumeKey) -> Result<Origin, crate::Error> {
        if self.owner.is_none() {
            return fragment_v1(key, self.segment, &self.fragment);
        }
        let opened = Envelope::decode(&self.fragment)?.open(&VolumeRoot::of(key), &self.facts());
        opened.map_err(|_| crate::Error::Damaged { what: "what a piece's header says of its segment" })
    }

    /// The piece as a rescue takes it; `at` is the node that has it, `key` as for [`PieceHeader::told`].
    pub fn found(&self, at: NodeId, key: Option<&VolumeKey>) -> Option<Found> {
        Some(Found { facts: self.facts(), index: self.index, told: self.told(key)?, at })
    }
}

/// BLAKE3 of the pieces' roots, in order.
pub fn segment_root(roots: &[[u8; 32]]) -> [u8; 32] {
    crypt::hash(roots.as_flattened())
}

impl Versioned for PieceHeader {
    const NAME: &'static str = "piece header";
    const MARK: [u8; 4] = *b"AbPH";
    const VERSION: u8 = OWNED;

    /// In the version that it was read in: what is copied stays as it is.
    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.raw(&Self::MARK).u8(if self.owner.is_some() { OWNED } else { 1 });
        self.encode_body(&mut to);
        to.finish()
    }

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
        if let Some(owner) = &self.owner {
            write_owner(&mut body, owner);
        }
        let body = body.finish();
        to.u64(codec::crc64(&body)).raw(&body);
    }

    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
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
        let owner = read_owner(version, &mut from)?;
        from.end(Self::NAME)?;
        Ok(Self {
            volume,
            segment,
            index,
            k,
            m,
            pack,
            len,
            written,
            policy,
            group,
            wrapped_key,
            roots,
            fragment,
            owner,
        })
    }
}

/// Opens the fragment of a header of version 1.
fn fragment_v1(key: &VolumeKey, segment: SegmentId, sealed: &[u8]) -> Result<Origin, crate::Error> {
    Ok(FragmentV1::decode(&key.open_blob(&segment.0, sealed)?)?.0)
}

/// The form that was an origin's in headers of version 1: it didn't say where an object ends, nor which part it is.
struct FragmentV1(Origin);

impl Versioned for FragmentV1 {
    const NAME: &'static str = "manifest fragment";
    const MARK: [u8; 4] = *b"AbFr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match &self.0 {
            Origin::Whole { write, path, offset, .. } => {
                to.u8(0).raw(write).u64(*offset).str(path);
            }
            Origin::Pack(slots) => {
                to.u8(1).u32(slots.len() as u32);
                for slot in slots {
                    to.u32(slot.offset).u32(slot.len).raw(&slot.wrapped_key).str(&slot.path);
                }
            }
        }
    }

    fn decode_body(_version: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let name = |from: &mut Reader<'_>| Ok(from.str("name", base::limits::KEY_BYTES_MAX)?.to_owned());
        match from.u8("fragment kind")? {
            0 => {
                let (write, offset) = (from.array("write")?, from.u64("offset")?);
                Ok(Self(Origin::Whole { write, path: name(from)?, offset, end: End::Unknown, part: None }))
            }
            1 => {
                let count = from.u32("slots")? as usize;
                if count > SLOTS_MAX {
                    return Err(Error::TooLong { what: "slots", len: count, max: SLOTS_MAX });
                }
                let slot = |from: &mut Reader<'_>| {
                    let (offset, len) = (from.u32("slot offset")?, from.u32("slot length")?);
                    let wrapped_key = from.array("slot key")?;
                    Ok(PackSlot { offset, len, wrapped_key, path: name(from)?, part: None })
                };
                Ok(Self(Origin::Pack((0..count).map(|_| slot(from)).collect::<Result<_, Error>>()?)))
            }
            value => Err(Error::Value { what: "fragment kind", value: value.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::header::Part;

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
            owner: None,
        }
    }

    fn root() -> VolumeRoot {
        VolumeRoot::new(std::array::from_fn(|i| i as u8))
    }

    fn fragments() -> [Origin; 2] {
        let slot = PackSlot { offset: 10, len: 5000, wrapped_key: [9; 48], path: "a/b".into(), part: None };
        let (path, end) = ("photos/ä.jpg".into(), End::Unknown);
        [Origin::Whole { write: [4; 16], path, offset: 1 << 26, end, part: None }, Origin::Pack(vec![slot])]
    }

    fn origins() -> [Origin; 2] {
        let [mut whole, mut pack] = fragments();
        if let Origin::Whole { end, .. } = &mut whole {
            *end = End::Later;
        }
        if let Origin::Pack(slots) = &mut pack {
            slots[0].part = Some(Part { upload: [8; 16], number: 3 });
        }
        [whole, pack]
    }

    #[test]
    fn released_headers_and_fragments_never_change() {
        let mut all = base::ids::hex(&header().encode());
        for fragment in fragments() {
            all = format!("{all}\n{}", base::ids::hex(&FragmentV1(fragment).encode()));
        }
        assert_eq!(all, include_str!("../tests/header-v1.txt").trim());
        assert_eq!(PieceHeader::decode(&header().encode()).unwrap(), header());
        for fragment in fragments() {
            assert_eq!(FragmentV1::decode(&FragmentV1(fragment.clone()).encode()).unwrap().0, fragment);
        }
    }

    #[test]
    fn headers_with_an_owner_never_change() {
        let folder = Folder::of_root(&root());
        let mut lines = Vec::new();
        for origin in origins() {
            let mut header = PieceHeader { pack: matches!(origin, Origin::Pack(_)), ..header() };
            header.seal(&folder, [6; 16], &origin);
            let bytes = header.encode();
            assert_eq!((bytes[4], PieceHeader::decode(&bytes).unwrap()), (OWNED, header.clone()));
            let envelope = Envelope::decode(&header.fragment).unwrap();
            assert_eq!(envelope.open(&root(), &header.facts()).unwrap(), origin);
            lines.push(base::ids::hex(&bytes));
        }
        assert_eq!(lines.join("\n"), include_str!("../tests/header-v2.txt").trim());
    }

    #[test]
    fn a_changed_or_cut_header_is_refused() {
        let mut owned = header();
        owned.seal(&Folder::of_root(&root()), [6; 16], &origins()[0]);
        for bytes in [header().encode(), owned.encode()] {
            for cut in 0..bytes.len() {
                assert!(PieceHeader::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            for at in 0..bytes.len() {
                let mut wrong = bytes.clone();
                wrong[at] ^= 0x40;
                assert!(PieceHeader::decode(&wrong).is_err(), "changed at {at}");
            }
        }
    }

    #[test]
    fn an_owner_can_neither_be_put_on_nor_taken_off() {
        let mut owned = header();
        owned.seal(&Folder::of_root(&root()), [6; 16], &origins()[0]);
        for (bytes, version) in [(header().encode(), OWNED), (owned.encode(), 1)] {
            let mut wrong = bytes;
            wrong[4] = version;
            assert!(PieceHeader::decode(&wrong).is_err());
        }
    }

    #[test]
    fn an_envelope_opens_only_where_the_header_says_what_its_writer_said() {
        let mut owned = header();
        owned.seal(&Folder::of_root(&root()), [6; 16], &origins()[0]);
        let opens =
            |header: &PieceHeader| Envelope::decode(&header.fragment).unwrap().open(&root(), &header.facts()).is_ok();
        assert!(opens(&owned) && opens(&owned.at(0)), "pieces of a segment differ in their index only");
        let changes: [fn(&mut PieceHeader); 6] = [
            |header| header.len += 1,
            |header| header.written = Wall(5),
            |header| header.roots[0] = [7; 32],
            |header| header.wrapped_key[0] ^= 1,
            |header| header.segment = SegmentId([5; 16]),
            |header| header.owner = None,
        ];
        for change in changes {
            let mut other = owned.clone();
            change(&mut other);
            assert!(!opens(&other));
        }
    }

    #[test]
    fn a_fragment_of_version_1_opens_for_its_own_segment_only() {
        let key = crypt::RootKey::new([1; 32]).store_keys().volume_key(VolumeId(1));
        for fragment in fragments() {
            let sealed = key.seal_blob([5; 12], &SegmentId([3; 16]).0, &FragmentV1(fragment.clone()).encode());
            let old = PieceHeader { fragment: sealed, ..header() };
            assert_eq!(old.told(Some(&key)), Some(Told::Opened(fragment)));
            assert_eq!(PieceHeader { segment: SegmentId([2; 16]), ..old.clone() }.told(Some(&key)), None);
            assert_eq!(old.told(None), None);
        }
    }

    /// A header of version 1 and one of version 2 that say the same, as their writers make them.
    fn both(origin: &Origin, salt: u8) -> [PieceHeader; 2] {
        let key = crypt::RootKey::new([1; 32]).store_keys().volume_key(VolumeId(7));
        let roots = vec![[1; 32]; 6];
        let old = PieceHeader { k: 4, m: 2, roots, pack: matches!(origin, Origin::Pack(_)), ..header() };
        let mut new = old.clone();
        new.seal(&Folder::of_root(&VolumeRoot::of(&key)), [salt; 16], origin);
        let fragment = key.seal_blob([salt; 12], &old.segment.0, &FragmentV1(origin.clone()).encode());
        [PieceHeader { fragment, ..old }, new]
    }

    fn full_pack() -> Origin {
        let slot = |at: u32| {
            let path = format!("photos/2026/holiday/{at:05}.jpg");
            PackSlot { offset: 5016 * at, len: 5016, wrapped_key: [at as u8; 48], path, part: None }
        };
        Origin::Pack((0..SLOTS_MAX as u32).map(slot).collect())
    }

    #[test]
    fn version_2_adds_48_bytes_to_a_header_and_one_a_slot() {
        let [whole, _] = fragments();
        for (origin, more) in [(whole, 48), (full_pack(), 46 + SLOTS_MAX)] {
            let [old, new] = both(&origin, 1).map(|header| header.encode().len());
            eprintln!("header of a piece, 4+2: {old} bytes in version 1, {new} in version 2");
            assert_eq!(new, old + more);
        }
    }

    /// Run it alone, with `--run-ignored all --no-capture`.
    #[tokio::test]
    #[ignore = "measures"]
    async fn what_a_header_costs() {
        let clock = env::Env::real().clock;
        let key = crypt::RootKey::new([1; 32]).store_keys().volume_key(VolumeId(7));
        let folder = Folder::of_root(&VolumeRoot::of(&key));
        const TIMES: u32 = 2000;
        let timed = |what: &str, work: &mut dyn FnMut(u8) -> usize| {
            let began = clock.now();
            let bytes: usize = (0..TIMES).map(|at| work(at as u8)).sum();
            let took = clock.now().since(began) / TIMES;
            eprintln!("{what}: {:.1} us, {} bytes", took.as_nanos() as f64 / 1000.0, bytes / TIMES as usize);
        };
        timed("a volume's folder", &mut |_| usize::from(Folder::of_root(&VolumeRoot::of(&key)).owner().0[0]));
        let [whole, _] = fragments();
        for (what, origin) in [("segment", whole), ("pack of 256", full_pack())] {
            let [old, new] = both(&origin, 1);
            let all = |header: &PieceHeader| (0..6).map(|at| header.at(at).encode().len()).sum::<usize>();
            timed(&format!("{what}, version 1, six pieces"), &mut |salt| {
                let fragment = FragmentV1(origin.clone()).encode();
                let fragment = key.seal_blob([salt; 12], &old.segment.0, &fragment);
                all(&PieceHeader { fragment, ..old.clone() })
            });
            timed(&format!("{what}, version 2, six pieces"), &mut |salt| {
                let mut header = PieceHeader { owner: None, fragment: Vec::new(), ..new.clone() };
                header.seal(&folder, [salt; 16], &origin);
                all(&header)
            });
        }
    }
}
