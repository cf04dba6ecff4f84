//! The founding of a cluster, and what must be true of it when all is well.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value as Json, json};

use crate::cluster::DRIVES;
use crate::cluster::stage::{BUCKET, Failed, Stage, name};
use crate::cluster::work;
use crate::oracle::Truths;

/// How long it may take until all is well again once all trouble ended.
const SETTLE_SECS: u64 = 300;
/// Machines that scrub at a time.
const SCRUBS: usize = 8;
/// Of more machines not all do.
const CROWD: usize = 20;
/// How long founding, and joining of one node, may take.
const JOIN_SECS: u64 = 60;

/// The first machine makes a store, and the others join it.
pub async fn found(stage: &Stage, nodes: usize) -> Result<(), Failed> {
    stage.ready(0, JOIN_SECS).await?;
    for number in 1..nodes {
        invite(stage, number).await?;
    }
    for number in 1..nodes {
        stage.ready(number, JOIN_SECS).await?;
    }
    settle(stage).await
}

/// Has a machine join.
pub async fn invite(stage: &Stage, number: usize) -> Result<(), Failed> {
    let told = stage.admin(0, "POST", "/v1/nodes/invite", &json!({ "valid_secs": 3600 })).await?;
    let ticket = told["ticket"].as_str().ok_or("the invitation has no ticket")?;
    stage.give_ticket(number, ticket.to_owned());
    Ok(())
}

/// Why a node isn't as it should be, by its own word; who leads the shards, as it says.
fn judge(status: &Json, members: usize) -> Result<BTreeMap<u64, String>, String> {
    let mut wrong = Vec::new();
    if status["health"] != "green" {
        wrong.push(format!("it is {}: {} {}", status["health"], status["sentence"], status["reasons"]));
    }
    if status["repair"]["pieces"] != 0 {
        wrong.push(format!("pieces are to be rebuilt: {}", status["repair"]));
    }
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if nodes.len() != members {
        wrong.push(format!("it knows {} nodes of {members}", nodes.len()));
    }
    let drives = status["drives"].as_array().map(Vec::as_slice).unwrap_or_default();
    let up = drives.iter().filter(|drive| drive["state"] == "up").count();
    if up != members * DRIVES || drives.len() != up {
        wrong.push(format!("{up} of {} drives are up, it knows {}", members * DRIVES, drives.len()));
    }
    // As many nodes as hold an acknowledged write and one more.
    if members > 2 && status["spare_losses"].as_i64() < Some(2) {
        wrong.push(format!("it survives the loss of {} drives only", status["spare_losses"]));
    }
    let mut leaders = BTreeMap::new();
    for node in nodes {
        if node["standing"] != "alive" {
            wrong.push(format!("{} is {}", node["name"], node["standing"]));
        }
        for shard in node["leader"].as_array().into_iter().flatten().filter_map(Json::as_u64) {
            leaders.insert(shard, node["name"].to_string());
        }
    }
    for shard in [0, 1] {
        // A node that keeps no replica learns of the leader when it asks.
        if shard == 0 && !leaders.contains_key(&shard) {
            wrong.push(format!("nobody leads shard {shard}"));
        }
    }
    if wrong.is_empty() { Ok(leaders) } else { Err(wrong.join("; ")) }
}

async fn look(stage: &Stage) -> Result<(), Failed> {
    let members = stage.members();
    let mut agreed: BTreeMap<u64, String> = BTreeMap::new();
    for number in &members {
        let status = stage.admin(*number, "GET", "/v1/status", &Json::Null).await?;
        let leaders = judge(&status, members.len()).map_err(|why| format!("{}: {why}", name(*number)))?;
        for (shard, leader) in leaders {
            let known = agreed.entry(shard).or_insert_with(|| leader.clone());
            if *known != leader {
                return Err(format!("shard {shard} is led by {known} or by {leader}").into());
            }
        }
    }
    if agreed.contains_key(&1) { Ok(()) } else { Err("nobody leads shard 1".into()) }
}

/// Waits until every node finds all well, and all say the same.
pub async fn settle(stage: &Stage) -> Result<(), Failed> {
    let began = turmoil::sim_elapsed().unwrap_or_default();
    let mut said = String::new();
    loop {
        let Err(why) = look(stage).await else { break };
        let why = why.to_string();
        if why != said {
            stage.note(format!("not settled: {why}"));
            said.clone_from(&why);
        }
        let took = turmoil::sim_elapsed().unwrap_or_default() - began;
        if took.as_secs() > SETTLE_SECS {
            return Err(format!("not all is well {SETTLE_SECS} s after all trouble ended: {why}").into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stage.note("settled".into());
    Ok(())
}

/// Everything is there, by every node's word.
pub async fn check(stage: &Stage, all: &[Truths]) -> Result<(), Failed> {
    let members = stage.members();
    scrub(stage, &members).await?;
    for number in &members {
        for truths in all {
            work::check_all(stage, *number, truths).await?;
        }
    }
    work::check_listing(stage, members[0], "w", all).await?;
    let verified = stage.admin(members[members.len() - 1], "POST", "/v1/verify", &json!({ "what": BUCKET })).await?;
    stage.note(format!("verify: {verified}"));
    let bad = verified["findings"].as_array().is_none_or(|findings| !findings.is_empty());
    if bad { Err(format!("verify finds something: {verified}").into()) } else { Ok(()) }
}

/// Bits that flipped are found by reading everything, and made good.
async fn scrub(stage: &Stage, members: &[usize]) -> Result<(), Failed> {
    let mut found = Json::Null;
    for _ in 0..10 {
        let mut is_clean = true;
        // Each looks for the pieces of all, row by row at who leads: with thirty a few of them do.
        let all = if members.len() > CROWD { &members[..SCRUBS] } else { members };
        for some in all.chunks(SCRUBS) {
            let scrubs = some.iter().map(|number| stage.admin(*number, "POST", "/v1/scrub", &Json::Null));
            for (number, scrubbed) in some.iter().zip(join_all(scrubs).await) {
                let scrubbed = scrubbed?;
                stage.note(format!("{} scrub: {scrubbed}", name(*number)));
                if ["damaged", "missing", "metadata", "metadata_unread"].iter().any(|what| scrubbed[what] != 0) {
                    is_clean = false;
                    found = scrubbed;
                }
            }
        }
        settle(stage).await?;
        if is_clean {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    Err(format!("scrubs still find something: {found}").into())
}
