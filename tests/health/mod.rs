//! `/livez`, `/readyz` and `/metrics` of real worker processes.

mod deploy;
mod swallow;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::swallow::Swallowing;
use mq_worker::{App, Config, SendOptions};
use rustix::process::Signal;
use serde_json::Value;
use support::{Process, Proxy, eventually_blocking, shared, temp_dir, unique};
use tempfile::TempDir;

/// Long enough for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a failure must last in these tests before a worker is no longer alive.
const STALL: &str = "1s";

/// The broker and queue of a test's worker.
struct Place {
    name: &'static str,
    url: String,
    queue: String,
    _directory: Option<Arc<TempDir>>,
}

fn sqlite() -> Place {
    let directory = temp_dir();
    let url = format!("sqlite:{}", directory.path().join("queue.db").display());
    Place { name: "sqlite", url, queue: unique("health"), _directory: Some(Arc::new(directory)) }
}

fn rabbitmq() -> Option<Place> {
    let shared = shared::rabbitmq(file!())?;
    Some(Place { name: "rabbitmq", url: shared.url, queue: unique("health"), _directory: None })
}

impl Place {
    /// Returns the same queue, reached through a proxy.
    fn by_way_of(&self, proxy: std::net::SocketAddr) -> Place {
        let (head, rest) = self.url.split_once('@').expect("the tests' address has a user");
        let (_, path) = rest.split_once('/').expect("and a virtual host");
        Place { url: format!("{head}@{proxy}/{path}"), queue: self.queue.clone(), _directory: None, ..*self }
    }

    /// Returns `host:port` of the broker.
    fn server(&self) -> String {
        let (_, rest) = self.url.split_once('@').expect("the tests' address has a user");
        rest.split('/').next().expect("a host").to_owned()
    }

    fn worker(&self, settings: &[(&str, &str)]) -> Worker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_health-worker"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MQ_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--health", "127.0.0.1:0", "--queues", &self.queue])
            .args(["--concurrency", "1"])
            .env("MQ_BROKER_URL", &self.url)
            .env("MQ_HEALTH_STALL_LIMIT", STALL)
            .env("MQ_HEALTH_CONNECTION_LIMIT", STALL)
            .env("MQ_PUBLISH_TIMEOUT", "2s")
            .envs(settings.iter().copied());
        let process = Process::spawn(&mut command);
        let line = process.wait_for_line("serving /livez", LIMIT);
        let (_, address) = line.rsplit_once("address=").expect("the line says where");
        Worker { address: address.trim().to_owned(), process }
    }

    /// Sends calls directly, bypassing any proxy between the worker and its broker.
    fn send(&self, task: &str, millis: u64, times: usize) {
        self.with_app(async |app| {
            for _ in 0..times {
                let options = SendOptions {
                    queue: Some(self.queue.clone()),
                    ignore_result: Some(true),
                    ..SendOptions::default()
                };
                let none = serde_json::Map::new();
                let sent = app.send_call::<()>(task, &(millis,), &none, options).await;
                sent.expect("the broker takes it");
            }
        });
    }

    /// Returns the number of waiting messages and of consumers that the broker knows of.
    fn counts(&self) -> (u64, u64) {
        self.with_app(async |app| {
            let broker = app.broker().await.expect("a broker");
            let queues = broker.queues(std::slice::from_ref(&self.queue)).await.expect("an answer");
            (queues[0].ready, queues[0].consumers)
        })
    }

    fn with_app<T>(&self, ask: impl AsyncFnOnce(&App) -> T) -> T {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let config = Config { broker_url: self.url.parse().expect("a URL"), ..Config::default() };
            let app = App::new(config).expect("a good configuration");
            let answer = ask(&app).await;
            app.close().await;
            answer
        })
    }
}

struct Worker {
    process: Process,
    address: String,
}

impl Worker {
    /// Returns status, head and body of an answer.
    fn ask(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).expect("the worker listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
        stream.write_all(request.as_bytes()).expect("the worker reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the worker answers");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head.to_owned(), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.ask(&format!("GET {path} HTTP/1.1\r\nHost: worker\r\n\r\n"));
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    fn status(&self, path: &str) -> u16 {
        self.get(path).0
    }

    /// Waits until a path answers with a status; a failing check is named in the body.
    #[track_caller]
    fn becomes(&self, path: &str, status: u16, check: Option<&str>) -> Value {
        eventually_blocking(&format!("{path} gives {status}, {check:?}"), LIMIT, || {
            let (found, body) = self.get(path);
            let failed = body["failed"][0]["check"].as_str();
            (found == status && failed == check).then_some(body)
        })
    }
}

fn everywhere() -> impl Iterator<Item = Place> {
    [Some(sqlite()), rabbitmq()].into_iter().flatten()
}

#[test]
fn a_worker_is_ready_while_it_consumes() {
    for place in everywhere() {
        let directory = temp_dir();
        let file = directory.path().join("go");
        let worker = place.worker(&[("HEALTH_SETUP", file.to_str().expect("a path"))]);
        worker.becomes("/readyz", 503, Some("setup"));
        assert_eq!(worker.get("/livez"), (200, serde_json::json!({ "ok": true })), "{}", place.name);
        std::fs::write(&file, "").expect("a file");
        worker.becomes("/readyz", 200, None);

        place.send("health.hold", 3000, 1);
        eventually_blocking("the task is taken", LIMIT, || (place.counts().0 == 0).then_some(()));
        worker.process.signal(Signal::TERM);
        let stopping = worker.becomes("/readyz", 503, Some("stopping"));
        assert!(stopping["failed"][0]["since"].is_string(), "{stopping}");
        assert_eq!(worker.status("/livez"), 200, "{}", place.name);
        assert!(worker.process.wait(LIMIT).status.success(), "{}", place.name);
    }
}

/// celery#8030 as seen from inside: the worker believes that everything works.
#[test]
fn a_worker_whose_consumer_hands_nothing_out_is_not_alive() {
    for place in everywhere() {
        let deaf = place.worker(&[("HEALTH_DEAF", "1")]);
        let without_check = place.worker(&[("HEALTH_DEAF", "1"), ("MQ_HEALTH_STALL_LIMIT", "0s")]);
        for worker in [&deaf, &without_check] {
            worker.becomes("/readyz", 200, None);
        }
        // An empty queue is not a failure.
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(deaf.status("/livez"), 200, "{}", place.name);
        place.send("health.hold", 0, 3);
        let body = deaf.becomes("/livez", 503, Some("progress"));
        let reason = body["failed"][0]["reason"].as_str().expect("a reason");
        assert!(reason.contains(&place.queue) && reason.contains("3 messages"), "{reason}");
        assert_eq!(without_check.status("/livez"), 200, "{}: only this check sees it", place.name);

        // Another worker makes progress: not a failure either.
        let _hale = place.worker(&[]);
        deaf.becomes("/livez", 200, None);
    }
}

#[test]
fn a_paused_queue_is_no_fault() {
    for place in everywhere() {
        let worker = place.worker(&[]);
        worker.becomes("/readyz", 200, None);
        place.with_app(async |app| app.pause(place.queue.as_str()).await.expect("paused"));
        eventually_blocking("the worker lets go of the queue", LIMIT, || {
            (place.counts().1 == 0).then_some(())
        });
        place.send("health.hold", 0, 3);
        // Longer than the stall limit.
        std::thread::sleep(Duration::from_millis(2500));
        for path in ["/livez", "/readyz"] {
            assert_eq!(worker.get(path), (200, serde_json::json!({ "ok": true })), "{}", place.name);
        }
        assert_eq!(place.counts().0, 3, "{}", place.name);
        place.with_app(async |app| app.resume(place.queue.as_str()).await.expect("resumed"));
        eventually_blocking("they run", LIMIT, || (place.counts() == (0, 1)).then_some(()));
    }
}

/// celery#8030 as it happened: after a reconnect the broker does not know the worker's consumer.
#[test]
fn a_worker_that_consumes_nothing_after_a_reconnect_is_not_alive() {
    let Some(place) = rabbitmq() else { return };
    let proxy = Swallowing::start(place.server());
    let behind = place.by_way_of(proxy.address);
    let worker = behind.worker(&[]);
    let without_check = behind.worker(&[("MQ_HEALTH_STALL_LIMIT", "0s")]);
    place.send("health.hold", 0, 10);
    for worker in [&worker, &without_check] {
        worker.becomes("/readyz", 200, None);
    }
    eventually_blocking("the tasks are done", LIMIT, || (place.counts() == (0, 2)).then_some(()));
    assert_eq!(worker.status("/livez"), 200);

    proxy.swallow_consumers();
    for worker in [&worker, &without_check] {
        worker.process.wait_for_line("connection to the broker restored", LIMIT);
        worker.becomes("/readyz", 200, None);
    }
    eventually_blocking("no consumer is left", LIMIT, || (place.counts().1 == 0).then_some(()));
    place.send("health.hold", 0, 2);
    worker.becomes("/livez", 503, Some("progress"));
    assert_eq!(
        (worker.status("/readyz"), without_check.status("/livez")),
        (200, 200),
        "all looks well but for this"
    );
    // Messages that were not acked before the cut are back as well.
    let counts = place.counts();
    assert!(matches!(counts, (2.., 0)), "{counts:?}");
}

#[test]
fn a_worker_without_its_broker_is_not_ready_and_after_a_while_not_alive() {
    let Some(place) = rabbitmq() else { return };
    let proxy = Proxy::start(place.server());
    let worker = place.by_way_of(proxy.address()).worker(&[]);
    worker.becomes("/readyz", 200, None);
    proxy.refuse(true);
    proxy.cut();
    worker.becomes("/readyz", 503, Some("connection"));
    worker.becomes("/livez", 503, Some("connection"));
    proxy.refuse(false);
    worker.becomes("/livez", 200, None);
    worker.becomes("/readyz", 200, None);
    // The connection stays open, but no data gets through.
    proxy.stall(true);
    worker.becomes("/livez", 503, Some("connection"));
    proxy.stall(false);
    worker.becomes("/livez", 200, None);
    // A worker that has never reached the broker.
    proxy.refuse(true);
    let worker = place.by_way_of(proxy.address()).worker(&[]);
    worker.becomes("/livez", 503, Some("connection"));
    assert_eq!(worker.status("/readyz"), 503);
}

#[test]
fn a_worker_whose_runtime_is_blocked_is_not_alive() {
    for place in everywhere() {
        let worker = place.worker(&[("TOKIO_WORKER_THREADS", "1")]);
        worker.becomes("/readyz", 200, None);
        assert_eq!(worker.status("/livez"), 200);
        place.send("health.block", 3500, 1);
        worker.becomes("/livez", 503, Some("executor"));
        worker.becomes("/livez", 200, None);
    }
}

#[test]
fn a_worker_that_is_busy_is_alive() {
    for place in everywhere() {
        let worker = place.worker(&[]);
        place.send("health.hold", 1500, 2);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2500) {
            let (status, body) = worker.get("/livez");
            assert_eq!(status, 200, "{}: {body}", place.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn only_what_a_probe_asks_is_answered() {
    let place = sqlite();
    let worker = place.worker(&[]);
    worker.becomes("/readyz", 200, None);
    assert_eq!(worker.status("/livez?verbose"), 200);
    let (status, head, body) = worker.ask("HEAD /livez HTTP/1.0\r\n\r\n");
    assert!(status == 200 && body.is_empty() && head.contains("Content-Length: 12"), "{head}\n{body}");
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", 404),
        ("POST /livez HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 405),
        ("GET /livez\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1} TLS, perhaps\r\n\r\n", 400),
        ("GET  /livez HTTP/1.1\r\n\r\n", 400),
    ] {
        assert_eq!(worker.ask(request).0, expected, "{request:?}");
    }
    let long = format!("GET /livez HTTP/1.1\r\nX: {}", "x".repeat(20_000));
    assert_eq!(worker.ask(&long).0, 431);
    // Silent clients, more than are served at once, do not keep others from being answered.
    let silent: Vec<TcpStream> =
        (0..80).map(|_| TcpStream::connect(&worker.address).expect("a port")).collect();
    assert_eq!(worker.status("/livez"), 200);
    drop(silent);
}

#[test]
fn an_address_that_is_taken_is_an_error_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let place = sqlite();
    let mut command = Command::new(env!("CARGO_BIN_EXE_health-worker"));
    command.args(["--health", &address, "--broker", &place.url, "--queues", "any"]);
    let ended = Process::spawn(&mut command).wait(LIMIT);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    let expected = format!("cannot serve health checks on `{address}`: Address already in use");
    assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
}

#[test]
fn a_worker_whose_database_is_deleted_is_not_alive() {
    let place = sqlite();
    let worker = place.worker(&[("MQ_HEALTH_STALL_LIMIT", "0s"), ("MQ_HEALTH_CONNECTION_LIMIT", "0s")]);
    worker.becomes("/readyz", 200, None);
    assert_eq!(worker.status("/livez"), 200);
    let path = place.url.strip_prefix("sqlite:").expect("a file");
    std::fs::remove_file(path).expect("it is there");
    worker.becomes("/livez", 503, Some("broker"));
    assert_eq!(worker.status("/readyz"), 503);
    // Whatever else fails meanwhile also says that the file is gone, as a warning.
    let line = worker.process.wait_for_line("nothing is sent, run or stored until", LIMIT);
    assert!(line.contains(path) && line.contains("ERROR"), "{line}");
}

/// Another program holds the file's lock: finished tasks cannot be settled, but as that may pass, no restart is needed.
#[test]
fn an_outcome_that_cannot_be_settled_is_shown_at_once() {
    let place = sqlite();
    let patient = place.worker(&[("MQ_HEALTH_CONNECTION_LIMIT", "1h"), ("MQ_HEALTH_STALL_LIMIT", "1h")]);
    patient.becomes("/readyz", 200, None);
    assert!(patient.get("/livez").1["settling"].is_null());
    place.send("health.fail", 1000, 1);
    eventually_blocking("the task is taken", LIMIT, || (place.counts().0 == 0).then_some(()));
    let path = place.url.strip_prefix("sqlite:").expect("a path");
    let other = rusqlite::Connection::open(path).expect("the file");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let shown = eventually_blocking("it is shown", LIMIT, || {
        let (status, body) = patient.get("/livez");
        body["settling"].is_object().then_some((status, body))
    });
    assert_eq!((shown.0, &shown.1["settling"]["count"]), (200, &Value::from(1)), "{}", shown.1);
    assert!(shown.1["settling"]["since"].is_string(), "{}", shown.1);
    other.execute_batch("ROLLBACK").expect("free again");
    eventually_blocking("it is settled", LIMIT, || {
        patient.get("/livez").1["settling"].is_null().then_some(())
    });
}
