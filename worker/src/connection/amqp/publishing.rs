//! The one publishing task: it takes queued messages, writes them without awaiting each, and reports the outcome to
//! each caller. The table of outcomes is in [`publisher`](super::publisher).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::close_cause::ChannelCloseCause;
use super::failure::{is_channel_error, reply_code, text};
use super::link::{Link, LinkState, Pause, closed};
use super::outgoing::Outgoing;
use super::publish_channel::{Open, PublishChannel, open};
use super::publish_job::{PublishJob, PublishRequest, Refused, unknown, unsent};
use super::publish_queue::{PublishInbox, QUEUED};
use super::window::{Confirm, Entry, Outcome, Window};
use super::writes::{WriteOutcome, Writes};
use crate::error::{Error, ErrorKind};

/// How many publishes may be in flight at once; throughput stops growing at a thousand.
const IN_FLIGHT: usize = 1024;
/// How many bytes their bodies may have in total. A larger message is sent alone.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// The resolution of deadlines.
const TICK: Duration = Duration::from_millis(50);
/// How long a message that the broker refuses is published again: a quorum queue refuses while it is being created or
/// elects a leader, and a full one may soon have room.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// The first and the longest pause between attempts.
const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));
/// How long a broken channel may take to report its remaining outcomes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The task that publishes.
pub(super) struct Publishing {
    link: Arc<Link>,
    limit: Duration,
    state: watch::Receiver<LinkState>,
    blocked: watch::Receiver<Option<String>>,
    inbox: PublishInbox,
    waiting: VecDeque<(Arc<Outgoing>, PublishRequest)>,
    flushes: Vec<oneshot::Sender<()>>,
    channel: PublishChannel,
    pause: Pause,
    window: Window<PublishRequest>,
    writes: Writes,
    /// Refused publishes that wait for another try.
    refused: FuturesUnordered<BoxFuture<'static, (Arc<Outgoing>, PublishRequest)>>,
}

impl Publishing {
    pub(super) fn new(link: Arc<Link>, inbox: PublishInbox, limit: Duration) -> Self {
        let blocked = link.blocked();
        Self {
            // Watching the link would connect it; `run` does so at the first publish, so an unused link never connects.
            state: watch::Sender::new(LinkState::Down(None)).subscribe(),
            blocked,
            link,
            limit,
            inbox,
            waiting: VecDeque::new(),
            flushes: Vec::new(),
            channel: PublishChannel::Closed,
            pause: Pause::default(),
            window: Window::new(),
            writes: Writes::default(),
            refused: FuturesUnordered::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut jobs = Vec::new();
        if self.inbox.receive(&mut jobs, QUEUED).await == 0 {
            return;
        }
        self.state = self.link.watch();
        jobs.drain(..).for_each(|job| self.take(job));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_open = true;
        while is_open || !self.is_idle() {
            self.advance();
            // Nothing is written until the message that it is behind by has been received, so there is always room for that.
            let room = match self.inbox.is_behind() {
                true => QUEUED,
                false => QUEUED.saturating_sub(self.waiting.len()),
            };
            let has_work = !self.is_idle();
            tokio::select! {
                biased;
                settled = self.writes.settled(), if !self.writes.is_empty() => self.settled(settled),
                opened = self.channel.opened() => self.opened(opened),
                // To the front: the others have later deadlines.
                Some(again) = self.refused.next(), if !self.refused.is_empty() => self.waiting.push_front(again),
                count = self.inbox.receive(&mut jobs, room), if is_open && room > 0 => {
                    is_open = count > 0;
                    jobs.drain(..).for_each(|job| self.take(job));
                }
                Ok(()) = self.state.changed() => {}
                Ok(()) = self.blocked.changed() => {}
                _ = tick.tick(), if has_work => self.expire(),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.window.is_empty()
            && self.writes.is_empty()
            && self.refused.is_empty()
            && !self.inbox.is_behind()
    }

    fn take(&mut self, job: PublishJob) {
        match job {
            PublishJob::Publish(outgoing, request) => self.waiting.push_back((outgoing, request)),
            PublishJob::Written(outgoing, request, writing) => {
                let number = self.window.push(outgoing, request);
                self.writes.add(number, writing);
            }
            PublishJob::Flush(reply) => self.flushes.push(reply),
        }
    }

    /// Does what the current state allows.
    fn advance(&mut self) {
        if self.is_idle() {
            for reply in self.flushes.drain(..) {
                // An error means that the caller has given up.
                let _ = reply.send(());
            }
        }
        self.follow_link();
        let open = match &self.channel {
            PublishChannel::Open(open) if self.blocked.borrow().is_none() => Some(open.clone()),
            _ => {
                self.inbox.take_back();
                None
            }
        };
        // A message that its caller has written belongs to this channel, and has the next number.
        if self.inbox.is_behind() {
            return;
        }
        match (&self.channel, open) {
            (PublishChannel::Broken { until, .. }, _)
                if self.writes.is_empty() || Instant::now() >= *until =>
            {
                self.resolve_broken();
            }
            (_, Some(open)) => {
                self.write(&open);
                if self.is_idle() {
                    self.inbox.lend(&open);
                }
            }
            _ => {}
        }
    }

    fn follow_link(&mut self) {
        let state = match (&self.channel, &*self.state.borrow_and_update()) {
            // The usual case.
            (PublishChannel::Open(open), LinkState::Up(session)) if session.generation == open.generation => {
                return;
            }
            (_, state) => state.clone(),
        };
        match (&self.channel, &state) {
            (PublishChannel::Closed, LinkState::Up(session)) if !self.waiting.is_empty() => {
                self.channel = PublishChannel::Opening(open(session.clone(), self.pause.next(false)).boxed());
            }
            (PublishChannel::Open(_), _) => self.broken(None),
            _ => {}
        }
        match state {
            LinkState::Down(Some(failure)) if failure.is_final => {
                for (outgoing, request) in self.waiting.drain(..) {
                    let error = failure.to_error().context(unsent(&outgoing));
                    request.answer(Err(error));
                }
            }
            LinkState::Closed => {
                for (_, request) in self.waiting.drain(..) {
                    request.answer(Err(closed()));
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, opened: lapin::Result<Open>) {
        self.channel = match opened {
            Ok(open) => PublishChannel::Open(open),
            Err(_) => {
                self.link.suspect();
                PublishChannel::Closed
            }
        };
    }

    fn write(&mut self, open: &Open) {
        while self.window.len() < IN_FLIGHT
            && let Some((outgoing, _)) = self.waiting.front()
            && (self.window.is_empty() || self.window.bytes() + outgoing.body().len() <= IN_FLIGHT_BYTES)
            && let Some((outgoing, request)) = self.waiting.pop_front()
        {
            // The caller gave up: do not publish.
            if request.reply.is_closed() {
                continue;
            }
            if let Err(error) = outgoing.check(open.frame_max) {
                request.answer(Err(error));
                continue;
            }
            let number = self.window.push(Arc::clone(&outgoing), request);
            self.writes.begin(Arc::clone(&open.channel), number, outgoing);
        }
    }

    /// Processes everything that is settled.
    fn settled(&mut self, settled: Vec<(u64, WriteOutcome)>) {
        let mut round = Vec::with_capacity(settled.len());
        for (number, outcome) in settled {
            match outcome {
                WriteOutcome::Confirmed { taken, returned } => {
                    round.push(Confirm { number, taken, returned })
                }
                WriteOutcome::No(error) => {
                    if let Some(entry) = self.window.get_mut(number) {
                        entry.was_written = false;
                    }
                    self.broken(Some(error));
                }
                WriteOutcome::Unconfirmed(error) => self.broken(Some(error)),
            }
        }
        let mut certain = Vec::with_capacity(round.len());
        self.window.confirmed(round, |outgoing, request, outcome| certain.push((outgoing, request, outcome)));
        if !certain.is_empty() {
            self.pause = Pause::default();
        }
        for (outgoing, request, outcome) in certain {
            match outcome {
                Outcome::Taken => request.answer(Ok(())),
                Outcome::Refused => self.refused(outgoing, request),
                Outcome::Unroutable(reason) => {
                    let why = format!("no queue takes the message: {reason}");
                    request.answer(Err(Error::new(ErrorKind::Unroutable, why)));
                }
            }
        }
    }

    /// Handles a nack. If the message was for one queue, it is not stored, so it may be published again. If it was for
    /// several queues, some may have it.
    fn refused(&mut self, outgoing: Arc<Outgoing>, mut request: PublishRequest) {
        let (first, longest) = REFUSED_PAUSE;
        let now = Instant::now();
        let Refused { since, pause } = request.refused.unwrap_or(Refused { since: now, pause: first });
        if now + pause >= request.deadline.min(since + REFUSED_FOR) || !outgoing.is_for_one_queue() {
            return request.answer(Err(Error::new(
                ErrorKind::Rejected,
                "the broker refused the message: the queue is full, or the broker had an internal error",
            )));
        }
        request.refused = Some(Refused { since, pause: (pause * 2).min(longest) });
        self.refused.push(
            async move {
                sleep(pause).await;
                (outgoing, request)
            }
            .boxed(),
        );
    }

    fn broken(&mut self, error: Option<lapin::Error>) {
        if let PublishChannel::Broken { why, .. } = &mut self.channel {
            // The first error says why; later ones may only say that the channel is closed.
            if why.as_ref().is_none_or(|why| reply_code(why).is_none()) {
                *why = error.or(why.take());
            }
        } else {
            self.channel = PublishChannel::Broken { why: error, until: Instant::now() + DRAIN_TIMEOUT };
        }
    }

    /// Sorts the publishes of a lost channel: those that caused the loss, those to publish again, and those whose
    /// outcome is unknown.
    fn resolve_broken(&mut self) {
        let PublishChannel::Broken { why, .. } = std::mem::replace(&mut self.channel, PublishChannel::Closed)
        else {
            return;
        };
        self.writes.clear();
        let entries = self.window.take();
        let why_text = why.as_ref().map_or_else(|| "the connection was lost".to_owned(), text);
        let close_cause = why.as_ref().filter(|error| is_channel_error(error)).map(ChannelCloseCause::new);
        if close_cause.is_none() {
            self.link.suspect();
        }
        // The publishes that made the broker close the channel, if they can be identified.
        let is_cause = |entry: &Entry<PublishRequest>| {
            close_cause.as_ref().is_some_and(|close_cause| close_cause.is_on(&entry.outgoing))
        };
        let found = entries.iter().any(is_cause);
        let mut again = VecDeque::new();
        for entry in entries {
            let guilty = is_cause(&entry);
            let Some(request) = entry.request else { continue };
            match &close_cause {
                Some(close_cause) if guilty => {
                    request.answer(Err(close_cause.to_error(&entry.outgoing, &why_text)))
                }
                Some(_) if found => again.push_back((entry.outgoing, request)),
                _ if !entry.was_written => again.push_back((entry.outgoing, request)),
                _ => request.answer(Err(unknown(&entry.outgoing, &why_text))),
            }
        }
        again.append(&mut self.waiting);
        self.waiting = again;
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let blocked = self.blocked.borrow().clone();
        let limit = humantime::format_duration(self.limit);
        let state = self.state.borrow().clone();
        while let Some((_, request)) = self.waiting.front()
            && request.deadline <= now
            && let Some((outgoing, request)) = self.waiting.pop_front()
        {
            let what = unsent(&outgoing);
            request.answer(Err(match (&blocked, &state) {
                (Some(reason), _) => Error::timeout(format!(
                    "{what}: the broker takes no messages ({reason}) and did not accept any within {limit}"
                )),
                (None, LinkState::Down(Some(failure))) => failure.to_error().context(what),
                (None, LinkState::Down(None)) => {
                    Error::connection(format!("{what}: no connection within {limit}"))
                }
                (None, _) => Error::timeout(format!(
                    "{what}: timed out after {limit} waiting for earlier messages to be confirmed"
                )),
            }));
        }
        for entry in self.window.iter_mut() {
            match &entry.request {
                Some(request) if request.deadline <= now => {}
                // The oldest come first; all after this one still have time.
                Some(_) => break,
                None => continue,
            }
            let why = match &blocked {
                Some(reason) => format!("the broker takes no messages ({reason})"),
                None => format!("no confirm within {limit}"),
            };
            if let Some(request) = entry.request.take() {
                request.answer(Err(unknown(&entry.outgoing, &why)));
            }
        }
    }
}
