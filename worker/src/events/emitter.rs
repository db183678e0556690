//! Sending events: a bounded buffer, and one task that empties it in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::Local;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exchange::{self, BATCH_ROUTING_KEY, EVENTS};
use super::{Event, repr};
use crate::broker::{Broker, Publication};
use crate::error::{Error, Result};
use crate::message::{JSON, Message, Properties};
use crate::tracing;

/// How many events may wait to be sent.
const BUFFER: usize = 8192;
/// How many events one message has at most.
const BATCH: usize = 256;
/// How many bytes one message has at most, unless a single event is larger.
const BATCH_BYTES: usize = 128 * 1024;
/// How long the first event of a batch waits for others.
const GATHER: Duration = Duration::from_millis(25);
/// How many bytes of a body or a result are kept for printing: more than is ever printed.
pub(crate) const KEPT: usize = 4096;
/// How long to pause after a failure; doubled after each further one.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Sends events of one worker or producer without ever waiting: events that do not fit into the buffer are dropped and
/// counted.
#[derive(Clone, Debug)]
pub struct Emitter {
    buffer: mpsc::Sender<Emitted>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    dropped: AtomicU64,
    /// The broker refuses our events: nothing is buffered any more.
    is_refused: AtomicBool,
    /// Cancelled when no more events follow.
    finished: CancellationToken,
}

/// One event in the buffer.
#[derive(Debug)]
struct Emitted {
    event: Event,
    /// Formatted when the event is sent, not when it is emitted: the caller must not pay for it.
    value: Option<Printed>,
}

#[derive(Debug)]
enum Printed {
    Arguments(Box<[u8]>),
    Result(Box<[u8]>),
}

impl Emitter {
    /// An emitter with this name, and the task that empties its buffer: the caller spawns [`EventSender::run`].
    pub fn new(broker: Arc<dyn Broker>, hostname: String) -> (Self, EventSender) {
        let (buffer, events) = mpsc::channel(BUFFER);
        let counts = Arc::<Counts>::default();
        let sending = EventSender {
            broker,
            hostname,
            events,
            counts: Arc::clone(&counts),
            is_declared: false,
            failed: None,
        };
        (Self { buffer, counts }, sending)
    }

    /// Emits an event. Its timestamp is set now; name, process and time zone are set when it is sent.
    pub fn emit(&self, event: Event) {
        self.push(event, None);
    }

    /// Emits an event with the arguments of the call that has this body.
    pub fn emit_with_arguments(&self, event: Event, body: &[u8]) {
        self.push(event, Some(Printed::Arguments(kept(body))));
    }

    /// Emits an event with a result, given as JSON.
    pub fn emit_with_result(&self, event: Event, json: &[u8]) {
        self.push(event, Some(Printed::Result(kept(json))));
    }

    fn push(&self, mut event: Event, value: Option<Printed>) {
        event.timestamp = now();
        let is_refused = self.counts.is_refused.load(Ordering::Relaxed);
        if is_refused || self.buffer.try_send(Emitted { event, value }).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets [`EventSender::run`] send what was emitted so far and return. Later events are dropped.
    pub fn finish(&self) {
        self.counts.finished.cancel();
    }

    /// How many events were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

/// The receiving end of an [`Emitter`]: sends its events to the broker.
pub struct EventSender {
    broker: Arc<dyn Broker>,
    hostname: String,
    events: mpsc::Receiver<Emitted>,
    counts: Arc<Counts>,
    is_declared: bool,
    failed: Option<Failed>,
}

/// The last failure.
#[derive(Clone, Copy)]
struct Failed {
    at: Instant,
    pause: Duration,
}

impl EventSender {
    /// Sends events until the emitter is [finished](Emitter::finish) or its last clone is dropped, then sends the rest.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        let finished = self.counts.finished.clone();
        loop {
            let received = tokio::select! {
                biased;
                received = self.events.recv_many(&mut batch, BATCH) => received,
                () = finished.cancelled(), if !self.events.is_closed() => {
                    self.events.close();
                    continue;
                }
            };
            if received == 0 {
                return;
            }
            // A full batch means that more are waiting already.
            if batch.len() < BATCH && !self.events.is_closed() {
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = finished.cancelled() => {}
                }
                while batch.len() < BATCH
                    && let Ok(emitted) = self.events.try_recv()
                {
                    batch.push(emitted);
                }
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&mut self, batch: Vec<Emitted>) {
        let count = batch.len() as u64;
        if self.failed.is_some_and(|failed| failed.at.elapsed() < failed.pause) {
            self.counts.dropped.fetch_add(count, Ordering::Relaxed);
            return;
        }
        let utcoffset = -f64::from(Local::now().offset().local_minus_utc()) / 3600.0;
        let events = batch.into_iter().map(|emitted| emitted.complete(&self.hostname, utcoffset));
        let mut left = count;
        let mut failure = None;
        for (publication, events) in publications(&self.hostname, events) {
            match self.publish(publication).await {
                Ok(()) => left -= events,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        match failure {
            None => self.failed = None,
            Some(error) => {
                self.counts.dropped.fetch_add(left, Ordering::Relaxed);
                self.note_failure(&error);
            }
        }
    }

    async fn publish(&mut self, publication: Publication) -> Result<()> {
        // RabbitMQ closes a channel that publishes to an exchange that does not exist.
        if !self.is_declared {
            self.broker.declare(&exchange::topology()).await?;
            self.is_declared = true;
        }
        self.broker.publish(publication).await
    }

    fn note_failure(&mut self, error: &Error) {
        self.is_declared = false;
        let pause = self.failed.map_or(PAUSE, |failed| (failed.pause * 2).min(LONGEST_PAUSE));
        if self.failed.is_none() {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "cannot send events (Flower, `mq-worker events`): dropping them until it works again"
            );
        }
        if error.is_access_refused() || error.is_unsupported() {
            self.counts.is_refused.store(true, Ordering::Relaxed);
        }
        self.failed = Some(Failed { at: Instant::now(), pause });
    }
}

impl std::fmt::Debug for EventSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

impl Emitted {
    fn complete(self, hostname: &str, utcoffset: f64) -> Event {
        let Self { mut event, value } = self;
        match value {
            Some(Printed::Arguments(body)) => {
                let printed = repr::arguments(&body);
                event.args = event.args.or(printed.args);
                event.kwargs = event.kwargs.or(printed.kwargs);
            }
            Some(Printed::Result(json)) => event.result = Some(repr::text(&json)),
            None => {}
        }
        hostname.clone_into(&mut event.hostname);
        event.utcoffset = utcoffset;
        event.pid = std::process::id();
        event
    }
}

/// Packs events into messages, each returned with its number of events. As in Celery, events of calls are batched, and
/// events of workers are sent one by one.
fn publications(hostname: &str, events: impl Iterator<Item = Event>) -> Vec<(Publication, u64)> {
    let mut messages = Vec::new();
    let mut list = Vec::new();
    let mut count = 0;
    let close = |list: &mut Vec<u8>, count: &mut u64, messages: &mut Vec<_>| {
        if !list.is_empty() {
            list.push(b']');
            messages.push((
                publication(hostname, BATCH_ROUTING_KEY.into(), std::mem::take(list)),
                std::mem::take(count),
            ));
        }
    };
    for event in events {
        let Ok(json) = serde_json::to_vec(&event) else { continue };
        if !event.kind.is_of_call() {
            // Keep the order in which events were emitted.
            close(&mut list, &mut count, &mut messages);
            messages.push((publication(hostname, event.kind.routing_key(), json), 1));
            continue;
        }
        if list.len() + json.len() > BATCH_BYTES {
            close(&mut list, &mut count, &mut messages);
        }
        list.push(if list.is_empty() { b'[' } else { b',' });
        list.extend_from_slice(&json);
        count += 1;
    }
    close(&mut list, &mut count, &mut messages);
    messages
}

fn publication(hostname: &str, routing_key: String, body: Vec<u8>) -> Publication {
    let mut message = Message {
        properties: Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            transient: true,
            ..Properties::default()
        },
        body: body.into(),
        ..Message::default()
    };
    message.headers.set("hostname", hostname);
    // Not mandatory: there may be no reader.
    Publication { exchange: EVENTS.into(), routing_key, message, mandatory: false, delay: None }
}

fn kept(bytes: &[u8]) -> Box<[u8]> {
    bytes[..bytes.len().min(KEPT)].into()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{ConnectOptions, TlsOptions};
    use crate::events::EventKind;
    use crate::routing::QueueKind;
    use serde_json::Value;

    async fn memory(name: &str) -> Arc<dyn Broker> {
        let options = ConnectOptions {
            timeout: Duration::from_secs(5),
            queue_kind: QueueKind::Broker,
            tls: TlsOptions::default(),
            name: "test".into(),
        };
        let url = format!("memory://{name}").parse().expect("a URL");
        crate::broker::open(&url, &options).await.expect("a broker")
    }

    fn event(kind: EventKind, uuid: &str) -> Event {
        Event { uuid: Some(uuid.into()), ..Event::new(kind) }
    }

    #[test]
    fn events_of_calls_share_a_message_and_those_of_workers_have_their_own() {
        let events = [
            event(EventKind::TaskReceived, "a"),
            event(EventKind::TaskStarted, "a"),
            Event::new(EventKind::WorkerHeartbeat),
            event(EventKind::DeadLettered, "a"),
        ];
        let sent = publications("w@h", events.into_iter());
        let keys: Vec<(&str, u64)> =
            sent.iter().map(|(sent, events)| (sent.routing_key.as_str(), *events)).collect();
        assert_eq!(keys, [("task.multi", 2), ("worker.heartbeat", 1), ("task.multi", 1)]);
        let first = &sent[0].0;
        assert_eq!(first.message.headers.get_str("hostname"), Some("w@h"));
        assert!(first.message.properties.transient && !first.mandatory);
        let body: Value = serde_json::from_slice(&first.message.body).expect("JSON");
        assert_eq!(body[1]["type"], "task-started");
        let heartbeat: Value = serde_json::from_slice(&sent[1].0.message.body).expect("JSON");
        assert_eq!(heartbeat["type"], "worker-heartbeat");
    }

    #[test]
    fn a_message_has_its_limit() {
        let large = Event { result: Some("x".repeat(50_000)), ..event(EventKind::TaskSucceeded, "a") };
        let sent = publications("w@h", std::iter::repeat_n(large, 6));
        assert_eq!(sent.iter().map(|(_, events)| *events).collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let broker = memory("events-full").await;
        let (emitter, sending) = Emitter::new(broker, "w@h".into());
        for _ in 0..BUFFER + 5 {
            emitter.emit(Event::new(EventKind::TaskStarted));
        }
        assert_eq!(emitter.dropped(), 5);
        drop(emitter);
        sending.run().await;
    }

    #[tokio::test]
    async fn a_broker_that_is_gone_costs_events_and_nothing_else() {
        let broker = memory("events-gone").await;
        broker.close().await;
        let (emitter, sending) = Emitter::new(broker, "w@h".into());
        let running = tokio::spawn(sending.run());
        for _ in 0..3 {
            emitter.emit(Event::new(EventKind::TaskStarted));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(emitter.dropped(), 3);
        drop(emitter);
        running.await.expect("it ends");
    }
}
