//! The handlers of the API.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query as Asked, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::OPENAPI;
use crate::admin::connections;
use crate::admin::dead::letter::Letter;
use crate::admin::dead::survey;
use crate::admin::failure::Failure;
use crate::admin::{inventory, peek as looking};
use crate::dashboard::act;
use crate::dashboard::actions::Action;
use crate::dashboard::call;
use crate::dashboard::guard::Viewer;
use crate::dashboard::pages::tasks::find;
use crate::dashboard::privacy::HIDDEN;
use crate::dashboard::query::Query;
use crate::dashboard::snapshot::DEAD;
use crate::dashboard::state::State;
use crate::history::{Job, RateQuery};
use crate::message::Message;

pub(super) type Answer = Result<Json<Value>, Problem>;

/// How many messages or dead letters a response holds.
const MOST: u32 = 100;

/// An error response.
pub(crate) struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (code, why) = failure.into_parts();
        let status = match code {
            crate::admin::failure::USAGE => StatusCode::BAD_REQUEST,
            crate::admin::failure::UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self(status, why)
    }
}

impl From<crate::error::Error> for Problem {
    fn from(error: crate::error::Error) -> Self {
        Failure::from(error).into()
    }
}

fn bad(why: impl Into<String>) -> Problem {
    Problem(StatusCode::BAD_REQUEST, why.into())
}

pub(super) fn missing(what: &str, name: &str) -> Problem {
    Problem(StatusCode::NOT_FOUND, format!("there is no {what} `{name}`"))
}

pub(super) fn answer(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map(Json).map_err(|error| bad(format!("cannot be written as JSON: {error}")))
}

pub(super) async fn overview(Shared(state): Shared<Arc<State>>, _viewer: Viewer) -> Answer {
    answer(&*state.watcher.fresh().await)
}

pub(super) async fn queues(Shared(state): Shared<Arc<State>>, _viewer: Viewer) -> Answer {
    let snapshot = state.watcher.fresh().await;
    answer(json!({
        "queues": snapshot.queues, "delayed": snapshot.delayed, "queues_left_out": snapshot.queues_left_out,
    }))
}

pub(super) async fn queue(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
    Path(name): Path<String>,
) -> Answer {
    let snapshot = state.watcher.fresh().await;
    let queue = snapshot.queue(&name).ok_or_else(|| missing("queue", &name))?;
    let found = state.asking(inventory::bindings(&state.app, None, Some(&name))).await?.found;
    let bindings: Vec<_> = found.into_iter().filter(|binding| binding.queue == name).collect();
    let mut value = serde_json::to_value(queue).unwrap_or_default();
    value["bindings"] = json!(bindings);
    answer(value)
}

pub(super) async fn peek(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Answer {
    let peeks = state.asking(async { Ok(state.app.broker().await?.capabilities().peeks) }).await?;
    if peeks { is_own(&viewer, &headers) } else { may_act(&viewer, &headers) }?;
    let messages = state.asking(looking::peek(&state.app, &name, MOST)).await?;
    answer(json!({ "messages": messages.iter().map(|message| letter(&state, message)).collect::<Vec<_>>() }))
}

/// The query parameters of [`rates`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rates {
    queue: Option<String>,
    name: Option<String>,
    window: Option<u64>,
    step: Option<u64>,
}

pub(super) async fn rates(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
    Asked(Rates { queue, name, window, step }): Asked<Rates>,
) -> Answer {
    let (window, step) = (window.unwrap_or(3600), step.unwrap_or(60));
    if step == 0 || window / step > 10_000 {
        return Err(bad(format!(
            "a window of {window} s in steps of {step} s has too many points: at most 10000"
        )));
    }
    let (window, step) = (Duration::from_secs(window), Duration::from_secs(step));
    let points = state.history.rates(RateQuery { queue, name, window, step }).await?;
    answer(json!({ "points": points }))
}

pub(super) async fn tasks(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
    Asked(query): Asked<Query>,
) -> Answer {
    let page = find(&state.history, &query).await.map_err(bad)?;
    let jobs: Vec<Value> = page.jobs.iter().map(|job| redacted(&state, job)).collect();
    answer(json!({ "tasks": jobs, "next": page.next, "searched_to": page.searched_to }))
}

pub(super) async fn task(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
    Path(id): Path<String>,
) -> Answer {
    state.watcher.fresh().await;
    let found =
        call::find(&state, &id).await.map_err(|why| Problem(StatusCode::INTERNAL_SERVER_ERROR, why))?;
    let call = found.ok_or_else(|| missing("call", &id))?;
    let mut value = redacted(&state, &call.job);
    value["running_on"] = json!(call.running);
    value["reasons"] = json!(call.reasons);
    value["children"] = json!(call.children.iter().map(|child| &child.id).collect::<Vec<_>>());
    value["dead_letter"] = call.letter.as_ref().map_or(Value::Null, |message| letter(&state, message));
    answer(value)
}

pub(super) async fn workers(Shared(state): Shared<Arc<State>>, _viewer: Viewer) -> Answer {
    answer(json!({ "workers": state.watcher.fresh().await.workers }))
}

pub(super) async fn worker(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
    Path(name): Path<String>,
) -> Answer {
    let snapshot = state.watcher.fresh().await;
    answer(snapshot.worker(&name).ok_or_else(|| missing("worker that replies, named", &name))?)
}

pub(super) async fn dead(Shared(state): Shared<Arc<State>>, _viewer: Viewer) -> Answer {
    let snapshot = state.watcher.fresh().await;
    let mut found = Vec::new();
    for queue in &snapshot.queues {
        let name = queue.name.trim_end_matches(DEAD);
        let count = if queue.is_dead_letter_queue { queue.ready } else { queue.dead.unwrap_or_default() };
        if count > 0 {
            let groups = state.asking(survey::survey(&state.app, name, survey::TIME_LIMIT)).await?;
            found.push(
                json!({ "queue": name, "count": count, "groups": groups.groups, "grouped": groups.seen }),
            );
        }
    }
    answer(json!({ "queues": found }))
}

/// The query parameters of [`letters`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LetterFilter {
    task: Option<String>,
    kind: Option<String>,
}

pub(super) async fn letters(
    Shared(state): Shared<Arc<State>>,
    _viewer: Viewer,
    Path(queue): Path<String>,
    Asked(LetterFilter { task, kind }): Asked<LetterFilter>,
) -> Answer {
    let letters = survey::letters(&state.app, &queue, task.as_deref(), kind.as_deref(), MOST);
    let found = state.asking(letters).await?;
    answer(json!({ "letters": found.iter().map(|message| letter(&state, message)).collect::<Vec<_>>() }))
}

pub(super) async fn broker(Shared(state): Shared<Arc<State>>, _viewer: Viewer) -> Answer {
    let snapshot = state.watcher.fresh().await;
    let exchanges = state.asking(inventory::exchanges(&state.app)).await?.found;
    let bindings = state.asking(inventory::bindings(&state.app, None, None)).await?.found;
    let connections = connections::connections(&state.app).await.transpose()?;
    answer(json!({
        "broker": snapshot.broker, "exchanges": exchanges, "bindings": bindings, "connections": connections,
    }))
}

pub(super) async fn activity(Shared(state): Shared<Arc<State>>, _viewer: Viewer) -> Answer {
    answer(json!({ "activity": state.history.audit_trail(1000).await? }))
}

pub(super) async fn act(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    headers: HeaderMap,
    action: Result<Json<Action>, JsonRejection>,
) -> Answer {
    may_act(&viewer, &headers)?;
    let Json(action) = action.map_err(|rejection| Problem(rejection.status(), rejection.body_text()))?;
    let done = act::act(&state, &viewer, action).await?;
    answer(json!({ "done": done }))
}

pub(super) async fn openapi(_viewer: Viewer) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

pub(super) async fn nothing(_viewer: Viewer) -> Problem {
    Problem(StatusCode::NOT_FOUND, "there is no such address; /api/v1/openapi.json lists all".into())
}

/// Checks that a request comes from a program, which has a token, or from one of our own pages.
fn is_own(viewer: &Viewer, headers: &HeaderMap) -> Result<(), Problem> {
    let csrf = headers.get("x-csrf-token").and_then(|token| token.to_str().ok());
    if !viewer.is_own_form(csrf) {
        return Err(Problem(
            StatusCode::FORBIDDEN,
            "send a token, or the header x-csrf-token of the session".into(),
        ));
    }
    Ok(())
}

/// Like [`is_own`], and checks that the viewer may perform actions.
fn may_act(viewer: &Viewer, headers: &HeaderMap) -> Result<(), Problem> {
    is_own(viewer, headers)?;
    if !viewer.may_act() {
        return Err(Problem(
            StatusCode::FORBIDDEN,
            "this needs the role act, and this token has the role view".into(),
        ));
    }
    Ok(())
}

/// Returns a call as JSON without its hidden values.
fn redacted(state: &State, job: &Job) -> Value {
    let mut value = serde_json::to_value(job).unwrap_or_default();
    if state.privacy.hides(job.name.as_deref().unwrap_or_default()) {
        for key in ["args", "kwargs", "result"] {
            if !value[key].is_null() {
                value[key] = HIDDEN.into();
            }
        }
        if let Some(said) = value["reported"].get_mut("description").filter(|said| !said.is_null()) {
            *said = HIDDEN.into();
        }
    }
    value
}

/// Returns a message as JSON without its hidden values.
fn letter(state: &State, message: &Message) -> Value {
    let letter = Letter::of(message);
    let mut value = serde_json::to_value(letter.details()).unwrap_or_default();
    if state.privacy.hides(letter.task().unwrap_or_default()) {
        for key in ["args", "kwargs", "body"] {
            value[key] = HIDDEN.into();
        }
        if let Some(headers) = value["headers"].as_object_mut() {
            headers.retain(|name, _| !matches!(name.as_str(), "argsrepr" | "kwargsrepr"));
        }
    }
    value
}
