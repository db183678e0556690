//! Locks. Each is a queue without publishers, whose arguments name the holder.
//!
//! RabbitMQ creates a queue, or compares its arguments with those of the existing one, in one step. So the first client
//! to declare the queue has the lock, declaring it again with the same arguments succeeds, and any other client is
//! refused with the existing arguments, which include the holder's name. The name is stored where no message will ever
//! use it: `x-dead-letter-routing-key`. `x-expires` releases a forgotten lock that long after the last declaration. The
//! queue is durable, so the lock survives a restart.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::broker::{Lock, Locked};
use crate::connection::amqp::Amqp;
use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::error::Result;

/// Takes a lock, unless another holder has it.
pub(super) async fn lock(amqp: &Amqp, lock: &Lock) -> Result<Locked> {
    let take = async |mut scratch| declare(&mut scratch, lock).await.map(Locked::from);
    amqp.ask(&format!("take the lock `{}`", lock.key), take).await
}

/// Takes a lock for a holder that waits before it continues. Declaring the queue again restarts its lifetime, but
/// cannot change it. For a longer wait, the queue is deleted and declared anew; between these two requests, another
/// holder may take the lock. Without the replacement it certainly could, once the lifetime is over.
pub(super) async fn extend_lock(amqp: &Amqp, lock: &Lock, wait: Duration) -> Result<Locked> {
    if wait < lock.lifetime {
        return self::lock(amqp, lock).await;
    }
    let longer = &Lock { lifetime: lock.lifetime.saturating_add(wait), ..lock.clone() };
    let keep = async |mut scratch| match declare(&mut scratch, longer).await? {
        Declared::Ours(time) if time <= millis(wait) => {
            delete(&mut scratch, longer).await?;
            declare(&mut scratch, longer).await.map(Locked::from)
        }
        declared => Ok(declared.into()),
    };
    amqp.ask(&format!("extend the lock `{}`", longer.key), keep).await
}

/// Releases a lock, if this holder has it.
pub(super) async fn unlock(amqp: &Amqp, lock: &Lock) -> Result<()> {
    // Declaring it again restarts its lifetime: it cannot expire and pass to another holder before it is deleted.
    let open = async |mut scratch| match declare(&mut scratch, lock).await? {
        Declared::Ours(_) => delete(&mut scratch, lock).await,
        Declared::Held(_) => Ok(()),
    };
    amqp.ask(&format!("release the lock `{}`", lock.key), open).await
}

fn queue_of(lock: &Lock) -> String {
    // Short, since the refusal has room for 255 bytes.
    format!("mq.lock.{}", lock.key)
}

/// The result of declaring the queue of a lock.
enum Declared {
    /// It is ours, and expires this many milliseconds after it was declared.
    Ours(i64),
    /// Another holder has it.
    Held(Option<String>),
}

impl From<Declared> for Locked {
    fn from(declared: Declared) -> Self {
        match declared {
            Declared::Ours(_) => Locked::Taken,
            Declared::Held(holder) => Locked::Held(holder),
        }
    }
}

/// The milliseconds that RabbitMQ accepts: some fifty days at most.
fn millis(time: Duration) -> i64 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1).into()
}

async fn delete(scratch: &mut Scratch, lock: &Lock) -> lapin::Result<()> {
    let queue = short(&queue_of(lock))?;
    let options = QueueDeleteOptions::default();
    scratch.run(async |channel| channel.queue_delete(queue, options).await.map(drop)).await
}

async fn declare(scratch: &mut Scratch, lock: &Lock) -> lapin::Result<Declared> {
    let ours = millis(lock.lifetime);
    let mut refusal = match declare_for(scratch, lock, ours).await? {
        None => return Ok(Declared::Ours(ours)),
        Some(refusal) => refusal,
    };
    // It was declared with another lifetime, for a long wait or by another version of the program: then the broker does
    // not get as far as comparing the holder.
    if let Some(theirs) = current("x-expires", &refusal).and_then(|millis| millis.parse().ok()) {
        refusal = match declare_for(scratch, lock, theirs).await? {
            None => return Ok(Declared::Ours(theirs)),
            Some(refusal) => refusal,
        };
    }
    Ok(Declared::Held(current("x-dead-letter-routing-key", &refusal)))
}

/// Declares the queue of a lock. Returns `None` if it is ours, or else the broker's refusal.
async fn declare_for(scratch: &mut Scratch, lock: &Lock, millis: i64) -> lapin::Result<Option<String>> {
    let mut arguments = FieldTable::default();
    let mut text_argument = |name: &str, value: &str| {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    text_argument("x-queue-type", "classic");
    text_argument("x-dead-letter-exchange", "");
    text_argument("x-dead-letter-routing-key", &lock.holder);
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(millis));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let queue = short(&queue_of(lock))?;
    let declared = scratch.run(async |channel| channel.queue_declare(queue, options, arguments).await).await;
    match declared {
        Ok(_) => Ok(None),
        Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => Ok(Some(text(&error))),
        Err(error) => Err(error),
    }
}

/// The current value of an argument, from RabbitMQ's refusal: `inequivalent arg 'x-dead-letter-routing-key' for queue …
/// received 'b' but current is 'a'`. The text is cut off after 255 bytes, which may hide it.
fn current(argument: &str, refusal: &str) -> Option<String> {
    if !refusal.contains(&format!("'{argument}'")) {
        return None;
    }
    let (_, current) = refusal.rsplit_once("current is ")?;
    let mut parts = current.split('\'');
    let _before = parts.next()?;
    let value = parts.next()?;
    // Without the closing quote, it was cut off.
    parts.next().map(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_names_the_holder() {
        let refusal = "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': \
                       received 'b' but current is 'a'";
        let wordy = refusal.replace("is 'a'", "is the value 'a' of type 'longstr'");
        let holder = |refusal: &str| current("x-dead-letter-routing-key", refusal);
        assert_eq!(holder(refusal).as_deref(), Some("a"));
        assert_eq!(holder(&wordy).as_deref(), Some("a"));
        assert_eq!(holder(refusal.trim_end_matches('\'')), None, "it was cut off");
        assert_eq!(current("x-expires", refusal), None);
    }
}
