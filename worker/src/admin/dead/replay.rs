//! Sending a dead letter back to the queue that it came from.

use std::sync::Arc;

use chrono::Utc;

use super::search::Search;
use crate::admin::each::Handled;
use crate::admin::failure::Outcome;
use crate::app::{App, unique};
use crate::backend::{ResultBackend, ResultRecord};
use crate::broker::{Delivery, Locked, Publication};
use crate::error::Result;
use crate::message::Message;
use crate::message::headers::{is_instruction, is_trace, names};
use crate::routing::queue::broadcast_task;
use crate::state::State;

/// The outcome of sending a letter back.
pub(crate) enum Sent {
    /// The broker has confirmed it.
    Back,
    /// Its task is unique, and another call of it is now waiting or running.
    LockedOut { holder: Option<String> },
}

/// Publishes it again, without touching the dead letter itself. A unique call takes its lock first, as when it was sent.
pub(crate) async fn send_back(app: &App, delivery: &Delivery, dead_queue: &str) -> Outcome<Sent> {
    let queue = origin(&delivery.message, dead_queue).to_owned();
    // A worker's broadcast queue is gone with the worker: broadcast again to the workers that run now.
    let (exchange, routing_key) = match broadcast_task(&queue) {
        Some(task) => (App::broadcast_exchange(task), String::new()),
        None => {
            app.ensure_queue(&queue).await?;
            (String::new(), queue)
        }
    };
    let message = revived(&delivery.message);
    let publication = Publication { exchange, routing_key, message, delay: None, mandatory: true };
    let broker = app.broker().await?;
    let headers = &delivery.message.headers;
    let lock = headers.id().and_then(|id| unique::read(headers, id));
    if let Some(lock) = &lock
        && let Locked::Held(holder) = broker.lock(lock).await?
    {
        return Ok(Sent::LockedOut { holder });
    }
    let sent = async {
        let closed = reopen_result(app, &delivery.message).await?;
        let sent = broker.publish(publication).await;
        if let (Err(error), Some((backend, record))) = (&sent, closed)
            && error.unknown_id().is_none()
        {
            // It was not sent: restore its result.
            let _ = backend.store(&record, None).await;
        }
        sent
    }
    .await;
    if let (Err(error), Some(lock)) = (&sent, &lock)
        && error.unknown_id().is_none()
    {
        // It was not sent: release its lock.
        let _ = broker.unlock(lock).await;
    }
    Ok(sent.map(|()| Sent::Back)?)
}

/// Sends all letters of a search back, many at a time, and passes each outcome to `report`.
pub(crate) async fn send_all_back(
    app: &App,
    search: &mut Search,
    report: impl Fn(&Message, &Sent),
) -> Outcome {
    let (queue, report) = (search.queue.clone(), &report);
    let queue = &queue;
    search
        .each(async |delivery: Delivery| {
            // Published and confirmed first: a crash in between may run the task twice, it may never lose it.
            let sent = send_back(app, &delivery, queue).await;
            let fate = sent.map(|sent| {
                report(&delivery.message, &sent);
                match sent {
                    Sent::Back => Handled::Done,
                    Sent::LockedOut { .. } => Handled::Kept,
                }
            });
            (delivery, fate)
        })
        .await
}

/// Deletes the stored failure of a call that will run again, and returns it: a final result is never overwritten, so the
/// next one would be lost. This must come before publishing, since the run may end at once.
async fn reopen_result(
    app: &App,
    message: &Message,
) -> Result<Option<(Arc<dyn ResultBackend>, ResultRecord)>> {
    let Some(id) = message.id().filter(|_| message.headers.ignore_result() != Some(true)) else {
        return Ok(None);
    };
    let backend = app.backend().await?;
    let stored = match backend.fetch(id).await {
        // This backend stores no results: it sends them to the callers as messages.
        Err(error) if error.is_unsupported() => None,
        stored => stored?,
    };
    match stored {
        Some(record) if matches!(record.state, State::Failure | State::Revoked) => {
            backend.forget(id).await?;
            Ok(Some((backend, record)))
        }
        _ => Ok(None),
    }
}

/// The queue that it came from: the one that the worker noted, or else the one in the name of the dead-letter queue.
fn origin<'a>(message: &'a Message, dead_queue: &'a str) -> &'a str {
    let noted = message.headers.get_str(names::DEAD_QUEUE);
    noted.unwrap_or_else(|| dead_queue.strip_suffix(".dead").unwrap_or(dead_queue))
}

/// The message to send back: it keeps its id, arguments and history of failures, while retries and crash count start anew.
fn revived(message: &Message) -> Message {
    let mut message = message.clone();
    let past = |time: std::result::Result<Option<chrono::DateTime<Utc>>, String>| {
        time.is_ok_and(|time| time.is_some_and(|time| time <= Utc::now()))
    };
    // An expiry in the past no longer counts: a user wants the call to run now.
    let expired = past(message.headers.expires());
    message.properties.expiration = None;
    for name in ["retries", names::CRASHES, "eta"] {
        message.headers.remove(name);
    }
    if expired {
        message.headers.remove("expires");
    }
    // Leave out what the broker added, and the sender's instructions to the broker for the first publish.
    message.headers.retain(|name| !is_trace(name) && !is_instruction(name));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    fn dead(headers: &[(&str, serde_json::Value)]) -> Message {
        let mut all = Headers::for_task("t", "id-1");
        for (name, value) in headers {
            all.set(*name, value.clone());
        }
        Message { headers: all, body: (&b"[[1],{},{}]"[..]).into(), ..Message::default() }
    }

    #[test]
    fn a_revived_message_keeps_its_id_and_story_and_counts_anew() {
        let message = dead(&[
            ("retries", 3.into()),
            (names::CRASHES, 3.into()),
            (names::DEAD_REASON, "failed".into()),
            (names::HISTORY, serde_json::json!([])),
            ("expires", "2020-01-01T00:00:00Z".into()),
            ("eta", "2020-01-01T00:00:00Z".into()),
            ("x-death", serde_json::json!([{ "queue": "a" }])),
            ("x-first-death-queue", "a".into()),
            ("CC", serde_json::json!(["copies"])),
            ("tenant", "acme".into()),
        ]);
        let revived = revived(&message);
        let names: Vec<&str> = revived.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["id", "mq-dead-reason", "mq-history", "task", "tenant"]);
        assert_eq!((revived.headers.id(), revived.body), (Some("id-1"), message.body));
    }

    #[test]
    fn a_time_that_has_not_come_still_holds() {
        let revived = revived(&dead(&[("expires", "2999-01-01T00:00:00Z".into())]));
        assert!(revived.headers.get("expires").is_some());
    }

    #[test]
    fn it_goes_where_it_came_from() {
        assert_eq!(origin(&dead(&[(names::DEAD_QUEUE, "email".into())]), "other.dead"), "email");
        assert_eq!(origin(&dead(&[]), "email.dead"), "email");
    }
}
