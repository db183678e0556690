//! Emits the events of a program that sends calls, and reads the events of all programs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::App;
use crate::broker::{Broker, Publication};
use crate::connection::background;
use crate::control::Clock;
use crate::error::Result;
use crate::events::{Emitter, Event, EventKind, EventReader, EventStream};
use crate::tracing;

/// How long closing the application waits for the last events.
const LAST: Duration = Duration::from_secs(1);

/// The event emitter of this program, created with the first call that it reports.
#[derive(Default)]
pub(super) struct Producing(OnceLock<Option<Producer>>);

struct Producer {
    emitter: Emitter,
    clock: Clock,
    /// Finishes when everything is sent.
    sending: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Producer {
    fn start(broker: &Arc<dyn Broker>, machine: &str) -> Option<Self> {
        let hostname = format!("gen{}@{machine}", std::process::id());
        let (emitter, sending) = Emitter::new(Arc::clone(broker), hostname);
        match background::spawn(sending.run()) {
            Ok(sending) => Some(Self { emitter, clock: Clock::default(), sending: Some(sending).into() }),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "this program emits no events");
                None
            }
        }
    }
}

impl Producing {
    /// Sends the remaining events.
    pub(super) async fn close(&self) {
        let Some(Some(producer)) = self.0.get() else { return };
        producer.emitter.finish();
        if let Some(sending) = producer.sending.lock().await.take() {
            let _ = background::timeout(LAST, sending).await;
        }
    }
}

impl App {
    /// Reads the events of all workers and producers on this broker.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us.
    pub async fn watch_events(&self, reader: EventReader) -> Result<EventStream> {
        EventStream::open(self.broker().await?, &reader).await
    }

    /// Emits a `task-sent` event for a call.
    pub(super) fn report_sent(&self, broker: &Arc<dyn Broker>, queue: Option<&str>, sent: &Publication) {
        let start = || Producer::start(broker, &super::config::machine_name());
        let Some(producer) = self.0.producing.0.get_or_init(start) else { return };
        let headers = &sent.message.headers;
        let text = |name| headers.get_str(name).map(ToOwned::to_owned);
        let id = headers.id().unwrap_or_default();
        let event = Event {
            uuid: Some(id.to_owned()),
            name: headers.task().map(ToOwned::to_owned),
            root_id: Some(headers.root_id().unwrap_or(id).to_owned()),
            parent_id: text("parent_id"),
            retries: Some(headers.retries().into()),
            eta: text("eta"),
            expires: text("expires"),
            queue: queue.map(ToOwned::to_owned),
            exchange: Some(sent.exchange.clone()),
            routing_key: Some(sent.routing_key.clone()),
            clock: producer.clock.forward(),
            ..Event::new(EventKind::TaskSent)
        };
        match (text("argsrepr"), self.config().event_values) {
            (None, true) => producer.emitter.emit_with_arguments(event, &sent.message.body),
            (args, true) => {
                // `celery events --dump` fails if one of the two is missing.
                let kwargs = text("kwargsrepr").or_else(|| Some("{…}".into()));
                producer.emitter.emit(Event { args, kwargs, ..event });
            }
            (_, false) => producer.emitter.emit(event.without_values()),
        }
    }
}
