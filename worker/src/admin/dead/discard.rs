//! Dropping dead letters.

#[cfg(feature = "dashboard")]
use std::sync::Arc;

use super::search::Search;
#[cfg(feature = "dashboard")]
use super::search::Which;
use crate::admin::each::Fate;
use crate::admin::failure::Outcome;
#[cfg(feature = "dashboard")]
use crate::admin::progress::Progress;
#[cfg(feature = "dashboard")]
use crate::app::App;
use crate::app::unique;
use crate::broker::Delivery;

/// Drops all letters of a search, many at a time.
pub(crate) async fn drop_all(search: &mut Search) -> Outcome {
    let broker = search.broker();
    let broker = &broker;
    search
        .each(async |delivery: Delivery| {
            let headers = &delivery.message.headers;
            if let Some(lock) = headers.id().and_then(|id| unique::read(headers, id)) {
                // Only the broker itself dead-letters a call that still has its lock, which opens in time by itself too.
                let _ = broker.unlock(&lock).await;
            }
            (delivery, Ok(Fate::Done))
        })
        .await
}

/// Drops letters, and returns how many there were.
#[cfg(feature = "dashboard")]
pub(crate) async fn drop_letters(app: &App, which: Which, progress: &Arc<Progress>) -> Outcome<u64> {
    let mut search = Search::open(app, which, u32::MAX, Arc::clone(progress)).await?;
    let done = drop_all(&mut search).await;
    let found = search.found();
    search.put_back().await;
    done.map_err(|failure| progress.counts().before("dropped", failure))?;
    Ok(found.done)
}
