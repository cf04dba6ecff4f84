//! What a shard's journal tells of one volume behind a place: for those who watch it.

use base::{Seq, VolumeId};
use codec::Versioned;
use metastore::{Error, ShardStore};
use namespace::journal::Event;
use namespace::wire::Tail;

/// Entries of the journal that are looked at for one answer.
const ENTRIES_MAX: usize = 1024;
/// Once an answer has so many events it ends with their entry.
const EVENTS_MAX: usize = 1000;

/// Part of the journal; without a place where it ends. Blocks on the drive: see [`ShardStore::tail`].
pub(super) fn part(store: &dyn ShardStore, volume: VolumeId, after: Option<Seq>) -> Result<Tail, Error> {
    let (_, newest) = store.position();
    let Some(after) = after else { return Ok(Tail::Events { events: Vec::new(), next: newest }) };
    let entries = match store.tail(&store.cursor(after), ENTRIES_MAX) {
        Ok(entries) => entries,
        Err(Error::Trimmed { oldest }) => return Ok(Tail::Gone { oldest, newest }),
        // It lies ahead: of another journal, or of one that ended later.
        Err(Error::ForeignCursor { .. }) => return Ok(Tail::Gone { oldest: newest, newest }),
        Err(error) => return Err(error),
    };
    let (mut events, mut next) = (Vec::new(), after);
    for entry in entries {
        next = entry.seq;
        for bytes in &entry.batch.events {
            let event = Event::decode(bytes);
            let event = event.map_err(|error| Error::Broken { why: format!("an event of the journal: {error}") })?;
            if event.volume == volume {
                events.push((entry.seq, event));
            }
        }
        if events.len() >= EVENTS_MAX {
            break;
        }
    }
    Ok(Tail::Events { events, next })
}

#[cfg(test)]
mod tests;
