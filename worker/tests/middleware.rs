//! Middleware around calls: what it sees on both sides, what it may change, and that its failures break nothing.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mq_worker::middleware::{Middleware, Next, OutcomeKind, Outgoing, Ran, TaskOutcome};
use mq_worker::{App, Config, Context, Error, TaskError, Worker, task};

/// What the layers saw, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().expect("not poisoned").push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }
}

/// A layer that records everything that it sees.
struct Witness {
    name: &'static str,
    seen: Seen,
}

impl Middleware for Witness {
    async fn before_publish(&self, call: &mut Outgoing<'_>) -> Result<(), TaskError> {
        self.seen.add(format!("{} before {}", self.name, call.task));
        let seen_by = ("seen-by".to_owned(), self.name.into());
        call.options.headers.retain(|(name, _)| name != "seen-by");
        call.options.headers.push(seen_by);
        Ok(())
    }

    async fn after_publish(&self, call: &Outgoing<'_>, published: Result<(), &Error>) {
        self.seen.add(format!("{} after {} {}", self.name, call.task, published.is_ok()));
    }

    async fn around(&self, context: &Context, next: Next<'_>) -> Result<Ran, TaskError> {
        self.seen.add(format!(
            "{} in, from {}",
            self.name,
            context.headers().get_str("seen-by").unwrap_or_default()
        ));
        let ran = next.run().await;
        self.seen.add(format!("{} out {}", self.name, ran.is_ok()));
        ran
    }

    async fn on_outcome(&self, _context: &Context, outcome: &TaskOutcome<'_>) {
        let kind = match outcome.kind {
            OutcomeKind::Succeeded => "succeeded".into(),
            OutcomeKind::Retried { failure, .. } => format!("retried {failure}"),
            OutcomeKind::DeadLettered { reason, failure } => format!("{reason} {failure}"),
            other => format!("{other:?}"),
        };
        self.seen.add(format!("{} {kind}", self.name));
    }
}

/// Refuses, postpones and panics on request.
struct Gate(Seen);

impl Middleware for Gate {
    async fn before_publish(&self, call: &mut Outgoing<'_>) -> Result<(), TaskError> {
        match call.task {
            "forbidden" => Err(TaskError::reject("not on a Sunday")),
            _ => Ok(()),
        }
    }

    async fn around(&self, context: &Context, next: Next<'_>) -> Result<Ran, TaskError> {
        match context.task() {
            "vetoed" => return Err(TaskError::reject("this tenant is suspended")),
            "layer_panics_before" => panic!("before"),
            _ => {}
        }
        let ran = next.run().await;
        if context.task() == "layer_panics_after" {
            panic!("after");
        }
        ran
    }

    async fn on_outcome(&self, context: &Context, _: &TaskOutcome<'_>) {
        self.0.add(format!("end {}", context.task()));
        panic!("an observer panics every time");
    }
}

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
fn add_blocking(a: i64, b: i64) -> i64 {
    a + b
}

#[task(max_retries = 0)]
async fn fail() -> Result<(), TaskError> {
    Err(TaskError::failed("as ever"))
}

#[task]
async fn forbidden() {}

#[task]
async fn vetoed(runs: u32) {
    panic!("ran {runs} times although it was vetoed");
}

#[task(max_retries = 0)]
async fn layer_panics_before() {}

#[task(max_retries = 0)]
async fn layer_panics_after() -> u32 {
    7
}

static LINKED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Linked;

impl Middleware for Linked {
    async fn before_publish(&self, call: &mut Outgoing<'_>) -> Result<(), TaskError> {
        LINKED.lock().expect("not poisoned").push(call.task.to_owned());
        Ok(())
    }
}

mq_worker::middleware!(Linked);

/// Runs a test with its own application and a worker, which is stopped at the end.
async fn with_worker<F: AsyncFnOnce(&App)>(
    name: &str,
    app: impl FnOnce(mq_worker::app::AppBuilder) -> mq_worker::app::AppBuilder,
    test: F,
) {
    let builder =
        App::builder().config(Config::default()).broker(&format!("memory://{name}")).expect("a broker");
    let app = app(builder).build().expect("an application");
    let worker = Worker::new(app.clone()).expect("a worker");
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    test(&app).await;
    handle.stop();
    running.await.expect("no panic").expect("the worker stopped well");
}

#[tokio::test]
async fn layers_see_a_call_in_order_on_both_sides() {
    let seen = Seen::default();
    let [outer, inner] = ["outer", "inner"].map(|name| Witness { name, seen: seen.clone() });
    with_worker(
        "order",
        |builder| builder.middleware(outer).middleware(inner),
        async |app| {
            let job = app.send(add.with(1, 2)).await.expect("sent");
            assert_eq!(job.get().await.expect("a result"), 3);
        },
    )
    .await;
    let lines = seen.lines();
    let of = |side: &[&str]| -> Vec<String> {
        lines.iter().filter(|line| side.iter().any(|word| line.contains(word))).cloned().collect()
    };
    assert_eq!(
        of(&[" before ", " after "]),
        ["outer before add", "inner before add", "inner after add true", "outer after add true"]
    );
    let run = [
        "outer in, from inner",
        "inner in, from inner",
        "inner out true",
        "outer out true",
        "inner succeeded",
        "outer succeeded",
    ];
    assert_eq!(of(&[" in, ", " out ", " succeeded"]), run);
    assert!(
        LINKED.lock().expect("not poisoned").contains(&"add".to_owned()),
        "the linked middleware was called too"
    );
}

#[tokio::test]
async fn plain_functions_and_failures_pass_through_the_layers() {
    let seen = Seen::default();
    let witness = Witness { name: "w", seen: seen.clone() };
    with_worker(
        "failures",
        |builder| builder.middleware(witness),
        async |app| {
            let job = app.send(add_blocking.with(2, 2)).await.expect("sent");
            assert_eq!(job.get().await.expect("a result"), 4);
            let error = app.send(fail.with()).await.expect("sent").get().await.expect_err("it fails");
            assert!(error.to_string().contains("as ever"), "{error}");
        },
    )
    .await;
    let lines = seen.lines();
    assert!(lines.contains(&"w out false".to_owned()), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.starts_with("w retries-exhausted") && line.contains("as ever")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_layer_can_refuse_a_call_on_both_sides_and_breaks_nothing_by_a_panic() {
    let seen = Seen::default();
    let gate = Gate(seen.clone());
    with_worker(
        "gate",
        |builder| builder.middleware(gate),
        async |app| {
            let error = app.send(forbidden.with()).await.expect_err("refused");
            assert!(error.is_rejected(), "{error}");
            assert!(error.to_string().contains("not on a Sunday"), "{error}");
            let error = app.send(vetoed.with(1)).await.expect("sent").get().await.expect_err("vetoed");
            assert!(error.to_string().contains("this tenant is suspended"), "{error}");
            let error =
                app.send(layer_panics_before.with()).await.expect("sent").get().await.expect_err("it fails");
            assert!(error.to_string().contains("before the task ran"), "{error}");
            // The task has returned: it must not run again because a layer panics afterwards.
            let job = app.send(layer_panics_after.with()).await.expect("sent");
            let value = tokio::time::timeout(Duration::from_secs(30), job.get())
                .await
                .expect("in time")
                .expect("a result");
            assert_eq!(value, 7);
        },
    )
    .await;
    let lines = seen.lines();
    for task in ["vetoed", "layer_panics_before", "layer_panics_after"] {
        assert_eq!(
            lines.iter().filter(|line| **line == format!("end {task}")).count(),
            1,
            "{task}: {lines:?}"
        );
    }
}
