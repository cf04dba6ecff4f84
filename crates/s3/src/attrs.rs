//! What this face keeps beside an object's bytes: names in [`namespace::Attrs`], and the small
//! encodings behind them. Stored for good, so names and encodings never change their meaning.

use base::UserId;
use namespace::Attrs;

use crate::error::{Code, Error, Result};

/// Headers that are stored as they came, in the order in which they are given back.
pub const HEADERS: &[&str] = &[
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
    "x-amz-storage-class",
    ENCRYPTION,
];
/// How the writer, or the bucket's default, asked for the object to be encrypted: `AES256`.
pub const ENCRYPTION: &str = "x-amz-server-side-encryption";
/// User metadata: this, then the name without `x-amz-meta-`.
pub const META: &str = "meta:";
/// Tags, as a URL-encoded query.
pub const TAGS: &str = "tags";
/// Grants, see [`crate::acl`]; not there: only the owner.
pub const ACL: &str = "acl";
/// Who owns the object, if not the bucket's owner.
pub const OWNER: &str = "owner";
/// The checksum: algorithm, type and value, see [`Stored`].
pub const CHECKSUM: &str = "checksum";
/// The table of parts, see [`PartTable`].
pub const PARTS: &str = "parts";
/// The upload that made the object, so that a repeated completion is known.
pub const UPLOAD: &str = "upload";

/// User metadata of one object: S3's limit, in bytes of names and values.
pub const META_MAX: usize = 2048;

/// An attribute as text.
pub fn text<'a>(attrs: &'a Attrs, name: &str) -> Option<&'a str> {
    attrs.get(name).and_then(|value| std::str::from_utf8(value).ok())
}

/// The object's owner, given the bucket's.
pub fn owner(attrs: &Attrs, bucket: &UserId) -> UserId {
    text(attrs, OWNER).map_or_else(|| bucket.clone(), |owner| UserId(owner.to_owned()))
}

/// The object's storage class.
pub fn storage_class(attrs: &Attrs) -> &str {
    text(attrs, "x-amz-storage-class").unwrap_or("STANDARD")
}

/// A stored checksum: written `CRC32 FULL_OBJECT aGk=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// S3's name of the algorithm, such as `CRC64NVME`.
    pub algorithm: String,
    /// Whether it covers the parts' checksums, not the bytes.
    pub composite: bool,
    /// As it goes over the wire: base64, for composite ones with `-N`.
    pub value: String,
}

impl Stored {
    /// The checksum among `attrs`.
    pub fn of(attrs: &Attrs) -> Option<Stored> {
        let mut words = text(attrs, CHECKSUM)?.split(' ');
        let (algorithm, kind, value) = (words.next()?, words.next()?, words.next()?);
        Some(Stored { algorithm: algorithm.into(), composite: kind == "COMPOSITE", value: value.into() })
    }

    /// S3's word for the type.
    pub fn kind(&self) -> &'static str {
        if self.composite { "COMPOSITE" } else { "FULL_OBJECT" }
    }

    /// Puts it among `attrs`.
    pub fn store(&self, attrs: &mut Attrs) {
        let text = format!("{} {} {}", self.algorithm, self.kind(), self.value);
        attrs.insert(CHECKSUM.into(), text.into_bytes());
    }
}

/// Numbers and sizes of the parts that made an object, and their checksums if they had some.
///
/// Bytes: version 1, then per part number (u16 LE), size (u64 LE), length of the checksum (u8), and
/// the checksum as base64 text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartTable(pub Vec<PartRow>);

/// One row of a [`PartTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRow {
    /// The part's number.
    pub number: u16,
    /// Its bytes.
    pub size: u64,
    /// Its checksum in base64; empty if it had none.
    pub checksum: String,
}

impl PartTable {
    /// The table among `attrs`; `None` if the object wasn't made from parts or the table can't be
    /// read.
    pub fn of(attrs: &Attrs) -> Option<PartTable> {
        let bytes = attrs.get(PARTS)?;
        let mut rest = bytes.strip_prefix(&[1])?;
        let mut rows = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(11)?;
            let number = u16::from_le_bytes([head[0], head[1]]);
            let size = u64::from_le_bytes(head[2..10].try_into().ok()?);
            let (checksum, tail) = tail.split_at_checked(usize::from(head[10]))?;
            rows.push(PartRow { number, size, checksum: String::from_utf8(checksum.to_vec()).ok()? });
            rest = tail;
        }
        Some(PartTable(rows))
    }

    /// Puts the table among `attrs`.
    pub fn store(&self, attrs: &mut Attrs) {
        let mut bytes = Vec::with_capacity(1 + self.0.len() * 11);
        bytes.push(1);
        for row in &self.0 {
            bytes.extend_from_slice(&row.number.to_le_bytes());
            bytes.extend_from_slice(&row.size.to_le_bytes());
            let checksum = &row.checksum.as_bytes()[..row.checksum.len().min(255)];
            bytes.push(checksum.len() as u8);
            bytes.extend_from_slice(checksum);
        }
        attrs.insert(PARTS.into(), bytes);
    }

    /// First byte and size of the part that has this number.
    pub fn find(&self, number: u16) -> Option<(u64, u64)> {
        let mut offset = 0;
        for row in &self.0 {
            if row.number == number {
                return Some((offset, row.size));
            }
            offset += row.size;
        }
        None
    }
}

/// Checks a set of tags against S3's limits and gives it as a query to store.
pub fn encode_tags(tags: &[(String, String)], tags_max: usize) -> Result<Vec<u8>> {
    if tags.len() > tags_max {
        let code = if tags_max == OBJECT_TAGS_MAX { Code::InvalidTag } else { Code::InvalidRequest };
        return Err(Error::new(code, format!("Object tags cannot be greater than {tags_max}")));
    }
    let mut text = String::new();
    let mut tags: Vec<&(String, String)> = tags.iter().collect();
    tags.sort();
    for (at, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > 128 {
            return Err(Error::new(Code::InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > 256 {
            return Err(Error::new(Code::InvalidTag, "The TagValue you have provided is invalid"));
        }
        if at > 0 && tags[at - 1].0 == *key {
            return Err(Error::new(Code::InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
        if at > 0 {
            text.push('&');
        }
        let plain = |text: &str| crate::target::url_encode(text).replace('/', "%2F");
        text.push_str(&plain(key));
        text.push('=');
        text.push_str(&plain(value));
    }
    Ok(text.into_bytes())
}

/// Tags of one object.
pub const OBJECT_TAGS_MAX: usize = 10;
/// Tags of one bucket.
pub const BUCKET_TAGS_MAX: usize = 50;

/// Tags from a query, as the header `x-amz-tagging` and the stored attribute have them.
pub fn decode_tags(query: &str) -> Result<Vec<(String, String)>> {
    let plain = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .map(|text| text.into_owned())
            .map_err(|_| Error::new(Code::InvalidArgument, "The header 'x-amz-tagging' is not UTF-8"))
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((plain(key)?, plain(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_table_reads_back_and_finds_its_parts() {
        let row = |number, size, checksum: &str| PartRow { number, size, checksum: checksum.into() };
        let table = PartTable(vec![row(1, 5, "aGk="), row(3, 7, ""), row(10_000, 1 << 32, "x")]);
        let mut attrs = Attrs::new();
        table.store(&mut attrs);
        assert_eq!(PartTable::of(&attrs), Some(table.clone()));
        assert_eq!(table.find(3), Some((5, 7)));
        assert_eq!(table.find(10_000), Some((12, 1 << 32)));
        assert_eq!(table.find(2), None);
        for cut in 2..attrs[PARTS].len() {
            let cut = Attrs::from([(PARTS.to_owned(), attrs[PARTS][..cut].to_vec())]);
            assert!(PartTable::of(&cut).is_none_or(|cut| cut.0.len() < 3));
        }
    }

    #[test]
    fn tags_read_back_and_keep_to_the_limits() {
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let tags = vec![tag("a&b", "c=d /+"), tag("ü", "")];
        let text = encode_tags(&tags, OBJECT_TAGS_MAX).unwrap();
        assert_eq!(decode_tags(std::str::from_utf8(&text).unwrap()).unwrap(), tags);
        let many: Vec<_> = (0..11).map(|n| tag(&n.to_string(), "")).collect();
        for bad in [vec![tag("", "x")], vec![tag(&"k".repeat(129), "")], vec![tag("k", &"v".repeat(257))], many] {
            assert_eq!(encode_tags(&bad, OBJECT_TAGS_MAX).unwrap_err().code, Code::InvalidTag);
        }
        assert!(encode_tags(&[tag("a", ""), tag("a", "x")], OBJECT_TAGS_MAX).is_err());
    }

    #[test]
    fn a_checksum_reads_back() {
        let stored = Stored { algorithm: "CRC32".into(), composite: true, value: "aGk=-2".into() };
        let mut attrs = Attrs::new();
        stored.store(&mut attrs);
        assert_eq!(Stored::of(&attrs), Some(stored));
    }
}
