//! Transient publish/subscribe: every running worker gets a copy, and nothing is stored for others.

use std::sync::Mutex;

use mq_worker::{App, Context, Emitted, TaskError, task};
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};
use support::unique;

use super::{app_with_tasks, waiting};

#[task(broadcast, ignore_result)]
fn cache_clear(ctx: &Context, key: String) {
    ctx.state::<Journal>().write(&key, ctx.id());
}

#[task(broadcast, max_retries = 1, backoff = "1ms..2ms")]
fn cache_broken(ctx: &Context, key: String) -> Result<(), TaskError> {
    ctx.state::<Journal>().write(&key, format!("{} {}", ctx.queue(), ctx.retries()));
    Err(TaskError::failed("no cache"))
}

/// Sees events while it runs, and misses them otherwise: a live view.
#[task(broadcast, topic = "news.#", ignore_result)]
fn news_live(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("news", line);
}

/// Three workers, each with a journal of its own.
async fn three(place: &Place, app: &App) -> Vec<(Running, Journal)> {
    let start = |_| {
        let journal = Journal::default();
        (Running::start(app.clone(), journal.shared()), journal)
    };
    let workers = (0..3).map(start).collect();
    consumed(app, &place.queue, 3).await;
    workers
}

#[test]
fn a_broadcast_runs_once_on_every_running_worker() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &[], |_| {});
        let workers = three(&place, &app).await;
        let key = unique("broadcast");
        let job = app.send(cache_clear.with(&key)).await.expect("sent");
        for (_, journal) in &workers {
            eventually("every worker ran it", async || journal.read(&key) == [job.id()]).await;
        }
        // A stopped worker gets no more broadcasts, the others do.
        let mut workers = workers.into_iter();
        let (stopped, silent) = workers.next().expect("three workers");
        stopped.stop().await;
        let again = app.send(cache_clear.with(&key)).await.expect("sent");
        for (running, journal) in workers {
            eventually("the others ran it", async || journal.read(&key) == [job.id(), again.id()]).await;
            running.stop().await;
        }
        assert_eq!(silent.read(&key), [job.id()], "{}", place.name);
    });
}

#[test]
fn a_broken_broadcast_leaves_its_dead_letters_in_one_queue_that_stays() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &[], |_| {});
        let workers = three(&place, &app).await;
        let key = unique("broken");
        let job = app.send(cache_broken.with(&key)).await.expect("sent");
        let mut own = Vec::new();
        for (_, journal) in &workers {
            eventually("each worker tries it twice", async || journal.read(&key).len() == 2).await;
            let lines = journal.read(&key);
            let queues: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(queues[0], queues[1], "{}: a retry stays with its worker", place.name);
            own.push(queues[0].to_owned());
        }
        let dead = "cache_broken.broadcast.dead";
        eventually("three dead letters", async || waiting(&app, dead).await.is_some_and(|count| count >= 3))
            .await;
        for (running, _) in workers {
            running.stop().await;
        }
        // The dead letters outlast the workers. Workers of other tests got the broadcast too and inspect the queue from time
        // to time, which leaves it empty for a moment.
        let broker = app.broker().await.expect("a broker");
        let left = Mutex::new(Vec::new());
        eventually("three dead letters are left", async || {
            while let Some(delivery) = broker.get(dead).await.expect("an answer") {
                let headers = &delivery.message.headers;
                let queue = headers.get_str("mq-dead-queue").unwrap_or_default().to_owned();
                if headers.id() == Some(job.id()) && own.contains(&queue) {
                    left.lock().expect("not poisoned").push(queue);
                }
                delivery.ack();
            }
            left.lock().expect("not poisoned").len() >= own.len()
        })
        .await;
        let mut left = left.into_inner().expect("not poisoned");
        left.sort();
        own.sort();
        assert_eq!(left, own, "{}", place.name);
        if broker.capabilities().lists_queues && !place.name.starts_with("rabbitmq") {
            let all = broker.queues(&[]).await.expect("an answer");
            let ours = |name: &str| own.iter().any(|queue| name.starts_with(queue));
            let found: Vec<_> = all.iter().filter(|queue| ours(&queue.name)).collect();
            assert!(found.is_empty(), "{}: {found:?}", place.name);
        }
    });
}

#[test]
fn a_live_view_of_a_topic_gets_what_is_said_while_it_runs() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &[], |_| {});
        assert_eq!(
            app.emit("news.eu.rain", "unheard").await.expect("emitted"),
            Emitted::Unrouted,
            "{}",
            place.name
        );
        let workers = three(&place, &app).await;
        assert_eq!(app.emit("news.eu.rain", "heard").await.expect("emitted"), Emitted::Queued);
        assert_eq!(app.emit("weather.eu", "no news").await.expect("emitted"), Emitted::Unrouted);
        for (running, journal) in workers {
            eventually("every worker saw it", async || !journal.read("news").is_empty()).await;
            running.stop().await;
            assert_eq!(journal.read("news"), ["heard"], "{}", place.name);
        }
    });
}
