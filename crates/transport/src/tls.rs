//! TLS 1.3 with raw public keys (RFC 7250): a node's Ed25519 key is all there is to show.
//!
//! A listener takes any key whose holder proves to have it: whether it is a member's is judged
//! after the handshake, before a word is said. A dialler takes none but the keys it looks for.

use std::sync::Arc;

use crypt::{PublicKey, SigningKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureAlgorithm,
    SignatureScheme,
};

/// SubjectPublicKeyInfo of an Ed25519 key up to the key (RFC 8410, 4 and 10.1).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const ALPN: &[u8] = b"abide";

fn spki(key: &PublicKey) -> Vec<u8> {
    [&SPKI_HEAD[..], &key.0].concat()
}

/// The key in what TLS calls a certificate.
pub(crate) fn key_of(shown: &[u8]) -> Option<PublicKey> {
    shown.strip_prefix(&SPKI_HEAD).and_then(|key| key.try_into().ok()).map(PublicKey)
}

/// Signs handshakes with the node's key.
#[derive(Clone, Debug)]
struct NodeSigner(Arc<SigningKey>);

impl rustls::sign::SigningKey for NodeSigner {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki(&self.0.public()).into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for NodeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Looks at the other end's key.
#[derive(Debug)]
struct KeyVerifier {
    /// The keys that will do; `None`: any.
    pinned: Option<Vec<PublicKey>>,
}

impl KeyVerifier {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        let key = key_of(shown).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match &self.pinned {
            Some(pinned) if !pinned.contains(&key) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(()),
        }
    }
}

fn verify(
    message: &[u8],
    shown: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = key_of(shown).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if signed.scheme != SignatureScheme::ED25519 || !key.verify(message, signed.signature()) {
        return Err(Error::InvalidCertificate(CertificateError::BadSignature));
    }
    Ok(HandshakeSignatureValid::assertion())
}

fn no_tls12() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// TLS asks for the calendar only where certificates expire; ours don't.
#[derive(Debug)]
struct NoClock;

impl rustls::time_provider::TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
    }
}

/// One node's side of any handshake.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    shown: Arc<CertifiedKey>,
    /// For who listens.
    pub(crate) listening: Arc<ServerConfig>,
}

impl Tls {
    pub(crate) fn new(key: Arc<SigningKey>) -> Result<Tls, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificate = CertificateDer::from(spki(&key.public()));
        let shown = Arc::new(CertifiedKey::new(vec![certificate], Arc::new(NodeSigner(key))));
        let mut listening = ServerConfig::builder_with_details(provider.clone(), Arc::new(NoClock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(KeyVerifier { pinned: None }))
            .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(shown.clone())));
        listening.alpn_protocols = vec![ALPN.to_vec()];
        // Resumed sessions would be judged by an old handshake: every connection shows its key.
        listening.send_tls13_tickets = 0;
        Ok(Tls { provider, shown, listening: Arc::new(listening) })
    }

    /// For who dials one of `keys`; any key if there are none.
    pub(crate) fn dialling(&self, keys: &[PublicKey]) -> Result<Arc<ClientConfig>, Error> {
        let pinned = (!keys.is_empty()).then(|| keys.to_vec());
        let mut dialling = ClientConfig::builder_with_details(self.provider.clone(), Arc::new(NoClock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(KeyVerifier { pinned }))
            .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(
                self.shown.clone(),
            )));
        dialling.alpn_protocols = vec![ALPN.to_vec()];
        dialling.enable_sni = false;
        dialling.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(dialling))
    }
}
