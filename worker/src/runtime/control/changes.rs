//! Commands that change the worker while it runs: its slots, its queues, the limits of its tasks.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Node;
use super::errors::{error, missing};
use crate::error::{Error, Result};
use crate::routing::names::{check_key, check_name};
use crate::routing::{Binding, Exchange, ExchangeKind, Topology};
use crate::runtime::admission::limits::Limits;
use crate::tracing;

/// How many slots one command may add.
const MOST_ADDED: u64 = 100_000;

/// Whether slots are added or removed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Resize {
    Grow,
    Shrink,
}

impl Node {
    /// Adds or removes slots. As in Celery, the reply comes first: removed slots go as their tasks end.
    pub(super) fn resize(self: &Arc<Self>, resize: Resize, arguments: &Map<String, Value>) -> Value {
        let by = match arguments.get("n") {
            None | Some(Value::Null) => Some(1),
            Some(n) => n.as_u64().filter(|n| (1..=MOST_ADDED).contains(n)),
        };
        let Some(by) = by.and_then(|by| usize::try_from(by).ok()) else {
            return error(
                "ValueError",
                &format!("n is {}: give a number from 1 to {MOST_ADDED}", arguments["n"]),
            );
        };
        let before = self.slots.all();
        if resize == Resize::Shrink && by >= before {
            let problem = format!("cannot remove {by} of {before} slots: one has to stay");
            return error("ValueError", &problem);
        }
        let slots = match resize {
            Resize::Grow => self.slots.grow(by),
            Resize::Shrink => self.slots.shrink(by),
        };
        tracing::info!(before, slots, "the number of slots was changed by remote control");
        self.window.resize();
        json!({"ok": match resize {
            Resize::Grow => "pool will grow",
            Resize::Shrink => "pool will shrink",
        }})
    }

    /// Consumes from another queue. One that does not exist is created as Celery's workers would create it, unless it is
    /// known here.
    pub(super) async fn add_consumer(&self, arguments: &Map<String, Value>) -> Value {
        let Some(queue) = text(arguments, "queue") else { return missing("add_consumer", "queue") };
        match self.declare(queue, arguments).await {
            Ok(topology) => {
                let is_new = self.sources.add(queue, topology);
                self.pauses.look();
                if is_new {
                    tracing::info!(queue, "consumer added by remote control");
                }
                let what = if is_new { "add consumer" } else { "already consuming from" };
                json!({"ok": format!("{what} {queue}")})
            }
            Err(problem) => {
                tracing::warn!(queue, error = format!("{problem:#}"), "cannot add a consumer");
                error("ValueError", &format!("{problem:#}"))
            }
        }
    }

    async fn declare(&self, queue: &str, arguments: &Map<String, Value>) -> Result<Topology> {
        check_name("queue", queue)?;
        let broker = self.app.open_broker().await?;
        let exists = !broker.queues(&[queue.to_owned()]).await?.is_empty();
        let mut topology = match exists {
            true => self.app.task_queue(queue),
            false => self.app.queue_from_remote_control(queue),
        };
        // Celery binds each queue to an exchange of the same name, but publishes to the default one anyway.
        if let Some(name) = text(arguments, "exchange").filter(|name| *name != queue) {
            check_name("exchange", name)?;
            let key = text(arguments, "routing_key").unwrap_or(queue);
            check_key(key)?;
            let kind = text(arguments, "exchange_type").unwrap_or("direct");
            let kind: ExchangeKind = serde_json::from_value(kind.into())
                .map_err(|_| Error::config(format!("`{kind}` is not a kind of exchange")))?;
            topology.exchanges.push(Exchange::new(name, kind));
            topology.bindings.push(Binding::new(name, queue, key));
        }
        broker.declare(&topology).await?;
        Ok(topology)
    }

    /// Stops consuming from a queue. Messages that were already delivered are still run.
    pub(super) fn cancel_consumer(&self, arguments: &Map<String, Value>) -> Value {
        let Some(queue) = text(arguments, "queue") else { return missing("cancel_consumer", "queue") };
        if self.sources.remove(queue) {
            self.pauses.look();
            tracing::info!(queue, "consumer cancelled by remote control");
        }
        // Celery gives the same reply for a queue that it never consumed from.
        json!({"ok": format!("no longer consuming from {queue}")})
    }

    /// Changes the time limits of a task, for calls that start from now on.
    pub(super) fn time_limit(&self, arguments: &Map<String, Value>) -> Value {
        let Some(task) = text(arguments, "task_name") else { return missing("time_limit", "task_name") };
        let limit = |name: &str| match arguments.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().map(Duration::try_from_secs_f64) {
                Some(Ok(limit)) if !limit.is_zero() => Ok(Some(limit)),
                _ => {
                    Err(error("ValueError", &format!("{name} is {value}: give a number of seconds above 0")))
                }
            },
        };
        let (hard, soft) = match (limit("hard"), limit("soft")) {
            (Ok(hard), Ok(soft)) => (hard, soft),
            (Err(error), _) | (_, Err(error)) => return error,
        };
        let Some(task) = self.app.registry().get(task) else { return json!({"error": "unknown task"}) };
        self.limits.set(task.name, Limits { hard, soft });
        tracing::info!(task = task.name, ?hard, ?soft, "time limits were changed by remote control");
        json!({"ok": "time limits set successfully"})
    }

    /// Answers `rate_limit`. This worker has no rate limits, so only 0, which asks for none, is accepted.
    pub(super) fn rate_limit(&self, arguments: &Map<String, Value>) -> Value {
        let Some(task) = text(arguments, "task_name") else { return missing("rate_limit", "task_name") };
        let rate = match arguments.get("rate_limit") {
            Some(Value::String(rate)) => rate.trim().to_owned(),
            Some(Value::Number(rate)) => rate.to_string(),
            _ => String::new(),
        };
        let Some(per_second) = rate_of(&rate) else {
            return json!({"error": format!("Invalid rate limit string: ValueError('{rate}')")});
        };
        if self.app.registry().get(task).is_none() {
            return json!({"error": "unknown task"});
        }
        if per_second == 0.0 {
            return json!({"ok": "rate limit disabled successfully"});
        }
        json!({"error": "this worker has no rate limits yet: nothing was changed"})
    }
}

/// An argument that is a text and not empty.
fn text<'a>(arguments: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    arguments.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Converts a rate such as `10/m` to calls per second; an empty one is 0. `None`: not a rate.
fn rate_of(text: &str) -> Option<f64> {
    let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let count: f64 = if count.is_empty() { 0.0 } else { count.parse().ok()? };
    (count.is_finite() && count >= 0.0).then_some(count / seconds)
}

#[cfg(test)]
mod tests {
    use super::rate_of;

    #[test]
    fn rates_are_read_as_celery_does() {
        for (text, rate) in
            [("", 0.0), ("0", 0.0), ("10", 10.0), ("60/m", 1.0), ("7200/h", 2.0), ("0.5/s", 0.5)]
        {
            assert_eq!(rate_of(text), Some(rate), "{text}");
        }
        for text in ["x", "1/y", "-1", "1/s/s", "nan"] {
            assert_eq!(rate_of(text), None, "{text}");
        }
    }
}
