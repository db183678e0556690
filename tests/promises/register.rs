//! The register of revoked ids on a RabbitMQ that crashes, loses the stream, or has a long register.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use mq_worker::broker::{Note, Register};
use mq_worker::middleware::{Middleware, OutcomeKind, TaskOutcome};
use mq_worker::{App, Config, Context, TaskError, task};
use support::journal::Journal;
use support::node::Node;
use support::places::{Running, eventually};
use support::shared::{self, may_start_rabbitmq};
use support::unique;

use crate::rabbitmq::fixture::Detour;

#[task]
async fn kept(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", line);
}

#[task(max_retries = 0)]
async fn heeding(ctx: &Context) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("ran", "heeding");
    ctx.cancelled().await;
    Err(TaskError::failed("nobody wants it"))
}

#[task(once_for = "1h")]
async fn once(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", line);
}

/// Creates a separate virtual host: the register has a fixed name, which other tests use in theirs.
pub(crate) fn own_host() -> Option<(shared::Shared, String)> {
    let mut shared = shared::rabbitmq("the register of what is revoked")?;
    let host = unique("register");
    shared.ctl.run(["add_vhost", &host]);
    shared.ctl.run(["set_permissions", "-p", &host, "guest", ".*", ".*", ".*"]);
    let (server, _) = shared.url.rsplit_once('/').expect("the URL ends with its virtual host");
    shared.url = format!("{server}/{host}");
    Some((shared, host))
}

/// Returns an application whose workers poll the register every two seconds, since they get no remote control.
pub(crate) fn untold(url: &str) -> App {
    App::new(untold_config(url)).expect("a good configuration")
}

fn untold_config(url: &str) -> Config {
    let mut config = Config { broker_url: url.parse().expect("a URL"), ..Config::default() };
    config.worker.queues = vec!["work".into()];
    config.worker.control = false;
    config
}

/// Counts the deliveries that were revoked.
struct Revocations(Arc<AtomicU32>);

impl Middleware for Revocations {
    async fn on_outcome(&self, _: &Context, outcome: &TaskOutcome<'_>) {
        if matches!(outcome.kind, OutcomeKind::Revoked { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn what_is_revoked_stays_so_when_rabbitmq_is_restarted() {
    if !may_start_rabbitmq("the register of what is revoked") {
        return;
    }
    let node = Node::start();
    let run = tokio::runtime::Runtime::new().expect("a runtime can be built");
    run.block_on(async {
        let app = untold(&node.url());
        let call = |line: &str| kept.with(line).queue("work").ignore_result();
        let unwanted = app.send(call("unwanted")).await.expect("sent");
        let later = app.send(call("later").countdown(Duration::from_secs(2))).await.expect("sent");
        app.send(call("wanted")).await.expect("sent");
        for id in [unwanted.id(), later.id()] {
            app.revoke(id).await.expect("revoked");
        }
    });
    drop(run);
    // Stopped, not killed: RabbitMQ 3.10 is late to record on disk that a stream exists.
    node.ctl.run(["stop_app"]);
    node.ctl.run(["start_app"]);
    let run = tokio::runtime::Runtime::new().expect("a runtime can be built");
    run.block_on(async {
        let journal = Journal::default();
        let revoked = Arc::new(AtomicU32::new(0));
        let app = App::builder().config(untold_config(&node.url())).middleware(Revocations(revoked.clone()));
        let running = Running::start(app.build().expect("a good configuration"), journal.shared());
        eventually("the wanted one ran", async || !journal.read("ran").is_empty()).await;
        let both = || async { revoked.load(Ordering::Relaxed) == 2 };
        eventually("both revoked ones have come, the delayed one too", both).await;
        let summary = running.stop().await;
        assert_eq!(journal.read("ran"), ["wanted"]);
        assert_eq!((summary.revoked, summary.succeeded), (2, 1));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn many_first_notes_at_a_time_make_one_stream() {
    let Some((shared, _)) = own_host() else { return };
    let broker = untold(&shared.url).broker().await.expect("a broker");
    let hour = Duration::from_secs(3600);
    let notes: Vec<Note> = (0..200).map(|index| Note::new(index.to_string(), hour)).collect();
    let written = try_join_all(notes.iter().map(|note| broker.note(Register::Done, note))).await;
    written.expect("noted, and the connection was not lost");
    assert_eq!(broker.notes(Register::Done, 0).await.expect("notes").notes.len(), notes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_run_where_streams_are_not_permitted() {
    let Some((shared, host)) = own_host() else { return };
    shared.ctl.run([
        "set_permissions",
        "-p",
        &host,
        "guest",
        r"^(?!mq-worker\.(revoked|done)).*",
        ".*",
        ".*",
    ]);
    let mut config = Config { broker_url: shared.url.parse().expect("a URL"), ..Config::default() };
    config.worker.queues = vec!["work".into()];
    let app = App::new(config).expect("a good configuration");
    let journal = Journal::default();
    let running = Running::start(app.clone(), journal.shared());
    app.send(once.with("once").queue("work")).await.expect("sent").get().await.expect("it is acknowledged");
    let job = app.send(heeding.with().queue("work")).await.expect("sent");
    eventually("it runs", async || journal.read("ran").len() == 2).await;
    let error = job.revoke().await.expect_err("it cannot be kept");
    assert!(error.is_unsupported(), "{error}");
    let error = job.get().timeout(Duration::from_secs(60)).await.expect_err("it was revoked");
    assert!(error.is_revoked(), "{error}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_only_looks_writes_nothing_to_the_register() {
    let Some((shared, _)) = own_host() else { return };
    let (app, observer) = (untold(&shared.url), untold(&shared.url));
    let journal = Journal::default();
    let running = Running::start(app.clone(), journal.shared());
    let end = async || {
        let broker = observer.broker().await.expect("a broker");
        broker.notes(Register::Revoked, 0).await.expect("notes").next
    };
    // The worker follows the register: successive calls are each revoked while they run.
    let hear = async || {
        let before = journal.read("ran").len();
        let job = app.send(heeding.with().queue("work")).await.expect("sent");
        eventually("it runs", async || journal.read("ran").len() > before).await;
        app.revoke(job.id()).await.expect("revoked");
        let error = job.get().timeout(Duration::from_secs(60)).await.expect_err("it was revoked");
        assert!(error.is_revoked(), "{error}");
    };
    hear().await;
    let before = end().await;
    for _ in 0..3 {
        hear().await;
    }
    // Three revocations, and the read of this test itself.
    assert_eq!(end().await - before, 4, "the worker wrote too");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_that_was_deleted_is_read_again_from_its_beginning() {
    let Some((shared, host)) = own_host() else { return };
    let app = untold(&shared.url);
    for index in 0..20 {
        app.revoke(&format!("another-{index}")).await.expect("revoked");
    }
    let journal = Journal::default();
    let running = Running::start(app.clone(), journal.shared());
    let job = app.send(heeding.with().queue("work")).await.expect("sent");
    eventually("it runs", async || journal.read("ran").len() == 1).await;
    shared.ctl.run(["delete_queue", "-p", &host, "mq-worker.revoked"]);
    job.revoke().await.expect("revoked");
    let error = job.get().timeout(Duration::from_secs(60)).await.expect_err("it was revoked");
    assert!(error.is_revoked(), "{error}");
    running.stop().await;
}

/// A broker that is lost before it confirms a note may or may not have it; a note may be recorded twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_whose_outcome_is_unknown_is_recorded_again() {
    const BASIC_ACK: (u16, u16) = (60, 80);
    let Some((shared, _)) = own_host() else { return };
    let detour = Detour::start(&shared.url);
    let app = untold(&detour.url);
    app.pause("first").await.expect("the stream is declared");
    detour.delay(BASIC_ACK, Duration::from_secs(60), 1);
    let pausing = tokio::spawn({
        let app = app.clone();
        async move { app.pause("second").await }
    });
    eventually("the confirm is held back", async || detour.delayed() == 1).await;
    detour.cut();
    pausing.await.expect("no panic").expect("paused after all");
    assert_eq!(app.paused().await.expect("read").len(), 2);
}

/// RabbitMQ closes the whole connection of a client that uses a stream at a bad moment, so streams have a connection of
/// their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_over_a_stream_costs_no_publish_and_no_delivery() {
    let Some((shared, host)) = own_host() else { return };
    let app = untold(&shared.url);
    let journal = Journal::default();
    let running = Running::start(app.clone(), journal.shared());
    let job = app.send(heeding.with().queue("work")).await.expect("sent");
    eventually("it runs", async || journal.read("ran").len() == 1).await;
    let sending = tokio::spawn({
        let app = app.clone();
        async move {
            for index in 0..300 {
                let call = kept.with(index.to_string()).queue("work").ignore_result();
                app.send(call).await.expect("neither lost nor unknown");
            }
        }
    });
    for _ in 0..5 {
        let listed = shared.ctl.run(["list_connections", "--silent", "pid", "vhost", "client_properties"]);
        let mine: Vec<&str> = listed.lines().filter(|line| line.contains(&host)).collect();
        let streams: Vec<&str> = mine.iter().filter(|line| line.contains("(streams)")).copied().collect();
        assert!(!streams.is_empty() && mine.len() > streams.len(), "{listed}");
        for line in streams {
            let (pid, _) = line.split_once('\t').expect("columns");
            shared.ctl.run(["close_connection", pid, "a stream without a leader"]);
        }
        eventually("the register is read again", async || {
            app.broker().await.expect("a broker").notes(Register::Revoked, 0).await.is_ok()
        })
        .await;
    }
    sending.await.expect("all was sent");
    job.revoke().await.expect("revoked");
    let error = job.get().timeout(Duration::from_secs(60)).await.expect_err("it was revoked");
    assert!(error.is_revoked(), "{error}");
    eventually("all have run", async || journal.read("ran").len() == 301).await;
    running.stop().await;
    assert_eq!(journal.read("ran").len(), 301, "and none of them twice");
}
