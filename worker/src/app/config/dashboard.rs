//! The settings of the management page: who may log in, and what is shown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The settings of the management page, `mq-worker dashboard`; in the file the section `[dashboard]`.
///
/// ```toml
/// [dashboard]
/// listen = "0.0.0.0:5555"
/// public_url = "https://queues.example.com"
/// redact = ["billing.*"]
///
/// [[dashboard.users]]
/// name = "ada"
/// password = "$argon2id$v=19$m=19456,t=2,p=1$…" # written by `mq-worker dashboard add-user ada --role act`
/// role = "act"
/// ```
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DashboardConfig {
    /// The address to serve the page on. Default: `127.0.0.1:5555`.
    pub listen: Option<SocketAddr>,
    /// The address under which browsers reach the page if it is behind a proxy, such as
    /// `https://queues.example.com`. With `https`, cookies are sent over encrypted connections only.
    pub public_url: Option<String>,
    /// The users who may log in. Default: none; on a loopback address a login link is printed at start.
    pub users: Vec<DashboardUser>,
    /// The tokens that programs use at `/api/v1`.
    pub tokens: Vec<DashboardToken>,
    /// Single sign-on by a proxy that authenticates users.
    pub proxy: Option<DashboardProxy>,
    /// Hide the arguments and results of all tasks. Default false.
    pub hide_arguments: bool,
    /// Tasks whose arguments and results are hidden, as names with `*`: `billing.*`.
    pub redact: Vec<String>,
}

/// A user of the management page.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DashboardUser {
    /// The name to log in with.
    pub name: String,
    /// The argon2 hash of the password, as `mq-worker dashboard add-user` writes it. A user without one can only log in
    /// through [`DashboardConfig::proxy`].
    #[serde(default)]
    pub password: Option<PasswordHash>,
    /// What this user may do. Default: view.
    #[serde(default)]
    pub role: DashboardRole,
}

/// A token of a program.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DashboardToken {
    /// The program's name in the audit trail.
    pub name: String,
    /// The SHA-256 hash of the token, in hexadecimal, as `mq-worker dashboard add-token` writes it.
    pub sha256: String,
    /// What this program may do. Default: view.
    #[serde(default)]
    pub role: DashboardRole,
}

/// A proxy that is trusted to authenticate users.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DashboardProxy {
    /// The header that names the user, such as `X-Forwarded-User`. The proxy must remove it from what browsers send.
    pub header: String,
    /// The addresses of the proxy; the header is ignored in connections from elsewhere. Default: loopback.
    #[serde(default = "loopback")]
    pub from: Vec<IpAddr>,
    /// The role of users who are not in [`DashboardConfig::users`]. Default: view.
    #[serde(default)]
    pub role: DashboardRole,
}

/// What a user of the management page may do.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DashboardRole {
    /// See everything.
    #[default]
    View,
    /// See everything and act: replay, revoke, purge, stop.
    Act,
}

impl DashboardRole {
    /// `view` or `act`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Act => "act",
        }
    }
}

/// The hash of a password. It is never logged.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PasswordHash(pub String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

fn loopback() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
}
