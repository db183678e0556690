//! Finds current problems, the worst first, by comparing the latest snapshot with an earlier one.

use super::path;
use super::problem::{Problem, Severity};
use super::snapshot::{QueueView, Snapshot};
use crate::control::WorkerInfo;
use crate::show::counted;

/// A worker that has been settling for this many seconds counts as stuck.
const SETTLING: u64 = 30;
/// Ready messages that no worker takes for this many seconds despite free slots count as not consumed.
const NOT_TAKEN: f64 = 60.0;

/// Returns the current problems, compared with some minutes ago.
pub(crate) fn diagnose(now: &Snapshot, earlier: &Snapshot) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |severity, title: String, hint: String, link: Option<String>| {
        problems.push(Problem { severity, title, hint, link });
    };
    if let Some(error) = &now.broker.error {
        let name = now.broker.name;
        if now.broker.away_since.is_some() {
            let title = format!("{name} cannot be reached");
            let hint = format!(
                "{error}. What is shown below is the last that was seen; the page reconnects by itself."
            );
            add(Severity::Error, title, hint, None);
            return problems;
        }
        let hint = format!("{error}. Workers cannot be asked meanwhile.");
        add(Severity::Error, format!("{name} takes no messages"), hint, None);
    }
    if let Some(error) = &now.management_error {
        let title = format!("The management API of {} does not answer", now.broker.name);
        let hint = format!("{error}. Queues that neither configuration nor tasks name are not listed.");
        add(Severity::Warning, title, hint, Some("/broker".into()));
    }
    if let Some(error) = &now.history_error {
        let hint = format!("{error}. Events wait in the broker meanwhile, up to a bound.");
        add(Severity::Error, "The history is not being recorded".into(), hint, None);
    }
    for queue in &now.queues {
        let name = &queue.name;
        let link = || Some(path::queue(name));
        // A paused queue is not consumed, on purpose.
        let is_served = queue.pause.is_none() && !queue.is_dead_letter_queue;
        if is_served && queue.ready > 0 && queue.consumers == 0 {
            let title = format!("No worker consumes from `{name}`");
            let hint =
                format!("{} waiting. Start one: mq-worker --queues {name}", counted(queue.ready, "message"));
            add(Severity::Error, title, hint, link());
        }
        let is_waiting = is_served && queue.ready > 0 && queue.consumers > 0;
        if is_waiting && has_room(now, name) && is_not_taken(now, earlier, queue) {
            let title = format!("Workers with free slots take nothing from `{name}`");
            let hint =
                "Its messages have waited for more than a minute. See the logs of its workers.".to_owned();
            add(Severity::Error, title, hint, link());
        }
        let before = earlier.queue(name).and_then(|queue| queue.dead);
        if let (Some(dead), Some(before)) = (queue.dead, before)
            && dead > before
        {
            let title = format!("Dead letters of `{name}` are growing");
            let hint = format!("{} now.", counted(dead, "dead letter"));
            add(Severity::Warning, title, hint, Some("/dead".into()));
        }
    }
    for worker in &now.workers {
        let info = &worker.info;
        let link = || Some(path::worker(&info.name));
        if info.settling_seconds.is_some_and(|seconds| seconds >= SETTLING) {
            let title = format!("`{}` cannot settle {}", info.name, counted(info.settling, "message"));
            let by = info.settling_waits_for.as_deref().unwrap_or("The broker or the result backend");
            let hint = format!("{by} has not taken their outcome; the log of the worker says why.");
            add(Severity::Error, title, hint, link());
        }
        if info.lost_slots > 0 {
            let title = format!("`{}` has lost {}", info.name, counted(info.lost_slots, "slot"));
            let hint = "Plain functions have passed their time limit and have not returned.".to_owned();
            add(Severity::Warning, title, hint, link());
        }
        if info.queues.is_empty() && !info.stopping {
            let hint = "It is connected and receives no messages.".to_owned();
            add(Severity::Warning, format!("`{}` consumes from no queue", info.name), hint, link());
        }
    }
    // The broker comes first, then queues, then workers.
    problems.sort_by_key(|problem| problem.severity);
    problems
}

/// Whether a worker of a queue has a free slot.
fn has_room(now: &Snapshot, queue: &str) -> bool {
    workers_of(now, queue).any(|info| !info.stopping && info.running < info.concurrency)
}

/// Whether messages have waited for long while none was taken.
fn is_not_taken(now: &Snapshot, earlier: &Snapshot, queue: &QueueView) -> bool {
    if earlier.queue(&queue.name).is_none_or(|before| before.ready == 0) {
        return false;
    }
    if let Some(age) = queue.oldest_seconds {
        return age > NOT_TAKEN;
    }
    // The broker does not report the age of messages: check whether its workers have started any task since.
    let started = |snapshot| -> Option<Vec<(&str, u64)>> {
        workers_of(snapshot, &queue.name).map(|info| Some((info.name.as_str(), info.started?))).collect()
    };
    let passed = (now.at - earlier.at).as_seconds_f64();
    passed > NOT_TAKEN && started(now).is_some_and(|new| Some(new) == started(earlier))
}

fn workers_of<'a>(snapshot: &'a Snapshot, queue: &str) -> impl Iterator<Item = &'a WorkerInfo> {
    let infos = snapshot.workers.iter().map(|worker| &worker.info);
    infos.filter(move |info| info.queues.iter().any(|name| name == queue))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Pause;
    use crate::dashboard::snapshot::{BrokerView, WorkerView};

    fn titles(now: &Snapshot, earlier: &Snapshot) -> Vec<String> {
        diagnose(now, earlier).into_iter().map(|problem| problem.title).collect()
    }

    fn queue(name: &str) -> QueueView {
        QueueView { name: name.into(), ..QueueView::default() }
    }

    #[test]
    fn a_calm_system_has_no_problems() {
        let now = Snapshot {
            queues: vec![QueueView { consumers: 1, ready: 5, ..queue("a") }],
            ..Snapshot::default()
        };
        assert_eq!(titles(&now, &now), Vec::<String>::new());
    }

    #[test]
    fn problems_are_reported() {
        let info = WorkerInfo {
            name: "w@h".into(),
            queues: vec!["b".into()],
            concurrency: Some(4),
            running: Some(1),
            settling: 2,
            settling_seconds: Some(70),
            lost_slots: 1,
            ..WorkerInfo::default()
        };
        let idle = WorkerInfo { name: "idle@h".into(), ..WorkerInfo::default() };
        let dead = |dead| QueueView { dead: Some(dead), ..queue("c") };
        let stuck = QueueView { ready: 3, consumers: 1, oldest_seconds: Some(90.0), ..queue("b") };
        let now = Snapshot {
            queues: vec![QueueView { ready: 1, ..queue("a") }, stuck.clone(), dead(3)],
            workers: [info, idle].map(|info| WorkerView { info, ..WorkerView::default() }).into(),
            ..Snapshot::default()
        };
        let earlier = Snapshot { queues: vec![stuck, dead(2)], ..Snapshot::default() };
        assert_eq!(
            titles(&now, &earlier),
            [
                "No worker consumes from `a`",
                "Workers with free slots take nothing from `b`",
                "`w@h` cannot settle 2 messages",
                "Dead letters of `c` are growing",
                "`w@h` has lost 1 slot",
                "`idle@h` consumes from no queue",
            ]
        );
    }

    /// RabbitMQ does not report the age of messages.
    #[test]
    fn workers_that_have_begun_nothing_for_a_minute_take_nothing() {
        let at = |seconds: i64, ready, started| {
            let info = WorkerInfo {
                name: "w@h".into(),
                queues: vec!["a".into()],
                concurrency: Some(4),
                running: Some(0),
                started: Some(started),
                ..WorkerInfo::default()
            };
            Snapshot {
                at: chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds),
                queues: vec![QueueView { ready, consumers: 1, ..queue("a") }],
                workers: vec![WorkerView { info, ..WorkerView::default() }],
                ..Snapshot::default()
            }
        };
        let expected = ["Workers with free slots take nothing from `a`"];
        assert_eq!(titles(&at(90, 5, 7), &at(0, 5, 7)), expected);
        for (now, earlier) in [
            (at(90, 5, 8), at(0, 5, 7)),
            (at(30, 5, 7), at(0, 5, 7)),
            (at(90, 5, 7), at(0, 0, 7)),
            (at(90, 0, 7), at(0, 5, 7)),
        ] {
            assert_eq!(titles(&now, &earlier), Vec::<String>::new());
        }
    }

    #[test]
    fn dead_letters_wait_for_people_and_an_absent_broker_comes_first() {
        let dead = QueueView { ready: 9, is_dead_letter_queue: true, ..queue("a.dead") };
        let paused = QueueView { ready: 9, pause: Some(Pause::queue("b")), ..queue("b") };
        let now = Snapshot { queues: vec![dead, paused], ..Snapshot::default() };
        assert_eq!(titles(&now, &now), Vec::<String>::new());
        let broker = BrokerView {
            name: "RabbitMQ",
            error: Some("connection refused".into()),
            away_since: Some(Default::default()),
            ..BrokerView::default()
        };
        let away =
            Snapshot { broker, queues: vec![QueueView { ready: 1, ..queue("a") }], ..Snapshot::default() };
        assert_eq!(titles(&away, &now), ["RabbitMQ cannot be reached"]);
    }
}
