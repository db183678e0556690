//! The arguments of `jobs`, `explain` and `top`.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::value::RawValue;

use super::call::{Positional, json_array, json_object};
use crate::app::config::value;
use crate::history::{Cursor, JobState};
use crate::message::headers::parse_time;

pub(in crate::cli) const JOBS_HELP: &str = "\
The history is recorded by `mq-worker dashboard` while it runs, from the events of workers (--events) and of programs
that send calls (sent_events).

Examples:
  mq-worker jobs list --state failure,dead-lettered --task 'mail.*' --from 1h
  mq-worker jobs list --text ann@example.com
  mq-worker jobs show 0193a7c2-…
  mq-worker jobs retry 0193a7c2-… --with-args '[\"ann@example.org\"]'
  mq-worker jobs move 0193a7c2-… --queue slow";

pub(in crate::cli) const EXPLAIN_HELP: &str = "\
Asks the broker, the running workers, the result backend and the history.

Exit code: 0 if something knows the call, 1 if nothing does, 69 if the broker is unreachable.";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum JobsCommand {
    /// List calls, the newest first
    List(JobsListArguments),
    /// Show what became of a call: its attempts, arguments, result and error
    Show(JobShowArguments),
    /// Run a call again: from its dead letter, else as a new call with the same or other arguments
    Retry(JobRetryArguments),
    /// Move a waiting call to another queue
    Move(JobMoveArguments),
}

/// Where the history is.
#[derive(Args, Debug)]
pub(in crate::cli) struct HistoryArguments {
    /// The file of the history [env: MQ_HISTORY] [default: mq-worker-history.db in the cargo workspace]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) history: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct JobsListArguments {
    /// Only calls whose id begins with this
    #[arg(long, value_name = "PREFIX")]
    pub(in crate::cli) id: Option<String>,
    /// Only calls of tasks with this name; `*` and `?` match any characters
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) task: Option<String>,
    /// Only calls in these states, such as `failure,dead-lettered`
    #[arg(long, value_name = "STATES", value_delimiter = ',')]
    pub(in crate::cli) state: Vec<JobState>,
    /// Only calls in this queue
    #[arg(short, long, value_parser = value::queue)]
    pub(in crate::cli) queue: Option<String>,
    /// Only calls that this worker reported last
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) worker: Option<String>,
    /// Only calls with these words in their arguments or error
    #[arg(long, value_name = "WORDS")]
    pub(in crate::cli) text: Option<String>,
    /// Only calls since then: how long ago (`1h`) or a time (`2026-12-24T18:00:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = ago)]
    pub(in crate::cli) from: Option<DateTime<Utc>>,
    /// Only calls before then: how long ago (`1h`) or a time (`2026-12-24T18:00:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = ago)]
    pub(in crate::cli) to: Option<DateTime<Utc>>,
    /// How many to print, at most 1000
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(in crate::cli) limit: u16,
    /// The next page: the number that the page before ended with
    #[arg(long, value_name = "NUMBER")]
    pub(in crate::cli) after: Option<Cursor>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) history: HistoryArguments,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct JobShowArguments {
    /// The id of the call
    pub(in crate::cli) id: String,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) history: HistoryArguments,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct JobRetryArguments {
    /// The id of the call
    pub(in crate::cli) id: String,
    /// Other positional arguments: a JSON array
    #[arg(long, value_name = "JSON", value_parser = json_array, allow_hyphen_values = true)]
    pub(in crate::cli) with_args: Option<Positional>,
    /// Other named arguments: a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, allow_hyphen_values = true)]
    pub(in crate::cli) with_kwargs: Option<Box<RawValue>>,
    /// Another queue
    #[arg(short, long, value_parser = value::queue)]
    pub(in crate::cli) queue: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) history: HistoryArguments,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct JobMoveArguments {
    /// The id of the call
    pub(in crate::cli) id: String,
    /// The queue to move it to
    #[arg(short, long, value_parser = value::queue)]
    pub(in crate::cli) queue: String,
    /// The queue in which it waits [default: as the broker or the history says]
    #[arg(long, value_name = "QUEUE", value_parser = value::queue)]
    pub(in crate::cli) from: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) history: HistoryArguments,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ExplainArguments {
    /// The id of the call
    pub(in crate::cli) id: String,
    /// How long to wait for replies from workers [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = value::positive_duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) history: HistoryArguments,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct TopArguments {
    /// Refresh interval
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = value::positive_duration)]
    pub(in crate::cli) interval: Duration,
    /// Print once and exit
    #[arg(long)]
    pub(in crate::cli) once: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) history: HistoryArguments,
}

fn ago(text: &str) -> Result<DateTime<Utc>, String> {
    if let Some(time) = parse_time(text) {
        return Ok(time);
    }
    let problem = "expected how long ago (`1h`) or a time (`2026-12-24T18:00:00Z`)";
    let length = value::duration(text).map_err(|_| problem)?;
    let length = chrono::Duration::from_std(length).ok();
    length.and_then(|length| Utc::now().checked_sub_signed(length)).ok_or_else(|| problem.into())
}

#[cfg(test)]
mod tests {
    use super::ago;

    #[test]
    fn a_time_is_told_in_two_ways() {
        for good in ["1h", "0s", "2026-12-24T18:00:00Z"] {
            assert!(ago(good).is_ok(), "{good}");
        }
        for bad in ["", "yesterday", "-1h"] {
            assert!(ago(bad).is_err(), "{bad}");
        }
    }
}
