//! From a delivery to a call that is ready to run, or to the reason why it is not run.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::quarantine::{CrashFacts, CrashVerdict};
use super::revocations::Revocations;
use crate::app::Subscriptions;
use crate::broker::{Delivery, Settlement};
use crate::error::TaskFailure;
use crate::message::headers::names;
use crate::message::{Body, Embed, Headers, JSON, Message, codec};
use crate::panics::Guarded;
use crate::runtime::execution::executor::Limits;
use crate::runtime::settlement::outcome::{Attempts, DeadReason, Ended, Outcome, decide, failure};
use crate::task::context::Call;
use crate::task::registry::NotBegun;
use crate::task::{AckMode, Context, Registry, SharedState, TaskEntry, TaskOptions, Work};

/// A call that is ready to run, and what is needed to settle it.
pub(crate) struct Request {
    /// The message, its address and its id.
    pub(crate) context: Context,
    /// What the attribute says, or the defaults where no task was found.
    pub(crate) options: TaskOptions,
    /// What follows the task.
    pub(crate) embed: Embed,
    /// True for a message that no Celery producer wrote: its result goes to `reply_to` as it is, or nowhere.
    pub(crate) plain: bool,
    /// How many workers died while they held it, as far as is known.
    pub(crate) crashes: u32,
    /// The broker has a note that its quarantine has begun.
    pub(crate) quarantined: bool,
    /// How the delivery is given back.
    pub(crate) settlement: Settlement,
}

/// What becomes of a delivery.
pub(crate) enum Admission {
    /// It can run.
    Run(Request, Guarded<Work>, Limits),
    /// It cannot; the outcome says why.
    Settle(Request, Outcome),
    /// It is not due yet, by this long.
    Early(Request, Duration),
    /// A worker may have died with it: the crash is counted before it runs again.
    CountCrash(Request),
    /// Several tasks want this plain message: each gets a copy of its own.
    Split(Request, Vec<&'static TaskEntry>),
}

/// A delivery after decoding.
pub(crate) struct Decoded {
    pub(crate) request: Request,
    /// Its task, or the tasks that subscribe to it.
    found: Result<Vec<&'static TaskEntry>, Outcome>,
}

/// What admission needs to know about the worker.
pub(crate) struct Gate {
    /// The tasks.
    pub(crate) registry: Registry,
    /// Who takes messages that name no task.
    pub(crate) subscriptions: Subscriptions,
    /// Shared with the tasks.
    pub(crate) shared: SharedState,
    /// Fires at a cold shutdown.
    pub(crate) cold: CancellationToken,
    /// The largest body that is run, in bytes.
    pub(crate) max_message_size: usize,
    /// A message with this many crashes is dead-lettered.
    pub(crate) max_crashes: u32,
    /// False when isolated tasks run like others.
    pub(crate) isolates: bool,
    /// True when a suspected poison message runs in a process of its own, whatever its task says.
    pub(crate) quarantines_in_process: bool,
    /// True when the broker counts crashes itself.
    pub(crate) broker_counts_crashes: bool,
    /// Not to be run.
    pub(crate) revocations: Arc<Revocations>,
    /// How far ahead of its time a message may be run.
    pub(crate) tolerance: Duration,
}

impl Request {
    /// True when it may have run before: its message comes again.
    pub(crate) fn may_have_run(&self) -> bool {
        self.context.is_redelivered() || self.crashes > 0
    }

    /// Ends here, before its arguments were looked at: what follows it is read, for whoever waits for a later step.
    fn ends(mut self, outcome: Outcome) -> Admission {
        self.embed = arguments(&self.context).map(|body| body.embed).unwrap_or_default();
        Admission::Settle(self, outcome)
    }
}

impl Gate {
    /// What is known of the crashes of a delivery. A broker's count is exact, and begins anew with each message: what was
    /// counted before is in a header.
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
        let entries = match found {
            Ok(entries) => entries,
            Err(outcome) => return Admission::Settle(request, outcome),
        };
        if self.revocations.contains(request.context.id()) {
            return request.ends(Outcome::Revoked { why: "revoked" });
        }
        match verdict {
            CrashVerdict::DeadLetter => return request.ends(crashed(self.max_crashes)),
            // An early ack comes before the run: a message that is delivered again has not begun, unless its quarantine
            // is noted.
            CrashVerdict::SendAgain if is_suspect || request.options.ack == AckMode::Late => {
                return Admission::CountCrash(request);
            }
            _ => {}
        }
        let [entry] = entries[..] else { return Admission::Split(request, entries) };
        match due(request.context.headers(), now) {
            Err(outcome) => return request.ends(outcome),
            Ok(Some(wait)) if wait > self.tolerance => return Admission::Early(request, wait),
            Ok(_) => {}
        }
        let options = request.options;
        let limits = Limits::of(Some(entry), request.context.headers());
        let in_quarantine = verdict == CrashVerdict::RunAlone && self.quarantines_in_process;
        match self.start(entry, &mut request) {
            // Decoded all the same: what does not fit is known without a process for it.
            Ok(_) if (options.isolate && self.isolates) || in_quarantine => {
                let work = Work::Isolated { memory_limit: options.memory_limit };
                Admission::Run(request, Guarded::new(work), limits)
            }
            Ok(work) => Admission::Run(request, work, limits),
            Err(outcome) => Admission::Settle(request, outcome),
        }
    }

    /// Decodes a delivery as far as its requeueing needs it.
    pub(crate) fn decode(&self, delivery: Delivery, verdict: CrashVerdict) -> Decoded {
        let crashes = self.crash_facts(&delivery).kept(verdict);
        let Delivery { mut message, queue, exchange, routing_key, redelivered, settlement, .. } = delivery;
        let readable = self.readable(&mut message);
        let first = |name: &str| message.headers.get_str(name).map(ToOwned::to_owned);
        let routing_key = first(names::ROUTING_KEY).unwrap_or(routing_key);
        let exchange = first(names::EXCHANGE).unwrap_or(exchange);
        let plain = is_plain(&message);
        let found = readable.and_then(|()| self.find(&message, &queue, &exchange, &routing_key));
        let entry = match found.as_deref() {
            Ok([entry]) => Some(*entry),
            _ => None,
        };
        let call = Call {
            task: entry.map_or("", |entry| entry.name),
            // A plain message may have no id; it gets one that stays with it through its retries.
            id: message.id().map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned),
            queue,
            exchange,
            routing_key,
            redelivered,
            message,
            shared: self.shared.clone(),
            stopping: self.cold.clone().into(),
        };
        let context = Context::new(call);
        let options = entry.map_or(TaskOptions::DEFAULT, |entry| entry.options);
        let embed = Embed::default();
        let request = Request { context, options, embed, plain, crashes, quarantined: false, settlement };
        Decoded { request, found }
    }

    /// A call that its broker has dead-lettered, as far as telling of that needs it. `Err`: a message that cannot be read,
    /// or that is no call of a task.
    pub(crate) fn dropped(&self, delivery: Delivery) -> Result<Request, Settlement> {
        let Delivery { mut message, queue, exchange, routing_key, redelivered, settlement, .. } = delivery;
        if self.readable(&mut message).is_err() || is_plain(&message) {
            return Err(settlement);
        }
        let entry = message.headers.task().and_then(|name| self.registry.get(name));
        let queue = message.headers.get_str(names::DEAD_QUEUE).map_or(queue, Into::into);
        let call = Call {
            task: entry.map_or("", |entry| entry.name),
            id: message.id().unwrap_or_default().to_owned(),
            queue,
            exchange,
            routing_key,
            redelivered,
            message,
            shared: self.shared.clone(),
            stopping: self.cold.clone().into(),
        };
        let context = Context::new(call);
        let embed = arguments(&context).map(|body| body.embed).unwrap_or_default();
        let options = entry.map_or(TaskOptions::DEFAULT, |entry| entry.options);
        Ok(Request { context, options, embed, plain: false, crashes: 0, quarantined: false, settlement })
    }

    /// Brings the message into the form that the rest reads.
    fn readable(&self, message: &mut Message) -> Result<(), Outcome> {
        if let Some(problem) = message.headers.get_str(names::UNREADABLE) {
            return Err(malformed(format!("the properties of the message cannot be read: {problem}")));
        }
        let size = message.body.len();
        if size > self.max_message_size {
            return Err(malformed(format!(
                "the body is {size} bytes, more than the limit of {} (`max_message_size`)",
                self.max_message_size
            )));
        }
        codec::normalize(message, self.max_message_size).map_err(malformed)
    }

    /// The task that a message names, or the tasks that subscribe to the routing key of a plain message.
    fn find(
        &self,
        message: &Message,
        queue: &str,
        exchange: &str,
        routing_key: &str,
    ) -> Result<Vec<&'static TaskEntry>, Outcome> {
        if let Some(name) = message.headers.task() {
            let known = self.registry.get(name).ok_or_else(|| Outcome::Dead {
                reason: DeadReason::UnknownTask,
                failure: failure(
                    "NotRegistered",
                    format!(
                        "no task `{name}` is linked into this worker; it knows {}",
                        listed(self.registry.iter().map(|entry| entry.name))
                    ),
                ),
            })?;
            return Ok(vec![known]);
        }
        let subscribed = self.subscriptions.matching(queue, exchange, routing_key);
        if subscribed.is_empty() {
            return Err(Outcome::Dead {
                reason: DeadReason::UnknownTask,
                failure: failure(
                    "NotRegistered",
                    format!(
                        "the message names no task, and no task of queue `{queue}` subscribes to the topic \
                         `{routing_key}` of exchange `{exchange}`"
                    ),
                ),
            });
        }
        Ok(subscribed)
    }

    /// Decodes what follows the task, and its arguments into the task's types.
    fn start(&self, entry: &TaskEntry, request: &mut Request) -> Result<Guarded<Work>, Outcome> {
        let context = request.context.clone();
        let body = arguments(&context).map_err(malformed)?;
        if let Some(problem) = crate::runtime::settlement::continuation::unsupported(&body.embed) {
            return Err(malformed(problem));
        }
        // Kept before the arguments are decoded: whoever waits for a later step must hear of a call that does not fit.
        request.embed = body.embed;
        entry.begin(context.clone(), body.arguments).map_err(|problem| match problem {
            NotBegun::Refused(error) => Outcome::Dead {
                reason: DeadReason::BadArguments,
                // Python's class for it, which its callers know.
                failure: TaskFailure {
                    kind: "TypeError".into(),
                    module: "builtins".into(),
                    message: error.to_string(),
                    traceback: None,
                },
            },
            // The task's own code, as if it had run.
            NotBegun::Panicked(text) => {
                decide(Ended::Panicked(text), &request.options, self.attempts(request), fastrand::f64())
            }
        })
    }

    /// How often a call was tried, and how often it may be.
    pub(crate) fn attempts(&self, request: &Request) -> Attempts {
        Attempts {
            retries: request.context.retries(),
            crashes: request.crashes,
            max_crashes: self.max_crashes,
        }
    }
}

/// How long it is until the message is due, if it is early; an outcome if it is too late or says nonsense.
fn due(headers: &Headers, now: DateTime<Utc>) -> Result<Option<Duration>, Outcome> {
    let expires = headers.expires().map_err(malformed)?;
    if expires.is_some_and(|time| time <= now) {
        return Err(Outcome::Revoked { why: "expired" });
    }
    let eta = headers.eta().map_err(malformed)?;
    Ok(eta.and_then(|time| (time - now).to_std().ok()))
}

/// What the message holds: arguments of a task, or one value.
pub(crate) fn arguments(context: &Context) -> Result<Body<'_>, String> {
    let message = context.message();
    let kind = message.properties.content_type.as_deref();
    if is_plain(message) {
        return Ok(Body::plain(&message.body, kind));
    }
    match kind {
        Some(kind) if !kind.starts_with(JSON) => {
            Err(format!("content type `{kind}` is not accepted, only `{JSON}`"))
        }
        _ => Body::parse(&message.body),
    }
}

/// True for a message that no producer of tasks wrote.
fn is_plain(message: &Message) -> bool {
    !message.is_task() || message.headers.get(names::PLAIN).is_some()
}

fn malformed(problem: String) -> Outcome {
    Outcome::Dead { reason: DeadReason::Malformed, failure: failure("InvalidMessage", problem) }
}

fn crashed(limit: u32) -> Outcome {
    Outcome::Dead {
        reason: DeadReason::Crashed,
        failure: failure("WorkerLost", format!("{limit} workers died while they had this message")),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
