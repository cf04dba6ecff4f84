//! Commands as bytes.

use base::{GroupId, PolicyId, SegmentId, Wall};
use codec::{Error, Reader, Versioned, Writer};

use super::{blob, bounded, read_attrs, read_many, text, write_attrs, write_many};
use crate::encode::{read_body, write_body};
use crate::rows::versioning;
use crate::types::{Body, Command, Condition, NewVersion, Part, UploadId, VersionId};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const SET_ATTRS: u8 = 3;
const BEGIN_UPLOAD: u8 = 4;
const PUT_PART: u8 = 5;
const COMPLETE_UPLOAD: u8 = 6;
const ABORT_UPLOAD: u8 = 7;
const SET_CONFIG: u8 = 8;
const SET_VERSIONING: u8 = 9;
const REBODY: u8 = 10;
const COLLECTED_GARBAGE: u8 = 11;
const NOTE_MISSING: u8 = 12;
const CLOSE: u8 = 13;
const UNDELETE: u8 = 14;
const EXPIRE: u8 = 15;
const SHUT: u8 = 16;
const REOPEN: u8 = 17;
const EMPTY: u8 = 18;
const RENAME: u8 = 19;

impl Versioned for Command {
    const NAME: &'static str = "command";
    const MARK: [u8; 4] = *b"nsCm";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Command::Put { key, new, condition } => {
                to.u8(PUT).str(key).u64(new.size).str(&new.etag);
                write_attrs(to, &new.attrs);
                write_body(to, &new.body);
                write_condition(to, condition);
            }
            Command::Delete { key, version, condition } => {
                to.u8(DELETE).str(key);
                write_version(to, *version);
                write_condition(to, condition);
            }
            Command::SetAttrs { key, version, set, condition } => {
                to.u8(SET_ATTRS).str(key);
                write_version(to, *version);
                write_many(to, set, write_set);
                write_condition(to, condition);
            }
            Command::BeginUpload { upload, key, attrs } => {
                to.u8(BEGIN_UPLOAD).raw(&upload.0).str(key);
                write_attrs(to, attrs);
            }
            Command::PutPart { upload, key, part } => {
                to.u8(PUT_PART).raw(&upload.0).str(key);
                to.u16(part.number).u64(part.modified.0).u64(part.size).str(&part.etag);
                write_attrs(to, &part.attrs);
                write_body(to, &part.body);
            }
            Command::CompleteUpload { upload, key, parts, etag, attrs, condition } => {
                to.u8(COMPLETE_UPLOAD).raw(&upload.0).str(key);
                write_many(to, parts, |to, (number, etag)| {
                    to.u16(*number).str(etag);
                });
                to.str(etag);
                write_attrs(to, attrs);
                write_condition(to, condition);
            }
            Command::AbortUpload { upload, key } => {
                to.u8(ABORT_UPLOAD).raw(&upload.0).str(key);
            }
            Command::SetConfig { name, value } => {
                to.u8(SET_CONFIG).str(name).option(value.as_ref(), |to, value| {
                    to.bytes(value);
                });
            }
            Command::SetVersioning(state) => {
                to.u8(SET_VERSIONING).u8(*state as u8);
            }
            Command::Rebody { key, version, from, to: new } => {
                to.u8(REBODY).str(key).u64(version.0);
                write_body(to, from);
                write_body(to, new);
            }
            Command::CollectedGarbage { segments } => {
                to.u8(COLLECTED_GARBAGE);
                write_many(to, segments, |to, segment| {
                    to.raw(&segment.0);
                });
            }
            Command::NoteMissing { segment, policy, group, missing } => {
                to.u8(NOTE_MISSING).raw(&segment.0).u16(policy.0).u32(group.0).bytes(missing);
            }
            Command::Close => {
                to.u8(CLOSE);
            }
            Command::Undelete { key, ord } => {
                to.u8(UNDELETE).str(key).u64(*ord);
            }
            Command::Expire { by, key } => {
                to.u8(EXPIRE).option(*by, |to, by| _ = to.u64(by.0)).option(key.as_ref(), |to, key| {
                    to.str(key);
                });
            }
            Command::Shut => {
                to.u8(SHUT);
            }
            Command::Reopen => {
                to.u8(REOPEN);
            }
            Command::Empty => {
                to.u8(EMPTY);
            }
            Command::Rename { from, to: key, etag, attrs, body } => {
                to.u8(RENAME).str(from).str(key).str(etag);
                write_attrs(to, attrs);
                write_body(to, body);
            }
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
        bounded(from, Self::NAME)?;
        match from.u8("command")? {
            tag @ (PUT | DELETE | SET_ATTRS) => read_change(tag, from),
            tag @ (BEGIN_UPLOAD | PUT_PART | COMPLETE_UPLOAD | ABORT_UPLOAD) => read_upload(tag, from),
            SET_CONFIG => {
                let name = text(from, "setting")?;
                Ok(Command::SetConfig { name, value: from.option("setting", |from| blob(from, "setting"))? })
            }
            SET_VERSIONING => versioning(from.u8("versioning")?).map(Command::SetVersioning),
            REBODY => Ok(Command::Rebody {
                key: text(from, "key")?,
                version: VersionId(from.u64("version")?),
                from: read_any_body(from)?,
                to: read_any_body(from)?,
            }),
            COLLECTED_GARBAGE => {
                let segments = read_many(from, "segments", 16, |from| from.array("segment").map(SegmentId))?;
                Ok(Command::CollectedGarbage { segments })
            }
            NOTE_MISSING => Ok(Command::NoteMissing {
                segment: SegmentId(from.array("segment")?),
                policy: PolicyId(from.u16("policy")?),
                group: GroupId(from.u32("group")?),
                missing: from.bytes("missing pieces", 256)?.to_vec(),
            }),
            CLOSE => Ok(Command::Close),
            UNDELETE => Ok(Command::Undelete { key: text(from, "key")?, ord: from.u64("ord")? }),
            EXPIRE => {
                let by = from.option("by", |from| from.u64("by").map(Wall))?;
                Ok(Command::Expire { by, key: from.option("key", |from| text(from, "key"))? })
            }
            SHUT => Ok(Command::Shut),
            REOPEN => Ok(Command::Reopen),
            EMPTY => Ok(Command::Empty),
            RENAME => Ok(Command::Rename {
                from: text(from, "key")?,
                to: text(from, "new key")?,
                etag: text(from, "etag")?,
                attrs: read_attrs(from)?,
                body: read_any_body(from)?,
            }),
            value => Err(Error::Value { what: "command", value: value.into() }),
        }
    }
}

fn read_change(tag: u8, from: &mut Reader<'_>) -> Result<Command, Error> {
    let key = text(from, "key")?;
    if tag == PUT {
        let (size, etag) = (from.u64("size")?, text(from, "etag")?);
        let new = NewVersion { size, etag, attrs: read_attrs(from)?, body: read_any_body(from)? };
        return Ok(Command::Put { key, new, condition: read_condition(from)? });
    }
    let version = read_version(from)?;
    if tag == DELETE {
        return Ok(Command::Delete { key, version, condition: read_condition(from)? });
    }
    let set = read_many(from, "attributes", 5, read_set)?;
    Ok(Command::SetAttrs { key, version, set, condition: read_condition(from)? })
}

fn read_upload(tag: u8, from: &mut Reader<'_>) -> Result<Command, Error> {
    let (upload, key) = (UploadId(from.array("upload")?), text(from, "key")?);
    match tag {
        BEGIN_UPLOAD => Ok(Command::BeginUpload { upload, key, attrs: read_attrs(from)? }),
        PUT_PART => {
            let (number, modified, size) = (from.u16("part")?, Wall(from.u64("modified")?), from.u64("size")?);
            let (etag, attrs, body) = (text(from, "etag")?, read_attrs(from)?, read_any_body(from)?);
            Ok(Command::PutPart { upload, key, part: Part { number, modified, size, etag, attrs, body } })
        }
        COMPLETE_UPLOAD => {
            let parts = read_many(from, "parts", 6, |from| Ok((from.u16("part")?, text(from, "etag")?)))?;
            let (etag, attrs, condition) = (text(from, "etag")?, read_attrs(from)?, read_condition(from)?);
            Ok(Command::CompleteUpload { upload, key, parts, etag, attrs, condition })
        }
        _ => Ok(Command::AbortUpload { upload, key }),
    }
}

pub(super) fn write_version(to: &mut Writer, version: Option<VersionId>) {
    to.option(version, |to, version| {
        to.u64(version.0);
    });
}

pub(super) fn read_version(from: &mut Reader<'_>) -> Result<Option<VersionId>, Error> {
    from.option("version", |from| from.u64("version").map(VersionId))
}

/// As rows hold it; here one that was not loaded passes too: the rules refuse it, and say so.
fn read_any_body(from: &mut Reader<'_>) -> Result<Body, Error> {
    let mut ahead = from.clone();
    if ahead.u8("body")? == crate::encode::UNLOADED {
        *from = ahead;
        return Ok(Body::Unloaded);
    }
    read_body(from)
}

fn write_set(to: &mut Writer, (name, value): &(String, Option<Vec<u8>>)) {
    to.str(name).option(value.as_ref(), |to, value| {
        to.bytes(value);
    });
}

fn read_set(from: &mut Reader<'_>) -> Result<(String, Option<Vec<u8>>), Error> {
    let name = text(from, "attribute name")?;
    Ok((name, from.option("attribute", |from| blob(from, "attribute"))?))
}

fn write_condition(to: &mut Writer, condition: &Condition) {
    for etags in [&condition.if_match, &condition.if_none_match] {
        to.option(etags.as_ref(), |to, etags| {
            write_many(to, etags, |to, etag| {
                to.str(etag);
            });
        });
    }
    for number in [condition.if_modified.map(|at| at.0), condition.if_size] {
        to.option(number, |to, number| {
            to.u64(number);
        });
    }
    write_many(to, &condition.if_attrs, write_set);
}

fn read_condition(from: &mut Reader<'_>) -> Result<Condition, Error> {
    let etags = |from: &mut Reader<'_>| {
        from.option("condition", |from| read_many(from, "condition", 4, |from| text(from, "etag")))
    };
    Ok(Condition {
        if_match: etags(from)?,
        if_none_match: etags(from)?,
        if_modified: from.option("condition", |from| from.u64("modified").map(Wall))?,
        if_size: from.option("condition", |from| from.u64("size"))?,
        if_attrs: read_many(from, "condition", 5, read_set)?,
    })
}
