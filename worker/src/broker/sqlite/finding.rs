//! Converts a found message into the type of the broker contract.

use chrono::DateTime;

use crate::broker::{FoundMessage, Position};
use crate::connection::sqlite::{FoundRow, RowPosition};

pub(super) fn found(FoundRow { queue, place, message }: FoundRow) -> FoundMessage {
    let position = match place {
        RowPosition::Ready { ahead } => Position::Ready { ahead },
        RowPosition::Delayed { until } => {
            Position::Delayed { until: DateTime::from_timestamp_millis(until).unwrap_or_default() }
        }
        RowPosition::Claimed => Position::Delivered,
    };
    FoundMessage { queue, position, message }
}
