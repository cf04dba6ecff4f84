//! Uploads in parts, as long as the gateway runs: their parts' bytes are with nodes, only what they are called is here. What was
//! begun and never completed the store collects after seven days.

use std::collections::BTreeMap;

use base::{Instant, Wall};
use namespace::{Attrs, Body, Error, Part, Upload, UploadId, joined};
use owner::WRITE_MAX;

/// Uploads at a time.
const UPLOADS_MAX: usize = 1000;

/// An upload, since when, and its parts.
type Begun = (Upload, Instant, BTreeMap<u16, Part>);

/// The uploads of one volume.
#[derive(Default)]
pub struct Uploads(BTreeMap<UploadId, Begun>);

impl Uploads {
    /// Forgets those whose parts may be collected soon: one that is completed then could lack some.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (_, since, _)| now.since(*since) < WRITE_MAX);
    }

    pub fn begin(
        &mut self,
        id: UploadId,
        key: String,
        (begun, now): (Wall, Instant),
        attrs: Attrs,
    ) -> Result<(), Error> {
        if self.0.len() >= UPLOADS_MAX {
            return Err(Error::InvalidValue { what: "upload", why: "too many are under way: complete or abort some" });
        }
        self.0.insert(id, (Upload { id, key, begun, attrs }, now, BTreeMap::new()));
        Ok(())
    }

    fn find(&self, id: UploadId, key: &str) -> Result<&Begun, Error> {
        self.0.get(&id).filter(|(upload, ..)| upload.key == key).ok_or(Error::NoSuchUpload)
    }

    pub fn get(&self, id: UploadId, key: &str) -> Result<Upload, Error> {
        Ok(self.find(id, key)?.0.clone())
    }

    /// All of keys that begin so, by key and then by id.
    pub fn all(&self, prefix: &str) -> Vec<Upload> {
        let mut all: Vec<Upload> =
            self.0.values().map(|(upload, ..)| upload).filter(|one| one.key.starts_with(prefix)).cloned().collect();
        all.sort_by(|a, b| (&a.key, a.id).cmp(&(&b.key, b.id)));
        all
    }

    pub fn put_part(&mut self, id: UploadId, key: &str, part: Part) -> Result<(), Error> {
        self.find(id, key)?;
        let (.., parts) = self.0.get_mut(&id).ok_or(Error::NoSuchUpload)?;
        parts.insert(part.number, part);
        Ok(())
    }

    /// Those after a number.
    pub fn parts(&self, id: UploadId, key: &str, after: u16, limit: usize) -> Result<Vec<Part>, Error> {
        let (.., parts) = self.find(id, key)?;
        let bare = |part: &Part| Part { body: Body::Unloaded, ..part.clone() };
        Ok(parts.range(after.saturating_add(1)..).take(limit).map(|(_, part)| bare(part)).collect())
    }

    /// The bytes of these parts, one after the other: how many, and where.
    pub fn join(&self, id: UploadId, key: &str, chosen: &[(u16, String)]) -> Result<(u64, Body), Error> {
        let (.., parts) = self.find(id, key)?;
        let chosen = chosen.iter().map(|(number, etag)| {
            let part = parts.get(number).filter(|part| part.etag == etag.trim_matches('"'));
            let part = part.ok_or(Error::InvalidPart { number: *number })?;
            Ok((part.size, part.body.clone()))
        });
        Ok(joined(chosen.collect::<Result<Vec<_>, Error>>()?))
    }

    pub fn end(&mut self, id: UploadId, key: &str) -> Result<(), Error> {
        self.find(id, key)?;
        self.0.remove(&id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u16, bytes: &[u8]) -> Part {
        let etag = format!("e{number}-{}", bytes.len());
        let (modified, attrs) = (Wall(0), Attrs::new());
        Part { number, modified, size: bytes.len() as u64, etag, attrs, body: Body::Inline(bytes.to_vec()) }
    }

    #[test]
    fn parts_are_joined_in_order_and_the_last_of_a_number_counts() {
        let (id, mut uploads) = (UploadId([1; 16]), Uploads::default());
        assert_eq!(uploads.put_part(id, "k", part(1, b"a")), Err(Error::NoSuchUpload));
        uploads.begin(id, "k".into(), (Wall(5), Instant(0)), Attrs::new()).unwrap();
        for (number, bytes) in [(2, &b"bb"[..]), (1, b"a"), (2, b"ccc"), (3, b"d")] {
            uploads.put_part(id, "k", part(number, bytes)).unwrap();
        }
        assert_eq!(
            uploads.put_part(id, "other", part(1, b"a")),
            Err(Error::NoSuchUpload),
            "the upload is of another key"
        );
        let chosen = |numbers: &[(u16, usize)]| -> Vec<(u16, String)> {
            numbers.iter().map(|(number, len)| (*number, format!("\"e{number}-{len}\""))).collect()
        };
        let (size, body) = uploads.join(id, "k", &chosen(&[(1, 1), (2, 3)])).unwrap();
        let Body::Spans(spans) = body else { panic!("{body:?}") };
        assert_eq!((size, spans.iter().map(|span| span.size).collect::<Vec<_>>()), (4, vec![1, 3]));
        assert_eq!(
            uploads.join(id, "k", &chosen(&[(2, 2)])).unwrap_err(),
            Error::InvalidPart { number: 2 },
            "replaced"
        );
        assert_eq!(uploads.parts(id, "k", 1, 1).unwrap().iter().map(|part| part.number).collect::<Vec<_>>(), [2]);
        assert_eq!(uploads.all("").len(), 1);
        assert!(uploads.all("x").is_empty());
        uploads.end(id, "k").unwrap();
        assert_eq!(uploads.get(id, "k").unwrap_err(), Error::NoSuchUpload);
        uploads.begin(id, "k".into(), (Wall(5), Instant(0)), Attrs::new()).unwrap();
        let soon = Instant(0) + WRITE_MAX;
        uploads.expire(Instant(soon.0 - 1));
        assert!(uploads.get(id, "k").is_ok());
        uploads.expire(soon);
        assert_eq!(uploads.get(id, "k").unwrap_err(), Error::NoSuchUpload, "its parts may be collected by now");
    }
}
