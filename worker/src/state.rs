//! The states of a task, as Celery names them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The state of a call. The names on the wire are Celery's: `PENDING`, `SUCCESS`, ….
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum State {
    /// Nothing is known: it waits in a queue, or its id was never sent.
    Pending,
    /// A worker has received it.
    Received,
    /// A worker runs it.
    Started,
    /// It failed and waits for its retry.
    Retry,
    /// It succeeded.
    Success,
    /// It failed permanently.
    Failure,
    /// It was revoked, or has expired, and will not run.
    Revoked,
    /// A state that a program defined itself, such as `PROGRESS`.
    Custom(String),
}

impl State {
    /// True if the state is final.
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Success | State::Failure | State::Revoked)
    }

    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            State::Pending => "PENDING",
            State::Received => "RECEIVED",
            State::Started => "STARTED",
            State::Retry => "RETRY",
            State::Success => "SUCCESS",
            State::Failure => "FAILURE",
            State::Revoked => "REVOKED",
            State::Custom(name) => name,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<String> for State {
    fn from(name: String) -> Self {
        match name.as_str() {
            "PENDING" => State::Pending,
            "RECEIVED" => State::Received,
            "STARTED" => State::Started,
            "RETRY" => State::Retry,
            "SUCCESS" => State::Success,
            "FAILURE" => State::Failure,
            "REVOKED" => State::Revoked,
            _ => State::Custom(name),
        }
    }
}

impl FromStr for State {
    type Err = std::convert::Infallible;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(State::from(name.to_owned()))
    }
}

impl From<State> for String {
    fn from(state: State) -> Self {
        state.as_str().to_owned()
    }
}
