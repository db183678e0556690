//! How many messages a worker reserves.

use serde::{Serialize, Serializer};

/// How many messages a worker reserves: those that are running, and those that wait for a slot.
///
/// ```
/// use mq_worker::{Config, Prefetch};
///
/// let mut config = Config::default();
/// assert_eq!(config.worker.prefetch, Prefetch::Slots);
/// config.worker.prefetch = Prefetch::Auto;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// One for each slot, so that every message goes to a worker that can run it at once.
    #[default]
    Slots,
    /// This many, at least 1. More than the slots saves round trips to the broker where tasks are short, and keeps messages
    /// from other workers where they are long.
    Fixed(u16),
    /// One for each slot while tasks are long, and more while they are short: about as many as the worker starts within
    /// 50 milliseconds.
    Auto,
}

impl Prefetch {
    /// The initial prefetch count of a worker with this many slots.
    pub(crate) fn at_start(self, slots: usize) -> u16 {
        match self {
            Self::Fixed(count) => count,
            Self::Slots | Self::Auto => u16::try_from(slots).unwrap_or(u16::MAX),
        }
    }

    /// For people: `8`, or `auto`.
    pub(crate) fn shown(self, slots: usize) -> String {
        match self {
            Self::Slots => slots.to_string(),
            Self::Fixed(count) => count.to_string(),
            Self::Auto => "auto".into(),
        }
    }
}

/// `null`, `8` or `"auto"`.
impl Serialize for Prefetch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Slots => serializer.serialize_none(),
            Self::Fixed(count) => serializer.serialize_u16(*count),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}
