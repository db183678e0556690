//! The handlers for schedules.

use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use serde_json::{Value, json};

use super::answers::{Answer, answer, missing};
use crate::admin::schedules::add_outcomes;
use crate::app::ScheduleInfo;
use crate::dashboard::guard::Viewer;
use crate::dashboard::pages::schedule::find;
use crate::dashboard::privacy::HIDDEN;
use crate::dashboard::state::State;

pub(super) async fn list(Shared(state): Shared<Arc<State>>, _viewer: Viewer) -> Answer {
    let mut found = state.asking(async { Ok(state.app.schedules().list().await?) }).await?;
    add_outcomes(&state.history, &mut found).await?;
    state.watcher.latest().mark(&mut found);
    answer(json!({ "schedules": found.iter().map(|info| redacted(&state, info)).collect::<Vec<_>>() }))
}

pub(super) async fn one(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
    Path(name): Path<String>,
) -> Answer {
    let found = find(&state, &name).await?.ok_or_else(|| missing("schedule", &name))?;
    answer(redacted(&state, &found))
}

/// Returns a schedule as JSON without its hidden values.
fn redacted(state: &State, info: &ScheduleInfo) -> Value {
    let mut value = serde_json::to_value(info).unwrap_or_default();
    if state.privacy.hides(&info.schedule.task) {
        for key in ["args", "kwargs"] {
            if !value[key].is_null() {
                value[key] = HIDDEN.into();
            }
        }
    }
    value
}
