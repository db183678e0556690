//! Who is connected to the broker.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::failure::Outcome;
#[cfg(feature = "amqp")]
use super::management::Management;
use crate::app::App;

/// A connection to the broker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ConnectionInfo {
    /// The name that the program has given it, else that of the broker.
    pub(crate) name: String,
    pub(crate) user: String,
    /// Address and port of the program.
    pub(crate) peer: String,
    pub(crate) state: String,
    pub(crate) channels: u64,
    pub(crate) since: Option<DateTime<Utc>>,
}

/// The connections to the broker; `None` where it has none, as a file.
pub(crate) async fn connections(app: &App) -> Option<Outcome<Vec<ConnectionInfo>>> {
    match app.config().broker_url.scheme().as_str() {
        #[cfg(feature = "amqp")]
        "amqp" | "amqps" => Some(match Management::of(app.config()) {
            Ok(api) => api.connections().await,
            Err(failure) => Err(failure),
        }),
        _ => None,
    }
}
