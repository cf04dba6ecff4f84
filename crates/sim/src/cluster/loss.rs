//! The loss of all directors: every machine that votes on metadata burns with its drives, and as many others as leave each placement
//! group the pieces that it takes.
//!
//! What was acknowledged is known here, and what each segment's pieces lie on is asked while all is well. Afterwards, at machines that
//! nobody leads:
//! 1. S3 gives every byte and exact listings by kits, and says so. Writes are refused and change nothing.
//! 2. The owner of an end-to-end volume reads it with its key alone; writes are refused as well. In two of three runs the key was replaced: while
//!    the volume was in use, by an owner who was cut short, or at the last moment, so that only the old key's kit is there.
//! 3. A rescue by the words alone makes files of exactly what was there.
//! 4. With one drive too few it is said of which segments how many pieces lack, and which; everything else comes back. With bits
//!    flipped on what is left, bytes are right or there are none.
//!
//! What is written in the last moment, later than any kit, is in headers: a rescue must have it, reads by kit may. Objects of up to
//! 4 KiB are in the kit alone: of that moment they may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use codec::Versioned;
use crypt::{RootKey, VolumeRoot};
use env::{Disk as _, Env, Open};
use grant::{Grant, Head, Succession, Verb, Verbs};
use kit::rescue::Missing;
use node::settings::CLUSTER_PORT;
use owner::restore::Wanted;
use owner::{Key, Keys, Reach, Volume};
use serde_json::{Value as Json, json};

use crate::chance::Chance;
use crate::cluster::stage::{Failed, Order, Stage, name};
use crate::cluster::{DRIVES, Report, play, settle, work};
use crate::disk::SimDisk;
use crate::http::{Answer, Request};
use crate::oracle::{Truth, Truths, Value};
use crate::world::{self, Machine};

/// Buckets that the cluster has the keys of; the second one keeps versions.
const BUCKETS: [&str; 2] = ["photos", "notes"];
/// The bucket of the end-to-end volume.
const SEALED: &str = "family";
/// The folder of it that somebody has a grant for, and where he keeps his kit.
const GRANTED: &str = "album 0";
const GRANTED_KITS: &str = "/granted";
/// Lengths around everything that is stored in another way: inline, packed, segments, cells, stripes.
const LENS: [usize; 10] = [0, 1, 700, 4096, 4097, 9_000, 65_536, 100_001, 300_000, 700_000];
/// Bytes that are in the metadata itself, and so in kits alone.
const INLINE_MAX: usize = 4096;
/// Keys of a bucket that are there at first, and changes of them; and keys that come later, which are more than what was deleted, so
/// that a kit with so many objects has all that was done.
const FIRST: u64 = 6;
const CHANGES: u64 = 6;
const LATER: u64 = 8;
/// Changes at the last moment.
const LAST: u64 = 4;
/// Files of the end-to-end volume, and those of them that change.
const FILES: u64 = 10;
const CHANGED: u64 = 3;
/// Sites that machines are at.
const SITES: usize = 5;
/// How long kits may take to be with all their holders.
const FRESH_SECS: u64 = 60;
/// How long an attempt may take: more than a node waits until it reads by a kit.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Coarser than a storm's: nothing here depends on who is first.
const TICK: Duration = Duration::from_millis(5);
/// Where a rescue writes to.
const OUT: &str = "/out";

/// What is wrong besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Besides {
    /// Nothing: each group has enough pieces.
    Nothing,
    /// Drives of machines that are left are gone, until some segment has too few pieces.
    Drive,
    /// Bits of pieces that are left flip.
    Bits,
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Everything follows from it.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Pieces that a segment takes.
    pub k: usize,
    /// Pieces beyond these.
    pub m: usize,
    /// What is wrong besides.
    pub besides: Besides,
}

impl Loss {
    /// The loss of a seed.
    pub fn new(seed: u64, besides: Besides) -> Self {
        let mut chance = Chance::new(seed ^ 0x1055);
        // Groups of all machines, and of all but one. Of one machine that is left a drive would take the last copy of the kits along.
        let codes = [(8, 2, 6), (9, 2, 6), (9, 3, 6), (7, 1, 6)];
        let count = if besides == Besides::Drive { 3 } else { 4 };
        let (nodes, k, m) = codes[chance.below(count) as usize];
        Self { seed, nodes, k, m, besides }
    }
}

/// Where a machine is.
fn site_of(number: usize) -> usize {
    number.min(SITES - 1)
}

/// Runs a loss.
///
/// # Errors
/// What the store did wrong, after the end of the trace.
pub fn run(loss: Loss) -> Result<Report, String> {
    // Four machines at sites of their own and all others at a fifth: then those that vote on both shards are six at the most.
    let mut stage = Stage::new(loss.seed, loss.nodes, DRIVES, |number| Some(site_of(number)));
    (stage.nodes_per_shard, stage.reads_by_kit) = (Some(loss.nodes), true);
    play(&stage, TICK, &loss, drive(stage.clone(), loss))
}

async fn drive(stage: Stage, loss: Loss) -> Result<(), Failed> {
    let mut chance = Chance::new(loss.seed ^ 0xdead);
    settle::found(&stage, loss.nodes).await?;
    let code = json!({ "code": format!("{}+{}", loss.k, loss.m) });
    stage.admin(0, "POST", "/v1/policies/default", &code).await?;
    settle::settle(&stage).await?;
    let mut world = World::new(stage, loss, &mut chance);
    world.fill(&mut chance).await?;
    world.fill_sealed(&mut chance).await?;
    world.wait_for_kits().await?;
    settle::settle(&world.stage).await?;
    let map = world.map().await?;
    let lost = world.doomed(&mut chance).await?;
    if loss.besides == Besides::Nothing {
        world.write_at_the_last_moment(&mut chance).await?;
    }
    world.burn(&lost, &mut chance).await;
    let lacks = world.harm(&map, &lost, &mut chance);
    if lacks.is_empty() != (loss.besides != Besides::Drive) {
        return Err(format!("with {lost:?} gone {lacks:?} lacks pieces").into());
    }
    world.read_by_kit(&lacks, &mut chance).await?;
    world.read_sealed_by_kit(&lacks, &mut chance).await?;
    world.read_granted_by_kit(&lacks, &mut chance).await?;
    world.rescue(&lacks, &mut chance).await?;
    let seconds = turmoil::sim_elapsed().unwrap_or_default().as_secs();
    world.stage.count(|counts| counts.seconds = seconds);
    Ok(())
}

/// A segment, as somebody asked while all was well.
struct Segment {
    id: String,
    /// Where its bytes are in the object.
    offset: u64,
    len: u64,
    /// The drive of each piece.
    drives: Vec<String>,
}

/// The segments of each object, and the machine and the folder of each drive.
struct Map {
    segments: BTreeMap<String, Vec<Segment>>,
    drives: BTreeMap<String, (usize, PathBuf)>,
}

/// What an object lacks: segments, from where to where, pieces found, and those that nobody has.
type Lacks = BTreeMap<String, Vec<(String, u64, u64, u8, Vec<u8>)>>;

struct World {
    stage: Stage,
    loss: Loss,
    /// What must be there by kits, by bucket and key.
    by_kit: Truths,
    /// What a rescue must find: that's more, of the last moment.
    by_rescue: Truths,
    root: VolumeRoot,
    /// By whose keys rows call what is in the volume.
    named_by: VolumeRoot,
    /// A machine that is no node.
    guest: SimDisk,
    /// What somebody else may read, unless the volume's keys were replaced since.
    granted: Option<Grant>,
}

impl World {
    fn new(stage: Stage, loss: Loss, chance: &mut Chance) -> Self {
        let mut root = [0; 32];
        chance.fill(&mut root);
        let (by_kit, by_rescue) = Default::default();
        let (root, guest) = (VolumeRoot::new(root), SimDisk::new(loss.seed ^ 0x9e57));
        Self { stage, loss, by_kit, by_rescue, named_by: root.clone(), root, guest, granted: None }
    }

    fn env(&self, salt: u64) -> Env {
        world::env_of(self.loss.seed ^ salt << 36, &self.guest, &Machine::default())
    }

    fn value(&self, chance: &mut Chance) -> Value {
        Value { serial: self.stage.next_serial(), len: LENS[chance.below(LENS.len() as u64) as usize] }
    }

    fn any(&self, chance: &mut Chance) -> usize {
        let members = self.stage.members();
        members[chance.below(members.len() as u64) as usize]
    }

    fn is(&mut self, path: &str, value: Option<Value>) {
        for truths in [&mut self.by_kit, &mut self.by_rescue] {
            truths.entry(path.to_owned()).or_default().is(value);
        }
    }

    // While all is well.

    /// Puts, or deletes, an object at any machine.
    async fn change(&mut self, path: &str, value: Option<Value>, chance: &mut Chance) -> Result<(), Failed> {
        let number = self.any(chance);
        let (method, body, wanted) = match value {
            Some(value) => ("PUT", value.bytes(), 200),
            None => ("DELETE", Vec::new(), 204),
        };
        let request = Request { method, path: &format!("/{path}"), body: &body, ..Request::default() };
        let answer = work::read(&self.stage, number, request).await?;
        if answer.status == wanted { Ok(()) } else { Err(wrong(method, path, &answer)) }
    }

    async fn fill(&mut self, chance: &mut Chance) -> Result<(), Failed> {
        for bucket in BUCKETS {
            work::make_bucket(&self.stage, bucket).await?;
        }
        let body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let path = format!("/{}", BUCKETS[1]);
        let versions = Request { method: "PUT", path: &path, query: "versioning=", body, ..Request::default() };
        let answer = work::read(&self.stage, 0, versions).await?;
        if answer.status != 200 {
            return Err(wrong("PUT", "versioning", &answer));
        }
        for bucket in BUCKETS {
            for step in 0..FIRST + CHANGES + LATER {
                let key = if (FIRST..FIRST + CHANGES).contains(&step) { chance.below(FIRST) } else { step };
                let path = format!("{bucket}/{}/{key}", key % 3);
                let value = self.value(chance);
                let goes = key != step && chance.percent(40);
                let value = (!goes).then_some(value);
                self.change(&path, value, chance).await?;
                self.is(&path, value);
            }
        }
        Ok(())
    }

    async fn fill_sealed(&mut self, chance: &mut Chance) -> Result<(), Failed> {
        let wish = json!({
            "name": SEALED,
            "public": self.root.signing_key().public().to_string(),
            "check": base::ids::hex(&self.root.check()),
            "grant_key": base::ids::hex(&self.root.grant_key()[..]),
        });
        self.stage.admin(0, "POST", "/v1/volumes/create", &wish).await?;
        let mut volume = self.volume(1, self.any(chance)).await?;
        let replaced = chance.below(3);
        for step in 0..FILES + CHANGED {
            if replaced == 1 && step == FILES / 2 {
                let old = volume;
                self.replace_keys(chance).await?;
                self.write_with_old_keys(&old, chance).await?;
                old.close();
                self.settle_cut_short(chance).await?;
                volume = self.volume(7, self.any(chance)).await?;
            }
            let file = if step < FILES { step } else { chance.below(FILES) };
            let path = format!("album {}/{file}.jpg", file % 3);
            let value = (step < FILES || chance.percent(50)).then(|| self.value(chance));
            match value {
                None => volume.delete(&path).await?,
                Some(value) => {
                    let mut upload = volume.write(&path, None)?;
                    upload.write(Bytes::from(value.bytes())).await?;
                    upload.finish(owner::Attributes::default()).await?;
                }
            }
            self.is(&format!("{SEALED}/{path}"), value);
        }
        let kept = volume.keep_kit(Path::new("/kits")).await?.ok_or("an owner has no kit")?;
        if let Some((node, why)) = kept.holders.iter().find_map(|(node, why)| Some((node, why.as_ref()?))) {
            return Err(format!("node {node} takes no kit: {why}").into());
        }
        match volume.drill().await? {
            Some(drill) if drill.failed == 0 && drill.objects > 0 => {}
            other => return Err(format!("a restore drill while all is well: {other:?}").into()),
        }
        let about = volume.about();
        let head = Head { number: about.number, volume: volume.public(), epoch: about.epoch, id: [9; 16] };
        volume.close();
        self.named_by = self.root.clone();
        if replaced == 2 {
            return self.replace_keys(chance).await;
        }
        let granted = Grant::sealed(&self.root, head, &format!("{GRANTED}/"), [8; 16])?;
        let granted = self.granted.insert(granted.only(Verbs::new(&[Verb::Read, Verb::List]))?).clone();
        let guest = self.as_guest(granted, chance).await?;
        guest.keep_kit(Path::new(GRANTED_KITS)).await?.ok_or("who may list and read has no kit")?;
        guest.close();
        Ok(())
    }

    /// The volume, as who has the grant sees it.
    async fn as_guest(&self, granted: Grant, chance: &mut Chance) -> Result<Volume, Failed> {
        let at = [address(self.any(chance))];
        let volume = Volume::open(self.env(8), Key::Grant(Box::new(granted)), &at).await?;
        volume.set_kits(Path::new(GRANTED_KITS));
        Ok(volume)
    }

    /// From now on the volume has another key.
    async fn replace_keys(&mut self, chance: &mut Chance) -> Result<(), Failed> {
        let volume = self.volume(5, self.any(chance)).await?;
        let mut root = [0; 32];
        chance.fill(&mut root);
        let root = VolumeRoot::new(root);
        let said = Succession::new(volume.about().number, &self.root, &root, [7; 16]);
        volume.close();
        let said = json!({ "name": SEALED, "succession": base::ids::hex(&said.encode()) });
        // Said again it does nothing.
        for _ in 0..2 {
            self.stage.admin(self.any(chance), "POST", "/v1/volumes/keys", &said).await?;
        }
        self.stage.note("the volume's keys are replaced".into());
        self.root = root;
        Ok(())
    }

    /// Who hasn't heard of it writes on until it is refused, at a node that may not have heard of it either; what was acknowledged
    /// stays.
    async fn write_with_old_keys(&mut self, old: &Volume, chance: &mut Chance) -> Result<(), Failed> {
        let began = work::now();
        loop {
            let path = format!("album {}/late.jpg", chance.below(3));
            let value = self.value(chance);
            let wrote = async {
                let mut upload = old.write(&path, None)?;
                upload.write(Bytes::from(value.bytes())).await?;
                upload.finish(owner::Attributes::default()).await
            };
            match wrote.await {
                Ok(()) => self.is(&format!("{SEALED}/{path}"), Some(value)),
                Err(error) => {
                    self.stage.note(format!("the old key is refused: {error}"));
                    break;
                }
            }
            if (work::now() - began).as_secs() > FRESH_SECS {
                return Err("the old key writes on".into());
            }
        }
        if old.list("").await.is_ok() || old.stat("album 0/0.jpg").await.is_ok() {
            return Err("the old key reads on".into());
        }
        Ok(())
    }

    /// Somebody who has the new key begins to use it, and dies.
    async fn settle_cut_short(&self, chance: &mut Chance) -> Result<(), Failed> {
        let volume = self.volume(6, self.any(chance)).await?;
        let limit = Duration::from_millis(chance.below(60));
        let done = tokio::time::timeout(limit, volume.settle(|_| ())).await;
        self.stage.note(format!("settled within {limit:?}: {}", done.is_ok_and(|done| done.is_ok())));
        volume.close();
        Ok(())
    }

    /// Opens the end-to-end volume with nothing but its key.
    async fn volume(&self, salt: u64, number: usize) -> Result<Volume, Failed> {
        Ok(Volume::open(self.env(salt), Key::Owner(self.root.clone()), &[address(number)]).await?)
    }

    /// Waits until all holders of the kits of all buckets have all that was done. There is a copy at every site.
    async fn wait_for_kits(&self) -> Result<(), Failed> {
        let began = work::now();
        loop {
            let mut fresh = BTreeSet::new();
            let mut said = Vec::new();
            for number in self.stage.members() {
                let kits = self.stage.admin(number, "GET", "/v1/kits", &Json::Null).await?;
                for kit in kits.as_array().into_iter().flatten() {
                    let bucket = kit["bucket"].as_str();
                    let count = match bucket {
                        Some(bucket) => count(&self.by_kit, bucket),
                        None => BUCKETS.len() + 1,
                    };
                    let holders = kit["holders"].as_array().map(Vec::as_slice).unwrap_or_default();
                    let has_all = holders.iter().all(|holder| holder["fresh"] == true);
                    if has_all && holders.len() >= self.loss.m && kit["objects"] == count {
                        let others = holders.iter().filter_map(|holder| number_of(holder["node"].as_str()?));
                        let sites: BTreeSet<usize> = others.chain([number]).map(site_of).collect();
                        if sites.len() < SITES {
                            return Err(format!("no copy of a kit is at some site: {kit}").into());
                        }
                        fresh.insert(bucket.map(str::to_owned));
                    }
                }
                said.push(kits);
            }
            if fresh.len() == BUCKETS.len() + 1 {
                return Ok(());
            }
            if (work::now() - began).as_secs() > FRESH_SECS {
                return Err(format!("after {FRESH_SECS} s kits aren't with all their holders: {said:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn map(&self) -> Result<Map, Failed> {
        let status = self.stage.admin(0, "GET", "/v1/status", &Json::Null).await?;
        let rows = |what: &str| status[what].as_array().cloned().unwrap_or_default();
        let numbers: BTreeMap<String, usize> =
            rows("nodes").iter().filter_map(|row| Some((text(&row["id"]), number_of(&text(&row["name"]))?))).collect();
        let place = |row: &Json| {
            let number = numbers.get(&text(&row["node"]))?;
            Some((text(&row["id"]), (*number, PathBuf::from(text(&row["path"])))))
        };
        let drives = rows("drives").iter().filter_map(place).collect();
        let mut segments = BTreeMap::new();
        for (path, truth) in &self.by_rescue {
            let Some(Some(_)) = truth.certain() else { continue };
            let what = match path.strip_prefix(SEALED) {
                Some(inside) => format!("{SEALED}/{}", self.named_by.top().seal_path(&inside[1..])?),
                None => path.clone(),
            };
            let told = self.stage.admin(0, "POST", "/v1/manifest", &json!({ "what": what })).await?;
            let is_packed = told["body"] == "packed";
            let mut at = 0;
            let rows = told["segments"].as_array().cloned().unwrap_or_default();
            let rows = rows.iter().map(|row| {
                let len = if is_packed { told["size"].as_u64() } else { row["len"].as_u64() }.unwrap_or(0);
                let drives = row["drives"].as_array().into_iter().flatten().map(text).collect();
                at += len;
                Segment { id: text(&row["segment"]), offset: at - len, len, drives }
            });
            segments.insert(path.clone(), rows.collect());
        }
        Ok(Map { segments, drives })
    }

    /// All that vote, and others as long as no group loses more than m.
    async fn doomed(&self, chance: &mut Chance) -> Result<BTreeSet<usize>, Failed> {
        let mut lost = BTreeSet::new();
        for number in self.stage.members() {
            let status = self.stage.admin(number, "GET", "/v1/status", &Json::Null).await?;
            for row in status["nodes"].as_array().into_iter().flatten() {
                if row["voter"].as_array().is_some_and(|shards| !shards.is_empty()) {
                    lost.extend(number_of(&text(&row["name"])));
                }
            }
        }
        if lost.len() < 5 || lost.len() > self.loss.m {
            return Err(format!("{lost:?} vote").into());
        }
        let mut others: Vec<usize> = self.stage.members().into_iter().filter(|number| !lost.contains(number)).collect();
        while lost.len() < self.loss.m && others.len() > 1 {
            lost.insert(others.remove(chance.below(others.len() as u64) as usize));
        }
        Ok(lost)
    }

    /// Changes that no kit has, perhaps: until who leads looks at the journal next.
    async fn write_at_the_last_moment(&mut self, chance: &mut Chance) -> Result<(), Failed> {
        for step in 0..LAST {
            let bucket = BUCKETS[chance.below(2) as usize];
            let key = chance.below(FIRST + LATER + CHANGES);
            let path = format!("{bucket}/{}/{key}", key % 3);
            let value = (step == 0 || chance.percent(80)).then(|| self.value(chance));
            self.change(&path, value, chance).await?;
            self.by_kit.entry(path.clone()).or_default().may_be(value);
            let truth = self.by_rescue.entry(path).or_default();
            match value {
                Some(value) if value.len > INLINE_MAX => truth.is(Some(value)),
                value => truth.may_be(value),
            }
        }
        Ok(())
    }

    // The end.

    async fn burn(&self, lost: &BTreeSet<usize>, chance: &mut Chance) {
        for number in lost {
            let order = if chance.percent(50) { Order::Kill(*number) } else { Order::PowerCut(*number) };
            self.stage.leaves(*number);
            self.stage.order(order).await;
            self.stage.places[*number].disk.wipe();
        }
    }

    /// What is wrong besides; what each object lacks of it.
    fn harm(&self, map: &Map, lost: &BTreeSet<usize>, chance: &mut Chance) -> Lacks {
        let mut gone: BTreeSet<&String> =
            map.drives.iter().filter(|(_, (number, _))| lost.contains(number)).map(|(id, _)| id).collect();
        // One machine stays whole: somebody has the kits. Of eight machines seven keep each kit, and six are lost.
        let kits = |number: &usize| {
            let own = map.drives.values().filter(|(at, _)| at == number);
            let names = own.filter_map(|(_, drive)| self.stage.places[*number].disk.read_dir(&drive.join("kits")).ok());
            names.flatten().filter(|entry| entry.name.ends_with(".label")).count()
        };
        let whole = self.stage.members().into_iter().max_by_key(kits).unwrap_or_default();
        let may_go = |(number, _): &(usize, PathBuf)| !lost.contains(number) && *number != whole;
        let mut left: Vec<&String> = map.drives.iter().filter(|(_, place)| may_go(place)).map(|(id, _)| id).collect();
        let mut lacks = self.lacks(map, &gone);
        while self.loss.besides == Besides::Drive && lacks.is_empty() && !left.is_empty() {
            let id = left.remove(chance.below(left.len() as u64) as usize);
            let (number, drive) = &map.drives[id];
            self.stage.note(format!("{} loses {}", name(*number), drive.display()));
            self.stage.places[*number].disk.detach(drive);
            gone.insert(id);
            lacks = self.lacks(map, &gone);
        }
        let lacking = lacks.len();
        self.stage.note(format!("{lacking} of {} objects lack pieces", map.segments.len()));
        if self.loss.besides == Besides::Bits {
            for (number, drive) in map.drives.values().filter(|(number, _)| !lost.contains(number)) {
                let count = self.stage.places[*number].disk.rot(&drive.join("pieces"), 1 + chance.below(8) as usize);
                self.stage.note(format!("{count} bits flip at {}", name(*number)));
            }
        }
        lacks
    }

    fn lacks(&self, map: &Map, gone: &BTreeSet<&String>) -> Lacks {
        let mut lacks = Lacks::new();
        for (path, segments) in &map.segments {
            for segment in segments {
                let lacking = (0u8..).zip(&segment.drives).filter(|(_, drive)| gone.contains(drive));
                let lacking: Vec<u8> = lacking.map(|(index, _)| index).collect();
                let have = segment.drives.len() - lacking.len();
                if have < self.loss.k {
                    let one = (segment.id.clone(), segment.offset, segment.len, have as u8, lacking);
                    lacks.entry(path.clone()).or_default().push(one);
                }
            }
        }
        lacks
    }

    /// Whether an object may be unreadable.
    fn may_fail(&self, path: &str, lacks: &Lacks) -> bool {
        self.loss.besides == Besides::Bits || lacks.contains_key(path)
    }

    // With nobody to lead.

    async fn read_by_kit(&self, lacks: &Lacks, chance: &mut Chance) -> Result<(), Failed> {
        let left = self.stage.members();
        for number in &left {
            self.read_all(*number, lacks).await?;
        }
        let number = left[chance.below(left.len() as u64) as usize];
        let old = format!("/{}/0/{}", BUCKETS[0], FIRST + CHANGES);
        for (method, path) in [("PUT", "/photos/new"), ("PUT", &old), ("DELETE", &old)] {
            let request =
                Request { method, path, body: if method == "PUT" { b"other" } else { b"" }, ..Request::default() };
            let answer = self.stage.s3(number, ATTEMPT, request).await?;
            if answer.status != 503 || answer.header("retry-after").is_none() {
                return Err(wrong(method, path, &answer));
            }
        }
        self.read_all(number, lacks).await
    }

    async fn read_all(&self, number: usize, lacks: &Lacks) -> Result<(), Failed> {
        for (path, truth) in self.plain(&self.by_kit) {
            let may_fail = self.may_fail(path, lacks) && truth.certain().flatten().is_some_and(|value| value.len > 0);
            let target = format!("/{path}");
            let get = Request { method: "GET", path: &target, ..Request::default() };
            if may_fail {
                match self.stage.s3(number, ATTEMPT, get).await {
                    Ok(answer) if answer.status == 200 => explain(path, truth, &answer)?,
                    Ok(answer) if answer.status < 500 => return Err(wrong("GET", path, &answer)),
                    _ => {}
                }
                continue;
            }
            explain(path, truth, &work::read(&self.stage, number, get).await?)?;
        }
        for bucket in BUCKETS {
            let listed = work::list_plain(&self.stage, number, bucket).await?;
            judge(&format!("{bucket}, as {} lists it", name(number)), &self.by_kit, bucket, &listed)?;
        }
        Ok(())
    }

    fn plain<'a>(&self, truths: &'a Truths) -> impl Iterator<Item = (&'a String, &'a Truth)> {
        truths.iter().filter(|(path, _)| !path.starts_with(SEALED))
    }

    async fn read_sealed_by_kit(&self, lacks: &Lacks, chance: &mut Chance) -> Result<(), Failed> {
        let volume = self.volume(2, self.any(chance)).await?;
        self.read_sealed(&volume, lacks).await?;
        if volume.read_by_kit().is_none() {
            return Err("the owner isn't told that a kit is read by".into());
        }
        let path = "album 0/0.jpg";
        if volume.check_led().await.is_ok() || volume.delete(path).await.is_ok() {
            return Err("the owner is told that somebody leads".into());
        }
        let mut upload = volume.write(path, None)?;
        let wrote = upload.write(Bytes::from_static(b"other")).await;
        if wrote.is_ok() && upload.finish(owner::Attributes::default()).await.is_ok() {
            return Err("the owner's write was taken with nobody to lead it".into());
        }
        self.read_sealed(&volume, lacks).await?;
        volume.close();
        Ok(())
    }

    async fn read_granted_by_kit(&self, lacks: &Lacks, chance: &mut Chance) -> Result<(), Failed> {
        let Some(granted) = &self.granted else { return Ok(()) };
        let volume = self.as_guest(granted.clone(), chance).await?;
        self.read_below(&volume, &format!("{SEALED}/{GRANTED}"), lacks).await?;
        if volume.read_by_kit().is_none() {
            return Err("who has a grant isn't told that a kit is read by".into());
        }
        volume.close();
        Ok(())
    }

    async fn read_sealed(&self, volume: &Volume, lacks: &Lacks) -> Result<(), Failed> {
        self.read_below(volume, SEALED, lacks).await
    }

    /// Reads all that a key opens; `top` is the bucket, or a folder in it.
    async fn read_below(&self, volume: &Volume, top: &str, lacks: &Lacks) -> Result<(), Failed> {
        let walked = volume.walk("").await?.into_iter().map(|(path, entry)| (path, entry.size as usize)).collect();
        judge("a client's listing", &self.by_kit, top, &walked)?;
        for inside in walked.keys() {
            let path = format!("{top}/{inside}");
            match read_file(volume, inside).await {
                Ok(bytes) => says(&path, &self.by_kit[&path], Some(&bytes))?,
                Err(_) if self.may_fail(&path, lacks) => {}
                Err(error) => return Err(format!("{path}: {error}").into()),
            }
        }
        Ok(())
    }

    // By words alone.

    async fn rescue(&self, lacks: &Lacks, chance: &mut Chance) -> Result<(), Failed> {
        let words = Keys::Store(RootKey::from_words(&self.stage.words())?);
        let sealed = Keys::Volume(VolumeRoot::from_words(&self.root.words())?);
        for (salt, keys) in [(3, words), (4, sealed)] {
            let is_sealed = matches!(keys, Keys::Volume(_));
            let reach = Reach::open(self.env(salt), keys.signing_key(), &[address(self.any(chance))]).await?;
            let survey = owner::survey(&reach, keys, |_| {}).await?;
            let mut told = Lacks::new();
            for volume in &survey.volumes {
                if !is_sealed && volume.name.as_deref() == Some(SEALED) {
                    // Who has the store's key sees that there is something, and not what.
                    match volume.report.objects.is_empty() && volume.kit.is_none() {
                        true => continue,
                        false => return Err(format!("the store's key opens {SEALED}").into()),
                    }
                }
                let has_bad = self.loss.besides != Besides::Drive && !volume.bad_kits.is_empty();
                if volume.kit.is_none() || has_bad {
                    return Err(format!("volume {}: {:?} {:?}", volume.id.0, volume.kit, volume.bad_kits).into());
                }
                let bucket = if is_sealed { SEALED.to_owned() } else { volume.name.clone().ok_or("it has no name")? };
                for object in volume.report.incomplete() {
                    told.insert(format!("{bucket}/{}", object.path), object.missing.iter().map(missing).collect());
                }
            }
            let is_ours = |path: &str| path.starts_with(SEALED) == is_sealed;
            let wanted: Lacks =
                lacks.iter().filter(|(path, _)| is_ours(path)).map(|(a, b)| (a.clone(), b.clone())).collect();
            // A bit that flips in a header costs a piece as well.
            if told != wanted && self.loss.besides != Besides::Bits {
                return Err(format!("a rescue says that {told:?} lacks, but it is {wanted:?}").into());
            }
            let restored = owner::restore(&reach, &survey, Path::new(OUT), &Wanted::default(), |_| {}).await?;
            self.stage.note(format!("restored: {restored:?}"));
            let failed: BTreeSet<String> =
                restored.failed.iter().map(|(path, _)| self.renamed(path, is_sealed)).collect();
            let must_fail = wanted.into_keys().collect::<BTreeSet<String>>();
            if self.loss.besides != Besides::Bits && (failed != must_fail || !restored.liars.is_empty()) {
                return Err(format!("{restored:?}, but {must_fail:?} lack pieces").into());
            }
            self.check_files(&failed, is_sealed)?;
            reach.endpoint().close();
        }
        Ok(())
    }

    /// The volume of who has a volume's words alone is called by its number.
    fn renamed(&self, path: &str, is_sealed: bool) -> String {
        match path.split_once('/') {
            Some((_, inside)) if is_sealed => format!("{SEALED}/{inside}"),
            _ => path.to_owned(),
        }
    }

    /// The files are what was there: all of it, nothing else, and of what lacks something the beginning.
    fn check_files(&self, failed: &BTreeSet<String>, is_sealed: bool) -> Result<(), Failed> {
        let mut found = BTreeMap::new();
        files(&self.guest, Path::new(OUT), "", &mut found)?;
        self.guest.remove_tree(Path::new(OUT));
        let found: BTreeMap<String, Vec<u8>> =
            found.into_iter().map(|(path, bytes)| (self.renamed(&path, is_sealed), bytes)).collect();
        let wanted = self.by_rescue.iter().filter(|(path, _)| path.starts_with(SEALED) == is_sealed);
        let mut known = BTreeSet::new();
        for (path, truth) in wanted {
            let part = format!("{path}.part");
            if failed.contains(path) {
                let begun = found.get(&part).map(Vec::as_slice).unwrap_or_default();
                let whole = truth.certain().flatten().map(Value::bytes).unwrap_or_default();
                if found.contains_key(path) || !whole.starts_with(begun) {
                    return Err(format!("{path} lacks pieces, but its file has other bytes than were written").into());
                }
                known.insert(part);
                continue;
            }
            says(path, truth, found.get(path).map(Vec::as_slice))?;
            known.insert(path.clone());
        }
        match found.keys().find(|path| !known.contains(*path)) {
            Some(path) => Err(format!("{path} was rescued, which nobody wrote").into()),
            None => Ok(()),
        }
    }
}

fn wrong(method: &str, path: &str, answer: &Answer) -> Failed {
    format!("{method} {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)).into()
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.parse().ok()
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::new(Stage::ip(number), CLUSTER_PORT)
}

/// Objects of a bucket that are there.
fn count(truths: &Truths, bucket: &str) -> usize {
    let inside = truths.iter().filter(|(path, _)| path.split('/').next() == Some(bucket));
    inside.filter(|(_, truth)| truth.certain().flatten().is_some()).count()
}

/// What is found is what can be there.
fn says(path: &str, truth: &Truth, seen: Option<&[u8]>) -> Result<(), Failed> {
    match truth.explain(seen) {
        Some(_) => Ok(()),
        None => Err(format!("{path} holds {:?} bytes, but can only be {truth:?}", seen.map(<[u8]>::len)).into()),
    }
}

/// An answer by a kit, which says that it is one.
fn explain(path: &str, truth: &Truth, answer: &Answer) -> Result<(), Failed> {
    let seen = match answer.status {
        200 => Some(answer.body.as_slice()),
        404 => None,
        _ => return Err(wrong("GET", path, answer)),
    };
    if answer.header("x-abide-read-by-kit").is_none_or(|why| !why.contains("nobody leads")) {
        return Err(format!("the answer for {path} doesn't say that it is by a kit: {:?}", answer.headers).into());
    }
    says(path, truth, seen)
}

/// A listing shows exactly what is there.
fn judge(what: &str, truths: &Truths, bucket: &str, listed: &BTreeMap<String, usize>) -> Result<(), Failed> {
    let mut left = listed.clone();
    for (path, truth) in truths {
        let Some(key) = path.strip_prefix(bucket).and_then(|key| key.strip_prefix('/')) else { continue };
        if !truth.allows_len(left.remove(key)) {
            return Err(format!("{what}: {key} isn't as it can be: {truth:?}, but {:?}", listed.get(key)).into());
        }
    }
    if left.is_empty() { Ok(()) } else { Err(format!("{what}: {left:?}, which nobody wrote").into()) }
}

fn missing(missing: &Missing) -> (String, u64, u64, u8, Vec<u8>) {
    match missing {
        Missing::Pieces { offset, len, segment, have, lacking, .. } => {
            (segment.to_string(), *offset, *len, *have, lacking.clone())
        }
        Missing::Bytes { offset, len } => ("nothing of it".into(), *offset, *len, 0, Vec::new()),
        Missing::Tail { offset } => ("its end".into(), *offset, 0, 0, Vec::new()),
    }
}

async fn read_file(volume: &Volume, path: &str) -> owner::Result<Vec<u8>> {
    let (_, mut stream) = volume.read(path, 0..u64::MAX).await?;
    let mut bytes = Vec::new();
    while let Some(some) = stream.next().await {
        bytes.extend_from_slice(&some?);
    }
    Ok(bytes)
}

/// All files below a folder, by their paths from there.
fn files(disk: &SimDisk, folder: &Path, below: &str, to: &mut BTreeMap<String, Vec<u8>>) -> Result<(), Failed> {
    for entry in disk.read_dir(folder)? {
        let (path, shown) = (folder.join(&entry.name), format!("{below}{}", entry.name));
        if entry.is_dir {
            files(disk, &path, &format!("{shown}/"), to)?;
        } else {
            let file = disk.open(&path, Open::Read)?;
            to.insert(shown, file.read_vec_at(file.len()? as usize, 0)?);
        }
    }
    Ok(())
}
