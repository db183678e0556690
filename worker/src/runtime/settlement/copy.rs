//! The copy of a message that is sent again, with everything learned about it.

use crate::message::Message;
use crate::message::headers::{is_instruction, is_trace, names};
use crate::runtime::admission::request::Request;

/// The copy that is sent again: the same task, id and history.
pub(crate) fn copy_of(request: &Request) -> Message {
    let context = &request.context;
    let mut message = context.message().clone();
    // The header `expires` is kept; the property would cut a wait in the broker short.
    message.properties.expiration = None;
    // These headers concern the original publish only; a copy must not repeat them.
    message.headers.retain(|name| !is_instruction(name) && !is_trace(name));
    // It counts the waits of one pause.
    message.headers.remove(names::HELD);
    if request.plain && !context.task().is_empty() {
        mark_plain(&mut message, context.task(), context.id());
    }
    if request.crashes() > 0 {
        // A new name: a note about one copy's quarantine must not apply to another copy.
        message.headers.set(names::QUARANTINE, format!("{:016x}", fastrand::u64(..)));
    }
    // From here on it goes straight to its queue, so its first address would be lost.
    if context.routing_key() != context.queue() && message.headers.get(names::ROUTING_KEY).is_none() {
        message.headers.set(names::ROUTING_KEY, context.routing_key());
        message.headers.set(names::EXCHANGE, context.exchange());
    }
    message
}

/// Turns a plain message into a call with its payload as the only argument.
pub(crate) fn mark_plain(message: &mut Message, task: &str, id: &str) {
    message.headers.set("task", task);
    message.headers.set("id", id);
    message.headers.set(names::PLAIN, true);
}
