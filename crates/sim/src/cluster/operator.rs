//! Operators: one who mistypes at any moment of a storm, and one who has machines leave.
//!
//! What a mistyped command would take is more than the store can spare, so it must be refused, whatever else goes wrong
//! at the time. That it was is not asked of the gate: the trail of applied plans has nothing but what was meant, every
//! machine and drive is in use at the end, and what the commands were after is there.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::chance::Chance;
use crate::cluster::stage::{Failed, Order, Stage, name};
use crate::cluster::{Storm, work};

/// A bucket that only mistyped commands touch.
const PRECIOUS: &str = "precious";
/// What is in it.
const KEYS: u64 = 3;
/// How long an operator waits for an answer before trying something else.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a plan that is permitted in calm weather may be refused, and its data may take to move.
const LEAVE_SECS: u64 = 300;

/// What somebody types who means something else.
#[derive(Clone, Copy, Debug)]
enum Typo {
    /// All machines but one, instead of one.
    RemoveOthers,
    /// The same, as lost.
    ExpungeOthers,
    /// Everything.
    DrainAll,
    /// One copy of everything from now on.
    OneCopy,
    /// The wrong bucket, with all that is in it.
    DeleteBucket,
    /// What could be had back.
    Purge,
}

const TYPOS: [Typo; 6] =
    [Typo::RemoveOthers, Typo::ExpungeOthers, Typo::DrainAll, Typo::OneCopy, Typo::DeleteBucket, Typo::Purge];

impl Typo {
    fn call(self, members: &[usize], meant: usize) -> (&'static str, Json) {
        let all: Vec<String> = members.iter().copied().map(name).collect();
        let others: Vec<&String> = all.iter().filter(|other| **other != name(meant)).collect();
        let plan = |verb: &str, targets: Json| ("/v1/plan", json!({ "verb": verb, "targets": targets, "apply": true }));
        match self {
            Typo::RemoveOthers => plan("remove", json!(others)),
            Typo::ExpungeOthers => plan("expunge", json!(others)),
            Typo::DrainAll => plan("drain", json!(all)),
            Typo::OneCopy => ("/v1/policies/default", json!({ "code": "1+0" })),
            Typo::DeleteBucket => {
                ("/v1/buckets/delete", json!({ "bucket": PRECIOUS, "with_contents": true, "apply": true }))
            }
            Typo::Purge => ("/v1/purge", json!({ "what": PRECIOUS, "apply": true })),
        }
    }
}

/// What commands are to be after.
pub async fn prepare(stage: &Stage) -> Result<(), Failed> {
    work::make_bucket(stage, PRECIOUS).await?;
    for number in 0..=KEYS {
        work::put_plain(stage, PRECIOUS, &number.to_string(), &bytes(stage.seed, number)).await?;
    }
    // The last one is deleted, to be had back.
    work::delete_plain(stage, PRECIOUS, &KEYS.to_string()).await
}

fn bytes(seed: u64, number: u64) -> Vec<u8> {
    let mut chance = Chance::new(seed ^ number << 32);
    (0..1 + chance.below(60_000)).map(|_| chance.below(256) as u8).collect()
}

async fn ask(stage: &Stage, number: usize, path: &str, wish: &Json) -> Result<Json, String> {
    let told = tokio::time::timeout(PATIENCE, stage.admin(number, "POST", path, wish)).await;
    told.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())
}

/// Mistypes while the weather is bad. One who is `careless` repeats whatever code a refusal shows.
pub async fn mistype(stage: Stage, phase: u64, careless: bool) -> Result<(), String> {
    let mut chance = Chance::new(stage.seed ^ 0x7e90 ^ phase << 40);
    while stage.is_stormy() {
        let members = stage.members();
        let mut pick = || members[chance.below(members.len() as u64) as usize];
        let (asked, meant) = (pick(), pick());
        let typo = TYPOS[chance.below(TYPOS.len() as u64) as usize];
        let (path, mut wish) = typo.call(&members, meant);
        if careless {
            let mut look = wish.clone();
            look["apply"] = false.into();
            if let Ok(told) = ask(&stage, asked, path, &look).await {
                wish["code"] = told["code"].clone();
            }
        }
        let told = ask(&stage, asked, path, &wish).await;
        stage.note(format!("{typo:?} typed at {}: {told:?}", name(asked)));
        stage.count(|counts| counts.typos += 1);
        if let Ok(told) = told {
            return Err(format!("{typo:?} was done: {told}"));
        }
        tokio::time::sleep(Duration::from_millis(200 + chance.below(2000))).await;
    }
    Ok(())
}

/// Nothing came of what was mistyped.
pub async fn check(stage: &Stage, storm: Storm) -> Result<(), Failed> {
    let (members, left) = (stage.members(), if storm.turnover { storm.phases as usize } else { 0 });
    let trail = stage.admin(members[0], "GET", "/v1/trail?limit=100", &Json::Null).await?;
    let plans = trail.as_array().ok_or("the trail is no list")?;
    // Each is emptied, and taken out.
    let overridden = plans.iter().any(|plan| plan["overridden"].as_array().is_none_or(|list| !list.is_empty()));
    if overridden || plans.len() != 2 * left {
        return Err(format!("{left} machines were meant to leave, and these plans were carried out: {trail}").into());
    }
    for number in members.iter().filter(|_| storm.typos) {
        for key in 0..KEYS {
            let found = work::get_plain(stage, *number, PRECIOUS, &key.to_string()).await?;
            if found.as_deref() != Some(&*bytes(stage.seed, key)) {
                return Err(format!("{PRECIOUS}/{key} isn't what it was, by {}", name(*number)).into());
            }
        }
    }
    Ok(())
}

/// Has a machine leave: it is emptied, taken out, and switched off.
pub async fn part(stage: &Stage, number: usize) -> Result<(), Failed> {
    insist(stage, "drain", number).await?;
    insist(stage, "remove", number).await?;
    stage.leaves(number);
    stage.order(Order::Kill(number)).await;
    Ok(())
}

/// Asks until it is done, at the machine that has the root key.
async fn insist(stage: &Stage, verb: &str, number: usize) -> Result<(), Failed> {
    let began = work::now();
    let wish = json!({ "verb": verb, "targets": [name(number)], "apply": true });
    loop {
        let told = ask(stage, 0, "/v1/plan", &wish).await;
        match told {
            Ok(told) => {
                stage.note(format!("{verb} {}: {told}", name(number)));
                return Ok(());
            }
            Err(error) if (work::now() - began).as_secs() > LEAVE_SECS => {
                return Err(format!("{} can't leave in {LEAVE_SECS} s: {error}", name(number)).into());
            }
            Err(error) => stage.note(format!("{verb} {}: {error}", name(number))),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
