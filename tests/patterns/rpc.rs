//! Request and reply over plain messages.

use std::time::{Duration, Instant};

use mq_worker::{Context, Payload, TaskError, Topology, task};
use support::places::{Running, consumed, everywhere};

use super::app_with_tasks;

#[task(topic = "#", max_retries = 1, backoff = "1ms..2ms")]
fn rpc_fib(ctx: &Context, n: u64) -> Result<u64, TaskError> {
    match n {
        _ if ctx.retries() > 0 => Ok(0),
        90.. => Err(TaskError::reject(format!("{n} is too large"))),
        89 => Err(TaskError::failed("tried again, and answered then")),
        _ => Ok((0..n).fold((0, 1), |(a, b), _| (b, a + b)).0),
    }
}

#[task(topic = "#")]
fn rpc_greet(name: String) -> String {
    format!("hello, {name}")
}

#[test]
fn a_task_replies_to_every_caller() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["rpc_fib"], |_| {});
        let running = Running::start(app.clone(), Default::default());
        consumed(&app, &place.queue, 1).await;
        let queue = place.queue.as_str();
        let answer = app.rpc(queue, "30").await.expect("an answer");
        assert_eq!(answer.text().expect("text"), "832040", "{}", place.name);
        // Concurrent replies reach the right callers.
        let questions = (0..50).map(|n: u64| {
            let app = app.clone();
            async move {
                let question = Payload::json(&n).expect("JSON");
                (n, app.rpc(queue, question).await.expect("an answer").decode::<u64>().expect("a number"))
            }
        });
        let answers = futures_util::future::join_all(questions).await;
        for (n, answer) in answers {
            assert_eq!(answer, rpc_fib_of(n), "{}", place.name);
        }
        assert_eq!(
            app.rpc(queue, "89").await.expect("an answer").text().expect("text"),
            "0",
            "after a retry"
        );
        running.stop().await;
    });
}

fn rpc_fib_of(n: u64) -> u64 {
    (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
}

#[test]
fn a_text_is_answered_with_a_text_and_json_with_json() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["rpc_greet"], |_| {});
        let running = Running::start(app.clone(), Default::default());
        consumed(&app, &place.queue, 1).await;
        let text = app.rpc(&place.queue, "Ada").await.expect("an answer");
        assert_eq!(
            (text.content_type(), text.text().expect("text")),
            ("text/plain", "hello, Ada"),
            "{}",
            place.name
        );
        let json = app.rpc(&place.queue, Payload::json("Ada").expect("JSON")).await.expect("an answer");
        assert_eq!(json.content_type(), "application/json");
        assert_eq!(json.decode::<String>().expect("a text"), "hello, Ada", "{}", place.name);
        running.stop().await;
    });
}

#[test]
fn a_task_that_fails_says_so_instead_of_silence() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["rpc_fib"], |_| {});
        let running = Running::start(app.clone(), Default::default());
        consumed(&app, &place.queue, 1).await;
        let error = app.rpc(&place.queue, "90").await.expect_err("it fails");
        assert_eq!(error.task_failure().expect("a failure").message, "90 is too large", "{}", place.name);
        let error = app.rpc(&place.queue, "ninety").await.expect_err("it is no number");
        assert!(error.task_failure().is_some_and(|failure| failure.kind == "TypeError"), "{error}");
        running.stop().await;
    });
}

#[test]
fn a_request_without_a_responder_fails() {
    everywhere(async |place| {
        let app = place.app();
        let error = app.rpc(&place.queue, "30").await.expect_err("there is no such queue");
        assert!(error.is_unroutable(), "{}: {error}", place.name);
        app.declare(&Topology::new().queue(place.queue.as_str())).await.expect("declared");
        let begun = Instant::now();
        let limit = Duration::from_millis(200);
        let error = app.rpc(&place.queue, "30").timeout(limit).await.expect_err("nobody serves it");
        assert!(error.is_timeout() && error.to_string().contains(&place.queue), "{}: {error}", place.name);
        assert!(begun.elapsed() >= limit && begun.elapsed() < Duration::from_secs(5));
    });
}
