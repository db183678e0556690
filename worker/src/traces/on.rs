//! The spans of a call, on both sides.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context as Trace, KeyValue, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::canvas::SendOptions;
use crate::error::{Error, TaskFailure};
use crate::message::Headers;
use crate::task::Context;

const TRACER: &str = "mq-worker";

/// False until traces are wanted: a span costs several allocations, even if it is not exported.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Traces calls with the tracer provider of `opentelemetry::global`. For programs that install a provider of their own;
/// [`start`](super::start) calls it.
pub fn enable() {
    IS_ON.store(true, Ordering::Relaxed);
}

fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// The span of a call on its way to the broker.
pub(crate) struct SendTrace(Option<Trace>);

impl SendTrace {
    /// Starts the span, as a child of the current one, and writes its context into the headers, unless the sender has
    /// already written one.
    pub(crate) fn begin(task: &str, options: &mut SendOptions) -> Self {
        if !is_on() {
            return Self(None);
        }
        let present = Trace::current();
        let span = global::tracer(TRACER)
            .span_builder(format!("send {task}"))
            .with_kind(SpanKind::Producer)
            .with_attributes([
                attribute("messaging.operation.type", "send"),
                attribute("mq_worker.task", task),
            ])
            .start_with_context(&global::tracer(TRACER), &present);
        let trace = present.with_span(span);
        if !options.headers.iter().any(|(name, _)| name == "traceparent") {
            TraceContextPropagator::new().inject_context(&trace, &mut Pairs(&mut options.headers));
        }
        Self(Some(trace))
    }

    /// Ends the span, with the error if sending failed.
    pub(crate) fn end(self, sent: Result<(), &Error>) {
        let Some(trace) = self.0 else { return };
        if let Err(error) = sent {
            trace.span().set_status(Status::error(error.to_string()));
        }
        trace.span().end();
    }
}

/// The span of a delivery that runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallTrace(Option<Trace>);

impl CallTrace {
    /// Starts the span, as a child of the sender's, preceded by another one for the time in the queue.
    pub(crate) fn begin(context: &Context, waited: impl FnOnce() -> Option<Duration>) -> Self {
        if !is_on() {
            return Self(None);
        }
        let sender =
            TraceContextPropagator::new().extract_with_context(&Trace::new(), &Read(context.headers()));
        let tracer = global::tracer(TRACER);
        let now = SystemTime::now();
        if let Some(since) = waited().and_then(|waited| now.checked_sub(waited)) {
            let mut queued = tracer
                .span_builder(format!("queue {}", context.queue()))
                .with_start_time(since)
                .with_attributes([attribute("messaging.destination.name", context.queue())])
                .start_with_context(&tracer, &sender);
            queued.end_with_timestamp(now);
        }
        let span = tracer
            .span_builder(format!("process {}", context.task()))
            .with_kind(SpanKind::Consumer)
            .with_start_time(now)
            .with_attributes([
                attribute("messaging.operation.type", "process"),
                attribute("messaging.destination.name", context.queue()),
                attribute("messaging.message.id", context.id()),
                attribute("mq_worker.task", context.task()),
                KeyValue::new("mq_worker.retries", i64::from(context.retries())),
            ])
            .start_with_context(&tracer, &sender);
        Self(Some(sender.with_span(span)))
    }

    /// True if the span was started.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Starts the span of a part of the call: `run`, `settle`.
    pub(crate) fn step(&self, name: &'static str) -> Step {
        let Some(call) = &self.0 else { return Step(None) };
        let tracer = global::tracer(TRACER);
        Step(Some(call.with_span(tracer.span_builder(name).start_with_context(&tracer, call))))
    }

    /// Ends the span with the outcome, and the error if there is one.
    pub(crate) fn end(&self, outcome: &'static str, error: Option<&TaskFailure>) {
        let Some(call) = &self.0 else { return };
        call.span().set_attribute(attribute("mq_worker.outcome", outcome));
        if let Some(error) = error {
            call.span().set_status(Status::error(error.to_string()));
        }
        call.span().end();
    }
}

/// A part of a call: its span ends with the last clone. Spans that start inside are its children.
#[derive(Clone, Debug)]
pub(crate) struct Step(Option<Trace>);

impl Step {
    /// The part that started in the worker and [continues](continue_in) in the process of an isolated task.
    #[cfg(unix)]
    pub(crate) fn of(headers: &Headers) -> Self {
        let began = || TraceContextPropagator::new().extract_with_context(&Trace::new(), &Read(headers));
        Self(is_on().then(began))
    }

    pub(crate) fn enter<T>(&self, run: impl FnOnce() -> T) -> T {
        let _attached = self.0.clone().map(Trace::attach);
        run()
    }

    pub(crate) async fn around<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| self.enter(|| future.as_mut().poll(cx))).await
    }
}

/// Lets a message continue the current trace.
pub(crate) fn continue_in(headers: &mut Headers) {
    if is_on() {
        TraceContextPropagator::new().inject_context(&Trace::current(), &mut Write(headers));
    }
}

fn attribute(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, value.to_owned())
}

struct Read<'a>(&'a Headers);

impl Extractor for Read<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get_str(name)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}

struct Write<'a>(&'a mut Headers);

impl Injector for Write<'_> {
    fn set(&mut self, name: &str, value: String) {
        // An empty `tracestate` carries no information.
        if !value.is_empty() {
            self.0.set(name, value);
        }
    }
}

struct Pairs<'a>(&'a mut Vec<(String, serde_json::Value)>);

impl Injector for Pairs<'_> {
    fn set(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.push((name.to_owned(), value.into()));
        }
    }
}
