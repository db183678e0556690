//! Deliveries that are settled without a run: their messages are sent again or requeued, with no attempt spent.

use std::time::Duration;

use super::copy::{copy_of, mark_plain};
use super::counters::count;
use super::effect::Effect;
use super::outcome::{DeadReason, failure};
use super::persist::{Abandoned, Unsettled};
use super::settler::{Settled, Settler};
use super::trimmed_copy::TrimmedCopy;
use crate::broker::{Publication, Verdict};
use crate::events::EventKind;
use crate::message::headers::names;
use crate::message::{Message, history};
use crate::runtime::admission::request::Request;
use crate::show;
use crate::task::TaskEntry;
use crate::tracing;

impl Settler {
    /// Requeues the message as if it had never been delivered. A broker that marks requeued messages as redelivered would
    /// make the next worker suspect a crash, so there the message is published again. So is one that was in quarantine,
    /// because its note must not count against it.
    pub(crate) async fn requeue(&self, request: Request) {
        if request.settlement.is_settled() {
            // `ack = "early"` means at most once: it has started, so it does not run again.
            tracing::warn!(
                task = request.context.task(),
                id = request.context.id(),
                "interrupted; not run again"
            );
            return;
        }
        // Only a stopping worker requeues. Wait until it cannot receive the same message again.
        self.consumed.cancelled().await;
        count(&self.counters.requeued);
        tracing::debug!(task = request.context.task(), id = request.context.id(), "requeued");
        self.reporter.happened(EventKind::Requeued, &request.context);
        let is_counted = self.broker.capabilities().counts_crashes && !request.quarantined;
        if is_counted || request.context.task().is_empty() {
            return request.settlement.settle(Verdict::Requeue);
        }
        // A worker that stops must not wait for a broker that is away: an unsettled message is redelivered anyway.
        const LIMIT: Duration = Duration::from_secs(2);
        let afresh = self.broker.publish(Publication::to_queue(request.context.queue(), copy_of(&request)));
        let published = matches!(tokio::time::timeout(LIMIT, afresh).await, Ok(Ok(())));
        request.settlement.settle(if published { Verdict::Replaced } else { Verdict::Requeue });
    }

    /// Requeues an unstarted message while this worker keeps running. Its consumer must have no more room for it, or be
    /// detached from a paused queue: otherwise the same message would be delivered again.
    pub(crate) async fn return_unstarted(&self, request: Request) {
        count(&self.counters.requeued);
        if self.broker.capabilities().counts_crashes || request.context.task().is_empty() {
            return request.settlement.settle(Verdict::Requeue);
        }
        let afresh = |message| Effect::Publish(Publication::to_queue(request.context.queue(), message));
        let copy = TrimmedCopy::call(copy_of(&request));
        let done = self.publish_copy(&request, "return a reserved message to its queue", copy, afresh).await;
        self.replace(request, done).await;
    }

    /// Sends a message of a paused task back to wait in the broker, with no attempt spent.
    pub(crate) async fn hold(&self, request: Request, wait: Duration) {
        let (task, id) = (request.context.task(), request.context.id());
        let held = request.context.headers().held().saturating_add(1);
        tracing::debug!(task, id, held, after = %show::duration(wait), "its task is paused: postponed");
        let mut message = copy_of(&request);
        message.headers.set(names::HELD, held);
        self.wait_in_broker(request, message, wait).await;
    }

    /// Sends a message that came before its time, or its turn, back to wait in the broker.
    pub(crate) async fn postpone(&self, request: Request, wait: Duration) {
        let message = copy_of(&request);
        self.wait_in_broker(request, message, wait).await;
    }

    async fn wait_in_broker(&self, request: Request, message: Message, wait: Duration) {
        if self.keep_lock(&request, wait).await.is_err() {
            return request.settlement.settle(Verdict::Requeue);
        }
        self.reporter.delayed(&request.context, wait);
        let delay = Some(self.as_long_as_possible(wait));
        let waiting = |message| {
            Effect::Publish(Publication { delay, ..Publication::to_queue(request.context.queue(), message) })
        };
        let copy = TrimmedCopy::call(message);
        let done = self.publish_copy(&request, "let a message wait", copy, waiting).await;
        self.replace(request, done).await;
    }

    /// Counts a crash in the message itself, and sends the counted message again.
    pub(crate) async fn count_crash(&self, request: Request) {
        let mut message = copy_of(&request);
        let crashes = request.crashes().saturating_add(1);
        message.headers.set(names::CRASHES, crashes);
        let lost = "delivered and never settled: its worker may have died";
        history::append(&mut message.headers, self.attempt_of(&request, lost.into()));
        tracing::warn!(
            task = request.context.task(),
            id = request.context.id(),
            crashes,
            "delivered before and never settled: its worker may have died"
        );
        self.reporter.happened(EventKind::Crashed, &request.context);
        let counted = |message| Effect::Publish(Publication::to_queue(request.context.queue(), message));
        let done = self.publish_copy(&request, "count a crash", TrimmedCopy::call(message), counted).await;
        self.replace(request, done).await;
    }

    /// Gives each task that subscribes to a plain message its own copy, with its own retries.
    pub(crate) async fn split(&self, request: Request, entries: &[&'static TaskEntry]) {
        for entry in entries {
            let mut message = copy_of(&request);
            // The same id for the same message and task, however often this is interrupted and repeated.
            let id = format!("{}.{}", request.context.id(), entry.name);
            mark_plain(&mut message, entry.name, &id);
            let copy = |message| Effect::Publish(Publication::to_queue(request.context.queue(), message));
            let done = self.publish_copy(&request, "copy a message", TrimmedCopy::call(message), copy).await;
            if done.is_err() {
                return self.replace(request, done).await;
            }
        }
        request.settlement.settle(Verdict::Ack);
    }

    /// Settles a message whose copy will run instead.
    async fn replace(&self, request: Request, published: Result<(), Unsettled>) {
        let settled = match published {
            Ok(()) => Ok(Settled::GoesOn(Verdict::Replaced)),
            Err(Unsettled::Abandoned) => Err(Abandoned),
            Err(Unsettled::Impossible(error)) => {
                let why = failure("SettlementError", format!("{error:#}"));
                self.dead(&request, DeadReason::Unsettled, why).await
            }
        };
        match settled {
            Ok(settled) => self.finish(request, settled).await,
            Err(Abandoned) => request.settlement.settle(Verdict::Requeue),
        }
    }
}
