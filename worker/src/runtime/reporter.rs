//! Reports what happens to the calls of a worker, as events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use serde_json::Value;

use super::waited::waited;
use crate::control::Clock;
use crate::error::TaskFailure;
use crate::events::{Emitter, Event, EventKind, KEPT, MAX_TEXT, text};
use crate::message::{JSON, Message, Progress};
use crate::middleware::OutcomeKind;
use crate::routing::Queue;
use crate::state::State;
use crate::task::Context;
use crate::task::reports::Report;

/// Reports what happens to calls, if events are on. All methods return at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reporter(Option<Arc<Reporting>>);

#[derive(Debug)]
struct Reporting {
    emitter: Emitter,
    clock: Arc<Clock>,
    /// Whether events of calls are on; those of the worker itself always are.
    wants_calls: AtomicBool,
    /// Whether arguments and results are shown.
    values: Values,
}

/// Whether events show arguments and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    Shown,
    Hidden,
}

impl Reporter {
    pub(crate) fn new(emitter: Emitter, clock: Arc<Clock>, wants_calls: bool, values: Values) -> Self {
        let wants_calls = AtomicBool::new(wants_calls);
        Self(Some(Arc::new(Reporting { emitter, clock, wants_calls, values })))
    }

    /// `None` while events of calls are off.
    fn of_calls(&self) -> Option<&Reporting> {
        self.0.as_deref().filter(|reporting| reporting.wants_calls.load(Ordering::Relaxed))
    }

    /// True when events of calls are on.
    pub(crate) fn wants_calls(&self) -> bool {
        self.of_calls().is_some()
    }

    /// Turns events of calls on or off; returns whether they were on before.
    pub(crate) fn set_wants_calls(&self, wanted: bool) -> bool {
        self.0.as_ref().is_some_and(|reporting| reporting.wants_calls.swap(wanted, Ordering::Relaxed))
    }

    /// Lets the emitter send the remaining events and stop.
    pub(crate) fn finish(&self) {
        if let Some(reporting) = &self.0 {
            reporting.emitter.finish();
        }
    }

    /// How many events were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |reporting| reporting.emitter.dropped())
    }

    /// Reports an event of the worker itself.
    pub(crate) fn report(&self, event: Event) {
        if let Some(reporting) = &self.0 {
            reporting.emit(event);
        }
    }

    /// Reports that a call was received.
    pub(crate) fn received(&self, context: &Context) {
        let Some(reporting) = self.of_calls() else { return };
        let headers = context.headers();
        let text = |name| headers.get_str(name).map(ToOwned::to_owned);
        let mut event = Event {
            root_id: Some(context.root_id().unwrap_or(context.id()).to_owned()),
            parent_id: headers.parent_id().map(ToOwned::to_owned),
            eta: text("eta"),
            expires: text("expires"),
            exchange: Some(context.exchange().to_owned()),
            routing_key: Some(context.routing_key().to_owned()),
            ..of_call(EventKind::TaskReceived, context)
        };
        if reporting.values == Values::Hidden {
            return reporting.emit(event.without_values());
        }
        if !context.message().is_task() {
            // `celery events --dump` exits if one of the two is missing.
            event.args = Some(format!("({},)", plain(context.message())));
            event.kwargs = Some("{}".into());
            return reporting.emit(event);
        }
        // Prefer the sender's text, which may leave out values on purpose.
        (event.args, event.kwargs) = (text("argsrepr"), text("kwargsrepr"));
        if event.args.is_some() {
            event.kwargs.get_or_insert_with(|| "{…}".into());
            return reporting.emit(event);
        }
        event.clock = reporting.clock.forward();
        reporting.emitter.emit_with_arguments(event, &context.message().body);
    }

    /// Reports that a call started to run.
    pub(crate) fn started(&self, context: &Context) {
        let Some(reporting) = self.of_calls() else { return };
        let wait = waited(context.id(), context.headers(), Utc::now()).map(|wait| wait.as_secs_f64());
        reporting.emit(Event { wait, ..of_call(EventKind::TaskStarted, context) });
    }

    /// Reports the state or progress that a running call has set.
    pub(crate) fn reported(&self, context: &Context, report: &Report) {
        // Its start was reported already.
        let Some(reporting) = self.of_calls().filter(|_| report.state != State::Started) else { return };
        let base = of_call(EventKind::Reported, context);
        let base = Event { state: Some(report.state.as_str().to_owned()), ..base };
        let event = match report.progress() {
            Some(Progress { current, total, description }) => {
                let (current, total) = (Some(current), Some(total));
                let description = Some(cut(&description)).filter(|text| !text.is_empty());
                Event { current, total, description, ..base }
            }
            None => Event { description: Some(text(report.meta.get().as_bytes())), ..base },
        };
        reporting.emit(if reporting.values == Values::Hidden { event.without_values() } else { event });
    }

    /// Reports that a call returned this JSON, once that is durable.
    pub(crate) fn succeeded(&self, context: &Context, json: &[u8], elapsed: Duration) {
        let Some(reporting) = self.of_calls() else { return };
        let mut event =
            Event { runtime: Some(elapsed.as_secs_f64()), ..of_call(EventKind::TaskSucceeded, context) };
        if reporting.values == Values::Hidden {
            return reporting.emit(event.without_values());
        }
        event.clock = reporting.clock.forward();
        reporting.emitter.emit_with_result(event, json);
    }

    /// Reports any other outcome of a call.
    pub(crate) fn ended(&self, context: &Context, outcome: OutcomeKind<'_>) {
        let Some(reporting) = self.of_calls() else { return };
        let event = |kind| of_call(kind, context);
        match outcome {
            OutcomeKind::Retried { after, failure } => reporting.emit(Event {
                exception: Some(exception(failure)),
                traceback: Some(traceback(failure)),
                delay: Some(after.as_secs_f64()),
                ..event(EventKind::TaskRetried)
            }),
            OutcomeKind::DeadLettered { reason, failure } => {
                reporting.emit(Event {
                    exception: Some(exception(failure)),
                    traceback: Some(traceback(failure)),
                    reason: Some(reason.into()),
                    ..event(EventKind::TaskFailed)
                });
                reporting.emit(Event {
                    queue: Some(Queue::dead_letter_name(context.queue())),
                    reason: Some(reason.into()),
                    ..event(EventKind::DeadLettered)
                });
            }
            OutcomeKind::Revoked { why } => reporting.emit(Event {
                terminated: Some(why == "terminated"),
                expired: Some(why == "expired"),
                ..event(EventKind::TaskRevoked)
            }),
            OutcomeKind::Duplicate => reporting.emit(event(EventKind::Duplicate)),
            // A success is reported with its value, a requeue where it happens.
            OutcomeKind::Succeeded | OutcomeKind::Requeued => {}
        }
    }

    /// Reports that the message of a call waits in the broker.
    pub(crate) fn delayed(&self, context: &Context, wait: Duration) {
        let Some(reporting) = self.of_calls() else { return };
        reporting.emit(Event { delay: Some(wait.as_secs_f64()), ..of_call(EventKind::Delayed, context) });
    }

    /// Reports any other event of a call.
    pub(crate) fn happened(&self, kind: EventKind, context: &Context) {
        let Some(reporting) = self.of_calls() else { return };
        reporting.emit(of_call(kind, context));
    }
}

impl Reporting {
    fn emit(&self, mut event: Event) {
        event.clock = self.clock.forward();
        self.emitter.emit(event);
    }
}

/// The fields that every event of a call has.
fn of_call(kind: EventKind, context: &Context) -> Event {
    // A task that is unknown here may still be named in the headers.
    let name = Some(context.task()).filter(|name| !name.is_empty()).or(context.headers().task());
    let (retries, crashes) = (u64::from(context.retries()), u64::from(context.headers().crashes()));
    Event {
        uuid: Some(context.id().to_owned()),
        name: name.map(ToOwned::to_owned),
        queue: Some(context.queue().to_owned()),
        retries: Some(retries),
        attempt: Some(retries + crashes + 1),
        ..Event::new(kind)
    }
}

/// The body of a plain message.
fn plain(message: &Message) -> String {
    let body = &message.body[..message.body.len().min(KEPT)];
    if message.properties.content_type.as_deref().is_some_and(|kind| kind.starts_with(JSON)) {
        return text(body);
    }
    text(Value::from(String::from_utf8_lossy(body)).to_string().as_bytes())
}

/// `MailError('no such address')`.
fn exception(failure: &TaskFailure) -> String {
    let json = serde_json::to_string(&failure.message).unwrap_or_default();
    format!("{}({})", failure.kind, text(json.as_bytes()))
}

/// Cuts a text to [`MAX_TEXT`] characters.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn traceback(failure: &TaskFailure) -> String {
    failure.traceback.clone().unwrap_or_else(|| failure.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_looks_as_in_python() {
        let failure = TaskFailure {
            kind: "MailError".into(),
            module: "rust.mail".into(),
            message: "it's gone\n".into(),
            traceback: None,
            arguments: Box::default(),
        };
        assert_eq!(exception(&failure), r#"MailError("it's gone\n")"#);
        assert_eq!(traceback(&failure), failure.to_string());
    }
}
