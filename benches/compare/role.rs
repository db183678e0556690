//! The measurement that a child process runs.

use std::path::PathBuf;

use clap::Subcommand;

use crate::{Failure, framework, lapin_client, rusqlite_client};

/// One measurement. `at` is the address of a broker, or a file.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// Declares the queue, and empties it.
    Prepare { at: String },
    /// Raw lapin, with so many confirms outstanding.
    RawEnqueue { at: String, tasks: u64, window: usize },
    /// Raw lapin, acknowledging many deliveries with one frame.
    RawDrain { at: String, tasks: u64 },
    /// Raw lapin, from publish to delivery.
    RawLatency { at: String, tasks: u64 },
    /// Raw rusqlite, in transactions of a hundred.
    RusqliteEnqueue { at: PathBuf, tasks: u64 },
    /// So many callers, each awaiting its own `.delay()`.
    Enqueue { at: String, tasks: u64, callers: u64 },
    /// The broker alone: taken and acked.
    BrokerDrain { at: String, tasks: u64 },
    /// A worker.
    Drain { at: String, tasks: u64 },
    /// From `.delay()` to the start of the task.
    Latency { at: String, tasks: u64 },
}

impl Role {
    #[expect(clippy::print_stdout, reason = "the figures are what the process is for")]
    pub(crate) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let figures = runtime.block_on(async {
            match self {
                Self::Prepare { at } => framework::prepare(&at).await,
                Self::RawEnqueue { at, tasks, window } => lapin_client::enqueue(&at, tasks, window).await,
                Self::RawDrain { at, tasks } => lapin_client::drain(&at, tasks).await,
                Self::RawLatency { at, tasks } => lapin_client::latency(&at, tasks).await,
                Self::RusqliteEnqueue { at, tasks } => rusqlite_client::enqueue(&at, tasks),
                Self::Enqueue { at, tasks, callers } => framework::enqueue(&at, tasks, callers).await,
                Self::BrokerDrain { at, tasks } => framework::drain_broker(&at, tasks).await,
                Self::Drain { at, tasks } => framework::drain(&at, tasks).await,
                Self::Latency { at, tasks } => framework::latency(&at, tasks).await,
            }
        })?;
        println!("{}", serde_json::to_string(&figures)?);
        Ok(())
    }
}
