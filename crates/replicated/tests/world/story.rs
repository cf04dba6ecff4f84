//! Storms over a group, and an oracle that asks nobody but the clients and the journals.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use base::kv::Batch;
use metastore::{Error, ShardStore};
use replicated::{Read, Replica};

use super::{Chance, PATIENCE, Rows, SECOND, World, apply, journal, node, random_batch};

/// What clients know.
#[derive(Default)]
pub struct History {
    /// Batches that were acknowledged, by their places.
    pub acknowledged: BTreeMap<u64, Batch>,
    pub serial: u64,
    /// Nobody writes any more.
    pub is_over: bool,
    pub reads: u64,
    pub trace: (u64, Duration),
    pub wrong: Vec<String>,
}

pub type Shared = Arc<Mutex<History>>;

pub fn lock(history: &Shared) -> MutexGuard<'_, History> {
    history.lock().unwrap()
}

impl History {
    fn acknowledge(&mut self, last: u64, batches: Vec<Batch>) {
        let first = last + 1 - batches.len() as u64;
        for (seq, batch) in (first..).zip(batches) {
            if let Some(other) = self.acknowledged.insert(seq, batch.clone())
                && other != batch
            {
                self.wrong.push(format!("two leaders committed at {seq}"));
            }
        }
    }

    fn last(&self) -> u64 {
        self.acknowledged.last_key_value().map_or(0, |(seq, _)| *seq)
    }
}

/// Commits wherever it finds itself leading, until the replica is gone.
pub async fn owner(replica: Weak<Replica>, history: Shared, mut chance: Chance) {
    loop {
        let Some(here) = replica.upgrade() else { return };
        if !here.status().borrow().is_leader {
            drop(here);
            tokio::time::sleep(Duration::from_millis(30)).await;
            continue;
        }
        let Ok(leading) = here.lead().await else {
            drop(here);
            tokio::time::sleep(Duration::from_millis(30)).await;
            continue;
        };
        drop(here);
        while replica.upgrade().is_some() {
            if lock(&history).is_over {
                return;
            }
            let (epoch, head) = leading.position();
            let mut group = Vec::new();
            for _ in 0..=chance.below(3) {
                let serial = {
                    let mut history = lock(&history);
                    history.serial += 1;
                    history.serial
                };
                group.push(random_batch(&mut chance, serial));
            }
            match leading.commit(epoch, head, group.clone()).await {
                Ok(seq) => lock(&history).acknowledge(seq.0, group),
                Err(Error::Head { .. }) => {}
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(chance.below(60))).await;
        }
    }
}

/// How clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As they should.
    Behind(Read),
    /// Whatever is there: a fault.
    Whatever,
}

/// Reads here and there; nothing that was acknowledged before may be missing.
pub async fn reader(
    replica: Weak<Replica>,
    is_on: Arc<AtomicBool>,
    history: Shared,
    reading: Reading,
    mut chance: Chance,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(20 + chance.below(100))).await;
        let Some(here) = replica.upgrade() else { return };
        let known = lock(&history).last();
        let is_ready = match reading {
            Reading::Behind(Read::Lease) if !here.status().borrow().is_leader => false,
            Reading::Behind(how) => here.read_barrier(how, SECOND).await.is_ok(),
            Reading::Whatever => true,
        };
        // Who has no power any more reads nothing.
        let is_ready = is_ready && is_on.load(Ordering::Relaxed);
        let Some(snapshot) = here.snapshot().ok().filter(|_| is_ready) else { continue };
        let mut history = lock(&history);
        history.reads += 1;
        if snapshot.at().0 < known {
            history.wrong.push(format!("a read saw {} although {known} was acknowledged before", snapshot.at()));
        }
    }
}

/// A storm.
pub struct Storm {
    pub seed: u64,
    pub nodes: u8,
    pub reading: Reading,
    pub steps: u32,
}

impl Storm {
    pub fn new(seed: u64) -> Self {
        let nodes = if seed % 4 == 3 { 5 } else { 3 };
        let reading = if seed.is_multiple_of(2) { Read::Index } else { Read::Lease };
        Self { seed, nodes, reading: Reading::Behind(reading), steps: 10 }
    }

    pub fn attend(&self, world: &mut World, history: &Shared, number: u8) {
        let replica = Arc::downgrade(world.replica(number));
        let (one, other) = (Chance(world.chance.word()), Chance(world.chance.word()));
        tokio::spawn(owner(replica.clone(), Arc::clone(history), one));
        let is_on = Arc::clone(&world.machines[&number].is_on);
        tokio::spawn(reader(replica, is_on, Arc::clone(history), self.reading, other));
    }

    /// Rages, heals, and looks at what is left.
    pub async fn rage(&self) -> Result<History, String> {
        let numbers: Vec<u8> = (1..=self.nodes).collect();
        let mut world = World::with_group(self.seed, &numbers).await;
        let history = Shared::default();
        for number in &numbers {
            self.attend(&mut world, &history, *number);
        }
        for _ in 0..self.steps {
            let pause = 100 + world.chance.below(900);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.strike(&mut world, &history, &numbers).await;
        }
        self.calm(&mut world, &history, &numbers).await;
        self.check(&mut world, &history, &numbers).await?;
        lock(&history).trace = world.trace();
        let found = std::mem::take(&mut *lock(&history));
        Ok(found)
    }

    async fn strike(&self, world: &mut World, history: &Shared, numbers: &[u8]) {
        let pick = |world: &mut World| numbers[world.chance.below(numbers.len() as u64) as usize];
        let one = pick(world);
        match world.chance.below(12) {
            0 | 1 => self.power_cut(world, one).await,
            2 => {
                // The leader, if there is one.
                let leader = world.up().into_iter().find(|number| world.replica(*number).status().borrow().is_leader);
                if let Some(leader) = leader {
                    self.power_cut(world, leader).await;
                }
            }
            3 => world.up().into_iter().for_each(|number| world.kill(number)),
            4 | 5 => {
                let others: Vec<u8> = numbers.iter().copied().filter(|number| *number != one).collect();
                world.network.split(&[one], &others);
            }
            6 => {
                let other = pick(world);
                world.network.cut(one, other);
            }
            7 => world.network.wire().loss = 2 + world.chance.below(10),
            8 => world.network.wire().jitter = Duration::from_millis(world.chance.below(150)),
            9 => {
                if let Some(replica) = world.machines[&one].replica.clone() {
                    let to = node(pick(world));
                    // Not every node leads, and not every transfer goes well.
                    let _ = replica.transfer(to, SECOND).await;
                }
            }
            _ => {
                world.network.heal();
                world.network.wire().jitter = Duration::from_millis(3);
            }
        }
        for number in numbers {
            if world.machines[number].replica.is_none() && world.chance.below(3) > 0 {
                world.restart(*number).await;
                self.attend(world, history, *number);
            }
        }
    }

    /// The power goes in the middle of the next changes.
    async fn power_cut(&self, world: &mut World, number: u8) {
        if world.machines[&number].replica.is_none() {
            return;
        }
        let drives = world.machines[&number].drives.clone();
        drives.end_power_at(drives.changes() + world.chance.below(40));
        tokio::time::sleep(Duration::from_millis(world.chance.below(200))).await;
        world.kill(number);
    }

    async fn calm(&self, world: &mut World, history: &Shared, numbers: &[u8]) {
        world.network.heal();
        world.network.wire().jitter = Duration::from_millis(3);
        for number in numbers {
            // One that lost its power unnoticed, or stopped because of that, is started again.
            let is_stopped = world.machines[number]
                .replica
                .as_ref()
                .is_none_or(|replica| replica.status().borrow().stopped.is_some());
            if is_stopped {
                world.kill(*number);
                world.restart(*number).await;
                self.attend(world, history, *number);
            }
        }
    }

    /// Everybody has everything that was acknowledged, once, in one order.
    async fn check(&self, world: &mut World, history: &Shared, numbers: &[u8]) -> Result<(), String> {
        let before = lock(history).last();
        let began = tokio::time::Instant::now();
        while lock(history).last() < before + 5 {
            if began.elapsed() > PATIENCE {
                return Err(format!("nothing can be committed after the storm: {:#?}", world.statuses()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Nobody writes any more; what was under way ends; everybody catches up.
        lock(history).is_over = true;
        tokio::time::sleep(world.settings.commit_limit).await;
        let replicas: Vec<Arc<Replica>> = numbers.iter().map(|number| Arc::clone(world.replica(*number))).collect();
        let mut journals = Vec::new();
        for (number, replica) in numbers.iter().zip(&replicas) {
            let began = tokio::time::Instant::now();
            while replica.read_barrier(Read::Index, SECOND).await.is_err() {
                if began.elapsed() > PATIENCE {
                    return Err(format!("node {number} does not catch up: {:#?}", world.statuses()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if let Some(why) = replica.quarantine() {
                return Err(format!("node {number} is in quarantine: {why}"));
            }
            journals.push((journal(&**replica.rows()), replica.rows().snapshot().map_err(|error| error.to_string())?));
        }
        let history = lock(history);
        if let Some(wrong) = history.wrong.first() {
            return Err(wrong.clone());
        }
        compare(&history, &journals)
    }
}

type Found = (Vec<metastore::Entry>, Box<dyn metastore::Snapshot>);

fn compare(history: &History, journals: &[Found]) -> Result<(), String> {
    let longest = journals.iter().max_by_key(|(journal, _)| journal.len()).map(|(journal, _)| journal).unwrap();
    let mut serials = std::collections::BTreeSet::new();
    for (seq, entry) in (1..).zip(longest) {
        if entry.seq.0 != seq {
            return Err(format!("entry {} lies at {seq}", entry.seq));
        }
        if !serials.insert(&entry.batch.events) {
            return Err(format!("the batch at {seq} was committed twice"));
        }
    }
    for (seq, batch) in &history.acknowledged {
        match longest.get(*seq as usize - 1) {
            None => return Err(format!("batch {seq} was acknowledged and is gone")),
            Some(found) if found.batch.events != batch.events => {
                return Err(format!("batch {seq} was acknowledged and is another now"));
            }
            Some(_) => {}
        }
    }
    for (journal, snapshot) in journals {
        let mut rows = Rows::new();
        for (entry, other) in journal.iter().zip(longest) {
            if entry.batch.events != other.batch.events {
                return Err(format!("two replicas have different batches at {}", entry.seq));
            }
        }
        // Values that one replica dropped another may have still: what was asked for decides.
        for entry in journal.iter().take(snapshot.at().0 as usize) {
            apply(&mut rows, history.acknowledged.get(&entry.seq.0).unwrap_or(&entry.batch));
        }
        let found = snapshot.range(&[][..]..&[0xff; 9][..], usize::MAX, false).map_err(|error| error.to_string())?;
        if !found.into_iter().eq(rows) {
            return Err(format!("the rows at {} differ", snapshot.at()));
        }
    }
    Ok(())
}
