//! The fault suite (`faults/`), for as long as every push can wait: random runs on SQLite, RabbitMQ and a cluster,
//! and the proof that its checker sees what it is there for.
//!
//! For longer, on other brokers and with other seeds: `cargo run -p mq-worker-tests --bin faults -- --help`.

use std::io::Write;
use std::process::Command;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use support::{Process, shared};

const LIMIT: Duration = Duration::from_secs(400);

/// A random run has the machine for itself: up to three brokers, and processes that are late because they starve look
/// like those that hang. The short plays may share it.
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs the suite's program and returns whether nothing was wrong, and what it printed.
fn faults(arguments: &str) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faults"));
    let ended = Process::spawn(command.args(arguments.split_ascii_whitespace())).wait(LIMIT);
    let printed = format!("{}\n{}", ended.stdout, ended.stderr);
    assert!(matches!(ended.status.code(), Some(0 | 1)), "it did not come to a verdict: {printed}");
    let line = ended.stdout.lines().rfind(|line| line.contains("faults: ")).expect("a verdict is printed");
    // The one line that tells all. Not `eprintln!`: the test harness would keep it to itself when all is well.
    let _ = writeln!(std::io::stderr(), "{line}");
    (ended.status.success(), printed)
}

/// A random run must be clean.
#[track_caller]
fn clean_at_random(broker: &str, seconds: u64) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    verdict(&format!("--broker {broker} --seconds {seconds} --seed {}", seed()));
}

/// A play must be clean.
#[track_caller]
fn clean(arguments: &str) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    verdict(arguments);
}

#[track_caller]
fn verdict(arguments: &str) {
    let (is_clean, printed) = faults(arguments);
    assert!(is_clean, "faults {arguments}\n{printed}");
}

/// The broken broker must be caught, and by this kind of violation.
#[track_caller]
fn caught(by: &str, arguments: &str) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    // What is kept after a violation is of no use here.
    let directory = support::temp_dir();
    let (is_clean, printed) = faults(&format!("{arguments} --keep {}", directory.path().display()));
    assert!(!is_clean && printed.lines().any(|line| line.starts_with(by)), "faults {arguments}\n{printed}");
}

fn seed() -> u64 {
    std::env::var("MQ_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

// Three minutes of faults together.

#[test]
fn nothing_is_lost_on_sqlite_whatever_happens() {
    clean_at_random("sqlite", 30);
}

#[test]
fn nothing_is_lost_on_quorum_queues_whatever_happens() {
    if shared::may_start_rabbitmq(file!()) {
        clean_at_random("rabbitmq", 60);
    }
}

#[test]
fn nothing_is_lost_on_classic_queues_whatever_happens() {
    if shared::may_start_rabbitmq(file!()) {
        clean_at_random("rabbitmq-classic", 30);
    }
}

#[test]
fn nothing_is_lost_on_a_cluster_of_three_whatever_happens() {
    if shared::may_start_rabbitmq(file!()) {
        clean_at_random("cluster", 60);
    }
}

#[test]
fn a_rolling_restart_of_four_workers_loses_and_repeats_nothing() {
    clean("--broker sqlite --scenario rolling");
    if shared::may_start_rabbitmq(file!()) {
        clean("--broker rabbitmq --scenario rolling");
        clean("--broker rabbitmq-classic --scenario rolling");
    }
}

#[test]
fn every_kind_of_task_has_its_outcome_when_nothing_happens() {
    clean("--broker sqlite --scenario calm");
}

#[test]
fn a_dropped_publish_is_caught() {
    caught("lost:", "--broker sqlite --scenario calm --mutation dropped-publish");
}

#[test]
fn a_message_that_is_handed_out_twice_is_caught() {
    caught("repeated:", "--broker sqlite --scenario calm --mutation twice");
}

#[test]
fn a_forgotten_ack_is_caught() {
    caught("stuck:", "--broker sqlite --scenario calm --mutation forgotten-ack");
}

#[test]
fn what_a_killed_worker_ran_is_run_again_and_an_early_ack_is_caught() {
    clean("--broker sqlite --scenario crash");
    caught("lost:", "--broker sqlite --scenario crash --mutation early-ack");
}

#[test]
fn a_producer_is_not_told_yes_without_a_broker_and_one_that_is_told_so_is_caught() {
    clean("--broker sqlite --scenario outage");
    caught("lost:", "--broker sqlite --scenario outage --mutation no-confirm");
}

#[test]
fn an_ack_on_the_new_channel_is_caught() {
    if shared::may_start_rabbitmq(file!()) {
        clean("--broker rabbitmq --scenario reconnect");
        caught("lost:", "--broker rabbitmq --scenario reconnect --mutation new-channel-ack");
    }
}

#[test]
fn a_message_whose_crash_was_counted_survives_a_reconnect_and_a_crash() {
    if shared::may_start_rabbitmq(file!()) {
        clean("--broker rabbitmq --scenario counted");
    }
}

#[test]
fn a_poison_task_is_put_aside_alone() {
    clean("--broker sqlite --scenario poison");
    if shared::may_start_rabbitmq(file!()) {
        clean("--broker rabbitmq --scenario poison");
        clean("--broker rabbitmq-classic --scenario poison");
    }
}

/// On SQLite, where a message is back at once: there it falls without the notes on trials.
#[test]
fn two_poison_tasks_are_put_aside_alone_however_many_messages_their_worker_holds() {
    clean("--broker sqlite --scenario crowd");
}
