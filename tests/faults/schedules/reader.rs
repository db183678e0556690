//! Consumes the calls of the schedules and logs them.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mq_worker::broker::Subscription;
use mq_worker::{App, Topology};
use tokio::sync::oneshot;

use crate::arena::QUEUE;
use crate::log::{Event, Log, Time};

/// After this long without a call the queue is considered empty.
const QUIET: Duration = Duration::from_secs(1);

/// The reader, on its own thread.
pub(crate) struct Reader {
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<mq_worker::Result<()>>,
}

impl Reader {
    pub(crate) fn start(app: App, log: PathBuf) -> Reader {
        let (stop, stopped) = oneshot::channel();
        let read = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(read(app, &Log::open(&log, "reader"), stopped))
        };
        Reader { stop, thread: thread::spawn(read) }
    }

    /// Reads the remaining calls and stops.
    pub(crate) fn stop(self) -> mq_worker::Result<()> {
        drop(self.stop);
        self.thread.join().expect("nothing panics")
    }
}

async fn read(app: App, log: &Log, mut stopped: oneshot::Receiver<()>) -> mq_worker::Result<()> {
    let broker = app.broker().await?;
    app.declare(&Topology::new().queue(QUEUE)).await?;
    let subscription = Subscription { queues: vec![QUEUE.into()], prefetch: 500, name: "reader".into() };
    let mut consumer = broker.consume(subscription).await?;
    let mut is_stopped = false;
    loop {
        let delivery = tokio::select! {
            biased;
            delivery = consumer.next() => delivery,
            _ = &mut stopped, if !is_stopped => {
                is_stopped = true;
                continue;
            }
            () = tokio::time::sleep(QUIET), if is_stopped => break,
        };
        let Some(delivery) = delivery else { break };
        let headers = &delivery.message.headers;
        let due = headers.get_str("mq-scheduled-at").and_then(|due| due.parse().ok()).map(time);
        log.write(Event::Came {
            schedule: headers.get_str("mq-schedule").unwrap_or("without-a-schedule").to_owned(),
            due: due.unwrap_or_default(),
            is_again: delivery.redelivered,
        });
        delivery.ack();
    }
    app.close().await;
    Ok(())
}

pub(crate) fn time(moment: DateTime<Utc>) -> Time {
    (moment - DateTime::UNIX_EPOCH).to_std().unwrap_or_default()
}
