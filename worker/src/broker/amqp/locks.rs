//! Locks: a queue that nobody publishes to, whose arguments name the holder.
//!
//! RabbitMQ makes a queue or compares its arguments with those of the one that exists, in one step; so whoever declares it
//! first has the lock, declaring it again with the same arguments succeeds, and anybody else is refused with the arguments
//! that it has, and so with the holder's name. The name is put where no message will ever look for it:
//! `x-dead-letter-routing-key`. `x-expires` opens a forgotten lock. The queue is durable, hence the lock survives a restart.

use std::sync::Arc;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::broker::{Lock, Locked};
use crate::connection::amqp::Amqp;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::connection::amqp::link::Session;
use crate::connection::amqp::topology::{Scratch, short};
use crate::error::Result;

/// Takes a lock, if nobody else has it.
pub(super) async fn lock(amqp: &Arc<Amqp>, lock: &Lock) -> Result<Locked> {
    let (this, lock) = (Arc::clone(amqp), lock.clone());
    amqp.run(async move {
        let lock = &lock;
        let what = format!("take the lock `{}`", lock.key);
        this.link.request(&what, this.limit, async |session| declare(&session, lock).await).await
    })
    .await
}

/// Opens a lock, if this holder has it.
pub(super) async fn unlock(amqp: &Arc<Amqp>, lock: &Lock) -> Result<()> {
    let (this, lock) = (Arc::clone(amqp), lock.clone());
    amqp.run(async move {
        let lock = &lock;
        let what = format!("open the lock `{}`", lock.key);
        this.link
            .request(&what, this.limit, async |session| {
                // Declared once more, it lives long enough not to be another's when it is deleted.
                if declare(&session, lock).await? == Locked::Taken {
                    let queue = short(&queue_of(lock))?;
                    Scratch::new(&session)
                        .run(async |channel| channel.queue_delete(queue, QueueDeleteOptions::default()).await)
                        .await?;
                }
                Ok(())
            })
            .await
    })
    .await
}

fn queue_of(lock: &Lock) -> String {
    // Short, since the refusal has room for 255 bytes.
    format!("mq.lock.{}", lock.key)
}

async fn declare(session: &Session, lock: &Lock) -> lapin::Result<Locked> {
    let millis = i64::try_from(lock.lifetime.as_millis()).unwrap_or(i64::MAX).max(1);
    let mut refusal = match declare_for(session, lock, millis).await? {
        None => return Ok(Locked::Taken),
        Some(refusal) => refusal,
    };
    // Another version of the program holds it for another time: then the broker does not get to the holder.
    if let Some(theirs) = current("x-expires", &refusal).and_then(|millis| millis.parse().ok()) {
        refusal = match declare_for(session, lock, theirs).await? {
            None => return Ok(Locked::Taken),
            Some(refusal) => refusal,
        };
    }
    Ok(Locked::Held(current("x-dead-letter-routing-key", &refusal)))
}

/// `None` when it is ours, else what the broker says.
async fn declare_for(session: &Session, lock: &Lock, millis: i64) -> lapin::Result<Option<String>> {
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
    let declared = Scratch::new(session)
        .run(async |channel| channel.queue_declare(queue, options, arguments).await)
        .await;
    match declared {
        Ok(_) => Ok(None),
        Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => Ok(Some(text(&error))),
        Err(error) => Err(error),
    }
}

/// The value that an argument has, in RabbitMQ's words: `inequivalent arg 'x-dead-letter-routing-key' for queue … received 'b'
/// but current is 'a'`. They are cut off after 255 bytes, which may hide it.
fn current(argument: &str, refusal: &str) -> Option<String> {
    if !refusal.contains(&format!("'{argument}'")) {
        return None;
    }
    let (_, current) = refusal.rsplit_once("current is ")?;
    let mut parts = current.split('\'');
    let _before = parts.next()?;
    let value = parts.next()?;
    // Without the quote at its end it was cut off.
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
