//! Time limits of tasks that run in the worker itself.

use std::fs;
use std::time::Duration;

use mq_worker::control::Control;
use rustix::process::Signal;
use support::unique;

use super::lab::{LONG, on_real_brokers, on_sqlite};
use super::tasks::{oversleep, pid, spin_inside, told_async, told_by_message, told_plain};

#[test]
fn a_soft_limit_tells_the_task_which_may_end_well() {
    on_sqlite(async |lab| {
        let _worker = lab.worker(&[]);
        assert_eq!(lab.result(told_plain.with()).await, "told");
        let limited = told_by_message.with().soft_time_limit(Duration::from_millis(200));
        assert_eq!(lab.result(limited).await, "told", "Celery's header");
        assert_eq!(lab.result(told_async.with()).await, "told", "in a process of its own");
    });
}

#[test]
fn a_lost_slot_is_written_off_and_the_worker_continues() {
    on_real_brokers(async |lab| {
        let worker = lab.worker(&[]);
        let (kind, _) = lab.failure(spin_inside.with()).await;
        assert_eq!(kind, "TimeLimitExceeded", "{}", lab.place.name);
        worker.wait_for_line("its slot is lost until it returns", LONG);
        for _ in 0..5 {
            lab.result(pid.with()).await;
        }
        assert_eq!(lab.ready(&lab.place.dead()).await, 1, "settled once");
        // The thread is still running, but delays nothing.
        worker.signal(Signal::TERM);
        let ended = worker.wait(LONG);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert_eq!((lab.ready(&lab.place.queue).await, lab.ready(&lab.place.dead()).await), (0, 1));
    });
}

#[test]
fn a_late_return_is_discarded_and_frees_the_slot() {
    on_real_brokers(async |lab| {
        let name = format!("{}@here", unique("late"));
        let worker = lab.worker(&["--concurrency", "1", "--hostname", &name]);
        let file = lab.file("wake");
        let job = lab.send(oversleep.with(file.clone())).await;
        let error = job.get().timeout(LONG).await.expect_err("it fails");
        assert_eq!(error.task_failure().map(|failure| failure.kind.as_str()), Some("TimeLimitExceeded"));
        worker.wait_for_line("every slot is lost", LONG);
        let control = Control::new(lab.app.broker().await.expect("a broker"));
        let told = control.to([&name]).timeout(LONG).workers().await.expect("an answer");
        assert_eq!(told.iter().map(|worker| worker.lost_slots).collect::<Vec<_>>(), [1]);
        // There is no free slot for it yet.
        let next = lab.send(pid.with()).await;
        fs::write(&file, "").expect("a file");
        worker.wait_for_line("its slot is free again", LONG);
        next.get().timeout(LONG).await.expect("it runs");
        let error = job.get().timeout(LONG).await.expect_err("it stays what it was");
        assert!(error.task_failure().is_some(), "{error:#}");
        worker.signal(Signal::TERM);
        let ended = worker.wait(LONG);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("succeeded=1 failed=1"), "{}", ended.stderr);
    });
}

#[test]
fn a_worker_without_slots_requeues_and_exits() {
    on_real_brokers(async |lab| {
        let worker = lab.worker(&["--grace", "1s"]);
        let spinning = [lab.send(spin_inside.with()).await, lab.send(spin_inside.with()).await];
        for job in spinning {
            job.get().timeout(LONG).await.expect_err("it fails");
        }
        let next = lab.send(pid.with()).await;
        let ended = worker.wait(LONG);
        assert_eq!(ended.status.code(), Some(75), "{}", ended.stderr);
        assert!(ended.stderr.contains("each of the 2 slots is held by a plain function"), "{}", ended.stderr);
        assert_eq!(lab.ready(&lab.place.queue).await, 1, "{}", lab.place.name);
        let _other = lab.worker(&[]);
        next.get().timeout(LONG).await.expect("another worker runs it");
    });
}
