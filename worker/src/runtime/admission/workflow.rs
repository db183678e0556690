//! Checks whether this worker supports the continuations of a call.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::step::Step;
use crate::message::Embed;

/// The deepest supported nesting of signatures, as in `link`.
const DEEPEST: usize = 16;

/// Returns why the continuations of a task cannot be handled here. Such a message must not be run: its workflow would stop
/// halfway.
pub(crate) fn unsupported(embed: &Embed) -> Option<String> {
    if embed.chord.is_some() {
        return Some("it is part of a chord, which this worker does not support".into());
    }
    let lists = [&embed.callbacks, &embed.errbacks, &embed.chain];
    lists.into_iter().flatten().flatten().find_map(|signature| {
        // Parse it completely: a signature that its receivers could not read must not be sent on.
        match serde_json::from_str::<Value>(signature.get()) {
            Ok(_) => unsupported_step(signature, 0),
            Err(error) => Some(unreadable(&error)),
        }
    })
}

fn unreadable(error: &serde_json::Error) -> String {
    format!("a signature that follows it cannot be read: {error}")
}

/// Checks a signature and those that follow it: each is sent on by some worker, perhaps by this one.
fn unsupported_step(signature: &RawValue, depth: usize) -> Option<String> {
    if depth > DEEPEST {
        return Some(format!("the signatures that follow it are nested deeper than {DEEPEST} levels"));
    }
    let step = match Step::deserialize(signature) {
        Ok(step) => step,
        Err(error) => return Some(unreadable(&error)),
    };
    if step.task.is_empty() {
        return Some("a signature that follows it names no task".into());
    }
    if let Some(kind) = &step.subtask_type {
        return Some(format!("it is followed by a {kind}, which this worker does not support"));
    }
    if step.option("chord").is_some() {
        return Some("it is followed by a task of a chord, which this worker does not support".into());
    }
    if let Some(problem) = step.problem() {
        return Some(format!("the signature of `{}`, which follows it, {problem}", step.task));
    }
    let lists = ["link", "link_error", "chain"].map(|name| step.signatures(name));
    lists.into_iter().flatten().flatten().find_map(|signature| unsupported_step(&signature, depth + 1))
}
