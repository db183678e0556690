//! One queue of a consumer: its channel, its deliveries and its acks, across all reconnects.
//!
//! A lane is one task. It ends once it has been cancelled and everything it handed out is settled. It awaits nothing
//! but the next event: while a reply from the broker is pending, it still takes verdicts and writes acks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::acks::Acks;
use super::attachment::{Attachment, Change, LaneStart, attach};
use super::command::{LaneCommand, Pending, Reply};
use super::flushes::Flushes;
use super::handout::HandOut;
use super::ledger::Identity;
use super::lost_channels::{LostChannels, Redelivered};
use super::status::LaneStatus;
use super::to_delivery;
use super::verdicts::{Settled, Verdicts};
use crate::broker::{Delivery, LOST_PAUSE, Settlement, Verdict};
use crate::connection::amqp::Amqp;
use crate::connection::amqp::failure::{reply_code, text};
use crate::connection::amqp::link::Pause;
use crate::connection::amqp::subscription::{Event, Source};
use crate::tracing::{debug, error, info, warn};

/// How many deliveries or verdicts are taken at once.
const BATCH: usize = 1024;

pub(super) struct Lane {
    amqp: Arc<Amqp>,
    source: Source,
    status: Arc<LaneStatus>,
    commands: mpsc::Receiver<LaneCommand>,
    attachment: Attachment,
    out: HandOut,
    verdicts: Verdicts,
    acks: Acks,
    lost_channels: LostChannels<Delivery>,
    cancel: Option<Pending>,
    flushes: Flushes,
}

impl Lane {
    pub(super) fn new(
        amqp: Arc<Amqp>,
        source: Source,
        beginning: LaneStart,
        status: Arc<LaneStatus>,
        commands: mpsc::Receiver<LaneCommand>,
        consumer: mpsc::Sender<Delivery>,
    ) -> Self {
        let most = usize::from(source.prefetch);
        status.is_attached.store(true, Ordering::Relaxed);
        let attachment = Attachment::new(beginning, &amqp, &source, &status);
        Self {
            amqp,
            source,
            status,
            commands,
            attachment,
            out: HandOut::new(consumer),
            verdicts: Verdicts::new(),
            acks: Acks::new(most),
            lost_channels: LostChannels::new(most),
            cancel: None,
            flushes: Flushes::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut verdicts = Vec::new();
        loop {
            self.out.hand_out();
            // Called first: it starts the next flush, even when no verdict is waiting.
            let is_flushing = self.flushes.begin();
            // Take all waiting verdicts first, so that they go into the same ack.
            if self.verdicts.is_empty() || is_flushing {
                self.write_acks();
            }
            self.status.set_unsettled(self.acks.ledger.out());
            if self.is_finished() {
                break;
            }
            let is_full = self.out.is_open() && self.out.waiting() > 0;
            // The broker's reply to a cancellation comes after the deliveries it has already sent, so keep reading.
            let reads = !is_full || self.cancel.is_some();
            let cancel = self.cancel.as_ref().map(|cancel| cancel.deadline);
            let deadline = [cancel, self.flushes.deadline()].into_iter().flatten().min();
            // No other write can start while one is in progress: waking up for it would be a busy loop.
            let straggler = self.acks.straggler().filter(|_| !self.is_writing());
            let sunk = self.acks.unconfirmed_verdicts.over_at(Instant::now());
            let sunk = sunk.filter(|_| self.flushes.is_under_way() || !self.out.is_open());
            tokio::select! {
                biased;
                Some(command) = self.commands.recv() => self.obey(command),
                () = self.out.dropped(), if self.cancel.is_none() => self.begin_cancel(None),
                () = self.verdicts.take(&mut verdicts, BATCH) => {
                    verdicts.drain(..).for_each(|settled| self.settle(settled));
                }
                () = self.out.room(), if is_full => {}
                change = self.attachment.next(reads) => self.take(change),
                () = at(straggler) => {}
                () = at(sunk) => {}
                () = at(deadline) => self.give_up_waiting(),
            }
        }
        // Deliveries that came too late to be handed out are requeued when the channel closes.
        self.status.set_unsettled(0);
        // Later commands see that the lane has ended.
        drop(self.commands);
        if let Attachment::Attached(subscribed) = self.attachment {
            subscribed.close().await;
        }
    }

    fn is_writing(&self) -> bool {
        matches!(&self.attachment, Attachment::Attached(subscribed) if subscribed.is_writing())
    }

    fn is_finished(&self) -> bool {
        let is_idle = match &self.attachment {
            // Waiting deliveries came too late: they are requeued when the channel closes.
            Attachment::Attached(subscribed) => {
                let Acks { ledger, .. } = &self.acks;
                let is_settled = ledger.out() == self.out.waiting() && ledger.held() == 0;
                is_settled
                    && !subscribed.is_writing()
                    && self.acks.unconfirmed_verdicts.over_at(Instant::now()).is_none()
            }
            Attachment::Attaching(_) | Attachment::Ended => true,
        };
        is_idle && !self.out.is_open() && !self.flushes.is_under_way()
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Attached(subscribed) => {
                self.verdicts.next_channel();
                self.status.is_attached.store(true, Ordering::Relaxed);
                self.attachment = Attachment::Attached(subscribed);
            }
            Change::Came(mut event) => {
                for _ in 0..BATCH {
                    let Event::Delivered(delivery) = event else { return self.turn(event) };
                    self.delivered(delivery);
                    let Attachment::Attached(subscribed) = &mut self.attachment else { return };
                    let Some(next) = subscribed.next_now() else { return };
                    event = next;
                }
                self.turn(event);
            }
        }
    }

    fn turn(&mut self, event: Event) {
        match event {
            Event::Delivered(delivery) => self.delivered(delivery),
            Event::Written => {}
            Event::Confirmed => self.flushes.end(),
            Event::Ended if self.out.is_open() && self.cancel.is_none() => self.lost(None),
            Event::Ended => self.end_cancel(),
            Event::Lost(error) => self.lost(Some(error)),
        }
    }

    fn delivered(&mut self, delivery: lapin::message::Delivery) {
        let tag = delivery.delivery_tag;
        let settlement = Settlement::new(tag, Arc::clone(&self.verdicts.sink));
        let delivery = to_delivery(&self.source.queue, delivery, settlement);
        let identity = identity(&delivery);
        if let Some(identity) =
            identity.as_ref().filter(|_| delivery.redelivered && !self.lost_channels.is_empty())
        {
            match self.lost_channels.ask(identity) {
                Redelivered::Run => {}
                Redelivered::Park => {
                    debug!(id = &*identity.id, "redelivered while it runs: waiting for that run");
                    self.acks.ledger.delivered(tag, None);
                    return self.lost_channels.park(identity, delivery);
                }
                Redelivered::Finished => {
                    debug!(id = &*identity.id, "redelivered after it was done: acked without a run");
                    // This ack may be lost too, and then the message is redelivered again.
                    self.acks.ledger.delivered(tag, Some(identity.clone()));
                    return delivery.ack();
                }
            }
        }
        self.acks.ledger.delivered(tag, identity);
        self.out.push(delivery);
    }

    fn settle(&mut self, (channel, tag, verdict): Settled) {
        if verdict == Verdict::Lost {
            // The broker marks it as redelivered, which is counted; until then it still takes up prefetch.
            return self.verdicts.put_off((channel, tag, Verdict::Requeue), LOST_PAUSE);
        }
        if let Attachment::Attached(subscribed) = &mut self.attachment
            && channel == self.verdicts.channel
        {
            match verdict {
                Verdict::Ack => {
                    self.acks.ledger.done(tag);
                }
                Verdict::Replaced => {
                    self.acks.ledger.replaced(tag);
                }
                Verdict::Requeue | Verdict::Lost => {
                    if self.acks.ledger.requeued(tag) {
                        self.acks.unconfirmed_verdicts.wrote(1, Instant::now());
                        subscribed.requeue(tag);
                    }
                }
                Verdict::Reject => {
                    if self.acks.ledger.requeued(tag) {
                        self.acks.unconfirmed_verdicts.wrote(1, Instant::now());
                        subscribed.reject(tag);
                    }
                }
            }
            return;
        }
        if let Some(copy) = self.lost_channels.ended(channel, tag, verdict == Verdict::Ack) {
            // A replaced message is not remembered: its replacement has the same identity and must run.
            if let Some(identity) = identity(&copy).filter(|_| verdict == Verdict::Ack) {
                self.acks.ledger.identify(copy.settlement.tag(), identity);
            }
            match verdict {
                Verdict::Ack | Verdict::Replaced | Verdict::Reject => copy.settlement.settle(verdict),
                // Dropped, and so requeued, if nothing is handed out any more.
                Verdict::Requeue | Verdict::Lost if !self.out.is_open() => {}
                Verdict::Requeue | Verdict::Lost => self.out.push(copy),
            }
        }
    }

    /// Writes the acks that are due; for a flush, all that can be written, followed by a request to confirm them.
    fn write_acks(&mut self) {
        let Attachment::Attached(subscribed) = &mut self.attachment else {
            return self.flushes.end();
        };
        // While a write is in progress, verdicts gather for the next one.
        if subscribed.is_writing() {
            return;
        }
        let lost_channels = &mut self.lost_channels;
        let due = self.acks.take_due(self.flushes.is_under_way(), |identity| lost_channels.acked(identity));
        if !due.is_empty() {
            subscribed.ack(due);
        }
        if self.acks.unconfirmed_verdicts.over_at(Instant::now()).is_none() && self.flushes.ask() {
            subscribed.confirm();
        }
    }

    /// Handles the loss of the channel, which makes its delivery tags void.
    fn lost(&mut self, why: Option<lapin::Error>) {
        if !matches!(self.attachment, Attachment::Attached(_)) {
            return;
        }
        self.attachment = Attachment::Ended;
        self.status.is_attached.store(false, Ordering::Relaxed);
        self.flushes.end();
        if self.cancel.is_some() {
            self.end_cancel();
        }
        let is_wanted = self.out.is_open();
        let queue = &*self.source.queue;
        match why {
            None if self.amqp.desired.is_external(queue) => {
                info!(queue, "the broker cancelled the consumer: the queue was deleted by its owner");
            }
            None => error!(queue, "the broker cancelled the consumer: the queue may have been deleted"),
            Some(error) if reply_code(&error).is_some() => {
                error!(queue, reason = text(&error), "the broker closed the consumer's channel");
            }
            Some(_) => debug!(queue, "the consumer's channel was closed"),
        }
        self.amqp.link.suspect();
        let (out, done) = self.acks.lost();
        self.lost_channels.lost(self.verdicts.channel, out, done);
        if is_wanted {
            let attach = attach(&self.amqp, &self.source, &self.status);
            let again = async move {
                sleep(Pause::default().next(false)).await;
                attach.await
            };
            self.attachment = Attachment::Attaching(again.boxed());
        }
    }

    fn obey(&mut self, command: LaneCommand) {
        match command {
            LaneCommand::Cancel(reply) => self.begin_cancel(Some(reply)),
            LaneCommand::Flush(reply) => {
                while let Some(settled) = self.verdicts.take_now() {
                    self.settle(settled);
                }
                self.flushes.join(reply);
            }
        }
    }

    /// Cancels the consumer. Deliveries that arrive before the broker's reply are still handed out: the worker requeues
    /// them without spending an attempt, whereas the broker would count them as delivered before. Those that arrive
    /// after the deadline wait for the reply: requeued at once, they would be delivered again and again.
    fn begin_cancel(&mut self, reply: Option<Reply>) {
        match (&mut self.cancel, &mut self.attachment) {
            (Some(cancel), _) => cancel.join(reply),
            (None, Attachment::Attached(subscribed)) if self.out.is_open() => {
                subscribed.cancel();
                self.cancel = Some(Pending::new(reply.into_iter().collect()));
            }
            (None, attachment) => {
                if self.out.is_open() {
                    *attachment = Attachment::Ended;
                    self.out.end();
                }
                Pending::new(reply.into_iter().collect()).over();
            }
        }
    }

    fn end_cancel(&mut self) {
        self.out.end();
        // Before the reply: lanes that take over from this one count the deliveries left in it.
        self.status.set_unsettled(self.acks.ledger.out());
        self.cancel.take().into_iter().for_each(Pending::over);
    }

    /// Stops waiting for the broker's replies; deliveries are still settled.
    fn give_up_waiting(&mut self) {
        let queue = Arc::clone(&self.source.queue);
        if self.cancel.as_ref().is_some_and(Pending::is_late) {
            warn!(queue = &*queue, "timed out cancelling the consumer");
            self.end_cancel();
        }
        if self.flushes.end_late() {
            warn!(queue = &*queue, "timed out flushing acknowledgements");
        }
    }
}

/// Only task ids are meant to be unique; a plain message without one may run twice.
fn identity(delivery: &Delivery) -> Option<Identity> {
    Identity::of(&delivery.message)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
