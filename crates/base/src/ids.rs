//! Ids are types, never bare integers, so that a drive can't be passed where a node is meant.

use std::fmt;

/// Sixteen bytes without meaning, shown as 32 hex digits.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The id whose bytes are `slice`, if it has 16 of them.
            pub fn from_slice(slice: &[u8]) -> Option<Self> {
                slice.try_into().ok().map(Self)
            }

            /// The id written as 32 hex digits.
            pub fn parse(text: &str) -> Option<Self> {
                let mut bytes = [0; 16];
                crate::ids::unhex(text, &mut bytes).then_some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

random_id!(/// All machines under one root key.
    ClusterId);
random_id!(/// One `abide` process with one identity. It comes from the node's first public key and stays when
    /// the key is replaced.
    NodeId);
random_id!(/// One directory or disk on a node that holds pieces.
    DriveId);
random_id!(/// An ordered part of an object's bytes: the unit that is encrypted, coded, placed, repaired.
    SegmentId);
number_id!(/// One namespace: an S3 bucket and a mountable file tree are the same volume.
    VolumeId, u32);
number_id!(/// A durability policy: how segments are coded and spread.
    PolicyId, u16);
number_id!(/// A placement group of one policy: an ordered tuple of drives.
    GroupId, u32);
number_id!(/// A position in a journal, counted from 1; 0 is before everything.
    Seq, u64);
number_id!(/// Version of a cluster map, or of a shard's ownership; stale ones are fenced.
    Epoch, u64);

/// Who owns buckets and access keys; S3's canonical user id, 1 to 64 printable characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub String);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All cells of one index of one segment: what one drive holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceId {
    /// The segment that the piece belongs to.
    pub segment: SegmentId,
    /// Which of its k + m pieces it is, from 0.
    pub index: u8,
}

impl PieceId {
    /// Bytes of [`PieceId::to_bytes`].
    pub const SIZE: usize = 17;

    /// The segment id, then the index.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.segment.0);
        bytes[16] = self.index;
        bytes
    }

    /// The reverse of [`PieceId::to_bytes`].
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let mut segment = [0; 16];
        segment.copy_from_slice(&bytes[..16]);
        Self { segment: SegmentId(segment), index: bytes[16] }
    }
}

impl fmt::Display for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.segment, self.index)
    }
}

impl fmt::Debug for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceId({self})")
    }
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Not by formatting: signatures are compared as hex with every request.
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    text
}

/// Fills `out` from exactly `2 * out.len()` hex digits; false if `text` is anything else.
pub fn unhex(text: &str, out: &mut [u8]) -> bool {
    let text = text.as_bytes();
    text.len() == out.len() * 2
        && out.iter_mut().zip(text.chunks_exact(2)).all(|(byte, pair)| {
            let digit = |c: u8| (c as char).to_digit(16);
            match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = (high * 16 + low) as u8;
                    true
                }
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_from_what_they_show() {
        let id = DriveId([0xa5; 16]);
        assert_eq!(DriveId::parse(&id.to_string()), Some(id));
        assert_eq!(DriveId::parse("a5"), None);
        assert_eq!(DriveId::parse(&"zz".repeat(16)), None);
        let piece = PieceId { segment: SegmentId([7; 16]), index: 5 };
        assert_eq!(PieceId::from_bytes(piece.to_bytes()), piece);
    }
}
