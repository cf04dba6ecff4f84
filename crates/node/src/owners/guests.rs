//! Answers guests who use an end-to-end volume with its keys: its owner, by the key that the connection shows, or who has a grant.
//!
//! | who comes | asks for | is checked |
//! |---|---|---|
//! | the volume's key | metadata and pieces of the volume | nothing more |
//! | a grant's claim | the same, below its prefix | each path and verb, with the volume's grant key, at each question |
//!
//! Any node answers, and asks who leads the shard as it does for its own gateway. What is answered is sealed: names as they are in rows,
//! contents as they are in pieces. A guest deletes no piece: what no row names any more, the store collects.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::kv::{Row, View, ViewError};
use base::{Kind, Kinded, PieceId, SegmentId, Seq, VolumeId, Wall};
use bytes::Bytes;
use client::POLICY_SETTING;
use client::guest::{
    About, Answer, BYTES_MAX, Drill, METADATA_SERVICE, PIECES_SERVICE, PieceQuestion, Question, Right, WATCH_MS_MAX,
    Wish,
};
use client::header::PieceHeader;
use client::pieces::Ask;
use client::shard::Volumes;
use codec::Versioned;
use crypt::PublicKey;
use env::BoxFuture;
use grant::{Claim, Rules, Verb};
use metastore::remote::{Recorder, Wants};
use namespace::catalog::{self, DriveRow, NodeRow, SealedVolume};
use namespace::journal::{Event, What};
use namespace::wire::{Query, Tail};
use namespace::work::Work;
use namespace::{Body as Content, Command};
use tokio::sync::Semaphore;
use transport::{Body, Caller, Fault, Request, Response, Service, ServiceId};

use crate::fleet::lock;
use crate::node::Inner;

/// Metadata for guests, on the wire.
pub(crate) const METADATA: ServiceId = ServiceId(METADATA_SERVICE);
/// Pieces for guests, on the wire.
pub(crate) const PIECES: ServiceId = ServiceId(PIECES_SERVICE);
/// Questions about metadata that are answered at a time.
const CALLS_MAX: usize = 64;
/// Those who watch at a time: they wait, and take nobody's turn.
const WATCHES_MAX: usize = 128;
/// A question waits so long for its turn.
const WAIT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(200);
/// What a guest wrote is no orphan for so long, since nobody can be asked whether it is being written still. So a guest commits within it.
pub(crate) const UNCOMMITTED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far a guest's clock may be off: what it writes says when it was written.
const CLOCK_MAX: Duration = Duration::from_secs(24 * 3600);
/// Pages of end-to-end volumes that are read at a time.
const PAGE: usize = 1024;

/// End-to-end volumes by the public keys that they have or had.
pub(crate) type Sealed = Mutex<Arc<BTreeMap<[u8; 32], SealedVolume>>>;

type Done = Result<Response, Fault>;

fn denied(why: impl Into<String>) -> Fault {
    Fault::new(Kind::Denied, why.into())
}

fn fault(error: &(impl Kinded + ToString)) -> Fault {
    Fault::new(error.kind(), error.to_string())
}

/// Somebody who has a right to something in a volume.
struct Guest {
    row: SealedVolume,
    claim: Option<Claim>,
    now: Wall,
}

impl Guest {
    fn check(&self, claim: &Claim, verb: Verb, path: &str) -> Result<(), grant::Refusal> {
        let request = grant::Request { volume: PublicKey(self.row.public), verb, path };
        let rules = Rules { now: self.now, epoch: self.row.epoch, revoked: &BTreeSet::new() };
        claim.check(&self.row.grant_key, &request, &rules)
    }

    /// Succeeds if this may be done at the path, as the rows have it.
    fn may(&self, verb: Verb, path: &str) -> Result<(), Fault> {
        let Some(claim) = &self.claim else { return Ok(()) };
        self.check(claim, verb, path).map_err(|refusal| denied(format!("the grant: {refusal}")))
    }

    /// Succeeds if one of these may be done at the path.
    fn may_one(&self, verbs: &[Verb], path: &str) -> Result<(), Fault> {
        let mut last = Ok(());
        for verb in verbs {
            last = self.may(*verb, path);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Succeeds if one of these may be done somewhere.
    fn may_somewhere(&self, verbs: &[Verb]) -> Result<(), Fault> {
        let path = self.claim.as_ref().map(Claim::prefix).unwrap_or_default();
        self.may_one(verbs, path)
    }

    /// Succeeds if the rows of this read may be seen.
    fn may_fetch(&self, query: &Query) -> Result<(), Fault> {
        match query {
            Query::Head { key, with_body: true, .. } => self.may(Verb::Read, key),
            Query::Head { key, .. } => self.may_one(&[Verb::List, Verb::Read], key),
            Query::List(list) | Query::ListVersions(list) => self.may(Verb::List, &list.prefix),
            Query::Config { name } if name == POLICY_SETTING => self.may_somewhere(&Verb::ALL),
            Query::Versioning => self.may_somewhere(&Verb::ALL),
            _ => Err(denied("this isn't shown to guests")),
        }
    }

    /// What of a journal may be seen below a path: what a listing would show.
    fn may_watch(&self, events: Vec<(Seq, Event)>, prefix: &str) -> Vec<(Seq, Event)> {
        let may = |(_, event): &(Seq, Event)| match &event.what {
            What::Put { key, .. } | What::Marker { key, .. } | What::Delete { key, .. } | What::Attrs { key, .. } => {
                event.volume == self.row.volume && grant::within(prefix, key) && self.may(Verb::List, key).is_ok()
            }
            _ => false,
        };
        events.into_iter().filter(may).collect()
    }

    /// Succeeds if this may be changed.
    fn may_work(&self, work: &Work) -> Result<(), Fault> {
        if work.volume != self.row.volume {
            return Err(denied("the work is on another volume"));
        }
        let named = match &work.command {
            Command::Put { key, new, .. } => {
                self.may(Verb::Write, key)?;
                segments(&new.body)
            }
            Command::SetAttrs { key, .. } => self.may(Verb::Write, key).map(|()| BTreeSet::new())?,
            Command::Delete { key, .. } => self.may(Verb::Delete, key).map(|()| BTreeSet::new())?,
            // Only who has the volume's key, and the one before, can know both names.
            Command::Rename { .. } if self.claim.is_none() => BTreeSet::new(),
            _ => return Err(denied("guests write and delete objects, and change nothing else")),
        };
        let fits = |note: &Command| matches!(note, Command::NoteMissing { segment, .. } if named.contains(segment));
        match work.notes.iter().all(fits) {
            true => Ok(()),
            false => Err(denied("a note is about a segment that isn't the object's")),
        }
    }

    /// Succeeds if a piece is the volume's, by a key that it has or had.
    fn owns(&self, header: &[u8]) -> Result<PieceHeader, Fault> {
        let header = PieceHeader::decode(header).map_err(|error| fault(&error))?;
        let is_ours = header.owner.is_some_and(|owner| self.row.had(&owner.0));
        match is_ours && header.volume == self.row.volume {
            true => Ok(header),
            false => Err(denied("the piece is of another volume")),
        }
    }

    /// Succeeds if a piece with this header may be kept: its owner can be told, and when it was written.
    fn may_keep(&self, header: &[u8], piece: PieceId) -> Result<(), Fault> {
        let header = self.owns(header)?;
        if header.owner != Some(PublicKey(self.row.public)) {
            return Err(denied("the piece names a key of the volume that was replaced"));
        }
        if (header.segment, header.index) != (piece.segment, piece.index) {
            return Err(Fault::new(Kind::Invalid, "the header is of another piece"));
        }
        let off = Duration::from_millis(header.written.0.abs_diff(self.now.0));
        match off <= CLOCK_MAX {
            true => Ok(()),
            false => Err(Fault::new(
                Kind::Invalid,
                format!(
                    "the piece says that it was written at {}, and here it is {}: set the clock of the machine that writes",
                    header.written.rfc3339(),
                    self.now.rfc3339()
                ),
            )),
        }
    }
}

/// The segments that a body names.
fn segments(body: &Content) -> BTreeSet<SegmentId> {
    match body {
        Content::Inline(_) | Content::Unloaded => BTreeSet::new(),
        Content::Packed(segment, _) => [segment.id].into(),
        Content::Segments(all) => all.iter().map(|segment| segment.id).collect(),
        Content::Spans(spans) => spans.iter().flat_map(|span| segments(&span.body)).collect(),
    }
}

/// Answers guests while the node lives: about metadata, and, through [`Pieces`], about pieces.
pub(crate) struct GuestService {
    node: Mutex<Weak<Inner>>,
    calls: Semaphore,
    watches: Semaphore,
}

impl Default for GuestService {
    fn default() -> Self {
        Self { node: Mutex::default(), calls: Semaphore::new(CALLS_MAX), watches: Semaphore::new(WATCHES_MAX) }
    }
}

/// Answers guests about pieces.
pub(crate) struct Pieces(pub Arc<GuestService>);

impl GuestService {
    /// Whose metadata and drives they are.
    pub fn set(&self, inner: &Arc<Inner>) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }

    fn inner(&self) -> Result<Arc<Inner>, Fault> {
        let inner = self.node.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        inner.ok_or_else(|| Fault::new(Kind::Unreachable, "this node isn't ready yet"))
    }

    async fn metadata(&self, caller: Caller, request: Request) -> Done {
        let inner = self.inner()?;
        let turn = inner.env.timeout(WAIT, self.calls.acquire()).await;
        let busy = || Fault::new(Kind::Busy { retry_after: RETRY }, "this node answers as many guests as it can");
        let turn = turn.and_then(Result::ok).ok_or_else(busy)?;
        let body = request.body.collect(BYTES_MAX).await;
        let body = body.map_err(|error| Fault::new(Kind::Unreachable, error.to_string()))?;
        let unknown = |error| Fault::new(Kind::Invalid, format!("this node doesn't know what is asked: {error}"));
        let Question { right, wish } = Question::decode(&body).map_err(unknown)?;
        let guest = inner.guest(&caller, right.clone())?;
        let answer = match wish {
            Wish::About => {
                guest.may_somewhere(&Verb::ALL)?;
                inner.about(&guest)?
            }
            Wish::Map => {
                guest.may_somewhere(&Verb::ALL)?;
                inner.map_rows().await?
            }
            Wish::Fetch(query) => {
                guest.may_fetch(&query)?;
                inner.rows_of(guest.row.volume, query).await?
            }
            Wish::Settled => {
                if guest.claim.is_some() {
                    return Err(denied("only who has the volume's key may say so"));
                }
                inner.settle_volume(guest.row.volume, guest.row.public).await.map_err(|error| fault(&error))?;
                inner.about(&guest)?
            }
            Wish::Drilled(report) => {
                let drill = Drill::read(&report, guest.row.volume, &PublicKey(guest.row.public));
                let is_now = |drill: &Drill| drill.at.0.abs_diff(guest.now.0) <= CLOCK_MAX.as_millis() as u64;
                if guest.claim.is_some() || !drill.as_ref().is_some_and(is_now) {
                    return Err(denied("only who has the volume's key may say so, when it happens"));
                }
                inner.note_owners_drill(guest.row.volume, &report).await.map_err(|error| fault(&error))?;
                inner.about(&guest)?
            }
            Wish::Work(work) => {
                guest.may_work(&work)?;
                match inner.shard(work.volume).work(*work).await {
                    Ok(outcome) => Answer::Done(outcome),
                    Err(client::Error::Namespace(error)) => Answer::Refused(error),
                    Err(error) => return Err(fault(&error)),
                }
            }
            Wish::Watch { after, prefix, wait_ms } => {
                guest.may(Verb::List, &prefix)?;
                drop(turn);
                let _place = self.watches.try_acquire().map_err(|_| busy())?;
                let wait = Duration::from_millis(wait_ms.min(WATCH_MS_MAX).into());
                Answer::Tail(inner.watch(&caller, &right, after, &prefix, wait).await?)
            }
        };
        Ok(Response::default().with_body(Body::of(vec![answer.encode().into()])))
    }

    async fn pieces(&self, caller: Caller, request: Request) -> Done {
        let inner = self.inner()?;
        let unknown = |error| Fault::new(Kind::Invalid, format!("this node doesn't know what is asked: {error}"));
        let PieceQuestion { right, ask } = PieceQuestion::decode(&request.head).map_err(unknown)?;
        let guest = inner.guest(&caller, right)?;
        let cluster = inner.cluster.get().ok_or_else(|| Fault::new(Kind::Unreachable, "this node is alone"))?;
        let pieces = &cluster.pieces;
        match &ask {
            Ask::Put(drive, part) => {
                guest.may_somewhere(&[Verb::Write])?;
                // Pieces are written once. Nobody takes the place of what is there.
                if part.offset == 0 && pieces.is_foreign(*drive, part.piece, part.write).await? {
                    return Err(Fault::new(Kind::Exists, "the piece is there already"));
                }
            }
            Ask::Read(drive, piece, ..) | Ask::Header(drive, piece) | Ask::Stat(drive, piece) => {
                guest.may_somewhere(&[Verb::Read])?;
                guest.owns(&pieces.header_of(*drive, *piece).await?)?;
            }
            // Breaks off its own writes.
            Ask::Delete(_, _, none) if none.is_empty() => guest.may_somewhere(&[Verb::Write])?,
            Ask::Health(_) => guest.may_somewhere(&Verb::ALL)?,
            Ask::Delete(..) => return Err(denied("guests delete no pieces: the store collects what no object has")),
            Ask::Contains(..) | Ask::List(..) => return Err(denied("this isn't told to guests")),
        }
        let piece = match &ask {
            Ask::Put(_, part) => Some(part.piece),
            _ => None,
        };
        let check = |header: &Bytes| piece.map_or(Ok(()), |piece| guest.may_keep(header, piece));
        pieces.serve(caller, ask, request.body, &check).await
    }
}

impl Service for GuestService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Done> {
        Box::pin(self.metadata(caller, request))
    }
}

impl Service for Pieces {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, Done> {
        Box::pin(self.0.pieces(caller, request))
    }
}

impl Inner {
    /// Reads which volumes are end to end; called about once a second.
    pub fn learn_sealed(&self) -> crate::Result<()> {
        let mut all = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.look(|view| catalog::sealed_volumes(view, after, PAGE))?;
            after = page.last().map(|row| row.volume);
            let full = page.len() == PAGE;
            for row in page {
                all.extend(row.older.iter().map(|older| (older.public, row.clone())));
                all.insert(row.public, row);
            }
            if !full {
                break;
            }
        }
        *lock(&self.owners.sealed) = Arc::new(all);
        Ok(())
    }

    /// The end-to-end volume that has or had this public key, if there is one, as it was about a second ago.
    pub fn sealed_with(&self, key: &PublicKey) -> Option<SealedVolume> {
        lock(&self.owners.sealed).get(&key.0).cloned()
    }

    /// The same, also of one that was made a moment ago: for who comes, not for each piece.
    pub fn sealed_with_now(&self, key: &PublicKey) -> Option<SealedVolume> {
        self.sealed_with(key).or_else(|| {
            self.learn_sealed().ok()?;
            self.sealed_with(key)
        })
    }

    /// When a volume's key was replaced, if it was.
    pub fn replaced(&self, key: &PublicKey) -> Option<Wall> {
        let row = self.sealed_with(key)?;
        row.older.iter().find(|older| older.public == key.0).map(|older| older.replaced)
    }

    /// Why somebody with this key is told nothing, if it is a volume's no more.
    pub fn check_replaced(&self, key: &PublicKey) -> Result<(), Fault> {
        match self.replaced(key) {
            None => Ok(()),
            Some(at) => Err(denied(format!(
                "the volume's keys were replaced at {}: its owner has new words, which open it with `abide volume open`",
                at.rfc3339()
            ))),
        }
    }

    /// The end-to-end volume that has this public key now, if there is one.
    pub fn sealed_of(&self, key: &PublicKey) -> Option<SealedVolume> {
        let volume = self.sealed_with_now(key)?.volume;
        // As it is now: its grants may have been revoked since.
        self.look(|view| catalog::sealed_volume(view, volume)).ok()?.filter(|row| row.public == key.0)
    }

    /// Whether the volume's keys are with its owner alone.
    pub fn is_sealed(&self, volume: VolumeId) -> crate::Result<bool> {
        self.look(|view| Ok(catalog::sealed_volume(view, volume)?.is_some()))
    }

    /// Whether somebody with this claim may come in at all.
    pub fn admits_claim(&self, claim: &Claim) -> bool {
        let Some(row) = self.sealed_of(&claim.head.volume) else { return false };
        let guest = Guest { row, claim: Some(claim.clone()), now: self.env.clock.wall() };
        guest.may_somewhere(&Verb::ALL).is_ok()
    }

    /// Who asks, if it shows something.
    fn guest(&self, caller: &Caller, right: Right) -> Result<Guest, Fault> {
        let none = || denied("there is no end-to-end volume of this key here");
        let Some(row) = self.sealed_of(&right.volume) else {
            self.check_replaced(&right.volume)?;
            return Err(none());
        };
        if right.claim.is_none() && caller.guest != Some(right.volume) {
            return Err(denied("neither the volume's key nor a grant was shown"));
        }
        Ok(Guest { row, claim: right.claim, now: self.env.clock.wall() })
    }

    fn about(&self, guest: &Guest) -> Result<Answer, Fault> {
        let row = self.look(|view| catalog::sealed_volume(view, guest.row.volume)).map_err(|error| fault(&error))?;
        let row = row.unwrap_or_else(|| guest.row.clone());
        let buckets = self.look(|view| catalog::list_all_buckets(view, "", usize::MAX >> 1));
        let buckets = buckets.map_err(|error| fault(&error))?;
        let bucket = buckets.into_iter().find(|bucket| bucket.volume == row.volume);
        let bucket = bucket.ok_or_else(|| Fault::new(Kind::Missing, "the volume was deleted"))?;
        // Who has a grant has keys of now alone, and no use for others.
        let (older, settled) = if guest.claim.is_none() { (row.older, row.settled) } else { (Vec::new(), true) };
        let (number, check, epoch) = (row.volume, row.check, row.epoch);
        Ok(Answer::About(About { name: bucket.name, number, check, epoch, older, settled }))
    }

    /// What placing and finding pieces takes.
    async fn map_rows(&self) -> Result<Answer, Fault> {
        let read = move |view: &dyn View| {
            let bare = Bare(view);
            let recorder = Recorder::new(&bare, Seq(0));
            client::touch_map(&recorder)?;
            Ok::<_, client::Error>(recorder.rows())
        };
        let here = self.system.peek(read).map_err(|error| fault(&error))?;
        let rows =
            here.ok_or_else(|| Fault::new(Kind::Unreachable, "the catalog is still being copied to this node"))?;
        Ok(Answer::Rows(rows))
    }

    /// What the volume's journal tells behind a place, as soon as there is something, or after `wait`.
    async fn watch(
        &self,
        caller: &Caller,
        right: &Right,
        mut after: Option<Seq>,
        prefix: &str,
        wait: Duration,
    ) -> Result<Tail, Fault> {
        let began = self.env.clock.now();
        loop {
            // The grant may have ended meanwhile, or been revoked.
            let guest = self.guest(caller, right.clone())?;
            guest.may(Verb::List, prefix)?;
            let none = || Fault::new(Kind::Unreachable, "this node doesn't know the volume's metadata yet");
            let shard = self.shards.of_volume(guest.row.volume).ok_or_else(none)?;
            let tail = shard.tail(guest.row.volume, after).await.map_err(|error| fault(&error))?;
            let Tail::Events { events, next } = tail else { return Ok(tail) };
            let events = guest.may_watch(events, prefix);
            let left = wait.saturating_sub(self.env.clock.now().since(began));
            if !events.is_empty() || after.is_none() || left.is_zero() {
                return Ok(Tail::Events { events, next });
            }
            if after == Some(next) {
                shard.grown(next, left).await;
            }
            after = Some(next);
        }
    }

    async fn rows_of(&self, volume: VolumeId, query: Query) -> Result<Answer, Fault> {
        let shard = self.shards.of(volume);
        let hint = (volume, query);
        let mut wants = Wants::default();
        loop {
            let cut = shard.cut(&wants, Some(&hint)).await.map_err(|error| fault(&error))?;
            let query = hint.1.clone();
            let read = move || {
                let at = cut.at();
                cut.run(|view| {
                    let recorder = Recorder::new(view, at);
                    // What it comes to is found out by who asks, from the same rows.
                    let _ = query.run(&recorder, volume);
                    recorder.rows()
                })
            };
            let rows = self.env.blocking(read).await;
            match rows.map_err(|error| fault(&client::Error::from(error)))? {
                Ok(rows) => return Ok(Answer::Rows(rows)),
                Err(more) => wants.extend(more).map_err(|error| fault(&client::Error::from(error)))?,
            }
        }
    }
}

/// The catalog without what guests have no use for: paths of drives, and what machines are called.
struct Bare<'a>(&'a dyn View);

fn bare((key, value): Row) -> Row {
    let value = match key.first() {
        Some(b'd') => DriveRow::decode(&value).map(|row| DriveRow { path: String::new(), ..row }.encode()),
        Some(b'n') => NodeRow::decode(&value).map(|mut row| {
            row.name.clear();
            row.labels.retain(|(name, _)| name == "site");
            row.encode()
        }),
        _ => return (key, value),
    };
    // What can't be read is shown to nobody.
    (key, value.unwrap_or_default())
}

impl View for Bare<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.0.get(key)?.map(|value| bare((key.to_vec(), value)).1))
    }

    fn range(&self, keys: Range<&[u8]>, limit: usize, reverse: bool) -> Result<Vec<Row>, ViewError> {
        Ok(self.0.range(keys, limit, reverse)?.into_iter().map(bare).collect())
    }
}

#[cfg(test)]
mod tests;
