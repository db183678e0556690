//! What is wrong with a worker, and for how long. Pure: the time that has passed is an argument.

use std::time::Duration;

use crate::tracing;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::runtime::settlement::persist::Slowest;

/// How many times a worker is checked within a limit.
const LOOKS: u32 = 6;
/// The shortest and the longest time between two checks. A check may query the broker, so they must be rare enough to cost
/// nothing.
const LOOK_WITHIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// The checks of liveness.
pub(super) struct Checks {
    executor: Check,
    connection: Check,
    progress: Check,
    settling: Check,
}

/// The result of one check of the worker: a reason for each problem that was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) executor: Option<String>,
    pub(super) connection: Option<String>,
    pub(super) progress: Option<String>,
    pub(super) settling: Option<String>,
}

/// One check: it fails when something has been wrong without a break for longer than the limit.
struct Check {
    name: &'static str,
    limit: Duration,
    trouble: Option<Trouble>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Trouble {
    check: &'static str,
    #[serde(serialize_with = "to_the_second")]
    since: DateTime<Utc>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    lasts: Duration,
    reason: String,
}

/// The answer to a probe.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    ok: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Trouble>,
    /// Messages that the worker cannot settle at the moment, whether or not that has lasted too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    settling: Option<Waiting>,
}

/// Messages that wait to be settled.
#[derive(Clone, Debug, Serialize)]
struct Waiting {
    count: usize,
    #[serde(serialize_with = "to_the_second")]
    since: DateTime<Utc>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    lasts: Duration,
    reason: String,
    /// The broker or result backend.
    waits_for: String,
}

impl Checks {
    /// Checks with these limits; a limit of zero turns its checks off.
    pub(super) fn new(stall: Duration, connection: Duration) -> Self {
        let check = |name, limit| Check { name, limit, trouble: None };
        Self {
            executor: check("executor", stall),
            connection: check("connection", connection),
            progress: check("progress", stall),
            // Usually the broker does not accept the outcome, so a restart helps no sooner than after a lost connection.
            settling: check("settling", connection),
        }
    }

    /// How long to wait between two checks.
    pub(super) fn pause(&self) -> Duration {
        let limits =
            [self.progress.limit, self.connection.limit].into_iter().filter(|limit| !limit.is_zero());
        let (least, most) = LOOK_WITHIN;
        limits.min().map_or(most, |limit| (limit / LOOKS).clamp(least, most))
    }

    /// Records what a check found, `passed` after the last one.
    ///
    /// A process that was suspended, alone or with its machine, has checked nothing during that time, so no more time is
    /// counted than may pass between two checks.
    pub(super) fn note(&mut self, symptoms: Findings, passed: Duration, now: DateTime<Utc>) {
        let passed = passed.min(self.pause() * 2);
        let Findings { executor, connection, progress, settling } = symptoms;
        self.executor.note(executor, passed, now);
        self.connection.note(connection, passed, now);
        self.progress.note(progress, passed, now);
        self.settling.note(settling, passed, now);
    }

    /// Reports the failing checks.
    pub(super) fn report(&self) -> Report {
        let checks = [&self.executor, &self.connection, &self.progress, &self.settling];
        Report::of(checks.into_iter().filter_map(|check| check.failure().cloned()))
    }

    /// When this worker noticed that the connection was lost.
    pub(super) fn disconnected_since(&self) -> Option<DateTime<Utc>> {
        self.connection.trouble.as_ref().map(|trouble| trouble.since)
    }
}

impl Check {
    fn note(&mut self, reason: Option<String>, passed: Duration, now: DateTime<Utc>) {
        let had_failed = self.failure().is_some();
        self.trouble = reason.map(|reason| match self.trouble.take() {
            Some(trouble) => Trouble { lasts: trouble.lasts + passed, reason, ..trouble },
            None => Trouble { check: self.name, since: now, lasts: Duration::ZERO, reason },
        });
        match (had_failed, self.failure()) {
            (false, Some(Trouble { check, since, reason, .. })) => {
                tracing::error!(check, %since, reason, "this worker is unhealthy: /livez fails");
            }
            (true, None) => tracing::info!(check = self.name, "this worker is healthy again"),
            _ => {}
        }
    }

    fn failure(&self) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|trouble| !self.limit.is_zero() && trouble.lasts >= self.limit)
    }
}

impl Trouble {
    /// A problem that exists now and started at `since`.
    pub(super) fn now(check: &'static str, since: DateTime<Utc>, reason: &str) -> Self {
        let lasts = (Utc::now() - since).to_std().unwrap_or_default();
        Self { check, since, lasts, reason: reason.into() }
    }
}

impl Report {
    /// A report of these problems.
    pub(super) fn of(failed: impl IntoIterator<Item = Trouble>) -> Self {
        let failed: Vec<Trouble> = failed.into_iter().collect();
        Self { ok: failed.is_empty(), failed, settling: None }
    }

    /// Adds the messages that wait to be settled.
    pub(super) fn with(mut self, slowest: Option<Slowest>) -> Self {
        self.settling = slowest.map(|Slowest { count, lasts, reason, waits_for }| {
            let since =
                chrono::Duration::from_std(lasts).ok().and_then(|lasts| Utc::now().checked_sub_signed(lasts));
            Waiting { count, since: since.unwrap_or_default(), lasts, reason, waits_for }
        });
        self
    }

    /// True when nothing fails.
    pub(super) fn is_ok(&self) -> bool {
        self.ok
    }
}

fn to_the_second<S: serde::Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn checks() -> Checks {
        Checks::new(60 * SECOND, 300 * SECOND)
    }

    fn stalled() -> Findings {
        Findings { progress: Some("nothing comes".into()), ..Findings::default() }
    }

    #[test]
    fn a_check_fails_when_the_limit_has_passed_without_a_break() {
        let mut checks = checks();
        assert_eq!(checks.pause(), 10 * SECOND);
        checks.note(stalled(), 10 * SECOND, Utc::now());
        for _ in 0..5 {
            checks.note(stalled(), 10 * SECOND, Utc::now());
            assert!(checks.report().is_ok());
        }
        checks.note(stalled(), 10 * SECOND, Utc::now());
        assert!(!checks.report().is_ok());
        checks.note(Findings::default(), 10 * SECOND, Utc::now());
        assert!(checks.report().is_ok());
        checks.note(stalled(), 10 * SECOND, Utc::now());
        assert!(checks.report().is_ok(), "a break begins the count anew");
    }

    #[test]
    fn each_check_has_its_limit() {
        let mut checks = checks();
        let away = Findings { connection: Some("away".into()), ..Findings::default() };
        for _ in 0..30 {
            checks.note(away.clone(), 10 * SECOND, Utc::now());
            assert!(checks.report().is_ok());
        }
        checks.note(away, 10 * SECOND, Utc::now());
        let json = serde_json::to_value(checks.report()).expect("JSON");
        assert_eq!((&json["ok"], &json["failed"][0]["check"]), (&false.into(), &"connection".into()));
        assert_eq!(
            (&json["failed"][0]["seconds"], &json["failed"][0]["reason"]),
            (&300.into(), &"away".into())
        );
    }

    #[test]
    fn what_waits_to_be_settled_fails_with_the_limit_of_the_connection() {
        let mut checks = checks();
        let stuck = Findings { settling: Some("no room".into()), ..Findings::default() };
        for _ in 0..30 {
            checks.note(stuck.clone(), 10 * SECOND, Utc::now());
            assert!(checks.report().is_ok());
        }
        checks.note(stuck, 10 * SECOND, Utc::now());
        let slowest = Slowest {
            count: 2,
            lasts: 320 * SECOND,
            reason: "no room".into(),
            waits_for: "redis://s".into(),
        };
        let json = serde_json::to_value(checks.report().with(Some(slowest))).expect("JSON");
        assert_eq!((&json["ok"], &json["failed"][0]["check"]), (&false.into(), &"settling".into()));
        assert_eq!((&json["settling"]["count"], &json["settling"]["seconds"]), (&2.into(), &320.into()));
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let mut checks = checks();
        checks.note(stalled(), 10 * SECOND, Utc::now());
        checks.note(stalled(), 3600 * SECOND, Utc::now());
        assert!(checks.report().is_ok());
    }

    #[test]
    fn a_limit_of_zero_turns_a_check_off() {
        let mut checks = Checks::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(checks.pause(), 10 * SECOND);
        for _ in 0..100 {
            checks.note(stalled(), 10 * SECOND, Utc::now());
        }
        assert!(checks.report().is_ok());
    }
}
