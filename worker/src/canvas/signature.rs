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
/// It is plain data; `send` lives with the application that sends it.
#[derive(Clone, Debug)]
#[must_use = "a signature does nothing until it is sent"]
pub struct Signature<T: Task> {
    pub(crate) args: T::Args,
    pub(crate) options: SendOptions,
    /// Why it cannot be sent, if something was asked of it that cannot be.
    pub(crate) problem: Option<String>,
    task: PhantomData<T>,
}

/// How a call is sent, where it differs from what the task says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SendOptions {
    /// The task's id; default is a new one.
    pub task_id: Option<String>,
    /// The queue.
    pub queue: Option<String>,
    /// The exchange.
    pub exchange: Option<String>,
    /// The routing key.
    pub routing_key: Option<String>,
    /// Not to run before this long from now.
    pub countdown: Option<Duration>,
    /// Not to run before this time.
    pub eta: Option<DateTime<Utc>>,
    /// Not to run after this long from now.
    pub expires: Option<Duration>,
    /// Larger is more urgent.
    pub priority: Option<u8>,
    /// A time limit for this call.
    pub time_limit: Option<Duration>,
    /// A soft time limit for this call.
    pub soft_time_limit: Option<Duration>,
    /// True when nobody wants the result.
    pub ignore_result: Option<bool>,
    /// Headers of one's own.
    pub headers: Vec<(String, Value)>,
}

impl<T: Task> Signature<T> {
    /// A call with these arguments. `#[task]` writes the friendlier `send_email.with(user)`.
    pub fn new(args: T::Args) -> Self {
        Self { args, options: SendOptions::default(), problem: None, task: PhantomData }
    }

    /// What the attribute says about the task.
    pub fn task_options(&self) -> TaskOptions {
        T::OPTIONS
    }

    /// Not to run before `delay` from now. The message waits in the broker.
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.options.countdown = Some(delay);
        self
    }

    /// Not to run before `time`. The message waits in the broker.
    pub fn eta(mut self, time: DateTime<Utc>) -> Self {
        self.options.eta = Some(time);
        self
    }

    /// Not to run when it has waited longer than `lifetime`. What would end after the year 9999 never expires.
    pub fn expires(mut self, lifetime: Duration) -> Self {
        self.options.expires = Some(lifetime);
        self
    }

    /// To this queue instead of the task's.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.options.queue = Some(queue.into());
        self
    }

    /// To this exchange, with [`routing_key`](Self::routing_key).
    pub fn exchange(mut self, exchange: impl Into<String>) -> Self {
        self.options.exchange = Some(exchange.into());
        self
    }

    /// With this routing key.
    pub fn routing_key(mut self, key: impl Into<String>) -> Self {
        self.options.routing_key = Some(key.into());
        self
    }

    /// With this priority; larger is more urgent. The queue must have been declared with a maximal priority.
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// With another time limit than the task's; zero leaves the task's own.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.options.time_limit = Some(limit);
        self
    }

    /// With another soft time limit than the task's: then its cancellation token fires.
    pub fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.options.soft_time_limit = Some(limit);
        self
    }

    /// Nobody wants the result: nothing is stored.
    pub fn ignore_result(mut self) -> Self {
        self.options.ignore_result = Some(true);
        self
    }

    /// With this id instead of a new one, for instance to send again what may not have arrived.
    pub fn task_id(mut self, id: impl Into<String>) -> Self {
        self.options.task_id = Some(id.into());
        self
    }

    /// With a header of one's own, which the task finds in its context.
    ///
    /// Names that belong to the protocol (`id`, `eta`, `retries` …), to mq-worker (`mq-…`) or to the broker (`CC`, `x-death` …)
    /// are refused when the call is sent. On RabbitMQ all headers of a message together must fit into one frame, 128 KiB
    /// unless the server says otherwise; what is larger belongs into the arguments.
    ///
    /// A value that JSON cannot express, such as NaN, is an
    /// error when the call is sent; so is an integer above `i64::MAX` on RabbitMQ, which has no room for it.
    pub fn header(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        let name = name.into();
        match json::to_value(&value) {
            Ok(value) => self.options.headers.push((name, value)),
            Err(error) => self.problem = Some(format!("cannot write header `{name}`: {error}")),
        }
        self
    }
}
