//! An isolated task is part of the trace of its call, which a collector receives from both processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use mq_worker::Task;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustix::process::Signal;
use support::eventually_blocking;

use super::lab::{LONG, on_sqlite};
use super::tasks::{ask, pid};

/// Receives OTLP over HTTP.
struct Collector {
    address: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let taken = Arc::clone(&spans);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || while take(&connection, &taken).is_ok() {});
            }
        });
        Self { address, spans }
    }

    fn span(&self, name: &str) -> Option<Span> {
        let spans = self.spans.lock().expect("never poisoned");
        spans.iter().find(|span| span.name == name).cloned()
    }
}

/// Reads one request.
fn take(mut connection: &TcpStream, spans: &Mutex<Vec<Span>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok(),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length.expect("a length")];
    reader.read_exact(&mut body)?;
    let request = ExportTraceServiceRequest::decode(&*body).expect("a request");
    let sent = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    spans.lock().expect("never poisoned").extend(sent.flat_map(|scope| scope.spans));
    connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
}

#[test]
fn the_spans_of_an_isolated_task_are_exported_and_belong_to_its_run() {
    on_sqlite(async |lab| {
        let collector = Collector::start();
        let mut command = lab.command(env!("CARGO_BIN_EXE_isolated-worker"));
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address)
            .env("OTEL_BSP_SCHEDULE_DELAY", "100")
            .env("NO_PROXY", "*");
        let worker = support::Process::spawn(&mut command);
        lab.result(ask.with()).await;
        // The process exports its spans before it answers.
        let sent = collector.span(&format!("send {}", pid::NAME)).expect("the span of what the task sends");
        worker.signal(Signal::TERM);
        assert!(worker.wait(LONG).status.success());
        let span =
            |name: String| eventually_blocking(&format!("a span `{name}`"), LONG, || collector.span(&name));
        let run = eventually_blocking("the run", LONG, || {
            let spans = collector.spans.lock().expect("never poisoned");
            spans.iter().find(|span| span.span_id == sent.parent_span_id).cloned()
        });
        assert_eq!(run.name, "run");
        let asked = span(format!("process {}", ask::NAME));
        let answered = span(format!("process {}", pid::NAME));
        assert_eq!(run.parent_span_id, asked.span_id);
        assert_eq!(answered.parent_span_id, sent.span_id);
        for span in [&sent, &run, &answered] {
            assert_eq!(span.trace_id, asked.trace_id, "{}", span.name);
        }
    });
}
