//! Versioned encodings to the byte: little-endian, fixed width, checked on the way in.
//!
//! [`Writer`] and [`Reader`] are the two ends; [`Versioned`] is a type with a mark and a version,
//! so that every released form stays readable. [`crc64`] is the checksum of every record and hop.
//! The crate doesn't know what the types mean. Layouts are written down in docs/formats.

use base::{Kind, Kinded};

/// Bytes that are not what they should be. Input from disk or network ends here, never in a panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the value does.
    #[error("decode {what}: {need} bytes wanted, {have} left")]
    Short {
        /// The field.
        what: &'static str,
        /// Bytes that the field needs.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// The value is longer than its type allows.
    #[error("decode {what}: {len} bytes are more than the limit of {max}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// Its length as written.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Another type's bytes, or garbage.
    #[error("decode {what}: mark {found:02x?} is not {wanted:02x?}")]
    Mark {
        /// The type.
        what: &'static str,
        /// The mark that was found.
        found: [u8; 4],
        /// The mark that belongs there.
        wanted: [u8; 4],
    },
    /// Written by a newer release.
    #[error("decode {what}: version {found} is newer than {known}, the newest this program reads; update it")]
    Version {
        /// The type.
        what: &'static str,
        /// The version that was found.
        found: u8,
        /// The newest known one.
        known: u8,
    },
    /// A value that its type doesn't have.
    #[error("decode {what}: {value} is not a valid value")]
    Value {
        /// The field.
        what: &'static str,
        /// The number found.
        value: u64,
    },
    /// Text that is not UTF-8.
    #[error("decode {what}: not UTF-8")]
    Utf8 {
        /// The field.
        what: &'static str,
    },
    /// Bytes are left over.
    #[error("decode {what}: {left} bytes too many")]
    Trailing {
        /// The type.
        what: &'static str,
        /// How many.
        left: usize,
    },
    /// The checksum doesn't match.
    #[error("decode {what}: checksum mismatch")]
    Checksum {
        /// The type.
        what: &'static str,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Version { .. } => Kind::Invalid,
            Error::Short { .. }
            | Error::TooLong { .. }
            | Error::Mark { .. }
            | Error::Value { .. }
            | Error::Utf8 { .. }
            | Error::Trailing { .. }
            | Error::Checksum { .. } => Kind::Damaged,
        }
    }
}

/// Appends fields to bytes.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

macro_rules! write_int {
    ($($name:ident $int:ty),*) => {$(
        /// Appends the number, little-endian.
        pub fn $name(&mut self, value: $int) -> &mut Self {
            self.bytes.extend_from_slice(&value.to_le_bytes());
            self
        }
    )*};
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    write_int!(u8 u8, u16 u16, u32 u32, u64 u64);

    /// Appends the bytes alone: their length must be known to the reader.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a u32 length, then the bytes. They must be shorter than 4 GiB.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u32::try_from(bytes.len()).expect("no field reaches 4 GiB");
        self.u32(len).raw(bytes)
    }

    /// Appends a u32 length, then the text in UTF-8.
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends 0, or 1 and what `write` writes of the value.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                write(self, value);
                self
            }
        }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields from bytes. Each call names the field, for the error.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

macro_rules! read_int {
    ($($name:ident $int:ty),*) => {$(
        /// Takes the little-endian number.
        pub fn $name(&mut self, what: &'static str) -> Result<$int, Error> {
            Ok(<$int>::from_le_bytes(self.array(what)?))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    read_int!(u8 u8, u16 u16, u32 u32, u64 u64);

    /// Takes `len` bytes.
    pub fn raw(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], Error> {
        match self.bytes.split_at_checked(len) {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(head)
            }
            None => Err(Error::Short { what, need: len, have: self.bytes.len() }),
        }
    }

    /// Takes as many bytes as the array has.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(what, N)?);
        Ok(array)
    }

    /// Takes a u32 length of at most `max`, then that many bytes.
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], Error> {
        let len = self.u32(what)? as usize;
        if len > max {
            return Err(Error::TooLong { what, len, max });
        }
        self.raw(what, len)
    }

    /// Takes a text of at most `max` bytes.
    pub fn str(&mut self, what: &'static str, max: usize) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes(what, max)?).map_err(|_| Error::Utf8 { what })
    }

    /// Takes 0, or 1 and what `read` reads.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match self.u8(what)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            value => Err(Error::Value { what, value: value.into() }),
        }
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Succeeds if everything was taken.
    pub fn end(&self, what: &'static str) -> Result<(), Error> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(Error::Trailing { what, left }),
        }
    }
}

/// A type with a stored form: four bytes of mark, one of version, the body.
/// A change of the body's layout raises `VERSION`; `decode_body` goes on reading the older ones,
/// and a fixture of every released version stays in the tests.
pub trait Versioned: Sized {
    /// The type's name in errors.
    const NAME: &'static str;
    /// The first four bytes.
    const MARK: [u8; 4];
    /// The version that is written.
    const VERSION: u8;

    /// Writes the body in the layout of `VERSION`.
    fn encode_body(&self, to: &mut Writer);
    /// Reads a body of `version`, which is at most `VERSION`.
    fn decode_body(version: u8, from: &mut Reader<'_>) -> Result<Self, Error>;

    /// The whole stored form.
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(&Self::MARK).u8(Self::VERSION);
        self.encode_body(&mut writer);
        writer.finish()
    }

    /// Reads the whole stored form; nothing may be left over.
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode_from(&mut reader)?;
        reader.end(Self::NAME)?;
        Ok(value)
    }

    /// Reads the stored form from the front of `reader`.
    fn decode_from(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let found = reader.array(Self::NAME)?;
        if found != Self::MARK {
            return Err(Error::Mark { what: Self::NAME, found, wanted: Self::MARK });
        }
        let version = reader.u8(Self::NAME)?;
        // No form has version 0. Taken for 1, a byte that no signature covers could change unseen.
        if version == 0 {
            return Err(Error::Value { what: Self::NAME, value: 0 });
        }
        if version > Self::VERSION {
            return Err(Error::Version { what: Self::NAME, found: version, known: Self::VERSION });
        }
        Self::decode_body(version, reader)
    }
}

/// CRC-64/NVME of `bytes` (NVM Express NVM Command Set Specification 1.0b, 5.2.1.3.4).
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// CRC-64/NVME over bytes that come in parts.
pub struct Crc64(crc_fast::Digest);

impl Default for Crc64 {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }
}

impl Crc64 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_is_the_nvme_one() {
        // The check value of the CRC catalogue (reveng) for CRC-64/NVME.
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
        let mut parts = Crc64::default();
        parts.update(b"1234");
        parts.update(b"56789");
        assert_eq!(parts.value(), crc64(b"123456789"));
    }

    #[test]
    fn fields_are_read_back_as_written() {
        let mut writer = Writer::new();
        writer
            .u8(1)
            .u16(2)
            .u32(3)
            .u64(4)
            .str("fünf")
            .option(Some(6u16), |w, v| {
                w.u16(v);
            })
            .option(None::<u16>, |w, v| {
                w.u16(v);
            });
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(2));
        assert_eq!(reader.u32("c"), Ok(3));
        assert_eq!(reader.u64("d"), Ok(4));
        assert_eq!(reader.str("e", 10), Ok("fünf"));
        assert_eq!(reader.option("f", |r| r.u16("f")), Ok(Some(6)));
        assert_eq!(reader.option("g", |r| r.u16("g")), Ok(None));
        assert_eq!(reader.end("all"), Ok(()));
    }

    struct Number(u8);

    impl Versioned for Number {
        const NAME: &'static str = "number";
        const MARK: [u8; 4] = *b"numb";
        const VERSION: u8 = 2;

        fn encode_body(&self, to: &mut Writer) {
            to.u8(self.0);
        }

        fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Error> {
            from.u8("number").map(Number)
        }
    }

    #[test]
    fn versions_begin_at_one_and_newer_ones_are_told() {
        assert_eq!(Number(7).encode(), b"numb\x02\x07");
        assert_eq!(Number::decode(b"numb\x01\x07").map(|number| number.0), Ok(7));
        assert_eq!(Number::decode(b"numb\x00\x07").err(), Some(Error::Value { what: "number", value: 0 }));
        assert!(matches!(Number::decode(b"numb\x03\x07"), Err(Error::Version { found: 3, known: 2, .. })));
        assert!(matches!(Number::decode(b"numc\x01\x07"), Err(Error::Mark { .. })));
        assert!(matches!(Number::decode(b"numb\x01\x07\x00"), Err(Error::Trailing { left: 1, .. })));
    }

    #[test]
    fn hostile_lengths_are_errors() {
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert!(matches!(reader.bytes("x", 100), Err(Error::TooLong { .. })));
        let mut reader = Reader::new(&[9, 0, 0, 0, 1]);
        assert!(matches!(reader.bytes("x", 100), Err(Error::Short { .. })));
    }
}
