//! A pause survives a restart of the worker and of the broker.

use mq_worker::{App, Config};
use support::journal::Journal;
use support::node::Node;
use support::places::{Running, consumed, eventually};
use support::shared::may_start_rabbitmq;

use super::{ready, send};

fn app(url: &str) -> App {
    let mut config = Config { broker_url: url.parse().expect("a URL"), ..Config::default() };
    config.worker.queues = vec!["paused".into(), "open".into()];
    App::new(config).expect("a good configuration")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime can be built")
}

#[test]
fn a_pause_survives_a_restart_of_worker_and_broker() {
    if !may_start_rabbitmq("pauses") {
        return;
    }
    let node = Node::start();
    let url = node.url();
    let journal = Journal::default();
    let run = runtime();
    run.block_on(async {
        let app = app(&url);
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, "paused", 1).await;
        app.pause("paused").await.expect("paused");
        consumed(&app, "paused", 0).await;
        send(&app, "paused", "waits").await;
        running.stop().await;
    });
    drop(run);
    // Stopped, not killed: RabbitMQ 3.10 is late to record on disk that a stream exists.
    node.ctl.run(["stop_app"]);
    node.ctl.run(["start_app"]);
    let run = runtime();
    run.block_on(async {
        let app = app(&url);
        let running = Running::start(app.clone(), journal.shared());
        send(&app, "open", "runs").await;
        eventually("the worker works", async || journal.read("ran") == ["runs"]).await;
        assert_eq!(ready(&app, "paused").await, 1);
        // A running worker also keeps the pause through a restart of its broker.
        node.ctl.run(["stop_app"]);
        node.ctl.run(["start_app"]);
        consumed(&app, "open", 1).await;
        send(&app, "open", "runs again").await;
        eventually("the worker is back", async || journal.read("ran") == ["runs", "runs again"]).await;
        assert_eq!(ready(&app, "paused").await, 1);
        app.resume("paused").await.expect("resumed");
        eventually("it runs", async || journal.read("ran").contains(&"waits".to_owned())).await;
        running.stop().await;
    });
}
