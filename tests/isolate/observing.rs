//! If the log cannot be written, log lines are lost, and nothing else.

use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use mq_worker::Task;
use rustix::process::{Pid, Signal, kill_process};
use support::eventually_blocking;

use super::lab::{LONG, Lab, lines, on_sqlite};
use super::tasks::{fail, note_once, print_apart, print_inside};

/// A worker whose output the test redirects.
struct Worker(Child);

impl Worker {
    fn start(lab: &Lab, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        Self::spawn(lab.command(env!("CARGO_BIN_EXE_isolated-worker")), stdout, stderr)
    }

    fn spawn(mut command: Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        Self(command.spawn().expect("it starts"))
    }

    /// Stops it and returns its exit status.
    fn stop(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("it runs");
        eventually_blocking("the worker ends", LONG, || self.0.try_wait().expect("a child"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends this many calls, waits until all have run, and checks that none ran twice.
async fn each_runs_once(lab: &Lab, worker: &mut Worker, count: usize) {
    let file = lab.file("ran");
    let calls = (0..count)
        .map(|index| note_once.with(file.clone(), index.to_string()).queue(&lab.place.queue).ignore_result());
    lab.app.send_many(calls).await.expect("sent");
    lines(&file, count);
    let status = worker.stop();
    let mut ran = lines(&file, count);
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), count, "each once");
    assert_eq!(lines(&file, count).len(), count, "none twice");
    assert_eq!(status.code(), Some(0), "{status:?}");
}

#[test]
fn on_a_full_disk_each_task_runs_once_and_the_worker_stops_in_peace() {
    on_sqlite(async |lab| {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let mut worker = Worker::start(&lab, Stdio::null(), full);
        each_runs_once(&lab, &mut worker, 50).await;
    });
}

#[test]
fn without_a_reader_each_task_runs_once_even_if_it_prints() {
    on_sqlite(async |lab| {
        let [out, err] = [(); 2].map(|()| std::io::pipe().expect("a pipe"));
        let mut worker = Worker::start(&lab, out.1, err.1);
        drop((out.0, err.0));
        assert_eq!(lab.result(print_inside.with()).await, "printed", "{}", print_inside::NAME);
        assert_eq!(lab.result(print_apart.with()).await, "printed", "{}", print_apart::NAME);
        each_runs_once(&lab, &mut worker, 50).await;
    });
}

#[test]
fn a_stalled_log_reader_blocks_nothing_and_learns_how_many_lines_it_missed() {
    on_sqlite(async |lab| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut worker = Worker::start(&lab, Stdio::null(), writer);
        let file = lab.file("first");
        // More lines than a pipe holds.
        let calls = (0..1000).map(|index| {
            note_once.with(file.clone(), index.to_string()).queue(&lab.place.queue).ignore_result()
        });
        lab.app.send_many(calls).await.expect("sent");
        assert_eq!(lines(&file, 1000).len(), 1000);
        let heard = read_on(reader);
        eventually_blocking("the pipe is empty", LONG, || {
            heard.lock().expect("not poisoned").contains("succeeded").then_some(())
        });
        each_runs_once(&lab, &mut worker, 5).await;
        eventually_blocking("it is said what is missing", LONG, || {
            heard.lock().expect("not poisoned").contains("lines of the log were lost").then_some(())
        });
    });
}

/// The program's own subscriber panics at every event: tasks that succeed, fail, are retried and dead-lettered.
#[test]
fn a_log_that_panics_harms_no_task() {
    on_sqlite(async |lab| {
        let mut command = lab.command(env!("CARGO_BIN_EXE_isolated-own-main"));
        command.env("TEST_BROKEN_LOG", "1");
        let _worker = Worker::spawn(command, Stdio::null(), Stdio::null());
        let file = lab.file("ran");
        let calls = (0..20).map(|index| {
            note_once.with(file.clone(), index.to_string()).queue(&lab.place.queue).ignore_result()
        });
        lab.app.send_many(calls).await.expect("sent");
        let (kind, text) = lab.failure(fail.with("panic")).await;
        assert_eq!(kind, "Panic", "{text}");
        assert_eq!(lines(&file, 20).len(), 20, "each once");
        assert_eq!(lab.ready(&format!("{}.dead", lab.place.queue)).await, 1);
    });
}

fn read_on(mut reader: PipeReader) -> Arc<Mutex<String>> {
    let heard = Arc::<Mutex<String>>::default();
    let into = Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            into.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    });
    heard
}
