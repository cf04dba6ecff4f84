//! What a piece's header must say for its volume's owner alone, so that pieces without metadata become objects again.
//!
//! A header of version 1 (`client::header`) holds a fragment that only the key of the whole volume opens and that
//! nothing binds to the rest. Version 2 has the volume's public key besides ([`write_owner`]), and an [`Envelope`] in the fragment's place: an
//! anchor, which says whose key opens it, and an [`Origin`], bound to all that the header says. Who has a grant seals it with the grant's key.

use base::limits::{CODE_PIECES_MAX, KEY_BYTES_MAX};
use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use codec::{Error as CodecError, Reader, Versioned, Writer};
use crypt::{FolderKey, PublicKey, VolumeRoot};
use grant::Anchor;

use crate::Error;

/// The version of headers that has an owner and an envelope.
pub const OWNED: u8 = 2;
/// Bytes of a sealed origin at the most: the slot table of a full pack.
pub const ORIGIN_BYTES_MAX: usize = 512 * 1024;
/// Slots of a pack at the most.
pub const SLOTS_MAX: usize = 256;

/// Ends the body of a header of version 2.
pub fn write_owner(to: &mut Writer, owner: &PublicKey) {
    to.raw(&owner.0);
}

/// Takes the end of a header's body: version 1 has none.
pub fn read_owner(version: u8, from: &mut Reader<'_>) -> Result<Option<PublicKey>, CodecError> {
    if version < OWNED { Ok(None) } else { from.array("owner").map(|key| Some(PublicKey(key))) }
}

/// What the headers of all pieces of a segment say alike, but the fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The volume's number in its cluster.
    pub volume: VolumeId,
    /// The segment.
    pub segment: SegmentId,
    /// Data pieces.
    pub k: u8,
    /// Parity pieces.
    pub m: u8,
    /// Shared by small objects.
    pub pack: bool,
    /// Bytes of the segment.
    pub len: u64,
    /// When it was written.
    pub written: Wall,
    /// Its policy.
    pub policy: PolicyId,
    /// Its group.
    pub group: GroupId,
    /// The segment's wrapped key; zeros in a pack.
    pub wrapped_key: [u8; 48],
    /// BLAKE3 of each piece.
    pub roots: Vec<[u8; 32]>,
    /// The volume's public key; headers of version 1 have none.
    pub owner: Option<PublicKey>,
}

impl Facts {
    /// A hash of all of it: what an envelope is sealed for.
    pub fn binding(&self) -> [u8; 32] {
        let mut to = Writer::new();
        to.u32(self.volume.0).raw(&self.segment.0).u8(self.k).u8(self.m).u8(self.pack.into()).u64(self.len);
        to.u64(self.written.0).u16(self.policy.0).u32(self.group.0).raw(&self.wrapped_key);
        to.raw(self.roots.as_flattened()).option(self.owner, |to, owner| {
            to.raw(&owner.0);
        });
        let mut hasher = blake3::Hasher::new_derive_key("abide 2026 header binding v1");
        hasher.update(&to.finish());
        *hasher.finalize().as_bytes()
    }

    /// Whether the numbers make sense, and the code is one.
    pub fn is_sound(&self) -> bool {
        let n = usize::from(self.k) + usize::from(self.m);
        self.k > 0 && n <= CODE_PIECES_MAX && self.roots.len() == n && self.len > 0
    }

    /// The segment's root.
    pub fn root(&self) -> [u8; 32] {
        crypt::hash(self.roots.as_flattened())
    }
}

/// Whether what was written ends with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// It ends here.
    Here = 0,
    /// More follows.
    Later = 1,
    /// The writer didn't know yet.
    Unknown = 2,
}

/// Which part of which upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The upload.
    pub upload: [u8; 16],
    /// The part, from 1.
    pub number: u16,
}

/// What a segment is part of. Paths are true ones, below the anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A segment of one object, or of one part of an upload.
    Whole {
        /// The same random number in all segments that were written in one go.
        write: [u8; 16],
        /// The path that it was written for.
        path: String,
        /// Where the segment begins in what was written.
        offset: u64,
        /// Whether more follows.
        end: End,
        /// The part, if it was one.
        part: Option<Part>,
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
    pub wrapped_key: [u8; 48],
    /// The path that it was written for.
    pub path: String,
    /// The part of an upload, if it was one.
    pub part: Option<Part>,
}

fn write_part(to: &mut Writer, part: &Option<Part>) {
    to.option(*part, |to, part| {
        to.raw(&part.upload).u16(part.number);
    });
}

fn read_part(from: &mut Reader<'_>) -> Result<Option<Part>, CodecError> {
    from.option("part", |from| Ok(Part { upload: from.array("upload")?, number: from.u16("part")? }))
}

impl Versioned for Origin {
    const NAME: &'static str = "origin";
    const MARK: [u8; 4] = *b"AbFo";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Origin::Whole { write, path, offset, end, part } => {
                to.u8(0).raw(write).u64(*offset).u8(*end as u8).str(path);
                write_part(to, part);
            }
            Origin::Pack(slots) => {
                to.u8(1).u32(slots.len() as u32);
                for slot in slots {
                    to.u32(slot.offset).u32(slot.len).raw(&slot.wrapped_key).str(&slot.path);
                    write_part(to, &slot.part);
                }
            }
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let path = |from: &mut Reader<'_>| Ok(from.str("path", KEY_BYTES_MAX)?.to_owned());
        match from.u8("origin")? {
            0 => {
                let (write, offset) = (from.array("write")?, from.u64("offset")?);
                let end = match from.u8("end")? {
                    0 => End::Here,
                    1 => End::Later,
                    2 => End::Unknown,
                    value => return Err(CodecError::Value { what: "end", value: value.into() }),
                };
                let path = path(from)?;
                Ok(Origin::Whole { write, path, offset, end, part: read_part(from)? })
            }
            1 => {
                let count = from.u32("slots")? as usize;
                if count > SLOTS_MAX {
                    return Err(CodecError::TooLong { what: "slots", len: count, max: SLOTS_MAX });
                }
                let slot = |from: &mut Reader<'_>| {
                    let (offset, len) = (from.u32("slot offset")?, from.u32("slot length")?);
                    let wrapped_key = from.array("slot key")?;
                    Ok(PackSlot { offset, len, wrapped_key, path: path(from)?, part: read_part(from)? })
                };
                (0..count).map(|_| slot(from)).collect::<Result<_, _>>().map(Origin::Pack)
            }
            value => Err(CodecError::Value { what: "origin", value: value.into() }),
        }
    }
}

/// What stands in the place of the fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Whose key opens the rest.
    pub anchor: Anchor,
    sealed: Vec<u8>,
}

impl Envelope {
    /// Seals an origin for headers that say `facts`. `key` is that of `anchor`: the volume's topmost folder for its owner, a
    /// grant's for who has one. `salt` is random.
    pub fn seal(key: &FolderKey, anchor: Anchor, facts: &Facts, salt: [u8; 16], origin: &Origin) -> Self {
        Self { anchor, sealed: key.seal_bytes(salt, &facts.binding(), &origin.encode()) }
    }

    /// The origin, with the path of its anchor put before its paths. Fails if the header says anything else than what was sealed.
    pub fn open(&self, root: &VolumeRoot, facts: &Facts) -> Result<Origin, Error> {
        let (base, key) = self.anchor.open(root)?;
        let mut origin = Origin::decode(&key.open_bytes(&facts.binding(), &self.sealed)?)?;
        // Who has a grant for the file `a` may write `a`, not `ab`.
        let folder = base.is_empty() || base.ends_with('/');
        let whole = |path: &mut String| {
            if !folder && !path.is_empty() {
                return Err(grant::Error::NotAFolder);
            }
            path.insert_str(0, &base);
            Ok(())
        };
        match &mut origin {
            Origin::Whole { path, .. } => whole(path)?,
            Origin::Pack(slots) => slots.iter_mut().try_for_each(|slot| whole(&mut slot.path))?,
        }
        Ok(origin)
    }
}

impl Versioned for Envelope {
    const NAME: &'static str = "envelope";
    const MARK: [u8; 4] = *b"AbFe";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        self.anchor.write(to);
        to.bytes(&self.sealed);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { anchor: Anchor::read(from)?, sealed: from.bytes("sealed origin", ORIGIN_BYTES_MAX)?.to_vec() })
    }
}
