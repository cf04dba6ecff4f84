//! A node gets a new key: it asks whoever has the root key to sign it.
//!
//! The question comes over a connection that the old key opened, so who asks is known, and a node can ask for itself
//! alone. A minute after it shows the new one it asks for the end of the old one, which opens nothing from then on:
//! never before, or a node that missed the answer would be shut out.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::{Kind, NodeId};
use bytes::Bytes;
use codec::{Reader, Versioned, Writer};
use crypt::{PublicKey, RootKey};
use env::BoxFuture;
use namespace::catalog::Severity;
use transport::{Body, Call, Caller, Class, Endpoint, Fault, Request, Response, Service, ServiceId};

use super::found::change;
use crate::error::{Error, Result};
use crate::members::{self, LIST_BYTES_MAX, Membership, NodeFile, take_certificate, take_list};
use crate::node::{Inner, Node};

/// A node's keys, on the wire: the head is a [`Wish`]; the answer's body is the [`Membership`] that came of it, or empty.
pub const KEYS: ServiceId = ServiceId(23);

/// Bytes of an answer at the most.
const BYTES_MAX: usize = LIST_BYTES_MAX + (64 << 10);
/// How long an answer may take: the catalog has to change.
const LIMIT: Duration = Duration::from_secs(10);
/// How long calls that began with a node's old key may go on.
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// What a node asks of who has the root key, for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// To sign this as its new key.
    Sign(PublicKey),
    /// To end the old one.
    Retire,
}

impl Wish {
    fn encode(self) -> Bytes {
        let mut bytes = vec![u8::from(self == Wish::Retire)];
        if let Wish::Sign(key) = self {
            bytes.extend(key.0);
        }
        bytes.into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, key) => Some(Wish::Sign(PublicKey(key.try_into().ok()?))),
            (1, []) => Some(Wish::Retire),
            _ => None,
        }
    }
}

impl Versioned for Membership {
    const NAME: &'static str = "membership";
    const MARK: [u8; 4] = *b"AbMs";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.bytes(&self.certificate.encode()).bytes(&self.list.encode());
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> std::result::Result<Self, codec::Error> {
        Ok(Self { certificate: take_certificate(from)?, list: take_list(from)? })
    }
}

/// Signs new keys if this node has the root key.
#[derive(Default)]
pub(crate) struct KeyService(Mutex<Weak<Inner>>);

impl KeyService {
    /// Who answers.
    pub fn set(&self, inner: &Arc<Inner>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }
}

impl Service for KeyService {
    fn handle(&self, caller: Caller, request: Request) -> BoxFuture<'_, std::result::Result<Response, Fault>> {
        Box::pin(async move {
            let wish =
                Wish::decode(&request.head).ok_or_else(|| Fault::new(Kind::Invalid, "no such wish about keys"))?;
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            let inner = inner.ok_or_else(|| Fault::new(Kind::Unreachable, "this node is still starting"))?;
            let fault = |error: Error| Fault::new(base::Kinded::kind(&error), error.to_string());
            let root = inner.root().await.map_err(fault)?;
            let root = root.ok_or_else(|| Fault::new(Kind::Missing, "the root key isn't on this node"))?;
            let body = match wish {
                Wish::Sign(key) => {
                    let membership = inner.sign_key(&root, caller.node, key).await.map_err(fault)?;
                    // Told here too: who stole the old key would not tell.
                    let text = "a new key was signed for this node, as it asked".into();
                    inner.tell(Severity::Info, "node", &caller.node.to_string(), text);
                    membership.encode()
                }
                Wish::Retire => {
                    inner.end_old_key(&root, caller.node).await.map_err(fault)?;
                    Vec::new()
                }
            };
            Ok(Response::default().with_body(Body::of(vec![body.into()])))
        })
    }
}

impl Node {
    /// Gives this node a new key, which the others take from now on; a minute later the old one opens nothing any
    /// more.
    ///
    /// # Errors
    /// If no node that can be reached has the root key; then nothing has changed.
    pub async fn rotate_key(&self) -> Result<()> {
        let inner = &self.0;
        let cluster =
            inner.cluster.get().ok_or_else(|| Error::Refused("this node is alone: it has no key yet".into()))?;
        let random = inner.env.random();
        inner.change_file(move |file| _ = file.begin_rotation(random)).await?;
        let key = inner.read_file().await?.next_key();
        let key = key.ok_or_else(|| Error::Refused("the node's file has no next key".into()))?;
        let membership = match inner.root().await? {
            Some(root) => inner.sign_key(&root, cluster.me, key).await?,
            None => {
                let answer = inner.ask_root(&cluster.endpoint, Wish::Sign(key)).await?;
                Membership::decode(&answer)
                    .map_err(|error| Error::Invalid(format!("the answer is garbage: {error}")))?
            }
        };
        let taken = membership.clone();
        let (failed, told) = tokio::sync::oneshot::channel();
        inner.change_file(move |file| _ = failed.send(file.finish_rotation(taken))).await?;
        told.await.map_err(|_| Error::Refused("the node's file was not changed".into()))??;
        let file = inner.read_file().await?;
        cluster.endpoint.install(membership.list).map_err(members::Error::Root)?;
        cluster.endpoint.replace_identity(file.identity())?;
        inner.tell(Severity::Info, "node", &cluster.me.to_string(), "this node has a new key".into());
        inner.run("retire a key", inner.clone().retire_key());
        Ok(())
    }
}

impl Inner {
    /// Asks the others until one has the root key.
    async fn ask_root(&self, endpoint: &Endpoint, wish: Wish) -> Result<Bytes> {
        let mut said = Vec::new();
        for node in self.other_nodes() {
            let call = Call::new(KEYS, Class::Control, wish.encode()).with_timeout(LIMIT);
            match async { endpoint.call(node, call).await?.body.collect(BYTES_MAX).await }.await {
                Ok(answer) => return Ok(answer),
                Err(error) => said.push(format!("{node}: {error}")),
            }
        }
        Err(Error::Refused(format!(
            "no node signs for this one ({}): start the node that has the root key, or restore the key on one with `abide up --words`",
            said.join("; ")
        )))
    }

    /// Signs a node's new key; it may show its old one until it says otherwise.
    async fn sign_key(&self, root: &RootKey, node: NodeId, key: PublicKey) -> Result<Membership> {
        let membership = change(&self.system, |view| members::rotate_key(view, root, node, key)).await?;
        if let Some(cluster) = self.cluster.get() {
            cluster.endpoint.install(membership.list.clone()).map_err(members::Error::Root)?;
        }
        Ok(membership)
    }

    async fn end_old_key(&self, root: &RootKey, node: NodeId) -> Result<()> {
        change(&self.system, |view| members::retire_key(view, root, node)).await?;
        Ok(())
    }

    /// Ends a change of this node's key, once calls that began with the old one are over.
    pub(super) async fn retire_key(self: Arc<Self>) {
        while self.pause(RETIRE_AFTER).await {
            let Some(cluster) = self.cluster.get() else { return };
            let done = match self.root().await {
                Ok(Some(root)) => self.end_old_key(&root, cluster.me).await,
                Ok(None) => self.ask_root(&cluster.endpoint, Wish::Retire).await.map(drop),
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => return,
                Err(error) => tracing::info!(%error, "the old key of this node can't be retired yet: trying again"),
            }
        }
    }

    async fn read_file(&self) -> Result<NodeFile> {
        let (disk, path) = (self.env.disk.clone(), self.node_file());
        Ok(self.env.blocking(move || NodeFile::read(&*disk, &path)).await.map_err(client::Error::from)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::town;

    #[test]
    fn a_wish_about_keys_reads_back_and_garbage_is_none() {
        for wish in [Wish::Sign(PublicKey([7; 32])), Wish::Retire] {
            let bytes = wish.encode();
            assert_eq!(Wish::decode(&bytes), Some(wish));
            (0..bytes.len()).for_each(|cut| assert_eq!(Wish::decode(&bytes[..cut]), None));
            assert_eq!(Wish::decode(&[&bytes[..], &[0]].concat()), None);
        }
        assert_eq!(Wish::decode(&[2]), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_without_the_root_key_has_its_new_one_signed_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = town::nodes(dir.path(), 2).await;
        let [first, second] = &nodes[..] else { unreachable!() };
        let before = second.0.read_file().await.unwrap();
        second.rotate_key().await.unwrap();
        let after = second.0.read_file().await.unwrap();
        assert_ne!(before.signing_key().public(), after.signing_key().public());
        assert_eq!((before.node(), before.certificate.serial + 1), (after.node(), after.certificate.serial));
        let again = second.rotate_key().await.unwrap_err().to_string();
        assert!(again.contains("no node signs for this one"), "{again}");
        // Not a minute later, but now.
        let endpoint = &second.0.cluster.get().unwrap().endpoint;
        second.0.ask_root(endpoint, Wish::Retire).await.unwrap();
        let list = first.0.look(|view| Ok(members::member_list(view, &after.root).unwrap())).unwrap().unwrap();
        let member = list.get(after.node()).unwrap();
        assert_eq!((member.key, member.previous), (after.signing_key().public(), None));
        // It is believed as before.
        second.events(1).await.unwrap();
        second.rotate_key().await.unwrap();
        for node in &nodes {
            node.close().await;
        }
    }
}
