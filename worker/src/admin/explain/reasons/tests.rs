use chrono::TimeDelta;

use super::super::facts::{DeadFacts, QueueFacts, ResultFacts, RunningFacts, WaitingFacts};
use super::*;
use crate::app::Pause;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

fn job(state: JobState) -> Job {
    Job {
        queue: Some("mail".into()),
        worker: Some("w@h".into()),
        ..Job::sample("a", state, now() - TimeDelta::seconds(60))
    }
}

fn worker(tasks: &[&str]) -> WorkerFacts {
    WorkerFacts {
        name: "w@h".into(),
        queues: vec!["mail".into()],
        tasks: tasks.iter().map(|name| (*name).to_owned()).collect(),
        running: Some(1),
        slots: Some(2),
        is_stopping: false,
    }
}

/// A call of `send` that waits in the queue `mail`, which a worker consumes from.
fn facts() -> Facts {
    Facts {
        id: "a".into(),
        task: Some("send".into()),
        queue: Some(QueueFacts { name: "mail".into(), ready: Some(1) }),
        waiting: Some(WaitingFacts { queue: "mail".into(), ahead: 0, until: None }),
        workers: Some(vec![worker(&["send"])]),
        ..Facts::default()
    }
}

/// The names of the reasons.
fn names(facts: &Facts) -> Vec<String> {
    let name = |reason: &Reason| {
        let value = serde_json::to_value(reason).expect("JSON");
        value["reason"].as_str().expect("a name").to_owned()
    };
    explain(facts, now()).iter().map(name).collect()
}

#[test]
fn every_reason_is_found() {
    let revoked = Facts { is_revoked: true, ..facts() };
    let gone = |job| Facts { waiting: None, job: Some(job), ..facts() };
    let full = WorkerFacts { running: Some(2), ..worker(&[]) };
    let elsewhere = WorkerFacts { queues: vec!["sms".into()], ..worker(&[]) };
    let stopping = WorkerFacts { is_stopping: true, ..worker(&[]) };
    let dead = DeadFacts { queue: "mail.dead".into(), ..DeadFacts::default() };
    let running = RunningFacts { worker: "w@h".into(), since: None };
    let result = |state| Some(ResultFacts { state, error: None, done_at: None });
    let later = WaitingFacts { queue: "mail".into(), ahead: 0, until: Some(now() + TimeDelta::hours(1)) };
    let behind = WaitingFacts { queue: "mail".into(), ahead: 3, until: None };
    for (what, facts, expected) in [
        ("nothing in its way", facts(), vec!["next"]),
        ("unknown", Facts { id: "a".into(), ..Facts::default() }, vec!["unknown"]),
        ("running", Facts { running: Some(running), ..facts() }, vec!["running"]),
        ("revoked and waiting", revoked, vec!["revoked"]),
        ("no worker at all", Facts { workers: Some(vec![]), ..facts() }, vec!["no_worker_for_queue"]),
        ("none was asked", Facts { workers: None, ..facts() }, vec!["next"]),
        ("another queue", Facts { workers: Some(vec![elsewhere]), ..facts() }, vec!["no_worker_for_queue"]),
        ("a stopping one", Facts { workers: Some(vec![stopping]), ..facts() }, vec!["no_worker_for_queue"]),
        (
            "another task",
            Facts { workers: Some(vec![worker(&["other"])]), ..facts() },
            vec!["no_worker_for_task"],
        ),
        ("all slots taken", Facts { workers: Some(vec![full]), ..facts() }, vec!["no_free_slot"]),
        ("behind others", Facts { waiting: Some(behind), ..facts() }, vec!["behind_others"]),
        ("delayed", Facts { waiting: Some(later), ..facts() }, vec!["waits_until"]),
        (
            "paused, so that no worker consumes",
            Facts { queue_pause: Some(Pause::queue("mail")), workers: Some(vec![]), ..facts() },
            vec!["queue_paused"],
        ),
        (
            "its task is paused",
            Facts { task_pause: Some(Pause::task("send")), ..facts() },
            vec!["task_paused"],
        ),
        ("locked", Facts { lock_holder: Some("b".into()), ..facts() }, vec!["lock_held"]),
        (
            "its queue was deleted",
            Facts {
                queue: Some(QueueFacts { name: "mail".into(), ready: None }),
                ..gone(job(JobState::Pending))
            },
            vec!["no_queue"],
        ),
        ("dead", Facts { dead: Some(dead), ..gone(job(JobState::DeadLettered)) }, vec!["dead_lettered"]),
        ("succeeded", gone(job(JobState::Success)), vec!["succeeded"]),
        (
            "succeeded, says the backend",
            Facts { result: result(State::Success), ..gone(job(JobState::Started)) },
            vec!["succeeded"],
        ),
        ("failed", gone(job(JobState::Failure)), vec!["failed"]),
        (
            "done, says the register",
            Facts { is_done: true, ..gone(job(JobState::Pending)) },
            vec!["succeeded"],
        ),
        ("rejected", gone(job(JobState::Rejected)), vec!["rejected"]),
        ("received", gone(job(JobState::Received)), vec!["reserved"]),
        (
            "received by one that is gone",
            Facts { workers: Some(vec![]), ..gone(job(JobState::Received)) },
            vec!["lost_worker", "no_worker_for_queue"],
        ),
        ("started, and not running", gone(job(JobState::Started)), vec!["lost_worker"]),
        ("to be retried", gone(job(JobState::Retry)), vec!["waits_for_retry"]),
        (
            "expired",
            gone(Job { expires: Some(now() - TimeDelta::seconds(1)), ..job(JobState::Pending) }),
            vec!["expired"],
        ),
        (
            "failed alone",
            Facts { is_quarantined: true, ..gone(job(JobState::Failure)) },
            vec!["failed", "quarantined"],
        ),
        // Replayed: the message is newer than the history.
        ("replayed", Facts { job: Some(job(JobState::Failure)), ..facts() }, vec!["next"]),
    ] {
        assert_eq!(names(&facts), expected, "{what}");
    }
}

#[test]
fn reasons_read_as_sentences() {
    let no_worker = Reason::NoWorkerForQueue { queue: "mail".into(), others: vec!["w@h".into()] };
    assert_eq!(
        no_worker.to_string(),
        "no worker consumes from its queue `mail`; those that replied consume from others: w@h"
    );
    assert_eq!(no_worker.remedy("a").as_deref(), Some("mq-worker --queues mail"));
    let paused = Reason::QueuePaused { queue: "mail".into(), until: Some(now()) };
    assert_eq!(paused.to_string(), "its queue `mail` is paused until 2023-11-14 22:13:20Z");
    let dead = Reason::DeadLettered {
        queue: "mail.dead".into(),
        why: Some("max_retries".into()),
        error: Some("MailError: no route".into()),
        at: None,
    };
    assert_eq!(
        dead.to_string(),
        "it is in the dead-letter queue `mail.dead` (max_retries): MailError: no route"
    );
    assert_eq!(dead.remedy("a").as_deref(), Some("mq-worker dead replay mail --id a"));
}
