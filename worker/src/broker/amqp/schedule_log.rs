//! The log of the schedulers is a stream, whose order is the same for all readers; fences are exchanges.
//!
//! A leader publishes to an exchange that it alone has declared, to which the stream and the queue of the message are
//! bound: RabbitMQ routes a message to both or to neither. A new leader first deletes the exchange of the former one,
//! then reads the stream to its end: everything that the former leader sent before is in it, and anything that it sends
//! later, for instance after a pause, is refused, since the exchange no longer exists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::streams;
use crate::broker::{Fenced, LogEntry, Publication, ScheduleLog};
use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::connection::amqp::link::{Session, lock};
use crate::connection::amqp::subscription::{Ack, Event, Source};
use crate::connection::amqp::{Amqp, Outgoing, runtime};
use crate::error::{Error, Result};
use crate::message::headers::names;
use crate::message::{JSON, Message, Properties};

/// The name of the stream.
const STREAM: &str = "mq-worker.schedules";
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
/// After this time, messages published to an exchange just before it was deleted have reached their queues.
const ROUTING_GRACE: Duration = Duration::from_millis(300);
/// How long a binding is assumed to exist: it disappears when its queue is deleted.
const BOUND_FOR: Duration = Duration::from_secs(5);

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
    /// The fence and target of each known binding, and when it was made.
    bound: Mutex<HashMap<(String, String), Instant>>,
    /// Makes concurrent first entries declare the stream only once.
    making: tokio::sync::Mutex<()>,
}

impl AmqpScheduleLog {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self { amqp, bound: Mutex::default(), making: tokio::sync::Mutex::default() }
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
        self.amqp.streams.reach(&what, self.amqp.limit).await?;
        let told = streams::ask(&self.amqp, &what, READING, ask).await?;
        told.map_err(|error| match reply_code(&error) {
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

    /// Binds the target of the message to the fence. Returns `false` if the fence no longer exists.
    async fn bind(&self, fence: &str, target: &Target) -> Result<bool> {
        let key = (fence.to_owned(), target.to_header());
        let is_bound = lock(&self.bound).get(&key).is_some_and(|since| since.elapsed() < BOUND_FOR);
        if is_bound {
            return Ok(true);
        }
        let exchange = exchange_of(fence);
        let bind = async |mut scratch: Scratch| {
            let mut arguments = FieldTable::default();
            arguments.insert("x-match".into(), AMQPValue::LongString("all".into()));
            arguments.insert(names::SCHEDULE_TO.into(), AMQPValue::LongString(target.to_header().into()));
            let source = short(&exchange)?;
            let bound = match target {
                Target::Queue(name) => {
                    let (queue, options) = (short(name)?, QueueBindOptions::default());
                    scratch
                        .run(async |c| c.queue_bind(queue, source, short("")?, options, arguments).await)
                        .await
                }
                Target::Exchange(name) => {
                    let (to, options) = (short(name)?, ExchangeBindOptions::default());
                    scratch
                        .run(async |c| c.exchange_bind(to, source, short("")?, options, arguments).await)
                        .await
                }
            };
            match bound {
                Err(error)
                    if reply_code(&error) == Some(code::NOT_FOUND) && text(&error).contains(&exchange) =>
                {
                    Ok(false)
                }
                bound => bound.map(|()| true),
            }
        };
        let is_open = self.amqp.ask(&format!("bind {target:?} to exchange `{exchange}`"), bind).await?;
        if is_open {
            let mut bound = lock(&self.bound);
            bound.retain(|(of, _), since| of == fence && since.elapsed() < BOUND_FOR);
            bound.insert(key, Instant::now());
        }
        Ok(is_open)
    }
}

/// Where a scheduled message goes.
enum Target {
    Queue(String),
    Exchange(String),
}

impl Target {
    fn of(publication: &Publication) -> Self {
        match publication.exchange.as_str() {
            "" => Self::Queue(publication.routing_key.clone()),
            exchange => Self::Exchange(exchange.to_owned()),
        }
    }

    /// The value of the header that its binding matches.
    fn to_header(&self) -> String {
        match self {
            Self::Queue(name) => format!("queue:{name}"),
            Self::Exchange(name) => format!("exchange:{name}"),
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue `{name}`"),
            Self::Exchange(name) => write!(f, "exchange `{name}`"),
        }
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
                let exchange = exchange_of(fence);
                let what = format!("delete exchange `{exchange}`");
                let delete = async |mut scratch: Scratch| {
                    let (name, options) = (short(&exchange)?, ExchangeDeleteOptions::default());
                    scratch.run(async |c| c.exchange_delete(name, options).await).await
                };
                self.amqp.ask(&what, delete).await?;
            }
            if !closing.is_empty() {
                runtime::sleep(ROUTING_GRACE).await;
            }
            let exchange = exchange_of(fence);
            let open = async |mut scratch: Scratch| {
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                let (name, kind) = (short(&exchange)?, lapin::ExchangeKind::Headers);
                scratch
                    .run(async |c| c.exchange_declare(name, kind, options, FieldTable::default()).await)
                    .await?;
                let mut arguments = FieldTable::default();
                arguments.insert("x-match".into(), AMQPValue::LongString("all".into()));
                let (queue, name, options) = (short(STREAM)?, short(&exchange)?, QueueBindOptions::default());
                scratch.run(async |c| c.queue_bind(queue, name, short("")?, options, arguments).await).await
            };
            self.amqp.ask(&format!("declare exchange `{exchange}`"), open).await
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
            if !self.bind(fence, &target).await? {
                return Ok(Fenced::Closed);
            }
            let mut message = publication.message;
            message.headers.set(names::SCHEDULE_LOG, entry);
            message.headers.set(names::SCHEDULE_TO, target.to_header());
            let exchange = exchange_of(fence);
            let outgoing = Outgoing::new(&exchange, &publication.routing_key, message, true)?;
            match self.amqp.publisher.publish(outgoing).await {
                Ok(()) => Ok(Fenced::Published),
                Err(error) if error.is_topology() => Ok(Fenced::Closed),
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

fn exchange_of(fence: &str) -> String {
    format!("{STREAM}.{fence}")
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
