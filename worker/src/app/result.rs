//! The handle to a call: its id, its state, and its typed result.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::App;
use super::info::JobInfo;
use crate::backend::{Awaited, ResultBackend, ResultRecord};
use crate::connection::background;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result, Undecodable};
use crate::message::typed;
use crate::state::State;
use crate::tracing;

/// Timeout for the workers' replies when the state of a call is queried.
const QUERY_TIMEOUT: Duration = Duration::from_millis(500);

/// The pause before an unreachable result backend is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The handle to a call that was sent. Dropping it does not affect the call.
pub struct AsyncResult<T> {
    app: App,
    id: String,
    backend: Option<Arc<dyn ResultBackend>>,
    origin: Origin,
    output: PhantomData<fn() -> T>,
}

/// How a handle was created.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// By sending the call: the backend expects its result.
    Sent,
    /// Without sending: the same call already waits or runs.
    Duplicate,
    /// By the id of an earlier call.
    Id,
}

impl<T> AsyncResult<T> {
    pub(crate) fn new(app: App, id: String, backend: Option<Arc<dyn ResultBackend>>) -> Self {
        Self { app, id, backend, origin: Origin::Sent, output: PhantomData }
    }

    /// The handle to the waiting or running call that this one duplicates.
    pub(crate) fn duplicate(app: App, id: String, backend: Option<Arc<dyn ResultBackend>>) -> Self {
        Self { app, id, backend, origin: Origin::Duplicate, output: PhantomData }
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    /// The task's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// True if nothing was sent, since the task is [unique](macro@crate::task) and the same call already waits or runs:
    /// this is the handle to that call. Over `rpc://`, its result is sent to the program that sent the call.
    pub fn is_duplicate(&self) -> bool {
        self.origin == Origin::Duplicate
    }

    pub(super) fn backend(&self) -> Result<&dyn ResultBackend> {
        self.backend.as_deref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("task {} was sent with `ignore_result`: it has no result", self.id),
            )
        })
    }

    /// A snapshot of what is known about the call, by one read from the backend. Unlike [`state`](Self::state), this queries
    /// no workers: without [`track_started`](crate::Config::track_started), a running call is `Pending` here.
    ///
    /// # Errors
    /// The backend cannot be reached, or the result is ignored.
    pub async fn info(&self) -> Result<JobInfo> {
        let record = self.backend()?.fetch(&self.id).await?;
        Ok(JobInfo::new(record.unwrap_or_else(|| ResultRecord::new(&*self.id, State::Pending))))
    }

    /// Deletes the result from the backend, before it expires. A call that has not ended yet will still store one.
    ///
    /// # Errors
    /// The backend cannot be reached, or the result is ignored.
    pub async fn forget(self) -> Result<()> {
        self.backend()?.forget(&self.id).await
    }

    /// The state of the call. If it has no result yet, the workers are queried: `Started` means that it is running. If no
    /// worker knows the id within half a second, the state is `Pending`: the call waits, or was never sent.
    ///
    /// # Errors
    /// The backend cannot be reached, or the result is ignored.
    pub async fn state(&self) -> Result<State> {
        let record = self.backend()?.fetch(&self.id).await?;
        if let Some(record) = record.filter(|record| record.state != State::Pending) {
            return Ok(record.state);
        }
        let running = match self.app.broker().await {
            Ok(broker) => {
                Control::new(broker).timeout(QUERY_TIMEOUT).find(std::slice::from_ref(&self.id)).await
            }
            Err(error) => Err(error),
        };
        match running {
            Ok(seen) if !seen.running.is_empty() => Ok(State::Started),
            // It may have ended meanwhile.
            Ok(_) => Ok(self.backend()?.fetch(&self.id).await?.map_or(State::Pending, |record| record.state)),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "cannot query the workers for a state");
                Ok(State::Pending)
            }
        }
    }
}

impl<T> AsyncResult<T> {
    /// Whether the call exists, which [`Pending`](State::Pending) leaves open: `Some(true)` if it waits, runs or has a
    /// result, `Some(false)` if it was never sent, or ended without a result that is still kept. `None` if this cannot be
    /// determined: RabbitMQ does not show the messages that wait in a queue.
    ///
    /// If there is no result, SQLite reads the head of every waiting message.
    ///
    /// # Errors
    /// Broker or backend cannot be reached.
    pub async fn is_known(&self) -> Result<Option<bool>> {
        let has_result = async || match &self.backend {
            None => Ok(false),
            Some(backend) => match backend.fetch(&self.id).await {
                Ok(record) => Ok(record.is_some()),
                // The results of other processes are not known here.
                Err(error) if error.is_unsupported() => Ok(false),
                Err(error) => Err(error),
            },
        };
        if has_result().await? {
            return Ok(Some(true));
        }
        match self.app.broker().await?.find(&self.id).await {
            Ok(messages) if messages.is_empty() => {
                // It may have ended meanwhile.
                has_result().await.map(Some)
            }
            Ok(_) => Ok(Some(true)),
            Err(error) if error.is_unsupported() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<T: DeserializeOwned> AsyncResult<T> {
    /// Waits for the result, without a timeout: `job.get().await?`, or with one:
    /// `job.get().timeout(Duration::from_secs(5)).await?`.
    ///
    /// # Errors
    /// The task failed ([`task_failure`](Error::task_failure)), was revoked, or the wait timed out.
    pub fn get(&self) -> Get<'_, T> {
        Get { job: self, timeout: None }
    }
}

impl<T> Drop for AsyncResult<T> {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.as_ref().filter(|_| self.origin == Origin::Sent) {
            backend.release(&self.id);
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
    /// Stops waiting after this long. The call continues.
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
            let backend = job.backend()?;
            let wait = || backend.wait(&job.id, Awaited::Final);
            let record = within(timeout, || format!("no result of task {}", job.id), wait).await?;
            value_of(&record)
        })
    }
}

/// Waits; `what` describes what has not arrived in time. Without a time limit, an unreachable backend is an error at once;
/// with one, the wait is retried until then.
pub(super) async fn within<T, F>(
    limit: Option<Duration>,
    what: impl FnOnce() -> String,
    wait: impl Fn() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let Some(limit) = limit else { return wait().await };
    let mut problem = None;
    let waiting = async {
        loop {
            match wait().await {
                Err(error) if !error.is_final_here() => {
                    tracing::debug!(error = format!("{error:#}"), "cannot wait for a result yet");
                    problem = Some(error);
                }
                done => return done,
            }
            background::sleep(RETRY_PAUSE).await?;
        }
    };
    if let Some(done) = background::timeout(limit, waiting).await? {
        return done;
    }
    let late = Error::timeout(format!("{} within {}", what(), humantime::format_duration(limit)));
    Err(match problem {
        Some(problem) => late.with_source(problem),
        None => late,
    })
}

/// The value of a record, or its error.
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
                let (expected, found) = (std::any::type_name::<T>(), kind_of(json));
                Error::codec(format!(
                    "the result of task {id} is not of the expected type `{expected}`: it is {found}"
                ))
                .with_source(Undecodable::from(&error))
            })
        }
    }
}

/// The type of a JSON value, for an error: the value itself may be a secret.
fn kind_of(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl App {
    /// The handle to an earlier call, by its id.
    ///
    /// With a result backend that stores results, this works in any process. Over `rpc://`, the default on RabbitMQ, results
    /// reach only the process that sent the call: it can read them even after the first handle was dropped, until the
    /// handles of 10 000 later calls were dropped too. In other processes, reading is an error that names the setting to change.
    ///
    /// # Errors
    /// The result backend cannot be opened.
    pub async fn result<T>(&self, id: impl Into<String>) -> Result<AsyncResult<T>> {
        let backend = Some(self.backend().await?);
        let (app, id) = (self.clone(), id.into());
        Ok(AsyncResult { app, id, backend, origin: Origin::Id, output: PhantomData })
    }
}
