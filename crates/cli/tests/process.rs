//! The real binary, as a person or a service manager runs it. Nothing is known of its inside.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test of the real world")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ABIDE: &str = env!("CARGO_BIN_EXE_abide");

/// Folders and a home of its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ABIDE);
        command.args(words).env("ABIDE_HOME", self.path("home")).env_remove("ABIDE_LOG").current_dir(self.0.path());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let done = self.run(&[words, &["--json"]].concat());
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn up(&self, words: &[&str]) -> Up {
        self.up_told(words, "")
    }

    /// Starts a store, tells it `input`, and waits until it serves.
    fn up_told(&self, words: &[&str], input: &str) -> Up {
        let words = [&["up", "--listen", "127.0.0.1:0"], words].concat();
        let mut command = self.command(&words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let mut up = Up { out: BufReader::new(child.stdout.take().unwrap()), child, shown: Vec::new() };
        while !up.shown.last().is_some_and(|line| line.starts_with("next ")) {
            let mut line = String::new();
            if up.out.read_line(&mut line).unwrap() == 0 {
                panic!("it ended: {}", up.errors());
            }
            up.shown.push(line.trim_end().to_owned());
        }
        // The control socket answers as soon as all is served.
        self.json(&["status"]);
        up
    }
}

/// A running store.
struct Up {
    child: Child,
    out: BufReader<ChildStdout>,
    shown: Vec<String>,
}

impl Up {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as a service manager does; gives its exit code.
    fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code()
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn words(&self) -> String {
        self.shown.iter().find(|line| line.split(' ').count() == 24).cloned().expect("24 words")
    }

    fn endpoint(&self) -> String {
        let line = self.shown.iter().find(|line| line.starts_with("S3 ")).expect("the endpoint");
        line.trim_start_matches("S3").trim().trim_start_matches("http://").to_owned()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn error(done: &Output) -> String {
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    String::from_utf8(done.stderr.clone()).unwrap()
}

fn get(endpoint: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(endpoint).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// All files under a folder whose name begins so.
fn files(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path(), begin));
        } else if entry.file_name().to_string_lossy().starts_with(begin) {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

#[test]
fn words_are_shown_once_and_restore_the_key() {
    let place = Place::new();
    let up = place.up(&["d1"]);
    let (words, key) = (up.words(), place.json(&["env"]));
    assert_eq!(up.stop(), Some(0), "SIGTERM is a clean end");
    assert!(!place.path("home/control.sock").exists(), "the socket is left behind");

    let up = place.up(&["d1"]);
    assert!(!up.shown.concat().contains(&words), "the words are shown again");
    assert_eq!(up.stop(), Some(0));

    let file = files(&place.path("home"), "").into_iter().find(|path| path.extension().is_some_and(|e| e == "key"));
    std::fs::remove_file(file.unwrap()).unwrap();
    let done = place.run(&["up", "--listen", "127.0.0.1:0", "d1"]);
    assert!(error(&done).contains("--words"), "it doesn't say what to do: {}", error(&done));
    let few = place.run(&["up", "--listen", "127.0.0.1:0", "--words", "d1"]);
    assert!(error(&few).contains("24 words"), "{}", error(&few));
    let up = place.up_told(&["--words", "d1"], &format!("{}\n", words.replacen(' ', "\n", 5).to_uppercase()));
    let again = place.json(&["env"]);
    assert_eq!(again["AWS_SECRET_ACCESS_KEY"], key["AWS_SECRET_ACCESS_KEY"]);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn what_is_refused_is_refused_before_anything_is_made() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let done = place.run(&["up", "--listen", &address, "d1"]);
    assert!(error(&done).contains("--listen"), "{}", error(&done));
    let done = place.run(&["up", "--listen", "127.0.0.1:0", "--policy", "four+two", "d1"]);
    assert!(error(&done).contains("4+2"), "{}", error(&done));
    let done = place.command(&["up", "--listen", "127.0.0.1:0", "d1"]).env("ABIDE_LOG", "a=b=c").output().unwrap();
    assert!(error(&done).contains("ABIDE_LOG"), "{}", error(&done));
    assert!(!place.path("d1").exists(), "a store was made");
}

#[test]
fn one_home_serves_one_store() {
    let place = Place::new();
    let up = place.up(&["d1"]);
    let done = place.run(&["up", "--listen", "127.0.0.1:0", "d2"]);
    assert!(error(&done).contains("--home"), "{}", error(&done));
    assert!(!place.path("d2").exists(), "a store was made");
    place.json(&["status"]);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn errors_are_one_line_or_json() {
    let place = Place::new();
    let done = place.run(&["status"]);
    assert_eq!(error(&done).lines().count(), 1, "{}", error(&done));
    assert!(error(&done).contains("abide up"), "{}", error(&done));
    let done = place.run(&["status", "--json"]);
    let answer: Value = serde_json::from_str(&error(&done)).unwrap();
    assert!(answer["error"].as_str().unwrap().contains("abide up"));
    assert!(done.stdout.is_empty());
    assert_eq!(place.run(&["statsu"]).status.code(), Some(2));
    let up = place.up(&["d1"]);
    let refused: Value = serde_json::from_str(&error(&place.run(&["verify", "nothing", "--json"]))).unwrap();
    assert_eq!(refused["kind"], "missing", "{refused}");
    drop(up);
}

#[test]
fn second_interrupt_ends_at_once() {
    let place = Place::new();
    let mut up = place.up(&["d1"]);
    // A request that never ends holds the orderly end up for as long as it may take.
    let mut held = TcpStream::connect(up.endpoint()).unwrap();
    held.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").unwrap();
    // Served after the held one was accepted: connections are taken in order.
    assert!(get(&up.endpoint(), "/health").contains("green"));
    up.signal(Signal::INT);
    let mut errors = BufReader::new(up.child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("stopping") {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it ended at the first Ctrl-C");
    }
    up.signal(Signal::INT);
    assert_eq!(up.child.wait().unwrap().code(), Some(1), "it went on to its orderly end");
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("at once"), "{rest}");
    let up = place.up(&["d1"]);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn log_that_nobody_reads_stops_nothing() {
    let place = Place::new();
    let mut up = place.up(&["d1", "d2"]);
    drop(up.child.stderr.take());
    place.json(&["drive", "add", "d3/"]);
    place.json(&["drive", "drain", "d2/", "--apply"]);
    let drives = place.json(&["drive", "list"]);
    let third = &drives[2];
    assert_eq!((third["path"].as_str(), third["state"].as_str()), (place.path("d3").to_str(), Some("up")), "{drives}");
    assert!(get(&up.endpoint(), "/health").contains("200 OK"));
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn health_and_metrics_need_no_signature_and_show_no_secret() {
    let place = Place::new();
    let up = place.up(&["d1", "d2", "d3"]);
    let health = get(&up.endpoint(), "/health");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"green\""), "{health}");
    let mut metrics = get(&up.endpoint(), "/metrics");
    // The one before may be about to end.
    for _ in 0..600 {
        if !metrics.contains("abide_s3_connections 2") {
            break;
        }
        metrics = get(&up.endpoint(), "/metrics");
    }
    for line in ["abide_health 0", "abide_repair_pieces 0", "abide_s3_connections 1"] {
        assert!(metrics.lines().any(|shown| shown == line), "no {line} in {metrics}");
    }
    let drives = |name: &str| metrics.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(drives("abide_drive_up{"), 3);
    let key = place.json(&["env"]);
    for secret in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        assert!(!metrics.contains(key[secret].as_str().unwrap()));
    }
    assert!(get(&up.endpoint(), "/").starts_with("HTTP/1.1 403"), "S3 itself needs one");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn files_are_inspected_with_no_store_running() {
    let place = Place::new();
    let settings = node::Settings::new(vec![place.path("d1"), place.path("d2")], place.path("home"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let key = runtime.block_on(async {
        let started = node::Node::open(env::Env::real(), settings).await.unwrap();
        let client = started.node.client();
        let bucket = client.create_bucket("photos", &base::UserId("u".repeat(64)), "us-east-1").await.unwrap();
        let mut writer = client.writer(&bucket, None);
        writer.write(bytes::Bytes::from(vec![7; 3 << 20])).await.unwrap();
        writer.finish().await.unwrap();
        started.node.close().await;
        started.key_file
    });
    drop(runtime);
    let logs = files(&place.path("d1/pieces"), "log-");
    let pieces: usize = logs
        .iter()
        .map(|log| {
            let answer = place.json(&["inspect", "piece", log.to_str().unwrap()]);
            let records = answer["records"].as_array().unwrap().clone();
            assert!(records.iter().all(|record| record["sound"] == true), "{answer}");
            records.iter().filter(|record| record["header"]["len"] == 3 << 20).count()
        })
        .sum();
    assert_eq!(pieces, 1, "no piece of the segment in {logs:?}");
    let metadata = files(&place.path("d1/meta"), "log-");
    assert!(!metadata.is_empty());
    for log in &metadata {
        let log = log.to_str().unwrap();
        let answer = place.json(&["inspect", "log", log, "--key-file", key.to_str().unwrap()]);
        assert!(answer["records"].is_array(), "{answer}");
        let not = place.run(&["inspect", "piece", log]);
        assert!(error(&not).contains("no piece log"), "{}", error(&not));
    }
    // Every bit of a record counts.
    let sound: Value = place.json(&["inspect", "piece", logs[0].to_str().unwrap()]);
    let first = sound["records"][0]["offset"].as_u64().unwrap() as usize;
    let (mut data, damaged) = (std::fs::read(&logs[0]).unwrap(), place.path("damaged"));
    data[first + 40] ^= 1;
    std::fs::write(&damaged, data).unwrap();
    let done = place.run(&["inspect", "piece", damaged.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(1), "a flipped bit is not found: {done:?}");
}
