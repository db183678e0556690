//! Two schedulers: one leads, and the other takes over when it is stopped. Each due time is sent once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq_worker::{App, Beat, Context, Worker, task};

static TICKS: AtomicU32 = AtomicU32::new(0);

#[task(queue = "ticks", every = "1s", catch_up = "none")]
async fn tick(ctx: &Context) {
    assert!(ctx.scheduled_at().is_some(), "a scheduled call knows when it was due");
    println!("tick {}", TICKS.fetch_add(1, Ordering::Relaxed) + 1);
}

async fn ticks(count: u32) {
    while TICKS.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    let app = App::global()?;
    let worker = Worker::new(app.clone())?;
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    let (first, second) = (Beat::new(app.clone())?, Beat::new(app.clone())?);
    let (stop_first, stop_second) = (first.handle(), second.handle());
    let first = tokio::spawn(first.run());
    ticks(1).await;
    let second = tokio::spawn(second.run());
    ticks(3).await;
    stop_first.stop();
    first.await.expect("no panic")?;
    println!("the first scheduler has stopped");
    ticks(5).await;
    for schedule in app.schedules().list().await? {
        println!("{}: {}", schedule.schedule.name, schedule.schedule.timing);
    }
    stop_second.stop();
    second.await.expect("no panic")?;
    handle.stop();
    working.await.expect("no panic")?;
    Ok(())
}
