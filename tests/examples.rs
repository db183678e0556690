//! Runs the commands in each example's README as written and compares their output.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::python::{Python, python};
use support::readme::{Readme, Step};
use support::{Process, shared, temp_dir};

fn steps(example: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example).join("README.md");
    let readme = Readme::read(&path);
    assert!(readme.lines() < 40, "{example}: a README that is read");
    readme.steps()
}

fn start(step: &Step, broker: &str, input: &[u8]) -> Process {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec {}", step.command)).current_dir(root);
    command.env("MQ_BROKER_URL", broker).env("PYTHONUNBUFFERED", "1");
    Process::spawn_with_input(&mut command, input)
}

/// Runs a step to completion.
fn check(step: &Step, broker: &str) {
    let ended = start(step, broker, b"").wait(Duration::from_secs(240));
    let printed = format!("{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.status.success(), "`{}` failed:\n{printed}", step.command);
    step.check_output(&printed);
}

/// Runs an example without a server first, and then with one.
fn run(example: &str) {
    let directory = temp_dir();
    let file = format!("sqlite:{}", directory.path().join("queue.db").display());
    for broker in std::iter::once(file).chain(shared::fresh_rabbitmq("examples")) {
        for step in steps(example) {
            check(&step, &broker);
        }
    }
}

#[test]
fn hello() {
    run("hello");
}

#[test]
fn work_queue() {
    run("work-queue");
}

#[test]
fn logs() {
    run("logs");
}

#[test]
fn orders() {
    run("orders");
}

#[test]
fn rpc() {
    run("rpc");
}

#[test]
fn schedules() {
    run("schedules");
}

#[test]
fn with_python() {
    let Some(python) = python("pika") else { return };
    let broker = shared::fresh_rabbitmq("examples").expect("there is one where there is Python for it");
    let steps = steps("python");
    let [rust, script] = &steps[..] else { panic!("two commands: {steps:?}") };
    // The program exits when its input ends; `sleep` holds that open for now.
    let held = Step { command: format!("sh -c 'sleep 100 | {}'", rust.command), expected: Vec::new() };
    let worker = start(&held, &broker, b"");
    support::eventually_blocking("the worker consumes", Duration::from_secs(240), || {
        let (_, host) = broker.rsplit_once('/')?;
        let queues = shared::rabbitmq("examples")?.ctl.run(["list_queues", "-p", host, "name", "consumers"]);
        queues.lines().any(|line| line == "from-python\t1").then_some(())
    });
    check(&with_interpreter(&python, script), &broker);
    for line in &rust.expected {
        worker.wait_for_line(line, Duration::from_secs(30));
    }
}

/// Replaces `python3` by the interpreter that has pika.
fn with_interpreter(python: &Python, step: &Step) -> Step {
    let interpreter = python.interpreter().display().to_string();
    Step { command: step.command.replacen("python3", &interpreter, 1), expected: step.expected.clone() }
}
