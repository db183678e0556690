//! The web service. It runs no tasks itself: it sends calls and reads their results.

use std::convert::Infallible;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt};
use mq_worker::{App, JobInfo, State as JobState};
use serde::Serialize;
use serde_json::{Value, json};
use web::{Order, Report, build_report};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = App::global()?;
    let routes = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/reports", post(order))
        .route("/reports/{id}", get(show))
        .route("/reports/{id}/progress", get(follow))
        .with_state(app);
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, routes).await?)
}

/// `POST /reports`: returns as soon as the call is safe in the queue.
async fn order(Json(order): Json<Order>) -> Result<impl IntoResponse, Unavailable> {
    let job = build_report.delay(order).await?;
    let place = format!("/reports/{}", job.id());
    Ok((StatusCode::ACCEPTED, [(LOCATION, place)], Json(json!({ "id": job.id(), "state": "PENDING" }))))
}

/// `GET /reports/ID`: what is known of it now, whichever process took the order.
async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Status>, Unavailable> {
    let job = app.result::<Report>(id).await?;
    Ok(Json(Status::of(&job.info().await?)))
}

/// `GET /reports/ID/progress`: the same as server-sent events, one for each change, up to the end.
async fn follow(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Unavailable> {
    let job = app.result::<Report>(id).await?;
    let events = job.into_updates().map(|update| {
        let event = match update {
            Ok(info) => Event::default().json_data(Status::of(&info)),
            Err(error) => Event::default().event("unavailable").json_data(Unavailable::from(error).json()),
        };
        Ok(event.expect("a status can be written as JSON"))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// What a client sees of a call.
#[derive(Serialize)]
struct Status {
    id: String,
    state: JobState,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Status {
    fn of(info: &JobInfo) -> Self {
        let progress = info.progress().map(|at| json!({ "current": at.current, "total": at.total }));
        Self {
            id: info.id().into(),
            state: info.state().clone(),
            progress,
            result: info.value().filter(|_| *info.state() == JobState::Success),
            error: info.failure().map(|failure| failure.message.clone()),
        }
    }
}

/// The broker or the result backend does not answer. The reason goes to the log; clients need not know it.
struct Unavailable;

impl Unavailable {
    fn json(&self) -> Value {
        json!({ "error": "please try again later" })
    }
}

impl From<mq_worker::Error> for Unavailable {
    fn from(error: mq_worker::Error) -> Self {
        eprintln!("error: {error:#}");
        Self
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, Json(self.json())).into_response()
    }
}
