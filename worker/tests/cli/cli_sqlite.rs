//! The operating commands, each as a process, on one SQLite file shared with a worker.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::support::{self, App, Program, Run, TASKS, Worker, eventually, mq_worker, scratch};
use serde_json::Value;
use tempfile::TempDir;

/// A file with queues, and commands that use it.
struct Shop(TempDir);

impl Shop {
    fn open() -> Self {
        let directory = scratch();
        support::make_database(&directory.path().join("jobs.db"));
        Self(directory)
    }

    fn program(&self) -> Program {
        let file = self.0.path().join("jobs.db");
        mq_worker().env("MQ_BROKER_URL", format!("sqlite:{}", file.display()))
    }

    fn run(&self, line: &[&str]) -> Run {
        self.program().args(line).run()
    }

    /// Returns the stdout of a command that must succeed.
    #[track_caller]
    fn says(&self, line: &[&str]) -> String {
        let run = self.run(line);
        run.succeeds();
        run.stdout.trim().to_owned()
    }

    #[track_caller]
    fn json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.says(line)).expect("JSON")
    }

    /// Sends a call and returns its id.
    #[track_caller]
    fn call(&self, task: &str, args: &str) -> String {
        self.says(&["call", task, "--queue", "counter", "--args", args])
    }

    /// Returns one figure of the queue `counter`.
    #[track_caller]
    fn figure(&self, name: &str) -> u64 {
        let queues = self.json(&["queues", "counter", "--json"]);
        queues[0][name].as_u64().expect("a number")
    }

    fn worker(&self) -> Worker {
        Worker::start(self.program().arg("--app").arg(app()).args([
            "--queues",
            "counter",
            "--concurrency",
            "2",
        ]))
    }
}

/// Returns the crate with the tasks, which is written once.
fn app() -> &'static Path {
    static APP: OnceLock<App> = OnceLock::new();
    APP.get_or_init(|| App::new("shop-on-sqlite").library(TASKS)).path()
}

#[test]
fn queues_are_listed_and_purged() {
    let shop = Shop::open();
    for _ in 0..3 {
        shop.call("sell", "[\"tea\"]");
    }
    shop.says(&["call", "sell", "--queue", "counter", "--args", "[\"tea\"]", "--countdown", "1h"]);
    assert_eq!((shop.figure("ready"), shop.figure("delayed"), shop.figure("consumers")), (3, 1, 0));
    let table = shop.says(&["queues"]);
    assert!(table.starts_with("QUEUE") && table.contains("counter.dead"), "{table}");

    let run = shop.run(&["queues", "counter", "nowhere"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("nowhere") && run.stdout.contains("counter"), "{run:?}");

    let run = shop.run(&["purge", "counter"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("--yes"), "{}", run.stderr);
    assert_eq!(shop.figure("ready"), 3, "nobody said yes");
    shop.says(&["purge", "counter", "--yes"]);
    assert_eq!(shop.figure("ready"), 0);
    assert_eq!(shop.run(&["purge", "nowhere", "--yes"]).code, Some(1));
}

#[test]
fn a_call_is_run_and_its_result_shown() {
    let shop = Shop::open();
    let _worker = shop.worker();
    let call = ["call", "sell", "--queue", "counter", "--wait", "240s"];
    assert_eq!(shop.says(&[&call[..], &["--args", "[\"tea\"]"]].concat()), "\"sold tea\"");
    assert_eq!(shop.says(&[&call[..], &["--kwargs", "{\"what\": \"cake\"}"]].concat()), "\"sold cake\"");

    let ship = ["call", "ship", "--queue", "counter", "--wait", "240s", "--args", "[\"tea\"]"];
    assert_eq!(shop.says(&ship), "\"shipped tea\"", "in a process of its own");

    let id = shop.call("sell", "[\"milk\"]");
    assert_eq!(shop.says(&["result", &id, "--wait", "60s"]), "\"sold milk\"");
    let record = shop.json(&["result", &id, "--json"]);
    assert_eq!((&record["status"], &record["result"]), (&"SUCCESS".into(), &"sold milk".into()));

    let run = shop.run(&["call", "refuse", "--queue", "counter", "--args", "[\"tea\"]", "--wait"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("no tea today") && run.stdout.is_empty(), "{run:?}");
}

#[test]
fn a_call_is_sent_as_it_was_typed() {
    let shop = Shop::open();
    let (args, kwargs) = ("[18446744073709551616, 1.10]", "{\"n\": 340282366920938463463374607431768211455}");
    let id = shop.says(&["call", "sell", "--queue", "counter", "--args", args, "--kwargs", kwargs]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let body = runtime.block_on(async {
        let broker_url =
            format!("sqlite:{}", shop.0.path().join("jobs.db").display()).parse().expect("a URL");
        let config = mq_worker::Config { broker_url, ..mq_worker::Config::default() };
        let broker = mq_worker::App::new(config).expect("an app").broker().await.expect("a broker");
        let delivery = broker.get("counter").await.expect("an answer").expect("a message");
        assert_eq!(delivery.message.id(), Some(id.as_str()));
        delivery.message.body.clone()
    });
    assert_eq!(body, format!("[{args},{kwargs},{{}}]"));
    for (option, typed) in [("--args", "[1e999]"), ("--args", "[NaN]"), ("--kwargs", "[]")] {
        let run = shop.run(&["call", "sell", "--queue", "counter", option, typed]);
        assert_eq!(run.code, Some(2), "{run:?}");
    }
}

#[test]
fn a_result_that_is_not_there_yet_is_told_apart() {
    let shop = Shop::open();
    let run = shop.run(&["call", "sell", "--queue", "counter", "--args", "[\"tea\"]", "--wait", "100ms"]);
    assert_eq!(run.code, Some(75), "{run:?}");
    assert!(run.stderr.contains("within 100ms"), "{}", run.stderr);
    let run = shop.run(&["result", "never-sent", "--json"]);
    assert_eq!(run.code, Some(75), "{run:?}");
    let record: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(record["status"], "PENDING");
}

#[test]
fn what_is_known_of_a_call_is_said_while_it_runs() {
    let shop = Shop::open();
    let worker = shop.worker();
    let id = shop.call("nap", "[600000]");
    let running = eventually("the call runs", || {
        let run = shop.run(&["result", &id]);
        if run.stderr.contains("is running on shop-on-sqlite@") { Ok(run) } else { Err(format!("{run:?}")) }
    });
    assert_eq!(running.code, Some(75), "{running:?}");
    let run = shop.run(&["result", &id, "--json"]);
    let record: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!((run.code, &record["status"]), (Some(75), &"STARTED".into()));
    let run = shop.run(&["result", "nonsense"]);
    assert!(
        run.code == Some(75) && run.stderr.contains("the only worker that replied does not run it"),
        "{run:?}"
    );

    // The crate declares its task's queue, which its worker also consumes.
    let call = ["call", "sell", "--wait", "240s", "--args", "[\"tea\"]"];
    let app = app().to_str().expect("a path").to_owned();
    assert_eq!(shop.says(&[&call[..], &["--app", &app]].concat()), "\"sold tea\"");
    assert_eq!(shop.says(&call), "\"sold tea\"");
    let run = shop.run(&["call", "sel", "--wait"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("nothing was sent") && run.stderr.contains("`default` has no worker"),
        "{run:?}"
    );
    assert!(!shop.says(&["queues"]).contains("default"), "nothing was made either");

    let said = shop.says(&["revoke", "nonsense", &id]);
    assert!(
        said.contains("nonsense is recorded as revoked for 7days: no worker that replied runs it"),
        "{said}"
    );
    assert!(said.contains(&format!("{id} is running on shop-on-sqlite@")), "{said}");

    // Messages held by a dead process do not count as running.
    let second = shop.worker();
    second.says("another worker has this name");
    assert!(!worker.log().contains("another worker"), "{}", worker.log());
    assert_eq!(shop.figure("running"), 1);
    drop((worker, second));
    eventually("the call is not running", || match (shop.figure("running"), shop.figure("ready")) {
        (0, 1) => Ok(()),
        figures => Err(format!("{figures:?}")),
    });
}

#[test]
fn a_task_without_a_queue_goes_to_the_default_queue_with_a_hint() {
    let shop = Shop::open();
    let run = shop.run(&["call", "sell", "--args", "[\"tea\"]"]);
    run.succeeds();
    assert!(run.stderr.contains("queue `default`") && run.stderr.contains("--queue"), "{}", run.stderr);
}

#[test]
fn dead_letters_are_listed_shown_replayed_and_dropped() {
    let shop = Shop::open();
    let worker = shop.worker();
    let ids: Vec<String> = ["tea", "milk", "cake"]
        .iter()
        .map(|what| {
            let id = shop.call("refuse", &format!("[{what:?}]"));
            assert_eq!(shop.run(&["result", &id, "--wait", "240s"]).code, Some(1));
            id
        })
        .collect();
    let listed = || -> Vec<String> {
        let letters = shop.json(&["dead", "list", "counter", "--json"]);
        letters
            .as_array()
            .expect("a list")
            .iter()
            .map(|letter| letter["id"].as_str().expect("an id").into())
            .collect()
    };
    // The result is stored before the dead letter is written, so the last one may still be missing.
    eventually("three dead letters", || match listed().len() {
        3 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(listed(), ids, "looking does not change the order");
    assert_eq!(listed(), ids, "nor does looking twice");
    assert!(shop.says(&["dead", "list", "counter"]).contains("no milk today"));

    let shown = shop.json(&["dead", "show", "counter", "--id", &ids[1], "--json"]);
    assert_eq!((shown.as_array().map(Vec::len), &shown[0]["args"][0]), (Some(1), &"milk".into()));
    assert!(shop.says(&["dead", "show", "counter.dead", "--id", &ids[2]]).contains("[\"cake\"]"));
    assert_eq!(shop.run(&["dead", "show", "counter", "--id", "nobody"]).code, Some(1));
    assert_eq!(shown[0]["attempts"][0]["attempt"], 1, "{shown:#}");
    let error = shown[0]["attempts"][0]["error"].as_str().expect("a text");
    assert!(error.contains("no milk today"), "{error}");
    let shown = shop.says(&["dead", "show", "counter", "--error", "NO MILK"]);
    assert!(shown.contains("attempt 1") && !shown.contains("tea"), "{shown}");
    let by_error = ["dead", "list", "counter", "--json", "--task", "refuse", "--error", "no milk"];
    let letters = shop.json(&by_error);
    assert_eq!((letters.as_array().map(Vec::len), &letters[0]["id"]), (Some(1), &ids[1].as_str().into()));
    assert_eq!(listed(), ids, "those that do not match stay where they are");

    worker.signal("TERM");
    assert_eq!(worker.ends().0, Some(0));
    assert_eq!(shop.says(&["dead", "replay", "counter", "--id", &ids[1]]), "1 message replayed");
    assert_eq!(listed(), [ids[0].clone(), ids[2].clone()]);
    assert_eq!(shop.figure("ready"), 1);
    assert_eq!(shop.says(&["dead", "replay", "counter", "--task", "another"]), "0 messages replayed");

    assert_eq!(shop.run(&["dead", "drop", "counter"]).code, Some(2), "nobody said yes");
    assert_eq!(shop.says(&["dead", "drop", "counter", "--error", "no milk", "--yes"]), "0 messages dropped");
    assert_eq!(shop.says(&["dead", "drop", "counter", "--limit", "1", "--yes"]), "1 message dropped");
    assert_eq!(listed(), [ids[2].clone()]);
    assert_eq!(shop.says(&["dead", "drop", "counter", "--yes"]), "1 message dropped");
    assert_eq!(listed(), [""; 0]);
    assert_eq!(shop.run(&["dead", "list", "nowhere"]).code, Some(1));
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_what_runs() {
    let shop = Shop::open();
    let worker = shop.worker();
    let id = shop.call("nap", "[1000]");
    until_running(&shop);
    worker.signal("TERM");
    let (code, log) = worker.ends();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(shop.says(&["result", &id]), "\"slept\"", "{log}");
    assert_eq!((shop.figure("ready"), shop.figure("running")), (0, 0));
}

#[test]
fn a_second_stop_signal_stops_at_once_and_requeues() {
    let shop = Shop::open();
    let worker = shop.worker();
    shop.call("nap", "[600000]");
    until_running(&shop);
    worker.signal("TERM");
    worker.says("repeat to stop at once");
    worker.signal("TERM");
    let (code, log) = worker.ends();
    assert_eq!(code, Some(143), "{log}");
    assert_eq!((shop.figure("ready"), shop.figure("running")), (1, 0), "{log}");
}

#[track_caller]
fn until_running(shop: &Shop) {
    eventually("a task that runs", || match shop.figure("running") {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_command_makes_no_database_and_calls_none_healthy() {
    let directory = scratch();
    let home = directory.path().canonicalize().expect("it exists");
    fs::write(home.join("empty.db"), "").expect("a file");
    let lines = [
        &["status"][..],
        &["status", "--json"],
        &["queues"],
        &["purge", "email", "--yes"],
        &["call", "sell", "--args", "[1]"],
        &["result", "some-id"],
        &["revoke", "some-id"],
        &["dead", "list", "email"],
        &["stop", "--all"],
        &["exchanges"],
        &["bindings"],
        &["declare", "queue", "email"],
        &["bind", "logs", "email"],
        &["delete", "queue", "email"],
    ];
    for (file, what) in [("typo.db", "there is no database"), ("empty.db", "empty file")] {
        for line in lines {
            let broker = format!("sqlite:{file}");
            let run = mq_worker().current_dir(&home).args(["--broker", &broker]).args(line).run();
            assert_eq!(run.code, Some(69), "{line:?}: {run:?}");
            let path = home.join(file).display().to_string();
            let said = [what, &path, "--broker sqlite:PATH", "MQ_BROKER_URL"];
            assert!(said.iter().all(|part| run.stderr.contains(part)), "{line:?}: {}", run.stderr);
            assert!(!run.stdout.contains("reachable"), "{line:?}: {}", run.stdout);
        }
    }
    assert_eq!(fs::metadata(home.join("empty.db")).expect("a file").len(), 0);
    assert_eq!(fs::read_dir(&home).expect("a directory").count(), 1, "nothing was made");
    // Nor is a database created just for results.
    support::make_database(&home.join("jobs.db"));
    let line = ["--broker", "sqlite:jobs.db", "--result-backend", "sqlite:typo.db", "result", "some-id"];
    let run = mq_worker().current_dir(&home).args(line).run();
    assert!(run.code == Some(69) && !home.join("typo.db").exists(), "{run:?}");
}

/// A workspace of two crates: a call sent by a web app in its root is run by the worker in the other crate's directory.
#[test]
fn all_of_a_workspace_meet_on_one_database() {
    let workspace = scratch();
    let root = workspace.path().canonicalize().expect("it exists");
    let member = "[package]\nname = 'x'\nversion = '0.1.0'\nedition = '2024'\n";
    fs::write(root.join("Cargo.toml"), "[workspace]\nmembers = ['web', 'jobs']\n").expect("a file");
    for name in ["web", "jobs/src"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    for name in ["web", "jobs"] {
        fs::write(root.join(name).join("Cargo.toml"), member.replace('x', name)).expect("a file");
    }
    fs::write(root.join("jobs/mq-worker.toml"), "[worker]\nconcurrency = 3\n").expect("a file");
    let database = root.join("mq-worker.db");
    support::make_database(&database);
    let url = format!("sqlite:{}", database.display());
    let mut sent = 0;
    for directory in [root.clone(), root.join("web"), root.join("jobs/src")] {
        let call = ["call", "sell", "--queue", "counter", "--args", "[1]"];
        mq_worker().current_dir(&directory).args(call).run().succeeds();
        sent += 1;
        let run = mq_worker().current_dir(&root.join("jobs")).args(["status", "--json"]).run();
        let status: Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!(status["broker"]["url"], url.as_str(), "{status}");
        let counter = |queue: &&Value| queue["name"] == "counter";
        let queue = status["queues"].as_array().expect("a list").iter().find(counter);
        assert_eq!(queue.expect("the queue")["ready"], sent, "{status}");
    }
    let run = mq_worker().args(["config", "--json", "--app"]).arg(root.join("jobs")).run();
    let config: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(config["home"], root.display().to_string(), "wherever it is started: {config}");
}

#[test]
fn the_settings_in_force_are_shown_with_their_origins() {
    let directory = scratch();
    let home = directory.path().canonicalize().expect("it exists");
    let below = home.join("deep/down");
    fs::create_dir_all(&below).expect("a directory");
    fs::write(home.join("mq-worker.toml"), "default_queue = 'jobs'\n\n[worker]\ngrace = '90s'\n")
        .expect("a file");
    let program = || {
        let program = mq_worker().current_dir(&below).env("MQ_CONCURRENCY", "7").env("MQ_HOST", "elsewhere");
        program.args(["--broker", "amqp://ada:hunter2@mq.example/shop", "config"])
    };
    let run = program().arg("--json").run();
    run.succeeds();
    assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
    let config: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let file = home.join("mq-worker.toml").display().to_string();
    assert_eq!(
        (&config["file"], &config["home"]),
        (&file.clone().into(), &home.display().to_string().into())
    );
    let settings = config["settings"].as_array().expect("a list");
    for (setting, value, from) in [
        ("broker_url", "amqp://ada:***@mq.example/shop", "--broker"),
        ("result_backend", "rpc://", "default"),
        ("default_queue", "jobs", &format!("{file}:1")),
        ("worker.grace", "1m 30s", &format!("{file}:4")),
        ("worker.concurrency", "7", "MQ_CONCURRENCY"),
        ("max_message_size", "16MiB", "default"),
        ("log_format", "text", "default"),
    ] {
        let shown = settings.iter().find(|shown| shown["setting"] == setting).expect(setting);
        assert_eq!((&shown["value"], &shown["from"]), (&value.into(), &from.into()), "{shown}");
    }
    let run = program().run();
    assert!(run.stdout.contains(&format!("configuration file: {file}")), "{}", run.stdout);
    // An unrelated variable is mentioned once and is not an error.
    assert_eq!(run.stderr.matches("MQ_HOST").count(), 1, "{}", run.stderr);
    assert!(!run.stderr.contains("elsewhere"), "{}", run.stderr);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let run = mq_worker().args(["--broker", "sqlite:/nowhere/at/all/jobs.db", "queues"]).run();
    assert!(run.code.is_some_and(|code| code != 0), "{run:?}");
    assert!(run.stderr.contains("/nowhere/at/all/jobs.db"), "{}", run.stderr);
}

/// A block of the README: a file with its content, or commands with their output.
enum Block {
    File(String, String),
    Console(Vec<(String, String)>),
}

/// Returns the section "Your own tasks" of the README, in order.
fn own_tasks() -> Vec<Block> {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("## Your own tasks").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("a section after it");
    let mut blocks = Vec::new();
    let mut parts = section.split("```");
    while let (Some(text), Some(code)) = (parts.next(), parts.next()) {
        let (kind, code) = code.split_once('\n').expect("a line");
        if kind == "console" {
            let commands = code.split("$ ").skip(1).map(|step| step.split_once('\n').expect("a line"));
            blocks.push(Block::Console(commands.map(|(line, out)| (line.into(), out.into())).collect()));
        } else {
            // The file name comes from the line above the block, such as "`src/lib.rs`, the tasks:".
            let last = text.trim_end().lines().last().expect("a line before the file");
            let name = last.split('`').nth(1).expect("the name of the file");
            blocks.push(Block::File(name.into(), code.into()));
        }
    }
    blocks
}

/// In an empty directory, word for word, except for the path of this checkout. With this workspace's lock file and profiles
/// the dependencies are already built.
#[test]
fn the_readme_can_be_followed_word_for_word() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let empty = scratch();
    let mut directory = empty.path().canonicalize().expect("it exists");
    let mut worker = None;
    for block in own_tasks() {
        match block {
            Block::File(name, content) => {
                let mut content =
                    content.replace("../mq-worker/worker", &format!("{}/worker", checkout.display()));
                if name == "Cargo.toml" {
                    let root = fs::read_to_string(checkout.join("Cargo.toml")).expect("a manifest");
                    content += root.find("[profile").map_or("", |at| &root[at..]);
                    fs::copy(checkout.join("Cargo.lock"), directory.join("Cargo.lock")).expect("a lock file");
                }
                fs::write(directory.join(name), content).expect("a file");
            }
            Block::Console(commands) => {
                for (line, printed) in commands {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    match words[..] {
                        // The command was already built for this test.
                        ["cargo", "install", ..] => {}
                        ["cd", name] => directory.push(name),
                        ["mq-worker", ref rest @ ..] => {
                            worker = Some(Worker::start(mq_worker().current_dir(&directory).args(rest)));
                        }
                        ["cargo", ref rest @ ..] => {
                            let run = support::program("cargo").current_dir(&directory).args(rest).run();
                            run.succeeds();
                            assert_eq!(run.stdout, printed, "{line}: {}", run.stderr);
                        }
                        _ => panic!("nobody knows how to run `{line}`"),
                    }
                }
            }
        }
    }
    worker.expect("a worker was started").signal("TERM");
    let ignored = fs::read_to_string(directory.join(".gitignore")).expect("a file");
    assert!(ignored.contains("mq-worker.db*") && directory.join("mq-worker.db").is_file());
}
