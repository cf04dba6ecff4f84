//! The control socket: how `abide COMMAND` talks to the running `abide up`.
//!
//! A Unix socket in the home that only its owner can open: nothing to configure, no token to leak.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// An answer larger than this is none of ours.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The socket's path.
pub fn socket(home: &Path) -> PathBuf {
    home.join("control.sock")
}

/// Listens on the socket, as [`env::Listener`]. The socket goes when this does.
pub struct Control {
    listener: tokio::net::UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        // Still listened on, so nobody else has taken it over. A stale one is in nobody's way.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Takes over a socket that nobody answers any more; refuses one that somebody does.
    pub fn bind(home: &Path) -> io::Result<Control> {
        let path = socket(home);
        std::fs::create_dir_all(home)?;
        std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o700))?;
        if UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!(
                    "another abide runs with the home {}: stop it, or give this one a home of its own with --home",
                    home.display()
                ),
            ));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Control { listener, path })
    }
}

impl env::Listener for Control {
    fn accept(&self) -> env::BoxFuture<'_, io::Result<(Box<dyn env::Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            Ok((Box::new(stream) as Box<dyn env::Stream>, (Ipv4Addr::LOCALHOST, 0).into()))
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 0).into())
    }
}

/// Why a command got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no store runs with the home {home}: start one with `abide up FOLDER…`, or name its home with --home")]
    NotRunning {
        /// Where it was looked for.
        home: String,
    },
    /// The socket is there, and can't be used.
    #[error("open the control socket {path}: {source}")]
    Socket {
        /// Where it is.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The connection broke.
    #[error("talk to the running abide: {0}")]
    Io(#[from] io::Error),
    /// What was typed makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The store refused; the text says what failed, why, and what to do.
    #[error("{text}")]
    Refused {
        /// What the store said.
        text: String,
        /// The whole answer.
        answer: Value,
    },
}

/// Sends one request and gives the JSON answer.
pub fn ask(home: &Path, method: &str, path: &str, body: &Value) -> Result<Value, Error> {
    let mut stream = connect(home)?;
    // A scrub or a verify of everything takes hours.
    stream.set_read_timeout(Some(Duration::from_secs(24 * 3600)))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: abide\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::other("it ended before it answered: see what it printed").into());
    }
    let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| garbled(&line))?;
    let mut length = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let mut text = Vec::new();
    reader.take(length.unwrap_or(ANSWER_BYTES_MAX)).read_to_end(&mut text)?;
    let answer: Value = serde_json::from_slice(&text).map_err(|_| garbled(&String::from_utf8_lossy(&text)))?;
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let text = answer["error"].as_str().unwrap_or("the store gave no reason").to_owned();
    Err(Error::Refused { text, answer })
}

fn connect(home: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(socket(home)).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::NotRunning { home: home.display().to_string() }
        }
        _ => Error::Socket { path: socket(home).display().to_string(), source },
    })
}

fn garbled(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer makes no sense: {:.100}", text.trim()))
}
