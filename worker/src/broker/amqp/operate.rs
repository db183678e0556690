//! What people ask about queues: how full, purge, delete.

use std::sync::Arc;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;

use super::check_queue;
use crate::broker::{DeleteGuard, ExchangeInfo, QueueInfo};
use crate::connection::amqp::Amqp;
use crate::connection::amqp::failure::{code, reply_code};
use crate::connection::amqp::topology::{Scratch, short};
use crate::error::{Error, Result};
use crate::routing::Binding;
use crate::routing::topology::{check_key, check_name};

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

/// Deletes a queue, unless the guard keeps it, and says how many messages went with it.
///
/// The guard is checked here. RabbitMQ knows such conditions too, but not for quorum queues, where it answers a
/// request that has one by closing the connection.
pub(super) async fn delete_queue_if(amqp: &Arc<Amqp>, queue: &str, guard: DeleteGuard) -> Result<u64> {
    let found = queues(amqp, &[queue.to_owned()]).await?;
    let Some(found) = found.into_iter().next() else {
        return Err(Error::topology(format!("cannot delete queue `{queue}`: there is no such queue")));
    };
    let running = found.running.unwrap_or(0);
    guard.check_queue(queue, found.consumers, running, found.ready)?;
    let (this, queue) = (Arc::clone(amqp), queue.to_owned());
    amqp.run(async move {
        let queue = &queue;
        this.link
            .request(&format!("delete queue `{queue}`"), this.limit, async |session| {
                let name = short(queue)?;
                Scratch::new(&session)
                    .run(async |channel| channel.queue_delete(name, QueueDeleteOptions::default()).await)
                    .await
                    .map(u64::from)
            })
            .await
    })
    .await
}

/// The exchanges of these names that exist. The protocol tells neither their kind nor which others there are.
pub(super) async fn exchanges(amqp: &Arc<Amqp>, names: &[String]) -> Result<Vec<ExchangeInfo>> {
    if names.is_empty() {
        return Err(Error::unsupported("RabbitMQ cannot list exchanges"));
    }
    names.iter().try_for_each(|name| check_name("exchange", name))?;
    let (this, names) = (Arc::clone(amqp), names.to_vec());
    amqp.run(async move {
        let names = &names;
        this.link
            .request("look at the exchanges", this.limit, async |session| {
                let mut scratch = Scratch::new(&session);
                let mut found = Vec::new();
                for name in names {
                    match is_there(&mut scratch, name).await {
                        Ok(true) => found.push(ExchangeInfo {
                            name: name.clone(),
                            kind: None,
                            durable: None,
                            auto_delete: None,
                        }),
                        Ok(false) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(found)
            })
            .await
    })
    .await
}

async fn is_there(scratch: &mut Scratch<'_>, exchange: &str) -> lapin::Result<bool> {
    let name = short(exchange)?;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    // A passive declaration is not compared with what is there.
    let kind = lapin::ExchangeKind::Direct;
    let asked = scratch
        .run(async |channel| channel.exchange_declare(name, kind, passive, FieldTable::default()).await);
    match asked.await {
        Ok(()) => Ok(true),
        Err(error) if reply_code(&error) == Some(code::NOT_FOUND) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes an exchange. RabbitMQ says nothing of one that is not there, so it is asked first.
pub(super) async fn delete_exchange(amqp: &Arc<Amqp>, exchange: &str, guard: DeleteGuard) -> Result<()> {
    if exchanges(amqp, &[exchange.to_owned()]).await?.is_empty() {
        return Err(Error::topology(format!(
            "cannot delete exchange `{exchange}`: there is no such exchange"
        )));
    }
    let (this, exchange) = (Arc::clone(amqp), exchange.to_owned());
    amqp.run(async move {
        let exchange = &exchange;
        let options = ExchangeDeleteOptions { if_unused: guard.if_unused, nowait: false };
        this.link
            .request(&format!("delete exchange `{exchange}`"), this.limit, async |session| {
                let name = short(exchange)?;
                Scratch::new(&session).run(async |channel| channel.exchange_delete(name, options).await).await
            })
            .await
    })
    .await
}

/// Takes a binding away. RabbitMQ says nothing of one that is not there.
pub(super) async fn unbind(amqp: &Arc<Amqp>, binding: &Binding) -> Result<()> {
    check_queue(&binding.queue)?;
    check_name("exchange", &binding.exchange)?;
    check_key(&binding.routing_key)?;
    let (this, binding) = (Arc::clone(amqp), binding.clone());
    amqp.run(async move {
        let what = format!("unbind queue `{}` from exchange `{}`", binding.queue, binding.exchange);
        let (desired, binding) = (&this.desired, &binding);
        this.link.request(&what, this.limit, async |session| desired.unbind(&session, binding).await).await
    })
    .await
}
