//! The arguments of `mq-worker dashboard`.

use std::net::SocketAddr;

use clap::{Args, Subcommand, ValueEnum};

use crate::app::config::dashboard::DashboardRole;
use crate::app::config::value;

pub(super) const HELP: &str = "\
Without users in mq-worker.toml, a link is printed that logs in once. Beyond loopback, the page is served only with
users or with --no-login.

Examples:
  mq-worker dashboard                                 serve the page on http://127.0.0.1:5555
  mq-worker dashboard add-user ada --role act         add a user, who may replay, revoke and purge
  mq-worker dashboard --listen 0.0.0.0:5555           serve it to others";

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct DashboardArguments {
    #[command(subcommand)]
    pub(super) command: Option<DashboardCommand>,
    #[command(flatten)]
    pub(super) serve: ServeArguments,
}

#[derive(Args, Debug)]
pub(super) struct ServeArguments {
    /// The address to serve the page on [default: 127.0.0.1:5555]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = value::address)]
    pub(super) listen: Option<SocketAddr>,
    /// Disable the login: anyone who can reach the address has full access
    #[arg(long)]
    pub(super) no_login: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DashboardCommand {
    /// Add a user to mq-worker.toml; the password is asked for, or read from stdin
    AddUser(AddArguments),
    /// Create an API token for /api/v1
    AddToken(AddArguments),
}

#[derive(Args, Debug)]
pub(super) struct AddArguments {
    /// The name
    pub(super) name: String,
    /// What may be done: view sees everything, act also replays, revokes, purges and stops
    #[arg(long, default_value = "view")]
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Role {
    /// See everything
    View,
    /// See everything and act
    Act,
}

impl From<Role> for DashboardRole {
    fn from(role: Role) -> Self {
        match role {
            Role::View => Self::View,
            Role::Act => Self::Act,
        }
    }
}
