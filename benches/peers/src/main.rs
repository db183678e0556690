//! rusty-celery and apalis as peers of `benches/run --peers`: one measurement for each run.
//!
//! `mq-worker-peers rusty-celery|apalis enqueue|drain AMQP_URL TASKS` prints the figures as JSON. Each has a prefetch of a
//! thousand and acknowledges after the run; neither waits for the broker's confirmation of a message.

use std::error::Error;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use celery::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

const PREFETCH: u16 = 1000;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct User {
    id: u64,
    email: String,
    name: String,
}

impl User {
    fn new() -> Self {
        Self { id: 7, email: "somebody@example.com".into(), name: "Somebody".into() }
    }
}

static TASKS: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static BEGUN: OnceLock<Begun> = OnceLock::new();

struct Begun {
    clock: Instant,
    cpu: Duration,
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl Begun {
    fn now() -> Self {
        Self { clock: Instant::now(), cpu: cpu() }
    }

    fn end(&self, tasks: u64) {
        let (elapsed, cpu) = (self.clock.elapsed(), cpu() - self.cpu);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        let figures = serde_json::json!({
            "rate": tasks as f64 / elapsed.as_secs_f64(),
            "cpu": cpu.as_secs_f64() * 1e6 / tasks as f64,
            "latency": 0.0,
            "rss": rss.unwrap_or(0.0) * 1024.0 / 1e6,
        });
        println!("{figures}");
    }
}

/// Counts a task that has run; the process ends with the last one.
fn count() {
    let begun = BEGUN.get_or_init(Begun::now);
    let tasks = TASKS.load(Ordering::Relaxed);
    if DONE.fetch_add(1, Ordering::Relaxed) + 1 == tasks {
        begun.end(tasks);
        std::process::exit(0);
    }
}

#[celery::task]
async fn noop(user: User) -> TaskResult<()> {
    std::hint::black_box(user);
    count();
    Ok(())
}

async fn rusty_celery(what: &str, at: String, tasks: u64) -> Result<(), Box<dyn Error>> {
    let app = celery::app!(
        broker = AMQPBroker { at },
        tasks = [noop],
        task_routes = ["*" => "peer-rusty-celery"],
        prefetch_count = PREFETCH,
        acks_late = true,
    )
    .await?;
    if what == "drain" {
        return Ok(app.consume_from(&["peer-rusty-celery"]).await?);
    }
    let begun = Begun::now();
    for _ in 0..tasks {
        app.send_task(noop::new(User::new())).await?;
    }
    begun.end(tasks);
    Ok(app.close().await?)
}

async fn apalis(what: &str, at: String, tasks: u64) -> Result<(), Box<dyn Error>> {
    use apalis::prelude::*;
    use apalis_amqp::{AmqpBackend, Config};

    async fn run(user: User) {
        std::hint::black_box(user);
        count();
    }
    let config = Config::default().queue("peer-apalis").prefetch_count(PREFETCH);
    let mut backend = AmqpBackend::<User>::new_from_addr(&at)?.with_config(config);
    if what == "drain" {
        // A backend that was never pushed to panics as its worker starts (1.0.0).
        backend.push(User::new()).await?;
        let worker = WorkerBuilder::new("peer").backend(backend).concurrency(PREFETCH.into()).build(run);
        return Ok(worker.run().await?);
    }
    let begun = Begun::now();
    for _ in 0..tasks {
        backend.push(User::new()).await?;
    }
    begun.end(tasks);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: mq-worker-peers rusty-celery|apalis enqueue|drain AMQP_URL TASKS";
    let [peer, what, at, tasks] = <[String; 4]>::try_from(std::env::args().skip(1).collect::<Vec<_>>()).map_err(|_| usage)?;
    let tasks: u64 = tasks.parse()?;
    TASKS.store(tasks, Ordering::Relaxed);
    match &*peer {
        "rusty-celery" => rusty_celery(&what, at, tasks).await,
        "apalis" => apalis(&what, at, tasks).await,
        _ => Err(usage.into()),
    }
}
