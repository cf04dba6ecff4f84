//! Opening: footers of sealed logs, a scan of the others, and all records' effects in order.
//!
//! Records of one log ascend in sequence; logs of different streams overlap. So logs are taken up
//! in the order of their first record and merged: only the few that overlap are in memory at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::Wall;
use env::{File, Open};

use crate::core::{Core, Log};
use crate::error::Error;
use crate::files::Name;
use crate::footer::{self, Entry, TRAILER_BYTES, Trailer};
use crate::record::{BLOCK_BYTES, Extent, LOG_HEAD_BYTES, LogHead, Stream, Target};
use crate::{State, lock};

/// A log before its records were applied.
struct Found {
    log: Arc<Log>,
    first_seq: u64,
    last_seq: u64,
    /// Bytes of the footer's entries, or the entries a scan found.
    sealed: bool,
}

/// A log whose records are being applied: those that follow, and the next.
type Replayed = (Arc<Log>, std::vec::IntoIter<Entry>, Option<Entry>);

/// A run that a large piece takes.
struct Run {
    extent: Extent,
    id: base::PieceId,
    seq: u64,
    target: Target,
}

/// What the first block of a log says.
enum Head {
    Known(u64, Stream),
    /// A crash came before its first record.
    Empty,
    /// Not readable, nor any record after it.
    Lost,
}

/// The trailer and the entries' bytes, if the file ends in a trailer.
pub(crate) fn read_footer(file: &dyn File, path: &Path) -> Result<Option<(Trailer, Vec<u8>)>, Error> {
    let Some(trailer) = read_trailer(file, path)? else { return Ok(None) };
    let mut bytes = vec![0; trailer.entries_len as usize];
    file.read_at(&mut bytes, trailer.records_end).map_err(|error| Error::io("read the footer of", path, error))?;
    Ok(Some((trailer, bytes)))
}

fn read_trailer(file: &dyn File, path: &Path) -> Result<Option<Trailer>, Error> {
    let failed = |error| Error::io("read the footer of", path, error);
    let len = file.len().map_err(failed)?;
    let Some(at) = len.checked_sub(TRAILER_BYTES as u64).filter(|at| *at >= LOG_HEAD_BYTES) else { return Ok(None) };
    let mut bytes = [0; TRAILER_BYTES];
    file.read_at(&mut bytes, at).map_err(failed)?;
    let fits = |trailer: &Trailer| {
        trailer.records_end >= LOG_HEAD_BYTES && trailer.records_end.checked_add(trailer.entries_len) == Some(at)
    };
    match Trailer::decode(&bytes) {
        Ok(trailer) => Ok(Some(trailer).filter(fits)),
        Err(error @ codec::Error::Version { .. }) => Err(Error::Format { path: path.to_path_buf(), source: error }),
        Err(_) => Ok(None),
    }
}

impl Core {
    /// Reads what is there. Only the caller knows of the store yet.
    pub fn read_all(&self) -> Result<(), Error> {
        let dir = self.files.dir().to_path_buf();
        let listed = self.env.disk.read_dir(&dir).map_err(|error| Error::io("list", &dir, error))?;
        let names: Vec<Name> =
            listed.iter().filter(|entry| !entry.is_dir).filter_map(|entry| Name::parse(&entry.name)).collect();
        let mut found = Vec::new();
        for name in &names {
            if let Name::Log(number) = name
                && let Some(log) = self.find_log(*number)?
            {
                found.push(log);
            }
        }
        let mut commit = lock(&self.commit);
        commit.next_seq = found.iter().map(|log| log.last_seq).max().unwrap_or(0) + 1;
        commit.next_log = names
            .iter()
            .filter_map(|name| match name {
                Name::Log(number) => Some(*number),
                Name::Extents(_) => None,
            })
            .max()
            .unwrap_or(0)
            + 1;
        if self.lost_logs.load(Ordering::Acquire) > 0 {
            // Records that can't be read now may be readable at the next open: new ones come after.
            commit.next_seq += 1 << 32;
        }
        drop(commit);
        let large = self.replay(found)?;
        self.load_extents(&names, large)?;
        self.seal_open_logs()
    }

    /// `None` for a log that holds nothing and never will, or that can't be read at all.
    fn find_log(&self, number: u32) -> Result<Option<Found>, Error> {
        let name = Name::Log(number);
        let path = self.files.path(name);
        let opened = self.files.get(name).and_then(|file| {
            let len = file.len().map_err(|error| Error::io("measure", &path, error))?;
            Ok((file, len))
        });
        let (file, len) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.lost_logs.fetch_add(1, Ordering::AcqRel);
                tracing::error!(log = %name, %error, "log can't be opened: it is left as it is");
                return Ok(None);
            }
        };
        let (life, stream) = match self.head_of(&*file, number, len, &path)? {
            Head::Known(life, stream) => (life, stream),
            Head::Empty => {
                self.drop_empty(name);
                return Ok(None);
            }
            Head::Lost => {
                self.lost_logs.fetch_add(1, Ordering::AcqRel);
                tracing::error!(log = %name, "log can't be read at all: it is left as it is");
                return Ok(None);
            }
        };
        let log = Log::new(number, life, stream);
        log.closed.store(true, Ordering::Release);
        match read_trailer(&*file, &path) {
            Ok(Some(trailer)) if trailer.life == life => {
                log.sealed.store(true, Ordering::Release);
                log.end.store(trailer.records_end, Ordering::Release);
                log.expiry_max.store(trailer.expiry_max.0, Ordering::Release);
                let (first_seq, last_seq) = (trailer.base_seq, trailer.last_seq);
                return Ok(Some(Found { log: self.adopt(log), first_seq, last_seq, sealed: true }));
            }
            Ok(_) => {}
            Err(error @ Error::Format { .. }) => return Err(error),
            Err(error) => tracing::warn!(log = %name, %error, "the log is scanned"),
        }
        self.scan_log(log, &*file, len)
    }

    fn scan_log(&self, log: Log, file: &dyn File, len: u64) -> Result<Option<Found>, Error> {
        let name = log.name();
        let scan = crate::scan::scan(file, log.life, len, false);
        for (offset, bytes) in &scan.damaged {
            tracing::error!(log = %name, offset, bytes, "log is damaged: its pieces there must be rebuilt");
        }
        let is_sound = scan.damaged.is_empty() && scan.unread == 0;
        if scan.entries.is_empty() && is_sound {
            self.drop_empty(name);
            return Ok(None);
        }
        if is_sound {
            self.blank(name, file, &scan.torn);
        } else {
            self.lost_logs.fetch_add(1, Ordering::AcqRel);
        }
        log.end.store(scan.end, Ordering::Release);
        log.expiry_max.store(footer::expiry_max(&scan.entries).0, Ordering::Release);
        log.held.store(!is_sound, Ordering::Release);
        let first_seq = scan.entries.first().map_or(0, |entry| entry.seq);
        let last_seq = scan.entries.last().map_or(0, |entry| entry.seq);
        *lock(&log.entries) = scan.entries;
        Ok(Some(Found { log: self.adopt(log), first_seq, last_seq, sealed: false }))
    }

    /// Torn records whose heads are whole get zeros there: should the footer be lost one day, they
    /// must not be taken for pieces. The footer's sync makes it durable.
    fn blank(&self, name: Name, file: &dyn File, torn: &[u64]) {
        for offset in torn {
            if let Err(error) = file.write_at(&[0; crate::record::HEAD_BYTES], *offset) {
                self.write_failed(&Error::io("blank a torn record of", &self.files.path(name), error));
            }
        }
    }

    fn adopt(&self, log: Log) -> Arc<Log> {
        let log = Arc::new(log);
        self.add_log(log.clone());
        log
    }

    /// The log's life and stream; from its records if the head is lost.
    fn head_of(&self, file: &dyn File, number: u32, len: u64, path: &Path) -> Result<Head, Error> {
        let mut block = vec![0; len.min(LOG_HEAD_BYTES) as usize];
        let readable = file.read_at(&mut block, 0).is_ok();
        match LogHead::decode(&block) {
            Ok(head) if head.number == number => return Ok(Head::Known(head.life, head.stream)),
            Err(source @ codec::Error::Version { .. }) => {
                return Err(Error::Format { path: path.to_path_buf(), source });
            }
            _ => {}
        }
        match crate::scan::life_of(file, len) {
            Ok(Some(life)) => {
                tracing::error!(path = %path.display(), "the log's head is damaged: taken from its records");
                Ok(Head::Known(life, Stream::Fresh))
            }
            // Only a head that was never written may be taken for an empty log: its first record
            // comes after the head's sync. A torn head is shorter than a block or beside zeros.
            Ok(None) if readable && len <= LOG_HEAD_BYTES => Ok(Head::Empty),
            _ => Ok(Head::Lost),
        }
    }

    /// A crash left it before it took a record. It doesn't matter if this fails.
    fn drop_empty(&self, name: Name) {
        if let Err(error) = self.files.remove(name) {
            tracing::warn!(file = %name, %error, "an empty file stays");
        }
    }

    /// Applies all records in sequence; gives the runs that large pieces take.
    fn replay(&self, mut found: Vec<Found>) -> Result<Vec<Run>, Error> {
        found.sort_by_key(|log| (log.first_seq, log.log.number));
        let mut waiting = found.into_iter().peekable();
        let mut heap: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        let mut open: BTreeMap<usize, Replayed> = BTreeMap::new();
        let mut large = Vec::new();
        let mut opened = 0;
        loop {
            // Take up every log whose records may come next.
            let next_seq = heap.peek().map(|Reverse((seq, _))| *seq);
            if let Some(log) = waiting.next_if(|log| next_seq.is_none_or(|seq| log.first_seq <= seq)) {
                let mut entries = self.entries_to_replay(&log)?.into_iter();
                if let Some(first) = entries.next() {
                    heap.push(Reverse((first.seq, opened)));
                    open.insert(opened, (log.log, entries, Some(first)));
                    opened += 1;
                }
                continue;
            }
            let Some(Reverse((_, number))) = heap.pop() else { break };
            let Some((log, entries, next)) = open.get_mut(&number) else { break };
            if let Some(entry) = next.take() {
                self.apply(log, &entry);
                if let Some(extent) = entry.extent {
                    large.push(Run { extent, id: entry.id, seq: entry.seq, target: entry.as_target(log.number) });
                }
            }
            *next = entries.next();
            match next {
                Some(entry) => heap.push(Reverse((entry.seq, number))),
                None => _ = open.remove(&number),
            }
        }
        large.retain(|run| self.is_current(&run.id, run.target.loc).is_some());
        self.drop_overlaid(&mut large);
        Ok(large)
    }

    /// A run has one owner. If the record that ended a piece is lost to rot, the piece comes back
    /// to life in a run that has long been given to another: the later record holds, or the end of
    /// the first would punch the other's bytes.
    fn drop_overlaid(&self, large: &mut Vec<Run>) {
        large.sort_unstable_by_key(|run| (run.extent, run.seq));
        let mut kept: Vec<Run> = Vec::with_capacity(large.len());
        for run in large.drain(..) {
            let mut is_stale = false;
            while let Some(last) = kept.last().filter(|last| last.extent.overlaps(run.extent)) {
                is_stale = last.seq > run.seq;
                let stale = if is_stale { &run } else { last };
                tracing::error!(id = %stale.id, "a piece lies where a later one does: it is dropped");
                self.unlink(self.index.hash(&stale.id), stale.target);
                if is_stale {
                    break;
                }
                kept.pop();
            }
            if !is_stale {
                kept.push(run);
            }
        }
        *large = kept;
    }

    fn entries_to_replay(&self, found: &Found) -> Result<Vec<Entry>, Error> {
        if found.sealed {
            let entries = self.entries(&found.log)?;
            lock(&self.footers).take();
            return Ok(Arc::unwrap_or_clone(entries));
        }
        Ok(lock(&found.log.entries).clone())
    }

    fn load_extents(&self, names: &[Name], large: Vec<Run>) -> Result<(), Error> {
        let mut used: BTreeMap<u32, Vec<Extent>> = BTreeMap::new();
        for extent in large.into_iter().map(|run| run.extent) {
            used.entry(extent.file).or_default().push(extent);
        }
        for name in names {
            let Name::Extents(number) = *name else { continue };
            let mut extents = used.remove(&number).unwrap_or_default();
            extents.sort_unstable();
            self.extents.add_file(number, self.options.extent_file_blocks(), &extents);
        }
        for (file, extents) in &used {
            self.extents.note_lost(*file);
            tracing::error!(file = %Name::Extents(*file), pieces = extents.len(), "extent file is lost");
        }
        if self.lost_logs.load(Ordering::Acquire) > 0 {
            self.extents.withhold_free();
        } else {
            self.extents.distrust_free();
        }
        Ok(())
    }

    /// Logs that a crash left open get their footers; appending starts with new logs.
    fn seal_open_logs(&self) -> Result<(), Error> {
        if self.check_open().is_err() {
            return Ok(());
        }
        for log in self.all_logs().into_iter().filter(|log| !log.is_sealed()) {
            if log.held.load(Ordering::Acquire) {
                // A footer would forget for good what may only be unreadable just now.
                continue;
            }
            let file = self.files.get(log.name())?;
            match crate::commit::seal_log(&log, &*file, self.files.path(log.name())) {
                Ok(()) => {}
                Err(error) if error.is_out_of_space() => {}
                Err(error) => {
                    self.write_failed(&error);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Makes the directory and its marker, or finds them. Gives the open marker.
pub(crate) fn open_dir(env: &env::Env, dir: &Path) -> Result<(Arc<dyn File>, State), Error> {
    let marker = dir.join(crate::files::MARKER);
    if !env.disk.exists(&marker) {
        return create_dir(env, dir, &marker).map(|file| (file, State::Ok));
    }
    let (file, state) = match env.disk.open(&marker, Open::Write) {
        Ok(file) => (file, State::Ok),
        Err(error) if base::kind::of_io(&error) == base::Kind::Denied => {
            let file = env.disk.open(&marker, Open::Read).map_err(|error| Error::io("open", &marker, error))?;
            (file, State::ReadOnly(error.to_string()))
        }
        Err(error) => return Err(Error::io("open", &marker, error)),
    };
    check_marker(&*file, &marker)?;
    Ok((file, state))
}

const MARKER_MARK: [u8; 4] = *b"ABps";
const MARKER_VERSION: u8 = 1;
const MARKER_BYTES: usize = 32;

/// Refuses a store of a later version. A marker that a crash left unfinished, or that is damaged,
/// is no reason not to serve what is there.
fn check_marker(file: &dyn File, path: &Path) -> Result<(), Error> {
    let mut bytes = [0; MARKER_BYTES];
    let is_sound = file.read_at(&mut bytes, 0).is_ok()
        && bytes[..4] == MARKER_MARK
        && codec::crc64(&bytes[..MARKER_BYTES - 8]).to_le_bytes() == bytes[MARKER_BYTES - 8..];
    if !is_sound {
        tracing::warn!(path = %path.display(), "the store's marker is damaged");
    } else if bytes[4] > MARKER_VERSION {
        let source = codec::Error::Version { what: "piece store", found: bytes[4], known: MARKER_VERSION };
        return Err(Error::Format { path: path.to_path_buf(), source });
    }
    Ok(())
}

fn create_dir(env: &env::Env, dir: &Path, marker: &Path) -> Result<Arc<dyn File>, Error> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !env.disk.exists(dir)).collect();
    env.disk.create_dir_all(dir).map_err(|error| Error::io("create directory", dir, error))?;
    // From the top down: a directory is durable once its parent is.
    for parent in missing.into_iter().rev().filter_map(Path::parent).chain(dir.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        env.disk.sync_dir(parent).map_err(|error| Error::io("sync directory", parent, error))?;
    }
    let file = env.disk.open(marker, Open::Create).map_err(|error| Error::io("create", marker, error))?;
    let mut bytes = MARKER_MARK.to_vec();
    bytes.extend_from_slice(&[MARKER_VERSION, 0, 0, 0]);
    bytes.extend_from_slice(&env.random::<16>());
    let crc = codec::crc64(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    file.write_at(&bytes, 0).and_then(|()| file.sync_data()).map_err(|error| Error::io("write", marker, error))?;
    env.disk.sync_dir(dir).map_err(|error| Error::io("sync directory", dir, error))?;
    Ok(file)
}

impl crate::Options {
    pub(crate) fn extent_file_blocks(&self) -> u32 {
        u32::try_from(self.extent_file_bytes / BLOCK_BYTES).unwrap_or(u32::MAX / 2).max(1)
    }

    /// Pieces of one bucket share a log.
    pub(crate) fn bucket(&self, expiry: Wall) -> u64 {
        expiry.0 / self.bucket_ms()
    }

    /// When all pieces of the bucket have expired.
    pub(crate) fn bucket_end(&self, bucket: u64) -> Wall {
        Wall(bucket.saturating_add(1).saturating_mul(self.bucket_ms()))
    }

    fn bucket_ms(&self) -> u64 {
        u64::try_from(self.expiry_bucket.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}
