//! What a store may hold, kept by the test's own truth, and histories that change both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Kind, Kinded, PieceId, SegmentId, Wall};
use bytes::Bytes;
use futures_util::future::join_all;
use piecestore::{Condition, Error, Options, PieceStore, State};

use super::{Chance, World};

pub const LARGE_MIN: usize = 2500;
pub const TRASH_AGE_MS: u64 = 60_000;
const BUCKET_MS: u64 = 600_000;

pub fn options() -> Options {
    Options {
        log_bytes: 24 * 1024,
        extent_file_bytes: 64 * 1024,
        large_min: LARGE_MIN,
        reserve_bytes: 0,
        trash_min_age: Duration::from_millis(TRASH_AGE_MS),
        expiry_bucket: Duration::from_millis(BUCKET_MS),
        open_files_max: 4,
        ..Options::default()
    }
}

pub async fn open(world: &Arc<World>) -> Result<Arc<PieceStore>, Error> {
    PieceStore::open(world.env(), PathBuf::from("/d/pieces"), options()).await
}

pub fn id(n: u32) -> PieceId {
    let mut segment = [0xa5; 16];
    segment[..4].copy_from_slice(&n.to_le_bytes());
    PieceId { segment: SegmentId(segment), index: (n % 7) as u8 }
}

/// One writing of a piece: everything about it follows from its serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub serial: u32,
    pub len: usize,
    pub cell: u32,
    pub expiry: Option<u64>,
}

impl Version {
    pub fn of(serial: u32, chance: &mut Chance, now: u64) -> Self {
        let len = match chance.below(10) {
            0 => 0,
            1..=5 => chance.below(900),
            6..=7 => chance.below(LARGE_MIN as u64),
            _ => LARGE_MIN as u64 + chance.below(12_000),
        } as usize;
        let cell = [300, 1000, 4096][chance.below(3) as usize];
        let expiry = (chance.below(5) == 0).then(|| now + 1 + chance.below(3 * BUCKET_MS));
        Self { serial, len, cell, expiry }
    }

    pub fn body(&self) -> Vec<u8> {
        let mut chance = Chance(self.serial.into());
        (0..self.len).map(|_| chance.next() as u8).collect()
    }

    pub fn header(&self) -> Bytes {
        format!("header of {} {}", self.serial, "x".repeat(self.serial as usize % 50)).into()
    }

    /// What it takes on the drive, by docs/formats/piecestore.md.
    fn bytes(&self) -> u64 {
        let (body, run) =
            if self.len >= LARGE_MIN { (0, (4096 + self.len).div_ceil(4096) * 4096) } else { (self.len, 0) };
        let record = 128 + self.header().len() + 8 * self.len.div_ceil(self.cell as usize) + body;
        (record.div_ceil(16) * 16 + run) as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Absent,
    Live(Version),
    /// Since when.
    Trash(Version, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Put(Version),
    Delete,
    Undelete,
    EmptyTrash,
    Expire,
    /// Cleaning, scrubbing: nothing that a caller sees.
    Upkeep,
}

/// A call on one piece.
#[derive(Clone, Debug)]
pub struct Step {
    pub n: u32,
    pub act: Act,
    /// The disk's changes before it began, and when it was answered.
    pub begin: usize,
    pub end: usize,
    pub is_ok: bool,
}

/// Calls that ran side by side.
#[derive(Clone, Debug)]
pub struct Round {
    pub begin: usize,
    pub now: u64,
    pub before: Model,
    pub steps: Vec<Step>,
}

/// Where each piece may be.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub places: BTreeMap<u32, BTreeSet<Place>>,
}

impl Model {
    pub fn of(&self, n: u32) -> BTreeSet<Place> {
        self.places.get(&n).cloned().unwrap_or_else(|| BTreeSet::from([Place::Absent]))
    }
}

fn apply(place: Place, act: &Act, now: u64) -> Vec<Place> {
    let may_expire = |version: &Version| version.expiry.is_some_and(|expiry| expiry <= now);
    match (act, place) {
        (Act::Put(version), _) => vec![Place::Live(*version)],
        (Act::Delete, Place::Live(version)) => vec![Place::Trash(version, now)],
        (Act::Undelete, Place::Trash(version, _)) => vec![Place::Live(version)],
        (Act::EmptyTrash, Place::Trash(_, since)) if now - since >= TRASH_AGE_MS => vec![place, Place::Absent],
        (Act::Expire, Place::Live(version) | Place::Trash(version, _)) if may_expire(&version) => {
            vec![place, Place::Absent]
        }
        _ => vec![place],
    }
}

impl Round {
    /// Where a piece may be if the power went after `at` changes: what was answered holds, what
    /// was under way may, in any order.
    pub fn after(&self, n: u32, at: usize) -> BTreeSet<Place> {
        let steps: Vec<&Step> = self.steps.iter().filter(|step| step.n == n && step.begin < at).collect();
        let mut found = BTreeSet::new();
        for place in self.before.of(n) {
            self.orders(place, &steps, 0, at, &mut found);
        }
        found
    }

    fn orders(&self, place: Place, steps: &[&Step], done: u32, at: usize, found: &mut BTreeSet<Place>) {
        let must = |step: &Step| step.is_ok && step.end <= at;
        if steps.iter().enumerate().all(|(i, step)| done & (1 << i) != 0 || !must(step)) {
            found.insert(place);
        }
        for (i, step) in steps.iter().enumerate().filter(|(i, _)| done & (1 << i) == 0) {
            for next in apply(place, &step.act, self.now) {
                self.orders(next, steps, done | (1 << i), at, found);
            }
        }
    }

    pub fn model_after(&self, at: usize) -> Model {
        let names: BTreeSet<u32> = self.before.places.keys().copied().chain(self.steps.iter().map(|s| s.n)).collect();
        Model { places: names.into_iter().map(|n| (n, self.after(n, at))).collect() }
    }
}

/// A store and what it may hold.
pub struct Play {
    pub world: Arc<World>,
    pub store: Arc<PieceStore>,
    pub model: Model,
    pub rounds: Vec<Round>,
    pub chance: Chance,
    pub serial: u32,
    pub ids: u32,
    /// Whether calls may fail for want of room or because the store is fenced.
    pub faulty: bool,
}

impl Play {
    pub async fn begin(seed: u64, ids: u32) -> Self {
        let world = World::new(seed);
        let store = open(&world).await.expect("open a new store");
        let chance = Chance(seed ^ 0xabcd);
        Self { world, store, model: Model::default(), rounds: Vec::new(), chance, serial: 0, ids, faulty: false }
    }

    /// Some calls side by side, often several on one piece.
    pub async fn round(&mut self) {
        self.world.pass(self.chance.below(40_000));
        let now = self.world.wall();
        let begin = self.world.count();
        let acts = match self.chance.below(12) {
            0 => (0..self.ids).map(|n| (n, Act::EmptyTrash)).collect(),
            1 => (0..self.ids).map(|n| (n, Act::Expire)).collect(),
            2..=3 => vec![(0, Act::Upkeep)],
            _ => self.calls(now),
        };
        let steps = match acts.first().map(|(_, act)| act.clone()) {
            Some(act @ (Act::EmptyTrash | Act::Expire | Act::Upkeep)) => {
                let is_ok = self.whole(&act, now).await;
                let end = self.world.count();
                acts.into_iter().map(|(n, act)| Step { n, act, begin, end, is_ok }).collect()
            }
            _ => join_all(acts.into_iter().map(|(n, act)| self.call(n, act, now))).await,
        };
        let before = self.model.clone();
        let round = Round { begin, now, before, steps };
        self.model = round.model_after(usize::MAX);
        self.rounds.push(round);
        self.look().await;
    }

    fn calls(&mut self, now: u64) -> Vec<(u32, Act)> {
        let count = 1 + self.chance.below(5);
        let some = self.chance.below(self.ids.into()) as u32;
        let mut acts: Vec<(u32, Act)> = Vec::new();
        for _ in 0..count {
            let n = if self.chance.half() { some } else { self.chance.below(self.ids.into()) as u32 };
            let act = match self.chance.below(8) {
                0..=1 => Act::Delete,
                2 => Act::Undelete,
                _ => {
                    self.serial += 1;
                    Act::Put(Version::of(self.serial, &mut self.chance, now))
                }
            };
            // More than three on one piece only cost orders to think through.
            if acts.iter().filter(|(other, _)| *other == n).count() < 3 {
                acts.push((n, act));
            }
        }
        acts
    }

    async fn call(&self, n: u32, act: Act, now: u64) -> Step {
        let begin = self.world.count();
        let result = match &act {
            Act::Put(version) => put(&self.store, n, version).await,
            Act::Delete => self.store.delete(vec![id(n)]).await.map(|_| ()),
            Act::Undelete => self.store.undelete(vec![id(n)]).await.map(|_| ()),
            _ => unreachable!("calls are on one piece"),
        };
        if let Err(error) = &result {
            assert!(self.faulty, "{act:?} of {n} at {now} failed: {error}");
        }
        Step { n, act, begin, end: self.world.count(), is_ok: result.is_ok() }
    }

    /// Calls on the whole store.
    async fn whole(&mut self, act: &Act, now: u64) -> bool {
        let result = match act {
            Act::EmptyTrash => self.store.empty_trash(Wall(now)).await.map(|_| ()),
            Act::Expire => self.store.expire(Wall(now)).await.map(|_| ()),
            _ => self.upkeep().await,
        };
        assert!(self.faulty || result.is_ok(), "{act:?} failed: {result:?}");
        result.is_ok()
    }

    async fn upkeep(&mut self) -> Result<(), Error> {
        if self.chance.half() {
            for _ in 0..500 {
                if self.store.clean_step(1 + self.chance.below(5_000)).await?.is_done {
                    return Ok(());
                }
            }
            panic!("cleaning never ends");
        }
        let mut cursor = None;
        loop {
            let scrubbed = self.store.scrub_step(cursor, 3_000).await?;
            assert!(scrubbed.findings.iter().all(|finding| finding.condition == Condition::Ok), "false alarm");
            match scrubbed.next {
                None => return Ok(()),
                next => cursor = next,
            }
        }
    }

    /// Narrows the model to what can be seen without changing anything, and checks it.
    pub async fn look(&mut self) {
        for n in 0..self.ids {
            let live = live(&self.store, n).await;
            let mut places = self.model.of(n);
            places.retain(|place| matches_live(place, &live));
            assert!(!places.is_empty(), "piece {n} is {live:?}, but must be one of {:?}", self.model.of(n));
            // What a fenced store began may show after the next open.
            if self.store.health().state == State::Ok {
                self.model.places.insert(n, places);
            }
        }
    }

    pub async fn reopen(&mut self, clean: bool) {
        if clean {
            let closed = self.store.close().await;
            assert!(self.faulty || closed.is_ok(), "close: {closed:?}");
        }
        self.store = open(&self.world).await.expect("reopen");
        self.look().await;
    }

    pub async fn finish(self) {
        verify(&self.store, &self.model, self.ids).await;
    }
}

pub async fn put(store: &Arc<PieceStore>, n: u32, version: &Version) -> Result<(), Error> {
    let body = version.body();
    let (a, b) = body.split_at(body.len() / 3);
    let parts = vec![Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)];
    store.put(id(n), version.header(), parts, version.cell, version.expiry.map(Wall)).await
}

/// The piece's bytes, if it is live.
pub async fn live(store: &Arc<PieceStore>, n: u32) -> Option<(Bytes, Bytes)> {
    let info = match store.stat(id(n)).await {
        Ok(info) => info,
        Err(error) if error.kind() == Kind::Missing => return None,
        Err(error) => panic!("stat of {n}: {error}"),
    };
    let header = store.header(id(n)).await.expect("header");
    let body = store.read(id(n), 0, info.len).await.expect("read");
    Some((header, body))
}

fn matches_live(place: &Place, live: &Option<(Bytes, Bytes)>) -> bool {
    match (place, live) {
        (Place::Live(version), Some((header, body))) => version.header() == *header && version.body() == body[..],
        (Place::Live(_), None) | (_, Some(_)) => false,
        (_, None) => true,
    }
}

/// Checks everything, the trash and the sums too; takes what is in the trash out of it.
pub async fn verify(store: &Arc<PieceStore>, model: &Model, ids: u32) {
    let health = store.health();
    let (mut lives, mut trashed) = (Vec::new(), Vec::new());
    for n in 0..ids {
        let mut seen = live(store, n).await;
        let is_live = seen.is_some();
        if !is_live && store.undelete(vec![id(n)]).await.expect("undelete") > 0 {
            seen = live(store, n).await;
            assert!(seen.is_some(), "piece {n} came back from the trash, but isn't there");
        }
        let found = model.of(n).into_iter().find(|place| match (place, &seen) {
            (Place::Absent, None) => true,
            (Place::Live(version), Some((header, body))) if is_live => {
                version.header() == *header && version.body() == body[..]
            }
            (Place::Trash(version, _), Some((header, body))) if !is_live => {
                version.header() == *header && version.body() == body[..]
            }
            _ => false,
        });
        let what = if is_live {
            "live"
        } else if seen.is_some() {
            "in the trash"
        } else {
            "absent"
        };
        let header = seen.as_ref().map(|(header, _)| header);
        match found {
            Some(Place::Live(version)) => lives.push((id(n), version)),
            Some(Place::Trash(version, _)) => trashed.push(version),
            Some(Place::Absent) => {}
            None => panic!("piece {n} is {what} ({header:?}), but must be one of {:?}", model.of(n)),
        }
    }
    assert_eq!(health.state, State::Ok);
    assert_eq!(health.lost_logs, 0);
    let sum = |versions: &mut dyn Iterator<Item = Version>| versions.map(|version| version.bytes()).sum::<u64>();
    assert_eq!((health.pieces, health.live_bytes), (lives.len() as u64, sum(&mut lives.iter().map(|l| l.1))));
    assert_eq!((health.trash_pieces, health.trash_bytes), (trashed.len() as u64, sum(&mut trashed.into_iter())));
}
