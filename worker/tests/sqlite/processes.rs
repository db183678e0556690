//! Several processes on one file.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::roles::{Process, micros};
use super::*;

fn jobs(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("jobs.db")
}

async fn line(process: &mut Process) -> String {
    tokio::task::block_in_place(|| process.line()).expect("it says something")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_goes_to_one_process() {
    let (dir, broker) = fresh(&["q"]).await;
    let workers: Vec<Process> = (0..3).map(|_| Process::start("work", &jobs(&dir), "q")).collect();
    let mut reading = Vec::new();
    for mut worker in workers {
        assert_eq!(line(&mut worker).await, "ready");
        reading.push(std::thread::spawn(move || {
            let mut got = Vec::new();
            while let Some(line) = worker.line() {
                got.push(line);
            }
            worker.wait();
            got
        }));
    }
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 3)));
    for index in 0..300 {
        publish(&*broker, "q", &index.to_string()).await;
    }
    until("all are done", async || counts(&*broker, "q").await == Some((0, 0, 0, 3))).await;
    let mut times: HashMap<String, usize> = HashMap::new();
    // Each worker takes several messages at once: it may get more than one `stop`, and requeues the extra ones when it
    // closes.
    for _ in 0..3 {
        publish(&*broker, "q", "stop").await;
    }
    for thread in reading {
        for body in tokio::task::block_in_place(|| thread.join().expect("no panic")) {
            *times.entry(body).or_default() += 1;
        }
    }
    assert_eq!(times.len(), 300);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 0)));
}

/// Closing any descriptor of a file releases all POSIX locks that the process has on it, and with them SQLite's. Then another
/// program that closes the database, such as the `sqlite3` shell, takes itself for the last user and deletes the log.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn waking_other_processes_releases_no_lock() {
    use std::os::unix::fs::MetadataExt;

    let (dir, broker) = fresh(&["q"]).await;
    let mut other = Process::start("time", &jobs(&dir), "q");
    assert_eq!(line(&mut other).await, "ready");
    publish(&*broker, "q", &micros().to_string()).await;
    line(&mut other).await;
    let locks = std::fs::read_to_string("/proc/locks").expect("locks");
    let inode = format!(":{}", std::fs::metadata(jobs(&dir)).expect("a file").ino());
    for pid in [std::process::id(), other.pid()] {
        let pid = pid.to_string();
        let is_ours = |lock: &str| {
            let fields: Vec<&str> = lock.split_whitespace().collect();
            fields.contains(&&*pid) && fields.iter().any(|field| field.ends_with(&inode))
        };
        assert!(locks.lines().any(is_ours), "process {pid} has no lock on the file {inode}:\n{locks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_killed_process_come_back_with_a_crash_counted() {
    let (dir, broker) = fresh(&["q"]).await;
    for body in ["one", "two", "three"] {
        publish(&*broker, "q", body).await;
    }
    let mut victim = Process::start("hold", &jobs(&dir), "q");
    assert_eq!(line(&mut victim).await, "ready");
    assert_eq!(line(&mut victim).await, "one false 0");
    assert_eq!(line(&mut victim).await, "two false 0");
    assert_eq!(counts(&*broker, "q").await, Some((1, 2, 0, 1)));
    let killed = Instant::now();
    victim.kill();
    let mut consumer = consume(&*broker, &["q"], 10).await;
    let third = next(&mut consumer).await;
    assert_eq!((body(&third).as_str(), third.redelivered, third.crashes), ("three", false, Some(0)));
    for expected in ["one", "two"] {
        let back = next(&mut consumer).await;
        assert_eq!((body(&back).as_str(), back.redelivered, back.crashes), (expected, true, Some(1)));
        back.ack();
    }
    assert!(killed.elapsed() < Duration::from_secs(9), "it took {:?}", killed.elapsed());
    third.ack();
    consumer.control().flush().await;
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_survives_the_publisher() {
    let (dir, broker) = fresh(&["q"]).await;
    let mut publisher = Process::start("publish", &jobs(&dir), "q");
    let mut confirmed: Vec<String> = Vec::new();
    while confirmed.len() < 200 {
        confirmed.push(line(&mut publisher).await);
    }
    publisher.kill();
    while let Some(text) = publisher.line() {
        confirmed.push(text);
    }
    let mut stored = std::collections::HashSet::new();
    while let Some(delivery) = broker.get("q").await.expect("readable") {
        assert!(stored.insert(body(&delivery)), "stored twice");
        delivery.ack();
    }
    // The last line may be cut off by the kill.
    let lost: Vec<_> =
        confirmed[..confirmed.len() - 1].iter().filter(|text| !stored.contains(*text)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_process_keeps_what_it_has_and_a_stopped_one_cannot_settle_it() {
    let (dir, broker) = fresh(&["q"]).await;
    for body in ["one", "two"] {
        publish(&*broker, "q", body).await;
    }
    let mut holder = Process::start("hold", &jobs(&dir), "q");
    for expected in ["ready", "one false 0", "two false 0"] {
        assert_eq!(line(&mut holder).await, expected);
    }
    let mut consumer = consume(&*broker, &["q"], 10).await;
    // Longer than a lease: the process is alive, so nothing is redelivered.
    assert!(
        tokio::time::timeout(Duration::from_secs(8), consumer.next()).await.is_err(),
        "a lease was broken"
    );

    holder.signal("-STOP");
    let one = next(&mut consumer).await;
    let two = next(&mut consumer).await;
    assert_eq!((body(&one), body(&two), one.crashes), ("one".into(), "two".into(), Some(1)));
    holder.signal("-CONT");
    holder.signal("-USR1");
    assert_eq!(line(&mut holder).await, "acknowledged");
    // Its acks had no effect: both messages are still ours.
    assert_eq!(counts(&*broker, "q").await.map(|(ready, running, ..)| (ready, running)), Some((0, 2)));
    one.ack();
    two.ack();
    consumer.control().flush().await;
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 2)), "it is a consumer again");
    consumer.control().cancel().await;
    publish(&*broker, "q", "three").await;
    assert_eq!(line(&mut holder).await, "three false 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_consumer_in_another_process_wakes_at_once_and_costs_nothing() {
    let (dir, broker) = fresh(&["q"]).await;
    let mut consumer = Process::start("time", &jobs(&dir), "q");
    assert_eq!(line(&mut consumer).await, "ready");
    let mut times = Vec::new();
    for _ in 0..51 {
        publish(&*broker, "q", &micros().to_string()).await;
        times.push(line(&mut consumer).await.parse::<u64>().expect("a time"));
    }
    times.sort_unstable();
    let p50 = times[times.len() / 2];
    // A few milliseconds with a debug build on an idle machine; the safety poll alone would take 500 ms.
    assert!(p50 < 30_000, "p50 {p50} µs of {times:?}");

    let busy = |pid: u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = busy(consumer.pid());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let ticks = busy(consumer.pid()) - before;
    // A tick is 10 ms: 4 s at 1% are 4 ticks.
    assert!(ticks <= 4, "{ticks} ticks in 4 s of idling");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_is_a_timeout_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let limit = Duration::from_secs(2);
    let broker = broker::open(&url(&jobs(&dir)), &options(limit)).await.expect("opens");
    declare(&*broker, Queue::new("q")).await;
    publish(&*broker, "q", "before").await;
    let other = rusqlite::Connection::open(jobs(&dir)).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let begun = Instant::now();
    let error = broker.publish(to_queue("q", "meanwhile")).await.expect_err("locked");
    assert!(error.is_timeout() && error.to_string().contains("jobs.db"), "{error}");
    assert!(begun.elapsed() <= limit + limit / 8, "{:?}", begun.elapsed());
    assert_eq!(counts(&*broker, "q").await, Some((1, 0, 0, 0)));
    let blocked = broker.get("q").await.expect_err("locked");
    assert!(blocked.is_timeout(), "{blocked}");
    let waiting = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move { broker.publish(to_queue("q", "after")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.execute_batch("COMMIT").expect("the lock goes");
    waiting.await.unwrap().expect("published as soon as the lock was gone");
    // A publish that was reported as failed has failed.
    assert_eq!(counts(&*broker, "q").await, Some((2, 0, 0, 0)));
}
