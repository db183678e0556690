//! Where a schedule is defined.

use serde::{Deserialize, Serialize};

/// Where a schedule is defined. If several origins define the same name, the last of these variants wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `#[task(cron = "..")]` or `#[task(every = "..")]`.
    Code,
    /// `[[schedules]]` in `mq-worker.toml`.
    File,
    /// [`put`](super::Schedules::put) or `mq-worker schedules`.
    Hand,
}

impl Origin {
    /// The name in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::File => "file",
            Self::Hand => "hand",
        }
    }
}
