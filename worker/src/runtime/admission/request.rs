//! A delivery as a call: what is needed to run it and to settle it.

use crate::broker::Settlement;
use crate::message::headers::names;
use crate::message::{Body, Embed, JSON, Message};
use crate::task::{Context, TaskOptions};
use crate::traces::CallTrace;

/// A call that is ready to run, and what is needed to settle it.
pub(crate) struct Request {
    /// The message, its address and its id.
    pub(crate) context: Context,
    /// The options of the `#[task]` attribute, or the defaults if no task was found.
    pub(crate) options: &'static TaskOptions,
    /// The continuations of the call.
    pub(crate) embed: Embed,
    /// True for a plain message: its result goes to `reply_to` as it is, or nowhere.
    pub(crate) plain: bool,
    /// True when the broker has a note that its quarantine has started.
    pub(crate) quarantined: bool,
    /// Its spans, once it runs.
    pub(crate) trace: CallTrace,
    /// How the delivery is settled.
    pub(crate) settlement: Settlement,
}

/// The failures and crashes of a call so far, and the limit of its crashes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    /// Runs that failed.
    pub(crate) retries: u32,
    /// Runs that took their process down.
    pub(crate) crashes: u32,
    /// With this many crashes the message is dead-lettered.
    pub(crate) max_crashes: u32,
}

impl Request {
    /// How many workers are known to have died while they held the message.
    pub(crate) fn crashes(&self) -> u32 {
        self.context.headers().crashes()
    }

    /// True when the call may have run before: it was redelivered, or has a crash count.
    pub(crate) fn may_have_run(&self) -> bool {
        self.context.is_redelivered() || self.crashes() > 0
    }
}

/// The body of the message: arguments of a task, or a single value.
pub(crate) fn arguments(context: &Context) -> Result<Body<'_>, String> {
    let message = context.message();
    let kind = message.properties.content_type.as_deref();
    if is_plain(message) {
        return Ok(Body::plain(&message.body, kind));
    }
    match kind {
        Some(kind) if !kind.starts_with(JSON) => {
            Err(format!("content type `{kind}` is not accepted, only `{JSON}`"))
        }
        _ => Body::parse(&message.body),
    }
}

/// True for a plain message.
pub(super) fn is_plain(message: &Message) -> bool {
    !message.is_task() || message.headers.get(names::PLAIN).is_some()
}
