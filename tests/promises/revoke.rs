//! Revoked calls.

use std::time::Duration;

use mq_worker::broker::Publication;
use mq_worker::message::{Headers, Message, Properties};
use mq_worker::{App, AsyncResult, Context, State, TaskError, task};
use serde_json::json;
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};
use support::unique;

#[task]
async fn noted(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", line);
}

#[task(max_retries = 5)]
async fn failing(ctx: &Context) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("ran", "failing");
    // Long enough to be revoked meanwhile, even on a busy machine.
    Err(TaskError::retry_in(Duration::from_secs(5), "again"))
}

/// Gives up once it is revoked.
#[task(max_retries = 5, backoff = "1ms..2ms")]
async fn listening(ctx: &Context) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("ran", "listening");
    ctx.cancelled().await;
    assert!(ctx.is_revoked());
    ctx.state::<Journal>().write("revoked", ctx.id());
    Err(TaskError::failed("stopped in the middle"))
}

/// Is nearly done when it hears it.
#[task]
async fn finishing(ctx: &Context) -> u32 {
    ctx.state::<Journal>().write("ran", "finishing");
    ctx.cancelled().await;
    7
}

/// Does not listen.
#[task]
async fn oblivious(ctx: &Context) {
    ctx.state::<Journal>().write("ran", "oblivious");
    std::future::pending::<()>().await;
}

async fn is_revoked<T>(job: &AsyncResult<T>) {
    eventually("it is revoked", async || job.state().await.expect("a state") == State::Revoked).await;
}

async fn begun(journal: &Journal, count: usize) {
    eventually("it runs", async || journal.read("ran").len() == count).await;
}

#[test]
fn a_revoked_call_is_not_run_by_a_worker_that_starts_later() {
    everywhere(async |place| {
        let app = place.app();
        let call = |line: &str| noted.with(line).queue(&place.queue);
        let unwanted = app.send(call("unwanted")).await.expect("sent");
        let later = app.send(call("later").countdown(Duration::from_secs(1))).await.expect("sent");
        let wanted = app.send(call("wanted")).await.expect("sent");
        unwanted.revoke().await.expect("revoked");
        // By its id, through another application.
        place.app().revoke(later.id()).await.expect("revoked");
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        wanted.get().timeout(Duration::from_secs(60)).await.expect("it runs");
        is_revoked(&unwanted).await;
        is_revoked(&later).await;
        let error = unwanted.get().timeout(Duration::from_secs(60)).await.expect_err("it was revoked");
        assert!(error.is_revoked(), "{}: {error}", place.name);
        let summary = running.stop().await;
        assert_eq!(journal.read("ran"), ["wanted"], "{}", place.name);
        assert_eq!((summary.revoked, summary.succeeded), (2, 1), "{}", place.name);
        // The next worker also knows that it is revoked.
        let running = Running::start(app.clone(), journal.shared());
        let again = noted.with("again").queue(&place.queue).task_id(unwanted.id());
        app.send(again.ignore_result()).await.expect("sent");
        app.send(call("the last")).await.expect("sent").get().await.expect("it runs");
        running.stop().await;
        assert_eq!(journal.sorted("ran"), ["the last", "wanted"], "{}", place.name);
    });
}

#[test]
fn revoking_a_call_cancels_its_pending_retry() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let job = app.send(failing.with().queue(&place.queue)).await.expect("sent");
        begun(&journal, 1).await;
        job.revoke().await.expect("revoked");
        is_revoked(&job).await;
        running.stop().await;
        assert_eq!(journal.read("ran").len(), 1, "{}", place.name);
    });
}

async fn hears(place: &Place, app: &App) {
    let journal = Journal::default();
    let running = Running::start(app.clone(), journal.shared());
    consumed(app, &place.queue, 1).await;
    let other = app.send(oblivious.with().queue(&place.queue).ignore_result()).await.expect("sent");
    let revoked = app.send(listening.with().queue(&place.queue)).await.expect("sent");
    let late = app.send(finishing.with().queue(&place.queue)).await.expect("sent");
    begun(&journal, 3).await;
    revoked.revoke().await.expect("revoked");
    late.revoke().await.expect("revoked");
    is_revoked(&revoked).await;
    assert_eq!(journal.read("revoked"), [revoked.id()], "{}", place.name);
    // A call that finishes despite the revocation keeps its result.
    let value = late.get().timeout(Duration::from_secs(60)).await.expect("a result");
    assert_eq!((value, late.state().await.expect("a state")), (7, State::Success), "{}", place.name);
    other.terminate().await.expect("terminated");
    let summary = running.stop().await;
    assert_eq!((summary.succeeded, summary.retried, summary.failed), (1, 0, 0), "{}", place.name);
    assert_eq!(journal.read("ran").len(), 3, "{}: no other call was touched or tried again", place.name);
}

#[test]
fn a_running_call_is_notified() {
    everywhere(async |place| {
        let app = place.app();
        app.send(noted.with("the queue is there").queue(&place.queue).ignore_result()).await.expect("sent");
        app.broker().await.expect("a broker").purge(&place.queue).await.expect("purged");
        hears(&place, &app).await;
    });
}

#[test]
fn a_worker_without_remote_control_reads_the_register() {
    everywhere(async |place| {
        let app = place.app_with(|config| config.worker.control = false);
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let job = app.send(listening.with().queue(&place.queue)).await.expect("sent");
        begun(&journal, 1).await;
        job.revoke().await.expect("revoked");
        is_revoked(&job).await;
        running.stop().await;
    });
}

#[test]
fn terminate_stops_a_task_that_ignores_revocation() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let job = app.send(oblivious.with().queue(&place.queue)).await.expect("sent");
        begun(&journal, 1).await;
        job.revoke().await.expect("revoked");
        job.terminate().await.expect("terminated");
        is_revoked(&job).await;
        let summary = running.stop().await;
        assert_eq!((summary.revoked, summary.requeued), (1, 0), "{}", place.name);
    });
}

#[test]
fn a_worker_without_remote_control_reads_the_force() {
    everywhere(async |place| {
        let app = place.app_with(|config| config.worker.control = false);
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let jobs = [(); 2].map(|()| app.send(oblivious.with().queue(&place.queue)));
        let [early, late] = jobs.map(|job| async { job.await.expect("sent") });
        let (early, late) = (early.await, late.await);
        begun(&journal, 2).await;
        // A later revocation without force does not cancel the force, and an earlier one does not prevent it.
        early.terminate().await.expect("terminated");
        early.revoke().await.expect("revoked");
        late.revoke().await.expect("revoked");
        is_revoked(&early).await;
        late.terminate().await.expect("terminated");
        is_revoked(&late).await;
        let summary = running.stop().await;
        assert_eq!((summary.revoked, summary.requeued), (2, 0), "{}", place.name);
    });
}

#[test]
fn terminating_a_finished_call_changes_nothing() {
    everywhere(async |place| {
        let app = place.app();
        let running = Running::start(app.clone(), Journal::default().shared());
        let job = app.send(noted.with("done").queue(&place.queue)).await.expect("sent");
        job.get().timeout(Duration::from_secs(60)).await.expect("a result");
        job.terminate().await.expect("nothing to do is no error");
        assert_eq!(job.state().await.expect("a state"), State::Success, "{}", place.name);
        assert_eq!(running.stop().await.revoked, 0, "{}", place.name);
    });
}

#[test]
fn the_caller_of_a_chain_learns_that_its_first_step_was_revoked() {
    everywhere(async |place| {
        let app = place.app();
        let broker = app.broker().await.expect("a broker");
        let backend = app.backend().await.expect("a backend");
        app.send(noted.with("the queue is there").queue(&place.queue).ignore_result()).await.expect("sent");
        for (name, kind) in [("noted", "waits"), ("oblivious", "runs")] {
            let (first, last) = (unique("first"), unique("last"));
            // A chain as Python sends it; each step's result goes to its caller.
            let reply_to = backend.expect(&last).await.expect("an answer");
            let step = json!({"task": "noted", "args": ["last"], "kwargs": {}, "subtask_type": null,
                              "immutable": true,
                              "options": {"task_id": last, "queue": place.queue, "reply_to": reply_to}});
            let arguments = if name == "noted" { json!(["first"]) } else { json!([]) };
            let message = Message {
                properties: Properties {
                    content_type: Some("application/json".into()),
                    reply_to: backend.expect(&first).await.expect("an answer"),
                    ..Properties::default()
                },
                headers: Headers::for_task(name, &first),
                body: serde_json::to_vec(&json!([arguments, {}, {"chain": [step]}])).expect("JSON").into(),
            };
            let publication = Publication {
                exchange: String::new(),
                routing_key: place.queue.clone(),
                message,
                delay: None,
                mandatory: true,
            };
            broker.publish(publication).await.expect("published");
            let journal = Journal::default();
            let running = if kind == "waits" {
                app.revoke(&first).await.expect("revoked");
                Running::start(app.clone(), journal.shared())
            } else {
                let running = Running::start(app.clone(), journal.shared());
                begun(&journal, 1).await;
                app.terminate(&first).await.expect("terminated");
                running
            };
            let rest = app.result::<()>(last).await.expect("a handle");
            let error = rest.get().timeout(Duration::from_secs(20)).await.expect_err("it is never reached");
            assert!(error.is_revoked(), "{} {kind}: {error}", place.name);
            running.stop().await;
        }
    });
}
