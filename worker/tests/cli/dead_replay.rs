//! `mq-worker dead replay` of unique calls, on an SQLite file and, if `MQ_TEST_AMQP_URL` is set, on RabbitMQ.

use std::time::Duration;

use crate::support::{Run, eventually, mq_worker, scratch};
use futures_util::future::join_all;
use mq_worker::broker::Publication;
use mq_worker::message::{Headers, Message, Properties};
use mq_worker::{App, AsyncResult, Config, TaskError, Worker, task};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(60);

#[task(unique_for = "1h", unique_by = "customer", max_retries = 0)]
async fn bill(customer: String, good: bool) -> Result<(), TaskError> {
    if good { Ok(()) } else { Err(TaskError::reject(format!("{customer} has no address"))) }
}

/// A separate queue on one broker, and the command line for it.
struct Place {
    url: String,
    queue: String,
    app: App,
    runtime: Runtime,
}

impl Place {
    fn new(url: String) -> Self {
        let queue = format!("replay-{}", Uuid::new_v4().simple());
        let mut config = Config { broker_url: url.parse().expect("a URL"), ..Config::default() };
        config.worker.queues = vec![queue.clone()];
        let app = App::new(config).expect("a good configuration");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { url, queue, app, runtime: runtime.expect("a runtime") }
    }

    fn send(&self, customer: &str, good: bool) -> AsyncResult<()> {
        let call = bill.with(customer, good).queue(&self.queue);
        self.runtime.block_on(self.app.send(call)).expect("sent, or known")
    }

    /// Runs a worker until a call has ended for good and its dead letter, if any, is stored.
    fn work_until_ended(&self, job: AsyncResult<()>) {
        let worker = Worker::new(self.app.clone()).expect("a worker");
        let handle = worker.handle();
        self.runtime.block_on(async {
            let running = tokio::spawn(worker.run());
            let _ = job.get().timeout(LONG).await;
            // A warm shutdown: finished calls are fully settled, and their locks are released.
            handle.stop();
            running.await.expect("no panic").expect("it runs");
        });
    }

    fn run(&self, line: &[&str]) -> Run {
        mq_worker().args(["--broker", &self.url]).args(line).arg(&self.queue).run()
    }

    fn letters(&self) -> Vec<String> {
        let run = self.run(&["dead", "list", "--json"]);
        let letters: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let letters = letters.as_array().expect("a list").iter();
        letters.map(|letter| letter["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn on_both(test: impl Fn(&Place)) {
    let directory = scratch();
    test(&Place::new(format!("sqlite:{}", directory.path().join("queue.db").display())));
    match std::env::var("MQ_TEST_AMQP_URL") {
        Ok(url) => test(&Place::new(url)),
        Err(_) => eprintln!("left out, MQ_TEST_AMQP_URL is not set: replaying on RabbitMQ"),
    }
}

#[test]
fn a_unique_letter_waits_until_no_other_call_has_its_lock_and_then_takes_it() {
    on_both(|place| {
        let [held, free] = ["held", "free"].map(|name| format!("{name}-{}", Uuid::new_v4()));
        let (first, other) = (place.send(&held, false), place.send(&free, false));
        let (first_id, other_id) = (first.id().to_owned(), other.id().to_owned());
        place.work_until_ended(first);
        if !place.letters().contains(&other_id) {
            place.work_until_ended(other);
        }
        // In the order of their failure.
        eventually("two letters", || match place.letters() {
            letters if letters.contains(&first_id) && letters.contains(&other_id) => Ok(()),
            letters => Err(format!("{letters:?}")),
        });

        // The same call has been sent again meanwhile.
        let second = place.send(&held, true);
        assert!(!second.is_duplicate(), "what failed for good keeps nobody out");
        let run = place.run(&["dead", "replay"]);
        assert_eq!((run.code, run.stdout.trim()), (Some(75), "1 message replayed"), "{run:?}");
        assert!(run.stderr.contains(&first_id) && run.stderr.contains(second.id()), "{run:?}");
        assert_eq!(place.letters(), [first_id.as_str()], "it stays where it is");
        assert_eq!(place.send(&free, true).id(), other_id, "what was replayed keeps others out again");
        let run = place.run(&["dead", "replay", "--json"]);
        let told: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let kept = json!([{"id": first_id, "holder": second.id()}]);
        assert_eq!((run.code, told), (Some(75), json!({"replayed": 0, "kept": kept})), "{run:?}");

        place.work_until_ended(second);
        let run = place.run(&["dead", "replay", "--id", &first_id]);
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "1 message replayed"), "{run:?}");
        assert!(!place.letters().contains(&first_id));
        assert_eq!(place.send(&held, true).id(), first_id, "it has its lock again");
    });
}

#[test]
fn a_call_that_expired_is_replayed_only_when_it_is_asked_for() {
    on_both(|place| {
        place.runtime.block_on(place.app.broker()).expect("operating commands make no database");
        assert_eq!(place.run(&["declare", "queue"]).code, Some(0));
        for id in ["one", "two"] {
            let message = Message {
                properties: Properties {
                    expiration: Some(Duration::from_millis(1)),
                    ..Properties::default()
                },
                headers: Headers::for_task("bill", id),
                body: "[[], {}, {}]".into(),
            };
            let routing_key = place.queue.clone();
            let publication = Publication { routing_key, message, mandatory: true, ..Publication::default() };
            let publish = async { place.app.broker().await?.publish(publication).await };
            place.runtime.block_on(publish).expect("published");
        }
        eventually("both letters", || match place.letters() {
            letters if letters.len() == 2 => Ok(()),
            letters => Err(format!("{letters:?}")),
        });
        let list = place.run(&["dead", "list"]);
        assert!(list.stdout.contains("expired"), "{list:?}");
        let run = place.run(&["dead", "replay"]);
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "0 messages replayed"), "{run:?}");
        assert!(run.stderr.contains("2 expired and not replayed; use --expired"), "{run:?}");
        assert_eq!(place.letters().len(), 2, "they stay");
        let run = place.run(&["dead", "replay", "--id", "one"]);
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "1 message replayed"), "{run:?}");
        let run = place.run(&["dead", "replay", "--expired"]);
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "1 message replayed"), "{run:?}");
        assert_eq!(place.letters(), Vec::<String>::new());
    });
}

#[test]
fn a_group_among_many_letters_is_dropped_or_replayed_and_the_others_stay_in_their_order() {
    on_both(|place| {
        place.runtime.block_on(place.app.broker()).expect("operating commands make no database");
        assert_eq!(place.run(&["declare", "queue"]).code, Some(0));
        let ids: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
        let tasks = ["pay", "mail", "ship"];
        let publish = async {
            let broker = place.app.broker().await?;
            let letter = async |(n, id): (usize, &String)| {
                let mut headers = Headers::for_task(tasks[n % tasks.len()], id);
                headers.set("mq-dead-queue", place.queue.as_str());
                let message = Message { headers, body: "[[], {}, {}]".into(), ..Message::default() };
                let routing_key = format!("{}.dead", place.queue);
                let publication =
                    Publication { routing_key, message, mandatory: true, ..Publication::default() };
                broker.publish(publication).await
            };
            // A broker may enqueue concurrent publishes in any order.
            for letters in ids.iter().enumerate().collect::<Vec<_>>().chunks(500) {
                for sent in join_all(letters.iter().map(|one| letter(*one))).await {
                    sent?;
                }
            }
            Ok::<(), mq_worker::Error>(())
        };
        place.runtime.block_on(publish).expect("published");
        let letters = |limit: &str| {
            let run = place.run(&["dead", "list", "--json", "--limit", limit]);
            let letters: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
            let letters = letters.as_array().expect("a list").iter();
            let text = |letter: &Value, key: &str| letter[key].as_str().expect("a text").to_owned();
            letters.map(|letter| (text(letter, "task"), text(letter, "id"))).collect::<Vec<_>>()
        };
        let mut expected = letters("4000");
        assert_eq!(expected.len(), 3000);

        let run = place.run(&["dead", "drop", "--task", "mail", "--yes"]);
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "1000 messages dropped"), "{run:?}");
        expected.retain(|(task, _)| task != "mail");
        assert_eq!(letters("4000"), expected, "the others are whole and in their order");

        let run = place.run(&["dead", "replay", "--task", "ship"]);
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "1000 messages replayed"), "{run:?}");
        expected.retain(|(task, _)| task != "ship");
        assert_eq!(letters("4000"), expected, "the others are whole and in their order");
        assert_eq!(letters("5"), expected[..5]);
        let run = place.run(&["dead", "replay"]);
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "1000 messages replayed"), "{run:?}");
        assert_eq!(letters("10"), []);
        let ready = || async { place.app.broker().await?.queues(std::slice::from_ref(&place.queue)).await };
        eventually("all that were replayed wait once", || {
            match place.runtime.block_on(ready()).expect("an answer").first().map(|queue| queue.ready) {
                Some(2000) => Ok(()),
                ready => Err(format!("{ready:?}")),
            }
        });
    });
}
