//! Signed checkpoints of the metadata: what each shard had, kept where it survives the shard's group.
//!
//! The node with the root key makes one every few minutes and whenever the voters change, and sends it to all others.
//! One of another group than the node knows is refused; of one group the later counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{ClusterId, Instant, NodeId, Wall};
use codec::{Reader, Versioned, Writer};
use crypt::{PublicKey, SigningKey};
use env::Disk;
use futures_util::future::join_all;
use replicated::{Checkpoint, Replica};

use super::rounds::{Ask, ask};
use crate::error::{Error, Result};
use crate::node::Inner;
use crate::private;

/// What is signed is signed as this.
const CONTEXT: &str = "abide 2026 shard checkpoint v1";
/// Bytes of a checkpoint at the most.
const BYTES_MAX: usize = 64 << 10;
/// How often it is looked whether one is due.
const EVERY: Duration = Duration::from_secs(1);
/// How long another node may take to keep one.
const SEND_MAX: Duration = Duration::from_secs(5);
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
    /// What the replica has now.
    async fn make(replica: &Replica, key: &SigningKey, made: Wall) -> Result<Sealed> {
        let signed = replica.signed_checkpoint(|bytes| key.sign_as(CONTEXT, &dated(made, bytes))).await?;
        Ok(Sealed { made, signed })
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
struct Last {
    at: Instant,
    took: Duration,
    voters: Vec<NodeId>,
    nodes: Vec<NodeId>,
    sealed: Sealed,
    index: u64,
}

/// Makes and spreads checkpoints until the node is closed, if it has the root key.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut last: BTreeMap<u32, Last> = BTreeMap::new();
    while inner.pause(EVERY).await {
        for shard in inner.shards.all() {
            let Some(replica) = shard.replica() else { continue };
            let round = inner.unless_closing(inner.checkpoint(&replica, last.get(&shard.number))).await;
            match round {
                Some(Ok(Some(made))) => _ = last.insert(shard.number, made),
                Some(Ok(None)) | None => {}
                Some(Err(error)) => tracing::debug!(shard = shard.number, %error, "no checkpoint now: trying again"),
            }
        }
    }
}

impl Inner {
    /// Makes a checkpoint if one is due, and sends it to all nodes.
    async fn checkpoint(&self, replica: &Replica, last: Option<&Last>) -> Result<Option<Last>> {
        let status = replica.status().borrow().clone();
        let (now, nodes) = (self.env.clock.now(), self.other_nodes());
        let every = self.settings.checkpoint_every;
        let is_due = last.is_none_or(|last| {
            let waited = now.since(last.at);
            let changed = last.voters != status.voters || last.nodes != nodes;
            waited >= every.max(last.took * SHARE) || (changed && waited >= last.took * SHARE)
        });
        if !is_due {
            return Ok(None);
        }
        let Some(root) = self.root().await? else { return Ok(None) };
        let same = last.filter(|last| last.index == status.applied_index && last.voters == status.voters);
        let (sealed, took) = match same {
            Some(last) => (last.sealed.clone(), last.took),
            None => {
                let sealed = Sealed::make(replica, &root.signing_key(), self.env.clock.wall()).await?;
                (sealed, self.env.clock.now().since(now))
            }
        };
        self.keep_checkpoint(sealed.clone()).await?;
        if let Some(cluster) = self.cluster.get() {
            let question = Ask::Keep(sealed.clone());
            let sent = nodes.iter().map(|node| ask(&cluster.endpoint, *node, &question, SEND_MAX));
            for (node, answer) in nodes.iter().zip(join_all(sent).await) {
                if let Err(why) = answer {
                    tracing::debug!(%node, why, "a node doesn't keep the checkpoint: it gets the next one");
                }
            }
        }
        let (voters, index) = (status.voters, status.applied_index);
        Ok(Some(Last { at: self.env.clock.now(), took, voters, nodes, sealed, index }))
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
