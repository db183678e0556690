//! Carries out an outcome. This is the one place that states the order of effects:
//!
//! - success: what follows is published → the result is stored → ack;
//! - retry: a unique call keeps its lock → the new message is published → the state is stored → ack;
//! - dead: the dead letter is published → the failure is stored → errbacks are published → ack;
//! - revoked: the state is stored → ack;
//! - handed back: the message is in its queue again, with nothing spent.
//!
//! Every effect is durable before the next begins, and the ack comes last: a crash in between may run a task
//! twice, it never loses one. While broker or backend are away, an effect is tried until it succeeds; the place
//! in the prefetch window stays taken, which is what keeps the worker from running ahead.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::again::{again, to_queue};
use super::continuation::{self, Following};
use super::failure_hooks::FailureHooks;
use super::outcome::{DeadReason, Outcome};
use super::request::Request;
use super::tally::{Tally, count};
use crate::app::{App, unique};
use crate::backend::{ResultBackend, ResultRecord};
use crate::broker::{Broker, Lock, Locked, Note, Publication, Register, Verdict};
use crate::error::{Result, TaskFailure};
use crate::message::headers::{format_time, names};
use crate::message::history::{self, shortened};
use crate::message::{Attempt, Headers, JSON, Message, Properties};
use crate::routing::Queue;
use crate::show;
use crate::state::State;
use crate::task::{Context, FailedTask};

/// How many characters of the last error are kept. Headers must stay small: RabbitMQ's frames are 128 KiB.
const MAX_ERROR: usize = 4000;

/// The content type of an answer that is a text.
const TEXT: &str = "text/plain";

/// Carries out outcomes for one worker.
pub struct Settler {
    /// Routes what follows a task, and knows which queues exist.
    pub app: App,
    /// Takes retries, dead letters and what follows.
    pub broker: Arc<dyn Broker>,
    /// Takes results.
    pub backend: Arc<dyn ResultBackend>,
    /// Hear of dead letters.
    pub hooks: FailureHooks,
    /// Fires at a cold shutdown: then nothing is tried any longer.
    pub cold: CancellationToken,
    /// Fires when this worker stops and is handed nothing any more.
    pub consumed: CancellationToken,
    /// What was done so far.
    pub(super) tally: Tally,
}

/// One step that must be durable before the next.
pub(super) enum Effect<'a> {
    /// To a queue that exists.
    Publish(Publication),
    /// To wherever a task goes; its queue may have to be created.
    Send { queue: Option<String>, publication: Publication },
    /// To the dead-letter queue of a queue.
    DeadLetter { of: &'a str, letter: Publication },
    /// Lets the next call of a unique task in.
    Unlock(&'a Lock),
    /// To the result backend.
    Store { record: &'a ResultRecord, reply_to: Option<&'a str> },
}

/// The cold shutdown came before an effect was durable: the message goes back instead.
pub struct Abandoned;

impl Settler {
    /// Carries out an outcome and gives the delivery back.
    pub async fn settle(&self, request: Request, outcome: Outcome, elapsed: Duration) {
        let (task, id) = (request.context.task().to_owned(), request.context.id().to_owned());
        // A dead letter may come again under its id: whoever replays it wants it to run.
        let settled = match outcome {
            Outcome::Dead { .. } => Verdict::Replaced,
            _ => Verdict::Ack,
        };
        let ends = !matches!(outcome, Outcome::Retry { .. });
        let done = match outcome {
            Outcome::Success(json) => {
                let done = match self.success(&request, json).await {
                    Ok(()) => self.remember(&request).await,
                    abandoned => abandoned,
                };
                if done.is_ok() {
                    count(&self.tally.succeeded);
                    tracing::info!(task, id, elapsed = %show::duration(elapsed), "succeeded");
                }
                done
            }
            Outcome::Retry { after, failure, crashed } => {
                let (retries, crashes) = match crashed {
                    true => (request.context.retries(), request.crashes.saturating_add(1)),
                    false => (request.context.retries().saturating_add(1), request.crashes),
                };
                tracing::warn!(task, id, retries, crashes, after = %show::duration(after), error = %failure, "will be retried");
                count(&self.tally.retried);
                self.retry(&request, (retries, crashes), after, failure).await
            }
            Outcome::Dead { reason, failure } => {
                let queue = Queue::dead_letter_name(request.context.queue());
                tracing::error!(task, id, reason = reason.as_str(), error = %failure, queue, "put aside");
                count(&self.tally.failed);
                self.dead(&request, reason, failure).await
            }
            Outcome::Revoked { why } => {
                tracing::info!(task, id, why, "not run");
                count(&self.tally.revoked);
                self.revoked(&request, why).await
            }
            Outcome::Repeated => {
                tracing::info!(task, id, "it came again after it had succeeded: not run again");
                Ok(())
            }
            Outcome::HandBack => return self.hand_back(request).await,
        };
        match done {
            Ok(()) => {
                let lock =
                    ends.then(|| unique::read(request.context.headers(), request.context.id())).flatten();
                request.settlement.settle(settled);
                // Only now: what comes next must not meet this one.
                if let Some(lock) = lock {
                    let _ = self.insist("open the lock of a unique task", Effect::Unlock(&lock)).await;
                }
            }
            Err(Abandoned) => self.hand_back(request).await,
        }
    }

    /// True when the task has succeeded before, as far as it asks that this be remembered. Only a message that comes again
    /// is worth the question.
    pub async fn has_succeeded(&self, request: &Request) -> Result<bool, Abandoned> {
        let Some(lifetime) = request.options.once_for.filter(|_| request.may_have_run()) else {
            return Ok(false);
        };
        let id = request.context.id();
        let ask = || self.broker.is_noted(Register::Done, id, lifetime);
        Ok(self.persist("read what is done", ask).await?.unwrap_or(false))
    }

    /// Notes a success, after everything else about it is safe: whoever finds the note has nothing left to do.
    async fn remember(&self, request: &Request) -> Result<(), Abandoned> {
        let Some(lifetime) = request.options.once_for else { return Ok(()) };
        let id = request.context.id();
        let note = Note::new(id, lifetime);
        self.persist("note what is done", || self.broker.note(Register::Done, &note)).await.map(drop)
    }

    /// True when a message's trial has begun before: it was the one to blame. Also where nobody can tell.
    pub async fn was_tried(&self, headers: &Headers) -> Result<bool, Abandoned> {
        let Some(trial) = trial_of(headers) else { return Ok(true) };
        let ask = || self.broker.is_noted(Register::Tried, &trial, Register::Tried.longest());
        Ok(self.persist("read who was on trial", ask).await?.unwrap_or(true))
    }

    /// Notes that a message's trial begins.
    pub async fn note_trial(&self, headers: &Headers) -> Result<(), Abandoned> {
        let Some(trial) = trial_of(headers) else { return Ok(()) };
        let note = Note::new(trial, Register::Tried.longest());
        self.persist("note a trial", || self.broker.note(Register::Tried, &note)).await.map(drop)
    }

    async fn success(&self, request: &Request, json: Vec<u8>) -> Result<(), Abandoned> {
        self.publish_all(continuation::after_success(&request.embed, &request.context, &json)).await?;
        if request.plain {
            return self.reply(&request.context, &json).await;
        }
        if !self.wants_result(request) {
            return Ok(());
        }
        match ResultRecord::success(request.context.id(), json) {
            Ok(record) => self.store(request, &record).await,
            // The macro writes results with serde_json; a hand-made entry could still get it wrong.
            Err(error) => {
                tracing::error!(id = request.context.id(), error = %error, "the result cannot be stored");
                Ok(())
            }
        }
    }

    async fn retry(
        &self,
        request: &Request,
        (retries, crashes): (u32, u32),
        after: Duration,
        failure: TaskFailure,
    ) -> Result<(), Abandoned> {
        let mut message = again(request);
        for (name, count) in [("retries", retries), (names::CRASHES, crashes)] {
            if count > 0 {
                message.headers.set(name, count);
            }
        }
        history::append(&mut message.headers, self.attempt_of(request, failure.to_string()));
        self.keep_lock(request, after).await?;
        self.publish_later(request.context.queue(), message, after).await?;
        if !self.wants_result(request) {
            return Ok(());
        }
        self.store(request, &ResultRecord::failed(request.context.id(), State::Retry, failure)).await
    }

    /// Lets a unique call keep others out through a wait, and for its time after it. Before it is sent: whoever has the
    /// lock has a message.
    pub(super) async fn keep_lock(&self, request: &Request, wait: Duration) -> Result<(), Abandoned> {
        let (task, id) = (request.context.task(), request.context.id());
        let Some(lock) = unique::read(request.context.headers(), id) else { return Ok(()) };
        let keep = || self.broker.keep_locked(&lock, wait);
        if let Some(Locked::Held(holder)) = self.persist("keep the lock of a unique task", keep).await? {
            // It was too late for the lock. That is no reason to lose the call.
            tracing::warn!(task, id, holder, "another call has its lock by now: it waits beside that one");
        }
        Ok(())
    }

    async fn dead(
        &self,
        request: &Request,
        reason: DeadReason,
        failure: TaskFailure,
    ) -> Result<(), Abandoned> {
        let context = &request.context;
        let queue = Queue::dead_letter_name(context.queue());
        let mut message = again(request);
        message.headers.set(names::DEAD_REASON, reason.as_str());
        message.headers.set(names::DEAD_ERROR, shortened(&failure.to_string(), MAX_ERROR));
        message.headers.set(names::DEAD_QUEUE, context.queue());
        message.headers.set(names::DEAD_AT, format_time(Utc::now()));
        history::append(&mut message.headers, self.attempt_of(request, failure.to_string()));
        let attempts = history::read(&message.headers);
        let letter = to_queue(&queue, message, None);
        self.insist("put a message aside", Effect::DeadLetter { of: context.queue(), letter }).await?;
        self.tell_of_failure(request, &failure).await?;
        if !self.hooks.is_empty() {
            let failed = FailedTask { context: context.clone(), reason: reason.as_str(), failure, attempts };
            self.hooks.tell(failed).await;
        }
        Ok(())
    }

    /// Tells whoever waits for the result, and what should follow a failure.
    async fn tell_of_failure(&self, request: &Request, failure: &TaskFailure) -> Result<(), Abandoned> {
        let context = &request.context;
        if request.plain {
            return self.reply_failure(context, failure).await;
        }
        if self.wants_result(request) && context.message().is_task() {
            self.store_for_all(request, State::Failure, failure).await?;
        }
        self.publish_all(continuation::after_failure(&request.embed, context)).await
    }

    async fn revoked(&self, request: &Request, why: &'static str) -> Result<(), Abandoned> {
        if request.plain || !self.wants_result(request) {
            return Ok(());
        }
        // Celery's class for it, so that Python callers catch what they know.
        let failure = TaskFailure {
            kind: "TaskRevokedError".into(),
            module: "celery.exceptions".into(),
            message: why.into(),
            traceback: None,
        };
        self.store_for_all(request, State::Revoked, &failure).await
    }

    /// Tells whoever waits for this call, and for the steps after it, which are never reached.
    async fn store_for_all(
        &self,
        request: &Request,
        state: State,
        failure: &TaskFailure,
    ) -> Result<(), Abandoned> {
        let own = ResultRecord::failed(request.context.id(), state.clone(), failure.clone());
        self.store(request, &own).await?;
        for (id, reply_to) in continuation::never_reached(&request.embed) {
            let record = ResultRecord::failed(id, state.clone(), failure.clone());
            let effect = Effect::Store { record: &record, reply_to: reply_to.as_deref() };
            self.insist("store a result", effect).await?;
        }
        Ok(())
    }

    /// An entry for the history of the message.
    pub(super) fn attempt_of(&self, request: &Request, error: String) -> Attempt {
        Attempt {
            attempt: request.context.retries().saturating_add(1),
            at: format_time(Utc::now()),
            error,
            worker: self.app.worker_name(),
        }
    }

    fn wants_result(&self, request: &Request) -> bool {
        !request.context.headers().ignore_result().unwrap_or(request.options.ignore_result)
    }

    async fn store(&self, request: &Request, record: &ResultRecord) -> Result<(), Abandoned> {
        let reply_to = request.context.properties().reply_to.as_deref();
        self.insist("store a result", Effect::Store { record, reply_to }).await
    }

    /// Answers a plain message that asks for it, as in RabbitMQ's tutorial on remote procedure calls.
    async fn reply(&self, context: &Context, json: &[u8]) -> Result<(), Abandoned> {
        let asked_json =
            context.properties().content_type.as_deref().is_some_and(|kind| kind.starts_with(JSON));
        // Whoever did not speak JSON gets a text as a text, not in quotes.
        let text = match serde_json::from_slice(json) {
            Ok(Value::String(text)) if !asked_json => Some(text),
            _ => None,
        };
        let kind = if text.is_some() { TEXT } else { JSON };
        let body = text.map_or_else(|| json.to_vec(), String::into_bytes);
        self.answer(context, kind, body, Headers::default()).await
    }

    /// Tells whoever waits for an answer that there will be none.
    async fn reply_failure(&self, context: &Context, failure: &TaskFailure) -> Result<(), Abandoned> {
        let headers = [(names::ERROR.to_owned(), Value::from(failure.kind.as_str()))].into_iter().collect();
        self.answer(context, TEXT, failure.message.clone().into_bytes(), headers).await
    }

    async fn answer(
        &self,
        context: &Context,
        kind: &str,
        body: Vec<u8>,
        headers: Headers,
    ) -> Result<(), Abandoned> {
        let Some(queue) = context.properties().reply_to.clone() else { return Ok(()) };
        let properties = Properties {
            content_type: Some(kind.into()),
            content_encoding: Some("utf-8".into()),
            correlation_id: context.properties().correlation_id.clone(),
            transient: true,
            ..Properties::default()
        };
        let message = Message { properties, headers, body: body.into() };
        let mut publication = to_queue(&queue, message, None);
        // Whoever asked may have gone.
        publication.mandatory = false;
        self.insist("answer", Effect::Publish(publication)).await
    }

    async fn publish_all(&self, following: Vec<Following>) -> Result<(), Abandoned> {
        for next in following {
            let own = self.app.registry().get(&next.task).and_then(|entry| entry.options.queue);
            let route = self.app.router().route(&next.task, own, next.wanted());
            let eta = next.message.headers.eta().ok().flatten();
            let delay = eta.and_then(|eta| (eta - Utc::now()).to_std().ok());
            // What comes too early for that waits again.
            let delay = delay.map(|delay| delay.min(self.broker.capabilities().max_delay));
            let publication = Publication {
                exchange: route.exchange,
                routing_key: route.routing_key,
                message: next.message,
                delay,
                mandatory: true,
            };
            self.insist("send what follows", Effect::Send { queue: route.queue, publication }).await?;
        }
        Ok(())
    }

    async fn publish_later(
        &self,
        queue: &str,
        mut message: Message,
        after: Duration,
    ) -> Result<(), Abandoned> {
        let wait = chrono::Duration::from_std(after).unwrap_or(chrono::Duration::MAX);
        if let Some(eta) = Utc::now().checked_add_signed(wait) {
            message.headers.set("eta", format_time(eta));
        }
        let publication = to_queue(queue, message, Some(after).filter(|after| !after.is_zero()));
        self.insist("send a retry", Effect::Publish(publication)).await
    }

    async fn attempt(&self, effect: &Effect<'_>) -> Result<()> {
        match effect {
            Effect::Publish(publication) => self.broker.publish(publication.clone()).await,
            Effect::Unlock(lock) => self.broker.unlock(lock).await,
            Effect::Store { record, reply_to } => match self.backend.store(record, *reply_to).await {
                // A task id that is too long for AMQP, for instance: waiting would not make it shorter.
                Err(error) if error.is_config() => {
                    let (id, error) = (&record.task_id, format!("{error:#}"));
                    tracing::error!(id, error, "the result cannot be stored");
                    Ok(())
                }
                stored => stored,
            },
            Effect::DeadLetter { of, letter } => {
                self.app.ensure_dead_letter_queue(of).await?;
                self.broker.publish(letter.clone()).await
            }
            Effect::Send { queue, publication } => {
                if let Some(queue) = queue {
                    self.app.ensure_queue(queue).await?;
                }
                self.broker.publish(publication.clone()).await
            }
        }
    }

    /// Tries an effect until it succeeds or the worker stops cold.
    pub(super) async fn insist(&self, what: &str, effect: Effect<'_>) -> Result<(), Abandoned> {
        self.persist(what, || self.attempt(&effect).boxed()).await.map(drop)
    }

    /// Asks again and again until there is an answer or the worker stops cold. `None`: this broker cannot do it at all,
    /// and that was said.
    async fn persist<'a, T>(
        &'a self,
        what: &str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<Option<T>, Abandoned> {
        let mut pause = Duration::from_millis(50);
        loop {
            let error = tokio::select! {
                biased;
                done = attempt() => match done {
                    Ok(answer) => return Ok(Some(answer)),
                    Err(error) if error.is_unsupported() => {
                        tracing::error!(error = format!("{error:#}"), "cannot {what}");
                        return Ok(None);
                    }
                    Err(error) => error,
                },
                () = self.cold.cancelled() => return Err(Abandoned),
            };
            tracing::warn!(error = format!("{error:#}"), again_in = %show::duration(pause), "cannot {what}");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.cold.cancelled() => return Err(Abandoned),
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

/// Names a trial. `None`: a message without an id is another one each time it comes. With the retries, as Celery's workers
/// drop headers that they do not know when they send a message again.
fn trial_of(headers: &Headers) -> Option<String> {
    let trial = headers.get_str(names::TRIAL).unwrap_or_default();
    headers.id().map(|id| format!("{id}/{}/{trial}", headers.retries()))
}
