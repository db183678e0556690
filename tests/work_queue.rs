//! The work queue: a faster worker does more, and a burst waits in the broker, not in the worker.
//!
//! These tests measure shares and memory, so each runs alone on the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mq_worker::{App, Config, Context, Prefetch, SharedState, task};
use support::places::{Place, Running, consumed, eventually, places};
use support::unique;

use super::alone;

/// The duration of a call on one worker, and how many it has done.
#[derive(Clone)]
struct Pace {
    pause: Duration,
    done: Arc<AtomicU32>,
}

impl Pace {
    fn of(pause: Duration) -> Self {
        Self { pause, done: Arc::default() }
    }

    fn done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    fn worker(&self, place: &Place, prefetch: Prefetch) -> Running {
        let mut state = SharedState::default();
        state.insert(self.clone());
        let app = place.app_with(|config| {
            config.worker.concurrency = 1;
            config.worker.prefetch = prefetch;
        });
        Running::start(app, state)
    }
}

#[task]
async fn work_paced(ctx: &Context) {
    let pace = ctx.state::<Pace>();
    tokio::time::sleep(pace.pause).await;
    pace.done.fetch_add(1, Ordering::Relaxed);
}

async fn send(app: &App, place: &Place, count: u32) {
    let calls = (0..count).map(|_| work_paced.with().queue(&place.queue).ignore_result());
    app.send_many(calls).await.expect("sent");
}

#[test]
fn a_worker_that_is_ten_times_faster_does_ten_times_as_much() {
    let _alone = alone();
    support::places::everywhere(async |place| {
        // By default a worker reserves as many messages as it runs at once: one here.
        share_fairly(&place, Prefetch::Slots).await;
        if place.name == "rabbitmq quorum" {
            share_fairly(&place, Prefetch::Auto).await;
        }
    });
}

async fn share_fairly(place: &Place, prefetch: Prefetch) {
    let app = place.app();
    let [fast, slow] = [30, 300].map(|millis| Pace::of(Duration::from_millis(millis)));
    let workers = [&fast, &slow].map(|pace| pace.worker(place, prefetch));
    consumed(&app, &place.queue, 2).await;
    send(&app, place, 66).await;
    eventually("all are done", async || fast.done() + slow.done() == 66).await;
    for worker in workers {
        worker.stop().await;
    }
    let (fast, slow) = (fast.done(), slow.done());
    // A busy machine slows the fast worker down, but hardly changes the slow one.
    assert!(fast >= 5 * slow && slow >= 3, "{}, {prefetch:?}: fast {fast}, slow {slow}", place.name);
}

#[test]
fn a_large_prefetch_leaves_the_work_with_the_worker_that_reserved_it() {
    let _alone = alone();
    support::places::everywhere(async |place| {
        let app = place.app();
        let [fast, slow] = [3, 30].map(|millis| Pace::of(Duration::from_millis(millis)));
        let slow_one = slow.worker(&place, Prefetch::Fixed(100));
        consumed(&app, &place.queue, 1).await;
        send(&app, &place, 30).await;
        let reserved = async || {
            let broker = app.broker().await.expect("a broker");
            let queues = broker.queues(std::slice::from_ref(&place.queue)).await.expect("an answer");
            queues[0].ready == 0
        };
        eventually("the slow one has reserved all", reserved).await;
        let fast_one = fast.worker(&place, Prefetch::Fixed(100));
        eventually("all are done", async || fast.done() + slow.done() == 30).await;
        assert_eq!((fast.done(), slow.done()), (0, 30), "{}: the fast one had nothing to do", place.name);
        for worker in [fast_one, slow_one] {
            worker.stop().await;
        }
    });
}

/// Counts finished calls and sets how long each takes.
#[derive(Default)]
struct Crowd {
    done: AtomicU64,
    hurry: AtomicBool,
}

#[task(ignore_result)]
async fn work_burst(ctx: &Context, number: u64) {
    let crowd = ctx.state::<Arc<Crowd>>();
    let _ = number;
    if !crowd.hurry.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    crowd.done.fetch_add(1, Ordering::Relaxed);
}

const PREFETCH: u64 = 200;

#[test]
fn a_burst_waits_in_the_broker() {
    let _alone = alone();
    for place in places() {
        let calls = match place.name {
            "sqlite" => 100_000,
            // Each of them costs this debug build twice as much.
            "rabbitmq quorum" => 50_000,
            // The memory broker keeps waiting messages in the process by design.
            _ => continue,
        };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(300), burst(&place, calls)).await })
            .unwrap_or_else(|_| panic!("{}: the burst is not done in time", place.name));
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

async fn burst(place: &Place, calls: u64) {
    let app = place.app_with(|config| {
        config.worker.concurrency = PREFETCH as usize;
    });
    let crowd = Arc::new(Crowd::default());
    let mut state = SharedState::default();
    state.insert(Arc::clone(&crowd));
    let running = Running::start(app.clone(), state);
    consumed(&app, &place.queue, 1).await;
    // Run a few first, so that one-time allocations are not measured.
    send_burst(&app, place, 0..5_000).await;
    let before = resident();
    let mut peak = before;
    let begun = Instant::now();
    for first in (5_000..calls).step_by(5_000) {
        send_burst(&app, place, first..first + 5_000).await;
        peak = peak.max(resident());
    }
    let sent = begun.elapsed();
    let behind = calls - crowd.done.load(Ordering::Relaxed);
    let broker = app.broker().await.expect("a broker");
    let info = &broker.queues(std::slice::from_ref(&place.queue)).await.expect("an answer")[0];
    assert!(
        info.running.is_none_or(|running| running <= PREFETCH),
        "{}: {:?} are reserved",
        place.name,
        info.running
    );
    assert!(behind > calls / 2, "{}: the worker was not slow: {behind} wait", place.name);
    crowd.hurry.store(true, Ordering::Relaxed);
    let mut done = 0;
    while done < calls {
        tokio::time::sleep(Duration::from_millis(50)).await;
        done = crowd.done.load(Ordering::Relaxed);
        peak = peak.max(resident());
    }
    let all = begun.elapsed();
    let summary = running.stop().await;
    assert_eq!((summary.succeeded, summary.failed, summary.retried), (calls, 0, 0), "{}", place.name);
    let growth = (peak - before) >> 20;
    // Holding all deliveries would take several times as much.
    assert!(growth < (calls * 300) >> 20, "{}: the process grew by {growth} MiB", place.name);
    eprintln!("{}: sent in {sent:.1?}, {behind} behind then, done in {all:.1?}, +{growth} MiB", place.name);
}

async fn send_burst(app: &App, place: &Place, numbers: std::ops::Range<u64>) {
    let calls = numbers.map(|number| work_burst.with(number).queue(&place.queue));
    app.send_many(calls).await.expect("sent");
}

/// How often each of the delayed calls has run.
struct Roll(Vec<AtomicU32>);

#[task(ignore_result)]
async fn work_later(ctx: &Context, number: u64) {
    let roll = ctx.state::<Arc<Roll>>();
    roll.0[usize::try_from(number).expect("a small number")].fetch_add(1, Ordering::Relaxed);
}

/// Delays this many calls, the first half of them twice as long, while the worker and then the broker are restarted.
async fn wait_through_restarts(
    config: Config,
    name: &str,
    calls: u64,
    wait: Duration,
    restart: impl FnOnce(),
) {
    let mut config = config;
    config.worker.concurrency = PREFETCH as usize;
    // A broker that is busy with all of them may be slow to reply.
    config.publish_timeout = Duration::from_secs(60);
    let queue = unique("later");
    config.worker.queues = vec![queue.clone()];
    let app = App::new(config).expect("a good configuration");
    let roll = Arc::new(Roll((0..calls).map(|_| AtomicU32::new(0)).collect()));
    let start = || {
        let mut state = SharedState::default();
        state.insert(Arc::clone(&roll));
        Running::start(app.clone(), state)
    };
    let send = async |numbers: std::ops::Range<u64>, wait| {
        let delayed = numbers.map(|number| work_later.with(number).queue(&queue).countdown(wait));
        app.send_many(delayed).await.expect("sent");
    };
    let done = || roll.0.iter().filter(|count| count.load(Ordering::Relaxed) > 0).count() as u64;
    let running = start();
    // Run a few first, so that one-time allocations are not measured.
    send(0..2_000, Duration::from_secs(1)).await;
    eventually("the first ran", async || done() == 2_000).await;
    let before = resident();
    let begun = Instant::now();
    for first in (2_000..calls).step_by(7_000) {
        let wait = if first < calls / 2 { 2 * wait } else { wait };
        send(first..(first + 7_000).min(calls), wait).await;
    }
    let sent = begun.elapsed();
    let waiting = calls - done();
    let growth = resident().saturating_sub(before) >> 20;
    running.stop().await;
    let running = start();
    tokio::task::block_in_place(restart);
    let deadline = Instant::now() + 2 * wait + Duration::from_secs(200);
    while done() < calls {
        assert!(Instant::now() < deadline, "{name}: {} of {calls} have run", done());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = begun.elapsed();
    running.stop().await;
    let twice = roll.0.iter().filter(|count| count.load(Ordering::Relaxed) > 1).count();
    eprintln!(
        "{name}: sent in {sent:.1?}, {waiting} waited, +{growth} MiB, all ran after {all:.1?}, {twice} twice"
    );
    assert!(waiting > calls / 4, "{name}: the machine is too slow for this: {waiting} waited");
    // Holding as many deliveries in the process would take some hundred bytes more for each, plus timers.
    assert!(growth < (calls * 200) >> 20, "{name}: the process grew by {growth} MiB");
    // Messages that the worker held when the broker went down may be redelivered.
    assert!(twice <= 2 * PREFETCH as usize, "{name}: {twice} ran twice");
}

#[test]
fn many_thousand_delayed_calls_wait_in_the_broker_through_restarts() {
    let _alone = alone();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let directory = support::temp_dir();
    let url = |url: String| Config { broker_url: url.parse().expect("a URL"), ..Config::default() };
    let file = url(format!("sqlite:{}", directory.path().join("later.db").display()));
    // One after the other: both measure the memory of this process.
    runtime.block_on(wait_through_restarts(file, "sqlite", 50_000, Duration::from_secs(6), || {}));
    if support::shared::may_start_rabbitmq(file!()) {
        let mut node = support::node::Node::start();
        let config = url(node.url());
        // Fewer: RabbitMQ moves a few thousand per second out of the delay queue.
        runtime.block_on(wait_through_restarts(config, "rabbitmq", 25_000, Duration::from_secs(8), || {
            node.restart();
        }));
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// Returns the memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux reports it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line for it");
    let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kibibytes * 1024
}
