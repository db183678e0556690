//! Messages as AMQP carries them: properties and the header table, both ways.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Map, Number, Value};

use super::delay::is_rung;
use super::properties::DEEPEST;
use crate::error::{Error, Result};
use crate::message::headers::{format_time, is_trace};
use crate::message::{Headers, Message, Properties};

/// A short string, if the text fits into one. `ShortString::from` would panic.
pub(crate) fn short(what: &str, text: &str) -> Result<ShortString> {
    ShortString::try_new(text)
        .map_err(|_| Error::config(format!("{what} is {} bytes long; AMQP allows 255", text.len())))
}

/// The properties and headers of a message.
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

/// The message that was delivered.
pub(crate) fn from_amqp(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let expiration = properties.expiration().as_ref().and_then(|text| text.as_str().parse().ok());
    Message {
        properties: Properties {
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
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

/// The header table, and why the broker moved the message to where it is now, in the headers in which a worker writes it.
fn headers(table: &FieldTable) -> Headers {
    let mut headers = from_table(table);
    if let Some((reason, queue, at)) = death(table)
        // What a worker wrote later says more.
        && headers.dead_at().is_none_or(|noted| noted.timestamp() <= at.timestamp())
    {
        headers.set_broker_death(reason, queue, at);
    }
    headers
}

/// Reason, queue and time of the last time that the broker dead-lettered the message, unless that was a step of its delay.
fn death(table: &FieldTable) -> Option<Death<'_>> {
    let AMQPValue::FieldArray(deaths) = table.inner().get("x-death")? else { return None };
    // The latest comes first, also among those of one second.
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

/// Celery takes a timestamp for a time; everywhere else it is a number.
fn from_time(name: &str, value: &AMQPValue) -> Option<Value> {
    let AMQPValue::Timestamp(seconds) = value else { return None };
    let time = DateTime::from_timestamp(i64::try_from(*seconds).ok()?, 0)?;
    matches!(name, "eta" | "expires").then(|| format_time(time).into())
}

/// Any AMQP value as JSON. What JSON has no word for becomes the nearest text or number.
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

/// Text, or else the bytes one by one: they go round unharmed, if not in the same type.
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

/// JSON as AMQP, in the few types that every client reads: `S I l d t V A F`.
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

/// The bytes of the frame that carries these properties. It cannot be split: where it is larger than the broker takes in one
/// frame, the broker closes the whole connection.
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

/// With the letter of its type.
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
mod tests {
    use super::*;
    use lapin::protocol::basic::gen_properties;
    use lapin::types::{ByteArray, DecimalValue};
    use serde_json::json;

    #[test]
    fn a_message_survives_the_wire() {
        let headers = json!({
            "task": "t", "id": "i", "retries": 3, "big": 5_000_000_000_i64, "timelimit": [1.5, null],
            "ignore_result": true, "stamps": {"a": ["b"]}, "eta": null,
        });
        let message = Message {
            properties: Properties {
                content_type: Some("application/json".into()),
                content_encoding: Some("utf-8".into()),
                correlation_id: Some("c".into()),
                reply_to: Some("r".into()),
                message_id: Some("m".into()),
                priority: Some(7),
                expiration: Some(Duration::from_millis(1500)),
                transient: true,
                kind: Some("k".into()),
                app_id: Some("a".into()),
                timestamp: Some(1_900_000_000),
            },
            headers: serde_json::from_value(headers).expect("headers"),
            body: b"body".to_vec().into(),
        };
        let properties = to_amqp(&message).expect("it fits");
        assert_eq!(from_amqp(&properties, b"body".to_vec()), message);
    }

    #[test]
    fn only_types_that_every_client_reads_are_written() {
        let value = to_value(&json!([1, 5_000_000_000_i64, -1.0e30, 1.5, true, null, "s", {"k": 1}]), 0)
            .expect("it fits");
        let AMQPValue::FieldArray(items) = value else { panic!("an array") };
        let ids: String = items.as_slice().iter().map(|item| item.get_type().get_id()).collect();
        assert_eq!(ids, "IlddtVSF");
    }

    #[test]
    fn the_frame_of_the_headers_is_measured_as_lapin_writes_it() {
        let headers = json!({
            "task": "t", "n": [1, 5_000_000_000_i64, 1.5, true, null, {"a": {"b": "é"}}], "empty": {}, "none": [],
        });
        let mut message = Message {
            properties: Properties {
                content_type: Some("application/json".into()),
                correlation_id: Some("é".repeat(127)),
                reply_to: Some("r".into()),
                priority: Some(7),
                expiration: Some(Duration::from_millis(1500)),
                app_id: Some("a".into()),
                timestamp: Some(1_900_000_000),
                ..Properties::default()
            },
            headers: serde_json::from_value(headers).expect("headers"),
            ..Message::default()
        };
        for note in [0, 1, 200_000] {
            message.headers.set("note", "x".repeat(note));
            let properties = to_amqp(&message).expect("it fits");
            let mut buffer = vec![0; 300_000];
            let written = gen_properties(&properties)((&mut buffer[..]).into()).expect("there is room");
            // Beside the properties: type, channel, length; class, weight, size of the body; end.
            let around = (1 + 2 + 4) + (2 + 2 + 8) + 1;
            assert_eq!(header_frame(&properties), around + written.into_inner().1 as usize);
        }
    }

    #[test]
    fn an_integer_that_amqp_has_no_room_for_is_an_error_that_names_its_header() {
        for value in [json!(u64::MAX), json!([{"deep": i64::MAX as u64 + 1}])] {
            let headers = [("big".to_owned(), value)].into_iter().collect();
            let error = to_amqp(&Message { headers, ..Message::default() }).expect_err("too large");
            let text = format!("{error:#}");
            assert!(
                error.is_config() && text.contains("header `big`") && text.contains("is too large"),
                "{text}"
            );
        }
        for value in [json!(i64::MAX), json!(i64::MIN)] {
            assert_eq!(from_value(&to_value(&value, 0).expect("it fits")), value);
        }
    }

    #[test]
    fn a_timestamp_is_a_time_where_celery_reads_one() {
        let mut table = FieldTable::default();
        for name in ["eta", "expires", "other"] {
            table.insert(name.into(), AMQPValue::Timestamp(1_925_089_445));
        }
        let headers = from_table(&table);
        let time = |time: std::result::Result<Option<DateTime<_>>, _>| {
            time.expect("a time").map(|time| time.timestamp())
        };
        assert_eq!(
            (time(headers.eta()), time(headers.expires())),
            (Some(1_925_089_445), Some(1_925_089_445))
        );
        assert_eq!(headers.get("other"), Some(&json!(1_925_089_445)));
    }

    #[test]
    fn values_of_every_type_are_read() {
        for (value, expected) in [
            (AMQPValue::Timestamp(7), json!(7)),
            (AMQPValue::Timestamp(u64::MAX), json!("18446744073709551615")),
            (AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 150 }), json!(1.5)),
            (AMQPValue::ByteArray(ByteArray::from(&b"text"[..])), json!("text")),
            (AMQPValue::ByteArray(ByteArray::from(&[0xff, 1][..])), json!([255, 1])),
            (AMQPValue::LongString(vec![0xc3].into()), json!([195])),
            (AMQPValue::Double(f64::NAN), Value::Null),
            (AMQPValue::ShortShortInt(-1), json!(-1)),
            (AMQPValue::LongUInt(u32::MAX), json!(u32::MAX)),
            (AMQPValue::Void, Value::Null),
        ] {
            assert_eq!(from_value(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn the_brokers_traces_go_neither_in_nor_out() {
        let headers: Headers =
            ["x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count", "x-own"]
                .into_iter()
                .map(|name| (name.to_owned(), json!(1)))
                .collect();
        let message = Message { headers, ..Message::default() };
        let properties = to_amqp(&message).expect("it fits");
        let table = properties.headers().as_ref().expect("headers");
        assert_eq!(table.inner().keys().map(ShortString::as_str).collect::<Vec<_>>(), ["x-own"]);
        let mut table = table.clone();
        table.insert("x-death".into(), AMQPValue::LongInt(1));
        assert!(from_table(&table).get("x-death").is_none());
    }

    #[test]
    fn the_reason_why_the_broker_moved_a_message_is_kept() {
        let death = |reason: &str, queue: &str, seconds| {
            let mut death = FieldTable::default();
            death.insert("reason".into(), AMQPValue::LongString(reason.into()));
            death.insert("queue".into(), AMQPValue::LongString(queue.into()));
            death.insert("time".into(), AMQPValue::Timestamp(seconds));
            AMQPValue::FieldTable(death)
        };
        let with = |deaths: Vec<AMQPValue>, noted: Option<&str>| {
            let mut table = FieldTable::default();
            table.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
            if let Some(at) = noted {
                table.insert("mq-dead-at".into(), AMQPValue::LongString(at.into()));
                table.insert("mq-dead-reason".into(), AMQPValue::LongString("rejected".into()));
                table.insert("mq-dead-error".into(), AMQPValue::LongString("no".into()));
            }
            let headers = headers(&table);
            let text = |name| headers.get_str(name).map(ToOwned::to_owned);
            (text("mq-dead-reason"), text("mq-dead-queue"), text("mq-dead-error"))
        };
        let some = |text: &str| Some(text.to_owned());
        let rung = death("expired", "celery_delayed_3", 1_900_000_009);
        let (first, last) = (death("maxlen", "a", 1_900_000_000), death("expired", "b", 1_900_000_005));
        assert_eq!(with(vec![rung.clone()], None), (None, None, None));
        let deaths = vec![rung, last, first];
        assert_eq!(with(deaths.clone(), None), (some("expired"), some("b"), None));
        assert_eq!(
            with(deaths.clone(), Some("2020-01-01T00:00:00.000000+00:00")),
            (some("expired"), some("b"), None)
        );
        let later = with(deaths, Some("2031-01-01T00:00:00.000000+00:00"));
        assert_eq!(later, (some("rejected"), None, some("no")));
    }

    #[test]
    fn texts_that_are_too_long_are_errors_and_no_panics() {
        let long = "x".repeat(256);
        let properties = Properties { reply_to: Some(long.clone()), ..Properties::default() };
        assert!(to_amqp(&Message { properties, ..Message::default() }).is_err_and(|e| e.is_config()));
        let headers = [(long, json!(1))].into_iter().collect();
        assert!(to_amqp(&Message { headers, ..Message::default() }).is_err_and(|e| e.is_config()));
    }

    #[test]
    fn what_is_nested_too_deeply_to_be_read_is_not_written() {
        let nested = |levels: usize| (0..levels).fold(Value::Null, |value, _| json!([value]));
        let message = |value| Message {
            headers: [("deep".to_owned(), value)].into_iter().collect(),
            ..Message::default()
        };
        assert!(to_amqp(&message(nested(DEEPEST))).is_ok());
        assert!(to_amqp(&message(nested(DEEPEST + 1))).is_err_and(|error| error.is_config()));
    }
}
