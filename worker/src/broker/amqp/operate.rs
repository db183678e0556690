//! Administration of queues and exchanges: inspect, purge, delete, unbind.

use lapin::Queue;
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;

use super::check_queue;
use crate::broker::{DeleteGuard, ExchangeInfo, QueueInfo};
use crate::connection::amqp::Amqp;
use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{code, reply_code};
use crate::error::{Error, Result};
use crate::routing::Binding;
use crate::routing::names::{check_key, check_name};

/// The queues of these names that exist.
pub(super) async fn queues(amqp: &Amqp, names: &[String]) -> Result<Vec<QueueInfo>> {
    names.iter().try_for_each(|name| check_queue(name))?;
    let look = async |mut scratch: Scratch| {
        let mut found = Vec::new();
        for name in names {
            match ask_for_queue(&mut scratch, name).await {
                Ok(queue) => found.push(QueueInfo {
                    name: name.clone(),
                    ready: queue.message_count().into(),
                    // The protocol does not report it.
                    running: None,
                    delayed: None,
                    consumers: queue.consumer_count().into(),
                }),
                Err(error) if reply_code(&error) == Some(code::NOT_FOUND) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    };
    amqp.ask("list queues", look).await
}

async fn ask_for_queue(scratch: &mut Scratch, name: &str) -> lapin::Result<Queue> {
    let name = short(name)?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    scratch.run(async |channel| channel.queue_declare(name, passive, FieldTable::default()).await).await
}

/// Drops all waiting messages, and returns how many there were.
pub(super) async fn purge(amqp: &Amqp, queue: &str) -> Result<u64> {
    check_queue(queue)?;
    let purge = async |mut scratch: Scratch| {
        let name = short(queue)?;
        scratch.run(async |channel| channel.queue_purge(name, QueuePurgeOptions::default()).await).await
    };
    amqp.ask(&format!("purge queue `{queue}`"), purge).await.map(u64::from)
}

/// Deletes a queue with its messages. RabbitMQ does not report that a queue is missing, so this checks first.
pub(super) async fn delete_queue(amqp: &Amqp, queue: &str) -> Result<()> {
    check_queue(queue)?;
    let delete = async |mut scratch: Scratch| {
        ask_for_queue(&mut scratch, queue).await?;
        delete(&mut scratch, queue).await
    };
    amqp.ask(&format!("delete queue `{queue}`"), delete).await.map(drop)
}

/// Deletes a queue, unless the guard forbids it, and returns how many messages were deleted with it.
///
/// The guard is checked here. RabbitMQ supports such conditions too, but not for quorum queues, where it closes the
/// connection over a request that has one.
pub(super) async fn delete_queue_if(amqp: &Amqp, queue: &str, guard: DeleteGuard) -> Result<u64> {
    let found = queues(amqp, &[queue.to_owned()]).await?;
    let Some(found) = found.into_iter().next() else {
        return Err(Error::topology(format!("cannot delete queue `{queue}`: there is no such queue")));
    };
    let running = found.running.unwrap_or(0);
    guard.check_queue(queue, found.consumers, running, found.ready)?;
    let delete = async |mut scratch: Scratch| delete(&mut scratch, queue).await;
    amqp.ask(&format!("delete queue `{queue}`"), delete).await
}

async fn delete(scratch: &mut Scratch, queue: &str) -> lapin::Result<u64> {
    let name = short(queue)?;
    let options = QueueDeleteOptions::default();
    scratch.run(async |channel| channel.queue_delete(name, options).await).await.map(u64::from)
}

/// The exchanges of these names that exist. The protocol reports neither their kind nor which others exist.
pub(super) async fn exchanges(amqp: &Amqp, names: &[String]) -> Result<Vec<ExchangeInfo>> {
    if names.is_empty() {
        return Err(Error::unsupported("RabbitMQ cannot list exchanges"));
    }
    names.iter().try_for_each(|name| check_name("exchange", name))?;
    let look = async |mut scratch: Scratch| {
        let mut found = Vec::new();
        for name in names {
            if is_there(&mut scratch, name).await? {
                let name = name.clone();
                found.push(ExchangeInfo { name, kind: None, durable: None, auto_delete: None });
            }
        }
        Ok(found)
    };
    amqp.ask("list exchanges", look).await
}

async fn is_there(scratch: &mut Scratch, exchange: &str) -> lapin::Result<bool> {
    let name = short(exchange)?;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    // A passive declaration is not compared with the existing exchange.
    let kind = lapin::ExchangeKind::Direct;
    let asked = scratch
        .run(async |channel| channel.exchange_declare(name, kind, passive, FieldTable::default()).await);
    match asked.await {
        Ok(()) => Ok(true),
        Err(error) if reply_code(&error) == Some(code::NOT_FOUND) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes an exchange. RabbitMQ does not report that one is missing, so this checks first.
pub(super) async fn delete_exchange(amqp: &Amqp, exchange: &str, guard: DeleteGuard) -> Result<()> {
    if exchanges(amqp, &[exchange.to_owned()]).await?.is_empty() {
        return Err(Error::topology(format!(
            "cannot delete exchange `{exchange}`: there is no such exchange"
        )));
    }
    let options = ExchangeDeleteOptions { if_unused: guard.if_unused, nowait: false };
    let delete = async |mut scratch: Scratch| {
        let name = short(exchange)?;
        scratch.run(async |channel| channel.exchange_delete(name, options).await).await
    };
    amqp.ask(&format!("delete exchange `{exchange}`"), delete).await
}

/// Removes a binding. RabbitMQ does not report that one is missing.
pub(super) async fn unbind(amqp: &Amqp, binding: &Binding) -> Result<()> {
    check_queue(&binding.queue)?;
    check_name("exchange", &binding.exchange)?;
    check_key(&binding.routing_key)?;
    let what = format!("unbind queue `{}` from exchange `{}`", binding.queue, binding.exchange);
    let unbind = async |mut scratch: Scratch| amqp.desired.unbind(&mut scratch, binding).await;
    amqp.ask(&what, unbind).await
}
