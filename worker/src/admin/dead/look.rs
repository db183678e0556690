//! Looking at dead letters: without touching them if the broker can do that, otherwise by taking them for a moment. The
//! time is bounded, however many there are.

use std::sync::Arc;
use std::time::Duration;

use super::search::{Bounds, Found, LetterFilter, Search, dead_queue};
use crate::admin::failure::Outcome;
use crate::app::App;
use crate::message::Message;

/// How many letters of a queue are looked at.
pub(crate) const LOOKED_AT: u32 = 1000;
/// How long to look into one queue.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(3);

/// Passes the oldest selected letters to `see`, up to `most`.
pub(crate) async fn look(
    app: &App,
    which: LetterFilter,
    most: u32,
    time: Duration,
    mut see: impl FnMut(&Message),
) -> Outcome<Found> {
    let queue = dead_queue(&which.queue);
    let (broker, info) = crate::admin::queue(app, &queue).await?;
    match broker.peek(&queue, LOOKED_AT as usize).await {
        Err(error) if error.is_unsupported() => {}
        messages => {
            let messages = messages?;
            let meant = messages.iter().filter(|message| which.matches(message)).take(most as usize);
            let mut matching = 0;
            for message in meant {
                see(message);
                matching += 1;
            }
            let unseen = info.ready.saturating_sub(messages.len() as u64);
            return Ok(Found { matching, unseen, expired: 0, done: 0, queue });
        }
    }
    let mut search = Search::open_within(app, which, most, time, Arc::default()).await?;
    // Opening may have waited for another search: the time starts here.
    search.bound(Bounds::new(LOOKED_AT.into(), time));
    let looked = async {
        while let Some(taken) = search.next().await? {
            see(&taken.delivery.message);
            search.hold(taken);
        }
        Ok(())
    }
    .await;
    let found = search.found();
    search.release().await;
    looked.map(|()| found)
}
