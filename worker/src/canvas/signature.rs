//! One call of a task: arguments and options, ready to be sent.

use std::marker::PhantomData;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::message::json;
use crate::task::{Task, TaskOptions};

/// A call that has not been sent yet: `send_email.with(user).countdown(..).send()`.
///
/// It is plain data; `send` is implemented by the application.
#[derive(Clone, Debug)]
#[must_use = "a signature does nothing until it is sent"]
pub struct Signature<T: Task> {
    pub(crate) args: T::Args,
    pub(crate) options: SendOptions,
    /// Why it cannot be sent, if an option is invalid.
    pub(crate) problem: Option<String>,
    task: PhantomData<T>,
}

/// Options of a call, where they differ from those of the task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SendOptions {
    /// The task id; a new one by default.
    pub task_id: Option<String>,
    /// The queue.
    pub queue: Option<String>,
    /// The exchange.
    pub exchange: Option<String>,
    /// The routing key.
    pub routing_key: Option<String>,
    /// How long to wait before the call may run.
    pub countdown: Option<Duration>,
    /// The earliest time for the call to run.
    pub eta: Option<DateTime<Utc>>,
    /// The call does not run if it has waited longer than this.
    pub expires: Option<Duration>,
    /// Larger is more urgent.
    pub priority: Option<u8>,
    /// A time limit for this call.
    pub time_limit: Option<Duration>,
    /// A soft time limit for this call.
    pub soft_time_limit: Option<Duration>,
    /// True if the result is ignored.
    pub ignore_result: Option<bool>,
    /// Your own headers.
    pub headers: Vec<(String, Value)>,
}

impl<T: Task> Signature<T> {
    /// A call with these arguments. `#[task]` generates the friendlier `send_email.with(user)`.
    pub fn new(args: T::Args) -> Self {
        Self { args, options: SendOptions::default(), problem: None, task: PhantomData }
    }

    /// The options of the task.
    pub fn task_options(&self) -> TaskOptions {
        T::OPTIONS
    }

    /// Delays the call by `delay`. The message waits in the broker.
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.options.countdown = Some(delay);
        self
    }

    /// Delays the call until `time`. The message waits in the broker.
    pub fn eta(mut self, time: DateTime<Utc>) -> Self {
        self.options.eta = Some(time);
        self
    }

    /// Does not run the call if it has waited longer than `lifetime`. An expiry after the year 9999 means never.
    pub fn expires(mut self, lifetime: Duration) -> Self {
        self.options.expires = Some(lifetime);
        self
    }

    /// Sends to this queue instead of the task's.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.options.queue = Some(queue.into());
        self
    }

    /// Publishes to this exchange, with [`routing_key`](Self::routing_key).
    pub fn exchange(mut self, exchange: impl Into<String>) -> Self {
        self.options.exchange = Some(exchange.into());
        self
    }

    /// Sets the routing key.
    pub fn routing_key(mut self, key: impl Into<String>) -> Self {
        self.options.routing_key = Some(key.into());
        self
    }

    /// Sets the priority; larger is more urgent. The queue must be declared with a maximum priority.
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Overrides the task's time limit; zero keeps it.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.options.time_limit = Some(limit);
        self
    }

    /// Overrides the task's soft time limit, at which its context is cancelled.
    pub fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.options.soft_time_limit = Some(limit);
        self
    }

    /// Ignores the result: nothing is stored.
    pub fn ignore_result(mut self) -> Self {
        self.options.ignore_result = Some(true);
        self
    }

    /// Uses this id instead of a new one, for instance to send a call again that may not have arrived.
    pub fn task_id(mut self, id: impl Into<String>) -> Self {
        self.options.task_id = Some(id.into());
        self
    }

    /// Adds your own header, which the task finds in its context.
    ///
    /// Names that belong to the protocol (`id`, `eta`, `retries` …), to mq-worker (`mq-…`) or to the broker (`CC`, `x-death` …)
    /// are refused when the call is sent. On RabbitMQ all headers of a message together must fit into one frame, 128 KiB
    /// by default; pass larger data in the arguments.
    ///
    /// A value that JSON cannot represent, such as NaN, is an error when the call is sent. So is an integer above
    /// `i64::MAX` on RabbitMQ, which cannot represent it.
    pub fn header(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        let name = name.into();
        match json::to_value(&value) {
            Ok(value) => self.options.headers.push((name, value)),
            Err(error) => self.problem = Some(format!("cannot write header `{name}`: {error}")),
        }
        self
    }
}
