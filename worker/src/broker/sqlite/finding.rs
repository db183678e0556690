//! Converts a found message into the type of the broker contract.

use chrono::DateTime;

use crate::broker::{FoundMessage, Position};
use crate::connection::sqlite::{Sighted, Spot};

pub(super) fn found(Sighted { queue, place, message }: Sighted) -> FoundMessage {
    let position = match place {
        Spot::Ready { ahead } => Position::Ready { ahead },
        Spot::Delayed { until } => {
            Position::Delayed { until: DateTime::from_timestamp_millis(until).unwrap_or_default() }
        }
        Spot::Claimed => Position::Delivered,
    };
    FoundMessage { queue, position, message }
}
