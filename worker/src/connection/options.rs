//! The settings of a connection other than its address.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::routing::QueueKind;

/// The settings of a connection other than its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long a publish or another request may take before it is an error.
    pub timeout: Duration,
    /// The kind of queues that are declared without one.
    pub queue_kind: QueueKind,
    /// Files for TLS.
    pub tls: TlsOptions,
    /// The connection name, as shown in the broker's own tools.
    pub name: String,
}

/// Files in PEM format for TLS, used in addition to the system's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsOptions {
    /// Certificates of a private certificate authority.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The client's private key.
    pub key_file: Option<PathBuf>,
}
