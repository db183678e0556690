//! Sends results to their callers.
//!
//! Under load, one message per result would cost the broker as much as the task: each has its own confirm. So callers that
//! use this library, recognised by the name of their reply queue, get several results in one message: a JSON array of the
//! objects that Celery would send one by one. All other callers receive one message per result.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::ResultRecord;
use super::gathering::{BatchStore, BatchWriter, Written};
use crate::connection::amqp::{Amqp, Outgoing};
use crate::error::Result;
use crate::message::{JSON, Message, Properties};
use crate::routing::names::{MAX_NAME, RESULT_QUEUES};

/// Generates a name for the reply queue of this process.
pub(super) fn own_queue() -> String {
    format!("{RESULT_QUEUES}{}", Uuid::new_v4())
}

/// Splits a message into its results.
pub(super) fn read(body: &[u8]) -> Vec<&[u8]> {
    match serde_json::from_slice::<Vec<&RawValue>>(body) {
        Ok(several) => several.into_iter().map(|one| one.get().as_bytes()).collect(),
        Err(_) => vec![body],
    }
}

/// Sends results.
pub(super) struct Answers {
    amqp: Arc<Amqp>,
    gathering: BatchWriter<Sending>,
}

impl Answers {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self { gathering: BatchWriter::new(Arc::new(Sending(Arc::clone(&amqp)))), amqp }
    }

    /// Sends a result to its caller, if it has one. `Ok` means that the broker has confirmed it.
    pub(super) async fn send(&self, record: &ResultRecord, reply_to: Option<&str>) -> Result<()> {
        let Some(queue) = reply_to.filter(|queue| !queue.is_empty()) else { return Ok(()) };
        if queue.starts_with(RESULT_QUEUES) {
            return self.gathering.store(record, Some(queue)).await;
        }
        // Sent separately, so that a queue that temporarily rejects messages does not delay other callers.
        publish(&self.amqp, queue, Some(record.task_id.clone()), record.to_json()).await
    }
}

/// Sends gathered results, one message per reply queue.
struct Sending(Arc<Amqp>);

impl BatchStore for Sending {
    const AT_ONCE: usize = 2;

    fn store_all(&self, records: Vec<Arc<Written>>) -> BoxFuture<'_, Result<()>> {
        async move {
            let mut queues: BTreeMap<&str, Vec<&Written>> = BTreeMap::new();
            for record in &records {
                queues.entry(record.reply_to.as_deref().unwrap_or_default()).or_default().push(record);
            }
            let publish = |(queue, records): (_, Vec<&Written>)| {
                let (id, body) = match &*records {
                    [one] => (Some(one.task_id.clone()), one.json.clone()),
                    several => (None, array_of(several)),
                };
                publish(&self.0, queue, id, body)
            };
            try_join_all(queues.into_iter().map(publish)).await.map(drop)
        }
        .boxed()
    }

    fn start(&self, writer: BoxFuture<'static, ()>) -> Result<()> {
        self.0.spawn(writer);
        Ok(())
    }
}

fn array_of(records: &[&Written]) -> Vec<u8> {
    let size = records.iter().map(|record| record.json.len() + 1).sum::<usize>() + 1;
    let mut array = Vec::with_capacity(size);
    for record in records {
        array.push(if array.is_empty() { b'[' } else { b',' });
        array.extend_from_slice(&record.json);
    }
    array.push(b']');
    array
}

async fn publish(amqp: &Amqp, queue: &str, id: Option<String>, body: Vec<u8>) -> Result<()> {
    let message = Message {
        properties: Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            // An id that is too long for AMQP is in the body anyway.
            correlation_id: id.filter(|id| id.len() <= MAX_NAME),
            transient: true,
            ..Properties::default()
        },
        body: body.into(),
        ..Message::default()
    };
    // Not mandatory: it is not an error if the caller has gone.
    amqp.publisher.publish(Outgoing::new("", queue, message, false)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> Written {
        Written { task_id: "t".into(), json: json.into(), is_final: true, reply_to: None }
    }

    #[test]
    fn several_results_are_an_array_of_them_and_are_read_one_by_one() {
        let [a, b] = [r#"{"task_id":"a","result":[1, 2]}"#, r#"{"task_id":"b"}"#];
        let array = array_of(&[&written(a), &written(b)]);
        assert_eq!(read(&array), [a.as_bytes(), b.as_bytes()]);
    }

    #[test]
    fn one_result_is_read_as_it_came_whatever_it_is() {
        for body in [r#"{"task_id":"a"}"#, r#"{"result":NaN}"#, "[nonsense", "", "1"] {
            assert_eq!(read(body.as_bytes()), [body.as_bytes()]);
        }
    }
}
