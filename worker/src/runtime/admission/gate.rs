//! Turns a delivery into a call that is ready to run, or into the reason why it is not run.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::limits::{ChangedLimits, Limits};
use super::pauses::{self, Pauses};
use super::quarantine::{CrashFacts, CrashVerdict};
use super::refusal::Refusal;
use super::request::{Attempts, Request, arguments, is_plain};
use super::revocations::Revocations;
use super::workflow::unsupported;
use crate::app::Subscriptions;
use crate::broker::{Delivery, Settlement};
use crate::message::headers::names;
use crate::message::{Embed, Headers, Message, ResultTypes, normalize};
use crate::panics::Guarded;
use crate::task::context::Call;
use crate::task::registry::StartError;
use crate::task::{AckMode, Context, Registry, SharedState, TaskEntry, TaskOptions, Work};
use crate::traces::CallTrace;

/// What to do with a delivery.
pub(crate) enum Admission {
    /// It can run.
    Run(Request, Guarded<Work>, Limits),
    /// It cannot run.
    Refuse(Request, Refusal),
    /// It is not due yet: wait this long.
    Early(Request, Duration),
    /// Its task is paused: it is delivered again after this time.
    Hold(Request, Duration),
    /// A worker may have died while it held the message: the crash is counted before the next run.
    CountCrash(Request),
    /// Several tasks subscribe to this plain message: each gets its own copy.
    Split(Request, Vec<&'static TaskEntry>),
}

/// A delivery after decoding.
pub(crate) struct Decoded {
    pub(crate) request: Request,
    /// Its task, or the tasks that subscribe to it.
    found: Result<Found, Refusal>,
}

/// The tasks that receive a message.
enum Found {
    One(&'static TaskEntry),
    /// The tasks that subscribe to a plain message.
    Several(Vec<&'static TaskEntry>),
}

/// What admission needs to know about the worker.
pub(crate) struct Gate {
    /// The tasks.
    pub(crate) registry: Registry,
    /// The tasks that receive messages which name no task.
    pub(crate) subscriptions: Subscriptions,
    /// Shared with the tasks.
    pub(crate) shared: SharedState,
    /// Fires at a cold shutdown.
    pub(crate) cold: CancellationToken,
    /// The largest accepted body, in bytes.
    pub(crate) max_message_size: usize,
    /// How results are written, unless the task overrides it.
    pub(crate) result_types: ResultTypes,
    /// A message with this many crashes is dead-lettered.
    pub(crate) max_crashes: u32,
    /// False when isolated tasks run like others.
    pub(crate) isolates: bool,
    /// True when suspected poison messages run in a separate process, whatever their task says.
    pub(crate) quarantines_in_process: bool,
    /// True when the broker counts crashes itself.
    pub(crate) broker_counts_crashes: bool,
    /// Time limits that were changed at run time.
    pub(crate) limits: Arc<ChangedLimits>,
    /// Calls that must not run.
    pub(crate) revocations: Arc<Revocations>,
    /// Paused queues and tasks.
    pub(crate) pauses: Arc<Pauses>,
    /// How long before its ETA a message may be run.
    pub(crate) tolerance: Duration,
}

impl Gate {
    /// What is known about the crashes of a delivery. A broker's count is exact, but starts again with each message that is
    /// published, so earlier crashes are kept in a header.
    pub(crate) fn crash_facts(&self, delivery: &Delivery) -> CrashFacts {
        let in_header = delivery.message.headers.crashes();
        CrashFacts {
            count: delivery.crashes.unwrap_or_default().saturating_add(in_header),
            in_header,
            uncounted: delivery.redelivered && !self.broker_counts_crashes,
            limit: self.max_crashes,
            isolated: self.quarantines_in_process,
        }
    }

    /// Decodes a delivery, looks its task up and checks whether it may run now.
    pub(crate) fn admit(&self, delivery: Delivery, verdict: CrashVerdict, now: DateTime<Utc>) -> Admission {
        let is_suspect = self.crash_facts(&delivery).is_suspect();
        let Decoded { mut request, found } = self.decode(delivery, verdict);
        let found = match found {
            Ok(found) => found,
            Err(refusal) => return Admission::Refuse(request, refusal),
        };
        if self.revocations.concern(&request.context) {
            return ends(request, Refusal::Revoked("revoked"));
        }
        match verdict {
            CrashVerdict::DeadLetter => return ends(request, Refusal::Crashed(self.max_crashes)),
            // An early ack comes before the run: a message that is delivered again has not started, unless its quarantine is
            // noted.
            CrashVerdict::SendAgain if is_suspect || request.options.ack == AckMode::Late => {
                return Admission::CountCrash(request);
            }
            _ => {}
        }
        let entry = match found {
            Found::One(entry) => entry,
            Found::Several(entries) => return Admission::Split(request, entries),
        };
        match due(request.context.headers(), now) {
            Err(refusal) => return ends(request, refusal),
            Ok(Some(wait)) if wait > self.tolerance => return Admission::Early(request, wait),
            Ok(_) => {}
        }
        if let Some(end) = self.pauses.end_of_task(entry.name, now) {
            let held = request.context.headers().held();
            return Admission::Hold(request, pauses::wait(held, end - now, fastrand::f64()));
        }
        let options = request.options;
        let limits = self.limits.of(entry, request.context.headers());
        let in_quarantine = verdict == CrashVerdict::RunAlone && self.quarantines_in_process;
        match self.start(entry, &mut request) {
            // Decoded here as well: arguments that do not fit are found without starting a process.
            Ok(_) if (options.isolate && self.isolates) || in_quarantine => {
                let work = Work::Isolated { memory_limit: options.memory_limit };
                Admission::Run(request, Guarded::new(work), limits)
            }
            Ok(work) => Admission::Run(request, work, limits),
            Err(refusal) => Admission::Refuse(request, refusal),
        }
    }

    /// Decodes a delivery as far as requeueing requires. All its crashes are in its header then.
    pub(crate) fn decode(&self, mut delivery: Delivery, verdict: CrashVerdict) -> Decoded {
        let crashes = self.crash_facts(&delivery).kept(verdict);
        if crashes > delivery.message.headers.crashes() {
            delivery.message.headers.set(names::CRASHES, crashes);
        }
        let readable = self.readable(&mut delivery.message);
        let first = |name: &str| delivery.message.headers.get_str(name).map(ToOwned::to_owned);
        let (routing_key, exchange) = (first(names::ROUTING_KEY), first(names::EXCHANGE));
        delivery.routing_key = routing_key.unwrap_or(delivery.routing_key);
        delivery.exchange = exchange.unwrap_or(delivery.exchange);
        let Delivery { message, queue, exchange, routing_key, .. } = &delivery;
        let plain = is_plain(message);
        let found = readable.and_then(|()| self.find(message, queue, exchange, routing_key));
        let entry = match &found {
            Ok(Found::One(entry)) => Some(*entry),
            _ => None,
        };
        // A plain message may have no id: give it one that it keeps through its retries.
        let given_id = message.id().is_none().then(|| Uuid::now_v7().to_string());
        let request = self.request(entry, given_id, delivery);
        Decoded { request: Request { plain, ..request }, found }
    }

    /// Decodes a call that the broker has dead-lettered, as far as reporting requires. `Err`: the message cannot be read,
    /// or is not a call of a task.
    pub(crate) fn dropped(&self, mut delivery: Delivery) -> Result<Request, Settlement> {
        if self.readable(&mut delivery.message).is_err() || is_plain(&delivery.message) {
            return Err(delivery.settlement);
        }
        let headers = &delivery.message.headers;
        let entry = headers.task().and_then(|name| self.registry.get(name));
        if let Some(queue) = headers.get_str(names::DEAD_QUEUE) {
            delivery.queue = queue.into();
        }
        let mut request = self.request(entry, None, delivery);
        request.embed = arguments(&request.context).map(|body| body.embed).unwrap_or_default();
        Ok(request)
    }

    /// The request of a delivery.
    fn request(
        &self,
        entry: Option<&'static TaskEntry>,
        given_id: Option<String>,
        delivery: Delivery,
    ) -> Request {
        let Delivery { message, queue, exchange, routing_key, redelivered, settlement, .. } = delivery;
        let options = entry.map_or(&TaskOptions::DEFAULT, |entry| &entry.options);
        let context = Context::new(Call {
            task: entry.map_or("", |entry| entry.name),
            given_id,
            queue,
            exchange,
            routing_key,
            redelivered,
            message,
            shared: self.shared.clone(),
            stopping: self.cold.clone().into(),
            result_types: options.result_types.unwrap_or(self.result_types),
        });
        let embed = Embed::default();
        Request {
            context,
            options,
            embed,
            plain: false,
            quarantined: false,
            trace: CallTrace::default(),
            settlement,
        }
    }

    /// Brings the message into the form that the rest of the worker reads.
    fn readable(&self, message: &mut Message) -> Result<(), Refusal> {
        if let Some(problem) = message.headers.get_str(names::UNREADABLE) {
            return Err(Refusal::Malformed(format!(
                "the properties of the message cannot be read: {problem}"
            )));
        }
        let size = message.body.len();
        if size > self.max_message_size {
            return Err(Refusal::Malformed(format!(
                "the body is {size} bytes, more than the limit of {} (`max_message_size`)",
                self.max_message_size
            )));
        }
        normalize(message, self.max_message_size).map_err(Refusal::Malformed)
    }

    /// The task that a message names, or the tasks that subscribe to the routing key of a plain message.
    fn find(
        &self,
        message: &Message,
        queue: &str,
        exchange: &str,
        routing_key: &str,
    ) -> Result<Found, Refusal> {
        if let Some(name) = message.headers.task() {
            let known = self.registry.get(name).ok_or_else(|| {
                let known = listed(self.registry.iter().map(|entry| entry.name));
                Refusal::UnknownTask(format!("no task `{name}` is linked into this worker; it knows {known}"))
            })?;
            return Ok(Found::One(known));
        }
        let mut subscribed = self.subscriptions.matching(queue, exchange, routing_key);
        if subscribed.is_empty() {
            return Err(Refusal::UnknownTask(format!(
                "the message names no task, and no task of queue `{queue}` subscribes to the topic `{routing_key}` of \
                 exchange `{exchange}`"
            )));
        }
        Ok(match subscribed.len() {
            1 => Found::One(subscribed.remove(0)),
            _ => Found::Several(subscribed),
        })
    }

    /// Decodes the continuations of a call, and its arguments into the task's types.
    fn start(&self, entry: &TaskEntry, request: &mut Request) -> Result<Guarded<Work>, Refusal> {
        let context = request.context.clone();
        let body = arguments(&context).map_err(Refusal::Malformed)?;
        if let Some(problem) = unsupported(&body.embed) {
            // Callers that wait for a later step are notified, but no callback or errback is sent.
            request.embed = Embed { callbacks: None, errbacks: None, ..body.embed };
            return Err(Refusal::Malformed(problem));
        }
        // Kept before the arguments are decoded: if they do not fit, callers that wait for a later step must be notified.
        request.embed = body.embed;
        entry.begin(context.clone(), body.arguments).map_err(|problem| match problem {
            StartError::Refused(error) => Refusal::BadArguments(error.to_string()),
            StartError::Panicked(text) => Refusal::Panicked(text),
        })
    }

    /// The failures and crashes of a call so far, and the limit of its crashes.
    pub(crate) fn attempts(&self, request: &Request) -> Attempts {
        Attempts {
            retries: request.context.retries(),
            crashes: request.crashes(),
            max_crashes: self.max_crashes,
        }
    }
}

/// The time until the message is due, if it is early. `Err`: it has expired, or its times cannot be read.
fn due(headers: &Headers, now: DateTime<Utc>) -> Result<Option<Duration>, Refusal> {
    let expires = headers.expires().map_err(Refusal::Malformed)?;
    if expires.is_some_and(|time| time <= now) {
        return Err(Refusal::Revoked("expired"));
    }
    let eta = headers.eta().map_err(Refusal::Malformed)?;
    Ok(eta.and_then(|time| (time - now).to_std().ok()))
}

/// Refuses a call before its arguments are decoded. Its continuations are still read, for callers that wait for a later
/// step.
fn ends(mut request: Request, refusal: Refusal) -> Admission {
    request.embed = arguments(&request.context).map(|body| body.embed).unwrap_or_default();
    Admission::Refuse(request, refusal)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
