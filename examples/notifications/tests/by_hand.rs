//! Sign-ups in one program, the worker in another.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use mq_worker::{App, Config, Worker};
use notifications::mail::Mailer;
use notifications::sms::Gateway;
use support::{notifications, run};

fn files(folder: &Path, extension: &str) -> usize {
    let files = std::fs::read_dir(folder).into_iter().flatten();
    files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == extension)).count()
}

#[tokio::test]
async fn what_was_queued_by_a_sign_up_reaches_the_outbox_of_the_worker() {
    let directory = tempfile::tempdir().unwrap();
    let ended = run(notifications(directory.path(), &["signup", "--users", "12"]));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.out.starts_with("12 users signed up in "), "{ended:?}");
    let file = directory.path().canonicalize().unwrap().join("mq-worker.db");
    assert!(ended.out.trim_end().ends_with(&*file.to_string_lossy()), "{ended:?}");

    // Use no server, even if the environment of the tests names one.
    assert!(Mailer::new(None, "me@example.com").unwrap().install());
    assert!(Gateway::new(None, "+15550100100").unwrap().install());
    std::env::set_current_dir(directory.path()).unwrap();
    let mut config = Config { broker_url: "sqlite:mq-worker.db".parse().unwrap(), ..Config::default() };
    config.worker.queues = vec!["email".into(), "sms".into()];
    let worker = Worker::new(App::new(config).unwrap()).unwrap();
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    let outbox = directory.path().join("outbox");
    let begun = Instant::now();
    // The demonstration's sinks would refuse some; an outbox takes all.
    while (files(&outbox, "eml"), files(&outbox, "txt")) != (12, 12) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the outbox stays empty");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    handle.stop();
    let summary = working.await.unwrap().unwrap();
    assert_eq!((summary.succeeded, summary.failed, summary.retried), (24, 0, 0), "{summary:?}");
    let mail = std::fs::read_to_string(outbox.join("user0001@example.com.eml")).unwrap();
    assert!(mail.contains("\r\nTo: \"Alan Brown\" <user0001@example.com>\r\n"), "{mail}");
    let text = std::fs::read_to_string(outbox.join("+15550000001.txt")).unwrap();
    assert!(text.ends_with("Welcome, Alan Brown! Thank you for signing up.\n"), "{text}");
}

#[test]
fn a_broker_that_is_named_is_meant_as_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("elsewhere")).unwrap();
    let mut command = notifications(&directory.path().join("elsewhere"), &["signup"]);
    command.env("MQ_BROKER_URL", "sqlite:own.db");
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(directory.path().join("elsewhere/own.db").exists(), "{ended:?}");
}
