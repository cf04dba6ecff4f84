//! `abide up`: opens or makes a store and serves it until it is told to stop.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use admin::Shown;
use env::{Env, Listener};
use node::{Node, Settings, Started};
use tracing_subscriber::EnvFilter;

use crate::args::Up;
use crate::control::Control;
use crate::metrics;
use crate::show::{Paint, paint};
use crate::tls::Tls;

/// How long requests under way may take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the store; returns after a clean end.
pub fn run(home: &Path, up: Up) -> Result<(), String> {
    log(up.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("abide")
        .build()
        .map_err(|error| format!("start threads: {error}"))?;
    let done = runtime.block_on(serve(home, up));
    // What still runs holds nothing that isn't durable.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

fn log(json: bool) {
    let filter = EnvFilter::try_from_env("ABIDE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        use std::io::IsTerminal;
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
    }
}

fn settings(home: &Path, up: &Up) -> Result<Settings, String> {
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let drives = up.drives.iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
    let mut settings = Settings::new(drives, home.to_path_buf());
    settings.key_file = up.key_file.as_ref().map(absolute).transpose()?;
    settings.policy.clone_from(&up.policy);
    settings.repair_after = Duration::from_secs(up.repair_after);
    if up.words {
        settings.words = Some(ask_words()?);
    }
    Ok(settings)
}

/// The 24 words, from standard input: on the command line other users of the machine would see them.
fn ask_words() -> Result<String, String> {
    eprintln!("type the 24 words of the root key, then Enter:");
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
        count => Err(format!("the root key has 24 words, and {count} were given; nothing was changed")),
    }
}

async fn serve(home: &Path, up: Up) -> Result<(), String> {
    let env = Env::real();
    let settings = settings(home, &up)?;
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
    let started = Node::open(env.clone(), settings).await.map_err(|error| error.to_string())?;
    let host =
        if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() };
    let shown = Shown { endpoint: format!("{scheme}://{host}"), region: up.region.clone() };
    greet(&started, &shown.endpoint).await;
    let node = started.node;
    env.spawn("control", admin::serve(env.clone(), Box::new(control), node.clone(), shown));
    let face = face(&env, &node, &up, scheme == "https");
    let stop = stopped();
    s3::serve(listener, face, stop).await;
    tracing::info!("stopping: everything acknowledged is durable; a second Ctrl-C ends at once");
    tokio::select! {
        () = node.close() => {}
        () = stopped() => {}
    }
    let _ = std::fs::remove_file(crate::control::socket(home));
    Ok(())
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

/// Ready at Ctrl-C, or when a service manager says stop.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut end) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = end.recv() => {}
    }
}

/// Says where the store is and what to do next.
async fn greet(started: &Started, endpoint: &str) {
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
    text.push_str(&paint(Paint::Dim, "next       eval \"$(abide env)\" && aws s3 mb s3://photos; stop with Ctrl-C\n"));
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
