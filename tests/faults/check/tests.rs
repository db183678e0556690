//! Each verdict, from handwritten logs.

use super::*;
use crate::log::Line;

const SETTING: Setting = Setting {
    workers: 2,
    prefetch: 4,
    max_retries: 3,
    max_crashes: 3,
    forbids_blame: false,
    forbids_repeats: false,
    allows_falls: usize::MAX,
};

fn verdict(log: &str) -> Verdict {
    let lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    check(&History::new(lines.map(|line| line.parse::<Line>().expect("a good line"))), SETTING)
}

/// Checks a log, which must be clean.
#[track_caller]
fn clean(log: &str) -> Verdict {
    let verdict = verdict(log);
    assert!(verdict.violations().is_empty(), "{:#?}", verdict.violations());
    verdict
}

/// Checks that a log has a violation that starts like this, and none of another kind.
#[track_caller]
fn caught(begin: &str, log: &str) {
    let violations = verdict(log).violations();
    let sort = begin.split(':').next().expect("there is a first part");
    assert!(violations.iter().any(|text| text.starts_with(begin)), "{violations:#?}");
    assert!(violations.iter().all(|text| text.starts_with(sort)), "{violations:#?}");
}

const SENT: &str = "1.0 p0/1 intent a quick\n1.1 p0/1 ok a\n";

fn sent(more: &str) -> String {
    format!("{SENT}{more}")
}

#[test]
fn a_task_that_was_acknowledged_and_succeeded_is_fine() {
    let verdict = clean(&sent("1.2 w0/2 start a 0\n1.3 w0/2 end a 0 succeeded"));
    assert_eq!((verdict.tasks, verdict.runs, verdict.duplicated), (1, 1, 0));
}

#[test]
fn an_acknowledged_task_without_an_outcome_is_lost() {
    caught("lost: a", SENT);
    caught("lost: a", &sent("1.2 w0/2 start a 0"));
    // It failed, and its retry never ran.
    caught("lost: a", &sent("1.2 w0/2 start a 0\n1.3 w0/2 end a 0 failed"));
    // It was rejected for good, without a dead letter.
    caught(
        "lost: a",
        "1.0 p0/1 intent a reject\n1.1 p0/1 ok a\n1.2 w0/2 start a 0\n1.3 w0/2 end a 0 refused",
    );
}

#[test]
fn a_fault_does_not_excuse_a_loss() {
    caught("lost: a", &sent("1.2 w0/2 start a 0\n1.3 control fault 1 kill-worker 2\n1.4 control over 1"));
}

#[test]
fn what_is_not_known_may_have_run_or_not() {
    for answer in ["", "1.1 p0/1 unknown a\n"] {
        clean(&format!("1.0 p0/1 intent a quick\n{answer}"));
        clean(&format!("1.0 p0/1 intent a quick\n{answer}1.2 w0/2 start a 0\n1.3 w0/2 end a 0 succeeded"));
    }
}

#[test]
fn a_run_that_nobody_intended_is_unexpected() {
    caught("unexpected", "1.2 w0/2 start a 0\n1.3 w0/2 end a 0 succeeded");
}

#[test]
fn what_was_refused_must_not_run() {
    for answer in ["rejected", "unreachable"] {
        let log = format!("1.0 p0/1 intent a quick\n1.1 p0/1 {answer} a\n");
        clean(&log);
        caught("refused", &format!("{log}1.2 w0/2 start a 0\n1.3 w0/2 end a 0 succeeded"));
    }
    // The first publish was unknown, the second refused: the first may have arrived.
    clean(
        "1.0 p0/1 intent a quick\n1.1 p0/1 unknown a\n1.1 p0/1 again a\n1.2 p0/1 rejected a
         1.2 w0/2 start a 0\n1.3 w0/2 end a 0 succeeded",
    );
    let taken = "1.0 p0/1 intent a nowhere\n1.1 p0/1 ok a\n";
    caught("unroutable", &format!("{taken}1.2 w0/2 start a 0\n1.3 w0/2 end a 0 succeeded"));
}

const DONE: &str = "1.2 w0/2 start a 0\n1.3 w0/2 end a 0 succeeded\n";
const TWICE: &str = "9.0 w1/3 start a 0\n9.1 w1/3 end a 0 succeeded\n";

#[test]
fn a_second_run_needs_a_fault_before_the_first_was_acknowledged() {
    let log = |fault: &str| format!("{SENT}{DONE}{fault}\n{TWICE}");
    caught("repeated: attempt 0 ran 1", &log("").replace("\n\n", "\n").replace("9.", "2."));
    for fault in [
        "1.25 control fault 1 kill-worker 2",
        "1.4 control fault 1 kill-worker 2",
        "1.4 control fault 1 cut 2",
        "1.4 control fault 1 kill-broker\n6.0 control over 1",
        "1.4 control fault 1 pause 2\n6.0 control over 1",
        "1.4 w0/2 crash b abort",
        // The alarm delays storing the outcome, and with it the ack.
        "1.4 control fault 1 memory-alarm\n7.0 control over 1\n7.5 control fault 2 cut 2",
    ] {
        let violations = verdict(&log(fault)).violations();
        let others: Vec<_> = violations.iter().filter(|text| !text.contains(": b")).collect();
        assert!(others.is_empty(), "{fault}: {others:#?}");
    }
    for fault in [
        // It hits another worker.
        "1.4 control fault 1 kill-worker 3\n1.5 control over 1",
        // It comes too late: the run was already acked.
        "8.5 control fault 1 kill-worker 2\n8.5 control over 1",
        "8.5 control fault 1 kill-broker\n8.6 control over 1",
        // It affects no delivery.
        "1.4 control fault 1 memory-alarm\n1.5 control over 1",
        "1.4 control fault 1 kill-producer 1\n1.5 control over 1",
        // It comes before the delivery.
    ] {
        let violations = verdict(&log(fault)).violations();
        assert!(
            violations.iter().any(|text| text.starts_with("repeated: attempt 0")),
            "{fault}: {violations:#?}"
        );
    }
}

#[test]
fn a_paused_worker_runs_what_it_holds_after_another_did() {
    let pause = |worker| format!("1.12 control fault 1 pause {worker}\n8.5 control over 1\n");
    let log = |worker| format!("{SENT}{}{}{TWICE}", pause(worker), DONE.replace("1.", "7."));
    clean(&log(3));
    caught("repeated", &log(4));
}

#[test]
fn a_rolling_restart_repeats_only_what_it_interrupted() {
    let roll = "1.25 control fault 1 roll 2\n1.6 control over 1\n";
    clean(&format!("{SENT}1.2 w0/2 start a 0\n{roll}{TWICE}"));
    caught("repeated", &format!("{SENT}{DONE}{roll}{TWICE}"));
}

#[test]
fn a_second_run_that_a_fault_explains_may_still_be_forbidden() {
    let log = format!("{SENT}1.2 w0/2 start a 0\n1.25 control fault 1 roll 2\n1.6 control over 1\n{TWICE}");
    let lines = || log.lines().map(|line| line.parse::<Line>().expect("a good line"));
    assert_eq!(check(&History::new(lines()), SETTING).violations(), [""; 0]);
    let strict = check(&History::new(lines()), Setting { forbids_repeats: true, ..SETTING });
    assert!(strict.violations()[0].starts_with("repeated: 1"), "{:?}", strict.violations());
}

#[test]
fn a_requeue_while_the_broker_is_blocked_may_duplicate_a_message() {
    let roll = "1.12 control fault 1 roll 7\n1.18 control over 1\n";
    let alarm = "1.11 control fault 2 memory-alarm\n1.19 control over 2\n";
    clean(&format!("{SENT}{roll}{alarm}{DONE}{TWICE}"));
    caught("repeated", &format!("{SENT}{roll}{DONE}{TWICE}"));
}

#[test]
fn a_delayed_message_may_be_duplicated_while_the_broker_is_blocked() {
    let later = SENT.replace("quick", "later 1.15");
    assert_ne!(later, SENT);
    let alarm = "1.12 control fault 1 memory-alarm\n1.19 control over 1\n";
    clean(&format!("{later}{alarm}{DONE}{TWICE}"));
    caught("repeated", &format!("{SENT}{alarm}{DONE}{TWICE}"));
    caught("repeated", &format!("{later}{DONE}{TWICE}"));
}

#[test]
fn one_fault_explains_no_more_than_the_workers_held() {
    let mut log = String::from("5.0 control fault 1 kill-worker 2\n5.0 control over 1\n");
    for id in 0..9 {
        log += &format!("1.0 p0/1 intent a{id} slow\n1.1 p0/1 ok a{id}\n4.0 w0/2 start a{id} 0\n");
        log += &format!("6.0 w1/3 start a{id} 0\n6.1 w1/3 end a{id} 0 succeeded\n");
    }
    caught("repeated: 9 runs again, faults explain 8", &log);
}

#[test]
fn a_task_that_was_sent_again_may_run_twice() {
    let log = "1.0 p0/1 intent a quick\n1.1 p0/1 unknown a\n1.1 p0/1 again a\n1.2 p0/1 ok a\n";
    assert_eq!(clean(&format!("{log}{DONE}{TWICE}")).duplicated, 1);
    caught(
        "repeated",
        &format!("{log}{DONE}{TWICE}9.5 w1/3 start a 0\n9.6 w1/3 end a 0 succeeded").replace(
            "1.3 w0/2 end a 0 succeeded\n",
            "1.3 w0/2 end a 0 succeeded\n1.5 control fault 1 cut 9\n",
        ),
    );
}

#[test]
fn a_repeated_failure_has_two_retries() {
    let flaky = "1.0 p0/1 intent a flaky\n1.1 p0/1 ok a\n1.2 w0/2 start a 0\n1.3 w0/2 end a 0 failed\n";
    let rest = "5.0 w1/3 start a 1\n5.1 w1/3 end a 1 succeeded\n";
    clean(&format!("{flaky}{rest}"));
    caught("repeated: attempt 1", &format!("{flaky}{rest}6.0 w1/3 start a 1\n6.1 w1/3 end a 1 succeeded\n"));
    let alarm = "1.25 control fault 1 disk-alarm\n4.5 control over 1\n";
    clean(&format!(
        "{flaky}{alarm}{rest}6.0 w1/3 start a 1\n6.1 w1/3 end a 1 succeeded\n9.0 control fault 2 roll 9\n"
    ));
    let cut = "1.4 control fault 1 cut 2\n1.4 control over 1\n4.0 w1/3 start a 0\n4.1 w1/3 end a 0 failed\n";
    clean(&format!("{flaky}{cut}{rest}9.0 w1/3 start a 1\n9.1 w1/3 end a 1 succeeded\n"));
}

#[test]
fn more_retries_than_allowed_are_seen() {
    let mut log = SENT.to_owned();
    for attempt in 0..=4 {
        let how = if attempt < 4 { "failed" } else { "succeeded" };
        log += &format!("{}.0 w0/2 start a {attempt}\n{0}.1 w0/2 end a {attempt} {how}\n", attempt + 2);
    }
    caught("retries", &log);
}

#[test]
fn early_is_seen_and_late_is_measured() {
    let later = "1.0 p0/1 intent a later 3.0\n1.1 p0/1 ok a\n";
    let verdict = clean(&format!("{later}3.4 w0/2 start a 0\n3.5 w0/2 end a 0 succeeded"));
    assert_eq!(verdict.latest, Duration::from_millis(400));
    caught("early", &format!("{later}2.5 w0/2 start a 0\n2.6 w0/2 end a 0 succeeded"));
}

#[test]
fn dead_letters_are_outcomes_with_the_right_reason() {
    let reject = "1.0 p0/1 intent a reject\n1.1 p0/1 ok a\n1.2 w0/2 start a 0\n1.3 w0/2 end a 0 refused\n";
    assert_eq!(clean(&format!("{reject}9.0 control dead a rejected")).dead_lettered, 1);
    caught("outcome", &format!("{reject}9.0 control dead a malformed"));
    caught("outcome", &sent("9.0 control dead a retries-exhausted"));
    caught("blamed", &sent("9.0 control dead a crashed"));
    let crashes = "2.0 w0/2 crash p abort\n3.0 w0/2 crash p abort\n4.0 w0/2 crash p abort\n1.0 p0/1 intent p poison\n1.1 p0/1 ok p\n";
    let verdict = clean(&sent(&format!("{crashes}9.0 control dead a crashed\n9.0 control dead p crashed")));
    assert_eq!((verdict.blamed, verdict.dead_lettered), (1, 1));
    let log = sent(&format!("{crashes}9.0 control dead a crashed\n9.0 control dead p crashed"));
    let lines = log.lines().map(|line| line.parse::<Line>().expect("a good line"));
    let strict = check(&History::new(lines), Setting { forbids_blame: true, ..SETTING });
    assert!(strict.violations()[0].starts_with("blamed: "), "{:?}", strict.violations());
}

#[test]
fn too_many_killed_workers_are_reported() {
    let fell = |pid| {
        let log = format!("2.0 w0/{pid} crash a abort\n2.1 control exit w0/7 signal:-6-(SIGABRT)\n");
        let lines = log.lines().map(|line| line.parse::<Line>().expect("a good line"));
        let history = History::new(lines);
        check(&history, Setting { allows_falls: 0, ..SETTING }).violations()
    };
    assert!(fell(7).iter().any(|violation| violation.starts_with("fell: tasks took 1 ")), "{:?}", fell(7));
    // A different process from the one that exited.
    assert!(!fell(8).iter().any(|violation| violation.starts_with("fell: ")), "{:?}", fell(8));
}

#[test]
fn leftover_messages_wrong_results_and_unexpected_exits_are_reported() {
    caught("stuck: 3", &sent(&format!("{DONE}9.0 control left faults 3")));
    clean(&sent(&format!("{DONE}9.0 control left faults 0")));
    caught("result", &sent(&format!("{DONE}9.0 p0/1 wrong a")));
    caught("result", &sent(&format!("{DONE}9.0 control stored a PENDING")));
    caught("result", &sent(&format!("{DONE}9.0 control stored a RETRY")));
    clean(&sent(&format!("{DONE}9.0 control stored a SUCCESS\n9.0 p0/1 got a")));
    caught("exit", &sent(&format!("{DONE}9.0 control exit w0/2 101")));
}

#[test]
fn a_process_may_only_die_of_what_a_task_announced() {
    let poison = |how: &str, code: &str| {
        format!(
            "1.0 p0/1 intent p poison\n1.1 p0/1 ok p\n2.0 w0/2 start p 0\n2.0 w0/2 crash p {how}
             2.1 control exit w0/{code}\n9.0 control dead p crashed"
        )
    };
    let (abort, kill, exit) = ("2 signal:-6-(SIGABRT)", "2 signal:-9-(SIGKILL)", "2 exit-status:-70");
    for (how, code) in
        [("abort", abort), ("memory", abort), ("kill", kill), ("oom-killer", kill), ("exit", exit)]
    {
        clean(&poison(how, code));
    }
    for (how, code) in [
        // A different process, for which no death was announced.
        ("abort", "3 signal:-6-(SIGABRT)"),
        ("abort", "2 signal:-11-(SIGSEGV)"),
        ("abort", "2 exit-status:-101"),
        // It survived, and did not stop when asked to.
        ("kill", "2 SIGKILL-after-it-did-not-stop"),
    ] {
        caught("exit", &poison(how, code));
    }
    caught("exit", &sent(&format!("{DONE}9.0 control exit w0/2 signal:-6-(SIGABRT)")));
}
