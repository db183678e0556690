//! Finds out whether a queue outlives its last consumer. Taking many messages needs a consumer, and an auto-delete
//! queue would be deleted with it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use crate::connection::amqp::Amqp;
use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{code, reply_code, text};
use crate::connection::amqp::link::lock;
use crate::error::Result;

/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How soon a queue that the check itself declared expires, in milliseconds.
const GONE: i32 = 1000;

/// The last queue that was checked, and the answer.
#[derive(Default)]
pub(super) struct AutoDeleteCheck(Mutex<Option<(Arc<str>, bool, Instant)>>);

impl AutoDeleteCheck {
    /// True if the queue outlives its last consumer: false for an auto-delete queue, or if that cannot be determined.
    pub(super) async fn ask(&self, amqp: &Amqp, queue: &str) -> Result<bool> {
        let known = lock(&self.0).clone();
        if let Some((name, auto_delete_check, since)) = known
            && *name == *queue
            && since.elapsed() < REMEMBERED
        {
            return Ok(auto_delete_check);
        }
        let look = async |mut scratch: Scratch| is_kept(&mut scratch, queue).await;
        let auto_delete_check = amqp.ask(&format!("get from queue `{queue}`"), look).await?;
        *lock(&self.0) = Some((queue.into(), auto_delete_check, Instant::now()));
        Ok(auto_delete_check)
    }
}

/// True if a queue is known not to be auto-delete. The protocol does not report it, but the broker compares a
/// declaration with the existing queue, first whether it is durable, then whether it is auto-delete, then the
/// arguments, and reports where they differ.
async fn is_kept(scratch: &mut Scratch, queue: &str) -> lapin::Result<bool> {
    let name = short(queue)?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let asked = name.clone();
    scratch.run(async |channel| channel.queue_declare(asked, passive, FieldTable::default()).await).await?;
    // Arguments that no queue has: this declares a queue only if it was deleted just now, and then it expires by
    // itself.
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongInt(GONE));
    let options = QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() };
    let declared = scratch.run(async |channel| channel.queue_declare(name, options, arguments).await).await;
    match declared {
        Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => {
            Ok(text(&error).contains("'auto_delete'"))
        }
        Err(error) if reply_code(&error).is_none() => Err(error),
        Ok(_) | Err(_) => Ok(false),
    }
}
