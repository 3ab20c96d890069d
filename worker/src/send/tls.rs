//! TLS of one connection without its socket: bytes in, bytes out. So what is written and what is only looked at stays in the
//! hands of the connection, as without TLS.

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

/// What TLS is begun with: the roots of the system and, if named, those of a file in PEM. Reads after a colon.
pub(crate) fn config(authorities: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut extra = Vec::new();
    if let Some(path) = authorities {
        let wrong =
            |error: rustls::pki_types::pem::Error| format!("cannot read certificates in {}: {error}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
            extra.push(certificate.map_err(wrong)?);
        }
        if extra.is_empty() {
            return Err(format!("{} has no certificate in PEM", path.display()));
        }
    }
    let failed = |error: rustls::Error| error.to_string();
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone()).map_err(failed)?;
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
    Ok(Arc::new(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

pub(super) struct Tls(Box<ClientConnection>);

impl Tls {
    /// `host`: the name, or the address, that the certificate must be of.
    pub(super) fn new(config: Arc<ClientConfig>, host: &str) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("'{host}' cannot be the name of a certificate"))?;
        let mut connection = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        // A whole message is sealed at once.
        connection.set_buffer_limit(None);
        Ok(Self(Box::new(connection)))
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// What to write so that `plain` arrives, after what TLS itself has to say.
    pub(super) fn seal(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.0.writer().write_all(plain)?;
        let mut sealed = Vec::with_capacity(plain.len() + 256);
        while self.0.wants_write() {
            self.0.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }

    /// What came in these bytes and those before. Errors: it is no TLS, or not of whom it must be of.
    pub(super) fn open(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            let taken = self.0.read_tls(&mut bytes).map_err(|error| error.to_string())?;
            let state = self.0.process_new_packets().map_err(|error| error.to_string())?;
            let ready = state.plaintext_bytes_to_read();
            let begun = plain.len();
            plain.resize(begun + ready, 0);
            self.0.reader().read_exact(&mut plain[begun..]).map_err(|error| error.to_string())?;
            // It said goodbye, and what comes after that is nothing.
            if taken == 0 {
                break;
            }
        }
        Ok(plain)
    }
}
