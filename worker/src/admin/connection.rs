//! A connection to the broker, as the broker sees it.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// A connection to the broker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ConnectionInfo {
    /// The name that the program gave it, or else the broker's name for it.
    pub(crate) name: String,
    pub(crate) user: String,
    /// Address and port of the program.
    pub(crate) peer: String,
    pub(crate) state: String,
    pub(crate) channels: u64,
    pub(crate) since: Option<DateTime<Utc>>,
}
