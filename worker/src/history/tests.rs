//! The history as its callers see it.

use chrono::{DateTime, TimeDelta, Utc};

use super::*;

async fn history(retention: Retention) -> (tempfile::TempDir, History) {
    let directory = tempfile::tempdir().expect("a directory");
    let history = History::open_with(directory.path().join("history.db"), retention).await.expect("opened");
    (directory, history)
}

fn call(kind: Kind, id: impl Into<String>, at: DateTime<Utc>) -> Occurrence {
    let worker = (kind != Kind::Sent).then(|| "w@h".to_owned());
    Occurrence { worker, ..Occurrence::new(kind, id, at) }
}

fn entries(events: impl IntoIterator<Item = Occurrence>) -> Vec<Entry> {
    events.into_iter().map(|event| Entry::Call(Box::new(event))).collect()
}

/// The events of a call that waits 1 second and runs for half a second.
fn life(id: &str, name: &str, queue: &str, at: DateTime<Utc>, error: Option<&str>) -> Vec<Occurrence> {
    let after = |millis| at + TimeDelta::milliseconds(millis);
    let sent = Occurrence {
        name: Some(name.into()),
        queue: Some(queue.into()),
        args: Some(format!("('{id}', 'ann@example.com')")),
        ..call(Kind::Sent, id, at)
    };
    let end = match error {
        None => Occurrence { result: Some("'ok'".into()), ..call(Kind::Succeeded, id, after(1500)) },
        Some(error) => Occurrence { error: Some(error.into()), ..call(Kind::Failed, id, after(1500)) },
    };
    vec![
        sent,
        call(Kind::Received, id, after(900)),
        call(Kind::Started, id, after(1000)),
        Occurrence { runtime: Some(0.5), ..end },
    ]
}

async fn ids(history: &History, filter: Filter) -> Vec<String> {
    let page = history.jobs(filter, 100, None).await.expect("a page");
    page.jobs.into_iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn everything_is_known_after_a_restart() {
    let (directory, history) = history(Retention::default()).await;
    let at = Utc::now() - TimeDelta::seconds(10);
    history.record(entries(life("a", "add", "math", at, None))).await.expect("recorded");
    let report = WorkerReport {
        name: "w@h".into(),
        at: Utc::now(),
        is_online: true,
        details: WorkerDetails { pid: Some(7), freq: Some(2.0), ..WorkerDetails::default() },
    };
    history.record(vec![Entry::Worker(Box::new(report))]).await.expect("recorded");
    drop(history);
    let history = History::open_existing(directory.path().join("history.db"), Retention::default())
        .await
        .expect("opened");
    let job = history.job("a").await.expect("read").expect("known");
    assert_eq!((job.state, job.result.as_deref()), (JobState::Success, Some("'ok'")));
    assert_eq!((job.name.as_deref(), job.queue.as_deref()), (Some("add"), Some("math")));
    assert_eq!((job.attempts.len(), job.attempts[0].worker.as_deref()), (1, Some("w@h")));
    let workers = history.workers().await.expect("read");
    assert_eq!((workers[0].details.pid, workers[0].is_online), (Some(7), true));
    assert_eq!(history.job("b").await.expect("read"), None);
}

#[tokio::test]
async fn calls_are_found_by_every_condition() {
    let (_directory, history) = history(Retention::default()).await;
    let now = Utc::now();
    let at = |seconds| now - TimeDelta::seconds(seconds);
    let mut events = life("aa1", "mail.send", "mail", at(300), None);
    events.extend(life("aa2", "mail.drop", "mail", at(200), Some("ValueError('bad host')")));
    events.extend(life("bb1", "sms.send", "sms", at(100), None));
    events.push(Occurrence { name: Some("sms.send".into()), ..call(Kind::Sent, "bb2", at(50)) });
    history.record(entries(events)).await.expect("recorded");
    let none = Filter::default;
    let some = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (none(), vec!["bb2", "bb1", "aa2", "aa1"]),
        (Filter { id: some("aa"), ..none() }, vec!["aa2", "aa1"]),
        (Filter { id: some("aa1"), ..none() }, vec!["aa1"]),
        (Filter { name: some("*.send"), ..none() }, vec!["bb2", "bb1", "aa1"]),
        (Filter { name: some("sms.send"), ..none() }, vec!["bb2", "bb1"]),
        (Filter { name: some("nothing"), ..none() }, vec![]),
        (Filter { states: vec![JobState::Failure, JobState::Pending], ..none() }, vec!["bb2", "aa2"]),
        (Filter { queue: some("mail"), ..none() }, vec!["aa2", "aa1"]),
        (Filter { queue: some("nowhere"), ..none() }, vec![]),
        (Filter { worker: some("w@h"), ..none() }, vec!["bb1", "aa2", "aa1"]),
        (Filter { text: some("bad HOST"), ..none() }, vec!["aa2"]),
        (Filter { text: some("ann@example.com"), ..none() }, vec!["bb1", "aa2", "aa1"]),
        (Filter { text: some("bb*"), ..none() }, vec!["bb1"]),
        (Filter { text: some("\" OR *"), ..none() }, vec![]),
        (Filter { from: Some(at(250)), to: Some(at(100)), ..none() }, vec!["aa2"]),
        (
            Filter { queue: some("mail"), states: vec![JobState::Success], text: some("ann"), ..none() },
            vec!["aa1"],
        ),
    ] {
        assert_eq!(ids(&history, filter.clone()).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps() {
    let (_directory, history) = history(Retention::default()).await;
    let at = Utc::now() - TimeDelta::seconds(1);
    // All in the same microsecond.
    let events = (0..250).map(|n| call(Kind::Sent, format!("{n:03}"), at));
    history.record(entries(events)).await.expect("recorded");
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = history.jobs(Filter::default(), 100, cursor).await.expect("a page");
        seen.extend(page.jobs.into_iter().map(|job| job.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, (0..250).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    let parsed: Cursor = "17".parse().expect("a cursor");
    assert_eq!(parsed.to_string(), "17");
    assert!("x".parse::<Cursor>().is_err());
}

#[tokio::test]
async fn counters_count_each_event_once() {
    let (_directory, history) = history(Retention::default()).await;
    let at = Utc::now() - TimeDelta::seconds(90);
    let mut events = life("a", "add", "math", at, None);
    events.extend(life("b", "add", "math", at, Some("E()")));
    events.extend(life("c", "mul", "other", at, None));
    for _ in 0..3 {
        history.record(entries(events.clone())).await.expect("recorded");
    }
    let minutes = |n: u64| std::time::Duration::from_secs(n * 60);
    let totals = history.totals(GroupBy::Queue, minutes(10)).await.expect("totals");
    let math = totals.iter().find(|total| total.name == "math").expect("a queue");
    let counts = &math.counts;
    assert_eq!((counts.sent, counts.started, counts.succeeded, counts.failed), (2, 2, 1, 1));
    let about = |found: Option<f64>, expected: f64| (found.unwrap_or(0.0) / expected - 1.0).abs() < 0.2;
    assert!(about(counts.run_p50, 0.5) && about(counts.wait_p95, 1.0), "{counts:?}");
    let query =
        RateQuery { name: Some("mul".into()), window: minutes(10), step: minutes(1), ..RateQuery::default() };
    let points = history.rates(query).await.expect("points");
    assert_eq!(points.len(), 10);
    assert_eq!(points.iter().map(|point| point.counts.succeeded).sum::<u64>(), 1);
    assert!(points.windows(2).all(|pair| pair[1].at - pair[0].at == TimeDelta::minutes(1)));
}

#[tokio::test]
async fn failures_are_grouped() {
    let (_directory, history) = history(Retention::default()).await;
    let at = Utc::now() - TimeDelta::seconds(90);
    let mut events = Vec::new();
    for (id, name, error) in [
        ("a", "mail", "Timeout(1)"),
        ("b", "mail", "Timeout(2)"),
        ("c", "mail", "Lost"),
        ("d", "sms", "Lost"),
    ] {
        events.extend(life(id, name, "q", at, Some(error)));
    }
    history.record(entries(events)).await.expect("recorded");
    let groups = history.failure_groups().await.expect("groups");
    assert_eq!(groups.len(), 3);
    let first = &groups[0];
    assert_eq!(
        (first.name.as_deref(), first.error_kind.as_deref(), first.count),
        (Some("mail"), Some("Timeout"), 2)
    );
    assert_eq!((first.last_id.as_str(), first.last_error.as_deref()), ("b", Some("Timeout(2)")));
}

#[tokio::test]
async fn what_is_too_old_and_too_much_is_forgotten() {
    let keep = std::time::Duration::from_secs(3600);
    let (_directory, history) = history(Retention { keep, max_rows: 5 }).await;
    let now = Utc::now();
    let old = (0..1500).map(|n| call(Kind::Sent, format!("old{n}"), now - TimeDelta::seconds(7200)));
    let new = (0..8).map(|n| call(Kind::Sent, format!("new{n}"), now - TimeDelta::seconds(60 - n)));
    history.record(entries(old.chain(new))).await.expect("recorded");
    while history.forget().await.expect("forgotten") {}
    assert_eq!(ids(&history, Filter::default()).await, ["new7", "new6", "new5", "new4", "new3"]);
    assert_eq!(ids(&history, Filter { id: Some("old".into()), ..Filter::default() }).await, [""; 0]);
}

#[tokio::test]
async fn the_audit_trail_is_kept() {
    let (_directory, history) = history(Retention::default()).await;
    for action in ["purge", "delete"] {
        let entry =
            AuditEntry { at: Utc::now(), who: "ann".into(), action: action.into(), subject: "mail".into() };
        history.audit(entry).await.expect("kept");
    }
    let trail = history.audit_trail(10).await.expect("read");
    assert_eq!(trail.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(), ["delete", "purge"]);
}
