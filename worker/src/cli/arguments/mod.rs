//! The command line of `mq-worker`.

mod call;
mod control;
mod dead;
#[cfg(feature = "dashboard")]
mod jobs;
mod parse;
mod pause;
mod schedules;
mod topology;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(super) use self::call::CallArguments;
use self::control::{CONTROL_HELP, EVENTS_HELP};
pub(super) use self::control::{ControlArguments, EventsArguments};
pub(super) use self::dead::{DeadArguments, DeadCommand};
#[cfg(feature = "dashboard")]
use self::jobs::{EXPLAIN_HELP, JOBS_HELP};
#[cfg(feature = "dashboard")]
pub(super) use self::jobs::{
    ExplainArguments, HistoryArguments, JobMoveArguments, JobRetryArguments, JobShowArguments, JobsCommand,
    JobsListArguments, TopArguments,
};
pub(super) use self::parse::parse;
use self::pause::PAUSE_HELP;
pub(super) use self::pause::{PauseArguments, ResumeArguments};
pub(super) use self::schedules::{
    AddArguments, BeatArguments, EditArguments, ScheduledCallArguments, SchedulesCommand, TimingArguments,
};
use self::schedules::{BEAT_HELP, SCHEDULES_HELP};
pub(super) use self::topology::{
    BindArguments, BindingsArguments, DeclareCommand, DeclareExchangeArguments, DeclareQueueArguments,
    DeleteCommand, DeleteExchangeArguments, DeleteQueueArguments, ExchangesArguments,
};
use crate::app::Prefetch;
use crate::app::config::value;

/// Run the tasks of a crate and manage its queues
///
/// Without a command, mq-worker runs a worker: it finds the tasks of the crate in the current directory, builds
/// them if necessary, and runs messages from the queues until it is stopped. Ctrl-C or SIGTERM lets running tasks
/// finish; a second one stops at once.
#[derive(Debug, Parser)]
#[command(name = "mq-worker", bin_name = "mq-worker", version, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<CliCommand>,
    #[command(flatten)]
    pub(super) worker: WorkerArguments,
    #[command(flatten)]
    pub(super) common: CommonArguments,
}

const AFTER_HELP: &str = "\
Examples:
  mq-worker --queues email,sms             run the tasks of two queues, in the directory of their crate
  mq-worker -q email -c 50 --release       run 50 tasks at once, in release mode
  mq-worker -b amqp://localhost queues     show queue lengths on RabbitMQ
  mq-worker call send_sms --queue sms --args '[{\"phone\": \"+49…\"}]' --wait
  mq-worker dead list email                list the dead letters of a queue, with their reasons
  mq-worker build --out ./worker           build one binary for deployment

Settings are read from flags, then environment variables (MQ_BROKER_URL, MQ_QUEUES, …), then the nearest
mq-worker.toml in this directory or above, then defaults; the first one wins. `mq-worker config` shows them.
Data goes to stdout, messages for people go to stderr.

Exit codes:
  0 success   1 the request failed   2 usage or configuration error   66 no tasks found
  69 broker or result backend unreachable   75 timed out, try later or restart   77 access refused
  101 the crate does not compile   130, 143 stopped at once by a second Ctrl-C or SIGTERM";

/// Options of the worker alone.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Worker")]
pub(super) struct WorkerArguments {
    /// The queues to consume from, separated by commas [default: those of all tasks]
    #[arg(short, long, value_delimiter = ',', value_parser = value::queue)]
    pub(super) queues: Vec<String>,
    /// How many tasks run at once [default: 10 per CPU]
    #[arg(short, long, value_name = "N", allow_hyphen_values = true, value_parser = value::concurrency)]
    pub(super) concurrency: Option<usize>,
    /// How many messages to reserve, or `auto`: the concurrency while tasks are long, more while they are short [default:
    /// the concurrency]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::prefetch)]
    pub(super) prefetch: Option<Prefetch>,
    /// How long running tasks may continue after the worker is asked to stop [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(super) grace: Option<Duration>,
    /// The worker's name; %h is the host name [default: the package's or program's name, followed by @%h]
    #[arg(short = 'n', long, value_name = "NAME", value_parser = value::hostname)]
    pub(super) hostname: Option<String>,
    /// Run a scheduler too: of all that run, one sends the calls of schedules
    #[arg(long)]
    pub(super) beat: bool,
    /// Emit events of every call that the worker runs, for Flower and `mq-worker events`
    #[arg(short = 'E', long)]
    pub(super) events: bool,
    /// Serve the health checks /livez and /readyz on this address, such as 0.0.0.0:9000 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = value::address)]
    pub(super) health: Option<SocketAddr>,
    /// Serve the management page on this address, such as 127.0.0.1:5555 [default: nowhere]
    #[cfg(feature = "dashboard")]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = value::address)]
    pub(super) dashboard: Option<SocketAddr>,
    #[command(flatten)]
    pub(super) package: PackageArguments,
}

/// The crate that has the tasks.
#[derive(Args, Debug, Default)]
pub(super) struct PackageArguments {
    /// The directory of the crate that has the tasks [default: this one, or the nearest above it]
    #[arg(long, value_name = "DIR")]
    pub(super) app: Option<PathBuf>,
    /// Build the tasks in release mode
    #[arg(long)]
    pub(super) release: bool,
}

/// Options of every command.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Global")]
pub(super) struct CommonArguments {
    // Addresses are parsed later: clap would show a password in its errors.
    /// The broker's address: amqp://HOST, amqps://HOST or sqlite:PATH [env: MQ_BROKER_URL] [default:
    /// sqlite:mq-worker.db in the cargo workspace]
    #[arg(short, long, value_name = "URL", global = true)]
    pub(super) broker: Option<String>,
    /// Where results are stored: rpc, sqlite:PATH or none [env: MQ_RESULT_BACKEND] [default: with the broker]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) result_backend: Option<String>,
    /// The log level: error, warn, info, debug, trace, or a filter such as info,lapin=debug [env:
    /// MQ_LOG_LEVEL, RUST_LOG] [default: info]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(super) log_level: Option<String>,
    /// The log format [env: MQ_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub(super) log_format: Option<LogFormat>,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for machines.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// List the tasks of the crate
    Tasks(TasksArguments),
    /// Build the worker as a single binary for deployment
    Build(BuildArguments),
    /// Show the settings in effect, and where each comes from
    Config(ConfigArguments),
    /// Show broker health, running workers and queue lengths
    #[command(after_help = STATUS_HELP)]
    Status(StatusArguments),
    /// Ask workers to finish their running tasks and exit
    #[command(after_help = STOP_HELP)]
    Stop(StopArguments),
    /// Inspect or change running workers: slots, queues, limits, events
    #[command(after_help = CONTROL_HELP)]
    Control(ControlArguments),
    /// Show events of workers and calls, live
    #[command(after_help = EVENTS_HELP)]
    Events(EventsArguments),
    /// Revoke calls: skip those that wait, cancel those that run
    Revoke(RevokeArguments),
    /// Pause queues or tasks: workers leave their messages in the broker
    #[command(after_help = PAUSE_HELP)]
    Pause(PauseArguments),
    /// End the pause of queues or tasks
    Resume(ResumeArguments),
    /// Run a scheduler, which sends the calls of schedules when they are due
    #[command(after_help = BEAT_HELP)]
    Beat(BeatArguments),
    /// List, add, change and pause schedules
    #[command(subcommand, after_help = SCHEDULES_HELP)]
    Schedules(SchedulesCommand),
    /// Show queue lengths
    Queues(QueuesArguments),
    /// Drop all waiting messages of a queue
    Purge(PurgeArguments),
    /// Send a call of a task
    #[command(after_help = CALL_HELP)]
    Call(CallArguments),
    /// Show the result of a call
    Result(ResultArguments),
    /// List, replay or drop dead letters (messages that will not be run again)
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Serve the management page, and add its users
    #[cfg(feature = "dashboard")]
    #[command(after_help = super::dashboard_arguments::HELP)]
    Dashboard(super::dashboard_arguments::DashboardArguments),
    /// List, show, retry or move calls, from the history
    #[cfg(feature = "dashboard")]
    #[command(subcommand, after_help = JOBS_HELP)]
    Jobs(JobsCommand),
    /// Explain why a call is not running, or how it ended
    #[cfg(feature = "dashboard")]
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ExplainArguments),
    /// Watch queues, workers and running tasks
    #[cfg(feature = "dashboard")]
    Top(TopArguments),
    /// List exchanges
    Exchanges(ExchangesArguments),
    /// List bindings between exchanges and queues
    Bindings(BindingsArguments),
    /// Declare a queue or an exchange
    #[command(subcommand)]
    Declare(DeclareCommand),
    /// Bind a queue to an exchange
    #[command(after_help = BIND_HELP)]
    Bind(BindArguments),
    /// Remove a binding
    Unbind(BindArguments),
    /// Delete a queue or an exchange
    #[command(subcommand)]
    Delete(DeleteCommand),
    /// Print shell completions
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the names that may end a command line: what the scripts of `completions` ask for
    #[command(hide = true)]
    Names {
        /// The line up to the cursor
        #[arg(allow_hyphen_values = true)]
        line: String,
    },
}

const STATUS_HELP: &str = "\
Exit code: 0 if the broker is reachable and a worker replies, 1 if no worker replies, 69 if the broker is
unreachable. Celery's workers are shown too; workers with `control = false` are not.";

const STOP_HELP: &str = "\
A stopping worker takes no new messages, finishes its running tasks within its grace time, and requeues the
rest. Celery's workers stop too.

Examples:
  mq-worker stop mail@host-1
  mq-worker stop --all --timeout 5m";

const BIND_HELP: &str = "\
Examples:
  mq-worker bind orders stock 'order.*.paid'    a topic exchange
  mq-worker bind logs archive                   a fanout exchange needs no key";

const CALL_HELP: &str = "\
Prints the call's id, or with --wait its result as JSON. Without --queue, the queue comes from the routes in
mq-worker.toml, from the crate in this directory (if its worker has been built), or from the workers that know the
task. With --wait and without --queue, nothing is sent to a queue that has no worker.

Exit code: 0 if the call was sent or has succeeded, 1 if it failed, was revoked or was not sent, 75 if the result did
not arrive in time; the call continues.

Examples:
  mq-worker call add --args '[2, 3]' --wait
  mq-worker call send_sms --queue sms --kwargs '{\"user\": {\"phone\": \"+49…\"}}' --countdown 1h";

const COMPLETIONS_HELP: &str = "\
In bash, zsh and fish they also know the queues and workers of the broker, and the tasks of its workers.

Examples:
  mq-worker completions bash > ~/.local/share/bash-completion/completions/mq-worker
  mq-worker completions fish > ~/.config/fish/completions/mq-worker.fish
  mq-worker completions zsh > \"${fpath[1]}/_mq-worker\"";

#[derive(Args, Debug)]
pub(super) struct TasksArguments {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) package: PackageArguments,
}

#[derive(Args, Debug)]
pub(super) struct BuildArguments {
    /// The output file or directory
    #[arg(short, long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// The cargo profile to build with
    #[arg(long, value_name = "NAME", default_value = "release")]
    pub(super) profile: String,
    /// The directory of the crate that has the tasks [default: this one, or the nearest above it]
    #[arg(long, value_name = "DIR")]
    pub(super) app: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct ConfigArguments {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// The directory of the crate that has the tasks [default: this one]
    #[arg(long, value_name = "DIR")]
    pub(super) app: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct StatusArguments {
    /// How long to wait for replies from workers [default: 1s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct StopArguments {
    /// The names of the workers, as shown by `status`
    #[arg(value_name = "WORKER", conflicts_with = "all")]
    pub(super) workers: Vec<String>,
    /// Stop all workers that reply
    #[arg(long)]
    pub(super) all: bool,
    /// How long to wait for the workers to exit [default: 60s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) timeout: Option<Duration>,
    /// Do not wait for the workers to exit
    #[arg(long, conflicts_with = "timeout")]
    pub(super) no_wait: bool,
}

#[derive(Args, Debug)]
pub(super) struct RevokeArguments {
    /// The ids of the calls, as shown by `call` and in the log
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<String>,
    /// Stop running calls: an async task at its next await, an isolated task at once
    #[arg(long)]
    pub(super) terminate: bool,
}

#[derive(Args, Debug)]
pub(super) struct QueuesArguments {
    /// Only these queues
    #[arg(value_name = "QUEUE", value_parser = value::queue)]
    pub(super) names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct PurgeArguments {
    /// The queue
    #[arg(value_parser = value::queue)]
    pub(super) queue: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Args, Debug)]
pub(super) struct ResultArguments {
    /// The id that `call` printed or `.id()` returned
    pub(super) id: String,
    /// Wait until the result is ready, at most this long [default: 60s]; exit code 75 on timeout
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) wait: Option<Option<Duration>>,
    /// Show progress until the result is ready; no time limit unless --wait sets one
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Print everything that is known about the call, as JSON
    #[arg(long)]
    pub(super) json: bool,
}
