//! A request and its reply: plain messages with `reply_to`, so that either side may be in another language.

use std::time::Duration;

use mq_worker::{App, TaskError, Worker, task};

#[task(queue = "rpc_queue", topic = "rpc_queue", max_retries = 0)]
async fn fib(n: u64) -> Result<u64, TaskError> {
    match n {
        0..=90 => Ok((0..n).fold((0, 1), |(a, b), _| (b, a + b)).0),
        _ => Err(TaskError::reject(format!("fib({n}) is too large"))),
    }
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    let app = App::global()?;
    let nobody = app.rpc("no_such_queue", "30").await;
    println!("nobody serves that: {}", nobody.is_err_and(|error| error.is_unroutable()));
    let worker = Worker::new(app.clone())?;
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    // The worker declares the queue; a request before that fails at once and is repeated.
    while app.rpc("rpc_queue", "0").await.is_err_and(|error| error.is_unroutable()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for n in ["10", "30", "200"] {
        match app.rpc("rpc_queue", n).timeout(Duration::from_secs(10)).await {
            Ok(answer) => println!("fib({n}) = {}", answer.text()?),
            Err(error) => println!("{error}"),
        }
    }
    handle.stop();
    working.await.expect("a worker does not panic")?;
    Ok(())
}
