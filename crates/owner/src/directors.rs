//! The metadata of an end-to-end volume, as its guests ask for it: any node answers, and asks who leads.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base::{Kind, Kinded, NodeId, VolumeId};
use client::Metadata;
use client::guest::{About, Answer, BYTES_MAX, METADATA_SERVICE, Question, Right, Wish};
use client::shard::{Cut, Hint, Rule, Volumes};
use codec::Versioned;
use env::Env;
use futures_util::future::{Either, select};
use metastore::Snapshot;
use metastore::remote::{Rows, Wants};
use namespace::Outcome;
use namespace::wire::Query;
use namespace::work::Work;
use transport::{Body, Call, Class, Endpoint, ServiceId};

use crate::reach::Reach;

type Done<T> = std::result::Result<T, client::Error>;

/// A node may take so long for an answer: it may wait for somebody to lead, and for a majority.
const LIMIT: Duration = Duration::from_secs(25);
/// One node after the other is asked for so long.
const PATIENCE: Duration = Duration::from_secs(60);
const NOBODY: &str = "no node that was asked found somebody who leads";
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(200);

/// The nodes, and by what right they are asked.
pub(crate) struct Directors {
    env: Env,
    endpoint: Endpoint,
    nodes: Vec<NodeId>,
    right: Right,
    /// A question about rows is asked for so long.
    patience: Duration,
    /// Who answered last.
    turn: AtomicUsize,
}

fn failed(kind: Kind, text: impl std::fmt::Display) -> client::Error {
    client::Error::Metadata { kind, text: text.to_string() }
}

fn nonsense() -> client::Error {
    failed(Kind::Damaged, "a node answers what wasn't asked")
}

impl Directors {
    /// Nodes that are asked, by a right. For rows they are asked for as long as `patience`: then a kit may be read by.
    pub fn new(env: Env, endpoint: Endpoint, nodes: Vec<NodeId>, right: Right, patience: Duration) -> Arc<Self> {
        let turn = AtomicUsize::new(usize::from_le_bytes(env.random()) % nodes.len().max(1));
        Arc::new(Self { env, endpoint, nodes, right, patience, turn })
    }

    /// Asks one node after the other until one answers. What is asked may be asked twice: works are done once.
    pub async fn ask(&self, wish: Wish) -> Done<Answer> {
        match wish {
            Wish::Fetch(_) => {
                let answer = self.env.timeout(self.patience, self.ask_for(wish, self.patience)).await;
                answer.unwrap_or_else(|| Err(failed(Kind::Unreachable, NOBODY)))
            }
            Wish::Work(_) => {
                let (done, nobody) = (pin!(self.ask_for(wish, PATIENCE)), pin!(self.nobody_leads()));
                match select(done, nobody).await {
                    Either::Left((answer, _)) => answer,
                    Either::Right(_) => Err(failed(
                        Kind::Unreachable,
                        format!("{NOBODY}; whether what was asked was done shows once somebody leads again"),
                    )),
                }
            }
            other => self.ask_for(other, PATIENCE).await,
        }
    }

    /// Ends once questions about rows have stayed without an answer for as long as they may: who waits for a change then waits for nothing.
    async fn nobody_leads(&self) {
        self.env.clock.sleep(self.patience).await;
        loop {
            let asked = self.ask_for(Wish::Fetch(Query::Versioning), self.patience);
            match self.env.timeout(self.patience, asked).await {
                None => return,
                Some(Err(error)) if error.kind().is_transient() => return,
                Some(_) => self.env.clock.sleep(self.patience).await,
            }
        }
    }

    async fn ask_for(&self, wish: Wish, patience: Duration) -> Done<Answer> {
        let question: bytes::Bytes = Question { right: self.right.clone(), wish }.encode().into();
        let began = self.env.clock.now();
        let (mut turn, mut asked) = (self.turn.load(Ordering::Relaxed), 0);
        loop {
            let node = *self.nodes.get(turn % self.nodes.len().max(1)).ok_or_else(nonsense)?;
            let error = match ask_one(&self.endpoint, node, question.clone()).await {
                Ok(Answer::Refused(error)) => return Err(error.into()),
                Ok(answer) => {
                    self.turn.store(turn, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let kind = error.kind();
            if !kind.is_transient() || self.env.clock.now().since(began) >= patience {
                return Err(failed(kind, error));
            }
            (turn, asked) = (turn + 1, asked + 1);
            if asked % self.nodes.len() == 0 {
                self.env.clock.sleep(PAUSE).await;
            }
        }
    }

    /// What the cluster knows of the volume.
    pub async fn about(&self) -> Done<About> {
        match self.ask(Wish::About).await? {
            Answer::About(about) => Ok(about),
            _ => Err(nonsense()),
        }
    }

    /// Policies, groups, drives, nodes.
    pub async fn map(&self) -> Done<Rows> {
        match self.ask(Wish::Map).await? {
            Answer::Rows(rows) => Ok(rows),
            _ => Err(nonsense()),
        }
    }
}

async fn ask_one(endpoint: &Endpoint, node: NodeId, question: bytes::Bytes) -> transport::Result<Answer> {
    let call = Call::new(ServiceId(METADATA_SERVICE), Class::Small, bytes::Bytes::new());
    let call = call.with_body(Body::of(vec![question])).with_timeout(LIMIT);
    let bytes = endpoint.call(node, call).await?.body.collect(BYTES_MAX).await?;
    Ok(Answer::decode(&bytes)?)
}

/// What one node's copy of the catalog says of the volume.
pub(crate) async fn about_of(reach: &Reach, node: NodeId, right: &Right) -> transport::Result<About> {
    let question = Question { right: right.clone(), wish: Wish::About }.encode().into();
    match ask_one(reach.endpoint(), node, question).await? {
        Answer::About(about) => Ok(about),
        _ => Err(codec::Error::Value { what: "answer", value: 0 }.into()),
    }
}

/// The catalog: as much of it as guests are shown.
pub(crate) struct Catalog(pub Arc<Directors>);

/// The volume's rows.
pub(crate) struct VolumeRows(pub Arc<Directors>);

impl Volumes for VolumeRows {
    fn of(&self, _: VolumeId) -> Arc<dyn Metadata> {
        Arc::new(VolumeRows(self.0.clone()))
    }
}

fn no_rule() -> client::Error {
    failed(Kind::Denied, "guests change a volume by works alone")
}

#[async_trait]
impl Metadata for Catalog {
    fn is_led_here(&self) -> bool {
        false
    }

    fn here(&self) -> Done<Option<Box<dyn Snapshot>>> {
        Ok(None)
    }

    async fn cut(&self, wants: &Wants, _: Option<&Hint>) -> Done<Cut> {
        // The answer has all that is shown.
        if !wants.is_empty() {
            return Err(failed(Kind::Denied, "guests see nothing more of the catalog"));
        }
        Ok(Cut::Part(self.0.map().await?))
    }

    async fn change(&self, _: &mut Rule<'_>) -> Done<()> {
        Err(no_rule())
    }

    async fn work(&self, _: Work) -> Done<Outcome> {
        Err(no_rule())
    }
}

#[async_trait]
impl Metadata for VolumeRows {
    fn is_led_here(&self) -> bool {
        false
    }

    fn here(&self) -> Done<Option<Box<dyn Snapshot>>> {
        Ok(None)
    }

    async fn cut(&self, wants: &Wants, hint: Option<&Hint>) -> Done<Cut> {
        match (hint, wants.is_empty()) {
            (Some((_, query)), true) => match self.0.ask(Wish::Fetch(query.clone())).await? {
                Answer::Rows(rows) => Ok(Cut::Part(rows)),
                _ => Err(nonsense()),
            },
            _ => Err(failed(Kind::Denied, "guests read a volume by queries alone")),
        }
    }

    async fn change(&self, _: &mut Rule<'_>) -> Done<()> {
        Err(no_rule())
    }

    async fn work(&self, work: Work) -> Done<Outcome> {
        match self.0.ask(Wish::Work(Box::new(work))).await? {
            Answer::Done(outcome) => Ok(outcome),
            _ => Err(nonsense()),
        }
    }
}
