//! HTTPS: a listener that shakes hands before it hands a connection on.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Mutex, mpsc};
use tokio_rustls::TlsAcceptor;

/// A client that hasn't finished its handshake by then is dropped.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections that have shaken hands and wait to be served.
const READY_MAX: usize = 64;

type Ready = (Box<dyn env::Stream>, SocketAddr);

/// A TLS listener over a plain one.
pub struct Tls {
    address: SocketAddr,
    ready: Mutex<mpsc::Receiver<Ready>>,
}

impl Tls {
    /// Reads certificate chain and key (PEM) and begins to accept.
    pub fn new(env: &env::Env, plain: Box<dyn env::Listener>, cert: &Path, key: &Path) -> Result<Tls, String> {
        let acceptor = TlsAcceptor::from(Arc::new(settings(cert, key)?));
        let address = plain.address().map_err(|error| format!("listen: {error}"))?;
        let (send, receive) = mpsc::channel(READY_MAX);
        env.spawn("tls accept", accept_all(env.clone(), plain, acceptor, send));
        Ok(Tls { address, ready: Mutex::new(receive) })
    }
}

fn settings(cert: &Path, key: &Path) -> Result<rustls::ServerConfig, String> {
    let pem =
        |path: &Path, error: &dyn std::fmt::Display| format!("read {}: {error}; a PEM file is wanted", path.display());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| pem(cert, &error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, &error))?;
    let mut settings = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key don't fit together: {error}"))?;
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(settings)
}

async fn accept_all(env: env::Env, plain: Box<dyn env::Listener>, acceptor: TlsAcceptor, ready: mpsc::Sender<Ready>) {
    while !ready.is_closed() {
        let (stream, peer) = match plain.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, most often: they come back as connections end.
                tracing::warn!(%error, "accept");
                env.clock.sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, ready, inner) = (acceptor.clone(), ready.clone(), env.clone());
        env.spawn("tls handshake", async move {
            match inner.timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                Some(Ok(stream)) => _ = ready.send((Box::new(stream) as Box<dyn env::Stream>, peer)).await,
                Some(Err(error)) => tracing::debug!(%peer, %error, "tls handshake"),
                None => tracing::debug!(%peer, "tls handshake took too long"),
            }
        });
    }
}

impl env::Listener for Tls {
    fn accept(&self) -> env::BoxFuture<'_, io::Result<Ready>> {
        Box::pin(async move {
            self.ready.lock().await.recv().await.ok_or_else(|| io::Error::other("the listener has ended"))
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
