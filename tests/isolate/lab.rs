//! A worker process with its own queue, and helpers for inspecting processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mq_worker::{App, AsyncResult, Error, Signature, Task};
use rustix::process::{Pid, test_kill_process};
use support::places::{Place, everywhere};
use support::{Process, eventually_blocking, temp_dir};
use tempfile::TempDir;

/// Long enough for a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(40);

/// One worker, one queue, and a directory for files.
pub(crate) struct Lab {
    pub(crate) app: App,
    pub(crate) place: Place,
    directory: TempDir,
}

/// Runs a test on the brokers that several processes can share.
pub(crate) fn on_real_brokers<F: Future<Output = ()>>(test: impl Fn(Lab) -> F) {
    everywhere(|place| {
        let shared = place.name != "memory";
        let lab = Lab::new(place);
        let run = shared.then(|| test(lab));
        async {
            if let Some(run) = run {
                run.await;
            }
        }
    });
}

/// Runs a test on SQLite only, if it does not depend on the broker.
pub(crate) fn on_sqlite<F: Future<Output = ()>>(test: impl Fn(Lab) -> F) {
    on_real_brokers(|lab| {
        let run = (lab.place.name == "sqlite").then(|| test(lab));
        async {
            if let Some(run) = run {
                run.await;
            }
        }
    });
}

impl Lab {
    fn new(place: Place) -> Self {
        // The disk of a busy machine may be slow.
        let app = place.app_with(|config| config.publish_timeout = LONG);
        Self { app, place, directory: temp_dir() }
    }

    /// Returns the path of a file that no other test uses and that does not exist yet.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the command line of a worker for this queue; `program` is one of the two in this directory.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let kind = if self.place.name.contains("classic") { "classic" } else { "quorum" };
        command
            .current_dir(self.directory.path())
            .env("MQ_BROKER_URL", self.place.url())
            .env("MQ_QUEUES", &self.place.queue)
            .env("MQ_QUEUE_KIND", kind)
            .env("MQ_CONCURRENCY", "2")
            .env("MQ_GRACE", "20s")
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1");
        command
    }

    /// Starts the usual worker.
    pub(crate) fn worker(&self, arguments: &[&str]) -> Process {
        Process::spawn(self.command(env!("CARGO_BIN_EXE_isolated-worker")).args(arguments))
    }

    pub(crate) async fn send<T: Task>(&self, call: Signature<T>) -> AsyncResult<T::Output> {
        self.app.send(call.queue(&self.place.queue)).await.expect("sent")
    }

    /// Sends a call and returns its result.
    pub(crate) async fn result<T: Task>(&self, call: Signature<T>) -> T::Output {
        let job = self.send(call).await;
        job.get().timeout(LONG).await.unwrap_or_else(|error| panic!("{}: {error:#}", self.place.name))
    }

    /// Sends a call and returns kind and text of its failure.
    pub(crate) async fn failure<T: Task>(&self, call: Signature<T>) -> (String, String) {
        let job = self.send(call).await;
        failure_of(job.get().timeout(LONG).await.map(drop))
    }

    pub(crate) async fn ready(&self, queue: &str) -> u64 {
        let broker = self.app.broker().await.expect("a broker");
        let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
        queues.first().map_or(0, |queue| queue.ready)
    }
}

pub(crate) fn failure_of(result: Result<(), Error>) -> (String, String) {
    let error = result.expect_err("it fails");
    let failure = error.task_failure().unwrap_or_else(|| panic!("{error:#}"));
    (failure.kind.clone(), failure.message.clone())
}

/// Waits until a task has written this many lines, and returns them.
pub(crate) fn lines(file: &Path, count: usize) -> Vec<String> {
    eventually_blocking(&format!("{count} lines in {}", file.display()), LONG, || {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(Into::into).collect();
        (text.ends_with('\n') && lines.len() >= count).then_some(lines)
    })
}

/// Returns the processes whose ids a task has written.
pub(crate) fn processes(file: &Path, count: usize) -> Vec<Pid> {
    let pid = |line: &String| Pid::from_raw(line.parse().expect("a process id")).expect("not zero");
    lines(file, count).iter().map(pid).collect()
}

/// Waits until these processes are gone.
pub(crate) fn all_gone(processes: &[Pid]) {
    eventually_blocking("the processes are gone", LONG, || {
        processes.iter().all(|pid| test_kill_process(*pid).is_err() || is_zombie(*pid)).then_some(())
    });
}

/// Returns true for a process that has exited but was not reaped by its parent.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}
