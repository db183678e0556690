//! The arguments of `schedules` and `beat`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};

use serde_json::value::RawValue;

use super::PackageArguments;
use super::call::{Positional, json_array, json_object};
use super::pause::until;
use crate::app::config::value;
use crate::schedule::{CatchUp, Overlap};

pub(in crate::cli) const BEAT_HELP: &str = "\
Run as many as you like: one leads, and another takes over within five seconds if it dies, hangs or loses its connection.
Each due time is sent once. Workers do the same beside their work with --beat.";

pub(in crate::cli) const SCHEDULES_HELP: &str = "\
Schedules are declared on tasks (`#[task(cron = \"0 9 * * *\")]`), in mq-worker.toml (`[[schedules]]`), or added here. What
is added or edited here wins over the other two, until it is removed.

Examples:
  mq-worker schedules add nightly clean_up --cron '0 3 * * *' --tz Europe/Berlin
  mq-worker schedules add refresh-eu refresh --every 10m --args '[\"eu\"]' --overlap skip
  mq-worker schedules next nightly --count 3
  mq-worker schedules pause nightly --until 2h";

#[derive(Args, Debug)]
pub(in crate::cli) struct BeatArguments {
    #[command(flatten)]
    pub(in crate::cli) package: PackageArguments,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SchedulesCommand {
    /// List all schedules with their next and last calls
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one schedule
    Show {
        /// Its name
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the next due times of a schedule
    Next {
        /// Its name
        name: String,
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a schedule
    Add(AddArguments),
    /// Change a schedule; omitted options stay unchanged
    Edit(EditArguments),
    /// Send nothing until the schedule is resumed
    Pause {
        /// Its name
        name: String,
        /// When the pause ends by itself: a duration (`30m`) or a time (`2026-12-24T18:00:00Z`)
        #[arg(long, value_name = "WHEN", allow_hyphen_values = true, value_parser = until)]
        until: Option<DateTime<Utc>>,
    },
    /// End the pause of a schedule
    Resume {
        /// Its name
        name: String,
    },
    /// Send one call now, and print its id
    Run {
        /// Its name
        name: String,
    },
    /// Remove what was added or edited by hand
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Args, Debug)]
pub(in crate::cli) struct AddArguments {
    /// A name that no other schedule has
    pub(in crate::cli) name: String,
    /// The task to call
    pub(in crate::cli) task: String,
    #[command(flatten)]
    pub(in crate::cli) timing: TimingArguments,
    #[command(flatten)]
    pub(in crate::cli) call: ScheduledCallArguments,
    /// Replace a schedule that was added by hand
    #[arg(long)]
    pub(in crate::cli) replace: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct EditArguments {
    /// Its name
    pub(in crate::cli) name: String,
    /// The task to call
    #[arg(long)]
    pub(in crate::cli) task: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) timing: TimingArguments,
    #[command(flatten)]
    pub(in crate::cli) call: ScheduledCallArguments,
}

/// When it is due.
#[derive(Args, Debug)]
pub(in crate::cli) struct TimingArguments {
    /// A cron expression: minute, hour, day of the month, month, day of the week
    #[arg(long, value_name = "EXPRESSION", conflicts_with_all = ["every", "at"])]
    pub(in crate::cli) cron: Option<String>,
    /// The time zone of the cron expression [default: UTC]
    #[arg(long, value_name = "ZONE", conflicts_with_all = ["every", "at"])]
    pub(in crate::cli) tz: Option<String>,
    /// An interval, such as 10m
    #[arg(long, value_name = "DURATION", conflicts_with = "at", value_parser = value::positive_duration)]
    pub(in crate::cli) every: Option<Duration>,
    /// Once, at a time with its offset, such as 2027-01-31T12:00:00+01:00
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(in crate::cli) at: Option<DateTime<Utc>>,
}

/// What is sent, and how.
#[derive(Args, Debug)]
pub(in crate::cli) struct ScheduledCallArguments {
    /// Positional arguments, as a JSON array
    #[arg(long, value_name = "JSON", value_parser = json_array, allow_hyphen_values = true)]
    pub(in crate::cli) args: Option<Positional>,
    /// Arguments by name, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, allow_hyphen_values = true)]
    pub(in crate::cli) kwargs: Option<Box<RawValue>>,
    /// Your own headers, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, allow_hyphen_values = true)]
    pub(in crate::cli) headers: Option<Box<RawValue>>,
    /// The queue [default: the task's]
    #[arg(long, value_parser = value::queue)]
    pub(in crate::cli) queue: Option<String>,
    /// Do not run a call that has waited longer
    #[arg(long, value_name = "DURATION", value_parser = value::positive_duration)]
    pub(in crate::cli) expires: Option<Duration>,
    /// What happens while the previous call waits or runs [default: allow]
    #[arg(long)]
    pub(in crate::cli) overlap: Option<OverlapArgument>,
    /// What happens to due times that were missed [default: last]
    #[arg(long)]
    pub(in crate::cli) catch_up: Option<CatchUpArgument>,
    /// Delay each call by up to this long
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(in crate::cli) jitter: Option<Duration>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum OverlapArgument {
    Allow,
    Skip,
    Queue,
}

impl From<OverlapArgument> for Overlap {
    fn from(given: OverlapArgument) -> Self {
        match given {
            OverlapArgument::Allow => Self::Allow,
            OverlapArgument::Skip => Self::Skip,
            OverlapArgument::Queue => Self::Queue,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum CatchUpArgument {
    None,
    Last,
    All,
}

impl From<CatchUpArgument> for CatchUp {
    fn from(given: CatchUpArgument) -> Self {
        match given {
            CatchUpArgument::None => Self::None,
            CatchUpArgument::Last => Self::Last,
            CatchUpArgument::All => Self::All,
        }
    }
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    match DateTime::parse_from_rfc3339(text.trim()) {
        Ok(moment) if moment > Utc::now() => Ok(moment.with_timezone(&Utc)),
        Ok(_) => Err("this time is in the past".into()),
        Err(_) => Err("expected a time with its offset, such as 2027-01-31T12:00:00+01:00".into()),
    }
}
