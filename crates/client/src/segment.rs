//! Writing one segment as it streams in: filled, sealed and coded, and sent, all at the same time.
//!
//! caller → [`Batch`] → *coder* (off the reactor) → one task per piece → its drive. What is under
//! way is bounded by permits: one per batch, held until every drive has taken its part or was cut.

use std::sync::Arc;
use std::time::Duration;

use base::VolumeId;
use base::limits::SEGMENT_BYTES_MAX;
use bytes::Bytes;
use codec::Versioned;
use crypt::{SegmentKey, VolumeKey};
use erasure::Code;
use kit::header::{End, Origin, Part};
use namespace::SegmentRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::Error;
use crate::access::Folder;
use crate::batch::{Batch, Roots, Seal};
use crate::core::{Core, WRITE_MAX};
use crate::header::PieceHeader;
use crate::layout::Layout;
use crate::map::Target;
use crate::run::{Held, LOOK_EACH, Run};

/// Batches of one writer that are under way at a time: one is filled, one coded, one written.
pub(crate) const BATCHES_MAX: usize = 3;
/// If no drive's slowness may stop the others for longer than this, it is cut.
const STALL_MAX: Duration = Duration::from_secs(3);

type Permit = Arc<OwnedSemaphorePermit>;

/// What the coder gets.
struct Work {
    batch: Batch,
    permit: Permit,
    /// This is the last one: the segment's length, and whether more segments follow.
    end: Option<(u64, End)>,
}

/// What a piece's task gets.
enum ToPiece {
    Cells(Bytes, #[allow(dead_code, reason = "released when the drive took the bytes")] Permit),
    Finish(Bytes),
}

/// A segment being written.
pub(crate) struct SegmentWriter {
    pub run: Held,
    core: Arc<Core>,
    permits: Arc<Semaphore>,
    batch: Option<(Batch, Permit)>,
    to_coder: mpsc::Sender<Work>,
    result: oneshot::Receiver<Result<SegmentRef, Error>>,
    k: usize,
    len: u64,
    len_max: u64,
    sent: u64,
    /// The one before, which shares the permits, and its batches.
    before: Option<(Arc<Run>, u64)>,
}

/// A segment whose bytes are all on their way.
pub(crate) struct Ended {
    pub run: Held,
    pub sent: u64,
    result: oneshot::Receiver<Result<SegmentRef, Error>>,
}

impl Ended {
    /// Waits until enough pieces are durable.
    pub async fn settle(&mut self) -> Result<SegmentRef, Error> {
        let coded = (&mut self.result).await;
        match coded {
            Ok(segment) => {
                let segment = segment?;
                self.run.settle(WRITE_MAX).await?;
                Ok(segment)
            }
            Err(_) => Err(Error::Cut(env::Cut)),
        }
    }
}

/// What bytes are written for.
#[derive(Clone, Debug)]
pub(crate) struct Belonging {
    pub path: String,
    pub part: Option<Part>,
}

/// What the segment belongs to, for its pieces' headers, and what seals that.
pub(crate) struct Belongs {
    pub folder: Arc<Folder>,
    pub write: [u8; 16],
    pub offset: u64,
    pub of: Belonging,
}

impl SegmentWriter {
    /// Begins a segment of at most `len_max` bytes.
    pub fn begin(
        core: Arc<Core>,
        volume: VolumeId,
        target: Target,
        len_max: u64,
        permits: Arc<Semaphore>,
        wrap: &VolumeKey,
        belongs: Belongs,
    ) -> Result<Self, Error> {
        let len_max = len_max.min(SEGMENT_BYTES_MAX);
        let (k, m) = (target.k(), target.m());
        let code = Arc::new(Code::new(k.into(), m.into())?);
        let segment = core.new_segment();
        let key = Arc::new(SegmentKey::new(core.env.random()));
        let header = PieceHeader {
            volume,
            segment,
            index: 0,
            k,
            m,
            pack: false,
            len: 0,
            written: core.env.clock.wall(),
            policy: target.policy.id,
            group: target.group.group,
            wrapped_key: wrap.wrap(&key, segment, 0),
            roots: Vec::new(),
            fragment: Vec::new(),
            owner: None,
        };
        let run = Run::begin(core.clone(), volume, segment, target);
        run.check()?;
        let pieces = (0..run.target.n()).map(|index| piece(&run, index, Layout::sealed(k, len_max))).collect();
        let (to_coder, works) = mpsc::channel(BATCHES_MAX);
        let (done, result) = oneshot::channel();
        let coder = Coder { core: core.clone(), code, seal: Seal { key, volume, segment }, header, belongs, pieces };
        core.env.spawn("coder", async move {
            // Nobody waits any more if the writer was dropped.
            let _ = done.send(coder.run(works).await);
        });
        Ok(Self {
            run,
            core,
            permits,
            batch: None,
            to_coder,
            result,
            k: k.into(),
            len: 0,
            len_max,
            sent: 0,
            before: None,
        })
    }

    /// Shares its permits with the segment before it.
    pub fn after(mut self, before: Option<&Ended>) -> Self {
        self.before = before.map(|ended| (ended.run.run().clone(), ended.sent));
        self
    }

    /// Bytes that still fit.
    pub fn room(&self) -> u64 {
        self.len_max - self.len
    }

    /// Takes bytes from the front, as many as fit.
    pub async fn write(&mut self, bytes: &mut Bytes) -> Result<(), Error> {
        self.run.check()?;
        while !bytes.is_empty() && self.room() > 0 {
            let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
            let (batch, _) = self.batch().await?;
            let took = batch.fill(&bytes[..bytes.len().min(room)]);
            let full = batch.room() == 0;
            bytes::Buf::advance(bytes, took);
            self.len += took as u64;
            if full && self.room() > 0 {
                self.send(None).await?;
            }
        }
        Ok(())
    }

    async fn batch(&mut self) -> Result<&mut (Batch, Permit), Error> {
        if self.batch.is_none() {
            let permit = self.permit().await?;
            self.batch = Some((Batch::new(self.k, self.room()), permit));
        }
        self.batch.as_mut().ok_or(Error::Invalid { what: "a batch that was begun is not there" })
    }

    async fn permit(&mut self) -> Result<Permit, Error> {
        let clock = &self.core.env.clock;
        let began = clock.now();
        loop {
            let permit = self.permits.clone().acquire_owned();
            if let Some(permit) = self.core.env.timeout(LOOK_EACH, permit).await {
                return permit.map(Arc::new).map_err(|_| Error::Cut(env::Cut));
            }
            let stalled = clock.now().since(began);
            let before = self.before.as_ref().map(|(run, sent)| (run, *sent));
            for (run, sent) in before.into_iter().chain([(self.run.run(), self.sent)]) {
                run.cut_gone();
                if stalled >= STALL_MAX {
                    run.cut_laggards(sent);
                }
                if stalled >= WRITE_MAX {
                    // So many drives hang that there won't be enough: better told than waited for.
                    run.cut_all();
                }
                run.check()?;
            }
        }
    }

    async fn send(&mut self, end: Option<(u64, End)>) -> Result<(), Error> {
        self.batch().await?;
        if let Some((batch, permit)) = self.batch.take() {
            self.sent += 1;
            let work = Work { batch, permit, end };
            self.to_coder.send(work).await.map_err(|_| Error::Cut(env::Cut))?;
        }
        Ok(())
    }

    /// All bytes are there; `end` says whether they are the object's last.
    pub async fn end(mut self, end: End) -> Result<Ended, Error> {
        self.run.check()?;
        let len = self.len;
        self.send(Some((len, end))).await?;
        Ok(Ended { run: self.run, sent: self.sent, result: self.result })
    }
}

struct Coder {
    core: Arc<Core>,
    code: Arc<Code>,
    seal: Seal,
    header: PieceHeader,
    belongs: Belongs,
    pieces: Vec<mpsc::Sender<ToPiece>>,
}

impl Coder {
    async fn run(mut self, mut works: mpsc::Receiver<Work>) -> Result<SegmentRef, Error> {
        let mut roots = Roots::new(&self.code);
        let mut stripe = 0;
        while let Some(Work { batch, permit, end }) = works.recv().await {
            let (code, seal) = (self.code.clone(), self.seal.clone());
            let first = stripe;
            let coded = self.core.env.blocking(move || {
                let cells = batch.finish(&seal, first, &code, &mut roots);
                (cells, roots)
            });
            let cells;
            (cells, roots) = coded.await?;
            stripe += crate::batch::stripes(self.code.k()) as u64;
            for (piece, cells) in self.pieces.iter().zip(cells?) {
                // A piece that is lost takes nothing more; the channel has room for every permit.
                let _ = piece.try_send(ToPiece::Cells(cells, permit.clone()));
            }
            if let Some((len, end)) = end {
                return Ok(self.end(len, end, roots.finish()));
            }
        }
        Err(Error::Cut(env::Cut))
    }

    fn end(&mut self, len: u64, end: End, roots: Vec<[u8; 32]>) -> SegmentRef {
        self.header.len = len;
        self.header.roots = roots;
        let Belongs { folder, write, offset, of: Belonging { path, part } } = &self.belongs;
        let origin = Origin::Whole { write: *write, path: path.clone(), offset: *offset, end, part: *part };
        self.header.seal(folder, self.core.env.random(), &origin);
        for (index, piece) in self.pieces.iter().enumerate() {
            let header = Bytes::from(self.header.at(index as u8).encode());
            let _ = piece.try_send(ToPiece::Finish(header));
        }
        SegmentRef {
            id: self.header.segment,
            policy: self.header.policy,
            group: self.header.group,
            k: self.header.k,
            m: self.header.m,
            len,
            root: self.header.root(),
            wrapped_key: self.header.wrapped_key,
        }
    }
}

/// Starts the task that brings one piece to its drive.
fn piece(run: &Arc<Run>, index: usize, layout: Layout) -> mpsc::Sender<ToPiece> {
    let (send, mut parts) = mpsc::channel(BATCHES_MAX + 1);
    let Some(holder) = run.holder(index) else {
        run.lose(index);
        return send;
    };
    let (id, this) = (run.piece(index), run.clone());
    run.bring(index, async move {
        let mut writer = holder.create(id, layout.stored_bytes_max(), layout.piece_bytes()).await?;
        while let Some(part) = parts.recv().await {
            match part {
                ToPiece::Cells(cells, permit) => {
                    if !cells.is_empty() {
                        writer.write(vec![cells]).await?;
                    }
                    this.took(index);
                    drop(permit);
                }
                ToPiece::Finish(header) => {
                    this.settling(index);
                    return writer.finish(header).await;
                }
            }
        }
        // The writer was dropped: whoever did that aborts the run, which ends this task.
        std::future::pending().await
    });
    send
}
