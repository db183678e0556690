//! A simple queue: calls wait for a worker, which may be in another program.

use mq_worker::{App, Worker, task};

#[task(queue = "hello")]
async fn hello(name: String) -> String {
    println!("worker: hello, {name}");
    format!("greeted {name}")
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    let ada = hello.delay("Ada").await?;
    let grace = hello.delay("Grace").await?;
    println!("sent two, and nobody works yet");

    let worker = Worker::new(App::global()?)?;
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    println!("main: {}", ada.get().await?);
    println!("main: {}", grace.get().await?);
    handle.stop();
    let done = working.await.expect("a worker does not panic")?;
    println!("the worker did {}", done.succeeded);
    Ok(())
}
