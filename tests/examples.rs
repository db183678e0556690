//! The commands in the README of each example, run as they stand there, and what they print.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::python::{Python, python};
use support::{Process, shared, temp_dir, unique};

/// A command of a README, and lines that it prints.
#[derive(Debug)]
struct Step {
    command: String,
    expected: Vec<String>,
}

/// The steps in the ```` ```console ```` blocks.
fn steps(example: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example).join("README.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text.lines().count() < 40, "{example}: a README that is read");
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line.strip_prefix("$ ")) {
            (false, _) => inside = line == "```console",
            (true, _) if line == "```" => inside = false,
            (true, Some(command)) => steps.push(Step { command: command.into(), expected: Vec::new() }),
            (true, None) => steps.last_mut().expect("a command first").expected.push(line.into()),
        }
    }
    assert!(!steps.is_empty(), "{example}: no command in its README");
    steps
}

impl Step {
    fn start(&self, broker: &str, input: &[u8]) -> Process {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec {}", self.command)).current_dir(root);
        command.env("MQ_BROKER_URL", broker).env("PYTHONUNBUFFERED", "1");
        Process::spawn_with_input(&mut command, input)
    }

    /// Runs it to its end.
    fn check(&self, broker: &str) {
        let ended = self.start(broker, b"").wait(Duration::from_secs(240));
        let printed = format!("{}\n{}", ended.stdout, ended.stderr);
        assert!(ended.status.success(), "`{}` failed:\n{printed}", self.command);
        self.check_output(&printed);
    }

    /// Every expected line is there; what runs at the same time may come in any order.
    fn check_output(&self, printed: &str) {
        for expected in &self.expected {
            let found = printed.lines().any(|line| matches(expected, line));
            assert!(found, "`{}` does not print `{expected}`:\n{printed}", self.command);
        }
    }
}

/// `[..]` stands for any text.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A virtual host of a test's own, where nothing was declared before.
fn fresh_rabbitmq() -> Option<String> {
    let shared = shared::rabbitmq("examples")?;
    let host = unique("examples");
    shared.ctl.run(["add_vhost", &host]);
    shared.ctl.run(["set_permissions", "-p", &host, "guest", ".*", ".*", ".*"]);
    let (server, _) = shared.url.rsplit_once('/').expect("a URL with a virtual host");
    Some(format!("{server}/{host}"))
}

/// Without a server first, and then with one.
fn run(example: &str) {
    let directory = temp_dir();
    let file = format!("sqlite:{}", directory.path().join("queue.db").display());
    for broker in std::iter::once(file).chain(fresh_rabbitmq()) {
        for step in steps(example) {
            step.check(&broker);
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
fn with_python() {
    let Some(python) = python("pika") else { return };
    let broker = fresh_rabbitmq().expect("there is one where there is Python for it");
    let steps = steps("python");
    let [rust, script] = &steps[..] else { panic!("two commands: {steps:?}") };
    // It ends with its input, which `sleep` holds open meanwhile.
    let held = Step { command: format!("sh -c 'sleep 100 | {}'", rust.command), expected: Vec::new() };
    let worker = held.start(&broker, b"");
    support::eventually_blocking("the worker consumes", Duration::from_secs(240), || {
        let (_, host) = broker.rsplit_once('/')?;
        let queues = shared::rabbitmq("examples")?.ctl.run(["list_queues", "-p", host, "name", "consumers"]);
        queues.lines().any(|line| line == "from-python\t1").then_some(())
    });
    with_interpreter(&python, script).check(&broker);
    for line in &rust.expected {
        worker.wait_for_line(line, Duration::from_secs(30));
    }
}

/// `python3` is the interpreter that has pika.
fn with_interpreter(python: &Python, step: &Step) -> Step {
    let interpreter = python.interpreter().display().to_string();
    Step { command: step.command.replacen("python3", &interpreter, 1), expected: step.expected.clone() }
}

#[test]
fn two_dots_in_brackets_stand_for_any_text() {
    for (pattern, line, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a[..]", "ab", true),
        ("[..]b[..]", "abc", true),
        ("a[..]b", "a--b", true),
        ("a[..]b", "a--", false),
    ] {
        assert_eq!(matches(pattern, line), expected, "{pattern} {line}");
    }
}
