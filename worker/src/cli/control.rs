//! `mq-worker control COMMAND …`: sends a remote control command to workers.

use std::time::Duration;

use serde_json::{Map, Value};

use super::arguments::{CommonArguments, ControlArguments};
use super::exit::{FAILED, Failure, Outcome};
use super::{operate, output};
use crate::app::App;
use crate::control::{Control, Reply, methods};

pub(super) fn run(arguments: ControlArguments, common: &CommonArguments) -> Outcome {
    let Some(command) = arguments.command.clone() else { return list() };
    let words = methods::arguments(&command, &arguments.words)
        .map_err(|error| Failure::usage(format!("cannot read the arguments of `{command}`: {error}")))?;
    operate::run(common, |app| async move { ask(&app, &command, words, &arguments).await })
}

fn list() -> Outcome {
    let rows = methods::METHODS.iter().map(|method| vec![method.name.to_owned(), method.about.to_owned()]);
    output::table(&["command", "what it does"], rows.collect(), 2)
}

async fn ask(app: &App, command: &str, words: Map<String, Value>, arguments: &ControlArguments) -> Outcome {
    let url = &app.config().broker_url;
    let control = Control::new(app.broker().await?);
    let control = control.timeout(arguments.timeout.unwrap_or(Duration::from_secs(1)));
    let destination = &arguments.destination;
    let control = if destination.is_empty() { control } else { control.to(destination) };
    if methods::find(command).is_some_and(|method| !method.is_answered) {
        control.tell(command, words).await?;
        output::note(format!("sent; no worker replies to `{command}`"));
        return Ok(());
    }
    let mut replies = control.ask(command, words).await?;
    replies.sort_by(|a, b| a.node.cmp(&b.node));
    if arguments.json {
        output::json(&by_worker(&replies))?;
    } else {
        replies.iter().try_for_each(print)?;
    }
    let silent: Vec<&str> = destination
        .iter()
        .filter(|name| replies.iter().all(|reply| reply.node != **name))
        .map(String::as_str)
        .collect();
    if !silent.is_empty() {
        return Err(Failure::failed(format!("no reply from {} on {url}", silent.join(", "))));
    }
    if replies.is_empty() {
        return Err(Failure::failed(format!("no worker replied on {url}")));
    }
    if replies.iter().any(|reply| reply.error().is_some()) {
        return Err(Failure::silent(FAILED));
    }
    Ok(())
}

/// Groups the replies by worker, as `celery inspect --json` does; workers that share a name get a list.
fn by_worker(replies: &[Reply]) -> Map<String, Value> {
    let mut workers = Map::new();
    for Reply { node, value } in replies {
        let shared = replies.iter().filter(|other| other.node == *node).count() > 1;
        match workers.get_mut(node) {
            Some(Value::Array(values)) if shared => values.push(value.clone()),
            _ if shared => drop(workers.insert(node.clone(), vec![value.clone()].into())),
            _ => drop(workers.insert(node.clone(), value.clone())),
        }
    }
    workers
}

fn print(reply: &Reply) -> Outcome {
    let Reply { node, value } = reply;
    let node = output::one_line(node, 255);
    let text = match (reply.error(), value.get("ok").and_then(Value::as_str), value) {
        (Some(error), ..) => format!("error: {}", output::one_line(error, 2000)),
        (None, Some(text), _) if text.contains('\n') => {
            let lines: Vec<String> =
                text.lines().map(|line| format!("  {}", output::one_line(line, 500))).collect();
            format!("\n{}", lines.join("\n"))
        }
        (None, Some(text), _) => output::one_line(text, 2000),
        (None, None, Value::Null) => "done".to_owned(),
        (None, None, Value::Array(rows)) if rows.is_empty() => "none".to_owned(),
        (None, None, Value::Array(rows)) if rows.iter().all(Value::is_string) => {
            let names: Vec<&str> = rows.iter().filter_map(Value::as_str).collect();
            output::one_line(&names.join(" "), 10_000)
        }
        (None, None, value) => serde_json::to_string_pretty(value)
            .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?,
    };
    output::data(format!("{node}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn workers_that_share_a_name_are_a_list() {
        let reply = |node: &str, value| Reply { node: node.into(), value };
        let replies = [reply("a", json!(1)), reply("b", json!([2])), reply("a", json!(3))];
        assert_eq!(Value::Object(by_worker(&replies)), json!({"a": [1, 3], "b": [2]}));
    }
}
