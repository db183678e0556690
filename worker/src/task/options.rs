//! What `#[task(..)]` says about a task, as constants.

use std::time::Duration;

/// The options of one task. `None` leaves a matter to the configuration or the default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskOptions {
    /// The queue that calls go to. Default: a matching route, else the configured default queue.
    pub queue: Option<&'static str>,
    /// Topic patterns that the task subscribes to.
    pub topics: &'static [&'static str],
    /// The exchange of its subscription. Default: the configured topic exchange, where events are emitted. A task
    /// that names one and no topic gets everything from it.
    pub exchange: Option<&'static str>,
    /// True when each running worker gets its own copy.
    pub broadcast: bool,
    /// How many times a failed task is tried again. Default 3.
    pub max_retries: u32,
    /// How long to wait before trying again.
    pub backoff: Backoff,
    /// A run that takes longer is stopped and counts as failed. Default: no limit.
    ///
    /// A plain function cannot be stopped: its run counts as failed, and its place among the running tasks stays
    /// lost until it returns. An isolated one is killed.
    pub time_limit: Option<Duration>,
    /// After this time the context's cancellation token fires; the task may still end well. Default: no limit.
    pub soft_time_limit: Option<Duration>,
    /// True when each run has a process of its own, which can be killed and may crash. Unix only.
    pub isolate: bool,
    /// How many bytes of memory the process of an isolated run may have. Default: no limit.
    pub memory_limit: Option<u64>,
    /// How long a call keeps the next one with the same [key](crate::Task::unique_by) out, at most. Default: not at all.
    pub unique_for: Option<Duration>,
    /// How long a success is remembered, so that a message that comes again is not run again. Default: not at all.
    pub once_for: Option<Duration>,
    /// When the message leaves the queue. Default: after the outcome is durable.
    pub ack: AckMode,
    /// Larger is more urgent.
    pub priority: Option<u8>,
    /// A call that waited longer than this is not run.
    pub expires: Option<Duration>,
    /// True when nobody wants the result: nothing is stored.
    pub ignore_result: bool,
}

impl TaskOptions {
    /// What holds when the attribute says nothing.
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

/// Exponential backoff with full jitter: before retry `n` (from 0) a random time between zero and
/// `min · 2ⁿ` passes, but never more than `max`.
///
/// The formula is "full jitter" of the AWS architecture article "Exponential Backoff And Jitter".
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
        // Rounded up, the longest time of all would be too long.
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
