//! Stopping a worker with isolated tasks, and one that is process 1.

use std::fs;
use std::process::Command;

use mq_worker::message::Message;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use support::{Process, eventually, eventually_blocking};

use super::lab::{LONG, Lab, all_gone, lines, on_real_brokers, on_sqlite, processes};
use super::tasks::{pid, spin_apart, spin_on, wait};

#[test]
fn an_isolated_task_finishes_within_the_grace_even_when_every_process_is_signalled() {
    on_sqlite(async |lab| {
        let worker = lab.worker(&[]);
        let file = lab.file("stay");
        fs::write(&file, "").expect("a file");
        let job = lab.send(wait.with(file.clone())).await;
        let running = processes(&file, 1);
        worker.signal(Signal::TERM);
        // As a service manager would do it.
        kill_process(running[0], Signal::TERM).expect("it runs");
        worker.wait_for_line("stopping", LONG);
        fs::remove_file(&file).expect("removed");
        let ended = worker.wait(LONG);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert_eq!(job.get().timeout(LONG).await.expect("a result"), "ended well");
    });
}

#[test]
fn ctrl_c_on_a_terminal_does_not_reach_the_tasks() {
    on_sqlite(async |lab| {
        let worker = lab.worker(&[]);
        let file = lab.file("stay");
        fs::write(&file, "").expect("a file");
        let job = lab.send(wait.with(file.clone())).await;
        lines(&file, 1);
        kill_process_group(Pid::from_raw(worker.id().cast_signed()).expect("not zero"), Signal::INT)
            .expect("it runs");
        worker.wait_for_line("stopping", LONG);
        fs::remove_file(&file).expect("removed");
        assert_eq!(worker.wait(LONG).status.code(), Some(0));
        assert_eq!(job.get().timeout(LONG).await.expect("a result"), "ended well");
    });
}

/// A closing terminal causes several signals: its own, its shell's and the kernel's.
#[test]
fn a_closed_terminal_stops_the_worker_warm_however_often_it_says_so() {
    on_sqlite(async |lab| {
        // The tests may have been started under `nohup`, where a worker ignores the signal: see the next test.
        let mut command = lab.command("env");
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_isolated-worker")]);
        let worker = Process::spawn(&mut command);
        let ready = worker.wait_for_line(" ready ", LONG);
        assert!(ready.contains(&lab.place.queue), "{ready}");
        let file = lab.file("stay");
        fs::write(&file, "").expect("a file");
        let job = lab.send(wait.with(file.clone())).await;
        lines(&file, 1);
        worker.signal(Signal::HUP);
        worker.wait_for_line("stopping", LONG);
        worker.signal(Signal::HUP);
        worker.signal(Signal::HUP);
        fs::remove_file(&file).expect("removed");
        let ended = worker.wait(LONG);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert_eq!(job.get().timeout(LONG).await.expect("a result"), "ended well");
    });
}

#[test]
fn under_nohup_a_worker_outlives_its_terminal() {
    on_sqlite(async |lab| {
        let mut command = lab.command("sh");
        command.args(["-c", "trap '' HUP; exec \"$0\"", env!("CARGO_BIN_EXE_isolated-worker")]);
        let worker = Process::spawn(&mut command);
        worker.wait_for_line(" ready ", LONG);
        worker.signal(Signal::HUP);
        lab.result(pid.with()).await;
        worker.signal(Signal::TERM);
        let ended = worker.wait(LONG);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert!(!ended.stderr.contains("SIGHUP"), "{}", ended.stderr);
    });
}

#[test]
fn a_worker_that_sets_up_stops_at_the_first_signal() {
    on_sqlite(async |lab| {
        for how in ["waits", "blocks"] {
            let mut command = lab.command(env!("CARGO_BIN_EXE_isolated-worker"));
            let worker = Process::spawn(command.env("TEST_SETUP", how));
            worker.wait_for_line("the set-up does not end", LONG);
            worker.signal(Signal::TERM);
            let ended = worker.wait(LONG);
            assert_eq!(ended.status.code(), Some(0), "{how}: {}", ended.stderr);
        }
        let mut command = lab.command(env!("CARGO_BIN_EXE_isolated-worker"));
        let ended = Process::spawn(command.env("TEST_SETUP", "panics")).wait(LONG);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("prepare_wrongly` panicked: not today"), "{}", ended.stderr);
    });
}

#[test]
fn a_second_signal_kills_and_requeues_isolated_tasks() {
    on_real_brokers(async |lab| {
        let worker = lab.worker(&[]);
        let file = lab.file("pids");
        lab.send(spin_on.with(file.clone())).await;
        let running = processes(&file, 2);
        worker.signal(Signal::TERM);
        worker.wait_for_line("stopping", LONG);
        worker.signal(Signal::TERM);
        let ended = worker.wait(LONG);
        assert_eq!(ended.status.code(), Some(143), "{}", ended.stderr);
        all_gone(&running);
        let back = back_in_the_queue(&lab).await;
        assert_eq!((back.headers.retries(), back.headers.crashes()), (0, 0), "{}", lab.place.name);
    });
}

/// Waits for a message and takes it.
async fn back_in_the_queue(lab: &Lab) -> Message {
    let broker = lab.app.broker().await.expect("a broker");
    eventually("the message is back", LONG, async || {
        let delivery = broker.get(&lab.place.queue).await.expect("an answer")?;
        let message = delivery.message.clone();
        delivery.ack();
        Some(message)
    })
    .await
}

/// In a container only process 1 can forward signals and reap orphaned processes.
#[test]
fn process_1_of_a_container_stops_when_told_and_leaves_no_zombies() {
    let permitted = Command::new("unshare").args(["--pid", "--fork", "true"]).output();
    if !permitted.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!(
            "left out: a worker as process 1, as `unshare --pid --fork` is not permitted here: {permitted:?}"
        );
        return;
    }
    on_sqlite(async |lab| {
        let mut command = lab.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_isolated-worker")]);
        let outer = Process::spawn(&mut command);
        assert_eq!(lab.result(pid.with()).await, 1, "it is process 1");
        let worker = children(outer.id())[0];
        let file = lab.file("pids");
        // The task's process is killed, and its child becomes a child of process 1.
        lab.failure(spin_apart.with(file.clone())).await;
        lines(&file, 2);
        eventually_blocking("nobody is left", LONG, || children(worker).is_empty().then_some(()));
        kill_process(Pid::from_raw(worker.cast_signed()).expect("not zero"), Signal::TERM).expect("it runs");
        let ended = outer.wait(LONG);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("SIGTERM"), "{}", ended.stderr);
    });
}

/// Returns the children of a process, including zombies.
fn children(of: u32) -> Vec<u32> {
    let stat = |id: u32| fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let parent = |id: u32| stat(id).rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| parent(*id) == Some(of)).collect()
}
