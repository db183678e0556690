//! A private certificate authority, for servers that speak TLS.

use std::fs;
use std::path::PathBuf;

pub use rcgen::ExtendedKeyUsagePurpose as Purpose;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::temp_dir;

/// An authority and the certificates that it has signed, as files.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Creates an authority.
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn create() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.distinguished_name.push(DnType::CommonName, "a private authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        let authority = Self { directory: temp_dir(), issuer };
        fs::write(authority.file("ca.pem"), authority.issuer.pem()).expect("written");
        authority
    }

    /// Returns the path of a file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `name.pem` and `name.key`.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn sign(&self, name: &str, hosts: &[&str], purpose: Purpose) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(hosts).expect("good names");
        // A certificate with the name of its authority would be taken for a self-signed one.
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).expect("written");
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }
}
