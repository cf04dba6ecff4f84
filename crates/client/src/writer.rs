//! Taking an object's bytes: inline, into a pack, or into segments of its own, as its size says.

use std::collections::VecDeque;
use std::sync::Arc;

use base::VolumeId;
use base::limits::{INLINE_BYTES_MAX, PACK_OBJECT_BYTES_MAX, SEGMENT_BYTES_MAX};
use bytes::Bytes;
use namespace::{Body, SegmentRef};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Error;
use crate::core::Core;
use crate::pack::Item;
use crate::registry::Registry;
use crate::run::Held;
use crate::segment::{BATCHES_MAX, Belongs, Ended, SegmentWriter};

/// Segments of one writer that wait to be durable while the next one streams.
const ENDED_MAX: usize = 2;

/// Writes below this are copied together while an object is small.
const TINY_BYTES_MAX: usize = 2048;

/// Bytes that were written: durable, to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// How many.
    pub size: u64,
    /// Where.
    pub body: Body,
}

/// Takes the bytes of one object. Dropping it gives everything back.
pub struct Writer {
    core: Arc<Core>,
    registry: Arc<Registry>,
    packs: mpsc::Sender<Item>,
    volume: VolumeId,
    len: Option<u64>,
    name: String,
    size: u64,
    small: Vec<Bytes>,
    /// Bytes of tiny writes, gathered.
    tail: Vec<u8>,
    large: Option<Large>,
    /// A write failed or was dropped: nobody knows which bytes are there.
    broken: bool,
}

impl Writer {
    pub(crate) fn new(
        core: Arc<Core>,
        registry: Arc<Registry>,
        packs: mpsc::Sender<Item>,
        volume: VolumeId,
        len: Option<u64>,
    ) -> Self {
        let (name, small, tail) = Default::default();
        Self { core, registry, packs, volume, len, name, size: 0, small, tail, large: None, broken: false }
    }

    /// The key that the bytes are written for: kept, sealed, beside them, so that they can be named
    /// when all metadata is lost.
    pub fn named(mut self, key: &str) -> Self {
        key.clone_into(&mut self.name);
        self
    }

    /// Takes the next bytes; waits while too many are under way. After an error, or if this future
    /// is dropped before its end, the writer is of no use any more.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.check()?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.broken = true;
        self.take(bytes).await?;
        self.broken = false;
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        let what = "an earlier write of this object failed or was cut short: begin again";
        if self.broken { Err(Error::Invalid { what }) } else { Ok(()) }
    }

    /// Keeps bytes of a small object; tiny ones are copied together, so that they don't each hold
    /// the buffer that they came in.
    fn keep(&mut self, bytes: Bytes) {
        if bytes.len() < TINY_BYTES_MAX {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        self.end_tail();
        self.small.push(bytes);
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.small.push(std::mem::take(&mut self.tail).into());
        }
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        let big = self.size.max(self.len.unwrap_or(0)) > PACK_OBJECT_BYTES_MAX as u64;
        if self.large.is_none() && !big {
            self.keep(bytes);
            return Ok(());
        }
        self.end_tail();
        let large = match &mut self.large {
            Some(large) => large,
            None => self.large.insert(Large::new(self.core.clone(), self.volume, self.len, self.name.clone())),
        };
        for part in std::mem::take(&mut self.small) {
            large.write(part).await?;
        }
        large.write(bytes).await
    }

    /// Everything is durable on enough drives.
    pub async fn finish(mut self) -> Result<Content, Error> {
        self.check()?;
        self.end_tail();
        let size = self.size;
        let body = match self.large.take() {
            Some(large) => Body::Segments(large.finish(&self.registry).await?),
            None if size <= INLINE_BYTES_MAX as u64 => Body::Inline(self.small.concat()),
            None => self.pack().await?,
        };
        Ok(Content { size, body })
    }

    async fn pack(self) -> Result<Body, Error> {
        let (reply, answer) = oneshot::channel();
        let item = Item { parts: self.small, len: self.size as usize, name: self.name, reply };
        self.packs.send(item).await.map_err(|_| Error::Cut(env::Cut))?;
        answer.await.map_err(|_| Error::Cut(env::Cut))?
    }
}

/// An object of segments.
struct Large {
    core: Arc<Core>,
    volume: VolumeId,
    len: Option<u64>,
    name: String,
    write: [u8; 16],
    permits: Arc<Semaphore>,
    /// Bytes taken.
    size: u64,
    now: Option<SegmentWriter>,
    ended: VecDeque<Ended>,
    done: Vec<(Held, SegmentRef)>,
}

impl Large {
    fn new(core: Arc<Core>, volume: VolumeId, len: Option<u64>, name: String) -> Self {
        let write = core.env.random();
        let permits = Arc::new(Semaphore::new(BATCHES_MAX));
        Self { core, volume, len, name, write, permits, size: 0, now: None, ended: VecDeque::new(), done: Vec::new() }
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.now.is_none() {
                self.now = Some(self.begin().await?);
            }
            let Some(now) = &mut self.now else { break };
            let before = now.room();
            now.write(&mut bytes).await?;
            self.size += before - now.room();
            if now.room() == 0 {
                self.end().await?;
            }
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<SegmentWriter, Error> {
        let target = self.core.target(self.volume).await?;
        // A length that was told wrong must not stop the bytes: the caller judges them.
        let rest = self.len.map(|len| len.saturating_sub(self.size)).filter(|rest| *rest > 0);
        let belongs = Belongs { write: self.write, name: self.name.clone(), offset: self.size };
        let len_max = rest.unwrap_or(SEGMENT_BYTES_MAX);
        let segment =
            SegmentWriter::begin(self.core.clone(), self.volume, target, len_max, self.permits.clone(), belongs)?;
        Ok(segment.after(self.ended.back()))
    }

    async fn end(&mut self) -> Result<(), Error> {
        if let Some(now) = self.now.take() {
            self.ended.push_back(now.end().await?);
        }
        while self.ended.len() >= ENDED_MAX {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the oldest segment.
    async fn settle(&mut self) -> Result<(), Error> {
        if let Some(ended) = self.ended.front_mut() {
            let segment = ended.settle().await?;
            if let Some(ended) = self.ended.pop_front() {
                self.done.push((ended.run, segment));
            }
        }
        Ok(())
    }

    async fn finish(mut self, registry: &Registry) -> Result<Vec<SegmentRef>, Error> {
        self.end().await?;
        while !self.ended.is_empty() {
            self.settle().await?;
        }
        let now = self.core.env.clock.now();
        let done = std::mem::take(&mut self.done);
        Ok(done
            .into_iter()
            .map(|(held, segment)| {
                registry.add(held, 1, now);
                segment
            })
            .collect())
    }
}
