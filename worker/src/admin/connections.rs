//! The connections to the broker.

use super::connection::ConnectionInfo;
use super::failure::Outcome;
#[cfg(feature = "amqp")]
use super::management::Management;
use crate::app::App;

/// The connections to the broker; `None` for a broker without connections, such as a file.
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
