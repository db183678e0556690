//! The states of a call while it runs, and the results of many calls together.

use std::time::Duration;

use mq_worker::{App, AsyncResult, Context, Progress, ResultSet, SharedState, State, TaskError, task};
use serde_json::json;
use support::places::{Place, Running, everywhere};
use support::{unique, within};
use tokio::sync::Semaphore;

const LIMIT: Duration = Duration::from_secs(40);

/// Releases a task step by step.
struct Gate(Semaphore);

impl Gate {
    async fn pass(&self) {
        self.0.acquire().await.expect("never closed").forget();
    }
}

#[task(name = "results.staged", track_started, max_retries = 1)]
async fn staged(ctx: &Context) -> Result<u32, TaskError> {
    let gate = ctx.state::<Gate>();
    gate.pass().await;
    if ctx.retries() == 0 {
        return Err(TaskError::retry_in(Duration::from_secs(1), "busy"));
    }
    for n in 1..=2 {
        ctx.progress(n, 2, format!("step {n}"));
        gate.pass().await;
    }
    ctx.set_state("UPLOADING", json!({ "to": "archive" }))?;
    gate.pass().await;
    Ok(7)
}

/// A plain function, on a thread.
#[task(name = "results.plain", time_limit = "30s")]
fn plain(ctx: &Context, steps: u64) -> u64 {
    for n in 1..=steps {
        ctx.progress(n, steps, "");
        std::thread::sleep(Duration::from_millis(1));
    }
    steps
}

#[task(name = "results.add")]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(name = "results.after")]
async fn after(millis: u64) -> Result<u64, TaskError> {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    if millis == 13 { Err(TaskError::reject("unlucky")) } else { Ok(millis) }
}

#[task(name = "results.parent")]
async fn parent(ctx: &Context) -> Result<Vec<String>, TaskError> {
    let app = ctx.state::<App>();
    let mut ids = Vec::new();
    for n in 0..2 {
        ids.push(app.send(add.with(n, n).queue(ctx.queue())).await?.id().to_owned());
    }
    Ok(ids)
}

struct Lab {
    app: App,
    place: Place,
    state: SharedState,
    running: Running,
}

impl Lab {
    fn new(place: Place) -> Self {
        let app = place.app_with(|config| config.worker.hostname = Some("states@here".into()));
        let mut state = SharedState::default();
        state.insert(Gate(Semaphore::new(0)));
        state.insert(app.clone());
        let running = Running::start(app.clone(), state.clone());
        Self { app, place, state, running }
    }

    fn open_gate(&self) {
        self.state.get::<Gate>().expect("inserted").0.add_permits(1);
    }
}

#[test]
fn each_state_of_a_call_is_seen_as_it_happens() {
    everywhere(async |place| {
        let lab = Lab::new(place);
        let job = lab.app.send(staged.with().queue(&lab.place.queue)).await.expect("sent");
        let mut updates = job.updates();
        let mut next = async || {
            within("an update", LIMIT, updates.next())
                .await
                .map(|update| update.expect("the backend answers"))
        };

        let started = next().await.expect("it runs");
        assert_eq!((started.state(), started.attempts()), (&State::Started, Some(1)));
        assert_eq!(started.worker().as_deref(), Some("states@here"));
        assert!(started.started_at().is_some() && started.date_done().is_none());
        assert_eq!(job.state().await.expect("known"), State::Started);

        lab.open_gate();
        let retry = next().await.expect("it is retried");
        assert_eq!((retry.state(), retry.attempts()), (&State::Retry, Some(1)));
        assert_eq!(retry.failure().expect("why").message, "busy");
        let wait = retry.retry_at().expect("when") - chrono::Utc::now();
        assert!(wait.num_milliseconds() <= 1000, "{wait}");

        let again = next().await.expect("it runs again");
        assert_eq!((again.state(), again.attempts()), (&State::Started, Some(2)));
        lab.open_gate();
        for n in 1..=2 {
            let info = next().await.expect("progress");
            assert_eq!(info.progress(), Some(Progress::new(n, 2, format!("step {n}"))));
            assert_eq!(info.state().as_str(), "PROGRESS");
            lab.open_gate();
        }
        let uploading = next().await.expect("a state of its own");
        assert_eq!(
            (uploading.state().as_str(), uploading.value()),
            ("UPLOADING", Some(json!({ "to": "archive" })))
        );
        lab.open_gate();
        let done = next().await.expect("the end");
        assert_eq!((done.state(), done.value(), done.attempts()), (&State::Success, Some(json!(7)), Some(2)));
        assert!(done.date_done().is_some());
        assert!(next().await.is_none(), "nothing follows");

        drop(updates);
        // Dropping the handle does not drop the result.
        let id = job.id().to_owned();
        drop(job);
        let job: AsyncResult<u32> = lab.app.result(&id).await.expect("a handle");
        assert_eq!(job.get().timeout(LIMIT).await.expect("a result"), 7);
        let wrong: AsyncResult<String> = lab.app.result(&id).await.expect("a handle");
        let error = wrong.get().timeout(LIMIT).await.expect_err("it is a number");
        assert!(
            error.to_string().ends_with("of the expected type `alloc::string::String`: it is a number"),
            "{error}"
        );
        job.forget().await.expect("it is deleted");
        let job: AsyncResult<u32> = lab.app.result(&id).await.expect("a handle");
        assert_eq!(job.info().await.expect("an answer").state(), &State::Pending);
        lab.running.stop().await;
    });
}

#[test]
fn a_plain_function_reports_its_progress_and_the_last_report_comes_before_the_end() {
    everywhere(async |place| {
        let lab = Lab::new(place);
        let job = lab.app.send(plain.with(1000).queue(&lab.place.queue)).await.expect("sent");
        let mut seen = Vec::new();
        let mut progress = job.progress();
        while let Some(one) = within("progress", LIMIT, progress.next()).await {
            seen.push(one.expect("the backend answers").current);
        }
        assert!(seen.is_sorted() && (2..50).contains(&seen.len()), "{seen:?}");
        assert_eq!(job.get().timeout(LIMIT).await.expect("a result"), 1000);
        lab.running.stop().await;
    });
}

#[test]
fn results_are_joined_in_order_and_streamed_as_they_come() {
    everywhere(async |place| {
        let lab = Lab::new(place);
        let call = |millis| after.with(millis).queue(&lab.place.queue);
        let results = lab.app.send_many([call(900), call(10), call(400)]).await.expect("sent");
        let mut order = Vec::new();
        let mut stream = results.stream();
        while let Some(done) = within("a result", LIMIT, stream.next()).await {
            let (index, value) = done.expect("the backend answers");
            order.push((index, value.expect("a value")));
        }
        assert_eq!(order, [(1, 10), (2, 400), (0, 900)]);
        assert_eq!(results.join().timeout(LIMIT).await.expect("all"), [900, 10, 400]);

        let results: ResultSet<u64> = lab.app.send_many([call(1), call(13)]).await.expect("sent");
        let error = results.join().timeout(LIMIT).await.expect_err("one fails");
        assert_eq!(error.task_failure().expect("a failure").message, "unlucky");
        let slow = lab.app.send_many([call(60_000)]).await.expect("sent");
        let error = slow.join().timeout(Duration::from_millis(50)).await.expect_err("it is slow");
        assert!(error.is_timeout() && error.to_string().contains("not all results of 1 tasks"), "{error}");
        slow[0].terminate().await.expect("revoked");
        lab.running.stop().await;
    });
}

#[test]
fn a_call_knows_its_children_and_a_revoked_one_says_why() {
    everywhere(async |place| {
        let lab = Lab::new(place);
        let job = lab.app.send(parent.with().queue(&lab.place.queue)).await.expect("sent");
        let ids = job.get().timeout(LIMIT).await.expect("a result");
        let info = job.info().await.expect("known");
        assert_eq!((info.children(), info.id()), (&*ids, job.id()));

        let later = add.with(1, 1).queue(&lab.place.queue).countdown(Duration::from_secs(1));
        let job = lab.app.send(later).await.expect("sent");
        job.revoke().await.expect("revoked");
        assert!(job.get().timeout(LIMIT).await.expect_err("it is not run").is_revoked());
        let info = job.info().await.expect("known");
        assert_eq!(
            (info.state(), info.failure().expect("why").message.as_str()),
            (&State::Revoked, "revoked")
        );
        lab.running.stop().await;
    });
}

#[test]
fn an_unknown_call_differs_from_a_waiting_one_where_the_broker_can_tell() {
    everywhere(async |place| {
        let (app, is_rabbitmq) = (place.app(), place.name.starts_with("rabbitmq"));
        let known = async |id: &str| {
            let job: AsyncResult<i64> = app.result(id).await.expect("a handle");
            job.is_known().await.expect("an answer")
        };
        let told = |known: bool| if is_rabbitmq { None } else { Some(known) };
        let waits = app.send(add.with(1, 2).queue(&place.queue)).await.expect("sent");
        let later = app.send(add.with(1, 2).queue(&place.queue).countdown(LIMIT)).await.expect("sent");
        assert_eq!((known(waits.id()).await, known(later.id()).await), (told(true), told(true)));
        assert_eq!(known(&unique("stranger")).await, told(false));
        let running = Running::start(app.clone(), SharedState::default());
        assert_eq!(waits.get().timeout(LIMIT).await.expect("a result"), 3);
        assert_eq!(waits.is_known().await.expect("an answer"), Some(true), "it has a result");
        running.stop().await;
    });
}

#[test]
fn an_id_that_rpc_does_not_know_names_the_setting_that_helps() {
    everywhere(async |place| {
        let (app, is_rabbitmq) = (place.app(), place.name.starts_with("rabbitmq"));
        let job: AsyncResult<u32> = app.result(unique("stranger")).await.expect("a handle");
        match job.get().timeout(Duration::from_millis(200)).await.expect_err("nobody has sent it") {
            error if is_rabbitmq => {
                assert!(error.is_unsupported(), "{error:?}");
                assert!(error.to_string().contains("`result_backend = \"redis://"), "{error}");
            }
            error => assert!(error.is_timeout(), "{error:?}"),
        }
    });
}
