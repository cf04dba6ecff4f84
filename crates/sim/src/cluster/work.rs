//! Clients. Each works on keys of its own, of which it knows what must be there, and on hot keys that
//! all share, of which it takes down what it saw.
//!
//! An attempt that failed may come about later: a key of one's own is left alone after one, and on a
//! hot key each attempt writes a value of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use crate::chance::Chance;
use crate::cluster::Kind;
use crate::cluster::stage::{BUCKET, Failed, Stage};
use crate::http::{Answer, Request};
use crate::linear::{Call, Outcome, Recorder};
use crate::oracle::{Truth, Truths, Value};

/// How long a second shard may take to come.
const SHARD_SECS: u64 = 120;
/// Keys that a client uses at a time.
const KEYS: u64 = 6;
/// Keys that all clients share.
const HOT: u64 = 3;
/// Attempts at a request.
const ATTEMPTS: u32 = 5;
/// How long an attempt may take: more than any node waits for another.
const ATTEMPT: Duration = Duration::from_secs(6);
/// One that carries megabytes.
const LONG_ATTEMPT: Duration = Duration::from_secs(30);
/// What is small enough for its time to be measured.
const SMALL: usize = 64 << 10;

/// Lengths around everything that is stored in another way: inline, packed, segments, stripes.
const LENS: [usize; 10] = [0, 1, 700, 4096, 4097, 9_000, 65_536, 100_001, 262_144, 700_000];

pub struct Worker {
    stage: Stage,
    kind: Kind,
    number: usize,
    chance: Chance,
    truths: Truths,
    /// How often each slot got a new key because something about the last is open.
    ages: BTreeMap<u64, u64>,
    recorder: Recorder,
    /// Entity tags that were seen of hot keys, with the serials of their values.
    seen: BTreeMap<String, (String, u64)>,
}

/// What all attempts came to.
struct Done {
    /// The last answer that says something.
    answer: Option<Answer>,
    /// An attempt failed: it may have been carried out, or be yet.
    open: bool,
}

fn wrong(what: &str, answer: &Answer) -> Failed {
    format!("{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)).into()
}

fn path_of(key: &str) -> String {
    format!("/{BUCKET}/{key}")
}

pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// Makes the storm's bucket; where there are several shards, in another one than the first.
pub async fn make_buckets(stage: &Stage) -> Result<(), Failed> {
    if stage.nodes_per_shard.is_some() {
        make_bucket(stage, "first").await?;
        let began = now();
        loop {
            let told = stage.admin(0, "GET", "/v1/events?limit=100", &Json::Null).await?;
            if told.to_string().contains("shard 2 takes new buckets") {
                break;
            }
            if (now() - began).as_secs() >= SHARD_SECS {
                return Err(format!("there is no second shard for volumes: {told}").into());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    make_bucket(stage, BUCKET).await
}

pub async fn make_bucket(stage: &Stage, name: &str) -> Result<(), Failed> {
    let path = format!("/{name}");
    let answer = read(stage, 0, Request { method: "PUT", path: &path, ..Request::default() }).await?;
    if answer.status == 200 { Ok(()) } else { Err(wrong("the bucket can't be made", &answer)) }
}

/// A request at one machine that can be made as often as one likes, tried again for a minute.
pub async fn read(stage: &Stage, number: usize, request: Request<'_>) -> Result<Answer, Failed> {
    let (began, mut last) = (now(), String::new());
    while now() - began < Duration::from_secs(60) {
        match stage.s3(number, LONG_ATTEMPT, request).await {
            Ok(answer) if answer.status < 500 => return Ok(answer),
            Ok(answer) => last = format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("{} {} finds no answer for a minute: {last}", request.method, request.path).into())
}

/// Stores an object that nobody else touches.
pub async fn put_plain(stage: &Stage, bucket: &str, key: &str, body: &[u8]) -> Result<(), Failed> {
    let path = format!("/{bucket}/{key}");
    let answer = read(stage, 0, Request { method: "PUT", path: &path, body, ..Request::default() }).await?;
    if answer.status == 200 { Ok(()) } else { Err(wrong(&path, &answer)) }
}

/// Deletes one.
pub async fn delete_plain(stage: &Stage, bucket: &str, key: &str) -> Result<(), Failed> {
    let path = format!("/{bucket}/{key}");
    let answer = read(stage, 0, Request { method: "DELETE", path: &path, ..Request::default() }).await?;
    if answer.status == 204 { Ok(()) } else { Err(wrong(&path, &answer)) }
}

/// Reads one through a machine, if it is there.
pub async fn get_plain(stage: &Stage, number: usize, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, Failed> {
    let path = format!("/{bucket}/{key}");
    let answer = read(stage, number, Request { method: "GET", path: &path, ..Request::default() }).await?;
    match answer.status {
        200 => Ok(Some(answer.body.to_vec())),
        404 => Ok(None),
        _ => Err(wrong(&path, &answer)),
    }
}

/// The bytes of a hot key's value: they say which it is.
fn hot_body(serial: u64) -> Vec<u8> {
    let len = match serial % 8 {
        0 => 70_000,
        1 | 2 => 5_000,
        _ => 40,
    };
    let mut body = vec![0; len];
    Chance::new(serial).fill(&mut body);
    body[..8].copy_from_slice(&serial.to_be_bytes());
    body
}

fn serial_of(body: &[u8]) -> Option<u64> {
    let serial = u64::from_be_bytes(body.get(..8)?.try_into().ok()?);
    (hot_body(serial) == body).then_some(serial)
}

impl Worker {
    pub fn new(stage: Stage, kind: Kind, number: usize, seed: u64, truths: Truths, recorder: Recorder) -> Self {
        let (ages, seen) = Default::default();
        let mut this = Self { stage, kind, number, chance: Chance::new(seed), truths, ages, recorder, seen };
        // Keys of the first phase stay; which of them are open isn't known any more.
        for slot in 0..KEYS {
            while this.truths.contains_key(&this.name(slot)) {
                *this.ages.entry(slot).or_default() += 1;
            }
        }
        this
    }

    fn name(&self, slot: u64) -> String {
        let age = self.ages.get(&slot).copied().unwrap_or(0);
        // Some in folders, so that listings have something to fold.
        if slot < 3 { format!("w{}/{slot}-{age}", self.number) } else { format!("w{}/dir{slot}/{age}", self.number) }
    }

    /// Sends requests while the weather is bad; gives what must be there.
    pub async fn run(mut self) -> Result<Truths, String> {
        while self.stage.is_stormy() {
            let done = if self.chance.percent(55) { self.own().await } else { self.hot().await };
            done.map_err(|error| error.to_string())?;
            tokio::time::sleep(Duration::from_millis(self.chance.below(120))).await;
        }
        Ok(self.truths)
    }

    /// Any node but the one where the last attempt failed, as every proxy does it.
    fn node(&mut self, failed: Option<usize>) -> usize {
        let members = self.stage.members();
        let at = self.chance.below(members.len() as u64) as usize;
        if failed == Some(members[at]) { members[(at + 1) % members.len()] } else { members[at] }
    }

    /// Attempts, each at some node, until one says something.
    async fn attempts(&mut self, request: Request<'_>) -> Result<Done, Failed> {
        let mut open = false;
        // What passed at machines that were well, and between attempts.
        let mut took = Duration::ZERO;
        let mut failed = None;
        for attempt in 0..ATTEMPTS {
            let (node, began) = (self.node(failed), now());
            let well = self.stage.well(node);
            let limit = if request.body.len() > SMALL { LONG_ATTEMPT } else { ATTEMPT };
            let answer = self.stage.s3(node, limit, request).await;
            if well.is_some() && well == self.stage.well(node) {
                took += now() - began;
            }
            match answer {
                Ok(answer) if answer.status < 500 => {
                    if request.body.len() <= SMALL && answer.body.len() <= SMALL {
                        self.stage.stalled(request.path, took.as_millis() as u64);
                    }
                    return Ok(Done { answer: Some(answer), open });
                }
                _ => (open, failed) = (true, Some(node)),
            }
            let pause = Duration::from_millis(self.chance.below(100 << attempt));
            took += pause;
            tokio::time::sleep(pause).await;
        }
        self.stage.count(|counts| counts.given_up += 1);
        if self.kind != Kind::Anything {
            return Err(format!("{} {} failed {ATTEMPTS} times", request.method, request.path).into());
        }
        Ok(Done { answer: None, open })
    }

    // Hot keys.

    async fn hot(&mut self) -> Result<(), Failed> {
        if self.chance.percent(8) {
            return self.hot_list().await;
        }
        let key = format!("hot/{}", self.chance.below(HOT));
        let mut failed = None;
        for attempt in 0..ATTEMPTS {
            let node = self.node(failed);
            if self.hot_attempt(node, &key).await? {
                return Ok(());
            }
            failed = Some(node);
            tokio::time::sleep(Duration::from_millis(self.chance.below(100 << attempt))).await;
        }
        self.stage.count(|counts| counts.given_up += 1);
        if self.kind == Kind::Anything { Ok(()) } else { Err(format!("{key}: {ATTEMPTS} attempts failed").into()) }
    }

    /// One attempt at something, at that node; whether it was answered.
    async fn hot_attempt(&mut self, node: usize, key: &str) -> Result<bool, Failed> {
        let (path, began) = (path_of(key), now());
        let well = self.stage.well(node);
        let serial = self.stage.next_serial();
        let body = hot_body(serial);
        let known = self.seen.get(key).cloned();
        let (call, method, condition) = match (self.chance.below(100), known) {
            (0..30, _) => (Call::Get, "GET", None),
            (30..40, _) => (Call::Head, "HEAD", None),
            (40..50, _) => (Call::Delete, "DELETE", None),
            (50..60, _) => (Call::PutIfAbsent(serial), "PUT", Some(("if-none-match", "*".to_owned()))),
            (60..75, Some((tag, expected))) => {
                (Call::PutIfMatch { value: serial, expected }, "PUT", Some(("if-match", tag)))
            }
            _ => (Call::Put(serial), "PUT", None),
        };
        let mark = serial.to_string();
        let mut headers: Vec<(&str, &str)> = condition.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if method == "PUT" {
            headers.push(("x-amz-meta-serial", mark.as_str()));
        }
        let body = if method == "PUT" { body.as_slice() } else { &[] };
        let ticket = self.recorder.begin(self.number as u32, key, call);
        let answer = self.stage.s3(node, ATTEMPT, Request { method, path: &path, headers: &headers, body, query: "" });
        let Ok(answer) = answer.await else {
            self.recorder.unknown(ticket);
            return Ok(false);
        };
        if well.is_some() && well == self.stage.well(node) {
            self.stage.stalled(key, (now() - began).as_millis() as u64);
        }
        let outcome = match (answer.status, method) {
            (200, "GET") => {
                let serial = serial_of(&answer.body).ok_or_else(|| format!("{key} holds what nobody wrote"))?;
                self.learn(key, &answer, serial);
                Outcome::Found(Some(serial))
            }
            (200, "HEAD") => {
                let mark = answer.header("x-amz-meta-serial").and_then(|mark| mark.parse().ok());
                let serial: u64 = mark.ok_or_else(|| format!("the head of {key} lacks its serial"))?;
                self.learn(key, &answer, serial);
                Outcome::Found(Some(serial))
            }
            (404, "GET" | "HEAD") => Outcome::Found(None),
            (200, "PUT") => {
                self.learn(key, &answer, serial);
                Outcome::Done
            }
            (204, "DELETE") => Outcome::Done,
            (412, "PUT") if !headers.is_empty() => {
                self.seen.remove(key);
                Outcome::PreconditionFailed
            }
            // If-Match of an object that isn't there.
            (404, "PUT") if matches!(call, Call::PutIfMatch { .. }) => {
                self.seen.remove(key);
                Outcome::PreconditionFailed
            }
            (409, "PUT") => Outcome::Refused,
            (500.., _) => Outcome::Unknown,
            _ => return Err(wrong(&format!("{method} {key}"), &answer)),
        };
        self.recorder.end(ticket, outcome);
        Ok(outcome != Outcome::Unknown)
    }

    fn learn(&mut self, key: &str, answer: &Answer, serial: u64) {
        if let Some(tag) = answer.header("etag") {
            self.stage.learn_tag(tag, serial);
            self.seen.insert(key.to_owned(), (tag.to_owned(), serial));
        }
    }

    async fn hot_list(&mut self) -> Result<(), Failed> {
        let ticket = self.recorder.begin_list(self.number as u32, "hot/", "");
        let (path, query) = (format!("/{BUCKET}"), "list-type=2&prefix=hot%2F");
        let answer = self.attempts(Request { method: "GET", path: &path, query, ..Request::default() }).await?.answer;
        let Some(answer) = answer else { return Ok(()) };
        if answer.status != 200 {
            return Err(wrong("list", &answer));
        }
        let text = String::from_utf8_lossy(&answer.body).replace("&quot;", "\"").replace("&#34;", "\"");
        let mut seen = BTreeMap::new();
        for (key, tag) in tags(&text, "Key").into_iter().zip(tags(&text, "ETag")) {
            // A value whose writer got no answer, and that nobody read yet: the page says nothing.
            let Some(serial) = self.stage.serial_of(&tag) else { return Ok(()) };
            seen.insert(key, serial);
        }
        self.recorder.end_list(ticket, seen, None);
        Ok(())
    }

    // Own keys.

    fn value(&mut self) -> Value {
        let len = LENS[self.chance.below(LENS.len() as u64) as usize];
        Value { serial: self.stage.next_serial(), len }
    }

    fn certain(&self, key: &str) -> Option<Value> {
        self.truths.get(key).and_then(|truth| truth.certain()).flatten()
    }

    async fn own(&mut self) -> Result<(), Failed> {
        let slot = self.chance.below(KEYS);
        let key = self.name(slot);
        match self.chance.below(100) {
            0..40 => {
                let value = self.value();
                let (path, body) = (path_of(&key), value.bytes());
                let put = Request { method: "PUT", path: &path, body: &body, ..Request::default() };
                self.change(slot, &key, Some(value), put, 200).await
            }
            40..62 => self.get(&key).await,
            62..70 => self.range(&key).await,
            70..80 => {
                let path = path_of(&key);
                let delete = Request { method: "DELETE", path: &path, ..Request::default() };
                self.change(slot, &key, None, delete, 204).await
            }
            80..86 => self.copy(slot, &key).await,
            86..95 => self.upload(slot, &key).await,
            _ => self.list().await,
        }
    }

    /// A change of one key; `value` is what it then holds.
    async fn change(
        &mut self,
        slot: u64,
        key: &str,
        value: Option<Value>,
        request: Request<'_>,
        wanted: u16,
    ) -> Result<(), Failed> {
        let done = self.attempts(request).await?;
        match done.answer {
            Some(answer) if answer.status == wanted => {
                self.stage.count(|counts| counts.acknowledged += 1);
                self.truths.entry(key.to_owned()).or_default().is(value);
            }
            Some(answer) => return Err(wrong(&format!("{} {key}", request.method), &answer)),
            None => self.truths.entry(key.to_owned()).or_default().may_be(value),
        }
        if done.open {
            self.stage.count(|counts| counts.unknown += 1);
            *self.ages.entry(slot).or_default() += 1;
        }
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<(), Failed> {
        let path = path_of(key);
        let answer = self.attempts(Request { method: "GET", path: &path, ..Request::default() }).await?.answer;
        let Some(answer) = answer else { return Ok(()) };
        explain(key, self.truths.get(key).unwrap_or(&Truth::default()), &answer)
    }

    async fn range(&mut self, key: &str) -> Result<(), Failed> {
        let Some(value) = self.certain(key).filter(|value| value.len > 0) else { return Ok(()) };
        let from = self.chance.below(value.len as u64) as usize;
        let end = from + 1 + self.chance.below((value.len - from) as u64) as usize;
        let (path, range) = (path_of(key), format!("bytes={from}-{}", end - 1));
        let headers = [("range", range.as_str())];
        let get = Request { method: "GET", path: &path, headers: &headers, ..Request::default() };
        let Some(answer) = self.attempts(get).await?.answer else { return Ok(()) };
        if answer.status == 206 && answer.body == value.bytes()[from..end] {
            return Ok(());
        }
        Err(format!("{range} of {key}: {} with other bytes than were written", answer.status).into())
    }

    async fn copy(&mut self, slot: u64, key: &str) -> Result<(), Failed> {
        let from = self.chance.below(KEYS);
        let from = self.name(from);
        let Some(value) = self.certain(&from).filter(|_| from != key) else { return Ok(()) };
        let (path, source) = (path_of(key), path_of(&from));
        let headers = [("x-amz-copy-source", source.as_str())];
        let copy = Request { method: "PUT", path: &path, headers: &headers, ..Request::default() };
        self.change(slot, key, Some(value), copy, 200).await
    }

    /// In one part or two: the last may have any length.
    async fn upload(&mut self, slot: u64, key: &str) -> Result<(), Failed> {
        const PART: usize = 5 << 20;
        let path = path_of(key);
        let begin = Request { method: "POST", path: &path, query: "uploads=", ..Request::default() };
        let Some(answer) = self.attempts(begin).await?.answer else { return Ok(()) };
        let Some(id) = tags(&String::from_utf8_lossy(&answer.body), "UploadId").into_iter().next() else {
            return Err(wrong("no upload id", &answer));
        };
        let mut value = self.value();
        if self.chance.percent(8) {
            value.len += PART;
        }
        let body = value.bytes();
        let mut parts = String::new();
        let bodies = if body.len() > PART { vec![&body[..PART], &body[PART..]] } else { vec![&body[..]] };
        for (number, part) in bodies.into_iter().enumerate() {
            let query = format!("partNumber={}&uploadId={id}", number + 1);
            let put = Request { method: "PUT", path: &path, query: &query, body: part, ..Request::default() };
            let Some(answer) = self.attempts(put).await?.answer else { return Ok(()) };
            if answer.status != 200 {
                return Err(wrong(&format!("part of {key}"), &answer));
            }
            let etag = answer.header("etag").unwrap_or_default();
            parts.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", number + 1));
        }
        let query = format!("uploadId={id}");
        let list = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let complete =
            Request { method: "POST", path: &path, query: &query, body: list.as_bytes(), ..Request::default() };
        let done = self.attempts(complete).await?;
        let truth = self.truths.entry(key.to_owned()).or_default();
        match done.answer {
            // An error may come after the head of a good answer.
            Some(answer) if answer.status == 200 && !tags(&text(&answer), "ETag").is_empty() => {
                self.stage.count(|counts| counts.acknowledged += 1);
                truth.is(Some(value));
                if done.open {
                    *self.ages.entry(slot).or_default() += 1;
                }
            }
            // A first attempt that was carried out without an answer leaves no upload.
            Some(answer) if answer.status != 200 && !(done.open && answer.status == 404) => {
                return Err(wrong(&format!("complete {key}"), &answer));
            }
            _ => {
                truth.may_be(Some(value));
                *self.ages.entry(slot).or_default() += 1;
            }
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<(), Failed> {
        let own = [std::mem::take(&mut self.truths)];
        let prefix = format!("w{}/", self.number);
        let listed = self.pages(&prefix, &own).await;
        let [own] = own;
        self.truths = own;
        listed
    }

    async fn pages(&mut self, prefix: &str, own: &[Truths]) -> Result<(), Failed> {
        let mut listing = Pages::of(prefix);
        loop {
            let (path, query) = (format!("/{BUCKET}"), listing.query());
            let list = Request { method: "GET", path: &path, query: &query, ..Request::default() };
            let Some(answer) = self.attempts(list).await?.answer else { return Ok(()) };
            if listing.take(&answer)? {
                return listing.judge(own);
            }
        }
    }
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// All texts of such elements.
fn tags(body: &str, name: &str) -> Vec<String> {
    body.split(&format!("<{name}>")).skip(1).filter_map(|rest| Some(rest.split_once('<')?.0.to_owned())).collect()
}

fn explain(key: &str, truth: &Truth, answer: &Answer) -> Result<(), Failed> {
    let seen = match answer.status {
        200 => Some(answer.body.as_slice()),
        404 => None,
        _ => return Err(wrong(&format!("GET {key}"), answer)),
    };
    if truth.explain(seen).is_some() {
        return Ok(());
    }
    Err(format!("{key} holds {:?} bytes, but can only be {truth:?}", seen.map(<[u8]>::len)).into())
}

/// Reads every key at one machine; it must hold what it can hold.
pub async fn check_all(stage: &Stage, number: usize, truths: &Truths) -> Result<(), Failed> {
    for (key, truth) in truths {
        let path = path_of(key);
        let answer = read(stage, number, Request { method: "GET", path: &path, ..Request::default() }).await?;
        explain(key, truth, &answer)?;
    }
    Ok(())
}

/// Lists a prefix at one machine: every key that must be there is, none that can't be.
pub async fn check_listing(stage: &Stage, number: usize, prefix: &str, all: &[Truths]) -> Result<(), Failed> {
    let mut listing = Pages::of(prefix);
    let path = format!("/{BUCKET}");
    loop {
        let query = listing.query();
        let list = Request { method: "GET", path: &path, query: &query, ..Request::default() };
        if listing.take(&read(stage, number, list).await?)? {
            return listing.judge(all);
        }
    }
}

/// All keys of a bucket as a machine lists them, with their lengths.
pub async fn list_plain(stage: &Stage, number: usize, bucket: &str) -> Result<BTreeMap<String, usize>, Failed> {
    let (mut listing, path) = (Pages::of(""), format!("/{bucket}"));
    loop {
        let query = listing.query();
        let list = Request { method: "GET", path: &path, query: &query, ..Request::default() };
        if listing.take(&read(stage, number, list).await?)? {
            return Ok(listing.seen);
        }
    }
}

/// A listing, page by page.
struct Pages {
    prefix: String,
    after: String,
    seen: BTreeMap<String, usize>,
}

impl Pages {
    fn of(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), after: String::new(), seen: BTreeMap::new() }
    }

    fn query(&self) -> String {
        let escaped = |text: &str| text.replace('/', "%2F");
        format!("list-type=2&max-keys=9&prefix={}&start-after={}", escaped(&self.prefix), escaped(&self.after))
    }

    /// Takes a page; whether it was the last one.
    fn take(&mut self, answer: &Answer) -> Result<bool, Failed> {
        if answer.status != 200 {
            return Err(wrong("list", answer));
        }
        let text = text(answer);
        let keys = tags(&text, "Key");
        for (key, size) in keys.iter().zip(tags(&text, "Size")) {
            self.seen.insert(key.clone(), size.parse()?);
        }
        match keys.last() {
            Some(last) if text.contains("<IsTruncated>true<") => self.after.clone_from(last),
            _ => return Ok(true),
        }
        Ok(false)
    }

    fn judge(mut self, all: &[Truths]) -> Result<(), Failed> {
        for (key, truth) in all.iter().flatten() {
            if !truth.allows_len(self.seen.remove(key)) {
                return Err(format!("the listing of {:?} shows {key} as it can't be: {truth:?}", self.prefix).into());
            }
        }
        match self.seen.first_key_value() {
            Some((key, size)) => {
                Err(format!("the listing of {:?} shows {key} of {size} bytes, which nobody wrote", self.prefix).into())
            }
            None => Ok(()),
        }
    }
}
