//! The arguments of `control` and `events`.

use std::time::Duration;

use clap::Args;

use crate::app::config::value;

pub(in crate::cli) const CONTROL_HELP: &str = "\
Workers of mq-worker and of Celery answer. Arguments are written in their order or as NAME=VALUE; those of a command
that mq-worker does not know, such as one of your own in Python, as NAME=VALUE only. Without COMMAND, all that are known
are listed.

Exit code: 0 if every worker did it, 1 if one replied with an error or none replied.

Examples:
  mq-worker control pool_grow 5 --destination mail@host-1
  mq-worker control add_consumer email
  mq-worker control time_limit mail.send hard=30
  mq-worker control active --json";

pub(in crate::cli) const EVENTS_HELP: &str = "\
Workers always report that they are online, alive and offline. They report the calls that they run when they are started
with --events, or after --enable; programs report the calls that they send with `sent_events` in their settings. Celery's
workers are shown too.

Examples:
  mq-worker events --enable
  mq-worker events --json | jq 'select(.type == \"task-failed\")'";

#[derive(Args, Debug)]
pub(in crate::cli) struct ControlArguments {
    /// What to do: `ping`, `stats`, `pool_grow` …
    pub(in crate::cli) command: Option<String>,
    /// The arguments of the command
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(in crate::cli) words: Vec<String>,
    /// Only these workers, separated by commas [default: all]
    #[arg(short, long, value_name = "WORKER", value_delimiter = ',')]
    pub(in crate::cli) destination: Vec<String>,
    /// How long to wait for replies [default: 1s]
    #[arg(short, long, value_name = "DURATION", value_parser = value::positive_duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    /// Print JSON
    #[arg(short, long)]
    pub(in crate::cli) json: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct EventsArguments {
    /// Turn on events of calls in all workers that run now
    #[arg(long)]
    pub(in crate::cli) enable: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
