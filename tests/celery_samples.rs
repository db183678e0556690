//! Every task message captured from Celery decodes to the recorded call, and every bad one is refused with a reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mq_worker::backend::ResultRecord;
use mq_worker::message::{Body, Message, Properties, normalize};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Messages that must never run, with a part of the reason.
const REFUSED: &[(&str, &str)] = &[
    ("handmade-bad-json.json", "the body is not"),
    ("handmade-msgpack-ct.json", "the body is not"),
    ("handmade-proto2-bad-eta.json", "header `eta` is not a time: `yesterday`"),
    ("handmade-proto2-bad-kwargs.json", "`kwargs` is not an object"),
    ("handmade-short-body.json", "`embed` is missing"),
    ("handmade-eta-null-vs-empty.json", "header `expires` is not a time: ``"),
    ("handmade-root-id-empty-strings.json", "header `eta` is not a time: ``"),
    ("handmade-unknown-content-type.json", "the body is not"),
    ("task-pickle.json", "the body is not"),
];

/// Plain messages, which are not calls.
const PLAIN: &[&str] = &["handmade-not-a-task.json", "handmade-not-a-task-headers.json"];

#[derive(Deserialize)]
struct Sample {
    #[serde(default)]
    messages: Vec<Captured>,
}

#[derive(Deserialize)]
struct Captured {
    exchange: String,
    properties: Map<String, Value>,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    body: Value,
}

/// A fully decoded call.
#[derive(Debug, PartialEq)]
struct Call {
    task: String,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    embed: Value,
}

#[test]
fn every_captured_call_decodes_to_what_it_says() {
    let mut calls = 0;
    for (file, sample) in samples() {
        if PLAIN.contains(&file.as_str()) || REFUSED.iter().any(|(refused, _)| *refused == file) {
            continue;
        }
        for captured in sample.messages.iter().filter(|captured| is_call(captured)) {
            let message = message(captured);
            let call = decode(message.clone()).unwrap_or_else(|why| panic!("{file}: refused: {why}"));
            assert_eq!(call, expected(&file, captured), "{file}");
            calls += 1;
        }
    }
    assert_eq!(calls, 61, "messages that are calls, over all files");
}

#[test]
fn every_bad_message_is_refused_with_a_reason() {
    let samples = samples();
    for (file, reason) in REFUSED {
        let bad = message(&samples[*file].messages[0]);
        let why = decode(bad).expect_err(file);
        assert!(why.contains(reason), "{file}: {why}");
    }
}

#[test]
fn a_document_is_no_call() {
    let samples = samples();
    for file in PLAIN {
        let mut plain = message(&samples[*file].messages[0]);
        normalize(&mut plain, usize::MAX).expect(file);
        assert!(!plain.is_task(), "{file}");
        let body = plain.body.clone();
        let mut arguments = Body::plain(&body, plain.properties.content_type.as_deref()).arguments;
        assert_eq!(arguments.take::<Value>("document"), Ok(json!({"hello": 1})), "{file}");
    }
}

#[test]
fn every_captured_result_is_understood() {
    let mut results = 0;
    for (file, sample) in samples() {
        for captured in sample.messages.iter().filter(|captured| captured.body.get("status").is_some()) {
            let bytes = serde_json::to_vec(&captured.body).expect("JSON");
            let record = ResultRecord::from_json(&bytes).unwrap_or_else(|error| panic!("{file}: {error:#}"));
            assert_eq!(captured.body["task_id"], record.task_id, "{file}");
            assert_eq!(captured.body["status"], record.state.as_str(), "{file}");
            let failed = captured.body["result"].get("exc_type").is_some();
            assert_eq!(record.failure.is_some(), failed, "{file}");
            let value = record.value.map(|value| serde_json::from_str::<Value>(value.get()).expect("JSON"));
            assert_eq!(value, (!failed).then(|| captured.body["result"].clone()), "{file}");
            results += 1;
        }
    }
    assert!(results >= 15, "only {results}");
}

#[test]
fn single_facts_of_the_headers() {
    let samples = samples();
    let headers = |file: &str| {
        let mut message = message(&samples[file].messages[0]);
        normalize(&mut message, usize::MAX).expect(file);
        message.headers
    };
    let seconds = |limit: Option<std::time::Duration>| limit.map(|limit| limit.as_secs());
    let (hard, soft) = headers("task-timelimits.json").time_limits();
    assert_eq!((seconds(hard), seconds(soft)), (Some(30), Some(20)));
    assert_eq!(headers("handmade-timelimit-null.json").time_limits(), (None, None));
    assert_eq!(headers("handmade-timelimit-null.json").retries(), 2);
    assert_eq!(headers("handmade-int-headers.json").retries(), u32::MAX, "too many to count is very many");
    assert_eq!(headers("task-ignore-result.json").ignore_result(), Some(true));
    assert_eq!(headers("handmade-proto2-no-id.json").id(), None);
    for file in ["task-eta.json", "task-eta-naive.json"] {
        let eta = headers(file).eta().expect("a time").expect("it is there");
        assert_eq!(eta.to_rfc3339(), "2031-01-02T03:04:05+00:00", "{file}");
    }
    let eta = headers("handmade-eta-offset.json").eta().expect("a time").expect("it is there");
    assert_eq!(eta.to_rfc3339(), "2023-12-31T22:00:00+00:00");
    assert!(
        headers("task-protocol-1.json").eta().expect("a time").is_some(),
        "protocol 1 has it in the body"
    );
    let group = headers("canvas-group-2.json");
    assert!(group.group().is_some() && group.root_id().is_some());
}

/// Returns the call as the worker sees it, or why it must never run.
fn decode(mut message: Message) -> Result<Call, String> {
    normalize(&mut message, usize::MAX)?;
    let task = message.headers.task().ok_or("it names no task")?.to_owned();
    message.headers.eta()?;
    message.headers.expires()?;
    let Body { arguments, embed } = Body::parse(&message.body)?;
    // Take as many arguments as the body holds, counted independently; `finish` reports any that are left over.
    let document: Value = serde_json::from_slice(&message.body).map_err(|error| error.to_string())?;
    let positional = document[0].as_array().map_or(0, Vec::len);
    let keywords: Vec<String> =
        document[1].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
    let mut arguments = arguments;
    let args = (0..positional).map(|_| arguments.take("positional")).collect::<Result<_, _>>();
    let mut names = vec!["positional"; positional];
    let mut kwargs = Map::new();
    for key in keywords {
        let name: &'static str = key.leak();
        names.push(name);
        kwargs.insert(name.to_owned(), arguments.take(name).map_err(|error| error.to_string())?);
    }
    arguments.finish(&names).map_err(|error| error.to_string())?;
    let embed = serde_json::to_value(embed).map_err(|error| error.to_string())?;
    Ok(Call { task, args: args.map_err(|error| error.to_string())?, kwargs, embed })
}

/// Returns the call recorded in the capture, without using the code under test.
fn expected(file: &str, captured: &Captured) -> Call {
    let headers = captured.headers.clone().unwrap_or_default();
    let parts = |args: &Value, kwargs: &Value, embed: Value, task: &Value| Call {
        task: task.as_str().expect("a name").to_owned(),
        args: args.as_array().cloned().unwrap_or_default(),
        kwargs: kwargs.as_object().cloned().unwrap_or_default(),
        embed,
    };
    if let Some(task) = headers.get("task") {
        let body = match file {
            "task-compression-gzip.json" | "task-compression-zlib.json" => {
                json!([[2, 3], {}, {}])
            }
            "task-json-special-types.json" => plain(&captured.body),
            _ => captured.body.clone(),
        };
        return parts(&body[0], &body[1], without_nulls(&body[2]), task);
    }
    let body = &captured.body;
    let embed = json!({"callbacks": body["callbacks"], "errbacks": body["errbacks"], "chord": body["chord"]});
    parts(&body["args"], &body["kwargs"], without_nulls(&embed), &body["task"])
}

/// An absent field means the same as null.
fn without_nulls(embed: &Value) -> Value {
    let fields = embed.as_object().cloned().unwrap_or_default();
    fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>().into()
}

/// Converts kombu's typed values to plain ones.
fn plain(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(map) if map.contains_key("__type__") => match map["__value__"].get("hex") {
            Some(hex) => {
                uuid::Uuid::parse_str(hex.as_str().expect("a text")).expect("a UUID").to_string().into()
            }
            None => map["__value__"].clone(),
        },
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), plain(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// Returns true for calls: the files also hold events, results and control messages.
fn is_call(captured: &Captured) -> bool {
    let headed = captured.headers.as_ref().is_some_and(|headers| headers.contains_key("task"));
    let version_1 = captured.body.get("task").is_some() && captured.body.get("id").is_some();
    captured.exchange != "celeryev" && (headed || version_1)
}

fn message(captured: &Captured) -> Message {
    let text = |name: &str| captured.properties.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let body = match captured.body.get("__raw_base64__") {
        Some(raw) => from_base64(raw.as_str().expect("a text")),
        None => serde_json::to_vec(&captured.body).expect("JSON"),
    };
    Message {
        properties: Properties {
            content_type: text("content_type").map(Into::into),
            content_encoding: text("content_encoding").map(Into::into),
            correlation_id: text("correlation_id"),
            reply_to: text("reply_to"),
            ..Properties::default()
        },
        headers: captured.headers.clone().unwrap_or_default().into_iter().collect(),
        body: body.into(),
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let six = LETTERS.iter().position(|known| *known == letter).expect("a letter of base64");
        bits = (bits << 6) | u32::try_from(six).expect("less than 64");
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).expect("masked"));
        }
    }
    bytes
}

fn samples() -> BTreeMap<String, Sample> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/celery");
    let read = |path: &Path| {
        let text = fs::read_to_string(path).expect("a sample");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let samples: BTreeMap<String, Sample> = fs::read_dir(directory)
        .expect("the samples")
        .flatten()
        .map(|file| (file.file_name().to_string_lossy().into_owned(), read(&file.path())))
        .collect();
    assert!(samples.len() >= 60, "only {} samples", samples.len());
    samples
}
