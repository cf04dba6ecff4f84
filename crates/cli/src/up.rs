//! `abide up`: opens or makes a store and serves it until it is told to stop.

use std::io::{BufRead, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admin::Shown;
use env::{Env, Listener};
use node::{Node, Settings, Started};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::absolute;
use crate::args::Up;
use crate::control::Control;
use crate::metrics;
use crate::show::{Paint, paint};
use crate::tls::Tls;

/// How long requests under way may take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Files that must be open at once for 10,000 connections and the logs of many drives.
const FILES_WANTED: u64 = 12_000;

/// Joins a cluster, then runs as [`run`].
pub fn join(home: &Path, named: bool, ticket: &str, up: Up) -> Result<(), String> {
    let ticket = wire::Ticket::parse(ticket).map_err(|error| error.to_string())?;
    begin(home, named, up, Some(ticket))
}

/// Runs the store; returns after a clean end.
pub fn run(home: &Path, named: bool, up: Up) -> Result<(), String> {
    begin(home, named, up, None)
}

fn begin(home: &Path, named: bool, up: Up, ticket: Option<wire::Ticket>) -> Result<(), String> {
    prepared(up.log_json, serve(home, named, up, ticket))
}

/// Runs what serves requests, with logs, threads, and as many open files as may be.
pub fn prepared(log_json: bool, serve: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    log(log_json)?;
    raise_files();
    keep_freed_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("abide")
        .build()
        .map_err(|error| format!("start threads: {error}"))?;
    let done = runtime.block_on(serve);
    // What still runs holds nothing that isn't durable.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Has the C library keep a few MiB of freed memory for what comes next. As it starts, glibc gives
/// each buffer of 128 KiB or more back to the system, and gets it anew, zeroed, page by page: a third
/// of what a read costs. Both limits follow the largest buffer that was freed (`mallopt(3)`,
/// `M_MMAP_THRESHOLD`): this one, which is never touched and so takes no memory.
fn keep_freed_memory() {
    const BYTES: usize = 4 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(BYTES)));
}

/// Logs go to standard error; `$ABIDE_LOG` filters them (`debug`, `info,s3=trace`).
fn log(json: bool) -> Result<(), String> {
    let filter = match std::env::var("ABIDE_LOG") {
        Ok(text) if !text.is_empty() => {
            EnvFilter::try_new(&text).map_err(|error| format!("$ABIDE_LOG is {text:?}: {error}"))?
        }
        // Who leads and who votes is logged in our words.
        _ => EnvFilter::new("info,openraft=error"),
    };
    // A log that nobody reads any more (`2>&1 | head`) must not stop what logs.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let builder = builder.with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}

/// As many open files as the system lets us have: each connection is one.
fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        // Nothing can be raised.
    } else if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::info!(%error, "failed to raise the limit of open files");
    }
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < FILES_WANTED) {
        tracing::info!(files, "few files may be open at once, so few clients may connect: raise `ulimit -Hn`");
    }
}

fn settings(home: &Path, up: &Up) -> Result<Settings, String> {
    let drives = up.drives.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let mut settings = Settings::new(drives, home.to_path_buf());
    settings.key_file = up.key_file.as_deref().map(absolute).transpose()?;
    settings.no_data = up.no_data;
    settings.policy.clone_from(&up.policy);
    settings.repair_after = Duration::from_secs(up.repair_after);
    settings.read_by_kit_after = (up.read_by_kit_after > 0).then(|| Duration::from_secs(up.read_by_kit_after));
    settings.cluster_listen = up.cluster_listen;
    settings.addresses.clone_from(&up.advertise);
    if settings.addresses.is_empty() {
        settings.addresses.push(SocketAddr::new(own_address(up.cluster_listen.ip()), 0));
    }
    settings.addresses.iter_mut().filter(|one| one.port() == 0).for_each(|one| one.set_port(up.cluster_listen.port()));
    settings.labels.clone_from(&up.label);
    settings.name =
        up.name.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    Ok(settings)
}

/// Where others reach this machine if its owner doesn't say: the address from which it would speak to the world. Nothing
/// is sent to find out.
fn own_address(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // A documentation address (RFC 5737): only the route to it is looked up.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// The 24 words, from standard input: on the command line other users of the machine would see them.
pub fn ask_words() -> Result<String, String> {
    ask_words_of("the root key")
}

/// The 24 words of a key.
pub fn ask_words_of(what: &str) -> Result<String, String> {
    eprintln!("type the 24 words of {what}, then Enter:");
    let mut words = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("read the words: {error}"))?;
        words.extend(line.split_whitespace().map(str::to_lowercase));
        if words.len() >= 24 || line.trim().is_empty() {
            break;
        }
    }
    match words.len() {
        24 => Ok(words.join(" ")),
        count => Err(format!("{what} has 24 words, and {count} were given; nothing was changed")),
    }
}

async fn serve(home: &Path, named: bool, up: Up, ticket: Option<wire::Ticket>) -> Result<(), String> {
    let env = Env::real();
    let mut settings = settings(home, &up)?;
    // Everything that may be refused comes before the store is touched.
    let plain = env
        .net
        .bind(up.listen)
        .await
        .map_err(|error| format!("listen on {}: {error}; name another address with --listen", up.listen))?;
    let address = plain.address().map_err(|error| format!("listen on {}: {error}", up.listen))?;
    let (listener, scheme): (Box<dyn Listener>, _) = match (&up.tls_cert, &up.tls_key) {
        (Some(cert), Some(key)) => (Box::new(Tls::new(&env, plain, cert, key)?), "https"),
        _ => (plain, "http"),
    };
    let control = Control::bind(home).map_err(|error| format!("control socket: {error}"))?;
    if up.words {
        settings.words = Some(ask_words()?);
    }
    let started = match ticket {
        Some(ticket) => Node::join(env.clone(), settings, &ticket).await,
        None => Node::open(env.clone(), settings).await,
    };
    let started = started.map_err(|error| error.to_string())?;
    let host =
        if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() };
    let shown = Shown { endpoint: format!("{scheme}://{host}"), region: up.region.clone() };
    greet(&started, &shown.endpoint, named.then_some(home)).await;
    let node = started.node;
    env.spawn("control", admin::serve(env.clone(), Box::new(control), node.clone(), shown));
    let face = face(&env, &node, &up, scheme == "https");
    env.spawn("users", hear_users(env.clone(), node.clone(), Arc::downgrade(&face)));
    let (first, second) = stops(&env)?;
    let stop = async {
        first.await;
        tracing::info!("stopping: everything acknowledged is durable; a second Ctrl-C ends at once");
    };
    let orderly = async {
        s3::serve(listener, face, stop).await;
        node.close().await;
    };
    tokio::select! {
        () = orderly => Ok(()),
        () = second => Err("ended at once, with requests under way; what was acknowledged is durable".into()),
    }
}

/// Tells the node once a second how its users fare: repair gives way to them.
async fn hear_users(env: Env, node: Node, face: std::sync::Weak<s3::Face>) {
    let mut before = s3::metrics::Latencies::default();
    loop {
        env.clock.sleep(Duration::from_secs(1)).await;
        let Some(latencies) = face.upgrade().map(|face| face.metrics().latencies()) else { return };
        let (requests, p99) = latencies.since(&before);
        before = latencies;
        node.hear_users(requests, p99).await;
    }
}

fn face(env: &Env, node: &Node, up: &Up, secure: bool) -> Arc<s3::Face> {
    let settings = s3::Settings {
        region: up.region.clone(),
        hosts: vec![up.domain.clone()],
        secure,
        grace: GRACE,
        ..s3::Settings::default()
    };
    let backend = Arc::new(s3::Engine::new(node.client().clone()));
    Arc::new_cyclic(|face: &std::sync::Weak<s3::Face>| {
        let aside = metrics::aside(node.clone(), face.clone());
        s3::Face::new(env.clone(), backend, settings).with_aside(aside)
    })
}

/// Ready at the first Ctrl-C or when a service manager says stop; ready at the second.
pub fn stops(env: &Env) -> Result<(impl Future<Output = ()>, impl Future<Output = ()>), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| format!("listen to signals: {error}"));
    let (mut interrupt, mut end) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (send, first) = watch::channel(0);
    let second = first.clone();
    env.spawn("signals", async move {
        while !send.is_closed() {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = end.recv() => {}
            }
            send.send_modify(|count| *count += 1);
        }
    });
    // Who counts lives as long as who waits: there is no error to handle.
    let reached = |mut seen: watch::Receiver<u32>, count| async move { _ = seen.wait_for(|seen| *seen >= count).await };
    Ok((reached(first, 1), reached(second, 2)))
}

/// Says where the store is and what to do next. `home` is there if it must be named to be found.
async fn greet(started: &Started, endpoint: &str, home: Option<&Path>) {
    let mut text = String::new();
    if let Some(words) = &started.words {
        text.push_str(&format!(
            "\n{}\n\n{words}\n\n{}\n{}\n\n",
            paint(Paint::Bold, "A new store was made. Its root key, as 24 words, is shown only now:"),
            "Write them down and keep them away from this machine: with them and the drives everything can be",
            "read, without them and the key file nothing can."
        ));
        text.push_str(&format!("key file   {}\n", started.key_file.display()));
    }
    for note in &started.notes {
        text.push_str(&paint(Paint::Yellow, &format!("note       {note}\n")));
    }
    if let Ok(status) = started.node.status().await {
        text.push_str(&format!("store      {}\n", status.sentence));
    }
    text.push_str(&format!("S3         {endpoint}\n"));
    let home = home.map_or(String::new(), |home| format!(" --home '{}'", home.display()));
    let next = format!("next       eval \"$(abide{home} env)\" && aws s3 mb s3://photos; stop with Ctrl-C\n");
    text.push_str(&paint(Paint::Dim, &next));
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
