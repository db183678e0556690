//! The runs of one call, assembled from start and end events that arrive in any order.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::occurrence::Occurrence;
use super::state::JobState;

/// The most attempts kept for one call; beyond that, the oldest are dropped.
const MOST: usize = 50;

/// One run of a call.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Attempt {
    /// The number of retries before this run, if its events report it.
    pub retries: Option<u32>,
    /// The worker.
    pub worker: Option<String>,
    /// When it started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended; `None` while it runs, or if its worker died.
    pub ended_at: Option<DateTime<Utc>>,
    /// The state that it led to.
    pub outcome: Option<JobState>,
    /// Its error.
    pub error: Option<String>,
}

impl Attempt {
    /// An attempt without a start or an end yet.
    pub(super) fn of(event: &Occurrence) -> Self {
        Self { retries: event.retries, worker: event.worker.clone(), ..Self::default() }
    }

    fn when(&self) -> Option<DateTime<Utc>> {
        self.started_at.or(self.ended_at)
    }
}

/// Adds the start or the end of a run.
///
/// Celery's events do not say to which run an end belongs: it is matched with the last start before it on the same
/// worker. When an event arrives late, all are matched again.
pub(super) fn add(attempts: &mut Vec<Attempt>, new: Attempt) {
    let latest = attempts.last().and_then(|last| last.ended_at.max(last.started_at));
    if latest > new.when() {
        let mut parts: Vec<Attempt> = attempts.drain(..).flat_map(split).chain([new]).collect();
        parts.sort_by_key(|part| (part.when(), part.ended_at.is_some()));
        for part in parts {
            append(attempts, part);
        }
        attempts.sort_by_key(Attempt::when);
    } else {
        append(attempts, new);
    }
    if attempts.len() > MOST {
        attempts.drain(..attempts.len() - MOST);
    }
}

/// Adds a part that is later than all known ones.
fn append(attempts: &mut Vec<Attempt>, new: Attempt) {
    let open = attempts
        .iter_mut()
        .rev()
        .find(|one| new.ended_at.is_some() && one.ended_at.is_none() && one.worker == new.worker);
    match open {
        Some(open) => {
            open.ended_at = new.ended_at;
            open.outcome = new.outcome;
            open.error = new.error;
            open.retries = open.retries.or(new.retries);
        }
        None => attempts.push(new),
    }
}

/// Splits an attempt into its start and its end.
fn split(attempt: Attempt) -> impl Iterator<Item = Attempt> {
    let Attempt { retries, worker, started_at, ended_at, outcome, error } = attempt;
    let begin = Attempt { retries, worker: worker.clone(), started_at, ..Attempt::default() };
    let end = Attempt { retries, worker, started_at: None, ended_at, outcome, error };
    [begin, end].into_iter().filter(|part| part.when().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0)
    }

    fn begin(worker: &str, second: i64) -> Attempt {
        Attempt { worker: Some(worker.into()), started_at: at(second), ..Attempt::default() }
    }

    fn end(worker: &str, second: i64, outcome: JobState) -> Attempt {
        let (ended_at, outcome) = (at(second), Some(outcome));
        Attempt { worker: Some(worker.into()), ended_at, outcome, ..Attempt::default() }
    }

    #[test]
    fn ends_find_their_beginnings_in_any_order() {
        // The worker `a` dies in its second run.
        let parts = [
            begin("a", 0),
            end("a", 5, JobState::Retry),
            begin("a", 10),
            begin("b", 20),
            end("b", 30, JobState::Success),
        ];
        for seed in 0..200 {
            let mut parts = parts.to_vec();
            fastrand::Rng::with_seed(seed).shuffle(&mut parts);
            let mut attempts = Vec::new();
            for part in parts {
                add(&mut attempts, part);
            }
            let runs: Vec<_> =
                attempts.iter().map(|one| (one.started_at, one.ended_at, one.outcome)).collect();
            let (retry, success) = (Some(JobState::Retry), Some(JobState::Success));
            let expected = [(at(0), at(5), retry), (at(10), None, None), (at(20), at(30), success)];
            assert_eq!(runs, expected, "seed {seed}");
        }
    }

    #[test]
    fn attempts_are_bounded() {
        let mut attempts = Vec::new();
        for run in 0..200 {
            add(&mut attempts, begin("a", run * 10));
            add(&mut attempts, end("a", run * 10 + 5, JobState::Retry));
        }
        assert_eq!(attempts.len(), MOST);
        assert_eq!(attempts.last().and_then(|one| one.started_at), at(1990));
    }
}
