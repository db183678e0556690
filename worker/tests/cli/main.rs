//! The `mq-worker` command as a process: its output and exit codes.
#![cfg(feature = "cli")]

#[cfg(feature = "sqlite")]
mod cli_operating;
#[cfg(feature = "sqlite")]
mod cli_sqlite;
#[cfg(all(feature = "sqlite", feature = "amqp"))]
mod dead_replay;
mod support;

use std::fs;

use support::{App, Run, Worker, mq_worker, scratch};

#[test]
fn help_shows_how_to_begin() {
    let run = mq_worker().arg("--help").run();
    run.succeeds();
    for text in ["mq-worker --queues email,sms", "Exit codes:", "--concurrency <N>", "MQ_BROKER_URL"] {
        assert!(run.stdout.contains(text), "{text} is not in\n{}", run.stdout);
    }
    for command in ["tasks", "build", "queues", "purge", "call", "result", "dead", "completions"] {
        let run = mq_worker().args([command, "--help"]).run();
        run.succeeds();
        assert!(run.stdout.contains("Usage: mq-worker"), "{}", run.stdout);
    }
}

#[test]
fn mistakes_on_the_command_line_end_with_2_and_say_what_is_right() {
    for (line, expected) in [
        (&["--quues", "email"][..], "--queues"),
        (&["--queues", ""], "it is empty"),
        (&["--queues", "email,,sms"], "it is empty"),
        (&["--queues", "amq.x"], "are the broker's own"),
        (&["--concurrency", "many"], "expected a whole number from 1 to 65535"),
        (&["--log-level", "loud"], "expected error, warn, info, debug, trace"),
        (&["--broker", "localhost"], "expected a URL such as amqp://localhost"),
        (&["--broker", "redis://localhost"], "expected amqp://HOST, amqps://HOST, sqlite:PATH"),
        (&["--result-backend", "mongodb://localhost"], "expected rpc://, redis://HOST"),
        (&["call", "add", "--args", "{}"], "expected a JSON array"),
        (&["call", "add", "--kwargs", "[1]"], "expected a JSON object"),
        (&["--broker", "memory://", "queues"], "exists within one process only"),
        (&["result", "some-id", "--broker", "amqp://localhost"], "call … --wait"),
        (&["completions", "cobol"], "possible values: bash"),
        (&["--queues", "email", "queues"], "--queues before `queues` is an option of the worker"),
    ] {
        let run = mq_worker().args(line).run();
        assert_eq!(run.code, Some(2), "{line:?}: {run:?}");
        assert!(run.stderr.contains(expected), "{line:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{line:?}");
    }
}

#[test]
fn mistakes_in_the_configuration_name_file_line_and_variable() {
    let directory = scratch();
    fs::write(directory.path().join("mq-worker.toml"), "\n[worker]\nconcurency = 3\n").expect("a file");
    let run = mq_worker().current_dir(directory.path()).arg("queues").run();
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(
        run.stderr
            .contains("mq-worker.toml:3: unknown key `concurency` in [worker]; did you mean `concurrency`?"),
        "{}",
        run.stderr
    );
    let run = mq_worker().env("MQ_BROKERURL", "sqlite:x").arg("queues").run();
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("MQ_BROKERURL is unknown; did you mean MQ_BROKER_URL?"), "{}", run.stderr);
    let run = mq_worker().env("MQ_CONFIG", "/nowhere/mq.toml").arg("queues").run();
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("/nowhere/mq.toml"), "{}", run.stderr);
}

#[test]
fn a_negative_duration_is_a_value_and_no_flag() {
    for flag in ["--grace", "--concurrency"] {
        let run = mq_worker().args([flag, "-5s"]).run();
        assert!(run.code == Some(2) && run.stderr.contains("expected a"), "{run:?}");
    }
}

#[test]
fn a_password_is_never_printed() {
    let secret = "amqp://user:hunter2@localhost:x/v";
    let file = scratch();
    fs::write(file.path().join("mq-worker.toml"), format!("broker_url = \"{secret}\nx = 1")).expect("a file");
    let runs = [
        mq_worker().args(["--broker", secret, "queues"]).run(),
        mq_worker().args(["--broker", "amqpp://user:hunter2@localhost", "queues"]).run(),
        mq_worker().args(["--brokr", secret]).run(),
        mq_worker().arg(format!("--brokr={secret}")).run(),
        mq_worker().arg(secret).run(),
        mq_worker().args(["--concurrency", secret]).run(),
        mq_worker().arg(format!("--log-format={secret}")).run(),
        mq_worker().env("MQ_BROKER_URL", secret).arg("queues").run(),
        mq_worker().env("MQ_GRACE", secret).arg("queues").run(),
        mq_worker().env("MQ_TOPOLOGY", format!("\"{secret}\"")).arg("queues").run(),
        mq_worker().args(["--broker", "amqp://a@h/v;amqp://user:hunter2@h2/v", "queues"]).run(),
        mq_worker().args(["--broker", "amqp://127.0.0.1:1/v?password=hunter2", "queues"]).run(),
        mq_worker().env("MQ_BROKER_URL", "amqp://user:hunter2").arg("queues").run(),
        mq_worker().env("MQ_BROKER_URL", "user:hunter2").arg("queues").run(),
        mq_worker().args(["--broker", "amqp://u:1/hunter2@127.0.0.1/v", "queues"]).run(),
        mq_worker().env("MQ_BROKER_URL", secret).args(["--log-level", "trace"]).arg("queues").run(),
        mq_worker().env("MQ_BROKER_URL", secret).arg("--help").run(),
        mq_worker().current_dir(file.path()).arg("queues").run(),
    ];
    for run in &runs {
        assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = mq_worker().args(["completions", shell]).run();
        run.succeeds();
        assert!(run.stdout.contains("mq-worker") && run.stdout.contains("queues"), "{shell}");
    }
}

#[test]
#[cfg(unix)]
fn a_closed_output_pipe_causes_no_error_output() {
    use std::process::Stdio;
    let mut child =
        mq_worker().args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_directory_without_tasks_is_told_the_ways_out() {
    let directory = scratch();
    let run = mq_worker().current_dir(directory.path()).args(["--queues", "email"]).run();
    assert_eq!(run.code, Some(66), "{run:?}");
    assert!(run.stderr.contains("--app DIR") && run.stderr.contains("mq_worker::main()"), "{}", run.stderr);
    let run = mq_worker().args(["--app", "/nowhere", "-q", "email"]).run();
    assert_eq!(run.code, Some(66), "{run:?}");
    assert!(run.stderr.contains("no Cargo.toml"), "{}", run.stderr);
}

#[test]
fn a_manifest_that_cargo_cannot_read_is_cargos_to_explain() {
    let directory = scratch();
    fs::write(directory.path().join("Cargo.toml"), "[package\n").expect("a file");
    let run = mq_worker().current_dir(directory.path()).args(["--queues", "email"]).run();
    assert_eq!(run.code, Some(101), "{run:?}");
    assert!(
        run.stderr.contains("Cargo.toml") && run.stderr.contains("see its message above"),
        "{}",
        run.stderr
    );
}

#[test]
fn without_cargo_it_says_how_to_do_without() {
    let app = App::new("no-cargo").library("");
    let run = mq_worker().current_dir(app.path()).env("CARGO", "/nowhere/cargo").arg("tasks").run();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("is not installed") && run.stderr.contains("mq-worker build"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_crate_with_only_a_binary_is_told_the_ways_out() {
    let app = App::new("only-binary").file("src/main.rs", "fn main() {}");
    let run = mq_worker().current_dir(app.path()).args(["--queues", "email"]).run();
    assert_eq!(run.code, Some(66), "{run:?}");
    assert!(run.stderr.contains("src/lib.rs") && run.stderr.contains("mq_worker::main()"), "{}", run.stderr);
}

/// One test for everything that is built, so that builds do not wait for each other's locks.
#[test]
fn a_worker_is_built_from_a_crate_with_tasks() {
    let app = App::new("shop-of-tests").library(support::TASKS);
    // In a directory below the crate, with a binary beside the library.
    let app = app.file("src/main.rs", "fn main() { println!(\"the shop itself\") }");
    let below = app.path().join("deep/down");
    fs::create_dir_all(&below).expect("a directory");

    let run = mq_worker().current_dir(&below).args(["tasks", "--json"]).run();
    run.succeeds();
    let tasks: serde_json::Value =
        serde_json::from_str(&run.stdout).expect("JSON and nothing else on stdout");
    let sell = &tasks[2];
    assert_eq!(sell["name"], "sell", "{tasks}");
    assert_eq!(sell["queue"], "counter", "{tasks}");
    assert_eq!(sell["doc"], "Sells one thing.", "{tasks}");

    // Nothing has changed, so nothing is recompiled.
    let run = mq_worker().current_dir(app.path()).arg("tasks").run();
    run.succeeds();
    assert!(run.stdout.contains("sell(what: String)"), "{}", run.stdout);
    assert!(!run.stderr.contains("Compiling"), "{}", run.stderr);

    // The flags reach the built worker wherever it is started.
    let elsewhere = scratch();
    let run = mq_worker()
        .current_dir(elsewhere.path())
        .args(["--app", &app.path().to_string_lossy(), "tasks"])
        .run();
    assert_eq!(run.code, Some(2), "{run:?}");
    let run = mq_worker()
        .current_dir(elsewhere.path())
        .args(["tasks", "--app", &app.path().to_string_lossy()])
        .env("MQ_ROUTES", "[{ task = 's*', queue = 'routed' }]")
        .run();
    run.succeeds();
    assert!(run.stdout.contains("routed"), "{}", run.stdout);

    #[cfg(unix)]
    a_worker_introduces_itself_and_stops_when_told(&app);
    an_error_of_the_compiler_is_shown(&app);
    a_crate_without_tasks_is_told_so(&app);
    a_renamed_dependency_in_a_workspace_is_found(&app);
}

#[test]
fn a_binary_for_deployment_is_built() {
    let app = App::new("shop-to-deploy").library(support::TASKS);
    let directory = scratch();
    // The profile of the other tests, so that little is compiled; the next test covers the default.
    let line = ["build", "--profile", "dev", "--out", "worker", "--app", &app.path().to_string_lossy()];
    let run = mq_worker().current_dir(directory.path()).args(line).run();
    run.succeeds();
    assert_eq!(run.stdout.trim(), "worker");
    // It needs neither cargo nor the crate.
    let worker = support::program(directory.path().join("worker")).env("CARGO", "/nowhere");
    let run = worker.arg("tasks").env("MQ_BROKER_URL", "memory://").run();
    run.succeeds();
    assert!(run.stdout.contains("sell(what: String)"), "{}", run.stdout);
    // A store that was not compiled in has a different error from one that does not exist.
    let line = ["--queues", "counter", "--result-backend", "redis://localhost"];
    let run = support::program(directory.path().join("worker")).args(line).run();
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("this build has no `redis`"), "{}", run.stderr);
    // In a directory the file keeps its own name.
    let run = mq_worker()
        .current_dir(directory.path())
        .args(["build", "--profile", "dev", "--out", "."])
        .arg("--app")
        .arg(app.path())
        .run();
    run.succeeds();
    assert!(directory.path().join("shop-to-deploy-mq-worker").is_file(), "{run:?}");
    assert_eq!(
        fs::read_dir(directory.path()).expect("a directory").count(),
        2,
        "nothing else is left behind"
    );
}

#[test]
#[cfg(unix)]
fn a_binary_for_deployment_is_optimised_unless_another_profile_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let app = App::new("shop-to-optimise").library("");
    let cargo = app.path().join("cargo");
    let real = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let script = format!("#!/bin/sh\n[ \"$1\" != build ] && exec {real} \"$@\"\necho \"$@\" >&2\nexit 3\n");
    fs::write(&cargo, script).expect("a file");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("a program");
    for (named, used) in [(&[][..], "--profile release"), (&["--profile", "dist"], "--profile dist")] {
        let line = ["build", "--out", "worker"];
        let run = mq_worker().current_dir(app.path()).env("CARGO", &cargo).args(line).args(named).run();
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.stderr.contains(used), "{}", run.stderr);
    }
}

#[cfg(unix)]
fn a_worker_introduces_itself_and_stops_when_told(app: &App) {
    let line = ["--queues", "counter,elsewhere", "-b", "memory://", "-c", "3", "--hostname", "till"];
    let worker = Worker::start(mq_worker().current_dir(app.path()).args(line));
    worker.says("none of these tasks has the queue `elsewhere`");
    worker.signal("INT");
    let (code, log) = worker.ends();
    assert_eq!(code, Some(0), "{log}");
    for text in
        ["mq-worker 0.1.0   till@", "memory://", "counter, elsewhere", "sell     counter   Sells one thing."]
    {
        assert!(log.contains(text), "`{text}` is not in\n{log}");
    }

    let worker = Worker::start(mq_worker().current_dir(app.path()).args(line).args(["--log-format", "json"]));
    worker.says("\"starting\"");
    worker.signal("TERM");
    let (code, log) = worker.ends();
    assert_eq!(code, Some(0), "{log}");
    let mut events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let starting = events.find(|event| event["message"] == "starting").expect("an event");
    assert_eq!(starting["queues"], "counter,elsewhere");
    assert_eq!(starting["concurrency"], 3);
}

fn an_error_of_the_compiler_is_shown(app: &App) {
    app.write("src/lib.rs", "pub fn broken() -> u32 { \"text\" }");
    let run = mq_worker().current_dir(app.path()).arg("tasks").run();
    assert_eq!(run.code, Some(101), "{run:?}");
    assert!(
        run.stderr.contains("mismatched types") && run.stderr.contains("cannot be built"),
        "{}",
        run.stderr
    );
}

fn a_crate_without_tasks_is_told_so(app: &App) {
    app.write("src/lib.rs", "pub fn nothing() {}");
    for line in [&["tasks"][..], &["--queues", "email"]] {
        let run = mq_worker().current_dir(app.path()).args(line).run();
        assert_eq!(run.code, Some(66), "{run:?}");
        assert!(run.stderr.contains("package `shop-of-tests` has no tasks"), "{}", run.stderr);
        assert_eq!(run.stderr.matches("Finished").count(), 1, "it is built once: {}", run.stderr);
    }
}

fn a_renamed_dependency_in_a_workspace_is_found(app: &App) {
    let manifest = app.read("Cargo.toml");
    let member = manifest.split("[workspace]").next().expect("a text").replace("mq-worker =", "mq = ");
    let member = member.replace("mq =  {", "mq = { package = \"mq-worker\",");
    app.write("member/Cargo.toml", &member);
    app.write("member/src/lib.rs", &format!("extern crate mq as mq_worker;\n{}", support::TASKS));
    let rest = manifest.split("[workspace]").nth(1).expect("a workspace");
    app.write("Cargo.toml", &format!("[workspace]\nmembers = ['member']\nresolver = '3'\n{rest}"));
    fs::remove_dir_all(app.path().join("src")).expect("a directory");
    // In the directory of the workspace, which is not a package itself.
    let run: Run = mq_worker().current_dir(app.path()).arg("tasks").run();
    run.succeeds();
    assert!(run.stdout.contains("sell(what: String)"), "{}", run.stdout);
}
