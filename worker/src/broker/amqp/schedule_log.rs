//! The log of the schedulers is a stream, whose order is the same for all readers; [fences](super::fences) are exchanges.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fences::{Fences, STREAM, Target, exchange_of};
use super::streams;
use crate::broker::{Fenced, LogEntry, Publication, ScheduleLog};
use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::connection::amqp::link::Session;
use crate::connection::amqp::subscription::{Ack, Event, Source};
use crate::connection::amqp::{Amqp, Outgoing, runtime};
use crate::error::{Error, Result};
use crate::message::headers::names;
use crate::message::{JSON, Message, Properties};

/// How long reading may take.
const READING: Duration = Duration::from_secs(60);
/// How long a reader waits for an entry while its marker has not arrived. The marker was published, so it must come.
const SILENCE: Duration = Duration::from_secs(10);
/// After this time without an entry, a follower has seen all entries.
const QUIET: Duration = Duration::from_millis(200);
/// How many entries the broker may send ahead of the acks.
const WINDOW: u16 = 1000;
/// How much of the disk the stream may use: many times the size of all schedules, which the leader rewrites from time
/// to time.
const MAX_BYTES: i64 = 512 << 20;
/// A stream discards whole segments only.
const SEGMENT: i64 = 8 << 20;
/// After this time, messages published to a fence just before it was deleted have reached their queues.
const ROUTING_GRACE: Duration = Duration::from_millis(300);

/// A reader reads up to this entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    marker: String,
}

/// Where to start reading.
#[derive(Clone, Copy)]
enum From {
    After(u64),
    LastChunk,
}

/// Where to stop reading.
#[derive(Clone, Copy)]
enum Until<'a> {
    Marker(&'a str),
    Quiet,
}

pub(super) struct AmqpScheduleLog {
    amqp: Arc<Amqp>,
    fences: Fences,
    /// Makes concurrent first entries declare the stream only once.
    making: tokio::sync::Mutex<()>,
}

impl AmqpScheduleLog {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self { fences: Fences::new(Arc::clone(&amqp)), amqp, making: tokio::sync::Mutex::default() }
    }

    async fn append_one(&self, text: &str) -> Result<()> {
        let properties = Properties { content_type: Some(JSON.into()), ..Properties::default() };
        let message = Message { properties, body: text.to_owned().into(), ..Message::default() };
        let outgoing = Arc::new(Outgoing::new("", STREAM, message, true)?);
        match self.amqp.stream_publisher.publish(Arc::clone(&outgoing)).await {
            Err(error) if error.is_unroutable() => {}
            published => return published,
        }
        self.make().await?;
        self.amqp.stream_publisher.publish(outgoing).await
    }

    /// Declares the stream.
    async fn make(&self) -> Result<()> {
        let making = runtime::timeout(READING, self.making.lock()).await;
        let _one = making.map_err(|_| {
            Error::timeout(format!(
                "cannot declare stream `{STREAM}`: another declaration has been running for a minute"
            ))
        })?;
        self.ask("declare", async |session| declare_stream(session).await).await
    }

    async fn read_until(&self, from: From, until: Until<'_>) -> Result<Vec<LogEntry>> {
        self.ask("read", async |session| read(&session, from, until).await).await
    }

    async fn ask<T, F>(&self, what: &str, ask: impl Fn(Session) -> F) -> Result<T>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let what = format!("{what} stream `{STREAM}`");
        // An unreachable broker must be an error within the usual time limit: only reading may take longer.
        let answer = streams::ask(&self.amqp, &what, READING, ask).await?;
        answer.map_err(|error| match reply_code(&error) {
            Some(code::NOT_FOUND) => {
                Error::connection(format!("stream `{STREAM}` is not available: {}", text(&error)))
            }
            _ => Error::unsupported(format!(
                "this RabbitMQ cannot store schedules, which requires stream `{STREAM}` (version 3.9, and permission to \
                 declare it): {}",
                text(&error)
            )),
        })
    }
}

impl ScheduleLog for AmqpScheduleLog {
    fn append<'a>(&'a self, entries: &'a [String]) -> BoxFuture<'a, Result<()>> {
        async move {
            // The first one goes alone, since it may have to declare the stream. All use one channel, which keeps their
            // order.
            let Some((first, rest)) = entries.split_first() else { return Ok(()) };
            self.append_one(first).await?;
            futures_util::future::try_join_all(rest.iter().map(|entry| self.append_one(entry))).await?;
            Ok(())
        }
        .boxed()
    }

    fn read(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        async move {
            let marker = Uuid::new_v4().to_string();
            let entry = serde_json::json!({ "marker": marker }).to_string();
            self.append_one(&entry).await?;
            self.read_until(From::After(after), Until::Marker(&marker)).await
        }
        .boxed()
    }

    fn newer(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        self.read_until(From::After(after), Until::Quiet).boxed()
    }

    fn tail(&self) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        async move {
            match self.read_until(From::LastChunk, Until::Quiet).await {
                // Nothing has been written yet.
                Err(error) if error.is_connection() && self.amqp.streams.is_up() => {
                    self.make().await?;
                    self.read_until(From::LastChunk, Until::Quiet).await
                }
                read => read,
            }
        }
        .boxed()
    }

    fn open_fence<'a>(&'a self, fence: &'a str, closing: &'a [String]) -> BoxFuture<'a, Result<()>> {
        async move {
            self.make().await?;
            for fence in closing {
                self.fences.delete(fence).await?;
            }
            if !closing.is_empty() {
                runtime::sleep(ROUTING_GRACE).await;
            }
            self.fences.declare(fence).await
        }
        .boxed()
    }

    fn publish<'a>(
        &'a self,
        fence: &'a str,
        publication: Publication,
        entry: &'a str,
    ) -> BoxFuture<'a, Result<Fenced>> {
        async move {
            let target = Target::of(&publication);
            if !self.fences.bind(&target).await? {
                return Ok(Fenced::Closed);
            }
            let mut message = publication.message;
            message.headers.set(names::SCHEDULE_LOG, entry);
            message.headers.set(names::SCHEDULE_TO, target.to_header());
            let exchange = exchange_of(fence);
            let outgoing = Outgoing::new(&exchange, &publication.routing_key, message, true)?;
            match self.amqp.publisher.publish(outgoing).await {
                Ok(()) => Ok(Fenced::Published),
                // The fence was deleted; or just its binding so far, and the exchange is about to be.
                Err(error) if error.is_topology() || error.is_unroutable() => Ok(Fenced::Closed),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn trim(&self, _before: u64) -> BoxFuture<'_, Result<()>> {
        // The broker discards old entries by itself.
        Box::pin(std::future::ready(Ok(())))
    }
}

async fn declare_stream(session: Session) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(MAX_BYTES));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(SEGMENT));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let name = short(STREAM)?;
    Scratch::new(session)
        .run(async |channel| channel.queue_declare(name, options, arguments).await.map(drop))
        .await
}

async fn read(session: &Session, from: From, until: Until<'_>) -> lapin::Result<Vec<LogEntry>> {
    let mut arguments = FieldTable::default();
    let (begin, after) = match from {
        // Positions are offsets plus one, so that 0 is before the first.
        From::After(after) => (AMQPValue::LongLongInt(i64::try_from(after).unwrap_or(i64::MAX)), after),
        From::LastChunk => (AMQPValue::LongString("last".into()), 0),
    };
    arguments.insert("x-stream-offset".into(), begin);
    let tag = format!("mq-worker.{}", Uuid::new_v4());
    let source = Source { queue: STREAM.into(), prefetch: WINDOW, tag, arguments };
    let mut entries = source.subscribe(session).await?;
    let silence = match until {
        Until::Marker(_) => SILENCE,
        Until::Quiet => QUIET,
    };
    let mut found = Vec::new();
    let mut count = 0_usize;
    loop {
        let delivery = match runtime::timeout(silence, entries.next(true)).await {
            Ok(Event::Delivered(delivery)) => delivery,
            Ok(Event::Written | Event::Confirmed) => continue,
            Ok(Event::Ended) => return Err(std::io::Error::other("the stream ended: was it deleted?").into()),
            Ok(Event::Lost(error)) => return Err(error),
            Err(_) => match until {
                Until::Quiet => return Ok(found),
                Until::Marker(_) => {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        "no entry arrived within 10s",
                    )
                    .into());
                }
            },
        };
        count += 1;
        let headers = delivery.properties.headers().as_ref();
        let header = |name: &str| headers.and_then(|headers| headers.inner().get(name));
        let at = match header("x-stream-offset") {
            Some(AMQPValue::LongLongInt(offset)) => offset.unsigned_abs() + 1,
            _ => 0,
        };
        let text = match header(names::SCHEDULE_LOG) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::from_utf8_lossy(&delivery.data).into_owned(),
        };
        if count.is_multiple_of(usize::from(WINDOW / 2)) {
            entries.ack(vec![Ack { tag: delivery.delivery_tag, multiple: true }]);
        }
        // A stream delivers whole chunks: the first may start earlier.
        if at <= after {
            continue;
        }
        match (serde_json::from_str::<Marker>(&text), until) {
            (Ok(read), Until::Marker(marker)) if read.marker == marker => return Ok(found),
            (Ok(_), _) => {}
            (Err(_), _) => found.push(LogEntry { at, text }),
        }
    }
}
