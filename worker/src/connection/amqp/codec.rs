//! Converts messages to and from AMQP's properties and header table.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Map, Number, Value};

use super::delay::is_rung;
use super::properties::DEEPEST;
use crate::error::{Error, Result};
use crate::message::headers::{format_time, is_trace};
use crate::message::{Headers, JSON, Message, Properties, UTF_8};

/// Converts a text to a short string, or returns an error if it is too long: `ShortString::from` would panic.
pub(crate) fn short(what: &str, text: &str) -> Result<ShortString> {
    ShortString::try_new(text)
        .map_err(|_| Error::config(format!("{what} is {} bytes long; AMQP allows 255", text.len())))
}

/// Converts the properties and headers of a message.
///
/// # Errors
/// A text that is too long for AMQP.
pub(crate) fn to_amqp(message: &Message) -> Result<BasicProperties> {
    let Properties {
        content_type,
        content_encoding,
        correlation_id,
        reply_to,
        message_id,
        priority,
        expiration,
        transient,
        kind,
        app_id,
        timestamp,
    } = &message.properties;
    let mut properties = BasicProperties::default().with_delivery_mode(if *transient { 1 } else { 2 });
    if let Some(text) = content_type {
        properties = properties.with_content_type(short("content_type", text)?);
    }
    if let Some(text) = content_encoding {
        properties = properties.with_content_encoding(short("content_encoding", text)?);
    }
    if let Some(text) = correlation_id {
        properties = properties.with_correlation_id(short("correlation_id", text)?);
    }
    if let Some(text) = reply_to {
        properties = properties.with_reply_to(short("reply_to", text)?);
    }
    if let Some(text) = message_id {
        properties = properties.with_message_id(short("message_id", text)?);
    }
    if let Some(text) = kind {
        properties = properties.with_type(short("type", text)?);
    }
    if let Some(text) = app_id {
        properties = properties.with_app_id(short("app_id", text)?);
    }
    if let Some(priority) = priority {
        properties = properties.with_priority(*priority);
    }
    if let Some(timestamp) = timestamp {
        properties = properties.with_timestamp(*timestamp);
    }
    if let Some(expiration) = expiration {
        // The broker refuses more than 2^32 - 1 and closes the channel.
        let millis = expiration.as_millis().min(u128::from(u32::MAX));
        properties = properties.with_expiration(short("expiration", &millis.to_string())?);
    }
    if !message.headers.is_empty() {
        properties =
            properties.with_headers(to_table(message.headers.iter().filter(|(n, _)| !is_trace(n)), 0)?);
    }
    Ok(properties)
}

/// Converts a delivered message.
pub(crate) fn from_amqp(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let expiration = properties.expiration().as_ref().and_then(|text| text.as_str().parse().ok());
    Message {
        properties: Properties {
            content_type: known(properties.content_type(), JSON),
            content_encoding: known(properties.content_encoding(), UTF_8),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            message_id: text(properties.message_id()),
            priority: *properties.priority(),
            expiration: expiration.map(Duration::from_millis),
            transient: *properties.delivery_mode() == Some(1),
            kind: text(properties.kind()),
            app_id: text(properties.app_id()),
            timestamp: *properties.timestamp(),
        },
        headers: properties.headers().as_ref().map(headers).unwrap_or_default(),
        body: body.into(),
    }
}

/// Reads a text that is nearly always the `usual` one, which need not be copied.
fn known(text: &Option<ShortString>, usual: &'static str) -> Option<Cow<'static, str>> {
    let text = text.as_ref()?.as_str();
    Some(if text == usual { Cow::Borrowed(usual) } else { Cow::Owned(text.to_owned()) })
}

/// Converts the header table. If the broker dead-lettered the message, the reason is put into the headers that a worker
/// uses for it.
fn headers(table: &FieldTable) -> Headers {
    let mut headers = from_table(table);
    if let Some((reason, queue, at)) = death(table)
        // A reason that a worker wrote later is more specific.
        && headers.dead_at().is_none_or(|noted| noted.timestamp() <= at.timestamp())
    {
        headers.set_dropped_by_broker(reason, queue, at);
    }
    headers
}

/// Returns the last time that the broker dead-lettered the message, not counting rungs of a delay.
fn death(table: &FieldTable) -> Option<Death<'_>> {
    let AMQPValue::FieldArray(deaths) = table.inner().get("x-death")? else { return None };
    // The latest comes first, even among entries of the same second.
    let deaths = deaths.as_slice().iter().filter_map(one_death).filter(|(_, queue, _)| !is_rung(queue));
    deaths.reduce(|latest, death| if death.2 > latest.2 { death } else { latest })
}

/// Reason, queue and time.
type Death<'a> = (&'a str, &'a str, DateTime<Utc>);

fn one_death(death: &AMQPValue) -> Option<Death<'_>> {
    let AMQPValue::FieldTable(death) = death else { return None };
    let text = |name: &str| match death.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    };
    let at = match death.inner().get("time") {
        Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok(),
        _ => None,
    };
    let at = at.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).unwrap_or_default();
    Some((text("reason")?, text("queue")?, at))
}

fn from_table(table: &FieldTable) -> Headers {
    table
        .into_iter()
        .filter(|(name, _)| !is_trace(name.as_str()))
        .map(|(name, value)| (name.as_str(), value))
        .map(|(name, value)| (name.to_owned(), from_time(name, value).unwrap_or_else(|| from_value(value))))
        .collect()
}

/// Reads a timestamp as a time where Celery does; everywhere else it is a number.
fn from_time(name: &str, value: &AMQPValue) -> Option<Value> {
    let AMQPValue::Timestamp(seconds) = value else { return None };
    let time = DateTime::from_timestamp(i64::try_from(*seconds).ok()?, 0)?;
    matches!(name, "eta" | "expires").then(|| format_time(time).into())
}

/// Converts any AMQP value to JSON. Types that JSON lacks become the nearest text or number.
fn from_value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(v) => Value::Bool(*v),
        AMQPValue::ShortShortInt(v) => (*v).into(),
        AMQPValue::ShortShortUInt(v) => (*v).into(),
        AMQPValue::ShortInt(v) => (*v).into(),
        AMQPValue::ShortUInt(v) => (*v).into(),
        AMQPValue::LongInt(v) => (*v).into(),
        AMQPValue::LongUInt(v) => (*v).into(),
        AMQPValue::LongLongInt(v) => (*v).into(),
        AMQPValue::Float(v) => Number::from_f64(f64::from(*v)).map_or(Value::Null, Value::Number),
        AMQPValue::Double(v) => Number::from_f64(*v).map_or(Value::Null, Value::Number),
        AMQPValue::DecimalValue(v) => Number::from_f64(f64::from(v.value) / 10_f64.powi(i32::from(v.scale)))
            .map_or(Value::Null, Value::Number),
        AMQPValue::ShortString(v) => v.as_str().into(),
        AMQPValue::LongString(v) => from_bytes(v.as_bytes()),
        AMQPValue::ByteArray(v) => from_bytes(v.as_slice()),
        AMQPValue::FieldArray(v) => v.as_slice().iter().map(from_value).collect(),
        AMQPValue::Timestamp(v) => i64::try_from(*v).map_or_else(|_| v.to_string().into(), Value::from),
        AMQPValue::FieldTable(v) => Value::Object(
            v.into_iter().map(|(n, v)| (n.as_str().to_owned(), from_value(v))).collect::<Map<_, _>>(),
        ),
        AMQPValue::Void => Value::Null,
    }
}

/// Converts to text, or else to an array of the bytes: they survive a round trip, though not with the same type.
fn from_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().map(|byte| Value::from(*byte)).collect(),
    }
}

fn to_table<'a>(headers: impl Iterator<Item = (&'a str, &'a Value)>, depth: usize) -> Result<FieldTable> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        let value = to_value(value, depth).map_err(|error| error.context(format_args!("header `{name}`")))?;
        table.insert(short("the name of a header", name)?, value);
    }
    Ok(table)
}

/// Converts JSON to AMQP, using only types that every client reads: `S I l d t V A F`.
pub(super) fn to_value(value: &Value, depth: usize) -> Result<AMQPValue> {
    if depth > DEEPEST {
        return Err(Error::config(format!("a header is nested more than {DEEPEST} levels deep")));
    }
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(v) => AMQPValue::Boolean(*v),
        Value::Number(v) => match (v.as_i64(), v.as_f64().filter(|_| v.is_f64())) {
            (Some(v), _) => i32::try_from(v).map_or(AMQPValue::LongLongInt(v), AMQPValue::LongInt),
            (None, Some(v)) => AMQPValue::Double(v),
            (None, None) => {
                let most = i64::MAX;
                return Err(Error::config(format!(
                    "{v} is too large for RabbitMQ: at most {most}; send a text"
                )));
            }
        },
        Value::String(v) => AMQPValue::LongString(v.as_str().into()),
        Value::Array(v) => {
            let items = v.iter().map(|item| to_value(item, depth + 1)).collect::<Result<Vec<_>>>()?;
            AMQPValue::FieldArray(FieldArray::from(items))
        }
        Value::Object(v) => {
            AMQPValue::FieldTable(to_table(v.iter().map(|(n, v)| (n.as_str(), v)), depth + 1)?)
        }
    })
}

/// The size of the frame that carries these properties. It cannot be split: if it is larger than the broker's limit for
/// a frame, the broker closes the whole connection.
pub(super) fn header_frame(properties: &BasicProperties) -> usize {
    // Type, channel, length, class, weight, size of the body, flags, end.
    const AROUND: usize = 1 + 2 + 4 + 2 + 2 + 8 + 2 + 1;
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    AROUND
        + texts.into_iter().flatten().map(short_size).sum::<usize>()
        + properties.headers().as_ref().map_or(0, table_size)
        + properties.delivery_mode().map_or(0, |_| 1)
        + properties.priority().map_or(0, |_| 1)
        + properties.timestamp().map_or(0, |_| 8)
}

fn short_size(text: &ShortString) -> usize {
    1 + text.as_str().len()
}

fn table_size(table: &FieldTable) -> usize {
    4 + table.into_iter().map(|(name, value)| short_size(name) + value_size(value)).sum::<usize>()
}

/// The size of a value, including the letter of its type.
fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => short_size(text),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(items) => 4 + items.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(table) => table_size(table),
    }
}

#[cfg(test)]
mod tests;
