//! `jobs`, `explain` and `top`, run as commands on brokers other than memory.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mq_worker::app::Pause;
use mq_worker::history::JobState;
use mq_worker::{Context, task};
use serde_json::Value;
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};
use tokio::sync::Semaphore;

use super::{Fed, history_adds, history_refuses, observed};

#[task]
async fn history_waits(ctx: &Context) {
    let gate = Arc::clone(&ctx.state::<Arc<Semaphore>>());
    gate.acquire().await.expect("never closed").forget();
}

/// Our command line with the history of a test.
struct Shell {
    broker: String,
    history: PathBuf,
}

impl Shell {
    /// Runs a command that prints JSON; returns the output and the exit code.
    async fn run(&self, line: &[&str]) -> (Value, Option<i32>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isolated-worker"));
        command.args(["--broker", &self.broker]).args(line).args(["--json", "--history"]).arg(&self.history);
        command.current_dir(self.history.parent().expect("a directory")).env_remove("RUST_LOG");
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("it runs");
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&output.stderr).into_owned()));
        (json, output.status.code())
    }

    /// Returns the first reason why a call does not run.
    async fn reason(&self, id: &str) -> String {
        let (answer, _) = self.run(&["explain", id]).await;
        answer["reasons"][0]["reason"].as_str().unwrap_or_else(|| panic!("no reason: {answer}")).to_owned()
    }
}

#[test]
fn a_call_is_explained_listed_retried_and_moved() {
    everywhere(|place| async move {
        // Other processes cannot reach the memory broker.
        if place.name != "memory" {
            explained(&place).await;
        }
    });
}

async fn explained(place: &Place) {
    let directory = tempfile::tempdir().expect("a directory");
    let history = directory.path().join("history.db");
    let app = observed(place);
    let fed = Fed::open(&app, &history).await;
    let shell = Shell { broker: place.url(), history };

    let (answer, code) = shell.run(&["explain", "00000000-nobody"]).await;
    assert_eq!((&answer["reasons"][0]["reason"], code), (&"unknown".into(), Some(1)), "{answer}");

    let sent = app.send(history_adds.with(1, 1).queue(&place.queue)).await.expect("sent");
    fed.known(sent.id(), JobState::Pending).await;
    assert_eq!(shell.reason(sent.id()).await, "no_worker_for_queue");

    // Moved to another queue, and back.
    let other = format!("{}-other", place.queue);
    for (from, to) in [(&place.queue, &other), (&other, &place.queue)] {
        let (answer, code) = shell.run(&["jobs", "move", sent.id(), "--from", from, "--queue", to]).await;
        assert_eq!((&answer["to"], code), (&to.as_str().into(), Some(0)), "{answer}");
    }

    let gate = Arc::new(Semaphore::new(0));
    let mut state = Journal::default().shared();
    state.insert(Arc::clone(&gate));
    let running = Running::start(app.clone(), state);
    fed.known(sent.id(), JobState::Success).await;
    assert_eq!(shell.reason(sent.id()).await, "succeeded");

    let delayed = history_adds.with(2, 2).queue(&place.queue).countdown(Duration::from_secs(600));
    let delayed = app.send(delayed).await.expect("sent");
    fed.known(delayed.id(), JobState::Pending).await;
    assert_eq!(shell.reason(delayed.id()).await, "waits_until");

    let dead = app.send(history_refuses.with("soup").queue(&place.queue)).await.expect("sent");
    fed.known(dead.id(), JobState::DeadLettered).await;
    let (answer, _) = shell.run(&["explain", dead.id()]).await;
    let reason = &answer["reasons"][0];
    assert_eq!(reason["reason"], "dead_lettered", "{answer}");
    assert!(reason["text"].as_str().is_some_and(|text| text.contains("no soup today")), "{answer}");
    assert!(reason["remedy"].as_str().is_some_and(|way| way.contains("dead replay")), "{answer}");

    let slow = app.send(history_waits.with().queue(&place.queue)).await.expect("sent");
    fed.known(slow.id(), JobState::Started).await;
    assert_eq!(shell.reason(slow.id()).await, "running");
    let (top, code) = shell.run(&["top", "--once"]).await;
    // Other tests may have running tasks on the same broker.
    let calls = top["running"].as_array().expect("a list");
    assert!(code == Some(0) && calls.iter().any(|one| one["id"] == slow.id()), "{top}");
    let queues = top["queues"].as_array().expect("a list");
    assert!(queues.iter().any(|queue| queue["name"] == place.queue.as_str()), "{top}");
    gate.add_permits(1);
    fed.known(slow.id(), JobState::Success).await;

    app.pause(Pause::queue(&place.queue)).await.expect("paused");
    consumed(&app, &place.queue, 0).await;
    let held = app.send(history_adds.with(3, 3).queue(&place.queue)).await.expect("sent");
    fed.known(held.id(), JobState::Pending).await;
    assert_eq!(shell.reason(held.id()).await, "queue_paused");
    app.resume(place.queue.as_str()).await.expect("resumed");
    fed.known(held.id(), JobState::Success).await;

    let (page, code) = shell.run(&["jobs", "list", "--state", "dead-lettered,failure", "--from", "1h"]).await;
    assert_eq!((code, &page["jobs"][0]["id"]), (Some(0), &dead.id().into()), "{page}");
    let (job, _) = shell.run(&["jobs", "show", held.id()]).await;
    assert_eq!((&job["state"], &job["result"]), (&"SUCCESS".into(), &"6".into()), "{job}");

    // A new call with the old arguments, and one with others.
    for (line, result) in [(&[][..], "6"), (&["--with-args", "[40, 2]"][..], "42")] {
        let line = [&["jobs", "retry", held.id()], line].concat();
        let (answer, code) = shell.run(&line).await;
        assert_eq!(code, Some(0), "{answer}");
        let id = answer["id"].as_str().expect("an id");
        assert_ne!(id, held.id());
        assert_eq!(fed.known(id, JobState::Success).await.result.as_deref(), Some(result));
    }
    // The same call replayed, which fails as before.
    let runs = fed.history.job(dead.id()).await.expect("read").expect("known").attempts.len();
    let (answer, code) = shell.run(&["jobs", "retry", dead.id()]).await;
    assert_eq!((&answer["replayed"], code), (&true.into(), Some(0)), "{answer}");
    eventually("it ran again", async || {
        let job = fed.history.job(dead.id()).await.expect("read").expect("known");
        job.attempts.len() > runs
    })
    .await;

    running.stop().await;
    let queue = fed.history.queue_name().await.expect("a name");
    fed.close().await;
    let broker = app.broker().await.expect("a broker");
    for queue in [queue, other] {
        broker.delete_queue(&queue).await.expect("deleted");
    }
    app.close().await;
}
