//! Publish/subscribe, routing and topics: three readers of a log, each on a different exchange.

use std::time::Duration;

use mq_worker::{App, ExchangeKind, Topology, Worker, task};

/// Everything that is said while it runs: a fanout exchange, and a queue that goes with the worker.
#[task(broadcast, exchange = "logs.all")]
async fn screen(line: String) {
    println!("screen: {line}");
}

/// Only errors: a direct exchange, and a queue that stays.
#[task(queue = "disk", exchange = "logs.by-severity", topic = "error")]
async fn disk(line: String) {
    println!("disk: {line}");
}

/// Whatever the kernel says, however bad: the topic exchange, where events are emitted.
#[task(queue = "kernel", topic = "kern.*")]
async fn kernel(line: String) {
    println!("kernel: {line}");
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    let exchanges = Topology::new()
        .exchange("logs.all", ExchangeKind::Fanout)
        .exchange("logs.by-severity", ExchangeKind::Direct);
    let app = App::builder().set(|config| config.topology = exchanges)?.install()?;
    let worker = Worker::new(app.clone())?;
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    // Messages cannot be routed until the worker has bound its queues.
    while let Err(error) = app.publish("logs.all", "", "the log begins").await {
        if !error.is_unroutable() {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (facility, severity, text) in
        [("cron", "info", "ran"), ("cron", "error", "did not run"), ("kern", "info", "disk is warm")]
    {
        app.publish("logs.all", "", text).await?;
        if let Err(error) = app.publish("logs.by-severity", severity, text).await {
            println!("nobody wants {severity}: {}", error.is_unroutable());
        }
        let heard = app.emit(&format!("{facility}.{severity}"), text).await?;
        println!("{facility}.{severity} is {heard:?}");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    handle.stop();
    working.await.expect("a worker does not panic")?;
    Ok(())
}
