//! The history: outcomes of calls are known after a restart, and the commands report them correctly.

mod commands;

use std::path::Path;
use std::time::Duration;

use mq_worker::history::{Filter, GroupBy, History, Job, JobState, follow};
use mq_worker::{App, Context, TaskError, task};
use support::journal::Journal;
use support::places::{Place, Running, eventually, everywhere};
use tokio::task::JoinHandle;

#[task]
async fn history_adds(a: u64, b: u64) -> u64 {
    a + b
}

/// Fails in its first run.
#[task]
async fn history_stumbles(ctx: &Context, name: String) -> Result<String, TaskError> {
    if ctx.state::<Journal>().read("runs").is_empty() {
        ctx.state::<Journal>().write("runs", name.clone());
        return Err(TaskError::retry_in(Duration::from_millis(100), format!("{name} stumbled")));
    }
    Ok(name)
}

#[task]
async fn history_refuses(name: String) -> Result<(), TaskError> {
    Err(TaskError::reject(format!("no {name} today")))
}

/// A history that is being fed.
struct Fed {
    history: History,
    feeding: JoinHandle<mq_worker::Result<()>>,
}

impl Fed {
    async fn open(app: &App, path: &Path) -> Self {
        let history = History::open(path).await.expect("opened");
        let broker = app.broker().await.expect("a broker");
        let feeding = tokio::spawn({
            let history = history.clone();
            async move { follow(broker, &history).await }
        });
        let queue = history.queue_name().await.expect("a name");
        eventually("the history listens", async || {
            let broker = app.broker().await.expect("a broker");
            let queues = broker.queues(std::slice::from_ref(&queue)).await.expect("an answer");
            queues.first().is_some_and(|queue| queue.consumers == 1)
        })
        .await;
        Self { history, feeding }
    }

    /// Waits until the call is in this state, and returns it.
    async fn known(&self, id: &str, state: JobState) -> Job {
        eventually(&format!("{id} is known as {state}"), async || {
            self.history.job(id).await.expect("read").is_some_and(|job| job.state == state)
        })
        .await;
        self.history.job(id).await.expect("read").expect("known")
    }

    async fn close(self) {
        self.feeding.abort();
        let _ = self.feeding.await;
    }
}

/// An application whose workers and senders emit events.
fn observed(place: &Place) -> App {
    place.app_with(|config| {
        config.worker.events = true;
        config.sent_events = true;
        config.worker.hostname = Some("historian@h".into());
    })
}

#[test]
fn everything_is_known_after_a_restart() {
    everywhere(|place| async move {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("history.db");
        let app = observed(&place);
        let fed = Fed::open(&app, &path).await;
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let added = app.send(history_adds.with(2, 3).queue(&place.queue)).await.expect("sent");
        let stumbled = app.send(history_stumbles.with("ann").queue(&place.queue)).await.expect("sent");
        let refused = app.send(history_refuses.with("soup").queue(&place.queue)).await.expect("sent");

        let job = fed.known(added.id(), JobState::Success).await;
        assert_eq!(
            (job.name.as_deref(), job.queue.as_deref()),
            (Some("history_adds"), Some(place.queue.as_str()))
        );
        assert_eq!((job.args.as_deref(), job.result.as_deref()), (Some("(2, 3)"), Some("5")));
        assert!(job.sent_at.is_some() && job.started_at.is_some() && job.finished_at.is_some(), "{job:?}");
        let job = fed.known(stumbled.id(), JobState::Success).await;
        let outcomes: Vec<_> = job.attempts.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, [Some(JobState::Retry), Some(JobState::Success)], "{job:?}");
        assert_eq!(job.attempts[0].worker.as_deref(), Some("historian@h"));
        assert!(job.attempts[0].error.as_deref().is_some_and(|error| error.contains("stumbled")), "{job:?}");
        let job = fed.known(refused.id(), JobState::DeadLettered).await;
        assert!(job.error.as_deref().is_some_and(|error| error.contains("no soup today")), "{job:?}");
        let groups = fed.history.failure_groups().await.expect("groups");
        assert_eq!((groups.len(), groups[0].count, groups[0].dead_lettered), (1, 1, 1), "{groups:?}");

        // Without a reader the broker keeps the events.
        fed.close().await;
        let unseen = app.send(history_adds.with(20, 30).queue(&place.queue)).await.expect("sent");
        eventually("it ran", async || {
            let broker = app.broker().await.expect("a broker");
            let queues = broker.queues(std::slice::from_ref(&place.queue)).await.expect("an answer");
            queues.first().is_some_and(|queue| queue.ready == 0 && queue.running.unwrap_or(0) == 0)
        })
        .await;
        let fed = Fed::open(&app, &path).await;
        let job = fed.known(unseen.id(), JobState::Success).await;
        assert_eq!(job.result.as_deref(), Some("50"));
        assert!(fed.history.job(added.id()).await.expect("read").is_some(), "the file was kept");

        let mine = Filter { queue: Some(place.queue.clone()), ..Filter::default() };
        let page = fed.history.jobs(mine, 10, None).await.expect("a page");
        // Newest first, by each call's first event; the order of the three earlier calls' first events is not defined.
        let mut ids: Vec<&str> = page.jobs.iter().map(|job| job.id.as_str()).collect();
        assert_eq!(ids.first(), Some(&unseen.id()));
        ids.sort_unstable();
        let mut expected = [unseen.id(), refused.id(), stumbled.id(), added.id()];
        expected.sort_unstable();
        assert_eq!(ids, expected);
        let totals = fed.history.totals(GroupBy::Queue, Duration::from_secs(600)).await.expect("totals");
        let counts = &totals.iter().find(|total| total.name == place.queue).expect("the queue").counts;
        assert_eq!(
            (counts.sent, counts.succeeded, counts.retried, counts.failed),
            (4, 3, 1, 1),
            "{counts:?}"
        );
        let workers = fed.history.workers().await.expect("workers");
        assert!(workers.iter().any(|worker| worker.name == "historian@h" && worker.is_online), "{workers:?}");
        running.stop().await;
        eventually("the worker has said goodbye", async || {
            let workers = fed.history.workers().await.expect("workers");
            workers.iter().any(|worker| worker.name == "historian@h" && !worker.is_online)
        })
        .await;
        let queue = fed.history.queue_name().await.expect("a name");
        fed.close().await;
        app.broker().await.expect("a broker").delete_queue(&queue).await.expect("deleted");
        app.close().await;
    });
}
