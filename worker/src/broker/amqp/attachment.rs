//! The state of a lane's subscription: subscribing, consuming, or ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::status::LaneStatus;
use crate::connection::amqp::Amqp;
use crate::connection::amqp::subscription::{Event, Source, Subscribed};

/// How a lane starts.
#[expect(clippy::large_enum_variant, reason = "a lane has one")]
pub(super) enum LaneStart {
    /// It is already consuming.
    Subscribed(Subscribed),
    /// It subscribes by itself, trying until it succeeds.
    Attaching,
    /// The same, once this future has resolved.
    After(BoxFuture<'static, ()>),
}

#[expect(clippy::large_enum_variant, reason = "a lane has one")]
pub(super) enum Attachment {
    Attaching(BoxFuture<'static, Subscribed>),
    Attached(Subscribed),
    /// Cancelled, and the channel is gone.
    Ended,
}

/// A change or an event of an attachment.
pub(super) enum Change {
    Attached(Subscribed),
    Came(Event),
}

impl Attachment {
    pub(super) fn new(
        beginning: LaneStart,
        amqp: &Arc<Amqp>,
        source: &Source,
        status: &Arc<LaneStatus>,
    ) -> Self {
        match beginning {
            LaneStart::Subscribed(subscribed) => Self::Attached(subscribed),
            LaneStart::Attaching => Self::Attaching(attach(amqp, source, status).boxed()),
            LaneStart::After(wait) => {
                let attach = attach(amqp, source, status);
                Self::Attaching(wait.then(|()| attach).boxed())
            }
        }
    }

    /// Waits for the next change. `reads` is false while no more deliveries may be taken.
    pub(super) async fn next(&mut self, reads: bool) -> Change {
        match self {
            Self::Attaching(attaching) => Change::Attached(attaching.await),
            Self::Attached(subscribed) => Change::Came(subscribed.next(reads).await),
            Self::Ended => std::future::pending().await,
        }
    }
}

/// Attaches, trying until it succeeds. A lane that waits for an external queue counts as attached.
pub(super) fn attach(
    amqp: &Arc<Amqp>,
    source: &Source,
    status: &Arc<LaneStatus>,
) -> impl Future<Output = Subscribed> + Send + use<> {
    let status = Arc::clone(status);
    let waits = move || status.is_attached.store(true, Ordering::Relaxed);
    source.clone().subscribe_again(Arc::clone(amqp), waits)
}
