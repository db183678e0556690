//! What is stored about a task: Celery's result object.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::{Error, Result, TaskFailure, Undecodable};
use crate::message::headers::{format_time, parse_time};
use crate::state::State;

/// The state of one task and its value or failure.
#[derive(Clone, Debug)]
pub struct ResultRecord {
    /// The task's id.
    pub task_id: String,
    /// Where it stands.
    pub state: State,
    /// The value as JSON, when it succeeded.
    pub value: Option<Box<RawValue>>,
    /// How it failed, when it did, or why it waits for a retry.
    pub failure: Option<TaskFailure>,
    /// When it became ready.
    pub done_at: Option<DateTime<Utc>>,
}

impl ResultRecord {
    /// A success with its value, which is JSON text.
    ///
    /// # Errors
    /// When `json` is not JSON.
    pub fn success(task_id: impl Into<String>, json: Vec<u8>) -> Result<Self> {
        let value = String::from_utf8(json)
            .map_err(|error| Error::codec("the result is not UTF-8").with_source(error))
            .and_then(|text| {
                RawValue::from_string(text)
                    .map_err(|error| Error::codec("the result is not JSON").with_source(error))
            })?;
        Ok(Self {
            task_id: task_id.into(),
            state: State::Success,
            value: Some(value),
            failure: None,
            done_at: Some(Utc::now()),
        })
    }

    /// A state with a failure: `Failure`, `Retry` or `Revoked`.
    pub fn failed(task_id: impl Into<String>, state: State, failure: TaskFailure) -> Self {
        let done_at = state.is_ready().then(Utc::now);
        Self { task_id: task_id.into(), state, value: None, failure: Some(failure), done_at }
    }

    /// Celery's JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        let exception;
        let result: &RawValue = match (&self.value, &self.failure) {
            (Some(value), _) => value,
            (None, Some(failure)) => {
                exception = serde_json::value::to_raw_value(&json!({
                    "exc_type": failure.kind,
                    "exc_message": [failure.message],
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
            children: [],
            date_done: self.done_at.map(format_time),
        };
        serde_json::to_vec(&wire).expect("a record can be written")
    }

    /// Reads Celery's JSON object.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let read: Read<'_> = serde_json::from_slice(bytes).map_err(|error| {
            Error::codec("this is not a Celery result").with_source(Undecodable::from(&error))
        })?;
        let state = State::from(read.status);
        let failure = match (&state, read.result) {
            (State::Failure | State::Retry | State::Revoked, Some(result)) => {
                Some(failure(result, read.traceback))
            }
            _ => None,
        };
        let value = match (&failure, &state) {
            (Some(_), _) => None,
            // What returned nothing has returned `null`.
            (None, State::Success) => Some(read.result.unwrap_or(RawValue::NULL).to_owned()),
            (None, _) => read.result.map(ToOwned::to_owned),
        };
        let done_at = read.date_done.as_deref().and_then(parse_time);
        Ok(Self { task_id: read.task_id, state, value, failure, done_at })
    }
}

#[derive(Serialize)]
struct Written<'a> {
    task_id: &'a str,
    status: &'a str,
    result: &'a RawValue,
    traceback: Option<&'a str>,
    children: [(); 0],
    date_done: Option<String>,
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
}

/// `{"exc_type", "exc_message", "exc_module"}`; the message is the exception's arguments, or a plain text.
fn failure(result: &RawValue, traceback: Option<String>) -> TaskFailure {
    let value: Value = serde_json::from_str(result.get()).unwrap_or_default();
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let message = match value.get("exc_message") {
        Some(Value::Array(parts)) => parts.iter().map(shown).collect::<Vec<_>>().join(", "),
        Some(other) => shown(other),
        None => shown(&value),
    };
    TaskFailure { kind: text("exc_type"), module: text("exc_module"), message, traceback }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_python_failure_is_understood() {
        let read = ResultRecord::from_json(
            br#"{"status":"FAILURE","result":{"exc_type":"ValueError","exc_message":["boom",42],"exc_module":"builtins"},
                "traceback":"Traceback...","children":[],"date_done":"2026-11-22T06:53:51.497705+00:00","task_id":"t"}"#,
        )
        .expect("a Celery record");
        let failure = read.failure.expect("a failure");
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("ValueError", "boom, 42"));
        assert_eq!(failure.traceback.as_deref(), Some("Traceback..."));
    }
}
