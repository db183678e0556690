//! Subscriptions to user-defined exchanges: fanout, direct and topic.

use mq_worker::{Context, ExchangeKind, Queue, Topology, task};
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};

use super::{app_with_tasks, waiting};

// Names in attributes are fixed, so the tests of this file share the exchanges and take turns.
static TURNS: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[task(exchange = "patterns.logs")]
fn logs_all(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("all", format!("{} {line}", ctx.exchange()));
}

#[task(exchange = "patterns.levels", topic = ["error", "warning"])]
fn logs_bad(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("bad", format!("{} {line}", ctx.routing_key()));
}

#[task(exchange = "patterns.facilities", topic = "kern.*")]
fn logs_kernel(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("kernel", format!("{} {line}", ctx.routing_key()));
}

fn exchanges() -> Topology {
    Topology::new()
        .exchange("patterns.logs", ExchangeKind::Fanout)
        .exchange("patterns.levels", ExchangeKind::Direct)
        .exchange("patterns.facilities", ExchangeKind::Topic)
}

#[test]
fn a_task_subscribes_to_an_exchange_of_any_kind() {
    let _turn = TURNS.lock();
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["logs_*"], |config| config.topology = exchanges());
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        for (exchange, key) in [
            ("patterns.logs", ""),
            ("patterns.logs", "whatever"),
            ("patterns.levels", "error"),
            ("patterns.levels", "warning"),
            ("patterns.facilities", "kern.critical"),
        ] {
            app.publish(exchange, key, "line").await.expect("published");
        }
        for (exchange, key) in [("patterns.levels", "info"), ("patterns.facilities", "cron.critical")] {
            let error = app.publish(exchange, key, "line").await.expect_err("nobody wants it");
            assert!(error.is_unroutable(), "{}: {error}", place.name);
        }
        let lines = || ["all", "bad", "kernel"].map(|key| journal.read(key).len());
        eventually("all ran", async || lines() == [2, 2, 1]).await;
        assert_eq!(running.stop().await.failed, 0, "{}", place.name);
        assert_eq!(journal.read("all"), ["patterns.logs line"; 2]);
        assert_eq!(journal.sorted("bad"), ["error line", "warning line"]);
        assert_eq!(journal.read("kernel"), ["kern.critical line"]);
        clean(&place, &app).await;
    });
}

#[test]
fn an_exchange_that_nobody_declared_is_an_error_that_names_it() {
    let _turn = TURNS.lock();
    everywhere(async |place| {
        let topology =
            Topology::new().queue(place.queue.as_str()).bind("no.such.exchange", &place.queue, "#");
        let app = place.app();
        let error = app.declare(&topology).await.expect_err("there is no such exchange");
        assert!(
            error.is_topology() && format!("{error:#}").contains("no.such.exchange"),
            "{}: {error:#}",
            place.name
        );
        let error = app.publish("no.such.exchange", "key", "x").await.expect_err("there is no such exchange");
        assert!(format!("{error:#}").contains("no.such.exchange"), "{}: {error:#}", place.name);
        assert!(error.is_topology(), "{}: {error:?}", place.name);
        // The connection is still usable.
        app.declare(&Topology::new().queue(place.queue.as_str())).await.expect("declared");
        app.publish("", &place.queue, "x").await.expect("published");
    });
}

#[test]
fn a_queue_that_exists_with_other_arguments_is_used_as_it_is() {
    let _turn = TURNS.lock();
    everywhere(async |place| {
        let theirs = Queue { max_length: Some(1000), ..Queue::new(&place.queue) };
        place.app().declare(&Topology::of_queue(theirs)).await.expect("declared");
        let app = app_with_tasks(&place, &["logs_*"], |config| config.topology = exchanges());
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        app.publish("patterns.logs", "", "line").await.expect("published");
        eventually("it ran", async || journal.read("all").len() == 1).await;
        running.stop().await;
        assert_eq!(waiting(&app, &place.dead()).await, Some(0), "{}", place.name);
        clean(&place, &app).await;
    });
}

/// Deletes the queue: it is bound to shared exchanges and would keep filling up.
async fn clean(place: &Place, app: &mq_worker::App) {
    app.broker().await.expect("a broker").delete_queue(&place.queue).await.expect("deleted");
}
