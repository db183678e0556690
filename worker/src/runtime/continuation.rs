//! What follows a task: the next step of a chain, callbacks and errbacks, in Celery's form.
//!
//! Celery's facts: `chain` is reversed, its last element is the next step; a step that is not immutable gets
//! the result before its own arguments; an errback gets the id of the failed task.

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::message::{Embed, Headers, JSON, Message, Properties, codec};
use crate::routing::router::Wanted;
use crate::task::Context;

/// A signature as it lies in a message.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Step {
    task: String,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    options: Map<String, Value>,
    subtask_type: Option<String>,
    immutable: bool,
}

/// A message that is ready but for its address.
#[derive(Debug)]
pub struct Following {
    /// The task.
    pub task: String,
    /// What is published.
    pub message: Message,
    /// What the signature says about its address.
    queue: Option<String>,
    exchange: Option<String>,
    routing_key: Option<String>,
}

impl Following {
    /// What the signature says about its address.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            queue: self.queue.as_deref(),
            exchange: self.exchange.as_deref().filter(|name| !name.is_empty()),
            routing_key: self.routing_key.as_deref(),
        }
    }
}

/// Says why what follows a task cannot be done here. Such a message must not be run: its workflow would end
/// in the middle.
pub fn unsupported(embed: &Embed) -> Option<String> {
    if embed.chord.is_some() {
        return Some("it is part of a chord, which this worker does not support".into());
    }
    let lists = [&embed.callbacks, &embed.errbacks, &embed.chain];
    lists.into_iter().flatten().flatten().find_map(|value| match Step::deserialize(value) {
        Ok(step) if step.task.is_empty() => Some("a signature that follows it names no task".into()),
        Ok(Step { subtask_type: Some(kind), .. }) => {
            Some(format!("it is followed by a {kind}, which this worker does not support"))
        }
        Ok(_) => None,
        Err(error) => Some(format!("a signature that follows it cannot be read: {error}")),
    })
}

/// What is sent when the task has succeeded: its callbacks, and the next step of its chain.
pub fn after_success(embed: &Embed, context: &Context, result: &[u8]) -> Vec<Following> {
    if embed.is_empty() {
        return Vec::new();
    }
    let result: Value = serde_json::from_slice(result).unwrap_or_default();
    let mut following: Vec<_> = steps(&embed.callbacks)
        .map(|step| step.apply(Some(result.clone()), Embed::default(), context))
        .collect();
    if let Some((next, rest)) = embed.chain.as_deref().and_then(<[Value]>::split_last)
        && let Ok(step) = Step::deserialize(next)
    {
        let errbacks = embed.errbacks.clone().filter(|_| !step.options.contains_key("link_error"));
        let embed = Embed { chain: Some(rest.to_vec()), errbacks, ..Embed::default() };
        following.push(step.apply(Some(result), embed, context));
    }
    following
}

/// What is sent when the task has failed for good.
pub fn after_failure(embed: &Embed, context: &Context) -> Vec<Following> {
    steps(&embed.errbacks)
        .map(|step| step.apply(Some(Value::from(context.id())), Embed::default(), context))
        .collect()
}

/// The ids of the steps that will never run now, with the queue on which each one's result is awaited:
/// without a stored failure, whoever waits for the end of the chain would wait for ever.
pub fn never_reached(embed: &Embed) -> Vec<(String, Option<String>)> {
    steps(&embed.chain).filter_map(|step| Some((step.text("task_id")?, step.text("reply_to")))).collect()
}

fn steps(list: &Option<Vec<Value>>) -> impl Iterator<Item = Step> {
    list.iter().flatten().filter_map(|value| Step::deserialize(value).ok())
}

impl Step {
    fn text(&self, name: &str) -> Option<String> {
        self.options.get(name)?.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
    }

    fn list(&self, name: &str) -> Option<Vec<Value>> {
        self.options.get(name)?.as_array().cloned()
    }

    /// The message of this step, as a child of the call that led to it.
    fn apply(self, first: Option<Value>, mut embed: Embed, parent: &Context) -> Following {
        let id = self.text("task_id").unwrap_or_else(|| Uuid::now_v7().to_string());
        let mut headers = Headers::for_task(&self.task, &id);
        headers.set("parent_id", parent.id());
        headers.set("root_id", parent.root_id().unwrap_or(parent.id()));
        for (option, header) in [
            ("group_id", "group"),
            ("group_index", "group_index"),
            ("expires", "expires"),
            ("eta", "eta"),
            ("shadow", "shadow"),
            ("ignore_result", "ignore_result"),
        ] {
            if let Some(value) = self.options.get(option).filter(|value| !value.is_null()) {
                headers.set(header, value.clone());
            }
        }
        if let Some(seconds) = self.options.get("countdown").and_then(Value::as_f64)
            && let Ok(wait) = std::time::Duration::try_from_secs_f64(seconds)
            && let Some(eta) = chrono::Duration::from_std(wait)
                .ok()
                .and_then(|wait| chrono::Utc::now().checked_add_signed(wait))
        {
            headers.set("eta", crate::message::headers::format_time(eta));
        }
        embed.callbacks = embed.callbacks.or_else(|| self.list("link"));
        embed.errbacks = embed.errbacks.or_else(|| self.list("link_error"));
        let args: Vec<Value> = if self.immutable {
            self.args.clone()
        } else {
            first.into_iter().chain(self.args.clone()).collect()
        };
        // Everything here came out of JSON, so it can be written as JSON.
        let body = codec::encode_values(&args, &self.kwargs, &embed).unwrap_or_default();
        let properties = Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            correlation_id: Some(id),
            reply_to: self.text("reply_to").or_else(|| parent.properties().reply_to.clone()),
            priority: self.options.get("priority").and_then(Value::as_u64).and_then(|p| u8::try_from(p).ok()),
            ..Properties::default()
        };
        Following {
            queue: self.text("queue"),
            exchange: self.text("exchange"),
            routing_key: self.text("routing_key"),
            task: self.task,
            message: Message { properties, headers, body },
        }
    }
}
