//! The five messaging patterns, on every broker: simple queue, work queue, publish/subscribe, routing, topics; and plain
//! messages of programs that do not know tasks.

mod bad;
mod broadcast;
mod configured;
mod exchanges;
mod plain;
mod rpc;
mod topics;

use mq_worker::{App, Config, RouteRule};
use support::places::Place;

/// A rule that routes the calls and events of a task to the test's own queue.
fn route(task: &str, queue: &str) -> RouteRule {
    RouteRule {
        task: task.into(),
        queue: Some(queue.into()),
        exchange: None,
        routing_key: None,
        priority: None,
    }
}

/// An application that routes these tasks to the place's queue, with its own topic exchange.
fn app_with_tasks(place: &Place, tasks: &[&str], change: impl FnOnce(&mut Config)) -> App {
    place.app_with(|config| {
        config.topic_exchange = format!("{}.topics", place.queue);
        config.routes = tasks.iter().map(|task| route(task, &place.queue)).collect();
        change(config);
    })
}

/// Returns how many messages wait in a queue; `None` if there is no such queue.
async fn waiting(app: &App, queue: &str) -> Option<u64> {
    let broker = app.broker().await.expect("a broker");
    let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
    queues.first().map(|queue| queue.ready)
}
