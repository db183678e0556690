//! Sends calls: from a signature to a message that the broker has accepted.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::call_headers::{check_headers, due, headers, note_child};
use super::{App, AsyncResult, ResultSet, unique};
use crate::broker::{Broker, Lock, Locked, Publication};
use crate::canvas::{SendOptions, Signature};
use crate::connection::background;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Headers, JSON, Message, Properties, UTF_8, codec};
use crate::routing::names::{check_key, check_name};
use crate::routing::router::Wanted;
use crate::routing::{ExchangeKind, Route};
use crate::task::{Task, TaskOptions};

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

    /// Sends a call that has passed the middleware.
    pub(super) async fn send_through<O>(
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
        // Spawned: a caller that stops waiting half-way must not leave a lock without a message behind.
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

    /// Publishes a call, unless its lock has another holder, which is then returned.
    async fn publish_unique(
        &self,
        broker: &Arc<dyn Broker>,
        mut call: ReadyCall,
        lock: &Lock,
    ) -> Result<Option<String>> {
        let task = call.task.clone();
        let mut taken = broker.lock(lock).await;
        if let Ok(Locked::Held(Some(other))) = &taken
            && self.is_revoked_and_idle(broker, other).await
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
            // Not sent, so it must not block other calls. If this fails too, the lock expires by itself.
            let _ = broker.unlock(lock).await;
        }
        sent.map(|()| None)
    }

    /// The message of a call, with its address.
    pub(super) async fn publication(&self, call: ReadyCall) -> Result<Publication> {
        let ReadyCall { id, route, headers, body, delay, priority, ignored, .. } = call;
        // Registered with the backend before the message goes out: the result may come back at once.
        let expect = async || Box::pin(async { self.backend().await?.expect(&id).await }).await;
        let reply_to = if ignored { None } else { expect().await? };
        let properties = Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some(UTF_8.into()),
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

    async fn publish_call(&self, broker: &Arc<dyn Broker>, mut call: ReadyCall) -> Result<()> {
        let (task, route_queue) = (mem::take(&mut call.task), call.route.queue.take());
        let cannot = |error: Error| error.context(format_args!("cannot send `{task}`"));
        let publication = self.publication(call).await.map_err(cannot)?;
        let reported = self.config().sent_events.then(|| publication.clone());
        let mut sent = broker.publish(publication.clone()).await;
        if let (Err(error), Some(queue)) = (&sent, &route_queue)
            && error.is_unroutable()
        {
            // The queue was deleted since this process declared it.
            self.forget_declared();
            Box::pin(self.ensure_queue(queue)).await.map_err(cannot)?;
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
            Box::pin(self.ensure_exchange(&exchange, ExchangeKind::Fanout)).await?;
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
