//! Reads the arguments of the process.

use clap::{Args, CommandFactory, FromArgMatches};

use super::{Arguments, WorkerArguments};

/// Reads the arguments of the process.
pub(in crate::cli) fn parse(
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

/// Words whose effect cannot be undone. They are suggested only for a typo of a single letter: `prune` must not lead to
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::arguments::CliCommand;

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
            let Some(CliCommand::Call(call)) = read(line).expect(line).command else { panic!("{line}") };
            assert_eq!(call.wait, expected, "{line}");
        }
    }

    #[test]
    fn no_mistake_leads_to_a_command_that_destroys() {
        for line in [
            "mq-worker prune a",
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
