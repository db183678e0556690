//! The channel for publishing: in confirm mode, and opened when there is something to publish.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::options::ConfirmSelectOptions;
use tokio::time::{Instant, sleep, timeout};

use super::channel::{ANSWER, OpenChannel};
use super::failure::timed_out;
use super::session::Session;

/// The channel for publishing.
pub(super) enum PublishChannel {
    Closed,
    Opening(BoxFuture<'static, lapin::Result<Open>>),
    Open(Open),
    /// Outcomes that still arrive are collected until this deadline.
    Broken {
        why: Option<lapin::Error>,
        until: Instant,
    },
}

#[derive(Clone)]
pub(super) struct Open {
    pub(super) channel: Arc<OpenChannel>,
    pub(super) generation: u64,
    pub(super) frame_max: usize,
}

impl PublishChannel {
    /// Resolves when a channel that is being opened is open, or could not be opened.
    pub(super) async fn opened(&mut self) -> lapin::Result<Open> {
        match self {
            Self::Opening(opening) => opening.await,
            _ => std::future::pending().await,
        }
    }
}

pub(super) async fn open(session: Session, pause: Duration) -> lapin::Result<Open> {
    let open = async {
        let channel = session.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (generation, frame_max) = (session.generation, session.frame_max());
        Ok(Open { channel: Arc::new(channel), generation, frame_max })
    };
    match timeout(ANSWER, open).await {
        Ok(Ok(open)) => Ok(open),
        Ok(Err(error)) => {
            // The link reports a lost connection; any other error must not cause a busy loop.
            sleep(pause).await;
            Err(error)
        }
        Err(_) => Err(timed_out()),
    }
}
