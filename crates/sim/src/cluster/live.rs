//! One machine's process, from its start to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use node::settings::CLUSTER_PORT;
use node::{Node, Settings};

use crate::cluster::stage::{ADMIN_PORT, Failed, REGION, S3_PORT, Stage, name};
use crate::http::Signer;
use crate::{storm, world};

/// Small files, so that a short run fills, seals, cleans and checkpoints many.
fn settings(stage: &Stage, number: usize) -> Settings {
    let mut settings = storm::settings(&stage.drives);
    settings.name = name(number);
    settings.home = PathBuf::from("/home");
    settings.labels.clone_from(&stage.places[number].labels);
    if stage.reads_by_kit {
        settings.read_by_kit_after = Some(Duration::from_secs(10));
    }
    if let Some(nodes) = stage.nodes_per_shard {
        settings.nodes_per_shard = nodes;
    }
    settings.addresses = vec![SocketAddr::new(Stage::ip(number), CLUSTER_PORT)];
    settings.replicas.checkpoint_entries = 300;
    settings.replicas.checkpoint_bytes = 256 << 10;
    settings.replicas.keep_entries = 50;
    settings.replicas.digest_entries = 100;
    settings.replicas.chunk_bytes = 16 << 10;
    let metadata = settings.metadata.clone();
    let log = &mut settings.replicas.log;
    (log.file_bytes, log.checkpoint_bytes) = (metadata.file_bytes, metadata.checkpoint_bytes);
    (log.layer_bytes, log.cache_bytes) = (metadata.layer_bytes, metadata.cache_bytes);
    log.reserve_bytes = metadata.reserve_bytes;
    settings
}

/// One incarnation of a machine's process; like a service manager it tries again when it is refused.
pub async fn live(stage: Stage, number: usize) -> Result<(), Failed> {
    storm::number_tasks_anew();
    let life = stage.begin_life(number);
    let place = &stage.places[number];
    let (machine, disk) = (place.machine.clone(), place.disk.clone());
    let env = world::env_of(stage.seed ^ life << 40 ^ (number as u64 + 1) << 52, &disk, &machine);
    let work = async {
        let node = loop {
            match open(&stage, number, &env).await {
                Ok(Some(node)) => break node,
                Ok(None) => {}
                Err(error) => stage.refused(number, error.to_string()),
            }
            env.clock.sleep(Duration::from_millis(500)).await;
        };
        let listener = env.net.bind(([0, 0, 0, 0], S3_PORT).into()).await?;
        let control = env.net.bind(([0, 0, 0, 0], ADMIN_PORT).into()).await?;
        let shown = admin::Shown { endpoint: format!("http://{}:{S3_PORT}", name(number)), region: REGION.into() };
        env.spawn("control", admin::serve(env.clone(), control, node.clone(), shown));
        let face = s3::Settings { region: REGION.into(), ..s3::Settings::default() };
        let engine = Arc::new(s3::Engine::new(node.client().clone()));
        let face = Arc::new(s3::Face::new(env.clone(), engine, face));
        let key = loop {
            match node.access().await {
                Ok(key) => break key,
                Err(error) => stage.refused(number, format!("its key: {error}")),
            }
            env.clock.sleep(Duration::from_millis(500)).await;
        };
        stage.serves(number, Signer { access_key: key.access_key, secret_key: key.secret_key, region: REGION.into() });
        s3::serve(listener, face, std::future::pending()).await;
        Ok(())
    };
    machine.run(work).await
}

async fn open(stage: &Stage, number: usize, env: &env::Env) -> node::Result<Option<Node>> {
    let settings = settings(stage, number);
    if number == 0 || stage.has_joined(number) {
        let started = Node::open(env.clone(), settings).await?;
        if let Some(words) = started.words {
            stage.know_words(words);
        }
        return Ok(Some(started.node));
    }
    let Some(ticket) = stage.ticket(number) else { return Ok(None) };
    let ticket = wire::Ticket::parse(&ticket).map_err(|error| node::Error::Invalid(error.to_string()))?;
    Ok(Some(Node::join(env.clone(), settings, &ticket).await?.node))
}
