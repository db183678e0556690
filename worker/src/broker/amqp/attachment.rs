//! How a lane is bound to its queue: it subscribes, consumes, or has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::gauge::Gauge;
use crate::connection::amqp::Amqp;
use crate::connection::amqp::subscription::{Event, Source, Subscribed};

/// How a lane begins.
#[expect(clippy::large_enum_variant, reason = "a lane has one")]
pub(super) enum Beginning {
    /// It consumes already.
    Subscribed(Subscribed),
    /// It subscribes by itself, for as long as that takes.
    Attaching,
    /// The same, after this.
    After(BoxFuture<'static, ()>),
}

#[expect(clippy::large_enum_variant, reason = "a lane has one")]
pub(super) enum Attachment {
    Attaching(BoxFuture<'static, Subscribed>),
    Attached(Subscribed),
    /// Cancelled, and the channel is gone.
    Ended,
}

/// What comes to an attachment.
pub(super) enum Change {
    Attached(Subscribed),
    Came(Event),
}

impl Attachment {
    pub(super) fn new(beginning: Beginning, amqp: &Arc<Amqp>, source: &Source, gauge: &Arc<Gauge>) -> Self {
        match beginning {
            Beginning::Subscribed(subscribed) => Self::Attached(subscribed),
            Beginning::Attaching => Self::Attaching(attach(amqp, source, gauge).boxed()),
            Beginning::After(wait) => {
                let attach = attach(amqp, source, gauge);
                Self::Attaching(wait.then(|()| attach).boxed())
            }
        }
    }

    /// The next change. `reads` is false while nothing more may be handed out.
    pub(super) async fn next(&mut self, reads: bool) -> Change {
        match self {
            Self::Attaching(attaching) => Change::Attached(attaching.await),
            Self::Attached(subscribed) => Change::Came(subscribed.next(reads).await),
            Self::Ended => std::future::pending().await,
        }
    }
}

/// Attaches, for as long as it takes. A lane that waits for a queue of others does what it should.
pub(super) fn attach(
    amqp: &Arc<Amqp>,
    source: &Source,
    gauge: &Arc<Gauge>,
) -> impl Future<Output = Subscribed> + Send + use<> {
    let gauge = Arc::clone(gauge);
    let waits = move || gauge.is_attached.store(true, Ordering::Relaxed);
    source.clone().subscribe_again(Arc::clone(amqp), waits)
}
