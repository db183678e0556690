//! The calls of a schedule are sent in the order of their due times: none is lost because a later one was faster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use mq_worker::middleware::{Middleware, Outgoing};
use mq_worker::{CatchUp, Overflow, Queue, QueueKind, Schedule, TaskError, Timing};

use super::lab::{Lab, Listener, Scheduler, assert_once};

/// Runs a case on every broker, all at the same time.
async fn everywhere<F: Future<Output = ()> + Send + 'static>(case: fn(Lab) -> F) {
    let labs = [Lab::memory(), Lab::sqlite(), Lab::rabbitmq()].into_iter().flatten();
    let running: Vec<_> = labs.map(|lab| tokio::spawn(case(lab))).collect();
    for case in running {
        case.await.expect("no panic");
    }
}

/// Holds up the first call, longer than the test lasts.
#[derive(Default)]
struct HoldsUpTheFirst(AtomicBool);

impl Middleware for HoldsUpTheFirst {
    async fn before_publish(&self, _: &mut Outgoing<'_>) -> Result<(), TaskError> {
        if !self.0.swap(true, Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        Ok(())
    }
}

/// A leader that catches up is killed while the earliest of several due calls is on its way.
async fn a_leader_dies_with_the_first_of_several_calls(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let schedule = lab.every("every-second", 1);
    lab.app().schedules().put(schedule.clone()).await.expect("put");
    let ready = Utc::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let held_up = Scheduler::start(lab.app_through(HoldsUpTheFirst::default()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    held_up.kill();
    let last = Scheduler::start(lab.app());
    listener.wait_for("every-second", 8).await;
    if let Some(node) = &lab.node {
        // RabbitMQ deletes the bindings of an exchange one by one: with two, a call could reach only one of log and queue.
        let bindings = node.ctl.run(["list_bindings", "--silent", "source_name", "destination_name"]);
        let of_leader = bindings.lines().filter(|line| line.starts_with("mq-worker.schedules."));
        assert_eq!(of_leader.count(), 1, "{bindings}");
    }
    last.stop();
    let until = Utc::now() - TimeDelta::seconds(1);
    assert_once(&listener, &[schedule], ready, until);
}

/// The queue is full for some seconds, in which the scheduler is replaced, too.
async fn a_queue_is_full_for_a_while(mut lab: Lab) {
    lab.declared = Queue {
        kind: Some(QueueKind::Classic),
        max_length: Some(2),
        overflow: Some(Overflow::RejectPublish),
        ..Queue::new(&lab.queue)
    };
    let app = lab.app();
    app.declare(&lab.topology()).await.expect("declared");
    let once = Timing::at(Utc::now() + TimeDelta::seconds(5));
    let once = Schedule::new("once", "nobody_runs_this", once).queue(&lab.queue);
    let schedules = [lab.every("one", 1), lab.every("two", 2).catch_up(CatchUp::All), once];
    for schedule in &schedules {
        app.schedules().put(schedule.clone()).await.expect("put");
    }
    let ready = Utc::now();
    let first = Scheduler::start(lab.app());
    tokio::time::sleep(Duration::from_secs(6)).await;
    first.stop();
    let second = Scheduler::start(lab.app());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let listener = Listener::start(&lab).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    listener.wait_for("two", 5).await;
    listener.wait_for("once", 1).await;
    second.stop();
    assert_once(&listener, &schedules, ready, Utc::now() - TimeDelta::seconds(2));
    let order: Vec<_> = listener.of("one").into_iter().map(|call| call.due).collect();
    assert!(order.is_sorted(), "{}: {order:?}", lab.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_is_not_overtaken_by_later_ones() {
    everywhere(a_leader_dies_with_the_first_of_several_calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_delays_calls_and_loses_none() {
    everywhere(a_queue_is_full_for_a_while).await;
}
