//! What a connection is opened with, beside its address.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::routing::QueueKind;

/// What a connection is opened with, beside its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long a publish or another request may take before it is an error.
    pub timeout: Duration,
    /// The kind of queue that is created where a queue does not say.
    pub queue_kind: QueueKind,
    /// Files for TLS.
    pub tls: TlsOptions,
    /// Names the connection to people who look at the broker.
    pub name: String,
}

/// Files in PEM format for `amqps://`, beside the system's own certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsOptions {
    /// Certificates of a private authority.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The client's private key.
    pub key_file: Option<PathBuf>,
}
