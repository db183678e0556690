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
        // In addition to the properties: type, channel, length; class, weight, size of the body; end.
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
    assert_eq!((time(headers.eta()), time(headers.expires())), (Some(1_925_089_445), Some(1_925_089_445)));
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
    let message =
        |value| Message { headers: [("deep".to_owned(), value)].into_iter().collect(), ..Message::default() };
    assert!(to_amqp(&message(nested(DEEPEST))).is_ok());
    assert!(to_amqp(&message(nested(DEEPEST + 1))).is_err_and(|error| error.is_config()));
}
