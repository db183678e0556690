//! One trace from the sender to what a task sends, collected by an exporter in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::global;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

use super::*;
use crate::canvas::SendOptions;
use crate::error::{Error, TaskFailure};
use crate::message::{Headers, Message};
use crate::task::Context;
use crate::task::context::Call;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collected {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().expect("never poisoned").extend(batch);
        Ok(())
    }
}

fn received(headers: &[(String, serde_json::Value)]) -> Context {
    let mut message = Message { headers: Headers::for_task("mail.send", "id-1"), ..Message::default() };
    headers.iter().for_each(|(name, value)| message.headers.set(name, value.clone()));
    Context::new(Call {
        task: "mail.send",
        given_id: Some("id-1".into()),
        queue: "email".into(),
        exchange: String::new(),
        routing_key: "email".into(),
        redelivered: false,
        message,
        shared: Default::default(),
        stopping: CancellationToken::new().into(),
        result_types: Default::default(),
    })
}

#[tokio::test]
async fn sender_queue_run_and_what_the_task_sends_are_one_trace() {
    let collected = Collected::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(collected.clone()).build();
    global::set_tracer_provider(provider.clone());
    enable();

    let mut options = SendOptions::default();
    let sending = SendTrace::begin("mail.send", &mut options);
    sending.end(Ok(()));
    let names: Vec<&str> = options.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["traceparent"]);

    let context = received(&options.headers);
    let call = CallTrace::begin(&context, || Some(Duration::from_secs(3)));
    let run = call.step("run");
    let mut inner = SendOptions::default();
    run.around(async {
        tokio::task::yield_now().await;
        SendTrace::begin("mail.log", &mut inner).end(Err(&Error::connection("away")));
    })
    .await;
    // A plain function sends from a thread of its own.
    let thread = run.clone();
    std::thread::spawn(move || {
        thread.enter(|| SendTrace::begin("mail.count", &mut SendOptions::default()).end(Ok(())));
    })
    .join()
    .expect("no panic");
    drop(run);
    let mut following = Headers::for_task("mail.next", "id-2");
    let settle = call.step("settle");
    settle.enter(|| continue_in(&mut following));
    drop(settle);
    let failure = TaskFailure {
        kind: "MailError".into(),
        module: "rust.mail".into(),
        message: "no such address".into(),
        traceback: None,
        arguments: Box::default(),
    };
    call.end("retried", Some(&failure));
    // The trace of a Python producer is continued too.
    let python =
        [("traceparent".to_owned(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into())];
    CallTrace::begin(&received(&python), || None).end("succeeded", None);
    provider.force_flush().expect("flushed");

    let spans = collected.0.lock().expect("never poisoned").clone();
    let by_name: HashMap<&str, &SpanData> = spans.iter().map(|span| (span.name.as_ref(), span)).collect();
    let trace = by_name["send mail.send"].span_context.trace_id();
    let id = |name: &str| by_name[name].span_context.span_id();
    let first_process = spans.iter().find(|span| span.name == "process mail.send").expect("processed");
    let process = first_process.span_context.span_id();
    for (name, parent) in [
        ("send mail.send", SpanId::INVALID),
        ("queue email", id("send mail.send")),
        ("run", process),
        ("settle", process),
        ("send mail.log", id("run")),
        ("send mail.count", id("run")),
    ] {
        let span = by_name[name];
        assert_eq!((span.span_context.trace_id(), span.parent_span_id), (trace, parent), "{name}");
    }
    assert_eq!(first_process.parent_span_id, id("send mail.send"));
    assert_eq!(first_process.span_kind, SpanKind::Consumer);
    assert!(
        matches!(&first_process.status, Status::Error { description } if description.contains("no such address"))
    );
    assert!(matches!(by_name["send mail.log"].status, Status::Error { .. }));
    let waited = by_name["queue email"].end_time.duration_since(by_name["queue email"].start_time);
    assert_eq!(waited.expect("it ended later").as_secs(), 3);
    let parent = following.get_str("traceparent").expect("it goes on");
    assert!(parent.contains(&trace.to_string()) && parent.contains(&id("settle").to_string()), "{parent}");
    let of_python = spans.iter().rfind(|span| span.name == "process mail.send").expect("processed");
    assert_eq!(of_python.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(of_python.parent_span_id.to_string(), "b7ad6b7169203331");

    // A sender that has a span is the parent.
    let tracer = global::tracer("test");
    let outer = opentelemetry::Context::new().with_span(tracer.start("request"));
    let mut options = SendOptions::default();
    let attached = outer.clone().attach();
    SendTrace::begin("mail.send", &mut options).end(Ok(()));
    drop(attached);
    let header = options.headers[0].1.as_str().expect("a text");
    assert!(header.contains(&outer.span().span_context().trace_id().to_string()), "{header}");
}
