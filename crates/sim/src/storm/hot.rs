//! Keys that several clients share in a storm: what they see must be linearizable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::chance::Chance;
use crate::crowd::{Crowd, Face, Page};
use crate::http::{Answer, Request};
use crate::linear::{self, Call, Outcome, Recorder, Verdict};
use crate::oracle::Value;
use crate::storm::bucket_path;
use crate::storm::stage::{Failed, Stage};
use crate::storm::work::{path_of, tags};
use crate::world;

/// What their names begin with.
pub const PREFIX: &str = "hot/";
const KEYS: u64 = 2;
const CLIENTS: u32 = 3;
/// Of each client in each half.
const REQUESTS: u64 = 12;
/// Between two requests of a client at the most: spread over the half.
const PAUSE: Duration = Duration::from_millis(600);
/// What a key holds that nobody wrote.
const NOBODYS: u64 = u64::MAX;

/// Clients of the storm's one node.
#[derive(Clone)]
pub struct Hot {
    stage: Stage,
    recorder: Recorder,
    /// Entity tags by serial.
    tags: Arc<Mutex<BTreeMap<u64, String>>>,
}

/// Some small, some in segments; all of lengths of their own, so that a listing tells them apart.
fn value_of(serial: u64) -> Value {
    let number = serial as usize;
    Value { serial, len: if serial.is_multiple_of(6) { 70_000 + number } else { 100 + number } }
}

fn serial_of(len: usize) -> u64 {
    if len >= 70_000 { len as u64 - 70_000 } else { (len as u64).saturating_sub(100) }
}

impl Hot {
    pub fn new(stage: Stage) -> Self {
        Self { stage, recorder: Recorder::new(world::clock()), tags: Arc::default() }
    }

    /// Sends requests for as long as the weather is bad, or a little less.
    pub async fn run(self, half: u64) {
        let crowd = Crowd {
            seed: Chance::new(self.stage.seed ^ (half + 3) << 54).word(),
            clients: CLIENTS,
            nodes: 1,
            prefix: PREFIX.to_owned(),
            keys: KEYS,
            requests: REQUESTS,
            pause: PAUSE,
            first_value: 1 + half * 1000,
        };
        crowd.run(&self, &self.recorder, &world::clock(), || self.stage.is_stormy()).await;
    }

    /// Reads all keys once more; all that was ever seen must fit together.
    pub async fn check(&self) -> Result<(), Failed> {
        for number in 0..KEYS {
            let key = format!("{PREFIX}{number}");
            let ticket = self.recorder.begin(CLIENTS, &key, Call::Get);
            let path = path_of(&key);
            let answer = self.stage.read(Request { method: "GET", path: &path, ..Request::default() }).await?;
            self.recorder.end(ticket, self.found(&answer));
        }
        match linear::check(&self.recorder.history()) {
            Verdict::Linearizable => Ok(()),
            verdict => Err(verdict.to_string().into()),
        }
    }

    fn learn(&self, serial: u64, answer: &Answer) {
        if let Some(tag) = answer.header("etag") {
            self.tags.lock().unwrap_or_else(PoisonError::into_inner).insert(serial, tag.to_owned());
        }
    }

    fn found(&self, answer: &Answer) -> Outcome {
        match answer.status {
            200 => {
                let serial = serial_of(answer.body.len());
                if value_of(serial).bytes() != answer.body {
                    return Outcome::Found(Some(NOBODYS));
                }
                self.learn(serial, answer);
                Outcome::Found(Some(serial))
            }
            404 => Outcome::Found(None),
            500.. => Outcome::Unknown,
            // Nothing else answers a plain read: it is shown as what it can't be.
            _ => Outcome::Found(Some(NOBODYS)),
        }
    }

    async fn write(&self, key: &str, value: u64, headers: &[(&str, &str)]) -> Outcome {
        let (path, body) = (path_of(key), value_of(value).bytes());
        let put = Request { method: "PUT", path: &path, headers, body: &body, ..Request::default() };
        let Ok(answer) = self.stage.s3(put).await else { return Outcome::Unknown };
        match answer.status {
            200 => {
                self.learn(value, &answer);
                Outcome::Done
            }
            412 => Outcome::PreconditionFailed,
            // An object that is not there has no entity tag to match.
            404 if !headers.is_empty() => Outcome::PreconditionFailed,
            409 => Outcome::Refused,
            _ => Outcome::Unknown,
        }
    }
}

impl Face for Hot {
    async fn put(&self, _node: usize, key: &str, value: u64) -> Outcome {
        self.write(key, value, &[]).await
    }

    async fn get(&self, _node: usize, key: &str) -> Outcome {
        let path = path_of(key);
        let answer = self.stage.s3(Request { method: "GET", path: &path, ..Request::default() }).await;
        answer.map_or(Outcome::Unknown, |answer| self.found(&answer))
    }

    async fn delete(&self, _node: usize, key: &str) -> Outcome {
        let path = path_of(key);
        match self.stage.s3(Request { method: "DELETE", path: &path, ..Request::default() }).await {
            Ok(answer) if answer.status == 204 => Outcome::Done,
            _ => Outcome::Unknown,
        }
    }

    async fn put_if_absent(&self, _node: usize, key: &str, value: u64) -> Outcome {
        self.write(key, value, &[("if-none-match", "*")]).await
    }

    async fn put_if_match(&self, _node: usize, key: &str, value: u64, expected: u64) -> Outcome {
        let tag = self.tags.lock().unwrap_or_else(PoisonError::into_inner).get(&expected).cloned();
        let Some(tag) = tag else { return Outcome::Refused };
        self.write(key, value, &[("if-match", &tag)]).await
    }

    async fn list(&self, _node: usize, prefix: &str, after: &str) -> Option<Page> {
        let (prefix, start) = (prefix.replace('/', "%2F"), after.replace('/', "%2F"));
        let (path, query) = (bucket_path(), format!("list-type=2&prefix={prefix}&start-after={start}"));
        let list = Request { method: "GET", path: &path, query: &query, ..Request::default() };
        let answer = self.stage.s3(list).await.ok().filter(|answer| answer.status == 200)?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let sizes = tags(&text, "Size").into_iter().map(|size| size.parse().map_or(NOBODYS, serial_of));
        let seen: BTreeMap<String, u64> = tags(&text, "Key").into_iter().zip(sizes).collect();
        let until = seen.keys().next_back().cloned().filter(|_| text.contains("<IsTruncated>true<"));
        Some(Page { seen, until })
    }
}
