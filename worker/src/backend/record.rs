//! The stored record of a task: Celery's result object.

use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::{Error, Result, TaskFailure, Undecodable};
use crate::message::headers::{format_time, parse_time};
use crate::message::typed;
use crate::state::State;

/// The state of one task, and its value or failure.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResultRecord {
    /// The task's id.
    pub task_id: String,
    /// Its state.
    pub state: State,
    /// The value as JSON if it succeeded; before that, metadata reported by the task.
    pub value: Option<Box<RawValue>>,
    /// Why it failed, or why it waits for a retry.
    pub failure: Option<TaskFailure>,
    /// When it reached a final state.
    pub done_at: Option<DateTime<Utc>>,
    /// The earliest time of its next run, while it waits for a retry.
    pub retry_at: Option<DateTime<Utc>>,
    /// The worker that wrote this record.
    pub worker: Option<String>,
    /// How many times the call had been retried.
    pub retries: Option<u32>,
    /// The ids of the calls that it sent.
    pub children: Vec<String>,
}

/// Distinguishes records of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

/// What a caller waits for.
#[derive(Clone, Copy, Debug)]
pub enum Awaited {
    /// A final state.
    Final,
    /// Any record except the one with this mark.
    Change(Option<Mark>),
}

impl Awaited {
    /// True if the record is one that the caller waits for.
    pub fn is_met_by(self, record: &ResultRecord) -> bool {
        match self {
            Self::Final => record.state.is_ready(),
            Self::Change(known) => known != Some(record.mark()),
        }
    }
}

impl ResultRecord {
    /// Creates a record of a state without further details.
    pub fn new(task_id: impl Into<String>, state: State) -> Self {
        let done_at = state.is_ready().then(Utc::now);
        Self {
            task_id: task_id.into(),
            state,
            value: None,
            failure: None,
            done_at,
            retry_at: None,
            worker: None,
            retries: None,
            children: Vec::new(),
        }
    }

    /// Creates a record of a state that is not final, with metadata reported by the task.
    pub fn report(task_id: impl Into<String>, state: State, meta: Box<RawValue>) -> Self {
        Self { value: Some(meta), ..Self::new(task_id, state) }
    }

    /// Creates a record of a success with its value as JSON text.
    ///
    /// # Errors
    /// `json` is not valid JSON.
    pub fn success(task_id: impl Into<String>, json: Vec<u8>) -> Result<Self> {
        let value = String::from_utf8(json)
            .map_err(|error| Error::codec("the result is not UTF-8").with_source(error))
            .and_then(|text| {
                RawValue::from_string(text)
                    .map_err(|error| Error::codec("the result is not JSON").with_source(error))
            })?;
        Ok(Self { value: Some(value), ..Self::new(task_id, State::Success) })
    }

    /// Creates a record of a state with a failure: `Failure`, `Retry` or `Revoked`.
    pub fn failed(task_id: impl Into<String>, state: State, failure: TaskFailure) -> Self {
        Self { failure: Some(failure), ..Self::new(task_id, state) }
    }

    /// Returns a mark that differs whenever anything in the record differs.
    pub fn mark(&self) -> Mark {
        let mut hasher = DefaultHasher::new();
        self.to_json().hash(&mut hasher);
        Mark(hasher.finish())
    }

    /// Writes Celery's JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        let exception;
        let result: &RawValue = match (&self.value, &self.failure) {
            (Some(value), _) => value,
            (None, Some(failure)) => {
                let message = Value::from(&*failure.message);
                exception = serde_json::value::to_raw_value(&json!({
                    "exc_type": failure.kind,
                    "exc_message": match &*failure.arguments {
                        [] => std::slice::from_ref(&message),
                        arguments => arguments,
                    },
                    "exc_module": failure.module,
                }))
                .expect("an object of texts can be written");
                &exception
            }
            (None, None) => RawValue::NULL,
        };
        let wire = Written {
            task_id: &self.task_id,
            status: self.state.as_str(),
            result,
            traceback: self.failure.as_ref().and_then(|failure| failure.traceback.as_deref()),
            children: self.children.iter().map(|id| ((id, ()), ())).collect(),
            date_done: self.done_at.map(format_time),
            worker: self.worker.as_deref(),
            retries: self.retries,
            retry_at: self.retry_at.map(format_time),
        };
        serde_json::to_vec(&wire).expect("a record can be written")
    }

    /// Reads Celery's JSON object.
    ///
    /// # Errors
    /// The bytes are not such an object.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let read = Self::read(bytes).or_else(|error| {
            // Python writes numbers that are not valid JSON, such as NaN.
            let spelled_out = typed::spell_out_numbers(bytes).ok_or(error)?;
            Self::read(&spelled_out)
        });
        read.map_err(|error| {
            Error::codec("this is not a Celery result").with_source(Undecodable::from(&error))
        })
    }

    fn read(bytes: &[u8]) -> serde_json::Result<Self> {
        let read: Read<'_> = serde_json::from_slice(bytes)?;
        let state = State::from(read.status);
        let failure = match (&state, read.result) {
            (State::Failure | State::Retry | State::Revoked, Some(result)) => {
                Some(failure(result, read.traceback))
            }
            _ => None,
        };
        let value = match (&failure, &state) {
            (Some(_), _) => None,
            // A task without a return value has the value `null`.
            (None, State::Success) => Some(read.result.unwrap_or(RawValue::NULL).to_owned()),
            (None, _) => read.result.map(ToOwned::to_owned),
        };
        let time = |text: Option<String>| text.as_deref().and_then(parse_time);
        let mut children = Vec::new();
        read.children.iter().for_each(|tree| add_ids(tree, &mut children));
        Ok(Self {
            value,
            failure,
            done_at: time(read.date_done),
            retry_at: time(read.retry_at),
            worker: read.worker,
            retries: read.retries.and_then(|retries| retries.try_into().ok()),
            children,
            ..Self::new(read.task_id, state)
        })
    }
}

#[derive(Serialize)]
struct Written<'a> {
    /// First, since backends look for a final state at the beginning of a record.
    status: &'a str,
    result: &'a RawValue,
    traceback: Option<&'a str>,
    /// Each as Celery's `[[id, parent], members]`.
    children: Vec<((&'a String, ()), ())>,
    date_done: Option<String>,
    task_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<String>,
}

#[derive(Deserialize)]
struct Read<'a> {
    task_id: String,
    status: String,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    traceback: Option<String>,
    #[serde(default)]
    date_done: Option<String>,
    #[serde(default)]
    retry_at: Option<String>,
    #[serde(default)]
    worker: Option<String>,
    #[serde(default)]
    retries: Option<i64>,
    #[serde(default, deserialize_with = "null_is_none")]
    children: Vec<Value>,
}

fn null_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Value>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Adds the ids in Celery's `[[id, parent], null]`, and in its `[[group, parent], [member, ..]]`, whose members are calls.
fn add_ids(tree: &Value, ids: &mut Vec<String>) {
    match &tree[1] {
        Value::Array(members) => members.iter().for_each(|member| add_ids(member, ids)),
        _ => ids.extend(tree[0][0].as_str().map(ToOwned::to_owned)),
    }
}

/// Reads `{"exc_type", "exc_message", "exc_module"}`; the message is the exception's arguments, or a plain text.
fn failure(result: &RawValue, traceback: Option<String>) -> TaskFailure {
    let value: Value = serde_json::from_str(result.get()).unwrap_or_default();
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let arguments = match value.get("exc_message") {
        Some(Value::Array(parts)) => parts.clone(),
        Some(other) => vec![other.clone()],
        None => vec![value.clone()],
    };
    let message = arguments.iter().map(shown).collect::<Vec<_>>().join(", ");
    // A single text is the message itself.
    let arguments = if matches!(&*arguments, [Value::String(_)]) { Box::default() } else { arguments.into() };
    TaskFailure { kind: text("exc_type"), module: text("exc_module"), message, traceback, arguments }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Language;

    #[test]
    fn a_success_survives_the_wire() {
        let record = ResultRecord::success("id-1", b"{\"a\":[1,2]}".to_vec()).expect("JSON");
        let read = ResultRecord::from_json(&record.to_json()).expect("own record");
        assert_eq!(read.state, State::Success);
        assert_eq!(read.value.expect("a value").get(), "{\"a\":[1,2]}");
    }

    #[test]
    fn nothing_is_a_value_too() {
        let record = ResultRecord::success("id-1", b"null".to_vec()).expect("JSON");
        let read = ResultRecord::from_json(&record.to_json()).expect("own record");
        assert_eq!(read.value.expect("a value").get(), "null");
    }

    #[test]
    fn what_python_writes_beyond_json_is_read() {
        let read = |result: &str| {
            let json =
                format!(r#"{{"status":"SUCCESS","result":{result},"note":"a NaN \" NaN","task_id":"t"}}"#);
            ResultRecord::from_json(json.as_bytes()).expect("a Celery record").value.expect("a value")
        };
        let numbers: Vec<f64> =
            typed::from_str(read("[NaN, -Infinity, 1.5, Infinity]").get()).expect("numbers");
        assert!(numbers[0].is_nan());
        assert_eq!(numbers[1..], [f64::NEG_INFINITY, 1.5, f64::INFINITY]);
        assert!(ResultRecord::from_json(b"NaNo").is_err() && ResultRecord::from_json(b"[").is_err());
    }

    #[test]
    fn a_python_failure_is_understood() {
        let read = ResultRecord::from_json(
            br#"{"status":"FAILURE","result":{"exc_type":"ValueError","exc_message":["boom",42],"exc_module":"builtins"},
                "traceback":"Traceback...","children":[],"date_done":"2026-11-22T06:53:51.497705+00:00","task_id":"t"}"#,
        )
        .expect("a Celery record");
        let failure = read.failure.expect("a failure");
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("ValueError", "boom, 42"));
        assert_eq!(failure.traceback.as_deref(), Some("Traceback..."));
        assert_eq!(*failure.arguments, [json!("boom"), json!(42)]);
        assert_eq!((failure.language(), failure.class()), (Language::Python, "ValueError".into()));
    }

    #[test]
    fn worker_metadata_round_trips() {
        let record = ResultRecord {
            worker: Some("w@h".into()),
            retries: Some(2),
            retry_at: parse_time("2026-11-22T06:53:51+00:00"),
            children: vec!["a".into(), "b".into()],
            ..ResultRecord::new("t", State::Retry)
        };
        let json: Value = serde_json::from_slice(&record.to_json()).expect("JSON");
        assert_eq!(json["children"], json!([[["a", null], null], [["b", null], null]]));
        let read = ResultRecord::from_json(&record.to_json()).expect("own record");
        assert_eq!((read.retries, read.retry_at, &read.worker), (Some(2), record.retry_at, &record.worker));
        assert_eq!((read.children, read.done_at), (record.children, None));
    }

    #[test]
    fn children_are_the_calls_in_all_groups() {
        let of = |children: &str| {
            let json = format!(r#"{{"status":"SUCCESS","result":1,"children":{children},"task_id":"t"}}"#);
            ResultRecord::from_json(json.as_bytes()).expect("a Celery record").children
        };
        assert_eq!(
            of(r#"[[["a",null],null],[["g",null],[[["b",null],null],[["c",null],null]]]]"#),
            ["a", "b", "c"]
        );
        assert!(of("null").is_empty() && of("[[], 1]").is_empty());
    }

    #[test]
    fn a_change_is_another_record_and_an_end_is_final() {
        let started = ResultRecord::new("t", State::Started);
        let known = Awaited::Change(Some(started.mark()));
        let again = ResultRecord::from_json(&started.to_json()).expect("own record");
        assert!(!known.is_met_by(&again) && Awaited::Change(None).is_met_by(&again));
        let more = ResultRecord { retries: Some(1), ..started };
        assert!(known.is_met_by(&more) && !Awaited::Final.is_met_by(&more));
        assert!(Awaited::Final.is_met_by(&ResultRecord::new("t", State::Revoked)));
    }
}
