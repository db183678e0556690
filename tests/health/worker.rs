//! A worker with healthy and unhealthy tasks: `mq-worker`'s own `main`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mq_worker::broker::{Broker, Consumer, ConsumerControl, Delivery, Subscription};
use mq_worker::{App, Result, SharedState, TaskError, setup, task};
use tokio::sync::mpsc;

/// Names a file that the set-up function waits for.
const SETUP: &str = "HEALTH_SETUP";
/// If set, the consumer delivers nothing.
const DEAF: &str = "HEALTH_DEAF";

/// Waits as a well-behaved task does.
#[task(name = "health.hold")]
async fn hold(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Fails after a while.
#[task(name = "health.fail", max_retries = 1, backoff = "1ms..1ms")]
async fn fail(millis: u64) -> std::result::Result<(), TaskError> {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Err(TaskError::failed("as expected"))
}

/// Keeps a thread of the async runtime, which an async function must not.
#[task(name = "health.block")]
async fn block(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[setup]
async fn wait_for_the_file(_: &mut SharedState) {
    if let Some(path) = std::env::var_os(SETUP) {
        while !std::path::Path::new(&path).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn main() -> ExitCode {
    if std::env::var_os(DEAF).is_some() {
        let installed = App::builder().wrap_broker(|inner| Arc::new(Deaf(inner))).install();
        installed.expect("the test has set a good configuration");
    }
    mq_worker::main()
}

/// A reachable broker whose consumer delivers nothing.
struct Deaf(Arc<dyn Broker>);

struct Nothing {
    _deliveries: mpsc::Sender<Delivery>,
}

impl ConsumerControl for Nothing {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Broker for Deaf {
    support::forward!(0: capabilities declare publish get close);

    fn consume(&self, _: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        let (sender, receiver) = mpsc::channel(1);
        Box::pin(async { Ok(Consumer::new(receiver, Arc::new(Nothing { _deliveries: sender }))) })
    }
}

support::forward_administration!(Deaf, 0);
