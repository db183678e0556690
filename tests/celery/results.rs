//! Celery and mq-worker see the states and results of each other's calls, through Redis and `rpc://`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use mq_worker::{App, AsyncResult, Context, Language, Progress, SendOptions, State, TaskError, task};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use support::{temp_dir, within};
use uuid::Uuid;

use super::Lab;

const LIMIT: Duration = Duration::from_secs(60);

/// Waits for a file that the other side creates.
async fn gate(directory: &str, name: &str) {
    let path = Path::new(directory).join(name);
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn open_gate(directory: &Path, name: &str) {
    fs::write(directory.join(name), "").expect("a file");
}

#[task(track_started)]
async fn rust_staged(ctx: &Context, directory: String) -> Result<String, TaskError> {
    gate(&directory, "started").await;
    ctx.progress(1, 2, "half");
    gate(&directory, "progress").await;
    ctx.set_state("UPLOADING", json!({ "to": "archive" }))?;
    gate(&directory, "uploading").await;
    Ok("done".into())
}

#[task(max_retries = 1)]
async fn rust_busy(ctx: &Context) -> Result<u32, TaskError> {
    if ctx.retries() == 0 { Err(TaskError::retry_in(Duration::from_secs(2), "busy")) } else { Ok(1) }
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no number")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[task(max_retries = 0)]
async fn rust_chained_error() -> Result<(), TaskError> {
    "x".parse::<i32>().map_err(Outer)?;
    Ok(())
}

#[task(max_retries = 0)]
async fn rust_panics() {
    panic!("boom in rust");
}

#[task(max_retries = 0)]
async fn rust_parent(ctx: &Context) -> Result<u32, TaskError> {
    let app = ctx.state::<App>();
    let options = SendOptions { queue: Some(ctx.queue().to_owned()), ..SendOptions::default() };
    app.send_task("rust_add", &(20, 3), options).await?;
    Ok(7)
}

type Kombu = (DateTime<Utc>, NaiveDateTime, NaiveDate, NaiveTime, Decimal, Uuid, Vec<u8>);

#[task(result_types = "kombu")]
async fn rust_kombu() -> Kombu {
    let day = NaiveDate::from_ymd_opt(2031, 1, 2).expect("a day");
    let naive = day.and_hms_nano_opt(3, 4, 5, 678_999).expect("a time");
    let time = NaiveTime::from_hms_opt(3, 4, 5).expect("a time");
    (naive.and_utc(), naive, day, time, Decimal::new(110, 2), Uuid::from_u128(5), vec![0xff, 0])
}

#[task]
async fn rust_unkombu(
    at: DateTime<Utc>,
    naive: NaiveDateTime,
    day: NaiveDate,
    time: NaiveTime,
    price: Decimal,
    id: Uuid,
    bytes: Vec<u8>,
) -> String {
    format!("{at:?} {naive:?} {day} {time} {price} {id} {bytes:?}")
}

/// Runs the test with results over `rpc://`, and over Redis if the run has it.
async fn on_each_store<F: Future<Output = ()>>(test: impl Fn(Lab) -> F) {
    let redis = support::redis::shared(file!());
    for backend in [Some("rpc://".to_owned()), redis].into_iter().flatten() {
        eprintln!("with results in {backend}");
        let Some(lab) = Lab::with_results_in(&backend) else { return };
        test(lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sees_what_a_rust_task_says_about_itself() {
    on_each_store(async |lab| {
        let running = lab.rust_worker().await;
        let directory = temp_dir();
        let path = directory.path().display().to_string();
        let printed = lab.script("results.py", &["states", &path]).await;
        let lines: Vec<&str> = printed.lines().collect();
        let expected = [
            "STARTED True True",
            "PROGRESS 1 2 50.0 half",
            "UPLOADING {'to': 'archive'}",
            "done SUCCESS True True",
        ];
        assert_eq!(lines, expected, "{printed}");
        // In a separate program: once Celery's client has waited on messages, it sees no states before the final one.
        assert_eq!(lab.script("results.py", &["retry"]).await, "RETRY Retry busy\n1");
        running.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sees_the_whole_error_of_a_rust_task() {
    on_each_store(async |lab| {
        let running = lab.rust_worker().await;
        let printed = lab.script("results.py", &["failures"]).await;
        let parts: Vec<&str> = printed.split("\n--\n").collect();
        assert!(
            parts[0].starts_with("Outer no number: invalid digit found in string FAILURE True\nat "),
            "{printed}"
        );
        assert!(parts[0].contains("celery/results.rs:"), "{printed}");
        assert!(parts[0].ends_with("caused by: invalid digit found in string"), "{printed}");
        assert!(parts[1].starts_with("Panic boom in rust FAILURE True\npanicked at "), "{printed}");
        assert!(parts[1].contains("rust_panics"), "{printed}");
        assert!(parts[2].starts_with("TypeError") && parts[2].contains("`b` is missing"), "{printed}");
        running.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_gets_its_own_types_from_a_rust_task_that_writes_them() {
    on_each_store(async |lab| {
        let running = lab.rust_worker().await;
        let printed = lab.script("results.py", &["kombu"]).await;
        let lines: Vec<&str> = printed.lines().collect();
        let expected = [
            "datetime.datetime(2031, 1, 2, 3, 4, 5, 678, tzinfo=datetime.timezone.utc)",
            "datetime.datetime(2031, 1, 2, 3, 4, 5, 678)",
            "datetime.date(2031, 1, 2)",
            "datetime.time(3, 4, 5)",
            "Decimal('1.10')",
            "UUID('00000000-0000-0000-0000-000000000005')",
            "b'\\xff\\x00'",
            "2031-01-02T03:04:05.000678Z 2031-01-02T03:04:05.000678 2031-01-02 03:04:05 1.10 \
             00000000-0000-0000-0000-000000000005 [255, 0]",
        ];
        assert_eq!(lines, expected, "{printed}");
        let job = lab.app.send(rust_kombu.with().queue(&lab.rust_queue)).await.expect("sent");
        let (at, naive, ..) = job.get().timeout(LIMIT).await.expect("its own");
        assert_eq!((at.naive_utc(), at.timestamp_subsec_micros()), (naive, 678));
        running.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_joins_sets_groups_and_what_failed() {
    on_each_store(async |lab| {
        let running = lab.rust_worker().await;
        let printed = lab.script("results.py", &["set"]).await;
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[0], "[3, 7, 11] True True 3", "{printed}");
        assert_eq!(lines[1], "['2', 'no number: invalid digit found in string'] True", "{printed}");
        assert_eq!(lines[2], "[3, 7]", "{printed}");
        assert_eq!(lines[3], "2 None", "{printed}");
        running.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_a_chord_gets_the_error_that_its_members_do_not_run() {
    // Celery itself refuses chords over `rpc://`.
    let Some(url) = support::redis::shared(file!()) else { return };
    let Some(lab) = Lab::with_results_in(&url) else { return };
    let running = lab.rust_worker().await;
    let printed = lab.script("results.py", &["chord"]).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    for line in lines {
        assert!(line.contains("part of a chord, which this worker does not support"), "{printed}");
        assert!(line.ends_with("FAILURE"), "{printed}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_joins_collects_and_forgets_the_results_of_rust_tasks() {
    let Some(url) = support::redis::shared(file!()) else { return };
    let Some(lab) = Lab::with_results_in(&url) else { return };
    let worker = lab.python_worker().await;
    let running = lab.rust_worker().await;
    let printed = lab.script("results.py", &["sets"]).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(
        lines,
        ["[3, 7, 11]", "[7, 23]", "PENDING", "113", "REVOKED TaskRevokedError revoked"],
        "{printed}"
    );
    running.stop().await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sees_what_a_python_task_says_about_itself() {
    on_each_store(async |lab| {
        let worker = lab.python_worker().await;
        let directory = temp_dir();
        let path = directory.path().display().to_string();
        let job = lab.app.send_task("proj.staged", &(path,), SendOptions::default()).await.expect("sent");
        let mut updates = job.updates();
        let mut next = async || {
            within("an update", LIMIT, updates.next()).await.expect("one more").expect("the backend answers")
        };
        let started = next().await;
        assert_eq!(started.state(), &State::Started);
        assert!(started.worker().is_some_and(|name| name.contains(&lab.python_queue)), "{started:?}");
        open_gate(directory.path(), "started");
        assert_eq!(next().await.progress(), Some(Progress::new(1, 2, "half")));
        open_gate(directory.path(), "progress");
        let uploading = next().await;
        assert_eq!(
            (uploading.state().as_str(), uploading.value()),
            ("UPLOADING", Some(json!({ "to": "archive" })))
        );
        open_gate(directory.path(), "uploading");
        let done = next().await;
        assert_eq!((done.state(), done.value()), (&State::Success, Some(json!("done"))));
        assert!(done.date_done().is_some());
        drop(updates);
        let id = job.id().to_owned();
        drop(job);
        let job: AsyncResult<String> = lab.app.result(id).await.expect("a handle");
        assert_eq!(job.get().timeout(LIMIT).await.expect("a result"), "done");

        let job =
            lab.app.send_task("proj.refuse", &("boom", 42), SendOptions::default()).await.expect("sent");
        let error = job.get().timeout(LIMIT).await.expect_err("it fails");
        let failure = error.task_failure().expect("a failure");
        assert_eq!((failure.language(), &*failure.class()), (Language::Python, "proj.Refused"));
        assert_eq!(*failure.arguments, [Value::from("boom"), Value::from(42)]);
        assert!(failure.traceback.as_deref().is_some_and(|text| text.contains("proj.py")), "{failure:?}");

        let job = lab.app.send_task("proj.parent", &(), SendOptions::default()).await.expect("sent");
        job.get().timeout(LIMIT).await.expect("a result");
        assert_eq!(job.info().await.expect("known").children().len(), 1);
        drop(worker);
    })
    .await;
}

/// A late report never replaces a final state, whichever side wrote it.
#[tokio::test(flavor = "multi_thread")]
async fn a_final_state_that_python_wrote_stays() {
    let Some(url) = support::redis::shared(file!()) else { return };
    let Some(lab) = Lab::with_results_in(&url) else { return };
    let worker = lab.python_worker().await;
    let job = lab.app.send_task("proj.add", &(1, 2), SendOptions::default()).await.expect("sent");
    assert_eq!(job.get().timeout(LIMIT).await.expect("a result"), json!(3));
    let backend = lab.app.backend().await.expect("a backend");
    let late = mq_worker::backend::ResultRecord::new(job.id(), State::Retry);
    backend.store(&late, None).await.expect("it is left out");
    assert_eq!(job.info().await.expect("known").state(), &State::Success);
    drop(worker);
}
