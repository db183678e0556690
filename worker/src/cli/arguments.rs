//! The command line of `mq-worker`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde_json::value::RawValue;

use super::topology_arguments::{
    BindArguments, BindingsArguments, DeclareCommand, DeleteCommand, ExchangesArguments,
};
use crate::app::config::value;
use crate::error::Undecodable;

/// Run the tasks of a crate and manage its queues
///
/// Without a command, mq-worker runs a worker: it finds the tasks of the crate in the current directory, builds
/// them if necessary, and runs messages from the queues until it is stopped. Ctrl-C or SIGTERM lets running tasks
/// finish; a second one stops at once.
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
    /// How many messages to reserve [default: the concurrency]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::prefetch)]
    pub(super) prefetch: Option<u16>,
    /// How long running tasks may continue after the worker is asked to stop [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(super) grace: Option<Duration>,
    /// The worker's name; %h is the host name [default: the package's or program's name, followed by @%h]
    #[arg(short = 'n', long, value_name = "NAME", value_parser = value::hostname)]
    pub(super) hostname: Option<String>,
    /// Serve the health checks /livez and /readyz on this address, such as 0.0.0.0:9000 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = value::address)]
    pub(super) health: Option<SocketAddr>,
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
pub(super) enum Command {
    /// List the tasks of the crate
    Tasks(TasksArguments),
    /// Build the worker as a single release binary for deployment
    Build(BuildArguments),
    /// Show the settings in effect, and where each comes from
    Config(ConfigArguments),
    /// Show broker health, running workers and queue lengths
    #[command(after_help = STATUS_HELP)]
    Status(StatusArguments),
    /// Ask workers to finish their running tasks and exit
    #[command(after_help = STOP_HELP)]
    Stop(StopArguments),
    /// Revoke calls: skip those that wait, cancel those that run
    Revoke(RevokeArguments),
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
    /// The file to write, or its directory
    #[arg(short, long, value_name = "FILE")]
    pub(super) out: PathBuf,
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
    /// Do not ask for confirmation
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
    /// The named arguments: a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, default_value = "{}", allow_hyphen_values = true)]
    pub(super) kwargs: Box<RawValue>,
    /// The queue [default: from the routes, the crate in this directory or the workers, else the default queue]
    #[arg(short, long, value_parser = value::queue)]
    pub(super) queue: Option<String>,
    /// Delay the call by this long
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(super) countdown: Option<Duration>,
    /// Wait for the result, with a progress bar on a terminal, and print it, at most this long [default: 60s]; exit code 75 on
    /// timeout
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) wait: Option<Option<Duration>>,
    #[command(flatten)]
    pub(super) package: PackageArguments,
}

/// A JSON array as it was typed: a type of its own, to tell it from an object.
#[derive(Clone, Debug)]
pub(super) struct Positional(pub(super) Box<RawValue>);

#[derive(Args, Debug)]
pub(super) struct ResultArguments {
    /// The id that `call` printed or `.id()` returned
    pub(super) id: String,
    /// Wait until the result is ready, at most this long [default: 60s]; exit code 75 on timeout
    #[arg(short, long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) wait: Option<Option<Duration>>,
    /// Show how far the call is until the result is ready, without a limit unless --wait sets one
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Print everything that is known about the call, as JSON
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
pub(super) struct DeadArguments {
    /// The queue that the dead letters came from, such as `email`
    #[arg(value_parser = value::queue)]
    pub(super) queue: String,
    /// Only dead letters of this task
    #[arg(long, value_name = "NAME")]
    pub(super) task: Option<String>,
    /// Only dead letters whose reason or last error contains this text, ignoring case
    #[arg(long, value_name = "TEXT")]
    pub(super) error: Option<String>,
    /// Only the dead letter with this id
    #[arg(long)]
    pub(super) id: Option<String>,
    /// At most this many, oldest first
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::count)]
    pub(super) limit: Option<u32>,
}

fn json_array(text: &str) -> Result<Positional, String> {
    json::<Vec<serde_json::Value>>(text).map(Positional).map_err(|error| {
        format!("expected a JSON array, such as '[1, \"two\"]' ({})", Undecodable::from(&error))
    })
}

fn json_object(text: &str) -> Result<Box<RawValue>, String> {
    json::<serde_json::Map<String, serde_json::Value>>(text).map_err(|error| {
        format!("expected a JSON object, such as '{{\"name\": 1}}' ({})", Undecodable::from(&error))
    })
}

/// The text unchanged, if it parses as `T`: a `Value` in between would round large integers.
fn json<T: serde::de::DeserializeOwned>(text: &str) -> serde_json::Result<Box<RawValue>> {
    serde_json::from_str::<T>(text)?;
    serde_json::from_str(text)
}

/// Words whose effect cannot be undone. They are suggested only for a typo of a single letter: `pause` must not lead to
/// `purge`.
const DESTRUCTIVE: [&str; 9] =
    ["purge", "delete", "drop", "stop", "revoke", "unbind", "--terminate", "--force", "--yes"];

/// Removes suggestions that would do harm if followed blindly.
fn without_traps(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    for (given, suggested) in [
        (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
    ] {
        let Some(ContextValue::String(given)) = error.get(given).cloned() else { continue };
        let is_trap = |word: &String| {
            DESTRUCTIVE.contains(&word.as_str()) && strsim::damerau_levenshtein(&given, word) > 1
        };
        match error.get(suggested).cloned() {
            Some(ContextValue::String(word)) if is_trap(&word) => drop(error.remove(suggested)),
            Some(ContextValue::Strings(words)) => {
                let words: Vec<String> = words.into_iter().filter(|word| !is_trap(word)).collect();
                match words.is_empty() {
                    true => drop(error.remove(suggested)),
                    false => drop(error.insert(suggested, ContextValue::Strings(words))),
                }
            }
            _ => {}
        }
    }
    error
}

/// Reads the arguments of the process.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> clap::error::Result<Arguments> {
    let mut command = Arguments::command();
    let matches = command.try_get_matches_from_mut(arguments).map_err(without_traps)?;
    if let Some(name) = matches.subcommand_name() {
        let worker = WorkerArguments::augment_args(clap::Command::new("worker"));
        let set = |argument: &&clap::Arg| {
            matches.value_source(argument.get_id().as_str()) == Some(clap::parser::ValueSource::CommandLine)
        };
        if let Some(flag) = worker.get_arguments().find(set).and_then(clap::Arg::get_long) {
            return Err(command.error(
                clap::error::ErrorKind::ArgumentConflict,
                format!(
                    "--{flag} before `{name}` is an option of the worker; put options of `{name}` after it"
                ),
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
    fn no_mistake_leads_to_a_command_that_destroys() {
        for line in [
            "mq-worker pause a",
            "mq-worker pure a",
            "mq-worker start a",
            "mq-worker step a",
            "mq-worker invoke a",
            "mq-worker bind-all a",
            "mq-worker dead crop a",
            "mq-worker dead group a",
            "mq-worker deplete queue a",
            "mq-worker revoke a --determinate",
            "mq-worker delete queue a --for",
        ] {
            let error = read(line).expect_err(line);
            let given = line.split(' ').collect::<Vec<_>>();
            for word in DESTRUCTIVE {
                let quoted = format!("'{word}'");
                let is_near = given.iter().any(|given| strsim::damerau_levenshtein(given, word) <= 1);
                assert!(is_near || !error.contains(&quoted), "{line}: {error}");
            }
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
            ("mq-worker --queues a tasks", "--queues before `tasks` is an option of the worker"),
            ("mq-worker --quues a", "--queues"),
            ("mq-worker purgee a", "purge"),
            ("mq-worker queue", "queues"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
