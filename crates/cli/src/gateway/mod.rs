//! `abide gateway`: S3 for end-to-end volumes, on this machine for this machine. Everything is sealed and opened in this process; what
//! clients send never leaves the machine in the clear.

mod backend;
mod listing;
mod uploads;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{UserId, Wall};
use env::Env;
use s3::backend::AccessKey;

use crate::args::Gateway as Asked;
use crate::show::{Paint, paint};
use crate::up;
use crate::volumes::{Way, drill_if_due, open, write_secret};
use backend::Gateway;

/// Kits follow what was written so soon, or after this many times what the last time took.
const EVERY: Duration = Duration::from_secs(1);
const KIT_SHARE: u32 = 20;
/// How often it is looked which nodes there are.
const ANEW: Duration = Duration::from_secs(60);
/// What is under way when other nodes are used has so long to end.
const RETIRE: Duration = Duration::from_secs(3600);
/// How long requests under way may take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until it is told to stop.
pub fn run(home: &Path, what: &Asked) -> Result<(), String> {
    if !what.listen.ip().is_loopback() {
        return Err(format!(
            "{} is no address of this machine alone: what is end-to-end would go over the network in the clear. Listen on 127.0.0.1, and run a gateway on each machine",
            what.listen
        ));
    }
    up::prepared(false, serve(home, what))
}

async fn serve(home: &Path, what: &Asked) -> Result<(), String> {
    let env = Env::real();
    let failed =
        |error: std::io::Error| format!("listen on {}: {error}; name another address with --listen", what.listen);
    let listener = env.net.bind(what.listen).await.map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    let key = key(home, &env)?;
    let mut volumes = Vec::new();
    for name in &what.volumes {
        volumes.push(open(home, Way::Owner(name.clone()), &what.from).await?);
    }
    let gateway = Arc::new(Gateway::new(env.clone(), volumes, key.clone()));
    // Each client keeps a kit of its own: two that append to one would fork it.
    let kits = home.join("gateway").join("kits");
    gateway.volumes.values().for_each(|opened| opened.volume().set_kits(&kits));
    let (keeper, following) = (gateway.clone(), env.clone());
    env.spawn("kits", async move { keep_kits(following, keeper, &kits).await });
    let (opener, following, home_of, from) = (gateway.clone(), env.clone(), home.to_path_buf(), what.from.clone());
    env.spawn("nodes", async move { open_anew(following, opener, &home_of, &from).await });
    let settings = s3::Settings { region: what.region.clone(), grace: GRACE, ..s3::Settings::default() };
    let face = Arc::new(s3::Face::new(env.clone(), gateway.clone(), settings));
    greet(&what.volumes, &key, address, &what.region);
    let (first, second) = up::stops(&env)?;
    tokio::select! {
        () = s3::serve(listener, face, first) => Ok(()),
        () = second => Err("ended at once, with requests under way; what was acknowledged is durable".into()),
    }
}

/// Opens the volumes anew now and then: machines that came since take pieces too, and those that were away are asked again.
async fn open_anew(env: Env, gateway: Arc<Gateway>, home: &Path, from: &[String]) {
    loop {
        env.clock.sleep(ANEW).await;
        for (name, opened) in &gateway.volumes {
            if opened.volume().read_by_kit().is_some() {
                continue;
            }
            drill_if_due(&home.join("gateway").join("kits"), &opened.volume()).await;
            match open(home, Way::Owner(name.clone()), from).await {
                Ok(volume) if volume.sees_other_than(&opened.volume()) => {
                    volume.set_kits(&home.join("gateway").join("kits"));
                    let (old, clock) = (opened.set_volume(volume), env.clock.clone());
                    env.spawn("retire", async move {
                        clock.sleep(RETIRE).await;
                        old.close();
                    });
                }
                Ok(same) => same.close(),
                Err(error) => {
                    tracing::info!(volume = %name, error, "the volume can't be opened anew: it is used as it was")
                }
            }
        }
    }
}

/// Brings the kits up to date after writes, until the process ends.
async fn keep_kits(env: Env, gateway: Arc<Gateway>, folder: &Path) {
    let mut pause = EVERY;
    loop {
        env.clock.sleep(pause).await;
        let began = env.clock.now();
        for (name, opened) in &gateway.volumes {
            if opened.volume().read_by_kit().is_some() || !opened.is_new.swap(false, Ordering::Relaxed) {
                continue;
            }
            match opened.volume().keep_kit(folder).await {
                Ok(kept) => {
                    for (node, why) in kept.into_iter().flat_map(|kept| kept.holders) {
                        let Some(why) = why else { continue };
                        tracing::info!(volume = %name, %node, why, "a node has no fresh copy of the volume's kit");
                    }
                }
                Err(error) => {
                    opened.is_new.store(true, Ordering::Relaxed);
                    tracing::warn!(volume = %name, %error, "the volume's kit is behind: trying again");
                }
            }
        }
        pause = EVERY.max(env.clock.now().since(began) * KIT_SHARE);
    }
}

/// The key that clients on this machine sign with: made once, for its owner alone.
fn key(home: &Path, env: &Env) -> Result<AccessKey, String> {
    let folder = home.join("gateway");
    let path = folder.join("access-key");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let of = |id: &str, secret: &str| {
        let (id, secret, user) = (id.to_owned(), secret.to_owned(), UserId("owner".into()));
        AccessKey { id, secret, user, created: Wall(0), disabled: false }
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.split_whitespace().collect::<Vec<_>>()[..] {
            [id, secret] => return Ok(of(id, secret)),
            _ => return Err(format!("{} isn't a gateway's key: remove it, and another one is made", path.display())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let id = format!("GW{}", base::ids::hex(&env.random::<9>()).to_uppercase());
    let secret = base::ids::hex(&env.random::<20>());
    std::fs::create_dir_all(&folder).map_err(failed)?;
    write_secret(&path, &format!("{id} {secret}\n")).map_err(failed)?;
    Ok(of(&id, &secret))
}

fn greet(volumes: &[String], key: &AccessKey, address: SocketAddr, region: &str) {
    let lines = [
        paint(Paint::Bold, &format!("S3 for {}: on this machine alone, sealed and opened here", volumes.join(", "))),
        String::new(),
        format!("export AWS_ACCESS_KEY_ID={}", key.id),
        format!("export AWS_SECRET_ACCESS_KEY={}", key.secret),
        format!("export AWS_ENDPOINT_URL=http://{address}"),
        format!("export AWS_DEFAULT_REGION={region}"),
        String::new(),
        paint(Paint::Dim, &format!("next       aws s3 ls s3://{}/; stop with Ctrl-C", volumes[0])),
    ];
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it.
    let _ = writeln!(out, "{}", lines.join("\n")).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_key_is_made_once_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let first = key(home.path(), &Env::real()).unwrap();
        let again = key(home.path(), &Env::real()).unwrap();
        assert_eq!((&first.id, &first.secret), (&again.id, &again.secret));
        assert_eq!((first.id.len(), first.secret.len()), (20, 40));
        let path = home.path().join("gateway/access-key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "nonsense").unwrap();
        assert!(key(home.path(), &Env::real()).unwrap_err().contains("remove it"));
    }

    #[test]
    fn other_machines_are_not_served() {
        let what = Asked {
            volumes: vec!["family".into()],
            listen: "0.0.0.0:9310".parse().unwrap(),
            region: "us-east-1".into(),
            from: Vec::new(),
        };
        assert!(run(Path::new("/nonexistent"), &what).unwrap_err().contains("in the clear"));
    }
}
