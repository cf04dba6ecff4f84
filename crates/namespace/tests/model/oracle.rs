//! A naive S3 bucket: what every command and every page must give, written without the crate's
//! rows, folders or counts. It learns from the code under test only the names of new versions.

use std::collections::{BTreeMap, BTreeSet};

use base::{SegmentId, Wall};
use namespace::*;

#[derive(Clone, Debug)]
pub struct Made {
    pub version: Version,
    pub upload: Option<UploadId>,
}

#[derive(Clone, Debug, Default)]
pub struct Pending {
    pub begun: Wall,
    pub attrs: Attrs,
    pub parts: BTreeMap<u16, Part>,
}

#[derive(Clone, Debug, Default)]
pub struct Oracle {
    pub versioning: Versioning,
    /// Oldest first.
    pub keys: BTreeMap<String, Vec<Made>>,
    pub uploads: BTreeMap<(String, UploadId), Pending>,
    /// Segments that were named once.
    pub known: BTreeSet<SegmentId>,
    pub collected: BTreeSet<SegmentId>,
}

/// What a command must answer; the id of a new version is the store's to choose.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    /// A new version: null or not, marker or not, size, etag.
    New(bool, bool, u64, String),
    /// A version removed: which, and whether it was a marker.
    Removed(VersionId, bool),
    /// An existing version.
    Old(VersionId, u64, String),
    Part(u64, String),
}

impl Oracle {
    pub fn apply(&mut self, command: &Command, now: Wall) -> Result<Answer, Error> {
        let before = self.clone();
        let gone: BTreeSet<_> = self.known.difference(&self.segments().into_keys().collect()).copied().collect();
        let result = self.evaluate(command, now);
        let used = self.segments();
        if result.is_err() {
            *self = before;
        } else if let Some(segment) = used.keys().find(|segment| gone.contains(segment)) {
            let segment = *segment;
            *self = before;
            return Err(Error::SegmentGone { segment });
        }
        self.known.extend(used.into_keys());
        result
    }

    fn evaluate(&mut self, command: &Command, now: Wall) -> Result<Answer, Error> {
        match command {
            Command::Put { key, new, condition } => {
                self.writable(key, condition)?;
                let NewVersion { size, etag, attrs, body } = new.clone();
                Ok(self.push(key, Some((size, etag, attrs, body, None)), now))
            }
            Command::Delete { key, version: None, condition } => {
                let conditional = *condition != Condition::default();
                match self.current(key).cloned() {
                    None if conditional => return Ok(Answer::Nothing),
                    None => {}
                    Some(current) => holds(condition, &current.version)?,
                }
                if self.versioning == Versioning::Off {
                    self.keys.remove(key);
                    return Ok(Answer::Nothing);
                }
                Ok(self.push(key, None, now))
            }
            Command::Delete { key, version: Some(id), condition } => {
                let Some(versions) = self.keys.get_mut(key) else { return Ok(Answer::Removed(*id, false)) };
                let Some(at) = versions.iter().position(|made| made.version.id == *id) else {
                    return Ok(Answer::Removed(*id, false));
                };
                holds(condition, &versions[at].version)?;
                let gone = versions.remove(at);
                self.keys.retain(|_, versions| !versions.is_empty());
                Ok(Answer::Removed(*id, gone.version.marker))
            }
            Command::SetAttrs { key, version, set, condition } => {
                let made = self.editable(key, *version)?;
                holds(condition, made)?;
                for (name, value) in set {
                    match value {
                        Some(value) => made.attrs.insert(name.clone(), value.clone()),
                        None => made.attrs.remove(name),
                    };
                }
                Ok(Answer::Old(made.id, made.size, made.etag.clone()))
            }
            Command::Rebody { key, version, from, to } => match self.editable(key, Some(*version)) {
                Ok(made) => {
                    if made.body == *from {
                        made.body = to.clone();
                    }
                    Ok(Answer::Old(made.id, made.size, made.etag.clone()))
                }
                Err(_) => Ok(Answer::Nothing),
            },
            Command::BeginUpload { upload, key, attrs } => {
                let fresh = Pending { begun: now, attrs: attrs.clone(), parts: BTreeMap::new() };
                self.uploads.entry((key.clone(), *upload)).or_insert(fresh);
                Ok(Answer::Nothing)
            }
            Command::PutPart { upload, key, part } => {
                let pending = self.uploads.get_mut(&(key.clone(), *upload)).ok_or(Error::NoSuchUpload)?;
                pending.parts.insert(part.number, Part { modified: now, ..part.clone() });
                Ok(Answer::Part(part.size, part.etag.clone()))
            }
            Command::CompleteUpload { upload, key, parts, etag, attrs, condition } => {
                let Some(pending) = self.uploads.get(&(key.clone(), *upload)).cloned() else {
                    let done = self.current(key).filter(|made| made.upload == Some(*upload));
                    let done = &done.ok_or(Error::NoSuchUpload)?.version;
                    return Ok(Answer::Old(done.id, done.size, done.etag.clone()));
                };
                if parts.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
                    return Err(Error::PartOrder);
                }
                let mut bodies = Vec::new();
                for (number, etag) in parts {
                    let part = pending.parts.get(number).filter(|part| part.etag == *etag);
                    let part = part.ok_or(Error::InvalidPart { number: *number })?;
                    bodies.push((part.size, part.body.clone()));
                }
                self.writable(key, condition)?;
                self.uploads.remove(&(key.clone(), *upload));
                let size = bodies.iter().map(|(size, _)| size).sum();
                let body = joined(bodies);
                Ok(self.push(key, Some((size, etag.clone(), attrs.clone(), body, Some(*upload))), now))
            }
            Command::AbortUpload { upload, key } => {
                self.uploads.remove(&(key.clone(), *upload)).ok_or(Error::NoSuchUpload)?;
                Ok(Answer::Nothing)
            }
            Command::SetVersioning(state) => {
                self.versioning = *state;
                Ok(Answer::Nothing)
            }
            Command::CollectedGarbage { segments } => {
                self.collected.extend(segments);
                Ok(Answer::Nothing)
            }
            Command::Rename { from, to, etag, attrs, body } => {
                let top = |key: &str| key.split_inclusive('/').next().unwrap_or_default().to_owned();
                if top(from) == top(to) {
                    return Err(Error::InvalidValue { what: "new key", why: "it is in the same topmost folder" });
                }
                let made = self.current(from).filter(|made| !made.version.marker).ok_or(Error::NoSuchKey)?.clone();
                if self.keys[from].len() > 1 {
                    return Err(Error::InvalidValue { what: "key", why: "it has noncurrent versions" });
                }
                holds(&Condition { if_match: Some(vec![etag.clone()]), ..Condition::default() }, &made.version)?;
                self.writable(to, &Condition { if_none_match: Some(vec!["*".into()]), ..Condition::default() })?;
                self.keys.remove(from);
                let Version { size, etag, modified, .. } = made.version;
                Ok(self.push(to, Some((size, etag, attrs.clone(), body.clone(), made.upload)), modified))
            }
            // What can be had back isn't of this oracle: tests/undo.rs.
            Command::SetConfig { .. }
            | Command::NoteMissing { .. }
            | Command::Close
            | Command::Undelete { .. }
            | Command::Expire { .. }
            | Command::Shut
            | Command::Reopen
            | Command::Empty => Ok(Answer::Nothing),
        }
    }

    pub fn current(&self, key: &str) -> Option<&Made> {
        self.keys.get(key).and_then(|versions| versions.last())
    }

    fn writable(&self, key: &str, condition: &Condition) -> Result<(), Error> {
        match self.current(key).filter(|made| !made.version.marker) {
            Some(made) => holds(condition, &made.version),
            None if Condition { if_none_match: None, ..condition.clone() } != Condition::default() => {
                Err(Error::NoSuchKey)
            }
            None => Ok(()),
        }
    }

    fn editable(&mut self, key: &str, version: Option<VersionId>) -> Result<&mut Version, Error> {
        let versions = self.keys.get_mut(key);
        match version {
            None => {
                let made = versions.and_then(|versions| versions.last_mut()).ok_or(Error::NoSuchKey)?;
                if made.version.marker { Err(Error::NoSuchKey) } else { Ok(&mut made.version) }
            }
            Some(id) => {
                let mut versions = versions.into_iter().flatten();
                let made = versions.find(|made| made.version.id == id).ok_or(Error::NoSuchVersion)?;
                if made.version.marker { Err(Error::IsMarker) } else { Ok(&mut made.version) }
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn push(&mut self, key: &str, content: Option<(u64, String, Attrs, Body, Option<UploadId>)>, now: Wall) -> Answer {
        let null = self.versioning != Versioning::Enabled;
        let versions = self.keys.entry(key.to_owned()).or_default();
        if null {
            versions.retain(|made| made.version.id != VersionId::NULL);
        }
        let marker = content.is_none();
        let (size, etag, attrs, body, upload) =
            content.unwrap_or((0, String::new(), Attrs::new(), Body::Inline(Vec::new()), None));
        // Until `name_last` says the name, one that is none.
        let id = if null { VersionId::NULL } else { VersionId(u64::MAX) };
        let answer = Answer::New(null, marker, size, etag.clone());
        versions.push(Made { version: Version { id, modified: now, marker, size, etag, attrs, body }, upload });
        answer
    }

    /// The store's name for the version that was just made: a new one, greater than all before.
    pub fn name_last(&mut self, key: &str, id: VersionId) {
        let all = self.keys.values().flatten().map(|made| made.version.id);
        let greatest = all.filter(|id| id.0 != u64::MAX).max().unwrap_or(VersionId::NULL);
        let made = self.keys.get_mut(key).and_then(|versions| versions.last_mut()).unwrap();
        if made.version.id == VersionId::NULL {
            assert_eq!(id, VersionId::NULL);
        } else {
            assert!(id > greatest, "{id:?} is not newer than {greatest:?}");
            made.version.id = id;
        }
    }

    /// Everybody's bodies.
    pub fn bodies(&self) -> Vec<Body> {
        let versions = self.keys.values().flatten().map(|made| made.version.body.clone());
        let parts = self.uploads.values().flat_map(|pending| pending.parts.values());
        versions.chain(parts.map(|part| part.body.clone())).collect()
    }

    /// Segments in use, and how often they are named.
    pub fn segments(&self) -> BTreeMap<SegmentId, (SegmentRef, u64)> {
        let mut counts = BTreeMap::new();
        for body in self.bodies() {
            for (segment, _) in uses(&body) {
                counts.entry(segment.id).or_insert((segment, 0)).1 += 1;
            }
        }
        counts
    }

    pub fn garbage(&self) -> BTreeSet<SegmentId> {
        let used = self.segments();
        let free = |segment: &&SegmentId| !used.contains_key(segment) && !self.collected.contains(segment);
        self.known.iter().filter(free).copied().collect()
    }
}

/// Segments that a body names, with the slot for packs.
pub fn uses(body: &Body) -> Vec<(SegmentRef, Option<Slot>)> {
    match body {
        Body::Inline(_) | Body::Unloaded => Vec::new(),
        Body::Packed(segment, slot) => vec![(segment.clone(), Some(*slot))],
        Body::Segments(segments) => segments.iter().map(|segment| (segment.clone(), None)).collect(),
        Body::Spans(spans) => spans.iter().flat_map(|span| uses(&span.body)).collect(),
    }
}

fn joined(bodies: Vec<(u64, Body)>) -> Body {
    let flat = bodies.into_iter().flat_map(|(size, body)| match body {
        Body::Spans(spans) => spans.into_iter().map(|span| (span.size, span.body)).collect(),
        body => vec![(size, body)],
    });
    let mut spans: Vec<Span> = Vec::new();
    for (size, body) in flat.filter(|(size, body)| *size > 0 || !matches!(body, Body::Inline(_))) {
        if let (Body::Segments(more), Some(Span { size: sum, body: Body::Segments(segments) })) =
            (&body, spans.last_mut())
        {
            segments.extend(more.iter().cloned());
            *sum += size;
        } else {
            spans.push(Span { size, body });
        }
    }
    match spans.len() {
        0 => Body::Inline(Vec::new()),
        1 => spans.remove(0).body,
        _ => Body::Spans(spans),
    }
}

fn holds(condition: &Condition, version: &Version) -> Result<(), Error> {
    let etag = (!version.marker).then_some(version.etag.as_str());
    let named = |etags: &[String]| etags.iter().any(|given| given == "*" || Some(given.trim_matches('"')) == etag);
    let Condition { if_match, if_none_match, if_modified, if_size, if_attrs } = condition;
    for (what, bad) in [
        ("if-match", if_match.as_deref().is_some_and(|etags| !named(etags))),
        ("if-none-match", if_none_match.as_deref().is_some_and(named)),
        ("if-match-last-modified-time", if_modified.is_some_and(|at| at.0 / 1000 != version.modified.0 / 1000)),
        ("if-match-size", if_size.is_some_and(|size| size != version.size)),
        ("attributes", if_attrs.iter().any(|(name, value)| version.attrs.get(name) != value.as_ref())),
    ] {
        if bad {
            return Err(Error::Precondition { what });
        }
    }
    Ok(())
}

/// What a page is asked for, in the oracle's own words.
pub struct Ask<'a> {
    pub prefix: &'a str,
    pub delimiter: &'a str,
}

impl Ask<'_> {
    /// Every line of the whole listing in order: rolled-up prefixes once, and things by their key.
    pub fn lines<T: Clone>(&self, things: &[(String, T)]) -> Vec<(String, Option<T>)> {
        let mut lines: Vec<(String, Option<T>)> = Vec::new();
        for (key, thing) in things.iter().filter(|(key, _)| key.starts_with(self.prefix)) {
            let rest = &key[self.prefix.len()..];
            match rest.find(self.delimiter).filter(|_| !self.delimiter.is_empty()) {
                None => lines.push((key.clone(), Some(thing.clone()))),
                Some(at) => {
                    let rolled = key[..self.prefix.len() + at + self.delimiter.len()].to_owned();
                    if lines.last().is_none_or(|(last, thing)| *last != rolled || thing.is_some()) {
                        lines.push((rolled, None));
                    }
                }
            }
        }
        lines
    }
}
