//! `prefetch = "auto"`: deep while tasks are quick, one message per slot while they are slow, without starving other workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mq_worker::control::{Control, Reply};
use mq_worker::{App, Context, Prefetch, SharedState, task};
use serde_json::{Map, Value, json};
use support::places::{Place, Running, eventually, everywhere};
use support::unique;
use tokio::sync::Semaphore;

/// Controls how the calls of one worker run, and counts those that have ended.
struct Pace {
    is_stuck: AtomicBool,
    gate: Semaphore,
    done: AtomicU64,
}

impl Pace {
    fn quick() -> Arc<Self> {
        Arc::new(Self { is_stuck: false.into(), gate: Semaphore::new(0), done: 0.into() })
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn worker(self: &Arc<Self>, app: &App) -> Running {
        let mut state = SharedState::default();
        state.insert(Arc::clone(self));
        Running::start(app.clone(), state)
    }
}

#[task(ignore_result)]
async fn prefetch_paced(ctx: &Context) {
    let pace = ctx.state::<Arc<Pace>>();
    if pace.is_stuck.load(Ordering::Relaxed) {
        pace.gate.acquire().await.expect("never closed").forget();
    } else {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pace.done.fetch_add(1, Ordering::Relaxed);
}

async fn send(app: &App, place: &Place, count: u64) -> u64 {
    let calls = (0..count).map(|_| prefetch_paced.with().queue(&place.queue));
    app.send_many(calls).await.expect("sent");
    count
}

fn worker_of(place: &Place, prefetch: Prefetch) -> (App, String) {
    let name = format!("{}@test", unique("worker"));
    let app = place.app_with(|config| {
        config.worker.hostname = Some(name.clone());
        config.worker.concurrency = 2;
        config.worker.prefetch = prefetch;
    });
    (app, name)
}

async fn ask(control: &Control, method: &str, arguments: Value) -> Value {
    let Value::Object(arguments) = arguments else { panic!("an object") };
    let replies = control.ask(method, arguments).await.expect("replies");
    match &replies[..] {
        [Reply { value, .. }] => value.clone(),
        // It has only just started.
        _ => Value::Null,
    }
}

async fn window(control: &Control) -> Option<u64> {
    ask(control, "stats", Value::Object(Map::new())).await["prefetch_count"].as_u64()
}

#[test]
fn prefetch_grows_with_quick_tasks_and_shrinks_before_slow_ones_starve_others() {
    everywhere(async |place| {
        let (app, name) = worker_of(&place, Prefetch::Auto);
        let control =
            Control::new(place.app().broker().await.expect("a broker")).timeout(Duration::from_secs(5));
        let control = control.to([&name]);
        let pace = Pace::quick();
        let running = pace.worker(&app);
        eventually("it begins with one message a slot", async || window(&control).await == Some(2)).await;
        let mut sent = 0;
        while window(&control).await.expect("an answer") < 8 {
            // Keep it busy without sending far ahead.
            if sent < pace.done() + 400 {
                sent += send(&app, &place, 200).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // At once: a worker that has nothing to do soon reserves less.
        pace.is_stuck.store(true, Ordering::Relaxed);
        sent += send(&app, &place, 40).await;
        let stats = ask(&control, "stats", json!({})).await;
        assert_eq!(stats["prefetch"], "auto");
        eventually("it falls", async || window(&control).await == Some(2)).await;
        let done = pace.done();

        // Its reserved messages go to a free worker; it keeps the two that it runs.
        let other = Pace::quick();
        let (free, _) = worker_of(&place, Prefetch::Slots);
        let helper = other.worker(&free);
        eventually("the other does the rest", async || done + other.done() == sent - 2).await;
        assert_eq!(pace.done(), done, "{}", place.name);
        assert_eq!(ask(&control, "pool_grow", json!({"n": 2})).await, json!({"ok": "pool will grow"}));
        assert_eq!(window(&control).await, Some(4), "{}", place.name);
        pace.gate.add_permits(2);
        eventually("all are done", async || pace.done() + other.done() == sent).await;
        let (summary, helped) = (running.stop().await, helper.stop().await);
        assert!(summary.requeued >= 6, "{}: {summary:?}", place.name);
        assert_eq!((summary.succeeded + helped.succeeded, summary.failed + helped.failed), (sent, 0));
    });
}
