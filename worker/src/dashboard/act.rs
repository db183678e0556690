//! `POST /act`: checks a form, performs its action and records it in the audit trail.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::actions::{Action, of_form};
use super::guard::{Via, Viewer};
use super::login::session::Notice;
use super::path;
use super::state::State;
use crate::admin::failure::{Failure, Outcome};
use crate::admin::progress::{Counts, Progress};
use crate::history::AuditEntry;
use crate::show::counted;
use crate::tracing::{info, warn};

/// How long a browser waits for a slow action before it gets an interim notice.
const NOTICE_AFTER: Duration = Duration::from_secs(5);

/// Performs an action and records who did it in the audit trail.
pub(crate) async fn act(state: &Arc<State>, viewer: &Viewer, action: Action) -> Outcome<String> {
    begin(state, viewer, action).outcome().await
}

/// A running action in its own task, so that a closed browser does not cancel it halfway.
struct RunningAction {
    progress: Arc<Progress>,
    task: JoinHandle<Outcome<String>>,
}

fn begin(state: &Arc<State>, viewer: &Viewer, action: Action) -> RunningAction {
    let (state, viewer) = (Arc::clone(state), viewer.clone());
    let progress = Arc::new(Progress::until(&state.stop));
    let shared = Arc::clone(&progress);
    let task = tokio::spawn(async move { perform(&state, &viewer, &action, &shared).await });
    RunningAction { progress, task }
}

impl RunningAction {
    async fn outcome(&mut self) -> Outcome<String> {
        let interrupted = |_| Err(Failure::failed("it was interrupted; the log of the page says why"));
        (&mut self.task).await.unwrap_or_else(interrupted)
    }

    /// Returns the outcome as a notice, or the progress if it takes long; a later page then shows the outcome.
    async fn notice(mut self, state: &Arc<State>, viewer: &Viewer) -> Notice {
        if let Ok(outcome) = timeout(NOTICE_AFTER, self.outcome()).await {
            return notice(outcome);
        }
        let Counts { total, seen, done } = self.progress.counts();
        if let Via::Session { key, .. } = &viewer.via {
            let (state, key) = (Arc::clone(state), key.clone());
            // This task ends with the action.
            tokio::spawn(async move { state.sessions.leave(&key, notice(self.outcome().await)) });
        }
        let so_far = match total {
            0 => String::new(),
            _ => format!(" So far {done} done, {seen} of {} looked at.", counted(total, "message")),
        };
        let later = "A page that you open when it has ended shows its outcome; so does Activity.";
        Notice::StillRunning(format!("This takes a while and goes on.{so_far} {later}"))
    }
}

fn notice(outcome: Outcome<String>) -> Notice {
    match outcome {
        Ok(done) => Notice::Done(done),
        Err(failure) => Notice::Failed(failure.into_parts().1),
    }
}

async fn perform(
    state: &State,
    viewer: &Viewer,
    action: &Action,
    progress: &Arc<Progress>,
) -> Outcome<String> {
    let outcome = state.asking(action.perform(state, progress)).await;
    let (name, subject) = (action.name(), action.subject());
    let result = match &outcome {
        Ok(done) => done.clone(),
        Err(failure) => failure.clone().into_parts().1,
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
        Ok(action) => begin(&state, &viewer, action).notice(&state, &viewer).await,
        Err(problem) => Notice::Failed(format!("This cannot be done: {problem}")),
    };
    if let Via::Session { key, .. } = &viewer.via {
        state.sessions.leave(key, notice);
    }
    let back = field("back").map(ToOwned::to_owned).or_else(|| came_from(&headers));
    Redirect::to(path::own(back.as_deref().unwrap_or("/"))).into_response()
}

/// Returns the path of the page that holds the form, from the `Referer` header.
fn came_from(headers: &HeaderMap) -> Option<String> {
    let referer = headers.get(header::REFERER)?.to_str().ok()?;
    let (_, rest) = referer.split_once("://")?;
    Some(rest.find('/').map_or("/", |at| &rest[at..]).to_owned())
}
