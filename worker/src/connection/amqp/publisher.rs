//! The one task that publishes: it takes what has queued up, writes it without awaiting one by one, and tells each
//! caller what became of its message.
//!
//! | what happens | what the caller is told |
//! |---|---|
//! | confirmed and not returned | `Ok` |
//! | no queue takes it | unroutable |
//! | nack: the queue is full, is just being made, or elects a leader | published again for two seconds where one queue is its only target, then rejected |
//! | the headers are larger than a frame | too large: nothing was written |
//! | the exchange does not exist, the message is too large | its own error; the others are published again |
//! | no connection within the deadline, or the broker blocks publishers | an error: nothing was sent |
//! | written, and the confirm did not come | unknown, with the id under which it may be sent again |

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::channel::{ANSWER, OpenChannel};
use super::failure::{code, is_channel_error, reply_code, text, timed_out};
use super::link::{Link, LinkState, Pause, Session, closed};
use super::outgoing::{Outgoing, Returned};
use super::runtime;
use super::window::{Confirm, Entry, Outcome, Window};
use crate::error::{Error, ErrorKind, Result};
use crate::tracing::warn;

/// Publishes that may be on their way at once; a thousand is where throughput ends to grow.
const IN_FLIGHT: usize = 1024;
/// The bytes of their bodies. One message may be larger; it then goes alone.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// Callers that may wait in the queue; more wait for a place, each with its own message in its own hands.
const QUEUED: usize = 1024;
/// How exact deadlines are.
const TICK: Duration = Duration::from_millis(50);
/// For so long a message that the broker refuses is published again: a quorum queue refuses while it is being made or
/// elects a leader, and a full one may soon have room.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// How long it waits before that, at first and at most.
const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));
/// The publishing task tells a caller whose time is up. A caller who does not hear that gives up by itself: then the I/O
/// thread stands still.
const UNTOLD: Duration = Duration::from_secs(2);
/// How long a broken channel may take to report all that was on it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Hands messages to the publishing task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    requests: mpsc::Sender<PublishJob>,
    limit: Duration,
}

enum PublishJob {
    Publish(Arc<Outgoing>, PublishRequest),
    Flush(oneshot::Sender<()>),
}

/// Who waits, and until when.
struct PublishRequest {
    reply: oneshot::Sender<Result<()>>,
    deadline: Instant,
    refused: Option<Refused>,
}

/// The broker has refused it so far.
#[derive(Clone, Copy)]
struct Refused {
    since: Instant,
    pause: Duration,
}

impl Publisher {
    /// Starts the publishing task. It ends when the last `Publisher` is dropped.
    pub(super) fn start(link: Arc<Link>, limit: Duration, handle: &tokio::runtime::Handle) -> Self {
        let (requests, inbox) = mpsc::channel(QUEUED);
        handle.spawn(async move { Actor::new(link, inbox, limit).run().await });
        Self { requests, limit }
    }

    /// Publishes. `Ok` means that the broker has taken responsibility.
    pub(crate) async fn publish(&self, outgoing: Outgoing) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let request = PublishRequest { reply, deadline: Instant::now() + self.limit, refused: None };
        let outgoing = Arc::new(outgoing);
        let publish = async {
            let job = PublishJob::Publish(Arc::clone(&outgoing), request);
            self.requests.send(job).await.map_err(|_| closed())?;
            runtime::answer(answer, self.requests.closed()).await.unwrap_or_else(|| Err(closed()))
        };
        let published = runtime::timeout(self.limit + UNTOLD, publish).await;
        published
            .unwrap_or_else(|_| Err(unknown(&outgoing, "the I/O thread of this process does not answer")))
    }

    /// Resolves when all that was published before is settled, or when its time is up.
    pub(crate) async fn flush(&self) {
        let (reply, answer) = oneshot::channel();
        let flush = async {
            if self.requests.send(PublishJob::Flush(reply)).await.is_ok() {
                // Without an answer the task has ended, having settled all.
                runtime::answer(answer, self.requests.closed()).await;
            }
        };
        let _ = runtime::timeout(self.limit + UNTOLD, flush).await;
    }
}

/// What became of one write.
enum WriteOutcome {
    /// It never went out.
    No(lapin::Error),
    /// It may have gone out; no confirm came.
    Unconfirmed(lapin::Error),
    Confirmed {
        taken: bool,
        returned: Option<Box<Returned>>,
    },
}

struct Actor {
    link: Arc<Link>,
    limit: Duration,
    state: watch::Receiver<LinkState>,
    blocked: watch::Receiver<Option<String>>,
    inbox: mpsc::Receiver<PublishJob>,
    waiting: VecDeque<(Arc<Outgoing>, PublishRequest)>,
    flushes: Vec<oneshot::Sender<()>>,
    channel: PublishChannel,
    pause: Pause,
    window: Window<PublishRequest>,
    writes: FuturesUnordered<BoxFuture<'static, (u64, WriteOutcome)>>,
    /// Those that were refused and wait for another try.
    refused: FuturesUnordered<BoxFuture<'static, (Arc<Outgoing>, PublishRequest)>>,
}

/// The channel that is published on.
enum PublishChannel {
    Closed,
    Opening(BoxFuture<'static, Result<Open, lapin::Error>>),
    Open(Open),
    /// It collects its last words until then.
    Broken {
        why: Option<lapin::Error>,
        until: Instant,
    },
}

#[derive(Clone)]
struct Open {
    channel: Arc<OpenChannel>,
    generation: u64,
    frame_max: usize,
}

impl Actor {
    fn new(link: Arc<Link>, inbox: mpsc::Receiver<PublishJob>, limit: Duration) -> Self {
        let blocked = link.blocked();
        Self {
            // Watching starts the link, so a link that nobody publishes on is never made: see `run`.
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
            writes: FuturesUnordered::new(),
            refused: FuturesUnordered::new(),
        }
    }

    async fn run(mut self) {
        let Some(first) = self.inbox.recv().await else { return };
        self.state = self.link.watch();
        self.take(first);
        let mut jobs = Vec::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_open = true;
        while is_open || !self.is_idle() {
            self.advance();
            let room = QUEUED.saturating_sub(self.waiting.len());
            let has_work = !self.is_idle();
            tokio::select! {
                biased;
                Some(done) = self.writes.next(), if !self.writes.is_empty() => self.written(done),
                opened = opening(&mut self.channel) => self.opened(opened),
                // Before the others, whose time is up later.
                Some(again) = self.refused.next(), if !self.refused.is_empty() => self.waiting.push_front(again),
                count = self.inbox.recv_many(&mut jobs, room), if is_open && room > 0 => {
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
        self.waiting.is_empty() && self.window.is_empty() && self.writes.is_empty() && self.refused.is_empty()
    }

    fn take(&mut self, job: PublishJob) {
        match job {
            PublishJob::Publish(outgoing, request) => self.waiting.push_back((outgoing, request)),
            PublishJob::Flush(reply) => self.flushes.push(reply),
        }
    }

    /// Does what the present state allows.
    fn advance(&mut self) {
        if self.is_idle() {
            for reply in self.flushes.drain(..) {
                // An error means that nobody waits any more.
                let _ = reply.send(());
            }
        }
        self.follow_link();
        match &self.channel {
            PublishChannel::Broken { until, .. } if self.writes.is_empty() || Instant::now() >= *until => {
                self.sort_out()
            }
            PublishChannel::Open(open) if self.blocked.borrow().is_none() => {
                let open = open.clone();
                self.write(&open);
            }
            _ => {}
        }
    }

    fn follow_link(&mut self) {
        let state = self.state.borrow_and_update().clone();
        match (&self.channel, &state) {
            (PublishChannel::Closed, LinkState::Up(session)) if !self.waiting.is_empty() => {
                self.channel = PublishChannel::Opening(open(session.clone(), self.pause.next(false)).boxed());
            }
            (PublishChannel::Open(open), LinkState::Up(session)) if session.generation == open.generation => {
            }
            (PublishChannel::Open(_), _) => self.broken(None),
            _ => {}
        }
        match state {
            LinkState::Down(Some(failure)) if failure.is_final => {
                for (outgoing, request) in self.waiting.drain(..) {
                    let error = failure.to_error().context(unsent(&outgoing));
                    request.tell(Err(error));
                }
            }
            LinkState::Closed => {
                for (_, request) in self.waiting.drain(..) {
                    request.tell(Err(closed()));
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, opened: Result<Open, lapin::Error>) {
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
            && (self.window.is_empty() || self.window.bytes() + outgoing.body.len() <= IN_FLIGHT_BYTES)
            && let Some((outgoing, request)) = self.waiting.pop_front()
        {
            // A caller that no longer waits has not asked for it.
            if request.reply.is_closed() {
                continue;
            }
            if let Err(error) = outgoing.check(open.frame_max) {
                request.tell(Err(error));
                continue;
            }
            let number = self.window.push(Arc::clone(&outgoing), request);
            self.writes.push(publish(Arc::clone(&open.channel), number, outgoing).boxed());
        }
    }

    /// Takes this outcome and all others that are there. That none is left behind is what makes
    /// [`Window::confirmed`] exact.
    fn written(&mut self, first: (u64, WriteOutcome)) {
        let mut round = Vec::new();
        let mut next = Some(first);
        while let Some((number, written)) = next {
            match written {
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
            next = self.writes.next().now_or_never().flatten();
        }
        let mut told = Vec::with_capacity(round.len());
        self.window.confirmed(round, |outgoing, request, outcome| told.push((outgoing, request, outcome)));
        if !told.is_empty() {
            self.pause = Pause::default();
        }
        for (outgoing, request, outcome) in told {
            match outcome {
                Outcome::Taken => request.tell(Ok(())),
                Outcome::Refused => self.refused(outgoing, request),
                Outcome::Unroutable(reason) => {
                    let why = format!("no queue takes the message: {reason}");
                    request.tell(Err(Error::new(ErrorKind::Unroutable, why)));
                }
            }
        }
    }

    /// A refusal says that the message lies nowhere, if it was for one queue: then it may be published again. Of several
    /// queues some may have it.
    fn refused(&mut self, outgoing: Arc<Outgoing>, mut request: PublishRequest) {
        let (first, longest) = REFUSED_PAUSE;
        let now = Instant::now();
        let Refused { since, pause } = request.refused.unwrap_or(Refused { since: now, pause: first });
        if now + pause >= request.deadline.min(since + REFUSED_FOR) || !outgoing.is_for_one_queue() {
            return request.tell(Err(Error::new(
                ErrorKind::Rejected,
                "the broker refused the message: the queue is full, or it had an error of its own",
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
            self.channel = PublishChannel::Broken { why: error, until: Instant::now() + LAST_WORDS };
        }
    }

    /// The channel is gone and has said all: who is to blame, who can be published again, who cannot know?
    fn sort_out(&mut self) {
        let PublishChannel::Broken { why, .. } = std::mem::replace(&mut self.channel, PublishChannel::Closed)
        else {
            return;
        };
        self.writes.clear();
        let entries = self.window.take();
        let why_text = why.as_ref().map_or_else(|| "the connection was lost".to_owned(), text);
        let blame = why.as_ref().filter(|error| is_channel_error(error)).map(Blame::new);
        if blame.is_none() {
            self.link.suspect();
        }
        // Those that the broker closed the channel for, if it can be told which they are.
        let is_guilty =
            |entry: &Entry<PublishRequest>| blame.as_ref().is_some_and(|blame| blame.is_on(&entry.outgoing));
        let found = entries.iter().any(is_guilty);
        let mut again = VecDeque::new();
        for entry in entries {
            let guilty = is_guilty(&entry);
            let Some(request) = entry.request else { continue };
            match &blame {
                Some(blame) if guilty => request.tell(Err(blame.to_error(&entry.outgoing, &why_text))),
                Some(_) if found => again.push_back((entry.outgoing, request)),
                _ if !entry.was_written => again.push_back((entry.outgoing, request)),
                _ => request.tell(Err(unknown(&entry.outgoing, &why_text))),
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
            request.tell(Err(match (&blocked, &state) {
                (Some(reason), _) => Error::timeout(format!(
                    "{what}: the broker takes no messages ({reason}) and did not within {limit}"
                )),
                (None, LinkState::Down(Some(failure))) => failure.to_error().context(what),
                (None, LinkState::Down(None)) => {
                    Error::connection(format!("{what}: no connection within {limit}"))
                }
                (None, _) => Error::timeout(format!("{what}: it waited {limit} for others to be confirmed")),
            }));
        }
        for entry in self.window.iter_mut() {
            match &entry.request {
                Some(request) if request.deadline <= now => {}
                // The older ones come first; those after this one have time.
                Some(_) => break,
                None => continue,
            }
            let why = match &blocked {
                Some(reason) => format!("the broker takes no messages ({reason})"),
                None => format!("no confirm within {limit}"),
            };
            if let Some(request) = entry.request.take() {
                request.tell(Err(unknown(&entry.outgoing, &why)));
            }
        }
    }
}

impl PublishRequest {
    fn tell(self, outcome: Result<()>) {
        // A caller that no longer waits has given up.
        let _ = self.reply.send(outcome);
    }
}

/// Resolves when a channel is being opened and is open, or could not be.
async fn opening(channel: &mut PublishChannel) -> Result<Open, lapin::Error> {
    match channel {
        PublishChannel::Opening(opening) => opening.await,
        _ => std::future::pending().await,
    }
}

async fn open(session: Session, pause: Duration) -> Result<Open, lapin::Error> {
    let open = async {
        let channel = session.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (generation, frame_max) = (session.generation, session.frame_max());
        Ok(Open { channel: Arc::new(channel), generation, frame_max })
    };
    match timeout(ANSWER, open).await {
        Ok(Ok(open)) => Ok(open),
        Ok(Err(error)) => {
            // A connection that dies is told by the link; an error of another kind must not spin.
            sleep(pause).await;
            Err(error)
        }
        Err(_) => Err(timed_out()),
    }
}

async fn publish(channel: Arc<OpenChannel>, number: u64, outgoing: Arc<Outgoing>) -> (u64, WriteOutcome) {
    let (exchange, routing_key) = (outgoing.exchange.clone(), outgoing.routing_key.clone());
    let options = BasicPublishOptions { mandatory: outgoing.mandatory, immediate: false };
    let properties = outgoing.properties.clone();
    let written = channel.basic_publish(exchange, routing_key, options, &outgoing.body, properties).await;
    drop(outgoing);
    let written = match written {
        Err(error) => WriteOutcome::No(error),
        Ok(confirm) => match confirm.await {
            Ok(confirmation) => WriteOutcome::Confirmed {
                taken: confirmation.is_ack(),
                returned: confirmation.take_message().map(|message| Box::new(message.into())),
            },
            Err(error) => WriteOutcome::Unconfirmed(error),
        },
    };
    (number, written)
}

fn unsent(outgoing: &Outgoing) -> String {
    format!("nothing was sent to {}", outgoing.address())
}

fn unknown(outgoing: &Outgoing, why: &str) -> Error {
    let mut message = format!("it is not known whether {} got the message: {why}", outgoing.address());
    if outgoing.id.is_some() {
        message.push_str("; it may be sent again");
    }
    Error::new(ErrorKind::Unknown { id: outgoing.id.clone().unwrap_or_default() }, message)
}

/// Which publish made the broker close the channel, as far as its words tell.
enum Blame {
    /// `NOT_FOUND - no exchange 'x' in vhost '/'`, or `ACCESS_REFUSED - access to exchange 'x' …`.
    Exchange {
        name: String,
        is_refused: bool,
    },
    /// `PRECONDITION_FAILED - message size 17 is larger than configured max size 16`.
    LargerThan(usize),
    Unclear,
}

impl Blame {
    fn new(error: &lapin::Error) -> Self {
        let text = text(error);
        let code = reply_code(error);
        let quoted = text.split_once("exchange '").and_then(|(_, rest)| rest.split_once('\''));
        if let (Some((name, _)), Some(code::NOT_FOUND | code::ACCESS_REFUSED)) = (quoted, code) {
            let name = if name == "amq.default" { "" } else { name };
            let is_refused = code == Some(code::ACCESS_REFUSED);
            return Self::Exchange { name: name.to_owned(), is_refused };
        }
        let limit = text.contains("message size").then(|| {
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).next_back()
        });
        match limit.flatten() {
            Some(limit) => Self::LargerThan(limit),
            None => {
                warn!(reason = text, "the broker closed the channel for publishing");
                Self::Unclear
            }
        }
    }

    fn is_on(&self, outgoing: &Outgoing) -> bool {
        match self {
            Self::Exchange { name, .. } => outgoing.exchange.as_str() == name,
            Self::LargerThan(limit) => outgoing.body.len() > *limit,
            Self::Unclear => false,
        }
    }

    fn to_error(&self, outgoing: &Outgoing, text: &str) -> Error {
        let kind = match self {
            Self::Exchange { is_refused: true, .. } => ErrorKind::AccessRefused,
            Self::Exchange { .. } => ErrorKind::Topology,
            Self::LargerThan(_) => ErrorKind::TooLarge,
            Self::Unclear => ErrorKind::Rejected,
        };
        Error::new(kind, format!("cannot publish to {}: {text}", outgoing.address()))
    }
}
