//! The handle to a task that was sent: its id, its state and, typed, its result.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::App;
use crate::backend::{ResultBackend, ResultRecord};
use crate::connection::background;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result, Undecodable};
use crate::message::typed;
use crate::state::State;
use crate::tracing;

/// Timeout for the workers' answers to the question for a state.
const ASK: Duration = Duration::from_millis(500);

/// A task that was sent. Dropping it changes nothing about the task.
pub struct AsyncResult<T> {
    app: App,
    id: String,
    backend: Option<Arc<dyn ResultBackend>>,
    is_duplicate: bool,
    output: PhantomData<fn() -> T>,
}

impl<T> AsyncResult<T> {
    pub(crate) fn new(app: App, id: String, backend: Option<Arc<dyn ResultBackend>>) -> Self {
        Self { app, id, backend, is_duplicate: false, output: PhantomData }
    }

    /// The handle to the call of a unique task that kept this one out.
    pub(crate) fn duplicate(app: App, id: String, backend: Option<Arc<dyn ResultBackend>>) -> Self {
        let mut job = Self::new(app, id, backend);
        job.is_duplicate = true;
        job
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    /// The task's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// True when nothing was sent, since the task is [unique](macro@crate::task) and the same call waits or runs: this
    /// is the handle to that one. Over `rpc://`, its result goes to the program that sent it.
    pub fn is_duplicate(&self) -> bool {
        self.is_duplicate
    }

    fn backend(&self) -> Result<&dyn ResultBackend> {
        self.backend.as_deref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("task {} was sent with `ignore_result`: it has no result", self.id),
            )
        })
    }

    /// Where the task stands. Of what has no result yet, the workers are asked: `Started` is running. An id of which
    /// nothing is known within half a second is `Pending`: it waits, or it was never sent.
    ///
    /// # Errors
    /// When the backend cannot be asked, or the result was ignored.
    pub async fn state(&self) -> Result<State> {
        let record = self.backend()?.fetch(&self.id).await?;
        if let Some(record) = record.filter(|record| record.state != State::Pending) {
            return Ok(record.state);
        }
        let running = match self.app.broker().await {
            Ok(broker) => Control::new(broker).timeout(ASK).find(std::slice::from_ref(&self.id)).await,
            Err(error) => Err(error),
        };
        match running {
            Ok(seen) if !seen.running.is_empty() => Ok(State::Started),
            // It may have ended meanwhile.
            Ok(_) => Ok(self.backend()?.fetch(&self.id).await?.map_or(State::Pending, |record| record.state)),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "the workers cannot be asked for a state");
                Ok(State::Pending)
            }
        }
    }
}

impl<T: DeserializeOwned> AsyncResult<T> {
    /// Waits for the result, without a limit: `job.get().await?`, or with one:
    /// `job.get().timeout(Duration::from_secs(5)).await?`.
    ///
    /// # Errors
    /// The task failed ([`task_failure`](Error::task_failure)), was revoked, or the time is up.
    pub fn get(&self) -> Get<'_, T> {
        Get { job: self, timeout: None }
    }
}

impl<T> Drop for AsyncResult<T> {
    fn drop(&mut self) {
        // Whoever sent the call that a duplicate stands for may still wait for its result.
        if let Some(backend) = self.backend.as_ref().filter(|_| !self.is_duplicate) {
            backend.forget(&self.id);
        }
    }
}

impl<T> fmt::Debug for AsyncResult<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsyncResult({})", self.id)
    }
}

/// The wait for a result.
#[derive(Debug)]
#[must_use = "nothing is awaited until `.await`"]
pub struct Get<'a, T> {
    job: &'a AsyncResult<T>,
    timeout: Option<Duration>,
}

impl<T> Get<'_, T> {
    /// Gives up after this long. The task goes on.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }
}

impl<'a, T: DeserializeOwned> IntoFuture for Get<'a, T> {
    type Output = Result<T>;
    type IntoFuture = BoxFuture<'a, Result<T>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Get { job, timeout } = self;
            let record = within(timeout, &job.id, job.backend()?.wait(&job.id)).await?;
            value_of(&record)
        })
    }
}

async fn within<T>(limit: Option<Duration>, id: &str, wait: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = limit else { return wait.await };
    match background::timeout(limit, wait).await? {
        Some(done) => done,
        None => Err(Error::timeout(format!(
            "no result of task {id} within {}",
            humantime::format_duration(limit)
        ))),
    }
}

/// The value in a record, or the error that it tells.
fn value_of<T: DeserializeOwned>(record: &ResultRecord) -> Result<T> {
    let id = &record.task_id;
    match (&record.state, &record.failure) {
        (State::Failure, Some(failure)) => {
            Err(Error::new(ErrorKind::Failed(failure.clone()), format!("task {id} failed: {failure}")))
        }
        (State::Revoked, failure) => {
            let why = failure.as_ref().map_or(String::new(), |failure| format!(": {}", failure.message));
            Err(Error::new(ErrorKind::Revoked, format!("task {id} was revoked{why}")))
        }
        _ => {
            let json = record.value.as_ref().map_or("null", |value| value.get());
            typed::from_str(json).map_err(|error| {
                Error::codec(format!("the result of task {id} is not of the awaited type"))
                    .with_source(Undecodable::from(&error))
            })
        }
    }
}

impl App {
    /// The handle to a task that was sent before, by its id.
    ///
    /// Results that travel as messages (`rpc://`) reach only the process that sent the task.
    ///
    /// # Errors
    /// When the result backend cannot be opened.
    pub async fn result<T>(&self, id: impl Into<String>) -> Result<AsyncResult<T>> {
        Ok(AsyncResult::new(self.clone(), id.into(), Some(self.backend().await?)))
    }
}
