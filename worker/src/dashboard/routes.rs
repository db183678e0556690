//! Maps paths to handlers.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use maud::html;

use super::guard::{Viewer, around};
use super::pages::layout::{bare, empty};
use super::pages::{activity, broker, dead, login, overview, queue, queues, schedule, schedules};
use super::pages::{task, tasks, worker, workers};
use super::state::State;
use super::{act, api, assets, live};

/// Room in a form for everything but the arguments of a call.
const FORM: usize = 64 * 1024;

/// All routes of the page.
pub(crate) fn router(state: Arc<State>) -> Router {
    // Form encoding may triple the size of the arguments.
    let largest = state.app.config().max_message_size.saturating_mul(3).saturating_add(FORM);
    Router::new()
        .route("/", get(overview::show))
        .route("/tasks", get(tasks::show))
        .route("/tasks/{id}", get(task::show))
        .route("/activity", get(activity::show))
        .route("/queues", get(queues::show))
        .route("/queues/{name}", get(queue::show))
        .route("/queues/{name}/peek", post(queue::peek))
        .route("/workers", get(workers::show))
        .route("/workers/{name}", get(worker::show))
        .route("/dead", get(dead::show))
        .route("/dead/group", get(dead::group))
        .route("/schedules", get(schedules::show))
        .route("/schedules/{name}", get(schedule::show))
        .route("/broker", get(broker::show))
        .route("/live", get(live::stream))
        .route("/act", post(act::form).layer(DefaultBodyLimit::max(largest)))
        .route("/login", get(login::show).post(login::log_in).layer(DefaultBodyLimit::max(FORM)))
        .route("/logout", post(login::log_out))
        .route("/assets/{name}", get(assets::get))
        .merge(api::router(largest))
        .fallback(nothing)
        .layer(from_fn_with_state(Arc::clone(&state), around))
        .with_state(state)
}

async fn nothing(_viewer: Viewer, uri: Uri) -> Response {
    let content = html! {
        div.card { h1 { "Not found" } (empty(uri.path(), "There is no such page.")) a.button href="/" { "Overview" } }
    };
    (StatusCode::NOT_FOUND, bare("Not found", &content)).into_response()
}
