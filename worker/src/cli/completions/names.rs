//! `mq-worker names LINE`, for shells: prints the names that may complete a command line, one per line.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::CommandFactory;
use serde_json::{Map, Value};

use super::line::{Asked, Kind, asked};
use crate::admin::inventory;
use crate::app::App;
use crate::cli::arguments::{Arguments, CommonArguments};
use crate::cli::exit::Outcome;
use crate::cli::{operate, output};
use crate::control::Control;
use crate::error::Result;

/// How long one completion may take: the user has pressed a key and is waiting.
const TIME_LIMIT: Duration = Duration::from_millis(1500);
/// How long workers have to reply.
const REPLIES: Duration = Duration::from_millis(300);

/// Prints the matching names. Without a broker there are none, and a shell has no use for the reason.
pub(in crate::cli) fn run(line: &str, common: CommonArguments) -> Outcome {
    let mut command = Arguments::command();
    command.build();
    let Some(Asked { kind, before, beginning, broker }) = asked(&command, line) else { return Ok(()) };
    let common = CommonArguments { broker: broker.or(common.broker), ..common };
    let mut found = BTreeSet::new();
    let known = &mut found;
    let _ = operate::run(&common, |app| async move {
        if let Ok(Ok(names)) = tokio::time::timeout(TIME_LIMIT, names(&app, kind)).await {
            known.extend(names);
        }
        Ok(())
    });
    let fits = |name: &&String| name.starts_with(&beginning) && is_plain(name);
    let lines: Vec<String> = found.iter().filter(fits).map(|name| format!("{before}{name}")).collect();
    if lines.is_empty() { Ok(()) } else { output::data(lines.join("\n")) }
}

/// Returns whether a shell can insert a name as it is. Names with a special meaning to shells are left out.
fn is_plain(name: &str) -> bool {
    let is_plain = |character: char| character.is_alphanumeric() || "._-@%+:/".contains(character);
    name.chars().all(is_plain) && !name.starts_with('-') && !name.is_empty()
}

async fn names(app: &App, kind: Kind) -> Result<Vec<String>> {
    let control = Control::new(app.broker().await?).timeout(REPLIES);
    match kind {
        Kind::Worker => Ok(control.workers().await?.into_iter().map(|worker| worker.name).collect()),
        Kind::Queue => {
            // RabbitMQ does not list its queues: workers name those that they consume from.
            let workers = control.workers().await.unwrap_or_default();
            let mut names: Vec<String> = workers.into_iter().flat_map(|worker| worker.queues).collect();
            if let Ok(found) = inventory::queues(app, []).await {
                names.extend(found.queues.found.into_iter().map(|queue| queue.info.name));
            }
            Ok(names)
        }
        Kind::Task => {
            let mut names: Vec<String> = app.registry().iter().map(|task| task.name.to_owned()).collect();
            let replies = control.ask("registered", Map::new()).await.unwrap_or_default();
            // `name` or `name [queue=email]`.
            let name = |line: &Value| Some(line.as_str()?.split(" [").next()?.to_owned());
            let lines = replies.iter().filter_map(|reply| reply.value.as_array()).flatten();
            names.extend(lines.filter_map(name));
            Ok(names)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn names_that_a_shell_would_run_are_left_out() {
        for good in ["email", "email.dead", "mail@host-1", "app.tasks.add", "größe"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "$(reboot)", "a b", "a;b", "`x`", "a\nb", "--yes", "a,b", "a'b"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
