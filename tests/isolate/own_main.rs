//! A worker with a `main` of its own, that prints before it knows what it is.

mod tasks;

use mq_worker::{App, Worker};

#[allow(clippy::print_stdout, reason = "programs do")]
#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    println!("a program begins");
    mq_worker::run_isolated();
    println!("a worker begins");
    Worker::new(App::global()?)?.run().await?;
    Ok(())
}
