//! The headers of a call: those that the sender may set, and those that follow from its options.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::canvas::SendOptions;
use crate::error::{Error, Result};
use crate::message::Headers;
use crate::message::headers::{LATEST, format_time, owner};
use crate::message::history::shortened;
use crate::routing::names::MAX_NAME;
use crate::task::{Context, TaskOptions};

/// Refuses reserved headers: they would run another task or lose the result.
pub(super) fn check_headers(task: &str, headers: &[(String, Value)]) -> Result<()> {
    for (name, _) in headers {
        let problem = if let Some(owner) = owner(name) {
            let instead = match name.as_str() {
                "id" => "; `.task_id()` sets it",
                "eta" => "; `.eta()` and `.countdown()` set it",
                "expires" => "; `.expires()` sets it",
                "ignore_result" => "; `.ignore_result()` sets it",
                "timelimit" => "; `.time_limit()` and `.soft_time_limit()` set it",
                _ => "",
            };
            format!("it belongs to {owner}{instead}")
        } else if name.is_empty() {
            "its name is empty".to_owned()
        } else if name.len() > MAX_NAME {
            format!("its name is {} bytes long; AMQP allows {MAX_NAME}", name.len())
        } else {
            continue;
        };
        let name = shortened(name, 60);
        return Err(Error::config(format!("cannot send `{task}` with a header `{name}`: {problem}")));
    }
    Ok(())
}

/// Records a call as a child of the running task that sent it.
pub(super) fn note_child(id: &str) {
    if let Some(parent) = Context::current() {
        parent.reports().add_child(id);
    }
}

/// The earliest time for the task to run, if not at once.
pub(super) fn due(options: &SendOptions, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let due = options.eta.or_else(|| Some(later(now, options.countdown?)));
    due.map(|due| due.min(LATEST))
}

fn later(now: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    chrono::Duration::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay)).unwrap_or(LATEST)
}

/// Builds the headers. Those that equal the receiver's defaults are left out, since each header costs the broker time.
pub(super) fn headers(
    task: &str,
    id: &str,
    own: &TaskOptions,
    options: &SendOptions,
    due: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Headers {
    let mut headers = Headers::for_task(task, id);
    if let Some(due) = due {
        headers.set("eta", format_time(due));
    }
    if let Some(lifetime) = options.expires.or(own.expires) {
        let expires = later(now, lifetime);
        // A lifetime without a limit needs no header.
        if expires < LATEST {
            headers.set("expires", format_time(expires));
        }
    }
    if options.time_limit.or(options.soft_time_limit).is_some() {
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        let limits = [seconds(options.time_limit), seconds(options.soft_time_limit)];
        headers.set("timelimit", serde_json::json!(limits));
    }
    if let Some(ignore) = options.ignore_result.filter(|ignore| *ignore != own.ignore_result) {
        headers.set("ignore_result", ignore);
    }
    // Calls sent by a running task belong to that task's workflow.
    if let Some(parent) = Context::current() {
        headers.set("parent_id", parent.id());
        headers.set("root_id", parent.root_id().unwrap_or(parent.id()));
    }
    for (name, value) in &options.headers {
        headers.set(name, value.clone());
    }
    headers
}
