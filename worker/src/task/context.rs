//! The context of a running call.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use serde::Serialize;
use serde_json::value::to_raw_value;

use super::reports::{Report, Reports};
use super::stopping::Stopping;
use crate::error::{Error, Result};
use crate::message::headers::{names, parse_time};
use crate::message::{Headers, Message, Progress, Properties, ResultTypes};
use crate::panics::Guarded;
use crate::state::State;

/// The running call: its id, its headers, the shared state, and its cancellation.
///
/// The worker passes it to a task whose first parameter is `&Context`.
///
/// ```
/// use mq_worker::{Context, task};
///
/// #[task]
/// async fn whoami(ctx: &Context) -> String {
///     format!("{} on {}, try {}", ctx.id(), ctx.queue(), ctx.retries())
/// }
/// ```
#[derive(Clone)]
pub struct Context(Arc<Running>);

struct Running {
    call: Call,
    reports: Reports,
}

impl Deref for Running {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

/// The facts of one call.
pub(crate) struct Call {
    /// The task's name.
    pub(crate) task: &'static str,
    /// The id of a call whose message has none.
    pub(crate) given_id: Option<String>,
    /// The queue that the message came from.
    pub(crate) queue: Arc<str>,
    /// The exchange that it was originally published to, even after a delay.
    pub(crate) exchange: String,
    /// The key that it was originally published with, even after a delay.
    pub(crate) routing_key: String,
    /// It was delivered before.
    pub(crate) redelivered: bool,
    /// The message itself.
    pub(crate) message: Message,
    /// The values that the program shares with its tasks.
    pub(crate) shared: SharedState,
    /// Stops the call.
    pub(crate) stopping: Stopping,
    /// How its result is written.
    pub(crate) result_types: ResultTypes,
}

tokio::task_local! {
    /// The call that runs on this tokio task, so that calls sent from it have a parent.
    static CURRENT: Context;
}

impl Context {
    pub(crate) fn new(call: Call) -> Self {
        Self(Arc::new(Running { call, reports: Reports::default() }))
    }

    /// A context for calling a task directly, in a test or a program: no queue, no headers, no shared state.
    pub fn detached() -> Self {
        Self::new(Call {
            task: "",
            given_id: None,
            queue: "".into(),
            exchange: String::new(),
            routing_key: String::new(),
            redelivered: false,
            message: Message::default(),
            shared: SharedState::default(),
            stopping: CancellationToken::new().into(),
            result_types: ResultTypes::Json,
        })
    }

    /// The current call, if this code runs inside an async task.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs code as part of this call.
    pub(crate) fn enter<T>(&self, run: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), run)
    }

    /// How the result of this call is written.
    pub(crate) fn result_types(&self) -> ResultTypes {
        self.0.result_types
    }

    /// The message of this call.
    pub(crate) fn message(&self) -> &Message {
        &self.0.message
    }

    /// The task's name.
    pub fn task(&self) -> &str {
        self.0.task
    }

    /// The id of this call: the same in every retry.
    pub fn id(&self) -> &str {
        self.0.given_id.as_deref().or_else(|| self.0.message.id()).unwrap_or_default()
    }

    /// How many times this call was retried: 0 on the first run.
    pub fn retries(&self) -> u32 {
        self.headers().retries()
    }

    /// The queue that the message came from.
    pub fn queue(&self) -> &str {
        &self.0.queue
    }

    /// The routing key with which the message was published.
    pub fn routing_key(&self) -> &str {
        &self.0.routing_key
    }

    /// The exchange to which the message was published; empty for the default exchange.
    pub fn exchange(&self) -> &str {
        &self.0.exchange
    }

    /// True if the broker delivered this message before, so that the task may have run already.
    pub fn is_redelivered(&self) -> bool {
        self.0.redelivered
    }

    /// The headers of the message.
    pub fn headers(&self) -> &Headers {
        &self.0.message.headers
    }

    /// Content type, message id, reply-to and the other properties of the message.
    pub fn properties(&self) -> &Properties {
        &self.0.message.properties
    }

    /// When the schedule that sent this call was due, without jitter; `None` for other calls.
    ///
    /// A late run, after a takeover or a long wait in the queue, still has the time that it is for:
    ///
    /// ```
    /// use mq_worker::{Context, task};
    ///
    /// #[task(cron = "0 9 * * mon-fri", tz = "Europe/Berlin")]
    /// async fn daily_report(ctx: &Context) {
    ///     let day = ctx.scheduled_at().unwrap_or_else(chrono::Utc::now).date_naive();
    ///     println!("the report for {day}");
    /// }
    /// ```
    pub fn scheduled_at(&self) -> Option<DateTime<Utc>> {
        parse_time(self.headers().get_str(names::SCHEDULED_AT)?)
    }

    /// The name of the schedule that sent this call.
    pub fn schedule(&self) -> Option<&str> {
        self.headers().get_str(names::SCHEDULE)
    }

    /// The first task of the workflow that this call belongs to.
    pub fn root_id(&self) -> Option<&str> {
        self.headers().root_id()
    }

    /// A value that the program shares with all its tasks, inserted by a `#[setup]` function.
    ///
    /// # Panics
    /// No value of this type was inserted. The panic is caught, and the task fails with this message.
    /// [`try_state`](Self::try_state) does not panic.
    pub fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        self.try_state().unwrap_or_else(|| {
            panic!("no shared state of type `{}`: insert it in the set-up hook", type_name::<T>())
        })
    }

    /// A value that the program shares with all its tasks, if it exists.
    pub fn try_state<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.shared.get()
    }

    /// Reports the progress of this call: `current` of `total`, and what it is doing. `total` is 0 if it is not known.
    ///
    /// Callers see it through [`AsyncResult::progress`](crate::AsyncResult::progress), Python callers as the state `PROGRESS`.
    /// It never waits, not even in a plain function: the worker writes at most five reports a second, always the latest one,
    /// and the last one before the result. A report that the result backend does not accept is dropped.
    ///
    /// ```
    /// use mq_worker::{Context, task};
    ///
    /// #[task]
    /// async fn resize(ctx: &Context, images: Vec<String>) {
    ///     for (index, image) in images.iter().enumerate() {
    ///         ctx.progress(index as u64, images.len() as u64, image);
    ///         // …
    ///     }
    /// }
    /// ```
    pub fn progress(&self, current: u64, total: u64, description: impl Into<String>) {
        let meta = Progress::new(current, total, description).to_meta();
        if let Ok(meta) = to_raw_value(&meta) {
            self.reports().put(Report { state: State::Custom(Progress::STATE.into()), meta });
        }
    }

    /// Reports a custom state, with any details about it. Callers see it in
    /// [`AsyncResult::info`](crate::AsyncResult::info). It is written in the same way as [progress](Self::progress).
    ///
    /// ```
    /// # use mq_worker::{Context, TaskError, task};
    /// #[task]
    /// async fn upload(ctx: &Context) -> Result<(), TaskError> {
    ///     ctx.set_state("UPLOADING", serde_json::json!({ "to": "archive" }))?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// A name that belongs to the worker, such as `SUCCESS`, an empty name, one of more than 50 characters or with spaces;
    /// or a `meta` that JSON cannot represent.
    pub fn set_state(&self, state: &str, meta: impl Serialize) -> Result<()> {
        let problem = match State::from(state.to_owned()) {
            State::Custom(name) if name.is_empty() => "its name is empty",
            State::Custom(name) if name.chars().count() > 50 => "its name has more than 50 characters",
            State::Custom(name) if name.chars().any(|c| c.is_whitespace() || c.is_control()) => {
                "its name has spaces or control characters"
            }
            state @ State::Custom(_) => {
                let meta = to_raw_value(&meta).map_err(|error| {
                    Error::codec(format!("cannot set the state `{state}`: what it says is not JSON"))
                        .with_source(error)
                })?;
                self.reports().put(Report { state, meta });
                return Ok(());
            }
            _ => "the worker sets it; choose a name of your own, such as `UPLOADING`",
        };
        let shown: String = state.chars().take(60).collect();
        Err(Error::config(format!("cannot set the state `{}`: {problem}", shown.escape_debug())))
    }

    pub(crate) fn reports(&self) -> &Reports {
        &self.0.reports
    }

    /// Completes when the worker shuts down cold, a time limit is reached, or the call is revoked. A plain function should
    /// check [`is_cancelled`](Self::is_cancelled) regularly: it cannot be stopped from outside.
    pub async fn cancelled(&self) {
        self.0.stopping.token().cancelled().await;
    }

    /// True if the task should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// A token that is cancelled together with [`cancelled`](Self::cancelled), to pass on. Cancelling it affects nothing
    /// else.
    pub fn cancellation_token(&self) -> CancellationToken {
        self.0.stopping.token().child_token()
    }

    /// Asks the task to stop.
    pub(crate) fn cancel(&self) {
        self.0.stopping.token().cancel();
    }

    /// True if this call was revoked: its result is no longer wanted.
    pub fn is_revoked(&self) -> bool {
        self.0.stopping.is_revoked()
    }

    pub(crate) fn revoke(&self) {
        self.0.stopping.revoke();
    }

    #[cfg(unix)]
    pub(crate) async fn revoked(&self) {
        self.0.stopping.revoked().await;
    }

    pub(crate) fn terminate(&self) {
        self.0.stopping.terminate();
    }

    pub(crate) async fn terminated(&self) {
        self.0.stopping.terminated().await;
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("task", &self.0.task)
            .field("id", &self.id())
            .field("queue", &self.0.queue)
            .finish_non_exhaustive()
    }
}

/// Values that a program shares with all its tasks: one of each type.
#[derive(Clone, Default)]
pub struct SharedState(Arc<Values>);

#[derive(Clone, Default)]
struct Values(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Drop for Values {
    /// A shared value may panic when it is dropped: the panic must not end the worker.
    fn drop(&mut self) {
        for (_, value) in self.0.drain() {
            drop(Guarded::new(value));
        }
    }
}

impl SharedState {
    /// Adds a value, replacing one of the same type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        let before = Arc::make_mut(&mut self.0).0.insert(TypeId::of::<T>(), Arc::new(value));
        drop(Guarded::new(before));
    }

    /// The value of a type, if it exists.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.0.get(&TypeId::of::<T>()).cloned()?.downcast().ok()
    }
}

impl fmt::Debug for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedState({} values)", self.0.0.len())
    }
}
