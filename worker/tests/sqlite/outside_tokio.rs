//! Callers without a tokio runtime, or with one without timers.

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

/// A minimal executor on the current thread.
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

/// Does everything that a program may do with an application that runs no tasks.
async fn everything(app: &App) {
    const SHORT: Duration = Duration::from_millis(20);
    let queue = format!("outside-{}", uuid::Uuid::new_v4().simple());
    let job = app.send(double.with(21).queue(&queue)).await.expect("sent");
    app.send_many((0..3).map(|number| double.with(number).queue(&queue))).await.expect("sent");
    let number = i64::from(std::process::id());
    let first = app.send(once.with(number).queue(&queue)).await.expect("sent");
    let second = app.send(once.with(number).queue(&queue)).await.expect("known");
    assert!(second.is_duplicate() && first.id() == second.id());
    assert!(job.get().timeout(SHORT).await.expect_err("nobody works").is_timeout());
    job.state().await.expect("known");
    let asked = format!("{queue}.asked");
    app.declare(&Topology::of_queue(Queue::new(&asked))).await.expect("declared");
    app.publish("", &asked, "text").await.expect("published");
    assert!(app.rpc(&asked, "question").timeout(SHORT).await.expect_err("nobody answers").is_timeout());
    let later = app.send(double.with(1).queue(&queue).countdown(TIMEOUT)).await.expect("sent");
    later.revoke().await.expect("revoked");
    let broker = app.broker().await.expect("open");
    let control = Control::new(Arc::clone(&broker)).timeout(SHORT);
    control.workers().await.expect("asked");
    assert_eq!(control.wait_until_gone(&[Default::default()], Some(SHORT)).await.expect("asked"), []);
    if tokio::runtime::Handle::try_current().is_err() {
        let error = Worker::new(app.clone()).expect("a worker").run().await;
        assert!(error.expect_err("it needs tokio").is_config());
    }
    broker.get(&asked).await.expect("asked").expect("a message").ack();
    for name in [&queue, &asked] {
        broker.delete_queue(name).await.expect("deleted");
    }
    app.close().await;
}

/// Returns an application for each broker; for RabbitMQ only if `MQ_TEST_AMQP_URL` is set.
fn apps() -> (tempfile::TempDir, Vec<App>) {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = format!("memory://{}", uuid::Uuid::new_v4()).parse().expect("a URL");
    let rabbitmq = std::env::var("MQ_TEST_AMQP_URL").ok().filter(|_| cfg!(feature = "amqp"));
    let rabbitmq = rabbitmq.map(|url| url.parse().expect("a URL"));
    let app = |url| App::new(Config { broker_url: url, ..Config::default() }).expect("a good configuration");
    let urls = [url(&dir.path().join("jobs.db")), memory].into_iter().chain(rabbitmq);
    let apps = urls.map(app).collect();
    (dir, apps)
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
    let sum = block_on(async { app.send(double.with(21)).await?.get().timeout(TIMEOUT).await });
    assert_eq!(sum.expect("it runs"), 42);
    handle.stop();
    working.join().expect("no panic").expect("it stops");
}
