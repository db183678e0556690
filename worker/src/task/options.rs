//! The options of `#[task(..)]`, as constants.

use std::time::Duration;

use crate::message::ResultTypes;
use crate::schedule::{CatchUp, Overlap};

/// The options of one task. `None` means the configured value or the default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskOptions {
    /// The queue that calls go to. Default: a matching route, else the configured default queue.
    pub queue: Option<&'static str>,
    /// Topic patterns that the task subscribes to.
    pub topics: &'static [&'static str],
    /// The exchange of its subscription. Default: the configured topic exchange, to which events are emitted. A task
    /// with an exchange and no topic receives every message from it.
    pub exchange: Option<&'static str>,
    /// True if each running worker gets its own copy.
    pub broadcast: bool,
    /// How many times a failed task is retried. Default: 3.
    pub max_retries: u32,
    /// How long to wait before a retry.
    pub backoff: Backoff,
    /// A run that takes longer is stopped and counts as failed. Default: no limit.
    ///
    /// A plain function cannot be stopped: its run counts as failed, and its slot is lost until it returns. An isolated
    /// task is killed.
    pub time_limit: Option<Duration>,
    /// After this time the task's context is cancelled; the task may still succeed. Default: no limit.
    pub soft_time_limit: Option<Duration>,
    /// True if each run has a separate process, which can be killed and may crash. Unix only.
    pub isolate: bool,
    /// How many bytes of memory the process of an isolated run may use. Default: no limit.
    pub memory_limit: Option<u64>,
    /// How long, at most, other calls with the same [key](crate::Task::unique_by) are duplicates. Default: not at all.
    pub unique_for: Option<Duration>,
    /// How long a success is remembered, so that a redelivered message is not run again. Default: not at all.
    pub once_for: Option<Duration>,
    /// When the message is acknowledged. Default: after the outcome is durable.
    pub ack: AckMode,
    /// Larger is more urgent.
    pub priority: Option<u8>,
    /// A call that waited longer than this is not run.
    pub expires: Option<Duration>,
    /// True if the result is ignored: nothing is stored.
    pub ignore_result: bool,
    /// False if the message is acknowledged without a result while the result backend is unreachable. Default: the setting
    /// `result_required`.
    pub result_required: Option<bool>,
    /// How times, UUIDs, decimals and bytes in the result are written. Default: the setting `result_types`.
    pub result_types: Option<ResultTypes>,
    /// The cron expression for calling the task.
    pub cron: Option<&'static str>,
    /// The interval for calling the task.
    pub every: Option<Duration>,
    /// The time zone of the cron expression. Default: UTC.
    pub tz: Option<&'static str>,
    /// How much later a scheduled call may be sent.
    pub jitter: Option<Duration>,
    /// What happens when a schedule is due while its previous call waits or runs.
    pub overlap: Overlap,
    /// What happens to due times that passed while no scheduler ran.
    pub catch_up: CatchUp,
    /// True if the state `STARTED` is stored when the task starts. Default: the setting `track_started`.
    pub track_started: Option<bool>,
}

impl TaskOptions {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        queue: None,
        topics: &[],
        exchange: None,
        broadcast: false,
        max_retries: 3,
        backoff: Backoff::DEFAULT,
        time_limit: None,
        soft_time_limit: None,
        isolate: false,
        memory_limit: None,
        unique_for: None,
        once_for: None,
        ack: AckMode::Late,
        priority: None,
        expires: None,
        ignore_result: false,
        result_required: None,
        result_types: None,
        cron: None,
        every: None,
        tz: None,
        jitter: None,
        overlap: Overlap::Allow,
        catch_up: CatchUp::Last,
        track_started: None,
    };
}

/// When a message is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// After the outcome is durable: the task runs at least once.
    #[default]
    Late,
    /// Before the task runs: it runs at most once.
    Early,
}

/// Exponential backoff with full jitter: before retry `n` (from 0), the wait is a random time between zero and
/// `min · 2ⁿ`, but never more than `max`.
///
/// This is "full jitter" from the AWS architecture article "Exponential Backoff And Jitter".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The ceiling of the first wait.
    pub min: Duration,
    /// The ceiling of every wait.
    pub max: Duration,
}

impl Backoff {
    /// 1 second to 10 minutes.
    pub const DEFAULT: Self = Self { min: Duration::from_secs(1), max: Duration::from_secs(600) };

    /// The longest wait before retry `n`, counted from 0.
    pub fn ceiling(&self, n: u32) -> Duration {
        self.min.checked_mul(2u32.saturating_pow(n.min(31))).unwrap_or(self.max).min(self.max)
    }

    /// The wait before retry `n`, drawn with `random` in `0.0..1.0`.
    pub fn delay(&self, n: u32, random: f64) -> Duration {
        let ceiling = self.ceiling(n);
        // `Duration::MAX` is rounded up as a float, and would overflow.
        Duration::try_from_secs_f64(ceiling.as_secs_f64() * random.clamp(0.0, 1.0)).unwrap_or(ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(10) };
        let seconds: Vec<u64> = (0..6).map(|n| backoff.ceiling(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_secs(10));
    }

    #[test]
    fn the_delay_lies_between_zero_and_the_ceiling() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(10) };
        assert_eq!(backoff.delay(1, 0.0), Duration::ZERO);
        assert_eq!(backoff.delay(1, 0.5), Duration::from_secs(1));
        assert_eq!(backoff.delay(9, 1.0), Duration::from_secs(10));
    }
}
