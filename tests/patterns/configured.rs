//! `[[routes]]` and `[topology]` of `mq-worker.toml` mean the same on every broker.

use std::process::Command;

use mq_worker::{App, Context, task};
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};

use super::waiting;

#[task(queue = "not-this-one")]
fn feed_import(ctx: &Context) {
    ctx.state::<Journal>().write("ran", format!("{} from {}", ctx.task(), ctx.queue()));
}

#[task(queue = "not-this-one")]
fn feed_urgent(ctx: &Context) {
    let priority = ctx.properties().priority.unwrap_or_default();
    ctx.state::<Journal>().write("ran", format!("{} with {priority}", ctx.task()));
}

#[task(queue = "not-this-one")]
fn feed_by_exchange(ctx: &Context) {
    ctx.state::<Journal>().write("ran", format!("{} with {}", ctx.task(), ctx.routing_key()));
}

#[task(topic = "stock.*")]
fn feed_event(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", format!("{} {line}", ctx.task()));
}

fn file(place: &Place) -> String {
    let (queue, url) = (&place.queue, place.url());
    format!(
        r#"
        broker_url = "{url}"
        topic_exchange = "{queue}.topics"

        [worker]
        queues = ["{queue}"]

        [[routes]]
        task = "feed_urgent"
        queue = "{queue}"
        priority = 7

        [[routes]]
        task = "feed_by_*"
        exchange = "{queue}.direct"
        routing_key = "import"

        [[routes]]
        task = "feed_*"
        queue = "{queue}"

        [[routes]]
        task = "feed_import"
        queue = "too-late-the-first-rule-wins"

        [topology]
        exchanges = [{{ name = "{queue}.direct", kind = "direct" }}, {{ name = "{queue}.all", kind = "fanout" }}]
        queues = [{{ name = "{queue}", max_priority = 9 }}, {{ name = "{queue}.copy", max_length = 2 }}]
        bindings = [
            {{ exchange = "{queue}.direct", queue = "{queue}", routing_key = "import" }},
            {{ exchange = "{queue}.all", queue = "{queue}.copy" }},
        ]
        "#
    )
}

/// Environment variables are per process, so this test starts itself again for each place.
const INSIDE: &str = "MQ_TEST_INSIDE";

#[test]
fn routes_and_topology_of_the_file_mean_the_same_on_every_broker() {
    if let Ok(queue) = std::env::var(INSIDE) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(inside(&queue));
    }
    everywhere(async |place| {
        let directory = support::temp_dir();
        let path = directory.path().join("mq-worker.toml");
        std::fs::write(&path, file(&place)).expect("written");
        let test = "patterns::configured::routes_and_topology_of_the_file_mean_the_same_on_every_broker";
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", test, "--nocapture"]).env("MQ_CONFIG", path).env(INSIDE, &place.queue);
        let output =
            tokio::task::spawn_blocking(move || command.output().expect("it starts")).await.expect("it ends");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains("1 passed"), "{}:\n{stdout}{stderr}", place.name);
    });
}

async fn inside(queue: &str) {
    let app = App::global().expect("the file is good");
    let journal = Journal::default();
    let running = Running::start(app.clone(), journal.shared());
    consumed(&app, queue, 1).await;
    feed_import.with().ignore_result().send().await.expect("sent");
    feed_urgent.with().ignore_result().send().await.expect("sent");
    feed_by_exchange.with().ignore_result().send().await.expect("sent");
    let _ = app.emit("stock.low", "an event").await.expect("emitted");
    eventually("all ran", async || journal.read("ran").len() == 4).await;
    let expected = [
        "feed_by_exchange with import".to_owned(),
        "feed_event an event".to_owned(),
        format!("feed_import from {queue}"),
        "feed_urgent with 7".to_owned(),
    ];
    assert_eq!(journal.sorted("ran"), expected);
    // The options of a call override the rule.
    let elsewhere = format!("{queue}.elsewhere");
    feed_import.with().queue(&elsewhere).ignore_result().send().await.expect("sent");
    eventually("it lies there", async || waiting(&app, &elsewhere).await == Some(1)).await;
    // The full queue keeps two of three messages; the oldest goes to its dead-letter queue, as with a task queue.
    for n in 0..3 {
        app.publish(&format!("{queue}.all"), "", n.to_string()).await.expect("published");
    }
    let copy = format!("{queue}.copy");
    eventually("two are kept", async || waiting(&app, &copy).await == Some(2)).await;
    eventually("one is dead-lettered", async || waiting(&app, &format!("{copy}.dead")).await == Some(1))
        .await;
    let broker = app.broker().await.expect("a broker");
    let oldest = broker.get(&copy).await.expect("an answer").expect("a message");
    assert_eq!(oldest.message.body, "1");
    oldest.ack();
    running.stop().await;
}
