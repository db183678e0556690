//! One call and its attempts, and how an event changes what is known about it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::attempts::{self, Attempt};
use super::occurrence::{Kind, Occurrence};
use super::reported::Reported;
use super::state::{JobState, replaces};

/// Everything that the history knows about a call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// The id of the call.
    pub id: String,
    /// The task's name.
    pub name: Option<String>,
    /// Its state.
    pub state: JobState,
    /// When it entered this state.
    pub state_at: DateTime<Utc>,
    /// The queue.
    pub queue: Option<String>,
    /// The worker that reported it last.
    pub worker: Option<String>,
    /// The first call of its workflow.
    pub root: Option<String>,
    /// The call that sent it.
    pub parent: Option<String>,
    /// The positional arguments as text, cut if they are long.
    pub args: Option<String>,
    /// The named arguments as text, cut if they are long.
    pub kwargs: Option<String>,
    /// The result as text, cut if it is long.
    pub result: Option<String>,
    /// The last error.
    pub error: Option<String>,
    /// The traceback of the last error.
    pub traceback: Option<String>,
    /// Why it was dead-lettered, rejected, revoked or requeued.
    pub reason: Option<String>,
    /// The progress or state that it last reported.
    pub reported: Option<Reported>,
    /// The number of retries.
    pub retries: u32,
    /// The earliest time to run.
    pub eta: Option<DateTime<Utc>>,
    /// After this time it will not run.
    pub expires: Option<DateTime<Utc>>,
    /// When it was sent.
    pub sent_at: Option<DateTime<Utc>>,
    /// When a worker first received it.
    pub received_at: Option<DateTime<Utc>>,
    /// When its last run started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// Its runs, the oldest first.
    pub attempts: Vec<Attempt>,
}

/// Something to add to the counters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tally {
    pub(super) what: Counter,
    pub(super) at: DateTime<Utc>,
    /// How long it ran, in seconds.
    pub(super) run: Option<f64>,
    /// How long it waited in its queue, in seconds.
    pub(super) wait: Option<f64>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Counter {
    Sent = 0,
    Started = 1,
    Succeeded = 2,
    Failed = 3,
    Retried = 4,
    Revoked = 5,
    Rejected = 6,
    DeadLettered = 7,
}

impl Job {
    /// A call with nothing known but its id.
    pub(super) fn new(id: String, at: DateTime<Utc>) -> Self {
        Self {
            id,
            name: None,
            state: JobState::Pending,
            state_at: at,
            queue: None,
            worker: None,
            root: None,
            parent: None,
            args: None,
            kwargs: None,
            result: None,
            error: None,
            traceback: None,
            reason: None,
            reported: None,
            retries: 0,
            eta: None,
            expires: None,
            sent_at: None,
            received_at: None,
            started_at: None,
            finished_at: None,
            attempts: Vec::new(),
        }
    }

    /// A call in a state, for tests in other modules.
    #[cfg(test)]
    pub(crate) fn sample(id: &str, state: JobState, at: DateTime<Utc>) -> Self {
        Self { state, ..Self::new(id.into(), at) }
    }

    /// Applies an event. Events may come in any order; one that comes a second time changes nothing and is not counted
    /// again.
    pub(super) fn apply(&mut self, event: &Occurrence) -> Option<Tally> {
        self.learn(event);
        let tally = match event.kind {
            Kind::Sent => self.sent(event),
            Kind::Received => {
                self.received_at = Some(self.received_at.map_or(event.at, |known| known.min(event.at)));
                self.move_to(JobState::Received, event);
                None
            }
            Kind::Delayed => {
                self.move_to(JobState::Delayed, event);
                None
            }
            Kind::Requeued => {
                self.requeued(event);
                None
            }
            Kind::Started => self.started(event),
            Kind::Reported => {
                if self.reported.as_ref().is_none_or(|known| known.at <= event.at) {
                    self.reported.clone_from(&event.reported);
                }
                None
            }
            // A run in quarantine reports its start with an event of its own.
            Kind::Quarantined => None,
            Kind::Succeeded => self.ended(JobState::Success, Counter::Succeeded, event),
            Kind::Failed => self.ended(JobState::Failure, Counter::Failed, event),
            Kind::Retried => self.ended(JobState::Retry, Counter::Retried, event),
            Kind::Revoked => self.refused(JobState::Revoked, Counter::Revoked, event),
            Kind::Rejected => self.refused(JobState::Rejected, Counter::Rejected, event),
            Kind::DeadLettered => self.refused(JobState::DeadLettered, Counter::DeadLettered, event),
        };
        self.retries = self.retries.max(event.retries.unwrap_or_default());
        tally
    }

    /// Takes over the details of an event, in any order of events. What describes the call is set once; queue, worker and
    /// reason follow the newest event.
    fn learn(&mut self, event: &Occurrence) {
        fn fill(known: &mut Option<String>, new: &Option<String>) {
            if known.is_none() {
                known.clone_from(new);
            }
        }
        fill(&mut self.name, &event.name);
        fill(&mut self.root, &event.root);
        fill(&mut self.parent, &event.parent);
        fill(&mut self.args, &event.args);
        fill(&mut self.kwargs, &event.kwargs);
        let is_newer = event.at >= self.state_at;
        if event.queue.is_some() && (self.queue.is_none() || is_newer) {
            self.queue.clone_from(&event.queue);
        }
        if event.worker.is_some() && (self.worker.is_none() || is_newer) {
            self.worker.clone_from(&event.worker);
        }
        self.eta = event.eta.or(self.eta);
        self.expires = event.expires.or(self.expires);
        if event.reason.is_some() && (self.reason.is_none() || is_newer) {
            self.reason.clone_from(&event.reason);
        }
    }

    fn sent(&mut self, event: &Occurrence) -> Option<Tally> {
        if self.sent_at.is_some() {
            return None;
        }
        self.sent_at = Some(event.at);
        Some(Tally { what: Counter::Sent, at: event.at, run: None, wait: None })
    }

    /// Applies a requeue: the call waits in its queue again, unless a newer or a final state is known.
    fn requeued(&mut self, event: &Occurrence) {
        if event.at >= self.state_at && !self.state.is_final() {
            self.state = JobState::Pending;
            self.state_at = event.at;
        }
    }

    fn started(&mut self, event: &Occurrence) -> Option<Tally> {
        self.move_to(JobState::Started, event);
        let at = event.at;
        if self.attempts.iter().any(|one| one.started_at == Some(at) && one.worker == event.worker) {
            return None;
        }
        self.started_at = self.started_at.max(Some(at));
        attempts::add(&mut self.attempts, Attempt { started_at: Some(at), ..Attempt::of(event) });
        Some(Tally { what: Counter::Started, at, run: None, wait: self.wait(event) })
    }

    /// How long it waited: as the event reports, or else since it was sent, for a first run without an ETA.
    fn wait(&self, event: &Occurrence) -> Option<f64> {
        let is_first = self.attempts.len() == 1 && self.eta.is_none();
        event.wait.or_else(|| is_first.then(|| seconds(event.at - self.sent_at?)).flatten())
    }

    fn ended(&mut self, state: JobState, what: Counter, event: &Occurrence) -> Option<Tally> {
        let at = event.at;
        let known = |one: &Attempt| one.ended_at == Some(at) && one.outcome == Some(state);
        if self.attempts.iter().any(known) {
            return None;
        }
        self.move_to(state, event);
        if state == JobState::Success {
            if event.result.is_some() {
                self.result.clone_from(&event.result);
            }
        } else if self.error.is_none() || self.state_at <= at {
            self.error.clone_from(&event.error);
            self.traceback.clone_from(&event.traceback);
        }
        let end = Attempt {
            ended_at: Some(at),
            outcome: Some(state),
            error: event.error.clone(),
            ..Attempt::of(event)
        };
        attempts::add(&mut self.attempts, end);
        let measured = || {
            let attempt = self.attempts.iter().find(|one| known(one))?;
            seconds(at - attempt.started_at?)
        };
        let run = event.runtime.or_else(measured);
        Some(Tally { what, at, run, wait: None })
    }

    /// Applies a final state that a call may reach without having run.
    fn refused(&mut self, state: JobState, what: Counter, event: &Occurrence) -> Option<Tally> {
        let is_known = self.state == state && self.state_at == event.at;
        let is_new = self.move_to(state, event) && !is_known;
        if event.error.is_some() && self.error.is_none() {
            self.error.clone_from(&event.error);
        }
        // The running attempt was terminated.
        if state == JobState::Revoked
            && let Some(open) = self.attempts.last_mut().filter(|one| one.outcome.is_none())
        {
            open.ended_at = Some(event.at);
            open.outcome = Some(state);
        }
        is_new.then_some(Tally { what, at: event.at, run: None, wait: None })
    }

    /// Changes the state, unless the known one takes precedence.
    fn move_to(&mut self, state: JobState, event: &Occurrence) -> bool {
        if !replaces((self.state, self.state_at), (state, event.at)) {
            return false;
        }
        self.state = state;
        self.state_at = event.at;
        self.finished_at = state.is_final().then_some(event.at);
        true
    }
}

fn seconds(time: TimeDelta) -> Option<f64> {
    time.to_std().ok().map(|time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + millis).expect("a time")
    }

    fn event(kind: Kind, millis: i64) -> Occurrence {
        let worker = (kind != Kind::Sent).then(|| "w@h".to_owned());
        Occurrence { worker, ..Occurrence::new(kind, "a", at(millis)) }
    }

    fn failed(kind: Kind, millis: i64, error: &str) -> Occurrence {
        Occurrence { error: Some(error.into()), ..event(kind, millis) }
    }

    fn said(millis: i64, current: u64) -> Occurrence {
        let reported = Reported {
            state: "PROGRESS".into(),
            at: at(millis),
            current: Some(current),
            total: Some(3),
            description: None,
        };
        Occurrence { reported: Some(reported), ..event(Kind::Reported, millis) }
    }

    /// A call that is retried once and then succeeds.
    fn life() -> Vec<Occurrence> {
        vec![
            Occurrence { name: Some("add".into()), args: Some("(2, 3)".into()), ..event(Kind::Sent, 0) },
            event(Kind::Received, 10),
            event(Kind::Started, 11),
            failed(Kind::Retried, 20, "ValueError('no')"),
            event(Kind::Received, 30),
            event(Kind::Started, 31),
            said(35, 1),
            said(40, 2),
            Occurrence { result: Some("5".into()), ..event(Kind::Succeeded, 45) },
        ]
    }

    fn applied(events: &[Occurrence]) -> (Job, Vec<Counter>) {
        let mut job = Job::new("a".into(), events[0].at);
        let tallies = events.iter().filter_map(|event| job.apply(event)).map(|tally| tally.what).collect();
        (job, tallies)
    }

    #[test]
    fn a_life_in_order() {
        let (job, tallies) = applied(&life());
        assert_eq!((job.state, job.finished_at), (JobState::Success, Some(at(45))));
        assert_eq!(job.reported.as_ref().map(ToString::to_string).as_deref(), Some("2 of 3 (66 %)"));
        assert_eq!((job.name.as_deref(), job.result.as_deref()), (Some("add"), Some("5")));
        let runs: Vec<_> =
            job.attempts.iter().map(|one| (one.started_at, one.ended_at, one.outcome)).collect();
        assert_eq!(
            runs,
            [
                (Some(at(11)), Some(at(20)), Some(JobState::Retry)),
                (Some(at(31)), Some(at(45)), Some(JobState::Success)),
            ]
        );
        assert_eq!(job.attempts[0].error.as_deref(), Some("ValueError('no')"));
        use Counter::{Retried, Sent, Started, Succeeded};
        assert_eq!(tallies, [Sent, Started, Retried, Started, Succeeded]);
    }

    #[test]
    fn any_order_and_any_repetition_tell_the_same() {
        let (expected, mut counted) = applied(&life());
        counted.sort();
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut events = life();
            events.extend(life().into_iter().filter(|_| random.bool()));
            random.shuffle(&mut events);
            let (job, mut tallies) = applied(&events);
            tallies.sort();
            assert_eq!(job, expected, "seed {seed}");
            assert_eq!(tallies, counted, "seed {seed}");
        }
    }

    #[test]
    fn a_dead_letter_that_is_replayed_runs_again() {
        let dead = Occurrence { reason: Some("max_retries".into()), ..event(Kind::DeadLettered, 20) };
        let mut events = vec![event(Kind::Started, 10), failed(Kind::Failed, 20, "MailError: no"), dead];
        let (job, _) = applied(&events);
        assert_eq!((job.state, job.reason.as_deref()), (JobState::DeadLettered, Some("max_retries")));
        assert_eq!(job.error.as_deref(), Some("MailError: no"));
        events.push(event(Kind::Started, 60_000));
        let (job, _) = applied(&events);
        assert_eq!((job.state, job.finished_at), (JobState::Started, None));
        events.push(event(Kind::Succeeded, 60_500));
        let (job, _) = applied(&events);
        assert_eq!((job.state, job.attempts.len()), (JobState::Success, 2));
    }
}
