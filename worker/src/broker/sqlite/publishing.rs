//! Converts a publication into the type of the SQLite connection.

use std::time::Duration;

use crate::broker::Publication;
use crate::connection::sqlite::{Publishing, head};
use crate::error::{Error, Result};
use crate::routing::names::check_key;
use crate::show;

/// The longest delay. Milliseconds in 64 bits would allow more than anyone needs.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Checks and encodes a message.
pub(super) fn of(publication: Publication) -> Result<Publishing> {
    let Publication { exchange, routing_key, message, delay, mandatory } = publication;
    check_key(&routing_key)?;
    if let Some(delay) = delay.filter(|delay| *delay > MAX_DELAY) {
        return Err(Error::config(format!(
            "cannot publish with a delay of {}: SQLite can delay a message by {} at most",
            show::duration(delay),
            show::duration(MAX_DELAY)
        )));
    }
    Ok(Publishing {
        exchange,
        routing_key,
        head: head::encode(&message),
        priority: message.properties.priority.unwrap_or(0),
        expiration: message.properties.expiration,
        body: message.body.clone(),
        delay,
        mandatory,
    })
}
