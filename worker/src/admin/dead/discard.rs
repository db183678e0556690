//! Dropping dead letters.

use std::sync::Arc;

use super::search::{Found, LetterFilter, Search};
use crate::admin::each::Handled;
use crate::admin::failure::Outcome;
use crate::admin::progress::Progress;
use crate::app::{App, unique};
use crate::broker::Delivery;

/// Drops up to `most` letters, many at a time.
pub(crate) async fn drop_letters(
    app: &App,
    which: LetterFilter,
    most: u32,
    progress: &Arc<Progress>,
) -> Outcome<Found> {
    let mut search = Search::open(app, which, most, Arc::clone(progress)).await?;
    let broker = &search.broker();
    let drop = async |delivery: Delivery| {
        let headers = &delivery.message.headers;
        if let Some(lock) = headers.id().and_then(|id| unique::read(headers, id)) {
            // Only a call that the broker itself dead-lettered still holds its lock. If unlocking fails, the lock expires.
            let _ = broker.unlock(&lock).await;
        }
        (delivery, Ok(Handled::Done))
    };
    let done = search.each(drop).await;
    search.end(done, "dropped").await
}
