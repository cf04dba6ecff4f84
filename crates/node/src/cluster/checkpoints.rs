//! Signed checkpoints of the metadata: what each shard had, kept where it survives the shard's group.
//!
//! The node with the root key signs one every few minutes and whenever the voters change, and sends it to all others:
//! of what its own replica has, or, of shards that others keep, of what one of their voters says. One of another group
//! than the node knows is refused; of one group the later counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{ClusterId, Instant, NodeId, Standing, Wall};
use codec::{Reader, Versioned, Writer};
use crypt::{PublicKey, SigningKey};
use env::Disk;
use futures_util::future::join_all;
use replicated::{Checkpoint, Replica};

use super::plan::{Plan, plan};
use super::rounds::{Ask, ask, ask_had};
use super::shard::{Member, MetaShard};
use crate::error::{Error, Result};
use crate::node::{Inner, SYSTEM};
use crate::private;

/// What is signed is signed as this.
const CONTEXT: &str = "abide 2026 shard checkpoint v1";
/// Bytes of a checkpoint at the most.
const BYTES_MAX: usize = 64 << 10;
/// How often it is looked whether one is due.
const EVERY: Duration = Duration::from_secs(1);
/// How long another node may take to keep one …
const SEND_MAX: Duration = Duration::from_secs(5);
/// … and to say what it has: it reads all rows of the shard.
const SAY_MAX: Duration = Duration::from_secs(300);
/// Making them takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// A signed checkpoint, and when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// By the clock of the node with the root key; signed too.
    pub made: Wall,
    /// [`replicated::Checkpoint`] and the signature.
    pub signed: Vec<u8>,
}

impl Versioned for Sealed {
    const NAME: &'static str = "signed checkpoint";
    const MARK: [u8; 4] = *b"AbCp";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.u64(self.made.0).bytes(&self.signed);
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        Ok(Self { made: Wall(from.u64("made at")?), signed: from.bytes("signed checkpoint", BYTES_MAX)?.to_vec() })
    }
}

/// What is really signed: when, and the checkpoint.
fn dated(made: Wall, bytes: &[u8]) -> Vec<u8> {
    [&made.0.to_le_bytes(), bytes].concat()
}

impl Sealed {
    fn of(checkpoint: &Checkpoint, key: &SigningKey, made: Wall) -> Sealed {
        Sealed { made, signed: checkpoint.signed(|bytes| key.sign_as(CONTEXT, &dated(made, bytes))) }
    }

    /// What it says, if the root key signed it.
    pub fn read(&self, root: &PublicKey) -> Result<Checkpoint> {
        let verify = |bytes: &[u8], signature: &[u8; 64]| root.verify_as(CONTEXT, &dated(self.made, bytes), signature);
        Ok(replicated::read_checkpoint(&self.signed, verify)?)
    }

    /// Where a shard's newest one is kept.
    pub fn path(home: &Path, cluster: ClusterId, shard: u32) -> PathBuf {
        home.join(format!("{cluster}.checkpoint-{shard}"))
    }

    /// The one that is kept of a shard, if it is sound. Blocks.
    pub fn load(disk: &dyn Disk, path: &Path, root: &PublicKey) -> Result<Option<(Sealed, Checkpoint)>> {
        if !disk.exists(path) {
            return Ok(None);
        }
        let bad = |why: String| Error::Invalid(format!("{}: {why}; copy it again from another node", path.display()));
        let bytes = private::read(disk, path, BYTES_MAX as u64 + 64).map_err(bad)?;
        let sealed = Sealed::decode(&bytes).map_err(|error| bad(error.to_string()))?;
        let checkpoint = sealed.read(root).map_err(|error| bad(error.to_string()))?;
        Ok(Some((sealed, checkpoint)))
    }
}

/// Whether `new` takes the place of `old`, in a cluster whose group has that token.
fn replaces(new: &Checkpoint, old: Option<&Checkpoint>, token: Option<[u8; 16]>) -> bool {
    token == Some(new.token) && old.is_none_or(|old| old.token != new.token || old.index < new.index)
}

impl Inner {
    /// Keeps a checkpoint, durably, if it is newer than the one that is here.
    pub(crate) async fn keep_checkpoint(&self, sealed: Sealed) -> Result<()> {
        let Some(cluster) = self.cluster.get() else { return Ok(()) };
        let root = cluster.endpoint.trust().borrow().root();
        let new = sealed.read(&root)?;
        let token = cluster.kept().tokens.get(&new.shard).copied();
        if token.is_some() && token != Some(new.token) {
            return Err(Error::Invalid("the checkpoint is of another group than this node knows".into()));
        }
        let _one = self.filing.lock().await;
        let (disk, path) = (self.env.disk.clone(), Sealed::path(&self.settings.home, self.id, new.shard));
        let work = move || {
            // A damaged one is good for nothing.
            let old = Sealed::load(&*disk, &path, &root).ok().flatten().map(|(_, old)| old);
            if !replaces(&new, old.as_ref(), token) {
                return Ok(());
            }
            let what = path.display().to_string();
            private::write(&*disk, &path, &sealed.encode()).map_err(|why| Error::Refused(format!("{what}: {why}")))
        };
        self.env.blocking(work).await.map_err(client::Error::from)?
    }
}

/// When the last one of a shard was made, and of what.
#[derive(Clone)]
struct Last {
    at: Instant,
    took: Duration,
    voters: BTreeSet<NodeId>,
    nodes: Vec<NodeId>,
    sealed: Sealed,
    index: u64,
}

/// Makes and spreads checkpoints until the node is closed, if it has the root key.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut last: BTreeMap<u32, Last> = BTreeMap::new();
    while inner.pause(EVERY).await {
        for shard in inner.shards.all() {
            let round = inner.unless_closing(inner.checkpoint(&shard, last.get(&shard.number))).await;
            match round {
                Some(Ok(Some(made))) => _ = last.insert(shard.number, made),
                Some(Ok(None)) | None => {}
                Some(Err(error)) => tracing::debug!(shard = shard.number, %error, "no checkpoint now: trying again"),
            }
        }
    }
}

/// A copy that may be asked what its shard has.
fn is_sound(member: &Member, replica: &Replica) -> bool {
    member.takes_part(replica) && replica.quarantine().is_none()
}

impl Inner {
    /// What the replica here has, unless it is at this entry of the log still.
    pub(crate) async fn had_here(&self, shard: u32, than: u64) -> Result<Option<Checkpoint>> {
        let member = self.shards.get(shard).and_then(|shard| shard.member());
        let replica = member.and_then(|member| member.replica().filter(|replica| is_sound(&member, replica)));
        let replica = replica.ok_or_else(|| Error::NotYet(format!("this node has no sound copy of shard {shard}")))?;
        if replica.status().borrow().applied_index == than {
            return Ok(None);
        }
        Ok(Some(replica.checkpoint_to_sign().await?))
    }

    /// What a shard has that others keep, as the first of them says that answers.
    async fn had_elsewhere(&self, member: &Member, plan: &Plan, at: (u32, u64)) -> Result<Option<Checkpoint>> {
        let Some(cluster) = self.cluster.get() else { return Ok(None) };
        let mut nodes = plan.nodes.clone();
        nodes.retain(|node| *node != cluster.me && cluster.standing(*node) == Standing::Alive);
        nodes.sort_by_key(|node| Some(*node) != member.leads());
        let mut why = "none of its nodes answers".to_owned();
        for node in nodes {
            match ask_had(&cluster.endpoint, node, at, SAY_MAX).await {
                Ok(Some(had)) if (had.shard, had.token, had.node) != (at.0, plan.token, node) => {
                    why = format!("node {node} speaks of another group");
                }
                Ok(had) => return Ok(had),
                Err(error) => why = format!("node {node}: {error}"),
            }
        }
        Err(Error::NotYet(format!("what shard {} has can't be asked: {why}", at.0)))
    }

    /// Makes a checkpoint if one is due, and sends it to all nodes.
    async fn checkpoint(&self, shard: &MetaShard, last: Option<&Last>) -> Result<Option<Last>> {
        let Some(member) = shard.member() else { return Ok(None) };
        let number = shard.number;
        let plan = self.look(|view| plan(view, number))?;
        // A replica that lost its vote may not have been told.
        let is_mine =
            number == SYSTEM || plan.as_ref().is_none_or(|plan| plan.nodes.iter().any(|node| self.me() == Some(*node)));
        let replica = member.replica().filter(|replica| is_mine && is_sound(&member, replica));
        let voters: BTreeSet<NodeId> = match (&replica, &plan) {
            (Some(replica), _) => replica.status().borrow().voters.iter().copied().collect(),
            (None, Some(plan)) => plan.nodes.iter().copied().collect(),
            (None, None) => return Ok(None),
        };
        let (now, nodes) = (self.env.clock.now(), self.other_nodes());
        let every = self.settings.checkpoint_every;
        let (mut is_time, mut changed) = (true, true);
        if let Some(last) = last {
            let waited = now.since(last.at);
            is_time = waited >= every.max(last.took * SHARE);
            // A change of voters is in a checkpoint once it was applied.
            changed = waited >= last.took * SHARE && (last.voters != voters || last.nodes != nodes);
        }
        if !is_time && !changed {
            return Ok(None);
        }
        let Some(root) = self.root().await? else { return Ok(None) };
        let than = last.map_or(0, |last| last.index);
        let had = match (&replica, &plan) {
            (None, Some(plan)) => self.had_elsewhere(&member, plan, (number, than)).await?,
            _ => self.had_here(number, than).await?,
        };
        let made = match (had, last) {
            (None, None) => return Ok(None),
            (None, Some(last)) if !is_time && last.nodes == nodes => return Ok(None),
            (None, Some(last)) => Last { at: self.env.clock.now(), nodes, ..last.clone() },
            (Some(had), _) => {
                let (at, wall) = (self.env.clock.now(), self.env.clock.wall());
                let sealed = Sealed::of(&had, &root.signing_key(), wall);
                let voters = had.voters.into_iter().collect();
                Last { at, took: at.since(now), voters, nodes, sealed, index: had.index }
            }
        };
        self.keep_checkpoint(made.sealed.clone()).await?;
        if let Some(cluster) = self.cluster.get() {
            let question = Ask::Keep(made.sealed.clone());
            let sent = made.nodes.iter().map(|node| ask(&cluster.endpoint, *node, &question, SEND_MAX));
            for (node, answer) in made.nodes.iter().zip(join_all(sent).await) {
                if let Err(why) = answer {
                    tracing::debug!(%node, why, "a node doesn't keep the checkpoint: it gets the next one");
                }
            }
        }
        Ok(Some(made))
    }
}

#[cfg(test)]
mod tests {
    use base::{Epoch, Seq};

    use super::*;

    fn checkpoint(token: u8, index: u64) -> Checkpoint {
        let (node, voters) = (NodeId([1; 16]), vec![NodeId([1; 16])]);
        Checkpoint { token: [token; 16], shard: 1, node, seq: Seq(9), epoch: Epoch(2), index, digest: [0; 32], voters }
    }

    #[test]
    fn the_later_of_the_same_group_is_kept() {
        let token = Some([7; 16]);
        assert!(replaces(&checkpoint(7, 5), None, token));
        assert!(replaces(&checkpoint(7, 6), Some(&checkpoint(7, 5)), token));
        assert!(!replaces(&checkpoint(7, 5), Some(&checkpoint(7, 5)), token));
        assert!(replaces(&checkpoint(7, 1), Some(&checkpoint(6, 5)), token), "the group before it is no more");
        assert!(!replaces(&checkpoint(6, 9), Some(&checkpoint(7, 5)), token));
        assert!(!replaces(&checkpoint(7, 9), None, None));
    }

    #[test]
    fn nothing_but_what_the_root_signed_is_believed() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let made = Wall(1_700_000_000_000);
        let mut signed = checkpoint(7, 5).encode();
        let signature = key.sign_as(CONTEXT, &dated(made, &signed));
        signed.extend_from_slice(&signature);
        let sealed = Sealed { made, signed };
        assert_eq!(sealed.read(&key.public()).unwrap(), checkpoint(7, 5));
        assert!(sealed.read(&other.public()).is_err());
        assert!(Sealed { made: Wall(1), ..sealed.clone() }.read(&key.public()).is_err(), "its date is signed too");
        let bytes = sealed.encode();
        assert_eq!(Sealed::decode(&bytes), Ok(sealed));
        for cut in 0..bytes.len() {
            assert!(Sealed::decode(&bytes[..cut]).is_err());
        }
        for at in 5..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            let read = Sealed::decode(&wrong).ok().and_then(|sealed| sealed.read(&key.public()).ok());
            assert_eq!(read, None, "byte {at}");
        }
    }
}
