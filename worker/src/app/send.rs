//! Sending: from a signature to a message that the broker has taken.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{App, AsyncResult, ResultSet, unique};
use crate::broker::{Broker, Lock, Locked, Publication};
use crate::canvas::{SendOptions, Signature};
use crate::connection::background;
use crate::error::{Error, ErrorKind, Result};
use crate::message::headers::{LATEST, format_time, owner};
use crate::message::history::shortened;
use crate::message::{Headers, JSON, Message, Properties, codec};
use crate::middleware::Outgoing;
use crate::routing::names::{MAX_NAME, check_key, check_name};
use crate::routing::router::Wanted;
use crate::routing::{ExchangeKind, Route};
use crate::task::{Context, Task, TaskOptions};

impl<T: Task> Signature<T> {
    /// Sends the call through the [global](App::global) application. `Ok` means that it is safely queued.
    ///
    /// # Errors
    /// See [`App::send`].
    pub async fn send(self) -> Result<AsyncResult<T::Output>> {
        App::global()?.send(self).await
    }
}

impl App {
    /// Sends a call. `Ok` means that it is safely queued.
    ///
    /// # Errors
    /// [`is_unroutable`](Error::is_unroutable), [`is_rejected`](Error::is_rejected) and
    /// [`is_too_large`](Error::is_too_large) mean that nothing was enqueued;
    /// [`unknown_id`](Error::unknown_id) names the id under which it may be sent again.
    pub async fn send<T: Task>(&self, signature: Signature<T>) -> Result<AsyncResult<T::Output>> {
        let Signature { args, options, problem, .. } = signature;
        if let Some(problem) = problem {
            return Err(Error::codec(format!("cannot send `{}`: {problem}", T::NAME)));
        }
        let body = codec::encode(&args).map_err(|error| cannot_send(T::NAME, error))?;
        let key = unique::key::<T>(&args)?;
        self.send_body(T::NAME, &T::OPTIONS, body, key, options).await
    }

    /// Sends many calls at once and waits until all of them are safely queued.
    ///
    /// # Errors
    /// The first error; calls after the failing one may have been sent or not.
    pub async fn send_many<T: Task>(
        &self,
        signatures: impl IntoIterator<Item = Signature<T>>,
    ) -> Result<ResultSet<T::Output>> {
        // Enough for the broker's batches to fill, few enough to bound the memory of an endless iterator.
        const AT_ONCE: usize = 1024;
        let mut signatures = signatures.into_iter().enumerate();
        let mut sending = FuturesUnordered::new();
        let mut sent = Vec::new();
        loop {
            while sending.len() < AT_ONCE
                && let Some((index, signature)) = signatures.next()
            {
                sending.push(async move { (index, self.send(signature).await) });
            }
            let Some((index, job)) = sending.next().await else { break };
            sent.push((index, job?));
        }
        sent.sort_unstable_by_key(|(index, _)| *index);
        Ok(sent.into_iter().map(|(_, job)| job).collect())
    }

    /// Sends a call of a task by its name, for tasks that this program does not have, such as Python's.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// let job = app.send_task("proj.add", &(2, 3), Default::default()).await?;
    /// let sum: serde_json::Value = job.get().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`App::send`].
    pub async fn send_task<A: Serialize + ?Sized>(
        &self,
        task: &str,
        args: &A,
        options: SendOptions,
    ) -> Result<AsyncResult<Value>> {
        let own = self.registry().get(task).map_or(TaskOptions::DEFAULT, |entry| entry.options);
        let body = codec::encode(args).map_err(|error| cannot_send(task, error))?;
        self.send_body(task, &own, body, None, options).await
    }

    /// Sends a call of a task by its name, with positional arguments and arguments by name.
    ///
    /// # Errors
    /// See [`App::send`].
    pub async fn send_call<O>(
        &self,
        task: &str,
        args: &(impl Serialize + ?Sized),
        kwargs: &(impl Serialize + ?Sized),
        options: SendOptions,
    ) -> Result<AsyncResult<O>> {
        let own = self.registry().get(task).map_or(TaskOptions::DEFAULT, |entry| entry.options);
        let body = codec::encode_values(args, kwargs, &codec::Embed::default());
        let body = body.map_err(|error| cannot_send(task, error))?;
        self.send_body(task, &own, body, None, options).await
    }

    /// Sends a call whose body is already encoded.
    pub(crate) async fn send_body<O>(
        &self,
        task: &str,
        own: &TaskOptions,
        body: Bytes,
        unique: Option<String>,
        mut options: SendOptions,
    ) -> Result<AsyncResult<O>> {
        if self.middleware().is_empty() {
            return self.send_through(task, own, body, unique, &options).await;
        }
        options.task_id.get_or_insert_with(|| Uuid::now_v7().to_string());
        let mut call = Outgoing { task, options: &mut options };
        self.middleware().before_publish(&mut call).await?;
        let sent = self.send_through(task, own, body, unique, call.options).await;
        self.middleware().after_publish(&call, sent.as_ref().map(drop)).await;
        sent
    }

    /// Sends a call that has passed the middleware.
    async fn send_through<O>(
        &self,
        task: &str,
        own: &TaskOptions,
        body: Bytes,
        unique: Option<String>,
        options: &SendOptions,
    ) -> Result<AsyncResult<O>> {
        let call = self.ready_call(task, own, body, options).await?;
        let cannot = |error: Error| error.context(format_args!("cannot send `{task}`"));
        let id = call.id.clone();
        let backend = if call.ignored { None } else { Some(self.backend().await.map_err(cannot)?) };
        let broker = self.broker().await.map_err(cannot)?;
        let lock = unique.zip(own.unique_for);
        let Some(lock) = lock.map(|(key, lifetime)| Lock { key, holder: id.clone(), lifetime }) else {
            self.publish_call(&broker, call).await?;
            note_child(&id);
            return Ok(AsyncResult::new(self.clone(), id, backend));
        };
        // In a task of its own: who stops waiting in the middle must not leave a lock without a message behind.
        let this = self.clone();
        let sending = background::spawn(async move { this.publish_unique(&broker, call, &lock).await })?;
        let held = sending.await.map_err(|error| {
            let unknown = ErrorKind::Unknown { id: id.clone() };
            Error::new(unknown, format!("cannot send `{task}`: it was interrupted half-way"))
                .with_source(error)
        })??;
        Ok(match held {
            None => {
                note_child(&id);
                AsyncResult::new(self.clone(), id, backend)
            }
            Some(other) => AsyncResult::duplicate(self.clone(), other, backend),
        })
    }

    /// Checks a call and finds its address.
    pub(super) async fn ready_call(
        &self,
        task: &str,
        own: &TaskOptions,
        body: Bytes,
        options: &SendOptions,
    ) -> Result<ReadyCall> {
        self.check_size(task, &body)?;
        let id = options.task_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        check_name("task", task)?;
        check_name("task id", &id)?;
        check_headers(task, &options.headers)?;
        let route = self.address(task, own, options).await.map_err(|error| cannot_send(task, error))?;
        let now = Utc::now();
        let due = due(options, now);
        let headers = headers(task, &id, own, options, due, now);
        let priority = options.priority.or(route.priority).or(own.priority);
        Ok(ReadyCall {
            task: task.to_owned(),
            id,
            route,
            headers,
            body,
            delay: due.and_then(|time| (time - now).to_std().ok()).filter(|delay| !delay.is_zero()),
            priority,
            ignored: options.ignore_result.unwrap_or(own.ignore_result),
        })
    }

    /// Publishes a call, unless its lock has another holder: then returns that one.
    async fn publish_unique(
        &self,
        broker: &Arc<dyn Broker>,
        mut call: ReadyCall,
        lock: &Lock,
    ) -> Result<Option<String>> {
        let task = call.task.clone();
        let mut taken = broker.lock(lock).await;
        if let Ok(Locked::Held(Some(other))) = &taken
            && self.is_given_up(broker, other).await
        {
            let theirs = Lock { holder: other.clone(), ..lock.clone() };
            taken = match broker.unlock(&theirs).await {
                Ok(()) => broker.lock(lock).await,
                Err(error) => Err(error),
            };
        }
        match taken.map_err(|error| error.context(format_args!("cannot send `{task}`")))? {
            Locked::Taken => unique::write(&mut call.headers, lock),
            Locked::Held(Some(other)) => return Ok(Some(other)),
            Locked::Held(None) => {
                return Err(Error::new(
                    ErrorKind::Rejected,
                    format!(
                        "cannot send `{task}`: it is unique, and another call waits or runs whose id is unknown"
                    ),
                ));
            }
        }
        let sent = self.publish_call(broker, call).await;
        if let Err(error) = &sent
            && error.unknown_id().is_none()
        {
            // It was not sent, so it keeps nobody out. If this fails too, the lock opens by itself in time.
            let _ = broker.unlock(lock).await;
        }
        sent.map(|()| None)
    }

    /// The message of a call, with its address.
    pub(super) async fn publication(&self, call: ReadyCall) -> Result<Publication> {
        let ReadyCall { id, route, headers, body, delay, priority, ignored, .. } = call;
        // Registered with the backend before the message goes out: the result may come back at once.
        let reply_to = if ignored { None } else { self.backend().await?.expect(&id).await? };
        let properties = Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            correlation_id: reply_to.is_some().then(|| id.clone()),
            reply_to,
            priority,
            ..Properties::default()
        };
        let message = Message { properties, headers, body };
        Ok(Publication {
            exchange: route.exchange,
            routing_key: route.routing_key,
            message,
            delay,
            mandatory: true,
        })
    }

    async fn publish_call(&self, broker: &Arc<dyn Broker>, call: ReadyCall) -> Result<()> {
        let (task, route_queue) = (call.task.clone(), call.route.queue.clone());
        let cannot = |error: Error| error.context(format_args!("cannot send `{task}`"));
        let publication = self.publication(call).await.map_err(cannot)?;
        let reported = self.config().sent_events.then(|| publication.clone());
        let mut sent = broker.publish(publication.clone()).await;
        if let (Err(error), Some(queue)) = (&sent, &route_queue)
            && error.is_unroutable()
        {
            // Somebody deleted the queue since this process declared it.
            self.forget_declared();
            self.ensure_queue(queue).await.map_err(cannot)?;
            sent = broker.publish(publication).await;
        }
        if sent.is_ok()
            && let Some(reported) = reported
        {
            self.report_sent(broker, route_queue.as_deref(), &reported);
        }
        let external = route_queue.filter(|queue| self.is_external(queue));
        sent.map_err(|error| match external {
            Some(queue) if error.is_unroutable() => error.context(format_args!(
                "cannot send `{task}`: queue `{queue}` is external, and its owner has not declared it yet"
            )),
            _ => cannot(error),
        })
    }

    /// The address of a call. Declares everything that must exist before publishing.
    async fn address(&self, task: &str, own: &TaskOptions, options: &SendOptions) -> Result<Route> {
        let wanted = Wanted {
            queue: options.queue.as_deref(),
            exchange: options.exchange.as_deref(),
            routing_key: options.routing_key.as_deref(),
        };
        let addressed = wanted.queue.or(wanted.exchange).or(wanted.routing_key).is_some();
        if own.broadcast && !addressed {
            let exchange = Self::broadcast_exchange(task);
            self.ensure_exchange(&exchange, ExchangeKind::Fanout).await?;
            return Ok(Route::to_exchange(exchange, ""));
        }
        let route = self.router().route(task, own.queue, wanted);
        check_key(&route.routing_key)?;
        if let Some(queue) = &route.queue {
            check_name("queue", queue)?;
            self.ensure_queue(queue).await?;
        }
        Ok(route)
    }

    fn check_size(&self, task: &str, body: &Bytes) -> Result<()> {
        let limit = self.config().max_message_size;
        if body.len() <= limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "cannot send `{task}`: its arguments are {} bytes, the limit is {limit}; send a reference to the \
                 data instead, or raise `max_message_size`",
                body.len()
            ),
        ))
    }
}

/// Refuses reserved headers: with them, another task would run, or the result would be lost.
pub(super) fn check_headers(task: &str, headers: &[(String, Value)]) -> Result<()> {
    for (name, _) in headers {
        let problem = if let Some(owner) = owner(name) {
            let instead = match name.as_str() {
                "id" => "; `.task_id()` sets it",
                "eta" => "; `.eta()` and `.countdown()` set it",
                "expires" => "; `.expires()` sets it",
                "ignore_result" => "; `.ignore_result()` sets it",
                "timelimit" => "; `.time_limit()` and `.soft_time_limit()` set it",
                _ => "",
            };
            format!("it belongs to {owner}{instead}")
        } else if name.is_empty() {
            "its name is empty".to_owned()
        } else if name.len() > MAX_NAME {
            format!("its name is {} bytes long; AMQP allows {MAX_NAME}", name.len())
        } else {
            continue;
        };
        let name = shortened(name, 60);
        return Err(Error::config(format!("cannot send `{task}` with a header `{name}`: {problem}")));
    }
    Ok(())
}

/// A call that a running task has sent is one of its children.
fn note_child(id: &str) {
    if let Some(parent) = Context::current() {
        parent.reports().add_child(id);
    }
}

fn cannot_send(task: &str, error: Error) -> Error {
    error.context(format_args!("cannot send `{task}`"))
}

/// A call that is ready to be published.
pub(super) struct ReadyCall {
    task: String,
    id: String,
    route: Route,
    pub(super) headers: Headers,
    body: Bytes,
    delay: Option<Duration>,
    priority: Option<u8>,
    ignored: bool,
}

/// The earliest time for the task to run, if not at once.
fn due(options: &SendOptions, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let due = options.eta.or_else(|| Some(later(now, options.countdown?)));
    due.map(|due| due.min(LATEST))
}

fn later(now: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    chrono::Duration::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay)).unwrap_or(LATEST)
}

/// Only headers that differ from the receivers' defaults: each header costs the broker time.
fn headers(
    task: &str,
    id: &str,
    own: &TaskOptions,
    options: &SendOptions,
    due: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Headers {
    let mut headers = Headers::for_task(task, id);
    if let Some(due) = due {
        headers.set("eta", format_time(due));
    }
    if let Some(lifetime) = options.expires.or(own.expires) {
        let expires = later(now, lifetime);
        // No limit is no header.
        if expires < LATEST {
            headers.set("expires", format_time(expires));
        }
    }
    if options.time_limit.or(options.soft_time_limit).is_some() {
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        let limits = [seconds(options.time_limit), seconds(options.soft_time_limit)];
        headers.set("timelimit", serde_json::json!(limits));
    }
    if let Some(ignore) = options.ignore_result.filter(|ignore| *ignore != own.ignore_result) {
        headers.set("ignore_result", ignore);
    }
    // What a running task sends belongs to the task's workflow.
    if let Some(parent) = Context::current() {
        headers.set("parent_id", parent.id());
        headers.set("root_id", parent.root_id().unwrap_or(parent.id()));
    }
    for (name, value) in &options.headers {
        headers.set(name, value.clone());
    }
    headers
}
