//! What a volume holds and what can be asked of it.

use std::collections::BTreeMap;

use base::{GroupId, PolicyId, SegmentId, Wall};

/// Name → bytes pairs that only a face understands: headers, tags, ACL, checksums, owner.
pub type Attrs = BTreeMap<String, Vec<u8>>;

/// One segment as a manifest names it: where it is (policy, group), never on which drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// The segment.
    pub id: SegmentId,
    /// The policy whose group table names its drives.
    pub policy: PolicyId,
    /// Its placement group.
    pub group: GroupId,
    /// Data pieces.
    pub k: u8,
    /// Parity pieces.
    pub m: u8,
    /// Plaintext bytes of the whole segment.
    pub len: u64,
    /// BLAKE3 over the roots of its pieces.
    pub root: [u8; 32],
    /// The segment's (or, in a pack, this object's) key, wrapped.
    pub wrapped_key: [u8; 48],
}

/// Where an object lies inside a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number in the pack, from 0.
    pub index: u32,
    /// First byte in the pack's plaintext.
    pub offset: u32,
    /// Bytes there: the object sealed with its own key.
    pub len: u32,
}

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In the metadata itself. Empty objects are inline too.
    Inline(Vec<u8>),
    /// In a segment shared with other small objects.
    Packed(SegmentRef, Slot),
    /// In segments of its own, in order.
    Segments(Vec<SegmentRef>),
    /// One after the other in several of the above: what a completed upload is made of when one of
    /// its parts is inline or packed. Never nested.
    Spans(Vec<Span>),
    /// Not read along (listings, `with_body: false`): ask [`crate::read::head`] for it. Never stored,
    /// and refused in commands.
    Unloaded,
}

/// One of the bodies of which a [`Body::Spans`] is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Plaintext bytes of it.
    pub size: u64,
    /// Inline, packed or segments.
    pub body: Body,
}

/// Names a version: never 0 for real ones; [`VersionId::NULL`] is S3's `null` version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(pub u64);

impl VersionId {
    /// The version written while versioning is off or suspended.
    pub const NULL: VersionId = VersionId(0);
}

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its name; later ones of a key are greater, except the null version.
    pub id: VersionId,
    /// When it was written.
    pub modified: Wall,
    /// A delete marker: no body, says that the key is gone.
    pub marker: bool,
    /// Bytes.
    pub size: u64,
    /// S3's entity tag without quotes.
    pub etag: String,
    /// What only the face understands.
    pub attrs: Attrs,
    /// Where the bytes are.
    pub body: Body,
}

/// A version to be written: the namespace gives it id and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVersion {
    /// Bytes.
    pub size: u64,
    /// S3's entity tag without quotes.
    pub etag: String,
    /// What only the face understands. Values up to 256 bytes are seen in listings; a name with
    /// `:` in it may not be.
    pub attrs: Attrs,
    /// Where the bytes are: in fresh segments, or in those of another version (a copy that moves no
    /// data). [`crate::Error::SegmentGone`] if one of them was freed in the meantime.
    pub body: Body,
}

/// Whether old versions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// Never was on: each key has its null version only.
    #[default]
    Off,
    /// Every write makes a version.
    Enabled,
    /// Was on: writes replace the null version, older versions stay.
    Suspended,
}

/// What must hold of the key's current version (for a delete of one version: of that one) for a
/// change to happen. All given parts must hold. For writes a delete marker counts as a missing key;
/// deletes of what isn't there succeed whatever is asked, and a marker is there for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// One of these etags is the current one (`*`: any); a missing key is [`crate::Error::NoSuchKey`].
    pub if_match: Option<Vec<String>>,
    /// None of these etags is the current one (`*`: the key must not exist).
    pub if_none_match: Option<Vec<String>>,
    /// The current version has exactly this modification time, to the second.
    pub if_modified: Option<Wall>,
    /// The current version has exactly this size.
    pub if_size: Option<u64>,
    /// These attributes are exactly so, or not there: as the face saw them when it decided.
    pub if_attrs: Vec<(String, Option<Vec<u8>>)>,
}

/// Names an upload in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub [u8; 16]);

/// One stored part of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u16,
    /// When it was stored.
    pub modified: Wall,
    /// Bytes.
    pub size: u64,
    /// Its entity tag without quotes.
    pub etag: String,
    /// What only the face understands.
    pub attrs: Attrs,
    /// Where the bytes are.
    pub body: Body,
}

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its name.
    pub id: UploadId,
    /// The key that it will write.
    pub key: String,
    /// When it was begun.
    pub begun: Wall,
    /// What only the face understands.
    pub attrs: Attrs,
}

/// A change to one volume, evaluated by its sequencer in one total order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes an object. What it replaces goes to garbage, or becomes a noncurrent version.
    Put {
        /// The key.
        key: String,
        /// What to write.
        new: NewVersion,
        /// What must hold before.
        condition: Condition,
    },
    /// Deletes: without `version` as S3 does (marker, or removal when versioning is off), with it
    /// that version for good. Deleting what isn't there succeeds.
    Delete {
        /// The key.
        key: String,
        /// One version alone.
        version: Option<VersionId>,
        /// What must hold before.
        condition: Condition,
    },
    /// Changes attributes of a version in place (tags, ACL). `None` removes one.
    SetAttrs {
        /// The key.
        key: String,
        /// The version; the current one if not given.
        version: Option<VersionId>,
        /// Names and new values.
        set: Vec<(String, Option<Vec<u8>>)>,
        /// What must hold of the version before.
        condition: Condition,
    },
    /// Begins an upload in parts.
    BeginUpload {
        /// Its name, random, made by the caller.
        upload: UploadId,
        /// The key that it will write.
        key: String,
        /// Kept for the object.
        attrs: Attrs,
    },
    /// Stores or replaces a part.
    PutPart {
        /// The upload.
        upload: UploadId,
        /// The upload's key.
        key: String,
        /// The part; `modified` is set by the namespace.
        part: Part,
    },
    /// Makes the parts an object without moving a byte of data. Parts left out go to garbage.
    CompleteUpload {
        /// The upload.
        upload: UploadId,
        /// The upload's key.
        key: String,
        /// Part numbers, ascending, each with the etag that the stored part must still have.
        parts: Vec<(u16, String)>,
        /// The object's entity tag, as the face computed it from the parts.
        etag: String,
        /// The object's attributes, complete.
        attrs: Attrs,
        /// What must hold of the key before.
        condition: Condition,
    },
    /// Drops an upload; its parts go to garbage.
    AbortUpload {
        /// The upload.
        upload: UploadId,
        /// The upload's key.
        key: String,
    },
    /// Sets or removes a setting of the volume, opaque here.
    SetConfig {
        /// Its name.
        name: String,
        /// Its bytes.
        value: Option<Vec<u8>>,
    },
    /// Sets whether old versions are kept.
    SetVersioning(Versioning),
    /// Replaces a version's body by another that holds the same bytes (pack compaction,
    /// re-coding); does nothing if the body is no longer `from`.
    Rebody {
        /// The key.
        key: String,
        /// The version.
        version: VersionId,
        /// The body as the mover saw it.
        from: Body,
        /// The new one.
        to: Body,
    },
    /// Forgets garbage whose pieces were deleted on the drives.
    CollectedGarbage {
        /// The segments.
        segments: Vec<SegmentId>,
    },
    /// Notes which pieces of a segment are missing (a degraded write, or what a repair found);
    /// an empty list forgets the note.
    NoteMissing {
        /// The segment.
        segment: SegmentId,
        /// Its policy.
        policy: PolicyId,
        /// Its group.
        group: GroupId,
        /// Indices of pieces that no drive holds.
        missing: Vec<u8>,
    },
    /// If the volume holds no version: drops its uploads, forgets its settings, and refuses all
    /// further commands but those that clean up; else [`crate::Error::NotEmpty`].
    Close,
    /// Gives an object another key, with its time and its etag: of an end-to-end volume whose keys were replaced, whose names and
    /// wrapped keys are other ones then. Nothing is written if the object is another one by now, or `to` is taken.
    Rename {
        /// What it is called.
        from: String,
        /// What it is called from now on: beside all folders of `from`, none of which is above `to`.
        to: String,
        /// The object's etag.
        etag: String,
        /// Its attributes from now on.
        attrs: Attrs,
        /// Its body from now on: the same bytes.
        body: Body,
    },
    /// Brings back a version that was deleted or overwritten, as the key's current one: [`crate::undo`]. What it
    /// replaces can be had back in turn.
    Undelete {
        /// The key.
        key: String,
        /// Which of its versions ([`crate::undo::Deleted::ord`]).
        ord: u64,
    },
    /// Frees for good what was deleted; [`Outcome::size`] says how many versions.
    Expire {
        /// The last moment of what goes; if not given, what the shard's window has passed for, by the clock of who leads it.
        by: Option<Wall>,
        /// Only of this key.
        key: Option<String>,
    },
    /// Takes no more commands, whatever is in it: its bucket is deleted, and can be had back.
    Shut,
    /// Takes commands again after [`Command::Shut`] or [`Command::Close`].
    Reopen,
    /// Frees for good some of what is in a volume that was shut; [`Outcome::size`] says how many rows, 0 if it is empty.
    Empty,
}

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The version written, marked or removed.
    pub version: Option<VersionId>,
    /// Whether that is (or was) a delete marker.
    pub marker: bool,
    /// When it was written.
    pub modified: Wall,
    /// The size and etag that now stand, for writes.
    pub size: u64,
    /// See `size`.
    pub etag: String,
}
