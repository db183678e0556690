//! TLS for PostgreSQL, with the system's certificates and the files of `[tls]`.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::connection::TlsOptions;
use crate::error::{Error, Result};

/// Builds the TLS configuration: trusted certificates, and the client's own.
pub(super) fn client(options: &TlsOptions) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be parsed are skipped.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &options.ca_file {
        roots.add_parsable_certificates(certificates(path)?);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let wrong = |error: rustls::Error| Error::config("the files of [tls] cannot be used").with_source(error);
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?.with_root_certificates(roots);
    match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => {
            let key_in = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(certificates(cert)?, key_in).map_err(wrong)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(Error::config("[tls] needs both `cert_file` and `key_file`, or neither")),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: rustls::pki_types::pem::Error) -> Error {
    // Some of these error messages quote lines of the file, which may be a private key.
    let why = match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        _ => "it is not a PEM file, or lacks the expected certificate or key".into(),
    };
    Error::config(format!("cannot read `{}`: {why}", path.display()))
}
