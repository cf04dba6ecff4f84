//! Small numbers in few bytes: seven bits a byte, lowest first, the top bit says that more follow (LEB128).

use codec::{Error, Reader, Writer};

/// Appends a number: one byte up to 127, ten at the most.
pub(crate) fn write(to: &mut Writer, mut value: u64) {
    while value >= 0x80 {
        to.u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.u8(value as u8);
}

/// Takes a number. A longer form of a shorter number is refused.
pub(crate) fn read(from: &mut Reader<'_>, what: &'static str) -> Result<u64, Error> {
    let mut value = 0u64;
    for at in 0..10 {
        let byte = from.u8(what)?;
        if at == 9 && byte > 1 || at > 0 && byte == 0 {
            return Err(Error::Value { what, value: byte.into() });
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Error::Value { what, value: u64::MAX })
}

/// The step from one number to another, small if they are near each other in either direction.
pub(crate) fn step(from: u64, to: u64) -> u64 {
    let step = to.wrapping_sub(from) as i64;
    (step << 1 ^ step >> 63) as u64
}

/// The number that a [`step`] leads to.
pub(crate) fn stepped(from: u64, step: u64) -> u64 {
    from.wrapping_add(step >> 1 ^ (step & 1).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_steps_are_read_back() {
        let numbers = [0, 1, 127, 128, 300, 1 << 26, u64::MAX - 1, u64::MAX];
        for a in numbers {
            let mut to = Writer::new();
            write(&mut to, a);
            let bytes = to.finish();
            assert_eq!(read(&mut Reader::new(&bytes), "number"), Ok(a));
            for b in numbers {
                assert_eq!(stepped(a, step(a, b)), b);
            }
        }
        assert_eq!((step(5, 6), step(6, 5), step(5, 5)), (2, 1, 0));
        for wrong in [&[0x80][..], &[0x80, 0], &[0xff; 10], &[0xff; 11]] {
            assert!(read(&mut Reader::new(wrong), "number").is_err());
        }
    }
}
