//! The work queue: two workers on one queue, one ten times slower. A free worker takes the next task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq_worker::{App, Context, SharedState, Worker, task};

const TASKS: u32 = 110;

/// One of the two machines.
struct Machine {
    name: &'static str,
    pause: Duration,
    done: AtomicU32,
}

#[task(queue = "work", ignore_result)]
async fn work(ctx: &Context) {
    let machine = ctx.state::<Arc<Machine>>();
    tokio::time::sleep(machine.pause).await;
    machine.done.fetch_add(1, Ordering::Relaxed);
}

#[tokio::main]
async fn main() -> mq_worker::Result<()> {
    // One task at a time, and none reserved beyond that: the default prefetch equals the concurrency.
    let app = App::builder().set(|config| config.worker.concurrency = 1)?.install()?;
    let machines = [("fast", 5), ("slow", 50)].map(|(name, millis)| {
        Arc::new(Machine { name, pause: Duration::from_millis(millis), done: AtomicU32::new(0) })
    });
    let mut workers = Vec::new();
    for machine in &machines {
        let mut state = SharedState::default();
        state.insert(Arc::clone(machine));
        let worker = Worker::new(app.clone())?.with_state(state);
        workers.push((worker.handle(), tokio::spawn(worker.run())));
    }
    app.send_many((0..TASKS).map(|_| work.with())).await?;
    let done = || machines.iter().map(|machine| machine.done.load(Ordering::Relaxed)).sum::<u32>();
    while done() < TASKS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (handle, working) in workers {
        handle.stop();
        working.await.expect("a worker does not panic")?;
    }
    for machine in &machines {
        let done = machine.done.load(Ordering::Relaxed);
        println!("{} {} {done}", machine.name, "#".repeat(done as usize / 2));
    }
    println!("together {}", done());
    Ok(())
}
