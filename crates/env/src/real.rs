//! The operating system behind the traits.

#![allow(clippy::disallowed_methods, reason = "this is where the world comes in")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::{Instant, Wall};

use crate::{BoxFuture, Clock, Disk, Entry, Env, File, Listener, Net, Open, Rng, Space, Spawn, Stream};

/// See [`Env::real`].
pub(crate) fn env() -> Env {
    Env {
        clock: Arc::new(SystemClock { began: std::time::Instant::now() }),
        rng: Arc::new(SystemRng),
        disk: Arc::new(SystemDisk),
        net: Arc::new(SystemNet),
        spawn: Arc::new(TokioSpawn { runtime: tokio::runtime::Handle::current() }),
    }
}

struct SystemClock {
    began: std::time::Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant(self.began.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> Wall {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Wall(since.as_millis() as u64)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
                Ok(got) => rest = &mut rest[got..],
                Err(rustix::io::Errno::INTR) => {}
                // Keys without randomness would be no keys: stop at once.
                Err(error) => panic!("the system gives no random bytes: {error}"),
            }
        }
    }
}

struct SystemDisk;

impl Disk for SystemDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(how != Open::Read);
        match how {
            Open::Read | Open::Write => {}
            Open::Create => _ = options.create(true),
            Open::CreateNew => _ = options.create_new(true),
        }
        Ok(Arc::new(SystemFile { file: options.open(path)? }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // Names that aren't UTF-8 are none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> bool {
        // What can't be looked at may be there: whoever believes that it isn't would make it anew.
        std::fs::exists(path).unwrap_or(true)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }

    fn make_private(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
    }

    fn is_private(&self, path: &Path) -> io::Result<bool> {
        Ok(std::fs::metadata(path)?.mode() & 0o077 == 0)
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }
}

struct SystemFile {
    file: std::fs::File,
}

impl File for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Without zeroing memory first, which the system fills anyway.
    fn read_vec_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            // The vector may have got more room than was asked for.
            bytes.reserve_exact(len - bytes.len());
            match rustix::io::pread(self.file.as_fd(), rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut slices: Vec<io::IoSlice<'_>> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        let mut at = offset;
        while !rest.is_empty() {
            // IOV_MAX is 1024 on Linux.
            let batch = rest.len().min(1024);
            let written = match rustix::io::pwritev(self.file.as_fd(), &rest[..batch], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            at += written as u64;
            io::IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags as Flags;
        match rustix::fs::fallocate(self.file.as_fd(), Flags::PUNCH_HOLE | Flags::KEEP_SIZE, offset, len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn is_deleted(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    fn is_at(&self, path: &Path) -> bool {
        match (self.file.metadata(), std::fs::metadata(path)) {
            (Ok(ours), Ok(theirs)) => ours.dev() == theirs.dev() && ours.ino() == theirs.ino(),
            _ => false,
        }
    }
}

struct SystemNet;

impl Net for SystemNet {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(address).await?;
            Ok(Box::new(SystemListener { listener }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            // As with accepted ones: small requests must not wait for a delayed ACK.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

struct SystemListener {
    listener: tokio::net::TcpListener,
}

impl Listener for SystemListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            // Without it a small answer waits for the other side's delayed ACK: 40 ms.
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Stream>, peer))
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct TokioSpawn {
    runtime: tokio::runtime::Handle,
}

impl Spawn for TokioSpawn {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send + 'static>) {
        self.runtime.spawn_blocking(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_whole_or_not_at_all() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = SystemDisk.open(&folder.path().join("f"), Open::CreateNew)?;
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at * 31) as u8).collect();
        file.write_at(&bytes, 5000)?;
        for (from, len) in [(0, 0), (0, 99_999), (1, 100), (99_999, 1), (0, 100_000)] {
            assert_eq!(file.read_vec_at(len, 5000 + from as u64)?, &bytes[from..from + len]);
        }
        for (from, len) in [(0, 100_001), (99_999, 2), (100_000, 1), (1 << 40, 1)] {
            let error = file.read_vec_at(len, 5000 + from).err().map(|error| error.kind());
            assert_eq!(error, Some(io::ErrorKind::UnexpectedEof), "{len} bytes from {from}");
        }
        Ok(())
    }
}
