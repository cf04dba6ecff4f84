//! Clients: each works on keys of its own, one request at a time, and knows what must be there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::chance::Chance;
use crate::http::{Answer, Request};
use crate::oracle::{Truth, Truths, Value};
use crate::storm::bucket_path;
use crate::storm::stage::{BUCKET, Failed, Stage};

/// Keys that a client uses at a time.
const KEYS: u64 = 7;

/// Lengths around everything that is stored in another way: inline, packed, segments, stripes.
const LENS: [usize; 12] =
    [0, 1, 700, 4096, 4097, 9_000, 65_536, 100_001, 262_144, 700_000, 1 << 20, (1 << 20) + 70_001];

/// What became of a change.
enum Fate {
    Done(Answer),
    Refused(Answer),
    Unknown,
}

pub struct Worker {
    stage: Stage,
    number: usize,
    chance: Chance,
    truths: Truths,
    /// How often each slot got a new key because the fate of the last is open.
    ages: BTreeMap<u64, u64>,
}

/// Makes the storm's bucket.
pub async fn make_bucket(stage: &Stage) -> Result<(), Failed> {
    let path = bucket_path();
    let answer = stage.read(Request { method: "PUT", path: &path, ..Request::default() }).await?;
    if answer.status == 200 { Ok(()) } else { Err(wrong("the bucket can't be made", &answer)) }
}

fn wrong(what: &str, answer: &Answer) -> Failed {
    format!("{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)).into()
}

/// The path of a key of the storm's bucket.
pub fn path_of(key: &str) -> String {
    format!("/{BUCKET}/{key}")
}

impl Worker {
    pub fn new(stage: Stage, number: usize, seed: u64, truths: Truths) -> Self {
        // Keys of the first half stay; open ones are replaced by new ones.
        let mut this = Self { stage, number, chance: Chance::new(seed), truths, ages: BTreeMap::new() };
        for slot in 0..KEYS {
            while this.truths.get(&this.name(slot)).is_some_and(|truth| truth.certain().is_none()) {
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
            self.step().await.map_err(|error| error.to_string())?;
            tokio::time::sleep(Duration::from_millis(self.chance.below(100))).await;
        }
        Ok(self.truths)
    }

    fn pick(&mut self) -> (u64, String) {
        let slot = self.chance.below(KEYS);
        (slot, self.name(slot))
    }

    fn value(&mut self) -> Value {
        let len = LENS[self.chance.below(LENS.len() as u64) as usize];
        Value { serial: self.stage.next_serial(), len }
    }

    fn certain(&self, key: &str) -> Option<Value> {
        self.truths.get(key).and_then(|truth| truth.certain()).flatten()
    }

    async fn step(&mut self) -> Result<(), Failed> {
        let (slot, key) = self.pick();
        match self.chance.below(100) {
            0..40 => {
                let value = self.value();
                let body = value.bytes();
                let path = path_of(&key);
                let put = Request { method: "PUT", path: &path, body: &body, ..Request::default() };
                self.change(slot, &key, Some(value), put, 200).await
            }
            40..62 => check_key(&self.stage, &key, self.truths.get(&key).unwrap_or(&Truth::default())).await,
            62..70 => self.range(&key).await,
            70..80 => {
                let (path, before) = (path_of(&key), self.certain(&key));
                self.change(slot, &key, None, Request { method: "DELETE", path: &path, ..Request::default() }, 204)
                    .await?;
                match before {
                    Some(value) if self.truths.get(&key).and_then(Truth::certain) == Some(None) => {
                        self.undo(slot, &key, value).await
                    }
                    _ => Ok(()),
                }
            }
            80..86 => self.copy(slot, &key).await,
            86..91 => self.create_only(slot, &key).await,
            91..96 => self.upload(slot, &key).await,
            _ => {
                let own = [std::mem::take(&mut self.truths)];
                let listed = check_listing(&self.stage, &format!("w{}/", self.number), &own).await;
                let [own] = own;
                self.truths = own;
                listed
            }
        }
    }

    async fn send(&self, request: Request<'_>, wanted: u16) -> Fate {
        match self.stage.s3(request).await {
            Ok(answer) if answer.status == wanted => Fate::Done(answer),
            // What can't be done now may have been done all the same.
            Ok(answer) if answer.status >= 500 => Fate::Unknown,
            Ok(answer) => Fate::Refused(answer),
            Err(_) => Fate::Unknown,
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
        match self.send(request, wanted).await {
            Fate::Done(_) => self.done(key, value),
            Fate::Unknown => self.unknown(slot, key, value).await?,
            Fate::Refused(answer) => return Err(wrong(&format!("{} {key}", request.method), &answer)),
        }
        Ok(())
    }

    fn done(&mut self, key: &str, value: Option<Value>) {
        self.stage.count(|counts| counts.acknowledged += 1);
        self.truths.entry(key.to_owned()).or_default().is(value);
    }

    async fn unknown(&mut self, slot: u64, key: &str, value: Option<Value>) -> Result<(), Failed> {
        self.stage.count(|counts| counts.unknown += 1);
        self.truths.entry(key.to_owned()).or_default().may_be(value);
        *self.ages.entry(slot).or_default() += 1;
        self.stage.ready().await
    }

    async fn range(&mut self, key: &str) -> Result<(), Failed> {
        let Some(value) = self.certain(key).filter(|value| value.len > 0) else { return Ok(()) };
        let from = self.chance.below(value.len as u64) as usize;
        let end = from + 1 + self.chance.below((value.len - from) as u64) as usize;
        let (path, range) = (path_of(key), format!("bytes={from}-{}", end - 1));
        let headers = [("range", range.as_str())];
        let answer =
            self.stage.read(Request { method: "GET", path: &path, headers: &headers, ..Request::default() }).await?;
        let bytes = value.bytes();
        if answer.status == 206 && answer.body == bytes[from..end] {
            return Ok(());
        }
        Err(format!("{range} of {key}: {} with other bytes than were written", answer.status).into())
    }

    async fn copy(&mut self, slot: u64, key: &str) -> Result<(), Failed> {
        let (_, from) = self.pick();
        let Some(value) = self.certain(&from).filter(|_| from != key) else { return Ok(()) };
        let (path, source) = (path_of(key), path_of(&from));
        let headers = [("x-amz-copy-source", source.as_str())];
        let copy = Request { method: "PUT", path: &path, headers: &headers, ..Request::default() };
        self.change(slot, key, Some(value), copy, 200).await
    }

    /// Now and then what was just deleted is wanted back.
    async fn undo(&mut self, slot: u64, key: &str, value: Value) -> Result<(), Failed> {
        if !self.chance.percent(40) {
            return Ok(());
        }
        let wish = json!({ "what": format!("{BUCKET}/{key}") });
        let done = self.stage.admin("POST", "/v1/undo", &wish).await.map_err(|error| error.to_string());
        match done {
            Ok(_) => self.done(key, Some(value)),
            Err(error) if error.contains("can be had back") => {
                if self.stage.keeps_deleted() {
                    return Err(format!("{key} was deleted and can't be had back: {error}").into());
                }
                // Its window passed, or the answer to a request that was done never came.
                self.unknown(slot, key, Some(value)).await?;
            }
            Err(_) => self.unknown(slot, key, Some(value)).await?,
        }
        Ok(())
    }

    /// Only if there is nothing yet.
    async fn create_only(&mut self, slot: u64, key: &str) -> Result<(), Failed> {
        let value = self.value();
        let (path, body) = (path_of(key), value.bytes());
        let headers = [("if-none-match", "*")];
        let put = Request { method: "PUT", path: &path, headers: &headers, body: &body, ..Request::default() };
        match (self.send(put, 200).await, self.certain(key)) {
            (Fate::Done(_), None) => self.done(key, Some(value)),
            (Fate::Done(_), Some(_)) => return Err(format!("If-None-Match: * replaced {key}").into()),
            (Fate::Refused(answer), Some(_)) if answer.status == 412 => {}
            (Fate::Refused(answer), _) => return Err(wrong(&format!("create {key}"), &answer)),
            (Fate::Unknown, None) => self.unknown(slot, key, Some(value)).await?,
            (Fate::Unknown, Some(_)) => {}
        }
        Ok(())
    }

    /// In one part or two: the last may have any length.
    async fn upload(&mut self, slot: u64, key: &str) -> Result<(), Failed> {
        const PART: usize = 5 << 20;
        let path = path_of(key);
        let begin = Request { method: "POST", path: &path, query: "uploads=", ..Request::default() };
        let Fate::Done(answer) = self.send(begin, 200).await else { return Ok(()) };
        let Some(id) = tag(&answer.body, "UploadId") else { return Err(wrong("no upload id", &answer)) };
        let mut value = self.value();
        if self.chance.percent(15) {
            value.len += PART;
        }
        let body = value.bytes();
        let mut parts = String::new();
        let bodies = if body.len() > PART { vec![&body[..PART], &body[PART..]] } else { vec![&body[..]] };
        for (number, part) in bodies.into_iter().enumerate() {
            let query = format!("partNumber={}&uploadId={id}", number + 1);
            let put = Request { method: "PUT", path: &path, query: &query, body: part, ..Request::default() };
            let Fate::Done(answer) = self.send(put, 200).await else { return Ok(()) };
            let etag = answer.header("etag").unwrap_or_default();
            parts.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", number + 1));
        }
        let query = format!("uploadId={id}");
        let list = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let complete =
            Request { method: "POST", path: &path, query: &query, body: list.as_bytes(), ..Request::default() };
        match self.send(complete, 200).await {
            // An error may come after the head of a good answer.
            Fate::Done(answer) if tag(&answer.body, "ETag").is_some() => self.done(key, Some(value)),
            Fate::Done(_) | Fate::Unknown => self.unknown(slot, key, Some(value)).await?,
            Fate::Refused(answer) => return Err(wrong(&format!("complete {key}"), &answer)),
        }
        Ok(())
    }
}

/// The text of the first such element.
fn tag(body: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(body).into_owned();
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0.to_owned())
}

/// All texts of such elements.
pub fn tags(body: &str, name: &str) -> Vec<String> {
    body.split(&format!("<{name}>")).skip(1).filter_map(|rest| Some(rest.split_once('<')?.0.to_owned())).collect()
}

/// Reads a key; it must hold what it can hold.
async fn check_key(stage: &Stage, key: &str, truth: &Truth) -> Result<(), Failed> {
    let path = path_of(key);
    let answer = stage.read(Request { method: "GET", path: &path, ..Request::default() }).await?;
    let seen = match answer.status {
        200 => Some(answer.body.as_slice()),
        404 => None,
        _ => return Err(wrong(&format!("GET {key}"), &answer)),
    };
    if truth.explain(seen).is_some() {
        return Ok(());
    }
    Err(format!("{key} holds {:?} bytes, but can only be {truth:?}", seen.map(<[u8]>::len)).into())
}

/// Reads every key.
pub async fn check_all(stage: &Stage, truths: &Truths) -> Result<(), Failed> {
    for (key, truth) in truths {
        check_key(stage, key, truth).await?;
    }
    Ok(())
}

/// Lists a prefix page by page: every key that must be there is, none that can't be.
pub async fn check_listing(stage: &Stage, prefix: &str, all: &[Truths]) -> Result<(), Failed> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let path = bucket_path();
    let mut after = String::new();
    loop {
        let start = after.replace('/', "%2F");
        let query = format!("list-type=2&max-keys=9&prefix={}&start-after={start}", prefix.replace('/', "%2F"));
        let answer = stage.read(Request { method: "GET", path: &path, query: &query, ..Request::default() }).await?;
        if answer.status != 200 {
            return Err(wrong("list", &answer));
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let keys = tags(&text, "Key");
        for (key, size) in keys.iter().zip(tags(&text, "Size")) {
            seen.insert(key.clone(), size.parse()?);
        }
        match keys.last() {
            Some(last) if text.contains("<IsTruncated>true<") => after.clone_from(last),
            _ => break,
        }
    }
    for (key, truth) in all.iter().flatten() {
        if !truth.allows_len(seen.remove(key)) {
            return Err(format!("the listing of {prefix:?} shows {key} as it can't be: {truth:?}").into());
        }
    }
    match seen.first_key_value() {
        Some((key, size)) => {
            Err(format!("the listing of {prefix:?} shows {key} of {size} bytes, which nobody wrote").into())
        }
        None => Ok(()),
    }
}
