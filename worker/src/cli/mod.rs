//! The `mq-worker` command: one file per subcommand.

mod arguments;
mod banner;
mod beat;
mod bind;
mod bindings;
mod build;
mod call;
mod completions;
mod config;
mod control;
#[cfg(feature = "dashboard")]
mod dashboard;
#[cfg(feature = "dashboard")]
mod dashboard_arguments;
mod dead;
mod declare;
mod delete;
mod events;
mod exchanges;
mod exit;
#[cfg(feature = "dashboard")]
mod explain;
mod follow;
#[cfg(feature = "dashboard")]
mod jobs;
mod logging;
mod operate;
mod output;
mod pause;
mod purge;
mod queues;
mod result;
mod revoke;
mod schedules;
mod settings;
mod shim;
mod signals;
mod status;
mod stderr;
mod stop;
#[cfg(unix)]
mod streams;
mod tasks;
#[cfg(feature = "dashboard")]
mod top;
mod walking;
mod worker;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use arguments::{Arguments, CliCommand};
use exit::{Failure, Outcome};

use crate::app::config::value::{looks_like_an_address, shown};

/// Runs the `mq-worker` command with the tasks linked into this program: all that a `main` function needs.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     mq_worker::main()
/// }
/// ```
///
/// A binary with this `main` needs no `mq-worker` to be installed: `my-service --queues email,sms` is its worker,
/// `my-service queues` shows its queues. The tasks must be linked into the program: the linker leaves out those of a
/// library that is never mentioned, and `use my_library as _;` keeps them.
///
/// It creates the async runtime, so call it from an ordinary `main`; in an async one it fails with exit code 2.
#[must_use = "the exit code tells how the program ended"]
pub fn main() -> ExitCode {
    if tokio::runtime::Handle::try_current().is_ok() {
        let problem = "`mq_worker::main()` makes the async runtime itself: call it from `fn main()` without `async` and \
                       without `#[tokio::main]`";
        return exit::report(Failure::usage(problem));
    }
    match run(std::env::args_os().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(failure),
    }
}

fn run(line: Vec<OsString>) -> Outcome {
    let Arguments { command, worker, common } =
        arguments::parse(line.iter().cloned()).map_err(|error| answer(&error, &line))?;
    logging::start(&common)?;
    #[cfg(feature = "otel")]
    let _exporting = crate::traces::start()?;
    match command {
        None => worker::run(&worker, &common),
        Some(CliCommand::Tasks(arguments)) => tasks::run(&arguments, &common),
        Some(CliCommand::Build(arguments)) => build::run(&arguments),
        Some(CliCommand::Config(arguments)) => config::run(&arguments, &common),
        Some(CliCommand::Beat(arguments)) => beat::run(&arguments, &common),
        Some(CliCommand::Schedules(command)) => schedules::run(command, &common),
        Some(CliCommand::Queues(arguments)) => queues::run(arguments, &common),
        Some(CliCommand::Pause(arguments)) => pause::run(arguments, &common),
        Some(CliCommand::Resume(arguments)) => pause::undo(arguments, &common),
        Some(CliCommand::Purge(arguments)) => purge::run(arguments, &common),
        Some(CliCommand::Call(arguments)) => call::run(arguments, &common),
        Some(CliCommand::Result(arguments)) => result::run(arguments, &common),
        Some(CliCommand::Revoke(arguments)) => revoke::run(arguments, &common),
        #[cfg(feature = "dashboard")]
        Some(CliCommand::Dashboard(arguments)) => dashboard::run(arguments, &common),
        Some(CliCommand::Dead(command)) => dead::run(command, &common),
        #[cfg(feature = "dashboard")]
        Some(CliCommand::Jobs(command)) => jobs::run(command, &common),
        #[cfg(feature = "dashboard")]
        Some(CliCommand::Explain(arguments)) => explain::run(arguments, &common),
        #[cfg(feature = "dashboard")]
        Some(CliCommand::Top(arguments)) => top::run(arguments, &common),
        Some(CliCommand::Status(arguments)) => status::run(arguments, &common),
        Some(CliCommand::Stop(arguments)) => stop::run(arguments, &common),
        Some(CliCommand::Control(arguments)) => control::run(arguments, &common),
        Some(CliCommand::Events(arguments)) => events::run(arguments, &common),
        Some(CliCommand::Exchanges(arguments)) => exchanges::run(arguments, &common),
        Some(CliCommand::Bindings(arguments)) => bindings::run(arguments, &common),
        Some(CliCommand::Declare(command)) => declare::run(command, &common),
        Some(CliCommand::Bind(arguments)) => bind::run(arguments, &common),
        Some(CliCommand::Unbind(arguments)) => bind::undo(arguments, &common),
        Some(CliCommand::Delete(command)) => delete::run(command, &common),
        Some(CliCommand::Completions { shell }) => completions::run(shell),
        Some(CliCommand::Names { line }) => completions::names::run(&line, common),
    }
}

/// Help and version go to stdout, mistakes to stderr.
fn answer(error: &clap::Error, line: &[OsString]) -> Failure {
    let code = u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
    if line.iter().all(|argument| !looks_like_an_address(&argument.to_string_lossy())) {
        // If the stream is closed, the failure cannot be reported.
        let _ = error.print();
    } else {
        let _ = write!(std::io::stderr(), "{}", without_passwords(error.to_string(), line));
    }
    Failure::silent(code)
}

/// Hides the passwords of addresses in an error: clap shows a misplaced argument as it was written.
fn without_passwords(text: String, line: &[OsString]) -> String {
    line.iter().map(|argument| argument.to_string_lossy()).fold(text, |text, argument| {
        let value = if argument.starts_with('-') {
            argument.split_once('=').map_or("", |(_, value)| value)
        } else {
            &argument
        };
        if looks_like_an_address(value) { text.replace(value, &shown(value)) } else { text }
    })
}
