//! The reads that a face makes of one volume, as bytes and as an evaluation of which only the rows
//! that it touches are wanted.

use base::kv::View;
use base::{GroupId, PolicyId, SegmentId, VolumeId};
use codec::{Error as Codec, Reader, Versioned, Writer};

use super::command::{read_version, write_version};
use super::{bounded, text};
use crate::error::Error;
use crate::read::{self, ListQuery};
use crate::rows::flag;
use crate::types::{UploadId, VersionId};

/// A read of one volume. Each is one function of [`crate::read`]: the one who asks calls that function
/// on the rows which [`Query::run`] touched elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// [`read::head`] and [`read::find`].
    Head {
        /// The key.
        key: String,
        /// The version; the current one if not given.
        version: Option<VersionId>,
        /// Whether the body is wanted.
        with_body: bool,
    },
    /// [`read::list`]. Which attributes it shows doesn't matter here, and is not sent.
    List(ListQuery),
    /// [`read::list_versions`].
    ListVersions(ListQuery),
    /// [`read::uploads`].
    Uploads(ListQuery),
    /// [`read::upload`].
    Upload {
        /// The key.
        key: String,
        /// The upload.
        id: UploadId,
    },
    /// [`read::parts`].
    Parts {
        /// The key.
        key: String,
        /// The upload.
        id: UploadId,
        /// Parts with greater numbers.
        after: u16,
        /// At most so many.
        limit: usize,
    },
    /// [`read::config`].
    Config {
        /// The setting.
        name: String,
    },
    /// [`read::versioning`].
    Versioning,
    /// [`read::segment`].
    Segment {
        /// Its policy.
        policy: PolicyId,
        /// Its group.
        group: GroupId,
        /// The segment.
        segment: SegmentId,
    },
    /// [`read::missing_note`].
    Missing {
        /// The segment.
        segment: SegmentId,
    },
}

impl Query {
    /// Evaluates the read and throws the result away: over a view that records what is read of it.
    ///
    /// A refusal ([`Error::NoSuchKey`], …) is an answer too: the rows that were touched lead to the same
    /// one elsewhere. Only [`Error::View`] says that the rows are not all there.
    pub fn run(&self, view: &dyn View, volume: VolumeId) -> Result<(), Error> {
        match self {
            Query::Head { key, version, with_body } => read::find(view, volume, key, *version, *with_body).map(drop),
            Query::List(query) => read::list(view, volume, query).map(drop),
            Query::ListVersions(query) => read::list_versions(view, volume, query).map(drop),
            Query::Uploads(query) => read::uploads(view, volume, query).map(drop),
            Query::Upload { key, id } => read::upload(view, volume, key, *id).map(drop),
            Query::Parts { key, id, after, limit } => read::parts(view, volume, key, *id, *after, *limit).map(drop),
            Query::Config { name } => read::config(view, volume, name).map(drop),
            Query::Versioning => read::versioning(view, volume).map(drop),
            Query::Segment { policy, group, segment } => {
                read::segment(view, volume, *policy, *group, *segment).map(drop)
            }
            Query::Missing { segment } => read::missing_note(view, volume, *segment).map(drop),
        }
    }
}

impl Versioned for Query {
    const NAME: &'static str = "query";
    const MARK: [u8; 4] = *b"nsQu";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Query::Head { key, version, with_body } => {
                to.u8(1).str(key);
                write_version(to, *version);
                to.u8((*with_body).into());
            }
            Query::List(query) => write_list(to.u8(2), query),
            Query::ListVersions(query) => write_list(to.u8(3), query),
            Query::Uploads(query) => write_list(to.u8(4), query),
            Query::Upload { key, id } => {
                to.u8(5).str(key).raw(&id.0);
            }
            Query::Parts { key, id, after, limit } => {
                to.u8(6).str(key).raw(&id.0).u16(*after).u64(*limit as u64);
            }
            Query::Config { name } => {
                to.u8(7).str(name);
            }
            Query::Versioning => {
                to.u8(8);
            }
            Query::Segment { policy, group, segment } => {
                to.u8(9).u16(policy.0).u32(group.0).raw(&segment.0);
            }
            Query::Missing { segment } => {
                to.u8(10).raw(&segment.0);
            }
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Codec> {
        bounded(from, Self::NAME)?;
        Ok(match from.u8("query")? {
            1 => Query::Head {
                key: text(from, "key")?,
                version: read_version(from)?,
                with_body: flag(from, "with body")?,
            },
            2 => Query::List(read_list(from)?),
            3 => Query::ListVersions(read_list(from)?),
            4 => Query::Uploads(read_list(from)?),
            5 => Query::Upload { key: text(from, "key")?, id: UploadId(from.array("upload")?) },
            6 => Query::Parts {
                key: text(from, "key")?,
                id: UploadId(from.array("upload")?),
                after: from.u16("part")?,
                limit: limit(from)?,
            },
            7 => Query::Config { name: text(from, "setting")? },
            8 => Query::Versioning,
            9 => Query::Segment {
                policy: PolicyId(from.u16("policy")?),
                group: GroupId(from.u32("group")?),
                segment: SegmentId(from.array("segment")?),
            },
            10 => Query::Missing { segment: SegmentId(from.array("segment")?) },
            value => return Err(Codec::Value { what: "query", value: value.into() }),
        })
    }
}

fn limit(from: &mut Reader<'_>) -> Result<usize, Codec> {
    Ok(usize::try_from(from.u64("limit")?).unwrap_or(usize::MAX))
}

fn write_list(to: &mut Writer, query: &ListQuery) {
    let ListQuery { prefix, delimiter, after, after_version, after_upload, attrs: _, limit } = query;
    to.str(prefix).str(delimiter).option(after.as_ref(), |to, after| {
        to.str(after);
    });
    write_version(to, *after_version);
    to.option(*after_upload, |to, upload| {
        to.raw(&upload.0);
    });
    to.u64(*limit as u64);
}

fn read_list(from: &mut Reader<'_>) -> Result<ListQuery, Codec> {
    Ok(ListQuery {
        prefix: text(from, "prefix")?,
        delimiter: text(from, "delimiter")?,
        after: from.option("after", |from| text(from, "after"))?,
        after_version: read_version(from)?,
        after_upload: from.option("upload", |from| from.array("upload").map(UploadId))?,
        attrs: None,
        limit: limit(from)?,
    })
}
