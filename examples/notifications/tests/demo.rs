//! The demonstration from end to end, as a user starts it.

mod support;

use std::path::Path;

use support::{Ended, notifications, run};

/// The number behind a name in the table.
fn number(ended: &Ended, name: &str) -> u64 {
    let line = ended.out.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    let number = word.and_then(|word| word.replace(',', "").parse().ok());
    number.unwrap_or_else(|| panic!("no `{name}` in {ended:?}"))
}

/// The rows of the table that do not depend on time.
fn table(ended: &Ended) -> [u64; 5] {
    ["sign-ups", "e-mails delivered", "text messages delivered", "retried", "dead-lettered"]
        .map(|name| number(ended, name))
}

fn demo_on(broker: &str, directory: &Path, users: &str) -> Ended {
    let mut command = notifications(directory, &["--users", users]);
    command.env("MQ_BROKER_URL", broker);
    run(command)
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn a_thousand_users_get_their_messages() {
    let directory = tempfile::tempdir().unwrap();
    let ended = run(notifications(directory.path(), &[]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(table(&ended), [1000, 980, 1000, 80, 20], "{ended:?}");
    assert!(number(&ended, "tasks per second") > 0);
    assert_eq!(ended.err, "", "no progress bar and no log where nobody asked");
    assert!(is_empty(directory.path()), "it leaves no file behind");
}

#[test]
fn few_users_see_a_refusal_and_a_retry_too() {
    let directory = tempfile::tempdir().unwrap();
    let ended = run(notifications(directory.path(), &["--users", "10"]));
    assert_eq!((ended.code, table(&ended)), (Some(0), [10, 9, 10, 2, 1]), "{ended:?}");
}

#[test]
fn an_email_that_the_server_loses_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let ended = run(notifications(directory.path(), &["--users", "9", "--lose", "1"]));
    assert_eq!((ended.code, table(&ended)), (Some(1), [9, 8, 9, 2, 0]), "{ended:?}");
    assert!(ended.out.contains("This does not add up:\n- no e-mail for user00"), "{ended:?}");
}

#[test]
fn a_configured_broker_is_used_and_keeps_the_dead_letters() {
    let directory = tempfile::tempdir().unwrap();
    let broker = format!("sqlite:{}", directory.path().join("own.db").display());
    for _ in 0..2 {
        let ended = demo_on(&broker, directory.path(), "10");
        assert_eq!((ended.code, table(&ended)), (Some(0), [10, 9, 10, 2, 1]), "{ended:?}");
        assert!(ended.out.contains("mq-worker dead list email"), "{ended:?}");
    }
    assert!(directory.path().join("own.db").exists());
}

#[test]
fn messages_of_others_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let broker = format!("sqlite:{}", directory.path().join("own.db").display());
    let mut signup = notifications(directory.path(), &["signup", "--users", "3"]);
    signup.env("MQ_BROKER_URL", &broker);
    assert_eq!(run(signup).code, Some(0));
    for _ in 0..2 {
        let ended = demo_on(&broker, directory.path(), "10");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("queue `email` holds 3 messages"), "{ended:?}");
        assert!(ended.err.contains("mq-worker purge email"), "{ended:?}");
    }
}

#[test]
fn a_broker_that_cannot_be_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let ended = demo_on("gopher://localhost", directory.path(), "10");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.starts_with("error: ") && ended.err.contains("gopher"), "{ended:?}");
}

#[test]
fn zero_users_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["--users", "0"][..], &["signup", "--users", "none"], &["--users", "5", "signup"]] {
        let ended = run(notifications(directory.path(), arguments));
        assert_eq!(ended.code, Some(2), "{ended:?}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_without_a_trace() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let directory = tempfile::tempdir().unwrap();
    let mut command = notifications(directory.path(), &["--users", "100000"]);
    command.stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.starts_with("Broker: "), "{line}");
    // The sign-ups have started once the broker's file exists.
    let begun = std::time::Instant::now();
    while is_empty(directory.path()) {
        assert!(begun.elapsed().as_secs() < 30, "no broker");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    line.clear();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "stopped\n");
    assert_eq!(support::finish(child).code, Some(130));
    assert!(is_empty(directory.path()), "it leaves no file behind");
}
