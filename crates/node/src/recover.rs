//! The metadata is founded anew on one survivor, when the other nodes that kept it never come back.
//!
//! Done on folders whose store isn't running. First it is only looked: what is here, what the newest signed
//! checkpoint says, who voted, who of them answers. What stands against it is said ([`judge`]); else there is a code,
//! bound to exactly what was seen. With that code it is done. What it takes: that a majority of the old voters can
//! never come back. So whoever answers in any way counts as one who can.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{NodeId, Wall};
use codec::{Versioned, Writer};
use env::Env;
use futures_util::future::join_all;
use replicated::{Checkpoint, Examined, Who};
use serde::Serialize;
use transport::{Endpoint, Services, TcpCarrier};

use crate::cluster::checkpoints::Sealed;
use crate::cluster::rounds::{self, Answer, Ask};
use crate::cluster::{Directory, places};
use crate::error::{Error, Result};
use crate::fleet::Marks;
use crate::members::{NodeFile, node_file};
use crate::node::{SYSTEM, VOLUMES};
use crate::open;
use crate::settings::Settings;

/// How long another node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What a recovery would come to, or came to.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    /// What was found, for people.
    pub found: Vec<String>,
    /// What stands against it, and what would work.
    pub refused: Vec<String>,
    /// With this it is done, if nothing stands against it.
    pub code: Option<String>,
    /// Whether it was done.
    pub is_done: bool,
}

/// A shard as this survivor has it.
struct Seen {
    shard: u32,
    here: Examined,
    checkpoint: Option<(Sealed, Checkpoint)>,
}

/// How another voter answers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// Not at all.
    Nothing(String),
    /// Something listens where it is known to be.
    Something(SocketAddr),
    /// It says what it has.
    It(Answer),
}

impl Heard {
    /// Whether its vote may count for the shard's old group still.
    fn can_vote(&self, shard: u32) -> bool {
        match self {
            Heard::Nothing(_) => false,
            Heard::Something(_) => true,
            Heard::It(answer) => answer.open.contains(&shard),
        }
    }
}

/// All that was looked at.
struct Look {
    env: Env,
    settings: Settings,
    marks: Arc<Marks>,
    file: NodeFile,
    shards: Vec<Seen>,
    heard: BTreeMap<NodeId, Heard>,
}

/// Shows what founding the metadata anew on this survivor would come to; with the code that this gave before, does it.
///
/// # Errors
/// If the folders or the node's file can't be used, or the code is another one: nothing was changed then. If founding
/// fails half-way it can be repeated.
pub async fn recover(env: Env, settings: Settings, code: Option<&str>) -> Result<Recovery> {
    let look = Look::take(env, settings).await?;
    let mut recovery = Recovery { found: look.lines(), refused: look.refusals(), code: None, is_done: false };
    if !recovery.refused.is_empty() {
        return Ok(recovery);
    }
    let right = look.code();
    match code {
        None => recovery.code = Some(right),
        Some(code) if code.trim() == right => {
            look.carry_out().await?;
            recovery.is_done = true;
        }
        Some(_) => {
            return Err(Error::Refused(
                "the code is not the one of what is found now: run this without --code, read what it says, and use the code that it prints; nothing was changed"
                    .into(),
            ));
        }
    }
    Ok(recovery)
}

impl Look {
    async fn take(env: Env, settings: Settings) -> Result<Look> {
        let (disk, paths, new) = (env.disk.clone(), settings.drives.clone(), base::ClusterId(env.random()));
        let found = env.blocking(move || open::look(&*disk, &paths, new, 0)).await.map_err(client::Error::from)??;
        if !found.ready || !found.empty.is_empty() {
            return Err(Error::Folders(
                "name the folders that hold this node's part of the store, all that are left of them and no others"
                    .into(),
            ));
        }
        let path = settings.home.join(node_file(found.cluster));
        let disk = env.disk.clone();
        let file = env.blocking(move || NodeFile::read(&*disk, &path)).await.map_err(client::Error::from)??;
        let marks = Marks::new(env.clone());
        for (path, lock, identity) in found.drives {
            marks.add(&path, lock, identity);
        }
        let mut look = Look { env, settings, marks, file, shards: Vec::new(), heard: BTreeMap::new() };
        let more: Vec<u32> = look.file.turns.keys().copied().filter(|shard| *shard > VOLUMES).collect();
        for shard in [SYSTEM, VOLUMES].into_iter().chain(more) {
            // Of other shards than these a node has what it was asked to keep.
            if shard > VOLUMES && look.places(shard).rows.is_empty() {
                continue;
            }
            let seen = look.examine(shard).await?;
            look.shards.push(seen);
        }
        look.heard = look.listen().await?;
        Ok(look)
    }

    fn places(&self, shard: u32) -> replicated::Places {
        places(&self.marks, shard, self.file.turns.get(&shard).copied().unwrap_or(0), Vec::new)
    }

    fn who(&self, shard: u32) -> Who {
        Who { node: self.file.node(), shard }
    }

    async fn examine(&self, shard: u32) -> Result<Seen> {
        let places = self.places(shard);
        if places.rows.is_empty() || places.log.is_empty() {
            return Err(Error::Folders(format!(
                "no copy of metadata shard {shard} is in these folders: name all that are left of this node, or run this on another survivor; nothing was changed"
            )));
        }
        let (key, settings) = (self.file.keys.meta_key(), &self.settings.replicas);
        let here = replicated::examine(&self.env, self.who(shard), &key, places, settings).await?;
        let path = Sealed::path(&self.settings.home, self.file.cluster(), shard);
        let (disk, root) = (self.env.disk.clone(), self.file.root);
        let kept = self.env.blocking(move || Sealed::load(&*disk, &path, &root)).await;
        Ok(Seen { shard, here, checkpoint: kept.map_err(client::Error::from)?? })
    }

    /// Asks all other voters whether they are there.
    async fn listen(&self) -> Result<BTreeMap<NodeId, Heard>> {
        let directory = Arc::new(Directory::default());
        self.file.contacts.iter().for_each(|known| directory.set(known.node, known.addresses.clone()));
        let transport = self.settings.transport.clone();
        let carrier = TcpCarrier::new(self.env.clone(), self.file.signing_key(), transport.connect)?;
        let (env, carrier) = (self.env.clone(), Arc::new(carrier));
        let (identity, trust) = (self.file.identity(), self.file.trust()?);
        let started = Endpoint::start(env, transport, carrier, identity, trust, directory, Services::new(), None, None);
        let endpoint = started.await?;
        let others: BTreeSet<NodeId> = self.shards.iter().flat_map(Seen::voters).collect();
        let asked = others.into_iter().filter(|node| *node != self.file.node()).map(|node| {
            let endpoint = endpoint.clone();
            async move { (node, self.hear(&endpoint, node).await) }
        });
        let heard = join_all(asked).await.into_iter().collect();
        endpoint.close();
        Ok(heard)
    }

    async fn hear(&self, endpoint: &Endpoint, node: NodeId) -> Heard {
        let asked = self.env.timeout(ANSWER_MAX, rounds::ask(endpoint, node, &Ask::Groups, ANSWER_MAX)).await;
        let why = match asked.unwrap_or_else(|| Err("it doesn't answer in time".into())) {
            Ok(answer) => return Heard::It(answer),
            Err(why) => why,
        };
        let contact = self.file.contacts.iter().find(|contact| contact.node == node);
        for address in contact.iter().flat_map(|contact| &contact.addresses) {
            // One that hangs is there.
            if let Some(Ok(_)) = self.env.timeout(ANSWER_MAX, self.env.net.connect(*address)).await {
                return Heard::Something(*address);
            }
        }
        Heard::Nothing(why)
    }

    fn refusals(&self) -> Vec<String> {
        let mut all = Vec::new();
        let me = self.file.node();
        for (node, heard) in &self.heard {
            if let Heard::It(answer) = heard
                && answer.round > self.file.round
            {
                all.push(format!(
                    "the metadata was recovered already: node {node} goes on with it. Start `abide up` here, and this node joins anew"
                ));
            }
        }
        let is_settled = |seen: &Seen| self.file.tokens.get(&seen.shard) == Some(&seen.here.token);
        if self.shards.iter().all(|seen| seen.is_alone(me) && is_settled(seen)) {
            all.push(
                "this node alone keeps the metadata already: there is nothing to recover; start `abide up`".into(),
            );
        }
        let lost = self.lost();
        for seen in self.shards.iter().filter(|seen| !seen.is_alone(me)) {
            // Groups that have their majority go on as they are, if others don't.
            if lost.is_empty() || lost.contains(&seen.shard) {
                all.extend(judge(seen, me, |node| self.can_vote(seen.shard, node)));
            }
        }
        all
    }

    /// Whether a node's vote may count for the shard's group still.
    fn can_vote(&self, shard: u32, node: NodeId) -> bool {
        self.heard.get(&node).is_some_and(|heard| heard.can_vote(shard))
    }

    /// The shards that no majority keeps any more.
    fn lost(&self) -> BTreeSet<u32> {
        let me = self.file.node();
        let is_lost = |seen: &&Seen| !seen.has_majority(me, |node| self.can_vote(seen.shard, node));
        self.shards.iter().filter(is_lost).map(|seen| seen.shard).collect()
    }

    fn lines(&self) -> Vec<String> {
        let (me, lost) = (self.file.node(), self.lost());
        let mut lines = vec![format!("node {me} of store {}", self.file.cluster())];
        for seen in &self.shards {
            let here = &seen.here;
            lines.push(format!(
                "metadata shard {}: this copy ends at batch {} (round {}, entry {})",
                seen.shard, here.end, here.standing.term, here.standing.index
            ));
            if seen.is_alone(me) {
                lines.push("  this node alone keeps it already".into());
                continue;
            }
            if !lost.contains(&seen.shard) {
                lines.push("  most of its voters can be reached: it goes on as it is".into());
                continue;
            }
            let voters: Vec<String> = seen.voters().iter().map(NodeId::to_string).collect();
            lines.push(format!("  its voters: {}", voters.join(", ")));
            if let Some((sealed, checkpoint)) = &seen.checkpoint {
                lines.push(format!(
                    "  the newest checkpoint at hand: batch {}, made {} by node {}",
                    checkpoint.seq,
                    sealed.made.rfc3339(),
                    checkpoint.node
                ));
                lines.push(format!("  lost at the most: {}", at_most(here, sealed.made)));
            }
        }
        for (node, heard) in &self.heard {
            lines.push(match heard {
                Heard::Nothing(why) => format!("node {node} doesn't answer ({why}): it must never come back as it was"),
                Heard::Something(address) => format!("node {node}: something listens at {address}"),
                Heard::It(answer) if answer.open.is_empty() => {
                    format!("node {node} answers, and has no copy that it can open")
                }
                Heard::It(_) => format!("node {node} answers"),
            });
        }
        lines.push(
            "if other nodes survived too, run this on each of them and take the one with the highest round of each shard, \
             then the highest entry: it has most"
                .into(),
        );
        lines
    }

    /// Bound to all that was found.
    fn code(&self) -> String {
        let mut all = Writer::new();
        all.raw(&self.file.cluster().0).raw(&self.file.node().0).u64(self.file.round);
        for seen in &self.shards {
            let (here, standing) = (&seen.here, &seen.here.standing);
            all.u32(seen.shard).raw(&here.token).u64(standing.term).u64(standing.index).u64(here.end.0);
            for set in here.members.iter().flatten() {
                all.u32(set.len() as u32);
                set.iter().for_each(|node| _ = all.raw(&node.0));
            }
            all.bytes(&seen.checkpoint.as_ref().map(|(sealed, _)| sealed.encode()).unwrap_or_default());
        }
        for (node, heard) in &self.heard {
            all.raw(&node.0).u8(u8::from(!matches!(heard, Heard::Nothing(_))));
        }
        format!("{:016x}", codec::crc64(&all.finish()))
    }

    async fn carry_out(mut self) -> Result<()> {
        let (me, lost) = (self.file.node(), self.lost());
        for seen in self.shards.iter().filter(|seen| seen.is_alone(me) || lost.contains(&seen.shard)) {
            let token = match (&seen.checkpoint, seen.is_alone(me)) {
                // An attempt before this one came so far.
                (_, true) => seen.here.token,
                (Some((_, checkpoint)), false) => {
                    let (key, places) = (self.file.keys.meta_key(), self.places(seen.shard));
                    let settings = &self.settings.replicas;
                    let who = self.who(seen.shard);
                    replicated::recover(&self.env, who, &key, places, settings, checkpoint).await?.token
                }
                (None, false) => return Err(Error::Refused(format!("no checkpoint of shard {}", seen.shard))),
            };
            self.file.tokens.insert(seen.shard, token);
        }
        // Last: who hears of this round takes the tokens with it.
        self.file.round += 1;
        let (disk, path, file) = (self.env.disk.clone(), self.node_file(), self.file.clone());
        let wrote = self.env.blocking(move || file.write(&*disk, &path)).await;
        Ok(wrote.map_err(client::Error::from)??)
    }

    fn node_file(&self) -> std::path::PathBuf {
        Path::join(&self.settings.home, node_file(self.file.cluster()))
    }
}

impl Seen {
    /// All that voted by any configuration that may count.
    fn voters(&self) -> BTreeSet<NodeId> {
        self.here.members.iter().flatten().flatten().copied().collect()
    }

    /// Those whose votes may count still.
    fn able(&self, me: NodeId, can_vote: impl Fn(NodeId) -> bool) -> BTreeSet<NodeId> {
        self.voters().into_iter().filter(|node| *node == me || can_vote(*node)).collect()
    }

    /// Whether its group may go on by itself, by some configuration that may count.
    fn has_majority(&self, me: NodeId, can_vote: impl Fn(NodeId) -> bool) -> bool {
        let able = self.able(me, can_vote);
        let is_majority = |set: &BTreeSet<NodeId>| set.intersection(&able).count() * 2 > set.len();
        self.here.members.iter().any(|sets| !sets.is_empty() && sets.iter().all(is_majority))
    }

    fn is_alone(&self, me: NodeId) -> bool {
        self.voters().into_iter().eq([me])
    }
}

/// What may be lost.
fn at_most(here: &Examined, made: Wall) -> String {
    format!(
        "what was acknowledged after batch {}, none of it before {}: nothing, if this node answered until the others were lost",
        here.end,
        made.rfc3339()
    )
}

/// What stands against founding a shard anew on this node.
fn judge(seen: &Seen, me: NodeId, can_vote: impl Fn(NodeId) -> bool) -> Vec<String> {
    let (shard, here) = (seen.shard, &seen.here);
    let mut all = Vec::new();
    if seen.has_majority(me, &can_vote) {
        let able = seen.able(me, can_vote);
        let names: Vec<String> = able.iter().filter(|node| **node != me).map(NodeId::to_string).collect();
        let who = if names.is_empty() {
            "this node alone is".into()
        } else {
            format!("this node and {} are", names.join(", "))
        };
        all.push(format!(
            "shard {shard}: {who} a majority of its voters and can be reached: start `abide up` here, nothing is lost"
        ));
    }
    if let Some(why) = &here.quarantine {
        all.push(format!("shard {shard}: this copy contradicts the others ({why}): take another survivor"));
    }
    if here.is_partial {
        all.push(format!("shard {shard}: this copy was being filled and isn't whole: take another survivor"));
    }
    match &seen.checkpoint {
        None => all.push(format!(
            "shard {shard}: no signed checkpoint is at hand, so nothing proves how new this copy is: copy the file CLUSTER.checkpoint-{shard} from the home of any other node to this one's"
        )),
        Some((_, checkpoint)) if checkpoint.token != here.token => all.push(format!(
            "shard {shard}: the checkpoint at hand is of another group than this copy: copy a newer CLUSTER.checkpoint-{shard} here, or take another survivor"
        )),
        Some((_, checkpoint)) if here.end < checkpoint.seq => all.push(format!(
            "shard {shard}: this copy ends at batch {}, and the checkpoint proves that there were {}: take a survivor that has more",
            here.end, checkpoint.seq
        )),
        Some(_) => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use base::{Epoch, Seq};
    use replicated::Standing;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn seen(members: &[&[&[u8]]], end: u64, checkpoint: Option<(u8, u64)>) -> Seen {
        let set = |set: &&[u8]| set.iter().map(|one| node(*one)).collect();
        let members = members.iter().map(|sets| sets.iter().map(set).collect()).collect();
        let standing = Standing { term: 1, index: 9, head: Seq(end) };
        let here = Examined { standing, end: Seq(end), token: [7; 16], members, quarantine: None, is_partial: false };
        let checkpoint = checkpoint.map(|(token, seq)| {
            let checkpoint = Checkpoint {
                token: [token; 16],
                shard: 1,
                node: node(1),
                seq: Seq(seq),
                epoch: Epoch(1),
                index: seq,
                digest: [0; 32],
                voters: Vec::new(),
            };
            (Sealed { made: Wall(0), signed: Vec::new() }, checkpoint)
        });
        Seen { shard: 1, here, checkpoint }
    }

    fn said(seen: &Seen, able: &[u8]) -> Vec<String> {
        judge(seen, node(1), |one| able.iter().any(|able| node(*able) == one))
    }

    #[test]
    fn it_is_refused_as_long_as_a_majority_could_vote() {
        let three = seen(&[&[&[1, 2, 3]]], 5, Some((7, 5)));
        assert_eq!(said(&three, &[]), [""; 0]);
        assert!(said(&three, &[2])[0].contains("majority"));
        let five = seen(&[&[&[1, 2, 3, 4, 5]]], 5, Some((7, 4)));
        assert_eq!(said(&five, &[2]), [""; 0]);
        assert!(said(&five, &[2, 3])[0].contains("majority"));
        // By the members before the last ones they would be enough.
        let moving = seen(&[&[&[2, 3, 4]], &[&[2, 3, 4], &[1, 2, 3, 4, 5]]], 5, Some((7, 4)));
        assert!(said(&moving, &[2, 3])[0].contains("majority"));
        assert_eq!(said(&moving, &[2]), [""; 0]);
        // What was agreed on by both sets needs both.
        let grown = seen(&[&[&[1], &[1, 2]], &[&[1, 2]]], 5, Some((7, 4)));
        assert_eq!(said(&grown, &[]), [""; 0]);
        assert!(said(&grown, &[2])[0].contains("majority"));
        let growing = seen(&[&[&[1]], &[&[1], &[1, 2]]], 5, Some((7, 4)));
        assert!(said(&growing, &[])[0].contains("this node alone"));
    }

    #[test]
    fn it_is_refused_if_nothing_proves_that_the_copy_is_new_enough() {
        assert!(said(&seen(&[&[&[1, 2, 3]]], 5, None), &[])[0].contains("no signed checkpoint"));
        assert!(said(&seen(&[&[&[1, 2, 3]]], 5, Some((7, 6))), &[])[0].contains("take a survivor that has more"));
        assert!(said(&seen(&[&[&[1, 2, 3]]], 5, Some((8, 5))), &[])[0].contains("another group"));
        let mut bad = seen(&[&[&[1, 2, 3]]], 5, Some((7, 5)));
        (bad.here.quarantine, bad.here.is_partial) = (Some("at batch 3".into()), true);
        assert_eq!(said(&bad, &[]).len(), 2);
    }
}
