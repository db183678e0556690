//! A worker with its own `main`, which prints before it knows its role.

mod tasks;

use mq_worker::{App, Worker};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A log that panics at every event of the worker.
struct Broken;

impl Subscriber for Broken {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("mq_worker")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        panic!("cannot tell of {}", event.metadata().name());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[allow(clippy::print_stdout, reason = "programs do")]
#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    println!("a program begins");
    mq_worker::run_isolated();
    println!("a worker begins");
    if std::env::var_os("TEST_BROKEN_LOG").is_some() {
        tracing::subscriber::set_global_default(Broken).expect("there is no other");
    }
    Worker::new(App::global()?)?.run().await?;
    Ok(())
}
