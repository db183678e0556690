//! The commands that workers know, and how to read their arguments from a command line.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A command of remote control.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    parameters: &'static [Parameter],
    /// False if no worker replies to it.
    pub is_answered: bool,
}

/// One argument.
#[derive(Clone, Copy, Debug)]
enum Parameter {
    Text(&'static str),
    Number(&'static str),
    Switch(&'static str),
    /// All remaining words.
    Texts(&'static str),
}

use Parameter::{Number, Switch, Text, Texts};

impl Parameter {
    fn name(self) -> &'static str {
        match self {
            Text(name) | Number(name) | Switch(name) | Texts(name) => name,
        }
    }

    fn read(self, word: &str) -> Result<Value> {
        let wrong = |wanted: &str| Error::config(format!("`{}` is `{word}`: give {wanted}", self.name()));
        match self {
            Text(_) => Ok(word.into()),
            Texts(_) => Ok(vec![Value::from(word)].into()),
            Number(_) => {
                let number: serde_json::Number = word.parse().map_err(|_| wrong("a number"))?;
                Ok(number.into())
            }
            Switch(_) => word.parse::<bool>().map(Value::from).map_err(|_| wrong("`true` or `false`")),
        }
    }
}

const fn method(name: &'static str, about: &'static str, parameters: &'static [Parameter]) -> Method {
    Method { name, about, parameters, is_answered: true }
}

/// The commands of Celery's workers that people send by hand.
pub const METHODS: &[Method] = &[
    method("active", "the calls that run", &[]),
    method("active_queues", "the queues that are consumed", &[]),
    method(
        "add_consumer",
        "consume from a further queue",
        &[Text("queue"), Text("exchange"), Text("exchange_type"), Text("routing_key")],
    ),
    method("autoscale", "change the range of an autoscaled pool (Celery)", &[Number("max"), Number("min")]),
    method("cancel_consumer", "stop consuming from a queue", &[Text("queue")]),
    method("clock", "the logical clock", &[]),
    method("conf", "the settings", &[Switch("with_defaults")]),
    method("disable_events", "stop emitting events of calls", &[]),
    method("enable_events", "emit events of calls", &[]),
    method("heartbeat", "emit a heartbeat now", &[]),
    method("memsample", "the resident memory", &[]),
    method("ping", "reply", &[]),
    method("pool_grow", "add slots", &[Number("n")]),
    method("pool_restart", "restart the pool (Celery)", &[]),
    method("pool_shrink", "remove slots", &[Number("n")]),
    method("query_task", "what is known of calls", &[Texts("ids")]),
    method("rate_limit", "limit the rate of a task (Celery)", &[Text("task_name"), Text("rate_limit")]),
    method("registered", "the tasks", &[]),
    method("report", "software and settings", &[]),
    method("reserved", "the calls that wait inside the worker", &[]),
    method("revoke", "do not run calls", &[Texts("task_id")]),
    method("revoke_by_stamped_headers", "do not run calls with a stamp, `name=value`", &[Texts("headers")]),
    method("revoked", "the ids of revoked calls", &[]),
    method("scheduled", "the calls that wait inside the worker for their time", &[]),
    Method { is_answered: false, ..method("shutdown", "finish what runs, and exit", &[]) },
    method("stats", "facts and counts", &[]),
    method("terminate", "stop calls that run", &[Text("signal"), Texts("task_id")]),
    method(
        "time_limit",
        "change the time limits of a task, in seconds",
        &[Text("task_name"), Number("soft"), Number("hard")],
    ),
];

/// The command of this name, if it is in the table.
pub fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

/// Reads the arguments of a command: in order, or as `name=value`. For a command that is not in the table all must be
/// named, and their values are read as JSON if possible.
///
/// # Errors
/// One argument too many, or one of the wrong type.
pub fn arguments(name: &str, words: &[String]) -> Result<Map<String, Value>> {
    let mut arguments = Map::new();
    let Some(method) = find(name) else {
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(Error::config(format!(
                    "`{name}` is not a command that mq-worker knows: write its arguments as NAME=VALUE, not `{word}`"
                )));
            };
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            arguments.insert(key.to_owned(), value);
        }
        return Ok(arguments);
    };
    let mut parameters = method.parameters.iter().copied().peekable();
    for word in words {
        let named = word.split_once('=').and_then(|(key, value)| {
            method.parameters.iter().find(|parameter| parameter.name() == key).map(|found| (*found, value))
        });
        if let Some((parameter, value)) = named {
            arguments.insert(parameter.name().to_owned(), parameter.read(value)?);
            continue;
        }
        let Some(parameter) = parameters.peek().copied() else {
            let known: Vec<&str> = method.parameters.iter().map(|parameter| parameter.name()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::config(format!("`{word}` is one argument too many: `{name}` takes {known}")));
        };
        let value = parameter.read(word)?;
        match (parameter, arguments.get_mut(parameter.name()), value) {
            (Texts(_), Some(Value::Array(texts)), Value::Array(more)) => texts.extend(more),
            (_, _, value) => drop(arguments.insert(parameter.name().to_owned(), value)),
        }
        if !matches!(parameter, Texts(_)) {
            parameters.next();
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(line: &str) -> Result<Value> {
        let mut words = line.split(' ').map(ToOwned::to_owned);
        let name = words.next().expect("a name");
        arguments(&name, &words.collect::<Vec<_>>()).map(Value::Object)
    }

    #[test]
    fn words_become_the_arguments_of_celery_s_commands() {
        for (line, expected) in [
            ("ping", json!({})),
            ("pool_grow 2", json!({"n": 2})),
            ("pool_grow n=2", json!({"n": 2})),
            ("time_limit mail.send 1.5 3", json!({"task_name": "mail.send", "soft": 1.5, "hard": 3})),
            ("time_limit mail.send hard=3", json!({"task_name": "mail.send", "hard": 3})),
            ("terminate TERM a b", json!({"signal": "TERM", "task_id": ["a", "b"]})),
            ("revoke_by_stamped_headers tenant=a x=b", json!({"headers": ["tenant=a", "x=b"]})),
            ("rate_limit mail.send 10/m", json!({"task_name": "mail.send", "rate_limit": "10/m"})),
            ("my_own depth=3 name=x", json!({"depth": 3, "name": "x"})),
        ] {
            assert_eq!(read(line).expect(line), expected, "{line}");
        }
        for (line, why) in [
            ("pool_grow two", "`n` is `two`: give a number"),
            ("ping pong", "`pong` is one argument too many: `ping` takes none"),
            ("my_own 3", "NAME=VALUE"),
            ("conf maybe", "`true` or `false`"),
        ] {
            let error = read(line).expect_err(line).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
