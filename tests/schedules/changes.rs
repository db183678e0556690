//! Changes at run time apply to all schedulers and are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use mq_worker::app::schedules::Origin;
use mq_worker::{App, CatchUp, Schedule, Timing};
use serde_json::json;

use super::lab::{Lab, Listener, Scheduler};

macro_rules! everywhere {
    ($($case:ident)*) => {$(
        mod $case {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn memory() {
                super::$case(Lab::memory().expect("memory")).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$case(Lab::sqlite().expect("a file")).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn rabbitmq() {
                if let Some(lab) = Lab::rabbitmq() {
                    super::$case(lab).await;
                }
            }
        }
    )*};
}

everywhere! {
    what_is_put_is_seen_by_all_and_acted_upon
    a_paused_schedule_sends_nothing
    what_was_missed_follows_its_policy
    a_clock_that_jumps_neither_storms_nor_stalls
    the_hand_wins_over_the_file
    bad_schedules_are_refused
}

#[test]
fn more_schedules_than_a_broker_keeps_are_refused() {
    let lab = Lab::memory().expect("memory");
    let many = (0..=100_000).map(|number| lab.every(&format!("s{number}"), 60)).collect();
    let app = lab.app_with(|config| config.schedules = many);
    let error = mq_worker::Beat::new(app).expect_err("too many").to_string();
    assert!(error.contains("and a broker keeps 100000 at most"), "{error}");
}

async fn names(app: &App) -> Vec<String> {
    let list = app.schedules().list().await.expect("a list");
    list.into_iter().map(|found| found.schedule.name).filter(|name| !name.starts_with("task:")).collect()
}

async fn what_is_put_is_seen_by_all_and_acted_upon(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let (one, other) = (lab.app(), lab.app());
    let scheduler = Scheduler::start(lab.app());
    let schedule = lab.every("often", 1).arg(7).kwarg("who", "me").header("tenant", "x");
    one.schedules().put(schedule.clone()).await.expect("put");
    let found = other.schedules().get("often").await.expect("an answer").expect("the schedule");
    assert_eq!((found.schedule, found.origin, found.paused), (schedule, Origin::Hand, false));
    assert!(found.next.is_some_and(|next| next > Utc::now() - TimeDelta::seconds(2)));
    let arrived = listener.wait_for("often", 2).await;
    let seen = support::eventually("the last run is listed", Duration::from_secs(10), async || {
        other
            .schedules()
            .get("often")
            .await
            .expect("an answer")
            .expect("the schedule")
            .runs
            .into_iter()
            .next()
    })
    .await;
    assert!(
        listener
            .wait_for("often", arrived.len())
            .await
            .iter()
            .any(|call| call.id == seen.id && call.due == seen.due)
    );
    // The new timing takes effect.
    one.schedules().put(lab.every("often", 3600)).await.expect("put");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = listener.of("often").len();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(listener.of("often").len(), before, "it is due once an hour now");
    let id = other.schedules().run("often").await.expect("run now");
    let all = listener.wait_for("often", before + 1).await;
    assert_eq!(all.last().expect("one").id, id);
    // The schedules survive the scheduler.
    scheduler.stop();
    assert_eq!(names(&lab.app()).await, ["often"]);
    one.schedules().remove("often").await.expect("removed");
    assert_eq!(names(&other).await, Vec::<String>::new());
    let error = other.schedules().remove("often").await.expect_err("it is gone");
    assert!(error.to_string().contains("there is no schedule `often`"), "{error}");
}

async fn a_paused_schedule_sends_nothing(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let app = lab.app();
    app.schedules().put(lab.every("often", 1)).await.expect("put");
    let scheduler = Scheduler::start(lab.app());
    listener.wait_for("often", 1).await;
    app.schedules().pause("often", None).await.expect("paused");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = listener.of("often").len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(listener.of("often").len(), before);
    let found = app.schedules().get("often").await.expect("an answer").expect("the schedule");
    assert_eq!((found.paused, found.paused_until, found.next), (true, None, None));
    let resumed = Utc::now();
    app.schedules().resume("often").await.expect("resumed");
    let after = listener.wait_for("often", before + 2).await;
    assert!(
        after[before..].iter().all(|call| call.due > resumed),
        "what was due meanwhile is skipped: {after:?}"
    );
    let until = Utc::now() + TimeDelta::seconds(3);
    app.schedules().pause("often", Some(until)).await.expect("paused");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = listener.of("often").len();
    let again = listener.wait_for("often", before + 1).await;
    assert!(again[before].due > until - TimeDelta::seconds(1), "{again:?}");
    scheduler.stop();
}

async fn what_was_missed_follows_its_policy(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let app = lab.app();
    let policies = [("none", CatchUp::None), ("last", CatchUp::Last), ("all", CatchUp::All)];
    for (name, catch_up) in policies {
        app.schedules().put(lab.every(name, 600).catch_up(catch_up)).await.expect("put");
    }
    let ahead = Arc::<AtomicI64>::default();
    let first = Scheduler::with_clock(lab.app(), &ahead);
    tokio::time::sleep(Duration::from_secs(3)).await;
    first.kill();
    // A little over an hour without a scheduler: six due times, none of them within the last half minute.
    let now = Utc::now().timestamp();
    let gap = 3600 + (600 - (now + 3600) % 600) + 120;
    ahead.store(gap, Ordering::Relaxed);
    let before: Vec<usize> = policies.iter().map(|(name, _)| listener.of(name).len()).collect();
    let second = Scheduler::with_clock(lab.app(), &ahead);
    listener.wait_for("all", before[2] + 6).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let came: Vec<usize> =
        policies.iter().zip(&before).map(|((name, _), before)| listener.of(name).len() - before).collect();
    assert!(came == [0, 1, 7] || came == [0, 1, 6], "{came:?}");
    assert!(listener.counted().values().all(|count| *count == 1));
    second.stop();
}

async fn a_clock_that_jumps_neither_storms_nor_stalls(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let app = lab.app();
    app.schedules().put(lab.every("often", 2)).await.expect("put");
    let ahead = Arc::<AtomicI64>::default();
    let scheduler = Scheduler::with_clock(lab.app(), &ahead);
    listener.wait_for("often", 1).await;
    for jump in [3 * 3600, 0] {
        ahead.store(jump, Ordering::Relaxed);
        let before = listener.of("often").len();
        tokio::time::sleep(Duration::from_secs(9)).await;
        let came = listener.of("often").len() - before;
        // Four or five regular calls; after the jump forward also those of the last half minute, which are merely late.
        let most = if jump > 0 { 5 + 16 } else { 6 };
        assert!((3..=most).contains(&came), "{came} calls in nine seconds after a jump to {jump}");
    }
    let ids: std::collections::BTreeSet<String> =
        listener.of("often").into_iter().map(|call| call.id).collect();
    assert_eq!(ids.len(), listener.of("often").len(), "each call has an id of its own");
    scheduler.stop();
}

async fn the_hand_wins_over_the_file(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let in_file = lab.every("shared", 3600);
    let with_file = |schedules: Vec<Schedule>| lab.app_with(move |config| config.schedules = schedules);
    let scheduler = Scheduler::start(with_file(vec![in_file.clone()]));
    let app = lab.app();
    let get = async || app.schedules().get("shared").await.expect("an answer");
    let found = support::eventually("the file is read", Duration::from_secs(20), &get).await;
    assert_eq!((found.schedule, found.origin), (in_file.clone(), Origin::File));
    let error = app.schedules().remove("shared").await.expect_err("it is in the file");
    assert!(error.to_string().contains("in `mq-worker.toml`"), "{error}");
    app.schedules().put(lab.every("shared", 1)).await.expect("put");
    let found = get().await.expect("the schedule");
    assert_eq!((found.origin, found.overrules), (Origin::Hand, vec![Origin::File]));
    listener.wait_for("shared", 1).await;
    // A restart does not undo manual changes.
    scheduler.stop();
    let scheduler = Scheduler::start(with_file(vec![in_file.clone()]));
    let before = listener.of("shared").len();
    listener.wait_for("shared", before + 1).await;
    app.schedules().remove("shared").await.expect("removed");
    assert_eq!(get().await.expect("the file's").schedule, in_file);
    scheduler.stop();
    // A schedule removed from the file is gone after the next start.
    let scheduler = Scheduler::start(with_file(vec![]));
    support::eventually("it is gone", Duration::from_secs(20), async || get().await.is_none().then_some(()))
        .await;
    scheduler.stop();
}

async fn bad_schedules_are_refused(lab: Lab) {
    let app = lab.app();
    let hourly = Timing::every(Duration::from_secs(3600)).expect("an interval");
    for (schedule, words) in [
        (Schedule::new("", "t", hourly.clone()), "is empty"),
        (Schedule::new("n".repeat(201), "t", hourly.clone()), "201 bytes"),
        (Schedule::new("a", "t", hourly.clone()).jitter(Duration::from_secs(3601)), "jitter"),
        (Schedule::new("a", "t", hourly.clone()).header("id", 1), "belongs to the protocol"),
        (Schedule::new("a", "t", hourly.clone()).queue(""), "queue"),
        (
            Schedule::new("a", "schedules.add", hourly.clone()).arg("one").arg(2),
            "do not fit task `schedules.add`",
        ),
        (Schedule::new("a", "schedules.add", hourly.clone()).arg(1), "do not fit task `schedules.add`"),
        (
            Schedule::new("a", "schedules.add", hourly.clone()).arg(1).kwarg("c", 2),
            "do not fit task `schedules.add`",
        ),
        (Schedule::new("a", "t", hourly.clone()).arg("x".repeat(20 << 20)), "`max_message_size`"),
    ] {
        let error = app.schedules().put(schedule).await.expect_err(words);
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
    let fits = Schedule::new("a", "schedules.add", hourly).arg(1).kwarg("b", json!(2));
    app.schedules().put(fits).await.expect("these fit");
    assert_eq!(names(&app).await, ["a"]);
    assert!(app.schedules().pause("b", None).await.is_err());
}
