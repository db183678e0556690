//! What happens when the previous run has not ended, and when a due time was missed.

use serde::{Deserialize, Serialize};

/// What happens when a schedule is due while its previous call waits or runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// The call is sent anyway.
    #[default]
    Allow,
    /// The due time is skipped.
    Skip,
    /// The call is sent when the previous one has ended. One due time waits; those that follow meanwhile are skipped.
    Queue,
}

/// What happens to due times that passed while no scheduler ran. One that is late by less than half a minute was not
/// missed: it is always sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// They are skipped.
    None,
    /// Only the last one is sent.
    #[default]
    Last,
    /// All are sent, up to the last thousand.
    All,
}

impl Overlap {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }
}

impl CatchUp {
    /// How many missed due times are sent at most.
    pub(super) fn at_most(self) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => 1000,
        }
    }

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
            Self::All => "all",
        }
    }
}
