//! Rows of an ordered map: how rules (engines) and stores talk, without either knowing the other.

use std::fmt;
use std::ops::Range;

/// One row's key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A change to an ordered map, all or nothing, with the logical events that it stands for.
/// Within one batch `range_dels` come first, then `dels`, then `puts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows to write; a later one of the same key wins.
    pub puts: Vec<Row>,
    /// Keys to remove; removing what isn't there is no error.
    pub dels: Vec<Vec<u8>>,
    /// Key ranges, end exclusive, to remove.
    pub range_dels: Vec<Range<Vec<u8>>>,
    /// What readers of the journal are told, in order; opaque here.
    pub events: Vec<Vec<u8>>,
}

impl Batch {
    /// Whether applying it would change and tell nothing.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.dels.is_empty() && self.range_dels.is_empty() && self.events.is_empty()
    }

    /// Adds a row to write.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.puts.push((key.into(), value.into()));
        self
    }

    /// Adds a key to remove.
    pub fn del(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.dels.push(key.into());
        self
    }

    /// Adds an event for the journal's readers.
    pub fn event(&mut self, event: impl Into<Vec<u8>>) -> &mut Self {
        self.events.push(event.into());
        self
    }

    /// Bytes of keys, values and events.
    pub fn size(&self) -> usize {
        let puts: usize = self.puts.iter().map(|(key, value)| key.len() + value.len()).sum();
        let dels: usize = self.dels.iter().map(Vec::len).sum();
        let ranges: usize = self.range_dels.iter().map(|range| range.start.len() + range.end.len()).sum();
        puts + dels + ranges + self.events.iter().map(Vec::len).sum::<usize>()
    }
}

/// A reader's error: the store behind a [`View`] failed. Carries the store's own text and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewError {
    /// What the caller can do about it.
    pub kind: crate::Kind,
    /// What failed, why, what to do.
    pub text: String,
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ViewError {}

impl crate::Kinded for ViewError {
    fn kind(&self) -> crate::Kind {
        self.kind
    }
}

/// A consistent cut of an ordered map, keys in byte order.
pub trait View {
    /// The row's value.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError>;

    /// At most `limit` rows with `range.start <= key < range.end`, ascending, or descending from
    /// the end if `reverse`.
    fn range(&self, range: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError>;
}

/// The first key after every key that begins with `prefix`; `None` if there is none such
/// (`prefix` is empty or all 0xff).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// A map in memory: the simplest [`View`], for tests and as the oracle of every other one.
impl View for std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.get(key).cloned())
    }

    fn range(&self, range: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let rows = std::collections::BTreeMap::range::<[u8], _>(
            self,
            (std::ops::Bound::Included(range.start), std::ops::Bound::Excluded(range.end)),
        );
        let own = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(if reverse { rows.rev().take(limit).map(own).collect() } else { rows.take(limit).map(own).collect() })
    }
}

/// What applying batches to a map in memory means; stores must agree with it.
pub fn apply(map: &mut std::collections::BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for range in &batch.range_dels {
        if range.start < range.end {
            let keys: Vec<_> = map.range(range.clone()).map(|(key, _)| key.clone()).collect();
            for key in keys {
                map.remove(&key);
            }
        }
    }
    for key in &batch.dels {
        map.remove(key);
    }
    for (key, value) in &batch.puts {
        map.insert(key.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_follows_every_key_with_the_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
