//! Never twice, never lost, with three schedulers that are paused past their lease, killed and cut off.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use mq_worker::CatchUp;
use support::Proxy;

use super::lab::{Lab, Listener, Scheduler, assert_once, latest, missing};

/// Longer than a leader's lease.
const PAUSE: Duration = Duration::from_secs(6);
/// The time within which another scheduler takes over, with a margin for a busy machine.
const TAKEOVER: TimeDelta = TimeDelta::milliseconds(5_000 + 2_000);

/// Pauses each scheduler in turn, and so the leader too; then kills all but one.
async fn survive(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let schedules: Vec<_> = (1..=12).map(|n| lab.every(&format!("every-{n}"), 1 + n % 4)).collect();
    let begun = Utc::now();
    for schedule in &schedules {
        lab.app().schedules().put(schedule.clone()).await.expect("put");
    }
    let ready = Utc::now();
    let mut schedulers: Vec<Scheduler> = (0..3).map(|_| Scheduler::start(lab.app())).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for scheduler in &schedulers {
        scheduler.pause(PAUSE);
        tokio::time::sleep(PAUSE + Duration::from_secs(1)).await;
    }
    for _ in 0..2 {
        schedulers.remove(0).kill();
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    let until = Utc::now() - TimeDelta::seconds(1);
    schedulers.remove(0).stop();
    assert_once(&listener, &schedules, ready, until);
    assert!(begun < ready);
    let late = latest(&listener);
    eprintln!("{}: {} calls, late by {late} at most", lab.name, listener.all().len());
    assert!(late <= TAKEOVER, "a call came {late} late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_comes_once_on_memory() {
    survive(Lab::memory().expect("memory")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_comes_once_on_sqlite() {
    survive(Lab::sqlite().expect("a file")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_comes_once_on_rabbitmq() {
    if let Some(lab) = Lab::rabbitmq() {
        survive(lab).await;
    }
}

/// The connection of each scheduler is cut in turn without its noticing; then the broker restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_comes_once_when_connections_and_rabbitmq_are_lost() {
    let Some(mut lab) = Lab::rabbitmq() else { return };
    let node = lab.node.as_ref().expect("a node");
    let target = format!("127.0.0.1:{}", node.port());
    let listener = Listener::start(&lab).await;
    // Restarting a node may take longer than the limit for late calls.
    let every = |n: u64| lab.every(&format!("every-{n}"), 1 + n % 3).catch_up(CatchUp::All);
    let schedules: Vec<_> = (1..=6).map(every).collect();
    for schedule in &schedules {
        lab.app().schedules().put(schedule.clone()).await.expect("put");
    }
    let ready = Utc::now();
    let proxies: Vec<Proxy> = (0..2).map(|_| Proxy::start(&target)).collect();
    let url = |proxy: &Proxy| lab.url.replace(&target, &proxy.address().to_string());
    let through: Vec<String> = proxies.iter().map(url).collect();
    let mut schedulers: Vec<Scheduler> = through
        .iter()
        .map(|url| Scheduler::start(lab.app_with(|config| config.broker_url = url.parse().expect("a URL"))))
        .collect();
    schedulers.push(Scheduler::start(lab.app()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    for proxy in &proxies {
        proxy.stall(true);
        tokio::time::sleep(PAUSE).await;
        proxy.stall(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.cut();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let before = Utc::now();
    let mut node = lab.node.take().expect("a node");
    let node = tokio::task::spawn_blocking(move || {
        node.restart();
        node
    });
    lab.node = Some(node.await.expect("it restarts"));
    let back = Utc::now();
    support::eventually("all that was due until the restart has come", Duration::from_secs(60), async || {
        missing(&listener, &schedules, ready, back).is_empty().then_some(())
    })
    .await;
    schedulers.into_iter().for_each(Scheduler::stop);
    eprintln!("the restart took {}", back - before);
    assert_once(&listener, &schedules, ready, back);
}
