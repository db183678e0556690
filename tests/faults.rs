//! The fault suite (`faults/`), for as long as every push can wait: random runs on SQLite and RabbitMQ, and the proof
//! that its checker sees what it is there for.
//!
//! For longer, on other brokers and with other seeds: `cargo run -p mq-worker-tests --bin faults -- --help`.

use std::process::Command;
use std::time::Duration;

use support::{Process, shared};

const LIMIT: Duration = Duration::from_secs(300);

/// Runs the suite's program and returns whether nothing was wrong, and what it printed.
fn faults(arguments: &str) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faults"));
    let ended = Process::spawn(command.args(arguments.split_ascii_whitespace())).wait(LIMIT);
    let printed = format!("{}\n{}", ended.stdout, ended.stderr);
    // For `--nocapture`: the one line that tells all.
    eprintln!("{}", ended.stdout.lines().last().unwrap_or_default());
    assert!(matches!(ended.status.code(), Some(0 | 1)), "it did not come to a verdict: {printed}");
    (ended.status.success(), printed)
}

#[track_caller]
fn clean(arguments: &str) {
    let (is_clean, printed) = faults(arguments);
    assert!(is_clean, "faults {arguments}\n{printed}");
}

/// The broken broker must be caught, and by this kind of violation.
#[track_caller]
fn caught(by: &str, arguments: &str) {
    let (is_clean, printed) = faults(arguments);
    assert!(!is_clean && printed.lines().any(|line| line.starts_with(by)), "faults {arguments}\n{printed}");
}

fn seed() -> u64 {
    std::env::var("MQ_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn nothing_is_lost_on_sqlite_whatever_happens() {
    clean(&format!("--broker sqlite --seconds 30 --seed {}", seed()));
}

#[test]
fn nothing_is_lost_on_rabbitmq_whatever_happens() {
    if shared::may_start_rabbitmq(file!()) {
        clean(&format!("--broker rabbitmq --seconds 45 --seed {}", seed()));
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
