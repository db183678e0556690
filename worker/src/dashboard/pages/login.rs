//! Logging in and out.

use std::sync::Arc;

use axum::extract::{ConnectInfo, Form, Query, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{CsrfForm, bare};
use crate::app::config::dashboard::DashboardRole;
use crate::dashboard::guard::{COOKIE, Via, Viewer, set_cookie};
use crate::dashboard::login::access::LoginError;
use crate::dashboard::path;
use crate::dashboard::state::State;
use crate::tracing::{info, warn};

/// The query parameters of the login page; `next` is the page to go to afterwards.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    next: String,
    /// The key of the login link.
    key: Option<String>,
}

/// Name and password.
#[derive(Deserialize)]
pub(crate) struct Credentials {
    name: String,
    password: String,
    #[serde(default)]
    next: String,
}

/// `GET /login`
pub(crate) async fn show(Shared(state): Shared<Arc<State>>, Query(asked): Query<Asked>) -> Response {
    let Some(key) = asked.key else { return form(&state, &asked.next, "", None).into_response() };
    if !state.access.use_link(&key) {
        let why = "This login link has been used already. The newest one is in the log of mq-worker.";
        return (StatusCode::FORBIDDEN, form(&state, "", "", Some(why))).into_response();
    }
    info!(link = state.login_link().unwrap_or_default(), "logged in with the link; the next one is");
    welcome(&state, "operator", DashboardRole::Act, "/")
}

/// `POST /login`
pub(crate) async fn log_in(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>,
    headers: HeaderMap,
    Form(credentials): Form<Credentials>,
) -> Response {
    // Another site must not log a browser in as a different user.
    let from_elsewhere = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if from_elsewhere {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Credentials { name, password, next } = credentials;
    match state.access.log_in(&name, &password, peer.ip()).await {
        Ok(role) => {
            info!(user = name, "logged in to the management page");
            welcome(&state, &name, role, path::own(&next))
        }
        Err(LoginError::Wrong) => {
            warn!(user = name, from = %peer.ip(), "refused a login to the management page");
            let page = form(&state, &next, &name, Some("Name or password is wrong."));
            (StatusCode::UNAUTHORIZED, page).into_response()
        }
        Err(LoginError::Wait(wait)) => {
            let seconds = wait.as_secs() + 1;
            let why = format!("Too many wrong attempts. Try again in {seconds} s.");
            let page = form(&state, &next, &name, Some(&why));
            let mut response = (StatusCode::TOO_MANY_REQUESTS, page).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            response
        }
    }
}

/// `POST /logout`
pub(crate) async fn log_out(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Form(form): Form<CsrfForm>,
) -> Response {
    if !viewer.is_own_form(form.csrf.as_deref()) {
        return StatusCode::FORBIDDEN.into_response();
    }
    if let Via::Session { key, .. } = &viewer.via {
        state.sessions.end(key);
    }
    let mut response = Redirect::to("/login").into_response();
    let gone = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax");
    let gone = HeaderValue::try_from(gone).expect("the text is a header");
    response.headers_mut().append(header::SET_COOKIE, gone);
    response
}

fn welcome(state: &State, name: &str, role: DashboardRole, next: &str) -> Response {
    let key = state.sessions.begin(name, role);
    let mut response = Redirect::to(path::own(next)).into_response();
    response.headers_mut().append(header::SET_COOKIE, set_cookie(state, &key));
    response
}

fn form(state: &State, next: &str, name: &str, problem: Option<&str>) -> Markup {
    bare(
        "Log in",
        &html! {
            div.card {
                h1 { "mq-worker" }
                @if let Some(problem) = problem { p.notice.bad role="alert" { (problem) } }
                @if state.access.has_passwords() {
                    form method="post" action="/login" {
                        input type="hidden" name="next" value=(path::own(next));
                        label { "Name" input name="name" value=(name) autocomplete="username" required autofocus[name.is_empty()]; }
                        label {
                            "Password"
                            input name="password" type="password" autocomplete="current-password" required autofocus[!name.is_empty()];
                        }
                        button.primary type="submit" { "Log in" }
                    }
                } @else {
                    p { "Open the login link that mq-worker printed when it started." }
                    p.note { "Users with passwords are added by " span.code { "mq-worker dashboard add-user NAME" } "." }
                }
            }
        },
    )
}
