//! Values arrive as they were sent, or the call is an error; the same goes for extreme times and durations.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mq_worker::broker::Publication;
use mq_worker::message::{Headers, Message, Properties};
use mq_worker::{App, Context, Payload, SendOptions, SharedState, State, TaskError, task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::places::{Place, Running, eventually, everywhere};
use support::unique;

const WAIT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Reading {
    value: Option<f64>,
    series: Vec<f32>,
    by_name: BTreeMap<String, (f64, Option<Box<Reading>>)>,
}

#[task(name = "values.measure")]
async fn measure(reading: Reading) -> usize {
    reading.series.len()
}

#[task(name = "values.divide", max_retries = 0)]
async fn divide(a: f64, b: f64) -> Vec<Option<f64>> {
    vec![Some(a / b)]
}

#[task(name = "values.large")]
async fn large(ctx: &Context, a: u128, b: i128, c: u64) -> (u128, i128, u64, String) {
    (a, b, c, ctx.headers().get("big").map_or_else(String::new, ToString::to_string))
}

#[task(name = "values.double")]
async fn double(number: u128) -> u128 {
    number * 2
}

#[task(name = "values.patient")]
async fn patient(ctx: &Context) -> Result<u32, TaskError> {
    if ctx.retries() == 0 { Err(TaskError::retry_in(Duration::MAX, "not in this world")) } else { Ok(1) }
}

async fn waiting(app: &App, place: &Place) -> u64 {
    let broker = app.broker().await.expect("a broker");
    let queues = broker.queues(std::slice::from_ref(&place.queue)).await.expect("an answer");
    queues.first().map_or(0, |queue| queue.ready)
}

#[test]
fn a_number_that_is_not_finite_is_not_sent() {
    everywhere(async |place| {
        let app = place.app();
        app.send(measure.with(Reading::default()).queue(&place.queue).ignore_result())
            .await
            .expect("it is finite");
        let inner = Reading { series: vec![1.0, f32::NEG_INFINITY], ..Reading::default() };
        for reading in [
            Reading { value: Some(f64::NAN), ..Reading::default() },
            Reading { series: vec![f32::NAN], ..Reading::default() },
            Reading { by_name: [("a".into(), (f64::INFINITY, None))].into(), ..Reading::default() },
            Reading { by_name: [("a".into(), (0.0, Some(Box::new(inner))))].into(), ..Reading::default() },
        ] {
            let error =
                app.send(measure.with(reading.clone()).queue(&place.queue)).await.expect_err("not finite");
            let text = format!("{error:#}");
            assert!(text.contains("values.measure") && text.contains("JSON cannot express"), "{text}");
            let error = Payload::json(&reading).expect_err("not finite");
            assert!(format!("{error:#}").contains("JSON cannot express"), "{error:#}");
            app.emit("values.measured", &reading).await.expect_err("not finite");
        }
        let call = measure.with(Reading::default()).queue(&place.queue).header("ratio", vec![Some(f64::NAN)]);
        let text = format!("{:#}", app.send(call).await.expect_err("not finite"));
        assert!(text.contains("header `ratio`") && text.contains("NaN"), "{text}");
        let options = || SendOptions { queue: Some(place.queue.clone()), ..SendOptions::default() };
        app.send_task("values.measure", &(f64::NAN,), options()).await.expect_err("not finite");
        app.send_task("values.measure", &7, options()).await.expect_err("no list");
        app.send_call::<()>("values.measure", &(), &json!([7]), options()).await.expect_err("no object");
        assert_eq!(waiting(&app, &place).await, 1, "only what was sent: {}", place.name);
    });
}

#[test]
fn a_result_that_is_not_finite_is_a_failure_that_says_so() {
    everywhere(async |place| {
        let app = place.app();
        let running = Running::start(app.clone(), SharedState::default());
        let job = app.send(divide.with(0.0, 0.0).queue(&place.queue)).await.expect("sent");
        let error = job.get().timeout(WAIT).await.expect_err("it is no number");
        let failure = error.task_failure().expect("a failure").message.clone();
        assert!(failure.contains("the number is NaN"), "{failure}");
        let job = app.send(divide.with(1.0, 2.0).queue(&place.queue)).await.expect("sent");
        assert_eq!(job.get().timeout(WAIT).await.expect("a result"), [Some(0.5)]);
        let summary = running.stop().await;
        assert_eq!((summary.succeeded, summary.failed), (1, 1), "{}", place.name);
    });
}

#[test]
fn large_integers_arrive_exactly_or_are_not_sent() {
    everywhere(async |place| {
        let app = place.app();
        let running = Running::start(app.clone(), SharedState::default());
        let call = || large.with(u128::MAX, i128::MIN, u64::MAX).queue(&place.queue);
        let job = app.send(call().header("big", i64::MAX)).await.expect("sent");
        let result = job.get().timeout(WAIT).await.expect("a result");
        assert_eq!(result, (u128::MAX, i128::MIN, u64::MAX, i64::MAX.to_string()), "{}", place.name);
        // AMQP has no type for it.
        match app.send(call().header("big", u64::MAX)).await {
            Ok(job) => assert_eq!(job.get().timeout(WAIT).await.expect("a result").3, u64::MAX.to_string()),
            Err(error) => {
                let text = format!("{error:#}");
                assert!(place.name.starts_with("rabbitmq") && text.contains("header `big`"), "{text}");
            }
        }
        assert!(app.send(call().header("big", u128::MAX)).await.is_err());
        // Through the steps of a chain.
        let last = unique("last");
        let backend = app.backend().await.expect("a backend");
        let reply_to = backend.expect(&last).await.expect("an answer");
        let big = 1_u128 << 64;
        let step = |id: &str, follows: &str| {
            format!(
                r#"{{"task":"values.double","args":[],"kwargs":{{}},"subtask_type":null,"immutable":false,
                    "options":{{"task_id":"{id}","queue":"{}"{follows}}}}}"#,
                place.queue
            )
        };
        let body =
            format!("[[{big}],{{}},{{\"chain\":[{},{}]}}]", step(&last, ""), step(&unique("step"), ""));
        let properties =
            Properties { content_type: Some("application/json".into()), reply_to, ..Properties::default() };
        let message =
            Message { properties, headers: Headers::for_task("values.double", "first"), body: body.into() };
        let publication = Publication {
            routing_key: place.queue.clone(),
            message,
            mandatory: true,
            ..Publication::default()
        };
        app.broker().await.expect("a broker").publish(publication).await.expect("published");
        let job = app.result::<u128>(last).await.expect("a handle");
        assert_eq!(job.get().timeout(WAIT).await.expect("a result"), big * 8, "{}", place.name);
        running.stop().await;
    });
}

#[test]
fn endless_time_limits_are_no_limits_and_endless_delays_are_refused() {
    everywhere(async |place| {
        let app = place.app_with(|config| {
            config.result_expires = Duration::from_secs(100 * 365 * 24 * 3600);
            config.publish_timeout = Duration::MAX;
            config.worker.grace = Duration::MAX;
            config.worker.health = Some(([127, 0, 0, 1], 0).into());
            config.worker.health_stall_limit = Duration::MAX;
            config.worker.health_connection_limit = Duration::MAX;
        });
        let running = Running::start(app.clone(), SharedState::default());
        for limit in [Duration::MAX, Duration::from_secs(9000 * 365 * 24 * 3600)] {
            let call = divide.with(1.0, 2.0).queue(&place.queue).expires(limit).time_limit(limit);
            let job = app.send(call).await.expect("sent");
            assert_eq!(job.get().timeout(WAIT).await.expect("a result"), [Some(0.5)], "{}", place.name);
        }
        let call = divide.with(1.0, 2.0).queue(&place.queue).eta(DateTime::<Utc>::MIN_UTC);
        let job = app.send(call.time_limit(Duration::ZERO)).await.expect("sent");
        assert_eq!(job.get().timeout(Duration::MAX).await.expect("a result"), [Some(0.5)]);
        for call in [
            divide.with(1.0, 2.0).queue(&place.queue).countdown(Duration::MAX),
            divide.with(1.0, 2.0).queue(&place.queue).eta(DateTime::<Utc>::MAX_UTC),
        ] {
            assert!(app.send(call).await.is_err(), "{}", place.name);
        }
        // A retry with an endless delay waits as long as the broker can.
        let job = app.send(patient.with().queue(&place.queue)).await.expect("sent");
        eventually("it waits", async || job.state().await.expect("a state") == State::Retry).await;
        let summary = running.stop().await;
        assert_eq!((summary.retried, summary.failed), (1, 0), "{}", place.name);
    });
}
