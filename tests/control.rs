//! Remote control of workers, on every broker.

use std::sync::Arc;
use std::time::Duration;

use crate::dashboard::{api::get, site::Site};
use mq_worker::broker::Broker;
use mq_worker::control::{Control, Reply, WorkerInfo};
use mq_worker::{App, Config, Context, Prefetch, SharedState, task};
use serde_json::{Map, Value, json};
use support::places::{Place, Running, eventually, everywhere};
use support::{Node, shared, unique};
use tokio::sync::Semaphore;

/// Blocks tasks until the test releases them.
#[derive(Clone)]
struct Gate(Arc<Semaphore>);

impl Gate {
    fn closed() -> (Self, SharedState) {
        let gate = Self(Arc::new(Semaphore::new(0)));
        let mut state = SharedState::default();
        state.insert(gate.clone());
        (gate, state)
    }
}

#[task(name = "control.wait")]
async fn wait(ctx: &Context, what: String) -> String {
    let gate = ctx.state::<Gate>();
    gate.0.acquire().await.expect("never closed").forget();
    what
}

/// Configures a worker with a unique name: on RabbitMQ all tests share the exchange of the commands.
fn named(place: &Place) -> (App, String) {
    let name = format!("{}@test", unique("worker"));
    let app = place.app_with(|config| {
        config.worker.hostname = Some(name.clone());
        config.worker.concurrency = 4;
    });
    (app, name)
}

async fn control(app: &App) -> Control {
    Control::new(app.broker().await.expect("a broker")).timeout(Duration::from_secs(5))
}

async fn ask(control: &Control, method: &str, arguments: Value) -> Value {
    let Value::Object(arguments) = arguments else { panic!("an object") };
    let replies = control.ask(method, arguments).await.expect("replies");
    let [Reply { value, .. }] = &replies[..] else { panic!("one reply to {method}: {replies:?}") };
    value.clone()
}

async fn answers(control: &Control) -> bool {
    let quick = control.timeout(Duration::from_millis(500));
    quick.ask("ping", Map::new()).await.is_ok_and(|replies| !replies.is_empty())
}

async fn mailboxes(broker: &dyn Broker, of: &str) -> Vec<String> {
    let queues = broker.queues(&[]).await.expect("a list");
    queues.into_iter().map(|queue| queue.name).filter(|name| name.starts_with(of)).collect()
}

#[test]
fn a_worker_answers_inspection() {
    everywhere(async |place| {
        let (app, name) = named(&place);
        let (gate, state) = Gate::closed();
        let running = Running::start(app.clone(), state);
        // A separate connection, as an operator would use.
        let control = control(&place.app()).await.to([&name]);
        eventually("the worker answers", || answers(&control)).await;
        assert_eq!(ask(&control, "ping", json!({})).await, json!({"ok": "pong"}), "{}", place.name);

        let job = app.send(wait.with("hello").queue(&place.queue)).await.expect("sent");
        eventually("the task runs", || async {
            ask(&control, "stats", json!({})).await["running"] == json!(1)
        })
        .await;
        let active = ask(&control, "active", json!({})).await;
        assert_eq!(active[0]["id"], job.id(), "{}: {active}", place.name);
        assert_eq!((&active[0]["name"], &active[0]["args"]), (&json!("control.wait"), &json!(["hello"])));
        assert_eq!(ask(&control, "query_task", json!({"ids": [job.id()]})).await[job.id()][0], "active");
        let stats = ask(&control, "stats", json!({})).await;
        assert_eq!(stats["total"], json!({"control.wait": 1}));
        assert_eq!(ask(&control, "active_queues", json!({})).await[0]["name"], json!(place.queue));
        let registered = ask(&control, "registered", json!({"taskinfoitems": ["max_retries"]})).await;
        assert!(registered.as_array().expect("a list").contains(&json!("control.wait [max_retries=3]")));
        assert_eq!(ask(&control, "nonsense", json!({})).await, json!({"error": "KeyError('nonsense')"}));

        let info: Vec<WorkerInfo> = control.workers().await.expect("workers");
        assert_eq!(info.len(), 1, "{}: {info:?}", place.name);
        assert_eq!((&info[0].name, info[0].running, info[0].concurrency), (&name, Some(1), Some(4)));
        assert_eq!((&info[0].queues, info[0].stopping), (&vec![place.queue.clone()], false));

        gate.0.add_permits(1);
        job.get().timeout(Duration::from_secs(20)).await.expect("a result");
        eventually("nothing runs", || async { ask(&control, "active", json!({})).await == json!([]) }).await;
        running.stop().await;
        let quick = control.timeout(Duration::from_millis(300));
        assert_eq!(quick.ask("ping", Map::new()).await.expect("no error"), [], "{}", place.name);
    });
}

#[test]
fn a_shutdown_is_warm_and_a_worker_that_stops_can_still_be_asked() {
    everywhere(async |place| {
        let (app, name) = named(&place);
        let (gate, state) = Gate::closed();
        let running = Running::start(app.clone(), state);
        let operator = place.app();
        let control = control(&operator).await.to([&name]);
        eventually("the worker answers", || answers(&control)).await;
        let job = app.send(wait.with("last words").queue(&place.queue)).await.expect("sent");
        eventually("the task runs", || async {
            ask(&control, "stats", json!({})).await["running"] == json!(1)
        })
        .await;
        let before = control.workers().await.expect("workers");
        control.tell("shutdown", Map::new()).await.expect("told");
        eventually("it stops", || async { control.workers().await.expect("workers")[0].stopping }).await;
        let left = control.wait_until_gone(&before, Some(Duration::from_millis(1))).await.expect("asked");
        assert_eq!(left, before, "{}: it finishes what it runs", place.name);
        gate.0.add_permits(1);
        assert_eq!(running.ended().await.succeeded, 1, "{}", place.name);
        let quick = control.timeout(Duration::from_millis(300));
        assert_eq!(quick.wait_until_gone(&before, None).await.expect("asked"), []);
        assert_eq!(job.get().timeout(Duration::from_secs(20)).await.expect("a result"), "last words");
        let broker = operator.broker().await.expect("a broker");
        if broker.capabilities().lists_queues {
            assert_eq!(mailboxes(&*broker, &name).await, [""; 0], "{}: nothing is left behind", place.name);
        }
    });
}

#[test]
fn slots_and_queues_are_changed_while_a_worker_runs() {
    everywhere(async |place| {
        let (app, name) = named(&place);
        let (gate, state) = Gate::closed();
        let running = Running::start(app.clone(), state);
        let control = control(&place.app()).await.to([&name]);
        eventually("the worker answers", || answers(&control)).await;
        let count = async |what: &str| ask(&control, "stats", json!({})).await[what].as_u64();
        assert_eq!(ask(&control, "pool_grow", json!({"n": 4})).await, json!({"ok": "pool will grow"}));
        let stats = ask(&control, "stats", json!({})).await;
        assert_eq!((&stats["pool"]["max-concurrency"], &stats["prefetch_count"]), (&json!(8), &json!(8)));
        let send = async |queue: &str| app.send(wait.with("a").queue(queue)).await.expect("sent");
        let jobs = [send(&place.queue).await, send(&place.queue).await, send(&place.queue).await];
        let more = [send(&place.queue).await, send(&place.queue).await, send(&place.queue).await];
        // More than the four slots and the prefetch of four that it started with.
        eventually("six run", async || count("running").await == Some(6)).await;
        assert_eq!(ask(&control, "pool_shrink", json!({"n": 7})).await, json!({"ok": "pool will shrink"}));
        assert_eq!(ask(&control, "stats", json!({})).await["pool"]["max-concurrency"], 1);
        let refused = ask(&control, "pool_shrink", json!({"n": 1})).await;
        assert!(refused["error"].as_str().is_some_and(|why| why.contains("one has to stay")), "{refused}");
        gate.0.add_permits(6);
        for job in jobs.iter().chain(&more) {
            job.get().timeout(Duration::from_secs(20)).await.expect("a result");
        }
        let (one, other) = (send(&place.queue).await, send(&place.queue).await);
        eventually("one runs", async || count("running").await == Some(1)).await;
        gate.0.add_permits(2);
        for job in [one, other] {
            job.get().timeout(Duration::from_secs(20)).await.expect("a result");
        }

        let added = format!("{}.added", place.queue);
        let ok = |text: String| json!({ "ok": text });
        let queue = json!({"queue": added, "exchange": null, "exchange_type": "direct", "routing_key": null});
        let told = ask(&control, "add_consumer", queue.clone()).await;
        assert_eq!(told, ok(format!("add consumer {added}")), "{}", place.name);
        assert_eq!(
            ask(&control, "add_consumer", queue.clone()).await,
            ok(format!("already consuming from {added}"))
        );
        gate.0.add_permits(1);
        send(&added).await.get().timeout(Duration::from_secs(20)).await.expect("a result");
        let queues = ask(&control, "active_queues", json!({})).await;
        assert_eq!((&queues[0]["name"], &queues[1]["name"]), (&json!(place.queue), &json!(added)));
        let told = ask(&control, "cancel_consumer", queue).await;
        assert_eq!(told, ok(format!("no longer consuming from {added}")));
        let broker = app.broker().await.expect("a broker");
        eventually("nobody consumes from it", async || {
            let found = broker.queues(std::slice::from_ref(&added)).await.expect("an answer");
            found.first().is_some_and(|queue| queue.consumers == 0)
        })
        .await;
        let refused = ask(&control, "add_consumer", json!({"queue": "x".repeat(300)})).await;
        assert!(refused["error"].is_string(), "{refused}");
        running.stop().await;
    });
}

#[test]
fn reserved_messages_are_listed_and_do_not_count_as_running() {
    everywhere(async |place| {
        let name = format!("{}@test", unique("worker"));
        let app = place.app_with(|config| {
            config.worker.hostname = Some(name.clone());
            config.worker.concurrency = 1;
            config.worker.prefetch = Prefetch::Fixed(10);
        });
        let (gate, state) = Gate::closed();
        let running = Running::start(app.clone(), state);
        let control = control(&place.app()).await.to([&name]);
        eventually("the worker answers", || answers(&control)).await;
        let mut jobs = Vec::new();
        for number in 0..3 {
            let call = wait.with(number.to_string()).queue(&place.queue);
            jobs.push(app.send(call).await.expect("sent"));
        }
        eventually("it has reserved two", async || {
            ask(&control, "reserved", json!({})).await.as_array().map(Vec::len) == Some(2)
        })
        .await;
        let reserved = ask(&control, "reserved", json!({})).await;
        let first = &reserved[0];
        assert_eq!((&first["name"], &first["time_start"]), (&json!("control.wait"), &Value::Null), "{first}");
        assert_eq!(first["delivery_info"]["queue"], json!(place.queue), "{first}");
        let id = first["id"].as_str().expect("an id").to_owned();
        let found = ask(&control, "query_task", json!({"ids": [id]})).await;
        assert_eq!(found[&id][0], "reserved", "{}: {found}", place.name);
        let asked = jobs.iter().find(|job| job.id() == id).expect("one of ours");
        assert_eq!(asked.state().await.expect("known"), mq_worker::State::Pending, "{}", place.name);
        assert_eq!(ask(&control, "scheduled", json!({})).await, json!([]));
        gate.0.add_permits(3);
        for job in jobs {
            job.get().timeout(Duration::from_secs(20)).await.expect("a result");
        }
        assert_eq!(ask(&control, "reserved", json!({})).await, json!([]), "{}", place.name);
        running.stop().await;
    });
}

#[test]
fn time_limits_are_changed_while_a_worker_runs() {
    everywhere(async |place| {
        let (app, name) = named(&place);
        let (_gate, state) = Gate::closed();
        let running = Running::start(app.clone(), state);
        let control = control(&place.app()).await.to([&name]);
        eventually("the worker answers", || answers(&control)).await;
        let limit = json!({"task_name": "control.wait", "hard": 0.05, "soft": null});
        assert_eq!(ask(&control, "time_limit", limit).await, json!({"ok": "time limits set successfully"}));
        let unknown = json!({"task_name": "nonsense", "hard": 1, "soft": 1});
        assert_eq!(ask(&control, "time_limit", unknown).await, json!({"error": "unknown task"}));
        let wrong = ask(&control, "time_limit", json!({"task_name": "control.wait", "hard": -1})).await;
        assert!(wrong["error"].as_str().is_some_and(|why| why.contains("hard is -1")), "{wrong}");
        let job = app.send(wait.with("too long").queue(&place.queue)).await.expect("sent");
        eventually("it is retried", async || {
            ask(&control, "stats", json!({})).await["total"]["control.wait"].as_u64() >= Some(1)
                && ask(&control, "active", json!({})).await == json!([])
        })
        .await;
        drop(job);
        let none = json!({"task_name": "control.wait", "rate_limit": "0"});
        assert_eq!(
            ask(&control, "rate_limit", none).await,
            json!({"ok": "rate limit disabled successfully"})
        );
        let some =
            ask(&control, "rate_limit", json!({"task_name": "control.wait", "rate_limit": "5/m"})).await;
        assert!(some["error"].as_str().is_some_and(|why| why.contains("nothing was changed")), "{some}");
        running.stop().await;
    });
}

#[test]
fn a_worker_without_remote_control_is_silent_and_works() {
    everywhere(async |place| {
        let name = format!("{}@test", unique("silent"));
        let app = place.app_with(|config| {
            config.worker.hostname = Some(name.clone());
            config.worker.control = false;
        });
        let (gate, state) = Gate::closed();
        gate.0.add_permits(1);
        let running = Running::start(app.clone(), state);
        let job = app.send(wait.with("quietly").queue(&place.queue)).await.expect("sent");
        assert_eq!(job.get().timeout(Duration::from_secs(20)).await.expect("a result"), "quietly");
        let control = control(&place.app()).await.timeout(Duration::from_millis(300));
        assert_eq!(control.to([&name]).ask("ping", Map::new()).await.expect("no error"), []);
        running.stop().await;
    });
}

/// Runs a test that would disturb other users of its broker.
fn on_a_node_of_its_own<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F) {
    if !shared::may_start_rabbitmq(file!()) {
        return;
    }
    let node = Node::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    let within = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(180), test(node)).await });
    assert!(within.is_ok(), "the test hangs");
    runtime.shutdown_timeout(Duration::from_secs(1));
}

fn app(url: &str, name: &str) -> App {
    let mut config = Config { broker_url: url.parse().expect("a URL"), ..Config::default() };
    config.worker.queues = vec!["free.work".into()];
    config.worker.hostname = Some(name.into());
    App::new(config).expect("a good configuration")
}

#[test]
fn remote_control_comes_back_after_a_lost_connection_and_a_restarted_broker() {
    on_a_node_of_its_own(async |mut node| {
        let app = app(&node.url(), "survivor@test");
        let (_gate, state) = Gate::closed();
        let running = Running::start(app.clone(), state);
        let control = control(&self::app(&node.url(), "client@test")).await.to(["survivor@test"]);
        eventually("the worker answers", || answers(&control)).await;
        node.close_all_connections();
        eventually("the worker answers after a lost connection", || answers(&control)).await;
        // The exchange of the commands is not durable: it must be declared again.
        node.restart();
        eventually("the worker answers after a restart", || answers(&control)).await;
        running.stop().await;
    });
}

#[test]
fn a_worker_that_may_not_have_a_mailbox_works_all_the_same() {
    on_a_node_of_its_own(async |node| {
        node.ctl.run(["add_user", "limited", "secret"]);
        // Everything except names that contain `pidbox`.
        let most = "^(?!.*pidbox).*$";
        node.ctl.run(["set_permissions", "-p", "/", "limited", most, most, most]);
        let (_, address) =
            node.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a URL");
        let app = app(&format!("amqp://limited:secret@{address}"), "limited@test");
        let (gate, state) = Gate::closed();
        gate.0.add_permits(1);
        let running = Running::start(app.clone(), state);
        let job = app.send(wait.with("all the same").queue("free.work")).await.expect("sent");
        assert_eq!(job.get().timeout(Duration::from_secs(20)).await.expect("a result"), "all the same");
        let error = Control::new(app.broker().await.expect("a broker")).ask("ping", Map::new()).await;
        assert!(error.expect_err("refused").is_access_refused());
        assert_eq!(running.stop().await.succeeded, 1);
    });
}

/// Under the memory alarm RabbitMQ accepts no control commands, but it still reports queue lengths.
#[test]
fn status_and_page_show_the_memory_alarm_and_queue_lengths() {
    on_a_node_of_its_own(async |node| {
        let app = app(&node.url(), "sender@test");
        app.send(wait.with("it waits").queue("free.work").ignore_result()).await.expect("sent");
        let site = Site::without_worker(|config| {
            config.broker_url = node.url().parse().expect("a URL");
            config.worker.queues = vec!["free.work".into()];
        })
        .await;
        node.set_memory_alarm(true);
        // The page keeps reading during the alarm: if it only waited for its commands, it would report the broker as away.
        support::eventually("the page tells of the alarm", Duration::from_secs(40), || async {
            let overview = get(&site, "/api/v1/overview").await;
            assert!(overview["broker"]["away_since"].is_null(), "{overview}");
            let problem = &overview["problems"][0];
            let is_told = problem["title"] == "RabbitMQ takes no messages"
                && problem["hint"].as_str().is_some_and(|hint| hint.contains("low on memory"));
            (is_told && overview["queues"].to_string().contains("free.work")).then_some(())
        })
        .await;
        // Any program with our `main` has the subcommands.
        let mut status = std::process::Command::new(env!("CARGO_BIN_EXE_health-worker"));
        status.arg("status").env("MQ_BROKER_URL", node.url()).env("MQ_QUEUES", "free.work");
        let status = status.env("MQ_PUBLISH_TIMEOUT", "2s").output().expect("it starts");
        node.set_memory_alarm(false);
        let (told, why) = (String::from_utf8_lossy(&status.stdout), String::from_utf8_lossy(&status.stderr));
        assert_eq!(status.status.code(), Some(69), "{told}{why}");
        assert!(told.contains("is reachable") && told.contains("free.work"), "{told}{why}");
        assert!(why.contains("low on memory") && !why.contains("task id"), "{why}");
    });
}
