//! What goes wrong in a storm over a cluster, and how it ends.

use std::time::Duration;

use crate::chance::Chance;
use crate::cluster::stage::{Failed, Order, Place, Stage, name};
use crate::cluster::{Always, Kind, Storm, operator, settle};
use crate::disk::Faults;

/// How long the store serves in peace before trouble begins, and after it ended.
const PEACE_MS: u64 = 600;
/// How long a node that was started again may take to serve.
const START_SECS: u64 = 90;

/// What can go wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The process ends without a word.
    Dies,
    /// The power goes.
    LosesPower,
    /// It stands still.
    Freezes,
    /// No other node hears it, nor does it hear any.
    CutOff,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// Its links are slow.
    SlowLinks,
    /// Its drives are slow.
    SlowDrives,
    /// A drive is gone.
    DriveGone,
    /// A drive fails now and then.
    DriveErrs,
    /// A drive is full.
    DriveFull,
    /// Bits of its pieces flip.
    Rots,
    /// Its calendar jumps.
    ClockJumps,
}

const TROUBLES: [Trouble; 13] = [
    Trouble::Dies,
    Trouble::LosesPower,
    Trouble::Freezes,
    Trouble::CutOff,
    Trouble::Deaf,
    Trouble::Mute,
    Trouble::SlowLinks,
    Trouble::SlowDrives,
    Trouble::DriveGone,
    Trouble::DriveErrs,
    Trouble::DriveFull,
    Trouble::Rots,
    Trouble::ClockJumps,
];

fn either(chance: &mut Chance, most: i64) -> i64 {
    chance.below(2 * most.unsigned_abs() + 1) as i64 - most
}

/// How far a calendar is ahead, in milliseconds: it may be years.
fn ahead(chance: &mut Chance) -> i64 {
    const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
    match chance.below(10) {
        0..5 => either(chance, 500),
        5..8 => either(chance, 120_000),
        _ => either(chance, 3 * YEAR_MS),
    }
}

/// Sets a machine's clock as badly as a machine's clock can be set.
pub fn skew(place: &Place, chance: &mut Chance) {
    let ahead = ahead(chance);
    place.machine.set_ahead(ahead);
    place.machine.set_gain(either(chance, 30_000));
}

/// A phase of a storm: trouble, and its end.
pub async fn deal(stage: Stage, storm: Storm, phase: u64) -> Result<(), String> {
    let done = dealt(&stage, storm, phase).await;
    // Whatever came of it, the clients' work ends.
    stage.weather(false);
    done.map_err(|error| error.to_string())
}

async fn dealt(stage: &Stage, storm: Storm, phase: u64) -> Result<(), Failed> {
    let mut chance = Chance::new(stage.seed ^ (phase + 7) << 50);
    pause(&mut chance, PEACE_MS).await;
    let comes = match (storm.turnover, storm.joins && phase == 0) {
        (true, _) => Some(storm.nodes + phase as usize),
        (false, true) => Some(storm.nodes),
        (false, false) => None,
    };
    if let Some(number) = comes {
        settle::invite(stage, number).await?;
        if chance.percent(50) {
            stage.ready(number, START_SECS).await?;
        }
    }
    if storm.always == Some(Always::Cut) {
        begin(stage, &mut chance, Trouble::CutOff, 0).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        end(stage, Trouble::CutOff, 0).await?;
        return Ok(());
    }
    match storm.kind {
        Kind::Calm => pause(&mut chance, 3000).await,
        Kind::Promised => promised(stage, &mut chance, storm.victims).await?,
        Kind::Anything => anything(stage, &mut chance, storm.always == Some(Always::Blackout)).await?,
    }
    if let Some(number) = comes {
        stage.ready(number, START_SECS).await?;
    }
    if storm.turnover {
        // Not the first one, which has the root key.
        let members = stage.members();
        operator::part(stage, members[1 + chance.below(members.len() as u64 - 1) as usize]).await?;
    }
    pause(&mut chance, PEACE_MS).await;
    Ok(())
}

async fn pause(chance: &mut Chance, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(1 + chance.below(most_ms))).await;
}

/// As many machines at a time as are promised to be borne, in trouble of one kind after the other.
async fn promised(stage: &Stage, chance: &mut Chance, count: usize) -> Result<(), Failed> {
    let mut members = stage.members();
    let mut pick = || members.remove(chance.below(members.len() as u64) as usize);
    let victims: Vec<usize> = (0..count).map(|_| pick()).collect();
    for _ in 0..1 + chance.below(2) {
        let mut open = Vec::new();
        for victim in &victims {
            let trouble = TROUBLES[chance.below(TROUBLES.len() as u64) as usize];
            // Flipped bits count as lost pieces: of one machine only.
            let trouble = if trouble == Trouble::Rots && count > 1 { Trouble::Freezes } else { trouble };
            begin(stage, chance, trouble, *victim).await;
            open.push((trouble, *victim));
        }
        pause(chance, 6000).await;
        for (trouble, victim) in open {
            end(stage, trouble, victim).await?;
        }
        pause(chance, 1500).await;
    }
    Ok(())
}

/// Any machines, at the same time.
async fn anything(stage: &Stage, chance: &mut Chance, blackout: bool) -> Result<(), Failed> {
    let members = stage.members();
    let mut open: Vec<(Trouble, usize)> = Vec::new();
    for _ in 0..6 {
        if !open.is_empty() && chance.percent(45) {
            let (trouble, victim) = open.remove(chance.below(open.len() as u64) as usize);
            end(stage, trouble, victim).await?;
        } else {
            let victim = members[chance.below(members.len() as u64) as usize];
            let trouble = TROUBLES[chance.below(TROUBLES.len() as u64) as usize];
            // Flipped bits count as lost pieces: of one machine only.
            let trouble = if trouble == Trouble::Rots && victim != members[0] { Trouble::LosesPower } else { trouble };
            if open.iter().all(|(_, other)| *other != victim) {
                begin(stage, chance, trouble, victim).await;
                open.push((trouble, victim));
            }
        }
        pause(chance, 3000).await;
    }
    if chance.percent(40) || blackout {
        // A power cut of the whole room.
        for victim in &members {
            begin(stage, chance, Trouble::LosesPower, *victim).await;
            open.push((Trouble::LosesPower, *victim));
        }
        pause(chance, 2000).await;
    }
    for (trouble, victim) in open {
        end_without_waiting(stage, trouble, victim).await;
    }
    for victim in members {
        stage.ready(victim, START_SECS).await?;
        stage.set_troubled(victim, false);
    }
    Ok(())
}

fn others(stage: &Stage, victim: usize) -> impl Iterator<Item = usize> {
    (0..stage.places.len()).filter(move |other| *other != victim)
}

async fn begin(stage: &Stage, chance: &mut Chance, trouble: Trouble, victim: usize) {
    stage.note(format!("{}: {trouble:?}", name(victim)));
    stage.count(|counts| counts.troubles += 1);
    stage.set_troubled(victim, true);
    let place = &stage.places[victim];
    let drive = stage.drives[chance.below(stage.drives.len() as u64) as usize].clone();
    match trouble {
        Trouble::Dies => stage.order(Order::Kill(victim)).await,
        Trouble::LosesPower => stage.order(Order::PowerCut(victim)).await,
        Trouble::Freezes => place.machine.freeze(),
        Trouble::CutOff => others(stage, victim).for_each(|other| turmoil::partition(name(victim), name(other))),
        Trouble::Deaf => others(stage, victim).for_each(|other| turmoil::partition_oneway(name(other), name(victim))),
        Trouble::Mute => others(stage, victim).for_each(|other| turmoil::partition_oneway(name(victim), name(other))),
        Trouble::SlowLinks => stage.order(Order::Latency(victim, 20 + chance.below(150))).await,
        Trouble::SlowDrives => place.machine.set_slower(500 + chance.below(5000)),
        Trouble::DriveGone => place.disk.detach(&drive),
        Trouble::DriveErrs => {
            place.disk.set_faults(&drive, Faults { read_errors: 500, write_errors: 200, ..Faults::default() });
        }
        Trouble::DriveFull => {
            let capacity = Some(place.disk.used(&drive) + chance.below(400_000));
            place.disk.set_faults(&drive, Faults { capacity, ..Faults::default() });
        }
        Trouble::Rots => {
            let count = place.disk.rot(&drive.join("pieces"), 1 + chance.below(20) as usize);
            stage.note(format!("{count} bits flip"));
        }
        // The calendar alone: no machine's monotonic clock jumps.
        Trouble::ClockJumps => place.machine.set_ahead(ahead(chance)),
    }
}

async fn end(stage: &Stage, trouble: Trouble, victim: usize) -> Result<(), Failed> {
    end_without_waiting(stage, trouble, victim).await;
    stage.ready(victim, START_SECS).await?;
    stage.set_troubled(victim, false);
    Ok(())
}

async fn end_without_waiting(stage: &Stage, trouble: Trouble, victim: usize) {
    stage.note(format!("{}: {trouble:?} ends", name(victim)));
    let place = &stage.places[victim];
    match trouble {
        Trouble::Dies | Trouble::LosesPower => stage.order(Order::Start(victim)).await,
        Trouble::Freezes => place.machine.thaw(),
        Trouble::CutOff => others(stage, victim).for_each(|other| turmoil::repair(name(victim), name(other))),
        Trouble::Deaf => others(stage, victim).for_each(|other| turmoil::repair_oneway(name(other), name(victim))),
        Trouble::Mute => others(stage, victim).for_each(|other| turmoil::repair_oneway(name(victim), name(other))),
        Trouble::SlowLinks => stage.order(Order::Latency(victim, 3)).await,
        Trouble::SlowDrives => place.machine.set_slower(0),
        Trouble::DriveGone => stage.drives.iter().for_each(|drive| {
            if place.disk.is_detached(drive) {
                place.disk.attach(drive);
            }
        }),
        Trouble::DriveErrs | Trouble::DriveFull => {
            stage.drives.iter().for_each(|drive| {
                if !place.disk.is_detached(drive) {
                    place.disk.set_faults(drive, Faults::default());
                }
            });
        }
        Trouble::Rots | Trouble::ClockJumps => {}
    }
}
