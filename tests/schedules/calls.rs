//! Running scheduled calls: what the task sees, and calls that must not overlap.

use std::time::Duration;

use mq_worker::app::schedules::Origin;
use mq_worker::{CatchUp, Context, Overlap, Schedule, Timing, task};
use support::journal::Journal;
use support::places::{Running, eventually};

use super::lab::{Lab, Scheduler};

#[task(name = "schedules.add")]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(name = "schedules.see")]
async fn see(ctx: &Context) {
    let due = ctx.scheduled_at().map(|due| due.to_rfc3339()).unwrap_or_default();
    ctx.state::<Journal>().write(ctx.schedule().unwrap_or_default(), due);
}

#[task(name = "schedules.slow")]
async fn slow(ctx: &Context) {
    let journal = ctx.state::<Journal>();
    journal.write("slow", "begin");
    tokio::time::sleep(Duration::from_millis(3500)).await;
    journal.write("slow", "end");
}

/// Every scheduler of this program has it.
#[task(name = "task:tick", every = "1s", queue = "schedules-tick", catch_up = "none")]
async fn tick(ctx: &Context) {
    ctx.state::<Journal>().write(ctx.schedule().unwrap_or_default(), ctx.queue());
}

fn every_second() -> Timing {
    Timing::every(Duration::from_secs(1)).expect("an interval")
}

async fn run(lab: &Lab, schedule: Schedule, time: Duration) -> Journal {
    let journal = Journal::default();
    let running = Running::start(lab.app(), journal.shared());
    lab.app().schedules().put(schedule.queue(&lab.queue)).await.expect("put");
    let scheduler = Scheduler::start(lab.app());
    tokio::time::sleep(time).await;
    scheduler.stop();
    running.stop().await;
    journal
}

async fn sees(lab: Lab) {
    let journal =
        run(&lab, Schedule::new("seen", "schedules.see", every_second()), Duration::from_secs(5)).await;
    let seen = journal.read("seen");
    assert!(seen.len() >= 2, "{}: {seen:?}", lab.name);
    assert!(seen.iter().all(|due| due.ends_with(":00+00:00") || due.contains('T')), "{seen:?}");
    let mut once = seen.clone();
    once.dedup();
    assert_eq!(once, seen);
}

/// With the policy the runs never overlap; without it the same schedule makes them overlap.
async fn overlaps(lab: Lab) {
    for (overlap, most) in [(Overlap::Skip, 1), (Overlap::Queue, 1), (Overlap::Allow, i32::MAX)] {
        let schedule = Schedule::new(overlap.as_str(), "schedules.slow", every_second()).overlap(overlap);
        let journal = run(&lab, schedule, Duration::from_secs(9)).await;
        lab.app().schedules().remove(overlap.as_str()).await.expect("removed");
        let (mut running, mut highest, mut begun) = (0, 0, 0);
        for line in journal.read("slow") {
            match line.as_str() {
                "begin" => (running, begun) = (running + 1, begun + 1),
                _ => running -= 1,
            }
            highest = highest.max(running);
        }
        assert!(highest <= most, "{}: {highest} at once with {overlap:?}", lab.name);
        assert!(begun >= 2, "{}: {begun} runs with {overlap:?}", lab.name);
        assert!(
            overlap != Overlap::Allow || highest >= 2,
            "{}: {highest} at once with {overlap:?}",
            lab.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_at_a_task_needs_nothing_else() {
    let lab = Lab::sqlite().expect("a file");
    let journal = Journal::default();
    let app = lab.app_with(|config| config.worker.queues = vec!["schedules-tick".into()]);
    let running = Running::start(app.clone(), journal.shared());
    let scheduler = Scheduler::start(lab.app());
    eventually("it runs twice", async || journal.read("task:tick").len() >= 2).await;
    let found = app.schedules().get("task:tick").await.expect("an answer").expect("the schedule");
    assert_eq!((found.origin, found.schedule.catch_up), (Origin::Code, CatchUp::None));
    scheduler.stop();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_sees_when_it_was_due_on_memory() {
    sees(Lab::memory().expect("memory")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_sees_when_it_was_due_on_sqlite() {
    sees(Lab::sqlite().expect("a file")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_sees_when_it_was_due_on_rabbitmq() {
    if let Some(lab) = Lab::rabbitmq() {
        sees(lab).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_overlap_on_memory() {
    overlaps(Lab::memory().expect("memory")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_overlap_on_sqlite() {
    overlaps(Lab::sqlite().expect("a file")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_overlap_on_rabbitmq() {
    if let Some(lab) = Lab::rabbitmq() {
        overlaps(lab).await;
    }
}
