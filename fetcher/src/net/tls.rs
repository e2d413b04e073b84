//! Whom we trust, read when the first handshake asks.
//!
//! The embedded roots cost nothing to open; the machine's own (3 ms and more) are read only when those do not know an
//! issuer. A bundle named by the environment replaces both, as it does for every tool of Nix.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::Trust;
use super::error::NetError;

/// Environment variables that may name a bundle of certificates, the first one that is set and readable winning.
const BUNDLE_VARIABLES: [&str; 2] = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"];

/// Configures TLS 1.2 and 1.3 with the roots that the environment asks for.
pub(super) fn client_config(trust: Trust) -> Result<ClientConfig, NetError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Verified => Arc::new(LazyVerifier {
            bundle: bundle_from_environment(),
            provider: Arc::clone(&provider),
            first: OnceLock::new(),
            native: OnceLock::new(),
        }),
        Trust::Anybody => Arc::new(NoVerifier {
            provider: Arc::clone(&provider),
        }),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NetError::Setup {
            reason: error.to_string(),
        })?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // reqwest leaves a preconfigured backend as it is: without this line everything is HTTP/1.1.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn bundle_from_environment() -> Option<PathBuf> {
    BUNDLE_VARIABLES
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .find(|path| fs_err::File::open(path).is_ok())
}

type Verifier = Result<Arc<WebPkiServerVerifier>, rustls::Error>;

/// Verifies with webpki, but builds its root stores only when a certificate is to be verified.
#[derive(Debug)]
struct LazyVerifier {
    bundle: Option<PathBuf>,
    provider: Arc<CryptoProvider>,
    first: OnceLock<Verifier>,
    native: OnceLock<Verifier>,
}

impl LazyVerifier {
    fn first(&self) -> Result<&WebPkiServerVerifier, rustls::Error> {
        let verifier = self.first.get_or_init(|| match &self.bundle {
            Some(path) => self.build(bundle_roots(path)),
            None => self.build(RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            }),
        });
        verifier.as_deref().map_err(Clone::clone)
    }

    /// Returns the machine's own roots, or an error that leaves the first verifier's answer standing.
    fn native(&self) -> Result<&WebPkiServerVerifier, rustls::Error> {
        let verifier = self.native.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            self.build(roots)
        });
        verifier.as_deref().map_err(Clone::clone)
    }

    fn build(&self, roots: RootCertStore) -> Verifier {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| match &self.bundle {
                Some(path) => {
                    rustls::Error::General(format!("no certificates in {}", path.display()))
                }
                None => rustls::Error::General(error.to_string()),
            })
    }
}

/// Reads a bundle, leaving out what is no certificate: bundles of old systems contain some.
fn bundle_roots(path: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Ok(certificates) = CertificateDer::pem_file_iter(path) {
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    }
    roots
}

impl ServerCertVerifier for LazyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |verifier: &WebPkiServerVerifier| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match verify(self.first()?) {
            Err(unknown @ rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
                if self.bundle.is_none() =>
            {
                self.native().map_or(Err(unknown), verify)
            }
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.first()?
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.first()?
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Takes whoever answers, with a certificate that nobody could read, too.
#[derive(Debug)]
struct NoVerifier {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
