//! What people ask about queues: how full, purge, delete.

use std::sync::Arc;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::FieldTable;

use super::check_queue;
use crate::broker::QueueInfo;
use crate::connection::amqp::Amqp;
use crate::connection::amqp::failure::{code, reply_code};
use crate::connection::amqp::topology::{Scratch, short};
use crate::error::Result;

/// The queues of these names that exist.
pub(super) async fn queues(amqp: &Arc<Amqp>, names: &[String]) -> Result<Vec<QueueInfo>> {
    names.iter().try_for_each(|name| check_queue(name))?;
    let (this, names) = (Arc::clone(amqp), names.to_vec());
    amqp.run(async move {
        let names = &names;
        this.link
            .request("look at the queues", this.limit, async |session| {
                let passive = QueueDeclareOptions { passive: true, ..Default::default() };
                let mut scratch = Scratch::new(&session);
                let mut found = Vec::new();
                for name in names {
                    let queue = short(name)?;
                    let asked = scratch
                        .run(async |channel| {
                            channel.queue_declare(queue, passive, FieldTable::default()).await
                        })
                        .await;
                    match asked {
                        Ok(queue) => found.push(QueueInfo {
                            name: name.clone(),
                            ready: queue.message_count().into(),
                            // The protocol does not tell.
                            running: None,
                            delayed: None,
                            consumers: queue.consumer_count().into(),
                        }),
                        Err(error) if reply_code(&error) == Some(code::NOT_FOUND) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(found)
            })
            .await
    })
    .await
}

/// Drops what waits, and says how much.
pub(super) async fn purge(amqp: &Arc<Amqp>, queue: &str) -> Result<u64> {
    check_queue(queue)?;
    let (this, queue) = (Arc::clone(amqp), queue.to_owned());
    amqp.run(async move {
        let queue = &queue;
        this.link
            .request(&format!("purge queue `{queue}`"), this.limit, async |session| {
                let queue = short(queue)?;
                Scratch::new(&session)
                    .run(async |channel| channel.queue_purge(queue, QueuePurgeOptions::default()).await)
                    .await
                    .map(u64::from)
            })
            .await
    })
    .await
}

/// Deletes a queue with its messages. RabbitMQ says nothing of a queue that is not there, so it is asked first.
pub(super) async fn delete_queue(amqp: &Arc<Amqp>, queue: &str) -> Result<()> {
    check_queue(queue)?;
    let (this, queue) = (Arc::clone(amqp), queue.to_owned());
    amqp.run(async move {
        let queue = &queue;
        this.link
            .request(&format!("delete queue `{queue}`"), this.limit, async |session| {
                let name = short(queue)?;
                let passive = QueueDeclareOptions { passive: true, ..Default::default() };
                let mut scratch = Scratch::new(&session);
                let asked = name.clone();
                scratch
                    .run(async |channel| channel.queue_declare(asked, passive, FieldTable::default()).await)
                    .await?;
                scratch
                    .run(async |channel| channel.queue_delete(name, QueueDeleteOptions::default()).await)
                    .await
                    .map(drop)
            })
            .await
    })
    .await
}
