//! A small HTTP client that signs as AWS's clients do (Signature Version 4), over one connection.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use base::ids::hex;
use env::Env;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::memory::{Known, Memory};

/// Two users that do not know each other.
pub const USERS: &[Known] = &[
    Known { id: "main-id", display: "main", email: "main@test", key: "MAINKEY", secret: "main-secret" },
    Known { id: "alt-id", display: "alt", email: "alt@test", key: "ALTKEY", secret: "alt-secret" },
];

/// A face over an empty store in memory, and where it listens.
#[allow(clippy::disallowed_methods)]
pub async fn start(settings: s3::Settings) -> (Arc<s3::Face>, SocketAddr) {
    let env = Env::real();
    let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.address().unwrap();
    let store = Arc::new(Memory::new(env.clone(), USERS));
    let face = Arc::new(s3::Face::new(env, store, settings));
    tokio::spawn(s3::serve(listener, face.clone(), std::future::pending()));
    (face, address)
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The text of the first element with this name.
    pub fn get(&self, tag: &str) -> Option<String> {
        let text = self.text();
        let from = text.find(&format!("<{tag}>"))? + tag.len() + 2;
        Some(text[from..from + text[from..].find("</")?].to_owned())
    }

    /// All texts of elements with this name.
    pub fn all(&self, tag: &str) -> Vec<String> {
        let open = format!("<{tag}>");
        self.text().split(&open).skip(1).map(|rest| rest[..rest.find("</").unwrap()].to_owned()).collect()
    }

    pub fn code(&self) -> String {
        self.get("Code").unwrap_or_default()
    }
}

/// One connection, one user.
pub struct Client {
    env: Env,
    address: SocketAddr,
    user: Option<&'static Known>,
    stream: TcpStream,
}

impl Client {
    pub async fn of(address: SocketAddr, user: Option<&'static Known>) -> Client {
        Client { env: Env::real(), address, user, stream: TcpStream::connect(address).await.unwrap() }
    }

    pub async fn main(address: SocketAddr) -> Client {
        Self::of(address, Some(&USERS[0])).await
    }

    pub async fn alt(address: SocketAddr) -> Client {
        Self::of(address, Some(&USERS[1])).await
    }

    pub async fn anonymous(address: SocketAddr) -> Client {
        Self::of(address, None).await
    }

    /// Sends a request, signed if there is a user, and reads the answer.
    pub async fn send(&mut self, method: &str, uri: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut all: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.push(("host".into(), self.address.to_string()));
        if let Some(user) = self.user {
            let now = self.env.clock.wall().rfc3339();
            let time = format!("{}T{}Z", now[..10].replace('-', ""), now[11..19].replace(':', ""));
            all.push(("x-amz-date".into(), time.clone()));
            all.push(("x-amz-content-sha256".into(), hex(digest::digest(&digest::SHA256, body).as_ref())));
            let authorization = sign(user, method, uri, &all, &time);
            all.push(("authorization".into(), authorization));
        }
        let mut head = format!("{method} {uri} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in &all {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        self.read(method == "HEAD").await
    }

    pub async fn get(&mut self, uri: &str) -> Answer {
        self.send("GET", uri, &[], b"").await
    }

    pub async fn put(&mut self, uri: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send("PUT", uri, &[], body.as_ref()).await
    }

    pub async fn delete(&mut self, uri: &str) -> Answer {
        self.send("DELETE", uri, &[], b"").await
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// What comes until the other side closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset is as good as an end: the other side is gone.
        let _ = self.stream.read_to_end(&mut all).await;
        all
    }

    /// Reads one answer.
    pub async fn read(&mut self, head_only: bool) -> Answer {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the connection was closed after {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&buffer[..count]);
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length =
            headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, len)| len.parse().unwrap());
        let mut body = bytes[end + 4..].to_vec();
        let wanted = if head_only || status == 304 || status == 204 { 0 } else { length };
        let missing = wanted - body.len();
        let mut more = vec![0; missing];
        self.stream.read_exact(&mut more).await.unwrap();
        body.extend_from_slice(&more);
        Answer { status, headers, body }
    }
}

fn sign(user: &Known, method: &str, uri: &str, headers: &[(String, String)], time: &str) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut query: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
        .collect();
    query.sort();
    let mut headers = headers.to_vec();
    headers.sort();
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let hash = &headers.iter().find(|(name, _)| name == "x-amz-content-sha256").unwrap().1;
    let request = format!("{method}\n{path}\n{}\n{lines}\n{names}\n{hash}", query.join("&"));
    let scope = format!("{}/us-east-1/s3/aws4_request", &time[..8]);
    let hashed = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashed}");
    let step =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let mut key = format!("AWS4{}", user.secret).into_bytes();
    for part in scope.split('/') {
        key = step(&key, part);
    }
    let signature = hex(&step(&key, &to_sign));
    format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", user.key)
}
