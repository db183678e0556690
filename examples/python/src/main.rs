//! Handles messages from a Python script, and sends the messages that the script prints.

use mq_worker::{App, Worker, task};

/// Whatever arrives in the queue, as text.
#[task(queue = "from-python", topic = "from-python")]
async fn greet(name: String) -> mq_worker::Result<()> {
    println!("rust: hello, {name}");
    App::global()?.publish("", "from-rust", format!("{name} was greeted")).await
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    let app = App::global()?;
    app.declare(&mq_worker::Topology::new().queue("from-rust")).await?;
    let worker = Worker::new(app)?;
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    // Run until Enter is pressed, or until the parent process closes our input.
    let mut line = String::new();
    tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await.expect("no panic").ok();
    handle.stop();
    working.await.expect("a worker does not panic")?;
    Ok(())
}
