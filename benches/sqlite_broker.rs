//! The SQLite broker compared with raw `rusqlite`, in one run, with `synchronous=FULL` throughout.
//!
//! ```console
//! cargo run --release -p mq-worker-benches --bin sqlite_broker [messages]
//! ```
#![allow(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mq_worker::broker::{self, Broker, Consumer, Publication, Subscription};
use mq_worker::message::{Headers, Message, Properties};
use mq_worker::{ConnectOptions, Queue, QueueKind, Topology};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const QUEUE: &str = "bench";
const CALLERS: usize = 64;
const LONE: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("consumer") => be_consumer(&PathBuf::from(arguments.next().ok_or("a file")?)).await,
        Some("drainer") => be_drainer(&PathBuf::from(arguments.next().ok_or("a file")?)).await,
        Some(messages) => compare(messages.parse()?).await,
        None => compare(60_000).await,
    }
}

async fn compare(messages: usize) -> Result<(), Failure> {
    // In the working directory: a temporary one may be in memory, where a sync costs nothing.
    let dir = std::env::current_dir()?.join("target").join(format!("sqlite-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let outcome = run(&dir, messages).await;
    std::fs::remove_dir_all(&dir)?;
    outcome
}

async fn run(dir: &Path, messages: usize) -> Result<(), Failure> {
    let raw = raw_inserts(&dir.join("raw.db"), messages)?;
    println!("raw rusqlite, inserts, 100 a transaction   {raw:>10.0} messages/s");

    let file = dir.join("jobs.db");
    let broker = open(&file).await?;
    let rate = publish_all(&broker, messages).await?;
    println!("publish, {CALLERS} concurrent callers           {rate:>10.0} messages/s");
    let rate = drain(&*broker, messages, 1000).await?;
    println!("drain with acks, prefetch 1000             {rate:>10.0} messages/s");

    // The log has reached its full size: a sync no longer has to write the file's length as well.
    let rate = publish_all(&broker, messages).await?;
    println!("publish again, into a log of full size     {rate:>10.0} messages/s");
    drain(&*broker, messages, 1000).await?;

    let child = start("drainer", &file)?;
    let mut lines = child.lines;
    lines.next().ok_or("the drainer ended")??;
    let begun = Instant::now();
    let rate = publish_all(&broker, messages).await?;
    lines.next().ok_or("the drainer ended")??;
    println!("publish while another process drains       {rate:>10.0} messages/s");
    println!(
        "until that one has drained all             {:>10.0} messages/s",
        messages as f64 / begun.elapsed().as_secs_f64()
    );
    end(child.process)?;

    let mut times = Vec::with_capacity(LONE);
    for _ in 0..LONE {
        let begun = Instant::now();
        broker.publish(task(&micros().to_string())).await?;
        times.push(begun.elapsed());
    }
    show("lone publish", &mut times);
    broker.purge(QUEUE).await?;

    let mut child = start("consumer", &file)?;
    child.lines.next().ok_or("the consumer ended")??;
    let mut times = Vec::with_capacity(LONE);
    for _ in 0..LONE {
        broker.publish(task(&micros().to_string())).await?;
        let line = child.lines.next().ok_or("the consumer ended")??;
        times.push(Duration::from_micros(line.parse()?));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    show("publish to delivery in another process", &mut times);
    let before = cpu(child.process.id())?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (ticks, kib) = (cpu(child.process.id())? - before, memory(child.process.id())?);
    println!(
        "idle consumer                              {:>10.2} % of a core, {:.1} MB",
        ticks as f64 / 5.0,
        kib as f64 / 1024.0
    );
    end(child.process)?;
    broker.close().await;
    Ok(())
}

fn raw_inserts(path: &Path, messages: usize) -> Result<f64, Failure> {
    let mut raw = rusqlite::Connection::open(path)?;
    raw.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    raw.pragma_update(None, "synchronous", "FULL")?;
    raw.execute_batch(
        "CREATE TABLE message (id INTEGER PRIMARY KEY, head TEXT, body BLOB);
         CREATE TABLE ready (queue INTEGER, rank INTEGER, id INTEGER, PRIMARY KEY (queue, rank, id)) WITHOUT ROWID;",
    )?;
    let message = task("0").message;
    let begun = Instant::now();
    for _ in 0..messages / 100 {
        let transaction = raw.transaction()?;
        for _ in 0..100 {
            transaction
                .prepare_cached("INSERT INTO message (head, body) VALUES (?, ?)")?
                .execute(rusqlite::params!["{\"j\":true,\"h\":{}}", message.body.as_ref()])?;
            let id = transaction.last_insert_rowid();
            transaction.prepare_cached("INSERT INTO ready VALUES (1, 255, ?)")?.execute([id])?;
        }
        transaction.commit()?;
    }
    Ok(messages as f64 / begun.elapsed().as_secs_f64())
}

async fn open(file: &Path) -> Result<Arc<dyn Broker>, Failure> {
    let options = ConnectOptions {
        timeout: Duration::from_secs(10),
        queue_kind: QueueKind::Broker,
        tls: Default::default(),
        name: "bench".into(),
    };
    let broker = broker::open(&format!("sqlite:{}", file.display()).parse()?, &options).await?;
    broker.declare(&Topology::of_queue(Queue::new(QUEUE))).await?;
    Ok(broker)
}

/// A publication like that of `.delay(..)` with a small struct.
fn task(argument: &str) -> Publication {
    let id = "0191b2c4-8f7e-7c3a-9d51-2f6f0c1e7a55";
    let properties = Properties {
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        correlation_id: Some(id.into()),
        ..Properties::default()
    };
    let body = format!("[[{argument},\"anna@example.org\",\"+49 30 123456\"],{{}},{{}}]");
    let message = Message { properties, headers: Headers::for_task("send_email", id), body: body.into() };
    Publication { routing_key: QUEUE.into(), message, mandatory: true, ..Publication::default() }
}

async fn publish_all(broker: &Arc<dyn Broker>, messages: usize) -> Result<f64, Failure> {
    let begun = Instant::now();
    let callers = (0..CALLERS).map(|_| {
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            for _ in 0..messages / CALLERS {
                broker.publish(task("0")).await?;
            }
            Ok::<(), mq_worker::Error>(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok((messages / CALLERS * CALLERS) as f64 / begun.elapsed().as_secs_f64())
}

async fn consume(broker: &dyn Broker, prefetch: u16) -> Result<Consumer, Failure> {
    let queues = vec![QUEUE.to_owned()];
    Ok(broker.consume(Subscription { queues, prefetch, name: "bench".into() }).await?)
}

async fn drain(broker: &dyn Broker, messages: usize, prefetch: u16) -> Result<f64, Failure> {
    let messages = messages / CALLERS * CALLERS;
    let begun = Instant::now();
    let mut consumer = consume(broker, prefetch).await?;
    for _ in 0..messages {
        consumer.next().await.ok_or("the stream ended")?.ack();
    }
    consumer.control().flush().await;
    let elapsed = begun.elapsed();
    consumer.control().cancel().await;
    Ok(messages as f64 / elapsed.as_secs_f64())
}

async fn be_drainer(file: &Path) -> Result<(), Failure> {
    let broker = open(file).await?;
    let mut consumer = consume(&*broker, 1000).await?;
    println!("ready");
    let mut last = Instant::now();
    loop {
        match tokio::time::timeout(Duration::from_millis(500), consumer.next()).await {
            Ok(delivery) => {
                delivery.ok_or("the stream ended")?.ack();
                last = Instant::now();
            }
            Err(_) if last.elapsed() > Duration::from_secs(30) => return Ok(()),
            Err(_) => {
                consumer.control().flush().await;
                let waiting = broker
                    .queues(&[])
                    .await?
                    .iter()
                    .any(|queue| queue.ready + queue.running.unwrap_or(0) > 0);
                if !waiting {
                    println!("drained");
                }
            }
        }
    }
}

async fn be_consumer(file: &Path) -> Result<(), Failure> {
    let broker = open(file).await?;
    let mut consumer = consume(&*broker, 1).await?;
    println!("ready");
    while let Some(delivery) = consumer.next().await {
        let now = micros();
        let text = std::str::from_utf8(&delivery.message.body)?;
        let sent: u128 = text[2..].split(',').next().ok_or("a time")?.parse()?;
        println!("{}", now.saturating_sub(sent));
        delivery.ack();
    }
    Ok(())
}

struct Started {
    process: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

fn start(role: &str, file: &Path) -> Result<Started, Failure> {
    let mut process =
        Command::new(std::env::current_exe()?).arg(role).arg(file).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(process.stdout.take().ok_or("a pipe")?).lines();
    Ok(Started { process, lines })
}

fn end(mut process: std::process::Child) -> Result<(), Failure> {
    process.kill()?;
    process.wait()?;
    Ok(())
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros())
}

/// User and system time in ticks of 10 ms.
fn cpu(pid: u32) -> Result<u64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// Resident memory in KiB.
fn memory(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("a number")?.parse()?)
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{what:<42} p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
}
