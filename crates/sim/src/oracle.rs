//! What a store must and may hold, known without asking it.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::Chance;

/// An object's content: every write has its own serial, so no two are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    /// Which write it was.
    pub serial: u64,
    /// Its bytes.
    pub len: usize,
}

impl Value {
    /// The bytes themselves.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        Chance::new(self.serial.wrapping_mul(0x2545_f491_4f6c_dd1d)).fill(&mut bytes);
        bytes
    }
}

/// What is known of one key. `None` stands for "no such object".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    may: BTreeSet<Option<Value>>,
}

impl Default for Truth {
    fn default() -> Self {
        Self { may: BTreeSet::from([None]) }
    }
}

impl Truth {
    /// The only thing that can be there, if there is only one.
    pub fn certain(&self) -> Option<Option<Value>> {
        let mut all = self.may.iter();
        match (all.next(), all.next()) {
            (Some(one), None) => Some(*one),
            _ => None,
        }
    }

    /// A change was acknowledged.
    pub fn is(&mut self, value: Option<Value>) {
        self.may = BTreeSet::from([value]);
    }

    /// A change was asked for, and nobody knows what became of it. It may still come about later:
    /// nothing else may be done to the key.
    pub fn may_be(&mut self, value: Option<Value>) {
        self.may.insert(value);
    }

    /// Whether these bytes, or their absence, can be there; which of the values they are.
    pub fn explain(&self, seen: Option<&[u8]>) -> Option<Option<Value>> {
        self.may.iter().copied().find(|value| match (value, seen) {
            (None, None) => true,
            (Some(value), Some(bytes)) => value.len == bytes.len() && value.bytes() == bytes,
            _ => false,
        })
    }

    /// Whether an object of this length can be there.
    pub fn allows_len(&self, len: Option<usize>) -> bool {
        self.may.iter().any(|value| value.map(|value| value.len) == len)
    }
}

/// All keys of one bucket.
pub type Truths = BTreeMap<String, Truth>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_change_may_show_and_an_acknowledged_one_must() {
        let (one, two) = (Value { serial: 1, len: 9 }, Value { serial: 2, len: 9 });
        let mut truth = Truth::default();
        assert_eq!(truth.explain(None), Some(None));
        assert!(truth.explain(Some(&one.bytes())).is_none());
        truth.is(Some(one));
        assert!(truth.explain(None).is_none() && truth.explain(Some(&two.bytes())).is_none());
        truth.may_be(Some(two));
        assert_eq!(
            (truth.explain(Some(&one.bytes())), truth.explain(Some(&two.bytes()))),
            (Some(Some(one)), Some(Some(two)))
        );
        assert!(truth.certain().is_none() && truth.allows_len(Some(9)) && !truth.allows_len(None));
    }
}
