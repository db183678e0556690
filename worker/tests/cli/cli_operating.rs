//! `status`, `stop` and the commands around exchanges, queues and bindings, on an SQLite file.

use std::path::Path;
use std::time::Duration;

use crate::support::{self, Run, mq_worker, scratch};
use mq_worker::broker::Publication;
use mq_worker::message::Message;
use mq_worker::{App, Config, Summary, Worker};
use serde_json::Value;
use tokio::task::JoinHandle;

/// A broker in a file, and the command line for it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(scratch());
        support::make_database(&place.path().join("queue.db"));
        place
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path().join("queue.db").display())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, line: &[&str]) -> Run {
        mq_worker().args(["--broker", &self.url()]).args(line).run()
    }

    #[track_caller]
    fn good(&self, line: &[&str]) -> String {
        let run = self.run(line);
        assert_eq!(run.code, Some(0), "{line:?}: {run:?}");
        run.stdout
    }

    #[track_caller]
    fn json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.run(line).stdout).expect("JSON on stdout")
    }

    #[track_caller]
    fn bad(&self, line: &[&str], code: i32, expected: &str) {
        let run = self.run(line);
        assert_eq!(run.code, Some(code), "{line:?}: {run:?}");
        assert!(run.stderr.contains(expected), "{line:?}: {}", run.stderr);
    }

    fn app(&self, name: &str) -> App {
        let mut config = Config { broker_url: self.url().parse().expect("a URL"), ..Config::default() };
        config.worker.hostname = Some(name.into());
        config.worker.queues = vec!["email".into(), "sms".into()];
        config.worker.concurrency = 7;
        App::new(config).expect("a good configuration")
    }

    fn worker(
        &self,
        runtime: &tokio::runtime::Runtime,
        name: &str,
    ) -> JoinHandle<mq_worker::Result<Summary>> {
        runtime.spawn(Worker::new(self.app(name)).expect("a worker").run())
    }

    fn publish(&self, runtime: &tokio::runtime::Runtime, exchange: &str, key: &str) -> mq_worker::Result<()> {
        let message = Message { body: "{}".into(), ..Message::default() };
        let (exchange, routing_key) = (exchange.into(), key.into());
        let publication =
            Publication { exchange, routing_key, message, mandatory: true, ..Publication::default() };
        runtime.block_on(async { self.app("client@h").broker().await?.publish(publication).await })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn status_and_stop_see_the_workers_that_there_are() {
    let (place, runtime) = (Place::new(), runtime());
    let run = place.run(&["status"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stdout.contains("is reachable (SQLite)") && run.stderr.contains("no worker replied"),
        "{run:?}"
    );
    assert_eq!(place.good(&["stop", "--all"]), "");
    place.bad(&["stop", "one@h"], 1, "no worker named one@h replied");

    let one = place.worker(&runtime, "one@h");
    let two = place.worker(&runtime, "two@h");
    place.good(&["declare", "queue", "lonely"]);
    place.publish(&runtime, "", "lonely").expect("published");
    let names = |status: &Value| -> Vec<String> {
        let workers = status["workers"].as_array().expect("a list");
        workers.iter().map(|worker| worker["name"].as_str().expect("a name").to_owned()).collect()
    };
    let status = support::eventually("both workers", || {
        let status = place.json(&["status", "--json"]);
        if names(&status) == ["one@h", "two@h"] { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["broker"]["reachable"], true);
    let worker = &status["workers"][0];
    assert_eq!(worker["queues"], serde_json::json!(["email", "sms"]));
    assert_eq!((&worker["concurrency"], &worker["running"]), (&7.into(), &0.into()));
    let queue = |name: &str| {
        let queues = status["queues"].as_array().expect("a list").clone();
        queues.into_iter().find(|queue| queue["name"] == name).unwrap_or_else(|| panic!("{name}: {status}"))
    };
    assert_eq!((&queue("email")["ready"], &queue("email")["consumers"]), (&0.into(), &2.into()));
    assert_eq!(queue("lonely")["ready"], 1);
    let age = queue("lonely")["oldest_seconds"].as_f64().expect("an age");
    assert!((0.0..600.0).contains(&age), "{age}");
    assert!(!status.to_string().contains("pidbox"), "mailboxes are not shown: {status}");
    let run = place.run(&["status"]);
    run.succeeds();
    assert!(run.stdout.contains("one@h") && run.stdout.contains("email,sms"), "{}", run.stdout);
    assert!(run.stderr.contains("waiting messages: lonely"), "{}", run.stderr);
    assert!(!place.good(&["queues"]).contains("pidbox"));

    place.bad(&["stop"], 2, "one@h, two@h");
    place.bad(&["stop", "one@h", "three@h"], 1, "no worker named three@h replied");
    assert_eq!(names(&place.json(&["status", "--json"])).len(), 2, "a mistyped name stops nobody");
    assert_eq!(place.good(&["stop", "one@h"]), "one@h stopped\n");
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), one).await });
    ended.expect("in time").expect("no panic").expect("a good end");
    assert_eq!(names(&place.json(&["status", "--json"])), ["two@h"]);
    assert_eq!(place.good(&["stop", "--all"]), "two@h stopped\n");
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), two).await });
    ended.expect("in time").expect("no panic").expect("a good end");
}

#[test]
fn all_workers_of_one_name_are_stopped_and_counted() {
    let (place, runtime) = (Place::new(), runtime());
    let workers = [place.worker(&runtime, "same@h"), place.worker(&runtime, "same@h")];
    support::eventually("both workers", || {
        let status = place.json(&["status", "--json"]);
        let count = status["workers"].as_array().map_or(0, Vec::len);
        if count == 2 { Ok(()) } else { Err(status.to_string()) }
    });
    let run = place.run(&["stop", "same@h"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stdout.matches("same@h (process ").count(), 2, "{run:?}");
    assert!(
        run.stderr.contains("2 workers are called same@h") && run.stderr.contains("2 workers stopped"),
        "{run:?}"
    );
    for worker in workers {
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), worker).await });
        ended.expect("in time").expect("no panic").expect("a good end");
    }
}

#[test]
fn a_broker_that_cannot_be_reached_is_69_and_the_reason_is_shown() {
    if !cfg!(feature = "amqp") {
        return;
    }
    // A port that was just free has no listener.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("free")
        .port();
    let url = format!("amqp://guest:hidden@127.0.0.1:{port}");
    let line = ["--broker", &url, "status", "--json"];
    let run = mq_worker().env("MQ_PUBLISH_TIMEOUT", "1s").args(line).run();
    assert_eq!(run.code, Some(69), "{run:?}");
    let status: Value = serde_json::from_str(&run.stdout).expect("JSON on stdout");
    assert_eq!(status["broker"]["reachable"], false);
    assert!(!run.stdout.contains("hidden") && !run.stderr.contains("hidden"), "{run:?}");
    let reason = format!("no connection to `amqp://guest:***@127.0.0.1:{port}`: Connection refused");
    for line in [
        "status",
        "queues",
        "stop",
        "purge work",
        "pause work",
        "revoke an-id",
        "control ping",
        "dead list work",
    ] {
        let line = ["--broker", &url].into_iter().chain(line.split(' '));
        let run = mq_worker().env("MQ_PUBLISH_TIMEOUT", "1s").args(line).run();
        let error = run.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(run.code == Some(69) && error.contains(&reason), "{run:?}");
        // The mailbox of this command means nothing to its user.
        assert!(!error.contains("pidbox") && !error.contains("hidden"), "{error}");
    }
}

#[test]
fn exchanges_queues_and_bindings_are_made_shown_and_taken_away() {
    let (place, runtime) = (Place::new(), runtime());
    place.good(&["declare", "exchange", "orders", "--kind", "topic"]);
    place.good(&["declare", "exchange", "orders", "--kind", "topic"]);
    place.good(&["declare", "queue", "stock", "--max-length", "2", "--overflow", "reject-publish"]);
    place.good(&["bind", "orders", "stock", "order.*.paid"]);
    let exchanges = place.json(&["exchanges", "orders", "--json"]);
    assert_eq!((&exchanges[0]["name"], &exchanges[0]["kind"]), (&"orders".into(), &"topic".into()));
    let bindings = place.json(&["bindings", "--json"]);
    assert_eq!(bindings.as_array().expect("a list").len(), 1, "{bindings}");
    assert_eq!(bindings[0]["routing_key"], "order.*.paid");
    assert!(place.good(&["bindings", "--queue", "stock"]).contains("order.*.paid"));
    assert!(!place.good(&["bindings", "--exchange", "other"]).contains("order.*.paid"));
    place.publish(&runtime, "orders", "order.eu.paid").expect("routed");
    place.publish(&runtime, "orders", "order.us.paid").expect("routed");
    assert!(place.publish(&runtime, "", "stock").expect_err("full").is_rejected());
    let names = place.good(&["queues"]);
    assert!(names.contains("stock.dead"), "a dead-letter queue goes with it: {names}");

    place.bad(&["delete", "queue", "stock", "--if-empty", "--yes"], 1, "it is not empty (messages: 2)");
    place.bad(&["delete", "queue", "stock"], 2, "use --yes");
    place.bad(&["delete", "exchange", "orders", "--yes"], 1, "use --force to delete it anyway");
    assert_eq!(
        place.good(&["delete", "queue", "stock", "--yes"]),
        "queue `stock` deleted, with 2 messages\n"
    );
    place.bad(&["delete", "queue", "stock", "--yes"], 1, "there is no queue `stock`");
    place.good(&["delete", "exchange", "orders", "--yes"]);
    place.bad(&["delete", "exchange", "orders", "--yes"], 1, "there is no exchange `orders`");
    place.bad(&["exchanges", "orders"], 1, "not found on sqlite:");

    place.good(&["declare", "queue", "plain", "--plain"]);
    assert!(!place.good(&["queues"]).contains("plain.dead"));
    place.good(&["declare", "exchange", "news", "--kind", "fanout"]);
    place.good(&["bind", "news", "plain"]);
    place.publish(&runtime, "news", "").expect("routed");
    place.good(&["unbind", "news", "plain"]);
    assert!(place.publish(&runtime, "news", "").expect_err("nobody gets it").is_unroutable());
}

#[test]
fn what_cannot_be_done_is_said_and_loses_nothing() {
    let (place, runtime) = (Place::new(), runtime());
    let worker = place.worker(&runtime, "one@h");
    support::eventually("the worker", || {
        let status = place.run(&["status"]);
        if status.code == Some(0) { Ok(()) } else { Err(format!("{status:?}")) }
    });
    place.bad(&["delete", "queue", "email", "--yes"], 1, "it is in use (consumers: 1)");
    assert_eq!(place.json(&["queues", "email", "--json"])[0]["consumers"], 1);
    place.bad(&["bind", "nowhere", "email", "k"], 1, "nowhere");
    place.good(&["declare", "exchange", "here"]);
    place.bad(&["bind", "here", "nothing", "k"], 1, "nothing");
    place.bad(&["declare", "exchange", "here", "--kind", "fanout"], 1, "it exists as direct");
    let long = "x".repeat(256);
    place.bad(&["bind", "here", "email", &long], 2, "256 bytes long");
    place.bad(&["declare", "queue", &long], 2, "longer than 255 bytes");
    place.bad(&["declare", "exchange", &long], 2, "longer than 255 bytes");
    place.bad(&["delete", "queue", &long, "--yes"], 2, "longer than 255 bytes");
    place.bad(&["declare", "queue", "amq.mine"], 2, "are the broker's own");
    place.bad(&["declare", "queue", "a", "--overflow", "drop-head"], 2, "--max-length");
    place.good(&["stop", "--all"]);
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), worker).await });
    ended.expect("in time").expect("no panic").expect("a good end");
}

#[test]
fn what_is_paused_is_shown_and_can_be_resumed() {
    let (place, runtime) = (Place::new(), runtime());
    place.good(&["declare", "queue", "email"]);
    place.publish(&runtime, "", "email").expect("published");
    assert_eq!(place.good(&["pause", "email"]), "queue `email` is paused until it is resumed\n");
    let run = place.run(&["pause", "sms", "--task", "send", "--until", "9000-01-01T00:00:00Z"]);
    run.succeeds();
    assert!(run.stdout.contains("task `send` is paused until 9000-01-01T00:00:00Z"), "{}", run.stdout);
    assert!(run.stderr.contains("there is no queue `sms`"), "{}", run.stderr);
    place.good(&["pause", "email", "--until", "1h"]);

    let queues = place.json(&["queues", "--json"]);
    let email = queues.as_array().expect("a list").iter().find(|queue| queue["name"] == "email");
    let email = email.unwrap_or_else(|| panic!("{queues}"));
    assert!(email["paused"] == true && email["paused_until"].is_string(), "{email}");
    let run = place.run(&["status"]);
    assert!(run.stdout.contains("PAUSED") && run.stdout.contains("until 2"), "{}", run.stdout);
    assert!(run.stderr.contains("task `send` is paused until it is resumed"), "{}", run.stderr);
    assert!(!run.stderr.contains("waiting messages: email"), "it is meant: {}", run.stderr);
    assert_eq!(place.json(&["status", "--json"])["paused_tasks"][0]["task"], "send");

    assert_eq!(place.good(&["resume", "email"]), "queue `email` is resumed\n");
    assert_eq!(place.good(&["resume", "email", "--task", "send"]).lines().count(), 2);
    assert!(place.good(&["queues", "email", "--json"]).contains("\"paused\": false"));
    let run = place.run(&["status"]);
    assert!(
        run.stderr.contains("waiting messages: email") && !run.stderr.contains("is paused"),
        "{}",
        run.stderr
    );
    place.bad(&["pause"], 2, "required");
    place.bad(&["pause", "email", "--until", "yesterday"], 2, "expected a duration");
    place.bad(&["pause", "email", "--until", "2001-01-01T00:00:00Z"], 2, "in the past");
}

#[test]
#[cfg(unix)]
fn bash_completes_the_names_that_the_broker_knows() {
    let place = Place::new();
    let runtime = runtime();
    for queue in ["email", "events"] {
        place.good(&["declare", "queue", queue]);
    }
    // A name that a shell would execute; no call with it is ever run.
    let odd = Publication {
        routing_key: "e$(touch pwned)".into(),
        message: Message { body: "{}".into(), ..Message::default() },
        ..Publication::default()
    };
    runtime.block_on(async { place.app("client@h").broker().await?.publish(odd).await }).expect("published");
    let worker = place.worker(&runtime, "greeter@host-1");
    support::eventually("the worker replies", || match place.run(&["status"]).code {
        Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let program = Path::new(env!("CARGO_BIN_EXE_mq-worker")).parent().expect("a directory");
    let search = std::env::var("PATH").unwrap_or_default();
    let replies = |line: &str| {
        // Split words like readline, which also breaks at `@` and `=` but not within a comma-separated list.
        let script = format!(
            "eval \"$(mq-worker completions bash)\"; COMP_LINE={line:?}; COMP_POINT=${{#COMP_LINE}}; \
             COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _mq_worker_names mq-worker \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = std::process::Command::new("bash")
            .args(["--norc", "-c", &script])
            .current_dir(place.path())
            .env("PATH", format!("{}:{search}", program.display()))
            .env("MQ_BROKER_URL", place.url())
            .output()
            .expect("bash");
        assert!(output.stderr.is_empty(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(replies("mq-worker purge e"), ["email", "email.dead", "events", "events.dead"]);
    assert_eq!(replies("mq-worker --queues=sms,ev"), ["sms,events", "sms,events.dead"]);
    assert_eq!(replies("mq-worker stop gre"), ["greeter@host-1"]);
    assert_eq!(replies("mq-worker stop greeter@ho"), ["host-1"]);
    // Clap's own completions are still offered.
    assert!(replies("mq-worker pu").contains(&"purge".to_owned()));
    place.good(&["stop", "greeter@host-1"]);
    runtime.block_on(worker).expect("no panic").expect("it ends well");
    // A missing broker: no names, and no output.
    std::fs::remove_file(place.path().join("queue.db")).expect("removed");
    assert_eq!(replies("mq-worker stop gre"), Vec::<String>::new());
    assert!(!place.path().join("queue.db").exists() && !place.path().join("pwned").exists());
}
