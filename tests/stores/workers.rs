//! Workers whose result store refuses them, is down, or is slow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mq_worker::control::{Control, WorkerInfo};
use mq_worker::{App, Config, SharedState, Worker, task};
use serde_json::Value;
use support::places::Running;
use support::redis::{Redis, is_installed};
use support::{Proxy, eventually, eventually_blocking, free_port, unique, within};

use super::LIMIT;

const SLOTS: usize = 4;

#[task(name = "stores.add")]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(name = "stores.optional", result_required = false)]
async fn optional(n: i64) -> i64 {
    n
}

struct Lab {
    app: App,
    queue: String,
    health: SocketAddr,
}

impl Lab {
    fn new(store: &str) -> Self {
        let queue = unique("stores");
        let health = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let broker_url = format!("memory://{queue}").parse().expect("a URL");
        let mut config = Config { broker_url, publish_timeout: Duration::from_secs(20), ..Config::default() };
        config.result_backend = Some(store.parse().expect("a URL"));
        config.worker.queues = vec![queue.clone()];
        config.worker.concurrency = SLOTS;
        config.worker.health = Some(health);
        Self { app: App::new(config).expect("a good configuration"), queue, health }
    }

    fn ask(&self, path: &str) -> String {
        let connect = || TcpStream::connect(self.health).ok();
        let mut stream =
            tokio::task::block_in_place(|| eventually_blocking("the worker listens", LIMIT, connect));
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: worker\r\n\r\n").as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    /// Returns what `/livez` reports about outcomes that wait to be stored.
    fn settling(&self) -> Value {
        serde_json::from_str::<Value>(&self.ask("/livez")).expect("JSON")["settling"].take()
    }

    async fn status(&self) -> WorkerInfo {
        let control = Control::new(self.app.broker().await.expect("a broker"));
        let workers = control.timeout(Duration::from_millis(300)).workers().await.expect("an answer");
        workers.into_iter().next().expect("a worker")
    }

    /// Returns the number of ready messages.
    async fn ready(&self) -> u64 {
        let broker = self.app.broker().await.expect("a broker");
        broker.queues(std::slice::from_ref(&self.queue)).await.expect("an answer")[0].ready
    }

    /// Waits until all slots wait for the store and the rest stays in the queue.
    async fn stands_still(&self, left: u64) -> Value {
        let settling = eventually("all slots wait for the store", LIMIT, || async {
            let settling = self.settling();
            (settling["count"] == SLOTS).then_some(settling)
        })
        .await;
        assert_eq!(self.ready().await, left, "nothing is taken meanwhile");
        settling
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_store_refuses_its_login_fails_to_start() {
    if !is_installed(file!()) {
        return;
    }
    let server = Redis::start_with(Some("secret"), &[]);
    let lab = Lab::new(&format!("redis://:wrong@{}/0", server.address()));
    let worker = Worker::new(lab.app.clone()).expect("a worker").with_state(SharedState::default());
    let error = within("the worker ends", LIMIT, worker.run()).await.expect_err("it is refused");
    assert!(
        error.is_access_refused() && error.to_string().contains("refuses the user or the password"),
        "{error:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_store_outage_outcomes_wait_within_the_prefetch_unless_results_are_optional() {
    if !is_installed(file!()) {
        return;
    }
    let mut server = Redis::start_with(Some("secret"), &[]);
    let proxy = Arc::new(Proxy::start(server.address()));
    let lab = Lab::new(&format!("redis://:secret@{}/0", proxy.address()));
    let shown = format!("redis://:***@{}/0", proxy.address());
    let running = Running::start(lab.app.clone(), SharedState::default());
    let calls = || lab.app.send_many((0..20).map(|n| add.with(n, n).queue(&lab.queue)));
    let sums: Vec<i64> = (0..20).map(|n| 2 * n).collect();
    let results = calls().await.expect("sent");
    assert_eq!(results.join().timeout(LIMIT).await.expect("all"), sums);

    // The store is down.
    server.kill9();
    let results = calls().await.expect("sent");
    let settling = lab.stands_still(16).await;
    assert_eq!(settling["waits_for"], *shown);
    assert!(settling["reason"].as_str().is_some_and(|text| text.contains("cannot be reached")), "{settling}");
    let status = lab.status().await;
    assert_eq!((status.settling, status.settling_waits_for.as_deref()), (SLOTS as u64, Some(&*shown)));
    assert!(lab.ask("/metrics").contains(&format!("mq_worker_settling {SLOTS}\n")));

    // The same tasks with optional results are not held up.
    let optionals = Lab::new(&format!("redis://:secret@{}/0", proxy.address()));
    let passing = Running::start(optionals.app.clone(), SharedState::default());
    let sent = (0..20).map(|n| optional.with(n).queue(&optionals.queue));
    optionals.app.send_many(sent).await.expect("sent");
    let skipped = "mq_worker_results_total{outcome=\"skipped\"} 20\n";
    eventually("all are acknowledged", LIMIT, || async {
        optionals.ask("/metrics").contains(skipped).then_some(())
    })
    .await;
    assert_eq!(passing.stop().await.succeeded, 20);

    server.launch();
    assert_eq!(results.join().timeout(LIMIT).await.expect("all"), sums, "nothing was lost");
    eventually("nothing waits", LIMIT, || async { lab.settling().is_null().then_some(()) }).await;

    // The store is slow.
    proxy.stall(true);
    let results = calls().await.expect("sent");
    let settling = lab.stands_still(16).await;
    assert_eq!(
        (&settling["waits_for"], &settling["reason"]),
        (&shown.into(), &"no answer yet to: store a result".into())
    );
    proxy.stall(false);
    assert_eq!(results.join().timeout(LIMIT).await.expect("all"), sums);
    let stored = "mq_worker_results_total{outcome=\"stored\"} 60\n";
    eventually("all are counted", LIMIT, || async { lab.ask("/metrics").contains(stored).then_some(()) })
        .await;
    assert_eq!(running.stop().await.succeeded, 60);
}
