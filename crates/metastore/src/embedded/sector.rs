//! The ordered map's file: what redb writes, enciphered, each page with a checksum.
//!
//! redb trusts its file; drives don't deserve that. Every page but the first, which redb rewrites
//! in place and checks itself, has a CRC-64 of its ciphertext in a page of checksums that lies
//! before its group of 512 pages. A checksum of 0 means: never written, all zeros. redb never
//! overwrites a page that a durable commit uses, so that a checksum and its page need no common
//! atomic write: both are synced before the commit that uses them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crypt::{MetaKey, SectorCipher};
use env::{Disk, File, Open};

pub(crate) const PAGE: u64 = 4096;
const GROUP: u64 = PAGE / 8;
const MARK: [u8; 4] = *b"AMap";
const VERSION: u8 = 1;

pub(crate) struct SectorFile {
    file: Arc<dyn File>,
    cipher: SectorCipher,
    sums: Mutex<Sums>,
    /// Set when a page doesn't match its checksum.
    damaged: Arc<AtomicBool>,
}

#[derive(Default)]
struct Sums {
    /// Of every page, in order.
    of: Vec<u64>,
    /// Groups whose sums are not in the file yet.
    dirty: BTreeSet<u64>,
}

impl std::fmt::Debug for SectorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SectorFile")
    }
}

/// Where a page lies in the file.
fn place(page: u64) -> u64 {
    PAGE + page / GROUP * (GROUP + 1) * PAGE + PAGE + page % GROUP * PAGE
}

/// Where a group's checksums lie.
fn sums_place(group: u64) -> u64 {
    PAGE + group * (GROUP + 1) * PAGE
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The head of the file, without the zeros that fill its page.
fn head(shard: u32, salt: [u8; 16]) -> Vec<u8> {
    let mut to = codec::Writer::new();
    to.raw(&MARK).u8(VERSION).raw(&[0; 3]).u32(shard).u32(0).raw(&salt);
    let mut bytes = to.finish();
    bytes.extend_from_slice(&codec::crc64(&bytes).to_le_bytes());
    bytes
}

fn read_head(bytes: &[u8], shard: u32) -> Result<[u8; 16], codec::Error> {
    const WHAT: &str = "ordered map head";
    let mut from = codec::Reader::new(bytes);
    let body = from.raw(WHAT, 32)?;
    if from.u64(WHAT)? != codec::crc64(body) {
        return Err(codec::Error::Checksum { what: WHAT });
    }
    let mut from = codec::Reader::new(body);
    let found = from.array(WHAT)?;
    if found != MARK {
        return Err(codec::Error::Mark { what: WHAT, found, wanted: MARK });
    }
    let version = from.u8(WHAT)?;
    if version > VERSION {
        return Err(codec::Error::Version { what: WHAT, found: version, known: VERSION });
    }
    from.raw(WHAT, 3)?;
    let found = from.u32(WHAT)?;
    if found != shard {
        return Err(codec::Error::Value { what: "ordered map's shard", value: found.into() });
    }
    from.u32(WHAT)?;
    from.array(WHAT)
}

impl SectorFile {
    /// A new, empty file at `path`; what lies there is replaced. The name isn't durable yet.
    pub fn create(disk: &dyn Disk, path: &Path, shard: u32, key: &MetaKey, salt: [u8; 16]) -> io::Result<Self> {
        let file = disk.open(path, Open::Create)?;
        file.set_len(0)?;
        let mut page = head(shard, salt);
        page.resize(PAGE as usize, 0);
        file.write_at(&page, 0)?;
        Ok(Self { file, cipher: key.sector_key(salt), sums: Mutex::default(), damaged: Arc::default() })
    }

    /// The file at `path`.
    pub fn open(disk: &dyn Disk, path: &Path, shard: u32, key: &MetaKey) -> io::Result<Self> {
        let file = disk.open(path, Open::Write)?;
        let mut page = vec![0; PAGE as usize];
        file.read_at(&mut page, 0)?;
        let salt = read_head(&page, shard).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let this = Self { file, cipher: key.sector_key(salt), sums: Mutex::default(), damaged: Arc::default() };
        this.load_sums()?;
        Ok(this)
    }

    /// The handle, to ask whether it still lies where it should.
    pub fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// Becomes true when a page doesn't match its checksum.
    pub fn damaged(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.damaged)
    }

    fn load_sums(&self) -> io::Result<()> {
        let pages = self.pages()?;
        let mut sums = self.sums();
        let mut bytes = vec![0; PAGE as usize];
        for group in 0..pages.div_ceil(GROUP) {
            self.file.read_at(&mut bytes, sums_place(group))?;
            let of = bytes.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum));
            sums.of.extend(of);
        }
        sums.of.truncate(pages as usize);
        Ok(())
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages that the file has room for.
    fn pages(&self) -> io::Result<u64> {
        let rest = (self.file.len()?.saturating_sub(PAGE)) / PAGE;
        let (groups, last) = (rest / (GROUP + 1), rest % (GROUP + 1));
        Ok(groups * GROUP + last.saturating_sub(1))
    }

    fn read_page(&self, page: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(out, place(page))?;
        self.check_and_open(page, out)
    }

    /// Checks a page's ciphertext and makes it plaintext.
    fn check_and_open(&self, page: u64, bytes: &mut [u8]) -> io::Result<()> {
        if page > 0 {
            match self.sums().of.get(page as usize) {
                Some(0) => {
                    bytes.fill(0);
                    return Ok(());
                }
                Some(sum) if *sum == sum_of(bytes) => {}
                Some(_) => {
                    self.damaged.store(true, Ordering::Relaxed);
                    return Err(bad("a page of the ordered map doesn't match its checksum"));
                }
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        self.cipher.decrypt(place(page), bytes);
        Ok(())
    }

    fn write_page(&self, page: u64, plain: &[u8]) -> io::Result<()> {
        let mut bytes = plain.to_vec();
        self.cipher.encrypt(place(page), &mut bytes);
        if page > 0 {
            let mut sums = self.sums();
            match sums.of.get_mut(page as usize) {
                Some(sum) => *sum = sum_of(&bytes),
                None => return Err(bad("a page beyond the ordered map's end was written")),
            }
            sums.dirty.insert(page / GROUP);
        }
        self.file.write_at(&bytes, place(page))
    }

    /// Calls `act` for each page that `offset..offset + len` touches: page, from and to in it, and
    /// from in the span.
    fn each_page(
        offset: u64,
        len: usize,
        mut act: impl FnMut(u64, std::ops::Range<usize>, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let from = (at % PAGE) as usize;
            let take = (PAGE as usize - from).min(len - done);
            act(at / PAGE, from..from + take, done)?;
            done += take;
        }
        Ok(())
    }

    /// Reads whole pages that lie side by side with one call.
    fn read_run(&self, page: u64, out: &mut [u8]) -> io::Result<()> {
        let mut page = page;
        let mut rest = out;
        while !rest.is_empty() {
            let until_sums = ((GROUP - page % GROUP) * PAGE) as usize;
            let (run, tail) = rest.split_at_mut(until_sums.min(rest.len()));
            self.file.read_at(run, place(page))?;
            for one in run.chunks_exact_mut(PAGE as usize) {
                self.check_and_open(page, one)?;
                page += 1;
            }
            rest = tail;
        }
        Ok(())
    }

    fn flush_sums(&self) -> io::Result<()> {
        let mut sums = self.sums();
        let dirty = std::mem::take(&mut sums.dirty);
        for group in &dirty {
            let first = (*group * GROUP) as usize;
            let of = sums.of.get(first..).unwrap_or_default();
            let mut bytes: Vec<u8> = of.iter().take(GROUP as usize).flat_map(|sum| sum.to_le_bytes()).collect();
            if bytes.is_empty() {
                continue;
            }
            bytes.resize(PAGE as usize, 0);
            self.file.write_at(&bytes, sums_place(*group))?;
        }
        Ok(())
    }
}

/// Never 0: that stands for pages that were never written.
fn sum_of(bytes: &[u8]) -> u64 {
    codec::crc64(bytes).max(1)
}

impl redb::StorageBackend for SectorFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages()? * PAGE)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.is_multiple_of(PAGE) && (out.len() as u64).is_multiple_of(PAGE) {
            return self.read_run(offset / PAGE, out);
        }
        let mut whole = vec![0; PAGE as usize];
        Self::each_page(offset, out.len(), |page, part, at| {
            self.read_page(page, &mut whole)?;
            out[at..at + part.len()].copy_from_slice(&whole[part]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !len.is_multiple_of(PAGE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let pages = len / PAGE;
        // A group that has a page has its page of checksums.
        let end = if pages == 0 { PAGE } else { place(pages - 1) + PAGE };
        self.file.set_len(end)?;
        let mut sums = self.sums();
        sums.of.resize(pages as usize, 0);
        if pages > 0 {
            // Pages that went and come back are zeros, not what they were.
            sums.dirty.insert((pages - 1) / GROUP);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.flush_sums()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::each_page(offset, data.len(), |page, part, at| {
            let data = &data[at..at + part.len()];
            if data.len() as u64 == PAGE {
                return self.write_page(page, data);
            }
            if page == 0 && part.start.is_multiple_of(16) && data.len().is_multiple_of(16) {
                let mut bytes = data.to_vec();
                let at = place(0) + part.start as u64;
                self.cipher.encrypt(at, &mut bytes);
                return self.file.write_at(&bytes, at);
            }
            let mut whole = vec![0; PAGE as usize];
            self.read_page(page, &mut whole)?;
            whole[part].copy_from_slice(data);
            self.write_page(page, &whole)
        })
    }
}

/// Bytes of a group of pages with their checksums.
pub(crate) const GROUP_BYTES: u64 = (GROUP + 1) * PAGE;

/// Looks whether the pages of a group are as their checksums say, the file's head with the first: whether more groups
/// follow, or nothing if a page isn't. Asks the file alone, so that nobody may write it meanwhile.
pub(crate) fn check(file: &dyn File, shard: u32, group: u64) -> io::Result<Option<bool>> {
    let len = file.len()?;
    let mut sums = vec![0; PAGE as usize];
    if group == 0 {
        file.read_at(&mut sums, 0)?;
        if read_head(&sums, shard).is_err() {
            return Ok(None);
        }
    }
    let from = sums_place(group);
    let pages = (len.saturating_sub(from) / PAGE).saturating_sub(1).min(GROUP);
    if pages == 0 {
        return Ok(Some(false));
    }
    file.read_at(&mut sums, from)?;
    let mut bytes = vec![0; (pages * PAGE) as usize];
    file.read_at(&mut bytes, from + PAGE)?;
    let whole = bytes.chunks_exact(PAGE as usize).zip(sums.as_chunks::<8>().0).enumerate().all(|(at, (page, sum))| {
        let sum = u64::from_le_bytes(*sum);
        // The very first page is redb's own affair; a page that was never written has no sum.
        (group == 0 && at == 0) || sum == 0 || sum == sum_of(page)
    });
    Ok(whole.then_some(len > from + GROUP_BYTES))
}

/// The file's path in a mirror's directory.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("map")
}

/// Where it is made before it gets its name.
pub(crate) fn path_new(dir: &Path) -> PathBuf {
    dir.join("map.new")
}
