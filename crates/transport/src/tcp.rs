//! TCP and TLS 1.3.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crypt::SigningKey;
use env::{BoxFuture, Env, Listener, Stream};
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use wire::greet::Class;

use crate::ahead::ReadAhead;
use crate::carrier::{Carrier, Door, Knock, Secured, Target};
use crate::endpoint::lock;
use crate::error::{Error, Result};
use crate::tls::{Tls, key_of};

/// Bytes of ciphertext that wait for the socket: sixteen records go out with one system call.
const WRITE_BYTES: usize = 256 << 10;
/// RFC 5705's name for our use of the connection's secret.
const BINDING_LABEL: &[u8] = b"EXPORTER-abide-binding";

/// The key that is shown may change while doors are open.
type Shared = Arc<Mutex<Arc<Tls>>>;

fn set_up(key: Arc<SigningKey>) -> Result<Arc<Tls>> {
    let tls = Tls::new(key).map_err(|error| Error::Protocol(format!("set TLS up: {error}")))?;
    Ok(Arc::new(tls))
}

/// Streams over TCP.
pub struct TcpCarrier {
    env: Env,
    tls: Shared,
    connect: Duration,
}

impl TcpCarrier {
    /// A carrier that shows `key`; an attempt at one address takes no longer than `connect`.
    pub fn new(env: Env, key: Arc<SigningKey>, connect: Duration) -> Result<TcpCarrier> {
        Ok(TcpCarrier { env, tls: Arc::new(Mutex::new(set_up(key)?)), connect })
    }

    async fn dial_one(&self, target: &Target, address: SocketAddr) -> Result<Secured> {
        let cut = |why: String| Error::Cut { why: format!("connect to {address}: {why}") };
        let stream = match self.env.timeout(self.connect, self.env.net.connect(address)).await {
            None => return Err(cut(format!("no answer in {} ms", self.connect.as_millis()))),
            Some(connected) => connected.map_err(|error| cut(error.to_string()))?,
        };
        let tls = lock(&self.tls).clone();
        let settings = tls.dialling(&target.keys).map_err(|error| cut(error.to_string()))?;
        let Ok(name) = ServerName::try_from("abide") else { return Err(cut("no name".into())) };
        let handshake = TlsConnector::from(settings)
            .connect_with(name, ReadAhead::new(stream), |connection| connection.set_buffer_limit(Some(WRITE_BYTES)));
        // The hello's limit is the caller's; this one is for the next address to get its chance.
        let stream = match self.env.timeout(self.connect * 2, handshake).await {
            None => return Err(cut("it took too long to shake hands".into())),
            Some(shaken) => shaken.map_err(|error| cut(explain(&error)))?,
        };
        secured(TlsStream::Client(stream), address)
    }
}

/// A handshake's failure in our words.
fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)) => {
            "another node answers there: the key it shows isn't one of the node that was looked for".into()
        }
        Some(other) => format!("no node of ours answers there ({other})"),
        None => format!("shake hands: {error}"),
    }
}

fn secured(stream: TlsStream<ReadAhead<Box<dyn Stream>>>, address: SocketAddr) -> Result<Secured> {
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().and_then(|shown| shown.first());
    let peer = shown.and_then(|shown| key_of(shown)).ok_or(Error::Protocol("it shows no key".into()))?;
    let exported = match &stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None),
    };
    let binding = exported.map_err(|error| Error::Protocol(format!("bind to the connection: {error}")))?;
    Ok(Secured { stream: Box::new(stream), peer, binding, address })
}

impl Carrier for TcpCarrier {
    fn dial<'a>(&'a self, target: &'a Target, _class: Class) -> BoxFuture<'a, Result<Secured>> {
        Box::pin(async move {
            let mut last = Error::Cut { why: "it has no address".into() };
            for address in &target.addresses {
                match self.dial_one(target, *address).await {
                    Ok(secured) => return Ok(secured),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }

    fn rekey(&self, key: Arc<SigningKey>) -> Result<()> {
        *lock(&self.tls) = set_up(key)?;
        Ok(())
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, Result<Box<dyn Door>>> {
        Box::pin(async move {
            let bound = self.env.net.bind(address).await;
            let listener = bound.map_err(|error| Error::Listen { address, why: error.to_string() })?;
            Ok(Box::new(TcpDoor { listener, tls: self.tls.clone() }) as Box<dyn Door>)
        })
    }
}

struct TcpDoor {
    listener: Box<dyn Listener>,
    tls: Shared,
}

impl Door for TcpDoor {
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Knock>>> {
        Box::pin(async move {
            let (stream, address) = self.listener.accept().await?;
            Ok(Box::new(TcpKnock { stream, address, tls: lock(&self.tls).clone() }) as Box<dyn Knock>)
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.address()
    }
}

struct TcpKnock {
    stream: Box<dyn Stream>,
    address: SocketAddr,
    tls: Arc<Tls>,
}

impl Knock for TcpKnock {
    fn from(&self) -> SocketAddr {
        self.address
    }

    fn secure(self: Box<Self>) -> BoxFuture<'static, Result<Secured>> {
        Box::pin(async move {
            let stream = ReadAhead::new(self.stream);
            let handshake = TlsAcceptor::from(self.tls.listening.clone())
                .accept_with(stream, |connection| connection.set_buffer_limit(Some(WRITE_BYTES)));
            let stream = handshake.await.map_err(|error| Error::Cut { why: explain(&error) })?;
            secured(TlsStream::Server(stream), self.address)
        })
    }
}
