//! Edge cases of unique tasks: which calls count as the same, and calls that are not sent in the end.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use mq_worker::{Context, TaskError, task};
use support::journal::Journal;
use support::places::{Running, eventually, everywhere};
use support::unique;

#[task(unique_for = "1h")]
async fn with_a_map(of: String, map: HashMap<String, u32>) {
    let _ = (of, map);
}

#[task(unique_for = "1h")]
async fn dropped(key: String) {
    let _ = key;
}

/// Waits so long after each try.
#[task(unique_for = "5s", unique_by = "key", max_retries = 1000)]
async fn patient(ctx: &Context, key: String, wait: u64) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("tried", &key);
    Err(TaskError::retry_in(Duration::from_millis(wait), "not yet"))
}

/// Nobody runs it: its lock opens by itself, and tells how time goes for the broker.
#[task(unique_for = "5s")]
async fn clock(_key: String) {}

#[task(unique_for = "1s", max_retries = 1)]
async fn outlived(ctx: &Context, key: String) -> Result<u32, TaskError> {
    let journal = ctx.state::<Journal>();
    journal.write("began", key);
    while journal.read("go on").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if ctx.retries() > 0 {
        Ok(ctx.retries())
    } else {
        Err(TaskError::retry_in(Duration::from_secs(1), "again"))
    }
}

#[test]
fn retries_keep_the_next_one_out_for_longer_than_the_call_asked_for() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let (often, long) = (unique("often"), unique("long"));
        // One waits many times, the other once for longer than the whole lifetime of its lock.
        let send = async |key: &str, wait| {
            app.send(patient.with(key, wait).queue(&place.queue).ignore_result()).await.expect("an answer")
        };
        let first = [send(&often, 500).await, send(&long, 3_600_000).await];
        eventually("both were tried", async || {
            let tried = journal.read("tried");
            tried.contains(&often) && tried.contains(&long)
        })
        .await;
        let (time, elsewhere) = (unique("time"), format!("{}.clock", place.queue));
        let tick = async || {
            let call = clock.with(time.as_str()).queue(&elsewhere).ignore_result();
            !app.send(call).await.expect("an answer").is_duplicate()
        };
        assert!(tick().await);
        eventually("the time is over that the calls asked for", tick).await;
        let next = [send(&often, 500).await, send(&long, 3_600_000).await];
        for (next, first) in next.iter().zip(&first) {
            assert!(next.is_duplicate() && next.id() == first.id(), "{}: it got in", place.name);
        }
        running.stop().await;
    });
}

#[test]
fn a_retry_runs_even_if_another_call_took_its_lock() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("key");
        let send = async || app.send(outlived.with(key.as_str()).queue(&place.queue)).await.expect("sent");
        let first = send().await;
        eventually("it runs", async || !journal.read("began").is_empty()).await;
        let second = support::eventually("its lock opens", Duration::from_secs(60), async || {
            let next = send().await;
            (!next.is_duplicate()).then_some(next)
        })
        .await;
        journal.write("go on", "");
        for job in [first, second] {
            let retries = job.get().timeout(Duration::from_secs(60)).await.expect("it was not lost");
            assert_eq!(retries, 1, "{}", place.name);
        }
        running.stop().await;
    });
}

#[test]
fn the_order_in_a_map_makes_no_difference() {
    everywhere(async |place| {
        let app = place.app();
        let of = unique("map");
        // Each map has its own iteration order.
        let map = || (0..20).map(|index| (format!("key-{index}"), index)).collect::<HashMap<_, _>>();
        let send =
            async || app.send(with_a_map.with(of.clone(), map()).queue(&place.queue)).await.expect("sent");
        assert!(!send().await.is_duplicate());
        for _ in 0..5 {
            assert!(send().await.is_duplicate(), "on {}", place.name);
        }
    });
}

#[test]
fn a_cancelled_send_holds_no_lock_unless_the_call_was_sent() {
    everywhere(async |place| {
        let app = place.app();
        // Afterwards every connection is open and everything is declared.
        app.send(dropped.with(unique("first")).queue(&place.queue)).await.expect("sent");
        let mut lost = 0;
        for steps in 0..12 {
            let key = unique("dropped");
            {
                let mut sending = Box::pin(app.send(dropped.with(key.clone()).queue(&place.queue)));
                for _ in 0..steps {
                    if sending.as_mut().now_or_never().is_some() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            // Leave time for background work.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let again = app.send(dropped.with(key).queue(&place.queue)).await.expect("an answer");
            if again.is_duplicate() {
                // The first call holds the lock, so it must have been sent.
                let broker = app.broker().await.expect("a broker");
                let mut found = false;
                while let Some(delivery) = broker.get(&place.queue).await.expect("an answer") {
                    found |= delivery.message.headers.id() == Some(again.id());
                    delivery.ack();
                }
                lost += u32::from(!found);
            }
        }
        assert_eq!(lost, 0, "on {}", place.name);
    });
}
