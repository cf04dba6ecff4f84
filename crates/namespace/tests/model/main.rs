//! Random histories of a volume against a naive S3 bucket: every answer, every page, every row.
#![allow(clippy::unwrap_used)]

mod oracle;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, PolicyId, SegmentId, VolumeId, Wall};
use codec::Versioned;
use namespace::journal::{Event, What};
use namespace::read::{self, Entry, ListQuery, Next, Page};
use namespace::*;
use oracle::{Answer, Ask, Oracle};
use proptest::prelude::*;
use rows::Map;

const VOLUME: VolumeId = VolumeId(7);
const KEYS: &[&str] = &[
    "a",
    "a/",
    "a//",
    "a//b",
    "/",
    "//",
    "a/b",
    "a/b/",
    "a/b/c",
    "a/b/d",
    "a-b",
    "a0",
    "a\u{1}",
    "a/b\u{1}c",
    "a/\u{1}",
    "b",
    ".",
    "..",
    "../x",
    "a/./b",
    "a/../b",
    "ä/ö",
    "ä",
    "z/1/2/3/4",
    "z/1/2/x",
    "z/1/y",
    "zz",
    "\u{10ffff}/\u{10ffff}",
];
const PREFIXES: &[&str] =
    &["", "a", "a/", "a/b", "a/b/", "a//", "/", "z/", "z/1/2", "z/1/2/", "nothing", "nothing/x", "ä/", "a\u{1}", "./"];
const DELIMITERS: &[&str] = &["", "/", "", "/", "b", "/b", "//", "1/", "ö", "."];

/// One step of a history: numbers that are read as indices into whatever is there.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    key: u8,
    body: u8,
    pick: u16,
    condition: u8,
    query: (u8, u8, u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let query = (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>());
    // Few keys are hot, so that versions pile up.
    let key = prop_oneof![0..KEYS.len() as u8, 0..4u8];
    (0..100u8, key, any::<u8>(), any::<u16>(), any::<u8>(), query)
        .prop_map(|(kind, key, body, pick, condition, query)| Step { kind, key, body, pick, condition, query })
}

/// The bucket under test, the oracle, and what is needed to make new things.
struct World {
    map: Map,
    oracle: Oracle,
    now: Wall,
    made: u64,
    old_bodies: Vec<(u64, Body)>,
    old_uploads: Vec<(String, UploadId)>,
}

fn segment(number: u64, len: u64) -> SegmentRef {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    SegmentRef {
        id: SegmentId(id),
        policy: PolicyId((number % 2) as u16),
        group: GroupId((number % 3) as u32),
        k: 2,
        m: 1,
        len,
        root: [number as u8; 32],
        wrapped_key: [number as u8; 48],
    }
}

impl World {
    fn new() -> Self {
        World {
            map: Map::new(),
            oracle: Oracle::default(),
            now: Wall(1_000_000),
            made: 0,
            old_bodies: Vec::new(),
            old_uploads: Vec::new(),
        }
    }

    fn fresh(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// A body of any kind: inline short and long, own segments few and many, packed, a copy of
    /// something that is or was there, spans.
    fn body(&mut self, kind: u8, pick: u16) -> (u64, Body) {
        let number = self.fresh();
        match kind % 9 {
            0 => (0, Body::Inline(Vec::new())),
            1 => (u64::from(pick % 64), Body::Inline(vec![number as u8; usize::from(pick % 64)])),
            2 => (100, Body::Inline(vec![number as u8; 100])),
            3 => (10, Body::Segments(vec![segment(number, 10)])),
            4 => {
                // Twice the same segment in one object counts twice.
                let mut segments: Vec<_> = (0..u64::from(pick % 8)).map(|_| segment(self.fresh(), 10)).collect();
                segments.push(segment(number, 10));
                segments.push(segment(number, 10));
                (10 * segments.len() as u64, Body::Segments(segments))
            }
            5 | 6 => {
                let pack = segment(1_000_000 + number / 8, 400);
                let (index, len) = ((number % 8) as u32, 40 + (number % 8) as u32);
                (24, Body::Packed(pack, Slot { index, offset: index * 50, len }))
            }
            7 => match self.old_bodies.len() {
                0 => (0, Body::Inline(Vec::new())),
                len => self.old_bodies[len - 1 - usize::from(pick) % len.min(12)].clone(),
            },
            _ => {
                let (first, second) = (self.body(kind / 9 % 8, pick), self.body(pick as u8 % 7, pick));
                let span = |(size, body): (u64, Body)| match body {
                    Body::Spans(spans) => spans,
                    body => vec![Span { size, body }],
                };
                (first.0 + second.0, Body::Spans([span(first), span(second)].concat()))
            }
        }
    }

    fn attrs(pick: u16) -> Attrs {
        let mut attrs = Attrs::from([("content-type".to_owned(), vec![b't'; usize::from(pick % 30)])]);
        if pick.is_multiple_of(3) {
            attrs.insert("parts".to_owned(), vec![1; 300]);
        }
        if pick.is_multiple_of(5) {
            attrs.extend((0..5).map(|n| (format!("meta:{n}"), vec![n; 150])));
        }
        attrs
    }

    fn condition(&self, key: &str, pick: u8) -> Condition {
        let current = self.oracle.current(key);
        let etag = || current.map_or("none".to_owned(), |made| format!("\"{}\"", made.version.etag));
        let mut condition = Condition::default();
        match pick {
            0..8 => condition.if_match = Some(vec!["*".into()]),
            8..16 => condition.if_match = Some(vec!["wrong".into(), etag()]),
            16..20 => condition.if_match = Some(vec!["wrong".into()]),
            20..28 => condition.if_none_match = Some(vec!["*".into()]),
            28..34 => condition.if_none_match = Some(vec![etag()]),
            34..38 => condition.if_none_match = Some(vec!["wrong".into()]),
            38..44 => condition.if_modified = current.map(|made| made.version.modified),
            44..46 => condition.if_modified = Some(Wall(5)),
            46..52 => condition.if_size = current.map(|made| made.version.size),
            52..54 => condition.if_size = Some(12_345),
            // One that may be long, one that may be short.
            54..60 => {
                let of = |name: &str| current.and_then(|made| made.version.attrs.get(name).cloned());
                condition.if_attrs = ["parts", "tags"].map(|name| (name.to_owned(), of(name))).to_vec();
            }
            60..62 => condition.if_attrs = vec![("tags".into(), Some(b"wrong".to_vec()))],
            _ => {}
        }
        condition
    }

    /// A version of the key that is there, or one that isn't.
    fn version(&self, key: &str, pick: u16) -> VersionId {
        let versions = self.oracle.keys.get(key).map_or(&[][..], Vec::as_slice);
        match pick % 8 {
            0 => VersionId(u64::from(pick)),
            1 => VersionId::NULL,
            _ if versions.is_empty() => VersionId::NULL,
            _ => versions[usize::from(pick / 8) % versions.len()].version.id,
        }
    }

    fn upload(&self, pick: u16) -> (String, UploadId) {
        let there: Vec<_> = self.oracle.uploads.keys().cloned().collect();
        match pick % 10 {
            0 => ("a".into(), UploadId([9; 16])),
            1 if !self.old_uploads.is_empty() => {
                self.old_uploads[usize::from(pick / 10) % self.old_uploads.len()].clone()
            }
            _ if there.is_empty() => ("a".into(), UploadId([9; 16])),
            _ => there[usize::from(pick / 10) % there.len()].clone(),
        }
    }

    fn command(&mut self, step: &Step) -> Command {
        let key = KEYS[usize::from(step.key) % KEYS.len()].to_owned();
        let condition = self.condition(&key, step.condition);
        match step.kind {
            0..30 => {
                let (size, body) = self.body(step.body, step.pick);
                let etag = format!("e{}", self.made % 5);
                let new = NewVersion { size, etag, attrs: Self::attrs(step.pick), body };
                Command::Put { key, new, condition }
            }
            30..44 => Command::Delete { key, version: None, condition },
            44..58 => Command::Delete { version: Some(self.version(&key, step.pick)), key, condition },
            58..63 => {
                let version = (!step.pick.is_multiple_of(3)).then(|| self.version(&key, step.pick / 3));
                let value = (!step.body.is_multiple_of(4)).then(|| vec![step.body; usize::from(step.body) * 2]);
                let set = vec![("tags".into(), value), ("content-type".into(), None)];
                Command::SetAttrs { key, version, set, condition }
            }
            63..68 => {
                let upload = UploadId([self.fresh() as u8; 16]);
                Command::BeginUpload { upload, key, attrs: Self::attrs(step.pick) }
            }
            68..78 => {
                let (key, upload) = self.upload(step.pick);
                let (size, body) = self.body(step.body, step.pick);
                let (number, etag) = (1 + step.pick % 4, format!("p{}", step.body % 3));
                let modified = Wall(0);
                let part = Part { number, modified, size, etag, attrs: Self::attrs(step.pick / 5), body };
                Command::PutPart { upload, key, part }
            }
            78..84 => self.complete(step),
            84..86 => {
                let (key, upload) = self.upload(step.pick);
                Command::AbortUpload { upload, key }
            }
            86..91 => Command::SetVersioning(match (step.pick % 2, self.oracle.versioning) {
                (0, Versioning::Off) => Versioning::Off,
                (0, _) => Versioning::Suspended,
                _ => Versioning::Enabled,
            }),
            91..96 => {
                let version = self.version(&key, step.pick);
                let versions = self.oracle.keys.get(&key).into_iter().flatten();
                let found = versions.map(|made| &made.version).find(|made| made.id == version && !made.marker);
                let stale = step.condition.is_multiple_of(4);
                let from = found.filter(|_| !stale).map_or(Body::Inline(vec![1]), |found| found.body.clone());
                let size = found.map_or(0, |found| found.size);
                let to = match step.body % 3 {
                    0 => Body::Inline(vec![2; size as usize]),
                    1 => Body::Segments(vec![segment(self.fresh(), size)]),
                    _ => {
                        let number = self.fresh();
                        let index = (number % 8) as u32;
                        let slot = Slot { index, offset: 0, len: 40 + index };
                        Body::Packed(segment(1_000_000 + number / 8, 400), slot)
                    }
                };
                Command::Rebody { key, version, from, to }
            }
            96..98 => {
                let to = KEYS[usize::from(step.body) % KEYS.len()].to_owned();
                let made = self.oracle.current(&key).map(|made| made.version.clone());
                let etag = made.as_ref().map_or_else(String::new, |made| made.etag.clone());
                let etag = if step.condition.is_multiple_of(8) { "other".into() } else { etag };
                let mut body = made.map_or(Body::Inline(Vec::new()), |made| made.body);
                // Names and wraps change, bytes don't.
                if let Body::Packed(segment, _) = &mut body {
                    segment.wrapped_key[0] ^= 1;
                }
                Command::Rename { from: key, to, etag, attrs: Self::attrs(step.pick), body }
            }
            _ => {
                let mut segments: Vec<_> = self.oracle.garbage().into_iter().collect();
                segments.truncate(usize::from(step.pick % 4));
                Command::CollectedGarbage { segments }
            }
        }
    }

    fn complete(&self, step: &Step) -> Command {
        let (key, upload) = self.upload(step.pick);
        let pending = self.oracle.uploads.get(&(key.clone(), upload)).cloned().unwrap_or_default();
        let mut parts: Vec<_> = pending
            .parts
            .values()
            .filter(|part| step.body & (1 << part.number) == 0)
            .map(|part| (part.number, part.etag.clone()))
            .collect();
        if step.body.is_multiple_of(11) {
            parts.reverse();
        }
        if step.body.is_multiple_of(13) {
            parts.push((9, "p0".into()));
        }
        if parts.is_empty() {
            parts.push((1, "p0".into()));
        }
        let condition = self.condition(&key, step.condition);
        let etag = format!("m{}", step.pick % 5);
        Command::CompleteUpload { upload, key, parts, etag, attrs: Self::attrs(step.pick), condition }
    }

    fn run(&mut self, step: &Step) {
        let command = self.command(step);
        self.now.0 += 700;
        let real = apply(&self.map, VOLUME, &command, self.now);
        let wanted = self.oracle.apply(&command, self.now);
        match (real, wanted) {
            (Ok((batch, outcome)), Ok(answer)) => {
                self.judge(&command, &outcome, answer);
                self.told(&command, &batch.events, &outcome);
                base::kv::apply(&mut self.map, &batch);
            }
            (Err(Error::SegmentGone { segment }), Err(Error::SegmentGone { .. })) => {
                // Any one of those that are gone may be named.
                assert!(self.oracle.known.contains(&segment));
            }
            (real, wanted) => {
                assert_eq!(real.map(|(_, outcome)| outcome).err(), wanted.err(), "{command:?}");
            }
        }
        match command {
            Command::Put { new, .. } => self.old_bodies.push((new.size, new.body)),
            Command::PutPart { part, .. } => self.old_bodies.push((part.size, part.body)),
            Command::BeginUpload { key, upload, .. } => self.old_uploads.push((key, upload)),
            _ => {}
        }
    }

    fn judge(&mut self, command: &Command, outcome: &Outcome, answer: Answer) {
        let found = match answer {
            Answer::Nothing => Answer::Nothing,
            Answer::New(null, ..) => {
                let (Command::Put { key, .. }
                | Command::Delete { key, .. }
                | Command::CompleteUpload { key, .. }
                | Command::Rename { to: key, .. }) = command
                else {
                    panic!("{command:?} made a version");
                };
                self.oracle.name_last(key, outcome.version.unwrap());
                match command {
                    Command::Rename { .. } => assert!(outcome.modified < self.now),
                    _ => assert_eq!(outcome.modified, self.now),
                }
                Answer::New(null, outcome.marker, outcome.size, outcome.etag.clone())
            }
            Answer::Removed(..) => Answer::Removed(outcome.version.unwrap(), outcome.marker),
            Answer::Old(..) => Answer::Old(outcome.version.unwrap(), outcome.size, outcome.etag.clone()),
            Answer::Part(..) => Answer::Part(outcome.size, outcome.etag.clone()),
        };
        assert_eq!(found, answer, "{command:?}");
    }

    /// The journal's readers learn of every version that comes.
    fn told(&self, command: &Command, events: &[Vec<u8>], outcome: &Outcome) {
        let events: Vec<_> = events.iter().map(|event| Event::decode(event).unwrap()).collect();
        assert!(events.iter().all(|event| event.volume == VOLUME && event.at == self.now));
        if let Command::Put { key, .. } = command {
            let last = events.last().map(|event| event.what.clone());
            let Some(What::Put { key: told, version, size, .. }) = last else { panic!("{events:?}") };
            assert_eq!((told, Some(version), size), (key.clone(), outcome.version, outcome.size));
        }
    }

    fn check(&self, step: &Step) {
        rows::check(&self.map, VOLUME.0, &self.oracle);
        self.heads(step);
        self.pages(step);
    }

    /// Every version of a key is found by name, whole.
    fn heads(&self, step: &Step) {
        let key = KEYS[usize::from(step.key) % KEYS.len()];
        let head = |version, body| read::head(&self.map, VOLUME, key, version, body).map(read::Found::into_version);
        let versions = self.oracle.keys.get(key).map_or(&[][..], Vec::as_slice);
        match versions.last() {
            None => assert_eq!(head(None, true), Err(Error::NoSuchKey)),
            Some(current) => assert_eq!(head(None, true).unwrap(), current.version),
        }
        for made in versions {
            assert_eq!(head(Some(made.version.id), true).unwrap(), made.version);
            let brief = head(Some(made.version.id), false).unwrap();
            assert!(brief.body == Body::Unloaded || brief.body == made.version.body);
        }
        assert_eq!(head(Some(VersionId(u64::MAX - 1)), true), Err(Error::NoSuchVersion));
    }

    fn pages(&self, step: &Step) {
        let (prefix, delimiter, after, limit) = step.query;
        let query = ListQuery {
            prefix: PREFIXES[usize::from(prefix) % PREFIXES.len()].into(),
            delimiter: DELIMITERS[usize::from(delimiter) % DELIMITERS.len()].into(),
            after: match after {
                0..100 => Some(KEYS[usize::from(after) % KEYS.len()].into()),
                100..130 => Some(PREFIXES[usize::from(after) % PREFIXES.len()].into()),
                130..140 => Some(format!("{}\u{1}", KEYS[usize::from(after) % KEYS.len()])),
                _ => None,
            },
            limit: usize::from(limit % 7),
            ..ListQuery::default()
        };
        self.objects(&query);
        self.versions(&query);
        self.uploads(&query);
    }

    fn objects(&self, query: &ListQuery) {
        let current = |(key, made): (&String, &Vec<oracle::Made>)| {
            let version = made.last().unwrap().version.clone();
            (!version.marker).then(|| (key.clone(), version))
        };
        let things: Vec<_> = self.oracle.keys.iter().filter_map(current).collect();
        let mut lines = Ask { prefix: &query.prefix, delimiter: &query.delimiter }.lines(&things);
        if let Some(after) = &query.after {
            lines.retain(|(line, _)| line > after);
        }
        walk(
            query,
            &lines,
            |query| read::list(&self.map, VOLUME, query).unwrap(),
            |object, line, version| {
                assert_eq!(&object.key, line);
                listed(&object.version, version);
            },
        );
    }

    fn versions(&self, query: &ListQuery) {
        let mut things = Vec::new();
        for (key, versions) in &self.oracle.keys {
            for (at, made) in versions.iter().enumerate().rev() {
                things.push((key.clone(), (made.version.clone(), at + 1 == versions.len())));
            }
        }
        let mut lines = Ask { prefix: &query.prefix, delimiter: &query.delimiter }.lines(&things);
        let mut query = query.clone();
        if let Some(after) = &query.after {
            let there = lines.iter().position(|(line, thing)| line == after && thing.is_some());
            match there {
                // Go on inside a key, after its first version.
                Some(at) if query.limit.is_multiple_of(2) => {
                    query.after_version = lines[at].1.as_ref().map(|(version, _)| version.id);
                    lines.drain(..=at);
                }
                _ => lines.retain(|(line, _)| line > after),
            }
        }
        walk(
            &query,
            &lines,
            |query| read::list_versions(&self.map, VOLUME, query).unwrap(),
            |found, line, wanted| {
                assert_eq!((&found.key, found.latest), (line, wanted.1));
                listed(&found.version, &wanted.0);
            },
        );
    }

    fn uploads(&self, query: &ListQuery) {
        let things: Vec<_> =
            self.oracle.uploads.iter().map(|((key, id), pending)| (key.clone(), (*id, pending.clone()))).collect();
        let mut lines = Ask { prefix: &query.prefix, delimiter: &query.delimiter }.lines(&things);
        let mut query = query.clone();
        if let Some(after) = &query.after {
            let there = lines.iter().position(|(line, thing)| line == after && thing.is_some());
            match there {
                Some(at) if query.limit.is_multiple_of(2) => {
                    query.after_upload = lines[at].1.as_ref().map(|(id, _)| *id);
                    lines.drain(..=at);
                }
                _ => lines.retain(|(line, _)| line > after),
            }
        }
        walk(
            &query,
            &lines,
            |query| read::uploads(&self.map, VOLUME, query).unwrap(),
            |found, line, (id, pending)| {
                assert_eq!((&found.key, found.id, found.begun), (line, *id, pending.begun));
                assert_eq!(found.attrs, pending.attrs);
                let parts = read::parts(&self.map, VOLUME, &found.key, found.id, 0, 100).unwrap();
                let wanted: Vec<_> =
                    pending.parts.values().map(|part| Part { body: Body::Unloaded, ..part.clone() }).collect();
                assert_eq!(parts, wanted);
                assert_eq!(read::upload(&self.map, VOLUME, &found.key, found.id).unwrap(), *found);
            },
        );
    }
}

/// A listed version: no body, short attributes only.
fn listed(found: &Version, wanted: &Version) {
    let bare = |version: &Version| Version { attrs: Attrs::new(), body: Body::Unloaded, ..version.clone() };
    assert_eq!(bare(found), bare(wanted));
    for (name, value) in &wanted.attrs {
        match found.attrs.get(name) {
            Some(found) => assert_eq!(found, value),
            None => assert!(value.len() > 256 || name.contains(':'), "{name} is not listed"),
        }
    }
    assert!(found.attrs.keys().all(|name| wanted.attrs.contains_key(name)));
}

/// Walks page by page and compares every line.
fn walk<T: std::fmt::Debug, W: std::fmt::Debug>(
    query: &ListQuery,
    lines: &[(String, Option<W>)],
    page: impl Fn(&ListQuery) -> Page<T>,
    same: impl Fn(&T, &String, &W),
) {
    if query.limit == 0 {
        let page = page(query);
        assert!(page.entries.is_empty() && page.next.is_none());
    }
    let mut query = ListQuery { limit: query.limit.max(1), ..query.clone() };
    let mut rest = lines;
    loop {
        let page = page(&query);
        let (here, more) = rest.split_at(rest.len().min(query.limit));
        assert_eq!(page.entries.len(), here.len(), "{query:?}: {page:?}, not {here:?}");
        for (entry, (line, wanted)) in page.entries.iter().zip(here) {
            match (entry, wanted) {
                (Entry::Prefix(prefix), None) => assert_eq!(prefix, line),
                (Entry::Item(item), Some(wanted)) => same(item, line, wanted),
                (entry, wanted) => panic!("{query:?}: {entry:?}, not {line:?} {wanted:?}"),
            }
        }
        assert_eq!(page.truncated(), !more.is_empty(), "{query:?}");
        let Some(Next { after, version, upload }) = page.next else { return };
        query = ListQuery { after: Some(after), after_version: version, after_upload: upload, ..query };
        rest = more;
    }
}

/// Rows that are made of what is kept of each key elsewhere are read as the rows themselves.
fn copies_say_the_same(map: &Map) {
    let query = ListQuery { limit: 1000, ..ListQuery::default() };
    let listed = read::list_versions(map, VOLUME, &query).unwrap();
    let keys: BTreeSet<&str> = listed
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::Item(listed) => listed.key.as_str(),
            Entry::Prefix(prefix) => panic!("{prefix}"),
        })
        .collect();
    let mut copied = kept::Copied::default();
    for key in &keys {
        for one in kept::kept(map, VOLUME, key).unwrap().iter().rev() {
            copied.add(VOLUME, key, one).unwrap();
        }
    }
    let copied = copied.finish(VOLUME, read::versioning(map, VOLUME).unwrap()).unwrap();
    assert_eq!(read::list_versions(&copied, VOLUME, &query).unwrap(), listed);
    for prefix in PREFIXES {
        for delimiter in DELIMITERS {
            let (prefix, delimiter) = ((*prefix).to_owned(), (*delimiter).to_owned());
            let query = ListQuery { prefix, delimiter, limit: 1000, ..ListQuery::default() };
            assert_eq!(read::list(&copied, VOLUME, &query), read::list(map, VOLUME, &query));
        }
    }
    for entry in &listed.entries {
        let Entry::Item(listed) = entry else { continue };
        let found = |map: &Map| read::head(map, VOLUME, &listed.key, Some(listed.version.id), true);
        assert_eq!(found(&copied), found(map));
    }
    assert_eq!(read::versioning(&copied, VOLUME), read::versioning(map, VOLUME));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_agrees_with_a_naive_bucket_in_every_answer_page_and_row(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.check(step);
        }
        copies_say_the_same(&world.map);
        world.empty();
    }

    #[test]
    fn versions_of_one_key_come_and_go_as_in_a_naive_bucket(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let mut world = World::new();
        for mut step in steps {
            step.key = 0;
            step.condition |= 64;
            step.kind = match step.kind {
                0..30 => 0,
                30..45 => 30,
                45..80 => 44,
                80..90 => 86,
                kind => kind,
            };
            world.run(&step);
            world.check(&step);
        }
        copies_say_the_same(&world.map);
        world.empty();
    }
}

impl World {
    /// Everything deleted: only counters, garbage and tombs are left, and the volume can be closed.
    fn empty(&mut self) {
        let all: Vec<_> = self
            .oracle
            .keys
            .iter()
            .flat_map(|(key, made)| made.iter().map(move |made| (key.clone(), made.version.id)))
            .collect();
        for (key, version) in all {
            let command = Command::Delete { key, version: Some(version), condition: Condition::default() };
            let (batch, _) = apply(&self.map, VOLUME, &command, self.now).unwrap();
            base::kv::apply(&mut self.map, &batch);
        }
        let (batch, _) = apply(&self.map, VOLUME, &Command::Close, self.now).unwrap();
        base::kv::apply(&mut self.map, &batch);
        let left: BTreeSet<u8> = self.map.keys().map(|key| key[4]).collect();
        assert!(left.iter().all(|table| b"GHT".contains(table)), "{left:?}");
        let known: BTreeMap<_, _> = self.oracle.known.iter().map(|id| (*id, ())).collect();
        let garbage = read::garbage(&self.map, VOLUME, None, usize::MAX).unwrap();
        let free: BTreeSet<_> = garbage.iter().map(|garbage| garbage.segment).collect();
        assert_eq!(free.len() + self.oracle.collected.len(), known.len(), "every segment is given back once");
        let segments = free.into_iter().collect();
        let (batch, _) = apply(&self.map, VOLUME, &Command::CollectedGarbage { segments }, self.now).unwrap();
        base::kv::apply(&mut self.map, &batch);
        assert_eq!(read::garbage(&self.map, VOLUME, None, usize::MAX).unwrap(), []);
    }
}
