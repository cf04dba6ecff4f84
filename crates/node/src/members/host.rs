//! The node that lets others in: it has the root key at hand.

use std::future::Future;
use std::sync::Arc;

use base::Kinded;
use base::kv::{Batch, View};
use bytes::Bytes;
use codec::Versioned;
use crypt::{PublicKey, RootKey};
use env::{BoxFuture, Env};
use metastore::Sequencer;
use namespace::catalog;
use transport::{Fault, Host, Joiner, TicketUse};
use wire::Claim;

use super::answer::{JoinAnswer, JoinAsk, Tokens};
use super::rules::admit;
use super::{Error, Result};

/// The system shard, however it is kept.
pub trait Ledger: Send + Sync + 'static {
    /// Looks at rows that hold everything that was committed before the call.
    fn look<T: Send + 'static>(
        &self,
        read: impl Fn(&dyn View) -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send;

    /// Evaluates a rule on the newest rows, perhaps several times, and commits its last batch: durable when this returns. After
    /// an error it may be committed all the same: rules can be repeated.
    fn execute<T: Send + 'static>(
        &self,
        rule: impl Fn(&dyn View) -> Result<(Batch, T)> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<T>> + Send;
}

impl Ledger for Arc<Sequencer> {
    async fn look<T: Send + 'static>(&self, read: impl FnOnce(&dyn View) -> Result<T> + Send + 'static) -> Result<T> {
        let snapshot = self.read()?;
        read(&*snapshot)
    }

    async fn execute<T: Send + 'static>(
        &self,
        rule: impl Fn(&dyn View) -> Result<(Batch, T)> + Send + Sync + 'static,
    ) -> Result<T> {
        Ok(Sequencer::execute(self, rule).await?.1)
    }
}

/// Lets machines join by the rules of [`admit`].
pub struct HostRules<L> {
    env: Env,
    root: RootKey,
    public: PublicKey,
    ledger: L,
    tokens: Box<dyn Fn() -> Tokens + Send + Sync>,
}

impl<L: Ledger> HostRules<L> {
    /// A host that has the root key. `tokens` are those of the shards' groups, when asked.
    pub fn new(env: Env, root: RootKey, ledger: L, tokens: impl Fn() -> Tokens + Send + Sync + 'static) -> Arc<Self> {
        let public = root.signing_key().public();
        Arc::new(Self { env, root, public, ledger, tokens: Box::new(tokens) })
    }

    async fn admit(&self, joiner: Joiner, mut ask: JoinAsk) -> Result<JoinAnswer> {
        ask.seen_from(joiner.address.ip());
        let (root, now) = (self.root.clone(), self.env.clock.wall());
        let rule = move |view: &dyn View| admit(view, &root, joiner.key, &joiner.claim, &ask, now);
        let mut answer = self.ledger.execute(rule).await?;
        answer.tokens = (self.tokens)();
        Ok(answer)
    }
}

fn fault(error: Error) -> Fault {
    Fault::new(error.kind(), error.to_string())
}

impl<L: Ledger> Host for HostRules<L> {
    fn secret(&self, claim: &Claim) -> Option<[u8; 16]> {
        Some(claim.secret(&self.root))
    }

    fn root(&self) -> PublicKey {
        self.public
    }

    fn ticket_use(&self, claim: &Claim, key: &PublicKey) -> BoxFuture<'_, std::result::Result<TicketUse, Fault>> {
        let (id, key) = (claim.id.0, key.0);
        Box::pin(async move {
            let used = self.ledger.look(move |view| Ok(catalog::ticket(view, id)?)).await.map_err(fault)?;
            Ok(match used {
                None => TicketUse::Fresh,
                Some(row) if row.key == key => TicketUse::Same,
                Some(_) => TicketUse::Other,
            })
        })
    }

    fn join(&self, joiner: Joiner, ask: Bytes) -> BoxFuture<'_, std::result::Result<Bytes, Fault>> {
        Box::pin(async move {
            let ask = JoinAsk::decode(&ask).map_err(|error| fault(error.into()))?;
            let answer = self.admit(joiner, ask).await.map_err(fault)?;
            Ok(answer.encode().into())
        })
    }
}
