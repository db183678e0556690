//! The arguments of `mq-worker dead`.

use clap::{Args, Subcommand};

use crate::app::config::value;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeadCommand {
    /// List dead letters
    List {
        #[command(flatten)]
        which: DeadArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show dead letters with their arguments and headers
    Show {
        #[command(flatten)]
        which: DeadArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send dead letters back to the queue they came from, with a new set of retries
    ///
    /// The dead letter of a unique task stays in place while another call of it waits or runs; then the exit code is 75.
    /// Expired calls stay in place too, unless selected with --expired or --id.
    Replay {
        #[command(flatten)]
        which: DeadArguments,
        /// Also send calls that expired before they were run
        #[arg(long)]
        expired: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Accepted for use in scripts; replaying never asks for confirmation
        #[arg(short, long)]
        yes: bool,
    },
    /// Drop dead letters permanently
    Drop {
        #[command(flatten)]
        which: DeadArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub(in crate::cli) struct DeadArguments {
    /// The queue that the dead letters came from, such as `email`
    #[arg(value_parser = value::queue)]
    pub(in crate::cli) queue: String,
    /// Only dead letters of this task
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) task: Option<String>,
    /// Only dead letters whose reason or last error contains this text, ignoring case
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) error: Option<String>,
    /// Only the dead letter with this id
    #[arg(long)]
    pub(in crate::cli) id: Option<String>,
    /// At most this many, oldest first
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::count)]
    pub(in crate::cli) limit: Option<u32>,
}
