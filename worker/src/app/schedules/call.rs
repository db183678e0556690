//! The call of a due time: its message and its lock.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::app::{App, unique};
use crate::broker::{Broker, Lock, Publication};
use crate::canvas::SendOptions;
use crate::error::Result;
use crate::message::codec;
use crate::message::headers::{format_time, names};
use crate::middleware::Outgoing;
use crate::schedule::Schedule;
use crate::task::TaskOptions;

/// How long the lock of a call that never ends keeps the next one from being sent, unless its time limit is longer.
const LONGEST: Duration = Duration::from_secs(60 * 60);

impl App {
    /// The message for a due time.
    pub(crate) async fn scheduled_call(
        &self,
        schedule: &Schedule,
        due: DateTime<Utc>,
        id: &str,
        lock: Option<&Lock>,
    ) -> Result<Publication> {
        let mut options = self.scheduled_options(schedule, id);
        let mut outgoing = Outgoing { task: &schedule.task, options: &mut options };
        self.middleware().before_publish(&mut outgoing).await?;
        // Middleware must not change the id: it makes this the call of its due time.
        options.task_id = Some(id.to_owned());
        let own = self.own_options(&schedule.task);
        let body = codec::encode_values(&schedule.args, &schedule.kwargs, &codec::Embed::default())?;
        let mut call = self.ready_call(&schedule.task, &own, body, &options).await?;
        call.headers.set(names::SCHEDULE, schedule.name.as_str());
        call.headers.set(names::SCHEDULED_AT, format_time(due));
        if let Some(lock) = lock {
            unique::write(&mut call.headers, lock);
        }
        self.publication(call).await
    }

    /// Reports that the call of a due time was sent, like any other call.
    pub(crate) fn report_scheduled(&self, broker: &Arc<dyn Broker>, sent: &Publication) {
        let queue = sent.exchange.is_empty().then_some(sent.routing_key.as_str());
        self.report_sent(broker, queue, sent);
    }

    /// The options of the calls of a schedule.
    pub(super) fn scheduled_options(&self, schedule: &Schedule, id: &str) -> SendOptions {
        // A reply would go to the scheduler, where no caller waits for it.
        let replies = self.config().effective_result_backend().scheme() == "rpc";
        SendOptions {
            task_id: Some(id.to_owned()),
            queue: schedule.queue.clone(),
            expires: schedule.expires,
            ignore_result: replies.then_some(true),
            headers: schedule.headers.clone().into_iter().collect(),
            ..SendOptions::default()
        }
    }

    /// The lock that keeps calls of a schedule from overlapping.
    pub(crate) fn overlap_lock(&self, schedule: &Schedule, id: &str) -> Lock {
        let limit = self.own_options(&schedule.task).time_limit.unwrap_or_default();
        Lock { key: schedule.lock_key(), holder: id.to_owned(), lifetime: LONGEST.max(limit) }
    }

    fn own_options(&self, task: &str) -> TaskOptions {
        self.registry().get(task).map_or(TaskOptions::DEFAULT, |entry| entry.options)
    }
}
