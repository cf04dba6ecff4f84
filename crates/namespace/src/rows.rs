//! What a volume's rows hold. Layouts to the byte: docs/formats/namespace.md.

use base::{GroupId, PolicyId, Wall};
use codec::{Error, Reader, Versioned, Writer};

use crate::encode::{read_attrs, read_attrs_of, read_body, read_etag, write_attrs, write_body, write_etag};
use crate::types::{Attrs, Body, UploadId, VersionId, Versioning};

/// The counters of a volume; a missing row is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Whether old versions are kept.
    pub versioning: Versioning,
    /// Whether the volume takes no more commands.
    pub closed: bool,
    /// The last inode given out.
    pub inode: u64,
    /// The last ord given out: the order of versions and parts.
    pub ord: u64,
    /// Keys whose current version is not a delete marker.
    pub objects: u64,
    /// Bytes of those current versions.
    pub bytes: u64,
    /// All versions, delete markers too.
    pub versions: u64,
    /// Bytes of all versions.
    pub version_bytes: u64,
    /// Uploads under way.
    pub uploads: u64,
    /// Bytes of their parts.
    pub part_bytes: u64,
    /// Where the forgetting of deleted segments goes on.
    pub tomb_cursor: [u8; 16],
}

impl Versioned for Head {
    const NAME: &'static str = "volume head";
    const MARK: [u8; 4] = *b"nsHd";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u8(self.versioning as u8).u8(self.closed.into()).u64(self.inode).u64(self.ord).u64(self.objects);
        to.u64(self.bytes).u64(self.versions).u64(self.version_bytes).u64(self.uploads).u64(self.part_bytes);
        to.raw(&self.tomb_cursor);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Head {
            versioning: versioning(from.u8("versioning")?)?,
            closed: flag(from, "closed")?,
            inode: from.u64("inode")?,
            ord: from.u64("ord")?,
            objects: from.u64("objects")?,
            bytes: from.u64("bytes")?,
            versions: from.u64("versions")?,
            version_bytes: from.u64("version bytes")?,
            uploads: from.u64("uploads")?,
            part_bytes: from.u64("part bytes")?,
            tomb_cursor: from.array("tomb cursor")?,
        })
    }
}

pub(crate) fn versioning(value: u8) -> Result<Versioning, Error> {
    match value {
        0 => Ok(Versioning::Off),
        1 => Ok(Versioning::Enabled),
        2 => Ok(Versioning::Suspended),
        value => Err(Error::Value { what: "versioning", value: value.into() }),
    }
}

pub(crate) fn flag(from: &mut Reader<'_>, what: &'static str) -> Result<bool, Error> {
    match from.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(Error::Value { what, value: value.into() }),
    }
}

/// Where a body is, seen from its version's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the row itself.
    Here(Body),
    /// Inline bytes in a row of table `B`.
    Bytes,
    /// A long manifest in a row of table `M`.
    Manifest,
}

fn write_place(to: &mut Writer, place: &Place) {
    match place {
        Place::Here(body) => {
            to.u8(0);
            write_body(to, body);
        }
        Place::Bytes => {
            to.u8(1);
        }
        Place::Manifest => {
            to.u8(2);
        }
    }
}

fn read_place(from: &mut Reader<'_>) -> Result<Place, Error> {
    match from.u8("body place")? {
        0 => Ok(Place::Here(read_body(from)?)),
        1 => Ok(Place::Bytes),
        2 => Ok(Place::Manifest),
        value => Err(Error::Value { what: "body place", value: value.into() }),
    }
}

const MARKER: u8 = 1;
const NULL: u8 = 2;
const UPLOAD: u8 = 4;
const LONG_ATTRS: u8 = 8;

/// One version, as rows of tables `D` and `V` hold it, or one part, in table `P`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRow {
    /// Its place in the order of versions; also names its rows in `A`, `B` and `M`.
    pub ord: u64,
    /// Whether it is the null version.
    pub null: bool,
    /// Whether it is a delete marker.
    pub marker: bool,
    /// When it was written.
    pub modified: Wall,
    /// Bytes.
    pub size: u64,
    /// Entity tag.
    pub etag: String,
    /// The upload that made it.
    pub upload: Option<UploadId>,
    /// Short attributes.
    pub attrs: Attrs,
    /// Whether there are more in a row of table `A`.
    pub long_attrs: bool,
    /// Where the body is.
    pub place: Place,
}

impl VersionRow {
    /// The name of the version.
    pub fn id(&self) -> VersionId {
        if self.null { VersionId::NULL } else { VersionId(self.ord) }
    }
}

impl Versioned for VersionRow {
    const NAME: &'static str = "version";
    const MARK: [u8; 4] = *b"nsVr";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        let upload = bit(self.upload.is_some(), UPLOAD);
        to.u8(bit(self.marker, MARKER) | bit(self.null, NULL) | upload | bit(self.long_attrs, LONG_ATTRS));
        to.u64(self.ord).u64(self.modified.0).u64(self.size);
        write_etag(to, &self.etag);
        if let Some(upload) = self.upload {
            to.raw(&upload.0);
        }
        write_attrs(to, &self.attrs);
        write_place(to, &self.place);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let row = VersionRow::read_brief(from, None)?;
        Ok(VersionRow { place: read_place(from)?, ..row })
    }
}

impl VersionRow {
    /// Takes all but the place, and of the attributes those that are wanted.
    fn read_brief(from: &mut Reader<'_>, wanted: Option<&[&str]>) -> Result<Self, Error> {
        let flags = from.u8("version flags")?;
        if flags & !(MARKER | NULL | UPLOAD | LONG_ATTRS) != 0 {
            return Err(Error::Value { what: "version flags", value: flags.into() });
        }
        Ok(VersionRow {
            null: flags & NULL != 0,
            marker: flags & MARKER != 0,
            long_attrs: flags & LONG_ATTRS != 0,
            ord: from.u64("ord")?,
            modified: Wall(from.u64("modified")?),
            size: from.u64("size")?,
            etag: read_etag(from)?,
            upload: if flags & UPLOAD != 0 { Some(UploadId(from.array("upload")?)) } else { None },
            attrs: read_attrs_of(from, wanted)?,
            place: Place::Here(Body::Unloaded),
        })
    }
}

/// A file's dentry: its current version, and what is known of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// Noncurrent versions below, in table `V`.
    pub older: u64,
    /// The ord of the null version if it is one of those, else 0.
    pub older_null: u64,
    /// The current one.
    pub current: VersionRow,
}

impl Versioned for FileRow {
    const NAME: &'static str = "file dentry";
    const MARK: [u8; 4] = *b"nsFi";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.older).u64(self.older_null);
        self.current.encode_body(to);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(FileRow {
            older: from.u64("older versions")?,
            older_null: from.u64("older null version")?,
            // Laid out as in a version row of version 1; a change there raises this row's version too.
            current: VersionRow::decode_body(1, from)?,
        })
    }
}

impl FileRow {
    /// Whether a stored row's current version is a delete marker, without reading the rest.
    pub(crate) fn is_marker(row: &[u8]) -> Result<bool, Error> {
        let mut from = FileRow::open(row)?;
        Ok(from.u8("version flags")? & MARKER != 0)
    }

    /// What a listing shows of a stored row's current version: its place is not read.
    pub(crate) fn decode_brief(row: &[u8], wanted: Option<&[&str]>) -> Result<VersionRow, Error> {
        VersionRow::read_brief(&mut FileRow::open(row)?, wanted)
    }

    /// A reader at the beginning of the current version.
    fn open(row: &[u8]) -> Result<Reader<'_>, Error> {
        let mut from = Reader::new(row);
        let found = from.array(Self::NAME)?;
        let version = from.u8(Self::NAME)?;
        if found != Self::MARK || version != Self::VERSION {
            // The full decoder knows what is wrong, or reads an older version.
            FileRow::decode(row)?;
        }
        from.raw("older versions", 16)?;
        Ok(from)
    }
}

/// A folder's dentry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderRow {
    /// The folder's inode: its children's parent.
    pub inode: u64,
    /// Children; an implied folder without any vanishes.
    pub children: u64,
    /// Children that a listing shows: files whose current version is no marker, folders with live
    /// children.
    pub live: u64,
}

impl Versioned for FolderRow {
    const NAME: &'static str = "folder dentry";
    const MARK: [u8; 4] = *b"nsFo";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.inode).u64(self.children).u64(self.live);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(FolderRow { inode: from.u64("inode")?, children: from.u64("children")?, live: from.u64("live")? })
    }
}

/// Attributes that are too long for the version's own row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttrsRow(pub Attrs);

impl Versioned for AttrsRow {
    const NAME: &'static str = "long attributes";
    const MARK: [u8; 4] = *b"nsAt";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        write_attrs(to, &self.0);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        read_attrs(from).map(AttrsRow)
    }
}

/// A body that is too long for the version's own row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRow(pub Body);

impl Versioned for ManifestRow {
    const NAME: &'static str = "manifest";
    const MARK: [u8; 4] = *b"nsMa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        write_body(to, &self.0);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        read_body(from).map(ManifestRow)
    }
}

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRow {
    /// When.
    pub begun: Wall,
    /// What only the face understands.
    pub attrs: Attrs,
}

impl Versioned for UploadRow {
    const NAME: &'static str = "upload";
    const MARK: [u8; 4] = *b"nsUp";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.begun.0);
        write_attrs(to, &self.attrs);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(UploadRow { begun: Wall(from.u64("begun")?), attrs: read_attrs(from)? })
    }
}

/// A segment in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// Data pieces.
    pub k: u8,
    /// Parity pieces.
    pub m: u8,
    /// Plaintext bytes.
    pub len: u64,
    /// How often versions and parts name it; at 0 the row goes and the segment is garbage.
    pub refs: u64,
    /// If it is a pack.
    pub pack: Option<PackState>,
}

/// How much of a pack still has an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackState {
    /// When its first object was committed.
    pub created: Wall,
    /// Slots that have an owner.
    pub live_slots: u32,
    /// Their bytes.
    pub live_bytes: u64,
}

impl Versioned for SegmentRow {
    const NAME: &'static str = "segment";
    const MARK: [u8; 4] = *b"nsSe";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u8(self.k).u8(self.m).u64(self.len).u64(self.refs);
        to.option(self.pack, |to, pack| {
            to.u64(pack.created.0).u32(pack.live_slots).u64(pack.live_bytes);
        });
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(SegmentRow {
            k: from.u8("k")?,
            m: from.u8("m")?,
            len: from.u64("segment bytes")?,
            refs: from.u64("references")?,
            pack: from.option("pack", |from| {
                Ok(PackState {
                    created: Wall(from.u64("pack created")?),
                    live_slots: from.u32("live slots")?,
                    live_bytes: from.u64("live bytes")?,
                })
            })?,
        })
    }
}

/// Who owns a slot of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A version of a key.
    Version {
        /// The key.
        key: String,
        /// The version.
        version: VersionId,
    },
    /// A part of an upload that is under way.
    Part {
        /// The upload.
        upload: UploadId,
        /// The part's number.
        number: u16,
    },
}

/// One owner of one slot of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// Sealed bytes of the slot.
    pub len: u32,
    /// How often the owner names it.
    pub refs: u32,
    /// The owner.
    pub owner: Owner,
}

impl Versioned for SlotRow {
    const NAME: &'static str = "pack slot";
    const MARK: [u8; 4] = *b"nsSl";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.len).u32(self.refs);
        match &self.owner {
            Owner::Version { key, version } => to.u8(0).u64(version.0).str(key),
            Owner::Part { upload, number } => to.u8(1).raw(&upload.0).u16(*number),
        };
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let (len, refs) = (from.u32("slot bytes")?, from.u32("references")?);
        let owner = match from.u8("owner")? {
            0 => {
                let version = VersionId(from.u64("version")?);
                Owner::Version { key: from.str("key", base::limits::KEY_BYTES_MAX)?.to_owned(), version }
            }
            1 => Owner::Part { upload: UploadId(from.array("upload")?), number: from.u16("part")? },
            value => return Err(Error::Value { what: "owner", value: value.into() }),
        };
        Ok(SlotRow { len, refs, owner })
    }
}

/// A freed segment whose pieces wait to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageRow {
    /// Its policy.
    pub policy: PolicyId,
    /// Its group.
    pub group: GroupId,
    /// Data pieces.
    pub k: u8,
    /// Parity pieces.
    pub m: u8,
    /// Plaintext bytes.
    pub len: u64,
    /// When it was freed.
    pub freed: Wall,
}

impl Versioned for GarbageRow {
    const NAME: &'static str = "garbage";
    const MARK: [u8; 4] = *b"nsGa";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u16(self.policy.0).u32(self.group.0).u8(self.k).u8(self.m).u64(self.len).u64(self.freed.0);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(GarbageRow {
            policy: PolicyId(from.u16("policy")?),
            group: GroupId(from.u32("group")?),
            k: from.u8("k")?,
            m: from.u8("m")?,
            len: from.u64("segment bytes")?,
            freed: Wall(from.u64("freed")?),
        })
    }
}

/// A segment whose pieces were deleted: whoever names it now comes too late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TombRow {
    /// When.
    pub collected: Wall,
}

impl Versioned for TombRow {
    const NAME: &'static str = "collected segment";
    const MARK: [u8; 4] = *b"nsTo";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.collected.0);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(TombRow { collected: Wall(from.u64("collected")?) })
    }
}

/// Which pieces of a segment no drive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRow {
    /// Its policy.
    pub policy: PolicyId,
    /// Its group.
    pub group: GroupId,
    /// When it was noted.
    pub noted: Wall,
    /// Indices of the pieces, ascending.
    pub missing: Vec<u8>,
}

impl Versioned for MissingRow {
    const NAME: &'static str = "missing pieces";
    const MARK: [u8; 4] = *b"nsMi";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u16(self.policy.0).u32(self.group.0).u64(self.noted.0).bytes(&self.missing);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(MissingRow {
            policy: PolicyId(from.u16("policy")?),
            group: GroupId(from.u32("group")?),
            noted: Wall(from.u64("noted")?),
            missing: from.bytes("missing pieces", 255)?.to_vec(),
        })
    }
}
