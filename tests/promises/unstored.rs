//! Revocations on a broker that does not store them: they reach only the workers that are running.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mq_worker::broker::Broker;
use mq_worker::{App, Context, Result, TaskError, Topology, task};
use support::journal::Journal;
use support::places::{Running, eventually};
use support::unique;

#[task(name = "unstored.waiting", max_retries = 0)]
async fn waiting(ctx: &Context) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("ran", "waiting");
    ctx.cancelled().await;
    Err(TaskError::failed("revoked"))
}

/// A broker without registers that takes long to create the mailbox of a worker.
struct SlowMailbox(Arc<dyn Broker>);

impl Broker for SlowMailbox {
    support::forward!(0: capabilities publish consume get close);

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if topology.queues.iter().any(|queue| queue.name.ends_with(".celery.pidbox")) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            self.0.declare(topology).await
        })
    }
}

support::forward_administration!(SlowMailbox, 0);

#[tokio::test]
async fn a_worker_receives_a_revocation_of_the_first_call_that_it_runs() {
    let queue = unique("unstored");
    let url = format!("memory://{queue}").parse().expect("a URL");
    let builder = App::builder().set(|config| {
        config.broker_url = url;
        config.worker.queues = vec![queue.clone()];
    });
    let builder = builder.expect("a configuration").wrap_broker(|inner| Arc::new(SlowMailbox(inner)));
    let app = builder.build().expect("an application");
    let journal = Journal::default();
    let running = Running::start(app.clone(), journal.shared());
    let job = app.send(waiting.with().queue(&queue)).await.expect("sent");
    eventually("it runs", async || !journal.read("ran").is_empty()).await;
    let error = job.revoke().await.expect_err("a broker without registers");
    assert!(error.is_unsupported(), "{error}");
    let error = job.get().timeout(Duration::from_secs(10)).await.expect_err("revoked");
    assert!(error.is_revoked(), "{error}");
    running.stop().await;
}
