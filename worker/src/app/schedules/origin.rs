//! Who says that there is a schedule.

use serde::{Deserialize, Serialize};

/// Where a schedule comes from. If several say something about one name, the last of these wins.
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
    /// As it is written in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::File => "file",
            Self::Hand => "hand",
        }
    }
}
