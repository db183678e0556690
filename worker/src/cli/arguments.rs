//! What may be written on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::topology_arguments::{
    BindArguments, BindingsArguments, DeclareCommand, DeleteCommand, ExchangesArguments,
};
use crate::app::config::value;
use crate::error::Undecodable;

/// Runs the tasks of a crate, and looks after its queues.
///
/// Without a command it is the worker: it finds the tasks of the crate in this directory, builds them if need
/// be, takes messages from the queues and runs them until it is told to stop (Ctrl-C or SIGTERM; a second one
/// stops at once).
#[derive(Debug, Parser)]
#[command(name = "mq-worker", bin_name = "mq-worker", version, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) worker: WorkerArguments,
    #[command(flatten)]
    pub(super) common: CommonArguments,
}

const AFTER_HELP: &str = "\
Examples:
  mq-worker --queues email,sms             work on two queues, in the directory of the crate with the tasks
  mq-worker -q email -c 50 --release       fifty tasks at once, optimised
  mq-worker -b amqp://localhost queues     how full are the queues on RabbitMQ?
  mq-worker call send_sms --queue sms --args '[{\"phone\": \"+49…\"}]' --wait
  mq-worker dead list email                what failed for good, and why
  mq-worker build --out ./worker           one binary for deployment

Settings come from the flags, else from environment variables (MQ_BROKER_URL, MQ_QUEUES, …), else from
mq-worker.toml in this directory, else from defaults. stdout is data, stderr is for people.

Exit codes:
  0 done   1 what was asked for failed   2 usage or configuration   66 no tasks found
  69 broker or result backend not reachable   75 time is up, try later, or start it anew   77 access refused
  101 the crate does not compile   130, 143 stopped at once by a second Ctrl-C or SIGTERM";

/// What concerns a worker only.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Worker")]
pub(super) struct WorkerArguments {
    /// The queues to work on, with commas between them [default: those of all tasks]
    #[arg(short, long, value_delimiter = ',', value_parser = value::queue)]
    pub(super) queues: Vec<String>,
    /// How many tasks run at once [default: 10 for each processor]
    #[arg(short, long, value_name = "N", allow_hyphen_values = true, value_parser = value::concurrency)]
    pub(super) concurrency: Option<usize>,
    /// How many messages may be reserved [default: the concurrency]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::prefetch)]
    pub(super) prefetch: Option<u16>,
    /// How long running tasks may go on when the worker is told to stop [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(super) grace: Option<Duration>,
    /// The worker's name; %h is the machine's [default: mq-worker@%h]
    #[arg(short = 'n', long, value_name = "NAME", value_parser = value::hostname)]
    pub(super) hostname: Option<String>,
    /// Serve /livez and /readyz there, such as 0.0.0.0:9000 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = value::address)]
    pub(super) health: Option<SocketAddr>,
    #[command(flatten)]
    pub(super) package: PackageArguments,
}

/// Which crate has the tasks.
#[derive(Args, Debug, Default)]
pub(super) struct PackageArguments {
    /// The directory of the crate that has the tasks [default: this one, or the nearest above it]
    #[arg(long, value_name = "DIR")]
    pub(super) app: Option<PathBuf>,
    /// Build the tasks optimised
    #[arg(long)]
    pub(super) release: bool,
}

/// What every command takes.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct CommonArguments {
    // Addresses are texts here and are read later: clap would show a password in its errors.
    /// The broker's address: amqp://HOST, amqps://HOST or sqlite:PATH [env: MQ_BROKER_URL] [default:
    /// sqlite:mq-worker.db]
    #[arg(short, long, value_name = "URL", global = true)]
    pub(super) broker: Option<String>,
    /// Where results go: rpc, sqlite:PATH or none [env: MQ_RESULT_BACKEND] [default: with the broker]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) result_backend: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,lapin=debug [env:
    /// MQ_LOG_LEVEL, RUST_LOG] [default: info]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(super) log_level: Option<String>,
    /// How it is logged [env: MQ_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub(super) log_format: Option<LogFormat>,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the tasks of the crate
    Tasks(TasksArguments),
    /// Build the worker as one release binary, for deployment
    Build(BuildArguments),
    /// Show whether the broker is there, which workers are, and how much waits for them
    #[command(after_help = STATUS_HELP)]
    Status(StatusArguments),
    /// Ask workers to finish what they run, and wait until they are gone
    #[command(after_help = STOP_HELP)]
    Stop(StopArguments),
    /// Revoke calls: what waits is not run, what runs is told
    Revoke(RevokeArguments),
    /// Show how full the queues are
    Queues(QueuesArguments),
    /// Drop all messages that wait in a queue
    Purge(PurgeArguments),
    /// Send a call of a task, by its name
    #[command(after_help = CALL_HELP)]
    Call(CallArguments),
    /// Show what became of a call
    Result(ResultArguments),
    /// Look at dead letters (what failed for good), replay or drop them
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Show which exchanges there are
    Exchanges(ExchangesArguments),
    /// Show which queue gets which messages of which exchange
    Bindings(BindingsArguments),
    /// Make a queue or an exchange
    #[command(subcommand)]
    Declare(DeclareCommand),
    /// Let a queue get messages of an exchange
    #[command(after_help = BIND_HELP)]
    Bind(BindArguments),
    /// Take a binding away again
    Unbind(BindArguments),
    /// Delete a queue or an exchange
    #[command(subcommand)]
    Delete(DeleteCommand),
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

const STATUS_HELP: &str = "\
Exit code: 0 when the broker is there and a worker answers, 1 when no worker does, 69 when the broker cannot be
reached. Workers of Celery are shown too; those with `control = false` are not.";

const STOP_HELP: &str = "\
A worker that is told to stop takes no more messages, finishes what it runs within its grace time, and hands the
rest back. Workers of Celery stop too.

Examples:
  mq-worker stop mail@host-1
  mq-worker stop --all --timeout 5m";

const BIND_HELP: &str = "\
Examples:
  mq-worker bind orders stock 'order.*.paid'    a topic exchange
  mq-worker bind logs archive                   a fanout exchange needs no key";

const CALL_HELP: &str = "\
The call's id is printed; with --wait its result, as JSON.

Examples:
  mq-worker call add --args '[2, 3]' --wait
  mq-worker call send_sms --queue sms --kwargs '{\"user\": {\"phone\": \"+49…\"}}' --countdown 1h";

const COMPLETIONS_HELP: &str = "\
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
    /// The file to write, or a directory for it
    #[arg(short, long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// The directory of the crate that has the tasks [default: this one, or the nearest above it]
    #[arg(long, value_name = "DIR")]
    pub(super) app: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct StatusArguments {
    /// How long to wait for workers to answer [default: 1s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct StopArguments {
    /// Their names, as `status` shows them
    #[arg(value_name = "WORKER", conflicts_with = "all")]
    pub(super) workers: Vec<String>,
    /// All that answer
    #[arg(long)]
    pub(super) all: bool,
    /// How long to wait until they are gone [default: 60s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) timeout: Option<Duration>,
    /// Do not wait
    #[arg(long, conflicts_with = "timeout")]
    pub(super) no_wait: bool,
}

#[derive(Args, Debug)]
pub(super) struct RevokeArguments {
    /// The ids of the calls, as `call` and the log show them
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<String>,
    /// Stop what runs: an async task at its next await, an isolated one at once
    #[arg(long)]
    pub(super) terminate: bool,
}

#[derive(Args, Debug)]
pub(super) struct QueuesArguments {
    /// Only these queues
    #[arg(value_parser = value::queue)]
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
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Args, Debug)]
pub(super) struct CallArguments {
    /// The task's name
    pub(super) task: String,
    /// The positional arguments: a JSON array
    #[arg(long, value_name = "JSON", value_parser = json_array, default_value = "[]", allow_hyphen_values = true)]
    pub(super) args: Positional,
    /// The arguments by name: a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, default_value = "{}", allow_hyphen_values = true)]
    pub(super) kwargs: serde_json::Map<String, serde_json::Value>,
    /// The queue [default: what the routes say, else the default queue]
    #[arg(short, long, value_parser = value::queue)]
    pub(super) queue: Option<String>,
    /// Not to run before this long from now
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(super) countdown: Option<Duration>,
    /// Wait for the result and print it, at most this long if given
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) wait: Option<Option<Duration>>,
}

/// A JSON array; its own type, since clap takes a `Vec` for a repeated argument.
#[derive(Clone, Debug)]
pub(super) struct Positional(pub(super) Vec<serde_json::Value>);

#[derive(Args, Debug)]
pub(super) struct ResultArguments {
    /// The id that `call` printed, or that `.id()` gave
    pub(super) id: String,
    /// Wait until it is ready, at most this long if given
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) wait: Option<Option<Duration>>,
    /// Print all that is known, as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadCommand {
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
    /// Send dead letters back to the queue they came from, with their retries counted anew
    ///
    /// A unique task's letter stays while another call of it waits or runs; then the exit code is 75.
    Replay {
        #[command(flatten)]
        which: DeadArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Accepted for scripts; replaying does not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Drop dead letters for good
    Drop {
        #[command(flatten)]
        which: DeadArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub(super) struct DeadArguments {
    /// The queue whose dead letters are meant, such as `email`
    #[arg(value_parser = value::queue)]
    pub(super) queue: String,
    /// Only those of this task
    #[arg(long, value_name = "NAME")]
    pub(super) task: Option<String>,
    /// Only those whose reason or last error contains this text, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    pub(super) error: Option<String>,
    /// Only the one of this id
    #[arg(long)]
    pub(super) id: Option<String>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::count)]
    pub(super) limit: Option<u32>,
}

fn json_array(text: &str) -> Result<Positional, String> {
    serde_json::from_str(text).map(Positional).map_err(|error| {
        format!("expected a JSON array, such as '[1, \"two\"]' ({})", Undecodable::from(&error))
    })
}

fn json_object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|error| {
        format!("expected a JSON object, such as '{{\"name\": 1}}' ({})", Undecodable::from(&error))
    })
}

/// Reads the arguments of the process.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> clap::error::Result<Arguments> {
    let mut command = Arguments::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    if let Some(name) = matches.subcommand_name() {
        let worker = WorkerArguments::augment_args(clap::Command::new("worker"));
        let set = |argument: &&clap::Arg| {
            matches.value_source(argument.get_id().as_str()) == Some(clap::parser::ValueSource::CommandLine)
        };
        if let Some(flag) = worker.get_arguments().find(set).and_then(clap::Arg::get_long) {
            return Err(command.error(
                clap::error::ErrorKind::ArgumentConflict,
                format!("--{flag} before `{name}` is for the worker; what `{name}` takes comes after it"),
            ));
        }
    }
    Arguments::from_arg_matches(&matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments, String> {
        parse(line.split(' ').map(Into::into)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_command_is_the_worker() {
        let arguments = read("mq-worker --queues email,sms -c 5 --grace 5s -b sqlite:x").expect("a worker");
        assert!(arguments.command.is_none());
        assert_eq!(arguments.worker.queues, ["email", "sms"]);
        assert_eq!(arguments.worker.concurrency, Some(5));
        assert_eq!(arguments.worker.grace, Some(Duration::from_secs(5)));
        assert_eq!(arguments.common.broker.as_deref(), Some("sqlite:x"));
    }

    #[test]
    fn a_wait_may_have_a_limit() {
        for (line, expected) in [
            ("mq-worker call add", None),
            ("mq-worker call add --wait", Some(None)),
            ("mq-worker call add --wait 5s", Some(Some(Duration::from_secs(5)))),
        ] {
            let Some(Command::Call(call)) = read(line).expect(line).command else { panic!("{line}") };
            assert_eq!(call.wait, expected, "{line}");
        }
    }

    #[test]
    fn mistakes_are_told_with_what_would_be_right() {
        for (line, expected) in [
            ("mq-worker --queues a,,b", "it is empty"),
            ("mq-worker --queues ", "it is empty"),
            ("mq-worker --concurrency 0", "expected a whole number from 1 to 65535"),
            ("mq-worker --grace 5", "expected a duration with its unit"),
            ("mq-worker --log-format xml", "[possible values: text, json]"),
            ("mq-worker call add --args {}", "expected a JSON array"),
            ("mq-worker call add --kwargs []", "expected a JSON object"),
            ("mq-worker --queues a tasks", "--queues before `tasks` is for the worker"),
            ("mq-worker --quues a", "--queues"),
            ("mq-worker purgee a", "purge"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
