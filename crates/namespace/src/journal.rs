//! What readers of a shard's journal are told beside the rows that changed.

use base::{VolumeId, Wall};
use codec::{Error, Reader, Versioned, Writer};

use crate::encode::{read_etag, write_etag};
use crate::rows::versioning;
use crate::types::{UploadId, VersionId, Versioning};

/// One change of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The volume.
    pub volume: VolumeId,
    /// When.
    pub at: Wall,
    /// What.
    pub what: What,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A version was written and is current.
    Put {
        /// The key.
        key: String,
        /// The version.
        version: VersionId,
        /// Bytes.
        size: u64,
        /// Entity tag.
        etag: String,
        /// The upload that made it.
        upload: Option<UploadId>,
    },
    /// A delete marker was written and is current.
    Marker {
        /// The key.
        key: String,
        /// The marker's version.
        version: VersionId,
    },
    /// A version was removed for good.
    Delete {
        /// The key.
        key: String,
        /// The version.
        version: VersionId,
        /// Whether it was a marker.
        marker: bool,
    },
    /// Attributes of a version changed.
    Attrs {
        /// The key.
        key: String,
        /// The version.
        version: VersionId,
    },
    /// A version's bytes lie elsewhere now.
    Rebody {
        /// The key.
        key: String,
        /// The version.
        version: VersionId,
    },
    /// An upload was begun.
    UploadBegun {
        /// The key.
        key: String,
        /// The upload.
        upload: UploadId,
    },
    /// An upload was dropped.
    UploadAborted {
        /// The key.
        key: String,
        /// The upload.
        upload: UploadId,
    },
    /// A setting changed.
    Config {
        /// Its name.
        name: String,
    },
    /// Old versions are kept, or no longer.
    Versioning(Versioning),
    /// The volume takes no more commands.
    Closed,
}

const PUT: u8 = 1;
const MARKER: u8 = 2;
const DELETE: u8 = 3;
const ATTRS: u8 = 4;
const REBODY: u8 = 5;
const UPLOAD_BEGUN: u8 = 6;
const UPLOAD_ABORTED: u8 = 7;
const CONFIG: u8 = 8;
const VERSIONING: u8 = 9;
const CLOSED: u8 = 10;

impl Versioned for Event {
    const NAME: &'static str = "journal event";
    const MARK: [u8; 4] = *b"nsEv";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u32(self.volume.0).u64(self.at.0);
        match &self.what {
            What::Put { key, version, size, etag, upload } => {
                to.u8(PUT).str(key).u64(version.0).u64(*size);
                write_etag(to, etag);
                to.option(*upload, |to, upload| {
                    to.raw(&upload.0);
                });
            }
            What::Marker { key, version } => {
                to.u8(MARKER).str(key).u64(version.0);
            }
            What::Delete { key, version, marker } => {
                to.u8(DELETE).str(key).u64(version.0).u8((*marker).into());
            }
            What::Attrs { key, version } => {
                to.u8(ATTRS).str(key).u64(version.0);
            }
            What::Rebody { key, version } => {
                to.u8(REBODY).str(key).u64(version.0);
            }
            What::UploadBegun { key, upload } => {
                to.u8(UPLOAD_BEGUN).str(key).raw(&upload.0);
            }
            What::UploadAborted { key, upload } => {
                to.u8(UPLOAD_ABORTED).str(key).raw(&upload.0);
            }
            What::Config { name } => {
                to.u8(CONFIG).str(name);
            }
            What::Versioning(state) => {
                to.u8(VERSIONING).u8(*state as u8);
            }
            What::Closed => {
                to.u8(CLOSED);
            }
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        let (volume, at) = (VolumeId(from.u32("volume")?), Wall(from.u64("time")?));
        let kind = from.u8("event")?;
        Ok(Event { volume, at, what: decode_what(kind, from)? })
    }
}

fn decode_what(kind: u8, from: &mut Reader<'_>) -> Result<What, Error> {
    let key = |from: &mut Reader<'_>| from.str("key", base::limits::KEY_BYTES_MAX).map(str::to_owned);
    let version = |from: &mut Reader<'_>| from.u64("version").map(VersionId);
    let upload = |from: &mut Reader<'_>| from.array("upload").map(UploadId);
    Ok(match kind {
        PUT => What::Put {
            key: key(from)?,
            version: version(from)?,
            size: from.u64("size")?,
            etag: read_etag(from)?,
            upload: from.option("upload", upload)?,
        },
        MARKER => What::Marker { key: key(from)?, version: version(from)? },
        DELETE => What::Delete { key: key(from)?, version: version(from)?, marker: crate::rows::flag(from, "marker")? },
        ATTRS => What::Attrs { key: key(from)?, version: version(from)? },
        REBODY => What::Rebody { key: key(from)?, version: version(from)? },
        UPLOAD_BEGUN => What::UploadBegun { key: key(from)?, upload: upload(from)? },
        UPLOAD_ABORTED => What::UploadAborted { key: key(from)?, upload: upload(from)? },
        CONFIG => What::Config { name: key(from)? },
        VERSIONING => What::Versioning(versioning(from.u8("versioning")?)?),
        CLOSED => What::Closed,
        value => return Err(Error::Value { what: "event", value: value.into() }),
    })
}
