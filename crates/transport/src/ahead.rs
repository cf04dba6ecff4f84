//! Reads ahead of rustls, which asks a socket for 4 KiB at a time: a system call each would cost
//! more than the decryption.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An idle connection keeps this much.
const ROOM_MIN: usize = 4 << 10;
/// A busy one fills this much with one system call.
const ROOM_MAX: usize = 128 << 10;

/// A stream with a buffer that grows while reads fill it, and shrinks when they don't.
pub(crate) struct ReadAhead<S> {
    io: S,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(io: S) -> ReadAhead<S> {
        ReadAhead { io, buffer: vec![0; ROOM_MIN], at: 0, end: 0 }
    }

    /// The next read's room, by what the last one brought.
    fn adapt(&mut self, got: usize) {
        let room = self.buffer.len();
        if got == room && room < ROOM_MAX {
            self.buffer.resize(room * 2, 0);
        } else if got < room / 8 && room > ROOM_MIN {
            self.buffer.truncate((room / 2).max(got));
            self.buffer.shrink_to_fit();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at == this.end {
            let mut read = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            (this.at, this.end) = (0, read.filled().len());
            this.adapt(this.end);
        }
        let len = into.remaining().min(this.end - this.at);
        into.put_slice(&this.buffer[this.at..this.at + len]);
        this.at += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_whatever_the_room() {
        let (mut one, other) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
        one.write_all(&sent).await.unwrap();
        let mut ahead = ReadAhead::new(other);
        let mut got = vec![0; sent.len()];
        let mut at = 0;
        while at < got.len() {
            let end = (at + 1 + at % 9000).min(got.len());
            at += ahead.read(&mut got[at..end]).await.unwrap();
        }
        assert!(got == sent);
        assert_eq!(ahead.buffer.len(), ROOM_MAX, "it grew while reads filled it");
        for _ in 0..20 {
            one.write_all(b"x").await.unwrap();
            ahead.read_u8().await.unwrap();
        }
        assert_eq!(ahead.buffer.len(), ROOM_MIN, "and shrank again");
        drop(one);
        assert_eq!(ahead.read(&mut got).await.unwrap(), 0);
    }
}
