//! `mq-worker schedules …` and `mq-worker beat`, from a shell.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::control::Control;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::Process;
use support::journal::Journal;
use support::places::{Running, eventually};

use super::lab::Lab;

/// The command line in its own directory, on one broker.
struct Shell<'a> {
    broker: &'a str,
    directory: &'a Path,
}

impl Shell<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isolated-worker"));
        command.args(["--broker", self.broker]).args(words(line)).current_dir(self.directory);
        command.env_remove("RUST_LOG").env("TZ", "UTC");
        command
    }

    /// Runs a command; returns exit code, standard output and standard error.
    async fn run(&self, line: &str) -> (i32, String, String) {
        let mut command = self.command(line);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Returns the output of a command that must succeed.
    async fn well(&self, line: &str) -> String {
        let (code, printed, said) = self.run(line).await;
        assert_eq!(code, 0, "schedules {line}: {said}");
        printed
    }

    async fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.well(&format!("{line} --json")).await).expect("JSON")
    }

    /// Checks that a command is refused with this exit code and text, and without Rust's debug output.
    async fn refused(&self, line: &str, code: i32, words: &str) {
        let (found, printed, said) = self.run(line).await;
        assert!(found == code && said.contains(words), "{line}: {found}\n{said}");
        assert!(
            printed.is_empty() && !said.contains("panicked") && !said.contains("Error {"),
            "{line}: {said}"
        );
    }
}

/// Splits a line like a shell: text in single quotes is one word.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let words = parts.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

async fn lives(lab: &Lab) {
    // The commands do not create the database file themselves.
    lab.app().broker().await.expect("a broker");
    let directory = support::temp_dir();
    let shell = Shell { broker: &lab.url, directory: directory.path() };
    let printed = shell
        .well(
            r#"schedules add nightly clean.up --cron '0 3 * * *' --tz Europe/Berlin --args '[1]' --queue q --headers '{"tenant": "x"}'"#,
        )
        .await;
    assert!(printed.contains("schedule `nightly`: next at"), "{printed}");
    let list = shell.json("schedules list").await;
    let found = &list[0];
    assert_eq!(
        (&found["name"], &found["cron"], &found["args"]),
        (&json!("nightly"), &json!("0 3 * * *"), &json!([1]))
    );
    assert_eq!((&found["origin"], &found["runs"]), (&json!("hand"), &json!([])), "{found}");
    let next = shell.json("schedules next nightly -n 3").await;
    assert_eq!((next.as_array().map(Vec::len), &next[0]), (Some(3), &found["upcoming"][0]), "{next}");

    shell.well("schedules edit nightly --every 1h --overlap skip").await;
    let shown = shell.json("schedules show nightly").await;
    assert_eq!(
        (&shown["every"], &shown["overlap"], &shown["args"]),
        (&json!("1h"), &json!("skip"), &json!([1]))
    );
    shell.well("schedules pause nightly --until 2h").await;
    assert_eq!(shell.json("schedules show nightly").await["paused"], true);
    shell.well("schedules resume nightly").await;
    let id = shell.well("schedules run nightly").await.trim().to_owned();
    let shown = shell.json("schedules show nightly").await;
    assert_eq!(
        (&shown["runs"][0]["id"], &shown["runs"][0]["by_hand"]),
        (&json!(id), &json!(true)),
        "{shown}"
    );
    let shown = shell.well("schedules show nightly").await;
    assert!(shown.contains(&id) && shown.contains(r#"{"tenant":"x"}"#), "{shown}");
    let (_, explained, _) = shell.run(&format!("explain {id}")).await;
    assert!(explained.contains("schedule `nightly` sent it"), "{explained}");

    // A single scheduler: it reports that it leads, sends due calls, and stops on a signal.
    shell.well("schedules add often nobody.runs.it --every 1s --queue q").await;
    let beat = Process::spawn(&mut shell.command("beat"));
    support::eventually("two calls are listed", Duration::from_secs(60), async || {
        let shown = shell.json("schedules show often").await;
        (shown["runs"].as_array().map(Vec::len) >= Some(2)).then_some(())
    })
    .await;
    beat.signal(Signal::TERM);
    assert_eq!(beat.wait(Duration::from_secs(20)).status.code(), Some(0));
    for name in ["often", "nightly"] {
        shell.well(&format!("schedules remove {name}")).await;
    }
    assert_eq!(shell.json("schedules list").await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_do_what_they_say_on_sqlite() {
    let lab = Lab::sqlite().expect("a file");
    lives(&lab).await;
    let directory = support::temp_dir();
    let shell = Shell { broker: &lab.url, directory: directory.path() };
    shell.well("schedules add known some.task --every 10m").await;
    for (line, code, words) in [
        ("schedules add a t", 2, "would never be due: give it --cron, --every or --at"),
        ("schedules add a t --cron '0 0 31 2 *'", 2, "it names a day"),
        ("schedules add a t --cron '61 * * * *'", 2, "61"),
        ("schedules add a t --cron '@daily' --tz Mars", 2, "time zone `Mars`"),
        ("schedules add a t --every 1ms", 2, "too short"),
        ("schedules add a t --every 5m --cron '@daily'", 2, "cannot be used with"),
        ("schedules add a t --every 5m --tz UTC", 2, "cannot be used with"),
        ("schedules add a t --at 2001-01-01T00:00:00Z", 2, "in the past"),
        ("schedules add a t --every 5m --args '{}'", 2, "array"),
        ("schedules add a t --every 5m --headers '{\"id\": 1}'", 2, "belongs to the protocol"),
        ("schedules add a t --every 5m --headers '[]'", 2, "object"),
        ("schedules add a t --every 5m --jitter 6m", 2, "5m at most, the interval"),
        ("schedules add '' t --every 5m", 2, "is empty"),
        ("schedules add known t --every 5m", 1, "--replace"),
        ("schedules edit known --tz UTC", 2, "--tz is the time zone of --cron"),
        ("schedules show knwon", 1, "there is no schedule `knwon`"),
        ("schedules pause knwon", 2, "did you mean `known`?"),
        ("schedules remove none.of.them", 2, "there is no schedule"),
        ("schedules next known -n 0", 2, "0"),
        ("schedules explode", 2, "explode"),
    ] {
        shell.refused(line, code, words).await;
    }
    // A file with a mistake stops the scheduler at once and names the entry.
    let entry = |text: &str| format!("[[schedules]]\nname = \"a\"\ntask = \"t\"\n{text}\n");
    for (file, words) in [
        (entry("cron = \"0 0 31 2 *\""), "schedule `a`: cron expression `0 0 31 2 *`"),
        (entry("every = \"1ms\""), "schedule `a`"),
        (
            entry("every = \"5m\"") + &entry("every = \"6m\""),
            "two schedules in `mq-worker.toml` are named `a`",
        ),
    ] {
        std::fs::write(directory.path().join("mq-worker.toml"), &file).expect("written");
        shell.refused("beat", 2, words).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_do_what_they_say_on_rabbitmq() {
    if let Some(lab) = Lab::rabbitmq() {
        lives(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_of_a_task_that_no_worker_has_is_told_of() {
    let lab = Lab::sqlite().expect("a file");
    let running = Running::start(lab.app(), Journal::default().shared());
    let directory = support::temp_dir();
    let shell = Shell { broker: &lab.url, directory: directory.path() };
    let control = Control::new(lab.app().broker().await.expect("a broker"));
    let answers = async || control.workers().await.is_ok_and(|workers| !workers.is_empty());
    eventually("the worker answers", answers).await;
    let (code, printed, said) = shell.run("schedules add wrong schedules.ad --every 1h").await;
    assert!(code == 0 && printed.contains("schedule `wrong`: next at"), "{printed}{said}");
    assert!(
        said.contains("no running worker has task `schedules.ad`; did you mean `schedules.add`?"),
        "{said}"
    );
    let (_, _, said) = shell.run("schedules add right schedules.add --every 1h --args '[1, 2]'").await;
    assert!(!said.contains("no running worker"), "{said}");
    let list = shell.json("schedules list").await;
    assert_eq!((&list[0]["registered"], &list[1]["registered"]), (&json!(true), &json!(false)), "{list}");
    let list = shell.well("schedules list").await;
    assert!(
        list.contains("schedules.ad (no worker)") && !list.contains("schedules.add (no worker)"),
        "{list}"
    );
    let shown = shell.well("schedules show wrong").await;
    assert!(shown.contains("schedules.ad, which no running worker has"), "{shown}");

    // The scheduler warns about the entries of its file.
    let entry = "[[schedules]]\nname = \"far\"\ntask = \"schedules.sea\"\nevery = \"24h\"\n";
    std::fs::write(directory.path().join("mq-worker.toml"), entry).expect("written");
    let beat = Process::spawn(&mut shell.command("beat"));
    let beat = tokio::task::spawn_blocking(move || {
        beat.wait_for_line("did you mean `schedules.see`?", Duration::from_secs(60));
        beat
    });
    let beat = beat.await.expect("it warns");
    beat.signal(Signal::TERM);
    assert_eq!(beat.wait(Duration::from_secs(20)).status.code(), Some(0));
    running.stop().await;
    // Without an answering worker nothing is known.
    let list = shell.json("schedules list").await;
    assert_eq!(list[1]["registered"], Value::Null, "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_the_commands_say_so_and_keep_its_password() {
    let directory = support::temp_dir();
    let url = format!("amqp://guest:pa55word@127.0.0.1:{}/%2f", support::free_port());
    let shell = Shell { broker: &url, directory: directory.path() };
    std::fs::write(directory.path().join("mq-worker.toml"), "publish_timeout = \"1s\"\n").expect("written");
    let lines = ["list", "show a", "add a t --every 5m", "run a"].map(|line| format!("schedules {line}"));
    for (code, _, said) in join_all(lines.iter().map(|line| shell.run(line))).await {
        assert_eq!(code, 69, "{said}");
        assert!(said.contains("127.0.0.1") && !said.contains("pa55word"), "{said}");
    }
}
