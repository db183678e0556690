//! Callers that have no tokio runtime, or one without timers.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use mq_worker::control::Control;
use mq_worker::{App, Config, Worker, task};

use super::*;

#[task(name = "outside.double")]
async fn double(number: i64) -> i64 {
    2 * number
}

#[task(name = "outside.once", unique_for = "1h")]
async fn once(number: i64) -> i64 {
    number
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor: this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Everything that a program may ask of an application that runs no tasks.
async fn everything(app: &App) {
    const SHORT: Duration = Duration::from_millis(20);
    let job = app.send(double.with(21)).await.expect("sent");
    app.send_many((0..3).map(|number| double.with(number))).await.expect("sent");
    let first = app.send(once.with(1)).await.expect("sent");
    let second = app.send(once.with(1)).await.expect("known");
    assert!(second.is_duplicate() && first.id() == second.id());
    assert!(job.get().timeout(SHORT).await.expect_err("nobody works").is_timeout());
    job.state().await.expect("known");
    app.declare(&Topology::of_queue(Queue::new("q"))).await.expect("declared");
    app.publish("", "q", "text").await.expect("published");
    assert!(app.rpc("q", "question").timeout(SHORT).await.expect_err("nobody answers").is_timeout());
    let later = app.send(double.with(1).countdown(PATIENCE)).await.expect("sent");
    later.revoke().await.expect("revoked");
    let control = Control::new(app.broker().await.expect("open")).timeout(SHORT);
    assert_eq!(control.workers().await.expect("asked"), []);
    assert_eq!(control.wait_until_gone(&[Default::default()], Some(SHORT)).await.expect("asked"), []);
    let error = Worker::new(app.clone()).expect("a worker").run();
    if tokio::runtime::Handle::try_current().is_err() {
        assert!(error.await.expect_err("it needs tokio").is_config());
    }
    let opened = app.broker().await.expect("open").get("q").await.expect("asked");
    opened.expect("a message").ack();
    app.close().await;
}

fn apps() -> (tempfile::TempDir, Vec<App>) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = url(&dir.path().join("jobs.db"));
    let urls = [file, format!("memory://{}", uuid::Uuid::new_v4()).parse().expect("a URL")];
    let app = |url| App::new(Config { broker_url: url, ..Config::default() }).expect("a good configuration");
    (dir, urls.map(app).into())
}

#[test]
fn a_caller_needs_no_runtime() {
    let (_dir, apps) = apps();
    for app in apps {
        block_on(everything(&app));
    }
}

#[test]
fn a_caller_s_runtime_needs_no_timers() {
    let (_dir, apps) = apps();
    for app in apps {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(everything(&app));
    }
}

#[test]
fn a_result_reaches_a_caller_without_a_runtime() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { broker_url: url(&dir.path().join("jobs.db")), ..Config::default() };
    let app = App::new(config).expect("a good configuration");
    let worker = Worker::new(app.clone()).expect("a worker");
    let handle = worker.handle();
    let working = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(worker.run())
    });
    let sum = block_on(async { app.send(double.with(21)).await?.get().timeout(PATIENCE).await });
    assert_eq!(sum.expect("it runs"), 42);
    handle.stop();
    working.join().expect("no panic").expect("it stops");
}
