//! Taking an object's bytes: inline, into a pack, or into segments of its own, as its size says.

use std::collections::VecDeque;
use std::sync::Arc;

use base::VolumeId;
use base::limits::{INLINE_BYTES_MAX, PACK_OBJECT_BYTES_MAX, SEGMENT_BYTES_MAX};
use bytes::Bytes;
use kit::header::{End, Part};
use namespace::{Body, SegmentRef, UploadId};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Error;
use crate::access::{Access, Sealer};
use crate::core::Core;
use crate::pack::Item;
use crate::registry::Registry;
use crate::run::Held;
use crate::segment::{BATCHES_MAX, Belonging, Belongs, Ended, SegmentWriter};

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
    access: Access,
    name: String,
    part: Option<Part>,
    never_inline: bool,
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
        access: Access,
    ) -> Self {
        let (part, size, large, broken, never_inline) = (None, 0, None, false, false);
        let (name, small, tail) = match &access {
            Access::Volume => Default::default(),
            Access::File { path, .. } => (path.clone(), Vec::new(), Vec::new()),
        };
        Self { core, registry, packs, volume, len, access, name, part, never_inline, size, small, tail, large, broken }
    }

    /// The key that the bytes are written for: kept, sealed, beside them, so that they can be named
    /// when all metadata is lost. With a file's own key it is the file's path, whatever is said here.
    pub fn named(mut self, key: &str) -> Self {
        if matches!(self.access, Access::Volume) {
            key.clone_into(&mut self.name);
        }
        self
    }

    /// The bytes are a part of an upload, number 1 to 10,000. Kept beside them too: the parts of an upload are put together
    /// again when all metadata is lost. So they are never inline, however few.
    pub fn part(mut self, upload: UploadId, number: u16) -> Self {
        self.part = Some(Part { upload: upload.0, number });
        self
    }

    /// However few the bytes are, they go into pieces, and not into the metadata: then pieces alone give them back.
    pub fn never_inline(mut self) -> Self {
        self.never_inline = true;
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
            None => {
                let sealer = self.access.sealer(&self.core, self.volume)?;
                let target = Belonging { path: self.name.clone(), part: self.part };
                self.large.insert(Large::new(self.core.clone(), self.volume, self.len, sealer, target))
            }
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
            None if size == 0 || (size <= INLINE_BYTES_MAX as u64 && self.part.is_none() && !self.never_inline) => {
                Body::Inline(self.access.seal_inline(&self.core, self.small.concat()))
            }
            None => self.pack().await?,
        };
        Ok(Content { size, body })
    }

    async fn pack(self) -> Result<Body, Error> {
        let (reply, answer) = oneshot::channel();
        let sealer = self.access.sealer(&self.core, self.volume)?;
        let of = Belonging { path: self.name, part: self.part };
        let item = Item { parts: self.small, len: self.size as usize, of, sealer, reply };
        self.packs.send(item).await.map_err(|_| Error::Cut(env::Cut))?;
        answer.await.map_err(|_| Error::Cut(env::Cut))?
    }
}

/// An object of segments.
struct Large {
    core: Arc<Core>,
    volume: VolumeId,
    len: Option<u64>,
    sealer: Sealer,
    of: Belonging,
    write: [u8; 16],
    permits: Arc<Semaphore>,
    /// Bytes taken.
    size: u64,
    now: Option<SegmentWriter>,
    ended: VecDeque<Ended>,
    done: Vec<(Held, SegmentRef)>,
}

impl Large {
    fn new(core: Arc<Core>, volume: VolumeId, len: Option<u64>, sealer: Sealer, of: Belonging) -> Self {
        let write = core.env.random();
        let permits = Arc::new(Semaphore::new(BATCHES_MAX));
        let (size, now, ended, done) = (0, None, VecDeque::new(), Vec::new());
        Self { core, volume, len, sealer, of, write, permits, size, now, ended, done }
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            // Only now it is known that more follows: its header says so.
            if self.now.as_ref().is_some_and(|now| now.room() == 0) {
                self.end(End::Later).await?;
            }
            if self.now.is_none() {
                self.now = Some(self.begin().await?);
            }
            let Some(now) = &mut self.now else { break };
            let before = now.room();
            now.write(&mut bytes).await?;
            self.size += before - now.room();
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<SegmentWriter, Error> {
        let target = self.core.target(self.volume).await?;
        // A length that was told wrong must not stop the bytes: the caller judges them.
        let rest = self.len.map(|len| len.saturating_sub(self.size)).filter(|rest| *rest > 0);
        let (folder, write, offset) = (self.sealer.folder.clone(), self.write, self.size);
        let belongs = Belongs { folder, write, offset, of: self.of.clone() };
        let len_max = rest.unwrap_or(SEGMENT_BYTES_MAX);
        let (core, permits, wrap) = (self.core.clone(), self.permits.clone(), &self.sealer.wrap);
        let segment = SegmentWriter::begin(core, self.volume, target, len_max, permits, wrap, belongs)?;
        Ok(segment.after(self.ended.back()))
    }

    async fn end(&mut self, end: End) -> Result<(), Error> {
        if let Some(now) = self.now.take() {
            self.ended.push_back(now.end(end).await?);
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
        self.end(End::Here).await?;
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
