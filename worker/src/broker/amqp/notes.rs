//! Notes on tasks: a stream for each register.
//!
//! A stream keeps what was published to it, for every reader, from any position. To know when all notes so far have been
//! read, a reader publishes a marker and reads up to it. A reader that only follows publishes none: markers stay as long
//! as notes, and every new reader has to read them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::streams;
use crate::broker::{Note, Notes, Register};
use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::connection::amqp::link::Session;
use crate::connection::amqp::subscription::{Ack, Event, Source};
use crate::connection::amqp::{Amqp, Outgoing, runtime};
use crate::error::{Error, Result, Undecodable};
use crate::message::{JSON, Message, Properties};
use crate::tracing;

/// How long reading one piece may take.
const READING: Duration = Duration::from_secs(60);
/// How many entries are read at a time. A register may hold millions: a lost connection must not start the reading
/// over, and a long register must not time out.
const PIECE: usize = 100_000;
/// How long a reader waits for an entry while its marker has not arrived. The marker was published, so it must come.
const SILENCE: Duration = Duration::from_secs(10);
/// How long an entry whose outcome is unknown is published again, and the pause before each time.
const REPEATING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// How long a follower waits for the first entry: a stream that exists has one.
const FIRST: Duration = Duration::from_secs(3);
/// After this time without a further entry, a follower has seen all entries, or will see them the next time.
const QUIET: Duration = Duration::from_millis(300);
/// How many entries the broker may send ahead of the acks.
const WINDOW: u16 = 1000;
/// How much of the disk a stream may use.
const MAX_BYTES: i64 = 1 << 30;
/// A stream discards whole segments only.
const SEGMENT: i64 = 4 << 20;

/// One entry of a stream.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    /// An id, and until when the note holds, in milliseconds since 1970.
    Note(String, i64),
    /// The same for a task that is to be stopped by force.
    Force(String, i64),
    /// A reader reads up to this entry.
    Marker(String),
}

/// Where to start reading.
#[derive(Clone, Copy)]
enum From {
    /// The number of an entry. The one before it is requested too: if it is missing, the stream was replaced since the
    /// last read.
    Offset(u64),
    Time(DateTime<Utc>),
}

/// The result of one read.
struct Piece {
    notes: Vec<Note>,
    /// Where to continue; `None` if there was not a single entry.
    next: Option<u64>,
    end: End,
}

/// Why a piece ended.
enum End {
    Marker,
    Full,
    Silent,
}

/// The streams of one broker.
pub(super) struct Notebook {
    amqp: Arc<Amqp>,
    /// Notes cached for [`is_noted`](Self::is_noted), which is called often.
    known: Mutex<HashMap<Register, Known>>,
    /// Makes concurrent first notes declare the stream only once: RabbitMQ closes the connection over many declarations
    /// at a time.
    making: Mutex<()>,
}

struct Known {
    ends: HashMap<String, DateTime<Utc>>,
    next: u64,
    /// When the last read started.
    read_at: Instant,
}

impl Notebook {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self { amqp, known: Mutex::default(), making: Mutex::default() }
    }

    pub(super) async fn note(&self, register: Register, note: &Note) -> Result<()> {
        let until = note.until.min(Utc::now() + register.max_lifetime()).timestamp_millis();
        let entry = if note.terminate { Entry::Force } else { Entry::Note };
        self.append(register, &entry(note.id.clone(), until)).await
    }

    /// Reads everything that was noted before.
    pub(super) async fn notes(&self, register: Register, from: u64) -> Result<Notes> {
        self.read_to_marker(register, From::Offset(from)).await
    }

    /// Reads what is available now.
    pub(super) async fn newer_notes(&self, register: Register, from: u64) -> Result<Notes> {
        self.read(register, From::Offset(from), None).await
    }

    pub(super) async fn is_noted(&self, register: Register, id: &str, lifetime: Duration) -> Result<bool> {
        let asked_at = Instant::now();
        let known = runtime::timeout(READING, self.known.lock()).await;
        let mut known = known.map_err(|_| busy(register))?;
        let stale = known.get(&register).is_none_or(|known| known.read_at < asked_at);
        // Of many callers that wait here, one reads for all.
        if stale {
            let read_at = Instant::now();
            let from = match known.get(&register) {
                Some(known) => From::Offset(known.next),
                None => From::Time(Utc::now() - lifetime.min(register.max_lifetime())),
            };
            let Notes { notes, next } = self.read_to_marker(register, from).await?;
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

    /// Publishes an entry, and declares the stream if it is missing.
    async fn append(&self, register: Register, entry: &Entry) -> Result<()> {
        let properties = Properties { content_type: Some(JSON.into()), ..Properties::default() };
        let body = serde_json::to_vec(entry).map_err(|error| {
            Error::codec("an entry of a register cannot be written as JSON").with_source(error)
        })?;
        let message = Message { properties, body: body.into(), ..Message::default() };
        let outgoing = Arc::new(Outgoing::new("", register.name(), message, true)?);
        let begun = Instant::now();
        // An entry states a fact, so it may be recorded twice. RabbitMQ closes the channel with an "internal error" while a
        // stream elects its leader.
        let publish = async || loop {
            match self.amqp.stream_publisher.publish(Arc::clone(&outgoing)).await {
                Err(error) if error.is_unknown() && begun.elapsed() < REPEATING => {
                    runtime::sleep(PAUSE).await
                }
                Err(error) if error.is_access_refused() => return Err(no_stream(register, &error)),
                published => return published,
            }
        };
        match publish().await {
            Err(error) if error.is_unroutable() => {}
            published => return published,
        }
        let making = runtime::timeout(READING, self.making.lock()).await;
        let _one = making.map_err(|_| busy(register))?;
        match publish().await {
            Err(error) if error.is_unroutable() => {}
            published => return published,
        }
        self.ask(register, "declare", async |session| declare(session, register).await).await?;
        publish().await
    }

    async fn read_to_marker(&self, register: Register, from: From) -> Result<Notes> {
        let marker = Uuid::new_v4().to_string();
        self.append(register, &Entry::Marker(marker.clone())).await?;
        self.read(register, from, Some(marker)).await
    }

    /// Reads up to a marker, or as far as entries are available.
    async fn read(&self, register: Register, mut from: From, marker: Option<String>) -> Result<Notes> {
        let mut found = Notes::default();
        loop {
            let read = async |session| read(&session, register, from, marker.as_deref()).await;
            let Piece { notes, next, end } = self.ask(register, "read", read).await?;
            found.notes.extend(notes);
            found.next = next.unwrap_or(found.next);
            match (end, from) {
                (End::Marker, _) => return Ok(found),
                (End::Full, _) => {
                    tracing::info!(
                        stream = register.name(),
                        entries = found.next,
                        "still reading the stream"
                    );
                    from = From::Offset(found.next);
                }
                (End::Silent, From::Offset(1..)) if next.is_none() => {
                    tracing::debug!(
                        stream = register.name(),
                        "the stream was replaced: reading it from the beginning"
                    );
                    from = From::Offset(0);
                }
                (End::Silent, _) if marker.is_none() => return Ok(found),
                (End::Silent, _) => {
                    return Err(Error::timeout(format!(
                        "cannot read stream `{}`: no entry arrived within {}",
                        register.name(),
                        humantime::format_duration(SILENCE)
                    )));
                }
            }
        }
    }

    /// Sends a request that the broker may refuse.
    async fn ask<T, F>(&self, register: Register, what: &str, ask: impl Fn(Session) -> F) -> Result<T>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let what = format!("{what} stream `{}`", register.name());
        let answer = streams::ask(&self.amqp, &what, READING, ask).await?;
        answer.map_err(|error| match reply_code(&error) {
            // Its leader is not available yet, or it is not declared yet: that does not mean that nothing was noted.
            Some(code::NOT_FOUND) => {
                Error::connection(format!("stream `{}` is not available: {}", register.name(), text(&error)))
            }
            _ => no_stream(register, &text(&error)),
        })
    }
}

/// The error if the broker refuses the stream, and waiting does not help.
fn no_stream(register: Register, why: &dyn std::fmt::Display) -> Error {
    Error::unsupported(format!(
        "this RabbitMQ cannot store notes on tasks, which requires stream `{}` (version 3.9, and permission to declare it): {why}",
        register.name()
    ))
}

/// The error if other callers have been waiting for the stream for too long.
fn busy(register: Register) -> Error {
    Error::timeout(format!(
        "cannot use stream `{}`: other callers have held it for {}",
        register.name(),
        humantime::format_duration(READING)
    ))
}

fn noted(id: String, until: i64, terminate: bool) -> Note {
    Note { id, until: DateTime::from_timestamp_millis(until).unwrap_or_default(), terminate }
}

async fn declare(session: Session, register: Register) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    let hours = register.max_lifetime().as_secs().div_ceil(3600);
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

async fn read(
    session: &Session,
    register: Register,
    from: From,
    marker: Option<&str>,
) -> lapin::Result<Piece> {
    let mut arguments = FieldTable::default();
    let (begin, first) = match from {
        From::Offset(offset) => {
            (AMQPValue::LongLongInt(i64::try_from(offset.saturating_sub(1)).unwrap_or(i64::MAX)), offset)
        }
        From::Time(time) => (AMQPValue::Timestamp(time.timestamp().unsigned_abs()), 0),
    };
    arguments.insert("x-stream-offset".into(), begin);
    let tag = format!("mq-worker.{}", Uuid::new_v4());
    let source = Source { queue: register.name().into(), prefetch: WINDOW, tag, arguments };
    let mut piece = Piece { notes: Vec::new(), next: None, end: End::Full };
    let mut entries = match source.subscribe(session).await {
        // Nothing was ever noted: the first note declares the stream.
        Err(error) if marker.is_none() && is_missing(&error) => {
            return Ok(Piece { end: End::Silent, ..piece });
        }
        subscribed => subscribed?,
    };
    let mut count = 0;
    while count < PIECE {
        let silence = match (marker, count) {
            (Some(_), _) => SILENCE,
            (None, 0) => FIRST,
            (None, _) => QUIET,
        };
        let delivery = match runtime::timeout(silence, entries.next(true)).await {
            Ok(Event::Delivered(delivery)) => delivery,
            Ok(Event::Written | Event::Confirmed) => continue,
            Ok(Event::Ended) => {
                return Err(std::io::Error::other("the stream ended: was it deleted?").into());
            }
            Ok(Event::Lost(error)) => return Err(error),
            Err(_) => {
                piece.end = End::Silent;
                break;
            }
        };
        count += 1;
        let headers = delivery.properties.headers().as_ref();
        let offset = match headers.and_then(|headers| headers.inner().get("x-stream-offset")) {
            Some(AMQPValue::LongLongInt(offset)) => offset.unsigned_abs(),
            _ => 0,
        };
        piece.next = Some(offset + 1);
        match serde_json::from_slice(&delivery.data) {
            _ if offset < first => {}
            Ok(Entry::Marker(read)) if marker.is_some_and(|marker| marker == read) => {
                piece.end = End::Marker;
                break;
            }
            Ok(Entry::Note(id, until)) => piece.notes.push(noted(id, until, false)),
            Ok(Entry::Force(id, until)) => piece.notes.push(noted(id, until, true)),
            Ok(Entry::Marker(_)) => {}
            Err(error) => {
                let error = Undecodable::from(&error);
                tracing::warn!(stream = register.name(), %error, "ignored an entry with an unknown format");
            }
        }
        if count % usize::from(WINDOW / 2) == 0 {
            entries.ack(vec![Ack { tag: delivery.delivery_tag, multiple: true }]);
        }
    }
    Ok(piece)
}

/// True when the stream does not exist; false while it merely cannot be reached.
fn is_missing(error: &lapin::Error) -> bool {
    reply_code(error) == Some(code::NOT_FOUND) && text(error).contains("no queue '")
}
