//! A metadata shard, as the client uses it: rules are evaluated in its one order, reads see what is
//! committed.

use std::sync::Arc;

use base::kv::{Batch, View};
use base::{Kinded, Seq};
use env::Env;
use metastore::Sequencer;

use crate::Error;

/// One shard.
#[derive(Clone)]
pub(crate) struct Shard {
    env: Env,
    sequencer: Arc<Sequencer>,
}

impl Shard {
    pub fn new(env: Env, sequencer: Arc<Sequencer>) -> Self {
        Self { env, sequencer }
    }

    /// Reads a few rows from one consistent cut, here: a hop to another thread would cost more.
    pub fn read<T>(&self, rule: impl FnOnce(&dyn View) -> Result<T, Error>) -> Result<T, Error> {
        rule(&*self.sequencer.read()?)
    }

    /// Reads many rows from one consistent cut, off the reactor.
    pub async fn scan<T: Send + 'static>(
        &self,
        rule: impl FnOnce(&dyn View) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let snapshot = self.sequencer.read()?;
        self.env.blocking(move || rule(&*snapshot)).await?
    }

    /// Evaluates a rule in the shard's order; what it gives is durable when this returns.
    pub async fn execute<T>(
        &self,
        rule: impl FnOnce(&dyn View) -> Result<(Batch, T), namespace::Error> + Send,
    ) -> Result<(Seq, T), Error> {
        self.sequencer.execute(|view| Ok(rule(view)?)).await
    }
}

impl From<metastore::Error> for Error {
    fn from(error: metastore::Error) -> Self {
        Error::Metadata { kind: error.kind(), text: error.to_string() }
    }
}
