//! Carries out an outcome. This is the one place that states the order of effects:
//!
//! - success: what follows is published → the result is stored → ack;
//! - retry: a unique call keeps its lock → the new message is published → the state is stored → ack;
//! - dead: the dead letter is published → the failure is stored → errbacks are published → ack;
//! - revoked: the state is stored → ack;
//! - requeued: the message is in its queue again, with no attempt spent.
//!
//! Every effect is durable before the next starts, and the ack comes last: a crash in between may run a task twice, but
//! never loses one. While the broker or the backend is away, an effect is retried until it succeeds; its place in the
//! prefetch window stays taken, which keeps the worker from running ahead.
//!
//! Impossible effects have a defined outcome, so that no slot is held forever:
//!
//! | effect | if it is impossible |
//! |---|---|
//! | retry, postponing, counting a crash, a copy for another task | a copy with fewer headers, else a dead letter |
//! | what follows a success | a dead letter: the chain would stop halfway |
//! | dead letter | a letter with fewer headers, else reject: the broker dead-letters the message itself |
//! | result, reply | a failure that says so, else it is logged and skipped |
//! | errback, register, lock | it is logged and skipped |

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::continuation::{self, Following};
use super::copy::copy_of;
use super::counters::count;
use super::effect::Effect;
use super::outcome::{DeadReason, Outcome, failure};
use super::persist::{Abandoned, Service, Unsettled, unless_impossible};
use super::settler::{MAX_ERROR, Settled, Settler};
use super::trimmed_copy::TrimmedCopy;
use crate::app::unique;
use crate::backend::ResultRecord;
use crate::broker::{Locked, Publication, Verdict};
use crate::error::{Result, TaskFailure};
use crate::events::KEPT;
use crate::message::Message;
use crate::message::headers::{LATEST, format_time, names};
use crate::message::history::{self, shortened};
use crate::middleware::{OutcomeKind, TaskOutcome};
use crate::routing::Queue;
use crate::runtime::admission::request::Request;
use crate::show;
use crate::state::State;
use crate::task::FailedTask;
use crate::traces::continue_in;
use crate::tracing;

impl Settler {
    /// Carries out an outcome and settles the delivery.
    pub(crate) async fn settle(&self, request: Request, outcome: Outcome, elapsed: Duration) {
        let layers = self.app.middleware();
        let is_reported = self.reporter.wants_calls();
        if layers.is_empty() && !is_reported && !self.metrics.is_on() && !request.trace.is_on() {
            self.carry_out(request, outcome, elapsed).await;
            return;
        }
        let context = request.context.clone();
        let value = match &outcome {
            Outcome::Success(json) if is_reported => Some(json[..json.len().min(KEPT)].to_vec()),
            _ => None,
        };
        let seen = outcome.without_value();
        let begun = Instant::now();
        let trace = request.trace.clone();
        let done = trace.step("settle").around(self.carry_out(request, outcome, elapsed)).await;
        let kind = match done {
            true => seen.kind(),
            false => OutcomeKind::Requeued,
        };
        trace.end(kind.name(), kind.failure());
        self.metrics.settled(&context, kind, elapsed, begun.elapsed());
        match (kind, value) {
            (OutcomeKind::Succeeded, Some(json)) => self.reporter.succeeded(&context, &json, elapsed),
            // Already reported before the retry was sent: another worker may have run it since.
            (OutcomeKind::Retried { .. }, _) => {}
            _ => self.reporter.ended(&context, kind),
        }
        layers.on_outcome(&context, &TaskOutcome { kind, elapsed }).await;
    }

    /// Carries out an outcome. False if the cold shutdown came first and the message was requeued.
    ///
    /// Every task pays for the size of this future, so rare branches are boxed.
    async fn carry_out(&self, request: Request, outcome: Outcome, elapsed: Duration) -> bool {
        let context = request.context.clone();
        let (task, id) = (context.task(), context.id());
        let done = match outcome {
            Outcome::Success(json) => self.success(&request, json, elapsed).await,
            Outcome::Retry { after, failure, crashed } => {
                Box::pin(self.retry(&request, after, failure, crashed)).await
            }
            Outcome::DeadLetter { reason, failure } => Box::pin(self.dead(&request, reason, failure)).await,
            Outcome::Revoked { why } => {
                tracing::info!(task, id, why, "not run");
                count(&self.counters.revoked);
                Box::pin(self.revoked(&request, why)).await
            }
            Outcome::Duplicate => {
                tracing::info!(task, id, "redelivered after it had succeeded: not run again");
                Ok(Settled::Over(Verdict::Ack))
            }
            Outcome::Postpone { after, problem } => {
                tracing::warn!(task, id, after = %show::duration(after), problem, "cannot start the task on this worker now: postponed");
                Box::pin(self.postpone(request, after)).await;
                return true;
            }
            Outcome::Lost { problem } => {
                tracing::error!(task, id, problem, "panicked while it was stopped: counted as a crash");
                return true;
            }
            Outcome::Requeue => Err(Abandoned),
        };
        let is_done = done.is_ok();
        match done {
            Ok(settled) => self.finish(request, settled).await,
            Err(Abandoned) => Box::pin(self.requeue(request)).await,
        }
        is_done
    }

    /// Settles a delivery once everything else is durable.
    pub(crate) async fn finish(&self, request: Request, settled: Settled) {
        let (verdict, lock) = match settled {
            Settled::Over(verdict) => {
                (verdict, unique::read(request.context.headers(), request.context.id()))
            }
            Settled::GoesOn(verdict) => (verdict, None),
        };
        request.settlement.settle(verdict);
        // Only now: the next call must not overlap with this one.
        if let Some(lock) = lock
            && let Err(Unsettled::Impossible(error)) =
                Box::pin(self.retry_until_durable("release the lock of a unique task", Effect::Unlock(&lock)))
                    .await
        {
            tracing::error!(error = format!("{error:#}"), "cannot release a lock: it expires by itself");
        }
    }

    async fn success(
        &self,
        request: &Request,
        json: Vec<u8>,
        elapsed: Duration,
    ) -> Result<Settled, Abandoned> {
        let context = &request.context;
        let following = continuation::after_success(&request.embed, context, &json);
        let children = following.iter().filter_map(|next| next.message.id().map(ToOwned::to_owned)).collect();
        if !following.is_empty()
            && let Err(error) = unless_impossible(Box::pin(self.publish_all(following)).await)?
        {
            let why = failure("ContinuationError", format!("it succeeded, but {error:#}"));
            return Box::pin(self.dead(request, DeadReason::Unsettled, why)).await;
        }
        if request.plain {
            Box::pin(self.reply(context, &json)).await?;
        } else if self.wants_result(request) {
            match ResultRecord::success(context.id(), json) {
                Ok(record) => {
                    let record = self.signed(request, ResultRecord { children, ..record });
                    Box::pin(self.store(request, &record)).await?;
                }
                // The macro writes results with serde_json, but a hand-written entry could still get it wrong.
                Err(error) => {
                    tracing::error!(id = context.id(), error = %error, "cannot store the result");
                }
            }
        }
        self.remember(request).await?;
        count(&self.counters.succeeded);
        tracing::info!(task = context.task(), id = context.id(), elapsed = %show::duration(elapsed), "succeeded");
        Ok(Settled::Over(Verdict::Ack))
    }

    async fn retry(
        &self,
        request: &Request,
        after: Duration,
        failure: TaskFailure,
        crashed: bool,
    ) -> Result<Settled, Abandoned> {
        let context = &request.context;
        let (retries, crashes) = match crashed {
            true => (context.retries(), request.crashes().saturating_add(1)),
            false => (context.retries().saturating_add(1), request.crashes()),
        };
        let (task, id) = (context.task(), context.id());
        tracing::warn!(task, id, retries, crashes, after = %show::duration(after), error = %failure, "will be retried");
        let mut message = copy_of(request);
        for (name, count) in [("retries", retries), (names::CRASHES, crashes)] {
            if count > 0 {
                message.headers.set(name, count);
            }
        }
        history::append(&mut message.headers, self.attempt_of(request, failure.to_string()));
        self.keep_lock(request, after).await?;
        self.reporter.ended(context, OutcomeKind::Retried { after, failure: &failure });
        if let Err(error) = unless_impossible(self.publish_later(request, message, after).await)? {
            let message = format!("{} (it is not retried: {error:#})", failure.message);
            return self.dead(request, DeadReason::Unsettled, TaskFailure { message, ..failure }).await;
        }
        count(&self.counters.retried);
        if self.wants_result(request) {
            let record = self.signed(request, ResultRecord::failed(id, State::Retry, failure));
            self.store(request, &ResultRecord { retry_at: Some(due_in(after)), ..record }).await?;
        }
        Ok(Settled::GoesOn(Verdict::Ack))
    }

    /// Extends the lock of a unique call by a wait plus its own lifetime. Called before the message is sent: a lock must not
    /// outlive the message of its holder.
    pub(crate) async fn keep_lock(&self, request: &Request, wait: Duration) -> Result<(), Abandoned> {
        let (task, id) = (request.context.task(), request.context.id());
        let Some(lock) = unique::read(request.context.headers(), id) else { return Ok(()) };
        let keep = || self.broker.extend_lock(&lock, wait);
        let kept = self.persist.until_done("keep the lock of a unique task", Service::Broker, keep).await;
        match unless_impossible(kept)? {
            Ok(Locked::Taken) => {}
            // The lock had expired and another call took it, which is no reason to lose this one.
            Ok(Locked::Held(holder)) => {
                tracing::warn!(
                    task,
                    id,
                    holder,
                    "another call holds its lock; both may run at the same time"
                );
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(task, id, error, "another call of this unique task may run beside it");
            }
        }
        Ok(())
    }

    /// Moves a message to the dead-letter queue, and reports it to the waiting caller and the hooks.
    pub(crate) async fn dead(
        &self,
        request: &Request,
        reason: DeadReason,
        failure: TaskFailure,
    ) -> Result<Settled, Abandoned> {
        let context = &request.context;
        let (task, id) = (context.task(), context.id());
        let queue = Queue::dead_letter_name(context.queue());
        tracing::error!(task, id, reason = reason.as_str(), error = %failure, queue, "dead-lettered");
        count(&self.counters.failed);
        let mut message = copy_of(request);
        message.headers.set(names::DEAD_REASON, reason.as_str());
        message.headers.set(names::DEAD_ERROR, shortened(&failure.to_string(), MAX_ERROR));
        message.headers.set(names::DEAD_QUEUE, context.queue());
        message.headers.set(names::DEAD_AT, format_time(Utc::now()));
        history::append(&mut message.headers, self.attempt_of(request, failure.to_string()));
        let attempts = history::read(&message.headers);
        self.letters.add(&queue);
        let letter = |message| Effect::DeadLetter {
            of: context.queue(),
            letter: Publication::to_queue(&queue, message),
        };
        let sent =
            self.publish_copy(request, "dead-letter a message", TrimmedCopy::letter(message), letter).await;
        let verdict = match unless_impossible(sent)? {
            // A replay of the dead letter has the same id, and is meant to run.
            Ok(()) => Verdict::Replaced,
            Err(error) => {
                let (queue, error) = (context.queue(), format!("{error:#}"));
                tracing::error!(
                    task,
                    id,
                    queue,
                    error,
                    "rejected instead: the broker moves it to the dead-letter exchange of its queue"
                );
                Verdict::Reject
            }
        };
        self.report_failure(request, &failure).await?;
        if !self.hooks.is_empty() {
            let failed = FailedTask { context: context.clone(), reason: reason.as_str(), failure, attempts };
            self.hooks.run(failed, &self.persist.cold).await;
        }
        Ok(Settled::Over(verdict))
    }

    /// Reports a failure to the waiting caller, and publishes the errbacks.
    async fn report_failure(&self, request: &Request, failure: &TaskFailure) -> Result<(), Abandoned> {
        let context = &request.context;
        if request.plain {
            return self.reply_failure(context, failure).await;
        }
        if self.wants_result(request) && context.message().is_task() {
            self.store_for_all(request, State::Failure, failure).await?;
        }
        for errback in continuation::after_failure(&request.embed, context) {
            let task = errback.task.clone();
            if let Err(error) = unless_impossible(self.publish_all(vec![errback]).await)? {
                let error = format!("{error:#}");
                tracing::error!(id = context.id(), errback = task, error, "cannot run the errback");
            }
        }
        Ok(())
    }

    pub(crate) async fn revoked(&self, request: &Request, why: &'static str) -> Result<Settled, Abandoned> {
        if !request.plain && self.wants_result(request) {
            // Celery's class for it, which Python callers can catch.
            let failure = TaskFailure {
                kind: "TaskRevokedError".into(),
                module: "celery.exceptions".into(),
                message: why.into(),
                traceback: None,
                arguments: Box::default(),
            };
            self.store_for_all(request, State::Revoked, &failure).await?;
        }
        Ok(Settled::Over(Verdict::Ack))
    }

    async fn publish_all(&self, following: Vec<Following>) -> Result<(), Unsettled> {
        for mut next in following {
            continue_in(&mut next.message.headers);
            let own = self.app.registry().get(&next.task).and_then(|entry| entry.options.queue);
            let route = self.app.router().route(&next.task, own, next.wanted());
            let eta = next.message.headers.eta().ok().flatten();
            let delay = eta.and_then(|eta| (eta - Utc::now()).to_std().ok());
            let publication = Publication {
                exchange: route.exchange,
                routing_key: route.routing_key,
                message: next.message,
                delay: delay.map(|delay| self.as_long_as_possible(delay)),
                mandatory: true,
            };
            self.retry_until_durable(
                "send the follow-up messages",
                Effect::Send { queue: route.queue, publication },
            )
            .await?;
        }
        Ok(())
    }

    async fn publish_later(
        &self,
        request: &Request,
        mut message: Message,
        after: Duration,
    ) -> Result<(), Unsettled> {
        message.headers.set("eta", format_time(due_in(after)));
        let delay = Some(self.as_long_as_possible(after)).filter(|after| !after.is_zero());
        let retry = |message| {
            Effect::Publish(Publication { delay, ..Publication::to_queue(request.context.queue(), message) })
        };
        self.publish_copy(request, "send a retry", TrimmedCopy::call(message), retry).await
    }
}

/// The time after a wait, or the latest possible one.
fn due_in(after: Duration) -> DateTime<Utc> {
    let wait = chrono::Duration::from_std(after).ok();
    wait.and_then(|wait| Utc::now().checked_add_signed(wait)).unwrap_or(LATEST)
}
