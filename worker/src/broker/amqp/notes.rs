//! Notes on tasks: a stream for each register.
//!
//! A stream keeps what was published to it, for whoever reads, from wherever they begin. To know when all that was noted
//! so far has been read, a reader publishes a marker and reads until it comes by.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::broker::{Note, Notes, Register};
use crate::connection::amqp::link::Session;
use crate::connection::amqp::topology::{Scratch, short};
use crate::connection::amqp::{Amqp, Outgoing};
use crate::error::{Error, Result};
use crate::message::{JSON, Message, Properties};

/// How long reading may take, from a beginning that may be far back.
const READING: Duration = Duration::from_secs(60);
/// How many entries are sent ahead of the ack.
const WINDOW: u16 = 1000;
/// What a stream may take of the disk.
const MAX_BYTES: i64 = 1 << 30;
/// A stream forgets whole segments only.
const SEGMENT: i64 = 4 << 20;

/// One entry of a stream.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    /// An id, and until when the note holds, in milliseconds since 1970.
    Note(String, i64),
    /// Somebody reads up to here.
    Marker(String),
}

/// Where to begin to read.
#[derive(Clone, Copy)]
enum From {
    Offset(u64),
    Time(DateTime<Utc>),
}

/// The streams of one broker.
pub(super) struct Notebook {
    amqp: Arc<Amqp>,
    /// What was read for [`is_noted`](Self::is_noted), which asks often.
    known: Mutex<HashMap<Register, Known>>,
}

struct Known {
    ends: HashMap<String, DateTime<Utc>>,
    next: u64,
    /// When the last reading began.
    read_at: Instant,
}

impl Notebook {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self { amqp, known: Mutex::default() }
    }

    pub(super) async fn note(&self, register: Register, id: &str, lifetime: Duration) -> Result<()> {
        let until = Utc::now() + lifetime.min(register.longest());
        self.append(register, &Entry::Note(id.to_owned(), until.timestamp_millis())).await
    }

    pub(super) async fn notes(&self, register: Register, from: u64) -> Result<Notes> {
        self.read(register, From::Offset(from)).await
    }

    pub(super) async fn is_noted(&self, register: Register, id: &str, lifetime: Duration) -> Result<bool> {
        let asked_at = Instant::now();
        let mut known = self.known.lock().await;
        let stale = known.get(&register).is_none_or(|known| known.read_at < asked_at);
        // Of many that wait here, one reads for all.
        if stale {
            let read_at = Instant::now();
            let from = match known.get(&register) {
                Some(known) => From::Offset(known.next),
                None => From::Time(Utc::now() - lifetime.min(register.longest())),
            };
            let Notes { notes, next } = self.read(register, from).await?;
            let known =
                known.entry(register).or_insert_with(|| Known { ends: HashMap::new(), next, read_at });
            let now = Utc::now();
            known.ends.retain(|_, until| *until > now);
            known.ends.extend(notes.into_iter().map(|note| (note.id, note.until)));
            (known.next, known.read_at) = (next, read_at);
        }
        let end = known.get(&register).and_then(|known| known.ends.get(id));
        Ok(end.is_some_and(|until| *until > Utc::now()))
    }

    /// Publishes an entry; a stream that is not there is made.
    async fn append(&self, register: Register, entry: &Entry) -> Result<()> {
        let properties = Properties { content_type: Some(JSON.into()), ..Properties::default() };
        let body = serde_json::to_vec(entry).map_err(|error| {
            Error::codec("an entry of a register cannot be written as JSON").with_source(error)
        })?;
        let message = Message { properties, body: body.into(), ..Message::default() };
        let outgoing = Outgoing::new("", register.name(), &message, true)?;
        match self.amqp.publisher.publish(outgoing.clone()).await {
            Err(error) if error.is_unroutable() => {
                self.declare(register).await?;
                self.amqp.publisher.publish(outgoing).await
            }
            published => published,
        }
    }

    async fn declare(&self, register: Register) -> Result<()> {
        let amqp = Arc::clone(&self.amqp);
        let what = format!("declare stream `{}`", register.name());
        self.amqp
            .run(async move {
                amqp.link.request(&what, amqp.limit, async |session| declare(&session, register).await).await
            })
            .await
    }

    async fn read(&self, register: Register, from: From) -> Result<Notes> {
        let marker = Uuid::new_v4().to_string();
        self.append(register, &Entry::Marker(marker.clone())).await?;
        let amqp = Arc::clone(&self.amqp);
        let what = format!("read stream `{}`", register.name());
        self.amqp
            .run(async move {
                let read = async |session: Session| read(&session, register, from, &marker).await;
                amqp.link.request(&what, READING, read).await
            })
            .await
    }
}

async fn declare(session: &Session, register: Register) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    let hours = register.longest().as_secs().div_ceil(3600);
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    arguments.insert("x-max-age".into(), AMQPValue::LongString(format!("{hours}h").into()));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(MAX_BYTES));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(SEGMENT));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let name = short(register.name())?;
    Scratch::new(session)
        .run(async |channel| channel.queue_declare(name, options, arguments).await.map(drop))
        .await
}

async fn read(session: &Session, register: Register, from: From, marker: &str) -> lapin::Result<Notes> {
    let channel = session.channel().await?;
    channel.basic_qos(WINDOW, BasicQosOptions { global: false }).await?;
    let mut arguments = FieldTable::default();
    let offset = match from {
        From::Offset(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
        From::Time(time) => AMQPValue::Timestamp(time.timestamp().unsigned_abs()),
    };
    arguments.insert("x-stream-offset".into(), offset);
    let tag = short(&format!("mq-worker.{marker}"))?;
    let options = BasicConsumeOptions::default();
    let mut entries = channel.basic_consume(short(register.name())?, tag, options, arguments).await?;
    let mut found = Notes::default();
    let mut unacked = 0;
    while let Some(delivery) = entries.next().await {
        let delivery = delivery?;
        let headers = delivery.properties.headers().as_ref();
        let offset = headers.and_then(|headers| headers.inner().get("x-stream-offset"));
        if let Some(AMQPValue::LongLongInt(offset)) = offset {
            found.next = offset.unsigned_abs() + 1;
        }
        match serde_json::from_slice(&delivery.data) {
            Ok(Entry::Marker(other)) if other == marker => {
                let _ = channel.close(200, "done".into()).await;
                return Ok(found);
            }
            Ok(Entry::Note(id, until)) => {
                let until = DateTime::from_timestamp_millis(until).unwrap_or_default();
                found.notes.push(Note { id, until });
            }
            Ok(Entry::Marker(_)) => {}
            Err(error) => {
                tracing::warn!(stream = register.name(), %error, "an entry that is none of ours");
            }
        }
        unacked += 1;
        if unacked >= WINDOW / 2 {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
            unacked = 0;
        }
    }
    Err(std::io::Error::other("the stream ended before its marker: was it deleted?").into())
}
