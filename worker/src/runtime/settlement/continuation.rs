//! What follows a task: the next step of a chain, callbacks and errbacks, in Celery's form.
//!
//! In Celery, `chain` is reversed: its last element is the next step. A step that is not immutable gets the result before
//! its own arguments; an errback gets the id of the failed task. Arguments and signatures are passed on as raw text: numbers
//! of any size and kombu's typed values arrive as they were sent.

use chrono::Utc;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::message::{Embed, JSON, Message, Properties, codec};
use crate::routing::router::Wanted;
use crate::runtime::admission::step::Step;
use crate::task::Context;

/// A message that is ready except for its address.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) task: String,
    pub(crate) message: Message,
    /// The address that the signature gives.
    queue: Option<String>,
    exchange: Option<String>,
    routing_key: Option<String>,
}

impl Following {
    /// Returns the address that the signature gives.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            queue: self.queue.as_deref(),
            exchange: self.exchange.as_deref().filter(|name| !name.is_empty()),
            routing_key: self.routing_key.as_deref(),
        }
    }
}

/// Returns the messages to send after a success: the callbacks, and the next step of the chain.
pub(crate) fn after_success(embed: &Embed, context: &Context, result: &[u8]) -> Vec<Following> {
    if embed.is_empty() {
        return Vec::new();
    }
    let result = serde_json::from_slice(result).unwrap_or(RawValue::NULL);
    let mut following: Vec<_> =
        steps(&embed.callbacks).map(|step| apply(&step, result, Embed::default(), context)).collect();
    if let Some((next, rest)) = embed.chain.as_deref().and_then(<[_]>::split_last)
        && let Ok(step) = Step::deserialize(&**next)
    {
        let errbacks = embed.errbacks.clone().filter(|_| step.signatures("link_error").is_none());
        let embed = Embed { chain: Some(rest.to_vec()), errbacks, ..Embed::default() };
        following.push(apply(&step, result, embed, context));
    }
    following
}

/// Returns the errbacks to send when the task has failed for good.
pub(crate) fn after_failure(embed: &Embed, context: &Context) -> Vec<Following> {
    let Ok(id) = serde_json::value::to_raw_value(context.id()) else { return Vec::new() };
    steps(&embed.errbacks).map(|step| apply(&step, &id, Embed::default(), context)).collect()
}

/// Returns the ids of the steps that can no longer run, each with the queue on which its result is awaited. Without a stored
/// failure, a caller that waits for the end of the chain, or of the chord that it is a part of, would wait forever.
pub(crate) fn never_reached(embed: &Embed) -> Vec<(String, Option<String>)> {
    let awaited = |step: &Step<'_>| Some((step.text("task_id")?, step.text("reply_to")));
    let mut reached: Vec<_> =
        embed.chord.iter().filter_map(|body| awaited(&Step::deserialize(&**body).ok()?)).collect();
    for step in steps(&embed.chain) {
        reached.extend(awaited(&step));
        reached.extend(step.option("chord").and_then(|body| awaited(&Step::deserialize(body).ok()?)));
    }
    reached
}

fn steps(list: &Option<Vec<Box<RawValue>>>) -> impl Iterator<Item = Step<'_>> {
    list.iter().flatten().filter_map(|signature| Step::deserialize(&**signature).ok())
}

/// The message of a step, as a child of the call that led to it.
fn apply(step: &Step<'_>, first: &RawValue, mut embed: Embed, parent: &Context) -> Following {
    let id = step.text("task_id").unwrap_or_else(|| Uuid::now_v7().to_string());
    let mut headers = step.headers(&id, Utc::now());
    headers.set("parent_id", parent.id());
    headers.set("root_id", parent.root_id().unwrap_or(parent.id()));
    embed.callbacks = embed.callbacks.or_else(|| step.signatures("link"));
    embed.errbacks = embed.errbacks.or_else(|| step.signatures("link_error"));
    embed.chain = embed.chain.or_else(|| step.signatures("chain"));
    let first = Some(first).filter(|_| !step.is_immutable());
    let args: Vec<&RawValue> = first.into_iter().chain(step.args.iter().flatten().copied()).collect();
    // All of this came from JSON, and `unsupported` has checked its shape.
    let body = codec::encode_values(&args, step.kwargs(), &embed).unwrap_or_default();
    let properties = Properties {
        content_type: Some(JSON.into()),
        content_encoding: Some("utf-8".into()),
        correlation_id: Some(id),
        reply_to: step.text("reply_to").or_else(|| parent.properties().reply_to.clone()),
        priority: step.read("priority"),
        transient: step.read::<u8>("delivery_mode") == Some(1),
        ..Properties::default()
    };
    Following {
        queue: step.text("queue"),
        exchange: step.text("exchange"),
        routing_key: step.text("routing_key"),
        task: step.task.clone(),
        message: Message { properties, headers, body },
    }
}

#[cfg(test)]
mod tests;
