//! The form that does something: checked, done, and written down.

use std::sync::Arc;

use axum::extract::{Form, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;

use super::actions::{Action, of_form};
use super::guard::{Via, Viewer};
use super::login::session::Notice;
use super::path;
use super::state::State;
use crate::admin::failure::{Failure, Outcome};
use crate::history::AuditEntry;
use crate::tracing::{info, warn};

/// Does it and writes down who has done what. A browser that goes away meanwhile does not stop it halfway.
pub(crate) async fn act(state: &Arc<State>, viewer: &Viewer, action: Action) -> Outcome<String> {
    let (state, viewer) = (Arc::clone(state), viewer.clone());
    let acting = tokio::spawn(async move { perform(&state, &viewer, &action).await });
    acting.await.unwrap_or_else(|_| Err(Failure::failed("it was interrupted; the log of the page says why")))
}

async fn perform(state: &State, viewer: &Viewer, action: &Action) -> Outcome<String> {
    let outcome = state.asking(action.perform(state)).await;
    let (name, subject) = (action.name(), action.subject());
    let result = match &outcome {
        Ok(done) => done.clone(),
        Err(failure) => failure.clone().in_words().1,
    };
    info!(user = viewer.name, action = name, subject, result, "an action of the management page");
    let subject = match &outcome {
        Ok(_) => subject,
        Err(_) => format!("{subject} (failed: {result})"),
    };
    let entry = AuditEntry { at: Utc::now(), who: viewer.name.clone(), action: name, subject };
    if let Err(error) = state.history.audit(entry).await {
        warn!(error = format!("{error:#}"), "cannot write an action to the audit trail");
    }
    state.watcher.again().await;
    outcome
}

/// `POST /act`
pub(crate) async fn form(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    headers: HeaderMap,
    Form(fields): Form<Vec<(String, String)>>,
) -> Response {
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    if !viewer.is_own_form(field("csrf")) {
        let text = "This form is not from this session: reload the page and try again.";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if !viewer.may_act() {
        let text = "Your role is view: only users with the role act may do this.";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let notice = match of_form(&fields) {
        Ok(action) => match act(&state, &viewer, action).await {
            Ok(done) => Notice::Done(done),
            Err(failure) => Notice::Failed(failure.in_words().1),
        },
        Err(problem) => Notice::Failed(format!("This cannot be done: {problem}")),
    };
    if let Via::Session { key, .. } = &viewer.via {
        state.sessions.leave(key, notice);
    }
    let back = field("back").map(ToOwned::to_owned).or_else(|| came_from(&headers));
    Redirect::to(path::own(back.as_deref().unwrap_or("/"))).into_response()
}

/// The page that the form is on, without its host.
fn came_from(headers: &HeaderMap) -> Option<String> {
    let referer = headers.get(header::REFERER)?.to_str().ok()?;
    let (_, rest) = referer.split_once("://")?;
    Some(rest.find('/').map_or("/", |at| &rest[at..]).to_owned())
}
