//! Server-sent events: they announce a new snapshot, and the page reloads its live parts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;

use super::guard::Viewer;
use super::state::State;

/// How often a keep-alive is sent on an idle connection.
const AWAKE: Duration = Duration::from_secs(15);

/// `GET /live`
pub(crate) async fn stream(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = state.watcher.changes();
    let events = unfold((state, changes), |(state, mut changes)| async move {
        state.watcher.watched();
        tokio::select! {
            () = state.stop.cancelled() => None,
            changed = changes.changed() => {
                changed.ok()?;
                let at = changes.borrow_and_update().at.timestamp_millis().to_string();
                Some((Ok(Event::default().event("update").data(at)), (state, changes)))
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(AWAKE))
}
