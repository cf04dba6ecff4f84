//! Metadata shards as the client uses them, wherever they are led.
//!
//! Rules are closures over a consistent cut of rows. On the node that leads a shard they run on its
//! rows. Elsewhere a read runs on the rows that were fetched for it, and runs again with more as long
//! as it looks for some that it doesn't have; so a rule may run several times, and only its last run
//! counts. Changes of a volume travel as [`Work`].

use std::sync::Arc;

use async_trait::async_trait;
use base::kv::{Batch, View};
use base::{Kinded, Seq, VolumeId};
use env::Env;
use metastore::remote::{Rows, Wants};
use metastore::{Sequencer, Snapshot};
use namespace::Outcome;
use namespace::wire::Query;
use namespace::work::{self, Work};

use crate::Error;

/// What a read is about to look for: a shard that is led elsewhere sends those rows along at once.
pub type Hint = (VolumeId, Query);

/// A rule that changes a shard.
pub type Rule<'a> = dyn FnMut(&dyn View) -> Result<Batch, namespace::Error> + Send + 'a;

/// A consistent cut of a shard's rows that has everything that was acknowledged before it was asked
/// for.
pub enum Cut {
    /// All rows.
    Whole(Box<dyn Snapshot>),
    /// Those that were asked for.
    Part(Rows),
}

impl Cut {
    /// Runs a rule on it.
    ///
    /// # Errors
    /// The rows that it wanted besides; then what it came to is worth nothing.
    pub fn run<T>(&self, rule: impl FnOnce(&dyn View) -> T) -> Result<T, Wants> {
        match self {
            Cut::Whole(snapshot) => Ok(rule(&**snapshot)),
            Cut::Part(rows) => rows.run(rule),
        }
    }

    /// Where it was taken.
    pub fn at(&self) -> Seq {
        match self {
            Cut::Whole(snapshot) => snapshot.at(),
            Cut::Part(rows) => rows.at(),
        }
    }
}

/// A metadata shard.
#[async_trait]
pub trait Metadata: Send + Sync {
    /// Whether it is led by this process.
    fn is_led_here(&self) -> bool;

    /// The rows as they are in this process, perhaps a little older than what was acknowledged; `None`
    /// if it has none.
    ///
    /// # Errors
    /// If they can't be read.
    fn here(&self) -> Result<Option<Box<dyn Snapshot>>, Error>;

    /// A cut of the rows with at least these, and those that `hint` leads to.
    ///
    /// # Errors
    /// If who leads the shard can't be asked in time.
    async fn cut(&self, wants: &Wants, hint: Option<&Hint>) -> Result<Cut, Error>;

    /// Evaluates a rule in the shard's order; what it gives is durable when this returns.
    ///
    /// # Errors
    /// Those of the rule; or the fate of the change is open.
    async fn change(&self, rule: &mut Rule<'_>) -> Result<(), Error>;

    /// Does the work, once.
    ///
    /// # Errors
    /// The rules' refusal; or its fate is open.
    async fn work(&self, work: Work) -> Result<Outcome, Error>;
}

#[async_trait]
impl Metadata for Sequencer {
    fn is_led_here(&self) -> bool {
        true
    }

    fn here(&self) -> Result<Option<Box<dyn Snapshot>>, Error> {
        Ok(Some(self.read()?))
    }

    async fn cut(&self, _: &Wants, _: Option<&Hint>) -> Result<Cut, Error> {
        Ok(Cut::Whole(self.read()?))
    }

    async fn change(&self, rule: &mut Rule<'_>) -> Result<(), Error> {
        self.execute(|view| Ok::<_, Error>((rule(view)?, ()))).await.map(|_| ())
    }

    async fn work(&self, work: Work) -> Result<Outcome, Error> {
        // Made here a moment ago: the time is that of this machine's clock.
        Ok(self.execute(|view| Ok::<_, Error>(work::evaluate(view, &work, work.made)?)).await?.1)
    }
}

/// Who has the rows of which volume.
pub trait Volumes: Send + Sync {
    /// The metadata shard of the volume.
    fn of(&self, volume: VolumeId) -> Arc<dyn Metadata>;
}

/// One shard has those of all.
pub struct One(pub Arc<dyn Metadata>);

impl Volumes for One {
    fn of(&self, _: VolumeId) -> Arc<dyn Metadata> {
        self.0.clone()
    }
}

/// One shard, and how rules run on it.
#[derive(Clone)]
pub struct Shard {
    env: Env,
    store: Arc<dyn Metadata>,
}

impl Shard {
    /// A handle of it.
    pub fn new(env: Env, store: Arc<dyn Metadata>) -> Self {
        Self { env, store }
    }

    /// Whether it is led by this process.
    pub fn is_led_here(&self) -> bool {
        self.store.is_led_here()
    }

    /// Reads rows as they are in this process, perhaps a little older than what was acknowledged.
    /// `None` if it has none.
    ///
    /// # Errors
    /// Those of the rule.
    pub fn peek<T, E: From<Error>>(&self, rule: impl FnOnce(&dyn View) -> Result<T, E>) -> Result<Option<T>, E> {
        self.store.here()?.map(|snapshot| rule(&*snapshot)).transpose()
    }

    /// Reads a few rows from one consistent cut, here: a hop to another thread would cost more.
    ///
    /// # Errors
    /// Those of the rule; or who leads the shard can't be asked.
    pub async fn read<T, E: From<Error>>(
        &self,
        hint: Option<Hint>,
        rule: impl Fn(&dyn View) -> Result<T, E> + Send + Sync,
    ) -> Result<T, E> {
        let mut wants = Wants::default();
        loop {
            match self.store.cut(&wants, hint.as_ref()).await?.run(|view| rule(view)) {
                Ok(done) => return done,
                Err(more) => wants.extend(more).map_err(Error::from)?,
            }
        }
    }

    /// Reads many rows from one consistent cut, off the reactor.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub async fn scan<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        hint: Option<Hint>,
        rule: impl Fn(&dyn View) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (mut wants, mut rule) = (Wants::default(), rule);
        loop {
            let cut = self.store.cut(&wants, hint.as_ref()).await?;
            let work = move || (cut.run(|view| rule(view)), rule);
            let (done, back) = self.env.blocking(work).await.map_err(Error::from)?;
            match done {
                Ok(done) => return done,
                Err(more) => wants.extend(more).map_err(Error::from)?,
            }
            rule = back;
        }
    }

    /// Evaluates a rule in the shard's order; what it gives is durable when this returns.
    ///
    /// # Errors
    /// Those of the rule; or the fate of the change is open.
    pub async fn execute<T: Send>(
        &self,
        mut rule: impl FnMut(&dyn View) -> Result<(Batch, T), namespace::Error> + Send,
    ) -> Result<T, Error> {
        let mut came_to = None;
        let mut kept = |view: &dyn View| {
            let (batch, value) = rule(view)?;
            came_to = Some(value);
            Ok(batch)
        };
        self.store.change(&mut kept).await?;
        came_to
            .ok_or_else(|| Error::Metadata { kind: base::Kind::Bug, text: "a change was made without its rule".into() })
    }

    /// Does the work on a volume, once.
    ///
    /// # Errors
    /// The rules' refusal; or its fate is open.
    pub async fn work(&self, work: Work) -> Result<Outcome, Error> {
        self.store.work(work).await
    }
}

impl From<metastore::Error> for Error {
    fn from(error: metastore::Error) -> Self {
        Error::Metadata { kind: error.kind(), text: error.to_string() }
    }
}
