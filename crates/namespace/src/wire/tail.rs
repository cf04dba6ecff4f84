//! Part of a volume's journal, as bytes.

use base::Seq;
use codec::{Error as Codec, Reader, Versioned, Writer};

use super::{bounded, read_many, write_many};
use crate::journal::Event;

/// Bytes of an event at the most: its key, and what little else it says.
const EVENT_BYTES_MAX: usize = 128 << 10;
/// Bytes of the shortest event, with its place and length.
const EVENT_BYTES_MIN: usize = 8 + 4 + 5 + 13;

/// What a shard's journal has of one volume behind a place of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// All events up to `next`, in order; several of one change have one place.
    Events {
        /// Each with its place.
        events: Vec<(Seq, Event)>,
        /// Where to go on.
        next: Seq,
    },
    /// The journal doesn't tell what came after that place.
    Gone {
        /// It tells what came after this one.
        oldest: Seq,
        /// And ends here.
        newest: Seq,
    },
}

impl Versioned for Tail {
    const NAME: &'static str = "part of a journal";
    const MARK: [u8; 4] = *b"nsTl";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        match self {
            Tail::Events { events, next } => {
                write_many(to.u8(0).u64(next.0), events, |to, (seq, event)| {
                    to.u64(seq.0).bytes(&event.encode());
                });
            }
            Tail::Gone { oldest, newest } => _ = to.u8(1).u64(oldest.0).u64(newest.0),
        }
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, Codec> {
        bounded(from, Self::NAME)?;
        match from.u8("part of a journal")? {
            0 => {
                let (next, mut last) = (Seq(from.u64("next")?), Seq(0));
                let events = read_many(from, "events", EVENT_BYTES_MIN, |from| {
                    let seq = Seq(from.u64("place")?);
                    // In order, and none beyond where it goes on: else some would be told twice, or never.
                    if seq < last || seq > next {
                        return Err(Codec::Value { what: "place", value: seq.0 });
                    }
                    last = seq;
                    Ok((seq, Event::decode(from.bytes("event", EVENT_BYTES_MAX)?)?))
                })?;
                Ok(Tail::Events { events, next })
            }
            1 => Ok(Tail::Gone { oldest: Seq(from.u64("oldest")?), newest: Seq(from.u64("newest")?) }),
            value => Err(Codec::Value { what: "part of a journal", value: value.into() }),
        }
    }
}
