//! What is committed in a volume, as changes of its kit ([`kit::Change`]).

use base::VolumeId;
use base::kv::View;
use codec::{Error as CodecError, Reader, Versioned, Writer};
use kit::{Body, Change, Object};
use namespace::encode::{ATTR_BYTES_MAX, ATTR_NAME_BYTES_MAX, ATTRS_MAX, ETAG_BYTES_MAX};
use namespace::read::Found;
use namespace::{Attrs, Version, VersionId};

use crate::Error;

/// What a kit keeps of an object besides its bytes: its reader understands it, the kit doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// S3's entity tag without quotes.
    pub etag: String,
    /// What the face knows.
    pub attrs: Attrs,
}

impl Versioned for Attributes {
    const NAME: &'static str = "an object's attributes";
    const MARK: [u8; 4] = *b"AbAt";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.str(&self.etag).u32(self.attrs.len() as u32);
        for (name, value) in &self.attrs {
            to.str(name).bytes(value);
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let etag = from.str("etag", ETAG_BYTES_MAX)?.to_owned();
        let count = from.u32("attributes")? as usize;
        if count > ATTRS_MAX {
            return Err(CodecError::TooLong { what: "attributes", len: count, max: ATTRS_MAX });
        }
        let one = |from: &mut Reader<'_>| {
            let name = from.str("attribute", ATTR_NAME_BYTES_MAX)?.to_owned();
            Ok((name, from.bytes("attribute", ATTR_BYTES_MAX)?.to_vec()))
        };
        Ok(Self { etag, attrs: (0..count).map(|_| one(from)).collect::<Result<_, CodecError>>()? })
    }
}

/// A version, or a delete marker, as a kit has it. `ord` is its place in the volume's order of versions. `None` if it
/// was read without its body.
pub fn put(key: &str, ord: u64, version: &Version) -> Option<Change> {
    let Version { id, modified, marker, size, etag, attrs, body } = version;
    let body = if *marker { Body::Inline(Vec::new()) } else { Body::of(body)? };
    let attributes = Attributes { etag: etag.clone(), attrs: attrs.clone() };
    let attrs = if *marker && attributes.attrs.is_empty() { Vec::new() } else { attributes.encode() };
    let (null, marker, modified) = (*id == VersionId::NULL, *marker, *modified);
    let object = Object { version: ord, null, marker, modified, size: *size, attrs, body };
    Some(Change::Put { path: key.to_owned(), object })
}

/// What a volume has now under this name, as a change: the version, or, if it is no more, that it is dropped. `ord` is what
/// the kit called it when it is the null version, which has no number of its own: 0 if the kit has none.
///
/// # Errors
/// If the rows can't be read.
pub fn change_of(view: &dyn View, volume: VolumeId, key: &str, id: VersionId, ord: u64) -> Result<Change, Error> {
    match namespace::read::head_and_ord(view, volume, key, id) {
        Ok((Found::Object(version) | Found::Marker(version), ord)) => {
            put(key, ord, &version).ok_or(Error::Invalid { what: "the version was read without its body" })
        }
        Err(namespace::Error::NoSuchKey | namespace::Error::NoSuchVersion) => {
            let version = if id == VersionId::NULL { ord } else { id.0 };
            Ok(Change::Drop { path: key.to_owned(), version })
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_and_their_bytes_never_change() {
        let attrs = Attrs::from([("content-type".to_owned(), b"image/png".to_vec()), ("x".to_owned(), Vec::new())]);
        let all = Attributes { etag: "e-2".into(), attrs };
        let bytes = all.encode();
        assert_eq!(Attributes::decode(&bytes).unwrap(), all);
        let wanted = "416241740103000000652d32020000000c000000636f6e74656e742d7479706509000000696d6167652f706e67010000007800000000";
        assert_eq!(base::ids::hex(&bytes), wanted);
        for cut in 0..bytes.len() {
            assert!(Attributes::decode(&bytes[..cut]).is_err());
        }
    }
}
